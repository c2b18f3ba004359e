//! The files that Kafka has, too, line by line as Kafka's dump-log prints them.

use super::read::{BatchReader, Next};
use super::{DumpArgs, Kind, dump_ours, kind_of};
use crate::ids::Offset;
use crate::log::batch::{self, Compression, Record, RecordBatchHeader};
use crate::log::compression::DECOMPRESSED_BYTES_MAX;
use crate::log::index::{OFFSET_ENTRY_LEN, OffsetEntry, TIME_ENTRY_LEN, TimeEntry};
use crate::log::producer_state::snapshot_entries;
use crate::log::segment::{FileKind, file_name};
use crate::log::txn_index;
use std::fs;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

/// Prints one file; what is wrong with it goes to `problems`.
pub(super) fn file(path: &Path, args: &DumpArgs, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    writeln!(out, "Dumping {}", path.display())?;
    match kind_of(path) {
        Some(Kind::Partition(base, FileKind::Log)) => segment(path, base, args, out, problems),
        Some(Kind::Partition(base, FileKind::OffsetIndex)) => offset_index(path, base, out, problems),
        Some(Kind::Partition(base, FileKind::TimeIndex)) => time_index(path, base, out),
        Some(Kind::Partition(base, FileKind::TxnIndex)) => aborted(path, base, out, problems),
        Some(Kind::Partition(_, FileKind::Snapshot)) => snapshot(path, out, problems),
        Some(other) => dump_ours::file(path, other, args, out, problems),
        None => {
            problems.push("not a file of the log, by its name".to_owned());
            Ok(())
        }
    }
}

fn segment(
    path: &Path,
    base: i64,
    args: &DumpArgs,
    out: &mut impl Write,
    problems: &mut Vec<String>,
) -> io::Result<()> {
    writeln!(out, "Log starting offset: {base}")?;
    let mut reader = BatchReader::open(path)?;
    loop {
        match reader.next()? {
            Next::Batch { header, position, bytes } => one_batch(&header, position, &bytes, args, out, problems)?,
            Next::End => return Ok(()),
            Next::Padding { position, bytes } => {
                writeln!(out, "Found {bytes} bytes of padding at byte {position}")?;
                return Ok(());
            }
            Next::Invalid { position, bytes, why } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                writeln!(out, "Found {bytes} invalid bytes at the end of {name}")?;
                problems.push(format!("byte {position}: {why}"));
                return Ok(());
            }
        }
    }
}

const fn timestamp_type(header: &RecordBatchHeader) -> &'static str {
    if header.is_log_append_time() { "LogAppendTime" } else { "CreateTime" }
}

const fn codec_name(codec: Compression) -> &'static str {
    match codec {
        Compression::None => "none",
        Compression::Gzip => "gzip",
        Compression::Snappy => "snappy",
        Compression::Lz4 => "lz4",
        Compression::Zstd => "zstd",
    }
}

/// A batch's line, and its records if they are asked for.
pub(super) fn one_batch(
    header: &RecordBatchHeader,
    position: u64,
    bytes: &[u8],
    args: &DumpArgs,
    out: &mut impl Write,
    problems: &mut Vec<String>,
) -> io::Result<()> {
    let valid = batch::check_crc(header, bytes);
    let horizon = match header.delete_horizon_ms() {
        None => "OptionalLong.empty".to_owned(),
        Some(time) => format!("OptionalLong[{time}]"),
    };
    writeln!(
        out,
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} \
         partitionLeaderEpoch: {} isTransactional: {} isControl: {} deleteHorizonMs: {horizon} position: {position} \
         {}: {} size: {} magic: 2 compresscodec: {} crc: {} isvalid: {}",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
        timestamp_type(header),
        header.max_timestamp,
        header.size_in_bytes(),
        header.compression().map_or_else(|e| e.to_string(), |c| codec_name(c).to_owned()),
        header.crc,
        valid.is_ok(),
    )?;
    if let Err(e) = valid {
        problems.push(format!("byte {position}: {e}"));
    }
    if !args.deep_iteration && !args.print_data_log {
        return Ok(());
    }
    let mut written = Ok(());
    let read = batch::for_each_record(header, bytes, DECOMPRESSED_BYTES_MAX, |record| {
        if written.is_ok() {
            written = one_record(header, record, args, out);
        }
    });
    if let Err(e) = read {
        problems.push(format!("batch at byte {position}: {e}"));
    }
    written
}

fn sequence_of(header: &RecordBatchHeader, record: &Record<'_>) -> i64 {
    if header.base_sequence < 0 {
        return -1;
    }
    let sequence = i64::from(header.base_sequence) + (record.offset.0.wrapping_sub(header.base_offset.0));
    if sequence > i64::from(i32::MAX) { sequence - i64::from(i32::MAX) - 1 } else { sequence }
}

fn one_record(
    header: &RecordBatchHeader,
    record: &Record<'_>,
    args: &DumpArgs,
    out: &mut impl Write,
) -> io::Result<()> {
    let size = |field: Option<&[u8]>| field.map_or(-1, |f| f.len() as i64);
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    let mut separator = "| ";
    if !args.skip_record_metadata {
        let keys = record.header_keys().unwrap_or_default();
        let keys: Vec<String> = keys.into_iter().map(text).collect();
        write!(
            out,
            "| offset: {} {}: {} keySize: {} valueSize: {} sequence: {} headerKeys: [{}]",
            record.offset,
            timestamp_type(header),
            record.timestamp,
            size(record.key),
            size(record.value),
            sequence_of(header, record),
            keys.join(","),
        )?;
        if header.is_control() {
            write!(out, " {}", marker(record))?;
        }
        separator = " ";
    }
    if args.print_data_log && !header.is_control() {
        if let Some(key) = record.key {
            write!(out, "{separator}key: {}", text(key))?;
        }
        if let Some(value) = record.value {
            write!(out, " payload: {}", text(value))?;
        }
    }
    writeln!(out)
}

/// Version and type are the key of a marker, version and coordinator's epoch its value.
fn marker(record: &Record<'_>) -> String {
    let short = |bytes: Option<&[u8]>, at: usize| {
        bytes.and_then(|b| b.get(at..at + 2)).and_then(|b| Some(i16::from_be_bytes(b.try_into().ok()?)))
    };
    let epoch = record.value.and_then(|b| Some(i32::from_be_bytes(b.get(2..6)?.try_into().ok()?)));
    match (short(record.key, 2), epoch) {
        (Some(0), Some(epoch)) => format!("endTxnMarker: ABORT coordinatorEpoch: {epoch}"),
        (Some(1), Some(epoch)) => format!("endTxnMarker: COMMIT coordinatorEpoch: {epoch}"),
        (other, _) => format!("controlType: UNKNOWN({})", other.unwrap_or(-1)),
    }
}

/// Offset of the last record of the batch at `position`.
fn last_offset_at(log: &mut fs::File, position: u64) -> io::Result<Option<i64>> {
    log.seek(io::SeekFrom::Start(position))?;
    let mut bytes = Vec::new();
    log.take(batch::HEADER_LEN as u64).read_to_end(&mut bytes)?;
    Ok(batch::parse_header(&bytes).ok().map(|h| h.last_offset().0))
}

fn offset_index(path: &Path, base: i64, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let index = fs::read(path)?;
    let mut log = fs::File::open(path.with_file_name(file_name(base, FileKind::Log)))?;
    if index.len() < OFFSET_ENTRY_LEN {
        return writeln!(out, "{} is empty.", path.display());
    }
    let mut n = 0;
    while let Some(entry) = OffsetEntry::get(&index, base, n) {
        // Padding.
        if entry.offset == base && n > 0 {
            break;
        }
        let found = last_offset_at(&mut log, u64::from(entry.position))?;
        if found != Some(entry.offset) {
            let there = found.map_or("no batch".to_owned(), |o| format!("log offset: {o}"));
            problems.push(format!("byte {}: Index offset: {}, {there}", n * OFFSET_ENTRY_LEN, entry.offset));
        }
        writeln!(out, "offset: {} position: {}", entry.offset, entry.position)?;
        n += 1;
    }
    Ok(())
}

fn time_index(path: &Path, base: i64, out: &mut impl Write) -> io::Result<()> {
    let index = fs::read(path)?;
    for n in 0..index.len() / TIME_ENTRY_LEN {
        let Some(entry) = TimeEntry::get(&index, base, n).filter(|e| n == 0 || e.offset != base) else { break };
        writeln!(out, "timestamp: {} offset: {}", entry.timestamp, entry.offset)?;
    }
    Ok(())
}

fn aborted(path: &Path, base: i64, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let (entries, whole) = txn_index::decode(&fs::read(path)?, Offset(base));
    for e in &entries {
        writeln!(
            out,
            "version: 0 producerId: {} firstOffset: {} lastOffset: {} lastStableOffset: {}",
            e.producer_id, e.first_offset, e.last_offset, e.last_stable_offset
        )?;
    }
    if !whole {
        problems.push(format!("byte {}: no aborted transaction of this segment", entries.len() * txn_index::ENTRY_LEN));
    }
    Ok(())
}

fn snapshot(path: &Path, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let Some(entries) = snapshot_entries(&fs::read(path)?) else {
        problems.push("the snapshot is damaged: its version, length or checksum is wrong".to_owned());
        return Ok(());
    };
    for e in entries {
        let txn = match e.current_txn_first_offset {
            Some(offset) => format!("OptionalLong[{offset}]"),
            None => "OptionalLong.empty".to_owned(),
        };
        write!(
            out,
            "producerId: {} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {txn} lastTimestamp: {} ",
            e.id, e.epoch, e.coordinator_epoch, e.last_timestamp
        )?;
        if e.batch.last_offset.0 >= 0 {
            let b = e.batch;
            write!(
                out,
                "firstSequence: {} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
                b.first_sequence(),
                b.last_sequence,
                b.last_offset,
                b.offset_delta,
                b.timestamp
            )?;
        }
        writeln!(out)?;
    }
    Ok(())
}
