//! The metadata log on disk: groups of entries and votes, each on a block border, each whole or not there.
//!
//! ```text
//! group    magic "CLMG" u32 | sequence u64 | length u32 | crc32c u32 of sequence, length, payload | payload | zeros to 4096
//! payload  items: 1, entry | 2, term u64, vote u64, commit u64
//! snapshot magic "CLMS" u32 | version u16 | index u64 | term u64 | voters u32 n × u64 | length u32 | crc32c u32 | records
//! ```
//! One group is one write and one flush. A file begins with sequence 1; reading stops at the first group that is torn,
//! out of sequence or not there: it was never acknowledged. An entry takes the place of all with its index and above.

use super::encoding::{DecodeError, Decoder};
use super::raft_wire::{decode_entry, encode_entry};
use bytes::{BufMut, Bytes, BytesMut};
use raft::eraftpb::{Entry, HardState};

const GROUP_MAGIC: u32 = u32::from_be_bytes(*b"CLMG");
const SNAPSHOT_MAGIC: u32 = u32::from_be_bytes(*b"CLMS");
const SNAPSHOT_VERSION: u16 = 0;
const HEADER: usize = 20;
const BLOCK: usize = 4096;
const ENTRY: u8 = 1;
const HARD_STATE: u8 = 2;

/// What a file of the log says: the entries in order, the last vote, and where the next group goes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Replayed {
    /// Without gaps, by index.
    pub entries: Vec<Entry>,
    /// The last one.
    pub hard_state: Option<HardState>,
    /// Where the last whole group begins.
    pub last: u64,
    /// Bytes of whole groups.
    pub end: u64,
    /// The sequence of the next group.
    pub next_sequence: u64,
}

/// A group to append: its bytes are a multiple of 4096.
#[must_use]
pub fn encode_group(sequence: u64, entries: &[Entry], hard_state: Option<&HardState>) -> Bytes {
    let mut b = BytesMut::with_capacity(BLOCK);
    b.put_u32(GROUP_MAGIC);
    b.put_u64(sequence);
    b.put_u32(0);
    b.put_u32(0);
    for entry in entries {
        b.put_u8(ENTRY);
        encode_entry(&mut b, entry);
    }
    if let Some(state) = hard_state {
        b.put_u8(HARD_STATE);
        b.put_u64(state.term);
        b.put_u64(state.vote);
        b.put_u64(state.commit);
    }
    let length = u32::try_from(b.len() - HEADER).expect("a group is below 4 GiB");
    b[12..16].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&b[4..16]), &b[HEADER..]);
    b[16..20].copy_from_slice(&crc.to_be_bytes());
    b.resize(b.len().next_multiple_of(BLOCK), 0);
    b.freeze()
}

/// Reads a file of the log up to its last whole group.
///
/// # Errors
/// A whole group, by its checksum, whose contents are not what this version writes.
pub fn replay(file: &Bytes) -> Result<Replayed, DecodeError> {
    let mut found = Replayed { next_sequence: 1, ..Replayed::default() };
    let mut at = 0;
    while let Some(payload) = whole_group(file, at, |sequence| sequence == found.next_sequence) {
        let end = at + (HEADER + payload.len()).next_multiple_of(BLOCK);
        let mut d = Decoder::new(payload);
        while !d.is_done() {
            match d.u8()? {
                ENTRY => place(&mut found.entries, decode_entry(&mut d)?),
                HARD_STATE => {
                    let mut state = HardState::default();
                    (state.term, state.vote, state.commit) = (d.u64()?, d.u64()?, d.u64()?);
                    found.hard_state = Some(state);
                }
                _ => return d.fail("an entry or a vote"),
            }
        }
        found.next_sequence += 1;
        found.last = at as u64;
        found.end = end as u64;
        at = end;
    }
    Ok(found)
}

/// Where a whole group begins that comes after those of `found`, if there is one. A group is written when the one
/// before it was flushed: then what lies between is not torn, but damaged.
#[must_use]
pub fn group_after(file: &Bytes, found: &Replayed) -> Option<u64> {
    let end = usize::try_from(found.end).unwrap_or(usize::MAX);
    let mut starts = (end..file.len()).step_by(BLOCK);
    starts.find(|at| whole_group(file, *at, |sequence| sequence > found.next_sequence).is_some()).map(|at| at as u64)
}

fn whole_group(file: &Bytes, at: usize, wanted: impl Fn(u64) -> bool) -> Option<Bytes> {
    let header = file.get(at..at + HEADER)?;
    let number = |range: std::ops::Range<usize>| u32::from_be_bytes(header[range].try_into().expect("4 bytes"));
    let found = u64::from_be_bytes(header[4..12].try_into().expect("8 bytes"));
    if number(0..4) != GROUP_MAGIC || !wanted(found) {
        return None;
    }
    let start = at + HEADER;
    let end = start.checked_add(number(12..16) as usize).filter(|end| *end <= file.len())?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[4..16]), &file[start..end]);
    (crc == number(16..20)).then(|| file.slice(start..end))
}

/// A conflicting tail gives way to the entry, as Raft's append does.
fn place(entries: &mut Vec<Entry>, entry: Entry) {
    let first = entries.first().map_or(entry.index, |e| e.index);
    let keep = usize::try_from(entry.index.saturating_sub(first)).unwrap_or(usize::MAX);
    entries.truncate(keep);
    entries.push(entry);
}

/// A snapshot: everything up to an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotFile {
    /// The last entry in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// The image, as records.
    pub records: Bytes,
}

/// The bytes of a snapshot's file.
#[must_use]
pub fn encode_snapshot(snapshot: &SnapshotFile) -> Bytes {
    let mut b = BytesMut::new();
    b.put_u32(SNAPSHOT_MAGIC);
    b.put_u16(SNAPSHOT_VERSION);
    b.put_u64(snapshot.index);
    b.put_u64(snapshot.term);
    b.put_u32(u32::try_from(snapshot.voters.len()).expect("voters are few"));
    snapshot.voters.iter().for_each(|v| b.put_u64(*v));
    b.put_u32(u32::try_from(snapshot.records.len()).expect("a snapshot is below 4 GiB"));
    let crc = crc32c::crc32c_append(crc32c::crc32c(&b), &snapshot.records);
    b.put_u32(crc);
    b.put_slice(&snapshot.records);
    b.freeze()
}

/// Reads a snapshot's file. It was put in place whole, so anything else is damage.
///
/// # Errors
/// Where it is not what this version writes.
pub fn decode_snapshot(file: Bytes) -> Result<SnapshotFile, DecodeError> {
    let mut d = Decoder::new(file.clone());
    if d.u32()? != SNAPSHOT_MAGIC {
        return d.fail("the magic CLMS of a metadata snapshot");
    }
    if d.u16()? != SNAPSHOT_VERSION {
        return d.fail("version 0 of a metadata snapshot; it was written by a newer Coreline");
    }
    let (index, term) = (d.u64()?, d.u64()?);
    let count = d.count(8)?;
    let voters: Vec<u64> = (0..count).map(|_| d.u64()).collect::<Result<_, _>>()?;
    let length = d.u32()? as usize;
    let header = 4 + 2 + 8 + 8 + 4 + 8 * voters.len() + 4;
    let crc = d.u32()?;
    if file.len() != header + 4 + length {
        return d.fail("as many bytes as the snapshot's length says");
    }
    let records = file.slice(header + 4..);
    if crc != crc32c::crc32c_append(crc32c::crc32c(&file[..header]), &records) {
        return d.fail("the snapshot's checksum");
    }
    Ok(SnapshotFile { index, term, voters, records })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(index: u64, term: u64) -> Entry {
        let mut e = Entry::default();
        (e.index, e.term, e.data) = (index, term, Bytes::from(vec![index as u8; (index as usize * 37) % 9000]));
        e
    }

    fn file(groups: &[Vec<u64>]) -> (Bytes, Vec<u64>) {
        let (mut b, mut ends) = (BytesMut::new(), Vec::new());
        for (i, indexes) in groups.iter().enumerate() {
            let entries: Vec<Entry> = indexes.iter().map(|n| entry(*n, 1)).collect();
            let state = HardState { commit: i as u64, ..HardState::default() };
            b.extend_from_slice(&encode_group(i as u64 + 1, &entries, Some(&state)));
            ends.push(b.len() as u64);
        }
        (b.freeze(), ends)
    }

    proptest! {
        /// Any damage to the last group, sector by sector, leaves exactly the groups before it, or all of them.
        #[test]
        fn a_torn_group_is_not_there(sizes in prop::collection::vec(1..4_u64, 1..5), lost in prop::collection::vec(any::<bool>(), 200)) {
            let mut next = 1;
            let groups: Vec<Vec<u64>> = sizes.iter().map(|n| { next += n; (next - n..next).collect() }).collect();
            let (whole, ends) = file(&groups);
            let last = if ends.len() > 1 { ends[ends.len() - 2] as usize } else { 0 };
            let mut torn = whole.to_vec();
            for (sector, lost) in torn[last..].chunks_mut(512).zip(&lost) {
                if *lost {
                    sector.fill(0);
                }
            }
            let intact = torn == whole;
            let found = replay(&torn.clone().into()).expect("decodes");
            let expected = if intact { groups.len() } else { groups.len() - 1 };
            prop_assert_eq!(found.next_sequence, expected as u64 + 1);
            prop_assert_eq!(group_after(&torn.into(), &found), None);
            prop_assert_eq!(found.entries.len(), groups[..expected].iter().map(Vec::len).sum::<usize>());
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = replay(&bytes.clone().into());
            let _ = decode_snapshot(bytes.into());
        }
    }

    #[test]
    fn damage_before_a_whole_group_is_told_from_a_torn_one() {
        let (whole, ends) = file(&[vec![1, 2], vec![3], vec![4, 5]]);
        for damaged in 0..3 {
            let start = if damaged == 0 { 0 } else { ends[damaged - 1] };
            let mut bytes = whole.to_vec();
            bytes[start as usize + 30] ^= 1;
            let bytes = Bytes::from(bytes);
            let found = replay(&bytes).expect("decodes");
            assert_eq!(found.end, start);
            assert_eq!(group_after(&bytes, &found), ends.get(damaged).copied().filter(|_| damaged < 2));
        }
    }

    #[test]
    fn a_later_entry_takes_the_place_of_a_conflicting_tail() {
        let mut entries = vec![entry(5, 1), entry(6, 1), entry(7, 1)];
        place(&mut entries, entry(6, 2));
        assert_eq!(entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(5, 1), (6, 2)]);
        place(&mut entries, entry(3, 3));
        assert_eq!(entries.iter().map(|e| (e.index, e.term)).collect::<Vec<_>>(), [(3, 3)]);
    }

    #[test]
    fn snapshots_come_back_or_are_refused() {
        let snapshot = SnapshotFile { index: 9, term: 2, voters: vec![1, 2], records: Bytes::from_static(b"records") };
        let bytes = encode_snapshot(&snapshot);
        assert_eq!(decode_snapshot(bytes.clone()), Ok(snapshot));
        for i in 0..bytes.len() {
            let mut damaged = bytes.to_vec();
            damaged[i] ^= 1;
            assert!(decode_snapshot(damaged.into()).is_err(), "byte {i}");
        }
    }
}
