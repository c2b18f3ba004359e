//! `kafka-groups`: groups of every type.

use super::{Done, print};
use crate::cli::group_admin::Groups;
use clap::Parser;
use std::fmt::Write as _;
use std::time::Duration;

/// List groups of every type.
#[derive(Debug, Parser)]
#[command(name = "kafka-groups", version)]
pub(super) struct Args {
    /// The brokers to connect to.
    #[arg(long, value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// List the groups.
    #[arg(long, required = true)]
    list: bool,
    /// Only groups of consumers: consumer groups, and classic groups with the consumer's protocol.
    #[arg(long, conflicts_with_all = ["group_type", "protocol"])]
    consumer: bool,
    /// Only groups of this type: classic, consumer, …
    #[arg(long)]
    group_type: Option<String>,
    /// Only groups of this protocol.
    #[arg(long)]
    protocol: Option<String>,
}

pub(super) fn run(args: &Args) -> Done {
    let mut groups = Groups::connect(&args.bootstrap_server, Duration::from_secs(30))?;
    let mut found = groups.list(&[], &[])?;
    // A classic group that only keeps offsets has no protocol.
    found.retain(|g| !args.consumer || g.kind == "Consumer" || ["", "consumer"].contains(&g.protocol.as_str()));
    found.retain(|g| args.group_type.as_ref().is_none_or(|t| t.eq_ignore_ascii_case(&g.kind)));
    found.retain(|g| args.protocol.as_ref().is_none_or(|p| *p == g.protocol));
    let width = found.iter().map(|g| g.group.len()).max().unwrap_or(0).max(20);
    let mut out = format!("{:width$} {:20} {:20}\n", "GROUP", "TYPE", "PROTOCOL");
    for g in found {
        let _ = writeln!(out, "{:width$} {:20} {:20}", g.group, g.kind, g.protocol);
    }
    print(&out);
    Ok(())
}
