//! Indexes that are missing of sealed segments, or wrong (see `index_check`), made from their batches. Small segments are looked through while their
//! partition loads; large ones after it, in the background. Until then a read begins its search at the segment's start,
//! which is slow and right; what cannot be answered without an index waits (the largest timestamp, aborted transactions),
//! and retention and compaction come later.

use super::LogStore;
use super::index_builder::IndexBuilder;
use super::partition::{Partition, TxnFile};
use super::txn::is_abort;
use super::types::StoreError;
use crate::log::segment::FileKind;
use coreline_io::{Runtime, TaskGroup};
use std::rc::Rc;
use std::time::Duration;

/// From one attempt that failed to the next.
const RETRY_AFTER: Duration = Duration::from_secs(10);

impl<R: Runtime> LogStore<R> {
    /// Makes what a load left for later.
    pub(super) fn rebuild_in_background(self: &Rc<Self>, partition: Rc<Partition>) {
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "rebuild indexes", async move {
            while let Some(base) = partition.with(|log| log.segments.iter().find(|s| s.rebuilding).map(|s| s.base)).flatten() {
                if let Err(error) = store.rebuild(&partition, base).await {
                    tracing::warn!(partition = %partition.dir_name(), segment = base, %error, "indexes are not made now, it is tried later");
                    store.rt.sleep(RETRY_AFTER).await;
                    if !store.is_running() {
                        return;
                    }
                }
                partition.changed.notify_all();
            }
        }));
    }

    /// Makes the indexes of one segment, if it is still there when they are known.
    async fn rebuild(self: &Rc<Self>, partition: &Rc<Partition>, base: i64) -> Result<(), StoreError> {
        let Some(generation) = partition.with(|log| log.generation) else { return Ok(()) };
        let (index, aborts) = self.scan_for_indexes(partition, base).await?;
        if !self.take_segments(partition).await {
            return Ok(());
        }
        let written = async {
            // Cut, deleted or compacted meanwhile: what was read may be of either side. If it is there, it is looked through again.
            if partition.with(|log| log.generation) != Some(generation) {
                return Ok(());
            }
            self.write_rebuilt(partition, base, &index).await?;
            let unknown =
                partition.with(|log| log.segments.iter().any(|s| s.base == base && s.txn_file == TxnFile::Unknown));
            let mut txn_file = None;
            if unknown == Some(true) {
                txn_file = Some(TxnFile::Missing);
                if aborts {
                    let bases = partition.with(|log| log.segments.iter().map(|s| s.base).collect::<Vec<_>>());
                    let made = self.rebuild_txn_indexes(partition, &bases.unwrap_or_default(), &[base]).await?;
                    txn_file = Some(TxnFile::Stale(made.first().map(|(_, note)| *note)));
                }
            }
            partition.with(|log| {
                let Some(segment) = log.segments.iter_mut().find(|s| s.base == base) else { return };
                segment.max_timestamp = Some(index.max.map_or(-1, |max| max.timestamp));
                segment.txn_file = txn_file.unwrap_or(segment.txn_file);
                segment.rebuilding = false;
                (segment.offsets_checked, segment.times_checked) = (true, true);
            });
            if txn_file.is_some() {
                let noted = self.note_txn_indexes(partition).await;
                noted.map_err(|e| {
                    StoreError::io("note which transaction indexes there are")(self.directory_failed(e))
                })?;
            }
            Ok(())
        };
        let written = written.await;
        partition.with(|log| log.flushing = false);
        partition.changed.notify_all();
        written
    }

    /// What the indexes of a segment should hold, and whether a transaction was aborted in it.
    pub(super) async fn scan_for_indexes(
        &self,
        partition: &Rc<Partition>,
        base: i64,
    ) -> Result<(IndexBuilder, bool), StoreError> {
        tracing::info!(partition = %partition.dir_name(), segment = base, "indexes are made from the batches");
        let interval = partition.spec.borrow().config.index_interval_bytes;
        let (mut index, mut aborts) = (IndexBuilder::new(base), false);
        self.scan_segment(partition, base, 0, |h, bytes, position| {
            aborts |= is_abort(h, bytes);
            let len = h.size_in_bytes() as u32;
            let timestamp = if h.record_count > 0 { h.max_timestamp } else { -1 };
            index.on_batch(h.base_offset.0, h.last_offset().0, timestamp, position, len, interval);
        })
        .await?;
        index.push_time();
        Ok((index, aborts))
    }

    /// Writes the indexes of a sealed segment, whole.
    pub(super) async fn write_rebuilt(
        &self,
        partition: &Partition,
        base: i64,
        index: &IndexBuilder,
    ) -> Result<(), StoreError> {
        for (kind, bytes) in
            [(FileKind::TimeIndex, &index.times.pending), (FileKind::OffsetIndex, &index.offsets.pending)]
        {
            let path = self.segment_path(partition, base, kind);
            self.files.forget(&path);
            self.indexes.borrow_mut().forget(&path);
            self.rt.write_file_atomic(&path, bytes).await.map_err(StoreError::io("write a rebuilt index"))?;
            self.indexes.borrow_mut().forget(&path);
        }
        Ok(())
    }
}
