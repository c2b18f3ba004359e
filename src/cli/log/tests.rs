//! Dump and verify on files that Kafka 4.2 wrote, and on damage.

use super::verify::{Report, verify};
use super::{DumpArgs, dump, kind_of};
use crate::ids::{LeaderEpoch, Offset, PartitionId};
use crate::log::batch::BatchBuilder;
use crate::log::journal::{Entry, FrameBuilder, Lap};
use std::fs;
use std::path::Path;

const KAFKA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/log/testdata/kafka-4.2");
const KAFKA_TXN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/log/testdata/kafka-4.2-txn");
const LOG: &str = "00000000000000000000.log";
const ARGS: DumpArgs =
    DumpArgs { files: Vec::new(), deep_iteration: true, print_data_log: true, skip_record_metadata: false };

/// Text and problems.
fn dumped(path: &Path) -> (String, Vec<String>) {
    let (mut out, mut problems) = (Vec::new(), Vec::new());
    dump::file(path, &ARGS, &mut out, &mut problems).expect("the file can be read");
    (String::from_utf8(out).expect("text"), problems)
}

fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for entry in fs::read_dir(KAFKA).expect("the files").flatten() {
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("a copy");
    }
    dir
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("the file");
    change(&mut bytes);
    fs::write(path, bytes).expect("the file");
}

/// Damage and notes: file, byte.
fn findings(report: &Report) -> Vec<(bool, String, u64)> {
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    report.findings.iter().map(|f| (f.damage, name(&f.file), f.byte)).collect()
}

fn checked(dir: &Path) -> Report {
    verify(dir, 2, false).expect("a directory of a log")
}

/// `dump.txt` is the output of Kafka's own tool.
#[test]
fn a_dump_is_kafkas() {
    for dir in [KAFKA, KAFKA_TXN] {
        let expected = fs::read_to_string(Path::new(dir).join("dump.txt")).expect("the text");
        let mut ours = String::new();
        for line in expected.lines().filter_map(|l| l.strip_prefix("Dumping ")) {
            let (text, problems) = dumped(&Path::new(dir).join(line));
            assert_eq!(problems, [""; 0], "{line}");
            ours += &text.replace(&format!("{dir}/"), "");
        }
        assert_eq!(ours, expected);
    }
}

#[test]
fn an_aborted_transaction_needs_its_marker() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in [LOG, "00000000000000000000.txnindex"] {
        fs::copy(Path::new(KAFKA_TXN).join(name), dir.path().join(name)).expect("a copy");
    }
    // A segment after it: the first one does not grow any more.
    let mut builder = BatchBuilder::default();
    builder.push(5, None, Some(b"v"));
    fs::write(dir.path().join("00000000000000000020.log"), builder.build(Offset(20), LeaderEpoch(0))).expect("a file");
    let damage = |report: &Report| findings(report).into_iter().filter(|f| f.0).collect::<Vec<_>>();
    assert_eq!(damage(&checked(dir.path())), []);
    let index = dir.path().join("00000000000000000000.txnindex");
    // The marker of the second entry, an offset too early: a record is there.
    change(&index, |bytes| bytes[34 + 25] = 8 + 4);
    assert_eq!(damage(&checked(dir.path())), [(true, "00000000000000000000.txnindex".to_owned(), 34)]);
}

#[test]
fn headers_and_keys_are_shown() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut builder = BatchBuilder::default();
    builder.push(5, Some(b"k"), None);
    let mut batch = builder.build(Offset(7), LeaderEpoch(3));
    // The record again, with a header `h: v`: its length, then the count and the header in place of a zero.
    batch.truncate(batch.len() - 1);
    batch.extend([2, 2, b'h', 2, b'v']);
    batch[61] += 8;
    let length = batch.len() as u32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    let path = dir.path().join("00000000000000000007.log");
    fs::write(&path, &batch).expect("the file");
    let (text, problems) = dumped(&path);
    assert_eq!(problems, [""; 0]);
    let record = "| offset: 7 CreateTime: 5 keySize: 1 valueSize: -1 sequence: -1 headerKeys: [h] key: k\n";
    assert!(text.ends_with(record), "{text}");
}

#[test]
fn a_journal_is_shown_up_to_the_end_of_its_lap() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("000000.journal");
    let mut builder = BatchBuilder::default();
    builder.push(5, None, Some(b"v"));
    let bytes = builder.build(Offset(7), LeaderEpoch(3)).into();
    let frame = |entry: &Entry, lap, sequence| {
        let mut builder = FrameBuilder::default();
        builder.push(entry);
        builder.finish(lap, sequence).bytes.to_vec()
    };
    let (old, new) = (Lap::default().next(1), Lap::default().next(1).next(2));
    let batches = Entry::Batches { partition: PartitionId::default(), base_offset: Offset(7), bytes };
    let file =
        [frame(&Entry::LiveFrom { lap: new }, new, 0), frame(&batches, new, 1), frame(&batches, old, 2)].concat();
    fs::write(&path, &file).expect("the file");
    let (text, problems) = dumped(&path);
    assert_eq!(problems, [""; 0]);
    assert!(text.contains("lap: 2:00000002 sequence: 1 position: 4096"), "{text}");
    assert!(text.contains("| offset: 7 CreateTime: 5 keySize: -1 valueSize: 1"), "{text}");
    assert!(text.ends_with(
        "at byte 8192 of 12288: 2 frames; a frame of lap 1:00000001 follows, from an earlier use of the file\n"
    ));
    assert!(checked(dir.path()).is_whole());
    // The frame in the middle is damaged, the one behind it is not.
    let third = [frame(&batches, new, 0), frame(&batches, new, 1), frame(&batches, new, 2)].concat();
    fs::write(&path, &third).expect("the file");
    change(&path, |b| b[4096 + 70] ^= 1);
    assert_eq!(findings(&checked(dir.path())), [(true, "000000.journal".to_owned(), 4096)]);
}

#[test]
fn kafkas_files_are_whole() {
    let report = checked(Path::new(KAFKA));
    assert_eq!(findings(&report), []);
    assert_eq!((report.records, report.files), (30, 5));
}

#[test]
fn damage_is_named_to_the_byte() {
    let dir = copied();
    let in_log = |byte| [(true, LOG.to_owned(), byte)];
    let log = dir.path().join(LOG);
    // The fourth batch begins at byte 387; an index entry points at it.
    change(&log, |b| b[387 + 70] ^= 1);
    assert_eq!(findings(&checked(dir.path())), in_log(387));
    change(&log, |b| b[387 + 70] ^= 1);
    change(&log, |b| b[387 + 8] = 0xff);
    let report = checked(dir.path());
    assert!(findings(&report).iter().all(|f| *f == in_log(387)[0]) && !report.is_whole());
    assert!(report.findings[1].what.contains("whole at byte 516"), "{:?}", report.findings);
}

#[test]
fn a_torn_end_is_no_damage_unless_more_follows_or_the_node_ended_well() {
    let dir = copied();
    let log = dir.path().join(LOG);
    change(&log, |b| b.truncate(3300));
    assert_eq!(findings(&checked(dir.path())), [(false, LOG.to_owned(), 3234)]);
    change(&log, |b| b.resize(8192, 0));
    assert_eq!(findings(&checked(dir.path())), [(false, LOG.to_owned(), 3234)], "zeros within the last batch");
    // Another segment behind it: the end is no longer an end.
    fs::copy(Path::new(KAFKA).join(LOG), dir.path().join("00000000000000000040.log")).expect("a copy");
    assert!(findings(&checked(dir.path())).contains(&(true, LOG.to_owned(), 3234)));
    // The mark of an orderly end.
    let node = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(node.path().join("journal/shard-0000")).expect("a directory");
    fs::create_dir_all(node.path().join("t-0")).expect("a directory");
    fs::write(node.path().join("journal/shard-0000/clean"), "1\n").expect("a file");
    fs::copy(Path::new(KAFKA).join(LOG), node.path().join("t-0").join(LOG)).expect("a copy");
    assert!(checked(node.path()).is_whole());
    change(&node.path().join("t-0").join(LOG), |b| b.truncate(3300));
    assert_eq!(findings(&checked(node.path())), [(true, LOG.to_owned(), 3234)]);
}

#[test]
fn padding_is_no_damage_in_the_last_segment() {
    let dir = copied();
    for name in [LOG, "00000000000000000000.index", "00000000000000000000.timeindex"] {
        change(&dir.path().join(name), |b| b.resize(b.len().next_multiple_of(4096), 0));
    }
    assert_eq!(findings(&checked(dir.path())), []);
    assert!(dumped(&dir.path().join(LOG)).0.ends_with("Found 733 bytes of padding at byte 3363\n"));
}

#[test]
fn the_other_files_are_checked() {
    type Break = fn(&mut Vec<u8>);
    let table: [(&str, u64, bool, Break); 5] = [
        ("00000000000000000000.index", 8, true, |b| b[15] -= 1),
        ("00000000000000000000.timeindex", 12, true, |b| b[19] += 1),
        ("00000000000000000030.snapshot", 0, false, |b| b[40] ^= 1),
        ("leader-epoch-checkpoint", 0, true, |b| b[0] = b'7'),
        ("partition.metadata", 0, true, |b| b.truncate(20)),
    ];
    for (name, byte, damage, broken) in table {
        let dir = copied();
        change(&dir.path().join(name), broken);
        let found = findings(&checked(dir.path()));
        assert_eq!(found, [(damage, name.to_owned(), byte)], "{name}");
    }
    assert_eq!(kind_of(Path::new("a/log-0.txt")), None);
    assert!(verify(tempfile::tempdir().expect("a directory").path(), 1, false).is_err(), "nothing to verify");
}
