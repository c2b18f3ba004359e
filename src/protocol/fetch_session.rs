//! Incremental fetch sessions (KIP-227): the broker remembers what a consumer reads, requests name only changes, and
//! responses only partitions that have something new. Pure: the time and the ids come from outside.
//!
//! ```text
//! request (session, epoch)    what it is                         answer
//! (any, -1)                   closes the session, full fetch     all partitions, session 0
//! (any,  0)                   closes the session, asks for new   all partitions, a new session, or 0: no slot
//! (s, n), s known, n is next  incremental                        partitions with news, session s
//! (s, n), n is not next       INVALID_FETCH_SESSION_EPOCH
//! (s, n), s unknown           FETCH_SESSION_ID_NOT_FOUND
//! ```

use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// The epoch of a request that asks for a new session.
const INITIAL_EPOCH: i32 = 0;
/// The epoch of a request that wants no session.
const FINAL_EPOCH: i32 = -1;

/// How a request names a topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TopicRef {
    /// Up to version 12.
    Name(Arc<str>),
    /// From version 13 on.
    Id(TopicId),
}

/// A partition as a request names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionRef {
    /// The topic.
    pub topic: TopicRef,
    /// The partition's index.
    pub index: i32,
}

/// What is wanted of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The first offset.
    pub fetch_offset: i64,
    /// Bytes at most.
    pub max_bytes: i32,
    /// The leader epoch the reader believes in, or -1.
    pub current_leader_epoch: i32,
    /// The epoch of the last record it has, or -1.
    pub last_fetched_epoch: i32,
}

/// The session part of a request.
#[derive(Clone, Debug, Default)]
pub struct SessionRequest {
    /// 0: none.
    pub session_id: i32,
    /// See the table above.
    pub epoch: i32,
    /// Topics are named by id (version 13 on).
    pub uses_topic_ids: bool,
    /// All partitions of a full fetch, or those that are new or changed.
    pub partitions: Vec<(PartitionRef, Wanted)>,
    /// No longer wanted.
    pub forgotten: Vec<PartitionRef>,
}

/// What to read for a request, in this order.
#[derive(Clone, Debug)]
pub struct FetchPlan {
    kind: Kind,
    /// The partitions.
    pub partitions: Vec<(PartitionRef, Wanted)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sessionless,
    NewSession {
        uses_topic_ids: bool,
    },
    /// `next_epoch` is what the session's epoch must still be when the answer goes out.
    Incremental {
        session_id: i32,
        next_epoch: i32,
    },
}

/// What was read of a partition, as far as a session cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// What happened.
    pub error: ErrorCode,
    /// Or -1.
    pub high_watermark: i64,
    /// Or -1.
    pub log_start_offset: i64,
    /// Bytes of records.
    pub records_len: usize,
}

impl Read {
    /// The answer must be told even if nothing else is new.
    fn has_news(&self) -> bool {
        self.records_len > 0 || self.error.is_error()
    }
}

/// Which partitions go into the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The session for the response; 0: none.
    pub session_id: i32,
    /// For each partition of the plan, in its order.
    pub include: Vec<bool>,
}

/// The sessions of one shard.
#[derive(Debug)]
pub struct FetchSessions {
    slots: usize,
    /// A session may be evicted by another when it is older than this, or was not used for so long.
    eviction_ms: i64,
    /// At most `slots`.
    sessions: HashMap<i32, Session>,
    /// (last use, id) of every session.
    by_use: BTreeSet<(i64, i32)>,
    evictions: u64,
}

/// A session on its way from one shard's sessions to another's.
#[derive(Debug)]
pub struct MovedSession {
    id: i32,
    session: Session,
}

#[derive(Debug)]
struct Session {
    /// The epoch the next request must have.
    epoch: i32,
    uses_topic_ids: bool,
    created_ms: i64,
    used_ms: i64,
    /// The order in which partitions are read: who got data goes to the end, so that none starves.
    order: BTreeMap<u64, PartitionRef>,
    partitions: HashMap<PartitionRef, Cached>,
    next_place: u64,
}

#[derive(Debug)]
struct Cached {
    wanted: Wanted,
    place: u64,
    /// As last told, or -1.
    high_watermark: i64,
    /// As last told, or -1.
    log_start_offset: i64,
}

fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

impl Session {
    fn put(&mut self, partition: PartitionRef, wanted: Wanted) {
        if let Some(cached) = self.partitions.get_mut(&partition) {
            cached.wanted = wanted;
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        self.order.insert(place, partition.clone());
        self.partitions.insert(partition, Cached { wanted, place, high_watermark: -1, log_start_offset: -1 });
    }

    fn forget(&mut self, partition: &PartitionRef) {
        if let Some(cached) = self.partitions.remove(partition) {
            self.order.remove(&cached.place);
        }
    }

    /// Takes note of what was read; true if it must be told.
    fn note(&mut self, partition: &PartitionRef, read: &Read) -> bool {
        // Forgotten by a later request of the same session: that one is not this one's business.
        let Some(cached) = self.partitions.get_mut(partition) else { return true };
        let mut tell = read.has_news();
        // After an error the partition is told again when it has gone: no value equals -2.
        let (high_watermark, log_start) =
            if read.error.is_error() { (-2, -2) } else { (read.high_watermark, read.log_start_offset) };
        tell |= cached.high_watermark != high_watermark || cached.log_start_offset != log_start;
        cached.high_watermark = high_watermark;
        cached.log_start_offset = log_start;
        if read.records_len > 0 {
            self.order.remove(&cached.place);
            cached.place = self.next_place;
            self.next_place += 1;
            self.order.insert(cached.place, partition.clone());
        }
        tell
    }

    fn plan(&self) -> Vec<(PartitionRef, Wanted)> {
        assert_eq!(self.order.len(), self.partitions.len(), "a place for each partition of a fetch session");
        self.order.values().map(|p| (p.clone(), self.partitions[p].wanted)).collect()
    }
}

impl FetchSessions {
    /// Room for `slots` sessions (this shard's part of `max.incremental.fetch.session.cache.slots`).
    #[must_use]
    pub fn new(slots: usize, eviction_ms: i64) -> Self {
        Self { slots, eviction_ms, sessions: HashMap::new(), by_use: BTreeSet::new(), evictions: 0 }
    }

    /// Sessions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// True if there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Sessions that had to make room for others.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// What a request wants read.
    ///
    /// # Errors
    /// The error of the whole response.
    pub fn begin(&mut self, now_ms: i64, request: SessionRequest) -> Result<FetchPlan, ErrorCode> {
        let SessionRequest { session_id, epoch, uses_topic_ids, partitions, forgotten } = request;
        if epoch == INITIAL_EPOCH || epoch == FINAL_EPOCH {
            self.remove(session_id);
            let kind = if epoch == FINAL_EPOCH { Kind::Sessionless } else { Kind::NewSession { uses_topic_ids } };
            return Ok(FetchPlan { kind, partitions });
        }
        let session = self.sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
        if session.epoch != epoch {
            return Err(ErrorCode::InvalidFetchSessionEpoch);
        }
        if session.uses_topic_ids != uses_topic_ids {
            return Err(ErrorCode::FetchSessionTopicIdError);
        }
        for (partition, wanted) in partitions {
            session.put(partition, wanted);
        }
        for partition in &forgotten {
            session.forget(partition);
        }
        if session.partitions.is_empty() {
            self.remove(session_id);
            return Ok(FetchPlan { kind: Kind::Sessionless, partitions: Vec::new() });
        }
        session.epoch = next_epoch(epoch);
        let kind = Kind::Incremental { session_id, next_epoch: session.epoch };
        let partitions = session.plan();
        self.touch(session_id, now_ms);
        Ok(FetchPlan { kind, partitions })
    }

    /// Which partitions of the plan go into the response, now that they are read. `random` gives the id of a new session.
    ///
    /// # Errors
    /// The error of the whole response: the session was used by somebody else, or evicted, in the meantime.
    pub fn finish(
        &mut self,
        now_ms: i64,
        random: impl FnMut() -> u64,
        plan: &FetchPlan,
        reads: &[Read],
    ) -> Result<Selection, ErrorCode> {
        assert_eq!(plan.partitions.len(), reads.len(), "one read for each partition of the plan");
        match plan.kind {
            Kind::Sessionless => Ok(Selection { session_id: 0, include: vec![true; reads.len()] }),
            Kind::NewSession { uses_topic_ids } => {
                let session_id = self.create(now_ms, random, uses_topic_ids, plan, reads);
                Ok(Selection { session_id, include: vec![true; reads.len()] })
            }
            Kind::Incremental { session_id, next_epoch } => {
                let session = self.sessions.get_mut(&session_id).ok_or(ErrorCode::FetchSessionIdNotFound)?;
                if session.epoch != next_epoch {
                    return Err(ErrorCode::InvalidFetchSessionEpoch);
                }
                let include =
                    plan.partitions.iter().zip(reads).map(|((partition, _), read)| session.note(partition, read));
                Ok(Selection { session_id, include: include.collect() })
            }
        }
    }

    /// Takes a session out, for the shard that its client is moving to.
    pub fn take(&mut self, id: i32) -> Option<MovedSession> {
        let session = self.sessions.remove(&id)?;
        self.by_use.remove(&(session.used_ms, id));
        Some(MovedSession { id, session })
    }

    /// Takes in the session of a client that has come from another shard. Without room for it the client is told
    /// `FETCH_SESSION_ID_NOT_FOUND`, as after an eviction, and begins anew.
    pub fn put(&mut self, now_ms: i64, moved: MovedSession) {
        let MovedSession { id, session } = moved;
        if self.sessions.contains_key(&id) {
            // Made here by the same chance of one to two thousand million: nobody can tell them apart, so both end.
            self.remove(id);
            return;
        }
        if self.sessions.len() >= self.slots && !self.evict_for(now_ms, session.partitions.len()) {
            return;
        }
        self.by_use.insert((session.used_ms, id));
        self.sessions.insert(id, session);
    }

    fn create(
        &mut self,
        now_ms: i64,
        mut random: impl FnMut() -> u64,
        uses_topic_ids: bool,
        plan: &FetchPlan,
        reads: &[Read],
    ) -> i32 {
        if self.slots == 0 || (self.sessions.len() >= self.slots && !self.evict_for(now_ms, plan.partitions.len())) {
            return 0;
        }
        let id = loop {
            let id = (random() & 0x7fff_ffff) as i32;
            if id != 0 && !self.sessions.contains_key(&id) {
                break id;
            }
        };
        let mut session = Session {
            epoch: next_epoch(INITIAL_EPOCH),
            uses_topic_ids,
            created_ms: now_ms,
            used_ms: now_ms,
            order: BTreeMap::new(),
            partitions: HashMap::with_capacity(plan.partitions.len()),
            next_place: 0,
        };
        for (partition, wanted) in &plan.partitions {
            session.put(partition.clone(), *wanted);
        }
        for ((partition, _), read) in plan.partitions.iter().zip(reads) {
            session.note(partition, read);
        }
        self.by_use.insert((now_ms, id));
        self.sessions.insert(id, session);
        id
    }

    /// Makes room for a session of `partitions`: the one that nobody uses any more, else one that has had its time and
    /// is smaller than the new one.
    fn evict_for(&mut self, now_ms: i64, partitions: usize) -> bool {
        let Some(&(used_ms, oldest)) = self.by_use.first() else { return false };
        let victim = if now_ms - used_ms > self.eviction_ms {
            Some(oldest)
        } else {
            let old = self.sessions.iter().filter(|(_, s)| now_ms - s.created_ms > self.eviction_ms);
            let smallest = old.min_by_key(|(id, s)| (s.partitions.len(), **id));
            smallest.filter(|(_, s)| s.partitions.len() < partitions).map(|(id, _)| *id)
        };
        let Some(victim) = victim else { return false };
        self.remove(victim);
        self.evictions += 1;
        true
    }

    fn touch(&mut self, id: i32, now_ms: i64) {
        let session = self.sessions.get_mut(&id).expect("the caller has it");
        self.by_use.remove(&(session.used_ms, id));
        session.used_ms = now_ms;
        self.by_use.insert((now_ms, id));
    }

    fn remove(&mut self, id: i32) {
        if let Some(session) = self.sessions.remove(&id) {
            self.by_use.remove(&(session.used_ms, id));
        }
        assert_eq!(self.by_use.len(), self.sessions.len(), "one use for each fetch session");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(index: i32) -> PartitionRef {
        PartitionRef { topic: TopicRef::Name("t".into()), index }
    }

    fn wanted(fetch_offset: i64) -> Wanted {
        Wanted { fetch_offset, max_bytes: 1 << 20, current_leader_epoch: -1, last_fetched_epoch: -1 }
    }

    fn read(high_watermark: i64, records_len: usize) -> Read {
        Read { error: ErrorCode::None, high_watermark, log_start_offset: 0, records_len }
    }

    fn full(partitions: std::ops::Range<i32>) -> SessionRequest {
        SessionRequest { partitions: partitions.map(|i| (part(i), wanted(0))).collect(), ..SessionRequest::default() }
    }

    fn incremental(session_id: i32, epoch: i32) -> SessionRequest {
        SessionRequest { session_id, epoch, ..SessionRequest::default() }
    }

    fn open(sessions: &mut FetchSessions, now: i64, id: u64, partitions: i32) -> i32 {
        let plan = sessions.begin(now, full(0..partitions)).unwrap();
        let reads = vec![read(10, 0); partitions as usize];
        let selection = sessions.finish(now, || id, &plan, &reads).unwrap();
        assert!(selection.include.iter().all(|i| *i));
        selection.session_id
    }

    fn indexes(plan: &FetchPlan) -> Vec<i32> {
        plan.partitions.iter().map(|(p, _)| p.index).collect()
    }

    #[test]
    fn only_news_is_told() {
        let mut sessions = FetchSessions::new(10, 1000);
        let id = open(&mut sessions, 0, 5, 4);
        assert_eq!(id, 5);
        let plan = sessions.begin(1, incremental(5, 1)).unwrap();
        let failed = Read { error: ErrorCode::KafkaStorageError, ..read(-1, 0) };
        let moved = Read { log_start_offset: 3, ..read(10, 0) };
        let selection = sessions.finish(1, || 0, &plan, &[read(10, 0), read(11, 0), failed, moved]).unwrap();
        assert_eq!(selection, Selection { session_id: 5, include: vec![false, true, true, true] });
        // The error has gone: that is news, too; the rest is as it was.
        let plan = sessions.begin(2, incremental(5, 2)).unwrap();
        let selection = sessions.finish(2, || 0, &plan, &[read(10, 0), read(11, 0), read(10, 0), moved]).unwrap();
        assert_eq!(selection.include, [false, false, true, false]);
    }

    #[test]
    fn who_got_data_goes_to_the_end() {
        let mut sessions = FetchSessions::new(10, 1000);
        open(&mut sessions, 0, 5, 4);
        let plan = sessions.begin(1, incremental(5, 1)).unwrap();
        assert_eq!(indexes(&plan), [0, 1, 2, 3]);
        sessions.finish(1, || 0, &plan, &[read(10, 7), read(10, 0), read(10, 7), read(10, 0)]).unwrap();
        let plan = sessions.begin(2, incremental(5, 2)).unwrap();
        assert_eq!(indexes(&plan), [1, 3, 0, 2]);
    }

    #[test]
    fn partitions_come_change_and_go() {
        let mut sessions = FetchSessions::new(10, 1000);
        open(&mut sessions, 0, 5, 2);
        let request = SessionRequest {
            partitions: vec![(part(1), wanted(42)), (part(9), wanted(1))],
            forgotten: vec![part(0), part(77)],
            ..incremental(5, 1)
        };
        let plan = sessions.begin(1, request).unwrap();
        assert_eq!(plan.partitions, [(part(1), wanted(42)), (part(9), wanted(1))]);
        let selection = sessions.finish(1, || 0, &plan, &[read(10, 0), read(10, 0)]).unwrap();
        assert_eq!(selection.include, [false, true], "a new partition is told once");
        // Nothing left: the session ends.
        let request = SessionRequest { forgotten: vec![part(1), part(9)], ..incremental(5, 2) };
        let plan = sessions.begin(2, request).unwrap();
        assert_eq!(sessions.finish(2, || 0, &plan, &[]).unwrap().session_id, 0);
        assert!(sessions.is_empty());
    }

    #[test]
    fn wrong_epochs_ids_and_kinds() {
        let mut sessions = FetchSessions::new(10, 1000);
        open(&mut sessions, 0, 5, 1);
        let error = |sessions: &mut FetchSessions, request| sessions.begin(1, request).unwrap_err();
        assert_eq!(error(&mut sessions, incremental(5, 2)), ErrorCode::InvalidFetchSessionEpoch);
        assert_eq!(error(&mut sessions, incremental(6, 1)), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(error(&mut sessions, incremental(0, 1)), ErrorCode::FetchSessionIdNotFound);
        let by_id = SessionRequest { uses_topic_ids: true, ..incremental(5, 1) };
        assert_eq!(error(&mut sessions, by_id), ErrorCode::FetchSessionTopicIdError);
        // Two requests of one session at a time: the first one's answer is not the session's any more.
        let first = sessions.begin(1, incremental(5, 1)).unwrap();
        let second = sessions.begin(1, incremental(5, 2)).unwrap();
        let reads = [read(10, 0)];
        assert_eq!(sessions.finish(1, || 0, &first, &reads), Err(ErrorCode::InvalidFetchSessionEpoch));
        assert!(sessions.finish(1, || 0, &second, &reads).is_ok());
    }

    #[test]
    fn epoch_zero_replaces_and_minus_one_closes() {
        let mut sessions = FetchSessions::new(10, 1000);
        open(&mut sessions, 0, 5, 1);
        let plan = sessions.begin(1, SessionRequest { session_id: 5, ..full(0..2) }).unwrap();
        assert!(sessions.is_empty());
        // Ids 0 and those in use are passed over.
        open(&mut sessions, 1, 8, 1);
        let mut ids = [0u64, 8, 9].into_iter();
        let selection = sessions.finish(1, || ids.next().unwrap(), &plan, &[read(0, 0); 2]).unwrap();
        assert_eq!(selection.session_id, 9);
        let closing = SessionRequest { session_id: 9, epoch: -1, ..full(0..1) };
        let plan = sessions.begin(2, closing).unwrap();
        assert_eq!(sessions.finish(2, || 0, &plan, &[read(0, 0)]).unwrap().session_id, 0);
        assert_eq!(sessions.len(), 1);
    }

    #[test]
    fn a_session_goes_on_elsewhere_as_it_was() {
        let (mut here, mut there) = (FetchSessions::new(10, 1000), FetchSessions::new(1, 1000));
        let id = open(&mut here, 0, 5, 4);
        let plan = here.begin(1, incremental(id, 1)).unwrap();
        here.finish(1, || 0, &plan, &[read(10, 7), read(10, 0), read(10, 0), read(10, 0)]).unwrap();
        there.put(2, here.take(id).expect("a session"));
        assert!(here.is_empty() && here.take(id).is_none());
        // Its next epoch, its order, and what was told.
        let plan = there.begin(3, incremental(id, 2)).unwrap();
        assert_eq!(indexes(&plan), [1, 2, 3, 0]);
        let selection = there.finish(3, || 0, &plan, &[read(10, 0), read(11, 0), read(10, 0), read(10, 0)]).unwrap();
        assert_eq!(selection, Selection { session_id: id, include: vec![false, true, false, false] });
        // No room: it ends. Room by eviction: the one that nobody uses goes.
        let other = open(&mut here, 4, 6, 4);
        there.put(4, here.take(other).expect("a session"));
        assert_eq!(there.begin(4, incremental(other, 1)).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        let other = open(&mut here, 2000, 6, 4);
        there.put(2000, here.take(other).expect("a session"));
        assert_eq!(there.begin(2000, incremental(id, 3)).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        assert!(there.begin(2000, incremental(other, 1)).is_ok());
        // The same id on both sides: neither goes on with what is the other's.
        let twin = open(&mut here, 2000, 6, 2);
        there.put(2000, here.take(twin).expect("a session"));
        assert!(here.is_empty() && there.is_empty());
        assert!(there.by_use.is_empty() && here.by_use.is_empty());
    }

    #[test]
    fn epochs_wrap_past_zero() {
        assert_eq!((next_epoch(0), next_epoch(i32::MAX)), (1, 1));
    }

    #[test]
    fn a_full_cache_evicts_the_unused_then_the_small_and_old_else_serves_without_a_session() {
        let mut sessions = FetchSessions::new(2, 1000);
        open(&mut sessions, 0, 1, 5);
        open(&mut sessions, 0, 2, 3);
        assert_eq!(open(&mut sessions, 900, 3, 9), 0, "both are young");
        sessions.begin(1500, incremental(1, 1)).unwrap();
        sessions.begin(1500, incremental(2, 1)).unwrap();
        assert_eq!(open(&mut sessions, 1600, 3, 3), 0, "in use, and not smaller");
        assert_eq!(open(&mut sessions, 1600, 3, 4), 3, "smaller and old: 2 goes");
        assert_eq!(sessions.begin(1600, incremental(2, 2)).unwrap_err(), ErrorCode::FetchSessionIdNotFound);
        assert_eq!(open(&mut sessions, 2550, 4, 1), 4, "1 is not used any more");
        assert_eq!((sessions.len(), sessions.evictions()), (2, 2));
        assert_eq!(open(&mut FetchSessions::new(0, 1000), 0, 1, 1), 0);
    }
}
