//! ListOffsets (key 2, versions 1 to 11). KIP-79 (by timestamp), KIP-734 (largest timestamp), KIP-405 (tiers, of which there is one).

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use futures::future::join_all;

use crate::handler::{Context, errors};
use crate::ids::PartitionIndex;
use crate::partition::{FoundOffset, Lookup, Partition};
use crate::protocol::messages::ListOffsetsRequest;
use crate::protocol::messages::list_offsets_request::ListOffsetsPartition;
use crate::protocol::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsResponse, ListOffsetsTopicResponse,
};
use crate::protocol::{ErrorCode, Str};

const READ_COMMITTED: i8 = 1;

/// The version that tells the leader epoch (KIP-320).
const EPOCH_SINCE: i16 = 4;

pub async fn handle(
    context: Rc<Context>,
    request: ListOffsetsRequest,
    version: i16,
) -> ListOffsetsResponse {
    let mut seen = HashSet::new();
    // What is asked for twice is answered once, with an error.
    let mut twice = HashMap::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            if !seen.insert((&topic.name, partition.partition_index)) {
                twice.insert((&topic.name, partition.partition_index), false);
            }
        }
    }
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().filter_map(|partition| {
            let repeated = twice.get_mut(&(&topic.name, partition.partition_index));
            let refusal = match repeated {
                Some(true) => return None,
                Some(answered) => {
                    *answered = true;
                    Some(ErrorCode::InvalidRequest)
                }
                None => (!(0..=READ_COMMITTED).contains(&request.isolation_level))
                    .then_some(ErrorCode::InvalidRequest),
            };
            let committed = request.isolation_level == READ_COMMITTED;
            Some(one(
                &context,
                &topic.name,
                partition,
                committed,
                version,
                refusal,
            ))
        });
        let partitions = join_all(partitions);
        async move {
            ListOffsetsTopicResponse {
                name: topic.name.clone(),
                partitions: partitions.await,
            }
        }
    });
    ListOffsetsResponse {
        topics: join_all(topics).await,
        ..Default::default()
    }
}

async fn one(
    context: &Context,
    topic: &Str,
    partition: &ListOffsetsPartition,
    committed: bool,
    version: i16,
    refusal: Option<ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let mut response = ListOffsetsPartitionResponse {
        partition_index: partition.partition_index,
        ..Default::default()
    };
    let found = match refusal {
        Some(error) => Err(error),
        None => lookup(context, topic, partition, committed, version).await,
    };
    match found {
        Ok(Some(found)) => {
            response.timestamp = found.timestamp;
            response.offset = found.offset.0;
            if version >= EPOCH_SINCE {
                response.leader_epoch = found.leader_epoch.map_or(-1, |epoch| epoch.0);
            }
        }
        Ok(None) => {}
        Err(error) => response.error_code = error.code(),
    }
    response
}

async fn lookup(
    context: &Context,
    topic: &Str,
    wanted: &ListOffsetsPartition,
    committed: bool,
    version: i16,
) -> Result<Option<FoundOffset>, ErrorCode> {
    let lookup = lookup_of(wanted.timestamp, version)?;
    let index = PartitionIndex(wanted.partition_index);
    let topic_id = context.topic_id(topic, index)?;
    let epoch = wanted.current_leader_epoch;
    context
        .shard
        .on_partition(
            topic_id,
            index,
            move |partition: Rc<Partition>| async move {
                partition.check_epoch(epoch)?;
                partition.find_offset(lookup, committed).await
            },
        )
        .await
        .map_err(|error| errors::of_partition(&error))
}

/// What a timestamp asks for; each special one from the version that brought it.
fn lookup_of(timestamp: i64, version: i16) -> Result<Lookup, ErrorCode> {
    let (lookup, since) = match timestamp {
        -1 => (Lookup::Latest, 1),
        -2 => (Lookup::Earliest, 1),
        -3 => (Lookup::MaxTimestamp, 7),
        -4 => (Lookup::Earliest, 8),
        -5 => (Lookup::Nothing, 9),
        -6 => (Lookup::Nothing, 11),
        timestamp if timestamp >= 0 => (Lookup::Timestamp(timestamp), 1),
        _ => return Err(ErrorCode::UnsupportedVersion),
    };
    if version < since {
        return Err(ErrorCode::UnsupportedVersion);
    }
    Ok(lookup)
}
