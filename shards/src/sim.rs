//! The same shards inside one simulated node: one thread, every choice by the world's seed.

use crate::ShardId;
use crate::context::{Running, ShardContext, run_main};
use crate::mesh::{self, MeshProtocol, Pace, RING_CAPACITY, link::queue};
use crate::shutdown::{Latch, Shutdown, ShutdownHandle};
use coreline_io::sim::{SimNode, SimRuntime};
use coreline_io::{JoinHandle, TaskGroup, Tasks};

/// Shards that run in a simulated node.
#[derive(Debug)]
pub struct SimShards<E> {
    /// Asks all of them to stop.
    pub shutdown: ShutdownHandle,
    mains: Vec<JoinHandle<Result<(), E>>>,
}

/// The main of a shard returned an error; the others were asked to stop and did.
#[derive(Debug, thiserror::Error)]
#[error("shard {shard}: {error}")]
pub struct SimShardError<E> {
    /// The first shard, by number, whose main failed.
    pub shard: ShardId,
    /// What it said.
    pub error: E,
}

impl<E> SimShards<E> {
    /// Waits until every main has returned, and for ever if the node crashes before. Call it from outside of the node.
    pub async fn join(self) -> Result<(), SimShardError<E>> {
        let mut failed = None;
        for (index, main) in self.mains.into_iter().enumerate() {
            if let Err(error) = main.await {
                failed = failed.or(Some(SimShardError { shard: ShardId::from_index(index), error }));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// Starts `shards` shards in `node`, as [`crate::glommio_backend::run`] does on cores; a crash of the node drops them.
/// Packets of the mesh are delayed by the seed, in order.
pub fn start<P, F, Fut, E>(node: &SimNode, shards: usize, main: F) -> SimShards<E>
where
    P: MeshProtocol,
    F: Fn(ShardContext<SimRuntime, P>) -> Fut + Clone + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: 'static,
{
    assert!(shards > 0, "a node has at least one shard");
    let shutdown = ShutdownHandle::new();
    let (holder, none) = Latch::new();
    let mut senders: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    let mut receivers: Vec<Vec<_>> = (0..shards).map(|_| Vec::new()).collect();
    for (from, senders) in senders.iter_mut().enumerate() {
        for (to, receivers) in receivers.iter_mut().enumerate() {
            let (sender, receiver) = (from != to).then(|| queue(RING_CAPACITY)).unzip();
            senders.push(sender);
            receivers.push(receiver);
        }
    }
    let mut mains = Vec::with_capacity(shards);
    for (index, (senders, receivers)) in senders.into_iter().zip(receivers).enumerate() {
        let shard = ShardId::from_index(index);
        let runtime = node.runtime();
        let links = senders.into_iter().zip(receivers).map(|(sender, receiver)| sender.zip(receiver)).collect();
        let mesh = mesh::start(&runtime, shard, links, Pace::Seeded);
        let shutdown = Shutdown::start(&runtime, shutdown.clone());
        let running = Running { holder: holder.clone(), none: none.clone() };
        let ctx = ShardContext::<_, P> { shard, shards, runtime: runtime.clone(), mesh, shutdown };
        mains.push(runtime.spawn(TaskGroup::Requests, "shard-main", run_main(ctx, running, main.clone())));
    }
    SimShards { shutdown, mains }
}
