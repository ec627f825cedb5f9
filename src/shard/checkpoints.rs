//! Owns when and from what the data folder's offset checkpoints are written: the core whose duty that is gathers the logs of
//! every core, periodically and whenever an answer depends on it. It never decides what a log's offsets are.
//!
//! Rows go by topic name, so a deleted topic's must be gone before another topic gets its name: a stale log start
//! offset would hide the new topic's records. Apache Kafka writes log start offsets once a minute and after a crash may
//! show records again that it had said were deleted; here DeleteRecords is answered when its row is durable.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures::lock::Mutex;
use tracing::warn;

use crate::controller::MetadataImage;
use crate::ids::{Offset, PartitionIndex};
use crate::io::clock;
use crate::io::timer;
use crate::log::checkpoints::{
    CLEANER_OFFSET_FILE, HIGH_WATERMARK_FILE, LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE,
    format_offsets,
};
use crate::log::directory::Folder;
use crate::shard::Shard;
use crate::shard::layout::Duty;

/// Intervals of 0 would keep the core busy.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// One of the files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    RecoveryPoint,
    LogStart,
    HighWatermark,
    Cleaner,
}

impl Kind {
    pub const ALL: [Kind; 4] = [
        Kind::RecoveryPoint,
        Kind::LogStart,
        Kind::HighWatermark,
        Kind::Cleaner,
    ];
    /// Those that a start reads.
    pub const READ_AT_START: [Kind; 3] = [Kind::RecoveryPoint, Kind::LogStart, Kind::Cleaner];

    fn file(self) -> &'static str {
        match self {
            Kind::RecoveryPoint => RECOVERY_POINT_FILE,
            Kind::LogStart => LOG_START_OFFSET_FILE,
            Kind::HighWatermark => HIGH_WATERMARK_FILE,
            Kind::Cleaner => CLEANER_OFFSET_FILE,
        }
    }
}

type PartitionName = (String, PartitionIndex);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    recovery_point: Offset,
    log_start: Offset,
    high_watermark: Offset,
    /// None: it was never cleaned.
    first_dirty: Option<Offset>,
}

impl Row {
    fn offset(&self, kind: Kind) -> Option<Offset> {
        match kind {
            Kind::RecoveryPoint => Some(self.recovery_point),
            Kind::LogStart => Some(self.log_start),
            Kind::HighWatermark => Some(self.high_watermark),
            Kind::Cleaner => self.first_dirty,
        }
    }
}

type Rows = BTreeMap<PartitionName, Row>;

/// What is on disk; of use on the core alone whose duty it is.
#[derive(Default)]
pub struct Checkpoints {
    rows: RefCell<Rows>,
    texts: RefCell<BTreeMap<Kind, String>>,
    /// Held by the one that gathers and writes.
    turn: Mutex<()>,
}

impl Checkpoints {
    fn begin(&self, folder: &Folder) {
        let rows = folder.logs.iter().map(|log| {
            let point = log.opening.recovery_point.unwrap_or_default();
            let row = Row {
                recovery_point: point,
                log_start: log.opening.log_start.unwrap_or_default(),
                high_watermark: point,
                first_dirty: log.opening.first_dirty,
            };
            ((log.topic.clone(), log.partition), row)
        });
        self.rows.replace(rows.collect());
    }

    /// Writes what all logs say now; a file that would not change stays. Resolves when it is durable.
    async fn write(&self, shard: &Rc<Shard>, kinds: &[Kind]) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let gathered = shard.everywhere(|shard| async move { rows_of(&shard) });
        let live: Rows = gathered.await.into_iter().flatten().collect();
        let rows = merged(live, &self.rows.borrow(), &shard.image());
        let root = &shard.broker.config.data_dir;
        for kind in kinds {
            let lines = rows.iter().filter_map(|((topic, index), row)| {
                let offset = row.offset(*kind)?;
                Some((topic.as_str(), *index, offset))
            });
            let lines: Vec<_> = lines.collect();
            let text = format_offsets(lines.into_iter());
            if self.texts.borrow().get(kind) == Some(&text) {
                continue;
            }
            // Should writing fail, nobody knows what is there.
            self.texts.borrow_mut().remove(kind);
            let path = root.join(kind.file());
            let disk = &shard.logs.disk;
            disk.write_file_atomic(&path, text.as_bytes()).await?;
            self.texts.borrow_mut().insert(*kind, text);
        }
        self.rows.replace(rows);
        Ok(())
    }
}

/// The live rows, and the former ones of partitions that exist but have no open log.
fn merged(live: Rows, former: &Rows, image: &MetadataImage) -> Rows {
    let exists = |(topic, index): &PartitionName| image.partition(topic, *index).is_some();
    let mut rows: Rows = former
        .iter()
        .filter(|(name, _)| exists(name))
        .map(|(name, row)| (name.clone(), *row))
        .collect();
    rows.extend(live);
    rows
}

fn rows_of(shard: &Shard) -> Vec<(PartitionName, Row)> {
    let rows = shard.partitions().into_iter().map(|partition| {
        let (log, marks) = (partition.log(), partition.marks());
        let row = Row {
            recovery_point: log.recovery_point(),
            log_start: marks.log_start,
            high_watermark: marks.high_watermark,
            first_dirty: log.first_dirty_offset(),
        };
        ((partition.topic.to_string(), partition.index), row)
    });
    rows.collect()
}

/// What the folder said at start holds on for partitions whose logs cannot be opened. Of use on any core.
pub async fn begin(shard: &Rc<Shard>, folder: Arc<Folder>) {
    let core = shard.broker.layout.core_for(Duty::Checkpoints);
    let call = shard.mesh.call(shard, core, move |shard| async move {
        shard.checkpoints.begin(&folder);
    });
    call.await;
}

/// Resolves when these kinds of offsets, as they are now or later, are on stable storage. Of use on any core.
pub async fn write(shard: &Rc<Shard>, kinds: &'static [Kind]) -> io::Result<()> {
    let core = shard.broker.layout.core_for(Duty::Checkpoints);
    let call = shard.mesh.call(shard, core, move |shard| async move {
        shard.checkpoints.write(&shard, kinds).await
    });
    call.await
}

/// Resolves when the log start offsets of now are on stable storage. Of use on any core.
pub async fn make_log_starts_durable(shard: &Rc<Shard>) -> io::Result<()> {
    write(shard, &[Kind::LogStart]).await
}

/// Forgets what is said of topics that no longer exist, before their names are given to others.
pub async fn forget_deleted(shard: &Rc<Shard>) {
    let written = write(shard, &Kind::READ_AT_START).await;
    if let Err(error) = written {
        warn!(%error, "the offset checkpoints could not be written");
    }
}

/// Writes each file in its interval, until the shard stops. On the core whose duty it is.
pub async fn keep(shard: Rc<Shard>) {
    let config = &shard.broker.config;
    let mut timers = [
        (
            Kind::RecoveryPoint,
            config.recovery_point_checkpoint_interval_ms,
        ),
        (Kind::LogStart, config.log_start_checkpoint_interval_ms),
        (
            Kind::HighWatermark,
            config.high_watermark_checkpoint_interval_ms,
        ),
    ]
    .map(|(kind, ms)| {
        let interval = Duration::from_millis(ms).max(INTERVAL_MIN);
        (kind, interval, clock::now() + interval)
    });
    while !shard.stopping() {
        let next = timers.iter().map(|(_, _, due)| *due).min();
        let next = next.expect("three timers");
        timer::sleep(next.saturating_duration_since(clock::now())).await;
        let now = clock::now();
        let mut kinds = Vec::new();
        for (kind, interval, due) in &mut timers {
            if *due <= now {
                *due = now + *interval;
                kinds.push(*kind);
            }
        }
        // At the stop they are written once more, when all logs are closed.
        if let (false, Err(error)) = (
            shard.stopping(),
            shard.checkpoints.write(&shard, &kinds).await,
        ) {
            warn!(%error, "the offset checkpoints could not be written; recovery would start earlier");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataDelta;
    use crate::protocol::Uuid;
    use crate::protocol::records::metadata::{MetadataRecord, PartitionRecord, TopicRecord};

    fn row(offset: i64) -> Row {
        Row {
            recovery_point: Offset(offset),
            log_start: Offset(offset),
            high_watermark: Offset(offset),
            first_dirty: Some(Offset(offset)),
        }
    }

    #[test]
    fn partitions_without_an_open_log_keep_their_rows_and_deleted_ones_lose_them() {
        let mut image = MetadataImage::new("cluster".into());
        let records = [
            MetadataRecord::from(TopicRecord {
                name: "kept".into(),
                topic_id: Uuid([1; 16]),
            }),
            MetadataRecord::from(PartitionRecord {
                topic_id: Uuid([1; 16]),
                partition_id: 0,
                ..Default::default()
            }),
            MetadataRecord::from(PartitionRecord {
                topic_id: Uuid([1; 16]),
                partition_id: 1,
                ..Default::default()
            }),
        ];
        for (offset, record) in (0..).zip(&records) {
            let delta = &mut MetadataDelta::default();
            image.apply(record, offset, delta).unwrap();
        }
        let name = |topic: &str, index| (topic.to_owned(), PartitionIndex(index));
        let former = Rows::from([
            (name("kept", 0), row(5)),
            (name("kept", 1), row(6)),
            (name("deleted", 0), row(7)),
        ]);
        let live = Rows::from([(name("kept", 0), row(9))]);
        let rows = merged(live, &former, &image);
        assert_eq!(
            rows,
            Rows::from([(name("kept", 0), row(9)), (name("kept", 1), row(6))])
        );
    }
}
