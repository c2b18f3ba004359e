//! Appends to several partitions that are committed together: in the frame of one group commit, or not at all.
//!
//! A transaction's records follow from each other over partitions: that one has begun and its first batch; that its end is
//! decided, the markers, that it is complete. Each may count only if the one before does, but nobody has to wait for the
//! disk in between when all are in one frame, which a crash keeps or loses as a whole.
//!
//! ```text
//! one call:  append to a, append to b, join(a, b)      next group: [a's part │ b's part │ …whatever else waits]
//!                                                      refused (full disk): both are taken back
//! ```
//!
//! Invariant: a log that is joined is not written past the journal, and the next group takes it.

use super::journal_writer::Group;
use super::partition::{Commit, Partition, Payload};
use super::types::{Acks, AppendOrigin, TxnMarker};
use super::{LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use coreline_io::{IoError, Runtime};
use futures_util::FutureExt;
use std::cell::{Cell, RefCell};
use std::num::NonZeroI64;
use std::rc::Rc;

/// What goes into the next group together.
#[derive(Debug, Default)]
pub(super) struct Joined {
    partitions: RefCell<Vec<Rc<Partition>>>,
    /// Bytes of it, at least.
    bytes: Cell<usize>,
}

impl Joined {
    pub(super) fn is_empty(&self) -> bool {
        self.partitions.borrow().is_empty()
    }

    fn take(&self) -> (Vec<Rc<Partition>>, usize) {
        (self.partitions.take(), self.bytes.take())
    }
}

impl<R: Runtime> LogStore<R> {
    /// True if what is appended to these partitions in this very call, `bytes` in all, may be [joined](Self::join).
    pub(crate) fn can_join(&self, ids: &[PartitionId], bytes: usize) -> bool {
        if self.state.get() != StoreState::Open || bytes >= self.options.direct_bytes_min {
            return false;
        }
        let mut all = self.writer.joined.bytes.get() + bytes;
        for id in ids {
            let Some(partition) = self.partition(*id) else { return false };
            let waiting = partition.with(|log| {
                // Large amounts go straight to segments, and what is there and not synced keeps the journal away.
                let journaled = log.commit != Commit::Direct && log.unsynced_bytes == 0 && !log.held;
                journaled.then_some(if log.joined_end.is_some() { 0 } else { log.waiting_bytes })
            });
            let Some(waiting) = waiting.flatten().filter(|_| partition.intakes.is_empty()) else { return false };
            all += waiting;
        }
        all <= self.options.group_bytes_max
    }

    /// What waits in these partitions goes into one group, or is refused together. `bytes`: what was appended to them in this
    /// call, after [`Self::can_join`] was asked about it.
    pub(crate) fn join(&self, ids: &[PartitionId], bytes: usize) {
        let joined = &self.writer.joined;
        let mut all = bytes;
        for partition in ids.iter().filter_map(|id| self.partition(*id)) {
            let news = partition.with(|log| {
                assert!(log.commit != Commit::Direct, "what is joined goes through the journal");
                let news = log.joined_end.is_none();
                log.joined_end = NonZeroI64::new(log.log_end);
                news.then_some(log.waiting_bytes)
            });
            if let Some(waiting) = news.flatten() {
                all += waiting;
                joined.partitions.borrow_mut().push(partition);
            }
        }
        joined.bytes.set(joined.bytes.get() + all);
        self.writer.wake.notify_all();
    }

    /// True if an append of these records is in the log when the call returns, or refused.
    pub(crate) fn takes_at_once(&self, id: PartitionId, records: &[u8]) -> bool {
        self.partition(id).is_some_and(|partition| partition.is_ready() && !Self::needs_helper(&partition, records))
    }

    /// Where a partition's log ends, acknowledged or not; none while it is not loaded.
    pub(crate) fn appended_end(&self, id: PartitionId) -> Option<i64> {
        self.partition(id)?.with(|log| log.log_end)
    }

    /// Appends markers, to be joined. False if one was not taken, or is there already.
    pub(crate) fn append_markers(self: &Rc<Self>, markers: Vec<TxnMarker>, now_ms: i64) -> bool {
        let origin = AppendOrigin { acks: Acks::Local, now_ms };
        self.repeat_markers(&markers, origin);
        let mut all = true;
        for marker in markers {
            all &= self.enqueue(marker.partition, Payload::Marker(marker), origin).now_or_never().is_none();
        }
        all
    }

    /// Puts what is joined into a group, which is the next.
    pub(super) fn take_joined(&self, group: &mut Group) {
        let (partitions, bytes) = self.writer.joined.take();
        let mut room = self.options.group_bytes_max.saturating_sub(bytes);
        for partition in partitions {
            let limit = partition.with(|log| {
                assert_eq!(log.commit, Commit::Idle, "what is joined waits for the next group");
                let end = log.joined_end.take().map(NonZeroI64::get).filter(|end| *end > log.submitted_end)?;
                // The rest of what waits, where there is room for it.
                let all = log.waiting_bytes <= room;
                room -= if all { log.waiting_bytes } else { 0 };
                Some(if all { log.log_end } else { end })
            });
            if let Some(limit) = limit.flatten() {
                self.add_member(group, partition, limit);
            }
        }
    }

    /// A group was refused: what was to follow it is not to come without it.
    pub(super) fn refuse_joined(&self, error: &IoError) {
        for partition in self.writer.joined.take().0 {
            partition.with(|log| log.undo_uncommitted(ErrorCode::KafkaStorageError, &error.to_string()));
            partition.changed.notify_all();
        }
    }

    /// Waits until nothing of a partition is joined.
    pub(super) async fn joined_is_committed(&self, partition: &Partition) {
        loop {
            let changed = partition.changed.notified();
            if partition.with(|log| log.joined_end.is_none() && log.commit != Commit::Journal).unwrap_or(true) {
                return;
            }
            changed.await;
        }
    }
}
