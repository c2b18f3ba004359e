//! Configurations, against what Kafka 4.2 answers to the same requests.

use super::harness::*;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use kafka_protocol::messages::alter_configs_request as old;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    AlterConfigsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
};

const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;

/// Resource type, its name, and operations: key, operation, value.
type Change<'a> = (i8, &'a str, &'a [(&'a str, i8, Option<&'a str>)]);

async fn alter(client: &mut Client, changes: &[Change<'_>], validate_only: bool) -> Vec<i16> {
    let config = |(key, operation, value): &(&str, i8, Option<&str>)| {
        let config = AlterableConfig::default().with_name(text(key)).with_config_operation(*operation);
        config.with_value(value.map(text))
    };
    let resource = |(kind, name, operations): &Change<'_>| {
        let resource = AlterConfigsResource::default().with_resource_type(*kind).with_resource_name(text(name));
        resource.with_configs(operations.iter().map(config).collect())
    };
    let request = IncrementalAlterConfigsRequest::default()
        .with_resources(changes.iter().map(resource).collect())
        .with_validate_only(validate_only);
    let response = client.ask(1, &request).await;
    for (asked, answered) in changes.iter().zip(&response.responses) {
        assert_eq!((asked.0, asked.1), (answered.resource_type, answered.resource_name.as_str()));
        assert_eq!(answered.error_message.is_none(), answered.error_code == 0);
    }
    response.responses.iter().map(|r| r.error_code).collect()
}

async fn describe(
    client: &mut Client,
    version: i16,
    kind: i8,
    name: &str,
    keys: Option<&[&str]>,
) -> DescribeConfigsResult {
    let keys = keys.map(|keys| keys.iter().map(|k| text(k)).collect());
    let resource = DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name));
    let request = DescribeConfigsRequest::default()
        .with_resources(vec![resource.with_configuration_keys(keys)])
        .with_include_synonyms(true)
        .with_include_documentation(version >= 3);
    client.ask(version, &request).await.results.remove(0)
}

/// Value, source and sources of the synonyms of one key.
async fn key(client: &mut Client, kind: i8, name: &str, key: &str) -> (Option<String>, i8, Vec<i8>) {
    let result = describe(client, 4, kind, name, Some(&[key])).await;
    assert_eq!(result.error_code, 0);
    let [config] = result.configs.as_slice() else { panic!("{key}: {:?}", result.configs) };
    let value = config.value.as_ref().map(ToString::to_string);
    (value, config.config_source, config.synonyms.iter().map(|s| s.source).collect())
}

fn is(value: &str, source: i8, synonyms: &[i8]) -> (Option<String>, i8, Vec<i8>) {
    (Some(value.to_owned()), source, synonyms.to_vec())
}

#[test]
fn configurations_in_every_version() {
    let node = Node::start(1, &[("log.segment.bytes", "2097152")]);
    node.world.block_on(async {
        node.create("t", 1, &[("flush.ms", "5000")]).await;
        let mut client = node.connect().await;
        for version in 1..=4 {
            let all = describe(&mut client, version, TOPIC, "t", None).await;
            assert_eq!(all.configs.len(), crate::config::TOPIC_KEYS.len());
            let own = all.configs.iter().find(|c| c.name.as_str() == "flush.ms").unwrap();
            assert_eq!((own.value.as_ref().unwrap().as_str(), own.config_source, own.read_only), ("5000", 1, false));
            assert_eq!(
                (own.config_type, own.documentation.as_ref().is_some_and(|d| !d.is_empty())),
                if version >= 3 { (5, true) } else { (0, false) }
            );
            let broker = describe(&mut client, version, BROKER, "1", Some(&["node.id"])).await;
            assert_eq!((broker.configs.len(), broker.configs[0].read_only), (1, true));
        }
        assert_eq!(key(&mut client, TOPIC, "t", "segment.bytes").await, is("2097152", 4, &[4, 5]));
        assert_eq!(key(&mut client, TOPIC, "t", "segment.ms").await, is("604800000", 5, &[]));
        let table = [
            (TOPIC, "absent", ErrorCode::UnknownTopicOrPartition),
            (TOPIC, "a b", ErrorCode::InvalidTopicException),
            (TOPIC, "", ErrorCode::InvalidTopicException),
            (BROKER, "9", ErrorCode::InvalidRequest),
            (BROKER, "x", ErrorCode::InvalidRequest),
            (3, "t", ErrorCode::InvalidRequest),
        ];
        for (kind, name, code) in table {
            assert_eq!(describe(&mut client, 4, kind, name, None).await.error_code, code.code(), "{kind} {name}");
        }
        assert_eq!(describe(&mut client, 4, TOPIC, "t", Some(&["no.such"])).await.configs, []);
    });
}

#[test]
fn changes_hold_for_the_topic_the_broker_or_all_brokers() {
    let node = Node::start(2, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = node.connect().await;
        let max = "max.message.bytes";
        assert_eq!(key(&mut client, TOPIC, "t", max).await, is("1048588", 5, &[5]));
        let all: Change<'_> = (BROKER, "", &[("message.max.bytes", SET, Some("3000"))]);
        let broker: Change<'_> = (BROKER, "1", &[("message.max.bytes", SET, Some("2000"))]);
        let topic: Change<'_> = (TOPIC, "t", &[(max, SET, Some("1000"))]);
        assert_eq!(alter(&mut client, &[all], true).await, [0]);
        assert_eq!(key(&mut client, TOPIC, "t", max).await, is("1048588", 5, &[5]), "validated only");
        assert_eq!(alter(&mut client, &[all], false).await, [0]);
        assert_eq!(key(&mut client, TOPIC, "t", max).await, is("3000", 3, &[3, 5]));
        assert_eq!(alter(&mut client, &[broker, topic], false).await, [0, 0]);
        assert_eq!(key(&mut client, TOPIC, "t", max).await, is("1000", 1, &[1, 2, 3, 5]));
        assert_eq!(key(&mut client, BROKER, "1", "message.max.bytes").await, is("2000", 2, &[2, 3, 5]));
        let default = describe(&mut client, 4, BROKER, "", None).await;
        assert_eq!((default.configs.len(), default.configs[0].synonyms.len()), (1, 1));
        let undo: [Change<'_>; 2] =
            [(TOPIC, "t", &[(max, DELETE, None)]), (BROKER, "1", &[("message.max.bytes", DELETE, Some("any"))])];
        assert_eq!(alter(&mut client, &undo, false).await, [0, 0]);
        assert_eq!(key(&mut client, TOPIC, "t", max).await, is("3000", 3, &[3, 5]));
    });
}

#[test]
fn changes_that_cannot_be_are_refused_as_kafka_does() {
    let node = Node::start(3, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = node.connect().await;
        let ms = "segment.ms";
        let table: &[(Change<'_>, ErrorCode)] = &[
            ((TOPIC, "t", &[]), ErrorCode::None),
            ((TOPIC, "t", &[("no.such", DELETE, None)]), ErrorCode::None),
            ((TOPIC, "t", &[("no.such", SET, Some("1"))]), ErrorCode::InvalidConfig),
            ((TOPIC, "t", &[(ms, SET, Some("many"))]), ErrorCode::InvalidConfig),
            ((TOPIC, "t", &[(ms, SET, Some("0"))]), ErrorCode::InvalidConfig),
            ((TOPIC, "t", &[(ms, SET, None)]), ErrorCode::InvalidRequest),
            ((TOPIC, "t", &[(ms, APPEND, Some("1"))]), ErrorCode::InvalidConfig),
            ((TOPIC, "t", &[(ms, 9, Some("1"))]), ErrorCode::InvalidRequest),
            ((TOPIC, "t", &[(ms, SET, Some("1")), (ms, SET, Some("2"))]), ErrorCode::InvalidRequest),
            ((TOPIC, "t", &[(ms, SET, Some("1")), ("flush.ms", SET, Some("x"))]), ErrorCode::InvalidConfig),
            ((TOPIC, "absent", &[(ms, SET, Some("1"))]), ErrorCode::UnknownTopicOrPartition),
            ((TOPIC, "t", &[("log.segment.bytes", SET, Some("2097152"))]), ErrorCode::InvalidConfig),
            ((BROKER, "1", &[("node.id", SET, Some("5"))]), ErrorCode::InvalidRequest),
            ((BROKER, "1", &[("message.max.bytes", SET, Some("x"))]), ErrorCode::InvalidRequest),
            ((BROKER, "9", &[("message.max.bytes", SET, Some("1"))]), ErrorCode::InvalidRequest),
            ((3, "t", &[(ms, SET, Some("1"))]), ErrorCode::InvalidRequest),
        ];
        for (change, code) in table {
            assert_eq!(alter(&mut client, &[*change], false).await, [code.code()], "{change:?}");
        }
        let twice: [Change<'_>; 3] =
            [(TOPIC, "t", &[(ms, SET, Some("1"))]), (BROKER, "1", &[]), (TOPIC, "t", &[("flush.ms", SET, Some("1"))])];
        let refused = ErrorCode::InvalidRequest.code();
        assert_eq!(alter(&mut client, &twice, false).await, [refused, 0, refused]);
        assert_eq!(key(&mut client, TOPIC, "t", ms).await.1, 5, "nothing was changed");
    });
}

#[test]
fn the_old_call_replaces_all_settings() {
    let node = Node::start(4, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[("segment.bytes", "2097152")]).await;
        let mut client = node.connect().await;
        for (version, name, value, code) in [
            (0, "flush.ms", Some("5000"), ErrorCode::None),
            (1, "flush.ms", None, ErrorCode::InvalidRequest),
            (2, "no.such", Some("1"), ErrorCode::InvalidConfig),
        ] {
            let config = old::AlterableConfig::default().with_name(text(name)).with_value(value.map(text));
            let resource = old::AlterConfigsResource::default().with_resource_type(TOPIC).with_resource_name(text("t"));
            let request = AlterConfigsRequest::default().with_resources(vec![resource.with_configs(vec![config])]);
            let response = client.ask(version, &request).await;
            assert_eq!(response.responses[0].error_code, code.code(), "{name}");
        }
        assert_eq!(key(&mut client, TOPIC, "t", "flush.ms").await, is("5000", 1, &[1]));
        assert_eq!(key(&mut client, TOPIC, "t", "segment.bytes").await.1, 5, "not in the request, so taken back");
    });
}

#[test]
fn resources_are_listed() {
    let node = Node::start(5, &[]);
    node.world.block_on(async {
        node.create("t", 1, &[]).await;
        let mut client = node.connect().await;
        type Listed = (i16, &'static [i8], &'static [(&'static str, i8)]);
        let table: [Listed; 5] = [
            (0, &[], &[]),
            (1, &[], &[("t", TOPIC), ("1", BROKER)]),
            (1, &[BROKER], &[("1", BROKER)]),
            (1, &[TOPIC, TOPIC], &[("t", TOPIC)]),
            (1, &[16], &[]),
        ];
        for (version, kinds, expected) in table {
            let request = ListConfigResourcesRequest::default().with_resource_types(kinds.to_vec());
            let response = client.ask(version, &request).await;
            let found: Vec<_> =
                response.config_resources.iter().map(|r| (r.resource_name.as_str(), r.resource_type)).collect();
            assert_eq!((response.error_code, found.as_slice()), (0, expected));
        }
        let response = client.ask(1, &ListConfigResourcesRequest::default().with_resource_types(vec![3])).await;
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
    });
}
