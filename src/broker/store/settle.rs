//! What of a partition may be readable and not durable after an unclean stop, and how it becomes durable.
//!
//! A process that a failed sync ended leaves bytes behind that can be read, from a cache, and that no later sync covers:
//! the kernel, or the device, reports a lost write once. If the next process took them for durable and let go of the
//! journal's copy, a power loss would take them. So whatever is not *known* to be synced is written again, the same
//! bytes at the same place, and then synced, before anybody sees it:
//!
//! ```text
//! last segment   [ up to the newest index entry or snapshot, what the journal says is flushed, or has behind it only ][ the rest ]
//!                  known: those are written after the sync of what they name                                            written again
//! its indexes    written again, whole: their sync at the segment's end may be what failed
//! sealed ones    known: the next segment's file is made after the sync
//! log start      its file's bytes are synced before its name, the name need not be
//! ```
//! A power loss in the middle of it finds each sector old or new, which are the same.

use super::LogStore;
use super::flush::LOG_START_FILE;
use super::gather::Unsynced;
use super::partition::{Log, Partition, Segment};
use super::recovery::write_again;
use super::types::StoreError;
use crate::log::segment::{FileKind, file_name};
use bytes::Bytes;
use coreline_io::{BLOCK, DirContents, File, IoError, IoErrorKind, IoResult, Runtime};
use std::rc::Rc;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// A file, where what must be written again begins, and its end if that is known.
type Part = (String, u64, Option<u64>);

/// What may not be durable of the last segment.
fn parts_to_settle(segment: &Segment, synced: u64, contents: &DirContents) -> Vec<Part> {
    let name = |kind| file_name(segment.base, kind);
    let mut parts = Vec::new();
    let found = contents.entries.iter().find(|e| e.name == name(FileKind::Log)).map_or(u64::MAX, |e| e.len);
    // What follows in the last block goes with the next write, which is of whole blocks. The name of a file that
    // nothing is known of may not be durable.
    let known = 0 < segment.size && segment.size <= synced && found <= segment.size.next_multiple_of(BLOCK as u64);
    if !known {
        parts.push((name(FileKind::Log), synced, Some(segment.size)));
    }
    for kind in [FileKind::TimeIndex, FileKind::OffsetIndex] {
        // One without a byte is worth nothing: it is made again if it is gone.
        if contents.entries.iter().any(|e| e.name == name(kind) && e.len > 0) {
            parts.push((name(kind), 0, None));
        }
    }
    parts
}

impl<R: Runtime> LogStore<R> {
    /// Makes sure that what the scan believed is on the device, names included. The first `synced` bytes of the last
    /// segment are. `contents`: what was found in the directory, and believed.
    pub(super) async fn settle(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        log: &Log,
        synced: u64,
        contents: &DirContents,
    ) -> Result<(), StoreError> {
        let parts = log.segments.iter().rev().find(|s| s.on_disk).map(|s| parts_to_settle(s, synced, contents));
        let parts = parts.unwrap_or_default();
        // It may be all that is left: of a log of which everything was deleted, and whose journal forgets what it says.
        let start_is_named = contents.entries.iter().any(|e| e.name == LOG_START_FILE);
        if parts.is_empty() && !start_is_named {
            return Ok(());
        }
        let mut unsynced = Unsynced { files: Vec::new(), dir: self.dir(partition) };
        for (name, from, to) in parts {
            let written = self.settle_file(partition, &name, from, to, contents).await;
            unsynced.files.extend(written.map_err(StoreError::io("settle the last segment"))?);
        }
        // The directory's own name was durable before `partition.metadata` was there.
        self.sync_settled(unsynced).await
    }

    /// Writes bytes `from..to` of a file again (`to`: its end), and cuts what is behind them: stale batches must never
    /// follow new ones. Gives the file, to be synced.
    async fn settle_file(
        &self,
        partition: &Partition,
        name: &str,
        from: u64,
        to: Option<u64>,
        contents: &DirContents,
    ) -> IoResult<Option<Rc<R::File>>> {
        let file = match self.files.get(&self.rt, &self.dir(partition).join(name), false).await {
            Ok(file) => file,
            Err(error) if error.kind == IoErrorKind::NotFound && to.is_none() => return Ok(None),
            Err(error) => return Err(error),
        };
        let size = file.size().await?;
        let to = to.unwrap_or(size);
        let known = contents.files.get(name).filter(|bytes| bytes.len() as u64 >= to);
        let failed = |e: IoError| self.write_failed(e);
        match known {
            Some(bytes) => {
                let at = from / BLOCK as u64 * BLOCK as u64;
                let bytes = bytes.slice(at as usize..to as usize);
                if !bytes.is_empty() {
                    let padding = bytes.len().next_multiple_of(BLOCK) - bytes.len();
                    file.write_at(at, &[bytes, Bytes::from_static(&ZEROS[..padding])]).await.map_err(failed)?;
                }
            }
            None => write_again(&self.rt, &*file, from, to).await.map_err(failed)?,
        }
        // The last block was written with zeros behind the end: that is how a segment's end looks.
        if size > to.next_multiple_of(BLOCK as u64) || !name.ends_with(FileKind::Log.extension()) {
            file.truncate(to).await.map_err(failed)?;
        }
        Ok(Some(file))
    }

    /// Up to where the segments of a partition that is not loaded were synced, by what the journal says: it was told so, or
    /// its part begins there, behind its last hole. Else the journal would still hold what is before, and would not have
    /// been written behind it.
    pub(super) fn synced_by_journal(&self, partition: &Partition) -> Option<i64> {
        let told = self.told.borrow().get(&partition.id).map(|told| told.flushed);
        let recovered = self.recovered.borrow();
        let behind = recovered.get(&partition.id).and_then(|recovered| {
            let batches = &recovered.batches;
            let hole = batches.windows(2).rposition(|pair| pair[0].1 + 1 != pair[1].0);
            batches.get(hole.map_or(0, |i| i + 1)).map(|b| b.0)
        });
        told.max(behind)
    }
}
