//! Newtypes for numbers that could be swapped, shared by every pure module.

use std::fmt;
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A record's offset in its partition: 0, 1, 2, …
    Offset(i64)
);
number!(
    /// The epoch of a partition's leader, from 0.
    LeaderEpoch(i32)
);
number!(
    /// A partition's index in its topic, from 0.
    PartitionIndex(i32)
);
number!(
    /// A producer's id, from InitProducerId (KIP-98).
    ProducerId(i64)
);
number!(
    /// A producer's epoch: the newer fences the older (KIP-98).
    ProducerEpoch(i16)
);
number!(
    /// A broker's node id.
    BrokerId(i32)
);

/// A topic's id for its whole life (KIP-516); never the name, which may come back after a deletion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub Uuid);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One partition, by id: the key of everything that a shard keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionId {
    /// The topic.
    pub topic: TopicId,
    /// The partition in it.
    pub index: PartitionIndex,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

impl Offset {
    /// The offset `count` records later.
    #[must_use]
    pub fn plus(self, count: i64) -> Self {
        Self(self.0 + count)
    }
}
