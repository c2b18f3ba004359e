//! Values: from text to type, checked against the key's rule; and the errors that name the key.

use super::definitions::{Kind, Rule};

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No such key.
    #[error("unknown configuration key \"{key}\"{}", nearest.as_ref().map(|n| format!(": did you mean \"{n}\"?")).unwrap_or_default())]
    Unknown {
        /// The key as it was given.
        key: String,
        /// The known key that is most like it.
        nearest: Option<String>,
    },
    /// Kafka has the key, this version of Coreline does not obey it.
    #[error("configuration key \"{key}\" is not supported by this version of Coreline")]
    Unsupported {
        /// The key.
        key: String,
    },
    /// Groups have no such key.
    #[error("Unknown group config name: {key}")]
    UnknownGroupKey {
        /// The key as it was given.
        key: String,
    },
    /// The value is not one the key can have.
    #[error("invalid value {value} for configuration {key}: {expected}")]
    Invalid {
        /// The key.
        key: String,
        /// The value as it was given.
        value: String,
        /// What was expected.
        expected: String,
    },
    /// Two settings that exclude each other.
    #[error("{0}")]
    Conflict(String),
}

/// A value by type.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number, of any of Kafka's integer types.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// Text.
    Text(String),
    /// A comma-separated list.
    List(Vec<String>),
}

/// Reads and checks a value. Blanks around it do not count, as in Kafka.
///
/// # Errors
/// `Invalid` with what was expected.
pub fn parse_value(key: &str, kind: Kind, rule: Rule, text: &str) -> Result<Value, ConfigError> {
    let text = text.trim();
    let invalid = |expected: String| ConfigError::Invalid { key: key.to_owned(), value: text.to_owned(), expected };
    let integer = |bits: &str, min: i64, max: i64| {
        let number: i64 = text.parse().map_err(|_| invalid(format!("not a number of type {bits}")))?;
        if number < min || number > max {
            return Err(invalid(format!("not a number of type {bits}")));
        }
        Ok(Value::Integer(number))
    };
    let value = match kind {
        Kind::Boolean if text.eq_ignore_ascii_case("true") => Value::Boolean(true),
        Kind::Boolean if text.eq_ignore_ascii_case("false") => Value::Boolean(false),
        Kind::Boolean => return Err(invalid("expected true or false".to_owned())),
        Kind::Short => integer("SHORT", i64::from(i16::MIN), i64::from(i16::MAX))?,
        Kind::Int => integer("INT", i64::from(i32::MIN), i64::from(i32::MAX))?,
        Kind::Long => integer("LONG", i64::MIN, i64::MAX)?,
        Kind::Double => {
            let number = text.parse().ok().filter(|n: &f64| !n.is_nan());
            Value::Double(number.ok_or_else(|| invalid("not a number of type DOUBLE".to_owned()))?)
        }
        Kind::String => Value::Text(text.to_owned()),
        Kind::List if text.is_empty() => Value::List(Vec::new()),
        Kind::List => Value::List(text.split(',').map(|item| item.trim().to_owned()).collect()),
    };
    check(rule, &value).map_err(invalid)?;
    Ok(value)
}

fn check(rule: Rule, value: &Value) -> Result<(), String> {
    match (rule, value) {
        (Rule::AtLeast(min), Value::Integer(n)) if *n < min => Err(format!("must be at least {min}")),
        (Rule::Between(min, max), Value::Integer(n)) if *n < min || *n > max => {
            Err(format!("must be from {min} to {max}"))
        }
        (Rule::OneOf(words), Value::Text(text)) if !words.contains(&text.as_str()) => {
            Err(format!("must be one of {}", words.join(", ")))
        }
        (Rule::Share, Value::Double(n)) if !(0.0..=1.0).contains(n) => Err("must be from 0 to 1".to_owned()),
        (Rule::Positive, Value::Double(n)) if *n <= 0.0 => Err("must be above 0".to_owned()),
        (Rule::SomeOf(words), Value::List(items)) => some_of(words, items),
        (Rule::AnyOf(words), Value::List(items)) => any_of(words, items),
        (Rule::GzipLevel, Value::Integer(n)) if *n != -1 && !(1..=9).contains(n) => {
            Err("must be from 1 to 9, or -1 for the usual one".to_owned())
        }
        (Rule::Replicas, Value::List(items)) => replicas(items),
        (Rule::OnlyFalse(why), Value::Boolean(true)) => Err((*why).to_owned()),
        (Rule::NotEmpty, Value::Text(text)) if text.is_empty() => Err("must not be empty".to_owned()),
        (Rule::NotEmpty, Value::List(items)) if items.is_empty() || items.iter().any(String::is_empty) => {
            Err("must not be empty".to_owned())
        }
        (Rule::PositiveOrUnset, Value::Integer(n)) if *n < -1 || *n == 0 => {
            Err("must be positive, or -1 for none".to_owned())
        }
        _ => Ok(()),
    }
}

fn replicas(items: &[String]) -> Result<(), String> {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let pair =
        |item: &String| item.split_once(':').is_some_and(|(partition, broker)| number(partition) && number(broker));
    if items == ["*"] || items.iter().all(pair) {
        return Ok(());
    }
    Err("must be * or a list of partition:broker, such as 0:1,1:1".to_owned())
}

fn some_of(words: &[&str], items: &[String]) -> Result<(), String> {
    if items.is_empty() {
        return Err(format!("must hold some of {}", words.join(", ")));
    }
    let twice = items.iter().enumerate().find(|(n, item)| items[..*n].contains(item));
    match twice {
        Some((_, item)) => Err(format!("{item} is there twice")),
        None => any_of(words, items),
    }
}

fn any_of(words: &[&str], items: &[String]) -> Result<(), String> {
    match items.iter().find(|item| !words.contains(&item.as_str())) {
        Some(item) => Err(format!("{item} is not supported: must hold some of {}", words.join(", "))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_checked() {
        let read = |kind, rule, text| parse_value("k", kind, rule, text);
        assert_eq!(read(Kind::Boolean, Rule::Any, " True "), Ok(Value::Boolean(true)));
        assert!(read(Kind::Boolean, Rule::Any, "yes").is_err());
        assert_eq!(read(Kind::Int, Rule::AtLeast(1), "5"), Ok(Value::Integer(5)));
        assert!(read(Kind::Int, Rule::AtLeast(1), "0").is_err());
        assert!(read(Kind::Int, Rule::Any, "3000000000").is_err());
        assert_eq!(read(Kind::Long, Rule::Any, "3000000000"), Ok(Value::Integer(3_000_000_000)));
        assert!(read(Kind::Long, Rule::Any, "1.5").is_err());
        assert_eq!(read(Kind::List, Rule::Any, "a, b"), Ok(Value::List(vec!["a".into(), "b".into()])));
        assert_eq!(read(Kind::String, Rule::OneOf(&["a", "b"]), "a"), Ok(Value::Text("a".into())));
        let error = read(Kind::String, Rule::OneOf(&["a", "b"]), "c").expect_err("not one of them");
        assert_eq!(error.to_string(), "invalid value c for configuration k: must be one of a, b");
        let policy = |text| read(Kind::List, Rule::SomeOf(&["delete", "x"]), text).map_err(|e| e.to_string());
        assert_eq!(policy("delete,x"), Ok(Value::List(vec!["delete".into(), "x".into()])));
        assert!(policy("compact").is_err_and(|e| e.contains("compact is not supported: must hold some of delete, x")));
        assert!(policy("").is_err() && policy("delete,delete").is_err());
        let any = |text| read(Kind::List, Rule::AnyOf(&["delete", "x"]), text);
        assert!(any("").is_ok() && any("x,delete").is_ok() && any("x,x").is_ok() && any("compact").is_err());
        for (text, valid) in [("-1", true), ("1", true), ("9", true), ("0", false), ("10", false), ("-2", false)] {
            assert_eq!(read(Kind::Int, Rule::GzipLevel, text).is_ok(), valid, "{text}");
        }
        for (text, valid) in
            [("", true), ("*", true), ("0:1,12:3", true), ("0", false), ("*,0:1", false), ("a:1", false)]
        {
            assert_eq!(read(Kind::List, Rule::Replicas, text).is_ok(), valid, "{text}");
        }
        let error = read(Kind::Boolean, Rule::OnlyFalse("no tiers"), "true").expect_err("refused");
        assert!(error.to_string().ends_with("no tiers") && read(Kind::Boolean, Rule::OnlyFalse(""), "false").is_ok());
        assert_eq!(read(Kind::Double, Rule::Share, "0.25"), Ok(Value::Double(0.25)));
        assert_eq!(read(Kind::Double, Rule::Positive, "1.7976931348623157E308"), Ok(Value::Double(f64::MAX)));
        for (rule, text) in [(Rule::Share, "1.01"), (Rule::Share, "-0.1"), (Rule::Positive, "0"), (Rule::Any, "NaN")] {
            assert!(read(Kind::Double, rule, text).is_err(), "{text}");
        }
        assert!(read(Kind::Long, Rule::PositiveOrUnset, "0").is_err());
        assert!(read(Kind::Long, Rule::PositiveOrUnset, "-1").is_ok());
    }
}
