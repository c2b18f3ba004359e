//! DeleteTopics: by name, or by id from version 6 on.

use crate::broker::Shard;
use crate::controller::commands::TopicRef;
use crate::controller::{Command, CommandError, Outcome, TopicOutcome};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    version: i16,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let mut outcomes = Vec::new();
    // What comes twice is answered once.
    let mut topics = Vec::new();
    let mut seen = BTreeSet::new();
    for state in &request.topics {
        match reference(state) {
            Ok(topic) => topics.push(topic),
            Err(refused) => outcomes.push(refused),
        }
    }
    topics.extend(request.topic_names.iter().map(|name| TopicRef::Name(name.0.to_string())));
    let command = Command::DeleteTopics { topics: topics.clone() };
    let answered = match shard.controller.submit_within(&shard.runtime, command, request.timeout_ms).await {
        Ok(Outcome::Topics(outcomes)) => outcomes,
        Ok(other) => unreachable!("topics have outcomes of topics, not {other:?}"),
        Err(e) => topics.iter().map(|t| unanswered(t, e.clone())).collect(),
    };
    let once = topics.iter().zip(answered).filter(|(topic, _)| seen.insert(*topic));
    outcomes.extend(once.map(|(_, outcome)| outcome));
    DeleteTopicsResponse::default().with_responses(outcomes.iter().map(|o| result(version, o)).collect())
}

/// The topic that is meant: a name or an id, not both.
fn reference(state: &DeleteTopicState) -> Result<TopicRef, TopicOutcome> {
    let id = TopicId(state.topic_id);
    let refuse = |name: Option<String>, message| {
        let error = CommandError::new(ErrorCode::InvalidRequest, message);
        Err(TopicOutcome { name, id, result: Err(error) })
    };
    match &state.name {
        Some(name) if !state.topic_id.is_nil() => {
            refuse(Some(name.0.to_string()), "You may not specify both topic name and topic id.")
        }
        Some(name) => Ok(TopicRef::Name(name.0.to_string())),
        None if state.topic_id.is_nil() => refuse(None, "Neither topic name nor id were specified."),
        None => Ok(TopicRef::Id(id)),
    }
}

fn unanswered(topic: &TopicRef, error: CommandError) -> TopicOutcome {
    let (name, id) = match topic {
        TopicRef::Name(name) => (Some(name.clone()), TopicId::default()),
        TopicRef::Id(id) => (None, *id),
    };
    TopicOutcome { name, id, result: Err(error) }
}

fn result(version: i16, outcome: &TopicOutcome) -> DeletableTopicResult {
    let result = DeletableTopicResult::default()
        .with_name(outcome.name.as_deref().map(|n| TopicName(text(n))))
        .with_topic_id(outcome.id.0);
    match &outcome.result {
        Ok(_) => result,
        // Clients of that time do not know the code (KIP-322).
        Err(e) if e.code == ErrorCode::TopicDeletionDisabled && version < 3 => {
            result.with_error_code(ErrorCode::InvalidRequest.code())
        }
        Err(e) => {
            let message = (version >= 5).then(|| text(&e.message));
            result.with_error_code(e.code.code()).with_error_message(message)
        }
    }
}
