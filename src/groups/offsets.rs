//! Committed offsets: commit, fetch, delete.

use super::classic::ClassicGroup;
use super::coordinator::{Context, Group, Groups, Slot};
use super::records::{OffsetCommitValue, offset_commit_key};
use super::transactional_offsets::Pending;
use super::{Client, Effects, Record, Topics};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{offset_commit_response, offset_delete_response};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The offsets of a group, by topic and partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupOffsets {
    topics: BTreeMap<Arc<str>, BTreeMap<i32, OffsetCommitValue>>,
    /// Those of transactions that go on.
    pub(super) pending: Pending,
}

impl GroupOffsets {
    /// None, and none to come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.pending.is_empty()
    }

    /// The offset of a partition.
    #[must_use]
    pub fn get(&self, topic: &str, partition: i32) -> Option<&OffsetCommitValue> {
        self.topics.get(topic)?.get(&partition)
    }

    /// The offset of a partition, unless the client knows the topic by another id than the one it was committed to.
    fn of(&self, topic: &OffsetFetchRequestTopics, partition: i32) -> Option<&OffsetCommitValue> {
        let value = self.get(&topic.name, partition)?;
        let either_unknown = topic.topic_id.is_nil() || value.topic_id.0.is_nil();
        (either_unknown || value.topic_id.0 == topic.topic_id).then_some(value)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeMap<i32, OffsetCommitValue>)> {
        self.topics.iter()
    }

    /// Sets the offset of a partition.
    pub fn insert(&mut self, topic: &str, partition: i32, value: OffsetCommitValue) {
        self.put(topic, partition, value);
        self.pending.outdate(topic, partition, u64::MAX);
    }

    pub(super) fn put(&mut self, topic: &str, partition: i32, value: OffsetCommitValue) {
        match self.topics.get_mut(topic) {
            Some(partitions) => {
                partitions.insert(partition, value);
            }
            None => {
                self.topics.insert(Arc::from(topic), BTreeMap::from([(partition, value)]));
            }
        }
    }

    /// Forgets the offset of a partition; whether there was one.
    pub fn remove(&mut self, topic: &str, partition: i32) -> bool {
        let Some(partitions) = self.topics.get_mut(topic) else { return false };
        let removed = partitions.remove(&partition).is_some();
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
        removed
    }

    /// Forgets the offsets that `drop` says, with a tombstone for each, and no more than `budget` of them. Whether it
    /// came to the end.
    pub(super) fn drop_if(
        &mut self,
        group: &str,
        effects: &mut Effects,
        budget: &mut usize,
        drop: impl Fn(&str, &OffsetCommitValue) -> bool,
    ) -> bool {
        let mut complete = true;
        self.topics.retain(|topic, partitions| {
            partitions.retain(|partition, value| {
                if !drop(topic, value) {
                    return true;
                }
                if *budget == 0 {
                    complete = false;
                    return true;
                }
                *budget -= 1;
                effects.records.push(Record { key: offset_commit_key(group, topic, *partition), value: None });
                false
            });
            !partitions.is_empty()
        });
        complete
    }

    /// Forgets all.
    pub(super) fn delete_all(&mut self, group: &str, cx: &mut Context<'_>) {
        let mut budget = usize::MAX;
        self.drop_if(group, cx.effects, &mut budget, |_, _| true);
    }
}

/// OffsetCommit. Either all is refused with one code, or each partition is judged by its metadata's length. Whether the
/// topics are there is for the handler to judge.
pub(super) fn commit(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    client: &Client,
    request: &codec::OffsetCommitRequest,
) -> codec::OffsetCommitResponse {
    let refused = validate_commit(groups, client, request).err();
    let slot = match refused {
        Some(_) => None,
        None => Some(slot_for_commit(cx, groups, &request.group_id)),
    };
    let mut response = codec::OffsetCommitResponse::default();
    response.topics.reserve(request.topics.len());
    match (slot, refused) {
        (Some(slot), _) => {
            if let Group::Classic(group) = &mut slot.group {
                group.heard_of(cx, &request.member_id);
            }
            for topic in &request.topics {
                let each = commit_topic(cx, &mut slot.offsets, request, topic);
                response.topics.push(each);
            }
        }
        (None, code) => {
            let code = code.unwrap_or(ErrorCode::UnknownServerError);
            response.topics.extend(request.topics.iter().map(|topic| {
                commit_response(topic, topic.partitions.iter().map(|partition| (partition.partition_index, code)))
            }));
        }
    }
    response
}

fn validate_commit(groups: &Groups, client: &Client, request: &codec::OffsetCommitRequest) -> Result<(), ErrorCode> {
    let (member, instance) = (&request.member_id, request.group_instance_id.as_deref());
    let epoch = request.generation_id_or_member_epoch;
    match groups.get(request.group_id.as_str()).map(|slot| &slot.group) {
        Some(Group::Classic(group)) => group.validate_offset_commit(member, instance, epoch, false),
        Some(Group::Consumer(group)) => group.validate_offset_commit(member, instance, epoch, client.api_version),
        // Offsets under a name: the group comes with them.
        None if epoch < 0 => Ok(()),
        None if client.api_version >= 9 => Err(ErrorCode::GroupIdNotFound),
        None => Err(ErrorCode::IllegalGeneration),
    }
}

pub(super) fn slot_for_commit<'a>(cx: &Context<'_>, groups: &'a mut Groups, id: &str) -> &'a mut Slot {
    // Twice looked up: the borrow of a first `get_mut` would last to the end.
    if !groups.contains_key(id) {
        let id: Arc<str> = Arc::from(id);
        let group = Group::Classic(ClassicGroup::new(id.clone(), cx.now.wall_ms));
        groups.insert(id, Slot { group, offsets: GroupOffsets::default() });
    }
    groups.get_mut(id).expect("it was there, or has just been put there")
}

fn commit_response(
    topic: &codec::offset_commit_request::OffsetCommitRequestTopic,
    codes: impl Iterator<Item = (i32, ErrorCode)>,
) -> offset_commit_response::OffsetCommitResponseTopic {
    let partitions = codes.map(|(partition, code)| {
        offset_commit_response::OffsetCommitResponsePartition::default()
            .with_partition_index(partition)
            .with_error_code(code as i16)
    });
    offset_commit_response::OffsetCommitResponseTopic::default()
        .with_name(topic.name.clone())
        .with_topic_id(topic.topic_id)
        .with_partitions(partitions.collect())
}

fn commit_topic(
    cx: &mut Context<'_>,
    offsets: &mut GroupOffsets,
    request: &codec::OffsetCommitRequest,
    topic: &codec::offset_commit_request::OffsetCommitRequestTopic,
) -> offset_commit_response::OffsetCommitResponseTopic {
    let topic_id = match topic.topic_id {
        id if id.is_nil() => cx.topics.id_of(&topic.name).unwrap_or_default(),
        id => TopicId(id),
    };
    // A retention of its own could be asked for in versions 2 to 4.
    let expire_timestamp_ms =
        if request.retention_time_ms < 0 { -1 } else { cx.now.wall_ms + request.retention_time_ms };
    let codes = topic.partitions.iter().map(|partition| {
        let committed = (partition.committed_offset, partition.committed_leader_epoch);
        let metadata = partition.committed_metadata.as_deref();
        let value = match commit_value(cx, topic_id, committed, metadata, expire_timestamp_ms) {
            Ok(value) => value,
            Err(code) => return (partition.partition_index, code),
        };
        let key = offset_commit_key(&request.group_id, &topic.name, partition.partition_index);
        cx.effects.records.push(Record { key, value: Some(value.encode()) });
        offsets.insert(&topic.name, partition.partition_index, value);
        (partition.partition_index, ErrorCode::None)
    });
    commit_response(topic, codes)
}

/// What is written down of a commit: offset and leader epoch, and the client's metadata.
pub(super) fn commit_value(
    cx: &Context<'_>,
    topic_id: TopicId,
    (offset, leader_epoch): (i64, i32),
    metadata: Option<&str>,
    expire_timestamp_ms: i64,
) -> Result<OffsetCommitValue, ErrorCode> {
    let metadata = metadata.unwrap_or_default();
    let max = usize::try_from(cx.config.offset_metadata_max_bytes).unwrap_or(0);
    // Kafka counts UTF-16 units, of which there are no more than bytes.
    if metadata.len() > max && metadata.encode_utf16().count() > max {
        return Err(ErrorCode::OffsetMetadataTooLarge);
    }
    Ok(OffsetCommitValue {
        offset,
        leader_epoch: leader_epoch.max(-1),
        // The empty one is shared: most clients write nothing.
        metadata: if metadata.is_empty() { Arc::default() } else { Arc::from(metadata) },
        commit_timestamp_ms: cx.now.wall_ms,
        expire_timestamp_ms,
        topic_id,
    })
}

/// OffsetFetch of one group. `require_stable` asks for no answer while a transaction's offsets are in the balance.
pub(super) fn fetch(
    topics: &dyn Topics,
    groups: &Groups,
    client: &Client,
    request: &OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let response = OffsetFetchResponseGroup::default().with_group_id(request.group_id.clone());
    let slot = groups.get(request.group_id.as_str());
    if let Some(Slot { group: Group::Consumer(group), .. }) = slot
        && let Err(code) = group.validate_offset_fetch(request.member_id.as_deref(), request.member_epoch)
    {
        return response.with_error_code(code as i16);
    }
    let none = GroupOffsets::default();
    let offsets = slot.map_or(&none, |slot| &slot.offsets);
    let fetched = |topic: &str, index: i32, value: Option<&OffsetCommitValue>| {
        let unstable = require_stable && offsets.pending.has(topic, index);
        if unstable { fetched_unstable(index) } else { fetched(index, value) }
    };
    let topics = match &request.topics {
        Some(asked) => asked
            .iter()
            .map(|topic| {
                let partitions = topic.partition_indexes.iter();
                OffsetFetchResponseTopics::default()
                    .with_name(topic.name.clone())
                    .with_topic_id(topic.topic_id)
                    .with_partitions(partitions.map(|&i| fetched(&topic.name, i, offsets.of(topic, i))).collect())
            })
            .collect(),
        None => offsets
            .iter()
            .map(|(name, partitions)| {
                let id =
                    if client.api_version >= 10 { topics.id_of(name).unwrap_or_default() } else { TopicId::default() };
                OffsetFetchResponseTopics::default()
                    .with_name(codec::TopicName(StrBytes::from_string(name.to_string())))
                    .with_topic_id(id.0)
                    .with_partitions(partitions.iter().map(|(i, value)| fetched(name, *i, Some(value))).collect())
            })
            .collect(),
    };
    response.with_topics(topics)
}

fn fetched(index: i32, value: Option<&OffsetCommitValue>) -> OffsetFetchResponsePartitions {
    let response = OffsetFetchResponsePartitions::default().with_partition_index(index);
    match value {
        Some(value) => response
            .with_committed_offset(value.offset)
            .with_committed_leader_epoch(value.leader_epoch)
            .with_metadata(Some(StrBytes::from_string(value.metadata.to_string()))),
        None => {
            response.with_committed_offset(-1).with_committed_leader_epoch(-1).with_metadata(Some(StrBytes::default()))
        }
    }
}

fn fetched_unstable(index: i32) -> OffsetFetchResponsePartitions {
    fetched(index, None).with_error_code(ErrorCode::UnstableOffsetCommit.code())
}

/// OffsetDelete: of topics that no member is subscribed to.
pub(super) fn delete(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    request: &codec::OffsetDeleteRequest,
) -> codec::OffsetDeleteResponse {
    let refused = |code: ErrorCode| codec::OffsetDeleteResponse::default().with_error_code(code as i16);
    if request.group_id.is_empty() {
        return refused(ErrorCode::InvalidGroupId);
    }
    let Some(slot) = groups.get_mut(request.group_id.as_str()) else { return refused(ErrorCode::GroupIdNotFound) };
    if let Group::Classic(group) = &slot.group
        && let Err(code) = group.validate_offset_delete()
    {
        return refused(code);
    }
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in &request.topics {
        let subscribed = slot.group.is_subscribed(&topic.name);
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            if !subscribed && slot.offsets.remove(&topic.name, index) {
                let key = offset_commit_key(&request.group_id, &topic.name, index);
                cx.effects.records.push(Record { key, value: None });
            }
            let code = if subscribed { ErrorCode::GroupSubscribedToTopic } else { ErrorCode::None };
            offset_delete_response::OffsetDeleteResponsePartition::default()
                .with_partition_index(index)
                .with_error_code(code as i16)
        });
        topics.push(
            offset_delete_response::OffsetDeleteResponseTopic::default()
                .with_name(topic.name.clone())
                .with_partitions(partitions.collect()),
        );
    }
    codec::OffsetDeleteResponse::default().with_topics(topics)
}
