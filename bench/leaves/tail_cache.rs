//! Owns measuring a hot read: from an offset to the parts of a fetch's answer, out of the tail cache.

use std::hint::black_box;
use std::rc::Rc;

use coati::ids::{LeaderEpoch, Offset};
use coati::log::Log;
use coati::protocol::Records;
use criterion::{Criterion, Throughput};
use futures::FutureExt;

use crate::appender::all_written;
use crate::batches::{self, LogOnDisk, NOW_MS};

/// Hot while reading.
const HOT_BYTES: usize = 16 << 20;
/// What a consumer asks for of a partition, by default.
const FETCH_BYTES: usize = 1 << 20;
/// From a read's batch to the next one's: prime, so that no two reads in a row are near each other.
const STRIDE: usize = 7919;

pub fn bench(criterion: &mut Criterion) {
    let executor = batches::executor();
    let mut group = criterion.benchmark_group("read hot");
    for (name, batch, records) in batches::shapes() {
        let LogOnDisk { log, .. } = &LogOnDisk::create(&executor);
        let count = HOT_BYTES / batch.len();
        executor.run(async {
            for _ in 0..count {
                log.append(&batch, LeaderEpoch(0), NOW_MS).unwrap();
            }
            all_written(log).await;
        });
        for (what, max_bytes) in [("one batch", 1), ("1 MiB", FETCH_BYTES)] {
            let batches_read = read(log, Offset(0), max_bytes).len() / batch.len();
            group.throughput(Throughput::Elements(batches_read as u64));
            group.bench_function(format!("{name}, {what}"), |bencher| {
                let mut next = 0;
                bencher.iter(|| {
                    next = (next + STRIDE) % (count - batches_read);
                    read(log, Offset((next * records) as i64), black_box(max_bytes))
                });
            });
        }
    }
    group.finish();
}

/// A read that found no hot batch would wait for the disk, and panics.
fn read(log: &Rc<Log>, from: Offset, max_bytes: usize) -> Records {
    let read = log.read(from, log.end_offset(), max_bytes, true);
    let records = read.now_or_never().expect("the batch is hot").unwrap();
    assert_eq!(records.memory_len(), records.len());
    records
}
