//! Owns the order in which values win: a broker's own dynamic value over the cluster's dynamic
//! default, over the file and command line, over the default of the table (KIP-226).

use super::{
    ConfigError, Settings,
    definition::{Definition, Value},
    definitions,
};

/// The settings stored in the cluster's metadata that concern one broker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DynamicConfigs {
    /// Of this broker alone.
    pub broker: Settings,
    /// The default for every broker of the cluster.
    pub cluster: Settings,
}

/// Every layer below a topic's own settings.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// What the configuration file and the command line said.
    pub given: &'a Settings,
    pub dynamic: &'a DynamicConfigs,
}

/// Where a value came from; the numbers are DescribeConfigs' `ConfigSource`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Source {
    DynamicTopic = 1,
    DynamicBroker = 2,
    DynamicDefaultBroker = 3,
    StaticBroker = 4,
    Default = 5,
    Group = 8,
}

impl<'a> Layers<'a> {
    /// The strongest text given for a broker setting, not looking at its synonyms.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        [&self.dynamic.broker, &self.dynamic.cluster, self.given]
            .into_iter()
            .find_map(|layer| layer.get(name).map(String::as_str))
            .or_else(|| definitions::broker().get(name).and_then(|d| d.default))
    }

    /// The value of a broker setting. What was stored is validated when it is stored, but may
    /// predate a rule: then the error says which.
    pub fn value(&self, definition: &Definition) -> Result<Option<Value>, ConfigError> {
        self.text(definition.name)
            .map(|text| definition.parse(text))
            .transpose()
    }

    /// As `value`; an unreadable stored value counts as unset, so that a broker always starts.
    pub fn value_or_default(&self, definition: &Definition) -> Option<Value> {
        self.value(definition)
            .unwrap_or_else(|_| definition.default_value())
    }

    /// A whole number, or `None` when the setting is null.
    pub fn integer(&self, name: &str) -> Option<i64> {
        let definition = definitions::broker()
            .get(name)
            .unwrap_or_else(|| panic!("no broker setting {name}"));
        match self.value_or_default(definition) {
            Some(Value::Integer(value)) => Some(value),
            _ => None,
        }
    }

    /// `log.retention.ms`, or minutes, or hours: the finest that is set. Negative is for ever.
    pub fn retention_ms(&self) -> i64 {
        let ms = self
            .integer("log.retention.ms")
            .or_else(|| {
                self.integer("log.retention.minutes")
                    .map(|m| m.saturating_mul(60_000))
            })
            .or_else(|| {
                self.integer("log.retention.hours")
                    .map(|h| h.saturating_mul(3_600_000))
            })
            .unwrap_or(-1);
        ms.max(-1)
    }

    pub fn roll_ms(&self) -> i64 {
        self.finest("log.roll.ms", "log.roll.hours")
    }

    pub fn roll_jitter_ms(&self) -> i64 {
        self.finest("log.roll.jitter.ms", "log.roll.jitter.hours")
    }

    fn finest(&self, ms: &str, hours: &str) -> i64 {
        self.integer(ms)
            .or_else(|| self.integer(hours).map(|h| h.saturating_mul(3_600_000)))
            .unwrap_or_default()
    }

    pub fn flush_ms(&self) -> i64 {
        self.integer("log.flush.interval.ms")
            .or_else(|| self.integer("log.flush.scheduler.interval.ms"))
            .unwrap_or(i64::MAX)
    }
}
