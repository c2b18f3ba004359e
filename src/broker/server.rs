//! A node: how its shards start, serve and stop. The same code runs on glommio and in the simulator.
//!
//! ```text
//! shard 0: lock the data directory → load the metadata → (other shard count: drain all journals, place anew)
//!          → bind → tell the others: Start(image, port) → open own log → all ready → register → tell: Serve
//! others:  wait for Start → open own log → answer → wait for Serve
//! all:     accept until asked to stop → stop accepting, finish what is under way → flush and close the log
//! ```

use super::balancing;
use super::connection::ConnectionLimits;
use super::controller::{Controller, ControllerError, apply_image};
use super::core_nodes::CoreNodes;
use super::fatal::{ExitReason, FatalHandler};
use super::frames::RequestMemory;
use super::handlers::Handlers;
use super::latency::Latencies;
use super::listener::{self, ConnectionCount, ListenerOptions};
use super::messages::{BrokerMesh, Event, Reply, Request};
use super::metadata::ControllerHandle;
use super::metrics::endpoint::Endpoint as Metrics;
use super::metrics::{Meters, ProcessUsage};
use super::moving::{Arrivals, Steer, SteerCounts};
use super::passage::Passage;
use super::relocation;
use super::shard::{Shard, topic_config};
use super::steering::SteeringRules;
use super::store::{LogStore, PartitionSpec, StoreError, StoreOptions};
use crate::config::BrokerConfig;
use crate::controller::balance::BalanceRules;
use crate::controller::{ClusterImage, Command, Outcome};
use crate::ids::{BrokerId, PartitionId};
use coreline_io::sync::{OneshotReceiver, OneshotSender, Semaphore, oneshot};
use coreline_io::{IoError, IoErrorKind, IoResult, ListenOptions, Listener as _, Net, Runtime, TaskGroup};
use coreline_shards::{Blocking, MeshHandler, ReplyTo, ShardContext, ShardId};
use futures_util::future::LocalBoxFuture;
use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Journal files a shard's journal is made of: one is written, the others are being flushed or wait.
const JOURNAL_FILES: usize = 4;

/// Why a node did not start or did not go on; the process ends with the reason's code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ServerError {
    /// The exit code.
    pub reason: ExitReason,
    /// What happened and what to do.
    pub message: String,
}

impl ServerError {
    fn new(reason: ExitReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a node tells when it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Where clients connect.
    pub address: SocketAddr,
    /// How many shards serve.
    pub shards: usize,
    /// The cluster's id.
    pub cluster_id: String,
    /// Where metrics can be scraped.
    pub metrics: Option<SocketAddr>,
}

/// A node, as each of its shards sees it.
#[derive(Clone)]
pub struct Node {
    /// What it was started with.
    pub config: Arc<BrokerConfig>,
    /// How it ends when it must.
    pub fatal: FatalHandler,
    /// Called once, on shard 0, when all shards accept connections.
    pub on_ready: Arc<dyn Fn(&Ready) + Send + Sync>,
    /// Changes the stores' settings beyond what the configuration knows: simulations are smaller than any broker.
    pub tune_store: Option<StoreTuning>,
    /// Threads for what would hold a core; by default the caller's own, which suits simulations.
    pub helpers: Blocking,
    /// When connections move between shards; none: never.
    pub steering: Option<SteeringRules>,
    /// When partitions move between shards by themselves; none: never.
    pub balance: Option<BalanceRules>,
    /// What the process needs, for metrics; none in a simulation.
    pub process: Option<fn() -> ProcessUsage>,
    connections: ConnectionCount,
}

/// See [`Node::tune_store`].
pub type StoreTuning = Arc<dyn Fn(&mut StoreOptions) + Send + Sync>;

impl Node {
    /// A node that has not started yet.
    #[must_use]
    pub fn new(config: Arc<BrokerConfig>, fatal: FatalHandler, on_ready: Arc<dyn Fn(&Ready) + Send + Sync>) -> Self {
        let connections = ConnectionCount::new(config.connections_max);
        let steering = config.steering.then(SteeringRules::default);
        let balance = config.balance.map(BalanceRules::new);
        let (tune_store, helpers, process) = (None, Blocking::inline(), None);
        Self { config, fatal, on_ready, tune_store, helpers, steering, balance, process, connections }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The main of every shard: returns when the node was asked to stop and this shard's log is flushed.
///
/// # Errors
/// What keeps the node from starting; all shards stop then.
pub async fn run_shard<R: Runtime>(ctx: ShardContext<R, BrokerMesh>, node: Node) -> Result<(), ServerError> {
    let (start, started) = oneshot();
    let (serve, served) = oneshot();
    let door = Rc::new(Door {
        runtime: ctx.runtime.clone(),
        handlers: OnceCell::new(),
        start: RefCell::new(Some(start)),
        serve: RefCell::new(Some(serve)),
        arrivals: Rc::default(),
    });
    ctx.mesh.serve(door.clone());
    if ctx.shard == ShardId(0) { lead(ctx, node, &door).await } else { follow(ctx, node, &door, started, served).await }
}

/// A `Start` on its way from the mesh's handler to the shard's main.
struct Start {
    image: Arc<ClusterImage>,
    port: u16,
    reply: ReplyTo<BrokerMesh>,
}

/// Takes what other shards send: before the shard is there, only `Start`.
struct Door<R: Runtime> {
    runtime: R,
    handlers: OnceCell<Rc<Handlers<R>>>,
    start: RefCell<Option<OneshotSender<Start>>>,
    serve: RefCell<Option<OneshotSender<()>>>,
    arrivals: Rc<Arrivals>,
}

impl<R: Runtime> Door<R> {
    fn open(&self, shard: &Rc<Shard<R>>) -> Rc<Handlers<R>> {
        let handlers = Handlers::new(shard.clone());
        assert!(self.handlers.set(handlers.clone()).is_ok(), "a shard opens once");
        handlers
    }
}

impl<R: Runtime> MeshHandler<BrokerMesh> for Door<R> {
    fn on_request(&self, _from: ShardId, request: Request, reply: ReplyTo<BrokerMesh>) {
        match (request, self.handlers.get()) {
            (Request::Start { image, port }, _) => {
                if let Some(start) = self.start.borrow_mut().take() {
                    start.send(Start { image, port, reply });
                }
            }
            (Request::Serve, _) => {
                if let Some(serve) = self.serve.borrow_mut().take() {
                    serve.send(());
                }
                reply.send(Reply::Done);
            }
            (Request::Publish(image), Some(handlers)) => {
                let shard = handlers.shard().clone();
                self.runtime.spawn(TaskGroup::Requests, "publish", async move {
                    obey(&shard, image).await;
                    reply.send(Reply::Done);
                });
            }
            (Request::Submit(command), Some(handlers)) => {
                let controller = handlers.shard().controller.clone();
                self.runtime.spawn(TaskGroup::Requests, "submit", async move {
                    reply.send(Reply::Submitted(controller.submit(command).await));
                });
            }
            (Request::Move { partition, to }, Some(handlers)) => {
                let shard = handlers.shard().clone();
                self.runtime.spawn(TaskGroup::Requests, "lead a move", async move {
                    let moved = relocation::lead(&shard, partition, to).await;
                    reply.send(Reply::Submitted(Ok(Outcome::Moved(moved))));
                });
            }
            (Request::Step(step), Some(handlers)) => {
                let handlers = handlers.clone();
                self.runtime.spawn(TaskGroup::Requests, "step of a move", async move {
                    reply.send(Reply::Stepped(handlers.step(step).await));
                });
            }
            (Request::LogSizes(ids), Some(handlers)) => {
                let shard = handlers.shard().clone();
                self.runtime.spawn(TaskGroup::Requests, "log sizes", async move {
                    reply.send(Reply::LogSizes(shard.log_sizes(ids).await));
                });
            }
            (Request::Activity, Some(handlers)) => {
                reply.send(Reply::Activity(handlers.shard().store.take_activity()));
            }
            (Request::Latencies { span, slowest }, Some(handlers)) => {
                reply.send(Reply::Latencies(handlers.shard().latencies.snapshot(span, slowest, self.runtime.now())));
            }
            (Request::Report, Some(handlers)) => {
                let handlers = handlers.clone();
                self.runtime.spawn(TaskGroup::Background, "metrics", async move {
                    reply.send(Reply::Report(Box::new(handlers.report().await)));
                });
            }
            (Request::Data(ask), Some(handlers)) => handlers.on_ask(ask, reply),
            // Dropping the reply tells the caller that nobody is here.
            (_, None) => drop(reply),
        }
    }

    fn on_event(&self, from: ShardId, event: Event) {
        match (event, self.handlers.get()) {
            (Event::Connection(moving), _) => self.arrivals.push(moving),
            (event, Some(handlers)) => handlers.on_event(from, event),
            (_, None) => {}
        }
    }
}

/// The log obeys the image, then the handlers see it.
async fn obey<R: Runtime>(shard: &Rc<Shard<R>>, image: Arc<ClusterImage>) {
    let old = shard.image();
    if image.index <= old.index {
        return;
    }
    apply_image(&shard.runtime, &shard.store, &shard.config, shard.id, &old, &image).await;
    shard.controller.publish(image);
}

/// Makes the data directory, and its own name durable: else a power loss on the first day takes all of it.
async fn make_data_dir<R: Runtime>(rt: &R, dir: &Path) -> IoResult<()> {
    let above = |dir: &Path| match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Some(PathBuf::from(".")),
        parent => parent.map(Path::to_path_buf),
    };
    // The parent always: an earlier process may have ended between the two.
    let mut parents: Vec<PathBuf> = above(dir).into_iter().collect();
    while let Some(parent) = parents.last() {
        if rt.list_dir(parent).await.map_err(|e| e.kind) != Err(IoErrorKind::NotFound) {
            break;
        }
        let Some(next) = above(parent) else { break };
        parents.push(next);
    }
    rt.create_dir_all(dir).await?;
    for parent in parents.iter().rev() {
        match rt.sync_dir(parent).await {
            // Whoever made a directory where we may not look has made it durable, too.
            Err(e) if e.kind == IoErrorKind::PermissionDenied => {}
            result => result?,
        }
    }
    Ok(())
}

async fn lead<R: Runtime>(ctx: ShardContext<R, BrokerMesh>, node: Node, door: &Rc<Door<R>>) -> Result<(), ServerError> {
    let rt = &ctx.runtime;
    let config = &node.config;
    make_data_dir(rt, &config.data_dir).await.map_err(|e| data_dir_error(config, &e))?;
    let _lock = rt.try_lock(&config.data_dir.join(".lock")).map_err(|e| data_dir_error(config, &e))?;
    let (controller, handle) = Controller::open(rt.clone(), config.clone(), node.fatal.clone())
        .await
        .map_err(|e| controller_error(config, &e))?;
    settle_shards(&ctx, &node, &handle).await?;
    let port = probe_port(&ctx, config).await?;
    let image = handle.image();
    let mut starting = Vec::new();
    for other in ShardId::all(ctx.shards).skip(1) {
        let Ok(permit) = ctx.mesh.reserve(other).await else { return stopped_early(&ctx) };
        starting.push(permit.call(Request::Start { image: image.clone(), port }));
    }
    let shard = open(&ctx, &node, handle).await?;
    let handlers = door.open(&shard);
    for answer in starting {
        match answer.await {
            Ok(Reply::Done) => {}
            Ok(Reply::Failed { reason, message }) => return Err(ServerError::new(reason, message)),
            Err(_) => {
                stopped_early(&ctx)?;
                return close(&shard).await;
            }
            Ok(other) => unreachable!("Start is answered with Done or Failed, not {other:?}"),
        }
    }
    // The shard holds the controller: not the other way round, too.
    let local = Rc::downgrade(&shard);
    controller.run(
        ctx.mesh.clone(),
        Rc::new(move |image| {
            let shard = local.upgrade();
            Box::pin(async move {
                if let Some(shard) = shard {
                    obey(&shard, image).await;
                }
            })
        }),
    );
    let listener = bind(&ctx, config, port).await?;
    let address = listener.0.local_addr();
    let metrics = bind_metrics(&ctx, config).await?;
    register(&shard, config, address.port()).await?;
    if all_serve(&ctx).await? {
        let cluster_id = shard.image().cluster_id.clone();
        let ready =
            Ready { address, shards: ctx.shards, cluster_id, metrics: metrics.as_ref().map(|l| l.local_addr()) };
        if let Some(listener) = metrics {
            let metrics = Metrics::new(handlers.clone(), node.helpers.clone(), node.process);
            let stop = ctx.shutdown.clone();
            rt.spawn(TaskGroup::Background, "metrics listener", async move {
                let (serving, stopped) = (metrics.serve(listener), stop.requested());
                futures_util::future::select(std::pin::pin!(serving), std::pin::pin!(stopped)).await;
            });
        }
        if let Some(rules) = node.balance.clone() {
            let shard = shard.clone();
            rt.spawn(TaskGroup::Background, "balance", async move {
                let stop = shard.shutdown.clone();
                let (balancing, stopped) = (balancing::run(shard, rules), stop.requested());
                futures_util::future::select(std::pin::pin!(balancing), std::pin::pin!(stopped)).await;
            });
        }
        let on_ready = node.on_ready.clone();
        rt.spawn(TaskGroup::Requests, "ready", async move { on_ready(&ready) });
        accept(&ctx, &node, handlers, listener, door.arrivals.clone()).await;
    }
    close(&shard).await?;
    controller.shutdown().await;
    Ok(())
}

async fn follow<R: Runtime>(
    ctx: ShardContext<R, BrokerMesh>,
    node: Node,
    door: &Rc<Door<R>>,
    started: OneshotReceiver<Start>,
    served: OneshotReceiver<()>,
) -> Result<(), ServerError> {
    let Some(Some(start)) = unless_stopped(&ctx, started).await else { return Ok(()) };
    let handle = ControllerHandle::remote(start.image, ctx.mesh.clone());
    let opened = match open(&ctx, &node, handle).await {
        Ok(shard) => bind(&ctx, &node.config, start.port).await.map(|listener| (shard, listener)),
        Err(e) => Err(e),
    };
    let (shard, listener) = match opened {
        Ok(opened) => opened,
        Err(e) => {
            let message = format!("shard {}: {e}", ctx.shard);
            start.reply.send(Reply::Failed { reason: e.reason, message });
            return Err(e);
        }
    };
    let handlers = door.open(&shard);
    start.reply.send(Reply::Done);
    if unless_stopped(&ctx, served).await.is_some() {
        accept(&ctx, &node, handlers, listener, door.arrivals.clone()).await;
    }
    close(&shard).await
}

/// A node stops within two seconds: half of one for requests under way, and this to bring records to their segments.
const FLUSH_AT_STOP: Duration = Duration::from_millis(1200);

/// Scrapes that the kernel holds before they are accepted.
const METRICS_BACKLOG: u32 = 16;

/// Memory for requests, a shard, where `queued.max.request.bytes` is not set.
const REQUEST_MEMORY: usize = 64 << 20;

/// Accepts connections until the node is asked to stop.
async fn accept<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    node: &Node,
    handlers: Rc<Handlers<R>>,
    listener: Listeners<R>,
    arrivals: Rc<Arrivals>,
) {
    let config = &node.config;
    let memory = config.queued_request_bytes.map_or(REQUEST_MEMORY, |all| all.div_ceil(ctx.shards));
    let (memory, latencies) = (RequestMemory::new(memory), Rc::clone(&handlers.shard().latencies));
    let meters = Rc::clone(&handlers.shard().meters);
    let limits = ConnectionLimits { request_bytes_max: config.request_bytes_max, memory, latencies, meters };
    let idle = config.connection_idle_ms.map(Duration::from_millis);
    let steer = steer(ctx, node, arrivals);
    steer.iter().for_each(|steer| handlers.shard().meters.steered_by(steer.clone()));
    let options = ListenerOptions { limits, idle, count: node.connections.clone(), steer: steer.clone() };
    listener::serve(ctx.runtime.clone(), listener, handlers, options, ctx.shutdown.requested()).await;
    if let Some(steer) = steer {
        let SteerCounts { local, crossed, left, came } = steer.counts();
        tracing::info!(
            shard = %ctx.shard,
            "requests for partitions of this core only: {local}, of other cores: {crossed}; \
             connections that moved to another core: {left}, from another core: {came}"
        );
    }
}

/// How connections leave this shard; none if they never do.
fn steer<R: Runtime>(ctx: &ShardContext<R, BrokerMesh>, node: &Node, arrivals: Rc<Arrivals>) -> Option<Rc<Steer>> {
    let rules = node.steering.clone().filter(|_| ctx.shards > 1)?;
    let mesh = ctx.mesh.clone();
    let post = Box::new(move |to, moving| -> LocalBoxFuture<'static, ()> {
        let mesh = mesh.clone();
        Box::pin(async move {
            // A closed mesh: the node stops, and closes its connections.
            let _ = mesh.post(to, Event::Connection(moving)).await;
        })
    });
    Some(Steer::new(ctx.shard, rules, ctx.runtime.now(), arrivals, post))
}

async fn close<R: Runtime>(shard: &Rc<Shard<R>>) -> Result<(), ServerError> {
    shard.store.shutdown_within(FLUSH_AT_STOP).await.map_err(|e| store_error(&e))
}

/// The future's value, or none if the node is asked to stop first.
async fn unless_stopped<R, T>(ctx: &ShardContext<R, BrokerMesh>, future: impl Future<Output = T>) -> Option<T> {
    let stop = std::pin::pin!(ctx.shutdown.requested());
    match futures_util::future::select(std::pin::pin!(future), stop).await {
        futures_util::future::Either::Left((value, _)) => Some(value),
        futures_util::future::Either::Right(_) => None,
    }
}

/// Gives every partition a shard when the count has changed: the journals of the old shards are emptied first, since
/// after the change another shard owns what is in them.
async fn settle_shards<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    node: &Node,
    handle: &ControllerHandle,
) -> Result<(), ServerError> {
    let image = handle.image();
    let shards = u16::try_from(ctx.shards).expect("at most 65,536 shards");
    if image.shards == shards {
        return Ok(());
    }
    if image.shards != 0 {
        tracing::info!(from = image.shards, to = shards, "the number of shards has changed: emptying all journals");
        let options = store_options(ctx, node);
        let spec = |id: PartitionId| spec_of(&node.config, &image, id);
        let drained = LogStore::drain_journals(&ctx.runtime, &options, &spec).await;
        drained.map_err(|e| store_error(&e))?;
    }
    let placed = handle.submit(Command::ChangeShards { shards }).await;
    placed.map(drop).map_err(|e| ServerError::new(ExitReason::Damaged, format!("placing partitions: {e}")))
}

fn spec_of(config: &BrokerConfig, image: &ClusterImage, id: PartitionId) -> Option<PartitionSpec> {
    let topic = image.topic_by_id(id.topic)?;
    let partition = topic.partition(id.index.0)?;
    let (log, _) = topic_config(config, image, topic);
    Some(PartitionSpec { id, topic: topic.name.clone(), leader_epoch: partition.leader_epoch, config: Arc::new(log) })
}

fn store_options<R: Runtime>(ctx: &ShardContext<R, BrokerMesh>, node: &Node) -> StoreOptions {
    let config = &node.config;
    let fatal = node.fatal.clone();
    let hook = Rc::new(move |reason: super::store::FatalReason, message: String| fatal(reason.into(), &message));
    let mut options = StoreOptions {
        journal_files: JOURNAL_FILES,
        journal_file_bytes: config.journal_bytes / JOURNAL_FILES as u64,
        recovery_max: config.recovery_max,
        unflushed_bytes_max: config.unflushed_bytes,
        cache_bytes_max: config.cache_bytes,
        open_files_max: config.open_files,
        producer_id_expiration_ms: config.producer_id_expiration_ms,
        retention_check_interval: config.retention_check_interval,
        helpers: node.helpers.clone(),
        ..StoreOptions::new(&config.data_dir, ctx.shard.0, hook)
    };
    if let Some(tune) = &node.tune_store {
        tune(&mut options);
    }
    options
}

async fn open<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    node: &Node,
    controller: ControllerHandle,
) -> Result<Rc<Shard<R>>, ServerError> {
    let cores = core_nodes(ctx, &node.config)?;
    let store = LogStore::open(ctx.runtime.clone(), store_options(ctx, node)).await.map_err(|e| store_error(&e))?;
    let image = controller.image();
    apply_image(&ctx.runtime, &store, &node.config, ctx.shard, &ClusterImage::default(), &image).await;
    store.assignments_complete();
    store.count_activity(node.balance.is_some());
    let latencies = Rc::new(Latencies::new(ctx.shard.0));
    latencies.stamp(node.config.latency);
    Ok(Rc::new(Shard {
        runtime: ctx.runtime.clone(),
        id: ctx.shard,
        shards: ctx.shards,
        config: node.config.clone(),
        store,
        mesh: ctx.mesh.clone(),
        controller,
        cores,
        shutdown: ctx.shutdown.clone(),
        latencies,
        meters: Rc::<Meters>::default(),
        passage: Passage::default(),
        moves: Semaphore::new(1),
    }))
}

/// The address to bind; a name is resolved to what the host says first.
fn address(config: &BrokerConfig, port: u16) -> Result<SocketAddr, ServerError> {
    resolve("listeners", &config.listener.host, port)
}

fn resolve(key: &str, host: &str, port: u16) -> Result<SocketAddr, ServerError> {
    use std::net::ToSocketAddrs;
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    let invalid = |what: String| ServerError::new(ExitReason::Listen, format!("{key}: {host}: {what}"));
    let mut found = (host, port).to_socket_addrs().map_err(|e| invalid(e.to_string()))?;
    found.next().ok_or_else(|| invalid("the name has no address".to_owned()))
}

/// Binds without sharing, to see that the port is ours alone, and learns it where 0 was asked for.
async fn probe_port<R: Runtime>(ctx: &ShardContext<R, BrokerMesh>, config: &BrokerConfig) -> Result<u16, ServerError> {
    let wanted = address(config, config.listener.port)?;
    let options = ListenOptions { reuse_port: false, backlog: 1 };
    let listener = ctx.runtime.listen(wanted, options).await.map_err(|e| listen_error(wanted, &e))?;
    Ok(listener.local_addr().port())
}

async fn bind<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    config: &BrokerConfig,
    port: u16,
) -> Result<Listeners<R>, ServerError> {
    let listen = async |wanted, reuse_port| {
        ctx.runtime.listen(wanted, ListenOptions { reuse_port, backlog: config.listen_backlog }).await
    };
    let wanted = address(config, port)?;
    let shared = listen(wanted, true).await.map_err(|e| listen_error(wanted, &e))?;
    let Some(cores) = core_nodes(ctx, config)? else { return Ok((shared, None)) };
    let wanted = address(config, cores.port(ctx.shard.0))?;
    // Not shared: what another process has there would take half of this core's connections.
    let own = listen(wanted, false).await.map_err(|e| {
        let message = format!("the port of core {} by coreline.core.port, {wanted}: {e}", ctx.shard);
        ServerError::new(ExitReason::Listen, message)
    })?;
    Ok((shared, Some((own, ctx.shard))))
}

/// The listener that all shards share, and this core's own.
type Listeners<R> = (<R as Net>::Listener, Option<(<R as Net>::Listener, ShardId)>);

fn core_nodes<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    config: &BrokerConfig,
) -> Result<Option<CoreNodes>, ServerError> {
    CoreNodes::of(config, ctx.shards).map_err(|message| ServerError::new(ExitReason::Configuration, message))
}

async fn bind_metrics<R: Runtime>(
    ctx: &ShardContext<R, BrokerMesh>,
    config: &BrokerConfig,
) -> Result<Option<R::Listener>, ServerError> {
    let key = "coreline.metrics.listener";
    let Some(endpoint) = &config.metrics_listener else { return Ok(None) };
    let wanted = resolve(key, &endpoint.host, endpoint.port)?;
    let options = ListenOptions { reuse_port: false, backlog: METRICS_BACKLOG };
    let bound = ctx.runtime.listen(wanted, options).await;
    let refused = |e: IoError| ServerError::new(ExitReason::Listen, format!("{key}: cannot listen on {wanted}: {e}"));
    bound.map(Some).map_err(refused)
}

async fn register<R: Runtime>(shard: &Rc<Shard<R>>, config: &BrokerConfig, port: u16) -> Result<(), ServerError> {
    let advertised = config.advertised(port);
    let id = BrokerId(config.node_id);
    let command = Command::RegisterBroker { id, host: advertised.host, port: advertised.port };
    let registered = shard.controller.submit(command).await;
    registered.map(drop).map_err(|e| ServerError::new(ExitReason::Damaged, format!("registering this node: {e}")))
}

/// Tells the other shards to serve. False: the node was asked to stop meanwhile.
async fn all_serve<R: Runtime>(ctx: &ShardContext<R, BrokerMesh>) -> Result<bool, ServerError> {
    for other in ShardId::all(ctx.shards).skip(1) {
        if ctx.mesh.call(other, Request::Serve).await.is_err() {
            return stopped_early(ctx).map(|()| false);
        }
    }
    Ok(true)
}

/// Another shard has ended: at once, where the node was asked to stop; that is no error.
fn stopped_early<R: Runtime>(ctx: &ShardContext<R, BrokerMesh>) -> Result<(), ServerError> {
    if ctx.shutdown.is_requested() {
        return Ok(());
    }
    Err(ServerError::new(ExitReason::Shard, "another shard stopped while the node was starting"))
}

fn controller_error(config: &BrokerConfig, error: &ControllerError) -> ServerError {
    match error {
        ControllerError::Foreign(what) => ServerError::new(
            ExitReason::DataDirectory,
            format!("{what}; start with that node.id, or choose another directory with --override log.dirs=DIR"),
        ),
        ControllerError::Io(error) => data_dir_error(config, error),
        ControllerError::Damaged(_) => ServerError::new(ExitReason::Damaged, error.to_string()),
    }
}

fn store_error(error: &StoreError) -> ServerError {
    ServerError::new(ExitReason::Damaged, format!("the log does not open: {error}"))
}

fn listen_error(address: SocketAddr, error: &IoError) -> ServerError {
    let message = match error.kind {
        IoErrorKind::AddrInUse => format!(
            "{address} is in use by another process; stop it (ss -ltnp 'sport = :{}' names it) or choose another \
             address with --override listeners=PLAINTEXT://HOST:PORT",
            address.port()
        ),
        IoErrorKind::PermissionDenied => {
            format!("{address}: not allowed to listen there (ports below 1024 need CAP_NET_BIND_SERVICE)")
        }
        _ => format!("cannot listen on {address}: {error}"),
    };
    ServerError::new(ExitReason::Listen, message)
}

fn data_dir_error(config: &BrokerConfig, error: &IoError) -> ServerError {
    let dir = config.data_dir.display();
    match error.kind {
        IoErrorKind::Locked => ServerError::new(
            ExitReason::Locked,
            format!(
                "data directory {dir} is in use by another process; stop it, or choose another directory with --override log.dirs=DIR"
            ),
        ),
        IoErrorKind::PermissionDenied => ServerError::new(
            ExitReason::DataDirectory,
            format!(
                "data directory {dir} is not writable by this user; change its owner or choose another with --override log.dirs=DIR"
            ),
        ),
        _ => ServerError::new(ExitReason::DataDirectory, format!("data directory {dir}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreline_io::sim::{DiskOp, SimOptions, SimWorld};
    use coreline_shards::sim::start;

    fn config() -> Arc<BrokerConfig> {
        let settings = [("listeners", "PLAINTEXT://10.0.0.1:9092"), ("log.dirs", "/data/coreline")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let mut config = BrokerConfig::from_settings(settings).expect("valid settings");
        config.journal_bytes = 16 << 20;
        Arc::new(config)
    }

    /// What a node holds goes with its tasks, however it ends: a simulation starts thousands.
    #[test]
    fn a_node_that_ended_holds_nothing() {
        for crash in [false, true] {
            let world = SimWorld::new(1, SimOptions::default());
            let machine = world.node("broker");
            let (ready, when_ready) = flume::bounded(1);
            let on_ready = Arc::new(move |_: &Ready| ready.send(()).expect("somebody waits"));
            let fatal: FatalHandler = Arc::new(|reason, message| panic!("{reason:?}: {message}"));
            let node = Node::new(config(), fatal.clone(), on_ready);
            let shards = start::<BrokerMesh, _, _, _>(&machine, 2, move |ctx| run_shard(ctx, node.clone()));
            world.block_on(async { when_ready.recv_async().await.expect("it gets ready") });
            if crash {
                machine.crash();
                drop(shards);
            } else {
                shards.shutdown.request();
                world.block_on(shards.join()).expect("stops");
                machine.crash();
            }
            assert_eq!(Arc::strong_count(&fatal), 1, "crash: {crash}");
        }
    }

    /// What the process would exit with depends on what is wrong, not on whose shard finds it.
    #[test]
    fn what_another_shard_cannot_read_ends_the_node_with_its_own_code() {
        let world = SimWorld::new(1, SimOptions::default());
        let machine = world.node("broker");
        let config = config();
        let run = |stop_when_ready: bool| {
            let (ready, when_ready) = flume::bounded(1);
            let on_ready = Arc::new(move |_: &Ready| ready.send(()).expect("somebody waits"));
            let fatal: FatalHandler = Arc::new(|reason, message| panic!("{reason:?}: {message}"));
            let node = Node::new(config.clone(), fatal, on_ready);
            let shards = start::<BrokerMesh, _, _, _>(&machine, 2, move |ctx| run_shard(ctx, node.clone()));
            world.block_on(async {
                if stop_when_ready {
                    when_ready.recv_async().await.expect("it gets ready");
                    shards.shutdown.request();
                }
                shards.join().await
            })
        };
        run(true).expect("starts and stops");
        machine.disk_faults(|f| f.fail_every(DiskOp::Read, "shard-0001/clean"));
        let error = run(false).expect_err("a shard's mark cannot be read").error;
        assert_eq!(error.reason, ExitReason::Damaged, "{error}");
        assert!(error.to_string().contains("shard-0001/clean"), "{error}");
    }
}
