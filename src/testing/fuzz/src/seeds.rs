//! Good input for every target, made by the code under test, so that a change of format needs no new files.

use bytes::Bytes;
use coreline::config::reference_markdown;
use coreline::controller::image::PartitionImage;
use coreline::controller::raft_log::{SnapshotFile, encode_group, encode_snapshot};
use coreline::controller::raft_wire::encode_message;
use coreline::controller::records::{ConfigResource, MetadataRecord, encode_records};
use coreline::ids::{BrokerId, LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use coreline::log::batch::{BatchBuilder, parse_header};
use coreline::log::index::{OffsetEntry, TimeEntry};
use coreline::log::journal::{Entry, FrameBuilder, Lap};
use coreline::log::leader_epochs::LeaderEpochs;
use coreline::log::partition_metadata;
use coreline::log::producer_state::ProducerStates;
use coreline::log::segment::{FileKind, file_name};
use coreline::log::txn_index::{AbortedTxn, encode};
use coreline::log::txn_marker::{EndTxnMarker, build_marker};
use coreline::protocol::api::Api;
use std::io::Write as _;
use uuid::Uuid;

/// A small generator of numbers (xorshift64*): the same ones on every run.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Requests of every API and version: small numbers are thrown until some decode, and the longest of those kept.
pub(crate) fn request_frames() -> Vec<Vec<u8>> {
    let mut dice = Dice(0x5eed);
    let mut frames = Vec::new();
    for api in Api::all() {
        for version in api.min..=api.max {
            let mut found: Vec<Vec<u8>> = (0..300)
                .map(|_| request(&mut dice, api, version))
                .filter(|frame| coreline::protocol::fuzz_request_frame(frame))
                .collect();
            found.sort_by_key(|frame| std::cmp::Reverse(frame.len()));
            frames.extend(found.into_iter().take(2));
        }
    }
    frames
}

fn request(dice: &mut Dice, api: &Api, version: i16) -> Vec<u8> {
    let mut frame = vec![0; 4];
    frame.extend((api.key as i16).to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 1, b'c']);
    if version >= api.flexible_from {
        frame.push(0);
    }
    for _ in 0..dice.below(60) {
        let byte = if dice.below(4) == 0 { dice.below(4) as u8 } else { 0 };
        frame.push(byte);
    }
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame
}

/// A body in each of the codecs, with the attributes that say so; Snappy bare and in Java's blocks.
fn compressed(body: &[u8]) -> Vec<(i16, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body).expect("a buffer takes everything");
    let mut lz4 = lz4::EncoderBuilder::new().build(Vec::new()).expect("an encoder");
    lz4.write_all(body).expect("a buffer takes everything");
    let (lz4, finished) = lz4.finish();
    finished.expect("an end");
    let snappy = snap::raw::Encoder::new().compress_vec(body).expect("a small body");
    let mut blocks = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
    blocks.extend((snappy.len() as u32).to_be_bytes());
    blocks.extend(&snappy);
    let zstd = zstd::bulk::compress(body, 0).expect("a small body");
    vec![(1, gzip.finish().expect("an end")), (2, snappy), (2, blocks), (3, lz4), (4, zstd)]
}

fn plain(base: i64, records: i64) -> Vec<u8> {
    let mut builder = BatchBuilder::default();
    for n in 0..records {
        builder.push(1_699_999_999_000 + n, Some(b"key"), (n != 1).then_some(b"value".as_slice()));
    }
    builder.build(Offset(base), LeaderEpoch(0))
}

fn idempotent(base: i64, sequence: i32) -> Vec<u8> {
    let mut builder = BatchBuilder::default().producer(ProducerId(7), ProducerEpoch(1), sequence);
    builder.push(1_699_999_999_000, None, Some(b"value"));
    builder.build(Offset(base), LeaderEpoch(1))
}

/// The batch `original` with another body and attributes.
fn with_body(original: &[u8], attributes: i16, body: &[u8]) -> Vec<u8> {
    let mut batch = original[..61].to_vec();
    batch.extend(body);
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    let length = u32::try_from(batch.len() - 12).expect("a seed is small");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}

pub(crate) fn batches() -> Vec<Vec<u8>> {
    let three = plain(0, 3);
    let mut all = vec![three.clone(), plain(100, 1), idempotent(5, 0)];
    all.extend(compressed(&three[61..]).iter().map(|(attributes, body)| with_body(&three, *attributes, body)));
    all.push(with_body(&three, 0x10, &three[61..]));
    all.push(with_body(&three, 0x20, &three[61..]));
    all.push([three, plain(3, 2)].concat());
    all
}

fn partition(n: u128) -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(n)), index: PartitionIndex(n as i32) }
}

pub(crate) fn journal_frames() -> Vec<Vec<u8>> {
    let batches = Entry::Batches { partition: partition(1), base_offset: Offset(7), bytes: plain(7, 2).into() };
    let others = [
        Entry::Truncate { partition: partition(2), to: Offset(3) },
        Entry::LogStart { partition: partition(3), start: Offset(9) },
        Entry::HighWatermark { partition: partition(4), offset: Offset(10) },
        Entry::Flushed { partition: partition(5), to: Offset(11), mark: None },
        Entry::Deleted { partition: partition(6) },
        Entry::LiveFrom { lap: Lap(77) },
    ];
    [vec![batches.clone()], others.to_vec(), std::iter::once(batches).chain(others).collect()]
        .iter()
        .map(|entries| {
            let mut builder = FrameBuilder::default();
            entries.iter().for_each(|e| builder.push(e));
            let unpadded = 32 + builder.bytes();
            let mut frame = builder.finish(Lap::default().next(0xabcd), 3).bytes.to_vec();
            frame.truncate(unpadded);
            frame
        })
        .collect()
}

pub(crate) fn segments() -> Vec<Vec<u8>> {
    let whole = [plain(0, 3), idempotent(3, 0), idempotent(4, 1), plain(9, 1)].concat();
    let mut torn = whole.clone();
    torn.truncate(whole.len() - 5);
    let name = file_name(42, FileKind::TimeIndex).into_bytes();
    vec![[whole.clone(), vec![0; 70]].concat(), whole, torn, name]
}

pub(crate) fn indexes() -> Vec<Vec<u8>> {
    let (mut offsets, mut times) = (104i64.to_be_bytes().to_vec(), 2000i64.to_be_bytes().to_vec());
    for (n, (offset, position)) in [(4, 4096), (10, 8200), (100, 12_400)].into_iter().enumerate() {
        offsets.extend(OffsetEntry { offset, position }.encode(0).expect("near"));
        times.extend(TimeEntry { timestamp: 1000 * (n as i64 + 1), offset }.encode(0).expect("near"));
    }
    vec![[offsets.clone(), vec![0; 16]].concat(), offsets, times]
}

pub(crate) fn txn_indexes() -> Vec<Vec<u8>> {
    let entry = |producer, first, last, stable| AbortedTxn {
        producer_id: ProducerId(producer),
        first_offset: Offset(first),
        last_offset: Offset(last),
        last_stable_offset: Offset(stable),
    };
    let index = encode(&[entry(1, 0, 10, 5), entry(2, 5, 12, 13), entry(3, 20, 30, 31)]);
    let marker = EndTxnMarker { commit: false, coordinator_epoch: 3 };
    let producer = (ProducerId(4), ProducerEpoch(1));
    let marker = build_marker(producer, marker, Offset(9), LeaderEpoch(0), 1_700_000_000_000);
    let notes = b"1\n3\n0\n3 2 1234567890\n40 x 1\n".to_vec();
    let (whole, torn) =
        ([3_i64.to_be_bytes().to_vec(), index.clone()].concat(), [vec![0; 8], index[..70].to_vec()].concat());
    vec![whole, torn, marker, notes]
}

pub(crate) fn checkpoints() -> Vec<Vec<u8>> {
    let mut states = ProducerStates::default();
    for sequence in 0..3 {
        states.update(&parse_header(&idempotent(i64::from(sequence), sequence)).expect("well formed"));
    }
    let mut epochs = LeaderEpochs::default();
    for (epoch, start) in [(0, 0), (2, 10), (5, 30)] {
        epochs.note(LeaderEpoch(epoch), Offset(start));
    }
    let id = TopicId(Uuid::from_u128(0x1234_5678_9abc));
    vec![
        ProducerStates::default().encode_snapshot(),
        states.encode_snapshot(),
        epochs.encode().into_bytes(),
        partition_metadata::encode(id).into_bytes(),
    ]
}

fn records() -> Vec<MetadataRecord> {
    let topic = TopicId(Uuid::from_u128(9));
    let placed = PartitionImage {
        leader: BrokerId(1),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        shard: 1,
        replicas: vec![BrokerId(1)],
        isr: vec![BrokerId(1)],
    };
    let setting = |resource, value: Option<&str>| MetadataRecord::ConfigChanged {
        resource,
        name: "segment.bytes".into(),
        value: value.map(Into::into),
    };
    vec![
        MetadataRecord::ClusterFormatted { cluster_id: partition_metadata::encode_id(topic) },
        MetadataRecord::BrokerRegistered { id: BrokerId(1), host: "h".into(), port: 9092, rack: None, epoch: 1 },
        MetadataRecord::ShardsChanged { shards: 2 },
        MetadataRecord::TopicCreated { id: topic, name: "t".into() },
        MetadataRecord::PartitionsCreated { topic, first: PartitionIndex(0), partitions: vec![placed] },
        MetadataRecord::PartitionPlaced { topic, index: PartitionIndex(0), shard: 0 },
        setting(ConfigResource::Topic(topic), Some("1000000")),
        setting(ConfigResource::Broker(None), None),
        MetadataRecord::ProducerIdsAllocated { next: 1000 },
        MetadataRecord::TopicDeleted { id: topic },
    ]
}

pub(crate) fn metadata() -> Vec<Vec<u8>> {
    let records = records();
    let bytes = encode_records(&records);
    let mut entry = raft::eraftpb::Entry::default();
    (entry.term, entry.index, entry.data) = (1, 1, bytes.clone());
    let vote = raft::eraftpb::HardState { term: 1, vote: 1, commit: 1, ..Default::default() };
    let group = encode_group(1, std::slice::from_ref(&entry), Some(&vote));
    let mut message = raft::eraftpb::Message::default();
    message.entries.push(entry);
    let mut seeds: Vec<Bytes> = records.iter().map(|r| encode_records([r])).collect();
    let snapshot = SnapshotFile { index: 1, term: 1, voters: vec![1], records: bytes.clone() };
    // The payload of a group alone is what the target wraps.
    seeds.extend([encode_snapshot(&snapshot), group.slice(20..group.len().min(600)), group, encode_message(&message)]);
    seeds.push(bytes);
    seeds.iter().map(|b| b.to_vec()).collect()
}

pub(crate) fn properties() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        ["node.id=1\nlog.dirs=/tmp/x\n", "a\\u0041 : b\\\n  c\n! no\n# no\n", "segment.bytes=1048576\n"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec();
    // Every key with its default, from the reference page's table: | `key` | type | default | …
    for line in reference_markdown().lines() {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        if line.starts_with("| `") && cells.len() > 3 {
            seeds.push(format!("{}={}\n", cells[1], cells[3]).into_bytes());
        }
    }
    seeds
}

/// Records that Kafka's own serialiser made: each for itself, and all of them in a row.
pub(crate) fn group_records() -> Vec<Vec<u8>> {
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
    };
    let framed = |hex: &str| {
        let bytes = bytes(hex);
        let length = u16::try_from(bytes.len()).expect("a short record");
        [&length.to_be_bytes()[..], &bytes].concat()
    };
    let table = include_str!("../../../groups/testdata/records.txt").lines().filter(|line| !line.starts_with('#'));
    let mut seeds: Vec<Vec<u8>> = table
        .map(|line| {
            let columns: Vec<&str> = line.split(' ').collect();
            [framed(columns[2]), framed(columns[3])].concat()
        })
        .collect();
    seeds.push(seeds.concat());
    seeds
}

/// Keys and values by themselves, of the same table: `name version key value`, in hexadecimal digits.
pub(crate) fn group_values() -> Vec<Vec<u8>> {
    let table = include_str!("../../../groups/testdata/records.txt");
    let fields = table.lines().filter(|line| !line.starts_with('#')).flat_map(|line| line.split(' ').skip(2));
    fields.map(from_hex).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks_exact(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}
