//! The slowest requests of a window, in bounded memory.

use super::Timeline;

/// A time in which one task held the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// The task's name.
    pub task: String,
    /// How long.
    pub nanos: u64,
}

/// Which request it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowRequest {
    /// Its API's number.
    pub api: i16,
    /// Its version.
    pub version: i16,
    /// What the client gave it to know the answer by.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it came from.
    pub peer: String,
}

/// A request that was slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slow {
    /// The shard of its connection.
    pub shard: u16,
    /// Which it was.
    pub request: SlowRequest,
    /// Where its time went.
    pub timeline: Timeline,
    /// The longest stall of its connection's core meanwhile.
    pub stall: Option<Stall>,
}

impl Slow {
    fn weight(&self) -> u64 {
        self.timeline.busy()
    }
}

/// The slowest of the current window and of the one before, so many of each. What a request waited on purpose does not count.
#[derive(Debug)]
pub struct SlowestRing {
    capacity: usize,
    window: u64,
    /// Slowest first.
    current: Vec<Slow>,
    last: Vec<Slow>,
}

impl SlowestRing {
    /// Keeps at most `capacity` of each window.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity, window: 0, current: Vec::new(), last: Vec::new() }
    }

    /// Goes on to the window with this number; what is older than the one before it is forgotten.
    pub fn roll(&mut self, window: u64) {
        if window <= self.window {
            return;
        }
        std::mem::swap(&mut self.current, &mut self.last);
        self.current.clear();
        if window > self.window + 1 {
            self.last.clear();
        }
        self.window = window;
    }

    /// True if a request that took so long is kept.
    #[must_use]
    pub fn wants(&self, timeline: &Timeline) -> bool {
        self.current.len() < self.capacity || self.current.last().is_some_and(|s| s.weight() < timeline.busy())
    }

    /// Keeps it, if it is one of the slowest.
    pub fn push(&mut self, slow: Slow) {
        if !self.wants(&slow.timeline) {
            return;
        }
        let at = self.current.partition_point(|other| other.weight() >= slow.weight());
        self.current.truncate(self.capacity - 1);
        self.current.insert(at, slow);
    }

    /// The slowest of both windows, slowest first, at most `count`.
    #[must_use]
    pub fn slowest(&self, count: usize) -> Vec<Slow> {
        slowest_of(self.current.iter().chain(&self.last).cloned().collect(), count)
    }
}

pub(super) fn slowest_of(mut all: Vec<Slow>, count: usize) -> Vec<Slow> {
    all.sort_by_key(|slow| std::cmp::Reverse(slow.weight()));
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Stage;
    use proptest::prelude::*;

    fn slow(busy: u64, waited: u64) -> Slow {
        let mut timeline = Timeline::begin(7);
        timeline.mark(Stage::Device, 7 + busy);
        timeline.mark(Stage::Wait, 7 + busy + waited);
        Slow { shard: 0, request: SlowRequest::default(), timeline, stall: None }
    }

    fn weights(found: &[Slow]) -> Vec<u64> {
        found.iter().map(Slow::weight).collect()
    }

    proptest! {
        #[test]
        fn the_slowest_stay(
            windows in prop::collection::vec(prop::collection::vec((0u64..1000, 0u64..5000), 0..20), 1..4),
            capacity in 1usize..8,
        ) {
            let mut ring = SlowestRing::new(capacity);
            let mut kept: Vec<Vec<u64>> = Vec::new();
            for (window, all) in (0u64..).zip(&windows) {
                ring.roll(window);
                all.iter().for_each(|(busy, waited)| ring.push(slow(*busy, *waited)));
                let mut of_window: Vec<u64> = all.iter().map(|(busy, _)| *busy).collect();
                of_window.sort_unstable_by(|a, b| b.cmp(a));
                of_window.truncate(capacity);
                kept.push(of_window);
            }
            let mut expected: Vec<u64> = kept.iter().rev().take(2).flatten().copied().collect();
            expected.sort_unstable_by(|a, b| b.cmp(a));
            prop_assert_eq!(weights(&ring.slowest(usize::MAX)), expected.clone());
            expected.truncate(3);
            prop_assert_eq!(weights(&ring.slowest(3)), expected);
        }
    }

    #[test]
    fn windows_expire() {
        let mut ring = SlowestRing::new(4);
        ring.roll(10);
        ring.push(slow(5, 0));
        ring.roll(11);
        ring.push(slow(3, 0));
        assert_eq!(weights(&ring.slowest(9)), [5, 3]);
        ring.roll(12);
        assert_eq!(weights(&ring.slowest(9)), [3]);
        ring.roll(14);
        assert_eq!(weights(&ring.slowest(9)), [0; 0]);
    }
}
