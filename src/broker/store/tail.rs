//! The resident end of a partition: recent batches in memory, contiguous through the log end.
//!
//! Small batches are copied into append-only chunks, so they pin no network buffer and neighbours come out as one
//! slice; large ones keep the buffer they came in. What is flushed stays as a cache until the store evicts it, oldest
//! run first. No I/O here.

use bytes::Bytes;
use coreline_io::tail::AppendBuf;
use std::collections::VecDeque;
use std::ops::Range;

/// Batches of this size keep the buffer they came in; smaller ones are copied into a chunk.
pub(super) const OWNED_BYTES_MIN: usize = 8 << 10;
const CHUNK_BYTES_MIN: usize = 2 << 10;
const CHUNK_BYTES_MAX: usize = 64 << 10;
/// Batches at the end that are looked at before the others.
const NEAR_THE_END: usize = 4;
const _: () = assert!(OWNED_BYTES_MIN <= CHUNK_BYTES_MAX);

/// One resident batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TailBatch {
    /// Offset of its first record.
    pub(super) base: i64,
    /// Offset of its last record: `base ≤ last`.
    pub(super) last: i64,
    /// The largest timestamp in it.
    pub(super) max_timestamp: i64,
    /// Byte position in its segment.
    pub(super) position: u64,
    /// Size in bytes.
    pub(super) len: u32,
    run: u64,
    at: u32,
}

impl TailBatch {
    fn end_in_run(&self) -> u32 {
        self.at + self.len
    }

    /// Byte position in the segment after it.
    pub(super) fn end_position(&self) -> u64 {
        self.position + u64::from(self.len)
    }
}

#[derive(Debug)]
enum RunData {
    Chunk(AppendBuf),
    Owned(Bytes),
}

/// A piece of memory with one or more batches back to back.
#[derive(Debug)]
struct Run {
    data: RunData,
    /// Offset of the last record in it.
    last: i64,
    /// Batches in it that are resident.
    batches: usize,
    /// In the store's list of what may be evicted.
    cached: bool,
}

impl Run {
    fn memory(&self) -> usize {
        match &self.data {
            RunData::Chunk(chunk) => chunk.capacity(),
            RunData::Owned(bytes) => bytes.len(),
        }
    }

    fn slice(&self, from: u32, to: u32) -> Bytes {
        match &self.data {
            RunData::Chunk(chunk) => chunk.slice(from as usize..to as usize),
            RunData::Owned(bytes) => bytes.slice(from as usize..to as usize),
        }
    }
}

/// A run that can be evicted once flushed: its number in its partition, and the memory that frees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RunRef {
    pub(super) run: u64,
    pub(super) memory: usize,
}

/// Bytes gathered from the tail.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) parts: Vec<Bytes>,
    pub(super) bytes: usize,
    /// Batches gathered.
    pub(super) batches: usize,
}

/// See the file's comment.
///
/// Invariants: batches are contiguous (`batches[i].last + 1 == batches[i + 1].base`); each run holds ≥ 1 batch.
#[derive(Debug, Default)]
pub(super) struct Tail {
    batches: VecDeque<TailBatch>,
    runs: VecDeque<Run>,
    first_run: u64,
    chunk_bytes: usize,
}

impl Tail {
    pub(super) fn len(&self) -> usize {
        self.batches.len()
    }

    /// The first resident offset.
    pub(super) fn start(&self) -> Option<i64> {
        self.batches.front().map(|b| b.base)
    }

    pub(super) fn get(&self, index: usize) -> Option<&TailBatch> {
        self.batches.get(index)
    }

    pub(super) fn last(&self) -> Option<&TailBatch> {
        self.batches.back()
    }

    /// Memory held, in bytes.
    #[cfg(test)]
    fn memory(&self) -> usize {
        self.runs.iter().map(Run::memory).sum()
    }

    /// Adds a batch at the end. Gives the memory newly held.
    pub(super) fn push(&mut self, base: i64, last: i64, max_timestamp: i64, position: u64, data: Bytes) -> usize {
        assert!(base <= last, "batch {base}..={last}");
        assert!(self.batches.back().is_none_or(|b| b.last + 1 == base), "batch {base} after {:?}", self.batches.back());
        let len = u32::try_from(data.len()).expect("a batch is smaller than 4 GiB: its length is an i32");
        let (at, added) = if data.len() >= OWNED_BYTES_MIN {
            self.runs.push_back(Run { last, batches: 0, cached: false, data: RunData::Owned(data) });
            (0, len as usize)
        } else {
            self.copy_into_chunk(&data)
        };
        let run = self.first_run + self.runs.len() as u64 - 1;
        let holder = self.runs.back_mut().expect("just made or found");
        holder.last = last;
        holder.batches += 1;
        self.batches.push_back(TailBatch { base, last, max_timestamp, position, len, run, at });
        added
    }

    fn copy_into_chunk(&mut self, data: &[u8]) -> (u32, usize) {
        let fits = matches!(self.runs.back(), Some(Run { data: RunData::Chunk(c), .. }) if c.remaining() >= data.len());
        let mut added = 0;
        if !fits {
            // Doubling: a partition with a trickle stays small, a busy one has few chunks.
            self.chunk_bytes = (self.chunk_bytes * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
            let capacity = self.chunk_bytes.max(data.len());
            let chunk = AppendBuf::with_capacity(capacity);
            added = capacity;
            self.runs.push_back(Run { last: -1, batches: 0, cached: false, data: RunData::Chunk(chunk) });
        }
        let Some(Run { data: RunData::Chunk(chunk), .. }) = self.runs.back_mut() else {
            unreachable!("the last run is a chunk with room")
        };
        let range = chunk.append(data);
        (range.start as u32, added)
    }

    /// The index of the batch that holds `offset`, or of the first one after it; `None` when `offset` is before the
    /// first resident batch or nothing is resident.
    pub(super) fn find(&self, offset: i64) -> Option<usize> {
        if offset < self.start()? {
            return None;
        }
        // What commits ask for is nearly always one of the last: found without a search through memory that is cold.
        let near = self.batches.iter().rev().take(NEAR_THE_END).take_while(|b| b.last >= offset).count();
        if near < NEAR_THE_END {
            return Some(self.batches.len() - near);
        }
        Some(self.batches.partition_point(|b| b.last < offset))
    }

    /// Whole batches from index `from` while `take` says so, contiguous ones merged.
    pub(super) fn gather(&self, from: usize, mut take: impl FnMut(&TailBatch, usize) -> bool) -> Gathered {
        let mut gathered = Gathered::default();
        let mut open: Option<(u64, u32, u32)> = None;
        for batch in self.batches.range(from.min(self.batches.len())..) {
            if !take(batch, gathered.bytes) {
                break;
            }
            gathered.bytes += batch.len as usize;
            gathered.batches += 1;
            open = Some(match open {
                Some((run, start, end)) if run == batch.run && end == batch.at => (run, start, batch.end_in_run()),
                other => {
                    gathered.parts.extend(other.map(|piece| self.piece(piece)));
                    (batch.run, batch.at, batch.end_in_run())
                }
            });
        }
        gathered.parts.extend(open.map(|piece| self.piece(piece)));
        gathered
    }

    /// The batches from the one that holds `from`, or the first one after it, to the last that ends below `to`, and their
    /// bytes; `None` when `from` is before the first resident batch or nothing is resident.
    pub(super) fn between(&self, from: i64, to: i64) -> Option<(Range<usize>, usize)> {
        let start = self.find(from)?;
        let mut bytes = 0;
        let whole = self.batches.range(start..).take_while(|b| b.last < to);
        let count = whole.inspect(|b| bytes += b.len as usize).count();
        Some((start..start + count, bytes))
    }

    /// Gives the bytes of the batches with these indexes, in their order, neighbours in one piece.
    pub(super) fn pieces(&self, batches: Range<usize>, mut put: impl FnMut(&[u8])) {
        let mut open: Option<(u64, u32, u32)> = None;
        for batch in self.batches.range(batches) {
            open = Some(match open {
                Some((run, start, end)) if run == batch.run && end == batch.at => (run, start, batch.end_in_run()),
                other => {
                    other.into_iter().for_each(|piece| put(self.bytes_of(piece)));
                    (batch.run, batch.at, batch.end_in_run())
                }
            });
        }
        open.into_iter().for_each(|piece| put(self.bytes_of(piece)));
    }

    fn bytes_of(&self, (run, from, to): (u64, u32, u32)) -> &[u8] {
        let range = from as usize..to as usize;
        match &self.runs[(run - self.first_run) as usize].data {
            RunData::Chunk(chunk) => &chunk.written()[range],
            RunData::Owned(bytes) => &bytes[range],
        }
    }

    fn piece(&self, (run, from, to): (u64, u32, u32)) -> Bytes {
        self.runs[(run - self.first_run) as usize].slice(from, to)
    }

    /// The `count` bytes of the segment right before batch `index`, if they are resident.
    pub(super) fn bytes_before(&self, index: usize, count: usize) -> Option<Vec<Bytes>> {
        let mut parts = Vec::new();
        let (mut at, mut missing) = (index, count);
        let mut position = self.batches.get(index)?.position;
        while missing > 0 {
            at = at.checked_sub(1)?;
            let batch = &self.batches[at];
            if batch.end_position() != position {
                return None;
            }
            let take = missing.min(batch.len as usize) as u32;
            parts.push(self.piece((batch.run, batch.end_in_run() - take, batch.end_in_run())));
            missing -= take as usize;
            position = batch.position;
        }
        parts.reverse();
        Some(parts)
    }

    /// Drops batches from `offset` on (a batch that holds it, too). Gives the memory freed.
    pub(super) fn truncate(&mut self, offset: i64) -> usize {
        let mut freed = 0;
        while let Some(batch) = self.batches.back().filter(|b| b.last >= offset) {
            let run = (batch.run - self.first_run) as usize;
            assert!(run + 1 == self.runs.len(), "the last batch is in the last run");
            let holder = &mut self.runs[run];
            holder.batches -= 1;
            holder.last = batch.base - 1;
            self.batches.pop_back();
            if holder.batches == 0 {
                freed += self.runs.pop_back().expect("just used").memory();
            }
        }
        freed
    }

    /// The runs with batches of `from..to` that are wholly below `to` and not in the list of what may be evicted: put
    /// them there, after a flush up to `to`.
    pub(super) fn newly_cached(&mut self, from: i64, to: i64) -> Vec<RunRef> {
        let mut found: Vec<RunRef> = Vec::new();
        let start = self.batches.partition_point(|b| b.last < from);
        let mut flushed = 0;
        for batch in self.batches.range(start..).take_while(|b| b.last < to) {
            flushed += batch.len as usize;
            let run = &mut self.runs[(batch.run - self.first_run) as usize];
            if run.last < to && !run.cached {
                run.cached = true;
                found.push(RunRef { run: batch.run, memory: run.memory() });
            }
        }
        // One of thousands gets little between two flushes: what its chunks leave unused is then a part of that.
        self.chunk_bytes = self.chunk_bytes.min(flushed / 8);
        found
    }

    /// Drops the batches that end before `offset`: what is on disk of them changed.
    pub(super) fn forget_before(&mut self, offset: i64) {
        while let Some(batch) = self.batches.front().filter(|b| b.last < offset) {
            assert_eq!(batch.run, self.first_run, "batches and runs go in step");
            let holder = self.runs.front_mut().expect("a resident batch is in a run");
            holder.batches -= 1;
            if holder.batches == 0 {
                self.runs.pop_front();
                self.first_run += 1;
            }
            self.batches.pop_front();
        }
    }

    /// Drops runs from the front through number `run`, as far as all their batches are below `flushed`. Gives the memory freed.
    pub(super) fn evict(&mut self, run: u64, flushed: i64) -> usize {
        let mut freed = 0;
        while self.first_run <= run {
            let Some(front) = self.runs.front_mut() else { break };
            if front.last >= flushed {
                // It grew since it was listed: the next flush lists it again.
                front.cached = false;
                break;
            }
            for _ in 0..front.batches {
                let batch = self.batches.pop_front().expect("a run's batches are resident");
                assert_eq!(batch.run, self.first_run, "batches and runs go in step");
            }
            freed += front.memory();
            self.runs.pop_front();
            self.first_run += 1;
        }
        if self.runs.is_empty() {
            self.batches.shrink_to(4);
            self.runs.shrink_to(2);
            self.chunk_bytes = 0;
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(sizes: &[usize]) -> Tail {
        let mut tail = Tail::default();
        let mut position = 0;
        for (i, size) in sizes.iter().enumerate() {
            let base = i as i64 * 10;
            tail.push(base, base + 9, 0, position, Bytes::from(vec![i as u8; *size]));
            position += *size as u64;
        }
        tail
    }

    fn joined(parts: &[Bytes]) -> Vec<u8> {
        parts.concat()
    }

    #[test]
    fn small_neighbours_come_out_as_one_slice() {
        let tail = tail(&[100, 200, 300]);
        let all = tail.gather(0, |_, _| true);
        assert_eq!((all.parts.len(), all.bytes, all.batches), (1, 600, 3));
        assert_eq!(joined(&all.parts), [vec![0; 100], vec![1; 200], vec![2; 300]].concat());
    }

    #[test]
    fn large_batches_keep_their_buffer() {
        let tail = tail(&[100, 20_000, 100]);
        let all = tail.gather(0, |_, _| true);
        assert_eq!(all.parts.len(), 3);
        assert_eq!(all.bytes, 20_200);
        assert_eq!(tail.gather(1, |b, taken| taken + b.len as usize <= 20_000).batches, 1);
    }

    #[test]
    fn find_gives_the_holder() {
        let tail = tail(&[100, 100]);
        assert_eq!(tail.find(0), Some(0));
        assert_eq!(tail.find(9), Some(0));
        assert_eq!(tail.find(10), Some(1));
        assert_eq!(tail.find(20), Some(2));
        assert_eq!(tail.find(-1), None);
    }

    #[test]
    fn all_ways_to_find_agree() {
        let tail = tail(&[100; 9]);
        for offset in -1..95 {
            let plain = tail.batches.iter().position(|b| b.last >= offset).or(Some(9)).filter(|_| offset >= 0);
            assert_eq!(tail.find(offset), plain, "offset {offset}");
        }
    }

    #[test]
    fn pieces_are_what_gather_gives() {
        let tail = tail(&[100, 200, 20_000, 300, 400]);
        for (from, to) in [(0, 50), (0, 15), (10, 40), (20, 30), (30, 50), (41, 50), (45, 45)] {
            let (range, bytes) = tail.between(from, to).expect("resident");
            let mut pieces = Vec::new();
            tail.pieces(range.clone(), |piece| pieces.push(piece.to_vec()));
            let gathered = tail.gather(range.start, |b, _| b.last < to);
            assert_eq!((pieces.concat(), bytes), (joined(&gathered.parts), gathered.bytes), "{from}..{to}");
            assert_eq!(pieces.len(), gathered.parts.len(), "{from}..{to}: neighbours come in one piece");
        }
        assert_eq!(tail.between(-1, 50), None);
    }

    #[test]
    fn bytes_before_crosses_runs() {
        let tail = tail(&[100, 20_000, 100]);
        assert_eq!(joined(&tail.bytes_before(2, 20_050).expect("resident")), [vec![0; 50], vec![1; 20_000]].concat());
        assert_eq!(tail.bytes_before(1, 101), None);
        assert_eq!(tail.bytes_before(0, 0).map(|p| p.len()), Some(0));
    }

    #[test]
    fn truncate_and_push_again() {
        let mut tail = tail(&[100, 100, 20_000]);
        assert_eq!(tail.truncate(15), 20_000);
        assert_eq!(tail.last().map(|b| b.last), Some(9));
        tail.push(10, 10, 0, 100, Bytes::from_static(b"xy"));
        assert_eq!(joined(&tail.gather(1, |_, _| true).parts), b"xy");
        assert_eq!(tail.truncate(0), CHUNK_BYTES_MIN);
        assert_eq!((tail.len(), tail.memory()), (0, 0));
    }

    #[test]
    fn forgetting_keeps_what_follows() {
        let mut tail = tail(&[100, 100, 20_000, 100]);
        let runs = tail.newly_cached(0, 40);
        tail.forget_before(10);
        assert_eq!((tail.start(), tail.runs.len()), (Some(10), 3), "the first run holds another batch");
        tail.forget_before(30);
        assert_eq!((tail.start(), tail.runs.len()), (Some(30), 1));
        assert_eq!(tail.evict(runs[1].run, 40), 0, "it went before");
        assert!(tail.evict(runs[2].run, 40) > 0);
        assert_eq!(tail.len(), 0);
    }

    #[test]
    fn evict_stops_at_what_is_not_flushed() {
        let mut tail = tail(&[20_000, 20_000, 100, 100]);
        let runs = tail.newly_cached(0, 30);
        assert_eq!(runs.iter().map(|r| r.run).collect::<Vec<_>>(), [0, 1], "the third run holds an unflushed batch");
        assert_eq!(tail.evict(0, 30), 20_000);
        assert_eq!(tail.start(), Some(10));
        assert_eq!(tail.evict(2, 30), 20_000, "run 2 ends at 40");
        assert_eq!(tail.start(), Some(20));
        assert_eq!(tail.newly_cached(20, 40).len(), 1);
        assert_eq!(tail.newly_cached(20, 40).len(), 0, "listed once");
        assert!(tail.evict(2, 40) > 0);
        assert_eq!(tail.len(), 0);
        tail.push(40, 40, 0, 40_200, Bytes::from_static(b"z"));
        assert_eq!(tail.start(), Some(40));
    }
}
