//! What is done with bytes that anyone may have written: one function a target, each of which takes any
//! bytes and must neither panic nor hang nor reserve more than the bytes pay for. Used by the fuzzer
//! (`tests/fuzz`) and by the bounded run of every test run (`tests/bad_input.rs`).

use bytes::Bytes;
use coati::config::topic::TopicConfig;
use coati::config::{DynamicConfigs, Settings, Sources, load};
use coati::ids::Offset;
use coati::log::checkpoints::{self, CleanShutdown, MetaProperties, PartitionMetadata};
use coati::log::epochs::EpochCache;
use coati::log::offset_index::OffsetIndex;
use coati::log::producers::{EndMarker, ProducerStates};
use coati::log::time_index::TimeIndex;
use coati::log::transaction_index::TransactionIndex;
use coati::partition::validate::{CompressedRecords, validate};
use coati::protocol::batch::{self, HEADER_BYTES};
use coati::protocol::compression::{Codec, decompress};
use coati::protocol::messages::*;
use coati::protocol::records::{group, metadata, share, transaction};
use coati::protocol::{Message, Reader, Request, Response, read_request_header};

/// No target lets records grow beyond this.
pub const DECOMPRESSED_MAX: usize = 1 << 20;

/// One API as the targets know it.
pub struct Api {
    pub key: i16,
    pub min_version: i16,
    pub max_version: i16,
    pub response: &'static str,
    decode_request: fn(&mut Reader, i16),
    decode_response: fn(&mut Reader, i16),
}

macro_rules! apis {
    ($($request:ident)*) => {
        pub const APIS: &[Api] = &[$(Api {
            key: <$request as Request>::KEY,
            min_version: $request::MIN_VERSION,
            max_version: $request::MAX_VERSION,
            response: <<$request as Request>::Response as Message>::NAME,
            decode_request: |reader, version| {
                if let Ok(message) = $request::decode(reader, version) {
                    message.to_bytes(version).expect("what was read can be written");
                }
            },
            decode_response: |reader, version| {
                type Answer = <$request as Request>::Response;
                debug_assert_eq!(<Answer as Response>::KEY, <$request as Request>::KEY);
                if let Ok(message) = Answer::decode(reader, version) {
                    message.to_bytes(version).expect("what was read can be written");
                }
            },
        }),*];
    };
}

apis! {
    ProduceRequest FetchRequest ListOffsetsRequest MetadataRequest OffsetCommitRequest OffsetFetchRequest
    FindCoordinatorRequest JoinGroupRequest HeartbeatRequest LeaveGroupRequest SyncGroupRequest
    DescribeGroupsRequest ListGroupsRequest SaslHandshakeRequest ApiVersionsRequest CreateTopicsRequest
    DeleteTopicsRequest DeleteRecordsRequest InitProducerIdRequest OffsetForLeaderEpochRequest
    AddPartitionsToTxnRequest AddOffsetsToTxnRequest EndTxnRequest WriteTxnMarkersRequest
    TxnOffsetCommitRequest DescribeAclsRequest CreateAclsRequest DeleteAclsRequest DescribeConfigsRequest
    AlterConfigsRequest AlterReplicaLogDirsRequest DescribeLogDirsRequest SaslAuthenticateRequest
    CreatePartitionsRequest CreateDelegationTokenRequest RenewDelegationTokenRequest
    ExpireDelegationTokenRequest DescribeDelegationTokenRequest DeleteGroupsRequest ElectLeadersRequest
    IncrementalAlterConfigsRequest AlterPartitionReassignmentsRequest ListPartitionReassignmentsRequest
    OffsetDeleteRequest DescribeClientQuotasRequest AlterClientQuotasRequest
    DescribeUserScramCredentialsRequest AlterUserScramCredentialsRequest VoteRequest
    BeginQuorumEpochRequest EndQuorumEpochRequest DescribeQuorumRequest AlterPartitionRequest
    UpdateFeaturesRequest EnvelopeRequest FetchSnapshotRequest DescribeClusterRequest
    DescribeProducersRequest BrokerRegistrationRequest BrokerHeartbeatRequest UnregisterBrokerRequest
    DescribeTransactionsRequest ListTransactionsRequest AllocateProducerIdsRequest
    ConsumerGroupHeartbeatRequest ConsumerGroupDescribeRequest ControllerRegistrationRequest
    GetTelemetrySubscriptionsRequest PushTelemetryRequest AssignReplicasToDirsRequest
    ListConfigResourcesRequest DescribeTopicPartitionsRequest ShareGroupHeartbeatRequest
    ShareGroupDescribeRequest ShareFetchRequest ShareAcknowledgeRequest AddRaftVoterRequest
    RemoveRaftVoterRequest UpdateRaftVoterRequest InitializeShareGroupStateRequest
    ReadShareGroupStateRequest WriteShareGroupStateRequest DeleteShareGroupStateRequest
    ReadShareGroupStateSummaryRequest StreamsGroupHeartbeatRequest StreamsGroupDescribeRequest
    DescribeShareGroupOffsetsRequest AlterShareGroupOffsetsRequest DeleteShareGroupOffsetsRequest
    StreamsGroupTopologyDescriptionUpdateRequest UnregisterControllerRequest
}

fn api(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key == key)
}

/// A request without the four bytes of its length: header, then body.
pub fn request_frame(data: &[u8]) {
    let mut reader = Reader::new(Bytes::copy_from_slice(data));
    let Ok(header) = read_request_header(&mut reader) else {
        return;
    };
    if let Some(api) = api(header.api_key) {
        (api.decode_request)(&mut reader, header.api_version);
    }
}

/// Two bytes that say which API and version, then the body of an answer.
pub fn response_body(data: &[u8]) {
    let Some(([key, version], body)) = data.split_first_chunk() else {
        return;
    };
    let Some(api) = api(i16::from(*key)) else {
        return;
    };
    (api.decode_response)(
        &mut Reader::new(Bytes::copy_from_slice(body)),
        i16::from(*version),
    );
}

/// Batches one after another, as in fetch answers and segments, opened and replayed.
pub fn record_batches(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    let mut states = ProducerStates::new(Offset(0));
    let mut index = TransactionIndex::new();
    for batch in batch::batches(&data) {
        let Ok(batch) = batch else { return };
        let _ = batch.verify_crc();
        let _ = batch.check_produced();
        if let Ok(records) = batch::records(&batch, DECOMPRESSED_MAX) {
            for record in records {
                let Ok(record) = record else { break };
                assert!(record.offset <= batch.last_offset());
            }
        }
        let _ = EndMarker::of(&batch);
        if let Ok(Some(aborted)) = states.replay(&batch) {
            index.append(aborted);
        }
    }
    let snapshot = states.encode_snapshot();
    let loaded = ProducerStates::decode_snapshot(states.end_offset(), &snapshot);
    assert_eq!(loaded.expect("our own").encode_snapshot(), snapshot);
}

/// The records field of a produce request, with its CRC put right so that the rest gets looked at.
/// The first byte chooses the topic's settings.
pub fn produced_records(data: &[u8]) {
    thread_local! {
        static TOPICS: Vec<TopicConfig> = topics();
    }
    let Some((choice, records)) = data.split_first() else {
        return;
    };
    let mut records = records.to_vec();
    put_crc_right(&mut records);
    let records = Bytes::from(records);
    TOPICS.with(|topics| {
        let topic = &topics[usize::from(*choice) % topics.len()];
        let result = validate(
            &records,
            12,
            &"t-0",
            topic,
            CompressedRecords::Walk,
            1_700_000_000_000,
        );
        if let Ok(validated) = result {
            let batch = batch::Batch::parse(&validated.batch).expect("validated");
            assert_eq!(batch.verify_crc(), Ok(()));
            assert!(validated.batch.len() <= topic.max_message_bytes as usize);
            let Ok(records) = batch::records(&batch, DECOMPRESSED_MAX) else {
                return;
            };
            // Header keys that are no text are the one thing that only the reader refuses.
            assert!(records.count() as i32 <= batch.records_count());
        }
    });
}

fn topics() -> Vec<TopicConfig> {
    let broker = load(&Sources::default()).expect("defaults").config;
    let plain = TopicConfig::resolve(&Settings::new(), broker.layers(&DynamicConfigs::default()));
    let with = |name: &str, value: &str| {
        let settings = Settings::from([(name.to_owned(), value.to_owned())]);
        let topic = TopicConfig::resolve(&settings, broker.layers(&DynamicConfigs::default()));
        TopicConfig {
            max_decompressed_bytes: 1 << 16,
            ..topic
        }
    };
    vec![
        TopicConfig {
            compact: true,
            ..plain.clone()
        },
        with("message.timestamp.type", "LogAppendTime"),
        with("message.timestamp.before.max.ms", "1000"),
        with("compression.type", "uncompressed"),
        with("compression.type", "gzip"),
        with("compression.type", "snappy"),
        with("compression.type", "lz4"),
        with("compression.type", "zstd"),
        plain,
    ]
}

fn put_crc_right(records: &mut [u8]) {
    let Some(length) = records.get(8..12) else {
        return;
    };
    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
    let end = usize::try_from(length).map_or(0, |length| length.saturating_add(12));
    if (HEADER_BYTES..=records.len()).contains(&end) {
        let crc = crc32c::crc32c(&records[21..end]);
        records[17..21].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The first byte chooses the codec.
pub fn compressed(data: &[u8]) {
    let Some((codec, data)) = data.split_first() else {
        return;
    };
    let codec = Codec::ALL[usize::from(*codec) % Codec::ALL.len()];
    if let Ok(out) = decompress(codec, &Bytes::copy_from_slice(data), DECOMPRESSED_MAX) {
        assert!(out.len() <= DECOMPRESSED_MAX);
    }
}

/// The first byte chooses the kind of file. What is accepted must be written again and read the same.
pub fn log_files(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let base = Offset(1000);
    let text = std::str::from_utf8(data).ok();
    match kind % 10 {
        0 => {
            if let Ok(index) = OffsetIndex::decode(base, data) {
                assert_eq!(OffsetIndex::decode(base, &index.encode_from(0)), Ok(index));
            }
        }
        1 => {
            if let Ok(index) = TimeIndex::decode(base, data) {
                assert_eq!(TimeIndex::decode(base, &index.encode_from(0)), Ok(index));
            }
        }
        2 => {
            if let Ok(index) = TransactionIndex::decode(base, data) {
                assert_eq!(
                    TransactionIndex::decode(base, &index.encode_from(0)),
                    Ok(index)
                );
            }
        }
        3 => snapshot(data),
        4 => {
            if let Some(Ok(epochs)) = text.map(EpochCache::parse) {
                assert_eq!(EpochCache::parse(&epochs.format()), Ok(epochs));
            }
        }
        5 => {
            if let Some(Ok(offsets)) = text.map(checkpoints::parse_offsets) {
                let rows = offsets
                    .iter()
                    .map(|((topic, partition), offset)| (topic.as_str(), *partition, *offset));
                assert_eq!(
                    checkpoints::parse_offsets(&checkpoints::format_offsets(rows)),
                    Ok(offsets)
                );
            }
        }
        6 => {
            if let Some(Ok(partition)) = text.map(PartitionMetadata::parse) {
                assert_eq!(PartitionMetadata::parse(&partition.format()), Ok(partition));
            }
        }
        7 => {
            if let Some(Ok(meta)) = text.map(MetaProperties::parse) {
                assert_eq!(MetaProperties::parse(&meta.format(0)), Ok(meta));
            }
        }
        _ => {
            let _ = text.map(CleanShutdown::parse);
        }
    }
}

fn snapshot(data: &[u8]) {
    let mut data = data.to_vec();
    if data.len() > 6 {
        let crc = crc32c::crc32c(&data[6..]);
        data[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    if let Ok(states) = ProducerStates::decode_snapshot(Offset(1000), &data) {
        let again = states.encode_snapshot();
        let loaded = ProducerStates::decode_snapshot(Offset(1000), &again);
        assert_eq!(loaded.expect("our own").encode_snapshot(), again);
    }
}

/// The first byte chooses the log; then a value for the metadata log, and for the others the length of
/// the key, the key and the value.
pub fn log_records(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else {
        return;
    };
    let data = Bytes::copy_from_slice(data);
    if kind % 4 == 0 {
        if let Ok(record) = metadata::MetadataRecord::decode(&data) {
            let _ = record.encode(record.max_version());
        }
        return;
    }
    let Some(length) = data.first().map(|length| usize::from(*length)) else {
        return;
    };
    if length + 1 > data.len() {
        return;
    }
    let (key, value) = (data.slice(1..length + 1), data.slice(length + 1..));
    match kind % 4 {
        1 => {
            if let Ok(key) = group::Key::decode(&key) {
                let _ = group::Value::decode(key.record_type(), &value);
            }
        }
        2 => {
            if let Ok(key) = transaction::Key::decode(&key) {
                let _ = transaction::Value::decode(key.record_type(), &value);
            }
        }
        _ => {
            if let Ok(key) = share::Key::decode(&key) {
                let _ = share::Value::decode(key.record_type(), &value);
            }
        }
    }
}
