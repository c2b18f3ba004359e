//! OffsetCommit and OffsetFetch requests of version 10: topics by their ids, where version 9 has their names. The codec has
//! the answers of version 10, not the requests.

use super::wire::{DecodeError, Reader, put_length, put_no_tags, put_nullable_string, put_string};
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes, VersionRange};
use uuid::Uuid;

/// The first version that names topics by their ids, and the last that there is.
pub const BY_TOPIC_ID: i16 = 10;

/// A request of the codec that goes on to version 10. There a topic has an id and no name, before that it is the other way
/// round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByTopicId<T>(pub T);

/// How a request looks in version 10.
pub trait TopicIds: Request {
    /// Reads a body; what it says may share bytes with it.
    ///
    /// # Errors
    /// A body that is not what version 10 says.
    fn read(body: &Bytes) -> Result<Self, DecodeError>;

    /// Writes a body, without tagged fields.
    fn write(&self, buf: &mut BytesMut);
}

impl<T: TopicIds> Message for ByTopicId<T> {
    const VERSIONS: VersionRange = VersionRange { min: T::VERSIONS.min, max: BY_TOPIC_ID };
    const DEPRECATED_VERSIONS: Option<VersionRange> = T::DEPRECATED_VERSIONS;
}

impl<T: TopicIds> HeaderVersion for ByTopicId<T> {
    fn header_version(version: i16) -> i16 {
        T::header_version(version)
    }
}

impl<T: TopicIds> Request for ByTopicId<T> {
    const KEY: i16 = T::KEY;
    type Response = T::Response;
}

impl<T: TopicIds> Decodable for ByTopicId<T> {
    fn decode<B: ByteBuf>(buf: &mut B, version: i16) -> Result<Self, anyhow::Error> {
        if version != BY_TOPIC_ID {
            return T::decode(buf, version).map(Self);
        }
        let body = buf.copy_to_bytes(buf.remaining());
        Ok(Self(T::read(&body)?))
    }
}

impl<T: TopicIds> Encodable for ByTopicId<T> {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, version: i16) -> Result<(), anyhow::Error> {
        if version != BY_TOPIC_ID {
            return self.0.encode(buf, version);
        }
        let mut body = BytesMut::new();
        self.0.write(&mut body);
        buf.put_slice(&body);
        Ok(())
    }

    fn compute_size(&self, version: i16) -> Result<usize, anyhow::Error> {
        if version != BY_TOPIC_ID {
            return self.0.compute_size(version);
        }
        let mut body = BytesMut::new();
        self.0.write(&mut body);
        Ok(body.len())
    }
}

fn nullable_text(r: &mut Reader<'_>, body: &Bytes, what: &'static str) -> Result<Option<StrBytes>, DecodeError> {
    let at = r.position();
    let text = r.nullable_string(true, what)?.map(|text| body.slice_ref(text.as_bytes()));
    text.map(StrBytes::try_from).transpose().map_err(|_| DecodeError::Utf8 { what, at })
}

fn text(r: &mut Reader<'_>, body: &Bytes, what: &'static str) -> Result<StrBytes, DecodeError> {
    let (at, left) = (r.position(), r.left());
    nullable_text(r, body, what)?.ok_or(DecodeError::Length { what, at, value: -1, left })
}

fn topic_id(r: &mut Reader<'_>) -> Result<Uuid, DecodeError> {
    let bytes = r.take(16, "topic_id")?;
    Ok(Uuid::from_slice(bytes).expect("take gives 16 bytes"))
}

/// So many structures, each with the tagged fields at its end.
fn structs<'a, T>(
    r: &mut Reader<'a>,
    count: usize,
    mut each: impl FnMut(&mut Reader<'a>) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let mut structure = |_| {
        let value = each(r)?;
        r.skip_tags(true)?;
        Ok(value)
    };
    (0..count).map(&mut structure).collect()
}

impl TopicIds for OffsetCommitRequest {
    fn read(body: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(body);
        let group = GroupId(text(r, body, "group_id")?);
        let epoch = r.i32("generation_id_or_member_epoch")?;
        let member = text(r, body, "member_id")?;
        let instance = nullable_text(r, body, "group_instance_id")?;
        let topics = r.array(true, "topics")?;
        let topics = structs(r, topics, |r| {
            let topic = OffsetCommitRequestTopic::default().with_topic_id(topic_id(r)?);
            let partitions = r.array(true, "partitions")?;
            let partitions = structs(r, partitions, |r| {
                Ok(OffsetCommitRequestPartition::default()
                    .with_partition_index(r.i32("partition_index")?)
                    .with_committed_offset(r.i64("committed_offset")?)
                    .with_committed_leader_epoch(r.i32("committed_leader_epoch")?)
                    .with_committed_metadata(nullable_text(r, body, "committed_metadata")?))
            })?;
            Ok(topic.with_partitions(partitions))
        })?;
        let request = Self::default().with_group_id(group).with_generation_id_or_member_epoch(epoch);
        Ok(request.with_member_id(member).with_group_instance_id(instance).with_topics(topics))
    }

    fn write(&self, buf: &mut BytesMut) {
        put_string(buf, true, &self.group_id);
        buf.put_i32(self.generation_id_or_member_epoch);
        put_string(buf, true, &self.member_id);
        put_nullable_string(buf, true, self.group_instance_id.as_deref());
        put_length(buf, true, self.topics.len());
        for topic in &self.topics {
            buf.put_slice(topic.topic_id.as_bytes());
            put_length(buf, true, topic.partitions.len());
            for partition in &topic.partitions {
                buf.put_i32(partition.partition_index);
                buf.put_i64(partition.committed_offset);
                buf.put_i32(partition.committed_leader_epoch);
                put_nullable_string(buf, true, partition.committed_metadata.as_deref());
                put_no_tags(buf, true);
            }
            put_no_tags(buf, true);
        }
        put_no_tags(buf, true);
    }
}

impl TopicIds for OffsetFetchRequest {
    fn read(body: &Bytes) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(body);
        let groups = r.array(true, "groups")?;
        let groups = structs(r, groups, |r| {
            let group = OffsetFetchRequestGroup::default()
                .with_group_id(GroupId(text(r, body, "group_id")?))
                .with_member_id(nullable_text(r, body, "member_id")?)
                .with_member_epoch(r.i32("member_epoch")?);
            let topics = r.nullable_array(true, "topics")?;
            let topics = topics.map(|count| structs(r, count, read_fetched_topic)).transpose()?;
            Ok(group.with_topics(topics))
        })?;
        Ok(Self::default().with_groups(groups).with_require_stable(r.i8("require_stable")? != 0))
    }

    fn write(&self, buf: &mut BytesMut) {
        put_length(buf, true, self.groups.len());
        for group in &self.groups {
            put_string(buf, true, &group.group_id);
            put_nullable_string(buf, true, group.member_id.as_deref());
            buf.put_i32(group.member_epoch);
            match &group.topics {
                None => buf.put_u8(0),
                Some(topics) => put_length(buf, true, topics.len()),
            }
            for topic in group.topics.iter().flatten() {
                buf.put_slice(topic.topic_id.as_bytes());
                put_length(buf, true, topic.partition_indexes.len());
                topic.partition_indexes.iter().for_each(|index| buf.put_i32(*index));
                put_no_tags(buf, true);
            }
            put_no_tags(buf, true);
        }
        buf.put_u8(u8::from(self.require_stable));
        put_no_tags(buf, true);
    }
}

fn read_fetched_topic(r: &mut Reader<'_>) -> Result<OffsetFetchRequestTopics, DecodeError> {
    let topic = OffsetFetchRequestTopics::default().with_topic_id(topic_id(r)?);
    let count = r.array(true, "partition_indexes")?;
    let indexes = (0..count).map(|_| r.i32("partition_indexes")).collect::<Result<_, _>>()?;
    Ok(topic.with_partition_indexes(indexes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::codec::{decode, text};
    use crate::protocol::frame::RequestHeader;
    use crate::protocol::{Api, ApiKey};
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn request(key: ApiKey, version: i16) -> crate::protocol::Request {
        let header = RequestHeader { api_key: key as i16, api_version: version, correlation_id: 9, client_id: None };
        crate::protocol::Request { api: Api::of(key), header, fallback: false }
    }

    /// What a broker makes of what a client says, in this version.
    fn heard<T: TopicIds + PartialEq + Debug>(key: ApiKey, version: i16, said: T) -> T {
        let (said, mut body) = (ByTopicId(said), BytesMut::new());
        said.encode(&mut body, version).expect("it encodes");
        assert_eq!(body.len(), said.compute_size(version).expect("it has a size"));
        decode::<ByTopicId<T>>(&request(key, version), body.freeze()).expect("it decodes").0
    }

    fn name() -> impl Strategy<Value = StrBytes> {
        "[a-zé]{0,140}".prop_map(|name| text(&name))
    }

    fn commit() -> impl Strategy<Value = OffsetCommitRequest> {
        let partition = (any::<i32>(), any::<i64>(), any::<i32>(), prop::option::of(name())).prop_map(|p| {
            OffsetCommitRequestPartition::default()
                .with_partition_index(p.0)
                .with_committed_offset(p.1)
                .with_committed_leader_epoch(p.2)
                .with_committed_metadata(p.3)
        });
        let topic = (any::<u128>(), prop::collection::vec(partition, 0..4)).prop_map(|(id, partitions)| {
            OffsetCommitRequestTopic::default().with_topic_id(Uuid::from_u128(id)).with_partitions(partitions)
        });
        let topics = prop::collection::vec(topic, 0..4);
        (name(), any::<i32>(), name(), prop::option::of(name()), topics).prop_map(
            |(group, epoch, member, instance, topics)| {
                OffsetCommitRequest::default()
                    .with_group_id(GroupId(group))
                    .with_generation_id_or_member_epoch(epoch)
                    .with_member_id(member)
                    .with_group_instance_id(instance)
                    .with_topics(topics)
            },
        )
    }

    fn fetch() -> impl Strategy<Value = OffsetFetchRequest> {
        let topic = (any::<u128>(), prop::collection::vec(any::<i32>(), 0..4)).prop_map(|(id, partitions)| {
            OffsetFetchRequestTopics::default().with_topic_id(Uuid::from_u128(id)).with_partition_indexes(partitions)
        });
        let topics = prop::option::of(prop::collection::vec(topic, 0..4));
        let group =
            (name(), prop::option::of(name()), any::<i32>(), topics).prop_map(|(group, member, epoch, topics)| {
                let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(group)).with_member_id(member);
                group.with_member_epoch(epoch).with_topics(topics)
            });
        (prop::collection::vec(group, 0..4), any::<bool>())
            .prop_map(|(groups, stable)| OffsetFetchRequest::default().with_groups(groups).with_require_stable(stable))
    }

    proptest! {
        #[test]
        fn what_was_said_is_heard(commit in commit(), fetch in fetch()) {
            prop_assert_eq!(heard(ApiKey::OffsetCommit, BY_TOPIC_ID, commit.clone()), commit);
            prop_assert_eq!(heard(ApiKey::OffsetFetch, BY_TOPIC_ID, fetch.clone()), fetch);
        }

        /// But for ids in the place of names, a body is what the codec writes for version 9.
        #[test]
        fn version_10_is_version_9_with_ids_for_names(commit in commit(), fetch in fetch(), letter in "[a-z]") {
            // A name of 15 bytes is as long as an id, its length with it.
            let (id, name) = ([16, letter.as_bytes()[0]], letter.repeat(15));
            let id = Uuid::from_slice(&[&id[..1], &[id[1]; 15]].concat()).expect("16 bytes");
            let (mut commit, mut fetch) = (commit, fetch);
            for topic in &mut commit.topics {
                (topic.topic_id, topic.name) = (id, text(&name).into());
            }
            for topic in fetch.groups.iter_mut().filter_map(|group| group.topics.as_mut()).flatten() {
                (topic.topic_id, topic.name) = (id, text(&name).into());
            }
            let (mut ours, mut codecs) = (BytesMut::new(), BytesMut::new());
            commit.write(&mut ours);
            commit.encode(&mut codecs, 9).expect("it encodes");
            prop_assert_eq!(&ours, &codecs);
            (ours, codecs) = (BytesMut::new(), BytesMut::new());
            fetch.write(&mut ours);
            fetch.encode(&mut codecs, 9).expect("it encodes");
            prop_assert_eq!(ours, codecs);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(prop_oneof![4 => 0u8..5, 1 => any::<u8>()], 0..120)) {
            let body = Bytes::from(bytes);
            let _ = OffsetCommitRequest::read(&body);
            let _ = OffsetFetchRequest::read(&body);
        }

        #[test]
        fn a_body_cut_short_is_an_error(commit in commit(), fetch in fetch(), cut: prop::sample::Index) {
            let mut body = BytesMut::new();
            commit.write(&mut body);
            let short = body.split_to(cut.index(body.len())).freeze();
            prop_assert!(decode::<ByTopicId<OffsetCommitRequest>>(&request(ApiKey::OffsetCommit, 10), short).is_err());
            let mut body = BytesMut::new();
            fetch.write(&mut body);
            let short = body.split_to(cut.index(body.len())).freeze();
            prop_assert!(decode::<ByTopicId<OffsetFetchRequest>>(&request(ApiKey::OffsetFetch, 10), short).is_err());
        }
    }

    #[test]
    fn the_versions_before_it_are_the_codecs() {
        let topic = OffsetCommitRequestTopic::default().with_name(text("t").into());
        let commit = OffsetCommitRequest::default().with_topics(vec![topic]);
        assert_eq!(heard(ApiKey::OffsetCommit, 9, commit.clone()), commit);
    }
}
