//! Owns which partition of `__consumer_offsets` a group belongs to: Kafka's own hash, so that its tools find it there.

use crate::ids::PartitionIndex;

/// The partition of a group, of a topic with `partitions` of them.
pub fn partition_of(group: &str, partitions: usize) -> PartitionIndex {
    let partitions = i32::try_from(partitions.max(1)).unwrap_or(i32::MAX);
    // The lowest integer has no positive counterpart; Kafka takes 0 for it.
    let hash = java_hash(group).checked_abs().unwrap_or(0);
    PartitionIndex(hash % partitions)
}

/// Java's `String.hashCode`, which goes by UTF-16 units.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0, |hash: i32, unit| {
        hash.wrapping_mul(31).wrapping_add(i32::from(unit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_where_kafka_puts_them() {
        // As dumped from Apache Kafka 4.4.
        assert_eq!(partition_of("facts-consumer", 50), PartitionIndex(20));
        assert_eq!(partition_of("facts-classic", 50), PartitionIndex(46));
        assert_eq!(partition_of("", 50), PartitionIndex(0));
        // "polygenelubricants" is known for hashing to the lowest integer.
        assert_eq!(java_hash("polygenelubricants"), i32::MIN);
        assert_eq!(partition_of("polygenelubricants", 50), PartitionIndex(0));
        assert_eq!(java_hash("\u{1f9ad}"), 0xd83e * 31 + 0xddad);
    }
}
