//! Owns the step from metadata to one core's partitions: what a change of the image creates, opens, retunes and deletes here.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tracing::{error, info};

use crate::config::{FlushPolicy, TopicConfig};
use crate::controller::{MetadataDelta, MetadataImage, TopicImage};
use crate::ids::PartitionIndex;
use crate::io::{clock, entropy};
use crate::log::checkpoints::PartitionMetadata;
use crate::log::directory::{Checkpoint, Folder, FoundLog};
use crate::log::{self, Log, LogError, LogSettings};
use crate::partition::Partition;
use crate::protocol::Uuid;
use crate::shard::Shard;
use crate::shard::routes::shard_of;

/// Logs that one core opens or creates at the same time.
const OPENING_MAX: usize = 64;

/// Makes this core's partitions what `image` says; resolves when they serve.
pub async fn apply(shard: Rc<Shard>, image: Arc<MetadataImage>, delta: Arc<MetadataDelta>) {
    shard.retune(&image, &delta);
    let mut created = Vec::new();
    for (topic_id, indexes) in &delta.changed_partitions {
        let Some(topic) = image.topic_by_id(*topic_id) else {
            continue;
        };
        for index in indexes {
            let Some(partition) = topic.partition(*index) else {
                continue;
            };
            match shard.partition(*topic_id, *index) {
                Ok(existing) => existing.set_leader_epoch(partition.leader_epoch),
                Err(_) if is_here(&shard, *topic_id, *index) => {
                    created.push((topic.clone(), *index))
                }
                Err(_) => {}
            }
        }
    }
    open_all(&shard, created, None).await;
    shard.set_image(image);
    for topic in delta.deleted_topics.values() {
        for index in 0..topic.partitions.len() {
            remove(&shard, topic.id, PartitionIndex(index as i32)).await;
        }
    }
}

/// Opens all of this core's partitions of `image`, at start.
pub async fn open(shard: Rc<Shard>, image: Arc<MetadataImage>, folder: Arc<Folder>) {
    let mut here = Vec::new();
    for topic in image.topics() {
        for index in 0..topic.partitions.len() {
            let index = PartitionIndex(index as i32);
            if is_here(&shard, topic.id, index) {
                here.push((topic.clone(), index));
            }
        }
    }
    shard.retune_all(&image);
    open_all(&shard, here, Some(&folder)).await;
    shard.set_image(image);
}

fn is_here(shard: &Shard, topic_id: Uuid, index: PartitionIndex) -> bool {
    shard_of(topic_id, index, shard.broker.shards) == shard.id
}

async fn open_all(
    shard: &Rc<Shard>,
    partitions: Vec<(Arc<TopicImage>, PartitionIndex)>,
    folder: Option<&Folder>,
) {
    let found: HashMap<(&str, PartitionIndex), &FoundLog> = folder
        .iter()
        .flat_map(|folder| &folder.logs)
        .map(|log| ((log.topic.as_str(), log.partition), log))
        .collect();
    let found = &found;
    stream::iter(partitions)
        .for_each_concurrent(OPENING_MAX, |(topic, index)| async move {
            let found = found.get(&(&*topic.name, index)).copied();
            match open_one(shard, &topic, index, found).await {
                Ok(partition) => shard.add(partition),
                Err(error) => {
                    error!(topic = %topic.name, partition = %index, %error, "partition is offline");
                    shard.add_offline(topic.id, index);
                }
            }
        })
        .await;
}

async fn open_one(
    shard: &Rc<Shard>,
    topic: &TopicImage,
    index: PartitionIndex,
    found: Option<&FoundLog>,
) -> Result<Rc<Partition>, LogError> {
    let config = shard.topic_config(topic.id);
    let settings = log_settings(&config);
    let (context, now) = (shard.logs.clone(), clock::wall_ms());
    let log = match found {
        Some(found) => {
            let opened =
                Log::open(context, found.dir.clone(), settings, found.opening, now).await?;
            if opened.1.cut_bytes > 0 {
                info!(topic = %topic.name, partition = %index, recovered = ?opened.1, "log recovered");
            }
            opened.0
        }
        None => {
            let root = &shard.broker.config.data_dir;
            let dir = root.join(format!("{}-{index}", topic.name));
            let metadata = PartitionMetadata { topic_id: topic.id }.format();
            Log::create(context, dir, Some(&metadata), settings, now).await?
        }
    };
    let epoch = topic
        .partition(index)
        .map(|partition| partition.leader_epoch);
    Ok(Partition::new(
        topic.name.clone(),
        topic.id,
        index,
        epoch.unwrap_or_default(),
        log,
    ))
}

async fn remove(shard: &Rc<Shard>, topic_id: Uuid, index: PartitionIndex) {
    let Some(partition) = shard.take(topic_id, index) else {
        return;
    };
    partition.on_removed();
    info!(topic = %partition.topic, partition = %index, "partition deleted");
    let doomed = match partition.log().delete(entropy::uuid()).await {
        Ok(doomed) => doomed,
        Err(error) => {
            return error!(topic = %partition.topic, partition = %index, %error, "deleting a log failed");
        }
    };
    let delay = Duration::from_millis(partition.log().settings().file_delete_delay_ms as u64);
    let disk = shard.logs.disk.clone();
    glommio::spawn_local(async move {
        glommio::timer::sleep(delay).await;
        if let Err(error) = disk.remove_dir_all(&doomed).await {
            error!(folder = %doomed.display(), %error, "removing a deleted log failed");
        }
    })
    .detach();
}

/// Closes every log of this core; each gives its line of the checkpoints, or why it could not be closed.
pub async fn close_all(shard: &Rc<Shard>) -> Vec<Result<Checkpoint, LogError>> {
    stream::iter(shard.partitions())
        .map(|partition| async move {
            let log = partition.log();
            log.close().await?;
            Ok(Checkpoint {
                topic: partition.topic.to_string(),
                partition: partition.index,
                recovery_point: log.recovery_point(),
                log_start: log.start_offset(),
            })
        })
        .buffer_unordered(OPENING_MAX)
        .collect()
        .await
}

/// What the log has to know of its topic's settings.
pub fn log_settings(config: &TopicConfig) -> LogSettings {
    LogSettings {
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms as i64,
        segment_jitter_ms: config.segment_jitter_ms as i64,
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        index_interval_bytes: config.index_interval_bytes,
        segment_index_bytes: config.segment_index_bytes,
        file_delete_delay_ms: config.file_delete_delay_ms as i64,
        flush_messages: config.flush_messages,
        flush_ms: config.flush_ms,
        flush_policy: match config.flush_policy {
            FlushPolicy::Durable => log::FlushPolicy::Durable,
            FlushPolicy::Os => log::FlushPolicy::Os,
        },
        preallocate: config.preallocate,
    }
}
