//! Owns which core a partition lives on: computed, the same on every core, so that nobody need be asked.

use crate::ids::{PartitionIndex, ShardId};
use crate::protocol::Uuid;

/// The core of a partition, one of `cores`. One topic's partitions are dealt out in turn, from a core that its id chooses.
pub fn shard_of(topic_id: Uuid, index: PartitionIndex, cores: &[ShardId]) -> ShardId {
    let first = u64::from_le_bytes(topic_id.0[8..].try_into().expect("8 of 16 bytes"));
    let turn = first.wrapping_add(index.0 as u64);
    cores[(turn % cores.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topics_partitions_are_spread_evenly() {
        let topic = Uuid([7; 16]);
        let cores = [1, 2, 4, 5].map(ShardId);
        let mut counts = [0; 6];
        for index in 0..12 {
            counts[usize::from(shard_of(topic, PartitionIndex(index), &cores).0)] += 1;
        }
        assert_eq!(counts, [0, 3, 3, 0, 3, 3]);
    }
}
