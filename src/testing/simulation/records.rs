//! Records of the workload and their batches, written and read without the broker's own code, so that a fault there shows.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io::{Read, Write};

/// A record's name: unique in its partition for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RecordId {
    /// The producer that made it.
    pub(crate) producer: u32,
    /// Counts the producer's records of this partition from 0.
    pub(crate) number: u32,
}

/// The idempotent producer's part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) base: i32,
}

/// A batch as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadBatch {
    pub(crate) base_offset: i64,
    pub(crate) last_offset: i64,
    /// Its bytes on the wire.
    pub(crate) bytes: usize,
    /// Its times are the broker's.
    pub(crate) log_append_time: bool,
    /// Some may have been compacted away.
    pub(crate) records: Vec<ReadRecord>,
}

/// A record as a reader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadRecord {
    pub(crate) offset: i64,
    pub(crate) id: RecordId,
    pub(crate) time: i64,
}

impl ReadBatch {
    pub(crate) fn end(&self) -> i64 {
        self.last_offset + 1
    }

    /// A record at each of its offsets.
    pub(crate) fn is_whole(&self) -> bool {
        self.records.len() as i64 == self.end() - self.base_offset
    }
}

/// How a batch is compressed; the number is what its attributes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

impl Codec {
    const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::None => bytes.to_vec(),
            Self::Gzip => {
                let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                w.write_all(bytes).and_then(|()| w.finish()).expect("to memory")
            }
            Self::Snappy => snap::raw::Encoder::new().compress_vec(bytes).expect("to memory"),
            Self::Lz4 => {
                let mut w = lz4::EncoderBuilder::new().build(Vec::new()).expect("an encoder");
                w.write_all(bytes).expect("to memory");
                w.finish().0
            }
            Self::Zstd => zstd::bulk::compress(bytes, 1).expect("to memory"),
        }
    }

    fn decompress(self, bytes: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let read = match self {
            Self::None => return Ok(bytes.to_vec()),
            Self::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).map(drop),
            Self::Snappy if bytes.starts_with(XERIAL) => return xerial(bytes),
            Self::Snappy => {
                return snap::raw::Decoder::new().decompress_vec(bytes).map_err(|e| e.to_string());
            }
            Self::Lz4 => lz4::Decoder::new(bytes).and_then(|mut d| d.read_to_end(&mut out)).map(drop),
            Self::Zstd => zstd::stream::copy_decode(bytes, &mut out),
        };
        read.map(|()| out).map_err(|e| format!("{self:?}: {e}"))
    }
}

/// Keys of a partition.
const KEYS: u32 = 6;
/// What a header that names a tombstone is called.
const ID_HEADER: &[u8] = b"id";

/// The key of a record, where records have keys.
pub(crate) fn key(id: RecordId) -> u32 {
    (id.number.wrapping_mul(2_654_435_761) >> 16).wrapping_add(id.producer) % KEYS
}

/// It has no value, where records have keys.
pub(crate) fn is_tombstone(id: RecordId) -> bool {
    id.number % 7 == 3
}

/// What Java's framing of snappy begins with, and how long that is with its two versions.
const XERIAL: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: usize = 16;

/// Snappy as Java frames it, and as the broker writes it when it compresses anew.
fn xerial(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let (mut rest, mut out) = (bytes.get(XERIAL_HEADER..).unwrap_or_default(), Vec::new());
    while !rest.is_empty() {
        let len = rest.try_get_u32().map_err(|e| e.to_string())? as usize;
        let (block, after) = rest.split_at_checked(len).ok_or("a snappy block past the end")?;
        out.extend(snap::raw::Decoder::new().decompress_vec(block).map_err(|e| e.to_string())?);
        rest = after;
    }
    Ok(out)
}

/// Milliseconds from the time of its batch to the record's own: not in order.
fn delta_ms(id: RecordId) -> i64 {
    i64::from(id.number.wrapping_mul(7919) % 40)
}

/// The times of the records of a batch.
pub(crate) fn times(first: RecordId, count: usize, timestamp_ms: i64) -> Vec<i64> {
    let ids = (0..count as u32).map(|delta| RecordId { number: first.number + delta, ..first });
    ids.map(|id| timestamp_ms + delta_ms(id)).collect()
}

pub(crate) const HEADER: usize = 61;
const LOG_APPEND_TIME: i16 = 1 << 3;
/// The base time is when tombstones may go.
const DELETE_HORIZON: i16 = 1 << 6;
const ID_BYTES: usize = 12;

fn put_varint(buf: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buf.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.put_u8(rest as u8);
}

pub(crate) fn get_varint(buf: &mut &[u8]) -> Result<i64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let Some((&byte, rest)) = buf.split_first() else { return Err("a varint past the end".to_owned()) };
        *buf = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    Err("a varint without end".to_owned())
}

fn filler(partition: u32, id: RecordId, index: usize) -> u8 {
    (u64::from(id.number) * 31 + u64::from(id.producer) * 7 + u64::from(partition) * 131 + index as u64 * 17) as u8
}

/// One batch of records `first..first + sizes.len()`; `sizes` is the filler of each; with keys if `keyed`.
pub(crate) fn encode(
    partition: u32,
    first: RecordId,
    sizes: &[usize],
    keyed: bool,
    timestamp_ms: i64,
    codec: Codec,
    sequence: Option<Sequence>,
) -> Bytes {
    let mut batch = BytesMut::with_capacity(HEADER + sizes.iter().map(|s| s + 32).sum::<usize>());
    let sequence = sequence.unwrap_or(Sequence { producer_id: -1, epoch: -1, base: -1 });
    batch.put_i64(0);
    batch.put_i32(0); // length, below
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(0); // CRC, below
    batch.put_i16(codec as i16);
    batch.put_i32(sizes.len() as i32 - 1);
    batch.put_i64(timestamp_ms);
    batch.put_i64(times(first, sizes.len(), timestamp_ms).into_iter().max().unwrap_or(-1));
    batch.put_i64(sequence.producer_id);
    batch.put_i16(sequence.epoch);
    batch.put_i32(sequence.base);
    batch.put_i32(sizes.len() as i32);
    batch.extend_from_slice(&codec.compress(&encode_records(partition, first, sizes, keyed)));
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

/// The filler of the one record of a batch of so many bytes.
pub(crate) fn size_in(bytes: usize, id: RecordId) -> usize {
    let excess = HEADER + encode_records(0, id, &[bytes], false).len() - bytes;
    let size = bytes - excess;
    // One more if a length takes a byte less.
    size + bytes - (HEADER + encode_records(0, id, &[size], false).len())
}

fn encode_records(partition: u32, first: RecordId, sizes: &[usize], keyed: bool) -> Vec<u8> {
    let (mut records, mut body) = (BytesMut::new(), BytesMut::new());
    for (delta, size) in sizes.iter().enumerate() {
        let id = RecordId { number: first.number + delta as u32, ..first };
        body.clear();
        body.put_i8(0);
        put_varint(&mut body, delta_ms(id));
        put_varint(&mut body, delta as i64);
        if keyed {
            put_varint(&mut body, 4);
            body.put_u32(key(id));
        } else {
            put_varint(&mut body, -1);
        }
        if keyed && is_tombstone(id) {
            put_varint(&mut body, -1);
            put_varint(&mut body, 1);
            put_varint(&mut body, ID_HEADER.len() as i64);
            body.put_slice(ID_HEADER);
            put_varint(&mut body, ID_BYTES as i64);
            put_id(&mut body, partition, id);
        } else {
            put_varint(&mut body, (ID_BYTES + size) as i64);
            put_id(&mut body, partition, id);
            let start = body.len();
            body.resize(start + size, 0);
            body[start..].iter_mut().enumerate().for_each(|(i, byte)| *byte = filler(partition, id, i));
            put_varint(&mut body, 0);
        }
        put_varint(&mut records, body.len() as i64);
        records.extend_from_slice(&body);
    }
    records.to_vec()
}

fn put_id(buf: &mut BytesMut, partition: u32, id: RecordId) {
    buf.put_u32(partition);
    buf.put_u32(id.producer);
    buf.put_u32(id.number);
}

/// Whole batches of `partition`, back to back; every byte of every record is checked.
pub(crate) fn decode(partition: u32, mut bytes: &[u8]) -> Result<Vec<ReadBatch>, String> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        if bytes.len() < HEADER {
            return Err(format!("{} bytes after the last whole batch", bytes.len()));
        }
        let length = (&bytes[8..12]).get_i32();
        let size = usize::try_from(length).map_or(0, |l| l + 12);
        if size < HEADER || size > bytes.len() {
            return Err(format!("a batch of {size} bytes where {} are left", bytes.len()));
        }
        let (batch, rest) = bytes.split_at(size);
        batches.push(decode_batch(partition, batch)?);
        bytes = rest;
    }
    Ok(batches)
}

fn decode_batch(partition: u32, batch: &[u8]) -> Result<ReadBatch, String> {
    let base_offset = (&batch[..8]).get_i64();
    let broken = |what: String| format!("batch at offset {base_offset}: {what}");
    let (stored, computed) = ((&batch[17..21]).get_u32(), crc32c::crc32c(&batch[21..]));
    if batch[16] != 2 || stored != computed {
        return Err(broken(format!("magic {}, CRC {stored:#x}, computed {computed:#x}", batch[16])));
    }
    let (last_delta, count) = ((&batch[23..27]).get_i32(), (&batch[57..61]).get_i32());
    if count < 0 || last_delta < count - 1 {
        return Err(broken(format!("{count} records, last delta {last_delta}")));
    }
    let attributes = (&batch[21..23]).get_i16();
    let log_append_time = attributes & LOG_APPEND_TIME != 0;
    let codec = Codec::ALL.into_iter().find(|c| *c as i16 == attributes & !(LOG_APPEND_TIME | DELETE_HORIZON));
    let Some(codec) = codec else { return Err(broken(format!("attributes {attributes:#x}"))) };
    let plain = match count {
        0 => batch[HEADER..].to_vec(),
        _ => codec.decompress(&batch[HEADER..]).map_err(broken)?,
    };
    let mut rest = &plain[..];
    let (first_time, max_time) = ((&batch[27..35]).get_i64(), (&batch[35..43]).get_i64());
    let mut records: Vec<ReadRecord> = Vec::with_capacity(count as usize);
    for number in 0..count {
        let decoded = decode_record(partition, &mut rest);
        let (id, time_delta, delta) = decoded.map_err(|e| broken(format!("record {number}: {e}")))?;
        let offset = base_offset + delta;
        let time = if log_append_time { max_time } else { first_time + time_delta };
        if delta > i64::from(last_delta) || records.last().is_some_and(|before| before.offset >= offset) {
            return Err(broken(format!("record {number}: offset {offset}")));
        }
        records.push(ReadRecord { offset, id, time });
    }
    if count > 0 && records.iter().map(|r| r.time).max() != Some(max_time) {
        return Err(broken(format!("its largest time is not {max_time}")));
    }
    if !rest.is_empty() {
        return Err(broken(format!("{} bytes after the last record", rest.len())));
    }
    let last_offset = base_offset + i64::from(last_delta);
    Ok(ReadBatch { base_offset, last_offset, bytes: batch.len(), log_append_time, records })
}

/// Its name, and what it adds to the batch's time and offset.
fn decode_record(partition: u32, rest: &mut &[u8]) -> Result<(RecordId, i64, i64), String> {
    let size = get_varint(rest)? as usize;
    let Some((mut record, after)) = rest.split_at_checked(size) else { return Err(format!("{size} bytes: too many")) };
    *rest = after;
    if record.is_empty() {
        return Err("no bytes".to_owned());
    }
    record.advance(1);
    let time_delta = get_varint(&mut record)?;
    let delta = get_varint(&mut record)?;
    let its_key = match get_varint(&mut record)? {
        4 if record.len() >= 4 => Some(record.get_u32()),
        -1 => None,
        len => return Err(format!("a key of {len} bytes")),
    };
    let mut len = get_varint(&mut record)?;
    let tombstone = len == -1;
    if tombstone {
        let header = [get_varint(&mut record)?, get_varint(&mut record)?];
        if header != [1, 2] || !record.starts_with(ID_HEADER) {
            return Err(format!("headers and the length of their first: {header:?}"));
        }
        record.advance(ID_HEADER.len());
        len = get_varint(&mut record)?;
    }
    let (len, behind) = (len as usize, usize::from(!tombstone));
    if len < ID_BYTES || record.len() != len + behind {
        return Err(format!("a value of {len} bytes in the last {}", record.len()));
    }
    let from = record.get_u32();
    let id = RecordId { producer: record.get_u32(), number: record.get_u32() };
    if from != partition {
        return Err(format!("{id:?} was sent to partition {from}, and is in {partition}"));
    }
    if its_key.is_some_and(|k| k != key(id)) || tombstone != (its_key.is_some() && is_tombstone(id)) {
        return Err(format!("{id:?} has key {its_key:?}, tombstone: {tombstone}"));
    }
    let wrong = record[..len - ID_BYTES].iter().enumerate().find(|(i, b)| **b != filler(partition, id, *i));
    match wrong {
        Some((i, _)) => Err(format!("{id:?}: byte {i} is not what was sent")),
        None => Ok((id, time_delta, delta)),
    }
}

#[test]
fn a_batch_has_the_size_that_was_asked_for() {
    for (bytes, number) in [(512, 0), (2048, 7), (4096, 1), (8192, 3)] {
        let id = RecordId { producer: 0, number };
        assert_eq!(encode(1, id, &[size_in(bytes, id)], false, 5, Codec::None, None).len(), bytes);
    }
}

#[test]
fn batches_come_back_and_no_flipped_bit_does() {
    let first = RecordId { producer: 3, number: 70_001 };
    for (codec, keyed) in Codec::ALL.into_iter().flat_map(|codec| [(codec, false), (codec, true)]) {
        let bytes = encode(9, first, &[0, 5, 300], keyed, 1_700_000_000_000, codec, None);
        let read = decode(9, &[&bytes[..], &bytes[..]].concat()).expect("two batches");
        let times = times(first, 3, 1_700_000_000_000);
        let id = |i: i64| RecordId { number: 70_001 + i as u32, ..first };
        let records: Vec<_> = (0..3).map(|i| ReadRecord { offset: i, id: id(i), time: times[i as usize] }).collect();
        let batch = ReadBatch { base_offset: 0, last_offset: 2, bytes: bytes.len(), log_append_time: false, records };
        assert!(batch.is_whole() && (0..3).any(|i| is_tombstone(id(i))));
        assert_eq!(read, vec![batch; 2]);
        for bit in 16 * 8..bytes.len() * 8 {
            let mut bad = bytes.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(9, &bad).is_err(), "bit {bit}");
        }
        assert!(decode(8, &bytes).is_err() && decode(9, &bytes[..bytes.len() - 1]).is_err());
    }
}
