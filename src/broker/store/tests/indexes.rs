//! Files beside the segments that are missing or stale: indexes made in the background, the clean mark.

use super::harness::*;
use super::txn::{marker, produce_v, txn_batch};
use crate::broker::store::*;
use coreline_io::Clock;
use coreline_io::sim::{CrashKind, DiskOp, SimNode};
use std::path::{Path, PathBuf};
use std::time::Duration;

async fn open_large(node: &SimNode, fatals: &Fatals) -> Store {
    let options = StoreOptions { rebuild_at_once_bytes_max: 1000, ..dying_options(0, fatals) };
    let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
    store.assign(spec(0, 0, small_config()));
    store.assignments_complete();
    store
}

fn files(node: &SimNode, suffix: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = node.files().into_iter().map(|f| f.0).filter(|p| p.to_string_lossy().ends_with(suffix));
    paths.map(|p| (p.clone(), node.file_contents(&p).expect("it is there"))).collect()
}

fn die(node: &SimNode) {
    node.crash_by(CrashKind::Kill);
    node.restart();
}

#[test]
fn indexes_of_large_segments_are_made_while_the_partition_is_read() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open_large(&node, &fatals).await;
        for n in 0..60 {
            store.append(id(0), batch_of(&[n], 4000), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
    });
    let mut before: Vec<_> = [files(&node, ".index"), files(&node, ".timeindex")].concat();
    let active = before.iter().map(|(path, _)| path.file_stem().expect("named").to_owned()).max().expect("some");
    before.retain(|(path, _)| path.file_stem() != Some(&active));
    assert!(before.len() >= 4, "two segments are complete");
    before.iter().for_each(|(path, _)| assert!(node.remove_path(path)));
    die(&node);
    world.block_on(async {
        let rt = node.runtime();
        let store = open_large(&node, &fatals).await;
        node.disk_faults(|f| f.slow(DiskOp::Write, "index", Duration::from_secs(10)));
        let began = rt.now();
        let expected: Vec<_> = (0..60).map(|n| (n as i64, n)).collect();
        assert_eq!(read_all(&store, id(0), 0, 9000).await, expected, "reads do not wait for it");
        let found = store.list_offset(id(0), OffsetQuery::Timestamp(NOW + 7), None).await.expect("found");
        assert_eq!(found.map(|f| f.offset.0), Some(7), "nor does a search by time");
        assert!(rt.now().since(began) < Duration::from_secs(10), "it was not made yet");
        // What only an index can tell waits for it.
        let largest = store.list_offset(id(0), OffsetQuery::MaxTimestamp, None).await.expect("found");
        assert_eq!(largest.map(|f| f.offset.0), Some(59));
        assert!(rt.now().since(began) >= Duration::from_secs(10));
        node.disk_faults(|f| f.clear());
        rt.sleep(Duration::from_secs(60)).await;
        store.shutdown().await.expect("closes");
    });
    for (path, bytes) in before {
        assert_eq!(node.file_contents(&path), Some(bytes), "{}", path.display());
    }
    assert!(fatals.borrow().is_empty());
}

/// An aborted transaction, and so much after it that its segment is complete.
async fn one_aborted(store: &Store) {
    produce_v(store, id(0), txn_batch(&[0], 100, (7, 0, 0)), false).await.expect("acked");
    store.write_txn_markers(vec![marker(0, (7, 0), 0, false)], NOW).await.pop().expect("one").expect("written");
    for n in 0..40 {
        store.append(id(0), batch_of(&[n], 4000), LOCAL).await.expect("acked");
    }
}

#[test]
fn a_transaction_index_that_was_removed_alone_is_missed_and_made_again() {
    a_lost_transaction_index(&|node, path, _| assert!(node.remove_path(path)));
}

/// Nothing in the file itself says that there was more, or that a number was another one.
#[test]
fn a_transaction_index_that_lost_entries_or_has_other_numbers_is_made_again() {
    a_lost_transaction_index(&|node, path, _| node.put_file(path, &[]));
    a_lost_transaction_index(&|node, path, before| {
        let mut other = before.to_vec();
        other[9] ^= 1;
        node.put_file(path, &other);
    });
}

fn a_lost_transaction_index(lose: &dyn Fn(&SimNode, &Path, &[u8])) {
    let (world, node) = world(2);
    let fatals = Fatals::default();
    let aborted = |store: &Store| {
        let store = store.clone();
        async move {
            let read = ReadRequest { isolation: Isolation::ReadCommitted, ..request(0, 50_000) };
            store.read(id(0), read).await.expect("readable").aborted.len()
        }
    };
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        one_aborted(&store).await;
        assert_eq!(aborted(&store).await, 1);
        store.shutdown().await.expect("closes");
    });
    let before = files(&node, ".txnindex");
    assert_eq!(before.len(), 1, "of the first segment, which is complete");
    lose(&node, before[0].0.as_ref(), &before[0].1);
    die(&node);
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(aborted(&store).await, 1);
    });
    assert_eq!(files(&node, ".txnindex"), before);
    assert!(fatals.borrow().is_empty());
}

/// What is wrong with it while the store runs: nobody is refused, and it is made anew.
#[test]
fn a_transaction_index_that_cannot_be_read_or_is_damaged_is_made_again() {
    for damage in 0..4 {
        let (world, node) = world(4);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            one_aborted(&store).await;
            node.runtime().sleep(Duration::from_secs(60)).await;
            let (path, before) = files(&node, ".txnindex").pop().expect("of the first segment, which is complete");
            match damage {
                0 => assert!(node.remove_path(&path)),
                1 => node.put_file(&path, &before[..20]),
                2 => node.put_file(&path, &[]),
                _ => node.disk_faults(|f| f.fail_next(DiskOp::Read, ".txnindex")),
            }
            let read = ReadRequest { isolation: Isolation::ReadCommitted, ..request(0, 50_000) };
            assert_eq!(store.read(id(0), read).await.expect("readable").aborted.len(), 1);
            assert_eq!(files(&node, ".txnindex"), [(path, before)]);
        });
        assert!(fatals.borrow().is_empty());
    }
}

/// A mark of an earlier end, as of a backup, says nothing of what the journal got since.
#[test]
fn a_stale_clean_mark_is_not_believed() {
    for damaged in [false, true] {
        let (world, node) = world(3);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            store.append(id(0), batch_of(&[0], 10), LOCAL).await.expect("acked");
            store.shutdown().await.expect("closes");
        });
        let (path, mut mark) = files(&node, "clean").pop().expect("a clean mark");
        die(&node);
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            store.append(id(0), batch_of(&[1], 10), LOCAL).await.expect("acked");
        });
        assert!(files(&node, "clean").is_empty(), "gone as soon as it was read");
        if damaged {
            mark = b"all is well".to_vec();
        }
        node.put_file(&path, &mark);
        die(&node);
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            assert_eq!(read_all(&store, id(0), 0, 100_000).await, [(0, 0), (1, 1)]);
        });
    }
}
