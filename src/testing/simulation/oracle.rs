//! What must be true of every answer, whatever happened to the broker. Pure: it hears what was sent and what was
//! answered, and says what is wrong.
//!
//! | law | where |
//! | --- | --- |
//! | an acknowledged record is at its offset for ever | [`Oracle::acked`], [`Oracle::read`], [`Oracle::finish`] |
//! | a record that was read is at its offset for ever | `read`, `finish` |
//! | nothing is read that was not sent, or at or past the high watermark | `read` |
//! | offsets have no holes where nothing is compacted | `read`, `finish` |
//! | an idempotent producer's records are there once, in order, without holes | `read`, `finish` |
//! | a plain producer's records are there at most as often as they were sent | `finish` |
//! | the high watermark is never below what was acknowledged or readable before the question | [`Oracle::end_seen`] |
//! | a log begins where it was last cut, or where a cut that was asked for would make it begin | [`Oracle::start_seen`] |
//! | retention takes what is old enough, or more than what is to stay | `start_seen`, `finish` |
//! | compaction keeps the last record of each key, and what it took never comes back | [`Gone`] |
//! | a record keeps its time; the first record of a time is found by it | `read`, [`Oracle::by_time`] |
//! | an acknowledged topic stays, with its id and partitions, until it is deleted, and is gone then | [`Topics`] |

use crate::cleanup::{Cleanup, Gone};
use crate::records::{ReadBatch, ReadRecord, RecordId, is_tombstone, key};
use crate::topics::{Asked, Life, LifeNumber, Listed, Topics};
use std::collections::{BTreeMap, BTreeSet};

/// A partition's number: its place in the order in which the oracle heard of it. Goes into every record.
pub(crate) type PartitionNumber = u32;

/// What is wrong, in words.
pub(crate) type Verdict = Result<(), String>;

/// What is known of a partition's log.
#[derive(Debug, Default)]
struct Log {
    name: String,
    life: LifeNumber,
    /// By offset: the record that was acknowledged or read there.
    records: Vec<Option<RecordId>>,
    /// By offset: its time, as far as known.
    times: Vec<Option<i64>>,
    /// Where it begins: the cut that was acknowledged last, or what retention was seen to do, and the furthest that was
    /// asked for.
    start: (i64, i64),
    /// Somebody asked to move its start.
    cut: bool,
    cleanup: Cleanup,
    gone: Gone,
    /// By base offset: bytes of the batches that were read.
    batch_bytes: BTreeMap<i64, usize>,
    /// Where each record of an idempotent producer was acknowledged or read.
    places: BTreeMap<RecordId, i64>,
    /// Everything below was acknowledged or readable once.
    committed_end: i64,
    /// By producer.
    sent: BTreeMap<u32, Sent>,
}

/// What a producer sent to a partition.
#[derive(Debug, Default)]
struct Sent {
    idempotent: bool,
    /// By number: how often.
    times: Vec<u32>,
    /// By number: acknowledged at least once.
    acked: Vec<bool>,
    /// By number: the time its producer gave it.
    stamps: Vec<i64>,
}

/// All that is known. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    pub(crate) topics: Topics,
    logs: Vec<Log>,
    checks: u64,
}

/// What a question by time may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// The first record at or after it.
    From(i64),
    /// The record with the largest.
    Largest,
}

impl Oracle {
    /// A CreateTopics or Metadata answer named a topic without an error.
    pub(crate) fn topic_seen(&mut self, asked: &Asked, listed: &Listed) -> Verdict {
        self.checks += 1;
        let logs = &mut self.logs;
        let life = self.topics.by_id(listed.id).map_or_else(|| self.topics.all().count(), |(life, _)| life);
        let cleanup = self.topics.cleanup(&listed.name);
        self.topics.seen(asked, listed, |name| {
            logs.push(Log { name, life, cleanup, ..Log::default() });
            logs.len() as u32 - 1
        })
    }

    /// An answer named all topics.
    pub(crate) fn topics_listed(&mut self, asked: &Asked, listed: &[Listed]) -> Verdict {
        self.checks += 1;
        self.topics.listed(asked, listed)
    }

    /// The topic of a partition.
    pub(crate) fn life_of(&self, partition: PartitionNumber) -> &Life {
        self.topics.get(self.logs[partition as usize].life)
    }

    /// The partition's index in its topic.
    pub(crate) fn index_of(&self, partition: PartitionNumber) -> i32 {
        let place = self.life_of(partition).partitions.iter().position(|p| *p == partition);
        place.expect("a partition is one of its topic") as i32
    }

    /// Partitions that the oracle has heard of.
    pub(crate) fn partitions(&self) -> PartitionNumber {
        self.logs.len() as u32
    }

    pub(crate) fn name(&self, partition: PartitionNumber) -> &str {
        &self.logs[partition as usize].name
    }

    /// Checks that were made: a run without any proves nothing.
    pub(crate) fn checks(&self) -> u64 {
        self.checks
    }

    /// Records that are in logs, as far as known.
    pub(crate) fn records(&self) -> usize {
        self.logs.iter().map(|l| l.records.iter().flatten().count()).sum()
    }

    /// What any answer to a question that is asked now must cover.
    pub(crate) fn committed_end(&self, partition: PartitionNumber) -> i64 {
        self.logs[partition as usize].committed_end
    }

    /// Where the log begins: what was acknowledged, and what was asked for.
    pub(crate) fn start(&self, partition: PartitionNumber) -> (i64, i64) {
        self.logs[partition as usize].start
    }

    /// Records are about to be sent (again), with these times.
    pub(crate) fn sending(&mut self, partition: PartitionNumber, first: RecordId, times: &[i64], idempotent: bool) {
        let count = times.len();
        let sent = self.logs[partition as usize].sent.entry(first.producer).or_default();
        let (from, to) = (first.number as usize, first.number as usize + count);
        sent.idempotent = idempotent;
        sent.times.resize(sent.times.len().max(to), 0);
        sent.acked.resize(sent.times.len(), false);
        sent.stamps.resize(sent.times.len(), 0);
        sent.stamps[from..to].copy_from_slice(times);
        sent.times[from..to].iter_mut().for_each(|t| *t += 1);
    }

    /// Records were acknowledged; `base` is where, if the answer says.
    pub(crate) fn acked(
        &mut self,
        partition: PartitionNumber,
        first: RecordId,
        count: usize,
        base: Option<i64>,
    ) -> Verdict {
        self.checks += 1;
        let own_times = !self.life_of(partition).log_append_time;
        let log = &mut self.logs[partition as usize];
        let (from, to) = (first.number as usize, first.number as usize + count);
        let sent = log.sent.get_mut(&first.producer).filter(|s| s.acked.len() >= to);
        let Some(sent) = sent else { return Err(format!("{}: {first:?} acknowledged and never sent", log.name)) };
        sent.acked[from..to].fill(true);
        let Some(base) = base else { return Ok(()) };
        if base < 0 {
            return Err(format!("{}: {first:?} acknowledged at offset {base}", log.name));
        }
        for i in 0..count {
            let id = RecordId { number: first.number + i as u32, ..first };
            let time = sent_time(log, id).filter(|_| own_times);
            log.place(base + i as i64, id, time).map_err(|e| format!("acknowledged: {e}"))?;
        }
        log.committed_end = log.committed_end.max(base + count as i64);
        Ok(())
    }

    /// An answer gave `end` as high watermark; when it was asked for, all below `floor` was committed.
    pub(crate) fn end_seen(&mut self, partition: PartitionNumber, floor: i64, end: i64, what: &str) -> Verdict {
        self.checks += 1;
        let log = &mut self.logs[partition as usize];
        if end < floor {
            return Err(format!("{}: {what} is {end}, and {floor} was committed before it was asked", log.name));
        }
        log.committed_end = log.committed_end.max(end);
        Ok(())
    }

    /// A fetch from `asked` that was sent when `asked_at` checks were made gave batches, with this high watermark.
    /// Returns the offset to go on from.
    pub(crate) fn read(
        &mut self,
        partition: PartitionNumber,
        asked: i64,
        asked_at: u64,
        high_watermark: i64,
        batches: &[ReadBatch],
    ) -> Result<i64, String> {
        self.checks += 1;
        let appends = self.life_of(partition).log_append_time;
        let log = &mut self.logs[partition as usize];
        let compacted = log.cleanup.compacted;
        let (mut next, mut there) = (None, BTreeSet::new());
        for batch in batches {
            let right = match next {
                None => (batch.base_offset <= asked || compacted) && asked < batch.end(),
                Some(next) => batch.base_offset == next || (compacted && batch.base_offset > next),
            };
            if !right || !(compacted || batch.is_whole()) {
                return Err(format!(
                    "{}: a batch at {}..{} where {} is next",
                    log.name,
                    batch.base_offset,
                    batch.end(),
                    next.unwrap_or(asked)
                ));
            }
            if batch.log_append_time != appends {
                return Err(format!("{}: a batch at {}: whose are its times?", log.name, batch.base_offset));
            }
            log.batch_bytes.insert(batch.base_offset, batch.bytes);
            for ReadRecord { offset, id, time } in &batch.records {
                let offset = *offset;
                there.insert(offset);
                let sent = sent_time(log, *id).filter(|sent| !appends && sent != time);
                if let Some(sent) = sent {
                    return Err(format!("{}: offset {offset}: {id:?} was sent with time {sent}, has {time}", log.name));
                }
                log.place(offset, *id, Some(*time)).map_err(|e| format!("read: {e}"))?;
            }
            next = Some(batch.end());
        }
        let next = next.unwrap_or(asked);
        if next > high_watermark && !batches.is_empty() {
            return Err(format!("{}: read up to {next}, past the high watermark {high_watermark}", log.name));
        }
        if let Some(first) = batches.first().filter(|_| compacted) {
            let read = log.gone.read(asked.min(first.base_offset)..next, &there, asked_at, self.checks);
            read.map_err(|offset| format!("{}: offset {offset} was compacted away and is there again", log.name))?;
        }
        log.committed_end = log.committed_end.max(if batches.is_empty() { 0 } else { next });
        Ok(next)
    }

    /// A log's start is about to be moved.
    pub(crate) fn cutting(&mut self, partition: PartitionNumber, to: i64) {
        let log = &mut self.logs[partition as usize];
        log.start.1 = log.start.1.max(to);
        log.cut = true;
    }

    /// An answer gave the log's start; when it was asked for, it was at `floor` at least. No clock of the broker showed
    /// more than `now_ms` so far.
    pub(crate) fn start_seen(&mut self, partition: PartitionNumber, floor: i64, start: i64, now_ms: i64) -> Verdict {
        self.checks += 1;
        let log = &mut self.logs[partition as usize];
        if start < floor || (start > log.start.1 && !log.cleanup.moves_start()) {
            return Err(format!("{}: begins at {start}, expected {floor}..={}", log.name, log.start.1));
        }
        let last_of_keys = if log.cleanup.compacted { Some(log.last_of_keys()) } else { None };
        for offset in log.start.1..start {
            // Others may have left their segment before.
            if last_of_keys.as_ref().is_some_and(|last| !last.contains(&offset)) {
                continue;
            }
            let time = log.times.get(offset as usize).copied().flatten();
            if let Some(time) = time.filter(|time| !log.cleanup.may_go(*time, now_ms)) {
                return Err(format!("{}: begins at {start}; offset {offset} has time {time}, too young", log.name));
            }
        }
        log.start = (log.start.0.max(start), log.start.1.max(start));
        Ok(())
    }

    /// Some time of the partition's records, `at` in thousandths of its log; for questions.
    pub(crate) fn some_time(&self, partition: PartitionNumber, at: u64) -> Option<i64> {
        let times = &self.logs[partition as usize].times;
        times.get(times.len() * at as usize / 1000).copied().flatten()
    }

    /// An answer to a question by time; when it was asked, all below `floor` was committed.
    pub(crate) fn by_time(
        &mut self,
        partition: PartitionNumber,
        floor: i64,
        time: Time,
        found: Option<(i64, i64)>,
        now_ms: i64,
    ) -> Verdict {
        self.checks += 1;
        let log = &self.logs[partition as usize];
        let stays = |time: i64| !log.cleanup.compacted && !log.cleanup.may_go(time, now_ms);
        let known = |to: i64| {
            let (from, to) = (log.start.1.max(0) as usize, log.times.len().min(to as usize));
            (from..to).filter_map(|at| log.times[at].filter(|t| stays(*t)).map(|t| (at, t)))
        };
        // Below the answer nothing fits better; or, of what had to be there, nothing at all.
        let better = match (time, found) {
            (Time::From(time), Some((offset, at))) if at >= time => known(offset).find(|(_, t)| *t >= time),
            (Time::From(time), None) => known(floor).find(|(_, t)| *t >= time),
            (Time::Largest, Some((_, at))) => known(floor).find(|(_, t)| *t > at),
            (Time::Largest, None) => known(floor).next(),
            (Time::From(_), Some(_)) => Some((0, -1)),
        };
        if let Some((offset, known)) = better {
            return Err(format!(
                "{}: by {time:?} {found:?} was found; offset {offset} has time {known}, and {floor} was committed",
                log.name
            ));
        }
        let right = found.and_then(|(offset, at)| log.times.get(offset as usize).copied().flatten().map(|t| (t, at)));
        match right {
            Some((known, at)) if known != at => {
                Err(format!("{}: by {time:?} {found:?} was found; its time is {known}", log.name))
            }
            _ => Ok(()),
        }
    }

    /// The whole log was read once more, by `read`, up to `end`; everybody has finished.
    pub(crate) fn finish(&mut self, partition: PartitionNumber, end: i64) -> Verdict {
        self.checks += 1;
        let log = &self.logs[partition as usize];
        let fail = |what: String| Err(format!("{} at the end: {what}", log.name));
        if end < log.committed_end || log.records.len() as i64 > end {
            let known = log.records.len();
            return fail(format!("ends at {end}, committed {}, known {known}", log.committed_end));
        }
        let mut count: BTreeMap<RecordId, u32> = BTreeMap::new();
        let mut next: BTreeMap<u32, u32> = BTreeMap::new();
        let start = log.start.1;
        for offset in start..end {
            if log.gone.contains(offset) {
                continue;
            }
            let Some(id) = log.records.get(offset as usize).copied().flatten() else {
                return fail(format!("nothing was read at offset {offset}"));
            };
            *count.entry(id).or_default() += 1;
            let sent = &log.sent[&id.producer];
            // Behind a start that was moved, a producer's first record may be any.
            let expected = next.entry(id.producer).or_insert(if start > 0 { id.number } else { 0 });
            if sent.idempotent && id.number != *expected && !log.cleanup.compacted {
                return fail(format!("offset {offset}: {id:?} where its producer's {expected} is next"));
            }
            *expected = id.number + 1;
        }
        for (producer, sent) in &log.sent {
            for (number, times) in sent.times.iter().enumerate() {
                let id = RecordId { producer: *producer, number: number as u32 };
                let there = count.get(&id).copied().unwrap_or(0);
                if sent.acked[number] && there == 0 && start == 0 && !log.cleanup.compacted {
                    return fail(format!("{id:?} was acknowledged and is not there"));
                }
                if there > if sent.idempotent { 1 } else { *times } {
                    return fail(format!("{id:?} is there {there} times, and was sent {times} times"));
                }
            }
        }
        if log.cleanup.compacted {
            log.gone.check(log.known(), &log.open()).or_else(fail)?;
        }
        let bytes: usize = log.batch_bytes.range(start..end).map(|(_, bytes)| bytes).sum();
        let only_by_size = log.cleanup.retention_ms.is_none() && !log.cleanup.compacted && !log.cut;
        match log.cleanup.retention_bytes.filter(|least| only_by_size && start > 0 && (bytes as u64) < *least) {
            Some(least) => fail(format!("{bytes} bytes are left, and {least} were to stay")),
            None => Ok(()),
        }
    }
}

/// The time that its producer gave a record.
fn sent_time(log: &Log, id: RecordId) -> Option<i64> {
    log.sent.get(&id.producer)?.stamps.get(id.number as usize).copied()
}

impl Log {
    /// All that was ever known to be in it, by offset.
    fn known(&self) -> impl Iterator<Item = (i64, RecordId)> {
        let known = self.records.iter().enumerate().filter_map(|(at, id)| Some((at as i64, (*id)?)));
        known.skip_while(|(offset, _)| *offset < self.start.1)
    }

    /// Where the last record of each key is, as far as known; tombstones may be gone.
    fn last_of_keys(&self) -> BTreeSet<i64> {
        let last: BTreeMap<u32, (i64, RecordId)> = self.known().map(|(at, id)| (key(id), (at, id))).collect();
        last.into_values().filter(|(_, id)| !is_tombstone(*id)).map(|(at, _)| at).collect()
    }

    /// Records that were sent more often than their place is known.
    fn open(&self) -> Vec<RecordId> {
        let mut seen: BTreeMap<RecordId, u32> = BTreeMap::new();
        self.records.iter().flatten().for_each(|id| *seen.entry(*id).or_default() += 1);
        let sent = self.sent.iter().flat_map(|(producer, sent)| {
            let most = if sent.idempotent { 1 } else { u32::MAX };
            let sent = sent.times.iter().enumerate().map(move |(number, times)| (number as u32, (*times).min(most)));
            sent.map(|(number, times)| (RecordId { producer: *producer, number }, times))
        });
        sent.filter(|(id, times)| seen.get(id).copied().unwrap_or(0) < *times).map(|(id, _)| id).collect()
    }

    /// A record is at an offset: as all who saw that offset said, and no second time if its producer is idempotent.
    fn place(&mut self, offset: i64, id: RecordId, time: Option<i64>) -> Verdict {
        let at = offset as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
            self.times.resize(at + 1, None);
        }
        match (self.times[at], time) {
            (Some(known), Some(time)) if known != time => {
                return Err(format!("{}: offset {offset} had time {known} and has {time}", self.name));
            }
            (known, time) => self.times[at] = known.or(time),
        }
        match self.records[at] {
            Some(known) if known != id => {
                return Err(format!("{}: offset {offset} held {known:?} and holds {id:?}", self.name));
            }
            Some(_) => return Ok(()),
            None => self.records[at] = Some(id),
        }
        let sent = self.sent.get(&id.producer).filter(|s| s.times.get(id.number as usize).is_some_and(|t| *t > 0));
        let Some(sent) = sent else { return Err(format!("{}: offset {offset}: {id:?} was never sent", self.name)) };
        if !sent.idempotent {
            return Ok(());
        }
        if let Some(before) = self.places.insert(id, offset) {
            return Err(format!("{}: {id:?} is at offset {before} and at {offset}", self.name));
        }
        let mut neighbours = self.places.range(..id).next_back().into_iter().chain(self.places.range(id..).nth(1));
        let wrong =
            neighbours.find(|(other, place)| other.producer == id.producer && (**other < id) != (**place < offset));
        match wrong {
            Some((other, place)) => {
                Err(format!("{}: out of order: {other:?} at {place}, {id:?} at {offset}", self.name))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topics::Intent;
    use uuid::Uuid;

    fn id(producer: u32, number: u32) -> RecordId {
        RecordId { producer, number }
    }

    /// A record's time is ten times its number.
    fn batch(base_offset: i64, ids: &[RecordId]) -> ReadBatch {
        let record = |(i, id): (usize, &RecordId)| ReadRecord {
            offset: base_offset + i as i64,
            id: *id,
            time: i64::from(id.number) * 10,
        };
        let last_offset = base_offset + ids.len() as i64 - 1;
        let records = ids.iter().enumerate().map(record).collect();
        ReadBatch { base_offset, last_offset, bytes: 100, log_append_time: false, records }
    }

    /// Producer 1 is idempotent, 2 is not; both sent ten records.
    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        oracle.topics.intend("t", Intent { lives: 1, partitions_max: 1, ..Intent::default() });
        let listed = Listed { name: "t".to_owned(), id: Uuid::from_u128(1), partitions: 1 };
        oracle.topic_seen(&Asked::default(), &listed).expect("new");
        let times: Vec<i64> = (0..10).map(|n| n * 10).collect();
        oracle.sending(0, id(1, 0), &times, true);
        oracle.sending(0, id(2, 0), &times, false);
        oracle
    }

    #[test]
    fn what_is_right_passes() {
        let mut oracle = oracle();
        oracle.acked(0, id(1, 0), 2, Some(0)).expect("the first");
        assert_eq!(oracle.read(0, 1, 0, 4, &[batch(0, &[id(1, 0), id(1, 1)]), batch(2, &[id(2, 0)])]), Ok(3));
        oracle.end_seen(0, 3, 4, "end").expect("as far as read");
        assert_eq!(oracle.committed_end(0), 4);
        assert_eq!(oracle.read(0, 3, 0, 4, &[batch(3, &[id(1, 2)])]), Ok(4));
        oracle.by_time(0, 4, Time::From(11), Some((3, 20)), 0).expect("the first from there on");
        oracle.by_time(0, 4, Time::From(21), None, 0).expect("none");
        oracle.by_time(0, 4, Time::Largest, Some((3, 20)), 0).expect("the largest");
        oracle.finish(0, 4).expect("all there");
    }

    type Case = (&'static str, fn(&mut Oracle) -> Verdict);

    #[test]
    fn every_law_bites() {
        let cases: [Case; 17] = [
            ("with time 20, has 21", |o| {
                let mut wrong = batch(2, &[id(1, 2)]);
                wrong.records[0].time = 21;
                o.read(0, 2, 0, 9, &[wrong]).map(drop)
            }),
            ("offset 1 has time 10", |o| o.by_time(0, 2, Time::From(5), None, 0)),
            ("offset 0 has time 0", |o| o.by_time(0, 2, Time::From(0), Some((1, 10)), 0)),
            ("its time is 10", |o| o.by_time(0, 2, Time::From(9), Some((1, 11)), 0)),
            ("offset 1 has time 10", |o| o.by_time(0, 2, Time::Largest, Some((0, 0)), 0)),
            ("holds", |o| o.read(0, 0, 0, 9, &[batch(0, &[id(2, 0)])]).map(drop)),
            ("past the high", |o| o.read(0, 2, 0, 2, &[batch(2, &[id(1, 2)])]).map(drop)),
            ("is next", |o| o.read(0, 2, 0, 9, &[batch(3, &[id(1, 2)])]).map(drop)),
            ("never sent", |o| o.read(0, 2, 0, 9, &[batch(2, &[id(1, 10)])]).map(drop)),
            ("is at offset", |o| o.read(0, 2, 0, 9, &[batch(2, &[id(1, 0)])]).map(drop)),
            ("out of order", |o| {
                o.acked(0, id(1, 4), 1, Some(4))?;
                o.read(0, 2, 0, 9, &[batch(2, &[id(1, 5)])]).map(drop)
            }),
            ("is 1, and 2", |o| o.end_seen(0, 2, 1, "the end")),
            ("ends at 1", |o| o.finish(0, 1)),
            ("nothing was read", |o| o.finish(0, 3)),
            ("next", |o| {
                o.read(0, 2, 0, 3, &[batch(2, &[id(1, 3)])])?;
                o.finish(0, 3)
            }),
            ("acknowledged and is not", |o| {
                o.acked(0, id(2, 0), 1, None)?;
                o.finish(0, 2)
            }),
            ("2 times, and was sent 1", |o| {
                o.read(0, 2, 0, 4, &[batch(2, &[id(2, 0), id(2, 0)])])?;
                o.finish(0, 4)
            }),
        ];
        for (expected, case) in cases {
            let mut oracle = oracle();
            oracle.acked(0, id(1, 0), 2, Some(0)).expect("the first");
            let said = case(&mut oracle).expect_err(expected);
            assert!(said.contains(expected), "{said:?} should say {expected:?}");
        }
    }

    #[test]
    fn a_start_only_moves_as_asked() {
        let mut oracle = oracle();
        oracle.cutting(0, 2);
        assert!(oracle.start_seen(0, 0, 3, 0).is_err());
        oracle.start_seen(0, 0, 2, 0).expect("as asked");
        assert!(oracle.start_seen(0, 2, 1, 0).is_err());
        assert_eq!(oracle.start(0), (2, 2));
        assert_eq!(oracle.read(0, 2, 0, 3, &[batch(2, &[id(1, 4)])]), Ok(3));
        oracle.finish(0, 3).expect("what is before the start may be anything");
    }
}
