//! Compaction on demand: one partition, now, whatever the dirty ratio, up to the end that the log has when it is asked for.
//!
//! The active segment is closed for it: at once if nobody writes, else before the next batch. What is younger than
//! `min.compaction.lag.ms`, or of an open transaction, stays as it is, as ever.

use super::super::{LogStore, ReadError};
use super::{Assessment, CleanError};
use crate::broker::store::partition::Partition;
use crate::broker::store::types::CompactionState;
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use coreline_io::Runtime;
use std::rc::Rc;
use std::time::Duration;

/// From one look at a partition that is being written, and whose active segment is to be closed, to the next.
const LOOK_AGAIN_MS: i64 = 100;

impl<R: Runtime> LogStore<R> {
    /// Compacts a partition now. Answers before that is done: [`LogStore::compaction_state`] says how far it is.
    ///
    /// # Errors
    /// As [`LogStore::read`], and `POLICY_VIOLATION` for a topic that is not compacted.
    pub async fn compact_now(self: &Rc<Self>, id: PartitionId) -> Result<CompactionState, ReadError> {
        let partition = self.loaded(id).await?;
        if !partition.spec.borrow().config.compacted {
            let message = format!("{}: cleanup.policy has no compact", partition.dir_name());
            return Err(ReadError::new(ErrorCode::PolicyViolation, message));
        }
        let _ = self.checkpoint(&partition).await;
        let high_watermark = self.with_log(&partition, |log, _| log.high_watermark)?;
        self.cleaner.asked.borrow_mut().insert(id, high_watermark);
        self.cleaner.try_again(id);
        // Without a wait since the wish: who asks is told the end that the compaction will reach, not a later one.
        self.compaction_state_now(&partition)
    }

    /// How far the compaction of a partition is.
    ///
    /// # Errors
    /// As [`LogStore::read`].
    pub async fn compaction_state(self: &Rc<Self>, id: PartitionId) -> Result<CompactionState, ReadError> {
        let partition = self.loaded(id).await?;
        // Only what was read once is known.
        let _ = self.checkpoint(&partition).await;
        self.compaction_state_now(&partition)
    }

    fn compaction_state_now(&self, partition: &Partition) -> Result<CompactionState, ReadError> {
        let pending = self.cleaner.asked.borrow().contains_key(&partition.id);
        let failure = self.cleaner.aside.borrow().get(&partition.id).cloned();
        self.with_log(partition, |log, _| CompactionState {
            pending,
            log_start: Offset(log.log_start),
            compacted_end: Offset(log.cleaned_end.unwrap_or(0).max(log.log_start)),
            high_watermark: Offset(log.high_watermark),
            failure,
        })
    }

    /// Until the next partition that somebody asked for is due.
    pub(super) fn until_asked(&self) -> Option<Duration> {
        let (asked, due) = (self.cleaner.asked.borrow(), self.cleaner.due.borrow());
        let first = asked.keys().filter_map(|id| due.get(id)).min()?;
        Some(Duration::from_millis(u64::try_from(first.saturating_sub(self.rt.wall_ms())).unwrap_or(0)))
    }

    /// What there is to clean in a partition; where somebody asked for it, anything is worth it.
    pub(super) async fn assess_with_wish(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
    ) -> Result<(Assessment, u64), CleanError> {
        let asked = self.cleaner.asked.borrow().get(&partition.id).copied();
        let Some(target) = asked else { return self.assess_partition(partition).await };
        if !partition.is_ready() {
            self.load(partition).await.map_err(|e| CleanError::Later(e.message))?;
        }
        let closed = self.close_before(partition, target).await?;
        let (mut found, generation) = self.assess_partition(partition).await?;
        let reached = found.first_dirty >= target || found.dirty_bytes == 0;
        if !reached {
            found.wanted = true;
        } else if closed {
            self.cleaner.forget_wish(partition.id, target);
        } else {
            let again = self.rt.wall_ms() + LOOK_AGAIN_MS;
            found.look_again_ms = Some(found.look_again_ms.map_or(again, |at| at.min(again)));
        }
        Ok((found, generation))
    }

    /// Closes the active segment if it holds offsets below `target`. False: it will be before the next batch.
    async fn close_before(self: &Rc<Self>, partition: &Rc<Partition>, target: i64) -> Result<bool, CleanError> {
        let open = partition.with(|log| {
            let open = log.active().base < target && log.active().size > 0;
            log.close_active |= open;
            open.then_some(log.log_end)
        });
        let Some(end) = open.ok_or(CleanError::Changed)? else { return Ok(true) };
        let closed = self.roll_at(partition, end).await.map_err(|e| self.clean_failed(&e))?;
        Ok(closed || partition.with(|log| log.active().base >= target).ok_or(CleanError::Changed)?)
    }
}
