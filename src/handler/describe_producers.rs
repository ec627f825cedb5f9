//! DescribeProducers (key 61, version 0). KIP-664.

use std::rc::Rc;

use futures::future::join_all;

use crate::controller::validate_topic_name;
use crate::handler::{Context, errors};
use crate::ids::PartitionIndex;
use crate::partition::Partition;
use crate::protocol::messages::DescribeProducersRequest;
use crate::protocol::messages::describe_producers_response::{
    DescribeProducersResponse, PartitionResponse, ProducerState, TopicResponse,
};
use crate::protocol::{ErrorCode, Str};

pub async fn handle(
    context: Rc<Context>,
    request: DescribeProducersRequest,
    _version: i16,
) -> DescribeProducersResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic
            .partition_indexes
            .iter()
            .map(|index| one(&context, &topic.name, *index));
        async {
            TopicResponse {
                name: topic.name.clone(),
                partitions: join_all(partitions).await,
            }
        }
    });
    DescribeProducersResponse {
        topics: join_all(topics).await,
        ..Default::default()
    }
}

async fn one(context: &Context, topic: &Str, index: i32) -> PartitionResponse {
    let mut response = PartitionResponse {
        partition_index: index,
        ..Default::default()
    };
    let index = PartitionIndex(index);
    let active = match context.topic_id(topic, index) {
        Err(_) if validate_topic_name(topic).is_err() => Err(ErrorCode::InvalidTopicException),
        Err(error) => Err(error),
        Ok(topic_id) => context
            .shard
            .on_partition(topic_id, index, |partition: Rc<Partition>| async move {
                let producers = partition.log().producers().borrow();
                Ok(producers.active().collect::<Vec<_>>())
            })
            .await
            .map_err(|error| errors::of_partition(&error)),
    };
    match active {
        Ok(active) => {
            response.active_producers = active
                .into_iter()
                .map(|producer| ProducerState {
                    producer_id: producer.producer_id.0,
                    producer_epoch: i32::from(producer.producer_epoch),
                    last_sequence: producer.last_sequence,
                    last_timestamp: producer.last_timestamp,
                    coordinator_epoch: producer.coordinator_epoch,
                    current_txn_start_offset: producer
                        .transaction_first_offset
                        .map_or(-1, |start| start.0),
                })
                .collect();
        }
        Err(error) => {
            response.error_code = error.code();
            response.error_message = Some(Str::from(error.default_message()));
        }
    }
    response
}
