//! Owns what a run hands back: figures that JSON, the table and the page all show alike.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::conditions::Conditions;
use crate::explain::{Explanation, Seen};
use crate::latency::{Summary, round};
use crate::recorder::{Point, Recorder, Sample, Stage, Volume, mib};
use crate::verify::Verdict;
use crate::workload::Workload;

/// A generator that is this busy says little about the broker.
const BOUND_CORES: f64 = 0.9;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub conditions: Conditions,
    pub workload: Workload,
    /// What acks=all means on this broker, in its own words.
    pub flush_mode: String,
    pub seconds: f64,
    /// Ended before its time.
    pub interrupted: bool,
    /// What ended it, when it failed; the figures are of the time until then.
    pub failure: Option<String>,
    pub produced: Option<Flow>,
    pub consumed: Option<Flow>,
    /// Milliseconds from the time that a record was meant to leave.
    pub publish: Option<Summary>,
    pub acknowledge: Option<Summary>,
    pub end_to_end: Option<Summary>,
    /// Without a rate there is no intended time: latencies count from sending, and hide what a stall held back.
    pub open_loop: bool,
    pub broker: Option<BrokerCost>,
    /// Told by who started the broker for this run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Start>,
    pub generator_cores: f64,
    /// The generator was so busy that it may have been the limit.
    pub generator_bound: bool,
    /// Cores that neither the generator nor, where it runs on the same machine, the broker used: other processes, and
    /// the kernel on its own account. `None` where it is not told.
    #[serde(default)]
    pub others_cores: Option<f64>,
    /// Milliseconds for which the host of this virtual machine kept its processors from running, summed over them. A
    /// tail may be the host's.
    #[serde(default)]
    pub stolen_ms: Option<f64>,
    /// Records that consumers had not had long after the last was sent.
    pub unread: u64,
    pub verdict: Option<Verdict>,
    /// Where the broker's time went (`--explain`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
    pub series: Vec<Point>,
}

/// What was moved, of record batches as they are on the wire.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Flow {
    pub total: Volume,
    pub mb_per_second: f64,
    pub records_per_second: f64,
    pub requests_per_second: f64,
}

/// What the broker's process used in the measured time.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct BrokerCost {
    pub cpu_seconds: f64,
    pub cores: f64,
    /// Of all that was produced and consumed.
    pub cpu_seconds_per_gb: f64,
    pub cpu_microseconds_per_request: f64,
    /// At the end.
    pub resident_mib: f64,
    pub disk_written_gb: f64,
    /// Of its disk in the measured time, whichever process asked for them; syncs that come together share one.
    pub disk_flushes: Option<u64>,
}

/// How the broker came up.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Start {
    /// Which broker, and what it was started with.
    pub broker: String,
    /// From the call until it serves.
    pub seconds: f64,
    /// Before it was asked anything.
    pub resident_mib: f64,
}

impl Flow {
    fn of(total: Volume, seconds: f64) -> Option<Flow> {
        (total.records > 0 && seconds > 0.0).then(|| Flow {
            total,
            mb_per_second: round(total.bytes as f64 / 1e6 / seconds),
            records_per_second: round(total.records as f64 / seconds),
            requests_per_second: round(total.requests as f64 / seconds),
        })
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Ending {
    pub verdict: Option<Verdict>,
    pub unread: u64,
    pub interrupted: bool,
    pub failure: Option<String>,
}

impl Report {
    /// Of what happened between two samples.
    pub fn new(
        conditions: Conditions,
        workload: Workload,
        flush_mode: String,
        (first, last): (&Sample, &Sample),
        broker_known: bool,
        recorder: &Recorder,
        ending: Ending,
    ) -> Report {
        let seconds = (last.at - first.at).as_secs_f64();
        let (produced, consumed) = last.volumes_since(first);
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let generator_cores = per_second(last.worked_since(first).as_secs_f64());
        let broker = broker_known.then(|| {
            let cpu = last
                .broker
                .cpu
                .saturating_sub(first.broker.cpu)
                .as_secs_f64();
            let gigabytes = (produced.bytes + consumed.bytes) as f64 / 1e9;
            let requests = produced.requests + consumed.requests;
            let written = last
                .broker
                .written_bytes
                .saturating_sub(first.broker.written_bytes);
            BrokerCost {
                cpu_seconds: round(cpu),
                cores: round(per_second(cpu)),
                cpu_seconds_per_gb: round(cpu / gigabytes.max(1e-9)),
                cpu_microseconds_per_request: round(cpu * 1e6 / requests.max(1) as f64),
                resident_mib: mib(last.broker.resident_bytes),
                disk_written_gb: round(written as f64 / 1e9),
                disk_flushes: first
                    .broker
                    .disk_flushes
                    .zip(last.broker.disk_flushes)
                    .map(|(first, last)| last.saturating_sub(first)),
            }
        });
        let machine = last.machine.zip(first.machine);
        let machine = machine.map(|(last, first)| last.since(first));
        let broker_cores = broker.map_or(0.0, |broker| broker.cores);
        let others_cores = machine.map(|machine| {
            let idled = last.idled.saturating_sub(first.idled);
            let busy = per_second(machine.busy.saturating_sub(idled).as_secs_f64());
            (busy - generator_cores - broker_cores).max(0.0) // Not all is counted at the same moment.
        });
        Report {
            conditions,
            open_loop: workload.producer_rate > 0.0,
            workload,
            flush_mode,
            seconds: round(seconds),
            interrupted: ending.interrupted,
            failure: ending.failure,
            produced: Flow::of(produced, seconds),
            consumed: Flow::of(consumed, seconds),
            publish: recorder.summary(Stage::Publish),
            acknowledge: recorder.summary(Stage::Acknowledge),
            end_to_end: recorder.summary(Stage::EndToEnd),
            broker,
            start: None,
            explanation: None,
            generator_cores: round(generator_cores),
            generator_bound: generator_cores > BOUND_CORES,
            others_cores: others_cores.map(round),
            stolen_ms: machine.map(|machine| round(machine.stolen.as_secs_f64() * 1e3)),
            unread: ending.unread,
            verdict: ending.verdict,
            series: recorder.take_series(),
        }
    }

    /// What an explanation is held against.
    pub fn seen(&self) -> Seen {
        Seen {
            acknowledge_p99_ms: self.acknowledge.as_ref().map(|summary| summary.p99),
            produce_requests: self.produced.map_or(0, |flow| flow.total.requests),
        }
    }

    /// The flush mode in a word or two, to head a column with.
    pub fn short_flush_mode(&self) -> &str {
        let mode = self.flush_mode.split(": ").next().unwrap_or_default();
        mode.strip_prefix("log.flush.policy=").unwrap_or(mode)
    }

    /// What of it means that the run failed.
    pub fn fault(&self) -> Option<String> {
        match &self.verdict {
            _ if self.failure.is_some() => self.failure.clone(),
            Some(verdict) if !verdict.is_clean() => Some(verdict.to_string()),
            _ if self.unread > 0 && !self.interrupted => {
                Some(format!("{} records never arrived", self.unread))
            }
            _ => None,
        }
    }
}

/// The terse table.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}: {}", self.workload.name, self.workload.describe())?;
        writeln!(out, "  flush mode    {}", self.flush_mode)?;
        for (name, flow) in [("produced", &self.produced), ("consumed", &self.consumed)] {
            if let Some(flow) = flow {
                writeln!(
                    out,
                    "  {name:<13} {:>9.1} MB/s {:>10.0} records/s {:>9.0} requests/s  over {:.1} s",
                    flow.mb_per_second,
                    flow.records_per_second,
                    flow.requests_per_second,
                    self.seconds
                )?;
            }
        }
        if let Some(broker) = &self.broker {
            writeln!(
                out,
                "  broker        {:>9.2} CPU s/GB {:>6.2} cores {:>8.1} us/request {:>8.1} MiB resident {:>7.2} GB written{}",
                broker.cpu_seconds_per_gb,
                broker.cores,
                broker.cpu_microseconds_per_request,
                broker.resident_mib,
                broker.disk_written_gb,
                broker
                    .disk_flushes
                    .map_or(String::new(), |flushes| format!(", {flushes} disk flushes")),
            )?;
        }
        writeln!(
            out,
            "  generator     {:>9.2} cores{}",
            self.generator_cores,
            if self.generator_bound {
                "; it may have been the limit"
            } else {
                ""
            }
        )?;
        if let (Some(others), Some(stolen)) = (self.others_cores, self.stolen_ms) {
            writeln!(
                out,
                "  machine       {others:>9.2} cores for others and the kernel, {stolen:.0} ms taken by its host"
            )?;
        }
        let stages = [
            ("publish", &self.publish),
            ("acknowledge", &self.acknowledge),
            ("end to end", &self.end_to_end),
        ];
        for (name, summary) in stages {
            if let Some(summary) = summary {
                writeln!(
                    out,
                    "  {name:<13} p50 {:>8.3}  p90 {:>8.3}  p99 {:>8.3}  p99.9 {:>8.3}  max {:>8.3} ms",
                    summary.p50, summary.p90, summary.p99, summary.p99_9, summary.max,
                )?;
            }
        }
        if self.acknowledge.is_some() && !self.open_loop {
            writeln!(
                out,
                "  closed loop: these latencies count from sending; give a --rate for honest ones"
            )?;
        }
        if let Some(explanation) = &self.explanation {
            write!(out, "{explanation}")?;
        }
        if let Some(verdict) = &self.verdict {
            writeln!(out, "  verified      {verdict}")?;
        }
        if self.interrupted {
            writeln!(out, "  interrupted: this is what was measured until then")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(
                out,
                "  failed: {failure}; this is what was measured until then"
            )?;
        }
        Ok(())
    }
}
