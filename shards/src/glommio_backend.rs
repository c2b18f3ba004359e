//! Shards on glommio: a thread pinned to each chosen core, an executor on it.

use crate::context::{Running, ShardContext, run_main};
use crate::mesh::link::{LinkReceiver, LinkSender};
use crate::mesh::ring::{RingReceiver, RingSender, ring};
use crate::mesh::{MeshProtocol, Pace, Packet, RING_CAPACITY};
use crate::panics::AbortOnPanic;
use crate::shutdown::{Latch, Shutdown, ShutdownHandle};
use crate::{CoreError, CoreSelection, ShardId, mesh, signals};
use coreline_io::uring::{UringOptions, UringRuntime, io_memory_per_shard};
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use std::sync::mpsc;
use std::time::Duration;

/// How to start the shards.
#[derive(Clone, Debug)]
pub struct ShardsOptions {
    /// Which cores; one shard each.
    pub cores: CoreSelection,
    /// How long a shard with nothing to do spins before it sleeps. None: not at all, an idle shard costs nothing. On
    /// cores that do nothing else, some 50 µs make a hop between shards ten times as quick.
    pub spin: Option<Duration>,
    /// Bytes registered with each executor's rings for direct I/O. None: what the limit of locked memory allows.
    pub io_memory: Option<usize>,
    /// Entries of each executor's submission rings.
    pub ring_depth: usize,
    /// Asks all shards to stop; make one beforehand to be able to ask from outside.
    pub shutdown: ShutdownHandle,
    /// For each shard's runtime.
    pub runtime: UringOptions,
}

impl Default for ShardsOptions {
    fn default() -> Self {
        Self {
            cores: CoreSelection::All,
            spin: None,
            io_memory: None,
            ring_depth: 128,
            shutdown: ShutdownHandle::new(),
            runtime: UringOptions::default(),
        }
    }
}

/// Why shards did not start, or with what they ended.
#[derive(Debug, thiserror::Error)]
pub enum ShardsError<E> {
    /// The cores cannot be had.
    #[error(transparent)]
    Cores(#[from] CoreError),
    /// The system gave no thread.
    #[error("shard {shard} on core {core}: no thread: {cause}")]
    Thread {
        /// Which shard.
        shard: ShardId,
        /// On which core.
        core: usize,
        /// The system's word.
        cause: std::io::Error,
    },
    /// glommio could not start an executor.
    #[error("shard {shard} on core {core}: the executor did not start: {cause}")]
    Executor {
        /// Which shard.
        shard: ShardId,
        /// On which core.
        core: usize,
        /// glommio's word.
        cause: String,
    },
    /// The main of a shard returned an error; the other shards were asked to stop and did.
    #[error("shard {shard}: {error}")]
    Main {
        /// The first shard, by number, whose main failed.
        shard: ShardId,
        /// What it said.
        error: E,
    },
}

/// Runs `main` on a shard for each core and blocks until all have returned.
///
/// An error of one main asks the others to stop, and is returned. A panic on a shard's thread aborts the process.
/// Signals that end a process are kept off the shards' threads; see [`crate::signals::on_terminate`].
pub fn run<P, F, Fut, E>(options: ShardsOptions, main: F) -> Result<(), ShardsError<E>>
where
    P: MeshProtocol,
    F: Fn(ShardContext<UringRuntime, P>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Result<(), E>> + 'static,
    E: Send + 'static,
{
    let cores = options.cores.resolve()?;
    let io_memory = options.io_memory.unwrap_or_else(|| io_memory_per_shard(cores.len()));
    let (holder, none) = Latch::new();
    let (report, reports) = mpsc::channel();
    let mut seeds = Vec::with_capacity(cores.len());
    let mut threads = Vec::with_capacity(cores.len());
    let mut failed = None;
    for ((index, &core), ends) in cores.iter().enumerate().zip(rings::<P>(cores.len())) {
        let shard = ShardId::from_index(index);
        let running = Running { holder: holder.clone(), none: none.clone() };
        let (go, may_go) = mpsc::channel();
        let (options, main, report) = (options.clone(), main.clone(), report.clone());
        let thread = std::thread::Builder::new().name(format!("coreline-shard-{shard}")).spawn(move || {
            let _abort = AbortOnPanic;
            signals::block_in_this_thread();
            let executor = match executor(shard, core, io_memory, &options) {
                Ok(executor) => executor,
                Err(error) => {
                    let _ = report.send(Some(error));
                    return Ok(());
                }
            };
            let _ = report.send(None);
            // Not before all have an executor: who waited for a peer that never comes would wait for ever.
            if may_go.recv().is_err() {
                return Ok(());
            }
            executor.run(shard_main(shard, ends, running, options, main))
        });
        match thread {
            Ok(thread) => threads.push((shard, thread)),
            Err(cause) => {
                failed = Some(ShardsError::Thread { shard, core, cause });
                break;
            }
        }
        seeds.push(go);
    }
    drop((holder, none));
    for report in reports.iter().take(threads.len()) {
        failed = failed.or_else(|| report.map(|(shard, core, cause)| ShardsError::Executor { shard, core, cause }));
    }
    if failed.is_none() {
        for go in &seeds {
            let _ = go.send(());
        }
    }
    drop(seeds);
    for (shard, thread) in threads {
        let result = thread.join().expect("a shard that panics aborts the process");
        if let Err(error) = result {
            failed = failed.or(Some(ShardsError::Main { shard, error }));
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Long, because a preemption timer that ends before the first task of a round has run makes the executor sleep with
/// tasks ready. The runtime has slices of its own (`coreline-io`, `uring/slice.rs`).
const PREEMPT_TIMER: Duration = Duration::from_secs(10);

type StartFailure = (ShardId, usize, String);

fn executor(
    shard: ShardId,
    core: usize,
    io_memory: usize,
    options: &ShardsOptions,
) -> Result<LocalExecutor, StartFailure> {
    let mut builder = LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(&format!("coreline-shard-{shard}"))
        .io_memory(io_memory)
        .ring_depth(options.ring_depth)
        .preempt_timer(PREEMPT_TIMER);
    if let Some(spin) = options.spin {
        builder = builder.spin_before_park(spin);
    }
    builder.make().map_err(|cause| (shard, core, cause.to_string()))
}

async fn shard_main<P, F, Fut, E>(
    shard: ShardId,
    ends: Vec<Option<Ends<P>>>,
    running: Running,
    options: ShardsOptions,
    main: F,
) -> Result<(), E>
where
    P: MeshProtocol,
    F: Fn(ShardContext<UringRuntime, P>) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let runtime = UringRuntime::new(options.runtime.clone());
    let attended = async {
        let shards = ends.len();
        let links = ends.into_iter().map(|ends| {
            let (sender, receiver) = ends?;
            Some((LinkSender::Ring(sender), LinkReceiver::Ring(receiver)))
        });
        let links = links.collect();
        let mesh = mesh::start(&runtime, shard, links, Pace::Real);
        let shutdown = Shutdown::start(&runtime, options.shutdown);
        let context = ShardContext { shard, shards, runtime: runtime.clone(), mesh, shutdown };
        run_main(context, running, main).await
    };
    let result = runtime.attend(attended).await;
    // What tasks still hold, listening sockets above all, must not outlive the shard.
    runtime.finish().await;
    result
}

/// The ends, on one shard, of the two rings between it and a peer.
type Ends<P> = (RingSender<Packet<P>>, RingReceiver<Packet<P>>);

/// For each shard its ends of the rings to each other shard, None for itself.
fn rings<P: MeshProtocol>(count: usize) -> Vec<Vec<Option<Ends<P>>>> {
    let mut receivers: Vec<Vec<_>> = (0..count).map(|_| Vec::with_capacity(count)).collect();
    let mut senders: Vec<Vec<_>> = (0..count).map(|_| Vec::with_capacity(count)).collect();
    for (from, senders) in senders.iter_mut().enumerate() {
        for (to, receivers) in receivers.iter_mut().enumerate() {
            let (sender, receiver) = (from != to).then(|| ring(RING_CAPACITY)).unzip();
            senders.push(sender);
            receivers.push(receiver);
        }
    }
    // `senders[shard]` is in the order of peers, and so is `receivers[shard]`, which was filled in the order of `from`.
    let mut ends = Vec::with_capacity(count);
    for (senders, receivers) in senders.into_iter().zip(receivers) {
        ends.push(senders.into_iter().zip(receivers).map(|(sender, receiver)| Some((sender?, receiver?))).collect());
    }
    ends
}
