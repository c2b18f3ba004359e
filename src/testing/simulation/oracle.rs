//! What must be true of every answer, whatever happened to the broker. Pure: it hears what was sent and what was
//! answered, and says what is wrong.
//!
//! | law | where |
//! | --- | --- |
//! | an acknowledged record is at its offset for ever | [`Oracle::acked`], [`Oracle::read`], [`Oracle::finish`] |
//! | a record that was read is at its offset for ever | `read`, `finish` |
//! | nothing is read that was not sent, or at or past the high watermark | `read` |
//! | offsets have no holes | `read`, `finish` |
//! | an idempotent producer's records are there once, in order, without holes | `read`, `finish` |
//! | a plain producer's records are there at most as often as they were sent | `finish` |
//! | the high watermark is never below what was acknowledged or readable before the question | [`Oracle::end_seen`] |
//! | an acknowledged topic stays, with its id and partitions | [`Oracle::topic_seen`], [`Oracle::topics_listed`] |

use crate::records::{ReadBatch, RecordId};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A partition's number: its place in the order in which the oracle heard of it. Goes into every record.
pub(crate) type PartitionNumber = u32;

/// What is wrong, in words.
pub(crate) type Verdict = Result<(), String>;

#[derive(Debug)]
struct Topic {
    id: Uuid,
    partitions: Vec<PartitionNumber>,
}

/// What is known of a partition's log.
#[derive(Debug, Default)]
struct Log {
    name: String,
    /// By offset: the record that was acknowledged or read there.
    records: Vec<Option<RecordId>>,
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
}

/// All that is known. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    topics: BTreeMap<String, Topic>,
    logs: Vec<Log>,
    checks: u64,
}

impl Oracle {
    /// A topic that a CreateTopics or Metadata answer named without an error: it must stay.
    pub(crate) fn topic_seen(&mut self, name: &str, id: Uuid, partitions: i32) -> Verdict {
        self.checks += 1;
        let logs = &mut self.logs;
        let topic = self.topics.entry(name.to_owned()).or_insert_with(|| {
            let first = logs.len() as u32;
            logs.extend((0..partitions).map(|p| Log { name: format!("{name}-{p}"), ..Log::default() }));
            Topic { id, partitions: (first..first + partitions as u32).collect() }
        });
        if topic.id != id || topic.partitions.len() != partitions as usize {
            return Err(format!(
                "topic {name}: was {} with {} partitions, is {id} with {partitions}",
                topic.id,
                topic.partitions.len()
            ));
        }
        Ok(())
    }

    /// An answer named `listed` of all topics; `known` were known when it was asked.
    pub(crate) fn topics_listed(&mut self, known: &[String], listed: &[String]) -> Verdict {
        self.checks += 1;
        match known.iter().find(|name| !listed.contains(name)) {
            Some(name) => Err(format!("topic {name} is gone; there are {listed:?}")),
            None => Ok(()),
        }
    }

    pub(crate) fn topic_names(&self) -> Vec<String> {
        self.topics.keys().cloned().collect()
    }

    pub(crate) fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.topics.get(name).map(|t| t.id)
    }

    /// Names by id, for answers that have only that.
    pub(crate) fn topic_name(&self, id: Uuid) -> Option<&str> {
        self.topics.iter().find(|(_, t)| t.id == id).map(|(name, _)| name.as_str())
    }

    pub(crate) fn partitions(&self, topic: &str) -> &[PartitionNumber] {
        self.topics.get(topic).map_or(&[], |t| &t.partitions)
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

    /// Records are about to be sent (again).
    pub(crate) fn sending(&mut self, partition: PartitionNumber, first: RecordId, count: usize, idempotent: bool) {
        let sent = self.logs[partition as usize].sent.entry(first.producer).or_default();
        let (from, to) = (first.number as usize, first.number as usize + count);
        sent.idempotent = idempotent;
        sent.times.resize(sent.times.len().max(to), 0);
        sent.acked.resize(sent.times.len(), false);
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
            log.place(base + i as i64, id).map_err(|e| format!("acknowledged: {e}"))?;
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

    /// A fetch from `asked` gave batches, with this high watermark. Returns the offset to go on from.
    pub(crate) fn read(
        &mut self,
        partition: PartitionNumber,
        asked: i64,
        high_watermark: i64,
        batches: &[ReadBatch],
    ) -> Result<i64, String> {
        self.checks += 1;
        let log = &mut self.logs[partition as usize];
        let mut next = None;
        for batch in batches {
            let right = match next {
                None => batch.base_offset <= asked && asked < batch.end(),
                Some(next) => batch.base_offset == next,
            };
            if !right {
                return Err(format!(
                    "{}: a batch at {}..{} where {} is next",
                    log.name,
                    batch.base_offset,
                    batch.end(),
                    next.unwrap_or(asked)
                ));
            }
            for (i, id) in batch.ids.iter().enumerate() {
                log.place(batch.base_offset + i as i64, *id).map_err(|e| format!("read: {e}"))?;
            }
            next = Some(batch.end());
        }
        let next = next.unwrap_or(asked);
        if next > high_watermark && !batches.is_empty() {
            return Err(format!("{}: read up to {next}, past the high watermark {high_watermark}", log.name));
        }
        log.committed_end = log.committed_end.max(if batches.is_empty() { 0 } else { next });
        Ok(next)
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
        for offset in 0..end {
            let Some(id) = log.records.get(offset as usize).copied().flatten() else {
                return fail(format!("nothing was read at offset {offset}"));
            };
            *count.entry(id).or_default() += 1;
            let sent = &log.sent[&id.producer];
            let expected = next.entry(id.producer).or_default();
            if sent.idempotent && id.number != *expected {
                return fail(format!("offset {offset}: {id:?} where its producer's {expected} is next"));
            }
            *expected = id.number + 1;
        }
        for (producer, sent) in &log.sent {
            for (number, times) in sent.times.iter().enumerate() {
                let id = RecordId { producer: *producer, number: number as u32 };
                let there = count.get(&id).copied().unwrap_or(0);
                if sent.acked[number] && there == 0 {
                    return fail(format!("{id:?} was acknowledged and is not there"));
                }
                if there > if sent.idempotent { 1 } else { *times } {
                    return fail(format!("{id:?} is there {there} times, and was sent {times} times"));
                }
            }
        }
        Ok(())
    }
}

impl Log {
    /// A record is at an offset: as all who saw that offset said, and no second time if its producer is idempotent.
    fn place(&mut self, offset: i64, id: RecordId) -> Verdict {
        let at = offset as usize;
        if self.records.len() <= at {
            self.records.resize(at + 1, None);
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

    fn id(producer: u32, number: u32) -> RecordId {
        RecordId { producer, number }
    }

    fn batch(base_offset: i64, ids: &[RecordId]) -> ReadBatch {
        ReadBatch { base_offset, ids: ids.to_vec() }
    }

    /// Producer 1 is idempotent, 2 is not; both sent ten records.
    fn oracle() -> Oracle {
        let mut oracle = Oracle::default();
        oracle.topic_seen("t", Uuid::from_u128(1), 1).expect("new");
        oracle.sending(0, id(1, 0), 10, true);
        oracle.sending(0, id(2, 0), 10, false);
        oracle
    }

    #[test]
    fn what_is_right_passes() {
        let mut oracle = oracle();
        oracle.acked(0, id(1, 0), 2, Some(0)).expect("the first");
        assert_eq!(oracle.read(0, 1, 4, &[batch(0, &[id(1, 0), id(1, 1)]), batch(2, &[id(2, 0)])]), Ok(3));
        oracle.end_seen(0, 3, 4, "end").expect("as far as read");
        assert_eq!(oracle.committed_end(0), 4);
        assert_eq!(oracle.read(0, 3, 4, &[batch(3, &[id(1, 2)])]), Ok(4));
        oracle.finish(0, 4).expect("all there");
    }

    type Case = (&'static str, fn(&mut Oracle) -> Verdict);

    #[test]
    fn every_law_bites() {
        let cases: [Case; 12] = [
            ("holds", |o| o.read(0, 0, 9, &[batch(0, &[id(2, 0)])]).map(drop)),
            ("past the high", |o| o.read(0, 2, 2, &[batch(2, &[id(1, 2)])]).map(drop)),
            ("is next", |o| o.read(0, 2, 9, &[batch(3, &[id(1, 2)])]).map(drop)),
            ("never sent", |o| o.read(0, 2, 9, &[batch(2, &[id(1, 10)])]).map(drop)),
            ("is at offset", |o| o.read(0, 2, 9, &[batch(2, &[id(1, 0)])]).map(drop)),
            ("out of order", |o| {
                o.acked(0, id(1, 4), 1, Some(4))?;
                o.read(0, 2, 9, &[batch(2, &[id(1, 5)])]).map(drop)
            }),
            ("is 1, and 2", |o| o.end_seen(0, 2, 1, "the end")),
            ("ends at 1", |o| o.finish(0, 1)),
            ("nothing was read", |o| o.finish(0, 3)),
            ("next", |o| {
                o.read(0, 2, 3, &[batch(2, &[id(1, 3)])])?;
                o.finish(0, 3)
            }),
            ("acknowledged and is not", |o| {
                o.acked(0, id(2, 0), 1, None)?;
                o.finish(0, 2)
            }),
            ("2 times, and was sent 1", |o| {
                o.read(0, 2, 4, &[batch(2, &[id(2, 0), id(2, 0)])])?;
                o.finish(0, 4)
            }),
        ];
        for (expected, case) in cases {
            let mut oracle = oracle();
            oracle.acked(0, id(1, 0), 2, Some(0)).expect("the first");
            let said = case(&mut oracle).expect_err(expected);
            assert!(said.contains(expected), "{said:?} should say {expected:?}");
        }
        let mut oracle = oracle();
        assert!(oracle.topic_seen("t", Uuid::from_u128(2), 1).is_err());
        assert!(oracle.topic_seen("t", Uuid::from_u128(1), 2).is_err());
        assert!(oracle.topics_listed(&["t".into()], &["u".into()]).is_err());
    }
}
