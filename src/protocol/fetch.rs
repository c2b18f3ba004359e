//! The Fetch response, versions 4 to 17, encoded around the records: their bytes are passed on, never copied.
//!
//! ```text
//! parts   [size, header, topic, partition 0 …, length of records] [records] [records] [partition 1 …, length] [records] [tags]
//!         one small buffer, cut where records go in               ^ Bytes of the log, as they are
//! ```

use super::frame::{Request, ResponseFrame, begin_response, finish_response};
use super::wire::{put_length, put_no_tags, put_string, put_varint};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use bytes::{BufMut, Bytes, BytesMut};

/// The answer for one topic.
#[derive(Clone, Debug, Default)]
pub struct FetchedTopic {
    /// Up to version 12: the name.
    pub name: String,
    /// From version 13 on: the id.
    pub id: TopicId,
    /// Its partitions.
    pub partitions: Vec<FetchedPartition>,
}

/// The answer for one partition.
#[derive(Clone, Debug)]
pub struct FetchedPartition {
    /// The partition.
    pub index: i32,
    /// What happened.
    pub error: ErrorCode,
    /// Or -1 with an error.
    pub high_watermark: i64,
    /// Or -1.
    pub last_stable_offset: i64,
    /// Or -1.
    pub log_start_offset: i64,
    /// (producer id, first offset); null for a reader of uncommitted records.
    pub aborted: Option<Vec<(i64, i64)>>,
    /// The leader and its epoch, told with errors about them (version 12 on).
    pub current_leader: Option<(i32, i32)>,
    /// Whole batches, back to back.
    pub records: Vec<Bytes>,
}

impl FetchedPartition {
    /// An error, with nothing known of the partition.
    #[must_use]
    pub fn error(index: i32, error: ErrorCode) -> Self {
        Self {
            index,
            error,
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            aborted: Some(Vec::new()),
            current_leader: None,
            records: Vec::new(),
        }
    }

    /// Bytes of its records.
    #[must_use]
    pub fn records_len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

/// Encodes the response to `request`.
#[must_use]
pub fn encode(request: &Request, error: ErrorCode, session_id: i32, topics: Vec<FetchedTopic>) -> ResponseFrame {
    let mut encoder = Encoder::new(request, &topics);
    encoder.topics(error, session_id, topics);
    encoder.finish()
}

struct Encoder {
    version: i16,
    flexible: bool,
    /// Everything but records.
    buf: BytesMut,
    /// Record pieces, with the length of `buf` at which each goes in.
    records: Vec<(usize, Bytes)>,
    records_len: usize,
}

impl Encoder {
    fn new(request: &Request, topics: &[FetchedTopic]) -> Self {
        let version = request.response_version();
        let partitions: usize = topics.iter().map(|t| t.partitions.len()).sum();
        let capacity = 32 + topics.iter().map(|t| 28 + t.name.len()).sum::<usize>() + partitions * 56;
        Self {
            version,
            flexible: request.flexible(),
            buf: begin_response(request.api, version, request.header.correlation_id, capacity),
            records: Vec::with_capacity(partitions),
            records_len: 0,
        }
    }

    fn topics(&mut self, error: ErrorCode, session_id: i32, topics: Vec<FetchedTopic>) {
        self.buf.put_i32(0); // throttle time
        if self.version >= 7 {
            self.buf.put_i16(error.code());
            self.buf.put_i32(session_id);
        }
        put_length(&mut self.buf, self.flexible, topics.len());
        for topic in topics {
            if self.version >= 13 {
                self.buf.put_slice(topic.id.0.as_bytes());
            } else {
                put_string(&mut self.buf, self.flexible, &topic.name);
            }
            put_length(&mut self.buf, self.flexible, topic.partitions.len());
            for partition in topic.partitions {
                self.partition(partition);
            }
            put_no_tags(&mut self.buf, self.flexible);
        }
        put_no_tags(&mut self.buf, self.flexible);
    }

    fn partition(&mut self, partition: FetchedPartition) {
        let len = partition.records_len();
        let buf = &mut self.buf;
        buf.put_i32(partition.index);
        buf.put_i16(partition.error.code());
        buf.put_i64(partition.high_watermark);
        buf.put_i64(partition.last_stable_offset);
        if self.version >= 5 {
            buf.put_i64(partition.log_start_offset);
        }
        put_aborted(buf, self.flexible, partition.aborted.as_deref());
        if self.version >= 11 {
            buf.put_i32(-1); // preferred read replica
        }
        put_length(buf, self.flexible, len);
        self.records_len += len;
        let at = buf.len();
        self.records.extend(partition.records.into_iter().filter(|r| !r.is_empty()).map(|r| (at, r)));
        if self.flexible {
            put_leader_tag(&mut self.buf, partition.current_leader);
        }
    }

    fn finish(mut self) -> ResponseFrame {
        finish_response(&mut self.buf, self.records_len);
        let mut parts = Vec::with_capacity(self.records.len() * 2 + 1);
        let mut rest = self.buf.freeze();
        let mut cut = 0;
        for (at, records) in self.records {
            if at > cut {
                parts.push(rest.split_to(at - cut));
                cut = at;
            }
            parts.push(records);
        }
        if !rest.is_empty() {
            parts.push(rest);
        }
        ResponseFrame { parts }
    }
}

fn put_aborted(buf: &mut BytesMut, flexible: bool, aborted: Option<&[(i64, i64)]>) {
    let Some(aborted) = aborted else {
        return if flexible { buf.put_u8(0) } else { buf.put_i32(-1) };
    };
    put_length(buf, flexible, aborted.len());
    for (producer_id, first_offset) in aborted {
        buf.put_i64(*producer_id);
        buf.put_i64(*first_offset);
        put_no_tags(buf, flexible);
    }
}

fn put_leader_tag(buf: &mut BytesMut, leader: Option<(i32, i32)>) {
    let Some((id, epoch)) = leader else { return buf.put_u8(0) };
    put_varint(buf, 1); // one tagged field
    put_varint(buf, 1); // its number
    put_varint(buf, 9); // its length
    buf.put_i32(id);
    buf.put_i32(epoch);
    buf.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api::{Api, ApiKey};
    use crate::protocol::codec::{self, text};
    use crate::protocol::frame::RequestHeader;
    use kafka_protocol::messages::FetchResponse;
    use kafka_protocol::messages::fetch_response::{
        AbortedTransaction, FetchableTopicResponse, LeaderIdAndEpoch, PartitionData,
    };
    use proptest::prelude::*;
    use uuid::Uuid;

    fn request(version: i16) -> Request {
        let header = RequestHeader { api_key: 1, api_version: version, correlation_id: 3, client_id: None };
        Request { api: Api::of(ApiKey::Fetch), header, fallback: false }
    }

    fn partition() -> impl Strategy<Value = FetchedPartition> {
        let error = prop_oneof![Just(ErrorCode::None), Just(ErrorCode::OffsetOutOfRange)];
        let aborted = proptest::option::of(proptest::collection::vec(any::<(i64, i64)>(), 0..3));
        let records =
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from), 0..4);
        (any::<i32>(), error, any::<[i64; 3]>(), aborted, proptest::option::of((0..9i32, 0..9i32)), records).prop_map(
            |(index, error, offsets, aborted, current_leader, records)| FetchedPartition {
                index,
                error,
                high_watermark: offsets[0],
                last_stable_offset: offsets[1],
                log_start_offset: offsets[2],
                aborted,
                current_leader,
                records,
            },
        )
    }

    fn topic() -> impl Strategy<Value = FetchedTopic> {
        ("[a-z]{1,9}", any::<u128>(), proptest::collection::vec(partition(), 0..5))
            .prop_map(|(name, id, partitions)| FetchedTopic { name, id: TopicId(Uuid::from_u128(id)), partitions })
    }

    fn codec_partition(version: i16, p: &FetchedPartition) -> PartitionData {
        let aborted = p.aborted.as_ref().map(|list| {
            let codec = |(producer, first): &(i64, i64)| {
                AbortedTransaction::default().with_producer_id((*producer).into()).with_first_offset(*first)
            };
            list.iter().map(codec).collect()
        });
        let data = PartitionData::default()
            .with_partition_index(p.index)
            .with_error_code(p.error.code())
            .with_high_watermark(p.high_watermark)
            .with_last_stable_offset(p.last_stable_offset)
            .with_aborted_transactions(aborted)
            .with_records(Some(p.records.concat().into()));
        let data = if version >= 5 { data.with_log_start_offset(p.log_start_offset) } else { data };
        match p.current_leader {
            Some((id, epoch)) if version >= 12 => {
                data.with_current_leader(LeaderIdAndEpoch::default().with_leader_id(id.into()).with_leader_epoch(epoch))
            }
            _ => data,
        }
    }

    fn codec_response(version: i16, session: i32, topics: &[FetchedTopic]) -> FetchResponse {
        let topics = topics.iter().map(|t| {
            let partitions = t.partitions.iter().map(|p| codec_partition(version, p)).collect();
            let topic = FetchableTopicResponse::default().with_partitions(partitions);
            if version >= 13 { topic.with_topic_id(t.id.0) } else { topic.with_topic(text(&t.name).into()) }
        });
        let response = FetchResponse::default().with_responses(topics.collect());
        if version >= 7 { response.with_session_id(session) } else { response }
    }

    proptest! {
        #[test]
        fn it_equals_the_codec(
            version in 4i16..=17,
            session: i32,
            topics in proptest::collection::vec(topic(), 0..4),
        ) {
            let codec = codec::encode(&request(version), &codec_response(version, session, &topics));
            let ours = encode(&request(version), ErrorCode::None, session, topics);
            prop_assert_eq!(Bytes::from(ours.parts.concat()), Bytes::from(codec.parts.concat()));
        }
    }

    #[test]
    fn record_bytes_are_not_copied() {
        let records = Bytes::from(vec![5; 1000]);
        let mut partition = FetchedPartition::error(0, ErrorCode::None);
        partition.records = vec![records.slice(..400), Bytes::new(), records.slice(400..)];
        let topic = FetchedTopic { partitions: vec![partition], ..FetchedTopic::default() };
        let frame = encode(&request(12), ErrorCode::None, 0, vec![topic]);
        assert_eq!(frame.parts.len(), 4);
        assert_eq!(frame.parts[1].as_ptr(), records.as_ptr());
        assert_eq!(frame.parts[2].as_ptr(), records[400..].as_ptr());
    }
}
