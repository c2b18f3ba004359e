//! Which names a topic may have.

/// The longest topic name.
pub const TOPIC_NAME_LEN_MAX: usize = 249;

/// A name that no topic may have (`INVALID_TOPIC_EXCEPTION`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// No characters.
    #[error("the empty string is not allowed as a topic name")]
    Empty,
    /// `.` or `..`, which are directories.
    #[error("'.' and '..' are not allowed as topic names")]
    Dots,
    /// Too long for a directory's name with a partition after it.
    #[error("a topic name has at most {TOPIC_NAME_LEN_MAX} characters, this one has {0}")]
    TooLong(usize),
    /// Something else than ASCII letters, digits, `.`, `_`, `-`.
    #[error("topic name '{0}' has characters other than ASCII letters, digits, '.', '_' and '-'")]
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
        return Err(TopicNameError::Dots);
    }
    if name.len() > TOPIC_NAME_LEN_MAX {
        return Err(TopicNameError::TooLong(name.chars().count()));
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
