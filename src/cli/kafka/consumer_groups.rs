//! `kafka-consumer-groups`: list, describe, reset and delete consumer groups and their offsets.
//!
//! Unlike Kafka's tool, which ends with 0 whatever happened, an error ends with 1.

pub(in crate::cli) mod describe;
pub(in crate::cli) mod reset;

use super::{Done, print};
use crate::cli::cluster::error_name;
use crate::cli::group_admin::{Groups, TopicPartition, capitalised};
use clap::{ArgGroup, Parser};
use std::fmt::Write as _;
use std::time::Duration;

/// The least width of a column that holds a name.
const NAME: usize = 15;

/// List, describe, reset and delete consumer groups.
#[derive(Debug, Parser)]
#[command(name = "kafka-consumer-groups", version)]
#[command(group(ArgGroup::new("action").required(true).args(["list", "describe", "reset_offsets", "delete", "delete_offsets", "validate_regex"])))]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "validate_regex")]
    bootstrap_server: Option<String>,
    /// List groups; with --state or --type show those, and let only the named ones through.
    #[arg(long)]
    list: bool,
    /// Describe groups: offsets and lag, or --members, or --state.
    #[arg(long)]
    describe: bool,
    /// Set committed offsets of groups without members.
    #[arg(long, requires = "target")]
    reset_offsets: bool,
    /// Delete groups and their offsets.
    #[arg(long)]
    delete: bool,
    /// Delete committed offsets of topics.
    #[arg(long, requires_all = ["group", "topic"])]
    delete_offsets: bool,
    /// A group; may be repeated.
    #[arg(long)]
    group: Vec<String>,
    /// Every group.
    #[arg(long, conflicts_with = "group")]
    all_groups: bool,
    /// A topic, or topic:0,1; may be repeated.
    #[arg(long)]
    topic: Vec<String>,
    /// Every topic that the group has offsets of.
    #[arg(long, requires = "reset_offsets", conflicts_with = "topic")]
    all_topics: bool,
    /// With --describe the offsets, as without it.
    #[arg(long, requires = "describe", conflicts_with_all = ["members", "state"])]
    offsets: bool,
    /// With --describe the members.
    #[arg(long, requires = "describe", conflicts_with = "state")]
    members: bool,
    /// With --describe the states; with --list the states, and which.
    #[arg(long, num_args = 0..=1, default_missing_value = "", value_name = "STATES")]
    state: Option<String>,
    /// With --list the types, and which.
    #[arg(long = "type", requires = "list", num_args = 0..=1, default_missing_value = "", value_name = "TYPES")]
    kind: Option<String>,
    /// More columns.
    #[arg(long, requires = "describe")]
    verbose: bool,
    #[command(flatten)]
    target: reset::Target,
    /// Commit the new offsets.
    #[arg(long, requires = "reset_offsets", conflicts_with = "dry_run")]
    execute: bool,
    /// Only show them (so it is without --execute).
    #[arg(long, requires = "reset_offsets")]
    dry_run: bool,
    /// Show them as CSV.
    #[arg(long, requires = "reset_offsets")]
    export: bool,
    /// Say whether a regular expression is one that groups can subscribe by.
    #[arg(long, value_name = "REGEX")]
    validate_regex: Option<String>,
    /// Milliseconds for connections, answers, and coordinators that load.
    #[arg(long, default_value_t = 30_000, value_name = "MS")]
    timeout: u64,
}

pub(super) fn run(args: &Args) -> Done {
    execute(args).map_err(|problem| {
        // Where Kafka's tool writes it; nothing is left to say of an empty one.
        if !problem.is_empty() {
            print(&format!("\nError: {problem}\n"));
        }
        String::new()
    })
}

fn execute(args: &Args) -> Done {
    let failed = |e: String| format!("Executing consumer group command failed due to {e}");
    if let Some(regex) = &args.validate_regex {
        print(&judged(regex));
        return Ok(());
    }
    let server = args.bootstrap_server.as_deref().unwrap_or_default();
    let mut groups = Groups::connect(server, Duration::from_millis(args.timeout)).map_err(failed)?;
    if args.list {
        return list(&mut groups, args).map_err(failed);
    }
    let names = named(&mut groups, args).map_err(failed)?;
    if args.describe {
        describe::run(&mut groups, args, &names).map_err(failed)
    } else if args.delete {
        delete(&mut groups, &names)
    } else if args.delete_offsets {
        delete_offsets(&mut groups, args, &names)
    } else {
        reset::run(&mut groups, args, &names)
    }
}

fn judged(regex: &str) -> String {
    match regex::Regex::new(regex) {
        Ok(_) => format!("The regular expression `{regex}` is valid.\n"),
        Err(error) => {
            // The last line says why, those before it where.
            let text = error.to_string();
            let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("The regular expression `{regex}` is invalid: {why}.\n")
        }
    }
}

/// The groups that a command is about.
fn named(groups: &mut Groups, args: &Args) -> Result<Vec<String>, String> {
    if args.all_groups {
        return Ok(groups.list(&[], &[])?.into_iter().map(|g| g.group).collect());
    }
    if args.group.is_empty() {
        return Err("this command takes one of these options: --all-groups, --group".to_owned());
    }
    let mut names = args.group.clone();
    names.sort();
    names.dedup();
    Ok(names)
}

/// `stable,Empty` as brokers write it.
fn filter(list: Option<&String>) -> Vec<String> {
    list.map_or_else(Vec::new, |l| l.split(',').map(str::trim).filter(|s| !s.is_empty()).map(capitalised).collect())
}

fn list(groups: &mut Groups, args: &Args) -> Done {
    let found = groups.list(&filter(args.state.as_ref()), &filter(args.kind.as_ref()))?;
    let mut out = String::new();
    let width = found.iter().map(|g| g.group.len()).max().unwrap_or(0).max(NAME) + 10;
    let mut line = |group: &str, kind: &str, state: &str| {
        let _ = match (&args.kind, &args.state) {
            (None, None) => writeln!(out, "{group}"),
            (Some(_), None) => writeln!(out, "{group:width$} {kind:20}"),
            (None, Some(_)) => writeln!(out, "{group:width$} {state:20}"),
            (Some(_), Some(_)) => writeln!(out, "{group:width$} {kind:20} {state:20}"),
        };
    };
    if args.kind.is_some() || args.state.is_some() {
        line("GROUP", "TYPE", "STATE");
    }
    found.iter().for_each(|g| line(&g.group, &g.kind, &g.state));
    print(&out);
    Ok(())
}

fn delete(groups: &mut Groups, names: &[String]) -> Done {
    let (mut deleted, mut kept) = (Vec::new(), String::new());
    for name in names {
        match groups.delete(name)? {
            Ok(()) => deleted.push(format!("'{name}'")),
            Err(code) => {
                let _ = write!(kept, "\n* Group '{name}' could not be deleted due to: {}", error_name(code));
            }
        }
    }
    if kept.is_empty() {
        print(&format!("Deletion of requested consumer groups ({}) was successful.\n", deleted.join(", ")));
        return Ok(());
    }
    if !deleted.is_empty() {
        kept += &format!("\n\nThese consumer groups were deleted successfully: {}", deleted.join(", "));
    }
    Err(format!("Deletion of some consumer groups failed:{kept}"))
}

/// `topic` or `topic:0,1`: the topic, and which of its partitions (none: all).
fn topic_arg(text: &str) -> Result<(&str, Option<Vec<i32>>), String> {
    let Some((topic, list)) = text.split_once(':') else { return Ok((text, None)) };
    let wrong = || format!("Invalid topic partition '{text}': expected TOPIC or TOPIC:0,1,2");
    let partitions = list.split(',').map(|p| p.trim().parse().map_err(|_| wrong())).collect::<Result<_, _>>()?;
    Ok((topic, Some(partitions)))
}

/// The partitions that --topic names; a topic that does not exist is in the second list.
pub(in crate::cli) fn named_partitions(
    groups: &mut Groups,
    topics: &[String],
) -> Result<(Vec<TopicPartition>, Vec<String>), String> {
    let (mut found, mut strangers) = (Vec::new(), Vec::new());
    for text in topics {
        let (topic, partitions) = topic_arg(text)?;
        match (groups.partitions(topic)?, partitions) {
            (None, _) => strangers.push(topic.to_owned()),
            (Some(count), None) => found.extend((0..count).map(|p| (topic.to_owned(), p))),
            (Some(_), Some(partitions)) => found.extend(partitions.into_iter().map(|p| (topic.to_owned(), p))),
        }
    }
    Ok((found, strangers))
}

fn delete_offsets(groups: &mut Groups, args: &Args, names: &[String]) -> Done {
    let [group] = names else { return Err("--delete-offsets takes one --group".to_owned()) };
    let (partitions, strangers) = named_partitions(groups, &args.topic)?;
    let (code, mut codes) = groups.delete_offsets(group, &partitions)?;
    let mut out = String::new();
    if code != 0 {
        // What holds for the group holds for each partition.
        codes.extend(partitions.into_iter().map(|partition| (partition, code)));
    }
    let failed = codes.values().any(|code| *code != 0);
    let _ = if failed {
        writeln!(out, "\nError: Encountered some partition-level error, see the follow-up details.")
    } else {
        writeln!(out, "Request succeeded for deleting offsets from group {group}.")
    };
    let _ = writeln!(out, "\n{:NAME$} {:10} {:NAME$}", "TOPIC", "PARTITION", "STATUS");
    for ((topic, partition), code) in &codes {
        let status = if *code == 0 { "Successful".to_owned() } else { format!("Error: {}", error_name(*code)) };
        let _ = writeln!(out, "{topic:NAME$} {partition:<10} {status:NAME$}");
    }
    for topic in strangers {
        let _ = writeln!(out, "{topic:NAME$} {:10} Error: UNKNOWN_TOPIC_OR_PARTITION", "-");
    }
    print(&out);
    if failed { Err(String::new()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_action_and_what_it_needs() {
        let parse = |line: &str| {
            Args::try_parse_from(format!("kafka-consumer-groups --bootstrap-server b:1 {line}").split_whitespace())
        };
        for right in [
            "--list",
            "--list --state",
            "--list --state stable,empty --type",
            "--describe --group a --group b --members --verbose",
            "--reset-offsets --group a --topic t:0,1 --to-earliest --execute",
            "--reset-offsets --group a --all-topics --shift-by -5 --dry-run",
            "--delete-offsets --group a --topic t",
            "--validate-regex a.*",
        ] {
            assert!(parse(right).is_ok(), "{right}");
        }
        for wrong in [
            "",
            "--list --describe",
            "--reset-offsets --group a --topic t",
            "--reset-offsets --group a --topic t --to-earliest --to-latest",
            "--describe --group a --members --state",
            "--describe --group a --execute",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn topics_and_filters_are_read() {
        assert_eq!(judged("a.*|b"), "The regular expression `a.*|b` is valid.\n");
        assert!(judged("a(").starts_with("The regular expression `a(` is invalid: unclosed group"));
        assert_eq!(topic_arg("a:0,2"), Ok(("a", Some(vec![0, 2]))));
        assert_eq!(topic_arg("a"), Ok(("a", None)));
        assert!(topic_arg("a:x").is_err());
        assert_eq!(filter(Some(&"stable, Empty".to_owned())), ["Stable", "Empty"]);
        assert!(filter(Some(&String::new())).is_empty() && filter(None).is_empty());
    }
}
