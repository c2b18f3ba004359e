use super::super::assignor::Assignment;
use super::super::config::{GroupConfig, GroupsConfig};
use super::super::records::Key;
use super::super::{Request, Response, Topic};
use super::bed::*;
use super::member::{Current, MemberState, Reconciliation};
use super::subscription::{compile, group_hash, topic_hash};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use kafka_protocol::messages as codec;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;
use uuid::Uuid;

fn text(text: &str) -> Option<StrBytes> {
    Some(StrBytes::from_string(text.to_owned()))
}

fn set(topic: TopicId, partitions: &[i32]) -> Assignment {
    Assignment::from_parts([(topic, partitions.to_vec())])
}

#[test]
fn a_member_joins_and_gets_everything() {
    let mut bed = Bed::new();
    let t = bed.topics.set("t", 3);
    let response = bed.ok(join("a", &["t"]));
    assert_eq!(response.member_id, text("a"));
    assert_eq!((response.member_epoch, response.heartbeat_interval_ms), (1, 5000));
    assert_eq!(assigned(&response), Some(set(t, &[0, 1, 2])));
    assert_eq!(bed.group().state_name(), "Stable");
    // Nothing to say: no assignment, no records.
    let records = bed.log.len();
    let response = bed.ok(heartbeat("a", 1));
    assert_eq!((response.member_epoch, assigned(&response), bed.log.len()), (1, None, records));
    // Everything said: everything answered.
    let mut full = join("a", &["t"]);
    full.member_epoch = 1;
    full.topic_partitions = owned(&set(t, &[0, 1, 2]));
    assert_eq!(assigned(&bed.ok(full)), Some(set(t, &[0, 1, 2])));
    assert_eq!(bed.log.len(), records);
    bed.reload();
}

#[test]
fn version_0_gives_ids() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    let Response::ConsumerGroupHeartbeat(first) = bed.ask(0, Request::ConsumerGroupHeartbeat(join("", &["t"]))) else {
        panic!("another answer")
    };
    assert_eq!(first.error_code, 0);
    assert!(first.member_id.is_some_and(|id| !id.is_empty()));
    assert_eq!(bed.refused(join("", &["t"])), ErrorCode::InvalidRequest, "version 1 has the member make it");
}

#[test]
fn requests_that_say_too_little() {
    let mut bed = Bed::new();
    let long = "x".repeat(40_000);
    for (request, expected) in [
        (join("a", &[]).with_rebalance_timeout_ms(-1), ErrorCode::InvalidRequest),
        (join("a", &[]).with_topic_partitions(None), ErrorCode::InvalidRequest),
        (join("a", &[]).with_topic_partitions(owned(&set(TopicId::default(), &[1]))), ErrorCode::InvalidRequest),
        (join("a", &[]).with_subscribed_topic_names(None), ErrorCode::InvalidRequest),
        (join("a", &[]).with_instance_id(text("")), ErrorCode::InvalidRequest),
        (join("a", &[]).with_rack_id(text("")), ErrorCode::InvalidRequest),
        (join("a", &[]).with_group_id(codec::GroupId::default()), ErrorCode::InvalidRequest),
        (join(&long, &[]), ErrorCode::InvalidRequest),
        (join_regex("a", &long), ErrorCode::InvalidRegularExpression),
        (heartbeat("", 1), ErrorCode::InvalidRequest),
        (heartbeat("a", -2), ErrorCode::InvalidRequest),
        (heartbeat("a", -3), ErrorCode::InvalidRequest),
        (join("a", &[]).with_server_assignor(text("sticky")), ErrorCode::UnsupportedAssignor),
        (heartbeat("a", 1), ErrorCode::GroupIdNotFound),
        (heartbeat("a", -1), ErrorCode::GroupIdNotFound),
    ] {
        assert_eq!(bed.refused(request.clone()), expected, "{request:?}");
    }
    assert!(bed.try_group().is_none());
}

/// Two members, the second of which waits for what the first gives up.
fn two_members(bed: &mut Bed) -> TopicId {
    let t = bed.topics.set("t", 2);
    bed.ok(join("a", &["t"]));
    let joined = bed.ok(join("b", &["t"]));
    assert_eq!((joined.member_epoch, assigned(&joined)), (2, Some(Assignment::EMPTY)));
    assert_eq!(bed.group().state_name(), "Reconciling");
    t
}

#[test]
fn nothing_is_assigned_before_it_is_given_up() {
    let mut bed = Bed::new();
    let t = two_members(&mut bed);
    let told = bed.ok(heartbeat("a", 1));
    assert_eq!((told.member_epoch, assigned(&told)), (1, Some(set(t, &[0]))));
    bed.reload();
    // It has not said that 1 is given up; and b has to wait.
    for owns in [None, owned(&set(t, &[0, 1]))] {
        let told = bed.ok(heartbeat("a", 1).with_topic_partitions(owns));
        assert_eq!((told.member_epoch, assigned(&told)), (1, None));
        assert_eq!(assigned(&bed.ok(heartbeat("b", 2))), None);
    }
    let done = bed.ok(heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0]))));
    assert_eq!((done.member_epoch, assigned(&done)), (2, None));
    bed.reload();
    let got = bed.ok(heartbeat("b", 2));
    assert_eq!((got.member_epoch, assigned(&got)), (2, Some(set(t, &[1]))));
    assert_eq!(bed.group().state_name(), "Stable");
    bed.reload();
}

#[test]
fn a_member_that_leaves_frees_its_partitions() {
    let mut bed = Bed::new();
    let t = two_members(&mut bed);
    let left = bed.ok(heartbeat("a", -1));
    assert_eq!((left.member_epoch, left.heartbeat_interval_ms, assigned(&left)), (-1, 0, None));
    assert_eq!(bed.group().state_name(), "Assigning");
    let got = bed.ok(heartbeat("b", 2));
    assert_eq!((got.member_epoch, assigned(&got)), (3, Some(set(t, &[0, 1]))));
    assert_eq!(bed.refused(heartbeat("a", 2)), ErrorCode::UnknownMemberId);
    assert_eq!(bed.refused(heartbeat("a", -1)), ErrorCode::UnknownMemberId);
    bed.ok(heartbeat("b", -1));
    assert_eq!(bed.group().state_name(), "Empty");
    bed.reload();
    // The group stays, and its epoch goes on.
    assert_eq!(bed.ok(join("c", &["t"])).member_epoch, 5);
}

#[test]
fn epochs_that_are_not_the_members() {
    let mut bed = Bed::new();
    let t = two_members(&mut bed);
    bed.ok(heartbeat("a", 1));
    bed.ok(heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0]))));
    // Epoch 2 now; the answer may have been lost.
    assert_eq!(bed.refused(heartbeat("a", 3)), ErrorCode::FencedMemberEpoch);
    assert_eq!(bed.refused(heartbeat("a", 1)), ErrorCode::FencedMemberEpoch, "it must say what it owns");
    let too_much = heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0, 1])));
    assert_eq!(bed.refused(too_much), ErrorCode::FencedMemberEpoch);
    for _ in 0..2 {
        let again = heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0])));
        assert_eq!(bed.ok(again).member_epoch, 2);
    }
    // Not once another epoch lies between.
    bed.ok(join("c", &["t"]));
    bed.ok(heartbeat("a", 2));
    let again = heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0])));
    assert_eq!(bed.refused(again), ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_member_that_begins_again_is_let_in() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    bed.ok(join("a", &["t"]));
    // The first epoch came from 0: a lost answer.
    assert_eq!(bed.ok(join("a", &["t"])).member_epoch, 1);
    bed.ok(join("a", &["t", "u"]).with_server_assignor(text("range")));
    assert_eq!(bed.group().epoch, 2);
    assert_eq!(bed.ok(join("a", &["t"])).member_epoch, 3);
    assert_eq!(bed.group().members["a"].declared.assignor.as_deref(), Some("range"), "what it does not say stays");
    bed.wait(45_001);
    assert_eq!(bed.ok(join("a", &["t"])).member_epoch, 5);
    bed.reload();
}

#[test]
fn a_session_ends() {
    let mut bed = Bed::new();
    bed.topics.set("t", 2);
    bed.ok(join("a", &["t"]));
    bed.wait(20_000);
    bed.ok(join("b", &["t"]));
    bed.wait(25_000);
    assert!(bed.group().members.contains_key("a") || bed.now.monotonic_ms >= 46_000);
    bed.wait(1);
    assert!(!bed.group().members.contains_key("a"));
    assert_eq!(bed.refused(heartbeat("a", 1)), ErrorCode::UnknownMemberId);
    assert_eq!(bed.ok(heartbeat("b", 2)).member_epoch, 3);
    bed.reload();
    // Sessions begin anew where the log was read.
    bed.wait(44_000);
    assert!(!bed.group().is_empty());
    bed.wait(1_000);
    assert!(bed.group().is_empty());
    bed.reload();
}

#[test]
fn a_group_has_its_own_session_timeout_and_interval() {
    let mut bed = Bed::new();
    let own = GroupConfig { consumer_session_timeout_ms: Some(10_000), consumer_heartbeat_interval_ms: Some(1_000) };
    bed.coordinator.set_group_configs(Arc::new([(Arc::from(GROUP), own)].into()));
    bed.topics.set("t", 2);
    assert_eq!(bed.ok(join("a", &["t"])).heartbeat_interval_ms, 1_000);
    bed.wait(9_999);
    assert!(!bed.group().is_empty());
    bed.wait(1);
    assert!(bed.group().is_empty());
}

#[test]
fn who_does_not_give_up_in_time_is_fenced() {
    for reload in [false, true] {
        let mut bed = Bed::new();
        let t = two_members(&mut bed);
        bed.ok(heartbeat("a", 1));
        if reload {
            bed.reload();
        }
        bed.wait(29_999);
        bed.ok(heartbeat("a", 1));
        bed.wait(1);
        assert!(!bed.group().members.contains_key("a"), "the rebalance timeout");
        assert_eq!(assigned(&bed.ok(heartbeat("b", 2))), Some(set(t, &[0, 1])));
        bed.reload();
    }
}

#[test]
fn who_gives_up_in_time_is_not_fenced() {
    let mut bed = Bed::new();
    let t = two_members(&mut bed);
    bed.ok(heartbeat("a", 1));
    bed.wait(29_000);
    bed.ok(heartbeat("a", 1).with_topic_partitions(owned(&set(t, &[0]))));
    bed.ok(heartbeat("b", 2));
    bed.wait(10_000);
    assert_eq!(bed.group().members.len(), 2);
}

#[test]
fn static_members() {
    let mut bed = Bed::new();
    let t = bed.topics.set("t", 2);
    bed.ok(static_join("a1", "i", &["t"]));
    bed.ok(join("b", &["t"]));
    let with_instance = |member: &str, epoch| heartbeat(member, epoch).with_instance_id(text("i"));
    assert_eq!(bed.refused(static_join("a2", "i", &["t"])), ErrorCode::UnreleasedInstanceId);
    assert_eq!(bed.refused(with_instance("a2", 1)), ErrorCode::FencedInstanceId);
    assert_eq!(bed.refused(with_instance("a2", -2)), ErrorCode::FencedInstanceId);
    assert_eq!(bed.refused(heartbeat("a1", 1).with_instance_id(text("j"))), ErrorCode::UnknownMemberId);
    bed.ok(with_instance("a1", 1));
    bed.ok(with_instance("a1", 1).with_topic_partitions(owned(&set(t, &[0]))));
    bed.ok(heartbeat("b", 2));
    let epoch = bed.group().epoch;

    let left = bed.ok(with_instance("a1", -2));
    assert_eq!((left.member_id, left.member_epoch), (text("a1"), -2));
    bed.reload();
    assert_eq!(bed.group().epoch, epoch, "no rebalance");
    assert_eq!(assigned(&bed.ok(heartbeat("b", 2))), None, "what it has is kept for it");
    assert_eq!(bed.refused(with_instance("a1", 2)), ErrorCode::FencedMemberEpoch);

    let back = bed.ok(static_join("a2", "i", &["t"]));
    assert_eq!((back.member_epoch, assigned(&back)), (epoch, Some(set(t, &[0]))));
    assert_eq!(bed.group().epoch, epoch, "no rebalance");
    bed.reload();
    assert_eq!(bed.refused(with_instance("a1", 2)), ErrorCode::FencedInstanceId);

    // Gone for longer than its session: its place is free.
    bed.ok(with_instance("a2", -2));
    bed.wait(30_000);
    bed.ok(heartbeat("b", 2));
    bed.wait(15_000);
    assert_eq!(assigned(&bed.ok(heartbeat("b", 2))), Some(set(t, &[0, 1])));
    assert_eq!(bed.refused(with_instance("a2", -2)), ErrorCode::UnknownMemberId);
    bed.reload();
}

#[test]
fn a_static_member_that_leaves_for_good() {
    let mut bed = Bed::new();
    bed.topics.set("t", 2);
    bed.ok(static_join("a1", "i", &["t"]));
    assert_eq!(bed.ok(heartbeat("a1", -1).with_instance_id(text("i"))).member_epoch, -1);
    assert!(bed.group().is_empty());
    bed.ok(static_join("a2", "i", &["t"]));
    bed.reload();
}

#[test]
fn a_static_member_that_comes_back_may_subscribe_to_something_else() {
    let mut bed = Bed::new();
    bed.topics.set("t", 2);
    let u = bed.topics.set("u", 1);
    bed.ok(static_join("a1", "i", &["t"]));
    bed.ok(heartbeat("a1", -2).with_instance_id(text("i")));
    let back = bed.ok(static_join("a2", "i", &["u"]));
    assert_eq!((back.member_epoch, assigned(&back)), (2, Some(set(u, &[0]))));
    bed.reload();
}

#[test]
fn no_more_members_than_allowed() {
    let mut bed = Bed::with_config(GroupsConfig { consumer_max_size: 1, ..GroupsConfig::default() });
    bed.topics.set("t", 2);
    bed.ok(join("a", &["t"]));
    assert_eq!(bed.refused(join("b", &["t"])), ErrorCode::GroupMaxSizeReached);
    bed.ok(heartbeat("a", 1));
    bed.ok(heartbeat("a", -1));
    bed.ok(join("b", &["t"]));
}

#[test]
fn topics_that_come_and_grow_and_go() {
    let mut bed = Bed::new();
    let first = bed.ok(join("a", &["t"]));
    assert_eq!((first.member_epoch, assigned(&first)), (1, Some(Assignment::EMPTY)));
    let t = bed.topics.set("t", 1);
    let response = bed.ok(heartbeat("a", 1));
    assert_eq!((response.member_epoch, assigned(&response)), (2, Some(set(t, &[0]))));
    bed.topics.set("other", 9);
    assert_eq!(bed.ok(heartbeat("a", 2)).member_epoch, 2, "a topic of no concern");
    bed.topics.set("t", 2);
    assert_eq!(assigned(&bed.ok(heartbeat("a", 2))), Some(set(t, &[0, 1])));
    bed.reload();
    assert_eq!(bed.ok(heartbeat("a", 3)).member_epoch, 3, "what was read is what there is");
    bed.topics.delete("t");
    let response = bed.ok(heartbeat("a", 3));
    assert_eq!((response.member_epoch, assigned(&response)), (3, Some(Assignment::EMPTY)), "first it gives up");
    assert_eq!(bed.ok(heartbeat("a", 3).with_topic_partitions(Some(Vec::new()))).member_epoch, 4);
    bed.reload();
}

#[test]
fn subscriptions_that_change() {
    let mut bed = Bed::new();
    let (t, u) = (bed.topics.set("t", 1), bed.topics.set("u", 1));
    bed.ok(join("a", &["t"]));
    let other = heartbeat("a", 1).with_subscribed_topic_names(Some(topic_names(&["u"])));
    let response = bed.ok(other);
    assert_eq!((response.member_epoch, assigned(&response)), (1, Some(Assignment::EMPTY)));
    let response = bed.ok(heartbeat("a", 1).with_topic_partitions(Some(Vec::new())));
    assert_eq!((response.member_epoch, assigned(&response)), (2, Some(set(u, &[0]))));
    // Once more while something is to be given up.
    bed.ok(heartbeat("a", 2).with_subscribed_topic_names(Some(topic_names(&["t", "t"]))));
    let response = bed.ok(heartbeat("a", 2).with_subscribed_topic_names(Some(topic_names(&[]))));
    assert_eq!((response.member_epoch, assigned(&response)), (2, None));
    let response = bed.ok(heartbeat("a", 2).with_topic_partitions(Some(Vec::new())));
    assert_eq!(response.member_epoch, 4);
    assert!(!bed.group().is_subscribed("t"));
    let _ = t;
    bed.reload();
}

#[test]
fn regular_expressions() {
    let mut bed = Bed::new();
    let t1 = bed.topics.set("t-1", 1);
    bed.topics.set("other-t-1", 1);
    for bad in ["(", "a)|(b", "[", "(?P<n", "x{100000}{100000}", &"(".repeat(300)] {
        assert_eq!(bed.refused(join_regex("a", bad)), ErrorCode::InvalidRegularExpression, "{bad}");
    }
    let response = bed.ok(join_regex("a", "t-.*"));
    assert_eq!((response.member_epoch, assigned(&response)), (1, Some(set(t1, &[0]))));
    assert!(bed.group().is_subscribed("t-1") && !bed.group().is_subscribed("other-t-1"));
    bed.reload();
    bed.ok(heartbeat("a", 1));

    // A new topic is seen when the last look was long enough ago.
    let t2 = bed.topics.set("t-2", 1);
    assert_eq!(bed.ok(heartbeat("a", 1)).member_epoch, 1);
    bed.wait(10_000);
    let both = Assignment::from_parts([(t1, vec![0]), (t2, vec![0])]);
    assert_eq!(assigned(&bed.ok(heartbeat("a", 1))), Some(both.clone()));
    bed.reload();

    // Names beside an expression; the expression of nobody is forgotten.
    bed.ok(join_regex("b", "none.*"));
    assert_eq!(bed.group().regexes.len(), 2);
    bed.ok(heartbeat("b", 3)
        .with_subscribed_topic_regex(text(""))
        .with_subscribed_topic_names(Some(topic_names(&["t-2"]))));
    assert_eq!(bed.group().regexes.keys().map(|k| &**k).collect::<Vec<_>>(), ["t-.*"]);
    bed.reload();
    bed.ok(heartbeat("a", -1));
    assert!(bed.group().regexes.is_empty());
    bed.reload();
}

#[test]
fn expressions_match_whole_names() {
    for (regex, name, matches) in [
        ("a", "a", true),
        ("a", "ab", false),
        ("a|ab", "ab", true),
        ("b", "ab", false),
        (r"\Qa.b\E.*", "a.b1", true),
        (r"\Qa.b\E", "axb", false),
        (r"\Qa|b", "a|b", true),
        (r"\\Q", r"\Q", true),
        ("(?i)ORDERS", "orders", true),
        ("(?x) a # a comment", "a", true),
        (r"\p{Lu}\d+", "A12", true),
        ("", "", true),
    ] {
        assert_eq!(compile(regex).unwrap().is_match(name), matches, "{regex} on {name}");
    }
}

/// From Kafka's own hash library (hash4j, streaming XXH3).
#[test]
fn hashes_are_kafkas() {
    let rack = |racks: &[&str]| racks.iter().map(|r| Arc::from(*r)).collect::<Vec<Arc<str>>>();
    let topic = |high, low, name: &str, partitions, racks| Topic {
        id: TopicId(Uuid::from_u64_pair(high, low)),
        name: Arc::from(name),
        partitions,
        racks,
    };
    let orders = topic_hash(&topic(0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10, "orders", 3, Vec::new()));
    let zurich = topic_hash(&topic(1, 2, "zürich", 2, vec![rack(&["r2", "r1"]), rack(&["r2"])]));
    assert_eq!(orders, 3_653_115_502_262_934_565);
    assert_eq!(zurich, 6_422_485_181_425_017_797);
    assert_eq!(topic_hash(&topic(1, 2, "big", 200, Vec::new())), 8_388_980_817_277_686_832);
    assert_eq!(group_hash([orders, zurich]), -2_360_939_906_895_530_089);
    assert_eq!(group_hash([]), 0);
}

#[test]
fn the_assignor_of_most_members() {
    let mut bed = Bed::new();
    bed.topics.set("t", 4);
    bed.topics.set("u", 4);
    bed.ok(join("a", &["t", "u"]).with_server_assignor(text("range")));
    let name = |bed: &mut Bed| {
        let id = codec::GroupId(StrBytes::from_static_str(GROUP));
        match bed.ask(1, Request::ConsumerGroupDescribe(id)) {
            Response::ConsumerGroupDescribe(described) => described.assignor_name.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(name(&mut bed), "range");
    bed.ok(join("b", &["t", "u"]).with_server_assignor(text("uniform")));
    assert_eq!(name(&mut bed), "uniform", "the first of the settings among equals");
    bed.ok(join("c", &["t", "u"]).with_server_assignor(text("range")));
    assert_eq!(name(&mut bed), "range");
}

#[test]
fn who_may_commit_and_fetch() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    bed.ok(join("a", &["t"]));
    let group = bed.group();
    for (member, epoch, version, expected) in [
        ("a", 1, 9, Ok(())),
        ("a", 1, 8, Err(ErrorCode::UnsupportedVersion)),
        ("a", 0, 9, Err(ErrorCode::StaleMemberEpoch)),
        ("a", 2, 9, Err(ErrorCode::StaleMemberEpoch)),
        ("b", 1, 9, Err(ErrorCode::UnknownMemberId)),
        ("", -1, 9, Err(ErrorCode::UnknownMemberId)),
    ] {
        assert_eq!(group.validate_offset_commit(member, None, epoch, version), expected, "{member} {epoch}");
    }
    assert_eq!(group.validate_offset_fetch(None, -1), Ok(()));
    assert_eq!(group.validate_offset_fetch(Some("a"), 1), Ok(()));
    assert_eq!(group.validate_offset_fetch(Some("a"), 0), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(group.validate_offset_fetch(Some("b"), 1), Err(ErrorCode::UnknownMemberId));
    bed.ok(heartbeat("a", -1));
    assert_eq!(bed.group().validate_offset_commit("", None, -1, 2), Ok(()), "an admin client, nobody there");
}

#[test]
fn described() {
    let mut bed = Bed::new();
    let t = two_members(&mut bed);
    let id = codec::GroupId(StrBytes::from_static_str(GROUP));
    let Response::ConsumerGroupDescribe(described) = bed.ask(1, Request::ConsumerGroupDescribe(id)) else {
        panic!("another answer")
    };
    assert_eq!(&*described.group_state, "Reconciling");
    assert_eq!((described.group_epoch, described.assignment_epoch), (2, 2));
    let [a, b] = &described.members[..] else { panic!("two members") };
    assert_eq!((&*a.member_id, a.member_epoch, a.member_type), ("a", 1, 1));
    assert_eq!((&*a.client_id, &*a.client_host), ("client", "/127.0.0.1"));
    assert_eq!(a.subscribed_topic_names, topic_names(&["t"]));
    assert_eq!(a.assignment.topic_partitions[0].partitions, [0, 1]);
    assert_eq!(a.target_assignment.topic_partitions[0].partitions, [0]);
    assert_eq!(
        (a.assignment.topic_partitions[0].topic_id, &*a.assignment.topic_partitions[0].topic_name.0),
        (t.0, "t")
    );
    assert!(b.assignment.topic_partitions.is_empty());
    assert_eq!(b.target_assignment.topic_partitions[0].partitions, [1]);
}

#[test]
fn a_group_is_deleted_without_a_trace() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    bed.ok(join_regex("a", "t"));
    let id = || codec::GroupId(StrBytes::from_static_str(GROUP));
    let delete = |bed: &mut Bed| match bed.ask(2, Request::DeleteGroup(id())) {
        Response::DeleteGroup(result) => result.error_code,
        other => panic!("{other:?}"),
    };
    assert_eq!(delete(&mut bed), ErrorCode::NonEmptyGroup as i16);
    bed.ok(heartbeat("a", -1));
    assert_eq!(delete(&mut bed), 0);
    assert!(bed.try_group().is_none());
    bed.reload();
    let mut live = std::collections::BTreeMap::new();
    for record in &bed.log {
        live.insert(record.key.clone(), record.value.is_some());
    }
    assert!(live.values().all(|value| !value), "every key ends in a tombstone");
    assert_eq!(bed.ok(join("a", &["t"])).member_epoch, 1);
}

#[test]
fn what_an_older_broker_wrote_is_taken_away() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    bed.ok(join("a", &["t"]));
    let key = Key::ConsumerGroupPartitionMetadata { group: Arc::from(GROUP) };
    bed.coordinator.replay(&key.encode(), Some(b"\0\0\x01\0")).unwrap();
    bed.topics.set("t", 2);
    bed.ok(heartbeat("a", 1));
    assert!(bed.log.contains(&key.tombstone()));
}

#[test]
fn a_state_of_a_newer_broker_begins_again() {
    let mut bed = Bed::new();
    bed.topics.set("t", 1);
    bed.ok(join("a", &["t"]));
    let key = Key::ConsumerGroupCurrentMemberAssignment { group: Arc::from(GROUP), member: Arc::from("a") };
    let mut value = Current { epoch: 1, previous_epoch: 1, ..Current::default() }.to_record();
    value.state = 77;
    bed.log.push(key.with(value.encode()));
    bed.coordinator.replay(&key.encode(), Some(&value.encode())).unwrap();
    assert_eq!(bed.refused(heartbeat("a", 1)), ErrorCode::FencedMemberEpoch);
    assert_eq!(bed.ok(heartbeat("a", 1).with_topic_partitions(Some(Vec::new()))).member_epoch, 1);
    assert_eq!(bed.group().state_name(), "Stable");
}

/// The example of [`Reconciliation::next`].
#[test]
fn one_step_at_a_time() {
    let t = TopicId(Uuid::from_u128(1));
    let free = std::cell::Cell::new(false);
    let reconcile = |now: &Current, owned: Option<&Assignment>| {
        Reconciliation {
            target_epoch: 5,
            target: &set(t, &[0, 7]),
            subscribed: &[t],
            owned,
            subscription_changed: false,
            is_free: &|_, partition| partition != 7 || free.get(),
        }
        .next(now)
    };
    let start = Current { epoch: 3, previous_epoch: 2, assigned: set(t, &[0, 1, 2]), ..Current::default() };
    let first = reconcile(&start, None);
    let state = MemberState::UnrevokedPartitions;
    assert_eq!(
        first,
        Current { epoch: 3, previous_epoch: 2, state, assigned: set(t, &[0]), revoking: set(t, &[1, 2]) }
    );
    assert_eq!(reconcile(&first, None), first);
    assert_eq!(reconcile(&first, Some(&set(t, &[0, 2]))), first);
    let second = reconcile(&first, Some(&set(t, &[0])));
    let state = MemberState::UnreleasedPartitions;
    let assigned = set(t, &[0]);
    assert_eq!(second, Current { epoch: 5, previous_epoch: 3, state, assigned, revoking: Assignment::EMPTY });
    assert_eq!(reconcile(&second, None), second, "the epoch before is not forgotten while it waits");
    free.set(true);
    let state = MemberState::Stable;
    let assigned = set(t, &[0, 7]);
    assert_eq!(reconcile(&second, None), Current { state, assigned, ..second });
}
