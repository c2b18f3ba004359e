//! Members of one consumer group: they join, share partitions, commit as they go, fetch what was committed, leave, die
//! and come back, while the broker is killed at any time.
//!
//! | law | where |
//! | --- | --- |
//! | a committed offset is never lost, and never goes back | [`Ledger::fetched`] |
//! | nothing is fetched that nobody committed | `fetched` |
//! | no two members own a partition in one generation | [`Ledger::assigned`] |

use crate::client::{Connection, Lost};
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

/// The topic whose partitions the group shares; nobody produces to it.
pub(crate) const TOPIC: &str = "shared-by-group";
const PARTITIONS: i32 = 5;
const GROUP: &str = "group";
const SESSION_MS: i32 = 6000;
/// A Join waits for the others, at most so long.
const REBALANCE_MS: i32 = 2000;
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Commits of each member once the faults are over: then it leaves.
const LAST_COMMITS: u32 = 3;

/// What is known of the group's offsets. Pure.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By partition: an answer that is asked for from now on gives at least this.
    floor: BTreeMap<i32, i64>,
    /// By partition: the highest that anybody tried to commit.
    tried: BTreeMap<i32, i64>,
    /// Who owns a partition in a generation.
    owners: BTreeMap<(i32, i32), String>,
}

impl Ledger {
    fn floor(&self, partition: i32) -> i64 {
        self.floor.get(&partition).copied().unwrap_or(-1)
    }

    fn trying(&mut self, partition: i32, offset: i64) {
        let tried = self.tried.entry(partition).or_insert(-1);
        *tried = (*tried).max(offset);
    }

    fn known(&mut self, partition: i32, offset: i64) {
        let floor = self.floor.entry(partition).or_insert(-1);
        *floor = (*floor).max(offset);
    }

    /// An answer gave `offset`; when it was asked for, `floor` was known.
    fn fetched(&mut self, partition: i32, floor: i64, offset: i64) -> Result<(), String> {
        let tried = self.tried.get(&partition).copied().unwrap_or(-1);
        if offset < floor {
            return Err(format!("partition {partition} is at {offset}, and was at {floor} before it was asked"));
        }
        if offset > tried {
            return Err(format!("partition {partition} is at {offset}, and nobody committed more than {tried}"));
        }
        self.known(partition, offset);
        Ok(())
    }

    /// A member was given partitions.
    fn assigned(&mut self, generation: i32, member: &str, partitions: &[i32]) -> Result<(), String> {
        for partition in partitions {
            let owner = self.owners.entry((generation, *partition)).or_insert_with(|| member.to_owned());
            if owner != member {
                return Err(format!("generation {generation}: partition {partition} is {owner}'s and {member}'s"));
            }
        }
        Ok(())
    }
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn group_id() -> GroupId {
    GroupId(text(GROUP))
}

fn topic_name() -> TopicName {
    TopicName(text(TOPIC))
}

/// How a step of a member's life ends, if not well.
enum Setback {
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
    world: Rc<World>,
    ledger: Rc<RefCell<Ledger>>,
    name: String,
    rng: SimRng,
    /// The coordinator's name for it.
    id: StrBytes,
    commits_left: u32,
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
            id: StrBytes::default(),
            commits_left: LAST_COMMITS,
        };
        spawn(Box::pin(member.run()));
    }
}

impl Member {
    async fn run(mut self) {
        loop {
            if let Ok(connection) = Connection::open(&self.world, &self.name).await {
                match self.live(&connection).await {
                    Ok(()) => break,
                    Err(Setback::Rejoin(true)) => self.id = StrBytes::default(),
                    Err(Setback::Lost | Setback::Rejoin(false)) => {}
                }
            }
            self.world.client.sleep(Duration::from_micros(1000 + self.rng.below(30_000))).await;
        }
        self.world.done(&self.name);
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
        let identity = MemberIdentity::default().with_member_id(self.id.clone());
        let request = LeaveGroupRequest::default().with_group_id(group_id()).with_members(vec![identity]);
        connection.call(4, &request, REQUEST_TIMEOUT).await?;
        Ok(())
    }

    /// What an error code means for the member.
    fn judge(&self, what: &str, code: i16) -> Result<(), Setback> {
        use ErrorCode as E;
        let code = E::from_code(code);
        self.world.trace(|| format!("{}: {what}: {code:?}", self.name));
        match code {
            Some(E::None) => Ok(()),
            Some(E::RebalanceInProgress | E::MemberIdRequired) => Err(Setback::Rejoin(false)),
            Some(E::UnknownMemberId | E::IllegalGeneration) => Err(Setback::Rejoin(true)),
            Some(
                E::CoordinatorLoadInProgress | E::CoordinatorNotAvailable | E::NotCoordinator | E::KafkaStorageError,
            ) => Err(Setback::Lost),
            _ => fail(format!("{}: {what}: {code:?}", self.name)),
        }
    }

    async fn join(&mut self, connection: &Connection) -> Result<JoinGroupResponse, Setback> {
        loop {
            self.world.doing(&self.name, format!("joining as {:?}", self.id));
            let protocol = JoinGroupRequestProtocol::default().with_name(text("any"));
            let request = JoinGroupRequest::default()
                .with_group_id(group_id())
                .with_session_timeout_ms(SESSION_MS)
                .with_rebalance_timeout_ms(REBALANCE_MS)
                .with_member_id(self.id.clone())
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol.with_metadata(Bytes::from_static(b"m"))]);
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
            let mut bytes = BytesMut::new();
            (0..PARTITIONS).filter(|p| *p as usize % count == place).for_each(|p| bytes.put_i32(p));
            let assignment = SyncGroupRequestAssignment::default().with_member_id(member.member_id.clone());
            assignment.with_assignment(bytes.freeze())
        });
        let request = SyncGroupRequest::default()
            .with_group_id(group_id())
            .with_generation_id(joined.generation_id)
            .with_member_id(self.id.clone())
            .with_assignments(assignments.collect());
        let answer = connection.call(3, &request, JOIN_TIMEOUT).await?;
        self.judge("sync", answer.error_code)?;
        let mut bytes = answer.assignment;
        let partitions: Vec<i32> = std::iter::from_fn(|| (bytes.remaining() >= 4).then(|| bytes.get_i32())).collect();
        self.world.trace(|| format!("{} owns {partitions:?} in generation {}", self.name, joined.generation_id));
        let assigned = self.ledger.borrow_mut().assigned(joined.generation_id, &self.id, &partitions);
        self.world.check(assigned);
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
            let answer = connection.call(3, &request, REQUEST_TIMEOUT).await?;
            let rebalance = answer.error_code == ErrorCode::RebalanceInProgress.code();
            if !rebalance {
                self.judge("heartbeat", answer.error_code)?;
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
            if self.world.finishing.get() {
                self.commits_left = self.commits_left.saturating_sub(1);
                if self.commits_left == 0 {
                    return Ok(());
                }
            } else if self.rng.one_in(40) {
                // Dies without a word: somebody else takes its part when its session ends.
                return Err(Setback::Rejoin(true));
            }
        }
    }

    async fn commit(
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
        let answer = connection.call(8, &request, REQUEST_TIMEOUT).await?;
        for partition in &answer.topics[0].partitions {
            self.judge("commit", partition.error_code)?;
            let index = partition.partition_index;
            self.ledger.borrow_mut().known(index, positions[&index]);
        }
        Ok(())
    }

    async fn fetch(&self, connection: &Connection, partitions: &[i32]) -> Result<BTreeMap<i32, i64>, Setback> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_law_bites() {
        let mut ledger = Ledger::default();
        ledger.trying(0, 5);
        ledger.known(0, 5);
        ledger.fetched(0, 5, 5).expect("as committed");
        ledger.trying(0, 9);
        ledger.fetched(0, 5, 9).expect("one that was not answered");
        assert!(ledger.fetched(0, ledger.floor(0), 5).is_err_and(|e| e.contains("was at 9")));
        assert!(ledger.fetched(0, 9, 10).is_err_and(|e| e.contains("more than 9")));
        assert!(ledger.fetched(1, -1, 0).is_err_and(|e| e.contains("nobody")));
        ledger.assigned(1, "a", &[0, 1]).expect("the first");
        ledger.assigned(1, "a", &[0]).expect("again");
        ledger.assigned(2, "b", &[0]).expect("another generation");
        assert!(ledger.assigned(1, "b", &[1]).is_err_and(|e| e.contains("a's and b's")));
    }
}
