//! Owns snapshots of the metadata (KIP-630): the records that make an image from nothing, and the
//! checkpoint file they are kept in. It never touches a file.

use bytes::Bytes;

use super::{
    BrokerRegistration, ControllerRegistration, MetadataImage, NO_LEADER, PartitionImage,
    features::METADATA_VERSION,
    metadata_log::{MetadataLogError, control, decode_records, encode_records, encoded},
};
use crate::{
    ids::{BrokerId, TimestampMs},
    protocol::{
        Str, Uuid,
        batch::{self, ControlType},
        records::{
            client::{SnapshotFooterRecord, SnapshotHeaderRecord},
            metadata::{
                ConfigRecord, FeatureLevelRecord, MetadataRecord, PartitionRecord,
                ProducerIdsRecord, RegisterBrokerRecord, RegisterControllerRecord, TopicRecord,
                register_broker_record::{BrokerEndpoint, BrokerFeature},
                register_controller_record::{ControllerEndpoint, ControllerFeature},
            },
        },
    },
};

/// A snapshot's records are of no one request; batches of about this many are easy to read.
const RECORDS_PER_BATCH: usize = 1024;

/// What a snapshot holds, as its file name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// One past the last offset that is in it.
    pub end_offset: i64,
    pub epoch: i32,
}

impl SnapshotId {
    pub fn of(image: &MetadataImage) -> SnapshotId {
        SnapshotId {
            end_offset: image.offset + 1,
            epoch: image.epoch,
        }
    }

    pub fn file_name(self) -> String {
        format!("{:020}-{:010}.checkpoint", self.end_offset, self.epoch)
    }

    /// `None` for other files, those still being written included.
    pub fn from_file_name(name: &str) -> Option<SnapshotId> {
        let (offset, epoch) = name.strip_suffix(".checkpoint")?.split_once('-')?;
        (offset.len() == 20 && epoch.len() == 10).then_some(())?;
        Some(SnapshotId {
            end_offset: offset.parse().ok()?,
            epoch: epoch.parse().ok()?,
        })
    }
}

/// The records that make `image`, in the order in which Kafka writes them.
pub fn records(image: &MetadataImage) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    let mut features: Vec<_> = image.features().iter().collect();
    features.sort_by_key(|(name, _)| **name != *METADATA_VERSION);
    for (name, level) in features {
        records.push(MetadataRecord::from(FeatureLevelRecord {
            name: name.clone(),
            feature_level: *level,
        }));
    }
    records.extend(image.brokers().map(|broker| broker_record(broker)));
    records.extend(
        image
            .controllers()
            .map(|controller| controller_record(controller)),
    );
    for topic in image.topics() {
        records.push(MetadataRecord::from(TopicRecord {
            name: topic.name.clone(),
            topic_id: topic.id,
        }));
        for (index, partition) in (0..).zip(&topic.partitions) {
            records.push(partition_record(topic.id, index, partition));
        }
    }
    for (kind, resource, settings) in image.configured() {
        for (name, value) in settings.iter() {
            records.push(MetadataRecord::from(ConfigRecord {
                resource_type: kind.code(),
                resource_name: resource.clone(),
                name: Str::copied(name),
                value: Some(Str::copied(value)),
            }));
        }
    }
    if image.next_producer_id > 0 {
        records.push(MetadataRecord::from(ProducerIdsRecord {
            broker_id: -1,
            broker_epoch: -1,
            next_producer_id: image.next_producer_id,
        }));
    }
    records
}

fn broker_record(broker: &BrokerRegistration) -> MetadataRecord {
    MetadataRecord::from(RegisterBrokerRecord {
        broker_id: broker.id.0,
        is_migrating_zk_broker: false,
        incarnation_id: broker.incarnation,
        broker_epoch: broker.epoch,
        end_points: broker
            .endpoints
            .iter()
            .map(|endpoint| BrokerEndpoint {
                name: endpoint.name.clone(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                security_protocol: endpoint.security_protocol,
            })
            .collect(),
        features: broker
            .features
            .iter()
            .map(|(name, (min, max))| BrokerFeature {
                name: name.clone(),
                min_supported_version: *min,
                max_supported_version: *max,
            })
            .collect(),
        rack: broker.rack.clone(),
        fenced: broker.fenced,
        in_controlled_shutdown: broker.in_controlled_shutdown,
        log_dirs: broker.directories.clone(),
        cordoned_log_dirs: broker.cordoned_directories.clone(),
    })
}

fn controller_record(controller: &ControllerRegistration) -> MetadataRecord {
    MetadataRecord::from(RegisterControllerRecord {
        controller_id: controller.id.0,
        incarnation_id: controller.incarnation,
        zk_migration_ready: false,
        end_points: controller
            .endpoints
            .iter()
            .map(|endpoint| ControllerEndpoint {
                name: endpoint.name.clone(),
                host: endpoint.host.clone(),
                port: endpoint.port,
                security_protocol: endpoint.security_protocol,
            })
            .collect(),
        features: controller
            .features
            .iter()
            .map(|(name, (min, max))| ControllerFeature {
                name: name.clone(),
                min_supported_version: *min,
                max_supported_version: *max,
            })
            .collect(),
    })
}

fn partition_record(topic_id: Uuid, index: i32, partition: &PartitionImage) -> MetadataRecord {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.0).collect::<Vec<i32>>();
    let unless_empty = |brokers: &[BrokerId]| (!brokers.is_empty()).then(|| ids(brokers));
    MetadataRecord::from(PartitionRecord {
        partition_id: index,
        topic_id,
        replicas: ids(&partition.replicas),
        isr: ids(&partition.isr),
        removing_replicas: ids(&partition.removing_replicas),
        adding_replicas: ids(&partition.adding_replicas),
        leader: partition.leader.map_or(NO_LEADER, |leader| leader.0),
        leader_recovery_state: i8::from(partition.leader_recovering),
        leader_epoch: partition.leader_epoch.0,
        partition_epoch: partition.partition_epoch,
        directories: partition.directories.clone(),
        eligible_leader_replicas: unless_empty(&partition.elr),
        last_known_elr: unless_empty(&partition.last_known_elr),
    })
}

/// The bytes of a checkpoint file. `last_timestamp` is that of the last batch it holds.
pub fn encode(image: &MetadataImage, last_timestamp: TimestampMs, now: TimestampMs) -> Bytes {
    let header = SnapshotHeaderRecord {
        version: 0,
        last_contained_log_timestamp: last_timestamp,
    };
    let footer = SnapshotFooterRecord { version: 0 };
    let epoch = image.epoch;
    let mut offset = 0;
    let mut parts = vec![control(
        offset,
        epoch,
        now,
        &[(ControlType::SnapshotHeader, encoded(&header))],
    )];
    offset += 1;
    for chunk in records(image).chunks(RECORDS_PER_BATCH) {
        parts.push(encode_records(offset, epoch, now, chunk));
        offset += i64::try_from(chunk.len()).expect("a chunk is small");
    }
    parts.push(control(
        offset,
        epoch,
        now,
        &[(ControlType::SnapshotFooter, encoded(&footer))],
    ));
    parts.concat().into()
}

/// Reads a checkpoint file back. `cluster_id` is not in it.
///
/// Errors: a batch or record is bad, or the footer is missing.
pub fn decode(
    bytes: &Bytes,
    id: SnapshotId,
    cluster_id: Str,
) -> Result<MetadataImage, MetadataLogError> {
    let mut image = MetadataImage::new(cluster_id);
    let mut delta = Default::default();
    let mut ends_with_control = false;
    for (number, batch) in (0..).zip(batch::batches(bytes)) {
        let batch_error = |source| MetadataLogError::Batch {
            offset: number,
            source,
        };
        let batch = batch.map_err(batch_error)?;
        batch.verify_crc().map_err(batch_error)?;
        ends_with_control = batch.is_control() && number > 0;
        if batch.is_control() {
            continue;
        }
        for (offset, record) in decode_records(&batch)? {
            image
                .apply(&record, offset, &mut delta)
                .map_err(|source| MetadataLogError::Image { offset, source })?;
        }
    }
    if !ends_with_control {
        return Err(MetadataLogError::SnapshotCutShort);
    }
    image.advance(id.end_offset - 1);
    image.epoch = id.epoch;
    Ok(image)
}
