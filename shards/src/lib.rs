//! One pinned executor a core, and the mesh between them. Knows no Kafka word.
//!
//! * [`glommio_backend::run`] starts a thread and an executor on every chosen core; [`sim::start`] starts the same
//!   shards inside a simulated node. Both give each shard a [`ShardContext`].
//! * [`Mesh`]: calls and events between shards over bounded rings, with credits, so that two shards that flood each
//!   other cannot deadlock.
//! * [`HandOff`]: a connection on its way to another shard.
//! * [`Shutdown`]: everybody stops when one is asked; the mesh works until the last shard has returned.
//! * [`Blocking`]: what would block goes to helper threads.
//!
//! `src/docs/shards.md` of the repository explains why it is so and what it costs.

pub mod blocking;
mod context;
pub mod cores;
mod credits;
#[cfg(feature = "uring")]
pub mod glommio_backend;
pub mod handoff;
pub mod mesh;
pub mod panics;
mod shutdown;
pub mod signals;
pub mod sim;

pub use blocking::Blocking;
pub use context::ShardContext;
#[cfg(feature = "uring")]
pub use context::Stalls;
pub use cores::{CoreError, CoreSelection};
pub use handoff::{Adopted, HandOff};
pub use mesh::{CallPermit, CallReply, Mesh, MeshClosed, MeshHandler, MeshProtocol, PostPermit, ReplyTo};
pub use panics::install_panic_hook;
pub use shutdown::{Shutdown, ShutdownHandle};

/// A shard: its place in the list of shards of this process, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    /// As an index.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// All shards of a process that has `count`.
    pub fn all(count: usize) -> impl Iterator<Item = Self> {
        (0..count).map(Self::from_index)
    }

    /// The shard at `index`. Panics past 65,535, which no machine has.
    #[must_use]
    pub fn from_index(index: usize) -> Self {
        Self(u16::try_from(index).expect("at most 65,536 shards"))
    }
}

impl std::fmt::Display for ShardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}
