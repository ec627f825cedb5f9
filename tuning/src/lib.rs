//! Checks and sets what a Linux machine needs for throughput, measures its disk, says what each core of the broker is for, and
//! watches it: behind `coati tune`. Everything it knows of the machine comes from entries of /proc and /sys, and from the disk that the binary hands in; it makes no system call of
//! its own beyond reading and writing files.
//!
//! The map: `command` (what people type), `root` (the one reader and writer of entries, and the forms their values
//! have), `machine` with `mounts`, `devices`, `groups` and `cpus` (facts that several tuners ask for), `tuner` (what a tuner is),
//! `tuners` (all of them, a table an area), `apply` and `state` (writing entries, and what they were before), `systemd`
//! (units), `report` (what is shown), `scratch` (a folder of one's own on somebody's disk), `progress` (the line that shows how
//! far it is); `disk` (the measurement), `profile` (what each core does), `auto` (the search of a better one) and `watch` (the live
//! view), with maps of their own.

mod apply;
mod auto;
mod command;
mod cpus;
mod devices;
pub mod disk;
mod groups;
mod machine;
mod mounts;
pub mod profile;
mod progress;
mod report;
mod root;
mod scratch;
mod state;
mod systemd;
mod tuner;
mod tuners;
pub mod watch;

pub use command::{Ending, Told, TuneArgs, TuneError};
pub use machine::{RingFeature, RingFeatures};
