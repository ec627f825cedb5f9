//! A load through librdkafka, measured the way `coati bench produce` measures its own: what tests/bench/crosscheck.py holds
//! the generator against. It shares no code with it.
//!
//! `load BOOTSTRAP TOPIC name=value…`: rate (records/s; 0 as fast as acknowledged), size, seconds, warm_up, and settings of
//! librdkafka. One line of JSON on stdout. Record n of a rate is meant to leave at n / rate, and its latency counts from then
//! until its delivery is reported; without a rate it counts from the call that handed the record over.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(30);

/// What came of the records: nanoseconds from when one was due, and when that was known.
#[derive(Default)]
struct Deliveries(Mutex<Delivered>);

#[derive(Default)]
struct Delivered {
    latencies: Vec<(Instant, Instant)>,
    failed: usize,
    first_error: Option<String>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, due: Box<Instant>) {
        let now = Instant::now();
        let mut delivered = self.0.lock().expect("nobody panics with it");
        match result {
            Ok(_) => delivered.latencies.push((*due, now)),
            Err((error, _)) => {
                delivered.failed += 1;
                delivered.first_error.get_or_insert(error.to_string());
            }
        }
    }
}

struct Load {
    rate: f64,
    size: usize,
    seconds: Duration,
    warm_up: Duration,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("usage: load BOOTSTRAP TOPIC name=value…");
    let (bootstrap, topic) = (next(), next());
    let pairs = arguments.map(|pair| {
        let (name, value) = pair.split_once('=').expect("name=value");
        (name.to_owned(), value.to_owned())
    });
    let mut given: HashMap<String, String> = pairs.collect();
    let mut number = |name: &str| -> f64 {
        let value = given.remove(name).unwrap_or_else(|| panic!("{name}= is missing"));
        value.parse().expect("a number")
    };
    let load = Load {
        rate: number("rate"),
        size: number("size") as usize,
        seconds: Duration::from_secs_f64(number("seconds")),
        warm_up: Duration::from_secs_f64(number("warm_up")),
    };
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("partitioner", "consistent");
    for (name, value) in given {
        config.set(name, value);
    }
    let producer: ThreadedProducer<Deliveries> =
        config.create_with_context(Deliveries::default()).expect("settings that librdkafka knows");
    // Connected before the first record is due.
    let metadata = producer.client().fetch_metadata(Some(&topic), DEADLINE).expect("a broker");
    assert_eq!(metadata.topics()[0].partitions().len(), 1, "the topic has one partition");
    println!("{}", run(&producer, &topic, &load));
}

/// Bytes that do not compress, the same each time.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..size).map(|_| byte()).collect()
}

fn run(producer: &ThreadedProducer<Deliveries>, topic: &str, load: &Load) -> serde_json::Value {
    let value = noise(load.size);
    let start = Instant::now() + Duration::from_millis(50);
    let measure_from = start + load.warm_up;
    let end = measure_from + load.seconds;
    let mut sent = 0_u64;
    loop {
        let now = Instant::now();
        let due = match load.rate {
            0.0 => now.max(start),
            rate => start + Duration::from_secs_f64(sent as f64 / rate),
        };
        if due >= end {
            break;
        }
        if due > now {
            std::thread::sleep(due - now);
            continue;
        }
        let record = BaseRecord::<(), [u8], _>::with_opaque_to(topic, Box::new(due)).payload(&value);
        match producer.send(record) {
            Ok(()) => sent += 1,
            // The queue is as long as is allowed: the thread that polls makes room.
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => std::thread::sleep(Duration::from_micros(100)),
            Err((error, _)) => panic!("record {sent}: {error}"),
        }
    }
    producer.flush(DEADLINE).expect("all is acknowledged in time");
    let delivered = std::mem::take(&mut *producer.context().0.lock().expect("nobody panics with it"));
    // As in the generator: volumes are of acknowledgements in the measured time, latencies of records due in it.
    let acknowledged = delivered.latencies.iter().filter(|(_, at)| (measure_from..end).contains(at)).count();
    let due = delivered.latencies.iter().filter(|(due, _)| *due >= measure_from);
    let mut latencies: Vec<Duration> = due.map(|(due, at)| *at - *due).collect();
    latencies.sort_unstable();
    let percentile = |percent: f64| {
        let rank = (latencies.len() as f64 * percent / 100.0).ceil() as usize;
        latencies.get(rank.max(1) - 1).map(|latency| latency.as_secs_f64() * 1e3)
    };
    json!({
        "sent": sent,
        "delivered": delivered.latencies.len(),
        "failed": delivered.failed,
        "first_error": delivered.first_error,
        "records_per_second": acknowledged as f64 / load.seconds.as_secs_f64(),
        "p50": percentile(50.0),
        "p99": percentile(99.0),
        "max": percentile(100.0),
    })
}
