//! Owns the tables of every setting that Kafka 4.4 knows, and our own few. The tables beside this
//! file are facts read off a running Kafka: names, types, defaults, update modes and accepted
//! values. `docs.tsv` says what each setting does here; a setting that is missing there is
//! accepted and has no effect.

use std::{collections::BTreeMap, sync::LazyLock};

use super::definition::{Definition, Importance, Kind, UpdateMode, Valid};

pub type Table = BTreeMap<&'static str, Definition>;

static DOCUMENTATION: LazyLock<BTreeMap<(&'static str, &'static str), &'static str>> =
    LazyLock::new(|| {
        rows(include_str!("docs.tsv"))
            .map(|row| ((row[0], row[1]), row[2]))
            .collect()
    });

static BROKER: LazyLock<Table> = LazyLock::new(|| {
    rows(include_str!("broker.tsv"))
        .map(|row| {
            let definition = Definition {
                name: row[0],
                kind: Kind::from_name(row[1]),
                default: (!matches!(row[2], "null" | "(required)")).then_some(row[2]),
                update: match row[3] {
                    "per-broker" => UpdateMode::PerBroker,
                    "cluster-wide" => UpdateMode::ClusterWide,
                    _ => UpdateMode::ReadOnly,
                },
                importance: match row[4] {
                    "HIGH" => Importance::High,
                    "MEDIUM" => Importance::Medium,
                    _ => Importance::Low,
                },
                internal: row[5] == "true",
                synonym: None,
                documentation: DOCUMENTATION.get(&("broker", row[0])).copied(),
                valid: Valid::from_notation(row[6]),
            };
            (row[0], definition)
        })
        .collect()
});

static TOPIC: LazyLock<Table> = LazyLock::new(|| overriding("topic", include_str!("topic.tsv")));
static GROUP: LazyLock<Table> = LazyLock::new(|| overriding("group", include_str!("group.tsv")));

/// Broker settings by name, in name order.
pub fn broker() -> &'static Table {
    &BROKER
}

/// Topic settings by name, in name order.
pub fn topic() -> &'static Table {
    &TOPIC
}

/// Group settings by name, in name order.
pub fn group() -> &'static Table {
    &GROUP
}

/// Settings of topics and groups: each overrides a broker setting.
fn overriding(scope: &'static str, text: &'static str) -> Table {
    rows(text)
        .map(|row| {
            let definition = Definition {
                name: row[0],
                kind: Kind::from_name(row[1]),
                default: (row[2] != "null").then_some(row[2]),
                update: UpdateMode::ClusterWide,
                importance: Importance::Medium,
                internal: row[0].starts_with("internal."),
                synonym: (!row[3].is_empty()).then_some(row[3]),
                documentation: DOCUMENTATION.get(&(scope, row[0])).copied(),
                valid: Valid::from_notation(row[4]),
            };
            (row[0], definition)
        })
        .collect()
}

fn rows(text: &'static str) -> impl Iterator<Item = Vec<&'static str>> {
    text.lines().skip(1).map(|line| line.split('\t').collect())
}

/// The names under which a broker setting may be given, strongest first: itself, then the older
/// spellings that supply its value when it is unset.
pub fn broker_synonyms(name: &'static str) -> Vec<&'static str> {
    match name {
        "log.roll.ms" | "log.roll.hours" => vec!["log.roll.ms", "log.roll.hours"],
        "log.roll.jitter.ms" | "log.roll.jitter.hours" => {
            vec!["log.roll.jitter.ms", "log.roll.jitter.hours"]
        }
        // Kafka tells only the scheduler's interval as a synonym; its name stays first.
        "log.flush.interval.ms" => vec!["log.flush.interval.ms", "log.flush.scheduler.interval.ms"],
        "log.retention.ms" | "log.retention.minutes" | "log.retention.hours" => vec![
            "log.retention.ms",
            "log.retention.minutes",
            "log.retention.hours",
        ],
        other => vec![other],
    }
}

/// The known name that is most like `name`, for error messages.
pub fn nearest(name: &str, table: &'static Table) -> Option<&'static str> {
    table
        .keys()
        .map(|known| (strsim::damerau_levenshtein(name, known), *known))
        .min()
        .filter(|(distance, known)| *distance <= known.len().max(name.len()) / 2)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for table in [broker(), topic(), group()] {
            for definition in table.values() {
                if let Some(default) = definition.default {
                    let parsed = definition.parse(default).expect(definition.name);
                    assert_eq!(parsed.to_string(), default, "{}", definition.name);
                }
            }
        }
    }

    #[test]
    fn every_synonym_is_a_broker_setting_and_every_doc_has_its_setting() {
        for definition in topic().values().filter(|d| !d.internal) {
            if let Some(synonym) = definition.synonym {
                assert!(broker().contains_key(synonym), "{synonym}");
            }
        }
        for (scope, name) in DOCUMENTATION.keys() {
            let table = match *scope {
                "broker" => broker(),
                "topic" => topic(),
                _ => group(),
            };
            assert!(table.contains_key(name), "{scope} {name}");
        }
    }

    #[test]
    fn messages_are_kafkas() {
        let refused = |name: &str, text: &str| topic()[name].parse(text).unwrap_err().to_string();
        assert_eq!(
            refused("segment.bytes", "x"),
            "Invalid value x for configuration segment.bytes: Not a number of type INT"
        );
        assert_eq!(
            refused("segment.bytes", "10"),
            "Invalid value 10 for configuration segment.bytes: Value must be at least 1048576"
        );
        assert_eq!(
            refused("segment.bytes", "99999999999"),
            "Invalid value 99999999999 for configuration segment.bytes: Not a number of type INT"
        );
        assert_eq!(
            refused("cleanup.policy", "foo"),
            "Invalid value foo for configuration cleanup.policy: String must be one of: compact, delete"
        );
        assert_eq!(
            refused("cleanup.policy", ",,"),
            "Configuration 'cleanup.policy' values must not be empty."
        );
        assert_eq!(
            refused("min.cleanable.dirty.ratio", "2"),
            "Invalid value 2.0 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"
        );
        assert_eq!(
            refused("leader.replication.throttled.replicas", "0"),
            "Invalid value [0] for configuration leader.replication.throttled.replicas: \
             leader.replication.throttled.replicas must be the literal '*' or a list of replicas in \
             the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
        );
        assert_eq!(
            refused("preallocate", "maybe"),
            "Invalid value maybe for configuration preallocate: Expected value to be either true or false"
        );
        assert_eq!(
            topic()["retention.ms"].parse(" 5 ").unwrap().to_string(),
            "5"
        );
    }

    #[test]
    fn nearest_finds_typing_mistakes_only() {
        assert_eq!(
            nearest("log.segment.byte", broker()),
            Some("log.segment.bytes")
        );
        assert_eq!(nearest("xyzzy", broker()), None);
    }
}
