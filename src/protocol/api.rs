//! The one table of the APIs and versions that this broker serves. ApiVersions answers from it; the dispatch of
//! `broker/handlers` matches on [`ApiKey`], so that a key without a handler does not compile.

use super::schema::{self, Schema};

/// Where the numbers of our own APIs begin, far from Kafka's.
const OWN_KEYS_FROM: i16 = 32_001;

/// The APIs that are served, by Kafka's names and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(i16)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub enum ApiKey {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    LeaveGroup = 13,
    SyncGroup = 14,
    DescribeGroups = 15,
    ListGroups = 16,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    AddPartitionsToTxn = 24,
    AddOffsetsToTxn = 25,
    EndTxn = 26,
    WriteTxnMarkers = 27,
    TxnOffsetCommit = 28,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    DescribeLogDirs = 35,
    CreatePartitions = 37,
    DeleteGroups = 42,
    IncrementalAlterConfigs = 44,
    OffsetDelete = 47,
    DescribeCluster = 60,
    DescribeProducers = 61,
    DescribeTransactions = 65,
    ListTransactions = 66,
    ConsumerGroupHeartbeat = 68,
    ConsumerGroupDescribe = 69,
    ListConfigResources = 74,
    DescribeTopicPartitions = 75,
    /// Our own: see [`super::compact_topic`].
    CompactTopic = OWN_KEYS_FROM,
    /// Our own: see [`super::describe_latency`].
    DescribeLatency = OWN_KEYS_FROM + 1,
    /// Our own: see [`super::move_partition`].
    MovePartition = OWN_KEYS_FROM + 2,
}

impl ApiKey {
    /// Kafka's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Produce => "Produce",
            Self::Fetch => "Fetch",
            Self::ListOffsets => "ListOffsets",
            Self::Metadata => "Metadata",
            Self::OffsetCommit => "OffsetCommit",
            Self::OffsetFetch => "OffsetFetch",
            Self::FindCoordinator => "FindCoordinator",
            Self::JoinGroup => "JoinGroup",
            Self::Heartbeat => "Heartbeat",
            Self::LeaveGroup => "LeaveGroup",
            Self::SyncGroup => "SyncGroup",
            Self::DescribeGroups => "DescribeGroups",
            Self::ListGroups => "ListGroups",
            Self::ApiVersions => "ApiVersions",
            Self::CreateTopics => "CreateTopics",
            Self::DeleteTopics => "DeleteTopics",
            Self::DeleteRecords => "DeleteRecords",
            Self::InitProducerId => "InitProducerId",
            Self::OffsetForLeaderEpoch => "OffsetForLeaderEpoch",
            Self::AddPartitionsToTxn => "AddPartitionsToTxn",
            Self::AddOffsetsToTxn => "AddOffsetsToTxn",
            Self::EndTxn => "EndTxn",
            Self::WriteTxnMarkers => "WriteTxnMarkers",
            Self::TxnOffsetCommit => "TxnOffsetCommit",
            Self::DescribeConfigs => "DescribeConfigs",
            Self::AlterConfigs => "AlterConfigs",
            Self::DescribeLogDirs => "DescribeLogDirs",
            Self::CreatePartitions => "CreatePartitions",
            Self::DeleteGroups => "DeleteGroups",
            Self::IncrementalAlterConfigs => "IncrementalAlterConfigs",
            Self::OffsetDelete => "OffsetDelete",
            Self::DescribeCluster => "DescribeCluster",
            Self::DescribeProducers => "DescribeProducers",
            Self::DescribeTransactions => "DescribeTransactions",
            Self::ListTransactions => "ListTransactions",
            Self::ConsumerGroupHeartbeat => "ConsumerGroupHeartbeat",
            Self::ConsumerGroupDescribe => "ConsumerGroupDescribe",
            Self::ListConfigResources => "ListConfigResources",
            Self::DescribeTopicPartitions => "DescribeTopicPartitions",
            Self::CompactTopic => "CompactTopic",
            Self::DescribeLatency => "DescribeLatency",
            Self::MovePartition => "MovePartition",
        }
    }

    /// True if the next request of a connection may be handled before this one is answered.
    #[must_use]
    pub const fn is_pipelined(self) -> bool {
        matches!(self, Self::Produce | Self::OffsetCommit)
    }

    /// True for an API of Kafka. Our own are not in ApiVersions: Kafka's clients would print keys that they do not know.
    #[must_use]
    pub const fn is_kafkas(self) -> bool {
        (self as i16) < OWN_KEYS_FROM
    }

    /// True for ApiVersions, which is how a client learns the versions: a wrong one must get an answer (KIP-511).
    #[must_use]
    pub const fn answers_any_version(self) -> bool {
        matches!(self, Self::ApiVersions)
    }
}

/// One API: which versions are served, and how its requests are shaped.
#[derive(Debug, PartialEq, Eq)]
pub struct Api {
    /// Which API.
    pub key: ApiKey,
    /// The first version that is served.
    pub min: i16,
    /// The last version that is served.
    pub max: i16,
    /// The first version in the list: below `min` only for Produce, because clients based on librdkafka take the
    /// absence of Produce 0 for a broker that cannot compress (KIP-896; Kafka 4 lists it so, too).
    pub listed_min: i16,
    /// The first version with compact types and tagged fields.
    pub flexible_from: i16,
    /// The shape of its requests, against which array lengths are checked before anything is decoded.
    pub schema: Schema,
}

const fn api(key: ApiKey, min: i16, max: i16, flexible_from: i16, schema: Schema) -> Api {
    Api { key, min, max, listed_min: min, flexible_from, schema }
}

/// Sorted by key.
static APIS: &[Api] = &[
    Api { listed_min: 0, ..api(ApiKey::Produce, 3, 13, 9, schema::PRODUCE) },
    api(ApiKey::Fetch, 4, 17, 12, schema::FETCH),
    api(ApiKey::ListOffsets, 1, 10, 6, schema::LIST_OFFSETS),
    api(ApiKey::Metadata, 0, 13, 9, schema::METADATA),
    api(ApiKey::OffsetCommit, 2, 10, 8, schema::OFFSET_COMMIT),
    api(ApiKey::OffsetFetch, 1, 10, 6, schema::OFFSET_FETCH),
    api(ApiKey::FindCoordinator, 0, 6, 3, schema::FIND_COORDINATOR),
    api(ApiKey::JoinGroup, 0, 9, 6, schema::JOIN_GROUP),
    api(ApiKey::Heartbeat, 0, 4, 4, schema::HEARTBEAT),
    api(ApiKey::LeaveGroup, 0, 5, 4, schema::LEAVE_GROUP),
    api(ApiKey::SyncGroup, 0, 5, 4, schema::SYNC_GROUP),
    api(ApiKey::DescribeGroups, 0, 6, 5, schema::DESCRIBE_GROUPS),
    api(ApiKey::ListGroups, 0, 5, 3, schema::LIST_GROUPS),
    api(ApiKey::ApiVersions, 0, 4, 3, schema::API_VERSIONS),
    api(ApiKey::CreateTopics, 2, 7, 5, schema::CREATE_TOPICS),
    api(ApiKey::DeleteTopics, 1, 6, 4, schema::DELETE_TOPICS),
    api(ApiKey::DeleteRecords, 0, 2, 2, schema::DELETE_RECORDS),
    api(ApiKey::InitProducerId, 0, 5, 2, schema::INIT_PRODUCER_ID),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4, schema::OFFSET_FOR_LEADER_EPOCH),
    api(ApiKey::AddPartitionsToTxn, 0, 5, 3, schema::ADD_PARTITIONS_TO_TXN),
    api(ApiKey::AddOffsetsToTxn, 0, 4, 3, schema::ADD_OFFSETS_TO_TXN),
    api(ApiKey::EndTxn, 0, 5, 3, schema::END_TXN),
    api(ApiKey::WriteTxnMarkers, 1, 1, 1, schema::WRITE_TXN_MARKERS),
    api(ApiKey::TxnOffsetCommit, 0, 5, 3, schema::TXN_OFFSET_COMMIT),
    api(ApiKey::DescribeConfigs, 1, 4, 4, schema::DESCRIBE_CONFIGS),
    api(ApiKey::AlterConfigs, 0, 2, 2, schema::ALTER_CONFIGS),
    api(ApiKey::DescribeLogDirs, 1, 4, 2, schema::DESCRIBE_LOG_DIRS),
    api(ApiKey::CreatePartitions, 0, 3, 2, schema::CREATE_PARTITIONS),
    api(ApiKey::DeleteGroups, 0, 2, 2, schema::DELETE_GROUPS),
    api(ApiKey::IncrementalAlterConfigs, 0, 1, 1, schema::INCREMENTAL_ALTER_CONFIGS),
    api(ApiKey::OffsetDelete, 0, 0, 1, schema::OFFSET_DELETE),
    api(ApiKey::DescribeCluster, 0, 2, 0, schema::DESCRIBE_CLUSTER),
    api(ApiKey::DescribeProducers, 0, 0, 0, schema::DESCRIBE_PRODUCERS),
    api(ApiKey::DescribeTransactions, 0, 0, 0, schema::DESCRIBE_TRANSACTIONS),
    api(ApiKey::ListTransactions, 0, 2, 0, schema::LIST_TRANSACTIONS),
    api(ApiKey::ConsumerGroupHeartbeat, 0, 1, 0, schema::CONSUMER_GROUP_HEARTBEAT),
    api(ApiKey::ConsumerGroupDescribe, 0, 1, 0, schema::CONSUMER_GROUP_DESCRIBE),
    api(ApiKey::ListConfigResources, 0, 1, 0, schema::LIST_CONFIG_RESOURCES),
    api(ApiKey::DescribeTopicPartitions, 0, 0, 0, schema::DESCRIBE_TOPIC_PARTITIONS),
    api(ApiKey::CompactTopic, 0, 0, 1, schema::COMPACT_TOPIC),
    api(ApiKey::DescribeLatency, 0, 0, 1, schema::DESCRIBE_LATENCY),
    api(ApiKey::MovePartition, 0, 0, 1, schema::MOVE_PARTITION),
];

impl Api {
    /// All that are served, by key.
    #[must_use]
    pub fn all() -> &'static [Self] {
        APIS
    }

    /// The API with this number, if it is served.
    #[must_use]
    pub fn find(key: i16) -> Option<&'static Self> {
        APIS.binary_search_by_key(&key, |api| api.key as i16).ok().map(|i| &APIS[i])
    }

    /// The entry of an API.
    #[must_use]
    pub fn of(key: ApiKey) -> &'static Self {
        Self::find(key as i16).expect("every key is in the table: a test says so")
    }

    /// True if requests of this version are served.
    #[must_use]
    pub const fn serves(&self, version: i16) -> bool {
        version >= self.min && version <= self.max
    }

    /// True if this version has compact types and tagged fields.
    #[must_use]
    pub const fn flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }

    /// True if the header of the response has tagged fields: never for ApiVersions, whose client does not know yet
    /// what the broker speaks (KIP-511).
    #[must_use]
    pub const fn flexible_response_header(&self, version: i16) -> bool {
        self.flexible(version) && !matches!(self.key, ApiKey::ApiVersions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiKey as CodecKey;

    #[test]
    fn the_table_agrees_with_the_codec() {
        assert!(APIS.is_sorted_by_key(|api| api.key as i16));
        for api in APIS.iter().filter(|api| api.key.is_kafkas()) {
            let codec = CodecKey::try_from(api.key as i16).unwrap();
            assert_eq!(format!("{codec:?}"), api.key.name());
            let range = codec.valid_versions();
            assert!(range.min <= api.min && api.max <= range.max, "{}: the codec has {range}", api.key.name());
            for version in api.min..=api.max {
                assert_eq!(codec.request_header_version(version), if api.flexible(version) { 2 } else { 1 });
                let flexible = i16::from(api.flexible_response_header(version));
                assert_eq!(codec.response_header_version(version), flexible, "{} {version}", api.key.name());
            }
        }
    }
}
