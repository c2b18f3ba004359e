//! `coreline group`: see groups and their offsets, move offsets, delete groups. The columns are those of
//! `kafka-consumer-groups`.

mod cluster;
mod print;
mod reset;
mod when;

use super::cluster::error_name;
use cluster::{Connection, GroupView, PartitionKey};
use coreline_bench::client::{Client, ClientError};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::{DeleteGroupsRequest, GroupId, ListGroupsRequest, OffsetDeleteRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do with groups.
#[derive(Debug, clap::Args)]
pub struct GroupArgs {
    /// The broker.
    #[arg(long, global = true, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Write JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// All groups.
    List {
        /// Only groups in these states, such as Stable or Empty; may be repeated.
        #[arg(long)]
        state: Vec<String>,
        /// Only groups of these types, such as classic or consumer; may be repeated.
        #[arg(long = "type")]
        kind: Vec<String>,
        /// With type, protocol and state.
        #[arg(long)]
        verbose: bool,
    },
    /// How far groups have read, and how far they are behind.
    Describe {
        /// Their ids.
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// The members of groups.
    Members {
        /// Their ids.
        #[arg(required = true)]
        groups: Vec<String>,
        /// With the partitions of each.
        #[arg(long)]
        verbose: bool,
    },
    /// Coordinator, assignor and state of groups.
    State {
        /// Their ids.
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Move the offsets of a group without members. Shows what would be, unless --execute is given.
    Reset(reset::ResetArgs),
    /// Delete groups without members, and their offsets.
    Delete {
        /// Their ids.
        #[arg(required = true)]
        groups: Vec<String>,
    },
    /// Forget the offsets of topics that the group does not read now.
    DeleteOffsets {
        /// The group's id.
        group: String,
        /// A topic, or some of its partitions as TOPIC:0,1; may be repeated.
        #[arg(long, required = true)]
        topic: Vec<String>,
    },
}

/// Runs the command; the text is its output.
///
/// # Errors
/// A message for the user.
pub fn run(args: &GroupArgs) -> Result<String, String> {
    let mut connection = Connection::new(&args.bootstrap_server)?;
    let views = |connection: &mut Connection, groups: &[String]| -> Result<Vec<GroupView>, String> {
        groups.iter().map(|group| connection.describe(group)).collect()
    };
    match &args.action {
        Action::List { state, kind, verbose } => list(&mut connection, (state, kind), *verbose, args.json),
        Action::Describe { groups } => {
            let views = views(&mut connection, groups)?;
            let rows = views.iter().map(|view| connection.progress(view)).collect::<Result<Vec<_>, _>>()?;
            Ok(print::progress(&rows.concat(), args.json))
        }
        Action::Members { groups, verbose } => {
            Ok(print::members(&views(&mut connection, groups)?, *verbose, args.json))
        }
        Action::State { groups } => Ok(print::states(&views(&mut connection, groups)?, args.json)),
        Action::Reset(reset) => reset::run(&mut connection, reset, args.json),
        Action::Delete { groups } => delete(&mut connection, groups),
        Action::DeleteOffsets { group, topic } => delete_offsets(&mut connection, group, topic),
    }
}

fn said(error: ClientError) -> String {
    error.to_string()
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn group_id(s: &str) -> GroupId {
    GroupId(text(s))
}

fn topic_name(s: &str) -> TopicName {
    TopicName(text(s))
}

fn connect(address: &str) -> Result<Client, String> {
    Client::connect(address, TIMEOUT).map_err(said)
}

fn list(
    connection: &mut Connection,
    (states, kinds): (&[String], &[String]),
    verbose: bool,
    as_json: bool,
) -> Result<String, String> {
    let filter = |words: &[String]| words.iter().map(|w| text(w)).collect::<Vec<_>>();
    let request = ListGroupsRequest::default().with_states_filter(filter(states)).with_types_filter(filter(kinds));
    let mut found = BTreeMap::new();
    for address in connection.nodes()? {
        let mut client = connect(&address)?;
        let listed = cluster::patiently("groups", || {
            let answer = client.call(&request).map_err(said)?;
            Ok(if answer.error_code == 0 { Ok(answer.groups) } else { Err(answer.error_code) })
        })?;
        found.extend(listed.into_iter().map(|group| (group.group_id.to_string(), group)));
    }
    if as_json {
        let row = |(id, group): (&String, &kafka_protocol::messages::list_groups_response::ListedGroup)| {
            json!({ "group": id, "type": group.group_type.as_str(), "protocol": group.protocol_type.as_str(),
                    "state": group.group_state.as_str() })
        };
        return Ok(format!("{}\n", serde_json::Value::Array(found.iter().map(row).collect())));
    }
    if !verbose {
        return Ok(found.keys().fold(String::new(), |out, id| out + id + "\n"));
    }
    let mut rows = vec![["GROUP", "TYPE", "PROTOCOL", "STATE"].map(str::to_owned).to_vec()];
    for (id, group) in &found {
        let cells = [&group.group_type, &group.protocol_type, &group.group_state].map(|cell| print::or_dash(cell));
        rows.push([vec![id.clone()], cells.to_vec()].concat());
    }
    Ok(print::table(&rows))
}

fn delete(connection: &mut Connection, groups: &[String]) -> Result<String, String> {
    let (mut out, mut failed) = (String::new(), Vec::new());
    for group in groups {
        let mut client = connection.coordinator(group)?.client;
        let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id(group)]);
        let answer = client.call(&request).map_err(said)?;
        match answer.results.first().map_or(-1, |result| result.error_code) {
            0 => drop(writeln!(out, "deleted {group}")),
            code => failed.push(format!("{group}: {}", error_name(code))),
        }
    }
    if failed.is_empty() { Ok(out) } else { Err(failed.join("; ")) }
}

fn delete_offsets(connection: &mut Connection, group: &str, topics: &[String]) -> Result<String, String> {
    let wanted = connection.partitions(topics)?;
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    wanted.iter().for_each(|(topic, partition)| by_topic.entry(topic).or_default().push(*partition));
    let topics = by_topic.into_iter().map(|(topic, partitions)| {
        let partition = |p: i32| OffsetDeleteRequestPartition::default().with_partition_index(p);
        let partitions = partitions.into_iter().map(partition).collect();
        OffsetDeleteRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)
    });
    let request = OffsetDeleteRequest::default().with_group_id(group_id(group)).with_topics(topics.collect());
    let answer = connection.coordinator(group)?.client.call(&request).map_err(said)?;
    if answer.error_code != 0 {
        return Err(format!("{group}: {}", error_name(answer.error_code)));
    }
    let (mut rows, mut failed) = (vec![["TOPIC", "PARTITION", "STATUS"].map(str::to_owned).to_vec()], Vec::new());
    let mut outcomes: Vec<(PartitionKey, i16)> = Vec::new();
    for topic in &answer.topics {
        outcomes.extend(topic.partitions.iter().map(|p| ((topic.name.to_string(), p.partition_index), p.error_code)));
    }
    outcomes.sort();
    for ((topic, partition), code) in outcomes {
        if code == 0 {
            rows.push(vec![topic, partition.to_string(), "deleted".to_owned()]);
        } else {
            failed.push(format!("{topic}-{partition}: {}", error_name(code)));
        }
    }
    if failed.is_empty() { Ok(print::table(&rows)) } else { Err(failed.join("; ")) }
}
