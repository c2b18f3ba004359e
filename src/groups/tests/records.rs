//! The records against bytes that Kafka's own serialiser made, and against bytes that nobody made.

use crate::groups::Record;
use crate::groups::records::*;
use crate::groups::records_consumer::*;
use crate::ids::TopicId;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

const TABLE: &str = include_str!("../testdata/records.txt");
const ID: TopicId = TopicId(Uuid::from_u128(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10));

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

/// Key and value by name and version.
fn table() -> BTreeMap<(String, i16), (Vec<u8>, Vec<u8>)> {
    let rows = TABLE.lines().filter(|line| !line.starts_with('#'));
    rows.map(|line| {
        let columns: Vec<&str> = line.split(' ').collect();
        let version = columns[1].trim_start_matches('v').parse().expect("a version");
        ((columns[0].to_owned(), version), (unhex(columns[2]), unhex(columns[3])))
    })
    .collect()
}

fn arc(text: &str) -> Arc<str> {
    Arc::from(text)
}

/// The record that this build writes is Kafka's.
#[track_caller]
fn assert_kafkas(name: &str, version: i16, record: &Record) {
    let (key, value) = &table()[&(name.to_owned(), version)];
    assert_eq!(record.key, key, "key of {name}");
    assert_eq!(record.value.as_deref(), Some(value.as_slice()), "value of {name}");
}

fn offset_value(version: i16) -> OffsetCommitValue {
    OffsetCommitValue {
        offset: 42,
        leader_epoch: if version >= 3 { 5 } else { -1 },
        metadata: arc("mé"),
        commit_timestamp_ms: 1000,
        expire_timestamp_ms: if version == 1 { 2000 } else { -1 },
        topic_id: TopicId::default(),
    }
}

fn group_value(version: i16) -> GroupMetadataValue {
    GroupMetadataValue {
        protocol_type: arc("consumer"),
        generation: 3,
        protocol: Some(arc("range")),
        leader: Some(arc("m-1")),
        current_state_timestamp_ms: if version >= 2 { 1234 } else { -1 },
        members: vec![MemberMetadata {
            member_id: arc("m-1"),
            group_instance_id: (version >= 3).then(|| arc("i")),
            client_id: arc("c"),
            client_host: arc("/127.0.0.1"),
            rebalance_timeout_ms: if version >= 1 { 300_000 } else { -1 },
            session_timeout_ms: 10_000,
            subscription: Bytes::from_static(&[1, 2]),
            assignment: Bytes::from_static(&[3]),
        }],
    }
}

#[test]
fn offsets_and_classic_groups_are_kafkas() {
    let key = Key::OffsetCommit { group: arc("g"), topic: arc("to"), partition: 7 };
    assert_kafkas("offset", 4, &key.with(offset_value(4).encode()));
    assert_kafkas("offset", 1, &key.with(offset_value(1).encode()));
    let with_id = OffsetCommitValue { leader_epoch: -1, metadata: arc(""), topic_id: ID, ..offset_value(4) };
    assert_kafkas("offset_id", 4, &key.with(with_id.encode()));
    let key = Key::GroupMetadata { group: arc("g") };
    assert_kafkas("group", 3, &key.with(group_value(3).encode()));
    let empty = GroupMetadataValue { current_state_timestamp_ms: 99, ..GroupMetadataValue::default() };
    assert_kafkas("group_empty", 3, &key.with(empty.encode()));
}

#[test]
fn every_version_that_kafka_wrote_is_read() {
    for ((name, version), (key, value)) in table() {
        let decoded = Key::decode(&key).expect("a key").expect("a known type");
        assert_eq!(decoded.encode(), key, "{name}");
        match name.as_str() {
            "offset" => assert_eq!(OffsetCommitValue::decode(&value), Ok(offset_value(version))),
            "offset_id" => assert_eq!(OffsetCommitValue::decode(&value).map(|value| value.topic_id), Ok(ID)),
            "group" => assert_eq!(GroupMetadataValue::decode(&value), Ok(group_value(version)), "version {version}"),
            _ => {}
        }
    }
    let legacy = [&[0, 0][..], &Key::OffsetCommit { group: arc("g"), topic: arc("t"), partition: 1 }.encode()[2..]];
    let read = Key::decode(&legacy.concat());
    assert_eq!(read, Ok(Some(Key::OffsetCommit { group: arc("g"), topic: arc("t"), partition: 1 })));
}

fn partitions(indexes: &[i32]) -> Vec<TopicPartitions> {
    vec![TopicPartitions { topic_id: ID, partitions: indexes.to_vec() }]
}

#[test]
fn consumer_groups_are_kafkas() {
    let (group, member) = (arc("g"), arc("m"));
    let key = Key::ConsumerGroupMetadata { group: group.clone() };
    assert_kafkas("cg", 0, &key.with(ConsumerGroupMetadataValue { epoch: 10, metadata_hash: 0 }.encode()));
    assert_kafkas("cg_hash", 0, &key.with(ConsumerGroupMetadataValue { epoch: 10, metadata_hash: 77 }.encode()));
    let key = Key::ConsumerGroupMemberMetadata { group: group.clone(), member: member.clone() };
    let value = ConsumerGroupMemberMetadataValue {
        rack_id: Some(arc("r")),
        client_id: arc("c"),
        client_host: arc("/h"),
        subscribed_topic_names: vec![arc("a"), arc("b")],
        rebalance_timeout_ms: 5,
        server_assignor: Some(arc("range")),
        ..ConsumerGroupMemberMetadataValue::default()
    };
    assert_kafkas("cgm", 0, &key.with(value.encode()));
    let value = ConsumerGroupMemberMetadataValue {
        instance_id: Some(arc("i")),
        client_id: arc("c"),
        client_host: arc("/h"),
        subscribed_topic_regex: Some(arc("x.*")),
        rebalance_timeout_ms: 5,
        classic_member_metadata: Some(ClassicMemberMetadata {
            session_timeout_ms: 9,
            supported_protocols: vec![(arc("range"), Bytes::from_static(&[1, 2, 3]))],
        }),
        ..ConsumerGroupMemberMetadataValue::default()
    };
    assert_kafkas("cgm_classic", 0, &key.with(value.encode()));
    let key = Key::ConsumerGroupTargetAssignmentMetadata { group: group.clone() };
    assert_kafkas("cgta", 0, &key.with(ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch: 4 }.encode()));
    let key = Key::ConsumerGroupTargetAssignmentMember { group: group.clone(), member: member.clone() };
    let value = ConsumerGroupTargetAssignmentMemberValue { topic_partitions: partitions(&[0, 3]) };
    assert_kafkas("cgtam", 0, &key.with(value.encode()));
    let key = Key::ConsumerGroupCurrentMemberAssignment { group: group.clone(), member };
    let value = ConsumerGroupCurrentMemberAssignmentValue {
        member_epoch: 5,
        previous_member_epoch: 4,
        state: 1,
        assigned_partitions: partitions(&[1]),
        partitions_pending_revocation: partitions(&[2]),
    };
    assert_kafkas("cgcma", 0, &key.with(value.encode()));
    let key = Key::ConsumerGroupRegularExpression { group, regex: arc("x.*") };
    let value = ConsumerGroupRegularExpressionValue { topics: vec![arc("xa")], version: 6, timestamp_ms: 8 };
    assert_kafkas("cgre", 0, &key.with(value.encode()));
}

/// Every decoder on the same bytes.
fn decode_as_anything(bytes: &[u8]) {
    let _ = Key::decode(bytes);
    let _ = OffsetCommitValue::decode(bytes);
    let _ = GroupMetadataValue::decode(bytes);
    let _ = ConsumerGroupMetadataValue::decode(bytes);
    let _ = ConsumerGroupMemberMetadataValue::decode(bytes);
    let _ = ConsumerGroupTargetAssignmentMetadataValue::decode(bytes);
    let _ = ConsumerGroupTargetAssignmentMemberValue::decode(bytes);
    let _ = ConsumerGroupCurrentMemberAssignmentValue::decode(bytes);
    let _ = ConsumerGroupRegularExpressionValue::decode(bytes);
}

#[test]
fn a_record_cut_short_or_of_a_newer_version_is_an_error() {
    for ((name, version), (key, value)) in table() {
        for len in 0..key.len() {
            assert!(Key::decode(&key[..len]).is_err(), "{name} key, {len} bytes");
        }
        for len in 0..value.len() {
            decode_as_anything(&value[..len]);
            match name.as_str() {
                "offset" => {
                    assert!(OffsetCommitValue::decode(&value[..len]).is_err(), "version {version}, {len} bytes")
                }
                "group" => {
                    assert!(GroupMetadataValue::decode(&value[..len]).is_err(), "version {version}, {len} bytes")
                }
                "cgm_classic" => assert!(ConsumerGroupMemberMetadataValue::decode(&value[..len]).is_err()),
                _ => {}
            }
        }
    }
    let newer = ReplayError::Version { record: "OffsetCommitValue", version: 5, max: 4 };
    assert_eq!(OffsetCommitValue::decode(&[0, 5]), Err(newer));
    assert_eq!(Key::decode(&[0, 17, 1, 2, 3]), Ok(None), "a streams group");
}

proptest! {
    #[test]
    fn no_bytes_are_a_panic(head in 0u8..5, bytes: Vec<u8>) {
        decode_as_anything(&bytes);
        decode_as_anything(&[&[0, head], bytes.as_slice()].concat());
    }

    #[test]
    fn damage_is_not_a_panic(row in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte: u8) {
        let table = table();
        let (mut key, mut value) = table.values().nth(row.index(table.len())).expect("a row").clone();
        let (in_key, in_value) = (at.index(key.len()), at.index(value.len()));
        key[in_key] = byte;
        value[in_value] = byte;
        decode_as_anything(&key);
        decode_as_anything(&value);
    }

    #[test]
    fn offsets_come_back(
        offset: i64, leader_epoch: i32, metadata in ".{0,50}", commit_timestamp_ms: i64, expires: bool, id: u128,
    ) {
        let mut value = OffsetCommitValue {
            offset, leader_epoch, metadata: Arc::from(metadata), commit_timestamp_ms,
            expire_timestamp_ms: -1, topic_id: TopicId(Uuid::from_u128(id)),
        };
        if expires {
            // Version 1 has room for neither epoch nor id.
            (value.leader_epoch, value.topic_id, value.expire_timestamp_ms) = (-1, TopicId::default(), 7);
        }
        prop_assert_eq!(OffsetCommitValue::decode(&value.encode()), Ok(value));
    }

    #[test]
    fn keys_come_back(group in ".{0,40}", other in ".{0,40}", partition: i32) {
        let (group, other): (Arc<str>, Arc<str>) = (Arc::from(group), Arc::from(other));
        for key in [
            Key::OffsetCommit { group: group.clone(), topic: other.clone(), partition },
            Key::GroupMetadata { group: group.clone() },
            Key::ConsumerGroupPartitionMetadata { group: group.clone() },
            Key::ConsumerGroupRegularExpression { group: group.clone(), regex: other.clone() },
            Key::ConsumerGroupMemberMetadata { group, member: other },
        ] {
            prop_assert_eq!(Key::decode(&key.encode()), Ok(Some(key)));
        }
    }
}
