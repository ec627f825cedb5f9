//! Owns a workaround for the executor (glommio-ng 0.12): when its preemption timer has fired before it began
//! with its runnable tasks, which happens where another process takes the CPU away, it goes to sleep over
//! them and wakes only when something else happens. So something else happens every few milliseconds:
//! timers that wake no task, armed well ahead, so that the task that arms them may be slept over as well.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Waker};
use std::time::Duration;

use glommio::timer::{Timer, sleep};

use crate::io::{clock, process};

/// The longest that a runnable task is slept over.
const BEAT: Duration = Duration::from_millis(10);

/// So far ahead timers are armed.
const HORIZON: Duration = Duration::from_secs(3);

/// How often they are added to.
const REFILL: Duration = Duration::from_secs(1);

/// How long an executor may take for its first task before it is believed to sleep over it.
const FIRST: Duration = Duration::from_millis(20);

/// Sees to it that an executor comes to its first task, which is to call [`Watch::begin`].
pub struct Watch {
    /// Dropping it ends the watch.
    _begun: mpsc::Sender<()>,
}

/// Interrupts the threads whose names begin so, one of which is the executor's, until it has begun.
pub fn watch(thread_name: impl Into<String>) -> Watch {
    let (begun, waiting) = mpsc::channel::<()>();
    let name = thread_name.into();
    std::thread::spawn(move || {
        while waiting.recv_timeout(FIRST) == Err(mpsc::RecvTimeoutError::Timeout) {
            if let Err(error) = process::interrupt_threads(&name) {
                tracing::debug!(%error, "cannot interrupt an executor");
                return;
            }
        }
    });
    Watch { _begun: begun }
}

impl Watch {
    /// As [`begin`], for the executor that is watched.
    pub fn begin(self) {
        begin();
    }
}

/// Call once on each executor, first of all: when this returns, it beats.
pub fn begin() {
    let mut beats = Beats::default();
    let began = clock::now();
    beats.arm(Duration::ZERO);
    glommio::spawn_local(async move {
        loop {
            sleep(REFILL).await;
            beats.arm(began.elapsed());
        }
    })
    .detach();
}

/// Timers by when they are due, counted from the beginning.
#[derive(Default)]
struct Beats {
    armed: VecDeque<(Duration, Timer)>,
    last: Duration,
}

impl Beats {
    fn arm(&mut self, now: Duration) {
        while self.armed.front().is_some_and(|(due, _)| *due < now) {
            self.armed.pop_front();
        }
        self.last = self.last.max(now);
        while self.last < now + HORIZON {
            self.last += BEAT;
            let mut timer = Timer::new(self.last - now);
            let _waiting = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
            self.armed.push_back((self.last, timer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_in_the_kernel_is_interrupted_until_it_begins() {
        let began = clock::now();
        let wait = || {
            let watch = watch(process::thread_name());
            // SAFETY: waits for nothing at all, without a limit.
            let result = unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
            let error = std::io::Error::last_os_error();
            drop(watch);
            (result, error.kind())
        };
        let waiter = std::thread::Builder::new().name("slept-over".into());
        let woken = waiter.spawn(wait).expect("a thread").join();
        let woken = woken.expect("no panic");
        assert_eq!(woken, (-1, std::io::ErrorKind::Interrupted));
        assert!(began.elapsed() >= FIRST);
    }
}
