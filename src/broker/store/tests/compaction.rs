//! Compacted partitions over many seeds: while they are written, compacted and read, power is lost, processes are killed,
//! disks fill up and fail. Of each key the last acknowledged record must be there, at its offset, whatever happened.
//!
//! `CORELINE_SEED=7 cargo test --lib store::tests::compaction` runs one seed, `CORELINE_SEEDS=5000` the first 5,000.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder, Compression};
use crate::log::compaction::Swap;
use crate::log::compression::decompress;
use crate::log::log_config::{LogConfig, Ratio};
use crate::log::segment::{FileKind, parse_file_name};
use bytes::BytesMut;
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimRng, SimRuntime, SimWorld};
use coreline_io::{Clock, TaskGroup, Tasks};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

const SEEDS: u64 = 80;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Key and number; a tombstone has no number.
type Entry = (u8, Option<u64>);

/// What must be true of one partition.
#[derive(Default)]
struct Model {
    /// Acknowledged, or read: at its offset for ever, until a later one of its key is.
    fixed: BTreeMap<i64, Entry>,
    next_number: u64,
    next_sequence: i32,
    /// The batch of the idempotent producer that has no answer.
    unanswered: Option<(Vec<Entry>, i32)>,
    /// What was attempted and has no answer yet may be found, too.
    attempted: Vec<Entry>,
}

/// What the runs did, all together: a run that does nothing proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    compactions: u64,
    removed: u64,
    /// Restarts that found files of a cleaning, and a swap that was not at its end.
    found_cleaned: u64,
    found_swaps: u64,
    trace: u64,
}

struct Run {
    world: SimWorld,
    node: SimNode,
    rng: Rc<SimRng>,
    models: Rc<RefCell<Vec<Model>>>,
    fatals: Fatals,
    config: LogConfig,
    options: CleanerOptions,
    rounds: i32,
    done: Done,
}

const PARTITIONS: u32 = 2;

impl Run {
    fn new(seed: u64) -> Self {
        let (world, node) = world(seed);
        let rng = Rc::new(world.rng());
        let config = LogConfig {
            compacted: true,
            segment_bytes: 6_000 + rng.below(20_000),
            max_message_bytes: 6_000,
            min_cleanable_dirty_ratio: Ratio::new([0.0, 0.2, 0.5][rng.index(3)]),
            delete_retention_ms: [0, 3, 1_000_000][rng.index(3)],
            ..small_config()
        };
        let options = CleanerOptions {
            backoff: Duration::from_millis(1 + rng.below(3)),
            dedupe_buffer_bytes: 24 * rng.below(60) as usize,
            io_buffer_bytes: 512 + rng.below(8_000) as usize,
            ..CleanerOptions::default()
        };
        let models = Rc::new(RefCell::new((0..PARTITIONS).map(|_| Model::default()).collect()));
        let (fatals, rounds, done) = (Fatals::default(), 0, Done::default());
        Self { world, node, rng, models, fatals, config, options, rounds, done }
    }

    async fn open(&self) -> Store {
        let options = StoreOptions { cleaner: self.options.clone(), ..dying_options(0, &self.fatals) };
        let store = LogStore::open(self.node.runtime(), options).await.expect("the store opens");
        for n in 0..PARTITIONS {
            store.assign(spec(n, self.rounds, self.config.clone()));
        }
        store.assignments_complete();
        store
    }

    fn spawn_clients(&self, store: &Store) {
        let rt = self.node.runtime();
        for n in 0..PARTITIONS {
            let client = || Client {
                rt: rt.clone(),
                store: store.clone(),
                models: self.models.clone(),
                rng: self.rng.fork(),
                n,
            };
            drop(rt.spawn(TaskGroup::Requests, "client", client().produce(n == 1)));
            drop(rt.spawn(TaskGroup::Requests, "reader", client().read()));
            drop(rt.spawn(TaskGroup::Requests, "impatient", client().ask_for_compactions()));
        }
    }

    /// Things go wrong while clients work and partitions are compacted.
    async fn trouble(&self, duration: Duration) {
        let rt = self.world.handle();
        let used: u64 = self.node.files().iter().map(|f| f.1).sum();
        match self.rng.below(8) {
            0 | 1 => {
                rt.sleep(duration / 4).await;
                self.node.set_disk_capacity(Some(used + self.rng.below(100_000)));
                rt.sleep(duration / 2).await;
                self.node.set_disk_capacity(None);
                rt.sleep(duration / 4).await;
            }
            2 => {
                let op = if self.rng.one_in(2) { DiskOp::Write } else { DiskOp::Sync };
                let path = [Swap::SUFFIX, Swap::FILE, "cleaner-offset", ""][self.rng.index(4)];
                self.node.disk_faults(|f| f.fail_after(op, path, self.rng.below(20)));
                rt.sleep(duration).await;
                self.node.disk_faults(|f| f.clear());
            }
            _ => rt.sleep(duration).await,
        }
    }

    fn round(&mut self) {
        let store = self.world.block_on(self.open());
        self.spawn_clients(&store);
        let duration = Duration::from_micros(1 + self.rng.below([10_000, 60_000, 300_000][self.rng.index(3)]));
        self.world.block_on(self.trouble(duration));
        assert!(self.node.exited().is_some() || self.fatals.borrow().is_empty());
        self.note(&store);
        if self.node.is_up() && self.rng.one_in(5) {
            let (rt, store) = (self.node.runtime(), store.clone());
            drop(rt.spawn(TaskGroup::Requests, "shutdown", async move { drop(store.shutdown().await) }));
            self.world.block_on(self.world.handle().sleep(Duration::from_micros(self.rng.below(50_000))));
        }
        drop(store);
        self.crash();
        if self.rng.one_in(3) {
            self.remove_some_indexes();
        }
        self.fatals.take();
        let store = self.world.block_on(async {
            let store = self.open().await;
            self.verify(&store).await;
            store
        });
        assert!(self.fatals.borrow().is_empty(), "{:?}", self.fatals);
        self.note(&store);
        drop(store);
        self.crash();
        self.rounds += 1;
    }

    fn note(&mut self, store: &Store) {
        let stats = store.stats();
        assert_eq!(stats.uncleanable_partitions, 0, "nothing was damaged");
        self.done.compactions += stats.compactions;
        self.done.removed += stats.compacted_records;
    }

    fn crash(&mut self) {
        if !self.node.is_up() {
            self.node.restart();
        }
        self.node.crash_by(if self.rng.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill });
        self.node.restart();
        let names: Vec<String> =
            self.node.files().iter().filter_map(|(p, _)| p.file_name()?.to_str().map(str::to_owned)).collect();
        self.done.found_cleaned += u64::from(names.iter().any(|n| n.ends_with(Swap::SUFFIX)));
        self.done.found_swaps += u64::from(names.iter().any(|n| n == Swap::FILE));
    }

    /// What is there must be what the model knows; then it is what the model knows.
    async fn verify(&self, store: &Store) {
        for n in 0..PARTITIONS {
            let ends = store.load_end_offsets(id(n)).await.expect("loads");
            assert_eq!(ends.log_start, Offset(0));
            let found = survivors(store, n, 0, 1 + self.rng.below(30_000) as usize).await;
            self.compare(n, &found);
            self.ask_at_random(store, n, &found).await;
        }
    }

    fn compare(&self, n: u32, found: &[(i64, Entry)]) {
        let model = &mut self.models.borrow_mut()[n as usize];
        for (offset, entry) in found {
            let known = model.fixed.get(offset).map_or_else(|| model.attempted.contains(entry), |e| e == entry);
            assert!(known, "partition {n}: {entry:?} at {offset}, expected {:?}", model.fixed.get(offset));
            model.fixed.insert(*offset, *entry);
        }
        assert_last_of_each_key(n, &model.fixed, found);
    }

    /// Reads from any offset give the next survivor, questions by time the first record of that time.
    async fn ask_at_random(&self, store: &Store, n: u32, found: &[(i64, Entry)]) {
        let end = store.load_end_offsets(id(n)).await.expect("loaded").high_watermark.0;
        for _ in 0..5 {
            let offset = self.rng.below(end as u64 + 1) as i64;
            let next = survivors(store, n, offset, 1 + self.rng.below(9_000) as usize).await;
            // The cleaner goes on meanwhile.
            let later: Vec<_> = found.iter().filter(|f| f.0 >= offset).collect();
            assert!(next.iter().all(|s| later.contains(&s)), "from {offset}: {next:?}, expected some of {later:?}");
        }
        // A tombstone may go meanwhile, the last value of a key stays.
        let last = found.iter().rev().find(|f| f.1.1.is_some() && found.iter().all(|l| l.1.0 != f.1.0 || l.0 <= f.0));
        let Some((offset, _)) = last else { return };
        let query = OffsetQuery::Timestamp(NOW + *offset);
        let answer = store.list_offset(id(n), query, None).await.expect("an answer");
        assert_eq!(answer.map(|a| (a.offset.0, a.timestamp)), Some((*offset, NOW + *offset)));
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

/// The last acknowledged record of each key is there; a tombstone may be gone, but then nothing before it is there.
fn assert_last_of_each_key(n: u32, fixed: &BTreeMap<i64, Entry>, found: &[(i64, Entry)]) {
    let mut last: BTreeMap<u8, (i64, Option<u64>)> = BTreeMap::new();
    for (offset, (key, number)) in fixed {
        last.insert(*key, (*offset, *number));
    }
    for (key, (offset, number)) in last {
        let there = found.iter().rev().find(|f| f.1.0 == key).map(|f| f.0);
        if number.is_some() {
            assert_eq!(there, Some(offset), "partition {n}: the last record of key {key}");
        } else {
            assert!(
                there.is_none() || there == Some(offset),
                "partition {n}: key {key} was deleted at {offset}, {there:?}"
            );
        }
    }
}

/// All records from `from` on: offset, key, number. Offsets grow, bytes are right, empty batches are passed.
pub(super) async fn survivors(store: &Store, n: u32, from: i64, max_bytes: usize) -> Vec<(i64, Entry)> {
    let mut found: Vec<(i64, Entry)> = Vec::new();
    let mut next = from;
    loop {
        let result = store.read(id(n), request(next, max_bytes)).await.expect("a read inside the log");
        if next >= result.high_watermark.0 {
            return found;
        }
        let bytes = result.records.concat();
        assert!(!bytes.is_empty(), "nothing from {next} on, the high watermark is {}", result.high_watermark);
        let before = next;
        for item in batch::batches(&bytes) {
            let (header, range) = item.expect("whole batches");
            let bytes = &bytes[range];
            batch::check_crc(&header, bytes).expect("a good batch");
            found.extend(entries(bytes).into_iter().filter(|e| e.0 >= next));
            next = header.next_offset().0;
        }
        assert!(next > before, "a read that ends at {next} when asked for {before}");
        assert!(found.is_sorted_by_key(|f| f.0));
    }
}

fn entries(bytes: &[u8]) -> Vec<(i64, Entry)> {
    let mut header = batch::parse_header(bytes).expect("a header");
    let mut plain = bytes[..batch::HEADER_LEN].to_vec();
    if header.record_count > 0 {
        let codec = header.compression().expect("a codec");
        plain.extend(decompress(codec, &bytes[batch::HEADER_LEN..], 1 << 20).expect("decompresses"));
    }
    header.batch_length = (plain.len() - batch::LENGTH_END) as i32;
    let entry = |record: batch::Record<'_>| {
        let key = record.key.expect("a key")[0];
        let number = record.value.map(|v| u64::from_be_bytes(v[..8].try_into().expect("8 bytes")));
        assert!(record.value.is_none_or(|v| v[8..].iter().all(|b| *b == key)));
        assert_eq!(record.timestamp, NOW + record.offset.0);
        (record.offset.0, (key, number))
    };
    batch::records(&header, &plain).map(|r| entry(r.expect("a good record"))).collect()
}

/// A task of the node that works on one partition.
struct Client {
    rt: SimRuntime,
    store: Store,
    models: Rc<RefCell<Vec<Model>>>,
    rng: SimRng,
    n: u32,
}

impl Client {
    /// Whoever asks for a compaction is told of its end, and then there is one record of each key but for what came later.
    async fn ask_for_compactions(self) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(30_000))).await;
            let Ok(begun) = self.store.compact_now(id(self.n)).await else { continue };
            let mut state = begun.clone();
            while state.pending {
                self.rt.sleep(Duration::from_millis(1)).await;
                let Ok(now) = self.store.compaction_state(id(self.n)).await else { break };
                state = now;
            }
            assert!(
                state.pending || state.compacted_end >= begun.high_watermark,
                "asked at {begun:?}, done at {state:?}"
            );
        }
    }

    /// One batch at a time: offsets, and so the records' times, are known beforehand.
    async fn produce(self, idempotent: bool) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(600))).await;
            let Ok(ends) = self.store.load_end_offsets(id(self.n)).await else { continue };
            let (entries, sequence) = self.next_batch(idempotent);
            let bytes = self.build(&entries, ends.log_end.0, idempotent.then_some(sequence));
            let answer = self.store.append(id(self.n), bytes, LOCAL).await;
            let mut models = self.models.borrow_mut();
            let model = &mut models[self.n as usize];
            match answer {
                Ok(appended) => {
                    for (i, entry) in entries.iter().enumerate() {
                        let old = model.fixed.insert(appended.base_offset.0 + i as i64, *entry);
                        assert!(old.is_none_or(|o| o == *entry), "{old:?} was there, {entry:?} is acknowledged");
                    }
                    model.unanswered = None;
                    model.attempted.clear();
                }
                Err(error) => assert_eq!(error.code, ErrorCode::KafkaStorageError, "{error}"),
            }
        }
    }

    fn next_batch(&self, idempotent: bool) -> (Vec<Entry>, i32) {
        let mut models = self.models.borrow_mut();
        let model = &mut models[self.n as usize];
        if let Some(again) = model.unanswered.clone().filter(|_| idempotent) {
            return again;
        }
        let keys = [3, 20, 200][self.rng.index(3)];
        let mut entries = Vec::new();
        for _ in 0..1 + self.rng.below(8) {
            model.next_number += 1;
            let number = Some(model.next_number).filter(|_| !self.rng.one_in(5));
            entries.push((self.rng.below(keys) as u8, number));
        }
        let sequence = model.next_sequence;
        model.next_sequence += entries.len() as i32;
        model.attempted.extend(&entries);
        model.unanswered = Some((entries.clone(), sequence));
        (entries, sequence)
    }

    fn build(&self, entries: &[Entry], base: i64, sequence: Option<i32>) -> BytesMut {
        let mut builder = BatchBuilder::default().compression(CODECS[self.rng.index(5)]);
        if let Some(sequence) = sequence {
            builder = builder.producer(ProducerId(77), ProducerEpoch(0), sequence);
        }
        let size = 8 + self.rng.below(500) as usize;
        for (i, (key, number)) in entries.iter().enumerate() {
            let value = number.map(|n| {
                let mut value = vec![*key; size];
                value[..8].copy_from_slice(&n.to_be_bytes());
                value
            });
            builder.push(NOW + base + i as i64, Some(&[*key]), value.as_deref());
        }
        BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
    }

    /// Reads at random places, also while files are swapped.
    async fn read(self) {
        loop {
            self.rt.sleep(Duration::from_micros(self.rng.below(1500))).await;
            let Ok(ends) = self.store.load_end_offsets(id(self.n)).await else { continue };
            let offset = self.rng.below(ends.high_watermark.0 as u64 + 1) as i64;
            let asked = request(offset, 1 + self.rng.below(20_000) as usize);
            let Ok(result) = self.store.read(id(self.n), asked).await else { continue };
            let bytes = result.records.concat();
            assert!(offset >= ends.high_watermark.0 || !bytes.is_empty(), "nothing from {offset} on");
            let mut first = true;
            for item in batch::batches(&bytes) {
                let (header, range) = item.expect("whole batches");
                batch::check_crc(&header, &bytes[range.clone()]).expect("a good batch");
                assert!(!first || header.last_offset().0 >= offset, "a batch before the offset asked for");
                first = false;
                let model = &mut self.models.borrow_mut()[self.n as usize];
                for (offset, entry) in entries(&bytes[range]) {
                    let old = *model.fixed.entry(offset).or_insert(entry);
                    assert_eq!(old, entry, "read at {offset}");
                }
            }
        }
    }
}

fn run(seed: u64) -> Done {
    let mut run = Run::new(seed);
    for _ in 0..1 + run.rng.below(4) {
        run.round();
    }
    Done { trace: run.world.trace_hash(), ..run.done }
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
fn the_last_record_of_each_key_survives() {
    let mut all = Done::default();
    let seeds = seeds();
    for seed in &seeds {
        let done = std::panic::catch_unwind(|| run(*seed)).unwrap_or_else(|panic| {
            eprintln!(
                "failed with seed {seed}; replay: CORELINE_SEED={seed} cargo test --lib store::tests::compaction"
            );
            std::panic::resume_unwind(panic);
        });
        all.compactions += done.compactions;
        all.removed += done.removed;
        all.found_cleaned += done.found_cleaned;
        all.found_swaps += done.found_swaps;
    }
    if seeds.len() > 1 {
        println!("{} seeds: {all:?}", seeds.len());
    }
    let enough = all.compactions > 100 && all.removed > 1000 && all.found_cleaned > 5 && all.found_swaps > 2;
    assert!(seeds.len() < 50 || enough, "the runs do too little: {all:?}");
}

#[test]
fn a_seed_is_a_run() {
    assert_eq!(run(11), run(11));
}

#[test]
fn records_without_a_key_are_refused_by_number() {
    let (world, node) = world(1);
    world.block_on(async {
        let store = open(&node, &Fatals::default(), 1, 0).await;
        store.assign(spec(0, 0, LogConfig { compacted: true, ..small_config() }));
        for codec in CODECS {
            let mut builder = BatchBuilder::default().compression(codec);
            for n in 0..5 {
                builder.push(NOW, Some(&[n]).filter(|_| n % 2 == 0).map(|k| &k[..]), Some(b"value"));
            }
            let bytes = BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..]);
            let error = store.append(id(0), bytes.clone(), LOCAL).await.expect_err("no key");
            assert_eq!(error.code, ErrorCode::InvalidRecord);
            assert_eq!(error.message, "One or more records have been rejected due to 2 record errors in total");
            let refused: Vec<_> = error.record_errors.iter().map(|e| (e.batch_index, e.message.as_str())).collect();
            let message = "Compacted topic cannot accept message without key in topic partition topic0-0.";
            assert_eq!(refused, [(1, message), (3, message)], "{codec:?}");
            store.assign(spec(0, 0, small_config()));
            store.append(id(0), bytes, LOCAL).await.expect("any topic but a compacted one takes it");
            store.assign(spec(0, 0, LogConfig { compacted: true, ..small_config() }));
        }
        let mut more = BatchBuilder::default();
        let mut bytes = more.push(NOW, Some(b"key"), Some(b"value")).build(Offset(0), LeaderEpoch(-1));
        bytes[23..27].copy_from_slice(&1_i32.to_be_bytes());
        bytes[57..61].copy_from_slice(&2_i32.to_be_bytes());
        batch::set_max_timestamp(&mut bytes, NOW);
        let error = store.append(id(0), BytesMut::from(&bytes[..]), LOCAL).await.expect_err("one record, not two");
        assert_eq!(error.code, ErrorCode::InvalidRecord);
    });
}

/// Compacted whenever there is anything to compact, with segments of ten batches [`of_one_key`].
pub(super) fn ten_batches_a_segment() -> LogConfig {
    LogConfig {
        compacted: true,
        segment_bytes: 8_000,
        max_message_bytes: 4_000,
        min_cleanable_dirty_ratio: Ratio::new(0.0),
        ..small_config()
    }
}

/// A batch of one record.
pub(super) fn of_one_key(later_ms: i64) -> BytesMut {
    let mut builder = BatchBuilder::default();
    builder.push(NOW + later_ms, Some(&[7]), Some(&[7; 700]));
    BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
}

#[test]
fn what_cannot_be_cleaned_is_set_aside_and_the_rest_goes_on() {
    let (world, node) = world(2);
    world.block_on(async {
        let options = StoreOptions {
            cleaner: CleanerOptions { backoff: Duration::from_millis(200), ..CleanerOptions::default() },
            ..dying_options(0, &Fatals::default())
        };
        let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
        for n in 0..2 {
            store.assign(spec(n, 0, ten_batches_a_segment()));
            for i in 0..40 {
                store.append(id(n), of_one_key(i), LOCAL).await.expect("acked");
            }
        }
        world.handle().sleep(Duration::from_millis(20)).await;
        let first = format!("{}/topic0-0/00000000000000000000.log", SimNode::DATA_DIR);
        assert!(node.flip_bit(&first, 200..300), "the first segment is there");
        world.handle().sleep(Duration::from_secs(40)).await;
        let stats = store.stats();
        assert_eq!(stats.uncleanable_partitions, 1);
        assert_eq!(store.uncleanable(10), [("topic0".into(), 0)], "it is named");
        assert_eq!(store.uncleanable(0), []);
        assert!(stats.compactions > 0);
        assert_eq!(store.compacted_end(id(0)), Some(Offset(0)));
        assert!(store.compacted_end(id(1)).is_some_and(|end| end.0 > 20));
        let left = survivors(&store, 1, 0, 100_000).await.len();
        assert!(left < 20, "{left} records are left of 40 with one key");
        // Told again what it obeys, it is tried again; it is still damaged.
        store.reconfigure(id(0), std::sync::Arc::new(ten_batches_a_segment()));
        assert_eq!(store.stats().uncleanable_partitions, 0);
        world.handle().sleep(Duration::from_secs(1)).await;
        assert_eq!(store.stats().uncleanable_partitions, 1);
    });
}

#[test]
fn a_full_segment_is_cleaned_without_waiting_for_a_flush() {
    let (world, node) = world(3);
    world.block_on(async {
        let options = StoreOptions {
            flush_bytes: 1 << 20,
            cleaner: CleanerOptions { backoff: Duration::from_millis(5), ..CleanerOptions::default() },
            ..dying_options(0, &Fatals::default())
        };
        let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
        store.assign(spec(0, 0, ten_batches_a_segment()));
        let mut cleaned = Offset(0);
        // One segment after the other fills up, with time for the cleaner between any two batches.
        for i in 0..60 {
            store.append(id(0), of_one_key(i), LOCAL).await.expect("acked");
            world.handle().sleep(Duration::from_millis(200)).await;
            let end = store.compacted_end(id(0)).unwrap_or(Offset(0));
            assert!(end.0 >= i - 11, "at offset {i}, segments of 10 batches, it is cleaned to {end} only");
            cleaned = end;
        }
        assert!(cleaned.0 > 40, "cleaned to {cleaned}");
    });
}
