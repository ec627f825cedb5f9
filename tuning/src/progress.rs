//! Owns telling a person how far a measurement is: one line with a bar, over the last one.

use std::io::{IsTerminal, Write};
use std::time::Duration;

const BAR_COLUMNS: usize = 16;

/// Of a line, so that it does not wrap where a terminal is as narrow as they come.
const COLUMNS: usize = 79;

#[derive(Debug)]
pub struct Progress {
    wanted: bool,
    is_shown: bool,
}

impl Progress {
    /// Shows nothing unless stderr is a terminal, or `always`.
    pub fn new(always: bool) -> Progress {
        Progress {
            wanted: always || std::io::stderr().is_terminal(),
            is_shown: false,
        }
    }

    pub fn show(&mut self, done: f64, left: Duration, what: &str) {
        if self.wanted {
            self.is_shown = true;
            eprint!("\r{:<COLUMNS$}", line(done, left, what));
            let _nobody_looks = std::io::stderr().flush();
        }
    }
}

/// The line goes away with it.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            eprint!("\r{:COLUMNS$}\r", "");
        }
    }
}

fn line(done: f64, left: Duration, what: &str) -> String {
    let done = done.clamp(0.0, 1.0);
    let filled = (done * BAR_COLUMNS as f64) as usize;
    let bar = "#".repeat(filled) + &"-".repeat(BAR_COLUMNS - filled);
    let line = format!(
        "[{bar}] {:>3.0} % {:>4.0} s left  {what}",
        done * 100.0,
        left.as_secs_f64()
    );
    line.chars().take(COLUMNS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_how_much_is_done_and_never_wraps() {
        let line = |done, what| line(done, Duration::from_secs(45), what);
        assert_eq!(
            line(0.25, "cold reads"),
            "[####------------]  25 %   45 s left  cold reads"
        );
        assert!(line(-1.0, "").starts_with("[-"));
        assert!(line(7.0, "").starts_with(&format!("[{}] 100 %", "#".repeat(BAR_COLUMNS))));
        assert_eq!(line(0.5, &"long ".repeat(50)).chars().count(), COLUMNS);
    }
}
