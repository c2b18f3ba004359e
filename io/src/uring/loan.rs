//! Read buffers of glommio's that leave their executor: lent out as [`Bytes`], given back where they came from.
//!
//! A buffer lives in memory that is registered with its executor's ring and is counted without atomics, so only its own
//! thread may free it. Whoever drops the last [`Bytes`] elsewhere puts the buffer in the home's return queue, which the
//! home empties at its next disk operation or socket event.

use bytes::Bytes;
use glommio::io::ReadResult;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;

/// Where buffers of one executor go back to. Shared with every core that holds one.
#[derive(Debug)]
pub(super) struct Home {
    thread: ThreadId,
    /// Bytes in buffers that are lent out or being written.
    held: AtomicUsize,
    /// True when `returned` may hold something: one load tells the home that there is nothing to do.
    waiting: AtomicBool,
    returned: Mutex<Vec<Sealed>>,
}

/// A buffer away from home: it may be moved between threads, and is opened at home only.
#[derive(Debug)]
struct Sealed(ManuallyDrop<ReadResult>);

// SAFETY: nothing but `Sealed::open` touches the inner value, and that is called on its home thread only.
// Dropped anywhere (also when the queue of a dead home is dropped), it forgets the buffer: a leak, never a race.
#[allow(unsafe_code)]
unsafe impl Send for Sealed {}

impl Sealed {
    /// Frees the buffer. To be called on the home thread.
    fn open(self) {
        drop(ManuallyDrop::into_inner(self.0));
    }
}

/// What a lent [`Bytes`] owns.
struct Loan {
    buffer: Option<Sealed>,
    start: NonNull<u8>,
    len: usize,
    held: usize,
    home: Arc<Home>,
}

// SAFETY: through a shared `Loan` only bytes are read, which nobody writes after the read completed; the buffer itself
// is `Sealed`.
#[allow(unsafe_code)]
unsafe impl Send for Loan {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Loan {}

impl AsRef<[u8]> for Loan {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: start and length were taken from the buffer, which lives until the drop below and does not move.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.home.held.fetch_sub(self.held, Ordering::Relaxed);
        if let Some(buffer) = self.buffer.take() {
            self.home.give_back(buffer);
        }
    }
}

/// Bytes that count as held.
pub(super) struct Held<'a> {
    home: &'a Home,
    bytes: usize,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.home.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Home {
    /// The home of the calling thread's executor.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            thread: std::thread::current().id(),
            held: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            returned: Mutex::default(),
        })
    }

    /// Lends bytes `skip..end` of a completed read. To be called on the home thread, inside the buffer (asserted).
    pub(super) fn lend(self: &Arc<Self>, buffer: ReadResult, skip: usize, end: usize) -> Bytes {
        assert!(skip <= end && end <= buffer.len(), "bytes {skip}..{end} of a read of {}", buffer.len());
        if skip == end {
            return Bytes::new();
        }
        let held = buffer.len();
        let start = NonNull::from(&buffer[skip]);
        self.held.fetch_add(held, Ordering::Relaxed);
        let buffer = Some(Sealed(ManuallyDrop::new(buffer)));
        Bytes::from_owner(Loan { buffer, start, len: end - skip, held, home: Arc::clone(self) })
    }

    /// Counts bytes of a buffer that is in use while the result lives.
    pub(super) fn hold_while(&self, bytes: usize) -> Held<'_> {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Held { home: self, bytes }
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn give_back(&self, buffer: Sealed) {
        if std::thread::current().id() == self.thread {
            return buffer.open();
        }
        // Nothing panics while the lock is held; a poisoned queue is as good as any.
        self.returned.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        self.waiting.store(true, Ordering::Release);
    }

    /// Frees what came back. To be called on the home thread.
    pub(super) fn empty_returns(&self) {
        if self.waiting.load(Ordering::Relaxed) {
            self.empty_now();
        }
    }

    #[cold]
    fn empty_now(&self) {
        debug_assert_eq!(std::thread::current().id(), self.thread);
        self.waiting.store(false, Ordering::Relaxed);
        let returned = std::mem::take(&mut *self.returned.lock().unwrap_or_else(PoisonError::into_inner));
        returned.into_iter().for_each(Sealed::open);
    }
}
