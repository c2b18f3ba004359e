//! The uniform assignor: as even as subscriptions allow, over all topics together, and as little moved as that takes.
//!
//! Topics with the same subscribers are one *class*; where all members subscribe to the same topics there is one class.
//! Three passes, each over the classes from the one with the fewest subscribers:
//! 1. Everybody keeps what they had, as far as it still exists and they still subscribe to it.
//! 2. What nobody has goes to the least loaded subscribers; where racks are known, to a subscriber in a rack with a replica
//!    as long as that one stays at or under the level that all are filled up to.
//! 3. While a member has two or more above another of the same class, one partition moves from the most to the least
//!    loaded. Every move is one that balance needs: for one class the number of moves is the least there is.

use super::{Assignment, Member};
use crate::groups::Topic;
use crate::ids::TopicId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Rounds over the classes in the third pass. Every round but the last makes the division more even, so it ends by itself; the bound
/// is for subscriptions made to be slow. What is left is a valid assignment that could be more even.
const ROUNDS_MAX: usize = 32;

/// Topics with the same subscribers.
struct Class {
    /// Ascending.
    topics: Vec<TopicId>,
    /// Indexes of members, ascending.
    subscribers: Vec<usize>,
}

/// Where a partition is, and where it came from.
struct Held<'a> {
    topic: TopicId,
    partition: i32,
    /// The racks that hold replicas; none where no racks count.
    racks: &'a [Arc<str>],
    class: u32,
    /// The topic's place among the topics of its class.
    place: u32,
    /// Had before, by the same member.
    kept: bool,
}

struct Division<'a> {
    members: &'a [Member<'a>],
    topics: &'a BTreeMap<TopicId, Topic>,
    /// What each member has; its length is the member's load.
    held: Vec<Vec<Held<'a>>>,
    racks: bool,
}

pub(super) fn assign(members: &[Member<'_>], topics: &BTreeMap<TopicId, Topic>) -> Vec<Assignment> {
    let classes = classes(members, topics);
    let racks = members.iter().any(|m| m.rack.is_some()) && topics.values().any(|t| !t.racks.is_empty());
    let mut division = Division { members, topics, held: members.iter().map(|_| Vec::new()).collect(), racks };
    let free = division.keep(&classes);
    for (class, free) in classes.iter().zip(free) {
        division.give(&class.subscribers, free);
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for (index, class) in (0..).zip(&classes) {
            moved |= division.even_out(index, class);
        }
        if !moved {
            break;
        }
    }
    let assignment = |held: &Vec<Held<'_>>| Assignment::from_pairs(held.iter().map(|h| (h.topic, h.partition)));
    division.held.iter().map(assignment).collect()
}

/// The classes, those with the fewest subscribers first.
fn classes(members: &[Member<'_>], topics: &BTreeMap<TopicId, Topic>) -> Vec<Class> {
    // Members with equal subscriptions are handled as one, or 500 members of 1,000 topics would be 500,000 steps.
    let mut by_subscription: BTreeMap<&[TopicId], Vec<usize>> = BTreeMap::new();
    for (i, member) in members.iter().enumerate() {
        by_subscription.entry(member.topics).or_default().push(i);
    }
    let mut subscriptions_of: BTreeMap<TopicId, Vec<usize>> = BTreeMap::new();
    for (s, subscribed) in by_subscription.keys().enumerate() {
        for topic in subscribed.iter().filter(|t| topics.contains_key(t)) {
            subscriptions_of.entry(*topic).or_default().push(s);
        }
    }
    let mut by_subscribers: BTreeMap<Vec<usize>, Vec<TopicId>> = BTreeMap::new();
    for (topic, subscriptions) in subscriptions_of {
        by_subscribers.entry(subscriptions).or_default().push(topic);
    }
    let groups: Vec<&Vec<usize>> = by_subscription.values().collect();
    let mut classes: Vec<Class> = by_subscribers
        .into_iter()
        .map(|(subscriptions, topics)| {
            let mut subscribers: Vec<usize> = subscriptions.iter().flat_map(|s| groups[*s].iter().copied()).collect();
            subscribers.sort_unstable();
            Class { topics, subscribers }
        })
        .collect();
    classes.sort_by_key(|c| (c.subscribers.len(), c.topics.first().copied()));
    classes
}

/// A topic in the first pass.
struct Taken<'a> {
    class: u32,
    place: u32,
    /// By partition.
    racks: &'a [Vec<Arc<str>>],
    /// Whether somebody has it, by partition.
    partitions: Vec<bool>,
}

impl<'a> Taken<'a> {
    fn held(&self, topic: TopicId, partition: i32, kept: bool) -> Held<'a> {
        let racks = usize::try_from(partition).ok().and_then(|p| self.racks.get(p)).map_or(&[][..], Vec::as_slice);
        Held { topic, partition, racks, class: self.class, place: self.place, kept }
    }
}

impl<'a> Division<'a> {
    /// The first pass. Gives what is free of each class.
    fn keep(&mut self, classes: &[Class]) -> Vec<Vec<Held<'a>>> {
        let mut all: BTreeMap<TopicId, Taken<'a>> = BTreeMap::new();
        for (class, of_class) in (0..).zip(classes) {
            for (place, topic) in (0..).zip(&of_class.topics) {
                let topic = &self.topics[topic];
                let racks = if self.racks { &topic.racks[..] } else { &[] };
                let partitions = vec![false; usize::try_from(topic.partitions).unwrap_or(0)];
                all.insert(topic.id, Taken { class, place, racks, partitions });
            }
        }
        for (held, member) in self.held.iter_mut().zip(self.members) {
            for (topic, partitions) in member.target.topics() {
                if member.topics.binary_search(&topic).is_err() {
                    continue;
                }
                let Some(of_topic) = all.get_mut(&topic) else { continue };
                for partition in partitions.iter().copied() {
                    let taken = usize::try_from(partition).ok().and_then(|p| of_topic.partitions.get_mut(p));
                    if taken.is_some_and(|taken| !std::mem::replace(taken, true)) {
                        held.push(of_topic.held(topic, partition, true));
                    }
                }
            }
        }
        let mut free: Vec<Vec<Held<'_>>> = classes.iter().map(|_| Vec::new()).collect();
        for (topic, of_topic) in &all {
            let left = (0..).zip(&of_topic.partitions).filter(|(_, taken)| !**taken);
            free[of_topic.class as usize].extend(left.map(|(partition, _)| of_topic.held(*topic, partition, false)));
        }
        free
    }

    /// The second pass, for one class.
    fn give(&mut self, subscribers: &[usize], free: Vec<Held<'a>>) {
        let mut left = Vec::with_capacity(free.len());
        if self.racks {
            let level = self.level(subscribers, free.len());
            for partition in free {
                let near = subscribers
                    .iter()
                    .copied()
                    .filter(|m| self.held[*m].len() < level && self.is_near(*m, &partition))
                    .min_by_key(|m| self.held[*m].len());
                match near {
                    Some(member) => self.held[member].push(partition),
                    None => left.push(partition),
                }
            }
        } else {
            left = free;
        }
        let mut loads: BTreeSet<(usize, usize)> = subscribers.iter().map(|m| (self.held[*m].len(), *m)).collect();
        for partition in left {
            let (_, member) = loads.pop_first().expect("a class has subscribers");
            self.held[member].push(partition);
            loads.insert((self.held[member].len(), member));
        }
    }

    /// The load that every subscriber reaches when `count` more are given to the least loaded, one after the other.
    fn level(&self, subscribers: &[usize], count: usize) -> usize {
        let mut loads: Vec<usize> = subscribers.iter().map(|m| self.held[*m].len()).collect();
        loads.sort_unstable();
        let (mut total, mut level) = (count, 0);
        for (i, load) in loads.iter().enumerate() {
            // The first i subscribers and what there is to give, evenly: enough to reach this one?
            if i > 0 && total / i <= *load {
                break;
            }
            total += load;
            level = total / (i + 1);
        }
        level
    }

    /// Whether the member is in a rack with a replica of the partition.
    fn is_near(&self, member: usize, held: &Held<'_>) -> bool {
        self.members[member].rack.is_some_and(|rack| held.racks.iter().any(|r| &**r == rack))
    }

    /// The third pass, for one class: whether anything moved.
    fn even_out(&mut self, index: u32, class: &Class) -> bool {
        let mut all: BTreeSet<(usize, usize)> = class.subscribers.iter().map(|m| (self.held[*m].len(), *m)).collect();
        let has_some = |m: usize| self.held[m].iter().any(|h| h.class == index);
        let mut givers: BTreeSet<(usize, usize)> = all.iter().copied().filter(|(_, m)| has_some(*m)).collect();
        let mut counts: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
        let mut moved = false;
        while let (Some((most, giver)), Some((least, taker))) = (givers.last().copied(), all.first().copied()) {
            if most < least + 2 {
                break;
            }
            let of_giver = counts.entry(giver).or_insert_with(|| self.count_topics(giver, index, class));
            let at = self.choose(giver, taker, index, of_giver);
            let mut partition = self.held[giver].swap_remove(at);
            of_giver[partition.place as usize] -= 1;
            let has_more = of_giver.iter().any(|count| *count > 0);
            if let Some(of_taker) = counts.get_mut(&taker) {
                of_taker[partition.place as usize] += 1;
            }
            partition.kept = self.members[taker].target.contains(partition.topic, partition.partition);
            self.held[taker].push(partition);
            moved = true;
            all.remove(&(most, giver));
            all.remove(&(least, taker));
            givers.remove(&(most, giver));
            givers.remove(&(least, taker));
            all.extend([(most - 1, giver), (least + 1, taker)]);
            givers.insert((least + 1, taker));
            if has_more {
                givers.insert((most - 1, giver));
            }
        }
        moved
    }

    /// How many partitions of each topic of the class a member has.
    fn count_topics(&self, member: usize, index: u32, class: &Class) -> Vec<u32> {
        let mut counts = vec![0; class.topics.len()];
        for held in self.held[member].iter().filter(|h| h.class == index) {
            counts[held.place as usize] += 1;
        }
        counts
    }

    /// Which of its partitions a member gives away: one that it has only just been given, one that the taker had, one
    /// that is nearer to the taker, one of the topic that it has most of, the last.
    fn choose(&self, giver: usize, taker: usize, class: u32, counts: &[u32]) -> usize {
        let of_class = self.held[giver].iter().enumerate().filter(|(_, h)| h.class == class);
        let best = of_class.max_by_key(|(_, h)| {
            let returns = !h.kept && self.members[taker].target.contains(h.topic, h.partition);
            let near = |m| self.racks && self.is_near(m, h);
            let nearness = i32::from(near(taker)) - i32::from(near(giver));
            (!h.kept, returns, nearness, counts[h.place as usize], Reverse(h.place), h.partition)
        });
        best.expect("a giver has a partition of the class").0
    }
}
