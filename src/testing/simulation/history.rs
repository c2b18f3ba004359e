//! Cycles in a history of transactions that append to logs and read them: Adya's G0 and G1c, as far as Kafka's
//! transactions promise them. Pure.
//!
//! Kafka orders nothing between transactions that run at a time: their records lie in each log as they came, so that two
//! may be in different orders in two logs. What must not be is
//!
//! | anomaly | a cycle of |
//! | --- | --- |
//! | G0 | *is before it in a log* and *ended before it began* |
//! | G1c | *was read by it* and *ended before it began* |
//!
//! A cycle of the first kind is one of two transactions: who has a record in front of another one's began before that
//! one ended, and so on around a longer one. `book` watches for aborted reads (G1a) and intermediate ones (G1b) as they
//! happen.

use std::collections::{BTreeMap, BTreeSet};

/// The producer and its transaction's number.
pub(crate) type Name = (u32, u32);

/// A committed transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Committed {
    /// When its first request was sent.
    pub(crate) begun: u64,
    /// When the answer to its end came; none if none did.
    pub(crate) ended: Option<u64>,
    /// Log and offset of each of its records.
    pub(crate) appends: Vec<(i32, i64)>,
    /// Whose records it was given.
    pub(crate) reads: BTreeSet<Name>,
}

/// A transaction that ended before another began has its records behind that one's: both, and the log.
pub(crate) fn g0(history: &BTreeMap<Name, Committed>) -> Option<(Name, Name, i32)> {
    let mut logs: BTreeMap<i32, Vec<(i64, Name)>> = BTreeMap::new();
    for (name, transaction) in history {
        for (log, offset) in &transaction.appends {
            logs.entry(*log).or_default().push((*offset, *name));
        }
    }
    for (log, mut records) in logs {
        records.sort_unstable();
        // Of those so far, who began last.
        let mut latest: Option<(u64, Name)> = None;
        for (_, name) in records {
            let Committed { begun, ended, .. } = history[&name];
            if let Some((began, later)) = latest.filter(|(began, _)| ended.is_some_and(|ended| ended < *began)) {
                debug_assert!(began > begun, "{later:?} began after {name:?} had ended");
                return Some((name, later, log));
            }
            latest = latest.max(Some((begun, name)));
        }
    }
    None
}

/// A cycle of transactions each of which was read by the next, or ended before it began.
pub(crate) fn g1c(history: &BTreeMap<Name, Committed>) -> Option<Vec<Name>> {
    // Takes away, again and again, who has nobody before itself. What is left has a cycle, or hangs behind one.
    let mut left: BTreeMap<Name, &Committed> = history.iter().map(|(name, t)| (*name, t)).collect();
    loop {
        let first_end = left.values().filter_map(|t| t.ended).min();
        let has_before = |name: &Name, t: &Committed| {
            // Its own end is no earlier than its beginning.
            first_end.is_some_and(|end| end < t.begun) || t.reads.iter().any(|r| r != name && left.contains_key(r))
        };
        let free: Vec<Name> = left.iter().filter(|(name, t)| !has_before(name, t)).map(|(name, _)| *name).collect();
        if left.is_empty() {
            return None;
        }
        if free.is_empty() {
            return Some(cycle(&left));
        }
        left.retain(|name, _| !free.contains(name));
    }
}

/// Each of `left` has somebody before itself: going back from any leads into a cycle.
fn cycle(left: &BTreeMap<Name, &Committed>) -> Vec<Name> {
    let before = |name: Name| {
        let this = left[&name];
        let ended = |other: &Committed| other.ended.is_some_and(|end| end < this.begun);
        let read = this.reads.iter().find(|r| **r != name && left.contains_key(r));
        *read.unwrap_or_else(|| left.iter().find(|(_, other)| ended(other)).expect("somebody is before it").0)
    };
    let mut way = vec![*left.keys().next().expect("some are left")];
    loop {
        let next = before(way[way.len() - 1]);
        if let Some(place) = way.iter().position(|name| *name == next) {
            way.drain(..place);
            way.reverse();
            return way;
        }
        way.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(begun: u64, ended: u64, appends: &[(i32, i64)], reads: &[Name]) -> Committed {
        Committed { begun, ended: Some(ended), appends: appends.to_vec(), reads: reads.iter().copied().collect() }
    }

    fn history(all: &[(u32, Committed)]) -> BTreeMap<Name, Committed> {
        all.iter().map(|(producer, t)| ((*producer, 0), t.clone())).collect()
    }

    #[test]
    fn transactions_at_a_time_may_lie_in_any_order() {
        let two = [(1, one(1, 9, &[(0, 0), (1, 3)], &[])), (2, one(2, 8, &[(0, 1), (1, 2)], &[]))];
        assert_eq!((g0(&history(&two)), g1c(&history(&two))), (None, None));
    }

    #[test]
    fn records_of_who_ended_first_lie_first() {
        let two = [(1, one(1, 3, &[(0, 0), (1, 3)], &[])), (2, one(4, 8, &[(0, 1), (1, 2)], &[]))];
        assert_eq!(g0(&history(&two)), Some(((1, 0), (2, 0), 1)));
        let between = (3, one(2, 9, &[(1, 1), (1, 5)], &[]));
        assert_eq!(g0(&history(&[two[0].clone(), two[1].clone(), between])), Some(((1, 0), (2, 0), 1)));
        let right = [(1, one(1, 3, &[(0, 0), (1, 1)], &[])), (2, one(4, 8, &[(0, 1), (1, 2)], &[]))];
        assert_eq!(g0(&history(&right)), None);
        let unknown = [(1, Committed { ended: None, ..two[0].1.clone() }), two[1].clone()];
        assert_eq!(g0(&history(&unknown)), None, "it may have ended later");
    }

    #[test]
    fn nobody_reads_in_a_circle() {
        let three = |last: &[Name]| {
            [
                (1, one(1, 9, &[], last)),
                (2, one(2, 9, &[], &[(1, 0)])),
                (3, one(3, 9, &[], &[(2, 0), (3, 0)])),
                (4, one(10, 11, &[], &[(3, 0)])),
            ]
        };
        assert_eq!(g1c(&history(&three(&[]))), None, "its own records count for nothing");
        assert_eq!(g1c(&history(&three(&[(3, 0)]))), Some(vec![(2, 0), (3, 0), (1, 0)]));
        assert_eq!(g1c(&history(&three(&[(7, 0)]))), None, "not a transaction of the history");
    }

    #[test]
    fn nobody_reads_who_begins_later() {
        let two = [(1, one(1, 3, &[], &[(2, 0)])), (2, one(4, 8, &[], &[]))];
        let found = g1c(&history(&two)).expect("a cycle");
        assert_eq!(found.len(), 2, "{found:?}");
    }
}
