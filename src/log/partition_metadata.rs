//! Kafka's `partition.metadata`: which topic a partition's directory belongs to.

use crate::ids::TopicId;
use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A topic id as Kafka prints it: URL-safe base64, no padding, 22 characters.
#[must_use]
pub fn encode_id(id: TopicId) -> String {
    let bits = id.0.as_u128();
    let mut out = String::with_capacity(22);
    for i in 0..22 {
        // 21 digits of 6 bits from the top, the last one has 2 bits and 4 zeros.
        let digit = if i < 21 { bits >> (122 - 6 * i) } else { bits << 4 };
        out.push(ALPHABET[(digit & 63) as usize] as char);
    }
    out
}

/// Reads what [`encode_id`] wrote.
#[must_use]
pub fn decode_id(text: &str) -> Option<TopicId> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (i, c) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|a| *a == c)? as u128;
        if i < 21 {
            bits = bits << 6 | digit;
        } else if digit & 15 == 0 {
            bits = bits << 2 | digit >> 4;
        } else {
            return None;
        }
    }
    Some(TopicId(Uuid::from_u128(bits)))
}

/// The file's text.
#[must_use]
pub fn encode(id: TopicId) -> String {
    format!("version: 0\ntopic_id: {}", encode_id(id))
}

/// Reads the file's text; `None` if it is damaged.
#[must_use]
pub fn decode(text: &str) -> Option<TopicId> {
    let mut lines = text.lines();
    if lines.next()?.trim() != "version: 0" {
        return None;
    }
    decode_id(lines.next()?.strip_prefix("topic_id:")?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_ids() {
        assert_eq!(encode_id(TopicId(Uuid::from_u128(1))), "AAAAAAAAAAAAAAAAAAAAAQ"[..21].to_owned() + "Q");
        assert_eq!(encode_id(TopicId(Uuid::from_u128(0))), "AAAAAAAAAAAAAAAAAAAAAA");
    }

    proptest! {
        #[test]
        fn ids_come_back(bits in any::<u128>(), text in "[ -~]{0,30}") {
            let id = TopicId(Uuid::from_u128(bits));
            prop_assert_eq!(decode(&encode(id)), Some(id));
            let _ = decode(&text);
        }
    }
}
