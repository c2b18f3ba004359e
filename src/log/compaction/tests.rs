//! Whole cleanings of a log in memory against a model: which record of a key survives, what a batch keeps.

use super::filter::seal;
use super::*;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder, Compression, HEADER_LEN, RecordBatchHeader};
use crate::log::compression::decompress;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};

const NOW: i64 = 1_000_000;
const DELETE_RETENTION: i64 = 1000;

/// Offset, key, value, timestamp.
type Survivor = (i64, Vec<u8>, Option<Vec<u8>>, i64);

/// A cleaning of batches that lie back to back.
struct Cleaning {
    first_dirty: i64,
    upper_bound: i64,
    map_bytes: usize,
    now_ms: i64,
    last_records: HashMap<ProducerId, LastRecord>,
}

impl Cleaning {
    fn of(log: &[Vec<u8>]) -> Self {
        let upper_bound = log.last().map_or(0, |b| header(b).next_offset().0);
        Self { first_dirty: 0, upper_bound, map_bytes: 1 << 20, now_ms: NOW, last_records: HashMap::new() }
    }

    fn map(&self, log: &[Vec<u8>]) -> (OffsetMap, i64) {
        let mut map = OffsetMap::new(self.map_bytes, 0.9, 10_000, (3, 4));
        for bytes in log.iter().filter(|b| header(b).base_offset.0 < self.upper_bound) {
            let mut reader = KeyReader::new(&header(bytes), bytes, self.first_dirty).expect("a good batch");
            loop {
                match reader.step(&mut map).expect("good records") {
                    KeyStep::More => {}
                    KeyStep::Done => break,
                    KeyStep::Full(offset) => return (map, offset),
                }
            }
        }
        (map, self.upper_bound)
    }

    /// The new log, and up to where it is clean.
    fn run(&self, log: &[Vec<u8>]) -> (Vec<Vec<u8>>, i64) {
        let (map, mapped_end) = self.map(log);
        let retention = Retention {
            map: &map,
            mapped_end,
            upper_bound: self.upper_bound,
            now_ms: self.now_ms,
            delete_retention_ms: DELETE_RETENTION,
            last_records: &self.last_records,
        };
        let mut transactions = Transactions::default();
        let mut kept = Vec::new();
        for bytes in log {
            let header = header(bytes);
            let may_go = transactions.on_batch(&header, bytes);
            kept.extend(match clean_one(&header, bytes, &retention, may_go).0 {
                Cleaned::Same => Some(bytes.clone()),
                Cleaned::Rewritten(new) => Some(new),
                Cleaned::Gone => None,
            });
        }
        (kept, mapped_end)
    }
}

fn clean_one(header: &RecordBatchHeader, bytes: &[u8], retention: &Retention<'_>, may_go: bool) -> (Cleaned, Counts) {
    let mut cleaner = BatchCleaner::new(header, bytes, retention, may_go).expect("a good batch");
    loop {
        if let Step::Done(cleaned, counts) = cleaner.step().expect("good records") {
            return (cleaned, counts);
        }
    }
}

fn header(bytes: &[u8]) -> RecordBatchHeader {
    let header = batch::parse_header(bytes).expect("a header");
    batch::check_crc(&header, bytes).expect("a good CRC");
    assert_eq!(header.size_in_bytes(), bytes.len());
    header
}

const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn records(bytes: &[u8]) -> Vec<Survivor> {
    let header = header(bytes);
    let mut plain = bytes[..HEADER_LEN].to_vec();
    if header.record_count > 0 {
        plain.extend(decompress(header.compression().expect("known"), &bytes[HEADER_LEN..], 1 << 20).expect("plain"));
    }
    let header = RecordBatchHeader { batch_length: (plain.len() - batch::LENGTH_END) as i32, ..header };
    let found: Vec<_> = batch::records(&header, &plain).map(|r| r.expect("a record")).collect();
    assert_eq!(found.len() as i32, header.record_count);
    let survivor = |r: &batch::Record<'_>| {
        (r.offset.0, r.key.unwrap_or_default().to_vec(), r.value.map(<[u8]>::to_vec), r.timestamp)
    };
    found.iter().map(survivor).collect()
}

fn all_records(log: &[Vec<u8>]) -> Vec<Survivor> {
    log.iter().flat_map(|b| records(b)).collect()
}

/// Batches by (codec, producer or none, records: (key, value size or none)).
type Plan = Vec<(usize, Option<i64>, Vec<(u8, Option<u16>)>)>;

fn plans() -> impl Strategy<Value = Plan> {
    let record = (0..12_u8, proptest::option::weighted(0.8, 0..300_u16));
    let batch = (0..5_usize, proptest::option::of(0..3_i64), proptest::collection::vec(record, 1..8));
    proptest::collection::vec(batch, 1..25)
}

fn build(plan: &Plan) -> Vec<Vec<u8>> {
    let mut next = 0;
    let mut sequences: HashMap<i64, i32> = HashMap::new();
    let mut log = Vec::new();
    for (codec, producer, records) in plan {
        let mut builder = BatchBuilder::default();
        if let Some(id) = producer {
            let sequence = sequences.entry(*id).or_default();
            builder = builder.producer(ProducerId(*id), ProducerEpoch(1), *sequence);
            *sequence += records.len() as i32;
        }
        for (i, (key, size)) in records.iter().enumerate() {
            let value = size.map(|n| vec![*key; usize::from(n)]);
            builder.push(500_000 + next + i as i64 * 3, Some(&[b'k', *key]), value.as_deref());
        }
        log.push(builder.compression(CODECS[*codec]).build(Offset(next), LeaderEpoch(4)));
        next += records.len() as i64;
    }
    log
}

/// The last batch of each producer.
fn last_records(log: &[Vec<u8>]) -> HashMap<ProducerId, LastRecord> {
    let of = |b: &Vec<u8>| (header(b).producer_id, LastRecord::Data(header(b).last_offset().0));
    log.iter().map(of).filter(|(id, _)| id.0 >= 0).collect()
}

/// Which records stay, by Kafka's rules: all behind the mapped part; else the last of its key, unless it is a tombstone
/// whose horizon is over.
fn expected(log: &[Vec<u8>], first_dirty: i64, mapped_end: i64, now_ms: i64) -> Vec<Survivor> {
    let mut last: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for (offset, key, ..) in all_records(log).into_iter().filter(|r| (first_dirty..mapped_end).contains(&r.0)) {
        last.insert(key, offset);
    }
    let stays = |horizon: Option<i64>, r: &Survivor| {
        let latest = last.get(&r.1).is_none_or(|o| r.0 >= *o);
        r.0 >= mapped_end || latest && (r.2.is_some() || horizon.is_none_or(|h| now_ms < h))
    };
    let of = |b: &Vec<u8>| {
        let horizon = header(b).delete_horizon_ms();
        records(b).into_iter().filter(|r| stays(horizon, r)).collect::<Vec<_>>()
    };
    log.iter().flat_map(of).collect()
}

/// What a cleaning must keep of the batches that it keeps.
fn assert_kin(old: &[Vec<u8>], new: &[Vec<u8>]) {
    let mut end = -1;
    for bytes in new {
        let now = header(bytes);
        let was = header(old.iter().find(|b| header(b).base_offset == now.base_offset).expect("a batch of the log"));
        assert!(now.base_offset.0 > end, "offsets grow");
        end = now.last_offset().0;
        assert_eq!((now.last_offset(), now.partition_leader_epoch), (was.last_offset(), was.partition_leader_epoch));
        let producer = |h: &RecordBatchHeader| (h.producer_id, h.producer_epoch, h.base_sequence, h.last_sequence());
        assert_eq!(producer(&now), producer(&was));
        if now.record_count > 0 {
            assert_eq!(now.compression(), was.compression());
            let largest = records(bytes).iter().map(|r| r.3).max();
            assert_eq!(Some(now.max_timestamp), largest);
        } else {
            assert_eq!((bytes.len(), now.max_timestamp), (HEADER_LEN, was.max_timestamp));
        }
    }
}

proptest! {
    #[test]
    fn survivors_are_the_models(plan in plans(), dirty in 0..100_i64, map_bytes in 0..600_usize) {
        let log = build(&plan);
        let whole = Cleaning::of(&log);
        let cleaning = Cleaning {
            first_dirty: dirty * whole.upper_bound / 100,
            map_bytes,
            last_records: last_records(&log),
            ..whole
        };
        let (new, mapped_end) = cleaning.run(&log);
        prop_assert!(mapped_end > cleaning.first_dirty, "each pass gets on");
        prop_assert_eq!(all_records(&new), expected(&log, cleaning.first_dirty, mapped_end, NOW));
        assert_kin(&log, &new);
        prop_assert_eq!(last_records(&new), last_records(&log), "producers are what they were");
        prop_assert_eq!(header(new.last().expect("one stays")).next_offset().0, cleaning.upper_bound);
        for bytes in &new {
            let tombstone = records(bytes).iter().any(|r| r.2.is_none());
            let horizon = header(bytes).delete_horizon_ms();
            prop_assert_eq!(horizon, tombstone.then_some(NOW + DELETE_RETENTION));
        }
    }

    #[test]
    fn passes_together_are_one_cleaning(plan in plans(), map_bytes in 0..300_usize) {
        let log = build(&plan);
        let one = Cleaning::of(&log);
        let (mut passes, mut from) = (log.clone(), 0);
        while from < one.upper_bound {
            let pass = Cleaning { first_dirty: from, map_bytes, ..Cleaning::of(&log) };
            (passes, from) = pass.run(&passes);
        }
        prop_assert_eq!(all_records(&passes), all_records(&one.run(&log).0));
    }

    #[test]
    fn again_changes_nothing(plan in plans()) {
        let log = build(&plan);
        let cleaning = Cleaning { last_records: last_records(&log), ..Cleaning::of(&log) };
        let (once, _) = cleaning.run(&log);
        let later = Cleaning { now_ms: NOW + DELETE_RETENTION - 1, ..cleaning };
        prop_assert_eq!(&later.run(&once).0, &once, "before the horizon");
        let clean = Cleaning { first_dirty: later.upper_bound, ..later };
        prop_assert_eq!(&clean.run(&once).0, &once, "with an empty map");
        let (gone, _) = Cleaning { now_ms: NOW + DELETE_RETENTION, ..clean }.run(&once);
        let values: Vec<_> = all_records(&once).into_iter().filter(|r| r.2.is_some()).collect();
        prop_assert_eq!(all_records(&gone), values, "tombstones go at their horizon");
        assert_kin(&once, &gone);
        prop_assert_eq!(last_records(&gone), last_records(&log));
    }

    #[test]
    fn garbage_is_refused_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200), count in -2..5_i32, bits in 0..5_i16, delta in 0..5_i32) {
        let mut bytes = build(&vec![(0, None, vec![(1, Some(3))])])[0][..HEADER_LEN].to_vec();
        bytes[22] = bits as u8;
        bytes[23..27].copy_from_slice(&delta.to_be_bytes());
        bytes.extend_from_slice(&body);
        let bytes = seal(bytes, count);
        let cleaning = Cleaning::of(&[]);
        let mut map = OffsetMap::new(100, 0.9, 3, (1, 1));
        if let Ok(mut reader) = KeyReader::new(&header(&bytes), &bytes, 0) {
            while reader.step(&mut map) == Ok(KeyStep::More) {}
        }
        let retention = Retention {
            map: &map, mapped_end: 3, upper_bound: 9, now_ms: 0, delete_retention_ms: 0, last_records: &cleaning.last_records,
        };
        if let Ok(mut cleaner) = BatchCleaner::new(&header(&bytes), &bytes, &retention, false) {
            while let Ok(Step::More) = cleaner.step() {}
        }
    }
}

#[test]
fn a_large_batch_takes_many_steps() {
    for codec in CODECS {
        let mut builder = BatchBuilder::default().compression(codec);
        for n in 0..300_u32 {
            let value: Vec<u8> = (0..2000_u32).map(|i| (n.wrapping_mul(31) ^ i.wrapping_mul(i)) as u8).collect();
            builder.push(5000, Some(&(n % 200).to_be_bytes()), Some(&value).filter(|_| n > 0).map(|v| &v[..]));
        }
        let bytes = builder.build(Offset(70), LeaderEpoch(0));
        let cleaning = Cleaning::of(std::slice::from_ref(&bytes));
        let (map, mapped_end) = cleaning.map(std::slice::from_ref(&bytes));
        assert_eq!(map.len(), 200);
        let retention = Retention {
            map: &map,
            mapped_end,
            upper_bound: 370,
            now_ms: NOW,
            delete_retention_ms: 0,
            last_records: &cleaning.last_records,
        };
        let mut cleaner = BatchCleaner::new(&header(&bytes), &bytes, &retention, false).expect("a good batch");
        let mut steps = 1;
        let new = loop {
            match cleaner.step().expect("good records") {
                Step::More => steps += 1,
                Step::Done(Cleaned::Rewritten(new), counts) => {
                    assert_eq!(counts, Counts { read: 300, kept: 200 });
                    break new;
                }
                other => panic!("{other:?}"),
            }
        };
        assert!(steps > 12, "{codec:?}: {steps} steps");
        assert_eq!(all_records(&[new]), expected(std::slice::from_ref(&bytes), 0, 370, NOW));
    }
}

#[test]
fn records_without_a_key_go() {
    let mut builder = BatchBuilder::default();
    builder.push(1, None, Some(b"v")).push(2, Some(b"k"), Some(b"v"));
    let log = vec![builder.build(Offset(0), LeaderEpoch(0)), build(&vec![(0, None, vec![(1, Some(1))])])[0].clone()];
    let (new, _) = Cleaning { upper_bound: 2, ..Cleaning::of(&log) }.run(&log[..1]);
    assert_eq!(all_records(&new), [(1, b"k".to_vec(), Some(b"v".to_vec()), 2)]);
}

#[test]
fn an_idle_marker_gets_a_horizon_and_goes() {
    let marker = BatchBuilder::default()
        .attributes(0x30)
        .producer(ProducerId(9), ProducerEpoch(2), -1)
        .push(7, Some(&[0, 0, 0, 1]), Some(b"\0\0\0\0\0\0"))
        .build(Offset(0), LeaderEpoch(0));
    let log = vec![marker];
    let cleaning = Cleaning { upper_bound: 50, ..Cleaning::of(&log) };
    let (once, _) = cleaning.run(&log);
    assert_eq!(header(&once[0]).delete_horizon_ms(), Some(NOW + DELETE_RETENTION));
    assert_eq!(records(&once[0])[0].3, 7, "its time is kept");
    let later = Cleaning { now_ms: NOW + DELETE_RETENTION, ..cleaning };
    assert!(later.run(&once).0.is_empty());
    let fenced = HashMap::from([(ProducerId(9), LastRecord::Marker(ProducerEpoch(2)))]);
    let (kept, _) = Cleaning { last_records: fenced, ..later }.run(&once);
    assert_eq!(kept.len(), 1, "its epoch fences");
    assert_eq!(header(&kept[0]).record_count, 0);
}

#[test]
fn log_append_time_stays() {
    let mut builder = BatchBuilder::default();
    builder.push(5, Some(b"a"), Some(b"1")).push(6, Some(b"a"), None);
    let mut bytes = builder.build(Offset(0), LeaderEpoch(0));
    batch::assign(&mut bytes, Offset(0), LeaderEpoch(0), Some(900));
    let log = vec![bytes];
    let (new, _) = Cleaning::of(&log).run(&log);
    let kept = header(&new[0]);
    assert!(kept.is_log_append_time());
    assert_eq!((kept.max_timestamp, kept.record_count), (900, 1));
    assert_eq!(all_records(&new), [(1, b"a".to_vec(), None, 900)]);
}
