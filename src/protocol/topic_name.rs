//! Which names a topic may have.

/// The longest topic name.
pub const TOPIC_NAME_LEN_MAX: usize = 249;

/// A name that no topic may have (`INVALID_TOPIC_EXCEPTION`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// No characters.
    #[error("the empty string is not allowed")]
    Empty,
    /// `.` or `..`, which are directories.
    #[error("'{0}' is not allowed")]
    Dots(String),
    /// Too long for a directory's name with a partition after it.
    #[error("the length of '{0}' is longer than the max allowed length {TOPIC_NAME_LEN_MAX}")]
    TooLong(String),
    /// Something else than ASCII letters, digits, `.`, `_`, `-`.
    #[error("'{0}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")]
    Characters(String),
}

/// Checks a topic's name as Kafka does.
///
/// # Errors
/// What is wrong with it.
pub fn check(name: &str) -> Result<(), TopicNameError> {
    if name.is_empty() {
        return Err(TopicNameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(TopicNameError::Dots(name.to_owned()));
    }
    if name.len() > TOPIC_NAME_LEN_MAX {
        return Err(TopicNameError::TooLong(name.to_owned()));
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(TopicNameError::Characters(name.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "A.b_c-9", "...", "__x", &"n".repeat(249)] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", "a/b", "a:b", &"n".repeat(250)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
