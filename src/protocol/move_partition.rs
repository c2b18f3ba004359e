//! MovePartition: an API of our own, by which `coreline partition` asks where partitions are, and moves one to another core.
//!
//! ```text
//! request  v0:  topic nullable string (none: all), partition int32 (-1: all), to core int32 (-1: only say where they are)
//! response v0:  error int16, message nullable string, cores int32, partitions [topic string, index int32, core int32]
//! ```
//! Cores are counted from 0 among those that the broker runs on. It is not in ApiVersions: Kafka's clients would print a key
//! that they do not know.

use super::api::ApiKey;
use super::own::{Result, enough, get_all, get_text, put_text, version_zero};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovePartitionRequest {
    /// The topic's name; all topics if there is none.
    pub topic: Option<String>,
    /// Which partition; -1: all of them.
    pub partition: i32,
    /// Where to; -1: only say where it is.
    pub to_core: i32,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MovePartitionResponse {
    /// Kafka's code.
    pub error_code: i16,
    /// What is wrong.
    pub error_message: Option<String>,
    /// How many cores there are.
    pub cores: i32,
    /// Where partitions are now.
    pub partitions: Vec<PlacedPartition>,
}

/// Where a partition is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacedPartition {
    /// The topic's name.
    pub topic: String,
    /// Which partition.
    pub index: i32,
    /// The core that has it.
    pub core: i32,
}

version_zero!(MovePartitionRequest => 1, MovePartitionResponse => 0);

impl Request for MovePartitionRequest {
    const KEY: i16 = ApiKey::MovePartition as i16;
    type Response = MovePartitionResponse;
}

impl Encodable for MovePartitionRequest {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        put_text(buf, self.topic.as_deref())?;
        buf.put_i32(self.partition);
        buf.put_i32(self.to_core);
        Ok(())
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        Ok(2 + self.topic.as_ref().map_or(0, String::len) + 8)
    }
}

impl Decodable for MovePartitionRequest {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        let topic = get_text(buf)?;
        enough(buf, 8)?;
        Ok(Self { topic, partition: buf.get_i32(), to_core: buf.get_i32() })
    }
}

impl Encodable for MovePartitionResponse {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        buf.put_i16(self.error_code);
        put_text(buf, self.error_message.as_deref())?;
        buf.put_i32(self.cores);
        buf.put_i32(i32::try_from(self.partitions.len())?);
        for placed in &self.partitions {
            put_text(buf, Some(&placed.topic))?;
            buf.put_i32(placed.index);
            buf.put_i32(placed.core);
        }
        Ok(())
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        let partitions: usize = self.partitions.iter().map(|p| 2 + p.topic.len() + 8).sum();
        Ok(2 + 2 + self.error_message.as_ref().map_or(0, String::len) + 8 + partitions)
    }
}

impl Decodable for MovePartitionResponse {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        enough(buf, 2)?;
        let error_code = buf.get_i16();
        let error_message = get_text(buf)?;
        enough(buf, 4)?;
        let cores = buf.get_i32();
        let partitions = get_all(buf, 10, |buf| {
            let topic = get_text(buf)?.unwrap_or_default();
            enough(buf, 8)?;
            Ok(PlacedPartition { topic, index: buf.get_i32(), core: buf.get_i32() })
        })?;
        Ok(Self { error_code, error_message, cores, partitions })
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
            topic in prop::option::of(".{0,20}"), numbers: [i32; 4], code: i16, message in prop::option::of(".{0,9}"),
        ) {
            let [partition, to_core, index, core] = numbers;
            let request = MovePartitionRequest { topic: topic.clone(), partition, to_core };
            prop_assert_eq!(back(&request), request);
            let placed = PlacedPartition { topic: topic.unwrap_or_default(), index, core };
            let response = MovePartitionResponse {
                error_code: code, error_message: message, cores: partition, partitions: vec![placed; 2],
            };
            prop_assert_eq!(back(&response), response);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = MovePartitionRequest::decode(&mut Bytes::from(bytes.clone()), 0);
            let _ = MovePartitionResponse::decode(&mut Bytes::from(bytes), 0);
        }
    }
}
