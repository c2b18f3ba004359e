//! CreatePartitions: more partitions for topics; never fewer.

use crate::broker::Shard;
use crate::controller::commands::MorePartitions;
use crate::controller::{Command, Outcome};
use crate::ids::BrokerId;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: CreatePartitionsRequest,
) -> CreatePartitionsResponse {
    let meant = |id: &kafka_protocol::messages::BrokerId| shard.broker_meant(BrokerId(id.0)).0;
    let more = |t: &CreatePartitionsTopic| MorePartitions {
        name: t.name.0.to_string(),
        count: t.count,
        assignments: t
            .assignments
            .as_ref()
            .map(|all| all.iter().map(|a| a.broker_ids.iter().map(meant).collect()).collect()),
    };
    let topics = request.topics.iter().map(more).collect();
    let command = Command::CreatePartitions { topics, validate_only: request.validate_only };
    let outcomes = match shard.controller.submit_within(&shard.runtime, command, request.timeout_ms).await {
        Ok(Outcome::Topics(outcomes)) => outcomes.into_iter().map(|o| o.result.map(drop)).collect(),
        Ok(other) => unreachable!("topics have outcomes of topics, not {other:?}"),
        Err(e) => vec![Err(e); request.topics.len()],
    };
    // A name that comes twice is answered once.
    let mut seen = BTreeSet::new();
    let mut results = Vec::new();
    for (topic, outcome) in request.topics.iter().zip(outcomes) {
        if !seen.insert(topic.name.0.as_str()) {
            continue;
        }
        let result = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        results.push(match outcome {
            Ok(()) => result.with_error_message(None),
            Err(e) => result.with_error_code(e.code.code()).with_error_message(Some(text(&e.message))),
        });
    }
    CreatePartitionsResponse::default().with_results(results)
}
