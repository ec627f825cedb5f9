//! OffsetCommit (key 8, versions 2 to 10). KIP-98 (leader epochs), KIP-345 (static members), KIP-848 (member epochs, topic ids).

use std::rc::Rc;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::ids::PartitionIndex;
use crate::protocol::ErrorCode;
use crate::protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use crate::protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::messages::{OffsetCommitRequest, OffsetCommitResponse};

/// From this version on topics are told by id.
const BY_ID_SINCE: i16 = 10;

pub async fn handle(
    context: Rc<Context>,
    mut request: OffsetCommitRequest,
    version: i16,
) -> OffsetCommitResponse {
    let mut response = OffsetCommitResponse::default();
    let mut known = Vec::with_capacity(request.topics.len());
    for mut topic in std::mem::take(&mut request.topics) {
        let unknown = match resolve(&context, &mut topic, version) {
            Ok(unknown) => unknown,
            Err(error) => {
                response.topics.push(refused(&topic, error));
                continue;
            }
        };
        if !unknown.partitions.is_empty() {
            let error = ErrorCode::UnknownTopicOrPartition;
            response.topics.push(refused(&unknown, error));
        }
        if !topic.partitions.is_empty() {
            known.push(topic);
        }
    }
    if known.is_empty() {
        return response;
    }
    request.topics = known;
    let (group, topics) = (request.group_id.clone(), request.topics.clone());
    let answer = groups::ask(&context, &group, Request::Commit { request, version }).await;
    match answered!(answer, Commit) {
        Ok(committed) => merge(&mut response, committed.topics),
        Err(error) => {
            let failed = topics.iter().map(|topic| refused(topic, error));
            merge(&mut response, failed.collect());
        }
    }
    response
}

/// Leaves the partitions that there are in `topic`, gives it its name and id, and returns the others.
fn resolve(
    context: &Context,
    topic: &mut OffsetCommitRequestTopic,
    version: i16,
) -> Result<OffsetCommitRequestTopic, ErrorCode> {
    let image = context.shard.image();
    let found = match version >= BY_ID_SINCE {
        true => image
            .topic_by_id(topic.topic_id)
            .ok_or(ErrorCode::UnknownTopicId)?,
        false => image
            .topic(&topic.name)
            .ok_or(ErrorCode::UnknownTopicOrPartition)?,
    };
    topic.name = found.name.clone();
    topic.topic_id = found.id;
    let exists = |index: i32| found.partition(PartitionIndex(index)).is_some();
    let all = std::mem::take(&mut topic.partitions);
    let (known, unknown) = all.into_iter().partition(|one| exists(one.partition_index));
    topic.partitions = known;
    Ok(OffsetCommitRequestTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: unknown,
    })
}

fn refused(topic: &OffsetCommitRequestTopic, error: ErrorCode) -> OffsetCommitResponseTopic {
    let partitions = topic.partitions.iter();
    let partitions = partitions.map(|partition| OffsetCommitResponsePartition {
        partition_index: partition.partition_index,
        error_code: error.code(),
    });
    OffsetCommitResponseTopic {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partitions: partitions.collect(),
    }
}

/// A topic that some partitions of were refused is told once.
fn merge(response: &mut OffsetCommitResponse, committed: Vec<OffsetCommitResponseTopic>) {
    for topic in committed {
        let mut told = response.topics.iter_mut();
        match told.find(|told| told.name == topic.name && told.topic_id == topic.topic_id) {
            Some(told) => told.partitions.extend(topic.partitions),
            None => response.topics.push(topic),
        }
    }
}
