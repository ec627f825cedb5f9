//! Owns what Produce and Fetch tell a client that asked the wrong broker: who leads now and how to reach it,
//! so that it need not ask for metadata first (KIP-951).

use std::collections::BTreeSet;

use crate::controller::{MetadataImage, TopicImage};
use crate::ids::{BrokerId, PartitionIndex};
use crate::protocol::ErrorCode;
use crate::protocol::messages::{fetch_response, produce_response};

const PRODUCE_SINCE: i16 = 10;
const FETCH_SINCE: i16 = 16;

/// `listener` is the one that the client came by.
pub fn add_to_produce(
    image: &MetadataImage,
    listener: &str,
    version: i16,
    response: &mut produce_response::ProduceResponse,
) {
    if version < PRODUCE_SINCE {
        return;
    }
    let mut leaders = BTreeSet::new();
    for topic in &mut response.responses {
        let wanting = topic.partition_responses.iter_mut();
        for partition in wanting.filter(|partition| deserves_hint(partition.error_code)) {
            let known = match topic.topic_id.is_zero() {
                true => image.topic(&topic.name),
                false => image.topic_by_id(topic.topic_id),
            };
            let hint = &mut partition.current_leader;
            if let Some((leader, epoch)) = known.and_then(|topic| leader(topic, partition.index)) {
                (hint.leader_id, hint.leader_epoch) = (leader.0, epoch);
                leaders.insert(leader);
            }
        }
    }
    let endpoints = leaders.into_iter().filter_map(|leader| {
        let endpoint = image.endpoint_of(leader, listener)?;
        Some(produce_response::NodeEndpoint {
            node_id: leader.0,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: image.broker(leader)?.rack.clone(),
        })
    });
    response.node_endpoints = endpoints.collect();
}

/// `listener` is the one that the client came by.
pub fn add_to_fetch(
    image: &MetadataImage,
    listener: &str,
    version: i16,
    response: &mut fetch_response::FetchResponse,
) {
    if version < FETCH_SINCE {
        return;
    }
    let mut leaders = BTreeSet::new();
    for topic in &mut response.responses {
        let wanting = topic.partitions.iter_mut();
        for partition in wanting.filter(|partition| deserves_hint(partition.error_code)) {
            let known = image.topic_by_id(topic.topic_id);
            let hint = &mut partition.current_leader;
            let index = partition.partition_index;
            if let Some((leader, epoch)) = known.and_then(|topic| leader(topic, index)) {
                (hint.leader_id, hint.leader_epoch) = (leader.0, epoch);
                leaders.insert(leader);
            }
        }
    }
    let endpoints = leaders.into_iter().filter_map(|leader| {
        let endpoint = image.endpoint_of(leader, listener)?;
        Some(fetch_response::NodeEndpoint {
            node_id: leader.0,
            host: endpoint.host.clone(),
            port: i32::from(endpoint.port),
            rack: image.broker(leader)?.rack.clone(),
        })
    });
    response.node_endpoints = endpoints.collect();
}

fn deserves_hint(error_code: i16) -> bool {
    error_code == ErrorCode::NotLeaderOrFollower.code()
        || error_code == ErrorCode::FencedLeaderEpoch.code()
}

fn leader(topic: &TopicImage, index: i32) -> Option<(BrokerId, i32)> {
    let partition = topic.partition(PartitionIndex(index))?;
    Some((partition.leader?, partition.leader_epoch.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataDelta;
    use crate::protocol::Uuid;
    use crate::protocol::records::metadata::register_broker_record::BrokerEndpoint;
    use crate::protocol::records::metadata::{PartitionRecord, RegisterBrokerRecord, TopicRecord};

    const TOPIC: Uuid = Uuid([7; 16]);

    fn image() -> MetadataImage {
        let mut image = MetadataImage::new("cluster".into());
        let mut delta = MetadataDelta::default();
        let broker = RegisterBrokerRecord {
            broker_id: 3,
            end_points: vec![BrokerEndpoint {
                name: "PLAINTEXT".into(),
                host: "three".into(),
                port: 9093,
                security_protocol: 0,
            }],
            fenced: false,
            ..Default::default()
        };
        let topic = TopicRecord {
            name: "t".into(),
            topic_id: TOPIC,
        };
        let partition = PartitionRecord {
            topic_id: TOPIC,
            partition_id: 0,
            replicas: vec![3],
            isr: vec![3],
            leader: 3,
            leader_epoch: 5,
            ..Default::default()
        };
        for record in [broker.into(), topic.into(), partition.into()] {
            image.apply(&record, 0, &mut delta).unwrap();
        }
        image
    }

    fn fetch_refused(error: ErrorCode, version: i16) -> fetch_response::FetchResponse {
        let mut response = fetch_response::FetchResponse {
            responses: vec![fetch_response::FetchableTopicResponse {
                topic_id: TOPIC,
                partitions: vec![fetch_response::PartitionData {
                    error_code: error.code(),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        add_to_fetch(&image(), "PLAINTEXT", version, &mut response);
        response
    }

    #[test]
    fn a_fetch_from_the_wrong_broker_names_the_leader() {
        for error in [ErrorCode::NotLeaderOrFollower, ErrorCode::FencedLeaderEpoch] {
            let told = fetch_refused(error, 16);
            let leader = &told.responses[0].partitions[0].current_leader;
            assert_eq!((leader.leader_id, leader.leader_epoch), (3, 5));
            let node = &told.node_endpoints[0];
            assert_eq!((node.node_id, &*node.host, node.port), (3, "three", 9093));
        }
    }

    #[test]
    fn older_versions_and_other_errors_get_no_hint() {
        let other = ErrorCode::UnknownLeaderEpoch;
        for (error, version) in [(ErrorCode::NotLeaderOrFollower, 15), (other, 16)] {
            let told = fetch_refused(error, version);
            assert_eq!(told.responses[0].partitions[0].current_leader.leader_id, -1);
            assert!(told.node_endpoints.is_empty());
        }
    }

    #[test]
    fn a_produce_to_the_wrong_broker_names_the_leader_by_name_or_id() {
        for (version, name, topic_id) in [(10, "t", Uuid::ZERO), (13, "", TOPIC)] {
            let mut response = produce_response::ProduceResponse {
                responses: vec![produce_response::TopicProduceResponse {
                    name: name.into(),
                    topic_id,
                    partition_responses: vec![produce_response::PartitionProduceResponse {
                        error_code: ErrorCode::NotLeaderOrFollower.code(),
                        ..Default::default()
                    }],
                }],
                ..Default::default()
            };
            add_to_produce(&image(), "PLAINTEXT", version, &mut response);
            let told = &response.responses[0].partition_responses[0].current_leader;
            assert_eq!((told.leader_id, told.leader_epoch), (3, 5));
            assert_eq!(response.node_endpoints.len(), 1);
        }
    }
}
