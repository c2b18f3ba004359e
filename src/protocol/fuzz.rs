//! What a fuzzer calls: everything that a frame from a stranger meets before a handler does.

use super::api::ApiKey;
use super::by_topic_id::ByTopicId;
use super::frame::{Request, SIZE_LEN, frame_size};
use super::{codec, produce};
use bytes::BytesMut;
use kafka_protocol::messages as m;
use kafka_protocol::protocol::Request as CodecRequest;

/// Takes `data` for what a connection sent: size, header, body. It must come back, whatever the bytes.
///
/// Returns true if it was a request that a handler would see.
pub fn fuzz_request_frame(data: &[u8]) -> bool {
    let Ok(Some(size)) = frame_size(data, 1 << 20) else { return false };
    let Some(frame) = data.get(SIZE_LEN..SIZE_LEN + size) else { return false };
    let mut frame = BytesMut::from(frame);
    let Ok(request) = Request::parse(&mut frame) else { return false };
    request.fallback || decodes(&request, frame)
}

fn decodes(request: &Request, body: BytesMut) -> bool {
    fn by_codec<T: CodecRequest>(request: &Request, body: BytesMut) -> bool {
        codec::decode::<T>(request, body.freeze()).is_ok()
    }
    match request.api.key {
        ApiKey::Produce => {
            // Two readers of one format: they must agree on what is one.
            let by_hand = produce::parse(request, body.clone()).is_ok();
            assert!(!by_hand || by_codec::<m::ProduceRequest>(request, body), "the codec refuses what we accept");
            by_hand
        }
        ApiKey::Fetch => by_codec::<m::FetchRequest>(request, body),
        ApiKey::ListOffsets => by_codec::<m::ListOffsetsRequest>(request, body),
        ApiKey::Metadata => by_codec::<m::MetadataRequest>(request, body),
        ApiKey::FindCoordinator => by_codec::<m::FindCoordinatorRequest>(request, body),
        ApiKey::OffsetCommit => by_codec::<ByTopicId<m::OffsetCommitRequest>>(request, body),
        ApiKey::OffsetFetch => by_codec::<ByTopicId<m::OffsetFetchRequest>>(request, body),
        ApiKey::JoinGroup => by_codec::<m::JoinGroupRequest>(request, body),
        ApiKey::Heartbeat => by_codec::<m::HeartbeatRequest>(request, body),
        ApiKey::LeaveGroup => by_codec::<m::LeaveGroupRequest>(request, body),
        ApiKey::SyncGroup => by_codec::<m::SyncGroupRequest>(request, body),
        ApiKey::DescribeGroups => by_codec::<m::DescribeGroupsRequest>(request, body),
        ApiKey::ListGroups => by_codec::<m::ListGroupsRequest>(request, body),
        ApiKey::DeleteGroups => by_codec::<m::DeleteGroupsRequest>(request, body),
        ApiKey::OffsetDelete => by_codec::<m::OffsetDeleteRequest>(request, body),
        ApiKey::ApiVersions => by_codec::<m::ApiVersionsRequest>(request, body),
        ApiKey::CreateTopics => by_codec::<m::CreateTopicsRequest>(request, body),
        ApiKey::DeleteTopics => by_codec::<m::DeleteTopicsRequest>(request, body),
        ApiKey::DeleteRecords => by_codec::<m::DeleteRecordsRequest>(request, body),
        ApiKey::InitProducerId => by_codec::<m::InitProducerIdRequest>(request, body),
        ApiKey::OffsetForLeaderEpoch => by_codec::<m::OffsetForLeaderEpochRequest>(request, body),
        ApiKey::WriteTxnMarkers => by_codec::<m::WriteTxnMarkersRequest>(request, body),
        ApiKey::DescribeConfigs => by_codec::<m::DescribeConfigsRequest>(request, body),
        ApiKey::AlterConfigs => by_codec::<m::AlterConfigsRequest>(request, body),
        ApiKey::DescribeLogDirs => by_codec::<m::DescribeLogDirsRequest>(request, body),
        ApiKey::CreatePartitions => by_codec::<m::CreatePartitionsRequest>(request, body),
        ApiKey::IncrementalAlterConfigs => by_codec::<m::IncrementalAlterConfigsRequest>(request, body),
        ApiKey::DescribeCluster => by_codec::<m::DescribeClusterRequest>(request, body),
        ApiKey::AddPartitionsToTxn => by_codec::<m::AddPartitionsToTxnRequest>(request, body),
        ApiKey::AddOffsetsToTxn => by_codec::<m::AddOffsetsToTxnRequest>(request, body),
        ApiKey::EndTxn => by_codec::<m::EndTxnRequest>(request, body),
        ApiKey::TxnOffsetCommit => by_codec::<m::TxnOffsetCommitRequest>(request, body),
        ApiKey::DescribeTransactions => by_codec::<m::DescribeTransactionsRequest>(request, body),
        ApiKey::ListTransactions => by_codec::<m::ListTransactionsRequest>(request, body),
        ApiKey::DescribeProducers => by_codec::<m::DescribeProducersRequest>(request, body),
        ApiKey::ConsumerGroupHeartbeat => by_codec::<m::ConsumerGroupHeartbeatRequest>(request, body),
        ApiKey::ConsumerGroupDescribe => by_codec::<m::ConsumerGroupDescribeRequest>(request, body),
        ApiKey::ListConfigResources => by_codec::<m::ListConfigResourcesRequest>(request, body),
        ApiKey::DescribeTopicPartitions => by_codec::<m::DescribeTopicPartitionsRequest>(request, body),
        ApiKey::CompactTopic => by_codec::<super::compact_topic::CompactTopicRequest>(request, body),
        ApiKey::MovePartition => by_codec::<super::move_partition::MovePartitionRequest>(request, body),
        ApiKey::DescribeLatency => by_codec::<super::describe_latency::DescribeLatencyRequest>(request, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api::Api;
    use bytes::BufMut;
    use proptest::prelude::*;

    fn framed(api: &Api, version: i16, body: &[u8]) -> Vec<u8> {
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        frame.put_i16(api.key as i16);
        frame.put_i16(version);
        frame.put_i32(1);
        frame.put_i16(-1);
        if api.flexible(version) {
            frame.put_u8(0);
        }
        frame.put_slice(body);
        let size = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        frame.to_vec()
    }

    /// Small numbers are what lengths and counts are made of.
    fn body() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![4 => 0u8..4, 1 => any::<u8>()];
        proptest::collection::vec(byte, 0..120)
    }

    proptest! {
        #[test]
        fn every_decoder_survives_any_bytes(which in 0..Api::all().len(), version: u8, body in body()) {
            let api = &Api::all()[which];
            let version = api.min + i16::from(version) % (api.max - api.min + 1);
            fuzz_request_frame(&framed(api, version, &body));
        }

        #[test]
        fn any_frame_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            fuzz_request_frame(&bytes);
        }
    }

    #[test]
    fn a_good_request_gets_through() {
        let metadata = Api::of(ApiKey::Metadata);
        assert!(fuzz_request_frame(&framed(metadata, 12, &[0, 1, 0, 0])));
        assert!(!fuzz_request_frame(&framed(metadata, 12, &[0, 1, 0])));
    }
}
