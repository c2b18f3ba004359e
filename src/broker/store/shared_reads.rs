//! Cold reads: pieces of segments, read from the device once for all who want them at about the same time.
//!
//! ```text
//! segment   0 ──── 256 KiB ──── 512 KiB ──── 768 KiB ─…      pieces begin at multiples of 256 KiB
//! reader A          [  at 300 KiB, 400 KiB long  ]           reads the second and the third piece
//! reader B               [  at 340 KiB, 400 KiB long  ]      waits for the same two, and reads nothing
//! ```
//!
//! Tasks of the background group read, so that a reader of old records stands behind requests, and one that goes away
//! takes nothing from the others. The newest pieces are kept for readers who come a little later, up to
//! [`KEPT_BYTES_MAX`] a shard. Within a generation of a log the bytes below its flushed end do not change: a piece never
//! needs to be thrown away, it only is forgotten.

use super::LogStore;
use super::read::read_failed;
use super::types::ReadError;
use bytes::Bytes;
use coreline_io::sync::Notify;
use coreline_io::{File, Runtime, TaskGroup};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

/// Where pieces begin; none is longer.
pub(super) const PIECE_BYTES: u64 = 256 << 10;
/// Pieces that are kept or being read, in bytes, at most (and what the readers at hand want).
const KEPT_BYTES_MAX: usize = 8 << 20;

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
}

/// The pieces of a shard's store.
#[derive(Debug, Default)]
pub(super) struct SharedReads {
    pieces: RefCell<HashMap<Piece, Rc<PieceRead>, BuildHasherDefault<DefaultHasher>>>,
    /// Oldest first; may name some that are gone.
    order: RefCell<VecDeque<Piece>>,
    bytes: Cell<usize>,
}

impl SharedReads {
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
        if self.pieces.borrow_mut().remove(piece).is_some() {
            self.bytes.set(self.bytes.get() - piece.len);
        }
    }
}

impl<R: Runtime> LogStore<R> {
    /// A piece's bytes; fewer if the file ends before.
    pub(super) async fn read_piece(self: &Rc<Self>, file: Rc<R::File>, piece: Piece) -> Result<Bytes, ReadError> {
        let known = self.shared_reads.pieces.borrow().get(&piece).cloned();
        let read = match known {
            Some(read) => {
                self.count(|s| s.shared_read_bytes += piece.len as u64);
                read
            }
            None => self.begin_read(file, piece),
        };
        loop {
            let done = read.done.notified();
            if let Some(result) = read.result.get() {
                return result.clone();
            }
            done.await;
        }
    }

    fn begin_read(self: &Rc<Self>, file: Rc<R::File>, piece: Piece) -> Rc<PieceRead> {
        let read = Rc::new(PieceRead::default());
        self.shared_reads.insert(piece, read.clone());
        let (store, reading) = (self.clone(), read.clone());
        drop(self.rt.spawn(TaskGroup::Background, "cold read", async move {
            let result = file.read_at(piece.at, piece.len).await.map_err(read_failed);
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
}
