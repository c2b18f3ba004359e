//! Single behaviours, each in one simulated world.

use super::harness::*;
use crate::error_code::ErrorCode;
use crate::ids::Offset;

#[test]
fn append_ack_read() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        for n in 0..2 {
            store.load_end_offsets(id(n)).await.expect("loads");
        }
        let first = store.append(id(0), batch_of(&[1, 2, 3], 100), LOCAL);
        let second = store.append(id(0), batch_of(&[4], 100), LOCAL);
        let other = store.append(id(1), batch_of(&[5], 100), LOCAL);
        assert_eq!(second.await.expect("acked").base_offset, Offset(3), "in the order of calls");
        assert_eq!(first.await.expect("acked").base_offset, Offset(0));
        assert_eq!(other.await.expect("acked").base_offset, Offset(0));
        assert_eq!(store.stats().groups, 1, "one group commit for what came together");
        assert_eq!(read_all(&store, id(0), 0, 1000).await, [(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(read_all(&store, id(1), 0, 1000).await, [(0, 5)]);
        let error = store.read(id(0), request(5, 100)).await.expect_err("past the end");
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
        assert_eq!(error.offsets.map(|e| e.high_watermark), Some(Offset(4)));
    });
}

#[test]
fn what_was_acked_is_there_after_a_crash() {
    let (world, node) = world(2);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        for n in 0..50 {
            store.append(id(0), batch_of(&[n], 1000), LOCAL).await.expect("acked");
        }
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        let expected: Vec<(i64, u64)> = (0..50).map(|n| (n as i64, n)).collect();
        assert_eq!(read_all(&store, id(0), 0, 5000).await, expected);
        store.shutdown().await.expect("a clean end");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(store.append(id(0), batch_of(&[50], 10), LOCAL).await.expect("acked").base_offset, Offset(50));
        assert_eq!(read_all(&store, id(0), 40, 100).await.len(), 11);
    });
    assert!(fatals.borrow().is_empty());
}
