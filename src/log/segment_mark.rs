//! What a load would find out by reading a segment: said to the journal with each flush, so that a start after a crash
//! reads only what follows it.
//!
//! ```text
//! mark  0 segment base i64   8 position u32   12 last batch u32   16 first timestamp i64   24 max timestamp i64   32 offset of it i64
//!       40 bytes since a snapshot u64   48 bytes of .index u32   52 bytes of .timeindex u32   56 offset entries u16   58 time entries u16   60 entries
//! ```
//! Integers are big-endian. Indexes are sparse: of the entries that no index file holds yet the mark keeps a few.

use super::index::{OFFSET_ENTRY_LEN, TIME_ENTRY_LEN, TimeEntry};
use bytes::{Buf, BufMut};

/// Entries of each index that a mark keeps, at most: a search that begins at one of them has not far to go.
pub const ENTRIES_MAX: usize = 16;
const FIXED_LEN: usize = 60;
/// Bytes of a mark, at most.
pub const MARK_LEN_MAX: usize = FIXED_LEN + ENTRIES_MAX * (OFFSET_ENTRY_LEN + TIME_ENTRY_LEN);

/// The active segment up to an offset that is flushed, without a producer that counts and without an aborted transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMark {
    /// The segment's name.
    pub base: i64,
    /// Bytes of the segment up to the offset.
    pub position: u32,
    /// Where the last batch before `position` begins.
    pub last_batch: u32,
    /// The largest timestamp of the segment's first batch.
    pub first_timestamp: i64,
    /// The largest timestamp, and the last offset of the first batch that has it.
    pub max: TimeEntry,
    /// Bytes since producers were written down.
    pub bytes_since_snapshot: u64,
    /// Bytes that the offset index had in its file, and the time index: if they have less now, a scan makes them anew.
    pub index_bytes: (u32, u32),
    /// Entries of the offset index behind them, oldest first.
    pub offsets: Vec<u8>,
    /// The same of the time index.
    pub times: Vec<u8>,
}

impl SegmentMark {
    /// Some of `entries` of `len` bytes each, evenly spread, the newest among them.
    #[must_use]
    pub fn thinned(entries: &[u8], len: usize) -> Vec<u8> {
        let count = entries.len() / len;
        let step = count.div_ceil(ENTRIES_MAX).max(1);
        let kept = entries.chunks_exact(len).enumerate().filter(|(at, _)| (count - 1 - at).is_multiple_of(step));
        kept.flat_map(|(_, entry)| entry).copied().collect()
    }

    /// The mark's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (offsets, times) = (self.offsets.len() / OFFSET_ENTRY_LEN, self.times.len() / TIME_ENTRY_LEN);
        assert!(offsets <= ENTRIES_MAX && times <= ENTRIES_MAX, "{offsets} and {times} entries");
        let mut out = Vec::with_capacity(FIXED_LEN + self.offsets.len() + self.times.len());
        out.put_i64(self.base);
        out.put_u32(self.position);
        out.put_u32(self.last_batch);
        out.put_i64(self.first_timestamp);
        out.put_i64(self.max.timestamp);
        out.put_i64(self.max.offset);
        out.put_u64(self.bytes_since_snapshot);
        out.put_u32(self.index_bytes.0);
        out.put_u32(self.index_bytes.1);
        out.put_u16(offsets as u16);
        out.put_u16(times as u16);
        out.extend_from_slice(&self.offsets);
        out.extend_from_slice(&self.times);
        out
    }

    /// Reads what [`SegmentMark::encode`] wrote; `None`: it did not.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FIXED_LEN {
            return None;
        }
        let (base, position, last_batch) = (bytes.get_i64(), bytes.get_u32(), bytes.get_u32());
        let first_timestamp = bytes.get_i64();
        let max = TimeEntry { timestamp: bytes.get_i64(), offset: bytes.get_i64() };
        let bytes_since_snapshot = bytes.get_u64();
        let index_bytes = (bytes.get_u32(), bytes.get_u32());
        let (offsets, times) = (usize::from(bytes.get_u16()), usize::from(bytes.get_u16()));
        let fits = offsets <= ENTRIES_MAX
            && times <= ENTRIES_MAX
            && bytes.len() == offsets * OFFSET_ENTRY_LEN + times * TIME_ENTRY_LEN
            && base >= 0
            && last_batch < position;
        if !fits {
            return None;
        }
        let (offsets, times) = bytes.split_at(offsets * OFFSET_ENTRY_LEN);
        let (offsets, times) = (offsets.to_vec(), times.to_vec());
        Some(Self {
            base,
            position,
            last_batch,
            first_timestamp,
            max,
            bytes_since_snapshot,
            index_bytes,
            offsets,
            times,
        })
    }
}

#[cfg(test)]
impl SegmentMark {
    /// A mark for tests.
    pub(crate) fn example(base: i64) -> Self {
        Self {
            base,
            position: 300,
            last_batch: 200,
            first_timestamp: 5,
            max: TimeEntry { timestamp: 9, offset: 11 },
            bytes_since_snapshot: 300,
            index_bytes: (8, 0),
            offsets: vec![1; 2 * OFFSET_ENTRY_LEN],
            times: vec![2; TIME_ENTRY_LEN],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_few_entries_stay_the_newest_among_them() {
        for count in [0_usize, 1, 16, 17, 33, 511] {
            let entries: Vec<u8> = (0..count).flat_map(|n| (n as u64).to_be_bytes()).collect();
            let kept = SegmentMark::thinned(&entries, OFFSET_ENTRY_LEN);
            let kept: Vec<u64> = kept.chunks(8).map(|c| u64::from_be_bytes(c.try_into().expect("8 bytes"))).collect();
            assert!(kept.len() <= ENTRIES_MAX && kept.is_sorted(), "{count}: {kept:?}");
            assert_eq!(kept.last().copied(), count.checked_sub(1).map(|n| n as u64));
            assert!(kept.windows(2).all(|w| w[1] - w[0] <= count as u64 / 8), "{count}: {kept:?}");
        }
    }

    proptest! {
        #[test]
        fn marks_come_back(
            base in 0_i64.., position in 1_u32.., first in any::<i64>(), max in any::<(i64, i64)>(), since in any::<u64>(),
            index_bytes in any::<(u32, u32)>(),
            entries in (0_usize..=ENTRIES_MAX, 0_usize..=ENTRIES_MAX), fill in any::<u8>(), cut in 0_usize..60,
        ) {
            let mark = SegmentMark {
                base,
                position,
                last_batch: position / 2,
                first_timestamp: first,
                max: TimeEntry { timestamp: max.0, offset: max.1 },
                bytes_since_snapshot: since,
                index_bytes,
                offsets: vec![fill; entries.0 * OFFSET_ENTRY_LEN],
                times: vec![fill; entries.1 * TIME_ENTRY_LEN],
            };
            let bytes = mark.encode();
            prop_assert!(bytes.len() <= MARK_LEN_MAX);
            prop_assert_eq!(SegmentMark::decode(&bytes), Some(mark));
            prop_assert_eq!(SegmentMark::decode(&bytes[..bytes.len() - 1 - cut.min(bytes.len() - 1)]), None);
        }

        #[test]
        fn garbage_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Some(mark) = SegmentMark::decode(&bytes) {
                prop_assert_eq!(mark.encode(), bytes);
            }
        }
    }
}
