//! What a shard's main gets, and what runs around that main.

use crate::ShardId;
use crate::mesh::{Host, Mesh, MeshProtocol};
use crate::shutdown::{Latch, LatchHolder, Shutdown};
use coreline_io::TaskGroup;

/// What the main of a shard gets. A handle: it stays on its shard, cloning it is cheap.
pub struct ShardContext<R, P: MeshProtocol> {
    /// Which shard this is.
    pub shard: ShardId,
    /// How many there are.
    pub shards: usize,
    /// Disk, network, clock, entropy, tasks.
    pub runtime: R,
    /// Calls and events to the others.
    pub mesh: Mesh<P>,
    /// When to stop.
    pub shutdown: Shutdown,
}

impl<R: Clone, P: MeshProtocol> Clone for ShardContext<R, P> {
    fn clone(&self) -> Self {
        Self {
            shard: self.shard,
            shards: self.shards,
            runtime: self.runtime.clone(),
            mesh: self.mesh.clone(),
            shutdown: self.shutdown.clone(),
        }
    }
}

impl<R, P: MeshProtocol> std::fmt::Debug for ShardContext<R, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardContext").field("shard", &self.shard).field("shards", &self.shards).finish_non_exhaustive()
    }
}

/// How often a shard's core was held too long.
#[cfg(feature = "uring")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stalls {
    /// Polls of a task longer than [`coreline_io::uring::STALL`]; each is logged with the task's name, at most one a second.
    pub count: u64,
    /// The longest of them.
    pub longest: std::time::Duration,
}

#[cfg(feature = "uring")]
impl<P: MeshProtocol> ShardContext<coreline_io::uring::UringRuntime, P> {
    /// How often this shard's core was held too long so far.
    #[must_use]
    pub fn stalls(&self) -> Stalls {
        Stalls { count: self.runtime.stalls(), longest: self.runtime.longest_stall() }
    }
}

/// The mains that still run, and the latch that opens when none does.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) holder: LatchHolder,
    pub(crate) none: Latch,
}

/// Runs one shard's main. An error asks the others to stop; the mesh is closed when all mains have returned, so that a
/// shard that stops later may still ask one that was ready earlier.
pub(crate) async fn run_main<R, P, F, Fut, E>(ctx: ShardContext<R, P>, running: Running, main: F) -> Result<(), E>
where
    R: Host,
    P: MeshProtocol,
    F: FnOnce(ShardContext<R, P>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let Running { holder, none } = running;
    let result = main(ctx.clone()).await;
    if result.is_err() {
        ctx.shutdown.request();
    }
    drop(holder);
    none.opened().await;
    // Ends the task that waits for a request that will not come.
    ctx.shutdown.request();
    ctx.mesh.close();
    // Those whose calls failed just now, and the mesh's own tasks, are queued before these: they get to see it.
    for group in TaskGroup::ALL {
        ctx.runtime.spawn(group, "shard-close", async {}).await;
    }
    result
}
