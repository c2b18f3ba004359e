//! Partitions move from shard to shard while clients append, and the process or the machine dies at any moment: each is
//! where the metadata says, with every record that was acknowledged.
//!
//! `CORELINE_SEED=7 cargo test --lib store::tests::moves` runs one seed, `CORELINE_SEEDS=5000` the first 5,000.

use super::compaction::{of_one_key, survivors, ten_batches_a_segment};
use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use crate::log::log_config::{Durability, LogConfig};
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimRng, SimRuntime, SimWorld};
use coreline_io::{Clock, IoErrorKind, TaskGroup, Tasks};
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 100;
const PARTITIONS: u32 = 3;
/// Written by an idempotent producer with several batches in flight.
const IDEMPOTENT: u32 = 1;
/// Its acknowledgements come before the sync.
const WRITTEN: u32 = 2;

/// What must be true of one partition; and what would be in the metadata, and at the passage.
#[derive(Default)]
struct Model {
    owner: Cell<u16>,
    closed: Cell<bool>,
    under_way: Cell<u32>,
    /// Acknowledged, or read after a restart: offset and number.
    fixed: RefCell<BTreeMap<i64, u64>>,
    next: Cell<u64>,
    start: Cell<i64>,
    unanswered: RefCell<VecDeque<(Vec<u64>, usize, i32)>>,
    next_sequence: Cell<i32>,
}

#[derive(Default)]
struct Counts {
    moves: Cell<u64>,
    acked: Cell<u64>,
}

struct Run {
    world: SimWorld,
    node: SimNode,
    rng: SimRng,
    shards: u16,
    models: Rc<Vec<Model>>,
    counts: Rc<Counts>,
    fatals: Fatals,
}

fn config_of(n: u32) -> LogConfig {
    let durability = if n == WRITTEN { Durability::Written } else { Durability::Durable };
    LogConfig { durability, ..small_config() }
}

impl Run {
    fn new(seed: u64) -> Self {
        let (world, node) = world(seed);
        let rng = world.rng();
        let shards = 2 + rng.below(2) as u16;
        let models =
            (0..PARTITIONS).map(|_| Model { owner: Cell::new(rng.below(shards.into()) as u16), ..Model::default() });
        let models = Rc::new(models.collect());
        Self { world, node, rng, shards, models, counts: Rc::default(), fatals: Fatals::default() }
    }

    async fn open(&self) -> Rc<Vec<Store>> {
        let mut stores = Vec::new();
        for shard in 0..self.shards {
            let store = LogStore::open(self.node.runtime(), dying_options(shard, &self.fatals)).await.expect("opens");
            for n in (0..PARTITIONS).filter(|n| self.models[*n as usize].owner.get() == shard) {
                store.assign(spec(n, 0, config_of(n)));
            }
            store.assignments_complete();
            stores.push(store);
        }
        Rc::new(stores)
    }

    async fn verify(&self, stores: &[Store], power_lost: bool) {
        for n in 0..PARTITIONS {
            let model = &self.models[n as usize];
            let store = &stores[usize::from(model.owner.get())];
            let ends = store.load_end_offsets(id(n)).await.expect("loads");
            assert!(ends.log_start.0 >= model.start.get(), "partition {n} begins at {}", ends.log_start);
            model.start.set(ends.log_start.0);
            let found = read_all(store, id(n), ends.log_start.0, 50_000).await;
            let mut once = BTreeSet::new();
            assert!(found.iter().all(|(_, number)| once.insert(*number)), "partition {n}: a record is there twice");
            assert!(found.is_sorted_by_key(|(_, number)| *number), "partition {n}: records are in another order");
            let found: BTreeMap<i64, u64> = found.into_iter().collect();
            let fixed = model.fixed.replace(found.clone()).split_off(&ends.log_start.0);
            if n == WRITTEN && power_lost {
                continue;
            }
            for (offset, number) in fixed {
                let there = found.get(&offset);
                assert_eq!(there, Some(&number), "partition {n}, offset {offset}: record {number} is lost, {ends:?}");
            }
        }
    }

    fn spawn(&self, stores: &Rc<Vec<Store>>) {
        let rt = self.node.runtime();
        let task = |n| Client {
            rt: rt.clone(),
            stores: Rc::clone(stores),
            models: Rc::clone(&self.models),
            counts: Rc::clone(&self.counts),
            rng: self.rng.fork(),
            n,
        };
        for n in 0..PARTITIONS {
            drop(rt.spawn(TaskGroup::Requests, "client", task(n).run()));
        }
        drop(rt.spawn(TaskGroup::Requests, "mover", task(0).moves()));
    }

    fn round(&mut self) {
        let stores = self.world.block_on(self.open());
        self.spawn(&stores);
        let duration = Duration::from_micros(1 + self.rng.below([2_000, 20_000, 100_000][self.rng.index(3)]));
        self.world.block_on(self.world.handle().sleep(duration));
        let kind = if self.rng.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill };
        drop(stores);
        self.node.crash_by(kind);
        self.node.restart();
        for model in self.models.iter() {
            model.closed.set(false);
            model.under_way.set(0);
        }
        let stores = self.world.block_on(async {
            let stores = self.open().await;
            self.verify(&stores, kind == CrashKind::PowerLoss).await;
            stores
        });
        assert!(self.fatals.borrow().is_empty(), "{:?}", self.fatals);
        if self.rng.one_in(2) {
            self.world.block_on(async {
                for store in stores.iter() {
                    store.shutdown().await.expect("closes");
                }
            });
        }
        drop(stores);
        self.node.crash_by(CrashKind::Kill);
        self.node.restart();
    }
}

struct Client {
    rt: SimRuntime,
    stores: Rc<Vec<Store>>,
    models: Rc<Vec<Model>>,
    counts: Rc<Counts>,
    rng: SimRng,
    n: u32,
}

impl Client {
    fn model(&self) -> &Model {
        &self.models[self.n as usize]
    }

    fn numbers(&self) -> Vec<u64> {
        let (first, count) = (self.model().next.get(), 1 + self.rng.below(4));
        self.model().next.set(first + count);
        (first..first + count).collect()
    }

    fn size(&self) -> usize {
        if self.rng.one_in(15) { 14_000 } else { 8 + self.rng.below(400) as usize }
    }

    async fn run(self) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(1500))).await;
            if self.model().closed.get() {
                continue;
            }
            self.model().under_way.set(self.model().under_way.get() + 1);
            let store = &self.stores[usize::from(self.model().owner.get())];
            let sent: Vec<_> = if self.n == IDEMPOTENT { self.again(store) } else { self.fresh(store) };
            for (numbers, answer) in sent {
                let appended = answer.await.unwrap_or_else(|error| panic!("partition {}: {error}", self.n));
                let offsets = appended.base_offset.0..;
                for (offset, number) in offsets.zip(numbers) {
                    let old = self.model().fixed.borrow_mut().insert(offset, number);
                    assert!(old.is_none_or(|old| old == number), "offset {offset} was {old:?} and is {number}");
                }
                self.counts.acked.set(self.counts.acked.get() + 1);
                if self.n == IDEMPOTENT {
                    self.model().unanswered.borrow_mut().pop_front();
                }
            }
            if self.rng.one_in(30) {
                self.cut(store).await;
            }
            self.model().under_way.set(self.model().under_way.get() - 1);
        }
    }

    fn fresh(&self, store: &Store) -> Vec<(Vec<u64>, Answer)> {
        let one = |_| {
            let numbers = self.numbers();
            let answer: Answer = Box::pin(store.append(id(self.n), batch_of(&numbers, self.size()), LOCAL));
            (numbers, answer)
        };
        (0..1 + self.rng.below(5)).map(one).collect()
    }

    /// What has no answer yet, once more and in order, and more.
    fn again(&self, store: &Store) -> Vec<(Vec<u64>, Answer)> {
        let mut unanswered = self.model().unanswered.borrow_mut();
        while unanswered.len() < 1 + self.rng.below(4) as usize {
            let (numbers, sequence) = (self.numbers(), self.model().next_sequence.get());
            self.model().next_sequence.set(sequence + numbers.len() as i32);
            unanswered.push_back((numbers, self.size(), sequence));
        }
        let send = |(numbers, size, sequence): &(Vec<u64>, usize, i32)| {
            let batch = with_producer(numbers, *size, Some((77, 0, *sequence)));
            let answer: Answer = Box::pin(store.append(id(self.n), batch, LOCAL));
            (numbers.clone(), answer)
        };
        unanswered.iter().map(send).collect()
    }

    async fn cut(&self, store: &Store) {
        let Some(ends) = store.end_offsets(id(self.n)) else { return };
        let to = ends.log_start.0 + self.rng.below((ends.high_watermark.0 - ends.log_start.0) as u64 / 2 + 1) as i64;
        match store.delete_records(id(self.n), Offset(to)).await {
            Ok(start) => self.model().start.set(start.0),
            // It is leaving, or has left.
            Err(error) if error.code == ErrorCode::UnknownTopicOrPartition => {}
            Err(error) => assert_eq!(error.code, ErrorCode::KafkaStorageError, "is not cut: {error}"),
        }
    }

    /// As the driver of moves does it.
    async fn moves(self) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(3000))).await;
            let n = self.rng.below(PARTITIONS.into()) as u32;
            let model = &self.models[n as usize];
            let (from, to) = (model.owner.get(), self.rng.below(self.stores.len() as u64) as u16);
            model.closed.set(true);
            // Who asked before is waited for; or not, so that what was appended is not committed when the partition leaves.
            let waits = self.rng.one_in(2);
            while waits && model.under_way.get() > 0 {
                self.rt.sleep(Duration::from_micros(50)).await;
            }
            let (old, new) = (&self.stores[usize::from(from)], &self.stores[usize::from(to)]);
            let withdrawn = old.withdraw(id(n)).expect("it is here");
            let late = old.append(id(n), batch_of(&[0], 8), LOCAL);
            let handed = old.hand_over(withdrawn).await.expect("is handed over");
            assert_eq!(late.await.map(drop).expect_err("nobody finds it").code, ErrorCode::UnknownTopicOrPartition);
            if from == to || self.rng.one_in(4) {
                assert!(old.take_back(id(n)));
            } else {
                new.expect(id(n), handed);
                // The record is committed.
                model.owner.set(to);
                new.assign(spec(n, 0, config_of(n)));
                old.move_is_over(id(n));
                new.load_end_offsets(id(n)).await.expect("loads");
                new.move_is_over(id(n));
            }
            self.counts.moves.set(self.counts.moves.get() + 1);
            model.closed.set(false);
        }
    }
}

type Answer = std::pin::Pin<Box<dyn Future<Output = Result<Appended, AppendError>>>>;

fn run(seed: u64) -> (u64, u64) {
    let mut run = Run::new(seed);
    for _ in 0..1 + run.rng.below(4) {
        run.round();
    }
    (run.counts.moves.get(), run.counts.acked.get())
}

#[test]
fn a_partition_is_whole_wherever_it_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match (number("CORELINE_SEED"), number("CORELINE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    };
    let (mut moves, mut acked, many) = (0, 0, seeds.end - seeds.start > 1);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| run(seed));
        let (m, a) = result.unwrap_or_else(|panic| {
            eprintln!("failed with seed {seed}; replay: CORELINE_SEED={seed} cargo test --lib store::tests::moves");
            std::panic::resume_unwind(panic)
        });
        moves += m;
        acked += a;
    }
    assert!(!many || moves > 100 && acked > 1000, "{moves} moves, {acked} acknowledgements");
}

/// A deletion that comes in the middle waits, and takes what was handed over with it.
#[test]
fn what_was_handed_over_can_be_deleted() {
    let (world, node) = world(3);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        store.append(id(0), batch_of(&[1], 100), LOCAL).await.expect("appends");
        let withdrawn = store.withdraw(id(0)).expect("it is here");
        let (deleted, handed) = futures_util::join!(store.delete(id(0)), store.hand_over(withdrawn));
        deleted.expect("is deleted");
        handed.expect("is handed over");
        assert!(!store.take_back(id(0)) && !store.has(id(0)));
        let dir = |path: &std::path::Path| path.to_string_lossy().contains("/topic0-0/");
        assert!(!node.files().iter().any(|(path, _)| dir(path)), "{:?}", node.files());
        store.shutdown().await.expect("closes");
    });
}

/// Moves a partition, as the driver of moves does it.
async fn moved(n: u32, old: &Store, new: &Store) {
    let handed = old.hand_over(old.withdraw(id(n)).expect("it is here")).await.expect("is handed over");
    new.expect(id(n), handed);
    new.assign(spec(n, 0, small_config()));
    old.move_is_over(id(n));
    new.load_end_offsets(id(n)).await.expect("loads");
    new.move_is_over(id(n));
}

/// The journal waits for room that only a flush of the leaving partition makes; that partition waits for the journal.
#[test]
fn a_leaving_partition_makes_room_in_the_journal() {
    const OTHERS: u32 = 40;
    let (world, node) = world(5);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, OTHERS + 1, 0).await;
        for n in 0..=OTHERS {
            store.load_end_offsets(id(n)).await.expect("loads");
        }
        store.append(id(0), batch_of(&[1], 100), LOCAL).await.expect("appends");
        // More than the ring holds stands in line before the second batch.
        let others = (1..=OTHERS).map(|n| store.append(id(n), batch_of(&[n.into()], 20_000), LOCAL));
        let others: Vec<_> = others.collect();
        let second = store.append(id(0), batch_of(&[2], 100), LOCAL);
        let withdrawn = store.withdraw(id(0)).expect("it is here");
        let all = async {
            let (others, second, handed) =
                futures_util::join!(futures_util::future::join_all(others), second, store.hand_over(withdrawn));
            assert!(others.iter().all(Result::is_ok) && second.is_ok(), "{others:?}, {second:?}");
            handed.expect("is handed over");
        };
        let too_long = node.runtime().sleep(Duration::from_secs(3600));
        let (all, too_long) = (std::pin::pin!(all), std::pin::pin!(too_long));
        let in_time =
            matches!(futures_util::future::select(all, too_long).await, futures_util::future::Either::Left(_));
        assert!(in_time, "the journal and the partition wait for each other");
        assert!(store.take_back(id(0)));
        assert_eq!(read_all(&store, id(0), 0, 50_000).await, [(0, 1), (1, 2)]);
        store.shutdown().await.expect("closes");
    });
}

/// Moves a compacted partition while a new segment of it finds no room in the middle of its swap: `after` the last batch, or once a swap waits.
/// How long it was after that batch, and whether the partition stayed.
fn moved_beside_a_swap(after: Option<Duration>) -> (Duration, bool) {
    let (world, node) = world(8);
    let fatals = Fatals::default();
    let found = world.block_on(async {
        let rt = node.runtime();
        let cleaner = CleanerOptions { backoff: Duration::from_millis(2), ..CleanerOptions::default() };
        let options = StoreOptions { cleaner, ..dying_options(0, &fatals) };
        let store = LogStore::open(node.runtime(), options).await.expect("opens");
        store.assign(spec(0, 0, ten_batches_a_segment()));
        store.assignments_complete();
        // The list of what is replaced gets its name, and does not go any more.
        node.disk_faults(|f| f.no_room_after(DiskOp::Meta, "compaction.swap", 1));
        for n in 0..40 {
            store.append(id(0), of_one_key(n), LOCAL).await.expect("acked");
        }
        let begun = rt.now();
        match after {
            Some(after) => rt.sleep(after).await,
            None => {
                while node.disk_faults(|f| f.hits()) == 0 {
                    rt.sleep(Duration::from_micros(100)).await;
                }
            }
        }
        let waited = rt.now().since(begun);
        let handed = {
            let handing = pin!(store.hand_over(store.withdraw(id(0)).expect("it is here")));
            match select(handing, pin!(rt.sleep(Duration::from_secs(3600)))).await {
                Either::Left((handed, _)) => handed,
                Either::Right(_) => panic!("{waited:?}: clients wait for room"),
            }
        };
        node.disk_faults(|f| f.clear());
        let stayed = handed.is_err();
        if let Err(error) = handed {
            let StoreError::Io { source, .. } = &error else { panic!("{waited:?}: {error}") };
            assert_eq!(source.kind, IoErrorKind::StorageFull, "{waited:?}: {error}");
            // It is tried again once in a while.
            rt.sleep(Duration::from_secs(1)).await;
            let again = store.hand_over(store.withdraw(id(0)).expect("it is here")).await;
            again.expect("there is room");
        }
        assert!(store.take_back(id(0)));
        let found = survivors(&store, 0, 0, 100_000).await;
        assert_eq!(found.last().map(|(offset, _)| *offset), Some(39), "{waited:?}: {found:?}");
        store.append(id(0), of_one_key(40), LOCAL).await.expect("acked");
        store.shutdown().await.expect("closes");
        (waited, stayed)
    });
    assert!(fatals.borrow().is_empty());
    found
}

/// Whenever the move comes: a compaction that waits for room in the middle of a swap keeps nobody waiting but itself. The partition
/// stays then, and goes once there is room.
#[test]
fn a_swap_that_waits_for_room_keeps_the_partition_where_it_is() {
    let (waits, stayed) = moved_beside_a_swap(None);
    assert!(stayed);
    // Before the cleaning, at any time of it, and once it waits.
    let all = (0..50).map(|n| moved_beside_a_swap(Some(waits * n / 40)).1);
    let stayed = all.filter(|stayed| *stayed).count();
    assert!((5..45).contains(&stayed), "{stayed} of 50 stayed");
}

/// It comes back shorter than it went, as a follower's log may, and the process dies: frames of its first stay are no part of it.
#[test]
fn what_the_journal_has_of_a_first_stay_counts_no_more() {
    let (world, node) = world(7);
    let fatals = Fatals::default();
    world.block_on(async {
        let here = open(&node, &fatals, 1, 0).await;
        let there = LogStore::open(node.runtime(), dying_options(1, &fatals)).await.expect("opens");
        there.assignments_complete();
        for n in 0..10 {
            here.append(id(0), batch_of(&[n], 100), LOCAL).await.expect("appends");
        }
        moved(0, &here, &there).await;
        there.truncate(id(0), Offset(4)).await.expect("is cut");
        there.append(id(0), batch_of(&[100], 100), LOCAL).await.expect("appends");
        moved(0, &there, &here).await;
    });
    node.crash_by(CrashKind::Kill);
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        let found = read_all(&store, id(0), 0, 50_000).await;
        assert_eq!(found, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 100)]);
    });
}

/// Its new shard believes what it finds, as after a clean end: files end where their contents do, and a power loss takes nothing.
#[test]
fn what_is_handed_over_is_as_a_clean_end_leaves_it() {
    for seed in 0..20 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            for n in 0..30 {
                store.append(id(0), batch_of(&[n], 700), LOCAL).await.expect("appends");
            }
            store.hand_over(store.withdraw(id(0)).expect("it is here")).await.expect("is handed over");
        });
        let of_partition = || {
            let files = node.files().into_iter().filter(|(path, _)| path.to_string_lossy().contains("/topic0-0/"));
            let with_contents = files.map(|(path, _)| (node.file_contents(&path), path));
            with_contents.collect::<Vec<_>>()
        };
        let before = of_partition();
        let len = |name: &str| {
            let file = before.iter().find(|(_, path)| path.ends_with(name));
            file.and_then(|(bytes, _)| bytes.as_ref()).map_or(0, Vec::len)
        };
        // One entry a batch, but for the first.
        assert_eq!(len("00000000000000000000.index"), 29 * 8, "{:?}", node.files());
        let batch = batch_of(&[1], 700).len();
        assert_eq!(len("00000000000000000000.log"), 30 * batch, "nothing is behind the last batch");
        node.crash_by(CrashKind::PowerLoss);
        node.restart();
        assert_eq!(of_partition(), before, "seed {seed}: a power loss changed what was handed over");
    }
}
