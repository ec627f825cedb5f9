//! Owns the time of single requests: which of them are timed, how much of it went to which stage, and what the
//! slow ones spent theirs on.

use std::cell::Cell;

use zerocopy::FromZeros;

use super::{APIS, APIS_TIMED, Class, Core, Stage, WAY, core, zeroed};
use crate::io::clock::{self, Ticks};
use crate::protocol::Request;
use crate::protocol::messages::{FetchRequest, ProduceRequest};

/// Requests a second that one core times: at under half a microsecond each, 0.5 % of its time at the most.
const TIMED_PER_SECOND: u64 = 10_000;

/// The most that [`Pace::rarity`] becomes.
const RAREST: u32 = 16;

/// How often [`super::on_tick`] is expected.
pub const TICKS_PER_SECOND: u64 = 2;

/// Which receives are timed, with all the requests that they complete.
#[derive(FromZeros)]
pub(super) struct Pace {
    /// One of 2^this receives.
    rarity: Cell<u32>,
    /// Receives until the next that is timed.
    until_next: Cell<u32>,
    timed_since_tick: Cell<u64>,
    random: Cell<u32>,
}

impl Pace {
    /// Whether the next receive is timed. Which of them are is left to chance, as connections take turns.
    fn is_timed(&self) -> bool {
        if self.until_next.get() > 0 {
            self.until_next.set(self.until_next.get() - 1);
            return false;
        }
        let rarity = self.rarity.get();
        if rarity > 0 {
            // As many as are left out in the mean.
            self.until_next.set(self.draw() % ((2 << rarity) - 1));
        }
        true
    }

    fn on_timed(&self) {
        let timed = self.timed_since_tick.get() + 1;
        self.timed_since_tick.set(timed);
        if timed > TIMED_PER_SECOND / TICKS_PER_SECOND {
            self.timed_since_tick.set(0);
            self.rarity.set((self.rarity.get() + 1).min(RAREST));
        }
    }

    fn on_tick(&self) {
        let timed = self.timed_since_tick.replace(0);
        let allowed = TIMED_PER_SECOND / TICKS_PER_SECOND;
        if timed < allowed / 4 {
            self.rarity.set(self.rarity.get().saturating_sub(1));
        }
    }

    /// Marsaglia's xorshift: chance that costs nothing and is the same in every run.
    fn draw(&self) -> u32 {
        // Zero would stay zero.
        let mut random = self.random.get() | 1;
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.set(random);
        random
    }
}

/// Where few requests come, more of them are timed.
pub(super) fn on_tick() {
    core().pace.on_tick();
}

/// The moment before a receive, if it is to be timed.
pub fn before_receive() -> Option<Ticks> {
    core().pace.is_timed().then(clock::ticks)
}

/// One request's time, from when it was received to when its response has left; of most requests nothing.
#[derive(Default)]
pub struct Timing(Option<Box<Timeline>>);

struct Timeline {
    api: i16,
    received: Ticks,
    /// Up to here its time is given to stages.
    last: Ticks,
    spent: [u64; WAY],
}

impl std::fmt::Debug for Timing {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(if self.is_on() { "timed" } else { "not timed" })
    }
}

/// What of a request was done where its partitions are.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Spent {
    pub nanos: [u64; 2],
    /// It was another core.
    pub crossed: bool,
}

/// Times the two parts of what is done for a request where its partitions are, if the request is timed.
pub struct Stopwatch {
    last: Option<Ticks>,
    spent: Spent,
}

impl Stopwatch {
    pub fn begin(timed: bool, crossed: bool) -> Stopwatch {
        Stopwatch {
            last: timed.then(clock::ticks),
            spent: Spent {
                nanos: [0; 2],
                crossed,
            },
        }
    }

    /// What has passed since the last part was of this one.
    pub fn pass(&mut self, part: usize) {
        if let Some(last) = &mut self.last {
            let now = clock::ticks();
            self.spent.nanos[part] += now.nanos_since(*last);
            *last = now;
        }
    }

    pub fn spent(&self) -> Spent {
        self.spent
    }
}

impl Spent {
    pub fn slower(self, other: Spent) -> Spent {
        if other.total() < self.total() {
            self
        } else {
            other
        }
    }

    pub fn total(&self) -> u64 {
        self.nanos.iter().sum()
    }
}

impl Timing {
    /// Counts a request that begins, and times it if its receive was.
    pub fn begin(api_key: i16, received: Option<Ticks>) -> Timing {
        let core = core();
        let api = usize::try_from(api_key).unwrap_or(APIS).min(APIS - 1);
        core.requests[api].set(core.requests[api].get() + 1);
        let Some(received) = received else {
            return Timing(None);
        };
        core.pace.on_timed();
        let mut timing = Timing(Some(Box::new(Timeline {
            api: api_key,
            received,
            last: received,
            spent: [0; WAY],
        })));
        timing.pass(Stage::Queue);
        timing
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// What has passed since the last stage was this one.
    pub fn pass(&mut self, stage: Stage) {
        if let Some(timeline) = &mut self.0 {
            timeline.pass(stage, clock::ticks());
        }
    }

    /// What has passed was spent so where the partitions are, on the slowest of several cores; the rest on the way
    /// there, or on the last of the stages. What a client asked to wait is not the request's time.
    pub fn pass_spent(&mut self, stages: [Stage; 2], spent: Spent) {
        let Some(timeline) = &mut self.0 else { return };
        let now = clock::ticks();
        let mut left = now.nanos_since(timeline.last);
        let mut rest = Stage::CrossCore;
        for (stage, nanos) in stages.into_iter().zip(spent.nanos) {
            let nanos = nanos.min(left);
            left -= nanos;
            if stage.is_on_the_way() {
                timeline.spent[stage as usize] += nanos;
                rest = if spent.crossed { rest } else { stage };
            } else if nanos > 0 {
                super::record(stage, nanos);
            }
        }
        timeline.spent[rest as usize] += left;
        timeline.last = now;
    }

    /// The response has left; the rest was [`Stage::Respond`].
    pub fn finish(self) {
        if self.is_on() {
            finish_all([self].into_iter());
        }
    }
}

/// The responses have left, all at once.
pub fn finish_all(timings: impl Iterator<Item = Timing>) {
    let mut now = None;
    for timing in timings {
        if let Timing(Some(mut timeline)) = timing {
            let now = *now.get_or_insert_with(clock::ticks);
            timeline.pass(Stage::Respond, now);
            core().on_finished(&timeline, now);
        }
    }
}

impl Timeline {
    fn pass(&mut self, stage: Stage, now: Ticks) {
        self.spent[stage as usize] += now.nanos_since(self.last);
        self.last = now;
    }

    fn class(&self) -> Class {
        match self.api {
            ProduceRequest::KEY => Class::Produce,
            FetchRequest::KEY => Class::Fetch,
            _ => Class::Other,
        }
    }
}

impl Core {
    fn on_finished(&self, timeline: &Timeline, now: Ticks) {
        for (stage, nanos) in timeline.spent.iter().enumerate() {
            // One that a request does not pass through took no time at all.
            if *nanos > 0 {
                self.stages[stage].record(*nanos);
            }
        }
        self.slow[timeline.class() as usize].record(&timeline.spent);
        APIS_TIMED.with_borrow_mut(|apis| {
            let times = apis.entry(timeline.api).or_insert_with(zeroed);
            times.record(now.nanos_since(timeline.received));
        });
    }
}

/// Bits of a request's time, below its highest, that choose its row: a row is a fifth wide.
const DETAIL_BITS: u32 = 2;
const LONGEST_BITS: u32 = 36;
const ROWS: usize = ((LONGEST_BITS - DETAIL_BITS + 1) as usize) << DETAIL_BITS;

/// Requests of one class by how long they took, and what those of each length spent it on: so the slowest can be
/// told from the rest.
#[derive(FromZeros)]
pub(super) struct Slow {
    rows: [Row; ROWS],
}

#[derive(FromZeros)]
struct Row {
    count: Cell<u64>,
    spent: [Cell<u64>; WAY],
}

/// The rows in which there are requests, the shortest first.
pub type SlowSample = Vec<SlowRow>;

/// Requests of one length, which is their longest in nanoseconds: how many there were, and what
/// all of them together spent on each stage of the way.
pub type SlowRow = (u64, u64, [u64; WAY]);

impl Slow {
    fn record(&self, spent: &[u64; WAY]) {
        let row = &self.rows[row_of(spent.iter().sum())];
        row.count.set(row.count.get() + 1);
        for (sum, nanos) in row.spent.iter().zip(spent) {
            sum.set(sum.get() + nanos);
        }
    }

    pub(super) fn sample(&self) -> SlowSample {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(_, row)| row.count.get() > 0)
            .map(|(number, row)| {
                let spent = std::array::from_fn(|stage| row.spent[stage].get());
                (longest_in(number), row.count.get(), spent)
            })
            .collect()
    }
}

fn row_of(nanos: u64) -> usize {
    let high = nanos.checked_ilog2().unwrap_or(0);
    match high {
        0..DETAIL_BITS => nanos as usize,
        DETAIL_BITS..LONGEST_BITS => {
            let shift = high - DETAIL_BITS;
            (((shift + 1) as usize) << DETAIL_BITS) + (nanos >> shift) as usize - (1 << DETAIL_BITS)
        }
        _ => ROWS - 1,
    }
}

fn longest_in(row: usize) -> u64 {
    let detail = 1 << DETAIL_BITS;
    let least = |row: usize| match row / detail {
        0 => row as u64,
        shift => ((detail + row % detail) as u64) << (shift - 1),
    };
    least(row + 1) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::sample;

    #[test]
    fn the_stages_of_a_request_are_all_of_its_time() {
        let mut timing = Timing::begin(ProduceRequest::KEY, Some(clock::ticks()));
        let work = |millis| std::thread::sleep(std::time::Duration::from_millis(millis));
        timing.pass(Stage::Decode);
        work(5);
        let remote = Spent {
            nanos: [1_000_000, 2_000_000],
            crossed: true,
        };
        let near = Spent {
            nanos: [500_000, 1_000_000],
            crossed: false,
        };
        timing.pass_spent([Stage::Append, Stage::Commit], near.slower(remote));
        timing.finish();
        let counted = sample();
        let total = |stage: Stage| counted.stages[stage as usize].total_nanos;
        assert_eq!(total(Stage::Append), 1_000_000);
        assert_eq!(total(Stage::Commit), 2_000_000);
        assert!(total(Stage::CrossCore) >= 2_000_000);
        let all: u64 = Stage::ALL.into_iter().map(total).sum();
        let (key, times) = &counted.times[0];
        assert_eq!((*key, times.count), (ProduceRequest::KEY, 1));
        assert!(
            times.total_nanos.abs_diff(all) < 10,
            "{} {all}",
            times.total_nanos
        );
        let (longest, count, spent) = counted.slow[Class::Produce as usize][0];
        assert_eq!((count, spent.iter().sum::<u64>()), (1, all));
        assert!(all <= longest && longest < all + all / 3, "{all} {longest}");
    }

    #[test]
    fn what_a_client_asked_to_wait_is_not_the_brokers_time() {
        let mut timing = Timing::begin(FetchRequest::KEY, Some(clock::ticks()));
        std::thread::sleep(std::time::Duration::from_millis(4));
        let spent = Spent {
            nanos: [500_000, 3_000_000],
            crossed: false,
        };
        timing.pass_spent([Stage::Fetch, Stage::Wait], spent);
        timing.finish();
        let counted = sample();
        let total = |stage: Stage| counted.stages[stage as usize].total_nanos;
        let all = counted.times[0].1.total_nanos;
        assert_eq!(total(Stage::Wait), 3_000_000);
        assert!(total(Stage::Fetch) >= 1_000_000);
        assert!(total(Stage::Fetch) + 3_000_000 <= all);
        assert_eq!(counted.slow[Class::Fetch as usize][0].1, 1);
    }

    #[test]
    fn all_requests_are_counted_and_few_of_many_timed() {
        let second = 100_000;
        for _ in 0..5 {
            for _ in 0..second {
                Timing::begin(3, before_receive()).finish();
            }
            for _ in 0..TICKS_PER_SECOND {
                on_tick();
            }
        }
        let counted = sample();
        assert_eq!(counted.requests, [(3, 5 * second)]);
        let timed = counted.times[0].1.count;
        assert!(timed < 5 * 3 * TIMED_PER_SECOND, "{timed}");
        assert!(timed > TIMED_PER_SECOND / 2, "{timed}");
        // When it is quiet again, each is.
        for _ in 0..40 {
            on_tick();
        }
        let _may_still_wait_for_its_turn = (0..1 << 17).find(|_| before_receive().is_some());
        assert!(before_receive().is_some());
        assert!(before_receive().is_some());
    }

    #[test]
    fn rows_follow_each_other_without_a_gap() {
        for row in 0..ROWS - 1 {
            assert_eq!(row_of(longest_in(row)), row);
            assert_eq!(row_of(longest_in(row) + 1), row + 1);
        }
        assert_eq!(row_of(u64::MAX), ROWS - 1);
    }
}
