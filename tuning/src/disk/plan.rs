//! Owns what is measured in which order, how much of the time each step gets, and how the space is divided. Pure.

use std::fmt;

use super::load::{FileState, Load};
use super::read::Readers;

/// A run shorter than this measures fewer steps, so that each is long enough to say something.
pub const FULL_SECONDS: f64 = 30.0;

/// Bytes that one cold read of the broker brings.
pub const COLD_READ_BYTES: usize = 256 << 10;

/// As large as the journal of one core grows.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

const STATES: [FileState; 3] = [FileState::Growing, FileState::Allocated, FileState::Zeroed];

/// What is measured at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Append(Load),
    Read(Readers),
    Mixed(Load, Readers),
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Append(load) => load.fmt(out),
            Kind::Read(readers) => readers.fmt(out),
            Kind::Mixed(load, readers) => write!(out, "{load}; beside {readers}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    pub kind: Kind,
    /// How long it takes compared with others.
    pub weight: u32,
}

/// What a run of so many seconds measures. The broker's own ways come first and take longest: their tails are the verdict.
pub fn steps(seconds: f64) -> Vec<Step> {
    let is_full = seconds >= FULL_SECONDS;
    let pick = |full: &[usize], short: &[usize]| match is_full {
        true => full.to_vec(),
        false => short.to_vec(),
    };
    let mut steps = Vec::new();
    let mut add = |kind, weight| steps.push(Step { kind, weight });
    for kib in pick(&[4, 16, 64, 128], &[4, 64]) {
        for depth in pick(&[1, 4, 16, 64], &[1, 16]) {
            add(Kind::Append(Load::journal(kib << 10, depth)), 3);
        }
    }
    for kib in pick(&[256, 1024], &[1024]) {
        for depth in pick(&[1, 4, 16], &[1, 4]) {
            add(Kind::Append(Load::segment(kib << 10, depth)), 3);
        }
    }
    for file in STATES {
        for synced in [false, true] {
            for kib in pick(&[4, 16, 64, 256, 1024], &[4, 64, 1024]) {
                for depth in pick(&[1, 2, 4, 16], &[1, 16]) {
                    let load = Load::plain(file, synced, kib << 10, depth);
                    add(Kind::Append(load), 1);
                }
            }
        }
    }
    for bytes in pick(&[64 << 10, COLD_READ_BYTES, 1 << 20], &[COLD_READ_BYTES]) {
        for readers in pick(&[1, 4, 16], &[1, 16]) {
            add(Kind::Read(Readers { bytes, readers }), 2);
        }
    }
    for load in [Load::journal(4 << 10, 16), Load::segment(1 << 20, 4)] {
        for readers in pick(&[1, 4], &[4]) {
            let bytes = COLD_READ_BYTES;
            add(Kind::Mixed(load, Readers { bytes, readers }), 3);
        }
    }
    steps
}

/// Bytes of each file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Division {
    /// Zeroed at the beginning, written again and again.
    pub journal: u64,
    /// Grows or is allocated, and is begun anew whenever it is full.
    pub segment: u64,
    /// Written at the beginning, and read.
    pub cold: u64,
}

/// The least that can be divided: each file holds what is in flight.
pub const SIZE_LEAST: u64 = 64 << 20;

impl Division {
    /// Of at least [`SIZE_LEAST`] bytes.
    pub fn of(size: u64) -> Division {
        assert!(size >= SIZE_LEAST);
        let mib = |bytes: u64| bytes >> 20 << 20;
        let journal = mib(size / 4).min(JOURNAL_BYTES_MAX);
        let rest = mib((size - journal) / 2);
        Division {
            journal,
            segment: rest,
            cold: rest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_any_length_measures_what_the_verdict_speaks_of() {
        for seconds in [1.0, 29.9, 30.0, 300.0] {
            let steps = steps(seconds);
            let has = |kind: &Kind| steps.iter().any(|step| step.kind == *kind);
            for step in &steps {
                if let Kind::Mixed(load, readers) = step.kind {
                    assert!(has(&Kind::Append(load)), "{load} is not measured alone");
                    assert!(has(&Kind::Read(Readers {
                        readers: 1,
                        ..readers
                    })));
                }
            }
            for file in STATES {
                for (synced, depth) in [(false, 1), (false, 16), (true, 1), (true, 16)] {
                    for bytes in [4 << 10, 64 << 10, 1 << 20] {
                        let load = Load::plain(file, synced, bytes, depth);
                        assert!(has(&Kind::Append(load)), "{seconds} s: {load}");
                    }
                }
            }
        }
        let kinds: Vec<Kind> = steps(30.0).iter().map(|step| step.kind).collect();
        let distinct = kinds
            .iter()
            .enumerate()
            .all(|(index, kind)| !kinds[..index].contains(kind));
        assert!(distinct);
    }

    #[test]
    fn the_files_fit_the_size_and_each_step_fits_its_file() {
        for size in [SIZE_LEAST, SIZE_LEAST + 4097, 1 << 30, 1 << 40] {
            let files = Division::of(size);
            assert!(files.journal + files.segment + files.cold <= size);
            assert!(files.journal <= JOURNAL_BYTES_MAX);
            for step in steps(60.0) {
                let (Kind::Append(load) | Kind::Mixed(load, _)) = step.kind else {
                    continue;
                };
                let length = match load.file {
                    FileState::Zeroed => files.journal,
                    FileState::Growing | FileState::Allocated => files.segment,
                };
                assert!(
                    load.bytes_in_flight_max() as u64 <= length,
                    "{size}: {load}"
                );
            }
        }
    }
}
