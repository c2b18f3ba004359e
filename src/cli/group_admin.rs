//! What tools ask about consumer groups, of the brokers that coordinate them: what `coreline group` and
//! `kafka-consumer-groups` share.

use super::cluster::error_name;
use super::coordinators::{Coordinators, Kind, refused};
use crate::error_code::ErrorCode;
use bytes::Buf;
use coreline_bench::client::{Client, OffsetSpec};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest, GroupId, ListGroupsRequest,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, TopicName, consumer_group_describe_response,
    describe_groups_response,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::Duration;

/// A topic's partition.
pub(super) type TopicPartition = (String, i32);

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub group: String,
    pub protocol: String,
    /// `Classic`, `Consumer`, …
    pub kind: String,
    pub state: String,
}

/// A member of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    pub id: String,
    pub instance: Option<String>,
    pub client_id: String,
    pub host: String,
    /// KIP-848 only, as is the target.
    pub epoch: Option<i32>,
    pub assignment: BTreeMap<String, Vec<i32>>,
    pub target: Option<BTreeMap<String, Vec<i32>>>,
}

/// A group as its coordinator describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Description {
    pub group: String,
    pub kind: String,
    pub state: String,
    pub assignor: String,
    /// Group epoch and assignment epoch; KIP-848 only.
    pub epochs: Option<(i32, i32)>,
    pub members: Vec<Member>,
    /// `host:port` and node id.
    pub coordinator: (String, i32),
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Committed {
    pub offset: i64,
    pub leader_epoch: Option<i32>,
    pub metadata: String,
}

/// The brokers that coordinate groups, and what they are asked.
pub(super) struct Groups {
    cluster: Coordinators,
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// As Kafka's tools show what brokers write small.
pub(super) fn capitalised(name: &str) -> String {
    let (first, rest) = name.split_at(name.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

impl Groups {
    /// Connects to the cluster. `timeout` is for connections, answers, and coordinators that are loading.
    pub(super) fn connect(server: &str, timeout: Duration) -> Result<Self, String> {
        Ok(Self { cluster: Coordinators::connect(server, Kind::Group, timeout)? })
    }

    /// Asks a group's coordinator; again while `code` of the answer says that it is on its way.
    pub(super) fn ask<T>(
        &mut self,
        group: &str,
        call: impl FnMut(&mut Client) -> Result<T, String>,
        code: impl Fn(&T) -> i16,
    ) -> Result<T, String> {
        self.cluster.ask(group, call, code)
    }

    /// All groups of the cluster, by name; the filters take what they name, all if they name nothing.
    pub(super) fn list(&mut self, states: &[String], kinds: &[String]) -> Result<Vec<Listed>, String> {
        let ask = ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|s| text(s)).collect())
            .with_types_filter(kinds.iter().map(|s| text(s)).collect());
        let mut found = BTreeMap::new();
        for address in self.cluster.brokers()?.into_values() {
            let answer = self.cluster.client(&address)?.call(&ask).map_err(|e| e.to_string())?;
            if answer.error_code != 0 {
                return Err(error_name(answer.error_code));
            }
            for g in answer.groups {
                let listed = Listed {
                    group: g.group_id.0.to_string(),
                    protocol: g.protocol_type.to_string(),
                    kind: capitalised(g.group_type.as_str()),
                    state: g.group_state.to_string(),
                };
                found.insert(listed.group.clone(), listed);
            }
        }
        Ok(found.into_values().collect())
    }

    /// What the coordinator knows about a group.
    pub(super) fn describe(&mut self, group: &str) -> Result<Description, String> {
        let kind = self.list(&[], &[])?.into_iter().find(|g| g.group == group).map(|g| g.kind);
        let coordinator = self.cluster.coordinator(group)?;
        let described = if kind.is_some_and(|kind| kind == "Consumer") {
            self.describe_consumer(group)?
        } else {
            self.describe_classic(group)?
        };
        Ok(Description { coordinator, ..described })
    }

    fn describe_consumer(&mut self, group: &str) -> Result<Description, String> {
        let ask = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
        let call = |client: &mut Client| {
            let answer = client.call(&ask).map_err(|e| e.to_string())?;
            answer
                .groups
                .into_iter()
                .next()
                .ok_or_else(|| "ConsumerGroupDescribe was answered without the group".to_owned())
        };
        let found = self.cluster.ask(group, call, |g| g.error_code)?;
        if found.error_code != 0 {
            return Err(refused(found.error_code, found.error_message.as_ref()));
        }
        let assignment = |a: &consumer_group_describe_response::Assignment| {
            a.topic_partitions.iter().map(|t| (t.topic_name.0.to_string(), t.partitions.clone())).collect()
        };
        let member = |m: &consumer_group_describe_response::Member| Member {
            id: m.member_id.to_string(),
            instance: m.instance_id.as_ref().map(ToString::to_string),
            client_id: m.client_id.to_string(),
            host: m.client_host.to_string(),
            epoch: Some(m.member_epoch),
            assignment: assignment(&m.assignment),
            target: Some(assignment(&m.target_assignment)),
        };
        Ok(Description {
            group: group.to_owned(),
            kind: "Consumer".to_owned(),
            state: found.group_state.to_string(),
            assignor: found.assignor_name.to_string(),
            epochs: Some((found.group_epoch, found.assignment_epoch)),
            members: found.members.iter().map(member).collect(),
            coordinator: Default::default(),
        })
    }

    fn describe_classic(&mut self, group: &str) -> Result<Description, String> {
        let ask = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
        let call = |client: &mut Client| {
            let answer = client.call(&ask).map_err(|e| e.to_string())?;
            answer.groups.into_iter().next().ok_or_else(|| "DescribeGroups was answered without the group".to_owned())
        };
        let found = self.cluster.ask(group, call, |g| g.error_code)?;
        if found.error_code != 0 {
            return Err(refused(found.error_code, found.error_message.as_ref()));
        }
        let member = |m: &describe_groups_response::DescribedGroupMember| Member {
            id: m.member_id.to_string(),
            instance: m.group_instance_id.as_ref().map(ToString::to_string),
            client_id: m.client_id.to_string(),
            host: m.client_host.to_string(),
            epoch: None,
            assignment: classic_assignment(m.member_assignment.clone()),
            target: None,
        };
        Ok(Description {
            group: group.to_owned(),
            kind: "Classic".to_owned(),
            state: found.group_state.to_string(),
            assignor: found.protocol_data.to_string(),
            epochs: None,
            members: found.members.iter().map(member).collect(),
            coordinator: Default::default(),
        })
    }

    /// Every committed offset of a group.
    pub(super) fn offsets(&mut self, group: &str) -> Result<BTreeMap<TopicPartition, Committed>, String> {
        let wanted =
            OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_member_epoch(-1).with_topics(None);
        let ask = OffsetFetchRequest::default().with_groups(vec![wanted]);
        let call = |client: &mut Client| {
            let answer = client.call(&ask).map_err(|e| e.to_string())?;
            answer.groups.into_iter().next().ok_or_else(|| "OffsetFetch was answered without the group".to_owned())
        };
        let found = self.cluster.ask(group, call, |g| g.error_code)?;
        if found.error_code != 0 {
            return Err(error_name(found.error_code));
        }
        let mut offsets = BTreeMap::new();
        for topic in &found.topics {
            for p in topic.partitions.iter().filter(|p| p.committed_offset >= 0) {
                let committed = Committed {
                    offset: p.committed_offset,
                    leader_epoch: (p.committed_leader_epoch >= 0).then_some(p.committed_leader_epoch),
                    metadata: p.metadata.as_ref().map(ToString::to_string).unwrap_or_default(),
                };
                offsets.insert((topic.name.0.to_string(), p.partition_index), committed);
            }
        }
        Ok(offsets)
    }

    /// Commits offsets for a group that has no members.
    pub(super) fn commit(&mut self, group: &str, offsets: &BTreeMap<TopicPartition, i64>) -> Result<(), String> {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let one =
                OffsetCommitRequestPartition::default().with_partition_index(*partition).with_committed_offset(*offset);
            topics
                .entry(topic)
                .or_default()
                .push(one.with_committed_leader_epoch(-1).with_committed_metadata(Some(text(""))));
        }
        let topic = |(name, partitions): (&str, Vec<OffsetCommitRequestPartition>)| {
            OffsetCommitRequestTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
        };
        let ask = OffsetCommitRequest::default()
            .with_group_id(group_id(group))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.into_iter().map(topic).collect());
        let first = |a: &kafka_protocol::messages::OffsetCommitResponse| {
            let mut codes = a.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
            codes.find(|code| *code != 0).unwrap_or(0)
        };
        let answer = self.cluster.ask(group, |client| client.call(&ask).map_err(|e| e.to_string()), first)?;
        match first(&answer) {
            0 => Ok(()),
            code => Err(error_name(code)),
        }
    }

    /// Deletes a group and its offsets.
    ///
    /// # Errors
    /// Kafka's code, or why nothing was answered.
    pub(super) fn delete(&mut self, group: &str) -> Result<Result<(), i16>, String> {
        let ask = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let call = |client: &mut Client| {
            let answer = client.call(&ask).map_err(|e| e.to_string())?;
            Ok(answer.results.first().map_or(ErrorCode::UnknownServerError.code(), |r| r.error_code))
        };
        let code = self.cluster.ask(group, call, |code| *code)?;
        Ok(if code == 0 { Ok(()) } else { Err(code) })
    }

    /// Deletes committed offsets of some partitions: Kafka's code for the group, and for each partition.
    pub(super) fn delete_offsets(
        &mut self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<(i16, BTreeMap<TopicPartition, i16>), String> {
        let mut topics: BTreeMap<&str, Vec<OffsetDeleteRequestPartition>> = BTreeMap::new();
        for (topic, partition) in partitions {
            topics
                .entry(topic)
                .or_default()
                .push(OffsetDeleteRequestPartition::default().with_partition_index(*partition));
        }
        let topic = |(name, partitions): (&str, Vec<OffsetDeleteRequestPartition>)| {
            OffsetDeleteRequestTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
        };
        let ask = OffsetDeleteRequest::default()
            .with_group_id(group_id(group))
            .with_topics(topics.into_iter().map(topic).collect());
        let answer =
            self.cluster.ask(group, |client| client.call(&ask).map_err(|e| e.to_string()), |a| a.error_code)?;
        let codes = answer
            .topics
            .iter()
            .flat_map(|t| t.partitions.iter().map(|p| ((t.name.0.to_string(), p.partition_index), p.error_code)));
        Ok((answer.error_code, codes.collect()))
    }

    /// How many partitions a topic has; none if there is no such topic.
    pub(super) fn partitions(&mut self, topic: &str) -> Result<Option<i32>, String> {
        let cluster = self.cluster.metadata(Some(&[topic]))?;
        let found = cluster.topics.get(topic).filter(|t| t.error_code == 0);
        Ok(found.map(|t| i32::try_from(t.leaders.len()).unwrap_or(i32::MAX)))
    }

    /// Offsets of partitions at a place of their logs, from their leaders; partitions that cannot be asked are left out.
    pub(super) fn log_offsets(
        &mut self,
        partitions: &[TopicPartition],
        spec: OffsetSpec,
    ) -> Result<BTreeMap<TopicPartition, i64>, String> {
        let cluster = self.cluster.metadata(None)?;
        let mut by_leader: BTreeMap<(String, &str), Vec<i32>> = BTreeMap::new();
        for (topic, partition) in partitions {
            let leader = cluster.topics.get(topic).and_then(|t| t.leaders.get(usize::try_from(*partition).ok()?));
            if let Some(address) = leader.and_then(|leader| cluster.address_of(*leader)) {
                by_leader.entry((address.to_owned(), topic)).or_default().push(*partition);
            }
        }
        let mut found = BTreeMap::new();
        for ((address, topic), partitions) in by_leader {
            let answer = self.cluster.client(&address)?.offsets(topic, &partitions, spec).map_err(|e| e.to_string())?;
            found.extend(answer.into_iter().filter_map(|(p, offset)| Some(((topic.to_owned(), p), offset.ok()?))));
        }
        Ok(found)
    }
}

/// What a member of a classic group was given, if it speaks the consumer's protocol. By hand: the bytes are another
/// client's, and the codec believes a length before it has seen the bytes.
pub(super) fn classic_assignment(mut bytes: bytes::Bytes) -> BTreeMap<String, Vec<i32>> {
    let mut topics = BTreeMap::new();
    let mut read = || {
        let _version = bytes.try_get_i16().ok()?;
        for _ in 0..bytes.try_get_i32().ok()? {
            let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
            let name = (length <= bytes.len()).then(|| bytes.split_to(length))?;
            let name = std::str::from_utf8(&name).ok()?.to_owned();
            let mut partitions = Vec::new();
            for _ in 0..bytes.try_get_i32().ok()? {
                partitions.push(bytes.try_get_i32().ok()?);
            }
            topics.insert(name, partitions);
        }
        Some(())
    };
    match read() {
        Some(()) => topics,
        None => BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::ConsumerProtocolAssignment;
    use kafka_protocol::messages::consumer_protocol_assignment::TopicPartition as Assigned;
    use kafka_protocol::protocol::Encodable;

    #[test]
    fn an_assignment_of_the_consumers_protocol_is_read() {
        let topic = Assigned::default().with_topic(TopicName(text("a"))).with_partitions(vec![0, 2]);
        let mut bytes = BytesMut::new();
        bytes.put_i16(1);
        ConsumerProtocolAssignment::default()
            .with_assigned_partitions(vec![topic])
            .encode(&mut bytes, 1)
            .expect("encodes");
        assert_eq!(classic_assignment(bytes.freeze()), BTreeMap::from([("a".to_owned(), vec![0, 2])]));
        for other in [&b""[..], b"\0", b"\0\x01\x7f\xff\xff\xff", b"connect"] {
            assert_eq!(classic_assignment(bytes::Bytes::from_static(other)), BTreeMap::new());
        }
    }
}
