//! Owns the clocks: monotonic, wall, the CPU's own counter, and CPU time. Machines never read them: they are handed the time.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::ids::TimestampMs;

/// Monotonic time, for intervals.
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970 by the machine's wall clock; 0 if it stands before 1970.
pub fn wall_ms() -> TimestampMs {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as TimestampMs)
}

/// A moment as the CPU counts it, for spans on the hot path: half the cost of [`now`], and as good between the cores
/// of one machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Ticks(u64);

impl Ticks {
    /// 0 if `earlier` is later, as it may seem to be from another core.
    pub fn nanos_since(self, earlier: Ticks) -> u64 {
        nanos_of(self.0.saturating_sub(earlier.0), scale())
    }
}

/// Now, by the CPU's counter where that runs steadily, else by the monotonic clock.
pub fn ticks() -> Ticks {
    match scale() {
        MONOTONIC => Ticks(monotonic_nanos()),
        _ => Ticks(counter::read()),
    }
}

/// Nanoseconds a tick, as a fixed-point number with this many bits behind the point; 0 until it is known.
static SCALE: AtomicU64 = AtomicU64::new(0);
const SCALE_BITS: u32 = 32;

/// The scale of ticks that are nanoseconds.
const MONOTONIC: u64 = 1 << SCALE_BITS;

/// How long the counter is compared with the clock to know its rate; the error is the clock's by this.
const CALIBRATION_NANOS: u64 = 100_000;

fn scale() -> u64 {
    match SCALE.load(Ordering::Relaxed) {
        0 => calibrate(),
        scale => scale,
    }
}

#[cold]
fn calibrate() -> u64 {
    let measured = counter::is_steady().then(measure_counter).flatten();
    // Of several threads here at once all are to go by one answer.
    match SCALE.compare_exchange(
        0,
        measured.unwrap_or(MONOTONIC),
        Ordering::Relaxed,
        Ordering::Relaxed,
    ) {
        Ok(_) => measured.unwrap_or(MONOTONIC),
        Err(others) => others,
    }
}

fn measure_counter() -> Option<u64> {
    let (first_tick, first_nanos) = both_clocks();
    while monotonic_nanos() < first_nanos + CALIBRATION_NANOS {
        std::hint::spin_loop();
    }
    let (last_tick, last_nanos) = both_clocks();
    let ticks = last_tick
        .checked_sub(first_tick)
        .filter(|ticks| *ticks > 0)?;
    let scale = (u128::from(last_nanos - first_nanos) << SCALE_BITS) / u128::from(ticks);
    u64::try_from(scale)
        .ok()
        .filter(|scale| ![0, MONOTONIC].contains(scale))
}

/// Both clocks at the same moment: the closest of some tries, as the thread may lose its core between the two.
fn both_clocks() -> (u64, u64) {
    let tries = (0..5).map(|_| {
        let before = counter::read();
        let nanos = monotonic_nanos();
        let apart = counter::read().saturating_sub(before);
        (apart, before + apart / 2, nanos)
    });
    let (_, tick, nanos) = tries.min().expect("there are tries");
    (tick, nanos)
}

fn nanos_of(ticks: u64, scale: u64) -> u64 {
    ((u128::from(ticks) * u128::from(scale)) >> SCALE_BITS) as u64
}

fn monotonic_nanos() -> u64 {
    clock_nanos(libc::CLOCK_MONOTONIC)
}

/// CPU time that this thread has used.
pub fn thread_cpu() -> Duration {
    Duration::from_nanos(clock_nanos(libc::CLOCK_THREAD_CPUTIME_ID))
}

/// CPU time that all threads of this process have used.
pub fn process_cpu() -> Duration {
    Duration::from_nanos(clock_nanos(libc::CLOCK_PROCESS_CPUTIME_ID))
}

fn clock_nanos(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel fills the struct we hand it; these clocks are on every Linux.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(target_arch = "x86_64")]
mod counter {
    use std::arch::x86_64::_rdtsc;

    /// Where the kernel trusts it to run at one rate whatever a core does, and alike on all of them.
    const TRUSTED: &str = "/sys/devices/system/clocksource/clocksource0/available_clocksource";

    pub(super) fn is_steady() -> bool {
        let trusted = std::fs::read_to_string(TRUSTED).unwrap_or_default();
        trusted.split_whitespace().any(|clock| clock == "tsc")
    }

    pub(super) fn read() -> u64 {
        // SAFETY: every x86-64 has the instruction, and it reads a register.
        unsafe { _rdtsc() }
    }
}

/// Other machines' counters are read by nobody here.
#[cfg(not(target_arch = "x86_64"))]
mod counter {
    pub(super) fn is_steady() -> bool {
        false
    }

    pub(super) fn read() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_as_long_as_the_monotonic_clock_says() {
        let (began, first) = (now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let inside = ticks().nanos_since(first);
        let outside = began.elapsed().as_nanos() as u64;
        assert!(inside >= 19_900_000, "{inside}");
        assert!(inside <= outside + outside / 100, "{inside} {outside}");
        assert_eq!(first.nanos_since(ticks()), 0);
    }

    #[test]
    fn spans_of_days_do_not_overflow() {
        let third_of_a_nanosecond = MONOTONIC / 3;
        let days = 40 * 86_400 * 3_000_000_000;
        let nanos = nanos_of(days, third_of_a_nanosecond);
        assert!(nanos.abs_diff(days / 3) < 10_000_000, "{nanos}");
    }

    #[test]
    fn cpu_time_passes_while_a_thread_works() {
        let before = thread_cpu();
        let began = now();
        while began.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(thread_cpu() > before);
        assert!(process_cpu() >= thread_cpu());
    }
}
