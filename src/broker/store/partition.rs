//! One partition: its phases (unloaded, loading, ready, deleted) and, when ready, the state of its log.
//!
//! No I/O here: the drivers (`journal_writer`, `flush`, `load`, `read`) ask for a plan, do it, and report back.

use super::index_builder::IndexBuilder;
use super::read::Hints;
use super::tail::{RunRef, Tail, TailBatch};
use super::take_in::Intakes;
use super::types::{AppendError, AppendOrigin, Appended, CommitTimes, EndOffsets, PartitionSpec, TxnAppend, TxnMarker};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::intake::Accepted;
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::log_config::Durability;
use crate::log::producer_state::{ProducerStates, Undo};
use crate::log::txn_index::{AbortedTxn, FileNote};
use crate::log::verification::Verifications;
use bytes::Bytes;
use coreline_io::sync::{Notify, OneshotSender};
use coreline_io::{BLOCK, Monotonic};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::num::NonZeroI64;
use std::ops::Range;

/// Bytes in one write to a segment, at most (one batch more).
const PIECE_BYTES_MAX: usize = 4 << 20;

/// A partition of this shard. Shared by the map of the store and the queues; lives until deleted.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) id: PartitionId,
    pub(super) spec: RefCell<PartitionSpec>,
    phase: RefCell<Phase>,
    /// Appends that are not ready for the log yet.
    pub(super) intakes: Intakes,
    /// Told at every change of phase, and when a flush or a direct write of this partition ends.
    pub(super) changed: Notify,
    /// Why the last load failed.
    pub(super) load_error: RefCell<Option<String>>,
    /// Nothing goes by age before this time (wall clock, milliseconds), as long as it is not loaded.
    pub(super) retention_due_ms: Cell<i64>,
    /// Waits in the flusher's queue.
    pub(super) flush_queued: Cell<bool>,
    /// Waits in the journal writer's queue.
    pub(super) commit_queued: Cell<bool>,
    /// The [states](super::states) may say something of its files.
    pub(super) stated: Cell<bool>,
    /// On its way to another shard: requests do not find it, whoever flushes does, until it has left.
    pub(super) leaving: Cell<bool>,
}

/// There are ten thousands of them, and most are idle: the test `an_idle_partition_is_small`, while it is compiled.
const _: () =
    assert!(size_of::<Partition>() + size_of::<Log>() + size_of::<Segment>() + size_of::<IndexBuilder>() < 1200);

#[derive(Debug)]
pub(super) enum Phase {
    Unloaded,
    /// Appends that came meanwhile, in order.
    Loading(Vec<QueuedAppend>),
    Ready(Box<Log>),
    Deleted,
}

/// The answer of an append, and how it came to it.
pub(super) type AppendResult = Result<(Appended, CommitTimes), AppendError>;

/// What is appended: batches are bytes as they came, then what the log accepts.
#[derive(Debug)]
pub(super) enum Payload<B> {
    /// Batches.
    Batches(B, TxnAppend),
    /// The end of a transaction.
    Marker(TxnMarker),
}

/// An append that came before the log was loaded.
#[derive(Debug)]
pub(super) struct QueuedAppend {
    pub(super) payload: Payload<Accepted>,
    pub(super) origin: AppendOrigin,
    /// When it could go into the log, if it had to wait for that.
    pub(super) entered: Monotonic,
    pub(super) sender: OneshotSender<AppendResult>,
}

impl Partition {
    pub(super) fn new(spec: PartitionSpec) -> Self {
        Self {
            id: spec.id,
            spec: RefCell::new(spec),
            phase: RefCell::new(Phase::Unloaded),
            intakes: Intakes::default(),
            changed: Notify::default(),
            load_error: RefCell::default(),
            retention_due_ms: Cell::new(i64::MIN),
            flush_queued: Cell::new(false),
            commit_queued: Cell::new(false),
            stated: Cell::new(false),
            leaving: Cell::new(false),
        }
    }

    /// Its own share of `bytes`, from a half to one and a half: partitions that grow alike are not to be flushed all at once.
    pub(super) fn flush_share(&self, bytes: usize) -> usize {
        let salt = (self.id.topic.0.as_u128() as u64).wrapping_add(self.id.index.0 as u64);
        // The upper bits of a product with 2^64 divided by the golden ratio: neighbours are far apart.
        let part = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56;
        bytes / 2 + bytes / 256 * part as usize
    }

    /// `<topic>-<index>`
    pub(super) fn dir_name(&self) -> String {
        format!("{}-{}", self.spec.borrow().topic, self.id.index)
    }

    /// Runs `f` on the log if it is loaded. `f` must not call back into the store.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Log) -> T) -> Option<T> {
        match &mut *self.phase.borrow_mut() {
            Phase::Ready(log) => Some(f(log)),
            _ => None,
        }
    }

    pub(super) fn with_phase<T>(&self, f: impl FnOnce(&mut Phase) -> T) -> T {
        f(&mut self.phase.borrow_mut())
    }

    /// It was deleted.
    pub(super) fn is_gone(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Deleted)
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(&*self.phase.borrow(), Phase::Ready(_))
    }
}

/// Who works on the newest batches of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Commit {
    /// Nobody.
    Idle,
    /// They are in a group commit under way.
    Journal,
    /// They are being written straight to the segment.
    Direct,
}

/// A file of the log, on disk or about to be.
#[derive(Debug)]
pub(super) struct Segment {
    /// Offset of its first record, and its name.
    pub(super) base: i64,
    /// Bytes of all its batches, flushed or not.
    pub(super) size: u64,
    /// The largest timestamp of its first batch: `segment.ms` counts from it.
    pub(super) first_timestamp: Option<i64>,
    /// The largest timestamp of its batches; none until it is read from a sealed segment's index.
    pub(super) max_timestamp: Option<i64>,
    /// The file exists.
    pub(super) on_disk: bool,
    /// What is known of its indexes; none once it is sealed (the files are then complete).
    pub(super) index: Option<Box<IndexBuilder>>,
    /// Aborted transactions whose marker is here, oldest first; none once it is sealed (the file has them).
    pub(super) aborted: Vec<AbortedTxn>,
    pub(super) txn_file: TxnFile,
    /// Its indexes are missing or wrong, and being made in the background.
    pub(super) rebuilding: bool,
    /// Sealed: its offset index was compared with its batches, or made from them.
    pub(super) offsets_checked: bool,
    /// … and its time index.
    pub(super) times_checked: bool,
    /// What its index files hold is not known to be durable: it is written again when the segment is completed.
    pub(super) index_unsettled: bool,
}

/// What is known of a segment's transaction index file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TxnFile {
    /// There is none.
    Missing,
    /// It holds these: the first ones of `aborted`, or of a sealed segment all.
    Holds(FileNote),
    /// There is one from before the last load, perhaps of what has been cut since; and what was noted of it.
    Stale(Option<FileNote>),
    /// There is none, and perhaps there should be: its segment is being looked through.
    Unknown,
}

impl TxnFile {
    /// What is known of its bytes.
    pub(super) fn note(self) -> Option<FileNote> {
        match self {
            Self::Holds(note) | Self::Stale(Some(note)) => Some(note),
            Self::Missing | Self::Stale(None) | Self::Unknown => None,
        }
    }
}

impl Segment {
    pub(super) fn new(base: i64) -> Self {
        let index = Some(Box::new(IndexBuilder::new(base)));
        let (first_timestamp, max_timestamp) = (None, Some(-1));
        Self {
            base,
            size: 0,
            first_timestamp,
            max_timestamp,
            on_disk: false,
            index,
            aborted: Vec::new(),
            txn_file: TxnFile::Missing,
            rebuilding: false,
            offsets_checked: false,
            times_checked: false,
            index_unsettled: false,
        }
    }
}

/// Somebody who waits until offsets below `end` are committed.
#[derive(Debug)]
struct Waiter {
    end: i64,
    appended: Appended,
    entered: Monotonic,
    sender: OneshotSender<AppendResult>,
}

/// A loaded log.
///
/// ```text
/// log_start ≤ high_watermark ≤ committed_end ≤ submitted_end ≤ log_end
/// synced_end ≤ flushed_end ≤ log_end        what is flushed or committed is in the tail or in segments
/// ```
#[derive(Debug)]
pub(super) struct Log {
    pub(super) log_start: i64,
    /// Acknowledged by this replica: durable, or written where that is what was promised.
    pub(super) committed_end: i64,
    /// Handed to a group commit or a direct write.
    pub(super) submitted_end: i64,
    pub(super) log_end: i64,
    pub(super) high_watermark: i64,
    /// Its own for each partition, so that not all roll at once (`segment.jitter.ms`).
    pub(super) jitter_salt: u32,
    /// Written to segments.
    pub(super) flushed_end: i64,
    /// Written to segments and synced.
    pub(super) synced_end: i64,
    pub(super) commit: Commit,
    /// A flush or a direct write has the segments.
    pub(super) flushing: bool,
    /// No commit may begin: a truncation waits or works.
    pub(super) held: bool,
    /// What waits below it goes into one group with what was [joined](super::joined) to it.
    pub(super) joined_end: Option<NonZeroI64>,
    /// A compacted segment takes its place: no segment may be removed.
    pub(super) swapping: bool,
    /// … and files are being renamed: cold reads wait.
    pub(super) renaming: bool,
    /// The active segment is closed before the next batch, whatever is in it.
    pub(super) close_active: bool,
    /// Up to where the log was compacted; none while the checkpoint was not read.
    pub(super) cleaned_end: Option<i64>,
    pub(super) tail: Tail,
    /// Oldest first; never empty.
    pub(super) segments: Vec<Segment>,
    pub(super) epochs: LeaderEpochs,
    /// The checkpoint file is older than `epochs`.
    pub(super) epochs_dirty: bool,
    pub(super) producers: ProducerStates,
    /// Producers whose coordinator is asked whether they may begin a transaction here.
    pub(super) verifications: Verifications,
    /// Markers that are not committed, and their offsets.
    pub(super) markers: VecDeque<(i64, TxnMarker)>,
    /// The start is newer than its checkpoint file.
    pub(super) log_start_dirty: bool,
    /// The directory and `partition.metadata` are there.
    pub(super) dir_made: bool,
    /// A segment's file was made, and its name is not durable yet.
    pub(super) names_dirty: bool,
    /// A failed write may have left bytes behind the end of the last segment.
    pub(super) cut_before_write: bool,
    /// Producer state at an offset, to be written once all below it is flushed.
    pub(super) pending_snapshots: VecDeque<(i64, Vec<u8>)>,
    /// Snapshot files that exist, oldest first.
    pub(super) snapshots: Vec<i64>,
    pub(super) bytes_since_snapshot: u64,
    /// Bytes from `committed_end` to `log_end`.
    pub(super) waiting_bytes: usize,
    /// Committed through the journal and not flushed yet.
    pub(super) journaled_bytes: usize,
    /// Written straight to the segment and acknowledged, not synced. While there are any, the journal is not used: what
    /// it holds must follow what is durable in segments.
    pub(super) unsynced_bytes: u64,
    /// Records acknowledged since the last sync, for `flush.messages`.
    pub(super) unsynced_records: i64,
    /// When the first of them was acknowledged, for `flush.ms`.
    pub(super) unsynced_since: Option<Monotonic>,
    /// Changes when bytes that a reader may be looking for are taken away.
    pub(super) generation: u64,
    pub(super) hints: Hints,
    /// Something was appended since it was loaded.
    pub(super) touched: bool,
    undo: VecDeque<(i64, Undo)>,
    waiters: VecDeque<Waiter>,
}

/// What goes into a group commit.
#[derive(Debug)]
pub(super) struct Submitted {
    /// The offset of its first record.
    pub(super) base: i64,
    /// Which batches of the tail.
    pub(super) range: Range<usize>,
    /// Their bytes.
    pub(super) bytes: usize,
}

/// One write to a segment.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) segment_base: i64,
    /// The file is to be made.
    pub(super) create: bool,
    /// Where the new bytes begin in the segment.
    pub(super) position: u64,
    /// The bytes of the block before `position`, if they are resident.
    pub(super) prefix: Option<Vec<Bytes>>,
    pub(super) parts: Vec<Bytes>,
    pub(super) bytes: usize,
    /// The offset after the last batch.
    pub(super) end: i64,
    pub(super) batches: Vec<TailBatch>,
}

impl Piece {
    /// Bytes of the block before `position`.
    pub(super) fn prefix_len(&self) -> usize {
        (self.position % BLOCK as u64) as usize
    }
}

/// What a report of progress asks of the driver.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The new high watermark, if it moved.
    pub(super) high_watermark: Option<i64>,
    /// Markers that are committed now.
    pub(super) markers: Vec<TxnMarker>,
    /// A segment began with what is committed now: the one before it is full, and all of it may be cleaned.
    pub(super) rolled: bool,
}

/// What a finished flush frees.
#[derive(Debug, Default)]
pub(super) struct Freed {
    /// Bytes that no longer count as journaled and unflushed.
    pub(super) journaled: usize,
    /// Runs that may be evicted.
    pub(super) runs: Vec<RunRef>,
}

impl Log {
    /// A log that ends at `end`, all of it flushed and synced.
    pub(super) fn new(log_start: i64, end: i64, segments: Vec<Segment>) -> Self {
        assert!(!segments.is_empty(), "a log has a segment");
        Self {
            log_start,
            committed_end: end,
            submitted_end: end,
            log_end: end,
            high_watermark: end,
            jitter_salt: 0,
            flushed_end: end,
            synced_end: end,
            commit: Commit::Idle,
            flushing: false,
            held: false,
            joined_end: None,
            swapping: false,
            renaming: false,
            close_active: false,
            cleaned_end: None,
            tail: Tail::default(),
            segments,
            epochs: LeaderEpochs::default(),
            epochs_dirty: false,
            producers: ProducerStates::default(),
            verifications: Verifications::default(),
            markers: VecDeque::new(),
            log_start_dirty: false,
            dir_made: false,
            names_dirty: false,
            cut_before_write: false,
            pending_snapshots: VecDeque::new(),
            snapshots: Vec::new(),
            bytes_since_snapshot: 0,
            waiting_bytes: 0,
            journaled_bytes: 0,
            unsynced_bytes: 0,
            unsynced_records: 0,
            unsynced_since: None,
            generation: 0,
            hints: Hints::default(),
            touched: false,
            undo: VecDeque::new(),
            waiters: VecDeque::new(),
        }
    }

    pub(super) fn assert_invariants(&self) {
        assert!(
            self.log_start <= self.high_watermark
                && self.high_watermark <= self.committed_end
                && self.committed_end <= self.submitted_end
                && self.submitted_end <= self.log_end
                && self.synced_end <= self.flushed_end
                && self.flushed_end <= self.log_end,
            "start {} hw {} committed {} submitted {} end {} synced {} flushed {}",
            self.log_start,
            self.high_watermark,
            self.committed_end,
            self.submitted_end,
            self.log_end,
            self.synced_end,
            self.flushed_end
        );
        assert!(self.tail.last().is_none_or(|b| b.last + 1 == self.log_end), "the tail reaches the log end");
        assert!(self.flushed_end == self.log_end || self.tail.start().is_some_and(|s| s <= self.flushed_end));
    }

    pub(super) fn ends(&self) -> EndOffsets {
        EndOffsets {
            log_start: Offset(self.log_start),
            last_stable: Offset(self.last_stable()),
            high_watermark: Offset(self.high_watermark),
            log_end: Offset(self.log_end),
        }
    }

    /// Offsets below it are committed, and of no open transaction.
    pub(super) fn last_stable(&self) -> i64 {
        let unstable = self.producers.first_unstable().map_or(i64::MAX, |first| first.0);
        unstable.min(self.high_watermark).max(self.log_start)
    }

    /// Bytes of all segments from the log's start on.
    pub(super) fn size(&self) -> u64 {
        self.segments.iter().map(|s| s.size).sum()
    }

    pub(super) fn active(&mut self) -> &mut Segment {
        self.segments.last_mut().expect("a log has a segment")
    }

    /// The index of the segment that holds `offset`.
    pub(super) fn segment_of(&self, offset: i64) -> usize {
        self.segments.partition_point(|s| s.base <= offset).saturating_sub(1)
    }

    /// The log begins at `start` now, if that is later.
    pub(super) fn move_start(&mut self, start: i64) {
        let start = start.min(self.log_end);
        if start <= self.log_start {
            return;
        }
        self.log_start = start;
        self.log_start_dirty = true;
        self.epochs_dirty |= self.epochs.truncate_from_start(Offset(start));
        self.assert_invariants();
    }

    pub(super) fn remember_undo(&mut self, offset: i64, undo: Option<Undo>) {
        self.undo.extend(undo.map(|u| (offset, u)));
    }

    /// Registers who waits for `end`. Answers at once if it is committed.
    pub(super) fn wait_for(
        &mut self,
        end: i64,
        appended: Appended,
        entered: Monotonic,
        sender: OneshotSender<AppendResult>,
    ) {
        if end <= self.committed_end {
            sender.send(Ok((appended, CommitTimes { entered, ..CommitTimes::default() })));
            return;
        }
        // Nearly always at the back; the duplicate of an older batch goes before newer ones.
        let at = self.waiters.iter().rposition(|w| w.end <= end).map_or(0, |i| i + 1);
        self.waiters.insert(at, Waiter { end, appended, entered, sender });
    }

    /// Bytes that wait for a commit to take them.
    pub(super) fn bytes_to_submit(&self) -> usize {
        if self.submitted_end == self.committed_end { self.waiting_bytes } else { 0 }
    }

    /// What is from `submitted_end` to `limit` goes into a group commit.
    pub(super) fn submit_to_journal(&mut self, limit: i64) -> Submitted {
        assert_eq!(self.commit, Commit::Idle);
        let limit = limit.min(self.log_end);
        let (range, bytes) = self.tail.between(self.submitted_end, limit).expect("what is not committed is resident");
        let base = self.submitted_end;
        self.submitted_end = limit;
        self.commit = Commit::Journal;
        Submitted { base, range, bytes }
    }

    /// A group commit is done: everything submitted is committed.
    pub(super) fn journal_done(&mut self, bytes: usize, times: CommitTimes) -> Progress {
        assert_eq!(self.commit, Commit::Journal);
        self.commit = Commit::Idle;
        self.journaled_bytes += bytes;
        let end = self.submitted_end;
        self.commit_to(end, bytes, times)
    }

    /// Moves the committed end and answers who waited for it.
    pub(super) fn commit_to(&mut self, end: i64, bytes: usize, times: CommitTimes) -> Progress {
        assert!(self.committed_end <= end && end <= self.submitted_end);
        self.waiting_bytes -= bytes;
        self.committed_end = end;
        while self.undo.front().is_some_and(|(offset, _)| *offset < end) {
            self.undo.pop_front();
        }
        while let Some(waiter) = self.waiters.pop_front_if(|w| w.end <= end) {
            let times = CommitTimes { entered: waiter.entered, ..times };
            waiter.sender.send(Ok((waiter.appended, times)));
        }
        // The seam for the ISR: with one replica what is committed here is committed.
        let mut progress = self.advance_high_watermark(end);
        while let Some((_, marker)) = self.markers.pop_front_if(|(offset, _)| *offset < end) {
            progress.markers.push(marker);
        }
        progress
    }

    /// Moves the high watermark; it never goes back here.
    pub(super) fn advance_high_watermark(&mut self, to: i64) -> Progress {
        let to = to.min(self.committed_end);
        if to <= self.high_watermark {
            return Progress::default();
        }
        let passed = self.high_watermark..to;
        let mut open = self.segments.iter().skip(1).rev().take_while(|s| s.index.is_some());
        let rolled = open.any(|s| passed.contains(&s.base));
        self.high_watermark = to;
        self.producers.committed(Offset(to));
        self.assert_invariants();
        Progress { high_watermark: Some(to), markers: Vec::new(), rolled }
    }

    /// Takes back everything that is not committed: nothing of it was acknowledged. Who waits is told why.
    pub(super) fn undo_uncommitted(&mut self, code: ErrorCode, message: &str) {
        let end = self.committed_end;
        while let Some((offset, undo)) = self.undo.pop_back() {
            assert!(offset >= end, "undo of a committed batch");
            self.producers.undo_failed(undo);
        }
        let first = self.tail.find(end).and_then(|i| self.tail.get(i)).copied();
        if let Some(first) = first {
            let segment = self.segment_of(first.base);
            self.segments.truncate(segment + 1);
            let active = self.active();
            active.size = first.position;
            active.aborted.retain(|txn| txn.last_offset.0 < end);
            if first.position == 0 {
                active.first_timestamp = None;
                active.max_timestamp = Some(-1);
            }
            // A segment of its own that nothing was written to: the roll is taken back, too. Not where all before it is flushed:
            // that segment may be being completed just now, and then nothing is written to it any more.
            let open = self.flushed_end < first.base;
            let before = self.segments.len().checked_sub(2).map(|i| &self.segments[i]);
            let open = open && before.is_some_and(|s| s.index.is_some());
            if first.position == 0 && open && !self.segments[segment].on_disk {
                self.segments.pop();
            }
        }
        self.tail.truncate(end);
        self.epochs.truncate_from_end(Offset(end));
        self.pending_snapshots.retain(|(offset, _)| *offset <= end);
        self.markers.clear();
        self.log_end = end;
        self.submitted_end = end;
        self.joined_end = None;
        self.waiting_bytes = 0;
        self.commit = Commit::Idle;
        for waiter in std::mem::take(&mut self.waiters) {
            waiter.sender.send(Err(AppendError::new(code, message)));
        }
        self.assert_invariants();
    }

    /// The next write to a segment: what is not flushed, up to `limit`, within one segment.
    pub(super) fn next_piece(&self, limit: i64) -> Option<Piece> {
        if self.flushed_end >= limit {
            return None;
        }
        let from = self.tail.find(self.flushed_end).expect("what is not flushed is resident");
        let first = *self.tail.get(from)?;
        let segment = &self.segments[self.segment_of(first.base)];
        let next_base = self.segments.get(self.segment_of(first.base) + 1).map_or(i64::MAX, |s| s.base);
        let mut batches = Vec::new();
        let gathered = self.tail.gather(from, |b, taken| {
            let take = b.last < limit && b.base < next_base && taken < PIECE_BYTES_MAX;
            if take {
                batches.push(*b);
            }
            take
        });
        let end = batches.last()?.last + 1;
        let prefix = self.tail.bytes_before(from, (first.position % BLOCK as u64) as usize);
        Some(Piece {
            segment_base: segment.base,
            create: !segment.on_disk,
            position: first.position,
            prefix,
            parts: gathered.parts,
            bytes: gathered.bytes,
            end,
            batches,
        })
    }

    /// What producers have sent up to the committed end, as a snapshot, if that is where `piece` ends.
    pub(super) fn producers_when_written(&self, piece: &Piece) -> Option<(i64, Vec<u8>)> {
        if piece.end != self.committed_end || self.producers.is_empty() {
            return None;
        }
        let snapshot = if self.undo.is_empty() {
            self.producers.encode_snapshot()
        } else {
            let mut producers = self.producers.clone();
            self.undo.iter().rev().for_each(|(_, undo)| producers.undo(undo.clone()));
            producers.encode_snapshot()
        };
        Some((piece.end, snapshot))
    }

    /// What producers had sent below `end`, if it is known: as a snapshot, empty if it is nothing. `written`: what was
    /// known when the last piece was.
    pub(super) fn producers_at(&self, end: i64, written: Option<(i64, Vec<u8>)>) -> Option<Vec<u8>> {
        match written {
            Some((at, producers)) if at == end => Some(producers),
            _ if self.producers.is_empty() => Some(Vec::new()),
            _ => (self.log_end == end).then(|| self.producers.encode_snapshot()),
        }
    }

    /// A piece is in its segment.
    pub(super) fn piece_written(&mut self, piece: &Piece, interval: u64) -> Freed {
        assert_eq!(piece.batches[0].base, self.flushed_end);
        let from = self.flushed_end;
        let segment = self.segment_of(piece.segment_base);
        let segment = &mut self.segments[segment];
        segment.on_disk = true;
        let index = segment.index.as_mut().expect("only the last segments are written, and they are not sealed");
        for b in &piece.batches {
            index.on_batch(b.base, b.last, b.max_timestamp, b.position, b.len, interval);
        }
        self.flushed_end = piece.end;
        let journaled =
            piece.batches.iter().filter(|b| b.last < self.committed_end).map(|b| b.len as usize).sum::<usize>();
        let journaled = journaled.min(self.journaled_bytes);
        self.journaled_bytes -= journaled;
        Freed { journaled, runs: self.tail.newly_cached(from, self.flushed_end) }
    }

    /// Bytes of resident batches in `from..to`.
    pub(super) fn bytes_between(&self, from: i64, to: i64) -> usize {
        self.tail.between(from, to).map_or(0, |(_, bytes)| bytes)
    }

    /// The segment that is full, wholly flushed, and not sealed yet.
    pub(super) fn to_seal(&self) -> Option<i64> {
        let pair = self.segments.windows(2).find(|pair| pair[0].index.is_some())?;
        (pair[1].base <= self.flushed_end).then_some(pair[0].base)
    }

    /// True when each answer to this partition's producer needs a sync: by its durability, or by `flush.messages`.
    pub(super) fn needs_sync(&self, spec: &PartitionSpec, end: i64) -> bool {
        // A coordinator forgets a transaction once its markers are written: they must not be lost.
        spec.config.durability == Durability::Durable
            || !self.markers.is_empty()
            || self.unsynced_records.saturating_add(end - self.committed_end) >= spec.config.flush_messages
    }
}
