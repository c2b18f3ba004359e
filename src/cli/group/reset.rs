//! `coreline group reset`: other offsets for a group without members.

use crate::cli::group_admin::{Groups, TopicPartition};
use crate::cli::kafka::consumer_groups::reset::{Scope, Target, active, export, plan, table};
use clap::ArgGroup;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Which offsets, to where.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("to").required(true).args([
    "to_offset", "to_earliest", "to_latest", "to_current", "to_datetime", "by_duration", "shift_by", "from_file",
])))]
pub(super) struct ResetArgs {
    /// The group's id.
    group: String,
    /// A topic, or some of its partitions as TOPIC:0,1; may be repeated.
    #[arg(long, conflicts_with = "all_topics")]
    topic: Vec<String>,
    /// All topics that the group has offsets of.
    #[arg(long)]
    all_topics: bool,
    #[command(flatten)]
    target: Target,
    /// Do it.
    #[arg(long)]
    execute: bool,
    /// Write TOPIC,PARTITION,OFFSET lines, which --from-file reads.
    #[arg(long, conflicts_with = "json")]
    export: bool,
}

pub(super) fn run(groups: &mut Groups, args: &ResetArgs, as_json: bool) -> Result<String, String> {
    let group = &args.group;
    if let Some(state) = active(groups, group)? {
        return Err(format!("{group}: offsets move only while the group has no members; it is {state}"));
    }
    let scope = Scope { topics: &args.topic, all_topics: args.all_topics };
    let offsets = plan(groups, &args.target, scope, group, true)?;
    if args.execute {
        groups.commit(group, &offsets)?;
    }
    if as_json {
        let one = |((topic, partition), offset): (&TopicPartition, &i64)| json!({ "group": group, "topic": topic, "partition": partition, "offset": offset, "done": args.execute });
        return Ok(format!("{}\n", Value::Array(offsets.iter().map(one).collect())));
    }
    let planned = BTreeMap::from([(group.clone(), offsets)]);
    if args.export {
        return Ok(export(&planned));
    }
    let nothing = if args.execute { "" } else { "Nothing was changed: add --execute.\n" };
    Ok(table(&planned) + nothing)
}
