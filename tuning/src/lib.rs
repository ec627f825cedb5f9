//! Checks and sets what a Linux machine needs for throughput, measures its disk, says what each core of the broker is for, and
//! watches it: behind `coati tune`. Everything it knows of the machine comes from entries of /proc and /sys, and from the disk that the binary hands in; it makes no system call of
//! its own beyond reading and writing files.
//!
//! The map: `command` (what people type), `root` (the one reader and writer of entries, and the forms their values
//! have), `machine` with `mounts`, `devices`, `groups` and `cpus` (facts that several tuners ask for), `tuner` (what a tuner is),
//! `tuners` (all of them, a table an area), `apply` and `state` (writing entries, and what they were before), `systemd`
//! (units), `report` (what is shown); `disk` (the measurement), `profile` (what each core does) and `watch` (the live view), with
//! maps of their own.

mod apply;
mod command;
mod cpus;
mod devices;
pub mod disk;
mod groups;
mod machine;
mod mounts;
pub mod profile;
mod report;
mod root;
mod state;
mod systemd;
mod tuner;
mod tuners;
pub mod watch;

pub use command::{Ending, Told, TuneArgs, TuneError};
pub use machine::{RingFeature, RingFeatures};
