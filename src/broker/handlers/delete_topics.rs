//! DeleteTopics: by name, or by id from version 6 on.

use crate::broker::Shard;
use crate::controller::commands::TopicRef;
use crate::controller::{Command, Outcome, TopicOutcome};
use crate::ids::TopicId;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(shard: &Rc<Shard<R>>, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let by_state = |t: &DeleteTopicState| match &t.name {
        Some(name) => TopicRef::Name(name.0.to_string()),
        None => TopicRef::Id(TopicId(t.topic_id)),
    };
    let mut topics: Vec<TopicRef> = request.topics.iter().map(by_state).collect();
    topics.extend(request.topic_names.iter().map(|name| TopicRef::Name(name.0.to_string())));
    let outcomes = match shard.controller.submit(Command::DeleteTopics { topics: topics.clone() }).await {
        Ok(Outcome::Topics(outcomes)) => outcomes,
        Ok(other) => unreachable!("topics have outcomes of topics, not {other:?}"),
        Err(e) => topics.iter().map(|t| unanswered(t, e.clone())).collect(),
    };
    DeleteTopicsResponse::default().with_responses(outcomes.iter().map(result).collect())
}

fn unanswered(topic: &TopicRef, error: crate::controller::CommandError) -> TopicOutcome {
    let (name, id) = match topic {
        TopicRef::Name(name) => (Some(name.clone()), TopicId::default()),
        TopicRef::Id(id) => (None, *id),
    };
    TopicOutcome { name, id, result: Err(error) }
}

fn result(outcome: &TopicOutcome) -> DeletableTopicResult {
    let result = DeletableTopicResult::default()
        .with_name(outcome.name.as_deref().map(|n| TopicName(text(n))))
        .with_topic_id(outcome.id.0);
    match &outcome.result {
        Ok(_) => result,
        Err(e) => result.with_error_code(e.code.code()).with_error_message(Some(text(&e.message))),
    }
}
