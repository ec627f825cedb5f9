//! Owns the typed settings of one topic: its own values over the dynamic broker values over the
//! file over the defaults, and what a topic may be given.

use crate::log::FlushPolicy;

use super::{ConfigError, Layers, Settings, Value, definition::Definition, definitions};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// How batches are stored; levels are those of the codec's own scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// As the producer sent it.
    Producer,
    Uncompressed,
    /// `None` is the codec's default.
    Gzip {
        level: Option<u32>,
    },
    Snappy,
    Lz4 {
        level: u32,
    },
    Zstd {
        level: i32,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct TopicConfig {
    pub compression: Compression,
    pub delete_retention_ms: i64,
    pub file_delete_delay_ms: u64,
    pub flush_policy: FlushPolicy,
    pub flush_messages: u64,
    pub flush_ms: u64,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub max_decompressed_bytes: u32,
    pub timestamp_type: TimestampType,
    pub timestamp_before_max_ms: i64,
    pub timestamp_after_max_ms: i64,
    pub max_compaction_lag_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub min_insync_replicas: i32,
    pub preallocate: bool,
    /// Negative is without limit.
    pub retention_bytes: i64,
    /// Negative is for ever.
    pub retention_ms: i64,
    pub segment_bytes: u32,
    pub segment_index_bytes: u32,
    pub segment_ms: u64,
    pub segment_jitter_ms: u64,
    pub unclean_leader_election: bool,
    pub compact: bool,
    pub delete: bool,
}

impl TopicConfig {
    pub fn resolve(overrides: &Settings, layers: Layers<'_>) -> TopicConfig {
        let values = Values { overrides, layers };
        let policies = values.list("cleanup.policy");
        let flush_is_set =
            overrides.contains_key("flush.messages") || overrides.contains_key("flush.ms");
        let segment_bytes = values
            .number::<u32>("internal.segment.bytes")
            .or_else(|| values.number("segment.bytes"));
        TopicConfig {
            compression: values.compression(),
            delete_retention_ms: values.required("delete.retention.ms"),
            file_delete_delay_ms: values.required("file.delete.delay.ms"),
            flush_policy: match flush_is_set {
                true => FlushPolicy::Os,
                false => flush_policy(layers.text("log.flush.policy").unwrap_or_default()),
            },
            flush_messages: values.required("flush.messages"),
            flush_ms: values.required("flush.ms"),
            index_interval_bytes: values.required("index.interval.bytes"),
            max_message_bytes: values.required("max.message.bytes"),
            max_decompressed_bytes: values.required("max.decompressed.message.bytes"),
            timestamp_type: match values.text("message.timestamp.type").as_str() {
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => TimestampType::CreateTime,
            },
            timestamp_before_max_ms: values.required("message.timestamp.before.max.ms"),
            timestamp_after_max_ms: values.required("message.timestamp.after.max.ms"),
            max_compaction_lag_ms: values.required("max.compaction.lag.ms"),
            min_cleanable_dirty_ratio: values.fraction("min.cleanable.dirty.ratio"),
            min_compaction_lag_ms: values.required("min.compaction.lag.ms"),
            min_insync_replicas: values.required("min.insync.replicas"),
            preallocate: values.truth("preallocate"),
            retention_bytes: values.required("retention.bytes"),
            retention_ms: values.required("retention.ms"),
            segment_bytes: segment_bytes.unwrap_or(1 << 30),
            segment_index_bytes: values.required("segment.index.bytes"),
            segment_ms: values.required("segment.ms"),
            segment_jitter_ms: values.required("segment.jitter.ms"),
            unclean_leader_election: values.truth("unclean.leader.election.enable"),
            compact: policies.iter().any(|policy| policy == "compact"),
            delete: policies.iter().any(|policy| policy == "delete"),
        }
    }
}

fn flush_policy(name: &str) -> FlushPolicy {
    match name {
        "os" => FlushPolicy::Os,
        _ => FlushPolicy::Durable,
    }
}

/// Checks a topic's own settings as a whole: names, values, and values against each other.
/// `layers` supply what the topic does not set.
///
/// Errors: `ConfigError::Invalid` with Kafka's text, for INVALID_CONFIG.
pub fn validate(overrides: &Settings, layers: Layers<'_>) -> Result<(), ConfigError> {
    for name in overrides.keys() {
        if !definitions::topic().contains_key(name.as_str()) {
            return Err(ConfigError::Invalid(format!(
                "Unknown topic config name: {name}"
            )));
        }
    }
    for (name, text) in overrides {
        definitions::topic()[name.as_str()].parse(text)?;
    }
    let values = Values { overrides, layers };
    let min_lag = values.required::<i64>("min.compaction.lag.ms");
    let max_lag = values.required::<i64>("max.compaction.lag.ms");
    if min_lag > max_lag {
        return Err(ConfigError::Invalid(format!(
            "conflict topic config setting min.compaction.lag.ms ({min_lag}) > max.compaction.lag.ms ({max_lag})"
        )));
    }
    if values.truth("remote.storage.enable") {
        return Err(ConfigError::Invalid(
            "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage."
                .into(),
        ));
    }
    Ok(())
}

/// The value a topic runs with, canonical; used by DescribeConfigs too.
pub(super) fn effective(
    definition: &Definition,
    overrides: &Settings,
    layers: Layers<'_>,
) -> Option<Value> {
    let own = overrides
        .get(definition.name)
        .and_then(|text| definition.parse(text).ok());
    if own.is_some() {
        return own;
    }
    match definition.name {
        // These come in several units, of which the finest that is set counts.
        "retention.ms" => Some(Value::Integer(layers.retention_ms())),
        "segment.ms" => Some(Value::Integer(layers.roll_ms())),
        "segment.jitter.ms" => Some(Value::Integer(layers.roll_jitter_ms())),
        "flush.ms" => Some(Value::Integer(layers.flush_ms())),
        _ => definition
            .synonym
            .and_then(|name| definitions::broker().get(name))
            .and_then(|broker| layers.value_or_default(broker))
            .or_else(|| definition.default_value()),
    }
}

struct Values<'a> {
    overrides: &'a Settings,
    layers: Layers<'a>,
}

impl Values<'_> {
    fn value(&self, name: &str) -> Option<Value> {
        let definition = definitions::topic()
            .get(name)
            .unwrap_or_else(|| panic!("no topic setting {name}"));
        effective(definition, self.overrides, self.layers)
    }

    /// Out-of-range values of older releases are brought into range by saturating, so that a
    /// stored topic always opens.
    fn number<T: TryFrom<i64>>(&self, name: &str) -> Option<T> {
        match self.value(name) {
            Some(Value::Integer(number)) => T::try_from(number)
                .or_else(|_| T::try_from(number.max(0)))
                .ok(),
            _ => None,
        }
    }

    fn required<T: TryFrom<i64>>(&self, name: &str) -> T {
        self.number(name)
            .unwrap_or_else(|| panic!("topic setting {name} has no number"))
    }

    fn truth(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Boolean(true)))
    }

    fn fraction(&self, name: &str) -> f64 {
        match self.value(name) {
            Some(Value::Double(number)) => number,
            _ => panic!("topic setting {name} has no number"),
        }
    }

    fn text(&self, name: &str) -> String {
        self.value(name)
            .map(|value| value.to_string())
            .unwrap_or_default()
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(items)) => items,
            _ => Vec::new(),
        }
    }

    fn compression(&self) -> Compression {
        match self.text("compression.type").as_str() {
            "uncompressed" => Compression::Uncompressed,
            "gzip" => Compression::Gzip {
                level: self
                    .number::<i32>("compression.gzip.level")
                    .and_then(|level| u32::try_from(level).ok()),
            },
            "snappy" => Compression::Snappy,
            "lz4" => Compression::Lz4 {
                level: self.required("compression.lz4.level"),
            },
            "zstd" => Compression::Zstd {
                level: self.required("compression.zstd.level"),
            },
            _ => Compression::Producer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BrokerConfig, DynamicConfigs, Sources, load};

    fn broker() -> BrokerConfig {
        load(&Sources::default()).unwrap().config
    }

    fn settings(pairs: &[(&str, &str)]) -> Settings {
        pairs
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect()
    }

    #[test]
    fn nearer_layers_win() {
        let broker = broker();
        let mut dynamic = DynamicConfigs::default();
        let read = |own: &[(&str, &str)], dynamic: &DynamicConfigs| {
            broker
                .topic_config(&settings(own), dynamic)
                .min_insync_replicas
        };
        assert_eq!(read(&[], &dynamic), 1);
        dynamic.cluster = settings(&[("min.insync.replicas", "2")]);
        assert_eq!(read(&[], &dynamic), 2);
        dynamic.broker = settings(&[("min.insync.replicas", "3")]);
        assert_eq!(read(&[], &dynamic), 3);
        assert_eq!(read(&[("min.insync.replicas", "4")], &dynamic), 4);
    }

    #[test]
    fn setting_flush_intervals_gives_up_the_durable_policy() {
        let broker = broker();
        let none = DynamicConfigs::default();
        assert_eq!(
            broker.static_topic_config().flush_policy,
            FlushPolicy::Durable
        );
        let relaxed = broker.topic_config(&settings(&[("flush.ms", "1000")]), &none);
        assert_eq!(relaxed.flush_policy, FlushPolicy::Os);
        assert_eq!(relaxed.flush_ms, 1000);
        assert_eq!(relaxed.flush_messages, i64::MAX as u64);
    }

    #[test]
    fn what_is_refused() {
        let broker = broker();
        let none = DynamicConfigs::default();
        let refused = |own: &[(&str, &str)]| {
            validate(&settings(own), broker.layers(&none))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(refused(&[("nope", "1")]), "Unknown topic config name: nope");
        assert!(refused(&[("remote.storage.enable", "true")]).contains("Tiered"));
        assert_eq!(
            refused(&[
                ("min.compaction.lag.ms", "9"),
                ("max.compaction.lag.ms", "8")
            ]),
            "conflict topic config setting min.compaction.lag.ms (9) > max.compaction.lag.ms (8)"
        );
        assert!(validate(&settings(&[("retention.ms", "-1")]), broker.layers(&none),).is_ok());
    }
}
