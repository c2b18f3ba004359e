//! `__consumer_offsets`, where groups and their offsets are.

use crate::broker::coordinator::internal_topic::InternalTopic;

/// The topic's name.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The topic.
pub const OFFSETS: InternalTopic = InternalTopic {
    name: OFFSETS_TOPIC,
    partitions_key: "offsets.topic.num.partitions",
    replication_key: "offsets.topic.replication.factor",
    segment_bytes_key: "offsets.topic.segment.bytes",
    compression: "producer",
};
