//! `coreline group`: see groups and their offsets, move offsets, delete groups. The columns are those of
//! `kafka-consumer-groups`.

mod reset;

use super::CommonArgs;
use super::cluster::error_name;
use super::group_admin::Groups;
use super::kafka::consumer_groups::describe::{self, What};
use super::kafka::consumer_groups::named_partitions;
use crate::error_code::ErrorCode;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What to do with groups.
#[derive(Debug, clap::Args)]
pub struct GroupArgs {
    #[command(flatten)]
    common: CommonArgs,
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
    let mut groups = Groups::connect(&args.common.bootstrap_server, TIMEOUT)?;
    match &args.action {
        Action::List { state, kind, verbose } => list(&mut groups, (state, kind), *verbose, args.common.json),
        Action::Describe { groups: names } => show(&mut groups, names, What::Offsets, false, args.common.json),
        Action::Members { groups: names, verbose } => {
            show(&mut groups, names, What::Members, *verbose, args.common.json)
        }
        Action::State { groups: names } => show(&mut groups, names, What::State, false, args.common.json),
        Action::Reset(reset) => reset::run(&mut groups, reset, args.common.json),
        Action::Delete { groups: names } => delete(&mut groups, names),
        Action::DeleteOffsets { group, topic } => delete_offsets(&mut groups, group, topic),
    }
}

fn show(groups: &mut Groups, names: &[String], what: What, verbose: bool, as_json: bool) -> Result<String, String> {
    let named = |name: &String| {
        let name = name.clone();
        move |e: String| format!("{name}: {e}")
    };
    if as_json {
        let mut rows = Vec::new();
        for name in names {
            rows.extend(describe::json(groups, name, what).map_err(named(name))?);
        }
        return Ok(format!("{}\n", Value::Array(rows)));
    }
    let mut out = String::new();
    for name in names {
        out += &describe::text(groups, name, what, verbose).map_err(named(name))?;
    }
    Ok(out)
}

fn list(
    groups: &mut Groups,
    (states, kinds): (&[String], &[String]),
    verbose: bool,
    as_json: bool,
) -> Result<String, String> {
    let found = groups.list(states, kinds)?;
    if as_json {
        let row = |g| {
            let super::group_admin::Listed { group, protocol, kind, state } = g;
            json!({ "group": group, "type": kind, "protocol": protocol, "state": state })
        };
        return Ok(format!("{}\n", Value::Array(found.into_iter().map(row).collect())));
    }
    let mut out = String::new();
    let width = found.iter().map(|g| g.group.len()).max().unwrap_or(0).max(15);
    if verbose {
        let _ = writeln!(out, "{:width$} {:15} {:15} STATE", "GROUP", "TYPE", "PROTOCOL");
    }
    for g in found {
        let protocol = if g.protocol.is_empty() { "-" } else { &g.protocol };
        let _ = if verbose {
            writeln!(out, "{:width$} {:15} {protocol:15} {}", g.group, g.kind, g.state)
        } else {
            writeln!(out, "{}", g.group)
        };
    }
    Ok(out)
}

fn delete(groups: &mut Groups, names: &[String]) -> Result<String, String> {
    let (mut out, mut failed) = (String::new(), Vec::new());
    for name in names {
        match groups.delete(name)? {
            Ok(()) => out += &format!("deleted {name}\n"),
            Err(code) => failed.push(format!("{name}: {}", error_name(code))),
        }
    }
    if failed.is_empty() { Ok(out) } else { Err(failed.join("; ")) }
}

fn delete_offsets(groups: &mut Groups, group: &str, topics: &[String]) -> Result<String, String> {
    let (partitions, strangers) = named_partitions(groups, topics)?;
    if let Some(topic) = strangers.first() {
        return Err(format!("{topic}: {}", ErrorCode::UnknownTopicOrPartition.name()));
    }
    let (code, codes) = groups.delete_offsets(group, &partitions)?;
    if code != 0 {
        return Err(format!("{group}: {}", error_name(code)));
    }
    let (mut out, mut failed) = (String::new(), Vec::new());
    for ((topic, partition), code) in codes {
        match code {
            0 => out += &format!("deleted {topic}-{partition}\n"),
            code => failed.push(format!("{topic}-{partition}: {}", error_name(code))),
        }
    }
    if failed.is_empty() { Ok(out) } else { Err(failed.join("; ")) }
}
