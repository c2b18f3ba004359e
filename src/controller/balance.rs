//! Which partition should go to another core, if any. Pure: loads and time come in as arguments.
//!
//! ```text
//! every interval   loads of the partitions that did anything ─▶ averages ─▶ cores that are hot, several times in a row
//!                  ─▶ of the hottest one that can be relieved: the partition that, moved to the coolest core, leaves the
//!                     hotter of the two least hot ─▶ one move
//! ```
//! After a move neither core may be as hot as the first one was, and by more than a trifle, so loads that stay as they
//! are end in a few moves, after which there is no better place for anything. For loads that change there is time: a partition
//! goes at most once in [`BalanceRules::stay`], one partition in three intervals.
//!
//! Of many cores several are hot at a time. Each is counted by itself: whichever is the hottest in one interval is not in the
//! next, and the hottest of all may have nothing to give away. And of many cores one is always hot by chance, so averages are
//! long, and it must stay hot for a while.

use crate::ids::PartitionId;
use std::cmp::Reverse;
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
/// The hotter of the two cores has this part of the mean less after a move, at least; or as much as a partition of it costs on
/// average, where there are many small ones.
const GAIN_PART: u64 = 64;
/// The last interval's part of an average.
const LAST_PART: u64 = 8;
/// Intervals in a row in which a core is hot before it is relieved.
const HOT_ROUNDS: u32 = 6;
/// Intervals from one move to the next, at least.
const PAUSE_ROUNDS: u32 = 3;

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
    /// Costs in an interval, the last ones most.
    averages: BTreeMap<PartitionId, u64>,
    /// When partitions were moved, or that was tried.
    moved: BTreeMap<PartitionId, Duration>,
    /// Intervals in a row in which each core was hot.
    hot: Vec<u32>,
    /// Intervals until the next move.
    pause: u32,
}

/// What a core has to do.
#[derive(Clone, Copy, Debug, Default)]
struct ShardCost {
    cost: u64,
    /// Its partitions that cost anything.
    partitions: u64,
}

impl Balancer {
    /// Of a node that has just started.
    #[must_use]
    pub fn new(rules: BalanceRules, shards: u16) -> Self {
        let hot = vec![0; usize::from(shards)];
        Self { rules, shards, averages: BTreeMap::new(), moved: BTreeMap::new(), hot, pause: 0 }
    }

    /// Takes note of what partitions did in the last interval, and says which one should move. `now`: on any clock that never
    /// goes back. Those that are not named did nothing. Whether the move succeeds or not, the partition is not moved again soon.
    pub fn plan(&mut self, now: Duration, placed: &[Placed]) -> Option<Move> {
        self.average(placed);
        self.moved.retain(|_, at| now.saturating_sub(*at) < self.rules.stay);
        let costs: Vec<u64> =
            placed.iter().map(|one| self.averages.get(&one.partition).copied().unwrap_or(0)).collect();
        let mut shards = vec![ShardCost::default(); usize::from(self.shards)];
        for (one, cost) in placed.iter().zip(&costs).filter(|(_, cost)| **cost > 0) {
            let shard = shards.get_mut(usize::from(one.shard))?;
            shard.cost += cost;
            shard.partitions += 1;
        }
        let mean = shards.iter().map(|shard| shard.cost).sum::<u64>() / shards.len() as u64;
        self.count_hot(&shards, mean);
        self.pause = self.pause.saturating_sub(1);
        if self.pause > 0 {
            return None;
        }
        let (cool, to) = shards.iter().zip(0_u16..).map(|(shard, at)| (shard.cost, at)).min()?;
        let relieves = |(one, cost): (&Placed, &u64)| {
            let from = &shards[usize::from(one.shard)];
            let hot = self.hot[usize::from(one.shard)] >= HOT_ROUNDS;
            if !hot || !one.may_move || self.moved.contains_key(&one.partition) {
                return None;
            }
            // Of the two cores the hotter one afterwards.
            let after = (from.cost - cost).max(cool + cost);
            let trifle = (mean / GAIN_PART).min(from.cost / from.partitions);
            let gain = from.cost.saturating_sub(after);
            (gain > 0 && gain >= trifle).then_some((Reverse(from.cost), one.shard, after, *cost, one.partition))
        };
        let (_, from, _, _, partition) = placed.iter().zip(&costs).filter_map(relieves).min()?;
        self.moved.insert(partition, now);
        self.pause = PAUSE_ROUNDS;
        Some(Move { partition, from, to })
    }

    /// Counts for each core the intervals in a row in which it was hot.
    fn count_hot(&mut self, shards: &[ShardCost], mean: u64) {
        let busy = u64::try_from(self.rules.busy.as_nanos()).unwrap_or(u64::MAX);
        for (rounds, shard) in self.hot.iter_mut().zip(shards) {
            let hot = shard.cost > mean + mean / HOT_PART && shard.cost >= busy;
            *rounds = if hot { rounds.saturating_add(1) } else { 0 };
        }
    }

    fn average(&mut self, placed: &[Placed]) {
        self.averages.values_mut().for_each(|cost| *cost -= cost.div_ceil(LAST_PART));
        for one in placed {
            // Sums of all partitions of a core must not overflow.
            let cost = one.load.cost().min(1 << 40);
            *self.averages.entry(one.partition).or_default() += cost / LAST_PART;
        }
        self.averages.retain(|_, cost| *cost > 0);
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

    fn many_cores() -> impl Strategy<Value = (u16, Vec<(u16, u64)>)> {
        // Nine sizes, each twice the one before. Half of the partitions are on a quarter of the cores.
        let cost = (0..9_u32, WHOLE / 2_000..WHOLE / 1_000).prop_map(|(size, cost)| cost << size);
        let place = |shards| prop_oneof![0..shards, 0..shards / 4];
        (8..65_u16).prop_flat_map(move |shards| (Just(shards), vec((place(shards), cost.clone()), 1..400)))
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
                prop_assert!(pair[1].0 - pair[0].0 >= INTERVAL * PAUSE_ROUNDS);
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
            for _ in 0..partitions as u32 * PAUSE_ROUNDS + 20 {
                node.look(&costs);
            }
            let shards = node.shard_costs(&costs);
            let mean = shards.iter().sum::<u64>() / 2;
            prop_assert!(shards[0].max(shards[1]) <= mean + mean / HOT_PART + cost, "{shards:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        /// Loads that stay, on as many cores as machines have: they come to rest, no partition has moved more than once on average,
        /// and no core is hot that could give anything away.
        #[test]
        fn many_cores_come_to_rest((shards, partitions) in many_cores()) {
            let (places, costs): (Vec<u16>, Vec<u64>) = partitions.into_iter().unzip();
            let mut node = Node::new(shards, places);
            let (mut looks, mut quiet) = (0, 0);
            // Whatever has moved may move again after sixty.
            while quiet < 100 {
                looks += 1;
                quiet = if node.look(&costs).is_some() { 0 } else { quiet + 1 };
                prop_assert!(node.moves.len() <= costs.len(), "{} moves in {looks} intervals", node.moves.len());
            }
            let cores = node.shard_costs(&costs);
            let (mean, cool) = (cores.iter().sum::<u64>() / u64::from(shards), *cores.iter().min().expect("some"));
            // Averages are a little below the costs.
            let bound = (mean + mean / HOT_PART).max(WHOLE / u64::from(BUSY_PART)) + 1_000;
            for (shard, hot) in (0..shards).zip(&cores).filter(|(_, cost)| **cost > bound) {
                let of_it = || node.places.iter().zip(&costs).filter(|(place, _)| **place == shard).map(|(_, cost)| *cost);
                let gain = of_it().map(|cost| hot.saturating_sub((hot - cost).max(cool + cost))).max();
                prop_assert!(gain <= Some(mean / GAIN_PART + 1_000), "{shard} could be relieved by {gain:?}: {cores:?}");
            }
        }
    }

    #[test]
    fn cores_that_take_turns_at_being_the_hottest_are_relieved() {
        // Cores 0 and 1 have four partitions, the others two; each of the two has a little more in every other interval.
        let places: Vec<u16> = (0..8).flat_map(|shard| vec![shard; if shard < 2 { 4 } else { 2 }]).collect();
        let mut node = Node::new(8, places);
        for round in 0..60 {
            let mut costs = [WHOLE / 16; 20];
            costs[round % 2 * 4] += WHOLE / 320;
            node.look(&costs);
        }
        let mut shards = node.shard_costs(&[1; 20]);
        shards.sort_unstable();
        assert_eq!((shards, node.moves.len()), (vec![2, 2, 2, 2, 3, 3, 3, 3], 2));
    }

    #[test]
    fn a_core_that_cannot_be_relieved_hides_no_other() {
        // Core 0 has one partition that is hot wherever it is, core 1 has three that need not be together.
        let mut node = Node::new(8, vec![0, 1, 1, 1, 2, 3, 4, 5, 6, 7]);
        let mut costs = [WHOLE / 10; 10];
        costs[0] = WHOLE / 2;
        for _ in 0..60 {
            node.look(&costs);
        }
        assert_eq!(node.places[0], 0);
        let shards = node.shard_costs(&costs);
        assert_eq!(shards[1..].iter().max(), Some(&(WHOLE / 5)), "{shards:?}");
    }

    #[test]
    fn very_many_small_partitions_relieve_a_hot_core() {
        // 600 partitions alike on core 0, 200 on each other one.
        let places: Vec<u16> = (0..8).flat_map(|shard| vec![shard; if shard == 0 { 600 } else { 200 }]).collect();
        let costs = vec![WHOLE / 2_000; places.len()];
        let mut node = Node::new(8, places);
        for _ in 0..1_000 {
            node.look(&costs);
        }
        let shards = node.shard_costs(&costs);
        // A mean of 250, a quarter more of it stays.
        assert_eq!(shards[0], costs[0] * 312, "{shards:?}");
        assert_eq!(node.moves.len(), 600 - 312);
        // Beside a large one nobody moves what is next to nothing.
        let mut node = Node::new(8, (0..8).chain(vec![0; 500]).collect());
        let mut costs = vec![WHOLE / 20; 8];
        costs[0] = WHOLE / 2;
        costs.resize(508, WHOLE / 100_000);
        for _ in 0..100 {
            assert_eq!(node.look(&costs), None);
        }
    }

    /// Numbers without an end, always the same.
    struct Numbers(u64);

    impl Numbers {
        /// One below `n`: Marsaglia's xorshift64.
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    #[test]
    fn chance_is_not_followed() {
        // 64 cores with 16 partitions each, some of them 64 times as large as others; none does twice the same, but from a fifth
        // to nine fifths of what it does on average.
        let mut numbers = Numbers(7);
        let sizes: Vec<u64> = (0..64 * 16).map(|_| (1_000 + numbers.below(1_000)) << numbers.below(7)).collect();
        let all: u64 = sizes.iter().sum();
        let costs: Vec<u64> = sizes.iter().map(|size| WHOLE / 3 * 64 / all * size).collect();
        let mut node = Node::new(64, sizes.iter().map(|_| numbers.below(64) as u16).collect());
        let hottest = |node: &Node| {
            let shards = node.shard_costs(&costs);
            shards.iter().max().expect("64 of them") * 64 * 100 / shards.iter().sum::<u64>()
        };
        let mut hour = |node: &mut Node| {
            let before = node.moves.len();
            for _ in 0..360 {
                let now: Vec<u64> = costs.iter().map(|cost| cost / 100 * (20 + numbers.below(161))).collect();
                node.look(&now);
            }
            node.moves.len() - before
        };
        assert!(hottest(&node) > 180, "{} % of the mean", hottest(&node));
        assert!(hour(&mut node) < 64);
        assert!(hottest(&node) < 130, "{} % of the mean", hottest(&node));
        let later = hour(&mut node) + hour(&mut node);
        assert!(later <= 6, "{later} moves in two hours, where there is nothing to be had");
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
