//! Owns our side of a conversation with any Kafka-compatible broker: connections, the cluster's metadata, producing,
//! consuming, administration. It runs on one core's executor, shares nothing with other threads, and holds no
//! broker state: the broker uses it to talk to other brokers, the command line to talk to any.

pub mod admin;
pub mod cluster;
pub mod connection;
pub mod consumer;
mod error;
#[cfg(test)]
mod fake_broker;
pub mod groups;
pub mod membership;
mod notify;
mod offsets;
mod partitioner;
mod pipeline;
pub mod producer;
pub mod time;

pub use cluster::{Cluster, ClusterOptions, Missing, Partition, Topic};
pub use connection::{Answer, Connection, ConnectionOptions};
pub use consumer::{Consumer, ConsumerOptions, Fetched, StartAt};
pub use error::ClientError;
pub use groups::{Committer, GroupOffsets};
pub use membership::Membership;
pub use offsets::{Isolation, OffsetSpec};
pub use pipeline::Pipeline;
pub use producer::{Acks, Delivered, Delivery, Producer, ProducerOptions, ProducerRecord};
