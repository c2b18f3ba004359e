//! Append-only, refcounted memory: the resident tail of a partition, readable from any core while it grows.

use bytes::Bytes;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Fixed-capacity memory that one task appends to and many [`Bytes`] look into, without a copy.
///
/// ```text
/// 0 ............ len ............ capacity
/// |  written     |  not written   |
/// |  never changes again: slices look in here |
/// ```
///
/// Invariant: `len ≤ capacity`; bytes below `len` are initialised and never written again, bytes from `len` on are
/// reached by nobody but [`AppendBuf::append`]. A slice pins the whole buffer.
#[derive(Debug)]
pub struct AppendBuf {
    memory: Arc<Memory>,
    len: usize,
}

/// The allocation. It gives out raw pointers only: no reference to the whole of it exists, so that a reader's
/// `&[u8]` of the written part and the writer's copy into the rest never overlap.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `Memory` is a pointer to an allocation it owns alone, and has no method that reads or writes through it;
// `AppendBuf` and `View` do, under the invariant of `AppendBuf` (written once, before it is shared).
#[allow(unsafe_code)]
unsafe impl Send for Memory {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_capacity` with this layout, freed once, by the last owner.
        #[allow(unsafe_code)]
        unsafe {
            dealloc(self.start.as_ptr(), self.layout);
        }
    }
}

/// A range of written bytes: what a [`Bytes`] owns.
struct View {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `slice` checked that the range is inside the written part, which is initialised, never written
        // again, and lives as long as `memory`.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.memory.start.as_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl AppendBuf {
    /// An empty buffer with room for `capacity` bytes (at least one: asserted).
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        assert!(capacity > 0, "an AppendBuf needs room");
        let layout = Layout::from_size_align(capacity, 1).expect("capacity fits the address space");
        // SAFETY: the layout's size is not zero.
        #[allow(unsafe_code)]
        let start = unsafe { alloc(layout) };
        let Some(start) = NonNull::new(start) else { handle_alloc_error(layout) };
        Self { memory: Arc::new(Memory { start, layout }), len: 0 }
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True before the first append.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes it can hold in all.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.memory.layout.size()
    }

    /// Bytes that still fit.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.capacity() - self.len
    }

    /// Adds `bytes` at the end and returns where they went. They must fit (asserted).
    pub fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        assert!(bytes.len() <= self.remaining(), "append of {} bytes, room for {}", bytes.len(), self.remaining());
        // SAFETY: the target is inside the allocation; nothing else refers to bytes from `len` on, and `bytes` cannot
        // overlap them (a reference into this memory is always below `len`). `&mut self`: one writer.
        #[allow(unsafe_code)]
        unsafe {
            let target = self.memory.start.as_ptr().add(self.len);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        }
        let start = self.len;
        self.len += bytes.len();
        start..self.len
    }

    /// What is written.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        // SAFETY: the bytes below `len` are initialised, never written again while `&self` is held or after it, and live
        // as long as `memory`.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.memory.start.as_ptr(), self.len)
        }
    }

    /// A view of written bytes, no copy, good on any core. The range must be inside the written part (asserted).
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Bytes {
        assert!(range.start <= range.end && range.end <= self.len, "slice {range:?} of {} written bytes", self.len);
        if range.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(View { memory: self.memory.clone(), range })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slices_stay_while_the_buffer_grows_and_after_it_is_gone() {
        let mut buf = AppendBuf::with_capacity(10);
        assert_eq!(buf.append(b"abc"), 0..3);
        let first = buf.slice(0..3);
        assert_eq!(buf.append(b"defg"), 3..7);
        let second = buf.slice(2..7);
        assert_eq!((buf.len(), buf.remaining(), buf.capacity()), (7, 3, 10));
        drop(buf);
        assert_eq!((&first[..], &second[..]), (&b"abc"[..], &b"cdefg"[..]));
    }

    #[test]
    fn a_reader_on_another_thread_sees_what_was_written_before() {
        let mut buf = AppendBuf::with_capacity(2048);
        std::thread::scope(|scope| {
            for round in 0..32u8 {
                let range = buf.append(&[round; 64]);
                let view = buf.slice(range);
                scope.spawn(move || assert!(view.iter().all(|b| *b == round)));
            }
        });
        assert_eq!(buf.remaining(), 0);
    }

    #[test]
    #[should_panic(expected = "room for 2")]
    fn too_much_is_refused() {
        let mut buf = AppendBuf::with_capacity(4);
        buf.append(b"ab");
        buf.append(b"cde");
    }

    #[test]
    #[should_panic(expected = "of 2 written bytes")]
    fn bytes_not_written_are_not_shown() {
        let mut buf = AppendBuf::with_capacity(4);
        buf.append(b"ab");
        let _ = buf.slice(1..3);
    }

    proptest! {
        #[test]
        fn it_is_a_vec_that_never_moves(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 1..20),
            cuts in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..20),
        ) {
            let capacity = pieces.iter().map(Vec::len).sum::<usize>().max(1);
            let mut buf = AppendBuf::with_capacity(capacity);
            let mut model: Vec<u8> = Vec::new();
            let mut views: Vec<(Range<usize>, Bytes)> = Vec::new();
            for (piece, (a, b)) in pieces.iter().zip(cuts.iter().cycle()) {
                buf.append(piece);
                model.extend_from_slice(piece);
                let (a, b) = (usize::from(*a) % (model.len() + 1), usize::from(*b) % (model.len() + 1));
                let range = a.min(b)..a.max(b);
                views.push((range.clone(), buf.slice(range)));
            }
            prop_assert_eq!(buf.len(), model.len());
            for (range, view) in views {
                prop_assert_eq!(&view[..], &model[range]);
            }
        }
    }
}
