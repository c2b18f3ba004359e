//! The deterministic backend: whole nodes in one thread, a virtual clock, and every choice made by one seed.
//!
//! ```
//! use coreline_io::sim::{SimOptions, SimWorld};
//! use coreline_io::{BLOCK, Disk, File, OpenOptions};
//! use bytes::Bytes;
//! use std::path::Path;
//!
//! let world = SimWorld::new(42, SimOptions::default());
//! let node = world.node("a");
//! let path = Path::new("/data/journal");
//! let options = OpenOptions { create: true, ..OpenOptions::default() };
//!
//! let rt = node.runtime();
//! world.block_on(async {
//!     let file = rt.open(path, options).await.unwrap();
//!     rt.sync_dir(Path::new("/data")).await.unwrap();          // the name is durable
//!     file.write_at(0, &[Bytes::from(vec![1; BLOCK])]).await.unwrap();
//!     file.sync_data().await.unwrap();                         // the first block is durable
//!     file.write_at(BLOCK as u64, &[Bytes::from(vec![2; BLOCK])]).await.unwrap();
//! });
//! node.crash();                                                // power loss: the second block may be torn
//! node.restart();
//!
//! let contents = node.file_contents(path).unwrap();
//! assert!(contents[..BLOCK].iter().all(|&b| b == 1));
//! assert!(contents[BLOCK..].chunks(512).all(|sector| sector == [0; 512] || sector == [2; 512]));
//! ```
//!
//! # What is modelled
//!
//! * **Time** is virtual: it moves only when no task is ready, to the next timer or completion (and, so that
//!   spinning ends, by a microsecond a poll after 10,000 polls at one instant). Ready tasks are polled in seeded
//!   random order, whatever their group. `should_yield` is true at random. The same seed, options and program give
//!   the same run; [`SimWorld::trace_hash`] shows it.
//! * **Disk**, a node: sparse files of 4 KiB pages. A write takes effect at a random moment before its completion is
//!   seen. At a power loss, of the writes that no completed `sync_data` covers, those in flight included, any subset
//!   of 512-byte sectors is kept. Changes of a file's size (appends, truncations) are kept up to a random one of them;
//!   what lies past a size that was lost is lost. Creations, renames and removals are kept, directory by directory,
//!   up to a random one since its last `sync_dir`. A write with `dsync` is durable on completion, a size that it
//!   grew is not before `sync_data`. After a failed sync, what it covered stays uncertain for ever, even over a
//!   later sync that succeeds. `kill -9` ([`CrashKind::Kill`]) keeps all that took effect; only writes in flight may
//!   be torn, and what was not synced can still be lost to a later power loss.
//! * **Disk faults**: errors, slowness, operations that never return, a full device, flipped bits ([`DiskFaults`],
//!   [`SimNode::flip_bit`]).
//! * **Network**: streams with delay, bounded buffers on each way, short reads and writes, in order. A partition
//!   holds what is sent until it heals, as retransmission does; neither side is told. A crash resets connections;
//!   behind a partition the other side stays half-open until it sends something after the healing. A reset leaves what
//!   has already arrived readable. Connecting to a node that is down is refused, through a partition times out.
//!   Several listeners on one address get connections at random.
//! * **A process that ends itself** ([`exit_node`]) takes its node down as `kill -9` does.
//!
//! # What is not
//!
//! A rename from one directory to another is durable at once, with all that was pending in both. Sizes count as
//! used space, holes included. CPU time costs nothing. There is one file system a node; `sync_dir` of a directory
//! makes its names durable but not the directory's own name in its parent. Scheduling groups have no weight. Packets
//! are not lost for good, reordered or corrupted inside a connection. Old handles of a crashed node answer an error
//! to whoever outside of the node still calls them.

mod core;
mod disk;
mod faults;
mod image;
mod net;
mod node;
mod rng;
mod runtime;
#[cfg(test)]
mod tests;
mod tree;

pub use disk::{SimFile, SimLock};
pub use faults::{DiskFaults, DiskOp};
pub use net::{SimListener, SimParcel, SimStream};
pub use node::SimNode;
pub use rng::SimRng;
pub use runtime::SimRuntime;

use self::core::Core;
use self::node::NodeState;
use crate::{JoinHandle, Monotonic};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::time::Duration;

/// How a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The machine loses power: what was not made durable may be lost or torn.
    PowerLoss,
    /// `kill -9`: what was written survives; only operations in flight are uncertain.
    Kill,
}

/// How a process ended itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeExit {
    /// The exit code.
    pub code: i32,
    /// Why, as the process put it.
    pub message: String,
}

/// The laws of a simulated world. The default is a fast disk, a local network and power losses.
#[derive(Clone, Debug)]
pub struct SimOptions {
    /// What [`SimNode::crash`] is.
    pub crash: CrashKind,
    /// How long a read takes.
    pub disk_read: RangeInclusive<Duration>,
    /// How long a write takes.
    pub disk_write: RangeInclusive<Duration>,
    /// How long a sync takes.
    pub disk_sync: RangeInclusive<Duration>,
    /// How long opening, renaming, listing and the like take.
    pub disk_meta: RangeInclusive<Duration>,
    /// One disk operation in so many takes ten times as long; 0 is none.
    pub disk_slow_one_in: u64,
    /// A write to a file whose sync has failed is a bug of the caller: panic.
    pub assert_no_write_after_failed_sync: bool,
    /// One way between two nodes.
    pub net_delay: RangeInclusive<Duration>,
    /// One way inside a node.
    pub loopback_delay: RangeInclusive<Duration>,
    /// Bytes under way in one direction of a connection before the sender waits.
    pub socket_buffer_bytes: usize,
    /// One read or write of a socket in so many is short; 0 is none.
    pub short_io_one_in: u64,
    /// How long connecting through a partition takes to fail.
    pub connect_timeout: Duration,
    /// A timer fires this much late at most.
    pub timer_slack: Duration,
    /// `should_yield` is true once in so many times; 0 is never.
    pub yield_one_in: u64,
    /// The wall clock's time at the start, in milliseconds since the Unix epoch.
    pub wall_ms_start: i64,
    /// Polls in all after which a run that is not done fails.
    pub steps_max: Option<u64>,
}

impl Default for SimOptions {
    fn default() -> Self {
        let micros = |from, to| Duration::from_micros(from)..=Duration::from_micros(to);
        Self {
            crash: CrashKind::PowerLoss,
            disk_read: micros(40, 150),
            disk_write: micros(20, 120),
            disk_sync: micros(50, 300),
            disk_meta: micros(2, 60),
            disk_slow_one_in: 64,
            assert_no_write_after_failed_sync: false,
            net_delay: micros(30, 300),
            loopback_delay: micros(5, 40),
            socket_buffer_bytes: 64 * 1024,
            short_io_one_in: 4,
            connect_timeout: Duration::from_secs(5),
            timer_slack: Duration::from_micros(50),
            yield_one_in: 8,
            wall_ms_start: 1_767_225_600_000,
            steps_max: Some(50_000_000),
        }
    }
}

/// A world of nodes that runs by one seed. See the [module](self).
///
/// Dropping it ends every task; nodes and runtimes taken from it are dead then.
pub struct SimWorld {
    core: Rc<Core>,
}

impl std::fmt::Debug for SimWorld {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimWorld(seed {}, {})", self.core.seed, self.core)
    }
}

impl SimWorld {
    /// An empty world.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions) -> Self {
        Self { core: Core::new(seed, options) }
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.core.seed
    }

    /// The node of this name, made up and running if there is none.
    pub fn node(&self, name: &str) -> SimNode {
        let mut nodes = self.core.nodes.borrow_mut();
        let known = nodes.iter().find(|n| n.name == name).cloned();
        let state = known.unwrap_or_else(|| {
            let node = Rc::new(NodeState::new(nodes.len(), name, self.core.rng.fork()));
            nodes.push(node.clone());
            node
        });
        SimNode { core: self.core.clone(), state }
    }

    /// A handle that tasks of the world (the driver of a test) may hold.
    #[must_use]
    pub fn handle(&self) -> SimHandle {
        SimHandle { core: self.core.clone() }
    }

    /// Runs the world until `future` is done; its other tasks stay as they are then.
    ///
    /// # Panics
    /// With the seed and the living tasks if nothing can ever happen again or the limit of steps is reached; with the
    /// panic of any task.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.core.block_on(future)
    }

    /// Lets the world run for `duration`.
    pub fn run_for(&self, duration: Duration) {
        self.core.block_on(self.core.sleep(rng::nanos_of(duration)));
    }

    /// Starts a task that belongs to no node: it survives crashes.
    pub fn spawn<T: 'static>(&self, name: &'static str, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.core.spawn(None, name, task)
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.core.now()
    }

    /// Polls of tasks so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.core.steps()
    }

    /// A hash of all that happened, in its order: equal for equal runs.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.core.trace_hash()
    }

    /// Randomness for the driver of a test, apart from the world's own.
    #[must_use]
    pub fn rng(&self) -> SimRng {
        self.core.rng.fork()
    }

    /// Cuts both ways between two nodes.
    pub fn partition(&self, a: &SimNode, b: &SimNode) {
        self.handle().partition(a, b);
    }

    /// Cuts the way of what `from` sends to `to`.
    pub fn partition_one_way(&self, from: &SimNode, to: &SimNode) {
        self.handle().partition_one_way(from, to);
    }

    /// Mends both ways between two nodes.
    pub fn heal(&self, a: &SimNode, b: &SimNode) {
        self.handle().heal(a, b);
    }
}

impl Drop for SimWorld {
    fn drop(&mut self) {
        self.core.close();
    }
}

/// What a task of the world may do with it; see [`SimWorld`] for each.
#[derive(Clone)]
pub struct SimHandle {
    core: Rc<Core>,
}

impl std::fmt::Debug for SimHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimHandle(seed {}, {})", self.core.seed, self.core)
    }
}

impl SimHandle {
    /// Starts a task that belongs to no node.
    pub fn spawn<T: 'static>(&self, name: &'static str, task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.core.spawn(None, name, task)
    }

    /// Waits for `duration` of virtual time.
    pub fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        self.core.sleep(rng::nanos_of(duration))
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Monotonic {
        self.core.now()
    }

    /// Cuts both ways between two nodes.
    pub fn partition(&self, a: &SimNode, b: &SimNode) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Cuts the way of what `from` sends to `to`.
    pub fn partition_one_way(&self, from: &SimNode, to: &SimNode) {
        self.core.net.cut(from.state.index, to.state.index);
    }

    /// Mends both ways between two nodes.
    pub fn heal(&self, a: &SimNode, b: &SimNode) {
        self.core.net.heal(&self.core, a.state.index, b.state.index);
        self.core.net.heal(&self.core, b.state.index, a.state.index);
    }
}

/// Ends the simulated process that calls it, as `std::process::exit` ends a real one: the node crashes as by
/// [`CrashKind::Kill`] and [`SimNode::exited`] tells how. Called outside of a task of a node it fails the run.
pub fn exit_node(code: i32, message: impl Into<String>) -> ! {
    std::panic::resume_unwind(Box::new(NodeExit { code, message: message.into() }))
}
