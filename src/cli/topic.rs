//! `coreline topic`: create, list, describe, alter, delete.

use super::CommonArgs;
use super::cluster::error_name;
use crate::ids::TopicId;
use crate::log::partition_metadata::encode_id;
use coreline_bench::client::{Client, ClientError};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    IncrementalAlterConfigsRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUT_MS: i32 = 60_000;
const TOPIC_RESOURCE: i8 = 2;
const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const SET: i8 = 0;
const DELETE: i8 = 1;

/// What to do with topics.
#[derive(Debug, clap::Args)]
pub struct TopicArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make topics.
    Create {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
        /// Partitions of each; the broker's num.partitions if not given.
        #[arg(long)]
        partitions: Option<i32>,
        /// Replicas of each partition; the broker's default.replication.factor if not given.
        #[arg(long)]
        replication_factor: Option<i16>,
        /// A setting; may be repeated.
        #[arg(long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// A topic that is there already is fine.
        #[arg(long)]
        if_not_exists: bool,
    },
    /// The names of all topics.
    List,
    /// Partitions, leaders and settings.
    Describe {
        /// Names; all topics if none is given.
        names: Vec<String>,
    },
    /// More partitions, other settings.
    Alter {
        /// The name.
        name: String,
        /// How many partitions there shall be.
        #[arg(long)]
        partitions: Option<i32>,
        /// Set a key; may be repeated.
        #[arg(long, value_name = "KEY=VALUE")]
        config: Vec<String>,
        /// Take a setting back; may be repeated.
        #[arg(long, value_name = "KEY")]
        delete_config: Vec<String>,
    },
    /// Delete the oldest records of a topic, and keep the topic.
    DeleteRecords {
        /// The name.
        name: String,
        /// The first offset to keep: a number, or "end" to delete all there are.
        #[arg(long, value_name = "OFFSET", value_parser = parse_before)]
        before: i64,
        /// A partition; may be repeated. All of them if not given.
        #[arg(long = "partition", value_name = "N")]
        partitions: Vec<i32>,
    },
    /// Delete topics and their records.
    Delete {
        /// Their names.
        #[arg(required = true)]
        names: Vec<String>,
        /// A topic that is not there is fine.
        #[arg(long)]
        if_exists: bool,
    },
}

/// Runs the command; the text is its output.
///
/// # Errors
/// A message for the user.
pub fn run(args: &TopicArgs) -> Result<String, String> {
    let mut client = Client::connect(&args.common.bootstrap_server, TIMEOUT).map_err(said)?;
    match &args.action {
        Action::Create { names, partitions, replication_factor, config, if_not_exists } => {
            let shape = (partitions.unwrap_or(-1), replication_factor.unwrap_or(-1));
            create(&mut client, names, shape, config, *if_not_exists)
        }
        Action::List => list(&mut client, args.common.json),
        Action::Describe { names } => describe(&mut client, names, args.common.json),
        Action::Alter { name, partitions, config, delete_config } => {
            alter(&mut client, name, *partitions, config, delete_config)
        }
        Action::DeleteRecords { name, before, partitions } => {
            delete_records(&mut client, name, *before, partitions, args.common.json)
        }
        Action::Delete { names, if_exists } => delete(&mut client, names, *if_exists),
    }
}

/// An offset, or the high watermark.
fn parse_before(text: &str) -> Result<i64, String> {
    match text.parse::<i64>() {
        Ok(offset) if offset >= 0 => Ok(offset),
        _ if text == "end" => Ok(-1),
        _ => Err("expected an offset or \"end\"".to_owned()),
    }
}

fn said(error: ClientError) -> String {
    error.to_string()
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn topic_name(s: &str) -> TopicName {
    TopicName(text(s))
}

fn setting(s: &str) -> Result<(&str, &str), String> {
    s.split_once('=').ok_or_else(|| format!("--config {s}: expected KEY=VALUE"))
}

/// `NAME: CODE sentence`.
fn refusal(name: &str, code: i16, message: Option<&StrBytes>) -> String {
    format!("{name}: {} {}", error_name(code), message.map(StrBytes::as_str).unwrap_or_default()).trim_end().to_owned()
}

const TOPIC_ALREADY_EXISTS: i16 = 36;
const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;

fn create(
    client: &mut Client,
    names: &[String],
    (partitions, replicas): (i32, i16),
    config: &[String],
    if_not_exists: bool,
) -> Result<String, String> {
    let mut configs = Vec::new();
    for one in config {
        let (key, value) = setting(one)?;
        configs.push(CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    }
    let topic = |name: &String| {
        CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(replicas)
            .with_configs(configs.clone())
    };
    let ask = CreateTopicsRequest::default().with_topics(names.iter().map(topic).collect()).with_timeout_ms(TIMEOUT_MS);
    let answer = client.call(&ask).map_err(said)?;
    let mut out = String::new();
    for t in &answer.topics {
        match t.error_code {
            0 => drop(writeln!(out, "created {}", t.name.as_str())),
            TOPIC_ALREADY_EXISTS if if_not_exists => drop(writeln!(out, "{} is there", t.name.as_str())),
            code => return Err(refusal(t.name.as_str(), code, t.error_message.as_ref())),
        }
    }
    Ok(out)
}

fn metadata(client: &mut Client, names: &[String]) -> Result<MetadataResponse, String> {
    let wanted = |n: &String| MetadataRequestTopic::default().with_name(Some(topic_name(n)));
    let topics = if names.is_empty() { None } else { Some(names.iter().map(wanted).collect()) };
    let ask = MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(false);
    let mut answer = client.call(&ask).map_err(said)?;
    let name =
        |t: &kafka_protocol::messages::metadata_response::MetadataResponseTopic| t.name.clone().unwrap_or_default();
    answer.topics.sort_by_key(|t| name(t).0);
    for t in &answer.topics {
        if t.error_code != 0 {
            return Err(refusal(name(t).as_str(), t.error_code, None));
        }
    }
    Ok(answer)
}

fn list(client: &mut Client, as_json: bool) -> Result<String, String> {
    let answer = metadata(client, &[])?;
    let mut out = String::new();
    let mut rows = Vec::new();
    for t in &answer.topics {
        let name = t.name.clone().unwrap_or_default();
        if as_json {
            rows.push(json!({ "name": name.as_str(), "id": encode_id(TopicId(t.topic_id)), "partitions": t.partitions.len(), "internal": t.is_internal }));
        } else {
            let _ = writeln!(out, "{}", name.as_str());
        }
    }
    if as_json {
        let _ = writeln!(out, "{}", serde_json::Value::Array(rows));
    }
    Ok(out)
}

/// The settings made on a topic.
fn own_settings(client: &mut Client, name: &str) -> Result<Vec<(String, String)>, String> {
    let resource = DescribeConfigsResource::default().with_resource_type(TOPIC_RESOURCE).with_resource_name(text(name));
    let answer = client.call(&DescribeConfigsRequest::default().with_resources(vec![resource])).map_err(said)?;
    let mut found = Vec::new();
    for result in &answer.results {
        if result.error_code != 0 {
            return Err(refusal(name, result.error_code, result.error_message.as_ref()));
        }
        let own = result.configs.iter().filter(|c| c.config_source == DYNAMIC_TOPIC_CONFIG);
        found.extend(own.map(|c| (c.name.to_string(), c.value.as_ref().map(ToString::to_string).unwrap_or_default())));
    }
    found.sort();
    Ok(found)
}

fn describe(client: &mut Client, names: &[String], as_json: bool) -> Result<String, String> {
    let answer = metadata(client, names)?;
    let mut out = String::new();
    let mut rows = Vec::new();
    for t in &answer.topics {
        let name = t.name.clone().unwrap_or_default();
        let settings = own_settings(client, name.as_str())?;
        let mut partitions: Vec<_> = t.partitions.iter().collect();
        partitions.sort_by_key(|p| p.partition_index);
        let ids = |list: &[kafka_protocol::messages::BrokerId]| list.iter().map(|b| b.0).collect::<Vec<_>>();
        if as_json {
            let one = |p: &&kafka_protocol::messages::metadata_response::MetadataResponsePartition| {
                json!({ "partition": p.partition_index, "leader": p.leader_id.0, "leaderEpoch": p.leader_epoch,
                        "replicas": ids(&p.replica_nodes), "isr": ids(&p.isr_nodes) })
            };
            let parts: Vec<_> = partitions.iter().map(one).collect();
            let configs: serde_json::Map<_, _> = settings.into_iter().map(|(k, v)| (k, v.into())).collect();
            rows.push(json!({ "name": name.as_str(), "id": encode_id(TopicId(t.topic_id)), "partitions": parts, "configs": configs }));
            continue;
        }
        let configs: Vec<String> = settings.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let _ = writeln!(
            out,
            "{}  id {}  partitions {}  {}",
            name.as_str(),
            t.topic_id,
            partitions.len(),
            configs.join(",")
        );
        for p in partitions {
            let (replicas, isr) = (ids(&p.replica_nodes), ids(&p.isr_nodes));
            let _ = writeln!(
                out,
                "  {:>5}  leader {}  epoch {}  replicas {replicas:?}  isr {isr:?}",
                p.partition_index, p.leader_id.0, p.leader_epoch
            );
        }
    }
    if as_json {
        let _ = writeln!(out, "{}", serde_json::Value::Array(rows));
    }
    Ok(out)
}

fn alter(
    client: &mut Client,
    name: &str,
    partitions: Option<i32>,
    config: &[String],
    delete_config: &[String],
) -> Result<String, String> {
    if partitions.is_none() && config.is_empty() && delete_config.is_empty() {
        return Err("nothing to alter: give --partitions, --config or --delete-config".to_owned());
    }
    let mut configs = Vec::new();
    for one in config {
        let (key, value) = setting(one)?;
        let change = AlterableConfig::default().with_name(text(key)).with_config_operation(SET);
        configs.push(change.with_value(Some(text(value))));
    }
    for key in delete_config {
        let change = AlterableConfig::default().with_name(text(key)).with_config_operation(DELETE);
        configs.push(change.with_value(None));
    }
    if !configs.is_empty() {
        let resource =
            AlterConfigsResource::default().with_resource_type(TOPIC_RESOURCE).with_resource_name(text(name));
        let ask = IncrementalAlterConfigsRequest::default().with_resources(vec![resource.with_configs(configs)]);
        let answer = client.call(&ask).map_err(said)?;
        if let Some(wrong) = answer.responses.iter().find(|r| r.error_code != 0) {
            return Err(refusal(name, wrong.error_code, wrong.error_message.as_ref()));
        }
    }
    if let Some(count) = partitions {
        let topic =
            CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        let ask = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = client.call(&ask).map_err(said)?;
        if let Some(wrong) = answer.results.iter().find(|r| r.error_code != 0) {
            return Err(refusal(name, wrong.error_code, wrong.error_message.as_ref()));
        }
    }
    Ok(format!("altered {name}\n"))
}

fn delete_records(
    client: &mut Client,
    name: &str,
    before: i64,
    partitions: &[i32],
    as_json: bool,
) -> Result<String, String> {
    let all = match partitions {
        [] => {
            let answer = metadata(client, &[name.to_owned()])?;
            let topic = answer.topics.first().ok_or_else(|| format!("{name} is not in the broker's answer"))?;
            topic.partitions.iter().map(|p| p.partition_index).collect()
        }
        some => some.to_vec(),
    };
    let partition = |n: i32| DeleteRecordsPartition::default().with_partition_index(n).with_offset(before);
    let topic = DeleteRecordsTopic::default()
        .with_name(topic_name(name))
        .with_partitions(all.into_iter().map(partition).collect());
    let ask = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
    let answer = client.call(&ask).map_err(said)?;
    let mut results: Vec<_> = answer.topics.iter().flat_map(|t| &t.partitions).collect();
    results.sort_by_key(|p| p.partition_index);
    let (mut out, mut rows) = (String::new(), Vec::new());
    for p in results {
        if p.error_code != 0 {
            return Err(refusal(&format!("{name}-{}", p.partition_index), p.error_code, None));
        }
        let _ = writeln!(out, "{name}-{} begins at offset {}", p.partition_index, p.low_watermark);
        rows.push(json!({ "partition": p.partition_index, "low_watermark": p.low_watermark }));
    }
    Ok(if as_json { format!("{}\n", json!(rows)) } else { out })
}

fn delete(client: &mut Client, names: &[String], if_exists: bool) -> Result<String, String> {
    let version = client.version_of::<DeleteTopicsRequest>().map_err(said)?;
    let ask = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS);
    let ask = if version >= 6 {
        let topic = |n: &String| DeleteTopicState::default().with_name(Some(topic_name(n)));
        ask.with_topics(names.iter().map(topic).collect())
    } else {
        ask.with_topic_names(names.iter().map(|n| topic_name(n)).collect())
    };
    let answer = client.call(&ask).map_err(said)?;
    let mut out = String::new();
    for t in &answer.responses {
        let name = t.name.clone().unwrap_or_default();
        match t.error_code {
            0 => drop(writeln!(out, "deleted {}", name.as_str())),
            UNKNOWN_TOPIC_OR_PARTITION if if_exists => drop(writeln!(out, "{} is not there", name.as_str())),
            code => return Err(refusal(name.as_str(), code, t.error_message.as_ref())),
        }
    }
    Ok(out)
}
