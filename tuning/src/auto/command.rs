//! Owns the command line of `coati tune auto`, and the run of a search from its first trial to the file it writes.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use coati_bench::{Aim, Goal, Workload, clock, conditions};

use super::goal::{self, Measured};
use super::report::{
    Conditions, HEAD, Outcome, Report, Told as ToldVerdict, Trial, conclusion, ended,
};
use super::search::{End, Rung, Search, Step, TRIALS_LEAST};
use super::space::{Dimension, starts, without_profile};
use super::trial::{SCRATCH, Setup, TrialError};
use crate::command::{Ending, Told};
use crate::profile::{self, Facts, Profile, ReadError};
use crate::progress::Progress;
use crate::scratch::{Folder, FolderError};

/// What a trial takes beyond its seconds, before one is known: the start of a broker, topics, the end.
const TRIAL_BESIDE: f64 = 0.3;

const SIGNALS: [i32; 3] = [
    signal_hook::consts::SIGINT,
    signal_hook::consts::SIGTERM,
    signal_hook::consts::SIGHUP,
];

/// In a data folder of a broker, Coati's or Apache Kafka's.
const OF_A_BROKER: &str = "meta.properties";

#[derive(Debug, Args)]
pub struct AutoArgs {
    /// What the broker is loaded with, as `coati bench run` takes it; its table `tune` says what for
    #[arg(value_name = "WORKLOAD")]
    workload: PathBuf,

    /// A folder on the disk that the broker is to have: each trial's data is written to a fresh folder in it, and removed
    #[arg(long, value_name = "FOLDER")]
    scratch: PathBuf,

    /// What is to get better; in place of what the workload says
    #[arg(long)]
    goal: Option<Goal>,

    /// What it begins with, and what has to be beaten; a broker without a profile when not given
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// How long to search; less when nothing is left to be tried
    #[arg(long, default_value = "10", value_parser = parse_minutes)]
    minutes: f64,

    /// How long each trial measures
    #[arg(long, default_value = "5", value_parser = parse_seconds)]
    seconds: f64,

    /// How many seconds each trial runs before that
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    warm_up: f64,

    /// What may change: start, cores, connections, stay_awake, and the numbers of a core; all of it when not given
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    keys: Vec<String>,

    /// CPU for the load alone, which the broker then has not; without one the two share all of them
    #[arg(long, value_name = "N")]
    bench_cpu: Option<u32>,

    /// A setting of the broker, as `coati start` takes it; repeatable
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    settings: Vec<String>,

    /// Where the profile is written
    #[arg(long, value_name = "FILE", default_value = "profile.toml")]
    output: PathBuf,

    /// Write it also where there is something already
    #[arg(long)]
    overwrite: bool,

    /// Everything, for programs, instead of the table
    #[arg(long)]
    json: bool,
}

/// Why there was no search, or why it came to nothing, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum AutoError {
    #[error("{0}")]
    Workload(String),
    #[error("{}: it does not say what it is for: --goal throughput, p99 or cpu does, or a table [tune] with `goal`", .0.display())]
    NoGoal(PathBuf),
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Profile(#[from] ReadError),
    #[error("--keys {name}: there are {}", all_keys())]
    Key { name: String },
    #[error("--bench-cpu {cpu}: {reason}")]
    BenchCpu { cpu: u32, reason: String },
    #[error("{} is there already: --overwrite replaces it, --output names another", .0.display())]
    Exists(PathBuf),
    #[error("{} is the data folder of a broker: name another folder on that disk", .0.display())]
    DataFolder(PathBuf),
    #[error(
        "{minutes} minutes are {affordable} trials of {seconds:.1} s, and {TRIALS_LEAST} are the fewest that can tell anything: --minutes or --seconds"
    )]
    Time {
        minutes: f64,
        affordable: usize,
        seconds: f64,
    },
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("what it begins with does not work: {0}")]
    First(String),
    #[error("signals: {0}")]
    Signals(io::Error),
    #[error("the path of this program cannot be told: {0}")]
    Program(io::Error),
}

fn all_keys() -> String {
    let names = Dimension::all().into_iter().map(Dimension::name);
    names.collect::<Vec<_>>().join(", ")
}

fn between(text: &str, least: f64, most: f64) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    let number = number.filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("it is a number from {least} to {most}"))
}

fn parse_minutes(text: &str) -> Result<f64, String> {
    between(text, 0.05, 24.0 * 60.0)
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    between(text, 0.1, 600.0)
}

/// What was decided before the first trial.
struct Plan {
    workload: Workload,
    aim: Aim,
    facts: Facts,
    first: Profile,
    dimensions: Vec<Dimension>,
}

impl AutoArgs {
    /// It prints trials as they come; what is told at the end is for stdout.
    pub fn run(self) -> Result<Told, AutoError> {
        let plan = self.plan()?;
        let (folder, leftovers) = Folder::make(&SCRATCH, &self.scratch)?;
        if let Some(leftovers) = leftovers {
            let freed = leftovers.bytes >> 20;
            eprintln!(
                "coati: what a search that was killed had left there ({freed} MiB) is removed"
            );
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            signal_hook::flag::register(signal, interrupted.clone()).map_err(AutoError::Signals)?;
        }
        let setup = Setup {
            program: std::env::current_exe().map_err(AutoError::Program)?,
            workload: self.workload.clone(),
            seconds: self.seconds,
            warm_up: self.warm_up,
            bench_cpu: self.bench_cpu,
            settings: self.settings.clone(),
            folder,
            interrupted,
        };
        let searched = self.search(&plan, &setup);
        // Before anything else is done that may fail.
        setup.folder.remove()?;
        self.hand_back(&plan, searched)
    }

    fn plan(&self) -> Result<Plan, AutoError> {
        let workload = Workload::load(&self.workload).map_err(AutoError::Workload)?;
        let aim = self.aim(&workload)?;
        if !self.overwrite && self.output.exists() {
            return Err(AutoError::Exists(self.output.clone()));
        }
        if self.scratch.join(OF_A_BROKER).exists() {
            return Err(AutoError::DataFolder(self.scratch.clone()));
        }
        let seconds = self.seconds + self.warm_up + TRIAL_BESIDE;
        let affordable = (self.minutes * 60.0 / seconds) as usize;
        if affordable < TRIALS_LEAST {
            return Err(AutoError::Time {
                minutes: self.minutes,
                affordable,
                seconds,
            });
        }
        let all = Dimension::all();
        let known = |name: &&String| all.iter().any(|one| one.name() == name.as_str());
        if let Some(name) = self.keys.iter().find(|name| !known(name)) {
            return Err(AutoError::Key { name: name.clone() });
        }
        let is_meant = |one: &Dimension| {
            self.keys.is_empty() || self.keys.iter().any(|name| one.name() == name)
        };
        let facts = self.facts()?;
        Ok(Plan {
            first: self.first(&facts)?,
            dimensions: all.into_iter().filter(is_meant).collect(),
            workload,
            aim,
            facts,
        })
    }

    fn aim(&self, workload: &Workload) -> Result<Aim, AutoError> {
        let said = workload.tune;
        let goal = self.goal.or(said.map(|aim| aim.goal));
        let aim = Aim {
            goal: goal.ok_or_else(|| AutoError::NoGoal(self.workload.clone()))?,
            worse: said.map(|aim| aim.worse).unwrap_or_default(),
        };
        let checked = workload.check_aim(&aim);
        checked.map_err(|reason| {
            AutoError::Workload(format!("{}: {reason}", self.workload.display()))
        })?;
        Ok(aim)
    }

    /// Of this machine, without what is the load's.
    fn facts(&self) -> Result<Facts, AutoError> {
        let mut facts = Facts::of_this_machine(&self.scratch);
        let Some(cpu) = self.bench_cpu else {
            return Ok(facts);
        };
        let refused = |reason: String| AutoError::BenchCpu { cpu, reason };
        if !facts.usable.contains(cpu) {
            return Err(refused(format!("this process may run on {}", facts.usable)));
        }
        let own = [cpu].into_iter().collect();
        facts.usable = facts.usable.without(&own);
        for core in &mut facts.physical {
            *core = core.without(&own);
        }
        facts.physical.retain(|core| !core.is_empty());
        match facts.usable.is_empty() {
            true => Err(refused("no other is left for the broker".into())),
            false => Ok(facts),
        }
    }

    fn first(&self, facts: &Facts) -> Result<Profile, AutoError> {
        let Some(path) = &self.profile else {
            return Ok(without_profile(facts));
        };
        Ok(profile::read(path, facts)?)
    }

    fn search(&self, plan: &Plan, setup: &Setup) -> Searched {
        let began = clock::now();
        let all = Duration::from_secs_f64(self.minutes * 60.0);
        let mut searched = Searched {
            started_ms: clock::wall_ms(),
            machine: conditions::Machine::this(),
            trials: Vec::new(),
            verdicts: Vec::new(),
            best: plan.first.clone(),
            changes: Vec::new(),
            end: None,
        };
        let mut search = begin(plan);
        self.show(&format!("{}\n{HEAD}", self.head(plan)));
        loop {
            let elapsed = clock::now() - began;
            let left = all.saturating_sub(elapsed);
            let (point, purpose, change) = match search.next(left) {
                Step::End(end) => {
                    searched.end = Some(end);
                    break;
                }
                Step::Try {
                    point,
                    purpose,
                    change,
                } => (point, purpose, change),
            };
            let number = searched.trials.len() + 1;
            let trial_began = clock::now();
            let result = {
                let mut progress = Progress::new(false);
                let done = elapsed.as_secs_f64() / all.as_secs_f64();
                progress.show(done, left, &format!("trial {number}: {change}"));
                setup.run(&point)
            };
            let result: Result<Measured, String> = match result {
                Err(TrialError::Interrupted) => break,
                Err(TrialError::Failed(reason)) => Err(reason),
                Ok(measured) => Ok(measured),
            };
            let took = clock::now() - trial_began;
            let trial = Trial::new(number, purpose, &change, took.as_secs_f64(), &result);
            self.show(&trial.line());
            searched.trials.push(trial);
            let figures = result.map(|measured| measured.figures(&plan.aim));
            let left = all.saturating_sub(clock::now() - began);
            if let Some(verdict) = search.on_trial(figures, took, left) {
                let told = ToldVerdict::new(&verdict, &plan.aim);
                self.show(&format!("       {}", told.says));
                searched.verdicts.push(told);
            }
        }
        searched.best = search.best().clone();
        searched.changes = search.changes().to_vec();
        searched
    }

    fn head(&self, plan: &Plan) -> String {
        let goal = goal::name(plan.aim.goal);
        let others = goal::in_order(&plan.aim).skip(1).map(|other| {
            let may = goal::plain_percent(plan.aim.worse.of(other));
            format!("{} worse by {may} at most", goal::name(other))
        });
        let others: Vec<String> = others.collect();
        format!(
            "{}: {}\nfor a better {goal}, with {}; trials of {} s, for {} min at most",
            plan.workload.name,
            plan.workload.describe(),
            others.join(" and "),
            self.seconds,
            self.minutes
        )
    }

    /// As it goes; a reader that went away has seen enough.
    fn show(&self, text: &str) {
        if !self.json {
            let _gone = writeln!(io::stdout(), "{text}");
        }
    }

    fn hand_back(&self, plan: &Plan, searched: Searched) -> Result<Told, AutoError> {
        let end = searched.end.as_ref();
        let says = conclusion(&searched.changes, searched.verdicts.last(), end);
        let profile = commented(&searched.best, &says, plan);
        let is_over = matches!(end, Some(End::Tried | End::OutOfTime));
        if is_over {
            write(&self.output, &profile, self.overwrite)?;
        }
        let report = Report {
            conditions: Conditions {
                command: conditions::typed(),
                started_ms: searched.started_ms,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                machine: searched.machine,
                workload: plan.workload.describe(),
                seconds_a_trial: self.seconds,
            },
            aim: plan.aim,
            trials: searched.trials,
            verdicts: searched.verdicts,
            result: Outcome {
                ended: ended(end),
                changes: searched.changes,
                profile,
                says: says.clone(),
            },
        };
        let json = || serde_json::to_string_pretty(&report).expect("no key that is not text");
        let text = match (self.json, &searched.end) {
            (true, _) => json() + "\n",
            // The error says all.
            (false, Some(End::Failed(_))) => String::new(),
            (false, None) => says + "\n",
            (false, Some(End::Tried | End::OutOfTime)) => {
                let path = self.output.display();
                format!("{says}\nuse it: coati start --profile {path}\n")
            }
        };
        Ok(Told {
            text,
            ending: match searched.end {
                None => Ending::Interrupted,
                Some(End::Failed(reason)) => Ending::Failed(AutoError::First(reason).into()),
                Some(End::Tried | End::OutOfTime) => Ending::Well,
            },
        })
    }
}

struct Searched {
    started_ms: i64,
    machine: conditions::Machine,
    trials: Vec<Trial>,
    verdicts: Vec<ToldVerdict>,
    best: Profile,
    changes: Vec<String>,
    /// `None`: a signal ended it.
    end: Option<End>,
}

fn begin(plan: &Plan) -> Search<Profile> {
    let (facts, dimensions) = (plan.facts.clone(), plan.dimensions.clone());
    let starts: Vec<Rung<Profile>> = starts(&plan.first, &facts);
    let count = dimensions.len();
    let ladders = move |best: &Profile, dimension: usize| {
        let dimension: Dimension = dimensions[dimension];
        dimension.ladders(best, &facts, &starts)
    };
    Search::new(
        plan.first.clone(),
        count,
        goal::worse_max(&plan.aim),
        ladders,
    )
}

/// With what it is for above it.
fn commented(profile: &Profile, says: &str, plan: &Plan) -> String {
    let head = format!(
        "Written by `coati tune auto`, for the workload {:?} and a better {}.",
        plan.workload.name,
        goal::name(plan.aim.goal)
    );
    let lines = [head.as_str(), says].join("\n");
    let comments = lines.lines().map(|line| format!("# {line}\n"));
    format!("{}\n{}", comments.collect::<String>(), profile.to_toml())
}

fn write(path: &Path, text: &str, overwrite: bool) -> Result<(), AutoError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(!overwrite);
    options.create(overwrite).truncate(overwrite);
    let opened = options.open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => AutoError::Exists(path.to_owned()),
        _ => AutoError::File {
            path: path.to_owned(),
            error,
        },
    })
}
