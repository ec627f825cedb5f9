//! Owns the committed offsets of groups of any type: storing, reading, deleting and expiring them. Who may commit is
//! the group's affair.

use std::collections::BTreeMap;

use crate::ids::TimestampMs;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use crate::protocol::messages::offset_fetch_response::{
    OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use crate::protocol::records::group::{OffsetCommitKey, OffsetCommitValue};
use crate::protocol::{Str, Uuid};

use super::records::Record;

/// An offset as it was committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    pub offset: i64,
    /// -1: not told.
    pub leader_epoch: i32,
    pub metadata: Str,
    pub commit_timestamp: TimestampMs,
    /// Only what old clients commit says itself how long it is kept.
    pub expire_timestamp: Option<TimestampMs>,
    pub topic_id: Uuid,
}

/// When a group's offsets expire (KIP-211).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// So long after each was committed.
    SinceCommit,
    /// So long after the group lost its last member.
    Since(TimestampMs),
}

type Partitions = BTreeMap<i32, Committed>;
type Topics = BTreeMap<Str, Partitions>;

/// Of all groups of one coordinator.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Offsets {
    groups: BTreeMap<Str, Topics>,
}

impl Committed {
    pub(super) fn new(
        partition: &OffsetCommitRequestPartition,
        topic_id: Uuid,
        now: TimestampMs,
        retention_ms: i64,
    ) -> Committed {
        let metadata = partition.committed_metadata.as_ref();
        Committed {
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch,
            metadata: metadata.map(Str::detach).unwrap_or_default(),
            commit_timestamp: now,
            expire_timestamp: (retention_ms != -1).then(|| now.saturating_add(retention_ms)),
            topic_id,
        }
    }

    fn from_record(value: &OffsetCommitValue) -> Committed {
        Committed {
            offset: value.offset,
            leader_epoch: value.leader_epoch,
            metadata: value.metadata.detach(),
            commit_timestamp: value.commit_timestamp,
            expire_timestamp: (value.expire_timestamp != -1).then_some(value.expire_timestamp),
            topic_id: value.topic_id,
        }
    }

    fn is_expired(&self, expiry: Expiry, now: TimestampMs, retention_ms: i64) -> bool {
        match (self.expire_timestamp, expiry) {
            (Some(expires), _) => now >= expires,
            (None, Expiry::SinceCommit) => now - self.commit_timestamp >= retention_ms,
            (None, Expiry::Since(time)) => now - time >= retention_ms,
        }
    }
}

impl Offsets {
    pub fn put(&mut self, group: &Str, topic: &Str, partition: i32, commit: Committed) {
        // Names are copied out of their frame the first time alone.
        if !self.groups.contains_key(group) {
            self.groups.insert(group.detach(), Topics::new());
        }
        let topics = self.groups.get_mut(group).expect("it is there now");
        if !topics.contains_key(topic) {
            topics.insert(topic.detach(), Partitions::new());
        }
        let partitions = topics.get_mut(topic).expect("it is there now");
        partitions.insert(partition, commit);
    }

    fn remove(&mut self, group: &Str, topic: &Str, partition: i32) -> bool {
        let Some(topics) = self.groups.get_mut(group) else {
            return false;
        };
        let Some(partitions) = topics.get_mut(topic) else {
            return false;
        };
        let removed = partitions.remove(&partition).is_some();
        if partitions.is_empty() {
            topics.remove(topic);
        }
        if topics.is_empty() {
            self.groups.remove(group);
        }
        removed
    }

    pub fn replay(&mut self, key: &OffsetCommitKey, value: Option<&OffsetCommitValue>) {
        match value {
            Some(value) => {
                let commit = Committed::from_record(value);
                self.put(&key.group, &key.topic, key.partition, commit);
            }
            None => {
                self.remove(&key.group, &key.topic, key.partition);
            }
        }
    }

    pub fn get(&self, group: &Str, topic: &Str, partition: i32) -> Option<&Committed> {
        self.groups.get(group)?.get(topic)?.get(&partition)
    }

    pub fn has_any(&self, group: &Str) -> bool {
        self.groups.contains_key(group)
    }

    /// What a group has committed, of these topics or of all.
    pub fn fetch(
        &self,
        group: &Str,
        wanted: Option<&[OffsetFetchRequestTopics]>,
    ) -> Vec<OffsetFetchResponseTopics> {
        match wanted {
            Some(topics) => topics
                .iter()
                .map(|topic| OffsetFetchResponseTopics {
                    name: topic.name.clone(),
                    topic_id: topic.topic_id,
                    partitions: topic
                        .partition_indexes
                        .iter()
                        .map(|index| told(*index, self.get(group, &topic.name, *index)))
                        .collect(),
                })
                .collect(),
            None => self
                .groups
                .get(group)
                .into_iter()
                .flatten()
                .map(|(topic, partitions)| OffsetFetchResponseTopics {
                    name: topic.clone(),
                    topic_id: Uuid::ZERO,
                    partitions: partitions
                        .iter()
                        .map(|(index, commit)| told(*index, Some(commit)))
                        .collect(),
                })
                .collect(),
        }
    }

    /// Forgets one; `None` when there was none.
    pub fn delete(&mut self, group: &Str, topic: &Str, partition: i32) -> Option<Record> {
        self.remove(group, topic, partition)
            .then(|| Record::no_commit(group, topic, partition))
    }

    /// Forgets all of a group.
    pub fn delete_group(&mut self, group: &Str, records: &mut Vec<Record>) {
        for (topic, partitions) in self.groups.remove(group).unwrap_or_default() {
            for partition in partitions.keys() {
                records.push(Record::no_commit(group, &topic, *partition));
            }
        }
    }

    /// Forgets all that were committed for topics that `is_gone`.
    pub fn delete_topics(&mut self, is_gone: impl Fn(&Str) -> bool, records: &mut Vec<Record>) {
        self.groups.retain(|group, topics| {
            topics.retain(|topic, partitions| {
                let gone = is_gone(topic);
                if gone {
                    let of_topic = partitions.keys();
                    records.extend(of_topic.map(|index| Record::no_commit(group, topic, *index)));
                }
                !gone
            });
            !topics.is_empty()
        });
    }

    /// Forgets those of a group that have expired, but for topics that it is subscribed to.
    pub fn expire(
        &mut self,
        group: &Str,
        expiry: Expiry,
        now: TimestampMs,
        retention_ms: i64,
        is_subscribed: impl Fn(&Str) -> bool,
        records: &mut Vec<Record>,
    ) {
        let Some(topics) = self.groups.get_mut(group) else {
            return;
        };
        topics.retain(|topic, partitions| {
            if is_subscribed(topic) {
                return true;
            }
            partitions.retain(|index, commit| {
                let expired = commit.is_expired(expiry, now, retention_ms);
                if expired {
                    records.push(Record::no_commit(group, topic, *index));
                }
                !expired
            });
            !partitions.is_empty()
        });
        if topics.is_empty() {
            self.groups.remove(group);
        }
    }

    /// Every commit, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Str, &Str, i32, &Committed)> {
        self.groups.iter().flat_map(|(group, topics)| {
            topics.iter().flat_map(move |(topic, partitions)| {
                partitions
                    .iter()
                    .map(move |(index, commit)| (group, topic, *index, commit))
            })
        })
    }
}

fn told(index: i32, commit: Option<&Committed>) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: commit.map_or(-1, |commit| commit.offset),
        committed_leader_epoch: commit.map_or(-1, |commit| commit.leader_epoch),
        metadata: Some(commit.map_or(Str::EMPTY, |commit| commit.metadata.clone())),
        error_code: 0,
    }
}

/// What a topic's commits take when they are written.
pub(super) fn is_too_long(partition: &OffsetCommitRequestPartition, max: usize) -> bool {
    let metadata = partition.committed_metadata.as_ref();
    metadata.is_some_and(|metadata| metadata.encode_utf16().count() > max)
}

/// The commits of a request, by topic and partition.
pub(super) fn each(
    topics: &[OffsetCommitRequestTopic],
) -> impl Iterator<Item = (&OffsetCommitRequestTopic, &OffsetCommitRequestPartition)> {
    topics.iter().flat_map(|topic| {
        topic
            .partitions
            .iter()
            .map(move |partition| (topic, partition))
    })
}
