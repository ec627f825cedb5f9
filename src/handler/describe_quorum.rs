//! DescribeQuorum (key 55, versions 0 to 2), of the single controller. KIP-595, KIP-836, KIP-853 (directories, nodes).

use std::rc::Rc;

use crate::handler::Context;
use crate::io::clock;
use crate::protocol::messages::DescribeQuorumRequest;
use crate::protocol::messages::describe_quorum_response::{
    DescribeQuorumResponse, Listener, Node, PartitionData, ReplicaState, TopicData,
};
use crate::protocol::{ErrorCode, Str, Uuid};

/// The version that tells where the voters are (KIP-853).
const NODES_SINCE: i16 = 2;

const METADATA_TOPIC: &str = "__cluster_metadata";

pub async fn handle(
    context: Rc<Context>,
    request: DescribeQuorumRequest,
    version: i16,
) -> DescribeQuorumResponse {
    let only_metadata = match request.topics.as_slice() {
        [topic] => {
            topic.topic_name == *METADATA_TOPIC
                && matches!(topic.partitions.as_slice(), [partition] if partition.partition_index == 0)
        }
        _ => false,
    };
    if !only_metadata {
        return unknown(&request);
    }
    let (epoch, end, durable) = context
        .shard
        .on_controller(|_, driver| async move {
            let log = driver.log();
            (driver.epoch(), log.end_offset(), log.durable_end())
        })
        .await;
    let broker = &context.shard.broker;
    let now = clock::wall_ms();
    let leader = ReplicaState {
        replica_id: broker.id().0,
        // Voters are named with their directories from kraft.version 1 on.
        replica_directory_id: Uuid::ZERO,
        log_end_offset: end.0,
        last_fetch_timestamp: now,
        last_caught_up_timestamp: now,
    };
    let partition = PartitionData {
        partition_index: 0,
        error_code: ErrorCode::None.code(),
        error_message: None,
        leader_id: broker.id().0,
        leader_epoch: epoch,
        high_watermark: durable.0,
        current_voters: vec![leader],
        observers: Vec::new(),
    };
    DescribeQuorumResponse {
        error_code: ErrorCode::None.code(),
        error_message: None,
        topics: vec![TopicData {
            topic_name: METADATA_TOPIC.into(),
            partitions: vec![partition],
        }],
        nodes: match version {
            ..NODES_SINCE => Vec::new(),
            _ => nodes(&context),
        },
    }
}

fn nodes(context: &Context) -> Vec<Node> {
    context
        .shard
        .image()
        .controllers()
        .map(|controller| Node {
            node_id: controller.id.0,
            listeners: controller
                .endpoints
                .iter()
                .map(|endpoint| Listener {
                    name: endpoint.name.clone(),
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                })
                .collect(),
        })
        .collect()
}

/// Only the metadata has a quorum.
fn unknown(request: &DescribeQuorumRequest) -> DescribeQuorumResponse {
    let error = ErrorCode::UnknownTopicOrPartition;
    let topics = request.topics.iter().map(|topic| TopicData {
        topic_name: topic.topic_name.clone(),
        partitions: topic
            .partitions
            .iter()
            .map(|partition| PartitionData {
                partition_index: partition.partition_index,
                error_code: error.code(),
                error_message: Some(Str::from(error.default_message())),
                ..Default::default()
            })
            .collect(),
    });
    DescribeQuorumResponse {
        error_message: None,
        topics: topics.collect(),
        ..Default::default()
    }
}
