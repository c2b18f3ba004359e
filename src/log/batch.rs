//! Record batches of magic 2: header, validation, assignment of offsets. The bytes are Kafka's, unchanged on disk and wire.
//!
//! ```text
//!  0 baseOffset i64       12 partitionLeaderEpoch i32   17 crc u32 (CRC-32C of 21..)   27 baseTimestamp i64   51 producerEpoch i16
//!  8 batchLength i32      16 magic i8 = 2               21 attributes i16              35 maxTimestamp i64    53 baseSequence i32
//!    (bytes after it)                                   23 lastOffsetDelta i32         43 producerId i64      57 recordCount i32
//!                                                                                                             61 records
//! ```

use super::compression;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::log_config::TimestampType;
use std::borrow::Cow;
use std::io;
use std::ops::Range;

/// Bytes of a batch before its records.
pub const HEADER_LEN: usize = 61;
/// Bytes before and with the length field.
pub const LENGTH_END: usize = 12;
const CRC_START: usize = 21;
/// The attribute that says: the base timestamp is a delete horizon.
pub(super) const DELETE_HORIZON: i16 = 0x40;

/// Compression of the records, the low three bits of the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// None.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Its bits in the attributes.
    const fn bits(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }
}

/// The fixed fields of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordBatchHeader {
    /// The offset of the first record.
    pub base_offset: Offset,
    /// Bytes after the length field.
    pub batch_length: i32,
    /// The epoch of the leader that appended it.
    pub partition_leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Compression, timestamp type, transactional, control.
    pub attributes: i16,
    /// The last record's offset less the first one's.
    pub last_offset_delta: i32,
    /// The first record's timestamp in milliseconds.
    pub base_timestamp: i64,
    /// The largest timestamp in milliseconds, or the log-append time.
    pub max_timestamp: i64,
    /// -1: not idempotent.
    pub producer_id: ProducerId,
    /// -1: not idempotent.
    pub producer_epoch: ProducerEpoch,
    /// -1: not idempotent.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

/// A batch that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Fewer bytes than the batch says.
    #[error("batch is cut short: {expected} bytes expected, {received} received")]
    Truncated {
        /// Bytes needed.
        expected: usize,
        /// Bytes there.
        received: usize,
    },
    /// A length that no batch can have.
    #[error("batch length {0} is impossible: at least {min} after the length field", min = HEADER_LEN - LENGTH_END)]
    Length(i32),
    /// Magic 0 or 1, or one of the future.
    #[error("batch has magic {0}, expected 2")]
    Magic(i8),
    /// The checksum does not fit.
    #[error("batch has CRC {received:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// In the header.
        received: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// Larger than the topic takes.
    #[error("batch of {size} bytes, the topic takes {max}")]
    TooLarge {
        /// Bytes of the batch.
        size: usize,
        /// `max.message.bytes`.
        max: usize,
    },
    /// Attributes, counts or sequences that contradict each other.
    #[error("{0}")]
    Invalid(String),
    /// A timestamp out of the topic's bounds.
    #[error("{0}")]
    Timestamp(String),
    /// A compression that does not exist.
    #[error("compression type {0} is unknown")]
    Compression(i16),
}

impl BatchError {
    /// Kafka's code for it.
    #[must_use]
    pub const fn error_code(&self) -> ErrorCode {
        match self {
            Self::Truncated { .. } | Self::Length(_) | Self::Crc { .. } => ErrorCode::CorruptMessage,
            Self::Magic(_) => ErrorCode::UnsupportedForMessageFormat,
            Self::TooLarge { .. } => ErrorCode::MessageTooLarge,
            Self::Invalid(_) => ErrorCode::InvalidRecord,
            Self::Timestamp(_) => ErrorCode::InvalidTimestamp,
            Self::Compression(_) => ErrorCode::UnsupportedCompressionType,
        }
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has this length")
}

impl RecordBatchHeader {
    /// Bytes of the whole batch.
    #[must_use]
    pub const fn size_in_bytes(&self) -> usize {
        LENGTH_END + self.batch_length as usize
    }

    /// The offset of the last record.
    #[must_use]
    pub const fn last_offset(&self) -> Offset {
        Offset(self.base_offset.0 + self.last_offset_delta as i64)
    }

    /// The offset after the last record.
    #[must_use]
    pub const fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0 + 1)
    }

    /// The sequence number of the last record; wraps from `i32::MAX` to 0.
    #[must_use]
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        let last = self.base_sequence as i64 + self.last_offset_delta as i64;
        if last > i32::MAX as i64 { (last - i32::MAX as i64 - 1) as i32 } else { last as i32 }
    }

    /// True when a producer id is there.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.producer_id.0 >= 0
    }

    /// True for a batch of a transaction.
    #[must_use]
    pub const fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// True for a marker.
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// True when the broker's time stands for all records.
    #[must_use]
    pub const fn is_log_append_time(&self) -> bool {
        self.attributes & 0x08 != 0
    }

    /// When its tombstones or its marker may go (KIP-534), in milliseconds: the cleaner puts it in the place of the base
    /// timestamp.
    #[must_use]
    pub const fn delete_horizon_ms(&self) -> Option<i64> {
        if self.attributes & DELETE_HORIZON != 0 { Some(self.base_timestamp) } else { None }
    }

    /// The compression of the records.
    ///
    /// # Errors
    /// A number that stands for none.
    pub const fn compression(&self) -> Result<Compression, BatchError> {
        Ok(match self.attributes & 0x07 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => return Err(BatchError::Compression(other)),
        })
    }
}

/// Reads the fixed fields. The bytes may be longer than the batch, and may be shorter as long as the header is whole.
///
/// # Errors
/// Too short, an impossible length, another magic than 2.
pub fn parse_header(bytes: &[u8]) -> Result<RecordBatchHeader, BatchError> {
    if bytes.len() > 16 && bytes[16] != 2 {
        return Err(BatchError::Magic(bytes[16] as i8));
    }
    if bytes.len() < HEADER_LEN {
        return Err(BatchError::Truncated { expected: HEADER_LEN, received: bytes.len() });
    }
    let batch_length = i32::from_be_bytes(array(bytes, 8));
    if batch_length < (HEADER_LEN - LENGTH_END) as i32 || batch_length > i32::MAX - LENGTH_END as i32 {
        return Err(BatchError::Length(batch_length));
    }
    let header = RecordBatchHeader {
        base_offset: Offset(i64::from_be_bytes(array(bytes, 0))),
        batch_length,
        partition_leader_epoch: LeaderEpoch(i32::from_be_bytes(array(bytes, 12))),
        crc: u32::from_be_bytes(array(bytes, 17)),
        attributes: i16::from_be_bytes(array(bytes, 21)),
        last_offset_delta: i32::from_be_bytes(array(bytes, 23)),
        base_timestamp: i64::from_be_bytes(array(bytes, 27)),
        max_timestamp: i64::from_be_bytes(array(bytes, 35)),
        producer_id: ProducerId(i64::from_be_bytes(array(bytes, 43))),
        producer_epoch: ProducerEpoch(i16::from_be_bytes(array(bytes, 51))),
        base_sequence: i32::from_be_bytes(array(bytes, 53)),
        record_count: i32::from_be_bytes(array(bytes, 57)),
    };
    if header.base_offset.0 < 0 || header.last_offset_delta < 0 || header.base_offset.0 > i64::MAX - (1 << 32) {
        return Err(BatchError::Invalid(format!(
            "batch has base offset {} and last offset delta {}, expected both ≥ 0",
            header.base_offset, header.last_offset_delta
        )));
    }
    Ok(header)
}

/// Checks the CRC of one whole batch.
///
/// # Errors
/// Too short, or another checksum.
pub fn check_crc(header: &RecordBatchHeader, bytes: &[u8]) -> Result<(), BatchError> {
    let size = header.size_in_bytes();
    if bytes.len() < size {
        return Err(BatchError::Truncated { expected: size, received: bytes.len() });
    }
    let computed = crc32c::crc32c(&bytes[CRC_START..size]);
    if computed != header.crc {
        return Err(BatchError::Crc { received: header.crc, computed });
    }
    Ok(())
}

/// The checksum in the header of a batch, and the bytes that it is of, if `batches` are a single one.
pub(super) fn crc_of_one(batches: &[u8]) -> Option<(u32, Range<usize>)> {
    let whole = batches.len() >= HEADER_LEN
        && usize::try_from(i32::from_be_bytes(array(batches, 8))) == Ok(batches.len() - LENGTH_END);
    whole.then(|| (u32::from_be_bytes(array(batches, 17)), CRC_START..batches.len()))
}

/// What a topic asks of a producer's batch.
#[derive(Clone, Copy, Debug)]
pub struct ValidationRules {
    /// `max.message.bytes`.
    pub max_bytes: usize,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`.
    pub before_max_ms: i64,
    /// `message.timestamp.after.max.ms`.
    pub after_max_ms: i64,
    /// The broker's time.
    pub now_ms: i64,
}

/// Checks one producer's batch once: length, magic, CRC, size, attributes, counts, sequences, timestamps.
///
/// `bytes` may hold more batches after it.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(bytes: &[u8], rules: &ValidationRules) -> Result<RecordBatchHeader, BatchError> {
    let header = parse_header(bytes)?;
    let size = header.size_in_bytes();
    if size > bytes.len() {
        return Err(BatchError::Truncated { expected: size, received: bytes.len() });
    }
    if size > rules.max_bytes {
        return Err(BatchError::TooLarge { size, max: rules.max_bytes });
    }
    check_crc(&header, bytes)?;
    header.compression()?;
    if header.is_control() {
        return Err(BatchError::Invalid("a client must not write control batches".into()));
    }
    if header.record_count <= 0 || header.last_offset_delta != header.record_count - 1 {
        return Err(BatchError::Invalid(format!(
            "batch has {} records and last offset delta {}, expected one less than the records",
            header.record_count, header.last_offset_delta
        )));
    }
    if header.is_idempotent() {
        if header.producer_epoch.0 < 0 || header.base_sequence < 0 {
            return Err(BatchError::Invalid(format!(
                "batch of producer {} has epoch {} and base sequence {}, expected both ≥ 0",
                header.producer_id, header.producer_epoch, header.base_sequence
            )));
        }
    } else if header.is_transactional() {
        return Err(BatchError::Invalid("a transactional batch needs a producer id".into()));
    }
    check_timestamp(&header, rules)?;
    Ok(header)
}

/// As [`validate`], of a batch that this node made: it may be a coordinator's, without sequence numbers.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate_own(bytes: &[u8], rules: &ValidationRules) -> Result<RecordBatchHeader, BatchError> {
    let header = parse_header(bytes)?;
    check_crc(&header, bytes)?;
    if header.size_in_bytes() > rules.max_bytes {
        return Err(BatchError::TooLarge { size: header.size_in_bytes(), max: rules.max_bytes });
    }
    Ok(header)
}

fn check_timestamp(header: &RecordBatchHeader, rules: &ValidationRules) -> Result<(), BatchError> {
    if rules.timestamp_type == TimestampType::LogAppendTime || header.max_timestamp == -1 {
        return Ok(());
    }
    let (ts, now) = (header.max_timestamp, rules.now_ms);
    if ts < -1 {
        return Err(BatchError::Timestamp(format!("timestamp {ts} is negative")));
    }
    if ts < now && now - ts > rules.before_max_ms || ts > now && ts - now > rules.after_max_ms {
        return Err(BatchError::Timestamp(format!(
            "timestamp {ts} is out of range: the broker's time is {now}, at most {} ms before and {} ms after are taken",
            rules.before_max_ms, rules.after_max_ms
        )));
    }
    Ok(())
}

/// Stamps a batch: base offset and leader epoch (both outside the CRC), and with `log_append_time` the time, the
/// attribute that says so, and the CRC anew.
pub fn assign(batch: &mut [u8], base_offset: Offset, leader_epoch: LeaderEpoch, log_append_time: Option<i64>) {
    batch[..8].copy_from_slice(&base_offset.0.to_be_bytes());
    batch[12..16].copy_from_slice(&leader_epoch.0.to_be_bytes());
    let Some(time) = log_append_time else { return };
    let attributes = i16::from_be_bytes(array(batch, 21)) | 0x08;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    set_max_timestamp(batch, time);
}

/// The batches of `bytes`, back to back: header and range. Ends after the first error.
pub fn batches(bytes: &[u8]) -> impl Iterator<Item = Result<(RecordBatchHeader, Range<usize>), BatchError>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let found = parse_header(&bytes[at..]).and_then(|header| {
            let size = header.size_in_bytes();
            if size > bytes.len() - at {
                return Err(BatchError::Truncated { expected: size, received: bytes.len() - at });
            }
            Ok((header, at..at + size))
        });
        at = found.as_ref().map_or(bytes.len(), |(_, range)| range.end);
        Some(found)
    })
}

/// One record of an uncompressed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp in milliseconds.
    pub timestamp: i64,
    /// Its key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Its value; none is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers as they are encoded: their number, then key and value of each.
    pub headers: &'a [u8],
}

impl<'a> Record<'a> {
    /// The keys of its headers.
    ///
    /// # Errors
    /// Bytes that are not so many keys and values.
    pub fn header_keys(&self) -> Result<Vec<&'a [u8]>, BatchError> {
        let mut rest = self.headers;
        let count = varint(&mut rest)?;
        let mut keys = Vec::new();
        for _ in 0..count {
            keys.push(field(&mut rest)?.unwrap_or_default());
            field(&mut rest)?;
        }
        Ok(keys)
    }
}

pub(super) fn varint(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    let (mut value, mut shift) = (0u64, 0);
    loop {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| BatchError::Invalid("a varint is cut short".into()))?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
        shift += 7;
        if shift > 63 {
            return Err(BatchError::Invalid("a varint is longer than 10 bytes".into()));
        }
    }
}

pub(super) fn field<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BatchError> {
    let len = varint(bytes)?;
    if len < 0 {
        return Ok(None);
    }
    let len = usize::try_from(len).ok().filter(|n| *n <= bytes.len());
    let len = len.ok_or_else(|| BatchError::Invalid("a record's field is longer than the record".into()))?;
    let (field, rest) = bytes.split_at(len);
    *bytes = rest;
    Ok(Some(field))
}

/// The records of one uncompressed batch. Ends after the first error.
pub fn records<'a>(
    header: &RecordBatchHeader,
    batch: &'a [u8],
) -> impl Iterator<Item = Result<Record<'a>, BatchError>> + 'a {
    records_in(header, batch.get(HEADER_LEN..header.size_in_bytes()).unwrap_or_default())
}

/// Calls `f` with each record of a batch, compressed or not.
///
/// # Errors
/// Records that are not what the header says, or more than `max` bytes of them. Some may have been seen by then.
pub fn for_each_record(
    header: &RecordBatchHeader,
    batch: &[u8],
    max: usize,
    mut f: impl FnMut(&Record<'_>),
) -> Result<(), BatchError> {
    for record in records_in(header, &plain_body(header, batch, max)?) {
        f(&record?);
    }
    Ok(())
}

/// The records of a batch as they are when they are not compressed.
///
/// # Errors
/// Damaged bytes, or more than `max` of them when they are decompressed.
pub(super) fn plain_body<'a>(
    header: &RecordBatchHeader,
    batch: &'a [u8],
    max: usize,
) -> Result<Cow<'a, [u8]>, BatchError> {
    let body = batch.get(HEADER_LEN..header.size_in_bytes()).unwrap_or_default();
    let codec = header.compression()?;
    if codec == Compression::None {
        return Ok(Cow::Borrowed(body));
    }
    let invalid = |e: io::Error| BatchError::Invalid(format!("records do not decompress: {e}"));
    compression::decompress(codec, body, max).map(Cow::Owned).map_err(invalid)
}

/// Calls `f` with each record of an uncompressed body; gives what comes after the last one.
///
/// # Errors
/// A record that is none.
pub(super) fn for_each_plain<'a>(
    header: &RecordBatchHeader,
    body: &'a [u8],
    mut f: impl FnMut(&Record<'a>),
) -> Result<&'a [u8], BatchError> {
    let mut rest = body;
    for _ in 0..header.record_count {
        f(&one_record(header, &mut rest)?);
    }
    Ok(rest)
}

/// Makes a whole batch of a copied header and new records behind it: codec, length and CRC are written.
///
/// # Errors
/// More bytes than a batch can have.
pub(super) fn finish(batch: &mut [u8], codec: Compression, copied: &RecordBatchHeader) -> Result<(), BatchError> {
    let max = i32::MAX as usize;
    let too_large = |_| BatchError::TooLarge { size: batch.len(), max };
    let length = i32::try_from(batch.len() - LENGTH_END).map_err(too_large)?;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let attributes = (copied.attributes & !0x07) | codec.bits();
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    write_crc(batch);
    Ok(())
}

/// Offset and timestamp of each record of a batch, compressed or not.
///
/// # Errors
/// Records that are not what the header says, or more than [`compression::DECOMPRESSED_BYTES_MAX`] of them.
pub fn record_times(header: &RecordBatchHeader, batch: &[u8]) -> Result<Vec<(Offset, i64)>, BatchError> {
    let mut times = Vec::new();
    let max = compression::DECOMPRESSED_BYTES_MAX;
    for_each_record(header, batch, max, |record| times.push((record.offset, record.timestamp)))?;
    Ok(times)
}

/// Writes the largest timestamp that a producer left out, and the CRC anew.
pub fn set_max_timestamp(batch: &mut [u8], max_timestamp: i64) {
    batch[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    write_crc(batch);
}

pub(super) fn write_crc(batch: &mut [u8]) {
    let size = LENGTH_END + i32::from_be_bytes(array(batch, 8)) as usize;
    let crc = crc32c::crc32c(&batch[CRC_START..size]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// The records of an uncompressed body.
fn records_in<'a>(
    header: &RecordBatchHeader,
    mut rest: &'a [u8],
) -> impl Iterator<Item = Result<Record<'a>, BatchError>> + 'a {
    let header = *header;
    let mut left = header.record_count;
    std::iter::from_fn(move || {
        if left <= 0 {
            return None;
        }
        let record = one_record(&header, &mut rest);
        left = if record.is_ok() { left - 1 } else { 0 };
        Some(record)
    })
}

fn one_record<'a>(header: &RecordBatchHeader, rest: &mut &'a [u8]) -> Result<Record<'a>, BatchError> {
    let len = varint(rest)?;
    let len = usize::try_from(len).ok().filter(|n| *n <= rest.len() && *n >= 1);
    let len = len.ok_or_else(|| BatchError::Invalid("a record is longer than its batch".into()))?;
    let (mut body, after) = rest.split_at(len);
    *rest = after;
    body = &body[1..];
    let timestamp_delta = varint(&mut body)?;
    let offset_delta = varint(&mut body)?;
    let key = field(&mut body)?;
    let value = field(&mut body)?;
    let timestamp = if header.is_log_append_time() {
        header.max_timestamp
    } else {
        header.base_timestamp.wrapping_add(timestamp_delta)
    };
    Ok(Record { offset: Offset(header.base_offset.0.wrapping_add(offset_delta)), timestamp, key, value, headers: body })
}

/// Builds batches: for tests, markers and our own topics.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    records: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    attributes: i16,
    compression: Compression,
    producer: (ProducerId, ProducerEpoch, i32),
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
            attributes: 0,
            compression: Compression::None,
            producer: (ProducerId(-1), ProducerEpoch(-1), -1),
        }
    }
}

pub(super) fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push((zigzag as u8) | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

impl BatchBuilder {
    /// Sets the producer of the batch.
    #[must_use]
    pub const fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: i32) -> Self {
        self.producer = (id, epoch, base_sequence);
        self
    }

    /// Sets the attributes.
    #[must_use]
    pub const fn attributes(mut self, attributes: i16) -> Self {
        self.attributes = attributes;
        self
    }

    /// Compresses the records.
    #[must_use]
    pub const fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// Adds a record.
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> &mut Self {
        if self.count == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let mut body = vec![0];
        put_varint(&mut body, timestamp - self.base_timestamp);
        put_varint(&mut body, i64::from(self.count));
        put_field(&mut body, key);
        put_field(&mut body, value);
        put_varint(&mut body, 0);
        put_varint(&mut self.records, body.len() as i64);
        self.records.extend_from_slice(&body);
        self.count += 1;
        self
    }

    /// The batch at `base_offset`. At least one record is in it (asserted).
    #[must_use]
    pub fn build(&self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Vec<u8> {
        assert!(self.count > 0, "a batch needs a record");
        let bits = self.compression.bits();
        let mut out = Vec::with_capacity(HEADER_LEN + self.records.len());
        out.extend_from_slice(&base_offset.0.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&leader_epoch.0.to_be_bytes());
        out.push(2);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.attributes | bits).to_be_bytes());
        out.extend_from_slice(&(self.count - 1).to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.producer.0.0.to_be_bytes());
        out.extend_from_slice(&self.producer.1.0.to_be_bytes());
        out.extend_from_slice(&self.producer.2.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        let compressed = compression::Compressor::new(self.compression, out).and_then(|mut compressor| {
            io::Write::write_all(&mut compressor, &self.records)?;
            compressor.finish()
        });
        let mut out = compressed.expect("compression to memory needs only memory");
        let length = (out.len() - LENGTH_END) as i32;
        out[8..12].copy_from_slice(&length.to_be_bytes());
        write_crc(&mut out);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: ValidationRules = ValidationRules {
        max_bytes: 10_000,
        timestamp_type: TimestampType::CreateTime,
        before_max_ms: 1000,
        after_max_ms: 500,
        now_ms: 5000,
    };

    fn builder(records: &[(i64, &str)]) -> BatchBuilder {
        let mut builder = BatchBuilder::default();
        for (timestamp, value) in records {
            builder.push(*timestamp, Some(b"key"), Some(value.as_bytes()));
        }
        builder
    }

    fn sample() -> Vec<u8> {
        builder(&[(5000, "one"), (4990, "two"), (5010, "three")]).build(Offset(7), LeaderEpoch(2))
    }

    /// Changes the header at `at` and makes the CRC right again.
    fn with(at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut batch = sample();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c::crc32c(&batch[CRC_START..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        batch
    }

    #[test]
    fn what_was_built_is_valid_and_reads_back() {
        let batch = sample();
        let header = validate(&batch, &RULES).expect("valid");
        assert_eq!(
            (header.base_offset, header.last_offset(), header.next_offset()),
            (Offset(7), Offset(9), Offset(10))
        );
        assert_eq!((header.base_timestamp, header.max_timestamp, header.record_count), (5000, 5010, 3));
        assert_eq!(header.size_in_bytes(), batch.len());
        let found: Vec<_> = records(&header, &batch).map(|r| r.expect("whole")).collect();
        let seen: Vec<_> = found.iter().map(|r| (r.offset.0, r.timestamp, r.key, r.value)).collect();
        let key = Some(&b"key"[..]);
        assert_eq!(
            seen,
            [(7, 5000, key, Some(&b"one"[..])), (8, 4990, key, Some(b"two")), (9, 5010, key, Some(b"three"))]
        );
    }

    #[test]
    fn refusals_table() {
        let code = |batch: &[u8]| validate(batch, &RULES).expect_err("refused").error_code();
        assert_eq!(code(&with(16, &[1])), ErrorCode::UnsupportedForMessageFormat);
        assert_eq!(code(&with(8, &48_i32.to_be_bytes())), ErrorCode::CorruptMessage, "shorter than a header");
        assert_eq!(code(&with(8, &i32::MAX.to_be_bytes())), ErrorCode::CorruptMessage);
        assert_eq!(code(&sample()[..80]), ErrorCode::CorruptMessage, "cut short");
        assert_eq!(code(&with(57, &2_i32.to_be_bytes())), ErrorCode::InvalidRecord, "count and deltas differ");
        assert_eq!(code(&with(57, &0_i32.to_be_bytes())), ErrorCode::InvalidRecord);
        assert_eq!(code(&with(21, &0x20_i16.to_be_bytes())), ErrorCode::InvalidRecord, "a marker");
        assert_eq!(code(&with(21, &0x10_i16.to_be_bytes())), ErrorCode::InvalidRecord, "a transaction of nobody");
        assert_eq!(code(&with(21, &5_i16.to_be_bytes())), ErrorCode::UnsupportedCompressionType);
        assert_eq!(code(&with(43, &9_i64.to_be_bytes())), ErrorCode::InvalidRecord, "a producer without an epoch");
        for (timestamp, refused) in [(3999, true), (4000, false), (5500, false), (5501, true)] {
            let valid = validate(&builder(&[(timestamp, "v")]).build(Offset(0), LeaderEpoch(0)), &RULES);
            assert_eq!(valid.is_err_and(|e| e.error_code() == ErrorCode::InvalidTimestamp), refused, "{timestamp}");
        }
        let large = builder(&[(5000, &"x".repeat(10_000))]).build(Offset(0), LeaderEpoch(0));
        assert_eq!(code(&large), ErrorCode::MessageTooLarge);
    }

    #[test]
    fn stamping_keeps_the_batch_valid() {
        let mut batch = sample();
        assign(&mut batch, Offset(1000), LeaderEpoch(9), None);
        let header = validate(&batch, &RULES).expect("offset and epoch are outside the CRC");
        assert_eq!((header.base_offset, header.partition_leader_epoch), (Offset(1000), LeaderEpoch(9)));
        assign(&mut batch, Offset(2000), LeaderEpoch(9), Some(77));
        let header = parse_header(&batch).expect("whole");
        check_crc(&header, &batch).expect("computed anew");
        assert!(header.is_log_append_time());
        assert!(records(&header, &batch).flatten().all(|r| r.timestamp == 77));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let header = |sequence| {
            let batch = builder(&[(1, "a"), (2, "b"), (3, "c")]).producer(ProducerId(1), ProducerEpoch(0), sequence);
            parse_header(&batch.build(Offset(0), LeaderEpoch(0))).expect("whole")
        };
        assert_eq!(header(5).last_sequence(), 7);
        assert_eq!(header(i32::MAX - 1).last_sequence(), 0);
        assert_eq!(header(-1).last_sequence(), -1);
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_seen(bit in 0usize..8 * 160) {
            let mut batch = sample();
            let at = bit / 8 % batch.len();
            batch[at] ^= 1 << (bit % 8);
            let parsed = validate(&batch, &RULES);
            // Base offset and leader epoch are not covered: the broker writes them.
            prop_assert!(parsed.is_err() || at < 8 || (12..16).contains(&at), "byte {at}");
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), magic in any::<bool>()) {
            let mut bytes = bytes;
            if magic && bytes.len() > 16 {
                bytes[16] = 2;
            }
            prop_assert!(validate(&bytes, &RULES).is_err());
            prop_assert!(batches(&bytes).count() <= bytes.len());
            if let Ok(header) = parse_header(&bytes) {
                prop_assert!(records(&header, &bytes).count() <= bytes.len() + 1);
            }
        }

        #[test]
        fn records_of_garbage_end(body in proptest::collection::vec(any::<u8>(), 0..100), count in any::<i32>()) {
            let mut batch = sample();
            batch.truncate(HEADER_LEN);
            batch.extend_from_slice(&body);
            let length = (batch.len() - LENGTH_END) as i32;
            batch[8..12].copy_from_slice(&length.to_be_bytes());
            batch[57..61].copy_from_slice(&count.to_be_bytes());
            let header = parse_header(&batch).expect("a header");
            prop_assert!(records(&header, &batch).count() <= body.len() + 1);
        }

        #[test]
        fn what_is_built_reads_back(values in proptest::collection::vec((any::<i32>(), proptest::option::of("[a-z]{0,20}")), 1..20)) {
            let mut builder = BatchBuilder::default();
            for (timestamp, value) in &values {
                builder.push(i64::from(*timestamp), None, value.as_ref().map(String::as_bytes));
            }
            let batch = builder.build(Offset(5), LeaderEpoch(1));
            let header = parse_header(&batch).expect("a header");
            let read: Vec<_> = records(&header, &batch).map(|r| r.expect("whole")).collect();
            let expected = values.iter().enumerate();
            for ((i, (timestamp, value)), record) in expected.zip(&read) {
                prop_assert_eq!(record.offset, Offset(5 + i as i64));
                prop_assert_eq!(record.timestamp, i64::from(*timestamp));
                prop_assert_eq!(record.value, value.as_ref().map(String::as_bytes));
            }
            prop_assert_eq!(read.len(), values.len());
        }
    }
}
