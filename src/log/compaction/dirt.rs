//! Owns when a log is worth a cleaning, by Kafka's rules: how much of it no round has seen, how old that is, and how far
//! a round may go.

use std::io;
use std::rc::Rc;

use crate::ids::{Offset, TimestampMs};
use crate::io::Mode;
use crate::log::reader::Scanner;
use crate::log::segment::Segment;
use crate::log::{Log, LogError, segment_path};

/// What could be cleaned of a log.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Dirt {
    /// Where a round ends at the most.
    pub upto: Offset,
    pub clean_bytes: u64,
    pub dirty_bytes: u64,
    /// A record lies uncleaned for longer than `max.compaction.lag.ms` (KIP-354).
    pub is_overdue: bool,
}

impl Dirt {
    pub fn ratio(&self) -> f64 {
        let all = self.clean_bytes + self.dirty_bytes;
        if all == 0 {
            return 0.0;
        }
        self.dirty_bytes as f64 / all as f64
    }
}

impl Log {
    /// What a round could clean below `stable`; None if the log is not to be cleaned, or not yet.
    pub async fn dirt(
        self: &Rc<Self>,
        now_ms: TimestampMs,
        stable: Offset,
    ) -> Result<Option<Dirt>, LogError> {
        self.check_open()?;
        let Some(compaction) = self.settings().compaction else {
            return Ok(None);
        };
        if self.uncleanable.get() {
            return Ok(None);
        }
        let found = self.look_for_dirt(now_ms, stable, &compaction).await;
        let dirt = match found {
            Ok(dirt) => dirt,
            // Retention may have taken the segment, or the log is gone; the next look will tell.
            Err(error) => {
                self.check_open()?;
                return Err(LogError::storage("looking for segments to clean", &error));
            }
        };
        let due = dirt.is_overdue || dirt.ratio() > compaction.min_cleanable_dirty_ratio;
        if dirt.dirty_bytes == 0 || !due {
            return Ok(None);
        }
        // From the first round on, a start must know that the log has gaps.
        let first_dirty = self.first_dirty();
        let mut state = self.state.borrow_mut();
        state.first_dirty.get_or_insert(first_dirty);
        Ok(Some(dirt))
    }

    async fn look_for_dirt(
        self: &Rc<Self>,
        now_ms: TimestampMs,
        stable: Offset,
        compaction: &super::Compaction,
    ) -> io::Result<Dirt> {
        let segments = self.segments_below(stable);
        let first_dirty = self.first_dirty();
        let mut dirt = Dirt {
            upto: first_dirty,
            clean_bytes: 0,
            dirty_bytes: 0,
            is_overdue: false,
        };
        let (min_lag_ms, max_lag_ms) = (
            compaction.min_compaction_lag_ms,
            compaction.max_compaction_lag_ms,
        );
        for segment in &segments {
            let bytes = u64::from(segment.size.get());
            if segment.next_offset.get() <= first_dirty {
                dirt.clean_bytes += bytes;
                continue;
            }
            if min_lag_ms > 0
                && self.largest_timestamp(segment).await?.timestamp > now_ms - min_lag_ms
            {
                break;
            }
            if max_lag_ms < i64::MAX {
                let first = self.first_timestamp(segment).await?;
                dirt.is_overdue |= first > 0 && first < now_ms.saturating_sub(max_lag_ms);
            }
            dirt.dirty_bytes += bytes;
            dirt.upto = segment.next_offset.get();
        }
        Ok(dirt)
    }

    async fn first_timestamp(&self, segment: &Segment) -> io::Result<TimestampMs> {
        if let Some(first) = segment.first_timestamp.get() {
            return Ok(first);
        }
        let path = segment_path(&self.dir(), segment.base, "log");
        let file = self.context.disk.open(&path, Mode::Serve).await?;
        let mut scanner = Scanner::new(file, u64::from(segment.size.get()), 4096);
        let found = scanner
            .find(0, |header| header.max_timestamp() >= 0)
            .await?;
        let first = found.map_or(-1, |(header, _)| header.max_timestamp());
        segment.first_timestamp.set(Some(first));
        Ok(first)
    }

    /// The sealed segments that lie wholly below `upto`, with all that belongs to them on disk.
    pub(super) fn segments_below(&self, upto: Offset) -> Vec<Rc<Segment>> {
        let state = self.state.borrow();
        let sealed = state.segments.len() - 1;
        let upto = upto.min(state.recovery_point);
        let segments = state.segments.iter().take(sealed);
        segments
            .take_while(|segment| segment.next_offset.get() <= upto)
            .cloned()
            .collect()
    }

    /// Kafka's rule: what the checkpoint says, unless the log does not reach there or begins behind it.
    pub(super) fn first_dirty(&self) -> Offset {
        let state = self.state.borrow();
        let known = state.first_dirty.filter(|offset| *offset <= state.end);
        known.unwrap_or(state.start).max(state.start)
    }
}
