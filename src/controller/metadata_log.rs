//! Owns the bytes of the metadata log `__cluster_metadata-0` and of its snapshots: batches in
//! Kafka's format that Kafka's own dump tool reads. It never touches a file; the driver appends
//! what is encoded here and hands back what it read.

use bytes::Bytes;

use super::{ImageError, MetadataBatch, MetadataDelta, MetadataImage};
use crate::{
    ids::{BrokerId, LeaderEpoch, Offset, TimestampMs},
    protocol::{
        DecodeError, Message,
        batch::{self, Batch, BatchBuilder, BatchError, ControlType, control_key},
        records::{
            client::{LeaderChangeMessage, leader_change_message::Voter},
            metadata::MetadataRecord,
        },
    },
};

/// The folder of the log, under the data folder.
pub const DIRECTORY: &str = "__cluster_metadata-0";

/// Kafka's fixed id of the metadata topic.
pub const TOPIC_ID: crate::protocol::Uuid = crate::protocol::Uuid::ONE;

/// No batch of ours is larger (`internal.metadata.max.batch.size.in.bytes`), nor opens to more.
const BATCH_BYTES_MAX: usize = 8 << 20;

#[derive(Debug, thiserror::Error)]
pub enum MetadataLogError {
    #[error("the metadata log has a bad batch at offset {offset}: {source}")]
    Batch { offset: i64, source: BatchError },
    #[error("the metadata log has a bad record at offset {offset}: {source}")]
    Record { offset: i64, source: DecodeError },
    #[error("the metadata log contradicts itself at offset {offset}: {source}")]
    Image { offset: i64, source: ImageError },
    #[error("a snapshot of the metadata ends before its footer")]
    SnapshotCutShort,
}

impl MetadataBatch {
    /// The batch as it is stored, all its records or none.
    pub fn encode(&self, now: TimestampMs) -> Bytes {
        encode_records(self.base_offset, self.epoch, now, &self.records)
    }
}

pub(super) fn encode_records(
    offset: i64,
    epoch: i32,
    now: TimestampMs,
    records: &[MetadataRecord],
) -> Bytes {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(offset))
        .leader_epoch(LeaderEpoch(epoch));
    for record in records {
        let value = record
            .encode(stored_version(record))
            .expect("records are made for the version they are stored in");
        builder.append(now, None, Some(&value), &[]);
    }
    builder.build()
}

/// The version each record is written in at metadata version 33: as Kafka does, a broker's
/// change is written in the oldest version that can say it.
fn stored_version(record: &MetadataRecord) -> i16 {
    match record {
        MetadataRecord::BrokerRegistrationChange(change) => {
            if change.cordoned_log_dirs.is_some() {
                3
            } else if !change.log_dirs.is_empty() {
                2
            } else {
                i16::from(change.in_controlled_shutdown != 0)
            }
        }
        other => other.max_version(),
    }
}

/// The control batch that opens each epoch.
pub fn leader_change(offset: i64, epoch: i32, leader: BrokerId, now: TimestampMs) -> Bytes {
    let voter = || {
        vec![Voter {
            voter_id: leader.0,
            ..Default::default()
        }]
    };
    let message = LeaderChangeMessage {
        version: 0,
        leader_id: leader.0,
        voters: voter(),
        granting_voters: voter(),
    };
    control(
        offset,
        epoch,
        now,
        &[(ControlType::LeaderChange, encoded(&message))],
    )
}

pub(super) fn encoded(message: &impl Message) -> Bytes {
    message
        .to_bytes(0)
        .expect("control records say nothing that version 0 lacks")
}

pub(super) fn control(
    offset: i64,
    epoch: i32,
    now: TimestampMs,
    records: &[(ControlType, Bytes)],
) -> Bytes {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(offset))
        .leader_epoch(LeaderEpoch(epoch))
        .control();
    for (kind, value) in records {
        builder.append(now, Some(&control_key(*kind)), Some(value), &[]);
    }
    builder.build()
}

/// Builds the image from a snapshot and the batches after it, in order. Records between
/// BeginTransaction and EndTransaction count only once the end is there.
#[derive(Debug)]
pub struct Replay {
    image: MetadataImage,
    delta: MetadataDelta,
    /// Records of a transaction that has begun and not ended.
    open: Option<Vec<(i64, MetadataRecord)>>,
}

impl Replay {
    /// Continues from `image`: empty for a log from its start.
    pub fn new(image: MetadataImage) -> Replay {
        Replay {
            image,
            delta: MetadataDelta::default(),
            open: None,
        }
    }

    /// Of the last controller that wrote.
    pub fn epoch(&self) -> i32 {
        self.image.epoch
    }

    /// What it needs next.
    pub fn next_offset(&self) -> Offset {
        Offset(self.image.offset + 1)
    }

    /// Takes in the next batch. Batches that the image already holds are skipped.
    pub fn batch(&mut self, batch: &Batch) -> Result<(), MetadataLogError> {
        let last_offset = batch.last_offset().0;
        if last_offset <= self.image.offset {
            return Ok(());
        }
        self.image.epoch = self.image.epoch.max(batch.partition_leader_epoch().0);
        if batch.is_control() {
            self.image.advance(last_offset);
            return Ok(());
        }
        for (offset, record) in decode_records(batch)? {
            if offset > self.image.offset {
                self.record(offset, record)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, offset: i64, record: MetadataRecord) -> Result<(), MetadataLogError> {
        match (&record, &mut self.open) {
            (MetadataRecord::BeginTransaction(_), _) => self.open = Some(Vec::new()),
            (MetadataRecord::AbortTransaction(_), _) => self.open = None,
            (MetadataRecord::EndTransaction(_), _) => {
                for (offset, record) in self.open.take().unwrap_or_default() {
                    self.apply(offset, &record)?;
                }
            }
            (_, Some(open)) => open.push((offset, record)),
            (_, None) => return self.apply(offset, &record),
        }
        self.image.advance(offset);
        Ok(())
    }

    fn apply(&mut self, offset: i64, record: &MetadataRecord) -> Result<(), MetadataLogError> {
        self.image
            .apply(record, offset, &mut self.delta)
            .map_err(|source| MetadataLogError::Image { offset, source })
    }

    /// A transaction has begun and not ended. Before anything else is appended it must be aborted
    /// (`Controller::abort_transaction`), or what follows would belong to it.
    pub fn has_open_transaction(&self) -> bool {
        self.open.is_some()
    }

    /// What all of it led to. A transaction without its end never happened.
    pub fn finish(self) -> MetadataImage {
        self.image
    }
}

/// The records of one data batch, with their offsets.
pub fn decode_records(batch: &Batch) -> Result<Vec<(i64, MetadataRecord)>, MetadataLogError> {
    let base = batch.base_offset().0;
    let bad_batch = |source| MetadataLogError::Batch {
        offset: base,
        source,
    };
    batch::records(batch, BATCH_BYTES_MAX)
        .map_err(bad_batch)?
        .map(|record| {
            let record = record.map_err(bad_batch)?;
            let value = record.value.unwrap_or_default();
            MetadataRecord::decode(&value)
                .map(|decoded| (record.offset.0, decoded))
                .map_err(|source| MetadataLogError::Record {
                    offset: record.offset.0,
                    source,
                })
        })
        .collect()
}
