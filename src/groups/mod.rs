//! Group coordination: classic groups, consumer groups (KIP-848) and committed offsets, as pure state machines.
//!
//! A `Coordinator` is everything that one partition of `__consumer_offsets` decides. It takes
//! the time, a view of the topics and an [`Event`], and gives [`Effects`]: records for the partition and answers for
//! clients, as every [coordinator](crate::coordinator) does.

pub mod assignor;
pub mod classic;
pub mod config;
pub mod consumer;
pub mod coordinator;
pub mod offsets;
pub mod records;
pub mod records_consumer;
mod requests;
#[cfg(test)]
mod tests;
pub mod timers;
mod transactional_offsets;
mod upkeep;

pub use crate::coordinator::{Client, Now, Record, Token};
pub use coordinator::Coordinator;
pub use transactional_offsets::Ended;

use crate::ids::{ProducerId, TopicId};
use crate::log::verification::VerificationGuard;
use kafka_protocol::messages as codec;
use std::sync::Arc;

/// What is asked of a coordinator, always about groups that this partition holds. Requests that name several groups
/// are taken apart by the driver, and their answers put together.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub enum Request {
    JoinGroup(codec::JoinGroupRequest),
    SyncGroup(codec::SyncGroupRequest),
    Heartbeat(codec::HeartbeatRequest),
    LeaveGroup(codec::LeaveGroupRequest),
    OffsetCommit(codec::OffsetCommitRequest),
    /// The transaction is known to go on, or the guard says when it was.
    TxnOffsetCommit {
        request: codec::TxnOffsetCommitRequest,
        guard: Option<VerificationGuard>,
    },
    /// One group of an OffsetFetch; topics of none are all topics of the group.
    OffsetFetch {
        group: codec::offset_fetch_request::OffsetFetchRequestGroup,
        require_stable: bool,
    },
    OffsetDelete(codec::OffsetDeleteRequest),
    DescribeGroup(codec::GroupId),
    DeleteGroup(codec::GroupId),
    /// Groups of this partition; empty filters let everything through.
    ListGroups(codec::ListGroupsRequest),
    ConsumerGroupHeartbeat(codec::ConsumerGroupHeartbeatRequest),
    ConsumerGroupDescribe(codec::GroupId),
}

/// The answer to the [`Request`] of the same name.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "Kafka's own names")]
pub enum Response {
    JoinGroup(codec::JoinGroupResponse),
    SyncGroup(codec::SyncGroupResponse),
    Heartbeat(codec::HeartbeatResponse),
    LeaveGroup(codec::LeaveGroupResponse),
    OffsetCommit(codec::OffsetCommitResponse),
    TxnOffsetCommit(codec::TxnOffsetCommitResponse),
    OffsetFetch(codec::offset_fetch_response::OffsetFetchResponseGroup),
    OffsetDelete(codec::OffsetDeleteResponse),
    DescribeGroup(codec::describe_groups_response::DescribedGroup),
    DeleteGroup(codec::delete_groups_response::DeletableGroupResult),
    ListGroups(Vec<codec::list_groups_response::ListedGroup>),
    ConsumerGroupHeartbeat(codec::ConsumerGroupHeartbeatResponse),
    ConsumerGroupDescribe(codec::consumer_group_describe_response::DescribedGroup),
}

/// What happened.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one at a time, taken apart at once: a box would be an allocation a request"
)]
pub enum Event {
    /// A client asks.
    Request {
        /// The driver's name for it.
        token: Token,
        /// Who asks.
        client: Client,
        /// What.
        request: Request,
    },
    /// The client of a request is gone: its answer is not wanted any more, its membership stands until its session ends.
    Gone(Token),
    /// Nothing but the time: due at the coordinator's next deadline.
    Tick,
    /// Topics came, went or changed.
    TopicsChanged,
    /// Topics were deleted, by name and id: their offsets go. Comes with a [`Event::TopicsChanged`] of its own.
    TopicsDeleted(Vec<(Arc<str>, TopicId)>),
    /// Groups were given settings, or had them taken back: all that there are. Members are told with their next heartbeats.
    Configured(Arc<config::GroupConfigs>),
    /// The marker of a producer's transaction is in the partition.
    TransactionEnded {
        /// Whose.
        producer: ProducerId,
        /// Which, and how.
        ended: Ended,
    },
}

/// What a step gives.
pub type Effects = crate::coordinator::Effects<Response>;

/// A topic as group logic sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// How many partitions.
    pub partitions: i32,
    /// The racks that hold replicas of each partition, by index; empty where no broker has a rack.
    pub racks: Vec<Vec<Arc<str>>>,
}

/// The topics of the cluster, at the time of a step.
pub trait Topics {
    /// By name.
    fn by_name(&self, name: &str) -> Option<Topic>;
    /// A topic's id: asked for every topic of every commit.
    fn id_of(&self, name: &str) -> Option<TopicId> {
        self.by_name(name).map(|topic| topic.id)
    }
    /// By id.
    fn by_id(&self, id: TopicId) -> Option<Topic>;
    /// Every name, for regular expressions.
    fn names(&self) -> Vec<Arc<str>>;
    /// Changes with every change of the topics.
    fn epoch(&self) -> u64;
}
