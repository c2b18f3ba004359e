//! Kafka's error codes: the numbers of the wire, by Kafka's names.

use std::fmt;

macro_rules! codes {
    ($($name:ident = $code:literal, $kafka:literal, $text:literal;)*) => {
        /// An error code of the Kafka protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(i16)]
        pub enum ErrorCode {
            $(#[doc = concat!("`", $kafka, "`: ", $text, ".")] $name = $code,)*
        }

        impl ErrorCode {
            /// All codes, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Kafka's name, in capitals.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $kafka,)* }
            }

            /// One sentence without a full stop.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code with this number, if Kafka has one.
            #[must_use]
            pub const fn from_code(code: i16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    UnknownServerError = -1, "UNKNOWN_SERVER_ERROR", "The server met an error that it has no better word for";
    None = 0, "NONE", "No error";
    OffsetOutOfRange = 1, "OFFSET_OUT_OF_RANGE", "The offset is not in the log's range";
    CorruptMessage = 2, "CORRUPT_MESSAGE", "The bytes fail their checksum, size or shape";
    UnknownTopicOrPartition = 3, "UNKNOWN_TOPIC_OR_PARTITION", "This server does not host this topic-partition";
    InvalidFetchSize = 4, "INVALID_FETCH_SIZE", "The fetch size is invalid";
    LeaderNotAvailable = 5, "LEADER_NOT_AVAILABLE", "There is no leader for this topic-partition now";
    NotLeaderOrFollower = 6, "NOT_LEADER_OR_FOLLOWER", "This broker is neither leader nor follower as the request needs";
    RequestTimedOut = 7, "REQUEST_TIMED_OUT", "The request timed out";
    BrokerNotAvailable = 8, "BROKER_NOT_AVAILABLE", "The broker is not available";
    ReplicaNotAvailable = 9, "REPLICA_NOT_AVAILABLE", "The replica is not available";
    MessageTooLarge = 10, "MESSAGE_TOO_LARGE", "The batch is larger than the topic accepts";
    StaleControllerEpoch = 11, "STALE_CONTROLLER_EPOCH", "The controller moved to another broker";
    OffsetMetadataTooLarge = 12, "OFFSET_METADATA_TOO_LARGE", "The metadata of the offset commit is too large";
    NetworkException = 13, "NETWORK_EXCEPTION", "The server disconnected before it answered";
    CoordinatorLoadInProgress = 14, "COORDINATOR_LOAD_IN_PROGRESS", "The coordinator is loading";
    CoordinatorNotAvailable = 15, "COORDINATOR_NOT_AVAILABLE", "The coordinator is not available";
    NotCoordinator = 16, "NOT_COORDINATOR", "This is not the right coordinator";
    InvalidTopicException = 17, "INVALID_TOPIC_EXCEPTION", "The topic's name or the operation on it is invalid";
    RecordListTooLarge = 18, "RECORD_LIST_TOO_LARGE", "The batches are larger than a segment";
    NotEnoughReplicas = 19, "NOT_ENOUGH_REPLICAS", "Fewer in-sync replicas than required";
    NotEnoughReplicasAfterAppend = 20, "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "Written, but to fewer in-sync replicas than required";
    InvalidRequiredAcks = 21, "INVALID_REQUIRED_ACKS", "The value of acks is invalid";
    IllegalGeneration = 22, "ILLEGAL_GENERATION", "The group generation is not valid";
    InconsistentGroupProtocol = 23, "INCONSISTENT_GROUP_PROTOCOL", "The member's protocols do not match the group's";
    InvalidGroupId = 24, "INVALID_GROUP_ID", "The group id is invalid";
    UnknownMemberId = 25, "UNKNOWN_MEMBER_ID", "The coordinator does not know this member";
    InvalidSessionTimeout = 26, "INVALID_SESSION_TIMEOUT", "The session timeout is out of range";
    RebalanceInProgress = 27, "REBALANCE_IN_PROGRESS", "The group rebalances: rejoin";
    InvalidCommitOffsetSize = 28, "INVALID_COMMIT_OFFSET_SIZE", "The commit's offset data is too large";
    TopicAuthorizationFailed = 29, "TOPIC_AUTHORIZATION_FAILED", "Not authorized for the topic";
    GroupAuthorizationFailed = 30, "GROUP_AUTHORIZATION_FAILED", "Not authorized for the group";
    ClusterAuthorizationFailed = 31, "CLUSTER_AUTHORIZATION_FAILED", "Not authorized for the cluster";
    InvalidTimestamp = 32, "INVALID_TIMESTAMP", "The timestamp is out of the accepted range";
    UnsupportedSaslMechanism = 33, "UNSUPPORTED_SASL_MECHANISM", "The SASL mechanism is not supported";
    IllegalSaslState = 34, "ILLEGAL_SASL_STATE", "The request is not valid in this SASL state";
    UnsupportedVersion = 35, "UNSUPPORTED_VERSION", "The version of the API is not supported";
    TopicAlreadyExists = 36, "TOPIC_ALREADY_EXISTS", "The topic exists";
    InvalidPartitions = 37, "INVALID_PARTITIONS", "The number of partitions is invalid";
    InvalidReplicationFactor = 38, "INVALID_REPLICATION_FACTOR", "The replication factor is invalid";
    InvalidReplicaAssignment = 39, "INVALID_REPLICA_ASSIGNMENT", "The replica assignment is invalid";
    InvalidConfig = 40, "INVALID_CONFIG", "The configuration is invalid";
    NotController = 41, "NOT_CONTROLLER", "This is not the controller";
    InvalidRequest = 42, "INVALID_REQUEST", "The request is malformed or inconsistent";
    UnsupportedForMessageFormat = 43, "UNSUPPORTED_FOR_MESSAGE_FORMAT", "The message format on the broker does not support the request";
    PolicyViolation = 44, "POLICY_VIOLATION", "The request violates the configured policy";
    OutOfOrderSequenceNumber = 45, "OUT_OF_ORDER_SEQUENCE_NUMBER", "The producer's sequence number is out of order";
    DuplicateSequenceNumber = 46, "DUPLICATE_SEQUENCE_NUMBER", "The producer's sequence number is a duplicate";
    InvalidProducerEpoch = 47, "INVALID_PRODUCER_EPOCH", "The producer's epoch is older than the current";
    InvalidTxnState = 48, "INVALID_TXN_STATE", "The transaction's state does not allow this";
    InvalidProducerIdMapping = 49, "INVALID_PRODUCER_ID_MAPPING", "The producer id does not match the transactional id";
    InvalidTransactionTimeout = 50, "INVALID_TRANSACTION_TIMEOUT", "The transaction timeout is larger than allowed";
    ConcurrentTransactions = 51, "CONCURRENT_TRANSACTIONS", "A concurrent operation of the same transaction is going on";
    TransactionCoordinatorFenced = 52, "TRANSACTION_COORDINATOR_FENCED", "The transaction coordinator is fenced";
    TransactionalIdAuthorizationFailed = 53, "TRANSACTIONAL_ID_AUTHORIZATION_FAILED", "Not authorized for the transactional id";
    SecurityDisabled = 54, "SECURITY_DISABLED", "Security features are disabled";
    OperationNotAttempted = 55, "OPERATION_NOT_ATTEMPTED", "The operation was not attempted";
    KafkaStorageError = 56, "KAFKA_STORAGE_ERROR", "The log could not be written or read on disk";
    LogDirNotFound = 57, "LOG_DIR_NOT_FOUND", "The log directory is not known";
    SaslAuthenticationFailed = 58, "SASL_AUTHENTICATION_FAILED", "SASL authentication failed";
    UnknownProducerId = 59, "UNKNOWN_PRODUCER_ID", "The broker does not know the producer id";
    ReassignmentInProgress = 60, "REASSIGNMENT_IN_PROGRESS", "A partition reassignment is going on";
    DelegationTokenAuthDisabled = 61, "DELEGATION_TOKEN_AUTH_DISABLED", "Delegation tokens are disabled";
    DelegationTokenNotFound = 62, "DELEGATION_TOKEN_NOT_FOUND", "The delegation token is not known";
    DelegationTokenOwnerMismatch = 63, "DELEGATION_TOKEN_OWNER_MISMATCH", "The principal is not the owner or renewer of the token";
    DelegationTokenRequestNotAllowed = 64, "DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", "Delegation tokens cannot be handled on this channel";
    DelegationTokenAuthorizationFailed = 65, "DELEGATION_TOKEN_AUTHORIZATION_FAILED", "Not authorized for the delegation token";
    DelegationTokenExpired = 66, "DELEGATION_TOKEN_EXPIRED", "The delegation token is expired";
    InvalidPrincipalType = 67, "INVALID_PRINCIPAL_TYPE", "The principal type is not supported";
    NonEmptyGroup = 68, "NON_EMPTY_GROUP", "The group is not empty";
    GroupIdNotFound = 69, "GROUP_ID_NOT_FOUND", "The group id is not known";
    FetchSessionIdNotFound = 70, "FETCH_SESSION_ID_NOT_FOUND", "The fetch session is not known";
    InvalidFetchSessionEpoch = 71, "INVALID_FETCH_SESSION_EPOCH", "The fetch session's epoch is invalid";
    ListenerNotFound = 72, "LISTENER_NOT_FOUND", "The leader has no such listener";
    TopicDeletionDisabled = 73, "TOPIC_DELETION_DISABLED", "Topic deletion is disabled";
    FencedLeaderEpoch = 74, "FENCED_LEADER_EPOCH", "The leader epoch is older than the broker's";
    UnknownLeaderEpoch = 75, "UNKNOWN_LEADER_EPOCH", "The leader epoch is newer than the broker's";
    UnsupportedCompressionType = 76, "UNSUPPORTED_COMPRESSION_TYPE", "The compression type is not supported";
    StaleBrokerEpoch = 77, "STALE_BROKER_EPOCH", "The broker epoch is stale";
    OffsetNotAvailable = 78, "OFFSET_NOT_AVAILABLE", "The leader's high watermark has not caught up yet";
    MemberIdRequired = 79, "MEMBER_ID_REQUIRED", "The member must have an id before it joins";
    PreferredLeaderNotAvailable = 80, "PREFERRED_LEADER_NOT_AVAILABLE", "The preferred leader is not available";
    GroupMaxSizeReached = 81, "GROUP_MAX_SIZE_REACHED", "The group is full";
    FencedInstanceId = 82, "FENCED_INSTANCE_ID", "The static member's instance id is fenced";
    EligibleLeadersNotAvailable = 83, "ELIGIBLE_LEADERS_NOT_AVAILABLE", "No eligible leader is available";
    ElectionNotNeeded = 84, "ELECTION_NOT_NEEDED", "No election is needed";
    NoReassignmentInProgress = 85, "NO_REASSIGNMENT_IN_PROGRESS", "No reassignment is going on";
    GroupSubscribedToTopic = 86, "GROUP_SUBSCRIBED_TO_TOPIC", "The group is subscribed to the topic";
    InvalidRecord = 87, "INVALID_RECORD", "A record failed the broker's validation";
    UnstableOffsetCommit = 88, "UNSTABLE_OFFSET_COMMIT", "There are unstable offsets to clear";
    ThrottlingQuotaExceeded = 89, "THROTTLING_QUOTA_EXCEEDED", "The throttling quota is exceeded";
    ProducerFenced = 90, "PRODUCER_FENCED", "A newer producer with the same transactional id exists";
    ResourceNotFound = 91, "RESOURCE_NOT_FOUND", "The resource does not exist";
    DuplicateResource = 92, "DUPLICATE_RESOURCE", "The resource is named twice";
    UnacceptableCredential = 93, "UNACCEPTABLE_CREDENTIAL", "The credential is not acceptable";
    InconsistentVoterSet = 94, "INCONSISTENT_VOTER_SET", "The voter set is not the expected one";
    InvalidUpdateVersion = 95, "INVALID_UPDATE_VERSION", "The update's version is invalid";
    FeatureUpdateFailed = 96, "FEATURE_UPDATE_FAILED", "The feature could not be updated";
    PrincipalDeserializationFailure = 97, "PRINCIPAL_DESERIALIZATION_FAILURE", "The forwarded principal could not be read";
    SnapshotNotFound = 98, "SNAPSHOT_NOT_FOUND", "The snapshot is not known";
    PositionOutOfRange = 99, "POSITION_OUT_OF_RANGE", "The position is not in the snapshot's range";
    UnknownTopicId = 100, "UNKNOWN_TOPIC_ID", "This server does not host this topic id";
    DuplicateBrokerRegistration = 101, "DUPLICATE_BROKER_REGISTRATION", "The broker id is in use";
    BrokerIdNotRegistered = 102, "BROKER_ID_NOT_REGISTERED", "The broker id is not registered";
    InconsistentTopicId = 103, "INCONSISTENT_TOPIC_ID", "The topic id does not match the log's";
    InconsistentClusterId = 104, "INCONSISTENT_CLUSTER_ID", "The cluster id does not match the broker's";
    TransactionalIdNotFound = 105, "TRANSACTIONAL_ID_NOT_FOUND", "The transactional id is not known";
    FetchSessionTopicIdError = 106, "FETCH_SESSION_TOPIC_ID_ERROR", "The fetch session mixes topic ids and names";
    IneligibleReplica = 107, "INELIGIBLE_REPLICA", "The replica is not eligible for the ISR";
    NewLeaderElected = 108, "NEW_LEADER_ELECTED", "The partition has a new leader";
    OffsetMovedToTieredStorage = 109, "OFFSET_MOVED_TO_TIERED_STORAGE", "The offset is in tiered storage";
    FencedMemberEpoch = 110, "FENCED_MEMBER_EPOCH", "The member's epoch is fenced";
    UnreleasedInstanceId = 111, "UNRELEASED_INSTANCE_ID", "The instance id is still held by another member";
    UnsupportedAssignor = 112, "UNSUPPORTED_ASSIGNOR", "The assignor is not supported";
    StaleMemberEpoch = 113, "STALE_MEMBER_EPOCH", "The member's epoch is stale";
    MismatchedEndpointType = 114, "MISMATCHED_ENDPOINT_TYPE", "The request went to the wrong kind of endpoint";
    UnsupportedEndpointType = 115, "UNSUPPORTED_ENDPOINT_TYPE", "The endpoint type is not supported";
    UnknownControllerId = 116, "UNKNOWN_CONTROLLER_ID", "The controller id is not known";
    UnknownSubscriptionId = 117, "UNKNOWN_SUBSCRIPTION_ID", "The telemetry subscription id is not known";
    TelemetryTooLarge = 118, "TELEMETRY_TOO_LARGE", "The telemetry payload is too large";
    InvalidRegistration = 119, "INVALID_REGISTRATION", "The registration is invalid";
    TransactionAbortable = 120, "TRANSACTION_ABORTABLE", "The transaction must be aborted";
    InvalidRecordState = 121, "INVALID_RECORD_STATE", "The record's share-group state does not allow this";
    ShareSessionNotFound = 122, "SHARE_SESSION_NOT_FOUND", "The share session is not known";
    InvalidShareSessionEpoch = 123, "INVALID_SHARE_SESSION_EPOCH", "The share session's epoch is invalid";
    FencedStateEpoch = 124, "FENCED_STATE_EPOCH", "The share coordinator's state epoch is fenced";
    InvalidVoterKey = 125, "INVALID_VOTER_KEY", "The voter key does not match";
    DuplicateVoter = 126, "DUPLICATE_VOTER", "The voter is in the set already";
    VoterNotFound = 127, "VOTER_NOT_FOUND", "The voter is not in the set";
    InvalidRegularExpression = 128, "INVALID_REGULAR_EXPRESSION", "The regular expression is not valid";
    RebootstrapRequired = 129, "REBOOTSTRAP_REQUIRED", "The client must bootstrap again";
    StreamsInvalidTopology = 130, "STREAMS_INVALID_TOPOLOGY", "The streams topology is invalid";
    StreamsInvalidTopologyEpoch = 131, "STREAMS_INVALID_TOPOLOGY_EPOCH", "The streams topology epoch is invalid";
    StreamsTopologyFenced = 132, "STREAMS_TOPOLOGY_FENCED", "The streams topology epoch is outdated";
    ShareSessionLimitReached = 133, "SHARE_SESSION_LIMIT_REACHED", "The limit of share sessions is reached";
}

impl ErrorCode {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        self as i16
    }

    /// True for anything but [`ErrorCode::None`].
    #[must_use]
    pub const fn is_error(self) -> bool {
        !matches!(self, Self::None)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_come_back() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            assert_eq!(code.code(), i as i16 - 1);
            assert_eq!(ErrorCode::from_code(code.code()), Some(*code));
        }
        assert_eq!(ErrorCode::from_code(1000), None);
    }
}
