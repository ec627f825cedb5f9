//! Tests of every message in every version, against a second encoder: `Sample` walks the tables and
//! writes arbitrary values straight from them, sharing nothing with the generated code but the notation.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use super::generator::model::{DefaultValue, Field, FieldKind, Message as Model, Struct, Table};
use super::generator::parse;
use super::records::metadata::MetadataRecord;
use super::wire::{DecodeError, EncodeError, Message};
use super::writer::put_uvarint;
use super::{Records, messages, records};

/// A message type as a value: decodes its bytes and encodes what came of them.
pub(crate) struct RoundTrip {
    pub name: &'static str,
    pub min_version: i16,
    pub max_version: i16,
    pub run: fn(&Bytes, i16) -> Result<Bytes, DecodeError>,
    /// A new message, encoded.
    pub default: fn(i16) -> Result<Bytes, EncodeError>,
}

impl RoundTrip {
    pub const fn of<M: Message + PartialEq + std::fmt::Debug>() -> RoundTrip {
        RoundTrip {
            name: M::NAME,
            min_version: M::MIN_VERSION,
            max_version: M::MAX_VERSION,
            run: |bytes, version| {
                let message = M::from_bytes(bytes, version)?;
                let encoded = message
                    .to_bytes(version)
                    .expect("what was read can be written");
                let again = M::from_bytes(&encoded, version).expect("what was written can be read");
                assert_eq!(message, again);
                Ok(encoded)
            },
            default: |version| M::default().to_bytes(version),
        }
    }
}

/// Everything that is generated.
pub(crate) fn all() -> impl Iterator<Item = &'static RoundTrip> {
    [
        messages::ROUND_TRIPS,
        records::client::ROUND_TRIPS,
        records::group::ROUND_TRIPS,
        records::metadata::ROUND_TRIPS,
        records::quorum_state::ROUND_TRIPS,
        records::share::ROUND_TRIPS,
        records::storage::ROUND_TRIPS,
        records::transaction::ROUND_TRIPS,
    ]
    .into_iter()
    .flatten()
}

fn tables() -> Vec<Table> {
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/protocol/schema");
    parse::read_directory(&schema).expect("the tables that the build read")
}

/// Calls `test` with each message's model and its generated type.
fn for_each(mut test: impl FnMut(&Model, &RoundTrip)) {
    let tables = tables();
    let models: Vec<&Model> = tables.iter().flat_map(|table| &table.messages).collect();
    let mut seen = 0;
    for model in models {
        let mut named = all().filter(|generated| generated.name == model.name);
        let generated = named.next().expect("one type a message");
        assert!(named.next().is_none(), "two types called {}", model.name);
        test(model, generated);
        seen += 1;
    }
    assert_eq!(seen, all().count());
}

/// SplitMix64: the same seed, the same values, on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Writes one message in one version, as Kafka does: tagged fields only where they differ from default.
struct Sample<'a> {
    model: &'a Model,
    version: i16,
    flexible: bool,
    random: Random,
    /// Add tags that no table has.
    unknown_tags: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Fill {
    Random,
    Default,
}

impl<'a> Sample<'a> {
    fn bytes(model: &'a Model, version: i16, seed: u64, unknown_tags: bool) -> Bytes {
        let flexible = model.flexible.is_some_and(|first| version >= first);
        let mut sample = Sample {
            model,
            version,
            flexible,
            random: Random(seed),
            unknown_tags,
        };
        let mut out = BytesMut::new();
        sample.structure(&mut out, &model.structs[0], Fill::Random);
        out.freeze()
    }

    fn structure(&mut self, out: &mut BytesMut, structure: &'a Struct, fill: Fill) {
        let version = self.version;
        let present =
            |field: &&Field| field.versions.first <= version && version <= field.versions.last;
        for field in structure
            .fields
            .iter()
            .filter(present)
            .filter(|field| field.tag.is_none())
        {
            self.field(out, field, fill);
        }
        if !self.flexible {
            return;
        }
        let mut tagged = Vec::new();
        for field in structure.fields.iter().filter(present) {
            let Some(tag) = field.tag else { continue };
            let (mut value, mut default) = (BytesMut::new(), BytesMut::new());
            self.field(&mut value, field, fill);
            self.field(&mut default, field, Fill::Default);
            if value != default {
                tagged.push((tag, value));
            }
        }
        tagged.sort_by_key(|(tag, _)| *tag);
        if self.unknown_tags && fill == Fill::Random {
            tagged.push((1000, BytesMut::from(&b"whatever"[..])));
        }
        put_uvarint(out, tagged.len() as u32);
        for (tag, value) in tagged {
            put_uvarint(out, tag);
            put_uvarint(out, value.len() as u32);
            out.put_slice(&value);
        }
    }

    fn field(&mut self, out: &mut BytesMut, field: &'a Field, fill: Fill) {
        let flexible = self.flexible && !field.never_flexible;
        let can_be_null = field.nullable.is_some_and(|nullable| {
            nullable.first <= self.version && self.version <= nullable.last
        });
        let is_null = can_be_null
            && match fill {
                Fill::Random => self.random.below(3) == 0,
                Fill::Default => field.default == DefaultValue::Null,
            };
        match (&field.kind, fill, &field.default) {
            (FieldKind::Struct(_), ..) if can_be_null => {
                let null = if field.tag.is_some() { 0 } else { -1 };
                out.put_i8(if is_null { null } else { 1 });
                if !is_null {
                    self.value(out, &field.kind, flexible, fill);
                }
            }
            (FieldKind::String, ..) if is_null => length(out, flexible, true, -1),
            (FieldKind::Bytes | FieldKind::Records | FieldKind::Array(_), ..) if is_null => {
                length(out, flexible, false, -1)
            }
            (FieldKind::Bool, Fill::Default, DefaultValue::True) => out.put_u8(1),
            (kind, Fill::Default, DefaultValue::Number(number)) => match kind {
                FieldKind::Int8 => out.put_i8(*number as i8),
                FieldKind::Int16 => out.put_i16(*number as i16),
                FieldKind::Int32 => out.put_i32(*number as i32),
                FieldKind::Int64 => out.put_i64(*number),
                other => panic!("a number as default of {other:?}"),
            },
            (kind, ..) => self.value(out, kind, flexible, fill),
        }
    }

    fn value(&mut self, out: &mut BytesMut, kind: &'a FieldKind, flexible: bool, fill: Fill) {
        let bits = if fill == Fill::Random {
            self.random.next()
        } else {
            0
        };
        match kind {
            FieldKind::Bool => out.put_u8(bits as u8 & 1),
            FieldKind::Int8 => out.put_u8(bits as u8),
            FieldKind::Int16 | FieldKind::Uint16 => out.put_u16(bits as u16),
            FieldKind::Int32 | FieldKind::Uint32 => out.put_u32(bits as u32),
            FieldKind::Int64 => out.put_u64(bits),
            // From a whole number, since NaN would not equal itself.
            FieldKind::Float64 => out.put_f64(f64::from(bits as u32)),
            FieldKind::Uuid => {
                out.put_u64(bits);
                out.put_u64(bits.rotate_left(9));
            }
            FieldKind::String => {
                let text = "né→𝄞x".repeat((bits % 5 * (bits >> 8 & 1)) as usize);
                length(out, flexible, true, text.len() as i32);
                out.put_slice(text.as_bytes());
            }
            FieldKind::Bytes | FieldKind::Records => {
                let count = bits % 3 * (bits >> 8 & 0x1ff);
                length(out, flexible, false, count as i32);
                out.put_bytes(bits as u8, count as usize);
            }
            FieldKind::Struct(name) => {
                let model = self.model;
                let structure = model.structs.iter().find(|known| &known.name == name);
                self.structure(out, structure.expect("a struct of this message"), fill);
            }
            FieldKind::Array(element) => {
                let count = bits % 4;
                length(out, flexible, false, count as i32);
                for _ in 0..count {
                    self.value(out, element, flexible, fill);
                }
            }
        }
    }
}

fn length(out: &mut BytesMut, flexible: bool, short: bool, length: i32) {
    if flexible {
        put_uvarint(out, (length + 1) as u32);
    } else if short {
        out.put_i16(length as i16);
    } else {
        out.put_i32(length);
    }
}

const SEEDS: u64 = 40;

#[test]
fn every_message_and_version_keeps_what_it_reads() {
    for_each(|model, generated| {
        assert_eq!(
            (model.min_version, model.max_version),
            (generated.min_version, generated.max_version)
        );
        for version in model.min_version..=model.max_version {
            for seed in 0..SEEDS {
                let bytes = Sample::bytes(model, version, seed, false);
                let encoded = (generated.run)(&bytes, version);
                let told = format!("{} v{version} seed {seed}", model.name);
                assert_eq!(encoded.as_ref(), Ok(&bytes), "{told}");
            }
        }
    });
}

#[test]
fn unknown_tags_are_skipped() {
    for_each(|model, generated| {
        for version in model.min_version..=model.max_version {
            for seed in 0..SEEDS / 4 {
                let bytes = Sample::bytes(model, version, seed, true);
                let canonical = Sample::bytes(model, version, seed, false);
                assert_eq!(
                    (generated.run)(&bytes, version),
                    Ok(canonical),
                    "{}",
                    model.name
                );
            }
        }
    });
}

#[test]
fn cut_short_anywhere_is_an_error() {
    for_each(|model, generated| {
        for version in model.min_version..=model.max_version {
            let bytes = Sample::bytes(model, version, 7, false);
            for end in 0..bytes.len() {
                let result = (generated.run)(&bytes.slice(..end), version);
                assert!(result.is_err(), "{} v{version} cut at {end}", model.name);
            }
        }
    });
}

#[test]
fn noise_never_panics() {
    for_each(|model, generated| {
        for version in model.min_version..=model.max_version {
            for seed in 0..SEEDS {
                let mut random = Random(seed);
                let mut bytes = BytesMut::from(&Sample::bytes(model, version, seed, true)[..]);
                for _ in 0..1 + random.below(4) {
                    if !bytes.is_empty() {
                        let place = random.below(bytes.len() as u64) as usize;
                        bytes[place] = random.next() as u8;
                    }
                }
                // Any answer will do, as long as one comes.
                let _ = (generated.run)(&bytes.freeze(), version);
            }
        }
    });
}

/// What Kafka 4.4's own classes write, made by `tests/compat/corpus`.
pub(crate) fn corpus() -> String {
    let compressed = include_bytes!("../../tests/compat/corpus/corpus.txt.gz");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&compressed[..])
        .read_to_string(&mut text)
        .expect("a gzip of text");
    text
}

pub(crate) fn from_hex(text: &str) -> Bytes {
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal")
    };
    text.as_bytes().chunks(2).map(byte).collect()
}

#[test]
fn bytes_equal_those_of_kafkas_classes() {
    let corpus = corpus();
    let mut seen = BTreeSet::new();
    let is_message = |line: &&str| !line.starts_with("batch ") && !line.starts_with("framed ");
    for line in corpus.lines().filter(is_message) {
        let words: Vec<&str> = line.split(' ').collect();
        let [class, version, variant, rest @ ..] = words.as_slice() else {
            panic!("{line}")
        };
        let generated = all()
            .find(|generated| {
                generated.name == *class || class.strip_suffix("Data") == Some(generated.name)
            })
            .unwrap_or_else(|| panic!("no type for {class}"));
        let version: i16 = version.parse().expect("a version");
        let bytes = from_hex(rest.first().unwrap_or(&""));
        let told = format!("{class} v{version} {variant}");
        assert_eq!(
            (generated.run)(&bytes, version),
            Ok(bytes.clone()),
            "{told}"
        );
        if *variant == "default" {
            assert_eq!((generated.default)(version), Ok(bytes), "{told}");
        }
        seen.insert((generated.name, version));
    }
    for generated in all() {
        for version in generated.min_version..=generated.max_version {
            assert!(
                seen.contains(&(generated.name, version)),
                "{} v{version}",
                generated.name
            );
        }
    }
}

#[test]
fn metadata_records_are_framed_as_kafka_frames_them() {
    let corpus = corpus();
    let mut seen = 0;
    for line in corpus
        .lines()
        .filter_map(|line| line.strip_prefix("framed "))
    {
        let words: Vec<&str> = line.split(' ').collect();
        let [class, version, bytes] = words.as_slice() else {
            panic!("{line}")
        };
        let bytes = from_hex(bytes);
        let record = MetadataRecord::decode(&bytes).expect(line);
        assert_eq!(record.name(), *class);
        assert_eq!(
            record.encode(version.parse().expect("a version")),
            Ok(bytes)
        );
        seen += 1;
    }
    assert!(seen > 30);
}

#[test]
fn coordinator_keys_and_values_have_their_prefix() {
    use records::group::{Key, OffsetCommitKey, OffsetCommitValue, Value};
    let key = Key::from(OffsetCommitKey {
        group: "g".into(),
        topic: "t".into(),
        partition: 3,
    });
    let bytes = key.encode().unwrap();
    assert_eq!(bytes[..], [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 3]);
    assert_eq!(Key::decode(&bytes), Ok(key));
    let value = Value::from(OffsetCommitValue {
        offset: 9,
        ..Default::default()
    });
    let bytes = value.encode(3).unwrap();
    assert_eq!(bytes[..2], [0, 3]);
    assert_eq!(Value::decode(1, &bytes), Ok(value));
    assert!(Value::decode(99, &bytes).is_err());
}

#[test]
fn records_of_a_produce_request_stay_in_the_frame() {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    let records = Records::from(Bytes::from(vec![1u8; 5000]));
    let partition = PartitionProduceData {
        index: 0,
        records: Some(records.clone()),
    };
    let topic = TopicProduceData {
        name: "t".into(),
        partition_data: vec![partition],
        ..Default::default()
    };
    let request = messages::ProduceRequest {
        topic_data: vec![topic],
        ..Default::default()
    };
    let frame = request.to_bytes(9).unwrap();
    let decoded = messages::ProduceRequest::from_bytes(&frame, 9).unwrap();
    let found = decoded.topic_data[0].partition_data[0]
        .records
        .as_ref()
        .unwrap();
    assert_eq!(found, &records);
    assert!(frame.as_ptr_range().contains(&found.to_bytes().as_ptr()));
}

#[test]
fn fields_that_a_version_lacks_must_be_default_or_ignorable() {
    let mut request = messages::FetchRequest {
        replica_id: 3,
        ..Default::default()
    };
    assert!(request.to_bytes(14).is_ok());
    assert_eq!(
        request.to_bytes(15),
        Err(EncodeError::FieldNotInVersion {
            structure: "FetchRequest",
            field: "ReplicaId",
            version: 15
        })
    );
    // Ignorable.
    request = messages::FetchRequest {
        rack_id: "r".into(),
        ..Default::default()
    };
    assert!(request.to_bytes(4).is_ok());
    assert!(matches!(
        request.to_bytes(3),
        Err(EncodeError::UnsupportedVersion { .. })
    ));
    assert!(matches!(
        messages::MetadataRequest {
            topics: None,
            ..Default::default()
        }
        .to_bytes(0),
        Err(EncodeError::NullNotInVersion { .. })
    ));
}
