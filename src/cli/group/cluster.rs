//! What the commands ask of a cluster: coordinators, members, committed offsets, ends of logs.

use super::{connect, group_id, said, text, topic_name};
use crate::cli::cluster::error_name;
use crate::error_code::ErrorCode;
use bytes::Buf;
use coreline_bench::client::{Client, Cluster, OffsetSpec};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    ConsumerGroupDescribeRequest, ConsumerProtocolAssignment, DescribeGroupsRequest, FindCoordinatorRequest,
    OffsetCommitRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::Decodable;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A coordinator that is loading, or a topic that was just made, is there within this time.
const PATIENCE: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(100);

/// A topic's name and a partition.
pub(super) type PartitionKey = (String, i32);

/// Calls again while the coordinator is not there yet.
pub(super) fn patiently<T>(what: &str, mut call: impl FnMut() -> Result<Result<T, i16>, String>) -> Result<T, String> {
    let passing = [ErrorCode::CoordinatorLoadInProgress, ErrorCode::CoordinatorNotAvailable, ErrorCode::NotCoordinator];
    let deadline = Instant::now() + PATIENCE;
    loop {
        match call()? {
            Ok(found) => return Ok(found),
            Err(code) if passing.iter().any(|p| p.code() == code) && Instant::now() < deadline => {
                std::thread::sleep(PAUSE);
            }
            Err(code) => return Err(format!("{what}: {}", error_name(code))),
        }
    }
}

/// The node that runs a group.
pub(super) struct Coordinator {
    pub(super) client: Client,
    /// `host:port (id)`.
    pub(super) shown: String,
}

/// A member of a group.
pub(super) struct Member {
    pub(super) id: String,
    pub(super) instance: Option<String>,
    pub(super) client_id: String,
    pub(super) host: String,
    pub(super) partitions: BTreeSet<PartitionKey>,
}

/// A group as it is.
pub(super) struct GroupView {
    pub(super) id: String,
    pub(super) coordinator: String,
    pub(super) assignor: String,
    pub(super) state: String,
    pub(super) members: Vec<Member>,
}

/// How far a group has read a partition.
#[derive(Clone)]
pub(super) struct Progress {
    pub(super) group: String,
    pub(super) partition: PartitionKey,
    pub(super) committed: Option<i64>,
    pub(super) end: Option<i64>,
    /// Id, host and client id of the member that reads it.
    pub(super) reader: Option<(String, String, String)>,
}

/// The way to a cluster.
pub(super) struct Connection {
    client: Client,
}

impl Connection {
    pub(super) fn new(bootstrap: &str) -> Result<Self, String> {
        Ok(Self { client: connect(bootstrap)? })
    }

    /// The addresses of all brokers.
    pub(super) fn nodes(&mut self) -> Result<Vec<String>, String> {
        let cluster = self.client.metadata(Some(&[])).map_err(said)?;
        Ok(cluster.nodes.into_iter().map(|node| node.address).collect())
    }

    /// A connection to the coordinator of a group.
    pub(super) fn coordinator(&mut self, group: &str) -> Result<Coordinator, String> {
        let version = self.client.version_of::<FindCoordinatorRequest>().map_err(said)?;
        let request = FindCoordinatorRequest::default();
        let many = version >= 4;
        let request =
            if many { request.with_coordinator_keys(vec![text(group)]) } else { request.with_key(text(group)) };
        let (id, address) = patiently(group, || {
            let answer = self.client.call(&request).map_err(said)?;
            let (code, id, host, port) = match answer.coordinators.first() {
                Some(found) => (found.error_code, found.node_id.0, found.host.clone(), found.port),
                None => (answer.error_code, answer.node_id.0, answer.host, answer.port),
            };
            let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
            Ok(if code == 0 { Ok((id, address)) } else { Err(code) })
        })?;
        Ok(Coordinator { client: connect(&address)?, shown: format!("{address} ({id})") })
    }

    /// A group with its members, of either protocol.
    pub(super) fn describe(&mut self, group: &str) -> Result<GroupView, String> {
        let mut coordinator = self.coordinator(group)?;
        if coordinator.client.version_of::<ConsumerGroupDescribeRequest>().is_ok()
            && let Some(view) = describe_consumer(&mut coordinator, group)?
        {
            return Ok(view);
        }
        describe_classic(&mut coordinator, group)
    }

    /// Each partition that the group has read or reads now.
    pub(super) fn progress(&mut self, view: &GroupView) -> Result<Vec<Progress>, String> {
        let committed = self.committed(&view.id)?;
        let mut readers = BTreeMap::new();
        for member in &view.members {
            let reader = (member.id.clone(), member.host.clone(), member.client_id.clone());
            readers.extend(member.partitions.iter().map(|p| (p.clone(), reader.clone())));
        }
        let keys: BTreeSet<PartitionKey> = committed.keys().chain(readers.keys()).cloned().collect();
        let ends = self.offsets(&keys, OffsetSpec::Latest)?;
        let row = |partition: PartitionKey| Progress {
            group: view.id.clone(),
            committed: committed.get(&partition).copied(),
            end: ends.get(&partition).copied(),
            reader: readers.get(&partition).cloned(),
            partition,
        };
        Ok(keys.into_iter().map(row).collect())
    }

    /// What a group has committed.
    pub(super) fn committed(&mut self, group: &str) -> Result<BTreeMap<PartitionKey, i64>, String> {
        let mut client = self.coordinator(group)?.client;
        let version = client.version_of::<OffsetFetchRequest>().map_err(said)?;
        let all = OffsetFetchRequest::default();
        let request = if version >= 8 {
            let group = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_member_epoch(-1);
            all.with_groups(vec![group.with_topics(None)]).with_topics(Some(Vec::new()))
        } else {
            all.with_group_id(group_id(group)).with_topics(None)
        };
        patiently(group, || {
            let answer = client.call(&request).map_err(said)?;
            let mut found = BTreeMap::new();
            let code = match answer.groups.first() {
                Some(of_group) => {
                    for topic in &of_group.topics {
                        let each = topic.partitions.iter().map(|p| (p.partition_index, p.committed_offset));
                        found.extend(each.map(|(p, offset)| ((topic.name.to_string(), p), offset)));
                    }
                    of_group.error_code
                }
                None => {
                    for topic in &answer.topics {
                        let each = topic.partitions.iter().map(|p| (p.partition_index, p.committed_offset));
                        found.extend(each.map(|(p, offset)| ((topic.name.to_string(), p), offset)));
                    }
                    answer.error_code
                }
            };
            found.retain(|_, offset| *offset >= 0);
            Ok(if code == 0 { Ok(found) } else { Err(code) })
        })
    }

    /// Commits offsets for a group without members.
    pub(super) fn commit(&mut self, group: &str, offsets: &BTreeMap<PartitionKey, i64>) -> Result<(), String> {
        let mut client = self.coordinator(group)?.client;
        let mut by_topic: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let partition = OffsetCommitRequestPartition::default().with_partition_index(*partition);
            let partition = partition.with_committed_offset(*offset).with_committed_metadata(Some(text("")));
            by_topic.entry(topic).or_default().push(partition);
        }
        let topics = by_topic.into_iter().map(|(topic, partitions)| {
            OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
        });
        let request = OffsetCommitRequest::default().with_group_id(group_id(group)).with_topics(topics.collect());
        let request = request.with_generation_id_or_member_epoch(-1);
        patiently(group, || {
            let answer = client.call(&request).map_err(said)?;
            let mut codes = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| p.error_code));
            Ok(codes.find(|code| *code != 0).map_or(Ok(()), Err))
        })
    }

    /// Offsets of partitions, asked of their leaders; those that cannot be told are left out.
    pub(super) fn offsets(
        &mut self,
        keys: &BTreeSet<PartitionKey>,
        spec: OffsetSpec,
    ) -> Result<BTreeMap<PartitionKey, i64>, String> {
        let topics: BTreeSet<&str> = keys.iter().map(|(topic, _)| topic.as_str()).collect();
        let names: Vec<&str> = topics.into_iter().collect();
        let cluster = self.client.metadata(Some(&names)).map_err(said)?;
        let mut by_leader: BTreeMap<(i32, &str), Vec<i32>> = BTreeMap::new();
        for (topic, partition) in keys {
            if let Some(leader) = leader_of(&cluster, topic, *partition) {
                by_leader.entry((leader, topic)).or_default().push(*partition);
            }
        }
        let mut found = BTreeMap::new();
        let mut clients: BTreeMap<i32, Client> = BTreeMap::new();
        for ((leader, topic), partitions) in by_leader {
            if let std::collections::btree_map::Entry::Vacant(slot) = clients.entry(leader) {
                let Some(address) = cluster.address_of(leader) else { continue };
                slot.insert(connect(address)?);
            }
            let client = clients.get_mut(&leader).expect("just connected");
            for (partition, offset) in client.offsets(topic, &partitions, spec).map_err(said)? {
                if let Ok(offset) = offset {
                    found.insert((topic.to_owned(), partition), offset);
                }
            }
        }
        Ok(found)
    }

    /// The partitions that `TOPIC` and `TOPIC:0,1` name.
    pub(super) fn partitions(&mut self, topics: &[String]) -> Result<BTreeSet<PartitionKey>, String> {
        let mut found = BTreeSet::new();
        for one in topics {
            let (topic, list) = match one.split_once(':') {
                Some((topic, list)) => (topic, Some(list)),
                None => (one.as_str(), None),
            };
            let cluster = self.client.metadata(Some(&[topic])).map_err(said)?;
            let count = match cluster.topics.get(topic) {
                Some(t) if t.error_code == 0 => t.leaders.len(),
                Some(t) => return Err(format!("{topic}: {}", error_name(t.error_code))),
                None => return Err(format!("{topic}: {}", ErrorCode::UnknownTopicOrPartition.name())),
            };
            let all = 0..i32::try_from(count).unwrap_or(i32::MAX);
            match list {
                None => found.extend(all.map(|p| (topic.to_owned(), p))),
                Some(list) => {
                    for number in list.split(',') {
                        let known = number.trim().parse().ok().filter(|p| all.contains(p));
                        let partition = known.ok_or_else(|| format!("{one}: {topic} has partitions {all:?}"))?;
                        found.insert((topic.to_owned(), partition));
                    }
                }
            }
        }
        Ok(found)
    }
}

fn leader_of(cluster: &Cluster, topic: &str, partition: i32) -> Option<i32> {
    let leaders = &cluster.topics.get(topic)?.leaders;
    leaders.get(usize::try_from(partition).ok()?).copied().filter(|leader| *leader >= 0)
}

/// A group of the consumer protocol; none if it is not one.
fn describe_consumer(coordinator: &mut Coordinator, group: &str) -> Result<Option<GroupView>, String> {
    let request = ConsumerGroupDescribeRequest::default().with_group_ids(vec![group_id(group)]);
    let found = patiently(group, || {
        let mut answer = coordinator.client.call(&request).map_err(said)?;
        let Some(found) = answer.groups.pop() else { return Ok(Ok(None)) };
        Ok(match found.error_code {
            0 => Ok(Some(found)),
            code if code == ErrorCode::GroupIdNotFound.code() => Ok(None),
            code => Err(code),
        })
    })?;
    Ok(found.map(|found| GroupView {
        id: group.to_owned(),
        coordinator: coordinator.shown.clone(),
        assignor: found.assignor_name.to_string(),
        state: found.group_state.to_string(),
        members: found
            .members
            .into_iter()
            .map(|member| {
                let parts = member
                    .assignment
                    .topic_partitions
                    .iter()
                    .flat_map(|topic| topic.partitions.iter().map(|p| (topic.topic_name.to_string(), *p)));
                Member {
                    id: member.member_id.to_string(),
                    instance: member.instance_id.as_ref().map(ToString::to_string),
                    client_id: member.client_id.to_string(),
                    host: member.client_host.to_string(),
                    partitions: parts.collect(),
                }
            })
            .collect(),
    }))
}

fn describe_classic(coordinator: &mut Coordinator, group: &str) -> Result<GroupView, String> {
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id(group)]);
    let found = patiently(group, || {
        let mut answer = coordinator.client.call(&request).map_err(said)?;
        let Some(found) = answer.groups.pop() else { return Err(format!("{group}: the answer has no group")) };
        let code = found.error_code;
        Ok(if code == 0 { Ok(found) } else { Err(code) })
    })?;
    if found.group_state.as_str() == "Dead" {
        return Err(format!("{group}: {}", ErrorCode::GroupIdNotFound.name()));
    }
    let members = found.members.iter().map(|member| {
        let mut assignment = member.member_assignment.clone();
        let decoded = (assignment.remaining() >= 2)
            .then(|| assignment.get_i16())
            .and_then(|version| ConsumerProtocolAssignment::decode(&mut assignment, version.clamp(0, 3)).ok());
        let topics = decoded.map(|d| d.assigned_partitions).unwrap_or_default();
        let each = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.to_string(), *p)));
        Member {
            id: member.member_id.to_string(),
            instance: member.group_instance_id.as_ref().map(ToString::to_string),
            client_id: member.client_id.to_string(),
            host: member.client_host.to_string(),
            partitions: each.collect(),
        }
    });
    Ok(GroupView {
        id: group.to_owned(),
        coordinator: coordinator.shown.clone(),
        assignor: found.protocol_data.to_string(),
        state: found.group_state.to_string(),
        members: members.collect(),
    })
}
