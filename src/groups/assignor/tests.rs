use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use uuid::Uuid;

fn topic_id(n: usize) -> TopicId {
    TopicId(Uuid::from_u128(n as u128 + 1))
}

fn topic(n: usize, partitions: i32, racks: &[&[&str]]) -> (TopicId, Topic) {
    let racks = racks.iter().map(|r| r.iter().map(|r| Arc::from(*r)).collect()).collect();
    (topic_id(n), Topic { id: topic_id(n), name: Arc::from(format!("t{n}")), partitions, racks })
}

/// A group of owned members, to make the borrowed ones from.
#[derive(Clone, Debug, Default)]
struct Group {
    members: BTreeMap<String, Owned>,
    topics: BTreeMap<TopicId, Topic>,
}

#[derive(Clone, Debug, Default)]
struct Owned {
    instance: Option<String>,
    rack: Option<String>,
    topics: Vec<TopicId>,
    target: Assignment,
}

impl Group {
    fn new(topics: impl IntoIterator<Item = (TopicId, Topic)>) -> Self {
        Self { members: BTreeMap::new(), topics: topics.into_iter().collect() }
    }

    fn join(&mut self, id: &str, topics: impl IntoIterator<Item = usize>) -> &mut Owned {
        let topics: BTreeSet<TopicId> = topics.into_iter().map(topic_id).collect();
        let member = Owned { topics: topics.into_iter().collect(), ..Owned::default() };
        self.members.entry(id.to_owned()).insert_entry(member).into_mut()
    }

    fn view(&self) -> Vec<Member<'_>> {
        self.members
            .iter()
            .map(|(id, m)| Member {
                id,
                instance: m.instance.as_deref(),
                rack: m.rack.as_deref(),
                topics: &m.topics,
                target: &m.target,
            })
            .collect()
    }

    /// Assigns, checks what always holds, takes over the result; gives how many partitions changed hands that had a living owner.
    fn assign(&mut self, assignor: Assignor) -> usize {
        let view = self.view();
        let assigned = assignor.assign(&view, &self.topics);
        assert_eq!(assigned, assignor.assign(&view, &self.topics), "the same input gives the same output");
        let owners: BTreeMap<(TopicId, i32), &String> =
            self.members.iter().flat_map(|(id, m)| m.target.pairs().map(move |p| (p, id))).collect();
        let mut seen = BTreeSet::new();
        let mut moved = 0;
        for ((id, member), assignment) in self.members.iter().zip(&assigned) {
            for (topic, partition) in assignment.pairs() {
                assert!(member.topics.contains(&topic), "{id} does not subscribe to {topic}");
                assert!((0..self.topics[&topic].partitions).contains(&partition));
                assert!(seen.insert((topic, partition)), "{topic}-{partition} twice");
                moved += usize::from(owners.get(&(topic, partition)).is_some_and(|owner| *owner != id));
            }
        }
        let subscribed: BTreeSet<TopicId> = self.members.values().flat_map(|m| m.topics.iter().copied()).collect();
        let wanted: usize =
            subscribed.iter().filter_map(|t| self.topics.get(t)).map(|t| t.partitions.try_into().unwrap_or(0)).sum();
        assert_eq!(seen.len(), wanted, "every partition of a subscribed topic is assigned");
        for (member, assignment) in self.members.values_mut().zip(assigned) {
            member.target = assignment;
        }
        moved
    }

    fn loads(&self) -> Vec<usize> {
        self.members.values().map(|m| m.target.len()).collect()
    }

    /// The fewest moves between members that balance within one takes, everybody subscribing to everything.
    fn moves_needed(&self) -> usize {
        let exists = |t: TopicId, p: i32| self.topics.get(&t).is_some_and(|topic| p < topic.partitions);
        let held: Vec<usize> = self.members.values().map(|m| m.target.filter(exists).len()).collect();
        let total: usize = self.topics.values().map(|t| usize::try_from(t.partitions).unwrap()).sum();
        let (floor, extra) = (total / held.len(), total % held.len());
        let above: usize = held.iter().map(|h| h.saturating_sub(floor + 1)).sum();
        let with_extra = held.iter().filter(|h| **h > floor).count();
        above + with_extra.saturating_sub(extra)
    }
}

#[test]
fn names_are_kafkas() {
    assert_eq!(Assignor::from_name("uniform"), Some(Assignor::Uniform));
    assert_eq!(Assignor::from_name("range"), Some(Assignor::Range));
    assert_eq!(Assignor::from_name("Range"), None);
}

#[test]
fn nobody_and_nothing() {
    for assignor in Assignor::ALL {
        assert!(assignor.assign(&[], &BTreeMap::new()).is_empty());
        let mut group = Group::default();
        group.join("a", [1]);
        assert_eq!(group.assign(*assignor), 0, "a topic that does not exist");
        assert_eq!(group.loads(), [0]);
    }
}

#[test]
fn range_gives_consecutive_partitions_of_each_topic() {
    let mut group = Group::new([topic(0, 3, &[]), topic(1, 5, &[])]);
    group.join("b", [0, 1]);
    group.join("a", [0, 1]);
    group.assign(Assignor::Range);
    assert_eq!(
        group.members["a"].target,
        Assignment::from_parts([(topic_id(0), vec![0, 1]), (topic_id(1), vec![0, 1, 2])])
    );
    assert_eq!(group.members["b"].target, Assignment::from_parts([(topic_id(0), vec![2]), (topic_id(1), vec![3, 4])]));
}

#[test]
fn range_orders_static_members_by_instance_and_first() {
    let mut group = Group::new([topic(0, 3, &[])]);
    group.join("a", [0]);
    group.join("b", [0]).instance = Some("z".to_owned());
    group.join("c", [0]).instance = Some("y".to_owned());
    group.assign(Assignor::Range);
    let of = |group: &Group, id: &str| group.members[id].target.of(topic_id(0)).to_vec();
    assert_eq!([of(&group, "c"), of(&group, "b"), of(&group, "a")], [vec![0], vec![1], vec![2]]);
    // Back under another member id: the same place.
    let back = group.members.remove("c").unwrap();
    group.members.insert("zz".to_owned(), back);
    group.assign(Assignor::Range);
    assert_eq!(of(&group, "zz"), [0]);
}

#[test]
fn range_with_more_members_than_partitions() {
    let mut group = Group::new([topic(0, 2, &[])]);
    for id in ["a", "b", "c"] {
        group.join(id, [0]);
    }
    group.assign(Assignor::Range);
    assert_eq!(group.loads(), [1, 1, 0]);
}

#[test]
fn uniform_moves_only_what_a_new_member_needs() {
    let mut group = Group::new([topic(0, 6, &[]), topic(1, 6, &[])]);
    group.join("a", [0, 1]);
    group.assign(Assignor::Uniform);
    group.join("b", [0, 1]);
    assert_eq!(group.assign(Assignor::Uniform), 6);
    group.join("c", [0, 1]);
    assert_eq!(group.assign(Assignor::Uniform), 4);
    assert_eq!(group.loads(), [4, 4, 4]);
    group.members.remove("b");
    assert_eq!(group.assign(Assignor::Uniform), 0, "what the others have stays where it is");
    assert_eq!(group.loads(), [6, 6]);
}

#[test]
fn uniform_gives_partitions_of_both_topics_to_a_new_member() {
    let mut group = Group::new([topic(0, 6, &[]), topic(1, 6, &[])]);
    group.join("a", [0, 1]);
    group.assign(Assignor::Uniform);
    group.join("b", [0, 1]);
    group.assign(Assignor::Uniform);
    for member in group.members.values() {
        assert_eq!((member.target.of(topic_id(0)).len(), member.target.of(topic_id(1)).len()), (3, 3));
    }
}

#[test]
fn uniform_with_different_subscriptions() {
    let mut group = Group::new([topic(0, 4, &[]), topic(1, 4, &[]), topic(2, 1, &[])]);
    group.join("a", [0]);
    group.join("b", [0, 1]);
    group.join("c", [1, 2]);
    group.assign(Assignor::Uniform);
    assert_eq!(group.loads(), [3, 3, 3]);
    // Nobody but c may have topic 2.
    assert_eq!(group.members["c"].target.of(topic_id(2)), [0]);
}

#[test]
fn uniform_prefers_members_near_a_replica() {
    let racks: &[&[&str]] = &[&["r1"], &["r1"], &["r1"], &["r2"], &["r2"], &["r2"], &["r3"], &["r3"], &["r3"]];
    let mut group = Group::new([topic(0, 9, racks)]);
    for (id, rack) in [("a", "r1"), ("b", "r2"), ("c", "r3")] {
        group.join(id, [0]).rack = Some(rack.to_owned());
    }
    group.assign(Assignor::Uniform);
    assert_eq!(group.members["a"].target.of(topic_id(0)), [0, 1, 2]);
    assert_eq!(group.members["b"].target.of(topic_id(0)), [3, 4, 5]);
    assert_eq!(group.members["c"].target.of(topic_id(0)), [6, 7, 8]);
    // Alone in one rack, it takes everything; one that comes gets what is near to it.
    let mut group = Group::new([topic(0, 4, &[&["r2"], &["r1"], &["r2"], &["r1"]])]);
    group.join("a", [0]).rack = Some("r1".to_owned());
    group.assign(Assignor::Uniform);
    group.join("b", [0]).rack = Some("r2".to_owned());
    assert_eq!(group.assign(Assignor::Uniform), 2);
    assert_eq!(group.members["b"].target.of(topic_id(0)), [0, 2]);
}

#[test]
fn bad_targets_are_left_out() {
    let mut group = Group::new([topic(0, 2, &[])]);
    let claim = Assignment::from_parts([(topic_id(0), vec![-1, 0, 1, 7]), (topic_id(9), vec![0])]);
    group.join("a", [0]).target = claim.clone();
    group.join("b", [0]).target = claim;
    let assigned = Assignor::Uniform.assign(&group.view(), &group.topics);
    assert_eq!(assigned.iter().map(Assignment::len).collect::<Vec<_>>(), [1, 1]);
}

/// What happens to a group between assignments.
#[derive(Clone, Debug)]
enum Change {
    Join { id: u8, topics: Vec<usize>, rack: Option<u8>, fixed: bool },
    Leave(u8),
    Topic { n: usize, partitions: i32, racks: bool },
    Delete(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..12_u8, vec(0..5_usize, 0..5), proptest::option::of(0..3_u8), any::<bool>())
            .prop_map(|(id, topics, rack, fixed)| Change::Join { id, topics, rack, fixed }),
        2 => (0..12_u8).prop_map(Change::Leave),
        2 => (0..5_usize, 0..20_i32, any::<bool>()).prop_map(|(n, partitions, racks)| Change::Topic { n, partitions, racks }),
        1 => (0..5_usize).prop_map(Change::Delete),
    ]
}

fn apply(group: &mut Group, change: &Change, all_topics: bool) {
    match change {
        Change::Join { id, topics, rack, fixed } => {
            let topics: BTreeSet<TopicId> =
                if all_topics { (0..5).map(topic_id).collect() } else { topics.iter().map(|t| topic_id(*t)).collect() };
            let member = group.members.entry(format!("m{id}")).or_default();
            member.topics = topics.into_iter().collect();
            member.rack = rack.map(|r| format!("r{r}"));
            member.instance = fixed.then(|| format!("i{}", 255 - id));
        }
        Change::Leave(id) => {
            group.members.remove(&format!("m{id}"));
        }
        Change::Topic { n, partitions, racks } => {
            let (id, mut made) = topic(*n, *partitions, &[]);
            if *racks {
                made.racks = (0..*partitions).map(|p| vec![Arc::from(format!("r{}", p % 3))]).collect();
            }
            group.topics.insert(id, made);
        }
        Change::Delete(n) => {
            group.topics.remove(&topic_id(*n));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn everything_once_to_a_subscriber(changes in vec(vec(change(), 1..5), 1..10)) {
        for assignor in Assignor::ALL {
            let mut group = Group::default();
            for step in &changes {
                step.iter().for_each(|c| apply(&mut group, c, false));
                group.assign(*assignor);
            }
        }
    }

    #[test]
    fn equal_subscriptions_are_even_and_move_the_least(changes in vec(vec(change(), 1..5), 1..10)) {
        let mut group = Group::default();
        for step in &changes {
            step.iter().for_each(|c| apply(&mut group, c, true));
            if group.members.is_empty() {
                continue;
            }
            let needed = group.moves_needed();
            let moved = group.assign(Assignor::Uniform);
            prop_assert_eq!(moved, needed);
            let loads = group.loads();
            prop_assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{:?}", loads);
            prop_assert_eq!(group.assign(Assignor::Uniform), 0, "an even division stays");
        }
    }

    #[test]
    fn different_subscriptions_leave_no_single_move_that_helps(changes in vec(vec(change(), 1..5), 1..10)) {
        let mut group = Group::default();
        for step in &changes {
            step.iter().for_each(|c| apply(&mut group, c, false));
            group.assign(Assignor::Uniform);
            for giver in group.members.values() {
                for taker in group.members.values() {
                    let helps = giver.target.topics().any(|(t, _)| taker.topics.contains(&t))
                        && giver.target.len() > taker.target.len() + 1;
                    prop_assert!(!helps, "{:?}", group.loads());
                }
            }
            prop_assert_eq!(group.assign(Assignor::Uniform), 0, "an even division stays");
        }
    }
}
