//! Owns the records of a coordinator's log, in Kafka's formats byte for byte: making them, reading them.

use bytes::Bytes;

use crate::protocol::records::group::{self, Key, Value};
use crate::protocol::records::group::{GroupMetadataKey, OffsetCommitKey, OffsetCommitValue};
use crate::protocol::{DecodeError, Str};

use super::classic::ClassicGroup;
use super::offsets::Committed;

/// The version of group metadata that Kafka writes: the flexible one after it says nothing more.
const GROUP_METADATA_VERSION: i16 = 3;
/// The version of a commit, and that of one with a time to expire at, which the newer ones lost.
const COMMIT_VERSION: i16 = 4;
const EXPIRING_COMMIT_VERSION: i16 = 1;

/// A record to append.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub key: Bytes,
    /// `None`: what the key names is no more.
    pub value: Option<Bytes>,
}

/// What a coordinator's log cannot hold.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadRecord {
    #[error("a record without a key")]
    NoKey,
    #[error("the key: {0}")]
    Key(DecodeError),
    #[error("the value of {0}: {1}")]
    Value(&'static str, DecodeError),
}

impl Record {
    /// What it takes in a batch, and a little more.
    pub fn size_in_bytes(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD + self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }

    pub(super) fn new(key: impl Into<Key>, value: Option<(Value, i16)>) -> Record {
        let encoded = "a coordinator's records fit their formats";
        Record {
            key: key.into().encode().expect(encoded),
            value: value.map(|(value, version)| value.encode(version).expect(encoded)),
        }
    }

    pub(super) fn commit(group: &Str, topic: &Str, partition: i32, commit: &Committed) -> Record {
        let value = OffsetCommitValue {
            offset: commit.offset,
            leader_epoch: commit.leader_epoch,
            metadata: commit.metadata.clone(),
            commit_timestamp: commit.commit_timestamp,
            expire_timestamp: commit.expire_timestamp.unwrap_or(-1),
            topic_id: commit.topic_id,
        };
        let version = match commit.expire_timestamp {
            Some(_) => EXPIRING_COMMIT_VERSION,
            None => COMMIT_VERSION,
        };
        Record::new(
            commit_key(group, topic, partition),
            Some((value.into(), version)),
        )
    }

    pub(super) fn no_commit(group: &Str, topic: &Str, partition: i32) -> Record {
        Record::new(commit_key(group, topic, partition), None)
    }

    pub(super) fn classic_group(group: &ClassicGroup) -> Record {
        let value = group.to_record();
        Record::new(
            group_key(group.id()),
            Some((value.into(), GROUP_METADATA_VERSION)),
        )
    }

    pub(super) fn no_classic_group(group: &Str) -> Record {
        Record::new(group_key(group), None)
    }
}

fn commit_key(group: &Str, topic: &Str, partition: i32) -> OffsetCommitKey {
    OffsetCommitKey {
        group: group.clone(),
        topic: topic.clone(),
        partition,
    }
}

fn group_key(group: &Str) -> GroupMetadataKey {
    GroupMetadataKey {
        group: group.clone(),
    }
}

/// A record read back: its key, and its value unless it is a tombstone. `None`: of a type that is not known here,
/// which a later version may have written, as Kafka skips it.
pub(super) fn decode(
    key: Option<&Bytes>,
    value: Option<&Bytes>,
) -> Result<Option<(Key, Option<Value>)>, BadRecord> {
    let key = match Key::decode(key.ok_or(BadRecord::NoKey)?) {
        Ok(key) => key,
        Err(DecodeError::UnknownRecordType { .. }) => return Ok(None),
        Err(error) => return Err(BadRecord::Key(error)),
    };
    let value = value.map(|value| group::Value::decode(key.record_type(), value));
    let value = value.transpose();
    let value = value.map_err(|error| BadRecord::Value(key.name(), error))?;
    Ok(Some((key, value)))
}
