//! Members of both protocols in one group, and groups that change their kind.

use super::super::config::{GroupsConfig, MigrationPolicy};
use super::super::coordinator::Group;
use super::super::{Request, Response, Token};
use super::bed::*;
use super::blobs::{by_id, decode_assignment, encode_assignment, tests::subscription_bytes};
use crate::error_code::ErrorCode;
use crate::groups::assignor::Assignment;
use crate::ids::TopicId;
use bytes::Bytes;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::protocol::StrBytes;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id() -> codec::GroupId {
    codec::GroupId(text(GROUP))
}

fn set(topic: TopicId, partitions: &[i32]) -> Assignment {
    Assignment::from_parts([(topic, partitions.to_vec())])
}

fn classic_join(member: &str, owned: &[(&str, &[i32])]) -> codec::JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default()
        .with_name(text("cooperative-sticky"))
        .with_metadata(subscription_bytes(1, &["t"], owned));
    codec::JoinGroupRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(20_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// Joins at once: to a group that has members of the consumer protocol.
fn join_now(bed: &mut Bed, request: codec::JoinGroupRequest) -> codec::JoinGroupResponse {
    match bed.ask(9, Request::JoinGroup(request)) {
        Response::JoinGroup(response) => response,
        other => panic!("{other:?}"),
    }
}

fn joined(bed: &mut Bed, token: Token) -> codec::JoinGroupResponse {
    match bed.answer(token) {
        Some(Response::JoinGroup(response)) => response,
        other => panic!("{other:?}"),
    }
}

fn sync_request(member: &str, generation: i32) -> codec::SyncGroupRequest {
    codec::SyncGroupRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_generation_id(generation)
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("cooperative-sticky")))
}

fn sync(bed: &mut Bed, member: &str, generation: i32) -> Result<Assignment, ErrorCode> {
    match bed.ask(5, Request::SyncGroup(sync_request(member, generation))) {
        Response::SyncGroup(response) if response.error_code == 0 => {
            let (named, _) = decode_assignment(&response.assignment).unwrap();
            Ok(by_id(&named, &bed.topics))
        }
        Response::SyncGroup(response) => Err(ErrorCode::from_code(response.error_code).unwrap()),
        other => panic!("{other:?}"),
    }
}

fn beat(bed: &mut Bed, member: &str, generation: i32) -> ErrorCode {
    let request = codec::HeartbeatRequest::default()
        .with_group_id(group_id())
        .with_member_id(text(member))
        .with_generation_id(generation);
    match bed.ask(4, Request::Heartbeat(request)) {
        Response::Heartbeat(response) => ErrorCode::from_code(response.error_code).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn leave(bed: &mut Bed, members: &[(&str, Option<&str>)]) -> Vec<i16> {
    let identities = members.iter().map(|(member, instance)| {
        MemberIdentity::default().with_member_id(text(member)).with_group_instance_id(instance.map(text))
    });
    let request = codec::LeaveGroupRequest::default().with_group_id(group_id()).with_members(identities.collect());
    match bed.ask(5, Request::LeaveGroup(request)) {
        Response::LeaveGroup(response) => response.members.iter().map(|m| m.error_code).collect(),
        other => panic!("{other:?}"),
    }
}

fn is_classic(bed: &Bed) -> bool {
    matches!(bed.coordinator.groups[GROUP].group, Group::Classic(_))
}

/// `a` of the consumer protocol and a classic member, reconciled: the classic member's id and the topic.
fn mixed(bed: &mut Bed) -> (String, TopicId) {
    let t = bed.topics.set("t", 2);
    bed.ok(join("a", &["t"]));
    let first = join_now(bed, classic_join("", &[]));
    assert_eq!(first.error_code, ErrorCode::MemberIdRequired as i16);
    let c = first.member_id.to_string();
    let second = join_now(bed, classic_join(&c, &[]));
    assert_eq!((second.error_code, second.generation_id), (0, 2));
    assert_eq!(second.protocol_name.as_deref(), Some("cooperative-sticky"));
    assert_eq!((second.leader.as_str(), second.members.len()), ("", 0), "nobody leads");
    bed.reload();
    assert_eq!(sync(bed, &c, 2), Ok(Assignment::EMPTY));
    assert_eq!(beat(bed, &c, 2), ErrorCode::None, "what it shall have is another's still");
    assert_eq!(assigned(&bed.ok(heartbeat("a", 1))), Some(set(t, &[0])));
    assert_eq!(beat(bed, &c, 2), ErrorCode::None);
    bed.ok(heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0]))));
    assert_eq!(beat(bed, &c, 2), ErrorCode::RebalanceInProgress);
    assert_eq!(join_now(bed, classic_join(&c, &[])).generation_id, 2);
    assert_eq!(sync(bed, &c, 2), Ok(set(t, &[1])));
    assert_eq!(beat(bed, &c, 2), ErrorCode::None);
    assert_eq!(bed.group().state_name(), "Stable");
    bed.reload();
    (c, t)
}

#[test]
fn a_classic_member_in_a_consumer_group() {
    let mut bed = Bed::new();
    let (c, t) = mixed(&mut bed);
    // It gives up what a third is to have: told by its heartbeat, by its join and its sync.
    bed.topics.set("t", 3);
    bed.ok(join("b", &["t"]));
    bed.ok(heartbeat("a", 2));
    assert_eq!(beat(&mut bed, &c, 2), ErrorCode::RebalanceInProgress);
    assert_eq!(sync(&mut bed, &c, 2), Err(ErrorCode::RebalanceInProgress));
    let again = join_now(&mut bed, classic_join(&c, &[("t", &[1])]));
    assert_eq!(again.generation_id, 3);
    assert_eq!(sync(&mut bed, &c, 3), Ok(set(t, &[1])));
    assert_eq!(beat(&mut bed, &c, 2), ErrorCode::IllegalGeneration);
    assert_eq!(sync(&mut bed, &c, 2), Err(ErrorCode::IllegalGeneration));
    assert_eq!(beat(&mut bed, "a", 3), ErrorCode::UnknownMemberId, "not a classic member");
    assert_eq!(beat(&mut bed, "x", 3), ErrorCode::UnknownMemberId);
    assert_eq!(bed.group().validate_offset_commit(&c, None, 2, 8), Err(ErrorCode::IllegalGeneration));
    assert_eq!(bed.group().validate_offset_commit(&c, None, 3, 8), Ok(()));
    assert_eq!(leave(&mut bed, &[("x", None), (&c, None)]), [ErrorCode::UnknownMemberId as i16, 0]);
    assert!(!is_classic(&bed));
    bed.reload();
}

#[test]
fn what_cannot_be_in_the_group() {
    let mut bed = Bed::new();
    mixed(&mut bed);
    let mut other_name = classic_join("d", &[]);
    other_name.protocols[0].name = text("range");
    let mut malformed = classic_join("d", &[]);
    malformed.protocols[0].metadata = Bytes::from_static(&[0, 1, 255]);
    for request in [
        classic_join("d", &[]).with_protocol_type(text("connect")),
        classic_join("d", &[]).with_protocols(Vec::new()),
        other_name,
        malformed,
    ] {
        let before = bed.log.len();
        let response = join_now(&mut bed, request);
        assert_eq!(response.error_code, ErrorCode::InconsistentGroupProtocol as i16);
        assert_eq!(bed.log.len(), before);
    }
}

#[test]
fn a_classic_member_that_is_silent() {
    let mut bed = Bed::new();
    let (c, _) = mixed(&mut bed);
    bed.wait(9_999);
    assert!(bed.group().members.contains_key(c.as_str()));
    bed.wait(1);
    assert!(!bed.group().members.contains_key(c.as_str()), "its own session timeout");
    assert!(!is_classic(&bed));
}

#[test]
fn a_classic_member_that_does_not_join_or_sync_in_time() {
    for joins in [false, true] {
        let mut bed = Bed::new();
        let (c, _) = mixed(&mut bed);
        bed.ok(join("b", &["t"]));
        assert_eq!(beat(&mut bed, &c, 2), ErrorCode::RebalanceInProgress);
        let mut generation = 2;
        if joins {
            generation = join_now(&mut bed, classic_join(&c, &[("t", &[1])])).generation_id;
        }
        for _ in 0..4 {
            bed.wait(5_000);
            beat(&mut bed, &c, generation);
        }
        assert!(!bed.group().members.contains_key(c.as_str()), "joins: {joins}");
    }
}

#[test]
fn the_last_of_the_consumer_protocol_leaves() {
    for expires in [false, true] {
        let mut bed = Bed::new();
        let (c, t) = mixed(&mut bed);
        if expires {
            for _ in 0..9 {
                bed.wait(5_000);
                if !is_classic(&bed) {
                    beat(&mut bed, &c, 2);
                }
            }
        } else {
            bed.ok(heartbeat("a", -1));
        }
        assert!(is_classic(&bed));
        assert_eq!(beat(&mut bed, &c, 3), ErrorCode::RebalanceInProgress);
        let token = bed.post(9, Request::JoinGroup(classic_join(&c, &[("t", &[1])])));
        let response = joined(&mut bed, token);
        assert_eq!((response.error_code, response.generation_id), (0, 4));
        assert_eq!(response.leader.as_str(), c, "now it leads");
        let assignment = encode_assignment(&set(t, &[0, 1]), 1, &bed.topics);
        let given = SyncGroupRequestAssignment::default().with_member_id(text(&c)).with_assignment(assignment);
        bed.ask(5, Request::SyncGroup(sync_request(&c, 4).with_assignments(vec![given])));
        assert_eq!(beat(&mut bed, &c, 4), ErrorCode::None);
        bed.reload();
        assert!(is_classic(&bed));
        assert_eq!(beat(&mut bed, &c, 4), ErrorCode::None, "read back as a classic group");

        // And up again: everybody keeps what it has until it joins.
        let response = bed.ok(join("b", &["t"]));
        assert_eq!((response.member_epoch, assigned(&response)), (5, Some(Assignment::EMPTY)));
        bed.reload();
        assert_eq!(beat(&mut bed, &c, 4), ErrorCode::RebalanceInProgress);
        let response = join_now(&mut bed, classic_join(&c, &[("t", &[0, 1])]));
        assert_eq!(response.generation_id, 4, "first it gives up");
        let kept = sync(&mut bed, &c, 4).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(beat(&mut bed, &c, 4), ErrorCode::RebalanceInProgress);
        let kept_partitions = kept.of(t).to_vec();
        let response = join_now(&mut bed, classic_join(&c, &[("t", &kept_partitions)]));
        assert_eq!(response.generation_id, 5);
        assert_eq!(sync(&mut bed, &c, 5), Ok(kept));
        assert_eq!(assigned(&bed.ok(heartbeat("b", 5))).map(|a| a.len()), Some(1));
        assert_eq!(bed.group().state_name(), "Stable");
    }
}

#[test]
fn who_waits_in_a_classic_group_is_asked_to_join_again() {
    let mut bed = Bed::new();
    bed.topics.set("t", 2);
    let token = bed.post(3, Request::JoinGroup(classic_join("", &[])));
    assert_eq!(bed.answer(token), None, "the initial delay");
    bed.ok(join("a", &["t"]));
    let response = joined(&mut bed, token);
    assert_eq!(response.error_code, ErrorCode::RebalanceInProgress as i16);
    assert!(!is_classic(&bed));
    bed.reload();
    let id = response.member_id.to_string();
    assert_eq!(join_now(&mut bed, classic_join(&id, &[])).generation_id, 2);
}

#[test]
fn a_policy_may_forbid_it() {
    let with_policy = |consumer_migration_policy| {
        Bed::with_config(GroupsConfig { consumer_migration_policy, ..GroupsConfig::default() })
    };
    for (policy, up, down) in [
        (MigrationPolicy::Bidirectional, true, true),
        (MigrationPolicy::Upgrade, true, false),
        (MigrationPolicy::Downgrade, false, true),
        (MigrationPolicy::Disabled, false, false),
    ] {
        let mut bed = with_policy(policy);
        let (c, _) = mixed(&mut bed);
        bed.ok(heartbeat("a", -1));
        assert_eq!(is_classic(&bed), down, "{policy:?}");
        assert!(down || beat(&mut bed, &c, 2) == ErrorCode::RebalanceInProgress, "it goes on as it is");

        let mut bed = with_policy(policy);
        bed.topics.set("t", 2);
        bed.post(3, Request::JoinGroup(classic_join("", &[])));
        let expected = if up { ErrorCode::None } else { ErrorCode::GroupIdNotFound };
        assert_eq!(bed.refused_or_not(join("a", &["t"])), expected, "{policy:?}");
    }
}

#[test]
fn assignments_that_only_their_assignor_can_read_stay() {
    let mut bed = Bed::new();
    let t = bed.topics.set("t", 2);
    let token = bed.post(3, Request::JoinGroup(classic_join("", &[])));
    bed.wait(3_000);
    let response = joined(&mut bed, token);
    let c = response.member_id.to_string();
    let plain = encode_assignment(&set(t, &[0, 1]), 1, &bed.topics);
    let mut custom = plain[..plain.len() - 4].to_vec();
    custom.extend_from_slice(&[0, 0, 0, 1, 9]);
    let given = SyncGroupRequestAssignment::default().with_member_id(text(&c)).with_assignment(custom.into());
    bed.ask(5, Request::SyncGroup(sync_request(&c, 1).with_assignments(vec![given])));
    assert_eq!(bed.refused(join("a", &["t"])), ErrorCode::GroupIdNotFound);
    assert_eq!(beat(&mut bed, &c, 1), ErrorCode::None);
}

#[test]
fn a_static_member_changes_its_protocol() {
    let mut bed = Bed::new();
    let t = bed.topics.set("t", 2);
    bed.ok(static_join("a1", "i", &["t"]));
    let response = join_now(&mut bed, classic_join("", &[]).with_group_instance_id(Some(text("i"))));
    let c = response.member_id.to_string();
    assert_eq!(response.error_code, 0);
    bed.reload();
    let with_instance = sync_request(&c, response.generation_id).with_group_instance_id(Some(text("i")));
    let Response::SyncGroup(synced) = bed.ask(5, Request::SyncGroup(with_instance)) else { panic!("another answer") };
    let (named, _) = decode_assignment(&synced.assignment).unwrap();
    assert_eq!(by_id(&named, &bed.topics), set(t, &[0, 1]), "it has what it had");
    let old = heartbeat("a1", 1).with_instance_id(Some(text("i")));
    assert_eq!(bed.refused(old), ErrorCode::FencedInstanceId);
    // And back, without waiting for a leave.
    let back = bed.ok(static_join("a2", "i", &["t"]));
    assert_eq!(assigned(&back), Some(set(t, &[0, 1])));
    assert_eq!(leave(&mut bed, &[("", Some("i"))]), [0], "by an admin client");
    bed.reload();
}
