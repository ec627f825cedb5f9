//! Owns a data folder as a whole: which logs it holds, what its checkpoints say of them, and the mark
//! of a clean stop. What it finds is plain data that goes to the shards, which open their logs.

use std::io;
use std::path::{Path, PathBuf};

use super::Opening;
use super::checkpoints::{
    self, CLEAN_SHUTDOWN_FILE, CLEANER_OFFSET_FILE, CleanShutdown, LOG_START_OFFSET_FILE,
    OffsetsByPartition, RECOVERY_POINT_FILE,
};
use super::journal::replay::{self, Journaled};
use crate::ids::{Offset, PartitionIndex};
use crate::io::Disk;

/// A data folder as found at start.
#[derive(Clone, Debug, Default)]
pub struct Folder {
    /// The last stop was clean; the mark says by which broker epoch.
    pub clean: Option<CleanShutdown>,
    pub logs: Vec<FoundLog>,
    /// Folders of deleted logs: to be removed.
    pub deleted: Vec<PathBuf>,
    /// Where logs begin, of those too whose folder is not there.
    pub log_starts: OffsetsByPartition,
    /// What the journals hold for the logs; nothing after a clean stop, whatever is in them.
    pub journaled: Journaled,
}

impl Folder {
    /// The log start that the checkpoint says, if any.
    pub fn log_start(&self, topic: &str, partition: PartitionIndex) -> Option<Offset> {
        self.log_starts.get(&(topic.to_owned(), partition)).copied()
    }
}

/// A partition's folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundLog {
    pub dir: PathBuf,
    pub topic: String,
    pub partition: PartitionIndex,
    /// The text of its `partition.metadata`, if there is one.
    pub metadata: Option<String>,
    pub opening: Opening,
}

/// Looks through the data folder `root`, which exists. Takes the mark of a clean stop away, durably,
/// so that what happens from now on counts as unclean until `mark_clean`.
pub async fn take_stock(disk: &Disk, root: &Path) -> io::Result<Folder> {
    let clean = take_clean_mark(disk, root).await?;
    let recovery_points = read_offsets(disk, &root.join(RECOVERY_POINT_FILE)).await?;
    let log_starts = read_offsets(disk, &root.join(LOG_START_OFFSET_FILE)).await?;
    let first_dirty = read_offsets(disk, &root.join(CLEANER_OFFSET_FILE)).await?;
    let mut folder = Folder {
        clean,
        ..Folder::default()
    };
    folder.log_starts = log_starts.clone();
    if folder.clean.is_none() {
        folder.journaled = replay::read(disk, root).await?;
    }
    for entry in disk.list(root).await? {
        let dir = root.join(&entry.name);
        if !entry.is_dir {
            continue;
        }
        if entry.name.ends_with("-delete") {
            folder.deleted.push(dir);
            continue;
        }
        let Some((topic, partition)) = parse_name(&entry.name) else {
            continue;
        };
        let key = (topic.to_owned(), partition);
        folder.logs.push(FoundLog {
            metadata: read_text(disk, &dir.join(checkpoints::PARTITION_METADATA_FILE)).await?,
            dir,
            partition,
            opening: Opening {
                clean: folder.clean.is_some(),
                recovery_point: recovery_points.get(&key).copied(),
                log_start: log_starts.get(&key).copied(),
                first_dirty: first_dirty.get(&key).copied(),
                journaled: Vec::new(),
            },
            topic: key.0,
        });
    }
    Ok(folder)
}

/// What the folder `dir` of a log is renamed to when it leaves: Kafka's `<name>.<unique>-<suffix>`.
pub fn renamed(dir: &Path, unique: [u8; 16], suffix: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let unique: String = unique.iter().map(|byte| format!("{byte:02x}")).collect();
    let suffix = format!(".{unique}-{suffix}");
    // Names end at 255 bytes; topic names are ASCII.
    let kept = name.len().min(255 - suffix.len());
    dir.with_file_name(format!("{}{suffix}", &name[..kept]))
}

/// `<topic>-<partition>`
pub fn parse_name(name: &str) -> Option<(&str, PartitionIndex)> {
    let (topic, partition) = name.rsplit_once('-')?;
    let digits = !partition.is_empty() && partition.bytes().all(|byte| byte.is_ascii_digit());
    let partition = partition.parse().ok().filter(|_| digits)?;
    (!topic.is_empty()).then_some((topic, PartitionIndex(partition)))
}

/// Leaves the mark of a clean stop: every log is closed, and the checkpoints are written.
pub async fn mark_clean(disk: &Disk, root: &Path, broker_epoch: Option<i64>) -> io::Result<()> {
    let text = CleanShutdown { broker_epoch }.format();
    disk.write_file_atomic(&root.join(CLEAN_SHUTDOWN_FILE), text.as_bytes())
        .await
}

async fn take_clean_mark(disk: &Disk, root: &Path) -> io::Result<Option<CleanShutdown>> {
    let path = root.join(CLEAN_SHUTDOWN_FILE);
    let Some(text) = read_text(disk, &path).await? else {
        return Ok(None);
    };
    disk.remove(&path).await?;
    disk.sync_dir(root).await?;
    Ok(Some(CleanShutdown::parse(&text)))
}

async fn read_text(disk: &Disk, path: &Path) -> io::Result<Option<String>> {
    if !disk.exists(path).await? {
        return Ok(None);
    }
    let bytes = disk.read_file(path).await?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Kafka drops a checkpoint it cannot read, with a warning; so do we: recovery starts earlier.
async fn read_offsets(disk: &Disk, path: &Path) -> io::Result<OffsetsByPartition> {
    let Some(text) = read_text(disk, path).await? else {
        return Ok(OffsetsByPartition::new());
    };
    Ok(checkpoints::parse_offsets(&text).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "an unreadable checkpoint is left out");
        OffsetsByPartition::new()
    }))
}
