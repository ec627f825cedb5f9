//! Owns what a core did in its last whole second: what it has counted at the end of it without what it had at the
//! beginning. Whoever looks in between sees the same, however many look and however often.

use std::cell::RefCell;

use super::histogram::Distribution;
use super::tasks::TaskSample;
use super::timing::TICKS_PER_SECOND;
use super::{Sample, sample};
use crate::io::clock::{self, Ticks};

/// What was counted between two moments.
#[derive(Clone, Default, Debug)]
pub struct Window {
    /// Windows follow each other in these numbers, from 1.
    pub number: u64,
    pub nanos: u64,
    /// The longest of a distribution, and who stalled worst and when, are those since the core began.
    pub moved: Sample,
}

#[derive(Default)]
struct Recent {
    /// What had been counted when the last window ended, and when that was.
    counted: Option<(Ticks, Sample)>,
    ticks: u64,
    window: Window,
}

thread_local! {
    static RECENT: RefCell<Recent> = RefCell::default();
}

/// To be called [`TICKS_PER_SECOND`] times a second.
pub(super) fn on_tick() {
    RECENT.with_borrow_mut(|recent| {
        if recent.ticks.is_multiple_of(TICKS_PER_SECOND) {
            recent.on_second(clock::ticks(), sample());
        }
        recent.ticks += 1;
    });
}

/// The last whole second of this core; `None` before there was one.
pub fn last() -> Option<Window> {
    RECENT.with_borrow(|recent| (recent.window.number > 0).then(|| recent.window.clone()))
}

impl Recent {
    fn on_second(&mut self, now: Ticks, sample: Sample) {
        if let Some((since, earlier)) = &self.counted {
            self.window = Window {
                number: self.window.number + 1,
                nanos: now.nanos_since(*since),
                moved: sample.since(earlier),
            };
        }
        self.counted = Some((now, sample));
    }
}

impl Sample {
    /// What was counted since then. Of what the slow requests spent their time on it has nothing.
    fn since(&self, earlier: &Sample) -> Sample {
        let requests = self.requests.iter().map(|(key, count)| {
            let before = earlier.requests.iter().find(|(other, _)| other == key);
            (*key, count - before.map_or(0, |(_, count)| *count))
        });
        let times = self.times.iter().map(|(key, times)| {
            let before = earlier.times.iter().find(|(other, _)| other == key);
            let moved = before.map_or_else(|| times.clone(), |(_, before)| times.since(before));
            (*key, moved)
        });
        let stages = self.stages.iter().zip(&earlier.stages);
        let tasks = self.tasks.iter().map(|task| {
            let before = earlier.tasks.iter().find(|other| other.task == task.task);
            before.map_or(*task, |before| TaskSample {
                polls: task.polls - before.polls,
                nanos: task.nanos - before.nanos,
                stalls: task.stalls - before.stalls,
                ..*task
            })
        });
        Sample {
            requests: requests.filter(|(_, count)| *count > 0).collect(),
            times: times.filter(|(_, times)| times.count > 0).collect(),
            stages: stages.map(|(now, before)| now.since(before)).collect(),
            slow: Vec::new(),
            tasks: tasks.filter(|task| task.polls > 0).collect(),
            cpu: self.cpu.saturating_sub(earlier.cpu),
        }
    }
}

impl Distribution {
    /// Those that came since then. The longest of them is told as the longest of its bucket, and never longer than
    /// the longest ever.
    fn since(&self, earlier: &Distribution) -> Distribution {
        let mut before = earlier.buckets.iter().peekable();
        let mut buckets = Vec::new();
        for &(bucket, count) in &self.buckets {
            let same = before.next_if(|(other, _)| *other == bucket);
            let moved = count - same.map_or(0, |(_, count)| *count);
            if moved > 0 {
                buckets.push((bucket, moved));
            }
        }
        let longest = buckets
            .last()
            .map_or(0, |(bucket, _)| super::histogram::longest_in(*bucket));
        Distribution {
            count: self.count - earlier.count,
            total_nanos: self.total_nanos - earlier.total_nanos,
            longest_nanos: longest.min(self.longest_nanos),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tasks::{Task, watched};
    use super::super::timing::{Timing, before_receive};
    use super::super::{Stage, record};
    use super::*;
    use futures::FutureExt;

    fn ticks(count: u64) {
        for _ in 0..count {
            on_tick();
        }
    }

    #[test]
    fn a_window_has_what_its_second_had_and_nothing_from_before() {
        assert!(last().is_none());
        record(Stage::Sync, 5_000_000);
        ticks(TICKS_PER_SECOND);
        assert!(last().is_none(), "nobody knows how long the first one was");
        for nanos in [1000, 2000, 300_000] {
            record(Stage::Sync, nanos);
        }
        Timing::begin(3, before_receive()).finish();
        let holds = async { std::thread::sleep(Duration::from_millis(3)) };
        watched(Task::UPKEEP, Box::pin(holds))
            .now_or_never()
            .unwrap();
        ticks(TICKS_PER_SECOND);
        let window = last().unwrap();
        assert_eq!(window.number, 1);
        assert!(window.nanos >= 3_000_000);
        let sync = &window.moved.stages[Stage::Sync as usize];
        assert_eq!((sync.count, sync.total_nanos), (3, 303_000));
        assert!((300_000..=320_000).contains(&sync.longest_nanos));
        assert_eq!(sync.quantile_nanos(1.0), sync.longest_nanos);
        assert_eq!(window.moved.requests, [(3, 1)]);
        assert_eq!(window.moved.times[0].1.count, 1);
        let [task] = &window.moved.tasks[..] else {
            panic!("{:?}", window.moved.tasks)
        };
        assert_eq!((task.task.name(), task.stalls), ("upkeep", 1));

        ticks(TICKS_PER_SECOND);
        let quiet = last().unwrap();
        assert_eq!(quiet.number, 2);
        assert!(quiet.moved.tasks.is_empty() && quiet.moved.requests.is_empty());
        assert_eq!(
            quiet.moved.stages[Stage::Sync as usize],
            Distribution::default()
        );
    }
}
