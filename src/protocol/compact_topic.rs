//! CompactTopic: an API of our own, by which `coreline log compact` asks for a compaction now, and how far it is.
//!
//! ```text
//! request  v0:  topic string, partitions [int32] (none: all), begin bool
//! response v0:  error int16, message nullable string, partitions [index int32, error int16, message nullable string,
//!               pending bool, start int64, compacted end int64, end int64]
//! ```
//! It is not in ApiVersions: Kafka's clients would print a key that they do not know.

use super::api::ApiKey;
use super::own::{Result, enough, get_all, get_text, put_text, version_zero};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactTopicRequest {
    /// The topic's name.
    pub topic: String,
    /// Which partitions; all of them if there is none.
    pub partitions: Vec<i32>,
    /// Begin; else only say how far it is.
    pub begin: bool,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactTopicResponse {
    /// Kafka's code.
    pub error_code: i16,
    /// What is wrong.
    pub error_message: Option<String>,
    /// By partition.
    pub partitions: Vec<CompactedPartition>,
}

/// How far the compaction of a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CompactedPartition {
    /// Which.
    pub index: i32,
    /// Kafka's code.
    pub error_code: i16,
    /// What is wrong.
    pub error_message: Option<String>,
    /// It was asked for, and is not at its end.
    pub pending: bool,
    /// The first offset.
    pub start: i64,
    /// Everything before it is compacted.
    pub compacted_end: i64,
    /// The high watermark.
    pub end: i64,
}

version_zero!(CompactTopicRequest => 1, CompactTopicResponse => 0);

impl Request for CompactTopicRequest {
    const KEY: i16 = ApiKey::CompactTopic as i16;
    type Response = CompactTopicResponse;
}

impl Encodable for CompactTopicRequest {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        put_text(buf, Some(&self.topic))?;
        buf.put_i32(i32::try_from(self.partitions.len())?);
        self.partitions.iter().for_each(|p| buf.put_i32(*p));
        buf.put_u8(u8::from(self.begin));
        Ok(())
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        Ok(2 + self.topic.len() + 4 + 4 * self.partitions.len() + 1)
    }
}

impl Decodable for CompactTopicRequest {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        let topic = get_text(buf)?.unwrap_or_default();
        let partitions = get_all(buf, 4, |buf| Ok(buf.get_i32()))?;
        enough(buf, 1)?;
        Ok(Self { topic, partitions, begin: buf.get_u8() != 0 })
    }
}

impl Encodable for CompactTopicResponse {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        buf.put_i16(self.error_code);
        put_text(buf, self.error_message.as_deref())?;
        buf.put_i32(i32::try_from(self.partitions.len())?);
        for partition in &self.partitions {
            buf.put_i32(partition.index);
            buf.put_i16(partition.error_code);
            put_text(buf, partition.error_message.as_deref())?;
            buf.put_u8(u8::from(partition.pending));
            [partition.start, partition.compacted_end, partition.end].into_iter().for_each(|n| buf.put_i64(n));
        }
        Ok(())
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        let text = |text: &Option<String>| 2 + text.as_ref().map_or(0, String::len);
        let partitions: usize = self.partitions.iter().map(|p| 4 + 2 + text(&p.error_message) + 1 + 24).sum();
        Ok(2 + text(&self.error_message) + 4 + partitions)
    }
}

impl Decodable for CompactTopicResponse {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        enough(buf, 2)?;
        let error_code = buf.get_i16();
        let error_message = get_text(buf)?;
        let partitions = get_all(buf, 33, |buf| {
            enough(buf, 6)?;
            let (index, error_code) = (buf.get_i32(), buf.get_i16());
            let error_message = get_text(buf)?;
            enough(buf, 25)?;
            let pending = buf.get_u8() != 0;
            let (start, compacted_end, end) = (buf.get_i64(), buf.get_i64(), buf.get_i64());
            Ok(CompactedPartition { index, error_code, error_message, pending, start, compacted_end, end })
        })?;
        Ok(Self { error_code, error_message, partitions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    fn back<T: Encodable + Decodable>(message: &T) -> T {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes, 0).expect("encodes");
        assert_eq!(bytes.len(), message.compute_size(0).expect("a size"));
        T::decode(&mut bytes.freeze(), 0).expect("decodes")
    }

    proptest! {
        #[test]
        fn what_was_said_is_heard(
            topic in ".{0,20}", partitions in prop::collection::vec(any::<i32>(), 0..9), begin: bool,
            code: i16, message in prop::option::of(".{0,9}"), numbers: [i64; 3],
        ) {
            let request = CompactTopicRequest { topic, partitions, begin };
            prop_assert_eq!(back(&request), request);
            let [start, compacted_end, end] = numbers;
            let partition = CompactedPartition {
                index: 5, error_code: code, error_message: message.clone(), pending: begin, start, compacted_end, end,
            };
            let response =
                CompactTopicResponse { error_code: code, error_message: message, partitions: vec![partition; 2] };
            prop_assert_eq!(back(&response), response);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = CompactTopicRequest::decode(&mut Bytes::from(bytes.clone()), 0);
            let _ = CompactTopicResponse::decode(&mut Bytes::from(bytes), 0);
        }
    }
}
