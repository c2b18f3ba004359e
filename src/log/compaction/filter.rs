//! One batch of a cleaning: which records stay, and the batch with only those. In pieces, so that a large one holds
//! nobody up.

use super::OffsetMap;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchError, Compression, DELETE_HORIZON, HEADER_LEN, LENGTH_END, RecordBatchHeader};
use crate::log::compression::{Compressor, DECOMPRESSED_BYTES_MAX, Decompressor};
use std::collections::HashMap;
use std::io::{self, Read, Write};

/// Uncompressed bytes that are worked on in one step.
const PIECE: usize = 64 << 10;

/// The last that is known of an active producer: the batch with it stays, if need be empty, so that its sequence and
/// epoch can be read from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastRecord {
    /// The last offset of its last batch with data.
    Data(i64),
    /// Nothing but a marker, of this epoch.
    Marker(ProducerEpoch),
}

/// What decides about records; the same for all of a cleaning.
#[derive(Debug)]
pub struct Retention<'a> {
    /// The last offset of each key of the dirty part.
    pub map: &'a OffsetMap,
    /// The map knows what is below; records from here on stay.
    pub mapped_end: i64,
    /// The first uncleanable offset: the batch that ends right before it stays, if need be empty.
    pub upper_bound: i64,
    /// The wall clock when the cleaning began.
    pub now_ms: i64,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
    /// Of the active producers.
    pub last_records: &'a HashMap<ProducerId, LastRecord>,
}

impl Retention<'_> {
    fn retains(&self, header: &RecordBatchHeader, record: &RawRecord<'_>) -> bool {
        if header.is_control() || record.offset >= self.mapped_end {
            return true;
        }
        let Some(key) = record.key else { return false };
        let latest = self.map.get(key).is_none_or(|last| record.offset >= last);
        latest && (record.has_value || header.delete_horizon_ms().is_none_or(|horizon| self.now_ms < horizon))
    }

    fn retains_empty(&self, header: &RecordBatchHeader) -> bool {
        let last = self.last_records.get(&header.producer_id).filter(|_| header.is_idempotent());
        let last_of_producer = last.is_some_and(|last| match last {
            LastRecord::Data(offset) => header.last_offset().0 == *offset,
            LastRecord::Marker(epoch) => header.is_control() && header.producer_epoch == *epoch,
        });
        last_of_producer || header.next_offset().0 == self.upper_bound
    }
}

/// What becomes of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleaned {
    /// It stays as it is.
    Same,
    /// It stays with fewer records, or with a delete horizon.
    Rewritten(Vec<u8>),
    /// It goes.
    Gone,
}

/// Records of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Looked at.
    pub read: u64,
    /// That stay.
    pub kept: u64,
}

/// The result of a step.
#[derive(Debug)]
pub enum Step {
    /// Call again.
    More,
    /// Done.
    Done(Cleaned, Counts),
}

/// Cleans one batch, step by step. After [`Step::Done`] or an error it must not be used again.
#[derive(Debug)]
pub struct BatchCleaner<'a> {
    header: RecordBatchHeader,
    bytes: &'a [u8],
    retention: &'a Retention<'a>,
    /// All records go: data of an aborted transaction, or a marker whose time has come.
    discard: bool,
    /// A marker that marks nothing any more.
    idle_marker: bool,
    state: State<'a>,
}

#[derive(Debug)]
enum State<'a> {
    Reading(RecordReader<'a>, Kept),
    Writing { out: Compressor, kept: Kept, at: usize, horizon: Option<i64> },
    Finished,
}

/// Records that stay, as they were encoded.
#[derive(Debug)]
struct Kept {
    records: Vec<u8>,
    count: i32,
    max_timestamp: i64,
    tombstones: bool,
    counts: Counts,
}

impl<'a> BatchCleaner<'a> {
    /// Begins with a whole batch whose CRC is right. `may_go`: what [`super::Transactions::on_batch`] said of it.
    ///
    /// # Errors
    /// An unknown compression, or bytes that are none.
    pub fn new(
        header: &RecordBatchHeader,
        bytes: &'a [u8],
        retention: &'a Retention<'a>,
        may_go: bool,
    ) -> Result<Self, BatchError> {
        let due = header.delete_horizon_ms().is_some_and(|horizon| horizon <= retention.now_ms);
        let kept =
            Kept { records: Vec::new(), count: 0, max_timestamp: -1, tombstones: false, counts: Counts::default() };
        Ok(Self {
            header: *header,
            bytes,
            retention,
            discard: may_go && (due || !header.is_control()),
            idle_marker: may_go && header.is_control(),
            state: State::Reading(RecordReader::new(header, bytes)?, kept),
        })
    }

    /// Works on at most some 64 KiB of records.
    ///
    /// # Errors
    /// Records that are not what the header says.
    pub fn step(&mut self) -> Result<Step, BatchError> {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Reading(mut reader, mut kept) => {
                reader.fill()?;
                while let Some(record) = reader.next()? {
                    kept.counts.read += 1;
                    if !self.discard && self.retention.retains(&self.header, &record) {
                        kept.add(&self.header, &record);
                    }
                }
                if reader.is_done() {
                    return self.decide(kept);
                }
                self.state = State::Reading(reader, kept);
                Ok(Step::More)
            }
            State::Writing { mut out, kept, at, horizon } => {
                let end = self.write_piece(&mut out, &kept.records, at, horizon).map_err(|e| failed(&e))?;
                if end == kept.records.len() {
                    let bytes = out.finish().map_err(|e| failed(&e))?;
                    return Ok(Step::Done(Cleaned::Rewritten(self.complete(bytes, &kept, horizon)), kept.counts));
                }
                self.state = State::Writing { out, kept, at: end, horizon };
                Ok(Step::More)
            }
            State::Finished => panic!("a batch is cleaned once"),
        }
    }

    fn decide(&mut self, kept: Kept) -> Result<Step, BatchError> {
        let counts = kept.counts;
        if kept.count == 0 {
            if !self.retention.retains_empty(&self.header) {
                return Ok(Step::Done(Cleaned::Gone, counts));
            }
            let already = self.header.record_count == 0;
            let cleaned = if already { Cleaned::Same } else { Cleaned::Rewritten(self.empty()) };
            return Ok(Step::Done(cleaned, counts));
        }
        let wants_horizon = (kept.tombstones || self.idle_marker) && self.header.delete_horizon_ms().is_none();
        if kept.count == self.header.record_count && !wants_horizon {
            return Ok(Step::Done(Cleaned::Same, counts));
        }
        let horizon = wants_horizon.then(|| self.retention.now_ms.saturating_add(self.retention.delete_retention_ms));
        let mut out = Vec::with_capacity(HEADER_LEN + kept.records.len() / 2);
        out.extend_from_slice(&self.bytes[..HEADER_LEN]);
        let out = Compressor::new(self.header.compression()?, out).map_err(|e| failed(&e))?;
        self.state = State::Writing { out, kept, at: 0, horizon };
        Ok(Step::More)
    }

    /// Writes some records. A new base timestamp changes the difference that each holds. Gives where it stopped.
    fn write_piece(&self, out: &mut Compressor, records: &[u8], at: usize, horizon: Option<i64>) -> io::Result<usize> {
        let Some(horizon) = horizon else {
            let end = records.len().min(at + PIECE);
            out.write_all(&records[at..end])?;
            return Ok(end);
        };
        let moved = self.header.base_timestamp.wrapping_sub(horizon);
        let (mut at, stop) = (at, at + PIECE);
        let (mut record, mut prefix) = (Vec::new(), Vec::new());
        while at < records.len() && at < stop {
            let mut rest = &records[at..];
            let len = batch::varint(&mut rest).map_err(io::Error::other)? as usize;
            let mut body = &rest[1..len];
            let delta = batch::varint(&mut body).map_err(io::Error::other)?;
            record.clear();
            record.push(rest[0]);
            batch::put_varint(&mut record, delta.wrapping_add(moved));
            record.extend_from_slice(body);
            prefix.clear();
            batch::put_varint(&mut prefix, record.len() as i64);
            out.write_all(&prefix)?;
            out.write_all(&record)?;
            at = records.len() - rest.len() + len;
        }
        Ok(at)
    }

    fn complete(&self, mut out: Vec<u8>, kept: &Kept, horizon: Option<i64>) -> Vec<u8> {
        if let Some(horizon) = horizon {
            let attributes = self.header.attributes | DELETE_HORIZON;
            out[21..23].copy_from_slice(&attributes.to_be_bytes());
            out[27..35].copy_from_slice(&horizon.to_be_bytes());
        }
        if !self.header.is_log_append_time() {
            out[35..43].copy_from_slice(&kept.max_timestamp.to_be_bytes());
        }
        seal(out, kept.count)
    }

    /// The header alone, as Kafka leaves it: no compression, no horizon.
    fn empty(&self) -> Vec<u8> {
        let mut out = self.bytes[..HEADER_LEN].to_vec();
        let attributes = self.header.attributes & !(DELETE_HORIZON | 0x07);
        out[21..23].copy_from_slice(&attributes.to_be_bytes());
        out[27..35].copy_from_slice(&(-1_i64).to_be_bytes());
        seal(out, 0)
    }
}

/// Writes length, record count and CRC.
pub(super) fn seal(mut out: Vec<u8>, count: i32) -> Vec<u8> {
    let length = (out.len() - LENGTH_END) as i32;
    out[8..12].copy_from_slice(&length.to_be_bytes());
    out[57..61].copy_from_slice(&count.to_be_bytes());
    batch::write_crc(&mut out);
    out
}

fn failed(error: &io::Error) -> BatchError {
    BatchError::Invalid(format!("records cannot be compressed again: {error}"))
}

impl Kept {
    fn add(&mut self, header: &RecordBatchHeader, record: &RawRecord<'_>) {
        self.records.extend_from_slice(record.raw);
        self.count += 1;
        self.counts.kept += 1;
        self.max_timestamp = self.max_timestamp.max(header.base_timestamp.wrapping_add(record.timestamp_delta));
        self.tombstones |= !record.has_value && !header.is_control();
    }
}

/// A record as it is encoded, and what a cleaning asks of it.
#[derive(Clone, Copy, Debug)]
struct RawRecord<'a> {
    raw: &'a [u8],
    offset: i64,
    timestamp_delta: i64,
    key: Option<&'a [u8]>,
    has_value: bool,
}

/// The records of a batch, decompressed piece by piece.
#[derive(Debug)]
struct RecordReader<'a> {
    header: RecordBatchHeader,
    source: Decompressor<'a>,
    /// Decompressed; consumed up to `at`.
    plain: Vec<u8>,
    at: usize,
    ended: bool,
    left: i32,
    last_delta: i64,
}

impl<'a> RecordReader<'a> {
    fn new(header: &RecordBatchHeader, bytes: &'a [u8]) -> Result<Self, BatchError> {
        let body = bytes.get(HEADER_LEN..header.size_in_bytes()).unwrap_or_default();
        // What holds no records holds nothing that could be decompressed.
        let codec = if header.record_count == 0 { Compression::None } else { header.compression()? };
        let source = Decompressor::new(codec, body, DECOMPRESSED_BYTES_MAX).map_err(|e| undecodable(&e))?;
        let left = header.record_count;
        if left < 0 {
            return Err(BatchError::Invalid(format!("batch {} says it has {left} records", header.base_offset)));
        }
        Ok(Self { header: *header, source, plain: Vec::new(), at: 0, ended: false, left, last_delta: -1 })
    }

    fn is_done(&self) -> bool {
        self.left == 0
    }

    /// Decompresses the next piece.
    fn fill(&mut self) -> Result<(), BatchError> {
        self.plain.drain(..self.at);
        self.at = 0;
        let read = (&mut self.source).take(PIECE as u64).read_to_end(&mut self.plain).map_err(|e| undecodable(&e))?;
        self.ended = read < PIECE;
        Ok(())
    }

    /// The next record; none when it is not decompressed yet, or all were read.
    fn next(&mut self) -> Result<Option<RawRecord<'_>>, BatchError> {
        if self.left == 0 {
            return Ok(None);
        }
        let Some(total) = record_len(&self.plain[self.at..])? else {
            if self.ended {
                let message = format!("batch {} ends {} records early", self.header.base_offset, self.left);
                return Err(BatchError::Invalid(message));
            }
            return Ok(None);
        };
        let raw = &self.plain[self.at..self.at + total];
        self.at += total;
        self.left -= 1;
        let mut body = raw;
        batch::varint(&mut body)?;
        body = &body[1..];
        let timestamp_delta = batch::varint(&mut body)?;
        let delta = batch::varint(&mut body)?;
        let key = batch::field(&mut body)?;
        let value = batch::field(&mut body)?;
        if delta <= self.last_delta || delta > i64::from(self.header.last_offset_delta) {
            return Err(BatchError::Invalid(format!(
                "batch {}: a record has offset delta {delta}, expected more than {} and at most {}",
                self.header.base_offset, self.last_delta, self.header.last_offset_delta
            )));
        }
        self.last_delta = delta;
        let offset = self.header.base_offset.0 + delta;
        Ok(Some(RawRecord { raw, offset, timestamp_delta, key, has_value: value.is_some() }))
    }
}

fn undecodable(error: &io::Error) -> BatchError {
    BatchError::Invalid(format!("records do not decompress: {error}"))
}

/// Bytes of the record that begins here, its length field included; none if they are not all there.
fn record_len(bytes: &[u8]) -> Result<Option<usize>, BatchError> {
    let whole = bytes.iter().take(10).any(|b| b & 0x80 == 0);
    if !whole && bytes.len() < 10 {
        return Ok(None);
    }
    let mut rest = bytes;
    let len = batch::varint(&mut rest)?;
    let len = usize::try_from(len).ok().filter(|n| (1..=DECOMPRESSED_BYTES_MAX).contains(n));
    let len = len.ok_or_else(|| BatchError::Invalid("a record has an impossible length".into()))?;
    Ok((len <= rest.len()).then_some(bytes.len() - rest.len() + len))
}

/// Reads the keys of a batch into the map, step by step.
#[derive(Debug)]
pub struct KeyReader<'a> {
    reader: RecordReader<'a>,
    from: i64,
}

/// How far the keys of a batch were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyStep {
    /// Call again.
    More,
    /// All are in the map.
    Done,
    /// The map is full; what is below this offset is in it.
    Full(i64),
}

impl<'a> KeyReader<'a> {
    /// Begins with a whole batch whose CRC is right; records below `from` are passed over.
    ///
    /// # Errors
    /// As [`BatchCleaner::new`].
    pub fn new(header: &RecordBatchHeader, bytes: &'a [u8], from: i64) -> Result<Self, BatchError> {
        Ok(Self { reader: RecordReader::new(header, bytes)?, from })
    }

    /// Works on at most some 64 KiB of records.
    ///
    /// # Errors
    /// As [`BatchCleaner::step`].
    pub fn step(&mut self, map: &mut OffsetMap) -> Result<KeyStep, BatchError> {
        self.reader.fill()?;
        while let Some(record) = self.reader.next()? {
            if let Some(key) = record.key.filter(|_| record.offset >= self.from)
                && !map.put(key, record.offset)
            {
                return Ok(KeyStep::Full(record.offset));
            }
        }
        Ok(if self.reader.is_done() { KeyStep::Done } else { KeyStep::More })
    }
}
