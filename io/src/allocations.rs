//! Allocations of each thread, counted: what a request costs of them is a metric.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local!(static HERE: Cell<u64> = const { Cell::new(0) });

/// The system's allocator, which counts what each thread asks of it: one addition to a cell of the thread.
/// A program that wants it counted makes it its `#[global_allocator]`.
#[derive(Clone, Copy, Debug, Default)]
pub struct CountingAllocator;

fn count() {
    // No destructor: it can be used as long as the thread runs.
    HERE.with(|here| here.set(here.get().wrapping_add(1)));
}

// SAFETY: everything is done by `System`, whose contract is the same; counting allocates nothing and cannot unwind.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for CountingAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.realloc(memory, layout, size) }
    }

    #[inline]
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Allocations of the calling thread so far; 0 in a program whose allocator does not count.
#[must_use]
pub fn on_this_thread() -> u64 {
    HERE.with(Cell::get)
}
