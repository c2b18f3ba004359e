//! One voter of the metadata quorum, around the `raft` crate: inputs in, effects out, no I/O, no clock.
//!
//! The crate's only randomness is the election timeout; it is set from a hash of seed, id and term after every step,
//! so a run is a function of its inputs.

use super::raft_log::SnapshotFile;
use raft::eraftpb::{ConfState, Entry, HardState, Message, Snapshot};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use std::collections::BTreeMap;

const ELECTION_TICKS: usize = 10;
const HEARTBEAT_TICKS: usize = 3;
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
const IN_FLIGHT_MAX: usize = 256;

/// What the disk had when the node came up.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The newest snapshot.
    pub snapshot: Option<SnapshotFile>,
    /// Entries after it.
    pub entries: Vec<Entry>,
    /// The last vote.
    pub hard_state: Option<HardState>,
}

/// What happens to a voter.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Stand for election now: a quorum of one need not wait.
    Campaign,
    /// As leader: append this.
    Propose(Vec<u8>),
    /// From another voter.
    Message(Box<Message>),
    /// What [`Persist`] of this number said is on the disk.
    Persisted(u64),
}

/// To be written and flushed, in order, then confirmed by [`Input::Persisted`].
#[derive(Clone, Debug)]
pub struct Persist {
    /// For the confirmation.
    pub number: u64,
    /// Entries; the first takes the place of all with its index and above.
    pub entries: Vec<Entry>,
    /// The vote, if it changed.
    pub hard_state: Option<HardState>,
    /// A snapshot that takes the place of the log.
    pub snapshot: Option<Snapshot>,
    /// False when only the commit index moved, which need not be flushed.
    pub must_sync: bool,
}

/// What a step asks for.
#[derive(Debug, Default)]
pub struct Effects {
    /// To write.
    pub persist: Vec<Persist>,
    /// To send; they depend on nothing that is not on the disk.
    pub messages: Vec<Message>,
    /// Committed entries, in order, each once; empty ones mark a new leader.
    pub committed: Vec<Entry>,
    /// A snapshot from the leader to start again from.
    pub snapshot: Option<Snapshot>,
}

/// One voter.
pub struct RaftNode {
    raw: RawNode<MemStorage>,
    id: u64,
    seed: u64,
    /// Messages that may go once their ready is on the disk.
    held: BTreeMap<u64, Vec<Message>>,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode").field("id", &self.id).field("term", &self.term()).finish_non_exhaustive()
    }
}

impl RaftNode {
    /// A voter with what its disk had. `voters` are those of a fresh cluster; a snapshot knows its own.
    ///
    /// # Errors
    /// What the disk had makes no sense.
    pub fn new(id: u64, voters: &[u64], recovered: Recovered, seed: u64) -> Result<Self, raft::Error> {
        let storage = MemStorage::new_with_conf_state((voters.to_vec(), Vec::new()));
        let mut applied = 0;
        if let Some(file) = &recovered.snapshot {
            applied = file.index;
            storage.wl().apply_snapshot(snapshot_of(file))?;
        }
        let entries: Vec<Entry> = recovered.entries.into_iter().filter(|e| e.index > applied).collect();
        storage.wl().append(&entries)?;
        if let Some(mut state) = recovered.hard_state {
            // The commit index is flushed with entries or not at all: it may lie on either side of what is there.
            let last = entries.last().map_or(applied, |e| e.index);
            state.commit = state.commit.clamp(applied, last);
            storage.wl().set_hardstate(state);
        }
        let config = Config {
            id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, storage, &logger)?;
        let mut node = Self { raw, id, seed, held: BTreeMap::new() };
        node.set_election_timeout();
        Ok(node)
    }

    /// True if it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The term it is in.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Takes an input; what it asks for is added to `effects`. A proposal while not leading asks for nothing.
    pub fn step(&mut self, input: Input, effects: &mut Effects) {
        match input {
            Input::Tick => drop(self.raw.tick()),
            Input::Campaign => drop(self.raw.campaign()),
            Input::Propose(data) if self.is_leader() => drop(self.raw.propose(Vec::new(), data)),
            Input::Propose(_) => {}
            // An error is a message that this state has no use for: Raft may lose messages.
            Input::Message(message) => drop(self.raw.step(*message)),
            Input::Persisted(number) => {
                self.raw.on_persist_ready(number);
                let later = self.held.split_off(&(number + 1));
                let free = std::mem::replace(&mut self.held, later);
                effects.messages.extend(free.into_values().flatten());
            }
        }
        while self.raw.has_ready() {
            self.take_ready(effects);
        }
        self.set_election_timeout();
    }

    fn take_ready(&mut self, effects: &mut Effects) {
        let mut ready = self.raw.ready();
        effects.messages.extend(ready.take_messages());
        let snapshot = (ready.snapshot().get_metadata().index > 0).then(|| ready.snapshot().clone());
        if let Some(snapshot) = &snapshot {
            self.raw.mut_store().wl().apply_snapshot(snapshot.clone()).expect("Raft takes newer snapshots only");
            effects.snapshot = Some(snapshot.clone());
        }
        let committed = ready.take_committed_entries();
        let entries = ready.take_entries();
        self.raw.mut_store().wl().append(&entries).expect("Raft appends next to what is there");
        let hard_state = ready.hs().cloned();
        if let Some(state) = &hard_state {
            self.raw.mut_store().wl().set_hardstate(state.clone());
        }
        let persisted = ready.take_persisted_messages();
        if !persisted.is_empty() {
            self.held.insert(ready.number(), persisted);
        }
        let number = ready.number();
        let must_sync = ready.must_sync();
        self.raw.advance_append_async(ready);
        effects.persist.push(Persist { number, entries, hard_state, snapshot, must_sync });
        if let Some(last) = committed.last() {
            self.raw.advance_apply_to(last.index);
        }
        effects.committed.extend(committed);
    }

    /// Forgets entries that a snapshot has.
    pub fn compact(&mut self, index: u64) {
        // An error says that they are gone already.
        let _ = self.raw.mut_store().wl().compact(index);
    }

    fn set_election_timeout(&mut self) {
        let mut hash = self.seed ^ self.id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.term().rotate_left(17);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let spread = (hash ^ (hash >> 31)) as usize % ELECTION_TICKS;
        self.raw.raft.set_randomized_election_timeout(ELECTION_TICKS + spread);
    }
}

fn snapshot_of(file: &SnapshotFile) -> Snapshot {
    let mut snapshot = Snapshot { data: file.records.clone(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = file.index;
    metadata.term = file.term;
    metadata.set_conf_state(ConfState { voters: file.voters.clone(), ..ConfState::default() });
    snapshot
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a lone voter until it asks for nothing more; returns what was committed.
    fn settle(node: &mut RaftNode, input: Input) -> Vec<Entry> {
        let (mut inputs, mut committed) = (vec![input], Vec::new());
        while let Some(input) = inputs.pop() {
            let mut effects = Effects::default();
            node.step(input, &mut effects);
            committed.extend(effects.committed);
            inputs.extend(effects.persist.into_iter().rev().map(|p| Input::Persisted(p.number)));
        }
        committed
    }

    #[test]
    fn a_quorum_of_one_commits_what_is_on_its_disk() {
        let mut node = RaftNode::new(1, &[1], Recovered::default(), 7).expect("fresh");
        settle(&mut node, Input::Campaign);
        assert!(node.is_leader());
        let mut effects = Effects::default();
        node.step(Input::Propose(b"x".to_vec()), &mut effects);
        assert!(effects.committed.is_empty(), "nothing is committed before it is on the disk");
        let committed: Vec<Entry> =
            effects.persist.iter().flat_map(|p| settle(&mut node, Input::Persisted(p.number))).collect();
        assert_eq!(committed.iter().map(|e| &e.data[..]).collect::<Vec<_>>(), [b"x"]);
    }

    #[test]
    fn a_restarted_voter_commits_its_log_again() {
        let entry = |index, data: &'static [u8]| Entry { index, term: 1, data: data.into(), ..Entry::default() };
        let recovered = Recovered {
            snapshot: None,
            entries: vec![entry(1, b""), entry(2, b"a"), entry(3, b"b")],
            hard_state: Some(HardState { term: 1, vote: 1, commit: 2, ..HardState::default() }),
        };
        let mut node = RaftNode::new(1, &[1], recovered, 7).expect("recovers");
        let committed = settle(&mut node, Input::Campaign);
        let data: Vec<&[u8]> = committed.iter().map(|e| &e.data[..]).filter(|d| !d.is_empty()).collect();
        assert_eq!(data, [b"a", b"b"]);
    }
}
