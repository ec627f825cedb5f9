//! Owns measuring the leaves of the hot path, each alone: one file a leaf. It never starts a broker and
//! opens no socket; what a change is worth to users only `coati bench` tells.

mod appender;
mod batches;
mod checks;
mod requests;
mod responses;
mod tail_cache;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    leaves,
    checks::bench,
    requests::bench,
    appender::bench,
    tail_cache::bench,
    responses::bench
);
criterion_main!(leaves);
