//! Record batches made by hand: all records of one size, each carrying its intended send time.

use bytes::{BufMut, Bytes, BytesMut};

/// The first bytes of every value: nanoseconds since the start of the run.
pub(super) const STAMP_BYTES: usize = 8;

const HEADER_BYTES: usize = 61;

/// Makes v2 batches of equal records.
#[derive(Debug)]
pub struct BatchBuilder {
    filler: Vec<u8>,
    record_size: usize,
    timestamp_ms: i64,
}

impl BatchBuilder {
    /// `record_size` bytes a value (at least 8), all with one timestamp.
    #[must_use]
    pub fn new(record_size: usize, timestamp_ms: i64) -> Self {
        assert!(record_size >= STAMP_BYTES, "a record carries its stamp");
        // Not compressible to nothing, not random either: what a log line looks like to a disk.
        let filler = (0..record_size).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8).collect();
        Self { filler, record_size, timestamp_ms }
    }

    /// Bytes of a batch with `count` records, at most.
    #[must_use]
    pub fn size_of(&self, count: usize) -> usize {
        HEADER_BYTES + count * (self.record_size + 24)
    }

    /// How many records fit into a batch of `bytes`; at least one.
    #[must_use]
    pub fn count_for(&self, bytes: usize) -> usize {
        (bytes.saturating_sub(HEADER_BYTES) / (self.record_size + 12)).max(1)
    }

    /// A batch of one record for each stamp (nanoseconds since the start of the run).
    pub fn build(&self, stamps: impl ExactSizeIterator<Item = u64>) -> Bytes {
        let count = i32::try_from(stamps.len()).expect("a batch's count fits in 32 bits");
        let mut b = BytesMut::with_capacity(self.size_of(stamps.len()));
        b.put_i64(0); // base offset
        b.put_i32(0); // length, below
        b.put_i32(-1); // partition leader epoch
        b.put_u8(2); // magic
        b.put_u32(0); // CRC, below
        b.put_i16(0); // attributes
        b.put_i32(count - 1); // last offset delta
        b.put_i64(self.timestamp_ms);
        b.put_i64(self.timestamp_ms);
        b.put_i64(-1); // producer id
        b.put_i16(-1); // producer epoch
        b.put_i32(-1); // base sequence
        b.put_i32(count);
        debug_assert_eq!(b.len(), HEADER_BYTES);
        for (i, stamp) in stamps.enumerate() {
            self.put_record(&mut b, i as i64, stamp);
        }
        let length = u32::try_from(b.len() - 12).expect("a batch's length fits in 32 bits");
        b[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&b[21..]);
        b[17..21].copy_from_slice(&crc.to_be_bytes());
        b.freeze()
    }

    fn put_record(&self, b: &mut BytesMut, offset_delta: i64, stamp: u64) {
        let value_len = self.record_size as i64;
        let length = 1 + 1 + varint_len(offset_delta) + 1 + varint_len(value_len) + self.record_size + 1;
        put_varint(b, length as i64);
        b.put_u8(0); // attributes
        put_varint(b, 0); // timestamp delta
        put_varint(b, offset_delta);
        put_varint(b, -1); // no key
        put_varint(b, value_len);
        b.put_u64(stamp);
        b.put_slice(&self.filler[STAMP_BYTES..]);
        put_varint(b, 0); // headers
    }
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varint_len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn put_varint(b: &mut BytesMut, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        b.put_u8((rest as u8) | 0x80);
        rest >>= 7;
    }
    b.put_u8(rest as u8);
}

fn get_varint(bytes: &[u8], at: &mut usize) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// What a fetched run of batches holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// Records in whole batches.
    pub(super) records: u64,
    /// The offset after the last whole batch; none if there was none.
    pub(super) next_offset: Option<i64>,
}

/// Walks whole batches; calls `stamp` with each record's stamp if `stamps` says so. Stops at a cut-off batch.
pub(super) fn walk(bytes: &[u8], stamps: bool, mut stamp: impl FnMut(u64)) -> Contents {
    let mut found = Contents::default();
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + HEADER_BYTES) {
        let base = i64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
        let length = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes")) as usize;
        let delta = i32::from_be_bytes(header[23..27].try_into().expect("4 bytes"));
        let count = i32::from_be_bytes(header[57..61].try_into().expect("4 bytes"));
        let Some(batch) = bytes.get(at..at + 12 + length) else { break };
        found.records += u64::try_from(count).unwrap_or(0);
        found.next_offset = Some(base + i64::from(delta) + 1);
        if stamps {
            walk_stamps(batch, &mut stamp);
        }
        at += 12 + length;
    }
    found
}

fn walk_stamps(batch: &[u8], stamp: &mut impl FnMut(u64)) -> Option<()> {
    let mut at = HEADER_BYTES;
    while at < batch.len() {
        let length = usize::try_from(get_varint(batch, &mut at)?).ok()?;
        let end = at.checked_add(length)?;
        let mut field = at + 1;
        get_varint(batch, &mut field)?;
        get_varint(batch, &mut field)?;
        let key = usize::try_from(get_varint(batch, &mut field)?).unwrap_or(0);
        field += key;
        get_varint(batch, &mut field)?;
        let bytes = batch.get(field..field + STAMP_BYTES)?;
        stamp(u64::from_be_bytes(bytes.try_into().expect("8 bytes")));
        at = end;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::records::RecordBatchDecoder;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_decode_and_keep_their_stamps(size in 8_usize..3000, stamps in prop::collection::vec(any::<u64>(), 1..50)) {
            let batch = BatchBuilder::new(size, 1234).build(stamps.iter().copied());
            let decoded = RecordBatchDecoder::decode(&mut batch.clone()).expect("a valid batch");
            prop_assert_eq!(decoded.records.len(), stamps.len());
            for (record, stamp) in decoded.records.iter().zip(&stamps) {
                let value = record.value.as_ref().expect("a value");
                prop_assert_eq!(value.len(), size);
                prop_assert_eq!(&value[..8], &stamp.to_be_bytes()[..]);
            }
            let mut seen = Vec::new();
            let contents = walk(&batch, true, |s| seen.push(s));
            prop_assert_eq!(contents, Contents { records: stamps.len() as u64, next_offset: Some(stamps.len() as i64) });
            prop_assert_eq!(seen, stamps);
        }

        #[test]
        fn arbitrary_bytes_are_walked_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            walk(&bytes, true, |_| {});
        }
    }
}
