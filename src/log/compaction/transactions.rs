//! Transactions as a cleaning meets them: data of aborted ones goes, and a marker goes when nothing is left that it marks.

use crate::ids::ProducerId;
use crate::log::batch::{self, RecordBatchHeader};
use std::collections::{BTreeMap, BTreeSet};

/// An aborted transaction, as the transaction index names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose it was.
    pub producer: ProducerId,
    /// Its first record.
    pub first_offset: i64,
    /// Its marker.
    pub last_offset: i64,
}

/// Fed with every batch of the copied range, in order.
#[derive(Clone, Debug, Default)]
pub struct Transactions {
    /// By first offset: not begun yet.
    aborted: BTreeMap<i64, AbortedTransaction>,
    /// Begun: does any of its data still exist?
    open_aborted: BTreeMap<ProducerId, bool>,
    /// Producers whose transaction has data in the log and is not known to be aborted.
    open: BTreeSet<ProducerId>,
}

const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl Transactions {
    /// With the aborted transactions that touch the range.
    #[must_use]
    pub fn new(aborted: impl IntoIterator<Item = AbortedTransaction>) -> Self {
        Self { aborted: aborted.into_iter().map(|t| (t.first_offset, t)).collect(), ..Self::default() }
    }

    /// True if the batch's records may go: data of an aborted transaction, or a marker that marks nothing any more.
    pub fn on_batch(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> bool {
        while let Some(entry) = self.aborted.first_entry().filter(|e| *e.key() <= header.last_offset().0) {
            self.open_aborted.insert(entry.remove().producer, false);
        }
        if header.is_control() {
            return self.on_marker(header, bytes);
        }
        if !header.is_transactional() {
            return false;
        }
        if let Some(seen) = self.open_aborted.get_mut(&header.producer_id) {
            *seen = true;
            return true;
        }
        self.open.insert(header.producer_id);
        false
    }

    fn on_marker(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> bool {
        let kind = batch::records(header, bytes).next().and_then(Result::ok).and_then(|r| r.key).and_then(marker_kind);
        match kind {
            Some(ABORT) => self.open_aborted.remove(&header.producer_id) != Some(true),
            Some(COMMIT) => !self.open.remove(&header.producer_id),
            _ => false,
        }
    }
}

/// The key of a marker: version, type.
fn marker_kind(key: &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(key.get(2..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch};
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
        let aborted = AbortedTransaction { producer: ProducerId(1), first_offset: 0, last_offset: 2 };
        let mut t = Transactions::new([aborted]);
        assert!(on(&mut t, 1, 0, None), "data of the aborted one");
        assert!(!on(&mut t, 2, 1, None));
        assert!(!on(&mut t, 1, 2, Some(ABORT)), "its data was there");
        assert!(!on(&mut t, 2, 3, Some(COMMIT)), "its data is there");
        assert!(!on(&mut t, 1, 4, None), "a new one");
        let mut again = Transactions::new([aborted]);
        assert!(on(&mut again, 1, 2, Some(ABORT)), "nothing is left of it");
        assert!(on(&mut again, 2, 3, Some(COMMIT)));
        assert!(!on(&mut again, 2, 5, Some(7)), "a marker of a later version");
    }
}
