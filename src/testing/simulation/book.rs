//! What is known of all transactions, and what must be true of what is read of them. Pure: it hears what was sent, and
//! what was answered.
//!
//! | law | where |
//! | --- | --- |
//! | nothing is read of a transaction that was aborted, or whose commit nobody asked for (G1a) | [`Book::read`] |
//! | a record stays where it was acknowledged and where it was read; a producer's lie in its order | `read` |
//! | the last stable offset does not pass a transaction that is open | [`Book::ended`] |
//! | committed offsets are those of the last committed transaction that had some | [`Book::offset_fetched`] |
//! | of a transaction all is read in the end, or nothing: records in all logs, and its offset | [`Book::finish`] |
//! | each answer had what there is between its first and its last offset in the end (G1b: no part of what was read) | `finish` |
//! | no cycles (G0, G1c) | `finish`, by `history` |

use crate::history::{self, Committed, Name};
use crate::records::RecordId;
use std::collections::{BTreeMap, BTreeSet};

/// Records of one transaction at most: its number and this make theirs.
pub(crate) const RECORDS_MAX: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Its commit was not asked for.
    Open,
    /// Its commit was asked for, and not answered.
    InDoubt,
    Committed,
    Aborted,
}

#[derive(Debug)]
struct Transaction {
    state: State,
    begun: u64,
    ended: Option<u64>,
    sent: BTreeSet<(i32, RecordId)>,
    /// It commits its number as its producer's offset.
    offset: bool,
    reads: BTreeSet<Name>,
    /// A last stable offset was seen past it before its end was asked for.
    passed: Option<String>,
}

/// An answer to who reads what is committed: from where to where, and what was in it.
type Answer = (i32, i64, i64, Vec<(i64, RecordId)>);

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Book {
    now: u64,
    transactions: BTreeMap<Name, Transaction>,
    /// Where a record was acknowledged.
    acked: BTreeMap<(i32, RecordId), i64>,
    /// Where it was read.
    places: BTreeMap<(i32, RecordId), i64>,
    /// The largest last stable offset of a log that anybody was told.
    stable: BTreeMap<i32, i64>,
    answers: Vec<Answer>,
    checks: u64,
}

/// The transaction of a record.
pub(crate) const fn name_of(id: RecordId) -> Name {
    (id.producer, id.number / RECORDS_MAX)
}

impl Book {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    pub(crate) fn begins(&mut self, name: Name) {
        let (begun, state) = (self.tick(), State::Open);
        let (sent, reads) = (BTreeSet::new(), BTreeSet::new());
        let new = Transaction { state, begun, ended: None, sent, offset: false, reads, passed: None };
        assert!(self.transactions.insert(name, new).is_none(), "a transaction has a number of its own");
    }

    fn of(&mut self, name: Name) -> &mut Transaction {
        self.transactions.get_mut(&name).expect("it has begun")
    }

    pub(crate) fn sends(&mut self, log: i32, id: RecordId) {
        self.of(name_of(id)).sent.insert((log, id));
    }

    pub(crate) fn sends_offset(&mut self, name: Name) {
        self.of(name).offset = true;
    }

    pub(crate) fn acked(&mut self, log: i32, id: RecordId, offset: i64) -> Result<(), String> {
        self.checks += 1;
        match self.acked.insert((log, id), offset).filter(|before| *before != offset) {
            Some(before) => Err(format!("log {log}: {id:?} is acknowledged at offset {before} and at {offset}")),
            None => Ok(()),
        }
    }

    /// Its end is asked for.
    pub(crate) fn ends(&mut self, name: Name, commit: bool) {
        let seen = |(key, offset): (&(i32, RecordId), &i64)| {
            let stable = *self.stable.get(&key.0)?;
            (stable > *offset)
                .then(|| format!("log {}: the last stable offset is {stable}, its record {offset}", key.0))
        };
        let passed = self.acked.iter().filter(|((_, id), _)| name_of(*id) == name).find_map(seen);
        let this = self.of(name);
        this.passed = this.passed.take().or(passed);
        if commit {
            this.state = State::InDoubt;
        }
    }

    /// Its end was answered: until that was asked for it was open, if it `was_open`, or was to be committed.
    pub(crate) fn ended(&mut self, name: Name, commit: bool, was_open: bool) -> Result<(), String> {
        self.checks += 1;
        let now = self.tick();
        let this = self.of(name);
        this.state = if commit { State::Committed } else { State::Aborted };
        this.ended = Some(now);
        match &this.passed {
            Some(passed) if commit || was_open => Err(format!("transaction {name:?} was open: {passed}")),
            _ => Ok(()),
        }
    }

    /// The broker says that it will not commit it.
    pub(crate) fn refused(&mut self, name: Name) {
        self.of(name).state = State::Aborted;
    }

    /// The producer began anew: what it has not asked to commit is aborted.
    pub(crate) fn begins_anew(&mut self, producer: u32) {
        let of_producer = self.transactions.range_mut((producer, 0)..(producer + 1, 0)).map(|(_, t)| t);
        of_producer.filter(|t| t.state == State::Open).for_each(|t| t.state = State::Aborted);
    }

    /// What its group has committed, when nothing of the producer is under way; -1: nothing.
    pub(crate) fn offset_fetched(&mut self, producer: u32, offset: i64) -> Result<(), String> {
        self.checks += 1;
        let mut found = offset < 0;
        for ((_, number), t) in self.transactions.range_mut((producer, 0)..(producer + 1, 0)).filter(|(_, t)| t.offset)
        {
            let number = i64::from(*number);
            match (number.cmp(&offset), t.state) {
                (_, State::Open) => return Err(format!("producer {producer}: transaction {number} is open")),
                (std::cmp::Ordering::Equal, State::InDoubt | State::Committed) => {
                    t.state = State::Committed;
                    found = true;
                }
                (std::cmp::Ordering::Greater, State::InDoubt) => t.state = State::Aborted,
                (std::cmp::Ordering::Greater, State::Committed) => {
                    return Err(format!(
                        "producer {producer}: its offset is {offset}, transaction {number} is committed"
                    ));
                }
                _ => {}
            }
        }
        if found { Ok(()) } else { Err(format!("producer {producer}: its offset is {offset}: no committed one's")) }
    }

    /// Somebody was told how far a log is stable.
    pub(crate) fn stable(&mut self, log: i32, stable: i64, high_watermark: i64) -> Result<(), String> {
        self.checks += 1;
        let most = self.stable.entry(log).or_default();
        *most = stable.max(*most);
        if stable > high_watermark {
            return Err(format!("log {log}: the last stable offset is {stable}, the high watermark {high_watermark}"));
        }
        Ok(())
    }

    /// Who reads what is committed, in a transaction of its own or in none, was given these records between two offsets.
    pub(crate) fn read(
        &mut self,
        by: Option<Name>,
        log: i32,
        (from, to, stable): (i64, i64, i64),
        records: &[(i64, RecordId)],
    ) -> Result<(), String> {
        if to > stable {
            return Err(format!("log {log}: read to {to}, and it is stable up to {stable}"));
        }
        for (offset, id) in records {
            self.read_one(log, *offset, *id)?;
            if let Some(by) = by {
                self.of(by).reads.insert(name_of(*id));
            }
        }
        self.answers.push((log, from, to, records.to_vec()));
        Ok(())
    }

    fn read_one(&mut self, log: i32, offset: i64, id: RecordId) -> Result<(), String> {
        self.checks += 1;
        let name = name_of(id);
        let known = self.transactions.get(&name).filter(|t| t.sent.contains(&(log, id))).map(|t| t.state);
        if !matches!(known, Some(State::Committed | State::InDoubt)) {
            return Err(format!("log {log}: offset {offset}: {id:?} is read, and is {known:?}"));
        }
        let acked = self.acked.get(&(log, id)).copied();
        let before = *self.places.entry((log, id)).or_insert(offset);
        if before != offset || acked.is_some_and(|acked| acked != offset) {
            return Err(format!("log {log}: {id:?} is at {offset}, was read at {before}, acknowledged at {acked:?}"));
        }
        let of_producer = (log, RecordId { number: 0, ..id })..(log, id);
        match self.places.range(of_producer).next_back().filter(|(_, place)| **place > offset) {
            Some((earlier, place)) => Err(format!("log {log}: {id:?} is at {offset}, {earlier:?} at {place}")),
            None => Ok(()),
        }
    }

    /// All logs were read to their ends, and nothing is under way.
    pub(crate) fn finish(&self, read: &BTreeMap<(i32, i64), RecordId>) -> Result<(), String> {
        let there: BTreeSet<(i32, RecordId)> = read.iter().map(|((log, _), id)| (*log, *id)).collect();
        for (name, t) in &self.transactions {
            let count = t.sent.iter().filter(|key| there.contains(key)).count();
            let right = match t.state {
                State::Committed => count == t.sent.len(),
                State::InDoubt => count == 0 || count == t.sent.len(),
                State::Open | State::Aborted => count == 0,
            };
            if !right {
                let missing: Vec<_> = t.sent.iter().filter(|key| !there.contains(key)).collect();
                return Err(format!(
                    "transaction {name:?} is {:?}: {count} of its records are there, not {missing:?}",
                    t.state
                ));
            }
        }
        for (log, from, to, records) in &self.answers {
            let now: Vec<_> = read.range((*log, *from)..(*log, *to)).map(|((_, offset), id)| (*offset, *id)).collect();
            if now != *records {
                return Err(format!("log {log}: from {from} to {to} {records:?} was read, and {now:?} is there"));
            }
        }
        self.no_cycles(&there)
    }

    fn no_cycles(&self, there: &BTreeSet<(i32, RecordId)>) -> Result<(), String> {
        let is_committed = |t: &Transaction| match t.state {
            State::Committed => true,
            State::InDoubt => t.sent.iter().all(|key| there.contains(key)),
            State::Open | State::Aborted => false,
        };
        let committed = self.transactions.iter().filter(|(_, t)| is_committed(t)).map(|(name, t)| {
            let places = t.sent.iter().filter_map(|key| Some((key.0, *self.places.get(key)?)));
            let reads = t.reads.clone();
            (*name, Committed { begun: t.begun, ended: t.ended, appends: places.collect(), reads })
        });
        let history = committed.collect();
        if let Some((first, later, log)) = history::g0(&history) {
            return Err(format!("log {log}: {first:?} ended before {later:?} began, and lies behind it (G0)"));
        }
        history::g1c(&history)
            .map_or(Ok(()), |cycle| Err(format!("each was read by the next, or ended first (G1c): {cycle:?}")))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.transactions.is_empty()
    }

    /// Transactions, and checks made.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.transactions.len() as u64, self.checks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: [Name; 5] = [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)];

    fn id(name: Name, index: u32) -> RecordId {
        RecordId { producer: name.0, number: name.1 * RECORDS_MAX + index }
    }

    /// One committed with an offset, one aborted, one in doubt with an offset, one open; each in logs 0 and 1.
    fn book() -> Book {
        let mut book = Book::default();
        for (number, name) in T[..4].iter().enumerate() {
            book.begins(*name);
            for log in 0..2 {
                book.sends(log, id(*name, log as u32));
                book.acked(log, id(*name, log as u32), 10 * number as i64).expect("once");
            }
            match number {
                0 | 1 => {
                    book.sends_offset(*name);
                    book.ends(*name, number == 0);
                    book.ended(*name, number == 0, true).expect("nobody saw more");
                }
                2 => {
                    book.sends_offset(*name);
                    book.ends(*name, true);
                }
                _ => {}
            }
        }
        book
    }

    fn read(book: &mut Book, log: i32, offset: i64, name: Name) -> Result<(), String> {
        book.read(None, log, (offset, offset + 1, 100), &[(offset, id(name, log as u32))])
    }

    #[test]
    fn only_what_is_committed_is_read_and_where_it_is() {
        let mut book = book();
        read(&mut book, 0, 0, T[0]).expect("it is committed");
        read(&mut book, 0, 0, T[0]).expect("again");
        assert!(read(&mut book, 0, 1, T[0]).is_err_and(|e| e.contains("read at 0")));
        assert!(read(&mut book, 1, 1, T[0]).is_err_and(|e| e.contains("acknowledged at Some(0)")));
        assert!(read(&mut book, 2, 0, T[0]).is_err(), "it wrote nothing there");
        assert!(read(&mut book, 0, 10, T[1]).is_err_and(|e| e.contains("Aborted")), "G1a");
        assert!(read(&mut book, 0, 30, T[3]).is_err_and(|e| e.contains("Open")), "G1a");
        read(&mut book, 1, 20, T[2]).expect("it is in doubt");
        assert!(book.read(None, 0, (0, 5, 4), &[]).is_err_and(|e| e.contains("stable up to 4")), "past the LSO");
        assert!(book.stable(0, 5, 4).is_err(), "the LSO past the high watermark");
        assert!(book.acked(0, id(T[0], 0), 7).is_err());
        let mut other = Book::default();
        other.begins(T[0]);
        (0..2).for_each(|index| other.sends(0, id(T[0], index)));
        other.ends(T[0], true);
        let turned = [(3, id(T[0], 1)), (4, id(T[0], 0))];
        other.read(None, 0, (4, 5, 9), &turned[1..]).expect("the first one");
        assert!(other.read(None, 0, (3, 4, 9), &turned[..1]).is_err(), "the second one is before it");
    }

    #[test]
    fn no_last_stable_offset_is_past_an_open_transaction() {
        let mut book = book();
        book.stable(1, 30, 40).expect("its first record is at 30");
        book.ends(T[3], true);
        book.ended(T[3], true, true).expect("up to its first record");
        let mut book = self::book();
        book.stable(1, 31, 40).expect("nobody knows yet");
        book.ends(T[3], true);
        assert!(book.ended(T[3], true, true).is_err_and(|e| e.contains("31")));
    }

    #[test]
    fn an_offset_is_that_of_the_last_committed_transaction() {
        let fetched = |offset| {
            let mut book = book();
            book.begins_anew(1);
            book.offset_fetched(1, offset).map(|()| book)
        };
        assert!(fetched(-1).is_err(), "it is lost");
        assert!(fetched(1).is_err(), "that of an aborted one");
        assert!(fetched(3).is_err(), "nobody's");
        let there = |book: &Book, names: &[Name]| {
            let all =
                names.iter().flat_map(|name| (0..2).map(|log| ((log, 10 * i64::from(name.1)), id(*name, log as u32))));
            book.finish(&all.collect())
        };
        let without = fetched(0).expect("the one in doubt was not committed");
        there(&without, &T[..1]).expect("it is nowhere");
        assert!(there(&without, &[T[0], T[2]]).is_err(), "its records are there, its offset is not");
        let with = fetched(2).expect("it was");
        there(&with, &[T[0], T[2]]).expect("it is everywhere");
        assert!(there(&with, &T[..1]).is_err(), "its offset is there, its records are not");
        let mut open = book();
        open.sends_offset(T[3]);
        assert!(open.offset_fetched(1, 0).is_err_and(|e| e.contains("open")));
    }

    #[test]
    fn all_of_it_or_nothing() {
        let mut book = book();
        book.begins_anew(1);
        read(&mut book, 0, 0, T[0]).expect("it is committed");
        let verdict = |book: &Book, all: &[(i32, i64, Name)]| {
            book.finish(&all.iter().map(|(log, offset, name)| ((*log, *offset), id(*name, *log as u32))).collect())
        };
        let whole = [(0, 0, T[0]), (1, 0, T[0])];
        verdict(&book, &whole).expect("the one in doubt is nowhere");
        assert!(verdict(&book, &whole[..1]).is_err(), "half of a committed one");
        assert!(verdict(&book, &[whole[0], whole[1], (0, 20, T[2])]).is_err(), "half of one in doubt");
        assert!(verdict(&book, &[whole[0], whole[1], (0, 10, T[1])]).is_err(), "an aborted one");
        assert!(verdict(&book, &[(0, 3, T[0]), (1, 0, T[0])]).is_err_and(|e| e.contains("was read")), "moved");
        book.answers.push((1, 0, 1, Vec::new()));
        assert!(verdict(&book, &whole).is_err_and(|e| e.contains("was read")), "an answer left it out");
    }
}
