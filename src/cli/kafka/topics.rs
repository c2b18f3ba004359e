//! `kafka-topics`: create, list, describe, alter and delete topics.

use super::{Done, IncludeList, TIMEOUT_MS, connect, print, said, sentence, text};
use crate::ids::TopicId;
use crate::log::partition_metadata::encode_id;
use clap::{ArgGroup, Parser};
use coreline_bench::client::Client;
use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
use kafka_protocol::messages::create_topics_request::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::{Cursor, TopicRequest};
use kafka_protocol::messages::describe_topic_partitions_response::{
    DescribeTopicPartitionsResponsePartition as Partition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest,
    DescribeTopicPartitionsRequest, MetadataRequest, TopicName,
};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const TOPIC_RESOURCE: i8 = 2;
const DEFAULT_CONFIG: i8 = 5;
const TOPIC_ALREADY_EXISTS: i16 = 36;
/// Of one DescribeTopicPartitions answer.
const PARTITIONS_MAX: i32 = 2000;
const COLLISION: &str = "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could \
    collide. To avoid issues it is best to use either, but not both.";

/// Create, list, describe, alter and delete topics.
#[derive(Debug, Parser)]
#[command(name = "kafka-topics", version)]
#[command(group(ArgGroup::new("action").required(true).args(["create", "list", "describe", "alter", "delete"])))]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Create a topic.
    #[arg(long, requires = "topic")]
    create: bool,
    /// List topics.
    #[arg(long)]
    list: bool,
    /// Describe topics.
    #[arg(long)]
    describe: bool,
    /// More partitions for a topic.
    #[arg(long, requires_all = ["topic", "partitions"])]
    alter: bool,
    /// Delete topics.
    #[arg(long, requires = "topic")]
    delete: bool,
    /// The topic; a regular expression but for --create.
    #[arg(long)]
    topic: Option<String>,
    /// The id of the topic to describe.
    #[arg(long, conflicts_with = "topic", requires = "describe")]
    topic_id: Option<String>,
    /// How many partitions.
    #[arg(long)]
    partitions: Option<i32>,
    /// How many replicas of each.
    #[arg(long, requires = "create", conflicts_with = "replica_assignment")]
    replication_factor: Option<i16>,
    /// Brokers of each partition: 1:2,2:3 are two partitions of two replicas.
    #[arg(long, value_name = "LIST")]
    replica_assignment: Option<String>,
    /// A setting of the new topic; may be repeated.
    #[arg(long, requires = "create", value_name = "NAME=VALUE")]
    config: Vec<String>,
    /// A topic that is missing is fine.
    #[arg(long)]
    if_exists: bool,
    /// A topic that is there is fine.
    #[arg(long, requires = "create")]
    if_not_exists: bool,
    /// Leave internal topics out.
    #[arg(long)]
    exclude_internal: bool,
    /// Only topics with settings of their own.
    #[arg(long, requires = "describe")]
    topics_with_overrides: bool,
    /// Only partitions with replicas that are not in sync.
    #[arg(long, requires = "describe")]
    under_replicated_partitions: bool,
    /// Only partitions without a leader.
    #[arg(long, requires = "describe")]
    unavailable_partitions: bool,
    /// Only partitions with fewer in-sync replicas than min.insync.replicas.
    #[arg(long, requires = "describe")]
    under_min_isr_partitions: bool,
    /// Only partitions with as many in-sync replicas as min.insync.replicas.
    #[arg(long, requires = "describe")]
    at_min_isr_partitions: bool,
}

pub(super) fn run(args: &Args) -> Done {
    execute(args).map_err(|problem| {
        // Where Kafka's tool writes it.
        print(&format!("Error while executing topic command : {problem}\n"));
        String::new()
    })
}

fn execute(args: &Args) -> Done {
    let mut client = connect(&args.bootstrap_server)?;
    if args.create {
        return create(&mut client, args);
    }
    if args.describe {
        return describe(&mut client, args);
    }
    let names: Vec<String> = matching(&mut client, args)?.into_keys().collect();
    if args.list {
        print(&names.iter().fold(String::new(), |out, name| out + name + "\n"));
        return Ok(());
    }
    if names.is_empty() {
        return if args.if_exists { Ok(()) } else { Err(missing(args)) };
    }
    if args.delete { delete(&mut client, &names) } else { alter(&mut client, args, &names) }
}

fn missing(args: &Args) -> String {
    match (&args.topic, &args.topic_id) {
        (Some(topic), _) => format!("Topic '{topic}' does not exist as expected"),
        (None, Some(id)) => format!("TopicId '{id}' does not exist as expected"),
        (None, None) => "There are no topics".to_owned(),
    }
}

/// Names and ids of the topics that are asked for, by name.
fn matching(client: &mut Client, args: &Args) -> Result<BTreeMap<String, TopicId>, String> {
    let list = args.topic.as_deref().map(IncludeList::new).transpose()?;
    let answer = client.call(&MetadataRequest::default().with_topics(None)).map_err(said)?;
    let mut found = BTreeMap::new();
    for topic in &answer.topics {
        let name = topic.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
        let id = TopicId(topic.topic_id);
        let wanted = list.as_ref().is_none_or(|list| list.has(&name))
            && args.topic_id.as_ref().is_none_or(|wanted| *wanted == encode_id(id))
            && !(args.exclude_internal && topic.is_internal);
        if wanted {
            found.insert(name, id);
        }
    }
    Ok(found)
}

/// `1:2,2:3` to brokers by partition.
fn assignments(list: &str) -> Result<Vec<Vec<BrokerId>>, String> {
    let broker =
        |b: &str| b.trim().parse().map(BrokerId).map_err(|_| format!("--replica-assignment: {b:?} is no broker id"));
    let partitions: Vec<Vec<BrokerId>> =
        list.split(',').map(|p| p.split(':').map(broker).collect()).collect::<Result<_, _>>()?;
    for (index, brokers) in partitions.iter().enumerate() {
        let mut sorted: Vec<i32> = brokers.iter().map(|b| b.0).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|w| w[0] == w[1]) {
            return Err(format!("Partition replica lists may not contain duplicate entries: partition {index}"));
        }
        if brokers.len() != partitions[0].len() {
            return Err(format!("Partition {index} has different replication factor: {}", brokers.len()));
        }
    }
    Ok(partitions)
}

fn create(client: &mut Client, args: &Args) -> Done {
    let name = args.topic.as_deref().unwrap_or_default();
    if name.contains(['.', '_']) {
        print(&format!("{COLLISION}\n"));
    }
    let mut topic = CreatableTopic::default()
        .with_name(TopicName(text(name)))
        .with_num_partitions(args.partitions.unwrap_or(-1))
        .with_replication_factor(args.replication_factor.unwrap_or(-1));
    if let Some(list) = &args.replica_assignment {
        let partition = |(index, brokers): (usize, Vec<BrokerId>)| {
            CreatableReplicaAssignment::default().with_partition_index(index as i32).with_broker_ids(brokers)
        };
        topic.assignments = assignments(list)?.into_iter().enumerate().map(partition).collect();
        (topic.num_partitions, topic.replication_factor) = (-1, -1);
    }
    for setting in &args.config {
        let (key, value) = setting.split_once('=').ok_or(
            "requirement failed: Invalid topic config: all configs to be added must be in the format \"key=val\".",
        )?;
        topic
            .configs
            .push(CreatableTopicConfig::default().with_name(text(key.trim())).with_value(Some(text(value.trim()))));
    }
    let ask = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
    let answer = client.call(&ask).map_err(said)?;
    for topic in &answer.topics {
        match topic.error_code {
            0 => print(&format!("Created topic {name}.\n")),
            TOPIC_ALREADY_EXISTS if args.if_not_exists => {}
            code => return Err(sentence(code, topic.error_message.as_ref())),
        }
    }
    Ok(())
}

fn alter(client: &mut Client, args: &Args, names: &[String]) -> Done {
    let count = args.partitions.unwrap_or_default();
    for name in names {
        let mut topic = CreatePartitionsTopic::default().with_name(TopicName(text(name))).with_count(count);
        topic.assignments = match &args.replica_assignment {
            None => None,
            Some(list) => {
                // The list names all partitions; the broker wants the new ones.
                let all = assignments(list)?;
                let known = partitions_of(client, name)?.len();
                let new = all.into_iter().skip(known);
                Some(new.map(|brokers| CreatePartitionsAssignment::default().with_broker_ids(brokers)).collect())
            }
        };
        let ask = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(TIMEOUT_MS);
        let answer = client.call(&ask).map_err(said)?;
        if let Some(wrong) = answer.results.iter().find(|r| r.error_code != 0) {
            return Err(sentence(wrong.error_code, wrong.error_message.as_ref()));
        }
    }
    Ok(())
}

fn delete(client: &mut Client, names: &[String]) -> Done {
    let topics = names.iter().map(|n| DeleteTopicState::default().with_name(Some(TopicName(text(n))))).collect();
    let ask = DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(topics);
    let answer = client.call(&ask).map_err(said)?;
    match answer.responses.iter().find(|r| r.error_code != 0) {
        Some(wrong) => Err(sentence(wrong.error_code, wrong.error_message.as_ref())),
        None => Ok(()),
    }
}

fn describe_topics(client: &mut Client, names: &[String]) -> Result<Vec<DescribeTopicPartitionsResponseTopic>, String> {
    let mut found: Vec<DescribeTopicPartitionsResponseTopic> = Vec::new();
    let mut cursor: Option<Cursor> = None;
    loop {
        let topics = names.iter().map(|n| TopicRequest::default().with_name(TopicName(text(n)))).collect();
        let ask = DescribeTopicPartitionsRequest::default()
            .with_topics(topics)
            .with_response_partition_limit(PARTITIONS_MAX)
            .with_cursor(cursor.take());
        let answer = client.call(&ask).map_err(said)?;
        for topic in answer.topics {
            match found.last_mut() {
                Some(last) if last.name == topic.name => last.partitions.extend(topic.partitions),
                _ => found.push(topic),
            }
        }
        match answer.next_cursor {
            None => return Ok(found),
            Some(next) => {
                cursor =
                    Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index));
            }
        }
    }
}

fn partitions_of(client: &mut Client, name: &str) -> Result<Vec<Partition>, String> {
    let found = describe_topics(client, &[name.to_owned()])?;
    Ok(found.into_iter().flat_map(|t| t.partitions).collect())
}

/// The settings of each topic that are not Kafka's default, in the broker's order.
fn settings(client: &mut Client, names: &[String]) -> Result<BTreeMap<String, Vec<(String, String)>>, String> {
    let resource =
        |n: &String| DescribeConfigsResource::default().with_resource_type(TOPIC_RESOURCE).with_resource_name(text(n));
    let ask = DescribeConfigsRequest::default().with_resources(names.iter().map(resource).collect());
    let answer = client.call(&ask).map_err(said)?;
    let mut found = BTreeMap::new();
    for result in answer.results {
        if result.error_code != 0 {
            return Err(sentence(result.error_code, result.error_message.as_ref()));
        }
        let own = result.configs.iter().filter(|c| c.config_source != DEFAULT_CONFIG);
        let pair = |c: &kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| {
            (c.name.to_string(), c.value.as_ref().map(ToString::to_string).unwrap_or_default())
        };
        found.insert(result.resource_name.to_string(), own.map(pair).collect());
    }
    Ok(found)
}

fn list_of(brokers: &[BrokerId]) -> String {
    brokers.iter().map(|b| b.0.to_string()).collect::<Vec<_>>().join(",")
}

fn describe(client: &mut Client, args: &Args) -> Done {
    let ids = matching(client, args)?;
    if ids.is_empty() {
        let silent = args.if_exists || (args.topic.is_none() && args.topic_id.is_none());
        return if silent { Ok(()) } else { Err(missing(args)) };
    }
    let names: Vec<String> = ids.keys().cloned().collect();
    let settings = settings(client, &names)?;
    let filtered = args.under_replicated_partitions
        || args.unavailable_partitions
        || args.under_min_isr_partitions
        || args.at_min_isr_partitions;
    let mut out = String::new();
    for topic in describe_topics(client, &names)? {
        let name = topic.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
        if topic.error_code != 0 {
            return Err(format!("{name}: {}", sentence(topic.error_code, None)));
        }
        let own = settings.get(&name).map_or(&[][..], Vec::as_slice);
        if args.topics_with_overrides && own.is_empty() {
            continue;
        }
        if !filtered {
            let replicas = topic.partitions.first().map_or(0, |p| p.replica_nodes.len());
            let configs: Vec<String> = own.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let _ = writeln!(
                out,
                "Topic: {name}\tTopicId: {}\tPartitionCount: {}\tReplicationFactor: {replicas}\tConfigs: {}",
                encode_id(TopicId(topic.topic_id)),
                topic.partitions.len(),
                configs.join(","),
            );
        }
        let min_isr =
            own.iter().find(|(k, _)| k == "min.insync.replicas").and_then(|(_, v)| v.parse().ok()).unwrap_or(1);
        let mut partitions = topic.partitions;
        partitions.sort_by_key(|p| p.partition_index);
        for p in partitions.iter().filter(|p| !args.topics_with_overrides && shows(args, p, min_isr)) {
            describe_partition(&mut out, &name, p);
        }
    }
    print(&out);
    Ok(())
}

fn shows(args: &Args, p: &Partition, min_isr: usize) -> bool {
    let (replicas, in_sync) = (p.replica_nodes.len(), p.isr_nodes.len());
    let wanted = [
        (args.under_replicated_partitions, in_sync < replicas),
        (args.unavailable_partitions, p.leader_id.0 < 0),
        (args.under_min_isr_partitions, in_sync < min_isr),
        (args.at_min_isr_partitions, in_sync == min_isr),
    ];
    wanted.iter().all(|(asked, _)| !asked) || wanted.iter().any(|(asked, holds)| *asked && *holds)
}

fn describe_partition(out: &mut String, name: &str, p: &Partition) {
    let leader = if p.leader_id.0 < 0 { "none".to_owned() } else { p.leader_id.0.to_string() };
    let optional = |brokers: &Option<Vec<BrokerId>>| brokers.as_ref().map_or_else(|| "N/A".to_owned(), |b| list_of(b));
    let _ = writeln!(
        out,
        "\tTopic: {name}\tPartition: {}\tLeader: {leader}\tReplicas: {}\tIsr: {}\tElr: {}\tLastKnownElr: {}",
        p.partition_index,
        list_of(&p.replica_nodes),
        list_of(&p.isr_nodes),
        optional(&p.eligible_leader_replicas),
        optional(&p.last_known_elr),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_are_read() {
        let read = assignments("1:2,2:3").expect("valid");
        assert_eq!(read, [vec![BrokerId(1), BrokerId(2)], vec![BrokerId(2), BrokerId(3)]]);
        for wrong in ["1:1", "1:2,3", "x", ""] {
            assert!(assignments(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_action_and_its_arguments_are_needed() {
        let parse = |line: &str| Args::try_parse_from(format!("kafka-topics --bootstrap-server b:1 {line}").split(' '));
        assert!(parse("--create --topic a").is_ok());
        for wrong in ["--topic a", "--create", "--create --list --topic a", "--alter --topic a", "--list --config a=b"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
