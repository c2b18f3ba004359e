//! OffsetCommit: how far a group has read. Partitions that do not exist are refused here, the rest by the coordinator.

use super::group_client::{client, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use crate::ids::TopicId;
use crate::protocol::by_topic_id::{BY_TOPIC_ID, ByTopicId};
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestTopic;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, TopicName};
use std::collections::BTreeMap;
use std::rc::Rc;
use uuid::Uuid;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    image: &ClusterImage,
    ByTopicId(mut request): ByTopicId<OffsetCommitRequest>,
) -> OffsetCommitResponse {
    let by_id = context.request.header.api_version >= BY_TOPIC_ID;
    let unknown = if by_id { ErrorCode::UnknownTopicId } else { ErrorCode::UnknownTopicOrPartition };
    if by_id {
        for topic in &mut request.topics {
            topic.name = name_of(image, topic.topic_id).unwrap_or_default();
        }
    }
    let order: Vec<(TopicName, Uuid, Vec<i32>)> = request
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.topic_id, topic.partitions.iter().map(|p| p.partition_index).collect()))
        .collect();
    request.topics.retain_mut(|topic| keep_known(image, topic));
    let mut codes = BTreeMap::new();
    if !request.topics.is_empty() {
        let (group, asked) = (request.group_id.clone(), request.topics.clone());
        match of_kind!(groups.ask(&group, &client(context), Request::OffsetCommit(request)).await, OffsetCommit) {
            Ok(response) => {
                for topic in response.topics {
                    codes.extend(
                        topic.partitions.iter().map(|p| ((topic.name.clone(), p.partition_index), p.error_code)),
                    );
                }
            }
            Err(code) => {
                for topic in asked {
                    codes.extend(
                        topic.partitions.iter().map(|p| ((topic.name.clone(), p.partition_index), code.code())),
                    );
                }
            }
        }
    }
    // Topics of which nothing was asked are not answered: as Kafka.
    let topics = order.into_iter().filter(|(.., partitions)| !partitions.is_empty()).map(|(name, id, partitions)| {
        // A name is missing only where an id was not known.
        let missing = if name.is_empty() { unknown } else { ErrorCode::UnknownTopicOrPartition };
        let partitions = partitions.into_iter().map(|index| {
            let code = codes.get(&(name.clone(), index)).copied().unwrap_or(missing.code());
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(name).with_topic_id(id).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The name of the topic with this id, if there is one.
pub(super) fn name_of(image: &ClusterImage, id: Uuid) -> Option<TopicName> {
    image.topic_by_id(TopicId(id)).map(|topic| TopicName(text(&topic.name)))
}

/// Leaves only what exists; false if that is nothing.
fn keep_known(image: &ClusterImage, topic: &mut OffsetCommitRequestTopic) -> bool {
    let Some(known) = image.topic(&topic.name) else { return false };
    topic.partitions.retain(|p| known.partition(p.partition_index).is_some());
    !topic.partitions.is_empty()
}
