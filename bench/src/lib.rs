//! The load generator behind `coati bench`, for any Kafka-compatible broker. With a rate, latencies count from the time
//! a record was *meant* to leave (open loop), so a broker that stalls cannot hide it by slowing the generator down.
//!
//! The map, in the order data flows: `command` (what people type), `workload` (what a run is asked to do), `run` (one run,
//! from topics to report), `schedule` (when each record is meant to leave), `keys`, `size` and `payload` (what is in it; `random` draws), `produce`
//! and `consume` (who sends and reads), `catch_up` (a run beside an old reader), `search` (the highest rate that keeps a promise), `compare` (brokers in turn), `client` (what they need of a Kafka client; the binary hands one in), `recorder`
//! and `latency` (what is counted), `verify` (whether all came as it left), `broker` (its CPU, memory and disk), `conditions` (what was typed, and where), `explain` (where the broker says its time went; `admin` asks it), `report`, `page` and `hdr` (what is handed back).

pub mod admin;
mod broker;
mod catch_up;
pub mod client;
pub mod clock;
mod command;
mod compare;
pub mod conditions;
mod consume;
mod explain;
#[cfg(test)]
mod fake;
mod hdr;
mod keys;
pub mod latency;
pub mod page;
mod payload;
mod produce;
pub mod random;
mod recorder;
mod report;
mod run;
mod schedule;
mod search;
mod size;
mod verify;
mod workload;

pub use client::{Batch, Client, Connection};
pub use command::{BenchArgs, EXECUTOR_NAME, Ended, INTERRUPTED_EXIT_CODE};
pub use workload::{Aim, Goal, Workload, Worse};
