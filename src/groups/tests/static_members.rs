//! Static members (KIP-345, KIP-814).

use super::harness::*;
use crate::groups::config::GroupsConfig;

const UNKNOWN_MEMBER_ID: i16 = 25;
const FENCED_INSTANCE_ID: i16 = 82;

fn three() -> (World, Vec<String>, i32) {
    let mut world = World::new();
    let (ids, generation) = world.stable(vec![join("").instance("a"), join("").instance("b"), join("").instance("c")]);
    (world, ids, generation)
}

#[test]
fn a_restart_takes_the_assignment_over_without_a_rebalance() {
    let (mut world, ids, generation) = three();
    assert!(ids[1].starts_with("b-"));
    let token = world.join(&join("").instance("b"));
    let response = world.joined(token);
    assert_eq!((response.error_code, response.generation_id), (0, generation));
    assert_ne!(&*response.member_id, ids[1]);
    assert_eq!(&*response.leader, ids[0]);
    assert_eq!(world.state(), "Stable");
    let new = response.member_id.to_string();
    for _ in 0..2 {
        let token = world.sync(sync(&new, generation, &[]).with_group_instance_id(Some(text("b"))));
        assert_eq!(world.synced(token), (0, ids[1].clone().into()), "what its older self had");
        assert_eq!(world.heartbeat(&new, Some("b"), generation), 0);
        assert_eq!(world.heartbeat(&ids[1], Some("b"), generation), FENCED_INSTANCE_ID);
        assert_eq!(world.heartbeat(&ids[1], None, generation), UNKNOWN_MEMBER_ID);
        let old = commit(&ids[1], generation, &[("t", 0, 1)]).with_group_instance_id(Some(text("b")));
        assert_eq!(world.commit(8, old), [FENCED_INSTANCE_ID]);
        let before = world.describe();
        world.crash();
        assert_eq!(world.describe(), before, "the new id is written down");
    }
}

#[test]
fn a_leader_that_comes_back_is_told_not_to_assign() {
    let (mut world, ids, generation) = three();
    let token = world.join(&join("").instance("a").version(9));
    let response = world.joined(token);
    assert_eq!((response.error_code, response.generation_id), (0, generation));
    assert!(response.skip_assignment);
    assert_eq!(response.leader, response.member_id);
    assert_eq!(response.members.len(), 3);
    let new = response.member_id.to_string();
    let token = world.join(&join("").instance("a").version(8));
    let response = world.joined(token);
    assert_eq!(&*response.leader, new, "an older client is told that it does not lead");
    assert!(!response.skip_assignment && response.members.is_empty());
    assert_ne!(ids[0], new);
}

#[test]
fn a_restart_with_another_protocol_rebalances() {
    let (mut world, ids, generation) = three();
    let token = world.join(&join("").instance("b").protocols(&["sticky", "range"]));
    assert_eq!(world.joined(token).generation_id, generation, "range is still what all support");
    let mut world = World::new();
    let (ids2, generation) = world.stable(vec![join("").instance("a").protocols(&["range", "sticky"])]);
    let token = world.join(&join("").instance("a").protocols(&["sticky"]));
    let response = world.joined(token);
    assert_eq!(response.protocol_name.as_deref(), Some("sticky"));
    assert_eq!(response.generation_id, generation + 1);
    assert_ne!((ids, ids2), Default::default());
}

#[test]
fn a_member_that_went_without_leaving_is_waited_for() {
    let (mut world, ids, generation) = three();
    let token = world.join(&Join { protocols: vec![("range", subscription(&["u"]))], ..join(&ids[0]).instance("a") });
    world.pass(9_000);
    for (id, instance) in [(&ids[1], "b"), (&ids[2], "c")] {
        assert_eq!(world.heartbeat(id, Some(instance), generation), 27);
    }
    assert!(world.waits(token));
    let two = world.join(&join(&ids[1]).instance("b"));
    world.pass(51_000);
    let response = world.joined(token);
    assert_eq!(response.members.len(), 2, "until its session ends");
    assert_eq!(world.joined(two).generation_id, generation + 1);
}

#[test]
fn what_the_older_self_waits_for_is_fenced() {
    let mut world = World::new();
    let first = world.join(&join("").instance("a"));
    let second = world.join(&join("").instance("a"));
    assert_eq!(world.joined(first).error_code, FENCED_INSTANCE_ID);
    world.pass(3000);
    let one = world.joined(second);
    let token = world.sync(sync(&one.member_id, 1, &[(&one.member_id, b"x")]));
    assert_eq!(world.synced(token).0, 0);
    let (ids, generation) = ([one.member_id.to_string()], 1);
    // While the others sync.
    let (other, wait) = world.join_with_id(join(""));
    let leader = world.join(&join(&ids[0]).instance("a"));
    world.joined(leader);
    world.joined(wait);
    let wait = world.sync(sync(&other, generation + 1, &[]));
    let token = world.join(&join("").instance("a"));
    assert_eq!(world.synced(wait).0, 27, "the leader is someone new: once more");
    assert!(world.waits(token));
    assert_eq!(world.state(), "PreparingRebalance");
}

#[test]
fn an_unknown_instance_or_a_wrong_id_is_told_so() {
    let (mut world, ids, generation) = three();
    assert_eq!(world.heartbeat(&ids[0], Some("nobody"), generation), UNKNOWN_MEMBER_ID);
    assert_eq!(world.heartbeat(&ids[0], Some("b"), generation), FENCED_INSTANCE_ID);
    let token = world.join(&join(&ids[0]).instance("b"));
    assert_eq!(world.joined(token).error_code, FENCED_INSTANCE_ID);
    let token = world.sync(sync(&ids[0], generation, &[]).with_group_instance_id(Some(text("b"))));
    assert_eq!(world.synced(token).0, FENCED_INSTANCE_ID);
    let codes = world.leave(&[(&ids[0], Some("b")), ("", Some("b")), (&ids[2], Some("c")), ("", Some("b"))]);
    assert_eq!(codes, [FENCED_INSTANCE_ID, 0, 0, UNKNOWN_MEMBER_ID]);
}

#[test]
fn a_group_of_static_members_that_are_all_away_waits_for_their_sessions() {
    let mut world = World::with(GroupsConfig::default());
    let long = Join { session_ms: 120_000, rebalance_ms: 10_000, ..join("").instance("a") };
    let (ids, generation) = world.stable(vec![long.clone(), Join { instance: Some("b".into()), ..long.clone() }]);
    assert_eq!(world.leave(&[(&ids[0], Some("a"))]), [0]);
    world.pass(60_000);
    assert_eq!(world.state(), "PreparingRebalance");
    let token = world.join(&Join { instance: Some("b".into()), ..long });
    let response = world.joined(token);
    assert_eq!((response.generation_id, response.members.len()), (generation + 1, 1));
}
