//! Guards that random seeds hardly ever need: each test fails without its own.

use super::harness::*;
use crate::broker::store::flush::Limit;
use crate::broker::store::partition::Partition;
use crate::ids::Offset;
use crate::log::segment::{FileKind, file_name};
use coreline_io::sim::{CrashKind, DiskOp, SimNode};
use coreline_io::{BLOCK, Disk, TaskGroup, Tasks};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// A batch of one record that fills a block.
pub(super) fn block(number: u64) -> bytes::BytesMut {
    let size = (1..=BLOCK).rev().find(|size| batch_of(&[number], *size).len() == BLOCK);
    batch_of(&[number], size.expect("some size fills a block"))
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(SimNode::DATA_DIR).join("topic0-0").join(name)
}

fn die(node: &SimNode) {
    node.crash_by(CrashKind::Kill);
    node.restart();
}

/// ```text
/// segment after a power loss   [ torn ][ 1 ]           1 is whole, was never acknowledged, and has offset 1
/// then                         [ 2    ][ 1 ]  journal: 3 at offset 1, acknowledged
/// ```
#[test]
fn what_lies_behind_a_torn_batch_never_follows_a_new_one() {
    let (world, node) = world(7);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        for number in [0, 1] {
            store.append(id(0), block(number), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
    });
    let segment = file(&file_name(0, FileKind::Log));
    let mut bytes = node.file_contents(&segment).expect("a segment");
    assert_eq!(bytes.len(), 2 * BLOCK);
    bytes[BLOCK / 2] ^= 1;
    for (path, _) in node.files() {
        let text = path.to_string_lossy();
        if text.contains("journal") || text.ends_with("index") || text.ends_with("snapshot") {
            node.remove_path(&path);
        }
    }
    node.put_file(&segment, &bytes);
    die(&node);
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(store.append(id(0), block(2), LOCAL).await.expect("acked").base_offset, Offset(0));
        let partition = store.partition(id(0)).expect("assigned");
        store.flush_partition(&partition).await.expect("flushed");
        assert_eq!(store.append(id(0), block(3), LOCAL).await.expect("acked").base_offset, Offset(1));
    });
    die(&node);
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        store.load_end_offsets(id(0)).await.expect("loads");
        assert_eq!(read_all(&store, id(0), 0, 100_000).await, [(0, 2), (1, 3)]);
    });
}

/// ```text
/// segment   [ 0 ]
/// refused         [ 10 ][ 11 ] …      whole blocks of it are there, and cutting them off finds no room either
/// then      [ 0 ][ 20 ]               what is behind it has offsets that fit
/// ```
#[test]
fn what_a_full_disk_left_is_cut_off_even_if_that_fails_at_first() {
    let mut left = 0;
    for seed in 0..20 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        let segment = file(&file_name(0, FileKind::Log));
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            store.append(id(0), block(0), LOCAL).await.expect("acked");
            let partition = store.partition(id(0)).expect("assigned");
            store.flush_partition(&partition).await.expect("flushed");
            let used: u64 = node.files().iter().map(|f| f.1).sum();
            node.set_disk_capacity(Some(used + 5 * BLOCK as u64));
            node.disk_faults(|f| f.no_room_after(DiskOp::Write, ".log", 1));
            let refused: Vec<u8> = (10..18).flat_map(block).collect();
            store.append(id(0), refused.as_slice().into(), LOCAL).await.expect_err("the disk is full");
            left += usize::from(node.file_contents(&segment).expect("a segment").len() > BLOCK);
            node.disk_faults(|f| f.clear());
            node.set_disk_capacity(None);
            store.append(id(0), block(20), LOCAL).await.expect("acked");
            store.flush_partition(&partition).await.expect("flushed");
        });
        die(&node);
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            assert_eq!(read_all(&store, id(0), 0, 100_000).await, [(0, 0), (1, 20)], "seed {seed}");
        });
    }
    assert!(left > 0, "nothing of a refused write was left");
}

/// A device may have all of a write that it refused.
#[test]
fn a_refused_frame_does_not_come_back() {
    let mut whole = 0;
    for seed in 0..40 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            let used: u64 = node.files().iter().map(|f| f.1).sum();
            node.set_disk_capacity(Some(used));
            store.append(id(0), batch_of(&[0], 10), LOCAL).await.expect_err("the disk is full");
        });
        node.set_disk_capacity(None);
        whole +=
            u32::from(node.files().iter().any(|(path, len)| path.to_string_lossy().contains("journal") && *len > 0));
        die(&node);
        world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            assert_eq!(store.load_end_offsets(id(0)).await.expect("loads").log_end, Offset(0), "seed {seed}");
        });
    }
    assert!(whole > 0, "no refused write was there all the same");
}

/// Opens the store, loads partition 0, and counts what was written to its files before it could be read.
fn writes_of_a_load(world: &coreline_io::sim::SimWorld, node: &SimNode, end: i64) -> u64 {
    let fatals = Fatals::default();
    let before = node.disk_faults(|f| {
        f.slow(DiskOp::Write, "topic0-0", Duration::ZERO);
        f.hits()
    });
    world.block_on(async {
        let store = open(node, &fatals, 2, 0).await;
        let ends = store.load_end_offsets(id(0)).await.expect("loads");
        assert_eq!(ends.log_end, Offset(end));
        node.disk_faults(|f| f.hits()) - before
    })
}

/// Two partitions, the first with three batches in its segment.
async fn three_flushed(node: &SimNode, fatals: &Fatals) -> (Store, Rc<Partition>) {
    let store = open(node, fatals, 2, 0).await;
    for number in 0..3 {
        store.append(id(0), batch_of(&[number], 100), LOCAL).await.expect("acked");
    }
    let partition = store.partition(id(0)).expect("assigned");
    store.flush_partition(&partition).await.expect("flushed");
    (store, partition)
}

/// Recovery writes again what may not be durable. The journal says what is, once it is told.
#[test]
fn what_the_journal_was_told_is_flushed_is_not_written_again() {
    for told in [false, true] {
        let (world, node) = world(11);
        let fatals = Fatals::default();
        world.block_on(async {
            let (store, _) = three_flushed(&node, &fatals).await;
            if told {
                store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
            }
        });
        die(&node);
        remove_states(&node);
        let writes = writes_of_a_load(&world, &node, 3);
        assert_eq!(writes == 0, told, "{writes} writes");
    }
}

/// ```text
/// flushed, and the journal was told   [ 0 ][ 1 ][ 2 ]
/// cut to 1, then                      [ 0 ][ 3 ][ 4 ]     written to the segment, and never synced
/// ```
#[test]
fn what_was_flushed_before_a_cut_says_nothing_of_what_came_after() {
    let (world, node) = world(12);
    let fatals = Fatals::default();
    world.block_on(async {
        let (store, partition) = three_flushed(&node, &fatals).await;
        store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
        store.truncate(id(0), Offset(1)).await.expect("cut");
        for number in 3..5 {
            store.append(id(0), batch_of(&[number], 100), LOCAL).await.expect("acked");
        }
        store.write_out(&partition, Limit::Committed, false).await.expect("written");
    });
    die(&node);
    assert!(writes_of_a_load(&world, &node, 3) > 0, "batches that no sync covers are taken for durable");
}

/// A file's name that a process read and no sync covers is lost with the power, after what the journal knew of it was let go.
#[test]
fn the_start_of_a_log_that_was_read_is_durable() {
    for (passing, emptied) in (0..6).flat_map(|passing| [(passing, false), (passing, true)]) {
        let (world, node) = world(13 + passing);
        let fatals = Fatals::default();
        world.block_on(async {
            let (store, partition) = three_flushed(&node, &fatals).await;
            store.delete_records(id(0), Offset(3)).await.expect("in the journal");
            node.disk_faults(|f| f.fail_after(DiskOp::Sync, "topic0-0", passing));
            // It may end the process.
            drop(node.runtime().spawn(TaskGroup::Flush, "flush", async move {
                let _ = store.flush_partition(&partition).await;
            }));
            world.handle().sleep(Duration::from_secs(1)).await;
        });
        node.disk_faults(|f| f.clear());
        die(&node);
        world.block_on(async {
            if emptied {
                // As retention does, once the start is in its file.
                let dir = PathBuf::from(SimNode::DATA_DIR).join("topic0-0");
                node.runtime().remove_file(&dir.join(file_name(0, FileKind::Log))).await.expect("a segment");
                node.runtime().sync_dir(&dir).await.expect("synced");
            }
            let store = open(&node, &fatals, 2, 0).await;
            assert_eq!(store.load_end_offsets(id(0)).await.expect("loads").log_start, Offset(3));
            store.shutdown().await.expect("closes");
        });
        node.crash_by(CrashKind::PowerLoss);
        node.restart();
        world.block_on(async {
            let store = open(&node, &fatals, 2, 0).await;
            let start = store.load_end_offsets(id(0)).await.expect("loads").log_start;
            assert_eq!(start, Offset(3), "with sync {passing} failed, emptied: {emptied}");
        });
    }
}
