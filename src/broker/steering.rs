//! Where a connection should be: on the core that owns most of what it touches. Pure: time comes in as an argument.
//!
//! Each request counts once, shared among the shards whose partitions it touched. A connection moves when nearly all of
//! what it lately touched belongs to one other shard; whoever touches several cores stays, wherever it is: it would cross
//! the mesh from any of them. Between two moves there is more than a change of mind, and each stay must be twice as long
//! as the one before, up to [`SteeringRules::stay_max`]: a client that alternates moves a few times, then hardly ever.

use coreline_io::Monotonic;
use coreline_shards::ShardId;
use std::time::Duration;

/// What one request counts, to be shared among shards.
const REQUEST: u32 = 1 << 10;
/// The share of all counts that the other shard must have: 7/8.
const SHARE: (u64, u64) = (7, 8);

/// When connections move.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteeringRules {
    /// Requests that say where a connection belongs, at least.
    pub requests_min: u32,
    /// After so many, older ones count half.
    pub window: u32,
    /// How long a connection stays before its first move.
    pub stay_min: Duration,
    /// And at most before any later one.
    pub stay_max: Duration,
    /// Connections that may leave a shard in one second.
    pub leave_per_second: u32,
}

impl Default for SteeringRules {
    fn default() -> Self {
        Self {
            requests_min: 32,
            window: 256,
            stay_min: Duration::from_millis(100),
            stay_max: Duration::from_secs(60),
            leave_per_second: 256,
        }
    }
}

/// The shards whose partitions one request touched, and how many of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched(Vec<(ShardId, u32)>);

impl Touched {
    /// So many more partitions of `shard`.
    pub fn add(&mut self, shard: ShardId, partitions: usize) {
        let partitions = u32::try_from(partitions).unwrap_or(u32::MAX);
        match self.0.iter_mut().find(|(other, _)| *other == shard) {
            Some((_, count)) => *count = count.saturating_add(partitions),
            None => self.0.push((shard, partitions)),
        }
    }

    /// Nothing, for the next request.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// True if it touched a partition of another shard than `here`.
    #[must_use]
    pub fn elsewhere(&self, here: ShardId) -> bool {
        self.0.iter().any(|(shard, _)| *shard != here)
    }

    /// True if it touched no partition.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What one connection touched lately. It goes with the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steering {
    /// By shard; as long as the highest that was touched here.
    counts: Vec<u32>,
    /// Requests noted on this shard, up to the minimum.
    requests: u32,
    /// When it came to this shard.
    since: Monotonic,
    /// How long it stays at least.
    stay: Duration,
}

impl Steering {
    /// Of a connection that was just accepted.
    #[must_use]
    pub fn new(rules: &SteeringRules, now: Monotonic) -> Self {
        Self { counts: Vec::new(), requests: 0, since: now, stay: rules.stay_min }
    }

    /// Takes note of a request.
    pub fn note(&mut self, rules: &SteeringRules, touched: &Touched) {
        let partitions: u64 = touched.0.iter().map(|(_, count)| u64::from(*count)).sum();
        if partitions == 0 {
            return;
        }
        self.requests = self.requests.saturating_add(1).min(rules.requests_min);
        for (shard, count) in &touched.0 {
            let place = usize::from(shard.0);
            if self.counts.len() <= place {
                self.counts.resize(place + 1, 0);
            }
            let part = u64::from(REQUEST) * u64::from(*count) / partitions;
            self.counts[place] = self.counts[place].saturating_add(u32::try_from(part).unwrap_or(REQUEST));
        }
        if self.total() >= u64::from(rules.window) * u64::from(REQUEST) {
            self.counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// Where the connection should go, if not stay on `here`. Ask after each request.
    #[must_use]
    pub fn wants(&self, rules: &SteeringRules, now: Monotonic, here: ShardId) -> Option<ShardId> {
        let here = usize::from(here.0);
        let total = self.total();
        let nearly_all = |count: u32| u64::from(count) * SHARE.1 >= total * SHARE.0;
        // The usual case first: it is where it should be.
        if self.requests < rules.requests_min || self.counts.get(here).copied().is_some_and(nearly_all) {
            return None;
        }
        let place = self.counts.iter().position(|count| nearly_all(*count)).filter(|place| *place != here)?;
        let stayed = now.since(self.since) >= self.stay;
        stayed.then(|| ShardId(u16::try_from(place).expect("the place of a shard")))
    }

    /// It has come to another shard: what it does there counts from now on.
    pub fn moved(&mut self, rules: &SteeringRules, now: Monotonic) {
        let stay = (self.stay * 2).clamp(rules.stay_min, rules.stay_max.max(rules.stay_min));
        *self = Self { counts: Vec::new(), requests: 0, since: now, stay };
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }
}

/// How many connections may leave one shard: so many a second, and as many at once after a quiet second.
#[derive(Clone, Debug)]
pub struct LeaveBudget {
    per_second: u32,
    /// In billionths of a connection.
    left: u64,
    at: Monotonic,
}

/// A connection, in what the budget counts.
const ONE: u64 = 1_000_000_000;

impl LeaveBudget {
    /// The budget of a shard where none has left.
    #[must_use]
    pub fn new(rules: &SteeringRules, now: Monotonic) -> Self {
        let per_second = rules.leave_per_second;
        Self { per_second, left: u64::from(per_second) * ONE, at: now }
    }

    /// True if one may leave now: it is counted then.
    pub fn take(&mut self, now: Monotonic) -> bool {
        let passed = u64::try_from(now.since(self.at).as_nanos()).unwrap_or(u64::MAX).min(ONE);
        self.at = self.at.max(now);
        let per_second = u64::from(self.per_second);
        self.left = (self.left + passed * per_second).min(per_second * ONE);
        let may = self.left >= ONE;
        if may {
            self.left -= ONE;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SHARDS: u16 = 4;

    fn at(ms: u64) -> Monotonic {
        Monotonic { nanos: ms * 1_000_000 }
    }

    fn touched(shards: &[(u16, usize)]) -> Touched {
        let mut touched = Touched::default();
        shards.iter().for_each(|(shard, count)| touched.add(ShardId(*shard), *count));
        touched
    }

    /// A connection and where it is.
    struct Moving {
        rules: SteeringRules,
        steering: Steering,
        here: ShardId,
        /// When it moved, and where.
        moves: Vec<(Monotonic, ShardId)>,
    }

    impl Moving {
        fn new() -> Self {
            let rules = SteeringRules::default();
            Self { steering: Steering::new(&rules, at(0)), rules, here: ShardId(0), moves: Vec::new() }
        }

        fn request(&mut self, now: Monotonic, touched: &Touched) {
            self.steering.note(&self.rules, touched);
            if let Some(to) = self.steering.wants(&self.rules, now, self.here) {
                assert_ne!(to, self.here, "a move leads elsewhere");
                self.here = to;
                self.moves.push((now, to));
                self.steering.moved(&self.rules, now);
            }
        }
    }

    #[test]
    fn it_goes_where_all_of_its_requests_go_once_there_are_enough_and_it_is_old_enough() {
        let other = touched(&[(2, 1)]);
        let mut many = Moving::new();
        (0..1000).for_each(|_| many.request(at(99), &other));
        assert_eq!(many.moves, [], "too young");
        many.request(at(100), &other);
        assert_eq!(many.moves, [(at(100), ShardId(2))]);
        let mut few = Moving::new();
        (0..31).for_each(|_| few.request(at(5000), &other));
        few.request(at(5000), &Touched::default());
        assert_eq!(few.moves, [], "31 requests");
        few.request(at(5000), &other);
        assert_eq!(few.here, ShardId(2));
        (0..1000).for_each(|i| few.request(at(6000 + i), &other));
        assert_eq!(few.moves.len(), 1);
    }

    #[test]
    fn who_changes_for_good_is_followed_and_who_alternates_is_left_where_it_is() {
        let mut moving = Moving::new();
        let mut now = 0;
        let mut phase = |moving: &mut Moving, shard: u16, ms: u64| {
            (0..ms).for_each(|i| moving.request(at(now + i), &touched(&[(shard, 1)])));
            now += ms;
        };
        phase(&mut moving, 1, 1000);
        assert_eq!(moving.here, ShardId(1));
        phase(&mut moving, 3, 1000);
        assert_eq!(moving.here, ShardId(3), "old requests are forgotten");
        // An hour of half a second on each of two shards.
        let before = moving.moves.len();
        (0..3600).for_each(|_| {
            phase(&mut moving, 0, 500);
            phase(&mut moving, 2, 500);
        });
        let moves = moving.moves.len() - before;
        assert!(moves < 10 + 60, "{moves} moves: one a minute after the first few");
    }

    #[test]
    fn a_shard_lets_go_so_many_a_second() {
        let rules = SteeringRules { leave_per_second: 10, ..SteeringRules::default() };
        let mut budget = LeaveBudget::new(&rules, at(0));
        let mut leave = |ms: u64, tries: u32| (0..tries).filter(|_| budget.take(at(ms))).count();
        assert_eq!(leave(0, 100), 10);
        assert_eq!(leave(99, 100), 0);
        assert_eq!(leave(100, 100), 1);
        assert_eq!(leave(350, 100), 2, "and half of one");
        assert_eq!(leave(400, 100), 1);
        assert_eq!(leave(90_000, 100), 10, "no more is saved");
        // A clock that stands still gives nothing.
        assert_eq!(leave(80_000, 100), 0);
    }

    fn requests() -> impl Strategy<Value = Vec<(u64, Vec<(u16, usize)>)>> {
        vec((0..2000u64, vec((0..SHARDS, 0..50usize), 0..4)), 0..800)
    }

    proptest! {
        /// Whatever a client does: each stay is as long as it must be, so that moves become rare.
        #[test]
        fn stays_double(requests in requests()) {
            let mut moving = Moving::new();
            let mut now = 0;
            for (pause, shards) in requests {
                now += pause;
                moving.request(at(now), &touched(&shards));
            }
            let (mut before, mut stay) = (at(0), moving.rules.stay_min);
            for (when, _) in &moving.moves {
                prop_assert!(when.since(before) >= stay, "moved after {:?} instead of {stay:?}", when.since(before));
                (before, stay) = (*when, (stay * 2).min(moving.rules.stay_max));
            }
        }

        /// Requests that touch one shard in long runs, as a producer that keeps to one partition for a while.
        #[test]
        fn runs_of_any_length_flip_seldom(runs in vec((0..SHARDS, 1..500u64), 1..60), pause_ms in 1..50u64) {
            let mut moving = Moving::new();
            let mut now = 0;
            for (shard, count) in &runs {
                for _ in 0..*count {
                    now += pause_ms;
                    moving.request(at(now), &touched(&[(*shard, 1)]));
                }
            }
            prop_assert!(moving.moves.len() <= runs.len());
            // 0.1 s, 0.2 s, … 51.2 s, 60 s, 60 s: ten moves take 102 s, and each later one a minute.
            prop_assert!(moving.moves.len() as u64 <= 10 + now / 60_000);
        }

        /// In every round each shard is touched once, in any order: no core is the right one.
        #[test]
        fn who_touches_all_cores_stays(orders in vec(Just((0..SHARDS).collect::<Vec<_>>()).prop_shuffle(), 1..300)) {
            let mut moving = Moving::new();
            let mut now = 0;
            for shard in orders.into_iter().flatten() {
                now += 20;
                moving.request(at(now), &touched(&[(shard, 1)]));
            }
            prop_assert_eq!(moving.moves, vec![]);
        }

        /// Every request touches several shards, none of them nearly alone.
        #[test]
        fn who_reads_of_several_cores_at_a_time_stays(requests in vec((1..7usize, 1..7usize, 0..SHARDS), 1..500)) {
            let mut moving = Moving::new();
            let mut now = 0;
            for (one, other, shard) in requests {
                now += 20;
                moving.request(at(now), &touched(&[(shard, one), ((shard + 1) % SHARDS, other)]));
            }
            prop_assert_eq!(moving.moves, vec![]);
        }

        /// One mix for ever: at most one move, and there it stays.
        #[test]
        fn a_steady_client_moves_once(mix in vec((0..SHARDS, 1..100usize), 1..5), count in 1..2000u64) {
            let mut moving = Moving::new();
            let touched = touched(&mix);
            (1..=count).for_each(|i| moving.request(at(i * 10), &touched));
            prop_assert!(moving.moves.len() <= 1);
            let all = mix.iter().map(|(_, n)| n).sum::<usize>();
            let nearly_all = |shard: &u16| {
                let own = mix.iter().filter(|(s, _)| s == shard).map(|(_, n)| n).sum::<usize>();
                // A little more than 7/8, because counts are rounded.
                own * 100 >= all * 88
            };
            if let Some(shard) = (0..SHARDS).find(nearly_all)
                && count >= 100
            {
                prop_assert_eq!(moving.here, ShardId(shard));
            }
        }
    }
}
