//! A cleaned segment takes the places of those it was made from. A crash at any point leaves the old or the new.
//!
//! ```text
//! 1. `<base>.{log,…index}.cleaned`              on the device, names too; nobody knows of them
//! 2. `compaction.swap`: which segments go        from here on the new one counts
//! 3. new files renamed to their places, the other replaced ones removed, names durable
//! 4. `compaction.swap` removed, durably          before anything else may happen to the segments
//! ```
//!
//! A load that finds `compaction.swap` does 3 and 4 again, whatever part of it was done; one that finds only `.cleaned`
//! removes them. Kafka does without the list: its load reads the new segment to know which ones it covers. With the list
//! a load reads nothing, and a cleaned segment that ends before the old ones did leaves none of them behind.

use super::CleanError;
use super::clean::{Built, Job};
use crate::broker::store::partition::{Log, Partition, Segment, TxnFile};
use crate::broker::store::types::StoreError;
use crate::broker::store::{LogStore, StoreState};
use crate::log::compaction::Swap;
use crate::log::segment::{FileKind, file_name};
use coreline_io::{DirEntry, IoError, IoErrorKind, IoResult, Runtime};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// A full disk is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_millis(500);

impl<R: Runtime> LogStore<R> {
    /// Puts a cleaned segment in its place. Flushes, cuts and deletions of the partition wait, cold readers too while names change.
    pub(super) async fn swap_in(self: &Rc<Self>, job: &Job, built: &Built) -> Result<(), CleanError> {
        let partition = &job.partition;
        if !self.take_segments(partition).await {
            return Err(CleanError::Changed);
        }
        let result = self.swap_held(job, built).await;
        partition.with(|log| {
            log.flushing = false;
            log.swapping = false;
            log.renaming = false;
            log.assert_invariants();
        });
        self.cleaner.waits_for_room.set(false);
        partition.changed.notify_all();
        if result.is_err() && self.state.get() == StoreState::Open {
            self.remove_cleaned(job, built.swap.target()).await;
        }
        result
    }

    async fn swap_held(self: &Rc<Self>, job: &Job, built: &Built) -> Result<(), CleanError> {
        self.still_wanted(job)?;
        let partition = &job.partition;
        let dir = self.dir(partition);
        let list = dir.join(Swap::FILE);
        // Segments are not to go meanwhile: they are in the list. In the same breath as the look whether it is still wanted: a
        // partition that is leaving has a swap under way now, or none any more.
        partition.with(|log| log.swapping = true);
        self.touch(partition).await.map_err(|e| self.clean_failed(&e))?;
        if let Err(error) = self.rt.write_file_atomic(&list, built.swap.encode().as_bytes()).await {
            let error = self.directory_failed(error);
            self.until_done(partition, || async { ignore_missing(self.rt.remove_file(&list).await) }).await?;
            self.until_done(partition, || self.rt.sync_dir(&dir)).await?;
            return Err(self.clean_failed(&error));
        }
        let generation = self.next_generation();
        partition.with(|log| {
            log.generation = generation;
            log.renaming = true;
        });
        job.generation.set(generation);
        self.until_done(partition, || self.rename_cleaned(&dir, &built.swap)).await?;
        let generation = self.next_generation();
        let noted = partition.with(|log| replace(log, built, generation));
        job.generation.set(generation);
        partition.changed.notify_all();
        if noted == Some(true) {
            self.until_done(partition, || self.note_txn_indexes(partition)).await?;
        }
        self.until_done(partition, || self.remove_replaced(&dir, &built.swap)).await?;
        self.until_done(partition, || self.end_swap(&dir)).await
    }

    /// Repeats what must come to its end; a full disk passes, anything else has stopped the store.
    async fn until_done<F: Future<Output = IoResult<()>>>(
        &self,
        partition: &Partition,
        mut step: impl FnMut() -> F,
    ) -> Result<(), CleanError> {
        loop {
            let Err(error) = step().await else {
                self.cleaner.waits_for_room.set(false);
                return Ok(());
            };
            if error.kind != IoErrorKind::StorageFull {
                return Err(self.clean_failed(&self.directory_failed(error)));
            }
            if !self.is_running() {
                return Err(CleanError::Changed);
            }
            self.cleaner.waits_for_room.set(true);
            partition.changed.notify_all();
            self.rt.sleep(RETRY_AFTER).await;
        }
    }

    /// Waits for a swap of a partition that is leaving, after which there is none any more.
    ///
    /// # Errors
    /// It waits for room on the disk.
    pub(in crate::broker::store) async fn swap_is_over(&self, partition: &Partition) -> IoResult<()> {
        loop {
            let changed = partition.changed.notified();
            if partition.with(|log| log.swapping) != Some(true) {
                return Ok(());
            }
            if self.cleaner.waits_for_room.get() {
                let cause = std::io::Error::from(std::io::ErrorKind::StorageFull);
                return Err(IoError::new("put a compacted segment in its place", cause).on(&self.dir(partition)));
            }
            changed.await;
        }
    }

    async fn rename_cleaned(&self, dir: &Path, swap: &Swap) -> IoResult<()> {
        for kind in FileKind::SEGMENT {
            let path = dir.join(file_name(swap.target(), kind));
            let cleaned = dir.join(format!("{}{}", file_name(swap.target(), kind), Swap::SUFFIX));
            let renamed = self.rt.rename(&cleaned, &path).await;
            self.files.forget(&path);
            self.indexes.borrow_mut().forget(&path);
            ignore_missing(renamed)?;
        }
        Ok(())
    }

    async fn remove_replaced(&self, dir: &Path, swap: &Swap) -> IoResult<()> {
        for base in &swap.replaced[1..] {
            for kind in FileKind::SEGMENT {
                let path = dir.join(file_name(*base, kind));
                self.files.forget(&path);
                self.indexes.borrow_mut().forget(&path);
                ignore_missing(self.rt.remove_file(&path).await)?;
            }
        }
        self.rt.sync_dir(dir).await
    }

    async fn end_swap(&self, dir: &Path) -> IoResult<()> {
        ignore_missing(self.rt.remove_file(&dir.join(Swap::FILE)).await)?;
        self.rt.sync_dir(dir).await
    }

    /// At a load: brings a swap that was begun to its end, removes what a cleaning left. Gives the
    /// directory's entries, if they changed.
    pub(in crate::broker::store) async fn settle_compaction(
        &self,
        dir: &Path,
        entries: &[DirEntry],
    ) -> Result<Option<Vec<DirEntry>>, StoreError> {
        let begun = entries.iter().any(|e| e.name == Swap::FILE);
        let is_cleaned = |e: &&DirEntry| e.name.ends_with(Swap::SUFFIX);
        if !begun && !entries.iter().any(|e| is_cleaned(&e)) {
            return Ok(None);
        }
        if begun {
            let list = dir.join(Swap::FILE);
            let text = self.rt.read_file(&list).await.map_err(StoreError::io("read the list of a swap"))?;
            let swap = std::str::from_utf8(&text).ok().and_then(Swap::decode).ok_or_else(|| {
                StoreError::Corrupt(format!("{}: expected a version, a count and base offsets", list.display()))
            })?;
            tracing::info!(dir = %dir.display(), segment = swap.target(), "a compacted segment takes its place");
            self.rename_cleaned(dir, &swap).await.map_err(StoreError::io("finish a swap"))?;
            self.remove_replaced(dir, &swap).await.map_err(|e| self.settle_failed(e))?;
            self.end_swap(dir).await.map_err(|e| self.settle_failed(e))?;
        }
        for entry in entries.iter().filter(is_cleaned) {
            let removed = ignore_missing(self.rt.remove_file(&dir.join(&entry.name)).await);
            removed.map_err(StoreError::io("remove what a compaction left"))?;
        }
        self.rt.list_dir(dir).await.map(Some).map_err(StoreError::io("list the partition"))
    }

    fn settle_failed(&self, error: IoError) -> StoreError {
        StoreError::io("finish a swap")(self.directory_failed(error))
    }
}

fn ignore_missing(result: IoResult<()>) -> IoResult<()> {
    match result {
        Err(error) if error.kind == IoErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// One segment in memory instead of several. What is resident of them has other positions now, and goes. True if transaction
/// indexes changed.
fn replace(log: &mut Log, built: &Built, generation: u64) -> bool {
    let bases = &built.swap.replaced;
    let first = log.segments.partition_point(|s| s.base < bases[0]);
    let old = &log.segments[first..first + bases.len()];
    assert!(
        old.iter().map(|s| s.base).eq(bases.iter().copied()),
        "segments {bases:?} are there while they are swapped"
    );
    assert!(old.iter().all(|s| s.index.is_none() && s.on_disk), "only complete segments are cleaned");
    let had_index = old.iter().any(|s| s.txn_file != TxnFile::Missing);
    let mut new =
        Segment { size: built.size, on_disk: true, index: None, max_timestamp: None, ..Segment::new(bases[0]) };
    new.txn_file = built.aborted.map_or(TxnFile::Missing, TxnFile::Holds);
    log.segments.splice(first..first + bases.len(), [new]);
    let end = log.segments[first + 1].base;
    log.tail.forget_before(end);
    log.hints.clear();
    log.generation = generation;
    log.renaming = false;
    had_index || built.aborted.is_some()
}
