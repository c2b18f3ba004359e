//! A member of a consumer group, and how its assignment follows the target.

use super::super::assignor::Assignment;
use super::super::records_consumer::{
    ClassicMemberMetadata, ConsumerGroupCurrentMemberAssignmentValue, ConsumerGroupMemberMetadataValue, TopicPartitions,
};
use super::super::timers::Alarm;
use crate::ids::TopicId;
use std::sync::Arc;

/// The epoch of a static member that left and may come back (`-2`).
pub(super) const LEFT_STATIC: i32 = -2;

/// Where a member is on its way to the target assignment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum MemberState {
    /// It has what its epoch gives it.
    #[default]
    Stable,
    /// It must give partitions up before it may go on to the next epoch.
    UnrevokedPartitions,
    /// It is in the target's epoch, and waits for partitions that others have not given up yet.
    UnreleasedPartitions,
    /// A newer broker wrote a state that this one does not know: the member must begin again.
    Unknown,
}

impl MemberState {
    pub(super) fn code(self) -> i8 {
        match self {
            Self::Stable => 0,
            Self::UnrevokedPartitions => 1,
            Self::UnreleasedPartitions => 2,
            Self::Unknown => 127,
        }
    }

    fn from_code(code: i8) -> Self {
        match code {
            0 => Self::Stable,
            1 => Self::UnrevokedPartitions,
            2 => Self::UnreleasedPartitions,
            _ => Self::Unknown,
        }
    }
}

/// What a member has: the part of it that reconciliation changes, one record.
///
/// Invariants: `assigned` and `revoking` have nothing in common, `revoking` is empty but in `UnrevokedPartitions`; the member
/// owns both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Current {
    pub(super) epoch: i32,
    /// The epoch before: still accepted, since the answer with the new one may have been lost.
    pub(super) previous_epoch: i32,
    pub(super) state: MemberState,
    pub(super) assigned: Assignment,
    /// What it must give up, and has not said yet that it did.
    pub(super) revoking: Assignment,
}

impl Current {
    pub(super) fn from_record(value: &ConsumerGroupCurrentMemberAssignmentValue) -> Self {
        Self {
            epoch: value.member_epoch,
            previous_epoch: value.previous_member_epoch,
            state: MemberState::from_code(value.state),
            assigned: from_record(&value.assigned_partitions),
            revoking: from_record(&value.partitions_pending_revocation),
        }
    }

    pub(super) fn to_record(&self) -> ConsumerGroupCurrentMemberAssignmentValue {
        ConsumerGroupCurrentMemberAssignmentValue {
            member_epoch: self.epoch,
            previous_member_epoch: self.previous_epoch,
            state: self.state.code(),
            assigned_partitions: to_record(&self.assigned),
            partitions_pending_revocation: to_record(&self.revoking),
        }
    }
}

/// A record's partitions as a set.
pub(super) fn from_record(partitions: &[TopicPartitions]) -> Assignment {
    Assignment::from_parts(partitions.iter().map(|t| (t.topic_id, t.partitions.clone())))
}

/// A set of partitions as a record writes it.
pub(super) fn to_record(partitions: &Assignment) -> Vec<TopicPartitions> {
    let topics = partitions.topics();
    topics.map(|(topic_id, partitions)| TopicPartitions { topic_id, partitions: partitions.to_vec() }).collect()
}

/// What a member says of itself: the part of it that its own requests change, one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) instance: Option<Arc<str>>,
    pub(super) rack: Option<Arc<str>>,
    pub(super) client_id: Arc<str>,
    pub(super) client_host: Arc<str>,
    /// Names of topics, ascending, each once. Shared with members that say the same.
    pub(super) topics: Arc<[Arc<str>]>,
    /// As it came: empty text is no expression.
    pub(super) regex: Option<Arc<str>>,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) assignor: Option<Arc<str>>,
    /// Of a member that speaks the classic protocol.
    pub(super) classic: Option<Arc<ClassicMemberMetadata>>,
}

impl Declared {
    pub(super) fn from_record(value: ConsumerGroupMemberMetadataValue) -> Self {
        Self {
            instance: value.instance_id,
            rack: value.rack_id,
            client_id: value.client_id,
            client_host: value.client_host,
            topics: names(value.subscribed_topic_names),
            regex: value.subscribed_topic_regex,
            rebalance_timeout_ms: value.rebalance_timeout_ms,
            assignor: value.server_assignor,
            classic: value.classic_member_metadata.map(Arc::new),
        }
    }

    pub(super) fn to_record(&self) -> ConsumerGroupMemberMetadataValue {
        ConsumerGroupMemberMetadataValue {
            instance_id: self.instance.clone(),
            rack_id: self.rack.clone(),
            client_id: self.client_id.clone(),
            client_host: self.client_host.clone(),
            subscribed_topic_names: self.topics.to_vec(),
            subscribed_topic_regex: self.regex.clone(),
            rebalance_timeout_ms: self.rebalance_timeout_ms,
            server_assignor: self.assignor.clone(),
            classic_member_metadata: self.classic.as_deref().cloned(),
        }
    }

    /// The regular expression that it is subscribed to, if any.
    pub(super) fn regex(&self) -> Option<&Arc<str>> {
        self.regex.as_ref().filter(|regex| !regex.is_empty())
    }
}

/// Names in any order as a member keeps them.
pub(super) fn names(mut names: Vec<Arc<str>>) -> Arc<[Arc<str>]> {
    names.sort_unstable();
    names.dedup();
    Arc::from(names)
}

/// A member.
#[derive(Debug, Default)]
pub(super) struct Member {
    pub(super) declared: Declared,
    pub(super) current: Current,
    pub(super) target: Assignment,
    /// Its session: ends its membership.
    pub(super) session: Alarm,
    /// Its time to give partitions up: ends its membership. Of a classic member: to join again, or to sync.
    pub(super) rebalance: Alarm,
}

impl Member {
    /// In the target's epoch with nothing left to give up or to wait for.
    pub(super) fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.current.state == MemberState::Stable && self.current.epoch == epoch
    }

    pub(super) fn speaks_classic(&self) -> bool {
        self.declared.classic.is_some()
    }
}

/// What a reconciliation goes by.
pub(super) struct Reconciliation<'a> {
    pub(super) target_epoch: i32,
    pub(super) target: &'a Assignment,
    /// Ids of the topics that the member is subscribed to, ascending.
    pub(super) subscribed: &'a [TopicId],
    /// The member's own word on what it owns; none if it did not say.
    pub(super) owned: Option<&'a Assignment>,
    /// The subscription is not the one of the last heartbeat.
    pub(super) subscription_changed: bool,
    /// Whether no other member owns the partition.
    pub(super) is_free: &'a dyn Fn(TopicId, i32) -> bool,
}

impl Reconciliation<'_> {
    /// What the member has next; what it has now if it cannot go on.
    ///
    /// For instance, epoch 3, assigned {0, 1, 2}; the target of epoch 5 is {0, 7}, and another member has 7:
    /// 1. `UnrevokedPartitions`, epoch 3, assigned {0}, revoking {1, 2}, until a heartbeat says that 1 and 2 are given up;
    /// 2. `UnreleasedPartitions`, epoch 5, assigned {0}, until the other member has given 7 up;
    /// 3. `Stable`, epoch 5, assigned {0, 7}.
    pub(super) fn next(&self, now: &Current) -> Current {
        match now.state {
            MemberState::Stable if now.epoch != self.target_epoch => self.advance(now, now.epoch),
            MemberState::Stable if self.subscription_changed => self.drop_unsubscribed(now),
            MemberState::Stable => now.clone(),
            MemberState::UnrevokedPartitions if !self.has_revoked(&now.revoking) => {
                if self.subscription_changed {
                    self.drop_unsubscribed(now)
                } else {
                    now.clone()
                }
            }
            // A revocation that came of a change of subscription, ahead of its target, must not run ahead of it further.
            MemberState::UnrevokedPartitions => self.advance(now, self.target_epoch.min(now.epoch + 1)),
            MemberState::UnreleasedPartitions => self.advance(now, now.epoch),
            MemberState::Unknown => self.advance(now, self.target_epoch),
        }
    }

    /// Whether the member has said that it owns none of these any more.
    fn has_revoked(&self, revoking: &Assignment) -> bool {
        self.owned.is_some_and(|owned| !owned.intersects(revoking))
    }

    /// Takes partitions of topics back that the member is not subscribed to any more, before there is a new target.
    fn drop_unsubscribed(&self, now: &Current) -> Current {
        let is_subscribed = |topic: TopicId| self.subscribed.binary_search(&topic).is_ok();
        let assigned = now.assigned.filter(|topic, _| is_subscribed(topic));
        if assigned == now.assigned {
            return now.clone();
        }
        let revoking = now.revoking.union(&now.assigned.filter(|topic, _| !is_subscribed(topic)));
        if self.has_revoked(&revoking) {
            return Current { assigned, ..now.clone() };
        }
        Current { state: MemberState::UnrevokedPartitions, assigned, revoking, ..now.clone() }
    }

    /// One step from what the member has towards the target; `epoch` is the member's if it must revoke first.
    fn advance(&self, now: &Current, epoch: i32) -> Current {
        let target = self.target.filter(|topic, _| self.subscribed.binary_search(&topic).is_ok());
        let assigned = now.assigned.filter(|topic, partition| target.contains(topic, partition));
        let revoking = now.assigned.filter(|topic, partition| !target.contains(topic, partition));
        // As long as the epoch stays the one before it stays too: more than one answer may be lost.
        let previous = |epoch| if epoch == now.epoch { now.previous_epoch } else { now.epoch };
        if !revoking.is_empty() && !self.has_revoked(&revoking) {
            let state = MemberState::UnrevokedPartitions;
            return Current { epoch, previous_epoch: previous(epoch), state, assigned, revoking };
        }
        let free = target.filter(|topic, partition| (self.is_free)(topic, partition));
        let state = if free == target { MemberState::Stable } else { MemberState::UnreleasedPartitions };
        Current {
            epoch: self.target_epoch,
            previous_epoch: previous(self.target_epoch),
            state,
            assigned: free,
            revoking: Assignment::EMPTY,
        }
    }
}
