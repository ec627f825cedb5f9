//! Creates, grows and deletes topics: validation in Kafka's order, then the records that make
//! the change. Each topic of a request succeeds or fails on its own.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BrokerRegistration, Controller, Entropy, NO_LEADER, Outcome, RECORDS_PER_REQUEST_MAX, Refusal,
    ResourceType, TopicImage, placement,
    state::{bounded, collision_form},
};
use crate::{
    config::{Settings, describe},
    ids::BrokerId,
    protocol::{
        ErrorCode, Str, Uuid,
        messages::{
            CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest,
            CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
            create_partitions_request::CreatePartitionsTopic,
            create_partitions_response::CreatePartitionsTopicResult,
            create_topics_request::CreatableTopic,
            create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
            delete_topics_response::DeletableTopicResult,
        },
        records::metadata::{
            ConfigRecord, MetadataRecord, PartitionRecord, RemoveTopicRecord, TopicRecord,
        },
    },
};

const METADATA_TOPIC: &str = "__cluster_metadata";
const TOPIC_NAME_LENGTH_MAX: usize = 249;

/// Topics that brokers keep for themselves; clients may read them but Metadata marks them.
pub fn is_internal_topic(name: &str) -> bool {
    matches!(
        name,
        "__consumer_offsets" | "__transaction_state" | "__share_group_state"
    )
}

/// What a topic may be called; the names are folder names too.
///
/// Errors: the reason in Kafka's words, for INVALID_TOPIC_EXCEPTION.
pub fn validate_topic_name(name: &str) -> Result<(), Refusal> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let reason = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." | ".." => format!("'{name}' is not allowed"),
        // Java counts UTF-16 units; illegal characters are refused either way.
        _ if name.encode_utf16().count() > TOPIC_NAME_LENGTH_MAX => {
            format!(
                "the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
            )
        }
        _ if !name.bytes().all(legal) => format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ),
        _ => return Ok(()),
    };
    Err(Refusal::new(
        ErrorCode::InvalidTopicException,
        format!("Topic name is invalid: {reason}"),
    ))
}

/// A topic about to exist.
pub(super) struct NewTopic {
    settings: Settings,
    /// By partition, preferred leader first.
    replicas: Vec<Vec<BrokerId>>,
}

impl NewTopic {
    pub(super) fn with(settings: Settings) -> NewTopic {
        NewTopic {
            settings,
            replicas: Vec::new(),
        }
    }
}

impl Controller {
    /// CreateTopics (KIP-4, KIP-195 for the described settings, KIP-516 for ids).
    pub fn create_topics(
        &mut self,
        request: &CreateTopicsRequest,
        entropy: &mut Entropy,
    ) -> Outcome<CreateTopicsResponse> {
        let mut records = Vec::new();
        let response = self.check_partition_total(request).and_then(|()| {
            let response = self.plan_topics(request, &mut records, entropy);
            bounded(&records).map(|()| response)
        });
        match response {
            Ok(response) => self.commit_unless(request.validate_only, records, response),
            Err(refusal) => {
                let topics = request
                    .topics
                    .iter()
                    .map(|topic| refused(&topic.name, refusal.clone()))
                    .collect();
                self.commit(
                    Vec::new(),
                    CreateTopicsResponse {
                        topics,
                        ..Default::default()
                    },
                )
            }
        }
    }

    fn check_partition_total(&self, request: &CreateTopicsRequest) -> Result<(), Refusal> {
        let total: usize = request
            .topics
            .iter()
            .map(
                |topic| match (topic.assignments.len(), topic.num_partitions) {
                    (0, -1) => usize::try_from(self.config.num_partitions).unwrap_or_default(),
                    (0, count) => usize::try_from(count).unwrap_or_default(),
                    (assigned, _) => assigned,
                },
            )
            .sum();
        if total > RECORDS_PER_REQUEST_MAX {
            return Err(Refusal::new(
                ErrorCode::PolicyViolation,
                "Excessively large number of partitions per request.",
            ));
        }
        Ok(())
    }

    /// Topics named twice or that nobody may create are answered last, as Kafka does.
    fn plan_topics(
        &self,
        request: &CreateTopicsRequest,
        records: &mut Vec<MetadataRecord>,
        entropy: &mut Entropy,
    ) -> CreateTopicsResponse {
        let mut counts = BTreeMap::<&str, usize>::new();
        for topic in &request.topics {
            *counts.entry(&topic.name).or_default() += 1;
        }
        let mut response = CreateTopicsResponse::default();
        for topic in &request.topics {
            if counts[&*topic.name] > 1 || topic.name == METADATA_TOPIC {
                continue;
            }
            let result = self
                .plan_topic(topic)
                .map(|new| self.create_topic(topic, new, records, entropy));
            let result = match result {
                Ok(Ok(result)) => result,
                Ok(Err(refusal)) | Err(refusal) => refused(&topic.name, refusal),
            };
            response.topics.push(result);
        }
        for (name, count) in counts {
            let reason = match count {
                1 if name != METADATA_TOPIC => continue,
                1 => format!("Creation of internal topic {METADATA_TOPIC} is prohibited."),
                _ => "Duplicate topic name.".to_owned(),
            };
            let refusal = Refusal::new(ErrorCode::InvalidRequest, reason);
            response.topics.push(refused(name, refusal));
        }
        response
    }
    fn plan_topic(&self, topic: &CreatableTopic) -> Result<NewTopic, Refusal> {
        if self.image.topic(&topic.name).is_some() {
            return Err(Refusal::new(
                ErrorCode::TopicAlreadyExists,
                format!("Topic '{}' already exists.", topic.name),
            ));
        }
        let collides = collision_form(&topic.name)
            .and_then(|form| self.colliding.get(&form))
            .and_then(|names| names.first());
        if let Some(existing) = collides {
            return Err(Refusal::new(
                ErrorCode::InvalidTopicException,
                format!(
                    "Topic '{}' collides with existing topic: {existing}",
                    topic.name
                ),
            ));
        }
        validate_topic_name(&topic.name)?;
        let settings = self.creation_settings(topic)?;
        Ok(NewTopic::with(settings))
    }

    fn creation_settings(&self, topic: &CreatableTopic) -> Result<Settings, Refusal> {
        let unset: Vec<&str> = topic
            .configs
            .iter()
            .filter(|config| config.value.is_none())
            .map(|config| &*config.name)
            .collect();
        if !unset.is_empty() {
            return Err(Refusal::new(
                ErrorCode::InvalidConfig,
                format!(
                    "Null value not supported for topic configs: {}",
                    unset.join(",")
                ),
            ));
        }
        let settings: Settings = topic
            .configs
            .iter()
            .filter_map(|config| {
                Some((config.name.to_string(), config.value.as_ref()?.to_string()))
            })
            .collect();
        self.validate_topic_settings(&settings)?;
        Ok(settings)
    }

    pub(super) fn create_topic(
        &self,
        topic: &CreatableTopic,
        mut new: NewTopic,
        records: &mut Vec<MetadataRecord>,
        entropy: &mut Entropy,
    ) -> Result<CreatableTopicResult, Refusal> {
        new.replicas = match topic.assignments.is_empty() {
            true => self.automatic_assignment(topic, entropy)?,
            false => self.manual_assignment(topic)?,
        };
        let topic_id = entropy.uuid();
        records.push(MetadataRecord::from(TopicRecord {
            name: topic.name.clone(),
            topic_id,
        }));
        for (name, value) in &new.settings {
            records.push(MetadataRecord::from(ConfigRecord {
                resource_type: ResourceType::Topic.code(),
                resource_name: topic.name.clone(),
                name: Str::from(name.clone()),
                value: Some(Str::from(value.clone())),
            }));
        }
        for (partition, replicas) in (0..).zip(&new.replicas) {
            records.push(self.partition_record(topic_id, partition, replicas));
        }
        let described =
            describe::created_topic(&new.settings, &self.config, &self.dynamic_configs());
        Ok(CreatableTopicResult {
            name: topic.name.clone(),
            topic_id,
            error_code: ErrorCode::None.code(),
            error_message: None,
            topic_config_error_code: ErrorCode::None.code(),
            num_partitions: i32::try_from(new.replicas.len()).unwrap_or(i32::MAX),
            replication_factor: new
                .replicas
                .first()
                .map_or(-1, |replicas| replication(replicas)),
            configs: Some(
                described
                    .into_iter()
                    .map(|entry| CreatableTopicConfigs {
                        name: entry.name.into(),
                        value: entry.value.map(Str::from),
                        read_only: false,
                        config_source: entry.source as i8,
                        is_sensitive: false,
                    })
                    .collect(),
            ),
        })
    }

    fn automatic_assignment(
        &self,
        topic: &CreatableTopic,
        entropy: &mut Entropy,
    ) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let default = |given: i32, default: i32| if given == -1 { default } else { given };
        let replicas = default(
            topic.replication_factor.into(),
            self.config.default_replication_factor.into(),
        );
        let replicas = usize::try_from(replicas)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                Refusal::new(
                    ErrorCode::InvalidReplicationFactor,
                    "Replication factor must be larger than 0, or -1 to use the default value.",
                )
            })?;
        let partitions = default(topic.num_partitions, self.config.num_partitions);
        let partitions = usize::try_from(partitions)
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| {
                Refusal::new(
                    ErrorCode::InvalidPartitions,
                    "Number of partitions was set to an invalid non-positive value.",
                )
            })?;
        placement::place(self.usable_brokers(), partitions, replicas, entropy).map_err(|refusal| {
            let reason = refusal.message.unwrap_or_default();
            Refusal::new(
                refusal.code,
                format!("Unable to replicate the partition {replicas} time(s): {reason}"),
            )
        })
    }

    fn usable_brokers(&self) -> impl Iterator<Item = &BrokerRegistration> {
        self.image.brokers().map(|broker| &**broker)
    }

    fn manual_assignment(&self, topic: &CreatableTopic) -> Result<Vec<Vec<BrokerId>>, Refusal> {
        let invalid = |text: &str| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        if topic.replication_factor != -1 {
            return invalid(
                "A manual partition assignment was specified, but replication factor was not set to -1.",
            );
        }
        if topic.num_partitions != -1 {
            return invalid(
                "A manual partition assignment was specified, but numPartitions was not set to -1.",
            );
        }
        let mut assigned = BTreeMap::new();
        let mut replication_factor = None;
        for assignment in &topic.assignments {
            let partition = assignment.partition_index;
            if assigned.contains_key(&partition) {
                return Err(Refusal::new(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Found multiple manual partition assignments for partition {partition}"
                    ),
                ));
            }
            let replicas =
                self.check_assignment(partition, &assignment.broker_ids, replication_factor)?;
            replication_factor = Some(replicas.len());
            assigned.insert(partition, replicas);
        }
        if !(0..)
            .zip(assigned.keys())
            .all(|(expected, found)| expected == *found)
        {
            return Err(Refusal::new(
                ErrorCode::InvalidReplicaAssignment,
                "partitions should be a consecutive 0-based integer sequence",
            ));
        }
        Ok(assigned.into_values().collect())
    }

    fn check_assignment(
        &self,
        partition: i32,
        broker_ids: &[i32],
        replication_factor: Option<usize>,
    ) -> Result<Vec<BrokerId>, Refusal> {
        let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidReplicaAssignment, text));
        if broker_ids.is_empty() {
            return invalid(
                "The manual partition assignment includes an empty replica list.".into(),
            );
        }
        let mut seen = BTreeSet::new();
        let mut sorted = broker_ids.to_vec();
        sorted.sort_unstable();
        for id in sorted {
            if self.image.broker(BrokerId(id)).is_none() {
                return invalid(format!(
                    "The manual partition assignment includes broker {id}, but no such broker is registered."
                ));
            }
            if !seen.insert(id) {
                return invalid(format!(
                    "The manual partition assignment includes the broker {id} more than once."
                ));
            }
        }
        if let Some(expected) = replication_factor.filter(|count| *count != broker_ids.len()) {
            return invalid(format!(
                "The manual partition assignment includes a partition with {} replica(s), but this \
                 is not consistent with previous partitions, which have {expected} replica(s).",
                broker_ids.len()
            ));
        }
        let replicas: Vec<BrokerId> = broker_ids.iter().copied().map(BrokerId).collect();
        if self.in_sync(&replicas).is_empty() {
            return invalid(format!(
                "All brokers specified in the manual partition assignment for partition {partition} \
                 are fenced or in controlled shutdown."
            ));
        }
        Ok(replicas)
    }

    /// The replicas that start in sync: those on brokers that are up.
    fn in_sync(&self, replicas: &[BrokerId]) -> Vec<i32> {
        let active = |id: &&BrokerId| {
            self.image
                .broker(**id)
                .is_some_and(|broker| broker.is_active())
        };
        replicas.iter().filter(active).map(|id| id.0).collect()
    }

    fn partition_record(
        &self,
        topic_id: Uuid,
        partition: i32,
        replicas: &[BrokerId],
    ) -> MetadataRecord {
        let isr = self.in_sync(replicas);
        MetadataRecord::from(PartitionRecord {
            partition_id: partition,
            topic_id,
            replicas: replicas.iter().map(|id| id.0).collect(),
            leader: isr.first().copied().unwrap_or(NO_LEADER),
            isr,
            leader_epoch: 0,
            partition_epoch: 0,
            directories: replicas
                .iter()
                .map(|id| self.default_directory(*id))
                .collect(),
            ..Default::default()
        })
    }

    /// A broker with one data folder puts new replicas there; with several it chooses itself and
    /// tells later (KIP-858), meanwhile the folder is unassigned.
    fn default_directory(&self, broker: BrokerId) -> Uuid {
        match self
            .image
            .broker(broker)
            .map(|broker| broker.directories.as_slice())
        {
            Some([only]) => *only,
            _ => Uuid::ZERO,
        }
    }

    /// DeleteTopics (KIP-516 for ids). `version` tells how a refusal of the whole is worded.
    pub fn delete_topics(
        &mut self,
        request: &DeleteTopicsRequest,
        version: i16,
    ) -> Outcome<DeleteTopicsResponse> {
        let mut wanted: Vec<(Option<Str>, Uuid)> = request
            .topics
            .iter()
            .map(|topic| (topic.name.clone(), topic.topic_id))
            .collect();
        wanted.extend(
            request
                .topic_names
                .iter()
                .map(|name| (Some(name.clone()), Uuid::ZERO)),
        );
        let mut records = Vec::new();
        let mut response = DeleteTopicsResponse::default();
        let mut answered = BTreeSet::new();
        for (name, id) in &wanted {
            let twice = wanted
                .iter()
                .filter(|other| **other == (name.clone(), *id))
                .count()
                > 1;
            if twice && !answered.insert((name.clone(), *id)) {
                continue;
            }
            // Asked for by its name as well: that entry answers for both.
            let by_name =
                |topic: &TopicImage| wanted.contains(&(Some(topic.name.clone()), Uuid::ZERO));
            if name.is_none()
                && self
                    .image
                    .topic_by_id(*id)
                    .is_some_and(|topic| by_name(topic))
            {
                continue;
            }
            let found = match self.config.delete_topics {
                true => self.find_deletable(name.as_ref(), *id, twice, &wanted),
                false => Err(deletion_disabled(version)),
            };
            if let Ok(topic) = &found {
                records.push(MetadataRecord::from(RemoveTopicRecord {
                    topic_id: topic.id,
                }));
            }
            response.responses.push(match found {
                Ok(topic) => DeletableTopicResult {
                    name: Some(topic.name.clone()),
                    topic_id: topic.id,
                    error_code: ErrorCode::None.code(),
                    error_message: None,
                },
                Err(refusal) => DeletableTopicResult {
                    name: name.clone(),
                    topic_id: self.supplied_id(name.as_ref(), *id, &wanted),
                    error_code: refusal.code.code(),
                    error_message: refusal.message,
                },
            });
        }
        self.commit(records, response)
    }

    /// The id that the request gave a topic in whatever entry.
    fn supplied_id(&self, name: Option<&Str>, id: Uuid, wanted: &[(Option<Str>, Uuid)]) -> Uuid {
        name.and_then(|name| self.image.topic(name))
            .filter(|topic| wanted.contains(&(None, topic.id)))
            .map_or(id, |topic| topic.id)
    }

    fn find_deletable(
        &self,
        name: Option<&Str>,
        id: Uuid,
        twice: bool,
        wanted: &[(Option<Str>, Uuid)],
    ) -> Result<&TopicImage, Refusal> {
        let invalid = |text: &str| Err(Refusal::new(ErrorCode::InvalidRequest, text));
        match name {
            None if id.is_zero() => invalid("Neither topic name nor id were specified."),
            Some(_) if !id.is_zero() => {
                invalid("You may not specify both topic name and topic id.")
            }
            None if twice => invalid("Duplicate topic id."),
            Some(_) if twice => invalid("Duplicate topic name."),
            None => match self.image.topic_by_id(id) {
                Some(topic) => Ok(topic),
                None => Err(Refusal::plain(ErrorCode::UnknownTopicId)),
            },
            Some(name) => match self.image.topic(name) {
                Some(topic) if wanted.contains(&(None, topic.id)) => {
                    invalid("The provided topic name maps to an ID that was already supplied.")
                }
                Some(topic) => Ok(topic),
                None => Err(Refusal::plain(ErrorCode::UnknownTopicOrPartition)),
            },
        }
    }

    /// CreatePartitions (KIP-195).
    pub fn create_partitions(
        &mut self,
        request: &CreatePartitionsRequest,
        entropy: &mut Entropy,
    ) -> Outcome<CreatePartitionsResponse> {
        let mut records = Vec::new();
        let mut results = Vec::new();
        let mut seen = BTreeSet::new();
        for topic in &request.topics {
            let twice = request
                .topics
                .iter()
                .filter(|other| other.name == topic.name)
                .count()
                > 1;
            if !seen.insert(&topic.name) {
                continue;
            }
            let outcome = match twice {
                true => Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "Duplicate topic name.",
                )),
                false => self.grow_topic(topic, &mut records, entropy),
            };
            results.push(grown(&topic.name, outcome.err()));
        }
        let refusal = self
            .check_additional_total(request)
            .and_then(|()| bounded(&records))
            .err();
        if let Some(refusal) = refusal {
            records.clear();
            results = seen
                .into_iter()
                .map(|name| grown(name, Some(refusal.clone())))
                .collect();
        }
        let response = CreatePartitionsResponse {
            results,
            ..Default::default()
        };
        self.commit_unless(request.validate_only, records, response)
    }

    fn check_additional_total(&self, request: &CreatePartitionsRequest) -> Result<(), Refusal> {
        let additional: usize = request
            .topics
            .iter()
            .filter_map(|topic| {
                let existing = self.image.topic(&topic.name)?.partitions.len();
                usize::try_from(topic.count).ok()?.checked_sub(existing)
            })
            .sum();
        if additional > RECORDS_PER_REQUEST_MAX {
            return Err(Refusal::new(
                ErrorCode::PolicyViolation,
                "Excessively large number of additional partitions per request.",
            ));
        }
        Ok(())
    }

    fn grow_topic(
        &self,
        request: &CreatePartitionsTopic,
        records: &mut Vec<MetadataRecord>,
        entropy: &mut Entropy,
    ) -> Result<(), Refusal> {
        let topic = self
            .image
            .topic(&request.name)
            .ok_or_else(|| Refusal::plain(ErrorCode::UnknownTopicOrPartition))?;
        let existing = topic.partitions.len();
        let wanted = usize::try_from(request.count).unwrap_or_default();
        let invalid = |text: String| Err(Refusal::new(ErrorCode::InvalidPartitions, text));
        if wanted == existing {
            return invalid(format!("Topic already has {existing} partition(s)."));
        }
        if wanted < existing {
            return invalid(format!(
                "The topic {} currently has {existing} partition(s); {} would not be an increase.",
                topic.name, request.count
            ));
        }
        let additional = wanted - existing;
        if additional > RECORDS_PER_REQUEST_MAX {
            // The whole request is refused for it.
            return Ok(());
        }
        let replication_factor = topic.partitions[0].replicas.len();
        let assigned = match &request.assignments {
            Some(assignments) if assignments.len() != additional => {
                return Err(Refusal::new(
                    ErrorCode::InvalidReplicaAssignment,
                    format!(
                        "Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.",
                        assignments.len()
                    ),
                ));
            }
            Some(assignments) => (existing..)
                .zip(assignments)
                .map(|(partition, assignment)| {
                    let partition = i32::try_from(partition).unwrap_or(i32::MAX);
                    self.check_assignment(
                        partition,
                        &assignment.broker_ids,
                        Some(replication_factor),
                    )
                })
                .collect::<Result<Vec<_>, _>>()?,
            None => placement::place(
                self.usable_brokers(),
                additional,
                replication_factor,
                entropy,
            )?,
        };
        for (partition, replicas) in (existing..).zip(&assigned) {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            records.push(self.partition_record(topic.id, partition, replicas));
        }
        Ok(())
    }
}

fn replication(replicas: &[BrokerId]) -> i16 {
    i16::try_from(replicas.len()).unwrap_or(i16::MAX)
}

fn refused(name: &str, refusal: Refusal) -> CreatableTopicResult {
    CreatableTopicResult {
        name: Str::copied(name),
        error_code: refusal.code.code(),
        error_message: refusal.message,
        ..Default::default()
    }
}

fn grown(name: &Str, refusal: Option<Refusal>) -> CreatePartitionsTopicResult {
    let code = refusal
        .as_ref()
        .map_or(ErrorCode::None, |refusal| refusal.code);
    CreatePartitionsTopicResult {
        name: name.clone(),
        error_code: code.code(),
        error_message: refusal.and_then(|refusal| refusal.message),
    }
}

/// TOPIC_DELETION_DISABLED exists since version 3 of DeleteTopics.
fn deletion_disabled(version: i16) -> Refusal {
    match version {
        ..3 => Refusal::new(ErrorCode::InvalidRequest, "Topic deletion is disabled."),
        _ => Refusal::plain(ErrorCode::TopicDeletionDisabled),
    }
}
