//! Owns the typed settings of one broker: what this program uses of them, checked together once
//! at start. Settings that may change while it runs are read through `layers` or `topic` instead.

use std::net::IpAddr;
use std::path::PathBuf;

use coati_tuning::profile::Profile;

use super::{
    AdminListener, ConfigError, DynamicConfigs, Layers, Listener, Settings, TopicConfig, Value,
    admin, definitions,
    listener::{self, SecurityProtocol},
};
use crate::coordinator;
use crate::coordinator::consumer::assignor::Assignor;
use crate::coordinator::{Bounded, ConsumerSettings};
use crate::ids::BrokerId;
use crate::protocol::compression::Codec;

#[derive(Clone, Debug)]
pub struct BrokerConfig {
    pub node_id: BrokerId,
    pub rack: Option<String>,
    /// Those for clients; controllers' own listeners are not among them.
    pub listeners: Vec<Listener>,
    pub advertised_listeners: Vec<Listener>,
    pub data_dir: PathBuf,
    /// `None` uses every core.
    pub cores: Option<usize>,
    /// What each core is for; `None` is the same for all.
    pub profile: Option<Profile>,
    /// `None` has no admin endpoint.
    pub admin: Option<AdminListener>,

    pub num_partitions: i32,
    pub default_replication_factor: i16,
    pub auto_create_topics: bool,
    pub delete_topics: bool,

    pub initial_task_delay_ms: u64,
    pub retention_check_interval_ms: u64,
    pub recovery_point_checkpoint_interval_ms: u64,
    pub log_start_checkpoint_interval_ms: u64,
    pub high_watermark_checkpoint_interval_ms: u64,
    pub snapshot_after_bytes: u64,

    pub socket_request_max_bytes: usize,
    /// `None`, also when not given, leaves it to the kernel: Kafka's default holds every connection to 100 KB on the way.
    pub socket_send_buffer_bytes: Option<usize>,
    pub socket_receive_buffer_bytes: Option<usize>,
    /// `None` when not given: Kafka's default is too small for thousands that connect at once.
    pub socket_listen_backlog: Option<i32>,
    /// `None` never closes an idle connection.
    pub connections_max_idle_ms: Option<u64>,
    pub max_connections: usize,
    pub max_connections_per_ip: usize,
    pub max_connections_per_ip_overrides: Vec<(IpAddr, usize)>,
    /// `None` leaves the bound to the program's own limits.
    pub queued_max_request_bytes: Option<usize>,
    /// Of all cores.
    pub tail_cache_bytes: usize,
    pub fetch_max_bytes: usize,
    pub fetch_session_slots: usize,
    pub describe_partitions_max: usize,

    pub producer_id_expiration_ms: i64,
    pub offsets_topic_partitions: i32,
    /// `None` when not given: as many as Kafka's default and the brokers allow.
    pub offsets_topic_replication_factor: Option<i16>,
    pub offsets_topic_segment_bytes: i32,
    pub offsets_topic_codec: Codec,
    pub groups: coordinator::Settings,
    pub cleaner: CleanerSettings,
    pub transaction_topic_partitions: i32,
    pub transaction_topic_replication_factor: i16,

    /// What was given, by name: the static layer below the dynamic ones.
    pub given: Settings,
}

impl BrokerConfig {
    pub(super) fn from_settings(given: Settings) -> Result<BrokerConfig, ConfigError> {
        for (name, text) in &given {
            if let Some(definition) = definitions::broker().get(name.as_str()) {
                definition.parse(text)?;
            }
        }
        BrokerConfig::resolve(given, &DynamicConfigs::default())
    }

    /// The same broker with what was set dynamically since it started. Settings that cannot
    /// change at run time keep their values, as they are refused when they are set.
    pub fn reconfigured(&self, dynamic: &DynamicConfigs) -> Result<BrokerConfig, ConfigError> {
        BrokerConfig::resolve(self.given.clone(), dynamic)
    }

    fn resolve(given: Settings, dynamic: &DynamicConfigs) -> Result<BrokerConfig, ConfigError> {
        let values = Values(Layers {
            given: &given,
            dynamic,
        });
        let (listeners, advertised_listeners) = listeners(&values)?;
        let node_id = match given.contains_key("node.id") {
            true => values.number("node.id"),
            false => values.number("broker.id"),
        };
        let if_given = |name: &str| {
            let is_given = given.contains_key(name);
            is_given.then(|| values.unless_negative(name)).flatten()
        };
        let config = BrokerConfig {
            node_id: BrokerId(node_id),
            rack: values.text("broker.rack"),
            listeners,
            advertised_listeners,
            data_dir: data_dir(&values)?,
            cores: given.contains_key("cores").then(|| values.number("cores")),
            profile: None,
            admin: admin::parse(
                &values.text("admin.listener").unwrap_or_default(),
                given.contains_key("admin.listener"),
            )?,
            num_partitions: values.number("num.partitions"),
            default_replication_factor: values.number("default.replication.factor"),
            auto_create_topics: values.truth("auto.create.topics.enable"),
            delete_topics: values.truth("delete.topic.enable"),
            initial_task_delay_ms: values.number("log.initial.task.delay.ms"),
            retention_check_interval_ms: values.number("log.retention.check.interval.ms"),
            recovery_point_checkpoint_interval_ms: values
                .number("log.flush.offset.checkpoint.interval.ms"),
            log_start_checkpoint_interval_ms: values
                .number("log.flush.start.offset.checkpoint.interval.ms"),
            high_watermark_checkpoint_interval_ms: values
                .number("replica.high.watermark.checkpoint.interval.ms"),
            snapshot_after_bytes: values.number("metadata.log.max.record.bytes.between.snapshots"),
            socket_request_max_bytes: values.number("socket.request.max.bytes"),
            socket_send_buffer_bytes: if_given("socket.send.buffer.bytes"),
            socket_receive_buffer_bytes: if_given("socket.receive.buffer.bytes"),
            socket_listen_backlog: given
                .contains_key("socket.listen.backlog.size")
                .then(|| values.number("socket.listen.backlog.size")),
            connections_max_idle_ms: values.unless_negative("connections.max.idle.ms"),
            max_connections: values.number("max.connections"),
            max_connections_per_ip: values.number("max.connections.per.ip"),
            max_connections_per_ip_overrides: connections_by_address(&values)?,
            queued_max_request_bytes: values.unless_negative("queued.max.request.bytes"),
            tail_cache_bytes: values.number("log.tail.cache.bytes"),
            fetch_max_bytes: values.number("fetch.max.bytes"),
            fetch_session_slots: values.number("max.incremental.fetch.session.cache.slots"),
            describe_partitions_max: values.number("max.request.partition.size.limit"),
            producer_id_expiration_ms: values.number("producer.id.expiration.ms"),
            offsets_topic_partitions: values.number("offsets.topic.num.partitions"),
            offsets_topic_replication_factor: given
                .contains_key("offsets.topic.replication.factor")
                .then(|| values.number("offsets.topic.replication.factor")),
            offsets_topic_segment_bytes: values.number("offsets.topic.segment.bytes"),
            offsets_topic_codec: codec(&values, "offsets.topic.compression.codec")?,
            groups: groups(&values)?,
            cleaner: cleaner(&values)?,
            transaction_topic_partitions: values.number("transaction.state.log.num.partitions"),
            transaction_topic_replication_factor: values
                .number("transaction.state.log.replication.factor"),
            given: Settings::new(),
        };
        let config = BrokerConfig { given, ..config };
        config.check()?;
        Ok(config)
    }

    /// Rules between settings.
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |text: String| Err(ConfigError::Invalid(text));
        for name in [
            "log.retention.ms",
            "log.retention.minutes",
            "log.retention.hours",
        ] {
            if self.given.get(name).is_some_and(|text| text.trim() == "0") {
                return refuse(format!(
                    "{name} must be unlimited (-1) or, equal or greater than 1"
                ));
            }
        }
        if self
            .queued_max_request_bytes
            .is_some_and(|queued| queued > 0 && queued < self.socket_request_max_bytes)
        {
            return refuse(
                "queued.max.request.bytes must be larger or equal to socket.request.max.bytes"
                    .into(),
            );
        }
        Ok(())
    }

    /// From now on the profile says which cores there are.
    pub fn use_profile(&mut self, profile: Profile) -> Result<(), ConfigError> {
        if let Some(cores) = self.cores {
            return Err(ConfigError::Invalid(format!(
                "--profile and --cores {cores} contradict each other: a profile says which cores there are; leave out one of the two"
            )));
        }
        self.profile = Some(profile);
        Ok(())
    }

    /// The static layer alone, as topics see it before anything is set dynamically.
    pub fn static_topic_config(&self) -> TopicConfig {
        self.topic_config(&Settings::new(), &DynamicConfigs::default())
    }

    /// A topic's settings: its own over the dynamic ones over this broker's.
    pub fn topic_config(&self, overrides: &Settings, dynamic: &DynamicConfigs) -> TopicConfig {
        TopicConfig::resolve(overrides, self.layers(dynamic))
    }

    pub fn layers<'a>(&'a self, dynamic: &'a DynamicConfigs) -> Layers<'a> {
        Layers {
            given: &self.given,
            dynamic,
        }
    }
}

impl BrokerConfig {
    /// What coordinators are told, with what was set since the broker started. What has become impossible by then does
    /// not count.
    pub fn groups_with(&self, dynamic: &DynamicConfigs) -> coordinator::Settings {
        let groups = groups(&Values(self.layers(dynamic)));
        groups.unwrap_or_else(|_| self.groups.clone())
    }

    /// What cleaners are told, likewise.
    pub fn cleaner_with(&self, dynamic: &DynamicConfigs) -> CleanerSettings {
        cleaner(&Values(self.layers(dynamic))).unwrap_or(self.cleaner)
    }
}

/// How logs are compacted (`log.cleaner.*`).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CleanerSettings {
    pub is_enabled: bool,
    pub backoff_ms: u64,
    /// Of the whole broker.
    pub dedupe_bytes: usize,
    pub load_factor: f64,
    /// Read and written, of the whole broker.
    pub bytes_per_second: f64,
}

fn cleaner(values: &Values<'_>) -> Result<CleanerSettings, ConfigError> {
    let threads: usize = values.number("log.cleaner.threads");
    let settings = CleanerSettings {
        is_enabled: values.truth("log.cleaner.enable"),
        backoff_ms: values.number("log.cleaner.backoff.ms"),
        dedupe_bytes: values.number("log.cleaner.dedupe.buffer.size"),
        load_factor: values.fraction("log.cleaner.io.buffer.load.factor"),
        bytes_per_second: values.fraction("log.cleaner.io.max.bytes.per.second"),
    };
    if settings.dedupe_bytes / threads.max(1) < 1 << 20 {
        let reason = "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.";
        return Err(ConfigError::Invalid(reason.into()));
    }
    Ok(settings)
}

/// Compression types by the numbers they have in batches.
fn codec(values: &Values<'_>, name: &str) -> Result<Codec, ConfigError> {
    let id: i16 = values.number(name);
    Codec::from_id(id).ok_or_else(|| {
        ConfigError::Invalid(format!(
            "{name}={id}: 0 is none, 1 gzip, 2 snappy, 3 lz4, 4 zstd"
        ))
    })
}

fn groups(values: &Values<'_>) -> Result<coordinator::Settings, ConfigError> {
    let retention_minutes: i64 = values.number("offsets.retention.minutes");
    Ok(coordinator::Settings {
        initial_rebalance_delay_ms: values.number("group.initial.rebalance.delay.ms"),
        session_timeout_min_ms: values.number("group.min.session.timeout.ms"),
        session_timeout_max_ms: values.number("group.max.session.timeout.ms"),
        group_size_max: values.number("group.max.size"),
        members_bytes_max: values.number("group.members.max.bytes"),
        commit_timeout_ms: values.number("offsets.commit.timeout.ms"),
        offset_metadata_max: values.number("offset.metadata.max.bytes"),
        offsets_retention_ms: retention_minutes * 60_000,
        retention_check_interval_ms: values.number("offsets.retention.check.interval.ms"),
        consumer: consumer_groups(values)?,
        ..coordinator::Settings::default()
    })
}

fn consumer_groups(values: &Values<'_>) -> Result<ConsumerSettings, ConfigError> {
    let setting = |name: &str| format!("group.consumer.{name}");
    let bounded = |name: &str| {
        let bounds = Bounded {
            default: values.number(&setting(name)),
            min: values.number(&setting(&format!("min.{name}"))),
            max: values.number(&setting(&format!("max.{name}"))),
        };
        match (bounds.min..=bounds.max).contains(&bounds.default) {
            true => Ok(bounds),
            false => Err(ConfigError::Invalid(format!(
                "group.consumer.{name}={} must be from group.consumer.min.{name}={} to group.consumer.max.{name}={}",
                bounds.default, bounds.min, bounds.max
            ))),
        }
    };
    let names = values.list(&setting("assignors"));
    let assignors = names.iter().map(|name| {
        Assignor::from_name(name).ok_or_else(|| {
            ConfigError::Invalid(format!(
                "group.consumer.assignors: {name} is neither uniform nor range, and Java classes cannot be loaded"
            ))
        })
    });
    let assignors: Vec<Assignor> = assignors.collect::<Result<_, _>>()?;
    if assignors.is_empty() {
        let reason = "group.consumer.assignors must name at least one assignor";
        return Err(ConfigError::Invalid(reason.into()));
    }
    let policy = values
        .text(&setting("migration.policy"))
        .unwrap_or_default();
    let policy = policy.to_ascii_lowercase();
    let protocols = values.list("group.coordinator.rebalance.protocols");
    let settings = ConsumerSettings {
        is_served: protocols.iter().any(|protocol| protocol == "consumer"),
        assignors,
        group_size_max: values.number(&setting("max.size")),
        may_upgrade: matches!(policy.as_str(), "upgrade" | "bidirectional"),
        may_downgrade: matches!(policy.as_str(), "downgrade" | "bidirectional"),
        regex_refresh_interval_ms: values.number(&setting("regex.refresh.interval.ms")),
        session_timeout_ms: bounded("session.timeout.ms")?,
        heartbeat_interval_ms: bounded("heartbeat.interval.ms")?,
        assignment_interval_ms: bounded("assignment.interval.ms")?,
    };
    if settings.heartbeat_interval_ms.default >= settings.session_timeout_ms.default {
        let reason = "group.consumer.heartbeat.interval.ms must be less than group.consumer.session.timeout.ms";
        return Err(ConfigError::Invalid(reason.into()));
    }
    Ok(settings)
}

/// `max.connections.per.ip.overrides`: addresses, each with `:` and a number behind it.
fn connections_by_address(values: &Values<'_>) -> Result<Vec<(IpAddr, usize)>, ConfigError> {
    let name = "max.connections.per.ip.overrides";
    let text = values.text(name).unwrap_or_default();
    let items = text.split(',').map(str::trim);
    let parsed = items.filter(|item| !item.is_empty()).map(|item| {
        let (address, max) = item.rsplit_once(':')?;
        let address = address.trim_matches(['[', ']']).parse().ok()?;
        Some((address, max.trim().parse().ok()?))
    });
    parsed.collect::<Option<_>>().ok_or_else(|| {
        ConfigError::Invalid(format!(
            "{name}={text}: each item is an IP address, a colon and a number; names are not looked up"
        ))
    })
}

fn data_dir(values: &Values<'_>) -> Result<PathBuf, ConfigError> {
    let mut folders = values.list("log.dirs");
    if folders.is_empty() {
        folders = values.list("log.dir");
    }
    match folders.as_slice() {
        [folder] => Ok(PathBuf::from(folder)),
        _ => Err(ConfigError::Invalid(format!(
            "log.dirs names {} folders; Coati keeps its data in one for now",
            folders.len()
        ))),
    }
}

fn listeners(values: &Values<'_>) -> Result<(Vec<Listener>, Vec<Listener>), ConfigError> {
    let protocols = values.list("listener.security.protocol.map");
    let controllers = values.list("controller.listener.names");
    let for_clients = |list: Vec<String>| {
        let list: Vec<String> = list
            .into_iter()
            .filter(|text| {
                let name = text.split_once("://").map_or("", |(name, _)| name);
                !controllers.iter().any(|c| c.eq_ignore_ascii_case(name))
            })
            .collect();
        listener::parse(&list, &protocols)
    };
    let listeners = for_clients(values.list("listeners"))?;
    let advertised = for_clients(values.list("advertised.listeners"))?;
    let refuse = |text: String| Err(ConfigError::Invalid(text));
    if listeners.is_empty() {
        return refuse("listeners names no listener for clients".into());
    }
    if let Some(listener) = listeners
        .iter()
        .find(|l| l.protocol != SecurityProtocol::Plaintext)
    {
        return refuse(format!(
            "listener {} asks for {:?}; only PLAINTEXT works for now",
            listener.name, listener.protocol
        ));
    }
    for told in &advertised {
        if !listeners.iter().any(|listener| listener.name == told.name) {
            return refuse(format!(
                "advertised.listeners names {}, which is not among listeners",
                told.name
            ));
        }
        if told.host == "0.0.0.0" {
            return refuse(
                "advertised.listeners cannot use the nonroutable meta-address 0.0.0.0. Use a routable IP address."
                    .into(),
            );
        }
    }
    Ok((listeners, advertised))
}

/// Typed reads of the static layer. The table and `from_settings` vouch for the types, so a wrong
/// name or type here is a mistake of ours.
struct Values<'a>(Layers<'a>);

impl Values<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let definition = definitions::broker()
            .get(name)
            .unwrap_or_else(|| panic!("no broker setting {name}"));
        self.0.value_or_default(definition)
    }

    fn number<T: TryFrom<i64>>(&self, name: &str) -> T {
        let number = self.0.integer(name).unwrap_or_default();
        T::try_from(number)
            .unwrap_or_else(|_| panic!("{name}={number} is outside what its validator allows"))
    }

    fn unless_negative<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        self.0
            .integer(name)
            .filter(|number| *number >= 0)
            .map(|_| self.number(name))
    }

    fn truth(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Boolean(true)))
    }

    fn fraction(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(number)) => number,
            _ => panic!("{name} has no number"),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).map(|value| value.to_string())
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        }
    }
}
