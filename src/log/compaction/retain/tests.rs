use super::*;
use crate::ids::LeaderEpoch;
use crate::protocol::batch::{ControlType, control_key, records};

const NOW: TimestampMs = 1_000_000;
const RETENTION: i64 = 500;

fn rules(keys: &[(&str, i64)], latest: i64) -> Rules {
    let mut map = OffsetMap::new(100, 1 << 20, 0.9, [1, 2]);
    for (key, offset) in keys {
        assert!(map.put(key.as_bytes(), Offset(*offset)));
    }
    map.advance_to(Offset(latest));
    Rules {
        map,
        producers: BTreeMap::new(),
        end: Offset(1_000),
        now_ms: NOW,
        delete_retention_ms: RETENTION,
    }
}

fn batch(codec: Codec, records: &[(Option<&str>, Option<&str>)]) -> Batch {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(100))
        .leader_epoch(LeaderEpoch(3))
        .producer(ProducerId(7), 1, 40)
        .codec(codec, None);
    for (index, (key, value)) in records.iter().enumerate() {
        let (key, value) = (key.map(str::as_bytes), value.map(str::as_bytes));
        builder.append(NOW - 100 + index as i64, key, value, &[]);
    }
    Batch::parse(&builder.build()).unwrap()
}

fn kept(rules: &Rules, batch: &Batch) -> Kept {
    let kept = rules.apply(batch, &mut Transactions::default(), false);
    kept.unwrap().0
}

fn anew(kept: Kept) -> Batch {
    let Kept::Anew(bytes) = kept else {
        panic!("{kept:?}");
    };
    let batch = Batch::parse(&bytes).unwrap();
    batch.verify_crc().unwrap();
    batch
}

fn offsets(batch: &Batch) -> Vec<i64> {
    let records = records(batch, 1 << 20).unwrap();
    records.map(|record| record.unwrap().offset.0).collect()
}

const AB: [(Option<&str>, Option<&str>); 3] = [
    (Some("a"), Some("1")),
    (Some("b"), Some("2")),
    (Some("a"), Some("3")),
];

#[test]
fn only_the_last_record_of_a_key_stays_at_its_offset() {
    for codec in Codec::ALL {
        let was = batch(codec, &AB);
        let rules = rules(&[("a", 102), ("b", 200)], 300);
        let batch = anew(kept(&rules, &was));
        assert_eq!(offsets(&batch), [102]);
        assert_eq!(
            (batch.base_offset(), batch.last_offset(), batch.codec()),
            (Offset(100), Offset(102), codec)
        );
        assert_eq!(
            (
                batch.producer_id(),
                batch.producer_epoch(),
                batch.base_sequence(),
                batch.last_sequence(),
                batch.partition_leader_epoch()
            ),
            (ProducerId(7), 1, 40, 42, LeaderEpoch(3))
        );
        assert_eq!(batch.max_timestamp(), NOW - 98);
        assert_eq!(kept_of_all(&batch), Kept::All);
    }
}

fn kept_of_all(batch: &Batch) -> Kept {
    kept(&rules(&[("a", 102)], 300), batch)
}

#[test]
fn the_last_offset_stays_when_its_record_goes() {
    let rules = rules(&[("a", 200), ("b", 101)], 300);
    let batch = anew(kept(&rules, &batch(Codec::None, &AB)));
    assert_eq!(
        (offsets(&batch), batch.last_offset()),
        (vec![101], Offset(102))
    );
}

#[test]
fn what_the_map_has_not_seen_stays() {
    let was = batch(Codec::None, &AB);
    assert_eq!(kept(&rules(&[("a", 50)], 99), &was), Kept::All);
    assert_eq!(
        offsets(&anew(kept(&rules(&[("a", 101)], 101), &was))),
        [101, 102]
    );
}

#[test]
fn records_without_key_go() {
    let was = batch(Codec::None, &[(None, Some("1")), (Some("k"), Some("2"))]);
    assert_eq!(offsets(&anew(kept(&rules(&[], 300), &was))), [101]);
}

#[test]
fn tombstones_stay_until_their_horizon() {
    let was = batch(Codec::None, &[(Some("a"), None), (Some("b"), Some("2"))]);
    let mut rules = rules(&[("a", 100), ("b", 101)], 300);
    let first = anew(kept(&rules, &was));
    assert_eq!(first.delete_horizon_ms(), Some(NOW + RETENTION));
    let timestamps: Vec<_> = records(&first, 1 << 20)
        .unwrap()
        .map(|record| record.unwrap().timestamp)
        .collect();
    assert_eq!(timestamps, [NOW - 100, NOW - 99]);
    rules.now_ms = NOW + RETENTION - 1;
    assert_eq!(kept(&rules, &first), Kept::All);
    rules.now_ms = NOW + RETENTION;
    let second = anew(kept(&rules, &first));
    assert_eq!(offsets(&second), [101]);
    assert_eq!(second.delete_horizon_ms(), Some(NOW + RETENTION));
}

#[test]
fn an_empty_batch_stays_for_a_producers_last_sequence_and_the_end_of_the_round() {
    let was = batch(Codec::Zstd, &AB);
    let mut rules = rules(&[("a", 200), ("b", 200)], 300);
    assert_eq!(kept(&rules, &was), Kept::Nothing);
    rules.end = Offset(103);
    let empty = anew(kept(&rules, &was));
    assert_eq!((empty.records_count(), empty.codec()), (0, Codec::None));
    assert_eq!(
        (empty.last_offset(), empty.last_sequence()),
        (Offset(102), 42)
    );
    assert_eq!(empty.max_timestamp(), was.max_timestamp());
    assert_eq!(kept(&rules, &empty), Kept::All);
    rules.end = Offset(1_000);
    assert_eq!(kept(&rules, &empty), Kept::Nothing);
    let last = LastOfProducer {
        data_offset: Some(Offset(102)),
        epoch: 1,
    };
    rules.producers.insert(ProducerId(7), last);
    assert_eq!(kept(&rules, &empty), Kept::All);
}

#[test]
fn aborted_records_go_and_their_marker_follows_after_its_time() {
    let data = {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset(10))
            .producer(ProducerId(7), 0, 0)
            .transactional();
        builder.append(NOW, Some(b"a"), Some(b"1"), &[]);
        Batch::parse(&builder.build()).unwrap()
    };
    let marker = {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset(11))
            .producer(ProducerId(7), 0, -1)
            .transactional()
            .control();
        let key = control_key(ControlType::Abort);
        builder.append(NOW, Some(&key), Some(&[0, 0, 0, 0, 0, 9]), &[]);
        Batch::parse(&builder.build()).unwrap()
    };
    let aborted = AbortedTransaction {
        producer_id: ProducerId(7),
        first_offset: Offset(10),
        last_offset: Offset(11),
        last_stable_offset: Offset(12),
    };
    let mut rules = rules(&[], 300);
    let mut first = Transactions::default();
    first.expect([aborted]);
    assert_eq!(
        rules.apply(&data, &mut first, false),
        Ok((Kept::Nothing, None))
    );
    // Something of it was there: the marker stays, and says what it aborts.
    assert_eq!(
        rules.apply(&marker, &mut first, false),
        Ok((Kept::All, Some(aborted)))
    );
    let mut second = Transactions::default();
    second.expect([aborted]);
    let (dated, index) = rules.apply(&marker, &mut second, false).unwrap();
    let dated = anew(dated);
    assert_eq!(dated.delete_horizon_ms(), Some(NOW + RETENTION));
    assert_eq!(index, None);
    rules.now_ms = NOW + RETENTION;
    let third = rules.apply(&dated, &mut Transactions::default(), false);
    assert_eq!(third, Ok((Kept::Nothing, None)));
}
