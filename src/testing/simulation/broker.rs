//! The broker's machine: the real server on simulated shards, started, stopped and watched.

use crate::scenario::{NUM_PARTITIONS_MAX, Scenario};
use crate::world::{World, fail};
use coreline::broker::fatal::ExitReason;
use coreline::broker::messages::BrokerMesh;
use coreline::broker::server::{Node, ServerError, run_shard};
use coreline::broker::steering::SteeringRules;
use coreline::broker::store::JournalSync;
use coreline::config::BrokerConfig;
use coreline::controller::balance::BalanceRules;
use coreline::log::log_config::Durability;
use coreline_io::sim::{CrashKind, NodeExit, SimNode, exit_node};
use coreline_shards::ShutdownHandle;
use coreline_shards::sim::{SimShardError, start};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

pub(crate) const PORT: u16 = 9092;
/// Files in the ring of a shard's journal.
const JOURNAL_FILES: usize = 4;
/// Virtual time from start to service; disk operations take tens of microseconds.
const START_MAX: Duration = Duration::from_secs(20);
/// Virtual time of a clean stop.
const STOP_MAX: Duration = Duration::from_secs(20);

type Ended = Rc<RefCell<Option<Result<(), SimShardError<ServerError>>>>>;

/// A process of the broker.
struct Process {
    shutdown: ShutdownHandle,
    ready: Arc<AtomicBool>,
    /// How its mains ended, once they have.
    ended: Ended,
}

/// The broker's machine.
pub(crate) struct Host {
    world: Rc<World>,
    node: SimNode,
    process: Option<Process>,
    /// Exit codes that the faults allow.
    pub(crate) may_exit_with: Vec<ExitReason>,
    /// The same, of a process that does not serve yet.
    pub(crate) may_not_start: Vec<ExitReason>,
    pub(crate) shards: usize,
}

fn config(scenario: &Scenario, shards: usize) -> BrokerConfig {
    let settings = [("listeners", format!("PLAINTEXT://10.0.0.1:{PORT}")), ("log.dirs", "/data/coreline".to_owned())];
    let few = [("offsets.topic.num.partitions", "3".to_owned()), ("group.initial.rebalance.delay.ms", "0".to_owned())];
    let few = few.into_iter().chain([("transaction.state.log.num.partitions", "3".to_owned())]);
    let cleaner = &scenario.cleaner;
    let cleaner = [
        ("log.cleaner.backoff.ms", cleaner.backoff_ms.to_string()),
        ("log.cleaner.dedupe.buffer.size", cleaner.dedupe_buffer_bytes.to_string()),
        ("log.cleaner.io.buffer.size", cleaner.io_buffer_bytes.to_string()),
    ];
    let settings = settings.into_iter().chain(few).chain(cleaner).map(|(key, value)| (key.to_owned(), value));
    let mut config = BrokerConfig::from_settings(settings).expect("valid settings");
    // Smaller than the table of keys allows, so that rings wrap and caches spill within a second.
    config.journal_bytes = scenario.journal_file_bytes * JOURNAL_FILES as u64;
    config.unflushed_bytes = scenario.unflushed_bytes;
    config.cache_bytes = scenario.cache_bytes;
    config.open_files = scenario.open_files;
    config.retention_check_interval = Duration::from_millis(scenario.cleaner.retention_check_ms);
    config.num_partitions = 1 + shards as i32 % NUM_PARTITIONS_MAX;
    config.durability = if scenario.written { Durability::Written } else { Durability::Durable };
    config.data_dir = PathBuf::from("/data/coreline");
    config
}

impl Host {
    pub(crate) fn new(world: &Rc<World>, node: SimNode) -> Self {
        let shards = world.scenario.shards;
        let (may_exit_with, may_not_start) = (Vec::new(), Vec::new());
        Self { world: world.clone(), node, process: None, may_exit_with, may_not_start, shards }
    }

    pub(crate) fn node(&self) -> &SimNode {
        &self.node
    }

    /// Starts a process; the machine must be up.
    pub(crate) fn start(&mut self) {
        let scenario = self.world.scenario.clone();
        self.world.trace(|| format!("broker starts with {} shards", self.shards));
        self.world.trace(|| format!("its files: {:?}", self.node.files()));
        let ready = Arc::new(AtomicBool::new(false));
        let is_ready = ready.clone();
        let (journal, flush_bytes, dsync) =
            (scenario.journal_file_bytes as usize, scenario.flush_bytes, scenario.dsync);
        let direct_bytes_min = scenario.direct_bytes_min;
        let markers_again = scenario.transactions.markers_again_us.map(Duration::from_micros);
        let mut node = Node::new(
            Arc::new(config(&scenario, self.shards)),
            Arc::new(|reason: ExitReason, message: &str| exit_node(i32::from(reason.code()), message)),
            Arc::new(move |_| is_ready.store(true, Ordering::Relaxed)),
        );
        node.tune_store = Some(Arc::new(move |options| {
            // A frame holds a group and what crosses its bound, doubled.
            options.group_bytes_max = journal / 4 - 8192;
            // Several slices a file, so that frames are written between them.
            options.journal_fill_bytes = journal as u64 / 16;
            options.direct_bytes_min = direct_bytes_min.min(journal / 4 - 4096);
            options.flush_bytes = flush_bytes;
            options.markers_again = markers_again;
            options.journal_sync = if dsync { JournalSync::Dsync } else { JournalSync::WriteThenSync };
        }));
        // Quick to move connections: runs are short.
        let (stay_min, stay_max) = (Duration::from_millis(1), Duration::from_millis(50));
        let quick = SteeringRules { requests_min: 4, window: 16, stay_min, stay_max, ..SteeringRules::default() };
        node.steering = scenario.steering.then_some(quick);
        // Whatever a partition does is worth a move.
        let (interval, stay, busy) = (Duration::from_millis(10), Duration::from_millis(50), Duration::ZERO);
        node.balance = scenario.balances().then_some(BalanceRules { interval, stay, busy });
        let shards = start::<BrokerMesh, _, _, _>(&self.node, self.shards, move |ctx| run_shard(ctx, node.clone()));
        let shutdown = shards.shutdown.clone();
        let ended: Ended = Rc::default();
        let end = ended.clone();
        drop(self.world.handle.spawn("process-watch", async move {
            let result = shards.join().await;
            end.replace(Some(result));
        }));
        self.process = Some(Process { shutdown, ready, ended });
    }

    /// Ends the process, and the machine with it if `power`; up again after `down`.
    pub(crate) async fn crash(&mut self, power: bool, down: Duration) {
        self.world.trace(|| format!("broker: {}", if power { "power loss" } else { "kill -9" }));
        self.end(if power { CrashKind::PowerLoss } else { CrashKind::Kill });
        self.world.handle.sleep(down).await;
        self.node.restart();
    }

    fn end(&mut self, how: CrashKind) {
        self.process = None;
        self.node.crash_by(how);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.ready.load(Ordering::Relaxed))
    }

    /// Asks the process to stop.
    pub(crate) fn ask_to_stop(&self) {
        self.world.trace(|| "broker is asked to stop".to_owned());
        if let Some(process) = &self.process {
            process.shutdown.request();
        }
    }

    /// A clean stop: the machine is up and nothing runs.
    pub(crate) async fn stop(&mut self) {
        self.ask_to_stop();
        let begun = self.world.handle.now();
        while self.process.is_some() {
            self.world.handle.sleep(Duration::from_millis(1)).await;
            self.look();
            if self.world.handle.now().since(begun) > STOP_MAX {
                fail(format!("the broker has not stopped after {STOP_MAX:?}"));
            }
        }
    }

    /// Sees whether the process has ended by itself, and whether it may; then nothing runs and the machine is up.
    pub(crate) fn look(&mut self) {
        if let Some(NodeExit { code, message }) = self.node.exited() {
            self.exited(code, &message);
            self.process = None;
            self.node.restart();
            return;
        }
        let ended = self.process.as_ref().and_then(|p| p.ended.take());
        let Some(result) = ended else { return };
        if let Err(error) = &result {
            self.exited(i32::from(error.error.reason.code()), &error.to_string());
        } else {
            self.world.trace(|| "broker has stopped".to_owned());
        }
        self.end(CrashKind::Kill);
        self.node.restart();
    }

    fn exited(&self, code: i32, message: &str) {
        self.world.trace(|| format!("broker exits with {code}: {message}"));
        let more = if self.is_ready() { &[][..] } else { &self.may_not_start };
        if !self.may_exit_with.iter().chain(more).any(|r| i32::from(r.code()) == code) {
            fail(format!("the broker ended itself with code {code}: {message}"));
        }
    }

    /// Lets `time` pass; starts the broker again whenever it has ended itself.
    pub(crate) async fn pass(&mut self, time: Duration) {
        let until = self.world.handle.now().plus(time);
        while self.world.handle.now() < until {
            self.look();
            if self.process.is_none() {
                self.start();
            }
            let left = until.since(self.world.handle.now());
            self.world.handle.sleep(left.min(Duration::from_millis(3))).await;
        }
    }

    /// Until it serves.
    pub(crate) async fn wait_until_ready(&mut self) {
        let begun = self.world.handle.now();
        while !self.is_ready() {
            self.pass(Duration::from_millis(1)).await;
            if self.world.handle.now().since(begun) > START_MAX {
                fail(format!("the broker does not serve after {START_MAX:?}"));
            }
        }
        self.world.trace(|| "broker serves".to_owned());
    }
}
