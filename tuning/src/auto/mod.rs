//! Searches a better profile for a workload, for `coati tune auto`: it starts this very program as a broker on an empty folder, loads it
//! with `coati bench`, and changes one thing after the other.
//!
//! The map: `command` (what people type), `goal` (what of a report counts, and how it is said), `search` (which trial is next and what
//! it decides; pure), `space` (what of a profile is changed; pure), `trial` (one broker, one load), `report` (what is handed back).

mod command;
mod goal;
mod report;
mod search;
mod space;
mod trial;

pub use command::{AutoArgs, AutoError};
