//! Aborted transactions of a segment: Kafka's `.txnindex`, and what a reader of a range is told of it.
//!
//! ```text
//! entry, 34 bytes   version i16 = 0 | producer id i64 | first offset i64 | last offset i64 | last stable offset i64
//! ```
//! An entry is in the segment that holds the marker (its last offset), in the order of the markers. The last stable offset is
//! that of the partition once the marker was written: a reader whose range ends at or before it has seen all entries that
//! concern it, because every transaction that ends later begins there or later.

use crate::ids::{Offset, ProducerId};
use bytes::{Buf, BufMut};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes of one entry.
pub const ENTRY_LEN: usize = 2 + 4 * 8;
const VERSION: i16 = 0;

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTxn {
    /// Whose it was.
    pub producer_id: ProducerId,
    /// Its first record.
    pub first_offset: Offset,
    /// Its marker.
    pub last_offset: Offset,
    /// The first offset of what was still open when the marker was written, or the offset after the marker.
    pub last_stable_offset: Offset,
}

impl AbortedTxn {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_i16(VERSION);
        out.put_i64(self.producer_id.0);
        out.put_i64(self.first_offset.0);
        out.put_i64(self.last_offset.0);
        out.put_i64(self.last_stable_offset.0);
    }

    fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < ENTRY_LEN || bytes.get_i16() != VERSION {
            return None;
        }
        let entry = Self {
            producer_id: ProducerId(bytes.get_i64()),
            first_offset: Offset(bytes.get_i64()),
            last_offset: Offset(bytes.get_i64()),
            last_stable_offset: Offset(bytes.get_i64()),
        };
        // The next one that was open may have begun earlier: nothing is known of the last stable offset but its sign.
        let sound = entry.producer_id.0 >= 0
            && 0 <= entry.first_offset.0
            && entry.first_offset < entry.last_offset
            && 0 <= entry.last_stable_offset.0
            && entry.last_stable_offset.0 <= entry.last_offset.0.checked_add(1)?;
        sound.then_some(entry)
    }
}

/// The bytes of a file.
#[must_use]
pub fn encode(entries: &[AbortedTxn]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * ENTRY_LEN);
    entries.iter().for_each(|entry| entry.encode(&mut out));
    out
}

/// The entries of the file of the segment that begins at `base`, up to the first that cannot be one: another version, offsets
/// that go back, a marker before the segment, a torn end. The flag says that this was all of the file.
#[must_use]
pub fn decode(bytes: &[u8], base: Offset) -> (Vec<AbortedTxn>, bool) {
    let mut entries: Vec<AbortedTxn> = Vec::with_capacity(bytes.len() / ENTRY_LEN);
    for chunk in bytes.chunks_exact(ENTRY_LEN) {
        let after =
            |e: &AbortedTxn| e.last_offset >= base && entries.last().is_none_or(|l| l.last_offset < e.last_offset);
        match AbortedTxn::decode(chunk).filter(after) {
            Some(entry) => entries.push(entry),
            None => return (entries, false),
        }
    }
    let whole = bytes.len().is_multiple_of(ENTRY_LEN);
    (entries, whole)
}

/// What is noted of a file apart from it: how many entries it had, and their CRC-32C. Kafka has none: to it a file that lost
/// whole entries is a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileNote {
    entries: u32,
    crc: u32,
}

impl FileNote {
    /// Of these bytes, which are whole entries.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self { entries: (bytes.len() / ENTRY_LEN) as u32, crc: crc32c::crc32c(bytes) }
    }

    /// How many entries the file had.
    #[must_use]
    pub fn entries(self) -> usize {
        self.entries as usize
    }

    /// True if a file begins with what was noted. It may have got more entries since: they are written first.
    #[must_use]
    pub fn fits(self, bytes: &[u8]) -> bool {
        let len = self.entries().checked_mul(ENTRY_LEN);
        len.and_then(|len| bytes.get(..len)).is_some_and(|noted| crc32c::crc32c(noted) == self.crc)
    }
}

/// The text of `transaction-index-checkpoint`: version, count, and a line for each segment that has a transaction index, with
/// what is known of the file: `base offset[ entries CRC-32C]`.
#[must_use]
pub fn encode_notes(notes: &BTreeMap<i64, Option<FileNote>>) -> String {
    let mut text = format!("1\n{}\n", notes.len());
    for (base, note) in notes {
        let _ = match note {
            Some(note) => writeln!(text, "{base} {} {}", note.entries, note.crc),
            None => writeln!(text, "{base}"),
        };
    }
    text
}

/// What that text says. A line that cannot be one says nothing; of a number that is not right nothing is believed but the base.
#[must_use]
pub fn decode_notes(text: &str) -> BTreeMap<i64, Option<FileNote>> {
    let line = |line: &str| {
        let mut numbers = line.split_ascii_whitespace();
        let base = numbers.next()?.parse().ok()?;
        let mut number = || numbers.next()?.parse().ok();
        Some((base, number().zip(number()).map(|(entries, crc)| FileNote { entries, crc })))
    };
    text.lines().skip(2).filter_map(line).collect()
}

/// Entries by their number.
pub trait EntryList {
    /// How many there are.
    fn count(&self) -> usize;
    /// The one with this number; none if its bytes cannot be one.
    fn entry(&self, at: usize) -> Option<AbortedTxn>;
}

impl EntryList for [AbortedTxn] {
    fn count(&self) -> usize {
        self.len()
    }

    fn entry(&self, at: usize) -> Option<AbortedTxn> {
        self.get(at).copied()
    }
}

/// The bytes of a file that was found whole.
#[derive(Clone, Copy, Debug)]
pub struct Entries<'a>(pub &'a [u8]);

impl EntryList for Entries<'_> {
    fn count(&self) -> usize {
        self.0.len() / ENTRY_LEN
    }

    fn entry(&self, at: usize) -> Option<AbortedTxn> {
        AbortedTxn::decode(self.0.get(at * ENTRY_LEN..)?)
    }
}

/// Adds the entries that concern a reader of `from..to`. True: no later segment holds one that does.
///
/// ```text
///   first      last        the reader's range is from..to
/// ───[──────────]────────  concerns it if last ≥ from and first < to
/// ```
pub fn collect(entries: &(impl EntryList + ?Sized), from: Offset, to: Offset, found: &mut Vec<AbortedTxn>) -> bool {
    let (mut low, mut high) = (0, entries.count());
    while low < high {
        let middle = low + (high - low) / 2;
        if entries.entry(middle).is_some_and(|e| e.last_offset < from) { low = middle + 1 } else { high = middle }
    }
    for entry in (low..entries.count()).map_while(|at| entries.entry(at)) {
        if entry.first_offset < to {
            found.push(entry);
        }
        if entry.last_stable_offset >= to {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(producer: i64, first: i64, last: i64, stable: i64) -> AbortedTxn {
        AbortedTxn {
            producer_id: ProducerId(producer),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    #[test]
    fn entries_are_kafkas() {
        let bytes = encode(&[entry(1, 2, 3, 4)]);
        assert_eq!(bytes.len(), 34);
        assert_eq!(bytes[..2], [0, 0]);
        assert_eq!(bytes.chunks(8).map(<[u8]>::len).sum::<usize>(), ENTRY_LEN);
        assert_eq!(bytes[2..10], 1_i64.to_be_bytes());
        assert_eq!(bytes[10..18], 2_i64.to_be_bytes());
        assert_eq!(bytes[18..26], 3_i64.to_be_bytes());
        assert_eq!(bytes[26..34], 4_i64.to_be_bytes());
    }

    #[test]
    fn what_cannot_be_an_entry_ends_the_file() {
        let good = entry(1, 10, 20, 21);
        let cases = [
            (entry(1, 10, 20, 21), "the same marker again"),
            (entry(-1, 21, 25, 26), "nobody's"),
            (entry(2, 25, 25, 26), "a marker without data"),
            (entry(2, 21, 25, 27), "a stable offset behind the marker"),
            (entry(2, -1, 25, 26), "before the log"),
        ];
        for (bad, why) in cases {
            assert_eq!(decode(&encode(&[good, bad]), Offset(0)), (vec![good], false), "{why}");
        }
        assert_eq!(decode(&encode(&[good]), Offset(21)), (vec![], false), "a marker of another segment");
        assert_eq!(decode(&encode(&[good]), Offset(15)), (vec![good], true), "begun in the segment before");
        assert_eq!(decode(&encode(&[good])[..33], Offset(0)), (vec![], false));
        let mut version = encode(&[good]);
        version[1] = 1;
        assert_eq!(decode(&version, Offset(0)), (vec![], false));
    }

    #[test]
    fn a_range_is_told_what_touches_it() {
        let entries = [entry(1, 0, 10, 5), entry(2, 5, 12, 13), entry(3, 20, 30, 31)];
        let ask = |from, to| {
            let mut found = Vec::new();
            let complete = collect(&entries[..], Offset(from), Offset(to), &mut found);
            let mut again = Vec::new();
            assert_eq!(collect(&Entries(&encode(&entries)), Offset(from), Offset(to), &mut again), complete);
            assert_eq!(again, found);
            (found.iter().map(|e| e.producer_id.0).collect::<Vec<_>>(), complete)
        };
        assert_eq!(ask(0, 5), (vec![1], true), "the second begins where the range ends");
        assert_eq!(ask(0, 6), (vec![1, 2], true));
        assert_eq!(ask(10, 11), (vec![1, 2], true), "the marker itself");
        assert_eq!(ask(11, 13), (vec![2], true));
        assert_eq!(ask(13, 14), (vec![], true), "all that ends later begins later");
        assert_eq!(ask(13, 40), (vec![3], false), "a later segment may hold more");
    }

    #[test]
    fn a_file_that_lost_entries_does_not_fit_its_note() {
        let entries = [entry(1, 0, 10, 5), entry(2, 5, 12, 13), entry(3, 20, 30, 31)];
        let note = FileNote::of(&encode(&entries[..2]));
        assert!(note.fits(&encode(&entries[..2])));
        assert!(note.fits(&encode(&entries)), "it grew since");
        assert!(!note.fits(&encode(&entries[..1])), "short by a whole entry");
        assert!(!note.fits(&encode(&[entries[0], entry(2, 6, 12, 13)])), "a number that could be right");
        let notes = BTreeMap::from([(0, Some(note)), (7, None), (100, Some(FileNote::of(&[])))]);
        assert_eq!(decode_notes(&encode_notes(&notes)), notes);
        assert_eq!(decode_notes("0\n2\n5\n9 x 3\n?\n"), BTreeMap::from([(5, None), (9, None)]));
    }

    proptest! {
        #[test]
        fn notes_of_any_text_are_read_without_panic(text in "[0-9 \\n-]{0,80}|.{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let notes = decode_notes(&text);
            prop_assert_eq!(&decode_notes(&encode_notes(&notes)), &notes);
            for note in notes.values().flatten() {
                prop_assert!(!note.fits(&bytes) || note.entries() * ENTRY_LEN <= bytes.len());
            }
        }

        #[test]
        fn garbage_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), base in any::<i64>()) {
            let (entries, whole) = decode(&bytes, Offset(base));
            prop_assert_eq!(&encode(&entries)[..], &bytes[..entries.len() * ENTRY_LEN]);
            prop_assert!(!whole || entries.len() * ENTRY_LEN == bytes.len());
        }
    }
}
