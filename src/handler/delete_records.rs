//! DeleteRecords (key 21, versions 0 to 2). KIP-107.

use std::rc::Rc;

use futures::future::join_all;
use tracing::warn;

use crate::controller::is_internal_topic;
use crate::handler::{Context, errors};
use crate::ids::{Offset, PartitionIndex};
use crate::partition::{Partition, PartitionError};
use crate::protocol::messages::DeleteRecordsRequest;
use crate::protocol::messages::delete_records_request::DeleteRecordsPartition;
use crate::protocol::messages::delete_records_response::{
    DeleteRecordsPartitionResult, DeleteRecordsResponse, DeleteRecordsTopicResult,
};
use crate::protocol::{ErrorCode, Str, Uuid};
use crate::shard::checkpoints;

/// Means the high watermark: all that was committed.
const HIGH_WATERMARK: i64 = -1;

pub async fn handle(
    context: Rc<Context>,
    request: DeleteRecordsRequest,
    _version: i16,
) -> DeleteRecordsResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| one(&context, &topic.name, partition));
        async {
            DeleteRecordsTopicResult {
                name: topic.name.clone(),
                partitions: join_all(partitions).await,
            }
        }
    });
    let mut topics = join_all(topics).await;
    let mut deleted: Vec<_> = topics
        .iter_mut()
        .flat_map(|topic| &mut topic.partitions)
        .filter(|partition| partition.error_code == 0)
        .collect();
    // What was said to be deleted does not come back after a crash.
    if !deleted.is_empty()
        && let Err(error) = checkpoints::make_log_starts_durable(&context.shard).await
    {
        warn!(%error, "the log start offsets could not be written");
        for partition in &mut deleted {
            partition.error_code = ErrorCode::KafkaStorageError.code();
            partition.low_watermark = -1;
        }
    }
    DeleteRecordsResponse {
        topics,
        ..Default::default()
    }
}

async fn one(
    context: &Context,
    topic: &Str,
    wanted: &DeleteRecordsPartition,
) -> DeleteRecordsPartitionResult {
    let mut result = DeleteRecordsPartitionResult {
        partition_index: wanted.partition_index,
        low_watermark: -1,
        ..Default::default()
    };
    let index = PartitionIndex(wanted.partition_index);
    let known = context.topic_id(topic, index);
    let Ok(topic_id) = known else {
        result.error_code = ErrorCode::UnknownTopicOrPartition.code();
        return result;
    };
    if let Some(refusal) = refusal(context, topic, topic_id) {
        result.error_code = refusal.code();
        return result;
    }
    let before = wanted.offset;
    let deleted = context
        .shard
        .on_partition(
            topic_id,
            index,
            move |partition: Rc<Partition>| async move {
                let high_watermark = partition.marks().high_watermark;
                let before = match before {
                    HIGH_WATERMARK => high_watermark,
                    before => Offset(before),
                };
                if before.0 < 0 || before > high_watermark {
                    return Err(PartitionError::OffsetOutOfRange(before));
                }
                let log = partition.log();
                log.delete_records_before(before).await?;
                Ok(log.start_offset())
            },
        )
        .await;
    match deleted {
        Ok(low_watermark) => result.low_watermark = low_watermark.0,
        Err(error) => result.error_code = errors::of_partition(&error).code(),
    }
    result
}

/// Why nobody deletes records of a topic: the broker needs them, or only their keys decide what goes.
fn refusal(context: &Context, topic: &str, topic_id: Uuid) -> Option<ErrorCode> {
    if is_internal_topic(topic) {
        return Some(ErrorCode::InvalidTopicException);
    }
    let config = context.shard.topic_config(topic_id);
    (config.compact && !config.delete).then_some(ErrorCode::PolicyViolation)
}
