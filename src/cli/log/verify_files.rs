//! The checks of one file. A finding is damage if something is lost by it, or would be served wrong.

use super::dump_ours::{checkpoint_problem, frames, lap_text};
use super::read::{BatchReader, Next};
use super::verify::Unit;
use super::{Kind, kind_of};
use crate::controller::raft_log::{decode_snapshot, group_after, replay};
use crate::controller::records::decode_records;
use crate::ids::Offset;
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::index::{OFFSET_ENTRY_LEN, OffsetEntry, TIME_ENTRY_LEN, TimeEntry};
use crate::log::index::{valid_offset_index, valid_time_index};
use crate::log::journal::{BLOCK, Entry, FrameHeader, decode_frame};
use crate::log::producer_state::ProducerStates;
use crate::log::segment::{FileKind, file_name};
use crate::log::txn_index::{self, AbortedTxn};
use crate::log::txn_marker::read_marker;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How far to look for a whole batch behind damage.
const SEARCH_BYTES: u64 = 64 << 20;
/// Where a batch has its magic.
const MAGIC_AT: usize = 16;

/// Something that is not as it should be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) file: PathBuf,
    pub(super) byte: u64,
    /// False: a next start puts it right, and nothing that was acknowledged is lost.
    pub(super) damage: bool,
    pub(super) what: String,
}

/// What one file came to.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) batches: u64,
    pub(super) records: u64,
    /// The offset after a segment's last record.
    pub(super) next_offset: Option<i64>,
    pub(super) findings: Vec<Finding>,
}

impl Checked {
    fn find(&mut self, file: &Path, byte: u64, damage: bool, what: impl Into<String>) {
        self.findings.push(Finding { file: file.to_owned(), byte, damage, what: what.into() });
    }
}

/// Checks one file; counts what is read into `done`.
pub(super) fn check(unit: &Unit, done: &AtomicU64) -> Checked {
    let mut checked = Checked::default();
    if let Err(e) = check_kind(unit, done, &mut checked) {
        checked.find(&unit.path, 0, true, format!("it cannot be read: {e}"));
    }
    checked
}

fn check_kind(unit: &Unit, done: &AtomicU64, checked: &mut Checked) -> io::Result<()> {
    let path = unit.path.as_path();
    if let Kind::Partition(base, FileKind::Log) = unit.kind {
        return segment(unit, base, done, checked);
    }
    let bytes = Bytes::from(fs::read(path)?);
    done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    match kind_of(path) {
        Some(Kind::Partition(base, FileKind::TxnIndex)) => {
            let (entries, whole) = txn_index::decode(&bytes, Offset(base));
            if !whole {
                let byte = (entries.len() * txn_index::ENTRY_LEN) as u64;
                checked.find(path, byte, false, "no aborted transaction of this segment: the index is built again");
            }
        }
        Some(Kind::Partition(..)) if ProducerStates::decode_snapshot(&bytes).is_some() => {}
        Some(Kind::Partition(..)) => {
            checked.find(path, 0, false, "the snapshot's checksum is wrong: producers are read from the segments");
        }
        Some(Kind::Journal) => journal(path, &bytes, checked),
        Some(Kind::MetadataLog) => metadata_log(path, &bytes, checked),
        Some(Kind::MetadataSnapshot) => {
            if let Err(e) = decode_snapshot(bytes).and_then(|s| decode_records(s.records)) {
                checked.find(path, 0, true, e.to_string());
            }
        }
        Some(kind) => {
            if let Some(problem) = checkpoint_problem(&String::from_utf8_lossy(&bytes), kind) {
                checked.find(path, 0, true, problem);
            }
        }
        None => {}
    }
    Ok(())
}

/// The entries of one index, checked while the batches go by.
struct IndexCheck {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The next entry.
    at: usize,
}

impl IndexCheck {
    /// An index that is missing is built again when the partition is loaded.
    fn open(segment: &Path, base: i64, kind: FileKind) -> io::Result<Option<Self>> {
        let path = segment.with_file_name(file_name(base, kind));
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(Self { path, bytes, at: 0 })),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Leaves the entries that can be believed; what follows must be padding.
    fn keep(&mut self, valid: usize, checked: &mut Checked) {
        if self.bytes[valid..].iter().any(|b| *b != 0) {
            checked.find(
                &self.path,
                valid as u64,
                false,
                "no entry that follows the one before it: the index is built again",
            );
        }
        self.bytes.truncate(valid);
    }

    fn offset_entry(&mut self, base: i64, header: &RecordBatchHeader, position: u64, checked: &mut Checked) {
        while let Some(entry) =
            OffsetEntry::get(&self.bytes, base, self.at).filter(|e| u64::from(e.position) <= position)
        {
            let byte = (self.at * OFFSET_ENTRY_LEN) as u64;
            self.at += 1;
            if u64::from(entry.position) < position {
                checked.find(&self.path, byte, true, format!("position {} is within a batch", entry.position));
            } else if entry.offset != header.last_offset().0 {
                let what =
                    format!("offset {}, the batch at byte {position} ends at {}", entry.offset, header.last_offset());
                checked.find(&self.path, byte, true, what);
            }
        }
    }

    fn time_entry(&mut self, base: i64, header: &RecordBatchHeader, checked: &mut Checked) {
        let last = header.last_offset().0;
        while let Some(entry) = TimeEntry::get(&self.bytes, base, self.at).filter(|e| e.offset <= last) {
            let byte = (self.at * TIME_ENTRY_LEN) as u64;
            self.at += 1;
            let time = header.max_timestamp;
            if entry.offset < last && entry.offset < header.base_offset.0 {
                checked.find(&self.path, byte, false, format!("offset {} is in no batch", entry.offset));
            } else if entry.timestamp != time {
                let what = format!("timestamp {}, the batch of offset {} has {time}", entry.timestamp, entry.offset);
                checked.find(&self.path, byte, true, what);
            }
        }
    }

    fn end(&self, entry_len: usize, checked: &mut Checked) {
        if self.at * entry_len < self.bytes.len() {
            let byte = (self.at * entry_len) as u64;
            checked.find(&self.path, byte, true, "an entry points past the last batch of the segment");
        }
    }
}

/// The aborted transactions of one segment, checked while the batches go by: each must have its marker.
struct AbortedCheck {
    path: PathBuf,
    /// Those whose marker did not come yet, by its offset.
    waiting: BTreeMap<i64, (usize, AbortedTxn)>,
}

impl AbortedCheck {
    fn open(segment: &Path, base: i64) -> io::Result<Option<Self>> {
        let path = segment.with_file_name(file_name(base, FileKind::TxnIndex));
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let (entries, _) = txn_index::decode(&bytes, Offset(base));
        let waiting = entries.into_iter().enumerate().map(|(n, e)| (e.last_offset.0, (n, e))).collect();
        Ok(Some(Self { path, waiting }))
    }

    fn batch(&mut self, header: &RecordBatchHeader, bytes: &[u8]) {
        if read_marker(header, bytes).is_some_and(|marker| !marker.commit) {
            let offset = header.base_offset.0;
            if self.waiting.get(&offset).is_some_and(|(_, e)| e.producer_id == header.producer_id) {
                self.waiting.remove(&offset);
            }
        }
    }

    fn end(&self, checked: &mut Checked) {
        for (n, entry) in self.waiting.values() {
            let what = format!("no marker aborts producer {} at offset {}", entry.producer_id, entry.last_offset);
            checked.find(&self.path, (n * txn_index::ENTRY_LEN) as u64, true, what);
        }
    }
}

fn segment(unit: &Unit, base: i64, done: &AtomicU64, checked: &mut Checked) -> io::Result<()> {
    let path = unit.path.as_path();
    let length = fs::metadata(path)?.len();
    let mut offsets = IndexCheck::open(path, base, FileKind::OffsetIndex)?;
    let mut times = IndexCheck::open(path, base, FileKind::TimeIndex)?;
    let mut aborted = AbortedCheck::open(path, base)?;
    if let Some(index) = &mut offsets {
        let valid = valid_offset_index(&index.bytes, base, length);
        index.keep(valid, checked);
    }
    if let Some(index) = &mut times {
        let valid = valid_time_index(&index.bytes, base);
        index.keep(valid, checked);
    }
    let mut reader = BatchReader::open(path)?;
    let mut expected = base;
    // Where the findings begin that no good batch has followed yet.
    let mut end_begins = checked.findings.len();
    loop {
        match reader.next()? {
            Next::Batch { header, position, bytes } => {
                done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                checked.batches += 1;
                checked.records += u64::try_from(header.record_count).unwrap_or(0);
                if one_batch(unit, &header, position, &bytes, expected, checked) {
                    end_begins = checked.findings.len();
                }
                if let Some(index) = &mut offsets {
                    index.offset_entry(base, &header, position, checked);
                }
                if let Some(index) = &mut times {
                    index.time_entry(base, &header, checked);
                }
                if let Some(index) = &mut aborted {
                    index.batch(&header, &bytes);
                }
                expected = header.next_offset().0;
            }
            Next::End => break,
            Next::Padding { position, bytes } => {
                if !unit.last {
                    checked.find(path, position, true, format!("{bytes} bytes of zeros in a closed segment"));
                }
                break;
            }
            Next::Invalid { position, bytes, why } => {
                checked.find(path, position, true, format!("{bytes} bytes that are no batch: {why}"));
                if let Some(later) = batch_after(path, position, expected)? {
                    let what = format!("a batch is whole at byte {later}: what is before it is damaged");
                    checked.find(path, position, true, what);
                    end_begins = checked.findings.len();
                }
                // What the indexes say of the rest cannot be judged.
                (offsets, times, aborted) = (None, None, None);
                break;
            }
        }
    }
    if unit.last && !unit.clean {
        for torn in checked.findings.iter_mut().skip(end_begins).filter(|f| f.file == path) {
            torn.damage = false;
            torn.what = format!("a torn end, which the next start cuts off: {}", torn.what);
        }
    }
    checked.next_offset = Some(expected);
    if let Some(index) = offsets {
        index.end(OFFSET_ENTRY_LEN, checked);
    }
    if let Some(index) = times {
        index.end(TIME_ENTRY_LEN, checked);
    }
    // Of a segment that grows, or was cut, the next start takes only what fits.
    if let Some(index) = aborted.filter(|_| !unit.last) {
        index.end(checked);
    }
    Ok(())
}

/// True if the batch is good.
fn one_batch(
    unit: &Unit,
    header: &RecordBatchHeader,
    at: u64,
    bytes: &[u8],
    expected: i64,
    checked: &mut Checked,
) -> bool {
    if let Err(e) = batch::check_crc(header, bytes) {
        checked.find(&unit.path, at, true, e.to_string());
        return false;
    }
    if header.base_offset.0 < expected {
        let what = format!("the batch begins at offset {}, expected at least {expected}", header.base_offset);
        checked.find(&unit.path, at, true, what);
        return false;
    }
    true
}

/// The first whole batch behind `position` that could carry on the log: then what is at `position` is not its torn end.
fn batch_after(path: &Path, position: u64, expected: i64) -> io::Result<Option<u64>> {
    let mut file = fs::File::open(path)?;
    file.seek(io::SeekFrom::Start(position))?;
    let mut rest = Vec::new();
    file.take(SEARCH_BYTES).read_to_end(&mut rest)?;
    let whole = |at: usize| {
        let header = batch::parse_header(&rest[at..]).ok()?;
        let near = (expected..expected.saturating_add(1 << 31)).contains(&header.base_offset.0);
        (near && batch::check_crc(&header, &rest[at..]).is_ok()).then_some(position + at as u64)
    };
    let last = rest.len().saturating_sub(batch::HEADER_LEN);
    Ok((1..last).filter(|at| rest[at + MAGIC_AT] == 2).find_map(whole))
}

fn journal(path: &Path, file: &Bytes, checked: &mut Checked) {
    let (frames, end) = frames(file);
    for (position, _, entries) in &frames {
        for entry in entries {
            let Entry::Batches { bytes, base_offset, partition } = entry else { continue };
            let mut expected = base_offset.0;
            for found in batch::batches(bytes) {
                let judged =
                    found.and_then(|(header, range)| batch::check_crc(&header, &bytes[range]).map(|()| header));
                match judged {
                    // Not counted: sooner or later each is in a segment.
                    Ok(header) => {
                        if header.base_offset.0 < expected {
                            let what = format!("{partition}: offset {}, expected {expected}", header.base_offset);
                            checked.find(path, *position as u64, true, what);
                        }
                        expected = header.next_offset().0;
                    }
                    Err(e) => checked.find(path, *position as u64, true, format!("{partition}: {e}")),
                }
            }
        }
    }
    // A frame is written when the one before it was flushed: then what lies between is not torn, but damaged.
    let Some((_, last, _)) = frames.last() else { return };
    for at in (end..file.len()).step_by(BLOCK) {
        let later = FrameHeader::parse(&file[at..]).filter(|h| h.lap == last.lap && h.sequence > last.sequence);
        if later.is_some() && decode_frame(&file.slice(at..)).is_some() {
            let what = format!(
                "no frame {} of lap {}, though a later one is at byte {at}",
                last.sequence + 1,
                lap_text(last.lap)
            );
            checked.find(path, end as u64, true, what);
            return;
        }
    }
}

fn metadata_log(path: &Path, file: &Bytes, checked: &mut Checked) {
    let found = match replay(file) {
        Ok(found) => found,
        Err(e) => return checked.find(path, 0, true, e.to_string()),
    };
    if let Some(after) = group_after(file, &found) {
        let what = format!("a group is damaged: the one at byte {after} is intact");
        checked.find(path, found.end, true, what);
    }
    for entry in found.entries {
        if let Err(e) = decode_records(entry.data) {
            checked.find(path, 0, true, format!("entry {}: {e}", entry.index));
        }
    }
}
