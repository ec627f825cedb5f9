//! Owns the records of a consumer group, in Kafka's formats byte for byte: making them, and taking them in again.

use crate::ids::TimestampMs;
use crate::protocol::records::group::consumer_group_current_member_assignment_value::{
    ConsumerGroupCurrentMemberAssignmentValue, TopicPartitions,
};
use crate::protocol::records::group::consumer_group_member_metadata_value::{
    ClassicMemberMetadata, ClassicProtocol, ConsumerGroupMemberMetadataValue,
};
use crate::protocol::records::group::consumer_group_target_assignment_member_value::{
    ConsumerGroupTargetAssignmentMemberValue, TopicPartition,
};
use crate::protocol::records::group::{
    ConsumerGroupCurrentMemberAssignmentKey, ConsumerGroupMemberMetadataKey,
    ConsumerGroupMetadataKey, ConsumerGroupMetadataValue, ConsumerGroupPartitionMetadataKey,
    ConsumerGroupRegularExpressionKey, ConsumerGroupRegularExpressionValue,
    ConsumerGroupTargetAssignmentMemberKey, ConsumerGroupTargetAssignmentMetadataKey,
    ConsumerGroupTargetAssignmentMetadataValue, Key, Value,
};
use bytes::Bytes;

use crate::protocol::Str;

use super::super::{Client, Record};
use super::regex::Resolved;
use super::{Assignment, ClassicMember, ConsumerGroup, Member, MemberState, Owned, without_member};

/// All of these values have one version.
const VERSION: i16 = 0;
/// The epoch of an assignment of a group that is being deleted.
const NO_EPOCH: i32 = -1;

pub(super) fn member(group: &Str, member: &Member) -> Record {
    let classic = member.classic.as_ref().map(|classic| {
        let protocols = classic.protocols.iter();
        ClassicMemberMetadata {
            session_timeout_ms: classic.session_timeout_ms,
            supported_protocols: protocols
                .map(|(name, metadata)| ClassicProtocol {
                    name: name.clone(),
                    metadata: metadata.clone(),
                })
                .collect(),
        }
    });
    let value = ConsumerGroupMemberMetadataValue {
        instance_id: member.instance.clone(),
        rack_id: member.rack.clone(),
        client_id: member.client.id.clone(),
        client_host: member.client.host.clone(),
        subscribed_topic_names: member.topics.iter().cloned().collect(),
        subscribed_topic_regex: Some(member.regex.clone()),
        rebalance_timeout_ms: member.rebalance_timeout_ms,
        server_assignor: member.assignor.clone(),
        classic_member_metadata: classic,
    };
    let key = ConsumerGroupMemberMetadataKey {
        group_id: group.clone(),
        member_id: member.id.clone(),
    };
    Record::new(key, Some((value.into(), VERSION)))
}

pub(super) fn no_member(group: &Str, member: &Str) -> Record {
    let key = ConsumerGroupMemberMetadataKey {
        group_id: group.clone(),
        member_id: member.clone(),
    };
    Record::new(key, None)
}

pub(super) fn epoch(group: &Str, epoch: i32, metadata_hash: i64) -> Record {
    let key = ConsumerGroupMetadataKey {
        group_id: group.clone(),
    };
    let value = ConsumerGroupMetadataValue {
        epoch,
        metadata_hash,
    };
    Record::new(key, Some((value.into(), VERSION)))
}

fn no_epoch(group: &Str) -> Record {
    let key = ConsumerGroupMetadataKey {
        group_id: group.clone(),
    };
    Record::new(key, None)
}

pub(super) fn no_partition_metadata(group: &Str) -> Record {
    let key = ConsumerGroupPartitionMetadataKey {
        group_id: group.clone(),
    };
    Record::new(key, None)
}

pub(super) fn target(group: &Str, member: &Str, assignment: &Assignment) -> Record {
    let topics = assignment.iter().map(|(topic, partitions)| TopicPartition {
        topic_id: *topic,
        partitions: partitions.iter().copied().collect(),
    });
    let value = ConsumerGroupTargetAssignmentMemberValue {
        topic_partitions: topics.collect(),
    };
    let key = ConsumerGroupTargetAssignmentMemberKey {
        group_id: group.clone(),
        member_id: member.clone(),
    };
    Record::new(key, Some((value.into(), VERSION)))
}

pub(super) fn no_target(group: &Str, member: &Str) -> Record {
    let key = ConsumerGroupTargetAssignmentMemberKey {
        group_id: group.clone(),
        member_id: member.clone(),
    };
    Record::new(key, None)
}

pub(super) fn target_epoch(group: &Str, epoch: i32, at: TimestampMs) -> Record {
    let key = ConsumerGroupTargetAssignmentMetadataKey {
        group_id: group.clone(),
    };
    let value = ConsumerGroupTargetAssignmentMetadataValue {
        assignment_epoch: epoch,
        assignment_timestamp: at,
    };
    Record::new(key, Some((value.into(), VERSION)))
}

fn no_target_epoch(group: &Str) -> Record {
    let key = ConsumerGroupTargetAssignmentMetadataKey {
        group_id: group.clone(),
    };
    Record::new(key, None)
}

pub(super) fn current(group: &Str, member: &Member) -> Record {
    let value = ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: member.epoch,
        previous_member_epoch: member.previous_epoch,
        state: member.state.code(),
        assigned_partitions: told(&member.assigned),
        partitions_pending_revocation: told(&member.revoking),
    };
    let key = ConsumerGroupCurrentMemberAssignmentKey {
        group_id: group.clone(),
        member_id: member.id.clone(),
    };
    Record::new(key, Some((value.into(), VERSION)))
}

fn told(owned: &Owned) -> Vec<TopicPartitions> {
    let topics = owned.iter().map(|(topic, partitions)| TopicPartitions {
        topic_id: *topic,
        partitions: partitions.keys().copied().collect(),
        assignment_epochs: Some(partitions.values().copied().collect()),
    });
    topics.collect()
}

pub(super) fn no_current(group: &Str, member: &Str) -> Record {
    let key = ConsumerGroupCurrentMemberAssignmentKey {
        group_id: group.clone(),
        member_id: member.clone(),
    };
    Record::new(key, None)
}

pub(super) fn regex(group: &Str, regex: &Str, resolved: &Resolved) -> Record {
    let value = ConsumerGroupRegularExpressionValue {
        topics: resolved.topics.iter().cloned().collect(),
        version: resolved.version,
        timestamp: resolved.at,
    };
    Record::new(regex_key(group, regex), Some((value.into(), VERSION)))
}

pub(super) fn no_regex(group: &Str, regex: &Str) -> Record {
    Record::new(regex_key(group, regex), None)
}

fn regex_key(group: &Str, regex: &Str) -> ConsumerGroupRegularExpressionKey {
    ConsumerGroupRegularExpressionKey {
        group_id: group.clone(),
        regular_expression: regex.clone(),
    }
}

impl MemberState {
    fn code(self) -> i8 {
        match self {
            MemberState::Stable => 0,
            MemberState::UnrevokedPartitions => 1,
            MemberState::UnreleasedPartitions => 2,
            MemberState::Unknown => 127,
        }
    }

    fn from_code(code: i8) -> MemberState {
        match code {
            0 => MemberState::Stable,
            1 => MemberState::UnrevokedPartitions,
            2 => MemberState::UnreleasedPartitions,
            _ => MemberState::Unknown,
        }
    }
}

impl ConsumerGroup {
    /// What makes its records, all of them, superseded; in Kafka's order.
    pub(in crate::coordinator) fn tombstones(&self) -> Vec<Record> {
        let ids: Vec<&Str> = self.members.keys().collect();
        let mut all: Vec<Record> = Vec::with_capacity(3 * ids.len() + 3);
        all.extend(ids.iter().map(|id| no_current(&self.id, id)));
        all.extend(ids.iter().map(|id| no_target(&self.id, id)));
        all.push(no_target_epoch(&self.id));
        all.extend(ids.iter().map(|id| no_member(&self.id, id)));
        all.extend(self.resolved.keys().map(|one| no_regex(&self.id, one)));
        all.push(no_partition_metadata(&self.id));
        all.push(no_epoch(&self.id));
        all
    }

    /// All of its records anew; in Kafka's order.
    pub(super) fn all_records(&self) -> Vec<Record> {
        let id = &self.id;
        let mut all = Vec::with_capacity(3 * self.members.len() + 2);
        all.extend(self.members.values().map(|one| member(id, one)));
        all.push(epoch(id, self.epoch, self.metadata_hash));
        let none = Assignment::new();
        all.extend(self.members.keys().map(|member| {
            let assignment = self.target.get(member).unwrap_or(&none);
            target(id, member, assignment)
        }));
        all.push(target_epoch(id, self.assignment_epoch, self.assigned_at));
        all.extend(self.members.values().map(|one| current(id, one)));
        all
    }

    /// Takes in a record of this group, other than the tombstone of the group itself.
    pub(in crate::coordinator) fn replay(&mut self, key: &Key, value: Option<&Value>) {
        match (key, value) {
            (Key::ConsumerGroupMetadata(_), Some(Value::ConsumerGroupMetadata(value))) => {
                self.epoch = value.epoch;
                self.metadata_hash = value.metadata_hash;
            }
            (Key::ConsumerGroupPartitionMetadata(_), value) => {
                self.has_partition_metadata = value.is_some();
            }
            (
                Key::ConsumerGroupTargetAssignmentMetadata(_),
                Some(Value::ConsumerGroupTargetAssignmentMetadata(value)),
            ) => {
                self.assignment_epoch = value.assignment_epoch;
                self.assigned_at = value.assignment_timestamp;
            }
            (Key::ConsumerGroupTargetAssignmentMetadata(_), None) => {
                self.assignment_epoch = NO_EPOCH;
                self.assigned_at = 0;
            }
            (
                Key::ConsumerGroupMemberMetadata(key),
                Some(Value::ConsumerGroupMemberMetadata(value)),
            ) => {
                let mut member = self.known_or_new(&key.member_id);
                member.update(value);
                self.put(member);
            }
            (Key::ConsumerGroupMemberMetadata(key), None) => {
                self.take(&key.member_id);
            }
            (
                Key::ConsumerGroupTargetAssignmentMember(key),
                Some(Value::ConsumerGroupTargetAssignmentMember(value)),
            ) => {
                let topics = value.topic_partitions.iter();
                let assignment = topics
                    .map(|topic| (topic.topic_id, topic.partitions.iter().copied().collect()));
                let assignment = assignment.collect();
                self.target.insert(key.member_id.detach(), assignment);
            }
            (Key::ConsumerGroupTargetAssignmentMember(key), None) => {
                self.target.remove(&key.member_id);
            }
            (
                Key::ConsumerGroupCurrentMemberAssignment(key),
                Some(Value::ConsumerGroupCurrentMemberAssignment(value)),
            ) => {
                let mut member = self.known_or_new(&key.member_id);
                member.epoch = value.member_epoch;
                member.previous_epoch = value.previous_member_epoch;
                member.state = MemberState::from_code(value.state);
                member.assigned = owned(&value.assigned_partitions, member.epoch);
                member.revoking = owned(&value.partitions_pending_revocation, member.epoch);
                self.put(member);
            }
            (Key::ConsumerGroupCurrentMemberAssignment(key), None) => {
                if let Some(mut member) = self.members.get(&key.member_id).cloned() {
                    (member.epoch, member.previous_epoch) = (NO_EPOCH, NO_EPOCH);
                    member.assigned.clear();
                    member.revoking.clear();
                    self.put(member);
                }
            }
            (
                Key::ConsumerGroupRegularExpression(key),
                Some(Value::ConsumerGroupRegularExpression(value)),
            ) => {
                let resolved = Resolved {
                    topics: value.topics.iter().map(Str::detach).collect(),
                    version: value.version,
                    at: value.timestamp,
                };
                let regex = key.regular_expression.detach();
                self.resolved.insert(regex, resolved);
            }
            (Key::ConsumerGroupRegularExpression(key), None) => {
                self.resolved.remove(&key.regular_expression);
            }
            _ => {}
        }
    }

    fn known_or_new(&self, id: &Str) -> Member {
        let known = self.members.get(id).cloned();
        known.unwrap_or_else(|| Member::new(id.detach()))
    }

    /// Takes a member out, and says so.
    pub(super) fn remove(&mut self, id: &Str, records: &mut Vec<Record>) {
        records.extend(without_member(&self.id, id));
        self.take(id);
    }
}

impl Member {
    fn update(&mut self, value: &ConsumerGroupMemberMetadataValue) {
        self.instance = value.instance_id.as_ref().map(Str::detach);
        self.rack = value.rack_id.as_ref().map(Str::detach);
        self.client = Client {
            id: value.client_id.detach(),
            host: value.client_host.detach(),
        };
        self.topics = value
            .subscribed_topic_names
            .iter()
            .map(Str::detach)
            .collect();
        let regex = value.subscribed_topic_regex.as_ref();
        self.regex = regex.map(Str::detach).unwrap_or_default();
        self.rebalance_timeout_ms = value.rebalance_timeout_ms;
        self.assignor = value.server_assignor.as_ref().map(Str::detach);
        self.classic = value.classic_member_metadata.as_ref().map(|classic| {
            let protocols = classic.supported_protocols.iter();
            ClassicMember {
                session_timeout_ms: classic.session_timeout_ms,
                protocols: protocols
                    .map(|one| (one.name.detach(), Bytes::copy_from_slice(&one.metadata)))
                    .collect(),
            }
        });
    }
}

/// Partitions that are written without their own epochs, or with too few, are as old as the member's epoch.
fn owned(topics: &[TopicPartitions], epoch: i32) -> Owned {
    let topics = topics.iter().map(|topic| {
        let epochs = topic.assignment_epochs.as_ref();
        let epochs = epochs.filter(|epochs| epochs.len() == topic.partitions.len());
        let since = |number: usize| epochs.map_or(epoch.max(0), |epochs| epochs[number]);
        let partitions = topic.partitions.iter().enumerate();
        let partitions = partitions.map(|(number, index)| (*index, since(number)));
        (topic.topic_id, partitions.collect())
    });
    topics.collect()
}
