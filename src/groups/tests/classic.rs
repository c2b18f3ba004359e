//! The classic protocol, rule by rule.

use super::harness::*;
use crate::groups::config::GroupsConfig;

const NONE: i16 = 0;
const ILLEGAL_GENERATION: i16 = 22;
const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const INVALID_GROUP_ID: i16 = 24;
const UNKNOWN_MEMBER_ID: i16 = 25;
const INVALID_SESSION_TIMEOUT: i16 = 26;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const GROUP_MAX_SIZE_REACHED: i16 = 81;

#[test]
fn an_id_is_required_from_version_4() {
    let mut world = World::new();
    for (version, expected) in [(3, None), (4, Some(MEMBER_ID_REQUIRED)), (9, Some(MEMBER_ID_REQUIRED))] {
        let token = world.join(&join("").version(version));
        match expected {
            None => assert!(world.waits(token), "version {version}"),
            Some(code) => {
                let response = world.joined(token);
                assert_eq!(response.error_code, code, "version {version}");
                assert!(response.member_id.starts_with("client-"), "{}", &*response.member_id);
                assert_eq!(response.generation_id, -1);
            }
        }
    }
}

#[test]
fn the_first_generation_waits_for_members_to_come() {
    let mut world = World::new();
    let (first, one) = world.join_with_id(join(""));
    world.pass(2999);
    assert_eq!(world.state(), "PreparingRebalance");
    let (second, two) = world.join_with_id(join(""));
    world.pass(1);
    assert!(world.waits(one), "someone new came: another delay");
    world.pass(3000);
    let (one, two) = (world.joined(one), world.joined(two));
    assert_eq!((one.generation_id, two.generation_id), (1, 1));
    assert_eq!((&*one.leader, &*two.leader), (&*first, &*first));
    let mut seen: Vec<&str> = one.members.iter().map(|member| &*member.member_id).collect();
    let mut expected = vec![first.as_str(), second.as_str()];
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected, "the leader is told who is there");
    assert!(two.members.is_empty(), "the others are not");
    assert_eq!(one.protocol_name.as_deref(), Some("range"));
    assert_eq!(one.protocol_type.as_deref(), Some("consumer"));
    assert_eq!(world.state(), "CompletingRebalance");
}

#[test]
fn the_first_delay_ends_with_the_rebalance_timeout() {
    let mut world = World::new();
    let patient = Join { rebalance_ms: 5000, ..join("") };
    let (_, one) = world.join_with_id(patient.clone());
    for _ in 0..4 {
        world.pass(1000);
        world.join_with_id(patient.clone());
    }
    world.pass(1000);
    assert!(!world.waits(one), "3 s and the 2 s that were left");
}

#[test]
fn followers_wait_for_the_leaders_assignment() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join(""), join("")]);
    assert_eq!(generation, 1);
    for id in &ids {
        let token = world.sync(sync(id, 1, &[]));
        assert_eq!(world.synced(token), (NONE, id.clone().into()), "and may ask for it again");
        assert_eq!(world.heartbeat(id, None, 1), NONE);
    }
}

#[test]
fn a_member_that_the_leader_forgot_has_nothing() {
    let mut world = World::new();
    let (id, one) = world.join_with_id(join(""));
    world.pass(3000);
    world.joined(one);
    let token = world.sync(sync(&id, 1, &[("someone else", b"x")]));
    assert_eq!(world.synced(token), (NONE, Default::default()));
}

#[test]
fn what_is_refused_before_the_group_is_asked() {
    let mut world = World::new();
    for (session_ms, expected) in [(5999, INVALID_SESSION_TIMEOUT), (1_800_001, INVALID_SESSION_TIMEOUT)] {
        let token = world.join(&Join { session_ms, ..join("") });
        assert_eq!(world.joined(token).error_code, expected, "{session_ms}");
    }
    let request = join("").request().with_group_id(group_id(""));
    let token = world.ask(9, crate::groups::Request::JoinGroup(request));
    assert_eq!(world.joined(token).error_code, INVALID_GROUP_ID);
    let token = world.join(&join("nobody"));
    assert_eq!(world.joined(token).error_code, UNKNOWN_MEMBER_ID, "an id, and no such group");
    assert_eq!(world.state(), "Dead");
    assert_eq!(world.heartbeat("nobody", None, 1), UNKNOWN_MEMBER_ID);
    let token = world.sync(sync("nobody", 1, &[]));
    assert_eq!(world.synced(token).0, UNKNOWN_MEMBER_ID);
    assert_eq!(world.leave(&[("nobody", None)]), [UNKNOWN_MEMBER_ID]);
}

#[test]
fn protocols_must_have_one_in_common() {
    let mut world = World::new();
    let (_, one) = world.join_with_id(join("").protocols(&["sticky", "range"]));
    let token = world.join(&join("").protocols(&["roundrobin"]));
    assert_eq!(world.joined(token).error_code, INCONSISTENT_GROUP_PROTOCOL);
    let token = world.join(&Join { protocol_type: "connect", ..join("") });
    assert_eq!(world.joined(token).error_code, INCONSISTENT_GROUP_PROTOCOL);
    let token = world.join(&Join { protocols: Vec::new(), ..join("") });
    assert_eq!(world.joined(token).error_code, INCONSISTENT_GROUP_PROTOCOL);
    // Two prefer range, one sticky.
    let (_, two) = world.join_with_id(join("").protocols(&["range", "sticky"]));
    let (_, three) = world.join_with_id(join("").protocols(&["range", "roundrobin", "sticky"]));
    world.pass(6000);
    for token in [one, two, three] {
        assert_eq!(world.joined(token).protocol_name.as_deref(), Some("range"));
    }
}

#[test]
fn sync_and_heartbeat_say_what_is_wrong() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let mut sync_code = |request| {
        let token = world.sync(request);
        world.synced(token).0
    };
    assert_eq!(sync_code(sync(&ids[0], generation + 1, &[])), ILLEGAL_GENERATION);
    assert_eq!(sync_code(sync("nobody", generation, &[])), UNKNOWN_MEMBER_ID);
    let other = sync(&ids[0], generation, &[]).with_protocol_name(Some(text("sticky")));
    assert_eq!(sync_code(other), INCONSISTENT_GROUP_PROTOCOL);
    let other = sync(&ids[0], generation, &[]).with_protocol_type(Some(text("connect")));
    assert_eq!(sync_code(other), INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(world.heartbeat(&ids[0], None, generation - 1), ILLEGAL_GENERATION);
    assert_eq!(world.heartbeat("nobody", None, generation), UNKNOWN_MEMBER_ID);
}

#[test]
fn a_rebalance_is_told_by_heartbeats_and_ends_when_all_are_back() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let (_, third) = world.join_with_id(join(""));
    assert_eq!(world.state(), "PreparingRebalance");
    for id in &ids {
        assert_eq!(world.heartbeat(id, None, generation), REBALANCE_IN_PROGRESS);
        let token = world.sync(sync(id, generation, &[]));
        assert_eq!(world.synced(token).0, REBALANCE_IN_PROGRESS);
    }
    let one = world.join(&join(&ids[0]));
    assert!(world.waits(one));
    let two = world.join(&join(&ids[1]));
    for token in [one, two, third] {
        assert_eq!(world.joined(token).generation_id, generation + 1, "at once");
    }
}

#[test]
fn who_does_not_come_back_in_time_is_out() {
    let mut world = World::new();
    let short = Join { rebalance_ms: 8000, session_ms: 100_000, ..join("") };
    let (ids, generation) = world.stable(vec![short.clone(), short.clone()]);
    let two =
        world.join(&Join { member: ids[1].clone(), protocols: vec![("range", subscription(&["t", "u"]))], ..short });
    world.pass(7999);
    assert!(world.waits(two));
    world.pass(1);
    let response = world.joined(two);
    assert_eq!(response.generation_id, generation + 1);
    assert_eq!(&*response.leader, ids[1], "the leader is one who came");
    assert_eq!(response.members.len(), 1);
    assert_eq!(world.heartbeat(&ids[0], None, generation), UNKNOWN_MEMBER_ID);
}

#[test]
fn a_silent_member_is_out_after_its_session_and_the_rest_rebalance() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    world.pass(9000);
    assert_eq!(world.heartbeat(&ids[0], None, generation), NONE);
    world.pass(1000);
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.heartbeat(&ids[1], None, generation), UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&ids[0], None, generation), REBALANCE_IN_PROGRESS);
    world.pass(9999);
    assert_eq!(world.state(), "PreparingRebalance");
    world.pass(1);
    assert_eq!(world.state(), "Empty", "and then the other");
    world.crash();
    assert_eq!(world.state(), "Empty");
}

#[test]
fn a_pending_member_is_forgotten_after_its_session() {
    let mut world = World::new();
    let (id, one) = world.join_with_id(join(""));
    world.pass(3000);
    world.joined(one);
    let token = world.join(&join(""));
    let pending = world.joined(token).member_id.to_string();
    let again = world.join(&Join { protocols: vec![("range", subscription(&["u"]))], ..join(&id) });
    assert!(world.waits(again), "one who was given an id is waited for");
    world.pass(10_000);
    assert_eq!(world.joined(again).generation_id, 2);
    let token = world.join(&join(&pending));
    assert_eq!(world.joined(token).error_code, UNKNOWN_MEMBER_ID);
}

#[test]
fn who_joins_and_never_syncs_is_out() {
    let mut world = World::new();
    let (one, first) = world.join_with_id(Join { session_ms: 100_000, ..join("") });
    let (two, second) = world.join_with_id(Join { session_ms: 100_000, ..join("") });
    world.pass(6000);
    world.joined(first);
    world.joined(second);
    let token = world.sync(sync(&one, 1, &[(&one, b"all")]));
    assert_eq!(world.synced(token).0, NONE);
    world.pass(59_999);
    assert_eq!(world.state(), "Stable");
    world.pass(1);
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.heartbeat(&two, None, 1), UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&one, None, 1), REBALANCE_IN_PROGRESS);
}

#[test]
fn one_that_waits_is_excused_but_not_for_ever_if_it_is_new() {
    let mut world = World::new();
    let long = Join { rebalance_ms: 1_000_000, session_ms: 1_000_000, ..join("") };
    let (ids, generation) = world.stable(vec![long.clone(), long.clone()]);
    let short = Join { rebalance_ms: 1_000_000, session_ms: 10_000, ..join("") };
    let rejoin =
        world.join(&Join { member: ids[1].clone(), protocols: vec![("range", subscription(&["u"]))], ..short.clone() });
    let (_, new) = world.join_with_id(short);
    world.pass(299_999);
    assert!(world.waits(rejoin) && world.waits(new));
    world.pass(1);
    assert_eq!(world.joined(new).error_code, UNKNOWN_MEMBER_ID, "a new one has five minutes");
    assert!(world.waits(rejoin), "an old one the rebalance's time");
    let token = world.join(&Join { member: ids[0].clone(), ..long });
    assert_eq!(world.joined(token).generation_id, generation + 1);
    assert_eq!(world.joined(rejoin).generation_id, generation + 1);
}

#[test]
fn joins_that_change_nothing_change_nothing() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let token = world.join(&join(&ids[1]));
    let response = world.joined(token);
    assert_eq!((response.error_code, response.generation_id), (NONE, generation), "a follower's");
    assert_eq!(world.state(), "Stable");
    let token = world.join(&join(&ids[0]));
    assert!(world.waits(token), "a leader wants to assign anew");
    assert_eq!(world.state(), "PreparingRebalance");
    let two = world.join(&join(&ids[1]));
    let one = world.joined(token);
    assert_eq!(one.members.len(), 2);
    world.joined(two);
    // Answers lost: the same again, in the same generation.
    let token = world.join(&join(&ids[0]));
    let again = world.joined(token);
    assert_eq!((again.generation_id, again.members.len()), (generation + 1, 2));
    let token = world.join(&join(&ids[1]));
    assert_eq!(world.joined(token).members.len(), 0);
}

#[test]
fn whoever_asks_again_takes_the_place_of_its_older_request() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let changed = Join { protocols: vec![("range", subscription(&["u"]))], ..join(&ids[1]) };
    let older = world.join(&changed);
    let newer = world.join(&changed);
    assert_eq!(world.joined(older).error_code, REBALANCE_IN_PROGRESS);
    let leader = world.join(&join(&ids[0]));
    world.joined(leader);
    assert_eq!(world.joined(newer).generation_id, generation + 1);
    let older = world.sync(sync(&ids[1], generation + 1, &[]));
    let newer = world.sync(sync(&ids[1], generation + 1, &[]));
    assert_eq!(world.synced(older).0, REBALANCE_IN_PROGRESS);
    assert!(world.waits(newer));
}

#[test]
fn a_change_while_members_sync_sends_them_back() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join(""), join("")]);
    let tokens = [world.join(&join(&ids[0])), world.join(&join(&ids[1])), world.join(&join(&ids[2]))];
    for token in tokens {
        assert_eq!(world.joined(token).generation_id, generation + 1);
    }
    let waiting = world.sync(sync(&ids[1], generation + 1, &[]));
    assert_eq!(world.leave(&[(&ids[2], None)]), [NONE]);
    assert_eq!(world.synced(waiting).0, REBALANCE_IN_PROGRESS);
    assert_eq!(world.state(), "PreparingRebalance");
    assert_eq!(world.commit(8, commit(&ids[1], generation + 1, &[("t", 0, 1)])), [NONE], "and may commit meanwhile");
}

#[test]
fn who_is_removed_while_it_waits_is_told() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let tokens = [world.join(&join(&ids[0])), world.join(&join(&ids[1]))];
    for token in tokens {
        world.joined(token);
    }
    let waiting = world.sync(sync(&ids[1], generation + 1, &[]));
    assert_eq!(world.leave(&[(&ids[1], None)]), [NONE]);
    assert_eq!(world.synced(waiting).0, UNKNOWN_MEMBER_ID);
    let (new, _) = world.join_with_id(join(""));
    assert_eq!(world.leave(&[(&new, None)]), [NONE]);
    let waiting = world.join(&join(&ids[0]));
    assert_eq!(world.joined(waiting).generation_id, generation + 2);
}

#[test]
fn members_leave_in_batches_and_cause_one_rebalance() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join(""), join("")]);
    let codes = world.leave(&[(&ids[1], None), ("nobody", None), (&ids[2], None), ("", Some("i"))]);
    assert_eq!(codes, [NONE, UNKNOWN_MEMBER_ID, NONE, UNKNOWN_MEMBER_ID]);
    assert_eq!(world.state(), "PreparingRebalance");
    let token = world.join(&join(&ids[0]));
    assert_eq!(world.joined(token).generation_id, generation + 1);
    assert_eq!(world.leave(&[(&ids[0], None)]), [NONE]);
    assert_eq!(world.state(), "Empty");
    world.crash();
    let described = world.describe();
    assert_eq!((&*described.group_state, &*described.protocol_type), ("Empty", "consumer"));
}

#[test]
fn before_version_3_one_member_leaves() {
    use crate::groups::{Request, Response};
    let mut world = World::new();
    let (ids, _) = world.stable(vec![join("")]);
    for expected in [NONE, UNKNOWN_MEMBER_ID] {
        let request = kafka_protocol::messages::LeaveGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(&ids[0]));
        let Response::LeaveGroup(response) = world.other(1, Request::LeaveGroup(request)) else { panic!("a leave") };
        assert_eq!((response.error_code, response.members.len()), (expected, 0));
    }
}

#[test]
fn a_full_group_takes_no_more() {
    let mut world = World::with(GroupsConfig { max_size: 2, ..GroupsConfig::default() });
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let token = world.join(&join(""));
    let response = world.joined(token);
    assert_eq!((response.error_code, &*response.member_id), (GROUP_MAX_SIZE_REACHED, ""));
    assert_eq!(world.state(), "Stable");
    // Three that came before the limit was lowered: who comes last finds no room.
    world.coordinator.set_config(GroupsConfig { max_size: 1, ..GroupsConfig::default() });
    let token = world.join(&join(&ids[0]));
    assert!(world.waits(token));
    let late = world.join(&join(&ids[1]));
    assert_eq!(world.joined(late).error_code, GROUP_MAX_SIZE_REACHED);
    world.pass(60_000);
    let response = world.joined(token);
    assert_eq!((response.generation_id, response.members.len()), (generation + 1, 1));
}

#[test]
fn members_live_through_a_crash_of_the_coordinator() {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join(""), join("")]);
    let before = world.describe();
    world.crash();
    assert_eq!(world.describe(), before);
    for id in &ids {
        assert_eq!(world.heartbeat(id, None, generation), NONE);
        let token = world.sync(sync(id, generation, &[]));
        assert_eq!(world.synced(token), (NONE, id.clone().into()));
    }
    world.pass(10_000);
    assert_eq!(world.state(), "Empty", "their sessions began anew, and end");
}

#[test]
fn ids_are_not_given_out_without_end() {
    let mut world = World::new();
    let mut codes = std::collections::BTreeMap::new();
    for _ in 0..12_000 {
        let token = world.join(&join(""));
        *codes.entry(world.joined(token).error_code).or_insert(0) += 1;
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [(14, 2_000), (MEMBER_ID_REQUIRED, 10_000)]);
    world.pass(10_000);
    let token = world.join(&join(""));
    assert_eq!(world.joined(token).error_code, MEMBER_ID_REQUIRED, "ten seconds later");
}

#[test]
fn five_hundred_members_come_back() {
    let mut world = World::new();
    let (ids, generation) = world.stable((0..500).map(|_| Join { session_ms: 1_800_000, ..join("") }).collect());
    let tokens: Vec<_> = ids.iter().map(|id| world.join(&Join { session_ms: 1_800_000, ..join(id) })).collect();
    for token in tokens {
        assert_eq!(world.joined(token).generation_id, generation + 1, "all with the last");
    }
}

#[test]
fn an_idle_member_is_small() {
    use crate::groups::classic::Member;
    use crate::groups::timers::Timer;
    // Itself in a tree that is half full, its id and instance id with their counts, its timer in a queue that is half full.
    let text = 2 * (16 + 64);
    let bytes = 2 * size_of::<Member>() + 2 * (size_of::<Timer>() + 16) + 4 * text;
    assert!(bytes <= 2048, "{bytes}");
}
