//! A member of a classic consumer group, for `kafka-console-consumer --group`: joins, assigns by range if it is the leader,
//! sends heartbeats between two fetches, commits, leaves. One topic, the default session of Kafka's consumer.

use super::cluster::error_name;
use super::group_admin::{Groups, classic_assignment};
use crate::error_code::ErrorCode;
use bytes::{Buf, BufMut, Bytes};
use coreline_bench::client::Client;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const SESSION_MS: i32 = 45_000;
/// Less than a connection waits for an answer.
const REBALANCE_MS: i32 = 45_000;
const HEARTBEAT: Duration = Duration::from_secs(3);
const PROTOCOL: &str = "range";
const PROTOCOL_TYPE: &str = "consumer";

/// Partitions by topic.
type Assignment = BTreeMap<String, Vec<i32>>;

/// See the [module](self).
pub(super) struct GroupMember {
    groups: Groups,
    group: String,
    topic: String,
    id: StrBytes,
    generation: i32,
    next_heartbeat: Instant,
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// What becomes of a member after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It goes on.
    Member,
    /// It joins again.
    Rejoin,
}

/// How far a partition was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// The offset behind the last record.
    pub(super) next: i64,
    /// Of the last record.
    pub(super) leader_epoch: i32,
}

impl GroupMember {
    /// Not a member yet.
    pub(super) fn new(groups: Groups, group: &str, topic: &str) -> Self {
        let (group, topic) = (group.to_owned(), topic.to_owned());
        Self { groups, group, topic, id: StrBytes::default(), generation: -1, next_heartbeat: Instant::now() }
    }

    fn group_id(&self) -> GroupId {
        GroupId(text(&self.group))
    }

    /// Joins, or joins again; its partitions of the topic.
    pub(super) fn join(&mut self) -> Result<Vec<i32>, String> {
        loop {
            let joined = self.ask_join()?;
            if self.judge(joined.error_code)? != Some(Standing::Member) {
                continue;
            }
            self.id = joined.member_id.clone();
            self.generation = joined.generation_id;
            let assignments = if joined.leader == joined.member_id { self.assign(&joined)? } else { Vec::new() };
            let ask = SyncGroupRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(self.generation)
                .with_member_id(self.id.clone())
                .with_protocol_type(Some(text(PROTOCOL_TYPE)))
                .with_protocol_name(Some(text(PROTOCOL)))
                .with_assignments(assignments);
            let call = |client: &mut Client| client.call(&ask).map_err(|e| e.to_string());
            let synced = self.groups.ask(&self.group, call, |a| a.error_code)?;
            if self.judge(synced.error_code)? == Some(Standing::Member) {
                self.next_heartbeat = Instant::now() + HEARTBEAT;
                return Ok(classic_assignment(synced.assignment).remove(&self.topic).unwrap_or_default());
            }
        }
    }

    fn ask_join(&mut self) -> Result<JoinGroupResponse, String> {
        let protocol = JoinGroupRequestProtocol::default().with_name(text(PROTOCOL));
        let mut ask = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(SESSION_MS)
            .with_rebalance_timeout_ms(REBALANCE_MS)
            .with_protocol_type(text(PROTOCOL_TYPE))
            .with_protocols(vec![protocol.with_metadata(subscription(&self.topic))]);
        loop {
            ask.member_id = self.id.clone();
            let call = |client: &mut Client| client.call(&ask).map_err(|e| e.to_string());
            let joined = self.groups.ask(&self.group, call, |a| a.error_code)?;
            if joined.error_code != ErrorCode::MemberIdRequired.code() {
                return Ok(joined);
            }
            self.id = joined.member_id;
        }
    }

    /// What an error means for a member; none: it joins again under a new id.
    fn judge(&mut self, code: i16) -> Result<Option<Standing>, String> {
        use ErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
        if code == ErrorCode::None.code() {
            return Ok(Some(Standing::Member));
        }
        if [IllegalGeneration, RebalanceInProgress].iter().any(|c| c.code() == code) {
            return Ok(Some(Standing::Rejoin));
        }
        if code == UnknownMemberId.code() {
            self.id = StrBytes::default();
            return Ok(None);
        }
        Err(format!("group {}: {}", self.group, error_name(code)))
    }

    /// As the leader: the partitions of every topic that somebody subscribed to.
    fn assign(&mut self, joined: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, String> {
        let members: BTreeMap<String, Vec<String>> =
            joined.members.iter().map(|m| (m.member_id.to_string(), subscribed(m.metadata.clone()))).collect();
        let mut counts = BTreeMap::new();
        for topic in members.values().flatten() {
            if !counts.contains_key(topic) {
                counts.insert(topic.clone(), self.groups.partitions(topic)?.unwrap_or(0));
            }
        }
        let one = |(id, assignment): (String, Assignment)| {
            SyncGroupRequestAssignment::default().with_member_id(text(&id)).with_assignment(encoded(&assignment))
        };
        Ok(range(&members, &counts).into_iter().map(one).collect())
    }

    /// Sends a heartbeat if it is time.
    pub(super) fn heartbeat(&mut self) -> Result<Standing, String> {
        if Instant::now() < self.next_heartbeat {
            return Ok(Standing::Member);
        }
        self.next_heartbeat = Instant::now() + HEARTBEAT;
        let ask = HeartbeatRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone());
        let call = |client: &mut Client| client.call(&ask).map_err(|e| e.to_string());
        let code = self.groups.ask(&self.group, call, |a| a.error_code)?.error_code;
        Ok(self.judge(code)?.unwrap_or(Standing::Rejoin))
    }

    /// What the group committed of the topic.
    pub(super) fn committed(&mut self) -> Result<BTreeMap<i32, i64>, String> {
        let all = self.groups.offsets(&self.group)?;
        Ok(all.into_iter().filter(|((topic, _), _)| *topic == self.topic).map(|((_, p), c)| (p, c.offset)).collect())
    }

    /// Commits where its partitions were read to.
    pub(super) fn commit(&mut self, positions: &BTreeMap<i32, Position>) -> Result<Standing, String> {
        if positions.is_empty() {
            return Ok(Standing::Member);
        }
        let one = |(partition, position): (&i32, &Position)| {
            let one = OffsetCommitRequestPartition::default().with_partition_index(*partition);
            one.with_committed_offset(position.next)
                .with_committed_leader_epoch(position.leader_epoch)
                .with_committed_metadata(Some(StrBytes::default()))
        };
        let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(&self.topic)));
        let ask = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_topics(vec![topic.with_partitions(positions.iter().map(one).collect())]);
        let code = |a: &OffsetCommitResponse| {
            let mut codes = a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
            codes.find(|code| *code != 0).unwrap_or(0)
        };
        let call = |client: &mut Client| client.call(&ask).map_err(|e| e.to_string());
        let answer = self.groups.ask(&self.group, call, code)?;
        Ok(self.judge(code(&answer))?.unwrap_or(Standing::Rejoin))
    }

    /// Leaves, so that the others need not wait for the session's end.
    pub(super) fn leave(mut self) -> Result<(), String> {
        let member = MemberIdentity::default().with_member_id(self.id.clone()).with_reason(None);
        let ask = LeaveGroupRequest::default().with_group_id(self.group_id()).with_members(vec![member]);
        let call = |client: &mut Client| client.call(&ask).map_err(|e| e.to_string());
        self.groups.ask(&self.group, call, |a| a.error_code).map(drop)
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.put_u16(u16::try_from(text.len()).unwrap_or(u16::MAX));
    bytes.extend(text.as_bytes());
}

/// A ConsumerProtocolSubscription of one topic, version 0.
fn subscription(topic: &str) -> Bytes {
    let mut bytes = vec![0, 0, 0, 0, 0, 1];
    put_text(&mut bytes, topic);
    bytes.put_i32(-1);
    bytes.into()
}

/// The topics of a ConsumerProtocolSubscription, whose later versions only add to the end; none if the bytes are no such.
fn subscribed(mut bytes: Bytes) -> Vec<String> {
    let mut read = || {
        let _version = bytes.try_get_i16().ok()?;
        let mut topics = Vec::new();
        for _ in 0..bytes.try_get_i32().ok()? {
            let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
            let name = (length <= bytes.len()).then(|| bytes.split_to(length))?;
            topics.push(std::str::from_utf8(&name).ok()?.to_owned());
        }
        Some(topics)
    };
    read().unwrap_or_default()
}

/// A ConsumerProtocolAssignment, version 0.
fn encoded(assignment: &Assignment) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.put_i32(i32::try_from(assignment.len()).unwrap_or(i32::MAX));
    for (topic, partitions) in assignment {
        put_text(&mut bytes, topic);
        bytes.put_i32(i32::try_from(partitions.len()).unwrap_or(i32::MAX));
        partitions.iter().for_each(|p| bytes.put_i32(*p));
    }
    bytes.put_i32(-1);
    bytes.into()
}

/// Kafka's range assignor: of each topic, the members that want it get neighbouring partitions, the first ones one more.
fn range(members: &BTreeMap<String, Vec<String>>, counts: &BTreeMap<String, i32>) -> BTreeMap<String, Assignment> {
    let mut all: BTreeMap<String, Assignment> = members.keys().map(|id| (id.clone(), Assignment::new())).collect();
    for (topic, count) in counts {
        let wanting: Vec<&String> =
            members.iter().filter(|(_, topics)| topics.contains(topic)).map(|(id, _)| id).collect();
        let of = i32::try_from(wanting.len()).unwrap_or(i32::MAX);
        let mut next = 0;
        for (number, id) in (0..).zip(wanting) {
            let share = count / of + i32::from(number < count % of);
            if share > 0 {
                let assignment = all.get_mut(id).expect("every member is there");
                assignment.insert(topic.clone(), (next..next + share).collect());
            }
            next += share;
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_kafkas() {
        let of = |list: &[(&str, &[&str])]| -> BTreeMap<String, Vec<String>> {
            list.iter().map(|(id, t)| ((*id).to_owned(), t.iter().map(|t| (*t).to_owned()).collect())).collect()
        };
        let counts = BTreeMap::from([("t".to_owned(), 5), ("u".to_owned(), 1), ("gone".to_owned(), 0)]);
        let members = of(&[("a", &["t", "u"]), ("b", &["t", "gone"]), ("c", &["u"]), ("d", &[])]);
        let found = range(&members, &counts);
        let show = |id: &str| found[id].iter().map(|(t, p)| format!("{t}{p:?}")).collect::<Vec<_>>().join(" ");
        assert_eq!([show("a"), show("b"), show("c"), show("d")], ["t[0, 1, 2] u[0]", "t[3, 4]", "", ""]);
    }

    #[test]
    fn what_members_say_to_each_other_is_read_back() {
        assert_eq!(subscribed(subscription("topic")), ["topic"]);
        for other in [&b""[..], b"\0", b"\0\x01\x7f\xff\xff\xff", b"\0\0\0\0\0\x01\0\x09abc"] {
            assert!(subscribed(Bytes::from_static(other)).is_empty());
        }
        let assignment = Assignment::from([("t".to_owned(), vec![0, 4]), ("u".to_owned(), vec![7])]);
        assert_eq!(classic_assignment(encoded(&assignment)), assignment);
    }
}
