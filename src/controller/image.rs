//! Owns the immutable picture of the cluster that replaying metadata records makes. Cloning is
//! cheap and clones share what they have in common, so every core holds one; who holds a clone
//! never sees it change. It never validates: records were validated before they were written.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    config::{DynamicConfigs, Settings},
    controller::{NO_LEADER, ResourceType},
    ids::{BrokerId, LeaderEpoch, PartitionIndex},
    protocol::{Str, Uuid, records::metadata as records, records::metadata::MetadataRecord},
};

#[derive(Clone, Debug, PartialEq)]
pub struct MetadataImage {
    pub cluster_id: Str,
    /// Offset of the last record applied; -1 before the first.
    pub offset: i64,
    /// Epoch of the controller that wrote it.
    pub epoch: i32,
    features: Arc<BTreeMap<Str, i16>>,
    controllers: Arc<BTreeMap<BrokerId, Arc<ControllerRegistration>>>,
    brokers: Arc<BTreeMap<BrokerId, Arc<BrokerRegistration>>>,
    topics: Arc<BTreeMap<Str, Arc<TopicImage>>>,
    topic_names: Arc<BTreeMap<Uuid, Str>>,
    configs: Arc<BTreeMap<(ResourceType, Str), Arc<Settings>>>,
    /// The first producer id that no broker has been given.
    pub next_producer_id: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopicImage {
    pub name: Str,
    pub id: Uuid,
    /// By index, dense from 0.
    pub partitions: Vec<Arc<PartitionImage>>,
}

#[derive(Clone, Debug, PartialEq, Default)]
pub struct PartitionImage {
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub removing_replicas: Vec<BrokerId>,
    pub adding_replicas: Vec<BrokerId>,
    /// Eligible leader replicas and the last known ones (KIP-966).
    pub elr: Vec<BrokerId>,
    pub last_known_elr: Vec<BrokerId>,
    /// The data folder of each replica, in the order of `replicas` (KIP-858).
    pub directories: Vec<Uuid>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    /// Counts every change of this partition (KIP-497).
    pub partition_epoch: i32,
    pub leader_recovering: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub name: Str,
    pub host: Str,
    pub port: u16,
    pub security_protocol: i16,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BrokerRegistration {
    pub id: BrokerId,
    /// Offset of the record that registered this incarnation.
    pub epoch: i64,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    /// Name to (min, max) level.
    pub features: BTreeMap<Str, (i16, i16)>,
    pub rack: Option<Str>,
    pub fenced: bool,
    pub in_controlled_shutdown: bool,
    pub directories: Vec<Uuid>,
    pub cordoned_directories: Option<Vec<Uuid>>,
}

impl BrokerRegistration {
    /// May lead and be in sync.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    pub fn endpoint(&self, listener: &str) -> Option<&Endpoint> {
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.name == *listener)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ControllerRegistration {
    pub id: BrokerId,
    pub incarnation: Uuid,
    pub endpoints: Vec<Endpoint>,
    pub features: BTreeMap<Str, (i16, i16)>,
}

/// What a run of records changed, so that a core knows what to create, open, retune and delete.
#[derive(Clone, Debug, Default)]
pub struct MetadataDelta {
    /// Every partition that is new or differs, topics that were created included.
    pub changed_partitions: BTreeMap<Uuid, BTreeSet<PartitionIndex>>,
    /// As they were; a topic both created and deleted in the run is in neither map.
    pub deleted_topics: BTreeMap<Uuid, Arc<TopicImage>>,
    /// Names of topics whose own settings changed, new topics included.
    pub changed_topic_configs: BTreeSet<Str>,
    /// A broker's or the cluster's dynamic settings changed: every topic may resolve differently.
    pub broker_configs_changed: bool,
    pub changed_brokers: BTreeSet<BrokerId>,
    pub features_changed: bool,
}

/// A log that cannot be ours: its records contradict each other.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ImageError {
    #[error("a record of type {record} names topic id {topic:?}, which does not exist")]
    UnknownTopic { record: &'static str, topic: Uuid },
    #[error("a record names partition {partition} of topic {topic}, which does not exist")]
    UnknownPartition { topic: Str, partition: i32 },
    #[error("a record of type {record} names broker {broker}, which is not registered")]
    UnknownBroker { record: &'static str, broker: i32 },
    #[error("a record of type {0} belongs to a feature that this version does not have")]
    Unsupported(&'static str),
}

impl MetadataImage {
    pub fn new(cluster_id: Str) -> MetadataImage {
        MetadataImage {
            cluster_id,
            offset: -1,
            epoch: 0,
            features: Arc::default(),
            controllers: Arc::default(),
            brokers: Arc::default(),
            topics: Arc::default(),
            topic_names: Arc::default(),
            configs: Arc::default(),
            next_producer_id: 0,
        }
    }

    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_names.get(&id)?)
    }

    pub fn partition(
        &self,
        topic: &str,
        partition: PartitionIndex,
    ) -> Option<&Arc<PartitionImage>> {
        self.topic(topic)?.partition(partition)
    }

    /// In name order.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// In name order, from `name` on.
    pub fn topics_from(&self, name: &Str) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.range(name.clone()..).map(|(_, topic)| topic)
    }

    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    pub fn partition_count(&self) -> usize {
        self.topics
            .values()
            .map(|topic| topic.partitions.len())
            .sum()
    }

    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    /// Where clients of a listener reach a broker; `None` when they cannot.
    pub fn endpoint_of(&self, id: BrokerId, listener: &str) -> Option<&Endpoint> {
        let broker = self.brokers.get(&id)?;
        broker.endpoint(listener).filter(|_| !broker.fenced)
    }

    /// In id order.
    pub fn brokers(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values()
    }

    /// In id order.
    pub fn controllers(&self) -> impl Iterator<Item = &Arc<ControllerRegistration>> {
        self.controllers.values()
    }

    /// Finalized levels by name; a feature at level 0 is absent.
    pub fn features(&self) -> &BTreeMap<Str, i16> {
        &self.features
    }

    pub fn feature(&self, name: &str) -> i16 {
        self.features.get(name).copied().unwrap_or_default()
    }

    /// What was set for one resource; nothing when nothing was.
    pub fn configs(&self, kind: ResourceType, name: &str) -> Option<&Arc<Settings>> {
        // Str compares as str, but a pair of them cannot be borrowed as a pair.
        self.configs.get(&(kind, Str::copied(name)))
    }

    /// A topic's own settings; empty when it has none.
    pub fn topic_settings(&self, name: &str) -> Arc<Settings> {
        self.configs(ResourceType::Topic, name)
            .cloned()
            .unwrap_or_default()
    }

    /// The dynamic settings that concern one broker.
    pub fn dynamic_configs(&self, broker: BrokerId) -> DynamicConfigs {
        let of = |name: &str| {
            self.configs(ResourceType::Broker, name)
                .map(|settings| (**settings).clone())
                .unwrap_or_default()
        };
        DynamicConfigs {
            broker: of(&broker.to_string()),
            cluster: of(""),
        }
    }

    /// Every resource that has settings, by kind and name.
    pub fn configured(&self) -> impl Iterator<Item = (ResourceType, &Str, &Arc<Settings>)> {
        self.configs
            .iter()
            .map(|((kind, name), settings)| (*kind, name, settings))
    }

    /// Moves past records that carry no metadata, such as a leader change.
    pub fn advance(&mut self, offset: i64) {
        self.offset = offset;
    }

    /// Applies one record that stands at `offset`; what changes is noted in `delta`.
    ///
    /// Errors: the record contradicts the image; the log is not ours or is damaged.
    pub fn apply(
        &mut self,
        record: &MetadataRecord,
        offset: i64,
        delta: &mut MetadataDelta,
    ) -> Result<(), ImageError> {
        self.offset = offset;
        match record {
            MetadataRecord::Topic(record) => self.create_topic(record, delta),
            MetadataRecord::Partition(record) => self.put_partition(record, delta)?,
            MetadataRecord::PartitionChange(record) => self.change_partition(record, delta)?,
            MetadataRecord::RemoveTopic(record) => self.remove_topic(record, delta)?,
            MetadataRecord::Config(record) => self.put_config(record, delta),
            MetadataRecord::FeatureLevel(record) => {
                let features = Arc::make_mut(&mut self.features);
                match record.feature_level {
                    0 => features.remove(&record.name),
                    level => features.insert(record.name.detach(), level),
                };
                delta.features_changed = true;
            }
            MetadataRecord::ProducerIds(record) => {
                self.next_producer_id = record.next_producer_id;
            }
            MetadataRecord::RegisterController(record) => self.register_controller(record),
            MetadataRecord::UnregisterController(record) => {
                Arc::make_mut(&mut self.controllers).remove(&BrokerId(record.controller_id));
            }
            MetadataRecord::RegisterBroker(record) => {
                let registration = BrokerRegistration::from_record(record);
                delta.changed_brokers.insert(registration.id);
                Arc::make_mut(&mut self.brokers).insert(registration.id, Arc::new(registration));
            }
            MetadataRecord::UnregisterBroker(record) => {
                let id = BrokerId(record.broker_id);
                Arc::make_mut(&mut self.brokers).remove(&id);
                delta.changed_brokers.insert(id);
            }
            MetadataRecord::BrokerRegistrationChange(record) => {
                let broker =
                    self.broker_mut(record.broker_id, "BrokerRegistrationChange", delta)?;
                broker.change(record);
            }
            MetadataRecord::FenceBroker(record) => {
                self.broker_mut(record.id, "FenceBroker", delta)?.fenced = true;
            }
            MetadataRecord::UnfenceBroker(record) => {
                self.broker_mut(record.id, "UnfenceBroker", delta)?.fenced = false;
            }
            MetadataRecord::ClearElr(record) => self.clear_elr(&record.topic_name, delta),
            // Transactions of records are resolved by `metadata_log::Replay`; a no-op only moves
            // the offset; the migration state is a remnant of ZooKeeper.
            MetadataRecord::NoOp(_)
            | MetadataRecord::BeginTransaction(_)
            | MetadataRecord::EndTransaction(_)
            | MetadataRecord::AbortTransaction(_)
            | MetadataRecord::ZkMigrationState(_) => {}
            MetadataRecord::DelegationToken(_)
            | MetadataRecord::RemoveDelegationToken(_)
            | MetadataRecord::UserScramCredential(_)
            | MetadataRecord::RemoveUserScramCredential(_)
            | MetadataRecord::ClientQuota(_)
            | MetadataRecord::AccessControlEntry(_)
            | MetadataRecord::RemoveAccessControlEntry(_) => {
                return Err(ImageError::Unsupported(record.name()));
            }
        }
        Ok(())
    }

    fn create_topic(&mut self, record: &records::TopicRecord, delta: &mut MetadataDelta) {
        let name = record.name.detach();
        let topic = TopicImage {
            name: name.clone(),
            id: record.topic_id,
            partitions: Vec::new(),
        };
        Arc::make_mut(&mut self.topics).insert(name.clone(), Arc::new(topic));
        Arc::make_mut(&mut self.topic_names).insert(record.topic_id, name.clone());
        delta.changed_partitions.entry(record.topic_id).or_default();
        delta.changed_topic_configs.insert(name);
    }

    fn topic_mut(&mut self, id: Uuid, record: &'static str) -> Result<&mut TopicImage, ImageError> {
        let unknown = ImageError::UnknownTopic { record, topic: id };
        let name = self.topic_names.get(&id).ok_or(unknown.clone())?;
        let topic = Arc::make_mut(&mut self.topics)
            .get_mut(name)
            .ok_or(unknown)?;
        Ok(Arc::make_mut(topic))
    }

    fn put_partition(
        &mut self,
        record: &records::PartitionRecord,
        delta: &mut MetadataDelta,
    ) -> Result<(), ImageError> {
        let topic = self.topic_mut(record.topic_id, "Partition")?;
        let partition = Arc::new(PartitionImage::from_record(record));
        let position = usize::try_from(record.partition_id).ok();
        match position.map(|position| (position, position.cmp(&topic.partitions.len()))) {
            Some((position, std::cmp::Ordering::Less)) => topic.partitions[position] = partition,
            Some((_, std::cmp::Ordering::Equal)) => topic.partitions.push(partition),
            _ => {
                return Err(ImageError::UnknownPartition {
                    topic: topic.name.clone(),
                    partition: record.partition_id,
                });
            }
        }
        delta.touch(record.topic_id, record.partition_id);
        Ok(())
    }

    fn change_partition(
        &mut self,
        record: &records::PartitionChangeRecord,
        delta: &mut MetadataDelta,
    ) -> Result<(), ImageError> {
        let topic = self.topic_mut(record.topic_id, "PartitionChange")?;
        let unknown = ImageError::UnknownPartition {
            topic: topic.name.clone(),
            partition: record.partition_id,
        };
        let partition = usize::try_from(record.partition_id)
            .ok()
            .and_then(|position| topic.partitions.get_mut(position))
            .ok_or(unknown)?;
        Arc::make_mut(partition).change(record);
        delta.touch(record.topic_id, record.partition_id);
        Ok(())
    }

    fn remove_topic(
        &mut self,
        record: &records::RemoveTopicRecord,
        delta: &mut MetadataDelta,
    ) -> Result<(), ImageError> {
        let unknown = ImageError::UnknownTopic {
            record: "RemoveTopic",
            topic: record.topic_id,
        };
        let name = Arc::make_mut(&mut self.topic_names)
            .remove(&record.topic_id)
            .ok_or(unknown.clone())?;
        let topic = Arc::make_mut(&mut self.topics)
            .remove(&name)
            .ok_or(unknown)?;
        Arc::make_mut(&mut self.configs).remove(&(ResourceType::Topic, name.clone()));
        delta.changed_partitions.remove(&record.topic_id);
        delta.changed_topic_configs.remove(&name);
        delta.deleted_topics.insert(record.topic_id, topic);
        Ok(())
    }

    fn put_config(&mut self, record: &records::ConfigRecord, delta: &mut MetadataDelta) {
        let kind = ResourceType::from_code(record.resource_type);
        let key = (kind, record.resource_name.detach());
        let configs = Arc::make_mut(&mut self.configs);
        let settings = Arc::make_mut(configs.entry(key.clone()).or_default());
        match &record.value {
            Some(value) => settings.insert(record.name.to_string(), value.to_string()),
            None => settings.remove(&*record.name),
        };
        if settings.is_empty() {
            configs.remove(&key);
        }
        match kind {
            ResourceType::Topic => {
                delta.changed_topic_configs.insert(key.1);
            }
            ResourceType::Broker => delta.broker_configs_changed = true,
            _ => {}
        }
    }

    fn register_controller(&mut self, record: &records::RegisterControllerRecord) {
        let registration = ControllerRegistration {
            id: BrokerId(record.controller_id),
            incarnation: record.incarnation_id,
            endpoints: record
                .end_points
                .iter()
                .map(|endpoint| Endpoint {
                    name: endpoint.name.detach(),
                    host: endpoint.host.detach(),
                    port: endpoint.port,
                    security_protocol: endpoint.security_protocol,
                })
                .collect(),
            features: record
                .features
                .iter()
                .map(|f| {
                    (
                        f.name.detach(),
                        (f.min_supported_version, f.max_supported_version),
                    )
                })
                .collect(),
        };
        Arc::make_mut(&mut self.controllers).insert(registration.id, Arc::new(registration));
    }

    fn broker_mut(
        &mut self,
        id: i32,
        record: &'static str,
        delta: &mut MetadataDelta,
    ) -> Result<&mut BrokerRegistration, ImageError> {
        delta.changed_brokers.insert(BrokerId(id));
        Arc::make_mut(&mut self.brokers)
            .get_mut(&BrokerId(id))
            .map(Arc::make_mut)
            .ok_or(ImageError::UnknownBroker { record, broker: id })
    }

    /// Of one topic, or of all when the name is empty.
    fn clear_elr(&mut self, name: &str, delta: &mut MetadataDelta) {
        for (topic_name, topic) in Arc::make_mut(&mut self.topics) {
            if !name.is_empty() && *topic_name != *name {
                continue;
            }
            let topic = Arc::make_mut(topic);
            for (index, partition) in (0..).zip(&mut topic.partitions) {
                if partition.elr.is_empty() && partition.last_known_elr.is_empty() {
                    continue;
                }
                let partition = Arc::make_mut(partition);
                partition.elr.clear();
                partition.last_known_elr.clear();
                delta.touch(topic.id, index);
            }
        }
    }
}

impl MetadataDelta {
    fn touch(&mut self, topic: Uuid, partition: i32) {
        self.changed_partitions
            .entry(topic)
            .or_default()
            .insert(PartitionIndex(partition));
    }

    pub fn is_empty(&self) -> bool {
        self.changed_partitions.is_empty()
            && self.deleted_topics.is_empty()
            && self.changed_topic_configs.is_empty()
            && !self.broker_configs_changed
            && self.changed_brokers.is_empty()
            && !self.features_changed
    }
}

impl TopicImage {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }

    pub fn is_internal(&self) -> bool {
        super::is_internal_topic(&self.name)
    }
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

impl PartitionImage {
    fn from_record(record: &records::PartitionRecord) -> PartitionImage {
        PartitionImage {
            replicas: brokers(&record.replicas),
            isr: brokers(&record.isr),
            removing_replicas: brokers(&record.removing_replicas),
            adding_replicas: brokers(&record.adding_replicas),
            elr: brokers(
                record
                    .eligible_leader_replicas
                    .as_deref()
                    .unwrap_or_default(),
            ),
            last_known_elr: brokers(record.last_known_elr.as_deref().unwrap_or_default()),
            directories: record.directories.clone(),
            leader: (record.leader != NO_LEADER).then_some(BrokerId(record.leader)),
            leader_epoch: LeaderEpoch(record.leader_epoch),
            partition_epoch: record.partition_epoch,
            leader_recovering: record.leader_recovery_state == 1,
        }
    }

    /// Fields that a change leaves out stay. Naming a leader, even the same one, starts a new
    /// leader epoch.
    fn change(&mut self, record: &records::PartitionChangeRecord) {
        const LEADER_UNCHANGED: i32 = -2;
        let replace = |field: &mut Vec<BrokerId>, ids: &Option<Vec<i32>>| {
            if let Some(ids) = ids {
                *field = brokers(ids);
            }
        };
        replace(&mut self.isr, &record.isr);
        replace(&mut self.replicas, &record.replicas);
        replace(&mut self.removing_replicas, &record.removing_replicas);
        replace(&mut self.adding_replicas, &record.adding_replicas);
        replace(&mut self.elr, &record.eligible_leader_replicas);
        replace(&mut self.last_known_elr, &record.last_known_elr);
        if let Some(directories) = &record.directories {
            self.directories.clone_from(directories);
        }
        if record.leader != LEADER_UNCHANGED {
            self.leader = (record.leader != NO_LEADER).then_some(BrokerId(record.leader));
            self.leader_epoch.0 += 1;
        }
        if record.leader_recovery_state >= 0 {
            self.leader_recovering = record.leader_recovery_state == 1;
        }
        self.partition_epoch += 1;
    }
}

impl BrokerRegistration {
    fn from_record(record: &records::RegisterBrokerRecord) -> BrokerRegistration {
        BrokerRegistration {
            id: BrokerId(record.broker_id),
            epoch: record.broker_epoch,
            incarnation: record.incarnation_id,
            endpoints: record
                .end_points
                .iter()
                .map(|endpoint| Endpoint {
                    name: endpoint.name.detach(),
                    host: endpoint.host.detach(),
                    port: endpoint.port,
                    security_protocol: endpoint.security_protocol,
                })
                .collect(),
            features: record
                .features
                .iter()
                .map(|f| {
                    (
                        f.name.detach(),
                        (f.min_supported_version, f.max_supported_version),
                    )
                })
                .collect(),
            rack: record.rack.as_ref().map(Str::detach),
            fenced: record.fenced,
            in_controlled_shutdown: record.in_controlled_shutdown,
            directories: record.log_dirs.clone(),
            cordoned_directories: record.cordoned_log_dirs.clone(),
        }
    }

    /// -1 clears a flag, 1 sets it, 0 leaves it.
    fn change(&mut self, record: &records::BrokerRegistrationChangeRecord) {
        match record.fenced {
            1 => self.fenced = true,
            -1 => self.fenced = false,
            _ => {}
        }
        match record.in_controlled_shutdown {
            1 => self.in_controlled_shutdown = true,
            -1 => self.in_controlled_shutdown = false,
            _ => {}
        }
        if !record.log_dirs.is_empty() {
            self.directories.clone_from(&record.log_dirs);
        }
        if record.cordoned_log_dirs.is_some() {
            self.cordoned_directories
                .clone_from(&record.cordoned_log_dirs);
        }
    }
}
