//! The log on a real disk under glommio; crashes are in tests/simulation.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::journal::{Journal, JournalKey, JournalLimits, replay};
use super::*;
use crate::io::{Disk, ring, timer};
use crate::protocol::{Part, Records};

/// A batch of `count` records whose bytes are no records: the log does not look.
fn batch(count: i32, body: usize, timestamp: TimestampMs) -> Vec<u8> {
    let mut bytes = vec![0; 61 + body];
    bytes[8..12].copy_from_slice(&((49 + body) as i32).to_be_bytes());
    bytes[16] = 2;
    bytes[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    bytes[27..35].copy_from_slice(&timestamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&timestamp.to_be_bytes());
    bytes[43..51].copy_from_slice(&(-1i64).to_be_bytes());
    bytes[51..53].copy_from_slice(&(-1i16).to_be_bytes());
    bytes[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    for (index, byte) in bytes[61..].iter_mut().enumerate() {
        *byte = index as u8;
    }
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub(super) fn on_glommio(test: impl AsyncFnOnce() + Send + 'static) {
    glommio::LocalExecutorBuilder::default()
        .spawn(|| async move {
            ring::init_thread().unwrap();
            test().await
        })
        .unwrap()
        .join()
        .unwrap()
}

/// The bytes of records wherever they lie.
pub(super) fn bytes_of(records: &Records) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in records.parts() {
        match part {
            Part::Memory(memory) => bytes.extend_from_slice(memory),
            Part::File(range) => {
                let mut buffer = vec![0; range.length as usize];
                let file = std::fs::File::from(range.file.try_clone().unwrap());
                file.read_exact_at(&mut buffer, range.position).unwrap();
                bytes.extend_from_slice(&buffer);
            }
        }
    }
    bytes
}

/// Walks the batches: offsets continue from `from`, checksums fit. Returns the offset behind.
fn check(bytes: &[u8], from: Offset) -> Offset {
    let mut rest = bytes;
    let mut expected = from;
    while let Some(header) = header::Header::parse(rest) {
        if header.size as usize > rest.len() {
            break;
        }
        assert_eq!(header.base_offset, expected);
        assert!(header.checksum_fits(&rest[..header.size as usize]));
        expected = header.next_offset();
        rest = &rest[header.size as usize..];
    }
    expected
}

pub(super) fn context(budget: usize) -> LogContext {
    LogContext::on_this_thread(Disk::direct(), TailBudget::new(budget))
}

pub(super) fn folder() -> tempfile::TempDir {
    // Beside the build, which lies on a real disk; /tmp may be memory.
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_owned() + "/target").unwrap()
}

async fn read_all(log: &Rc<Log>, from: Offset) -> Offset {
    let mut at = from;
    while at < log.end_offset() {
        let records = log.read(at, log.end_offset(), 100_000, true).await.unwrap();
        let next = check(&bytes_of(&records), at);
        assert!(next > at, "progress at {at}");
        at = next;
    }
    at
}

pub(super) fn segment_files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn what_is_appended_is_read_back_hot_cold_and_after_recovery() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let settings = LogSettings {
            segment_bytes: 300_000,
            ..LogSettings::default()
        };
        let log = Log::create(context(128 << 10), dir.clone(), None, settings.clone(), 0)
            .await
            .unwrap();
        let mut end = Offset(0);
        for number in 0..500 {
            let batch = batch(3, 100 + number * 7, 1_000 + number as i64);
            let appended = log.append(&batch, LeaderEpoch(1), 0).unwrap();
            assert_eq!(appended.base_offset, end);
            end = appended.last_offset.plus(1);
            if number % 50 == 0 {
                log.flush().await.unwrap();
                assert_eq!(log.durable_end(), end);
                assert_eq!(read_all(&log, Offset(0)).await, end);
            }
        }
        log.flush().await.unwrap();
        assert!(log.context.budget.used() <= 128 << 10);
        assert_eq!(read_all(&log, Offset(699)).await, end);
        let epochs = log.end_offset_for(LeaderEpoch(1));
        assert_eq!(epochs, Some((LeaderEpoch(1), end)));
        // Two logs at the same files are nothing that may be: the first has finished its segments.
        log.wait_until(|state| state.is_at_rest() && state.unfinished.is_empty())
            .await
            .unwrap();
        drop(log);

        let opening = Opening::default();
        let (log, recovered) =
            Log::open(context(1 << 20), dir.clone(), settings.clone(), opening, 0)
                .await
                .unwrap();
        assert_eq!(recovered.cut_bytes, 0);
        assert_eq!(log.end_offset(), end);
        assert_eq!(read_all(&log, Offset(0)).await, end);
        let appended = log.append(&batch(1, 10, 5_000), LeaderEpoch(2), 0).unwrap();
        assert_eq!(appended.base_offset, end);
        log.close().await.unwrap();

        let opening = Opening {
            clean: true,
            ..Opening::default()
        };
        let (log, recovered) = Log::open(context(1 << 20), dir.clone(), settings, opening, 0)
            .await
            .unwrap();
        assert_eq!(recovered.scanned_bytes, 0);
        assert_eq!(log.end_offset(), end.plus(1));
        assert_eq!(log.latest_epoch(), Some(LeaderEpoch(2)));
        assert_eq!(read_all(&log, Offset(0)).await, end.plus(1));
        let names = segment_files(&dir);
        let segments = names.iter().filter(|name| name.ends_with(".log")).count();
        assert!(segments > 3);
        for extension in [".index", ".timeindex"] {
            let count = names
                .iter()
                .filter(|name| name.ends_with(extension))
                .count();
            assert_eq!(count, segments);
        }
    });
}

/// Simulated seed 8546: the search gave up a segment when the late record of its first batch was deleted.
#[test]
fn a_time_is_found_behind_a_batch_whose_late_record_is_deleted() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let log = Log::create(context(1 << 20), dir, None, LogSettings::default(), 0);
        let log = log.await.unwrap();
        for timestamps in [[30, 10], [10, 20]] {
            let mut builder = crate::protocol::batch::BatchBuilder::new();
            for timestamp in timestamps {
                builder.append(timestamp, None, Some(b"v"), &[]);
            }
            log.append(&builder.build(), LeaderEpoch(0), 0).unwrap();
        }
        log.flush().await.unwrap();
        log.delete_records_before(Offset(1)).await.unwrap();
        let found = log.offset_for_timestamp(15).await.unwrap().unwrap();
        assert_eq!((found.offset, found.timestamp), (Offset(3), 20));
    });
}

/// A share of the cache that is no multiple of a block once ended the broker when a log had grown to it.
#[test]
fn a_cache_of_any_size_has_chunks_of_whole_blocks() {
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        for limit in [1_000_001, 15_000_000, (256 << 20) / 12] {
            let dir = root.join(limit.to_string());
            let log = Log::create(context(limit), dir, None, LogSettings::default(), 0);
            let log = log.await.unwrap();
            for _ in 0..50 {
                log.append(&batch(1, 100_000, 0), LeaderEpoch(0), 0)
                    .unwrap();
            }
            log.flush().await.unwrap();
            assert_eq!(read_all(&log, Offset(0)).await, Offset(50));
        }
    });
}

/// Logs that wrote much once and little since had a large chunk each, of which they filled a corner.
#[test]
fn logs_that_have_become_slow_share_the_cache() {
    const LIMIT: usize = 2 << 20;
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        let context = context(LIMIT);
        let mut logs = Vec::new();
        for index in 0..40 {
            let dir = root.join(format!("t-{index}"));
            let log = Log::create(context.clone(), dir, None, LogSettings::default(), 0);
            logs.push(log.await.unwrap());
        }
        let append = async |size| {
            for log in &logs {
                log.append(&batch(1, size, 0), LeaderEpoch(0), 0).unwrap();
                log.flush().await.unwrap();
            }
        };
        for _ in 0..6 {
            append(100_000).await;
        }
        append(100).await;
        append(100).await;
        assert!(context.budget.used() <= LIMIT);
        let is_hot = |log: &&Rc<Log>| !log.state.borrow().tail.is_empty();
        assert_eq!(logs.iter().filter(is_hot).count(), logs.len());
    });
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/kafka-4.4");
/// Older than all records in them: no producer has expired.
const FIXTURES_MS: TimestampMs = 1_700_000_000_000;

fn copy_fixture(name: &str, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for file in std::fs::read_dir(format!("{FIXTURES}/{name}")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn same_files(dir: &Path, name: &str) {
    let fixture = Path::new(FIXTURES).join(name);
    assert_eq!(segment_files(dir), segment_files(&fixture), "{name}");
    for file in segment_files(dir) {
        let (ours, theirs) = (dir.join(&file), fixture.join(&file));
        let same = std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap();
        assert!(same, "{name}/{file}");
    }
}

/// After a clean stop of Apache Kafka nothing is changed, and what a recovery makes of its segments alone is what
/// Apache Kafka had beside them.
#[test]
fn apache_kafkas_folders_are_taken_over() {
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        for (name, end) in [("plain-0", 12), ("small-0", 12), ("txn-0", 19)] {
            for clean in [true, false] {
                let dir = root.join(format!("{name}.{clean}"));
                copy_fixture(name, &dir);
                if !clean {
                    for file in segment_files(&dir) {
                        if !file.ends_with(".log") && file != "partition.metadata" {
                            std::fs::remove_file(dir.join(file)).unwrap();
                        }
                    }
                }
                let settings = LogSettings {
                    index_interval_bytes: if name == "small-0" { 200 } else { 4096 },
                    ..LogSettings::default()
                };
                let opening = Opening {
                    clean,
                    ..Opening::default()
                };
                let opened = Log::open(
                    context(1 << 20),
                    dir.clone(),
                    settings,
                    opening,
                    FIXTURES_MS,
                );
                let (log, recovered) = opened.await.unwrap();
                assert_eq!((recovered.cut_bytes, log.end_offset()), (0, Offset(end)));
                assert_eq!(read_all(&log, Offset(0)).await, Offset(end));
                if name == "txn-0" {
                    aborted_are_found(&log).await;
                }
                log.close().await.unwrap();
                same_files(&dir, name);
            }
        }
    });
}

async fn aborted_are_found(log: &Log) {
    let aborted = async |from, upto| {
        let found = log.aborted_transactions(Offset(from), Offset(upto));
        let found = found.await.unwrap().into_iter();
        found
            .map(|found| (found.producer_id.0, found.first_offset.0))
            .collect::<Vec<_>>()
    };
    assert_eq!(aborted(0, 19).await, [(6, 3), (7, 9), (7, 15)]);
    assert_eq!(aborted(5, 9).await, [(6, 3)]);
    assert_eq!(aborted(6, 9).await, []);
}

fn journal_key(index: usize) -> JournalKey {
    JournalKey {
        topic_id: crate::protocol::Uuid([1; 16]),
        partition: crate::ids::PartitionIndex(index as i32),
    }
}

/// Gives the logs of this context a journal; answers where.
fn use_journal(context: &mut LogContext, root: &Path) -> PathBuf {
    let path = replay::path_of(root, 0);
    let (disk, spawn) = (context.disk.clone(), context.spawn.clone());
    let limits = JournalLimits::default();
    let journal = Journal::new(disk, spawn, timer::real(), path.clone(), 7, limits);
    journal.begin();
    context.journal = Some(journal);
    path
}

async fn journaled_logs(context: &LogContext, root: &Path, count: usize) -> Vec<Rc<Log>> {
    let mut logs = Vec::new();
    for index in 0..count {
        let dir = root.join(format!("t-{index}"));
        let log = Log::create(context.clone(), dir, None, LogSettings::default(), 0);
        logs.push(log.await.unwrap());
        logs[index].use_journal(journal_key(index));
    }
    logs
}

fn is_behind(log: &Rc<Log>) -> bool {
    log.state.borrow().stored_end < log.durable_end()
}

/// A cache that is full of what only the journal has has the oldest of it written, not all of it at once.
#[test]
fn of_a_full_cache_as_much_is_written_as_is_over() {
    const CHUNK: usize = 16 << 10;
    const FIT: usize = 60;
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        let mut context = context(CHUNK * FIT / 15 * 16);
        use_journal(&mut context, &root);
        let logs = journaled_logs(&context, &root, 1 + FIT + 10).await;
        while !is_behind(&logs[0]) {
            let batch = batch(1, 10, 0);
            let end = logs[0].append(&batch, LeaderEpoch(0), 0).unwrap();
            let end = end.last_offset.plus(1);
            let durable = logs[0].wait_until(|state| state.durable_end >= end);
            durable.await.unwrap();
        }
        for log in &logs[1..] {
            log.append(&batch(1, 9_000, 0), LeaderEpoch(0), 0).unwrap();
        }
        let goes = |log: &&Rc<Log>| log.state.borrow().store_target > Offset(0);
        assert_eq!(logs[1..].iter().filter(goes).count(), 10);
        for log in &logs[1..] {
            let durable = log.wait_until(|state| state.durable_end == Offset(1));
            durable.await.unwrap();
        }
        for log in logs.iter().filter(goes) {
            let end = log.end_offset();
            log.wait_until(|state| state.stored_end == end)
                .await
                .unwrap();
        }
        assert_eq!(context.budget.used(), CHUNK * FIT);
        assert_eq!(logs.iter().filter(|log| is_behind(log)).count(), FIT);
        for log in &logs {
            assert_eq!(read_all(log, Offset(0)).await, log.end_offset());
        }
    });
}

/// A place in the tail cache's queue keeps the memory of its log, also when the cache is never full.
#[test]
fn a_log_that_is_gone_leaves_the_queue_of_the_tail_cache() {
    const LOGS: usize = 30;
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        let context = context(64 << 20);
        for index in 0..LOGS {
            let dir = root.join(format!("t-{index}"));
            let log = Log::create(context.clone(), dir, None, LogSettings::default(), 0);
            let log = log.await.unwrap();
            log.append(&batch(1, 100, 0), LeaderEpoch(0), 0).unwrap();
            log.close().await.unwrap();
        }
        let places = context.budget.places();
        assert!(places <= 2, "{places} places are left of {LOGS} logs");
    });
}

/// What the journal has of a log and the segments lack must be read, survive without them, and go with it.
#[test]
fn small_appends_are_durable_in_the_journal_before_they_are_in_their_segments() {
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        let mut context = context(1 << 20);
        let path = use_journal(&mut context, &root);
        let disk = context.disk.clone();
        let logs = journaled_logs(&context, &root, 3).await;
        // The first appends go straight into the segments, until the journal is made.
        let mut ends = [Offset(0); 3];
        while !logs.iter().all(is_behind) {
            for (log, end) in logs.iter().zip(&mut ends) {
                *end = log
                    .append(&batch(2, 500, 1_000), LeaderEpoch(0), 0)
                    .unwrap()
                    .last_offset
                    .plus(1);
            }
            for (log, end) in logs.iter().zip(ends) {
                log.wait_until(|state| state.durable_end >= end)
                    .await
                    .unwrap();
                assert_eq!(read_all(log, Offset(0)).await, end);
            }
        }
        assert!(path.exists());
        // A reader that may have nothing in memory gets a range of the file, which is written for it.
        let last = ends[0].plus(-1);
        let cold = logs[0]
            .read_within(last, ends[0], 10_000, true, 0)
            .await
            .unwrap();
        assert_eq!((cold.memory_len(), cold.len()), (0, 561));
        drop(logs);

        let journaled = replay::read(&disk, &root).await.unwrap();
        for (index, end) in ends.into_iter().enumerate() {
            let opening = Opening {
                journaled: journaled[&journal_key(index)].clone(),
                ..Opening::default()
            };
            let dir = root.join(format!("t-{index}"));
            let opened = Log::open(context.clone(), dir, LogSettings::default(), opening, 0);
            let (log, recovered) = opened.await.unwrap();
            assert_eq!(log.end_offset(), end);
            assert_eq!(recovered.journaled_bytes > 0, index != 0);
            assert_eq!(read_all(&log, Offset(0)).await, end);
        }
        replay::discard(&disk, &root, &journaled, &[])
            .await
            .unwrap();
        assert!(!path.exists());
    });
}
