//! What is known of each partition's files, in a file of its own: a start after a crash reads it and the journal, and looks
//! at no directory.
//!
//! ```text
//! flush of a partition    batches ─▶ sync ─▶ its state, up to there, durable here ─▶ the journal lets go of its copy
//! load after a crash      the state, then what the journal has from there on: nothing is opened, read or written
//! ```
//! A state is believed without a look at the files, so it must never be of less than the journal has let go of, and of
//! nothing but what is synced. Hence
//!
//! 1. the journal lets go of nothing above the state of a partition that has one;
//! 2. whatever else is done to its files is preceded by a word that they were touched, which ends the state: a direct write,
//!    the end of a segment, a cut, a deletion of segments, compaction, a load that did not take the state.
//!
//! What a flush that was under way has left behind the state is in the journal, too, byte for byte: it was durable there
//! first, and is written again at the same place. Where that is not so (`durability=written`) there is no state. The same holds after
//! a sync that failed: what is behind the state is written again, what is before it was synced. The index files of the
//! active segment are not: they are written again when it is full.
//!
//! Only the last frame may be torn: where a whole one follows a broken one the file is damaged, and says nothing at all.
//!
//! The file holds frames as the journal's ([`crate::log::journal`]), without a ring: it is written anew when half of it is old.
//! A store that opens it writes it again, since its last sync may be what failed; one that is closed begins with removing it.

use super::gather::Line;
use super::index_builder::IndexBuilder;
use super::load::OnDisk;
use super::partition::{Log, Partition, Segment, TxnFile};
use super::recovery::{FrameReader, write_again};
use super::retention::DELETED_FILE_SUFFIX;
use super::types::{FatalReason, StoreError};
use super::{IdMap, LogStore};
use crate::ids::{Offset, PartitionId};
use crate::log::journal::{Entry, FrameBuilder, FrameHeader, Lap};
use crate::log::log_config::Durability;
use crate::log::partition_state::PartitionState;
use crate::log::producer_state::ProducerStates;
use bytes::Bytes;
use coreline_io::sync::oneshot;
use coreline_io::{
    BLOCK, DirContents, File, IoError, IoErrorKind, IoResult, OpenOptions, Runtime, TaskGroup, WriteSyncError,
};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub(super) const STATES_FILE: &str = "states";
/// The file is no ring: its frames are all of one lap.
const LAP: Lap = Lap(1);
/// Bytes of entries in a frame when the file is written anew.
const FRAME_BYTES: usize = 1 << 20;
/// Questions that are answered with one frame, at most: one is of a flush round, mostly.
const ASKED_MAX: usize = 256;
/// The file grows by this much before it is written anew, at least. Simulated files are small.
const GROWS_BYTES_MIN: u64 = if cfg!(test) { 64 << 10 } else { 4 << 20 };
/// Idle partitions that are noted together, and the pause afterwards.
const NOTED_AT_A_TIME: usize = 256;
const NOTED_PAUSE: Duration = Duration::from_millis(10);
/// What retention renamed before a crash is removed so long after the load that did not see it.
const SWEEP_AFTER: Duration = Duration::from_secs(10);

/// A word on one partition.
#[derive(Debug)]
struct Note {
    partition: Rc<Partition>,
    /// Its state, up to an offset; none: it was touched.
    state: Option<(i64, Bytes)>,
}

/// What the one task that has the file is asked for.
#[derive(Debug)]
enum Ask {
    Write(Vec<Note>),
    /// A partition leaves this shard, or is deleted: what is said of it counts no more.
    Gone(PartitionId),
    /// The store is being closed: the file goes, and nothing is noted any more.
    Remove,
}

/// The file of a shard, and what it held when the store was opened.
#[derive(Debug)]
pub(super) struct States<R: Runtime> {
    path: PathBuf,
    /// Open, once something was written in this life.
    file: RefCell<Option<R::File>>,
    position: Cell<u64>,
    pub(super) sequence: Cell<u64>,
    /// Its length when it was written anew last.
    compact_len: Cell<u64>,
    line: Line<Ask, IoResult<()>>,
    /// States of partitions that were not loaded since.
    pub(super) found: RefCell<IdMap<(i64, Bytes)>>,
    /// What producers had sent at the ends of flushes under way.
    producers: RefCell<IdMap<(i64, Vec<u8>)>>,
    /// Partitions in the file that this shard does not have.
    strangers: RefCell<BTreeSet<PartitionId>>,
    /// It is removed: nothing is noted any more.
    closed: Cell<bool>,
    /// Partitions that have no state, and may get one when nobody works on them.
    not_noted: RefCell<BTreeSet<PartitionId>>,
    /// Directories that may hold what retention renamed.
    sweeps: RefCell<Vec<PathBuf>>,
}

impl<R: Runtime> States<R> {
    /// The states after an unclean end, if the file is there; after a `clean` one there is nothing to be believed.
    pub(super) async fn open(rt: &R, dir: &Path, is_there: bool, clean: bool) -> Result<Self, StoreError> {
        let path = dir.join(STATES_FILE);
        let states = Self {
            path,
            file: RefCell::default(),
            position: Cell::new(0),
            sequence: Cell::new(0),
            compact_len: Cell::new(0),
            line: Line::default(),
            found: RefCell::default(),
            producers: RefCell::default(),
            strangers: RefCell::default(),
            closed: Cell::new(false),
            not_noted: RefCell::default(),
            sweeps: RefCell::default(),
        };
        if is_there && clean {
            states.remove(rt).await?;
        } else if is_there {
            states.read_again(rt).await?;
        }
        Ok(states)
    }

    /// There is nothing to be believed.
    async fn remove(&self, rt: &R) -> Result<(), StoreError> {
        rt.remove_file(&self.path).await.map_err(StoreError::io("remove the partitions' states"))?;
        let dir = self.path.parent().expect("a file in a directory");
        rt.sync_dir(dir).await.map_err(StoreError::io("remove the partitions' states"))
    }

    /// Reads the file, and makes sure that what is read is on the device: the last sync may be what failed.
    async fn read_again(&self, rt: &R) -> Result<(), StoreError> {
        let file = rt.open(&self.path, OpenOptions::default()).await;
        let file = file.map_err(StoreError::io("read the partitions' states"))?;
        let Words { states: found, position, sequence, damaged } = read_states::<R>(rt, &file).await?;
        if damaged {
            tracing::warn!(path = %self.path.display(), at = position, "damaged: each partition's directory is looked at");
            return self.remove(rt).await;
        }
        // In place, which needs no room.
        write_again(rt, &file, 0, position).await.map_err(StoreError::io("write the partitions' states again"))?;
        file.sync_data().await.map_err(StoreError::io("write the partitions' states again"))?;
        tracing::debug!(partitions = found.len(), bytes = position, "states read");
        self.position.set(position);
        self.sequence.set(sequence);
        self.compact_len.set(found.values().map(|(_, state)| state.len() as u64).sum());
        self.found.replace(found);
        Ok(())
    }

    /// The file says something of this partition, which was assigned late, or is assigned now.
    pub(super) fn names(&self, id: PartitionId) -> bool {
        self.found.borrow().contains_key(&id) || self.strangers.borrow().contains(&id)
    }

    /// What the file says of others is of no use.
    pub(super) fn assigned(&self, ours: impl Fn(PartitionId) -> bool) {
        let mut strangers = self.strangers.borrow_mut();
        self.found.borrow_mut().retain(|id, _| {
            let keep = ours(*id);
            if !keep {
                strangers.insert(*id);
            }
            keep
        });
    }

    pub(super) fn forget(&self, id: PartitionId) {
        self.found.borrow_mut().remove(&id);
        self.producers.borrow_mut().remove(&id);
    }

    /// Its files have changed, or were looked at, and no flush may follow.
    pub(super) fn not_noted(&self, partition: &Partition) {
        if !partition.stated.get() {
            self.not_noted.borrow_mut().insert(partition.id);
        }
    }

    /// To be part of the state that is noted when the flush under way has ended.
    pub(super) fn remember_producers(&self, id: PartitionId, at: Option<(i64, Vec<u8>)>) {
        if let Some(at) = at {
            self.producers.borrow_mut().insert(id, at);
        }
    }

    async fn write_anew(&self, rt: &R, states: &IdMap<(i64, Bytes)>) -> IoResult<()> {
        let (mut bytes, mut sequence) = (Vec::new(), 0);
        let mut frame = FrameBuilder::default();
        let mut end_frame = |frame: FrameBuilder| {
            bytes.extend_from_slice(&frame.finish(LAP, sequence).bytes);
            sequence += 1;
        };
        for (partition, (to, state)) in states {
            frame.push(&Entry::State { partition: *partition, to: Offset(*to), state: state.clone() });
            if frame.bytes() >= FRAME_BYTES {
                end_frame(std::mem::take(&mut frame));
            }
        }
        if !frame.is_empty() {
            end_frame(frame);
        }
        rt.write_file_atomic(&self.path, &bytes).await?;
        self.file.take();
        self.position.set(bytes.len() as u64);
        self.sequence.set(sequence);
        self.compact_len.set(bytes.len() as u64);
        Ok(())
    }

    /// Opens the file, made if it is missing, its name durable.
    async fn open_file(&self, rt: &R) -> IoResult<()> {
        if self.file.borrow().is_none() {
            let file = rt.open(&self.path, OpenOptions { create: true, ..OpenOptions::default() }).await?;
            rt.sync_dir(self.path.parent().expect("a file in a directory")).await?;
            self.file.replace(Some(file));
        }
        Ok(())
    }
}

/// What the file says.
struct Words {
    /// The last word on each partition, none on those that were touched.
    states: IdMap<(i64, Bytes)>,
    /// Where the next frame goes.
    position: u64,
    /// … and its number.
    sequence: u64,
    /// There are frames behind one that is not whole: what they say of it is not known.
    damaged: bool,
}

async fn read_states<R: Runtime>(rt: &R, file: &R::File) -> Result<Words, StoreError> {
    let mut reader = FrameReader::<R>::new(file);
    let (mut sequence, mut position, mut states) = (0, 0, IdMap::default());
    while let Some((_, entries)) = reader.next(Some((LAP, sequence))).await? {
        sequence += 1;
        // Behind the last good frame: the reader may be behind a torn one, and nobody would find what comes after that.
        // A crash may have cut the padding.
        position = reader.position().next_multiple_of(BLOCK as u64);
        for entry in entries {
            match entry {
                Entry::State { partition, to, state } => drop(states.insert(partition, (to.0, state))),
                Entry::Touched { partition } => drop(states.remove(&partition)),
                _ => {}
            }
        }
        if rt.should_yield() {
            rt.yield_now().await;
        }
    }
    let damaged = goes_on::<R>(file, position, sequence).await?;
    Ok(Words { states, position, sequence, damaged })
}

/// There is a frame of a later number at `from` or behind it. A crash leaves none: each frame is synced before the next one is
/// written.
async fn goes_on<R: Runtime>(file: &R::File, from: u64, sequence: u64) -> Result<bool, StoreError> {
    let size = file.size().await.map_err(StoreError::io("read the partitions' states"))?;
    let mut at = from;
    while at < size {
        let bytes = file.read_at(at, FRAME_BYTES).await.map_err(StoreError::io("read the partitions' states"))?;
        for block in (0..bytes.len()).step_by(BLOCK) {
            let header = FrameHeader::parse(&bytes[block..]);
            if header.is_none_or(|header| header.lap != LAP || header.sequence <= sequence) {
                continue;
            }
            let mut reader = FrameReader::<R>::at(file, at + block as u64);
            if reader.next(None).await?.is_some() {
                return Ok(true);
            }
        }
        at += FRAME_BYTES as u64;
    }
    Ok(false)
}

/// What the files of a partition hold now, if all of it is synced and can be said in a few words.
fn state_of(log: &Log, producers: Option<(i64, Vec<u8>)>) -> Option<PartitionState> {
    let at = log.segment_of((log.flushed_end - 1).max(0));
    let (segment, sealed) = (&log.segments[at], &log.segments[..at]);
    let plain = log.synced_end == log.flushed_end
        && log.flushed_end > segment.base
        && log.dir_made
        && !(log.cut_before_write || log.names_dirty || log.log_start_dirty || log.swapping)
        && log.unsynced_bytes == 0
        && segment.on_disk
        && segment.aborted.is_empty()
        && sealed.iter().all(|s| s.on_disk && s.index.is_none() && !s.rebuilding)
        && log.segments[..=at].iter().all(|s| s.txn_file == TxnFile::Missing)
        && log.epochs.latest().is_some();
    let index = segment.index.as_ref().filter(|_| plain)?;
    let producers = log.producers_at(log.flushed_end, producers)?;
    let mark = index.mark(segment.first_timestamp?, log.bytes_since_snapshot)?;
    let (last_offset, last_time) = index.last_entries();
    let mut epochs = log.epochs.clone();
    epochs.truncate_from_end(Offset(log.flushed_end));
    Some(PartitionState {
        log_start: log.log_start,
        mark,
        last_offset,
        last_time,
        sealed: sealed.iter().map(|s| (s.base, s.size)).collect(),
        epochs,
        snapshots: log.snapshots.clone(),
        producers,
    })
}

/// The log that a state is of.
fn log_of(state: PartitionState, to: i64) -> Option<Log> {
    let PartitionState { mark, last_offset, last_time, sealed, epochs, snapshots, producers, .. } = state;
    let known = |base, size| Segment { size, on_disk: true, index: None, max_timestamp: None, ..Segment::new(base) };
    let mut segments: Vec<Segment> = sealed.into_iter().map(|(base, size)| known(base, size)).collect();
    let mut active = known(mark.base, u64::from(mark.position));
    active.first_timestamp = Some(mark.first_timestamp);
    active.max_timestamp = Some(mark.max.timestamp);
    active.index = Some(Box::new(IndexBuilder::at(&mark, last_offset, last_time)));
    active.index_unsettled = mark.index_bytes != (0, 0);
    segments.push(active);
    let mut log = Log::new(segments[0].base, to, segments);
    log.producers = match producers.is_empty() {
        true => ProducerStates::default(),
        false => ProducerStates::decode_snapshot(&producers)?,
    };
    log.producers.committed(Offset(to));
    log.epochs = epochs;
    log.snapshots = snapshots;
    log.bytes_since_snapshot = mark.bytes_since_snapshot;
    log.dir_made = true;
    (mark.base < to).then_some(log)
}

impl<R: Runtime> LogStore<R> {
    /// The log as the file says, if the journal goes on where that ends. It can be asked for once.
    pub(super) fn known_log(self: &Rc<Self>, partition: &Partition) -> Option<OnDisk> {
        let (to, bytes) = self.states.found.borrow_mut().remove(&partition.id)?;
        let config = partition.spec.borrow().config.clone();
        let state = PartitionState::decode(&bytes).filter(|_| !config.compacted)?;
        let start = state.log_start;
        if let Some(recovered) = self.recovered.borrow().get(&partition.id) {
            let mut expected = to;
            for (base, last, _) in recovered.batches.iter().filter(|b| b.1 >= to) {
                if *base != expected {
                    return None;
                }
                expected = last + 1;
            }
            if recovered.log_start.is_some_and(|start| start > expected) {
                return None;
            }
        }
        let log = log_of(state, to).filter(|log| start <= log.log_end)?;
        if start > 0 {
            self.sweep_later(self.dir(partition));
        }
        Some(OnDisk { log, start, settle: false, synced: 0, contents: DirContents::default(), producers_to: to })
    }

    /// To be called before files of the partition become others than a flush from the journal makes them.
    pub(super) async fn touch(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        if !partition.stated.get() || self.states.closed.get() {
            return Ok(());
        }
        self.ask_states(Ask::Write(vec![Note { partition: partition.clone(), state: None }])).await
    }

    /// Before the journal says that nothing of a partition counts: should it come back, its files are others.
    pub(super) async fn state_ends(self: &Rc<Self>, id: PartitionId) -> IoResult<()> {
        if self.states.position.get() == 0 || self.states.closed.get() {
            return Ok(());
        }
        self.ask_states(Ask::Gone(id)).await
    }

    /// As [`Self::touch`], before batches go to the segment: what a flush leaves there is in the journal, durable, but for some.
    pub(super) async fn touch_to_flush(self: &Rc<Self>, partition: &Rc<Partition>) -> IoResult<()> {
        let durable = partition.spec.borrow().config.durability == Durability::Durable;
        if durable && partition.with(|log| log.unsynced_since.is_none()) == Some(true) {
            return Ok(());
        }
        self.touch(partition).await
    }

    /// The journal lets go of what is synced of partitions whose segments the caller has, once their states are noted. No
    /// `note`: they were touched, and will be again soon.
    pub(super) async fn release_synced(self: &Rc<Self>, partitions: &[&Rc<Partition>], note: bool) -> IoResult<()> {
        let mut notes = Vec::new();
        for partition in partitions {
            let plain = {
                let config = &partition.spec.borrow().config;
                // Of one that is leaving nothing may be said once its state has ended: its files become another shard's.
                let stays = !partition.leaving.get() && !self.states.closed.get();
                config.durability == Durability::Durable && !config.compacted && stays
            };
            let producers = self.states.producers.borrow_mut().remove(&partition.id);
            let state = partition.with(|log| {
                let plain = plain && note && log.unsynced_since.is_none();
                plain.then(|| Some((log.synced_end, Bytes::from(state_of(log, producers)?.encode()?)))).flatten()
            });
            let Some(state) = state else { continue };
            if state.is_some() || partition.stated.get() {
                notes.push(Note { partition: Rc::clone(partition), state });
            }
        }
        if !notes.is_empty() && !self.states.closed.get() {
            self.ask_states(Ask::Write(notes)).await?;
        }
        for partition in partitions {
            if let Some((end, start)) = partition.with(|log| (log.synced_end, !log.log_start_dirty)) {
                self.journal.release(partition.id, end, start);
            }
        }
        Ok(())
    }

    /// Notes the states of partitions that were written to straight, or looked at by a load, and that nobody works on now.
    pub(super) async fn note_idle(self: &Rc<Self>) {
        let ids: Vec<PartitionId> = self.states.not_noted.take().into_iter().collect();
        for some in ids.chunks(NOTED_AT_A_TIME) {
            let partitions: Vec<_> = some.iter().filter_map(|id| self.partition(*id)).collect();
            let idle = |p: &&Rc<Partition>| {
                let taken = p.with(|log| {
                    let idle = !log.flushing && !log.held && log.flushed_end == log.log_end;
                    log.flushing |= idle;
                    idle
                });
                taken == Some(true)
            };
            let (taken, busy): (Vec<_>, Vec<_>) = partitions.iter().partition(idle);
            busy.iter().filter(|p| !p.is_gone()).for_each(|p| self.states.not_noted(p));
            // What fails is tried again with the next flush.
            let _ = self.release_synced(&taken, true).await;
            for partition in taken {
                partition.with(|log| log.flushing = false);
                partition.changed.notify_all();
            }
            if !self.is_running() {
                return;
            }
            self.rt.sleep(NOTED_PAUSE).await;
        }
    }

    /// Writes notes, durably; who asks meanwhile makes the next group.
    async fn ask_states(self: &Rc<Self>, ask: Ask) -> IoResult<()> {
        let (sender, receiver) = oneshot();
        self.states.line.push(ask, sender);
        if self.states.line.may_serve(1) {
            let store = self.clone();
            drop(self.rt.spawn(TaskGroup::Replication, "note states", async move {
                while let Some((asked, senders)) = store.states.line.next_group(ASKED_MAX) {
                    let done = store.serve_states(asked).await;
                    for sender in senders {
                        sender.send(done.as_ref().copied().map_err(again));
                    }
                }
            }));
        }
        let stopped = || IoError::new("note the partitions' states", std::io::Error::other("the store has stopped"));
        receiver.await.unwrap_or_else(|| Err(stopped()))
    }

    async fn serve_states(&self, asked: Vec<Ask>) -> IoResult<()> {
        let (mut notes, mut gone, mut remove) = (Vec::new(), Vec::new(), false);
        for ask in asked {
            match ask {
                Ask::Write(more) => notes.extend(more),
                Ask::Gone(id) => gone.push(id),
                Ask::Remove => remove = true,
            }
        }
        if !notes.is_empty() || !gone.is_empty() {
            self.write_notes(&notes, &gone).await?;
        }
        if remove { self.remove_file_of_states().await } else { Ok(()) }
    }

    /// `gone`: nobody works on those any more.
    async fn write_notes(&self, notes: &[Note], gone: &[PartitionId]) -> IoResult<()> {
        let states = &self.states;
        if states.closed.get() {
            return Ok(());
        }
        let failed = |error: IoError, reason| {
            if error.kind != IoErrorKind::StorageFull {
                self.die(reason, &error);
            }
            error
        };
        if states.position.get() > states.compact_len.get() * 2 + GROWS_BYTES_MIN {
            match self.compact_states().await {
                // Perhaps there is room for some more words.
                Err(error) if error.kind == IoErrorKind::StorageFull => {}
                compacted => compacted.map_err(|e| failed(e, FatalReason::JournalWrite))?,
            }
        }
        states.open_file(&self.rt).await.map_err(|e| failed(e, FatalReason::JournalWrite))?;
        let mut frame = FrameBuilder::default();
        for Note { partition, state } in notes {
            frame.push(&match state {
                Some((to, state)) => {
                    // Before: a write that fails may leave it in the file all the same.
                    partition.stated.set(true);
                    Entry::State { partition: partition.id, to: Offset(*to), state: state.clone() }
                }
                None => Entry::Touched { partition: partition.id },
            });
        }
        gone.iter().for_each(|id| frame.push(&Entry::Touched { partition: *id }));
        let frame = frame.finish(LAP, states.sequence.get()).bytes;
        let file = states.file.take().expect("it was opened");
        let written = file.write_and_sync(states.position.get(), std::slice::from_ref(&frame)).await;
        states.file.replace(Some(file));
        written.map_err(|error| match error {
            WriteSyncError::Write(error) => failed(error, FatalReason::JournalWrite),
            WriteSyncError::Sync(error) => failed(error, FatalReason::JournalSync),
        })?;
        states.position.set(states.position.get() + frame.len() as u64);
        states.sequence.set(states.sequence.get() + 1);
        for Note { partition, state } in notes {
            partition.stated.set(state.is_some());
        }
        Ok(())
    }

    /// Writes the file anew, without what is old.
    async fn compact_states(&self) -> IoResult<()> {
        let file = self.rt.open(&self.states.path, OpenOptions::default()).await?;
        let words = read_states::<R>(&self.rt, &file).await.map_err(unreadable)?;
        if words.damaged {
            return Err(unreadable("a frame in the middle is not whole"));
        }
        let mut states = words.states;
        {
            let partitions = self.partitions.borrow();
            states.retain(|id, _| partitions.contains_key(id));
            self.states.strangers.borrow_mut().retain(|id| partitions.contains_key(id));
        }
        let written = self.states.write_anew(&self.rt, &states).await;
        if written.is_err() {
            // Either file may be in place now, and the one that is open may have no name.
            self.states.file.take();
            let file = self.rt.open(&self.states.path, OpenOptions::default()).await?;
            let words = read_states::<R>(&self.rt, &file).await.map_err(unreadable)?;
            self.states.position.set(words.position);
            self.states.sequence.set(words.sequence);
        }
        written
    }

    /// Before a store is closed: its partitions' files become others, and the next start has no use for the states.
    pub(super) async fn remove_states(self: &Rc<Self>) -> IoResult<()> {
        self.ask_states(Ask::Remove).await
    }

    async fn remove_file_of_states(&self) -> IoResult<()> {
        let states = &self.states;
        match self.rt.remove_file(&states.path).await {
            Err(error) if error.kind == IoErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(()) => {
                let dir = states.path.parent().expect("a file in a directory");
                // A power loss may bring it back, and nothing can be added to it any more.
                self.rt.sync_dir(dir).await.map_err(|e| self.sync_failed(e))?;
            }
        }
        states.closed.set(true);
        Ok(())
    }

    /// A load that sees the directory removes what retention renamed, and this one did not.
    fn sweep_later(self: &Rc<Self>, dir: PathBuf) {
        let mut sweeps = self.states.sweeps.borrow_mut();
        sweeps.push(dir);
        if sweeps.len() > 1 {
            return;
        }
        let store = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "sweep", async move {
            store.rt.sleep(SWEEP_AFTER).await;
            for dir in store.states.sweeps.take() {
                let Ok(entries) = store.rt.list_dir(&dir).await else { continue };
                let left = entries.iter().filter(|e| e.name.ends_with(DELETED_FILE_SUFFIX));
                store.remove_files_after(left.map(|e| dir.join(&e.name)).collect(), Duration::ZERO);
                store.rt.sleep(Duration::from_millis(1)).await;
            }
        }));
    }
}

fn unreadable(why: impl ToString) -> IoError {
    IoError::new("read the partitions' states", std::io::Error::other(why.to_string()))
}

/// What each who waits is told.
fn again(error: &IoError) -> IoError {
    let cause = match error.kind {
        IoErrorKind::StorageFull => std::io::Error::from(std::io::ErrorKind::StorageFull),
        _ => std::io::Error::other(error.to_string()),
    };
    IoError::new("note the partitions' states", cause)
}
