//! What a consumer group knows, and the records that change it.

use super::super::assignor::Assignment;
use super::super::coordinator::Context;
use super::super::records::{Key, ReplayError};
use super::super::records_consumer::{
    ConsumerGroupCurrentMemberAssignmentValue, ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataValue,
    ConsumerGroupRegularExpressionValue, ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataValue,
};
use super::super::timers::{Timer, TimerKind};
use super::member::{Current, Declared, Member, MemberState, from_record, to_record};
use crate::ids::TopicId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many members are looked at for an equal list of topics to share.
const SHARED_AMONG: usize = 8;

/// One consumer group.
///
/// Invariants: `assignment_epoch ≤ epoch`; no member's epoch is above `assignment_epoch`; `owners` has exactly the partitions that
/// members are assigned or must give up, each by one member; `static_members` has exactly the instance ids of members.
#[derive(Debug)]
pub struct ConsumerGroup {
    pub(super) id: Arc<str>,
    pub(super) epoch: i32,
    /// Of the subscribed topics, as they were when the epoch went up.
    pub(super) metadata_hash: i64,
    /// The log has a record of type 4, of a broker before 4.1: it is taken away at the next occasion.
    pub(super) has_partition_metadata: bool,
    pub(super) assignment_epoch: i32,
    pub(super) members: BTreeMap<Arc<str>, Member>,
    /// Member id by instance id.
    pub(super) static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// What the regular expressions of members matched when they were looked at last.
    pub(super) regexes: BTreeMap<Arc<str>, Arc<[Arc<str>]>>,
    /// Who has a partition, until it has given it up.
    owners: BTreeMap<(TopicId, i32), Arc<str>>,
    gone: bool,
    /// The epoch of the topics that the metadata hash was compared with last.
    pub(super) topics_seen: Option<u64>,
    /// The epoch of the topics and the monotonic time when all regular expressions were looked at last.
    pub(super) regexes_seen: Option<(u64, i64)>,
}

impl ConsumerGroup {
    /// An empty group of epoch 0.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self {
            id,
            epoch: 0,
            metadata_hash: 0,
            has_partition_metadata: false,
            assignment_epoch: 0,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            regexes: BTreeMap::new(),
            owners: BTreeMap::new(),
            gone: false,
            topics_seen: None,
            regexes_seen: None,
        }
    }

    /// How many members it has.
    #[must_use]
    pub fn members_len(&self) -> usize {
        self.members.len()
    }

    /// No members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Nothing is known of it any more: a tombstone took its metadata.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Takes a record of types 3 to 8 or 16 while the partition is read.
    pub fn replay(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), ReplayError> {
        match key {
            Key::ConsumerGroupMetadata { .. } => match value.map(ConsumerGroupMetadataValue::decode).transpose()? {
                Some(value) => self.apply_group(value),
                None => self.gone = true,
            },
            Key::ConsumerGroupPartitionMetadata { .. } => self.has_partition_metadata = value.is_some(),
            Key::ConsumerGroupMemberMetadata { member, .. } => {
                match value.map(ConsumerGroupMemberMetadataValue::decode).transpose()? {
                    Some(value) => self.apply_member(member, Declared::from_record(value)),
                    None => self.apply_removal(member),
                }
            }
            Key::ConsumerGroupTargetAssignmentMetadata { .. } => {
                let value = value.map(ConsumerGroupTargetAssignmentMetadataValue::decode).transpose()?;
                self.assignment_epoch = value.map_or(0, |v| v.assignment_epoch);
            }
            Key::ConsumerGroupTargetAssignmentMember { member, .. } => {
                match value.map(ConsumerGroupTargetAssignmentMemberValue::decode).transpose()? {
                    Some(value) => self.apply_target(member, from_record(&value.topic_partitions)),
                    None if self.members.contains_key(member) => self.apply_target(member, Assignment::EMPTY),
                    None => {}
                }
            }
            Key::ConsumerGroupCurrentMemberAssignment { member, .. } => {
                match value.map(ConsumerGroupCurrentMemberAssignmentValue::decode).transpose()? {
                    Some(value) => self.apply_current(member, Current::from_record(&value)),
                    None if self.members.contains_key(member) => self.apply_current(member, Current::default()),
                    None => {}
                }
            }
            Key::ConsumerGroupRegularExpression { regex, .. } => {
                match value.map(ConsumerGroupRegularExpressionValue::decode).transpose()? {
                    Some(value) => self.apply_regex(regex, value.topics),
                    None => {
                        self.regexes.remove(regex);
                    }
                }
            }
            Key::OffsetCommit { .. } | Key::GroupMetadata { .. } => {}
        }
        Ok(())
    }

    fn apply_group(&mut self, value: ConsumerGroupMetadataValue) {
        self.epoch = value.epoch;
        self.metadata_hash = value.metadata_hash;
    }

    fn apply_member(&mut self, id: &Arc<str>, mut declared: Declared) {
        let mut others = self.members.values().take(SHARED_AMONG).map(|m| &m.declared.topics);
        if let Some(shared) = others.find(|topics| **topics == declared.topics) {
            declared.topics = shared.clone();
        }
        let member = self.members.entry(id.clone()).or_default();
        let before = std::mem::replace(&mut member.declared, declared);
        if before.classic.is_some() != member.declared.classic.is_some() {
            // What the rebalance timeout is for is another thing for each protocol.
            member.rebalance.clear();
        }
        self.forget_instance(id, before.instance.as_ref());
        if let Some(instance) = &self.members[id].declared.instance {
            self.static_members.insert(instance.clone(), id.clone());
        }
    }

    fn forget_instance(&mut self, id: &Arc<str>, instance: Option<&Arc<str>>) {
        if let Some(instance) = instance
            && self.static_members.get(instance) == Some(id)
        {
            self.static_members.remove(instance);
        }
    }

    fn apply_removal(&mut self, id: &Arc<str>) {
        if self.members.contains_key(id) {
            self.apply_current(id, Current::default());
        }
        if let Some(member) = self.members.remove(id) {
            self.forget_instance(id, member.declared.instance.as_ref());
        }
    }

    fn apply_target(&mut self, id: &Arc<str>, target: Assignment) {
        self.members.entry(id.clone()).or_default().target = target;
    }

    fn apply_current(&mut self, id: &Arc<str>, current: Current) {
        let member = self.members.entry(id.clone()).or_default();
        for partition in member.current.assigned.pairs().chain(member.current.revoking.pairs()) {
            // Compaction may have kept a later owner only.
            if self.owners.get(&partition) == Some(id) {
                self.owners.remove(&partition);
            }
        }
        for partition in current.assigned.pairs().chain(current.revoking.pairs()) {
            self.owners.insert(partition, id.clone());
        }
        member.current = current;
    }

    fn apply_regex(&mut self, regex: &Arc<str>, mut topics: Vec<Arc<str>>) {
        topics.sort_unstable();
        topics.dedup();
        self.regexes.insert(regex.clone(), Arc::from(topics));
    }
}

/// What happens to a group: written and applied.
impl ConsumerGroup {
    pub(super) fn put_group(&mut self, cx: &mut Context<'_>, epoch: i32, metadata_hash: i64) {
        assert!(epoch > self.epoch, "group {}: epoch {epoch} after {}", self.id, self.epoch);
        let value = ConsumerGroupMetadataValue { epoch, metadata_hash };
        cx.effects.records.push(Key::ConsumerGroupMetadata { group: self.id.clone() }.with(value.encode()));
        self.apply_group(value);
    }

    pub(super) fn put_member(&mut self, cx: &mut Context<'_>, id: &Arc<str>, declared: Declared) {
        let key = Key::ConsumerGroupMemberMetadata { group: self.id.clone(), member: id.clone() };
        cx.effects.records.push(key.with(declared.to_record().encode()));
        self.apply_member(id, declared);
    }

    pub(super) fn put_target(&mut self, cx: &mut Context<'_>, id: &Arc<str>, target: Assignment) {
        let key = Key::ConsumerGroupTargetAssignmentMember { group: self.id.clone(), member: id.clone() };
        let value = ConsumerGroupTargetAssignmentMemberValue { topic_partitions: to_record(&target) };
        cx.effects.records.push(key.with(value.encode()));
        self.apply_target(id, target);
    }

    pub(super) fn put_assignment_epoch(&mut self, cx: &mut Context<'_>, assignment_epoch: i32) {
        assert!(assignment_epoch <= self.epoch, "group {}: a target for epoch {assignment_epoch}", self.id);
        let value = ConsumerGroupTargetAssignmentMetadataValue { assignment_epoch };
        let key = Key::ConsumerGroupTargetAssignmentMetadata { group: self.id.clone() };
        cx.effects.records.push(key.with(value.encode()));
        self.assignment_epoch = assignment_epoch;
    }

    pub(super) fn put_current(&mut self, cx: &mut Context<'_>, id: &Arc<str>, current: Current) {
        for (topic, partition) in current.assigned.pairs().chain(current.revoking.pairs()) {
            assert!(self.is_free_for(id, topic, partition), "group {}: {topic}-{partition} twice", self.id);
        }
        let key = Key::ConsumerGroupCurrentMemberAssignment { group: self.id.clone(), member: id.clone() };
        cx.effects.records.push(key.with(current.to_record().encode()));
        self.apply_current(id, current);
    }

    pub(super) fn put_regex(&mut self, cx: &mut Context<'_>, regex: &Arc<str>, topics: Vec<Arc<str>>) {
        let key = Key::ConsumerGroupRegularExpression { group: self.id.clone(), regex: regex.clone() };
        let version = i64::try_from(cx.topics.epoch()).unwrap_or(i64::MAX);
        let value = ConsumerGroupRegularExpressionValue { topics, version, timestamp_ms: cx.now.wall_ms };
        cx.effects.records.push(key.with(value.encode()));
        self.apply_regex(regex, value.topics);
    }

    pub(super) fn remove_regex(&mut self, cx: &mut Context<'_>, regex: &Arc<str>) {
        let key = Key::ConsumerGroupRegularExpression { group: self.id.clone(), regex: regex.clone() };
        cx.effects.records.push(key.tombstone());
        self.regexes.remove(regex);
    }

    pub(super) fn remove_partition_metadata(&mut self, cx: &mut Context<'_>) {
        if std::mem::take(&mut self.has_partition_metadata) {
            cx.effects.records.push(Key::ConsumerGroupPartitionMetadata { group: self.id.clone() }.tombstone());
        }
    }

    /// Takes a member away, partitions first.
    pub(super) fn remove_member(&mut self, cx: &mut Context<'_>, id: &Arc<str>) {
        let (group, member) = (self.id.clone(), id.clone());
        for key in [
            Key::ConsumerGroupCurrentMemberAssignment { group: group.clone(), member: member.clone() },
            Key::ConsumerGroupTargetAssignmentMember { group: group.clone(), member: member.clone() },
            Key::ConsumerGroupMemberMetadata { group, member },
        ] {
            cx.effects.records.push(key.tombstone());
        }
        self.apply_removal(id);
    }

    /// Records that take the group away, its members included.
    pub fn tombstones(&self, cx: &mut Context<'_>) {
        let group = || self.id.clone();
        let members = || self.members.keys().cloned();
        let records = &mut cx.effects.records;
        records.extend(
            members().map(|member| Key::ConsumerGroupCurrentMemberAssignment { group: group(), member }.tombstone()),
        );
        records.extend(
            members().map(|member| Key::ConsumerGroupTargetAssignmentMember { group: group(), member }.tombstone()),
        );
        records.push(Key::ConsumerGroupTargetAssignmentMetadata { group: group() }.tombstone());
        records.extend(members().map(|member| Key::ConsumerGroupMemberMetadata { group: group(), member }.tombstone()));
        let regexes = self.regexes.keys().cloned();
        records.extend(regexes.map(|regex| Key::ConsumerGroupRegularExpression { group: group(), regex }.tombstone()));
        if self.has_partition_metadata {
            records.push(Key::ConsumerGroupPartitionMetadata { group: group() }.tombstone());
        }
        records.push(Key::ConsumerGroupMetadata { group: group() }.tombstone());
    }

    /// Whether nobody but this member owns the partition.
    pub(super) fn is_free_for(&self, member: &Arc<str>, topic: TopicId, partition: i32) -> bool {
        self.owners.get(&(topic, partition)).is_none_or(|owner| owner == member)
    }
}

/// Deadlines.
impl ConsumerGroup {
    /// The partition is read: starts the sessions of its members.
    pub fn loaded(&mut self, cx: &mut Context<'_>) {
        let ids: Vec<Arc<str>> = self.members.keys().cloned().collect();
        for id in ids {
            self.start_session(cx, &id);
            self.watch_revocation(cx, &id);
        }
    }

    /// The member's session begins anew.
    pub(super) fn start_session(&mut self, cx: &mut Context<'_>, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let timeout = match &member.declared.classic {
            Some(classic) => classic.session_timeout_ms,
            None => {
                let own = cx.group_config(&self.id).consumer_session_timeout_ms;
                own.unwrap_or(cx.config.consumer_session_timeout_ms)
            }
        };
        let deadline = cx.now.monotonic_ms + i64::from(timeout);
        member
            .session
            .set(cx.timers, deadline, || Timer { group: self.id.clone(), kind: TimerKind::Session(id.clone()) });
    }

    /// A member that must give partitions up has its rebalance timeout for it. Those of the classic protocol are watched by their
    /// joins and syncs.
    pub(super) fn watch_revocation(&mut self, cx: &mut Context<'_>, id: &Arc<str>) {
        let Some(member) = self.members.get_mut(id) else { return };
        if member.speaks_classic() {
            return;
        }
        if member.current.state == MemberState::UnrevokedPartitions {
            let deadline = cx.now.monotonic_ms + i64::from(member.declared.rebalance_timeout_ms);
            let timer = || Timer { group: self.id.clone(), kind: TimerKind::Rebalance(id.clone()) };
            member.rebalance.set(cx.timers, deadline, timer);
        } else {
            member.rebalance.clear();
        }
    }

    /// A deadline came up.
    pub fn expire(&mut self, cx: &mut Context<'_>, timer: &Timer, number: u64) {
        let (TimerKind::Session(id) | TimerKind::Rebalance(id)) = &timer.kind else { return };
        let Some(member) = self.members.get_mut(id) else { return };
        let alarm = match &timer.kind {
            TimerKind::Session(_) => &mut member.session,
            _ => &mut member.rebalance,
        };
        if alarm.came_up(cx.timers, cx.now.monotonic_ms, timer, number) {
            self.fence(cx, std::slice::from_ref(id));
        }
    }
}

#[cfg(test)]
impl ConsumerGroup {
    /// Everything that records say, to compare with.
    pub(super) fn hard_state(&self) -> String {
        let members: Vec<_> = self.members.iter().map(|(id, m)| (id, &m.declared, &m.current, &m.target)).collect();
        format!(
            "{:?}",
            (
                self.epoch,
                self.metadata_hash,
                self.assignment_epoch,
                members,
                &self.static_members,
                &self.regexes,
                &self.owners
            )
        )
    }

    pub(super) fn assert_invariants(&self) {
        assert!(self.assignment_epoch <= self.epoch);
        let mut owned = BTreeMap::new();
        for (id, member) in &self.members {
            let current = &member.current;
            assert!(current.epoch <= self.assignment_epoch, "{id} is ahead of the target");
            assert!(!current.assigned.intersects(&current.revoking));
            for partition in current.assigned.pairs().chain(current.revoking.pairs()) {
                assert!(owned.insert(partition, id.clone()).is_none(), "{partition:?} twice");
            }
            if let Some(instance) = &member.declared.instance {
                assert_eq!(self.static_members.get(instance), Some(id));
            }
        }
        assert_eq!(owned, self.owners);
        assert_eq!(self.static_members.len(), self.members.values().filter(|m| m.declared.instance.is_some()).count());
        for regex in self.members.values().filter_map(|m| m.declared.regex()) {
            assert!(self.regexes.contains_key(regex), "{regex} is not resolved");
        }
        for regex in self.regexes.keys() {
            assert!(self.members.values().any(|m| m.declared.regex() == Some(regex)), "{regex} has no subscriber");
        }
    }
}
