//! The indexes of a segment that still grows: what is to be added to `.index` and `.timeindex`.
//!
//! Only whole blocks are written while the segment grows; the rest follows when it is sealed or the store is closed.
//! After a crash the rest is found again by scanning from the last entry that was written.

use crate::log::index::{OFFSET_ENTRY_LEN, OffsetEntry, TIME_ENTRY_LEN, TimeEntry};
use crate::log::segment_mark::SegmentMark;
use coreline_io::BLOCK;

/// A file of entries: a written part, always whole blocks, and what follows it.
#[derive(Debug, Default)]
pub(super) struct GrowingIndex {
    /// Bytes in the file that are final; a multiple of the block.
    pub(super) written: u64,
    pub(super) pending: Vec<u8>,
}

impl GrowingIndex {
    /// Takes over the valid bytes of a file.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let written = bytes.len() / BLOCK * BLOCK;
        Self { written: written as u64, pending: bytes[written..].to_vec() }
    }

    pub(super) fn len(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// The whole blocks to write, and where.
    pub(super) fn blocks(&self) -> Option<(u64, Vec<u8>)> {
        let whole = self.pending.len() / BLOCK * BLOCK;
        (whole > 0).then(|| (self.written, self.pending[..whole].to_vec()))
    }

    /// Everything, padded to a block, and where.
    pub(super) fn rest(&self) -> Option<(u64, Vec<u8>)> {
        if self.pending.is_empty() {
            return None;
        }
        let mut bytes = self.pending.clone();
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        Some((self.written, bytes))
    }

    /// `bytes` (whole blocks) from the front of `pending` are in the file.
    pub(super) fn blocks_written(&mut self, bytes: usize) {
        assert!(bytes.is_multiple_of(BLOCK));
        self.pending.drain(..bytes);
        self.pending.shrink_to_fit();
        self.written += bytes as u64;
    }
}

/// Both indexes of one segment.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    base: i64,
    pub(super) offsets: GrowingIndex,
    pub(super) times: GrowingIndex,
    /// From the batch that the last entry names, or the segment's start, to the end.
    bytes_since_entry: u32,
    /// Where the newest batch begins.
    newest: u32,
    last_offset_entry: Option<OffsetEntry>,
    last_time_entry: Option<TimeEntry>,
    /// The largest timestamp so far and the last offset of the first batch that has it.
    pub(super) max: Option<TimeEntry>,
}

impl IndexBuilder {
    pub(super) fn new(base: i64) -> Self {
        Self {
            base,
            offsets: GrowingIndex::default(),
            times: GrowingIndex::default(),
            bytes_since_entry: 0,
            last_offset_entry: None,
            last_time_entry: None,
            max: None,
            newest: 0,
        }
    }

    /// Takes over valid index bytes found on disk.
    pub(super) fn from_files(base: i64, offsets: &[u8], times: &[u8]) -> Self {
        let last_offset = (offsets.len() / 8).checked_sub(1).and_then(|n| OffsetEntry::get(offsets, base, n));
        let last_time = (times.len() / 12).checked_sub(1).and_then(|n| TimeEntry::get(times, base, n));
        Self {
            base,
            offsets: GrowingIndex::from_bytes(offsets),
            times: GrowingIndex::from_bytes(times),
            bytes_since_entry: 0,
            last_offset_entry: last_offset,
            last_time_entry: last_time,
            max: last_time,
            newest: 0,
        }
    }

    /// Where the newest batch that an entry names begins.
    pub(super) fn last_position(&self) -> u64 {
        self.last_offset_entry.map_or(0, |e| u64::from(e.position))
    }

    /// Notes a batch. Batches that the entries already cover are passed over, so a scan may begin before the last entry.
    pub(super) fn on_batch(
        &mut self,
        base: i64,
        last: i64,
        max_timestamp: i64,
        position: u64,
        len: u32,
        interval: u64,
    ) {
        assert!(base >= self.base, "batch {base} in segment {}", self.base);
        if self.max.is_none_or(|m| max_timestamp > m.timestamp) {
            self.max = Some(TimeEntry { timestamp: max_timestamp, offset: last });
        }
        let position = u32::try_from(position).expect("a segment is smaller than 4 GiB");
        if self.last_offset_entry.is_some_and(|e| position <= e.position) {
            self.bytes_since_entry = 0;
        }
        let covered = self.last_offset_entry.is_some_and(|e| position <= e.position);
        if !covered && u64::from(self.bytes_since_entry) > interval && position > 0 {
            self.push_offset(OffsetEntry { offset: last, position });
            self.push_time();
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry = self.bytes_since_entry.saturating_add(len);
        self.newest = position;
    }

    /// What a load after a crash need not find out again; the segment's first timestamp and the bytes since a snapshot
    /// are the caller's. None: nothing is flushed.
    pub(super) fn mark(&self, first_timestamp: i64, bytes_since_snapshot: u64) -> Option<SegmentMark> {
        let max = self.max.filter(|_| self.bytes_since_entry > 0)?;
        let position = u32::try_from(self.last_position()).ok()?.checked_add(self.bytes_since_entry)?;
        let written =
            |index: &GrowingIndex| u32::try_from(index.written).expect("an index is smaller than its segment");
        Some(SegmentMark {
            base: self.base,
            position,
            last_batch: self.newest,
            first_timestamp,
            max,
            bytes_since_snapshot,
            index_bytes: (written(&self.offsets), written(&self.times)),
            offsets: SegmentMark::thinned(&self.offsets.pending, OFFSET_ENTRY_LEN),
            times: SegmentMark::thinned(&self.times.pending, TIME_ENTRY_LEN),
        })
    }

    /// A search misses little if it goes on at this mark: the files hold what they held when it was made, and nothing of later.
    pub(super) fn fits(&self, mark: &SegmentMark) -> bool {
        self.offsets.len() >= u64::from(mark.index_bytes.0)
            && self.times.len() >= u64::from(mark.index_bytes.1)
            && self.last_position() <= u64::from(mark.last_batch)
    }

    /// Goes on at a mark of this segment, before its last batch.
    pub(super) fn resume(&mut self, mark: &SegmentMark) {
        let base = self.base;
        let entries = mark.offsets.len() / OFFSET_ENTRY_LEN;
        for entry in (0..entries).filter_map(|n| OffsetEntry::get(&mark.offsets, base, n)) {
            if self.last_offset_entry.is_none_or(|last| entry.offset > last.offset && entry.position > last.position) {
                self.push_offset(entry);
            }
        }
        let entries = mark.times.len() / TIME_ENTRY_LEN;
        for entry in (0..entries).filter_map(|n| TimeEntry::get(&mark.times, base, n)) {
            self.max = Some(entry);
            self.push_time();
        }
        self.max = Some(mark.max);
        // Counted from the batch that the last entry names, as when it was pushed; the last batch comes again.
        let entry = self.last_offset_entry.map_or(0, |entry| entry.position);
        self.bytes_since_entry = mark.last_batch.saturating_sub(entry);
    }

    /// The newest entries, written or not.
    pub(super) fn last_entries(&self) -> (Option<OffsetEntry>, Option<TimeEntry>) {
        (self.last_offset_entry, self.last_time_entry)
    }

    /// As it was when a mark was made, with the newest entries then: nothing of the files is looked at.
    pub(super) fn at(mark: &SegmentMark, last_offset: Option<OffsetEntry>, last_time: Option<TimeEntry>) -> Self {
        let growing =
            |written: u32, pending: &[u8]| GrowingIndex { written: written.into(), pending: pending.to_vec() };
        Self {
            base: mark.base,
            offsets: growing(mark.index_bytes.0, &mark.offsets),
            times: growing(mark.index_bytes.1, &mark.times),
            bytes_since_entry: mark.position.saturating_sub(last_offset.map_or(0, |entry| entry.position)),
            newest: mark.last_batch,
            last_offset_entry: last_offset,
            last_time_entry: last_time,
            max: Some(mark.max),
        }
    }

    fn push_offset(&mut self, entry: OffsetEntry) {
        let Some(bytes) = entry.encode(self.base) else { return };
        self.offsets.pending.extend_from_slice(&bytes);
        self.last_offset_entry = Some(entry);
    }

    /// Adds the largest timestamp so far, if it is news.
    pub(super) fn push_time(&mut self) {
        let Some(max) = self.max else { return };
        let news = self.last_time_entry.is_none_or(|l| max.timestamp > l.timestamp && max.offset > l.offset);
        if !news || max.timestamp < 0 {
            return;
        }
        let Some(bytes) = max.encode(self.base) else { return };
        self.times.pending.extend_from_slice(&bytes);
        self.last_time_entry = Some(max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build(batches: i64) -> IndexBuilder {
        let mut index = IndexBuilder::new(100);
        for i in 0..batches {
            index.on_batch(100 + i * 10, 109 + i * 10, 5000 + i, i as u64 * 3000, 3000, 4096);
        }
        index
    }

    #[test]
    fn an_entry_each_interval() {
        let index = build(6);
        // 6000 bytes before batch 2, and 6000 more before batch 4.
        let entry = |n| OffsetEntry::get(&index.offsets.pending, 100, n);
        assert_eq!(entry(0), Some(OffsetEntry { offset: 129, position: 6000 }));
        assert_eq!(entry(1), Some(OffsetEntry { offset: 149, position: 12_000 }));
        assert_eq!(entry(2), None);
        assert_eq!(TimeEntry::get(&index.times.pending, 100, 0), Some(TimeEntry { timestamp: 5002, offset: 129 }));
    }

    /// Kafka 4.2 was restarted at offset 24 and forgot how many bytes it had written since its last entry.
    #[test]
    fn indexes_are_kafkas() {
        let log = include_bytes!("../../log/testdata/kafka-4.2/00000000000000000000.log");
        let mut built = IndexBuilder::new(0);
        let _ = crate::log::segment::scan(log, 0, |header, position| {
            if header.base_offset.0 == 24 {
                built.push_time();
                return std::ops::ControlFlow::Break(());
            }
            let (base, last) = (header.base_offset.0, header.last_offset().0);
            built.on_batch(base, last, header.max_timestamp, position as u64, header.size_in_bytes() as u32, 300);
            std::ops::ControlFlow::Continue(())
        });
        let offsets = include_bytes!("../../log/testdata/kafka-4.2/00000000000000000000.index");
        let times = include_bytes!("../../log/testdata/kafka-4.2/00000000000000000000.timeindex");
        assert_eq!(built.offsets.pending, offsets[..5 * 8]);
        assert_eq!(built.times.pending, times[..5 * 12]);
    }

    /// A load at a mark goes on as if it had read all: only entries between those that the mark keeps are missing.
    #[test]
    fn a_mark_goes_on_where_it_was_made() {
        for batches in [1_i64, 2, 7, 300, 2000] {
            let mut whole = build(batches);
            if let Some((_, blocks)) = whole.offsets.blocks() {
                whole.offsets.blocks_written(blocks.len());
                let times = whole.times.pending.len() / BLOCK * BLOCK;
                whole.times.blocks_written(times);
            }
            let mark = whole.mark(5000, 77).expect("something is flushed");
            assert_eq!((mark.position, mark.last_batch), (batches as u32 * 3000, (batches as u32 - 1) * 3000));
            let all = build(batches);
            let (offsets, times) = (&all.offsets.pending, &all.times.pending);
            let (written, times_written) = (whole.offsets.written as usize, whole.times.written as usize);
            let mut again = IndexBuilder::from_files(100, &offsets[..written], &times[..times_written]);
            assert!(again.fits(&mark));
            again.resume(&mark);
            let more = |index: &mut IndexBuilder, from: i64| {
                for i in from..batches + 9 {
                    index.on_batch(100 + i * 10, 109 + i * 10, 5000 + i, i as u64 * 3000, 3000, 4096);
                }
            };
            more(&mut again, batches - 1);
            more(&mut whole, batches);
            assert_eq!(
                (again.max, again.newest, again.bytes_since_entry),
                (whole.max, whole.newest, whole.bytes_since_entry)
            );
            let kept = |index: &GrowingIndex| index.pending.chunks(8).map(<[u8]>::to_vec).collect::<Vec<_>>();
            let (thin, full) = (kept(&again.offsets), kept(&whole.offsets));
            assert!(thin.iter().all(|entry| full.contains(entry)), "{batches}");
            assert!(thin.len() + 1 >= full.len().min(16), "{batches}: {} of {}", thin.len(), full.len());
            let short = IndexBuilder::from_files(100, &offsets[..written.saturating_sub(BLOCK)], &[]);
            assert_eq!(short.fits(&mark), written == 0, "{batches}: entries that the file lost are made again");
        }
    }

    #[test]
    fn a_scan_over_known_entries_adds_none() {
        let whole = build(2000);
        assert!(whole.offsets.pending.len() > BLOCK);
        let (at, blocks) = whole.offsets.blocks().expect("a whole block");
        assert_eq!((at, blocks.len()), (0, BLOCK));
        // After a crash: the file has one block, the rest comes from a scan that begins a bit earlier.
        let mut again = IndexBuilder::from_files(100, &whole.offsets.pending[..BLOCK], &[]);
        let from = OffsetEntry::get(&whole.offsets.pending, 100, BLOCK / 8 - 1).expect("an entry").position / 3000 - 4;
        for i in i64::from(from)..2000 {
            again.on_batch(100 + i * 10, 109 + i * 10, 5000 + i, i as u64 * 3000, 3000, 4096);
        }
        assert_eq!(again.offsets.written, BLOCK as u64);
        assert_eq!(again.offsets.pending, whole.offsets.pending[BLOCK..]);
    }
}
