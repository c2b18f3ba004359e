//! Retention: what [`crate::log::retention`] plans, done. One pass a shard every `log.retention.check.interval.ms`, in
//! the background, partition by partition.
//!
//! A loaded partition is judged by what is in memory, plus one read of a time index when its oldest segment has not been
//! looked at yet. One that is not loaded is looked at once: its directory and the first timestamp it holds say before
//! which time nothing can go, and until then a pass costs it a comparison. It is loaded when that time has come.
//!
//! ```text
//! active segment closed, if it goes, too ─▶ new start in the journal, durable ─▶ segments leave the log ─▶ files renamed
//! `….deleted` ─▶ after `file.delete.delay.ms` removed
//! ```
//! A reader in a segment that goes meanwhile reads again, and is told `OFFSET_OUT_OF_RANGE`. After a crash in between the
//! start is where it was or where it is wanted; files before it are found by the next pass, renamed ones by the next load.

use super::LogStore;
use super::alter::shrink;
use super::flush::Limit;
use super::partition::{Log, Partition, Phase};
use super::types::{PartitionSpec, StoreError};
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use crate::log::batch;
use crate::log::index::{TIME_ENTRY_LEN, TimeEntry};
use crate::log::journal::Entry;
use crate::log::retention::{LogFacts, Plan, Policy, SegmentFacts, plan};
use crate::log::segment::{FileKind, parse_file_name};
use coreline_io::{File, IoError, IoErrorKind, IoResult, Monotonic, Runtime, TaskGroup};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// What Kafka adds to the name of a file that is to be removed.
pub(super) const DELETED_FILE_SUFFIX: &str = ".deleted";
/// The first pass comes this long after the start, unless the interval is shorter.
const FIRST_PASS_AFTER: Duration = Duration::from_secs(30);

/// Files that are renamed and wait for their removal.
#[derive(Debug, Default)]
pub(super) struct Removals {
    due: RefCell<BTreeMap<Monotonic, Vec<PathBuf>>>,
    /// A task sees to them.
    armed: Cell<bool>,
}

impl<R: Runtime> LogStore<R> {
    /// The task of this shard. Ends when the store has stopped.
    pub(super) async fn run_retention(self: Rc<Self>) {
        let interval = self.options.retention_check_interval;
        self.rt.sleep(interval.min(FIRST_PASS_AFTER)).await;
        while self.is_running() {
            self.retain_all().await;
            self.rt.sleep(interval).await;
        }
    }

    /// One pass over all partitions.
    pub(super) async fn retain_all(self: &Rc<Self>) {
        let partitions: Vec<_> = self.partitions.borrow().values().cloned().collect();
        for partition in partitions.iter().filter(|partition| !partition.leaving.get()) {
            if !self.is_running() {
                return;
            }
            if let Err(error) = self.retain(partition).await {
                tracing::warn!(partition = %partition.dir_name(), %error, "retention is tried again at the next check");
            }
            if self.rt.should_yield() {
                self.rt.yield_now().await;
            }
        }
    }

    /// Deletes what is due of one partition.
    async fn retain(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<(), StoreError> {
        if !partition.is_ready() {
            let idle = partition.with_phase(|phase| matches!(phase, Phase::Unloaded));
            if !idle || self.rt.wall_ms() < partition.retention_due_ms.get() {
                return Ok(());
            }
            let due_ms = self.look(partition).await?;
            partition.retention_due_ms.set(due_ms);
            if self.rt.wall_ms() < due_ms {
                return Ok(());
            }
            if self.load(partition).await.is_err() {
                // The log says why; it is not tried again by itself.
                partition.retention_due_ms.set(i64::MAX);
                return Ok(());
            }
        }
        loop {
            let spec = partition.spec.borrow().clone();
            let now_ms = self.rt.wall_ms();
            let Some(plan) = partition.with(|log| plan(now_ms, policy(&spec), facts(log, &segments(log)))) else {
                return Ok(());
            };
            match plan {
                Plan::Keep { .. } => return Ok(()),
                // It goes on where the partition goes.
                _ if partition.leaving.get() => return Ok(()),
                // Its age is in an index that is being made.
                Plan::Read { base } if is_rebuilding(partition, base) => return Ok(()),
                Plan::Read { base } => {
                    let index = self.sealed_index(partition, base, FileKind::TimeIndex).await;
                    let index = index.map_err(|e| StoreError::Corrupt(e.message))?;
                    if is_rebuilding(partition, base) {
                        return Ok(());
                    }
                    let timestamp = TimeEntry::last(&index, base).map_or(-1, |entry| entry.timestamp);
                    partition.with(|log| {
                        let segment = log.segments.iter_mut().find(|s| s.base == base);
                        segment.into_iter().for_each(|s| s.max_timestamp = Some(timestamp));
                    });
                }
                Plan::Delete { start, segments, roll } => {
                    if roll && !self.roll_at(partition, start).await.map_err(io("close the active segment"))? {
                        return Ok(());
                    }
                    tracing::info!(partition = %partition.dir_name(), start, segments, "retention moves the log's start");
                    return self.begin_at(partition, start).await;
                }
            }
        }
    }

    /// Closes the active segment if the log still ends at `end`; false if it does not.
    pub(super) async fn roll_at(self: &Rc<Self>, partition: &Rc<Partition>, end: i64) -> IoResult<bool> {
        self.write_out(partition, Limit::Committed, true).await?;
        if !self.take_segments(partition).await {
            return Ok(false);
        }
        let rolled = partition.with(|log| {
            let whole = log.log_end == end && log.synced_end == end;
            if whole && log.active().size > 0 {
                // As at every roll: what producers have sent must be known when the segments that say so are gone.
                if log.snapshots.last() != Some(&end) {
                    log.pending_snapshots.push_back((end, log.producers.encode_snapshot()));
                    log.bytes_since_snapshot = 0;
                }
                log.segments.push(super::partition::Segment::new(end));
                log.close_active = false;
            }
            whole
        });
        let sealed = self.seal_closed(partition).await;
        self.leave_segments(partition);
        sealed.map(|()| rolled == Some(true))
    }

    /// Completes segments that are closed and flushed. The caller has the segments.
    async fn seal_closed(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        while let Some(base) = partition.with(|log| log.to_seal()).flatten() {
            self.seal(partition, base).await?;
        }
        Ok(())
    }

    /// Completes what a full disk left open, also where nothing more is written.
    pub(super) async fn complete_segments(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        self.write_out(partition, Limit::Committed, true).await?;
        if !self.take_segments(partition).await {
            return Ok(());
        }
        let sealed = self.seal_closed(partition).await;
        self.leave_segments(partition);
        sealed
    }

    /// Moves the log's start, durably, and lets go of the segments before it.
    pub(super) async fn begin_at(self: &Rc<Self>, partition: &Rc<Partition>, start: i64) -> Result<(), StoreError> {
        if partition.with(|log| log.log_start < start) == Some(true) {
            if partition.leaving.get() {
                return Err(StoreError::Refused(ErrorCode::NotLeaderOrFollower));
            }
            let entry = Entry::LogStart { partition: partition.id, start: Offset(start) };
            self.journal_entry(entry).await.map_err(StoreError::Refused)?;
        }
        if !self.take_segments(partition).await {
            return Ok(());
        }
        if partition.with(|log| log.segments.len() > 1 && log.segments[1].base <= log.log_start) == Some(true)
            && let Err(error) = self.touch(partition).await
        {
            self.leave_segments(partition);
            return Err(StoreError::io("delete segments")(error));
        }
        let dead = partition.with(|log| take_dead_segments(log, self.next_generation())).unwrap_or_default();
        let delay = partition.spec.borrow().config.file_delete_delay_ms;
        self.count(|s| {
            s.retention_segments += dead.len() as u64;
            s.retention_bytes += dead.iter().map(|(_, size)| size).sum::<u64>();
        });
        let mut renamed = Vec::new();
        for (base, _) in dead {
            for kind in FileKind::SEGMENT {
                let path = self.segment_path(partition, base, kind);
                self.files.forget(&path);
                self.indexes.borrow_mut().forget(&path);
                let target = deleted_name(&path);
                match self.rt.rename(&path, &target).await {
                    Ok(()) => renamed.push(target),
                    Err(error) if error.kind == IoErrorKind::NotFound => {}
                    // It is before the log's start, and goes with the partition.
                    Err(error) => tracing::warn!(%error, "a file of a deleted segment stays"),
                }
            }
        }
        self.remove_old_snapshots(partition).await;
        self.leave_segments(partition);
        self.remove_files_after(renamed, Duration::from_millis(u64::try_from(delay).unwrap_or(0)));
        Ok(())
    }

    /// Of the snapshots before the log's first segment, only the newest can be of use.
    async fn remove_old_snapshots(&self, partition: &Rc<Partition>) {
        let old = partition.with(|log| {
            let first = log.segments[0].base;
            let newest = log.snapshots.last().copied();
            let old: Vec<i64> = log.snapshots.iter().copied().filter(|s| *s < first && Some(*s) != newest).collect();
            log.snapshots.retain(|s| !old.contains(s));
            old
        });
        for offset in old.unwrap_or_default() {
            // One too many does no harm.
            let _ = self.rt.remove_file(&self.segment_path(partition, offset, FileKind::Snapshot)).await;
        }
    }

    fn leave_segments(&self, partition: &Rc<Partition>) {
        partition.with(|log| log.flushing = false);
        partition.changed.notify_all();
    }

    /// Removes files, in the background, after `delay`.
    pub(super) fn remove_files_after(self: &Rc<Self>, files: Vec<PathBuf>, delay: Duration) {
        if files.is_empty() {
            return;
        }
        let due = self.rt.now().plus(delay);
        self.removals.due.borrow_mut().entry(due).or_default().extend(files);
        if self.removals.armed.replace(true) {
            return;
        }
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "remove deleted segments", async move {
            store.remove_due_files().await;
            store.removals.armed.set(false);
        }));
    }

    async fn remove_due_files(&self) {
        loop {
            let Some(due) = self.removals.due.borrow().keys().next().copied() else { return };
            let now = self.rt.now();
            if now < due {
                // In steps, so that what becomes due earlier need not wake this task.
                self.rt.sleep(due.since(now).min(Duration::from_secs(1))).await;
                continue;
            }
            let files = self.removals.due.borrow_mut().remove(&due).unwrap_or_default();
            for file in files {
                shrink(&self.rt, &file).await;
                match self.rt.remove_file(&file).await {
                    Err(error) if error.kind != IoErrorKind::NotFound => {
                        tracing::warn!(%error, "a deleted segment stays until its partition is loaded again");
                    }
                    _ => {}
                }
                self.rt.yield_now().await;
            }
        }
    }

    /// Of a partition that is not loaded: the time before which nothing of it goes.
    async fn look(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<i64, StoreError> {
        let config = partition.spec.borrow().config.clone();
        let dir = self.dir(partition);
        let entries = match self.rt.list_dir(&dir).await {
            Ok(entries) => entries,
            Err(error) if error.kind == IoErrorKind::NotFound => return Ok(i64::MAX),
            Err(error) => return Err(io("list the partition")(error)),
        };
        let left = entries.iter().filter(|e| e.name.ends_with(DELETED_FILE_SUFFIX)).map(|e| dir.join(&e.name));
        self.remove_files_after(left.collect(), Duration::ZERO);
        let mut logs = BTreeMap::new();
        for entry in &entries {
            if let Some((base, FileKind::Log)) = parse_file_name(&entry.name) {
                logs.insert(base, entry.len);
            }
        }
        let Some((first, size)) = logs.first_key_value().filter(|_| config.deletes) else { return Ok(i64::MAX) };
        let others: u64 = logs.values().sum::<u64>() - size;
        if u64::try_from(config.retention_bytes).is_ok_and(|limit| others >= limit) {
            return Ok(i64::MIN);
        }
        if config.retention_ms < 0 {
            return Ok(i64::MAX);
        }
        // A sealed segment's index is complete. Of one that grows, the first batch is what is sure.
        let last = if logs.len() > 1 { self.last_timestamp(partition, *first).await } else { Ok(-1) };
        let timestamp = match last.map_err(io("read the age of a segment"))? {
            // Or of one whose index is not there or is empty.
            none if none < 0 => self.first_timestamp_of(partition, *first).await,
            last => Ok(last),
        };
        Ok(match timestamp.map_err(io("read the age of a segment"))? {
            none if none < 0 => i64::MAX,
            timestamp => timestamp.saturating_add(config.retention_ms).saturating_add(1),
        })
    }

    /// The largest timestamp of a sealed segment: the last entry of its time index, as it is there. Negative if it has none.
    async fn last_timestamp(&self, partition: &Partition, base: i64) -> IoResult<i64> {
        let path = self.segment_path(partition, base, FileKind::TimeIndex);
        let file = match self.files.get(&self.rt, &path, false).await {
            Ok(file) => file,
            Err(error) if error.kind == IoErrorKind::NotFound => return Ok(-1),
            Err(error) => return Err(error),
        };
        let entries = file.size().await? / TIME_ENTRY_LEN as u64;
        let Some(last) = entries.checked_sub(1) else { return Ok(-1) };
        let bytes = file.read_at(last * TIME_ENTRY_LEN as u64, TIME_ENTRY_LEN).await?;
        Ok(TimeEntry::get(&bytes, base, 0).map_or(-1, |entry| entry.timestamp))
    }

    /// The largest timestamp of a segment's first batch. Negative if it has none.
    async fn first_timestamp_of(&self, partition: &Partition, base: i64) -> IoResult<i64> {
        let path = self.segment_path(partition, base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await?;
        let bytes = file.read_at(0, batch::HEADER_LEN).await?;
        Ok(batch::parse_header(&bytes).map_or(-1, |header| header.max_timestamp))
    }
}

fn is_rebuilding(partition: &Partition, base: i64) -> bool {
    partition.with(|log| log.segments.iter().any(|s| s.base == base && s.rebuilding)).unwrap_or(false)
}

fn io(context: &'static str) -> impl FnOnce(IoError) -> StoreError {
    StoreError::io(context)
}

/// `00000000000000000042.log.deleted`
fn deleted_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(DELETED_FILE_SUFFIX);
    PathBuf::from(name)
}

fn policy(spec: &PartitionSpec) -> Policy {
    let config = &spec.config;
    Policy { deletes: config.deletes, retention_ms: config.retention_ms, retention_bytes: config.retention_bytes }
}

fn segments(log: &Log) -> Vec<SegmentFacts> {
    let facts =
        |s: &super::partition::Segment| SegmentFacts { base: s.base, size: s.size, max_timestamp: s.max_timestamp };
    log.segments.iter().map(facts).collect()
}

fn facts<'a>(log: &Log, segments: &'a [SegmentFacts]) -> LogFacts<'a> {
    let waiting_bytes = log.waiting_bytes as u64;
    LogFacts { segments, start: log.log_start, high_watermark: log.high_watermark, end: log.log_end, waiting_bytes }
}

/// Takes sealed segments that are wholly before the log's start out of the log: base and size. Their files are to be removed.
fn take_dead_segments(log: &mut Log, generation: u64) -> Vec<(i64, u64)> {
    if log.swapping {
        // They go the next time.
        return Vec::new();
    }
    let dead =
        log.segments.windows(2).take_while(|pair| pair[1].base <= log.log_start && pair[0].index.is_none()).count();
    if dead > 0 {
        log.generation = generation;
        log.hints.clear();
    }
    log.segments.drain(..dead).map(|s| (s.base, s.size)).collect()
}
