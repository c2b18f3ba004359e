//! Marks of what is flushed: made when the journal is told of a flush, used by a load after a crash, which then reads a
//! segment from its last flushed batch on, and not whole.
//!
//! A mark is believed only if the batch that it names is where it says, and ends where it says: a segment that was
//! cut, compacted or put there by hand is read as if there were none.

use super::LogStore;
use super::index_builder::IndexBuilder;
use super::partition::{Log, Partition, TxnFile};
use super::types::StoreError;
use crate::log::batch;
use crate::log::segment::FileKind;
use crate::log::segment_mark::SegmentMark;
use bytes::Bytes;
use coreline_io::{File, Runtime};

/// Read at a mark at once: the last batch, and mostly all that follows it.
pub(super) const MARK_READ_BYTES: usize = 64 << 10;

/// The mark of all that is synced, if it can be made: what a flush under way has written is in the index already, and producers
/// and transactions are known at the log's end only.
pub(super) fn mark_of(log: &Log) -> Option<SegmentMark> {
    let segment = &log.segments[log.segment_of((log.flushed_end - 1).max(0))];
    let plain = log.synced_end == log.flushed_end
        && segment.on_disk
        && segment.txn_file == TxnFile::Missing
        && segment.aborted.is_empty()
        && log.producers.is_empty();
    let index = segment.index.as_ref().filter(|_| plain)?;
    index.mark(segment.first_timestamp?, log.bytes_since_snapshot)
}

impl<R: Runtime> LogStore<R> {
    /// The mark of the last segment, at `base`, its offset, and what is in the segment from its last batch on. `whole`: the
    /// segment, if it is here.
    pub(super) async fn read_at_mark(
        &self,
        partition: &Partition,
        base: i64,
        index: &IndexBuilder,
        whole: Option<&Bytes>,
    ) -> Result<Option<(SegmentMark, i64, Bytes)>, StoreError> {
        let told = self.told.borrow().get(&partition.id).and_then(|told| told.mark.clone());
        let Some((to, mark)) = told.filter(|(_, mark)| mark.base == base && index.fits(mark)) else { return Ok(None) };
        let bytes = match whole {
            Some(whole) => whole.slice((mark.last_batch as usize).min(whole.len())..),
            None => {
                let path = self.segment_path(partition, base, FileKind::Log);
                let file = self.files.get(&self.rt, &path, false).await.map_err(StoreError::io("open a segment"))?;
                let bytes = file.read_at(u64::from(mark.last_batch), MARK_READ_BYTES).await;
                bytes.map_err(StoreError::io("read a segment"))?
            }
        };
        let named = batch::parse_header(&bytes).is_ok_and(|header| {
            header.next_offset().0 == to
                && u64::from(mark.last_batch) + header.size_in_bytes() as u64 == u64::from(mark.position)
        });
        Ok(named.then_some((mark, to, bytes)))
    }
}
