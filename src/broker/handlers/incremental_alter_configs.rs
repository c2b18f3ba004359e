//! IncrementalAlterConfigs (KIP-339): set, delete, append, subtract, key by key.

use super::config_resources::{describe, resource, validate_change};
use crate::broker::shard::Shard;
use crate::config::{AlterOperation, Refusal, Scope, alter};
use crate::controller::commands::{ConfigChange, ResourceRef};
use crate::controller::{Command, CommandError, Outcome};
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::incremental_alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};
use std::rc::Rc;

/// Answers one request: each resource for itself.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    let resources = &request.resources;
    let same = |a: &AlterConfigsResource, b: &AlterConfigsResource| {
        a.resource_type == b.resource_type && a.resource_name == b.resource_name
    };
    let judge_one = |r: &AlterConfigsResource| {
        if resources.iter().filter(|other| same(r, other)).count() > 1 {
            let message = "Each resource must appear at most once.".to_owned();
            return Err(Refusal { code: ErrorCode::InvalidRequest, message });
        }
        judge(shard, r)
    };
    let judged: Vec<Result<ConfigChange, Refusal>> = resources.iter().map(judge_one).collect();
    let outcomes = commit(shard, judged, request.validate_only).await;
    let answer = |(r, outcome): (&AlterConfigsResource, Result<(), Refusal>)| {
        let answer = AlterConfigsResourceResponse::default()
            .with_resource_type(r.resource_type)
            .with_resource_name(r.resource_name.clone());
        match outcome {
            Ok(()) => answer.with_error_message(None),
            Err(refusal) => {
                answer.with_error_code(refusal.code.code()).with_error_message(Some(text(&refusal.message)))
            }
        }
    };
    IncrementalAlterConfigsResponse::default().with_responses(resources.iter().zip(outcomes).map(answer).collect())
}

fn judge<R: Runtime>(shard: &Rc<Shard<R>>, asked: &AlterConfigsResource) -> Result<ConfigChange, Refusal> {
    let resource = resource(shard, asked.resource_type, asked.resource_name.as_str())?;
    let image = shard.image();
    let now = describe(shard, &image, &resource)?;
    let effective = |key: &str| now.iter().find(|d| d.name == key).and_then(|d| d.value.clone());
    let operation = |c: &AlterableConfig| match AlterOperation::from_wire(c.config_operation) {
        Some(operation) => Ok((c.name.to_string(), operation, c.value.as_ref().map(ToString::to_string))),
        None => Err(Refusal {
            code: ErrorCode::InvalidRequest,
            message: format!("Unknown operation type {} for {}", c.config_operation, c.name.as_str()),
        }),
    };
    let operations = asked.configs.iter().map(operation).collect::<Result<Vec<_>, _>>()?;
    let values = alter(scope(&resource), &effective, &operations)?;
    let change = ConfigChange { resource, values, replace: false };
    validate_change(shard, &image, &change)?;
    Ok(change)
}

pub(super) const fn scope(resource: &ResourceRef) -> Scope {
    match resource {
        ResourceRef::Topic(_) => Scope::Topic,
        ResourceRef::Broker(_) => Scope::Broker,
        ResourceRef::Group(_) => Scope::Group,
    }
}

/// Submits the changes that may be; the outcomes come in the order of the changes, refusals in their places.
pub(super) async fn commit<R: Runtime>(
    shard: &Rc<Shard<R>>,
    judged: Vec<Result<ConfigChange, Refusal>>,
    validate_only: bool,
) -> Vec<Result<(), Refusal>> {
    let changes: Vec<ConfigChange> = judged.iter().filter_map(|j| j.as_ref().ok().cloned()).collect();
    let refused = |e: CommandError| Refusal { code: e.code, message: e.message };
    let submitted = match shard.controller.submit(Command::AlterConfigs { changes, validate_only }).await {
        Ok(Outcome::Configs(results)) => Ok(results),
        Ok(other) => unreachable!("a change of settings has outcomes of settings, not {other:?}"),
        Err(e) => Err(refused(e)),
    };
    let mut results = submitted.as_ref().map(|r| r.clone().into_iter()).ok();
    let settle = |judged: Result<ConfigChange, Refusal>| {
        judged?;
        match (&mut results, &submitted) {
            (Some(results), _) => results.next().expect("one outcome a change").map_err(refused),
            (None, Err(refusal)) => Err(refusal.clone()),
            (None, Ok(_)) => unreachable!("results come from a submission"),
        }
    };
    judged.into_iter().map(settle).collect()
}
