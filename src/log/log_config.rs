//! A topic's settings, resolved: what the log obeys, by Kafka's names and defaults.

use super::batch::Compression;

/// What a positive answer promises (`coreline.durability`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// The batch is on the device: it survives power loss.
    #[default]
    Durable,
    /// The batch was handed to the device: it survives the death of the process.
    Written,
}

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's own times stand.
    #[default]
    CreateTime,
    /// The broker stamps its time on each batch.
    LogAppendTime,
}

/// How a topic's batches are stored, where `compression.type` is not `producer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoding {
    /// The codec; a batch that has it already is stored as it is, whatever its level.
    pub codec: Compression,
    /// The codec's level; none is its usual one.
    pub level: Option<i32>,
}

/// A share, usually from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ratio(u64);

impl Ratio {
    /// Of a number.
    #[must_use]
    pub const fn new(value: f64) -> Self {
        Self(value.to_bits())
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// The settings of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: segments are closed earlier than `segment_ms` by up to this.
    pub segment_jitter_ms: i64,
    /// `segment.index.bytes`: the size of an offset index that makes a segment roll.
    pub segment_index_bytes: u64,
    /// `index.interval.bytes`: log bytes between two index entries.
    pub index_interval_bytes: u64,
    /// `max.message.bytes`: the largest batch.
    pub max_message_bytes: usize,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub message_timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub message_timestamp_after_max_ms: i64,
    /// `cleanup.policy` holds `delete`: old segments go by age and size.
    pub deletes: bool,
    /// `retention.ms`; negative: records do not grow old.
    pub retention_ms: i64,
    /// `retention.bytes` of a partition; negative: no limit.
    pub retention_bytes: i64,
    /// `file.delete.delay.ms`: from the renaming of a deleted segment to its removal.
    pub file_delete_delay_ms: i64,
    /// `cleanup.policy` holds `compact`: each record needs a key.
    pub compacted: bool,
    /// `min.cleanable.dirty.ratio`: the share of bytes that were not compacted yet that is worth a cleaning.
    pub min_cleanable_dirty_ratio: Ratio,
    /// `min.compaction.lag.ms`: a record stays at least this long.
    pub min_compaction_lag_ms: i64,
    /// `max.compaction.lag.ms`: a record is compacted after this long, whatever the share.
    pub max_compaction_lag_ms: i64,
    /// `delete.retention.ms`: a tombstone stays this long after its first cleaning.
    pub delete_retention_ms: i64,
    /// `compression.type` and the level that goes with it; none for `producer`: batches are stored as they come.
    pub compression: Option<Encoding>,
    /// `preallocate`: a segment's bytes are reserved when it is begun.
    pub preallocate: bool,
    /// `coreline.durability`.
    pub durability: Durability,
    /// `flush.messages`: a flush after this many records; with [`Durability::Written`].
    pub flush_messages: i64,
    /// `flush.ms`: a flush after this long; with [`Durability::Written`].
    pub flush_ms: i64,
}

impl LogConfig {
    /// The time after which a segment is full: in a compacted topic at most `max.compaction.lag.ms`, because only full
    /// segments are compacted.
    #[must_use]
    pub fn roll_ms(&self) -> i64 {
        if self.compacted && self.max_compaction_lag_ms > 0 {
            self.segment_ms.min(self.max_compaction_lag_ms)
        } else {
            self.segment_ms
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            segment_index_bytes: 10 << 20,
            index_interval_bytes: 4096,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            message_timestamp_before_max_ms: i64::MAX,
            message_timestamp_after_max_ms: 3_600_000,
            deletes: true,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            file_delete_delay_ms: 60_000,
            compacted: false,
            min_cleanable_dirty_ratio: Ratio::new(0.5),
            min_compaction_lag_ms: 0,
            max_compaction_lag_ms: i64::MAX,
            delete_retention_ms: 86_400_000,
            compression: None,
            preallocate: false,
            durability: Durability::Durable,
            flush_messages: i64::MAX,
            flush_ms: i64::MAX,
        }
    }
}
