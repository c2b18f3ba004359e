//! `kafka-log-dirs`: what is in the brokers' data directories.

use super::{Done, connect, print, said, text};
use crate::cli::cluster::error_name;
use clap::Parser;
use coreline_bench::client::Client;
use kafka_protocol::messages::describe_log_dirs_request::DescribableLogDirTopic;
use kafka_protocol::messages::{DescribeClusterRequest, DescribeLogDirsRequest, MetadataRequest, TopicName};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Say which partitions the brokers' data directories hold, and how large they are.
#[derive(Debug, Parser)]
#[command(name = "kafka-log-dirs", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Describe the directories.
    #[arg(long, required = true)]
    describe: bool,
    /// Only these topics.
    #[arg(long, value_delimiter = ',')]
    topic_list: Vec<String>,
    /// Only these brokers.
    #[arg(long, value_delimiter = ',')]
    broker_list: Vec<i32>,
}

pub(super) fn run(args: &Args) -> Done {
    let mut client = connect(&args.bootstrap_server)?;
    let answer = client.call(&DescribeClusterRequest::default()).map_err(said)?;
    let mut brokers: BTreeMap<i32, String> =
        answer.brokers.iter().map(|b| (b.broker_id.0, format!("{}:{}", b.host.as_str(), b.port))).collect();
    if !args.broker_list.is_empty() {
        let strangers: Vec<String> =
            args.broker_list.iter().filter(|id| !brokers.contains_key(id)).map(ToString::to_string).collect();
        if !strangers.is_empty() {
            let known: Vec<String> = brokers.keys().map(ToString::to_string).collect();
            return Err(format!(
                "ERROR: The given brokers do not exist from --broker-list: {}. Current existent brokers: {}",
                strangers.join(","),
                known.join(",")
            ));
        }
        brokers.retain(|id, _| args.broker_list.contains(id));
    }
    let ids: Vec<String> = brokers.keys().map(ToString::to_string).collect();
    print("Querying brokers for log directories information\n");
    let mut described = Vec::new();
    for (id, address) in &brokers {
        described.push(json!({ "broker": id, "logDirs": directories(&mut connect(address)?, &args.topic_list)? }));
    }
    print(&format!("Received log directory information from brokers {}\n", ids.join(",")));
    print(&format!("{}\n", json!({ "brokers": described, "version": 1 })));
    Ok(())
}

fn directories(client: &mut Client, topics: &[String]) -> Result<Vec<Value>, String> {
    let mut wanted = None;
    if !topics.is_empty() {
        let answer = client.call(&MetadataRequest::default().with_topics(None)).map_err(said)?;
        let partitions: BTreeMap<String, Vec<i32>> = answer
            .topics
            .iter()
            .filter_map(|t| {
                Some((t.name.as_ref()?.0.to_string(), t.partitions.iter().map(|p| p.partition_index).collect()))
            })
            .collect();
        let topic = |name: &String| {
            let partitions = partitions.get(name).cloned()?;
            Some(DescribableLogDirTopic::default().with_topic(TopicName(text(name))).with_partitions(partitions))
        };
        wanted = Some(topics.iter().filter_map(topic).collect());
    }
    let answer = client.call(&DescribeLogDirsRequest::default().with_topics(wanted)).map_err(said)?;
    let directory = |d: &kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsResult| {
        let partition =
            |topic: &str, p: &kafka_protocol::messages::describe_log_dirs_response::DescribeLogDirsPartition| {
                json!({ "partition": format!("{topic}-{}", p.partition_index), "size": p.partition_size,
                    "offsetLag": p.offset_lag, "isFuture": p.is_future_key })
            };
        let partitions: Vec<Value> =
            d.topics.iter().flat_map(|t| t.partitions.iter().map(|p| partition(t.name.0.as_str(), p))).collect();
        let error = if d.error_code == 0 { Value::Null } else { error_name(d.error_code).into() };
        json!({ "partitions": partitions, "error": error, "logDir": d.log_dir.as_str() })
    };
    Ok(answer.results.iter().map(directory).collect())
}
