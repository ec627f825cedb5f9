//! OffsetFetch (key 9, versions 1 to 10). KIP-447 (stable offsets, which all are without transactions), KIP-709
//! (several groups), KIP-848 (member epochs, topic ids).

use std::rc::Rc;

use futures::future::join_all;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::protocol::messages::offset_fetch_request::{
    OffsetFetchRequest, OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use crate::protocol::messages::offset_fetch_response::{
    OffsetFetchResponse, OffsetFetchResponseGroup, OffsetFetchResponsePartition,
    OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use crate::protocol::{ErrorCode, Str};

/// From this version on the answer has an error of its own.
const ERROR_SINCE: i16 = 2;
/// From this version on a request names several groups.
const BATCHED_SINCE: i16 = 8;
/// From this version on topics are told by id.
const BY_ID_SINCE: i16 = 10;

pub async fn handle(
    context: Rc<Context>,
    request: OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    if version < BATCHED_SINCE {
        let group = one_group(&request);
        let fetched = one(&context, group, version).await;
        return single(fetched, &request, version);
    }
    let groups = request.groups.into_iter();
    let groups = groups.map(|group| one(&context, group, version));
    OffsetFetchResponse {
        groups: join_all(groups).await,
        ..Default::default()
    }
}

async fn one(
    context: &Context,
    mut group: OffsetFetchRequestGroup,
    version: i16,
) -> OffsetFetchResponseGroup {
    let mut unknown = Vec::new();
    if version >= BY_ID_SINCE
        && let Some(topics) = &mut group.topics
    {
        let image = context.shard.image();
        topics.retain_mut(|topic| match image.topic_by_id(topic.topic_id) {
            Some(found) => {
                topic.name = found.name.clone();
                true
            }
            None => {
                unknown.push(refused(topic, ErrorCode::UnknownTopicId));
                false
            }
        });
    }
    let id = group.group_id.clone();
    let request = Request::FetchOffsets {
        group: group.group_id,
        member: group.member_id,
        member_epoch: group.member_epoch,
        topics: group.topics,
    };
    let answer = groups::ask(context, &id, request).await;
    let mut answer =
        answered!(answer, FetchedOffsets).unwrap_or_else(|error| OffsetFetchResponseGroup {
            group_id: id,
            error_code: error.code(),
            ..Default::default()
        });
    if version >= BY_ID_SINCE {
        let image = context.shard.image();
        // What is left of a topic that has just been deleted cannot be told.
        answer.topics.retain_mut(|topic| {
            let id = image.topic(&topic.name).map(|found| found.id);
            topic.topic_id = id.unwrap_or(topic.topic_id);
            !topic.topic_id.is_zero()
        });
    }
    if answer.error_code == ErrorCode::None.code() {
        answer.topics.extend(unknown);
    }
    answer
}

/// The one group of an older request, as a newer one says it.
fn one_group(request: &OffsetFetchRequest) -> OffsetFetchRequestGroup {
    let topics = request.topics.as_ref().map(|topics| {
        let topics = topics.iter().map(|topic| OffsetFetchRequestTopics {
            name: topic.name.clone(),
            partition_indexes: topic.partition_indexes.clone(),
            ..Default::default()
        });
        topics.collect()
    });
    OffsetFetchRequestGroup {
        group_id: request.group_id.clone(),
        member_id: None,
        member_epoch: -1,
        topics,
    }
}

/// The answer as older versions have it; the oldest tells an error at every partition.
fn single(
    fetched: OffsetFetchResponseGroup,
    request: &OffsetFetchRequest,
    version: i16,
) -> OffsetFetchResponse {
    let failed = fetched.error_code != ErrorCode::None.code();
    if failed && version < ERROR_SINCE {
        let topics = request.topics.iter().flatten();
        return OffsetFetchResponse {
            topics: topics
                .map(|topic| failed_topic(topic, fetched.error_code))
                .collect(),
            ..Default::default()
        };
    }
    let topics = fetched.topics.into_iter();
    let topics = topics.map(|topic| OffsetFetchResponseTopic {
        name: topic.name,
        partitions: topic.partitions.into_iter().map(older).collect(),
    });
    OffsetFetchResponse {
        topics: topics.collect(),
        error_code: fetched.error_code,
        ..Default::default()
    }
}

fn older(partition: OffsetFetchResponsePartitions) -> OffsetFetchResponsePartition {
    OffsetFetchResponsePartition {
        partition_index: partition.partition_index,
        committed_offset: partition.committed_offset,
        committed_leader_epoch: partition.committed_leader_epoch,
        metadata: partition.metadata,
        error_code: partition.error_code,
    }
}

fn nothing(index: i32, error: i16) -> OffsetFetchResponsePartitions {
    OffsetFetchResponsePartitions {
        partition_index: index,
        committed_offset: -1,
        committed_leader_epoch: -1,
        metadata: Some(Str::EMPTY),
        error_code: error,
    }
}

fn failed_topic(topic: &OffsetFetchRequestTopic, error: i16) -> OffsetFetchResponseTopic {
    let partitions = topic.partition_indexes.iter();
    OffsetFetchResponseTopic {
        name: topic.name.clone(),
        partitions: partitions
            .map(|index| older(nothing(*index, error)))
            .collect(),
    }
}

fn refused(topic: &OffsetFetchRequestTopics, error: ErrorCode) -> OffsetFetchResponseTopics {
    let partitions = topic.partition_indexes.iter();
    OffsetFetchResponseTopics {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions
            .map(|index| nothing(*index, error.code()))
            .collect(),
    }
}
