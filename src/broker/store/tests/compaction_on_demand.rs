//! Compaction because somebody asks for it: what he is told, and when he is told that it is done.

use super::harness::*;
use crate::broker::store::*;
use crate::ids::{LeaderEpoch, Offset};
use crate::log::batch::BatchBuilder;
use crate::log::log_config::{LogConfig, Ratio};
use bytes::BytesMut;
use coreline_io::sim::{DiskOp, SimNode, SimWorld};
use std::sync::Arc;
use std::time::Duration;

fn config() -> LogConfig {
    // Nothing is worth a cleaning, unless somebody asks for it.
    LogConfig { compacted: true, min_cleanable_dirty_ratio: Ratio::new(1.0), ..small_config() }
}

async fn open_compacted(node: &SimNode) -> Store {
    let store = open(node, &Fatals::default(), 0, 0).await;
    store.assign(spec(0, 0, config()));
    store
}

/// Five records of one key.
async fn produce(store: &Store) {
    for n in 0..5 {
        let mut builder = BatchBuilder::default();
        builder.push(NOW + n, Some(b"key"), Some(b"value"));
        let bytes = BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..]);
        store.append(id(0), bytes, LOCAL).await.expect("acked");
    }
}

async fn done(world: &SimWorld, store: &Store) -> CompactionState {
    for _ in 0..1000 {
        let state = store.compaction_state(id(0)).await.expect("a state");
        if !state.pending {
            return state;
        }
        world.handle().sleep(Duration::from_millis(100)).await;
    }
    panic!("not done after a hundred seconds");
}

/// The first question reads a file; what is written meanwhile belongs to what is promised, or is not named.
#[test]
fn the_end_that_is_named_is_reached() {
    let (world, node) = world(1);
    world.block_on(async {
        let store = open_compacted(&node).await;
        store.load_end_offsets(id(0)).await.expect("loaded");
        node.disk_faults(|f| f.slow(DiskOp::Read, "cleaner-offset", Duration::from_secs(5)));
        let (begun, ()) = futures_util::join!(store.compact_now(id(0)), produce(&store));
        let begun = begun.expect("begun");
        assert!(begun.pending && begun.high_watermark == Offset(5), "{begun:?}");
        let ended = done(&world, &store).await;
        assert!(ended.compacted_end >= begun.high_watermark, "asked at {begun:?}, done at {ended:?}");
    });
}

/// Who asks while an earlier wish is about to be fulfilled is not told that his own is.
#[test]
fn a_later_wish_is_not_forgotten_with_an_earlier_one() {
    let (world, node) = world(2);
    world.block_on(async {
        let store = open_compacted(&node).await;
        produce(&store).await;
        store.compact_now(id(0)).await.expect("begun");
        let ended = done(&world, &store).await;
        assert_eq!(ended.compacted_end, Offset(5));
        // The same end once more: there is nothing to do, but to look takes a while.
        node.disk_faults(|f| f.slow(DiskOp::Read, ".timeindex", Duration::from_secs(5)));
        store.reconfigure(id(0), Arc::new(LogConfig { min_compaction_lag_ms: 1, ..config() }));
        store.compact_now(id(0)).await.expect("begun");
        world.handle().sleep(Duration::from_secs(1)).await;
        produce(&store).await;
        let begun = store.compact_now(id(0)).await.expect("begun");
        assert_eq!(begun.high_watermark, Offset(10));
        let ended = done(&world, &store).await;
        assert!(ended.compacted_end >= begun.high_watermark, "asked at {begun:?}, done at {ended:?}");
    });
}

#[test]
fn nobody_waits_for_a_topic_that_is_no_longer_compacted() {
    let (world, node) = world(3);
    world.block_on(async {
        let store = open_compacted(&node).await;
        produce(&store).await;
        assert!(store.compact_now(id(0)).await.expect("begun").pending);
        store.reconfigure(id(0), Arc::new(small_config()));
        assert_eq!(done(&world, &store).await.compacted_end, Offset(0));
    });
}
