//! What DescribeConfigs says of a resource, and the table of the documents.

use super::BrokerConfig;
use super::definitions::{BROKER_KEYS, Definition, Kind, Rule, TOPIC_KEYS};
use super::topic::{effective, sources};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where a value comes from; the numbers are DescribeConfigs' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Set on the topic.
    Topic,
    /// Set at run time on this broker.
    DynamicBroker,
    /// Set at run time on all brokers.
    DynamicDefaultBroker,
    /// Set in the file or on the command line.
    StaticBroker,
    /// Nowhere set.
    Default,
    /// Set on the group.
    Group,
}

impl Source {
    /// The source's number in DescribeConfigs.
    #[must_use]
    pub const fn wire(self) -> i8 {
        match self {
            Self::Topic => 1,
            Self::DynamicBroker => 2,
            Self::DynamicDefaultBroker => 3,
            Self::StaticBroker => 4,
            Self::Default => 5,
            Self::Group => 8,
        }
    }
}

/// Settings that were changed at run time.
#[derive(Clone, Copy, Debug, Default)]
pub struct DynamicValues<'a> {
    /// Of this broker.
    pub broker: Option<&'a BTreeMap<String, String>>,
    /// Of all brokers.
    pub default: Option<&'a BTreeMap<String, String>>,
}

/// A name and value that the effective one goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synonym {
    /// The key's name at that source.
    pub name: String,
    /// Its value there.
    pub value: Option<String>,
    /// The source.
    pub source: Source,
}

/// One entry of DescribeConfigs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The key.
    pub name: &'static str,
    /// The effective value; none where it is unset.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: Source,
    /// Cannot change while the broker runs.
    pub read_only: bool,
    /// The key's type.
    pub kind: Kind,
    /// The key's document.
    pub doc: &'static str,
    /// All sources, the effective one first.
    pub synonyms: Vec<Synonym>,
}

/// Every key of a topic.
#[must_use]
pub fn describe_topic(
    broker: &BrokerConfig,
    dynamic: DynamicValues<'_>,
    own: &BTreeMap<String, String>,
) -> Vec<Described> {
    let entry = |t: &'static super::TopicDefinition| {
        let found = sources(t, broker, dynamic, own);
        let source = found.first().map_or(Source::Default, |(source, ..)| *source);
        let mut synonyms: Vec<Synonym> = found
            .into_iter()
            .map(|(source, name, value, _)| Synonym { name: name.to_owned(), value: Some(value), source })
            .collect();
        // As Kafka: the default of the broker's key closes the list; that of a less important one only after broker's
        // values.
        let with_default = t.synonyms.iter().position(|(n, _)| default_of(n).is_some());
        let of_broker = synonyms.iter().any(|s| s.source != Source::Topic);
        if let Some((name, _)) = with_default.filter(|i| *i == 0 || of_broker).map(|i| &t.synonyms[i]) {
            let value = default_of(name).map(str::to_owned);
            synonyms.push(Synonym { name: (*name).to_owned(), value, source: Source::Default });
        }
        Described {
            name: t.key.name,
            value: Some(effective(t, broker, dynamic, own)),
            source,
            read_only: false,
            kind: t.key.kind,
            doc: t.key.doc,
            synonyms,
        }
    };
    TOPIC_KEYS.iter().map(entry).collect()
}

fn default_of(name: &str) -> Option<&'static str> {
    BROKER_KEYS.iter().find(|d| d.name == name).and_then(|d| d.default)
}

/// Every key of a broker.
#[must_use]
pub fn describe_broker(broker: &BrokerConfig, dynamic: DynamicValues<'_>) -> Vec<Described> {
    let entry = |d: &'static Definition| {
        let dynamic_of = |values: Option<&BTreeMap<String, String>>| values.and_then(|v| v.get(d.name)).cloned();
        let all = [
            (Source::DynamicBroker, dynamic_of(dynamic.broker)),
            (Source::DynamicDefaultBroker, dynamic_of(dynamic.default)),
            (Source::StaticBroker, broker.explicit(d.name).map(str::to_owned)),
            (Source::Default, d.default.map(str::to_owned)),
        ];
        let synonyms: Vec<Synonym> = all
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(source, value)| Synonym { name: d.name.to_owned(), value, source })
            .collect();
        Described {
            name: d.name,
            value: synonyms.first().and_then(|s| s.value.clone()),
            source: synonyms.first().map_or(Source::Default, |s| s.source),
            read_only: !d.dynamic,
            kind: d.kind,
            doc: d.doc,
            synonyms,
        }
    };
    BROKER_KEYS.iter().map(entry).collect()
}

fn rule_text(rule: Rule) -> String {
    match rule {
        Rule::Any => String::new(),
        Rule::AtLeast(min) => format!("≥ {min}"),
        Rule::Between(min, max) => format!("{min} … {max}"),
        Rule::OneOf(words) => words.join(" \\| "),
        Rule::SomeOf(words) => format!("some of {}", words.join(", ")),
        Rule::AnyOf(words) => format!("some of {}, or empty", words.join(", ")),
        Rule::GzipLevel => "1 … 9, or -1".to_owned(),
        Rule::Replicas => "* or partition:broker, …".to_owned(),
        Rule::OnlyFalse(_) => "false".to_owned(),
        Rule::Share => "0 … 1".to_owned(),
        Rule::Positive => "> 0".to_owned(),
        Rule::NotEmpty => "not empty".to_owned(),
        Rule::PositiveOrUnset => "> 0, or -1".to_owned(),
    }
}

fn row(text: &mut String, d: &Definition, last: &str) {
    let default = d.default.map_or("–".to_owned(), |v| format!("`{v}`"));
    let _ =
        writeln!(text, "| `{}` | {} | {default} | {} | {last} | {} |", d.name, d.kind.name(), rule_text(d.rule), d.doc);
}

/// The document `src/docs/configuration.md`, made from the tables.
#[must_use]
pub fn reference_markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nMade from `src/config/definitions.rs` (`UPDATE_DOCS=1 cargo test -p coreline configuration_document`); do not edit.\n\n\
         Set by `coreline start --config FILE` (the format of `server.properties`) and `--override key=value`, which goes before the file. \
         A key that is not in these tables is refused by name: what is set is obeyed.\n\n## Broker\n\n\
         | key | type | default | valid | at run time | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for d in BROKER_KEYS {
        row(&mut text, d, if d.dynamic { "yes" } else { "no" });
    }
    text.push_str(
        "\n## Topic\n\nAll of them change at run time. The broker's keys give the default.\n\n\
         | key | type | default | valid | broker's key | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for t in TOPIC_KEYS {
        let names: Vec<String> = t.synonyms.iter().map(|(n, _)| format!("`{n}`")).collect();
        row(&mut text, &t.key, &names.join(", "));
    }
    text.push_str(
        "\n## Group\n\nOf one consumer group (KIP-848), at run time. The broker's keys give the default and, with `min` and `max`, the limits.\n\n\
         | key | type | default | valid | broker's key | |\n| --- | --- | --- | --- | --- | --- |\n",
    );
    for (key, broker) in super::group::group_keys() {
        row(&mut text, key, &format!("`{broker}`"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(settings: &[(&str, &str)]) -> BTreeMap<String, String> {
        settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn a_topics_entry_lists_its_sources_in_order() {
        let broker = BrokerConfig::from_settings(map(&[("log.segment.bytes", "2097152")])).expect("valid");
        let own = map(&[("segment.bytes", "3145728")]);
        let all = describe_topic(&broker, DynamicValues::default(), &own);
        let entry = all.iter().find(|d| d.name == "segment.bytes").expect("there");
        assert_eq!((entry.value.as_deref(), entry.source), (Some("3145728"), Source::Topic));
        let names: Vec<_> = entry.synonyms.iter().map(|s| (s.name.as_str(), s.source)).collect();
        let expected = [
            ("segment.bytes", Source::Topic),
            ("log.segment.bytes", Source::StaticBroker),
            ("log.segment.bytes", Source::Default),
        ];
        assert_eq!(names, expected);
        let entry = all.iter().find(|d| d.name == "segment.ms").expect("there");
        assert_eq!((entry.value.as_deref(), entry.source), (Some("604800000"), Source::Default));
        assert_eq!(entry.synonyms, [], "log.roll.ms has no default");
    }

    #[test]
    fn a_brokers_entry_knows_what_may_change() {
        let dynamic = map(&[("message.max.bytes", "5")]);
        let all = describe_broker(&BrokerConfig::default(), DynamicValues { broker: Some(&dynamic), default: None });
        let entry = all.iter().find(|d| d.name == "message.max.bytes").expect("there");
        assert_eq!((entry.value.as_deref(), entry.source, entry.read_only), (Some("5"), Source::DynamicBroker, false));
        let entry = all.iter().find(|d| d.name == "node.id").expect("there");
        assert_eq!((entry.source, entry.read_only), (Source::Default, true));
        let entry = all.iter().find(|d| d.name == "log.roll.ms").expect("there");
        assert_eq!(entry.value, None);
    }

    #[test]
    fn the_configuration_document_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/configuration.md");
        let made = reference_markdown();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &made).expect("the document is writable");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == made, "{path} is stale: UPDATE_DOCS=1 cargo test configuration_document");
    }
}
