//! OffsetFetch: how far groups have read. One group before version 8, several since: each is asked of its coordinator,
//! all at a time.

use super::group_client::{client, of_kind};
use super::offset_commit::name_of;
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::groups::{Client, Request};
use crate::protocol::by_topic_id::{BY_TOPIC_ID, ByTopicId};
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

/// The first version with several groups.
const MANY: i16 = 8;
/// The first version with an error of the whole group.
const GROUP_ERROR: i16 = 2;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    image: &ClusterImage,
    ByTopicId(request): ByTopicId<OffsetFetchRequest>,
) -> OffsetFetchResponse {
    let client = client(context);
    let version = client.api_version;
    let stable = request.require_stable;
    if version >= MANY {
        let all = request.groups.into_iter().map(|group| one(groups, image, &client, group, stable));
        return OffsetFetchResponse::default().with_groups(join_all(all).await);
    }
    let topics = request.topics.map(|topics| {
        let topic = |t: kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic| {
            OffsetFetchRequestTopics::default().with_name(t.name).with_partition_indexes(t.partition_indexes)
        };
        topics.into_iter().map(topic).collect::<Vec<_>>()
    });
    let group = OffsetFetchRequestGroup::default().with_group_id(request.group_id).with_member_epoch(-1);
    let asked = topics.clone();
    let found = one(groups, image, &client, group.with_topics(topics), stable).await;
    as_single(version, found, asked)
}

async fn one<R: Runtime>(
    groups: &Rc<Groups<R>>,
    image: &ClusterImage,
    client: &Client,
    mut group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let id = group.group_id.clone();
    let unknown = if client.api_version >= BY_TOPIC_ID { name_topics(image, &mut group) } else { Vec::new() };
    let told = groups.ask(&id, client, Request::OffsetFetch { group, require_stable }).await;
    let mut found = of_kind!(told, OffsetFetch)
        .unwrap_or_else(|code| OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(code.code()));
    if found.error_code == ErrorCode::None.code() {
        found.topics.extend(unknown);
    }
    found
}

/// Gives the topics of a group the names that belong to their ids. Those that have none are taken out, and come back as
/// what is to be answered of them.
fn name_topics(image: &ClusterImage, group: &mut OffsetFetchRequestGroup) -> Vec<OffsetFetchResponseTopics> {
    let mut unknown = Vec::new();
    let failed = |&index: &i32| {
        let partition = OffsetFetchResponsePartitions::default().with_partition_index(index);
        let partition = partition.with_committed_offset(-1).with_committed_leader_epoch(-1);
        partition.with_metadata(Some(StrBytes::default())).with_error_code(ErrorCode::UnknownTopicId.code())
    };
    if let Some(topics) = &mut group.topics {
        topics.retain_mut(|topic| {
            let name = name_of(image, topic.topic_id);
            if name.is_none() {
                let partitions = topic.partition_indexes.iter().map(failed).collect();
                let topic = OffsetFetchResponseTopics::default().with_topic_id(topic.topic_id);
                unknown.push(topic.with_partitions(partitions));
            }
            name.map(|name| topic.name = name).is_some()
        });
    }
    unknown
}

/// The answer of the older versions.
fn as_single(
    version: i16,
    group: OffsetFetchResponseGroup,
    asked: Option<Vec<OffsetFetchRequestTopics>>,
) -> OffsetFetchResponse {
    let error = group.error_code;
    if error != ErrorCode::None.code() {
        if version >= GROUP_ERROR {
            return OffsetFetchResponse::default().with_error_code(error);
        }
        // Version 1 has errors of partitions only.
        let failed = |index: i32| {
            let partition = OffsetFetchResponsePartition::default().with_partition_index(index);
            partition.with_committed_offset(-1).with_metadata(Some(Default::default())).with_error_code(error)
        };
        let topics = asked.unwrap_or_default().into_iter().map(|topic| {
            let partitions = topic.partition_indexes.into_iter().map(failed).collect();
            OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions)
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let topics = group.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.into_iter().map(|p| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_committed_offset(p.committed_offset)
                .with_committed_leader_epoch(p.committed_leader_epoch)
                .with_metadata(p.metadata)
                .with_error_code(p.error_code)
        });
        OffsetFetchResponseTopic::default().with_name(topic.name).with_partitions(partitions.collect())
    });
    OffsetFetchResponse::default().with_topics(topics.collect())
}
