//! OffsetFetch: how far groups have read. One group before version 8, several since: each is asked of its coordinator,
//! all at a time.

use super::group_client::{client, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::error_code::ErrorCode;
use crate::groups::{Client, Request};
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
};
use kafka_protocol::messages::{OffsetFetchRequest, OffsetFetchResponse};
use std::rc::Rc;

/// The first version with several groups.
const MANY: i16 = 8;
/// The first version with an error of the whole group.
const GROUP_ERROR: i16 = 2;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: OffsetFetchRequest,
) -> OffsetFetchResponse {
    let client = client(context);
    let version = client.api_version;
    let stable = request.require_stable;
    if version >= MANY {
        let all = request.groups.into_iter().map(|group| one(groups, &client, group, stable));
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
    let found = one(groups, &client, group.with_topics(topics), stable).await;
    as_single(version, found, asked)
}

async fn one<R: Runtime>(
    groups: &Rc<Groups<R>>,
    client: &Client,
    group: OffsetFetchRequestGroup,
    require_stable: bool,
) -> OffsetFetchResponseGroup {
    let id = group.group_id.clone();
    let told = groups.ask(&id, client, Request::OffsetFetch { group, require_stable }).await;
    of_kind!(told, OffsetFetch)
        .unwrap_or_else(|code| OffsetFetchResponseGroup::default().with_group_id(id).with_error_code(code.code()))
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
