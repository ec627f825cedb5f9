//! A crowd of idle connections and of readers that hardly read: bounded memory, and no one else's latency.

use std::io::Read;
use std::time::Duration;

use coati::ids::Offset;
use coati::io::{clock, process};
use coati::limits;
use coati::protocol::batch;
use coati::protocol::messages::{ApiVersionsRequest, FetchRequest};

use crate::broker::Broker;
use crate::client::*;

/// As large as by default: much more is fetched than fits.
const TAIL_CACHE_BYTES: usize = 256 << 20;
const IDLE: usize = 5000;
const SLOW: usize = 200;
/// Fetches that each slow reader has sent ahead.
const FETCHES: usize = 8;
/// What is produced before each of the slow readers comes; together it is far more than the broker may hold.
const BATCHES: usize = 6;
const BATCH_BYTES: usize = 900_000;
const ROUNDS: usize = 300;

/// A connection's own memory: its tasks, its polls, its place in the tables.
const CONNECTION_BYTES: usize = 16 << 10;
/// The program itself, and what the allocator does not give back.
const SLACK_BYTES: usize = 128 << 20;

/// A client that has asked for much and takes a kilobyte of it at a time.
struct SlowReader {
    client: Client,
    offset: i64,
    fetches: Vec<i32>,
    /// What it has read of the first response.
    read: Vec<u8>,
}

impl SlowReader {
    fn start(broker: &Broker, offset: i64) -> SlowReader {
        let mut client = Client::connect(broker.address);
        let fetches = (0..FETCHES)
            .map(|_| client.send(&fetch("big", 0, offset, 0), FETCH_VERSION))
            .collect();
        SlowReader {
            client,
            offset,
            fetches,
            read: Vec::new(),
        }
    }

    fn read_a_little(&mut self) {
        let mut kilobyte = [0; 1024];
        let stream = &mut self.client.stream;
        stream.read_exact(&mut kilobyte).expect("there is more");
        self.read.extend(kilobyte);
    }

    fn read_rest(&mut self) {
        let length = self.read.first_chunk().expect("it has read a little");
        let mut rest = vec![0; 4 + i32::from_be_bytes(*length) as usize - self.read.len()];
        self.client.stream.read_exact(&mut rest).expect("the rest");
        for id in &self.fetches[1..] {
            let response = self.client.receive::<FetchRequest>(*id, FETCH_VERSION);
            assert!(fetched(&response).0 >= BATCH_BYTES);
            let records = response.responses[0].partitions[0].records.clone();
            let records = records.expect("there are some").to_bytes();
            let whole = batch::batches(&records).map_while(Result::ok);
            for (batch, offset) in whole.zip(self.offset..) {
                assert!(batch.verify_crc().is_ok());
                assert_eq!(batch.view().header().base_offset(), Offset(offset));
            }
        }
    }
}

/// One record from its producer to a consumer that waits for it, `ROUNDS` times. Gives the median and the 99th percentile.
fn pass_records(broker: &Broker, from: i64, mut meanwhile: impl FnMut()) -> (Duration, Duration) {
    let mut producer = Client::connect(broker.address);
    let mut consumer = Client::connect(broker.address);
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let offset = from + round as i64;
        let fetch = consumer.send(&fetch("small", 0, offset, 30_000), FETCH_VERSION);
        let began = clock::now();
        assert_eq!(producer.produce("small", 0, batch(1000)), (0, offset));
        let response = consumer.receive::<FetchRequest>(fetch, FETCH_VERSION);
        took.push(began.elapsed());
        assert_eq!(fetched(&response).1, offset + 1);
        meanwhile();
    }
    took.sort();
    (took[ROUNDS / 2], took[ROUNDS * 99 / 100])
}

#[test]
fn idle_connections_and_slow_readers_cost_bounded_memory_and_no_one_elses_latency() {
    process::raise_descriptor_limit().expect("a higher limit");
    let tail_cache = format!("log.tail.cache.bytes={TAIL_CACHE_BYTES}");
    let broker = Broker::start(2, &[&tail_cache]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("big", 1);
    setup.create_topic("small", 1);
    let started = broker.cpu_ticks();
    let alone = pass_records(&broker, 0, || {});
    let alone_ticks = broker.cpu_ticks() - started;
    let empty_bytes = broker.resident_bytes();

    let mut idle: Vec<Client> = (0..IDLE).map(|_| Client::connect(broker.address)).collect();
    for client in &mut idle {
        client.call(&ApiVersionsRequest::default(), 0);
    }
    let idle_bytes = broker.resident_bytes();

    let big = batch(BATCH_BYTES);
    let mut slow: Vec<SlowReader> = (0..SLOW)
        .map(|number| {
            for _ in 0..BATCHES {
                assert_eq!(setup.produce("big", 0, big.clone()).0, 0);
            }
            SlowReader::start(&broker, (number * BATCHES) as i64)
        })
        .collect();
    let started = broker.cpu_ticks();
    let crowded = pass_records(&broker, ROUNDS as i64, || {
        slow.iter_mut().for_each(SlowReader::read_a_little);
    });
    let crowded_ticks = broker.cpu_ticks() - started;
    let crowded_bytes = broker.resident_bytes();
    println!(
        "alone p50 {:?} p99 {:?}, in the crowd p50 {:?} p99 {:?}; CPU 1/100 s {alone_ticks} and {crowded_ticks}; \
         resident KiB: empty {}, idle connections {}, all {}",
        alone.0,
        alone.1,
        crowded.0,
        crowded.1,
        empty_bytes >> 10,
        idle_bytes >> 10,
        crowded_bytes >> 10
    );
    let bound = TAIL_CACHE_BYTES
        + 2 * limits::CORE_RESPONSE_BYTES_MAX
        + (IDLE + SLOW) * CONNECTION_BYTES
        + SLACK_BYTES;
    assert!(BATCHES * BATCH_BYTES * SLOW > bound + (bound / 2));
    assert!(crowded_bytes < bound, "{crowded_bytes} bytes resident");

    // Nothing was dropped: who reads on gets all that was asked for, in order.
    let mut last = slow.pop().expect("there are some");
    last.read_rest();
    drop((idle, slow));
    setup.call(&metadata("small"), METADATA_VERSION);
}
