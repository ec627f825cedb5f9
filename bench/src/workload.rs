//! Owns what a run is asked to do, and how workload files say it: TOML, or the flat YAML of OpenMessaging Benchmark, whose
//! field names both share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::client::{Codec, Outcome};
use crate::payload::HEAD_BYTES;
use crate::size::Size;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Workload {
    pub name: String,
    pub topics: u32,
    pub partitions_per_topic: i32,
    /// Bytes of each record's value, one number or a distribution.
    pub message_size: Size,
    /// Values are cut from this file in turn, where one is given.
    pub payload_file: Option<PathBuf>,
    pub use_randomized_payloads: bool,
    /// Headers of each record, and bytes of each of their values.
    pub headers_per_message: usize,
    pub header_size: usize,
    /// Share of each value that does not compress.
    pub random_bytes_ratio: f64,
    /// Different values that a producer sends in turn.
    pub randomized_payload_pool_size: usize,
    pub subscriptions_per_topic: u32,
    pub consumer_per_subscription: u32,
    pub producers_per_topic: u32,
    /// Records a second over all producers; 0 as many as the broker takes.
    pub producer_rate: f64,
    /// What is in the topics before consumers begin at their start; they read it as fast as they get it.
    #[serde(rename = "consumerBacklogSizeGB")]
    pub consumer_backlog_gb: f64,
    pub key_distributor: Keys,
    pub test_duration_minutes: f64,
    pub warmup_duration_minutes: f64,

    pub acks: Acks,
    pub idempotent: bool,
    pub codec: Codec,
    pub linger_ms: f64,
    pub batch_bytes: usize,
    /// Requests that one producer has unacknowledged at most on one connection.
    pub in_flight: usize,
    /// Partitions of one leader that a request has batches for at most.
    pub partitions_per_request: usize,
    pub fetch_bytes: i32,
    /// Settings of the topics, `name=value`.
    pub topic_configs: Vec<String>,
    /// Connections that do nothing, beside those that do.
    pub idle_connections: u32,
    /// Check each record read: none missing, doubled, out of order or altered.
    pub verify: bool,
    /// What `coati tune auto` looks for with it; a run does not ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tune: Option<Aim>,
}

/// What a broker is tuned for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aim {
    pub goal: Goal,
    #[serde(default)]
    pub worse: Worse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Goal {
    /// More bytes a second
    Throughput,
    /// A smaller 99th percentile: end to end where somebody reads, else until acknowledged
    P99,
    /// Less CPU time of the broker for a GB
    Cpu,
}

impl Goal {
    pub const ALL: [Goal; 3] = [Goal::Throughput, Goal::P99, Goal::Cpu];
}

/// By which share of what it was each figure that is not the goal may get worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worse {
    pub throughput: f64,
    pub p99: f64,
    pub cpu: f64,
}

impl Default for Worse {
    fn default() -> Worse {
        Worse {
            throughput: 0.2,
            p99: 0.2,
            cpu: 0.2,
        }
    }
}

impl Worse {
    pub fn of(&self, goal: Goal) -> f64 {
        match goal {
            Goal::Throughput => self.throughput,
            Goal::P99 => self.p99,
            Goal::Cpu => self.cpu,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Keys {
    /// Records have no key and go to the partitions in turn, a batch at a time.
    #[default]
    NoKey,
    /// Keys in turn.
    KeyRoundRobin,
    /// Keys at random, all equally likely.
    #[serde(alias = "RANDOM_NANO")]
    Uniform,
    /// Keys at random, the most likely far ahead: key n is 1/n as likely as the first.
    Zipf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Acks {
    #[serde(rename = "0")]
    #[value(name = "0")]
    None,
    #[default]
    #[serde(rename = "1")]
    #[value(name = "1")]
    Leader,
    #[serde(rename = "all")]
    #[value(name = "all", alias = "-1")]
    All,
}

impl Acks {
    pub fn number(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Acks::None => "0",
            Acks::Leader => "1",
            Acks::All => "all",
        }
    }
}

impl Default for Workload {
    fn default() -> Workload {
        Workload {
            name: "workload".into(),
            topics: 1,
            partitions_per_topic: 1,
            message_size: Size::Fixed(1000),
            payload_file: None,
            use_randomized_payloads: true,
            headers_per_message: 0,
            header_size: 20,
            random_bytes_ratio: 1.0,
            randomized_payload_pool_size: 16,
            subscriptions_per_topic: 1,
            consumer_per_subscription: 1,
            producers_per_topic: 1,
            producer_rate: 0.0,
            consumer_backlog_gb: 0.0,
            key_distributor: Keys::NoKey,
            test_duration_minutes: 10.0 / 60.0,
            warmup_duration_minutes: 2.0 / 60.0,
            acks: Acks::Leader,
            idempotent: false,
            codec: Codec::None,
            linger_ms: 1.0,
            batch_bytes: 64 << 10,
            in_flight: 16,
            partitions_per_request: 1,
            fetch_bytes: 1 << 20,
            topic_configs: Vec::new(),
            idle_connections: 0,
            verify: false,
            tune: None,
        }
    }
}

impl Workload {
    /// Reads a workload file: YAML by its ending, else TOML.
    pub fn load(path: &Path) -> Outcome<Workload> {
        let told = |error: String| format!("{}: {error}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| told(error.to_string()))?;
        let yaml = path
            .extension()
            .is_some_and(|ending| ending == "yaml" || ending == "yml");
        let mut workload = if yaml {
            Workload::from_yaml(&text)
        } else {
            Workload::from_toml(&text)
        }
        .map_err(told)?;
        // The files that a workload names are beside it.
        if let Some(folder) = path.parent() {
            workload.payload_file = workload.payload_file.map(|file| folder.join(file));
            workload.message_size = workload.message_size.found_in(folder);
        }
        workload.check().map_err(told)?;
        Ok(workload)
    }

    pub fn from_toml(text: &str) -> Outcome<Workload> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    /// OpenMessaging Benchmark's files are flat: `name: value` lines, comments, quotes.
    pub fn from_yaml(text: &str) -> Outcome<Workload> {
        let mut table = toml::Table::new();
        for (number, line) in text.lines().enumerate() {
            let trimmed = line.split(" #").next().unwrap_or_default().trim();
            if trimmed.is_empty() || trimmed.starts_with('#') || trimmed == "---" {
                continue;
            }
            let pair = trimmed.split_once(':').filter(|_| !line.starts_with(' '));
            let Some((name, value)) = pair else {
                return Err(format!(
                    "line {}: only flat `name: value` lines are understood",
                    number + 1
                ));
            };
            table.insert(name.trim().to_owned(), yaml_value(value.trim()));
        }
        // TOML wants 1.0 where YAML says 1.
        let defaults = toml::Table::try_from(Workload::default()).expect("it is a table");
        for (name, value) in &mut table {
            if let (toml::Value::Integer(integer), Some(toml::Value::Float(_))) =
                (&*value, defaults.get(name))
            {
                *value = toml::Value::Float(*integer as f64);
            }
        }
        table
            .try_into()
            .map_err(|error: toml::de::Error| error.to_string())
    }

    /// Whether these demands make sense together.
    pub fn check(&self) -> Outcome<()> {
        let must = |is: bool, reason: &str| if is { Ok(()) } else { Err(reason.to_owned()) };
        must(self.topics > 0, "a run needs a topic")?;
        must(self.partitions_per_topic > 0, "a topic needs a partition")?;
        must(self.batch_bytes > 0, "a batch needs bytes")?;
        must(self.in_flight > 0, "nothing may be in flight")?;
        must(
            self.partitions_per_request > 0,
            "a request needs a partition",
        )?;
        must(self.fetch_bytes > 0, "a fetch needs bytes")?;
        must(self.producer_rate >= 0.0, "a rate is not negative")?;
        must(self.test_duration_minutes > 0.0, "a run needs time")?;
        must(
            !self.idempotent || self.acks == Acks::All,
            "idempotent producing needs acks=all",
        )?;
        must(
            !self.idempotent || self.in_flight <= 5,
            "idempotent producing has at most 5 requests in flight",
        )?;
        must(
            self.producers_per_topic > 0 || self.readers() > 0,
            "a run needs producers or consumers",
        )?;
        must(
            !self.verify || self.readers() > 0,
            "to verify, somebody must read",
        )?;
        self.tune.as_ref().map_or(Ok(()), |aim| self.check_aim(aim))
    }

    /// Whether this can be had of the workload.
    pub fn check_aim(&self, aim: &Aim) -> Outcome<()> {
        if aim.goal == Goal::Throughput && self.producer_rate > 0.0 {
            return Err("at a rate there is no more throughput to be had: leave it out, or have another goal".into());
        }
        if aim.goal == Goal::P99 && self.producers_per_topic == 0 {
            return Err("what is only read has no latency: have another goal".into());
        }
        for goal in Goal::ALL {
            let most = if goal == Goal::Throughput { 1.0 } else { 100.0 };
            let share = aim.worse.of(goal);
            if !(0.0..=most).contains(&share) {
                return Err(format!(
                    "worse by {share}: it is a share from 0 to {most}, such as 0.2"
                ));
            }
        }
        Ok(())
    }

    pub fn readers(&self) -> u32 {
        self.subscriptions_per_topic * self.consumer_per_subscription
    }

    /// Values carry a head as soon as somebody reads them.
    pub fn value_bytes_min(&self) -> usize {
        if self.readers() > 0 { HEAD_BYTES } else { 0 }
    }

    pub fn test_duration(&self) -> Duration {
        Duration::from_secs_f64(self.test_duration_minutes * 60.0)
    }

    pub fn warm_up(&self) -> Duration {
        Duration::from_secs_f64(self.warmup_duration_minutes.max(0.0) * 60.0)
    }

    pub fn linger(&self) -> Duration {
        Duration::from_secs_f64(self.linger_ms.max(0.0) / 1e3)
    }

    /// One line that says what was asked.
    pub fn describe(&self) -> String {
        let mut words = vec![format!(
            "{} topic(s) of {} partition(s)",
            self.topics, self.partitions_per_topic
        )];
        if self.producers_per_topic > 0 {
            let rate = match self.producer_rate {
                0.0 => "as fast as acknowledged".to_owned(),
                rate => format!("{rate} records/s"),
            };
            words.push(format!(
                "{} producer(s) a topic, {rate}, records of {} B{}, acks={}{}, {} B batches, linger {} ms, {} in flight",
                self.producers_per_topic,
                self.message_size,
                self.describe_headers(),
                self.acks.name(),
                if self.idempotent { " idempotent" } else { "" },
                self.batch_bytes,
                self.linger_ms,
                self.in_flight,
            ));
        }
        if self.partitions_per_request > 1 {
            words.push(format!(
                "up to {} partitions a request",
                self.partitions_per_request
            ));
        }
        if self.codec != Codec::None {
            words.push(format!("{:?}", self.codec).to_lowercase());
        }
        if self.readers() > 0 {
            words.push(format!("{} consumer(s) a topic", self.readers()));
        }
        if self.idle_connections > 0 {
            words.push(format!("{} idle connections", self.idle_connections));
        }
        words.join("; ")
    }

    fn describe_headers(&self) -> String {
        match self.headers_per_message {
            0 => String::new(),
            count => format!(" and {count} header(s) of {} B", self.header_size),
        }
    }
}

fn yaml_value(text: &str) -> toml::Value {
    let quoted = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    if let Some(inner) = quoted('"').or_else(|| quoted('\'')) {
        return toml::Value::String(inner.to_owned());
    }
    if let Ok(integer) = text.parse() {
        return toml::Value::Integer(integer);
    }
    if let Ok(float) = text.parse() {
        return toml::Value::Float(float);
    }
    match text {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        _ => toml::Value::String(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_openmessaging_benchmark_load() {
        let workload = Workload::from_yaml(
            "# comment\nname: 1-topic-16-partitions-1kb\n\ntopics: 1\npartitionsPerTopic: 16 # more\n\
             keyDistributor: \"NO_KEY\"\nmessageSize: 1024\nuseRandomizedPayloads: true\n\
             randomBytesRatio: 0.5\nrandomizedPayloadPoolSize: 1000\nsubscriptionsPerTopic: 1\n\
             consumerPerSubscription: 1\nproducersPerTopic: 1\nproducerRate: 50000\n\
             consumerBacklogSizeGB: 0\ntestDurationMinutes: 5\n",
        )
        .unwrap();
        assert_eq!(workload.partitions_per_topic, 16);
        assert_eq!(workload.producer_rate, 50_000.0);
        assert_eq!(workload.random_bytes_ratio, 0.5);
        assert_eq!(workload.test_duration(), Duration::from_secs(300));
        workload.check().unwrap();
        let error = Workload::from_yaml("topics: 1\nprodcers: 2\n").unwrap_err();
        assert!(error.contains("prodcers"), "{error}");
        assert!(Workload::from_yaml("topics:\n  nested: 1\n").is_err());
    }

    fn all_in(folder: &str) -> Vec<Workload> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = std::fs::read_dir(folder).unwrap();
        let loaded = files.map(|file| Workload::load(&file.unwrap().path()).unwrap());
        loaded.collect()
    }

    #[test]
    fn the_workloads_that_come_along_load() {
        assert!(all_in("workloads").len() >= 12);
        let tuning = all_in("../tuning/workloads");
        assert_eq!(
            tuning.iter().filter_map(|workload| workload.tune).count(),
            3
        );
    }

    #[test]
    fn what_a_broker_is_tuned_for_must_be_something_that_can_be_had() {
        let told = |text: &str| match Workload::from_toml(text).and_then(|read| read.check()) {
            Ok(()) => String::new(),
            Err(reason) => reason,
        };
        assert_eq!(told("[tune]\ngoal = \"cpu\"\nworse = { p99 = 0.5 }"), "");
        assert!(told("producerRate = 5.0\n[tune]\ngoal = \"throughput\"").contains("at a rate"));
        assert!(told("producersPerTopic = 0\n[tune]\ngoal = \"p99\"").contains("has no latency"));
        assert!(told("[tune]\ngoal = \"cpu\"\nworse = { throughput = 1.5 }").contains("0 to 1"));
        assert!(told("[tune]\ngoal = \"size\"").contains("size"));
        assert!(told("[tune]\ngoal = \"cpu\"\nworse = { cup = 1.0 }").contains("cup"));
        assert!(told("[tune]").contains("goal"));
    }

    #[test]
    fn a_workload_is_the_same_after_toml() {
        let workload = Workload {
            acks: Acks::All,
            key_distributor: Keys::Zipf,
            ..Workload::default()
        };
        let text = toml::to_string(&workload).unwrap();
        let read = Workload::from_toml(&text).unwrap();
        assert_eq!(toml::to_string(&read).unwrap(), text);
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        let workload = Workload {
            idempotent: true,
            ..Workload::default()
        };
        assert!(workload.check().unwrap_err().contains("acks=all"));
    }
}
