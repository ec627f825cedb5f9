//! Owns what administrators are told of a consumer group: ConsumerGroupDescribe.

use std::collections::{BTreeMap, BTreeSet};

use crate::controller::MetadataImage;
use crate::coordinator::settings::ConsumerSettings;
use crate::protocol::messages::consumer_group_describe_response::{
    self, DescribedGroup, TopicPartitions,
};
use crate::protocol::{Str, Uuid};

use super::assignor::Assignor;
use super::{ConsumerGroup, Member};

/// As members of either protocol are told apart.
const CLASSIC: i8 = 0;
const CONSUMER: i8 = 1;

impl ConsumerGroup {
    pub(in crate::coordinator) fn describe(
        &self,
        image: &MetadataImage,
        settings: &ConsumerSettings,
    ) -> DescribedGroup {
        let assignor = self.most_wanted(settings).unwrap_or(Assignor::Uniform);
        DescribedGroup {
            error_message: None,
            group_id: self.id.clone(),
            group_state: Str::from(self.state().name()),
            group_epoch: self.epoch,
            assignment_epoch: self.assignment_epoch,
            assignor_name: Str::from(assignor.name()),
            members: self
                .members
                .values()
                .map(|one| self.describe_member(image, one))
                .collect(),
            ..DescribedGroup::default()
        }
    }

    fn describe_member(
        &self,
        image: &MetadataImage,
        member: &Member,
    ) -> consumer_group_describe_response::Member {
        let mut owned: BTreeMap<Uuid, BTreeSet<i32>> = BTreeMap::new();
        for (topic, index) in member.owned() {
            owned.entry(topic).or_default().insert(index);
        }
        let target = self.target.get(&member.id).cloned().unwrap_or_default();
        consumer_group_describe_response::Member {
            member_id: member.id.clone(),
            instance_id: member.instance.clone(),
            rack_id: member.rack.clone(),
            member_epoch: member.epoch,
            client_id: member.client.id.clone(),
            client_host: member.client.host.clone(),
            subscribed_topic_names: member.topics.iter().cloned().collect(),
            subscribed_topic_regex: Some(member.regex.clone()),
            assignment: named(&owned, image),
            target_assignment: named(&target, image),
            member_type: match member.uses_classic_protocol() {
                true => CLASSIC,
                false => CONSUMER,
            },
        }
    }
}

fn named(
    partitions: &BTreeMap<Uuid, BTreeSet<i32>>,
    image: &MetadataImage,
) -> consumer_group_describe_response::Assignment {
    let topics = partitions.iter().filter_map(|(id, partitions)| {
        Some(TopicPartitions {
            topic_id: *id,
            topic_name: image.topic_by_id(*id)?.name.clone(),
            partitions: partitions.iter().copied().collect(),
        })
    });
    consumer_group_describe_response::Assignment {
        topic_partitions: topics.collect(),
    }
}
