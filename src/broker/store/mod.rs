//! The log of one shard: appends with group commit, reads, recovery. One [`LogStore`] per shard.
//!
//! | file | concept |
//! | --- | --- |
//! | `take_in` | validation and compression, where that takes long by a helper thread; order |
//! | `append` | idempotence, offsets: all in the call |
//! | `partition`, `tail`, `index_builder` | the state of one log, no I/O |
//! | `journal_writer`, `journal_files` | the group commit, the ring of files |
//! | `joined` | what several partitions commit together, or not at all |
//! | `flush`, `flush_round` | tail → segments, seals, indexes, snapshots; many partitions at once |
//! | `read`, `shared_reads`, `offsets` | tail and cold reads, several readers of one range, ListOffsets |
//! | `budget` | how long the journal may get |
//! | `recovery`, `load`, `settle`, `gather` | the journal at open, partitions at first use, what may not be durable, many at once |
//! | `states`, `marks` | what a load after a crash need not look at, or read |
//! | `rebuild` | indexes that are missing |
//! | `txn` | ends of transactions, who may append to one |
//! | `alter`, `retention` | delete, move the start, cut the end; what grows old |
//! | `compaction` | the cleaner: compacted topics keep the last record of each key |
//! | `survey` | what metrics show |
//! | `activity` | what partitions did lately |
//! | `hand_over` | a partition leaves for another shard |
//! | `close`, `space`, `files`, `index_cache` | shutdown and core-count changes, a full disk, open files, cached indexes |
//!
//! The promise and the order of writes it stands on: `src/docs/durability.md`.

mod activity;
mod alter;
mod append;
mod budget;
mod close;
mod compaction;
mod files;
mod flush;
mod flush_round;
mod gather;
mod hand_over;
mod index_builder;
mod index_cache;
mod index_check;
mod joined;
mod journal_files;
mod journal_writer;
mod load;
mod marks;
mod offsets;
mod partition;
mod read;
mod rebuild;
mod recovery;
mod retention;
mod settle;
mod shared_reads;
mod space;
mod states;
mod survey;
mod tail;
mod take_in;
mod txn;
mod types;

#[cfg(test)]
mod tests;

use crate::ids::{LeaderEpoch, Offset, PartitionId, TopicId};
use crate::log::log_config::LogConfig;
use crate::metrics::Times;
use activity::Activity;
use alter::{Doomed, RENAMES_MAX};
use budget::Budget;
use bytes::BytesMut;
use compaction::Cleaner;
use coreline_io::sync::{Gathering, Notify, Semaphore};
use coreline_io::{Runtime, TaskGroup};
use files::FileCache;
use flush::FlushQueue;
use gather::Gather;
pub use hand_over::{Handed, Withdrawn};
use index_cache::IndexCache;
use journal_files::JournalFiles;
use journal_writer::WriterQueue;
use load::Loads;
use partition::{Partition, Payload};
use recovery::{Recovered, Told, Unsettled};
use retention::Removals;
use shared_reads::SharedReads;
use states::States;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
pub use survey::{Survey, TopicIntake};
use tail::RunRef;
pub use types::*;

/// Partitions that load at a time.
const LOADS_MAX: usize = 256;
/// Of them, those whose last segment is too long to be read with the directory.
const SCANS_MAX: usize = 16;
/// Bytes of sealed segments' indexes that are kept.
const INDEX_CACHE_BYTES: usize = 16 << 20;

/// By partition. The same history gives the same order of iteration, so simulations can be replayed.
type IdMap<V> = HashMap<PartitionId, V, BuildHasherDefault<DefaultHasher>>;

/// Called whenever a partition's high watermark moves, and with it perhaps the last stable offset; must not block.
pub type HighWatermarkHook = Rc<dyn Fn(PartitionId, EndOffsets)>;

/// Where the store is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreState {
    Open,
    /// Appends are refused, what came before is flushed.
    Closing,
    Stopped,
    /// Durability is in doubt.
    Dead,
}

/// The partitions of one shard. Owned by the shard, lives as long as it.
pub struct LogStore<R: Runtime> {
    rt: R,
    options: StoreOptions,
    state: Cell<StoreState>,
    /// Partitions whose segments cannot be trusted until they were loaded once.
    unsettled: Unsettled,
    partitions: RefCell<IdMap<Rc<Partition>>>,
    /// The journal's part of partitions that are not loaded yet.
    recovered: RefCell<IdMap<Recovered>>,
    /// What the journal was told of their flushes.
    told: RefCell<IdMap<Told>>,
    /// Handed over to another shard, and the metadata does not say so yet.
    departed: RefCell<IdMap<Rc<Partition>>>,
    /// What came along with partitions that are not loaded yet.
    arriving: RefCell<IdMap<Handed>>,
    journal: Rc<JournalFiles<R>>,
    writer: WriterQueue,
    flusher: FlushQueue,
    cleaner: Cleaner,
    files: FileCache<R>,
    indexes: RefCell<IndexCache>,
    /// Runs that are flushed and stay in memory for readers, oldest flush first.
    cached: RefCell<VecDeque<(Rc<Partition>, RunRef)>>,
    cached_bytes: Cell<usize>,
    /// Bytes committed through the journal that are not in segments.
    unflushed: Cell<usize>,
    /// Bytes acknowledged that no sync of the journal covers.
    not_durable_journal: Cell<u64>,
    /// Bytes acknowledged that no sync of their segment covers.
    not_durable_segments: Cell<u64>,
    /// The last write found no room.
    full: Cell<bool>,
    /// Told when a group commit, a flush or a direct write ends, and when space runs out.
    progress: Notify,
    loads: Loads,
    /// What the journal held is with its partitions, or there was nothing.
    is_recovered: Cell<bool>,
    scans: Rc<Semaphore>,
    gather: Gather<R>,
    budget: Budget,
    states: States<R>,
    /// Whoever renames a directory has that of its number: what is there may be of another topic of the same name.
    renames: Vec<Rc<Semaphore>>,
    doomed: Doomed,
    removals: Removals,
    shared_reads: SharedReads,
    hooks: RefCell<Rc<[HighWatermarkHook]>>,
    marker_hooks: RefCell<Vec<MarkerHook>>,
    stats: Cell<StoreStats>,
    /// How long group commits took.
    flush_times: RefCell<Times>,
    activity: Activity,
    /// What was appended, by topic.
    intake: RefCell<HashMap<TopicId, TopicIntake, BuildHasherDefault<DefaultHasher>>>,
    generation: Cell<u64>,
}

impl<R: Runtime> std::fmt::Debug for LogStore<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<R: Runtime> LogStore<R> {
    /// Opens the store of `options.shard`: reads its journal. Partitions are loaded when they are first used.
    ///
    /// # Errors
    /// The disk's, and a journal that cannot be what this program wrote.
    pub async fn open(runtime: R, mut options: StoreOptions) -> Result<Rc<Self>, StoreError> {
        options.journal_file_bytes -= options.journal_file_bytes % coreline_io::BLOCK as u64;
        options.check();
        let replay = recovery::replay(&runtime, &options).await?;
        let cleaner = Cleaner::new(options.cleaner.clone());
        let store = Rc::new(Self {
            files: FileCache::new(options.open_files_max),
            indexes: RefCell::new(IndexCache::new(INDEX_CACHE_BYTES)),
            rt: runtime,
            options,
            state: Cell::new(StoreState::Open),
            unsettled: replay.unsettled,
            partitions: RefCell::default(),
            is_recovered: Cell::new(replay.heard.recovered.is_empty()),
            recovered: RefCell::new(replay.heard.recovered),
            told: RefCell::new(replay.heard.told),
            departed: RefCell::default(),
            arriving: RefCell::default(),
            journal: Rc::new(replay.files),
            writer: WriterQueue::default(),
            flusher: FlushQueue::default(),
            cleaner,
            cached: RefCell::default(),
            cached_bytes: Cell::new(0),
            unflushed: Cell::new(0),
            not_durable_journal: Cell::new(0),
            not_durable_segments: Cell::new(0),
            full: Cell::new(false),
            progress: Notify::default(),
            loads: Loads::default(),
            scans: Semaphore::new(SCANS_MAX),
            gather: Gather::default(),
            budget: Budget::new(replay.costs),
            states: replay.states,
            renames: (0..RENAMES_MAX).map(|_| Semaphore::new(1)).collect(),
            doomed: Doomed::default(),
            removals: Removals::default(),
            shared_reads: SharedReads::default(),
            hooks: RefCell::new(Rc::from([])),
            marker_hooks: RefCell::default(),
            stats: Cell::default(),
            flush_times: RefCell::default(),
            activity: Activity::default(),
            intake: RefCell::default(),
            generation: Cell::new(0),
        });
        drop(store.rt.spawn(TaskGroup::Replication, "journal writer", store.clone().run_writer()));
        for _ in 0..flush::FLUSH_WORKERS {
            drop(store.rt.spawn(TaskGroup::Flush, "flusher", store.clone().run_flusher()));
        }
        drop(store.rt.spawn(TaskGroup::Background, "cleaner", store.clone().run_cleaner()));
        drop(store.rt.spawn(TaskGroup::Background, "retention", store.clone().run_retention()));
        if store.options.shard == 0 {
            drop(store.rt.spawn(TaskGroup::Background, "remove leftovers", store.clone().remove_leftovers()));
        }
        Ok(store)
    }

    /// Moves what all journals hold into segments, and removes the journals: after a change of the core count other
    /// shards own the partitions.
    ///
    /// Called once by the node, before any [`LogStore::open`]. Done halfway, it can be done again. `names` gives the
    /// topic's name and settings of a partition that still exists.
    ///
    /// # Errors
    /// As [`LogStore::open`].
    pub async fn drain_journals(
        runtime: &R,
        options: &StoreOptions,
        names: &dyn Fn(PartitionId) -> Option<PartitionSpec>,
    ) -> Result<(), StoreError> {
        close::drain_journals(runtime, options, names).await
    }

    /// Gives this shard a partition. Cheap: what is on disk is loaded at first use. Again with a newer leader epoch: a new leadership.
    pub fn assign(&self, spec: PartitionSpec) {
        let id = spec.id;
        if spec.config.compacted {
            self.cleaner.try_again(id);
        }
        if let Some(known) = self.resident(id) {
            *known.spec.borrow_mut() = spec;
            return;
        }
        let partition = Rc::new(Partition::new(spec));
        partition.stated.set(self.states.names(id));
        self.partitions.borrow_mut().insert(id, partition.clone());
        if self.recovered.borrow().contains_key(&id) {
            // Its part of the journal goes to its segments in the background, so that the ring is free again.
            self.queue_flush(&partition);
        }
    }

    /// Every partition of this shard has been assigned: what the journal holds of others is of deleted topics, and is dropped.
    pub fn assignments_complete(&self) {
        let unknown: Vec<PartitionId> = {
            let partitions = self.partitions.borrow();
            self.recovered.borrow().keys().filter(|id| !partitions.contains_key(id)).copied().collect()
        };
        {
            let partitions = self.partitions.borrow();
            self.told.borrow_mut().retain(|id, _| partitions.contains_key(id));
            self.states.assigned(|id| partitions.contains_key(&id));
        }
        for id in unknown {
            self.recovered.borrow_mut().remove(&id);
            self.journal.release_all(id);
        }
        self.plan_recovery();
    }

    /// Changes a partition's settings from the next append on.
    pub fn reconfigure(&self, id: PartitionId, config: Arc<LogConfig>) {
        if let Some(partition) = self.resident(id) {
            if config.compacted {
                self.cleaner.try_again(id);
            }
            partition.spec.borrow_mut().config = config;
            partition.retention_due_ms.set(i64::MIN);
        }
    }

    /// Changes how this shard compacts, from the next cleaning on.
    pub fn configure_cleaner(&self, options: CleanerOptions) {
        self.cleaner.options.replace(options);
        self.cleaner.wake.notify_all();
    }

    /// Removes a partition: its appends fail, its directory is renamed, and removed in the background.
    ///
    /// # Errors
    /// The disk's; the partition is gone from the store nevertheless.
    pub async fn delete(self: &Rc<Self>, id: PartitionId) -> Result<(), StoreError> {
        self.delete_partition(id).await
    }

    /// Appends one or more v2 batches. They are in the log, in the order of calls, when this returns (before the
    /// future is polled), also while the partition still loads; where a helper thread has to look at them, or at some
    /// before them, they go there later, in the same order. The future resolves when `origin.acks` is met.
    ///
    /// `records` is changed in place (base offset, leader epoch, time) and kept: it should pin no larger buffer.
    pub fn append(
        self: &Rc<Self>,
        id: PartitionId,
        records: BytesMut,
        origin: AppendOrigin,
    ) -> impl Future<Output = Result<Appended, AppendError>> + 'static {
        self.append_transactional(id, records, origin, TxnAppend::default())
    }

    /// As [`Self::append`]; the first batch of a transaction is appended with the guard that [`Self::txn_state`] gave, if
    /// nothing has ended the transaction since.
    pub fn append_transactional(
        self: &Rc<Self>,
        id: PartitionId,
        records: BytesMut,
        origin: AppendOrigin,
        txn: TxnAppend,
    ) -> impl Future<Output = Result<Appended, AppendError>> + 'static {
        let appending = self.append_timed(id, records, origin, txn);
        async move { appending.await.map(|(appended, _)| appended) }
    }

    /// As [`Self::append_transactional`]; says, too, when the append was where.
    pub fn append_timed(
        self: &Rc<Self>,
        id: PartitionId,
        records: BytesMut,
        origin: AppendOrigin,
        txn: TxnAppend,
    ) -> impl Future<Output = Result<(Appended, CommitTimes), AppendError>> + 'static {
        let receiver = self.enqueue(id, Payload::Batches(records, txn), origin);
        async move { receiver.await.unwrap_or_else(|| Err(txn::stopped())) }
    }

    /// Appends to many partitions, in this order, each as [`Self::append_timed`].
    pub fn append_each(
        self: &Rc<Self>,
        appends: Vec<(PartitionId, BytesMut, TxnAppend)>,
        origin: AppendOrigin,
    ) -> impl Future<Output = Vec<Result<(Appended, CommitTimes), AppendError>>> + 'static {
        let mut outcomes = Gathering::with_capacity(appends.len());
        for (id, records, txn) in appends {
            self.enqueue_for(outcomes.sender(), id, Payload::Batches(records, txn), origin);
        }
        async move {
            let outcomes = outcomes.await.into_iter();
            outcomes.map(|outcome| outcome.unwrap_or_else(|| Err(txn::stopped()))).collect()
        }
    }

    /// Writes ends of transactions; in the log, in this order, when this returns (before the future is polled), durable
    /// when the future resolves. Gives the offset of each.
    ///
    /// `INVALID_PRODUCER_EPOCH`, `TRANSACTION_COORDINATOR_FENCED`, `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub fn write_txn_markers(
        self: &Rc<Self>,
        markers: Vec<TxnMarker>,
        now_ms: i64,
    ) -> impl Future<Output = Vec<Result<Offset, AppendError>>> + 'static {
        self.enqueue_markers(markers, now_ms)
    }

    /// What is known of a producer's transaction in a partition: whether the coordinator must be asked before its next
    /// batch is appended.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn txn_state(
        self: &Rc<Self>,
        id: PartitionId,
        producer: TxnProducer,
        now_ms: i64,
    ) -> Result<TxnState, ReadError> {
        self.find_txn_state(id, producer, now_ms).await
    }

    /// Adds a hook that is called when a marker is committed, in the order of the log, before whoever wrote it hears of
    /// it. Markers that are read at a start are not told.
    pub fn on_marker(&self, hook: MarkerHook) {
        self.marker_hooks.borrow_mut().push(hook);
    }

    /// Reads whole batches from the one that holds `request.offset`. Does not wait for data: empty at the end.
    ///
    /// # Errors
    /// `OFFSET_OUT_OF_RANGE`, `FENCED_LEADER_EPOCH`, `UNKNOWN_LEADER_EPOCH`, `UNKNOWN_TOPIC_OR_PARTITION`, `KAFKA_STORAGE_ERROR`.
    pub async fn read(self: &Rc<Self>, id: PartitionId, request: ReadRequest) -> Result<ReadResult, ReadError> {
        let result = self.read_partition(id, &request).await?;
        self.was_read(id, &result);
        Ok(result)
    }

    /// The ends of a partition that is loaded.
    #[must_use]
    pub fn end_offsets(&self, id: PartitionId) -> Option<EndOffsets> {
        self.partition(id)?.with(|log| log.ends())
    }

    /// The ends of a partition; loads it if need be.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn load_end_offsets(self: &Rc<Self>, id: PartitionId) -> Result<EndOffsets, ReadError> {
        let partition = self.loaded(id).await?;
        self.with_log(&partition, |log, _| log.ends())
    }

    /// Adds a hook that is called whenever a high watermark moves: how fetches wait without polling. It must not
    /// call back into the store's `append`.
    pub fn on_high_watermark(&self, hook: HighWatermarkHook) {
        let mut hooks = self.hooks.borrow_mut();
        *hooks = hooks.iter().cloned().chain([hook]).collect();
    }

    /// ListOffsets. `None`: no record qualifies. Of compressed batches an answer by timestamp is the batch's first
    /// offset, with the batch's largest timestamp.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn list_offset(
        self: &Rc<Self>,
        id: PartitionId,
        query: OffsetQuery,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<OffsetFound>, ReadError> {
        self.find_offset(id, query, current_leader_epoch).await
    }

    /// OffsetForLeaderEpoch.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn offset_for_leader_epoch(
        self: &Rc<Self>,
        id: PartitionId,
        epoch: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<EpochEnd, ReadError> {
        self.epoch_end(id, epoch, current_leader_epoch).await
    }

    /// The active idempotent producers (DescribeProducers).
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn producers(self: &Rc<Self>, id: PartitionId) -> Result<Vec<ProducerInfo>, ReadError> {
        self.active_producers(id).await
    }

    /// Bytes of a partition's segments (DescribeLogDirs).
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn log_size(self: &Rc<Self>, id: PartitionId) -> Result<u64, ReadError> {
        let partition = self.loaded(id).await?;
        self.with_log(&partition, |log, _| log.size())
    }

    /// DeleteRecords: moves the log's start to `to` (`-1`: the high watermark); durable when it returns. Gives the log's
    /// start then, which is later if it was later before.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn delete_records(self: &Rc<Self>, id: PartitionId, to: Offset) -> Result<Offset, ReadError> {
        self.move_log_start(id, to).await
    }

    /// Cuts the log so that `to` is the next offset; durable when it returns. Batches that hold `to` go whole.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn truncate(self: &Rc<Self>, id: PartitionId, to: Offset) -> Result<EndOffsets, ReadError> {
        self.cut_log(id, to).await
    }

    /// Counters.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats {
            not_durable_bytes: self.not_durable_journal.get() + self.not_durable_segments.get(),
            unflushed_bytes: self.unflushed.get() as u64,
            cache_bytes: self.cached_bytes.get() as u64,
            open_files: self.files.len() as u64,
            uncleanable_partitions: self.cleaner.aside_len() as u64,
            ..self.stats.get()
        }
    }

    /// Flushes everything, snapshots producers, cuts padding, marks the journal clean. Appends fail from now on.
    ///
    /// # Errors
    /// The disk's.
    pub async fn shutdown(self: &Rc<Self>) -> Result<(), StoreError> {
        self.close(None).await
    }

    /// As [`Self::shutdown`], but begins no flush after `time`: what is left stays in the journal, durable, and the next
    /// start reads it there.
    ///
    /// # Errors
    /// The disk's.
    pub async fn shutdown_within(self: &Rc<Self>, time: Duration) -> Result<(), StoreError> {
        self.close(Some(time)).await
    }

    /// As requests find it: not when it is on its way to another shard.
    fn partition(&self, id: PartitionId) -> Option<Rc<Partition>> {
        self.resident(id).filter(|partition| !partition.leaving.get())
    }

    /// As the journal and flushes find it: until it has left, or was deleted. Who waits for room in the journal may wait for a
    /// partition that is leaving, and that for the journal.
    fn resident(&self, id: PartitionId) -> Option<Rc<Partition>> {
        self.partitions.borrow().get(&id).cloned()
    }

    fn count(&self, change: impl FnOnce(&mut StoreStats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    fn next_generation(&self) -> u64 {
        self.generation.set(self.generation.get() + 1);
        self.generation.get()
    }

    /// Keeps flushed runs for readers; past the budget the oldest flushed go, whosever they are.
    fn cache_runs(&self, partition: &Rc<Partition>, runs: Vec<RunRef>) {
        for run in runs {
            self.cached_bytes.set(self.cached_bytes.get() + run.memory);
            self.cached.borrow_mut().push_back((partition.clone(), run));
        }
        while self.cached_bytes.get() > self.options.cache_bytes_max {
            let Some((partition, run)) = self.cached.borrow_mut().pop_front() else { return };
            self.cached_bytes.set(self.cached_bytes.get() - run.memory);
            partition.with(|log| log.tail.evict(run.run, log.flushed_end.min(log.committed_end)));
        }
    }
}
