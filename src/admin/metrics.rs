//! Owns the page for Prometheus: Kafka's broker metrics under the names that its JMX exporter's common rules give
//! them, and a few of our own. Each core hands over what it has counted; partitions are bounded in number.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::prometheus::{Family, Kind, Text, WrittenLabels};
use crate::controller::MetadataImage;
use crate::io::turn;
use crate::io::{clock, process};
use crate::limits::METRICS_PARTITIONS_MAX;
use crate::partition::{Arrived, Partition};
use crate::protocol::messages::{FetchRequest, ProduceRequest};
use crate::protocol::{Request, Uuid, api};
use crate::shard::Shard;
use crate::stages::histogram::Distribution;
use crate::stages::{self, Stage};

/// Topics or partitions between two looks at whether others should run.
const LOOKS_AT_ONCE: usize = 64;

const QUANTILES: [(&str, f64); 4] = [
    ("0.5", 0.5),
    ("0.95", 0.95),
    ("0.99", 0.99),
    ("0.999", 0.999),
];

/// What one core hands over.
#[derive(Default)]
struct CoreSample {
    stages: stages::Sample,
    /// Into the partitions that are here, by topic.
    arrived: Vec<(Uuid, Arrived)>,
    departed: Arrived,
    fetched_bytes: u64,
    fetched_bytes_by_topic: Vec<(Uuid, u64)>,
    failed_produces: u64,
    failed_fetches: u64,
    /// Of all families of partitions.
    partitions: [Text; PARTITION_FAMILIES.len()],
    labels: WrittenLabels,
    partition_count: usize,
    offline: usize,
    /// The controller is there.
    controls: bool,
    budgets: [(&'static str, usize, usize); 3],
}

type OfPartition = fn(&Partition) -> i64;

const PARTITION_FAMILIES: [(&str, &str, OfPartition); 4] = [
    (
        "kafka_log_log_logstartoffset",
        "The first offset of each partition.",
        |partition| partition.log().start_offset().0,
    ),
    (
        "kafka_log_log_logendoffset",
        "The offset that each partition's next record gets.",
        |partition| partition.log().end_offset().0,
    ),
    (
        "kafka_log_log_size",
        "Bytes of each partition's log.",
        |partition| partition.log().size_bytes() as i64,
    ),
    (
        "kafka_log_log_numlogsegments",
        "Segments of each partition's log.",
        |partition| partition.log().segment_count() as i64,
    ),
];

/// The page, of all cores.
pub async fn page(shard: &Rc<Shard>, began: Instant) -> Vec<Bytes> {
    let with_partitions = shard.image().partition_count() <= METRICS_PARTITIONS_MAX;
    let samples = shard.everywhere(move |shard| sample(shard, with_partitions));
    let samples = samples.await;
    let mut text = Text::default();
    process(&mut text, began);
    let image = shard.image();
    let under_replicated = under_replicated(shard, &image).await;
    broker(&mut text, shard, under_replicated, &samples);
    topics(&mut text, &image, &samples).await;
    requests(&mut text, &samples);
    cores(&mut text, shard, &samples);
    if with_partitions {
        partitions(&mut text, samples);
    }
    text.finish()
}

async fn sample(shard: Rc<Shard>, with_partitions: bool) -> CoreSample {
    let traffic = &shard.traffic;
    let mut sample = CoreSample {
        stages: stages::sample(),
        departed: traffic.departed(),
        fetched_bytes: traffic.fetched_bytes(),
        fetched_bytes_by_topic: traffic.fetched_bytes_by_topic(),
        failed_produces: traffic.failed_produces(),
        failed_fetches: traffic.failed_fetches(),
        offline: shard.unopened_count(),
        controls: shard.controller().is_some(),
        budgets: [
            (
                "requests",
                shard.request_memory.used(),
                shard.request_memory.limit(),
            ),
            (
                "responses",
                shard.response_memory.used(),
                shard.response_memory.limit(),
            ),
            (
                "tail-cache",
                shard.logs.budget.used(),
                shard.logs.budget.limit(),
            ),
        ],
        ..Default::default()
    };
    let mut walk = shard.walk();
    while let Some(some) = walk.next().await {
        sample.on_partitions(&some, with_partitions);
    }
    sample
}

fn process(text: &mut Text, began: Instant) {
    let uptime = clock::now().saturating_duration_since(began);
    let started = Duration::from_millis(clock::wall_ms().max(0) as u64).saturating_sub(uptime);
    let cpu = clock::process_cpu().as_secs_f64();
    text.single(
        "process_cpu_seconds_total",
        Kind::Counter,
        "CPU time of the process, user and system.",
        cpu,
    );
    let resident = process::resident_bytes();
    text.single(
        "process_resident_memory_bytes",
        Kind::Gauge,
        "Resident memory of the process.",
        resident,
    );
    let started = started.as_secs_f64();
    text.single(
        "process_start_time_seconds",
        Kind::Gauge,
        "When the process began, in seconds since 1970.",
        started,
    );
    let uptime = uptime.as_secs_f64();
    text.single(
        "coati_uptime_seconds",
        Kind::Gauge,
        "Since the process began.",
        uptime,
    );
    let mut build = text.family("coati_build_info", Kind::Gauge, "Which build runs.");
    build.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}

/// Kafka's states of a broker (`BrokerState`).
const STARTING: u8 = 1;
const RUNNING: u8 = 3;
const SHUTTING_DOWN: u8 = 7;

/// Partitions that this broker leads, with fewer replicas in sync than they have.
async fn under_replicated(shard: &Shard, image: &MetadataImage) -> usize {
    let own = Some(shard.broker.id());
    let mut count = 0;
    for topic in image.topics() {
        for some in topic.partitions.chunks(LOOKS_AT_ONCE) {
            let led = some.iter().filter(|partition| partition.leader == own);
            count += led
                .filter(|partition| partition.isr.len() < partition.replicas.len())
                .count();
            turn::yield_if_needed().await;
        }
    }
    count
}

fn broker(text: &mut Text, shard: &Shard, under_replicated: usize, samples: &[CoreSample]) {
    let state = match shard {
        shard if shard.is_serving() => RUNNING,
        shard if shard.stopping() => SHUTTING_DOWN,
        _ => STARTING,
    };
    let image = shard.image();
    let here: usize = samples.iter().map(|sample| sample.partition_count).sum();
    let offline: usize = samples.iter().map(|sample| sample.offline).sum();
    let active = usize::from(samples.iter().any(|sample| sample.controls));
    for (name, help, value) in [
        (
            "kafka_server_kafkaserver_brokerstate",
            "1 starting, 3 running, 7 shutting down.",
            usize::from(state),
        ),
        (
            "kafka_server_replicamanager_partitioncount",
            "Partitions on this broker.",
            here,
        ),
        (
            "kafka_server_replicamanager_leadercount",
            "Partitions that this broker leads.",
            here,
        ),
        (
            "kafka_server_replicamanager_offlinereplicacount",
            "Replicas whose log cannot be used.",
            offline,
        ),
        (
            "kafka_server_replicamanager_underreplicatedpartitions",
            "Partitions with replicas that are not in sync.",
            under_replicated,
        ),
        (
            "kafka_controller_kafkacontroller_activecontrollercount",
            "1 where the active controller is.",
            active,
        ),
        (
            "kafka_controller_kafkacontroller_globaltopiccount",
            "Topics of the cluster.",
            image.topic_count(),
        ),
        (
            "kafka_controller_kafkacontroller_globalpartitioncount",
            "Partitions of the cluster.",
            image.partition_count(),
        ),
        (
            "kafka_controller_kafkacontroller_offlinepartitionscount",
            "Partitions that nobody can lead.",
            offline,
        ),
    ] {
        text.single(name, Kind::Gauge, help, value);
    }
    let connections = "kafka_server_socket_server_metrics_connection_count";
    let mut family = text.family(connections, Kind::Gauge, "Connections of clients, by core.");
    for (core, count) in shard.broker.connections.by_shard().iter().enumerate() {
        family.sample(&[("networkprocessor", &core.to_string())], count);
    }
}

/// Of all topics first, without a label, as Kafka tells it; then of each.
async fn topics(text: &mut Text, image: &MetadataImage, samples: &[CoreSample]) {
    let mut all = Arrived::default();
    let mut arrived = HashMap::<Uuid, Arrived>::new();
    let mut fetched = HashMap::<Uuid, u64>::new();
    for sample in samples {
        all = all + sample.departed;
        for some in sample.arrived.chunks(LOOKS_AT_ONCE) {
            for (topic_id, of_topic) in some {
                all = all + *of_topic;
                let sum = arrived.entry(*topic_id).or_default();
                *sum = *sum + *of_topic;
            }
            turn::yield_if_needed().await;
        }
        for some in sample.fetched_bytes_by_topic.chunks(LOOKS_AT_ONCE) {
            for (topic_id, bytes) in some {
                *fetched.entry(*topic_id).or_default() += bytes;
            }
            turn::yield_if_needed().await;
        }
    }
    let all_fetched: u64 = samples.iter().map(|sample| sample.fetched_bytes).sum();
    type OfTopic<'a> = &'a dyn Fn(&Uuid) -> Option<u64>;
    let of_each: [(_, _, u64, OfTopic<'_>); 3] = [
        (
            "kafka_server_brokertopicmetrics_messagesin_total",
            "Records produced.",
            all.records,
            &|topic_id| Some(arrived.get(topic_id)?.records),
        ),
        (
            "kafka_server_brokertopicmetrics_bytesin_total",
            "Bytes of record batches produced.",
            all.bytes,
            &|topic_id| Some(arrived.get(topic_id)?.bytes),
        ),
        (
            "kafka_server_brokertopicmetrics_bytesout_total",
            "Bytes of record batches fetched.",
            all_fetched,
            &|topic_id| fetched.get(topic_id).copied(),
        ),
    ];
    for (name, help, of_all, of_each) in of_each {
        let mut family = text.family(name, Kind::Counter, help);
        family.sample(&[], of_all);
        let told = image
            .topics()
            .filter_map(|topic| Some((topic, of_each(&topic.id)?)));
        for (place, (topic, value)) in told.take(METRICS_PARTITIONS_MAX).enumerate() {
            family.sample(&[("topic", &topic.name)], value);
            if place.is_multiple_of(LOOKS_AT_ONCE) {
                turn::yield_if_needed().await;
            }
        }
    }
    let of = |count: fn(&CoreSample) -> u64| samples.iter().map(count).sum::<u64>();
    for (name, help, value) in [
        (
            "kafka_server_brokertopicmetrics_totalproducerequests_total",
            "Produce requests.",
            of(|core| core.requests(ProduceRequest::KEY)),
        ),
        (
            "kafka_server_brokertopicmetrics_totalfetchrequests_total",
            "Fetch requests.",
            of(|core| core.requests(FetchRequest::KEY)),
        ),
        (
            "kafka_server_brokertopicmetrics_failedproducerequests_total",
            "Partitions of produce requests that were refused.",
            of(|core| core.failed_produces),
        ),
        (
            "kafka_server_brokertopicmetrics_failedfetchrequests_total",
            "Partitions of fetch requests that were refused.",
            of(|core| core.failed_fetches),
        ),
    ] {
        text.single(name, Kind::Counter, help, value);
    }
}

impl CoreSample {
    fn on_partitions(&mut self, some: &[Rc<Partition>], one_by_one: bool) {
        self.partition_count += some.len();
        // Each lies elsewhere in memory, so that the processor waits for it: for several at a time, as long as there is
        // nothing else in between.
        let values = some.iter().map(|partition| {
            self.offline += usize::from(partition.log().failure().is_some());
            PARTITION_FAMILIES.map(|(_, _, value)| value(partition))
        });
        let values: Vec<_> = values.collect();
        for (partition, values) in some.iter().zip(values) {
            self.on_arrived(partition.topic_id, partition.arrived());
            if one_by_one {
                self.tell(partition, values);
            }
        }
    }

    fn tell(&mut self, partition: &Partition, values: [i64; PARTITION_FAMILIES.len()]) {
        let mut index = itoa::Buffer::new();
        let labels = self.labels.write(&[
            ("topic", &partition.topic),
            ("partition", index.format(partition.index.0)),
        ]);
        let families = PARTITION_FAMILIES.iter().zip(&mut self.partitions);
        for ((family, text), value) in families.zip(values) {
            text.more_of(family.0).number(labels, value);
        }
    }

    /// Partitions of one topic follow each other.
    fn on_arrived(&mut self, topic_id: Uuid, arrived: Arrived) {
        match self.arrived.last_mut() {
            Some((last, sum)) if *last == topic_id => *sum = *sum + arrived,
            _ => self.arrived.push((topic_id, arrived)),
        }
    }

    fn requests(&self, key: i16) -> u64 {
        let mut requests = self.stages.requests.iter();
        requests
            .find(|(of, _)| *of == key)
            .map_or(0, |(_, count)| *count)
    }
}

fn requests(text: &mut Text, samples: &[CoreSample]) {
    let mut counts: BTreeMap<i16, u64> = BTreeMap::new();
    let mut times: BTreeMap<i16, Distribution> = BTreeMap::new();
    for sample in samples {
        for (key, count) in &sample.stages.requests {
            *counts.entry(*key).or_default() += count;
        }
        for (key, of_core) in &sample.stages.times {
            times.entry(*key).or_default().add(of_core);
        }
    }
    let name = |key: i16| api::name(key).unwrap_or("Unknown");
    let requests = "kafka_network_requestmetrics_requests_total";
    let mut family = text.family(
        requests,
        Kind::Counter,
        "Requests that have begun, by type.",
    );
    for (key, count) in &counts {
        family.sample(&[("request", name(*key))], count);
    }
    let total = "kafka_network_requestmetrics_totaltimems";
    let help = "Milliseconds from receiving a request to having sent its response, of those that were timed.";
    let mut family = text.family(total, Kind::Summary, help);
    for (key, times) in &times {
        summary(&mut family, &[("request", name(*key))], times, 1e6);
    }
    let mut syncs = Distribution::default();
    for sample in samples {
        syncs.add(&sample.stages.stages[Stage::Sync as usize]);
    }
    let flushes = "kafka_log_logflushstats_logflushrateandtimems";
    let mut family = text.family(flushes, Kind::Summary, "Milliseconds of syncs of segments.");
    summary(&mut family, &[], &syncs, 1e6);
}

/// In units of so many nanoseconds.
fn summary(family: &mut Family<'_>, labels: &[(&str, &str)], times: &Distribution, unit: f64) {
    for (name, share) in QUANTILES {
        let labels = [labels, &[("quantile", name)]].concat();
        family.sample(&labels, times.quantile_nanos(share) as f64 / unit);
    }
    family.sample_of("_sum", labels, times.total_nanos as f64 / unit);
    family.sample_of("_count", labels, times.count);
}

/// What only a broker with one executor a core has to tell.
fn cores(text: &mut Text, shard: &Shard, samples: &[CoreSample]) {
    let numbered = || {
        samples
            .iter()
            .enumerate()
            .map(|(core, sample)| (core.to_string(), sample))
    };
    let mut family = text.family(
        "coati_core_cpu_seconds_total",
        Kind::Counter,
        "CPU time of each core's thread.",
    );
    for (core, sample) in numbered() {
        family.sample(&[("core", &core)], sample.stages.cpu.as_secs_f64());
    }
    let help = "Seconds that each stage took, of requests that were timed; /debug/stages says what they are.";
    let mut family = text.family("coati_stage_seconds", Kind::Summary, help);
    for (core, sample) in numbered() {
        for (stage, times) in Stage::ALL.into_iter().zip(&sample.stages.stages) {
            if times.count > 0 {
                summary(
                    &mut family,
                    &[("core", &core), ("stage", stage.name())],
                    times,
                    1e9,
                );
            }
        }
    }
    let help = "Seconds that tasks of each kind have held their core.";
    let mut family = text.family("coati_task_busy_seconds_total", Kind::Counter, help);
    for (core, sample) in numbered() {
        for task in &sample.stages.tasks {
            family.sample(
                &[("core", &core), ("task", task.task.name())],
                task.nanos as f64 / 1e9,
            );
        }
    }
    let help = "How often a task held its core for over a millisecond without a pause.";
    let mut family = text.family("coati_stalls_total", Kind::Counter, help);
    for (core, sample) in numbered() {
        for task in sample.stages.tasks.iter().filter(|task| task.stalls > 0) {
            family.sample(&[("core", &core), ("task", task.task.name())], task.stalls);
        }
    }
    type Of = fn(&(&'static str, usize, usize)) -> usize;
    let budgets: [(_, _, Of); 2] = [
        (
            "coati_budget_limit_bytes",
            "Memory that each budget of a core allows.",
            |budget| budget.2,
        ),
        (
            "coati_budget_used_bytes",
            "Memory that each budget of a core has given out.",
            |budget| budget.1,
        ),
    ];
    for (name, help, value) in budgets {
        let mut family = text.family(name, Kind::Gauge, help);
        for (core, sample) in numbered() {
            for budget in &sample.budgets {
                family.sample(&[("core", &core), ("budget", budget.0)], value(budget));
            }
        }
    }
    text.single(
        "coati_cores",
        Kind::Gauge,
        "Cores in use.",
        shard.broker.shards,
    );
}

/// What each core has told of them, as it is.
fn partitions(text: &mut Text, samples: Vec<CoreSample>) {
    let mut of_cores: Vec<_> = samples
        .into_iter()
        .map(|sample| sample.partitions.into_iter())
        .collect();
    for (name, help, _) in PARTITION_FAMILIES {
        let mut family = text.family(name, Kind::Gauge, help);
        for families in &mut of_cores {
            family.add(families.next().expect("each core has all families"));
        }
    }
}
