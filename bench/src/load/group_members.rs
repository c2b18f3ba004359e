//! Members of the groups of a load, of either protocol, many on one connection.

use super::LoadError;
use super::connection::Connection;
use super::groups::GroupsWorkload;
use bytes::Bytes;
use hdrhistogram::Histogram;
use kafka_protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse, GroupId, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::time::{Duration, Instant};

const JOIN: i16 = 9;
const SYNC: i16 = 5;
const HEARTBEAT: i16 = 4;
const CONSUMER_HEARTBEAT: i16 = 1;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const SESSION_MS: i32 = 300_000;
/// Rounds of heartbeats after which a group of the consumer protocol must have come to rest.
const ROUNDS_MAX: usize = 50;

/// How members speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// JoinGroup and its family.
    Classic,
    /// KIP-848.
    Consumer,
}

#[derive(Debug)]
struct Member {
    group: usize,
    connection: usize,
    id: StrBytes,
    /// Generation, or member epoch.
    epoch: i32,
    /// Of the consumer protocol.
    owned: Vec<TopicPartitions>,
}

/// All members of all groups.
#[derive(Debug)]
pub(super) struct Members {
    protocol: Protocol,
    topic: String,
    partitions: i32,
    connections: Vec<Connection>,
    members: Vec<Member>,
    correlation: i32,
    next: usize,
    moved: u64,
    /// When the last member of the last group that was made, or made anew, had sent its join.
    last_join: Instant,
    /// When the last member of that group had its assignment.
    last_assigned: Instant,
}

fn refused(what: &str, code: i16) -> LoadError {
    LoadError::Refused { what: what.to_owned(), code }
}

/// Groups of the two protocols are not the same: members of an earlier run may still be there.
fn group_id(protocol: Protocol, number: usize) -> GroupId {
    let protocol = if protocol == Protocol::Classic { "classic" } else { "consumer" };
    GroupId(StrBytes::from_string(format!("bench-{protocol}-{number}")))
}

impl Members {
    /// Makes every group of the workload, `lanes` at a time.
    pub(super) fn make(workload: &GroupsWorkload) -> Result<Self, LoadError> {
        let lanes = workload.lanes.min(workload.groups);
        let open = |_| Connection::open(&workload.bootstrap_server);
        let connections = (0..lanes * workload.members).map(open).collect::<Result<Vec<_>, _>>()?;
        let mut members = Self {
            protocol: workload.protocol,
            topic: workload.topic.clone(),
            partitions: workload.partitions,
            connections,
            members: Vec::with_capacity(workload.groups * workload.members),
            correlation: 0,
            next: 0,
            moved: 0,
            last_join: Instant::now(),
            last_assigned: Instant::now(),
        };
        let groups: Vec<usize> = (0..workload.groups).collect();
        for some in groups.chunks(lanes) {
            let first = members.members.len();
            for (lane, group) in some.iter().enumerate() {
                for k in 0..workload.members {
                    let id = match workload.protocol {
                        Protocol::Classic => StrBytes::default(),
                        Protocol::Consumer => StrBytes::from_string(format!("{group:010}-{k:010}-")),
                    };
                    let connection = lane * workload.members + k;
                    members.members.push(Member { group: *group, connection, id, epoch: 0, owned: Vec::new() });
                }
            }
            match workload.protocol {
                Protocol::Classic => {
                    members.join(first, false)?;
                    members.join(first, false)?;
                    members.sync(first)?;
                }
                Protocol::Consumer => members.come_to_rest(first)?,
            }
        }
        Ok(members)
    }

    pub(super) fn count(&self) -> usize {
        self.members.len()
    }

    /// Heartbeats that were answered with "join again", or with another assignment.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    fn correlate(&mut self) -> i32 {
        self.correlation = self.correlation.wrapping_add(1) & i32::MAX;
        self.correlation
    }

    /// All members from the `first` on join; `anew` with something new to say. Members that have no id get one.
    fn join(&mut self, first: usize, anew: bool) -> Result<(), LoadError> {
        let mut metadata = vec![0, 0, 0, 0, 0, 1];
        metadata.extend((self.topic.len() as u16).to_be_bytes());
        metadata.extend(self.topic.as_bytes());
        metadata.extend(if anew { &[0, 0, 0, 1, 7][..] } else { &[0xff; 4][..] });
        let metadata = Bytes::from(metadata);
        let mut ids = Vec::new();
        for i in first..self.members.len() {
            let id = self.correlate();
            let member = &self.members[i];
            let protocol = JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str("range"));
            let request = JoinGroupRequest::default()
                .with_group_id(group_id(self.protocol, member.group))
                .with_member_id(member.id.clone())
                .with_session_timeout_ms(SESSION_MS)
                .with_rebalance_timeout_ms(60_000)
                .with_protocol_type(StrBytes::from_static_str("consumer"))
                .with_protocols(vec![protocol.with_metadata(metadata.clone())]);
            self.connections[member.connection].send(&request, JOIN, id)?;
            ids.push(id);
        }
        self.last_join = Instant::now();
        for (i, id) in (first..self.members.len()).zip(ids) {
            let member = &mut self.members[i];
            let answer: JoinGroupResponse = self.connections[member.connection].receive(JOIN, id)?;
            if ![0, MEMBER_ID_REQUIRED].contains(&answer.error_code) {
                return Err(refused("JoinGroup", answer.error_code));
            }
            member.id = answer.member_id.clone();
            member.epoch = answer.generation_id;
        }
        Ok(())
    }

    /// The leader's assignments: each member of a group its share, in order.
    fn sync(&mut self, first: usize) -> Result<(), LoadError> {
        let mut ids = Vec::new();
        for i in first..self.members.len() {
            let id = self.correlate();
            let member = &self.members[i];
            let mut request = SyncGroupRequest::default()
                .with_group_id(group_id(self.protocol, member.group))
                .with_generation_id(member.epoch)
                .with_member_id(member.id.clone())
                .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
                .with_protocol_name(Some(StrBytes::from_static_str("range")));
            // Whoever is first may be the leader or not: the assignments come with everybody's request.
            let same: Vec<&Member> = self.members[first..].iter().filter(|m| m.group == member.group).collect();
            if same.first().is_some_and(|m| m.id == member.id) || same.len() <= 16 {
                request.assignments = same.iter().enumerate().map(|(n, m)| self.assignment(m, n, same.len())).collect();
            }
            self.connections[member.connection].send(&request, SYNC, id)?;
            ids.push(id);
        }
        for (i, id) in (first..self.members.len()).zip(ids) {
            let answer: SyncGroupResponse = self.connections[self.members[i].connection].receive(SYNC, id)?;
            if answer.error_code != 0 {
                return Err(refused("SyncGroup", answer.error_code));
            }
        }
        self.last_assigned = Instant::now();
        Ok(())
    }

    fn assignment(&self, member: &Member, number: usize, of: usize) -> SyncGroupRequestAssignment {
        let mine: Vec<i32> = (0..self.partitions).filter(|p| *p as usize % of == number).collect();
        let mut bytes = vec![0, 0, 0, 0, 0, 1];
        bytes.extend((self.topic.len() as u16).to_be_bytes());
        bytes.extend(self.topic.as_bytes());
        bytes.extend((mine.len() as i32).to_be_bytes());
        mine.iter().for_each(|p| bytes.extend(p.to_be_bytes()));
        bytes.extend([0xff; 4]);
        SyncGroupRequestAssignment::default().with_member_id(member.id.clone()).with_assignment(bytes.into())
    }

    fn send_heartbeat(&mut self, i: usize, full: bool) -> Result<i32, LoadError> {
        let id = self.correlate();
        let member = &self.members[i];
        let connection = &self.connections[member.connection];
        match self.protocol {
            Protocol::Classic => {
                let request = HeartbeatRequest::default()
                    .with_group_id(group_id(self.protocol, member.group))
                    .with_generation_id(member.epoch)
                    .with_member_id(member.id.clone());
                connection.send(&request, HEARTBEAT, id)?;
            }
            Protocol::Consumer => {
                let mut request = ConsumerGroupHeartbeatRequest::default()
                    .with_group_id(group_id(self.protocol, member.group))
                    .with_member_id(member.id.clone())
                    .with_member_epoch(member.epoch)
                    .with_rebalance_timeout_ms(-1)
                    .with_topic_partitions(None);
                if full {
                    let topics = vec![TopicName(StrBytes::from_string(self.topic.clone()))];
                    request = request.with_rebalance_timeout_ms(60_000).with_subscribed_topic_names(Some(topics));
                    request = request.with_topic_partitions(Some(member.owned.clone()));
                }
                connection.send(&request, CONSUMER_HEARTBEAT, id)?;
            }
        }
        Ok(id)
    }

    /// The answer; true if the member has to do something.
    fn receive_heartbeat(&mut self, i: usize, id: i32) -> Result<bool, LoadError> {
        let member = &mut self.members[i];
        let connection = &self.connections[member.connection];
        if self.protocol == Protocol::Classic {
            let answer: HeartbeatResponse = connection.receive(HEARTBEAT, id)?;
            return match answer.error_code {
                0 => Ok(false),
                REBALANCE_IN_PROGRESS => Ok(true),
                code => Err(refused("Heartbeat", code)),
            };
        }
        let answer: ConsumerGroupHeartbeatResponse = connection.receive(CONSUMER_HEARTBEAT, id)?;
        if answer.error_code != 0 {
            return Err(refused("ConsumerGroupHeartbeat", answer.error_code));
        }
        let mut moved = answer.member_epoch != member.epoch;
        member.epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            let own = |t: kafka_protocol::messages::consumer_group_heartbeat_response::TopicPartitions| {
                TopicPartitions::default().with_topic_id(t.topic_id).with_partitions(t.partitions)
            };
            let assigned: Vec<TopicPartitions> = assignment.topic_partitions.into_iter().map(own).collect();
            moved |= assigned != member.owned;
            member.owned = assigned;
        }
        Ok(moved)
    }

    /// `burst` heartbeats of the members whose turn it is.
    pub(super) fn heartbeats(&mut self, burst: usize, histogram: &mut Histogram<u64>) -> Result<(), LoadError> {
        let turn: Vec<usize> = (0..burst).map(|k| (self.next + k) % self.members.len()).collect();
        self.next = (self.next + burst) % self.members.len();
        let mut sent = Vec::with_capacity(burst);
        for i in turn {
            sent.push((i, self.send_heartbeat(i, false)?, Instant::now()));
        }
        for (i, id, at) in sent {
            self.moved += u64::from(self.receive_heartbeat(i, id)?);
            histogram.saturating_record(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    /// Members of the consumer protocol, from the `first` on, send heartbeats until nothing changes any more.
    fn come_to_rest(&mut self, first: usize) -> Result<(), LoadError> {
        for round in 0..ROUNDS_MAX {
            let mut sent = Vec::new();
            for i in first..self.members.len() {
                sent.push((i, self.send_heartbeat(i, true)?));
            }
            if round == 0 {
                self.last_join = Instant::now();
            }
            let mut moved = false;
            for (i, id) in sent {
                moved |= self.receive_heartbeat(i, id)?;
            }
            let had: usize = self.members[first..].iter().flat_map(|m| &m.owned).map(|t| t.partitions.len()).sum();
            let groups = self.members[first..].iter().map(|m| m.group).collect::<std::collections::BTreeSet<_>>().len();
            if !moved && had == groups * self.partitions as usize {
                self.last_assigned = Instant::now();
                return Ok(());
            }
        }
        Err(LoadError::Workload(format!("groups did not come to rest in {ROUNDS_MAX} rounds of heartbeats")))
    }

    /// A group of the classic protocol joins anew. The time from the last join to the last assignment, of this or, with the
    /// consumer protocol, of the group's making.
    pub(super) fn rebalance(&mut self) -> Result<Duration, LoadError> {
        if self.protocol == Protocol::Classic {
            self.join(0, true)?;
            self.sync(0)?;
        }
        Ok(self.last_assigned - self.last_join)
    }
}
