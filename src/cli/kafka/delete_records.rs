//! `kafka-delete-records`: moves the starts of partitions, as a file says.

use super::{Done, connect, print, said, text};
use crate::error_code::ErrorCode;
use clap::Parser;
use coreline_bench::client::Client;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{DeleteRecordsRequest, MetadataRequest, TopicName};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Delete the records of partitions before given offsets.
#[derive(Debug, Parser)]
#[command(name = "kafka-delete-records", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// The offsets: {"partitions": [{"topic": "foo", "partition": 1, "offset": 1}], "version": 1}; -1 is the end.
    #[arg(long, value_name = "FILE")]
    offset_json_file: PathBuf,
}

/// A partition and its first offset to keep.
type Wanted = (String, i32, i64);

/// By partition: its first offset, or the error's code.
type Outcomes = BTreeMap<(String, i32), Result<i64, i16>>;

const TIMEOUT_MS: i32 = 60_000;

pub(super) fn run(args: &Args) -> Done {
    let path = &args.offset_json_file;
    let json = std::fs::read_to_string(path).map_err(|_| format!("Unable to read file {}", path.display()))?;
    let wanted = parse(&json)?;
    let mut client = connect(&args.bootstrap_server)?;
    print("Executing records delete operation\n");
    let found = delete(&mut client, &wanted)?;
    print("Records delete operation completed:\n");
    for (topic, partition, _) in &wanted {
        let outcome = match found.get(&(topic.clone(), *partition)) {
            Some(Ok(start)) => format!("low_watermark: {start}"),
            Some(Err(code)) => format!("error: {}", exception(*code)),
            None => format!("error: {}", exception(ErrorCode::UnknownTopicOrPartition.code())),
        };
        print(&format!("partition: {topic}-{partition}\t{outcome}\n"));
    }
    Ok(())
}

/// The code as the Java tool prints it.
fn exception(code: i16) -> String {
    let Some(known) = ErrorCode::from_code(code) else { return format!("error code {code}") };
    let words = known.name().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        format!("{first}{}", rest.to_lowercase())
    });
    let message = match known {
        ErrorCode::OffsetOutOfRange => {
            "The requested offset is not within the range of offsets maintained by the server."
        }
        ErrorCode::UnknownTopicOrPartition => "This server does not host this topic-partition.",
        ErrorCode::InvalidTopicException => "The request attempted to perform an operation on an invalid topic.",
        _ => known.text(),
    };
    let name: String = words.collect();
    let name = name.strip_suffix("Exception").unwrap_or(&name);
    format!("org.apache.kafka.common.errors.{name}Exception: {message}")
}

fn parse(json: &str) -> Result<Vec<Wanted>, String> {
    let root: Value = serde_json::from_str(json).map_err(|_| "The input string is not a valid JSON".to_owned())?;
    match root.get("version").map(|v| (v, v.as_i64())) {
        None | Some((_, Some(1))) => {}
        Some((version, _)) => return Err(format!("Not supported version field value {version}")),
    }
    let partitions = root.get("partitions").and_then(Value::as_array).ok_or("Missing partitions field")?;
    let one = |entry: &Value| {
        let number = |key: &str| entry.get(key).and_then(Value::as_i64);
        let index = number("partition").and_then(|n| i32::try_from(n).ok());
        let topic = entry.get("topic").and_then(Value::as_str).map(str::to_owned);
        let wanted = topic.zip(index).zip(number("offset"));
        let ((topic, index), offset) =
            wanted.ok_or_else(|| format!("{entry}: expected \"topic\", \"partition\" and \"offset\""))?;
        Ok((topic, index, offset))
    };
    let wanted = partitions.iter().map(one).collect::<Result<Vec<Wanted>, String>>()?;
    let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
    for (topic, index, _) in &wanted {
        if !seen.insert((topic, index)) {
            twice.insert(format!("{topic}-{index}"));
        }
    }
    if twice.is_empty() {
        return Ok(wanted);
    }
    let twice: Vec<String> = twice.into_iter().collect();
    Err(format!("Offset json file contains duplicate topic partitions: {}", twice.join(",")))
}

/// Asks the leader of each; a partition without one is left out.
fn delete(client: &mut Client, wanted: &[Wanted]) -> Result<Outcomes, String> {
    let cluster = client.call(&MetadataRequest::default().with_topics(None)).map_err(said)?;
    let leader_of = |topic: &str, index: i32| {
        let topic = cluster.topics.iter().find(|t| t.name.as_ref().is_some_and(|n| n.0.as_str() == topic))?;
        let partition = topic.partitions.iter().find(|p| p.partition_index == index)?;
        cluster.brokers.iter().find(|b| b.node_id == partition.leader_id)
    };
    let mut by_leader: BTreeMap<String, BTreeMap<String, Vec<DeleteRecordsPartition>>> = BTreeMap::new();
    for (topic, index, offset) in wanted {
        if let Some(broker) = leader_of(topic, *index) {
            let partition = DeleteRecordsPartition::default().with_partition_index(*index).with_offset(*offset);
            let address = format!("{}:{}", broker.host.as_str(), broker.port);
            by_leader.entry(address).or_default().entry(topic.clone()).or_default().push(partition);
        }
    }
    let mut found = Outcomes::new();
    for (address, topics) in by_leader {
        let topic = |(name, partitions): (String, Vec<DeleteRecordsPartition>)| {
            DeleteRecordsTopic::default().with_name(TopicName(text(&name))).with_partitions(partitions)
        };
        let topics = topics.into_iter().map(topic).collect();
        let ask = DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(TIMEOUT_MS);
        let answer = connect(&address)?.call(&ask).map_err(said)?;
        for topic in &answer.topics {
            for p in &topic.partitions {
                let outcome = if p.error_code == 0 { Ok(p.low_watermark) } else { Err(p.error_code) };
                found.insert((topic.name.0.to_string(), p.partition_index), outcome);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_as_kafkas_tool_does() {
        let two = r#"{"version": 1, "partitions": [{"topic": "a", "partition": 0, "offset": 5},
                      {"topic": "a", "partition": 1, "offset": -1}]}"#;
        assert_eq!(parse(two).expect("valid"), [("a".to_owned(), 0, 5), ("a".to_owned(), 1, -1)]);
        let table = [
            ("nonsense", "The input string is not a valid JSON"),
            (r#"{"version": 2, "partitions": []}"#, "Not supported version field value 2"),
            (r#"{"version": 1}"#, "Missing partitions field"),
            (
                r#"{"partitions": [{"topic": "a", "partition": 0, "offset": 5}, {"topic": "a", "partition": 0, "offset": 6}]}"#,
                "Offset json file contains duplicate topic partitions: a-0",
            ),
        ];
        for (json, problem) in table {
            assert_eq!(parse(json).expect_err("refused"), problem);
        }
        assert!(parse(r#"{"partitions": [{"topic": "a", "partition": 0}]}"#).is_err_and(|e| e.contains("offset")));
    }

    #[test]
    fn errors_are_named_as_in_java() {
        let range = "org.apache.kafka.common.errors.OffsetOutOfRangeException: The requested offset is not within the \
                     range of offsets maintained by the server.";
        assert_eq!(exception(ErrorCode::OffsetOutOfRange.code()), range);
        assert!(exception(ErrorCode::InvalidTopicException.code()).contains("errors.InvalidTopicException: "));
    }
}
