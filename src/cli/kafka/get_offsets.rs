//! `kafka-get-offsets`: offsets of partitions by time.

use super::{Done, IncludeList, connect, print, said};
use crate::error_code::ErrorCode;
use clap::Parser;
use coreline_bench::client::Client;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, MetadataRequest, TopicName};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Say where partitions begin, end, or have a time.
#[derive(Debug, Parser)]
#[command(name = "kafka-get-offsets", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Topics, as a regular expression; all if not given.
    #[arg(long, conflicts_with = "topic_partitions")]
    topic: Option<String>,
    /// Only these partitions: 0,1,5-7.
    #[arg(long, conflicts_with = "topic_partitions")]
    partitions: Option<String>,
    /// topic:0,topic:1-3,…; the topic is a regular expression.
    #[arg(long)]
    topic_partitions: Option<String>,
    /// -1 or latest, -2 or earliest, -3 or max-timestamp, -4 or earliest-local, -5 or latest-tiered, or milliseconds
    /// since the epoch.
    #[arg(long, default_value = "latest", allow_hyphen_values = true)]
    time: String,
    /// Leave internal topics out.
    #[arg(long)]
    exclude_internal_topics: bool,
}

/// `0`, `1-3` (without the end, as Kafka has it), `-3` or `2-`: which partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Indexes {
    from: i32,
    to: i32,
}

impl Indexes {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("Invalid rule: {text}: expected a partition, FROM-TO, FROM- or -TO");
        let number = |s: &str, default: i32| if s.is_empty() { Ok(default) } else { s.parse().map_err(|_| wrong()) };
        match text.trim().split_once('-') {
            _ if text.trim().is_empty() => Ok(Self { from: 0, to: i32::MAX }),
            None => text.trim().parse().map(|p: i32| Self { from: p, to: p.saturating_add(1) }).map_err(|_| wrong()),
            Some((from, to)) => Ok(Self { from: number(from, 0)?, to: number(to, i32::MAX)? }),
        }
    }

    const fn has(self, index: i32) -> bool {
        index >= self.from && index < self.to
    }
}

/// Which topics (all if there is no list) and which of their partitions.
type Rule = (Option<IncludeList>, Vec<Indexes>);

/// What lets a partition through; any rule is enough.
fn rules(args: &Args) -> Result<Vec<Rule>, String> {
    if let Some(list) = &args.topic_partitions {
        let rule = |one: &str| {
            let (topic, indexes) = one.split_once(':').unwrap_or((one, ""));
            let topic = if topic.is_empty() { None } else { Some(IncludeList::new(topic)?) };
            Ok((topic, vec![Indexes::parse(indexes)?]))
        };
        return list.split(',').map(rule).collect();
    }
    let topic = args.topic.as_deref().map(IncludeList::new).transpose()?;
    let indexes =
        args.partitions.as_deref().unwrap_or_default().split(',').map(Indexes::parse).collect::<Result<_, _>>()?;
    Ok(vec![(topic, indexes)])
}

fn timestamp(time: &str) -> Result<i64, String> {
    Ok(match time {
        "latest" => -1,
        "earliest" => -2,
        "max-timestamp" => -3,
        "earliest-local" => -4,
        "latest-tiered" => -5,
        number => number.parse().map_err(|_| {
            format!("Malformed time argument {number}. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / -5 or latest-tiered, or a specified long format timestamp")
        })?,
    })
}

/// Wanted partitions by leader and topic.
type ByLeader = BTreeMap<i32, BTreeMap<String, Vec<i32>>>;

pub(super) fn run(args: &Args) -> Done {
    let (rules, time) = (rules(args)?, timestamp(&args.time)?);
    let mut client = connect(&args.bootstrap_server)?;
    let answer = client.call(&MetadataRequest::default().with_topics(None)).map_err(said)?;
    let mut wanted = ByLeader::new();
    for topic in answer.topics.iter().filter(|t| !(args.exclude_internal_topics && t.is_internal)) {
        let name = topic.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
        for p in &topic.partitions {
            let passes = |(list, indexes): &Rule| {
                list.as_ref().is_none_or(|l| l.has(&name)) && indexes.iter().any(|i| i.has(p.partition_index))
            };
            if rules.iter().any(passes) {
                wanted.entry(p.leader_id.0).or_default().entry(name.clone()).or_default().push(p.partition_index);
            }
        }
    }
    if wanted.is_empty() {
        return Err("Error occurred: Could not match any topic-partitions with the specified filters".to_owned());
    }
    let addresses: BTreeMap<i32, String> =
        answer.brokers.iter().map(|b| (b.node_id.0, format!("{}:{}", b.host.as_str(), b.port))).collect();
    let mut found = BTreeMap::new();
    for (leader, topics) in wanted {
        let Some(address) = addresses.get(&leader) else {
            for (topic, partitions) in topics {
                partitions.iter().for_each(|p| {
                    eprintln!("Skip getting offsets for topic-partition {topic}-{p} due to error: it has no leader")
                });
            }
            continue;
        };
        ask(&mut connect(address)?, topics, time, &mut found)?;
    }
    let mut out = String::new();
    for ((topic, partition), offset) in found {
        let _ = writeln!(out, "{topic}:{partition}:{offset}");
    }
    print(&out);
    Ok(())
}

fn ask(
    client: &mut Client,
    topics: BTreeMap<String, Vec<i32>>,
    time: i64,
    found: &mut BTreeMap<(String, i32), String>,
) -> Done {
    let partition = |p: &i32| {
        ListOffsetsPartition::default().with_partition_index(*p).with_timestamp(time).with_current_leader_epoch(-1)
    };
    let topic = |(name, partitions): (&String, &Vec<i32>)| {
        ListOffsetsTopic::default()
            .with_name(TopicName(super::text(name)))
            .with_partitions(partitions.iter().map(partition).collect())
    };
    let ask = ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_timeout_ms(super::TIMEOUT_MS)
        .with_topics(topics.iter().map(topic).collect());
    let answer = client.call(&ask).map_err(said)?;
    for topic in &answer.topics {
        for p in &topic.partitions {
            let name = topic.name.0.to_string();
            if p.error_code != ErrorCode::None.code() {
                let error = super::super::cluster::error_name(p.error_code);
                eprintln!(
                    "Skip getting offsets for topic-partition {name}-{} due to error: {error}",
                    p.partition_index
                );
                continue;
            }
            // No record at that time, or none at all: nothing after the colon.
            let offset = if p.offset < 0 { String::new() } else { p.offset.to_string() };
            found.insert((name, p.partition_index), offset);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbers_and_ranges() {
        let has = |text: &str| (0..6).filter(|p| Indexes::parse(text).expect("valid").has(*p)).collect::<Vec<_>>();
        assert_eq!(has("3"), [3]);
        assert_eq!(has("1-3"), [1, 2]);
        assert_eq!(has("-2"), [0, 1]);
        assert_eq!(has("4-"), [4, 5]);
        assert_eq!(has(""), [0, 1, 2, 3, 4, 5]);
        assert!(Indexes::parse("x").is_err() && Indexes::parse("1-x").is_err());
    }

    #[test]
    fn times_have_names() {
        assert_eq!(timestamp("earliest"), Ok(-2));
        assert_eq!(timestamp("-3"), Ok(-3));
        assert!(timestamp("yesterday").is_err());
    }
}
