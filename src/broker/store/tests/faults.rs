//! A disk that fails, fills up, or loses files.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use coreline_io::sim::{CrashKind, DiskFaults, DiskOp, SimNode};
use coreline_io::{Clock, TaskGroup, Tasks};
use std::cell::Cell;
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
