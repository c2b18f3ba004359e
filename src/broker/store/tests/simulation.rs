//! The oracle: random appends, reads, crashes and restarts; the model knows every record that was acknowledged or
//! read, and each must be there after every restart, at its offset, once.
//!
//! `CORELINE_SEED=7 cargo test --lib store::tests::simulation` runs one seed, `CORELINE_SEEDS=5000` the first 5,000.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::log_config::{Durability, LogConfig};
use crate::log::segment::{FileKind, parse_file_name};
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimRng, SimRuntime, SimWorld};
use coreline_io::{Clock, TaskGroup, Tasks};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 300;

/// What must be true of one partition.
#[derive(Default)]
struct PartitionModel {
    /// Acknowledged, or read by somebody: there for ever.
    fixed: BTreeMap<i64, u64>,
    /// Handed to `append` at some time.
    attempted: BTreeSet<u64>,
    /// Answered with an error: never there.
    refused: BTreeSet<u64>,
    /// Acknowledged start of the log, and the largest that was asked for.
    log_start: (i64, i64),
    /// A power loss may take acknowledged records.
    written_only: bool,
    /// Retention by size moves the log's start, too.
    retained: bool,
    /// Batches of the idempotent producer that have no answer yet, oldest first.
    unanswered: VecDeque<(Vec<u64>, usize, i32)>,
    next_sequence: i32,
}

#[derive(Default)]
struct Model {
    partitions: Vec<PartitionModel>,
    next_number: u64,
    acked: u64,
    reads: u64,
    rounds: u64,
}

type Shared = Rc<RefCell<Model>>;

impl Model {
    fn numbers(&mut self, partition: u32, count: u64) -> Vec<u64> {
        let numbers: Vec<u64> = (self.next_number..self.next_number + count).collect();
        self.next_number += count;
        self.partitions[partition as usize].attempted.extend(&numbers);
        numbers
    }

    fn fix(&mut self, partition: u32, offset: i64, number: u64, why: &str) {
        let p = &mut self.partitions[partition as usize];
        assert!(p.attempted.contains(&number), "partition {partition}: record {number} was never written");
        assert!(!p.refused.contains(&number), "partition {partition}: record {number} was refused and is {why}");
        let old = p.fixed.insert(offset, number);
        assert!(
            old.is_none_or(|old| old == number),
            "partition {partition} offset {offset}: {number} {why}, but {old:?} was there"
        );
    }

    fn acked(&mut self, partition: u32, base: i64, numbers: &[u64]) {
        for (i, number) in numbers.iter().enumerate() {
            self.fix(partition, base + i as i64, *number, "acknowledged");
        }
        self.acked += 1;
    }
}

/// One run of one seed.
struct Run {
    world: SimWorld,
    node: SimNode,
    rng: Rc<SimRng>,
    model: Shared,
    fatals: Fatals,
    shards: u16,
    /// The count at the last start.
    shards_before: Cell<u16>,
    partitions: u32,
}

/// The partition whose old segments go.
const RETAINED: u32 = 2;
const RETAINED_BYTES: i64 = 150 << 10;

fn config_of(n: u32) -> LogConfig {
    if n == RETAINED {
        let file_delete_delay_ms = 4;
        return LogConfig { retention_bytes: RETAINED_BYTES, file_delete_delay_ms, ..small_config() };
    }
    let durability = if n == 3 { Durability::Written } else { Durability::Durable };
    let flush_messages = if n == 3 { 50 } else { i64::MAX };
    LogConfig { durability, flush_messages, flush_ms: if n == 3 { 20 } else { i64::MAX }, ..small_config() }
}

impl Run {
    fn new(seed: u64) -> Self {
        let (world, node) = world(seed);
        let rng = Rc::new(world.rng());
        let partitions = 4;
        let model = Model {
            partitions: (0..partitions)
                .map(|n| PartitionModel { written_only: n == 3, retained: n == RETAINED, ..PartitionModel::default() })
                .collect(),
            ..Model::default()
        };
        let shards = 1 + rng.below(2) as u16;
        let model = Rc::new(RefCell::new(model));
        Self {
            world,
            node,
            rng,
            model,
            fatals: Fatals::default(),
            shards,
            shards_before: Cell::new(shards),
            partitions,
        }
    }

    /// Opens the stores; `retains` looks for old segments every few milliseconds.
    async fn open(&self, retains: bool) -> Vec<Store> {
        let rt = self.node.runtime();
        let options = dying_options(0, &self.fatals);
        let by_id =
            |wanted: PartitionId| (0..self.partitions).find(|n| id(*n) == wanted).map(|n| spec(n, 0, config_of(n)));
        if self.shards != self.shards_before.get() {
            LogStore::drain_journals(&rt, &options, &by_id).await.expect("journals are drained");
        }
        let mut stores = Vec::new();
        for shard in 0..self.shards {
            let mut options = dying_options(shard, &self.fatals);
            // Several slices a file, so that frames are written between them.
            options.journal_fill_bytes = 8 << 10;
            if retains {
                options.retention_check_interval = Duration::from_millis(1 + self.rng.below(8));
            }
            let store = LogStore::open(rt.clone(), options).await.expect("the store opens");
            for n in (0..self.partitions).filter(|n| *n as u16 % self.shards == shard) {
                store.assign(spec(n, self.model.borrow().rounds as i32, config_of(n)));
            }
            store.assignments_complete();
            stores.push(store);
        }
        stores
    }

    fn store_of<'a>(&self, stores: &'a [Store], n: u32) -> &'a Store {
        &stores[n as usize % stores.len()]
    }

    /// Compares everything that can be read with the model, which then holds exactly that.
    async fn verify(&self, stores: &[Store], power_lost: bool) {
        for n in 0..self.partitions {
            let store = self.store_of(stores, n);
            let ends = store.load_end_offsets(id(n)).await.expect("loads");
            let max_bytes = 1 + self.rng.below(60_000) as usize;
            let found = read_all(store, id(n), ends.log_start.0, max_bytes).await;
            let mut model = self.model.borrow_mut();
            let p = &mut model.partitions[n as usize];
            let start = ends.log_start.0;
            if p.written_only && power_lost {
                p.fixed.clear();
            }
            let latest = if p.retained { i64::MAX } else { p.log_start.1 };
            assert!(
                (p.log_start.0..=latest).contains(&start),
                "partition {n} begins at {start}, expected {:?}",
                p.log_start
            );
            p.log_start = (start, start);
            assert_eq!(found.len() as i64, ends.high_watermark.0 - start);
            let fixed = p.fixed.split_off(&start);
            p.fixed.clear();
            let mut seen = BTreeSet::new();
            for (offset, number) in &found {
                assert!(seen.insert(*number), "partition {n}: record {number} is there twice, again at {offset}");
            }
            let found: BTreeMap<i64, u64> = found.into_iter().collect();
            for (offset, number) in fixed {
                assert_eq!(
                    found.get(&offset),
                    Some(&number),
                    "partition {n}: record {number} at {offset} is lost; the log is {start}..{}",
                    ends.high_watermark
                );
            }
            for (offset, number) in found {
                model.fix(n, offset, number, "found");
            }
        }
    }

    fn spawn_clients(&self, stores: &[Store]) {
        let rt = self.node.runtime();
        let uniform = self.rng.one_in(3);
        for n in 0..self.partitions {
            let store = self.store_of(stores, n);
            let client = || Client {
                rt: rt.clone(),
                store: store.clone(),
                model: self.model.clone(),
                rng: self.rng.fork(),
                n,
                uniform,
            };
            drop(rt.spawn(TaskGroup::Requests, "client", client().run(n == 1)));
            drop(rt.spawn(TaskGroup::Requests, "reader", client().read()));
        }
    }

    /// Things go wrong while clients work.
    async fn trouble(&self, duration: Duration) {
        let rt = self.world.handle();
        let used: u64 = self.node.files().iter().map(|f| f.1).sum();
        match self.rng.below(10) {
            0 | 1 => {
                rt.sleep(duration / 4).await;
                self.node.set_disk_capacity(Some(used + self.rng.below(200_000)));
                rt.sleep(duration / 2).await;
                self.node.set_disk_capacity(None);
                rt.sleep(duration / 4).await;
            }
            2 => {
                let op = if self.rng.one_in(2) { DiskOp::Write } else { DiskOp::Sync };
                let path = ["journal", ".log", "index", ""][self.rng.index(4)];
                self.node.disk_faults(|f| f.fail_after(op, path, self.rng.below(30)));
                rt.sleep(duration).await;
                self.node.disk_faults(|f| f.clear());
            }
            _ => rt.sleep(duration).await,
        }
    }

    fn round(&mut self) {
        let stores = self.world.block_on(self.open(true));
        self.spawn_clients(&stores);
        let duration = Duration::from_micros(1 + self.rng.below([500, 20_000, 150_000][self.rng.index(3)]));
        self.world.block_on(self.trouble(duration));
        // The process ended itself, in the middle of whatever it did.
        let died = self.node.exited().is_some();
        assert_eq!(died, !self.fatals.take().is_empty());
        let end = if died { 1 } else { self.rng.below(4) };
        let clean = end == 0 && self.shut_down(&stores);
        drop(stores);
        // A machine survives its broker, and a broker that a failed disk ended may be started again on what it left.
        let power = if died { self.rng.one_in(2) } else { end != 2 || !self.node.is_up() };
        if !self.node.is_up() {
            self.node.restart();
        }
        self.node.crash_by(if power { CrashKind::PowerLoss } else { CrashKind::Kill });
        self.node.restart();
        self.model.borrow_mut().rounds += 1;
        if self.rng.one_in(4) {
            self.shards = 1 + self.rng.below(3) as u16;
        }
        if self.rng.one_in(4) {
            self.remove_some_indexes();
        }
        self.fatals.take();
        let stores = self.world.block_on(async {
            let stores = self.open(false).await;
            self.shards_before.set(self.shards);
            self.verify(&stores, power && !clean).await;
            stores
        });
        assert!(self.fatals.borrow().is_empty(), "{:?}", self.fatals);
        drop(stores);
        // Sometimes it dies again before anything was flushed.
        self.node.crash_by(if self.rng.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill });
        self.node.restart();
    }

    /// Closes the stores in the process, in time.
    fn shut_down(&self, stores: &[Store]) -> bool {
        let (rt, stores) = (self.node.runtime(), stores.to_vec());
        let world = self.world.handle();
        let started = world.now();
        let closing = rt.spawn(TaskGroup::Requests, "shutdown", async move {
            for store in &stores {
                store.shutdown().await.expect("a store that closes cleanly");
            }
        });
        self.world.block_on(async {
            // An operation from before, whose failure was decided then, may still end the process.
            let late = pin!(world.sleep(Duration::from_secs(2)));
            let closed = matches!(select(pin!(closing), late).await, Either::Left(_));
            if !closed && self.node.is_up() {
                panic!("the stores do not close, {:?} after the request", world.now().since(started));
            }
            closed
        })
    }

    fn remove_some_indexes(&self) {
        for (path, _) in self.node.files() {
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let index = parse_file_name(name).is_some_and(|(_, kind)| kind != FileKind::Log);
            if index && self.rng.one_in(3) {
                self.node.remove_path(&path);
            }
        }
    }
}

/// A task of the node that works on one partition.
struct Client {
    rt: SimRuntime,
    store: Store,
    model: Shared,
    rng: SimRng,
    n: u32,
    uniform: bool,
}

impl Client {
    async fn run(self, idempotent: bool) {
        loop {
            if idempotent {
                self.produce_idempotent().await;
            } else {
                self.produce().await;
            }
            if self.rng.one_in(40) {
                self.delete_records().await;
            }
            self.rt.sleep(Duration::from_micros(self.rng.below(2000))).await;
        }
    }

    fn shape(&self) -> (u64, usize) {
        if self.uniform {
            // Batches of one size: what an earlier life left behind the end fits behind new ones.
            return (1, 9_000);
        }
        match self.rng.below(20) {
            0 => (1, 30_000 + self.rng.below(20_000) as usize),
            1..=3 => (1 + self.rng.below(2), 4_000 + self.rng.below(6_000) as usize),
            _ => (1 + self.rng.below(4), 8 + self.rng.below(300) as usize),
        }
    }

    /// Several appends at a time, none waits for the other.
    async fn produce(&self) {
        let mut waiting = Vec::new();
        for _ in 0..1 + self.rng.below(6) {
            let (count, size) = self.shape();
            let numbers = self.model.borrow_mut().numbers(self.n, count);
            let answer = self.store.append(id(self.n), batch_of(&numbers, size), LOCAL);
            waiting.push((numbers, answer));
        }
        for (numbers, answer) in waiting {
            match answer.await {
                Ok(appended) => self.model.borrow_mut().acked(self.n, appended.base_offset.0, &numbers),
                Err(error) => self.refused(&error, &numbers),
            }
        }
    }

    fn refused(&self, error: &AppendError, numbers: &[u64]) {
        assert_eq!(error.code, ErrorCode::KafkaStorageError, "{error}");
        self.model.borrow_mut().partitions[self.n as usize].refused.extend(numbers);
    }

    /// Up to four batches in flight; what has no answer is sent again, in order, until it has one.
    async fn produce_idempotent(&self) {
        let fresh = self.rng.below(4);
        for _ in 0..fresh {
            let (count, size) = self.shape();
            let mut model = self.model.borrow_mut();
            let numbers = model.numbers(self.n, count);
            let p = &mut model.partitions[self.n as usize];
            if p.unanswered.len() >= 4 {
                break;
            }
            p.unanswered.push_back((numbers, size, p.next_sequence));
            p.next_sequence += count as i32;
        }
        let unanswered: Vec<_> = self.model.borrow().partitions[self.n as usize].unanswered.iter().cloned().collect();
        let mut waiting = Vec::new();
        for (numbers, size, sequence) in unanswered {
            let batch = with_producer(&numbers, size, Some((77, 0, sequence)));
            waiting.push((numbers, self.store.append(id(self.n), batch, LOCAL)));
        }
        let mut failed = false;
        for (numbers, answer) in waiting {
            match answer.await {
                Ok(appended) => {
                    assert!(!failed, "a later batch went in after an earlier one was refused");
                    let mut model = self.model.borrow_mut();
                    model.acked(self.n, appended.base_offset.0, &numbers);
                    model.partitions[self.n as usize].unanswered.pop_front();
                }
                Err(error) => {
                    let expected = [ErrorCode::KafkaStorageError, ErrorCode::OutOfOrderSequenceNumber];
                    let known = expected[..1 + usize::from(failed)].contains(&error.code);
                    assert!(known, "partition {}: {error}", self.n);
                    failed = true;
                }
            }
        }
    }

    async fn delete_records(&self) {
        let Some(ends) = self.store.end_offsets(id(self.n)) else { return };
        let room = ends.high_watermark.0 - ends.log_start.0;
        let to = ends.log_start.0 + self.rng.below(room as u64 / 2 + 1) as i64;
        {
            let start = &mut self.model.borrow_mut().partitions[self.n as usize].log_start;
            start.1 = start.1.max(to);
        }
        let Ok(start) = self.store.delete_records(id(self.n), Offset(to)).await else { return };
        let model = &mut self.model.borrow_mut().partitions[self.n as usize];
        model.log_start.0 = model.log_start.0.max(start.0);
    }

    /// Reads at random places; what was read once stays.
    async fn read(self) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(3000))).await;
            let Ok(ends) = self.store.load_end_offsets(id(self.n)).await else { continue };
            let span = (ends.high_watermark.0 - ends.log_start.0) as u64;
            let offset = ends.log_start.0 + self.rng.below(span + 1) as i64;
            let asked = request(offset, 1 + self.rng.below(80_000) as usize);
            let result = match self.store.read(id(self.n), asked).await {
                Ok(result) => result,
                // The start moved past it, or the disk gave an error on purpose.
                Err(error) => {
                    let known = [ErrorCode::OffsetOutOfRange, ErrorCode::KafkaStorageError].contains(&error.code);
                    assert!(known, "{error}");
                    continue;
                }
            };
            let records = decode(&result);
            assert!(records.first().is_none_or(|r| r.0 <= offset));
            assert!(offset >= ends.high_watermark.0 || records.last().is_some_and(|r| r.0 >= offset));
            let mut model = self.model.borrow_mut();
            model.reads += 1;
            for (offset, number) in records {
                assert!(offset < result.high_watermark.0);
                model.fix(self.n, offset, number, "read");
            }
        }
    }
}

/// Runs a seed. Gives a hash of the run, and appends, reads and group commits done.
fn run(seed: u64) -> (u64, u64, u64) {
    let mut run = Run::new(seed);
    for _ in 0..1 + run.rng.below(4) {
        run.round();
    }
    let model = run.model.borrow();
    (run.world.trace_hash(), model.acked, model.reads)
}

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    match (number("CORELINE_SEED"), number("CORELINE_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => {
            let first = number("CORELINE_SEED_FROM").unwrap_or(0);
            (first..first + count.unwrap_or(SEEDS)).collect()
        }
    }
}

#[test]
fn every_acknowledged_record_survives() {
    let (mut acked, mut reads) = (0, 0);
    let current = Cell::new(0);
    let all = seeds();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for seed in &all {
            current.set(*seed);
            if std::env::var_os("CORELINE_VERBOSE").is_some() {
                eprintln!("seed {seed}");
            }
            let (_, a, r) = run(*seed);
            acked += a;
            reads += r;
        }
    }));
    if let Err(panic) = result {
        let seed = current.get();
        eprintln!("failed with seed {seed}; replay: CORELINE_SEED={seed} cargo test --lib store::tests::simulation");
        std::panic::resume_unwind(panic);
    }
    assert!(all.len() < 50 || (acked > 1000 && reads > 1000), "the runs do too little: {acked} appends, {reads} reads");
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(11), run(11));
}
