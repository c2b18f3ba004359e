//! Transactional producers over crashes: what readers of committed records get is compared with the whole log, read batch by
//! batch; what was acknowledged or decided must stay so.
//!
//! The coordinator is the model: it decides once, and writes markers until they are acknowledged, over restarts, too.
//! `CORELINE_SEED=7 cargo test --lib store::tests::txn_simulation` runs one seed, `CORELINE_SEEDS=5000` the first 5,000.

use super::harness::*;
use super::txn::{marker, produce_v, txn_batch};
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::segment::{FileKind, file_name, parse_file_name};
use crate::log::txn_marker::read_marker;
use coreline_io::sim::{CrashKind, SimNode, SimRng, SimRuntime, SimWorld};
use coreline_io::{TaskGroup, Tasks};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 60;
const PARTITIONS: u32 = 2;
const PRODUCERS: i64 = 3;

/// What the coordinator decided: written to every partition, until all have it.
#[derive(Clone, Debug)]
struct Decision {
    commit: bool,
    epoch: i16,
    partitions: BTreeSet<u32>,
}

/// A producer and its coordinator: survives the broker.
#[derive(Clone, Debug, Default)]
struct ProducerModel {
    epoch: i16,
    next_sequence: BTreeMap<u32, i32>,
    /// Partitions of the open transaction.
    partitions: BTreeSet<u32>,
    /// Records of the open transaction.
    numbers: Vec<u64>,
    decision: Option<Decision>,
}

#[derive(Default)]
struct Model {
    next_number: u64,
    producers: BTreeMap<i64, ProducerModel>,
    /// Partition and offset of what was acknowledged.
    acked: BTreeMap<(u32, i64), u64>,
    committed: BTreeSet<u64>,
    aborted: BTreeSet<u64>,
    /// What a reader of committed records got.
    delivered: BTreeMap<(u32, i64), u64>,
    stable: BTreeMap<u32, i64>,
    transactions: u64,
    epochs: i32,
}

type Shared = Rc<RefCell<Model>>;

/// The log of a partition, worked out from its batches alone.
#[derive(Debug, Default)]
struct Whole {
    records: BTreeMap<i64, u64>,
    /// Of these, the ones that a reader of committed records is to get.
    committed: BTreeMap<i64, u64>,
    /// Producer, first offset, marker.
    aborted: Vec<(i64, i64, i64)>,
    stable: i64,
}

fn batches_of(result: &ReadResult) -> Vec<(RecordBatchHeader, Vec<u8>)> {
    let bytes = result.records.concat();
    let whole = batch::batches(&bytes).map(|found| found.expect("whole batches"));
    whole.map(|(header, range)| (header, bytes[range].to_vec())).collect()
}

fn numbers_of(header: &RecordBatchHeader, bytes: &[u8]) -> Vec<(i64, u64)> {
    let number = |r: batch::Record<'_>| u64::from_be_bytes(r.value.expect("a value")[..8].try_into().expect("8 bytes"));
    batch::records(header, bytes).map(|r| r.expect("a record")).map(|r| (r.offset.0, number(r))).collect()
}

async fn read_whole(store: &Store, n: u32) -> Whole {
    let ends = store.load_end_offsets(id(n)).await.expect("loads");
    let mut whole = Whole { stable: ends.high_watermark.0, ..Whole::default() };
    let mut open: BTreeMap<i64, (i64, BTreeMap<i64, u64>)> = BTreeMap::new();
    let mut next = 0;
    while next < ends.high_watermark.0 {
        let result = store.read(id(n), request(next, 40_000)).await.expect("a read");
        for (header, bytes) in batches_of(&result) {
            assert_eq!(header.base_offset.0, next, "offsets are contiguous");
            next = header.next_offset().0;
            let (producer, base) = (header.producer_id.0, header.base_offset.0);
            if let Some(marker) = read_marker(&header, &bytes) {
                let Some((first, records)) = open.remove(&producer) else { continue };
                if marker.commit {
                    whole.committed.extend(records);
                } else {
                    whole.aborted.push((producer, first, base));
                }
                continue;
            }
            let records = numbers_of(&header, &bytes);
            whole.records.extend(records.iter().copied());
            if header.is_transactional() {
                open.entry(producer).or_insert((base, BTreeMap::new())).1.extend(records);
            } else {
                whole.committed.extend(records);
            }
        }
    }
    if let Some(first) = open.values().map(|(first, _)| *first).min() {
        whole.stable = first;
        whole.committed.split_off(&first);
    }
    whole
}

/// What a client makes of an answer: Kafka's algorithm.
fn filtered(result: &ReadResult) -> Vec<(i64, u64)> {
    let mut waiting: Vec<(i64, i64)> = result.aborted.iter().map(|a| (a.first_offset.0, a.producer_id.0)).collect();
    waiting.sort_unstable();
    let (mut waiting, mut aborted) = (std::collections::VecDeque::from(waiting), BTreeSet::new());
    let mut found = Vec::new();
    for (header, bytes) in batches_of(result) {
        while let Some((_, producer)) = waiting.pop_front_if(|(first, _)| *first <= header.last_offset().0) {
            aborted.insert(producer);
        }
        if header.is_control() {
            if read_marker(&header, &bytes).is_some_and(|m| !m.commit) {
                aborted.remove(&header.producer_id.0);
            }
        } else if !header.is_transactional() || !aborted.contains(&header.producer_id.0) {
            found.extend(numbers_of(&header, &bytes));
        }
    }
    found
}

fn committed_request(offset: i64, max_bytes: usize) -> ReadRequest {
    ReadRequest { isolation: Isolation::ReadCommitted, ..request(offset, max_bytes) }
}

struct Run {
    world: SimWorld,
    node: SimNode,
    rng: Rc<SimRng>,
    model: Shared,
    fatals: Fatals,
    v2: bool,
}

impl Run {
    async fn open(&self) -> Store {
        let epoch = {
            let mut model = self.model.borrow_mut();
            model.epochs += 1;
            model.epochs
        };
        open(&self.node, &self.fatals, PARTITIONS, epoch).await
    }

    /// Compares what readers of committed records get with the whole log, from random places and in random pieces.
    async fn verify(&self, store: &Store) {
        for n in 0..PARTITIONS {
            let whole = read_whole(store, n).await;
            let ends = store.end_offsets(id(n)).expect("loaded");
            assert_eq!(ends.last_stable.0, whole.stable, "partition {n}");
            let from = if self.rng.one_in(2) { 0 } else { self.rng.below(whole.stable as u64 + 1) as i64 };
            let mut found = BTreeMap::new();
            let mut next = from;
            while next < whole.stable {
                let asked = committed_request(next, 1 + self.rng.below(60_000) as usize);
                let result = store.read(id(n), asked).await.expect("a read");
                let end = batches_of(&result).last().expect("something").0.next_offset().0;
                let touches = |(_, first, last): &&(i64, i64, i64)| *last >= next && *first < end;
                let mut expected: Vec<_> = whole.aborted.iter().filter(touches).map(|t| (t.0, t.1)).collect();
                let mut told: Vec<_> = result.aborted.iter().map(|a| (a.producer_id.0, a.first_offset.0)).collect();
                expected.sort_unstable();
                told.sort_unstable();
                assert_eq!(told, expected, "partition {n}: aborted in {next}..{end}");
                assert!(end <= whole.stable, "partition {n}: read up to {end}, stable is {}", whole.stable);
                found.extend(filtered(&result).into_iter().filter(|r| r.0 >= next));
                next = end;
            }
            let mut expected = whole.committed.clone();
            assert_eq!(found, expected.split_off(&from), "partition {n} from {from}");
            self.compare(n, &whole);
        }
    }

    fn compare(&self, n: u32, whole: &Whole) {
        let mut model = self.model.borrow_mut();
        let stable = model.stable.entry(n).or_default();
        assert!(whole.stable >= *stable, "partition {n}: stable was {stable}, is {}", whole.stable);
        *stable = whole.stable;
        let of_partition = (n, 0)..(n + 1, 0);
        for ((_, offset), number) in model.acked.range(of_partition.clone()) {
            assert_eq!(whole.records.get(offset), Some(number), "partition {n}: acknowledged at {offset}");
        }
        for ((_, offset), number) in model.delivered.range(of_partition) {
            assert_eq!(whole.committed.get(offset), Some(number), "partition {n}: delivered at {offset}");
        }
        for number in whole.committed.values() {
            assert!(!model.aborted.contains(number), "partition {n}: record {number} was aborted");
        }
        let there: BTreeSet<u64> = whole.committed.values().copied().collect();
        for (offset, number) in whole.records.range(..whole.stable) {
            let lost = model.committed.contains(number) && !there.contains(number);
            assert!(!lost, "partition {n}: record {number} at {offset} was committed");
        }
    }

    /// A coordinator that starts again: what was decided is written, what was not is aborted.
    async fn recover(&self, store: &Store) -> Vec<i64> {
        let mut ready = Vec::new();
        for producer in 0..PRODUCERS {
            if self.rng.one_in(5) {
                // It has not come back yet: its transaction hangs for a while.
                continue;
            }
            let client = self.client(store, producer);
            let open = !self.model.borrow().producers[&producer].partitions.is_empty();
            if open && self.model.borrow().producers[&producer].decision.is_none() {
                client.decide(false, true);
            }
            client.write_decision().await;
            let mut model = self.model.borrow_mut();
            let p = model.producers.get_mut(&producer).expect("a producer");
            p.epoch += 1;
            p.next_sequence.clear();
            ready.push(producer);
        }
        ready
    }

    fn client(&self, store: &Store, producer: i64) -> Client {
        let (rt, store, model) = (self.node.runtime(), store.clone(), self.model.clone());
        Client { rt, store, model, rng: self.rng.fork(), producer, v2: self.v2 }
    }

    fn life(&self) {
        let store = self.world.block_on(async {
            let store = self.open().await;
            self.verify(&store).await;
            store
        });
        let rt = self.node.runtime();
        let ready = self.world.block_on(self.recover(&store));
        for producer in ready {
            drop(rt.spawn(TaskGroup::Requests, "producer", self.client(&store, producer).run()));
        }
        drop(rt.spawn(TaskGroup::Requests, "plain", self.client(&store, -1).plain()));
        drop(rt.spawn(TaskGroup::Requests, "reader", self.client(&store, -1).read()));
        let micros = 1 + self.rng.below([2_000, 30_000, 150_000][self.rng.index(3)]);
        let world = self.world.handle();
        self.world.block_on(async {
            world.sleep(Duration::from_micros(micros)).await;
        });
        if self.rng.one_in(3) {
            // Clients may go on: they are refused.
            self.world.block_on(store.shutdown()).expect("closes");
        }
        drop(store);
        self.node.crash_by(if self.rng.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill });
        self.node.restart();
        if self.rng.one_in(3) {
            self.remove_indexes();
        }
    }

    /// A transaction index is made again where the offset index is missing, too.
    fn remove_indexes(&self) {
        let files = self.node.files();
        let parsed = |path: &std::path::Path| path.file_name().and_then(|n| n.to_str()).and_then(parse_file_name);
        for (path, _) in &files {
            let Some((base, FileKind::OffsetIndex)) = parsed(path) else { continue };
            let newer = |(other, _): &&(std::path::PathBuf, u64)| {
                other.parent() == path.parent() && parsed(other).is_some_and(|(b, k)| k == FileKind::Log && b > base)
            };
            if !files.iter().any(|f| newer(&f)) || self.rng.one_in(2) {
                continue;
            }
            for kind in [FileKind::OffsetIndex, FileKind::TxnIndex] {
                let path = path.with_file_name(file_name(base, kind));
                if files.iter().any(|f| f.0 == path) {
                    self.node.remove_path(&path);
                }
            }
        }
    }
}

struct Client {
    rt: SimRuntime,
    store: Store,
    model: Shared,
    rng: SimRng,
    producer: i64,
    v2: bool,
}

impl Client {
    fn with<T>(&self, f: impl FnOnce(&mut ProducerModel) -> T) -> T {
        f(self.model.borrow_mut().producers.get_mut(&self.producer).expect("a producer"))
    }

    async fn pause(&self, micros: u64) {
        use coreline_io::Clock;
        self.rt.sleep(Duration::from_micros(self.rng.below(micros))).await;
    }

    async fn run(self) {
        loop {
            let mut whole = true;
            for _ in 0..1 + self.rng.below(5) {
                whole &= self.append().await;
                if self.rng.one_in(3) {
                    self.pause(3000).await;
                }
            }
            let commit = whole && !self.rng.one_in(3);
            // After an append without an answer sequences are unknown: as a client does, with a new epoch.
            self.decide(commit, !whole);
            let before = self.with(|p| p.decision.clone()).expect("just decided");
            self.write_decision().await;
            if self.v2 && self.rng.one_in(4) {
                self.late_copy(&before).await;
            }
        }
    }

    fn numbers(&self, count: u64) -> Vec<u64> {
        let mut model = self.model.borrow_mut();
        model.next_number += count;
        (model.next_number - count..model.next_number).collect()
    }

    fn shape(&self) -> (u64, usize) {
        let size = if self.rng.one_in(8) { 5_000 + self.rng.below(15_000) } else { 8 + self.rng.below(200) };
        (1 + self.rng.below(3), size as usize)
    }

    async fn append(&self) -> bool {
        let (count, size) = self.shape();
        let (n, numbers) = (self.rng.below(u64::from(PARTITIONS)) as u32, self.numbers(count));
        let (epoch, sequence) = self.with(|p| {
            p.partitions.insert(n);
            p.numbers.extend(&numbers);
            let next = p.next_sequence.entry(n).or_default();
            *next += count as i32;
            (p.epoch, *next - count as i32)
        });
        let records = txn_batch(&numbers, size, (self.producer, epoch, sequence));
        match produce_v(&self.store, id(n), records, self.v2).await {
            Ok(appended) => {
                let acked = numbers.iter().enumerate().map(|(i, x)| ((n, appended.base_offset.0 + i as i64), *x));
                self.model.borrow_mut().acked.extend(acked);
                true
            }
            Err(error) => {
                let expected = [ErrorCode::KafkaStorageError];
                assert!(expected.contains(&error.code), "{error}");
                false
            }
        }
    }

    /// From here on the outcome stands.
    fn decide(&self, commit: bool, fence: bool) {
        let mut model = self.model.borrow_mut();
        let p = model.producers.get_mut(&self.producer).expect("a producer");
        let numbers = std::mem::take(&mut p.numbers);
        let bump = self.v2 || fence;
        let epoch = p.epoch + i16::from(bump);
        p.decision = Some(Decision { commit, epoch, partitions: p.partitions.clone() });
        if bump {
            p.epoch = epoch;
            p.next_sequence.clear();
        }
        let fates = if commit { &mut model.committed } else { &mut model.aborted };
        fates.extend(numbers);
    }

    async fn write_decision(&self) {
        let Some(decision) = self.with(|p| p.decision.clone()) else { return };
        let mut left: Vec<u32> = decision.partitions.iter().copied().collect();
        let mut again = self.rng.one_in(4);
        while !left.is_empty() {
            let markers: Vec<_> = left.iter().map(|n| self.marker(*n, &decision)).collect();
            let written = self.store.write_txn_markers(markers, NOW).await;
            let failed = |(n, result): (&u32, &Result<Offset, AppendError>)| match result {
                Ok(_) => None,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::KafkaStorageError, "{error}");
                    Some(*n)
                }
            };
            let failed: Vec<u32> = left.iter().zip(&written).filter_map(failed).collect();
            if !failed.is_empty() {
                self.pause(5000).await;
            }
            // A coordinator that does not know that they are there.
            left = if std::mem::take(&mut again) { left } else { failed };
        }
        self.with(|p| {
            p.decision = None;
            p.partitions.clear();
        });
        self.model.borrow_mut().transactions += 1;
    }

    fn marker(&self, n: u32, decision: &Decision) -> TxnMarker {
        TxnMarker { v2: self.v2, ..marker(n, (self.producer, decision.epoch), 1, decision.commit) }
    }

    /// A copy of the last marker comes when the next transaction is open.
    async fn late_copy(&self, before: &Decision) {
        if !self.append().await {
            return;
        }
        let open: Vec<u32> = self.with(|p| p.partitions.iter().copied().collect());
        let late = open.iter().map(|n| self.marker(*n, before)).collect();
        for result in self.store.write_txn_markers(late, NOW).await {
            let code = result.expect_err("a late marker").code;
            assert!([ErrorCode::InvalidProducerEpoch, ErrorCode::KafkaStorageError].contains(&code), "{code:?}");
        }
    }

    async fn plain(self) {
        loop {
            let (count, size) = self.shape();
            let (n, numbers) = (self.rng.below(u64::from(PARTITIONS)) as u32, self.numbers(count));
            if let Ok(appended) = self.store.append(id(n), batch_of(&numbers, size), LOCAL).await {
                let acked = numbers.iter().enumerate().map(|(i, x)| ((n, appended.base_offset.0 + i as i64), *x));
                self.model.borrow_mut().acked.extend(acked);
            }
            self.pause(3000).await;
        }
    }

    async fn read(self) {
        loop {
            self.pause(3000).await;
            let n = self.rng.below(u64::from(PARTITIONS)) as u32;
            let Ok(ends) = self.store.load_end_offsets(id(n)).await else { continue };
            let offset = self.rng.below(ends.last_stable.0 as u64 + 1) as i64;
            let asked = committed_request(offset, 1 + self.rng.below(60_000) as usize);
            let Ok(result) = self.store.read(id(n), asked).await else { continue };
            assert!(result.last_stable_offset >= ends.last_stable, "it goes back");
            let records = filtered(&result).into_iter().filter(|r| r.0 >= offset);
            let mut model = self.model.borrow_mut();
            let stable = model.stable.entry(n).or_default();
            *stable = (*stable).max(ends.last_stable.0);
            for (offset, number) in records {
                assert!(offset < result.last_stable_offset.0);
                assert!(!model.aborted.contains(&number), "record {number} was aborted, and delivered");
                model.delivered.insert((n, offset), number);
            }
        }
    }
}

fn run(seed: u64) -> (u64, u64, u64) {
    let (world, node) = world(seed);
    let rng = Rc::new(world.rng());
    let v2 = rng.one_in(2);
    let producers = (0..PRODUCERS).map(|n| (n, ProducerModel::default())).collect();
    let model = Rc::new(RefCell::new(Model { producers, ..Model::default() }));
    let run = Run { world, node, rng, model, fatals: Fatals::default(), v2 };
    for _ in 0..2 + run.rng.below(4) {
        run.life();
    }
    run.world.block_on(async {
        let store = run.open().await;
        run.verify(&store).await;
    });
    let model = run.model.borrow();
    (run.world.trace_hash(), model.transactions, model.delivered.len() as u64)
}

#[test]
fn readers_of_committed_records_get_what_was_committed() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds: Vec<u64> = match number("CORELINE_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number("CORELINE_SEED_FROM").unwrap_or(0);
            (first..first + number("CORELINE_SEEDS").unwrap_or(SEEDS)).collect()
        }
    };
    let current = Cell::new(0);
    let (mut transactions, mut delivered) = (0, 0);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for seed in &seeds {
            current.set(*seed);
            let (_, t, d) = run(*seed);
            transactions += t;
            delivered += d;
        }
    }));
    if let Err(panic) = result {
        let seed = current.get();
        eprintln!(
            "failed with seed {seed}; replay: CORELINE_SEED={seed} cargo test --lib store::tests::txn_simulation"
        );
        std::panic::resume_unwind(panic);
    }
    assert!(seeds.len() < 50 || (transactions > 500 && delivered > 500), "{transactions} ends, {delivered} delivered");
}
