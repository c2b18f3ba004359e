//! `__transaction_state`, where transactional ids are.

use crate::broker::coordinator::internal_topic::InternalTopic;

/// The topic's name.
pub const STATE_TOPIC: &str = "__transaction_state";

/// The topic.
pub const STATE: InternalTopic = InternalTopic {
    name: STATE_TOPIC,
    partitions_key: "transaction.state.log.num.partitions",
    replication_key: "transaction.state.log.replication.factor",
    segment_bytes_key: "transaction.state.log.segment.bytes",
    compression: "uncompressed",
};
