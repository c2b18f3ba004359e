//! Which partition should go to another core, if any. Pure: loads and time come in as arguments.
//!
//! ```text
//! every interval   loads of the partitions that did anything ─▶ averages ─▶ the hottest core is hot, several times in a row?
//!                  ─▶ the partition that, moved to the coolest core, leaves the hotter of the two least hot ─▶ one move
//! ```
//! After a move neither core may be as hot as the first one was, and by more than a trifle, so loads that stay as they
//! are end in a few moves, after which there is no better place for anything. For loads that change there is time: a partition
//! goes at most once in [`BalanceRules::stay`], one partition in an interval.

use crate::ids::PartitionId;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a request costs, in nanoseconds of a core: about what the benchmarks of small requests show.
const REQUEST_COST: u64 = 16_000;
/// What a byte that is read costs, as a part of one that is appended, which costs about a nanosecond.
const READ_PART: u64 = 2;
/// The hottest core has more than the mean by this part of the mean.
const HOT_PART: u64 = 4;
/// A core is busy at this part of its time: below it nothing is worth a move.
const BUSY_PART: u32 = 100;
/// The hotter of the two cores has this part of the mean less after a move, at least.
const GAIN_PART: u64 = 64;
/// Intervals in a row in which the same core is the hot one.
const HOT_ROUNDS: u32 = 3;

/// What a partition did in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionLoad {
    /// Bytes appended.
    pub bytes_in: u64,
    /// Bytes read.
    pub bytes_out: u64,
    /// Appends and reads.
    pub requests: u64,
}

impl PartitionLoad {
    /// What it did elsewhere, or later.
    pub fn add(&mut self, more: Self) {
        self.bytes_in = self.bytes_in.saturating_add(more.bytes_in);
        self.bytes_out = self.bytes_out.saturating_add(more.bytes_out);
        self.requests = self.requests.saturating_add(more.requests);
    }

    /// About what it took of a core, in nanoseconds. Of use to compare partitions, not to predict anything.
    #[must_use]
    pub fn cost(&self) -> u64 {
        let requests = self.requests.saturating_mul(REQUEST_COST);
        requests.saturating_add(self.bytes_in).saturating_add(self.bytes_out / READ_PART)
    }
}

/// When partitions move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BalanceRules {
    /// From one look at the loads to the next.
    pub interval: Duration,
    /// How long a partition stays where it has come to.
    pub stay: Duration,
    /// A core that works less in an interval is not hot.
    pub busy: Duration,
}

impl BalanceRules {
    /// The rules for looks at this distance: a partition stays for sixty of them.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, stay: interval * 60, busy: interval / BUSY_PART }
    }
}

/// A partition that did something, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Which.
    pub partition: PartitionId,
    /// Its core.
    pub shard: u16,
    /// May go to another one.
    pub may_move: bool,
    /// What it did since the last look.
    pub load: PartitionLoad,
}

/// A move to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// The core that it is on.
    pub from: u16,
    /// The core that it goes to.
    pub to: u16,
}

/// What is remembered from one look to the next.
#[derive(Clone, Debug)]
pub struct Balancer {
    rules: BalanceRules,
    shards: u16,
    /// Costs in an interval: half of it is the last one, a quarter the one before.
    averages: BTreeMap<PartitionId, u64>,
    /// When partitions were moved, or that was tried.
    moved: BTreeMap<PartitionId, Duration>,
    /// The core that is hot, and since how many looks.
    hot: Option<(u16, u32)>,
}

impl Balancer {
    /// Of a node that has just started.
    #[must_use]
    pub fn new(rules: BalanceRules, shards: u16) -> Self {
        Self { rules, shards, averages: BTreeMap::new(), moved: BTreeMap::new(), hot: None }
    }

    /// Takes note of what partitions did in the last interval, and says which one should move. `now`: on any clock that never
    /// goes back. Those that are not named did nothing. Whether the move succeeds or not, the partition is not moved again soon.
    pub fn plan(&mut self, now: Duration, placed: &[Placed]) -> Option<Move> {
        self.average(placed);
        self.moved.retain(|_, at| now.saturating_sub(*at) < self.rules.stay);
        let mut shards = vec![0_u64; usize::from(self.shards)];
        for one in placed {
            *shards.get_mut(usize::from(one.shard))? += self.cost(one);
        }
        let (from, to) = self.hot_and_cool(&shards)?;
        let (hot, cool) = (shards[usize::from(from)], shards[usize::from(to)]);
        let mean = shards.iter().sum::<u64>() / shards.len() as u64;
        // Of the two cores the hotter one afterwards.
        let after = |cost: u64| (hot - cost).max(cool + cost);
        let candidates = placed.iter().filter(|one| one.shard == from && one.may_move);
        let candidates = candidates.filter(|one| !self.moved.contains_key(&one.partition));
        let best = candidates.min_by_key(|one| (after(self.cost(one)), self.cost(one), one.partition))?;
        let gain = hot.saturating_sub(after(self.cost(best)));
        if gain == 0 || gain < mean / GAIN_PART {
            return None;
        }
        self.moved.insert(best.partition, now);
        self.hot = None;
        Some(Move { partition: best.partition, from, to })
    }

    fn cost(&self, one: &Placed) -> u64 {
        self.averages.get(&one.partition).copied().unwrap_or(0)
    }

    fn average(&mut self, placed: &[Placed]) {
        self.averages.values_mut().for_each(|cost| *cost /= 2);
        for one in placed {
            // Sums of all partitions of a core must not overflow.
            let cost = one.load.cost().min(1 << 40);
            *self.averages.entry(one.partition).or_default() += cost / 2;
        }
        self.averages.retain(|_, cost| *cost > 0);
    }

    /// The hottest core, if it has been hot for some time, and the coolest.
    fn hot_and_cool(&mut self, shards: &[u64]) -> Option<(u16, u16)> {
        let numbered = || shards.iter().zip(0_u16..);
        let (hottest, from) = numbered().max_by_key(|(cost, shard)| (**cost, std::cmp::Reverse(*shard)))?;
        let (_, to) = numbered().min_by_key(|(cost, shard)| (**cost, *shard))?;
        let mean = shards.iter().sum::<u64>() / shards.len() as u64;
        let busy = u64::try_from(self.rules.busy.as_nanos()).unwrap_or(u64::MAX);
        if *hottest <= mean + mean / HOT_PART || *hottest < busy {
            self.hot = None;
            return None;
        }
        let rounds = self.hot.filter(|(shard, _)| *shard == from).map_or(1, |(_, rounds)| rounds + 1);
        self.hot = Some((from, rounds.min(HOT_ROUNDS)));
        (rounds >= HOT_ROUNDS).then_some((from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use uuid::Uuid;

    const INTERVAL: Duration = Duration::from_secs(10);
    /// A core that works all the time.
    const WHOLE: u64 = 10_000_000_000;

    fn id(n: usize) -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(1)), index: PartitionIndex(n as i32) }
    }

    /// Partitions with loads, and where they are.
    struct Node {
        balancer: Balancer,
        shards: u16,
        places: Vec<u16>,
        now: Duration,
        moves: Vec<(Duration, Move)>,
    }

    impl Node {
        fn new(shards: u16, places: Vec<u16>) -> Self {
            let balancer = Balancer::new(BalanceRules::new(INTERVAL), shards);
            Self { balancer, shards, places, now: Duration::ZERO, moves: Vec::new() }
        }

        fn shard_costs(&self, costs: &[u64]) -> Vec<u64> {
            let mut shards = vec![0; usize::from(self.shards)];
            self.places.iter().zip(costs).for_each(|(shard, cost)| shards[usize::from(*shard)] += cost);
            shards
        }

        /// One interval with these costs; makes the move, if one is planned.
        fn look(&mut self, costs: &[u64]) -> Option<Move> {
            self.now += INTERVAL;
            let placed = costs.iter().enumerate().filter(|(_, cost)| **cost > 0).map(|(n, cost)| Placed {
                partition: id(n),
                shard: self.places[n],
                may_move: true,
                load: PartitionLoad { bytes_in: *cost, ..PartitionLoad::default() },
            });
            let planned = self.balancer.plan(self.now, &placed.collect::<Vec<_>>());
            if let Some(planned) = planned {
                let place = &mut self.places[planned.partition.index.0 as usize];
                assert_eq!(*place, planned.from);
                *place = planned.to;
                self.moves.push((self.now, planned));
            }
            planned
        }
    }

    fn static_loads() -> impl Strategy<Value = (u16, Vec<(u16, u64)>)> {
        let cost = prop_oneof![Just(0_u64), 1..1_000_000_u64, 1..WHOLE / 4];
        (1..6_u16).prop_flat_map(move |shards| (Just(shards), vec((0..shards, cost.clone()), 1..30)))
    }

    proptest! {
        /// Loads that stay: each move cools the hotter one of its two cores, then nothing moves any more, whatever the time.
        #[test]
        fn static_loads_come_to_rest((shards, partitions) in static_loads()) {
            let (places, costs): (Vec<u16>, Vec<u64>) = partitions.into_iter().unzip();
            let mut node = Node::new(shards, places);
            let mut last = 0;
            for round in 0..2_000 {
                let before = node.shard_costs(&costs);
                if let Some(planned) = node.look(&costs) {
                    let after = node.shard_costs(&costs);
                    let (from, to) = (usize::from(planned.from), usize::from(planned.to));
                    // Averages of the first intervals are a little below the costs.
                    prop_assert!(after[to] < before[from] && after[from] < before[from], "{before:?} {after:?}");
                    prop_assert!(costs[planned.partition.index.0 as usize] > 0);
                    last = round;
                }
            }
            prop_assert!(last < 1_000, "still moving after {last} intervals: {:?}", node.moves);
        }

        /// Whatever the loads do: one move in three intervals at most, and a partition at most once in its time.
        #[test]
        fn moves_are_rare(
            shards in 1..5_u16,
            places in vec(0..5_u16, 8),
            costs in vec(vec(prop_oneof![Just(0), 0..WHOLE], 8), 1..300),
        ) {
            let mut node = Node::new(shards, places.iter().map(|place| place % shards).collect());
            for costs in &costs {
                node.look(costs);
            }
            for pair in node.moves.windows(2) {
                prop_assert!(pair[1].0 - pair[0].0 >= INTERVAL * HOT_ROUNDS);
            }
            for (i, (at, planned)) in node.moves.iter().enumerate() {
                prop_assert!(planned.from != planned.to && planned.to < shards);
                let next = node.moves[i + 1..].iter().find(|(_, later)| later.partition == planned.partition);
                prop_assert!(next.is_none_or(|(later, _)| *later - *at >= INTERVAL * 60));
            }
        }

        /// Two cores, many partitions alike, all on one: in the end they are on both.
        #[test]
        fn a_hot_core_is_relieved(partitions in 2..24_usize, cost in WHOLE / 200..WHOLE / 20) {
            let costs = vec![cost; partitions];
            prop_assume!(cost * partitions as u64 > WHOLE / 10);
            let mut node = Node::new(2, vec![0; partitions]);
            for _ in 0..partitions as u32 * HOT_ROUNDS + 20 {
                node.look(&costs);
            }
            let shards = node.shard_costs(&costs);
            let mean = shards.iter().sum::<u64>() / 2;
            prop_assert!(shards[0].max(shards[1]) <= mean + mean / HOT_PART + cost, "{shards:?}");
        }
    }

    #[test]
    fn what_is_idle_stays() {
        // All on one core, and next to nothing to do.
        let mut node = Node::new(2, vec![0; 10]);
        for _ in 0..100 {
            assert_eq!(node.look(&[1_000_000; 10]), None);
        }
    }

    #[test]
    fn one_hot_partition_stays() {
        // Wherever it is, that core is as hot.
        let mut node = Node::new(2, vec![0]);
        for _ in 0..100 {
            assert_eq!(node.look(&[WHOLE / 2]), None);
        }
        // What is beside it goes.
        let mut node = Node::new(2, vec![0, 0]);
        for _ in 0..100 {
            node.look(&[WHOLE / 2, WHOLE / 8]);
        }
        assert_eq!(node.places, [0, 1]);
        assert_eq!(node.moves.len(), 1);
    }

    #[test]
    fn a_burst_moves_nothing() {
        let mut node = Node::new(2, vec![0, 0, 1, 1]);
        let (even, burst) = ([WHOLE / 8; 4], [WHOLE, WHOLE / 8, WHOLE / 8, WHOLE / 8]);
        for round in 0..100 {
            assert_eq!(node.look(if round % 10 == 5 { &burst } else { &even }), None, "interval {round}");
        }
    }

    #[test]
    fn what_must_stay_stays() {
        let mut balancer = Balancer::new(BalanceRules::new(INTERVAL), 2);
        let load = PartitionLoad { bytes_in: WHOLE / 4, ..PartitionLoad::default() };
        let placed = [0, 1].map(|n| Placed { partition: id(n), shard: 0, may_move: n == 1, load });
        let planned = (1..10).find_map(|n| balancer.plan(INTERVAL * n, &placed));
        assert_eq!(planned, Some(Move { partition: id(1), from: 0, to: 1 }));
    }

    #[test]
    fn requests_and_bytes_cost() {
        let load = PartitionLoad { bytes_in: 1_000, bytes_out: 1_000, requests: 2 };
        assert_eq!(load.cost(), 32_000 + 1_000 + 500);
    }
}
