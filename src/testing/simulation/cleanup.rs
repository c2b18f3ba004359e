//! What may leave a log, and what may not: retention, cuts, compaction. Pure; part of the oracle.

use crate::records::{self, RecordId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What a topic's settings let go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleanup {
    /// Its records have keys, and only the last one of each key is kept.
    pub(crate) compacted: bool,
    /// Older records go.
    pub(crate) retention_ms: Option<i64>,
    /// What is more than these bytes goes.
    pub(crate) retention_bytes: Option<u64>,
}

impl Cleanup {
    /// The log's start moves by itself.
    pub(crate) fn moves_start(&self) -> bool {
        self.retention_ms.is_some() || self.retention_bytes.is_some()
    }

    /// A record of this time may go at `now_ms`.
    pub(crate) fn may_go(&self, time: i64, now_ms: i64) -> bool {
        self.retention_bytes.is_some() || self.retention_ms.is_some_and(|limit| now_ms - time > limit)
    }
}

/// Offsets of a compacted log at which a reader found nothing, and when it was noticed.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    at: BTreeMap<i64, u64>,
}

impl Gone {
    pub(crate) fn contains(&self, offset: i64) -> bool {
        self.at.contains_key(&offset)
    }

    /// A fetch that was sent at `asked_at` found the records `there` in a range. An error is the offset of one that was
    /// gone before.
    pub(crate) fn read(
        &mut self,
        range: Range<i64>,
        there: &BTreeSet<i64>,
        asked_at: u64,
        now: u64,
    ) -> Result<(), i64> {
        let back = there.iter().find(|offset| self.at.get(offset).is_some_and(|gone_at| *gone_at <= asked_at));
        if let Some(offset) = back {
            return Err(*offset);
        }
        for offset in range.filter(|offset| !there.contains(offset)) {
            self.at.entry(offset).or_insert(now);
        }
        Ok(())
    }

    /// The last record of each key is there, unless it is a tombstone: `log` is all that was ever known of it, by
    /// offset. `open` has the records that were sent more often than they were seen.
    pub(crate) fn check(&self, log: impl Iterator<Item = (i64, RecordId)>, open: &[RecordId]) -> Result<(), String> {
        // Of those with the same key the last one stays in the map.
        let last: BTreeMap<u32, (i64, RecordId)> = log.map(|(offset, id)| (records::key(id), (offset, id))).collect();
        for (key, (offset, id)) in last {
            let deleted = |id: &RecordId| records::is_tombstone(*id) && records::key(*id) == key;
            // A tombstone that nobody saw may have deleted it, and be gone.
            if self.contains(offset) && !deleted(&id) && !open.iter().any(deleted) {
                return Err(format!("{id:?} at offset {offset} is the last of key {key}, and is gone"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(number: u32) -> RecordId {
        let id = RecordId { producer: 1, number };
        assert!(!records::is_tombstone(id));
        id
    }

    #[test]
    fn what_may_go_by_time_and_by_size() {
        let by_time = Cleanup { retention_ms: Some(100), ..Cleanup::default() };
        assert!(!by_time.may_go(1000, 1100) && by_time.may_go(1000, 1101));
        assert!(Cleanup { retention_bytes: Some(0), ..Cleanup::default() }.may_go(1000, 0));
        assert!(!Cleanup { compacted: true, ..Cleanup::default() }.may_go(0, i64::MAX));
    }

    #[test]
    fn what_is_gone_stays_gone() {
        let mut gone = Gone::default();
        gone.read(0..4, &BTreeSet::from([0, 3]), 7, 9).expect("1 and 2 are gone");
        gone.read(0..2, &BTreeSet::from([0, 1]), 8, 10).expect("asked before it was noticed");
        assert_eq!(gone.read(0..2, &BTreeSet::from([0, 1]), 9, 11), Err(1));
    }

    #[test]
    fn the_last_of_a_key_stays() {
        let all: Vec<RecordId> = (0..100).map(|number| RecordId { producer: 1, number }).collect();
        let same = |a: RecordId, b: RecordId| records::key(a) == records::key(b);
        let first = value(0);
        let later =
            *all.iter().find(|id| **id != first && same(**id, first) && !records::is_tombstone(**id)).expect("one");
        let tombstone = *all.iter().find(|id| same(**id, first) && records::is_tombstone(**id)).expect("one");
        let mut gone = Gone::default();
        gone.read(0..1, &BTreeSet::new(), 0, 1).expect("the first is gone");
        gone.check([(0, first), (1, later)].into_iter(), &[]).expect("there is a later one");
        gone.check([(0, first)].into_iter(), &[tombstone]).expect("somebody may have deleted it");
        gone.check([(0, tombstone)].into_iter(), &[]).expect("a tombstone goes");
        assert!(gone.check([(0, first)].into_iter(), &[later]).is_err());
        assert!(gone.check([(0, later), (1, first), (0, later)].into_iter(), &[]).is_err(), "the last is at 0");
    }
}
