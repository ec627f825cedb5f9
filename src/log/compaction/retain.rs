//! Owns what is kept of a batch: the last record of each key with its offset, markers that somebody still needs, a batch
//! without records where a producer's last sequence or the end of the cleaned part hangs on it. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::offset_map::OffsetMap;
use super::transactions::{Marker, Transactions};
use crate::ids::{Offset, ProducerId, TimestampMs};
use crate::log::transaction_index::AbortedTransaction;
use crate::protocol::batch::{self, Batch, BatchBuilder, BatchError, Record, TimestampType};
use crate::protocol::compression::Codec;

/// A batch that is larger inside is not cleaned.
pub const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// The last that a producer, which is still known, has in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastOfProducer {
    /// None: there is only a marker.
    pub data_offset: Option<Offset>,
    pub epoch: i16,
}

/// What a round of cleaning keeps to.
pub struct Rules {
    pub map: OffsetMap,
    pub producers: BTreeMap<ProducerId, LastOfProducer>,
    /// Behind the last record that the round cleans.
    pub end: Offset,
    pub now_ms: TimestampMs,
    /// `delete.retention.ms`
    pub delete_retention_ms: i64,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Kept {
    Nothing,
    /// As it is.
    All,
    Anew(Bytes),
}

impl Rules {
    /// What is kept of the next batch, and the transaction that it still aborts. Of the last batch of a group at least its
    /// header is.
    pub fn apply(
        &self,
        batch: &Batch,
        transactions: &mut Transactions,
        ends_group: bool,
    ) -> Result<(Kept, Option<AbortedTransaction>), BatchError> {
        let mut aborted = None;
        let is_control = batch.is_control();
        let mut without_transaction = false;
        let is_discarded = if is_control {
            match transactions.on_control(batch)? {
                Marker::Discardable => without_transaction = true,
                Marker::Needed(transaction) => aborted = transaction,
            }
            // Readers that are on their way are given as much time as for tombstones (KIP-534).
            let due = batch.delete_horizon_ms();
            without_transaction && due.is_some_and(|due| due <= self.now_ms)
        } else {
            transactions.on_batch(batch)
        };
        let must_stay =
            ends_group || self.is_last_of_producer(batch) || batch.next_offset() == self.end;
        if is_discarded && !must_stay {
            return Ok((Kept::Nothing, aborted));
        }
        let mut kept = Vec::new();
        let mut all = true;
        if is_discarded {
            all = batch.records_count() == 0;
        } else {
            for record in batch::records(batch, DECOMPRESSED_BYTES_MAX)? {
                let record = record?;
                match is_control || self.keeps(batch, &record) {
                    true => kept.push(record),
                    false => all = false,
                }
            }
        }
        if kept.is_empty() {
            return Ok(match must_stay {
                false => (Kept::Nothing, aborted),
                true if batch.records_count() == 0 => (Kept::All, aborted),
                true => (Kept::Anew(emptied(batch)), aborted),
            });
        }
        let has_tombstones = !is_control && kept.iter().any(|record| record.value.is_none());
        let begins_horizon =
            (has_tombstones || without_transaction) && batch.delete_horizon_ms().is_none();
        if all && !begins_horizon {
            return Ok((Kept::All, aborted));
        }
        let horizon = match begins_horizon {
            true => Some(self.now_ms.saturating_add(self.delete_retention_ms)),
            false => batch.delete_horizon_ms(),
        };
        Ok((Kept::Anew(rebuilt(batch, &kept, horizon)), aborted))
    }

    /// With it the producer's last sequence would be forgotten, or with its last marker its epoch.
    fn is_last_of_producer(&self, batch: &Batch) -> bool {
        let Some(last) = self.producers.get(&batch.producer_id()) else {
            return false;
        };
        match last.data_offset {
            Some(offset) => batch.last_offset() == offset,
            None => batch.is_control() && batch.producer_epoch() == last.epoch,
        }
    }

    fn keeps(&self, batch: &Batch, record: &Record) -> bool {
        if record.offset > self.map.latest() {
            return true;
        }
        // A record without key has no place in a compacted log; it is from before the log was one.
        let Some(key) = &record.key else {
            return false;
        };
        let is_latest = self.map.get(key).is_none_or(|last| record.offset >= last);
        let may_go = batch
            .delete_horizon_ms()
            .is_some_and(|due| self.now_ms >= due);
        is_latest && (record.value.is_some() || !may_go)
    }
}

fn like(batch: &Batch) -> BatchBuilder {
    let mut builder = BatchBuilder::new()
        .base_offset(batch.base_offset())
        .leader_epoch(batch.partition_leader_epoch())
        .producer(
            batch.producer_id(),
            batch.producer_epoch(),
            batch.base_sequence(),
        )
        .last_offset_delta(batch.last_offset_delta());
    if batch.is_transactional() {
        builder = builder.transactional();
    }
    if batch.is_control() {
        builder = builder.control();
    }
    match batch.timestamp_type() {
        TimestampType::LogAppendTime => builder.log_append_time(batch.max_timestamp()),
        TimestampType::CreateTime => builder,
    }
}

/// The batch without its records.
fn emptied(batch: &Batch) -> Bytes {
    like(batch)
        .codec(Codec::None, None)
        .max_timestamp(batch.max_timestamp())
        .build()
}

fn rebuilt(batch: &Batch, kept: &[Record], horizon: Option<TimestampMs>) -> Bytes {
    let mut builder = like(batch).codec(batch.codec(), None);
    if let Some(horizon) = horizon {
        builder = builder.delete_horizon(horizon);
    }
    for record in kept {
        let delta = (record.offset.0 - batch.base_offset().0) as i32;
        builder.append_at(
            delta,
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
    }
    builder.build()
}

#[cfg(test)]
mod tests;
