//! What of a partition may be readable and not durable after an unclean stop, and how it becomes durable.
//!
//! A process that a failed sync ended leaves bytes behind that can be read, from a cache, and that no later sync covers:
//! the kernel, or the device, reports a lost write once. If the next process took them for durable and let go of the
//! journal's copy, a power loss would take them. So whatever is not *known* to be synced is written again, the same
//! bytes at the same place, and then synced, before anybody sees it:
//!
//! ```text
//! last segment   [ up to the newest index entry or snapshot, or behind it only in the journal ][ the rest ]
//!                  known: those are written after the sync of what they name                     written again
//! its indexes    written again, whole: their sync at the segment's end may be what failed
//! sealed ones    known: the next segment's file is made after the sync
//! ```
//! A power loss in the middle of it finds each sector old or new, which are the same.

use super::LogStore;
use super::partition::{Log, Partition};
use super::recovery::write_again;
use super::types::StoreError;
use crate::log::segment::FileKind;
use coreline_io::{File, IoError, IoErrorKind, Runtime};
use std::path::Path;
use std::rc::Rc;

impl<R: Runtime> LogStore<R> {
    /// Makes sure that what the scan believed is on the device, names included. The first `synced` bytes of the last
    /// segment are.
    pub(super) async fn settle(&self, partition: &Rc<Partition>, log: &Log, synced: u64) -> Result<(), StoreError> {
        let Some(segment) = log.segments.iter().rev().find(|s| s.on_disk) else { return Ok(()) };
        let path = self.segment_path(partition, segment.base, FileKind::Log);
        self.write_and_sync(&path, synced, segment.size).await.map_err(StoreError::io("settle the last segment"))?;
        for kind in [FileKind::TimeIndex, FileKind::OffsetIndex] {
            let path = self.segment_path(partition, segment.base, kind);
            let result = match self.files.get(&self.rt, &path, false).await {
                Ok(file) => match file.size().await {
                    Ok(size) => self.write_and_sync(&path, 0, size).await,
                    Err(error) => Err(error),
                },
                Err(error) if error.kind == IoErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            };
            result.map_err(StoreError::io("settle an index"))?;
        }
        // The directory's own name was durable before `partition.metadata` was there.
        let dir = self.dir(partition);
        self.rt.sync_dir(&dir).await.map_err(|e| StoreError::io("sync the directory")(self.sync_failed(e)))
    }

    /// Writes bytes `from..to` of a file again, cuts what is behind them (stale batches must never follow new ones),
    /// and syncs.
    async fn write_and_sync(&self, path: &Path, from: u64, to: u64) -> Result<(), IoError> {
        let file = self.files.get(&self.rt, path, false).await?;
        write_again(&self.rt, &*file, from, to).await.map_err(|e| self.write_failed(e))?;
        file.truncate(to).await.map_err(|e| self.write_failed(e))?;
        file.sync_data().await.map_err(|e| self.sync_failed(e))
    }

    /// Where the journal's part of a partition that is not loaded begins, behind its last hole. What is before was
    /// synced in segments: else the journal would still hold it, and would not have been written behind it.
    pub(super) fn journaled_from(&self, partition: &Partition) -> Option<i64> {
        let recovered = self.recovered.borrow();
        let batches = &recovered.get(&partition.id)?.batches;
        let hole = batches.windows(2).rposition(|pair| pair[0].1 + 1 != pair[1].0);
        batches.get(hole.map_or(0, |i| i + 1)).map(|b| b.0)
    }
}
