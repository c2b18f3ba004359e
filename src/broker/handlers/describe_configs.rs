//! DescribeConfigs: the keys of topics and brokers, with values, sources, types and documents.

use super::config_resources::{describe, resource};
use crate::broker::shard::Shard;
use crate::config::{Described, Refusal};
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: DescribeConfigsRequest,
) -> DescribeConfigsResponse {
    let image = shard.image();
    let one = |asked: &DescribeConfigsResource| {
        let result = DescribeConfigsResult::default()
            .with_resource_type(asked.resource_type)
            .with_resource_name(asked.resource_name.clone());
        let found = resource(shard, asked.resource_type, asked.resource_name.as_str())
            .and_then(|resource| describe(shard, &image, &resource));
        match found {
            Err(Refusal { code, message }) => {
                result.with_error_code(code.code()).with_error_message(Some(text(&message)))
            }
            Ok(entries) => {
                let wanted = |d: &Described| match &asked.configuration_keys {
                    Some(keys) if !keys.is_empty() => keys.iter().any(|k| k.as_str() == d.name),
                    _ => true,
                };
                let configs = entries.iter().filter(|d| wanted(d)).map(|d| entry(&request, d)).collect();
                result.with_configs(configs)
            }
        }
    };
    DescribeConfigsResponse::default().with_results(request.resources.iter().map(one).collect())
}

fn entry(request: &DescribeConfigsRequest, described: &Described) -> DescribeConfigsResourceResult {
    let synonym = |s: &crate::config::Synonym| {
        DescribeConfigsSynonym::default()
            .with_name(text(&s.name))
            .with_value(s.value.as_deref().map(text))
            .with_source(s.source.wire())
    };
    let synonyms = if request.include_synonyms { described.synonyms.iter().map(synonym).collect() } else { Vec::new() };
    DescribeConfigsResourceResult::default()
        .with_name(text(described.name))
        .with_value(described.value.as_deref().map(text))
        .with_read_only(described.read_only)
        .with_config_source(described.source.wire())
        .with_is_sensitive(false)
        .with_synonyms(synonyms)
        .with_config_type(described.kind.wire())
        .with_documentation(request.include_documentation.then(|| text(described.doc)))
}
