//! Owns a deterministic executor: which ready task runs next, and when the disk completes an
//! operation, a seed decides. One thread, no clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use futures::task::{ArcWake, waker};

use super::SimulatedDisk;
use crate::io::entropy::Random;
use crate::io::timer::Time;

type Task = LocalBoxFuture<'static, ()>;
type Ready = Arc<Mutex<Vec<u64>>>;

pub struct Executor {
    random: Random,
    disk: SimulatedDisk,
    tasks: BTreeMap<u64, (Task, Waker)>,
    spawned: Rc<RefCell<Vec<Task>>>,
    ready: Ready,
    next_task: u64,
}

struct Wakes {
    task: u64,
    ready: Ready,
}

impl ArcWake for Wakes {
    fn wake_by_ref(this: &Arc<Self>) {
        let mut ready = this.ready.lock().expect("one thread");
        if !ready.contains(&this.task) {
            ready.push(this.task);
        }
    }
}

impl Executor {
    pub fn new(seed: u64, disk: SimulatedDisk) -> Executor {
        Executor {
            random: Random::new(seed),
            disk,
            tasks: BTreeMap::new(),
            spawned: Rc::default(),
            ready: Ready::default(),
            next_task: 0,
        }
    }

    /// The hook that a log spawns its tasks by.
    pub fn spawner(&self) -> Rc<dyn Fn(Task)> {
        let spawned = self.spawned.clone();
        Rc::new(move |task| spawned.borrow_mut().push(task))
    }

    /// Time for the tasks: it passes when it is looked at, and a sleep lasts for so many turns as a seed decides.
    pub fn time(seed: u64) -> Rc<dyn Time> {
        Rc::new(SimulatedTime {
            random: RefCell::new(Random::new(seed)),
            passed: Cell::default(),
        })
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.spawned.borrow_mut().push(Box::pin(task));
    }

    /// Runs one ready task, or completes one disk operation; false if there is neither.
    pub fn step(&mut self) -> bool {
        self.adopt_spawned();
        let ready = self.ready.lock().expect("one thread").len() as u64;
        let pending = self.disk.pending() as u64;
        if ready == 0 && pending == 0 {
            return false;
        }
        // Tasks outrun the disk mostly, as in life; sometimes the disk is first.
        let disk_first = ready == 0 || (pending > 0 && self.random.chance(1, 4));
        if disk_first {
            return self.disk.complete_one();
        }
        let choice = self.random.below(ready) as usize;
        let id = self.ready.lock().expect("one thread").remove(choice);
        if let Some((task, waker)) = self.tasks.get_mut(&id) {
            let waker = waker.clone();
            let done = task.as_mut().poll(&mut Context::from_waker(&waker));
            if done.is_ready() {
                self.tasks.remove(&id);
            }
        }
        true
    }

    /// Runs until `future` is done. Panics if nothing can run before: a lost wake-up.
    pub fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.spawn(async move {
            let value = future.await;
            *slot.borrow_mut() = Some(value);
        });
        loop {
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            assert!(self.step(), "everything waits and nothing can happen");
        }
    }

    /// Runs until nothing is left to do.
    pub fn settle(&mut self) {
        while self.step() {}
    }

    fn adopt_spawned(&mut self) {
        for task in self.spawned.take() {
            let id = self.next_task;
            self.next_task += 1;
            let wakes = Arc::new(Wakes {
                task: id,
                ready: self.ready.clone(),
            });
            self.tasks.insert(id, (task, waker(wakes)));
            self.ready.lock().expect("one thread").push(id);
        }
    }
}

struct SimulatedTime {
    random: RefCell<Random>,
    passed: Cell<Duration>,
}

impl Time for SimulatedTime {
    fn passed(&self) -> Duration {
        let more = Duration::from_micros(self.random.borrow_mut().below(300));
        self.passed.set(self.passed.get() + more);
        self.passed.get()
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        self.passed.set(self.passed.get() + time);
        let mut turns = self.random.borrow_mut().below(20);
        Box::pin(poll_fn(move |context| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        }))
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks hold what holds the list they wait in.
        self.spawned.take();
    }
}
