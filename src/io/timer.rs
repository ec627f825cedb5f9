//! Owns waiting for time to pass: the sleepers of a thread, in the order they wake.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;

use super::clock;
use super::ring::{self, Ring};
use super::turn;

/// Time for those that run in the simulator, too.
pub trait Time {
    /// How much has passed since some moment.
    fn passed(&self) -> Duration;
    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()>;
}

/// Time as this machine has it.
pub fn real() -> Rc<dyn Time> {
    Rc::new(RealTime {
        since: clock::now(),
    })
}

struct RealTime {
    since: Instant,
}

impl Time for RealTime {
    fn passed(&self) -> Duration {
        clock::now() - self.since
    }

    fn sleep(&self, time: Duration) -> LocalBoxFuture<'static, ()> {
        Box::pin(sleep(time))
    }
}

/// Who sleeps, by when and in which order.
#[derive(Default)]
pub(super) struct Timers {
    sleepers: BTreeMap<(Instant, u64), Waker>,
    next_number: u64,
}

impl Timers {
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.sleepers.keys().next().map(|(due, _)| *due)
    }

    /// One whose time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Waker> {
        let first = self.sleepers.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

/// Resolves when so much time has passed.
pub fn sleep(time: Duration) -> Sleep {
    sleep_until(clock::now() + time)
}

/// Resolves at `due`; at once if that is past.
pub fn sleep_until(due: Instant) -> Sleep {
    Sleep {
        due,
        sleeping: None,
    }
}

/// As [`sleep`], until the first beat after that: then the thread is awake anyway.
pub fn sleep_until_beat_after(time: Duration) -> Sleep {
    sleep_until(turn::next_beat(clock::now() + time))
}

/// See [`sleep`].
#[must_use = "it sleeps when it is awaited"]
pub struct Sleep {
    due: Instant,
    /// Its place among the sleepers.
    sleeping: Option<(Rc<Ring>, u64)>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if clock::now() >= self.due {
            return Poll::Ready(());
        }
        let due = self.due;
        let (ring, number) = self.sleeping.get_or_insert_with(|| {
            let ring = ring::current();
            let number = {
                let mut timers = ring.timers.borrow_mut();
                timers.next_number += 1;
                timers.next_number
            };
            (ring, number)
        });
        let mut timers = ring.timers.borrow_mut();
        timers
            .sleepers
            .insert((due, *number), context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some((ring, number)) = &self.sleeping {
            let woken_before = ring
                .timers
                .borrow_mut()
                .sleepers
                .remove(&(self.due, *number));
            drop(woken_before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use futures::future::{Either, join_all, select};

    use super::*;

    fn on_executor(work: impl AsyncFnOnce() + Send + 'static) {
        let executor = glommio::LocalExecutorBuilder::default();
        let executor = executor.spawn(|| async { work().await });
        executor.unwrap().join().unwrap();
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        on_executor(async || {
            let woken = Rc::new(RefCell::new(Vec::new()));
            let began = clock::now();
            let sleepers = [57, 51, 50, 55, 53].map(|millis| {
                let (woken, due) = (woken.clone(), began + Duration::from_millis(millis));
                glommio::spawn_local(async move {
                    sleep_until(due).await;
                    assert!(clock::now() >= due);
                    woken.borrow_mut().push(millis);
                })
            });
            join_all(sleepers).await;
            assert_eq!(*woken.borrow(), [50, 51, 53, 55, 57]);
        });
    }

    #[test]
    fn who_gives_up_sleeping_is_forgotten() {
        on_executor(async || {
            let long = sleep(Duration::from_secs(3600));
            let short = sleep(Duration::from_millis(1));
            let Either::Right((_, long)) = select(long, short).await else {
                panic!("an hour is longer");
            };
            let sleepers = || ring::current().timers.borrow().sleepers.len();
            assert_eq!(sleepers(), 1);
            drop(long);
            assert_eq!(sleepers(), 0);
        });
    }
}
