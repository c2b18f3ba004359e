//! Members that join, sync, heartbeat, commit, leave, fall silent and come back, a log that lags behind, and a
//! coordinator that dies between any two effects: what must hold whatever happens.
//!
//! - An offset whose commit was acknowledged is not lost and does not go back.
//! - In one generation a partition has one owner.
//! - Every request is answered once, if the coordinator that took it lives.
//! - What is read from the log is what was there when it was written.

use super::harness::{SomeTopics, commit, group_id, join, subscription, sync};
use crate::groups::config::GroupsConfig;
use crate::groups::coordinator::Group;
use crate::groups::*;
use kafka_protocol::messages as codec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

const SEEDS: u64 = 400;
const STEPS: usize = 300;
const PARTITIONS: u8 = 6;

const MEMBER_ID_REQUIRED: i16 = 79;
const REBALANCE_IN_PROGRESS: i16 = 27;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a member waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Nothing,
    Join,
    Sync,
    Heartbeat,
    Commit,
    Leave,
}

#[derive(Clone, Debug)]
struct Member {
    instance: Option<String>,
    version: i16,
    id: String,
    generation: i32,
    in_group: bool,
    must_join: bool,
    /// Joined, and has still to sync: with the assignment, if it leads.
    to_sync: Option<Vec<(String, Vec<u8>)>>,
    /// Another subscription is another metadata.
    subscription: u64,
    owns: Vec<u8>,
    wait: Wait,
    token: Option<Token>,
    committing: Vec<(i32, i64)>,
}

impl Member {
    fn reset(&mut self) {
        (self.id, self.in_group, self.must_join, self.to_sync) = (String::new(), false, false, None);
        self.owns.clear();
    }

    /// Who it is for others: a static member is the same after a restart.
    fn identity(&self) -> String {
        self.instance.clone().unwrap_or_else(|| self.id.clone())
    }
}

struct Model {
    seed: u64,
    random: Random,
    coordinator: Coordinator,
    now: Now,
    /// What is on disk.
    log: Vec<Record>,
    /// What the log has taken and not committed.
    queue: VecDeque<Effects>,
    members: Vec<Member>,
    tokens: u64,
    outstanding: BTreeMap<Token, usize>,
    /// Owner by generation and partition.
    owners: BTreeMap<(i32, u8), String>,
    counter: i64,
    /// The newest acknowledged offset of each partition.
    acknowledged: BTreeMap<i32, i64>,
    generations: i32,
}

fn config() -> GroupsConfig {
    // Groups do not end here: generations would begin anew.
    GroupsConfig { offsets_retention_check_interval_ms: i64::MAX / 4, max_size: 5, ..GroupsConfig::default() }
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let members = (0..3 + random.below(4)).map(|n| Member {
            instance: random.one_in(3).then(|| format!("i{n}")),
            version: [2, 5, 8, 9][random.below(4) as usize],
            id: String::new(),
            generation: -1,
            in_group: false,
            must_join: false,
            to_sync: None,
            subscription: 0,
            owns: Vec::new(),
            wait: Wait::Nothing,
            token: None,
            committing: Vec::new(),
        });
        let members = members.collect();
        let now = Now { monotonic_ms: 5, wall_ms: 1_700_000_000_000 };
        let mut coordinator = Coordinator::new(config(), seed);
        coordinator.loaded(now, &SomeTopics, &mut Effects::default());
        Self {
            seed,
            random,
            coordinator,
            now,
            log: Vec::new(),
            queue: VecDeque::new(),
            members,
            tokens: 0,
            outstanding: BTreeMap::new(),
            owners: BTreeMap::new(),
            counter: 0,
            acknowledged: BTreeMap::new(),
            generations: 0,
        }
    }

    fn event(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.coordinator.step(self.now, &SomeTopics, event, &mut effects);
        if let Some(Group::Classic(group)) = self.coordinator.groups.get("group").map(|slot| &slot.group) {
            group.assert_invariants();
            self.generations = self.generations.max(group.generation());
        }
        self.queue.push_back(effects);
    }

    fn ask(&mut self, who: usize, wait: Wait, request: Request) {
        self.tokens += 1;
        let token = Token(self.tokens);
        let member = &mut self.members[who];
        (member.wait, member.token) = (wait, Some(token));
        let version = if matches!(request, Request::JoinGroup(_)) { member.version } else { 5 };
        let client = Client { id: Arc::from("c"), host: Arc::from("/h"), api_version: version };
        self.outstanding.insert(token, who);
        self.event(Event::Request { token, client, request });
    }

    fn pass(&mut self, ms: i64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            let step = (at - self.now.monotonic_ms).max(0);
            self.now.monotonic_ms += step;
            self.now.wall_ms += step;
            self.event(Event::Tick);
        }
        self.now.wall_ms += end - self.now.monotonic_ms;
        self.now.monotonic_ms = end;
    }

    fn commit_log(&mut self, steps: usize) {
        for _ in 0..steps {
            let Some(effects) = self.queue.pop_front() else { return };
            self.log.extend(effects.records);
            for (token, response) in effects.answers {
                let who = self.outstanding.remove(&token);
                let who =
                    who.unwrap_or_else(|| panic!("seed {}: {token:?} was not asked, or twice answered", self.seed));
                if self.members[who].token == Some(token) {
                    self.answered(who, response);
                }
            }
        }
    }

    fn answered(&mut self, who: usize, response: Response) {
        let member = &mut self.members[who];
        (member.wait, member.token) = (Wait::Nothing, None);
        match response {
            Response::JoinGroup(response) => self.joined(who, &response),
            Response::SyncGroup(response) => self.synced(who, &response),
            Response::Heartbeat(response) => self.refused(who, response.error_code),
            Response::LeaveGroup(_) => {}
            Response::OffsetCommit(response) => {
                let codes: Vec<i16> =
                    response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code).collect();
                for ((partition, offset), code) in std::mem::take(&mut member.committing).into_iter().zip(codes) {
                    if code == 0 {
                        let newest = self.acknowledged.entry(partition).or_default();
                        *newest = offset.max(*newest);
                    } else {
                        self.refused(who, code);
                    }
                }
            }
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn refused(&mut self, who: usize, code: i16) {
        let member = &mut self.members[who];
        match code {
            0 => {}
            REBALANCE_IN_PROGRESS => member.must_join = member.in_group,
            // A generation that is over, a member that is not known, or one that another has fenced.
            _ => member.reset(),
        }
    }

    fn joined(&mut self, who: usize, response: &codec::JoinGroupResponse) {
        let member = &mut self.members[who];
        match response.error_code {
            0 => {
                (member.in_group, member.must_join) = (true, false);
                member.id = response.member_id.to_string();
                member.generation = response.generation_id;
                member.owns.clear();
                let leads = response.leader == response.member_id && !response.skip_assignment;
                let ids: Vec<String> = response.members.iter().map(|member| member.member_id.to_string()).collect();
                assert!(!leads || ids.contains(&member.id), "seed {}: a leader that is not there", self.seed);
                let mut assignment: Vec<(String, Vec<u8>)> = Vec::new();
                if leads {
                    assignment = ids.into_iter().map(|id| (id, Vec::new())).collect();
                    for partition in 0..PARTITIONS {
                        let to = self.random.below(assignment.len() as u64) as usize;
                        assignment[to].1.push(partition);
                    }
                }
                self.members[who].to_sync = Some(assignment);
            }
            MEMBER_ID_REQUIRED => {
                (member.id, member.must_join) = (response.member_id.to_string(), true);
            }
            REBALANCE_IN_PROGRESS => member.must_join = true,
            _ => member.reset(),
        }
    }

    fn synced(&mut self, who: usize, response: &codec::SyncGroupResponse) {
        if response.error_code != 0 {
            return self.refused(who, response.error_code);
        }
        let (generation, identity) = (self.members[who].generation, self.members[who].identity());
        self.members[who].owns = response.assignment.to_vec();
        for partition in &response.assignment {
            let owner = self.owners.entry((generation, *partition)).or_insert_with(|| identity.clone());
            assert_eq!(*owner, identity, "seed {}: partition {partition} of generation {generation}", self.seed);
        }
    }

    fn act(&mut self, who: usize) {
        if self.members[who].wait != Wait::Nothing {
            // Its patience ends, or its process does, while it waits.
            if self.random.one_in(40) {
                if let Some(token) = self.members[who].token.take() {
                    self.event(Event::Gone(token));
                }
                self.members[who].wait = Wait::Nothing;
                match self.random.below(3) {
                    0 => self.members[who].reset(),
                    1 => self.members[who].must_join = true,
                    _ => self.ask_leave(who),
                }
            }
            return;
        }
        let choice = self.random.below(20);
        if let Some(assignment) = self.members[who].to_sync.take() {
            return match choice {
                0 => self.members[who].reset(),
                1 => self.members[who].to_sync = Some(assignment),
                _ => self.ask_sync(who, &assignment),
            };
        }
        let member = &self.members[who];
        match choice {
            _ if !member.in_group || member.must_join => self.ask_join(who),
            0 => self.members[who].reset(),
            1 => self.ask_leave(who),
            2 => {
                self.members[who].subscription += 1;
                self.ask_join(who);
            }
            3 => self.ask_join(who),
            4..=10 => self.ask_commit(who),
            _ => {
                let request = codec::HeartbeatRequest::default()
                    .with_group_id(group_id("group"))
                    .with_member_id(super::harness::text(&member.id))
                    .with_group_instance_id(member.instance.as_deref().map(super::harness::text))
                    .with_generation_id(member.generation);
                self.ask(who, Wait::Heartbeat, Request::Heartbeat(request));
            }
        }
    }

    fn ask_join(&mut self, who: usize) {
        let member = &self.members[who];
        let topics = if member.subscription.is_multiple_of(2) { vec!["t"] } else { vec!["t", "u"] };
        let mut join = join(&member.id).version(member.version);
        join.instance.clone_from(&member.instance);
        join.protocols = vec![("range", subscription(&topics)), ("sticky", subscription(&topics))];
        join.rebalance_ms = 20_000;
        self.ask(who, Wait::Join, Request::JoinGroup(join.request()));
    }

    fn ask_sync(&mut self, who: usize, assignment: &[(String, Vec<u8>)]) {
        let member = &self.members[who];
        let assignment: Vec<(&str, &[u8])> = assignment.iter().map(|(id, bytes)| (&**id, &**bytes)).collect();
        let request = sync(&member.id, member.generation, &assignment)
            .with_group_instance_id(member.instance.as_deref().map(super::harness::text));
        self.ask(who, Wait::Sync, Request::SyncGroup(request));
    }

    fn ask_leave(&mut self, who: usize) {
        let member = &self.members[who];
        let identity = codec::leave_group_request::MemberIdentity::default()
            .with_member_id(super::harness::text(&member.id))
            .with_group_instance_id(member.instance.as_deref().map(super::harness::text));
        let request = codec::LeaveGroupRequest::default().with_group_id(group_id("group")).with_members(vec![identity]);
        self.members[who].reset();
        self.ask(who, Wait::Leave, Request::LeaveGroup(request));
    }

    fn ask_commit(&mut self, who: usize) {
        self.counter += 1;
        let counter = self.counter;
        let member = &mut self.members[who];
        member.committing = member.owns.iter().map(|partition| (i32::from(*partition), counter)).collect();
        let offsets: Vec<(&str, i32, i64)> =
            member.committing.iter().map(|(partition, offset)| ("t", *partition, *offset)).collect();
        let request = commit(&member.id, member.generation, &offsets)
            .with_group_instance_id(member.instance.as_deref().map(super::harness::text));
        let generation = self.members[who].generation;
        self.ask(who, Wait::Commit, Request::OffsetCommit(request));
        let answers = &self.queue.back().expect("it was just asked").answers;
        if let Some((_, Response::OffsetCommit(response))) = answers.last()
            && response.topics.iter().flat_map(|topic| &topic.partitions).any(|one| one.error_code == 0)
        {
            let Group::Classic(group) = &self.coordinator.groups["group"].group else { panic!("a classic group") };
            assert_eq!(group.generation(), generation, "seed {}: a zombie commits", self.seed);
        }
    }

    /// The state of the group and its description, as an admin client sees it.
    fn describe(&mut self) -> codec::describe_groups_response::DescribedGroup {
        let mut effects = Effects::default();
        let client = Client { api_version: 6, ..Client::default() };
        let request = Request::DescribeGroup(group_id("group"));
        self.coordinator.step(self.now, &SomeTopics, Event::Request { token: Token(0), client, request }, &mut effects);
        match effects.answers.pop() {
            Some((_, Response::DescribeGroup(described))) => described,
            other => panic!("{other:?}"),
        }
    }

    /// The coordinator dies. Some of what the log had not confirmed is on disk nevertheless, and no answer was sent.
    fn crash(&mut self) {
        let survive = self.random.below(self.queue.len() as u64 + 1) as usize;
        let all = survive == self.queue.len();
        for effects in self.queue.drain(..).take(survive) {
            self.log.extend(effects.records);
        }
        let before = self.describe();
        self.coordinator = Coordinator::new(config(), self.seed + 1000 * self.tokens);
        for record in &self.log {
            self.coordinator.replay(&record.key, record.value.as_deref()).expect("our own record");
        }
        self.coordinator.loaded(self.now, &SomeTopics, &mut Effects::default());
        if all && matches!(&*before.group_state, "Stable" | "Empty") {
            assert_eq!(self.describe(), before, "seed {}", self.seed);
        }
        self.outstanding.clear();
        for member in &mut self.members {
            if member.wait != Wait::Nothing {
                (member.wait, member.token, member.must_join) = (Wait::Nothing, None, true);
                member.committing.clear();
            }
        }
        self.check_offsets();
    }

    fn check_offsets(&mut self) {
        let offsets = self.coordinator.groups.get("group").map(|slot| &slot.offsets);
        for (partition, newest) in &self.acknowledged {
            let value = offsets.and_then(|offsets| offsets.get("t", *partition)).map_or(-1, |value| value.offset);
            assert!(value >= *newest, "seed {}: partition {partition}: {value}, acknowledged {newest}", self.seed);
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            let ms = match self.random.below(12) {
                0 => 3000,
                1 if self.random.one_in(6) => 25_000,
                _ => self.random.below(200),
            };
            self.pass(ms as i64);
            let who = self.random.below(self.members.len() as u64) as usize;
            self.act(who);
            if !self.random.one_in(4) {
                let steps = self.random.below(self.queue.len() as u64 + 1) as usize;
                self.commit_log(steps);
            }
            if self.random.one_in(60) {
                self.crash();
            }
        }
        // Everyone falls silent: what waits is answered in the end.
        self.pass(400_000);
        self.commit_log(usize::MAX);
        self.check_offsets();
        assert!(self.outstanding.is_empty(), "seed {}: never answered: {:?}", self.seed, self.outstanding);
    }
}

#[test]
fn whatever_happens() {
    let (mut commits, mut generations) = (0, 0);
    for seed in 0..SEEDS {
        let mut model = Model::new(seed);
        model.run();
        commits += model.acknowledged.len();
        generations += model.generations;
    }
    // It is a test only as long as groups come to be stable and commit.
    assert!(generations > 10 * SEEDS as i32 && commits > 4 * SEEDS as usize, "{generations} {commits}");
}
