//! Owns what a group sees of the cluster's topics: which of its subscriptions exist, and the hash by which it notices
//! that they have changed. The hash is Kafka's, for it is in the log.

use std::collections::BTreeSet;

use twox_hash::XxHash3_64;

use crate::controller::{MetadataImage, TopicImage};
use crate::coordinator::effects::Effects;
use crate::coordinator::settings::GroupSettings;
use crate::protocol::{Str, Uuid};

/// Says which fields a topic's hash is made of.
const HASH_MAGIC: u8 = 0;

/// What holds for one group.
pub(super) fn group_settings(fx: &Effects<'_>, group: &Str) -> GroupSettings {
    fx.settings.consumer.of_group(fx.image, group)
}

/// The ids of those topics that there are.
pub(super) fn ids<'a>(
    image: &MetadataImage,
    names: impl Iterator<Item = &'a Str>,
) -> BTreeSet<Uuid> {
    let found = names.filter_map(|name| image.topic(name));
    found.map(|topic| topic.id).collect()
}

/// Of all topics of a group; those that do not exist do not count. 0: of none.
pub(super) fn group_hash<'a>(image: &MetadataImage, names: impl Iterator<Item = &'a Str>) -> i64 {
    let sorted: BTreeSet<&Str> = names.collect();
    let topics = sorted.into_iter().filter_map(|name| image.topic(name));
    let mut bytes = Vec::new();
    for topic in topics {
        bytes.extend(topic_hash(image, topic).to_le_bytes());
    }
    match bytes.is_empty() {
        true => 0,
        false => XxHash3_64::oneshot(&bytes) as i64,
    }
}

fn topic_hash(image: &MetadataImage, topic: &TopicImage) -> u64 {
    let mut bytes = vec![HASH_MAGIC];
    let (high, low) = topic.id.0.split_at(8);
    for half in [high, low] {
        bytes.extend(half.iter().rev());
    }
    put_text(&mut bytes, &topic.name);
    bytes.extend((topic.partitions.len() as i32).to_le_bytes());
    for (index, partition) in topic.partitions.iter().enumerate() {
        bytes.extend((index as i32).to_le_bytes());
        let brokers = partition.replicas.iter().filter_map(|id| image.broker(*id));
        let mut racks: Vec<&Str> = brokers.filter_map(|broker| broker.rack.as_ref()).collect();
        racks.sort_unstable();
        for rack in racks {
            bytes.extend((rack.encode_utf16().count() as i32).to_le_bytes());
            put_text(&mut bytes, rack);
        }
    }
    XxHash3_64::oneshot(&bytes)
}

/// As Java's characters, and how many.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let mut units = 0_i32;
    for unit in text.encode_utf16() {
        bytes.extend(unit.to_le_bytes());
        units += 1;
    }
    bytes.extend(units.to_le_bytes());
}
