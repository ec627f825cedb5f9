//! Owns the two clocks. Machines never read them: they are handed the time.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the one place that reads the clock"
)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

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
