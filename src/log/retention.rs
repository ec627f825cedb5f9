//! Owns what takes whole segments off a log's start: retention by time and size, and deleted records.
//! Files are renamed to `.deleted` at once and removed when `file.delete.delay.ms` is over.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::segment::Segment;
use super::{Log, LogError, LogSettings};
use crate::ids::{Offset, TimestampMs};

/// Files of a removed segment.
pub(super) struct Doomed {
    due_ms: TimestampMs,
    paths: Vec<PathBuf>,
}

pub(super) const EXTENSIONS: [&str; 5] = ["log", "index", "timeindex", "txnindex", "snapshot"];

impl Log {
    /// Removes what `retention.ms`, `retention.bytes` and the log start offset say, oldest first, as far
    /// as it lies below the high watermark. Returns how many segments went. The active segment goes too
    /// when all of it is too old: a new one is begun before.
    pub async fn enforce_retention(
        self: &Rc<Self>,
        now_ms: TimestampMs,
        high_watermark: Offset,
    ) -> Result<usize, LogError> {
        self.check_open()?;
        let _turn = self.rearranging.lock().await;
        self.check_open()?;
        let last = self
            .last_deletable(now_ms, high_watermark)
            .await
            .map_err(|error| LogError::storage("looking for old segments", &error))?;
        let Some(last) = last else {
            return Ok(0);
        };
        if Rc::ptr_eq(&last, self.state.borrow().active()) {
            self.roll(now_ms);
        }
        self.wait_until(|state| {
            let mut unfinished = state.unfinished.iter();
            unfinished.all(|unfinished| unfinished.segment.base > last.base)
        })
        .await?;
        self.keep_a_file_behind(&last).await?;
        let removed: Vec<Rc<Segment>> = {
            let mut state = self.state.borrow_mut();
            let count = state
                .segments
                .partition_point(|segment| segment.base <= last.base);
            state.segments.drain(..count).collect()
        };
        let first = self.state.borrow().segments[0].base;
        self.advance_start(first);
        for segment in &removed {
            segment.close_files();
            let doomed = self.doom(segment.base, &EXTENSIONS, now_ms).await;
            doomed.map_err(|error| {
                let error = LogError::storage("removing a segment", &error);
                self.go_offline(error.clone());
                error
            })?;
        }
        Ok(removed.len())
    }

    /// Of the segment behind `last` perhaps only the journal knows yet. Where it begins must be seen in the folder
    /// before all others are gone.
    async fn keep_a_file_behind(&self, last: &Segment) -> Result<(), LogError> {
        let next = {
            let state = self.state.borrow();
            let mut segments = state.segments.iter();
            segments.find(|segment| segment.base > last.base).cloned()
        };
        let Some(next) = next.filter(|next| !next.name_durable.get()) else {
            return Ok(());
        };
        let make = async {
            next.writer(&self.context.disk, &self.dir()).await?;
            self.sync_names().await?;
            next.name_durable.set(true);
            Ok(())
        };
        make.await.map_err(|error| {
            let error = LogError::storage("beginning a segment", &error);
            self.go_offline(error.clone());
            error
        })
    }

    async fn last_deletable(
        &self,
        now_ms: TimestampMs,
        high_watermark: Offset,
    ) -> io::Result<Option<Rc<Segment>>> {
        let settings = self.settings();
        let (segments, start) = {
            let state = self.state.borrow();
            let segments: Vec<_> = state.segments.iter().cloned().collect();
            (segments, state.start)
        };
        let mut size: u64 = segments.iter().map(|s| u64::from(s.size.get())).sum();
        let mut last = None;
        for (index, segment) in segments.iter().enumerate() {
            let end = segment.next_offset.get();
            let is_active = index + 1 == segments.len();
            if end > high_watermark || (is_active && segment.size.get() == 0) {
                break;
            }
            let bytes = u64::from(segment.size.get());
            let below_start = end <= start && !is_active;
            if !below_start
                && !is_over_size(&settings, size, bytes)
                && !self.is_too_old(segment, &settings, now_ms).await?
            {
                break;
            }
            size -= bytes;
            last = Some(segment.clone());
        }
        Ok(last)
    }

    async fn is_too_old(
        &self,
        segment: &Segment,
        settings: &LogSettings,
        now_ms: TimestampMs,
    ) -> io::Result<bool> {
        if settings.retention_ms < 0 {
            return Ok(false);
        }
        let largest = self.largest_timestamp(segment).await?;
        // Records without timestamps age from when the segment was made, as far as that is known.
        let youngest = if largest.timestamp >= 0 {
            largest.timestamp
        } else {
            segment.created_ms
        };
        Ok(now_ms.saturating_sub(youngest) > settings.retention_ms)
    }

    /// Moves the log start offset up (DeleteRecords); the segments below go with the next retention.
    /// The caller has checked it against the high watermark.
    pub async fn delete_records_before(&self, offset: Offset) -> Result<(), LogError> {
        self.check_open()?;
        let (start, end) = (self.start_offset(), self.end_offset());
        if offset > end || offset.0 < 0 {
            return Err(LogError::OffsetOutOfRange { offset, start, end });
        }
        self.advance_start(offset);
        Ok(())
    }

    fn advance_start(&self, offset: Offset) {
        let mut state = self.state.borrow_mut();
        if offset <= state.start {
            return;
        }
        state.start = offset;
        state.changed = true;
        state.epochs_dirty |= state.epochs.truncate_from_start(offset);
        self.producers.borrow_mut().on_log_start_offset(offset);
    }

    /// Renames the files of the segment at `base` that there are, to be removed when their time has come.
    pub(super) async fn doom(
        &self,
        base: Offset,
        extensions: &[&str],
        now_ms: TimestampMs,
    ) -> io::Result<()> {
        let disk = &self.context.disk;
        let mut paths = Vec::new();
        for extension in extensions {
            let path = self.segment_path(base, extension);
            if disk.exists(&path).await? {
                let renamed = self.segment_path(base, &format!("{extension}.deleted"));
                disk.rename(&path, &renamed).await?;
                paths.push(renamed);
            }
        }
        let due_ms = now_ms.saturating_add(self.settings().file_delete_delay_ms);
        self.state
            .borrow_mut()
            .doomed
            .push(Doomed { due_ms, paths });
        Ok(())
    }

    /// Removes files whose time has come. One that cannot be removed stays for the next start.
    pub(super) async fn remove_doomed(&self, now_ms: TimestampMs) {
        let due: Vec<Doomed> = {
            let mut state = self.state.borrow_mut();
            state
                .doomed
                .extract_if(.., |doomed| doomed.due_ms <= now_ms)
                .collect()
        };
        for path in due.into_iter().flat_map(|doomed| doomed.paths) {
            // A segment that is cleaned again soon has left a file of the same name, which went with the first.
            let removed = self.context.disk.remove(&path).await;
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "an old segment's file stays until the next start");
            }
        }
    }
}

fn is_over_size(settings: &LogSettings, size: u64, segment: u64) -> bool {
    u64::try_from(settings.retention_bytes).is_ok_and(|limit| size >= limit + segment)
}
