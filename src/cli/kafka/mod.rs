//! Kafka's own command lines without a JVM: called through a link that has a tool's name, the binary takes that tool's
//! flags and writes what that tool writes. `scripts/install-links DIR` makes the links.
//!
//! A flag that is not listed by a tool's `--help` is not supported, and is refused by name.

mod broker_api_versions;
mod configs;
mod console_consumer;
mod console_producer;
pub(super) mod consumer_groups;
mod delete_records;
mod get_offsets;
mod groups;
mod log_dirs;
mod topics;
mod transactions;

use clap::{CommandFactory, FromArgMatches};
use coreline_bench::client::{Client, ClientError};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// For connections and answers.
const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUT_MS: i32 = 60_000;

/// What a tool gives: its output is written by then, or this is the sentence that says why not (empty if that is written,
/// too).
type Done = Result<(), String>;

/// A tool, ready to read its arguments.
type Tool = fn(&mut dyn Iterator<Item = OsString>) -> ExitCode;

/// The tool of this name, which may be a path and may end in `.sh`.
pub(super) fn tool(program: &Path) -> Option<Tool> {
    let name = program.file_name()?.to_str()?;
    Some(match name.strip_suffix(".sh").unwrap_or(name) {
        "kafka-broker-api-versions" => |args| run(args, broker_api_versions::run),
        "kafka-configs" => |args| run(args, configs::run),
        "kafka-console-consumer" => |args| run(args, console_consumer::run),
        "kafka-console-producer" => |args| run(args, console_producer::run),
        "kafka-consumer-groups" => |args| run(args, consumer_groups::run),
        "kafka-delete-records" => |args| run(args, delete_records::run),
        "kafka-get-offsets" => |args| run(args, get_offsets::run),
        "kafka-groups" => |args| run(args, groups::run),
        "kafka-log-dirs" => |args| run(args, log_dirs::run),
        "kafka-topics" => |args| run(args, topics::run),
        "kafka-transactions" => |args| run(args, transactions::run),
        _ => return None,
    })
}

/// Kafka's tools take an unambiguous beginning of a flag for the flag.
fn run<A: CommandFactory + FromArgMatches>(args: &mut dyn Iterator<Item = OsString>, tool: fn(&A) -> Done) -> ExitCode {
    let matches = A::command().infer_long_args(true).get_matches_from(args);
    let args = match A::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match tool(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            if !problem.is_empty() {
                eprintln!("{problem}");
            }
            ExitCode::FAILURE
        }
    }
}

fn connect(server: &str) -> Result<Client, String> {
    // Kafka's tools take a list, and ask the first that answers.
    let mut last = format!("--bootstrap-server {server:?}: expected HOST:PORT");
    for address in server.split(',').map(str::trim).filter(|a| !a.is_empty()) {
        match Client::connect(address, TIMEOUT) {
            Ok(client) => return Ok(client),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

fn said(error: ClientError) -> String {
    error.to_string()
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

/// The broker's own sentence, or Kafka's name of the code where it sent none.
fn sentence(code: i16, message: Option<&StrBytes>) -> String {
    match message {
        Some(message) if !message.is_empty() => message.to_string(),
        _ => super::cluster::error_name(code),
    }
}

/// Writes to standard output; whoever closed the pipe has read enough.
fn print(out: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(out.as_bytes());
}

/// A list of names or a regular expression for them, as Kafka's tools read it: commas separate alternatives, blanks and
/// quotes around it do not count, and the whole name has to match.
#[derive(Debug)]
struct IncludeList(regex::Regex);

impl IncludeList {
    fn new(list: &str) -> Result<Self, String> {
        let pattern = list.trim().replace(',', "|").replace(' ', "");
        let pattern = pattern.trim_matches(['"', '\'']);
        let regex = regex::Regex::new(&format!("^(?:{pattern})$"));
        regex.map(Self).map_err(|e| format!("{pattern} is not a regular expression: {e}"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// `name=value` settings of a flag; one that the tool does not know is refused by name.
fn properties<'a>(
    flag: &str,
    settings: impl IntoIterator<Item = &'a String>,
    known: &[&str],
) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    for setting in settings {
        for one in setting.split(',').filter(|s| !s.is_empty()) {
            let (name, value) = one.split_once('=').ok_or_else(|| format!("{flag} {one}: expected name=value"))?;
            if !known.contains(&name) {
                return Err(format!("{flag}: {name} is not supported; these are: {}", known.join(", ")));
            }
            found.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_is_known_by_its_link() {
        for name in ["kafka-topics", "/usr/local/bin/kafka-topics.sh", "./kafka-get-offsets"] {
            assert!(tool(Path::new(name)).is_some(), "{name}");
        }
        for name in ["coreline", "kafka-", "kafka-nothing.sh", ""] {
            assert!(tool(Path::new(name)).is_none(), "{name}");
        }
    }

    #[test]
    fn an_include_list_matches_whole_names() {
        let list = IncludeList::new("'a, b.*'").expect("valid");
        assert!(list.has("a") && list.has("b.c") && !list.has("ab") && !list.has("xa"));
        assert!(IncludeList::new("(").is_err());
    }

    #[test]
    fn unknown_properties_are_named() {
        let known = ["print.key", "key.separator"];
        let read = |s: &str| properties("--property", [&s.to_owned()], &known);
        assert_eq!(read("print.key=true").expect("known")["print.key"], "true");
        assert!(read("print.kee=true").expect_err("unknown").contains("print.kee"));
        assert!(read("print.key").is_err());
    }

    #[test]
    fn the_tools_arguments_are_consistent() {
        for command in [
            broker_api_versions::Args::command(),
            configs::Args::command(),
            console_consumer::Args::command(),
            console_producer::Args::command(),
            consumer_groups::Args::command(),
            delete_records::Args::command(),
            get_offsets::Args::command(),
            groups::Args::command(),
            log_dirs::Args::command(),
            topics::Args::command(),
            transactions::Args::command(),
        ] {
            command.debug_assert();
        }
    }
}
