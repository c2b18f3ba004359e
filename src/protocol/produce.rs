//! Produce, versions 3 to 13, by hand: the records of each partition are taken out of the frame without a copy.
//!
//! ```text
//! frame   [header][transactional id, acks, timeout]{topic{partition [records……]}{partition [records…]}}
//! after parsing                                              ^ split off: own BytesMut, same memory, may be written to
//! ```

use super::frame::{Request, ResponseFrame, begin_response, finish_response};
use super::wire::{DecodeError, Reader, put_length, put_no_tags, put_nullable_string, put_string};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use bytes::{Buf, BufMut, BytesMut};
use std::ops::Range;
use uuid::Uuid;

/// A Produce request.
#[derive(Debug, Default, PartialEq)]
pub struct ProduceRequest {
    /// Set by a transactional producer.
    pub transactional_id: Option<String>,
    /// `acks`: 0, 1, or -1 for all in-sync replicas; anything else is the handler's to refuse.
    pub acks: i16,
    /// How long the client waits.
    pub timeout_ms: i32,
    /// The records by topic.
    pub topics: Vec<ProduceTopic>,
}

/// The records for one topic.
#[derive(Debug, Default, PartialEq)]
pub struct ProduceTopic {
    /// Up to version 12: the name.
    pub name: String,
    /// From version 13 on: the id.
    pub id: TopicId,
    /// The records by partition.
    pub partitions: Vec<ProducePartition>,
}

/// The records for one partition.
#[derive(Debug, Default, PartialEq)]
pub struct ProducePartition {
    /// The partition.
    pub index: i32,
    /// Record batches as they came, not looked at yet. Shares the frame's memory, and nobody else has this part of it.
    pub records: Option<BytesMut>,
}

/// Reads the body of a Produce request; the records are split off the frame.
///
/// # Errors
/// A body that is not what the version says.
pub fn parse(request: &Request, mut body: BytesMut) -> Result<ProduceRequest, DecodeError> {
    let version = request.header.api_version;
    let (mut produce, ranges) = skeleton(&mut Reader::new(&body), version, request.api.flexible(version))?;
    // Front to back, each record range leaves the frame as its own piece.
    let mut ranges = ranges.into_iter();
    let mut consumed = 0;
    for partition in produce.topics.iter_mut().flat_map(|t| &mut t.partitions) {
        let range = ranges.next().expect("one range for each partition");
        partition.records = range.map(|range| {
            body.advance(range.start - consumed);
            consumed = range.end;
            body.split_to(range.len())
        });
    }
    Ok(produce)
}

type RecordRanges = Vec<Option<Range<usize>>>;

/// Everything but the records, and where those are.
fn skeleton(
    reader: &mut Reader<'_>,
    version: i16,
    flexible: bool,
) -> Result<(ProduceRequest, RecordRanges), DecodeError> {
    let transactional_id = reader.nullable_string(flexible, "transactional_id")?.map(str::to_owned);
    let acks = reader.i16("acks")?;
    let timeout_ms = reader.i32("timeout_ms")?;
    let mut ranges = RecordRanges::new();
    let mut topics = Vec::new();
    for _ in 0..reader.array(flexible, "topic_data")? {
        let mut topic = ProduceTopic::default();
        if version >= 13 {
            let id = reader.take(16, "topic_id")?;
            topic.id = TopicId(Uuid::from_bytes(id.try_into().expect("take gives 16 bytes")));
        } else {
            topic.name = reader.string(flexible, "topic name")?.to_owned();
        }
        for _ in 0..reader.array(flexible, "partition_data")? {
            topic.partitions.push(ProducePartition { index: reader.i32("partition index")?, records: None });
            ranges.push(reader.nullable_bytes(flexible, "records")?);
            reader.skip_tags(flexible)?;
        }
        reader.skip_tags(flexible)?;
        topics.push(topic);
    }
    reader.skip_tags(flexible)?;
    Ok((ProduceRequest { transactional_id, acks, timeout_ms, topics }, ranges))
}

/// The answer for one topic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopicOutcome {
    /// As it was asked for.
    pub name: String,
    /// As it was asked for.
    pub id: TopicId,
    /// One for each partition of the request, in its order.
    pub partitions: Vec<PartitionOutcome>,
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionOutcome {
    /// The partition.
    pub index: i32,
    /// What happened.
    pub error: ErrorCode,
    /// The offset of the first record, or -1.
    pub base_offset: i64,
    /// The broker's timestamp for topics with `message.timestamp.type=LogAppendTime`, else -1.
    pub log_append_time_ms: i64,
    /// The partition's first offset, or -1.
    pub log_start_offset: i64,
    /// The records at fault and why (version 8 on).
    pub record_errors: Vec<(i32, String)>,
    /// For people (version 8 on).
    pub error_message: Option<String>,
}

impl PartitionOutcome {
    /// A refusal.
    #[must_use]
    pub fn error(index: i32, error: ErrorCode, message: impl Into<Option<String>>) -> Self {
        Self {
            index,
            error,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: message.into(),
        }
    }
}

/// Encodes the response to `request`.
#[must_use]
pub fn encode(request: &Request, topics: &[TopicOutcome]) -> ResponseFrame {
    let (version, flexible) = (request.response_version(), request.flexible());
    let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
    let capacity = 16 + topics.iter().map(|t| 24 + t.name.len()).sum::<usize>() + partitions * 40;
    let mut buf = begin_response(request.api, version, request.header.correlation_id, capacity);
    put_length(&mut buf, flexible, topics.len());
    for topic in topics {
        if version >= 13 {
            buf.put_slice(topic.id.0.as_bytes());
        } else {
            put_string(&mut buf, flexible, &topic.name);
        }
        put_length(&mut buf, flexible, topic.partitions.len());
        for partition in &topic.partitions {
            put_partition(&mut buf, version, flexible, partition);
        }
        put_no_tags(&mut buf, flexible);
    }
    buf.put_i32(0); // throttle time
    put_no_tags(&mut buf, flexible);
    finish_response(&mut buf, 0);
    ResponseFrame::single(buf.freeze())
}

fn put_partition(buf: &mut BytesMut, version: i16, flexible: bool, partition: &PartitionOutcome) {
    buf.put_i32(partition.index);
    buf.put_i16(partition.error.code());
    buf.put_i64(partition.base_offset);
    buf.put_i64(partition.log_append_time_ms);
    if version >= 5 {
        buf.put_i64(partition.log_start_offset);
    }
    if version >= 8 {
        put_length(buf, flexible, partition.record_errors.len());
        for (index, message) in &partition.record_errors {
            buf.put_i32(*index);
            put_string(buf, flexible, message);
            put_no_tags(buf, flexible);
        }
        put_nullable_string(buf, flexible, partition.error_message.as_deref());
    }
    put_no_tags(buf, flexible);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api::{Api, ApiKey};
    use crate::protocol::codec::{self, text};
    use crate::protocol::frame::RequestHeader;
    use bytes::Bytes;
    use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
    use kafka_protocol::messages::produce_response::{
        BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
    };
    use kafka_protocol::messages::{ProduceRequest as CodecRequest, ProduceResponse};
    use kafka_protocol::protocol::Encodable;
    use proptest::prelude::*;

    fn request(version: i16) -> Request {
        let header = RequestHeader { api_key: 0, api_version: version, correlation_id: 3, client_id: None };
        Request { api: Api::of(ApiKey::Produce), header, fallback: false }
    }

    fn generated(version: i16) -> impl Strategy<Value = CodecRequest> {
        let records = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300));
        let tags = proptest::collection::btree_map(0..5i32, proptest::collection::vec(any::<u8>(), 0..4), 0..2);
        let partition = (any::<i32>(), records, tags);
        let topic = ("[a-z]{0,12}", any::<u128>(), proptest::collection::vec(partition, 0..4));
        let parts =
            (proptest::option::of("[a-z]{0,5}"), any::<i16>(), any::<i32>(), proptest::collection::vec(topic, 0..4));
        parts.prop_map(move |(transactional_id, acks, timeout_ms, topics)| {
            CodecRequest::default()
                .with_transactional_id(transactional_id.map(|id| text(&id).into()))
                .with_acks(acks)
                .with_timeout_ms(timeout_ms)
                .with_topic_data(topics.into_iter().map(|t| codec_topic(version, t)).collect())
        })
    }

    type Tags = std::collections::BTreeMap<i32, Vec<u8>>;
    type GeneratedTopic = (String, u128, Vec<(i32, Option<Vec<u8>>, Tags)>);

    fn codec_topic(version: i16, (name, id, partitions): GeneratedTopic) -> TopicProduceData {
        let topic = TopicProduceData::default().with_partition_data(
            partitions
                .into_iter()
                .map(|(index, records, tags)| {
                    let data = PartitionProduceData::default().with_index(index).with_records(records.map(Bytes::from));
                    if version < 9 {
                        return data;
                    }
                    data.with_unknown_tagged_fields(tags.into_iter().map(|(k, v)| (k, Bytes::from(v))).collect())
                })
                .collect(),
        );
        if version >= 13 { topic.with_topic_id(Uuid::from_u128(id)) } else { topic.with_name(text(&name).into()) }
    }

    fn same(ours: &ProduceRequest, codec: &CodecRequest) {
        assert_eq!(ours.transactional_id.as_deref(), codec.transactional_id.as_ref().map(|id| id.0.as_str()));
        assert_eq!((ours.acks, ours.timeout_ms), (codec.acks, codec.timeout_ms));
        assert_eq!(ours.topics.len(), codec.topic_data.len());
        for (topic, codec) in ours.topics.iter().zip(&codec.topic_data) {
            assert_eq!((topic.name.as_str(), topic.id.0), (codec.name.0.as_str(), codec.topic_id));
            let ours: Vec<_> = topic.partitions.iter().map(|p| (p.index, p.records.as_deref())).collect();
            let codec: Vec<_> = codec.partition_data.iter().map(|p| (p.index, p.records.as_deref())).collect();
            assert_eq!(ours, codec);
        }
    }

    proptest! {
        #[test]
        fn parsing_equals_the_codec(
            (version, codec) in (3i16..=13).prop_flat_map(|v| (Just(v), generated(v))),
        ) {
            let mut body = BytesMut::new();
            codec.encode(&mut body, version).unwrap();
            same(&parse(&request(version), body.clone()).unwrap(), &codec);
            let decoded: CodecRequest = codec::decode(&request(version), body.freeze()).unwrap();
            prop_assert_eq!(decoded, codec);
        }

        #[test]
        fn any_bytes_are_survived(version in 3i16..=13, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&request(version), BytesMut::from(&bytes[..]));
        }

        #[test]
        fn a_cut_body_is_an_error((version, codec, cut) in (3i16..=13).prop_flat_map(|v| (Just(v), generated(v), any::<u16>()))) {
            let mut body = BytesMut::new();
            codec.encode(&mut body, version).unwrap();
            body.truncate(usize::from(cut) % body.len());
            prop_assert!(parse(&request(version), body).is_err());
        }
    }

    #[test]
    fn records_are_pieces_of_the_frame_that_may_be_written_to() {
        let codec = CodecRequest::default().with_topic_data(vec![codec_topic(
            9,
            ("t".into(), 0, vec![(0, Some(vec![1; 100]), Tags::new()), (1, Some(vec![2; 50]), Tags::new())]),
        )]);
        let mut body = BytesMut::new();
        codec.encode(&mut body, 9).unwrap();
        let memory = body.as_ptr_range();
        let mut produce = parse(&request(9), body).unwrap();
        for partition in &mut produce.topics[0].partitions {
            let records = partition.records.as_mut().unwrap();
            assert!(memory.contains(&records.as_ptr()), "copied");
            records[0] = 9;
        }
    }

    #[test]
    fn responses_equal_the_codec_in_every_version() {
        let ok = PartitionOutcome {
            base_offset: 42,
            log_append_time_ms: 5,
            log_start_offset: 3,
            ..PartitionOutcome::error(7, ErrorCode::None, None)
        };
        let mut bad = PartitionOutcome::error(8, ErrorCode::InvalidRecord, Some("no key".to_owned()));
        bad.record_errors.push((2, "record 2 has no key".to_owned()));
        for version in 3..=13 {
            let (name, id) = if version >= 13 { ("", 9) } else { ("orders", 0) };
            let id = TopicId(Uuid::from_u128(id));
            let partitions = vec![ok.clone(), bad.clone()];
            let outcome = TopicOutcome { name: name.to_owned(), id, partitions };
            let codec_partition = |p: &PartitionOutcome| {
                let response = PartitionProduceResponse::default()
                    .with_index(p.index)
                    .with_error_code(p.error.code())
                    .with_base_offset(p.base_offset)
                    .with_log_append_time_ms(p.log_append_time_ms);
                let response = if version >= 5 { response.with_log_start_offset(p.log_start_offset) } else { response };
                if version < 8 {
                    return response;
                }
                let errors = p.record_errors.iter().map(|(index, message)| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(*index)
                        .with_batch_index_error_message(Some(text(message)))
                });
                response.with_record_errors(errors.collect()).with_error_message(p.error_message.as_deref().map(text))
            };
            let topic = TopicProduceResponse::default()
                .with_name(text(name).into())
                .with_topic_id(id.0)
                .with_partition_responses(outcome.partitions.iter().map(codec_partition).collect());
            let codec = codec::encode(&request(version), &ProduceResponse::default().with_responses(vec![topic]));
            assert_eq!(encode(&request(version), &[outcome]).parts, codec.parts, "version {version}");
        }
    }
}
