//! Which partition of `__consumer_offsets` holds a group: exactly Kafka's rule, so that a copy of Kafka's data, or a
//! client that computes it, finds the group where Kafka has it.

/// `String.hashCode` of Java: over UTF-16 units, with wrapping arithmetic.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// The partition that holds `group` when there are `partitions` of them.
///
/// # Panics
/// If there are none.
#[must_use]
pub fn partition_of(group: &str, partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has partitions");
    // Kafka's `Utils.abs`: the number without a positive counterpart is 0.
    java_hash(group).checked_abs().unwrap_or(0) % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_where_kafka_puts_them() {
        // As Java's own `hashCode` gives them.
        let hashes = [
            ("", 0),
            ("a", 97),
            ("console-consumer-12345", 158_455_506),
            ("größe", 98_762_257),
            ("\u{1F600}", 1_772_899),
            ("polygenelubricants", i32::MIN),
        ];
        for (text, hash) in hashes {
            assert_eq!(java_hash(text), hash, "{text:?}");
        }
        assert_eq!(partition_of("polygenelubricants", 50), 0);
        assert_eq!(partition_of("a", 50), 47);
        assert_eq!(partition_of("console-consumer-12345", 50), 6);
        assert_eq!(partition_of("x", 1), 0);
    }
}
