//! What a broker was started with: keys as set, and the same typed.

use super::definitions::{BROKER_KEYS, Kind, Rule, broker_key};
use super::describe::DynamicValues;
use super::value::{ConfigError, Value, parse_value};
use crate::log::log_config::Durability;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// A host and a port to listen on or to be reached at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address; empty for all interfaces.
    pub host: String,
    /// The port; 0 takes a free one.
    pub port: u16,
}

/// What a core does that has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PollChoice {
    /// It sleeps.
    #[default]
    Never,
    /// It polls for a moment where that was worth it.
    Adaptive,
    /// It polls.
    Dedicated,
}

/// Which cores to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreChoice {
    /// All that the process may use.
    All,
    /// So many of them.
    Count(usize),
    /// These.
    List(Vec<usize>),
}

/// A setting from the command line.
pub type Override = (String, String);

/// Everything a node obeys, fixed at start. Shared by all shards.
#[derive(Clone, Debug, PartialEq)]
pub struct BrokerConfig {
    /// `node.id`.
    pub node_id: i32,
    /// `listeners`.
    pub listener: Endpoint,
    /// `advertised.listeners`, where set.
    pub advertised: Option<Endpoint>,
    /// `log.dirs` or `log.dir`.
    pub data_dir: PathBuf,
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: bool,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// `socket.listen.backlog.size`.
    pub listen_backlog: u32,
    /// `max.connections`.
    pub connections_max: usize,
    /// `connections.max.idle.ms`; none for never.
    pub connection_idle_ms: Option<u64>,
    /// `queued.max.request.bytes`; none for the default a shard.
    pub queued_request_bytes: Option<usize>,
    /// `fetch.max.bytes`.
    pub fetch_bytes_max: usize,
    /// `max.incremental.fetch.session.cache.slots`.
    pub fetch_session_slots: usize,
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// `log.retention.check.interval.ms`.
    pub retention_check_interval: Duration,
    /// `coreline.cores`.
    pub cores: CoreChoice,
    /// `coreline.core.port`; none: cores are not brokers.
    pub core_port: Option<u16>,
    /// `coreline.steering`.
    pub steering: bool,
    /// `coreline.balance` and `coreline.balance.interval.ms`; none: partitions stay where they are.
    pub balance: Option<Duration>,
    /// `coreline.poll`.
    pub poll: PollChoice,
    /// `coreline.durability`, the default of topics.
    pub durability: Durability,
    /// `coreline.journal.bytes`.
    pub journal_bytes: u64,
    /// `coreline.recovery.max.ms`.
    pub recovery_max: Duration,
    /// `coreline.cache.bytes`.
    pub cache_bytes: usize,
    /// `coreline.unflushed.bytes`.
    pub unflushed_bytes: usize,
    /// `coreline.open.files`.
    pub open_files: usize,
    /// `coreline.latency`.
    pub latency: bool,
    /// `coreline.metrics.listener`, where set.
    pub metrics_listener: Option<Endpoint>,
    /// The keys that were set, as text.
    explicit: BTreeMap<String, String>,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self::from_settings([]).expect("the defaults are valid")
    }
}

/// `key=value` of the command line.
///
/// # Errors
/// A text without `=`, or with nothing before it.
pub fn parse_override(text: &str) -> Result<Override, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(format!("{text:?}: expected key=value")),
    }
}

impl BrokerConfig {
    /// Reads settings; a later one replaces an earlier one of the same key (the file first, then the overrides).
    ///
    /// # Errors
    /// Every wrong setting, not only the first.
    pub fn from_settings(settings: impl IntoIterator<Item = (String, String)>) -> Result<Self, Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut explicit = BTreeMap::new();
        for (name, text) in settings {
            match broker_key(&name).and_then(|d| parse_value(d.name, d.kind, d.rule, &text)) {
                Ok(_) => {
                    explicit.insert(name, text);
                }
                Err(e) => errors.push(e),
            }
        }
        let read = Reader { explicit: &explicit };
        let typed = read.typed();
        match typed {
            Ok(config) if errors.is_empty() => Ok(config),
            Ok(_) => Err(errors),
            Err(e) => {
                errors.push(e);
                Err(errors)
            }
        }
    }

    /// The text a key was set to at start.
    #[must_use]
    pub fn explicit(&self, key: &str) -> Option<&str> {
        self.explicit.get(key).map(String::as_str)
    }

    /// A number that was set at start, or its default: for what only one place needs.
    ///
    /// # Panics
    /// If the key is not in the table, or is no number with a default.
    #[must_use]
    pub fn integer(&self, key: &str) -> i64 {
        Reader { explicit: &self.explicit }.integer(key)
    }

    /// A list that was set at start, or its default, as [`BrokerConfig::integer`].
    ///
    /// # Panics
    /// If the key is not in the table, or is no list with a default.
    #[must_use]
    pub fn items(&self, key: &str) -> Vec<String> {
        Reader { explicit: &self.explicit }.list(key).unwrap_or_else(|| panic!("{key} is a list with a default"))
    }

    /// A text that was set at start, or its default, as [`BrokerConfig::integer`].
    ///
    /// # Panics
    /// If the key is not in the table, or is no text with a default.
    #[must_use]
    pub fn text(&self, key: &str) -> String {
        Reader { explicit: &self.explicit }.text(key).unwrap_or_else(|| panic!("{key} is a text with a default"))
    }

    /// Yes or no, with what was set at run time before what was set at start, as [`BrokerConfig::integer`].
    ///
    /// # Panics
    /// If the key is not in the table, or is no boolean with a default.
    #[must_use]
    pub fn flag(&self, dynamic: DynamicValues<'_>, key: &str) -> bool {
        let set = [dynamic.broker, dynamic.default].into_iter().flatten().find_map(|values| values.get(key));
        // Values were checked when they were set.
        set.map_or_else(
            || Reader { explicit: &self.explicit }.boolean(key),
            |text| matches!(parse_value(key, Kind::Boolean, Rule::Any, text), Ok(Value::Boolean(true))),
        )
    }

    /// What clients are told to connect to, given what was bound.
    #[must_use]
    pub fn advertised(&self, bound_port: u16) -> Endpoint {
        self.advertised.clone().unwrap_or_else(|| {
            let any = ["", "0.0.0.0", "::"].contains(&self.listener.host.as_str());
            let host = if any { "localhost".to_owned() } else { self.listener.host.clone() };
            Endpoint { host, port: bound_port }
        })
    }
}

struct Reader<'a> {
    explicit: &'a BTreeMap<String, String>,
}

impl Reader<'_> {
    /// The value as set, or the default; none where the key is unset by default. Values were checked before.
    fn value(&self, name: &str) -> Option<Value> {
        let definition = BROKER_KEYS.iter().find(|d| d.name == name).expect("a key of the table");
        let text = self.explicit.get(name).map(String::as_str).or(definition.default)?;
        parse_value(name, definition.kind, definition.rule, text).ok()
    }

    fn integer(&self, name: &str) -> i64 {
        match self.value(name) {
            Some(Value::Integer(n)) => n,
            other => unreachable!("{name} is a number with a default, not {other:?}"),
        }
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.integer(name)).expect("the rule keeps it positive")
    }

    fn boolean(&self, name: &str) -> bool {
        self.value(name) == Some(Value::Boolean(true))
    }

    fn text(&self, name: &str) -> Option<String> {
        match self.value(name)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        match self.value(name)? {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn typed(&self) -> Result<BrokerConfig, ConfigError> {
        let positive = |n: i64| u64::try_from(n).ok();
        super::group::validate_broker(&|name| self.integer(name))?;
        let queued = positive(self.integer("queued.max.request.bytes")).and_then(|n| usize::try_from(n).ok());
        Ok(BrokerConfig {
            node_id: self.node_id()?,
            listener: self.endpoint("listeners")?.expect("listeners has a default"),
            advertised: self.endpoint("advertised.listeners")?,
            data_dir: self.data_dir()?,
            num_partitions: self.integer("num.partitions") as i32,
            default_replication_factor: i16::try_from(self.integer("default.replication.factor")).unwrap_or(i16::MAX),
            auto_create_topics: self.boolean("auto.create.topics.enable"),
            delete_topics: self.boolean("delete.topic.enable"),
            request_bytes_max: self.size("socket.request.max.bytes"),
            listen_backlog: self.integer("socket.listen.backlog.size") as u32,
            connections_max: self.size("max.connections"),
            connection_idle_ms: positive(self.integer("connections.max.idle.ms")),
            queued_request_bytes: queued,
            fetch_bytes_max: self.size("fetch.max.bytes"),
            fetch_session_slots: self.size("max.incremental.fetch.session.cache.slots"),
            producer_id_expiration_ms: self.integer("producer.id.expiration.ms"),
            retention_check_interval: Duration::from_millis(
                self.integer("log.retention.check.interval.ms").unsigned_abs(),
            ),
            cores: self.cores()?,
            core_port: self.value("coreline.core.port").map(|_| self.integer("coreline.core.port") as u16),
            steering: self.text("coreline.steering").as_deref() == Some("on"),
            balance: (self.text("coreline.balance").as_deref() == Some("on"))
                .then(|| Duration::from_millis(self.integer("coreline.balance.interval.ms").unsigned_abs())),
            poll: match self.text("coreline.poll").as_deref() {
                Some("adaptive") => PollChoice::Adaptive,
                Some("dedicated") => PollChoice::Dedicated,
                _ => PollChoice::Never,
            },
            durability: parse_durability(self.text("coreline.durability").as_deref()),
            journal_bytes: self.integer("coreline.journal.bytes") as u64,
            recovery_max: Duration::from_millis(self.integer("coreline.recovery.max.ms") as u64),
            cache_bytes: self.size("coreline.cache.bytes"),
            unflushed_bytes: self.size("coreline.unflushed.bytes"),
            open_files: self.size("coreline.open.files"),
            latency: self.text("coreline.latency").as_deref() == Some("on"),
            metrics_listener: self.metrics_listener()?,
            explicit: self.explicit.clone(),
        })
    }

    fn node_id(&self) -> Result<i32, ConfigError> {
        match (self.explicit.get("node.id"), self.explicit.get("broker.id")) {
            (Some(node), Some(broker)) if node.trim() != broker.trim() => {
                Err(ConfigError::Conflict(format!("node.id is {node} and broker.id is {broker}: set one of them")))
            }
            (None, Some(_)) => Ok(self.integer("broker.id") as i32),
            _ => Ok(self.integer("node.id") as i32),
        }
    }

    fn data_dir(&self) -> Result<PathBuf, ConfigError> {
        let named = match (self.explicit.get("log.dirs"), self.text("log.dir")) {
            (None, Some(dir)) => vec![dir],
            _ => self.list("log.dirs").expect("log.dirs has a default"),
        };
        match named.as_slice() {
            [one] => Ok(PathBuf::from(one)),
            many => Err(ConfigError::Invalid {
                key: "log.dirs".to_owned(),
                value: many.join(","),
                expected: format!("expected one directory, found {}", many.len()),
            }),
        }
    }

    fn endpoint(&self, name: &str) -> Result<Option<Endpoint>, ConfigError> {
        let Some(items) = self.list(name) else { return Ok(None) };
        let invalid = |expected: &str| ConfigError::Invalid {
            key: name.to_owned(),
            value: items.join(","),
            expected: expected.to_owned(),
        };
        let [one] = items.as_slice() else { return Err(invalid("expected one listener")) };
        let (protocol, address) = one.split_once("://").ok_or_else(|| invalid("expected PLAINTEXT://host:port"))?;
        if protocol != "PLAINTEXT" {
            return Err(invalid("only PLAINTEXT listeners are supported by this version of Coreline"));
        }
        let (host, port) = address.rsplit_once(':').ok_or_else(|| invalid("expected PLAINTEXT://host:port"))?;
        let port = port.parse().map_err(|_| invalid("the port must be a number from 0 to 65535"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Some(Endpoint { host, port }))
    }

    fn metrics_listener(&self) -> Result<Option<Endpoint>, ConfigError> {
        let key = "coreline.metrics.listener";
        let Some(text) = self.text(key).filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let parsed = text.trim().rsplit_once(':').and_then(|(host, port)| {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Some(Endpoint { host, port: port.parse().ok()? })
        });
        let expected = "expected host:port, with a port from 0 to 65535".to_owned();
        let invalid = ConfigError::Invalid { key: key.to_owned(), value: text.clone(), expected };
        parsed.map(Some).ok_or(invalid)
    }

    fn cores(&self) -> Result<CoreChoice, ConfigError> {
        let text = self.text("coreline.cores").expect("coreline.cores has a default");
        let invalid = || ConfigError::Invalid {
            key: "coreline.cores".to_owned(),
            value: text.clone(),
            expected: "expected all, a count of at least 1, or a list such as 0,2,4".to_owned(),
        };
        if text == "all" {
            return Ok(CoreChoice::All);
        }
        if !text.contains(',') {
            let count = text.parse().ok().filter(|n| *n > 0);
            return count.map(CoreChoice::Count).ok_or_else(invalid);
        }
        let named = text.split(',').map(str::trim).filter(|c| !c.is_empty());
        let cores: Vec<usize> = named.map(|c| c.parse().map_err(|_| invalid())).collect::<Result<_, _>>()?;
        let twice = cores.iter().enumerate().any(|(i, c)| cores[..i].contains(c));
        if cores.is_empty() || twice { Err(invalid()) } else { Ok(CoreChoice::List(cores)) }
    }
}

pub(super) fn parse_durability(text: Option<&str>) -> Durability {
    if text == Some("written") { Durability::Written } else { Durability::Durable }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> Result<BrokerConfig, Vec<ConfigError>> {
        BrokerConfig::from_settings(settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn the_defaults_serve_on_localhost() {
        let config = BrokerConfig::default();
        assert_eq!(config.listener, Endpoint { host: "127.0.0.1".into(), port: 9092 });
        assert_eq!(config.data_dir, PathBuf::from("./data"));
        assert_eq!(config.durability, Durability::Durable);
        assert_eq!(config.cores, CoreChoice::All);
        assert_eq!(config.connection_idle_ms, Some(600_000));
        assert_eq!(config.metrics_listener, None);
    }

    #[test]
    fn settings_are_typed_and_the_last_one_wins() {
        let config = with(&[
            ("listeners", "PLAINTEXT://[::1]:0"),
            ("log.dir", "/x"),
            ("coreline.cores", "1,3"),
            ("num.partitions", "4"),
            ("num.partitions", "5"),
            ("broker.id", "9"),
            ("coreline.metrics.listener", "[::1]:9644"),
        ])
        .expect("valid");
        assert_eq!(config.listener, Endpoint { host: "::1".into(), port: 0 });
        assert_eq!(config.advertised(77), Endpoint { host: "::1".into(), port: 77 });
        assert_eq!(config.data_dir, PathBuf::from("/x"));
        assert_eq!(config.cores, CoreChoice::List(vec![1, 3]));
        assert_eq!(config.metrics_listener, Some(Endpoint { host: "::1".into(), port: 9644 }));
        assert_eq!((config.num_partitions, config.node_id), (5, 9));
        assert_eq!(config.explicit("num.partitions"), Some("5"));
        assert_eq!(with(&[("coreline.cores", "2")]).expect("valid").cores, CoreChoice::Count(2));
        assert_eq!(with(&[("coreline.cores", "0,")]).expect("valid").cores, CoreChoice::List(vec![0]));
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let errors =
            with(&[("num.partition", "1"), ("log.segment.bytes", "many"), ("log.dirs", "a,b")]).expect_err("wrong");
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 3, "{text:?}");
        assert!(text[0].contains("num.partitions") && text[1].contains("many") && text[2].contains("one directory"));
        for wrong in [
            ("listeners", "SSL://a:1"),
            ("listeners", "PLAINTEXT://a"),
            ("listeners", "PLAINTEXT://a:99999"),
            ("coreline.cores", "0"),
            ("coreline.cores", "1,1"),
            ("coreline.metrics.listener", "9644"),
            ("coreline.metrics.listener", "a:99999"),
        ] {
            assert!(with(&[wrong]).is_err(), "{wrong:?}");
        }
        assert!(with(&[("node.id", "1"), ("broker.id", "2")]).is_err());
    }
}
