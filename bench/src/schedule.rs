//! Owns when each event of an open loop is meant to happen. It has no clock.

use std::time::{Duration, Instant};

/// Events at a steady rate from a start on; event n is meant for start + n / rate, whatever happened to those before.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start: Instant,
    per_second: f64,
}

impl Schedule {
    pub fn new(start: Instant, per_second: f64) -> Schedule {
        assert!(per_second > 0.0);
        Schedule { start, per_second }
    }

    pub fn intended(&self, event: u64) -> Instant {
        self.start + Duration::from_secs_f64(event as f64 / self.per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_meant_for_their_time_whatever_happens() {
        let start = crate::clock::now();
        let schedule = Schedule::new(start, 1000.0);
        assert_eq!(schedule.intended(0), start);
        assert_eq!(schedule.intended(500), start + Duration::from_millis(500));
    }
}
