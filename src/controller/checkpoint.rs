//! Owns the metadata's snapshots on disk (KIP-630): it loads the newest that is whole, writes a new one when the
//! log has grown enough, and takes off what that makes superfluous. What is in them is `snapshot`'s.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tracing::{info, warn};

use crate::controller::snapshot::{self, SnapshotId};
use crate::controller::{MetadataImage, metadata_log};
use crate::ids::{Offset, TimestampMs};
use crate::io::{Disk, clock};
use crate::log::Log;
use crate::protocol::Str;
use crate::stages::tasks::{self, Task};

/// Whole snapshots that stay: should the newest be unreadable, the log still reaches back to the one before.
const KEPT: usize = 2;

/// The newest snapshot that can be read; an empty image when there is none.
pub async fn load(disk: &Disk, folder: &Path, cluster_id: &Str) -> io::Result<MetadataImage> {
    for id in found(disk, folder).await?.into_iter().rev() {
        let path = folder.join(id.file_name());
        let bytes = disk.read_file(&path).await?;
        match snapshot::decode(&bytes, id, cluster_id.clone()) {
            Ok(image) => return Ok(image),
            Err(error) => warn!(path = %path.display(), %error, "a metadata snapshot is skipped"),
        }
    }
    Ok(MetadataImage::new(cluster_id.clone()))
}

/// The snapshots in the log's folder, oldest first.
async fn found(disk: &Disk, folder: &Path) -> io::Result<Vec<SnapshotId>> {
    if !disk.exists(folder).await? {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for entry in disk.list(folder).await? {
        if let Some(id) = SnapshotId::from_file_name(&entry.name) {
            ids.push(id);
        } else if entry.name.ends_with(".checkpoint.tmp") {
            disk.remove(&folder.join(entry.name)).await?;
        }
    }
    ids.sort();
    Ok(ids)
}

/// Writes a snapshot and removes all but the newest few. Answers the offset from which on the log is still needed.
async fn store(
    disk: &Disk,
    folder: &Path,
    image: &MetadataImage,
    last_timestamp: TimestampMs,
) -> io::Result<Offset> {
    let id = SnapshotId::of(image);
    let bytes = snapshot::encode(image, last_timestamp, clock::wall_ms());
    disk.write_file_atomic(&folder.join(id.file_name()), &bytes)
        .await?;
    let ids = found(disk, folder).await?;
    let (superfluous, kept) = ids.split_at(ids.len().saturating_sub(KEPT));
    for id in superfluous {
        disk.remove(&folder.join(id.file_name())).await?;
    }
    let reaches_back = kept.len() == KEPT;
    Ok(kept
        .first()
        .filter(|_| reaches_back)
        .map_or(Offset(0), |oldest| Offset(oldest.end_offset)))
}

/// Decides when the next snapshot is due, and has it written beside the controller's work.
pub struct Checkpoints {
    disk: Disk,
    folder: PathBuf,
    log: Rc<Log>,
    /// `metadata.log.max.record.bytes.between.snapshots`
    due_after_bytes: u64,
    bytes: Cell<u64>,
    is_writing: Rc<Cell<bool>>,
}

impl Checkpoints {
    /// `replayed_bytes` of the log are behind the snapshot that this start began with.
    pub fn new(
        disk: Disk,
        data_dir: &Path,
        log: Rc<Log>,
        due_after_bytes: u64,
        replayed_bytes: u64,
    ) -> Checkpoints {
        Checkpoints {
            disk,
            folder: data_dir.join(metadata_log::DIRECTORY),
            log,
            due_after_bytes,
            bytes: Cell::new(replayed_bytes),
            is_writing: Rc::default(),
        }
    }

    /// Another `bytes` of the log are durable and in `image`.
    pub fn on_applied(&self, bytes: usize, timestamp: TimestampMs, image: &Arc<MetadataImage>) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        if self.bytes.get() < self.due_after_bytes || self.is_writing.replace(true) {
            return;
        }
        self.bytes.set(0);
        let (disk, folder, log) = (self.disk.clone(), self.folder.clone(), self.log.clone());
        let (image, is_writing) = (image.clone(), self.is_writing.clone());
        tasks::spawn(Task::CONTROLLER, async move {
            match store(&disk, &folder, &image, timestamp).await {
                Ok(needed_from) => {
                    info!(offset = image.offset, "metadata snapshot written");
                    shorten(&log, needed_from).await;
                }
                // Nothing is lost: the log is longer than it would be.
                Err(error) => warn!(%error, "the metadata snapshot could not be written"),
            }
            is_writing.set(false);
        })
        .detach();
    }
}

/// Removes the segments that no snapshot needs. A log that fails goes offline and says so itself.
async fn shorten(log: &Rc<Log>, needed_from: Offset) {
    if log.delete_records_before(needed_from).await.is_ok() {
        let _told = log
            .enforce_retention(clock::wall_ms(), log.durable_end())
            .await;
        let _told = log.tick(clock::wall_ms()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataDelta;
    use crate::io::ring;
    use crate::protocol::Uuid;
    use crate::protocol::records::metadata::TopicRecord;

    fn image(topics: &[&'static str]) -> MetadataImage {
        let mut image = MetadataImage::new("cluster".into());
        for (offset, name) in (0..).zip(topics) {
            let record = TopicRecord {
                name: (*name).into(),
                topic_id: Uuid([offset + 1; 16]),
            };
            let offset = i64::from(offset);
            image
                .apply(&record.into(), offset, &mut MetadataDelta::default())
                .unwrap();
        }
        image.epoch = 1;
        image
    }

    fn on_glommio(test: impl AsyncFnOnce() + Send + 'static) {
        glommio::LocalExecutorBuilder::default()
            .spawn(|| async move {
                ring::init_thread().unwrap();
                test().await;
            })
            .unwrap()
            .join()
            .unwrap();
    }

    #[test]
    fn the_newest_whole_snapshot_is_loaded() {
        on_glommio(async || {
            let folder = tempfile::tempdir().unwrap();
            let (disk, folder) = (Disk::buffered(), folder.path());
            let cluster: Str = "cluster".into();
            assert_eq!(
                load(&disk, folder, &cluster).await.unwrap(),
                MetadataImage::new(cluster.clone())
            );
            let (one, two, three) = (image(&["a"]), image(&["a", "b"]), image(&["a", "b", "c"]));
            assert_eq!(store(&disk, folder, &one, 0).await.unwrap(), Offset(0));
            assert_eq!(store(&disk, folder, &two, 0).await.unwrap(), Offset(1));
            assert_eq!(store(&disk, folder, &three, 0).await.unwrap(), Offset(2));
            assert_eq!(load(&disk, folder, &cluster).await.unwrap(), three);

            let newest = folder.join(SnapshotId::of(&three).file_name());
            let whole = disk.read_file(&newest).await.unwrap();
            disk.write_file(&newest, &whole[..whole.len() / 2])
                .await
                .unwrap();
            disk.write_file(&folder.join("x.checkpoint.tmp"), b"torn")
                .await
                .unwrap();
            assert_eq!(load(&disk, folder, &cluster).await.unwrap(), two);
            assert!(!folder.join("x.checkpoint.tmp").exists());
            assert_eq!(found(&disk, folder).await.unwrap().len(), KEPT);
        });
    }
}
