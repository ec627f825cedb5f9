//! Owns the command line of `coati bench`, and the executor that runs live on.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::admin;
use crate::broker::Process;
use crate::catch_up::catch_up;
use crate::client::{Client, Codec, Outcome};
use crate::compare::{self, Measured, Side, Source, Subject};
use crate::conditions;
use crate::explain::Explainer;
use crate::hdr::HdrLog;
use crate::page::page;
use crate::recorder::Point;
use crate::run::{Setting, run};
use crate::search::{Slo, search};
use crate::size::Size;
use crate::workload::{Acks, Keys, Workload};

/// Measure a Kafka-compatible broker with an open-loop load.
///
/// With a rate, latencies count from the time a record was meant to leave, so a broker that stalls cannot hide it. The
/// generator uses one core; keep the broker off it (--cpu here, taskset there), or both are measured at once.
///
/// Ctrl-C ends any run with a report of what was measured until then, and exit code 130.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Produce batches of 64 KiB, as fast as they are acknowledged or at a --rate
    Produce(Flags),
    /// Produce requests of one record of 100 B over 16 connections
    Small(Flags),
    /// Time from when a record was meant to leave until a consumer has it: 20,000 records of 1000 B a second
    E2e(Flags),
    /// Read a topic from its beginning to its end; without --topic, one filled with --backlog-gb
    Consume(Flags),
    /// Several producers and consumers on many partitions: 50,000 records of 1000 B a second over 12
    Mixed(Flags),
    /// As e2e, while 1,000 more connections are open and do nothing
    Connections(Flags),
    /// As e2e, twice: alone, and while a reader goes through --backlog-gb from the beginning
    CatchUp(Flags),
    /// Run a workload file: TOML, or YAML as of OpenMessaging Benchmark
    Run {
        #[arg(value_name = "WORKLOAD")]
        file: PathBuf,
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Run workload files against brokers in turn: medians, ratios to the first and their spread
    ///
    /// A side is NAME=HOST:PORT, or NAME=FOLDER with reports that runs with --json have left there, a file a run;
    /// then nothing is run, and there are no workloads to name.
    Compare {
        #[arg(value_name = "NAME=BROKER|WORKLOAD", required = true)]
        subjects: Vec<Subject>,
        /// Rounds of both
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        #[command(flatten)]
        flags: Box<Flags>,
    },
}

impl Kind {
    fn flags(&self) -> &Flags {
        match self {
            Kind::Produce(flags)
            | Kind::Small(flags)
            | Kind::E2e(flags)
            | Kind::Consume(flags)
            | Kind::Mixed(flags)
            | Kind::Connections(flags)
            | Kind::CatchUp(flags) => flags,
            Kind::Run { flags, .. } | Kind::Compare { flags, .. } => flags,
        }
    }

    /// What is done when no flag says otherwise.
    fn preset(&self) -> Outcome<Workload> {
        let preset = Workload::default();
        Ok(match self {
            Kind::Produce(_) => Workload {
                name: "produce".into(),
                subscriptions_per_topic: 0,
                ..preset
            },
            Kind::Small(_) => Workload {
                name: "small".into(),
                subscriptions_per_topic: 0,
                message_size: Size::Fixed(100),
                batch_bytes: 1,
                producers_per_topic: 16,
                in_flight: 5,
                ..preset
            },
            Kind::E2e(_) => Workload {
                name: "e2e".into(),
                producer_rate: 20_000.0,
                ..preset
            },
            Kind::Consume(flags) => Workload {
                name: "consume".into(),
                producers_per_topic: 0,
                consumer_backlog_gb: if flags.topic.is_some() { 0.0 } else { 1.0 },
                ..preset
            },
            Kind::Mixed(_) => Workload {
                name: "mixed".into(),
                partitions_per_topic: 12,
                producers_per_topic: 4,
                consumer_per_subscription: 3,
                producer_rate: 50_000.0,
                ..preset
            },
            Kind::Connections(_) => Workload {
                name: "connections".into(),
                producer_rate: 20_000.0,
                idle_connections: 1000,
                ..preset
            },
            Kind::CatchUp(_) => Workload {
                name: "catch-up".into(),
                producer_rate: 20_000.0,
                consumer_backlog_gb: 4.0,
                ..preset
            },
            Kind::Run { file, .. } => Workload::load(file)?,
            Kind::Compare { .. } => preset,
        })
    }
}

/// What every workload understands; what is not given, the workload says.
#[derive(Clone, Debug, Args)]
struct Flags {
    /// Broker to ask first
    #[arg(
        long,
        short = 'b',
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:9092"
    )]
    bootstrap: String,

    /// Use this topic, and leave it in place; without, a fresh one is made and removed
    #[arg(long)]
    topic: Option<String>,

    /// Number of topics
    #[arg(long, value_name = "N")]
    topics: Option<u32>,

    /// Partitions of each topic, when it is made
    #[arg(long, value_name = "N")]
    partitions: Option<i32>,

    /// A setting of the topics, such as flush.messages=1; repeatable
    #[arg(long = "topic-config", value_name = "NAME=VALUE")]
    topic_configs: Vec<String>,

    /// Producers a topic, each with a connection of its own
    #[arg(long, alias = "connections", value_name = "N")]
    producers: Option<u32>,

    /// Consumers a topic, which share its partitions
    #[arg(long, value_name = "N")]
    consumers: Option<u32>,

    /// Records a second over all producers; `max` (or 0) as many as are acknowledged
    #[arg(long, value_name = "RECORDS", value_parser = parse_rate)]
    rate: Option<f64>,

    /// With --rate max: find the highest rate that keeps this, such as p99=10ms; each trial lasts --seconds
    #[arg(long, value_name = "PROMISE")]
    slo: Option<Slo>,

    /// Bytes of each record's value: one number, LEAST..MOST with all between equally likely, or @FILE with a size a line
    /// and behind it, if not 1, how often it comes
    #[arg(long, value_name = "BYTES")]
    size: Option<Size>,

    /// Headers of each record...
    #[arg(long, value_name = "N")]
    headers: Option<usize>,

    /// ...and bytes of each of their values
    #[arg(long, value_name = "BYTES")]
    header_size: Option<usize>,

    #[arg(long)]
    acks: Option<Acks>,

    /// Produce idempotently, with acks=all and at most 5 requests in flight
    #[arg(long)]
    idempotent: bool,

    #[arg(long)]
    codec: Option<Codec>,

    /// A batch leaves when it has so many bytes...
    #[arg(long, value_name = "BYTES")]
    batch: Option<usize>,

    /// ...or when its first record has waited so long
    #[arg(long, value_name = "MS")]
    linger: Option<f64>,

    /// Requests that one producer has unacknowledged at most
    #[arg(long, value_name = "N")]
    in_flight: Option<usize>,

    /// Partitions of one leader that a request has batches for at most: those with records leave with the first that is due
    #[arg(long, value_name = "N")]
    partitions_per_request: Option<usize>,

    /// Bytes that one fetch asks for
    #[arg(long, value_name = "BYTES")]
    fetch: Option<i32>,

    /// Which keys the records have
    #[arg(long)]
    keys: Option<Keys>,

    /// Share of each value that does not compress, from 0 to 1
    #[arg(long, value_name = "SHARE")]
    random: Option<f64>,

    /// Cut the values from this file instead of making them up
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,

    /// GB that are in the topics before consumers begin at their start
    #[arg(long, value_name = "GB")]
    backlog_gb: Option<f64>,

    /// Connections that do nothing, beside those that do
    #[arg(long, value_name = "N")]
    idle: Option<u32>,

    /// Check that every record arrives once, in order and unaltered
    #[arg(long)]
    verify: bool,

    /// How long to measure
    #[arg(long)]
    seconds: Option<f64>,

    /// How many seconds to run before that
    #[arg(long, value_name = "SECONDS")]
    warm_up: Option<f64>,

    /// CPU for the generator alone: it stays there and never sleeps, so that nothing is late for having to wake it
    #[arg(long)]
    cpu: Option<usize>,

    /// Process id of the broker, for its CPU and memory; found by its port when it runs here
    #[arg(long, value_name = "PID")]
    broker_pid: Option<u32>,

    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,

    /// Write the report as one page for a browser, with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write each second's latencies as an HdrHistogram log
    #[arg(long, value_name = "FILE")]
    hdr: Option<PathBuf>,

    /// Ask the broker where its time went, and say which stage owned the p99; Coati alone can tell
    #[arg(long)]
    explain: bool,

    /// Address of the broker's admin endpoint, for --explain
    #[arg(long, value_name = "HOST:PORT", default_value = admin::DEFAULT_ADDRESS)]
    admin: String,

    /// Say each second how it goes, also where stderr is no terminal
    #[arg(long)]
    progress: bool,
}

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    AsMeant,
    /// By SIGINT or SIGTERM; what was measured until then has been reported.
    Interrupted,
}

/// The exit code of a command that was interrupted, as shells have it.
pub const INTERRUPTED_EXIT_CODE: u8 = 128 + libc::SIGINT as u8;

impl Flags {
    /// The workload with all that the flags say.
    fn apply(&self, mut workload: Workload) -> Outcome<Workload> {
        fn set<T: Clone>(place: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *place = value.clone();
            }
        }
        set(&mut workload.topics, &self.topics);
        set(&mut workload.partitions_per_topic, &self.partitions);
        set(&mut workload.producers_per_topic, &self.producers);
        if let Some(consumers) = self.consumers {
            workload.consumer_per_subscription = consumers;
            workload.subscriptions_per_topic = workload.subscriptions_per_topic.max(1);
        }
        set(&mut workload.producer_rate, &self.rate);
        set(&mut workload.message_size, &self.size);
        set(&mut workload.headers_per_message, &self.headers);
        set(&mut workload.header_size, &self.header_size);
        set(&mut workload.acks, &self.acks);
        set(&mut workload.codec, &self.codec);
        set(&mut workload.batch_bytes, &self.batch);
        set(&mut workload.linger_ms, &self.linger);
        set(&mut workload.in_flight, &self.in_flight);
        set(
            &mut workload.partitions_per_request,
            &self.partitions_per_request,
        );
        set(&mut workload.fetch_bytes, &self.fetch);
        set(&mut workload.key_distributor, &self.keys);
        set(&mut workload.random_bytes_ratio, &self.random);
        set(&mut workload.consumer_backlog_gb, &self.backlog_gb);
        set(&mut workload.idle_connections, &self.idle);
        workload.topic_configs.extend(self.topic_configs.clone());
        workload.payload_file = self.payload.clone().or(workload.payload_file);
        workload.verify |= self.verify;
        let minutes = |seconds: Option<f64>| seconds.map(|seconds| seconds / 60.0);
        set(&mut workload.test_duration_minutes, &minutes(self.seconds));
        set(
            &mut workload.warmup_duration_minutes,
            &minutes(self.warm_up),
        );
        if self.idempotent {
            workload.idempotent = true;
            workload.acks = self.acks.unwrap_or(Acks::All);
            workload.in_flight = self.in_flight.unwrap_or(workload.in_flight.min(5));
        }
        workload.check()?;
        Ok(workload)
    }

    fn setting(&self) -> Outcome<Setting> {
        let hdr = self.hdr.as_ref();
        let hdr = hdr.map(|path| HdrLog::create(path, &conditions::typed()));
        Ok(Setting {
            topic: self.topic.clone(),
            address: self.bootstrap.clone(),
            broker: self.broker(),
            stop: stop_on_signal()?,
            catch_up: None,
            progress: progress_line(self.progress),
            hdr: RefCell::new(hdr.transpose()?),
            explainer: None,
        })
    }

    /// Hands back what was measured, in every form that was asked for, also when it means a failure.
    fn report(&self, report: &(impl Serialize + Display), fault: Option<String>) -> Outcome<()> {
        let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
        if self.json {
            println!("{json}");
        } else {
            print!("{report}");
        }
        if let Some(path) = &self.html {
            let json = serde_json::to_string(report).map_err(|error| error.to_string())?;
            std::fs::write(path, page(&json))
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        fault.map_or(Ok(()), Err)
    }

    fn broker(&self) -> Option<Process> {
        let port = || self.bootstrap.rsplit_once(':')?.1.parse().ok();
        match self.broker_pid {
            Some(id) => Some(Process::with_id(id)),
            None => Process::listening_on(port()?),
        }
    }
}

/// What the names of the generator's threads begin with.
pub const EXECUTOR_NAME: &str = "bench";

impl BenchArgs {
    /// Runs what was asked for and prints its report. `prepare` runs on the executor, and its result makes a client of
    /// the cluster at an address.
    pub fn run<C: Client, M: Fn(&str) -> C>(
        self,
        prepare: impl FnOnce() -> M + Send + 'static,
    ) -> Outcome<Ended> {
        let cpu = self.kind.flags().cpu;
        let placement = cpu.map_or(glommio::Placement::Unbound, glommio::Placement::Fixed);
        // The thread that watches for Ctrl-C must be the only one to get it.
        glommio::signal::block(&[libc::SIGINT, libc::SIGTERM])
            .map_err(|error| error.to_string())?;
        let executor = glommio::LocalExecutorBuilder::new(placement)
            .name(EXECUTOR_NAME)
            .spawn(move || async move {
                let connect = prepare();
                if cpu.is_some() {
                    C::stay_awake();
                }
                match &self.kind {
                    Kind::Compare { .. } => self.compare(connect).await,
                    _ => self.measure(connect(&self.kind.flags().bootstrap)).await,
                }
            });
        executor
            .and_then(|executor| executor.join())
            .map_err(|error| error.to_string())?
    }

    async fn compare<C: Client>(&self, connect: impl Fn(&str) -> C) -> Outcome<Ended> {
        let Kind::Compare {
            subjects,
            rounds,
            flags,
        } = &self.kind
        else {
            return Ok(Ended::AsMeant);
        };
        if flags.explain {
            return Err("--explain is of one broker: it does not go with compare".into());
        }
        let (mut sides, mut workloads) = (Vec::new(), Vec::new());
        for subject in subjects {
            match subject {
                Subject::Side(side) => sides.push(side),
                Subject::Workload(file) => workloads.push(flags.apply(Workload::load(file)?)?),
            }
        }
        if sides.len() < 2 {
            return Err("to compare needs two sides, as in a=HOST:PORT b=HOST:PORT".into());
        }
        let mut ended = Ended::AsMeant;
        let compared = if let Some(folders) = each(&sides, recorded_in) {
            if !workloads.is_empty() {
                return Err("recorded reports are compared whole: name no workloads".into());
            }
            compare::recorded(&folders)?
        } else if let Some(addresses) = each(&sides, address_of) {
            if workloads.is_empty() {
                return Err("name a workload to run, such as bench/workloads/NAME".into());
            }
            let measured = addresses.into_iter().map(|(side, address)| Measured {
                side,
                address,
                client: connect(address),
            });
            let measured: Vec<Measured<'_, C>> = measured.collect();
            let setting = &mut flags.setting()?;
            let compared = compare::measure(&measured, &workloads, *rounds, setting).await?;
            ended = setting.ended();
            compared
        } else {
            return Err("compare either brokers or recorded reports, not both at once".into());
        };
        flags.report(&compared, compared.fault())?;
        Ok(ended)
    }

    async fn measure<C: Client>(&self, client: C) -> Outcome<Ended> {
        let flags = self.kind.flags();
        let workload = flags.apply(self.kind.preset()?)?;
        let mut setting = flags.setting()?;
        if flags.explain {
            setting.explainer = Some(Explainer::connect(&flags.admin).await?);
        }
        if let Kind::CatchUp(_) = self.kind {
            let both = catch_up(&client, &workload, &mut setting).await?;
            flags.report(&both, both.fault())?;
        } else if let Some(slo) = flags.slo {
            if workload.producer_rate > 0.0 {
                return Err("--slo finds a rate: give --rate max with it".into());
            }
            let found = search(&client, &workload, slo, &setting).await?;
            flags.report(&found, found.fault())?;
        } else {
            let report = run(&client, &workload, &setting).await?;
            flags.report(&report, report.fault())?;
        }
        Ok(setting.ended())
    }
}

/// What each side has of one kind; `None` unless all do.
fn each<'a, T: ?Sized>(
    sides: &[&'a Side],
    part: fn(&'a Side) -> Option<&'a T>,
) -> Option<Vec<(&'a Side, &'a T)>> {
    sides
        .iter()
        .map(|side| Some((*side, part(side)?)))
        .collect()
}

fn address_of(side: &Side) -> Option<&str> {
    match &side.source {
        Source::Address(address) => Some(address),
        Source::Recorded(_) => None,
    }
}

fn recorded_in(side: &Side) -> Option<&Path> {
    match &side.source {
        Source::Address(_) => None,
        Source::Recorded(folder) => Some(folder),
    }
}

/// A number of records a second, or `max`, which 0 stands for.
fn parse_rate(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(0.0);
    }
    let rate: Option<f64> = text.parse().ok();
    let rate = rate.filter(|rate| rate.is_finite() && *rate >= 0.0);
    rate.ok_or_else(|| "a rate is a number of records a second, or max".into())
}

/// Becomes true when SIGINT or SIGTERM comes. Another one ends the process at once.
fn stop_on_signal() -> Outcome<Rc<Cell<bool>>> {
    let signals = glommio::signal::Signals::new(&[libc::SIGINT, libc::SIGTERM])
        .map_err(|error| error.to_string())?;
    let stop = Rc::new(Cell::new(false));
    let stopping = Rc::clone(&stop);
    glommio::spawn_local(async move {
        if signals.recv().await.is_ok() {
            stopping.set(true);
        }
        if signals.recv().await.is_ok() {
            std::process::exit(i32::from(INTERRUPTED_EXIT_CODE));
        }
    })
    .detach();
    Ok(stop)
}

/// One line that says each second how it goes, where somebody is looking.
fn progress_line(always: bool) -> Box<dyn Fn(&Point)> {
    if !always && !std::io::stderr().is_terminal() {
        return Box::new(|_| {});
    }
    Box::new(|point| {
        let latency = point.end_to_end.or(point.acknowledge);
        let latency = latency.map_or(String::new(), |latency| {
            format!(
                "  p50 {:.2}  p99 {:.2}  max {:.2} ms",
                latency.p50, latency.p99, latency.max
            )
        });
        eprintln!(
            "{:>6.0} s  in {:>7.1} MB/s  out {:>7.1} MB/s{latency}",
            point.at,
            point.acknowledged.bytes as f64 / 1e6 / point.seconds,
            point.received.bytes as f64 / 1e6 / point.seconds,
        );
    })
}
