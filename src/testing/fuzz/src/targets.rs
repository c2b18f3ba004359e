//! What is fuzzed: each target takes any bytes and must come back; what decodes must survive being encoded again.
//!
//! Checksums are put right before a second try, or nothing behind them would ever be reached.

use crate::seeds;
use bytes::Bytes;
use coreline::config::{BrokerConfig, parse_override, parse_properties, validate_topic};
use coreline::controller::ClusterImage;
use coreline::controller::raft_log::{SnapshotFile, decode_snapshot, encode_snapshot, group_after, replay};
use coreline::controller::raft_wire::{decode_message, encode_message};
use coreline::controller::records::{decode_records, encode_records};
use coreline::groups::records::{GroupMetadataValue, Key, OffsetCommitValue};
use coreline::groups::records_consumer::{
    ConsumerGroupCurrentMemberAssignmentValue, ConsumerGroupMemberMetadataValue, ConsumerGroupMetadataValue,
    ConsumerGroupRegularExpressionValue, ConsumerGroupTargetAssignmentMemberValue,
    ConsumerGroupTargetAssignmentMetadataValue,
};
use coreline::groups::{Coordinator, Effects, Event, Now, Topic, Topics};
use coreline::ids::{LeaderEpoch, Offset, TopicId};
use coreline::log::batch::{self, ValidationRules};
use coreline::log::compaction::{
    BatchCleaner, Cleaned, ENTRY_BYTES, KeyReader, KeyStep, LastRecord, OffsetMap, Retention, Step, Transactions,
};
use coreline::log::index::{OffsetEntry, TimeEntry, valid_offset_index, valid_time_index};
use coreline::log::journal::{self, FrameBuilder, decode_frame};
use coreline::log::leader_epochs::LeaderEpochs;
use coreline::log::log_config::TimestampType;
use coreline::log::producer_state::ProducerStates;
use coreline::log::{partition_metadata, segment, txn_index, txn_marker};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// One thing that reads bytes from outside.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Its name for scripts/fuzz.
    pub(crate) name: &'static str,
    /// Runs it; a panic is a finding.
    pub(crate) run: fn(&[u8]),
    /// Good input, for a start.
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "request_frame", run: request_frame, seeds: seeds::request_frames },
    Target { name: "record_batch", run: record_batch, seeds: seeds::batches },
    Target { name: "journal", run: journal_frame, seeds: seeds::journal_frames },
    Target { name: "segment", run: log_segment, seeds: seeds::segments },
    Target { name: "index", run: indexes, seeds: seeds::indexes },
    Target { name: "checkpoints", run: checkpoints, seeds: seeds::checkpoints },
    Target { name: "metadata", run: metadata, seeds: seeds::metadata },
    Target { name: "properties", run: properties, seeds: seeds::properties },
    Target { name: "txn_index", run: transaction_index, seeds: seeds::txn_indexes },
    Target { name: "compaction", run: compaction, seeds: seeds::batches },
    Target { name: "group_records", run: group_records, seeds: seeds::group_records },
    Target { name: "group_values", run: group_values, seeds: seeds::group_values },
];

/// A frame as a connection reads it: size, header, body; every API and version.
fn request_frame(data: &[u8]) {
    coreline::protocol::fuzz_request_frame(data);
}

const RULES: ValidationRules = ValidationRules {
    max_bytes: 1 << 20,
    timestamp_type: TimestampType::CreateTime,
    before_max_ms: i64::MAX,
    after_max_ms: 3_600_000,
    now_ms: 1_700_000_000_000,
};

/// A record batch as a producer sends it.
fn record_batch(data: &[u8]) {
    one_batch(data);
    if data.len() >= batch::HEADER_LEN {
        let mut whole = data.to_vec();
        let length = u32::try_from(whole.len() - batch::LENGTH_END).expect("an input is small");
        whole[8..12].copy_from_slice(&length.to_be_bytes());
        whole[16] = 2;
        seal_batch(&mut whole);
        one_batch(&whole);
    }
}

fn one_batch(bytes: &[u8]) {
    for found in batch::batches(bytes) {
        let Ok((header, range)) = found else { break };
        let times = batch::record_times(&header, &bytes[range.clone()]);
        if let Ok(times) = times {
            assert!(times.len() <= usize::try_from(header.record_count).unwrap_or(0));
        }
        let _ = batch::records(&header, &bytes[range]).count();
        let mut states = ProducerStates::default();
        let before = states.clone();
        let _ = states.check(&header);
        if let Some(undo) = states.update(&header) {
            states.undo(undo);
        }
        assert_eq!(states, before);
    }
    let Ok(header) = batch::validate(bytes, &RULES) else { return };
    let mut stamped = bytes[..header.size_in_bytes()].to_vec();
    batch::assign(&mut stamped, Offset(77), LeaderEpoch(3), Some(5));
    let again = batch::parse_header(&stamped).expect("a stamped batch has a header");
    assert_eq!((again.base_offset, again.max_timestamp), (Offset(77), 5));
    batch::check_crc(&again, &stamped).expect("a stamped batch has its checksum");
}

/// Puts the checksum of a batch right.
fn seal_batch(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// A frame of the journal.
fn journal_frame(data: &[u8]) {
    let _ = decode_frame(&Bytes::copy_from_slice(data));
    // Magic, CRC of all that follows it, lap, sequence, length, entries.
    if data.len() < journal::FRAME_HEADER_LEN {
        return;
    }
    let mut frame = data.to_vec();
    frame[..4].copy_from_slice(&journal::MAGIC.to_be_bytes());
    let length = u32::try_from(frame.len() - journal::FRAME_HEADER_LEN).expect("an input is small");
    frame[24..28].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_be_bytes());
    let Some((header, entries)) = decode_frame(&frame.into()) else { return };
    let mut builder = FrameBuilder::default();
    entries.iter().for_each(|e| builder.push(e));
    let again = builder.finish(header.lap, header.sequence).bytes;
    let (_, decoded) = decode_frame(&again).expect("a frame that was just encoded");
    assert!(decoded.iter().zip(&entries).all(|(a, b)| a == b || matches!(a, journal::Entry::Deleted { .. })));
    assert_eq!(decoded.len(), entries.len());
}

/// A segment as recovery reads it, the checksums of its first batches put right.
fn log_segment(data: &[u8]) {
    let mut bytes = data.to_vec();
    let mut at = 0;
    while let Some(length) = bytes.get(at + 8..at + batch::LENGTH_END) {
        let length = u32::from_be_bytes(length.try_into().expect("4 bytes")) as usize;
        let end = length.checked_add(at + batch::LENGTH_END);
        let Some(end) = end.filter(|e| *e <= bytes.len() && *e >= at + batch::HEADER_LEN) else { break };
        seal_batch(&mut bytes[at..end]);
        at = end;
    }
    for input in [data, &bytes] {
        let mut ends = 0;
        let (valid, _) = segment::scan(input, 0, |header, position| {
            assert_eq!(position, ends);
            ends += header.size_in_bytes();
            ControlFlow::Continue(())
        });
        assert_eq!(valid, ends);
        assert!(valid <= input.len());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some((base, kind)) = segment::parse_file_name(text)
    {
        assert_eq!(segment::file_name(base, kind), text);
    }
}

/// Offset and time indexes as they lie on the disk.
fn indexes(data: &[u8]) {
    let Some((head, index)) = data.split_first_chunk::<8>() else { return };
    let wanted = i64::from_be_bytes(*head);
    for base in [0, 1 << 40] {
        let valid = valid_offset_index(index, base, u64::from(u32::MAX));
        assert!(valid <= index.len());
        let _ = OffsetEntry::lookup(&index[..valid], base, wanted);
        let _ = OffsetEntry::lookup(index, base, wanted);
        for n in 0..valid / 8 {
            let entry = OffsetEntry::get(index, base, n).expect("a valid entry");
            assert_eq!(entry.encode(base).as_ref().map(<[u8; 8]>::as_slice), index.get(n * 8..n * 8 + 8));
            assert_eq!(OffsetEntry::lookup(&index[..valid], base, entry.offset), entry.position);
        }
        let valid = valid_time_index(index, base);
        assert!(valid <= index.len());
        let _ = TimeEntry::before(&index[..valid], base, wanted);
        let _ = TimeEntry::get(index, base, head[0] as usize);
    }
}

/// A transaction index and a marker.
fn transaction_index(data: &[u8]) {
    let notes = txn_index::decode_notes(&String::from_utf8_lossy(data));
    assert_eq!(txn_index::decode_notes(&txn_index::encode_notes(&notes)), notes);
    let Some((head, index)) = data.split_first_chunk::<8>() else { return };
    assert!(
        notes.values().flatten().all(|note| !note.fits(index) || note.entries() * txn_index::ENTRY_LEN <= index.len())
    );
    let base = i64::from_be_bytes(*head) & 0xff;
    let (entries, whole) = txn_index::decode(index, Offset(base));
    let bytes = txn_index::encode(&entries);
    assert_eq!(bytes[..], index[..bytes.len()]);
    assert!(!whole || bytes.len() == index.len());
    for (from, to) in [(0, i64::MAX), (base, base + 10), (i64::from(head[0]), i64::from(head[1]))] {
        let (mut found, mut again) = (Vec::new(), Vec::new());
        let complete = txn_index::collect(&entries[..], Offset(from), Offset(to), &mut found);
        assert_eq!(txn_index::collect(&txn_index::Entries(&bytes), Offset(from), Offset(to), &mut again), complete);
        assert_eq!(found, again);
        assert!(found.iter().all(|txn| txn.last_offset.0 >= from && txn.first_offset.0 < to));
        // Bytes that were never found whole.
        txn_index::collect(&txn_index::Entries(index), Offset(from), Offset(to), &mut again);
    }
    for found in batch::batches(data) {
        let Ok((header, range)) = found else { break };
        let mut states = ProducerStates::default();
        let noted = states.note(&header, &data[range.clone()]);
        assert!(noted.aborted.is_none(), "nothing was open");
        if let Some(marker) = txn_marker::read_marker(&header, &data[range]) {
            let producer = (header.producer_id, header.producer_epoch);
            let built = txn_marker::build_marker(producer, marker, header.base_offset, LeaderEpoch(0), 5);
            let again = batch::parse_header(&built).expect("a header");
            assert_eq!(txn_marker::read_marker(&again, &built), Some(marker));
        }
    }
}

/// The small files beside segments: producer snapshot, leader epochs, `partition.metadata`.
fn checkpoints(data: &[u8]) {
    let mut sealed = data.to_vec();
    if sealed.len() >= 10 {
        let crc = crc32c::crc32c(&sealed[6..]);
        sealed[..2].copy_from_slice(&1i16.to_be_bytes());
        sealed[2..6].copy_from_slice(&crc.to_be_bytes());
    }
    for input in [data, &sealed] {
        if let Some(mut states) = ProducerStates::decode_snapshot(input) {
            let again = ProducerStates::decode_snapshot(&states.encode_snapshot()).expect("our own snapshot");
            // A batch's own time is not in the format: what is written once more must be the same.
            assert_eq!(again.encode_snapshot(), states.encode_snapshot());
            assert_eq!(again.len(), states.len());
            states.expire(0, 1);
        }
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(mut epochs) = LeaderEpochs::decode(text) {
        assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs.clone()));
        let _ = epochs.end_offset_for(LeaderEpoch(3), Offset(50));
        epochs.truncate_from_start(Offset(20));
        epochs.truncate_from_end(Offset(40));
        assert_eq!(LeaderEpochs::decode(&epochs.encode()), Some(epochs));
    }
    if let Some(id) = partition_metadata::decode(text) {
        assert_eq!(partition_metadata::decode(&partition_metadata::encode(id)), Some(id));
    }
}

/// The metadata log and its snapshot, Raft's messages, metadata records and the image that they make.
fn metadata(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    for input in [bytes.clone(), sealed_group(data)] {
        if let Ok(found) = replay(&input) {
            assert!(found.end as usize <= input.len().next_multiple_of(4096));
            let _ = group_after(&input, &found);
        }
    }
    let _ = decode_snapshot(bytes.clone());
    let snapshot = SnapshotFile { index: 3, term: 2, voters: vec![1], records: bytes.clone() };
    assert_eq!(decode_snapshot(encode_snapshot(&snapshot)), Ok(snapshot));
    if let Ok(message) = decode_message(bytes.clone()) {
        assert_eq!(decode_message(encode_message(&message)), Ok(message));
    }
    if let Ok(records) = decode_records(bytes) {
        assert_eq!(decode_records(encode_records(&records)).as_ref(), Ok(&records));
        let mut image = ClusterImage::default();
        records.iter().for_each(|r| image.apply(r));
        let again = ClusterImage::from_records(0, &image.to_records());
        assert_eq!(again.to_records(), image.to_records());
    }
}

/// The input taken for the payload of the log's first group.
fn sealed_group(payload: &[u8]) -> Bytes {
    let mut group = b"CLMG".to_vec();
    group.extend(1u64.to_be_bytes());
    group.extend(u32::try_from(payload.len()).expect("an input is small").to_be_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&group[4..16]), payload);
    group.extend(crc.to_be_bytes());
    group.extend(payload);
    group.into()
}

/// `server.properties`, `--override`, and the settings of a topic.
fn properties(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = parse_override(text);
    let Ok(settings) = parse_properties(text) else { return };
    let _ = validate_topic(&settings.iter().cloned().collect());
    let _ = BrokerConfig::from_settings(settings);
}

struct NoTopics;

impl Topics for NoTopics {
    fn by_name(&self, _name: &str) -> Option<Topic> {
        None
    }

    fn by_id(&self, _id: TopicId) -> Option<Topic> {
        None
    }

    fn names(&self) -> Vec<Arc<str>> {
        Vec::new()
    }

    fn epoch(&self) -> u64 {
        0
    }
}

/// A partition of `__consumer_offsets`: records of a length and a key, a length and a value (no value for `0xffff`). A
/// coordinator reads them, and then time passes.
fn group_records(data: &[u8]) {
    let mut coordinator = Coordinator::new(Default::default(), 1);
    let mut rest = data;
    while let Some(key) = take_part(&mut rest) {
        let value = take_part(&mut rest).flatten();
        if let Some(key) = key {
            let _ = coordinator.replay(key, value);
            if let Ok(Some(key)) = Key::decode(key) {
                assert_eq!(Key::decode(&key.encode()), Ok(Some(key)));
            }
        }
        value.into_iter().for_each(group_value);
    }
    let mut effects = Effects::default();
    let mut now = Now { monotonic_ms: 0, wall_ms: 1_700_000_000_000 };
    coordinator.loaded(now, &NoTopics, &mut effects);
    coordinator.step(now, &NoTopics, Event::TopicsChanged, &mut effects);
    for _ in 0..20 {
        now.monotonic_ms = coordinator.next_deadline().unwrap_or(i64::MAX / 2).max(now.monotonic_ms);
        coordinator.step(now, &NoTopics, Event::Tick, &mut effects);
    }
    // What it wrote is what it can read.
    for record in effects.records {
        coordinator.replay(&record.key, record.value.as_deref()).expect("a record of its own");
    }
}

/// None at the end; the inner none is no bytes at all.
fn take_part<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let (length, after) = rest.split_first_chunk()?;
    let length = u16::from_be_bytes(*length);
    if length == u16::MAX {
        *rest = after;
        return Some(None);
    }
    let (part, after) = after.split_at(after.len().min(usize::from(length)));
    *rest = after;
    Some(Some(part))
}

fn group_value(value: &[u8]) {
    if let Ok(decoded) = OffsetCommitValue::decode(value) {
        assert_eq!(OffsetCommitValue::decode(&decoded.encode()), Ok(decoded));
    }
    if let Ok(decoded) = GroupMetadataValue::decode(value) {
        assert_eq!(GroupMetadataValue::decode(&decoded.encode()), Ok(decoded));
    }
    if let Ok(decoded) = ConsumerGroupMemberMetadataValue::decode(value) {
        assert_eq!(ConsumerGroupMemberMetadataValue::decode(&decoded.encode()), Ok(decoded));
    }
    if let Ok(decoded) = ConsumerGroupCurrentMemberAssignmentValue::decode(value) {
        assert_eq!(ConsumerGroupCurrentMemberAssignmentValue::decode(&decoded.encode()), Ok(decoded));
    }
}

/// A batch of a compacted topic as the cleaner meets it: keys into a map too small for many, then the batch cleaned.
fn compaction(data: &[u8]) {
    if data.len() < batch::HEADER_LEN {
        return;
    }
    let mut whole = data.to_vec();
    let length = u32::try_from(whole.len() - batch::LENGTH_END).expect("an input is small");
    whole[8..12].copy_from_slice(&length.to_be_bytes());
    seal_batch(&mut whole);
    let Ok(header) = batch::parse_header(&whole) else { return };
    let mut map = OffsetMap::new(8 * ENTRY_BYTES, 0.9, 100, (1, 2));
    let Ok(mut keys) = KeyReader::new(&header, &whole, 0) else { return };
    let mapped_end = loop {
        match keys.step(&mut map) {
            Ok(KeyStep::More) => {}
            Ok(KeyStep::Done) => break i64::MAX,
            Ok(KeyStep::Full(offset)) => break offset,
            Err(_) => return,
        }
    };
    let may_go = Transactions::new([]).on_batch(&header, &whole);
    for now_ms in [0, i64::MAX / 2] {
        let last_records = HashMap::from([(header.producer_id, LastRecord::Data(header.last_offset().0))]);
        let (map, last_records) = (&map, &last_records);
        let retention = Retention { map, mapped_end, upper_bound: 0, now_ms, delete_retention_ms: 1000, last_records };
        let Ok(mut cleaner) = BatchCleaner::new(&header, &whole, &retention, may_go) else { return };
        loop {
            match cleaner.step() {
                Ok(Step::More) => {}
                Ok(Step::Done(Cleaned::Rewritten(rewritten), counts)) => {
                    still_a_batch(&header, &rewritten, counts.kept);
                    break;
                }
                Ok(Step::Done(..)) | Err(_) => break,
            }
        }
    }
}

fn still_a_batch(before: &batch::RecordBatchHeader, bytes: &[u8], kept: u64) {
    let header = batch::parse_header(bytes).expect("a rewritten batch has a header");
    batch::check_crc(&header, bytes).expect("a rewritten batch has its checksum");
    assert_eq!(header.size_in_bytes(), bytes.len());
    assert_eq!((header.base_offset, header.last_offset()), (before.base_offset, before.last_offset()));
    let times = batch::record_times(&header, bytes).expect("a rewritten batch has records");
    assert_eq!(times.len() as u64, kept);
}

/// Keys and values of `__consumer_offsets`: what was read can be written, and read again.
fn group_values(data: &[u8]) {
    if let Ok(Some(key)) = Key::decode(data) {
        assert_eq!(Key::decode(&key.encode()).ok(), Some(Some(key)));
    }
    macro_rules! values {
        ($($value:ty)*) => {
            $(if let Ok(value) = <$value>::decode(data) {
                assert!(<$value>::decode(&value.encode()).is_ok());
            })*
        };
    }
    values!(OffsetCommitValue GroupMetadataValue ConsumerGroupMetadataValue ConsumerGroupMemberMetadataValue
        ConsumerGroupTargetAssignmentMetadataValue ConsumerGroupTargetAssignmentMemberValue
        ConsumerGroupCurrentMemberAssignmentValue ConsumerGroupRegularExpressionValue);
}
