//! DescribeLogDirs (key 35, versions 1 to 5). KIP-113, KIP-827 (sizes of the disk).

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use tracing::warn;

use crate::handler::Context;
use crate::io::space;
use crate::protocol::messages::DescribeLogDirsRequest;
use crate::protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResponse, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use crate::protocol::{ErrorCode, Str};

/// The partitions asked for; `None` is all.
type Wanted = Option<BTreeSet<(String, i32)>>;

pub async fn handle(
    context: Rc<Context>,
    request: DescribeLogDirsRequest,
    _version: i16,
) -> DescribeLogDirsResponse {
    let wanted: Arc<Wanted> = Arc::new(request.topics.map(|topics| {
        let named = |topic: &str, partitions: &[i32]| -> Vec<(String, i32)> {
            partitions
                .iter()
                .map(|partition| (topic.to_owned(), *partition))
                .collect()
        };
        topics
            .iter()
            .flat_map(|topic| named(&topic.topic, &topic.partitions))
            .collect()
    }));
    let sizes = context
        .shard
        .everywhere(move |shard| {
            let wanted = wanted.clone();
            async move {
                let is_wanted = |topic: &str, index: i32| match wanted.as_ref() {
                    None => true,
                    Some(wanted) => wanted.contains(&(topic.to_owned(), index)),
                };
                let mut sizes = Vec::new();
                let mut walk = shard.walk();
                while let Some(some) = walk.next().await {
                    for partition in some {
                        let (topic, index) = (&partition.topic, partition.index.0);
                        if is_wanted(topic, index) {
                            let size = i64::try_from(partition.log().size_bytes());
                            sizes.push((topic.clone(), index, size.unwrap_or(i64::MAX)));
                        }
                    }
                }
                sizes
            }
        })
        .await;
    let mut topics = BTreeMap::<Str, Vec<DescribeLogDirsPartition>>::new();
    for (topic, partition_index, partition_size) in sizes.into_iter().flatten() {
        topics
            .entry(topic)
            .or_default()
            .push(DescribeLogDirsPartition {
                partition_index,
                partition_size,
                offset_lag: 0,
                is_future_key: false,
            });
    }
    DescribeLogDirsResponse {
        results: vec![directory(&context, topics)],
        ..Default::default()
    }
}

fn directory(
    context: &Context,
    topics: BTreeMap<Str, Vec<DescribeLogDirsPartition>>,
) -> DescribeLogDirsResult {
    let folder = &context.shard.broker.config.data_dir;
    let mut result = DescribeLogDirsResult {
        error_code: ErrorCode::None.code(),
        log_dir: Str::from(space::absolute(folder).display().to_string()),
        topics: topics
            .into_iter()
            .map(|(name, mut partitions)| {
                partitions.sort_by_key(|partition| partition.partition_index);
                DescribeLogDirsTopic { name, partitions }
            })
            .collect(),
        ..Default::default()
    };
    match space::disk_space(folder) {
        Ok(disk) => {
            result.total_bytes = i64::try_from(disk.total).unwrap_or(i64::MAX);
            result.usable_bytes = i64::try_from(disk.usable).unwrap_or(i64::MAX);
        }
        // Kafka's answer for "not known" is -1, which the result has already.
        Err(error) => {
            warn!(folder = %folder.display(), %error, "the size of the disk is not known")
        }
    }
    result
}
