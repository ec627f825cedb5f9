//! Owns measuring how a response becomes the parts that are sent, from its structure to dropping them.

use std::hint::black_box;

use bytes::Bytes;
use coati::protocol::messages::fetch_response::{
    FetchResponse, FetchableTopicResponse, PartitionData,
};
use coati::protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use coati::protocol::messages::{FetchRequest, ProduceRequest};
use coati::protocol::{Message, Records, Request, Uuid, Writer, write_response_header};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};

use crate::batches;

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("respond");
    for (count, partitions) in [("1 partition", 1), ("100 partitions", 100)] {
        let name = format!("Produce, {count}");
        let answer = produced(partitions);
        respond::<ProduceRequest, _>(&mut group, &name, answer, partitions);
        for (shape, batch, _) in batches::shapes() {
            let name = format!("Fetch, {count} of {shape}");
            let answer = fetched(partitions, &batch);
            respond::<FetchRequest, _>(&mut group, &name, answer, partitions);
        }
    }
    group.finish();
}

/// Counts in partitions: large records are sent from where they lie.
fn respond<R: Request, M: Message>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    response: M,
    partitions: i32,
) {
    group.throughput(Throughput::Elements(partitions as u64));
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            let mut writer = Writer::frame();
            write_response_header(&mut writer, R::KEY, R::MAX_VERSION, 7);
            let response = black_box(&response);
            response.encode(&mut writer, R::MAX_VERSION).unwrap();
            writer.finish()
        });
    });
}

fn produced(partitions: i32) -> ProduceResponse {
    let partitions = (0..partitions).map(|index| PartitionProduceResponse {
        index,
        base_offset: 1_000_000,
        log_start_offset: 0,
        ..Default::default()
    });
    ProduceResponse {
        responses: vec![TopicProduceResponse {
            topic_id: Uuid([7; 16]),
            partition_responses: partitions.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn fetched(partitions: i32, batch: &Bytes) -> FetchResponse {
    let partitions = (0..partitions).map(|partition_index| PartitionData {
        partition_index,
        high_watermark: 1_000_064,
        last_stable_offset: 1_000_064,
        log_start_offset: 0,
        records: Some(Records::from(batch.clone())),
        ..Default::default()
    });
    FetchResponse {
        responses: vec![FetchableTopicResponse {
            topic_id: Uuid([7; 16]),
            partitions: partitions.collect(),
            ..Default::default()
        }],
        ..Default::default()
    }
}
