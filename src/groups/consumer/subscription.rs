//! What a group is subscribed to: names, regular expressions, and the hash that shows that topics changed.

use super::super::Topic;
use super::super::coordinator::{Context, Refused, Topics};
use super::member::Declared;
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use regex::{Regex, RegexBuilder};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twox_hash::XxHash3_64;

/// Regular expressions are looked at again at most this often, as by Kafka: topics that are made one by one give one rebalance.
const REGEX_REFRESH_MIN_MS: i64 = 10_000;

/// What a compiled expression may take, and the automaton that is built while it is used.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// How deep an expression may be nested.
const REGEX_DEPTH_MAX: u32 = 100;

/// The version of the hash of a topic (KIP-1101).
const TOPIC_HASH_MAGIC: u8 = 0;

/// Compiles an expression of RE2's syntax so that it matches whole names only.
pub(super) fn compile(text: &str) -> Result<Regex, Refused> {
    let plain = unquote(text);
    let build = |pattern: &str| {
        RegexBuilder::new(pattern)
            .size_limit(REGEX_SIZE_MAX)
            .dfa_size_limit(REGEX_SIZE_MAX)
            .nest_limit(REGEX_DEPTH_MAX)
            .build()
    };
    // By itself first: "a)|(b" is an error, and must not become right by what is put around it. The line break ends a comment.
    let whole = build(&plain)
        .and_then(|_| build(&format!(r"\A(?:{plain})\z")).or_else(|_| build(&format!("\\A(?:{plain}\n)\\z"))));
    whole.map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let message = format!("SubscribedTopicRegex `{text}` is not a valid regular expression: {reason}.");
        Refused::new(ErrorCode::InvalidRegularExpression, message)
    })
}

/// Replaces RE2's `\Q…\E` by what it stands for.
fn unquote(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(quoted) = rest.strip_prefix(r"\Q") {
            let (literal, after) = quoted.split_once(r"\E").unwrap_or((quoted, ""));
            plain.push_str(&regex::escape(literal));
            rest = after;
        } else {
            let escaped = rest.chars().take(2).map(char::len_utf8).sum();
            plain.push_str(&rest[..escaped]);
            rest = &rest[escaped..];
        }
    }
    plain.push_str(rest);
    plain
}

/// The names that each expression matches, ascending.
fn resolve(regexes: &[Regex], topics: &dyn Topics) -> Vec<Vec<Arc<str>>> {
    let mut names = topics.names();
    names.sort_unstable();
    let matched = |regex: &Regex| names.iter().filter(|name| regex.is_match(name)).cloned().collect();
    regexes.iter().map(matched).collect()
}

/// Kafka's `computeTopicHash`: XXH3 over id, name, partitions and racks.
pub(super) fn topic_hash(topic: &Topic) -> i64 {
    let (high, low) = topic.id.0.as_u64_pair();
    let mut bytes = Vec::with_capacity(64 + 4 * topic.partitions.max(0) as usize);
    bytes.push(TOPIC_HASH_MAGIC);
    bytes.extend_from_slice(&high.to_le_bytes());
    bytes.extend_from_slice(&low.to_le_bytes());
    hash_text(&mut bytes, &topic.name);
    bytes.extend_from_slice(&topic.partitions.to_le_bytes());
    for partition in 0..topic.partitions {
        bytes.extend_from_slice(&partition.to_le_bytes());
        let mut racks: Vec<&Arc<str>> = topic.racks.get(partition as usize).into_iter().flatten().collect();
        racks.sort_unstable();
        for rack in racks {
            let length = rack.encode_utf16().count() as i32;
            bytes.extend_from_slice(&length.to_le_bytes());
            hash_text(&mut bytes, rack);
        }
    }
    XxHash3_64::oneshot(&bytes) as i64
}

/// UTF-16 units and their count, little-endian, as Kafka's hash library takes text.
fn hash_text(bytes: &mut Vec<u8>, text: &str) {
    let mut units = 0_i32;
    for unit in text.encode_utf16() {
        bytes.extend_from_slice(&unit.to_le_bytes());
        units += 1;
    }
    bytes.extend_from_slice(&units.to_le_bytes());
}

/// Kafka's `computeGroupHash`: the hashes of the topics in the order of their names; 0 for none.
pub(super) fn group_hash(topic_hashes: impl IntoIterator<Item = i64>) -> i64 {
    let bytes: Vec<u8> = topic_hashes.into_iter().flat_map(i64::to_le_bytes).collect();
    if bytes.is_empty() { 0 } else { XxHash3_64::oneshot(&bytes) as i64 }
}

/// One of the different subscriptions of a group. The lists are told apart by where they are: equal ones are mostly shared, and two that are
/// not cost a little time.
type SubscriptionKey<'a> = (*const Arc<str>, Option<&'a Arc<str>>);

impl ConsumerGroup {
    /// The names that a list and an expression stand for.
    fn names<'a>(&'a self, topics: &'a [Arc<str>], regex: Option<&Arc<str>>) -> impl Iterator<Item = &'a Arc<str>> {
        topics.iter().chain(regex.and_then(|regex| self.regexes.get(regex)).into_iter().flat_map(|t| t.iter()))
    }

    /// Every name that the group is subscribed to, whether the topic exists or not.
    fn subscribed_names(&self) -> BTreeSet<&Arc<str>> {
        let mut names = BTreeSet::new();
        let mut seen: BTreeSet<SubscriptionKey<'_>> = BTreeSet::new();
        for member in self.members.values() {
            let Declared { topics, .. } = &member.declared;
            let regex = member.declared.regex();
            if seen.insert((topics.as_ptr(), regex)) {
                names.extend(self.names(topics, regex));
            }
        }
        names
    }

    /// Whether a member is subscribed to the topic.
    #[must_use]
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.members.values().any(|m| m.declared.topics.binary_search_by(|name| (**name).cmp(topic)).is_ok())
            || self.regexes.values().any(|topics| topics.binary_search_by(|name| (**name).cmp(topic)).is_ok())
    }

    /// The hash of the topics as they are now.
    pub(super) fn compute_hash(&self, topics: &dyn Topics) -> i64 {
        group_hash(self.subscribed_names().into_iter().filter_map(|name| topics.by_name(name)).map(|t| topic_hash(&t)))
    }

    /// The ids of what a member is subscribed to, ascending.
    pub(super) fn subscribed_ids(&self, member: &str, topics: &dyn Topics) -> Vec<TopicId> {
        let Some(member) = self.members.get(member) else { return Vec::new() };
        let names = self.names(&member.declared.topics, member.declared.regex());
        let mut ids: Vec<TopicId> = names.filter_map(|name| topics.by_name(name)).map(|t| t.id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The subscribed topics that exist, and the ids that each member, in order, is subscribed to.
    pub(super) fn resolve_subscriptions(&self, topics: &dyn Topics) -> (BTreeMap<TopicId, Topic>, Vec<Arc<[TopicId]>>) {
        let mut known: BTreeMap<&Arc<str>, Option<TopicId>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        let mut lists: BTreeMap<SubscriptionKey<'_>, Arc<[TopicId]>> = BTreeMap::new();
        let mut of_members = Vec::with_capacity(self.members.len());
        for member in self.members.values() {
            let subscribed = &member.declared.topics;
            let regex = member.declared.regex();
            let list = lists.entry((subscribed.as_ptr(), regex)).or_insert_with(|| {
                let mut ids = Vec::new();
                for name in self.names(subscribed, regex) {
                    let id = known.entry(name).or_insert_with(|| {
                        let topic = topics.by_name(name)?;
                        let id = topic.id;
                        found.insert(id, topic);
                        Some(id)
                    });
                    ids.extend(*id);
                }
                ids.sort_unstable();
                ids.dedup();
                Arc::from(ids)
            });
            of_members.push(list.clone());
        }
        (found, of_members)
    }

    /// Members that are subscribed by this expression.
    pub(super) fn regex_subscribers(&self, regex: &str) -> usize {
        self.members.values().filter(|m| m.declared.regex().is_some_and(|r| **r == *regex)).count()
    }

    /// Looks an expression up that no member had yet.
    pub(super) fn add_regex(&mut self, cx: &mut Context<'_>, regex: &Arc<str>, compiled: &Regex) {
        let topics = resolve(std::slice::from_ref(compiled), cx.topics).pop().unwrap_or_default();
        self.put_regex(cx, regex, topics);
        if self.regexes.len() == 1 {
            self.regexes_seen = Some((cx.topics.epoch(), cx.now.monotonic_ms));
        }
    }

    /// Looks all expressions up again if it is time to: whether one matches other topics than before.
    pub(super) fn refresh_regexes(&mut self, cx: &mut Context<'_>) -> bool {
        if self.regexes.is_empty() {
            return false;
        }
        let epoch = cx.topics.epoch();
        if let Some((seen, at)) = self.regexes_seen {
            let age = cx.now.monotonic_ms - at;
            let interval = i64::from(cx.config.consumer_regex_refresh_interval_ms);
            if age < REGEX_REFRESH_MIN_MS || (seen == epoch && age < interval) {
                return false;
            }
        }
        self.regexes_seen = Some((epoch, cx.now.monotonic_ms));
        // What was compiled once compiles again; if a newer broker wrote it and this one cannot, it keeps its topics.
        let (texts, compiled): (Vec<Arc<str>>, Vec<Regex>) =
            self.regexes.keys().filter_map(|text| Some((text.clone(), compile(text).ok()?))).unzip();
        let mut changed = false;
        for (text, topics) in texts.iter().zip(resolve(&compiled, cx.topics)) {
            if *self.regexes[text] != *topics {
                self.put_regex(cx, text, topics);
                changed = true;
            }
        }
        changed
    }
}
