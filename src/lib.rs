#![doc = include_str!("ARCHITECTURE.md")]
// The map, in the order data flows; blank lines keep it from being sorted.

/// The command line: one file a command.
pub mod cli;

/// Kafka's client side, for the command line and, later, for brokers among themselves.
pub mod client;

/// Settings under Kafka's names: what there is, what was given, what it comes to.
pub mod config;

/// Sockets to requests, responses to sockets.
pub mod net;

/// One file an API: from a request to its response.
pub mod handler;

/// The HTTP endpoint for those who run a broker: metrics, health, where time goes.
pub mod admin;

/// One core: its partitions, its connections, its way to the other cores; start and stop.
pub mod shard;

/// Where each core's time goes.
pub mod stages;

/// One partition: what clients may see of it, and when an append is acknowledged.
pub mod partition;

/// One partition's log on disk.
pub mod log;

/// Consumer groups: pure machines, one a partition of their log.
pub mod coordinator;

/// The cluster's metadata: a pure machine, its image, and the driver that stores what it decides.
pub mod controller;

/// Kafka's formats, on the wire and on disk.
pub mod protocol;

/// The only system calls, clock and `unsafe`.
pub mod io;

/// Numbers with a meaning.
pub mod ids;

/// Every bound that no setting names.
pub mod limits;
