//! The two texts that members of the classic protocol hand through the coordinator: ConsumerProtocolSubscription and
//! ConsumerProtocolAssignment. A later version only adds to the end.

use super::super::assignor::Assignment;
use super::super::coordinator::Topics;
use crate::ids::TopicId;
use crate::protocol::wire::{DecodeError, Reader, put_length, put_string};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// The highest version of both that is known, which is the highest that is written.
const VERSION_MAX: i16 = 3;

/// Partitions by the names of their topics.
pub(super) type Named = Vec<(Arc<str>, Vec<i32>)>;

/// What a member wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Subscription {
    pub(super) version: i16,
    pub(super) topics: Vec<Arc<str>>,
    /// By name. Members that do not know cooperative rebalances have given everything up when they join.
    pub(super) owned: Named,
    pub(super) rack: Option<Arc<str>>,
}

impl Subscription {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let r = &mut Reader::new(bytes);
        let version = version(r)?;
        let count = r.array(false, "topics")?;
        let topics = (0..count).map(|_| r.string(false, "topic").map(Arc::from)).collect::<Result<_, _>>()?;
        r.nullable_bytes(false, "user data")?;
        let owned = if version >= 1 { partitions(r)? } else { Vec::new() };
        if version >= 2 {
            r.i32("generation")?;
        }
        let rack = if version >= 3 { r.nullable_string(false, "rack")?.map(Arc::from) } else { None };
        Ok(Self { version, topics, owned, rack })
    }
}

/// What a leader gave a member: partitions by name, and whether there is something in it that only an assignor can read.
pub(super) fn decode_assignment(bytes: &[u8]) -> Result<(Named, bool), DecodeError> {
    let r = &mut Reader::new(bytes);
    version(r)?;
    let partitions = partitions(r)?;
    let user_data = r.nullable_bytes(false, "user data")?;
    Ok((partitions, user_data.is_some_and(|range| !range.is_empty())))
}

/// An assignment as a member of this version reads it.
pub(super) fn encode_assignment(assignment: &Assignment, version: i16, topics: &dyn Topics) -> Bytes {
    let named: Vec<(Arc<str>, &[i32])> =
        assignment.topics().filter_map(|(id, partitions)| Some((topics.by_id(id)?.name, partitions))).collect();
    let mut buf = BytesMut::new();
    buf.put_i16(version.min(VERSION_MAX));
    put_length(&mut buf, false, named.len());
    for (name, partitions) in named {
        put_string(&mut buf, false, &name);
        put_length(&mut buf, false, partitions.len());
        for partition in partitions {
            buf.put_i32(*partition);
        }
    }
    // No user data.
    buf.put_i32(-1);
    buf.freeze()
}

/// Partitions by name as a set; topics that are gone are left out.
pub(super) fn by_id(partitions: &[(Arc<str>, Vec<i32>)], topics: &dyn Topics) -> Assignment {
    let known = |(name, partitions): &(Arc<str>, Vec<i32>)| Some((topics.by_name(name)?.id, partitions.clone()));
    Assignment::from_parts(partitions.iter().filter_map(known).collect::<Vec<(TopicId, Vec<i32>)>>())
}

fn version(r: &mut Reader<'_>) -> Result<i16, DecodeError> {
    r.i16("version").map(|version| version.max(0))
}

fn partitions(r: &mut Reader<'_>) -> Result<Named, DecodeError> {
    let count = r.array(false, "topics")?;
    let mut all = Vec::new();
    for _ in 0..count {
        let topic = Arc::from(r.string(false, "topic")?);
        let count = r.array(false, "partitions")?;
        all.push((topic, (0..count).map(|_| r.i32("partition")).collect::<Result<_, _>>()?));
    }
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::bed::TestTopics;
    use super::*;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Assigned;
    use kafka_protocol::messages::consumer_protocol_subscription::TopicPartition as Owned;
    use kafka_protocol::messages::{ConsumerProtocolAssignment, ConsumerProtocolSubscription, TopicName};
    use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
    use proptest::prelude::*;

    pub(in super::super) fn subscription_bytes(version: i16, topics: &[&str], owned: &[(&str, &[i32])]) -> Bytes {
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let owned = owned.iter().map(|(topic, partitions)| {
            Owned::default().with_topic(TopicName(text(topic))).with_partitions(partitions.to_vec())
        });
        let message = ConsumerProtocolSubscription::default()
            .with_topics(topics.iter().map(|t| text(t)).collect())
            .with_owned_partitions(if version >= 1 { owned.collect() } else { Vec::new() });
        let mut buf = BytesMut::new();
        buf.put_i16(version);
        message.encode(&mut buf, version).unwrap();
        buf.freeze()
    }

    #[test]
    fn subscriptions_of_every_version() {
        for version in 0..=3 {
            let bytes = subscription_bytes(version, &["t", "u"], &[("t", &[0, 2])]);
            let read = Subscription::decode(&bytes).unwrap();
            let owned = if version >= 1 { vec![(Arc::from("t"), vec![0, 2])] } else { Vec::new() };
            assert_eq!((read.version, read.owned), (version, owned));
            assert_eq!(read.topics, [Arc::from("t"), Arc::from("u")]);
            for end in 0..bytes.len() {
                assert!(Subscription::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    #[test]
    fn assignments_are_the_codecs() {
        let mut topics = TestTopics::default();
        let t = topics.set("t", 3);
        let assignment = Assignment::from_parts([(t, vec![0, 2]), (TopicId::default(), vec![1])]);
        for version in 0..=4 {
            let mut bytes = encode_assignment(&assignment, version, &topics);
            let (named, has_data) = decode_assignment(&bytes).unwrap();
            assert_eq!(by_id(&named, &topics), Assignment::from_parts([(t, vec![0, 2])]), "without what is gone");
            assert!(!has_data);
            let written = bytes.split_to(2);
            assert_eq!(written[..], version.min(3).to_be_bytes());
            let read = ConsumerProtocolAssignment::decode(&mut bytes, version.min(3)).unwrap();
            let topic = TopicName(StrBytes::from_static_str("t"));
            assert_eq!(read.assigned_partitions, [Assigned::default().with_topic(topic).with_partitions(vec![0, 2])]);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = Subscription::decode(&bytes);
            let _ = decode_assignment(&bytes);
        }
    }
}
