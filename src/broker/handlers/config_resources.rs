//! Resources of configurations as requests name them, shared by the handlers that read and change them.

use crate::broker::shard::{Shard, dynamic_values};
use crate::config::{
    ConfigError, Described, Refusal, Source, describe_broker, describe_group, describe_topic, validate_group,
};
use crate::controller::ClusterImage;
use crate::controller::commands::{ConfigChange, ResourceRef};
use crate::error_code::ErrorCode;
use crate::ids::BrokerId;
use crate::protocol::topic_name;
use coreline_io::Runtime;
use std::collections::BTreeMap;

/// ConfigResource.Type of Kafka's clients.
pub(super) const TOPIC: i8 = 2;
/// ConfigResource.Type of Kafka's clients.
pub(super) const BROKER: i8 = 4;
/// ConfigResource.Type of Kafka's clients.
pub(super) const GROUP: i8 = 32;

fn refuse<T>(code: ErrorCode, message: String) -> Result<T, Refusal> {
    Err(Refusal { code, message })
}

/// The resource, if it is one of this node's.
pub(super) fn resource<R: Runtime>(shard: &Shard<R>, kind: i8, name: &str) -> Result<ResourceRef, Refusal> {
    match kind {
        TOPIC => match topic_name::check(name) {
            Ok(()) => Ok(ResourceRef::Topic(name.to_owned())),
            Err(error) => refuse(ErrorCode::InvalidTopicException, error.to_string()),
        },
        BROKER if name.is_empty() => Ok(ResourceRef::Broker(None)),
        BROKER => match name.parse::<i32>() {
            Ok(id) if shard.broker_meant(BrokerId(id)) == shard.node_id() => {
                Ok(ResourceRef::Broker(Some(shard.node_id())))
            }
            Ok(id) => {
                let here = shard.config.node_id;
                let message = format!("Unexpected broker id, expected {here} or empty string, but received {id}");
                refuse(ErrorCode::InvalidRequest, message)
            }
            Err(_) => refuse(ErrorCode::InvalidRequest, format!("Broker id must be an integer, but it is: {name}")),
        },
        GROUP if name.is_empty() => {
            refuse(ErrorCode::InvalidRequest, "Default group resources are not allowed.".to_owned())
        }
        GROUP => Ok(ResourceRef::Group(name.to_owned())),
        other => refuse(ErrorCode::InvalidRequest, format!("Unsupported resource type: {other}")),
    }
}

/// Every key of a resource.
pub(super) fn describe<R: Runtime>(
    shard: &Shard<R>,
    image: &ClusterImage,
    resource: &ResourceRef,
) -> Result<Vec<Described>, Refusal> {
    let dynamic = dynamic_values(image, shard.node_id());
    match resource {
        ResourceRef::Topic(name) => match image.topic(name) {
            Some(topic) => Ok(describe_topic(&shard.config, dynamic, &topic.configs)),
            None => refuse(ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist.")),
        },
        ResourceRef::Group(id) => {
            let own = image.group_configs.get(id.as_str());
            Ok(describe_group(&shard.config, own.unwrap_or(&BTreeMap::new())))
        }
        ResourceRef::Broker(Some(_)) => Ok(describe_broker(&shard.config, dynamic)),
        // All brokers: only what was set for all of them.
        ResourceRef::Broker(None) => {
            let set = dynamic.default;
            let mut all = describe_broker(&shard.config, crate::config::DynamicValues { broker: None, default: set });
            all.retain(|d| set.is_some_and(|s| s.contains_key(d.name)));
            all.iter_mut().for_each(|d| d.synonyms.retain(|s| s.source == Source::DynamicDefaultBroker));
            Ok(all)
        }
    }
}

/// What a change makes of a resource's settings must agree with each other; `replace`: all others are taken back.
pub(super) fn validate_change<R: Runtime>(
    shard: &Shard<R>,
    image: &ClusterImage,
    change: &ConfigChange,
) -> Result<(), Refusal> {
    let ResourceRef::Group(id) = &change.resource else { return Ok(()) };
    let now = image.group_configs.get(id.as_str()).filter(|_| !change.replace);
    let mut own = now.cloned().unwrap_or_default();
    for (key, value) in &change.values {
        match value {
            Some(value) => drop(own.insert(key.clone(), value.clone())),
            None => drop(own.remove(key)),
        }
    }
    let invalid = |error: ConfigError| Refusal { code: ErrorCode::InvalidConfig, message: error.to_string() };
    validate_group(&shard.config, &own).map_err(invalid)
}
