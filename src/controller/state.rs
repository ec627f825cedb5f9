//! Owns the controller machine's state: the image with everything it has decided, committed or
//! not, and what is derived from it. Requests are handed in one after another; each makes at most
//! one batch of records, which the driver stores as a whole before it lets the answer out. When
//! storing fails the machine is ahead of the log and must be dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{ImageError, MetadataDelta, MetadataImage, RECORDS_PER_REQUEST_MAX, Refusal};
use crate::{
    config::{BrokerConfig, DynamicConfigs},
    protocol::{ErrorCode, Str, records::metadata::MetadataRecord},
};

/// Records that take effect together or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataBatch {
    /// Offset of the first.
    pub base_offset: i64,
    /// Epoch of the controller that made them.
    pub epoch: i32,
    pub records: Vec<MetadataRecord>,
}

/// What a request leads to: records to store, and the answer to give once they are stored.
#[derive(Clone, Debug)]
pub struct Outcome<R> {
    /// `None` when nothing changes.
    pub batch: Option<MetadataBatch>,
    pub response: R,
}

#[derive(Debug)]
pub struct Controller {
    pub(super) config: Arc<BrokerConfig>,
    pub(super) image: MetadataImage,
    pub(super) epoch: i32,
    /// Names that become equal when '.' counts as '_', by that form: metrics of such topics
    /// would collide.
    pub(super) colliding: BTreeMap<String, BTreeSet<Str>>,
}

impl Controller {
    /// Takes over from `image`, the replay of everything stored, as the controller of `epoch`.
    pub fn new(config: Arc<BrokerConfig>, image: MetadataImage, epoch: i32) -> Controller {
        let mut colliding = BTreeMap::<String, BTreeSet<Str>>::new();
        for topic in image.topics() {
            if let Some(form) = collision_form(&topic.name) {
                colliding
                    .entry(form)
                    .or_default()
                    .insert(topic.name.clone());
            }
        }
        Controller {
            config,
            image,
            epoch,
            colliding,
        }
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    /// With everything decided so far, stored or not.
    pub fn image(&self) -> &MetadataImage {
        &self.image
    }

    /// Offset that the next record gets.
    pub fn next_offset(&self) -> i64 {
        self.image.offset + 1
    }

    pub(super) fn dynamic_configs(&self) -> DynamicConfigs {
        self.image.dynamic_configs(self.config.node_id)
    }

    /// Takes records in, so that the next request sees them.
    pub(super) fn commit<R>(&mut self, records: Vec<MetadataRecord>, response: R) -> Outcome<R> {
        if records.is_empty() {
            return Outcome {
                batch: None,
                response,
            };
        }
        let batch = MetadataBatch {
            base_offset: self.next_offset(),
            epoch: self.epoch,
            records,
        };
        let delta = self
            .image
            .apply_batch(&batch)
            .expect("the machine makes only records that fit its image");
        self.track_names(&delta);
        Outcome {
            batch: Some(batch),
            response,
        }
    }

    /// As `commit`, unless it is a trial.
    pub(super) fn commit_unless<R>(
        &mut self,
        validate_only: bool,
        records: Vec<MetadataRecord>,
        response: R,
    ) -> Outcome<R> {
        let records = if validate_only { Vec::new() } else { records };
        self.commit(records, response)
    }

    fn track_names(&mut self, delta: &MetadataDelta) {
        for topic in delta.deleted_topics.values() {
            if let Some(form) = collision_form(&topic.name)
                && let Some(names) = self.colliding.get_mut(&form)
            {
                names.remove(&topic.name);
                if names.is_empty() {
                    self.colliding.remove(&form);
                }
            }
        }
        for id in delta.changed_partitions.keys() {
            if let Some(topic) = self.image.topic_by_id(*id)
                && let Some(form) = collision_form(&topic.name)
            {
                self.colliding
                    .entry(form)
                    .or_default()
                    .insert(topic.name.clone());
            }
        }
    }
}

/// `None` for names that cannot collide.
pub(super) fn collision_form(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

/// Refuses what would make a batch too large to replicate.
pub(super) fn bounded(records: &[MetadataRecord]) -> Result<(), Refusal> {
    if records.len() > RECORDS_PER_REQUEST_MAX {
        return Err(Refusal::new(
            ErrorCode::PolicyViolation,
            "Unable to perform excessively large batch operation.",
        ));
    }
    Ok(())
}

impl MetadataImage {
    /// Applies a whole batch; tells what changed.
    ///
    /// Errors: see `apply`.
    pub fn apply_batch(&mut self, batch: &MetadataBatch) -> Result<MetadataDelta, ImageError> {
        let mut delta = MetadataDelta::default();
        self.epoch = batch.epoch;
        for (offset, record) in (batch.base_offset..).zip(&batch.records) {
            self.apply(record, offset, &mut delta)?;
        }
        Ok(delta)
    }
}
