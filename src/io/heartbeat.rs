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

/// Call once on each executor, first of all.
pub(super) fn begin() {
    glommio::spawn_local(async {
        let began = clock::now();
        let mut beats = 0;
        let mut armed = VecDeque::new();
        loop {
            let now = began.elapsed();
            while BEAT * beats < now + HORIZON {
                beats += 1;
                let mut timer = Timer::new((BEAT * beats).saturating_sub(now));
                let _waiting = Pin::new(&mut timer).poll(&mut Context::from_waker(Waker::noop()));
                armed.push_back((BEAT * beats, timer));
            }
            sleep(REFILL).await;
            let now = began.elapsed();
            while armed.front().is_some_and(|(due, _)| *due < now) {
                armed.pop_front();
            }
        }
    })
    .detach();
}
