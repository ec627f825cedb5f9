//! Owns the command line of `coati tune`: what people type, what they read, how it exits.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};

use crate::apply::{self, Outcome, Step, Undone};
use crate::auto::{AutoArgs, AutoError};
use crate::disk::{DiskArgs, DiskError};
use crate::machine::{Machine, RingFeatures};
use crate::profile::{self, Facts, ProfileArgs, ProfileCommandError, ReadError};
use crate::report::Report;
use crate::root::Root;
use crate::state::{self, StateError};
use crate::systemd::Unit;
use crate::tuner::{Row, Tuner, Verdict};
use crate::tuners;
use crate::watch::{Seen, WatchArgs, WatchError};

const WARNING_EXIT_CODE: u8 = 3;
const CRITICAL_EXIT_CODE: u8 = 4;

/// Check and set what this machine needs for throughput, measure its disk, write a broker's profile, and watch it.
///
/// `check` shows what a server needs, what this one has, what it costs to leave it, and the fix; it changes nothing.
/// `apply` writes what can be written, to /proc and /sys alone, and keeps the values that were there; `undo` brings
/// them back. A restart of the machine forgets them, too; `systemd` prints units that apply them before the broker starts.
/// `disk` measures what a disk gives the broker; `profile` writes what each core of a broker is for, `auto` searches a better one for a workload; `watch`
/// shows live what they do.
#[derive(Debug, Args)]
pub struct TuneArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Show what this machine has and what it should have
    ///
    /// Exits 0 when nothing is worse than a hint, 3 when something costs throughput or latency (warning), 4 when the broker
    /// would not run or not keep its promises (critical). An entry that cannot be read is `unknown`, and no failure.
    Check(CheckArgs),
    /// Write what can be written, after keeping the values that are there
    ///
    /// Without a name: of every tuner that warns. Those that only hint are applied when they are named. A value that is
    /// right already is not written; one that was kept before is not kept again.
    Apply(ApplyArgs),
    /// Bring back every value that apply has kept
    ///
    /// A value that somebody has changed since apply is left, and told.
    Undo(UndoArgs),
    /// Measure a disk as the broker uses it, and say what that means for acks=all
    ///
    /// Direct appends of 4 KiB to 1 MiB, up to 16 at a time, into files that grow, are allocated or are zeroed, with and without
    /// fdatasync; appends to stable storage as the broker's journal and segments do them; cold reads; both at once. It loads the
    /// disk with all it takes and writes as much as it can, in a fresh folder DIR/coati-tune-disk of at most --size bytes, which
    /// it removes at the end, on errors and on SIGINT and SIGTERM; what a killed run has left there the next one removes. Nothing
    /// else in DIR is touched. A first look at a disk is short of its truth: many are faster for their first gigabytes.
    Disk(DiskArgs),
    /// Write a profile: what each core of the broker is for, and how much it may take
    ///
    /// It is chosen from this machine (CPUs, their siblings and memory nodes, a CPU quota, memory, interrupts) and, with --disk, from
    /// the figures of `coati tune disk`. Each choice is explained in the file, which `coati start --profile FILE` uses; an existing one
    /// is never overwritten. It changes nothing else.
    Profile(ProfileArgs),
    /// Search a better profile for a workload, by trying
    ///
    /// Starts this program as a broker on an empty folder and loads it with the workload, for some seconds a trial, and changes
    /// one thing of the profile after the other. Trials of the best and of a candidate alternate; what equal profiles differ by is
    /// the noise. A candidate is kept if the median of what it gains is more than that and nothing else gets much worse, and at the
    /// end what was found has to win once more against what it began with. The data of each trial is removed, also on SIGINT and
    /// SIGTERM; a trial writes as much as its load makes.
    Auto(AutoArgs),
    /// Show live what each core of a broker does
    ///
    /// Utilisation by stage, MB/s, requests and what they take, queues, who held a core for over a millisecond, and the busiest
    /// partitions, clients and groups, asked of the broker's admin endpoint each second; a browser shows the same at
    /// http://HOST:PORT/. Keys: q quits, Tab or 1 to 7 choose a list, s what partitions are sorted by, / finds, arrows scroll.
    Watch(WatchArgs),
    /// Print a systemd unit with the limits that the broker needs, and a drop-in that applies tuners before it starts
    Systemd(SystemdArgs),
}

#[derive(Debug, Args)]
struct Looking {
    /// Data folder of the broker: its file system and device are looked at; it need not be there yet
    #[arg(long, value_name = "FOLDER", default_value = "./coati-data")]
    data_dir: PathBuf,

    /// As `coati start` is given; all CPUs that this process may use when not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,

    /// As `coati start` is given: its cores count, and interrupts go where it wants them
    #[arg(long, value_name = "FILE", conflicts_with = "cores")]
    profile: Option<PathBuf>,

    /// Where /proc and /sys are: a container may have the host's below another folder
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// Tuners to show, with all explanations; all of them when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Everything, for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    looking: Looking,
}

#[derive(Debug, Args)]
struct Keeping {
    /// Where the values are kept that were there before
    #[arg(long, value_name = "FILE", default_value = state::DEFAULT_PATH)]
    state: PathBuf,

    /// Print what would be written where, and write nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// Tuners to apply, as `coati tune check` names them
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    #[command(flatten)]
    keeping: Keeping,

    #[command(flatten)]
    looking: Looking,
}

#[derive(Debug, Args)]
struct UndoArgs {
    /// Also bring back values that somebody has changed since
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    keeping: Keeping,

    /// Where /proc and /sys are, as it was given to apply
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Part {
    /// coati.service
    Unit,
    /// coati.service.d/tune.conf
    DropIn,
}

#[derive(Debug, Args)]
struct SystemdArgs {
    /// Tuners that the drop-in applies; those that warn, when none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Only this one
    #[arg(long, value_name = "PART")]
    part: Option<Part>,

    /// User that the broker runs as
    #[arg(long, default_value = "coati")]
    user: String,

    /// Data folder of the broker
    #[arg(long, value_name = "FOLDER", default_value = "/var/lib/coati/data")]
    data_dir: PathBuf,

    /// As `coati start` is to be given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,
}

/// Why it did not do what was asked, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    #[error("there is no tuner {name}; there are {}", all_names())]
    Name { name: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Profile(#[from] ProfileCommandError),
    #[error(transparent)]
    NoProfile(#[from] ReadError),
    #[error(transparent)]
    Watch(#[from] WatchError),
    #[error(transparent)]
    Auto(#[from] AutoError),
    #[error("the executor: {0}")]
    Executor(String),
    #[error("{0} entries could not be written; what was written is kept for `coati tune undo`")]
    Failed(usize),
    #[error("{0} entries could not be brought back; they stay in the state file")]
    NotBack(usize),
    #[error(
        "{0} entries were changed since they were applied, and left; --force brings them back, too"
    )]
    Left(usize),
    #[error("the path of this program cannot be told: {0}")]
    Program(std::io::Error),
}

/// What was done, for stdout, and how that ended.
#[derive(Debug)]
pub struct Told {
    pub text: String,
    pub ending: Ending,
}

#[derive(Debug)]
pub enum Ending {
    Well,
    /// A check found something so bad that the process exits with this.
    Found(u8),
    /// By a signal.
    Interrupted,
    /// Some of it was not done.
    Failed(TuneError),
}

fn all_names() -> String {
    let names = tuners::all().map(|tuner| tuner.name);
    names.collect::<Vec<_>>().join(", ")
}

fn named(names: &[String]) -> Result<Vec<&'static Tuner>, TuneError> {
    if let Some(name) = names
        .iter()
        .find(|name| tuners::all().all(|tuner| tuner.name != **name))
    {
        return Err(TuneError::Name { name: name.clone() });
    }
    let is_meant =
        |tuner: &&Tuner| names.is_empty() || names.iter().any(|name| tuner.name == *name);
    Ok(tuners::all().filter(is_meant).collect())
}

impl TuneArgs {
    /// `ring` asks the kernel that runs what its io_uring has; it is asked only when that is of interest. `on_disk` runs a
    /// measurement on an executor, with a disk.
    pub fn run(
        self,
        ring: impl FnOnce() -> RingFeatures,
        on_disk: impl FnOnce(DiskArgs) -> Result<Told, TuneError>,
    ) -> Result<Told, TuneError> {
        match self.kind {
            Kind::Check(args) => args.run(ring),
            Kind::Apply(args) => args.run(),
            Kind::Undo(args) => args.run(),
            Kind::Disk(args) => on_disk(args),
            Kind::Profile(args) => Ok(Told::with(args.run()?, None)),
            Kind::Auto(args) => Ok(args.run()?),
            Kind::Watch(args) => Ok(match args.run()? {
                Seen::Text(text) => Told::with(text, None),
                Seen::Interrupted => Told {
                    text: String::new(),
                    ending: Ending::Interrupted,
                },
            }),
            Kind::Systemd(args) => args.run(),
        }
    }
}

impl Looking {
    fn look(&self, ring: impl FnOnce() -> RingFeatures) -> Result<Machine, TuneError> {
        let root = Root::new(&self.root);
        let ring = root.is_this_machine().then(ring);
        let machine = Machine::look(root, &self.data_dir, self.cores.map(usize::from), ring);
        match &self.profile {
            Some(path) => {
                let profile = profile::read(path, &Facts::of(&machine))?;
                Ok(machine.with_profile(&profile))
            }
            None => Ok(machine),
        }
    }
}

impl CheckArgs {
    fn run(self, ring: impl FnOnce() -> RingFeatures) -> Result<Told, TuneError> {
        let tuners = named(&self.names)?;
        let machine = self.looking.look(ring)?;
        let rows = tuners
            .into_iter()
            .map(|tuner| Row::of(tuner, &machine))
            .collect();
        let report = Report::new(&machine, rows, !self.names.is_empty());
        Ok(Told {
            text: match self.json {
                true => {
                    let json = serde_json::to_string_pretty(&report);
                    json.expect("a report has no key that is not text") + "\n"
                }
                false => report.to_string(),
            },
            ending: match report.worst() {
                Verdict::Critical => Ending::Found(CRITICAL_EXIT_CODE),
                Verdict::Warning => Ending::Found(WARNING_EXIT_CODE),
                Verdict::Hint | Verdict::Unknown | Verdict::Good | Verdict::Absent => Ending::Well,
            },
        })
    }
}

impl ApplyArgs {
    fn run(self) -> Result<Told, TuneError> {
        let tuners = named(&self.names)?;
        // No tuner writes anything for what io_uring tells of itself.
        let machine = self.looking.look(|| Ok(Vec::new()))?;
        let rows = tuners.into_iter().map(|tuner| Row::of(tuner, &machine));
        let is_wanted =
            |row: &Row| !self.names.is_empty() || row.finding.verdict >= Verdict::Warning;
        let rows: Vec<Row> = rows.filter(is_wanted).collect();
        let steps = apply::apply(
            &machine.root,
            &rows,
            &self.keeping.state,
            self.keeping.dry_run,
        )?;
        let mut text = shown(&steps);
        for row in &rows {
            let (name, finding) = (row.tuner.name, &row.finding);
            match (&finding.advice, finding.verdict) {
                (_, Verdict::Unknown) => say(&mut text, name, &format!("unknown: {}", finding.has)),
                (Some(advice), _) => say(&mut text, name, &format!("to be done by hand: {advice}")),
                (None, Verdict::Good | Verdict::Absent) => say(
                    &mut text,
                    name,
                    &format!("nothing to write: {}", finding.has),
                ),
                (None, _) => {}
            }
        }
        if text.is_empty() {
            text.push_str("nothing to write: no tuner warns\n");
        }
        let failed = count(&steps, |outcome| matches!(outcome, Outcome::Failed(_)));
        Ok(Told::with(
            text,
            (failed > 0).then_some(TuneError::Failed(failed)),
        ))
    }
}

impl UndoArgs {
    fn run(self) -> Result<Told, TuneError> {
        let root = Root::new(&self.root);
        let path: &Path = &self.keeping.state;
        let undone = apply::undo(&root, path, self.force, self.keeping.dry_run)?;
        let steps = match undone {
            Undone::Nothing => {
                return Ok(Told::with(
                    format!("nothing to undo: there is no {}\n", path.display()),
                    None,
                ));
            }
            Undone::Gone => {
                let text = "nothing to undo: the machine has started anew since, which has forgotten what was applied\n";
                return Ok(Told::with(text.into(), None));
            }
            Undone::Steps(steps) => steps,
        };
        let mut text = shown(&steps);
        if steps.is_empty() {
            text.push_str("nothing to undo: every value is back already\n");
        }
        let foreign = count(&steps, |outcome| *outcome == Outcome::Foreign);
        let failed = count(&steps, |outcome| {
            matches!(outcome, Outcome::Failed(_) | Outcome::Became(_))
        });
        let error = match (failed, foreign) {
            (0, 0) => None,
            (0, foreign) => Some(TuneError::Left(foreign)),
            (failed, _) => Some(TuneError::NotBack(failed)),
        };
        Ok(Told::with(text, error))
    }
}

impl SystemdArgs {
    fn run(self) -> Result<Told, TuneError> {
        named(&self.names)?;
        let program = std::env::current_exe().map_err(TuneError::Program)?;
        let data_dir = std::path::absolute(&self.data_dir).map_err(TuneError::Program)?;
        let tuners: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let unit = Unit {
            program: &program,
            user: &self.user,
            data_dir: &data_dir,
            cores: self.cores.map(usize::from),
            tuners: &tuners,
        };
        let text = match self.part {
            Some(Part::Unit) => unit.service(),
            Some(Part::DropIn) => unit.drop_in(),
            None => format!("{}\n{}", unit.service(), unit.drop_in()),
        };
        Ok(Told::with(text, None))
    }
}

impl Told {
    fn with(text: String, error: Option<TuneError>) -> Told {
        Told {
            text,
            ending: error.map_or(Ending::Well, Ending::Failed),
        }
    }
}

fn say(text: &mut String, name: &str, what: &str) {
    writeln!(text, "{name:<21} {what}").expect("a string takes all");
}

fn count(steps: &[Step], is_counted: impl Fn(&Outcome) -> bool) -> usize {
    steps
        .iter()
        .filter(|step| is_counted(&step.outcome))
        .count()
}

fn shown(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let Step { path, to, .. } = step;
        let from = step.from.as_deref().unwrap_or("nothing that can be read");
        let line = match &step.outcome {
            Outcome::Would => format!("would write {to} to {path}, which has {from}"),
            Outcome::Written => format!("{path}: {from} -> {to}"),
            Outcome::Became(now) => format!("{path}: {from} -> {now} (the kernel's, of {to})"),
            Outcome::Failed(reason) => format!("{path}: {reason}"),
            Outcome::Foreign => format!(
                "{path}: somebody has changed it to {from} since; left, not brought back to {to}"
            ),
        };
        say(&mut text, &step.tuner, &line);
    }
    text
}
