//! Owns telling a person at a terminal how far a long command is.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::io::clock;

const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Progress {
    shown: bool,
    wanted: bool,
    began: Instant,
    last: Instant,
}

impl Progress {
    /// Shows nothing unless `wanted` and stderr is a terminal.
    pub fn new(wanted: bool) -> Progress {
        let now = clock::now();
        Progress {
            shown: false,
            wanted: wanted && std::io::stderr().is_terminal(),
            began: now,
            last: now,
        }
    }

    /// Call as often as wanted; shows at most one line a second, over the last one.
    pub fn show(&mut self, records: u64, bytes: u64) {
        if !self.wanted {
            return;
        }
        let now = clock::now();
        if now - self.last < EVERY {
            return;
        }
        self.last = now;
        self.shown = true;
        let seconds = (now - self.began).as_secs_f64();
        let megabytes = bytes as f64 / 1e6;
        eprint!(
            "\r{records} records, {megabytes:.1} MB, {:.1} MB/s ",
            megabytes / seconds
        );
        let _nobody_looks = std::io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            eprintln!();
        }
    }
}
