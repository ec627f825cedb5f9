//! Owns what waits for a partition to advance: produces for their acknowledgement, fetches for bytes to read.
//! It has no clock: whoever waits brings its own time-out and leaves by dropping what it holds.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::Poll;

use futures::channel::oneshot;
use futures::task::AtomicWaker;

use crate::ids::Offset;

/// Resolves when the append is acknowledged; an error when its log has gone offline.
pub type Acknowledgement<E> = oneshot::Receiver<Result<(), E>>;

/// Appends in the order of their offsets, each waiting for one of the log's marks to reach its end.
#[derive(Debug)]
pub struct DelayedProduces<E> {
    waiting: VecDeque<(Offset, oneshot::Sender<Result<(), E>>)>,
}

impl<E> Default for DelayedProduces<E> {
    fn default() -> Self {
        DelayedProduces {
            waiting: VecDeque::new(),
        }
    }
}

impl<E: Clone> DelayedProduces<E> {
    /// Waits for the mark to reach `end`. Ends ascend, but for a repeated batch that still waits for its first append.
    pub fn wait(&mut self, end: Offset) -> Acknowledgement<E> {
        let (sender, receiver) = oneshot::channel();
        let place = match self.waiting.back() {
            Some((last, _)) if *last > end => {
                self.waiting.partition_point(|(other, _)| *other <= end)
            }
            _ => self.waiting.len(),
        };
        self.waiting.insert(place, (end, sender));
        receiver
    }

    pub fn on_advance(&mut self, mark: Offset) {
        while let Some((end, _)) = self.waiting.front()
            && *end <= mark
        {
            let (_, sender) = self.waiting.pop_front().expect("there is a first");
            let _client_gone = sender.send(Ok(()));
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    pub fn on_failure(&mut self, error: &E) {
        for (_, sender) in self.waiting.drain(..) {
            let _client_gone = sender.send(Err(error.clone()));
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

    #[test]
    fn produces_are_acknowledged_when_the_mark_reaches_their_end() {
        let mut produces: DelayedProduces<&str> = DelayedProduces::default();
        let mut first = produces.wait(Offset(10));
        let mut second = produces.wait(Offset(20));
        produces.on_advance(Offset(19));
        assert_eq!(first.try_recv(), Ok(Some(Ok(()))));
        assert_eq!(second.try_recv(), Ok(None));
        let mut repeated = produces.wait(Offset(15));
        produces.on_advance(Offset(19));
        assert_eq!(repeated.try_recv(), Ok(Some(Ok(()))));
        produces.on_failure(&"disk");
        assert_eq!(second.try_recv(), Ok(Some(Err("disk"))));
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
