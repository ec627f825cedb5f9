//! Rounds over a real log under glommio, and starts after a swap was left at each of its steps; random crashes are in
//! tests/simulation.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::ids::LeaderEpoch;
use crate::log::tests::{bytes_of, context, folder, on_glommio, segment_files};
use crate::log::{LogSettings, Opening};
use crate::protocol::batch::BatchBuilder;

/// Offset, key, value.
type Found = (i64, String, Option<String>);

const DELETE_RETENTION_MS: i64 = 500;
const NOW: TimestampMs = 1_000_000;

/// Three of the segments that `fill` makes become one.
fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 300,
        segment_ms: 1_000,
        may_have_gaps: true,
        compaction: Some(Compaction {
            delete_retention_ms: DELETE_RETENTION_MS,
            min_cleanable_dirty_ratio: 0.0,
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
        }),
        ..LogSettings::default()
    }
}

/// A segment of its own for each of `batches`, of which the last one's is active.
async fn fill(log: &Rc<Log>, batches: &[&[(&str, Option<&str>)]]) {
    for (number, records) in batches.iter().enumerate() {
        let mut builder = BatchBuilder::new();
        for (key, value) in *records {
            let (key, value) = (key.as_bytes(), value.map(str::as_bytes));
            builder.append(number as i64 * 2_000, Some(key), value, &[]);
        }
        log.append(&builder.build(), LeaderEpoch(0), 0).unwrap();
    }
    log.flush().await.unwrap();
    log.wait_until(|state| state.unfinished.is_empty())
        .await
        .unwrap();
    assert_eq!(log.segment_count(), batches.len());
}

async fn made(dir: &Path, batches: &[&[(&str, Option<&str>)]]) -> Rc<Log> {
    let log = Log::create(context(1 << 20), dir.to_owned(), None, settings(), 0);
    let log = log.await.unwrap();
    fill(&log, batches).await;
    log
}

async fn clean(log: &Rc<Log>, now_ms: TimestampMs) -> Cleaned {
    tried_to_clean(log, now_ms).await.unwrap()
}

async fn tried_to_clean(log: &Rc<Log>, now_ms: TimestampMs) -> Result<Cleaned, CleaningError> {
    let dirt = log.dirt(now_ms, log.durable_end()).await.unwrap().unwrap();
    let round = Round {
        now_ms,
        upto: dirt.upto,
        map_bytes: 1 << 20,
        map_load: 0.9,
        salt: [1, 2],
        pace: Rc::new(|_| Box::pin(std::future::ready(()))),
    };
    log.clean(&round).await
}

async fn content(log: &Rc<Log>) -> Vec<Found> {
    let (mut at, end) = (log.start_offset(), log.end_offset());
    let mut found = Vec::new();
    while at < end {
        let records = log.read(at, end, 500, true).await.unwrap();
        let before = at;
        for batch in batch::batches(&Bytes::from(bytes_of(&records))).map_while(Result::ok) {
            batch.verify_crc().unwrap();
            for record in batch::records(&batch, 1 << 20).unwrap() {
                let record = record.unwrap();
                let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
                let key = text(record.key.unwrap());
                found.push((record.offset.0, key, record.value.map(text)));
            }
            at = batch.next_offset();
        }
        assert!(at > before, "no progress at {at}");
    }
    found
}

fn last_of_each(found: &[Found]) -> BTreeMap<String, Option<String>> {
    let values = found.iter().cloned();
    values.map(|(_, key, value)| (key, value)).collect()
}

fn offsets(found: &[Found]) -> Vec<i64> {
    found.iter().map(|(offset, ..)| *offset).collect()
}

/// The third segment holds nothing that stays, so that the group's end is an empty batch.
const BATCHES: [&[(&str, Option<&str>)]; 6] = [
    &[("a", Some("1")), ("b", Some("1"))],
    &[("a", Some("2")), ("gone", Some("1"))],
    &[("b", Some("2")), ("b", Some("3"))],
    &[("b", Some("4")), ("gone", None)],
    &[("c", Some("1"))],
    &[("a", Some("active"))],
];

#[test]
fn a_round_keeps_the_last_of_each_key_and_tombstones_for_their_time() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let log = made(&dir, &BATCHES).await;
        let before = content(&log).await;
        assert_eq!(before.len(), 10);
        let cleaned = clean(&log, NOW).await;
        assert_eq!((cleaned.end, cleaned.keys), (Offset(9), 4));
        assert!(cleaned.bytes_after < cleaned.bytes_before);
        let after = content(&log).await;
        assert_eq!(offsets(&after), [2, 6, 7, 8, 9]);
        assert_eq!(last_of_each(&after), last_of_each(&before));
        assert!(log.segment_count() < 6);
        // Nothing is dirty, so nothing is done.
        let dirt = log.dirt(NOW, log.durable_end()).await.unwrap();
        assert_eq!(dirt, None);

        // The tombstone's time is over. What was active is sealed by then.
        let mut builder = BatchBuilder::new();
        builder.append(100_000, Some(b"z"), None, &[]);
        log.append(&builder.build(), LeaderEpoch(0), 0).unwrap();
        log.flush().await.unwrap();
        log.wait_until(|state| state.unfinished.is_empty())
            .await
            .unwrap();
        clean(&log, NOW + DELETE_RETENTION_MS).await;
        let after = content(&log).await;
        assert_eq!(offsets(&after), [6, 8, 9, 10]);
        log.close().await.unwrap();

        for clean in [true, false] {
            let opening = Opening {
                clean,
                first_dirty: Some(Offset(10)),
                ..Opening::default()
            };
            // It is compacted no more, but it was.
            let settings = LogSettings {
                may_have_gaps: false,
                compaction: None,
                ..settings()
            };
            let opened = Log::open(context(1 << 20), dir.clone(), settings, opening, 0);
            let (log, _) = opened.await.unwrap();
            assert_eq!(log.end_offset(), Offset(11));
            assert_eq!(content(&log).await, after);
            assert_eq!(log.first_dirty_offset(), Some(Offset(10)));
            log.close().await.unwrap();
        }
    });
}

#[test]
fn reads_go_on_while_segments_are_swapped() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let value = "v".repeat(50);
        let records = of_seven_keys(&value);
        let batches: Vec<&[_]> = records.iter().map(|records| &records[..]).collect();
        let log = made(&dir, &batches).await;
        let expected = last_of_each(&content(&log).await);
        let is_done = std::cell::Cell::new(false);
        let cleaning = async {
            clean(&log, NOW).await;
            is_done.set(true);
        };
        let reading = async {
            let mut reads = 0;
            while !is_done.get() {
                // Some from files.
                log.state.borrow_mut().tail.clear();
                let found = content(&log).await;
                assert!(offsets(&found).is_sorted_by(|before, after| before < after));
                assert_eq!(last_of_each(&found), expected);
                reads += 1;
            }
            reads
        };
        let ((), reads) = futures::join!(cleaning, reading);
        assert!(reads > 0);
        assert_eq!(content(&log).await.len(), 8);
    });
}

/// One record a segment, of seven keys.
fn of_seven_keys(value: &str) -> Vec<[(&'static str, Option<&str>); 1]> {
    let keys = ["a", "b", "c", "d", "e", "f", "g"];
    let records = (0..60).map(|number| [(keys[number % 7], Some(value))]);
    records.collect()
}

#[test]
fn a_round_goes_on_while_records_are_deleted() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let value = "v".repeat(50);
        let records = of_seven_keys(&value);
        let batches: Vec<&[_]> = records.iter().map(|records| &records[..]).collect();
        let log = made(&dir, &batches).await;
        let is_done = std::cell::Cell::new(false);
        let cleaning = async {
            clean(&log, NOW).await;
            is_done.set(true);
        };
        let deleting = async {
            let mut offset = 0;
            while !is_done.get() && offset < 50 {
                offset += 1;
                log.delete_records_before(Offset(offset)).await.unwrap();
                let removed = log.enforce_retention(NOW, log.durable_end()).await;
                removed.unwrap();
            }
            offset
        };
        let ((), deleted) = futures::join!(cleaning, deleting);
        assert!(deleted > 1);
        assert_eq!(offsets(&content(&log).await), Vec::from_iter(52..60));
    });
}

#[test]
fn a_file_that_could_not_be_written_is_tried_again() {
    let folder = folder();
    let dir = folder.path().join("t-0");
    on_glommio(async move || {
        let log = made(&dir, &BATCHES).await;
        let before = content(&log).await;
        // Nobody writes where a folder is: neither what comes first, nor what comes last.
        for extension in ["log", "timeindex"] {
            let in_the_way = dir.join(format!("{:020}.{extension}.cleaned", 0));
            std::fs::create_dir(&in_the_way).unwrap();
            let error = tried_to_clean(&log, NOW).await.unwrap_err();
            assert!(matches!(error, CleaningError::Storage { .. }), "{error}");
            std::fs::remove_dir(&in_the_way).unwrap();
            let left = segment_files(&dir);
            assert!(
                !left.iter().any(|name| name.ends_with("cleaned")),
                "{left:?}"
            );
            assert_eq!(content(&log).await, before);
        }
        clean(&log, NOW).await;
        assert_eq!(offsets(&content(&log).await), [2, 6, 7, 8, 9]);
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for name in segment_files(from) {
        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// What a swap does to names, one after another, for the group of the segments at 0, 2 and 4.
fn steps() -> Vec<(String, String)> {
    let name = |base: i64, extension: &str| format!("{base:020}.{extension}");
    let new = ["index", "timeindex", "log"];
    let mut steps = Vec::new();
    for extension in new {
        let of = |state: &str| name(0, &format!("{extension}.{state}"));
        steps.push((of("cleaned"), of("swap")));
    }
    for base in [0, 2, 4] {
        for extension in ["index", "timeindex", "log", "snapshot"] {
            if base > 0 || extension != "snapshot" {
                let old = name(base, extension);
                steps.push((old.clone(), format!("{old}.deleted")));
            }
        }
    }
    for extension in new {
        steps.push((name(0, &format!("{extension}.swap")), name(0, extension)));
    }
    steps
}

#[test]
fn a_start_finishes_a_swap_from_wherever_it_was_left() {
    let folder = folder();
    let root = folder.path().to_owned();
    on_glommio(async move || {
        let (old, new) = (root.join("old-0"), root.join("new-0"));
        let log = made(&old, &BATCHES).await;
        let before = content(&log).await;
        drop(log);
        copy(&old, &new);
        let log = reopened(new.clone()).await;
        clean(&log, NOW).await;
        let after = content(&log).await;
        assert_eq!(log.segment_count(), 3);
        drop(log);
        // The other groups are left alone.
        for extension in ["index", "timeindex", "log"] {
            let name = format!("{:020}.{extension}", 0);
            let cleaned = old.join(format!("{name}.cleaned"));
            std::fs::copy(new.join(&name), cleaned).unwrap();
        }
        let group_end = 6;
        let is_of_group = |found: &&Found| found.0 < group_end;
        let swapped: Vec<Found> = after.iter().filter(is_of_group).cloned().collect();
        let rest = before.iter().filter(|found| found.0 >= group_end);
        let swapped: Vec<Found> = swapped.into_iter().chain(rest.cloned()).collect();
        let steps = steps();
        for done in 0..=steps.len() {
            let dir = root.join(format!("step{done}-0"));
            copy(&old, &dir);
            for (from, to) in &steps[..done] {
                std::fs::rename(dir.join(from), dir.join(to)).unwrap();
            }
            // And once more, as if the first start had been cut off behind its work.
            for _ in 0..2 {
                let log = reopened(dir.clone()).await;
                let expected = if done < 3 { &before } else { &swapped };
                assert_eq!(&content(&log).await, expected, "{done} steps");
                assert_eq!(log.end_offset(), Offset(10));
            }
            let odd = |name: &String| name.matches('.').count() > 1;
            let left: Vec<_> = segment_files(&dir).into_iter().filter(odd).collect();
            assert!(left.is_empty(), "{left:?} after {done} steps");
        }
    });
}

async fn reopened(dir: PathBuf) -> Rc<Log> {
    let opening = Opening {
        recovery_point: Some(Offset(9)),
        first_dirty: Some(Offset(0)),
        ..Opening::default()
    };
    let opened = Log::open(context(1 << 20), dir, settings(), opening, 0);
    opened.await.unwrap().0
}
