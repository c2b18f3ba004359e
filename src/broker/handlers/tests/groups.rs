//! Groups through connections: on every shard, in every version, with a log that says no.

use super::harness::*;
use super::producing::{produce, topic_data};
use crate::broker::groups::offsets_topic::OFFSETS_TOPIC;
use crate::error_code::ErrorCode;
use crate::protocol::by_topic_id::ByTopicId;
use crate::protocol::codec::text;
use bytes::Bytes;
use coreline_io::Clock;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerGroupHeartbeatRequest, DeleteGroupsRequest, DeleteTopicsRequest,
    DescribeGroupsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, IncrementalAlterConfigsRequest,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, ListGroupsRequest, MetadataRequest, OffsetCommitRequest,
    OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
};
use std::time::Duration;
use uuid::Uuid;

const NO_DELAY: &[(&str, &str)] = &[("group.initial.rebalance.delay.ms", "0")];

/// Makes the topic of the groups, and waits until every coordinator answers.
pub(super) async fn ready(node: &Node) -> Client {
    let mut client = node.connect().await;
    let request = FindCoordinatorRequest::default().with_key(text("g"));
    assert_eq!(client.ask(0, &request).await.error_code, 0);
    while client.ask(0, &ListGroupsRequest::default()).await.error_code == ErrorCode::CoordinatorLoadInProgress.code() {
        node.runtime().sleep(Duration::from_millis(1)).await;
    }
    client
}

fn group(name: &str) -> GroupId {
    GroupId(text(name))
}

pub(super) fn commit(group_name: &str, partitions: &[(&str, i32, i64, &str)]) -> OffsetCommitRequest {
    let topics = partitions.iter().map(|(topic, index, offset, metadata)| {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(*index);
        let partition = partition.with_committed_offset(*offset).with_committed_metadata(Some(text(metadata)));
        OffsetCommitRequestTopic::default().with_name(text(topic).into()).with_partitions(vec![partition])
    });
    let request = OffsetCommitRequest::default().with_group_id(group(group_name)).with_topics(topics.collect());
    request.with_generation_id_or_member_epoch(-1)
}

pub(super) async fn commit_codes(client: &mut Client, version: i16, request: &OffsetCommitRequest) -> Vec<i16> {
    let response = client.ask(version, request).await;
    response.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code)).collect()
}

async fn fetch_one(client: &mut Client, group_name: &str, topic: &str, index: i32) -> (i64, i16) {
    let asked = OffsetFetchRequestTopic::default().with_name(text(topic).into()).with_partition_indexes(vec![index]);
    let request = OffsetFetchRequest::default().with_group_id(group(group_name)).with_topics(Some(vec![asked]));
    let response = client.ask(5, &request).await;
    match response.topics.first() {
        Some(topic) => (topic.partitions[0].committed_offset, topic.partitions[0].error_code),
        None => (-1, response.error_code),
    }
}

#[test]
fn coordinators_are_found_and_their_topic_is_kafkas() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        let mut client = node.connect().await;
        for version in 0..=6 {
            for (key_type, error) in [(0, ErrorCode::None), (1, ErrorCode::None), (9, ErrorCode::InvalidRequest)] {
                if version == 0 && key_type != 0 {
                    continue;
                }
                let request = FindCoordinatorRequest::default().with_key_type(key_type);
                let request = if version >= 4 {
                    request.with_coordinator_keys(vec![text("g"), text(""), text("g")])
                } else {
                    request.with_key(text("g"))
                };
                let response = client.ask(version, &request).await;
                let found: Vec<(i16, i32, i32)> = if version >= 4 {
                    response.coordinators.iter().map(|c| (c.error_code, c.node_id.0, c.port)).collect()
                } else {
                    vec![(response.error_code, response.node_id.0, response.port); 3]
                };
                let node = if key_type <= 1 { (1, 9092) } else { (-1, -1) };
                assert_eq!(found, [(error.code(), node.0, node.1); 3], "version {version}, type {key_type}");
            }
        }
        let asked = MetadataRequestTopic::default().with_name(Some(text(OFFSETS_TOPIC).into()));
        let response = client.ask(9, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
        assert_eq!((response.topics[0].is_internal, response.topics[0].partitions.len()), (true, 50));
        let image = node.image();
        assert_eq!(image.topic(OFFSETS_TOPIC).unwrap().configs["segment.bytes"], "104857600");
        // Nobody but the coordinator writes there.
        let parts = vec![(0, Some(batch(&["x"])))];
        let request = produce(-1, vec![topic_data(9, OFFSETS_TOPIC, Uuid::nil(), parts)]);
        let refused = client.ask(9, &request).await.responses.remove(0).partition_responses.remove(0);
        assert_eq!(refused.error_code, ErrorCode::InvalidTopicException.code());
    });
}

#[test]
fn commits_in_every_version_are_fetched_in_every_version_on_every_shard() {
    let node = Node::start(2, &[]);
    node.world.block_on(async {
        node.create("t", 2, &[]).await;
        let mut client = ready(&node).await;
        let groups: Vec<String> = (0..12).map(|n| format!("group-{n}")).collect();
        for version in 2..=9 {
            for (n, name) in groups.iter().enumerate() {
                let offset = i64::from(version) * 100 + n as i64;
                let request = commit(name, &[("t", 0, offset, "m"), ("t", 7, 1, ""), ("none", 0, 1, "")]);
                let codes = commit_codes(&mut client, version, &request).await;
                let unknown = ErrorCode::UnknownTopicOrPartition.code();
                assert_eq!(codes, [0, unknown, unknown], "version {version}");
            }
            for (n, name) in groups.iter().enumerate() {
                assert_eq!(fetch_one(&mut client, name, "t", 0).await, (i64::from(version) * 100 + n as i64, 0));
            }
        }
        for version in 1..=7 {
            let asked =
                OffsetFetchRequestTopic::default().with_name(text("t").into()).with_partition_indexes(vec![0, 1]);
            let topics = if version >= 2 { None } else { Some(vec![asked]) };
            let request = OffsetFetchRequest::default().with_group_id(group("group-3")).with_topics(topics);
            let response = client.ask(version, &request).await;
            let partition = &response.topics[0].partitions[0];
            assert_eq!((partition.committed_offset, partition.metadata.as_deref()), (903, Some("m")), "{version}");
        }
        for version in 8..=9 {
            let one = |(n, name): (usize, &String)| {
                let topics = OffsetFetchRequestTopics::default().with_name(text("t").into());
                let topics = (n % 2 == 0).then(|| vec![topics.with_partition_indexes(vec![0])]);
                OffsetFetchRequestGroup::default().with_group_id(group(name)).with_topics(topics).with_member_epoch(-1)
            };
            let asked: Vec<_> = groups.iter().enumerate().map(one).collect();
            let response = client.ask(version, &OffsetFetchRequest::default().with_groups(asked)).await;
            let found: Vec<_> = response.groups.iter().map(|g| g.topics[0].partitions[0].committed_offset).collect();
            assert_eq!(found, (900..912).collect::<Vec<i64>>());
        }
        let listed = client.ask(5, &ListGroupsRequest::default()).await;
        assert_eq!((listed.error_code, listed.groups.len()), (0, 12));
        let names = (0..12).map(|n| group(&format!("group-{n}"))).chain([group("none"), group("none")]);
        let deleted = client.ask(2, &DeleteGroupsRequest::default().with_groups_names(names.collect())).await;
        let codes: Vec<i16> = deleted.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [vec![0; 12], vec![ErrorCode::GroupIdNotFound.code()]].concat());
        assert_eq!(client.ask(5, &ListGroupsRequest::default()).await.groups.len(), 0);
    });
}

#[test]
fn commits_of_one_connection_need_not_wait_for_each_other() {
    let node = Node::start(3, NO_DELAY);
    node.world.block_on(async {
        node.create("t", 2, &[]).await;
        let mut client = ready(&node).await;
        let mut sent = Vec::new();
        for offset in 0..60 {
            // Of several groups, on all shards, and now and then of nothing that exists.
            let topic = if offset % 7 == 6 { "none" } else { "t" };
            let request = commit(&format!("g{}", offset % 4), &[(topic, 0, offset, "m")]);
            sent.push((client.send(9, &request).await, offset));
        }
        for (id, offset) in sent {
            let (answered, response) = client.receive::<OffsetCommitRequest>(9).await.expect("an answer");
            let code = if offset % 7 == 6 { ErrorCode::UnknownTopicOrPartition.code() } else { 0 };
            assert_eq!((answered, response.topics[0].partitions[0].error_code), (id, code));
        }
        for (group, last) in [("g0", 56), ("g1", 57), ("g2", 58), ("g3", 59)] {
            assert_eq!(fetch_one(&mut client, group, "t", 0).await, (last, 0), "{group}");
        }
    });
}

async fn id_of(client: &mut Client, topic: &str) -> Uuid {
    let asked = MetadataRequestTopic::default().with_name(Some(text(topic).into()));
    client.ask(12, &MetadataRequest::default().with_topics(Some(vec![asked]))).await.topics[0].topic_id
}

/// By version 10: the id, offset and code of each partition.
async fn fetched_by_id(client: &mut Client, group_name: &str, topics: Option<&[Uuid]>) -> Vec<(Uuid, i64, i16)> {
    let asked = |id: &Uuid| OffsetFetchRequestTopics::default().with_topic_id(*id).with_partition_indexes(vec![0]);
    let of_group = OffsetFetchRequestGroup::default().with_group_id(group(group_name)).with_member_epoch(-1);
    let of_group = of_group.with_topics(topics.map(|topics| topics.iter().map(asked).collect()));
    let response = client.ask(10, &ByTopicId(OffsetFetchRequest::default().with_groups(vec![of_group]))).await;
    let topics = response.groups[0].topics.iter();
    topics.map(|t| (t.topic_id, t.partitions[0].committed_offset, t.partitions[0].error_code)).collect()
}

#[test]
fn version_10_knows_topics_by_their_ids() {
    let node = Node::start(3, NO_DELAY);
    node.world.block_on(async {
        node.create("t", 2, &[]).await;
        node.create("u", 2, &[]).await;
        let mut client = ready(&node).await;
        let (t, u, none) = (id_of(&mut client, "t").await, id_of(&mut client, "u").await, Uuid::from_u128(7));
        let mut request = commit("g", &[("", 0, 5, "m"), ("", 0, 6, ""), ("", 0, 7, ""), ("", 9, 8, "")]);
        for (topic, id) in request.topics.iter_mut().zip([t, none, u, t]) {
            topic.topic_id = id;
        }
        let response = client.ask(10, &ByTopicId(request)).await;
        let codes: Vec<_> = response.topics.iter().map(|t| (t.topic_id, t.partitions[0].error_code)).collect();
        let unknown = ErrorCode::UnknownTopicId.code();
        let no_partition = ErrorCode::UnknownTopicOrPartition.code();
        assert_eq!(codes, [(t, 0), (none, unknown), (u, 0), (t, no_partition)]);
        assert_eq!(fetch_one(&mut client, "g", "t", 0).await, (5, 0));

        let asked = [none, u, t];
        let found = fetched_by_id(&mut client, "g", Some(&asked)).await;
        assert_eq!(found, [(u, 7, 0), (t, 5, 0), (none, -1, unknown)]);
        assert_eq!(fetched_by_id(&mut client, "g", None).await, [(t, 5, 0), (u, 7, 0)]);

        // A topic made anew under the same name is another topic: nothing was read of it.
        let gone = DeleteTopicsRequest::default().with_topic_names(vec![text("t").into()]).with_timeout_ms(10_000);
        assert_eq!(client.ask(4, &gone).await.responses[0].error_code, 0);
        node.create("t", 2, &[]).await;
        let again = id_of(&mut client, "t").await;
        let found = fetched_by_id(&mut client, "g", Some(&[t, again])).await;
        assert_eq!(found, [(again, -1, 0), (t, -1, unknown)]);
    });
}

#[test]
fn records_that_the_log_refuses_leave_what_was_there() {
    let node = Node::start(3, &[("offset.metadata.max.bytes", "32000")]);
    node.world.block_on(async {
        node.create("t", 40, &[]).await;
        let mut client = ready(&node).await;
        let good = commit("g", &[("t", 0, 5, "")]);
        assert_eq!(commit_codes(&mut client, 8, &good).await, [0]);
        // More than a batch may hold.
        let metadata = "x".repeat(30_000);
        let all: Vec<_> = (0..40).map(|index| ("t", index, 6, metadata.as_str())).collect();
        let refused = commit_codes(&mut client, 8, &commit("g", &all)).await;
        assert_eq!(refused, [ErrorCode::UnknownServerError.code(); 40]);
        let found = loop {
            let found = fetch_one(&mut client, "g", "t", 0).await;
            if found.1 != ErrorCode::CoordinatorLoadInProgress.code() {
                break found;
            }
            node.runtime().sleep(Duration::from_millis(1)).await;
        };
        assert_eq!(found, (5, 0));
        assert_eq!(commit_codes(&mut client, 8, &commit("g", &[("t", 0, 7, "")])).await, [0]);
        assert_eq!(fetch_one(&mut client, "g", "t", 0).await, (7, 0));
    });
}

fn join(name: &str, member: &str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
    JoinGroupRequest::default()
        .with_group_id(group(name))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(10_000)
        .with_member_id(text(member))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol.with_metadata(Bytes::from_static(b"meta"))])
}

/// Joins, with the id that the coordinator gives where it wants the member to have one first.
async fn joined(client: &mut Client, version: i16, name: &str) -> JoinGroupResponse {
    let mut request = join(name, "");
    if version == 0 {
        request.rebalance_timeout_ms = -1;
    }
    let response = client.ask(version, &request).await;
    if response.error_code != ErrorCode::MemberIdRequired.code() {
        return response;
    }
    request.member_id = response.member_id;
    client.ask(version, &request).await
}

fn sync(name: &str, joined: &JoinGroupResponse, assignments: &[(&str, &'static [u8])]) -> SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, bytes)| {
        let assignment = SyncGroupRequestAssignment::default().with_member_id(text(member));
        assignment.with_assignment(Bytes::from_static(bytes))
    });
    SyncGroupRequest::default()
        .with_group_id(group(name))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_assignments(assignments.collect())
}

#[test]
fn a_member_lives_in_every_version() {
    let node = Node::start(4, NO_DELAY);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = ready(&node).await;
        for version in 0..=9i16 {
            let name = format!("members-{version}");
            let member = joined(&mut client, version, &name).await;
            assert_eq!((member.error_code, member.generation_id), (0, 1), "version {version}");
            assert_eq!((&member.leader, member.members.len()), (&member.member_id, 1));
            let request = sync(&name, &member, &[(&member.member_id, b"part")]);
            let synced: SyncGroupResponse = client.ask(version.min(4), &request).await;
            assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"part"[..]));
            let heartbeat = HeartbeatRequest::default().with_group_id(group(&name)).with_generation_id(1);
            let heartbeat = heartbeat.with_member_id(member.member_id.clone());
            assert_eq!(client.ask(version.min(4), &heartbeat).await.error_code, 0);
            let commit = commit(&name, &[("t", 0, 3, "")]);
            let of_member =
                commit.clone().with_member_id(member.member_id.clone()).with_generation_id_or_member_epoch(1);
            assert_eq!(commit_codes(&mut client, version.max(2), &of_member).await, [0]);
            let stranger = commit_codes(&mut client, version.max(2), &commit).await;
            assert_eq!(stranger, [ErrorCode::UnknownMemberId.code()]);
            let described = DescribeGroupsRequest::default().with_groups(vec![group(&name), group("none")]);
            let described = client.ask(version.min(6), &described).await;
            assert_eq!((&*described.groups[0].group_state, described.groups[0].members.len()), ("Stable", 1));
            assert!(described.groups[0].members[0].client_host.starts_with('/'));
            let leave = LeaveGroupRequest::default().with_group_id(group(&name));
            let leave = if version < 3 {
                leave.with_member_id(member.member_id.clone())
            } else {
                leave.with_members(vec![MemberIdentity::default().with_member_id(member.member_id.clone())])
            };
            assert_eq!(client.ask(version.min(5), &leave).await.error_code, 0);
            let gone = client.ask(version.min(4), &heartbeat).await.error_code;
            assert_eq!(gone, ErrorCode::UnknownMemberId.code());
            let asked = OffsetDeleteRequestPartition::default().with_partition_index(0);
            let topic = |name| OffsetDeleteRequestTopic::default().with_name(text(name).into());
            let topics = ["t", "none"].map(|name| topic(name).with_partitions(vec![asked.clone()]));
            let delete = OffsetDeleteRequest::default().with_group_id(group(&name)).with_topics(topics.to_vec());
            let deleted = client.ask(0, &delete).await;
            let codes: Vec<i16> = deleted.topics.iter().map(|t| t.partitions[0].error_code).collect();
            assert_eq!((deleted.error_code, codes), (0, vec![0, ErrorCode::UnknownTopicOrPartition.code()]));
            assert_eq!(fetch_one(&mut client, &name, "t", 0).await, (-1, 0));
        }
    });
}

#[test]
fn a_join_waits_for_the_others_on_other_connections() {
    let node = Node::start(5, NO_DELAY);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut first = ready(&node).await;
        // One on every shard, so that answers cross the mesh.
        for n in 0..6 {
            let name = format!("pair-{n}");
            let mut second = node.connect().await;
            let leader = joined(&mut first, 9, &name).await;
            let id = second.ask(9, &join(&name, "")).await.member_id;
            let waiting = second.send(9, &join(&name, &id)).await;
            // The first hears of it, and joins again: only then the second is answered.
            let heartbeat = HeartbeatRequest::default().with_group_id(group(&name)).with_generation_id(1);
            let heartbeat = heartbeat.with_member_id(leader.member_id.clone());
            while first.ask(4, &heartbeat).await.error_code != ErrorCode::RebalanceInProgress.code() {
                node.runtime().sleep(Duration::from_millis(1)).await;
            }
            let again = first.ask(9, &join(&name, &leader.member_id)).await;
            let (answered, other) = second.receive::<JoinGroupRequest>(9).await.unwrap();
            assert_eq!((answered, other.error_code, other.generation_id), (waiting, 0, 2));
            assert_eq!((again.members.len(), other.members.len(), again.generation_id), (2, 0, 2));
            // The follower syncs first and waits for the leader's word.
            second.send(5, &sync_v5(&name, &other, &[])).await;
            let parts: [(&str, &'static [u8]); 2] = [(&again.member_id, b"1"), (&other.member_id, b"2")];
            assert_eq!(&first.ask(5, &sync_v5(&name, &again, &parts)).await.assignment[..], b"1");
            let (_, synced) = second.receive::<SyncGroupRequest>(5).await.unwrap();
            assert_eq!(&synced.assignment[..], b"2");
        }
    });
}

fn sync_v5(name: &str, joined: &JoinGroupResponse, parts: &[(&str, &'static [u8])]) -> SyncGroupRequest {
    sync(name, joined, parts).with_protocol_type(Some(text("consumer"))).with_protocol_name(Some(text("range")))
}

#[test]
fn a_silent_member_is_gone_when_its_session_ends() {
    let node = Node::start(6, NO_DELAY);
    node.world.block_on(async {
        let mut client = ready(&node).await;
        let member = joined(&mut client, 9, "silent").await;
        client.ask(5, &sync_v5("silent", &member, &[])).await;
        node.runtime().sleep(Duration::from_millis(9_000)).await;
        let describe = DescribeGroupsRequest::default().with_groups(vec![group("silent")]);
        assert_eq!(&*client.ask(5, &describe).await.groups[0].group_state, "Stable");
        node.runtime().sleep(Duration::from_millis(1_100)).await;
        assert_eq!(&*client.ask(5, &describe).await.groups[0].group_state, "Empty");
    });
}

#[test]
fn offsets_of_a_deleted_topic_go_with_it() {
    let node = Node::start(7, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        node.create("stays", 1, &[]).await;
        let mut client = ready(&node).await;
        let both = commit("g", &[("t", 0, 5, ""), ("stays", 0, 6, "")]);
        assert_eq!(commit_codes(&mut client, 8, &both).await, [0, 0]);
        let delete = DeleteTopicsRequest::default().with_topic_names(vec![text("t").into()]).with_timeout_ms(10_000);
        assert_eq!(client.ask(5, &delete).await.responses[0].error_code, 0);
        node.create("t", 1, &[]).await;
        assert_eq!(fetch_one(&mut client, "g", "t", 0).await, (-1, 0));
        assert_eq!(fetch_one(&mut client, "g", "stays", 0).await, (6, 0));
    });
}

#[test]
fn a_member_of_a_consumer_group_gets_its_partitions_and_is_described() {
    let node = Node::start(8, &[]);
    node.world.block_on(async {
        node.create("t", 2, &[]).await;
        let mut client = ready(&node).await;
        for version in 0..=1 {
            let name = format!("new-{version}");
            let id = text("0000000000000000000000");
            let mut heartbeat = ConsumerGroupHeartbeatRequest::default()
                .with_group_id(group(&name))
                .with_member_id(id.clone())
                .with_rebalance_timeout_ms(10_000)
                .with_subscribed_topic_names(Some(vec![text("t").into()]))
                .with_topic_partitions(Some(Vec::new()));
            let joined = client.ask(version, &heartbeat).await;
            assert_eq!((joined.error_code, joined.heartbeat_interval_ms), (0, 5000), "{:?}", joined.error_message);
            let assigned = joined.assignment.expect("an assignment").topic_partitions;
            assert_eq!(assigned.iter().map(|t| t.partitions.len()).sum::<usize>(), 2);
            let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group(&name), group("none")]);
            let described = client.ask(version, &request).await;
            let found: Vec<_> = described.groups.iter().map(|g| (g.error_code, g.members.len())).collect();
            assert_eq!(found, [(0, 1), (ErrorCode::GroupIdNotFound.code(), 0)]);
            heartbeat.member_epoch = -1;
            heartbeat.member_id = joined.member_id.unwrap_or(id);
            assert_eq!(client.ask(version, &heartbeat).await.error_code, 0);
        }
    });
}

#[test]
fn a_groups_settings_hold_at_once_and_what_is_wrong_is_refused() {
    let node = Node::start(9, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = ready(&node).await;
        let heartbeat = ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group("slow"))
            .with_member_id(text("0000000000000000000000"))
            .with_rebalance_timeout_ms(10_000)
            .with_subscribed_topic_names(Some(vec![text("t").into()]))
            .with_topic_partitions(Some(Vec::new()));
        assert_eq!(client.ask(1, &heartbeat).await.heartbeat_interval_ms, 5000);
        let mut set = async |name: &str, value: &str| {
            let config = AlterableConfig::default().with_name(text(name)).with_value(Some(text(value)));
            let resource = AlterConfigsResource::default().with_resource_type(32).with_resource_name(text("slow"));
            let resource = resource.with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            client.ask(1, &request).await.responses.remove(0).error_code
        };
        let invalid = ErrorCode::InvalidConfig.code();
        for (name, value, code) in [
            ("consumer.heartbeat.interval.ms", "15001", invalid),
            ("consumer.heartbeat.interval.ms", "0", invalid),
            ("segment.bytes", "2097152", invalid),
            ("consumer.session.timeout.ms", "60000", 0),
            ("consumer.heartbeat.interval.ms", "7000", 0),
        ] {
            assert_eq!(set(name, value).await, code, "{name}={value}");
        }
        // Each shard follows the metadata for itself.
        while client.ask(1, &heartbeat).await.heartbeat_interval_ms != 7000 {
            node.runtime().sleep(Duration::from_millis(1)).await;
        }
        // A member of 45 s would be gone.
        node.runtime().sleep(Duration::from_secs(50)).await;
        let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group("slow")]);
        assert_eq!(client.ask(1, &request).await.groups[0].members.len(), 1);
        node.runtime().sleep(Duration::from_secs(15)).await;
        assert_eq!(client.ask(1, &request).await.groups[0].members.len(), 0);
    });
}
