//! How long the journal may get: a start after a crash is to take no longer than `coreline.recovery.max.ms`.
//!
//! What such a start would find is looked at when a lap of the journal begins; the plan is pure
//! ([`crate::log::recovery_time`]). Above its share the oldest lap's batches go to their segments, some at a time, as always when
//! nobody waits; a quarter above it as fast as they can. Laps are freed whole, so one file is the least.

use super::LogStore;
use super::partition::{Log, Partition};
use crate::log::recovery_time::{RecoveryCosts, Remains};
use coreline_io::Runtime;
use std::cell::Cell;
use std::time::Duration;

/// The journal's share of a start.
#[derive(Debug)]
pub(super) struct Budget {
    costs: RecoveryCosts,
    journal_bytes: Cell<u64>,
}

impl Budget {
    pub(super) fn new(costs: RecoveryCosts) -> Self {
        Self { costs, journal_bytes: Cell::new(u64::MAX) }
    }
}

/// Bytes of a journal file: some of them must fit into what a start may read, before there are partitions.
pub(super) fn file_bytes(costs: &RecoveryCosts, target: Duration, files: usize, asked: u64, least: u64) -> u64 {
    let share = costs.journal_bytes_max(target, Remains::default()) / files as u64;
    let block = coreline_io::BLOCK as u64;
    asked.min(share.max(least).next_multiple_of(block))
}

/// Nothing of it is on disk: a load finds no directory.
fn is_empty(log: &Log) -> bool {
    log.segments.iter().all(|s| !s.on_disk)
}

impl<R: Runtime> LogStore<R> {
    /// What a start would find if the process died now.
    pub(super) fn remains(&self) -> Remains {
        let mut remains = Remains { journal_bytes: self.journal.held_bytes(), ..Remains::default() };
        for partition in self.partitions.borrow().values() {
            let known = |p: &Partition| p.stated.get() || p.with(|log| is_empty(log)) == Some(true);
            *if known(partition) { &mut remains.known } else { &mut remains.unknown } += 1;
        }
        remains
    }

    /// Shares the time out anew.
    pub(super) fn plan_recovery(&self) {
        let remains = self.remains();
        let target = self.options.recovery_max;
        let bytes = self.budget.costs.journal_bytes_max(target, remains).max(self.journal.file_bytes());
        self.budget.journal_bytes.set(bytes);
        let estimate = self.budget.costs.estimate(remains);
        tracing::debug!(?remains, ?estimate, journal_bytes_max = bytes, "recovery is planned");
    }

    /// The journal has more than its share.
    pub(super) fn journal_is_long(&self) -> bool {
        self.journal.held_bytes() > self.budget.journal_bytes.get()
    }

    /// … by so much that it does not wait for pauses.
    pub(super) fn journal_is_too_long(&self) -> bool {
        let share = self.budget.journal_bytes.get();
        self.journal.held_bytes() > share.saturating_add(share / 4)
    }
}
