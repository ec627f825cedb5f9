//! Owns one client that writes for as long as it may, whatever becomes of the broker meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use coati::client::{
    Acks, Cluster, ClusterOptions, Delivery, Missing, Producer, ProducerOptions, ProducerRecord,
};
use coati::ids::{Offset, PartitionIndex};
use coati::io::entropy::Random;
use coati::protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};

pub const TOPIC: &str = "written";
pub const PARTITIONS: usize = 4;

/// Longer than all rounds together.
const DELIVERY_MAX: Duration = Duration::from_secs(600);

/// What the client is promised with an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// Idempotent, acks=all: there once, in order.
    Once,
    /// acks=all: there, where the answer says.
    Stored,
    /// acks=1: the same, of a broker that is killed.
    Written,
}

#[derive(Debug)]
pub struct Written {
    pub promise: Promise,
    pub acknowledged: Vec<Acknowledged>,
    /// By partition, records sent.
    pub sent: [u64; PARTITIONS],
}

#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub partition: usize,
    /// Counts the client's records of this partition from 0.
    pub number: u64,
    /// None: the broker had it already, and said no more.
    pub offset: Option<Offset>,
}

pub async fn connect(address: &str) -> Cluster {
    let options = ClusterOptions {
        retry_for: DELIVERY_MAX,
        ..ClusterOptions::default()
    };
    loop {
        match Cluster::connect(&[address.to_owned()], options.clone()).await {
            Ok(cluster) => return cluster,
            Err(_) => coati::io::timer::sleep(Duration::from_millis(20)).await,
        }
    }
}

pub fn on_executor<T>(work: impl Future<Output = T>) -> T {
    let executor = glommio::LocalExecutorBuilder::default().make();
    executor.expect("io_uring").run(work)
}

pub fn create_topic(address: &str) {
    let topic = CreatableTopic {
        name: TOPIC.into(),
        num_partitions: PARTITIONS as i32,
        replication_factor: 1,
        assignments: Vec::new(),
        // Rolled often: a crash meets sealed segments in all their states.
        configs: vec![CreatableTopicConfig {
            name: "segment.bytes".into(),
            value: Some((1 << 20).to_string().into()),
        }],
    };
    on_executor(async {
        let created = connect(address).await.create_topic(topic, false).await;
        created.expect("a new topic");
    });
}

/// Writes until `stop`, then waits for what is in flight.
pub fn write(address: &str, promise: Promise, seed: u64, stop: &AtomicBool) -> Written {
    on_executor(async {
        let cluster = connect(address).await;
        let producer = producer(cluster, promise).await;
        let mut random = Random::new(seed);
        let mut sent = [0; PARTITIONS];
        let mut waiting: Vec<(usize, u64, Delivery)> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..=random.below(20) {
                let partition = random.below(PARTITIONS as u64) as usize;
                let number = sent[partition];
                sent[partition] += 1;
                let record = record(promise, partition, number, &mut random);
                let delivery = producer.send(record).await;
                waiting.push((partition, number, delivery.expect("taken")));
            }
            coati::io::timer::sleep(Duration::from_millis(1 + random.below(8))).await;
        }
        producer.flush().await;
        let mut acknowledged = Vec::new();
        for (partition, number, delivery) in waiting {
            let delivered = delivery.wait().await;
            let delivered = delivered
                .unwrap_or_else(|error| panic!("{promise:?} {partition}/{number}: {error}"));
            acknowledged.push(Acknowledged {
                partition,
                number,
                offset: delivered.offset,
            });
        }
        Written {
            promise,
            acknowledged,
            sent,
        }
    })
}

async fn producer(cluster: Cluster, promise: Promise) -> Producer {
    loop {
        let options = ProducerOptions {
            acks: match promise {
                Promise::Written => Acks::Leader,
                Promise::Once | Promise::Stored => Acks::All,
            },
            idempotent: promise == Promise::Once,
            linger: Duration::ZERO,
            batch_bytes: 16 << 10,
            buffer_bytes: 256 << 10,
            delivery_timeout: DELIVERY_MAX,
            missing: Missing::Fail,
            ..ProducerOptions::default()
        };
        // A broker that dies at its first request is met again by the next attempt.
        if let Ok(producer) = Producer::new(cluster.clone(), options).await {
            return producer;
        }
        coati::io::timer::sleep(Duration::from_millis(20)).await;
    }
}

fn record(promise: Promise, partition: usize, number: u64, random: &mut Random) -> ProducerRecord {
    let size = match random.below(20) {
        0 => random.below(8_000),
        _ => random.below(600),
    };
    let mut value = vec![b'.'; size as usize];
    let digits = random.next_u64().to_le_bytes();
    let filled = value.len().min(digits.len());
    value[..filled].copy_from_slice(&digits[..filled]);
    ProducerRecord {
        topic: TOPIC.into(),
        partition: Some(PartitionIndex(partition as i32)),
        key: Some(Bytes::from(key(promise, number))),
        value: Some(value.into()),
        ..ProducerRecord::default()
    }
}

pub fn key(promise: Promise, number: u64) -> String {
    format!("{promise:?} {number}")
}
