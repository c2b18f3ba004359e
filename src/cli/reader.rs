//! Records of a topic's partitions, from their leaders: what `coreline consume` and `kafka-console-consumer` share.
//! No group: partitions are read as asked.

use super::cluster::error_name;
use clap::ValueEnum;
use coreline_bench::client::{Client, Fetched, OffsetSpec};
use std::collections::BTreeMap;
use std::time::Duration;

const OFFSET_OUT_OF_RANGE: i16 = 1;

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// At a place of the log; its end where there is no such place.
    Spec(OffsetSpec),
    /// At this offset.
    Offset(i64),
    /// With the last so many.
    Last(i64),
}

/// Which records of transactions are read. Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum IsolationLevel {
    /// Those of transactions that were committed, up to the first one that is open.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// Some partitions of one topic.
pub(super) struct Reader {
    topic: String,
    by_leader: BTreeMap<i32, Leader>,
}

/// The partitions that one broker leads.
struct Leader {
    client: Client,
    offsets: BTreeMap<i32, i64>,
    ends: BTreeMap<i32, i64>,
}

impl Reader {
    /// Connects to the leaders of a topic; `leaders` by partition. All partitions if `partitions` is empty.
    pub(super) fn open(
        topic: &str,
        leaders: &[i32],
        addresses: &BTreeMap<i32, String>,
        partitions: &[i32],
        timeout: Duration,
    ) -> Result<Self, String> {
        let count = i32::try_from(leaders.len()).unwrap_or(i32::MAX);
        let all: Vec<i32> = (0..count).collect();
        let mut by_leader: BTreeMap<i32, Leader> = BTreeMap::new();
        for &partition in if partitions.is_empty() { &all } else { partitions } {
            if partition < 0 || partition >= count {
                return Err(format!("partition {partition}: {topic} has partitions 0 to {}", count - 1));
            }
            let leader = leaders[partition as usize];
            let address = addresses.get(&leader).ok_or_else(|| format!("{topic}-{partition} has no leader"))?;
            let leader = match by_leader.entry(leader) {
                std::collections::btree_map::Entry::Occupied(e) => e.into_mut(),
                std::collections::btree_map::Entry::Vacant(e) => {
                    let client = Client::connect(address, timeout).map_err(|e| e.to_string())?;
                    e.insert(Leader { client, offsets: BTreeMap::new(), ends: BTreeMap::new() })
                }
            };
            leader.offsets.insert(partition, 0);
        }
        Ok(Self { topic: topic.to_owned(), by_leader })
    }

    /// Reads and seeks so from now on; as it is made, `ReadUncommitted`.
    pub(super) fn isolate(&mut self, level: IsolationLevel) {
        let committed = level == IsolationLevel::ReadCommitted;
        self.by_leader.values_mut().for_each(|leader| leader.client.read_committed(committed));
    }

    /// Goes there in every partition, and notes where each ends now.
    pub(super) fn seek(&mut self, start: Start) -> Result<(), String> {
        self.by_leader.values_mut().try_for_each(|leader| leader.seek(&self.topic, start))
    }

    /// Goes to these offsets, and in partitions that are not among them, or whose log has no such offset any more, to a
    /// place of their logs.
    pub(super) fn seek_each(&mut self, offsets: &BTreeMap<i32, i64>, otherwise: OffsetSpec) -> Result<(), String> {
        for leader in self.by_leader.values_mut() {
            let first = leader.ask(&self.topic, OffsetSpec::Earliest)?;
            leader.seek(&self.topic, Start::Spec(otherwise))?;
            for (partition, at) in &mut leader.offsets {
                let there =
                    first.get(partition).copied().unwrap_or(0)..=leader.ends.get(partition).copied().unwrap_or(0);
                *at = offsets.get(partition).copied().filter(|offset| there.contains(offset)).unwrap_or(*at);
            }
        }
        Ok(())
    }

    /// True once all that was there at the seek is read.
    pub(super) fn at_end(&self) -> bool {
        let read = |l: &Leader| l.offsets.iter().all(|(p, offset)| l.ends.get(p).is_none_or(|end| offset >= end));
        self.by_leader.values().all(read)
    }

    /// What comes next; waits up to `wait` a leader for the first byte.
    pub(super) fn poll(&mut self, wait: Duration) -> Result<Vec<Fetched>, String> {
        let mut all = Vec::new();
        for leader in self.by_leader.values_mut() {
            let fetched = leader.client.fetch(&self.topic, &leader.offsets, wait).map_err(|e| e.to_string())?;
            for part in &fetched {
                let name = format!("{}-{}", self.topic, part.partition);
                match part.error_code {
                    0 => {}
                    OFFSET_OUT_OF_RANGE => {
                        let at = leader.offsets.get(&part.partition).copied().unwrap_or(0);
                        return Err(format!("{name}: offset {at} is out of range (OFFSET_OUT_OF_RANGE)"));
                    }
                    code => return Err(format!("{name}: {}", error_name(code))),
                }
                if let Some(next) = part.next_offset {
                    leader.offsets.insert(part.partition, next);
                }
            }
            all.extend(fetched);
        }
        Ok(all)
    }
}

impl Leader {
    fn ask(&mut self, topic: &str, spec: OffsetSpec) -> Result<BTreeMap<i32, i64>, String> {
        let partitions: Vec<i32> = self.offsets.keys().copied().collect();
        let answer = self.client.offsets(topic, &partitions, spec).map_err(|e| e.to_string())?;
        let named = |(p, offset): (i32, Result<i64, i16>)| {
            offset.map(|o| (p, o)).map_err(|code| format!("{topic}-{p}: {}", error_name(code)))
        };
        answer.into_iter().map(named).collect()
    }

    fn seek(&mut self, topic: &str, start: Start) -> Result<(), String> {
        self.ends = self.ask(topic, OffsetSpec::Latest)?;
        self.offsets = match start {
            Start::Offset(offset) => self.offsets.keys().map(|p| (*p, offset)).collect(),
            Start::Spec(spec) => {
                let mut found = self.ask(topic, spec)?;
                // No record that late: the end.
                for (p, offset) in &mut found {
                    if *offset < 0 {
                        *offset = self.ends.get(p).copied().unwrap_or(0);
                    }
                }
                found
            }
            Start::Last(count) => {
                let first = self.ask(topic, OffsetSpec::Earliest)?;
                let begin = |p: &i32, end: &i64| (end - count).max(first.get(p).copied().unwrap_or(0));
                self.ends.iter().map(|(p, end)| (*p, begin(p, end))).collect()
            }
        };
        Ok(())
    }
}
