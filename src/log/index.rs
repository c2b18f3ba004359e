//! Kafka's sparse indexes of a segment: offset → position (`.index`), time → offset (`.timeindex`).
//!
//! Entries are big-endian and only grow: `.index` is `[relative offset i32][position i32]`, `.timeindex` is
//! `[timestamp i64][relative offset i32]`, relative to the segment's base offset.

/// Bytes of an offset index entry.
pub const OFFSET_ENTRY_LEN: usize = 8;
/// Bytes of a time index entry.
pub const TIME_ENTRY_LEN: usize = 12;

/// `offset` is in the batch at byte `position`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffsetEntry {
    /// An absolute offset.
    pub offset: i64,
    /// Bytes from the start of the segment.
    pub position: u32,
}

/// No record up to `offset` is later than `timestamp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds.
    pub timestamp: i64,
    /// An absolute offset.
    pub offset: i64,
}

impl OffsetEntry {
    /// The entry's bytes in the index of the segment at `base`; `None` if it is too far.
    #[must_use]
    pub fn encode(self, base: i64) -> Option<[u8; OFFSET_ENTRY_LEN]> {
        let relative = i32::try_from(self.offset - base).ok().filter(|r| *r >= 0)?;
        let mut out = [0; OFFSET_ENTRY_LEN];
        out[..4].copy_from_slice(&relative.to_be_bytes());
        out[4..].copy_from_slice(&self.position.to_be_bytes());
        Some(out)
    }

    /// Entry `n` of an index.
    #[must_use]
    pub fn get(index: &[u8], base: i64, n: usize) -> Option<Self> {
        let at = n * OFFSET_ENTRY_LEN;
        let bytes = index.get(at..at + OFFSET_ENTRY_LEN)?;
        let relative = i32::from_be_bytes(bytes[..4].try_into().ok()?);
        let position = u32::from_be_bytes(bytes[4..].try_into().ok()?);
        Some(Self { offset: base + i64::from(relative), position })
    }

    /// The last entry of an index.
    #[must_use]
    pub fn last(index: &[u8], base: i64) -> Option<Self> {
        (index.len() / OFFSET_ENTRY_LEN).checked_sub(1).and_then(|n| Self::get(index, base, n))
    }

    /// Position from which a scan finds `offset`: that of the last entry at or before it; 0 if there is none.
    #[must_use]
    pub fn lookup(index: &[u8], base: i64, offset: i64) -> u32 {
        let count = index.len() / OFFSET_ENTRY_LEN;
        let after = partition(count, |n| Self::get(index, base, n).is_some_and(|e| e.offset <= offset));
        after.checked_sub(1).and_then(|n| Self::get(index, base, n)).map_or(0, |e| e.position)
    }
}

impl TimeEntry {
    /// The entry's bytes in the index of the segment at `base`; `None` if it is too far.
    #[must_use]
    pub fn encode(self, base: i64) -> Option<[u8; TIME_ENTRY_LEN]> {
        let relative = i32::try_from(self.offset - base).ok().filter(|r| *r >= 0)?;
        let mut out = [0; TIME_ENTRY_LEN];
        out[..8].copy_from_slice(&self.timestamp.to_be_bytes());
        out[8..].copy_from_slice(&relative.to_be_bytes());
        Some(out)
    }

    /// Entry `n` of an index.
    #[must_use]
    pub fn get(index: &[u8], base: i64, n: usize) -> Option<Self> {
        let at = n * TIME_ENTRY_LEN;
        let bytes = index.get(at..at + TIME_ENTRY_LEN)?;
        let timestamp = i64::from_be_bytes(bytes[..8].try_into().ok()?);
        let relative = i32::from_be_bytes(bytes[8..].try_into().ok()?);
        Some(Self { timestamp, offset: base + i64::from(relative) })
    }

    /// The last entry of an index.
    #[must_use]
    pub fn last(index: &[u8], base: i64) -> Option<Self> {
        (index.len() / TIME_ENTRY_LEN).checked_sub(1).and_then(|n| Self::get(index, base, n))
    }

    /// The last entry before `timestamp`: a scan from its offset finds the first record at or after that.
    #[must_use]
    pub fn before(index: &[u8], base: i64, timestamp: i64) -> Option<Self> {
        let count = index.len() / TIME_ENTRY_LEN;
        let after = partition(count, |n| Self::get(index, base, n).is_some_and(|e| e.timestamp < timestamp));
        after.checked_sub(1).and_then(|n| Self::get(index, base, n))
    }
}

fn partition(count: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// The bytes of an offset index that can be believed: whole entries that grow and stay below `log_bytes`.
#[must_use]
pub fn valid_offset_index(index: &[u8], base: i64, log_bytes: u64) -> usize {
    let mut last: Option<OffsetEntry> = None;
    let mut n = 0;
    while let Some(entry) = OffsetEntry::get(index, base, n) {
        let grows = last.is_none_or(|l| entry.offset > l.offset && entry.position > l.position);
        if !grows || entry.offset < base || entry.position == 0 || u64::from(entry.position) >= log_bytes {
            break;
        }
        last = Some(entry);
        n += 1;
    }
    n * OFFSET_ENTRY_LEN
}

/// The bytes of a time index that can be believed: whole entries that grow.
#[must_use]
pub fn valid_time_index(index: &[u8], base: i64) -> usize {
    let mut last: Option<TimeEntry> = None;
    let mut n = 0;
    while let Some(entry) = TimeEntry::get(index, base, n) {
        let grows = last.is_none_or(|l| entry.offset > l.offset && entry.timestamp > l.timestamp);
        if !grows || entry.offset < base || (entry.timestamp == 0 && entry.offset == base) {
            break;
        }
        last = Some(entry);
        n += 1;
    }
    n * TIME_ENTRY_LEN
}

/// An offset index of a complete segment of `log_bytes` that ends before offset `end` can be believed, as far as it shows by itself.
#[must_use]
pub fn offset_index_is_sound(index: &[u8], base: i64, end: i64, log_bytes: u64) -> bool {
    valid_offset_index(index, base, log_bytes) == index.len()
        && OffsetEntry::last(index, base).is_none_or(|last| last.offset < end)
}

/// The same of a time index.
#[must_use]
pub fn time_index_is_sound(index: &[u8], base: i64, end: i64) -> bool {
    valid_time_index(index, base) == index.len() && TimeEntry::last(index, base).is_none_or(|last| last.offset < end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offset_lookup_table() {
        let mut index = Vec::new();
        for (offset, position) in [(104, 4096), (110, 8200), (200, 12_400)] {
            index.extend(OffsetEntry { offset, position }.encode(100).expect("near"));
        }
        for (offset, position) in [(100, 0), (103, 0), (104, 4096), (109, 4096), (110, 8200), (5000, 12_400)] {
            assert_eq!(OffsetEntry::lookup(&index, 100, offset), position, "offset {offset}");
        }
        assert_eq!(valid_offset_index(&index, 100, 12_401), 24);
        assert_eq!(valid_offset_index(&index, 100, 12_400), 16, "an entry past the end of the log");
        index.extend([0; 40]);
        assert_eq!(valid_offset_index(&index, 100, 1 << 30), 24, "zeros are not entries");
        assert_eq!(OffsetEntry { offset: 99, position: 1 }.encode(100), None);
    }

    #[test]
    fn time_lookup_table() {
        let mut index = Vec::new();
        for (timestamp, offset) in [(1000, 104), (2000, 110)] {
            index.extend(TimeEntry { timestamp, offset }.encode(100).expect("near"));
        }
        for (timestamp, offset) in [(500, 100), (1000, 100), (1001, 104), (2000, 104), (2001, 110)] {
            assert_eq!(TimeEntry::before(&index, 100, timestamp).map_or(100, |e| e.offset), offset, "time {timestamp}");
        }
        index.extend([0; 24]);
        assert_eq!(valid_time_index(&index, 100), 24);
        assert!(!time_index_is_sound(&index, 100, 200), "zeros behind it");
        assert!(time_index_is_sound(&index[..24], 100, 111) && !time_index_is_sound(&index[..24], 100, 110));
        assert!(!time_index_is_sound(&index[..23], 100, 111), "a torn entry");
    }

    proptest! {
        #[test]
        fn garbage_is_cut_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), base in 0..i64::MAX / 2, t in any::<i64>()) {
            prop_assert!(valid_offset_index(&bytes, base, 1 << 40) <= bytes.len());
            prop_assert!(valid_time_index(&bytes, base) <= bytes.len());
            let _ = OffsetEntry::lookup(&bytes, base, t);
            let _ = TimeEntry::before(&bytes, base, t);
        }
    }
}
