//! Changes of settings: judged, and turned into new values.

use super::definitions::{Definition, Kind, broker_key, topic_key};
use super::group::group_key;
use super::topic::lags_agree;
use super::value::{ConfigError, parse_value};
use crate::error_code::ErrorCode;
use std::collections::BTreeMap;

/// What to do to a key (KIP-339); the numbers are IncrementalAlterConfigs' own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterOperation {
    /// Give it this value.
    Set,
    /// Take the value back.
    Delete,
    /// Add items to a list.
    Append,
    /// Take items off a list.
    Subtract,
}

impl AlterOperation {
    /// The operation with this number.
    #[must_use]
    pub const fn from_wire(number: i8) -> Option<Self> {
        match number {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// Whose keys are changed: they have different tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A topic's.
    Topic,
    /// A broker's, or all brokers'.
    Broker,
    /// A group's.
    Group,
}

/// Why a change is refused: Kafka's code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// The sentence.
    pub message: String,
}

impl Scope {
    /// Kafka's code for a value that a key cannot have.
    const fn invalid_value(self) -> ErrorCode {
        match self {
            Self::Topic | Self::Group => ErrorCode::InvalidConfig,
            Self::Broker => ErrorCode::InvalidRequest,
        }
    }
}

fn definition(scope: Scope, key: &str) -> Result<&'static Definition, Refusal> {
    let found = match scope {
        Scope::Topic => topic_key(key).map(|t| &t.key),
        Scope::Broker => broker_key(key),
        Scope::Group => group_key(key),
    };
    let stranger = |error: ConfigError| Refusal { code: ErrorCode::InvalidConfig, message: error.to_string() };
    let found = found.map_err(stranger)?;
    if !found.dynamic {
        let message = format!("Cannot update these configs dynamically: Set({key})");
        return Err(Refusal { code: ErrorCode::InvalidRequest, message });
    }
    Ok(found)
}

/// The new values that some operations make, given what is effective now; none takes a value back.
///
/// # Errors
/// The first operation that cannot be.
pub fn alter(
    scope: Scope,
    effective: &dyn Fn(&str) -> Option<String>,
    operations: &[(String, AlterOperation, Option<String>)],
) -> Result<Vec<(String, Option<String>)>, Refusal> {
    let mut changes: BTreeMap<&str, Option<String>> = BTreeMap::new();
    let invalid = |message: String| Refusal { code: ErrorCode::InvalidRequest, message };
    for (key, operation, value) in operations {
        if changes.contains_key(key.as_str()) {
            return Err(invalid(format!("Error due to duplicate config keys: {key}")));
        }
        if *operation == AlterOperation::Delete {
            // Also a key that is not, or no longer, known: what is not set need not be known to be taken back.
            changes.insert(key, None);
            continue;
        }
        let known = definition(scope, key)?;
        let given = || value.clone().ok_or_else(|| invalid(format!("Null value not supported for : {key}")));
        let new = match operation {
            AlterOperation::Delete => unreachable!("taken back above"),
            AlterOperation::Set => given()?,
            AlterOperation::Append | AlterOperation::Subtract if known.kind != Kind::List => {
                let word = if *operation == AlterOperation::Append { "APPEND" } else { "SUBTRACT" };
                let message = format!("Can't {word} to key {key} because its type is not LIST.");
                return Err(Refusal { code: ErrorCode::InvalidConfig, message });
            }
            AlterOperation::Append => appended(effective(key), &given()?),
            AlterOperation::Subtract => subtracted(effective(key), &given()?),
        };
        parse_value(key, known.kind, known.rule, &new)
            .map_err(|error| Refusal { code: scope.invalid_value(), message: error.to_string() })?;
        changes.insert(key, Some(new));
    }
    if scope == Scope::Topic {
        let after = |key: &str| changes.get(key).map_or_else(|| effective(key), Clone::clone);
        lags_agree(after).map_err(|error| Refusal { code: ErrorCode::InvalidConfig, message: error.to_string() })?;
    }
    Ok(changes.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn appended(now: Option<String>, more: &str) -> String {
    let now = now.unwrap_or_default();
    let mut all: Vec<&str> = items(&now).collect();
    for item in items(more) {
        if !all.contains(&item) {
            all.push(item);
        }
    }
    all.join(",")
}

fn subtracted(now: Option<String>, less: &str) -> String {
    let now = now.unwrap_or_default();
    let gone: Vec<&str> = items(less).collect();
    items(&now).filter(|item| !gone.contains(item)).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        scope: Scope,
        key: &str,
        operation: AlterOperation,
        value: Option<&str>,
    ) -> Result<Option<String>, ErrorCode> {
        let operations = [(key.to_owned(), operation, value.map(str::to_owned))];
        alter(scope, &|_| None, &operations).map(|mut c| c.remove(0).1).map_err(|r| r.code)
    }

    #[test]
    fn changes_are_judged() {
        use AlterOperation::{Append, Delete, Set};
        let table = [
            (Scope::Topic, "segment.bytes", Set, Some("2097152"), Ok(Some("2097152".to_owned()))),
            (Scope::Topic, "segment.bytes", Delete, None, Ok(None)),
            (Scope::Topic, "segment.bytes", Set, Some("many"), Err(ErrorCode::InvalidConfig)),
            (Scope::Topic, "segment.bytes", Set, None, Err(ErrorCode::InvalidRequest)),
            (Scope::Topic, "segment.bytes", Append, Some("1"), Err(ErrorCode::InvalidConfig)),
            (Scope::Topic, "no.such", Set, Some("1"), Err(ErrorCode::InvalidConfig)),
            (Scope::Broker, "message.max.bytes", Set, Some("5"), Ok(Some("5".to_owned()))),
            (Scope::Broker, "node.id", Set, Some("5"), Err(ErrorCode::InvalidRequest)),
            (Scope::Broker, "message.max.bytes", Set, Some("x"), Err(ErrorCode::InvalidRequest)),
            (Scope::Broker, "no.such", Set, Some("x"), Err(ErrorCode::InvalidConfig)),
            (Scope::Topic, "no.such", Delete, None, Ok(None)),
            (Scope::Group, "consumer.session.timeout.ms", Set, Some("50000"), Ok(Some("50000".to_owned()))),
            (Scope::Group, "consumer.session.timeout.ms", Set, Some("0"), Err(ErrorCode::InvalidConfig)),
            (Scope::Group, "segment.bytes", Set, Some("1"), Err(ErrorCode::InvalidConfig)),
            (Scope::Broker, "node.id", Delete, Some("ignored"), Ok(None)),
        ];
        for (scope, key, operation, value, expected) in table {
            assert_eq!(run(scope, key, operation, value), expected, "{key} {operation:?}");
        }
        let twice = [("segment.ms".to_owned(), Delete, None), ("segment.ms".to_owned(), Delete, None)];
        assert_eq!(alter(Scope::Topic, &|_| None, &twice).map_err(|r| r.code), Err(ErrorCode::InvalidRequest));
    }

    #[test]
    fn lists_grow_and_shrink() {
        assert_eq!(appended(Some("a, b".into()), "b,c"), "a,b,c");
        assert_eq!(subtracted(Some("a,b,c".into()), "b"), "a,c");
        assert_eq!(appended(None, "x"), "x");
    }
}
