//! What is refused: requests that say too little, and members that are not where they say they are.

use super::super::assignor::{Assignment, Assignor};
use super::super::config::GroupsConfig;
use super::super::coordinator::Refused;
use super::member::{LEFT_STATIC, Member};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use kafka_protocol::messages as codec;
use std::sync::Arc;

/// From this version on members make their ids themselves (KIP-1082).
const MEMBER_ID_REQUIRED: i16 = 1;

/// The longest text that a key of `__consumer_offsets` has room for.
const TEXT_MAX: usize = i16::MAX as usize;

/// OffsetCommit from this version on knows member epochs.
const COMMIT_WITH_EPOCH: i16 = 9;

/// What can be refused without knowing the group.
pub fn validate_heartbeat(
    config: &GroupsConfig,
    api_version: i16,
    request: &codec::ConsumerGroupHeartbeatRequest,
) -> Result<(), Refused> {
    let invalid = |message: String| Err(Refused::new(ErrorCode::InvalidRequest, message));
    let needs_id = api_version >= MEMBER_ID_REQUIRED || request.member_epoch > 0 || request.member_epoch == -1;
    let texts = [
        ("MemberId", Some(&request.member_id).filter(|id| needs_id || !id.is_empty())),
        ("GroupId", Some(&request.group_id.0)),
        ("InstanceId", request.instance_id.as_ref()),
        ("RackId", request.rack_id.as_ref()),
    ];
    for (name, text) in texts {
        match text.map(|t| t.len()) {
            Some(0) => return invalid(format!("{name} can't be empty.")),
            Some(length) if length > TEXT_MAX => {
                return invalid(format!("{name} can't be longer than {TEXT_MAX} bytes."));
            }
            _ => {}
        }
    }
    if request.subscribed_topic_regex.as_ref().is_some_and(|regex| regex.len() > TEXT_MAX) {
        let message = format!("SubscribedTopicRegex can't be longer than {TEXT_MAX} bytes.");
        return Err(Refused::new(ErrorCode::InvalidRegularExpression, message));
    }
    match request.member_epoch {
        0 if request.rebalance_timeout_ms == -1 => {
            return invalid("RebalanceTimeoutMs must be provided in first request.".to_owned());
        }
        0 if request.topic_partitions.as_ref().is_none_or(|owned| !owned.is_empty()) => {
            return invalid("TopicPartitions must be empty when (re-)joining.".to_owned());
        }
        0 if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none() => {
            let message = "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.";
            return invalid(message.to_owned());
        }
        LEFT_STATIC if request.instance_id.is_none() => return invalid("InstanceId can't be null.".to_owned()),
        epoch if epoch < LEFT_STATIC => return invalid("MemberEpoch is invalid.".to_owned()),
        _ => {}
    }
    match &request.server_assignor {
        Some(name) if !config.consumer_assignors.iter().any(|known| **known == **name) => {
            let supported = config.consumer_assignors.join(", ");
            let message =
                format!("ServerAssignor {} is not supported. Supported assignors: {supported}.", name.as_str());
            Err(Refused::new(ErrorCode::UnsupportedAssignor, message))
        }
        _ => Ok(()),
    }
}

impl ConsumerGroup {
    pub(super) fn unknown_member(&self, id: &str) -> Refused {
        let message = format!("Member {id} is not a member of group {}.", self.id);
        Refused::new(ErrorCode::UnknownMemberId, message)
    }

    /// A member of this id, dynamic or not.
    pub(super) fn member(&self, id: &str) -> Result<&Member, Refused> {
        self.members.get(id).ok_or_else(|| self.unknown_member(id))
    }

    /// `group.consumer.max.size`.
    pub(super) fn check_size(&self, config: &GroupsConfig, member: &str) -> Result<(), Refused> {
        let max = usize::try_from(config.consumer_max_size).unwrap_or(0);
        if self.members.len() >= max && !self.members.contains_key(member) {
            let message = format!("The consumer group has reached its maximum capacity of {max} members.");
            return Err(Refused::new(ErrorCode::GroupMaxSizeReached, message));
        }
        Ok(())
    }

    /// The epoch of a heartbeat must be the member's, or the one before if all that the member has is still its own: then the answer
    /// that had the new epoch was lost. A member that begins again, at 0 and without partitions, is let in whatever it had.
    pub(super) fn check_epoch(member: &Member, epoch: i32, owned: Option<&Assignment>) -> Result<(), Refused> {
        let current = &member.current;
        let relation = match epoch.cmp(&current.epoch) {
            _ if epoch == 0 => return Ok(()),
            std::cmp::Ordering::Equal => return Ok(()),
            std::cmp::Ordering::Greater => "greater",
            std::cmp::Ordering::Less => {
                if epoch == current.previous_epoch && owned.is_some_and(|owned| owned.is_subset(&current.assigned)) {
                    return Ok(());
                }
                "smaller"
            }
        };
        let message = format!(
            "The consumer group member has a {relation} member epoch ({epoch}) than the one known by the group \
             coordinator ({}). The member must abandon all its partitions and rejoin.",
            current.epoch
        );
        Err(Refused::new(ErrorCode::FencedMemberEpoch, message))
    }

    /// The member that has this instance id, for a request of a member that has joined.
    pub(super) fn check_instance(&self, id: &str, instance: &str) -> Result<&Arc<str>, Refused> {
        let Some(holder) = self.static_members.get(instance) else {
            let message = format!("Instance id {instance} is unknown.");
            return Err(Refused::new(ErrorCode::UnknownMemberId, message));
        };
        if **holder != *id {
            let message = format!("Static member {id} with instance id {instance} was fenced by member {holder}.");
            return Err(Refused::new(ErrorCode::FencedInstanceId, message));
        }
        Ok(holder)
    }

    /// An instance id that a member comes with must be free: its last member has left for a time.
    pub(super) fn check_released(&self, holder: &Arc<str>, id: &str, instance: &str) -> Result<(), Refused> {
        let member = &self.members[holder];
        if member.speaks_classic() || member.current.epoch == LEFT_STATIC {
            return Ok(());
        }
        let message = format!(
            "Static member {id} with instance id {instance} cannot join the group because the instance id is owned by \
             {holder} member."
        );
        Err(Refused::new(ErrorCode::UnreleasedInstanceId, message))
    }

    /// Whether a member may commit. An epoch below 0 is an admin client, which may while there are no members.
    pub fn validate_offset_commit(
        &self,
        member: &str,
        _instance: Option<&str>,
        epoch: i32,
        api_version: i16,
    ) -> Result<(), ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.member(member).map_err(|refused| refused.code)?;
        if !member.speaks_classic() && api_version < COMMIT_WITH_EPOCH {
            return Err(ErrorCode::UnsupportedVersion);
        }
        check_offset_epoch(member, epoch)
    }

    /// Whether a member may fetch; no member and an epoch of -1 is an admin client.
    pub fn validate_offset_fetch(&self, member: Option<&str>, epoch: i32) -> Result<(), ErrorCode> {
        if member.is_none() && epoch < 0 {
            return Ok(());
        }
        let member = self.member(member.unwrap_or_default()).map_err(|refused| refused.code)?;
        check_offset_epoch(member, epoch)
    }

    /// The assignor that most members ask for, the first of the settings among equals; without any the first of the settings.
    pub(super) fn assignor(&self, config: &GroupsConfig) -> Assignor {
        let votes = |name: &str| self.members.values().filter(|m| m.declared.assignor.as_deref() == Some(name)).count();
        // The last of equals is what `max_by_key` gives.
        let names = config.consumer_assignors.iter().rev();
        let known = names.filter_map(|name| Some((votes(name), Assignor::from_name(name)?)));
        known.max_by_key(|(votes, _)| *votes).map_or(Assignor::Uniform, |(_, assignor)| assignor)
    }
}

fn check_offset_epoch(member: &Member, epoch: i32) -> Result<(), ErrorCode> {
    match (epoch == member.current.epoch, member.speaks_classic()) {
        (true, _) => Ok(()),
        (false, true) => Err(ErrorCode::IllegalGeneration),
        (false, false) => Err(ErrorCode::StaleMemberEpoch),
    }
}
