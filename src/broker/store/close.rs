//! The end of a store, and what becomes of journals when the core count changes.

use super::flush::FLUSH_WORKERS;
use super::partition::Partition;
use super::recovery::{self, CleanMark};
use super::types::{PartitionSpec, StoreError, StoreOptions};
use super::{LogStore, StoreState};
use crate::ids::PartitionId;
use coreline_io::{IoErrorKind, Runtime};
use futures_util::StreamExt;
use futures_util::stream;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Partitions that are closed at a time.
const CLOSE_CONCURRENCY: usize = 16;
const _: () = assert!(CLOSE_CONCURRENCY >= FLUSH_WORKERS);

impl<R: Runtime> LogStore<R> {
    /// Flushes what can be flushed in time, and marks the journal clean if that was everything.
    pub(super) async fn close(self: &Rc<Self>, within: Option<Duration>) -> Result<(), StoreError> {
        let deadline = within.map(|time| self.rt.now().plus(time));
        if !matches!(self.state.get(), StoreState::Open) {
            return Err(StoreError::Stopped);
        }
        self.state.set(StoreState::Closing);
        self.cleaner.wake.notify_all();
        self.wait_for_commits().await?;
        self.sync_journal().await?;
        // Before anything else: what is flushed and completed from here on is noted nowhere.
        self.remove_states().await.map_err(StoreError::io("remove the partitions' states"))?;
        let partitions: Vec<_> = self.partitions.borrow().values().cloned().collect();
        let recovered: BTreeSet<PartitionId> = self.recovered.borrow().keys().copied().collect();
        let due = partitions.into_iter().filter(|p| p.is_ready() || recovered.contains(&p.id));
        let left = Cell::new(0_usize);
        let close_one = |partition| {
            let left = &left;
            async move {
                if deadline.is_some_and(|d| self.rt.now() >= d) {
                    left.set(left.get() + 1);
                    return Ok(());
                }
                self.close_partition(partition).await
            }
        };
        let mut closing = stream::iter(due.map(close_one)).buffer_unordered(CLOSE_CONCURRENCY);
        let mut result = Ok(());
        while let Some(closed) = closing.next().await {
            result = result.and(closed);
        }
        drop(closing);
        if self.state.get() != StoreState::Closing {
            return Err(StoreError::Stopped);
        }
        self.journal.finish();
        if left.get() > 0 {
            tracing::info!(partitions = left.get(), "not flushed in time: the next start reads them from the journal");
        }
        // What is left over belongs to partitions that could not be flushed: the next start must look.
        if result.is_ok() && left.get() == 0 && self.journal.all_live().is_empty() {
            let mark = CleanMark { lap: self.journal.last_lap(), unsettled: self.still_unsettled() };
            result = recovery::write_clean(&self.rt, &self.journal.dir, mark).await;
        }
        self.state.set(StoreState::Stopped);
        self.writer.wake.notify_all();
        self.flusher.wake.notify_all();
        result
    }

    /// Partitions that were not to be trusted at the start, and that nobody has used since.
    fn still_unsettled(&self) -> BTreeSet<String> {
        let partitions = self.partitions.borrow();
        // Nor those of which a load has looked at no file, and index blocks of before are not written again.
        let settled = |p: &Partition| p.with(|log| log.segments.iter().all(|s| !s.index_unsettled)) == Some(true);
        let unused = partitions.values().filter(|p| !settled(p)).map(|p| p.dir_name());
        unused.filter(|name| self.unsettled.holds(name)).collect()
    }

    /// Waits until no append is under way.
    async fn wait_for_commits(&self) -> Result<(), StoreError> {
        loop {
            let progress = self.progress.notified();
            if !self.is_running() {
                return Err(StoreError::Stopped);
            }
            let partitions: Vec<_> = self.partitions.borrow().values().cloned().collect();
            let busy = partitions.iter().any(|p| p.with(|log| log.committed_end < log.log_end) == Some(true));
            if !busy && !self.writer.busy.get() && !self.has_work() {
                return Ok(());
            }
            progress.await;
        }
    }

    async fn close_partition(self: &Rc<Self>, partition: Rc<Partition>) -> Result<(), StoreError> {
        let context = || format!("close {}", partition.dir_name());
        let flushed = self.flush_partition(&partition).await;
        if self.resident(partition.id).is_none() {
            // It has left, or was deleted since the list was made: its directory may be gone in the middle of a load.
            return Ok(());
        }
        flushed.map_err(|e| StoreError::io(context())(e))?;
        // Without a directory nothing of it was ever flushed: a full disk refused all there was.
        if partition.with(|log| log.touched && log.dir_made) != Some(true) || !self.take_segments(&partition).await {
            return Ok(());
        }
        let base = partition.with(|log| {
            let end = log.log_end;
            if log.snapshots.last() != Some(&end) {
                let snapshot = log.producers.encode_snapshot();
                log.pending_snapshots.push_back((end, snapshot));
            }
            log.active().base
        });
        let closed = async {
            if let Some(base) = base {
                self.complete_files(&partition, base).await?;
            }
            self.write_snapshots(&partition).await
        };
        let closed = closed.await;
        partition.with(|log| log.flushing = false);
        // A deletion may wait for the segments, and the controller for it.
        partition.changed.notify_all();
        closed.map_err(|e| StoreError::io(context())(e))
    }
}

/// See [`LogStore::drain_journals`].
pub(super) async fn drain_journals<R: Runtime>(
    rt: &R,
    options: &StoreOptions,
    names: &dyn Fn(PartitionId) -> Option<PartitionSpec>,
) -> Result<(), StoreError> {
    let root = options.data_dir.join("journal");
    let entries = match rt.list_dir(&root).await {
        Ok(entries) => entries,
        Err(error) if error.kind == IoErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::io("list the journals")(error)),
    };
    let found: BTreeSet<u16> =
        entries.iter().filter_map(|e| e.name.strip_prefix("shard-").and_then(|n| n.parse().ok())).collect();
    if found.is_empty() {
        return Ok(());
    }
    tracing::info!(journals = found.len(), "the number of cores has changed, journals are drained");
    for shard in found {
        let options = StoreOptions { shard, ..options.clone() };
        let store = LogStore::open(rt.clone(), options).await?;
        let ids: Vec<PartitionId> = store.recovered.borrow().keys().copied().collect();
        for spec in ids.into_iter().filter_map(names) {
            store.assign(spec);
        }
        store.assignments_complete();
        store.shutdown().await?;
        if !store.journal.all_live().is_empty() {
            return Err(StoreError::Corrupt(format!("the journal of shard {shard} could not be moved to segments")));
        }
        let dir = root.join(format!("shard-{shard:04}"));
        rt.remove_dir_all(&dir).await.map_err(StoreError::io("remove a drained journal"))?;
    }
    rt.sync_dir(&root).await.map_err(StoreError::io("remove drained journals"))
}
