//! The cleaner of a shard: one task that compacts this shard's partitions, one at a time, in the background.
//!
//! | file | concept |
//! | --- | --- |
//! | `mod` | which partition is looked at when; what cannot be cleaned is set aside |
//! | `clean` | one cleaning: the map, the copies |
//! | `files` | batches of a segment in, a cleaned segment out |
//! | `on_demand` | compaction because somebody asks for it now |
//! | `swap` | new files take the places of old ones, also after a crash |
//!
//! What is decided (ratio, ranges, which record stays) is in [`crate::log::compaction`].

mod clean;
mod files;
mod on_demand;
mod swap;

use super::partition::Partition;
use super::types::{CleanerOptions, StoreError};
use super::{LogStore, StoreState};
use crate::ids::{Offset, PartitionId};
use crate::log::compaction::{Assessment, CleaningRules, LogView, SegmentView, assess, choose};
use crate::log::index::{OFFSET_ENTRY_LEN, TIME_ENTRY_LEN, TimeEntry};
use crate::log::log_config::LogConfig;
use crate::log::segment::FileKind;
use coreline_io::sync::Notify;
use coreline_io::{IoErrorKind, Monotonic, Runtime};
use futures_util::future::select;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// The end of the last cleaning of a partition, in its directory, in Kafka's format.
pub(super) const CHECKPOINT_FILE: &str = "cleaner-offset-checkpoint";
/// However far the next look is: the wall clock may be set back.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(3600);
/// From one attempt that was given up to the next, whatever `log.cleaner.backoff.ms` says.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(100);

/// What the cleaner knows. Owned by the store.
#[derive(Debug)]
pub(super) struct Cleaner {
    pub(super) options: RefCell<CleanerOptions>,
    /// Partitions to look at, and not before when, by the wall clock in milliseconds.
    due: RefCell<BTreeMap<PartitionId, i64>>,
    /// Partitions that cannot be cleaned, and why.
    aside: RefCell<BTreeMap<PartitionId, String>>,
    /// Partitions that are compacted because somebody asked for it, up to where.
    asked: RefCell<BTreeMap<PartitionId, i64>>,
    pub(super) wake: Notify,
    /// The partition whose segments are being written anew.
    cleaning: Cell<Option<PartitionId>>,
    cleaned: Notify,
    /// Its new segment takes its place, and waits for room on the disk, which there may never be.
    waits_for_room: Cell<bool>,
    /// Bytes read and written may go on at this time: the throttle.
    free_at: Cell<Monotonic>,
}

impl Cleaner {
    pub(super) fn new(options: CleanerOptions) -> Self {
        Self {
            options: RefCell::new(options),
            due: RefCell::default(),
            aside: RefCell::default(),
            asked: RefCell::default(),
            wake: Notify::default(),
            cleaning: Cell::new(None),
            cleaned: Notify::default(),
            waits_for_room: Cell::new(false),
            free_at: Cell::default(),
        }
    }

    /// Looks at a partition in the next round.
    pub(super) fn mark(&self, id: PartitionId) {
        self.mark_at(id, i64::MIN);
    }

    fn mark_at(&self, id: PartitionId, not_before_ms: i64) {
        if self.aside.borrow().contains_key(&id) {
            return;
        }
        let mut due = self.due.borrow_mut();
        let at = due.entry(id).or_insert(i64::MAX);
        *at = not_before_ms.min(*at);
        drop(due);
        self.wake.notify_all();
    }

    /// Looks at a partition at this time, and not before.
    fn put_off(&self, id: PartitionId, not_before_ms: i64) {
        self.due.borrow_mut().remove(&id);
        self.mark_at(id, not_before_ms);
    }

    /// Forgets that a partition could not be cleaned.
    pub(super) fn try_again(&self, id: PartitionId) {
        self.aside.borrow_mut().remove(&id);
        self.mark(id);
    }

    /// A wish is fulfilled; one that goes further and came meanwhile stays.
    fn forget_wish(&self, id: PartitionId, target: i64) {
        let mut asked = self.asked.borrow_mut();
        if asked.get(&id).is_some_and(|wanted| *wanted <= target) {
            asked.remove(&id);
        }
    }

    /// Waits until nothing of a partition that is gone is written any more, and forgets it.
    pub(super) async fn has_left(&self, id: PartitionId) {
        while self.cleaning.get() == Some(id) {
            self.cleaned.notified().await;
        }
        self.due.borrow_mut().remove(&id);
        self.aside.borrow_mut().remove(&id);
        self.asked.borrow_mut().remove(&id);
    }

    pub(super) fn aside_len(&self) -> usize {
        self.aside.borrow().len()
    }

    /// Some of those that cannot be cleaned.
    pub(super) fn aside_ids(&self, most: usize) -> Vec<PartitionId> {
        self.aside.borrow().keys().take(most).copied().collect()
    }

    /// How many it will look at.
    pub(super) fn waiting_len(&self) -> usize {
        self.due.borrow().len()
    }

    /// Takes those that are due.
    fn take_due(&self, now_ms: i64) -> Vec<PartitionId> {
        let mut due = self.due.borrow_mut();
        let ids: Vec<PartitionId> = due.iter().filter(|(_, at)| **at <= now_ms).map(|(id, _)| *id).collect();
        due.retain(|_, at| *at > now_ms);
        ids
    }

    fn next_due(&self) -> Option<i64> {
        self.due.borrow().values().copied().min()
    }
}

/// Why a cleaning did not come to its end.
#[derive(Debug)]
enum CleanError {
    /// The partition changed under it, or the store is stopping.
    Changed,
    /// The disk is full, or the partition cannot be loaded now.
    Later(String),
    /// Something that will not get better by itself.
    Uncleanable(String),
}

impl From<StoreError> for CleanError {
    fn from(error: StoreError) -> Self {
        Self::Uncleanable(error.to_string())
    }
}

impl<R: Runtime> LogStore<R> {
    /// The cleaner's task. Ends with the store.
    pub(super) async fn run_cleaner(self: Rc<Self>) {
        let mut last_round = self.rt.now();
        while self.state.get() == StoreState::Open {
            let woken = self.cleaner.wake.notified();
            let Some(due) = self.cleaner.next_due() else {
                woken.await;
                continue;
            };
            let wait = self.until_next_round(last_round, due);
            if !wait.is_zero() {
                select(pin!(self.rt.sleep(wait)), pin!(woken)).await;
                continue;
            }
            while self.state.get() == StoreState::Open && self.clean_dirtiest().await {}
            last_round = self.rt.now();
        }
    }

    fn until_next_round(&self, last_round: Monotonic, due_ms: i64) -> Duration {
        let backoff = self.cleaner.options.borrow().backoff;
        let pause = last_round.plus(backoff).since(self.rt.now());
        let due = u64::try_from(due_ms.saturating_sub(self.rt.wall_ms())).unwrap_or(0);
        let wait = Duration::from_millis(due).min(LOOK_AFTER_MAX).max(pause);
        self.until_asked().map_or(wait, |asked| asked.min(wait))
    }

    /// Cleans the dirtiest of the partitions that are due. False: none wants it.
    async fn clean_dirtiest(self: &Rc<Self>) -> bool {
        let mut candidates = Vec::new();
        for id in self.cleaner.take_due(self.rt.wall_ms()) {
            let Some(partition) = self.partition(id).filter(|p| p.spec.borrow().config.compacted) else {
                // Deleted, or no longer compacted: nobody is to wait for it.
                self.cleaner.asked.borrow_mut().remove(&id);
                continue;
            };
            match self.assess_with_wish(&partition).await {
                Ok((found, generation)) if found.wanted => candidates.push(((partition, generation), found)),
                Ok((found, _)) => found.look_again_ms.into_iter().for_each(|at| self.cleaner.mark_at(id, at)),
                Err(error) => self.give_up(&partition, error),
            }
        }
        for ((partition, _), _) in &candidates {
            self.cleaner.mark(partition.id);
        }
        let Some(((partition, generation), found)) = choose(candidates) else { return false };
        self.cleaner.cleaning.set(Some(partition.id));
        let cleaned = self.clean(&partition, &found, generation).await;
        self.cleaner.cleaning.set(None);
        self.cleaner.cleaned.notify_all();
        if let Err(error) = cleaned {
            self.give_up(&partition, error);
        }
        self.state.get() == StoreState::Open
    }

    /// What there is to clean in a partition; loads it, and completes segments that are full.
    /// Also gives the log's generation: with another one the answer is of another log.
    async fn assess_partition(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<(Assessment, u64), CleanError> {
        if !partition.is_ready() {
            self.load(partition).await.map_err(|e| CleanError::Later(e.message))?;
        }
        let unsealed = |log: &mut super::partition::Log| log.segments.iter().filter(|s| s.index.is_some()).count();
        if partition.with(unsealed).is_some_and(|count| count > 1) {
            let flushed = self.complete_segments(partition).await;
            flushed.map_err(|e| self.clean_failed(&e))?;
        }
        being_made(partition)?;
        let generation = partition.with(|log| log.generation).ok_or(CleanError::Changed)?;
        let found = self.assess_loaded(partition).await;
        if partition.with(|log| log.generation) != Some(generation) {
            return Err(CleanError::Changed);
        }
        Ok((found?, generation))
    }

    async fn assess_loaded(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<Assessment, CleanError> {
        let config = partition.spec.borrow().config.clone();
        let sealed = self.sealed_segments(partition, &config).await?;
        let checkpoint = self.checkpoint(partition).await?;
        let bounds = partition.with(|log| {
            let active = log.segments.iter().find(|s| s.index.is_some()).map(|s| s.base);
            let ends = log.ends();
            Some((log.log_start, active?, ends.last_stable.min(ends.high_watermark).0))
        });
        let (log_start, active_base, stable_end) = bounds.flatten().ok_or(CleanError::Changed)?;
        let view = LogView { log_start, checkpoint, stable_end, sealed: &sealed, active_base };
        Ok(assess(&view, &rules(&config), self.rt.wall_ms()))
    }

    /// The complete segments; times are read only where a lag asks for them.
    async fn sealed_segments(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        config: &LogConfig,
    ) -> Result<Vec<SegmentView>, CleanError> {
        let interval = config.index_interval_bytes.max(1);
        let view = |s: &super::partition::Segment| SegmentView {
            base: s.base,
            size: s.size,
            // As large as its indexes will be when they are made anew.
            index_bytes: s.size / interval * OFFSET_ENTRY_LEN as u64,
            time_index_bytes: (s.size / interval + 1) * TIME_ENTRY_LEN as u64,
            largest_timestamp: i64::MIN,
            first_timestamp: None,
        };
        let found =
            partition.with(|log| log.segments.iter().take_while(|s| s.index.is_none()).map(view).collect::<Vec<_>>());
        let mut found = found.ok_or(CleanError::Changed)?;
        for segment in &mut found {
            if config.min_compaction_lag_ms > 0 {
                let index = self.sealed_index(partition, segment.base, FileKind::TimeIndex).await;
                let index = index.map_err(|e| CleanError::Uncleanable(e.message))?;
                being_made(partition)?;
                let last = TimeEntry::last(&index, segment.base);
                segment.largest_timestamp = last.map_or(i64::MIN, |entry| entry.timestamp);
            }
            if config.max_compaction_lag_ms < i64::MAX {
                segment.first_timestamp = self.first_timestamp(partition, segment.base).await?;
            }
        }
        Ok(found)
    }

    /// The end of the last cleaning; 0 if there was none.
    async fn checkpoint(&self, partition: &Rc<Partition>) -> Result<i64, CleanError> {
        if let Some(known) = partition.with(|log| log.cleaned_end).flatten() {
            return Ok(known);
        }
        let end = match self.rt.read_file(&self.dir(partition).join(CHECKPOINT_FILE)).await {
            Ok(text) => decode_checkpoint(&String::from_utf8_lossy(&text)).unwrap_or(0),
            Err(error) if error.kind == IoErrorKind::NotFound => 0,
            Err(error) => return Err(CleanError::Uncleanable(error.to_string())),
        };
        partition.with(|log| *log.cleaned_end.get_or_insert(end));
        Ok(end)
    }

    /// Notes the end of a cleaning. On a full disk only here: then the next start cleans once more.
    async fn write_checkpoint(&self, partition: &Rc<Partition>, end: i64) -> Result<(), CleanError> {
        partition.with(|log| log.cleaned_end = Some(end));
        let spec = partition.spec.borrow().clone();
        let text = format!("0\n1\n{} {} {end}\n", spec.topic, spec.id.index);
        match self.rt.write_file_atomic(&self.dir(partition).join(CHECKPOINT_FILE), text.as_bytes()).await {
            Err(error) if !partition.is_ready() && error.kind == IoErrorKind::NotFound => Err(CleanError::Changed),
            Err(error) if error.kind != IoErrorKind::StorageFull => {
                Err(self.clean_failed(&self.directory_failed(error)))
            }
            _ => Ok(()),
        }
    }

    fn clean_failed(&self, error: &coreline_io::IoError) -> CleanError {
        match error.kind {
            IoErrorKind::StorageFull => CleanError::Later(error.to_string()),
            _ => CleanError::Uncleanable(error.to_string()),
        }
    }

    fn give_up(&self, partition: &Rc<Partition>, error: CleanError) {
        if matches!(error, CleanError::Uncleanable(_)) {
            self.cleaner.asked.borrow_mut().remove(&partition.id);
        }
        // Without a backoff it would look at nothing else, and nobody would mend what it waits for.
        let backoff = self.cleaner.options.borrow().backoff.max(AGAIN_AFTER_MIN);
        let later = self.rt.wall_ms() + backoff.as_millis() as i64;
        match error {
            CleanError::Changed => self.cleaner.put_off(partition.id, later),
            CleanError::Later(why) => {
                tracing::warn!(partition = %partition.dir_name(), why, "partition is not compacted now, it is tried later");
                self.cleaner.put_off(partition.id, later);
            }
            CleanError::Uncleanable(why) => {
                if self.state.get() != StoreState::Open || self.partition(partition.id).is_none() {
                    return;
                }
                tracing::error!(
                    partition = %partition.dir_name(),
                    why,
                    "partition cannot be compacted: it is left as it is until the next start or a change of its settings"
                );
                self.cleaner.due.borrow_mut().remove(&partition.id);
                self.cleaner.aside.borrow_mut().insert(partition.id, why);
            }
        }
    }

    /// Waits until `bytes` more may be read or written (`log.cleaner.io.max.bytes.per.second`).
    async fn throttle(&self, bytes: usize) {
        let rate = self.cleaner.options.borrow().bytes_per_second;
        let now = self.rt.now();
        let from = self.cleaner.free_at.get().max(now);
        self.cleaner.free_at.set(from.plus(Duration::from_secs_f64((bytes as f64 / rate).clamp(0.0, 60.0))));
        let wait = from.since(now);
        if !wait.is_zero() {
            self.rt.sleep(wait).await;
        }
    }
}

/// Of a segment whose indexes are being made it is not known how old it is.
fn being_made(partition: &Partition) -> Result<(), CleanError> {
    let rebuilding = partition.with(|log| log.segments.iter().any(|s| s.rebuilding));
    if rebuilding == Some(true) { Err(CleanError::Later("indexes are being made".into())) } else { Ok(()) }
}

fn rules(config: &LogConfig) -> CleaningRules {
    CleaningRules {
        min_dirty_ratio: config.min_cleanable_dirty_ratio.get(),
        min_lag_ms: config.min_compaction_lag_ms,
        max_lag_ms: config.max_compaction_lag_ms,
        segment_bytes: config.segment_bytes,
        segment_index_bytes: config.segment_index_bytes,
    }
}

fn decode_checkpoint(text: &str) -> Option<i64> {
    text.lines().nth(2)?.rsplit(' ').next()?.trim().parse().ok().filter(|end: &i64| *end >= 0)
}

/// The offset from which on a partition was not cleaned, for tests and questions.
impl<R: Runtime> LogStore<R> {
    /// Up to where a partition was compacted, as far as this is known in memory.
    #[must_use]
    pub fn compacted_end(&self, id: PartitionId) -> Option<Offset> {
        self.partition(id)?.with(|log| log.cleaned_end).flatten().map(Offset)
    }
}
