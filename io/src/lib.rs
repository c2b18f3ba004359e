//! Disk, network, clock, entropy and tasks behind one seam.
//!
//! The broker is generic over [`Runtime`]; the backend is chosen once, in `main` or in a test:
//!
//! * `uring` (feature `uring`): glommio on io_uring, direct I/O, one readiness source a shard.
//! * [`sim`]: deterministic and seeded: virtual clock, tasks in seeded order, a disk that tears and loses
//!   unsynced writes at a crash, a network that delays, cuts and partitions.
//!
//! Everything here is single-threaded: a runtime handle, its files, streams and tasks stay on the
//! executor that made them. What crosses cores is said so by name ([`Parcel`](Net::Parcel), [`bytes::Bytes`]).
//! One suite (`tests/suite`) is passed by both backends.

pub mod allocations;
pub mod counters;
pub mod disk;
pub mod error;
pub mod net;
pub mod runtime;
pub mod sim;
pub mod sync;
pub mod tail;
#[cfg(feature = "uring")]
pub mod uring;

pub use allocations::CountingAllocator;
pub use counters::Counters;
pub use disk::{DirContents, DirEntry, Disk, File, OpenOptions, PickFiles};
pub use error::{IoError, IoErrorKind, IoResult, WriteSyncError};
pub use net::{ListenOptions, Listener, Net, Stream};
pub use runtime::{Clock, Entropy, JoinHandle, Meter, Monotonic, Runtime, TaskGroup, Tasks};
pub use tail::AppendBuf;

/// Alignment of every direct-I/O offset, length and buffer, in bytes.
///
/// Devices here say 512 logical and 4096 physical; 4096 is right for both.
pub const BLOCK: usize = 4096;
