//! Deleting a partition, moving a log's start, cutting its end: changes that are no appends. Each is in the journal
//! before it is answered.

use super::compaction::CHECKPOINT_FILE;
use super::partition::{Commit, Partition, Phase};
use super::read::with_ends;
use super::types::{AppendError, EndOffsets, ReadError, StoreError};
use super::{
    LogStore,
    flush::{EPOCHS_FILE, METADATA_FILE, RETRY_AFTER},
};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId, TopicId};
use crate::log::journal::Entry;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::partition_metadata;
use crate::log::segment::{FileKind, file_name, parse_file_name};
use coreline_io::{File, IoErrorKind, OpenOptions, Runtime, TaskGroup};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// The end of the name of a directory that is being removed.
pub(super) const DELETED_SUFFIX: &str = "-delete";

/// Bytes of a deleted file that go at a time. Simulated files are small.
const SHRINK_BYTES: u64 = if cfg!(test) { 16 << 10 } else { 64 << 20 };
/// From one step to the next: 1.3 GB/s at most.
const SHRINK_PAUSE: Duration = Duration::from_millis(50);

/// Directories that wait for their removal.
#[derive(Debug, Default)]
pub(super) struct Doomed {
    dirs: RefCell<VecDeque<PathBuf>>,
    /// A task sees to them.
    seen_to: Cell<bool>,
}

impl Doomed {
    fn next(&self) -> Option<PathBuf> {
        self.dirs.borrow_mut().pop_front()
    }
}

/// Renames of directories at the same time, at most: those of partitions whose numbers differ.
pub(super) const RENAMES_MAX: usize = 64;

impl<R: Runtime> LogStore<R> {
    pub(super) async fn delete_partition(self: &Rc<Self>, id: PartitionId) -> Result<(), StoreError> {
        let Some(partition) = self.take_out(id).await else { return Ok(()) };
        // Nobody flushes it any more: a commit that waits for the ring must not wait for that.
        self.journal.release_all(id);
        if partition.with_phase(|phase| matches!(phase, Phase::Loading(_))) {
            // Its directory must not be renamed under the load. Whether that succeeds does not matter.
            let _ = self.load(&partition).await;
        }
        self.hold(&partition).await;
        self.journal.release_all(id);
        let unflushed = partition.with_phase(|phase| match std::mem::replace(phase, Phase::Deleted) {
            Phase::Ready(mut log) => {
                let unknown = super::append::unknown_partition(id);
                log.undo_uncommitted(unknown.code, &unknown.message);
                self.not_durable_segments.set(self.not_durable_segments.get() - log.unsynced_bytes);
                log.journaled_bytes
            }
            Phase::Loading(queued) => {
                for append in queued {
                    append.sender.send(Err(super::append::unknown_partition(id)));
                }
                0
            }
            Phase::Unloaded | Phase::Deleted => 0,
        });
        // Not before: a load that is under way would show a log without its end to whoever waits for it.
        self.recovered.borrow_mut().remove(&id);
        self.told.borrow_mut().remove(&id);
        self.states.forget(id);
        self.unflushed.set(self.unflushed.get() - unflushed);
        partition.changed.notify_all();
        // The writer may wait for that many bytes to be flushed, and nothing else needs to be.
        self.progress.notify_all();
        let journaled = self.journal_entry(Entry::Deleted { partition: id }).await;
        self.journal.release_all(id);
        self.forget_files(&self.dir(&partition));
        if let Err(code) = journaled {
            self.delete_later(partition);
            return Err(StoreError::Refused(code));
        }
        self.remove_dir_of(&partition).await
    }

    /// A deletion that found no room in the journal: its directory goes once there is some. Records that the journal still
    /// has would find it gone, and nothing asks for them.
    fn delete_later(self: &Rc<Self>, partition: Rc<Partition>) {
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "delete again", async move {
            while store.is_running() {
                store.rt.sleep(RETRY_AFTER).await;
                if store.journal_entry(Entry::Deleted { partition: partition.id }).await.is_ok() {
                    if let Err(error) = store.remove_dir_of(&partition).await {
                        tracing::warn!(partition = %partition.dir_name(), %error, "a deleted partition stays on disk");
                    }
                    return;
                }
            }
        }));
    }

    /// Renames the directory of a partition that was deleted, and removes it in the background.
    pub(super) async fn remove_dir_of(self: &Rc<Self>, partition: &Partition) -> Result<(), StoreError> {
        let dir = self.dir(partition);
        let renamed = self.rename_away(partition, |found| found == partition.id.topic).await;
        // Reads that were under way may have opened a file in between.
        self.forget_files(&dir);
        let Some(target) = renamed? else { return Ok(()) };
        self.sync_names().await?;
        self.remove_later(target);
        Ok(())
    }

    /// Gives a partition's directory the name of one that is being removed, if it is of a topic that `goes`: there may be
    /// one of the same name meanwhile, made by a load that set ours aside. None: there is nothing to rename.
    pub(super) async fn rename_away(
        &self,
        partition: &Partition,
        goes: impl Fn(TopicId) -> bool,
    ) -> Result<Option<PathBuf>, StoreError> {
        let dir = self.dir(partition);
        // Nobody else renames it between the look and the rename: who might has the same number.
        let turn = partition.id.index.0.unsigned_abs() as usize % self.renames.len();
        let _turn = self.renames[turn].acquire(1).await;
        match self.rt.read_file(&dir.join(METADATA_FILE)).await {
            Ok(text) => {
                let found = std::str::from_utf8(&text).ok().and_then(partition_metadata::decode);
                if found.is_some_and(|found| !goes(found)) {
                    return Ok(None);
                }
            }
            // A directory is made before its metadata, and that before its first segment: somebody is making it.
            Err(error) if error.kind == IoErrorKind::NotFound => {
                let entries = self.rt.list_dir(&dir).await.unwrap_or_default();
                if !entries.iter().any(|e| matches!(parse_file_name(&e.name), Some((_, FileKind::Log)))) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(StoreError::io("read the topic's id")(error)),
        }
        let target = self.deleted_dir(partition);
        match self.rt.rename(&dir, &target).await {
            Ok(()) => Ok(Some(target)),
            Err(error) if error.kind == IoErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("rename the deleted partition")(error)),
        }
    }

    /// Lets go of what is open below `dir`: a topic of the same name must not write to the files of the one before.
    pub(super) fn forget_files(&self, dir: &Path) {
        self.files.forget_dir(dir);
        self.indexes.borrow_mut().forget_dir(dir);
    }

    /// `<topic>-<index>.<random>-delete`
    pub(super) fn deleted_dir(&self, partition: &Partition) -> PathBuf {
        let name = format!("{}.{:016x}{:016x}", partition.dir_name(), self.rt.next_u64(), self.rt.next_u64());
        self.options.data_dir.join(format!("{name}{DELETED_SUFFIX}"))
    }

    /// Removes a directory in the background: one at a time, since a file system's calls take turns on one thread, and
    /// thousands of removals in that line would keep everybody else's names waiting.
    pub(super) fn remove_later(self: &Rc<Self>, dir: PathBuf) {
        self.doomed.dirs.borrow_mut().push_back(dir);
        if self.doomed.seen_to.replace(true) {
            return;
        }
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "remove deleted partitions", async move {
            while let Some(dir) = store.doomed.next() {
                for entry in store.rt.list_dir(&dir).await.unwrap_or_default().iter().filter(|e| e.len > SHRINK_BYTES) {
                    shrink(&store.rt, &dir.join(&entry.name)).await;
                }
                if let Err(error) = store.rt.remove_dir_all(&dir).await {
                    tracing::warn!(%error, "a deleted partition stays on disk until the next start");
                }
            }
            store.doomed.seen_to.set(false);
        }));
    }

    /// Removes what deletions left behind when the process died.
    pub(super) async fn remove_leftovers(self: Rc<Self>) {
        let Ok(entries) = self.rt.list_dir(&self.options.data_dir).await else { return };
        for entry in entries.iter().filter(|e| e.is_dir && e.name.ends_with(DELETED_SUFFIX)) {
            // Another deletion may have it in hand.
            let _ = self.rt.remove_dir_all(&self.options.data_dir.join(&entry.name)).await;
        }
    }

    /// Keeps commits, flushes and direct writes away from a partition. Undone by [`LogStore::let_go`].
    pub(super) async fn hold(&self, partition: &Rc<Partition>) {
        loop {
            let changed = partition.changed.notified();
            let idle = partition.with(|log| {
                log.held = true;
                let idle = log.commit == Commit::Idle && log.joined_end.is_none() && !log.flushing;
                log.flushing |= idle;
                idle
            });
            if idle.unwrap_or(true) {
                return;
            }
            changed.await;
        }
    }

    pub(super) fn let_go(&self, partition: &Rc<Partition>) {
        partition.with(|log| log.flushing = false);
        self.let_commit(partition);
    }

    /// Who held a partition has left its segments to others already.
    pub(super) fn let_commit(&self, partition: &Rc<Partition>) {
        partition.with(|log| log.held = false);
        partition.changed.notify_all();
        self.queue_commit(partition);
    }

    /// DeleteRecords. An offset before the log's start is no error, as in Kafka.
    pub(super) async fn move_log_start(self: &Rc<Self>, id: PartitionId, to: Offset) -> Result<Offset, ReadError> {
        let partition = self.loaded(id).await?;
        let config = partition.spec.borrow().config.clone();
        if config.compacted && !config.deletes {
            let message = "records of a topic that is only compacted cannot be deleted";
            return Err(ReadError::new(ErrorCode::PolicyViolation, message));
        }
        let start = self.with_log(&partition, |log, _| {
            let to = if to.0 == -1 { log.high_watermark } else { to.0 };
            if to < 0 || to > log.high_watermark {
                let message = format!("offset {to} is not in {}..={}", log.log_start, log.high_watermark);
                return Err(with_ends(ReadError::new(ErrorCode::OffsetOutOfRange, message), log));
            }
            Ok(to)
        })??;
        self.begin_at(&partition, start).await.map_err(failed)?;
        self.with_log(&partition, |log, _| Offset(log.log_start))
    }

    /// Cuts the log: everything into segments, cut the journal, then those, then load again.
    ///
    /// ```text
    /// batches 0..=9 10..=24 25..=30, truncate to 17 → the batch that holds 17 goes whole: the log ends at 10
    /// ```
    pub(super) async fn cut_log(self: &Rc<Self>, id: PartitionId, to: Offset) -> Result<EndOffsets, ReadError> {
        let partition = self.loaded(id).await?;
        partition.with(|log| log.held = true);
        self.joined_is_committed(&partition).await;
        self.write_out(&partition, super::flush::Limit::Committed, true).await.map_err(super::read::read_failed)?;
        self.hold(&partition).await;
        let result = self.cut_held(&partition, to).await;
        self.let_go(&partition);
        result?;
        self.load(&partition).await?;
        self.with_log(&partition, |log, _| log.ends())
    }

    async fn cut_held(self: &Rc<Self>, partition: &Rc<Partition>, to: Offset) -> Result<(), ReadError> {
        let state = self.with_log(partition, |log, _| {
            log.undo_uncommitted(ErrorCode::NotLeaderOrFollower, "the log is being truncated");
            (log.log_end, log.flushed_end, log.log_start, log.segments[log.segment_of(to.0)].base)
        })?;
        let (end, flushed, start, segment) = state;
        if to.0 >= end {
            return Ok(());
        }
        assert_eq!(end, flushed, "a held log that was flushed is flushed");
        let to = to.0.max(start);
        let (mut cut_offset, mut cut_position) = (segment, 0);
        let scanned = self.scan_segment(partition, segment, 0, |header, _, position| {
            if header.next_offset().0 <= to {
                cut_offset = header.next_offset().0;
                cut_position = position + header.size_in_bytes() as u64;
            }
        });
        scanned.await.map_err(failed)?;
        self.touch(partition).await.map_err(super::read::read_failed)?;
        // The journal may have the last batches of those that are cut without the ones before: it must not go on where the files do not.
        let entry = Entry::Truncate { partition: partition.id, to: Offset(cut_offset) };
        self.journal_entry(entry).await.map_err(|code| ReadError::new(code, "the cut could not be journaled"))?;
        let cut = self.cut_files(partition, segment, cut_offset, cut_position).await;
        // Also where it was not done to its end: what is in memory is of the files before.
        partition.with_phase(|phase| *phase = Phase::Unloaded);
        self.journal.release(partition.id, cut_offset, false);
        cut
    }

    /// Removes what is after `offset`: newest files first, so that a crash leaves a log without a hole.
    async fn cut_files(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        segment: i64,
        offset: i64,
        position: u64,
    ) -> Result<(), ReadError> {
        let (later, snapshots, epochs) = self.with_log(partition, |log, _| {
            log.generation = self.next_generation();
            let later: Vec<i64> = log.segments.iter().map(|s| s.base).filter(|b| *b > segment).collect();
            let snapshots: Vec<i64> = log.snapshots.iter().copied().filter(|s| *s > offset).collect();
            let mut epochs: LeaderEpochs = log.epochs.clone();
            epochs.truncate_from_end(Offset(offset));
            (later, snapshots, epochs)
        })?;
        let dir = self.dir(partition);
        let mut gone: Vec<PathBuf> = Vec::new();
        for base in later.into_iter().rev() {
            gone.extend(FileKind::SEGMENT.into_iter().rev().map(|k| dir.join(file_name(base, k))));
        }
        // A load that looked at no directory may not know all of them.
        let found = self.rt.list_dir(&dir).await.map_err(super::read::read_failed)?;
        let found = found.iter().filter_map(|e| parse_file_name(&e.name));
        let found = found.filter(|(at, kind)| *kind == FileKind::Snapshot && *at > offset).map(|(at, _)| at);
        let snapshots: BTreeSet<i64> = snapshots.into_iter().chain(found).collect();
        gone.extend(snapshots.into_iter().map(|s| dir.join(file_name(s, FileKind::Snapshot))));
        gone.extend([FileKind::OffsetIndex, FileKind::TimeIndex].map(|k| dir.join(file_name(segment, k))));
        // What it holds of transactions that ended before the newest snapshot that is left stays true; a load takes that.
        self.indexes.borrow_mut().forget(&dir.join(file_name(segment, FileKind::TxnIndex)));
        // It may name what is cut: the next compaction begins at the log's start.
        gone.push(dir.join(CHECKPOINT_FILE));
        for path in gone {
            self.files.forget(&path);
            self.indexes.borrow_mut().forget(&path);
            let removed = self.rt.remove_file(&path).await;
            self.files.forget(&path);
            self.indexes.borrow_mut().forget(&path);
            match removed {
                Err(error) if error.kind != IoErrorKind::NotFound => return Err(super::read::read_failed(error)),
                _ => {}
            }
        }
        self.rt.sync_dir(&dir).await.map_err(|e| super::read::read_failed(self.sync_failed(e)))?;
        let path = dir.join(file_name(segment, FileKind::Log));
        let file = self.files.get(&self.rt, &path, false).await.map_err(super::read::read_failed)?;
        file.truncate(position).await.map_err(|e| super::read::read_failed(self.write_failed(e)))?;
        file.sync_data().await.map_err(|e| super::read::read_failed(self.sync_failed(e)))?;
        let text = epochs.encode();
        self.rt.write_file_atomic(&dir.join(EPOCHS_FILE), text.as_bytes()).await.map_err(super::read::read_failed)
    }
}

/// Shortens a file that is on its way out, step by step: while the file system frees the blocks of a large one at once,
/// everybody's syncs wait. What fails here does so again at the removal, which says so.
///
/// Its name as one that goes is made durable first: a power loss that gave it the old one back would show a damaged segment.
pub(super) async fn shrink<R: Runtime>(rt: &R, path: &Path) {
    let Ok(file) = rt.open(path, OpenOptions::default()).await else { return };
    let Ok(mut len) = file.size().await else { return };
    if len <= SHRINK_BYTES {
        return;
    }
    let Some(dir) = path.parent() else { return };
    if rt.sync_dir(dir).await.is_err() {
        return;
    }
    while len > SHRINK_BYTES {
        len -= SHRINK_BYTES;
        if file.truncate(len).await.is_err() {
            return;
        }
        rt.sleep(SHRINK_PAUSE).await;
    }
}

fn failed(error: StoreError) -> ReadError {
    let error = AppendError::new(ErrorCode::KafkaStorageError, error.to_string());
    ReadError::new(error.code, error.message)
}
