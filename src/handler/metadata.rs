//! Metadata (key 3, versions 0 to 13). KIP-4 (auto-creation), KIP-430 (authorized operations), KIP-516 (topic ids).

use std::collections::HashSet;
use std::rc::Rc;

use crate::controller::{
    MetadataImage, PartitionImage, TopicImage, is_internal_topic, validate_topic_name,
};
use crate::coordinator::OFFSETS_TOPIC;
use crate::handler::{Context, create_topics, groups};
use crate::ids::BrokerId;
use crate::protocol::messages::MetadataRequest;
use crate::protocol::messages::metadata_request::MetadataRequestTopic;
use crate::protocol::messages::metadata_response::{
    MetadataResponse, MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use crate::protocol::{ErrorCode, Str, Uuid};

/// What any client may do to a topic, and to the cluster, while nobody is refused anything: a bit an operation.
pub const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
pub const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;

/// From this version on a topic may be asked for by its id alone.
const BY_ID_SINCE: i16 = 12;

pub async fn handle(
    context: Rc<Context>,
    request: MetadataRequest,
    version: i16,
) -> MetadataResponse {
    if let Some(topics) = request.topics.as_ref().filter(|_| version < BY_ID_SINCE)
        && topics
            .iter()
            .any(|topic| topic.name.is_none() || !topic.topic_id.is_zero())
    {
        return invalid(topics, version);
    }
    let everything = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let wanted = request.topics.as_deref().unwrap_or_default();
    if !everything {
        create_missing(
            &context,
            wanted,
            request.allow_auto_topic_creation || version < 4,
        )
        .await;
    }
    let image = context.shard.image();
    // A topic that is asked for twice is described once.
    let mut described = HashSet::new();
    let mut topics: Vec<MetadataResponseTopic> = if everything {
        image
            .topics()
            .map(|topic| describe(&context, &image, topic))
            .collect()
    } else {
        wanted
            .iter()
            .map(|wanted| one(&context, &image, wanted))
            .filter(|topic| described.insert((topic.name.clone(), topic.topic_id)))
            .collect()
    };
    if request.include_topic_authorized_operations {
        for topic in &mut topics {
            if topic.error_code == ErrorCode::None.code() {
                topic.topic_authorized_operations = TOPIC_OPERATIONS;
            }
        }
    }
    let mut response = MetadataResponse {
        brokers: brokers(&context, &image),
        cluster_id: Some(image.cluster_id.clone()),
        controller_id: context.shard.broker.id().0,
        topics,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}

/// The live brokers as clients of this listener reach them.
fn brokers(context: &Context, image: &MetadataImage) -> Vec<MetadataResponseBroker> {
    image
        .brokers()
        .filter(|broker| !broker.fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(&context.listener)?;
            Some(MetadataResponseBroker {
                node_id: broker.id.0,
                host: endpoint.host.clone(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone(),
            })
        })
        .collect()
}

async fn create_missing(context: &Context, wanted: &[MetadataRequestTopic], allowed: bool) {
    if !allowed || !context.shard.broker.config.auto_create_topics {
        return;
    }
    let image = context.shard.image();
    let missing: Vec<Str> = wanted
        .iter()
        .filter(|topic| topic.topic_id.is_zero())
        .filter_map(|topic| topic.name.clone())
        .filter(|name| validate_topic_name(name).is_ok() && image.topic(name).is_none())
        .map(|name| name.detach())
        .collect();
    let (own, missing): (Vec<Str>, Vec<Str>) = missing
        .into_iter()
        .partition(|name| **name == *OFFSETS_TOPIC);
    if !own.is_empty() {
        // If it fails, the client is told that the topic is not there.
        let _told = groups::have_offsets_topic(context).await;
    }
    if !missing.is_empty() {
        create_topics::automatically(context, missing).await;
    }
}

fn one(
    context: &Context,
    image: &MetadataImage,
    wanted: &MetadataRequestTopic,
) -> MetadataResponseTopic {
    let found = if wanted.topic_id.is_zero() {
        let name = wanted.name.as_deref().unwrap_or_default();
        match image.topic(name) {
            Some(topic) => Ok(topic),
            None if validate_topic_name(name).is_err() => Err(ErrorCode::InvalidTopicException),
            None => Err(ErrorCode::UnknownTopicOrPartition),
        }
    } else {
        image
            .topic_by_id(wanted.topic_id)
            .ok_or(ErrorCode::UnknownTopicId)
    };
    match found {
        Ok(topic) => describe(context, image, topic),
        Err(error) => MetadataResponseTopic {
            error_code: error.code(),
            name: wanted.name.clone().filter(|_| wanted.topic_id.is_zero()),
            topic_id: wanted.topic_id,
            is_internal: wanted.name.as_deref().is_some_and(is_internal_topic),
            ..Default::default()
        },
    }
}

fn describe(context: &Context, image: &MetadataImage, topic: &TopicImage) -> MetadataResponseTopic {
    MetadataResponseTopic {
        name: Some(topic.name.clone()),
        topic_id: topic.id,
        is_internal: is_internal_topic(&topic.name),
        partitions: topic
            .partitions
            .iter()
            .enumerate()
            .map(|(index, partition)| describe_partition(context, image, index as i32, partition))
            .collect(),
        ..Default::default()
    }
}

fn describe_partition(
    context: &Context,
    image: &MetadataImage,
    index: i32,
    partition: &PartitionImage,
) -> MetadataResponsePartition {
    let reachable = |id: &BrokerId| {
        let broker = image.broker(*id).filter(|broker| !broker.fenced);
        broker.is_some_and(|broker| broker.endpoint(&context.listener).is_some())
    };
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    let leader = partition.leader.filter(|leader| reachable(leader));
    let error = match (leader, partition.leader) {
        (Some(_), _) => ErrorCode::None,
        (None, Some(_)) => ErrorCode::ListenerNotFound,
        (None, None) => ErrorCode::LeaderNotAvailable,
    };
    MetadataResponsePartition {
        error_code: error.code(),
        partition_index: index,
        leader_id: leader.map_or(-1, |leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        offline_replicas: partition
            .replicas
            .iter()
            .filter(|replica| !reachable(replica))
            .map(|replica| replica.0)
            .collect(),
    }
}

/// A topic without a name, or by id, in a version that cannot say so.
fn invalid(topics: &[MetadataRequestTopic], version: i16) -> MetadataResponse {
    MetadataResponse {
        topics: topics
            .iter()
            .map(|topic| MetadataResponseTopic {
                error_code: ErrorCode::InvalidRequest.code(),
                name: Some(topic.name.clone().unwrap_or_default()),
                topic_id: if version >= 10 {
                    topic.topic_id
                } else {
                    Uuid::ZERO
                },
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}
