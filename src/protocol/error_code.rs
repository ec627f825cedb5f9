//! Owns Kafka's error codes: number, name, whether trying again may help, and a sentence of ours for each.
//! It never decides which error an answer has.

use std::fmt;

macro_rules! error_codes {
    ($($code:literal $variant:ident $name:literal $again:ident $message:literal;)*) => {
        /// An error as clients see it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = $message] $variant = $code,)*
        }

        impl ErrorCode {
            /// All of them, by rising code.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// As Kafka's documentation spells it.
            pub fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// What to tell people when there is nothing more precise to say.
            pub fn default_message(self) -> &'static str {
                match self { $(ErrorCode::$variant => $message,)* }
            }

            /// Whether the same request may succeed later.
            pub fn retriable(self) -> bool {
                match self { $(ErrorCode::$variant => error_codes!(@ $again),)* }
            }
        }
    };
    (@ retriable) => { true };
    (@ fatal) => { false };
}

impl ErrorCode {
    pub fn code(self) -> i16 {
        self as i16
    }

    /// The error with this code; `UnknownServerError` for codes that we don't know, as clients do.
    pub fn from_code(code: i16) -> ErrorCode {
        // Codes are dense from -1.
        let index = usize::try_from(i32::from(code) + 1).ok();
        index
            .and_then(|index| ErrorCode::ALL.get(index).copied())
            .unwrap_or(ErrorCode::UnknownServerError)
    }

    pub fn is_error(self) -> bool {
        self != ErrorCode::None
    }
}

impl From<ErrorCode> for i16 {
    fn from(error: ErrorCode) -> i16 {
        error.code()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

error_codes! {
    -1 UnknownServerError "UNKNOWN_SERVER_ERROR" fatal "The broker failed in a way that it did not expect.";
    0 None "NONE" fatal "No error.";
    1 OffsetOutOfRange "OFFSET_OUT_OF_RANGE" fatal "The offset is outside of what the partition holds.";
    2 CorruptMessage "CORRUPT_MESSAGE" retriable "The record batch fails its checksum, is malformed, or exceeds a size that may be.";
    3 UnknownTopicOrPartition "UNKNOWN_TOPIC_OR_PARTITION" retriable "This broker knows no such topic or partition.";
    4 InvalidFetchSize "INVALID_FETCH_SIZE" fatal "The fetch size is not valid.";
    5 LeaderNotAvailable "LEADER_NOT_AVAILABLE" retriable "The partition has no leader at the moment.";
    6 NotLeaderOrFollower "NOT_LEADER_OR_FOLLOWER" retriable "This broker is not the leader, or not a replica, of the partition.";
    7 RequestTimedOut "REQUEST_TIMED_OUT" retriable "The request was not completed in time.";
    8 BrokerNotAvailable "BROKER_NOT_AVAILABLE" fatal "The broker is not available.";
    9 ReplicaNotAvailable "REPLICA_NOT_AVAILABLE" retriable "The replica is not available for the partition.";
    10 MessageTooLarge "MESSAGE_TOO_LARGE" fatal "The batch is larger than the topic allows.";
    11 StaleControllerEpoch "STALE_CONTROLLER_EPOCH" fatal "The controller has moved to another broker.";
    12 OffsetMetadataTooLarge "OFFSET_METADATA_TOO_LARGE" fatal "The metadata committed with the offset is too large.";
    13 NetworkException "NETWORK_EXCEPTION" retriable "The connection ended before a response came.";
    14 CoordinatorLoadInProgress "COORDINATOR_LOAD_IN_PROGRESS" retriable "The coordinator is loading its state.";
    15 CoordinatorNotAvailable "COORDINATOR_NOT_AVAILABLE" retriable "The coordinator is not available.";
    16 NotCoordinator "NOT_COORDINATOR" retriable "This broker is not the coordinator.";
    17 InvalidTopicException "INVALID_TOPIC_EXCEPTION" fatal "The topic name is not valid, or the topic is internal.";
    18 RecordListTooLarge "RECORD_LIST_TOO_LARGE" fatal "The batches of the request are larger than a segment.";
    19 NotEnoughReplicas "NOT_ENOUGH_REPLICAS" retriable "Fewer replicas are in sync than the topic requires.";
    20 NotEnoughReplicasAfterAppend "NOT_ENOUGH_REPLICAS_AFTER_APPEND" retriable "The records were written, and then fewer replicas were in sync than the topic requires.";
    21 InvalidRequiredAcks "INVALID_REQUIRED_ACKS" fatal "The value of acks is not one of -1, 0 and 1.";
    22 IllegalGeneration "ILLEGAL_GENERATION" fatal "The generation is not the group's current one.";
    23 InconsistentGroupProtocol "INCONSISTENT_GROUP_PROTOCOL" fatal "The member's protocols have none in common with the group's.";
    24 InvalidGroupId "INVALID_GROUP_ID" fatal "The group id is not valid.";
    25 UnknownMemberId "UNKNOWN_MEMBER_ID" fatal "The group has no such member.";
    26 InvalidSessionTimeout "INVALID_SESSION_TIMEOUT" fatal "The session timeout is outside of what the broker allows.";
    27 RebalanceInProgress "REBALANCE_IN_PROGRESS" fatal "The group is rebalancing; join again.";
    28 InvalidCommitOffsetSize "INVALID_COMMIT_OFFSET_SIZE" fatal "The committed offset data is too large.";
    29 TopicAuthorizationFailed "TOPIC_AUTHORIZATION_FAILED" fatal "Not authorized for the topic.";
    30 GroupAuthorizationFailed "GROUP_AUTHORIZATION_FAILED" fatal "Not authorized for the group.";
    31 ClusterAuthorizationFailed "CLUSTER_AUTHORIZATION_FAILED" fatal "Not authorized for the cluster.";
    32 InvalidTimestamp "INVALID_TIMESTAMP" fatal "The timestamp of a record is outside of what the topic allows.";
    33 UnsupportedSaslMechanism "UNSUPPORTED_SASL_MECHANISM" fatal "The broker has no such SASL mechanism.";
    34 IllegalSaslState "ILLEGAL_SASL_STATE" fatal "The request does not fit the state of the SASL exchange.";
    35 UnsupportedVersion "UNSUPPORTED_VERSION" fatal "The broker does not have this version of the API.";
    36 TopicAlreadyExists "TOPIC_ALREADY_EXISTS" fatal "A topic of this name exists already.";
    37 InvalidPartitions "INVALID_PARTITIONS" fatal "The number of partitions is not valid.";
    38 InvalidReplicationFactor "INVALID_REPLICATION_FACTOR" fatal "The replication factor is not valid, or larger than the number of brokers.";
    39 InvalidReplicaAssignment "INVALID_REPLICA_ASSIGNMENT" fatal "The replica assignment is not valid.";
    40 InvalidConfig "INVALID_CONFIG" fatal "The configuration is not valid.";
    41 NotController "NOT_CONTROLLER" retriable "This broker is not the active controller.";
    42 InvalidRequest "INVALID_REQUEST" fatal "The request contradicts itself or is malformed.";
    43 UnsupportedForMessageFormat "UNSUPPORTED_FOR_MESSAGE_FORMAT" fatal "The record format of the partition does not support the request.";
    44 PolicyViolation "POLICY_VIOLATION" fatal "A policy of the cluster forbids the request.";
    45 OutOfOrderSequenceNumber "OUT_OF_ORDER_SEQUENCE_NUMBER" fatal "The sequence number does not follow the last one of the producer.";
    46 DuplicateSequenceNumber "DUPLICATE_SEQUENCE_NUMBER" fatal "The sequence number was written before.";
    47 InvalidProducerEpoch "INVALID_PRODUCER_EPOCH" fatal "The producer epoch is older than the current one.";
    48 InvalidTxnState "INVALID_TXN_STATE" fatal "The transaction is in a state that does not allow this.";
    49 InvalidProducerIdMapping "INVALID_PRODUCER_ID_MAPPING" fatal "The producer id is not that of the transactional id.";
    50 InvalidTransactionTimeout "INVALID_TRANSACTION_TIMEOUT" fatal "The transaction timeout is larger than the broker allows.";
    51 ConcurrentTransactions "CONCURRENT_TRANSACTIONS" retriable "Another change of the same transaction is in progress.";
    52 TransactionCoordinatorFenced "TRANSACTION_COORDINATOR_FENCED" fatal "The transaction coordinator that sent this is no longer the current one.";
    53 TransactionalIdAuthorizationFailed "TRANSACTIONAL_ID_AUTHORIZATION_FAILED" fatal "Not authorized for the transactional id.";
    54 SecurityDisabled "SECURITY_DISABLED" fatal "Security features are disabled.";
    55 OperationNotAttempted "OPERATION_NOT_ATTEMPTED" fatal "The operation was not attempted; another part of the request failed.";
    56 KafkaStorageError "KAFKA_STORAGE_ERROR" retriable "The log cannot be read or written; its disk may have failed.";
    57 LogDirNotFound "LOG_DIR_NOT_FOUND" fatal "The broker has no such log directory.";
    58 SaslAuthenticationFailed "SASL_AUTHENTICATION_FAILED" fatal "SASL authentication failed.";
    59 UnknownProducerId "UNKNOWN_PRODUCER_ID" fatal "The partition knows nothing of this producer id.";
    60 ReassignmentInProgress "REASSIGNMENT_IN_PROGRESS" fatal "The partition is being reassigned.";
    61 DelegationTokenAuthDisabled "DELEGATION_TOKEN_AUTH_DISABLED" fatal "Delegation tokens are not enabled.";
    62 DelegationTokenNotFound "DELEGATION_TOKEN_NOT_FOUND" fatal "There is no such delegation token.";
    63 DelegationTokenOwnerMismatch "DELEGATION_TOKEN_OWNER_MISMATCH" fatal "The principal is neither owner nor renewer of the token.";
    64 DelegationTokenRequestNotAllowed "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED" fatal "Delegation tokens cannot be asked for on this connection.";
    65 DelegationTokenAuthorizationFailed "DELEGATION_TOKEN_AUTHORIZATION_FAILED" fatal "Not authorized for delegation tokens.";
    66 DelegationTokenExpired "DELEGATION_TOKEN_EXPIRED" fatal "The delegation token has expired.";
    67 InvalidPrincipalType "INVALID_PRINCIPAL_TYPE" fatal "The principal type is not supported.";
    68 NonEmptyGroup "NON_EMPTY_GROUP" fatal "The group has members.";
    69 GroupIdNotFound "GROUP_ID_NOT_FOUND" fatal "There is no such group.";
    70 FetchSessionIdNotFound "FETCH_SESSION_ID_NOT_FOUND" retriable "There is no such fetch session.";
    71 InvalidFetchSessionEpoch "INVALID_FETCH_SESSION_EPOCH" retriable "The epoch is not the next one of the fetch session.";
    72 ListenerNotFound "LISTENER_NOT_FOUND" retriable "The leader has no listener of the name that the request came in on.";
    73 TopicDeletionDisabled "TOPIC_DELETION_DISABLED" fatal "Deleting topics is disabled.";
    74 FencedLeaderEpoch "FENCED_LEADER_EPOCH" retriable "The leader epoch is older than that of the broker.";
    75 UnknownLeaderEpoch "UNKNOWN_LEADER_EPOCH" retriable "The leader epoch is newer than that of the broker.";
    76 UnsupportedCompressionType "UNSUPPORTED_COMPRESSION_TYPE" fatal "The compression codec is not supported in this version of the request.";
    77 StaleBrokerEpoch "STALE_BROKER_EPOCH" fatal "The broker epoch is not the current one.";
    78 OffsetNotAvailable "OFFSET_NOT_AVAILABLE" retriable "The leader cannot answer yet: its high watermark still lags behind its epoch's start.";
    79 MemberIdRequired "MEMBER_ID_REQUIRED" fatal "Join again with the member id in this response.";
    80 PreferredLeaderNotAvailable "PREFERRED_LEADER_NOT_AVAILABLE" retriable "The preferred leader is not available.";
    81 GroupMaxSizeReached "GROUP_MAX_SIZE_REACHED" fatal "The group has as many members as it may have.";
    82 FencedInstanceId "FENCED_INSTANCE_ID" fatal "Another member with the same instance id took this one's place.";
    83 EligibleLeadersNotAvailable "ELIGIBLE_LEADERS_NOT_AVAILABLE" retriable "None of the replicas that may lead is available.";
    84 ElectionNotNeeded "ELECTION_NOT_NEEDED" retriable "The partition has the right leader already.";
    85 NoReassignmentInProgress "NO_REASSIGNMENT_IN_PROGRESS" fatal "The partition is not being reassigned.";
    86 GroupSubscribedToTopic "GROUP_SUBSCRIBED_TO_TOPIC" fatal "A member of the group is subscribed to the topic.";
    87 InvalidRecord "INVALID_RECORD" fatal "A record failed validation.";
    88 UnstableOffsetCommit "UNSTABLE_OFFSET_COMMIT" retriable "Offsets of the group are part of a transaction that is not over.";
    89 ThrottlingQuotaExceeded "THROTTLING_QUOTA_EXCEEDED" retriable "The quota is used up for now.";
    90 ProducerFenced "PRODUCER_FENCED" fatal "A newer producer with the same transactional id took this one's place.";
    91 ResourceNotFound "RESOURCE_NOT_FOUND" fatal "There is no such resource.";
    92 DuplicateResource "DUPLICATE_RESOURCE" fatal "The resource exists already or is named twice.";
    93 UnacceptableCredential "UNACCEPTABLE_CREDENTIAL" fatal "The credential does not meet what is required of it.";
    94 InconsistentVoterSet "INCONSISTENT_VOTER_SET" fatal "The set of voters is not the same for sender and receiver.";
    95 InvalidUpdateVersion "INVALID_UPDATE_VERSION" fatal "The update does not start from the current version.";
    96 FeatureUpdateFailed "FEATURE_UPDATE_FAILED" fatal "The feature level cannot be changed so.";
    97 PrincipalDeserializationFailure "PRINCIPAL_DESERIALIZATION_FAILURE" fatal "The forwarded principal cannot be read.";
    98 SnapshotNotFound "SNAPSHOT_NOT_FOUND" fatal "There is no such snapshot.";
    99 PositionOutOfRange "POSITION_OUT_OF_RANGE" fatal "The position is outside of the file.";
    100 UnknownTopicId "UNKNOWN_TOPIC_ID" retriable "This broker knows no topic with this id.";
    101 DuplicateBrokerRegistration "DUPLICATE_BROKER_REGISTRATION" fatal "Another broker is registered with the same id.";
    102 BrokerIdNotRegistered "BROKER_ID_NOT_REGISTERED" fatal "The broker id is not registered.";
    103 InconsistentTopicId "INCONSISTENT_TOPIC_ID" retriable "The topic id is not the one in the log.";
    104 InconsistentClusterId "INCONSISTENT_CLUSTER_ID" fatal "The cluster id is not that of this cluster.";
    105 TransactionalIdNotFound "TRANSACTIONAL_ID_NOT_FOUND" fatal "There is no such transactional id.";
    106 FetchSessionTopicIdError "FETCH_SESSION_TOPIC_ID_ERROR" retriable "The fetch session has partitions with and without topic ids.";
    107 IneligibleReplica "INELIGIBLE_REPLICA" fatal "The replica may not join the ISR.";
    108 NewLeaderElected "NEW_LEADER_ELECTED" fatal "The change was made, and with it a new leader was elected.";
    109 OffsetMovedToTieredStorage "OFFSET_MOVED_TO_TIERED_STORAGE" fatal "The offset is now in remote storage.";
    110 FencedMemberEpoch "FENCED_MEMBER_EPOCH" fatal "The member epoch is not the current one; join again.";
    111 UnreleasedInstanceId "UNRELEASED_INSTANCE_ID" fatal "The instance id is still held by another member.";
    112 UnsupportedAssignor "UNSUPPORTED_ASSIGNOR" fatal "The broker has no such assignor.";
    113 StaleMemberEpoch "STALE_MEMBER_EPOCH" fatal "The member epoch is not the latest one.";
    114 MismatchedEndpointType "MISMATCHED_ENDPOINT_TYPE" fatal "The request came in on the wrong kind of listener.";
    115 UnsupportedEndpointType "UNSUPPORTED_ENDPOINT_TYPE" fatal "This kind of endpoint cannot be described.";
    116 UnknownControllerId "UNKNOWN_CONTROLLER_ID" fatal "There is no controller with this id.";
    117 UnknownSubscriptionId "UNKNOWN_SUBSCRIPTION_ID" fatal "The telemetry subscription is not known or not current.";
    118 TelemetryTooLarge "TELEMETRY_TOO_LARGE" fatal "The telemetry is larger than the broker takes.";
    119 InvalidRegistration "INVALID_REGISTRATION" fatal "The registration is not valid.";
    120 TransactionAbortable "TRANSACTION_ABORTABLE" fatal "The transaction must be aborted.";
    121 InvalidRecordState "INVALID_RECORD_STATE" fatal "The record is in a state that does not allow this.";
    122 ShareSessionNotFound "SHARE_SESSION_NOT_FOUND" retriable "There is no such share session.";
    123 InvalidShareSessionEpoch "INVALID_SHARE_SESSION_EPOCH" retriable "The epoch is not the next one of the share session.";
    124 FencedStateEpoch "FENCED_STATE_EPOCH" fatal "The state epoch is older than the current one.";
    125 InvalidVoterKey "INVALID_VOTER_KEY" fatal "The voter's key is not that of the receiver.";
    126 DuplicateVoter "DUPLICATE_VOTER" fatal "The voter is one already.";
    127 VoterNotFound "VOTER_NOT_FOUND" fatal "There is no such voter.";
    128 InvalidRegularExpression "INVALID_REGULAR_EXPRESSION" fatal "The regular expression is not valid.";
    129 RebootstrapRequired "REBOOTSTRAP_REQUIRED" fatal "The client should start again from its bootstrap servers.";
    130 StreamsInvalidTopology "STREAMS_INVALID_TOPOLOGY" fatal "The topology is not valid.";
    131 StreamsInvalidTopologyEpoch "STREAMS_INVALID_TOPOLOGY_EPOCH" fatal "The topology epoch is not valid.";
    132 StreamsTopologyFenced "STREAMS_TOPOLOGY_FENCED" fatal "The topology epoch is older than the current one.";
    133 ShareSessionLimitReached "SHARE_SESSION_LIMIT_REACHED" retriable "The broker has as many share sessions as it may have.";
    134 GroupDeletionFailed "GROUP_DELETION_FAILED" fatal "The group could not be deleted.";
    135 StreamsTopologyDescriptionUpdateFailed "STREAMS_TOPOLOGY_DESCRIPTION_UPDATE_FAILED" fatal "The description of the topology could not be stored.";
    136 ControllerIdNotRegistered "CONTROLLER_ID_NOT_REGISTERED" fatal "The controller id is not registered.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_dense_and_found_again() {
        for (index, error) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(i32::from(error.code()), index as i32 - 1);
            assert_eq!(ErrorCode::from_code(error.code()), *error);
        }
        for unknown in [-2, 1000, i16::MIN, i16::MAX] {
            assert_eq!(ErrorCode::from_code(unknown), ErrorCode::UnknownServerError);
        }
        assert!(ErrorCode::NotLeaderOrFollower.retriable());
        assert!(!ErrorCode::OffsetOutOfRange.retriable());
    }
}
