//! Owns what DescribeConfigs tells of a resource: each setting's value, where it comes from, and
//! the other names and layers that could have supplied it, in Kafka's order.

use std::borrow::Cow;

pub use super::layers::Source;
use super::{
    BrokerConfig, DynamicConfigs, Layers, Settings, UpdateMode, definition::Definition,
    definitions, topic,
};

/// One setting as a client is told it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigEntry {
    pub name: Cow<'static, str>,
    /// `None` is null: unset, or too secret to tell.
    pub value: Option<String>,
    pub source: Source,
    pub read_only: bool,
    pub sensitive: bool,
    /// `ConfigType` of the response.
    pub kind: i8,
    pub synonyms: Vec<ConfigSynonym>,
    pub documentation: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ConfigSynonym {
    pub name: Cow<'static, str>,
    pub value: Option<String>,
    pub source: Source,
}

/// A topic's settings, in name order.
pub fn topic(
    overrides: &Settings,
    config: &BrokerConfig,
    dynamic: &DynamicConfigs,
) -> Vec<ConfigEntry> {
    let layers = config.layers(dynamic);
    definitions::topic()
        .values()
        .filter(|definition| !definition.internal || overrides.contains_key(definition.name))
        .map(|definition| {
            let value = topic::effective(definition, overrides, layers).map(|v| v.to_string());
            let own = overrides
                .contains_key(definition.name)
                .then(|| ConfigSynonym {
                    name: definition.name.into(),
                    value: value.clone(),
                    source: Source::DynamicTopic,
                });
            let inherited = definition
                .synonym
                .map(|name| synonyms(name, layers, false))
                .unwrap_or_default();
            entry(
                definition,
                value,
                own.into_iter().chain(inherited).collect(),
                false,
            )
        })
        .collect()
}

/// One setting of a topic that has just been created, as CreateTopics tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct CreatedEntry {
    pub name: &'static str,
    pub value: Option<String>,
    pub source: Source,
}

/// What CreateTopics tells of the new topic's settings, in name order. Unlike DescribeConfigs it
/// repeats given values as they were written and names the source of values in another unit.
pub fn created_topic(
    overrides: &Settings,
    config: &BrokerConfig,
    dynamic: &DynamicConfigs,
) -> Vec<CreatedEntry> {
    let layers = config.layers(dynamic);
    definitions::topic()
        .values()
        .filter(|definition| !definition.internal)
        .map(|definition| {
            if let Some(own) = overrides.get(definition.name) {
                return CreatedEntry {
                    name: definition.name,
                    value: Some(own.clone()),
                    source: Source::DynamicTopic,
                };
            }
            let names = definition
                .synonym
                .map(definitions::broker_synonyms)
                .unwrap_or_default();
            let given = |layer: &Settings| names.iter().any(|name| layer.contains_key(*name));
            let source = match definition.synonym {
                Some(_) if given(&dynamic.broker) => Source::DynamicBroker,
                Some(_) if given(&dynamic.cluster) => Source::DynamicDefaultBroker,
                Some(_) if given(&config.given) => Source::StaticBroker,
                _ => Source::Default,
            };
            CreatedEntry {
                name: definition.name,
                value: topic::effective(definition, overrides, layers).map(|v| v.to_string()),
                source,
            }
        })
        .collect()
}

/// A group's settings, in name order.
pub fn group(
    overrides: &Settings,
    config: &BrokerConfig,
    dynamic: &DynamicConfigs,
) -> Vec<ConfigEntry> {
    let layers = config.layers(dynamic);
    definitions::group()
        .values()
        .map(|definition| {
            let value = topic::effective(definition, overrides, layers).map(|v| v.to_string());
            let own = overrides
                .contains_key(definition.name)
                .then(|| ConfigSynonym {
                    name: definition.name.into(),
                    value: value.clone(),
                    source: Source::Group,
                });
            let mut inherited = definition
                .synonym
                .map(|name| synonyms(name, layers, false))
                .unwrap_or_default();
            if inherited.is_empty() {
                inherited.push(ConfigSynonym {
                    name: definition.name.into(),
                    value: definition.default.map(str::to_owned),
                    source: Source::Default,
                });
            }
            entry(
                definition,
                value,
                own.into_iter().chain(inherited).collect(),
                false,
            )
        })
        .collect()
}

/// One broker's settings, in name order.
pub fn broker(config: &BrokerConfig, dynamic: &DynamicConfigs) -> Vec<ConfigEntry> {
    let layers = config.layers(dynamic);
    definitions::broker()
        .values()
        .filter(|definition| !definition.internal)
        .map(|definition| {
            let value = layers.value_or_default(definition).map(|v| v.to_string());
            let synonyms = synonyms(definition.name, layers, definition.is_sensitive());
            let read_only = definition.update == UpdateMode::ReadOnly;
            entry(definition, value, synonyms, read_only)
        })
        .chain(unknown(&[
            (&dynamic.broker, Source::DynamicBroker),
            (&dynamic.cluster, Source::DynamicDefaultBroker),
            (&config.given, Source::StaticBroker),
        ]))
        .collect()
}

/// The cluster's dynamic defaults: only those that are set.
pub fn cluster_default(config: &BrokerConfig, dynamic: &DynamicConfigs) -> Vec<ConfigEntry> {
    let layers = config.layers(dynamic);
    definitions::broker()
        .values()
        .filter_map(|definition| {
            let text = dynamic.cluster.get(definition.name)?;
            let mut synonyms = synonyms(definition.name, layers, definition.is_sensitive());
            synonyms.retain(|synonym| synonym.source == Source::DynamicDefaultBroker);
            let read_only = definition.update == UpdateMode::ReadOnly;
            Some(entry(definition, Some(text.clone()), synonyms, read_only))
        })
        .chain(unknown(&[(&dynamic.cluster, Source::DynamicDefaultBroker)]))
        .collect()
}

/// Settings that somebody gave and nobody knows. They may be secrets, so their values stay hidden.
fn unknown(layers: &[(&Settings, Source)]) -> Vec<ConfigEntry> {
    let mut entries = Vec::<ConfigEntry>::new();
    for (layer, source) in layers {
        for name in layer
            .keys()
            .filter(|name| !definitions::broker().contains_key(name.as_str()))
        {
            let synonym = ConfigSynonym {
                name: Cow::Owned(name.clone()),
                value: None,
                source: *source,
            };
            match entries.iter_mut().find(|entry| entry.name == name.as_str()) {
                Some(entry) => entry.synonyms.push(synonym),
                None => entries.push(ConfigEntry {
                    name: Cow::Owned(name.clone()),
                    value: None,
                    source: *source,
                    read_only: true,
                    sensitive: true,
                    kind: 0,
                    synonyms: vec![synonym],
                    documentation: "Not a setting that Kafka knows.",
                }),
            }
        }
    }
    entries
}

fn entry(
    definition: &'static Definition,
    value: Option<String>,
    synonyms: Vec<ConfigSynonym>,
    read_only: bool,
) -> ConfigEntry {
    let sensitive = definition.is_sensitive();
    ConfigEntry {
        name: definition.name.into(),
        value: value.filter(|_| !sensitive),
        source: synonyms
            .first()
            .map_or(Source::Default, |synonym| synonym.source),
        read_only,
        sensitive,
        kind: definition.kind.code(),
        synonyms,
        documentation: definition.describe(),
    }
}

/// Every layer that has a value for `name` or its older spellings, strongest first, beginning
/// with the first that is under `name` itself: Kafka drops what stands before it.
fn synonyms(name: &'static str, layers: Layers<'_>, sensitive: bool) -> Vec<ConfigSynonym> {
    let names = definitions::broker_synonyms(name);
    let stored = [
        (&layers.dynamic.broker, Source::DynamicBroker),
        (&layers.dynamic.cluster, Source::DynamicDefaultBroker),
        (layers.given, Source::StaticBroker),
    ];
    let mut found = Vec::new();
    for (layer, source) in stored {
        for name in &names {
            if let Some(text) = layer.get(*name) {
                found.push((*name, text.clone(), source));
            }
        }
    }
    for name in &names {
        if let Some(default) = definitions::broker().get(name).and_then(|d| d.default) {
            found.push((*name, default.to_owned(), Source::Default));
        }
    }
    found
        .into_iter()
        .skip_while(|(found, _, _)| *found != name)
        .map(|(name, text, source)| ConfigSynonym {
            name: name.into(),
            value: Some(text).filter(|_| !sensitive),
            source,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, Sources, load};

    fn given(text: &str) -> BrokerConfig {
        let sources = Sources {
            file: Some(ConfigFile::Properties(text.into())),
            ..Sources::default()
        };
        load(&sources).unwrap().config
    }

    fn find(entries: &[ConfigEntry], name: &str) -> ConfigEntry {
        entries
            .iter()
            .find(|entry| entry.name == name)
            .unwrap()
            .clone()
    }

    fn told(entry: &ConfigEntry) -> String {
        let synonyms: Vec<String> = entry
            .synonyms
            .iter()
            .map(|s| {
                format!(
                    "{}={}({:?})",
                    s.name,
                    s.value.clone().unwrap_or_default(),
                    s.source
                )
            })
            .collect();
        format!(
            "{} {:?} [{}]",
            entry.value.clone().unwrap_or_default(),
            entry.source,
            synonyms.join("; ")
        )
    }

    #[test]
    fn a_topic_is_told_as_kafka_tells_it() {
        let config = given("min.insync.replicas=1\nlog.retention.hours=1");
        let mut dynamic = DynamicConfigs::default();
        dynamic
            .cluster
            .insert("min.insync.replicas".into(), "1".into());
        let own = Settings::from([("segment.bytes".to_owned(), "2000000".to_owned())]);
        let entries = topic(&own, &config, &dynamic);
        assert_eq!(entries.len(), 37);
        assert_eq!(
            told(&find(&entries, "min.insync.replicas")),
            "1 DynamicDefaultBroker [min.insync.replicas=1(DynamicDefaultBroker); \
             min.insync.replicas=1(StaticBroker); min.insync.replicas=1(Default)]"
        );
        // Kafka names no source for a value that came in another unit.
        assert_eq!(told(&find(&entries, "retention.ms")), "3600000 Default []");
        assert_eq!(
            told(&find(&entries, "segment.bytes")),
            "2000000 DynamicTopic [segment.bytes=2000000(DynamicTopic); \
             log.segment.bytes=1073741824(Default)]"
        );
        assert_eq!(
            told(&find(&entries, "flush.ms")),
            "9223372036854775807 Default []"
        );
    }

    #[test]
    fn a_broker_is_told_as_kafka_tells_it() {
        let config = given("log.retention.ms=5\nssl.key.password=secret");
        let entries = broker(&config, &DynamicConfigs::default());
        let retention = find(&entries, "log.retention.ms");
        assert_eq!(
            told(&retention),
            "5 StaticBroker [log.retention.ms=5(StaticBroker); log.retention.hours=168(Default)]"
        );
        assert!(!retention.read_only);
        assert_eq!(
            told(&find(&entries, "log.retention.hours")),
            "168 Default [log.retention.hours=168(Default)]"
        );
        assert!(find(&entries, "log.dirs").read_only);
        let secret = find(&entries, "ssl.key.password");
        assert!(secret.sensitive && secret.value.is_none() && secret.synonyms[0].value.is_none());
        assert!(
            !entries
                .iter()
                .any(|entry| entry.name == "unstable.api.versions.enable")
        );
        assert!(cluster_default(&config, &DynamicConfigs::default()).is_empty());
    }
}
