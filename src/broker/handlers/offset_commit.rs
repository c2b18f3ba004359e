//! OffsetCommit: how far a group has read. Partitions that do not exist are refused here, the rest by the coordinator.
//! Commits of one connection are asked in order, and share group commits: the next need not wait for the answer.

use super::Handlers;
use super::group_client::{client, of_kind, touch};
use crate::broker::connection::{Answer, RequestContext};
use crate::broker::coordinator::Asked;
use crate::broker::groups::{GroupKind, Groups};
use crate::broker::pipeline::{Answered, Close};
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use crate::ids::TopicId;
use crate::latency::{Stage, Timeline};
use crate::protocol::by_topic_id::{BY_TOPIC_ID, ByTopicId};
use crate::protocol::codec;
use bytes::BytesMut;
use coreline_io::Runtime;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::{OffsetCommitRequest, OffsetCommitResponse, TopicName};
use std::rc::Rc;
use uuid::Uuid;

impl<R: Runtime> Handlers<R> {
    pub(super) async fn offset_commit(&self, mut context: RequestContext, body: BytesMut) -> Result<Answer, Close> {
        let ByTopicId(request) = codec::decode(&context.request, body.freeze()).map_err(Close::because)?;
        let RequestContext { timeline, .. } = &mut context;
        timeline.mark_now(Stage::Parse, || self.shard.runtime.now().nanos);
        let image = self.shard.image();
        let committing = Box::pin(begin(&self.groups, &context, &image, request)).await;
        let RequestContext { request, mut timeline, .. } = context;
        let clock = self.shard.runtime.clone();
        Ok(Answer::Later(Box::pin(async move {
            let response = committing.answer(&mut timeline).await;
            timeline.mark_now(Stage::Handle, || clock.now().nanos);
            Ok(Answered { frame: codec::encode(&request, &response), timeline })
        })))
    }
}

/// A commit that the coordinator has, as far as it is the coordinator's.
struct Committing<R: Runtime> {
    /// What was asked of, in order.
    topics: Vec<Topic>,
    /// None if nothing of it exists.
    asked: Option<Result<Asked<R, GroupKind>, ErrorCode>>,
}

struct Topic {
    name: TopicName,
    id: Uuid,
    /// The code of a partition that does not exist.
    missing: ErrorCode,
    /// Index, and whether it exists.
    partitions: Vec<(i32, bool)>,
}

async fn begin<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    image: &ClusterImage,
    mut request: OffsetCommitRequest,
) -> Committing<R> {
    let by_id = context.request.header.api_version >= BY_TOPIC_ID;
    let mut topics = Vec::with_capacity(request.topics.len());
    request.topics.retain_mut(|topic| {
        let mut missing = ErrorCode::UnknownTopicOrPartition;
        if by_id {
            match name_of(image, topic.topic_id) {
                Some(name) => topic.name = name,
                None => missing = ErrorCode::UnknownTopicId,
            }
        }
        let known = image.topic(&topic.name);
        let exists = |index: i32| known.is_some_and(|known| known.partition(index).is_some());
        let partitions = topic.partitions.iter().map(|p| (p.partition_index, exists(p.partition_index))).collect();
        topic.partitions.retain(|p| exists(p.partition_index));
        topics.push(Topic { name: topic.name.clone(), id: topic.topic_id, missing, partitions });
        !topic.partitions.is_empty()
    });
    let asked = if request.topics.is_empty() {
        None
    } else {
        let group = request.group_id.clone();
        touch(groups, context, &group);
        Some(groups.begin(&group, &client(context), Request::OffsetCommit(request)).await)
    };
    Committing { topics, asked }
}

impl<R: Runtime> Committing<R> {
    async fn answer(self, timeline: &mut Timeline) -> OffsetCommitResponse {
        let told = match self.asked {
            Some(Ok(asked)) => {
                let (told, stages) = asked.timed_answer().await;
                stages.iter().for_each(|stages| stages.mark(timeline, Stage::Handle));
                of_kind!(told, OffsetCommit)
            }
            Some(Err(code)) => Err(code),
            None => Ok(OffsetCommitResponse::default()),
        };
        merge(self.topics, told)
    }
}

/// What is answered of all that was asked, when the coordinator has said so of what exists.
fn merge(asked: Vec<Topic>, told: Result<OffsetCommitResponse, ErrorCode>) -> OffsetCommitResponse {
    let refused = told.as_ref().err().copied();
    let told = told.map(|response| response.topics).unwrap_or_default();
    let mut codes = told.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.error_code);
    // Topics of which nothing was asked are not answered: as Kafka.
    let topics = asked.into_iter().filter(|topic| !topic.partitions.is_empty()).map(|topic| {
        let partitions = topic.partitions.into_iter().map(|(index, exists)| {
            let code = match (exists, refused) {
                (false, _) => topic.missing.code(),
                (true, Some(code)) => code.code(),
                (true, None) => codes.next().expect("the coordinator answers every partition, in order"),
            };
            OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        });
        let partitions = partitions.collect();
        OffsetCommitResponseTopic::default().with_name(topic.name).with_topic_id(topic.id).with_partitions(partitions)
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// The name of the topic with this id, if there is one.
pub(super) fn name_of(image: &ClusterImage, id: Uuid) -> Option<TopicName> {
    image.topic_by_id(TopicId(id)).map(|topic| TopicName(codec::text(&topic.name)))
}
