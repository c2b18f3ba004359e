//! Members of one consumer group: they join, share partitions, commit as they go, fetch what was committed, leave, die
//! and come back, while the broker is killed at any time.
//!
//! | law | where |
//! | --- | --- |
//! | a committed offset is never lost, and never goes back | [`Ledger::fetched`] |
//! | nothing is fetched that nobody committed | `fetched` |
//! | no two members own a partition in one generation | [`Ledger::assigned`] |
//! | nobody is given a partition while another one works on it, or was heard of lately | [`Ledger::take`] |
//!
//! A member speaks the classic protocol or that of KIP-848 (`consumer_member`), and may come back with the other one:
//! then the group changes while others are in it.

use crate::client::{Connection, Lost};
use crate::ledger::{Ledger, SILENT_MAX};
use crate::producer::REQUEST_TIMEOUT;
use crate::world::{World, fail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// The topic whose partitions the group shares; nobody produces to it.
pub(crate) const TOPIC: &str = "shared-by-group";
const PARTITIONS: i32 = 5;
const GROUP: &str = "group";
pub(crate) const SESSION_MS: i32 = 6000;
/// A Join waits for the others, at most so long.
pub(crate) const REBALANCE_MS: i32 = SILENT_MAX.as_millis() as i32;
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Commits of each member once the faults are over: then it leaves.
const LAST_COMMITS: u32 = 3;

pub(crate) fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

pub(crate) fn group_id() -> GroupId {
    GroupId(text(GROUP))
}

pub(crate) fn topic_name() -> TopicName {
    TopicName(text(TOPIC))
}

/// How a step of a member's life ends, if not well.
pub(crate) enum Setback {
    /// The connection is gone.
    Lost,
    /// Join again; `true`: as somebody new.
    Rejoin(bool),
}

impl From<Lost> for Setback {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

/// A member of the group.
pub(crate) struct Member {
    pub(crate) world: Rc<World>,
    pub(crate) ledger: Rc<RefCell<Ledger>>,
    pub(crate) name: String,
    pub(crate) rng: SimRng,
    plan: GroupPlan,
    /// It speaks the protocol of KIP-848.
    consumer: bool,
    /// The coordinator's name for it, or its own with KIP-848.
    pub(crate) id: StrBytes,
    /// With KIP-848.
    pub(crate) epoch: i32,
    /// The topic's id, once it was told.
    pub(crate) topic: Uuid,
    /// Where it is in the partitions that it has, with KIP-848.
    pub(crate) positions: BTreeMap<i32, i64>,
    commits_left: u32,
}

/// Which protocols the members speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupPlan {
    Classic,
    Consumer,
    /// Each of either kind, and of another one in its next life.
    Mixed,
}

/// Starts `count` members; `spawn` runs their tasks.
pub(crate) fn start(
    world: &Rc<World>,
    count: usize,
    mut spawn: impl FnMut(futures_util::future::LocalBoxFuture<'static, ()>),
) {
    let ledger: Rc<RefCell<Ledger>> = Rc::default();
    for number in 0..count {
        let name = format!("member-{number}");
        world.doing(&name, "starting");
        let member = Member {
            world: world.clone(),
            ledger: ledger.clone(),
            name,
            rng: world.rng(),
            plan: world.scenario.group_plan,
            consumer: false,
            id: StrBytes::default(),
            epoch: 0,
            topic: Uuid::nil(),
            positions: BTreeMap::new(),
            commits_left: LAST_COMMITS,
        };
        spawn(Box::pin(member.run()));
    }
}

impl Member {
    async fn run(mut self) {
        self.be_born();
        loop {
            if let Ok(connection) = Connection::open(&self.world, &self.name).await {
                match self.live(&connection).await {
                    Ok(()) => break,
                    Err(Setback::Rejoin(true)) => self.be_born(),
                    Err(Setback::Lost | Setback::Rejoin(false)) => {}
                }
            }
            self.world.client.sleep(Duration::from_micros(1000 + self.rng.below(30_000))).await;
        }
        self.world.done(&self.name);
    }

    /// Somebody new, who has nothing.
    fn be_born(&mut self) {
        self.ledger.borrow_mut().keep(&self.name, &[]);
        self.consumer = match self.plan {
            GroupPlan::Classic => false,
            GroupPlan::Consumer => true,
            GroupPlan::Mixed => self.rng.one_in(2),
        };
        let id = format!("{}-{}", self.name, self.rng.below(1 << 40));
        self.id = if self.consumer { StrBytes::from_string(id) } else { StrBytes::default() };
        (self.epoch, self.positions) = (0, BTreeMap::new());
    }

    /// One connection's life: until the member has left for good, or something gets in the way.
    async fn live(&mut self, connection: &Connection) -> Result<(), Setback> {
        self.world.doing(&self.name, "making the topic, looking for the coordinator");
        let topic = CreatableTopic::default().with_name(topic_name()).with_num_partitions(PARTITIONS);
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic.with_replication_factor(1)]).with_timeout_ms(1000);
        let created = connection.call(5, &request, REQUEST_TIMEOUT).await?;
        match ErrorCode::from_code(created.topics[0].error_code) {
            Some(ErrorCode::None | ErrorCode::TopicAlreadyExists) => {}
            _ => return Err(Setback::Lost),
        }
        let request = FindCoordinatorRequest::default().with_key(text(GROUP));
        if connection.call(2, &request, REQUEST_TIMEOUT).await?.error_code != 0 {
            return Err(Setback::Lost);
        }
        if self.consumer {
            return self.live_with_epochs(connection).await;
        }
        loop {
            let joined = self.join(connection).await?;
            let partitions = self.sync(connection, &joined).await?;
            match self.work(connection, joined.generation_id, &partitions).await {
                Ok(()) => break,
                Err(Setback::Rejoin(false)) => {}
                Err(setback) => return Err(setback),
            }
        }
        self.world.doing(&self.name, "leaving");
        self.ledger.borrow_mut().keep(&self.name, &[]);
        let identity = MemberIdentity::default().with_member_id(self.id.clone());
        let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(vec![identity]);
        connection.call(4, &request, REQUEST_TIMEOUT).await?;
        Ok(())
    }

    /// What an error code means for the member.
    pub(crate) fn judge(&self, what: &str, code: i16) -> Result<(), Setback> {
        use ErrorCode as E;
        let code = E::from_code(code);
        self.world.trace(|| format!("{}: {what}: {code:?}", self.name));
        match code {
            Some(E::None) => Ok(()),
            Some(E::RebalanceInProgress | E::MemberIdRequired | E::StaleMemberEpoch) => Err(Setback::Rejoin(false)),
            // The last one: all members were silent for too long, and the topic of all its offsets is gone.
            Some(E::UnknownMemberId | E::IllegalGeneration | E::FencedMemberEpoch | E::GroupIdNotFound) => {
                Err(Setback::Rejoin(true))
            }
            Some(
                E::CoordinatorLoadInProgress | E::CoordinatorNotAvailable | E::NotCoordinator | E::KafkaStorageError,
            ) => Err(Setback::Lost),
            _ => fail(format!("{}: {what}: {code:?}", self.name)),
        }
    }

    async fn join(&mut self, connection: &Connection) -> Result<JoinGroupResponse, Setback> {
        loop {
            self.world.doing(&self.name, format!("joining as {:?}", self.id));
            // Who joins has nothing until it is given something.
            self.ledger.borrow_mut().keep(&self.name, &[]);
            let protocol = JoinGroupRequestProtocol::default().with_name(text("range"));
            let request = JoinGroupRequest::default()
                .with_group_id(group_id())
                .with_session_timeout_ms(SESSION_MS)
                .with_rebalance_timeout_ms(REBALANCE_MS)
                .with_member_id(self.id.clone())
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol.with_metadata(subscription())]);
            let answer = connection.call(7, &request, JOIN_TIMEOUT).await?;
            if answer.error_code == ErrorCode::MemberIdRequired.code() {
                self.id = answer.member_id;
                continue;
            }
            self.judge("join", answer.error_code)?;
            self.id = answer.member_id.clone();
            return Ok(answer);
        }
    }

    /// The partitions that the leader, who may be this member, gave to it.
    async fn sync(&mut self, connection: &Connection, joined: &JoinGroupResponse) -> Result<Vec<i32>, Setback> {
        self.world.doing(&self.name, format!("syncing generation {}", joined.generation_id));
        let count = joined.members.len();
        let assignments = joined.members.iter().enumerate().map(|(place, member)| {
            let partitions: Vec<i32> = (0..PARTITIONS).filter(|p| *p as usize % count == place).collect();
            let assignment = SyncGroupRequestAssignment::default().with_member_id(member.member_id.clone());
            assignment.with_assignment(assignment_bytes(&partitions))
        });
        let request = SyncGroupRequest::default()
            .with_group_id(group_id())
            .with_generation_id(joined.generation_id)
            .with_member_id(self.id.clone())
            .with_assignments(assignments.collect());
        let sent_at = self.world.handle.now();
        let answer = connection.call(3, &request, JOIN_TIMEOUT).await?;
        self.judge("sync", answer.error_code)?;
        let Some(partitions) = assigned(answer.assignment.clone()) else {
            fail(format!("{}: an assignment that does not decode: {:?}", self.name, answer.assignment))
        };
        self.world.trace(|| format!("{} owns {partitions:?} in generation {}", self.name, joined.generation_id));
        let mut ledger = self.ledger.borrow_mut();
        // With both protocols a group may begin anew, at its first generation.
        if self.plan == GroupPlan::Classic {
            self.world.check(ledger.assigned(joined.generation_id, &self.id, &partitions));
        }
        self.world.check(ledger.take(&self.name, &partitions, sent_at, self.world.handle.now()));
        drop(ledger);
        Ok(partitions)
    }

    /// Commits ever more, until it is enough or the group wants to rebalance.
    async fn work(&mut self, connection: &Connection, generation: i32, partitions: &[i32]) -> Result<(), Setback> {
        let mut positions = self.fetch(connection, partitions).await?;
        loop {
            self.world.doing(&self.name, format!("working in generation {generation} at {positions:?}"));
            self.world.client.sleep(Duration::from_micros(self.rng.below(20_000))).await;
            let request = HeartbeatRequest::default().with_group_id(group_id()).with_generation_id(generation);
            let request = request.with_member_id(self.id.clone());
            let sent_at = self.world.handle.now();
            let answer = connection.call(3, &request, REQUEST_TIMEOUT).await?;
            let rebalance = answer.error_code == ErrorCode::RebalanceInProgress.code();
            if !rebalance {
                self.judge("heartbeat", answer.error_code)?;
                self.ledger.borrow_mut().confirm(&self.name, sent_at);
            }
            for position in positions.values_mut() {
                *position += 1 + self.rng.below(3) as i64;
            }
            if !positions.is_empty() {
                self.commit(connection, generation, &positions).await?;
            }
            if rebalance {
                return Err(Setback::Rejoin(false));
            }
            if self.rng.one_in(4) && !positions.is_empty() {
                positions = self.fetch(connection, partitions).await?;
            }
            if self.has_had_enough()? {
                return Ok(());
            }
        }
    }

    /// Leaves when the faults are over. An error: dies without a word; somebody else takes its part when its session ends.
    pub(crate) fn has_had_enough(&mut self) -> Result<bool, Setback> {
        if self.world.finishing.get() {
            self.commits_left = self.commits_left.saturating_sub(1);
            return Ok(self.commits_left == 0);
        }
        if self.rng.one_in(40) { Err(Setback::Rejoin(true)) } else { Ok(false) }
    }

    pub(crate) async fn commit(
        &self,
        connection: &Connection,
        generation: i32,
        positions: &BTreeMap<i32, i64>,
    ) -> Result<(), Setback> {
        let partitions = positions.iter().map(|(partition, offset)| {
            self.ledger.borrow_mut().trying(*partition, *offset);
            let partition = OffsetCommitRequestPartition::default().with_partition_index(*partition);
            partition.with_committed_offset(*offset).with_committed_metadata(Some(text("")))
        });
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name()).with_partitions(partitions.collect());
        let request = OffsetCommitRequest::default()
            .with_group_id(group_id())
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(self.id.clone())
            .with_topics(vec![topic]);
        let answer = connection.call(9, &request, REQUEST_TIMEOUT).await?;
        for partition in &answer.topics[0].partitions {
            self.judge("commit", partition.error_code)?;
            let index = partition.partition_index;
            self.ledger.borrow_mut().known(index, positions[&index]);
        }
        Ok(())
    }

    pub(crate) async fn fetch(
        &self,
        connection: &Connection,
        partitions: &[i32],
    ) -> Result<BTreeMap<i32, i64>, Setback> {
        self.world.doing(&self.name, "fetching offsets");
        let floors: BTreeMap<i32, i64> = partitions.iter().map(|p| (*p, self.ledger.borrow().floor(*p))).collect();
        let topic = OffsetFetchRequestTopics::default().with_name(topic_name());
        let topic = topic.with_partition_indexes(partitions.to_vec());
        let group = OffsetFetchRequestGroup::default().with_group_id(group_id()).with_topics(Some(vec![topic]));
        let request = OffsetFetchRequest::default().with_groups(vec![group]).with_topics(Some(Vec::new()));
        let answer = connection.call(8, &request, REQUEST_TIMEOUT).await?;
        let Some(group) = answer.groups.first() else { fail("an OffsetFetch without its group") };
        self.judge("offset fetch", group.error_code)?;
        let mut found = BTreeMap::new();
        for partition in group.topics.iter().flat_map(|t| &t.partitions) {
            self.judge("offset fetch", partition.error_code)?;
            let (index, offset) = (partition.partition_index, partition.committed_offset);
            let fetched = self.ledger.borrow_mut().fetched(index, floors[&index], offset);
            self.world.check(fetched);
            found.insert(index, offset);
        }
        Ok(found)
    }
}

/// What a classic member asks for, as Kafka's clients write it.
fn subscription() -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_topic(&mut bytes);
    bytes.put_i32(-1);
    bytes.freeze()
}

/// What a classic member is given, as Kafka's clients write it.
fn assignment_bytes(partitions: &[i32]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    put_topic(&mut bytes);
    bytes.put_i32(partitions.len() as i32);
    partitions.iter().for_each(|p| bytes.put_i32(*p));
    bytes.put_i32(-1);
    bytes.freeze()
}

fn put_topic(bytes: &mut BytesMut) {
    bytes.put_i16(TOPIC.len() as i16);
    bytes.put_slice(TOPIC.as_bytes());
}

/// The partitions of an assignment; none if it is not one.
fn assigned(mut bytes: Bytes) -> Option<Vec<i32>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let _version = bytes.try_get_i16().ok()?;
    let mut all = Vec::new();
    for _ in 0..bytes.try_get_i32().ok()? {
        let name = usize::try_from(bytes.try_get_i16().ok()?).ok().filter(|len| *len <= bytes.remaining())?;
        if bytes.split_to(name) != TOPIC.as_bytes() {
            return None;
        }
        for _ in 0..bytes.try_get_i32().ok()? {
            all.push(bytes.try_get_i32().ok()?);
        }
    }
    Some(all)
}
