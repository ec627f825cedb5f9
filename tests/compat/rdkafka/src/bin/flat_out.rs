//! librdkafka as fast as it goes, for what its load costs a broker: bench/librdkafka reads the broker's CPU time meanwhile.
//!
//! `flat_out produce BOOTSTRAP TOPIC SIZE GB name=value…` sends so many records to partition 0 until that many GB of values
//! are acknowledged; `flat_out consume BOOTSTRAP TOPIC SIZE TIMES name=value…` reads the partition from its start to the end it has, so
//! many times over. The rest are settings of librdkafka. One line of JSON on stdout; it fails if anything is missing.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Acknowledged {
    records: AtomicU64,
    failed: AtomicU64,
}

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = if result.is_ok() {
            &self.records
        } else {
            &self.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Work {
    topic: String,
    size: usize,
    amount: f64,
    config: ClientConfig,
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || {
        arguments
            .next()
            .expect("usage: flat_out produce|consume BOOTSTRAP TOPIC SIZE GB|TIMES name=value…")
    };
    let (what, bootstrap, topic) = (next(), next(), next());
    let (size, amount) = (
        next().parse().expect("a size"),
        next().parse().expect("a number"),
    );
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap);
    for pair in arguments {
        let (name, value) = pair.split_once('=').expect("name=value");
        config.set(name, value);
    }
    let work = Work {
        topic,
        size,
        amount,
        config,
    };
    let (records, took) = match what.as_str() {
        "produce" => produce(&work),
        "consume" => consume(&work),
        _ => panic!("it produces or consumes"),
    };
    println!(
        "{}",
        json!({ "records": records, "bytes": records * work.size as u64, "seconds": took.as_secs_f64() })
    );
}

fn produce(work: &Work) -> (u64, Duration) {
    let producer: ThreadedProducer<Acknowledged> = work
        .config
        .create_with_context(Acknowledged::default())
        .expect("settings that librdkafka knows");
    producer
        .client()
        .fetch_metadata(Some(&work.topic), DEADLINE)
        .expect("a broker");
    let records = (work.amount * 1e9 / work.size as f64) as u64;
    let value = vec![b'x'; work.size];
    let began = Instant::now();
    for _ in 0..records {
        loop {
            let record = BaseRecord::<(), [u8]>::to(&work.topic)
                .partition(0)
                .payload(&value);
            match producer.send(record) {
                Ok(()) => break,
                // Its queue is full: the thread that polls makes room.
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    std::thread::sleep(Duration::from_millis(1))
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }
    producer
        .flush(DEADLINE)
        .expect("all is acknowledged in time");
    let took = began.elapsed();
    let context = producer.context();
    let (acknowledged, failed) = (
        context.records.load(Ordering::Relaxed),
        context.failed.load(Ordering::Relaxed),
    );
    assert_eq!(
        (acknowledged, failed),
        (records, 0),
        "every record is acknowledged"
    );
    (records, took)
}

fn consume(work: &Work) -> (u64, Duration) {
    let mut config = work.config.clone();
    config
        .set("group.id", "flat-out")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("settings that librdkafka knows");
    let (first, end) = consumer
        .fetch_watermarks(&work.topic, 0, DEADLINE)
        .expect("the partition");
    let each = (end - first) as u64;
    let mut place = TopicPartitionList::new();
    place
        .add_partition_offset(&work.topic, 0, Offset::Beginning)
        .expect("a partition");
    consumer.assign(&place).expect("a partition");
    let mut began = None;
    let mut took = Duration::ZERO;
    for time in 0..work.amount as u64 {
        if time > 0 {
            consumer
                .seek(&work.topic, 0, Offset::Beginning, DEADLINE)
                .expect("a partition");
        }
        let last = Cell::new(first - 1);
        let deadline = Instant::now() + DEADLINE;
        while last.get() + 1 < end {
            assert!(
                Instant::now() < deadline,
                "the end comes in time: at {} of {end}",
                last.get()
            );
            match consumer.poll(Duration::from_secs(1)) {
                None => continue,
                Some(Err(error)) => panic!("{error}"),
                Some(Ok(message)) => {
                    assert_eq!(message.offset(), last.get() + 1, "in order");
                    assert_eq!(message.payload().map(<[u8]>::len), Some(work.size));
                    last.set(message.offset());
                    // Connecting is not counted.
                    began.get_or_insert_with(Instant::now);
                }
            }
        }
        took = began.expect("a record").elapsed();
    }
    (each * work.amount as u64, took)
}
