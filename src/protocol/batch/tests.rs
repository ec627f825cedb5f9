//! Tests of batches: what the builder makes, the reader and the header's accessors must find again.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::Str;

const LIMIT: usize = 1 << 20;

fn header(key: &'static str, value: Option<&'static [u8]>) -> RecordHeader {
    RecordHeader {
        key: Str::from(key),
        value: value.map(Bytes::from_static),
    }
}

fn sample(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new()
        .codec(codec, None)
        .base_offset(Offset(100))
        .leader_epoch(LeaderEpoch(3))
        .producer(ProducerId(9), 1, i32::MAX - 1)
        .transactional();
    builder.append(
        5000,
        Some(b"key"),
        Some(b"value"),
        &[header("h", Some(b"x")), header("n", None)],
    );
    builder.append(4000, None, None, &[]);
    builder.append(7000, Some(b""), Some(&[7; 300]), &[]);
    builder.build()
}

#[test]
fn a_batch_taken_from_bytes_ends_where_it_says() {
    let sample = sample(Codec::None);
    let taken = Batch::of(sample.clone()).unwrap();
    assert_eq!(taken.bytes().as_ptr(), sample.as_ptr());
    let followed = Bytes::from([&sample[..], b"more"].concat());
    assert_eq!(Batch::of(followed).unwrap().bytes(), &sample);
    assert!(Batch::of(sample.slice(..sample.len() - 1)).is_err());
}

#[test]
fn what_is_built_is_read_back() {
    for codec in Codec::ALL {
        let batch = Batch::parse(&sample(codec)).unwrap();
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(batch.codec(), codec);
        assert_eq!(batch.base_offset(), Offset(100));
        assert_eq!(batch.last_offset(), Offset(102));
        assert_eq!(batch.next_offset(), Offset(103));
        assert_eq!(batch.partition_leader_epoch(), LeaderEpoch(3));
        assert_eq!(batch.producer_id(), ProducerId(9));
        assert_eq!(
            (batch.base_sequence(), batch.last_sequence()),
            (i32::MAX - 1, 0)
        );
        assert_eq!(
            (batch.base_timestamp(), batch.max_timestamp()),
            (5000, 7000)
        );
        assert!(batch.is_transactional() && !batch.is_control());
        let records: Vec<Record> = records(&batch, LIMIT)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0].key.as_deref(), Some(&b"key"[..]));
        assert_eq!(
            records[0].headers,
            [header("h", Some(b"x")), header("n", None)]
        );
        assert_eq!(
            (records[1].offset, records[1].timestamp),
            (Offset(101), 4000)
        );
        assert_eq!((&records[1].key, &records[1].value), (&None, &None));
        assert_eq!(records[2].value.as_deref(), Some(&[7; 300][..]));
    }
}

#[test]
fn records_share_the_batch_when_it_is_not_compressed() {
    let batch = Batch::parse(&sample(Codec::None)).unwrap();
    let record = records(&batch, LIMIT).unwrap().next().unwrap().unwrap();
    let range = batch.bytes().as_ptr_range();
    assert!(range.contains(&record.key.unwrap().as_ptr()));
}

#[test]
fn patches_keep_the_crc_right() {
    let mut bytes = sample(Codec::None).to_vec();
    set_base_offset(&mut bytes, Offset(7));
    set_leader_epoch(&mut bytes, LeaderEpoch(8));
    assert_eq!(BatchView::parse(&bytes).unwrap().verify_crc(), Ok(()));
    set_log_append_time(&mut bytes, 12345);
    let batch = Batch::parse(&bytes.into()).unwrap();
    assert_eq!(batch.verify_crc(), Ok(()));
    assert_eq!(
        (batch.base_offset(), batch.partition_leader_epoch()),
        (Offset(7), LeaderEpoch(8))
    );
    assert_eq!(batch.timestamp_type(), TimestampType::LogAppendTime);
    assert!(
        records(&batch, LIMIT)
            .unwrap()
            .all(|record| record.unwrap().timestamp == 12345)
    );
}

#[test]
fn several_batches_and_a_torn_one() {
    let one = sample(Codec::Lz4);
    let mut all = one.to_vec();
    all.extend_from_slice(&one);
    all.extend_from_slice(&one[..one.len() - 1]);
    let found: Vec<_> = batches(&all.clone().into()).collect();
    assert_eq!(found.len(), 3);
    assert!(found[0].is_ok() && found[1].is_ok());
    let (size, available) = (one.len(), one.len() - 1);
    assert_eq!(found[2], Err(BatchError::Incomplete { size, available }));
    assert_eq!(views(&all).filter(Result::is_ok).count(), 2);
}

/// Writes a header field of a good batch and says what parsing and the producer's checks make of it.
fn with(patch: impl FnOnce(&mut BatchHeader)) -> Result<(), BatchError> {
    let mut builder = BatchBuilder::new();
    builder.append(0, None, Some(b"v"), &[]);
    builder.append(0, None, Some(b"v"), &[]);
    let mut bytes = builder.build().to_vec();
    patch(header_mut(&mut bytes));
    let batch = Batch::parse(&bytes.into())?;
    batch.check_produced()
}

#[test]
fn headers_that_cannot_be_are_refused() {
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(
        with(|header| header.batch_length.set(-1)),
        Err(BatchError::BadLength(-1))
    );
    assert_eq!(
        with(|header| header.batch_length.set(48)),
        Err(BatchError::BadLength(48))
    );
    assert_eq!(
        with(|header| header.magic = 1),
        Err(BatchError::BadMagic(1))
    );
    assert_eq!(
        with(|header| header.attributes.set(5)),
        Err(BatchError::BadCodec(5))
    );
    assert_eq!(
        with(|header| header.base_offset.set(1)),
        Err(BatchError::BadBaseOffset(1))
    );
    assert_eq!(
        with(|header| header.attributes.set(CONTROL)),
        Err(BatchError::ControlFromProducer)
    );
    let count = |records, last_offset_delta| BatchError::BadCount {
        records,
        last_offset_delta,
    };
    assert_eq!(with(|header| header.records_count.set(3)), Err(count(3, 1)));
    assert_eq!(with(|header| header.records_count.set(1)), Err(count(1, 1)));
    assert_eq!(
        with(|header| header.records_count.set(-1)),
        Err(count(-1, 1))
    );
    assert_eq!(
        with(|header| header.last_offset_delta.set(-1)),
        Err(count(2, -1))
    );
    assert_eq!(
        with(|header| header.producer_id.set(5)),
        Err(BatchError::BadProducer {
            producer_id: 5,
            epoch: -1,
            sequence: -1
        })
    );
    assert!(with(|header| header.attributes.set(TRANSACTIONAL)).is_err());
}

#[test]
fn a_wrong_count_is_found_inside() {
    let mut bytes = sample(Codec::None).to_vec();
    header_mut(&mut bytes).records_count.set(2);
    let batch = Batch::parse(&bytes.into()).unwrap();
    let last = records(&batch, LIMIT).unwrap().last().unwrap();
    assert_eq!(last, Err(BatchError::BadRecord { index: 2 }));
}

/// The records that `tests/compat/corpus` puts into a batch of each codec.
fn corpus_batch() -> BatchBuilder {
    let mut builder = BatchBuilder::new()
        .base_offset(Offset(40))
        .leader_epoch(LeaderEpoch(9))
        .producer(ProducerId(1234), 5, 77);
    for index in 0..300usize {
        let key = format!("key-{index}");
        let value = format!("value-{index}-").repeat(index);
        let headers = if index % 5 == 0 {
            let first = RecordHeader {
                key: Str::from(format!("h{index}")),
                value: Some(Bytes::from(vec![index as u8])),
            };
            vec![first, header("null", None)]
        } else {
            Vec::new()
        };
        builder.append(
            1_700_000_000_000 + (index * 37 % 100) as i64,
            (index % 3 != 0).then_some(key.as_bytes()),
            (index % 7 != 0).then_some(value.as_bytes()),
            &headers,
        );
    }
    builder
}

#[test]
fn batches_of_kafkas_own_making_are_read_and_made_alike() {
    let ours = Batch::parse(&corpus_batch().build()).unwrap();
    let expected: Vec<Record> = records(&ours, LIMIT).unwrap().map(Result::unwrap).collect();
    let corpus = crate::protocol::round_trip::corpus();
    let mut seen = 0;
    for line in corpus
        .lines()
        .filter_map(|line| line.strip_prefix("batch "))
    {
        let (codec, bytes) = line.split_once(' ').unwrap();
        let theirs = Batch::parse(&crate::protocol::round_trip::from_hex(bytes)).unwrap();
        assert_eq!(theirs.verify_crc(), Ok(()));
        assert_eq!(theirs.codec().name(), codec);
        let found: Vec<Record> = records(&theirs, LIMIT)
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(found, expected, "{codec}");
        if codec == "none" {
            assert_eq!(theirs.bytes(), ours.bytes());
        }
        seen += 1;
    }
    assert_eq!(seen, Codec::ALL.len());
}

proptest! {
    #[test]
    fn any_records_are_read_back(
        given in prop::collection::vec(
            (any::<i64>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>(), any::<Vec<(String, Option<Vec<u8>>)>>()),
            1..20,
        ),
        codec in 0i16..5,
    ) {
        let mut builder = BatchBuilder::new().codec(Codec::from_id(codec).unwrap(), None);
        let mut expected = Vec::new();
        for (index, (timestamp, key, value, headers)) in given.into_iter().enumerate() {
            let headers: Vec<RecordHeader> = headers
                .into_iter()
                .map(|(key, value)| RecordHeader { key: Str::from(key), value: value.map(Bytes::from) })
                .collect();
            builder.append(timestamp, key.as_deref(), value.as_deref(), &headers);
            expected.push(Record {
                offset: Offset(index as i64),
                timestamp,
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers,
            });
        }
        let batch = Batch::parse(&builder.build()).unwrap();
        prop_assert_eq!(batch.verify_crc(), Ok(()));
        prop_assert_eq!(batch.check_produced(), Ok(()));
        let found: Result<Vec<Record>, BatchError> = records(&batch, LIMIT).unwrap().collect();
        prop_assert_eq!(found, Ok(expected));
    }

    #[test]
    fn damage_never_panics(place in any::<prop::sample::Index>(), bits in 1u8.., codec in 0i16..5) {
        let mut bytes = sample(Codec::from_id(codec).unwrap()).to_vec();
        let place = place.index(bytes.len());
        bytes[place] ^= bits;
        if let Ok(batch) = Batch::parse(&bytes.into()) {
            // Only the base offset and the leader epoch may change unnoticed.
            prop_assert_eq!(batch.verify_crc().is_ok(), place < 8 || (12..16).contains(&place));
            if let Ok(records) = records(&batch, LIMIT) {
                records.for_each(drop);
            }
        }
    }
}
