//! Settings of single groups: their keys, what is shown of them, and what they come to.

use super::broker::BrokerConfig;
use super::definitions::{Definition, Kind, Rule};
use super::describe::{Described, Source, Synonym};
use super::value::{ConfigError, Value, parse_value};
use std::collections::BTreeMap;

/// Settings of one group (IncrementalAlterConfigs on a group); none is the broker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupConfig {
    /// `consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: Option<i32>,
    /// `consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: Option<i32>,
}

/// A key of a group, with the part of the names of the broker's keys that give its default and its limits:
/// `group.consumer.PART`, `group.consumer.min.PART`, `group.consumer.max.PART`.
struct GroupDefinition {
    key: Definition,
    part: &'static str,
}

const fn millis(name: &'static str, part: &'static str, default: &'static str, doc: &'static str) -> GroupDefinition {
    let rule = Rule::AtLeast(1);
    GroupDefinition {
        key: Definition { name, kind: Kind::Int, default: Some(default), rule, dynamic: true, doc },
        part,
    }
}

/// In the order of their names.
const GROUP_KEYS: &[GroupDefinition] = &[
    millis(
        "consumer.heartbeat.interval.ms",
        "heartbeat.interval.ms",
        "5000",
        "How often a member of this consumer group shall send a heartbeat.",
    ),
    millis(
        "consumer.session.timeout.ms",
        "session.timeout.ms",
        "45000",
        "After how long without a heartbeat a member of this consumer group is gone.",
    ),
];

/// The definitions of every key of a group, each with the broker's key that gives its default.
pub(super) fn group_keys() -> impl Iterator<Item = (&'static Definition, String)> {
    GROUP_KEYS.iter().map(|g| (&g.key, format!("group.consumer.{}", g.part)))
}

/// The definition of a group's key.
///
/// # Errors
/// `UnknownGroupKey`.
pub(super) fn group_key(name: &str) -> Result<&'static Definition, ConfigError> {
    let found = GROUP_KEYS.iter().find(|g| g.key.name == name).map(|g| &g.key);
    found.ok_or_else(|| ConfigError::UnknownGroupKey { key: name.to_owned() })
}

/// Every key of a group. As in Kafka a value is the group's own, or a default: the broker's settings are not shown as such.
#[must_use]
pub fn describe_group(broker: &BrokerConfig, own: &BTreeMap<String, String>) -> Vec<Described> {
    let entry = |g: &'static GroupDefinition| {
        let (source, value) = match own.get(g.key.name) {
            Some(text) => (Source::Group, text.clone()),
            None => (Source::Default, broker.integer(&format!("group.consumer.{}", g.part)).to_string()),
        };
        Described {
            name: g.key.name,
            value: Some(value.clone()),
            source,
            read_only: false,
            kind: g.key.kind,
            doc: g.key.doc,
            synonyms: vec![Synonym { name: g.key.name.to_owned(), value: Some(value), source }],
        }
    };
    GROUP_KEYS.iter().map(entry).collect()
}

fn number(own: &BTreeMap<String, String>, key: &Definition) -> Option<i32> {
    match parse_value(key.name, key.kind, key.rule, own.get(key.name)?) {
        Ok(Value::Integer(n)) => i32::try_from(n).ok(),
        _ => None,
    }
}

/// Whether a group may have these settings: each within the broker's limits, the timeout longer than the interval.
///
/// # Errors
/// The first that is wrong, in Kafka's words.
pub fn validate_group(broker: &BrokerConfig, own: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let conflict = |text: String| Err(ConfigError::Conflict(text));
    let mut effective = Vec::new();
    for GroupDefinition { key, part } in GROUP_KEYS {
        let limit = |which: &str| format!("group.consumer.{which}.{part}");
        let default = broker.integer(&format!("group.consumer.{part}"));
        let value = number(own, key).map_or(default, i64::from);
        if own.contains_key(key.name) && value < broker.integer(&limit("min")) {
            return conflict(format!("{} must be greater than or equal to {}", key.name, limit("min")));
        }
        if own.contains_key(key.name) && value > broker.integer(&limit("max")) {
            return conflict(format!("{} must be less than or equal to {}", key.name, limit("max")));
        }
        effective.push((key.name, value));
    }
    if let [(interval_key, interval), (session_key, session)] = effective[..]
        && session <= interval
    {
        return conflict(format!("{session_key} must be greater than {interval_key}"));
    }
    Ok(())
}

/// What the coordinator obeys: the broker's limits hold, also where they were narrowed after the group was configured.
#[must_use]
pub fn resolve_group(broker: &BrokerConfig, own: &BTreeMap<String, String>) -> GroupConfig {
    let value = |g: &GroupDefinition| {
        let limit = |which: &str| broker.integer(&format!("group.consumer.{which}.{}", g.part)) as i32;
        number(own, &g.key).map(|n| n.max(limit("min")).min(limit("max")))
    };
    let [interval, session] = GROUP_KEYS else { unreachable!("two keys") };
    GroupConfig { consumer_session_timeout_ms: value(session), consumer_heartbeat_interval_ms: value(interval) }
}

/// The broker's own settings of groups must agree with each other, as in Kafka.
///
/// # Errors
/// The first that does not.
pub(super) fn validate_broker(integer: &dyn Fn(&str) -> i64) -> Result<(), ConfigError> {
    let ordered = |less: String, more: String| {
        if integer(&less) <= integer(&more) {
            return Ok(());
        }
        let (a, b) = (integer(&less), integer(&more));
        Err(ConfigError::Conflict(format!("{less} is {a} and {more} is {b}: it must not be greater")))
    };
    ordered("group.min.session.timeout.ms".into(), "group.max.session.timeout.ms".into())?;
    for GroupDefinition { part, .. } in GROUP_KEYS {
        let own = || format!("group.consumer.{part}");
        ordered(format!("group.consumer.min.{part}"), own())?;
        ordered(own(), format!("group.consumer.max.{part}"))?;
    }
    ordered("group.consumer.heartbeat.interval.ms".into(), "group.consumer.session.timeout.ms".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_groups_settings_stay_within_the_brokers_limits() {
        let broker = BrokerConfig::default();
        let table = [
            (&[("consumer.session.timeout.ms", "60000")][..], None),
            (&[("consumer.session.timeout.ms", "44999")], Some("min.session.timeout.ms")),
            (&[("consumer.session.timeout.ms", "60001")], Some("max.session.timeout.ms")),
            (&[("consumer.heartbeat.interval.ms", "4999")], Some("min.heartbeat.interval.ms")),
            (&[("consumer.heartbeat.interval.ms", "15001")], Some("max.heartbeat.interval.ms")),
        ];
        for (own, wrong) in table {
            let judged = validate_group(&broker, &map(own)).map_err(|e| e.to_string());
            assert!(judged.as_ref().err().map(String::as_str).map_or(wrong.is_none(), |e| e.contains(wrong.expect(e))));
            assert_eq!(judged.is_ok(), wrong.is_none(), "{own:?}");
        }
        let wide =
            [("group.consumer.min.session.timeout.ms", "1"), ("group.consumer.max.heartbeat.interval.ms", "50000")];
        let broker = BrokerConfig::from_settings(map(&wide)).expect("valid");
        let own = map(&[("consumer.session.timeout.ms", "9000"), ("consumer.heartbeat.interval.ms", "9000")]);
        let error = validate_group(&broker, &own).expect_err("the session would end before the heartbeat").to_string();
        assert_eq!(error, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms");
    }

    #[test]
    fn limits_that_were_narrowed_hold() {
        let own = map(&[("consumer.session.timeout.ms", "60000")]);
        let broker = BrokerConfig::from_settings(map(&[("group.consumer.max.session.timeout.ms", "50000")]));
        let resolved = resolve_group(&broker.expect("valid"), &own);
        assert_eq!(resolved.consumer_session_timeout_ms, Some(50000));
        assert_eq!(resolved.consumer_heartbeat_interval_ms, None);
        assert_eq!(resolve_group(&BrokerConfig::default(), &own).consumer_session_timeout_ms, Some(60000));
    }

    #[test]
    fn what_is_shown_is_the_groups_or_a_default() {
        let broker =
            BrokerConfig::from_settings(map(&[("group.consumer.session.timeout.ms", "50000")])).expect("valid");
        let all = describe_group(&broker, &map(&[("consumer.heartbeat.interval.ms", "6000")]));
        let shown: Vec<_> = all.iter().map(|d| (d.name, d.value.as_deref(), d.source, d.synonyms.len())).collect();
        let expected = [
            ("consumer.heartbeat.interval.ms", Some("6000"), Source::Group, 1),
            ("consumer.session.timeout.ms", Some("50000"), Source::Default, 1),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_brokers_own_settings_agree() {
        for wrong in [
            ("group.consumer.session.timeout.ms", "44999"),
            ("group.consumer.max.session.timeout.ms", "44999"),
            ("group.consumer.heartbeat.interval.ms", "15001"),
            ("group.max.session.timeout.ms", "5999"),
        ] {
            assert!(BrokerConfig::from_settings(map(&[wrong])).is_err(), "{wrong:?}");
        }
    }
}
