//! Owns measuring what an append keeps its core busy with: ordering, the copy into the tail buffer, the
//! indexes, handing the first write over. The write itself is waited for and not counted.

use std::future::poll_fn;
use std::hint::black_box;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use coati::ids::LeaderEpoch;
use coati::io::clock;
use coati::log::Log;
use criterion::{Criterion, Throughput};
use futures::task::AtomicWaker;

use crate::batches::{self, LogOnDisk, NOW_MS};

/// Appended between two waits.
const UNWRITTEN_BYTES: usize = 4 << 20;

pub fn bench(criterion: &mut Criterion) {
    let executor = batches::executor();
    let mut group = criterion.benchmark_group("append");
    for (name, batch, _) in batches::shapes() {
        let LogOnDisk { log, .. } = &LogOnDisk::create(&executor);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| executor.run(append(log, &batch, times)));
        });
    }
    group.finish();
}

async fn append(log: &Rc<Log>, batch: &[u8], times: u64) -> Duration {
    let group = (UNWRITTEN_BYTES / batch.len()) as u64;
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let count = left.min(group);
        let start = clock::now();
        for _ in 0..count {
            let appended = log.append(black_box(batch), LeaderEpoch(0), NOW_MS);
            black_box(appended.unwrap());
        }
        spent += clock::now() - start;
        left -= count;
        all_written(log).await;
    }
    // The disk is to hold no more than the last few segments.
    let end = log.end_offset();
    log.delete_records_before(end).await.unwrap();
    log.enforce_retention(NOW_MS, end).await.unwrap();
    log.tick(NOW_MS).await.unwrap();
    spent
}

/// Waits until the device has taken everything, so that memory is bounded.
pub async fn all_written(log: &Log) {
    let waker = Rc::new(AtomicWaker::new());
    let observer = waker.clone();
    log.set_observer(Rc::new(move |_| observer.wake()));
    poll_fn(|context| {
        waker.register(context.waker());
        assert_eq!(log.failure(), None);
        match log.written_end() == log.end_offset() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await
}
