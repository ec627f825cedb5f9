//! Owns where each core's time goes: how long every stage of a request took, how long each task held its core, and
//! who held it too long. All of it is counted by the core itself in plain cells and read by nobody else: whoever
//! wants to know asks the core for a `Sample`. It decides nothing and never waits.
//!
//! What it costs is bounded: `timing` times no more requests a second than it may, and counts the others.

pub mod histogram;
pub mod tasks;
pub mod timing;
pub mod window;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use zerocopy::FromZeros;

use crate::io::clock::{self, Ticks};
use histogram::{Distribution, Histogram};
use tasks::{TaskSample, Tasks};
use timing::{Pace, Slow, SlowSample};

/// What a request goes through, and what lies beneath. Those up to `Respond` follow each other and are all of
/// a request's time in the broker; the others are parts of them, or no request's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Stage {
    Queue,
    Decode,
    CrossCore,
    Append,
    Commit,
    Fetch,
    Handle,
    Respond,
    Read,
    Wait,
    Journal,
    Reserve,
    Write,
    Sync,
    ColdRead,
}

/// The stages that a request's time consists of.
pub const WAY: usize = Stage::Respond as usize + 1;

impl Stage {
    pub const ALL: [Stage; 15] = [
        Stage::Queue,
        Stage::Decode,
        Stage::CrossCore,
        Stage::Append,
        Stage::Commit,
        Stage::Fetch,
        Stage::Handle,
        Stage::Respond,
        Stage::Read,
        Stage::Wait,
        Stage::Journal,
        Stage::Reserve,
        Stage::Write,
        Stage::Sync,
        Stage::ColdRead,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Queue => "queue",
            Stage::Decode => "decode",
            Stage::CrossCore => "cross-core",
            Stage::Append => "append",
            Stage::Commit => "commit",
            Stage::Fetch => "fetch",
            Stage::Handle => "handle",
            Stage::Respond => "respond",
            Stage::Read => "read",
            Stage::Wait => "wait",
            Stage::Journal => "journal",
            Stage::Reserve => "reserve",
            Stage::Write => "write",
            Stage::Sync => "sync",
            Stage::ColdRead => "cold-read",
        }
    }

    /// What it is the time of, in words that go behind its name.
    pub fn meaning(self) -> &'static str {
        match self {
            Stage::Queue => "a whole request waits on its connection until it is its turn",
            Stage::Decode => "reading the request and checking its batches",
            Stage::CrossCore => "the way to the core of the partitions and back",
            Stage::Append => "copying batches into their logs",
            Stage::Commit => {
                "appended batches wait to be acknowledged: for journal, write and sync, and their turn for them"
            }
            Stage::Fetch => "finding the records that a fetch wants",
            Stage::Handle => "all that other requests do",
            Stage::Respond => {
                "making the response, its turn among the others, and the socket taking it"
            }
            Stage::Read => "one receive from a socket",
            Stage::Wait => {
                "a fetch waits for bytes because its client asked it to; not counted as the request's time"
            }
            Stage::Journal => "one write to the journal",
            Stage::Reserve => "a write to a segment waits for space to be reserved",
            Stage::Write => "one write to a segment",
            Stage::Sync => "one sync of a segment",
            Stage::ColdRead => "one read of records that are not in memory",
        }
    }

    /// Whether it is one of those that a request's time consists of.
    pub fn is_on_the_way(self) -> bool {
        (self as usize) < WAY
    }
}

/// Api keys that are counted one by one; the protocol has fewer.
const APIS: usize = 128;

/// One core's counts. All zeroes at first, so that memory is used only where something is counted.
#[derive(FromZeros)]
struct Core {
    stages: [Histogram; Stage::ALL.len()],
    requests: [Cell<u64>; APIS],
    slow: [Slow; Class::ALL.len()],
    pace: Pace,
    tasks: Tasks,
}

thread_local! {
    /// Made when a thread first counts something, which few do, and kept to its end.
    static CORE: Cell<Option<&'static Core>> = const { Cell::new(None) };
    /// Times of requests by their api, for those that have come.
    static APIS_TIMED: RefCell<BTreeMap<i16, Box<Histogram>>> = const { RefCell::new(BTreeMap::new()) };
}

fn core() -> &'static Core {
    CORE.get().unwrap_or_else(first_core)
}

#[cold]
fn first_core() -> &'static Core {
    let core: &'static Core = Box::leak(zeroed());
    CORE.set(Some(core));
    core
}

fn zeroed<T: FromZeros>() -> Box<T> {
    T::new_box_zeroed().expect("memory for what is counted")
}

/// Requests whose slowest are told apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Produce,
    Fetch,
    Other,
}

impl Class {
    pub const ALL: [Class; 3] = [Class::Produce, Class::Fetch, Class::Other];

    pub fn name(self) -> &'static str {
        match self {
            Class::Produce => "produce",
            Class::Fetch => "fetch",
            Class::Other => "other",
        }
    }
}

/// A moment from which on a stage is timed.
pub fn begin() -> Ticks {
    clock::ticks()
}

/// The stage that began then is over; answers the moment, from which another may begin.
pub fn end(stage: Stage, began: Ticks) -> Ticks {
    let now = clock::ticks();
    record(stage, now.nanos_since(began));
    now
}

/// To be called [`timing::TICKS_PER_SECOND`] times a second.
pub fn on_tick() {
    timing::on_tick();
    window::on_tick();
}

pub fn record(stage: Stage, nanos: u64) {
    core().stages[stage as usize].record(nanos);
}

/// What a core has counted since it began.
#[derive(Clone, Default, Debug)]
pub struct Sample {
    /// All requests that have begun, by api key.
    pub requests: Vec<(i16, u64)>,
    /// How long those took that were timed, the wait of fetches included.
    pub times: Vec<(i16, Distribution)>,
    /// In the order of [`Stage::ALL`].
    pub stages: Vec<Distribution>,
    /// In the order of [`Class::ALL`].
    pub slow: Vec<SlowSample>,
    pub tasks: Vec<TaskSample>,
    pub cpu: Duration,
}

/// Of the core that this is called on.
pub fn sample() -> Sample {
    let core = core();
    let requests = core.requests.iter().enumerate();
    let times = APIS_TIMED.with_borrow(|apis| {
        let times = apis.iter();
        times
            .map(|(key, times)| (*key, times.distribution()))
            .collect()
    });
    Sample {
        requests: requests
            .filter(|(_, count)| count.get() > 0)
            .map(|(key, count)| (key as i16, count.get()))
            .collect(),
        times,
        stages: core.stages.iter().map(Histogram::distribution).collect(),
        slow: core.slow.iter().map(Slow::sample).collect(),
        tasks: core.tasks.sample(),
        cpu: clock::thread_cpu(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_are_in_the_order_of_their_numbers() {
        for (number, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(stage as usize, number);
            assert_eq!(stage.is_on_the_way(), number < WAY);
        }
    }

    #[test]
    fn a_stage_is_counted_on_the_core_that_it_took_place_on() {
        let began = begin();
        end(Stage::Sync, began);
        record(Stage::Sync, 1000);
        let elsewhere = std::thread::spawn(|| sample().stages[Stage::Sync as usize].count);
        assert_eq!(elsewhere.join().unwrap(), 0);
        assert_eq!(sample().stages[Stage::Sync as usize].count, 2);
    }
}
