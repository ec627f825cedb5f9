//! Owns the step from metadata to one core's partitions: what a change of the image creates, opens, retunes and deletes here.

use std::collections::HashMap;
use std::io;
use std::iter::Sum;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tracing::{error, info};

use crate::config::TopicConfig;
use crate::controller::{MetadataDelta, MetadataImage, TopicImage};
use crate::ids::{Offset, PartitionIndex};
use crate::io::timer;
use crate::io::{Disk, clock, entropy};
use crate::log::checkpoints::PartitionMetadata;
use crate::log::compaction::Compaction;
use crate::log::directory::{self, Folder, FoundLog};
use crate::log::journal::JournalKey;
use crate::log::{Log, LogError, LogSettings, Opening, Recovered};
use crate::partition::{Partition, PartitionError};
use crate::protocol::Uuid;
use crate::shard::Shard;
use crate::shard::{coordinators, strays};
use crate::stages::tasks::{self, Task};

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
                Err(PartitionError::NotHere) if is_here(&shard, *topic_id, *index) => {
                    created.push((topic.clone(), *index))
                }
                // One whose log could not be opened stays as it is until the next start.
                Err(_) => {}
            }
        }
    }
    open_all(&shard, created, None).await;
    shard.set_image(image.clone());
    coordinators::on_image(&shard, &image, Some(&delta));
    for topic in delta.deleted_topics.values() {
        for index in 0..topic.partitions.len() {
            remove(&shard, topic, PartitionIndex(index as i32)).await;
        }
    }
}

/// What opening the logs of one or more cores came to.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub logs: usize,
    /// Those that could not be opened.
    pub offline: Vec<JournalKey>,
    pub scanned_bytes: u64,
    pub cut_bytes: u64,
    /// Put into segments from the journals.
    pub journaled_bytes: u64,
}

impl Sum for Opened {
    fn sum<I: Iterator<Item = Opened>>(opened: I) -> Opened {
        opened.fold(Opened::default(), |sum, one| Opened {
            logs: sum.logs + one.logs,
            offline: [sum.offline, one.offline].concat(),
            scanned_bytes: sum.scanned_bytes + one.scanned_bytes,
            cut_bytes: sum.cut_bytes + one.cut_bytes,
            journaled_bytes: sum.journaled_bytes + one.journaled_bytes,
        })
    }
}

/// Opens all of this core's partitions of `image`, at start. Every log in `folder` is one of them.
pub async fn open(shard: Rc<Shard>, image: Arc<MetadataImage>, folder: Arc<Folder>) -> Opened {
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
    let opened = open_all(&shard, here, Some(&folder)).await;
    shard.set_image(image);
    opened
}

/// The journals of the last life are gone: appends may come. Coordinators make some at once.
pub fn begin(shard: &Rc<Shard>) {
    if let Some(journal) = &shard.logs.journal {
        journal.begin();
    }
    coordinators::on_image(shard, &shard.image(), None);
}

fn is_here(shard: &Shard, topic_id: Uuid, index: PartitionIndex) -> bool {
    shard.broker.shard_of(topic_id, index) == shard.id
}

async fn open_all(
    shard: &Rc<Shard>,
    partitions: Vec<(Arc<TopicImage>, PartitionIndex)>,
    folder: Option<&Folder>,
) -> Opened {
    let found: HashMap<(&str, PartitionIndex), &FoundLog> = folder
        .iter()
        .flat_map(|folder| &folder.logs)
        .map(|log| ((log.topic.as_str(), log.partition), log))
        .collect();
    let found = &found;
    let journaled = folder.map(|folder| &folder.journaled);
    stream::iter(partitions)
        .map(|(topic, index)| async move {
            let found = found.get(&(&*topic.name, index)).copied();
            let key = JournalKey {
                topic_id: topic.id,
                partition: index,
            };
            let journaled = journaled.and_then(|journaled| journaled.get(&key));
            let opening = Opening {
                log_start: folder.and_then(|folder| folder.log_start(&topic.name, index)),
                journaled: journaled.cloned().unwrap_or_default(),
                ..found.map(|found| found.opening.clone()).unwrap_or_default()
            };
            match open_one(shard, &topic, index, found, opening).await {
                Ok((partition, recovered)) => {
                    shard.add(partition);
                    Opened {
                        logs: 1,
                        scanned_bytes: recovered.scanned_bytes,
                        cut_bytes: recovered.cut_bytes,
                        journaled_bytes: recovered.journaled_bytes,
                        ..Opened::default()
                    }
                }
                Err(error) => {
                    error!(topic = %topic.name, partition = %index, %error, "partition is offline");
                    shard.add_offline(topic.id, index);
                    Opened {
                        offline: vec![key],
                        ..Opened::default()
                    }
                }
            }
        })
        .buffer_unordered(OPENING_MAX)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .sum()
}

async fn open_one(
    shard: &Rc<Shard>,
    topic: &TopicImage,
    index: PartitionIndex,
    found: Option<&FoundLog>,
    opening: Opening,
) -> Result<(Rc<Partition>, Recovered), LogError> {
    let config = shard.topic_config(topic.id);
    let settings = log_settings(&config);
    let (context, now) = (shard.logs.clone(), clock::wall_ms());
    let (log, recovered) = match found {
        Some(found) => {
            let (log, recovered) =
                Log::open(context, found.dir.clone(), settings, opening, now).await?;
            if recovered.cut_bytes > 0 {
                info!(topic = %topic.name, partition = %index, ?recovered, "log recovered");
            }
            (log, recovered)
        }
        None => {
            let root = &shard.broker.config.data_dir;
            let dir = root.join(format!("{}-{index}", topic.name));
            make_way(&context.disk, &dir)
                .await
                .map_err(|error| LogError::storage("setting an old folder aside", &error))?;
            let metadata = PartitionMetadata { topic_id: topic.id }.format();
            let (from, retuned) = (dir.clone(), settings.clone());
            let log = Log::create(context.clone(), dir, Some(&metadata), settings, now).await?;
            let begins = opening.log_start.unwrap_or_default();
            if opening.journaled.is_empty() && begins == Offset(0) {
                (log, Recovered::default())
            } else {
                // Power failed before its names were synced: all that was acknowledged is in the journal.
                Log::open(context, from, retuned, opening, now).await?
            }
        }
    };
    log.use_journal(JournalKey {
        topic_id: topic.id,
        partition: index,
    });
    let epoch = topic
        .partition(index)
        .map(|partition| partition.leader_epoch);
    let partition = Partition::new(
        topic.name.clone(),
        topic.id,
        index,
        epoch.unwrap_or_default(),
        log,
    );
    Ok((partition, recovered))
}

/// A folder that a deleted topic of the same name could not be rid of must not mix with the new one's.
async fn make_way(disk: &Disk, dir: &Path) -> io::Result<()> {
    if disk.exists(dir).await? {
        strays::set_aside(disk, dir, "a new partition has its name").await?;
    }
    Ok(())
}

async fn remove(shard: &Rc<Shard>, topic: &TopicImage, index: PartitionIndex) {
    if !is_here(shard, topic.id, index) {
        return;
    }
    let partition = shard.take(topic.id, index);
    let delay_ms = partition.as_ref().map_or(0, |partition| {
        partition.log().settings().file_delete_delay_ms
    });
    let deleted = match partition {
        Some(partition) => {
            partition.on_removed();
            partition.log().delete(entropy::uuid()).await
        }
        None => delete_unopened(shard, topic, index).await,
    };
    let doomed = match deleted {
        Ok(doomed) => doomed,
        Err(error) => {
            return error!(topic = %topic.name, partition = %index, %error, "deleting a log failed");
        }
    };
    info!(topic = %topic.name, partition = %index, "partition deleted");
    let delay = Duration::from_millis(delay_ms as u64);
    let disk = shard.logs.disk.clone();
    tasks::spawn(Task::DELETION, async move {
        timer::sleep(delay).await;
        if let Err(error) = disk.remove_dir_all(&doomed).await {
            error!(folder = %doomed.display(), %error, "removing a deleted log failed");
        }
    })
    .detach();
}

/// The folder of a partition whose log could not be opened.
async fn delete_unopened(
    shard: &Shard,
    topic: &TopicImage,
    index: PartitionIndex,
) -> Result<PathBuf, LogError> {
    let dir = shard
        .broker
        .config
        .data_dir
        .join(format!("{}-{index}", topic.name));
    let doomed = directory::renamed(&dir, entropy::uuid(), "delete");
    let renamed = shard.logs.disk.rename(&dir, &doomed).await;
    renamed.map_err(|error| LogError::storage("deleting a log", &error))?;
    Ok(doomed)
}

/// Closes every log of this core; tells whether all of them are as a clean stop leaves them.
pub async fn close_all(shard: &Rc<Shard>) -> bool {
    let closed: Vec<bool> = stream::iter(shard.partitions())
        .map(|partition| async move {
            let closed = partition.log().close().await;
            if let Err(error) = &closed {
                error!(topic = %partition.topic, partition = %partition.index, %error, "closing a log failed");
            }
            closed.is_ok()
        })
        .buffer_unordered(OPENING_MAX)
        .collect()
        .await;
    if let Some(journal) = &shard.logs.journal {
        journal.stop();
    }
    closed.into_iter().all(|closed| closed) && !shard.has_offline()
}

/// What the log has to know of its topic's settings.
pub fn log_settings(config: &TopicConfig) -> LogSettings {
    LogSettings {
        segment_bytes: config.segment_bytes,
        segment_ms: segment_ms(config),
        segment_jitter_ms: config.segment_jitter_ms as i64,
        // What is only compacted stays for ever.
        retention_ms: if config.delete {
            config.retention_ms
        } else {
            -1
        },
        retention_bytes: if config.delete {
            config.retention_bytes
        } else {
            -1
        },
        index_interval_bytes: config.index_interval_bytes,
        segment_index_bytes: config.segment_index_bytes,
        file_delete_delay_ms: config.file_delete_delay_ms as i64,
        flush_messages: config.flush_messages,
        flush_ms: config.flush_ms,
        flush_policy: config.flush_policy,
        preallocate: config.preallocate,
        may_have_gaps: config.compact,
        compaction: config.compact.then_some(Compaction {
            delete_retention_ms: config.delete_retention_ms,
            min_cleanable_dirty_ratio: config.min_cleanable_dirty_ratio,
            min_compaction_lag_ms: config.min_compaction_lag_ms,
            max_compaction_lag_ms: config.max_compaction_lag_ms,
        }),
    }
}

/// What is to be cleaned in time must be sealed before (KIP-354).
fn segment_ms(config: &TopicConfig) -> i64 {
    let segment_ms = config.segment_ms as i64;
    match config.compact && config.max_compaction_lag_ms > 0 {
        true => segment_ms.min(config.max_compaction_lag_ms),
        false => segment_ms,
    }
}
