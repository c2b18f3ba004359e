//! What a topic obeys: its own settings over the broker's over the defaults.

use super::BrokerConfig;
use super::broker::parse_durability;
use super::definitions::{TOPIC_KEYS, TopicDefinition, topic_key};
use super::describe::{DynamicValues, Source};
use super::value::{ConfigError, Value, parse_value};
use crate::log::batch::Compression;
use crate::log::log_config::{Encoding, LogConfig, Ratio, TimestampType};
use std::collections::BTreeMap;

/// Checks the settings that a client gave a topic.
///
/// # Errors
/// The first that is wrong.
pub fn validate_topic(settings: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    for (name, text) in settings {
        let key = &topic_key(name)?.key;
        parse_value(key.name, key.kind, key.rule, text)?;
    }
    lags_agree(|name| settings.get(name).cloned())
}

/// `min.compaction.lag.ms` is not above `max.compaction.lag.ms`; where `value` has none it is the default.
pub(super) fn lags_agree(value: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
    let number = |name| {
        let default = || topic_key(name).ok().and_then(|t| t.key.default.map(str::to_owned));
        value(name).or_else(default).and_then(|text| text.trim().parse::<i64>().ok())
    };
    let (min, max) = (number("min.compaction.lag.ms"), number("max.compaction.lag.ms"));
    match (min, max) {
        (Some(min), Some(max)) if min > max => Err(ConfigError::Conflict(format!(
            "conflict topic config setting min.compaction.lag.ms ({min}) > max.compaction.lag.ms ({max})"
        ))),
        _ => Ok(()),
    }
}

/// Every source of a topic's key, the most important first: (source, name there, text there, text in the topic's unit).
pub(super) fn sources(
    definition: &TopicDefinition,
    broker: &BrokerConfig,
    dynamic: DynamicValues<'_>,
    own: &BTreeMap<String, String>,
) -> Vec<(Source, &'static str, String, String)> {
    let mut found = Vec::new();
    if let Some(text) = own.get(definition.key.name) {
        found.push((Source::Topic, definition.key.name, text.clone(), text.clone()));
    }
    for (source, values) in [(Source::DynamicBroker, dynamic.broker), (Source::DynamicDefaultBroker, dynamic.default)] {
        for (name, factor) in definition.synonyms {
            if let Some(text) = values.and_then(|v| v.get(*name)) {
                found.push((source, *name, text.clone(), scaled(text, *factor)));
            }
        }
    }
    for (name, factor) in definition.synonyms {
        if let Some(text) = broker.explicit(name) {
            found.push((Source::StaticBroker, *name, text.to_owned(), scaled(text, *factor)));
        }
    }
    found
}

fn scaled(text: &str, factor: i64) -> String {
    match text.trim().parse::<i64>() {
        // -1 is no limit in any unit.
        Ok(n) if factor != 1 && n >= 0 => n.saturating_mul(factor).to_string(),
        _ => text.trim().to_owned(),
    }
}

/// The value a topic obeys, as text.
pub(super) fn effective(
    definition: &TopicDefinition,
    broker: &BrokerConfig,
    dynamic: DynamicValues<'_>,
    own: &BTreeMap<String, String>,
) -> String {
    let default = definition.key.default.expect("every topic key has a default");
    sources(definition, broker, dynamic, own).into_iter().next().map_or_else(|| default.to_owned(), |(.., text)| text)
}

/// What the log of a topic obeys, and how many replicas must be in sync for `acks=all`.
#[must_use]
pub fn resolve_topic(
    broker: &BrokerConfig,
    dynamic: DynamicValues<'_>,
    own: &BTreeMap<String, String>,
) -> (LogConfig, i32) {
    let value = |name: &str| {
        let definition = TOPIC_KEYS.iter().find(|t| t.key.name == name).expect("a key of the table");
        let key = &definition.key;
        let text = effective(definition, broker, dynamic, own);
        // What is stored was checked when it was set; a broker's value may still not suit the topic's rule.
        parse_value(key.name, key.kind, key.rule, &text).or_else(|_| {
            let default = key.default.expect("every topic key has a default");
            parse_value(key.name, key.kind, key.rule, default)
        })
    };
    let number = |name: &str| match value(name) {
        Ok(Value::Integer(n)) => n,
        other => unreachable!("{name} is a number with a default, not {other:?}"),
    };
    let text = |name: &str| match value(name) {
        Ok(Value::Text(text)) => text,
        other => unreachable!("{name} is a text with a default, not {other:?}"),
    };
    let positive = |name: &str| u64::try_from(number(name)).unwrap_or(0);
    let share = |name: &str| match value(name) {
        Ok(Value::Double(share)) => share,
        other => unreachable!("{name} is a share with a default, not {other:?}"),
    };
    let policies = match value("cleanup.policy") {
        Ok(Value::List(policies)) => policies,
        other => unreachable!("cleanup.policy is a list with a default, not {other:?}"),
    };
    // By the words that are stored, also of a policy that this version does not carry out: nothing is deleted of a
    // topic that does not say so.
    let policy = TOPIC_KEYS.iter().find(|t| t.key.name == "cleanup.policy").expect("a key of the table");
    let deletes = effective(policy, broker, dynamic, own).split(',').any(|p| p.trim() == "delete");
    let boolean = |name: &str| matches!(value(name), Ok(Value::Boolean(true)));
    let encoding = |codec, level: Option<&str>| Encoding { codec, level: level.map(|name| number(name) as i32) };
    let compression = match text("compression.type").as_str() {
        "uncompressed" => Some(encoding(Compression::None, None)),
        "gzip" => Some(encoding(Compression::Gzip, Some("compression.gzip.level"))),
        "snappy" => Some(encoding(Compression::Snappy, None)),
        "lz4" => Some(encoding(Compression::Lz4, Some("compression.lz4.level"))),
        "zstd" => Some(encoding(Compression::Zstd, Some("compression.zstd.level"))),
        _ => None,
    };
    let log_append = text("message.timestamp.type") == "LogAppendTime";
    let config = LogConfig {
        segment_bytes: positive("segment.bytes"),
        segment_ms: number("segment.ms"),
        segment_jitter_ms: number("segment.jitter.ms"),
        deletes,
        retention_ms: number("retention.ms"),
        retention_bytes: number("retention.bytes"),
        file_delete_delay_ms: number("file.delete.delay.ms"),
        segment_index_bytes: positive("segment.index.bytes"),
        index_interval_bytes: positive("index.interval.bytes"),
        max_message_bytes: usize::try_from(positive("max.message.bytes")).unwrap_or(usize::MAX),
        message_timestamp_type: if log_append { TimestampType::LogAppendTime } else { TimestampType::CreateTime },
        message_timestamp_before_max_ms: number("message.timestamp.before.max.ms"),
        message_timestamp_after_max_ms: number("message.timestamp.after.max.ms"),
        compacted: policies.iter().any(|p| p == "compact"),
        min_cleanable_dirty_ratio: Ratio::new(share("min.cleanable.dirty.ratio")),
        min_compaction_lag_ms: number("min.compaction.lag.ms"),
        max_compaction_lag_ms: number("max.compaction.lag.ms"),
        delete_retention_ms: number("delete.retention.ms"),
        compression,
        preallocate: boolean("preallocate"),
        durability: parse_durability(Some(&text("coreline.durability"))),
        flush_messages: number("flush.messages"),
        flush_ms: number("flush.ms"),
    };
    (config, i32::try_from(number("min.insync.replicas")).unwrap_or(i32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::log_config::Durability;

    fn map(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_topic_goes_before_the_broker_before_the_default() {
        let broker = BrokerConfig::from_settings(map(&[("log.segment.bytes", "2097152"), ("log.roll.hours", "2")]))
            .expect("valid");
        let none = DynamicValues::default();
        let (config, insync) = resolve_topic(&broker, none, &map(&[]));
        assert_eq!((config.segment_bytes, config.segment_ms, insync), (2_097_152, 7_200_000, 1));
        let (config, insync) =
            resolve_topic(&broker, none, &map(&[("segment.bytes", "3145728"), ("min.insync.replicas", "2")]));
        assert_eq!((config.segment_bytes, insync), (3_145_728, 2));
        let dynamic = map(&[("log.roll.ms", "5000"), ("coreline.durability", "written")]);
        let (config, _) = resolve_topic(&broker, DynamicValues { broker: None, default: Some(&dynamic) }, &map(&[]));
        assert_eq!((config.segment_ms, config.durability), (5000, Durability::Written));
        assert_eq!(resolve_topic(&BrokerConfig::default(), none, &map(&[])).0, LogConfig::default());
    }

    #[test]
    fn only_what_says_delete_is_deleted() {
        let none = DynamicValues::default();
        for (policy, deletes) in [("delete", true), ("compact", false), ("compact, delete", true), ("", false)] {
            let (config, _) = resolve_topic(&BrokerConfig::default(), none, &map(&[("cleanup.policy", policy)]));
            assert_eq!(config.deletes, deletes, "{policy:?}");
        }
    }

    #[test]
    fn retention_has_three_units_and_no_limit() {
        let retention = |broker: &[(&str, &str)], own: &[(&str, &str)]| {
            let broker = BrokerConfig::from_settings(map(broker)).expect("valid");
            resolve_topic(&broker, DynamicValues::default(), &map(own)).0.retention_ms
        };
        assert_eq!(retention(&[("log.retention.hours", "2")], &[]), 7_200_000);
        assert_eq!(retention(&[("log.retention.hours", "2"), ("log.retention.minutes", "3")], &[]), 180_000);
        assert_eq!(retention(&[("log.retention.minutes", "3"), ("log.retention.ms", "5")], &[]), 5);
        assert_eq!(retention(&[("log.retention.hours", "-1")], &[]), -1);
        assert_eq!(retention(&[("log.retention.ms", "5")], &[("retention.ms", "0")]), 0);
        assert!(BrokerConfig::from_settings(map(&[("log.retention.ms", "0")])).is_err());
    }

    #[test]
    fn compression_is_a_codec_with_its_own_level() {
        let compression = |own: &[(&str, &str)]| {
            resolve_topic(&BrokerConfig::default(), DynamicValues::default(), &map(own)).0.compression
        };
        assert_eq!(compression(&[("compression.zstd.level", "7")]), None);
        let of = |codec, level| Some(Encoding { codec, level });
        assert_eq!(compression(&[("compression.type", "gzip")]), of(Compression::Gzip, Some(-1)));
        let zstd = [("compression.type", "zstd"), ("compression.zstd.level", "-7"), ("compression.gzip.level", "1")];
        assert_eq!(compression(&zstd), of(Compression::Zstd, Some(-7)));
        assert_eq!(compression(&[("compression.type", "lz4")]), of(Compression::Lz4, Some(9)));
        assert_eq!(compression(&[("compression.type", "uncompressed")]), of(Compression::None, None));
        let broker = BrokerConfig::from_settings(map(&[("compression.type", "snappy")])).expect("valid");
        let of_broker = resolve_topic(&broker, DynamicValues::default(), &map(&[])).0.compression;
        assert_eq!(of_broker, of(Compression::Snappy, None));
    }

    #[test]
    fn wrong_settings_are_refused() {
        let lags = [("min.compaction.lag.ms", "5000"), ("max.compaction.lag.ms", "4000")];
        let error = validate_topic(&map(&lags)).expect_err("contradict each other").to_string();
        assert!(error.contains("min.compaction.lag.ms (5000) > max.compaction.lag.ms (4000)"), "{error}");
        assert!(validate_topic(&map(&lags[..1])).is_ok());
        assert!(validate_topic(&map(&[("remote.storage.enable", "true")])).is_err());
        assert!(validate_topic(&map(&[("segment.bytes", "2097152")])).is_ok());
        assert!(validate_topic(&map(&[("segment.bytes", "-5")])).is_err());
        assert!(validate_topic(&map(&[("segment.byte", "5")])).is_err());
    }
}
