//! The table in `answers_are_apache_kafkas` was made by sending the same bytes to Apache Kafka 4.4.

use super::*;
use crate::config::{BrokerConfig, DynamicConfigs, Sources, load};
use crate::ids::ProducerId;
use crate::protocol::batch::{Batch, BatchBuilder, records};

const NOW: TimestampMs = 1_795_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn topic(settings: &[(&str, &str)]) -> TopicConfig {
    let broker: BrokerConfig = load(&Sources::default()).unwrap().config;
    let overrides = settings
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect();
    TopicConfig::resolve(&overrides, broker.layers(&DynamicConfigs::default()))
}

fn check(records: impl Into<Bytes>, topic: &TopicConfig) -> Result<Validated, Rejection> {
    validate(
        &records.into(),
        12,
        &"t-0",
        topic,
        CompressedRecords::Walk,
        NOW,
    )
}

/// Code and whether the log's start is told.
fn code(records: impl Into<Bytes>) -> (i16, bool) {
    match check(records, &topic(&[])) {
        Ok(_) => (0, true),
        Err(rejection) => (rejection.error.code(), rejection.tells_log_start),
    }
}

fn builder(count: usize) -> BatchBuilder {
    let mut builder = BatchBuilder::new();
    for _ in 0..count {
        builder.append(NOW, Some(b"key"), Some(b"value"), &[]);
    }
    builder
}

fn two() -> Vec<u8> {
    builder(2).build().into()
}

/// A batch with bytes changed behind its CRC's back, and the CRC made to fit.
fn changed(place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut batch = two();
    batch[place..place + bytes.len()].copy_from_slice(bytes);
    sealed(batch)
}

fn sealed(mut batch: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

/// A batch that claims `count` records, with this payload.
fn with_payload(count: usize, payload: &[u8]) -> Vec<u8> {
    let mut batch: Vec<u8> = builder(count).build().into();
    batch.truncate(HEADER_BYTES);
    batch.extend_from_slice(payload);
    let length = (batch.len() - 12) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    sealed(batch)
}

fn with_tail(tail: &[u8]) -> Vec<u8> {
    let mut batch = two();
    batch.extend_from_slice(tail);
    batch
}

const ATTRIBUTES_AT: usize = 21;
const LAST_DELTA_AT: usize = 23;
const MAX_TIMESTAMP_AT: usize = 35;
const PRODUCER_AT: usize = 43;
const COUNT_AT: usize = 57;

#[test]
fn answers_are_apache_kafkas() {
    let length_of = |length: i32, keep: usize| {
        let mut batch = two();
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch.truncate(keep);
        batch
    };
    let with_magic = |magic: u8| changed(16, &[magic]);
    let twice = [two(), two()].concat();
    let mut bad_crc = two();
    bad_crc[17] ^= 1;
    let mut base_five = two();
    base_five[7] = 5;
    let counts = |last_delta: i32, count: i32| {
        let mut batch = two();
        batch[LAST_DELTA_AT..LAST_DELTA_AT + 4].copy_from_slice(&last_delta.to_be_bytes());
        batch[COUNT_AT..COUNT_AT + 4].copy_from_slice(&count.to_be_bytes());
        sealed(batch)
    };
    let tail = |length: i32, rest: &[u8]| {
        with_tail(&[&[0; 8], length.to_be_bytes().as_slice(), rest].concat())
    };
    let producer = |id: i64, epoch: i16, sequence: i32| {
        Vec::from(builder(2).producer(ProducerId(id), epoch, sequence).build())
    };
    let gzipped = |codec| with_codec(codec, b"garbage garbage garbage");
    let cases: Vec<(&str, Vec<u8>, (i16, bool))> = vec![
        ("good", two(), (0, true)),
        ("empty", vec![], (87, false)),
        ("eleven bytes", two()[..11].to_vec(), (87, false)),
        ("part of a header", two()[..50].to_vec(), (87, false)),
        ("cut by one", two()[..two().len() - 1].to_vec(), (87, false)),
        ("five bytes follow", with_tail(&[0; 5]), (0, true)),
        ("twelve zeroes follow", with_tail(&[0; 12]), (2, false)),
        ("a length follows", tail(100, &[0; 3]), (0, true)),
        (
            "a bad magic follows",
            tail(100, &[0, 0, 0, 0, 7]),
            (2, false),
        ),
        (
            "a cut batch follows",
            tail(100, &[0, 0, 0, 0, 2]),
            (0, true),
        ),
        ("two batches", twice, (87, false)),
        ("bad CRC", bad_crc, (2, false)),
        ("magic 0", with_magic(0), (87, false)),
        ("magic 1", with_magic(1), (87, false)),
        ("magic 3", with_magic(3), (2, false)),
        ("magic -1", with_magic(0xff), (2, false)),
        ("length 13", length_of(13, 79), (2, false)),
        ("length -5", length_of(-5, 79), (2, false)),
        ("length 40", length_of(40, 52), (2, false)),
        ("length 48", length_of(48, 60), (2, false)),
        ("no records but a count", with_payload(1, b""), (87, true)),
        ("base offset 5", base_five, (87, true)),
        ("count 3 of 2", counts(1, 3), (87, true)),
        ("last offset delta 5", counts(5, 2), (87, true)),
        ("count 0", counts(-1, 0), (87, true)),
        ("count -1", counts(-2, -1), (87, true)),
        ("fewer counted", counts(0, 1), (87, true)),
        ("more counted", counts(2, 3), (87, true)),
        ("control", changed(ATTRIBUTES_AT, &[0, 0x20]), (87, true)),
        ("producer without sequence", producer(88, 0, -1), (87, true)),
        (
            "producer -5",
            changed(PRODUCER_AT, &(-5i64).to_be_bytes()),
            (0, true),
        ),
        ("sequence without producer", producer(-1, 0, 5), (0, true)),
        ("gzip of garbage", gzipped(1), (-1, true)),
        ("snappy of garbage", gzipped(2), (-1, true)),
        ("lz4 of garbage", gzipped(3), (-1, true)),
        ("zstd of garbage", gzipped(4), (-1, true)),
        ("codec 5", gzipped(5), (-1, true)),
        ("codec 7", gzipped(7), (-1, true)),
        ("no timestamp", timed(&[-1]), (0, true)),
        ("timestamp -5", timed(&[-5]), (0, true)),
        ("old timestamp", timed(&[NOW, NOW - 2 * HOUR_MS]), (0, true)),
        (
            "header's time lies",
            changed(MAX_TIMESTAMP_AT, &(NOW + 10 * HOUR_MS).to_be_bytes()),
            (0, true),
        ),
        ("broker's time", changed(ATTRIBUTES_AT, &[0, 8]), (0, true)),
        (
            "delete horizon",
            changed(ATTRIBUTES_AT, &[0, 0x40]),
            (0, true),
        ),
        (
            "unknown attributes",
            changed(ATTRIBUTES_AT, &[0x40, 0x80]),
            (0, true),
        ),
        (
            "record longer than there is",
            with_payload(1, &[0x7e, 0, 0, 0, 1, 1, 0]),
            (87, true),
        ),
        (
            "bytes after the record",
            with_payload(1, &[12, 0, 0, 0, 1, 1, 0, 9]),
            (87, true),
        ),
        (
            "bytes within the record",
            with_payload(1, &[16, 0, 0, 0, 1, 1, 0, 9, 9]),
            (87, true),
        ),
        (
            "negative headers",
            with_payload(1, &[12, 0, 0, 0, 1, 1, 1]),
            (87, true),
        ),
        (
            "missing headers",
            with_payload(1, &[12, 0, 0, 0, 1, 1, 100]),
            (87, true),
        ),
        (
            "record attributes",
            with_payload(1, &[12, 7, 0, 0, 1, 1, 0]),
            (0, true),
        ),
        (
            "key of length -2",
            with_payload(1, &[12, 0, 0, 0, 3, 1, 0]),
            (0, true),
        ),
        ("empty record", with_payload(1, &[0]), (87, true)),
        ("record of length -1", with_payload(1, &[1]), (87, true)),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(code(bytes), expected, "{name}");
    }
}

fn with_codec(codec: u8, payload: &[u8]) -> Vec<u8> {
    let mut batch = with_payload(2, payload);
    batch[ATTRIBUTES_AT + 1] = codec;
    sealed(batch)
}

/// A batch with a record for each of these times.
fn timed(timestamps: &[TimestampMs]) -> Vec<u8> {
    let mut builder = BatchBuilder::new();
    for timestamp in timestamps {
        builder.append(*timestamp, None, Some(b"value"), &[]);
    }
    builder.build().into()
}

#[test]
fn a_good_batch_is_shared_not_copied() {
    let batch = Bytes::from(two());
    let validated = check(batch.clone(), &topic(&[])).unwrap();
    assert_eq!(
        validated,
        Validated {
            batch: batch.clone(),
            log_append_time: None
        }
    );
    assert_eq!(validated.batch.as_ptr(), batch.as_ptr());
}

#[test]
fn size_comes_before_the_crc() {
    let small = topic(&[("max.message.bytes", "70")]);
    let mut batch = two();
    batch[17] ^= 1;
    let rejection = check(batch, &small).unwrap_err();
    assert_eq!(
        (rejection.error, rejection.tells_log_start),
        (ErrorCode::MessageTooLarge, false)
    );
    assert_eq!(
        check(two(), &topic(&[("max.message.bytes", "91")])).map(|_| ()),
        Ok(())
    );
    assert_eq!(two().len(), 91);
}

#[test]
fn zstd_needs_produce_version_seven() {
    let batch = builder(2).codec(Codec::Zstd, None).build();
    let at = |version| {
        validate(
            &batch,
            version,
            &"t-0",
            &topic(&[]),
            CompressedRecords::Trust,
            NOW,
        )
    };
    assert_eq!(
        at(6).unwrap_err().error,
        ErrorCode::UnsupportedCompressionType
    );
    assert_eq!(at(7).unwrap().batch, batch);
}

#[test]
fn holes_are_refused() {
    let mut builder = builder(1);
    builder.append_at(4, NOW, None, None, &[]);
    let mut batch: Vec<u8> = builder.build().into();
    batch[LAST_DELTA_AT..LAST_DELTA_AT + 4].copy_from_slice(&1i32.to_be_bytes());
    assert_eq!(code(sealed(batch)), (87, true));
}

#[test]
fn records_out_of_the_time_range_are_each_told() {
    let late = NOW + HOUR_MS + 1;
    let rejection = check(timed(&[NOW, late, NOW + HOUR_MS, late]), &topic(&[])).unwrap_err();
    assert_eq!(rejection.error, ErrorCode::InvalidTimestamp);
    let indexes: Vec<i32> = rejection
        .record_errors
        .iter()
        .map(|error| error.batch_index)
        .collect();
    assert_eq!(indexes, [1, 3]);
    assert!(
        rejection.record_errors[0]
            .message
            .contains(&late.to_string())
    );
    assert!(rejection.message.is_some() && rejection.tells_log_start);

    let young = topic(&[("message.timestamp.before.max.ms", "1000")]);
    let rejection = check(timed(&[NOW, NOW - 1000, NOW - 1001, -1]), &young).unwrap_err();
    assert_eq!(rejection.record_errors.len(), 1);
    assert_eq!(rejection.record_errors[0].batch_index, 2);
}

#[test]
fn compressed_batches_are_opened_when_the_answer_depends_on_it() {
    let trust = |batch: &Bytes, topic: &TopicConfig| {
        validate(batch, 12, &"t-0", topic, CompressedRecords::Trust, NOW)
    };
    let garbage = Bytes::from(with_codec(1, b"garbage garbage garbage"));
    assert!(
        trust(&garbage, &topic(&[])).is_ok(),
        "the header is believed"
    );
    for settings in [
        ("message.timestamp.before.max.ms", "1000"),
        ("compression.type", "lz4"),
    ] {
        assert_eq!(
            trust(&garbage, &topic(&[settings])).unwrap_err().error,
            ErrorCode::UnknownServerError
        );
    }
    let compacted = TopicConfig {
        compact: true,
        ..topic(&[])
    };
    assert!(trust(&garbage, &compacted).is_err());

    let mut late = BatchBuilder::new().codec(Codec::Lz4, None);
    late.append(NOW, None, None, &[]);
    late.append(NOW + 2 * HOUR_MS, None, None, &[]);
    let rejection = trust(&late.build(), &topic(&[])).unwrap_err();
    assert_eq!(rejection.record_errors[0].batch_index, 1);
}

#[test]
fn compacted_topics_want_keys() {
    let compacted = TopicConfig {
        compact: true,
        ..topic(&[])
    };
    assert!(check(two(), &compacted).is_ok());
    let rejection = check(timed(&[NOW, NOW]), &compacted).unwrap_err();
    assert_eq!(
        (rejection.error, rejection.record_errors.len()),
        (ErrorCode::InvalidRecord, 2)
    );
    let one = |index| {
        format!(
            "RecordError(batchIndex={index}, message='Compacted topic cannot accept message without key in topic \
             partition t-0')"
        )
    };
    let message = format!(
        "One or more records have been rejected due to 2 record errors in total, and only showing the first three \
         errors at most: [{}, {}]",
        one(0),
        one(1)
    );
    assert_eq!(rejection.message, Some(message));
    let many = check(timed(&vec![NOW; limits::RECORD_ERRORS_MAX + 5]), &compacted).unwrap_err();
    assert_eq!(many.record_errors.len(), limits::RECORD_ERRORS_MAX);
}

#[test]
fn log_append_time_is_stamped() {
    let stamping = topic(&[("message.timestamp.type", "LogAppendTime")]);
    for codec in Codec::ALL {
        let mut builder = BatchBuilder::new().codec(codec, None);
        builder.append(5, Some(b"key"), None, &[]);
        builder.append(NOW + 100 * HOUR_MS, Some(b"key"), None, &[]);
        let validated = check(builder.build(), &stamping).unwrap();
        assert_eq!(validated.log_append_time, Some(NOW));
        let batch = Batch::parse(&validated.batch).unwrap();
        assert_eq!(batch.verify_crc(), Ok(()));
        assert_eq!(
            (batch.max_timestamp(), batch.timestamp_type()),
            (NOW, TimestampType::LogAppendTime)
        );
        assert_eq!(batch.codec(), codec);
        assert!(
            records(&batch, 1000)
                .unwrap()
                .all(|record| record.unwrap().timestamp == NOW)
        );
    }
    let rejection = check(changed(ATTRIBUTES_AT, &[0, 8]), &stamping).unwrap_err();
    assert_eq!(
        (rejection.error, rejection.record_errors.len()),
        (ErrorCode::InvalidTimestamp, 2)
    );
}

#[test]
fn a_header_that_lies_about_time_is_put_right() {
    for batch in [
        changed(MAX_TIMESTAMP_AT, &5i64.to_be_bytes()),
        changed(MAX_TIMESTAMP_AT, &(NOW + 10 * HOUR_MS).to_be_bytes()),
        changed(ATTRIBUTES_AT, &[0, 8]),
    ] {
        let validated = check(batch, &topic(&[])).unwrap();
        assert_eq!(validated.batch, two());
    }
}

#[test]
fn batches_are_packed_as_the_topic_wants() {
    for source in Codec::ALL {
        let mut builder = BatchBuilder::new()
            .codec(source, None)
            .producer(ProducerId(7), 3, 11);
        for number in 0..50i64 {
            builder.append(NOW + number, Some(b"key"), Some(&[b'v'; 100]), &[]);
        }
        let batch = builder.build();
        let expected: Vec<_> = records(&Batch::parse(&batch).unwrap(), 100_000)
            .unwrap()
            .collect();
        for target in ["uncompressed", "gzip", "snappy", "lz4", "zstd"] {
            let validated = check(batch.clone(), &topic(&[("compression.type", target)])).unwrap();
            let packed = Batch::parse(&validated.batch).unwrap();
            assert_eq!(packed.verify_crc(), Ok(()));
            assert_eq!(
                packed.codec().name().replace("none", "uncompressed"),
                target
            );
            assert_eq!(
                (packed.producer_id(), packed.base_sequence()),
                (ProducerId(7), 11)
            );
            assert_eq!(packed.max_timestamp(), NOW + 49);
            assert_eq!(
                records(&packed, 100_000).unwrap().collect::<Vec<_>>(),
                expected
            );
            if packed.codec() == source {
                assert_eq!(validated.batch.as_ptr(), batch.as_ptr());
            }
        }
    }
}

#[test]
fn the_size_counts_again_after_packing() {
    let mut builder = BatchBuilder::new().codec(Codec::Gzip, None);
    builder.append(NOW, None, Some(&[b'v'; 5000]), &[]);
    let batch = builder.build();
    assert!(batch.len() < 1000);
    let settings = [
        ("compression.type", "uncompressed"),
        ("max.message.bytes", "1000"),
    ];
    assert_eq!(
        check(batch.clone(), &topic(&settings)).unwrap_err().error,
        ErrorCode::MessageTooLarge
    );
    let small_segments = TopicConfig {
        segment_bytes: 1000,
        ..topic(&settings[..1])
    };
    assert_eq!(
        check(batch, &small_segments).unwrap_err().error,
        ErrorCode::RecordListTooLarge
    );
}

#[test]
fn decompressed_records_are_bounded() {
    let mut builder = BatchBuilder::new().codec(Codec::Zstd, None);
    builder.append(NOW, None, Some(&[0; 5000]), &[]);
    let batch = builder.build();
    let bounded = TopicConfig {
        max_decompressed_bytes: 4999,
        ..topic(&[])
    };
    assert_eq!(
        check(batch.clone(), &bounded).unwrap_err().error,
        ErrorCode::InvalidRecord
    );
    assert!(check(batch, &topic(&[])).is_ok());

    let zeroes = vec![0; limits::DECOMPRESSED_BATCH_BYTES_MAX + 1];
    let bomb = with_codec(4, &compress(Codec::Zstd, None, &zeroes));
    assert!(bomb.len() < 100_000);
    assert_eq!(
        check(bomb, &topic(&[])).unwrap_err().error,
        ErrorCode::MessageTooLarge
    );
}
