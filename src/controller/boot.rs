//! Owns the controller's first and last moments: it replays the metadata log, has every core open its partitions,
//! registers this process, and at the end leaves the data folder marked clean.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tracing::warn;

use crate::config::BrokerConfig;
use crate::controller::checkpoint::{self, Checkpoints};
use crate::controller::driver::{ControllerDriver, Publish};
use crate::controller::features::{METADATA_VERSION, METADATA_VERSIONS};
use crate::controller::metadata_log::{self, MetadataLogError, Replay};
use crate::controller::{Controller, Endpoint, MetadataImage, Registration};
use crate::ids::{LeaderEpoch, Offset};
use crate::io::{clock, process, timer};
use crate::log::checkpoints::PartitionMetadata;
use crate::log::directory::{self, Folder};
use crate::log::journal::replay::{self, Journaled};
use crate::log::{FlushPolicy, Log, LogError, LogSettings, Opening};
use crate::protocol::batch::{self, Batch};
use crate::protocol::{Part, Records, Str};
use crate::shard::checkpoints::{self, Kind};
use crate::shard::{Shard, strays, sync};

/// Bytes of the metadata log that are replayed at a time.
const REPLAY_BYTES: usize = 1 << 20;

/// No batch of records is larger.
const SEGMENT_BYTES_MIN: u64 = 8 << 20;

/// So often it is tried again where it must succeed.
const FORGET_AGAIN: Duration = Duration::from_secs(1);

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
    #[error(
        "the data folder holds {0} partitions and no metadata log ({dir}): nobody knows which topics they belong to. Put \
         that folder back, or move the partitions' folders away",
        dir = metadata_log::DIRECTORY
    )]
    NoMetadata(usize),
    #[error(
        "the metadata log was written at metadata.version {0}, this version of Coati knows {MIN} to {MAX} alone; finalize \
         one of these with the broker that wrote the folder",
        MIN = METADATA_VERSIONS.start(),
        MAX = METADATA_VERSIONS.end()
    )]
    MetadataVersion(i16),
}

/// Brings the metadata up, then every partition; resolves when this broker is registered.
pub async fn start(shard: &Rc<Shard>, folder: Folder) -> Result<(), BootError> {
    let began = clock::now();
    let was_clean = folder.clean.is_some();
    let is_new = folder.logs.is_empty();
    let log = open_log(shard, &folder).await?;
    let (disk, config) = (shard.logs.disk.clone(), &shard.broker.config);
    let snapshot = checkpoint::load(&disk, &log.dir(), &shard.broker.cluster_id).await?;
    let mut replay = Replay::new(snapshot);
    let replayed_bytes = replay_all(&log, &mut replay).await?;
    let epoch = begin_epoch(shard, &log, &mut replay).await?;
    let is_open = replay.has_open_transaction();
    let image = replay.finish();
    check_version(&image)?;
    let folder = strays::set_strays_aside(&disk, folder, &image).await?;
    let (folder, to_open) = (Arc::new(folder), Arc::new(image.clone()));
    checkpoints::begin(shard, folder.clone()).await;
    let stock = folder.clone();
    let opened = shard
        .everywhere(move |shard| {
            let (image, folder) = (to_open.clone(), folder.clone());
            async move { sync::open(shard, image, folder).await }
        })
        .await;
    let opened: sync::Opened = opened.into_iter().sum();
    let root = &config.data_dir;
    replay::discard(&disk, root, &stock.journaled, &opened.offline).await?;
    shard
        .everywhere(|shard| async move { sync::begin(&shard) })
        .await;
    let mut forgotten = true;
    if !was_clean && !is_new {
        let ms = began.elapsed().as_millis() as u64;
        warn!(
            ?opened,
            ms, "the last stop was not a clean one; all logs are recovered"
        );
        forgotten = checkpoints::forget_deleted(shard).await;
    }
    let machine = Controller::new(config.clone(), image.clone(), epoch);
    let due = config.snapshot_after_bytes;
    let checkpoints = Checkpoints::new(disk, &config.data_dir, log.clone(), due, replayed_bytes);
    let driver = ControllerDriver::start(
        publisher(shard, forgotten),
        machine,
        image,
        log,
        checkpoints,
    );
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

/// How the driver's decisions reach every core, and the checkpoints forget the topics that are gone: until they have, no
/// topic is made. `forgotten` says whether they had at the start.
fn publisher(shard: &Rc<Shard>, forgotten: bool) -> Publish {
    let shard = shard.clone();
    let forgotten = Rc::new(Cell::new(forgotten));
    Box::new(move |image, delta| {
        let (shard, forgotten) = (shard.clone(), forgotten.clone());
        async move {
            let known = shard.image();
            let mut changed = delta.changed_partitions.keys();
            let creates = changed.any(|id| known.topic_by_id(*id).is_none());
            while creates && !forgotten.get() {
                if shard.stopping() {
                    return;
                }
                forgotten.set(checkpoints::forget_deleted(&shard).await);
                if !forgotten.get() {
                    timer::sleep(FORGET_AGAIN).await;
                }
            }
            let deletes = !delta.deleted_topics.is_empty();
            shard
                .everywhere(move |shard| sync::apply(shard, image.clone(), delta.clone()))
                .await;
            if deletes {
                forgotten.set(checkpoints::forget_deleted(&shard).await);
            }
        }
        .boxed_local()
    })
}

/// Records written at another level may mean something else.
fn check_version(image: &MetadataImage) -> Result<(), BootError> {
    let version = image.feature(METADATA_VERSION);
    if version != 0 && !METADATA_VERSIONS.contains(&version) {
        return Err(BootError::MetadataVersion(version));
    }
    Ok(())
}

/// Closes the metadata log and writes the last checkpoints. Marks the folder clean when every partition's log
/// `is_clean`, that is, has been closed.
pub async fn stop(shard: &Rc<Shard>, is_clean: bool) -> Result<(), BootError> {
    let driver = shard
        .controller()
        .expect("the controller runs until the end");
    driver.log().close().await?;
    let disk = &shard.logs.disk;
    let root = &shard.broker.config.data_dir;
    checkpoints::write(shard, &Kind::ALL).await?;
    if is_clean {
        // They hold nothing any more, and the folder is plain Kafka's.
        replay::discard(disk, root, &Journaled::new(), &[]).await?;
        let image = shard.image();
        let epoch = image.broker(shard.broker.id()).map(|broker| broker.epoch);
        directory::mark_clean(disk, root, epoch).await?;
    }
    Ok(())
}

async fn open_log(shard: &Shard, folder: &Folder) -> Result<Rc<Log>, BootError> {
    let dir = shard.broker.config.data_dir.join(metadata_log::DIRECTORY);
    // Segments no larger than what lies between two snapshots: else none could be removed.
    let between_snapshots = shard.broker.config.snapshot_after_bytes;
    let settings = LogSettings {
        segment_bytes: between_snapshots.clamp(SEGMENT_BYTES_MIN, 1 << 30) as u32,
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
                ..found.opening.clone()
            };
            let (log, recovered) = Log::open(context, dir, settings, opening, now).await?;
            if recovered.cut_bytes > 0 {
                // Nothing of it was answered: answers wait for whole batches to be durable.
                warn!(?recovered, "the end of the metadata log was torn off");
            }
            Ok(log)
        }
        None if !folder.logs.is_empty() => Err(BootError::NoMetadata(folder.logs.len())),
        None => {
            let metadata = PartitionMetadata {
                topic_id: metadata_log::TOPIC_ID,
            }
            .format();
            Ok(Log::create(context, dir, Some(&metadata), settings, now).await?)
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

/// The bytes of records, wherever they lie.
pub(crate) async fn in_memory(records: Records) -> std::io::Result<bytes::Bytes> {
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
    let epoch = log.latest_epoch().map_or(0, |epoch| epoch.0);
    let epoch = epoch.max(replay.epoch()) + 1;
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
