//! What partitions did lately: bytes and requests, for who decides which core has which. Counted where batches are appended
//! and read, if anybody wants to know; nothing by record. Only partitions that did anything are looked at.

use super::types::ReadResult;
use super::{IdMap, LogStore};
use crate::controller::balance::PartitionLoad;
use crate::ids::PartitionId;
use bytes::Bytes;
use coreline_io::Runtime;
use std::cell::{Cell, RefCell};

/// Partitions that did something since somebody asked. Not in the partitions themselves, most of which are idle.
#[derive(Debug, Default)]
pub(super) struct Activity {
    counted: Cell<bool>,
    loads: RefCell<IdMap<PartitionLoad>>,
}

impl<R: Runtime> LogStore<R> {
    /// From now on it is counted what partitions do, or no longer.
    pub fn count_activity(&self, counted: bool) {
        self.activity.counted.set(counted);
    }

    /// What partitions did since this was called last; those that did nothing are left out.
    #[must_use]
    pub fn take_activity(&self) -> Vec<(PartitionId, PartitionLoad)> {
        self.activity.loads.take().into_iter().collect()
    }

    pub(super) fn was_used(&self, id: PartitionId, bytes_in: usize, bytes_out: usize) {
        if !self.activity.counted.get() {
            return;
        }
        let (bytes_in, bytes_out) = (bytes_in as u64, bytes_out as u64);
        self.activity.loads.borrow_mut().entry(id).or_default().add(PartitionLoad { bytes_in, bytes_out, requests: 1 });
    }

    pub(super) fn was_read(&self, id: PartitionId, result: &ReadResult) {
        if self.activity.counted.get() {
            self.was_used(id, 0, result.records.iter().map(Bytes::len).sum());
        }
    }
}
