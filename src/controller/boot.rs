//! Owns the controller's first and last moments: it replays the metadata log, has every core open its partitions,
//! registers this process, and at the end leaves the data folder marked clean.

use std::rc::Rc;
use std::sync::Arc;

use crate::config::BrokerConfig;
use crate::controller::checkpoint::{self, Checkpoints};
use crate::controller::driver::ControllerDriver;
use crate::controller::metadata_log::{self, MetadataLogError, Replay};
use crate::controller::{Controller, Endpoint, Registration};
use crate::ids::{LeaderEpoch, Offset};
use crate::io::{clock, process};
use crate::log::checkpoints::PartitionMetadata;
use crate::log::directory::{self, Checkpoint, Folder};
use crate::log::{FlushPolicy, Log, LogError, LogSettings, Opening};
use crate::protocol::batch::{self, Batch};
use crate::protocol::{Part, Records, Str};
use crate::shard::{Shard, sync};

/// Bytes of the metadata log that are replayed at a time.
const REPLAY_BYTES: usize = 1 << 20;

const TOPIC: &str = "__cluster_metadata";

/// Why the metadata cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("the metadata log: {0}")]
    Log(#[from] LogError),
    #[error(transparent)]
    Content(#[from] MetadataLogError),
    #[error("the data folder: {0}")]
    Folder(#[from] std::io::Error),
    #[error("the metadata log cannot be read at offset {0}")]
    Unreadable(i64),
    #[error(
        "the metadata log holds offsets {start} to {end}, and no snapshot leads to it: {next} comes next"
    )]
    Gap {
        start: Offset,
        end: Offset,
        next: Offset,
    },
}

/// Brings the metadata up, then every partition; resolves when this broker is registered.
pub async fn start(shard: &Rc<Shard>, folder: Arc<Folder>) -> Result<(), BootError> {
    let log = open_log(shard, &folder).await?;
    let (disk, config) = (shard.logs.disk.clone(), &shard.broker.config);
    let snapshot = checkpoint::load(&disk, &log.dir(), &shard.broker.cluster_id).await?;
    let mut replay = Replay::new(snapshot);
    let replayed_bytes = replay_all(&log, &mut replay).await?;
    let epoch = begin_epoch(shard, &log, &mut replay).await?;
    let is_open = replay.has_open_transaction();
    let image = replay.finish();
    let opened = Arc::new(image.clone());
    shard
        .everywhere(move |shard| {
            let (image, folder) = (opened.clone(), folder.clone());
            async move { sync::open(shard, image, folder).await }
        })
        .await;
    let machine = Controller::new(config.clone(), image.clone(), epoch);
    let due = config.snapshot_after_bytes;
    let checkpoints = Checkpoints::new(disk, &config.data_dir, log.clone(), due, replayed_bytes);
    let driver = ControllerDriver::start(shard, machine, image, log, checkpoints);
    if is_open {
        driver
            .submit(|machine, _| machine.abort_transaction())
            .await;
    }
    driver.submit(|machine, _| machine.bootstrap()).await;
    let registration = registration(shard);
    driver
        .submit(|machine, _| machine.register(&registration))
        .await;
    shard.set_controller(driver);
    Ok(())
}

/// Closes the metadata log and marks the folder clean, when `closed` are all partitions' logs and none had failed.
pub async fn stop(
    shard: &Rc<Shard>,
    closed: Vec<Result<Checkpoint, LogError>>,
) -> Result<(), BootError> {
    let driver = shard
        .controller()
        .expect("the controller runs until the end");
    driver.log().close().await?;
    let disk = &shard.logs.disk;
    let root = &shard.broker.config.data_dir;
    let all = closed.len();
    let checkpoints: Vec<Checkpoint> = closed.into_iter().filter_map(Result::ok).collect();
    directory::write_checkpoints(disk, root, &checkpoints).await?;
    if checkpoints.len() == all {
        let image = shard.image();
        let epoch = image.broker(shard.broker.id()).map(|broker| broker.epoch);
        directory::mark_clean(disk, root, epoch).await?;
    }
    Ok(())
}

async fn open_log(shard: &Shard, folder: &Folder) -> Result<Rc<Log>, LogError> {
    let dir = shard.broker.config.data_dir.join(metadata_log::DIRECTORY);
    // Segments no larger than what lies between two snapshots: else none could be removed.
    let between_snapshots = shard.broker.config.snapshot_after_bytes;
    let settings = LogSettings {
        segment_bytes: between_snapshots.clamp(1 << 20, 1 << 30) as u32,
        flush_policy: FlushPolicy::Durable,
        retention_ms: -1,
        segment_ms: i64::MAX,
        ..Default::default()
    };
    let now = clock::wall_ms();
    let context = shard.logs.clone();
    match folder.logs.iter().find(|log| log.topic == TOPIC) {
        Some(found) => {
            let opening = Opening {
                log_start: None,
                ..found.opening
            };
            let (log, _) = Log::open(context, dir, settings, opening, now).await?;
            Ok(log)
        }
        None => {
            let metadata = PartitionMetadata {
                topic_id: metadata_log::TOPIC_ID,
            }
            .format();
            Log::create(context, dir, Some(&metadata), settings, now).await
        }
    }
}

/// Takes in what the log has beyond the snapshot; answers how many bytes that were.
async fn replay_all(log: &Rc<Log>, replay: &mut Replay) -> Result<u64, BootError> {
    let (start, end) = (log.start_offset(), log.end_offset());
    let mut next = replay.next_offset();
    if !(start..=end).contains(&next) {
        return Err(BootError::Gap { start, end, next });
    }
    let mut bytes_read = 0;
    while next < end {
        let before = next;
        let records = log.read(next, end, REPLAY_BYTES, true).await?;
        let bytes = in_memory(records).await?;
        // What is behind the last whole batch comes with the next read.
        for batch in batch::batches(&bytes).map_while(Result::ok) {
            next = batch.view().header().next_offset();
            bytes_read += batch.size_in_bytes() as u64;
            replay.batch(&batch)?;
        }
        if next <= before {
            return Err(BootError::Unreadable(before.0));
        }
    }
    Ok(bytes_read)
}

async fn in_memory(records: Records) -> std::io::Result<bytes::Bytes> {
    let mut all = bytes::BytesMut::with_capacity(records.len());
    for part in records.parts() {
        match part {
            Part::Memory(bytes) => all.extend_from_slice(bytes),
            Part::File(range) => all.extend_from_slice(&range.read_all().await?),
        }
    }
    Ok(all.freeze())
}

/// Every start is a new epoch of the controller; a control batch opens it.
async fn begin_epoch(shard: &Shard, log: &Rc<Log>, replay: &mut Replay) -> Result<i32, BootError> {
    let epoch = log.latest_epoch().map_or(0, |epoch| epoch.0) + 1;
    let now = clock::wall_ms();
    let end = log.end_offset();
    let bytes = metadata_log::leader_change(end.0, epoch, shard.broker.id(), now);
    log.append(&bytes, LeaderEpoch(epoch), now)?;
    let batch = Batch::parse(&bytes).expect("a batch that was just made");
    replay.batch(&batch)?;
    Ok(epoch)
}

fn registration(shard: &Shard) -> Registration {
    let config: &BrokerConfig = &shard.broker.config;
    Registration {
        incarnation: shard.broker.incarnation,
        endpoints: config
            .advertised(&process::host_name())
            .into_iter()
            .map(|listener| Endpoint {
                name: Str::from(listener.name),
                host: Str::from(listener.host),
                port: listener.port,
                security_protocol: listener.protocol as i16,
            })
            .collect(),
        controller_endpoints: Vec::new(),
        directories: vec![shard.broker.directory_id],
        rack: config.rack.clone().map(Str::from),
    }
}
