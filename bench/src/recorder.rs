//! Owns what a run counts while it goes: volumes and latencies, each second's and all together. Memory grows by one
//! point a second, whatever the load.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::broker::{Process, Usage};
use crate::conditions::MachineTime;
use crate::latency::{Latencies, Summary, round};

/// Records and their bytes, of whole batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    pub records: u64,
    pub bytes: u64,
    pub requests: u64,
}

impl Volume {
    pub fn add(&mut self, other: Volume) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.requests += other.requests;
    }

    fn since(self, earlier: Volume) -> Volume {
        Volume {
            records: self.records - earlier.records,
            bytes: self.bytes - earlier.bytes,
            requests: self.requests - earlier.requests,
        }
    }
}

/// What latency is of: all count from the time that a record was meant to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Until its request was handed to the connection: the generator's own delay, and waiting for a place in flight.
    Publish,
    Acknowledge,
    /// Until a consumer has it.
    EndToEnd,
}

impl Stage {
    pub const ALL: [Stage; 3] = [Stage::Publish, Stage::Acknowledge, Stage::EndToEnd];

    /// As the report's fields are called.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Publish => "publish",
            Stage::Acknowledge => "acknowledge",
            Stage::EndToEnd => "end_to_end",
        }
    }
}

#[derive(Debug, Default)]
struct Track {
    total: Latencies,
    second: Latencies,
}

/// Shared by all that produce and consume in one run.
#[derive(Debug)]
pub struct Recorder {
    /// Only records meant to leave in this time count for latencies.
    measure_from: Cell<Instant>,
    tracks: [RefCell<Track>; Stage::ALL.len()],
    acknowledged: Cell<Volume>,
    received: Cell<Volume>,
    series: RefCell<Vec<Point>>,
    /// See [`Client::idled`](crate::client::Client::idled).
    idled: fn() -> Duration,
}

/// One second of a run.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Point {
    /// When it ended, in seconds from the start of measuring; the warm-up is below zero.
    pub at: f64,
    /// How long it was: a late look makes it longer, and a run need not end on a whole one.
    pub seconds: f64,
    pub acknowledged: Volume,
    pub received: Volume,
    pub publish: Option<Brief>,
    pub acknowledge: Option<Brief>,
    pub end_to_end: Option<Brief>,
    /// Of the broker, when it runs here.
    pub broker_cores: Option<f64>,
    pub broker_resident_mib: Option<f64>,
    pub generator_cores: f64,
}

/// Latencies of one second, in milliseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Brief {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Recorder {
    pub fn new(measure_from: Instant, idled: fn() -> Duration) -> Recorder {
        Recorder {
            measure_from: Cell::new(measure_from),
            tracks: Default::default(),
            acknowledged: Cell::default(),
            received: Cell::default(),
            series: RefCell::default(),
            idled,
        }
    }

    /// Measuring is to begin then.
    pub fn start(&self, measure_from: Instant) {
        self.measure_from.set(measure_from);
    }

    pub fn measure_from(&self) -> Instant {
        self.measure_from.get()
    }

    /// Notes records that reached a stage together.
    pub fn reached(&self, stage: Stage, now: Instant, intended: impl IntoIterator<Item = Instant>) {
        let mut track = self.tracks[stage as usize].borrow_mut();
        let measure_from = self.measure_from.get();
        for intended in intended {
            let latency = now.saturating_duration_since(intended);
            track.second.record(latency);
            if intended >= measure_from {
                track.total.record(latency);
            }
        }
    }

    pub fn acknowledged(&self, volume: Volume) {
        let mut sum = self.acknowledged.get();
        sum.add(volume);
        self.acknowledged.set(sum);
    }

    pub fn received(&self, volume: Volume) {
        let mut sum = self.received.get();
        sum.add(volume);
        self.received.set(sum);
    }

    pub fn volumes(&self) -> (Volume, Volume) {
        (self.acknowledged.get(), self.received.get())
    }

    /// All of a stage that counts so far.
    pub fn total(&self, stage: Stage) -> Latencies {
        self.tracks[stage as usize].borrow().total.clone()
    }

    pub fn summary(&self, stage: Stage) -> Option<Summary> {
        self.tracks[stage as usize].borrow().total.summary()
    }

    pub fn take_series(&self) -> Vec<Point> {
        self.series.take()
    }

    /// Ends a second: its point joins the series.
    pub fn end_second(
        &self,
        now: Instant,
        previous: &mut Sample,
        broker: Option<Process>,
    ) -> Point {
        let current = Sample::take(now, self, broker);
        let seconds = (now - previous.at).as_secs_f64();
        let cores = |cpu: Duration| round(cpu.as_secs_f64() / seconds);
        let origin = self.measure_from.get();
        let at = if now >= origin {
            (now - origin).as_secs_f64()
        } else {
            -(origin - now).as_secs_f64()
        };
        let point = Point {
            at: round(at),
            seconds: round(seconds),
            acknowledged: current.acknowledged.since(previous.acknowledged),
            received: current.received.since(previous.received),
            publish: self.brief(Stage::Publish),
            acknowledge: self.brief(Stage::Acknowledge),
            end_to_end: self.brief(Stage::EndToEnd),
            broker_cores: broker
                .map(|_| cores(current.broker.cpu.saturating_sub(previous.broker.cpu))),
            broker_resident_mib: broker.map(|_| mib(current.broker.resident_bytes)),
            generator_cores: cores(current.worked_since(previous)),
        };
        *previous = current;
        self.series.borrow_mut().push(point.clone());
        point
    }

    fn brief(&self, stage: Stage) -> Option<Brief> {
        let mut track = self.tracks[stage as usize].borrow_mut();
        let second = &mut track.second;
        let brief = (second.count() > 0).then(|| Brief {
            p50: second.percentile_ms(50.0),
            p99: second.percentile_ms(99.0),
            max: second.max_ms(),
        });
        second.clear();
        brief
    }
}

/// Counters at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub at: Instant,
    pub acknowledged: Volume,
    pub received: Volume,
    pub broker: Usage,
    pub own: Usage,
    /// How much of its own CPU time the generator spent on nothing.
    pub idled: Duration,
    pub machine: Option<MachineTime>,
}

impl Sample {
    pub fn take(now: Instant, recorder: &Recorder, broker: Option<Process>) -> Sample {
        let (acknowledged, received) = recorder.volumes();
        Sample {
            at: now,
            acknowledged,
            received,
            broker: broker.map(|broker| broker.usage()).unwrap_or_default(),
            own: Process::own().usage(),
            idled: (recorder.idled)(),
            machine: MachineTime::now(),
        }
    }

    /// CPU time of the generator, without what it idled away.
    pub fn worked_since(&self, earlier: &Sample) -> Duration {
        let used = self.own.cpu.saturating_sub(earlier.own.cpu);
        used.saturating_sub(self.idled.saturating_sub(earlier.idled))
    }

    pub fn volumes_since(&self, earlier: &Sample) -> (Volume, Volume) {
        (
            self.acknowledged.since(earlier.acknowledged),
            self.received.since(earlier.received),
        )
    }
}

pub fn mib(bytes: u64) -> f64 {
    round(bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_counts_for_its_seconds_alone() {
        let start = crate::clock::now();
        let from = start + Duration::from_secs(1);
        let recorder = Recorder::new(from, Duration::default);
        let mut sample = Sample::take(start, &recorder, None);
        recorder.reached(Stage::Acknowledge, from, [start]);
        recorder.acknowledged(Volume {
            records: 1,
            bytes: 10,
            requests: 1,
        });
        let point = recorder.end_second(from, &mut sample, None);
        assert_eq!(point.at, 0.0);
        assert_eq!(point.acknowledged.bytes, 10);
        assert_eq!(point.acknowledge.unwrap().max.round(), 1000.0);
        assert_eq!(recorder.summary(Stage::Acknowledge), None);
        recorder.reached(Stage::Acknowledge, from + Duration::from_millis(5), [from]);
        let later = from + Duration::from_secs(1);
        let point = recorder.end_second(later, &mut sample, None);
        assert_eq!(point.acknowledged, Volume::default());
        assert_eq!(point.acknowledge.unwrap().max.round(), 5.0);
        assert_eq!(recorder.summary(Stage::Acknowledge).unwrap().count, 1);
        assert_eq!(recorder.take_series().len(), 2);
    }
}
