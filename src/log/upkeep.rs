//! Owns what happens to a log now and then: syncs by time, what an idle log gives back, closing and
//! the log's own end.

use std::io;
use std::path::PathBuf;
use std::rc::Rc;

use super::appender::add_last_time_entry;
use super::{Log, LogError, directory, segment_path};
use crate::ids::TimestampMs;
use crate::limits::BEHIND_MS_MAX;

/// A log without appends for so long gives back its buffers and reserved space.
pub const IDLE_MS: i64 = 10_000;

impl Log {
    /// To be called every second or so: syncs by `flush.ms`, forgets expired producers, removes files
    /// that retention doomed, and makes an idle log small.
    pub async fn tick(self: &Rc<Self>, now_ms: TimestampMs) -> Result<(), LogError> {
        self.check_open()?;
        self.flush_by_time(now_ms);
        self.store_by_time(now_ms).await?;
        let expiration_ms = self.context.producer_id_expiration_ms.get();
        self.producers.borrow_mut().expire(now_ms, expiration_ms);
        self.remove_doomed(now_ms).await;
        self.close_idle_readers(now_ms);
        let idle = {
            let state = self.state.borrow();
            let active = state.active();
            let holds = !state.tail.is_empty()
                || active.allocated.get() > u64::from(active.size.get())
                || active.has_files();
            holds
                && now_ms.saturating_sub(state.last_append_ms) >= IDLE_MS
                && state.is_at_rest()
                && state.stored_end == state.end
        };
        if idle {
            self.trim().await?;
        }
        Ok(())
    }

    /// A log of many segments must not keep a descriptor for each that was ever read.
    fn close_idle_readers(&self, now_ms: TimestampMs) {
        let state = &mut *self.state.borrow_mut();
        if now_ms.saturating_sub(state.readers_checked_ms) >= IDLE_MS {
            state.readers_checked_ms = now_ms;
            let segments = state.segments.iter();
            segments.for_each(|segment| segment.close_idle_reader());
        }
    }

    fn flush_by_time(self: &Rc<Self>, now_ms: TimestampMs) {
        use super::settings::Durability;
        let Durability::Written { interval_ms, .. } = self.settings().durability() else {
            return;
        };
        {
            let state = &mut *self.state.borrow_mut();
            let waited_ms = now_ms.saturating_sub(state.last_flush_ms);
            if u64::try_from(waited_ms).is_ok_and(|waited| waited >= interval_ms) {
                state.last_flush_ms = now_ms;
                state.flush_target = state.written_end;
                state.store_target = state.store_target.max(state.written_end);
            }
        }
        self.begin_writes();
        self.kick_syncer();
    }

    /// What the journal has and the segments lack does not wait for ever for more to come. Ends when it is written: of
    /// the many logs that may be due together, one is written after the other.
    async fn store_by_time(self: &Rc<Self>, now_ms: TimestampMs) -> Result<(), LogError> {
        let is_due = {
            let state = &mut *self.state.borrow_mut();
            let waited_ms = now_ms.saturating_sub(state.behind_since_ms);
            let is_due = state.issued_end < state.end && waited_ms >= BEHIND_MS_MAX;
            if is_due {
                state.behind_since_ms = now_ms;
            }
            is_due
        };
        if !is_due {
            return Ok(());
        }
        let end = self.end_offset();
        self.store_now();
        self.wait_until(|state| state.stored_end >= end).await
    }

    /// Gives back buffers, reserved space and descriptors. The next append reads its first block back.
    async fn trim(self: &Rc<Self>) -> Result<(), LogError> {
        let active = {
            let mut state = self.state.borrow_mut();
            state.writing.hold(); // While the file is cut.
            state.tail.clear();
            state.active().clone()
        };
        let size = u64::from(active.size.get());
        let result = async {
            self.wait_until(|_| !active.allocating.get()).await?;
            if active.allocated.get() > size {
                self.cut(&active, size)
                    .await
                    .map_err(|error| LogError::storage("trimming a segment", &error))?;
            }
            Ok(())
        };
        let result: Result<(), LogError> = result.await;
        for segment in &self.state.borrow().segments {
            segment.close_files();
        }
        self.state.borrow_mut().writing.release();
        if let Err(error) = &result {
            self.go_offline(error.clone());
        }
        self.wake_waiters();
        self.begin_writes();
        result
    }

    async fn cut(&self, segment: &super::segment::Segment, size: u64) -> io::Result<()> {
        let dir = self.dir();
        let file = segment.writer(&self.context.disk, &dir).await?;
        file.truncate(size).await?;
        segment.allocated.set(size);
        Ok(())
    }

    /// Ends the log's work: all of it durable, files cut to their data, indexes, snapshot and epochs
    /// written, so that the next opening may be `clean`. Refuses appends from the start on.
    pub async fn close(self: &Rc<Self>) -> Result<(), LogError> {
        self.check_open()?;
        self.closing.set(true);
        let _turn = self.rearranging.lock().await;
        if self.state.borrow().changed {
            self.flush().await?;
            self.wait_until(|state| state.is_at_rest() && state.unfinished.is_empty())
                .await?;
            if let Err(error) = self.write_closing_state().await {
                let error = LogError::storage("closing a log", &error);
                self.go_offline(error.clone());
                return Err(error);
            }
        }
        self.state.borrow_mut().tail.clear();
        for segment in &self.state.borrow().segments {
            segment.close_files();
        }
        self.go_offline(LogError::Closed);
        Ok(())
    }

    async fn write_closing_state(&self) -> io::Result<()> {
        let active = self.state.borrow().active().clone();
        let size = u64::from(active.size.get());
        if active.allocated.get() > size {
            self.cut(&active, size).await?;
        }
        // Also what was cut long ago: the next start believes its length, and so does the one after it, once there is
        // another segment behind.
        let file = active.writer(&self.context.disk, &self.dir()).await?;
        file.sync_data().await?;
        add_last_time_entry(&active);
        self.write_indexes(&active).await?;
        let end = active.next_offset.get();
        let snapshot = self.producers.borrow().encode_snapshot();
        let path = segment_path(&self.dir(), end, "snapshot");
        self.context
            .disk
            .write_file_synced(&path, &snapshot)
            .await?;
        self.write_epochs().await?;
        self.sync_names().await?;
        let mut state = self.state.borrow_mut();
        state.recovery_point = end;
        state.changed = false;
        Ok(())
    }

    /// Ends the log and renames its folder to Kafka's `<name>.<unique>-delete`, which it returns; the
    /// caller removes it when `file.delete.delay.ms` is over.
    pub async fn delete(self: &Rc<Self>, unique: [u8; 16]) -> Result<PathBuf, LogError> {
        self.closing.set(true);
        self.deleted.set(true);
        self.go_offline(LogError::Closed);
        // Whoever is at the files is done with them before their folder has another name.
        let _turn = self.rearranging.lock().await;
        let dir = self.dir();
        let doomed = directory::renamed(&dir, unique, "delete");
        self.context
            .disk
            .rename(&dir, &doomed)
            .await
            .map_err(|error| LogError::storage("deleting a log", &error))?;
        self.dir.replace(doomed.clone());
        self.state.borrow_mut().tail.clear();
        for segment in &self.state.borrow().segments {
            segment.close_files();
        }
        Ok(doomed)
    }

    pub(super) fn check_open(&self) -> Result<(), LogError> {
        self.check_online()?;
        if self.closing.get() {
            return Err(LogError::Closed);
        }
        Ok(())
    }
}

impl super::State {
    /// No write, sync, finishing or reservation of space is under way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.writing.is_at_rest()
            && !(self.syncing || self.finishing || self.active().allocating.get())
    }
}
