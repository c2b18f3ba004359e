//! The group commit: one task a shard takes everything that waits, writes it as one frame, then answers.
//!
//! No linger: when idle, a batch is written at once; while a write is under way, the next group gathers. A partition
//! with much waiting goes straight to its segment instead (see [`super::flush`]), in parallel with the journal.

use super::flush::Limit;
use super::joined::Joined;
use super::journal_files::Live;
use super::marks::mark_of;
use super::partition::{Commit, Partition, Submitted};
use super::types::{CommitTimes, FatalReason, StoreError};
use super::{IdMap, LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::journal::{ENTRY_HEADER_LEN, EncodedFrame, Entry, FrameBuilder};
use crate::log::segment_mark::{MARK_LEN_MAX, SegmentMark};
use bytes::BytesMut;
use coreline_io::sync::{Notify, OneshotSender, oneshot};
use coreline_io::{IoError, IoErrorKind, Monotonic, Runtime, TaskGroup, WriteSyncError};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Bytes of a partition with `durability=written` that are in its segment, acknowledged and not synced, at most.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// A frame's memory up to this size is kept for the next one.
const FRAME_MEMORY_MAX: usize = 4 << 20;

/// What was flushed takes so small a part of a group, at most.
const FLUSHED_PART: usize = 8;

/// What waits for the writer.
#[derive(Debug, Default)]
pub(super) struct WriterQueue {
    partitions: RefCell<VecDeque<Rc<Partition>>>,
    control: RefCell<VecDeque<Control>>,
    /// Moves of logs' starts that wait, or are in the group under way.
    pub(super) starts: RefCell<Vec<PartitionId>>,
    /// What goes into the next group together.
    pub(super) joined: Joined,
    pub(super) wake: Notify,
    /// When the oldest acknowledged but unsynced record must be synced (`flush.ms`).
    sync_due: Cell<Option<Monotonic>>,
    /// Partitions with acknowledged, unsynced records in the journal.
    unsynced: RefCell<Vec<Rc<Partition>>>,
    /// A group commit is under way.
    pub(super) busy: Cell<bool>,
    /// Up to where partitions were flushed, durably, since the journal was told last. It hears of it with the next group:
    /// recovery has less to settle, but nothing depends on it.
    flushed: RefCell<IdMap<i64>>,
    /// Memory of the frame before, for the next one.
    frame_memory: RefCell<BytesMut>,
}

impl WriterQueue {
    /// The next frame may be where this one was.
    fn keep(&self, frame: EncodedFrame) {
        if let Some(memory) = frame.into_memory().filter(|memory| memory.capacity() <= FRAME_MEMORY_MAX) {
            self.frame_memory.replace(memory);
        }
    }

    /// Everything of `id` below `end` is in segments, on the device.
    pub(super) fn note_flushed(&self, id: PartitionId, end: i64) {
        self.flushed.borrow_mut().insert(id, end);
    }

    /// Adds what was flushed to a frame: at most `bytes_max` of entries. `now` gives what is synced of a partition that is loaded.
    fn tell_flushed(
        &self,
        frame: &mut FrameBuilder,
        bytes_max: usize,
        now: impl Fn(PartitionId) -> Option<(i64, Option<SegmentMark>)>,
    ) {
        let mut flushed = self.flushed.borrow_mut();
        let ids: Vec<PartitionId> = flushed.keys().take(bytes_max / ENTRY_HEADER_LEN).copied().collect();
        let end = frame.bytes() + bytes_max;
        for partition in ids {
            if frame.bytes() + ENTRY_HEADER_LEN + MARK_LEN_MAX > end {
                break;
            }
            let to = flushed.remove(&partition).expect("just found");
            let (to, mark) = now(partition).unwrap_or((to, None));
            frame.push(&Entry::Flushed { partition, to: Offset(to), mark });
        }
    }
}

/// A change that is not a batch: durable before it is answered.
#[derive(Debug)]
struct Control {
    entry: Entry,
    done: OneshotSender<Result<(), ErrorCode>>,
}

/// A group commit.
#[derive(Default)]
pub(super) struct Group {
    frame: FrameBuilder,
    members: Vec<Member>,
    control: Vec<Control>,
    sync: bool,
    /// When its write was where.
    times: CommitTimes,
}

struct Member {
    partition: Rc<Partition>,
    bytes: usize,
    end: i64,
}

impl<R: Runtime> LogStore<R> {
    /// Puts a partition with uncommitted batches in the writer's queue.
    pub(super) fn queue_commit(&self, partition: &Rc<Partition>) {
        let ready =
            partition.with(|log| log.bytes_to_submit() > 0 && log.commit == Commit::Idle && !log.held).unwrap_or(false);
        if ready && !partition.commit_queued.replace(true) {
            self.writer.partitions.borrow_mut().push_back(partition.clone());
            self.writer.wake.notify_all();
        }
    }

    /// Journals an entry; returns once it is durable.
    pub(super) async fn journal_entry(self: &Rc<Self>, entry: Entry) -> Result<(), ErrorCode> {
        if self.state.get() != StoreState::Open {
            return Err(ErrorCode::KafkaStorageError);
        }
        if let Entry::Deleted { partition } = entry {
            self.state_ends(partition).await.map_err(|_| ErrorCode::KafkaStorageError)?;
            if self.state.get() != StoreState::Open {
                return Err(ErrorCode::KafkaStorageError);
            }
        }
        if let Entry::LogStart { partition, .. } = entry {
            self.writer.starts.borrow_mut().push(partition);
        }
        let (done, receiver) = oneshot();
        self.writer.control.borrow_mut().push_back(Control { entry, done });
        self.writer.wake.notify_all();
        receiver.await.unwrap_or(Err(ErrorCode::KafkaStorageError))
    }

    /// The writer's task. Ends when the store has stopped.
    pub(super) async fn run_writer(self: Rc<Self>) {
        loop {
            self.wait_for_work().await;
            if matches!(self.state.get(), StoreState::Stopped | StoreState::Dead) {
                return;
            }
            self.sync_if_due().await;
            if !self.has_work() {
                continue;
            }
            self.writer.busy.set(true);
            self.wait_for_flush_room().await;
            let group = self.take_group();
            if !group.frame.is_empty() {
                self.commit(group).await;
            }
            self.writer.busy.set(false);
            self.shared_reads.journal_used(self.rt.now());
            self.progress.notify_all();
        }
    }

    pub(super) fn has_work(&self) -> bool {
        let writer = &self.writer;
        !writer.partitions.borrow().is_empty() || !writer.control.borrow().is_empty() || !writer.joined.is_empty()
    }

    async fn wait_for_work(&self) {
        while !self.has_work() && matches!(self.state.get(), StoreState::Open | StoreState::Closing) {
            let woken = self.writer.wake.notified();
            let Some(due) = self.writer.sync_due.get() else {
                woken.await;
                continue;
            };
            let now = self.rt.now();
            if due <= now {
                return;
            }
            let timer = self.rt.sleep(due.since(now));
            if let Either::Right(_) = select(pin!(woken), pin!(timer)).await {
                return;
            }
        }
    }

    /// Back-pressure: what is acknowledged and not in segments is bounded.
    async fn wait_for_flush_room(&self) {
        let max = self.options.unflushed_bytes_max;
        while self.unflushed.get() > max && self.is_running() && !self.full.get() {
            let progress = self.progress.notified();
            self.start_flush_pass(|| self.journal.all_live());
            progress.await;
        }
    }

    /// Takes what waits: small amounts into one frame, large ones straight to their segments.
    fn take_group(self: &Rc<Self>) -> Group {
        let frame = FrameBuilder::reusing(self.writer.frame_memory.take());
        let mut group = Group { frame, ..Group::default() };
        self.take_joined(&mut group);
        while group.frame.bytes() < self.options.group_bytes_max {
            let Some(partition) = self.writer.partitions.borrow_mut().pop_front() else { break };
            partition.commit_queued.set(false);
            let waiting = partition.with(|log| {
                let idle = log.commit == Commit::Idle && !log.held;
                if idle { (log.bytes_to_submit(), log.unsynced_bytes > 0) } else { (0, false) }
            });
            let Some((waiting, unsynced)) = waiting.filter(|w| w.0 > 0) else { continue };
            if waiting >= self.options.direct_bytes_min || unsynced {
                self.start_direct(partition);
            } else {
                self.add_member(&mut group, partition, i64::MAX);
            }
        }
        let mut control = self.writer.control.borrow_mut();
        if !group.frame.is_empty() || !control.is_empty() {
            let now = |id| self.resident(id)?.with(|log| (log.synced_end, mark_of(log)));
            self.writer.tell_flushed(&mut group.frame, self.options.group_bytes_max / FLUSHED_PART, now);
        }
        for control in control.drain(..) {
            if let Entry::Truncate { partition, .. } | Entry::Deleted { partition } = &control.entry {
                // It was of the log before the cut.
                self.writer.flushed.borrow_mut().remove(partition);
            }
            group.frame.push(&control.entry);
            group.control.push(control);
            group.sync = true;
        }
        group
    }

    /// Adds what waits in a partition below `limit`.
    pub(super) fn add_member(&self, group: &mut Group, partition: Rc<Partition>, limit: i64) {
        let spec = partition.spec.borrow().clone();
        let taken = partition.with(|log| {
            let Submitted { base, range, bytes } = log.submit_to_journal(limit);
            let tail = &log.tail;
            group.frame.batches(partition.id, Offset(base), bytes, |pieces| {
                tail.pieces(range, |piece| pieces.put(piece));
            });
            group.sync |= log.needs_sync(&spec, log.submitted_end);
            (bytes, log.submitted_end)
        });
        let Some((bytes, end)) = taken else { return };
        group.members.push(Member { partition, bytes, end });
    }

    async fn commit(self: &Rc<Self>, group: Group) {
        if let Err(error) = self.make_room(group.frame_len()).await {
            return self.group_failed(group, error);
        }
        let Group { mut frame, members, control, sync, .. } = group;
        if self.journal.at_start() {
            frame.push(&Entry::LiveFrom { lap: self.journal.live_from() });
            self.plan_recovery();
        }
        let (lap, sequence) = self.journal.next_frame();
        let frame = frame.finish(lap, sequence);
        let (began, len) = (self.rt.now(), frame.bytes.len() as u64);
        let written = self.journal.write(&frame.bytes, sync).await;
        self.writer.keep(frame);
        let times = CommitTimes {
            began,
            done: self.rt.now(),
            group: Some(self.stats.get().groups + 1),
            partitions: members.len() as u32,
            bytes: len,
            ..CommitTimes::default()
        };
        let group = Group { frame: FrameBuilder::default(), members, control, sync, times };
        if let Err(error) = written {
            return match error {
                WriteSyncError::Write(error) => self.group_failed(group, error),
                WriteSyncError::Sync(error) => self.die(FatalReason::JournalSync, &error),
            };
        }
        self.count(|s| {
            s.groups += 1;
            s.journal_bytes += len;
        });
        self.flush_times.borrow_mut().add(times.done.nanos.saturating_sub(times.began.nanos), 1);
        self.full.set(false);
        self.group_done(group);
        let store = self.clone();
        self.journal.fill_ahead(move |error| store.fill_failed(&error));
    }

    /// Waits until the ring has room for a frame.
    async fn make_room(self: &Rc<Self>, len: usize) -> Result<(), IoError> {
        loop {
            let changed = self.journal.changed.notified();
            if self.journal.make_room(len).await? {
                return Ok(());
            }
            if self.full.get() {
                // Segments cannot grow, so the ring cannot be freed: refuse, rather than wait for somebody to make space.
                return Err(storage_full());
            }
            if !self.is_running() {
                std::future::pending::<()>().await;
            }
            self.start_flush_pass(|| self.journal.oldest_live());
            let progress = self.progress.notified();
            select(pin!(changed), pin!(progress)).await;
        }
    }

    fn group_failed(self: &Rc<Self>, group: Group, error: IoError) {
        if error.kind != IoErrorKind::StorageFull {
            return self.die(FatalReason::JournalWrite, &error);
        }
        self.space_ran_out("journal", &error);
        for member in group.members {
            member.partition.with(|log| log.undo_uncommitted(ErrorCode::KafkaStorageError, &error.to_string()));
            member.partition.changed.notify_all();
        }
        self.refuse_joined(&error);
        for control in group.control {
            self.start_is_settled(&control.entry);
            control.done.send(Err(ErrorCode::KafkaStorageError));
        }
    }

    fn group_done(self: &Rc<Self>, group: Group) {
        let now = group.times.done;
        for Member { partition, bytes, end } in group.members {
            self.journal.note(partition.id, Live { end, log_start: false });
            self.unflushed.set(self.unflushed.get() + bytes);
            let progress = partition.with(|log| {
                if !group.sync {
                    log.unsynced_records += end - log.committed_end;
                }
                let progress = log.journal_done(bytes, group.times);
                (progress, log.journaled_bytes >= partition.flush_share(self.options.flush_bytes))
            });
            let Some((progress, flush)) = progress else { continue };
            if flush {
                self.queue_flush(&partition);
            }
            if !group.sync {
                self.not_durable_journal.set(self.not_durable_journal.get() + bytes as u64);
                self.note_unsynced(&partition, now);
            }
            self.report(&partition, &progress);
            partition.changed.notify_all();
            self.queue_commit(&partition);
        }
        if group.sync {
            self.all_synced();
        }
        for control in group.control {
            self.note_control(&control.entry);
            self.start_is_settled(&control.entry);
            control.done.send(Ok(()));
        }
        self.arm_age_flush();
        if self.unflushed.get() > self.options.unflushed_bytes_max / 2
            || self.journal.is_short()
            || self.journal_is_long()
        {
            self.start_flush_pass(|| self.journal.oldest_live());
        }
    }

    fn note_control(&self, entry: &Entry) {
        match entry {
            Entry::LogStart { partition, start } => {
                // Of one that is not here any more nobody would flush it, and the lap would never be free.
                let Some(found) = self.resident(*partition) else { return };
                self.journal.note(*partition, Live { end: 0, log_start: true });
                // At once: a flush that ends now must not let go of the lap before the start is in its file.
                found.with(|log| log.move_start(start.0));
            }
            Entry::Truncate { partition, to } => self.journal.cut(*partition, to.0),
            _ => {}
        }
    }

    /// A move of a log's start is in the log, or refused: who hands it over has waited for that.
    fn start_is_settled(&self, entry: &Entry) {
        let Entry::LogStart { partition, .. } = entry else { return };
        let mut starts = self.writer.starts.borrow_mut();
        if let Some(at) = starts.iter().position(|id| id == partition) {
            starts.swap_remove(at);
        }
        drop(starts);
        if let Some(partition) = self.resident(*partition) {
            partition.changed.notify_all();
        }
    }

    fn note_unsynced(&self, partition: &Rc<Partition>, now: Monotonic) {
        let flush_ms = partition.spec.borrow().config.flush_ms;
        let first = partition.with(|log| log.unsynced_since.replace(log.unsynced_since.unwrap_or(now)).is_none());
        if first == Some(true) {
            self.writer.unsynced.borrow_mut().push(partition.clone());
        }
        if let Ok(flush_ms) = u64::try_from(flush_ms)
            && flush_ms < i64::MAX as u64
        {
            let due = now.plus(Duration::from_millis(flush_ms));
            self.writer.sync_due.set(Some(self.writer.sync_due.get().map_or(due, |d| d.min(due))));
        }
    }

    /// Every frame of the journal is on the device.
    fn all_synced(&self) {
        self.writer.sync_due.set(None);
        self.not_durable_journal.set(0);
        for partition in self.writer.unsynced.take() {
            let in_segment = partition.with(|log| {
                if log.unsynced_bytes == 0 {
                    log.unsynced_since = None;
                    log.unsynced_records = 0;
                }
                log.unsynced_bytes > 0
            });
            if in_segment == Some(true) {
                self.writer.unsynced.borrow_mut().push(partition);
            }
        }
    }

    /// Partitions with bytes in segments that are acknowledged and not synced.
    pub(super) fn queue_flush_unsynced(&self) {
        let partitions = self.writer.unsynced.borrow().clone();
        for partition in partitions {
            if partition.with(|log| log.unsynced_bytes > 0) == Some(true) {
                self.queue_flush(&partition);
            }
        }
    }

    async fn sync_if_due(self: &Rc<Self>) {
        if self.writer.sync_due.get().is_none_or(|due| due > self.rt.now()) {
            return;
        }
        self.queue_flush_unsynced();
        match self.journal.sync_frames().await {
            Ok(()) => self.all_synced(),
            Err(error) => self.die(FatalReason::JournalSync, &error),
        }
    }

    /// Makes what `durability=written` acknowledged durable: at the end of the store.
    pub(super) async fn sync_journal(self: &Rc<Self>) -> Result<(), StoreError> {
        self.journal.sync_frames().await.map_err(StoreError::io("sync the journal"))?;
        self.all_synced();
        Ok(())
    }

    fn start_direct(self: &Rc<Self>, partition: Rc<Partition>) {
        let started = partition.with(|log| {
            log.commit = Commit::Direct;
            log.submitted_end = log.log_end;
            (log.submitted_end, log.waiting_bytes)
        });
        let Some((end, bytes)) = started else { return };
        self.count(|s| s.direct_writes += 1);
        self.states.not_noted(&partition);
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Replication, "direct write", async move {
            store.direct(&partition, end, bytes).await;
        }));
    }

    /// Writes everything up to `end` to the segment, then answers.
    async fn direct(self: &Rc<Self>, partition: &Rc<Partition>, end: i64, bytes: usize) {
        let sync = {
            let spec = partition.spec.borrow().clone();
            partition.with(|log| log.needs_sync(&spec, end)).unwrap_or(true)
        };
        let began = self.rt.now();
        let result = self.write_out(partition, Limit::To(end), sync).await;
        let (done, partitions, bytes_written) = (self.rt.now(), 1, bytes as u64);
        let times = CommitTimes { began, done, partitions, bytes: bytes_written, ..CommitTimes::default() };
        let progress = match result {
            Ok(()) => {
                if !sync {
                    self.note_direct_unsynced(partition, end, bytes);
                }
                partition.with(|log| {
                    log.commit = Commit::Idle;
                    log.commit_to(end, bytes, times)
                })
            }
            Err(error) if error.kind == IoErrorKind::StorageFull => {
                self.space_ran_out("segment", &error);
                partition.with(|log| {
                    // Whole pieces that were written and synced stay; the rest is taken back.
                    let kept = log.synced_end.clamp(log.committed_end, end);
                    let bytes = log.bytes_between(log.committed_end, kept);
                    let progress = log.commit_to(kept, bytes, times);
                    log.undo_uncommitted(ErrorCode::KafkaStorageError, &error.to_string());
                    progress
                })
            }
            Err(_) => None,
        };
        if let Some(progress) = progress {
            self.report(partition, &progress);
        }
        self.arm_age_flush();
        partition.changed.notify_all();
        self.progress.notify_all();
        self.queue_commit(partition);
    }

    fn note_direct_unsynced(self: &Rc<Self>, partition: &Rc<Partition>, end: i64, bytes: usize) {
        let unsynced = partition.with(|log| {
            if log.synced_end >= end {
                return 0;
            }
            log.unsynced_bytes += bytes as u64;
            log.unsynced_records += end - log.committed_end;
            log.unsynced_bytes
        });
        if unsynced.is_none_or(|u| u == 0) {
            return;
        }
        self.not_durable_segments.set(self.not_durable_segments.get() + bytes as u64);
        self.note_unsynced(partition, self.rt.now());
        if unsynced.is_some_and(|u| u >= UNSYNCED_BYTES_MAX) {
            self.queue_flush(partition);
        }
        self.arm_age_flush();
    }

    /// Tells who watches that a high watermark moved.
    pub(super) fn report(&self, partition: &Partition, progress: &super::partition::Progress) {
        if progress.high_watermark.is_some()
            && let Some(ends) = partition.with(|log| log.ends())
        {
            self.moved(partition.id, ends);
        }
        if (progress.rolled || !progress.markers.is_empty()) && partition.spec.borrow().config.compacted {
            // A full segment does not wait for its flush, and what an open transaction kept from the cleaner may be due now.
            self.cleaner.mark(partition.id);
        }
        for marker in &progress.markers {
            self.marker_hooks.borrow().iter().for_each(|hook| hook(marker));
        }
    }

    fn moved(&self, id: PartitionId, ends: super::types::EndOffsets) {
        let hooks = self.hooks.borrow().clone();
        for hook in hooks.iter() {
            hook(id, ends);
        }
    }
}

impl Group {
    /// Room for the frame and the entry that begins a lap.
    fn frame_len(&self) -> usize {
        self.frame.encoded_len() + coreline_io::BLOCK
    }
}

fn storage_full() -> IoError {
    IoError::new("write to the journal", std::io::Error::from(std::io::ErrorKind::StorageFull))
}
