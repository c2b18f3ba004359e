//! Committed offsets, rule by rule.

use super::harness::*;
use crate::groups::config::GroupsConfig;
use crate::groups::{Request, Topics};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::{OffsetDeleteRequest, TopicName};

const OFFSET_METADATA_TOO_LARGE: i16 = 12;
const ILLEGAL_GENERATION: i16 = 22;
const UNKNOWN_MEMBER_ID: i16 = 25;
const REBALANCE_IN_PROGRESS: i16 = 27;
const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;
const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;

const MINUTE: i64 = 60_000;
const WEEK: i64 = 10_080 * MINUTE;
const CHECK: i64 = 600_000;

fn offset(topic: &str, partition: i32, offset: i64) -> (String, i32, i64) {
    (topic.to_owned(), partition, offset)
}

#[test]
fn without_members_offsets_are_kept_under_a_name() {
    let mut world = World::new();
    assert_eq!(world.commit(8, commit("", -1, &[("t", 0, 5), ("t", 1, 6), ("u", 0, 7)])), [0, 0, 0]);
    assert_eq!(world.commit(8, commit("", -1, &[("t", 0, 3)])), [0], "backwards, if the client says so");
    let expected = [offset("t", 0, 3), offset("t", 1, 6), offset("u", 0, 7)];
    assert_eq!(world.offsets(), expected);
    assert_eq!(world.state(), "Empty");
    assert_eq!(world.list(&[], &[]), [["group", "Empty", "classic", ""].map(str::to_owned)]);
    world.crash();
    assert_eq!(world.offsets(), expected);
    assert_eq!(world.state(), "Empty");
}

#[test]
fn a_fetch_names_partitions_or_takes_all() {
    let mut world = World::new();
    let asked = |name: &str, partitions: &[i32]| {
        OffsetFetchRequestTopics::default().with_name(TopicName(text(name))).with_partition_indexes(partitions.to_vec())
    };
    let request = OffsetFetchRequestGroup::default().with_topics(Some(vec![asked("t", &[0, 1])]));
    let nothing = world.fetch(request.clone());
    assert_eq!(nothing.error_code, 0, "a group that is not there has no offsets");
    assert!(nothing.topics[0].partitions.iter().all(|one| one.committed_offset == -1 && one.error_code == 0));
    world.commit(8, commit("", -1, &[("t", 1, 6)]));
    let partitions = &world.fetch(request).topics[0].partitions;
    let seen = partitions.iter().map(|one| (one.partition_index, one.committed_offset, one.metadata.as_deref()));
    assert_eq!(seen.collect::<Vec<_>>(), [(0, -1, Some("")), (1, 6, Some("m"))]);
}

#[test]
fn members_commit_in_their_generation() {
    let mut world = World::new();
    // (version, member, generation) without a group.
    assert_eq!(world.commit(8, commit("x", 1, &[("t", 0, 1)])), [ILLEGAL_GENERATION]);
    assert_eq!(world.commit(9, commit("x", 1, &[("t", 0, 1)])), [GROUP_ID_NOT_FOUND]);
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    for (member, epoch, expected) in [
        (ids[0].as_str(), generation, 0),
        (&ids[0], generation - 1, ILLEGAL_GENERATION),
        (&ids[0], generation + 1, ILLEGAL_GENERATION),
        (&ids[0], -1, ILLEGAL_GENERATION),
        ("nobody", generation, UNKNOWN_MEMBER_ID),
        ("", generation, UNKNOWN_MEMBER_ID),
        ("", -1, UNKNOWN_MEMBER_ID),
    ] {
        assert_eq!(world.commit(8, commit(member, epoch, &[("t", 0, 9)])), [expected], "{member} {epoch}");
    }
    assert_eq!(world.offsets(), [offset("t", 0, 9)]);
    let tokens = [world.join(&join(&ids[0])), world.join(&join(&ids[1]))];
    for token in tokens {
        world.joined(token);
    }
    let late = commit(&ids[1], generation + 1, &[("t", 0, 10)]);
    assert_eq!(world.commit(8, late), [REBALANCE_IN_PROGRESS], "between join and sync");
    let zombie = commit(&ids[1], generation, &[("t", 0, 10)]);
    assert_eq!(world.commit(8, zombie), [ILLEGAL_GENERATION]);
    assert_eq!(world.offsets(), [offset("t", 0, 9)]);
}

#[test]
fn an_offset_of_an_older_topic_is_not_an_offset_of_the_newer() {
    let mut world = World::new();
    world.commit(8, commit("", -1, &[("t", 0, 1)]));
    let id = SomeTopics.id_of("t").expect("a topic").0;
    for (asked, expected) in [(Default::default(), 1), (id, 1), (uuid::Uuid::from_u128(7), -1)] {
        let topic = OffsetFetchRequestTopics::default()
            .with_name(TopicName(text("t")))
            .with_topic_id(asked)
            .with_partition_indexes(vec![0]);
        let response = world.fetch(OffsetFetchRequestGroup::default().with_topics(Some(vec![topic])));
        assert_eq!(response.topics[0].partitions[0].committed_offset, expected, "{asked}");
    }
}

#[test]
fn a_commit_keeps_a_session_alive() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join("")]);
    for at in 0..5 {
        world.pass(8000);
        assert_eq!(world.commit(8, commit(&ids[0], generation, &[("t", 0, at)])), [0]);
    }
}

#[test]
fn long_metadata_is_refused_by_partition() {
    let mut world = World::with(GroupsConfig { offset_metadata_max_bytes: 3, ..GroupsConfig::default() });
    let mut request = commit("", -1, &[("t", 0, 1), ("t", 1, 1)]);
    request.topics[0].partitions[0].committed_metadata = Some(text("four"));
    assert_eq!(world.commit(8, request), [OFFSET_METADATA_TOO_LARGE, 0]);
    assert_eq!(world.offsets(), [offset("t", 1, 1)]);
    let mut request = commit("", -1, &[("t", 1, 2)]);
    request.topics[0].partitions[0].committed_metadata = Some(text("ééé"));
    assert_eq!(world.commit(8, request), [0], "three units of UTF-16");
    let mut request = commit("", -1, &[("t", 2, 1)]);
    request.topics[0].partitions[0].committed_metadata = None;
    assert_eq!(world.commit(8, request), [0]);
}

#[test]
fn offsets_under_a_name_expire_a_week_after_their_commit() {
    let mut world = World::new();
    world.commit(8, commit("", -1, &[("t", 0, 1)]));
    world.pass(WEEK - MINUTE);
    world.commit(8, commit("", -1, &[("t", 1, 1)]));
    world.pass(CHECK + MINUTE);
    assert_eq!(world.offsets(), [offset("t", 1, 1)]);
    world.pass(WEEK);
    assert_eq!(world.list(&[], &[]), Vec::<[String; 4]>::new(), "and the group goes with the last");
    world.crash();
    assert_eq!(world.list(&[], &[]), Vec::<[String; 4]>::new());
}

#[test]
fn offsets_of_members_stay_and_those_of_an_empty_group_count_from_its_end() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![Join { session_ms: 1_800_000, ..join("") }]);
    world.commit(8, commit(&ids[0], generation, &[("t", 0, 1), ("u", 0, 1)]));
    for _ in 0..WEEK / (20 * MINUTE) + 2 {
        world.pass(20 * MINUTE);
        assert_eq!(world.heartbeat(&ids[0], None, generation), 0);
    }
    assert_eq!(world.offsets(), [offset("t", 0, 1)], "nobody is subscribed to u");
    world.leave(&[(&ids[0], None)]);
    world.crash();
    world.pass(WEEK - MINUTE);
    assert_eq!(world.offsets(), [offset("t", 0, 1)], "a week from now, not from the commit");
    world.pass(CHECK + MINUTE);
    assert!(world.offsets().is_empty());
    assert_eq!(world.state(), "Dead");
}

#[test]
fn a_client_of_old_may_say_how_long() {
    let mut world = World::new();
    world.commit(2, commit("", -1, &[("t", 0, 1)]).with_retention_time_ms(30 * MINUTE));
    world.crash();
    world.pass(29 * MINUTE);
    assert_eq!(world.offsets().len(), 1);
    world.pass(MINUTE + CHECK);
    assert!(world.offsets().is_empty());
}

#[test]
fn offsets_are_deleted_where_nobody_is_subscribed() {
    let mut world = World::new();
    assert_eq!(world.delete_offsets("t", &[0]).0, GROUP_ID_NOT_FOUND);
    let (ids, generation) = world.stable(vec![join("")]);
    world.commit(8, commit(&ids[0], generation, &[("t", 0, 1), ("u", 0, 1), ("u", 1, 1)]));
    assert_eq!(world.delete_offsets("t", &[0]), (0, vec![GROUP_SUBSCRIBED_TO_TOPIC]));
    assert_eq!(world.delete_offsets("u", &[0, 7]), (0, vec![0, 0]));
    assert_eq!(world.offsets(), [offset("t", 0, 1), offset("u", 1, 1)]);
    world.crash();
    assert_eq!(world.offsets(), [offset("t", 0, 1), offset("u", 1, 1)]);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.delete_offsets("t", &[0]), (0, vec![0]));
    let Some(crate::groups::Response::OffsetDelete(response)) = ({
        let token = world.ask(0, Request::OffsetDelete(OffsetDeleteRequest::default()));
        world.take(token)
    }) else {
        panic!("an answer")
    };
    assert_eq!(response.error_code, 24, "INVALID_GROUP_ID");
}

#[test]
fn of_other_kinds_of_groups_none_are_deleted_while_there_are_members() {
    let mut world = World::new();
    let (id, token) = world.join_with_id(Join { protocol_type: "connect", ..join("") });
    world.pass(3000);
    world.joined(token);
    assert_eq!(world.delete_offsets("t", &[0]).0, NON_EMPTY_GROUP);
    world.leave(&[(&id, None)]);
    assert_eq!(world.delete_offsets("t", &[0]).0, 0);
}

#[test]
fn offsets_go_with_their_topic_unless_it_came_back() {
    let mut world = World::new();
    let old = SomeTopics.id_of("t").expect("a topic");
    world.commit(8, commit("", -1, &[("t", 0, 1), ("tt", 0, 1)]));
    world.deleted("t", old);
    assert_eq!(world.offsets(), [offset("tt", 0, 1)]);
    world.deleted("tt", old);
    assert_eq!(world.offsets(), [offset("tt", 0, 1)], "another topic of that name");
    world.crash();
    assert_eq!(world.offsets(), [offset("tt", 0, 1)]);
}

/// Many offsets, and one in a group of its own before and after them.
fn many() -> World {
    let mut world = World::new();
    for (group, partitions) in [("a", 0..1), ("b", 0..9000), ("c", 0..4500), ("d", 0..1)] {
        for partition in partitions {
            let request = commit("", -1, &[("t", partition, 1)]).with_group_id(group_id(group));
            world.commit(8, request);
        }
    }
    world.most_records = 0;
    world
}

#[test]
fn what_expires_goes_in_batches() {
    let mut world = many();
    let written = world.log.len();
    world.pass(WEEK + CHECK);
    assert!(world.list(&[], &[]).is_empty());
    assert_eq!(world.log.len(), written + 13_502 + 4, "every offset, and every group");
    assert!(world.most_records <= 4000, "{}", world.most_records);
}

#[test]
fn what_a_deleted_topic_leaves_goes_in_batches() {
    let mut world = many();
    let written = world.log.len();
    world.deleted("u", SomeTopics.id_of("t").expect("a topic"));
    assert_eq!(world.log.len(), written);
    world.deleted("t", SomeTopics.id_of("t").expect("a topic"));
    world.deleted("x", SomeTopics.id_of("t").expect("a topic"));
    assert_eq!(world.log.len(), written + 4000);
    world.pass(10);
    assert_eq!(world.log.len(), written + 13_502);
    assert_eq!(world.list(&[], &[]).len(), 4, "groups stay until their time");
}

#[test]
fn a_jump_of_the_wall_clock_ends_no_session_and_takes_no_offset_of_a_member() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![Join { session_ms: 1_800_000, ..join("") }]);
    world.commit(8, commit(&ids[0], generation, &[("t", 0, 1)]));
    for (jump, next) in [(60 * WEEK, 2), (-120 * WEEK, 3), (60 * WEEK, 4)] {
        world.now.wall_ms += jump;
        world.pass(20 * MINUTE);
        assert_eq!(world.heartbeat(&ids[0], None, generation), 0);
        assert_eq!(world.offsets(), [offset("t", 0, next - 1)]);
        assert_eq!(world.commit(8, commit(&ids[0], generation, &[("t", 0, next)])), [0]);
        world.crash();
        assert_eq!(world.offsets(), [offset("t", 0, next)]);
        assert_eq!(world.heartbeat(&ids[0], None, generation), 0, "its session begins anew");
    }
    // The clock went back while the group was empty: its week is not over early.
    world.leave(&[(&ids[0], None)]);
    world.now.wall_ms -= 60 * WEEK;
    world.pass(WEEK);
    assert_eq!(world.offsets(), [offset("t", 0, 4)]);
}
