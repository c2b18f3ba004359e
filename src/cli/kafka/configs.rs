//! `kafka-configs`: settings of topics, brokers and groups.

use super::{Done, connect, print, said, sentence, text};
use clap::{ArgGroup, Parser};
use coreline_bench::client::Client;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::{
    DescribeClusterRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest, ListConfigResourcesRequest,
    ListGroupsRequest, MetadataRequest,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

const SET: i8 = 0;
const DELETE: i8 = 1;
/// Kafka's names of where a value comes from, by number from 1.
const SOURCES: [&str; 8] = [
    "DYNAMIC_TOPIC_CONFIG",
    "DYNAMIC_BROKER_CONFIG",
    "DYNAMIC_DEFAULT_BROKER_CONFIG",
    "STATIC_BROKER_CONFIG",
    "DEFAULT_CONFIG",
    "DYNAMIC_BROKER_LOGGER_CONFIG",
    "DYNAMIC_CLIENT_METRICS_CONFIG",
    "DYNAMIC_GROUP_CONFIG",
];

/// Describe and change settings of topics, brokers and groups.
#[derive(Debug, Parser)]
#[command(name = "kafka-configs", version)]
#[command(group(ArgGroup::new("action").required(true).args(["describe", "alter"])))]
#[command(group(ArgGroup::new("entity").required(true).args(["entity_type", "topic", "broker", "broker_defaults", "group"])))]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Show settings.
    #[arg(long)]
    describe: bool,
    /// Change settings.
    #[arg(long)]
    alter: bool,
    /// topics, brokers or groups.
    #[arg(long, value_parser = ["topics", "brokers", "groups"])]
    entity_type: Option<String>,
    /// The topic's name, the broker's id, or the group's.
    #[arg(long, requires = "entity_type", conflicts_with = "entity_default")]
    entity_name: Option<String>,
    /// What holds for all brokers.
    #[arg(long, requires = "entity_type")]
    entity_default: bool,
    /// Short for --entity-type topics --entity-name.
    #[arg(long)]
    topic: Option<String>,
    /// Short for --entity-type brokers --entity-name.
    #[arg(long)]
    broker: Option<String>,
    /// Short for --entity-type brokers --entity-default.
    #[arg(long)]
    broker_defaults: bool,
    /// Short for --entity-type groups --entity-name.
    #[arg(long)]
    group: Option<String>,
    /// Show those that were not set, too.
    #[arg(long, requires = "describe")]
    all: bool,
    /// Set: k1=v1,k2=[v1,v2].
    #[arg(long, requires = "alter", value_name = "LIST", conflicts_with = "add_config_file")]
    add_config: Option<String>,
    /// Set what a properties file says.
    #[arg(long, requires = "alter", value_name = "FILE")]
    add_config_file: Option<std::path::PathBuf>,
    /// Take back: k1,k2.
    #[arg(long, requires = "alter", value_name = "LIST", value_delimiter = ',')]
    delete_config: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Topic,
    Broker,
    Group,
}

impl Kind {
    const fn resource(self) -> i8 {
        match self {
            Self::Topic => 2,
            Self::Broker => 4,
            Self::Group => 32,
        }
    }
}

/// What a command is about: a name, an empty name for all brokers' default, or none for every one there is.
fn entity(args: &Args) -> (Kind, Option<String>) {
    let kind = match args.entity_type.as_deref() {
        Some("topics") => Kind::Topic,
        Some("groups") => Kind::Group,
        _ if args.topic.is_some() => Kind::Topic,
        _ if args.group.is_some() => Kind::Group,
        _ => Kind::Broker,
    };
    let short = [&args.topic, &args.broker, &args.group].into_iter().find_map(Clone::clone);
    let default = args.broker_defaults || args.entity_default;
    (kind, if default { Some(String::new()) } else { short.or_else(|| args.entity_name.clone()) })
}

pub(super) fn run(args: &Args) -> Done {
    let mut client = connect(&args.bootstrap_server)?;
    let (kind, name) = entity(args);
    if args.alter {
        let name = name.ok_or("an entity name must be specified with --alter")?;
        return alter(&mut client, args, kind, &name);
    }
    let names = match name {
        Some(name) if kind == Kind::Group && !args.all && !every(&mut client, kind)?.contains(&name) => {
            print(&format!("The group '{name}' doesn't exist and doesn't have dynamic config.\n"));
            return Ok(());
        }
        Some(name) => vec![name],
        None => every(&mut client, kind)?,
    };
    for name in names {
        describe(&mut client, kind, &name, args.all)?;
    }
    Ok(())
}

fn every(client: &mut Client, kind: Kind) -> Result<Vec<String>, String> {
    Ok(match kind {
        Kind::Topic => {
            let answer = client.call(&MetadataRequest::default().with_topics(None)).map_err(said)?;
            let names: BTreeSet<String> =
                answer.topics.iter().filter_map(|t| t.name.as_ref()).map(|n| n.0.to_string()).collect();
            names.into_iter().collect()
        }
        Kind::Broker => {
            let answer = client.call(&DescribeClusterRequest::default()).map_err(said)?;
            let ids: BTreeSet<i32> = answer.brokers.iter().map(|b| b.broker_id.0).collect();
            ids.into_iter().map(|id| id.to_string()).chain([String::new()]).collect()
        }
        // Those that are there, and those that have settings.
        Kind::Group => {
            let ask = ListConfigResourcesRequest::default().with_resource_types(vec![kind.resource()]);
            let configured = client.call(&ask).map_err(said)?.config_resources;
            let mut names: BTreeSet<String> = configured.iter().map(|r| r.resource_name.to_string()).collect();
            for address in nodes(client)? {
                let there = connect(&address)?.call(&ListGroupsRequest::default()).map_err(said)?;
                names.extend(there.groups.iter().map(|g| g.group_id.0.to_string()));
            }
            names.into_iter().collect()
        }
    })
}

fn nodes(client: &mut Client) -> Result<Vec<String>, String> {
    let answer = client.call(&DescribeClusterRequest::default()).map_err(said)?;
    Ok(answer.brokers.iter().map(|b| format!("{}:{}", b.host.as_str(), b.port)).collect())
}

fn settings(client: &mut Client, kind: Kind, name: &str) -> Result<Vec<DescribeConfigsResourceResult>, String> {
    let resource =
        DescribeConfigsResource::default().with_resource_type(kind.resource()).with_resource_name(text(name));
    let ask = DescribeConfigsRequest::default().with_resources(vec![resource]).with_include_synonyms(true);
    let answer = client.call(&ask).map_err(said)?;
    let mut found = Vec::new();
    for result in answer.results {
        if result.error_code != 0 {
            return Err(sentence(result.error_code, result.error_message.as_ref()));
        }
        found.extend(result.configs);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// True for what was set on this very entity.
fn is_own(kind: Kind, name: &str, source: i8) -> bool {
    match kind {
        Kind::Topic => source == 1,
        Kind::Broker if name.is_empty() => source == 3,
        Kind::Broker => source == 2,
        Kind::Group => source == 8,
    }
}

fn source_name(source: i8) -> &'static str {
    usize::try_from(source - 1).ok().and_then(|i| SOURCES.get(i)).copied().unwrap_or("UNKNOWN")
}

fn describe(client: &mut Client, kind: Kind, name: &str, all: bool) -> Done {
    let mut out = match (kind, name, all) {
        (Kind::Broker, "", _) => "Default configs for brokers in the cluster are:\n".to_owned(),
        (Kind::Topic, _, true) => format!("All configs for topic {name} are:\n"),
        (Kind::Topic, _, false) => format!("Dynamic configs for topic {name} are:\n"),
        (Kind::Broker, _, true) => format!("All configs for broker {name} are:\n"),
        (Kind::Broker, _, false) => format!("Dynamic configs for broker {name} are:\n"),
        (Kind::Group, _, true) => format!("All configs for group {name} are:\n"),
        (Kind::Group, _, false) => format!("Dynamic configs for group {name} are:\n"),
    };
    for c in settings(client, kind, name)? {
        if !all && !is_own(kind, name, c.config_source) {
            continue;
        }
        let value = |v: &Option<kafka_protocol::protocol::StrBytes>| {
            v.as_ref().map_or_else(|| "null".to_owned(), ToString::to_string)
        };
        let synonym = |s: &kafka_protocol::messages::describe_configs_response::DescribeConfigsSynonym| {
            format!("{}:{}={}", source_name(s.source), s.name.as_str(), value(&s.value))
        };
        let synonyms: Vec<String> = c.synonyms.iter().map(synonym).collect();
        let _ = writeln!(
            out,
            "  {}={} sensitive={} synonyms={{{}}}",
            c.name.as_str(),
            value(&c.value),
            c.is_sensitive,
            synonyms.join(", ")
        );
    }
    print(&out);
    Ok(())
}

/// `k1=v1,k2=[v1,v2]`: brackets hold values with commas.
fn parse_list(list: &str) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    let mut rest = list.trim();
    while !rest.is_empty() {
        let wrong =
            || format!("Invalid entity config: all configs to be added must be in the format \"key=val\": {rest}");
        let (key, after) = rest.split_once('=').ok_or_else(wrong)?;
        let (value, next) = match after.strip_prefix('[') {
            Some(bracketed) => bracketed.split_once(']').ok_or_else(wrong)?,
            None => after.find(',').map_or((after, ""), |at| after.split_at(at)),
        };
        if key.trim().is_empty() || key.contains(',') {
            return Err(wrong());
        }
        found.insert(key.trim().to_owned(), value.trim().to_owned());
        rest = next.strip_prefix(',').unwrap_or(next).trim();
    }
    Ok(found)
}

fn alter(client: &mut Client, args: &Args, kind: Kind, name: &str) -> Done {
    let mut set = args.add_config.as_deref().map(parse_list).transpose()?.unwrap_or_default();
    if let Some(path) = &args.add_config_file {
        let file = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        set.extend(crate::config::parse_properties(&file).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    if set.is_empty() && args.delete_config.is_empty() {
        return Err(
            "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter"
                .to_owned(),
        );
    }
    let known = settings(client, kind, name)?;
    let own =
        |key: &&String| known.iter().any(|c| c.name.as_str() == key.as_str() && is_own(kind, name, c.config_source));
    let strangers: Vec<&str> = args.delete_config.iter().filter(|k| !own(k)).map(String::as_str).collect();
    if !strangers.is_empty() {
        return Err(format!("Invalid config(s): {}", strangers.join(",")));
    }
    let change = |key: &str, operation, value| {
        AlterableConfig::default().with_name(text(key)).with_config_operation(operation).with_value(value)
    };
    let mut changes: Vec<AlterableConfig> = set.iter().map(|(k, v)| change(k, SET, Some(text(v)))).collect();
    changes.extend(args.delete_config.iter().map(|k| change(k, DELETE, None)));
    let resource = AlterConfigsResource::default()
        .with_resource_type(kind.resource())
        .with_resource_name(text(name))
        .with_configs(changes);
    let answer =
        client.call(&IncrementalAlterConfigsRequest::default().with_resources(vec![resource])).map_err(said)?;
    if let Some(wrong) = answer.responses.iter().find(|r| r.error_code != 0) {
        return Err(sentence(wrong.error_code, wrong.error_message.as_ref()));
    }
    print(&match (kind, name) {
        (Kind::Broker, "") => "Completed updating default config for brokers in the cluster.\n".to_owned(),
        (Kind::Broker, _) => format!("Completed updating config for broker {name}.\n"),
        (Kind::Topic, _) => format!("Completed updating config for topic {name}.\n"),
        (Kind::Group, _) => format!("Completed updating config for group {name}.\n"),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_hold_commas() {
        let read = parse_list("a=1,b=[x,y], c= 2 ").expect("valid");
        let pairs: Vec<(&str, &str)> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(pairs, [("a", "1"), ("b", "x,y"), ("c", "2")]);
        assert_eq!(parse_list("a=").expect("empty value")["a"], "");
        for wrong in ["a", "a=1,b", "a=[1", "=1"] {
            assert!(parse_list(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shorthands_name_the_same_entities() {
        let of = |line: &str| {
            let line = format!("kafka-configs --bootstrap-server b:1 --describe {line}");
            entity(&Args::try_parse_from(line.split(' ')).expect("valid"))
        };
        assert_eq!(of("--topic a"), of("--entity-type topics --entity-name a"));
        assert_eq!(of("--group g"), of("--entity-type groups --entity-name g"));
        assert_eq!(of("--group g"), (Kind::Group, Some("g".to_owned())));
        assert_eq!(of("--broker 1"), (Kind::Broker, Some("1".to_owned())));
        assert_eq!(of("--broker-defaults"), of("--entity-type brokers --entity-default"));
        assert_eq!(of("--entity-type topics"), (Kind::Topic, None));
    }
}
