//! The table of a topic's keys: all of Kafka 4.2's, and our own.

use super::definitions::{
    CLEANUP_POLICIES, COMPRESSION_DOC, COMPRESSION_TYPES, DELETE_RETENTION_DOC, DURABILITY, Definition, GZIP_DOC, Kind,
    LOCAL_BYTES_DOC, LOCAL_MS_DOC, LZ4_DOC, LZ4_LEVELS, MAX, MAX_LAG_DOC, MIN_LAG_DOC, MIN_RATIO_DOC, POLICIES_DOC,
    PREALLOCATE_DOC, Rule, TIMESTAMP_TYPES, TopicDefinition, UNCLEAN_DOC, ZSTD_DOC, ZSTD_LEVELS,
};

const I32: i64 = i32::MAX as i64;
const THROTTLED: &str = "Replicas whose traffic of replication is throttled: partition:broker, or * for all. Kept and shown; it takes effect with more than one broker.";
const REMOTE: &str =
    "Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.";
const REMOTE_DOC: &str = "Whether segments go to remote storage: only false, this version has none.";
const REMOTE_COPY_DOC: &str = "Whether nothing more goes to remote storage. Kept and shown; it takes effect with remote storage, which this version does not have.";
const REMOTE_DELETE_DOC: &str = "Whether what is in remote storage goes when that is disabled. Kept and shown; it takes effect with remote storage, which this version does not have.";

const fn topic(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    rule: Rule,
    synonyms: &'static [(&'static str, i64)],
    doc: &'static str,
) -> TopicDefinition {
    TopicDefinition { key: Definition { name, kind, default: Some(default), rule, dynamic: true, doc }, synonyms }
}

const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;

/// Every key of a topic.
pub const TOPIC_KEYS: &[TopicDefinition] = &[
    topic("cleanup.policy", Kind::List, "delete", CLEANUP_POLICIES, &[("log.cleanup.policy", 1)], POLICIES_DOC),
    topic(
        "min.cleanable.dirty.ratio",
        Kind::Double,
        "0.5",
        Rule::Share,
        &[("log.cleaner.min.cleanable.ratio", 1)],
        MIN_RATIO_DOC,
    ),
    topic(
        "min.compaction.lag.ms",
        Kind::Long,
        "0",
        Rule::AtLeast(0),
        &[("log.cleaner.min.compaction.lag.ms", 1)],
        MIN_LAG_DOC,
    ),
    topic(
        "max.compaction.lag.ms",
        Kind::Long,
        MAX,
        Rule::AtLeast(1),
        &[("log.cleaner.max.compaction.lag.ms", 1)],
        MAX_LAG_DOC,
    ),
    topic(
        "delete.retention.ms",
        Kind::Long,
        "86400000",
        Rule::AtLeast(0),
        &[("log.cleaner.delete.retention.ms", 1)],
        DELETE_RETENTION_DOC,
    ),
    topic(
        "retention.ms",
        Kind::Long,
        "604800000",
        Rule::AtLeast(-1),
        &[("log.retention.ms", 1), ("log.retention.minutes", MINUTE_MS), ("log.retention.hours", HOUR_MS)],
        "How long records are kept: a segment goes when its newest record is older. -1: for ever.",
    ),
    topic(
        "retention.bytes",
        Kind::Long,
        "-1",
        Rule::Any,
        &[("log.retention.bytes", 1)],
        "Bytes of a partition that are kept at least: the oldest segments beyond go. -1: no limit.",
    ),
    topic(
        "file.delete.delay.ms",
        Kind::Long,
        "60000",
        Rule::AtLeast(0),
        &[("log.segment.delete.delay.ms", 1)],
        "How long a deleted segment's files stay, renamed, before they are removed.",
    ),
    topic(
        "segment.bytes",
        Kind::Int,
        "1073741824",
        Rule::Between(1 << 20, I32),
        &[("log.segment.bytes", 1)],
        "Size at which a segment is closed and the next begun.",
    ),
    topic(
        "segment.ms",
        Kind::Long,
        "604800000",
        Rule::AtLeast(1),
        &[("log.roll.ms", 1), ("log.roll.hours", HOUR_MS)],
        "Age at which a segment is closed, by the times of its records.",
    ),
    topic(
        "segment.jitter.ms",
        Kind::Long,
        "0",
        Rule::AtLeast(0),
        &[("log.roll.jitter.ms", 1), ("log.roll.jitter.hours", HOUR_MS)],
        "Segments are closed up to this much before segment.ms, each by its own part of it, so that not all are at once.",
    ),
    topic(
        "segment.index.bytes",
        Kind::Int,
        "10485760",
        Rule::AtLeast(4),
        &[("log.index.size.max.bytes", 1)],
        "Largest index of a segment; a full index closes the segment.",
    ),
    topic(
        "index.interval.bytes",
        Kind::Int,
        "4096",
        Rule::AtLeast(0),
        &[("log.index.interval.bytes", 1)],
        "Bytes of a segment between two entries of its offset index.",
    ),
    topic(
        "max.message.bytes",
        Kind::Int,
        "1048588",
        Rule::AtLeast(0),
        &[("message.max.bytes", 1)],
        "Largest record batch the topic takes, in bytes, as compressed.",
    ),
    topic(
        "message.timestamp.type",
        Kind::String,
        "CreateTime",
        TIMESTAMP_TYPES,
        &[("log.message.timestamp.type", 1)],
        "Whether records keep their producer's time or get the broker's.",
    ),
    topic(
        "message.timestamp.before.max.ms",
        Kind::Long,
        MAX,
        Rule::AtLeast(0),
        &[("log.message.timestamp.before.max.ms", 1)],
        "How far a record's time may lie before the broker's.",
    ),
    topic(
        "message.timestamp.after.max.ms",
        Kind::Long,
        "3600000",
        Rule::AtLeast(0),
        &[("log.message.timestamp.after.max.ms", 1)],
        "How far a record's time may lie after the broker's.",
    ),
    topic(
        "min.insync.replicas",
        Kind::Int,
        "1",
        Rule::AtLeast(1),
        &[("min.insync.replicas", 1)],
        "Replicas that must be in sync for a write with acks=all to be taken; no more than the partition has count.",
    ),
    topic("compression.type", Kind::String, "producer", COMPRESSION_TYPES, &[("compression.type", 1)], COMPRESSION_DOC),
    topic("compression.gzip.level", Kind::Int, "-1", Rule::GzipLevel, &[("compression.gzip.level", 1)], GZIP_DOC),
    topic("compression.lz4.level", Kind::Int, "9", LZ4_LEVELS, &[("compression.lz4.level", 1)], LZ4_DOC),
    topic("compression.zstd.level", Kind::Int, "3", ZSTD_LEVELS, &[("compression.zstd.level", 1)], ZSTD_DOC),
    topic("preallocate", Kind::Boolean, "false", Rule::Any, &[("log.preallocate", 1)], PREALLOCATE_DOC),
    topic(
        "unclean.leader.election.enable",
        Kind::Boolean,
        "false",
        Rule::Any,
        &[("unclean.leader.election.enable", 1)],
        UNCLEAN_DOC,
    ),
    topic("leader.replication.throttled.replicas", Kind::List, "", Rule::Replicas, &[], THROTTLED),
    topic("follower.replication.throttled.replicas", Kind::List, "", Rule::Replicas, &[], THROTTLED),
    topic("remote.storage.enable", Kind::Boolean, "false", Rule::OnlyFalse(REMOTE), &[], REMOTE_DOC),
    topic("remote.log.copy.disable", Kind::Boolean, "false", Rule::Any, &[], REMOTE_COPY_DOC),
    topic("remote.log.delete.on.disable", Kind::Boolean, "false", Rule::Any, &[], REMOTE_DELETE_DOC),
    topic("local.retention.ms", Kind::Long, "-2", Rule::AtLeast(-2), &[("log.local.retention.ms", 1)], LOCAL_MS_DOC),
    topic(
        "local.retention.bytes",
        Kind::Long,
        "-2",
        Rule::AtLeast(-2),
        &[("log.local.retention.bytes", 1)],
        LOCAL_BYTES_DOC,
    ),
    topic(
        "flush.messages",
        Kind::Long,
        MAX,
        Rule::AtLeast(1),
        &[("log.flush.interval.messages", 1)],
        "With coreline.durability=written: flush to the disk after so many records.",
    ),
    topic(
        "flush.ms",
        Kind::Long,
        MAX,
        Rule::AtLeast(0),
        &[("log.flush.interval.ms", 1)],
        "With coreline.durability=written: flush to the disk after so many milliseconds.",
    ),
    topic(
        "coreline.durability",
        Kind::String,
        "durable",
        DURABILITY,
        &[("coreline.durability", 1)],
        "When a write is acknowledged: durable, after it is flushed to the disk; written, after it is handed to the disk.",
    ),
];
