//! Owns what members of the classic protocol say and are told inside its opaque bytes: subscriptions and assignments of
//! plain consumers. A version ahead of the fields; one that is newer than any known is read as the newest.

use bytes::Bytes;

use crate::controller::MetadataImage;
use crate::protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use crate::protocol::records::client::consumer_protocol_assignment::{
    ConsumerProtocolAssignment, TopicPartition,
};
use crate::protocol::records::client::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::{DecodeError, Message, Reader, Writer};

use super::Assignment;

const VERSION_MAX: i16 = 3;

fn version(reader: &mut Reader) -> Result<i16, DecodeError> {
    match reader.i16()? {
        version @ ..0 => Err(DecodeError::UnsupportedVersion {
            message: "consumer protocol",
            version,
        }),
        version => Ok(version.min(VERSION_MAX)),
    }
}

pub(super) fn subscription(metadata: &Bytes) -> Result<ConsumerProtocolSubscription, DecodeError> {
    let mut reader = Reader::new(metadata.clone());
    let version = version(&mut reader)?;
    ConsumerProtocolSubscription::decode(&mut reader, version)
}

/// What a subscription says that its member has.
pub(super) fn owned(
    subscription: &ConsumerProtocolSubscription,
    image: &MetadataImage,
) -> Vec<TopicPartitions> {
    let topics = subscription.owned_partitions.iter().filter_map(|owned| {
        Some(TopicPartitions {
            topic_id: image.topic(&owned.topic)?.id,
            partitions: owned.partitions.clone(),
        })
    });
    topics.collect()
}

pub(super) fn assignment(bytes: &Bytes) -> Result<ConsumerProtocolAssignment, DecodeError> {
    let mut reader = Reader::new(bytes.clone());
    let version = version(&mut reader)?;
    ConsumerProtocolAssignment::decode(&mut reader, version)
}

/// An assignment's partitions of topics that there are.
pub(super) fn by_id(assignment: &ConsumerProtocolAssignment, image: &MetadataImage) -> Assignment {
    let topics = assignment.assigned_partitions.iter().filter_map(|topic| {
        let id = image.topic(&topic.topic)?.id;
        Some((id, topic.partitions.iter().copied().collect()))
    });
    topics.collect()
}

/// An assignment as a member understands it that says `metadata` of itself.
pub(super) fn encoded(
    assignment: &Assignment,
    metadata: &Bytes,
    image: &MetadataImage,
) -> Result<Bytes, DecodeError> {
    let version = version(&mut Reader::new(metadata.clone()))?;
    let topics = assignment.iter().filter_map(|(id, partitions)| {
        Some(TopicPartition {
            topic: image.topic_by_id(*id)?.name.clone(),
            partitions: partitions.iter().copied().collect(),
        })
    });
    let told = ConsumerProtocolAssignment {
        assigned_partitions: topics.collect(),
        user_data: None,
    };
    let mut writer = Writer::new();
    writer.i16(version);
    told.encode(&mut writer, version)
        .expect("every version has these fields");
    Ok(writer.into_bytes())
}
