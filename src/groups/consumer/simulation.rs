//! Consumer groups under a seed: members come, go, are late, lose answers and crash; the coordinator crashes between any two of its
//! effects and is read back from what was committed.
//!
//! The driver is played as it is agreed: records of a step are one batch, all or none; an answer goes out when every record
//! before it is committed. What must hold is in `World::check`.

use super::super::assignor::Assignment;
use super::super::config::GroupsConfig;
use super::super::coordinator::{Coordinator, Group};
use super::super::{Client, Effects, Event, Now, Record, Request, Response, Token};
use super::bed::{GROUP, TestTopics, assigned, code, heartbeat, owned, topic_names};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use kafka_protocol::messages as codec;
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const SEEDS: u64 = 300;
const STEPS: usize = 400;
const HEARTBEAT_MS: i64 = 5_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a consumer is subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Subscription {
    Names(Vec<&'static str>),
    Regex(&'static str),
}

/// A consumer, as Kafka's client behaves.
#[derive(Clone, Debug)]
struct Consumer {
    id: String,
    instance: Option<String>,
    subscription: Subscription,
    epoch: i32,
    /// What it works on.
    owned: Assignment,
    /// What it has been told to work on, and has not acted on.
    told: Option<Assignment>,
    /// What the coordinator was told that it owns.
    reported: Option<Assignment>,
    /// Says everything: it joins, or does not know whether its last words were heard.
    full: bool,
    /// What it waits for.
    waits: Option<Token>,
    /// What it waits for said what it owns. It must not take up more before it has the answer: the coordinator takes partitions that it
    /// had told of, and that are not in the list, for given up. (A race that the protocol leaves to its clients.)
    reporting: bool,
    leaves: bool,
    /// Neither lives nor says so.
    crashed: bool,
}

/// A step's effects that are not committed yet.
struct Uncommitted {
    records: Vec<Record>,
    answers: Vec<(Token, Response)>,
}

struct World {
    seed: u64,
    random: Random,
    now: Now,
    topics: TestTopics,
    coordinator: Coordinator,
    /// What the committed records say.
    committed: Coordinator,
    log: Vec<Record>,
    pending: VecDeque<Uncommitted>,
    consumers: Vec<Consumer>,
    /// Tokens that are out, with what became of them in this life of the coordinator.
    asked: BTreeMap<Token, bool>,
    tokens: u64,
    made: u64,
    group_epoch: i32,
}

const NAMES: &[&str] = &["t-1", "t-2", "t-3", "u"];
const REGEXES: &[&str] = &["t-.*", ".*", "none"];

fn group_of(coordinator: &Coordinator) -> Option<&ConsumerGroup> {
    match &coordinator.groups.get(GROUP)?.group {
        Group::Consumer(group) => Some(group),
        Group::Classic(_) => None,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut topics = TestTopics::default();
        topics.set("t-1", 4);
        topics.set("u", 3);
        Self {
            seed,
            random: Random(seed),
            now: Now { monotonic_ms: 0, wall_ms: 1_000_000 },
            topics,
            coordinator: Coordinator::new(GroupsConfig::default(), seed),
            committed: Coordinator::new(GroupsConfig::default(), 0),
            log: Vec::new(),
            pending: VecDeque::new(),
            consumers: Vec::new(),
            asked: BTreeMap::new(),
            tokens: 0,
            made: 0,
            group_epoch: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.coordinator.step(self.now, &self.topics, event, &mut effects);
        for (token, _) in &effects.answers {
            let answered = self.asked.get_mut(token).expect("an answer to what was asked");
            assert!(!std::mem::replace(answered, true), "seed {}: answered twice", self.seed);
        }
        self.pending.push_back(Uncommitted { records: effects.records, answers: effects.answers });
        if let Some(group) = group_of(&self.coordinator) {
            group.assert_invariants();
        }
    }

    /// Commits the oldest step, and hands its answers over, or loses them.
    fn commit(&mut self, lossy: bool) {
        let Some(step) = self.pending.pop_front() else { return };
        for record in step.records {
            self.committed.replay(&record.key, record.value.as_deref()).expect("our own records");
            self.log.push(record);
        }
        let epoch = group_of(&self.committed).map_or(0, |g| g.epoch);
        assert!(epoch >= self.group_epoch, "seed {}: the group's epoch went backwards", self.seed);
        self.group_epoch = epoch;
        for (token, response) in step.answers {
            self.asked.remove(&token);
            let lost = lossy && self.random.one_in(8);
            let Response::ConsumerGroupHeartbeat(response) = response else { panic!("another answer") };
            let Some(at) = self.consumers.iter().position(|c| c.waits == Some(token)) else { continue };
            if lost {
                self.consumers[at].lost();
            } else {
                self.consumers[at].hears(&response, self.seed);
            }
        }
        self.consumers.retain(|c| !(c.leaves && c.waits.is_none() && c.epoch < 0));
        self.check();
    }

    /// The process dies between two effects: what is not committed is gone, and so are all connections.
    fn crash(&mut self) {
        self.pending.clear();
        self.asked.clear();
        let mut fresh = Coordinator::new(GroupsConfig::default(), self.random.next());
        // Now and then the log was compacted before.
        if self.random.one_in(2) {
            let last: BTreeMap<_, usize> = self.log.iter().enumerate().map(|(at, r)| (r.key.clone(), at)).collect();
            let mut at = 0;
            self.log.retain(|record| {
                at += 1;
                last[&record.key] == at - 1
            });
        }
        for record in &self.log {
            fresh.replay(&record.key, record.value.as_deref()).expect("our own records");
        }
        let state = |c: &Coordinator| group_of(c).map(ConsumerGroup::hard_state);
        assert_eq!(state(&fresh), state(&self.committed), "seed {}: read back otherwise", self.seed);
        let mut effects = Effects::default();
        fresh.loaded(self.now, &self.topics, &mut effects);
        assert!(effects.records.is_empty() && effects.answers.is_empty());
        self.coordinator = fresh;
        for consumer in self.consumers.iter_mut().filter(|c| c.waits.is_some()) {
            consumer.lost();
        }
    }

    fn send(&mut self, at: usize) {
        let consumer = &mut self.consumers[at];
        if consumer.waits.is_some() || consumer.crashed {
            return;
        }
        let request = consumer.request();
        self.tokens += 1;
        let token = Token(self.tokens);
        consumer.waits = Some(token);
        self.asked.insert(token, false);
        let client = Client { id: Arc::from("c"), host: Arc::from("/127.0.0.1"), api_version: 1 };
        let request = Request::ConsumerGroupHeartbeat(request);
        self.step(Event::Request { token, client, request });
    }

    fn join(&mut self) {
        self.made += 1;
        let subscription = self.subscription();
        let instance = self.random.one_in(3).then(|| format!("i{}", self.random.below(3)));
        self.consumers.push(Consumer {
            id: format!("m{}", self.made),
            instance,
            subscription,
            epoch: 0,
            owned: Assignment::EMPTY,
            told: None,
            reported: None,
            full: true,
            waits: None,
            reporting: false,
            leaves: false,
            crashed: false,
        });
    }

    fn subscription(&mut self) -> Subscription {
        if self.random.one_in(4) {
            return Subscription::Regex(REGEXES[self.random.below(REGEXES.len())]);
        }
        if self.random.one_in(2) {
            return Subscription::Names(vec!["t-1", "u"]);
        }
        Subscription::Names(NAMES.iter().copied().filter(|_| self.random.one_in(2)).collect())
    }

    fn change_topics(&mut self) {
        let name = NAMES[self.random.below(NAMES.len())];
        if self.random.one_in(4) {
            self.topics.delete(name);
        } else {
            let partitions = self.topics.by_name.get(name).map_or(0, |t| t.partitions);
            self.topics.set(name, (partitions + 1 + self.random.below(2) as i32).min(8));
        }
        self.step(Event::TopicsChanged);
    }

    fn advance(&mut self, ms: i64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        if self.coordinator.next_deadline().is_some_and(|at| at <= self.now.monotonic_ms) {
            self.step(Event::Tick);
        }
    }

    /// Something happens.
    fn act(&mut self) {
        match self.random.below(100) {
            0..=44 if !self.consumers.is_empty() => {
                let at = self.random.below(self.consumers.len());
                if self.random.one_in(2) {
                    self.consumers[at].act();
                }
                self.send(at);
            }
            0..=69 => self.commit(true),
            70..=76 if self.consumers.len() < 8 => self.join(),
            77..=79 => {
                if let Some(consumer) = self.random_consumer() {
                    consumer.leaves = true;
                }
            }
            80..=81 => {
                if let Some(consumer) = self.random_consumer() {
                    consumer.crashed = true;
                }
            }
            82..=84 => {
                let subscription = self.subscription();
                if let Some(consumer) = self.random_consumer() {
                    consumer.subscription = subscription.clone();
                    consumer.full = true;
                }
            }
            85..=87 => self.change_topics(),
            88..=89 => self.crash(),
            90..=96 => {
                let ms = self.random.below(4_000) as i64;
                self.advance(ms);
            }
            97 => {
                let ms = self.random.below(50_000) as i64;
                self.advance(ms);
            }
            _ => {
                if let Some(consumer) = self.random_consumer() {
                    consumer.act();
                }
            }
        }
    }

    fn random_consumer(&mut self) -> Option<&mut Consumer> {
        if self.consumers.is_empty() {
            return None;
        }
        let at = self.random.below(self.consumers.len());
        self.consumers.get_mut(at)
    }

    /// No two consumers work on one partition, but for one that is fenced and does not know it yet.
    fn check(&self) {
        let Some(group) = group_of(&self.committed) else { return };
        let mut owners: BTreeMap<_, &str> = BTreeMap::new();
        for consumer in self.consumers.iter().filter(|c| group.members.contains_key(c.id.as_str())) {
            for partition in consumer.owned.pairs() {
                if let Some(other) = owners.insert(partition, &consumer.id) {
                    panic!("seed {}: {partition:?} at {other} and {}", self.seed, consumer.id);
                }
            }
        }
    }

    /// Nothing more goes wrong: the group comes to rest with every partition at one living consumer.
    fn settle(&mut self) {
        // Of those who claim one instance id, one is to live.
        let mut instances = BTreeSet::new();
        self.consumers.retain(|c| !c.crashed && c.instance.as_ref().is_none_or(|i| instances.insert(i.clone())));
        for _ in 0..30 {
            // Who was fenced for good by words that were still under way.
            self.consumers.retain(|c| !c.crashed);
            for at in 0..self.consumers.len() {
                self.consumers[at].act();
                self.send(at);
            }
            while !self.pending.is_empty() {
                self.commit(false);
            }
            self.advance(HEARTBEAT_MS);
            while !self.pending.is_empty() {
                self.commit(false);
            }
        }
        let seed = self.seed;
        assert!(self.asked.is_empty(), "seed {seed}: unanswered {:?}", self.asked);
        let Some(group) = group_of(&self.committed) else {
            return assert!(self.consumers.is_empty(), "seed {seed}: no group");
        };
        let state = if self.consumers.is_empty() { "Empty" } else { "Stable" };
        assert_eq!(group.state_name(), state, "seed {seed}");
        let mut count = 0;
        for consumer in &self.consumers {
            let member = group.members.get(consumer.id.as_str());
            let member = member.unwrap_or_else(|| panic!("seed {seed}: {} is not in the group", consumer.id));
            assert_eq!(consumer.epoch, group.epoch, "seed {seed}: {}", consumer.id);
            assert_eq!((&consumer.owned, &consumer.owned), (&member.target, &member.current.assigned), "seed {seed}");
            count += consumer.owned.len();
        }
        assert_eq!(group.members.len(), self.consumers.len(), "seed {seed}");
        let subscribed = self.topics.by_name.values().filter(|t| group.is_subscribed(&t.name));
        assert_eq!(count, subscribed.map(|t| t.partitions as usize).sum::<usize>(), "seed {seed}");
    }
}

impl Consumer {
    fn request(&mut self) -> codec::ConsumerGroupHeartbeatRequest {
        let mut request = heartbeat(&self.id, self.epoch);
        request.instance_id = self.instance.clone().map(StrBytes::from_string);
        if self.leaves {
            // Static members say that they will be back.
            request.member_epoch = if self.instance.is_some() { -2 } else { -1 };
            self.owned = Assignment::EMPTY;
            self.told = None;
            return request;
        }
        if self.full {
            request.rebalance_timeout_ms = 20_000;
            match &self.subscription {
                Subscription::Names(names) => {
                    request.subscribed_topic_names = Some(topic_names(names));
                    request.subscribed_topic_regex = Some(StrBytes::from_static_str(""));
                }
                Subscription::Regex(regex) => {
                    request.subscribed_topic_names = Some(Vec::new());
                    request.subscribed_topic_regex = Some(StrBytes::from_static_str(regex));
                }
            }
        }
        if self.full || self.reported.as_ref() != Some(&self.owned) {
            request.topic_partitions = owned(&self.owned);
            self.reported = Some(self.owned.clone());
            self.reporting = true;
        }
        self.full = false;
        request
    }

    /// Gives up what it must not have any more, and takes up what it shall have.
    fn act(&mut self) {
        if self.reporting {
            return;
        }
        if let Some(told) = self.told.take() {
            self.owned = told;
        }
    }

    /// The answer did not come.
    fn lost(&mut self) {
        self.waits = None;
        if std::mem::take(&mut self.reporting) {
            self.told = None;
        }
        self.full = true;
        self.reported = None;
    }

    fn hears(&mut self, response: &codec::ConsumerGroupHeartbeatResponse, seed: u64) {
        self.waits = None;
        self.reporting = false;
        match code(response) {
            ErrorCode::None if response.member_epoch < 0 => self.epoch = response.member_epoch,
            ErrorCode::None => {
                assert!(response.member_epoch >= self.epoch, "seed {seed}: {} went backwards", self.id);
                self.epoch = response.member_epoch;
                if let Some(told) = assigned(response) {
                    self.told = Some(told);
                }
            }
            ErrorCode::FencedMemberEpoch | ErrorCode::UnknownMemberId | ErrorCode::GroupIdNotFound => {
                if self.leaves {
                    self.epoch = -1;
                    return;
                }
                self.begin_again();
            }
            // Fatal in Kafka's client.
            ErrorCode::FencedInstanceId if self.leaves => self.epoch = -1,
            ErrorCode::FencedInstanceId => {
                self.begin_again();
                self.crashed = true;
            }
            // The one before has not left: tries again.
            ErrorCode::UnreleasedInstanceId => self.begin_again(),
            other => panic!("seed {seed}: {other:?} {:?}", response.error_message),
        }
    }

    fn begin_again(&mut self) {
        self.owned = Assignment::EMPTY;
        self.told = None;
        self.reported = None;
        self.full = true;
        self.epoch = 0;
    }
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.act();
    }
    world.settle();
}

/// `GROUPS_SEED=17` runs one seed, to look at it closer; `GROUPS_SEEDS=5000` more of them.
#[test]
fn groups_under_seeds() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("GROUPS_SEED") {
        return run(seed);
    }
    for seed in 0..number("GROUPS_SEEDS").unwrap_or(SEEDS) {
        run(seed);
    }
}
