//! Changes settings of topics, brokers, the cluster's default and groups: IncrementalAlterConfigs
//! (KIP-339) and the older AlterConfigs, which replaces everything a resource has. A resource's
//! changes are taken whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Controller, Outcome, Refusal, state::bounded, validate_topic_name};
use crate::{
    config::{
        self, Kind, Settings, UpdateMode, Value,
        definitions::{self, Table},
    },
    protocol::{
        ErrorCode, Str,
        messages::{
            AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest,
            IncrementalAlterConfigsResponse, alter_configs_response,
            incremental_alter_configs_response,
        },
        records::metadata::{ConfigRecord, MetadataRecord},
    },
};

/// What settings belong to; the numbers are Kafka's `ConfigResource.Type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i8)]
pub enum ResourceType {
    Unknown = 0,
    Topic = 2,
    Broker = 4,
    BrokerLogger = 8,
    ClientMetrics = 16,
    Group = 32,
}

impl ResourceType {
    pub fn from_code(code: i8) -> ResourceType {
        match code {
            2 => ResourceType::Topic,
            4 => ResourceType::Broker,
            8 => ResourceType::BrokerLogger,
            16 => ResourceType::ClientMetrics,
            32 => ResourceType::Group,
            _ => ResourceType::Unknown,
        }
    }

    pub fn code(self) -> i8 {
        self as i8
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Set,
    Delete,
    Append,
    Subtract,
}

impl Operation {
    fn from_code(code: i8) -> Result<Operation, Refusal> {
        match code {
            0 => Ok(Operation::Set),
            1 => Ok(Operation::Delete),
            2 => Ok(Operation::Append),
            3 => Ok(Operation::Subtract),
            other => Err(invalid_request(format!("Unknown operations type {other}"))),
        }
    }
}

/// The changes asked of one resource.
struct Alteration<'a> {
    kind: i8,
    name: &'a Str,
    /// Setting, operation code, value.
    changes: Vec<(&'a Str, i8, Option<&'a Str>)>,
    /// Settings that are not named are unset.
    replaces_all: bool,
}

fn invalid_request(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, text)
}

fn invalid_config(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidConfig, text)
}

impl Controller {
    pub fn incremental_alter_configs(
        &mut self,
        request: &IncrementalAlterConfigsRequest,
    ) -> Outcome<IncrementalAlterConfigsResponse> {
        let alterations: Vec<Alteration<'_>> = request
            .resources
            .iter()
            .map(|resource| Alteration {
                kind: resource.resource_type,
                name: &resource.resource_name,
                changes: resource
                    .configs
                    .iter()
                    .map(|c| (&c.name, c.config_operation, c.value.as_ref()))
                    .collect(),
                replaces_all: false,
            })
            .collect();
        let (records, results) = self.alter(&alterations);
        let responses = results
            .into_iter()
            .zip(&request.resources)
            .map(|(refusal, resource)| {
                let (error_code, error_message) = told(refusal);
                incremental_alter_configs_response::AlterConfigsResourceResponse {
                    error_code,
                    error_message,
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.clone(),
                }
            })
            .collect();
        let response = IncrementalAlterConfigsResponse {
            responses,
            ..Default::default()
        };
        self.commit_unless(request.validate_only, records, response)
    }

    pub fn alter_configs(
        &mut self,
        request: &AlterConfigsRequest,
    ) -> Outcome<AlterConfigsResponse> {
        let alterations: Vec<Alteration<'_>> = request
            .resources
            .iter()
            .map(|resource| Alteration {
                kind: resource.resource_type,
                name: &resource.resource_name,
                changes: resource
                    .configs
                    .iter()
                    .map(|c| (&c.name, 0, c.value.as_ref()))
                    .collect(),
                replaces_all: true,
            })
            .collect();
        let (records, results) = self.alter(&alterations);
        let responses = results
            .into_iter()
            .zip(&request.resources)
            .map(|(refusal, resource)| {
                let (error_code, error_message) = told(refusal);
                alter_configs_response::AlterConfigsResourceResponse {
                    error_code,
                    error_message,
                    resource_type: resource.resource_type,
                    resource_name: resource.resource_name.clone(),
                }
            })
            .collect();
        let response = AlterConfigsResponse {
            responses,
            ..Default::default()
        };
        self.commit_unless(request.validate_only, records, response)
    }

    /// The records of what is accepted, and for each resource why it is not.
    fn alter(&self, alterations: &[Alteration<'_>]) -> (Vec<MetadataRecord>, Vec<Option<Refusal>>) {
        let mut counts = BTreeMap::new();
        for alteration in alterations {
            *counts
                .entry((alteration.kind, alteration.name))
                .or_insert(0) += 1;
        }
        let mut records = Vec::new();
        let results = alterations
            .iter()
            .map(|alteration| {
                if counts[&(alteration.kind, alteration.name)] > 1 {
                    return Some(invalid_request("Each resource must appear at most once."));
                }
                match self.alter_resource(alteration) {
                    Ok(changed) => {
                        records.extend(changed);
                        None
                    }
                    Err(refusal) => Some(refusal),
                }
            })
            .collect();
        match bounded(&records) {
            Ok(()) => (records, results),
            Err(refusal) => (Vec::new(), vec![Some(refusal); alterations.len()]),
        }
    }

    fn alter_resource(&self, alteration: &Alteration<'_>) -> Result<Vec<MetadataRecord>, Refusal> {
        check_shape(alteration)?;
        let kind = ResourceType::from_code(alteration.kind);
        let table = match kind {
            ResourceType::Topic => definitions::topic(),
            ResourceType::Broker => definitions::broker(),
            ResourceType::Group => definitions::group(),
            ResourceType::BrokerLogger if !alteration.replaces_all => {
                return Err(no_such_logger(alteration));
            }
            ResourceType::Unknown | ResourceType::BrokerLogger | ResourceType::ClientMetrics => {
                return Err(invalid_request(format!(
                    "Unknown resource type {}",
                    alteration.kind
                )));
            }
        };
        if kind == ResourceType::Broker {
            self.check_broker_name(alteration.name)?;
        }
        let current = self
            .image
            .configs(kind, alteration.name)
            .cloned()
            .unwrap_or_default();
        let (wanted, mut named) = apply_changes(alteration, kind, table, &current)?;
        match kind {
            ResourceType::Topic => self.validate_topic(alteration.name, &wanted)?,
            ResourceType::Broker => self.validate_broker(alteration, &current, &wanted, &named)?,
            _ => self.validate_group(alteration.name, &wanted)?,
        }
        if alteration.replaces_all {
            named.extend(current.keys().cloned());
        }
        Ok(named
            .into_iter()
            // Kafka writes a broker's settings again even when unchanged: it makes brokers reload
            // files that a setting names.
            .filter(|name| kind == ResourceType::Broker || current.get(name) != wanted.get(name))
            .map(|name| {
                MetadataRecord::from(ConfigRecord {
                    resource_type: alteration.kind,
                    resource_name: alteration.name.clone(),
                    value: wanted.get(&name).cloned().map(Str::from),
                    name: Str::from(name),
                })
            })
            .collect())
    }

    /// Empty is the cluster's default; else it must be this broker, the only one there is.
    fn check_broker_name(&self, name: &str) -> Result<(), Refusal> {
        if name.is_empty() {
            return Ok(());
        }
        let id: i32 = name.parse().map_err(|_| {
            invalid_request(format!("Node id must be an integer, but it is: {name}"))
        })?;
        let expected = self.config.node_id;
        if id != expected.0 {
            return Err(invalid_request(format!(
                "Unexpected broker id, expected {expected}, but received {name}"
            )));
        }
        Ok(())
    }

    fn validate_topic(&self, name: &str, wanted: &Settings) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(invalid_request("Default topic resources are not allowed."));
        }
        validate_topic_name(name)?;
        self.validate_topic_settings(wanted)?;
        if self.image.topic(name).is_none() {
            return Err(Refusal::new(
                ErrorCode::UnknownTopicOrPartition,
                format!("The topic '{name}' does not exist."),
            ));
        }
        Ok(())
    }

    pub(super) fn validate_topic_settings(&self, settings: &Settings) -> Result<(), Refusal> {
        let dynamic = self.dynamic_configs();
        config::topic::validate(settings, self.config.layers(&dynamic))?;
        Ok(())
    }

    /// Unlike with topics, settings that Kafka does not know are stored: plugins may have them.
    fn validate_broker(
        &self,
        alteration: &Alteration<'_>,
        current: &Settings,
        wanted: &Settings,
        named: &BTreeSet<String>,
    ) -> Result<(), Refusal> {
        let whole_cluster = alteration.name.is_empty();
        let among = |test: &dyn Fn(&str) -> bool| -> Vec<&str> {
            wanted
                .keys()
                .map(String::as_str)
                .filter(|name| test(name))
                .collect()
        };
        let mode = |name: &str| definitions::broker().get(name).map(|d| d.update);
        // Listeners cannot move while this broker runs, though Kafka's can.
        let fixed = among(&|name| mode(name) == Some(UpdateMode::ReadOnly) || name == "listeners");
        let one_broker = among(&|name| mode(name) == Some(UpdateMode::PerBroker));
        let security: Vec<&str> = among(&|name| name.starts_with("ssl."));
        if whole_cluster && one_broker.contains(&"listeners") {
            return Err(invalid_request(format!(
                "Cannot update these configs at default cluster level, broker id must be specified: [{}]",
                one_broker.join(", ")
            )));
        }
        if !fixed.is_empty() {
            return Err(invalid_request(format!(
                "Cannot update these configs dynamically: [{}]",
                fixed.join(", ")
            )));
        }
        if !security.is_empty() {
            return Err(invalid_request(format!(
                "These security configs can be dynamically updated only per-listener using the listener prefix: [{}]",
                security.join(", ")
            )));
        }
        if whole_cluster && !one_broker.is_empty() {
            return Err(invalid_request(format!(
                "Cannot update these configs at default cluster level, broker id must be specified: [{}]",
                one_broker.join(", ")
            )));
        }
        for (name, text) in wanted {
            if let Some(definition) = definitions::broker().get(name.as_str()) {
                definition
                    .parse(text)
                    .map_err(|error| invalid_request(error.to_string()))?;
            }
        }
        self.check_min_insync(whole_cluster, current, wanted, named)
    }

    fn validate_group(&self, name: &str, wanted: &Settings) -> Result<(), Refusal> {
        if name.is_empty() {
            return Err(invalid_request("Default group resources are not allowed."));
        }
        if let Some(unknown) = wanted
            .keys()
            .find(|name| !definitions::group().contains_key(name.as_str()))
        {
            return Err(invalid_config(format!(
                "Unknown group config name: {unknown}"
            )));
        }
        for (name, text) in wanted {
            let value = definitions::group()[name.as_str()].parse(text)?;
            self.check_group_range(name, &value)?;
        }
        for kind in ["consumer", "share", "streams"] {
            self.check_session(kind, wanted)?;
        }
        Ok(())
    }

    /// A session outlasts a heartbeat, whichever of both the group has chosen and which the broker.
    fn check_session(&self, kind: &str, wanted: &Settings) -> Result<(), Refusal> {
        let names =
            ["session.timeout.ms", "heartbeat.interval.ms"].map(|end| format!("{kind}.{end}"));
        if names.iter().all(|name| !wanted.contains_key(name)) {
            return Ok(());
        }
        let dynamic = self.dynamic_configs();
        let layers = self.config.layers(&dynamic);
        let [session, heartbeat] = names.each_ref().map(|name| {
            let own = wanted.get(name).and_then(|text| text.parse().ok());
            own.or_else(|| layers.integer(&format!("group.{name}")))
        });
        match session <= heartbeat {
            true => Err(invalid_config(format!(
                "{} must be greater than {}",
                names[0], names[1]
            ))),
            false => Ok(()),
        }
    }

    /// The broker bounds what a group may choose: `group.consumer.min.x` and `group.consumer.max.x`
    /// for `consumer.x`, where it has them.
    fn check_group_range(&self, name: &str, value: &Value) -> Result<(), Refusal> {
        let (Some((kind, rest)), Value::Integer(value)) = (name.split_once('.'), value) else {
            return Ok(());
        };
        let dynamic = self.dynamic_configs();
        let layers = self.config.layers(&dynamic);
        let bound = |end: &str| {
            let name = format!("group.{kind}.{end}.{rest}");
            definitions::broker()
                .contains_key(name.as_str())
                .then(|| layers.integer(&name))?
        };
        match (bound("min"), bound("max")) {
            (Some(min), Some(max)) if !(min..=max).contains(value) => Err(invalid_config(format!(
                "{name} must be in the range {min} to {max} inclusive."
            ))),
            (None, Some(max)) if *value > max => Err(invalid_config(format!(
                "{name} must be less than or equal to {max}"
            ))),
            _ => Ok(()),
        }
    }

    /// With eligible leader replicas (KIP-966) the whole cluster must agree on the minimum.
    fn check_min_insync(
        &self,
        whole_cluster: bool,
        current: &Settings,
        wanted: &Settings,
        named: &BTreeSet<String>,
    ) -> Result<(), Refusal> {
        const NAME: &str = "min.insync.replicas";
        if self.image.feature("eligible.leader.replicas.version") == 0 {
            return Ok(());
        }
        if !whole_cluster && named.contains(NAME) {
            return Err(invalid_config(
                "Broker-level min.insync.replicas cannot be altered while ELR is enabled.",
            ));
        }
        if whole_cluster && current.contains_key(NAME) && !wanted.contains_key(NAME) {
            return Err(invalid_config(
                "Cluster-level min.insync.replicas cannot be removed while ELR is enabled.",
            ));
        }
        Ok(())
    }
}

/// Loggers are set by the environment when the broker starts; none can be changed here.
fn no_such_logger(alteration: &Alteration<'_>) -> Refusal {
    let logger = alteration
        .changes
        .first()
        .map_or("", |(name, _, _)| &***name);
    invalid_config(format!("Logger {logger} does not exist!"))
}

fn check_shape(alteration: &Alteration<'_>) -> Result<(), Refusal> {
    let mut names = BTreeSet::new();
    if !alteration
        .changes
        .iter()
        .all(|(name, _, _)| names.insert(*name))
    {
        return Err(invalid_request("Error due to duplicate config keys"));
    }
    let delete = 1;
    let unset: Vec<&str> = alteration
        .changes
        .iter()
        .filter(|(_, operation, value)| *operation != delete && value.is_none())
        .map(|(name, _, _)| &***name)
        .collect();
    if !unset.is_empty() {
        return Err(invalid_request(format!(
            "Null value not supported for : {}",
            unset.join(", ")
        )));
    }
    Ok(())
}

/// The resource's settings after the changes, and the names that the changes touch.
fn apply_changes(
    alteration: &Alteration<'_>,
    kind: ResourceType,
    table: &'static Table,
    current: &Arc<Settings>,
) -> Result<(Settings, BTreeSet<String>), Refusal> {
    let mut wanted = match alteration.replaces_all {
        true => Settings::new(),
        false => (**current).clone(),
    };
    let mut named = BTreeSet::new();
    for (name, operation, value) in &alteration.changes {
        let operation = Operation::from_code(*operation)?;
        let value = value.map(|value| &**value).unwrap_or_default();
        named.insert(name.to_string());
        let definition = table.get(&***name);
        match operation {
            Operation::Set => {
                wanted.insert(name.to_string(), value.to_owned());
            }
            Operation::Delete => {
                wanted.remove(&***name);
            }
            Operation::Append | Operation::Subtract => {
                let Some(definition) = definition.filter(|d| d.kind == Kind::List) else {
                    return Err(not_a_list(kind, definition.is_some(), operation, name));
                };
                let old = wanted
                    .get(&***name)
                    .map(String::as_str)
                    .or(definition.default);
                let edited = edit_list(old.unwrap_or_default(), value, operation);
                wanted.insert(name.to_string(), edited);
            }
        }
    }
    Ok((wanted, named))
}

fn edit_list(old: &str, change: &str, operation: Operation) -> String {
    let mut items: Vec<&str> = old.split(',').filter(|item| !item.is_empty()).collect();
    for item in change.split(',') {
        match operation {
            Operation::Append if !items.contains(&item) => items.push(item),
            Operation::Subtract => {
                if let Some(position) = items.iter().position(|old| *old == item) {
                    items.remove(position);
                }
            }
            _ => {}
        }
    }
    items.join(",")
}

fn not_a_list(kind: ResourceType, is_known: bool, operation: Operation, name: &str) -> Refusal {
    let (upper, lower) = match operation {
        Operation::Append => ("APPEND", "append"),
        _ => ("SUBTRACT", "subtract"),
    };
    invalid_config(match (kind, is_known) {
        (ResourceType::Broker, false) => format!("Unknown config name: {name}"),
        (ResourceType::Broker, true) => {
            format!("Config value {lower} is not allowed for config key: {name}")
        }
        _ => format!("Can't {upper} to key {name} because its type is not LIST."),
    })
}

fn told(refusal: Option<Refusal>) -> (i16, Option<Str>) {
    match refusal {
        Some(refusal) => (refusal.code.code(), refusal.message),
        None => (ErrorCode::None.code(), None),
    }
}
