//! Owns how long each kind of task holds its core, and who held it too long. Time counts as the wall's: a core
//! that the system gave to somebody else meanwhile counts as held.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::time::Duration;

use zerocopy::FromZeros;

use super::{APIS, core};
use crate::ids::TimestampMs;
use crate::io::clock;
use crate::protocol::messages::{FetchRequest, ProduceRequest};
use crate::protocol::{Request, api};

/// A task that holds its core for longer stalls everybody else on it.
const STALL_NANOS: u64 = 1_000_000;

/// So many of the last stalls a core knows one by one.
const STALLS_KEPT: usize = 32;

/// What runs on a core, by kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task(usize);

const NAMES: [&str; 14] = [
    "receive",
    "send",
    "log",
    "mesh-out",
    "mesh-in",
    "mesh-call",
    "accept",
    "upkeep",
    "checkpoints",
    "controller",
    "deletion",
    "admin",
    "groups",
    "cleaner",
];

impl Task {
    /// Reads a connection, and begins its requests.
    pub const RECEIVE: Task = Task(0);
    /// Sends a connection's responses.
    pub const SEND: Task = Task(1);
    /// Writes and syncs of logs.
    pub const LOG: Task = Task(2);
    pub const MESH_OUT: Task = Task(3);
    /// Runs what other cores ask for, up to its first wait.
    pub const MESH_IN: Task = Task(4);
    pub const MESH_CALL: Task = Task(5);
    pub const ACCEPT: Task = Task(6);
    pub const UPKEEP: Task = Task(7);
    pub const CHECKPOINTS: Task = Task(8);
    pub const CONTROLLER: Task = Task(9);
    pub const DELETION: Task = Task(10);
    pub const ADMIN: Task = Task(11);
    /// Loads group coordinators, tells them the time, and lets their answers out.
    pub const GROUPS: Task = Task(12);
    /// Compacts logs.
    pub const CLEANER: Task = Task(13);

    /// Requests of one kind, apart from what the connection does for them.
    pub fn of_api(key: i16) -> Task {
        let key = usize::try_from(key).unwrap_or(APIS).min(APIS - 1);
        Task(NAMES.len() + key)
    }

    /// What of the core's work it is.
    pub fn part(self) -> Part {
        let api = |key: i16| Task::of_api(key).0;
        match self {
            Task::RECEIVE => Part::Receive,
            Task::SEND => Part::Respond,
            Task::LOG => Part::Log,
            Task::MESH_OUT | Task::MESH_IN | Task::MESH_CALL => Part::CrossCore,
            Task(number) if number == api(FetchRequest::KEY) => Part::Fetch,
            Task(number) if number == api(ProduceRequest::KEY) => Part::Receive,
            Task::GROUPS => Part::Handle,
            Task(number) if number >= NAMES.len() => Part::Handle,
            Task(_) => Part::Upkeep,
        }
    }

    pub fn name(self) -> &'static str {
        match self.0.checked_sub(NAMES.len()) {
            None => NAMES[self.0],
            Some(key) => api::name(key as i16).unwrap_or("unknown"),
        }
    }
}

/// All that a core does, in few parts: the stages that use it, as the tasks divide them among themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Part {
    Receive,
    Decode,
    CrossCore,
    Fetch,
    Handle,
    Log,
    Respond,
    Upkeep,
    System,
}

impl Part {
    pub const ALL: [Part; 9] = [
        Part::Receive,
        Part::Decode,
        Part::CrossCore,
        Part::Fetch,
        Part::Handle,
        Part::Log,
        Part::Respond,
        Part::Upkeep,
        Part::System,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Part::Receive => "receive",
            Part::Decode => "decode",
            Part::CrossCore => "cross-core",
            Part::Fetch => "fetch",
            Part::Handle => "handle",
            Part::Log => "log",
            Part::Respond => "respond",
            Part::Upkeep => "upkeep",
            Part::System => "system",
        }
    }

    /// What it is the time of, in words that go behind its name.
    pub fn meaning(self) -> &'static str {
        match self {
            Part::Receive => {
                "receiving from sockets, and appending batches to partitions of this core"
            }
            Part::Decode => {
                "reading requests and checking their batches, by the requests that were timed"
            }
            Part::CrossCore => "what other cores ask for, appends and reads included, and the way",
            Part::Fetch => "finding the records that fetches want",
            Part::Handle => "all that other requests do, and groups",
            Part::Log => "handing journal, writes and syncs to the kernel, and what follows them",
            Part::Respond => "sending responses",
            Part::Upkeep => "accepting, checkpoints, the controller, cleaning, this endpoint",
            Part::System => "the kernel's work on the ring, going to sleep and waking up",
        }
    }
}

/// A task held its core for over a millisecond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stall {
    pub task: Task,
    pub nanos: u64,
    /// When it ended.
    pub at_ms: TimestampMs,
}

thread_local! {
    /// The last ones of this core, the latest behind.
    static STALLS: RefCell<VecDeque<Stall>> = const { RefCell::new(VecDeque::new()) };
}

/// How often a task has stalled this core since it began.
pub fn stalls_ever() -> u64 {
    let used = core().tasks.used.iter();
    used.map(|used| used.stalls.get()).sum()
}

/// The last stalls of this core, the latest behind.
pub fn last_stalls() -> Vec<Stall> {
    STALLS.with_borrow(|stalls| stalls.iter().copied().collect())
}

/// What the tasks of one core have used of it.
#[derive(FromZeros)]
pub(super) struct Tasks {
    used: [Used; NAMES.len() + APIS],
    /// Of the task that is running, what tasks that began inside it have used.
    within: Cell<u64>,
}

#[derive(FromZeros)]
struct Used {
    polls: Cell<u64>,
    nanos: Cell<u64>,
    stalls: Cell<u64>,
    worst_nanos: Cell<u64>,
    worst_at_ms: Cell<TimestampMs>,
    last_at_ms: Cell<TimestampMs>,
}

/// What the tasks of one kind have used of one core.
#[derive(Clone, Copy, Debug)]
pub struct TaskSample {
    pub task: Task,
    /// How often one ran, and for how long together.
    pub polls: u64,
    pub nanos: u64,
    /// How often one ran for over a millisecond without a pause, the longest time, and when the longest and the last ended.
    pub stalls: u64,
    pub worst_nanos: u64,
    pub worst_at_ms: TimestampMs,
    pub last_at_ms: TimestampMs,
}

impl Tasks {
    /// Those that have run.
    pub(super) fn sample(&self) -> Vec<TaskSample> {
        let used = self.used.iter().enumerate();
        used.filter(|(_, used)| used.polls.get() > 0)
            .map(|(number, used)| TaskSample {
                task: Task(number),
                polls: used.polls.get(),
                nanos: used.nanos.get(),
                stalls: used.stalls.get(),
                worst_nanos: used.worst_nanos.get(),
                worst_at_ms: used.worst_at_ms.get(),
                last_at_ms: used.last_at_ms.get(),
            })
            .collect()
    }
}

impl Used {
    fn on_poll(&self, task: Task, nanos: u64) {
        self.polls.set(self.polls.get() + 1);
        self.nanos.set(self.nanos.get() + nanos);
        if nanos > STALL_NANOS {
            self.on_stall(task, nanos);
        }
    }

    #[cold]
    fn on_stall(&self, task: Task, nanos: u64) {
        let now = clock::wall_ms();
        STALLS.with_borrow_mut(|stalls| {
            if stalls.len() == STALLS_KEPT {
                stalls.pop_front();
            }
            stalls.push_back(Stall {
                task,
                nanos,
                at_ms: now,
            });
        });
        self.stalls.set(self.stalls.get() + 1);
        self.last_at_ms.set(now);
        if nanos > self.worst_nanos.get() {
            self.worst_nanos.set(nanos);
            self.worst_at_ms.set(now);
        }
    }
}

/// Counts what `poll` uses of the core as the task's. A task that begins inside another counts for itself.
fn watch<T>(task: Task, poll: impl FnOnce() -> T) -> T {
    let tasks = &core().tasks;
    let outer = tasks.within.replace(0);
    let began = clock::ticks();
    let result = poll();
    let nanos = clock::ticks().nanos_since(began);
    let within = tasks.within.replace(outer + nanos);
    tasks.used[task.0].on_poll(task, nanos.saturating_sub(within));
    result
}

/// How long tasks of this kind have held this core, up to the last that paused.
pub fn held(task: Task) -> Duration {
    Duration::from_nanos(core().tasks.used[task.0].nanos.get())
}

/// The same future, watched.
pub fn watched<F: Future + Unpin>(task: Task, mut work: F) -> impl Future<Output = F::Output> {
    poll_fn(move |context| watch(task, || Pin::new(&mut work).poll(context)))
}

/// Spawns a task that is watched.
pub fn spawn<F>(task: Task, work: F) -> glommio::Task<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    glommio::spawn_local(watched(task, Box::pin(work)))
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::io::timer;

    fn of(task: Task) -> Option<TaskSample> {
        let all = core().tasks.sample();
        all.into_iter().find(|sample| sample.task == task)
    }

    fn hold(millis: u64) {
        std::thread::sleep(Duration::from_millis(millis));
    }

    #[test]
    fn a_stall_is_told_by_the_name_of_who_held_the_core() {
        let before = clock::wall_ms();
        let short = watched(Task::SEND, Box::pin(async {}));
        short.now_or_never().unwrap();
        for millis in [5, 3] {
            let planted = watched(Task::UPKEEP, Box::pin(async move { hold(millis) }));
            planted.now_or_never().unwrap();
        }
        let stalled = of(Task::UPKEEP).unwrap();
        assert_eq!((stalled.polls, stalled.stalls), (2, 2));
        assert!(stalled.worst_nanos >= 5_000_000);
        assert!((before..=stalled.last_at_ms).contains(&stalled.worst_at_ms));
        assert_eq!(stalled.task.name(), "upkeep");
        let short = of(Task::SEND).unwrap();
        assert_eq!((short.polls, short.stalls, short.worst_nanos), (1, 0, 0));
    }

    #[test]
    fn the_last_stalls_are_known_one_by_one() {
        let used = &core().tasks.used[Task::UPKEEP.0];
        for stall in 1..=40 {
            used.on_poll(Task::UPKEEP, stall * STALL_NANOS);
        }
        let last: Vec<u64> = last_stalls().iter().map(|stall| stall.nanos).collect();
        let expected: Vec<u64> = (9..=40).map(|stall| stall * STALL_NANOS).collect();
        assert_eq!(last, expected);
    }

    #[test]
    fn each_task_is_a_part_of_the_work() {
        for number in 0..NAMES.len() + APIS {
            let part = Task(number).part();
            assert_eq!(Part::ALL[part as usize], part, "{}", Task(number).name());
        }
        assert_eq!(Task::of_api(1).part(), Part::Fetch);
        assert_eq!(Task::of_api(3).part(), Part::Handle);
        assert_eq!(Task::CLEANER.part(), Part::Upkeep);
    }

    #[test]
    fn who_waits_does_not_hold_the_core() {
        glommio::LocalExecutorBuilder::default()
            .spawn(|| async {
                let waits = spawn(Task::CHECKPOINTS, async {
                    timer::sleep(Duration::from_millis(5)).await;
                });
                waits.await;
                let waited = of(Task::CHECKPOINTS).unwrap();
                assert_eq!(waited.polls, 2);
                assert!(waited.nanos < 4_000_000, "{waited:?}");
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn a_task_inside_another_counts_for_itself() {
        let outer = async {
            hold(2);
            watched(Task::of_api(3), Box::pin(async { hold(4) })).await;
        };
        watched(Task::RECEIVE, Box::pin(outer))
            .now_or_never()
            .unwrap();
        let (inner, outer) = (of(Task::of_api(3)).unwrap(), of(Task::RECEIVE).unwrap());
        assert_eq!(inner.task.name(), "Metadata");
        assert!(inner.nanos >= 4_000_000 && outer.nanos >= 2_000_000);
        assert!(outer.nanos < inner.nanos, "{outer:?} {inner:?}");
    }
}
