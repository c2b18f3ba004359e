//! Describe, list, delete.

use super::harness::*;
use crate::groups::{Request, Response};

const NON_EMPTY_GROUP: i16 = 68;
const GROUP_ID_NOT_FOUND: i16 = 69;

#[test]
fn a_group_is_described() {
    let mut world = World::new();
    let (ids, _) = world.stable(vec![join("").instance("i"), join("")]);
    let described = world.describe();
    assert_eq!((&*described.group_state, &*described.protocol_type), ("Stable", "consumer"));
    assert_eq!(&*described.protocol_data, "range");
    let member = described.members.iter().find(|member| *member.member_id == ids[0]).expect("the member");
    assert_eq!(member.group_instance_id.as_deref(), Some("i"));
    assert_eq!((&*member.client_id, &*member.client_host), ("client", "/127.0.0.1"));
    assert_eq!(member.member_metadata, subscription(&["t"]));
    assert_eq!(member.member_assignment, ids[0].as_bytes());
    world.join_with_id(join(""));
    let described = world.describe();
    assert_eq!((&*described.group_state, &*described.protocol_data), ("PreparingRebalance", ""));
    assert!(described.members.iter().all(|member| member.member_metadata.is_empty()));
}

#[test]
fn a_group_that_is_not_there_is_dead_or_an_error() {
    let mut world = World::new();
    for (version, expected) in [(5, 0), (6, GROUP_ID_NOT_FOUND)] {
        let Response::DescribeGroup(described) = world.other(version, Request::DescribeGroup(group_id(GROUP))) else {
            panic!("a description")
        };
        assert_eq!((&*described.group_state, described.error_code), ("Dead", expected));
        assert_eq!(described.error_message.is_some(), version == 6);
    }
}

#[test]
fn groups_are_listed_by_state_and_type() {
    let mut world = World::new();
    world.stable(vec![join("")]);
    let all = vec![["group", "Stable", "classic", "consumer"].map(str::to_owned)];
    for (states, types, listed) in [
        (vec![], vec![], true),
        (vec!["Stable"], vec![], true),
        (vec!["stable", "Empty"], vec!["classic"], true),
        (vec!["Empty"], vec![], false),
        (vec![], vec!["consumer"], false),
        (vec!["nonsense"], vec![], false),
    ] {
        let expected = if listed { all.clone() } else { Vec::new() };
        assert_eq!(world.list(&states, &types), expected, "{states:?} {types:?}");
    }
}

#[test]
fn an_empty_group_is_deleted_with_its_offsets() {
    let mut world = World::new();
    assert_eq!(world.delete_group(), GROUP_ID_NOT_FOUND);
    let (ids, generation) = world.stable(vec![join("")]);
    world.commit(8, commit(&ids[0], generation, &[("t", 0, 1)]));
    assert_eq!(world.delete_group(), NON_EMPTY_GROUP);
    world.leave(&[(&ids[0], None)]);
    assert_eq!(world.delete_group(), 0);
    for _ in 0..2 {
        assert_eq!(world.state(), "Dead");
        assert!(world.offsets().is_empty());
        world.crash();
    }
    let tombstones = world.log.iter().filter(|record| record.value.is_none()).count();
    assert_eq!(tombstones, 2);
}
