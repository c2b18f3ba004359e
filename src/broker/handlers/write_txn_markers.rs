//! WriteTxnMarkers: ends of transactions, written into the partitions that are named. What coordinators of other nodes
//! send, and a tool that ends a hanging transaction (KIP-664).

use super::markers::write_markers;
use super::resolve::led_by_name;
use crate::broker::Shard;
use crate::broker::store::TxnMarker;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use coreline_io::Runtime;
use kafka_protocol::messages::write_txn_markers_response::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
};
use kafka_protocol::messages::{WriteTxnMarkersRequest, WriteTxnMarkersResponse};

pub(super) async fn handle<R: Runtime>(shard: &Shard<R>, request: WriteTxnMarkersRequest) -> WriteTxnMarkersResponse {
    let image = shard.image();
    // By place in the request: a refusal, or where among the markers that are written.
    let (mut places, mut markers) = (Vec::new(), Vec::new());
    for asked in &request.markers {
        for topic in &asked.topics {
            for index in &topic.partition_indexes {
                places.push(led_by_name(shard, &image, &topic.name, *index).map(|resolved| {
                    markers.push(TxnMarker {
                        partition: resolved.id,
                        producer_id: ProducerId(asked.producer_id.0),
                        producer_epoch: ProducerEpoch(asked.producer_epoch),
                        coordinator_epoch: asked.coordinator_epoch,
                        commit: asked.transaction_result,
                        v2: false,
                    });
                    markers.len() - 1
                }));
            }
        }
    }
    let written = write_markers(shard, markers).await;
    let mut codes = places.into_iter().map(|place| match place {
        Ok(at) => written[at].as_ref().map_or_else(|error| error.code, |_| ErrorCode::None),
        Err(code) => code,
    });
    let markers = request.markers.into_iter().map(|asked| {
        let topics = asked.topics.into_iter().map(|topic| {
            let partitions = topic.partition_indexes.iter().map(|index| {
                let code = codes.next().expect("an answer for each partition");
                WritableTxnMarkerPartitionResult::default().with_partition_index(*index).with_error_code(code.code())
            });
            let partitions = partitions.collect();
            WritableTxnMarkerTopicResult::default().with_name(topic.name).with_partitions(partitions)
        });
        WritableTxnMarkerResult::default().with_producer_id(asked.producer_id).with_topics(topics.collect())
    });
    WriteTxnMarkersResponse::default().with_markers(markers.collect())
}
