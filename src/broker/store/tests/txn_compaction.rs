//! Compacted partitions with transactions: what readers of committed records see of each key stays, whatever was aborted
//! before or after it, over cleanings and restarts.

use super::harness::*;
use super::txn::{marker, produce_v};
use crate::broker::store::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder};
use crate::log::log_config::{LogConfig, Ratio};
use crate::log::txn_marker::read_marker;
use bytes::BytesMut;
use coreline_io::sim::{CrashKind, SimNode, SimRng};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Key → offset and number.
type View = BTreeMap<u8, (i64, u64)>;

fn keyed(records: &[(u8, u64)], size: usize, producer: Option<(i64, i16, i32)>) -> BytesMut {
    let mut builder = BatchBuilder::default();
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.attributes(0x10).producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    }
    for (key, number) in records {
        let mut value = number.to_be_bytes().to_vec();
        value.resize(size.max(8), *key);
        builder.push(NOW, Some(&[*key]), Some(&value));
    }
    BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
}

async fn opened(node: &SimNode, fatals: &Fatals, epoch: i32, delete_retention_ms: i64) -> Store {
    let config = LogConfig {
        compacted: true,
        segment_bytes: 4_000,
        max_message_bytes: 3_000,
        min_cleanable_dirty_ratio: Ratio::new(0.0),
        delete_retention_ms,
        ..small_config()
    };
    let cleaner = CleanerOptions { backoff: Duration::from_millis(1), ..CleanerOptions::default() };
    let options = StoreOptions { cleaner, ..dying_options(0, fatals) };
    let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
    store.assign(spec(0, epoch, config));
    store.assignments_complete();
    store
}

/// What a reader of committed records makes of the whole log, from `from` on; and the numbers that the log holds at all.
async fn view(store: &Store, from: i64, max_bytes: usize) -> (View, BTreeSet<u64>) {
    let (mut view, mut all) = (View::new(), BTreeSet::new());
    let mut aborted = BTreeSet::new();
    let mut next = from;
    loop {
        let asked = ReadRequest { isolation: Isolation::ReadCommitted, ..request(next, max_bytes) };
        let result = store.read(id(0), asked).await.expect("a read");
        if result.records.is_empty() {
            return (view, all);
        }
        let mut waiting: Vec<_> = result.aborted.iter().map(|a| (a.first_offset.0, a.producer_id)).collect();
        waiting.sort_unstable();
        aborted.clear();
        let bytes = result.records.concat();
        for found in batch::batches(&bytes) {
            let (header, range) = found.expect("whole batches");
            let bytes = &bytes[range];
            while waiting.first().is_some_and(|(first, _)| *first <= header.last_offset().0) {
                aborted.insert(waiting.remove(0).1);
            }
            next = header.next_offset().0;
            if header.is_control() {
                if read_marker(&header, bytes).is_some_and(|m| !m.commit) {
                    aborted.remove(&header.producer_id);
                }
                continue;
            }
            let visible = !header.is_transactional() || !aborted.contains(&header.producer_id);
            for record in batch::records(&header, bytes).map(|r| r.expect("a record")) {
                let (key, value) = (record.key.expect("a key")[0], record.value.expect("a value"));
                let number = u64::from_be_bytes(value[..8].try_into().expect("8 bytes"));
                all.insert(number);
                if visible && record.offset.0 >= from {
                    view.insert(key, (record.offset.0, number));
                }
            }
        }
    }
}

#[derive(Default)]
struct Producer {
    epoch: i16,
    sequence: i32,
    /// Key, offset and number.
    open: Vec<(u8, i64, u64)>,
}

struct Workload {
    rng: SimRng,
    producers: BTreeMap<i64, Producer>,
    number: u64,
    committed: BTreeMap<i64, (u8, u64)>,
    aborted: BTreeSet<u64>,
}

impl Workload {
    async fn step(&mut self, store: &Store) {
        let records: Vec<(u8, u64)> =
            (0..1 + self.rng.below(3)).map(|i| (self.rng.below(9) as u8, self.number + i)).collect();
        self.number += records.len() as u64;
        let size = 8 + self.rng.below(300) as usize;
        let id_of = self.rng.below(4) as i64;
        if id_of == 3 {
            let appended = store.append(id(0), keyed(&records, size, None), LOCAL).await.expect("appended");
            let base = appended.base_offset.0;
            self.committed.extend(records.iter().enumerate().map(|(i, r)| (base + i as i64, *r)));
            return;
        }
        let producer = self.producers.entry(id_of).or_default();
        if !producer.open.is_empty() && self.rng.one_in(2) {
            let commit = self.rng.one_in(2);
            self.end(store, id_of, commit).await;
            return;
        }
        let batch = keyed(&records, size, Some((id_of, producer.epoch, producer.sequence)));
        producer.sequence += records.len() as i32;
        let base = produce_v(store, id(0), batch, false).await.expect("appended").base_offset.0;
        producer.open.extend(records.iter().enumerate().map(|(i, r)| (r.0, base + i as i64, r.1)));
    }

    async fn end(&mut self, store: &Store, id_of: i64, commit: bool) {
        let producer = self.producers.get_mut(&id_of).expect("a producer");
        let written = store.write_txn_markers(vec![marker(0, (id_of, producer.epoch), 1, commit)], NOW).await;
        assert!(written[0].is_ok(), "{written:?}");
        for (key, offset, number) in producer.open.drain(..) {
            if commit {
                self.committed.insert(offset, (key, number));
            } else {
                self.aborted.insert(number);
            }
        }
    }

    fn expected(&self) -> View {
        self.committed.iter().map(|(offset, (key, number))| (*key, (*offset, *number))).collect()
    }
}

/// Gives the cleanings, and how many aborted records they removed.
fn run(seed: u64) -> (u64, usize) {
    let (world, node) = world(seed);
    let rng = world.rng();
    let fatals = Fatals::default();
    let delete_retention_ms = [0, 2, 1_000_000][rng.index(3)];
    let mut work = Workload {
        rng: rng.fork(),
        producers: BTreeMap::new(),
        number: 0,
        committed: BTreeMap::new(),
        aborted: BTreeSet::new(),
    };
    let (mut cleanings, mut removed) = (0, 0);
    for epoch in 0..3 {
        let clock = world.handle();
        world.block_on(async {
            let store = opened(&node, &fatals, epoch, delete_retention_ms).await;
            for _ in 0..150 {
                work.step(&store).await;
                if rng.one_in(10) {
                    clock.sleep(Duration::from_millis(rng.below(5))).await;
                }
            }
            for id_of in 0..3 {
                work.producers.entry(id_of).or_default();
                work.end(&store, id_of, rng.one_in(2)).await;
            }
            clock.sleep(Duration::from_millis(50)).await;
            for _ in 0..3 {
                let (found, all) = view(&store, 0, 1 + rng.below(4_000) as usize).await;
                assert_eq!(found, work.expected());
                removed = work.aborted.iter().filter(|number| !all.contains(number)).count();
            }
            cleanings += store.stats().compactions;
            if rng.one_in(2) {
                store.shutdown().await.expect("closes");
            }
        });
        node.crash_by(if rng.one_in(2) { CrashKind::PowerLoss } else { CrashKind::Kill });
        node.restart();
        world.block_on(async {
            let store = opened(&node, &fatals, epoch, delete_retention_ms).await;
            let (found, _) = view(&store, 0, 1 + rng.below(4_000) as usize).await;
            assert_eq!(found, work.expected(), "after a restart");
        });
        node.crash_by(CrashKind::Kill);
        node.restart();
    }
    assert!(fatals.borrow().is_empty(), "{fatals:?}");
    (cleanings, removed)
}

#[test]
fn of_each_key_the_last_committed_record_stays() {
    let (mut cleanings, mut removed) = (0, 0);
    let seeds = match std::env::var("CORELINE_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..12,
    };
    for seed in seeds.clone() {
        eprintln!("seed {seed}");
        let (c, r) = run(seed);
        cleanings += c;
        removed += r;
    }
    assert!(seeds.count() < 10 || (cleanings > 50 && removed > 500), "{cleanings} cleanings, {removed} removed");
}
