//! OffsetForLeaderEpoch (key 23, versions 2 to 4). KIP-101, KIP-320.

use std::rc::Rc;

use futures::future::join_all;

use crate::handler::{Context, errors};
use crate::ids::{LeaderEpoch, PartitionIndex};
use crate::partition::Partition;
use crate::protocol::messages::OffsetForLeaderEpochRequest;
use crate::protocol::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use crate::protocol::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderEpochResponse, OffsetForLeaderTopicResult,
};
use crate::protocol::{ErrorCode, Str};

pub async fn handle(
    context: Rc<Context>,
    request: OffsetForLeaderEpochRequest,
    _version: i16,
) -> OffsetForLeaderEpochResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic
            .partitions
            .iter()
            .map(|partition| one(&context, &topic.topic, partition));
        async {
            OffsetForLeaderTopicResult {
                topic: topic.topic.clone(),
                partitions: join_all(partitions).await,
            }
        }
    });
    OffsetForLeaderEpochResponse {
        topics: join_all(topics).await,
        ..Default::default()
    }
}

async fn one(context: &Context, topic: &Str, wanted: &OffsetForLeaderPartition) -> EpochEndOffset {
    let mut response = EpochEndOffset {
        partition: wanted.partition,
        ..Default::default()
    };
    let index = PartitionIndex(wanted.partition);
    let known = context.topic_id(topic, index);
    let Ok(topic_id) = known else {
        response.error_code = ErrorCode::UnknownTopicOrPartition.code();
        return response;
    };
    let (current, asked) = (
        wanted.current_leader_epoch,
        LeaderEpoch(wanted.leader_epoch),
    );
    let found = context
        .shard
        .on_partition(
            topic_id,
            index,
            move |partition: Rc<Partition>| async move {
                partition.check_epoch(current)?;
                Ok(partition.end_offset_for(asked))
            },
        )
        .await;
    match found {
        Ok(Some((epoch, end))) => {
            response.leader_epoch = epoch.0;
            response.end_offset = end.0;
        }
        Ok(None) => {}
        Err(error) => response.error_code = errors::of_partition(&error).code(),
    }
    response
}
