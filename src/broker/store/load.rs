//! Loading a partition at first use: its directory, the valid end of its last segment, producers, then its part of
//! the journal. Whoever appends meanwhile waits in line; whoever reads waits for the end.

use super::append::add_batch;
use super::flush::{EPOCHS_FILE, LOG_START_FILE, METADATA_FILE};
use super::index_builder::IndexBuilder;
use super::marks::MARK_READ_BYTES;
use super::partition::{Log, Partition, Phase, QueuedAppend, Segment, TxnFile};
use super::recovery::Recovered;
use super::retention::DELETED_FILE_SUFFIX;
use super::tail::OWNED_BYTES_MIN;
use super::txn::TXN_INDEXES_FILE;
use super::types::{AppendError, ReadError, StoreError};
use super::{LOADS_MAX, LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::index::{OffsetEntry, valid_offset_index, valid_time_index};
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::partition_metadata;
use crate::log::producer_state::ProducerStates;
use crate::log::segment::{FileKind, ScanEnd, file_name, parse_file_name, scan};
use crate::log::txn_index::{FileNote, decode_notes};
use crate::log::txn_marker::read_marker;
use bytes::{Buf, Bytes};
use coreline_io::{DirContents, DirEntry, File, IoErrorKind, IoResult, Runtime, TaskGroup};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Pauses before memory is given back: when all is loaded, when most is flushed, when the rest is by its age.
const GIVE_BACK_AFTER: [Duration; 3] = [Duration::from_millis(10), Duration::from_secs(5), Duration::from_secs(30)];
const SCAN_BYTES: usize = 1 << 20;
/// Files that are no longer than this are read with their directory.
const SMALL_FILE_BYTES: u64 = 64 << 10;

/// Partitions that wait to be loaded, and the tasks that load them.
#[derive(Debug, Default)]
pub(super) struct Loads {
    waiting: RefCell<VecDeque<Rc<Partition>>>,
    tasks: Cell<usize>,
}

impl Loads {
    fn next(&self) -> Option<Rc<Partition>> {
        let mut waiting = self.waiting.borrow_mut();
        let next = waiting.pop_front();
        if next.is_none() {
            // A line that was long keeps no memory.
            *waiting = VecDeque::new();
        }
        next
    }
}

/// What is on disk, before the journal's part.
pub(super) struct OnDisk {
    pub(super) log: Log,
    /// The log's start by its file: may be in the journal's part.
    pub(super) start: i64,
    /// The files may hold what no sync covers.
    pub(super) settle: bool,
    /// Bytes of the last segment that are known to be synced.
    pub(super) synced: u64,
    /// The directory as it was found.
    pub(super) contents: DirContents,
    /// What producers have sent below this offset is known, from a snapshot; the journal may hold less of it.
    pub(super) producers_to: i64,
}

/// A segment's files by what the directory says.
#[derive(Debug, Default)]
struct Listing {
    logs: BTreeMap<i64, u64>,
    indexes: BTreeSet<(i64, FileKind)>,
    snapshots: BTreeSet<i64>,
    /// Segments that had a transaction index when this was noted last, and what was in it.
    txn_indexes: BTreeMap<i64, Option<FileNote>>,
    /// Sealed segments whose indexes are made after the load.
    rebuild_later: BTreeSet<i64>,
    metadata: bool,
    epochs: bool,
    log_start: bool,
}

impl<R: Runtime> LogStore<R> {
    /// Starts to load; the phase is `Loading` already. Who waits for its turn is a place in a line, not a task: thousands
    /// may come at once.
    pub(super) fn spawn_load(self: &Rc<Self>, partition: Rc<Partition>) {
        self.loads.waiting.borrow_mut().push_back(partition);
        if self.loads.tasks.get() == LOADS_MAX {
            return;
        }
        self.loads.tasks.set(self.loads.tasks.get() + 1);
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Requests, "load partition", async move {
            while let Some(partition) = store.loads.next() {
                store.load_now(&partition).await;
            }
            store.loads.tasks.set(store.loads.tasks.get() - 1);
        }));
    }

    /// Begins to load a partition, if that is news: somebody will need it soon.
    pub(crate) fn start_load(self: &Rc<Self>, id: PartitionId) {
        let Some(partition) = self.partition(id) else { return };
        if partition.with_phase(|phase| {
            let unloaded = matches!(phase, Phase::Unloaded);
            if unloaded {
                *phase = Phase::Loading(Vec::new());
            }
            unloaded
        }) {
            self.spawn_load(partition);
        }
    }

    /// Waits until the partition is loaded; loads it if nobody does.
    pub(super) async fn load(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<(), ReadError> {
        loop {
            let changed = partition.changed.notified();
            let start = partition.with_phase(|phase| match phase {
                Phase::Ready(_) => Some(Ok(())),
                Phase::Deleted => {
                    let error = super::append::unknown_partition(partition.id);
                    Some(Err(ReadError::new(error.code, error.message)))
                }
                Phase::Loading(_) => None,
                Phase::Unloaded => {
                    *phase = Phase::Loading(Vec::new());
                    self.spawn_load(partition.clone());
                    None
                }
            });
            match start {
                Some(done) => return done,
                None => changed.await,
            }
            if partition.with_phase(|phase| matches!(phase, Phase::Unloaded)) {
                let why = partition.load_error.borrow().clone().unwrap_or_default();
                let message = format!("{} could not be loaded: {why}", partition.dir_name());
                return Err(ReadError::new(ErrorCode::KafkaStorageError, message));
            }
        }
    }

    async fn load_now(self: &Rc<Self>, partition: &Rc<Partition>) {
        let result = self.load_log(partition).await;
        let queued = partition.with_phase(|phase| {
            let Phase::Loading(queued) = phase else { return None };
            let queued = std::mem::take(queued);
            if result.is_err() {
                *phase = Phase::Unloaded;
            }
            Some(queued)
        });
        // Deleted meanwhile: its appends were answered by that.
        let Some(queued) = queued else { return };
        match result {
            Ok(mut log) => {
                if let Some(handed) = self.arriving.borrow_mut().remove(&partition.id) {
                    handed.put_into(&mut log);
                }
                log.generation = self.next_generation();
                log.jitter_salt = partition.id.topic.0.as_u128() as u32 ^ partition.id.index.0 as u32;
                self.unflushed.set(self.unflushed.get() + log.journaled_bytes);
                let synced = log.synced_end;
                let flush = log.journaled_bytes > 0 || log.log_start_dirty;
                let rebuild = log.segments.iter().any(|s| s.rebuilding);
                partition.with_phase(|phase| *phase = Phase::Ready(Box::new(log)));
                let entered = self.rt.now();
                for append in queued {
                    self.append_now(partition, QueuedAppend { entered, ..append });
                }
                self.journal.release(partition.id, synced, !flush);
                if flush {
                    self.queue_flush(partition);
                }
                self.give_back_memory_once();
                if rebuild {
                    self.rebuild_in_background(partition.clone());
                }
            }
            Err(error) => {
                partition.load_error.replace(Some(error.to_string()));
                tracing::error!(partition = %partition.dir_name(), %error, "partition cannot be loaded");
                for append in queued {
                    append.sender.send(Err(AppendError::new(ErrorCode::KafkaStorageError, error.to_string())));
                }
            }
        }
        partition.changed.notify_all();
    }

    /// The journal was read in large pieces, and is with its partitions now; some of it stays in memory until it is flushed.
    fn give_back_memory_once(self: &Rc<Self>) {
        let Some(give_back) = self.options.give_back_memory else { return };
        if !self.recovered.borrow().is_empty() || self.is_recovered.replace(true) {
            return;
        }
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "give back memory", async move {
            for pause in GIVE_BACK_AFTER {
                store.rt.sleep(pause).await;
                if store.options.helpers.run(give_back).await.is_err() {
                    return;
                }
            }
        }));
    }

    async fn load_log(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<Log, StoreError> {
        // Nothing is known of its files any more: only another process may touch them.
        if self.state.get() == StoreState::Dead {
            return Err(StoreError::Stopped);
        }
        if self.arriving.borrow().contains_key(&partition.id) {
            // It may have been here before, and what was open then is of files that are others now.
            self.forget_files(&self.dir(partition));
        }
        let on_disk = match self.known_log(partition) {
            Some(known) => known,
            None => {
                // The journal may let go of more than the state says.
                self.touch(partition).await.map_err(StoreError::io("note that the partition is looked at"))?;
                let found = self.load_segments(partition).await?;
                self.states.not_noted(partition);
                found
            }
        };
        if on_disk.settle {
            self.settle(partition, &on_disk.log, on_disk.synced, &on_disk.contents).await?;
        }
        // Taken out only when the load is complete: a failed one can be tried again.
        let recovered = self.recovered.borrow_mut().remove(&partition.id);
        let journaled_start = recovered.as_ref().and_then(|r| r.log_start).unwrap_or(0);
        let OnDisk { mut log, start, producers_to, .. } = on_disk;
        let new_start = start.max(journaled_start);
        tracing::debug!(
            partition = %partition.dir_name(),
            start,
            end = log.log_end,
            journal = ?recovered.as_ref().and_then(|r| Some((r.batches.first()?.0, r.batches.last()?.1))),
            "segments read"
        );
        if let Some(recovered) = recovered {
            let result = self.replay(partition, &mut log, &recovered, (new_start, producers_to)).await;
            if result.is_err() {
                self.recovered.borrow_mut().insert(partition.id, recovered);
            }
            result?;
        }
        // From now on its files may become others.
        self.told.borrow_mut().remove(&partition.id);
        if new_start > log.log_end {
            log = self.start_over(partition, &log, new_start).await?;
        }
        log.move_start(new_start);
        // What came from the file alone is in the file.
        log.log_start_dirty = journaled_start > start;
        log.assert_invariants();
        Ok(log)
    }

    /// Adds what the journal has beyond the segments.
    async fn replay(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        log: &mut Log,
        recovered: &Recovered,
        (start, producers_to): (i64, i64),
    ) -> Result<(), StoreError> {
        let mut expected = log.log_end;
        let mut anew = None;
        for (base, last, _) in recovered.batches.iter().filter(|b| b.1 >= log.log_end) {
            // The hole is before the log's start: the log began anew behind it, in an earlier life.
            if *base > expected && *base <= start {
                anew = Some(*base);
            }
            expected = last + 1;
        }
        if let Some(base) = anew {
            *log = self.start_over(partition, log, base).await?;
        }
        replay_into(log, partition, recovered, producers_to)
    }

    /// The log ends before its start: a power loss took records that were only written, of which the first were
    /// deleted. The deleted offsets must not be given again: the log goes on, empty, at its start.
    async fn start_over(self: &Rc<Self>, partition: &Rc<Partition>, log: &Log, start: i64) -> Result<Log, StoreError> {
        let partition_name = partition.dir_name();
        tracing::warn!(partition = %partition_name, start, end = log.log_end, "the log ends before its start: it begins anew");
        for base in log.segments.iter().rev().filter(|s| s.on_disk).map(|s| s.base) {
            for kind in FileKind::SEGMENT.into_iter().rev() {
                let path = self.segment_path(partition, base, kind);
                self.files.forget(&path);
                match self.rt.remove_file(&path).await {
                    Err(error) if error.kind != IoErrorKind::NotFound => {
                        return Err(StoreError::io("remove a segment before the log's start")(error));
                    }
                    _ => {}
                }
            }
        }
        let mut fresh = Log::new(start, start, vec![Segment::new(start)]);
        fresh.dir_made = log.dir_made;
        fresh.snapshots = log.snapshots.clone();
        fresh.producers = log.producers.clone();
        Ok(fresh)
    }

    async fn load_segments(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<OnDisk, StoreError> {
        let dir = self.dir(partition);
        let mut contents = match self.read_dir_together(dir.clone(), small_files).await? {
            Ok(contents) => contents,
            Err(error) if error.kind == IoErrorKind::NotFound => {
                return Ok(self.empty(partition, 0));
            }
            Err(error) => return Err(StoreError::io("read the partition's directory")(error)),
        };
        if !self.is_ours(partition, &contents).await? {
            self.set_aside(partition, &dir).await?;
            return Ok(self.empty(partition, 0));
        }
        if let Some(entries) = self.settle_compaction(&dir, &contents.entries).await? {
            contents = DirContents { entries, ..DirContents::default() };
        }
        let mut listing = list(&contents.entries);
        let start = if listing.log_start { self.read_log_start(&dir, &contents).await?.unwrap_or(0) } else { 0 };
        if contents.entries.iter().any(|e| e.name == TXN_INDEXES_FILE) {
            let text = self.small_file(&dir, TXN_INDEXES_FILE, &contents).await;
            let text = text.map_err(StoreError::io("read which transaction indexes there are"))?;
            listing.txn_indexes = decode_notes(&String::from_utf8_lossy(&text));
        }
        let left = contents.entries.iter().filter(|e| e.name.ends_with(DELETED_FILE_SUFFIX));
        self.remove_files_after(left.map(|e| dir.join(&e.name)).collect(), Duration::ZERO);
        if listing.logs.is_empty() {
            let mut empty = self.empty(partition, start);
            empty.settle = self.unsettled.holds(&partition.dir_name());
            // Written, but perhaps not durable: names are, once there is a segment.
            empty.log.dir_made = listing.metadata && !empty.settle;
            // Retention may have taken all that producers sent: what they have sent is known all the same.
            let (producers, snapshot) = self.read_snapshot(partition, &listing, &contents).await?;
            empty.log.producers = producers;
            empty.producers_to = snapshot.unwrap_or(0);
            empty.log.snapshots = listing.snapshots.iter().copied().collect();
            empty.contents = contents;
            return Ok(empty);
        }
        self.rebuild_indexes(partition, &mut listing).await?;
        let journaled_start = self.recovered.borrow().get(&partition.id).and_then(|r| r.log_start).unwrap_or(0);
        let loaded = self.load_end(partition, &listing, &contents, start.max(journaled_start)).await?;
        let (mut log, synced, producers_to) = loaded;
        log.dir_made = listing.metadata;
        log.epochs.truncate_from_end(crate::ids::Offset(log.log_end));
        let settle = self.unsettled.holds(&partition.dir_name());
        Ok(OnDisk { log, start, settle, synced, contents, producers_to })
    }

    /// A file of a partition's directory: as it was read with that, or now, if it was too long.
    async fn small_file(&self, dir: &Path, name: &str, contents: &DirContents) -> IoResult<Bytes> {
        match contents.files.get(name) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.rt.read_file(&dir.join(name)).await.map(Bytes::from),
        }
    }

    /// A log without a segment: nothing of it was flushed, or all of it went before `start`.
    fn empty(&self, partition: &Partition, start: i64) -> OnDisk {
        let recovered = self.recovered.borrow();
        let first = recovered.get(&partition.id).and_then(|r| r.batches.first()).map_or(start, |b| b.0);
        let log = Log::new(first, first, vec![Segment::new(first)]);
        OnDisk { log, start, settle: false, synced: 0, contents: DirContents::default(), producers_to: 0 }
    }

    /// The directory belongs to this topic, and not to one of the same name that was deleted.
    async fn is_ours(&self, partition: &Partition, contents: &DirContents) -> Result<bool, StoreError> {
        if !contents.entries.iter().any(|e| e.name == METADATA_FILE) {
            return Ok(true);
        }
        let text = self.small_file(&self.dir(partition), METADATA_FILE, contents).await;
        let text = text.map_err(StoreError::io("read the topic's id"))?;
        let id = std::str::from_utf8(&text).ok().and_then(partition_metadata::decode);
        Ok(id.is_none_or(|id| id == partition.id.topic))
    }

    /// Renames a directory that belongs to a deleted topic; it is removed with the other leftovers.
    async fn set_aside(self: &Rc<Self>, partition: &Partition, dir: &Path) -> Result<(), StoreError> {
        tracing::warn!(dir = %dir.display(), "directory of a deleted topic of the same name is removed");
        let renamed = self.rename_away(partition, |found| found != partition.id.topic).await?;
        self.forget_files(dir);
        self.rt.sync_dir(&self.options.data_dir).await.map_err(StoreError::io("set a stale directory aside"))?;
        renamed.into_iter().for_each(|target| self.remove_later(target));
        Ok(())
    }

    async fn read_log_start(&self, dir: &Path, contents: &DirContents) -> Result<Option<i64>, StoreError> {
        match self.small_file(dir, LOG_START_FILE, contents).await {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                Ok(text.lines().nth(2).and_then(|l| l.rsplit(' ').next()).and_then(|n| n.trim().parse().ok()))
            }
            Err(error) if error.kind == IoErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read the log's start")(error)),
        }
    }

    /// The epochs file; none if it is missing or damaged.
    async fn read_epochs(&self, dir: &Path, contents: &DirContents) -> Result<Option<LeaderEpochs>, StoreError> {
        match self.small_file(dir, EPOCHS_FILE, contents).await {
            Ok(text) => Ok(std::str::from_utf8(&text).ok().and_then(LeaderEpochs::decode)),
            Err(error) if error.kind == IoErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("read the leader epochs")(error)),
        }
    }

    /// Finds the end of the log: scans from the newest snapshot or index entry, whichever is earlier. Also gives how
    /// far the last segment is known to be synced: index entries and snapshots are written after the sync of what they
    /// name, and so is the journal's part that is behind a segment's. And the offset that the snapshot is of.
    async fn load_end(
        &self,
        partition: &Rc<Partition>,
        listing: &Listing,
        contents: &DirContents,
        log_start: i64,
    ) -> Result<(Log, u64, i64), StoreError> {
        let dir = self.dir(partition);
        let interval = partition.spec.borrow().config.index_interval_bytes;
        let bases: Vec<i64> = listing.logs.keys().copied().collect();
        let last = *bases.last().expect("there is a segment");
        let epochs = if listing.epochs { self.read_epochs(&dir, contents).await? } else { None };
        let has_txn_file = listing.indexes.contains(&(last, FileKind::TxnIndex));
        let has_txn_index = has_txn_file || listing.txn_indexes.contains_key(&last);
        let note = |base: &i64| listing.txn_indexes.get(base).copied().flatten();
        let aborted = match has_txn_file {
            true => self.read_txn_index(partition, last, note(&last)).await?,
            // It is known that there was one.
            false if has_txn_index => None,
            false => Some(Vec::new()),
        };
        let (mut producers, snapshot) = match &aborted {
            Some(_) => self.read_snapshot(partition, listing, contents).await?,
            // What was aborted before the snapshot is known only to the batches.
            None => (ProducerStates::default(), None),
        };
        let (mut index, known) = self.read_indexes(partition, last, listing.logs[&last], contents).await?;
        let whole = contents.files.get(&file_name(last, FileKind::Log));
        // Neither epochs nor transactions are in a mark.
        let unmarked = epochs.is_none() || has_txn_index;
        let marked = if unmarked { None } else { self.read_at_mark(partition, last, &index, whole).await? };
        let mut segments: Vec<Segment> = bases
            .iter()
            .map(|base| Segment {
                size: listing.logs[base],
                on_disk: true,
                index: None,
                max_timestamp: None,
                rebuilding: listing.rebuild_later.contains(base),
                txn_file: match listing.indexes.contains(&(*base, FileKind::TxnIndex)) {
                    true => TxnFile::Stale(note(base)),
                    false if listing.rebuild_later.contains(base) => TxnFile::Unknown,
                    false => TxnFile::Missing,
                },
                ..Segment::new(*base)
            })
            .collect();
        // Without epochs or a snapshot everything is read once.
        let mut producers_from = snapshot.map_or(bases[0], |offset| offset.max(bases[0]));
        let from = if epochs.is_some() { producers_from } else { bases[0] };
        // What is behind the snapshot is read from the batches.
        let mut aborted = aborted.unwrap_or_default();
        aborted.retain(|txn| txn.last_offset.0 < producers_from);
        let mut epochs = epochs.unwrap_or_default();
        let mut synced = index.last_position();
        let synced_offset = snapshot.into_iter().chain(self.synced_by_journal(partition)).max().unwrap_or(0);
        let first = match marked {
            Some(_) => segments.len() - 1,
            None => segments.partition_point(|s| s.base <= from).saturating_sub(1),
        };
        let mut end = segments[first].base;
        let mut scanned_from = 0;
        let mut first_timestamp = None;
        if let Some((mark, to, _)) = &marked {
            index.resume(mark);
            first_timestamp = Some(mark.first_timestamp);
            if snapshot.is_none_or(|offset| offset <= *to) {
                // Those of the snapshot, if there were any, have expired since.
                (producers, producers_from) = (ProducerStates::default(), *to);
            }
        }
        for (at, segment) in segments.iter_mut().enumerate().skip(first) {
            let is_last = segment.base == last;
            let start = match (at == first, is_last) {
                (true, true) if let Some((mark, ..)) = &marked => u64::from(mark.last_batch),
                (true, true) => u64::from(OffsetEntry::lookup(&known, last, from)),
                (true, false) => self.position_before(partition, segment.base, from).await?,
                (false, _) => 0,
            };
            scanned_from = start;
            let on_batch = |header: &RecordBatchHeader, bytes: &[u8], position: u64| {
                if is_last {
                    index.on_batch(
                        header.base_offset.0,
                        header.last_offset().0,
                        header.max_timestamp,
                        position,
                        header.size_in_bytes() as u32,
                        interval,
                    );
                    if header.last_offset().0 < synced_offset {
                        synced = synced.max(position + header.size_in_bytes() as u64);
                    }
                    if position == 0 {
                        first_timestamp = Some(header.max_timestamp);
                    }
                }
                if header.base_offset.0 >= producers_from {
                    let noted = producers.note(header, bytes);
                    producers.committed(header.next_offset());
                    // Those of sealed segments are in their files.
                    aborted.extend(noted.aborted.filter(|_| is_last));
                }
                if header.base_offset.0 >= from {
                    epochs.note(header.partition_leader_epoch, header.base_offset);
                }
                end = header.next_offset().0;
            };
            let size = match whole.filter(|_| is_last) {
                Some(bytes) => {
                    segment.first_timestamp = batch::parse_header(bytes).ok().map(|h| h.max_timestamp);
                    scan_whole(bytes, segment.base, start, on_batch)
                }
                None => {
                    let _turn = self.scans.acquire(1).await;
                    if is_last && start > 0 && marked.is_none() {
                        segment.first_timestamp = self.first_timestamp(partition, last).await?;
                    }
                    let read = marked.as_ref().map(|(_, _, bytes)| bytes.clone());
                    self.scan_on(partition, segment.base, start, read, on_batch).await?
                }
            };
            if is_last {
                segment.first_timestamp = segment.first_timestamp.or(first_timestamp);
                segment.size = size;
            } else if size < segment.size {
                return Err(StoreError::Corrupt(format!(
                    "{}: batch at byte {size} of segment {} is damaged, {} bytes are expected",
                    dir.display(),
                    segment.base,
                    segment.size
                )));
            }
        }
        // A snapshot up to the log's start may outlive the batches that it sums up: they were deleted, and a power loss
        // undid a part of that.
        if end < producers_from && producers_from > log_start {
            return Err(StoreError::Corrupt(format!(
                "{}: batches end at offset {end}, but there was a snapshot at {producers_from}",
                dir.display()
            )));
        }
        let tail = segments.last_mut().expect("there is a segment");
        let scanned = match &marked {
            Some((mark, ..)) => mark.bytes_since_snapshot + tail.size.saturating_sub(u64::from(mark.position)),
            None => tail.size - scanned_from,
        };
        tail.max_timestamp = Some(index.max.map_or(-1, |max| max.timestamp));
        tail.index = Some(Box::new(index));
        tail.aborted = aborted;
        let end = end.max(last);
        let mut log = Log::new(bases[0], end, segments);
        log.epochs = epochs;
        log.producers = producers;
        log.snapshots = listing.snapshots.iter().copied().filter(|s| *s <= end.max(log_start)).collect();
        log.bytes_since_snapshot = scanned;
        Ok((log, synced, snapshot.unwrap_or(0)))
    }

    /// The timestamp that `segment.ms` counts from.
    pub(super) async fn first_timestamp(&self, partition: &Partition, base: i64) -> Result<Option<i64>, StoreError> {
        let path = self.segment_path(partition, base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(StoreError::io("open a segment"))?;
        let bytes = file.read_at(0, batch::HEADER_LEN).await.map_err(StoreError::io("read a segment"))?;
        Ok(batch::parse_header(&bytes).ok().map(|h| h.max_timestamp))
    }

    /// The valid part of a segment's indexes, checked against its batches; with the entries of the offset index.
    async fn read_indexes(
        &self,
        partition: &Rc<Partition>,
        base: i64,
        log_bytes: u64,
        contents: &DirContents,
    ) -> Result<(IndexBuilder, Vec<u8>), StoreError> {
        let none = || Ok((IndexBuilder::new(base), Vec::new()));
        let dir = self.dir(partition);
        let mut files = Vec::new();
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex] {
            let name = file_name(base, kind);
            if !contents.entries.iter().any(|e| e.name == name) {
                return none();
            }
            match self.small_file(&dir, &name, contents).await {
                Ok(bytes) => files.push(bytes),
                Err(error) if error.kind == IoErrorKind::NotFound => return none(),
                Err(error) => return Err(StoreError::io("read an index")(error)),
            }
        }
        let offsets = &files[0][..valid_offset_index(&files[0], base, log_bytes)];
        let times = &files[1][..valid_time_index(&files[1], base)];
        let Some(entry) = (offsets.len() / 8).checked_sub(1).and_then(|n| OffsetEntry::get(offsets, base, n)) else {
            return none();
        };
        // The last entry must name a batch: else the index is of other bytes.
        let bytes = match contents.files.get(&file_name(base, FileKind::Log)) {
            Some(whole) => whole.slice((entry.position as usize).min(whole.len())..),
            None => {
                let path = self.segment_path(partition, base, FileKind::Log);
                let file = self.files.get(&self.rt, &path, false).await.map_err(StoreError::io("open a segment"))?;
                let bytes = file.read_at(u64::from(entry.position), batch::HEADER_LEN).await;
                bytes.map_err(StoreError::io("read a segment"))?
            }
        };
        let names_it = batch::parse_header(&bytes).is_ok_and(|h| h.last_offset().0 == entry.offset);
        if names_it { Ok((IndexBuilder::from_files(base, offsets, times), offsets.to_vec())) } else { none() }
    }

    /// The newest snapshot that can be read, and its offset.
    async fn read_snapshot(
        &self,
        partition: &Rc<Partition>,
        listing: &Listing,
        contents: &DirContents,
    ) -> Result<(ProducerStates, Option<i64>), StoreError> {
        let dir = self.dir(partition);
        for offset in listing.snapshots.iter().rev() {
            let name = file_name(*offset, FileKind::Snapshot);
            let bytes = self.small_file(&dir, &name, contents).await.map_err(StoreError::io("read a snapshot"))?;
            if let Some(states) = ProducerStates::decode_snapshot(&bytes) {
                return Ok((states, Some(*offset)));
            }
            tracing::warn!(path = %dir.join(&name).display(), "snapshot is damaged, an older one is used");
        }
        Ok((ProducerStates::default(), None))
    }

    /// Calls `found(header, batch, position)` for each valid batch from `start` on. Gives where they end.
    pub(super) async fn scan_segment(
        &self,
        partition: &Rc<Partition>,
        base: i64,
        start: u64,
        found: impl FnMut(&RecordBatchHeader, &[u8], u64),
    ) -> Result<u64, StoreError> {
        self.scan_on(partition, base, start, None, found).await
    }

    /// The same; `read`: what was read at `start` already, [`MARK_READ_BYTES`] or up to the file's end.
    async fn scan_on(
        &self,
        partition: &Rc<Partition>,
        base: i64,
        start: u64,
        mut read: Option<Bytes>,
        mut found: impl FnMut(&RecordBatchHeader, &[u8], u64),
    ) -> Result<u64, StoreError> {
        let path = self.segment_path(partition, base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(StoreError::io("open a segment"))?;
        let (mut position, mut expected, mut want) = (start, base, SCAN_BYTES);
        let mut buffer = Bytes::new();
        loop {
            let from = position + buffer.len() as u64;
            let (more, at_end) = match read.take() {
                Some(read) => (read.clone(), read.len() < MARK_READ_BYTES),
                None => {
                    let more = file.read_at(from, want).await.map_err(StoreError::io("read a segment"))?;
                    let at_end = more.len() < want;
                    (more, at_end)
                }
            };
            buffer = if buffer.is_empty() { more } else { [&buffer[..], &more[..]].concat().into() };
            let (used, end) = scan(&buffer, expected, |header, at| {
                found(header, &buffer[at..at + header.size_in_bytes()], position + at as u64);
                expected = header.next_offset().0;
                ControlFlow::Continue(())
            });
            buffer.advance(used);
            position += used as u64;
            match end {
                ScanEnd::Invalid => return Ok(position),
                ScanEnd::More(_) if at_end => return Ok(position),
                ScanEnd::More(needed) => want = needed.saturating_sub(buffer.len()).max(SCAN_BYTES),
            }
            if self.rt.should_yield() {
                self.rt.yield_now().await;
            }
        }
    }

    /// Makes the indexes that are missing or damaged of sealed segments.
    async fn rebuild_indexes(&self, partition: &Rc<Partition>, listing: &mut Listing) -> Result<(), StoreError> {
        let sealed = listing.logs.len().saturating_sub(1);
        let bases: Vec<i64> = listing.logs.keys().copied().take(sealed).collect();
        let mut txn_wanted = Vec::new();
        for (at, base) in bases.iter().copied().enumerate() {
            let next = bases.get(at + 1).copied().unwrap_or(i64::MAX);
            let mut txn_missing = match listing.indexes.contains(&(base, FileKind::TxnIndex)) {
                true => {
                    let note = listing.txn_indexes.get(&base).copied().flatten();
                    let sound = self.sound_txn_index(partition, base, next, note).await;
                    listing.txn_indexes.insert(base, sound);
                    sound.is_none()
                }
                false => listing.txn_indexes.contains_key(&base),
            };
            if txn_missing {
                txn_wanted.push(base);
            }
            let whole =
                [FileKind::OffsetIndex, FileKind::TimeIndex].iter().all(|k| listing.indexes.contains(&(base, *k)));
            if whole {
                continue;
            }
            if listing.logs[&base] > self.options.rebuild_at_once_bytes_max {
                listing.rebuild_later.insert(base);
                continue;
            }
            let (index, aborts) = self.scan_for_indexes(partition, base).await?;
            self.write_rebuilt(partition, base, &index).await?;
            txn_missing |= aborts;
            if txn_missing && txn_wanted.last() != Some(&base) {
                txn_wanted.push(base);
            }
        }
        if !txn_wanted.is_empty() {
            let made = self.rebuild_txn_indexes(partition, &bases, &txn_wanted).await?;
            listing.indexes.extend(made.iter().map(|(base, _)| (*base, FileKind::TxnIndex)));
            listing.txn_indexes.extend(made.into_iter().map(|(base, note)| (base, Some(note))));
            let noted = self.write_txn_notes(partition, &listing.txn_indexes).await;
            noted.map_err(StoreError::io("note which transaction indexes there are"))?;
        }
        Ok(())
    }
}

/// The files of a partition that are read with its directory: small ones that a load looks into.
fn small_files(entries: &[DirEntry]) -> Vec<usize> {
    let newest = |kind| {
        let of_kind = entries.iter().enumerate().filter_map(move |(at, e)| {
            parse_file_name(&e.name).filter(|(_, k)| *k == kind).map(|(base, _)| (base, at))
        });
        of_kind.max().map(|(_, at)| at)
    };
    let named = [METADATA_FILE, EPOCHS_FILE, LOG_START_FILE, TXN_INDEXES_FILE];
    let named = entries.iter().enumerate().filter(|(_, e)| named.contains(&e.name.as_str())).map(|(at, _)| at);
    let files = FileKind::ALL.into_iter().filter_map(newest).chain(named);
    files.filter(|at| entries[*at].len <= SMALL_FILE_BYTES).collect()
}

/// As [`LogStore::scan_segment`], of a segment whose bytes are here.
fn scan_whole(bytes: &[u8], base: i64, start: u64, mut found: impl FnMut(&RecordBatchHeader, &[u8], u64)) -> u64 {
    let rest = bytes.get(start as usize..).unwrap_or_default();
    let (used, _) = scan(rest, base, |header, at| {
        found(header, &rest[at..at + header.size_in_bytes()], start + at as u64);
        ControlFlow::Continue(())
    });
    start + used as u64
}

fn list(entries: &[DirEntry]) -> Listing {
    let mut listing = Listing::default();
    for entry in entries {
        listing.metadata |= entry.name == METADATA_FILE;
        listing.epochs |= entry.name == EPOCHS_FILE;
        listing.log_start |= entry.name == LOG_START_FILE;
        match parse_file_name(&entry.name) {
            Some((base, FileKind::Log)) => drop(listing.logs.insert(base, entry.len)),
            Some((offset, FileKind::Snapshot)) => drop(listing.snapshots.insert(offset)),
            Some((base, kind)) => drop(listing.indexes.insert((base, kind))),
            None => {}
        }
    }
    listing
}

/// Adds what the journal has beyond the segments. What producers have sent below `producers_to` is known already: the
/// journal may end before, where segments behind it were deleted, and would make them go back.
fn replay_into(
    log: &mut Log,
    partition: &Partition,
    recovered: &Recovered,
    producers_to: i64,
) -> Result<(), StoreError> {
    let config = partition.spec.borrow().config.clone();
    for (base, last, bytes) in &recovered.batches {
        if *last < log.log_end {
            continue;
        }
        if *base != log.log_end {
            return Err(StoreError::Corrupt(format!(
                "{}: the journal goes on at offset {base}, the segments end at {}",
                partition.dir_name(),
                log.log_end
            )));
        }
        let header = batch::parse_header(bytes).map_err(|e| StoreError::Corrupt(e.to_string()))?;
        batch::check_crc(&header, bytes).map_err(|e| StoreError::Corrupt(format!("journal: {e}")))?;
        if log.epochs.note(header.partition_leader_epoch, header.base_offset) {
            log.epochs_dirty = true;
        }
        // One that keeps its buffer in the tail would keep a large piece of the journal in memory.
        let own = if bytes.len() >= OWNED_BYTES_MIN { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
        add_batch(log, &config, &header, own);
        if header.last_offset().0 >= producers_to {
            log.note_producer(&header, read_marker(&header, bytes));
        }
        log.producers.committed(header.next_offset());
        log.journaled_bytes += bytes.len();
        log.touched = true;
    }
    log.committed_end = log.log_end;
    log.submitted_end = log.log_end;
    log.high_watermark = log.log_end;
    if let Some(start) = recovered.log_start {
        log.move_start(start);
    }
    Ok(())
}
