//! Reads: from the tail without a copy, or from segments by index and direct I/O; whole batches, up to the high watermark or the last stable offset.

use super::LogStore;
use super::index_check::may_begin_at;
use super::partition::{Log, Partition};
use super::shared_reads::{PIECE_BYTES, Piece};
use super::types::{AbortedTransaction, Isolation, ReadError, ReadRequest, ReadResult};
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, PartitionId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::index::OffsetEntry;
use crate::log::segment::FileKind;
use crate::log::txn_index::AbortedTxn;
use bytes::{Bytes, BytesMut};
use coreline_io::{IoErrorKind, Runtime};
use futures_util::{StreamExt, stream};
use std::rc::Rc;

/// Reads in flight for one request, at most.
const READS_IN_FLIGHT: usize = 4;
/// A cold read takes at least this much more than was asked for: the way from an index entry to the batch.
const SLACK_BYTES: usize = 16 << 10;

/// What a read finds in memory: the answer, or where to look on disk.
enum Plan {
    /// And the offset after the last record.
    Done(ReadResult, Offset),
    Cold(Cold),
    /// Files are being renamed.
    Wait,
}

/// A read from one segment.
struct Cold {
    result: ReadResult,
    segment: i64,
    /// Batches that begin here or later are in the tail, or not there.
    end_position: u64,
    /// Where the batch with the offset begins, if a reader was here before.
    hint: Option<u64>,
    /// Index entries that are not in the file yet, and how much of the file is valid; none once sealed.
    growing: Option<(u64, Vec<u8>)>,
    /// Offsets below it may be read.
    limit: i64,
    generation: u64,
}

/// Where a sequential reader goes on: the batch that holds `offset` begins at `position` of `segment`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hint {
    segment: i64,
    offset: i64,
    position: u64,
}

/// The last few places where readers stopped.
#[derive(Debug, Default)]
pub(super) struct Hints {
    places: [Option<Hint>; 3],
    next: usize,
}

impl Hints {
    fn find(&self, segment: i64, offset: i64) -> Option<u64> {
        self.places.iter().flatten().find(|h| h.segment == segment && h.offset == offset).map(|h| h.position)
    }

    fn add(&mut self, hint: Hint) {
        self.places[self.next] = Some(hint);
        self.next = (self.next + 1) % self.places.len();
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl<R: Runtime> LogStore<R> {
    pub(super) async fn read_partition(
        self: &Rc<Self>,
        id: PartitionId,
        request: &ReadRequest,
    ) -> Result<ReadResult, ReadError> {
        let partition = self.loaded(id).await?;
        let mut after = None;
        loop {
            let changed = partition.changed.notified();
            let plan = self.with_log(&partition, |log, epoch| {
                check_epoch(request.current_leader_epoch, epoch, log)?;
                plan(log, request, after)
            })?;
            match plan? {
                Plan::Done(result, end) => {
                    if let Some(result) = self.with_aborted(&partition, request, result, end).await? {
                        return Ok(result);
                    }
                    after = None;
                }
                Plan::Wait => changed.await,
                Plan::Cold(cold) => {
                    let (segment, generation) = (cold.segment, cold.generation);
                    let read = self.read_cold(&partition, request, cold).await;
                    if partition.with(|log| log.generation) != Some(generation) {
                        // The log was cut or compacted meanwhile: what was read may be of either side.
                        after = None;
                        continue;
                    }
                    match read {
                        Ok(Some((result, end))) => {
                            if let Some(result) = self.with_aborted(&partition, request, result, end).await? {
                                return Ok(result);
                            }
                            after = None;
                        }
                        // The rest of the segment was compacted away.
                        Ok(None) => after = Some(segment),
                        Err(error) => {
                            tracing::error!(partition = %partition.dir_name(), "{}", error.message);
                            return Err(error);
                        }
                    }
                }
            }
        }
    }

    /// Adds the aborted transactions of what was read up to `end`, if the reader asks for them. None: segments changed.
    async fn with_aborted(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        request: &ReadRequest,
        mut result: ReadResult,
        end: Offset,
    ) -> Result<Option<ReadResult>, ReadError> {
        if request.isolation == Isolation::ReadUncommitted || result.records.is_empty() {
            return Ok(Some(result));
        }
        let Some(found) = self.aborted_between(partition, request.offset, end).await? else { return Ok(None) };
        let of = |txn: &AbortedTxn| AbortedTransaction { producer_id: txn.producer_id, first_offset: txn.first_offset };
        result.aborted = found.iter().map(of).collect();
        Ok(Some(result))
    }

    /// The partition, loaded.
    pub(super) async fn loaded(self: &Rc<Self>, id: PartitionId) -> Result<Rc<Partition>, ReadError> {
        let unknown = || {
            let error = super::append::unknown_partition(id);
            ReadError::new(error.code, error.message)
        };
        let partition = self.partition(id).ok_or_else(unknown)?;
        if !partition.is_ready() {
            self.load(&partition).await?;
        }
        Ok(partition)
    }

    /// Runs `f` on a loaded log, with the leader epoch of this shard's leadership.
    pub(super) fn with_log<T>(
        &self,
        partition: &Partition,
        f: impl FnOnce(&mut Log, LeaderEpoch) -> T,
    ) -> Result<T, ReadError> {
        let epoch = partition.spec.borrow().leader_epoch;
        let gone = || {
            let error = super::append::unknown_partition(partition.id);
            ReadError::new(error.code, error.message)
        };
        partition.with(|log| f(log, epoch)).ok_or_else(gone)
    }

    /// Reads from one segment. Gives also the offset after what was read. None: it holds nothing from the offset on.
    async fn read_cold(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        request: &ReadRequest,
        cold: Cold,
    ) -> Result<Option<(ReadResult, Offset)>, ReadError> {
        let offset = request.offset.0;
        // What the index says is believed once a batch is seen there.
        let (mut position, mut unproven) = match cold.hint {
            Some(position) => (position, false),
            None => (self.lookup(partition, &cold, offset).await?, true),
        };
        unproven &= position > 0;
        let path = self.segment_path(partition, cold.segment, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(read_failed)?;
        let mut rope = Rope::default();
        let mut want = request.max_bytes.saturating_add(SLACK_BYTES);
        let (mut from, mut to) = (None, 0);
        let mut next_offset = offset;
        loop {
            let at = position + to as u64;
            let header = if at >= cold.end_position { None } else { rope.header(to) };
            let Some(header) = header else {
                if at >= cold.end_position {
                    break;
                }
                self.read_more(&file, &mut rope, position, want, &cold).await?;
                if rope.header(to).is_none() {
                    if unproven {
                        self.suspect_index(partition, cold.segment, cold.generation, "an entry is behind the end");
                        (position, unproven, rope) = (0, false, Rope::default());
                        continue;
                    }
                    return Err(damaged(&path, at, "no batch header"));
                }
                continue;
            };
            let named = header.as_ref().is_ok_and(|h| may_begin_at(h, cold.segment, offset));
            if std::mem::take(&mut unproven) && !named {
                self.suspect_index(partition, cold.segment, cold.generation, "an entry names no batch");
                (position, rope) = (0, Rope::default());
                continue;
            }
            let header = header.map_err(|e| damaged(&path, at, &e.to_string()))?;
            let size = header.size_in_bytes();
            if header.last_offset().0 < offset {
                // On the way from the index entry. What is passed is dropped.
                to += size;
                if to >= rope.len() {
                    position += to as u64;
                    (rope, to) = (Rope::default(), 0);
                }
                continue;
            }
            let start = *from.get_or_insert(to);
            let first = start == to;
            let fits = to + size - start <= request.max_bytes || (first && request.at_least_one);
            if header.last_offset().0 >= cold.limit || !fits {
                break;
            }
            if to + size > rope.len() {
                if !first {
                    break;
                }
                want = want.max(to + size);
                self.read_more(&file, &mut rope, position, want, &cold).await?;
                if to + size > rope.len() {
                    return Err(damaged(&path, at, "the batch is longer than the segment"));
                }
            }
            to += size;
            next_offset = header.next_offset().0;
        }
        let mut result = cold.result;
        let Some(start) = from else { return Ok(None) };
        result.records = rope.slices(start, to);
        let hint = Hint { segment: cold.segment, offset: next_offset, position: position + to as u64 };
        if to > start {
            partition.with(|log| {
                if log.generation == cold.generation {
                    log.hints.add(hint);
                }
            });
        }
        if cold.hint.is_some() {
            let end = position + to as u64;
            self.read_ahead(&file, (cold.generation, cold.segment), end, request.max_bytes as u64, cold.end_position);
        }
        self.count(|s| s.cold_bytes += rope.len() as u64);
        Ok(Some((result, Offset(next_offset))))
    }

    /// Reads from the end of `rope` until it holds `want` bytes or the segment ends; several pieces at a time.
    async fn read_more(
        self: &Rc<Self>,
        file: &Rc<R::File>,
        rope: &mut Rope,
        position: u64,
        want: usize,
        cold: &Cold,
    ) -> Result<(), ReadError> {
        let start = position + rope.len() as u64;
        let missing = want.saturating_sub(rope.len()).max(SLACK_BYTES) as u64;
        let end = (start + missing).min(cold.end_position);
        let pieces = (start / PIECE_BYTES..end.div_ceil(PIECE_BYTES)).map(|n| {
            let at = n * PIECE_BYTES;
            let len = PIECE_BYTES.min(cold.end_position - at) as usize;
            Piece { generation: cold.generation, segment: cold.segment, at, len }
        });
        let mut reads =
            stream::iter(pieces).map(|piece| self.read_piece(file.clone(), piece)).buffered(READS_IN_FLIGHT);
        let mut skip = (start % PIECE_BYTES) as usize;
        while let Some(read) = reads.next().await {
            let bytes = read?;
            let short = bytes.len() < PIECE_BYTES as usize;
            rope.push(bytes.slice(skip.min(bytes.len())..));
            if short {
                // The segment's end, or a file that is shorter than it should be: nothing may follow.
                break;
            }
            skip = 0;
        }
        Ok(())
    }

    /// Where a scan for `offset` begins, by the offset index.
    async fn lookup(self: &Rc<Self>, partition: &Rc<Partition>, cold: &Cold, offset: i64) -> Result<u64, ReadError> {
        let base = cold.segment;
        if let Some((valid, pending)) = &cold.growing {
            if OffsetEntry::get(pending, base, 0).is_some_and(|e| e.offset <= offset) {
                return Ok(u64::from(OffsetEntry::lookup(pending, base, offset)));
            }
            if *valid == 0 {
                return Ok(0);
            }
        }
        let Some((valid, _)) = &cold.growing else {
            let index = self.sealed_index(partition, base, FileKind::OffsetIndex).await?;
            return Ok(u64::from(OffsetEntry::lookup(&index, base, offset)));
        };
        let index = self.growing_index(partition, base, FileKind::OffsetIndex).await?;
        Ok(u64::from(OffsetEntry::lookup(&index[..(*valid as usize).min(index.len())], base, offset)))
    }

    /// The index file of a segment that grows, as far as it is written.
    pub(super) async fn growing_index(
        &self,
        partition: &Partition,
        base: i64,
        kind: FileKind,
    ) -> Result<Bytes, ReadError> {
        match self.rt.read_file(&self.segment_path(partition, base, kind)).await {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            // Without an index a scan begins at the segment's start.
            Err(error) if error.kind == IoErrorKind::NotFound => Ok(Bytes::new()),
            Err(error) => Err(read_failed(error)),
        }
    }
}

/// Compares the epoch a client believes in with ours.
pub(super) fn check_epoch(theirs: Option<LeaderEpoch>, ours: LeaderEpoch, log: &Log) -> Result<(), ReadError> {
    let Some(theirs) = theirs.filter(|e| e.0 >= 0 && *e != ours) else { return Ok(()) };
    let code = if theirs < ours { ErrorCode::FencedLeaderEpoch } else { ErrorCode::UnknownLeaderEpoch };
    let mut error = ReadError::new(code, format!("leader epoch {theirs} in the request, {ours} here"));
    error.offsets = Some(log.ends());
    Err(error)
}

/// `after`: segments up to this one hold nothing from the offset on.
fn plan(log: &Log, request: &ReadRequest, after: Option<i64>) -> Result<Plan, ReadError> {
    let ends = log.ends();
    let offset = request.offset.0;
    if offset < log.log_start || offset > log.high_watermark {
        let message = format!("offset {offset} is not in {}..={}", log.log_start, log.high_watermark);
        let mut error = ReadError::new(ErrorCode::OffsetOutOfRange, message);
        error.offsets = Some(ends);
        return Err(error);
    }
    let limit = ends.readable(request.isolation);
    let mut result = ReadResult {
        high_watermark: ends.high_watermark,
        last_stable_offset: ends.last_stable,
        log_start_offset: ends.log_start,
        records: Vec::new(),
        aborted: Vec::new(),
    };
    if offset >= limit.0 {
        return Ok(Plan::Done(result, request.offset));
    }
    let segment = match after {
        None => log.segments.get(log.segment_of(offset)),
        Some(base) => log.segments.get(log.segments.partition_point(|s| s.base <= base)),
    };
    // Between the last batch that is left of a compacted segment and the first that is resident there may be nothing.
    let resident = log.tail.start().filter(|start| after.is_some() && segment.is_none_or(|s| *start <= s.base));
    if let Some(from) = log.tail.find(offset).or(resident.map(|_| 0)) {
        let mut end = offset;
        let gathered = log.tail.gather(from, |b, taken| {
            let first = taken == 0 && request.at_least_one;
            let take = b.last < limit.0 && (first || taken + b.len as usize <= request.max_bytes);
            if take {
                end = b.last + 1;
            }
            take
        });
        result.records = gathered.parts;
        return Ok(Plan::Done(result, Offset(end)));
    }
    let Some(segment) = segment else { return Ok(Plan::Done(result, request.offset)) };
    if log.renaming {
        return Ok(Plan::Wait);
    }
    let next = log.tail.get(0).filter(|b| log.segments[log.segment_of(b.base)].base == segment.base);
    let growing = segment.index.as_ref().map(|i| (i.offsets.written, i.offsets.pending.clone()));
    Ok(Plan::Cold(Cold {
        result,
        segment: segment.base,
        end_position: next.map_or(segment.size, |b| b.position),
        hint: log.hints.find(segment.base, offset),
        growing,
        limit: limit.0,
        generation: log.generation,
    }))
}

pub(super) fn read_failed(error: coreline_io::IoError) -> ReadError {
    ReadError::new(ErrorCode::KafkaStorageError, error.to_string())
}

fn damaged(path: &std::path::Path, at: u64, what: &str) -> ReadError {
    ReadError::new(ErrorCode::KafkaStorageError, format!("segment {} is damaged at byte {at}: {what}", path.display()))
}

/// Bytes of a segment in several pieces.
#[derive(Debug, Default)]
struct Rope {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Rope {
    fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if !piece.is_empty() {
            self.pieces.push(piece);
        }
    }

    fn len(&self) -> usize {
        self.len
    }

    /// The header at `at`, if all its bytes are there.
    fn header(&self, at: usize) -> Option<Result<RecordBatchHeader, batch::BatchError>> {
        if at + batch::HEADER_LEN > self.len {
            return None;
        }
        let parts = self.slices(at, at + batch::HEADER_LEN);
        if let [one] = parts.as_slice() {
            return Some(batch::parse_header(one));
        }
        let mut joined = BytesMut::with_capacity(batch::HEADER_LEN);
        parts.iter().for_each(|p| joined.extend_from_slice(p));
        Some(batch::parse_header(&joined))
    }

    fn slices(&self, from: usize, to: usize) -> Vec<Bytes> {
        let mut found = Vec::new();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + piece.len();
            if end > from && start < to {
                found.push(piece.slice(from.max(start) - start..to.min(end) - start));
            }
            start = end;
        }
        found
    }
}

/// Offsets of a partition that is loaded, for an error answer.
pub(super) fn with_ends(mut error: ReadError, log: &Log) -> ReadError {
    error.offsets = Some(log.ends());
    error
}

/// The epoch that wrote `offset`, or -1.
pub(super) fn epoch_of(log: &Log, offset: Offset) -> LeaderEpoch {
    log.epochs.epoch_of(offset).unwrap_or(LeaderEpoch(-1))
}
