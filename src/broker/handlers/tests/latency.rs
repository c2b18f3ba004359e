//! Where the time of requests goes, by the simulator's clock: it stands while anything is computed.

use super::groups::{commit, commit_codes, ready};
use super::harness::*;
use super::producing::{produce, topic_data};
use crate::latency::Stage;
use crate::protocol::ApiKey;
use crate::protocol::codec::text;
use crate::protocol::describe_latency::{DescribeLatencyRequest, DescribeLatencyResponse, SlowRow};
use coreline_io::sim::DiskOp;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, HeartbeatRequest, ListOffsetsRequest, MetadataRequest};
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

const SLOW: Duration = Duration::from_millis(80);

async fn ask(node: &Node, by_shard: bool) -> DescribeLatencyResponse {
    let handlers = Rc::clone(&node.handlers.borrow()[1]);
    let request = DescribeLatencyRequest { since_start: false, by_shard, slowest: 1000 };
    crate::broker::handlers::describe_latency::handle(handlers.shard(), request).await
}

fn nanos(time: Duration) -> i64 {
    time.as_nanos() as i64
}

fn slow(found: &DescribeLatencyResponse, api: ApiKey) -> Vec<&SlowRow> {
    found.slowest.iter().filter(|slow| slow.api == api as i16).collect()
}

fn spent(slow: &SlowRow, stage: Stage) -> i64 {
    slow.stages.iter().find(|(number, _)| *number == stage as i8).map_or(0, |(_, nanos)| *nanos)
}

/// How many requests had the stage, and the longest.
fn row(found: &DescribeLatencyResponse, shard: i32, api: ApiKey, stage: i8) -> (i64, i64) {
    let row = found.rows.iter().find(|row| (row.shard, row.api, row.stage) == (shard, api as i16, stage));
    row.map_or((0, 0), |row| (row.count, row.nanos[5]))
}

#[test]
fn a_slow_disk_is_seen_where_it_is() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let mut client = node.connect().await;
        let one = |p| produce(-1, vec![topic_data(9, "t", Uuid::nil(), vec![(p, Some(batch(&["v"])))])]);
        // Loaded, and the journal begun.
        for partition in 0..6 {
            client.ask(9, &one(partition)).await;
        }
        node.node.disk_faults(|faults| faults.slow(DiskOp::Sync, "journal", SLOW));
        client.ask(9, &one(0)).await;
        let before = ask(&node, false).await;
        let slowest = before.slowest[0].clone();
        assert_eq!((slowest.api, slowest.client_id.as_str()), (ApiKey::Produce as i16, "test"), "{before:?}");
        let flush = slowest.flush.as_ref().expect("the flush is named");
        assert!(spent(&slowest, Stage::Device) >= nanos(SLOW) && flush.nanos >= nanos(SLOW), "{slowest:?}");
        assert!(flush.partitions == 1 && flush.bytes > 0 && flush.group > 0, "{flush:?}");
        let owner = node.image().topic("t").unwrap().partitions[0].shard;
        assert_eq!(flush.shard, i32::from(owner));
        let (count, longest) = row(&before, -1, ApiKey::Produce, Stage::Device as i8);
        assert!(count == 7 && longest >= nanos(SLOW) * 99 / 100, "{before:?}");

        // One that comes while another one's flush is under way waits for it in the journal.
        let mut other = node.connect().await;
        client.send(9, &one(0)).await;
        let half = coreline_io::Clock::sleep(&node.runtime(), SLOW / 2);
        half.await;
        other.ask(9, &one(0)).await;
        client.receive::<kafka_protocol::messages::ProduceRequest>(9).await.expect("an answer");
        let found = ask(&node, false).await;
        let waited = &found.slowest[0];
        let (journal, device) = (spent(waited, Stage::Journal), spent(waited, Stage::Device));
        assert!(journal >= nanos(SLOW) / 4 && device >= nanos(SLOW), "{waited:?}");
        assert!(waited.flush.as_ref().expect("named").group > flush.group, "{waited:?}");
    });
}

#[test]
fn hops_are_told_apart_and_shards_add_up() {
    let node = Node::start(3, &[]);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let mut client = node.connect().await;
        for n in 0..60 {
            let parts = vec![(n % 6, Some(batch(&["v"])))];
            client.ask(9, &produce(-1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        }
        client.ask(9, &MetadataRequest::default().with_topics(None)).await;
        let found = ask(&node, true).await;
        assert_eq!(found.shards, SHARDS as i32);
        let (all, _) = row(&found, -1, ApiKey::Produce, -1);
        let (hopped, _) = row(&found, -1, ApiKey::Produce, Stage::Hop as i8);
        // Of three shards the connection is on one.
        assert!(all == 60 && 0 < hopped && hopped <= 40, "{hopped} of {all}");
        for api in [ApiKey::Produce, ApiKey::Metadata] {
            let by_shard: i64 = (0..SHARDS as i32).map(|shard| row(&found, shard, api, -1).0).sum();
            assert_eq!(by_shard, row(&found, -1, api, -1).0);
        }
        for slow in slow(&found, ApiKey::Produce) {
            let owner = slow.flush.as_ref().expect("durable").shard;
            assert!(spent(slow, Stage::Hop) == 0 || owner != slow.shard, "{slow:?}");
        }
    });
}

#[test]
fn what_waits_on_purpose_is_not_slow() {
    let node = Node::start(2, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        let partition = |p| FetchPartition::default().with_partition(p).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(text("t").into()).with_partitions((0..3).map(partition).collect());
        let request = FetchRequest::default().with_max_wait_ms(500).with_min_bytes(1).with_max_bytes(1 << 20);
        client.ask(12, &request.with_topics(vec![topic])).await;
        let parts = vec![(0, Some(batch(&["v"])))];
        client.ask(9, &produce(-1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        let found = ask(&node, false).await;
        let fetch = slow(&found, ApiKey::Fetch)[0];
        let waited = spent(fetch, Stage::Wait);
        let all: i64 = fetch.stages.iter().map(|(_, nanos)| nanos).sum();
        assert!(waited > nanos(Duration::from_millis(450)) && all >= nanos(Duration::from_millis(500)), "{fetch:?}");
        let others = all - waited;
        let produced = slow(&found, ApiKey::Produce)[0];
        let took: i64 = produced.stages.iter().map(|(_, nanos)| nanos).sum();
        let first = found.slowest[0].api;
        assert_eq!(first, if others > took { ApiKey::Fetch } else { ApiKey::Produce } as i16, "{found:?}");
        let slowest: i64 = found.slowest.iter().map(|s| s.stages.iter().map(|(_, n)| n).sum::<i64>()).max().unwrap();
        assert_eq!(slowest, all, "{found:?}");
    });
}

#[test]
fn other_apis_have_their_hops_too() {
    let node = Node::start(4, &[]);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let mut client = node.connect().await;
        let partition = |p| ListOffsetsPartition::default().with_partition_index(p).with_timestamp(-1);
        for n in 0..120 {
            let topic = ListOffsetsTopic::default().with_name(text("t").into()).with_partitions(vec![partition(n % 6)]);
            client.ask(7, &ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])).await;
        }
        let found = ask(&node, false).await;
        let (all, _) = row(&found, -1, ApiKey::ListOffsets, -1);
        let (hopped, longest) = row(&found, -1, ApiKey::ListOffsets, Stage::Hop as i8);
        // Of three shards the connection is on one; and most hops take none of the simulator's time.
        assert!(all == 120 && 0 < hopped && hopped <= 80 && longest > 0, "{hopped} of {all}: {found:?}");
        for slow in slow(&found, ApiKey::ListOffsets) {
            let stages: i64 = slow.stages.iter().map(|(_, nanos)| nanos).sum();
            assert!(spent(slow, Stage::Hop) <= stages, "{slow:?}");
        }
    });
}

#[test]
fn what_a_coordinator_waits_for_is_told_apart() {
    let node = Node::start(5, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = ready(&node).await;
        // Groups on every shard; the connection is on one.
        let names: Vec<String> = (0..30).map(|n| format!("group {n}")).collect();
        for name in &names {
            assert_eq!(commit_codes(&mut client, 9, &commit(name, &[("t", 0, 1, "")])).await, [0]);
        }
        node.node.disk_faults(|faults| faults.slow(DiskOp::Sync, "journal", SLOW));
        for name in &names {
            assert_eq!(commit_codes(&mut client, 9, &commit(name, &[("t", 0, 2, "")])).await, [0]);
            client.ask(4, &HeartbeatRequest::default().with_group_id(text(name).into())).await;
        }
        let found = ask(&node, false).await;
        let slowed = slow(&found, ApiKey::OffsetCommit);
        let slowed: Vec<_> = slowed.into_iter().filter(|slow| spent(slow, Stage::Device) > 0).take(30).collect();
        let hops = slowed.iter().filter(|slow| {
            let flush = slow.flush.as_ref().expect("the flush is named");
            assert!(spent(slow, Stage::Device) >= nanos(SLOW) && flush.nanos >= nanos(SLOW), "{slow:?}");
            assert!(spent(slow, Stage::Handle) < nanos(SLOW) / 2, "{slow:?}");
            assert!(flush.shard != slow.shard || spent(slow, Stage::Hop) == 0, "{slow:?}");
            flush.shard != slow.shard
        });
        let hops = hops.count();
        assert!(slowed.len() == 30 && 0 < hops && hops < 30, "{hops} of {}", slowed.len());
        let (count, longest) = row(&found, -1, ApiKey::OffsetCommit, Stage::Hop as i8);
        assert!(count > 0 && longest > 0, "{found:?}");
        // A heartbeat writes nothing.
        let (count, _) = row(&found, -1, ApiKey::Heartbeat, Stage::Device as i8);
        let (hopped, _) = row(&found, -1, ApiKey::Heartbeat, Stage::Hop as i8);
        assert!(count == 0 && 0 < hopped && hopped < 30, "{found:?}");
    });
}
