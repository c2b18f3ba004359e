//! The records of `__consumer_offsets`, byte for byte as Kafka 4.2 writes them, and read in every version that Kafka has
//! written.
//!
//! A key begins with its type, a value with its version, both an `i16`. Keys have the classic encoding; values are
//! *flexible* (varints, tagged fields) from the version that the comments name. Tagged fields that this build does not
//! know are passed over, as KIP-915 asks.

use super::Record;
use crate::ids::TopicId;
use crate::protocol::wire::{
    DecodeError, Reader, put_length, put_no_tags, put_nullable_string, put_string, varint_len,
};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use uuid::Uuid;

/// Why a record cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are not what their version says.
    #[error("{record}: {source}")]
    Decode {
        /// Which part of which record.
        record: &'static str,
        /// Where and what.
        source: DecodeError,
    },
    /// A version that this build does not know.
    #[error("{record}: version {version} is not known, {max} is the highest; a newer broker wrote it")]
    Version {
        /// Which record.
        record: &'static str,
        /// The version that came.
        version: i16,
        /// The highest that is known.
        max: i16,
    },
    /// A record of a consumer group under the id of a classic group, or the other way round.
    #[error("{record} of group {group:?}, which is a {kind} group")]
    WrongGroup {
        /// Which record.
        record: &'static str,
        /// The group.
        group: String,
        /// What the group is.
        kind: &'static str,
    },
}

/// The key of a record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub enum Key {
    /// Type 0 and 1; 1 is written.
    OffsetCommit { group: Arc<str>, topic: Arc<str>, partition: i32 },
    /// Type 2: a classic group.
    GroupMetadata { group: Arc<str> },
    /// Type 3.
    ConsumerGroupMetadata { group: Arc<str> },
    /// Type 4: written by brokers before 4.1, and as a tombstone.
    ConsumerGroupPartitionMetadata { group: Arc<str> },
    /// Type 5.
    ConsumerGroupMemberMetadata { group: Arc<str>, member: Arc<str> },
    /// Type 6.
    ConsumerGroupTargetAssignmentMetadata { group: Arc<str> },
    /// Type 7.
    ConsumerGroupTargetAssignmentMember { group: Arc<str>, member: Arc<str> },
    /// Type 8.
    ConsumerGroupCurrentMemberAssignment { group: Arc<str>, member: Arc<str> },
    /// Type 16.
    ConsumerGroupRegularExpression { group: Arc<str>, regex: Arc<str> },
}

fn key_error(source: DecodeError) -> ReplayError {
    ReplayError::Decode { record: "key of __consumer_offsets", source }
}

fn text(reader: &mut Reader<'_>, what: &'static str) -> Result<Arc<str>, DecodeError> {
    reader.string(false, what).map(Arc::from)
}

impl Key {
    /// Reads a key; none for a type that this build has no use for (share and streams groups, or newer than Kafka 4.2),
    /// which Kafka passes over as well.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, ReplayError> {
        let mut reader = Reader::new(bytes);
        Self::read(&mut reader).map_err(key_error)
    }

    fn read(r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let kind = r.i16("type")?;
        if !matches!(kind, 0..=8 | 16) {
            return Ok(None);
        }
        let group = text(r, "group")?;
        Ok(Some(match kind {
            0 | 1 => Self::OffsetCommit { group, topic: text(r, "topic")?, partition: r.i32("partition")? },
            2 => Self::GroupMetadata { group },
            3 => Self::ConsumerGroupMetadata { group },
            4 => Self::ConsumerGroupPartitionMetadata { group },
            5 => Self::ConsumerGroupMemberMetadata { group, member: text(r, "member")? },
            6 => Self::ConsumerGroupTargetAssignmentMetadata { group },
            7 => Self::ConsumerGroupTargetAssignmentMember { group, member: text(r, "member")? },
            8 => Self::ConsumerGroupCurrentMemberAssignment { group, member: text(r, "member")? },
            _ => Self::ConsumerGroupRegularExpression { group, regex: text(r, "regular expression")? },
        }))
    }

    /// The group it is about.
    #[must_use]
    pub fn group(&self) -> &Arc<str> {
        match self {
            Self::OffsetCommit { group, .. }
            | Self::GroupMetadata { group }
            | Self::ConsumerGroupMetadata { group }
            | Self::ConsumerGroupPartitionMetadata { group }
            | Self::ConsumerGroupMemberMetadata { group, .. }
            | Self::ConsumerGroupTargetAssignmentMetadata { group }
            | Self::ConsumerGroupTargetAssignmentMember { group, .. }
            | Self::ConsumerGroupCurrentMemberAssignment { group, .. }
            | Self::ConsumerGroupRegularExpression { group, .. } => group,
        }
    }

    /// Kafka's name of the record.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::OffsetCommit { .. } => "OffsetCommit",
            Self::GroupMetadata { .. } => "GroupMetadata",
            Self::ConsumerGroupMetadata { .. } => "ConsumerGroupMetadata",
            Self::ConsumerGroupPartitionMetadata { .. } => "ConsumerGroupPartitionMetadata",
            Self::ConsumerGroupMemberMetadata { .. } => "ConsumerGroupMemberMetadata",
            Self::ConsumerGroupTargetAssignmentMetadata { .. } => "ConsumerGroupTargetAssignmentMetadata",
            Self::ConsumerGroupTargetAssignmentMember { .. } => "ConsumerGroupTargetAssignmentMember",
            Self::ConsumerGroupCurrentMemberAssignment { .. } => "ConsumerGroupCurrentMemberAssignment",
            Self::ConsumerGroupRegularExpression { .. } => "ConsumerGroupRegularExpression",
        }
    }

    /// The key's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::OffsetCommit { group, topic, partition } => offset_commit_key(group, topic, *partition),
            Self::GroupMetadata { group } => key_bytes(2, group, None),
            Self::ConsumerGroupMetadata { group } => key_bytes(3, group, None),
            Self::ConsumerGroupPartitionMetadata { group } => key_bytes(4, group, None),
            Self::ConsumerGroupMemberMetadata { group, member } => key_bytes(5, group, Some(member)),
            Self::ConsumerGroupTargetAssignmentMetadata { group } => key_bytes(6, group, None),
            Self::ConsumerGroupTargetAssignmentMember { group, member } => key_bytes(7, group, Some(member)),
            Self::ConsumerGroupCurrentMemberAssignment { group, member } => key_bytes(8, group, Some(member)),
            Self::ConsumerGroupRegularExpression { group, regex } => key_bytes(16, group, Some(regex)),
        }
    }

    /// A record with this key and value.
    #[must_use]
    pub fn with(&self, value: Bytes) -> Record {
        Record { key: self.encode(), value: Some(value) }
    }

    /// A record that takes what is under this key away.
    #[must_use]
    pub fn tombstone(&self) -> Record {
        Record { key: self.encode(), value: None }
    }
}

fn key_bytes(kind: i16, group: &str, second: Option<&str>) -> Bytes {
    let mut buf = BytesMut::with_capacity(6 + group.len() + second.map_or(0, str::len));
    buf.put_i16(kind);
    put_string(&mut buf, false, group);
    if let Some(second) = second {
        put_string(&mut buf, false, second);
    }
    buf.freeze()
}

/// The key of a committed offset, without making a [`Key`] first: commits are many.
#[must_use]
pub fn offset_commit_key(group: &str, topic: &str, partition: i32) -> Bytes {
    let mut buf = BytesMut::with_capacity(10 + group.len() + topic.len());
    buf.put_i16(1);
    put_string(&mut buf, false, group);
    put_string(&mut buf, false, topic);
    buf.put_i32(partition);
    buf.freeze()
}

/// Reads a value of a known version range, to its end.
pub(super) fn decode<T>(
    bytes: &[u8],
    record: &'static str,
    max: i16,
    read: impl FnOnce(&mut Reader<'_>, i16) -> Result<T, DecodeError>,
) -> Result<T, ReplayError> {
    let mut reader = Reader::new(bytes);
    let version = reader.i16("version").map_err(|source| ReplayError::Decode { record, source })?;
    if !(0..=max).contains(&version) {
        return Err(ReplayError::Version { record, version, max });
    }
    read(&mut reader, version).map_err(|source| ReplayError::Decode { record, source })
}

/// Reads tagged fields: `known` takes the value of a tag it knows.
pub(super) fn read_tags(
    r: &mut Reader<'_>,
    mut known: impl FnMut(u32, &[u8]) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    for _ in 0..r.varint("number of tagged fields")? {
        let tag = r.varint("tag")?;
        let len = r.varint("length of a tagged field")?;
        let field = r.take(len as usize, "tagged field")?;
        known(tag, field)?;
    }
    Ok(())
}

pub(super) fn read_uuid(r: &mut Reader<'_>) -> Result<TopicId, DecodeError> {
    let bytes = r.take(16, "topic id")?;
    Ok(TopicId(Uuid::from_slice(bytes).expect("take gives 16 bytes")))
}

pub(super) fn read_bytes(
    r: &mut Reader<'_>,
    bytes: &[u8],
    flexible: bool,
    what: &'static str,
) -> Result<Bytes, DecodeError> {
    let range = r.nullable_bytes(flexible, what)?.unwrap_or(0..0);
    Ok(Bytes::copy_from_slice(&bytes[range]))
}

/// A committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetCommitValue {
    /// The offset.
    pub offset: i64,
    /// Of the last record consumed, -1 if the client did not say.
    pub leader_epoch: i32,
    /// What the client wrote beside it.
    pub metadata: Arc<str>,
    /// Wall milliseconds.
    pub commit_timestamp_ms: i64,
    /// Wall milliseconds; -1 unless the client asked for a retention of its own (OffsetCommit v2–4).
    pub expire_timestamp_ms: i64,
    /// The topic's id, nil where it was not known.
    pub topic_id: TopicId,
}

impl OffsetCommitValue {
    /// Reads version 0 to 4.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "OffsetCommitValue", 4, |r, version| {
            let flexible = version >= 4;
            let offset = r.i64("offset")?;
            let leader_epoch = if version >= 3 { r.i32("leader epoch")? } else { -1 };
            let metadata = Arc::from(r.string(flexible, "metadata")?);
            let commit_timestamp_ms = r.i64("commit timestamp")?;
            let expire_timestamp_ms = if version == 1 { r.i64("expire timestamp")? } else { -1 };
            let mut topic_id = TopicId::default();
            if flexible {
                read_tags(r, |tag, field| {
                    if tag == 0 {
                        topic_id = read_uuid(&mut Reader::new(field))?;
                    }
                    Ok(())
                })?;
            }
            Ok(Self { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id })
        })
    }

    /// Version 1 where the client set a retention, else 4, as Kafka 4.2.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        // Exactly what is written: bytes that fill their room are frozen where they are.
        let (len, has_id) = (self.metadata.len(), !self.topic_id.0.is_nil());
        let flexible = 22 + varint_len(u32::try_from(len + 1).unwrap_or(u32::MAX)) + if has_id { 19 } else { 1 };
        let mut buf = BytesMut::with_capacity(len + if self.expire_timestamp_ms == -1 { flexible } else { 28 });
        if self.expire_timestamp_ms != -1 {
            buf.put_i16(1);
            buf.put_i64(self.offset);
            put_string(&mut buf, false, &self.metadata);
            buf.put_i64(self.commit_timestamp_ms);
            buf.put_i64(self.expire_timestamp_ms);
            return buf.freeze();
        }
        buf.put_i16(4);
        buf.put_i64(self.offset);
        buf.put_i32(self.leader_epoch);
        put_string(&mut buf, true, &self.metadata);
        buf.put_i64(self.commit_timestamp_ms);
        if self.topic_id.0.is_nil() {
            put_no_tags(&mut buf, true);
        } else {
            buf.put_slice(&[1, 0, 16]);
            buf.put_slice(self.topic_id.0.as_bytes());
        }
        buf.freeze()
    }
}

/// A member in a [`GroupMetadataValue`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct MemberMetadata {
    pub member_id: Arc<str>,
    pub group_instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    /// -1 in version 0.
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

/// A classic group at the beginning of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub struct GroupMetadataValue {
    pub protocol_type: Arc<str>,
    pub generation: i32,
    pub protocol: Option<Arc<str>>,
    pub leader: Option<Arc<str>>,
    /// Wall milliseconds; -1 before version 2.
    pub current_state_timestamp_ms: i64,
    pub members: Vec<MemberMetadata>,
}

impl GroupMetadataValue {
    /// Reads version 0 to 4.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReplayError> {
        decode(bytes, "GroupMetadataValue", 4, |r, version| {
            let flexible = version >= 4;
            let protocol_type = Arc::from(r.string(flexible, "protocol type")?);
            let generation = r.i32("generation")?;
            let protocol = r.nullable_string(flexible, "protocol")?.map(Arc::from);
            let leader = r.nullable_string(flexible, "leader")?.map(Arc::from);
            let current_state_timestamp_ms = if version >= 2 { r.i64("current state timestamp")? } else { -1 };
            let count = r.array(flexible, "members")?;
            let mut members = Vec::new();
            for _ in 0..count {
                members.push(MemberMetadata::read(r, bytes, version)?);
            }
            r.skip_tags(flexible)?;
            Ok(Self { protocol_type, generation, protocol, leader, current_state_timestamp_ms, members })
        })
    }

    /// Version 3, as Kafka 4.2: the highest that is not flexible.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut buf = BytesMut::with_capacity(64 + 256 * self.members.len());
        buf.put_i16(3);
        put_string(&mut buf, false, &self.protocol_type);
        buf.put_i32(self.generation);
        put_nullable_string(&mut buf, false, self.protocol.as_deref());
        put_nullable_string(&mut buf, false, self.leader.as_deref());
        buf.put_i64(self.current_state_timestamp_ms);
        put_length(&mut buf, false, self.members.len());
        for member in &self.members {
            member.write(&mut buf);
        }
        buf.freeze()
    }
}

impl MemberMetadata {
    fn read(r: &mut Reader<'_>, bytes: &[u8], version: i16) -> Result<Self, DecodeError> {
        let flexible = version >= 4;
        let member_id = Arc::from(r.string(flexible, "member id")?);
        let group_instance_id =
            if version >= 3 { r.nullable_string(flexible, "group instance id")?.map(Arc::from) } else { None };
        let client_id = Arc::from(r.string(flexible, "client id")?);
        let client_host = Arc::from(r.string(flexible, "client host")?);
        let rebalance_timeout_ms = if version >= 1 { r.i32("rebalance timeout")? } else { -1 };
        let session_timeout_ms = r.i32("session timeout")?;
        let subscription = read_bytes(r, bytes, flexible, "subscription")?;
        let assignment = read_bytes(r, bytes, flexible, "assignment")?;
        r.skip_tags(flexible)?;
        Ok(Self {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms,
            session_timeout_ms,
            subscription,
            assignment,
        })
    }

    fn write(&self, buf: &mut BytesMut) {
        put_string(buf, false, &self.member_id);
        put_nullable_string(buf, false, self.group_instance_id.as_deref());
        put_string(buf, false, &self.client_id);
        put_string(buf, false, &self.client_host);
        buf.put_i32(self.rebalance_timeout_ms);
        buf.put_i32(self.session_timeout_ms);
        put_length(buf, false, self.subscription.len());
        buf.put_slice(&self.subscription);
        put_length(buf, false, self.assignment.len());
        buf.put_slice(&self.assignment);
    }
}
