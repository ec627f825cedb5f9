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
use crate::io::turn;
use crate::log::checkpoints::{
    CLEANER_OFFSET_FILE, HIGH_WATERMARK_FILE, LOG_START_OFFSET_FILE, OffsetLines,
    RECOVERY_POINT_FILE,
};
use crate::log::directory::Folder;
use crate::protocol::Str;
use crate::shard::Shard;
use crate::shard::layout::Duty;
use crate::shard::walk::merged;

/// Between two looks at whether others should run.
const ROWS_AT_ONCE: usize = 64;

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

#[derive(Clone, PartialEq, Eq, Debug)]
struct Row {
    topic: Str,
    index: PartitionIndex,
    offsets: Offsets,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Offsets {
    recovery_point: Offset,
    log_start: Offset,
    high_watermark: Offset,
    /// None: it was never cleaned.
    first_dirty: Option<Offset>,
}

impl Row {
    fn name(&self) -> (&Str, PartitionIndex) {
        (&self.topic, self.index)
    }
}

impl Offsets {
    fn of(&self, kind: Kind) -> Option<Offset> {
        match kind {
            Kind::RecoveryPoint => Some(self.recovery_point),
            Kind::LogStart => Some(self.log_start),
            Kind::HighWatermark => Some(self.high_watermark),
            Kind::Cleaner => self.first_dirty,
        }
    }
}

/// By topic name and number.
type Rows = Vec<Row>;

/// What is on disk; of use on the core alone whose duty it is.
#[derive(Default)]
pub struct Checkpoints {
    rows: RefCell<Rc<Rows>>,
    texts: RefCell<BTreeMap<Kind, String>>,
    /// Held by the one that gathers and writes.
    turn: Mutex<()>,
}

impl Checkpoints {
    fn begin(&self, folder: &Folder) {
        let mut rows = BTreeMap::new();
        // Of those, too, whose folder a power cut took: this start may fail to make another.
        for ((topic, index), start) in &folder.log_starts {
            let offsets = Offsets {
                recovery_point: Offset(0),
                log_start: *start,
                high_watermark: Offset(0),
                first_dirty: None,
            };
            rows.insert((Str::from(topic), *index), offsets);
        }
        for log in &folder.logs {
            let point = log.opening.recovery_point.unwrap_or_default();
            let offsets = Offsets {
                recovery_point: point,
                log_start: log.opening.log_start.unwrap_or_default(),
                high_watermark: point,
                first_dirty: log.opening.first_dirty,
            };
            rows.insert((Str::from(&log.topic), log.partition), offsets);
        }
        let rows = rows.into_iter().map(|((topic, index), offsets)| Row {
            topic,
            index,
            offsets,
        });
        let rows: Rows = rows.collect();
        self.rows.replace(Rc::new(rows));
    }

    /// Writes what all logs say now; a file that would not change stays. Resolves when it is durable.
    async fn write(&self, shard: &Rc<Shard>, kinds: &[Kind]) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let live = shard.everywhere(|shard| async move { rows_of(&shard).await });
        let live = live.await;
        let (former, image) = (self.rows.borrow().clone(), shard.image());
        let mut rows = Rows::with_capacity(former.len());
        for row in all(&live, &former, &image) {
            if rows.len().is_multiple_of(ROWS_AT_ONCE) {
                turn::yield_if_needed().await;
            }
            rows.push(row.clone());
        }
        let rows = Rc::new(rows);
        let root = &shard.broker.config.data_dir;
        for kind in kinds {
            let text = text_of(&rows, *kind).await;
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

/// The live rows, a list a core, and the former ones of partitions that exist but have no open log.
fn all<'a>(
    live: &'a [Rows],
    former: &'a Rows,
    image: &'a MetadataImage,
) -> impl Iterator<Item = &'a Row> {
    let lists: Vec<&[Row]> = live.iter().chain([former]).map(Vec::as_slice).collect();
    let mut last: Option<&Row> = None;
    merged(&lists, Row::name).filter_map(move |(list, row)| {
        if last.is_some_and(|last| last.name() == row.name()) {
            return None;
        }
        let is_live = list < live.len();
        let told = is_live || image.partition(&row.topic, row.index).is_some();
        told.then(|| *last.insert(row))
    })
}

async fn text_of(rows: &Rows, kind: Kind) -> String {
    let mut lines = OffsetLines::default();
    for some in rows.chunks(ROWS_AT_ONCE) {
        for row in some {
            if let Some(offset) = row.offsets.of(kind) {
                lines.push(&row.topic, row.index, offset);
            }
        }
        turn::yield_if_needed().await;
    }
    lines.finish()
}

async fn rows_of(shard: &Shard) -> Rows {
    let mut rows = Rows::new();
    let mut walk = shard.walk();
    while let Some(some) = walk.next().await {
        for partition in some {
            let (log, marks) = (partition.log(), partition.marks());
            let offsets = Offsets {
                recovery_point: log.recovery_point(),
                log_start: marks.log_start,
                high_watermark: marks.high_watermark,
                first_dirty: log.first_dirty_offset(),
            };
            rows.push(Row {
                topic: partition.topic.clone(),
                index: partition.index,
                offsets,
            });
        }
    }
    rows
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

/// Forgets what is said of topics that no longer exist, before their names are given to others. Whether that is done.
pub async fn forget_deleted(shard: &Rc<Shard>) -> bool {
    let written = write(shard, &Kind::READ_AT_START).await;
    if let Err(error) = &written {
        warn!(%error, "the offset checkpoints could not be written: no topic is made until they can be");
    }
    written.is_ok()
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

    fn row(topic: &'static str, index: i32, offset: i64) -> Row {
        let offset = Offset(offset);
        Row {
            topic: topic.into(),
            index: PartitionIndex(index),
            offsets: Offsets {
                recovery_point: offset,
                log_start: offset,
                high_watermark: offset,
                first_dirty: Some(offset),
            },
        }
    }

    #[test]
    fn where_a_log_begins_whose_folder_is_gone_stays_known() {
        let mut folder = Folder::default();
        let name = ("gone".to_owned(), PartitionIndex(0));
        folder.log_starts.insert(name, Offset(3));
        let checkpoints = Checkpoints::default();
        checkpoints.begin(&folder);
        let rows = checkpoints.rows.borrow().clone();
        let starts: Vec<_> = rows.iter().map(|row| row.offsets.log_start).collect();
        assert_eq!(starts, [Offset(3)]);
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
        let former = [
            row("deleted", 0, 7),
            row("kept", 0, 10),
            row("kept", 1, 6),
            row("kept", 2, 5),
        ];
        let live = [vec![row("kept", 2, 8)], vec![row("kept", 0, 9)]];
        let rows: Vec<_> = all(&live, &former.to_vec(), &image).cloned().collect();
        // The last is not in the image yet.
        let wanted = [row("kept", 0, 9), row("kept", 1, 6), row("kept", 2, 8)];
        assert_eq!(rows, wanted);
    }
}
