//! Owns the newtypes that carry what a number means from the edge of the program inward.
//! They never parse and never validate: who builds one has done that.

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(/// Position of a record in its partition, from 0.
    Offset(i64));
id!(/// Counts the leaders a partition has had; Kafka calls it leader epoch (KIP-101).
    LeaderEpoch(i32));
id!(/// `node.id` of a broker.
    BrokerId(i32));
id!(/// One core's number, from 0, dense.
    ShardId(u16));
id!(/// Assigned by InitProducerId (KIP-98).
    ProducerId(i64));
id!(/// Number of a partition in its topic, from 0.
    PartitionIndex(i32));

impl Offset {
    /// The offset `count` records after this one.
    pub fn plus(self, count: i64) -> Offset {
        Offset(self.0 + count)
    }
}

/// Milliseconds since 1970, as Kafka's records and settings count them.
pub type TimestampMs = i64;
