//! Transactions as a cleaning meets them: data of aborted ones goes, and a marker goes when nothing is left that it marks.

use crate::ids::{Offset, ProducerId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::txn_index::AbortedTxn;
use crate::log::txn_marker::marker_type;
use std::collections::{BTreeMap, BTreeSet};

/// Fed with every batch of the copied range, in order.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    /// By first offset: not begun yet.
    aborted: BTreeMap<Offset, AbortedTxn>,
    /// Begun: does any of its data still exist?
    open_aborted: BTreeMap<ProducerId, (AbortedTxn, bool)>,
    /// Aborted ones whose marker stays.
    kept: Vec<AbortedTxn>,
    /// Producers whose transaction has data in the log and is not known to be aborted.
    open: BTreeSet<ProducerId>,
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl Transactions {
    /// With the aborted transactions that touch the range.
    #[must_use]
    pub fn new(aborted: impl IntoIterator<Item = AbortedTxn>) -> Self {
        Self { aborted: aborted.into_iter().map(|t| (t.first_offset, t)).collect(), ..Self::default() }
    }

    /// What the transaction index of the copied range is to hold: the aborted ones of which data was there, by their markers.
    pub fn take_kept(&mut self) -> Vec<AbortedTxn> {
        std::mem::take(&mut self.kept)
    }

    /// True if the batch's records may go: data of an aborted transaction, or a marker that marks nothing any more.
    pub fn on_batch(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> bool {
        while let Some(entry) = self.aborted.first_entry().filter(|e| *e.key() <= header.last_offset()) {
            let txn = entry.remove();
            self.open_aborted.insert(txn.producer_id, (txn, false));
        }
        if header.is_control() {
            return self.on_marker(header, bytes);
        }
        if !header.is_transactional() {
            return false;
        }
        if let Some((_, seen)) = self.open_aborted.get_mut(&header.producer_id) {
            *seen = true;
            return true;
        }
        self.open.insert(header.producer_id);
        false
    }

    fn on_marker(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> bool {
        let kind = batch::records(header, bytes).next().and_then(Result::ok).and_then(|r| r.key).and_then(marker_type);
        match kind {
            Some(ABORT) => match self.open_aborted.remove(&header.producer_id) {
                Some((txn, true)) => {
                    self.kept.push(txn);
                    false
                }
                _ => true,
            },
            Some(COMMIT) => !self.open.remove(&header.producer_id),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, ProducerEpoch};
    use crate::log::batch::BatchBuilder;

    fn on(transactions: &mut Transactions, producer: i64, offset: i64, marker: Option<i16>) -> bool {
        let attributes = if marker.is_some() { 0x30 } else { 0x10 };
        let mut builder =
            BatchBuilder::default().attributes(attributes).producer(ProducerId(producer), ProducerEpoch(0), 0);
        let key = marker.map_or_else(|| b"key".to_vec(), |kind| [[0, 0], kind.to_be_bytes()].concat());
        builder.push(1, Some(&key), Some(b"value"));
        let bytes = builder.build(Offset(offset), LeaderEpoch(0));
        transactions.on_batch(&batch::parse_header(&bytes).expect("a header"), &bytes)
    }

    #[test]
    fn a_marker_outlives_its_data() {
        let aborted = AbortedTxn {
            producer_id: ProducerId(1),
            first_offset: Offset(0),
            last_offset: Offset(2),
            last_stable_offset: Offset(1),
        };
        let mut t = Transactions::new([aborted]);
        assert!(on(&mut t, 1, 0, None), "data of the aborted one");
        assert!(!on(&mut t, 2, 1, None));
        assert!(!on(&mut t, 1, 2, Some(ABORT)), "its data was there");
        assert_eq!(t.take_kept(), [aborted]);
        assert!(!on(&mut t, 2, 3, Some(COMMIT)), "its data is there");
        assert!(!on(&mut t, 1, 4, None), "a new one");
        let mut again = Transactions::new([aborted]);
        assert!(on(&mut again, 1, 2, Some(ABORT)), "nothing is left of it");
        assert_eq!(again.take_kept(), []);
        assert!(on(&mut again, 2, 3, Some(COMMIT)));
        assert!(!on(&mut again, 2, 5, Some(7)), "a marker of a later version");
    }
}
