//! The journal's ring of files: laps, zero-filling ahead of the writer, recycling.
//!
//! ```text
//! laps   (oldest)  [full, live: 3 partitions]  [full, live: 1]  [current: position ──▶ | filled ahead | rest of the file]
//! free   files whose lap holds nothing that is needed; a new lap overwrites them, oldest first
//! ```
//!
//! A lap is *live* for a partition until everything that it holds of it is in segments, on the device. Laps are freed
//! in order, so that what is on disk is always a run of laps without a hole: replay sees truncations after the batches
//! that they cut. Below `filled` every block of the file was really written, so an overwrite and a sync change no metadata.

use super::IdMap;
use super::types::{JournalSync, StoreError, StoreOptions};
use crate::ids::PartitionId;
use crate::log::journal::Lap;
use bytes::Bytes;
use coreline_io::sync::Notify;
use coreline_io::{BLOCK, File, IoError, IoErrorKind, IoResult, OpenOptions, Runtime, TaskGroup, WriteSyncError};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;

/// Zeros are kept so many slices ahead of the writer.
const FILL_AHEAD_SLICES: u64 = 16;

/// What a lap still holds of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Live {
    /// Batches up to this offset.
    pub(super) end: i64,
    /// A move of the log's start.
    pub(super) log_start: bool,
}

/// One use of a file.
#[derive(Debug)]
pub(super) struct LapState {
    pub(super) lap: Lap,
    pub(super) file: usize,
    pub(super) full: bool,
    /// What a start would read of it, once it is full.
    pub(super) bytes: u64,
    pub(super) live: IdMap<Live>,
}

/// The file that the writer appends to.
struct Current<F> {
    lap: Lap,
    dsync: F,
    plain: F,
    position: Cell<u64>,
    sequence: Cell<u64>,
    /// Blocks below it were written, and the size is durable.
    filled: Cell<u64>,
    /// The end of the frame that is being written.
    writing: Cell<u64>,
    /// A slice of zeros is being written from here.
    filling: Cell<Option<u64>>,
    /// There is a task that fills, perhaps between two slices. There must be one at most: the zeros of a second one, which
    /// begins where the first does, could land on frames that were written once the first was done with the slice.
    has_filler: Cell<bool>,
    /// The lap is full: nothing more is filled, the file may soon be one of a new lap.
    closed: Cell<bool>,
    /// Bytes of frames that no sync covers.
    unsynced: Cell<u64>,
}

impl<F> Current<F> {
    /// Zeros must not go where frames are or are being written.
    fn fill_start(&self) -> u64 {
        self.filled.get().max(self.position.get()).max(self.writing.get())
    }
}

struct State<F> {
    laps: VecDeque<LapState>,
    free: VecDeque<usize>,
    next_file: usize,
    current: Option<Rc<Current<F>>>,
    last_lap: Lap,
    /// This process has begun a lap.
    begun: bool,
}

/// The ring of one shard.
pub(super) struct JournalFiles<R: Runtime> {
    rt: R,
    pub(super) dir: PathBuf,
    file_bytes: u64,
    fill_bytes: u64,
    files_max: usize,
    sync: JournalSync,
    state: RefCell<State<R::File>>,
    /// Told when a lap is freed and when a slice is filled.
    pub(super) changed: Notify,
}

/// `journal/shard-0003`
pub(super) fn journal_dir(options: &StoreOptions) -> PathBuf {
    options.data_dir.join("journal").join(format!("shard-{:04}", options.shard))
}

/// `000002.journal`
pub(super) fn file_name(index: usize) -> String {
    format!("{index:06}.journal")
}

pub(super) fn parse_file_name(name: &str) -> Option<usize> {
    let digits = name.strip_suffix(".journal")?;
    if digits.len() == 6 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

impl<R: Runtime> JournalFiles<R> {
    /// The ring as recovery found it. The first frame begins a new lap.
    pub(super) fn new(
        rt: R,
        options: &StoreOptions,
        file_bytes: u64,
        laps: VecDeque<LapState>,
        free: VecDeque<usize>,
        last: Lap,
    ) -> Self {
        let next_file = laps.iter().map(|l| l.file).chain(free.iter().copied()).max().map_or(0, |n| n + 1);
        let state = State { laps, free, next_file, current: None, last_lap: last, begun: false };
        let ring = Self {
            rt,
            dir: journal_dir(options),
            file_bytes,
            fill_bytes: options.journal_fill_bytes,
            files_max: options.journal_files,
            sync: options.journal_sync,
            state: RefCell::new(state),
            changed: Notify::default(),
        };
        ring.free_front();
        ring
    }

    fn path(&self, index: usize) -> PathBuf {
        self.dir.join(file_name(index))
    }

    fn current(&self) -> Option<Rc<Current<R::File>>> {
        self.state.borrow().current.clone()
    }

    /// True when the next frame is the first of its lap. Call after [`JournalFiles::make_room`].
    pub(super) fn at_start(&self) -> bool {
        self.current().is_some_and(|c| c.sequence.get() == 0)
    }

    /// The lap and the number of the next frame. Call after [`JournalFiles::make_room`].
    pub(super) fn next_frame(&self) -> (Lap, u64) {
        let current = self.current().expect("make_room came before");
        (current.lap, current.sequence.get())
    }

    /// The oldest lap that counts.
    pub(super) fn live_from(&self) -> Lap {
        let state = self.state.borrow();
        state.laps.front().map_or(state.last_lap, |l| l.lap)
    }

    /// The newest lap.
    pub(super) fn last_lap(&self) -> Lap {
        self.state.borrow().last_lap
    }

    /// Makes the current file one that has room for `len` bytes. `Ok(false)`: the ring is full; wait for
    /// `changed`, after pushing the flush of what [`JournalFiles::oldest_live`] names.
    pub(super) async fn make_room(&self, len: usize) -> IoResult<bool> {
        assert!(len as u64 <= self.file_bytes, "a frame of {len} bytes in files of {}", self.file_bytes);
        if let Some(current) = self.current() {
            if current.position.get() + len as u64 <= self.file_bytes {
                return Ok(true);
            }
            self.sync_frames().await?;
            current.closed.set(true);
            while current.has_filler.get() {
                self.changed.notified().await;
            }
            let mut state = self.state.borrow_mut();
            state.current = None;
            let lap = state.laps.back_mut().expect("the current lap");
            (lap.full, lap.bytes) = (true, current.position.get());
            drop(state);
            self.free_front();
        }
        let Some(index) = self.take_file().await? else { return Ok(false) };
        if let Err(error) = self.begin_lap(index).await {
            self.state.borrow_mut().free.push_front(index);
            return Err(error);
        }
        Ok(true)
    }

    /// A free file, or the number of one to be made.
    async fn take_file(&self) -> IoResult<Option<usize>> {
        let surplus = {
            let mut state = self.state.borrow_mut();
            let surplus = (state.laps.len() + state.free.len()).saturating_sub(self.files_max);
            let surplus = surplus.min(state.free.len().saturating_sub(1));
            // The oldest: what stays must be a run of laps without a hole.
            state.free.drain(..surplus).collect::<Vec<_>>()
        };
        for index in surplus {
            self.rt.remove_file(&self.path(index)).await?;
        }
        let mut state = self.state.borrow_mut();
        if let Some(index) = state.free.pop_front() {
            return Ok(Some(index));
        }
        // Recovered laps may fill the ring: one more file, so that the first appends need not wait for their flush.
        if state.begun && state.laps.len() >= self.files_max {
            return Ok(None);
        }
        let index = state.next_file;
        state.next_file += 1;
        Ok(Some(index))
    }

    async fn begin_lap(&self, index: usize) -> IoResult<()> {
        let path = self.path(index);
        let plain = self.rt.open(&path, OpenOptions { create: true, ..OpenOptions::default() }).await?;
        self.rt.sync_dir(&self.dir).await?;
        let dsync = self.rt.open(&path, OpenOptions { dsync: true, ..OpenOptions::default() }).await?;
        // A size that was never synced may shrink at a power loss.
        plain.sync_data().await?;
        let size = plain.size().await?.min(self.file_bytes);
        let salt = self.rt.next_u64() as u32;
        let mut state = self.state.borrow_mut();
        let lap = state.last_lap.next(salt);
        state.last_lap = lap;
        state.begun = true;
        state.laps.push_back(LapState { lap, file: index, full: false, bytes: 0, live: IdMap::default() });
        state.current = Some(Rc::new(Current {
            lap,
            dsync,
            plain,
            position: Cell::new(0),
            sequence: Cell::new(0),
            filled: Cell::new(size / FILL_ALIGN * FILL_ALIGN),
            writing: Cell::new(0),
            filling: Cell::new(None),
            has_filler: Cell::new(false),
            closed: Cell::new(false),
            unsynced: Cell::new(0),
        }));
        Ok(())
    }

    /// Writes the next frame; durable when it returns, if `sync`.
    pub(super) async fn write(&self, frame: &Bytes, sync: bool) -> Result<(), WriteSyncError> {
        let current = self.current().expect("make_room came before");
        let result = self.write_at_end(&current, frame, sync).await;
        if let Err(WriteSyncError::Write(error)) = &result
            && error.kind == IoErrorKind::StorageFull
        {
            self.void(&current).await?;
        }
        result
    }

    /// A frame that was refused must not come back at replay: other batches may get its offsets. Its header goes.
    async fn void(&self, current: &Current<R::File>) -> Result<(), WriteSyncError> {
        let zeros = Bytes::from_static(&[0; BLOCK]);
        match current.plain.write_at(current.position.get(), &[zeros]).await {
            Ok(()) => current.plain.sync_data().await.map_err(WriteSyncError::Sync),
            // No room even for one block: then the header's block was not written either.
            Err(error) if error.kind == IoErrorKind::StorageFull => Ok(()),
            Err(error) => Err(WriteSyncError::Write(error)),
        }
    }

    async fn write_at_end(&self, current: &Current<R::File>, frame: &Bytes, sync: bool) -> Result<(), WriteSyncError> {
        let position = current.position.get();
        let (end, frame) = (position + frame.len() as u64, std::slice::from_ref(frame));
        assert!(end <= self.file_bytes);
        self.wait_for_fill(current, end).await;
        current.writing.set(end);
        if !sync {
            current.plain.write_at(position, frame).await.map_err(WriteSyncError::Write)?;
            current.unsynced.set(current.unsynced.get() + (end - position));
        } else if self.sync == JournalSync::Dsync && end <= current.filled.get() && current.unsynced.get() == 0 {
            current.dsync.write_at(position, frame).await.map_err(WriteSyncError::Write)?;
        } else {
            current.plain.write_and_sync(position, frame).await?;
            current.filled.set(current.filled.get().max(end));
            current.unsynced.set(0);
        }
        current.position.set(end);
        current.sequence.set(current.sequence.get() + 1);
        Ok(())
    }

    /// Makes all frames durable.
    pub(super) async fn sync_frames(&self) -> IoResult<()> {
        let Some(current) = self.current().filter(|c| c.unsynced.get() > 0) else { return Ok(()) };
        current.plain.sync_data().await?;
        current.unsynced.set(0);
        Ok(())
    }

    async fn wait_for_fill(&self, current: &Current<R::File>, end: u64) {
        while current.filling.get().is_some_and(|from| from < end) {
            self.changed.notified().await;
        }
    }

    /// Fills the current file with zeros ahead of the writer, in the background. Called after an answer, never before the first.
    pub(super) fn fill_ahead(self: &Rc<Self>, failed: impl FnOnce(IoError) + 'static) {
        let Some(current) = self.current() else { return };
        if !self.wants_fill(&current) || current.has_filler.replace(true) {
            return;
        }
        current.filling.set(Some(current.fill_start()));
        let ring = self.clone();
        drop(self.rt.spawn(TaskGroup::Background, "journal zero-fill", async move {
            let result = ring.fill(&current).await;
            current.filling.set(None);
            current.has_filler.set(false);
            ring.changed.notify_all();
            if let Err(error) = result {
                failed(error);
            }
        }));
    }

    fn wants_fill(&self, current: &Current<R::File>) -> bool {
        let filled = current.filled.get();
        !current.closed.get()
            && filled < self.file_bytes
            && filled < current.position.get() + self.fill_bytes * FILL_AHEAD_SLICES
    }

    async fn fill(&self, current: &Current<R::File>) -> IoResult<()> {
        let slice = self.fill_bytes.min(self.file_bytes);
        let zeros = Bytes::from(vec![0; slice as usize]);
        while self.wants_fill(current) {
            let start = current.fill_start();
            if start >= self.file_bytes {
                return Ok(());
            }
            let len = slice.min(self.file_bytes - start);
            current.filling.set(Some(start));
            current.plain.write_at(start, &[zeros.slice(..len as usize)]).await?;
            current.plain.sync_data().await?;
            current.filled.set(start + len);
            // Let a writer that waits for this slice go first.
            current.filling.set(None);
            self.changed.notify_all();
            self.rt.yield_now().await;
        }
        Ok(())
    }

    /// Notes what a frame of the current lap holds.
    pub(super) fn note(&self, id: PartitionId, note: Live) {
        let mut state = self.state.borrow_mut();
        let live = state.laps.back_mut().expect("a lap was begun").live.entry(id).or_default();
        live.end = live.end.max(note.end);
        live.log_start |= note.log_start;
    }

    /// Everything of `id` below `synced_end` is in segments, on the device; and its start, if `log_start`.
    pub(super) fn release(&self, id: PartitionId, synced_end: i64, log_start: bool) {
        let mut state = self.state.borrow_mut();
        for lap in &mut state.laps {
            if let Some(live) = lap.live.get_mut(&id) {
                live.log_start &= !log_start;
                if live.end <= synced_end && !live.log_start {
                    lap.live.remove(&id);
                }
            }
        }
        drop(state);
        self.free_front();
    }

    /// The partition is gone, or was never one of this shard.
    pub(super) fn release_all(&self, id: PartitionId) {
        for lap in &mut self.state.borrow_mut().laps {
            lap.live.remove(&id);
        }
        self.free_front();
    }

    /// The log of `id` was cut at `to`: what was above it need not be flushed any more.
    pub(super) fn cut(&self, id: PartitionId, to: i64) {
        for live in self.state.borrow_mut().laps.iter_mut().filter_map(|l| l.live.get_mut(&id)) {
            live.end = live.end.min(to);
        }
    }

    fn free_front(&self) {
        let mut freed = false;
        let mut state = self.state.borrow_mut();
        while let Some(lap) = state.laps.pop_front_if(|l| l.full && l.live.is_empty()) {
            state.free.push_back(lap.file);
            freed = true;
        }
        drop(state);
        if freed {
            self.changed.notify_all();
        }
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Bytes that a start after a crash would read.
    pub(super) fn held_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let current = state.current.as_ref().map_or(0, |c| c.position.get());
        state.laps.iter().map(|l| l.bytes).sum::<u64>() + current
    }

    /// The lap that is being written has the last file.
    pub(super) fn is_short(&self) -> bool {
        let state = self.state.borrow();
        state.free.is_empty() && state.laps.len() >= self.files_max
    }

    /// … and is half full, or was never begun: the writer waits for the oldest lap, or soon will.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_short() && self.current().is_none_or(|c| c.position.get() > self.file_bytes / 2)
    }

    /// Partitions that keep the oldest lap from being freed.
    pub(super) fn oldest_live(&self) -> Vec<PartitionId> {
        let state = self.state.borrow();
        state.laps.front().map(|l| l.live.keys().copied().collect()).unwrap_or_default()
    }

    /// Partitions that have anything live.
    pub(super) fn all_live(&self) -> Vec<PartitionId> {
        let state = self.state.borrow();
        let mut ids: Vec<_> = state.laps.iter().flat_map(|l| l.live.keys().copied()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Closes the current lap: for the end of the store.
    pub(super) fn finish(&self) {
        let mut state = self.state.borrow_mut();
        state.current = None;
        if let Some(lap) = state.laps.back_mut() {
            lap.full = true;
        }
        drop(state);
        self.free_front();
    }
}

/// Files are filled in whole blocks.
const FILL_ALIGN: u64 = BLOCK as u64;

/// Makes the journal's directory, its name durable.
pub(super) async fn make_dir<R: Runtime>(rt: &R, options: &StoreOptions) -> Result<PathBuf, StoreError> {
    let dir = journal_dir(options);
    rt.create_dir_all(&dir).await.map_err(StoreError::io("make the journal's directory"))?;
    let parent = options.data_dir.join("journal");
    rt.sync_dir(&parent).await.map_err(StoreError::io("make the journal's directory durable"))?;
    rt.sync_dir(&options.data_dir).await.map_err(StoreError::io("make the journal's directory durable"))?;
    Ok(dir)
}
