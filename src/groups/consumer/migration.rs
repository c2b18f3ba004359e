//! One kind of group becomes the other while it has members (`group.consumer.migration.policy`): a classic group when the first member of the
//! consumer protocol joins it, a consumer group when the last of them has gone.

use super::super::assignor::Assignment;
use super::super::classic::{CONSUMER_PROTOCOL_TYPE, ClassicGroup};
use super::super::config::{GroupsConfig, MigrationPolicy};
use super::super::coordinator::{Context, Refused};
use super::super::records::{GroupMetadataValue, MemberMetadata};
use super::super::records_consumer::ClassicMemberMetadata;
use super::blobs::{Subscription, by_id, decode_assignment, encode_assignment};
use super::member::{Current, Declared, names};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use std::sync::Arc;

impl ConsumerGroup {
    /// The consumer group that a classic group with members becomes. Records are written, the classic group is not touched: its members
    /// keep what they have, in their generation, until they are asked to join again.
    pub fn from_classic(cx: &mut Context<'_>, id: &Arc<str>, classic: &ClassicGroup) -> Result<Self, Refused> {
        let refused = |why: &str| {
            let message = format!("Cannot upgrade classic group {id} to consumer group because {why}.");
            Refused::new(ErrorCode::GroupIdNotFound, message)
        };
        if !matches!(cx.config.consumer_migration_policy, MigrationPolicy::Bidirectional | MigrationPolicy::Upgrade) {
            return Err(refused("online upgrade is disabled"));
        }
        if classic.protocol_type() != Some(CONSUMER_PROTOCOL_TYPE) {
            return Err(refused("the group does not use the consumer embedded protocol"));
        }
        if classic.members().len() > usize::try_from(cx.config.consumer_max_size).unwrap_or(0) {
            return Err(refused("the group size exceeds the consumer group maximum size"));
        }
        let malformed = || refused("the embedded consumer protocol is malformed");
        let mut members = Vec::with_capacity(classic.members().len());
        for member in classic.members() {
            let chosen = classic.protocol().map(|protocol| member.metadata(protocol)).filter(|m| !m.is_empty());
            let metadata = chosen.or_else(|| member.protocols.first().map(|(_, metadata)| metadata.clone()));
            let subscription = Subscription::decode(&metadata.unwrap_or_default()).map_err(|_| malformed())?;
            let (assigned, has_data) = match member.assignment.is_empty() {
                true => (Vec::new(), false),
                false => decode_assignment(&member.assignment).map_err(|_| malformed())?,
            };
            if has_data {
                return Err(refused(
                    "an unsupported custom assignor is in use. Please refer to the documentation or switch to a \
                     default assignor before re-attempting the upgrade",
                ));
            }
            let declared = Declared {
                instance: member.instance_id.clone(),
                rack: subscription.rack,
                client_id: member.client_id.clone(),
                client_host: member.client_host.clone(),
                topics: names(subscription.topics),
                regex: None,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                assignor: None,
                classic: Some(Arc::new(ClassicMemberMetadata {
                    session_timeout_ms: member.session_timeout_ms,
                    supported_protocols: member.protocols.clone(),
                })),
            };
            members.push((member.id.clone(), declared, by_id(&assigned, cx.topics)));
        }
        classic.tombstone(cx);
        Ok(Self::with_classic_members(cx, id, classic.generation(), members))
    }

    fn with_classic_members(
        cx: &mut Context<'_>,
        id: &Arc<str>,
        generation: i32,
        members: Vec<(Arc<str>, Declared, Assignment)>,
    ) -> Self {
        let mut group = Self::new(id.clone());
        // A group of epoch 0 has not been begun.
        let epoch = generation.max(1);
        for (member, declared, _) in &members {
            group.put_member(cx, member, declared.clone());
        }
        let hash = group.compute_hash(cx.topics);
        group.put_group(cx, epoch, hash);
        for (member, _, assigned) in &members {
            group.put_target(cx, member, assigned.clone());
        }
        group.put_assignment_epoch(cx, epoch);
        for (member, _, assigned) in members {
            // A leader may have given a partition twice: the first of them has it.
            let assigned = assigned.filter(|topic, partition| group.is_free_for(&member, topic, partition));
            let current = Current { epoch, previous_epoch: epoch, assigned, ..Current::default() };
            group.put_current(cx, &member, current);
            group.start_session(cx, &member);
        }
        group
    }

    /// Whether all who are left speak the classic protocol, and may have a group of their own.
    #[must_use]
    pub fn is_to_be_classic(&self, config: &GroupsConfig) -> bool {
        let allowed =
            matches!(config.consumer_migration_policy, MigrationPolicy::Bidirectional | MigrationPolicy::Downgrade);
        allowed
            && !self.members.is_empty()
            && self.members.len() <= usize::try_from(config.max_size).unwrap_or(0)
            && self.members.values().all(|m| m.speaks_classic())
    }

    /// The classic group that this group becomes when the last member of the consumer protocol has gone. Its members are asked to join
    /// again, since somebody left.
    pub fn to_classic(&self, cx: &mut Context<'_>) -> ClassicGroup {
        self.tombstones(cx);
        let protocol = self.common_protocol();
        let members = self.members.iter().map(|(id, member)| {
            let declared = &member.declared;
            let classic = declared.classic.as_deref();
            let subscription = classic
                .and_then(|c| c.supported_protocols.iter().find(|(name, _)| *name == protocol))
                .map(|(_, metadata)| metadata.clone())
                .unwrap_or_default();
            let version = Subscription::decode(&subscription).map_or(0, |s| s.version);
            MemberMetadata {
                member_id: id.clone(),
                group_instance_id: declared.instance.clone(),
                client_id: declared.client_id.clone(),
                client_host: declared.client_host.clone(),
                rebalance_timeout_ms: declared.rebalance_timeout_ms,
                session_timeout_ms: classic.map_or(0, |c| c.session_timeout_ms),
                subscription,
                assignment: encode_assignment(&member.target, version, cx.topics),
            }
        });
        let record = GroupMetadataValue {
            protocol_type: Arc::from(CONSUMER_PROTOCOL_TYPE),
            generation: self.epoch,
            protocol: Some(protocol.clone()),
            leader: self.members.keys().next().cloned(),
            current_state_timestamp_ms: cx.now.wall_ms,
            members: members.collect(),
        };
        let mut group = ClassicGroup::from_record(self.id.clone(), record);
        group.write(cx);
        group.begin_downgraded(cx);
        group
    }

    /// The protocol that all classic members support and the first likes best: there is one, as they were let in.
    fn common_protocol(&self) -> Arc<str> {
        let mut all = self.members.values().filter_map(|m| m.declared.classic.as_ref()).map(|c| &c.supported_protocols);
        let Some(first) = all.next() else { return Arc::default() };
        let others: Vec<_> = all.collect();
        let is_common =
            |name: &Arc<str>| others.iter().all(|protocols| protocols.iter().any(|(other, _)| other == name));
        first.iter().map(|(name, _)| name).find(|name| is_common(name)).cloned().unwrap_or_default()
    }
}
