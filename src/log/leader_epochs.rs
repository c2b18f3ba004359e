//! Which leader epoch began at which offset: Kafka's `leader-epoch-checkpoint` (KIP-101).

use crate::ids::{LeaderEpoch, Offset};
use std::fmt::Write as _;

/// `epoch` wrote the records from `start` on, up to the next entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: LeaderEpoch,
    /// Its first offset.
    pub start: Offset,
}

/// The epochs of one log. Invariant: both numbers grow strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest epoch.
    #[must_use]
    pub fn latest(&self) -> Option<LeaderEpoch> {
        self.entries.last().map(|e| e.epoch)
    }

    /// Notes that a batch of `epoch` is at `offset`. True if that is news.
    pub fn note(&mut self, epoch: LeaderEpoch, offset: Offset) -> bool {
        if epoch.0 < 0 || self.entries.last().is_some_and(|l| l.epoch >= epoch) {
            return false;
        }
        self.entries.retain(|e| e.start < offset);
        self.entries.push(EpochStart { epoch, start: offset });
        true
    }

    /// The log was cut: `end` is the next offset. True if that changed something.
    pub fn truncate_from_end(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|e| e.start < end);
        self.entries.len() != before
    }

    /// The log begins at `start` now: older entries go, the one in force there moves up.
    pub fn truncate_from_start(&mut self, start: Offset) -> bool {
        let kept = self.entries.iter().rposition(|e| e.start <= start).unwrap_or(0);
        let mut changed = kept > 0;
        self.entries.drain(..kept);
        if let Some(first) = self.entries.first_mut().filter(|e| e.start < start) {
            first.start = start;
            changed = true;
        }
        changed
    }

    /// The epoch that wrote `offset`.
    #[must_use]
    pub fn epoch_of(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.entries.iter().rfind(|e| e.start <= offset).map(|e| e.epoch)
    }

    /// OffsetForLeaderEpoch: the largest epoch at or below `epoch` and the first offset after it.
    ///
    /// ```text
    /// entries (0 from 0) (2 from 10) (5 from 30), log end 40:   1 → (0, 10)   2 → (2, 30)   5 → (5, 40)   6 → none
    /// ```
    #[must_use]
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        if self.latest().is_none_or(|latest| epoch > latest) {
            return None;
        }
        let next = self.entries.iter().position(|e| e.epoch > epoch);
        let end = next.map_or(log_end, |i| self.entries[i].start);
        match next.unwrap_or(self.entries.len()).checked_sub(1) {
            Some(i) => Some((self.entries[i].epoch, end)),
            None => Some((epoch, end)),
        }
    }

    /// The file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = format!("0\n{}\n", self.entries.len());
        for e in &self.entries {
            let _ = writeln!(out, "{} {}", e.epoch, e.start);
        }
        out
    }

    /// Reads the file's text; `None` if it is damaged.
    #[must_use]
    pub fn decode(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != "0" {
            return None;
        }
        let count: usize = lines.next()?.parse().ok()?;
        let mut epochs = Self::default();
        for line in lines {
            let (epoch, start) = line.split_once(' ')?;
            let entry =
                EpochStart { epoch: LeaderEpoch(epoch.parse().ok()?), start: Offset(start.trim().parse().ok()?) };
            let grows = epochs.entries.last().is_none_or(|l| entry.epoch > l.epoch && entry.start > l.start);
            if !grows || entry.epoch.0 < 0 || entry.start.0 < 0 {
                return None;
            }
            epochs.entries.push(entry);
        }
        (epochs.entries.len() == count).then_some(epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> LeaderEpochs {
        let mut epochs = LeaderEpochs::default();
        assert!(epochs.note(LeaderEpoch(0), Offset(0)));
        assert!(!epochs.note(LeaderEpoch(0), Offset(5)));
        assert!(epochs.note(LeaderEpoch(2), Offset(10)));
        assert!(epochs.note(LeaderEpoch(5), Offset(30)));
        epochs
    }

    #[test]
    fn end_offsets_table() {
        let epochs = sample();
        let end = |e| epochs.end_offset_for(LeaderEpoch(e), Offset(40)).map(|(e, o)| (e.0, o.0));
        assert_eq!([end(0), end(1), end(2), end(4)], [Some((0, 10)), Some((0, 10)), Some((2, 30)), Some((2, 30))]);
        assert_eq!([end(5), end(6)], [Some((5, 40)), None]);
        assert_eq!(epochs.epoch_of(Offset(29)), Some(LeaderEpoch(2)));
    }

    #[test]
    fn truncation_table() {
        let mut epochs = sample();
        assert!(epochs.truncate_from_start(Offset(12)));
        assert_eq!(epochs.entries()[0], EpochStart { epoch: LeaderEpoch(2), start: Offset(12) });
        assert!(epochs.truncate_from_end(Offset(30)));
        assert_eq!(epochs.latest(), Some(LeaderEpoch(2)));
        assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs.clone()));
        assert_eq!(epochs.encode(), "0\n1\n2 12\n");
        assert!(epochs.note(LeaderEpoch(3), Offset(12)), "an epoch that wrote nothing is replaced");
        assert_eq!(epochs.entries().len(), 1);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_panic(text in "[0-9 \n-]{0,60}") {
            if let Some(epochs) = LeaderEpochs::decode(&text) {
                prop_assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs));
            }
        }
    }
}
