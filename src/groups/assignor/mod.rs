//! Server-side assignors (KIP-848): members with their subscriptions and what they were assigned before go in, a new
//! target assignment comes out. Functions without state: the same input gives the same output.

mod assignment;
mod range;
#[cfg(test)]
mod tests;
mod uniform;

pub use assignment::Assignment;

use super::Topic;
use crate::ids::TopicId;
use std::collections::BTreeMap;

/// How partitions are divided among members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assignor {
    /// Balanced over all topics together, moving as little as it can.
    Uniform,
    /// Consecutive partitions of each topic, the same of each for the same member: for joins over co-partitioned topics.
    Range,
}

impl Assignor {
    /// All, in the order of Kafka's default for `group.consumer.assignors`: the first is a group's default.
    pub const ALL: &'static [Self] = &[Self::Uniform, Self::Range];

    /// The name on the wire and in `group.consumer.assignors`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Range => "range",
        }
    }

    /// The assignor of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|a| a.name() == name)
    }

    /// Divides the partitions of `topics` among `members`: one assignment a member, in the order of `members`.
    ///
    /// Every partition of a topic that at least one member subscribes to is given to exactly one of its subscribers.
    /// Topics that are subscribed to and not in `topics` do not exist.
    #[must_use]
    pub fn assign(self, members: &[Member<'_>], topics: &BTreeMap<TopicId, Topic>) -> Vec<Assignment> {
        match self {
            Self::Uniform => uniform::assign(members, topics),
            Self::Range => range::assign(members, topics),
        }
    }
}

/// A member as an assignor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its id, unique.
    pub id: &'a str,
    /// Its `group.instance.id`, unique where there is one.
    pub instance: Option<&'a str>,
    /// Its `client.rack`.
    pub rack: Option<&'a str>,
    /// The topics it subscribes to, in the order of ids, each once.
    pub topics: &'a [TopicId],
    /// What it was to have until now.
    pub target: &'a Assignment,
}
