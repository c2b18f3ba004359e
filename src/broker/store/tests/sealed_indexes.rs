//! Indexes of complete segments that are there and wrong: short, damaged, of other bytes. Whatever is in them, readers get
//! the right records, questions by time the right answers, and the files are made anew.

use super::harness::*;
use crate::broker::store::*;
use crate::log::log_config::LogConfig;
use coreline_io::Clock;
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimRng};
use std::path::PathBuf;
use std::time::Duration;

const RECORDS: u64 = 120;

/// What is done to an index: the file, its bytes before, bytes of the other index of that kind.
type Damage = fn(&mut Vec<u8>, &[u8], usize, &SimRng);

/// Entries of so many bytes.
fn entry_len(path: &std::path::Path) -> usize {
    if path.extension().is_some_and(|e| e == "index") { 8 } else { 12 }
}

const DAMAGES: [(&str, Damage); 8] = [
    ("empty", |bytes, _, _, _| bytes.clear()),
    ("short by entries", |bytes, _, len, rng| bytes.truncate(rng.below((bytes.len() / len) as u64) as usize * len)),
    ("torn", |bytes, _, _, rng| bytes.truncate(rng.index(bytes.len()))),
    ("a flipped bit", |bytes, _, _, rng| {
        let at = rng.index(bytes.len());
        bytes[at] ^= 1 << rng.below(8);
    }),
    // Of an offset index: offset or position. Of a time index: time or offset.
    ("a low bit of an entry", |bytes, _, len, rng| {
        let entry = rng.index(bytes.len() / len);
        let number = if rng.one_in(2) { len - 1 } else { len - 5 };
        bytes[entry * len + number] ^= 1 << rng.below(4);
    }),
    ("zeros behind it", |bytes, _, _, _| bytes.resize(bytes.len() + 4096, 0)),
    ("noise", |bytes, _, _, rng| bytes.iter_mut().for_each(|b| *b = rng.below(256) as u8)),
    ("of another segment", |bytes, other, _, _| *bytes = other.to_vec()),
];

fn sealed_indexes(node: &SimNode) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = node.files().into_iter().map(|f| f.0);
    let mut found: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == "index" || e == "timeindex"))
        .map(|p| (p.clone(), node.file_contents(&p).expect("it is there")))
        .collect();
    found.sort();
    let active = found.iter().map(|(p, _)| p.file_stem().expect("named").to_owned()).max().expect("some");
    found.retain(|(p, bytes)| p.file_stem() != Some(&active) && !bytes.is_empty());
    found
}

/// Every second seed has few entries: what is wrong of one concerns many batches.
async fn open_one(node: &SimNode, fatals: &Fatals, seed: u64) -> Store {
    let store = open(node, fatals, 0, 0).await;
    let index_interval_bytes = if (seed / 8).is_multiple_of(2) { 512 } else { 12 << 10 };
    store.assign(spec(0, 0, LogConfig { index_interval_bytes, ..small_config() }));
    store
}

async fn fill(node: &SimNode, fatals: &Fatals, seed: u64, rng: &SimRng) {
    let store = open_one(node, fatals, seed).await;
    let mut next = 0;
    while next < RECORDS {
        let numbers: Vec<u64> = (next..RECORDS.min(next + 1 + rng.below(4))).collect();
        next += numbers.len() as u64;
        store.append(id(0), batch_of(&numbers, 600 + rng.index(2000)), LOCAL).await.expect("acked");
    }
    store.shutdown().await.expect("closes");
}

/// Everything that an index is asked.
async fn ask(store: &Store, rng: &SimRng) {
    for _ in 0..6 {
        match rng.below(3) {
            0 => {
                let from = rng.below(RECORDS);
                let expected: Vec<_> = (from..RECORDS).map(|n| (n as i64, n)).collect();
                assert_eq!(read_all(store, id(0), from as i64, 3000).await, expected, "from {from}");
            }
            1 => {
                let n = rng.below(RECORDS) as i64;
                let found = store.list_offset(id(0), OffsetQuery::Timestamp(NOW + n), None).await.expect("an answer");
                assert_eq!(found.map(|f| f.offset.0), Some(n), "the record of that time");
            }
            _ => {
                let found = store.list_offset(id(0), OffsetQuery::MaxTimestamp, None).await.expect("an answer");
                assert_eq!(found.map(|f| f.offset.0), Some(RECORDS as i64 - 1), "the latest record");
            }
        }
    }
}

#[test]
fn damaged_indexes_of_sealed_segments_are_seen_and_made_anew() {
    let mut made = 0;
    for seed in 0..160 {
        let (world, node) = world_with(seed, CrashKind::Kill);
        let fatals = Fatals::default();
        let rng = world.rng();
        world.block_on(fill(&node, &fatals, seed, &rng));
        let before = sealed_indexes(&node);
        assert!(before.len() >= 2, "a segment is complete: {before:?}");
        let (what, damage) = DAMAGES[seed as usize % DAMAGES.len()];
        let mut damaged = Vec::new();
        for (at, (path, bytes)) in before.iter().enumerate() {
            if rng.one_in(3) {
                continue;
            }
            let other =
                before.iter().skip(at + 1).chain(&before).find(|(p, b)| entry_len(p) == entry_len(path) && b != bytes);
            let mut bytes = bytes.clone();
            damage(&mut bytes, other.map_or(&[], |(_, b)| b), entry_len(path), &rng);
            node.put_file(path, &bytes);
            damaged.push((path.clone(), bytes));
        }
        node.crash_by(CrashKind::Kill);
        node.restart();
        world.block_on(async {
            let store = open_one(&node, &fatals, seed).await;
            ask(&store, &rng).await;
            // All of it is used, then it is whole again.
            let all: Vec<_> = (0..RECORDS).map(|n| (n as i64, n)).collect();
            assert_eq!(read_all(&store, id(0), 0, 5000).await, all, "{what}");
            for n in 0..RECORDS as i64 {
                let found = store.list_offset(id(0), OffsetQuery::Timestamp(NOW + n), None).await.expect("an answer");
                assert_eq!(found.map(|f| f.offset.0), Some(n), "{what}: the record of that time");
                let read = store.read(id(0), request(n, 1)).await.expect("readable");
                assert!(decode(&read).iter().any(|r| r.0 == n), "{what}: the batch with {n}");
            }
            node.runtime().sleep(Duration::from_secs(1)).await;
            ask(&store, &rng).await;
        });
        assert!(fatals.borrow().is_empty());
        for (path, bytes) in &damaged {
            let was = before.iter().find(|(p, _)| p == path).map(|(_, was)| was).expect("damaged");
            let now = node.file_contents(path).expect("it is there");
            made += usize::from(now == *was && bytes != was);
            // What no answer depends on may stay: a bit that makes no search wrong, few entries less of an offset index.
            let bit =
                bytes.len() == was.len() && bytes.iter().zip(was).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>() == 1;
            let few = entry_len(path) == 8 && bytes.len().is_multiple_of(8) && was.starts_with(bytes);
            assert!(now == *was || bit || few, "{what}, seed {seed}: {} is made anew", path.display());
        }
    }
    assert!(made > 150, "{made} files were made anew");
}

/// Where a short offset index would make a search long, it is made anew, too.
#[test]
fn an_offset_index_that_is_much_too_short_is_made_anew() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    let config = LogConfig { segment_bytes: 4 << 20, ..small_config() };
    world.block_on(async {
        let store = open(&node, &fatals, 0, 0).await;
        store.assign(spec(0, 0, config.clone()));
        for n in 0..100 {
            store.append(id(0), batch_of(&[n], 50_000), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
    });
    let before = sealed_indexes(&node);
    let (path, bytes) = before.iter().find(|(p, _)| entry_len(p) == 8).expect("of a complete segment");
    node.put_file(path, &bytes[..80]);
    node.crash_by(CrashKind::Kill);
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 0, 0).await;
        store.assign(spec(0, 0, config.clone()));
        let read = store.read(id(0), request(70, 1)).await.expect("readable");
        assert_eq!(decode(&read)[0], (70, 70));
        node.runtime().sleep(Duration::from_secs(60)).await;
    });
    assert_eq!(node.file_contents(path).as_ref(), Some(bytes));
}

/// An index that cannot be read is no reason to refuse an answer: the records can.
#[test]
fn an_index_that_cannot_be_read_is_made_anew() {
    let (world, node) = world(2);
    let fatals = Fatals::default();
    let rng = world.rng();
    world.block_on(fill(&node, &fatals, 0, &rng));
    node.crash_by(CrashKind::Kill);
    node.restart();
    let (path, _) = sealed_indexes(&node).swap_remove(0);
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        store.load_end_offsets(id(0)).await.expect("loads");
        let name = path.file_name().expect("named").to_string_lossy().into_owned();
        node.disk_faults(|f| f.fail_after(DiskOp::Read, &name, 0));
        ask(&store, &rng).await;
        let read = store.read(id(0), request(10, 1)).await.expect("readable");
        assert!(decode(&read).iter().any(|r| r.0 == 10));
        let began = node.runtime().now();
        let found = store.list_offset(id(0), OffsetQuery::MaxTimestamp, None).await.expect("an answer");
        assert_eq!(found.map(|f| f.offset.0), Some(RECORDS as i64 - 1));
        assert!(node.runtime().now().since(began) < Duration::from_secs(9), "it was made at the first attempt");
    });
    assert!(fatals.borrow().is_empty());
}
