//! Owns what the members of a group are subscribed to, by name and by pattern, and whether all want the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::MetadataImage;
use crate::protocol::{Str, Uuid};

use super::{ConsumerGroup, Member, topics};

impl ConsumerGroup {
    /// Every topic of the group, those of patterns that were looked up included.
    pub(super) fn topic_names(&self) -> impl Iterator<Item = &Str> {
        let named = self.members.values().flat_map(|member| &member.topics);
        named.chain(self.resolved.values().flat_map(|one| &one.topics))
    }

    /// The topics of one member that there are.
    pub(super) fn subscribed_ids(&self, image: &MetadataImage, member: &Member) -> BTreeSet<Uuid> {
        let resolved = self.resolved.get(&member.regex);
        let matching = resolved.into_iter().flat_map(|one| &one.topics);
        topics::ids(image, member.topics.iter().chain(matching))
    }

    /// How many members have each pattern.
    pub(super) fn patterns(&self) -> BTreeMap<&Str, usize> {
        let mut counts = BTreeMap::new();
        for member in self.members.values() {
            if !member.regex.is_empty() {
                *counts.entry(&member.regex).or_default() += 1;
            }
        }
        counts
    }

    /// Whether all members are subscribed to the same topics, as far as Kafka looks.
    pub(super) fn is_homogeneous(&self) -> bool {
        let mut by_name: BTreeMap<&Str, usize> = BTreeMap::new();
        for name in self.members.values().flat_map(|member| &member.topics) {
            *by_name.entry(name).or_default() += 1;
        }
        let everybody = self.members.len();
        let patterns = self.patterns();
        match patterns.first_key_value() {
            None => by_name.values().all(|count| *count == everybody),
            Some((_, count)) if *count != everybody => false,
            // All have one pattern; a second would leave somebody out.
            Some(_) => by_name.is_empty(),
        }
    }

    pub(super) fn metadata_hash_of(&self, image: &MetadataImage) -> i64 {
        topics::group_hash(image, self.topic_names())
    }
}
