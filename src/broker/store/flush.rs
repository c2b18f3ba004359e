//! From the tail to segments: large aligned writes, seals, index files, snapshots, syncs; and who is flushed when.
//!
//! Flushes come in rounds of many partitions ([`super::flush_round`]); a pass over what is old begins when the one before is done.
//! One flush or direct write of a partition at a time has its segments (`Log::flushing`). The order on disk is what
//! recovery relies on: epochs before the batches that begin them; a sync before index entries, snapshots, or the next
//! segment's file; `partition.metadata` before the first segment.

use super::flush_round::ROUND_PARTITIONS;
use super::partition::{Partition, Piece};
use super::recovery::write_again;
use super::types::FatalReason;
use super::{LogStore, StoreState};
use crate::ids::PartitionId;
use crate::log::partition_metadata;
use crate::log::segment::{FileKind, file_name};
use bytes::Bytes;
use coreline_io::sync::Notify;
use coreline_io::{BLOCK, File, IoError, IoErrorKind, IoResult, Runtime, TaskGroup};
use futures_util::future::select;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Rounds that are flushed at a time.
pub(super) const FLUSH_WORKERS: usize = 4;
/// Committed batches reach their segment after this long, at the latest.
const FLUSH_AGE: Duration = Duration::from_secs(30);
/// Without a hurry, a round takes this part of what waits.
const GENTLE_PARTS: usize = 16;
/// … and the device is left alone afterwards for so many times as long as the round took, at most [`REST_MAX`].
const REST_FACTOR: u32 = 3;
const REST_MAX: Duration = Duration::from_millis(100);
/// A full disk is tried again after this long.
pub(super) const RETRY_AFTER: Duration = Duration::from_millis(500);
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Kafka's name for the epochs of a log.
pub(super) const EPOCHS_FILE: &str = "leader-epoch-checkpoint";
/// Kafka's name for the topic's id.
pub(super) const METADATA_FILE: &str = "partition.metadata";
/// The start of a log that does not begin with a segment; in the partition's directory.
pub(super) const LOG_START_FILE: &str = "log-start-offset-checkpoint";

/// How far to write.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    /// What is committed.
    Committed,
    /// Up to this offset: a direct write.
    To(i64),
}

/// What waits for a flush.
#[derive(Debug, Default)]
pub(super) struct FlushQueue {
    due: RefCell<VecDeque<Rc<Partition>>>,
    pub(super) wake: Notify,
    age_armed: Cell<bool>,
    /// Rounds under way.
    rounds: Cell<usize>,
    /// A round that nobody waits for is done, and the device is left to others for a while.
    resting: Cell<bool>,
}

impl FlushQueue {
    /// Nothing waits and nothing is under way.
    fn is_idle(&self) -> bool {
        self.rounds.get() == 0 && self.due.borrow().is_empty()
    }

    /// Takes the next round. In a hurry: all that waits, shared out among the flushers. Else some of it, and only when no
    /// other round is under way.
    fn next_round(&self, hurry: bool) -> Vec<Rc<Partition>> {
        if !hurry && (self.rounds.get() > 0 || self.resting.get()) {
            return Vec::new();
        }
        let mut due = self.due.borrow_mut();
        let parts = if hurry { 2 } else { GENTLE_PARTS };
        let count = due.len().div_ceil(parts).min(ROUND_PARTITIONS);
        due.drain(..count).collect()
    }
}

impl<R: Runtime> LogStore<R> {
    pub(super) fn queue_flush(&self, partition: &Rc<Partition>) {
        if !partition.flush_queued.replace(true) {
            self.flusher.due.borrow_mut().push_back(partition.clone());
            self.flusher.wake.notify_all();
        }
    }

    /// Queues what `live` gives, if all that was queued before is done. Whoever needs room asks again and again, and
    /// a partition that is asked for while it is flushed would be flushed again, for the little that came meanwhile.
    pub(super) fn start_flush_pass(&self, live: impl FnOnce() -> Vec<PartitionId>) {
        if self.flusher.is_idle() {
            self.queue_flush_all(live());
        } else if self.flush_hurries() {
            self.flusher.wake.notify_all();
        }
    }

    /// Somebody waits for room, or soon will: flushes go as fast as they can. Else they go one after the other, with
    /// pauses: their writes and syncs share the device with group commits, which somebody waits for.
    fn flush_hurries(&self) -> bool {
        self.state.get() != StoreState::Open
            || self.unflushed.get() > self.options.unflushed_bytes_max / 4 * 3
            || self.journal.is_pressed()
            || self.journal_is_too_long()
    }

    /// Leaves the device to others, as long as there is no hurry.
    async fn rest(&self, after: Duration) {
        self.flusher.resting.set(true);
        let pause = self.rt.sleep((after * REST_FACTOR).min(REST_MAX));
        let hurry = async {
            loop {
                let woken = self.flusher.wake.notified();
                if self.flush_hurries() {
                    return;
                }
                woken.await;
            }
        };
        select(pin!(pause), pin!(hurry)).await;
        self.flusher.resting.set(false);
        self.flusher.wake.notify_all();
    }

    pub(super) fn queue_flush_all(&self, ids: Vec<PartitionId>) {
        for id in ids {
            if let Some(partition) = self.resident(id) {
                self.queue_flush(&partition);
            }
        }
    }

    /// Sees to it that committed batches do not stay out of their segments for ever.
    pub(super) fn arm_age_flush(self: &Rc<Self>) {
        if self.flusher.age_armed.replace(true) {
            return;
        }
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "flush by age", async move {
            store.rt.sleep(FLUSH_AGE).await;
            store.flusher.age_armed.set(false);
            store.queue_flush_all(store.journal.all_live());
            store.queue_flush_unsynced();
            store.note_idle().await;
        }));
    }

    /// One of the flusher's tasks. Ends when the store has stopped.
    pub(super) async fn run_flusher(self: Rc<Self>) {
        while self.is_running() {
            let woken = self.flusher.wake.notified();
            let hurry = self.flush_hurries();
            let round = self.flusher.next_round(hurry);
            if round.is_empty() {
                woken.await;
                continue;
            }
            round.iter().for_each(|partition| partition.flush_queued.set(false));
            self.flusher.rounds.set(self.flusher.rounds.get() + 1);
            let begun = self.rt.now();
            let failed = self.flush_round(round).await;
            self.flusher.rounds.set(self.flusher.rounds.get() - 1);
            if let Some((_, error)) = failed.iter().find(|(_, error)| error.kind == IoErrorKind::StorageFull) {
                self.space_ran_out("segment", error);
            }
            self.progress.notify_all();
            if !failed.is_empty() {
                self.rt.sleep(RETRY_AFTER).await;
                failed.iter().for_each(|(partition, _)| self.queue_flush(partition));
            } else if !hurry {
                self.rest(self.rt.now().since(begun)).await;
            }
        }
    }

    /// Brings everything committed into segments, on the device, and lets go of the journal's copy.
    pub(super) async fn flush_partition(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        if !partition.is_ready() && self.load(partition).await.is_err() {
            return Err(
                IoError::new("load the partition", std::io::Error::other("see the log")).on(&self.dir(partition))
            );
        }
        self.write_out(partition, Limit::Committed, true).await
    }

    /// Writes batches to segments up to `limit`; on the device when it returns, if `sync`. Errors other than a full
    /// disk have stopped the store.
    pub(super) async fn write_out(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        limit: Limit,
        sync: bool,
    ) -> IoResult<()> {
        if !self.take_segments(partition).await {
            return Ok(());
        }
        let direct = matches!(limit, Limit::To(_));
        let touched = if direct { self.touch(partition).await } else { Ok(()) };
        let mut result = match touched {
            Ok(()) => self.write_pieces(partition, limit).await,
            Err(error) => Err(error),
        };
        if sync || result.is_err() {
            // Of a write that found no room, whole pieces before it stay: they must be durable to count.
            let synced = self.sync_segments(partition).await;
            let let_go = match &synced {
                Ok(()) => self.release_synced(&[partition], !direct).await,
                Err(_) => Ok(()),
            };
            result = result.and(synced).and(let_go);
        }
        partition.with(|log| {
            log.flushing = false;
            log.assert_invariants();
        });
        partition.changed.notify_all();
        result
    }

    /// Waits until nobody else writes this partition's segments. False: it is gone.
    pub(super) async fn take_segments(&self, partition: &Rc<Partition>) -> bool {
        loop {
            let changed = partition.changed.notified();
            match partition.with(|log| std::mem::replace(&mut log.flushing, true)) {
                None => return false,
                Some(false) => return true,
                Some(true) => changed.await,
            }
        }
    }

    pub(super) async fn write_pieces(self: &Rc<Self>, partition: &Rc<Partition>, limit: Limit) -> IoResult<()> {
        self.touch_to_flush(partition).await?;
        loop {
            let piece = partition.with(|log| match limit {
                Limit::Committed => {
                    let piece = log.next_piece(log.committed_end)?;
                    let producers = log.producers_when_written(&piece);
                    Some((piece, producers))
                }
                Limit::To(end) => Some((log.next_piece(end)?, None)),
            });
            let Some((piece, producers)) = piece.flatten() else { return Ok(()) };
            self.states.remember_producers(partition.id, producers);
            self.make_dir(partition).await?;
            self.write_epochs(partition).await?;
            while let Some(base) = partition.with(|log| log.to_seal()).flatten() {
                self.seal(partition, base).await?;
            }
            self.write_piece(partition, piece).await?;
        }
    }

    async fn write_piece(self: &Rc<Self>, partition: &Rc<Partition>, piece: Piece) -> IoResult<()> {
        let path = self.segment_path(partition, piece.segment_base, FileKind::Log);
        if piece.create {
            partition.with(|log| log.names_dirty = true);
        }
        let file = self.files.get(&self.rt, &path, piece.create).await;
        let file = file.map_err(|e| self.write_failed(e))?;
        if piece.create {
            self.reserve(partition, &file).await;
        }
        if partition.with(|log| log.cut_before_write) == Some(true) {
            self.cut_file(&file, piece.position).await?;
            partition.with(|log| log.cut_before_write = false);
        }
        let prefix = match &piece.prefix {
            Some(parts) => parts.clone(),
            None => vec![self.read_prefix(&file, &piece).await.map_err(|e| self.write_failed(e))?],
        };
        let total = piece.prefix_len() + piece.bytes;
        let padding = total.next_multiple_of(BLOCK) - total;
        let mut parts = prefix;
        parts.extend(piece.parts.iter().cloned());
        if padding > 0 {
            parts.push(Bytes::from_static(&ZEROS[..padding]));
        }
        let at = piece.position - piece.prefix_len() as u64;
        if let Err(error) = file.write_at(at, &parts).await {
            partition.with(|log| log.cut_before_write = true);
            return Err(self.write_failed(error));
        }
        self.full.set(false);
        self.count(|s| s.segment_bytes += (total + padding) as u64);
        let interval = partition.spec.borrow().config.index_interval_bytes;
        let freed = partition.with(|log| log.piece_written(&piece, interval));
        if let Some(freed) = freed {
            self.unflushed.set(self.unflushed.get() - freed.journaled);
            self.cache_runs(partition, freed.runs);
            self.progress.notify_all();
        }
        Ok(())
    }

    /// `preallocate`: the disk is asked for the room of a new segment at once. Where there is less the segment takes what
    /// it needs as it grows, and a full disk is met where it is full.
    async fn reserve(&self, partition: &Partition, file: &R::File) {
        let config = partition.spec.borrow().config.clone();
        if config.preallocate
            && let Err(error) = file.reserve(config.segment_bytes).await
        {
            let bytes = config.segment_bytes;
            tracing::warn!(partition = %partition.dir_name(), bytes, "a segment's bytes are not reserved: {error}");
        }
    }

    /// The bytes of the last block that are in the segment already.
    async fn read_prefix(&self, file: &R::File, piece: &Piece) -> IoResult<Bytes> {
        let at = piece.position - piece.prefix_len() as u64;
        let bytes = file.read_at(at, piece.prefix_len()).await?;
        if bytes.len() != piece.prefix_len() {
            let cause = format!("{} bytes before the end are there, expected {}", bytes.len(), piece.prefix_len());
            return Err(IoError::new("read the last block", std::io::Error::other(cause)).at(at));
        }
        Ok(bytes)
    }

    /// Cuts what a failed write may have left behind `len`, durably: it must never be taken for batches.
    async fn cut_file(&self, file: &R::File, len: u64) -> IoResult<()> {
        file.truncate(len).await.map_err(|e| self.write_failed(e))?;
        file.sync_data().await.map_err(|e| self.sync_failed(e))
    }

    /// Makes what is flushed durable, then writes what may only follow: snapshots, index blocks, the log's start. The
    /// journal lets go of it afterwards ([`LogStore::release_synced`]).
    pub(super) async fn sync_segments(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        let state = partition.with(|log| {
            let active = log.segments[log.segment_of((log.flushed_end - 1).max(0))].base;
            (log.flushed_end > log.synced_end, active, log.flushed_end, log.cut_before_write)
        });
        let Some((dirty, base, end, cut)) = state else { return Ok(()) };
        if dirty || cut {
            let path = self.segment_path(partition, base, FileKind::Log);
            let file = self.files.get(&self.rt, &path, false).await.map_err(|e| self.sync_failed(e))?;
            file.sync_data().await.map_err(|e| self.sync_failed(e))?;
            if partition.with(|log| std::mem::take(&mut log.names_dirty)) == Some(true) {
                self.rt.sync_dir(&self.dir(partition)).await.map_err(|e| self.sync_failed(e))?;
            }
            self.segments_synced(partition, end);
        }
        self.cut_after_failure(partition).await?;
        self.write_snapshots(partition).await?;
        self.write_index_blocks(partition, base).await?;
        self.write_log_start(partition).await
    }

    /// Everything below `end` is in segments, on the device.
    pub(super) fn segments_synced(&self, partition: &Partition, end: i64) {
        let acknowledged = partition.with(|log| {
            log.synced_end = log.synced_end.max(end);
            if log.synced_end < log.flushed_end {
                return 0;
            }
            log.unsynced_records = 0;
            log.unsynced_since = None;
            std::mem::take(&mut log.unsynced_bytes)
        });
        if let Some(synced_end) = partition.with(|log| log.synced_end) {
            self.writer.note_flushed(partition.id, synced_end);
        }
        let acknowledged = acknowledged.unwrap_or(0);
        self.not_durable_segments.set(self.not_durable_segments.get() - acknowledged);
    }

    /// After a write that found no room: what it left must go before anything else happens to the log.
    async fn cut_after_failure(&self, partition: &Rc<Partition>) -> IoResult<()> {
        let cut = partition.with(|log| {
            // What was refused is in the tail still, or everything that is there is flushed.
            let next = log.tail.find(log.flushed_end).and_then(|i| log.tail.get(i)).map(|b| (b.base, b.position));
            let (base, position) = match next {
                Some((base, position)) => (log.segments[log.segment_of(base)].base, position),
                None => (log.active().base, log.active().size),
            };
            log.cut_before_write.then_some((base, position))
        });
        let Some((base, position)) = cut.flatten() else { return Ok(()) };
        let path = self.segment_path(partition, base, FileKind::Log);
        match self.files.get(&self.rt, &path, false).await {
            Ok(file) => self.cut_file(&file, position).await?,
            Err(error) if error.kind == IoErrorKind::NotFound => {}
            Err(error) => return Err(self.write_failed(error)),
        }
        // Not before: a cut that found no room either is tried again before the next write.
        partition.with(|log| log.cut_before_write = false);
        Ok(())
    }

    /// Writes the directory and the topic's id, once.
    async fn make_dir(&self, partition: &Rc<Partition>) -> IoResult<()> {
        if partition.with(|log| log.dir_made).unwrap_or(true) {
            return Ok(());
        }
        let dir = self.dir(partition);
        let made = async {
            self.rt.create_dir_all(&dir).await?;
            self.rt.sync_dir(&self.options.data_dir).await?;
            let text = partition_metadata::encode(partition.id.topic);
            self.rt.write_file_atomic(&dir.join(METADATA_FILE), text.as_bytes()).await
        };
        made.await.map_err(|e| self.directory_failed(e))?;
        partition.with(|log| log.dir_made = true);
        Ok(())
    }

    async fn write_epochs(&self, partition: &Rc<Partition>) -> IoResult<()> {
        let text = partition.with(|log| std::mem::take(&mut log.epochs_dirty).then(|| log.epochs.encode()));
        let Some(text) = text.flatten() else { return Ok(()) };
        let path = self.dir(partition).join(EPOCHS_FILE);
        let written = self.rt.write_file_atomic(&path, text.as_bytes()).await;
        if written.is_err() {
            partition.with(|log| log.epochs_dirty = true);
        }
        written.map_err(|e| self.directory_failed(e))
    }

    async fn write_log_start(&self, partition: &Rc<Partition>) -> IoResult<()> {
        if partition.with(|log| log.log_start_dirty) != Some(true) {
            return Ok(());
        }
        self.make_dir(partition).await?;
        // They have lost the entries before it.
        self.write_epochs(partition).await?;
        let start = partition.with(|log| std::mem::take(&mut log.log_start_dirty).then_some(log.log_start));
        let Some(start) = start.flatten() else { return Ok(()) };
        let spec = partition.spec.borrow().clone();
        let text = format!("0\n1\n{} {} {start}\n", spec.topic, spec.id.index);
        let written = self.rt.write_file_atomic(&self.dir(partition).join(LOG_START_FILE), text.as_bytes()).await;
        if written.is_err() {
            partition.with(|log| log.log_start_dirty = true);
        }
        written.map_err(|e| self.directory_failed(e))
    }

    /// Writes the snapshots of producers up to what is durable; keeps the last two files.
    pub(super) async fn write_snapshots(&self, partition: &Rc<Partition>) -> IoResult<()> {
        loop {
            let next = partition.with(|log| {
                let ready = log.pending_snapshots.front().is_some_and(|(offset, _)| *offset <= log.synced_end);
                if ready { log.pending_snapshots.pop_front() } else { None }
            });
            let Some((offset, bytes)) = next.flatten() else { return Ok(()) };
            let dir = self.dir(partition);
            // A load that begins at the snapshot reads what was aborted before it from the index.
            let growing = partition.with(|log| log.segments[log.segment_of((offset - 1).max(0))].base);
            if let Some(base) = growing
                && let Err(error) = self.write_txn_index(partition, base, offset).await
            {
                partition.with(|log| log.pending_snapshots.push_front((offset, bytes)));
                return Err(error);
            }
            let path = dir.join(file_name(offset, FileKind::Snapshot));
            let written = self.rt.write_file_atomic(&path, &bytes).await;
            if let Err(error) = written {
                partition.with(|log| log.pending_snapshots.push_front((offset, bytes)));
                return Err(self.directory_failed(error));
            }
            let old = partition.with(|log| {
                log.snapshots.retain(|s| *s != offset);
                log.snapshots.push(offset);
                let surplus = log.snapshots.len().saturating_sub(2);
                log.snapshots.drain(..surplus).collect::<Vec<_>>()
            });
            for offset in old.unwrap_or_default() {
                // One too many does no harm.
                let _ = self.rt.remove_file(&dir.join(file_name(offset, FileKind::Snapshot))).await;
            }
        }
    }

    /// Writes whole blocks of the offset index of the segment at `base`, and the time index as far as it goes with them.
    async fn write_index_blocks(&self, partition: &Rc<Partition>, base: i64) -> IoResult<()> {
        let due = partition.with(|log| {
            let index = log.segments.iter().find(|s| s.base == base)?.index.as_ref()?;
            Some((index.times.rest(), index.offsets.blocks()?))
        });
        let Some((times, (at, offsets))) = due.flatten() else { return Ok(()) };
        if let Some((at, times)) = times {
            self.write_index(partition, base, FileKind::TimeIndex, at, &times).await?;
        }
        self.write_index(partition, base, FileKind::OffsetIndex, at, &offsets).await?;
        partition.with(|log| {
            let segment = log.segments.iter_mut().find(|s| s.base == base);
            let Some(index) = segment.and_then(|s| s.index.as_mut()) else { return };
            index.offsets.blocks_written(offsets.len());
            let times = index.times.pending.len() / BLOCK * BLOCK;
            index.times.blocks_written(times);
        });
        Ok(())
    }

    async fn write_index(
        &self,
        partition: &Rc<Partition>,
        base: i64,
        kind: FileKind,
        at: u64,
        bytes: &[u8],
    ) -> IoResult<()> {
        let path = self.segment_path(partition, base, kind);
        let file = self.files.get(&self.rt, &path, true).await.map_err(|e| self.write_failed(e))?;
        file.write_at(at, &[Bytes::copy_from_slice(bytes)]).await.map_err(|e| self.write_failed(e))
    }

    /// Completes a segment: data and indexes durable, at their exact length. Before the next segment's file exists.
    pub(super) async fn seal(self: &Rc<Self>, partition: &Rc<Partition>, base: i64) -> IoResult<()> {
        self.touch(partition).await?;
        self.complete_files(partition, base).await?;
        let end = partition.with(|log| {
            let end = log.segments.iter().map(|s| s.base).find(|b| *b > base).unwrap_or(log.flushed_end);
            end.min(log.flushed_end)
        });
        self.segments_synced(partition, end.unwrap_or(0));
        // What is sealed may be deleted: what producers have sent in it must be known without it.
        self.write_snapshots(partition).await?;
        partition.with(|log| {
            let segment = log.segments.iter_mut().find(|s| s.base == base).expect("the segment that is sealed");
            segment.index = None;
            segment.aborted = Vec::new();
        });
        if partition.spec.borrow().config.compacted {
            self.cleaner.mark(partition.id);
        }
        Ok(())
    }

    /// Syncs the segment at `base`, cuts padding, completes its indexes.
    pub(super) async fn complete_files(&self, partition: &Rc<Partition>, base: i64) -> IoResult<()> {
        let state = partition.with(|log| {
            let flushed_end = log.flushed_end;
            let next = log.tail.find(flushed_end).and_then(|i| log.tail.get(i)).copied();
            let at = log.segments.iter().position(|s| s.base == base)?;
            // Of the last segment, what is not flushed does not count.
            let flushed = next.filter(|b| log.segment_of(b.base) == at).map(|b| b.position);
            let segment = &mut log.segments[at];
            let size = flushed.unwrap_or(segment.size);
            let index = segment.index.as_mut().filter(|_| segment.on_disk)?;
            index.push_time();
            let (offsets, times) = (&index.offsets, &index.times);
            let parts = [(FileKind::TimeIndex, times), (FileKind::OffsetIndex, offsets)];
            let parts = parts.map(|(kind, index)| (kind, index.written, index.rest(), index.len()));
            Some((size, parts, segment.index_unsettled))
        });
        let Some((size, indexes, unsettled)) = state.flatten() else { return Ok(()) };
        let path = self.segment_path(partition, base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(|e| self.write_failed(e))?;
        file.sync_data().await.map_err(|e| self.sync_failed(e))?;
        file.truncate(size).await.map_err(|e| self.write_failed(e))?;
        file.sync_data().await.map_err(|e| self.sync_failed(e))?;
        for (kind, written, rest, len) in indexes {
            let path = self.segment_path(partition, base, kind);
            let file = self.files.get(&self.rt, &path, true).await.map_err(|e| self.write_failed(e))?;
            if unsettled {
                write_again(&self.rt, &*file, 0, written).await.map_err(|e| self.write_failed(e))?;
            }
            if let Some((at, bytes)) = rest {
                file.write_at(at, &[Bytes::from(bytes)]).await.map_err(|e| self.write_failed(e))?;
            }
            file.truncate(len).await.map_err(|e| self.write_failed(e))?;
            file.sync_data().await.map_err(|e| self.sync_failed(e))?;
        }
        let flushed_end = partition.with(|log| {
            let segment = log.segments.iter_mut().find(|s| s.base == base);
            segment.into_iter().for_each(|s| s.index_unsettled = false);
            log.flushed_end
        });
        let flushed_end = flushed_end.unwrap_or(0);
        self.write_txn_index(partition, base, flushed_end).await?;
        self.rt.sync_dir(&self.dir(partition)).await.map_err(|e| self.sync_failed(e))
    }

    pub(super) fn dir(&self, partition: &Partition) -> PathBuf {
        self.options.data_dir.join(partition.dir_name())
    }

    pub(super) fn segment_path(&self, partition: &Partition, base: i64, kind: FileKind) -> PathBuf {
        self.dir(partition).join(file_name(base, kind))
    }

    /// A failed write to a segment: fatal, unless the disk is full.
    pub(super) fn write_failed(&self, error: IoError) -> IoError {
        if error.kind != IoErrorKind::StorageFull {
            self.die(FatalReason::SegmentWrite, &error);
        }
        error
    }

    pub(super) fn directory_failed(&self, error: IoError) -> IoError {
        if error.kind != IoErrorKind::StorageFull {
            self.die(FatalReason::Directory, &error);
        }
        error
    }

    /// A failed sync: nothing is known of what it covered.
    pub(super) fn sync_failed(&self, error: IoError) -> IoError {
        self.die(FatalReason::SegmentSync, &error);
        error
    }
}
