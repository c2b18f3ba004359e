//! AlterConfigs, the old call: the settings of a resource become exactly those given.

use super::config_resources::{describe, resource, validate_change};
use super::incremental_alter_configs::{commit, scope};
use crate::broker::shard::Shard;
use crate::config::{AlterOperation, Refusal, alter};
use crate::controller::commands::ConfigChange;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::alter_configs_response::AlterConfigsResourceResponse;
use kafka_protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};
use std::rc::Rc;

/// Answers one request: each resource for itself.
pub(super) async fn handle<R: Runtime>(shard: &Rc<Shard<R>>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    let judged = request.resources.iter().map(|r| judge(shard, r)).collect();
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
    AlterConfigsResponse::default().with_responses(request.resources.iter().zip(outcomes).map(answer).collect())
}

fn judge<R: Runtime>(shard: &Rc<Shard<R>>, asked: &AlterConfigsResource) -> Result<ConfigChange, Refusal> {
    let resource = resource(shard, asked.resource_type, asked.resource_name.as_str())?;
    let image = shard.image();
    describe(shard, &image, &resource)?;
    let set =
        |c: &AlterableConfig| (c.name.to_string(), AlterOperation::Set, c.value.as_ref().map(ToString::to_string));
    let operations: Vec<_> = asked.configs.iter().map(set).collect();
    let values = alter(scope(&resource), &|_| None, &operations)?;
    let change = ConfigChange { resource, values, replace: true };
    validate_change(shard, &image, &change)?;
    Ok(change)
}
