//! Owns that no executor sleeps over its tasks. One (glommio-ng 0.12) whose preemption timer fires before it begins with
//! what it could run goes to sleep over it; a signal ends that sleep and does nothing else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak, mpsc};
use std::time::Duration;

use super::process;

/// How long an executor may take for its first task before it is believed to sleep over it.
const FIRST: Duration = Duration::from_millis(20);

/// One that has not beaten between two looks is believed to sleep.
const LOOK: Duration = Duration::from_millis(250);

/// Sees to it that an executor comes to its first task, which is to drop it.
pub struct Alarm {
    _begun: mpsc::Sender<()>,
}

/// Interrupts the threads whose names begin so, one of which is the executor's, until it has begun.
pub fn watch(thread_name: impl Into<String>) -> Alarm {
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
    Alarm { _begun: begun }
}

/// How often a thread's executor has beaten; as long as the thread lives.
struct Pulse {
    thread: process::ThreadId,
    beats: AtomicU64,
}

struct Watched {
    pulse: Weak<Pulse>,
    /// At the last look.
    beats: u64,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

thread_local! {
    static PULSE: Arc<Pulse> = begin();
}

/// This thread's executor runs. From its first beat on it is interrupted when it stands still.
pub(super) fn beat() {
    PULSE.with(|pulse| pulse.beats.fetch_add(1, Ordering::Relaxed));
}

/// Begins to look after executors, from a thread that may run wherever this one may; without, the first one's CPU is shared.
pub fn start() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let thread = std::thread::Builder::new().name("watchdog".into());
        if let Err(error) = thread.spawn(keep_looking) {
            tracing::warn!(%error, "nobody watches over the executors");
        }
    });
}

fn begin() -> Arc<Pulse> {
    start();
    let pulse = Arc::new(Pulse {
        thread: process::thread_id(),
        beats: AtomicU64::new(0),
    });
    let watched = Watched {
        pulse: Arc::downgrade(&pulse),
        beats: 0,
    };
    let all = WATCHED.lock();
    all.unwrap_or_else(PoisonError::into_inner).push(watched);
    pulse
}

fn keep_looking() {
    loop {
        std::thread::sleep(LOOK);
        let all = WATCHED.lock();
        all.unwrap_or_else(PoisonError::into_inner).retain_mut(look);
    }
}

/// Whether the thread still lives.
fn look(watched: &mut Watched) -> bool {
    let Some(pulse) = watched.pulse.upgrade() else {
        return false;
    };
    let beats = pulse.beats.load(Ordering::Relaxed);
    if beats == watched.beats {
        let interrupted = process::interrupt_thread(pulse.thread);
        tracing::debug!(?interrupted, "an executor stood still");
    }
    watched.beats = beats;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::io::clock;

    /// Waits for nothing at all, without a limit.
    fn wait_for_ever() -> std::io::ErrorKind {
        // SAFETY: there is nothing that it could write to.
        let result = unsafe { libc::poll(std::ptr::null_mut(), 0, -1) };
        assert_eq!(result, -1);
        std::io::Error::last_os_error().kind()
    }

    #[test]
    fn a_thread_that_waits_in_the_kernel_is_interrupted_until_it_begins() {
        let began = clock::now();
        let wait = || {
            let watch = watch(process::thread_name());
            let woken = wait_for_ever();
            drop(watch);
            woken
        };
        let waiter = std::thread::Builder::new().name("slept-over".into());
        let woken = waiter.spawn(wait).expect("a thread").join();
        assert_eq!(woken.expect("no panic"), std::io::ErrorKind::Interrupted);
        assert!(began.elapsed() >= FIRST);
    }

    #[test]
    fn a_thread_that_stands_still_is_interrupted_each_time() {
        let wait = || {
            let mut woken = Vec::new();
            for _ in 0..2 {
                beat();
                woken.push(wait_for_ever());
            }
            woken
        };
        let woken = std::thread::spawn(wait).join().expect("no panic");
        assert_eq!(woken, [std::io::ErrorKind::Interrupted; 2]);
    }
}
