//! Reading the journal when the store opens: which batches each partition had that may not be in its segments.
//!
//! ```text
//! 1. first frame of each file → its lap; the newest lap's first frame says from which lap on anything counts
//! 2. unless the store was closed cleanly at the newest lap: read the live laps in order, each to its first invalid frame
//! 3. sync what was read: after `kill -9` it may be in the device's cache only, and readers will see it. The newest lap
//!    is written again before: if its last flush failed, a later one says nothing of what that one covered
//! ```
//! Partitions take their part when they are loaded. Nothing is written to the files that were read: the first frame
//! of this process begins a new lap, so a torn frame stays where it is and what is behind it stays stale.

use super::IdMap;
use super::budget;
use super::journal_files::{JournalFiles, LapState, Live, file_name, make_dir, parse_file_name};
use super::states::{STATES_FILE, States};
use super::types::{StoreError, StoreOptions};
use crate::ids::PartitionId;
use crate::log::batch;
use crate::log::journal::{Entry, FRAME_HEADER_LEN, FrameHeader, Lap, decode_frame};
use crate::log::recovery_time::RecoveryCosts;
use crate::log::segment_mark::SegmentMark;
use bytes::Bytes;
use coreline_io::{BLOCK, File, IoErrorKind, IoResult, OpenOptions, Runtime};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

const READ_BYTES: usize = 4 << 20;
static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Says that everything up to a lap is in segments: written when the store is closed.
pub(super) const CLEAN_FILE: &str = "clean";

/// What the journal holds of a partition.
#[derive(Debug, Default)]
pub(super) struct Recovered {
    /// Base offset, last offset and bytes of each batch, in order; offsets may have holes where segments have the rest.
    pub(super) batches: Vec<(i64, i64, Bytes)>,
    /// A moved start.
    pub(super) log_start: Option<i64>,
}

/// What the journal was told last of a partition's flushes.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What is below was in segments, synced.
    pub(super) flushed: i64,
    /// The last mark, and the offset that it is of.
    pub(super) mark: Option<(i64, SegmentMark)>,
}

impl Told {
    fn flushed(&mut self, to: i64, mark: Option<SegmentMark>) {
        self.flushed = self.flushed.max(to);
        // An older one stays true.
        self.mark = mark.map(|mark| (to, mark)).or(self.mark.take());
    }

    /// The log was cut: what was said of more is not true any more.
    fn cut(&mut self, to: i64) {
        self.flushed = self.flushed.min(to);
        self.mark = self.mark.take().filter(|(end, _)| *end <= to);
    }
}

/// What frames said of partitions.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) recovered: IdMap<Recovered>,
    pub(super) told: IdMap<Told>,
}

impl Recovered {
    /// Adds batches at the end; what was there of their offsets, and behind them, goes.
    fn add(&mut self, base_offset: i64, bytes: &Bytes) -> Result<Option<i64>, batch::BatchError> {
        self.cut(base_offset);
        let mut end = None;
        for found in batch::batches(bytes) {
            let (header, range) = found?;
            let last = header.last_offset().0;
            self.batches.push((header.base_offset.0, last, bytes.slice(range)));
            end = Some(last + 1);
        }
        Ok(end)
    }

    /// Drops the batches that end at `to` or later.
    fn cut(&mut self, to: i64) {
        while self.batches.pop_if(|(_, last, _)| *last >= to).is_some() {}
    }
}

/// The journal as it was found.
pub(super) struct Replay<R: Runtime> {
    pub(super) files: JournalFiles<R>,
    pub(super) heard: Heard,
    /// What segments cannot be trusted.
    pub(super) unsettled: Unsettled,
    /// What need not be looked for.
    pub(super) states: States<R>,
    /// What the journal took to read.
    pub(super) costs: RecoveryCosts,
}

struct Found {
    file: usize,
    lap: Option<Lap>,
    live_from: Option<Lap>,
}

/// Reads the journal of `options.shard`.
pub(super) async fn replay<R: Runtime>(rt: &R, options: &StoreOptions) -> Result<Replay<R>, StoreError> {
    let dir = make_dir(rt, options).await?;
    let (mut found, mut has_states) = (Vec::new(), false);
    for entry in rt.list_dir(&dir).await.map_err(StoreError::io("list the journal"))? {
        if let Some(file) = parse_file_name(&entry.name) {
            found.push(first_frame(rt, &dir, file).await?);
        }
        has_states |= entry.name == STATES_FILE;
    }
    // A file without a valid first frame holds nothing; it is used again before those that do.
    found.sort_by_key(|f| (f.lap, f.file));
    let newest = found.last().and_then(|f| f.lap).unwrap_or_default();
    let mark = take_clean_mark(rt, &dir).await?;
    let last = newest.max(mark.as_ref().map_or(newest, |mark| mark.lap));
    let mark = mark.filter(|mark| mark.lap >= newest);
    let clean = mark.is_some();
    let live_from = found.last().and_then(|f| f.live_from).unwrap_or_default();
    let mut heard = Heard::default();
    let (mut laps, mut free) = (VecDeque::new(), VecDeque::new());
    let began = rt.now();
    for file in &found {
        match file.lap.filter(|lap| !clean && *lap >= live_from) {
            Some(lap) => {
                let (live, bytes) = read_lap(rt, &dir, file.file, lap, lap == newest, &mut heard).await?;
                laps.push_back(LapState { lap, file: file.file, full: true, bytes, live });
            }
            None => free.push_back(file.file),
        }
    }
    let costs = RecoveryCosts::measured(laps.iter().map(|l| l.bytes).sum(), rt.now().since(began));
    keep_live(&mut laps, &heard.recovered);
    // Never begin a lap that is not newer than a clean mark.
    let (asked, least) = (options.journal_file_bytes, options.frame_bytes_max());
    let file_bytes = budget::file_bytes(&costs, options.recovery_max, options.journal_files, asked, least);
    let files = JournalFiles::new(rt.clone(), options, file_bytes, laps, free, last);
    let states = States::open(rt, &dir, has_states, clean).await?;
    let unsettled = mark.map_or(Unsettled::All, |mark| Unsettled::Only(mark.unsettled));
    Ok(Replay { files, heard, unsettled, states, costs })
}

/// Everything up to `lap` was in segments when the store was closed.
#[derive(Clone, Debug)]
pub(super) struct CleanMark {
    pub(super) lap: Lap,
    /// Directories of partitions that nobody had used since the start, when that came after a crash.
    pub(super) unsettled: BTreeSet<String>,
}

/// Partitions whose segments may hold what can be read and no sync covers. They are settled when they are loaded.
#[derive(Clone, Debug)]
pub(super) enum Unsettled {
    /// All: the store was not closed properly.
    All,
    /// By the names of their directories.
    Only(BTreeSet<String>),
}

impl Unsettled {
    pub(super) fn holds(&self, dir_name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(names) => names.contains(dir_name),
        }
    }
}

/// The clean mark, if there is one. It goes: from now on segments may hold what no sync covers, even if the journal is
/// never written.
async fn take_clean_mark<R: Runtime>(rt: &R, dir: &Path) -> Result<Option<CleanMark>, StoreError> {
    let path = dir.join(CLEAN_FILE);
    let text = match rt.read_file(&path).await {
        Ok(text) => text,
        Err(error) if error.kind == IoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read the clean mark")(error)),
    };
    rt.remove_file(&path).await.map_err(StoreError::io("remove the clean mark"))?;
    rt.sync_dir(dir).await.map_err(StoreError::io("remove the clean mark"))?;
    let mut lines = std::str::from_utf8(&text).unwrap_or_default().lines();
    let lap = lines.next().and_then(|l| l.trim().parse().ok()).map(Lap);
    let unsettled = lines.map(str::to_owned).collect();
    Ok(lap.map(|lap| CleanMark { lap, unsettled }))
}

/// Says that the journal holds nothing, and how far segments can be trusted.
pub(super) async fn write_clean<R: Runtime>(rt: &R, dir: &Path, mark: CleanMark) -> Result<(), StoreError> {
    let mut text = format!("{}\n", mark.lap.0);
    for name in mark.unsettled {
        text.push_str(&name);
        text.push('\n');
    }
    rt.write_file_atomic(&dir.join(CLEAN_FILE), text.as_bytes()).await.map_err(StoreError::io("write the clean mark"))
}

async fn open<R: Runtime>(rt: &R, dir: &Path, file: usize) -> Result<R::File, StoreError> {
    rt.open(&dir.join(file_name(file)), OpenOptions::default()).await.map_err(StoreError::io("open the journal"))
}

async fn first_frame<R: Runtime>(rt: &R, dir: &Path, number: usize) -> Result<Found, StoreError> {
    let file = open(rt, dir, number).await?;
    let mut reader = FrameReader::<R>::new(&file);
    let none = Found { file: number, lap: None, live_from: None };
    let Some((header, entries)) = reader.next(None).await? else { return Ok(none) };
    let live_from = entries.iter().find_map(|e| if let Entry::LiveFrom { lap } = e { Some(*lap) } else { None });
    Ok(if header.sequence == 0 { Found { file: number, lap: Some(header.lap), live_from } } else { none })
}

/// Reads frames of a lap into `partitions`, and makes sure that they are on the device. Gives what is live in it.
///
/// Of a lap that has a successor the last sync succeeded, before that one began. The `newest` may hold frames whose
/// sync has failed: they can be read, and no sync of ours would cover them.
async fn read_lap<R: Runtime>(
    rt: &R,
    dir: &Path,
    number: usize,
    lap: Lap,
    newest: bool,
    heard: &mut Heard,
) -> Result<(IdMap<Live>, u64), StoreError> {
    let file = open(rt, dir, number).await?;
    let mut reader = FrameReader::<R>::new(&file);
    let mut live: IdMap<Live> = IdMap::default();
    let mut sequence = 0;
    while let Some((_, entries)) = reader.next(Some((lap, sequence))).await? {
        sequence += 1;
        for entry in entries {
            apply(entry, heard, &mut live)?;
        }
        if rt.should_yield() {
            rt.yield_now().await;
        }
    }
    tracing::debug!(
        file = number,
        lap = lap.0,
        frames = sequence,
        bytes = reader.position,
        newest,
        "journal file read"
    );
    if newest {
        write_again(rt, &file, 0, reader.position).await.map_err(StoreError::io("write the journal again"))?;
    }
    file.sync_data().await.map_err(StoreError::io("sync the journal"))?;
    Ok((live, reader.position))
}

fn apply(entry: Entry, heard: &mut Heard, live: &mut IdMap<Live>) -> Result<(), StoreError> {
    let partitions = &mut heard.recovered;
    match entry {
        Entry::Batches { partition, base_offset, bytes } => {
            let end = partitions.entry(partition).or_default().add(base_offset.0, &bytes);
            let end = end.map_err(|e| StoreError::Corrupt(format!("journal, {partition}: {e}")))?;
            if let Some(end) = end {
                let live = live.entry(partition).or_default();
                live.end = live.end.max(end);
            }
        }
        Entry::Truncate { partition, to } => {
            partitions.entry(partition).or_default().cut(to.0);
            if let Some(told) = heard.told.get_mut(&partition) {
                told.cut(to.0);
            }
        }
        Entry::Flushed { partition, to, mark } => heard.told.entry(partition).or_default().flushed(to.0, mark),
        Entry::LogStart { partition, start } => {
            let recovered = partitions.entry(partition).or_default();
            recovered.log_start = recovered.log_start.max(Some(start.0));
            live.entry(partition).or_default().log_start = true;
        }
        Entry::Deleted { partition } => {
            partitions.remove(&partition);
            heard.told.remove(&partition);
        }
        // The last two are in a file of their own.
        Entry::HighWatermark { .. } | Entry::LiveFrom { .. } | Entry::State { .. } | Entry::Touched { .. } => {}
    }
    Ok(())
}

/// Writes what can be read in `from..to` again, the same bytes at the same place, so that the next sync covers it: that
/// of earlier writes may have failed, and then nothing is known of them. The file's size is whole blocks afterwards.
pub(super) async fn write_again<R: Runtime>(rt: &R, file: &R::File, from: u64, to: u64) -> IoResult<()> {
    let mut at = from / BLOCK as u64 * BLOCK as u64;
    while at < to {
        let len = (to - at).min(READ_BYTES as u64) as usize;
        let bytes = file.read_at(at, len).await?;
        if bytes.is_empty() {
            break;
        }
        let len = bytes.len();
        let padding = Bytes::from_static(&ZEROS[..len.next_multiple_of(BLOCK) - len]);
        file.write_at(at, &[bytes, padding]).await?;
        // Of a file that a crash has cut the rest of the block is there now.
        at += len.next_multiple_of(BLOCK) as u64;
        if rt.should_yield() {
            rt.yield_now().await;
        }
    }
    Ok(())
}

/// What was cut or deleted later keeps no lap.
fn keep_live(laps: &mut VecDeque<LapState>, partitions: &IdMap<Recovered>) {
    let ends: BTreeMap<PartitionId, i64> = partitions
        .iter()
        .filter(|(_, r)| !r.batches.is_empty() || r.log_start.is_some())
        .map(|(id, r)| (*id, r.batches.last().map_or(0, |b| b.1 + 1)))
        .collect();
    for lap in laps {
        lap.live.retain(|id, live| match ends.get(id) {
            Some(end) => {
                live.end = live.end.min(*end);
                true
            }
            None => false,
        });
    }
}

/// Walks the frames of a file, read in large pieces.
pub(super) struct FrameReader<'a, R: Runtime> {
    file: &'a R::File,
    /// Where `buffer` begins in the file.
    position: u64,
    buffer: Bytes,
}

impl<'a, R: Runtime> FrameReader<'a, R> {
    pub(super) fn new(file: &'a R::File) -> Self {
        Self::at(file, 0)
    }

    /// From `position` on.
    pub(super) fn at(file: &'a R::File, position: u64) -> Self {
        Self { file, position, buffer: Bytes::new() }
    }

    /// Where the next frame begins.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// The next frame, if it is valid and (lap, number) is as expected.
    pub(super) async fn next(
        &mut self,
        expected: Option<(Lap, u64)>,
    ) -> Result<Option<(FrameHeader, Vec<Entry>)>, StoreError> {
        self.fill(BLOCK).await?;
        let Some(header) = FrameHeader::parse(&self.buffer) else { return Ok(None) };
        if expected.is_some_and(|e| e != (header.lap, header.sequence)) {
            return Ok(None);
        }
        self.fill(header.encoded_len()).await?;
        // The padding of the last frame may be past the end of a file that was cut by a crash.
        let needed = FRAME_HEADER_LEN + header.length as usize;
        if self.buffer.len() < needed {
            return Ok(None);
        }
        let frame = self.buffer.split_to(header.encoded_len().min(self.buffer.len()));
        self.position += frame.len() as u64;
        Ok(decode_frame(&frame))
    }

    async fn fill(&mut self, len: usize) -> Result<(), StoreError> {
        if self.buffer.len() >= len {
            return Ok(());
        }
        // The beginning of a frame is read twice: a copy, and the memory for it, would cost more.
        let read = self.file.read_at(self.position, len.max(READ_BYTES)).await;
        self.buffer = read.map_err(StoreError::io("read the journal"))?;
        Ok(())
    }
}
