//! Links of the pages: to files, to headings, and the paths of the source that the text names.
//!
//! rustdoc checks what the pages mean as documentation of the crate (`src/docs/mod.rs`); this is for who reads the files.

use super::{report, root};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the paths begin that a page may name in code style.
const PATHS: [&str; 5] = ["src/", "io/", "shards/", "bench/", "scripts/"];

struct Page {
    path: PathBuf,
    /// Without fenced blocks.
    text: String,
}

impl Page {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a page of the repository");
        Self { path, text: without_blocks(&text) }
    }

    fn is_of_docs(&self) -> bool {
        self.path.parent().is_some_and(|dir| dir.ends_with("src/docs"))
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap_or(&self.path).display().to_string()
    }
}

fn without_blocks(text: &str) -> String {
    let (mut out, mut inside) = (String::new(), false);
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        if !inside && !fence {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn pages() -> Vec<Page> {
    let mut pages: Vec<PathBuf> = vec![root().join("README.md"), root().join("CHANGELOG.md")];
    let docs = fs::read_dir(root().join("src/docs")).expect("the pages").flatten().map(|e| e.path());
    pages.extend(docs.filter(|p| p.extension().is_some_and(|e| e == "md")));
    pages.sort();
    pages.into_iter().map(Page::read).collect()
}

/// Odd pieces between backticks, line by line.
fn code_spans(text: &str) -> Vec<&str> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).collect()
}

fn without_code(text: &str) -> String {
    let plain = |line: &str| line.split('`').step_by(2).collect::<Vec<_>>().join("·");
    text.lines().map(|line| plain(line) + "\n").collect()
}

/// What stands between `open` and `close`, at every place where `open` is.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    text.match_indices(open).filter_map(|(at, _)| text[at + open.len()..].split(close).next()).collect()
}

/// Label and target of every `[label]: target`.
fn definitions(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .filter_map(|line| line.strip_prefix('[')?.split_once("]:"))
        .map(|(label, target)| (label, target.trim()))
        .collect()
}

/// The anchor that a heading gets, as the usual file browsers make it.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn anchors(text: &str) -> BTreeSet<String> {
    text.lines().filter(|l| l.starts_with('#')).map(|l| anchor(l.trim_start_matches('#'))).collect()
}

/// What is wrong with a link from `page`, if anything.
fn dead(page: &Page, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() { page.path.clone() } else { page.path.parent().unwrap_or(Path::new("")).join(file) };
    if !path.exists() {
        return Some(format!("{}: a link to {target}, which does not exist", page.name()));
    }
    let known = |path: PathBuf| anchors(&Page::read(path).text).contains(fragment);
    (!fragment.is_empty() && !known(path)).then(|| format!("{}: a link to {target}: no such heading", page.name()))
}

fn problems_of(page: &Page) -> Vec<String> {
    let mut problems = Vec::new();
    let plain = without_code(&page.text);
    let defined = definitions(&plain);
    let inline = between(&plain, "](", ')');
    problems.extend(inline.iter().chain(defined.iter().map(|(_, t)| t)).filter_map(|t| dead(page, t)));
    for target in inline.iter().filter(|t| page.is_of_docs() && t.contains(".md") && !t.contains("://")) {
        let fix = format!("write [text][{target}], and [{target}]: {target} at the end (see src/docs/mod.rs)");
        problems.push(format!("{}: an inline link to {target}: {fix}", page.name()));
    }
    for label in between(&plain, "][", ']') {
        if !defined.iter().any(|(known, _)| *known == label) {
            problems.push(format!("{}: [{label}] is used and not defined at the end of the page", page.name()));
        }
    }
    for span in code_spans(&page.text) {
        let path = span.split([' ', ':']).next().unwrap_or_default();
        let is_path = PATHS.iter().any(|p| path.starts_with(p))
            && path.chars().all(|c| c.is_alphanumeric() || "/._-".contains(c));
        if is_path && !root().join(path).exists() {
            problems.push(format!("{}: names {path}, which does not exist", page.name()));
        }
    }
    problems
}

#[test]
fn no_link_of_a_page_is_dead() {
    report(&pages().iter().flat_map(problems_of).collect::<Vec<_>>());
}

#[test]
fn every_page_is_in_the_documentation_of_the_crate() {
    let list = fs::read_to_string(root().join("src/docs/mod.rs")).expect("the list of pages");
    let mut problems = Vec::new();
    for page in pages().iter().filter(|p| p.is_of_docs()) {
        let name = page.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let linked = list.contains(&format!("[{name}.md]: crate::docs::{name}\n"));
        if !linked || !list.lines().any(|line| line.trim() == name) {
            problems.push(format!("{}: missing in src/docs/mod.rs, as a link or as a page", page.name()));
        }
    }
    report(&problems);
}

#[test]
fn dead_links_are_found() {
    let page = |text: &str| Page { path: root().join("src/docs/architecture.md"), text: without_blocks(text) };
    let count = |text: &str| problems_of(&page(text)).len();
    assert_eq!(count("[a][shards.md]\n\n[shards.md]: shards.md\n"), 0);
    assert_eq!(count("[a][shards.md]\n"), 1, "no definition");
    assert_eq!(count("[shards.md]: shard.md\n"), 1, "no file");
    assert_eq!(count("[a](../../README.md)\n"), 1, "inline");
    assert_eq!(count("[a](https://example.org/x.md) `[a](b.md)`\n```text\n[a](b.md)\n```\n"), 0);
    assert_eq!(count("# One thing\n[x]: #one-thing\n"), 1, "the heading is looked for in the file");
    assert_eq!(count("`src/lib.rs` `src/no.rs` `src/{a,b}`\n"), 1);
    assert_eq!(anchor(" The `log`: one, two"), "the-log-one-two");
}
