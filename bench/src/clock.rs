//! Owns the clock that everything here is measured with.
#![allow(
    clippy::disallowed_methods,
    reason = "measuring time is the generator's work; this is its one place that reads the clock"
)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, for the timestamps of records.
pub fn wall_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as i64)
}
