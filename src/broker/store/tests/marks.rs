//! What a flush told the journal of its segment, and a load that does without reading it.

use super::harness::*;
use crate::broker::store::flush::Limit;
use crate::broker::store::*;
use crate::ids::Offset;
use crate::log::segment::{FileKind, file_name};
use coreline_io::sim::{CrashKind, SimNode, SimWorld};
use std::path::PathBuf;

const BATCHES: u64 = 40;

fn segment() -> PathBuf {
    PathBuf::from(SimNode::DATA_DIR).join("topic0-0").join(file_name(0, FileKind::Log))
}

/// Batches of partition 0, flushed; a batch of partition 1 takes what is told of the flush into the journal.
async fn flush_and_tell(store: &Store, batches: impl Iterator<Item = bytes::BytesMut>) {
    for batch in batches {
        store.append(id(0), batch, LOCAL).await.expect("acked");
    }
    let partition = store.partition(id(0)).expect("assigned");
    store.flush_partition(&partition).await.expect("flushed");
    store.append(id(1), batch_of(&[0], 100), LOCAL).await.expect("acked");
}

fn die(node: &SimNode) {
    node.crash_by(CrashKind::PowerLoss);
    remove_states(node);
    node.restart();
}

fn with_store<T>(world: &SimWorld, node: &SimNode, work: impl AsyncFnOnce(Store) -> T) -> T {
    world.block_on(async { work(open(node, &Fatals::default(), 2, 0).await).await })
}

/// The first batch is damaged: a load that read it would end the log there. Of a short segment, and of one that does not
/// come with its directory; with what was written behind the mark.
#[test]
fn what_a_mark_knows_is_not_read_again() {
    for size in [100, 2_000] {
        let (world, node) = world(3);
        with_store(&world, &node, async |store| {
            flush_and_tell(&store, (0..BATCHES).map(|n| batch_of(&[n], size))).await;
            // Of these the journal holds a copy, and the mark says nothing.
            for number in BATCHES..BATCHES + 2 {
                store.append(id(0), batch_of(&[number], size), LOCAL).await.expect("acked");
            }
            let partition = store.partition(id(0)).expect("assigned");
            store.write_out(&partition, Limit::Committed, true).await.expect("written");
        });
        die(&node);
        let mut bytes = node.file_contents(segment()).expect("a segment");
        assert_eq!(bytes.len() > 64 << 10, size > 1000, "one is short and one is long");
        bytes[70] ^= 1;
        node.put_file(segment(), &bytes);
        with_store(&world, &node, async |store| {
            let ends = store.load_end_offsets(id(0)).await.expect("loads");
            assert_eq!(ends.log_end, Offset(BATCHES as i64 + 2), "records of {size} bytes");
            let found = read_all(&store, id(0), 2, 10_000).await;
            assert_eq!(found, (2..BATCHES + 2).map(|n| (n as i64, n)).collect::<Vec<_>>());
            let newest = store.list_offset(id(0), OffsetQuery::MaxTimestamp, None).await.expect("found").expect("one");
            assert_eq!(newest.offset, Offset(BATCHES as i64 + 1));
            let at = store.list_offset(id(0), OffsetQuery::Timestamp(NOW + 20), None).await.expect("found");
            assert_eq!(at.expect("one").offset, Offset(20));
        });
    }
}

/// ```text
/// flushed and told   [ 0 ][ 1 ][ 2 ]     the mark names batch 2, at offset 2
/// cut to 1, then     [ 0 ][ 9 ][ 4 ]     as long, written, and not told: the largest time is at offset 1
/// ```
#[test]
fn a_mark_of_what_was_cut_is_not_believed() {
    let (world, node) = world(4);
    with_store(&world, &node, async |store| {
        flush_and_tell(&store, (0..3).map(|n| batch_of(&[n], 100))).await;
        store.truncate(id(0), Offset(1)).await.expect("cut");
        for number in [9, 4] {
            store.append(id(0), batch_of(&[number], 100), LOCAL).await.expect("acked");
        }
        let partition = store.partition(id(0)).expect("assigned");
        store.write_out(&partition, Limit::Committed, true).await.expect("written");
    });
    die(&node);
    with_store(&world, &node, async |store| {
        let newest = store.list_offset(id(0), OffsetQuery::MaxTimestamp, None).await.expect("found").expect("one");
        assert_eq!((newest.offset, newest.timestamp), (Offset(1), NOW + 9));
        assert_eq!(read_all(&store, id(0), 0, 10_000).await, [(0, 0), (1, 9), (2, 4)]);
    });
}

/// A mark says nothing of producers: where there are any, it is not made.
#[test]
fn what_producers_sent_is_still_known() {
    let (world, node) = world(5);
    with_store(&world, &node, async |store| {
        flush_and_tell(&store, (0..3).map(|n| with_producer(&[n], 100, Some((7, 0, n as i32))))).await;
    });
    die(&node);
    with_store(&world, &node, async |store| {
        let again = store.append(id(0), with_producer(&[2], 100, Some((7, 0, 2))), LOCAL).await.expect("a duplicate");
        assert_eq!(again.base_offset, Offset(2));
        assert_eq!(store.end_offsets(id(0)).expect("loaded").log_end, Offset(3));
    });
}

/// A segment of another history, as long: what the mark names is not there.
#[test]
fn a_mark_of_other_bytes_is_not_believed() {
    let (world, node) = world(6);
    with_store(&world, &node, async |store| {
        flush_and_tell(&store, [batch_of(&[0], 100), batch_of(&[1, 2], 100), batch_of(&[3], 100)].into_iter()).await;
    });
    die(&node);
    let bytes = node.file_contents(segment()).expect("a segment");
    let first = batch_of(&[0], 100).len();
    let mut short = bytes[..first].to_vec();
    short.resize(bytes.len(), 0);
    node.put_file(segment(), &short);
    with_store(&world, &node, async |store| {
        // The journal has the rest still.
        assert_eq!(read_all(&store, id(0), 0, 10_000).await, (0..4).map(|n| (n, n as u64)).collect::<Vec<_>>());
    });
}
