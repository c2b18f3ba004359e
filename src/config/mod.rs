//! Configuration: Kafka's property names, one table, typed views. Pure.
//!
//! A key is in the table only if the code obeys it; a topic's key that needs more than one broker, or remote storage, is
//! kept and shown, and its document says so. Whatever else is set, by file, override or request, is an error that names
//! the key: nothing is accepted and ignored.

mod alter;
mod broker;
mod cleaner;
mod definitions;
mod describe;
mod group;
mod properties;
mod topic;
mod topic_keys;
mod value;

pub use alter::{AlterOperation, Refusal, Scope, alter};
pub use broker::{BrokerConfig, CoreChoice, Endpoint, Override, PollChoice, parse_override};
pub use cleaner::{CleanerConfig, resolve_cleaner};
pub use definitions::{BROKER_KEYS, Definition, Kind, Rule, TOPIC_KEYS, TopicDefinition, broker_key, topic_key};
pub use describe::{Described, DynamicValues, Source, Synonym, describe_broker, describe_topic, reference_markdown};
pub use group::{GroupConfig, describe_group, resolve_group, validate_group};
pub use properties::{PropertiesError, parse_properties};
pub use topic::{resolve_topic, validate_topic};
pub use value::{ConfigError, Value, parse_value};
