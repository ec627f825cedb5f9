//! The fuzzer's targets on damaged data for a bounded while: no panic, no hang, no memory that the data
//! does not pay for. What is damaged comes from Apache Kafka; the seed is fixed, so a failure comes again.

#![allow(
    unsafe_code,
    reason = "an allocator that counts can't be written without"
)]

#[path = "fuzz/damage.rs"]
mod damage;
#[path = "fuzz/targets.rs"]
mod targets;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use coati::io::clock;
use coati::protocol::compression::{Codec, compress};
use damage::{Random, corpus, damage};
use targets::APIS;

/// Counts what the current thread holds, and refuses what no target may ask for.
struct Counting;

const ALLOCATION_MAX: usize = 1 << 30;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // Allocations while a thread ends find its counters gone.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + change);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: all is handed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > ALLOCATION_MAX {
            return std::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller keeps to what `GlobalAlloc` asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How much a target may hold for each byte it is given, and whatever it is given.
struct Bound {
    per_byte: usize,
    fixed: usize,
}

/// An element of an array may be a few bytes on the wire and some more in memory.
const MESSAGES: Bound = Bound {
    per_byte: 64,
    fixed: 16 << 10,
};
const FILES: Bound = Bound {
    per_byte: 16,
    fixed: 16 << 10,
};
/// Decompressing doubles its buffer until the limit of a mebibyte is reached.
const RECORDS: Bound = Bound {
    per_byte: 64,
    fixed: 4 << 20,
};
const CALL_MAX: Duration = Duration::from_secs(5);

/// Runs a target on `seeds` and on what becomes of them, `rounds` times each.
fn run(name: &str, target: fn(&[u8]), bound: &Bound, seeds: &[Vec<u8>], rounds: usize) {
    assert!(!seeds.is_empty());
    let mut random = Random(0x5eed);
    let mut worst = 0;
    for (number, seed) in seeds.iter().enumerate() {
        for round in 0..=rounds {
            let mut data = seed.clone();
            if round > 0 {
                let other = &seeds[random.below(seeds.len())];
                damage(&mut data, other, &mut random);
            }
            let held = HELD.get();
            PEAK.set(held);
            let start = clock::now();
            let result = std::panic::catch_unwind(|| target(&data));
            let told = || format!("{name}, seed {number}, round {round}: {}", hex(&data));
            assert!(result.is_ok(), "panicked: {}", told());
            assert!(clock::now() - start < CALL_MAX, "took too long: {}", told());
            let peak = (PEAK.get() - held) as usize;
            worst = worst.max(peak);
            assert!(
                peak <= bound.fixed + bound.per_byte * data.len(),
                "held {peak} bytes for {}: {}",
                data.len(),
                told()
            );
        }
    }
    println!(
        "{name}: {} inputs, at most {worst} bytes held",
        seeds.len() * (rounds + 1)
    );
}

fn hex(data: &[u8]) -> String {
    data.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that Apache Kafka has written.
fn fixture(path: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kafka-4.4");
    std::fs::read(folder.join(path)).expect("a fixture")
}

fn with_first(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first], rest].concat()
}

#[test]
fn every_api_is_covered() {
    for (key, name, min, max, _) in coati::protocol::messages::APIS {
        let api = APIS.iter().find(|api| api.key == *key);
        let versions = api.map(|api| (api.min_version, api.max_version));
        assert_eq!(versions, Some((*min, *max)), "{name}");
    }
}

#[test]
fn request_frames() {
    let frames = damage::request_frames();
    assert!(frames.len() > 500);
    run(
        "request frames",
        targets::request_frame,
        &MESSAGES,
        &frames,
        400,
    );
}

#[test]
fn response_bodies() {
    let mut bodies = Vec::new();
    for (name, version, body) in corpus() {
        let Some(api) = APIS.iter().find(|api| api.response == name) else {
            continue;
        };
        bodies.push([&[api.key as u8, version as u8], &body[..]].concat());
    }
    assert!(bodies.len() > 500);
    run(
        "response bodies",
        targets::response_body,
        &MESSAGES,
        &bodies,
        400,
    );
}

/// Segments, and each of their batches alone.
fn segments_and_batches() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let partitions = [
        "plain-0",
        "small-0",
        "txn-0",
        "codecs-0",
        "__transaction_state-0",
        "__cluster_metadata-0",
    ];
    let log = |partition: &str| fixture(&format!("{partition}/00000000000000000000.log"));
    let segments: Vec<_> = partitions.into_iter().map(log).collect();
    let mut batches = Vec::new();
    for segment in &segments {
        for batch in coati::protocol::batch::views(segment).take(25) {
            let mut batch = batch.expect("whole").bytes().to_vec();
            // As a producer would have sent it.
            batch[..8].fill(0);
            batches.push(batch);
        }
    }
    (segments, batches)
}

#[test]
fn record_batches() {
    let (mut segments, batches) = segments_and_batches();
    segments.extend(batches);
    run(
        "record batches",
        targets::record_batches,
        &RECORDS,
        &segments,
        1500,
    );
}

#[test]
fn produced_records() {
    let (_, batches) = segments_and_batches();
    let seeds: Vec<_> = (0..9)
        .flat_map(|choice| batches.iter().map(move |batch| with_first(choice, batch)))
        .collect();
    run(
        "produced records",
        targets::produced_records,
        &RECORDS,
        &seeds,
        200,
    );
}

#[test]
fn compressed() {
    let (_, batches) = segments_and_batches();
    let mut seeds: Vec<_> = batches
        .iter()
        .map(|batch| with_first(batch[22] & 7, &batch[61..]))
        .collect();
    // Bombs: four times the limit in little.
    let zeroes = vec![0; 4 * targets::DECOMPRESSED_MAX];
    for codec in &Codec::ALL[1..] {
        seeds.push(with_first(
            codec.id() as u8,
            &compress(*codec, None, &zeroes),
        ));
    }
    run("compressed", targets::compressed, &RECORDS, &seeds, 1500);
}

#[test]
fn log_files() {
    let files = [
        (0, "small-0/00000000000000000000.index"),
        (1, "plain-0/00000000000000000000.timeindex"),
        (2, "txn-0/00000000000000000000.txnindex"),
        (3, "txn-0/00000000000000000019.snapshot"),
        (3, "codecs-0/00000000000000000025.snapshot"),
        (4, "plain-0/leader-epoch-checkpoint"),
        (5, "recovery-point-offset-checkpoint"),
        (6, "plain-0/partition.metadata"),
        (7, "meta.properties"),
        (8, ".kafka_cleanshutdown"),
    ];
    let seeds: Vec<_> = files
        .iter()
        .map(|(kind, path)| with_first(*kind, &fixture(path)))
        .collect();
    run("log files", targets::log_files, &FILES, &seeds, 30_000);
}

#[test]
fn log_records() {
    let mut seeds = Vec::new();
    for (kind, partition) in [(0, "__cluster_metadata-0"), (2, "__transaction_state-0")] {
        let segment = fixture(&format!("{partition}/00000000000000000000.log")).into();
        for batch in coati::protocol::batch::batches(&segment) {
            for record in
                coati::protocol::batch::records(&batch.expect("whole"), 1 << 20).expect("readable")
            {
                let record = record.expect("readable");
                let value = record.value.unwrap_or_default();
                let key = record.key.unwrap_or_default();
                let key = if kind == 0 {
                    Vec::new()
                } else {
                    with_first(key.len() as u8, &key)
                };
                seeds.push([&[kind], &key[..], &value].concat());
            }
        }
    }
    seeds.push(with_first(1, &[6, 0, 2, 0, 2, b'g', b'g', 0, 3, 0, 0]));
    seeds.push(with_first(3, &[4, 0, 0, 1, 1, 0, 0, 0]));
    run("log records", targets::log_records, &MESSAGES, &seeds, 3000);
}
