//! Owns a workaround for the executor (glommio-ng 0.12): when its preemption timer has fired before it began
//! with its runnable tasks, which happens where another process takes the CPU away, it goes to sleep over
//! them and wakes only when something else happens. So something else happens every few milliseconds:
//! timers that wake no task, armed well ahead, so that the task that arms them may be slept over as well.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use glommio::timer::{Timer, sleep};

use crate::io::clock;

/// The longest that a runnable task is slept over.
const BEAT: Duration = Duration::from_millis(10);

/// So far ahead timers are armed.
const HORIZON: Duration = Duration::from_secs(3);

/// How often they are added to.
const REFILL: Duration = Duration::from_secs(1);

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
