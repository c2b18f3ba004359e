//! What is known of a partition's files without a look at them, and when it is not to be believed.

use super::guards::block;
use super::harness::*;
use crate::broker::store::flush::Limit;
use crate::broker::store::*;
use crate::ids::{Offset, PartitionId};
use crate::log::journal::{Entry, FRAME_HEADER_LEN, FrameBuilder, Lap};
use crate::log::log_config::{Durability, LogConfig};
use crate::log::segment::{FileKind, file_name};
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimWorld};
use coreline_io::{Clock, TaskGroup, Tasks};
use futures_util::FutureExt;
use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

fn segment(base: i64) -> PathBuf {
    PathBuf::from(SimNode::DATA_DIR).join("topic0-0").join(file_name(base, FileKind::Log))
}

async fn append(store: &Store, batches: impl Iterator<Item = bytes::BytesMut>) {
    for batch in batches {
        store.append(id(0), batch, LOCAL).await.expect("acked");
    }
}

async fn flush(store: &Store) {
    let partition = store.partition(id(0)).expect("assigned");
    store.flush_partition(&partition).await.expect("flushed");
}

fn die(node: &SimNode, how: CrashKind) {
    node.crash_by(how);
    node.restart();
}

fn with_store<T>(world: &SimWorld, node: &SimNode, work: impl AsyncFnOnce(Store) -> T) -> T {
    world.block_on(async { work(open(node, &Fatals::default(), 2, 0).await).await })
}

/// The records in the log, without reading what the test has damaged.
async fn numbers(store: &Store, from: i64) -> Vec<u64> {
    store.load_end_offsets(id(0)).await.expect("loads");
    read_all(store, id(0), from, 10_000).await.into_iter().map(|(_, number)| number).collect()
}

/// Any look at the directory would find something wrong. With sealed segments before, and batches in the journal behind.
#[test]
fn what_is_known_is_not_looked_at() {
    for (sealed, size) in [(false, 100), (true, 4_000)] {
        let (world, node) = world(31);
        let count = 40;
        with_store(&world, &node, async |store| {
            append(&store, (0..count).map(|n| batch_of(&[n], size))).await;
            flush(&store).await;
            append(&store, (count..count + 3).map(|n| batch_of(&[n], size))).await;
        });
        die(&node, CrashKind::PowerLoss);
        let last = node
            .files()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|p| p.starts_with(segment(0).parent().expect("a directory")));
        let last = last.filter(|p| p.extension().is_some_and(|e| e == "log")).max().expect("a segment");
        assert_eq!(last != segment(0), sealed);
        let mut bytes = node.file_contents(&last).expect("a segment");
        bytes[70] ^= 1;
        node.put_file(&last, &bytes);
        with_store(&world, &node, async |store| {
            let ends = store.load_end_offsets(id(0)).await.expect("loads");
            assert_eq!(ends.log_end, Offset(count as i64 + 3));
            assert_eq!(numbers(&store, count as i64 - 2).await, (count - 2..count + 3).collect::<Vec<_>>());
        });
    }
}

/// A direct write, a cut and a deletion come after the state, and are no part of it.
#[test]
fn what_was_touched_since_is_looked_at() {
    for how in [CrashKind::PowerLoss, CrashKind::Kill] {
        for case in 0..4 {
            let (world, node) = world(32);
            let expected: Vec<u64> = with_store(&world, &node, async |store| {
                append(&store, (0..5).map(|n| batch_of(&[n], 4_000))).await;
                flush(&store).await;
                assert!(store.partition(id(0)).expect("assigned").stated.get());
                match case {
                    0 => append(&store, [batch_of(&[5], 30_000)].into_iter()).await,
                    1 => {
                        store.truncate(id(0), Offset(2)).await.expect("cut");
                        append(&store, [batch_of(&[7], 100)].into_iter()).await;
                        return vec![0, 1, 7];
                    }
                    2 => {
                        append(&store, (5..30).map(|n| batch_of(&[n], 4_000))).await;
                        flush(&store).await;
                        store.delete_records(id(0), Offset(29)).await.expect("deleted");
                        return vec![29];
                    }
                    // The partition's segments are written to, and its journal forgets it.
                    _ => {
                        append(&store, [batch_of(&[5], 30_000), batch_of(&[6], 100)].into_iter()).await;
                        flush(&store).await;
                        return (0..7).collect();
                    }
                }
                (0..6).collect()
            });
            die(&node, how);
            for _ in 0..2 {
                with_store(&world, &node, async |store| {
                    let start = store.load_end_offsets(id(0)).await.expect("loads").log_start.0;
                    assert_eq!(numbers(&store, start).await, expected, "case {case} {how:?}");
                });
                die(&node, how);
            }
        }
    }
}

/// What producers have sent is part of the state: also of batches that a later one has followed in the tail.
#[test]
fn what_producers_sent_is_known() {
    let (world, node) = world(33);
    let batch = |n: u64| with_producer(&[n], 100, Some((7, 0, n as i32)));
    with_store(&world, &node, async |store| {
        append(&store, (0..3).map(batch)).await;
        // Neither is committed when the flush begins.
        let later = [batch(3), batch(4)].map(|b| store.append(id(0), b, LOCAL));
        flush(&store).await;
        assert!(store.partition(id(0)).expect("assigned").stated.get());
        for append in later {
            append.await.expect("acked");
        }
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| {
        for known in [2, 4] {
            let again = store.append(id(0), batch(known), LOCAL).await.expect("a duplicate");
            assert_eq!(again.base_offset, Offset(known as i64));
        }
        assert_eq!(store.append(id(0), batch(5), LOCAL).await.expect("the next").base_offset, Offset(5));
        assert!(store.append(id(0), batch(9), LOCAL).await.is_err(), "a gap");
    });
}

/// A producer's batch that was not committed when its partition was flushed, and is lost, is not taken for a duplicate.
#[test]
fn what_was_not_committed_is_no_part_of_the_state() {
    let (world, node) = world(34);
    let batch = |n: u64| with_producer(&[n], 100, Some((7, 0, n as i32)));
    with_store(&world, &node, async |store| {
        append(&store, (0..3).map(batch)).await;
        let partition = store.partition(id(0)).expect("assigned");
        partition.with(|log| log.held = true);
        let lost = store.append(id(0), batch(3), LOCAL);
        store.write_out(&partition, Limit::Committed, true).await.expect("flushed");
        assert!(partition.stated.get());
        drop(lost);
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| {
        assert_eq!(numbers(&store, 0).await, [0, 1, 2]);
        assert_eq!(store.append(id(0), batch(3), LOCAL).await.expect("new").base_offset, Offset(3));
        assert_eq!(numbers(&store, 0).await, [0, 1, 2, 3]);
    });
}

/// Thousands of flushes leave a small file, and what it says of partitions that were not flushed for long stays.
#[test]
fn the_file_is_written_anew() {
    let (world, node) = world(35);
    let rounds = 60;
    let path = PathBuf::from(SimNode::DATA_DIR).join("journal/shard-0000").join(states::STATES_FILE);
    with_store(&world, &node, async |store| {
        store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
        let other = store.partition(id(1)).expect("assigned");
        store.flush_partition(&other).await.expect("flushed");
        for n in 0..rounds {
            append(&store, [batch_of(&[n], 100)].into_iter()).await;
            flush(&store).await;
        }
    });
    let len = node.file_contents(&path).expect("states").len() as u64;
    assert!(len < rounds * 4096 / 2, "{len} bytes");
    die(&node, CrashKind::PowerLoss);
    // Nothing but the states knows of these.
    for topic in ["topic0-0", "topic1-0"] {
        node.remove_path(PathBuf::from(SimNode::DATA_DIR).join(topic).join("leader-epoch-checkpoint"));
    }
    with_store(&world, &node, async |store| {
        assert_eq!(numbers(&store, 0).await, (0..rounds).collect::<Vec<_>>());
        assert!([0, 1].into_iter().all(|n| store.partition(id(n)).expect("assigned").stated.get()));
        store.load_end_offsets(id(1)).await.expect("loads");
        assert!(store.partition(id(1)).expect("assigned").stated.get(), "its directory was not looked at");
        store.shutdown().await.expect("closes");
    });
    assert!(node.file_contents(&path).is_none(), "a store that is closed says nothing");
}

/// What goes straight to its segment has a state once nobody works on it, and so has what a load has looked at.
#[test]
fn what_is_idle_is_noted() {
    let (world, node) = world(36);
    let noted = async |store: &Store| {
        node.runtime().sleep(Duration::from_secs(61)).await;
        store.partition(id(0)).expect("assigned").stated.get()
    };
    with_store(&world, &node, async |store| {
        append(&store, [batch_of(&[0], 30_000)].into_iter()).await;
        assert!(!store.partition(id(0)).expect("assigned").stated.get());
        assert!(noted(&store).await, "written straight to its segment");
        append(&store, [batch_of(&[1], 30_000)].into_iter()).await;
        assert!(!store.partition(id(0)).expect("assigned").stated.get());
    });
    die(&node, CrashKind::Kill);
    with_store(&world, &node, async |store| {
        assert_eq!(numbers(&store, 0).await, [0, 1]);
        assert!(!store.partition(id(0)).expect("assigned").stated.get());
        store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
        assert!(noted(&store).await, "looked at by a load");
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| assert_eq!(numbers(&store, 0).await, [0, 1]));
}

/// A partition that leaves the shard may come back with other files.
#[test]
fn what_has_left_is_not_known() {
    let (world, node) = world(37);
    with_store(&world, &node, async |store| {
        append(&store, (0..3).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
        store.journal_entry(Entry::Deleted { partition: id(0) }).await.expect("journaled");
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| {
        assert!(!store.partition(id(0)).expect("assigned").stated.get());
        assert_eq!(numbers(&store, 0).await, [0, 1, 2], "its files are still there");
    });
}

/// ```text
/// states  [ frame ][ half of a frame, never answered ]      the next one goes there, or nobody finds it
/// ```
#[test]
fn what_follows_a_torn_frame_is_found() {
    let (world, node) = world(38);
    let sequence = with_store(&world, &node, async |store| {
        append(&store, (0..2).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
        store.states.sequence.get()
    });
    die(&node, CrashKind::Kill);
    let (path, _) = node.files().into_iter().find(|f| f.0.ends_with(states::STATES_FILE)).expect("a flush has noted");
    let mut bytes = node.file_contents(&path).expect("it is there");
    let mut frame = FrameBuilder::default();
    frame.push(&Entry::Touched { partition: id(0) });
    let end = bytes.len() + FRAME_HEADER_LEN;
    bytes.extend_from_slice(&frame.finish(Lap(1), sequence).bytes);
    bytes[end] ^= 0xff;
    node.put_file(&path, &bytes);
    with_store(&world, &node, async |store| {
        append(&store, (2..4).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| {
        let known = store.states.found.borrow().get(&id(0)).map(|(to, _)| *to);
        assert_eq!(known, Some(4), "the journal may have let go of all before it");
        assert_eq!(numbers(&store, 0).await, [0, 1, 2, 3]);
    });
}

/// ```text
/// state  [ 0 ][ 1 ]        straight to the segment, not answered  [ 2 ][ 3 ][ 4 ]…   a block each
/// then   [ 0 ][ 1 ][ n ]   3 and 4 must not follow it
/// ```
#[test]
fn what_was_written_straight_and_not_answered_follows_nothing() {
    let (world, node) = world(39);
    with_store(&world, &node, async |store| {
        append(&store, (0..2).map(block)).await;
        flush(&store).await;
        node.disk_faults(|f| f.stuck(DiskOp::Sync, ".log"));
        let batches: Vec<u8> = (2..12).flat_map(block).collect();
        let unanswered = store.append(id(0), bytes::BytesMut::from(&batches[..]), LOCAL);
        store.rt.sleep(Duration::from_secs(1)).await;
        assert!(unanswered.now_or_never().is_none(), "its sync is not done");
    });
    node.disk_faults(|f| f.clear());
    die(&node, CrashKind::Kill);
    let at = with_store(&world, &node, async |store| {
        let at = store.append(id(0), block(900), LOCAL).await.expect("acked").base_offset;
        flush(&store).await;
        at
    });
    die(&node, CrashKind::Kill);
    // Whatever is in the segment is found.
    remove_states(&node);
    with_store(&world, &node, async |store| {
        let found = numbers(&store, 0).await;
        assert_eq!((found.len() as i64, found.last()), (at.0 + 1, Some(&900)));
    });
}

/// Goes on with a partition until the ring has been used several times over: nothing of others that is flushed is in the journal
/// then. How many batches it took; fewer than asked for where the ring is not freed.
async fn wrap_journal(node: &SimNode, world: &SimWorld, store: &Store, partition: PartitionId) -> u64 {
    let (store, taken) = (store.clone(), Rc::new(Cell::new(0)));
    let count = Rc::clone(&taken);
    drop(node.runtime().spawn(TaskGroup::Requests, "wrap", async move {
        for n in 0..WRAPS {
            if store.append(partition, batch_of(&[n], 4_000), LOCAL).await.is_err() {
                return;
            }
            count.set(n + 1);
        }
    }));
    world.handle().sleep(Duration::from_secs(60)).await;
    taken.get()
}

/// Batches for [`wrap_journal`].
const WRAPS: u64 = 300;

/// ```text
/// state of 0 and 1;   2 and 3: flushed, the note of it is not written;   a partition that is never noted wants all of the ring
/// ```
#[test]
fn what_is_not_noted_stays_in_the_journal() {
    let (world, node) = world(45);
    with_store(&world, &node, async |store| {
        append(&store, (0..2).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
        append(&store, (2..4).map(|n| batch_of(&[n], 100))).await;
        store.assign(spec(2, 0, LogConfig { durability: Durability::Written, ..small_config() }));
        node.disk_faults(|f| f.stuck(DiskOp::Write, states::STATES_FILE));
        let flushing = store.clone();
        drop(node.runtime().spawn(TaskGroup::Flush, "flush", async move { flush(&flushing).await }));
        assert!(
            (1..WRAPS).contains(&wrap_journal(&node, &world, &store, id(2)).await),
            "what is not noted has its place"
        );
    });
    node.disk_faults(|f| f.clear());
    die(&node, CrashKind::Kill);
    with_store(&world, &node, async |store| assert_eq!(numbers(&store, 0).await, [0, 1, 2, 3]));
}

/// A start within a segment is in the state once the journal has forgotten it.
#[test]
fn where_the_log_begins_is_known() {
    for how in [CrashKind::Kill, CrashKind::PowerLoss] {
        let (world, node) = world(46);
        with_store(&world, &node, async |store| {
            append(&store, (0..4).map(|n| batch_of(&[n], 100))).await;
            flush(&store).await;
            store.delete_records(id(0), Offset(2)).await.expect("deleted");
            flush(&store).await;
            assert!(store.partition(id(0)).expect("assigned").stated.get());
            assert_eq!(wrap_journal(&node, &world, &store, id(1)).await, WRAPS);
        });
        die(&node, how);
        with_store(&world, &node, async |store| {
            assert!(store.recovered.borrow().get(&id(0)).is_none(), "the journal knows nothing of it");
            let ends = store.load_end_offsets(id(0)).await.expect("loads");
            assert_eq!((ends.log_start, ends.log_end), (Offset(2), Offset(4)));
            assert!(store.partition(id(0)).expect("assigned").stated.get(), "its directory was not looked at");
        });
    }
}

/// ```text
/// state     000.log [ 0 ][ 1 ]
/// then      000.log [ 0 ][ 1 ][ 2 ]…   0nn.log [ n ]…     not noted; the journal has all from 2 on
/// again     000.log [ 0 ][ 1 ][ 2 ]… [ n ]…               segments are longer now: nobody may find 0nn.log behind it
/// ```
#[test]
fn a_segment_that_was_begun_and_not_noted_is_not_forgotten() {
    let (world, node) = world(47);
    with_store(&world, &node, async |store| {
        append(&store, (0..2).map(|n| batch_of(&[n], 4_000))).await;
        flush(&store).await;
        let partition = store.partition(id(0)).expect("assigned");
        partition.with(|log| log.flushing = true);
        append(&store, (2..30).map(|n| batch_of(&[n], 4_000))).await;
        partition.with(|log| log.flushing = false);
        node.disk_faults(|f| f.stuck(DiskOp::Write, states::STATES_FILE));
        drop(node.runtime().spawn(TaskGroup::Flush, "flush", async move { flush(&store).await }));
        world.handle().sleep(Duration::from_secs(1)).await;
    });
    node.disk_faults(|f| f.clear());
    for round in 0..2 {
        die(&node, CrashKind::Kill);
        world.block_on(async {
            let options = dying_options(0, &Fatals::default());
            let store = LogStore::open(node.runtime(), options).await.expect("the store opens");
            store.assign(spec(0, 0, LogConfig { segment_bytes: 1 << 20, ..small_config() }));
            store.assign(spec(1, 0, small_config()));
            store.assignments_complete();
            if round == 0 {
                append(&store, [batch_of(&[30], 4_000)].into_iter()).await;
                flush(&store).await;
                assert_eq!(wrap_journal(&node, &world, &store, id(1)).await, WRAPS);
            }
            let wanted: Vec<u64> = (0..31).collect();
            assert_eq!(numbers(&store, 0).await, wanted);
        });
        remove_states(&node);
    }
}

/// The file of states and what is in it.
fn file_of_states(node: &SimNode) -> (PathBuf, Vec<u8>) {
    let (path, _) = node.files().into_iter().find(|f| f.0.ends_with(states::STATES_FILE)).expect("a flush has noted");
    let bytes = node.file_contents(&path).expect("it is there");
    (path, bytes)
}

/// ```text
/// states  [ state of 0 ][ 0 is touched: damaged ][ state of 1 ]      2 went straight to the segment of 0
/// ```
#[test]
fn a_frame_that_is_damaged_in_the_middle_says_that_nothing_is_known() {
    let (world, node) = world(40);
    let (mut first, mut second) = (0, 0);
    let path = with_store(&world, &node, async |store| {
        append(&store, (0..2).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
        first = file_of_states(&node).1.len();
        append(&store, [batch_of(&[2], 30_000)].into_iter()).await;
        second = file_of_states(&node).1.len();
        store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
        let other = store.partition(id(1)).expect("assigned");
        store.flush_partition(&other).await.expect("flushed");
        file_of_states(&node).0
    });
    assert!(first < second && second < file_of_states(&node).1.len(), "three frames");
    die(&node, CrashKind::Kill);
    let mut bytes = file_of_states(&node).1;
    bytes[first + FRAME_HEADER_LEN] ^= 1;
    node.put_file(&path, &bytes);
    for _ in 0..2 {
        with_store(&world, &node, async |store| {
            assert!(store.states.found.borrow().is_empty());
            assert_eq!(numbers(&store, 0).await, [0, 1, 2]);
            store.load_end_offsets(id(1)).await.expect("loads");
            assert_eq!(read_all(&store, id(1), 0, 10_000).await, [(0, 0)]);
        });
        die(&node, CrashKind::PowerLoss);
    }
}

/// A crash may leave a file of any length: the next frame begins where one is looked for.
#[test]
fn what_follows_a_frame_without_its_padding_is_found() {
    let (world, node) = world(41);
    with_store(&world, &node, async |store| {
        append(&store, (0..2).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
    });
    die(&node, CrashKind::Kill);
    let (path, bytes) = file_of_states(&node);
    node.put_file(&path, &bytes[..bytes.len() - 512]);
    with_store(&world, &node, async |store| {
        assert_eq!(store.states.found.borrow().len(), 1);
        append(&store, [batch_of(&[2], 30_000)].into_iter()).await;
    });
    die(&node, CrashKind::PowerLoss);
    with_store(&world, &node, async |store| assert_eq!(numbers(&store, 0).await, [0, 1, 2]));
}

/// ```text
/// written anew: states.tmp ─▶ sync ─▶ renamed ─▶ its name is not durable, for want of room     what comes next has a file with a name
/// ```
#[test]
fn what_follows_a_rename_that_found_no_room_is_found() {
    let (world, node) = world(42);
    let last = with_store(&world, &node, async |store| {
        let partition = store.partition(id(0)).expect("assigned");
        // The first note makes the file, which takes a sync of the directory, too.
        append(&store, [batch_of(&[0], 100)].into_iter()).await;
        flush(&store).await;
        store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
        let other = store.partition(id(1)).expect("assigned");
        store.flush_partition(&other).await.expect("flushed");
        let mut next = 1;
        loop {
            let len = file_of_states(&node).1.len();
            append(&store, [batch_of(&[next], 100)].into_iter()).await;
            // A note is one sync in that directory; writing the file anew is two, and the note.
            node.disk_faults(|f| f.no_room_after(DiskOp::Sync, "shard-0000", 1));
            let flushed = store.flush_partition(&partition).await;
            node.disk_faults(|f| f.clear());
            next += 1;
            if file_of_states(&node).1.len() < len {
                break;
            }
            flushed.expect("one sync passes");
            assert!(next < 100, "the file is written anew once in a while");
        }
        // The store lives, and what it says now counts, also while there is no room for a new file.
        node.disk_faults(|f| f.no_room(DiskOp::Write, "states.tmp"));
        append(&store, [batch_of(&[next], 30_000)].into_iter()).await;
        next
    });
    die(&node, CrashKind::Kill);
    with_store(&world, &node, async |store| {
        assert!(store.states.found.borrow().contains_key(&id(1)), "the file is whole");
        assert_eq!(numbers(&store, 0).await, (0..=last).collect::<Vec<_>>());
    });
}

/// A flush that did not come to its note may have written down what producers had sent by then.
#[test]
fn a_cut_takes_snapshots_that_are_not_known() {
    let (world, node) = world(43);
    with_store(&world, &node, async |store| {
        append(&store, (0..4).map(|n| batch_of(&[n], 100))).await;
        flush(&store).await;
    });
    die(&node, CrashKind::Kill);
    let snapshot = segment(0).with_file_name(file_name(3, FileKind::Snapshot));
    node.put_file(&snapshot, &crate::log::producer_state::ProducerStates::default().encode_snapshot());
    with_store(&world, &node, async |store| {
        store.load_end_offsets(id(0)).await.expect("loads");
        assert!(store.partition(id(0)).expect("assigned").stated.get(), "its directory was not looked at");
        store.truncate(id(0), Offset(2)).await.expect("cut");
    });
    die(&node, CrashKind::Kill);
    with_store(&world, &node, async |store| assert_eq!(numbers(&store, 0).await, [0, 1]));
}

/// ```text
/// segments [ 0 ][ 1 ][ 2 ][ 3 ][ 4 ]   journal [ 3 ][ 4 ]   cut to 1, and a crash in the middle
/// ```
#[test]
fn a_cut_that_a_crash_ends_leaves_no_hole() {
    let places = [(DiskOp::Write, "journal/shard-0000/0"), (DiskOp::Meta, "topic0-0"), (DiskOp::Write, "topic0-0")];
    // What hangs may be done by the time of the crash, or not.
    for (seed, (op, path)) in (0..8).flat_map(|seed| places.map(|place| (seed, place))) {
        let (world, node) = world(seed);
        with_store(&world, &node, async |store| {
            append(&store, (0..3).map(|n| batch_of(&[n], 100))).await;
            flush(&store).await;
            assert_eq!(wrap_journal(&node, &world, &store, id(1)).await, WRAPS);
            append(&store, (3..5).map(|n| batch_of(&[n], 100))).await;
            flush(&store).await;
            node.disk_faults(|f| f.stuck(op, path));
            let cutting = store.clone();
            let cut = async move { cutting.truncate(id(0), Offset(1)).await };
            drop(node.runtime().spawn(TaskGroup::Requests, "cut", cut));
            world.handle().sleep(Duration::from_secs(1)).await;
            assert!(node.disk_faults(|f| f.hits()) > 0, "{op:?} {path}");
        });
        node.disk_faults(|f| f.clear());
        die(&node, CrashKind::Kill);
        let left = with_store(&world, &node, async |store| {
            let mut left = numbers(&store, 0).await;
            assert!(
                !left.is_empty() && left == (0..left.len() as u64).collect::<Vec<_>>(),
                "{seed} {op:?} {path}: {left:?}"
            );
            append(&store, [batch_of(&[100], 100)].into_iter()).await;
            left.push(100);
            left
        });
        die(&node, CrashKind::PowerLoss);
        with_store(&world, &node, async |store| assert_eq!(numbers(&store, 0).await, left, "{seed} {op:?} {path}"));
    }
}

/// The note is of a file that cannot be synced, or be written: the process ends, and nothing was let go of.
#[test]
fn a_note_that_fails_ends_the_process() {
    for op in [DiskOp::Sync, DiskOp::Write] {
        for how in [CrashKind::Kill, CrashKind::PowerLoss] {
            let (world, node) = world(44);
            let fatals = Fatals::default();
            world.block_on(async {
                let store = open(&node, &fatals, 2, 0).await;
                append(&store, (0..2).map(|n| batch_of(&[n], 100))).await;
                flush(&store).await;
                append(&store, (2..4).map(|n| batch_of(&[n], 100))).await;
                node.disk_faults(|f| f.fail_next(op, states::STATES_FILE));
                drop(node.runtime().spawn(TaskGroup::Requests, "flush", async move { flush(&store).await }));
                world.handle().sleep(Duration::from_secs(1)).await;
            });
            assert_eq!(fatals.borrow().len(), 1, "{op:?}");
            die(&node, how);
            for _ in 0..2 {
                with_store(&world, &node, async |store| {
                    assert_eq!(numbers(&store, 0).await, [0, 1, 2, 3], "{op:?} {how:?}")
                });
                die(&node, how);
            }
        }
    }
}
