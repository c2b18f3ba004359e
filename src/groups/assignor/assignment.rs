//! A set of partitions, by topic.

use crate::ids::TopicId;

/// Partitions by topic: topics in the order of their ids, partitions ascending, no topic without partitions.
/// Two sorted lists and no tree, because a coordinator holds several of these for each of many idle members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    topics: Vec<(TopicId, Vec<i32>)>,
}

impl Assignment {
    /// Nothing.
    pub const EMPTY: Self = Self { topics: Vec::new() };

    /// From topics and partitions in any order, with repetitions.
    #[must_use]
    pub fn from_parts(parts: impl IntoIterator<Item = (TopicId, Vec<i32>)>) -> Self {
        let mut topics: Vec<(TopicId, Vec<i32>)> = parts.into_iter().collect();
        topics.sort_by_key(|(topic, _)| *topic);
        topics.dedup_by(|(later, more), (earlier, partitions)| {
            let same = later == earlier;
            if same {
                partitions.append(more);
            }
            same
        });
        for (_, partitions) in &mut topics {
            partitions.sort_unstable();
            partitions.dedup();
        }
        topics.retain(|(_, partitions)| !partitions.is_empty());
        let made = Self { topics };
        made.assert_invariants();
        made
    }

    /// From single partitions in any order.
    #[must_use]
    pub fn from_pairs(pairs: impl IntoIterator<Item = (TopicId, i32)>) -> Self {
        let mut pairs: Vec<(TopicId, i32)> = pairs.into_iter().collect();
        pairs.sort_unstable();
        pairs.dedup();
        let mut topics: Vec<(TopicId, Vec<i32>)> = Vec::new();
        for (topic, partition) in pairs {
            match topics.last_mut() {
                Some((last, partitions)) if *last == topic => partitions.push(partition),
                _ => topics.push((topic, vec![partition])),
            }
        }
        Self { topics }
    }

    fn assert_invariants(&self) {
        debug_assert!(self.topics.windows(2).all(|w| w[0].0 < w[1].0), "topics ascend");
        debug_assert!(
            self.topics.iter().all(|(_, p)| !p.is_empty() && p.windows(2).all(|w| w[0] < w[1])),
            "partitions ascend"
        );
    }

    /// No partition at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// How many partitions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.topics.iter().map(|(_, partitions)| partitions.len()).sum()
    }

    /// Topics with their partitions, ascending.
    pub fn topics(&self) -> impl Iterator<Item = (TopicId, &[i32])> {
        self.topics.iter().map(|(topic, partitions)| (*topic, partitions.as_slice()))
    }

    /// Single partitions, ascending.
    pub fn pairs(&self) -> impl Iterator<Item = (TopicId, i32)> + '_ {
        self.topics.iter().flat_map(|(topic, partitions)| partitions.iter().map(|p| (*topic, *p)))
    }

    /// The partitions of one topic.
    #[must_use]
    pub fn of(&self, topic: TopicId) -> &[i32] {
        self.topics.binary_search_by_key(&topic, |(t, _)| *t).map_or(&[], |at| &self.topics[at].1)
    }

    /// Whether the partition is in it.
    #[must_use]
    pub fn contains(&self, topic: TopicId, partition: i32) -> bool {
        self.of(topic).binary_search(&partition).is_ok()
    }

    /// Whether everything in it is in `other` too.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.pairs().all(|(topic, partition)| other.contains(topic, partition))
    }

    /// Whether it has a partition in common with `other`.
    #[must_use]
    pub fn intersects(&self, other: &Self) -> bool {
        self.pairs().any(|(topic, partition)| other.contains(topic, partition))
    }

    /// The partitions that `keep` says yes to.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(TopicId, i32) -> bool) -> Self {
        let mut topics = Vec::with_capacity(self.topics.len());
        for (topic, partitions) in &self.topics {
            let kept: Vec<i32> = partitions.iter().copied().filter(|p| keep(*topic, *p)).collect();
            if !kept.is_empty() {
                topics.push((*topic, kept));
            }
        }
        Self { topics }
    }

    /// What is in this or in the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self.clone(),
            (true, _) => other.clone(),
            _ => Self::from_parts(self.topics.iter().chain(&other.topics).cloned()),
        }
    }
}
