//! OffsetDelete (key 47, version 0). KIP-496.

use std::rc::Rc;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::ids::PartitionIndex;
use crate::protocol::ErrorCode;
use crate::protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

pub async fn handle(
    context: Rc<Context>,
    mut request: OffsetDeleteRequest,
    _version: i16,
) -> OffsetDeleteResponse {
    let image = context.shard.image();
    let mut unknown = Vec::new();
    request.topics.retain_mut(|topic| {
        let found = image.topic(&topic.name);
        let exists = |index| found.is_some_and(|topic| topic.partition(index).is_some());
        let mut missing = Vec::new();
        topic.partitions.retain(|partition| {
            let exists = exists(PartitionIndex(partition.partition_index));
            if !exists {
                missing.push(OffsetDeleteResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: ErrorCode::UnknownTopicOrPartition.code(),
                });
            }
            exists
        });
        if !missing.is_empty() {
            unknown.push(OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: missing,
            });
        }
        !topic.partitions.is_empty()
    });
    let mut response = OffsetDeleteResponse::default();
    if !request.topics.is_empty() {
        let group = request.group_id.clone();
        let answer = groups::ask(&context, &group, Request::DeleteOffsets(request)).await;
        match answered!(answer, DeletedOffsets) {
            Ok(deleted) => response = deleted,
            Err(error) => response.error_code = error.code(),
        }
    }
    if response.error_code == ErrorCode::None.code() {
        for topic in unknown {
            let mut told = response.topics.iter_mut();
            match told.find(|told| told.name == topic.name) {
                Some(told) => told.partitions.extend(topic.partitions),
                None => response.topics.push(topic),
            }
        }
    }
    response
}
