//! Registers the process itself as controller and broker when it starts, gives its partitions a
//! leader again, and hands out blocks of producer ids.
//!
//! A broker that runs in the controller's own process needs no session: when it registers it is
//! alive, and whatever an earlier incarnation held is over, because that one had to release the
//! data folder first.

use super::{
    Controller, Endpoint, Outcome, PartitionImage, Refusal, ResourceType, SUPPORTED_FEATURES,
    features::METADATA_VERSION,
};
use crate::{
    ids::BrokerId,
    protocol::{
        ErrorCode, Str, Uuid,
        records::metadata::{
            AbortTransactionRecord, BeginTransactionRecord, BrokerRegistrationChangeRecord,
            ConfigRecord, EndTransactionRecord, FeatureLevelRecord, MetadataRecord, NoOpRecord,
            PartitionChangeRecord, ProducerIdsRecord, RegisterBrokerRecord,
            RegisterControllerRecord,
            register_broker_record::{BrokerEndpoint, BrokerFeature},
            register_controller_record::{ControllerEndpoint, ControllerFeature},
        },
    },
};

/// Producer ids handed to a broker at a time (KIP-730).
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// What a starting process says of itself.
#[derive(Clone, Debug)]
pub struct Registration {
    /// New at each start.
    pub incarnation: Uuid,
    /// Where clients reach the broker.
    pub endpoints: Vec<Endpoint>,
    /// Where other nodes reach the controller; may be empty while there are none.
    pub controller_endpoints: Vec<Endpoint>,
    /// Ids of its data folders, from `meta.properties`.
    pub directories: Vec<Uuid>,
    pub rack: Option<Str>,
}

impl Controller {
    /// The first records of a new cluster. Nothing when it is not new.
    pub fn bootstrap(&mut self) -> Outcome<()> {
        if !self.image.features().is_empty() {
            return self.commit(Vec::new(), ());
        }
        let mut records = vec![MetadataRecord::from(BeginTransactionRecord {
            name: Some("Bootstrap records".into()),
        })];
        // Replay needs the metadata version ahead of everything else.
        let mut features: Vec<_> = SUPPORTED_FEATURES.iter().collect();
        features.sort_by_key(|feature| feature.name != METADATA_VERSION);
        for feature in features.into_iter().filter(|feature| feature.initial > 0) {
            records.push(MetadataRecord::from(FeatureLevelRecord {
                name: feature.name.into(),
                feature_level: feature.initial,
            }));
        }
        // Eligible leader replicas need a minimum that the whole cluster agrees on (KIP-966).
        let minimum = self.config.static_topic_config().min_insync_replicas;
        records.push(MetadataRecord::from(ConfigRecord {
            resource_type: ResourceType::Broker.code(),
            resource_name: Str::EMPTY,
            name: "min.insync.replicas".into(),
            value: Some(Str::from(minimum.to_string())),
        }));
        records.push(MetadataRecord::from(EndTransactionRecord {}));
        self.commit(records, ())
    }

    /// Registers this process, unfenced, and gives every partition it may lead to it. Answers the
    /// broker epoch.
    pub fn register(&mut self, registration: &Registration) -> Outcome<i64> {
        let id = self.config.node_id;
        let mut records = vec![self.controller_record(registration)];
        let broker_epoch = self.next_offset() + 1;
        records.push(self.broker_record(registration, broker_epoch));
        records.push(MetadataRecord::from(BrokerRegistrationChangeRecord {
            broker_id: id.0,
            broker_epoch,
            fenced: -1,
            ..Default::default()
        }));
        self.elect_everywhere(id, &mut records);
        self.commit(records, broker_epoch)
    }

    fn controller_record(&self, registration: &Registration) -> MetadataRecord {
        MetadataRecord::from(RegisterControllerRecord {
            controller_id: self.config.node_id.0,
            incarnation_id: registration.incarnation,
            zk_migration_ready: false,
            end_points: registration
                .controller_endpoints
                .iter()
                .map(|endpoint| ControllerEndpoint {
                    name: endpoint.name.clone(),
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                    security_protocol: endpoint.security_protocol,
                })
                .collect(),
            features: SUPPORTED_FEATURES
                .iter()
                .map(|feature| ControllerFeature {
                    name: feature.name.into(),
                    min_supported_version: feature.min,
                    max_supported_version: feature.max,
                })
                .collect(),
        })
    }

    fn broker_record(&self, registration: &Registration, broker_epoch: i64) -> MetadataRecord {
        MetadataRecord::from(RegisterBrokerRecord {
            broker_id: self.config.node_id.0,
            incarnation_id: registration.incarnation,
            broker_epoch,
            end_points: registration
                .endpoints
                .iter()
                .map(|endpoint| BrokerEndpoint {
                    name: endpoint.name.clone(),
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                    security_protocol: endpoint.security_protocol,
                })
                .collect(),
            features: SUPPORTED_FEATURES
                .iter()
                .map(|feature| BrokerFeature {
                    name: feature.name.into(),
                    min_supported_version: feature.min,
                    max_supported_version: feature.max,
                })
                .collect(),
            rack: registration.rack.clone(),
            fenced: true,
            log_dirs: registration.directories.clone(),
            ..Default::default()
        })
    }

    /// Each partition that the broker led before it went away, or that waits for it without a
    /// leader, starts a new leader epoch: clients learn by it that what they knew of the log's
    /// end may no longer hold (KIP-320).
    fn elect_everywhere(&self, broker: BrokerId, records: &mut Vec<MetadataRecord>) {
        for topic in self.image.topics() {
            for (index, partition) in (0..).zip(&topic.partitions) {
                if let Some(change) = elect(partition, broker) {
                    records.push(MetadataRecord::from(PartitionChangeRecord {
                        partition_id: index,
                        topic_id: topic.id,
                        ..change
                    }));
                }
            }
        }
    }

    /// AllocateProducerIds (KIP-730): the first id of a block of `PRODUCER_ID_BLOCK`.
    pub fn allocate_producer_ids(&mut self) -> Outcome<Result<i64, Refusal>> {
        let first = self.image.next_producer_id;
        let Some(next) = first.checked_add(PRODUCER_ID_BLOCK) else {
            let refusal = Refusal::new(
                ErrorCode::UnknownServerError,
                "Exhausted all producerIds as the next block's end producerId has exceeded the int64 type limit",
            );
            return self.commit(Vec::new(), Err(refusal));
        };
        let id = self.config.node_id;
        let record = MetadataRecord::from(ProducerIdsRecord {
            broker_id: id.0,
            broker_epoch: self.image.broker(id).map_or(-1, |broker| broker.epoch),
            next_producer_id: next,
        });
        self.commit(vec![record], Ok(first))
    }

    /// Ends a transaction of records that a controller before this one left open.
    pub fn abort_transaction(&mut self) -> Outcome<()> {
        let record = AbortTransactionRecord {
            reason: Some("A new controller took over".into()),
        };
        self.commit(vec![MetadataRecord::from(record)], ())
    }

    /// A record that changes nothing, to tell that the controller lives.
    pub fn no_op(&mut self) -> Outcome<()> {
        self.commit(vec![MetadataRecord::from(NoOpRecord {})], ())
    }
}

/// Makes `broker` the leader where it may be: it was, or nobody is and it is in sync or the one
/// that the eligible replicas wait for.
fn elect(partition: &PartitionImage, broker: BrokerId) -> Option<PartitionChangeRecord> {
    let mut change = PartitionChangeRecord {
        leader: broker.0,
        ..Default::default()
    };
    match partition.leader {
        Some(leader) if leader == broker => Some(change),
        Some(_) => None,
        None if partition.isr.contains(&broker) => Some(change),
        None if partition.isr.is_empty() && may_recover(partition, broker) => {
            change.isr = Some(vec![broker.0]);
            let elr = partition
                .elr
                .iter()
                .filter(|id| **id != broker)
                .map(|id| id.0)
                .collect();
            change.eligible_leader_replicas = (!partition.elr.is_empty()).then_some(elr);
            change.last_known_elr = (!partition.last_known_elr.is_empty()).then(Vec::new);
            Some(change)
        }
        None => None,
    }
}

fn may_recover(partition: &PartitionImage, broker: BrokerId) -> bool {
    partition.elr.contains(&broker) || partition.replicas == [broker]
}
