//! The house rules, checked: import edges, purity, the top level, file sizes, words that must not be there.
//!
//! Lint as a test: the tables below are the agreed shape of `src/docs/architecture.md`. A new edge is a
//! decision, so it is made here, in the same commit as the code that needs it.

#[path = "tidy/links.rs"]
mod links;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What may stand at the top level besides names that begin with a dot.
const TOP_LEVEL: &[&str] =
    &["Cargo.toml", "Cargo.lock", "CHANGELOG.md", "LICENSE", "README.md", "bench", "io", "scripts", "shards", "src"];

/// Not ours: what builds and runs leave behind.
const IGNORED_TOP_LEVEL: &[&str] = &["target", "data", "proptest-regressions"];

const LINES_MAX: usize = 1000;

/// Modules of the root package that see no I/O, no clock and no randomness.
const PURE: &[&str] = &[
    "ids",
    "error_code",
    "latency",
    "metrics",
    "protocol",
    "log",
    "replication",
    "controller",
    "coordinator",
    "groups",
    "transactions",
    "security",
    "registry",
    "config",
];

/// Which modules of the root package each module may import (itself always).
const EDGES: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("error_code", &[]),
    ("latency", &[]),
    ("metrics", &[]),
    ("protocol", &["ids", "error_code"]),
    ("log", &["ids", "error_code"]),
    ("replication", &["ids", "error_code", "log"]),
    ("config", &["ids", "error_code", "log"]),
    ("controller", &["ids", "error_code", "config", "log", "protocol"]),
    ("coordinator", &["ids", "log"]),
    ("groups", &["ids", "error_code", "config", "coordinator", "log", "protocol"]),
    ("transactions", &["ids", "error_code", "config", "coordinator", "log", "protocol"]),
    ("security", &["ids", "error_code", "config"]),
    ("registry", &["ids", "error_code", "config"]),
    (
        "broker",
        &[
            "ids",
            "error_code",
            "latency",
            "metrics",
            "protocol",
            "log",
            "replication",
            "controller",
            "coordinator",
            "groups",
            "transactions",
            "security",
            "config",
        ],
    ),
    ("admin", &["ids", "error_code", "config", "broker", "registry"]),
    ("cli", &["ids", "error_code", "latency", "protocol", "config", "controller", "broker", "log"]),
];

/// Calls that a pure module must not make.
const IMPURE: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::thread",
    "std::time::Instant",
    "thread_rng",
    "rand::rng",
    "getrandom",
    "coreline_io",
    "coreline_shards",
    "glommio::",
];

/// Words that no source may hold: an unfinished thing is left out, not marked.
const STUBS: &[&str] = &["todo!(", "unimplemented!(", "FIXME", "XXX", "#[ignore"];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

struct Source {
    /// Path from the repository's root, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// The text before the file's unit tests, comments taken out: what the program does.
    fn code(&self) -> String {
        let body = match self.text.find("\n#[cfg(test)]\nmod ") {
            Some(end) if self.text[end + 1..].lines().nth(1).is_some_and(|l| l.ends_with('{')) => &self.text[..end],
            _ => &self.text,
        };
        let mut code = String::with_capacity(body.len());
        for line in body.lines() {
            let line = line.split("//").next().unwrap_or_default();
            code.push_str(line);
            code.push('\n');
        }
        code
    }

    /// `broker` for `src/broker/store/mod.rs` and for `src/broker.rs`; none outside `src`.
    fn module(&self) -> Option<&str> {
        let rest = self.path.strip_prefix("src/")?;
        Some(rest.split('/').next()?.trim_end_matches(".rs"))
    }

    fn is_test(&self) -> bool {
        let file = self.path.rsplit('/').next().unwrap_or_default();
        self.path.contains("/tests/") || file.contains("tests") || self.path.starts_with("src/testing/")
    }

    /// This file names what it forbids.
    fn is_this(&self) -> bool {
        self.path == "src/testing/tidy.rs"
    }
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a directory of the repository").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == "node_modules" || name == "corpus" || name == "artifacts" {
            continue;
        }
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    for dir in ["src", "io", "shards", "bench"] {
        walk(&root.join(dir), &mut paths);
    }
    paths.sort();
    assert!(paths.len() >= 10, "the walk lost its way: {} files", paths.len());
    paths
        .into_iter()
        .map(|p| Source {
            text: fs::read_to_string(&p).expect("a source file"),
            path: p.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned(),
        })
        .collect()
}

/// Names after `crate::`, with `crate::{a, b::c}` taken apart.
fn imported_modules(code: &str) -> Vec<String> {
    let mut modules = Vec::new();
    for (at, word) in code.match_indices("crate::") {
        // `$crate::` in macros and `my_crate::` are not ours.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + word.len()..];
        match rest.strip_prefix('{') {
            Some(list) => modules.extend(group_heads(list)),
            None => modules.push(identifier(rest)),
        }
    }
    modules.retain(|m| !m.is_empty());
    modules
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first identifier of each item of a `{…}` list, nested lists skipped.
fn group_heads(list: &str) -> Vec<String> {
    let (mut heads, mut depth, mut at_head) = (Vec::new(), 1, true);
    for (i, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => at_head = true,
            c if at_head && (c.is_alphabetic() || c == '_') => {
                heads.push(identifier(&list[i..]));
                at_head = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

fn report(problems: &[String]) {
    let mut text = String::new();
    for problem in problems {
        let _ = writeln!(text, "  {problem}");
    }
    assert!(problems.is_empty(), "the house is not tidy:\n{text}");
}

#[test]
fn the_top_level_is_as_agreed() {
    let mut problems = Vec::new();
    for entry in fs::read_dir(root()).expect("the root").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = TOP_LEVEL.contains(&name.as_str()) || IGNORED_TOP_LEVEL.contains(&name.as_str());
        if !known && !name.starts_with('.') {
            problems.push(format!("{name}: not in the agreed top level {TOP_LEVEL:?}"));
        }
    }
    report(&problems);
}

#[test]
fn no_file_is_too_long() {
    let mut problems = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            problems.push(format!("{}: {lines} lines, at most {LINES_MAX}: split it at a concept", source.path));
        }
    }
    report(&problems);
}

fn wrong_edges(source: &Source, code: &str) -> Vec<String> {
    let Some(module) = source.module() else { return Vec::new() };
    let Some((_, allowed)) = EDGES.iter().find(|(m, _)| *m == module) else {
        let outside = ["lib", "main", "testing", "docs"].contains(&module);
        return if outside {
            Vec::new()
        } else {
            vec![format!("{}: module {module} is not in the table of edges", source.path)]
        };
    };
    imported_modules(code)
        .into_iter()
        .filter(|i| i != module && EDGES.iter().any(|(m, _)| m == i) && !allowed.contains(&i.as_str()))
        .map(|i| format!("{}: {module} must not import {i}", source.path))
        .collect()
}

#[test]
fn imports_go_one_way() {
    let mut problems = Vec::new();
    for source in sources() {
        let code = source.code();
        problems.extend(wrong_edges(&source, &code));
        for (dir, strangers) in [
            ("io/", &["coreline_shards", "coreline_bench", "coreline::"][..]),
            ("shards/", &["coreline_bench", "coreline::"][..]),
            ("bench/src/", &["coreline_io", "coreline_shards", "coreline::"][..]),
        ] {
            for stranger in strangers {
                if source.path.starts_with(dir) && code.contains(stranger) {
                    problems.push(format!("{}: names {stranger}, which lies above it", source.path));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn pure_modules_are_pure() {
    let mut problems = Vec::new();
    for source in sources() {
        let pure = source.module().is_some_and(|m| PURE.contains(&m));
        if !pure || source.is_test() {
            continue;
        }
        let code = source.code();
        for call in IMPURE {
            if code.contains(call) {
                problems.push(format!("{}: {call} in a pure module: take it as an argument", source.path));
            }
        }
    }
    report(&problems);
}

#[test]
fn kafka_stays_out_of_io_and_shards() {
    let mut problems = Vec::new();
    for source in sources() {
        if !(source.path.starts_with("shards/src") || source.path.starts_with("io/src")) {
            continue;
        }
        for (number, line) in source.code().lines().enumerate() {
            if line.to_lowercase().contains("kafka") {
                problems.push(format!("{}:{}: a Kafka word below the broker", source.path, number + 1));
            }
        }
    }
    report(&problems);
}

#[test]
fn unsafe_and_glommio_stay_where_they_belong() {
    let mut problems = Vec::new();
    for source in sources() {
        let low = source.path.starts_with("io/") || source.path.starts_with("shards/");
        if low || source.is_this() {
            continue;
        }
        let code = source.code();
        if ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|word| code.contains(word)) {
            problems.push(format!("{}: unsafe outside io and shards", source.path));
        }
        if code.contains("glommio::") {
            problems.push(format!("{}: glommio outside io and shards", source.path));
        }
    }
    report(&problems);
}

#[test]
fn nothing_is_left_half_done() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|s| !s.is_this()) {
        for (number, line) in source.text.lines().enumerate() {
            for stub in STUBS {
                if line.contains(stub) {
                    problems.push(format!("{}:{}: {stub}", source.path, number + 1));
                }
            }
        }
    }
    report(&problems);
}

#[test]
fn the_rules_themselves_can_fail() {
    assert_eq!(imported_modules("use crate::{broker::shard, ids::{Offset, TopicId}, log};"), ["broker", "ids", "log"]);
    assert_eq!(imported_modules("let x = crate::admin::serve(); $crate::x"), ["admin"]);
    let text = "use crate::broker::X; // std::fs\n\n#[cfg(test)]\nmod tests {\n use std::fs; }\n";
    let source = Source { path: "src/log/batch.rs".into(), text: text.into() };
    assert!(!source.code().contains("std::fs"));
    assert_eq!(source.module(), Some("log"));
    assert_eq!(wrong_edges(&source, &source.code()), ["src/log/batch.rs: log must not import broker"]);
}
