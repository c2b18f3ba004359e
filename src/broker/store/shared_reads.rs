//! Cold reads: pieces of segments, read from the device once for all who want them at about the same time.
//!
//! ```text
//! segment   0 ──── 256 KiB ──── 512 KiB ──── 768 KiB ─…      pieces begin at multiples of 256 KiB
//! reader A          [  at 300 KiB, 400 KiB long  ]           reads the second and the third piece
//! reader B               [  at 340 KiB, 400 KiB long  ]      waits for the same two, and reads nothing
//! ```
//! A reader that goes on where it stopped finds the next pieces on their way: three times what it asked for last is read ahead,
//! since the device needs several at a time, also while an answer is sent and the next request is on its way.
//!
//! Tasks of the background group read, so that a reader of old records stands behind requests, and one that goes away
//! takes nothing from the others. While the journal is in use they give way to it: one piece at a time, none while a group
//! commit is under way or waits, for a device that reads much is slow to flush. The newest pieces are kept for readers who come a little later, up to
//! [`KEPT_BYTES_MAX`] a shard. Within a generation of a log the bytes below its flushed end do not change: a piece never
//! needs to be thrown away, it only is forgotten.

use super::LogStore;
use super::read::read_failed;
use super::types::ReadError;
use bytes::Bytes;
use coreline_io::sync::{Notify, Permit, Semaphore};
use coreline_io::{File, Monotonic, Runtime, TaskGroup};
use futures_util::future::select;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Where pieces begin; none is longer.
pub(super) const PIECE_BYTES: u64 = 256 << 10;
/// Pieces that are kept or being read, in bytes, at most (and what the readers at hand want).
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Of them, pieces that were read ahead and that nobody has asked for yet.
const AHEAD_BYTES_MAX: usize = KEPT_BYTES_MAX * 3 / 4;
/// As much as so many of its requests is read ahead for a reader.
const AHEAD_REQUESTS: u64 = 3;
/// Read ahead for one reader, at most.
const AHEAD_BYTES_EACH: u64 = 4 << 20;

/// A journal that was written within this time is in use.
const JOURNAL_IN_USE: Duration = Duration::from_millis(20);
/// A read gives way for so long at most: a journal that is always busy does not keep readers from going on.
const GIVE_WAY_MAX: Duration = Duration::from_millis(2);

/// A piece of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Piece {
    /// Of the log, unique in the store.
    pub(super) generation: u64,
    /// The segment's base offset.
    pub(super) segment: i64,
    pub(super) at: u64,
    pub(super) len: usize,
}

/// One that is being read, or was.
#[derive(Debug, Default)]
struct PieceRead {
    result: OnceCell<Result<Bytes, ReadError>>,
    done: Notify,
    /// It was read ahead, and nobody has asked for it yet.
    ahead: Cell<bool>,
}

/// The pieces of a shard's store.
#[derive(Debug, Default)]
pub(super) struct SharedReads {
    pieces: RefCell<HashMap<Piece, Rc<PieceRead>, BuildHasherDefault<DefaultHasher>>>,
    /// Oldest first; may name some that are gone.
    order: RefCell<VecDeque<Piece>>,
    bytes: Cell<usize>,
    ahead_bytes: Cell<usize>,
    /// Whoever reads while the journal is in use has it.
    beside_journal: BesideJournal,
    /// When the journal was written last.
    journal_used: Cell<Option<Monotonic>>,
}

#[derive(Debug)]
struct BesideJournal(Rc<Semaphore>);

impl Default for BesideJournal {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl SharedReads {
    /// A group commit ended.
    pub(super) fn journal_used(&self, now: Monotonic) {
        self.journal_used.set(Some(now));
    }

    fn insert(&self, piece: Piece, read: Rc<PieceRead>) {
        self.pieces.borrow_mut().insert(piece, read);
        self.order.borrow_mut().push_back(piece);
        self.bytes.set(self.bytes.get() + piece.len);
        while self.bytes.get() > KEPT_BYTES_MAX && self.order.borrow().len() > 1 {
            let Some(oldest) = self.order.borrow_mut().pop_front() else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&self, piece: &Piece) {
        if let Some(read) = self.pieces.borrow_mut().remove(piece) {
            self.bytes.set(self.bytes.get() - piece.len);
            self.wanted(piece, &read);
        }
    }

    /// A piece is not only read ahead any more. False: it was not.
    fn wanted(&self, piece: &Piece, read: &PieceRead) -> bool {
        let ahead = read.ahead.replace(false);
        if ahead {
            self.ahead_bytes.set(self.ahead_bytes.get() - piece.len);
        }
        ahead
    }
}

impl<R: Runtime> LogStore<R> {
    /// A piece's bytes; fewer if the file ends before.
    pub(super) async fn read_piece(self: &Rc<Self>, file: Rc<R::File>, piece: Piece) -> Result<Bytes, ReadError> {
        let known = self.shared_reads.pieces.borrow().get(&piece).cloned();
        let read = match known {
            Some(read) => {
                if !self.shared_reads.wanted(&piece, &read) {
                    self.count(|s| s.shared_read_bytes += piece.len as u64);
                }
                read
            }
            None => self.begin_read(file, piece, false),
        };
        loop {
            let done = read.done.notified();
            if let Some(result) = read.result.get() {
                return result.clone();
            }
            done.await;
        }
    }

    /// Begins to read what a reader will ask for next if it goes on from `from`: of `piece`'s segment, before `end`.
    pub(super) fn read_ahead(self: &Rc<Self>, file: &Rc<R::File>, cold: (u64, i64), from: u64, want: u64, end: u64) {
        let (generation, segment) = cold;
        let to = (from + (AHEAD_REQUESTS * want).min(AHEAD_BYTES_EACH)).min(end);
        for n in from / PIECE_BYTES..to.div_ceil(PIECE_BYTES) {
            let at = n * PIECE_BYTES;
            let piece = Piece { generation, segment, at, len: PIECE_BYTES.min(end - at) as usize };
            let ahead = self.shared_reads.ahead_bytes.get() + piece.len;
            if ahead > AHEAD_BYTES_MAX {
                return;
            }
            if !self.shared_reads.pieces.borrow().contains_key(&piece) {
                self.shared_reads.ahead_bytes.set(ahead);
                self.begin_read(file.clone(), piece, true);
            }
        }
    }

    fn begin_read(self: &Rc<Self>, file: Rc<R::File>, piece: Piece, ahead: bool) -> Rc<PieceRead> {
        let read = Rc::new(PieceRead { ahead: Cell::new(ahead), ..PieceRead::default() });
        self.shared_reads.insert(piece, read.clone());
        let (store, reading) = (self.clone(), read.clone());
        drop(self.rt.spawn(TaskGroup::Background, "cold read", async move {
            let turn = store.give_way().await;
            let result = file.read_at(piece.at, piece.len).await.map_err(read_failed);
            drop(turn);
            match &result {
                Ok(bytes) => store.count(|s| s.device_read_bytes += bytes.len() as u64),
                // Whoever asks next tries again.
                Err(_) => store.shared_reads.forget(&piece),
            }
            let _ = reading.result.set(result);
            reading.done.notify_all();
        }));
        read
    }

    /// Waits until a read does not hold the journal up, or has waited long enough. Beside a journal that is in use, what it
    /// gives is kept until the read is done.
    async fn give_way(&self) -> Option<Permit> {
        let in_use = |now: Monotonic| {
            let used = self.shared_reads.journal_used.get();
            self.writer.busy.get() || used.is_some_and(|used| now.since(used) < JOURNAL_IN_USE)
        };
        if !in_use(self.rt.now()) {
            return None;
        }
        let turn = self.shared_reads.beside_journal.0.acquire(1).await;
        let until = self.rt.now().plus(GIVE_WAY_MAX);
        while self.writer.busy.get() || self.has_work() {
            let now = self.rt.now();
            if now >= until {
                break;
            }
            let progress = self.progress.notified();
            select(pin!(progress), pin!(self.rt.sleep(until.since(now)))).await;
        }
        Some(turn)
    }
}
