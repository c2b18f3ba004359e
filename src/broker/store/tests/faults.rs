//! A disk that fails, fills up, or loses files.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder};
use crate::log::log_config::{LogConfig, Ratio};
use bytes::BytesMut;
use coreline_io::sim::{CrashKind, DiskFaults, DiskOp, SimNode, SimRuntime};
use coreline_io::{Clock, TaskGroup, Tasks};
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

async fn append(store: &Store, numbers: &[u64], size: usize) -> Result<Appended, AppendError> {
    store.append(id(0), batch_of(numbers, size), LOCAL).await
}

/// Appends after `fault`; gives whether it was acknowledged, and how the process ended.
fn after_fault(seed: u64, size: usize, fault: impl FnOnce(&mut DiskFaults)) -> (bool, Vec<FatalReason>) {
    let (world, node) = world(seed);
    let fatals = Fatals::default();
    let acked = Rc::new(Cell::new(false));
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        append(&store, &[0], 10).await.expect("acked");
        // Zeros are written ahead of the journal.
        world.handle().sleep(Duration::from_millis(50)).await;
        node.disk_faults(fault);
        let seen = acked.clone();
        drop(node.runtime().spawn(TaskGroup::Requests, "client", async move {
            seen.set(append(&store, &[1], size).await.is_ok());
        }));
        world.handle().sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(node.exited().is_some(), !fatals.borrow().is_empty());
    (acked.get(), fatals.take())
}

#[test]
fn a_failed_write_or_sync_ends_the_process_before_an_answer() {
    for seed in 0..20 {
        // Small ones go to the journal, large ones straight to their segment.
        let journal = after_fault(seed, 10, |f| f.fail_next(DiskOp::Write, "journal"));
        assert_eq!(journal, (false, vec![FatalReason::JournalWrite]));
        let write = after_fault(seed, 30_000, |f| f.fail_next(DiskOp::Write, ".log"));
        assert_eq!(write, (false, vec![FatalReason::SegmentWrite]));
        let sync = after_fault(seed, 30_000, |f| f.fail_next(DiskOp::Sync, ".log"));
        assert_eq!(sync, (false, vec![FatalReason::SegmentSync]));
        let names = after_fault(seed, 30_000, |f| f.fail_next(DiskOp::Sync, "topic0-0/partition.metadata"));
        assert_eq!(names, (false, vec![FatalReason::Directory]));
        assert_eq!(after_fault(seed, 10, |_| {}), (true, vec![]));
    }
}

#[test]
fn a_full_disk_refuses_writes_serves_reads_and_resumes() {
    for seed in 0..20 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            let mut next = 0;
            let mut expected = Vec::new();
            let used: u64 = node.files().iter().map(|f| f.1).sum();
            node.set_disk_capacity(Some(used + 200_000));
            let error = loop {
                let size = if next % 3 == 0 { 28_000 } else { 1000 };
                match append(&store, &[next], size).await {
                    Ok(appended) => expected.push((appended.base_offset.0, next)),
                    Err(error) => break error,
                }
                next += 1;
                assert!(next < 1000, "the disk never filled up");
            };
            assert_eq!(error.code, ErrorCode::KafkaStorageError, "{error}");
            assert_eq!(read_all(&store, id(0), 0, 20_000).await, expected, "reads go on");
            node.set_disk_capacity(None);
            let appended = append(&store, &[next + 1], 100).await.expect("it resumes by itself");
            expected.push((appended.base_offset.0, next + 1));
            assert_eq!(read_all(&store, id(0), 0, 20_000).await, expected, "the refused record left no trace");
            node.crash_by(if seed % 2 == 0 { CrashKind::Kill } else { CrashKind::PowerLoss });
            node.restart();
            let store = open(&node, &fatals, 1, 0).await;
            assert_eq!(read_all(&store, id(0), 0, 20_000).await, expected, "after a crash");
        });
        assert!(fatals.borrow().is_empty());
    }
}

/// What is written, each for itself, when the disk fills up in the middle of it.
const WRITTEN: [&str; 12] = [
    "journal",
    "/states",
    ".log",
    ".index",
    ".timeindex",
    ".snapshot",
    "leader-epoch-checkpoint",
    "partition.metadata",
    "log-start-offset-checkpoint",
    ".cleaned",
    "compaction.swap",
    "cleaner-offset-checkpoint",
];

/// Two partitions that are there, the second of them compacted, and a third that begins on the full disk.
struct FullDisk {
    store: Store,
    /// Of each partition: offset and number of what was acknowledged.
    acked: RefCell<[Vec<(i64, u64)>; 3]>,
    stop: Cell<bool>,
}

impl FullDisk {
    async fn begin(node: &SimNode, fatals: &Fatals, epoch: i32) -> Store {
        let cleaner = CleanerOptions { backoff: Duration::from_millis(2), ..CleanerOptions::default() };
        let options = StoreOptions { cleaner, ..dying_options(0, fatals) };
        let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
        for n in 0..3 {
            let compacted = LogConfig { compacted: true, min_cleanable_dirty_ratio: Ratio::new(0.0), ..small_config() };
            let config = LogConfig { segment_bytes: 20_000, max_message_bytes: 20_000, ..compacted };
            store.assign(spec(n, epoch, LogConfig { compacted: n == 1, ..config }));
        }
        store.assignments_complete();
        store
    }

    async fn client(self: Rc<Self>, rt: SimRuntime, n: u32) {
        let mut number = 0_u64;
        while !self.stop.get() {
            let mut builder = BatchBuilder::default().producer(ProducerId(7), ProducerEpoch(number as i16), 0);
            let value = [&number.to_be_bytes()[..], &[1; 3000]].concat();
            builder.push(NOW, Some(&[number as u8 % 3]), Some(&value));
            let batch = BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..]);
            match self.store.append(id(n), batch, LOCAL).await {
                Ok(appended) => self.acked.borrow_mut()[n as usize].push((appended.base_offset.0, number)),
                Err(error) => assert_eq!(error.code, ErrorCode::KafkaStorageError, "{error}"),
            }
            number += 1;
            rt.sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Offset and number of all records from the start on.
async fn numbers(store: &Store, n: u32) -> Vec<(i64, u64)> {
    let ends = store.load_end_offsets(id(n)).await.expect("loads");
    let (mut next, mut found) = (ends.log_start.0, Vec::new());
    while next < ends.high_watermark.0 {
        let bytes = store.read(id(n), request(next, 50_000)).await.expect("readable").records.concat();
        for item in batch::batches(&bytes) {
            let (header, range) = item.expect("whole");
            batch::for_each_record(&header, &bytes[range], 1 << 20, |r| {
                let value = r.value.expect("a value");
                found.push((r.offset.0, u64::from_be_bytes(value[..8].try_into().expect("8 bytes"))));
            })
            .expect("good records");
            next = header.next_offset().0;
        }
    }
    found
}

#[test]
fn the_disk_fills_up_in_the_middle_of_each_write_and_nothing_is_lost() {
    for (seed, path) in (0..3).flat_map(|seed| WRITTEN.map(|path| (seed, path))) {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        let acked = world.block_on(async {
            let rt = node.runtime();
            let store = FullDisk::begin(&node, &fatals, 0).await;
            let run = Rc::new(FullDisk { store, acked: RefCell::default(), stop: Cell::new(false) });
            let spawn = |n| drop(rt.spawn(TaskGroup::Requests, "client", run.clone().client(rt.clone(), n)));
            spawn(0);
            spawn(1);
            rt.sleep(Duration::from_millis(60)).await;
            node.disk_faults(|f| f.no_room(DiskOp::Write, path));
            spawn(2);
            let _ = run.store.delete_records(id(0), Offset(3)).await;
            rt.sleep(Duration::from_millis(120)).await;
            assert!(node.disk_faults(|f| f.hits()) > 0, "{path}: it was not written meanwhile");
            let readable = numbers(&run.store, 0).await;
            assert!(readable.iter().all(|r| r.1 == r.0 as u64 || path == "journal" || path == ".log"), "{path}");
            node.disk_faults(|f| f.clear());
            let count = || run.acked.borrow().each_ref().map(Vec::len);
            let before = count();
            for wait in 0.. {
                rt.sleep(Duration::from_millis(20)).await;
                if before.iter().zip(count()).all(|(b, a)| b + 10 < a) {
                    break;
                }
                assert!(wait < 100, "seed {seed}, {path}: {before:?}, then {:?}", count());
            }
            run.stop.set(true);
            assert_eq!(run.store.stats().uncleanable_partitions, 0, "seed {seed}, {path}");
            rt.sleep(Duration::from_millis(50)).await;
            run.acked.take()
        });
        assert_eq!((fatals.take(), node.exited().is_some()), (vec![], false), "seed {seed}, {path}");
        node.crash();
        node.restart();
        world.block_on(async {
            let store = FullDisk::begin(&node, &fatals, 1).await;
            for n in 0..3_u32 {
                let found = numbers(&store, n).await;
                let start = store.load_end_offsets(id(n)).await.expect("loaded").log_start.0;
                let acked = &acked[n as usize];
                // Of a compacted partition the last of each key.
                let last =
                    |r: &&(i64, u64)| n != 1 || acked.iter().rev().find(|l| l.1 % 256 % 3 == r.1 % 256 % 3) == Some(*r);
                let missing = acked.iter().filter(|r| r.0 >= start).filter(last).find(|r| !found.contains(r));
                assert_eq!(missing, None, "seed {seed}, {path}, partition {n}: {found:?}");
            }
        });
    }
}

#[test]
fn an_unreadable_segment_is_an_error_of_its_partition_only() {
    let (world, node) = world(4);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        for n in 0..40 {
            append(&store, &[n], 4000).await.expect("acked");
            store.append(id(1), batch_of(&[100 + n], 4000), LOCAL).await.expect("acked");
        }
        // What is asked for is not in memory any more.
        node.runtime().sleep(Duration::from_secs(60)).await;
        node.disk_faults(|f| f.fail_every(DiskOp::Read, "topic0-0"));
        let error = store.read(id(0), request(0, 1000)).await.expect_err("EIO");
        assert_eq!(error.code, ErrorCode::KafkaStorageError);
        assert_eq!(read_all(&store, id(1), 0, 10_000).await.len(), 40);
        node.disk_faults(|f| f.clear());
        assert_eq!(read_all(&store, id(0), 0, 10_000).await.len(), 40);
        assert!(store.stats().cold_bytes > 0);
    });
    assert!(fatals.borrow().is_empty());
}

#[test]
fn missing_and_damaged_indexes_are_rebuilt() {
    let (world, node) = world(5);
    let fatals = Fatals::default();
    let names = |suffix: &str| -> Vec<_> {
        let files = node.files().into_iter().map(|f| f.0);
        files.filter(|p| p.to_string_lossy().ends_with(suffix)).collect()
    };
    let write = async {
        let store = open(&node, &fatals, 1, 0).await;
        for n in 0..100 {
            append(&store, &[n], 4000).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
    };
    world.block_on(write);
    let before: Vec<_> = names("index").iter().map(|p| (p.clone(), node.file_contents(p))).collect();
    assert!(before.len() > 4, "several segments have indexes: {before:?}");
    assert!(before.iter().any(|(_, bytes)| bytes.as_ref().is_some_and(|b| b.len() > 8)));
    for (path, _) in &before {
        assert!(node.remove_path(path));
    }
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(read_all(&store, id(0), 0, 9000).await.len(), 100);
        append(&store, &[100], 10).await.expect("acked");
        store.shutdown().await.expect("closes");
    });
    for (path, bytes) in &before {
        if path.to_string_lossy().ends_with(".index") {
            // The last one grew meanwhile.
            let (now, before) = (node.file_contents(path).expect("made"), bytes.as_ref().expect("read"));
            assert!(now.starts_with(before), "{} is as it was", path.display());
        }
    }
    // Bytes of something else: noticed, and not believed.
    let active = names(".index").into_iter().max().expect("an index");
    node.put_file(&active, &[7; 64]);
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(read_all(&store, id(0), 0, 9000).await.len(), 101);
        assert_eq!(append(&store, &[101], 10).await.expect("acked").base_offset, Offset(101));
    });
}

fn paths(node: &SimNode) -> Vec<String> {
    node.files().iter().map(|f| f.0.display().to_string()).collect()
}

#[test]
fn a_late_deletion_leaves_the_directory_of_a_newer_topic_of_the_same_name_alone() {
    for seed in 0..10 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        let again = PartitionSpec { id: id(50), ..spec(0, 0, small_config()) };
        world.block_on(async {
            let rt = node.runtime();
            let store = LogStore::open(node.runtime(), small_options(0, &fatals)).await.expect("opens");
            store.assign(spec(0, 0, small_config()));
            append(&store, &[0], 30_000).await.expect("acked");
            node.disk_faults(|f| f.slow(DiskOp::Write, "journal", Duration::from_secs(5)));
            let deleted = Rc::new(Cell::new(false));
            let (deleting, done) = (store.clone(), deleted.clone());
            drop(rt.spawn(TaskGroup::Requests, "delete", async move {
                deleting.delete(id(0)).await.expect("deleted");
                done.set(true);
            }));
            rt.sleep(Duration::from_millis(100)).await;
            store.assign(again.clone());
            // Straight to its segment, while the deletion comes to its end.
            store.append(id(50), batch_of(&[1], 30_000), LOCAL).await.expect("acked");
            rt.sleep(Duration::from_secs(20)).await;
            assert!(deleted.get());
        });
        node.crash();
        node.restart();
        world.block_on(async {
            let store = LogStore::open(node.runtime(), small_options(0, &fatals)).await.expect("opens");
            store.assign(again);
            store.assignments_complete();
            assert_eq!(read_all(&store, id(50), 0, 1000).await, [(0, 1)]);
        });
        assert!(fatals.borrow().is_empty());
    }
}

#[test]
fn a_deletion_that_comes_after_the_newer_topic_has_its_files_finds_nothing_to_do() {
    let (world, node) = world(10);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        append(&store, &[0], 30_000).await.expect("acked");
        let old = store.partition(id(0)).expect("assigned");
        store.delete(id(0)).await.expect("deleted");
        store.assign(PartitionSpec { id: id(50), ..spec(0, 0, small_config()) });
        store.append(id(50), batch_of(&[1], 30_000), LOCAL).await.expect("acked");
        store.remove_dir_of(&old).await.expect("no error");
        node.runtime().sleep(Duration::from_secs(5)).await;
        assert!(paths(&node).iter().any(|p| p.ends_with("topic0-0/00000000000000000000.log")), "{:?}", paths(&node));
    });
    assert!(fatals.borrow().is_empty());
}

#[test]
fn deletions_at_the_same_time_share_their_syncs_and_are_durable() {
    let (world, node) = world(11);
    let fatals = Fatals::default();
    let count = 40;
    let of_topics = |node: &SimNode| paths(node).iter().filter(|p| p.contains("-0/")).count();
    world.block_on(async {
        let store = open(&node, &fatals, count, 0).await;
        for n in 0..count {
            // So little that it is removed at once, and no shortened file needs a sync of its own.
            store.append(id(n), batch_of(&[0], 14_000), LOCAL).await.expect("acked");
        }
        node.runtime().sleep(Duration::from_secs(40)).await;
        assert!(of_topics(&node) >= count as usize, "{:?}", paths(&node));
        node.disk_faults(|f| f.slow(DiskOp::Sync, "", Duration::from_millis(5)));
        let before = node.disk_faults(|f| f.hits());
        join_all((0..count).map(|n| store.delete(id(n))))
            .await
            .into_iter()
            .for_each(|deleted| deleted.expect("deleted"));
        let syncs = node.disk_faults(|f| f.hits()) - before;
        assert!(syncs < u64::from(count) / 2, "{syncs} syncs for {count} deletions");
    });
    node.crash_by(CrashKind::PowerLoss);
    node.restart();
    let left = paths(&node).iter().filter(|p| p.contains("-0/")).count();
    assert_eq!(left, 0, "{:?}", paths(&node));
    assert!(fatals.borrow().is_empty());
}

#[test]
fn a_deletion_that_finds_no_room_in_the_journal_is_finished_once_there_is() {
    let (world, node) = world(9);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        append(&store, &[0], 30_000).await.expect("acked");
        node.disk_faults(|f| f.no_room(DiskOp::Write, "journal"));
        store.delete(id(0)).await.expect_err("refused");
        node.runtime().sleep(Duration::from_secs(5)).await;
        assert!(
            paths(&node).iter().any(|p| p.contains("topic0-0")),
            "it may be needed: nothing says that it is deleted"
        );
        node.disk_faults(|f| f.clear());
        node.runtime().sleep(Duration::from_secs(5)).await;
        assert!(!paths(&node).iter().any(|p| p.contains("topic0-0")), "{:?}", paths(&node));
        store.append(id(1), batch_of(&[1], 10), LOCAL).await.expect("acked");
    });
    assert!(fatals.borrow().is_empty());
}

#[test]
fn a_directory_of_a_deleted_topic_of_the_same_name_is_set_aside() {
    let (world, node) = world(6);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        append(&store, &[0], 30_000).await.expect("acked");
        store.shutdown().await.expect("closes");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = LogStore::open(node.runtime(), small_options(0, &fatals)).await.expect("opens");
        let mut again = spec(0, 0, small_config());
        again.id = id(50);
        store.assign(again);
        store.assignments_complete();
        assert_eq!(store.append(id(50), batch_of(&[1], 30_000), LOCAL).await.expect("acked").base_offset, Offset(0));
        assert_eq!(read_all(&store, id(50), 0, 1000).await, [(0, 1)]);
        node.runtime().sleep(Duration::from_secs(1)).await;
    });
    let data = SimNode::DATA_DIR;
    assert!(node.files().iter().all(|(path, _)| !path.to_string_lossy().contains("-delete")), "under {data}");
}

#[test]
fn a_refused_deletion_leaves_no_file_open_for_a_topic_of_the_same_name() {
    let (world, node) = world_with(7, CrashKind::PowerLoss);
    let fatals = Fatals::default();
    let same_name = |n: u32| PartitionSpec { id: id(n), ..spec(0, 0, small_config()) };
    world.block_on(async {
        let first = open(&node, &fatals, 1, 0).await;
        append(&first, &[0], 30_000).await.expect("acked, in its segment");
        // A full disk: the journal takes nothing more, not even that the partition is gone.
        let used: u64 = node.files().iter().map(|f| f.1).sum();
        node.set_disk_capacity(Some(used));
        let mut n = 1;
        while append(&first, &[n], 1000).await.is_ok() {
            n += 1;
            assert!(n < 10_000, "the disk never filled up");
        }
        node.disk_faults(|f| f.no_room(DiskOp::Write, "journal"));
        first.delete_partition(id(0)).await.expect_err("refused");
        node.disk_faults(|f| f.clear());
        node.set_disk_capacity(None);
        // The topic of that name comes and goes on another shard, and comes back to this one.
        let second = LogStore::open(node.runtime(), small_options(1, &fatals)).await.expect("opens");
        second.assign(same_name(50));
        second.assignments_complete();
        second.append(id(50), batch_of(&[1], 30_000), LOCAL).await.expect("acked");
        second.delete_partition(id(50)).await.expect("deleted");
        first.assign(same_name(51));
        first.append(id(51), batch_of(&[2], 30_000), LOCAL).await.expect("acked");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = LogStore::open(node.runtime(), small_options(0, &fatals)).await.expect("opens");
        store.assign(same_name(51));
        store.assignments_complete();
        assert_eq!(read_all(&store, id(51), 0, 1000).await, [(0, 2)], "what was acknowledged");
    });
}
