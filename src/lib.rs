//! The map, in the order data flows.

pub mod ids;
pub mod limits;

pub mod cli;
pub mod client;
pub mod config;
pub mod controller;
pub mod handler;
pub mod io;
pub mod log;
pub mod net;
pub mod partition;
pub mod protocol;
pub mod shard;
