//! Values of the records of consumer groups (KIP-848). All have one version, 0, which is flexible.

use super::records::{ReplayError, decode, read_bytes, read_tags, read_uuid};
use crate::ids::TopicId;
use crate::protocol::wire::{
    DecodeError, Reader, put_length, put_no_tags, put_nullable_string, put_string, put_varint,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Partitions of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct TopicPartitions {
    pub topic_id: TopicId,
    pub partitions: Vec<i32>,
}

impl TopicPartitions {
    fn read_all(r: &mut Reader<'_>, what: &'static str) -> Result<Vec<Self>, DecodeError> {
        let count = r.array(true, what)?;
        let mut all = Vec::new();
        for _ in 0..count {
            let topic_id = read_uuid(r)?;
            let count = r.array(true, "partitions")?;
            let partitions = (0..count).map(|_| r.i32("partition")).collect::<Result<_, _>>()?;
            r.skip_tags(true)?;
            all.push(Self { topic_id, partitions });
        }
        Ok(all)
    }

    fn write_all(buf: &mut BytesMut, all: &[Self]) {
        put_length(buf, true, all.len());
        for topic in all {
            buf.put_slice(topic.topic_id.0.as_bytes());
            put_length(buf, true, topic.partitions.len());
            for partition in &topic.partitions {
                buf.put_i32(*partition);
            }
            put_no_tags(buf, true);
        }
    }
}

fn read_strings(r: &mut Reader<'_>, what: &'static str) -> Result<Vec<Arc<str>>, DecodeError> {
    let count = r.array(true, what)?;
    (0..count).map(|_| r.string(true, what).map(Arc::from)).collect()
}

fn write_strings(buf: &mut BytesMut, strings: &[Arc<str>]) {
    put_length(buf, true, strings.len());
    for text in strings {
        put_string(buf, true, text);
    }
}

/// The group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerGroupMetadataValue {
    /// The group's epoch.
    pub epoch: i32,
    /// Of the topics that the group is subscribed to; 0 where it is not known (before 4.1).
    pub metadata_hash: i64,
}

impl ConsumerGroupMetadataValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupMetadataValue", 0, |r, _| {
            let mut value = Self { epoch: r.i32("epoch")?, metadata_hash: 0 };
            read_tags(r, |tag, field| {
                if tag == 0 {
                    value.metadata_hash = Reader::new(field).i64("metadata hash")?;
                }
                Ok(())
            })?;
            Ok(value)
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(17);
        buf.put_i16(0);
        buf.put_i32(self.epoch);
        if self.metadata_hash == 0 {
            put_no_tags(&mut buf, true);
        } else {
            buf.put_slice(&[1, 0, 8]);
            buf.put_i64(self.metadata_hash);
        }
        buf.freeze()
    }
}

/// What a member that speaks the classic protocol said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClassicMemberMetadata {
    /// Its session timeout.
    pub session_timeout_ms: i32,
    /// Its protocols, by name, the best first.
    pub supported_protocols: Vec<(Arc<str>, Bytes)>,
}

impl ClassicMemberMetadata {
    fn read(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        let r = &mut Reader::new(bytes);
        // A nullable structure: -1 or 1, then its fields.
        if r.i8("classic member metadata")? < 0 {
            return Ok(None);
        }
        let session_timeout_ms = r.i32("session timeout")?;
        let count = r.array(true, "supported protocols")?;
        let mut supported_protocols = Vec::new();
        for _ in 0..count {
            let name = Arc::from(r.string(true, "protocol name")?);
            let metadata = read_bytes(r, bytes, true, "protocol metadata")?;
            r.skip_tags(true)?;
            supported_protocols.push((name, metadata));
        }
        r.skip_tags(true)?;
        Ok(Some(Self { session_timeout_ms, supported_protocols }))
    }

    fn write(&self, buf: &mut BytesMut) {
        buf.put_i8(1);
        buf.put_i32(self.session_timeout_ms);
        put_length(buf, true, self.supported_protocols.len());
        for (name, metadata) in &self.supported_protocols {
            put_string(buf, true, name);
            put_length(buf, true, metadata.len());
            buf.put_slice(metadata);
            put_no_tags(buf, true);
        }
        put_no_tags(buf, true);
    }
}

/// A member's subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct ConsumerGroupMemberMetadataValue {
    pub instance_id: Option<Arc<str>>,
    pub rack_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub subscribed_topic_names: Vec<Arc<str>>,
    pub subscribed_topic_regex: Option<Arc<str>>,
    pub rebalance_timeout_ms: i32,
    pub server_assignor: Option<Arc<str>>,
    pub classic_member_metadata: Option<ClassicMemberMetadata>,
}

impl ConsumerGroupMemberMetadataValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupMemberMetadataValue", 0, |r, _| {
            let mut value = Self {
                instance_id: r.nullable_string(true, "instance id")?.map(Arc::from),
                rack_id: r.nullable_string(true, "rack id")?.map(Arc::from),
                client_id: Arc::from(r.string(true, "client id")?),
                client_host: Arc::from(r.string(true, "client host")?),
                subscribed_topic_names: read_strings(r, "subscribed topic names")?,
                subscribed_topic_regex: r.nullable_string(true, "subscribed topic regex")?.map(Arc::from),
                rebalance_timeout_ms: r.i32("rebalance timeout")?,
                server_assignor: r.nullable_string(true, "server assignor")?.map(Arc::from),
                classic_member_metadata: None,
            };
            read_tags(r, |tag, field| {
                if tag == 0 {
                    value.classic_member_metadata = ClassicMemberMetadata::read(field)?;
                }
                Ok(())
            })?;
            Ok(value)
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(256);
        buf.put_i16(0);
        put_nullable_string(&mut buf, true, self.instance_id.as_deref());
        put_nullable_string(&mut buf, true, self.rack_id.as_deref());
        put_string(&mut buf, true, &self.client_id);
        put_string(&mut buf, true, &self.client_host);
        write_strings(&mut buf, &self.subscribed_topic_names);
        put_nullable_string(&mut buf, true, self.subscribed_topic_regex.as_deref());
        buf.put_i32(self.rebalance_timeout_ms);
        put_nullable_string(&mut buf, true, self.server_assignor.as_deref());
        match &self.classic_member_metadata {
            None => put_no_tags(&mut buf, true),
            Some(classic) => {
                let mut field = BytesMut::new();
                classic.write(&mut field);
                buf.put_slice(&[1, 0]);
                put_varint(&mut buf, field.len() as u32);
                buf.put_slice(&field);
            }
        }
        buf.freeze()
    }
}

/// The target assignment's epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct ConsumerGroupTargetAssignmentMetadataValue {
    pub assignment_epoch: i32,
}

impl ConsumerGroupTargetAssignmentMetadataValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupTargetAssignmentMetadataValue", 0, |r, _| {
            let assignment_epoch = r.i32("assignment epoch")?;
            r.skip_tags(true)?;
            Ok(Self { assignment_epoch })
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(7);
        buf.put_i16(0);
        buf.put_i32(self.assignment_epoch);
        put_no_tags(&mut buf, true);
        buf.freeze()
    }
}

/// What a member shall have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct ConsumerGroupTargetAssignmentMemberValue {
    pub topic_partitions: Vec<TopicPartitions>,
}

impl ConsumerGroupTargetAssignmentMemberValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupTargetAssignmentMemberValue", 0, |r, _| {
            let topic_partitions = TopicPartitions::read_all(r, "topic partitions")?;
            r.skip_tags(true)?;
            Ok(Self { topic_partitions })
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(64);
        buf.put_i16(0);
        TopicPartitions::write_all(&mut buf, &self.topic_partitions);
        put_no_tags(&mut buf, true);
        buf.freeze()
    }
}

/// What a member has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct ConsumerGroupCurrentMemberAssignmentValue {
    pub member_epoch: i32,
    pub previous_member_epoch: i32,
    /// 0 stable, 1 unrevoked partitions, 2 unreleased partitions.
    pub state: i8,
    pub assigned_partitions: Vec<TopicPartitions>,
    pub partitions_pending_revocation: Vec<TopicPartitions>,
}

impl ConsumerGroupCurrentMemberAssignmentValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupCurrentMemberAssignmentValue", 0, |r, _| {
            let value = Self {
                member_epoch: r.i32("member epoch")?,
                previous_member_epoch: r.i32("previous member epoch")?,
                state: r.i8("state")?,
                assigned_partitions: TopicPartitions::read_all(r, "assigned partitions")?,
                partitions_pending_revocation: TopicPartitions::read_all(r, "partitions pending revocation")?,
            };
            r.skip_tags(true)?;
            Ok(value)
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(96);
        buf.put_i16(0);
        buf.put_i32(self.member_epoch);
        buf.put_i32(self.previous_member_epoch);
        buf.put_i8(self.state);
        TopicPartitions::write_all(&mut buf, &self.assigned_partitions);
        TopicPartitions::write_all(&mut buf, &self.partitions_pending_revocation);
        put_no_tags(&mut buf, true);
        buf.freeze()
    }
}

/// The topics that a regular expression of the group matched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct ConsumerGroupRegularExpressionValue {
    pub topics: Vec<Arc<str>>,
    pub version: i64,
    /// Wall milliseconds.
    pub timestamp_ms: i64,
}

impl ConsumerGroupRegularExpressionValue {
    /// Reads version 0.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "ConsumerGroupRegularExpressionValue", 0, |r, _| {
            let value = Self {
                topics: read_strings(r, "topics")?,
                version: r.i64("version")?,
                timestamp_ms: r.i64("timestamp")?,
            };
            r.skip_tags(true)?;
            Ok(value)
        })
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(64);
        buf.put_i16(0);
        write_strings(&mut buf, &self.topics);
        buf.put_i64(self.version);
        buf.put_i64(self.timestamp_ms);
        put_no_tags(&mut buf, true);
        buf.freeze()
    }
}
