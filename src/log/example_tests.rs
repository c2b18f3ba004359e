//! The worked example of `src/docs/log.md`, made by the code that writes the files: the page holds exactly these bytes.

use super::batch::{BatchBuilder, parse_header};
use super::index::{OffsetEntry, TimeEntry};
use super::journal::{Entry, FRAME_HEADER_LEN, FrameBuilder, Lap, decode_frame};
use super::leader_epochs::LeaderEpochs;
use super::partition_metadata;
use super::producer_state::ProducerStates;
use super::segment::{self, FileKind};
use crate::ids::{LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use std::fmt::Write as _;
use uuid::Uuid;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/log.md");
const PARTITION: PartitionId = PartitionId {
    topic: TopicId(Uuid::from_u128(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f)),
    index: PartitionIndex(3),
};

fn batch() -> Vec<u8> {
    let mut builder = BatchBuilder::default().producer(ProducerId(1000), ProducerEpoch(0), 7);
    builder.push(1_700_000_000_000, Some(b"k"), Some(b"hello"));
    builder.push(1_700_000_000_005, Some(b"k"), None);
    builder.build(Offset(42), LeaderEpoch(6))
}

fn frame() -> Vec<u8> {
    let mut builder = FrameBuilder::default();
    builder.push(&Entry::Batches { partition: PARTITION, base_offset: Offset(42), bytes: batch().into() });
    builder.push(&Entry::LogStart { partition: PARTITION, start: Offset(12) });
    builder.push(&Entry::LiveFrom { lap: Lap((6 << 32) | 0x1b2c_3d4e) });
    builder.finish(Lap((6 << 32) | 0x1b2c_3d4e).next(0x5e6f_7081), 0).bytes.to_vec()
}

/// Lines of `position  bytes  meaning`; the fields must add up to all of `bytes`.
fn fields(bytes: &[u8], fields: &[(usize, &str)]) -> String {
    let (mut out, mut at) = (String::new(), 0);
    for (len, meaning) in fields {
        let piece = &bytes[at..at + len];
        for (n, line) in piece.chunks(16).enumerate() {
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            let meaning = if n == 0 { meaning } else { "" };
            let _ = writeln!(out, "{}", format!("{:>4}  {:<47}  {meaning}", at + 16 * n, hex.join(" ")).trim_end());
        }
        at += len;
    }
    assert_eq!(at, bytes.len(), "the fields do not add up");
    out
}

const BATCH_FIELDS: [(usize, &str); 15] = [
    (8, "base offset 42"),
    (4, "bytes that follow: 70"),
    (4, "partition leader epoch 6"),
    (1, "magic 2"),
    (4, "CRC-32C of everything from the attributes on"),
    (2, "attributes: no compression, CreateTime, no transaction"),
    (4, "last offset delta 1: the offsets are 42 and 43"),
    (8, "base timestamp 1700000000000"),
    (8, "max timestamp 1700000000005"),
    (8, "producer id 1000"),
    (2, "producer epoch 0"),
    (4, "base sequence 7: the sequences are 7 and 8"),
    (4, "records 2"),
    (13, "record: length 12, attributes 0, time +0, offset +0, key 1 \"k\", value 5 \"hello\", headers 0"),
    (8, "record: length 7, attributes 0, time +5, offset +1, key 1 \"k\", value -1 (a tombstone), headers 0"),
];

/// Name and text of every block of the page.
fn examples() -> Vec<(&'static str, String)> {
    let batch = batch();
    let index = OffsetEntry { offset: 141, position: 8200 }.encode(42).expect("near");
    let time = TimeEntry { timestamp: 1_700_000_000_005, offset: 43 }.encode(42).expect("near");
    let frame = frame();
    let used = FRAME_HEADER_LEN + 36 + (36 + batch.len()) + 36;
    assert!(frame.len() == 4096 && frame[used..].iter().all(|b| *b == 0), "the rest is padding");
    let frame_fields = [
        (4, "magic \"CLJ1\""),
        (4, "CRC-32C of bytes 8 to 221"),
        (8, "lap: the 7th of this shard, salt 5e6f7081"),
        (8, "sequence: the first frame of the lap"),
        (4, "bytes of entries: 190"),
        (4, "entries: 3"),
        (8, "entry of kind 1, Batches; 82 bytes of data"),
        (16, "topic id"),
        (4, "partition 3"),
        (8, "base offset 42"),
        (82, "the batch above, byte by byte"),
        (8, "entry of kind 3, LogStart; no data"),
        (16, "topic id"),
        (4, "partition 3"),
        (8, "the log begins at offset 12"),
        (8, "entry of kind 7, LiveFrom; no data"),
        (20, "no partition"),
        (8, "laps before this one do not count: the 6th, salt 1b2c3d4e"),
    ];
    let mut states = ProducerStates::default();
    states.update(&parse_header(&batch).expect("well formed"));
    let snapshot_fields = [
        (2, "version 1"),
        (4, "CRC-32C of everything after it"),
        (4, "entries: 1"),
        (8, "producer id 1000"),
        (2, "producer epoch 0"),
        (4, "last sequence 8"),
        (8, "last offset 43"),
        (4, "offset delta 1: the batch began at 42"),
        (8, "timestamp 1700000000005"),
        (4, "coordinator epoch: none"),
        (8, "first offset of an open transaction: none"),
    ];
    let mut epochs = LeaderEpochs::default();
    epochs.note(LeaderEpoch(0), Offset(0));
    epochs.note(LeaderEpoch(6), Offset(42));
    vec![
        ("batch", fields(&batch, &BATCH_FIELDS)),
        ("index", fields(&index, &[(4, "offset 141, relative to 42"), (4, "position 8200")])),
        ("timeindex", fields(&time, &[(8, "timestamp 1700000000005"), (4, "offset 43, relative to 42")])),
        ("frame", fields(&frame[..used], &frame_fields)),
        ("snapshot", fields(&states.encode_snapshot(), &snapshot_fields)),
        ("leader-epoch-checkpoint", epochs.encode()),
        ("partition.metadata", partition_metadata::encode(PARTITION.topic) + "\n"),
    ]
}

/// The page with `text` in the block that follows the mark `name`.
fn with_block(page: &str, name: &str, text: &str) -> String {
    let mark = format!("<!-- example: {name} -->\n```text\n");
    let start = page.find(&mark).unwrap_or_else(|| panic!("{PAGE} has no example {name}")) + mark.len();
    let end = start + page[start..].find("```").expect("the end of a block");
    format!("{}{text}{}", &page[..start], &page[end..])
}

#[test]
fn the_worked_example_is_what_the_code_writes() {
    let committed = std::fs::read_to_string(PAGE).expect("the page");
    let mut page = committed.clone();
    for (name, text) in examples() {
        page = with_block(&page, name, &text);
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(PAGE, &page).expect("the page is writable");
        return;
    }
    assert!(page == committed, "{PAGE} is stale: UPDATE_DOCS=1 cargo test worked_example");
}

#[test]
fn the_worked_example_is_read_back() {
    let frame = bytes::Bytes::from(frame());
    let (header, entries) = decode_frame(&frame).expect("a whole frame");
    assert_eq!((header.lap.0 >> 32, header.sequence, entries.len()), (7, 0, 3));
    let Entry::Batches { bytes, .. } = &entries[0] else { panic!("the first entry holds batches") };
    assert_eq!(bytes[..], batch());
    let (valid, _) = segment::scan(bytes, 42, |_, _| std::ops::ControlFlow::Continue(()));
    assert_eq!(valid, bytes.len());
    assert_eq!(segment::file_name(42, FileKind::Log), "00000000000000000042.log");
}
