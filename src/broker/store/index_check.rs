//! Indexes of complete segments are looked at when they are used first: what a power loss cannot do to them (they are
//! synced before the next segment's file exists) a sick disk, a restored backup or a hand can. One that is short, damaged or of
//! other bytes is not used; both of the segment are made anew in the background, and until then a search begins at the
//! segment's start, which is slow and right. Nothing of this happens at a load: it would read each index of each partition.
//!
//! | what is looked at | what it finds |
//! | --- | --- |
//! | size, each entry: grows, lies within the segment | a torn file, zeros, most flipped bits |
//! | the batch that the last entry names, what follows it | an index that is short, or of other bytes |
//! | at each search: the batch that the entry names | the flipped bits that the first two cannot see |

use super::LogStore;
use super::partition::{Partition, TxnFile};
use super::read::read_failed;
use super::types::{ReadError, StoreError};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::index::{OffsetEntry, TimeEntry, offset_index_is_sound, time_index_is_sound};
use crate::log::segment::FileKind;
use bytes::Bytes;
use coreline_io::{File, Runtime};
use std::ops::ControlFlow;
use std::rc::Rc;

/// What the last entry leads to is looked for in so many bytes, at most.
const WALK_BYTES_MAX: u64 = 1 << 20;
const WALK_PIECE: usize = 64 << 10;

/// A complete segment.
#[derive(Clone, Copy)]
struct Sealed {
    base: i64,
    /// Where the next one begins.
    end: i64,
    size: u64,
    rebuilding: bool,
    generation: u64,
}

/// How a walk over batches ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Walk {
    /// Where it was to end, or the segment does.
    Done,
    /// It would have been too far.
    Far,
    /// Before bytes that are no batch of this segment.
    Lost,
}

impl<R: Runtime> LogStore<R> {
    /// An index of a complete segment, whole; kept for the next who asks. Empty while it is made anew.
    pub(super) async fn sealed_index(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        base: i64,
        kind: FileKind,
    ) -> Result<Bytes, ReadError> {
        // Gone meanwhile: whoever asks sees that the log is another one.
        let Some(segment) = sealed(partition, base).filter(|s| !s.rebuilding) else { return Ok(Bytes::new()) };
        let path = self.segment_path(partition, base, kind);
        if let Some(bytes) = self.indexes.borrow_mut().get(&path) {
            return Ok(bytes);
        }
        let wrong = match self.rt.read_file(&path).await {
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                match self.what_is_wrong(partition, segment, kind, &bytes).await? {
                    None if sealed(partition, base).is_some_and(|s| s.rebuilding) => return Ok(Bytes::new()),
                    None => {
                        // If segments changed meanwhile, it may be the index of a file that is gone.
                        if partition.with(|log| log.generation) == Some(segment.generation) {
                            self.indexes.borrow_mut().put(path, bytes.clone());
                        }
                        return Ok(bytes);
                    }
                    Some(why) => why.to_owned(),
                }
            }
            Err(error) => error.to_string(),
        };
        self.suspect_index(partition, base, segment.generation, &wrong);
        Ok(Bytes::new())
    }

    /// An index of a segment is not to be believed: both are made anew. Nothing happens if segments changed since `generation`.
    pub(super) fn suspect_index(self: &Rc<Self>, partition: &Rc<Partition>, base: i64, generation: u64, why: &str) {
        self.make_anew(partition, base, generation, why, false);
    }

    /// The same of a transaction index: whoever needs it waits until it is made.
    pub(super) fn suspect_txn_index(self: &Rc<Self>, partition: &Rc<Partition>, base: i64, generation: u64, why: &str) {
        self.make_anew(partition, base, generation, why, true);
    }

    fn make_anew(self: &Rc<Self>, partition: &Rc<Partition>, base: i64, generation: u64, why: &str, txn: bool) {
        let begin = partition.with(|log| {
            let busy = log.segments.iter().any(|s| s.rebuilding);
            let same = log.generation == generation;
            let segment =
                log.segments.iter_mut().find(|s| same && s.base == base && s.index.is_none() && !s.rebuilding)?;
            segment.rebuilding = true;
            if txn {
                segment.txn_file = TxnFile::Unknown;
            }
            Some(!busy)
        });
        let Some(begin) = begin.flatten() else { return };
        tracing::warn!(partition = %partition.dir_name(), segment = base, why, "index is wrong, those of the segment are made anew");
        for kind in [FileKind::OffsetIndex, FileKind::TimeIndex, FileKind::TxnIndex] {
            self.indexes.borrow_mut().forget(&self.segment_path(partition, base, kind));
        }
        // Who is at it already goes on with this one.
        if begin {
            self.rebuild_in_background(partition.clone());
        }
    }

    async fn what_is_wrong(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        segment: Sealed,
        kind: FileKind,
        bytes: &Bytes,
    ) -> Result<Option<&'static str>, ReadError> {
        let Sealed { base, end, size, .. } = segment;
        let offsets = kind == FileKind::OffsetIndex;
        let sound =
            if offsets { offset_index_is_sound(bytes, base, end, size) } else { time_index_is_sound(bytes, base, end) };
        if !sound {
            return Ok(Some("its entries do not grow, or are not of this segment"));
        }
        let checked = |s: &super::partition::Segment| if offsets { s.offsets_checked } else { s.times_checked };
        if partition.with(|log| log.segments.iter().any(|s| s.base == base && checked(s))) == Some(true) {
            return Ok(None);
        }
        let wrong = match offsets {
            true => self.offsets_against_batches(partition, segment, bytes).await?,
            false => self.times_against_batches(partition, segment, bytes).await?,
        };
        partition.with(|log| {
            let same = log.generation == segment.generation && wrong.is_none();
            let Some(segment) = log.segments.iter_mut().find(|s| same && s.base == base) else { return };
            *(if offsets { &mut segment.offsets_checked } else { &mut segment.times_checked }) = true;
        });
        Ok(wrong)
    }

    /// The last entry names a batch, and is not far from the segment's end.
    async fn offsets_against_batches(
        &self,
        partition: &Partition,
        segment: Sealed,
        index: &[u8],
    ) -> Result<Option<&'static str>, ReadError> {
        let last = OffsetEntry::last(index, segment.base);
        let from = last.map_or(0, |entry| u64::from(entry.position));
        let mut named = None;
        self.walk(partition, segment, from, |header| {
            named = Some(*header);
            ControlFlow::Break(())
        })
        .await?;
        let Some(header) = named else { return Ok(last.map(|_| "its last entry names no batch")) };
        // Kafka's entries may be of several batches that were written together.
        if last.is_some_and(|entry| header.last_offset().0 > entry.offset) {
            return Ok(Some("its last entry names another batch"));
        }
        let config = partition.spec.borrow().config.clone();
        // One large batch may follow without an entry.
        let near = WALK_BYTES_MAX + 4 * config.index_interval_bytes + config.max_message_bytes as u64;
        let rest = segment.size.saturating_sub(from + header.size_in_bytes() as u64);
        Ok((rest > near).then_some("it ends long before the segment does"))
    }

    /// The last entry is of its batch, and no batch after it is later.
    async fn times_against_batches(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        segment: Sealed,
        index: &[u8],
    ) -> Result<Option<&'static str>, ReadError> {
        let offsets = Box::pin(self.sealed_index(partition, segment.base, FileKind::OffsetIndex)).await?;
        let last = TimeEntry::last(index, segment.base);
        let from = last.map_or(0, |entry| OffsetEntry::lookup(&offsets, segment.base, entry.offset));
        let largest = last.map_or(-1, |entry| entry.timestamp);
        let (mut named, mut later) = (last.is_none(), false);
        let walk = self.walk(partition, segment, u64::from(from), |header| {
            if named {
                later |= header.record_count > 0 && header.max_timestamp > largest;
            } else if last.is_some_and(|entry| header.last_offset().0 >= entry.offset) {
                named = header.max_timestamp == largest;
                later = !named;
            }
            if later { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let walk = walk.await?;
        Ok(match (later, named) {
            (true, true) => Some("a batch after its last entry is later"),
            (true, false) => Some("its last entry is not of its batch"),
            (false, false) if walk != Walk::Far => Some("its last entry names no batch"),
            (false, _) => None,
        })
    }

    /// Calls `found` for each batch from `from` on.
    async fn walk(
        &self,
        partition: &Partition,
        segment: Sealed,
        from: u64,
        mut found: impl FnMut(&RecordBatchHeader) -> ControlFlow<()>,
    ) -> Result<Walk, ReadError> {
        let path = self.segment_path(partition, segment.base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(read_failed)?;
        let (mut at, mut piece_at, mut piece) = (from, from, Bytes::new());
        while at < segment.size {
            if at - from >= WALK_BYTES_MAX {
                return Ok(Walk::Far);
            }
            if at + batch::HEADER_LEN as u64 > piece_at + piece.len() as u64 {
                (piece_at, piece) = (at, file.read_at(at, WALK_PIECE).await.map_err(read_failed)?);
            }
            let Ok(header) = batch::parse_header(&piece[(at - piece_at) as usize..]) else { return Ok(Walk::Lost) };
            if header.base_offset.0 < segment.base || header.last_offset().0 >= segment.end {
                return Ok(Walk::Lost);
            }
            if found(&header).is_break() {
                return Ok(Walk::Done);
            }
            at += header.size_in_bytes() as u64;
        }
        Ok(Walk::Done)
    }

    /// Where to begin a scan of a complete segment that must see `from`: what the index says, if a batch is there that
    /// begins at or before it, else the start.
    pub(super) async fn position_before(&self, partition: &Partition, base: i64, from: i64) -> Result<u64, StoreError> {
        let index = self.rt.read_file(&self.segment_path(partition, base, FileKind::OffsetIndex)).await;
        let position = index.map_or(0, |index| u64::from(OffsetEntry::lookup(&index, base, from)));
        if position == 0 {
            return Ok(0);
        }
        let path = self.segment_path(partition, base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(StoreError::io("read a segment"))?;
        let bytes = file.read_at(position, batch::HEADER_LEN).await.map_err(StoreError::io("read a segment"))?;
        let good = batch::parse_header(&bytes).is_ok_and(|h| may_begin_at(&h, base, from));
        Ok(if good { position } else { 0 })
    }
}

/// A search for `offset` in the segment at `base` may begin with this batch.
pub(super) fn may_begin_at(header: &RecordBatchHeader, base: i64, offset: i64) -> bool {
    (base..=offset).contains(&header.base_offset.0)
}

fn sealed(partition: &Partition, base: i64) -> Option<Sealed> {
    let found = partition.with(|log| {
        let at = log.segments.iter().position(|s| s.base == base && s.index.is_none())?;
        let (segment, end) = (&log.segments[at], log.segments.get(at + 1).map_or(log.log_end, |next| next.base));
        let (size, rebuilding) = (segment.size, segment.rebuilding);
        Some(Sealed { base, end, size, rebuilding, generation: log.generation })
    });
    found.flatten()
}
