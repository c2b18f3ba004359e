//! One voter of the metadata quorum: Raft without I/O, clock or randomness of its own.
//!
//! ```text
//! step(input) → effects     Receive(message), Tick, Persisted(number), … → Send, Persist, Apply, Restore
//! ```
//! The caller carries the effects out in order. A [`Persist`] is written and flushed before `Persisted` comes back with
//! its number; what must not leave before that (votes, acknowledgements) is held here until then. A quorum of one is
//! the same machine: what it proposes is applied once its own disk has it.
//!
//! The only randomness of the `raft` crate, the election timeout, is replaced after every step by a hash of the seed,
//! the node's id and the term, so that a run can be repeated.

use super::raft_log::{Replayed, SnapshotFile};
use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Message, Snapshot};
use raft::storage::{GetEntriesContext, RaftState, Storage};
use raft::{Config, RawNode, SnapshotStatus, StateRole, StorageError};
use std::collections::VecDeque;

/// Ticks without a leader until a voter wants to lead: between one and two times this.
pub const ELECTION_TICKS: usize = 10;
/// Ticks between a leader's heartbeats.
pub const HEARTBEAT_TICKS: usize = 2;
/// Bytes of entries in one message.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;

/// Who a voter is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftOptions {
    /// Its number, not 0.
    pub id: u64,
    /// All voters, this one among them.
    pub voters: Vec<u64>,
    /// Decides election timeouts together with id and term.
    pub seed: u64,
}

/// What a voter finds on its disk.
#[derive(Clone, Debug, Default)]
pub struct Durable {
    /// The newest snapshot.
    pub snapshot: Option<SnapshotFile>,
    /// The log after it.
    pub log: Replayed,
}

/// What happens to a voter.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time passes.
    Tick,
    /// Another voter says something.
    Receive(Message),
    /// This [`Persist`] is on the disk, and all before it.
    Persisted(u64),
    /// A message could not be brought to this voter.
    Unreachable(u64),
    /// A snapshot was brought to this voter, or not.
    SnapshotSent {
        /// To whom.
        to: u64,
        /// Whether it arrived.
        arrived: bool,
    },
    /// Become leader now, without waiting for the timeout. At once in a quorum of one.
    Campaign,
}

/// What a voter wants done, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Bring this to another voter. It may be lost.
    Send(Message),
    /// Make this durable, then say [`Input::Persisted`].
    Persist(Persist),
    /// Start anew from this snapshot, which another voter sent; it is on the disk.
    Restore(SnapshotFile),
    /// An entry is committed.
    Apply {
        /// Its place in the log.
        index: u64,
        /// The term it was proposed in.
        term: u64,
        /// What was proposed; empty for an entry of Raft's own.
        data: Bytes,
    },
}

/// What must be on the disk before Raft goes on.
#[derive(Clone, Debug, Default)]
pub struct Persist {
    /// Comes back in [`Input::Persisted`].
    pub number: u64,
    /// Replaces the snapshot and the whole log.
    pub snapshot: Option<SnapshotFile>,
    /// To be appended; an index that is there already cuts the log first.
    pub entries: Vec<Entry>,
    /// The term, the vote and what is known to be committed.
    pub hard_state: HardState,
}

/// Where a proposal went: it is committed when an [`Effect::Apply`] has this index and term, lost when one has this
/// index and another term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// Its place in the log.
    pub index: u64,
    /// The leader's term.
    pub term: u64,
}

/// A proposal that was not taken: this voter does not lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead the metadata quorum; the leader is {leader:?}")]
pub struct NotLeader {
    /// The voter that leads, where it is known.
    pub leader: Option<u64>,
}

/// What is on a disk and cannot have been written by one voter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata log: {0}")]
pub struct Inconsistent(pub String);

/// What is held until the disk has something.
#[derive(Debug, Default)]
struct Held {
    number: u64,
    /// False if nothing of it needs the disk.
    on_disk: bool,
    messages: Vec<Message>,
    snapshot: Option<SnapshotFile>,
}

/// A voter.
pub struct RaftNode {
    raw: RawNode<MemoryLog>,
    options: RaftOptions,
    /// In the order of their numbers.
    held: VecDeque<Held>,
    /// The last index that was given out in an effect.
    applied: u64,
}

impl std::fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftNode")
            .field("options", &self.options)
            .field("applied", &self.applied)
            .finish_non_exhaustive()
    }
}

impl RaftNode {
    /// A voter with what its disk holds. What is in the snapshot counts as applied; what comes after is applied again.
    ///
    /// # Errors
    /// A log that does not follow its snapshot, or that lacks what it says is committed.
    pub fn new(options: RaftOptions, durable: Durable) -> Result<Self, Inconsistent> {
        assert!(options.id != 0 && options.voters.contains(&options.id), "a voter is one of the voters");
        let log = MemoryLog::new(&options, durable)?;
        let applied = log.snapshot.index;
        let config = Config {
            id: options.id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied,
            max_size_per_msg: MESSAGE_BYTES_MAX,
            check_quorum: true,
            pre_vote: true,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger).map_err(|e| Inconsistent(e.to_string()))?;
        let mut node = Self { raw, options, held: VecDeque::new(), applied };
        node.set_election_timeout();
        Ok(node)
    }

    /// True if this voter leads.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The voter that leads, as far as this one knows.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        Some(self.raw.raft.leader_id).filter(|id| *id != 0)
    }

    /// The term this voter is in.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The last index that was given out in an effect.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Something happens.
    pub fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::Tick => {
                self.raw.tick();
            }
            // Raft refuses what it cannot use: a stranger's answer, a message of a stale term. Nothing to do then.
            Input::Receive(message) if acceptable(&message) => drop(self.raw.step(message)),
            Input::Receive(_) => {}
            Input::Persisted(number) => self.persisted(number, effects),
            Input::Unreachable(voter) => self.raw.report_unreachable(voter),
            Input::SnapshotSent { to, arrived } => {
                let status = if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raw.report_snapshot(to, status);
            }
            Input::Campaign => drop(self.raw.campaign()),
        }
        self.work(effects);
    }

    /// Proposes `data`; empty data is Raft's own.
    ///
    /// # Errors
    /// This voter does not lead.
    pub fn propose(&mut self, data: Bytes, effects: &mut Vec<Effect>) -> Result<Proposed, NotLeader> {
        assert!(!data.is_empty(), "an empty proposal could not be told from Raft's own entries");
        let not_leader = NotLeader { leader: self.leader() };
        if !self.leads() {
            return Err(not_leader);
        }
        self.raw.propose(Vec::new(), data.into()).map_err(|_| not_leader)?;
        let proposed = Proposed { index: self.raw.raft.raft_log.last_index(), term: self.term() };
        self.work(effects);
        Ok(proposed)
    }

    /// The state up to `index`, which was applied, is in `records`: what the log has of it is not needed any more.
    /// The snapshot to be written is given back, with the entries and the vote that follow it.
    pub fn compact(&mut self, index: u64, records: Bytes) -> (SnapshotFile, Vec<Entry>, HardState) {
        assert!(index <= self.applied, "only what was applied is in a snapshot: {index} of {}", self.applied);
        self.raw.mut_store().compact(index, records);
        let log = self.raw.store();
        (log.snapshot.clone(), log.entries.clone(), self.raw.raft.hard_state())
    }

    fn set_election_timeout(&mut self) {
        let Self { raw, options, .. } = self;
        let spread = mix(options.seed ^ mix(options.id) ^ mix(raw.raft.term).rotate_left(17));
        let ticks = ELECTION_TICKS + (spread % ELECTION_TICKS as u64) as usize;
        raw.raft.set_randomized_election_timeout(ticks);
    }

    /// Takes everything out of Raft that is ready.
    fn work(&mut self, effects: &mut Vec<Effect>) {
        self.set_election_timeout();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            effects.extend(ready.take_messages().into_iter().map(Effect::Send));
            let snapshot = (!ready.snapshot().is_empty()).then(|| from_raft(ready.snapshot()));
            let entries = ready.take_entries();
            let on_disk = snapshot.is_some() || !entries.is_empty() || ready.must_sync();
            if let Some(snapshot) = &snapshot {
                self.raw.mut_store().restore(snapshot.clone());
            }
            self.raw.mut_store().append(&entries);
            let held = Held {
                number: ready.number(),
                on_disk,
                messages: ready.take_persisted_messages(),
                snapshot: snapshot.clone(),
            };
            let number = held.number;
            self.held.push_back(held);
            let committed = ready.take_committed_entries();
            self.raw.advance_append_async(ready);
            if on_disk {
                let hard_state = self.raw.raft.hard_state();
                effects.push(Effect::Persist(Persist { number, snapshot, entries, hard_state }));
            }
            self.apply(committed, effects);
            self.release(number, false, effects);
            self.set_election_timeout();
        }
    }

    fn apply(&mut self, committed: Vec<Entry>, effects: &mut Vec<Effect>) {
        let Some(last) = committed.last().map(|e| e.index) else { return };
        for entry in committed {
            assert_eq!(entry.index, self.applied + 1, "entries are applied in order");
            assert_eq!(entry.entry_type, EntryType::EntryNormal, "the set of voters is fixed");
            self.applied = entry.index;
            effects.push(Effect::Apply { index: entry.index, term: entry.term, data: entry.data });
        }
        self.raw.advance_apply_to(last);
    }

    fn persisted(&mut self, number: u64, effects: &mut Vec<Effect>) {
        self.release(number, true, effects);
    }

    /// Lets go what the disk has up to `number`, and what follows without need of the disk.
    fn release(&mut self, number: u64, disk: bool, effects: &mut Vec<Effect>) {
        let mut last = None;
        while let Some(first) = self.held.front() {
            if first.on_disk && !(disk && first.number <= number) {
                break;
            }
            let held = self.held.pop_front().expect("looked at");
            last = Some(held.number);
            effects.extend(held.messages.into_iter().map(Effect::Send));
            if let Some(snapshot) = held.snapshot {
                self.raw.on_persist_ready(held.number);
                self.applied = snapshot.index;
                self.raw.advance_apply_to(snapshot.index);
                effects.push(Effect::Restore(snapshot));
            }
        }
        if let Some(last) = last {
            self.raw.on_persist_ready(last);
        }
    }
}

/// The set of voters is fixed: an entry that would change it is nobody's we know.
fn acceptable(message: &Message) -> bool {
    message.entries.iter().all(|e| e.entry_type == EntryType::EntryNormal)
}

/// SplitMix64's finaliser (public domain).
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn from_raft(snapshot: &Snapshot) -> SnapshotFile {
    let metadata = snapshot.get_metadata();
    SnapshotFile {
        index: metadata.index,
        term: metadata.term,
        voters: metadata.get_conf_state().voters.clone(),
        records: snapshot.data.clone(),
    }
}

/// What Raft reads: the snapshot and the log after it, in memory. The disk follows behind.
///
/// Invariant: `entries` begin at `snapshot.index + 1` and have no gap.
struct MemoryLog {
    snapshot: SnapshotFile,
    entries: Vec<Entry>,
    /// As found at the start.
    hard_state: HardState,
}

impl MemoryLog {
    fn new(options: &RaftOptions, durable: Durable) -> Result<Self, Inconsistent> {
        let Durable { snapshot, log } = durable;
        let start = SnapshotFile { voters: options.voters.clone(), ..SnapshotFile::default() };
        let snapshot = snapshot.unwrap_or(start);
        if snapshot.voters != options.voters {
            let message = format!("voters are {:?}, expected {:?}", snapshot.voters, options.voters);
            return Err(Inconsistent(message));
        }
        let mut hard_state = log.hard_state.unwrap_or_default();
        hard_state.commit = hard_state.commit.max(snapshot.index);
        hard_state.term = hard_state.term.max(snapshot.term);
        // Entries that the snapshot holds, too: it was written and the log not yet cut.
        let entries: Vec<Entry> = log.entries.into_iter().filter(|e| e.index > snapshot.index).collect();
        if let Some(first) = entries.first().filter(|e| e.index != snapshot.index + 1) {
            let message = format!("the log begins at index {}, expected {}", first.index, snapshot.index + 1);
            return Err(Inconsistent(message));
        }
        if let Some(gap) = entries.windows(2).find(|w| w[1].index != w[0].index + 1) {
            return Err(Inconsistent(format!("index {} is followed by index {}", gap[0].index, gap[1].index)));
        }
        let found = Self { snapshot, entries, hard_state };
        if found.hard_state.commit > found.last() {
            let message = format!("index {} is committed, the last is {}", found.hard_state.commit, found.last());
            return Err(Inconsistent(message));
        }
        Ok(found)
    }

    fn last(&self) -> u64 {
        self.snapshot.index + self.entries.len() as u64
    }

    fn at(&self, index: u64) -> usize {
        usize::try_from(index - self.snapshot.index - 1).expect("a log in memory")
    }

    fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.snapshot.index && first.index <= self.last() + 1, "entries follow the log");
        self.entries.truncate(self.at(first.index));
        self.entries.extend_from_slice(entries);
    }

    fn restore(&mut self, snapshot: SnapshotFile) {
        self.snapshot = snapshot;
        self.entries.clear();
    }

    fn compact(&mut self, index: u64, records: Bytes) {
        if index <= self.snapshot.index {
            return;
        }
        let end = self.at(index) + 1;
        let term = self.entries[end - 1].term;
        self.entries.drain(..end);
        let voters = std::mem::take(&mut self.snapshot.voters);
        self.snapshot = SnapshotFile { index, term, voters, records };
    }
}

impl Storage for MemoryLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let conf_state = ConfState { voters: self.snapshot.voters.clone(), ..ConfState::default() };
        Ok(RaftState::new(self.hard_state.clone(), conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.snapshot.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "asked for entries up to {high}, the last is {}", self.last());
        let mut found = self.entries[self.at(low)..self.at(high)].to_vec();
        raft::util::limit_size(&mut found, max_size.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.snapshot.index {
            return Ok(self.snapshot.term);
        }
        if index < self.snapshot.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entry = self.entries.get(self.at(index));
        entry.map(|e| e.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.snapshot.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        if request_index > self.snapshot.index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot { data: self.snapshot.records.clone(), ..Snapshot::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (self.snapshot.index, self.snapshot.term);
        metadata.mut_conf_state().voters.clone_from(&self.snapshot.voters);
        Ok(snapshot)
    }
}

#[cfg(test)]
#[path = "raft_node_tests.rs"]
mod tests;
