//! Records of the workload and their batches, written and read without the broker's own code, so that a fault there shows.

use bytes::{Buf, BufMut, Bytes, BytesMut};

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
    pub(crate) ids: Vec<RecordId>,
}

impl ReadBatch {
    pub(crate) fn end(&self) -> i64 {
        self.base_offset + self.ids.len() as i64
    }
}

const HEADER: usize = 61;
const ID_BYTES: usize = 12;

fn put_varint(buf: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        buf.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    buf.put_u8(rest as u8);
}

fn get_varint(buf: &mut &[u8]) -> Result<i64, String> {
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

/// One batch of records `first..first + sizes.len()`; `sizes` is the filler of each.
pub(crate) fn encode(
    partition: u32,
    first: RecordId,
    sizes: &[usize],
    timestamp_ms: i64,
    sequence: Option<Sequence>,
) -> Bytes {
    let mut batch = BytesMut::with_capacity(HEADER + sizes.iter().map(|s| s + 32).sum::<usize>());
    let sequence = sequence.unwrap_or(Sequence { producer_id: -1, epoch: -1, base: -1 });
    batch.put_i64(0);
    batch.put_i32(0); // length, below
    batch.put_i32(-1);
    batch.put_i8(2);
    batch.put_u32(0); // CRC, below
    batch.put_i16(0);
    batch.put_i32(sizes.len() as i32 - 1);
    batch.put_i64(timestamp_ms);
    batch.put_i64(timestamp_ms);
    batch.put_i64(sequence.producer_id);
    batch.put_i16(sequence.epoch);
    batch.put_i32(sequence.base);
    batch.put_i32(sizes.len() as i32);
    let mut body = BytesMut::new();
    for (delta, size) in sizes.iter().enumerate() {
        let id = RecordId { number: first.number + delta as u32, ..first };
        body.clear();
        body.put_i8(0);
        put_varint(&mut body, 0);
        put_varint(&mut body, delta as i64);
        put_varint(&mut body, -1);
        put_varint(&mut body, (ID_BYTES + size) as i64);
        body.put_u32(partition);
        body.put_u32(id.producer);
        body.put_u32(id.number);
        body.extend((0..*size).map(|i| filler(partition, id, i)));
        put_varint(&mut body, 0);
        put_varint(&mut batch, body.len() as i64);
        batch.extend_from_slice(&body);
    }
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
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
    if count < 1 || last_delta != count - 1 {
        return Err(broken(format!("{count} records, last delta {last_delta}")));
    }
    let mut rest = &batch[HEADER..];
    let mut ids = Vec::with_capacity(count as usize);
    for delta in 0..i64::from(count) {
        ids.push(decode_record(partition, delta, &mut rest).map_err(|e| broken(format!("record {delta}: {e}")))?);
    }
    if !rest.is_empty() {
        return Err(broken(format!("{} bytes after the last record", rest.len())));
    }
    Ok(ReadBatch { base_offset, ids })
}

fn decode_record(partition: u32, delta: i64, rest: &mut &[u8]) -> Result<RecordId, String> {
    let size = get_varint(rest)? as usize;
    let Some((mut record, after)) = rest.split_at_checked(size) else { return Err(format!("{size} bytes: too many")) };
    *rest = after;
    if record.is_empty() {
        return Err("no bytes".to_owned());
    }
    record.advance(1);
    let head = [get_varint(&mut record)?, get_varint(&mut record)?, get_varint(&mut record)?];
    if head != [0, delta, -1] {
        return Err(format!("timestamp delta, offset delta, key length {head:?}"));
    }
    let len = get_varint(&mut record)? as usize;
    if len < ID_BYTES || record.len() != len + 1 {
        return Err(format!("a value of {len} bytes in the last {}", record.len()));
    }
    let from = record.get_u32();
    let id = RecordId { producer: record.get_u32(), number: record.get_u32() };
    if from != partition {
        return Err(format!("{id:?} was sent to partition {from}, and is in {partition}"));
    }
    let wrong = record[..len - ID_BYTES].iter().enumerate().find(|(i, b)| **b != filler(partition, id, *i));
    match wrong {
        Some((i, _)) => Err(format!("{id:?}: byte {i} is not what was sent")),
        None => Ok(id),
    }
}

#[test]
fn batches_come_back_and_no_flipped_bit_does() {
    let first = RecordId { producer: 3, number: 70_000 };
    let bytes = encode(9, first, &[0, 5, 300], 1_700_000_000_000, None);
    let read = decode(9, &[&bytes[..], &bytes[..]].concat()).expect("two batches");
    let ids: Vec<_> = (0..3).map(|i| RecordId { number: 70_000 + i, ..first }).collect();
    assert_eq!(read, vec![ReadBatch { base_offset: 0, ids }; 2]);
    for bit in 16 * 8..bytes.len() * 8 {
        let mut bad = bytes.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(9, &bad).is_err(), "bit {bit}");
    }
    assert!(decode(8, &bytes).is_err() && decode(9, &bytes[..bytes.len() - 1]).is_err());
}
