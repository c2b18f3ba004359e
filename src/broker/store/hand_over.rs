//! A partition leaves for another shard: everything of it goes into its segments, and the journal says that what it has of it
//! counts no more. The other shard opens it as after a clean end.
//!
//! ```text
//! withdraw: no request finds it any more         → what was appended is committed → held
//!   → segments, indexes, producers, start: durable → the journal: nothing before this counts → gone
//! ```
//! Until it is gone it is in the map, whoever flushes finds it, and nobody who waits for the journal has its segments: the
//! journal may wait for room that only a flush of this partition makes.
//!
//! The mark must be durable before the other shard writes its first batch: frames of this journal must never be replayed over
//! what came later, should the partition come back. Who owns it is said by the metadata alone; until that says so it is
//! this shard's, which can take it [back](LogStore::take_back) at any time. A crash at any point finds everything that was
//! acknowledged in the segments, or in the journal of the shard that the metadata names.

use super::partition::{Log, Partition, Phase};
use super::types::StoreError;
use super::{LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use crate::log::journal::Entry;
use crate::log::producer_state::ProducerStates;
use crate::log::verification::Verifications;
use coreline_io::{IoResult, Runtime};
use std::rc::Rc;
use std::time::Duration;

/// From one look to the next, where nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// What goes along that no file has: it is the log's as it is when it is opened, before anything is appended.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Where the log ends.
    end: i64,
    producers: ProducerStates,
    verifications: Verifications,
}

impl Handed {
    /// Gives a log that was just loaded what goes along.
    pub(super) fn put_into(self, log: &mut Log) {
        if log.log_end == self.end {
            log.producers = self.producers;
            log.verifications = self.verifications;
        }
    }
}

/// A partition that nobody finds in its store any more.
#[derive(Debug)]
pub struct Withdrawn(Rc<Partition>);

impl<R: Runtime> LogStore<R> {
    /// The partition is this store's.
    #[must_use]
    pub fn has(&self, id: PartitionId) -> bool {
        self.partition(id).is_some()
    }

    /// Hides a partition: from now on it is unknown to who asks for it. What is under way goes on.
    pub fn withdraw(&self, id: PartitionId) -> Option<Withdrawn> {
        let partition = self.partition(id)?;
        partition.leaving.set(true);
        Some(Withdrawn(partition))
    }

    /// A partition that was withdrawn is found again.
    pub fn put_back(&self, withdrawn: Withdrawn) {
        let Withdrawn(partition) = withdrawn;
        partition.leaving.set(false);
        if partition.spec.borrow().config.compacted {
            // The cleaner did not find it.
            self.cleaner.try_again(partition.id);
        }
        partition.changed.notify_all();
        self.progress.notify_all();
    }

    /// A partition that is to be deleted; one that is leaving has left before, or stays.
    pub(super) async fn take_out(&self, id: PartitionId) -> Option<Rc<Partition>> {
        loop {
            let progress = self.progress.notified();
            match self.resident(id) {
                None => return self.departed.borrow_mut().remove(&id),
                Some(here) if !here.leaving.get() => return self.partitions.borrow_mut().remove(&id),
                Some(_) => progress.await,
            }
        }
    }

    /// Brings everything of a partition into its segments and lets go of it. Call it when no request for it is under way.
    /// Gives what goes along.
    ///
    /// # Errors
    /// The disk's, or the store is stopping: the partition is this shard's again. Also where a compaction waits for room on the disk
    /// in the middle of a swap.
    pub async fn hand_over(self: &Rc<Self>, withdrawn: Withdrawn) -> Result<Handed, StoreError> {
        let handed = self.hand_over_partition(&withdrawn.0).await;
        if handed.is_err() {
            self.put_back(withdrawn);
        }
        handed
    }

    async fn hand_over_partition(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<Handed, StoreError> {
        let context = || StoreError::io(format!("hand {} over", partition.dir_name()));
        // A swap has the segments and comes to its end. Where that takes room that the disk may never have, clients are not to wait.
        self.swap_is_over(partition).await.map_err(context())?;
        // What is not settled, or in the journal of an earlier life only, becomes so.
        let loaded = self.load(partition).await;
        loaded.map_err(|error| StoreError::Corrupt(error.message))?;
        self.all_committed(partition).await?;
        self.flush_partition(partition).await.map_err(context())?;
        self.hold(partition).await;
        let refuse = |log: &mut Log| {
            // Ends of transactions that came meanwhile: their coordinator writes them where the partition is then.
            log.undo_uncommitted(ErrorCode::NotLeaderOrFollower, "the partition moves to another core");
        };
        partition.with(refuse);
        if let Err(error) = self.finish_held(partition).await {
            self.let_go(partition);
            return Err(context()(error));
        }
        // Commits stay away; a flush finds nothing to do, and must not wait here for the journal, which may wait for it.
        partition.with(|log| log.flushing = false);
        partition.changed.notify_all();
        if let Err(code) = self.journal_entry(Entry::Deleted { partition: partition.id }).await {
            self.let_commit(partition);
            return Err(StoreError::Refused(code));
        }
        self.take_segments(partition).await;
        partition.with(refuse);
        let handed = partition.with_phase(|phase| match std::mem::replace(phase, Phase::Deleted) {
            Phase::Ready(log) => {
                let Log { log_end, producers, verifications, .. } = *log;
                Ok(Handed { end: log_end, producers, verifications })
            }
            _ => Err(StoreError::Stopped),
        })?;
        // Should it come back.
        self.expect(partition.id, handed.clone());
        self.journal.release_all(partition.id);
        self.forget_files(&self.dir(partition));
        partition.changed.notify_all();
        self.cleaner.has_left(partition.id).await;
        self.partitions.borrow_mut().remove(&partition.id);
        self.departed.borrow_mut().insert(partition.id, Rc::clone(partition));
        self.progress.notify_all();
        Ok(handed)
    }

    /// Waits until what was appended is committed, or refused, and moves of the start are done.
    async fn all_committed(&self, partition: &Rc<Partition>) -> Result<(), StoreError> {
        loop {
            let changed = partition.changed.notified();
            if self.state.get() != StoreState::Open {
                return Err(StoreError::Stopped);
            }
            let waits = !partition.intakes.is_empty();
            match partition.with(|log| log.committed_end < log.log_end) {
                _ if waits => self.rt.sleep(LOOK_AGAIN).await,
                Some(true) => changed.await,
                _ if self.writer.starts.borrow().contains(&partition.id) => changed.await,
                _ => return Ok(()),
            }
        }
    }

    /// All that a load after a clean end finds: the last segment at its exact length, its indexes, producers, the log's start.
    async fn finish_held(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        if partition.with(|log| log.dir_made || log.log_start_dirty) != Some(true) {
            return Ok(());
        }
        let base = partition.with(|log| {
            let end = log.log_end;
            if log.touched && log.snapshots.last() != Some(&end) {
                let snapshot = log.producers.encode_snapshot();
                log.pending_snapshots.push_back((end, snapshot));
            }
            log.touched.then(|| log.active().base)
        });
        if let Some(base) = base.flatten() {
            self.complete_files(partition, base).await?;
        }
        // The snapshot; and a start, should it have been journaled since the flush.
        self.sync_segments(partition).await?;
        // What the journal has of it is of no use from here on, and keeps nobody waiting.
        self.release_synced(&[partition], false).await
    }

    /// The partition did not leave: it is loaded again when it is used. False: it is here, or was never.
    pub fn take_back(&self, id: PartitionId) -> bool {
        let Some(departed) = self.departed.borrow_mut().remove(&id) else { return false };
        let spec = departed.spec.borrow().clone();
        self.assign(spec);
        true
    }

    /// The move is over: what is not here is another shard's.
    pub fn move_is_over(&self, id: PartitionId) {
        self.departed.borrow_mut().remove(&id);
        self.arriving.borrow_mut().remove(&id);
    }

    /// The next load of this partition gets what goes along.
    pub fn expect(&self, id: PartitionId, handed: Handed) {
        self.arriving.borrow_mut().insert(id, handed);
    }
}
