//! What goes in and out of a [`LogStore`](super::LogStore): options, requests, answers, errors. No behaviour.

use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};
pub use crate::log::intake::RecordError;
use crate::log::log_config::LogConfig;
pub use crate::log::verification::{TxnProducer, VerificationGuard};
use bytes::Bytes;
use coreline_io::Monotonic;
use coreline_shards::Blocking;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Why the process must stop: durability is in doubt. Each has its own exit code (`broker/fatal.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FatalReason {
    /// A write to the journal failed for another reason than a full disk.
    JournalWrite,
    /// A flush of the journal to the device failed: nothing is known of the writes before it.
    JournalSync,
    /// A write to a segment or index failed for another reason than a full disk.
    SegmentWrite,
    /// A flush of a segment to the device failed.
    SegmentSync,
    /// A change of names (create, rename, truncate) failed where the order of recovery depends on it.
    Directory,
}

/// Called once when durability is in doubt; in the server it ends the process.
pub type FatalHook = Rc<dyn Fn(FatalReason, String)>;

/// How a group commit reaches the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalSync {
    /// One operation: the file is open with `O_DSYNC`.
    Dsync,
    /// Two operations: a write, then `fdatasync`.
    WriteThenSync,
}

/// Settings of one shard's store.
#[derive(Clone)]
pub struct StoreOptions {
    /// The node's data directory.
    pub data_dir: PathBuf,
    /// The shard that owns this store: names its journal.
    pub shard: u16,
    /// Files in the journal's ring, at least 2.
    pub journal_files: usize,
    /// Bytes of one journal file; rounded down to whole blocks.
    pub journal_file_bytes: u64,
    /// Bytes of zeros that are written at once, ahead of the writer, to a journal file that is used for the first time; whole blocks.
    pub journal_fill_bytes: u64,
    /// A start after a crash takes so long, at most: more of the journal goes to segments than it has room for, if need be
    /// (`coreline.recovery.max.ms`).
    pub recovery_max: Duration,
    /// How a group commit becomes durable.
    pub journal_sync: JournalSync,
    /// Record bytes in one group commit, at most (the partition that crosses it is the last).
    pub group_bytes_max: usize,
    /// A partition with this many bytes waiting goes straight to its segment, past the journal.
    pub direct_bytes_min: usize,
    /// Unflushed bytes of a partition that start a flush to its segment.
    pub flush_bytes: usize,
    /// A flush of so many partitions is made durable by one sync of the file system. Fewer are synced one by one: a sync
    /// of the file system waits for other processes' data, too. At least 1.
    pub shared_sync_partitions: usize,
    /// Acknowledged bytes that may wait for their flush before appends wait too.
    pub unflushed_bytes_max: usize,
    /// Bytes of flushed batches that stay in memory for readers near the end.
    pub cache_bytes_max: usize,
    /// Segment and index files open at a time, at most.
    pub open_files_max: usize,
    /// Indexes that are missing of larger segments are made in the background, while the partition is read.
    pub rebuild_at_once_bytes_max: u64,
    /// Milliseconds after which an idle producer's state is forgotten (`producer.id.expiration.ms`).
    pub producer_id_expiration_ms: i64,
    /// How this shard compacts.
    pub cleaner: CleanerOptions,
    /// From one look for segments to delete to the next (`log.retention.check.interval.ms`).
    pub retention_check_interval: Duration,
    /// Markers of the second version of transactions come once more after so long, as they may in a cluster. For simulations.
    pub markers_again: Option<Duration>,
    /// Threads for what would hold the core: batches that are compressed anew.
    pub helpers: Blocking,
    /// Gives memory that was freed back to the system, on a helper thread, after a recovery.
    pub give_back_memory: Option<fn()>,
    /// Called when durability is in doubt.
    pub fatal: FatalHook,
}

/// How a shard compacts its partitions: one at a time, in the background.
#[derive(Clone, Debug, PartialEq)]
pub struct CleanerOptions {
    /// `log.cleaner.backoff.ms`: between two looks at partitions that may be dirty.
    pub backoff: Duration,
    /// This shard's part of `log.cleaner.dedupe.buffer.size`: bytes of the map of keys, at most.
    pub dedupe_buffer_bytes: usize,
    /// This shard's part of `log.cleaner.io.buffer.size`: bytes of one read or write, at least one batch.
    pub io_buffer_bytes: usize,
    /// `log.cleaner.io.buffer.load.factor`: how full the map of keys may get, 0 to 1.
    pub load_factor: f64,
    /// This shard's part of `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second: f64,
}

impl Default for CleanerOptions {
    fn default() -> Self {
        Self {
            backoff: Duration::from_secs(15),
            dedupe_buffer_bytes: 128 << 20,
            io_buffer_bytes: 512 << 10,
            load_factor: 0.9,
            bytes_per_second: f64::MAX,
        }
    }
}

impl StoreOptions {
    /// The defaults for a shard: a journal of 4 × 64 MiB, 128 MiB of unflushed and 64 MiB of cached bytes.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>, shard: u16, fatal: FatalHook) -> Self {
        Self {
            data_dir: data_dir.into(),
            shard,
            journal_files: 4,
            journal_file_bytes: 64 << 20,
            journal_fill_bytes: 1 << 20,
            recovery_max: Duration::from_secs(1),
            journal_sync: JournalSync::WriteThenSync,
            group_bytes_max: 1 << 20,
            direct_bytes_min: 128 << 10,
            flush_bytes: 512 << 10,
            shared_sync_partitions: 16,
            unflushed_bytes_max: 128 << 20,
            cache_bytes_max: 64 << 20,
            open_files_max: 4096,
            rebuild_at_once_bytes_max: 16 << 20,
            producer_id_expiration_ms: 86_400_000,
            cleaner: CleanerOptions::default(),
            retention_check_interval: Duration::from_secs(300),
            markers_again: None,
            helpers: Blocking::inline(),
            give_back_memory: None,
            fatal,
        }
    }
}

impl StoreOptions {
    /// Bytes of the largest frame, and some more.
    pub(super) fn frame_bytes_max(&self) -> u64 {
        (self.group_bytes_max + self.direct_bytes_min) as u64 * 2 + 4 * coreline_io::BLOCK as u64
    }

    /// Relations that the store stands on.
    pub(crate) fn check(&self) {
        let block = coreline_io::BLOCK as u64;
        assert!(self.journal_files >= 2, "the journal needs two files: one to write, one to recycle");
        assert!(self.journal_file_bytes.is_multiple_of(block), "journal files are whole blocks");
        assert!(
            self.journal_fill_bytes >= block && self.journal_fill_bytes.is_multiple_of(block),
            "zeros go in whole blocks"
        );
        assert!(self.shared_sync_partitions >= 1, "a sync is of something");
        let frame = self.frame_bytes_max();
        assert!(frame <= self.journal_file_bytes, "a journal file must hold the largest group: {frame} bytes");
        assert!(frame <= crate::log::journal::FRAME_BYTES_MAX as u64, "a frame must hold the largest group");
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("data_dir", &self.data_dir)
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

/// A partition that this shard owns.
#[derive(Clone, Debug)]
pub struct PartitionSpec {
    /// Its id.
    pub id: PartitionId,
    /// The topic's name: with the index it names the directory.
    pub topic: Arc<str>,
    /// The epoch of this leadership, stamped on each batch.
    pub leader_epoch: LeaderEpoch,
    /// The topic's settings.
    pub config: Arc<LogConfig>,
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// `acks=0`: at once.
    None,
    /// `acks=1`, and `all` while there is one replica: once the group commit that holds it is on disk.
    Local,
}

/// Where an append comes from.
#[derive(Clone, Copy, Debug)]
pub struct AppendOrigin {
    /// When to answer.
    pub acks: Acks,
    /// The wall clock in milliseconds: log-append time, timestamp bounds, producer activity.
    pub now_ms: i64,
}

/// Who appends transactional batches, and by which right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxnAppend {
    /// What the first batch of a transaction needs, by [`TxnState::Unverified`], once the coordinator has said yes.
    pub guard: Option<VerificationGuard>,
    /// A coordinator of this node: its batches need no sequence numbers.
    pub by_coordinator: bool,
}

/// What a partition knows of a producer's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnState {
    /// It is open here: its batches may be appended.
    Ongoing,
    /// It is not: the coordinator must be asked before the first batch is appended.
    Unverified(VerificationGuard),
}

/// The end of a transaction in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnMarker {
    /// Where.
    pub partition: PartitionId,
    /// Whose.
    pub producer_id: ProducerId,
    /// The epoch that the coordinator gives; with version 2 that of the next transaction.
    pub producer_epoch: ProducerEpoch,
    /// The coordinator's epoch: a marker of an older one is refused.
    pub coordinator_epoch: i32,
    /// Committed, or aborted.
    pub commit: bool,
    /// The producer's epoch is raised with each transaction (transaction version 2).
    pub v2: bool,
}

/// Called when a marker is committed; must not block, and must not append.
pub type MarkerHook = Rc<dyn Fn(&TxnMarker)>;

/// An append that is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record. Of a duplicate: where the original went.
    pub base_offset: Offset,
    /// The stamped time, or -1 when the producer's own times stand.
    pub log_append_time_ms: i64,
    /// The partition's first offset.
    pub log_start_offset: Offset,
}
/// When an append was where on its way to the device; all zero where it was answered at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitTimes {
    /// It was in the log. Zero where that was at once; else its partition was loaded, or batches compressed anew.
    pub entered: Monotonic,
    /// The write that it waited for began.
    pub began: Monotonic,
    /// … and was done, on the device where that is what was promised.
    pub done: Monotonic,
    /// Which group commit that was; none for a write straight to the segment.
    pub group: Option<u64>,
    /// Partitions in it.
    pub partitions: u32,
    /// Bytes in it.
    pub bytes: u64,
}

/// An append that was refused; nothing of it is in the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct AppendError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What was expected and what came.
    pub message: String,
    /// The records at fault, where they are known.
    pub record_errors: Vec<RecordError>,
}

impl AppendError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), record_errors: Vec::new() }
    }
}

/// `isolation.level` of a reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Up to the high watermark.
    #[default]
    ReadUncommitted,
    /// Up to the last stable offset.
    ReadCommitted,
}

/// What to read.
#[derive(Clone, Copy, Debug)]
pub struct ReadRequest {
    /// The first offset wanted.
    pub offset: Offset,
    /// Bytes wanted at most.
    pub max_bytes: usize,
    /// Give one whole batch even if it is larger than `max_bytes`.
    pub at_least_one: bool,
    /// How far to read.
    pub isolation: Isolation,
    /// The leader epoch the reader believes in, to be checked.
    pub current_leader_epoch: Option<LeaderEpoch>,
}

/// An aborted transaction in the range that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: ProducerId,
    /// Its first offset.
    pub first_offset: Offset,
}

/// What was read: whole batches, back to back, the first one holds the offset asked for.
#[derive(Clone, Debug, Default)]
pub struct ReadResult {
    /// Offsets below it are committed.
    pub high_watermark: Offset,
    /// Offsets below it are of no open transaction.
    pub last_stable_offset: Offset,
    /// The first offset.
    pub log_start_offset: Offset,
    /// The batches; each piece may hold several, and may be sent to another core.
    pub records: Vec<Bytes>,
    /// For [`Isolation::ReadCommitted`].
    pub aborted: Vec<AbortedTransaction>,
}

/// A read or a query that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ReadError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What was expected and what came.
    pub message: String,
    /// The partition's ends, where they are known (Fetch answers carry them with an error, too).
    pub offsets: Option<EndOffsets>,
}

impl ReadError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), offsets: None }
    }
}

/// The ends of a partition: `log_start ≤ last_stable ≤ high_watermark ≤ log_end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndOffsets {
    /// The first offset that can be read.
    pub log_start: Offset,
    /// Offsets below it are of no open transaction.
    pub last_stable: Offset,
    /// Offsets below it are committed.
    pub high_watermark: Offset,
    /// The next offset to be given.
    pub log_end: Offset,
}

impl EndOffsets {
    /// The end for a reader of this isolation.
    #[must_use]
    pub const fn readable(&self, isolation: Isolation) -> Offset {
        match isolation {
            Isolation::ReadUncommitted => self.high_watermark,
            Isolation::ReadCommitted => self.last_stable,
        }
    }
}

/// What ListOffsets can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The first offset (-2; also the local log's first, -4).
    Earliest,
    /// The end, for a reader of this isolation (-1).
    Latest(Isolation),
    /// The record with the largest timestamp (-3).
    MaxTimestamp,
    /// The first record at or after this time in milliseconds.
    Timestamp(i64),
}

/// The answer to an [`OffsetQuery`]; `None` in place of it when no record qualifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp, or -1.
    pub timestamp: i64,
    /// The epoch of the leader that wrote it, or -1.
    pub leader_epoch: LeaderEpoch,
}

/// The answer to OffsetForLeaderEpoch: both -1 when the epoch is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest known epoch at or below the one asked for.
    pub leader_epoch: LeaderEpoch,
    /// The first offset after it.
    pub end_offset: Offset,
}

/// An active idempotent producer of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerInfo {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The sequence number of its last record.
    pub last_sequence: i32,
    /// The time of its last batch in milliseconds.
    pub last_timestamp: i64,
    /// The coordinator's epoch of its last transaction marker, or -1.
    pub coordinator_epoch: i32,
    /// The first offset of its open transaction, or -1.
    pub current_txn_start_offset: Offset,
}

/// How far the compaction of a partition is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactionState {
    /// It was asked for, and is not at its end.
    pub pending: bool,
    /// The first offset.
    pub log_start: Offset,
    /// Everything before it is compacted.
    pub compacted_end: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
    /// Why it cannot be compacted.
    pub failure: Option<String>,
}

/// A store that could not be opened, drained or closed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("{context}: {source}")]
    Io {
        /// What the store was doing.
        context: String,
        /// The operation, the path and the system's word.
        #[source]
        source: coreline_io::IoError,
    },
    /// What is on disk cannot be what this program wrote.
    #[error("{0}")]
    Corrupt(String),
    /// The change could not be journaled.
    #[error("{0}")]
    Refused(ErrorCode),
    /// The store has stopped.
    #[error("the store has stopped")]
    Stopped,
}

impl StoreError {
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(coreline_io::IoError) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

/// Counters of one store, for metrics. All since the start, but where it says "now".
#[derive(Clone, Copy, Debug, Default)]
pub struct StoreStats {
    /// Batches appended.
    pub batches: u64,
    /// Record bytes appended.
    pub bytes: u64,
    /// Of them copied into a chunk of their partition.
    pub copied_bytes: u64,
    /// Group commits.
    pub groups: u64,
    /// Bytes written to the journal, padding included.
    pub journal_bytes: u64,
    /// Writes that went straight to a segment.
    pub direct_writes: u64,
    /// Bytes written to segments, padding included.
    pub segment_bytes: u64,
    /// Bytes of segments that readers looked at.
    pub cold_bytes: u64,
    /// Bytes that were read from the device for them.
    pub device_read_bytes: u64,
    /// Bytes that they were given of what others had read, or were reading.
    pub shared_read_bytes: u64,
    /// Acknowledged bytes that no flush to the device covers yet, now.
    pub not_durable_bytes: u64,
    /// Acknowledged bytes in the journal that are not in a segment yet, now.
    pub unflushed_bytes: u64,
    /// Flushed bytes kept in memory, now.
    pub cache_bytes: u64,
    /// Segment and index files open, now.
    pub open_files: u64,
    /// Segments that were removed because they lie before their log's start.
    pub retention_segments: u64,
    /// Bytes of them.
    pub retention_bytes: u64,
    /// Cleanings of a partition that came to their end.
    pub compactions: u64,
    /// Records that they removed.
    pub compacted_records: u64,
    /// Bytes that they read.
    pub compaction_read_bytes: u64,
    /// Bytes that they wrote, padding included.
    pub compaction_written_bytes: u64,
    /// Partitions that cannot be compacted, now; the log names them.
    pub uncleanable_partitions: u64,
}
