//! Owns what waits for a partition to advance: produces for their acknowledgement, fetches for bytes to read.
//! It has no clock: whoever waits brings its own time-out and leaves by dropping what it holds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures::task::AtomicWaker;

use crate::ids::Offset;
use crate::log::LogError;

/// Appends that wait together for their acknowledgement: those of one request to partitions of this core.
#[derive(Debug, Default)]
pub struct ProduceWaiter {
    waiting: Cell<usize>,
    failed: RefCell<Vec<(usize, LogError)>>,
    waker: RefCell<Option<Waker>>,
}

impl ProduceWaiter {
    /// For one more append, the request's `place`th; the first makes the waiter.
    pub fn ticket(waiter: &mut Option<Rc<ProduceWaiter>>, place: usize) -> Ticket {
        let waiter = waiter.get_or_insert_default();
        waiter.waiting.set(waiter.waiting.get() + 1);
        Ticket {
            waiter: Some(waiter.clone()),
            place,
        }
    }

    /// For one append alone.
    pub fn alone() -> (Rc<ProduceWaiter>, Ticket) {
        let mut waiter = None;
        let ticket = ProduceWaiter::ticket(&mut waiter, 0);
        (waiter.expect("just made"), ticket)
    }

    /// Ready when all have been acknowledged, with those that failed.
    pub fn poll_all(&self, context: &mut Context<'_>) -> Poll<Vec<(usize, LogError)>> {
        if self.waiting.get() == 0 {
            return Poll::Ready(self.failed.take());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Of one append alone.
    pub async fn outcome(&self) -> Result<(), LogError> {
        let failed = poll_fn(|context| self.poll_all(context)).await.pop();
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    fn on_outcome(&self, place: usize, outcome: Result<(), LogError>) {
        if let Err(error) = outcome {
            self.failed.borrow_mut().push((place, error));
        }
        self.waiting.set(self.waiting.get() - 1);
        if self.waiting.get() == 0
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

/// One append's part in a [`ProduceWaiter`]. Dropped without an outcome it says that the log is closed.
#[derive(Debug)]
pub struct Ticket {
    /// Until the outcome.
    waiter: Option<Rc<ProduceWaiter>>,
    place: usize,
}

impl Ticket {
    fn resolve(&mut self, outcome: Result<(), LogError>) {
        if let Some(waiter) = self.waiter.take() {
            waiter.on_outcome(self.place, outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.resolve(Err(LogError::Closed));
    }
}

/// So many places are kept when nobody waits: many partitions are there, of which each gets a batch now and then.
const KEPT: usize = 64;

/// Appends in the order of their offsets, each waiting for one of the log's marks to reach its end.
#[derive(Debug, Default)]
pub struct DelayedProduces {
    waiting: VecDeque<(Offset, Ticket)>,
}

impl DelayedProduces {
    /// Waits for the mark to reach `end`. Ends ascend, but for a repeated batch that still waits for its first append.
    pub fn wait(&mut self, end: Offset, ticket: Ticket) {
        match self.waiting.back() {
            Some((last, _)) if *last > end => {
                let place = self.waiting.partition_point(|(other, _)| *other <= end);
                self.waiting.insert(place, (end, ticket));
            }
            _ => self.waiting.push_back((end, ticket)),
        }
    }

    pub fn on_advance(&mut self, mark: Offset) {
        while let Some((end, ticket)) = self.waiting.front_mut()
            && *end <= mark
        {
            ticket.resolve(Ok(()));
            self.waiting.pop_front();
        }
        if self.waiting.is_empty() && self.waiting.capacity() > KEPT {
            self.waiting = VecDeque::new();
        }
    }

    pub fn on_failure(&mut self, error: &LogError) {
        for (_, mut ticket) in self.waiting.drain(..) {
            ticket.resolve(Err(error.clone()));
        }
    }
}

/// One fetch that waits for bytes in any of its partitions on this shard.
#[derive(Debug)]
pub struct FetchWaiter {
    missing: Cell<u64>,
    waker: AtomicWaker,
}

impl FetchWaiter {
    /// `bytes` as `min.bytes` counts them.
    pub fn new(bytes: u64) -> Rc<FetchWaiter> {
        Rc::new(FetchWaiter {
            missing: Cell::new(bytes),
            waker: AtomicWaker::new(),
        })
    }

    /// Counts bytes that have become readable.
    pub fn on_bytes(&self, bytes: u64) {
        self.missing.set(self.missing.get().saturating_sub(bytes));
        if self.missing.get() == 0 {
            self.waker.wake();
        }
    }

    /// Something other than bytes has changed, which the fetch should tell its client.
    pub fn on_change(&self) {
        self.on_bytes(u64::MAX);
    }

    pub async fn satisfied(&self) {
        poll_fn(|context| {
            self.waker.register(context.waker());
            if self.missing.get() == 0 {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// The fetches that wait for one partition.
#[derive(Debug, Default)]
pub struct DelayedFetches {
    waiters: Vec<Weak<FetchWaiter>>,
    /// Length at which those who have left are looked for.
    crowded: usize,
}

impl DelayedFetches {
    pub fn add(&mut self, waiter: &Rc<FetchWaiter>) {
        if self.waiters.len() >= self.crowded.max(8) {
            self.waiters.retain(|waiter| waiter.strong_count() > 0);
            self.crowded = self.waiters.len() * 2;
        }
        self.waiters.push(Rc::downgrade(waiter));
    }

    pub fn on_bytes(&mut self, bytes: u64) {
        self.waiters.retain(|waiter| {
            let waiter = waiter.upgrade();
            if let Some(waiter) = &waiter {
                waiter.on_bytes(bytes);
            }
            waiter.is_some()
        });
    }

    pub fn on_change(&mut self) {
        self.on_bytes(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    type Waiter = Option<Rc<ProduceWaiter>>;

    fn outcome(waiter: &Waiter) -> Option<Vec<(usize, LogError)>> {
        let waiter = waiter.as_ref().unwrap();
        poll_fn(|context| waiter.poll_all(context)).now_or_never()
    }

    #[test]
    fn produces_are_acknowledged_when_the_mark_reaches_their_end() {
        let mut produces = DelayedProduces::default();
        let [mut first, mut second, mut repeated] = [const { None }; 3];
        produces.wait(Offset(10), ProduceWaiter::ticket(&mut first, 0));
        produces.wait(Offset(20), ProduceWaiter::ticket(&mut second, 0));
        produces.on_advance(Offset(19));
        assert_eq!(outcome(&first), Some(Vec::new()));
        assert_eq!(outcome(&second), None);
        produces.wait(Offset(15), ProduceWaiter::ticket(&mut repeated, 0));
        produces.on_advance(Offset(19));
        assert_eq!(outcome(&repeated), Some(Vec::new()));
        produces.on_failure(&LogError::Closed);
        assert_eq!(outcome(&second), Some(vec![(0, LogError::Closed)]));
    }

    #[test]
    fn a_request_waits_for_all_its_appends_and_knows_which_failed() {
        let mut partitions = [DelayedProduces::default(), DelayedProduces::default()];
        let mut waiter = None;
        for (place, partition) in partitions.iter_mut().enumerate() {
            partition.wait(Offset(5), ProduceWaiter::ticket(&mut waiter, place));
        }
        partitions[0].on_advance(Offset(5));
        assert_eq!(outcome(&waiter), None);
        let failure = LogError::storage("disk", &std::io::Error::other("full"));
        partitions[1].on_failure(&failure);
        assert_eq!(outcome(&waiter), Some(vec![(1, failure)]));
    }

    #[test]
    fn a_partition_that_goes_leaves_nobody_waiting() {
        let mut produces = DelayedProduces::default();
        let mut waiter = None;
        produces.wait(Offset(5), ProduceWaiter::ticket(&mut waiter, 3));
        drop(produces);
        assert_eq!(outcome(&waiter), Some(vec![(3, LogError::Closed)]));
    }

    #[test]
    fn a_fetch_is_woken_by_the_bytes_of_all_its_partitions() {
        let waiter = FetchWaiter::new(100);
        let mut partitions = [DelayedFetches::default(), DelayedFetches::default()];
        for partition in &mut partitions {
            partition.add(&waiter);
        }
        partitions[0].on_bytes(60);
        assert!(waiter.satisfied().now_or_never().is_none());
        partitions[1].on_bytes(40);
        assert!(waiter.satisfied().now_or_never().is_some());
    }

    #[test]
    fn fetches_that_left_are_forgotten() {
        let mut partition = DelayedFetches::default();
        for _ in 0..1000 {
            partition.add(&FetchWaiter::new(1));
        }
        assert!(partition.waiters.len() <= 16);
    }
}
