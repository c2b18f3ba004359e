//! The range assignor: each topic cut into consecutive pieces, one a subscriber, in one order of members for all
//! topics, so that equal partitions of equally divided topics meet at one member. Static members come first, by instance
//! id: they keep their place when they come back under another member id.

use super::{Assignment, Member};
use crate::groups::Topic;
use crate::ids::TopicId;
use std::collections::BTreeMap;

/// A topic while it is divided.
struct Divided {
    id: TopicId,
    partitions: i32,
    subscribers: i32,
    /// Subscribers that have their piece already.
    served: i32,
}

pub(super) fn assign(members: &[Member<'_>], topics: &BTreeMap<TopicId, Topic>) -> Vec<Assignment> {
    let mut divided: Vec<Divided> = topics
        .values()
        .map(|t| Divided { id: t.id, partitions: t.partitions.max(0), subscribers: 0, served: 0 })
        .collect();
    // Topics are looked up once for each different subscription, not once for each member.
    let mut places: BTreeMap<&[TopicId], Vec<usize>> = BTreeMap::new();
    for member in members {
        let of_member = places.entry(member.topics).or_insert_with(|| {
            let known = |topic: &TopicId| divided.binary_search_by_key(topic, |d| d.id).ok();
            member.topics.iter().filter_map(known).collect()
        });
        for place in of_member {
            divided[*place].subscribers += 1;
        }
    }
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by_key(|i| {
        let member = &members[*i];
        (member.instance.is_none(), member.instance.unwrap_or(member.id), member.id)
    });
    let mut assigned = vec![Assignment::EMPTY; members.len()];
    for i in order {
        let mut pieces = Vec::new();
        for place in &places[members[i].topics] {
            let topic = &mut divided[*place];
            let piece = piece(topic.partitions, topic.subscribers, topic.served);
            topic.served += 1;
            if !piece.is_empty() {
                pieces.push((topic.id, piece.collect()));
            }
        }
        assigned[i] = Assignment::from_parts(pieces);
    }
    assigned
}

/// The piece of the subscriber at `place`: the first `partitions % subscribers` have one more than the others.
fn piece(partitions: i32, subscribers: i32, place: i32) -> std::ops::Range<i32> {
    let (quota, extra) = (partitions / subscribers, partitions % subscribers);
    let start = place * quota + place.min(extra);
    start..start + quota + i32::from(place < extra)
}
