//! Owns the turns of a thread: when it goes to the kernel, when it sleeps there, and who wakes it.
//!
//! glommio's executor runs the tasks. Its own three rings would take a dozen system calls and more for each time it
//! runs out of them, so it does not run out: the task in here is always there to be run, behind all others. A turn
//! is what runs between two of its runs; each ends with one system call on the ring, which sleeps if nothing else
//! was there to run. Now and then the executor gets to look at what is its own: signals, stdin, work on other threads.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use glommio::GlommioError;
use glommio::io::PollableFd;
use glommio::timer::Timer;

use super::clock::{self, Ticks};
use super::ring::{self, Ring};
use super::watch::Watch;
use super::watchdog;

/// So often the executor looks at what is its own, and at what nobody hurries about.
const BEAT: Duration = Duration::from_millis(20);

/// All threads' beats fall together: what one then has for another finds it awake.
static FIRST_BEAT: OnceLock<Instant> = OnceLock::new();

/// A task that has more to do lets others run when the turn has lasted so long, if nobody says otherwise.
pub const LENGTH: Duration = Duration::from_micros(500);

thread_local! {
    /// When this thread's turn began.
    static BEGAN: Cell<Ticks> = Cell::default();

    /// How long this thread's turns last.
    static LENGTH_NANOS: Cell<u64> = const { Cell::new(LENGTH.as_nanos() as u64) };

    /// For how long this thread has idled, if it does that where others sleep.
    static IDLED: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// From now on this thread's turns last so long.
pub fn set_length(length: Duration) {
    LENGTH_NANOS.set(length.as_nanos() as u64);
}

/// From now on this thread never sleeps: what it waits for finds it awake. That takes all of a core, except what others
/// want of it.
pub fn stay_awake() {
    IDLED.set(IDLED.get().or(Some(Duration::ZERO)));
}

/// For how long it has stayed awake with nothing to do.
pub fn idled() -> Duration {
    IDLED.get().unwrap_or_default()
}

/// Lets other tasks run, and what is done be seen, if the turn has lasted long.
pub async fn yield_if_needed() {
    if clock::ticks().nanos_since(BEGAN.get()) > LENGTH_NANOS.get() {
        glommio::executor().yield_now().await;
    }
}

/// Lets other tasks run, and what is done be seen.
pub async fn yield_now() {
    glommio::executor().yield_now().await;
}

/// Drives the ring as long as the executor runs.
pub(super) fn drive(ring: Rc<Ring>) {
    glommio::spawn_local(async move {
        // It fails where the executor is going away.
        let _ended = beat(&ring).await;
    })
    .detach();
}

/// The first beat after `time`.
pub(super) fn next_beat(time: Instant) -> Instant {
    let first = *FIRST_BEAT.get_or_init(clock::now);
    let since = time.saturating_duration_since(first).as_nanos() % BEAT.as_nanos();
    time + BEAT - Duration::from_nanos(since as u64)
}

async fn beat(ring: &Ring) -> Result<(), GlommioError<()>> {
    let always_ready = PollableFd::new(event(1)?)?;
    loop {
        watchdog::beat();
        let until = next_beat(clock::now());
        // Wakes an executor that sleeps over its runnable tasks, this one included: `watchdog` says how it comes to.
        let mut alarm = Timer::new(2 * BEAT);
        poll_fn(|context| {
            let _set = Pin::new(&mut alarm).poll(context);
            Poll::Ready(())
        })
        .await;
        turns(ring, until).await;
        // With nothing to run the executor polls its rings, where this is done at once.
        always_ready.readable().await?;
    }
}

async fn turns(ring: &Ring, until: Instant) {
    let executor = glommio::executor();
    let mut woken = true;
    loop {
        // Counts this task, too, and the turn before the last.
        let nobody_ran = executor.executor_stats().tasks_executed() <= 1;
        let now = clock::now();
        if now >= until {
            return;
        }
        let patience = (nobody_ran && !woken).then(|| until - now);
        woken = turn(ring, now, patience);
        BEGAN.set(clock::ticks());
        executor.yield_task_queue_now().await;
    }
}

/// One turn's meeting with the kernel. Whether it woke a task.
fn turn(ring: &Ring, now: Instant, patience: Option<Duration>) -> bool {
    let next_look = ring.seldom.borrow().next_due();
    let next_timer = ring.timers.borrow().next_due();
    let due = next_timer.into_iter().chain(next_look).min();
    let patience = patience.and_then(|patience| {
        let patience = due.map_or(patience, |due| {
            patience.min(due.saturating_duration_since(now))
        });
        (!patience.is_zero()).then_some(patience)
    });
    let mut woken = match patience {
        None => ring.enter(None),
        Some(patience) if IDLED.get().is_some() => idle(ring, now, now + patience),
        Some(_) => {
            let bell = ring.answering.borrow().as_ref().map(Answering::bell);
            let may_sleep = bell.as_ref().is_none_or(|bell| bell.begin_to_sleep());
            let woken = ring.enter(patience.filter(|_| may_sleep));
            if let Some(bell) = bell {
                bell.end_sleep();
            }
            woken
        }
    };
    if let Some(answering) = &*ring.answering.borrow() {
        woken |= answering.wake_if_rung();
    }
    if due.is_some() {
        let now = if patience.is_some() {
            clock::now()
        } else {
            now
        };
        while let Some(waker) = { ring.timers.borrow_mut().take_due(now) } {
            waker.wake();
            woken = true;
        }
        if next_look.is_some_and(|look| look <= now) {
            woken |= ring.look_seldom(now);
        }
    }
    woken
}

/// Stays awake until a task is woken, or `until`. Whether one was.
fn idle(ring: &Ring, since: Instant, until: Instant) -> bool {
    let is_rung = || {
        let answering = ring.answering.borrow();
        answering.as_ref().is_some_and(Answering::is_rung)
    };
    loop {
        let woken = ring.enter(None);
        let now = clock::now();
        if woken || now >= until || is_rung() {
            IDLED.set(Some(idled() + (now - since)));
            return woken;
        }
        // The kernel's own threads may have work here that somebody waits for.
        std::thread::yield_now();
    }
}

/// Wakes one thread from others; clones ring at the same thread.
#[derive(Clone, Debug)]
pub struct Doorbell {
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    /// It does not look whether it is rung: whoever rings writes to `event`.
    sleeps: AtomicBool,
    event: OwnedFd,
}

impl Bell {
    /// Whether nobody has rung.
    fn begin_to_sleep(&self) -> bool {
        self.sleeps.store(true, Ordering::SeqCst);
        !self.rung.load(Ordering::SeqCst)
    }

    fn end_sleep(&self) {
        self.sleeps.store(false, Ordering::Relaxed);
    }
}

impl Doorbell {
    pub fn new() -> io::Result<Doorbell> {
        Ok(Doorbell {
            bell: Arc::new(Bell {
                rung: AtomicBool::new(false),
                sleeps: AtomicBool::new(false),
                event: event(0)?,
            }),
        })
    }

    /// Whatever was done before is seen by the thread when it answers.
    pub fn ring(&self) {
        self.bell.rung.store(true, Ordering::SeqCst);
        if self.bell.sleeps.swap(false, Ordering::SeqCst) {
            let one = 1u64.to_ne_bytes();
            // SAFETY: writes 8 bytes out of 8 bytes; the descriptor is open, and never full.
            unsafe { libc::write(self.bell.event.as_raw_fd(), one.as_ptr().cast(), 8) };
        }
    }

    /// Makes this thread the one that it rings at. A thread answers one doorbell, in one task.
    pub fn answer(&self) -> Answer {
        let ring = ring::current();
        let answering = Answering {
            bell: self.bell.clone(),
            _watch: Watch::input(&self.bell.event),
            waker: Cell::new(None),
        };
        let other = ring.answering.replace(Some(answering));
        assert!(other.is_none(), "a thread answers one doorbell");
        Answer { ring }
    }
}

/// See [`Doorbell::answer`].
pub struct Answer {
    ring: Rc<Ring>,
}

impl Answer {
    /// Resolves when somebody has rung since it last resolved.
    pub async fn rung(&mut self) {
        poll_fn(|context| self.poll_rung(context)).await;
    }

    fn poll_rung(&self, context: &mut Context<'_>) -> Poll<()> {
        let answering = self.ring.answering.borrow();
        let answering = answering.as_ref().expect("it answers as long as this is");
        if answering.bell.rung.swap(false, Ordering::SeqCst) {
            return Poll::Ready(());
        }
        answering.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let answering = self.ring.answering.take();
        drop(answering);
    }
}

/// The doorbell that a thread answers.
pub(super) struct Answering {
    bell: Arc<Bell>,
    /// Ends a sleep.
    _watch: Watch,
    waker: Cell<Option<Waker>>,
}

impl Answering {
    fn bell(&self) -> Arc<Bell> {
        self.bell.clone()
    }

    fn is_rung(&self) -> bool {
        self.bell.rung.load(Ordering::Relaxed)
    }

    fn wake_if_rung(&self) -> bool {
        if !self.is_rung() {
            return false;
        }
        let waker = self.waker.take();
        let woken = waker.is_some();
        waker.into_iter().for_each(Waker::wake);
        woken
    }
}

/// An eventfd that counts from `count`.
fn event(count: u32) -> io::Result<OwnedFd> {
    // SAFETY: a plain system call whose result is checked.
    let event = unsafe { libc::eventfd(count, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if event < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(event) })
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::io::timer;

    fn on_executor<T: Send + 'static>(work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        let executor = glommio::LocalExecutorBuilder::default();
        let executor = executor.spawn(|| async { work().await });
        executor.unwrap().join().unwrap()
    }

    #[test]
    fn beats_follow_each_other_for_years() {
        let time = clock::now() + Duration::from_secs(3 * 365 * 86_400);
        let beat = next_beat(time);
        assert!(beat > time && beat <= time + BEAT);
        assert_eq!(next_beat(beat), beat + BEAT);
    }

    #[test]
    fn a_thread_sleeps_while_there_is_nothing_to_do() {
        let used = on_executor(async || {
            timer::sleep(Duration::from_millis(1)).await;
            let before = clock::thread_cpu();
            timer::sleep(Duration::from_millis(200)).await;
            clock::thread_cpu() - before
        });
        assert!(used < Duration::from_millis(40), "{used:?}");
    }

    #[test]
    fn a_thread_that_stays_awake_tells_how_long_it_had_nothing_to_do() {
        let (idled, used) = on_executor(async || {
            stay_awake();
            let before = clock::thread_cpu();
            let ring = Doorbell::new().unwrap();
            let mut answer = ring.answer();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                ring.ring();
            });
            answer.rung().await;
            timer::sleep(Duration::from_millis(30)).await;
            (idled(), clock::thread_cpu() - before)
        });
        assert!(idled >= Duration::from_millis(40), "{idled:?}");
        assert!(used > Duration::ZERO);
    }

    #[test]
    fn a_task_that_lets_others_run_does_not_keep_time_from_passing() {
        on_executor(async || {
            let slept = std::rc::Rc::new(Cell::new(false));
            let told = slept.clone();
            glommio::spawn_local(async move {
                timer::sleep(Duration::from_millis(2)).await;
                told.set(true);
            })
            .detach();
            while !slept.get() {
                yield_now().await;
            }
        });
    }

    #[test]
    fn a_doorbell_wakes_its_thread_whenever_it_is_rung() {
        let [here, there] = [(); 2].map(|()| Doorbell::new().unwrap());
        let (ping, pong) = (there.clone(), here.clone());
        let other = std::thread::spawn(move || {
            on_executor(async move || {
                let mut answer = there.answer();
                for _ in 0..500 {
                    answer.rung().await;
                    pong.ring();
                }
            });
        });
        on_executor(async move || {
            let mut answer = here.answer();
            for round in 0..500 {
                if round % 50 == 0 {
                    timer::sleep(Duration::from_millis(1)).await;
                }
                ping.ring();
                answer.rung().await;
            }
        });
        other.join().unwrap();
    }

    #[test]
    fn executors_that_follow_each_other_on_a_thread_have_a_ring_each() {
        let others = std::thread::spawn(|| {
            for _ in 0..3 {
                let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
                executor.run(timer::sleep(Duration::from_millis(1)));
            }
        });
        others.join().unwrap();
    }

    #[test]
    fn what_the_executor_waits_for_itself_comes_too() {
        let answer = on_executor(async || glommio::executor().spawn_blocking(|| 42).await);
        assert_eq!(answer, 42);
    }
}
