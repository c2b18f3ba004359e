//! ListConfigResources (KIP-1142): the names of what has a configuration.

use super::config_resources::{BROKER, GROUP, TOPIC};
use crate::broker::shard::Shard;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::list_config_resources_response::ConfigResource;
use kafka_protocol::messages::{ListConfigResourcesRequest, ListConfigResourcesResponse};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Kafka's other kinds: there are none of them here.
const EMPTY_KINDS: [i8; 2] = [BROKER_LOGGER, CLIENT_METRICS];
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;

/// Answers one request. Version 0 (ListClientMetricsResources) asks for client metrics only.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    version: i16,
    request: ListConfigResourcesRequest,
) -> ListConfigResourcesResponse {
    if version == 0 {
        return ListConfigResourcesResponse::default();
    }
    let kinds = if request.resource_types.is_empty() {
        BTreeSet::from([TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP])
    } else {
        request.resource_types.into_iter().collect()
    };
    let image = shard.image();
    let mut found = Vec::new();
    for kind in kinds {
        let names: Vec<String> = match kind {
            TOPIC => image.topics().map(|t| t.name.to_string()).collect(),
            BROKER => shard.brokers_told(&image).iter().map(|broker| broker.id.0.to_string()).collect(),
            GROUP => image.group_configs.keys().map(ToString::to_string).collect(),
            other if EMPTY_KINDS.contains(&other) => Vec::new(),
            _ => return ListConfigResourcesResponse::default().with_error_code(ErrorCode::UnsupportedVersion.code()),
        };
        let one = |name: String| ConfigResource::default().with_resource_name(text(&name)).with_resource_type(kind);
        found.extend(names.into_iter().map(one));
    }
    ListConfigResourcesResponse::default().with_config_resources(found)
}
