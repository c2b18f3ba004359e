//! What went through a shard: plain cells, read for metrics and benchmarks.

#[cfg(feature = "uring")]
use std::cell::Cell;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals of one shard since its start.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }

        #[cfg(feature = "uring")]
        #[derive(Debug, Default)]
        pub(crate) struct CounterCells { $(pub(crate) $name: Cell<u64>,)* }

        #[cfg(feature = "uring")]
        impl CounterCells {
            /// To be called on the shard's own thread.
            pub(crate) fn snapshot(&self) -> Counters {
                self.allocations.set(crate::allocations::on_this_thread());
                Counters { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    /// `recv` calls.
    recv_calls,
    /// Bytes received.
    recv_bytes,
    /// `send` and `sendmsg` calls.
    send_calls,
    /// Bytes sent.
    send_bytes,
    /// Connections accepted.
    accepted,
    /// Times the readiness source woke.
    readiness_wakeups,
    /// Socket events those wake-ups brought.
    readiness_events,
    /// Times the core slept without the rings.
    naps,
    /// Times the core polled for a while, having nothing to do.
    spins,
    /// Those that ended with something to do.
    spins_ended,
    /// Naps that another thread ended.
    naps_rung,
    /// Reads of files.
    reads,
    /// Bytes read from files, as asked for (alignment not counted).
    read_bytes,
    /// Bytes of reads that were copied in user space (short or very large reads).
    read_copied_bytes,
    /// Writes of files.
    writes,
    /// Bytes written to files; each was copied once, into its DMA buffer.
    write_bytes,
    /// `fdatasync` calls.
    syncs,
    /// Jobs given to the blocking thread pool.
    blocking_jobs,
    /// Allocations of the shard's thread; 0 where the program's allocator does not count them.
    allocations,
}

/// Adds without ever panicking: a counter that wraps is no reason to stop.
#[cfg(feature = "uring")]
pub(crate) fn add(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get().wrapping_add(amount as u64));
}
