//! The coordinator of one partition of `__consumer_offsets`: finds the group that an event is about, and hands it over.
//!
//! What is checked here is what Kafka checks before it knows the group: ids, timeouts, kinds of group.

use super::classic::ClassicGroup;
use super::config::{GroupConfig, GroupConfigs, GroupsConfig};
use super::consumer::ConsumerGroup;
use super::offsets::GroupOffsets;
use super::records::{GroupMetadataValue, Key, OffsetCommitValue, ReplayError};
use super::requests::maybe_downgrade;
use super::timers::{TimerKind, Timers};
use super::transactional_offsets::OpenTransactions;
use super::upkeep::Upkeep;
pub use super::{Client, Effects, Event, Now, Request, Response, Token, Topics};
use crate::error_code::ErrorCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A request that is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Refused {
    /// Kafka's code.
    pub code: ErrorCode,
    /// A sentence for the client.
    pub message: String,
}

impl Refused {
    /// With its sentence.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Makes member ids: unique as long as no two coordinators have the same seed.
#[derive(Debug)]
pub struct MemberIds {
    state: u64,
}

impl MemberIds {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A version 4 UUID.
    pub fn uuid(&mut self) -> uuid::Uuid {
        let bytes = (u128::from(self.next()) << 64 | u128::from(self.next())).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// `prefix-uuid`, as Kafka names members of classic groups.
    pub fn member_id(&mut self, prefix: &str) -> Arc<str> {
        Arc::from(format!("{prefix}-{}", self.uuid()))
    }
}

/// What groups are given with an event, and where they put what comes of it.
pub struct Context<'a> {
    /// The time.
    pub now: Now,
    /// The broker's settings.
    pub config: &'a GroupsConfig,
    /// The settings of single groups.
    pub group_configs: &'a GroupConfigs,
    /// The topics.
    pub topics: &'a dyn Topics,
    /// Deadlines.
    pub timers: &'a mut Timers,
    /// New member ids.
    pub ids: &'a mut MemberIds,
    /// Records and answers.
    pub effects: &'a mut Effects,
}

impl Context<'_> {
    /// Answers a request.
    pub fn answer(&mut self, token: Token, response: Response) {
        self.effects.answers.push((token, response));
    }

    /// The settings of one group.
    #[must_use]
    pub fn group_config(&self, group: &str) -> GroupConfig {
        self.group_configs.get(group).copied().unwrap_or_default()
    }

    /// `group.max.size`.
    #[must_use]
    pub fn max_size(&self) -> usize {
        usize::try_from(self.config.max_size).unwrap_or(0)
    }
}

/// A group of either kind.
#[derive(Debug)]
pub enum Group {
    /// JoinGroup and its family.
    Classic(ClassicGroup),
    /// KIP-848.
    Consumer(ConsumerGroup),
}

impl Group {
    /// No members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Classic(group) => group.is_empty(),
            Self::Consumer(group) => group.is_empty(),
        }
    }

    /// Kafka's name of the state.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        match self {
            Self::Classic(group) => group.state().name(),
            Self::Consumer(group) => group.state_name(),
        }
    }

    /// Kafka's name of the kind, as it is sent.
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Classic(_) => "classic",
            Self::Consumer(_) => "consumer",
        }
    }

    /// `consumer`, `connect`…; empty for offsets under a name.
    #[must_use]
    pub fn protocol_type(&self) -> &str {
        match self {
            Self::Classic(group) => group.protocol_type().unwrap_or_default(),
            Self::Consumer(_) => super::classic::CONSUMER_PROTOCOL_TYPE,
        }
    }

    /// Whether a member is subscribed to the topic.
    #[must_use]
    pub fn is_subscribed(&self, topic: &str) -> bool {
        match self {
            Self::Classic(group) => group.is_subscribed(topic),
            Self::Consumer(group) => group.is_subscribed(topic),
        }
    }

    /// Writes the records that take the group away.
    pub(super) fn tombstones(&self, cx: &mut Context<'_>) {
        match self {
            Self::Classic(group) => group.tombstone(cx),
            Self::Consumer(group) => group.tombstones(cx),
        }
    }
}

/// A group and its offsets, which stay when the group changes its kind.
#[derive(Debug)]
pub struct Slot {
    pub(super) group: Group,
    pub(super) offsets: GroupOffsets,
}

/// The groups by id.
pub(super) type Groups = BTreeMap<Arc<str>, Slot>;

/// See the [module](self).
#[derive(Debug)]
pub struct Coordinator {
    pub(super) config: GroupsConfig,
    pub(super) group_configs: Arc<GroupConfigs>,
    pub(super) groups: Groups,
    pub(super) open: OpenTransactions,
    pub(super) timers: Timers,
    pub(super) ids: MemberIds,
    pub(super) upkeep: Upkeep,
}

impl Coordinator {
    /// Without groups. The seed must be new for every coordinator: member ids come from it.
    #[must_use]
    pub fn new(config: GroupsConfig, seed: u64) -> Self {
        Self {
            config,
            group_configs: Arc::default(),
            groups: BTreeMap::new(),
            open: OpenTransactions::new(),
            timers: Timers::default(),
            ids: MemberIds { state: seed },
            upkeep: Upkeep::default(),
        }
    }

    /// New settings of the broker: for what happens from now on.
    pub fn set_config(&mut self, config: GroupsConfig) {
        self.config = config;
    }

    /// The settings of groups, whether they are there or not; those of other partitions' groups do not matter.
    pub fn set_group_configs(&mut self, configs: Arc<GroupConfigs>) {
        self.group_configs = configs;
    }

    /// Takes a record of the partition, in the order of the log. Records of share and streams groups are passed over.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError> {
        let Some(key) = Key::decode(key)? else { return Ok(()) };
        match &key {
            Key::OffsetCommit { group, topic, partition } => {
                let value = value.map(OffsetCommitValue::decode).transpose()?;
                self.replay_offset(group, topic, *partition, value);
            }
            Key::GroupMetadata { group } => {
                let value = value.map(GroupMetadataValue::decode).transpose()?;
                self.replay_classic(group, value);
            }
            _ => self.replay_consumer(&key, value)?,
        }
        Ok(())
    }

    fn replay_offset(&mut self, id: &Arc<str>, topic: &Arc<str>, partition: i32, value: Option<OffsetCommitValue>) {
        let Some(value) = value else {
            if let Some(slot) = self.groups.get_mut(id) {
                slot.offsets.remove(topic, partition);
            }
            return;
        };
        slot_or_new(&mut self.groups, id, 0).offsets.insert(topic, partition, value);
    }

    fn replay_classic(&mut self, id: &Arc<str>, value: Option<GroupMetadataValue>) {
        if let Some(value) = value {
            slot_or_new(&mut self.groups, id, 0).group = Group::Classic(ClassicGroup::from_record(id.clone(), value));
        } else if self.groups.get(id).is_some_and(|slot| matches!(slot.group, Group::Classic(_))) {
            remove_group(&mut self.groups, id);
        }
    }

    fn replay_consumer(&mut self, key: &Key, value: Option<&[u8]>) -> Result<(), ReplayError> {
        let id = key.group();
        if value.is_some() {
            let slot = slot_or_new(&mut self.groups, id, 0);
            if let Group::Classic(classic) = &slot.group {
                // An upgrade takes the classic group away before it writes the new one.
                if !classic.is_empty() {
                    let group = id.to_string();
                    return Err(ReplayError::WrongGroup { record: key.name(), group, kind: "classic" });
                }
                slot.group = Group::Consumer(ConsumerGroup::new(id.clone()));
            }
        }
        if let Some(Slot { group: Group::Consumer(group), .. }) = self.groups.get_mut(id) {
            group.replay(key, value)?;
            if group.is_gone() {
                remove_group(&mut self.groups, id);
            }
        }
        Ok(())
    }

    /// The partition is read to its end: sessions of the members that were found begin now.
    pub fn loaded(&mut self, now: Now, topics: &dyn Topics, effects: &mut Effects) {
        let (mut cx, groups) = self.parts(now, topics, effects);
        for slot in groups.values_mut() {
            match &mut slot.group {
                Group::Classic(group) => group.loaded(&mut cx),
                Group::Consumer(group) => group.loaded(&mut cx),
            }
        }
        self.schedule_expiry(now);
    }

    /// How many groups there are, offsets without members included, and members.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let members = self.groups.values().map(|slot| match &slot.group {
            Group::Classic(group) => group.members().len() as u64,
            Group::Consumer(group) => group.members_len() as u64,
        });
        (self.groups.len() as u64, members.sum())
    }

    /// When [`Event::Tick`] is due, in monotonic milliseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.timers.next_deadline()
    }

    /// Takes an event.
    pub fn step(&mut self, now: Now, topics: &dyn Topics, event: Event, effects: &mut Effects) {
        match event {
            Event::Request { token, client, request } => {
                self.request(now, topics, effects, token, &client, request);
            }
            // The answer is made nevertheless, and dropped by the driver: nothing waits for it.
            Event::Gone(_) => {}
            Event::Tick => self.tick(now, topics, effects),
            // Consumer groups look at the topics with the next heartbeat of any member.
            Event::TopicsChanged => {}
            Event::Configured(configs) => self.set_group_configs(configs),
            Event::TransactionEnded { producer, ended } => self.end_transaction(producer, ended),
            Event::TopicsDeleted(deleted) => self.topics_deleted(now, topics, effects, deleted),
        }
    }

    /// What an event needs, beside the groups themselves.
    pub(super) fn parts<'a>(
        &'a mut self,
        now: Now,
        topics: &'a dyn Topics,
        effects: &'a mut Effects,
    ) -> (Context<'a>, &'a mut Groups) {
        let cx = Context {
            now,
            config: &self.config,
            group_configs: &self.group_configs,
            topics,
            timers: &mut self.timers,
            ids: &mut self.ids,
            effects,
        };
        (cx, &mut self.groups)
    }
}

impl Coordinator {
    fn tick(&mut self, now: Now, topics: &dyn Topics, effects: &mut Effects) {
        while let Some((timer, number)) = self.timers.pop(now.monotonic_ms) {
            if matches!(timer.kind, TimerKind::OffsetsExpiry | TimerKind::Sweep) {
                self.upkeep_came_up(now, topics, effects, &timer, number);
                continue;
            }
            let (mut cx, groups) = self.parts(now, topics, effects);
            match groups.get_mut(&timer.group).map(|slot| &mut slot.group) {
                Some(Group::Classic(group)) => group.expire(&mut cx, &timer, number),
                Some(Group::Consumer(group)) => {
                    group.expire(&mut cx, &timer, number);
                    maybe_downgrade(&mut cx, groups, &timer.group);
                }
                None => {}
            }
        }
    }
}

/// The group, or a new one that has nothing but a name.
pub(super) fn slot_or_new<'a>(groups: &'a mut Groups, id: &Arc<str>, wall_ms: i64) -> &'a mut Slot {
    groups.entry(id.clone()).or_insert_with(|| Slot {
        group: Group::Classic(ClassicGroup::new(id.clone(), wall_ms)),
        offsets: GroupOffsets::default(),
    })
}

/// Takes a group away: altogether, or all but its offsets where there are some.
pub(super) fn remove_group(groups: &mut Groups, id: &Arc<str>) {
    if let Some(slot) = groups.get_mut(id) {
        if slot.offsets.is_empty() {
            groups.remove(id);
        } else {
            slot.group = Group::Classic(ClassicGroup::new(id.clone(), 0));
        }
    }
}
