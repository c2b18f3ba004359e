//! OffsetDelete: takes back what a group committed (KIP-496). Partitions that do not exist are refused here.

use super::group_client::{client, not_empty, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::offset_delete_request::OffsetDeleteRequestPartition;
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse, TopicName};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    image: &ClusterImage,
    mut request: OffsetDeleteRequest,
) -> OffsetDeleteResponse {
    let mut unknown = Vec::new();
    for topic in &mut request.topics {
        let known = image.topic(&topic.name);
        let (there, gone) = std::mem::take(&mut topic.partitions)
            .into_iter()
            .partition(|p| known.is_some_and(|known| known.partition(p.partition_index).is_some()));
        topic.partitions = there;
        if let gone @ [_, ..] = &gone[..] {
            unknown.push(refused(topic.name.clone(), gone));
        }
    }
    let group = request.group_id.clone();
    let told = match not_empty(&group) {
        Ok(()) => of_kind!(groups.ask(&group, &client(context), Request::OffsetDelete(request)).await, OffsetDelete),
        Err(code) => Err(code),
    };
    match told {
        // An error of the group stands alone.
        Ok(response) if response.error_code != ErrorCode::None.code() => response,
        Ok(mut response) => {
            for refused in unknown {
                match response.topics.iter_mut().find(|topic| topic.name == refused.name) {
                    Some(topic) => topic.partitions.extend(refused.partitions),
                    None => response.topics.push(refused),
                }
            }
            response
        }
        Err(code) => OffsetDeleteResponse::default().with_error_code(code.code()),
    }
}

fn refused(name: TopicName, partitions: &[OffsetDeleteRequestPartition]) -> OffsetDeleteResponseTopic {
    let refused = partitions.iter().map(|p| {
        let partition = OffsetDeleteResponsePartition::default().with_partition_index(p.partition_index);
        partition.with_error_code(ErrorCode::UnknownTopicOrPartition.code())
    });
    OffsetDeleteResponseTopic::default().with_name(name).with_partitions(refused.collect())
}
