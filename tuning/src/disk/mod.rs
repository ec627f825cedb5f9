//! Measures a disk as the broker uses it, for `coati tune disk`.
//!
//! The map: `command` (what people type, and what may stand in the way), `plan` (what is
//! measured for how long), `device` (what is needed of a disk, which the binary hands in), `load` and `read` (appends and reads),
//! `measure` (a run), `verdict`, `report` (what is handed back).

mod command;
mod device;
#[cfg(test)]
mod fake;
mod load;
mod measure;
mod plan;
mod read;
mod report;
mod verdict;

pub use command::{DiskArgs, DiskError};
pub use device::{BLOCK, Disk, File, Space};
pub use verdict::{Point, Verdict};
