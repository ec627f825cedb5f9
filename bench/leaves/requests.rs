//! Owns measuring how a request is decoded, from its frame's first byte to dropping what was decoded.

use std::hint::black_box;

use bytes::Bytes;
use coati::protocol::header::write_request_header;
use coati::protocol::messages::fetch_request::{FetchPartition, FetchRequest, FetchTopic};
use coati::protocol::messages::produce_request::{
    PartitionProduceData, ProduceRequest, TopicProduceData,
};
use coati::protocol::{Reader, Records, Request, RequestHeader, Uuid, Writer, read_request_header};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

use crate::batches;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let large = produce(1, &batches::large());
    decode(&mut group, "Produce, 1 partition", large, 1);
    let small = produce(100, &batches::small());
    decode(&mut group, "Produce, 100 partitions", small, 100);
    decode(&mut group, "Fetch, 1 partition", fetch(1), 1);
    decode(&mut group, "Fetch, 1000 partitions", fetch(1000), 1000);
    group.finish();
}

/// Counts in partitions: the records stay in the frame, their size costs nothing here.
fn decode<R: Request>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    request: R,
    partitions: u64,
) {
    let frame = frame(&request);
    group.throughput(Throughput::Elements(partitions));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let mut reader = Reader::new(black_box(&frame).clone());
            let header = read_request_header(&mut reader).unwrap();
            let request = R::decode(&mut reader, header.api_version).unwrap();
            reader.expect_end().unwrap();
            request
        });
    });
}

/// As `net::frame` cuts it out, without the length ahead.
fn frame<R: Request>(request: &R) -> Bytes {
    let header = RequestHeader {
        api_key: R::KEY,
        api_version: R::MAX_VERSION,
        correlation_id: 7,
        client_id: Some("producer-1".into()),
    };
    let mut writer = Writer::new();
    write_request_header(&mut writer, &header).unwrap();
    request.encode(&mut writer, R::MAX_VERSION).unwrap();
    writer.into_bytes()
}

fn produce(partitions: i32, batch: &Bytes) -> ProduceRequest {
    let partition_data = (0..partitions).map(|index| PartitionProduceData {
        index,
        records: Some(Records::from(batch.clone())),
    });
    ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            topic_id: Uuid([7; 16]),
            partition_data: partition_data.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn fetch(partitions: i32) -> FetchRequest {
    let partitions = (0..partitions).map(|partition| FetchPartition {
        partition,
        fetch_offset: 1_000_000,
        partition_max_bytes: 1 << 20,
        ..Default::default()
    });
    FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 50 << 20,
        topics: vec![FetchTopic {
            topic_id: Uuid([7; 16]),
            partitions: partitions.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
