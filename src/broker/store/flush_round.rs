//! Many partitions in one flush: thousands of small tails cost a few syncs, not thousands.
//!
//! ```text
//! directories, partition.metadata, epochs of new partitions ─▶ sync ─▶ batches of all, some at a time ─▶ sync ─▶ the rest, one by one
//! ```
//! The order on disk is that of [`super::flush`]; only the syncs are shared, by syncing the whole file system.

use super::LogStore;
use super::flush::{EPOCHS_FILE, Limit, METADATA_FILE};
use super::partition::Partition;
use crate::log::partition_metadata;
use crate::log::segment::FileKind;
use coreline_io::{IoError, IoResult, Runtime};
use futures_util::StreamExt;
use futures_util::stream;
use std::path::PathBuf;
use std::rc::Rc;

/// Partitions in one round, at most: a direct write of one of them may have to wait for the round.
pub(super) const ROUND_PARTITIONS: usize = 256;
/// Writes of a round under way at a time.
const WRITES_IN_FLIGHT: usize = 16;

/// A partition that could not be flushed, and why.
pub(super) type FailedFlush = (Rc<Partition>, Rc<IoError>);

impl<R: Runtime> LogStore<R> {
    /// Flushes `due`, as [`LogStore::flush_partition`] each.
    pub(super) async fn flush_round(self: &Rc<Self>, due: Vec<Rc<Partition>>) -> Vec<FailedFlush> {
        let loads = stream::iter(due).map(|partition| async move {
            let loaded = partition.is_ready() || self.load(&partition).await.is_ok();
            (partition, loaded)
        });
        let loaded: Vec<_> = loads.buffered(WRITES_IN_FLIGHT).collect().await;
        let (mut taken, mut alone) = (Vec::new(), Vec::new());
        for (partition, loaded) in loaded {
            // Never waits for one while it holds another: two rounds could wait for each other.
            match partition.with(|log| std::mem::replace(&mut log.flushing, true)) {
                Some(false) => taken.push(partition),
                Some(true) => alone.push(partition),
                None if loaded || partition.is_gone() => {}
                None => alone.push(partition),
            }
        }
        let results = self.flush_taken(&taken).await;
        for partition in &taken {
            partition.with(|log| {
                log.flushing = false;
                log.assert_invariants();
            });
            partition.changed.notify_all();
        }
        let mut failed: Vec<FailedFlush> =
            taken.into_iter().zip(results).filter_map(|(p, r)| Some((p, r.err()?))).collect();
        for partition in alone {
            if let Err(error) = self.flush_partition(&partition).await {
                failed.push((partition, Rc::new(error)));
            }
        }
        failed
    }

    async fn flush_taken(self: &Rc<Self>, taken: &[Rc<Partition>]) -> Vec<Result<(), Rc<IoError>>> {
        let all_failed = |error: IoError| vec![Err(Rc::new(error)); taken.len()];
        let shared = taken.len() >= self.options.shared_sync_partitions;
        if shared && let Err(error) = self.make_dirs(taken).await {
            return all_failed(error);
        }
        let writes = stream::iter(taken).map(|partition| self.write_pieces(partition, Limit::Committed));
        let written: Vec<_> = writes.buffered(WRITES_IN_FLIGHT).collect().await;
        if shared && let Err(error) = self.sync_together(taken).await {
            return all_failed(error);
        }
        let syncs = stream::iter(taken.iter().zip(written)).map(|(partition, written)| async move {
            // Of a write that found no room, whole pieces before it stay: they must be durable to count.
            let synced = self.sync_segments(partition).await;
            written.and(synced).map_err(Rc::new)
        });
        let mut results: Vec<_> = syncs.buffered(WRITES_IN_FLIGHT).collect().await;
        let synced: Vec<_> = taken.iter().zip(&results).filter_map(|(p, result)| result.is_ok().then_some(p)).collect();
        if let Err(error) = self.release_synced(&synced, true).await {
            let error = Rc::new(error);
            results.iter_mut().filter(|result| result.is_ok()).for_each(|result| *result = Err(error.clone()));
        }
        results
    }

    /// As [`LogStore::make_dir`] and the epochs after it, for all that need it, with one sync.
    async fn make_dirs(&self, partitions: &[Rc<Partition>]) -> IoResult<()> {
        let mut files: Vec<(PathBuf, Vec<u8>)> = Vec::new();
        let mut made = Vec::new();
        for partition in partitions {
            let epochs = partition.with(|log| {
                let due = !log.dir_made && log.flushed_end < log.committed_end;
                due.then(|| std::mem::take(&mut log.epochs_dirty).then(|| log.epochs.encode()))
            });
            let Some(Some(epochs)) = epochs else { continue };
            let dir = self.dir(partition);
            files.push((dir.join(METADATA_FILE), partition_metadata::encode(partition.id.topic).into_bytes()));
            made.push((partition.clone(), epochs.is_some()));
            files.extend(epochs.map(|text| (dir.join(EPOCHS_FILE), text.into_bytes())));
        }
        let Some((first, _)) = files.first().cloned() else { return Ok(()) };
        let result = async {
            self.rt.write_new_files(files).await?;
            self.rt.sync_file_system(&first).await
        };
        let result = result.await.map_err(|e| self.directory_failed(e));
        for (partition, epochs) in made {
            partition.with(|log| match &result {
                Ok(()) => log.dir_made = true,
                Err(_) => log.epochs_dirty |= epochs,
            });
        }
        result
    }

    /// Makes what is flushed of all durable with one sync, if that is worth it; else leaves it to each.
    async fn sync_together(&self, partitions: &[Rc<Partition>]) -> IoResult<()> {
        let dirty: Vec<_> = partitions
            .iter()
            .filter_map(|partition| {
                let state = partition.with(|log| {
                    // What a failed write left must be cut first.
                    let dirty = log.flushed_end > log.synced_end && !log.cut_before_write;
                    dirty.then(|| (log.segments[log.segment_of(log.flushed_end - 1)].base, log.flushed_end))
                });
                state.flatten().map(|(base, end)| (partition, base, end))
            })
            .collect();
        if dirty.len() < self.options.shared_sync_partitions {
            return Ok(());
        }
        let (partition, base, _) = dirty[0];
        let path = self.segment_path(partition, base, FileKind::Log);
        self.rt.sync_file_system(&path).await.map_err(|e| self.sync_failed(e))?;
        for (partition, _, end) in dirty {
            partition.with(|log| log.names_dirty = false);
            self.segments_synced(partition, end);
        }
        Ok(())
    }
}
