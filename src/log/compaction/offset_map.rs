//! Key → its last offset, in a fixed number of bytes: what a cleaning knows of the dirty part of a log.
//!
//! An entry is a 128-bit keyed hash and an offset, 24 bytes, as in Kafka's map (there the hash is MD5). Two keys with the
//! same hash would be taken for one; the hash has a random key, so that nobody can look for such a pair beforehand.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = size_of::<Entry>();
const _: () = assert!(ENTRY_BYTES == 24);
const EMPTY: i64 = -1;

#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: [u64; 2],
    offset: i64,
}

/// See the file's comment. Lives for one cleaning.
///
/// Invariant: `used ≤ used_max < entries.len()`, so that a search ends at an empty entry.
#[derive(Debug)]
pub struct OffsetMap {
    entries: Vec<Entry>,
    used: usize,
    used_max: usize,
    seed: (u64, u64),
}

impl OffsetMap {
    /// A map for at most `records` records that takes at most `bytes` and is filled up to `load_factor`
    /// (`log.cleaner.io.buffer.load.factor`). It takes two keys, however little it is given.
    #[must_use]
    pub fn new(bytes: usize, load_factor: f64, records: u64, seed: (u64, u64)) -> Self {
        let factor = load_factor.clamp(0.01, 1.0);
        let wanted = ((records as f64 / factor) as u64).saturating_add(2);
        let slots = (bytes / ENTRY_BYTES).min(usize::try_from(wanted).unwrap_or(usize::MAX)).max(3);
        let used_max = ((slots as f64 * factor) as usize).clamp(2, slots - 1);
        Self { entries: vec![Entry { digest: [0; 2], offset: EMPTY }; slots], used: 0, used_max, seed }
    }

    /// Keys in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.used
    }

    /// True if no key is in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Bytes that it takes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.entries.len() * ENTRY_BYTES
    }

    /// Notes that `key` was last seen at `offset`. False: the key is new, and there is no room.
    #[must_use]
    pub fn put(&mut self, key: &[u8], offset: i64) -> bool {
        assert!(offset >= 0, "offset {offset}");
        let digest = self.digest(key);
        let at = self.find(digest);
        if self.entries[at].offset == EMPTY {
            if self.used == self.used_max {
                return false;
            }
            self.used += 1;
        }
        self.entries[at] = Entry { digest, offset };
        true
    }

    /// Where `key` was last seen.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<i64> {
        Some(self.entries[self.find(self.digest(key))].offset).filter(|o| *o != EMPTY)
    }

    fn digest(&self, key: &[u8]) -> [u64; 2] {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        hasher.write(key);
        let hash = hasher.finish128();
        [hash.h1, hash.h2]
    }

    /// The entry with this digest, or the empty one where it belongs.
    fn find(&self, digest: [u64; 2]) -> usize {
        // The high half of a product: spreads over any number of slots without a division.
        let mut at = ((u128::from(digest[0]) * self.entries.len() as u128) >> 64) as usize;
        loop {
            let entry = &self.entries[at];
            if entry.offset == EMPTY || entry.digest == digest {
                return at;
            }
            at = if at + 1 == self.entries.len() { 0 } else { at + 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn the_budget_is_kept() {
        let mut map = OffsetMap::new(100 * ENTRY_BYTES, 0.9, u64::MAX, (1, 2));
        assert_eq!(map.bytes(), 100 * ENTRY_BYTES);
        let taken = (0..200_u64).take_while(|n| map.put(&n.to_be_bytes(), *n as i64)).count();
        assert_eq!(taken, 90);
        assert!(map.put(&5_u64.to_be_bytes(), 777), "a key that is there needs no room");
        assert_eq!(map.get(&5_u64.to_be_bytes()), Some(777));
        assert_eq!(map.len(), 90);
    }

    #[test]
    fn few_records_take_few_bytes() {
        let mut map = OffsetMap::new(128 << 20, 0.9, 10, (1, 2));
        assert!(map.bytes() < 20 * ENTRY_BYTES);
        assert!((0..10_u64).all(|n| map.put(&n.to_be_bytes(), n as i64)));
        let mut least = OffsetMap::new(0, 0.9, 10, (1, 2));
        assert!(least.put(b"a", 0) && least.put(b"b", 1) && !least.put(b"c", 2));
    }

    proptest! {
        #[test]
        fn it_is_a_map(puts in proptest::collection::vec((0..40_u8, 0..1000_i64), 0..200), bytes in 0..2000_usize, load in 0.0..1.0) {
            let mut map = OffsetMap::new(bytes, load, 200, (7, 9));
            let mut model = HashMap::new();
            for (key, offset) in puts {
                let known = model.contains_key(&key);
                let taken = map.put(&[key], offset);
                prop_assert!(taken || !known);
                if taken {
                    model.insert(key, offset);
                }
            }
            for key in 0..40_u8 {
                prop_assert_eq!(map.get(&[key]), model.get(&key).copied());
            }
            prop_assert_eq!(map.len(), model.len());
        }
    }
}
