//! Names of a partition's files, and the scan that finds the valid end of a segment.

use crate::log::batch::{self, RecordBatchHeader};
use std::ops::ControlFlow;

/// What a file of a partition's directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileKind {
    /// Batches.
    Log,
    /// Offset → position.
    OffsetIndex,
    /// Time → offset.
    TimeIndex,
    /// Aborted transactions.
    TxnIndex,
    /// Producer state at the base offset.
    Snapshot,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Log, Self::OffsetIndex, Self::TimeIndex, Self::TxnIndex, Self::Snapshot];
    /// What a segment consists of; the batches last, so that names that go in this order leave nothing without them.
    pub const SEGMENT: [Self; 4] = [Self::OffsetIndex, Self::TimeIndex, Self::TxnIndex, Self::Log];

    /// The extension, with its dot.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Log => ".log",
            Self::OffsetIndex => ".index",
            Self::TimeIndex => ".timeindex",
            Self::TxnIndex => ".txnindex",
            Self::Snapshot => ".snapshot",
        }
    }
}

/// `00000000000000000042.log`
#[must_use]
pub fn file_name(base_offset: i64, kind: FileKind) -> String {
    format!("{base_offset:020}{}", kind.extension())
}

/// Reads a name that [`file_name`] wrote.
#[must_use]
pub fn parse_file_name(name: &str) -> Option<(i64, FileKind)> {
    let kind = FileKind::ALL.into_iter().find(|k| name.ends_with(k.extension()))?;
    let digits = name.strip_suffix(kind.extension())?;
    if digits.len() != 20 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, kind))
}

/// How a scan of a piece of a segment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// The piece ends inside a batch that needs this many bytes in all.
    More(usize),
    /// What follows is no valid batch: the end of the log.
    Invalid,
}

/// Walks the batches of `bytes`, checks CRC and that offsets carry on from `expected`, calls `found(header, position in
/// bytes)` for each. Gives the bytes of valid batches and why it stopped.
pub fn scan(
    bytes: &[u8],
    mut expected: i64,
    mut found: impl FnMut(&RecordBatchHeader, usize) -> ControlFlow<()>,
) -> (usize, ScanEnd) {
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        if rest.len() < batch::HEADER_LEN {
            return (at, ScanEnd::More(batch::HEADER_LEN));
        }
        let Ok(header) = batch::parse_header(rest) else { return (at, ScanEnd::Invalid) };
        if header.base_offset.0 < expected {
            return (at, ScanEnd::Invalid);
        }
        if header.size_in_bytes() > rest.len() {
            return (at, ScanEnd::More(header.size_in_bytes()));
        }
        if batch::check_crc(&header, rest).is_err() || found(&header, at).is_break() {
            return (at, ScanEnd::Invalid);
        }
        at += header.size_in_bytes();
        expected = header.next_offset().0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset};
    use crate::log::batch::BatchBuilder;

    #[test]
    fn names_come_back() {
        for kind in FileKind::ALL {
            assert_eq!(parse_file_name(&file_name(42, kind)), Some((42, kind)));
        }
        for name in ["42.log", "0000000000000000004x.log", "00000000000000000042.tmp", "99999999999999999999.log"] {
            assert_eq!(parse_file_name(name), None, "{name}");
        }
    }

    #[test]
    fn a_scan_stops_at_the_torn_batch() {
        let mut log = Vec::new();
        let mut ends = vec![0];
        for i in 0..3 {
            let mut builder = BatchBuilder::default();
            builder.push(i, None, Some(b"value"));
            log.extend(builder.build(Offset(i), LeaderEpoch(0)));
            ends.push(log.len());
        }
        let all = |_: &RecordBatchHeader, _: usize| ControlFlow::Continue(());
        assert_eq!(scan(&log, 0, all), (ends[3], ScanEnd::More(batch::HEADER_LEN)));
        assert_eq!(scan(&log, 1, all), (0, ScanEnd::Invalid), "an offset below the expected one");
        assert_eq!(scan(&log[..ends[3] - 1], 0, all), (ends[2], ScanEnd::More(ends[3] - ends[2])));
        log[ends[2] - 1] ^= 1;
        assert_eq!(scan(&log, 0, all), (ends[1], ScanEnd::Invalid));
        log[ends[1]..].fill(0);
        assert_eq!(scan(&log, 0, all), (ends[1], ScanEnd::Invalid), "padding is the end");
    }
}
