//! Owns measuring what a produced batch is checked for: its CRC alone, then all of it.

use std::hint::black_box;

use coati::config::topic::TopicConfig;
use coati::config::{DynamicConfigs, Sources, load};
use coati::partition::validate::{CompressedRecords, validate};
use coati::protocol::Message;
use coati::protocol::batch::verify_crc;
use coati::protocol::messages::ProduceRequest;
use criterion::{Criterion, Throughput};

use crate::batches::{NOW_MS, full, shapes};

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("crc");
    for (name, batch, _) in shapes() {
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| verify_crc(black_box(&batch)))
        });
    }
    group.finish();

    let broker = load(&Sources::default()).unwrap().config;
    let topic = TopicConfig::resolve(
        &Default::default(),
        broker.layers(&DynamicConfigs::default()),
    );
    let version = ProduceRequest::MAX_VERSION;
    let mut group = criterion.benchmark_group("validate");
    for (name, batch, _) in shapes().into_iter().chain([full()]) {
        let check = || {
            let trust = CompressedRecords::Trust;
            validate(black_box(&batch), version, &"t-0", &topic, trust, NOW_MS)
        };
        check().expect("the batch is as a client makes it");
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |bencher| bencher.iter(check));
    }
    group.finish();
}
