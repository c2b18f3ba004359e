//! What metrics show of the partitions of a shard: looked at a few at a time, so that a hundred thousand hold nobody up.

use super::partition::{Log, Partition};
use super::{LogStore, StoreStats};
use crate::ids::{PartitionId, TopicId};
use crate::metrics::Times;
use coreline_io::Runtime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions that cannot be compacted, of which at most so many are named.
const NAMED_MAX: usize = 1000;

/// What was appended to a topic on this shard, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicIntake {
    /// Bytes of batches.
    pub bytes: u64,
    /// Records.
    pub records: u64,
}

/// The partitions of a shard, summed up.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// How many there are.
    pub partitions: u64,
    /// Of them in memory.
    pub loaded: u64,
    /// … and those that could not be loaded.
    pub failed: u64,
    /// Segments of loaded ones.
    pub segments: u64,
    /// Transactions open in loaded ones.
    pub open_transactions: u64,
    /// Loaded ones with a transaction that is open for too long.
    pub late: u64,
    /// Bytes in the segments of loaded partitions, by topic.
    pub log_bytes: BTreeMap<TopicId, u64>,
    /// What was appended.
    pub intake: Vec<(TopicId, TopicIntake)>,
    /// Partitions that cannot be compacted: topic and index.
    pub uncleanable: Vec<(Arc<str>, i32)>,
    /// Partitions that the cleaner will look at.
    pub compaction_waiting: u64,
    /// The store's counters.
    pub stats: StoreStats,
    /// How long group commits took.
    pub flush_times: Times,
}

impl<R: Runtime> LogStore<R> {
    /// Looks at every partition, and lets others run in between. Transactions open since before `late_before_ms` (wall
    /// clock) are late; `known` says which topics there still are.
    pub async fn survey(&self, late_before_ms: i64, known: impl Fn(TopicId) -> bool) -> Survey {
        let ids: Vec<PartitionId> = self.partitions.borrow().keys().copied().collect();
        let mut survey = Survey { partitions: ids.len() as u64, ..Survey::default() };
        for id in ids {
            if let Some(partition) = self.resident(id) {
                survey.failed += u64::from(partition.load_error.borrow().is_some());
                partition.with(|log| survey.look_at(&partition, log, late_before_ms));
            }
            self.pause().await;
        }
        let topics: Vec<TopicId> = self.intake.borrow().keys().copied().collect();
        for id in topics {
            if known(id) {
                survey.intake.extend(self.intake.borrow().get(&id).map(|intake| (id, *intake)));
            } else {
                self.intake.borrow_mut().remove(&id);
            }
            self.pause().await;
        }
        survey.uncleanable = self.uncleanable(NAMED_MAX);
        survey.compaction_waiting = self.cleaner.waiting_len() as u64;
        survey.stats = self.stats();
        survey.flush_times = self.flush_times.borrow().clone();
        survey
    }

    async fn pause(&self) {
        if self.rt.should_yield() {
            self.rt.yield_now().await;
        }
    }

    /// Partitions that cannot be compacted, at most so many.
    #[must_use]
    pub fn uncleanable(&self, most: usize) -> Vec<(Arc<str>, i32)> {
        let named = |id| self.resident(id).map(|p| (p.spec.borrow().topic.clone(), p.id.index.0));
        self.cleaner.aside_ids(most).into_iter().filter_map(named).collect()
    }

    /// Notes what was appended.
    pub(super) fn took_in(&self, topic: TopicId, bytes: usize, records: i64) {
        let mut all = self.intake.borrow_mut();
        let intake = all.entry(topic).or_default();
        intake.bytes += bytes as u64;
        intake.records += u64::try_from(records).unwrap_or(0);
    }
}

impl Survey {
    fn look_at(&mut self, partition: &Partition, log: &Log, late_before_ms: i64) {
        self.loaded += 1;
        self.segments += log.segments.len() as u64;
        *self.log_bytes.entry(partition.id.topic).or_default() += log.size();
        let mut late = false;
        for (_, producer) in log.producers.open_transactions() {
            self.open_transactions += 1;
            late |= log.producers.get(producer).is_some_and(|entry| entry.last_timestamp < late_before_ms);
        }
        self.late += u64::from(late);
    }
}
