//! Transactions on the wire, as far as partitions go: WriteTxnMarkers, readers of committed records, DescribeProducers.

use super::harness::*;
use crate::broker::store::{Acks, AppendOrigin, TxnAppend, TxnProducer, TxnState};
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use crate::log::batch::BatchBuilder;
use crate::protocol::codec::text;
use bytes::BytesMut;
use futures_util::future::join;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{DescribeProducersRequest, FetchRequest, ListOffsetsRequest, WriteTxnMarkersRequest};
use std::time::Duration;

const TIME: i64 = 1_767_225_600_000;

/// One batch into partition 0 of `t`; of a transaction if a producer is given: its id and first sequence number.
async fn append(node: &Node, value: &str, producer: Option<(i64, i32)>) {
    let image = node.image();
    let topic = image.topic("t").expect("the topic");
    let partition = PartitionId { topic: TopicId(topic.id.0), index: PartitionIndex(0) };
    let owner = topic.partitions[0].shard;
    let handlers = node.handlers.borrow().iter().find(|h| h.shard().id.0 == owner).cloned().expect("the owner");
    let store = &handlers.shard().store;
    let mut builder = BatchBuilder::default();
    let mut guard = None;
    if let Some((id, sequence)) = producer {
        builder = builder.attributes(0x10).producer(ProducerId(id), ProducerEpoch(0), sequence);
        let (producer_id, producer_epoch) = (ProducerId(id), ProducerEpoch(0));
        let asked = TxnProducer { producer_id, producer_epoch, base_sequence: sequence, v2: false };
        if let TxnState::Unverified(given) = store.txn_state(partition, asked, TIME).await.expect("loaded") {
            guard = Some(given);
        }
    }
    builder.push(TIME, None, Some(value.as_bytes()));
    let records = BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..]);
    let origin = AppendOrigin { acks: Acks::Local, now_ms: TIME };
    let txn = TxnAppend { guard, by_coordinator: false };
    store.append_transactional(partition, records, origin, txn).await.expect("appended");
}

async fn end(client: &mut Client, topic: &str, producer: i64, coordinator_epoch: i32, commit: bool) -> i16 {
    let topic = WritableTxnMarkerTopic::default().with_name(text(topic).into()).with_partition_indexes(vec![0]);
    let marker = WritableTxnMarker::default().with_producer_id(producer.into()).with_producer_epoch(0);
    let marker = marker.with_coordinator_epoch(coordinator_epoch).with_transaction_result(commit);
    let request = WriteTxnMarkersRequest::default().with_markers(vec![marker.with_topics(vec![topic])]);
    let response = client.ask(1, &request).await;
    assert_eq!(response.markers[0].producer_id.0, producer);
    response.markers[0].topics[0].partitions[0].error_code
}

async fn fetch(client: &mut Client, offset: i64, isolation: i8, wait_ms: i32) -> PartitionData {
    let partition = FetchPartition::default().with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(text("t").into()).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_max_bytes(1 << 20).with_min_bytes(1).with_max_wait_ms(wait_ms);
    let mut response = client.ask(12, &request.with_isolation_level(isolation).with_topics(vec![topic])).await;
    response.responses.remove(0).partitions.remove(0)
}

async fn offset_of(client: &mut Client, timestamp: i64, isolation: i8) -> i64 {
    let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
    let request = ListOffsetsRequest::default().with_isolation_level(isolation).with_topics(vec![topic]);
    let response = client.ask(7, &request).await;
    assert_eq!(response.topics[0].partitions[0].error_code, 0);
    response.topics[0].partitions[0].offset
}

async fn producer_of(client: &mut Client) -> (i64, i32, i64) {
    let topic = TopicRequest::default().with_name(text("t").into()).with_partition_indexes(vec![0]);
    let response = client.ask(0, &DescribeProducersRequest::default().with_topics(vec![topic])).await;
    let states = &response.topics[0].partitions[0].active_producers;
    assert_eq!(states.len(), 1);
    (states[0].producer_id.0, states[0].coordinator_epoch, states[0].current_txn_start_offset)
}

#[test]
fn readers_of_committed_records_wait_for_the_end_of_a_transaction() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let (mut reader, mut other) = (node.connect().await, node.connect().await);
        append(&node, "plain", None).await;
        append(&node, "open", Some((7, 0))).await;
        append(&node, "behind it", None).await;
        let all = fetch(&mut reader, 0, 0, 0).await;
        assert_eq!((all.high_watermark, all.last_stable_offset, all.aborted_transactions), (3, 1, None));
        assert_eq!(values(all.records.as_ref().expect("records")), ["plain", "open", "behind it"]);
        let stable = fetch(&mut reader, 0, 1, 0).await;
        assert_eq!((stable.high_watermark, stable.last_stable_offset), (3, 1));
        assert_eq!(values(stable.records.as_ref().expect("records")), ["plain"]);
        assert_eq!(stable.aborted_transactions, Some(Vec::new()));
        assert_eq!((offset_of(&mut other, -1, 0).await, offset_of(&mut other, -1, 1).await), (3, 1));
        assert_eq!(producer_of(&mut other).await, (7, -1, 1));
        // One that waits is told by the marker, not by its time.
        let clock = node.world.handle();
        let begun = clock.now();
        let marked = async {
            clock.sleep(Duration::from_millis(50)).await;
            end(&mut other, "t", 7, 4, false).await
        };
        let (woken, code) = join(fetch(&mut reader, 1, 1, 30_000), marked).await;
        assert_eq!(code, 0);
        assert!(clock.now().since(begun) < Duration::from_secs(10), "{:?}", clock.now().since(begun));
        assert_eq!((woken.high_watermark, woken.last_stable_offset), (4, 4));
        let aborted: Vec<_> =
            woken.aborted_transactions.iter().flatten().map(|a| (a.producer_id.0, a.first_offset)).collect();
        assert_eq!(aborted, [(7, 1)]);
        assert_eq!(offset_of(&mut other, -1, 1).await, 4);
        assert_eq!(producer_of(&mut other).await, (7, 4, -1));
        let behind = fetch(&mut reader, 2, 1, 0).await;
        let aborted = behind.aborted_transactions.expect("a list");
        assert_eq!(aborted.len(), 1, "its marker is in the range");
    });
}

#[test]
fn markers_are_refused_by_epochs_and_names() {
    let node = Node::start(2, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = node.connect().await;
        append(&node, "open", Some((7, 0))).await;
        assert_eq!(offset_of(&mut client, TIME, 0).await, 0);
        assert_eq!(offset_of(&mut client, TIME, 1).await, -1, "found, but not for readers of committed records");
        assert_eq!(end(&mut client, "t", 7, 4, true).await, 0);
        assert_eq!(offset_of(&mut client, TIME, 1).await, 0);
        assert_eq!(end(&mut client, "t", 7, 3, true).await, ErrorCode::TransactionCoordinatorFenced.code());
        assert_eq!(end(&mut client, "u", 7, 4, true).await, ErrorCode::UnknownTopicOrPartition.code());
        assert_eq!(end(&mut client, "t", 7, 4, true).await, 0, "again");
    });
}
