//! Cold reads: who shares them, and who does not suffer from others.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::{CrashKind, DiskOp, SimNode};
use futures_util::FutureExt;
use futures_util::future::join_all;
use std::time::Duration;

/// A store in which nothing is in memory: 20 batches of 4,000 bytes are in the first segment.
async fn cold(node: &SimNode, fatals: &Fatals) -> Store {
    let store = open(node, fatals, 1, 0).await;
    for n in 0..40 {
        store.append(id(0), batch_of(&[n], 4000), LOCAL).await.expect("acked");
    }
    store.shutdown().await.expect("closes");
    node.crash_by(CrashKind::Kill);
    node.restart();
    let store = open(node, fatals, 1, 0).await;
    store.load_end_offsets(id(0)).await.expect("loads");
    store
}

fn numbers(result: Result<ReadResult, ReadError>) -> Vec<u64> {
    decode(&result.expect("readable")).into_iter().map(|r| r.1).collect()
}

#[test]
fn readers_of_one_cold_range_share_what_is_read() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = cold(&node, &fatals).await;
        assert_eq!(store.stats().device_read_bytes, 0);
        let reads = [0, 0, 3, 5].map(|offset| store.read(id(0), request(offset, 30_000)));
        let found: Vec<_> = join_all(reads).await.into_iter().map(numbers).collect();
        assert_eq!(found, [0, 0, 3, 5].map(|first| (first..first + 7).collect::<Vec<u64>>()));
        // A segment of the tests is shorter than a piece.
        let once = store.stats().device_read_bytes;
        assert!((80_000..100_000).contains(&once), "{once}");
        assert_eq!(store.stats().shared_read_bytes, 3 * once);
        let later = numbers(store.read(id(0), request(7, 30_000)).await);
        assert_eq!(later, (7..14).collect::<Vec<u64>>());
        assert_eq!(store.stats().device_read_bytes, once, "it was there still");
    });
}

#[test]
fn a_reader_that_goes_away_takes_nothing_from_the_others() {
    let (world, node) = world(2);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = cold(&node, &fatals).await;
        // Both are there before it answers.
        node.disk_faults(|f| f.slow(DiskOp::Read, ".log", Duration::from_millis(10)));
        let mut first = Box::pin(store.read(id(0), request(0, 30_000)));
        let mut second = Box::pin(store.read(id(0), request(0, 30_000)));
        while store.stats().shared_read_bytes == 0 {
            assert!(first.as_mut().now_or_never().is_none(), "the device has not answered");
            assert!(second.as_mut().now_or_never().is_none());
            node.runtime().sleep(Duration::from_micros(1)).await;
        }
        drop(first);
        assert_eq!(numbers(second.await), (0..7).collect::<Vec<u64>>());
    });
}

#[test]
fn a_read_that_failed_is_tried_again_by_the_next() {
    let (world, node) = world(3);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = cold(&node, &fatals).await;
        node.disk_faults(|f| f.fail_every(DiskOp::Read, ".log"));
        let reads = [0, 0].map(|offset| store.read(id(0), request(offset, 30_000)));
        for failed in join_all(reads).await {
            assert_eq!(failed.expect_err("EIO").code, ErrorCode::KafkaStorageError);
        }
        node.disk_faults(|f| f.clear());
        assert_eq!(numbers(store.read(id(0), request(0, 30_000)).await), (0..7).collect::<Vec<u64>>());
    });
    assert!(fatals.borrow().is_empty());
}

/// A group commit that takes this long, and how long a cold read beside it takes. Gives whether the commit had ended first, too.
fn beside_a_commit(seed: u64, takes: Duration) -> (Duration, bool) {
    let (world, node) = world(seed);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = cold(&node, &fatals).await;
        node.runtime().sleep(Duration::from_secs(1)).await;
        node.disk_faults(|f| f.slow(DiskOp::Write, ".journal", takes));
        let mut commit = Box::pin(store.append(id(0), batch_of(&[99], 100), LOCAL));
        assert!(commit.as_mut().now_or_never().is_none());
        node.runtime().sleep(Duration::from_micros(200)).await;
        let began = node.runtime().now();
        let read = numbers(store.read(id(0), request(0, 30_000)).await);
        assert_eq!(read, (0..7).collect::<Vec<u64>>());
        let took = node.runtime().now().since(began);
        (took, commit.now_or_never().is_some_and(|done| done.is_ok()))
    })
}

#[test]
fn a_cold_read_gives_way_to_a_group_commit_for_a_while() {
    let (took, commit_first) = beside_a_commit(5, Duration::from_micros(1500));
    assert!(commit_first, "the read took {took:?}, before the commit ended");
    let (took, commit_first) = beside_a_commit(6, Duration::from_secs(5));
    assert!(!commit_first && took < Duration::from_secs(1), "a read waits {took:?} for a journal that is stuck");
}

#[test]
fn who_goes_on_where_he_stopped_finds_the_next_pieces_read() {
    let (world, node) = world(4);
    let fatals = Fatals::default();
    let large = || spec(0, 0, LogConfig { segment_bytes: 4 << 20, ..small_config() });
    world.block_on(async {
        let store = LogStore::open(node.runtime(), dying_options(0, &fatals)).await.expect("the store opens");
        store.assign(large());
        for n in 0..80 {
            store.append(id(0), batch_of(&[n], 50_000), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
        node.crash_by(CrashKind::Kill);
        node.restart();
        let store = LogStore::open(node.runtime(), dying_options(0, &fatals)).await.expect("the store opens");
        store.assign(large());
        for first in [0, 6] {
            assert_eq!(numbers(store.read(id(0), request(first, 310_000)).await)[0], first as u64);
        }
        node.runtime().sleep(Duration::from_secs(1)).await;
        let read = store.stats().device_read_bytes;
        assert_eq!(numbers(store.read(id(0), request(12, 310_000)).await), [12, 13, 14, 15, 16, 17]);
        assert_eq!(store.stats().device_read_bytes, read, "it was there");
        node.runtime().sleep(Duration::from_secs(1)).await;
        let ahead = store.stats().device_read_bytes;
        assert!(ahead < 60 * 50_000, "not all of it is read for one reader: {ahead}");
    });
}
