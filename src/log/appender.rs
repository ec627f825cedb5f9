//! Owns the way of a batch into its segment: the copy (which orders it), the syncs behind the group
//! writes, rolling, and the finishing of sealed segments. A failed write or sync takes the log offline;
//! nothing is tried twice.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::header::{HEADER_BYTES, Header};
use super::segment::{Indexes, Segment};
use super::settings::Durability;
use super::time_index::TimestampOffset;
use super::{Log, LogError, LogSettings, State, checkpoints, segment_path};
use crate::ids::{LeaderEpoch, Offset, TimestampMs};
use crate::io::{Disk, Mode};
use crate::stages::{self, Stage};

/// Where an appended batch lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    pub base_offset: Offset,
    pub last_offset: Offset,
}

/// A sealed segment, and the producers' state at its end, that are still to be put on disk.
pub(super) struct Unfinished {
    pub(super) segment: Rc<Segment>,
    snapshot: Vec<u8>,
}

impl Log {
    /// Orders one batch, checked before (size, CRC, counts, producer), behind all others: it gets the
    /// next offsets and `epoch`, and is written with what else has come. Returns at once; `LogEvent`s
    /// tell how far writing and syncing are.
    pub fn append(
        self: &Rc<Self>,
        batch: &[u8],
        epoch: LeaderEpoch,
        now_ms: TimestampMs,
    ) -> Result<Appended, LogError> {
        self.check_open()?;
        let header = Header::parse(batch).expect("appended batches were checked");
        assert_eq!(header.size as usize, batch.len());
        let settings = self.settings();
        if batch.len() > settings.segment_bytes as usize {
            return Err(LogError::BatchTooLarge {
                bytes: batch.len(),
                segment_bytes: settings.segment_bytes,
            });
        }
        let base_offset = self.end_offset();
        let header = header.at(base_offset, epoch);
        if should_roll(self.state.borrow().active(), &header, &settings, now_ms) {
            self.roll(now_ms);
        }
        let head = Header::placed(batch, base_offset, epoch);
        let took_chunk = {
            let state = &mut *self.state.borrow_mut();
            let segment = state.active().clone();
            let offsets = base_offset..header.next_offset();
            let took_chunk = state.tail.append(&segment, batch, &head, offsets, now_ms);
            index_batch(&segment, &header, settings.index_interval_bytes);
            state.epochs_dirty |= state.epochs.assign(epoch, base_offset);
            if state.issued_end == state.end {
                state.behind_since_ms = now_ms;
            }
            state.end = header.next_offset();
            state.last_append_ms = now_ms;
            state.changed = true;
            took_chunk
        };
        let aborted =
            header.note_producer(&batch[HEADER_BYTES..], &mut self.producers.borrow_mut());
        if let Some(aborted) = aborted {
            self.state.borrow().active().note_aborted(aborted);
        }
        if took_chunk {
            self.context.budget.on_new_chunk(self);
        }
        self.send_off(batch.len());
        Ok(Appended {
            base_offset,
            last_offset: header.last_offset(),
        })
    }

    /// Seals the active segment and begins one at the log's end.
    pub(super) fn roll(self: &Rc<Self>, now_ms: TimestampMs) {
        let snapshot = self.producers.borrow().encode_snapshot();
        let sealed_is_written = {
            let state = &mut *self.state.borrow_mut();
            let sealed = state.active().clone();
            assert!(sealed.size.get() > 0, "an empty segment is never rolled");
            add_last_time_entry(&sealed);
            state
                .segments
                .push_back(Rc::new(Segment::empty(state.end, now_ms)));
            let written = sealed.is_written();
            state.unfinished.push_back(Unfinished {
                segment: sealed,
                snapshot,
            });
            written
        };
        match sealed_is_written {
            true => self.kick_finisher(),
            false => self.store_now(),
        }
    }

    pub(super) fn kick_syncer(self: &Rc<Self>) {
        {
            let state = &mut *self.state.borrow_mut();
            if state.syncing || !self.sync_is_due(state) {
                return;
            }
            state.syncing = true;
        }
        let log = self.clone();
        (self.context.spawn)(Box::pin(async move {
            let result = log.sync_while_due().await;
            log.state.borrow_mut().syncing = false;
            if let Err(error) = result {
                log.go_offline(LogError::storage("syncing a segment", &error));
            }
            log.wake_waiters();
        }));
    }

    fn sync_is_due(&self, state: &State) -> bool {
        if state.synced_end >= state.stored_end {
            return false;
        }
        let unsynced = (state.stored_end.0 - state.synced_end.0) as u64;
        state.flush_target > state.synced_end
            || match self.settings().durability() {
                Durability::Synced => state.awaits_sync(),
                Durability::Written { messages, .. } => unsynced >= messages,
            }
    }

    async fn sync_while_due(self: &Rc<Self>) -> io::Result<()> {
        loop {
            let (target, segments) = {
                let state = self.state.borrow();
                if self.failure.borrow().is_some() || !self.sync_is_due(&state) {
                    return Ok(());
                }
                let unsynced = state.segments.iter().rev();
                let mut segments: Vec<_> = unsynced
                    .take_while(|segment| {
                        segment.synced.get() < segment.size.get() || segment.size.get() == 0
                    })
                    .filter(|segment| segment.synced.get() < segment.written.get())
                    .cloned()
                    .collect();
                segments.reverse();
                (state.stored_end, segments)
            };
            for segment in segments {
                self.sync_segment(&segment).await?;
            }
            self.state.borrow_mut().synced_end = target;
            self.wake_waiters();
            self.promise_synced();
        }
    }

    /// One at a time a file: of two at once only one is told of an error, and the other would believe
    /// that all is well.
    async fn sync_segment(&self, segment: &Segment) -> io::Result<()> {
        while segment.syncing.replace(true) {
            self.wait_until(|_| !segment.syncing.get())
                .await
                .map_err(io::Error::other)?;
        }
        self.check_online().map_err(io::Error::other)?;
        let result = self.sync_segment_alone(segment).await;
        segment.syncing.set(false);
        if let Err(error) = &result {
            // At once, so that those who wait for their turn find the log offline.
            self.go_offline(LogError::storage("syncing a segment", error));
        }
        self.wake_waiters();
        result
    }

    async fn sync_segment_alone(&self, segment: &Segment) -> io::Result<()> {
        let upto = segment.written.get();
        let dir = self.dir();
        let file = segment.writer(&self.context.disk, &dir).await?;
        let began = stages::begin();
        file.sync_data().await?;
        stages::end(Stage::Sync, began);
        if !segment.name_durable.get() {
            self.sync_names().await?;
            segment.name_durable.set(true);
        }
        segment.synced.set(segment.synced.get().max(upto));
        Ok(())
    }

    /// Makes the names in the log's folder durable, and once the folder's own and its metadata.
    pub(super) async fn sync_names(&self) -> io::Result<()> {
        let disk = &self.context.disk;
        let dir = self.dir();
        if !self.state.borrow().dir_durable.get() {
            let metadata = dir.join(checkpoints::PARTITION_METADATA_FILE);
            if disk.exists(&metadata).await? {
                disk.open(&metadata, Mode::Read).await?.sync_data().await?;
            }
            disk.sync_dir(dir.parent().expect("a log lies in a data folder"))
                .await?;
            self.state.borrow().dir_durable.set(true);
        }
        disk.sync_dir(&dir).await
    }

    pub(super) fn kick_finisher(self: &Rc<Self>) {
        if !std::mem::replace(&mut self.state.borrow_mut().finishing, true) {
            let log = self.clone();
            (self.context.spawn)(Box::pin(async move {
                let result = log.finish_sealed().await;
                log.state.borrow_mut().finishing = false;
                if let Err(error) = result {
                    log.go_offline(LogError::storage("finishing a segment", &error));
                }
                log.wake_waiters();
            }));
        }
    }

    /// Puts all that is known of sealed segments on disk, so that recovery need not look at them.
    async fn finish_sealed(self: &Rc<Self>) -> io::Result<()> {
        loop {
            let (segment, snapshot) = {
                let mut state = self.state.borrow_mut();
                match state.unfinished.front_mut() {
                    Some(next) if next.segment.is_written() && self.failure.borrow().is_none() => {
                        (next.segment.clone(), std::mem::take(&mut next.snapshot))
                    }
                    _ => return Ok(()),
                }
            };
            if self
                .wait_until(|_| !segment.allocating.get())
                .await
                .is_err()
            {
                return Ok(());
            }
            let dir = self.dir();
            let file = segment.writer(&self.context.disk, &dir).await?;
            file.truncate(u64::from(segment.size.get())).await?;
            segment.allocated.set(u64::from(segment.size.get()));
            self.sync_segment(&segment).await?;
            self.write_indexes(&segment).await?;
            let end = segment.next_offset.get();
            let path = segment_path(&dir, end, "snapshot");
            self.context
                .disk
                .write_file_synced(&path, &snapshot)
                .await?;
            self.write_epochs().await?;
            self.sync_names().await?;
            segment.indexes.replace(None);
            segment.close_files();
            let mut state = self.state.borrow_mut();
            state.unfinished.pop_front();
            state.recovery_point = state.recovery_point.max(end);
        }
    }

    /// Writes and syncs the index files; their names are the caller's to make durable.
    pub(super) async fn write_indexes(&self, segment: &Segment) -> io::Result<()> {
        write_aborted(&self.context.disk, &self.dir(), segment).await?;
        let (offsets, times) = match &*segment.indexes.borrow() {
            None => return Ok(()),
            Some(indexes) => (indexes.offsets.encode_from(0), indexes.times.encode_from(0)),
        };
        let disk = &self.context.disk;
        let path = self.segment_path(segment.base, "index");
        disk.write_file_synced(&path, &offsets).await?;
        let path = self.segment_path(segment.base, "timeindex");
        disk.write_file_synced(&path, &times).await
    }

    /// Writes the epoch checkpoint if it is out of date.
    pub(super) async fn write_epochs(&self) -> io::Result<()> {
        let text = {
            let mut state = self.state.borrow_mut();
            if !std::mem::take(&mut state.epochs_dirty) {
                return Ok(());
            }
            state.epochs.format()
        };
        let path = self.dir().join(checkpoints::LEADER_EPOCH_FILE);
        self.context
            .disk
            .write_file_atomic(&path, text.as_bytes())
            .await
    }

    /// Waits until all that is appended now is on stable storage, whatever the flush policy.
    pub async fn flush(self: &Rc<Self>) -> Result<(), LogError> {
        let target = self.end_offset();
        {
            let mut state = self.state.borrow_mut();
            state.flush_target = state.flush_target.max(target);
        }
        self.store_now();
        self.kick_syncer();
        self.wait_until(|state| state.synced_end >= target).await
    }
}

/// Writes and syncs the transaction index if there is something in it, as Kafka does.
pub(super) async fn write_aborted(disk: &Disk, dir: &Path, segment: &Segment) -> io::Result<()> {
    let aborted = match &*segment.aborted.borrow() {
        Some(aborted) if !aborted.is_empty() => aborted.encode_from(0),
        _ => return Ok(()),
    };
    let path = segment_path(dir, segment.base, "txnindex");
    disk.write_file_synced(&path, &aborted).await
}

/// Kafka's rule (LogSegment.shouldRoll): by size, by time since the first record, by full indexes, by
/// an offset that the index cannot express.
pub(super) fn should_roll(
    active: &Segment,
    batch: &Header,
    settings: &LogSettings,
    now_ms: TimestampMs,
) -> bool {
    if active.size.get() == 0 {
        return false;
    }
    let age_ms = match active.first_timestamp.get() {
        Some(first) => batch.max_timestamp().saturating_sub(first),
        None => now_ms.saturating_sub(active.created_ms),
    };
    let indexes = active.indexes.borrow();
    let Indexes { offsets, times } = indexes.as_ref().expect("active segments are indexed");
    u64::from(active.size.get()) + u64::from(batch.size) > u64::from(settings.segment_bytes)
        || age_ms
            > settings
                .segment_ms
                .saturating_sub(settings.segment_jitter_ms)
        || offsets.is_full(settings.segment_index_bytes)
        || times.is_full(settings.segment_index_bytes)
        || !offsets.can_hold(batch.last_offset())
}

/// Notes a batch at the end of a segment: its size, its timestamps, and now and then an index entry.
pub(super) fn index_batch(segment: &Segment, batch: &Header, interval_bytes: u32) {
    let position = segment.size.get();
    let last_offset = batch.last_offset();
    if segment.first_timestamp.get().is_none() && batch.max_timestamp() >= 0 {
        segment.first_timestamp.set(Some(batch.max_timestamp()));
    }
    segment.note_timestamp(TimestampOffset {
        timestamp: batch.max_timestamp(),
        offset: last_offset,
    });
    if let Some(indexes) = &mut *segment.indexes.borrow_mut() {
        let entered = indexes
            .offsets
            .maybe_append(last_offset, position, batch.size, interval_bytes)
            .expect("the segment was rolled before");
        let largest = segment.largest.get();
        if let (true, Some(largest)) = (entered, largest.filter(|seen| seen.timestamp >= 0)) {
            let entered = indexes.times.maybe_append(largest);
            entered.expect("the segment was rolled before");
        }
    }
    segment.size.set(position + batch.size);
    segment.next_offset.set(batch.next_offset());
}

/// The time index of a segment ends with its largest timestamp.
pub(super) fn add_last_time_entry(segment: &Segment) {
    let largest = segment.largest.get().filter(|seen| seen.timestamp >= 0);
    if let (Some(indexes), Some(largest)) = (&mut *segment.indexes.borrow_mut(), largest) {
        let entered = indexes.times.maybe_append(largest);
        entered.expect("the segment was rolled before");
    }
}
