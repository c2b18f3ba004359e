//! The simulator's only source of randomness: splitmix64.

use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Seeded pseudo-random numbers (splitmix64). The same seed gives the same numbers on every machine.
#[derive(Debug)]
pub struct SimRng {
    state: Cell<u64>,
}

/// A good mix of 64 bits: a bijection in which every input bit reaches every output bit.
pub(crate) const fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl SimRng {
    /// Numbers that follow from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: Cell::new(mix(seed ^ 0x9e37_79b9_7f4a_7c15)) }
    }

    /// 64 random bits.
    pub fn next_u64(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        mix(state)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        assert!(bound > 0, "no number is below 0");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// An index of a collection of `len` elements, which must not be empty.
    pub fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True once in `n` times on average; never if `n` is 0.
    pub fn one_in(&self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }

    /// A duration of the range, in nanoseconds.
    pub(crate) fn nanos(&self, range: &RangeInclusive<Duration>) -> u64 {
        let (from, to) = (nanos_of(*range.start()), nanos_of(*range.end()));
        from + self.below(to.saturating_sub(from).saturating_add(1))
    }

    /// Another generator that follows from this one.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next_u64())
    }
}

/// Nanoseconds of a duration; about 584 years at most.
pub(crate) fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1).min(u64::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_numbers() {
        let (a, b, c) = (SimRng::new(7), SimRng::new(7), SimRng::new(8));
        let take = |r: &SimRng| (0..8).map(|_| r.next_u64()).collect::<Vec<_>>();
        let (a, b, c) = (take(&a), take(&b), take(&c));
        assert_eq!(a, b);
        assert_ne!(a, c);
    }

    #[test]
    fn below_reaches_every_number_and_no_other() {
        let rng = SimRng::new(1);
        let mut seen = [0u32; 5];
        for _ in 0..1000 {
            seen[rng.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| n > 100), "{seen:?}");
        assert!((0..100).all(|_| rng.nanos(&(Duration::from_nanos(3)..=Duration::from_nanos(5))).abs_diff(4) <= 1));
    }
}
