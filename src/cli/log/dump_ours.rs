//! The files that Kafka's tool does not read: journal, metadata log, checkpoints.

use super::{DumpArgs, Kind, dump};
use crate::controller::raft_log::{decode_snapshot, group_after, replay};
use crate::controller::records::decode_records;
use crate::log::batch;
use crate::log::journal::{BLOCK, Entry, FrameHeader, Lap, decode_frame};
use crate::log::leader_epochs::LeaderEpochs;
use crate::log::partition_metadata;
use crate::log::partition_state::PartitionState;
use bytes::Bytes;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub(super) fn file(
    path: &Path,
    kind: Kind,
    args: &DumpArgs,
    out: &mut impl Write,
    problems: &mut Vec<String>,
) -> io::Result<()> {
    let bytes = Bytes::from(fs::read(path)?);
    match kind {
        Kind::Journal => journal(&bytes, args, out, problems),
        Kind::MetadataLog => metadata_log(&bytes, out, problems),
        Kind::MetadataSnapshot => metadata_snapshot(bytes, out, problems),
        Kind::LeaderEpochs | Kind::TopicId | Kind::LogStart | Kind::Partition(..) => {
            checkpoint(&bytes, kind, out, problems)
        }
    }
}

/// A lap as it is meant: which use of a file, and its random part.
pub(super) fn lap_text(lap: Lap) -> String {
    format!("{}:{:08x}", lap.0 >> 32, lap.0 & 0xffff_ffff)
}

/// The frames of the lap that the file holds, in order: position, header, entries; then where it ends.
pub(super) fn frames(file: &Bytes) -> (Vec<(usize, FrameHeader, Vec<Entry>)>, usize) {
    let (mut found, mut at) = (Vec::new(), 0);
    let mut expected: Option<(Lap, u64)> = None;
    while at < file.len() {
        let Some((header, entries)) = decode_frame(&file.slice(at..)) else { break };
        if expected.unwrap_or((header.lap, 0)) != (header.lap, header.sequence) {
            break;
        }
        expected = Some((header.lap, header.sequence + 1));
        found.push((at, header, entries));
        at = (at + header.encoded_len()).min(file.len());
    }
    (found, at)
}

fn journal(file: &Bytes, args: &DumpArgs, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let (frames, end) = frames(file);
    for (position, header, entries) in &frames {
        writeln!(
            out,
            "lap: {} sequence: {} position: {position} size: {} entries: {} bytes: {} isvalid: true",
            lap_text(header.lap),
            header.sequence,
            header.encoded_len(),
            header.entries,
            header.length
        )?;
        for entry in entries {
            writeln!(out, "| {}", entry_text(entry))?;
            let Entry::Batches { bytes, .. } = entry else { continue };
            if !args.deep_iteration && !args.print_data_log {
                continue;
            }
            for found in batch::batches(bytes) {
                match found {
                    Ok((h, range)) => dump::one_batch(&h, range.start as u64, &bytes[range], args, out, problems)?,
                    Err(e) => problems.push(format!("frame at byte {position}: {e}")),
                }
            }
        }
    }
    let why = match FrameHeader::parse(file.get(end..).unwrap_or_default()) {
        _ if end == file.len() => "the file is full".to_owned(),
        None => "no frame follows".to_owned(),
        Some(next) if frames.last().is_some_and(|(_, h, _)| h.lap == next.lap) => "a torn frame follows".to_owned(),
        Some(next) => format!("a frame of lap {} follows, from an earlier use of the file", lap_text(next.lap)),
    };
    writeln!(out, "End of the lap at byte {end} of {}: {} frames; {why}", file.len(), frames.len())
}

fn entry_text(entry: &Entry) -> String {
    match entry {
        Entry::Batches { partition, base_offset, bytes } => {
            format!("Batches {} baseOffset: {base_offset} bytes: {}", partition_text(*partition), bytes.len())
        }
        Entry::Truncate { partition, to } => format!("Truncate {} to: {to}", partition_text(*partition)),
        Entry::LogStart { partition, start } => format!("LogStart {} start: {start}", partition_text(*partition)),
        Entry::HighWatermark { partition, offset } => {
            format!("HighWatermark {} offset: {offset}", partition_text(*partition))
        }
        Entry::Flushed { partition, to, mark } => {
            let at = mark.as_ref().map(|m| format!(" position: {} of segment: {}", m.position, m.base));
            format!("Flushed {} to: {to}{}", partition_text(*partition), at.unwrap_or_default())
        }
        Entry::Deleted { partition } => format!("Deleted {}", partition_text(*partition)),
        Entry::LiveFrom { lap } => format!("LiveFrom lap: {}", lap_text(*lap)),
        Entry::State { partition, to, state } => {
            let state = PartitionState::decode(state);
            let at = state.map(|s| format!(" position: {} of segment: {}", s.mark.position, s.mark.base));
            format!("State {} to: {to}{}", partition_text(*partition), at.unwrap_or_default())
        }
        Entry::Touched { partition } => format!("Touched {}", partition_text(*partition)),
    }
}

fn partition_text(partition: crate::ids::PartitionId) -> String {
    format!("topicId: {} partition: {}", partition_metadata::encode_id(partition.topic), partition.index)
}

fn metadata_log(file: &Bytes, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let found = match replay(file) {
        Ok(found) => found,
        Err(e) => {
            problems.push(e.to_string());
            return Ok(());
        }
    };
    for entry in &found.entries {
        writeln!(
            out,
            "index: {} term: {} type: {:?} size: {}",
            entry.index,
            entry.term,
            entry.entry_type,
            entry.data.len()
        )?;
        records(entry.data.clone(), &format!("entry {}", entry.index), out, problems)?;
    }
    if let Some(state) = &found.hard_state {
        writeln!(out, "term: {} vote: {} commit: {}", state.term, state.vote, state.commit)?;
    }
    if let Some(after) = group_after(file, &found) {
        problems.push(format!("byte {}: a group is damaged, the one at byte {after} is intact", found.end));
    }
    writeln!(out, "End of the log at byte {} of {}, in blocks of {BLOCK}", found.end, file.len())
}

fn records(data: Bytes, what: &str, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    match decode_records(data) {
        Ok(records) => records.iter().try_for_each(|record| writeln!(out, "| {record:?}")),
        Err(e) => {
            problems.push(format!("{what}: {e}"));
            Ok(())
        }
    }
}

fn metadata_snapshot(file: Bytes, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    match decode_snapshot(file) {
        Ok(snapshot) => {
            writeln!(out, "index: {} term: {} voters: {:?}", snapshot.index, snapshot.term, snapshot.voters)?;
            records(snapshot.records, "snapshot", out, problems)
        }
        Err(e) => {
            problems.push(e.to_string());
            Ok(())
        }
    }
}

fn checkpoint(bytes: &[u8], kind: Kind, out: &mut impl Write, problems: &mut Vec<String>) -> io::Result<()> {
    let text = String::from_utf8_lossy(bytes);
    if let Some(problem) = checkpoint_problem(&text, kind) {
        problems.push(problem);
        return Ok(());
    }
    match kind {
        Kind::LeaderEpochs => {
            let epochs = LeaderEpochs::decode(&text).unwrap_or_default();
            epochs.entries().iter().try_for_each(|e| writeln!(out, "epoch: {} startOffset: {}", e.epoch, e.start))
        }
        Kind::TopicId => {
            let id = partition_metadata::decode(&text).map(partition_metadata::encode_id);
            writeln!(out, "topicId: {}", id.unwrap_or_default())
        }
        _ => writeln!(out, "logStartOffset: {}", log_start(&text).unwrap_or_default()),
    }
}

/// What is wrong with a small file, if anything.
pub(super) fn checkpoint_problem(text: &str, kind: Kind) -> Option<String> {
    let (good, what) = match kind {
        Kind::LeaderEpochs => (LeaderEpochs::decode(text).is_some(), "leader epochs that grow"),
        Kind::TopicId => (partition_metadata::decode(text).is_some(), "version 0 and a topic id"),
        _ => (log_start(text).is_some(), "version 0, one entry, a partition and its start"),
    };
    (!good).then(|| format!("expected {what}"))
}

fn log_start(text: &str) -> Option<i64> {
    text.lines().nth(2)?.rsplit(' ').next()?.trim().parse().ok()
}
