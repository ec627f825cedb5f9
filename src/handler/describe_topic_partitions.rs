//! DescribeTopicPartitions (key 75, version 0). KIP-966: page by page, with eligible leader replicas.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::controller::{MetadataImage, PartitionImage, is_internal_topic, validate_topic_name};
use crate::handler::Context;
use crate::handler::metadata::TOPIC_OPERATIONS;
use crate::ids::BrokerId;
use crate::protocol::messages::DescribeTopicPartitionsRequest;
use crate::protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponse, DescribeTopicPartitionsResponsePartition,
    DescribeTopicPartitionsResponseTopic,
};
use crate::protocol::{ErrorCode, Str};

pub async fn handle(
    context: Rc<Context>,
    request: DescribeTopicPartitionsRequest,
    _version: i16,
) -> DescribeTopicPartitionsResponse {
    let page = context.shard.broker.config.describe_partitions_max;
    let image = context.shard.image();
    describe(&image, &context.listener, &request, page)
}

fn describe(
    image: &MetadataImage,
    listener: &str,
    request: &DescribeTopicPartitionsRequest,
    page: usize,
) -> DescribeTopicPartitionsResponse {
    let cursor = request.cursor.as_ref();
    let from = cursor.map_or(Str::EMPTY, |cursor| cursor.topic_name.clone());
    let everything = request.topics.is_empty();
    let names: BTreeSet<Str> = match everything {
        true => image
            .topics_from(&from)
            .map(|topic| topic.name.clone())
            .collect(),
        false => {
            let named = request.topics.iter().map(|topic| topic.name.clone());
            named.filter(|name| *name >= from).collect()
        }
    };
    let misplaced = cursor.is_some_and(|cursor| {
        cursor.partition_index < 0 || (!everything && !names.contains(&cursor.topic_name))
    });
    if misplaced {
        return invalid(request);
    }
    let limit = usize::try_from(request.response_partition_limit).unwrap_or_default();
    describe_page(image, listener, request, names, page.min(limit).max(1))
}

/// The topics of `names`, in order, with at most `remaining` partitions; behind them a cursor to the rest.
fn describe_page(
    image: &MetadataImage,
    listener: &str,
    request: &DescribeTopicPartitionsRequest,
    names: BTreeSet<Str>,
    mut remaining: usize,
) -> DescribeTopicPartitionsResponse {
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in names {
        if remaining == 0 {
            response.next_cursor = Some(Cursor {
                topic_name: name,
                partition_index: 0,
            });
            break;
        }
        let Some(topic) = image.topic(&name) else {
            if !request.topics.is_empty() {
                response.topics.push(missing(name));
            }
            continue;
        };
        let first = match &request.cursor {
            Some(cursor) if cursor.topic_name == name => cursor.partition_index,
            _ => 0,
        };
        let partitions: Vec<_> = (0..)
            .zip(&topic.partitions)
            .skip(usize::try_from(first).unwrap_or_default())
            .take(remaining)
            .map(|(index, partition)| describe_partition(image, listener, index, partition))
            .collect();
        remaining -= partitions.len();
        let next = partitions
            .last()
            .map_or(first, |last| last.partition_index + 1);
        response.topics.push(DescribeTopicPartitionsResponseTopic {
            error_code: ErrorCode::None.code(),
            name: Some(name.clone()),
            topic_id: topic.id,
            is_internal: topic.is_internal(),
            partitions,
            topic_authorized_operations: TOPIC_OPERATIONS,
        });
        if usize::try_from(next).is_ok_and(|next| next < topic.partitions.len()) {
            response.next_cursor = Some(Cursor {
                topic_name: name,
                partition_index: next,
            });
            break;
        }
    }
    response
}

fn describe_partition(
    image: &MetadataImage,
    listener: &str,
    index: i32,
    partition: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let reachable = |id: &BrokerId| image.endpoint_of(*id, listener).is_some();
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|broker| broker.0).collect();
    DescribeTopicPartitionsResponsePartition {
        error_code: ErrorCode::None.code(),
        partition_index: index,
        leader_id: partition
            .leader
            .filter(reachable)
            .map_or(-1, |leader| leader.0),
        leader_epoch: partition.leader_epoch.0,
        replica_nodes: ids(&partition.replicas),
        isr_nodes: ids(&partition.isr),
        eligible_leader_replicas: Some(ids(&partition.elr)),
        last_known_elr: Some(ids(&partition.last_known_elr)),
        offline_replicas: partition
            .replicas
            .iter()
            .filter(|replica| !reachable(replica))
            .map(|replica| replica.0)
            .collect(),
    }
}

fn missing(name: Str) -> DescribeTopicPartitionsResponseTopic {
    let error = match validate_topic_name(&name) {
        Ok(()) => ErrorCode::UnknownTopicOrPartition,
        Err(_) => ErrorCode::InvalidTopicException,
    };
    DescribeTopicPartitionsResponseTopic {
        error_code: error.code(),
        is_internal: is_internal_topic(&name),
        name: Some(name),
        topic_authorized_operations: TOPIC_OPERATIONS,
        ..Default::default()
    }
}

/// A cursor that points nowhere: the request has no error of its own, so each topic carries it.
fn invalid(request: &DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    DescribeTopicPartitionsResponse {
        topics: request
            .topics
            .iter()
            .map(|topic| DescribeTopicPartitionsResponseTopic {
                error_code: ErrorCode::InvalidRequest.code(),
                name: Some(topic.name.clone()),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataDelta;
    use crate::protocol::Uuid;
    use crate::protocol::messages::describe_topic_partitions_request;
    use crate::protocol::records::metadata::{PartitionRecord, TopicRecord};

    /// Name, error code and count of partitions of each topic.
    type Told = Vec<(String, i16, usize)>;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::new("cluster".into());
        let mut delta = MetadataDelta::default();
        for (number, (name, partitions)) in (1..).zip([("a", 3), ("b", 1), ("c", 2)]) {
            let topic_id = Uuid([number; 16]);
            let topic = TopicRecord {
                name: name.into(),
                topic_id,
            };
            image.apply(&topic.into(), 0, &mut delta).unwrap();
            for partition_id in 0..partitions {
                let partition = PartitionRecord {
                    partition_id,
                    topic_id,
                    replicas: vec![1],
                    ..Default::default()
                };
                image.apply(&partition.into(), 0, &mut delta).unwrap();
            }
        }
        image
    }

    fn ask(
        topics: &[&str],
        limit: i32,
        cursor: Option<(&str, i32)>,
    ) -> (Told, Option<(String, i32)>) {
        let request = DescribeTopicPartitionsRequest {
            topics: topics
                .iter()
                .map(|name| describe_topic_partitions_request::TopicRequest {
                    name: Str::copied(name),
                })
                .collect(),
            response_partition_limit: limit,
            cursor: cursor.map(|(topic, partition_index)| {
                describe_topic_partitions_request::Cursor {
                    topic_name: Str::copied(topic),
                    partition_index,
                }
            }),
        };
        let response = describe(&image(), "PLAINTEXT", &request, 2000);
        let topics = response.topics.iter().map(|topic| {
            let name = topic.name.clone().unwrap_or_default().to_string();
            (name, topic.error_code, topic.partitions.len())
        });
        let next = response
            .next_cursor
            .map(|next| (next.topic_name.to_string(), next.partition_index));
        (topics.collect(), next)
    }

    fn told(topics: &[(&str, i16, usize)]) -> Told {
        topics
            .iter()
            .map(|(name, error, count)| ((*name).to_owned(), *error, *count))
            .collect()
    }

    #[test]
    fn pages_follow_each_other() {
        let (topics, next) = ask(&[], 2, None);
        assert_eq!(
            (topics, next.clone()),
            (told(&[("a", 0, 2)]), Some(("a".into(), 2)))
        );
        let (topics, next) = ask(
            &[],
            2,
            next.as_ref().map(|(name, index)| (name.as_str(), *index)),
        );
        assert_eq!(
            (topics, next.clone()),
            (told(&[("a", 0, 1), ("b", 0, 1)]), Some(("c".into(), 0)))
        );
        let (topics, next) = ask(
            &[],
            2,
            next.as_ref().map(|(name, index)| (name.as_str(), *index)),
        );
        assert_eq!((topics, next), (told(&[("c", 0, 2)]), None));
    }

    #[test]
    fn missing_topics_and_bad_cursors_are_told() {
        let (topics, next) = ask(&["nope", "b", "x y"], 10, None);
        assert_eq!(
            (topics, next),
            (told(&[("b", 0, 1), ("nope", 3, 0), ("x y", 17, 0)]), None)
        );
        assert_eq!(ask(&["b"], 10, Some(("a", 0))).0, told(&[("b", 42, 0)]));
        assert_eq!(ask(&["b"], 10, Some(("b", -1))).0, told(&[("b", 42, 0)]));
    }
}
