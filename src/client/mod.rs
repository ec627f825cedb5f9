//! Owns our side of a conversation with any Kafka-compatible broker: connections, the cluster's metadata, producing,
//! consuming, administration. It runs on one core's executor, shares nothing with other threads, and holds no
//! broker state: the broker uses it to talk to other brokers, the command line to talk to any.

pub mod connection;
mod error;
#[cfg(test)]
mod fake_broker;
mod notify;
pub mod time;

pub use connection::{Answer, Connection, ConnectionOptions};
pub use error::ClientError;
