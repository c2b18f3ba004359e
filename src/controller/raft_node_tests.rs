//! Clusters of voters in a seeded loop: messages are lost, late and out of order, disks lag and voters restart with what
//! their disks have. Checked all the time: logs match, and what is applied anywhere is a prefix of one sequence.

use super::*;
use crate::controller::raft_log::{decode_snapshot, encode_group, encode_snapshot, replay};
use crate::controller::raft_wire::{decode_message, encode_message};
use std::collections::BTreeMap;

/// A small generator of our own: the test must not depend on a crate's stream.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A disk as bytes: groups that are written and not flushed are lost by a crash, from some point on.
#[derive(Clone, Default)]
struct Disk {
    snapshot: Option<Bytes>,
    log: Vec<u8>,
    sequence: u64,
}

impl Disk {
    fn write(&mut self, persist: &Persist) {
        if let Some(snapshot) = &persist.snapshot {
            *self = Self { snapshot: Some(encode_snapshot(snapshot)), ..Self::default() };
        }
        self.sequence += 1;
        self.log.extend_from_slice(&encode_group(self.sequence, &persist.entries, Some(&persist.hard_state)));
    }

    fn compact(&mut self, snapshot: &SnapshotFile, entries: &[Entry], hard_state: &HardState) {
        self.snapshot = Some(encode_snapshot(snapshot));
        (self.log, self.sequence) = (encode_group(1, entries, Some(hard_state)).to_vec(), 1);
    }

    fn read(&self) -> Durable {
        let snapshot = self.snapshot.clone().map(|s| decode_snapshot(s).expect("whole"));
        Durable { snapshot, log: replay(&self.log.clone().into()).expect("ours") }
    }
}

struct Voter {
    node: RaftNode,
    disk: Disk,
    /// Given out and not on the disk yet, in order.
    writing: VecDeque<Persist>,
    /// All that was applied, the snapshots' contents included.
    state: Vec<(u64, Bytes)>,
}

fn encode_state(state: &[(u64, Bytes)]) -> Bytes {
    let mut b = Vec::new();
    for (index, data) in state {
        b.extend_from_slice(&index.to_be_bytes());
        b.extend_from_slice(&(data.len() as u64).to_be_bytes());
        b.extend_from_slice(data);
    }
    b.into()
}

fn decode_state(bytes: &Bytes) -> Vec<(u64, Bytes)> {
    let (mut state, mut at) = (Vec::new(), 0);
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
    while at < bytes.len() {
        let length = number(at + 8) as usize;
        state.push((number(at), bytes.slice(at + 16..at + 16 + length)));
        at += 16 + length;
    }
    state
}

struct Cluster {
    random: Random,
    seed: u64,
    voters: Vec<Voter>,
    /// Messages on their way, as bytes, by a random key: any order.
    network: BTreeMap<u64, Bytes>,
    loss: u64,
    /// A voter that nobody reaches.
    cut: Option<u64>,
    /// What was committed, by index: learnt from the first that applied it.
    committed: BTreeMap<u64, (u64, Bytes)>,
    /// Proposals whose leader saw them committed.
    acknowledged: Vec<(u64, Bytes)>,
    waiting: Vec<(u64, Proposed, Bytes)>,
    leaders: BTreeMap<u64, u64>,
    /// Entries of Raft's own are committed, but not in the states.
    proposals: u64,
    restores: u64,
}

impl Cluster {
    fn new(seed: u64, size: u64) -> Self {
        let mut random = Random(seed);
        let loss = random.below(25);
        let mut cluster = Self {
            random,
            seed,
            voters: Vec::new(),
            network: BTreeMap::new(),
            loss,
            cut: None,
            committed: BTreeMap::new(),
            acknowledged: Vec::new(),
            waiting: Vec::new(),
            leaders: BTreeMap::new(),
            proposals: 0,
            restores: 0,
        };
        cluster.voters = (1..=size).map(|id| cluster.start(id, size, Disk::default())).collect();
        cluster
    }

    fn start(&self, id: u64, size: u64, disk: Disk) -> Voter {
        let options = RaftOptions { id, voters: (1..=size).collect(), seed: self.seed };
        let durable = disk.read();
        let state = durable.snapshot.as_ref().map(|s| decode_state(&s.records)).unwrap_or_default();
        let node = RaftNode::new(options, durable).expect("its own disk");
        Voter { node, disk, writing: VecDeque::new(), state }
    }

    fn input(&mut self, at: usize, input: Input) {
        let mut effects = Vec::new();
        self.voters[at].node.step(input, &mut effects);
        self.carry_out(at, effects);
    }

    fn carry_out(&mut self, at: usize, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send(message) => {
                    let cut = [Some(message.to), Some(message.from)].contains(&self.cut) && self.cut.is_some();
                    let lost = cut || self.random.chance(self.loss);
                    if lost {
                        // A leader that is not told waits for the snapshot's fate for ever.
                        if message.has_snapshot() {
                            self.input(at, Input::SnapshotSent { to: message.to, arrived: false });
                        }
                        continue;
                    }
                    let key = self.random.next() >> self.random.below(20);
                    self.network.insert(key, encode_message(&message));
                }
                Effect::Persist(persist) => self.voters[at].writing.push_back(persist),
                Effect::Restore(snapshot) => {
                    self.restores += 1;
                    self.voters[at].state = decode_state(&snapshot.records);
                    self.check_prefix(at);
                }
                Effect::Apply { index, term, data } => self.applied(at, index, term, data),
            }
        }
        self.check_leaders();
    }

    fn applied(&mut self, at: usize, index: u64, term: u64, data: Bytes) {
        let known = self.committed.entry(index).or_insert_with(|| (term, data.clone()));
        assert_eq!(*known, (term, data.clone()), "seed {}: two entries were committed at index {index}", self.seed);
        let voter = &mut self.voters[at];
        if !data.is_empty() {
            voter.state.push((index, data.clone()));
        }
        let id = at as u64 + 1;
        let here = |(proposer, p, _): &(u64, Proposed, Bytes)| *proposer == id && p.index == index;
        if let Some(i) = self.waiting.iter().position(here) {
            let (_, proposed, proposal) = self.waiting.remove(i);
            if proposed.term == term {
                assert_eq!(proposal, data, "seed {}: a proposal was committed as another", self.seed);
                self.acknowledged.push((index, data));
            }
        }
    }

    /// What a voter has applied is what was committed, from the beginning, without gaps.
    fn check_prefix(&self, at: usize) {
        let state = &self.voters[at].state;
        let own = self.committed.iter().filter(|(_, (_, data))| !data.is_empty());
        for (mine, (index, (_, data))) in state.iter().zip(own) {
            assert_eq!((mine.0, &mine.1), (*index, data), "seed {}: voter {} strayed", self.seed, at + 1);
        }
    }

    fn check_leaders(&mut self) {
        for (i, voter) in self.voters.iter().enumerate() {
            if voter.node.leads() {
                let id = i as u64 + 1;
                let leader = *self.leaders.entry(voter.node.term()).or_insert(id);
                assert_eq!(leader, id, "seed {}: two leaders in term {}", self.seed, voter.node.term());
            }
        }
    }

    /// Where two logs have an entry of the same index and term, they agree up to it.
    fn check_logs(&self) {
        for pair in self.voters.windows(2) {
            let [a, b] = [&pair[0].node, &pair[1].node].map(|n| &n.raw.store().entries);
            let by_index: BTreeMap<u64, &Entry> = b.iter().map(|e| (e.index, e)).collect();
            let mut same = false;
            for entry in a.iter().rev() {
                let Some(other) = by_index.get(&entry.index) else { continue };
                same |= entry.term == other.term;
                assert!(!same || entry == *other, "seed {}: logs differ at index {}", self.seed, entry.index);
            }
        }
    }

    fn turn(&mut self) {
        let size = self.voters.len() as u64;
        let at = self.random.below(size) as usize;
        match self.random.below(100) {
            0..=19 => self.input(at, Input::Tick),
            20..=59 => {
                let Some((_, bytes)) = self.network.pop_first() else { return };
                let message = decode_message(bytes).expect("ours");
                let to = message.to as usize - 1;
                let (from, snapshot) = (message.from, message.has_snapshot());
                self.input(to, Input::Receive(message));
                if snapshot {
                    self.input(from as usize - 1, Input::SnapshotSent { to: to as u64 + 1, arrived: true });
                }
            }
            60..=84 => {
                let voter = &mut self.voters[at];
                if let Some(persist) = voter.writing.pop_front() {
                    voter.disk.write(&persist);
                    self.input(at, Input::Persisted(persist.number));
                }
            }
            85..=94 => self.propose(at),
            95 => self.crash(at),
            96 => self.compact(at),
            97 => self.cut = self.random.chance(40).then(|| self.random.below(size) + 1),
            98 => {
                let peer = self.random.below(size) + 1;
                if peer != at as u64 + 1 {
                    self.input(at, Input::Unreachable(peer));
                }
            }
            _ => self.check_logs(),
        }
    }

    fn propose(&mut self, at: usize) {
        self.proposals += 1;
        let data = Bytes::from(format!("proposal {}", self.proposals));
        let mut effects = Vec::new();
        let proposed = self.voters[at].node.propose(data.clone(), &mut effects);
        if let Ok(proposed) = proposed {
            self.waiting.push((at as u64 + 1, proposed, data));
        }
        self.carry_out(at, effects);
    }

    /// Comes back with its disk: of what was being written, a part had landed.
    fn crash(&mut self, at: usize) {
        let id = at as u64 + 1;
        let mut disk = self.voters[at].disk.clone();
        let mut writing = std::mem::take(&mut self.voters[at].writing);
        let landed = self.random.below(writing.len() as u64 + 1) as usize;
        for persist in writing.drain(..landed) {
            disk.write(&persist);
        }
        if let Some(torn) = writing.pop_front().filter(|p| p.snapshot.is_none()) {
            let group = encode_group(disk.sequence + 1, &torn.entries, Some(&torn.hard_state));
            let keep = self.random.below(group.len() as u64) as usize;
            let whole = disk.log.len();
            disk.log.extend_from_slice(&group[..keep]);
            let found = disk.read().log;
            let end = found.end as usize;
            // Whole without its padding is whole.
            assert!(end == whole || keep > group.len() - 4096, "seed {}: half a group was read", self.seed);
            disk.log.resize(end, 0);
            disk.sequence = found.next_sequence - 1;
        }
        self.waiting.retain(|(proposer, ..)| *proposer != id);
        self.voters[at] = self.start(id, self.voters.len() as u64, disk);
        self.check_prefix(at);
    }

    fn compact(&mut self, at: usize) {
        let voter = &mut self.voters[at];
        if !voter.writing.is_empty() || voter.node.applied() == 0 {
            return;
        }
        let index = voter.node.applied();
        let (snapshot, entries, hard_state) = voter.node.compact(index, encode_state(&voter.state));
        if snapshot.index == index {
            voter.disk.compact(&snapshot, &entries, &hard_state);
        }
    }

    /// No more faults: everybody agrees in the end, and nothing that was acknowledged is lost.
    fn settle(&mut self) {
        (self.loss, self.cut) = (0, None);
        for round in 0..400 {
            for at in 0..self.voters.len() {
                self.input(at, Input::Tick);
                while let Some(persist) = self.voters[at].writing.pop_front() {
                    self.voters[at].disk.write(&persist);
                    self.input(at, Input::Persisted(persist.number));
                }
            }
            // Those that are sent meanwhile wait for the next round, as disks do.
            for bytes in std::mem::take(&mut self.network).into_values() {
                let message = decode_message(bytes).expect("ours");
                let (to, from, snapshot) = (message.to as usize - 1, message.from as usize - 1, message.has_snapshot());
                self.input(to, Input::Receive(message));
                if snapshot {
                    self.input(from, Input::SnapshotSent { to: to as u64 + 1, arrived: true });
                }
            }
            if round == 200 {
                let leader = (0..self.voters.len()).find(|i| self.voters[*i].node.leads());
                self.propose(leader.unwrap_or_else(|| panic!("seed {}: nobody leads", self.seed)));
            }
        }
        self.check_logs();
        for at in 0..self.voters.len() {
            self.check_prefix(at);
            assert_eq!(self.voters[at].state, self.voters[0].state, "seed {}: voter {} lags", self.seed, at + 1);
        }
        for acknowledged in &self.acknowledged {
            let there = self.voters[0].state.contains(acknowledged);
            assert!(there, "seed {}: acknowledged and lost: {acknowledged:?}", self.seed);
        }
    }
}

fn run(seed: u64, size: u64, turns: usize) -> Cluster {
    let mut cluster = Cluster::new(seed, size);
    for _ in 0..turns {
        cluster.turn();
    }
    cluster.settle();
    cluster
}

#[test]
fn three_and_five_voters_agree_whatever_is_lost() {
    let (mut acknowledged, mut restores, mut terms) = (0, 0, 0);
    for seed in 0..300 {
        let cluster = run(seed, if seed % 3 == 0 { 5 } else { 3 }, 3000);
        acknowledged += cluster.acknowledged.len();
        restores += cluster.restores;
        terms += cluster.leaders.len();
    }
    // The run is worth something: proposals came through, leaders changed, snapshots were sent.
    assert!(acknowledged > 5_000 && restores > 100 && terms > 600, "{acknowledged} {restores} {terms}");
}

#[test]
fn a_seed_repeats_itself() {
    let trace = |seed| {
        let cluster = run(seed, 3, 2000);
        (cluster.committed, cluster.leaders, cluster.random.0)
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_quorum_of_one_leads_at_once_and_applies_what_its_disk_has() {
    let options = RaftOptions { id: 1, voters: vec![1], seed: 0 };
    let mut node = RaftNode::new(options.clone(), Durable::default()).expect("nothing there");
    let mut effects = Vec::new();
    assert_eq!(node.propose(Bytes::from_static(b"early"), &mut effects), Err(NotLeader { leader: None }));
    node.step(Input::Campaign, &mut effects);
    assert!(node.leads());
    let proposed = node.propose(Bytes::from_static(b"x"), &mut effects).expect("leads");
    let mut disk = Disk::default();
    let (mut applied, mut numbers) = (Vec::new(), Vec::new());
    for effect in effects.drain(..) {
        match effect {
            Effect::Persist(persist) => {
                disk.write(&persist);
                numbers.push(persist.number);
            }
            other => panic!("nothing but writes before the disk has it: {other:?}"),
        }
    }
    for number in numbers {
        node.step(Input::Persisted(number), &mut effects);
    }
    for effect in effects.drain(..) {
        if let Effect::Apply { index, term, data } = effect {
            applied.push((index, term, data));
        }
    }
    assert_eq!(applied.last(), Some(&(proposed.index, proposed.term, Bytes::from_static(b"x"))));
    let mut node = RaftNode::new(options, disk.read()).expect("its own disk");
    node.step(Input::Campaign, &mut effects);
    assert!(node.leads());
}

#[test]
fn a_disk_that_contradicts_itself_is_refused() {
    let options = RaftOptions { id: 1, voters: vec![1], seed: 0 };
    let entry = |index| Entry { index, term: 1, ..Entry::default() };
    let durable = |entries: Vec<Entry>, commit| Durable {
        log: Replayed {
            entries,
            hard_state: Some(HardState { term: 1, commit, ..HardState::default() }),
            ..Replayed::default()
        },
        ..Durable::default()
    };
    for (durable, word) in [
        (durable(vec![entry(2)], 0), "expected 1"),
        (durable(vec![entry(1), entry(3)], 0), "followed by"),
        (durable(vec![entry(1)], 5), "committed"),
    ] {
        let error = RaftNode::new(options.clone(), durable).expect_err("contradiction").to_string();
        assert!(error.contains(word), "{error}");
    }
}
