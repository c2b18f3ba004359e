//! Clock, entropy, tasks, and the [`Runtime`] that bundles them with disk and network.

use crate::counters::Counters;
use crate::disk::Disk;
use crate::net::Net;
use futures_util::future::LocalBoxFuture;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A point on the monotonic clock, in nanoseconds since an arbitrary start of this process (or simulation).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic {
    /// Nanoseconds since the start.
    pub nanos: u64,
}

impl Monotonic {
    /// Time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }

    /// The point `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self { nanos: self.nanos.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)) }
    }
}

/// Time.
pub trait Clock {
    /// The monotonic clock.
    fn now(&self) -> Monotonic;
    /// Milliseconds since the Unix epoch: the time of records and files, which may jump.
    fn wall_ms(&self) -> i64;
    /// Waits at least `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static;
}

/// Randomness: ids, jitter. Seeded in the simulator.
pub trait Entropy {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// The scheduling group of a task; groups share a core by weight, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TaskGroup {
    /// Reading, handling and answering requests.
    Requests,
    /// Group commit of the journal, replication.
    Replication,
    /// Tail chunks to segments.
    Flush,
    /// Recovery, compaction, retention, cold reads.
    Background,
}

impl TaskGroup {
    /// All groups, most important first.
    pub const ALL: [Self; 4] = [Self::Requests, Self::Replication, Self::Flush, Self::Background];

    /// The group's share of a busy core, relative to the others.
    #[must_use]
    pub const fn shares(self) -> usize {
        match self {
            Self::Requests => 1000,
            Self::Replication => 800,
            Self::Flush => 300,
            Self::Background => 100,
        }
    }
}

/// The result of a spawned task. Dropping it lets the task run on by itself.
pub struct JoinHandle<T>(LocalBoxFuture<'static, T>);

impl<T> JoinHandle<T> {
    /// Wraps the backend's own handle; the future must yield the task's output and must not cancel the task when dropped.
    pub fn new(inner: impl Future<Output = T> + 'static) -> Self {
        Self(Box::pin(inner))
    }
}

impl<T> std::fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinHandle")
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.0.as_mut().poll(cx)
    }
}

/// Cooperative tasks of one executor.
pub trait Tasks {
    /// Starts a task in `group`. `name` is for the stall detector and for panics. The task may be polled before this
    /// returns: hold no `RefCell` borrow across the call.
    fn spawn<T: 'static>(
        &self,
        group: TaskGroup,
        name: &'static str,
        task: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T>;

    /// Lets other ready tasks run. Loops over many items call it when [`Tasks::should_yield`] says so.
    fn yield_now(&self) -> impl Future<Output = ()>;

    /// True when this task has used up its slice.
    fn should_yield(&self) -> bool;

    /// The longest of the stalls (polls of a task that held the core too long) between two times, and the task's name: as
    /// far as they are remembered. None where nobody looks for stalls.
    fn longest_stall_between(&self, _from: Monotonic, _to: Monotonic) -> Option<(&'static str, Duration)> {
        None
    }
}

/// What went through a shard, for metrics.
pub trait Meter {
    /// Totals since the shard's start.
    fn counters(&self) -> Counters;
    /// Polls of a task that held the core too long, since the shard's start, and the longest of them.
    fn stalled(&self) -> (u64, Duration);
}

/// Everything a shard may ask of the world. A handle: cloning it is cheap.
pub trait Runtime: Clock + Entropy + Tasks + Meter + Disk + Net + Clone + 'static {}

impl<T: Clock + Entropy + Tasks + Meter + Disk + Net + Clone + 'static> Runtime for T {}
