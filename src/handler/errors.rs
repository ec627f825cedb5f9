//! Owns the mapping of what went wrong inside to what clients are told: the only place where Kafka's codes are chosen.

use crate::log::LogError;
use crate::log::producers::ProducerRefusal;
use crate::partition::PartitionError;
use crate::protocol::ErrorCode;

pub fn of_partition(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::Log(error) => of_log(error),
        PartitionError::Producer(error) => of_producer(error),
        PartitionError::NotHere => ErrorCode::NotLeaderOrFollower,
        PartitionError::Offline => ErrorCode::KafkaStorageError,
        PartitionError::FencedLeaderEpoch(_) => ErrorCode::FencedLeaderEpoch,
        PartitionError::UnknownLeaderEpoch(_) => ErrorCode::UnknownLeaderEpoch,
        PartitionError::OffsetOutOfRange(_) => ErrorCode::OffsetOutOfRange,
    }
}

pub fn of_log(error: &LogError) -> ErrorCode {
    match error {
        LogError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
        LogError::BatchTooLarge { .. } => ErrorCode::RecordListTooLarge,
        LogError::Storage { .. } => ErrorCode::KafkaStorageError,
        LogError::Closed => ErrorCode::NotLeaderOrFollower,
    }
}

pub fn of_producer(error: &ProducerRefusal) -> ErrorCode {
    match error {
        ProducerRefusal::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequenceNumber,
        ProducerRefusal::InvalidProducerEpoch { .. } => ErrorCode::InvalidProducerEpoch,
        ProducerRefusal::NotInTransaction { .. } => ErrorCode::InvalidTxnState,
        ProducerRefusal::CoordinatorFenced { .. } => ErrorCode::TransactionCoordinatorFenced,
    }
}
