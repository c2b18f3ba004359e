//! What the compaction of a node obeys: `log.cleaner.*`, as far as it is not a topic's default.

use super::BrokerConfig;
use super::definitions::broker_key;
use super::describe::DynamicValues;
use super::value::{Value, parse_value};

/// For the whole node; shards share it out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleanerConfig {
    /// `log.cleaner.backoff.ms`.
    pub backoff_ms: u64,
    /// `log.cleaner.dedupe.buffer.size`.
    pub dedupe_buffer_bytes: u64,
    /// `log.cleaner.io.buffer.size`.
    pub io_buffer_bytes: u64,
    /// `log.cleaner.io.buffer.load.factor`.
    pub load_factor: f64,
    /// `log.cleaner.io.max.bytes.per.second`.
    pub bytes_per_second: f64,
}

/// The broker's keys, with what was set at run time before what was set at start.
#[must_use]
pub fn resolve_cleaner(broker: &BrokerConfig, dynamic: DynamicValues<'_>) -> CleanerConfig {
    let value = |name: &str| {
        let key = broker_key(name).expect("a key of the table");
        let set = [dynamic.broker, dynamic.default].into_iter().flatten().find_map(|values| values.get(name));
        let text = set.map(String::as_str).or_else(|| broker.explicit(name)).or(key.default);
        let value = parse_value(name, key.kind, key.rule, text.expect("it has a default"));
        value.expect("values are checked when they are set")
    };
    let integer = |name: &str| match value(name) {
        Value::Integer(n) => n.unsigned_abs(),
        other => unreachable!("{name} is a number, not {other:?}"),
    };
    let double = |name: &str| match value(name) {
        Value::Double(n) => n,
        other => unreachable!("{name} is a number, not {other:?}"),
    };
    CleanerConfig {
        backoff_ms: integer("log.cleaner.backoff.ms"),
        dedupe_buffer_bytes: integer("log.cleaner.dedupe.buffer.size"),
        io_buffer_bytes: integer("log.cleaner.io.buffer.size"),
        load_factor: double("log.cleaner.io.buffer.load.factor"),
        bytes_per_second: double("log.cleaner.io.max.bytes.per.second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_set_last_counts() {
        let start = [("log.cleaner.backoff.ms".to_owned(), "7".to_owned())];
        let broker = BrokerConfig::from_settings(start).expect("valid");
        let at_start = resolve_cleaner(&broker, DynamicValues::default());
        assert_eq!((at_start.backoff_ms, at_start.dedupe_buffer_bytes, at_start.load_factor), (7, 128 << 20, 0.9));
        assert_eq!(at_start.bytes_per_second, f64::MAX);
        let all = BTreeMap::from([
            ("log.cleaner.backoff.ms".to_owned(), "8".to_owned()),
            ("log.cleaner.io.max.bytes.per.second".to_owned(), "1e6".to_owned()),
        ]);
        let now = resolve_cleaner(&broker, DynamicValues { broker: None, default: Some(&all) });
        assert_eq!((now.backoff_ms, now.bytes_per_second), (8, 1e6));
    }
}
