//! The journal's format: frames of one group commit each, entries of all partitions of a shard.
//!
//! A frame begins on a block boundary and is padded to one:
//!
//! ```text
//! frame  0 magic u32   4 crc u32 (CRC-32C of 8..32+length)   8 lap u64   16 sequence u64   24 length u32   28 entries u32   32 entries…   padding
//! entry  0 kind u8     1 zero [3]   4 length u32   8 topic id [16]   24 partition i32   28 offset i64   36 data (`length` bytes)
//! ```
//! Integers are big-endian, as in Kafka's own formats.
//!
//! A file of the ring is used again and again; each use is a *lap* with a number of its own, larger than all before on
//! this shard. Its low half is random, so that record bytes of an earlier lap cannot be made to look like a frame of
//! a later one. Frames of a lap are numbered from 0. What does not carry on the lap and the numbers is stale: the end.

use super::segment_mark::SegmentMark;
use super::{batch, crc};
use crate::ids::{Offset, PartitionId, PartitionIndex, TopicId};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Alignment and granularity of frames.
pub const BLOCK: usize = 4096;
/// Bytes before the first entry.
pub const FRAME_HEADER_LEN: usize = 32;
/// Bytes of an entry before its data.
pub const ENTRY_HEADER_LEN: usize = 36;
/// Larger frames are not written and not believed.
pub const FRAME_BYTES_MAX: usize = 64 << 20;
/// The first bytes of a frame: "CLJ1".
pub const MAGIC: u32 = 0x434c_4a31;
const CRC_START: usize = 8;
const _: () = assert!(FRAME_BYTES_MAX.is_multiple_of(BLOCK) && FRAME_BYTES_MAX <= u32::MAX as usize);
/// The checksum of a batch of this size goes into the frame's as it is; the bytes of smaller ones are read sooner than
/// that is done.
const KNOWN_CRC_MIN: usize = 4096;

/// The number of one use of a journal file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lap(pub u64);

impl Lap {
    /// The lap after this one; `salt` is random.
    #[must_use]
    pub const fn next(self, salt: u32) -> Self {
        Self((((self.0 >> 32) + 1) << 32) | salt as u64)
    }
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Batches, contiguous from `base_offset`.
    Batches {
        /// Whose.
        partition: PartitionId,
        /// Offset of the first record.
        base_offset: Offset,
        /// Whole batches, back to back.
        bytes: Bytes,
    },
    /// The log was cut: `to` is the next offset.
    Truncate {
        /// Whose.
        partition: PartitionId,
        /// The new end.
        to: Offset,
    },
    /// The log's start moved.
    LogStart {
        /// Whose.
        partition: PartitionId,
        /// The new start.
        start: Offset,
    },
    /// The high watermark was at least here.
    HighWatermark {
        /// Whose.
        partition: PartitionId,
        /// The offset.
        offset: Offset,
    },
    /// Everything below is in segments, on the device.
    Flushed {
        /// Whose.
        partition: PartitionId,
        /// The offset.
        to: Offset,
        /// What a load need not read, if it is known.
        mark: Option<SegmentMark>,
    },
    /// The partition was deleted, or handed over to another shard: nothing before this counts.
    Deleted {
        /// Whose.
        partition: PartitionId,
    },
    /// What a load of the partition would find, up to an offset; not in the journal, but in a file beside it.
    State {
        /// Whose.
        partition: PartitionId,
        /// The offset.
        to: Offset,
        /// A [`super::partition_state::PartitionState`].
        state: Bytes,
    },
    /// Its files may be any: no state of before is to be believed. Beside the journal, too.
    Touched {
        /// Whose.
        partition: PartitionId,
    },
    /// Laps before this one hold nothing that is needed.
    LiveFrom {
        /// The first lap that counts.
        lap: Lap,
    },
}

const BATCHES: u8 = 1;
const TRUNCATE: u8 = 2;
const LOG_START: u8 = 3;
const HIGH_WATERMARK: u8 = 4;
const FLUSHED: u8 = 5;
const DELETED: u8 = 6;
const LIVE_FROM: u8 = 7;
const STATE: u8 = 8;
const TOUCHED: u8 = 9;

/// Builds the frame of one group commit, in memory that begins on a block, so that direct I/O can write it from where it is:
/// record bytes are copied once.
///
/// Invariant: `frame` is empty, or `FRAME_HEADER_LEN ≤ summed ≤ frame.len()`.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// The frame so far, room for its header included; empty without an entry.
    frame: BytesMut,
    entries: u32,
    /// The checksum of the entries' bytes before `summed`.
    crc: u32,
    summed: usize,
}

/// Where [`FrameBuilder::batches`] has its bytes put.
#[derive(Debug)]
pub struct Pieces<'a>(&'a mut FrameBuilder);

impl Pieces<'_> {
    /// Adds one or more whole batches, whose checksums were checked or computed since a byte under them changed: that of
    /// a large one stands for its bytes in the frame's own checksum.
    pub fn put(&mut self, batches: &[u8]) {
        let builder = &mut *self.0;
        let at = builder.frame.len();
        builder.frame.put_slice(batches);
        if batches.len() >= KNOWN_CRC_MIN
            && let Some((known, under)) = batch::crc_of_one(batches)
        {
            let (from, to) = (at + under.start, at + under.end);
            let before = crc32c::crc32c_append(builder.crc, &builder.frame[builder.summed..from]);
            builder.crc = crc::combine(before, known, (to - from) as u32);
            builder.summed = to;
        }
    }
}

/// A frame ready to be written.
#[derive(Debug)]
pub struct EncodedFrame {
    /// All of it, padding included: a multiple of [`BLOCK`], which begins on a block in memory, too.
    pub bytes: Bytes,
}

/// Memory for `capacity` bytes that begins on a block.
fn block_memory(capacity: usize) -> BytesMut {
    let mut memory = BytesMut::with_capacity(capacity + BLOCK);
    let skip = memory.as_ptr().align_offset(BLOCK);
    memory.put_bytes(0, skip);
    memory.advance(skip);
    memory
}

impl EncodedFrame {
    /// Its memory, for the next frame; none while somebody else holds it.
    #[must_use]
    pub fn into_memory(self) -> Option<BytesMut> {
        let mut memory = self.bytes.try_into_mut().ok()?;
        memory.clear();
        Some(memory)
    }
}

impl FrameBuilder {
    /// A frame in the memory of one before it.
    #[must_use]
    pub fn reusing(memory: BytesMut) -> Self {
        Self { frame: memory, ..Self::default() }
    }

    /// Bytes of entries so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frame.len().saturating_sub(FRAME_HEADER_LEN)
    }

    /// True without an entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds batches, whose bytes `fill` puts down, `length` in all (asserted).
    pub fn batches(
        &mut self,
        partition: PartitionId,
        base_offset: Offset,
        length: usize,
        fill: impl FnOnce(&mut Pieces<'_>),
    ) {
        self.entry(BATCHES, partition, base_offset.0, length, |builder| fill(&mut Pieces(builder)));
    }

    /// Adds any entry; batches may be any bytes.
    pub fn push(&mut self, entry: &Entry) {
        let mut put = |kind, partition: &PartitionId, offset, data: &[u8]| {
            self.entry(kind, *partition, offset, data.len(), |builder| builder.frame.put_slice(data));
        };
        match entry {
            Entry::Batches { partition, base_offset, bytes } => put(BATCHES, partition, base_offset.0, bytes),
            Entry::Truncate { partition, to } => put(TRUNCATE, partition, to.0, &[]),
            Entry::LogStart { partition, start } => put(LOG_START, partition, start.0, &[]),
            Entry::HighWatermark { partition, offset } => put(HIGH_WATERMARK, partition, offset.0, &[]),
            Entry::Flushed { partition, to, mark } => {
                let data = mark.as_ref().map(SegmentMark::encode).unwrap_or_default();
                put(FLUSHED, partition, to.0, &data);
            }
            Entry::Deleted { partition } => put(DELETED, partition, 0, &[]),
            Entry::State { partition, to, state } => put(STATE, partition, to.0, state),
            Entry::Touched { partition } => put(TOUCHED, partition, 0, &[]),
            Entry::LiveFrom { lap } => put(LIVE_FROM, &PartitionId::default(), lap.0 as i64, &[]),
        }
    }

    fn entry(&mut self, kind: u8, partition: PartitionId, offset: i64, length: usize, fill: impl FnOnce(&mut Self)) {
        self.make_room(ENTRY_HEADER_LEN + length);
        let frame = &mut self.frame;
        frame.put_u8(kind);
        frame.put_bytes(0, 3);
        frame.put_u32(u32::try_from(length).expect("an entry is smaller than a frame"));
        frame.put_slice(partition.topic.0.as_bytes());
        frame.put_i32(partition.index.0);
        frame.put_i64(offset);
        let end = frame.len() + length;
        fill(self);
        assert_eq!(self.frame.len(), end, "an entry is as long as it says");
        self.entries += 1;
    }

    /// Room for an entry of `length` bytes, and for what may have to pad it.
    fn make_room(&mut self, length: usize) {
        let used = self.frame.len().max(FRAME_HEADER_LEN);
        let needed = (used + length).next_multiple_of(BLOCK);
        if self.frame.capacity() < needed || !self.frame.as_ptr().addr().is_multiple_of(BLOCK) {
            let mut larger = block_memory(needed.next_power_of_two());
            larger.put_slice(&self.frame);
            self.frame = larger;
        }
        if self.frame.is_empty() {
            self.frame.put_bytes(0, FRAME_HEADER_LEN);
            self.summed = FRAME_HEADER_LEN;
        }
    }

    /// Bytes that the frame will take, padding included.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        (FRAME_HEADER_LEN + self.bytes()).next_multiple_of(BLOCK)
    }

    /// The frame, as number `sequence` of `lap`.
    #[must_use]
    pub fn finish(mut self, lap: Lap, sequence: u64) -> EncodedFrame {
        self.make_room(0);
        let (len, bytes) = (self.encoded_len(), self.bytes());
        assert!(len <= FRAME_BYTES_MAX, "a frame of {len} bytes");
        let (mut frame, summed) = (self.frame, self.summed);
        let mut header = &mut frame[CRC_START..FRAME_HEADER_LEN];
        header.put_u64(lap.0);
        header.put_u64(sequence);
        header.put_u32(bytes as u32);
        header.put_u32(self.entries);
        let crc = if summed == FRAME_HEADER_LEN {
            crc32c::crc32c(&frame[CRC_START..])
        } else {
            let entries = crc32c::crc32c_append(self.crc, &frame[summed..]);
            crc::combine(crc32c::crc32c(&frame[CRC_START..FRAME_HEADER_LEN]), entries, bytes as u32)
        };
        debug_assert_eq!(crc, crc32c::crc32c(&frame[CRC_START..]), "a batch's checksum is the one of its bytes");
        let mut header = &mut frame[..CRC_START];
        header.put_u32(MAGIC);
        header.put_u32(crc);
        frame.put_bytes(0, len - frame.len());
        EncodedFrame { bytes: frame.freeze() }
    }
}

/// The place of a frame, from its first [`FRAME_HEADER_LEN`] bytes, nothing checked but the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The use of the file it belongs to.
    pub lap: Lap,
    /// Its number in the lap.
    pub sequence: u64,
    /// Bytes of entries.
    pub length: u32,
    /// Number of entries.
    pub entries: u32,
    crc: u32,
}

impl FrameHeader {
    /// Reads a header; `None` if there is no frame here.
    #[must_use]
    pub fn parse(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FRAME_HEADER_LEN || bytes.get_u32() != MAGIC {
            return None;
        }
        let crc = bytes.get_u32();
        let (lap, sequence) = (Lap(bytes.get_u64()), bytes.get_u64());
        let (length, entries) = (bytes.get_u32(), bytes.get_u32());
        let header = Self { lap, sequence, length, entries, crc };
        let fits =
            (length as usize) <= FRAME_BYTES_MAX - BLOCK && entries as usize <= length as usize / ENTRY_HEADER_LEN;
        fits.then_some(header)
    }

    /// Bytes of the frame, padding included.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        (FRAME_HEADER_LEN + self.length as usize).next_multiple_of(BLOCK)
    }
}

/// Decodes the frame at the start of `bytes`, which hold all of it. `None`: the checksum or the shape is wrong.
#[must_use]
pub fn decode_frame(bytes: &Bytes) -> Option<(FrameHeader, Vec<Entry>)> {
    let header = FrameHeader::parse(bytes)?;
    let end = FRAME_HEADER_LEN + header.length as usize;
    if bytes.len() < end || crc32c::crc32c(&bytes[CRC_START..end]) != header.crc {
        return None;
    }
    let mut rest = bytes.slice(FRAME_HEADER_LEN..end);
    let mut entries = Vec::with_capacity(header.entries as usize);
    for _ in 0..header.entries {
        entries.push(decode_entry(&mut rest)?);
    }
    rest.is_empty().then_some((header, entries))
}

fn decode_entry(rest: &mut Bytes) -> Option<Entry> {
    if rest.len() < ENTRY_HEADER_LEN {
        return None;
    }
    let kind = rest.get_u8();
    rest.advance(3);
    let length = rest.get_u32() as usize;
    let mut topic = [0; 16];
    rest.copy_to_slice(&mut topic);
    let partition = PartitionId { topic: TopicId(Uuid::from_bytes(topic)), index: PartitionIndex(rest.get_i32()) };
    let offset = Offset(rest.get_i64());
    if length > rest.len() {
        return None;
    }
    let bytes = rest.split_to(length);
    Some(match kind {
        BATCHES => Entry::Batches { partition, base_offset: offset, bytes },
        TRUNCATE => Entry::Truncate { partition, to: offset },
        LOG_START => Entry::LogStart { partition, start: offset },
        HIGH_WATERMARK => Entry::HighWatermark { partition, offset },
        // A mark of another shape is of another program: a load does without.
        FLUSHED => Entry::Flushed { partition, to: offset, mark: SegmentMark::decode(&bytes) },
        DELETED => Entry::Deleted { partition },
        LIVE_FROM => Entry::LiveFrom { lap: Lap(offset.0 as u64) },
        STATE => Entry::State { partition, to: offset, state: bytes },
        TOUCHED => Entry::Touched { partition },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderEpoch;
    use crate::log::batch::BatchBuilder;
    use proptest::prelude::*;

    fn partition(n: u128) -> PartitionId {
        PartitionId { topic: TopicId(Uuid::from_u128(n)), index: PartitionIndex(n as i32) }
    }

    fn sample() -> Vec<Entry> {
        vec![
            Entry::Batches {
                partition: partition(1),
                base_offset: Offset(7),
                bytes: Bytes::from_static(b"batch bytes"),
            },
            Entry::Truncate { partition: partition(2), to: Offset(3) },
            Entry::LogStart { partition: partition(3), start: Offset(9) },
            Entry::HighWatermark { partition: partition(4), offset: Offset(10) },
            Entry::Flushed { partition: partition(5), to: Offset(11), mark: None },
            Entry::Flushed { partition: partition(5), to: Offset(12), mark: Some(SegmentMark::example(4)) },
            Entry::State { partition: partition(6), to: Offset(12), state: Bytes::from_static(b"a state") },
            Entry::Touched { partition: partition(6) },
            Entry::Deleted { partition: partition(6) },
            Entry::LiveFrom { lap: Lap(77) },
        ]
    }

    fn encode(entries: &[Entry], lap: Lap, sequence: u64) -> Bytes {
        let mut builder = FrameBuilder::default();
        entries.iter().for_each(|e| builder.push(e));
        let frame = builder.finish(lap, sequence);
        assert!(frame.bytes.as_ptr().addr().is_multiple_of(BLOCK) && frame.bytes.len().is_multiple_of(BLOCK));
        frame.bytes
    }

    #[test]
    fn a_frame_in_the_memory_of_another_is_the_same() {
        let batches = |size: u8| Entry::Batches {
            partition: partition(1),
            base_offset: Offset(0),
            bytes: Bytes::from(vec![size; usize::from(size) * 100]),
        };
        let mut memory = BytesMut::new();
        // Smaller, as large, larger than what was there.
        for size in [100, 3, 3, 255] {
            let mut builder = FrameBuilder::reusing(memory);
            let (entry, fits) = (batches(size), size == 3);
            let held = builder.frame.as_ptr();
            builder.push(&entry);
            assert!(!fits || builder.frame.as_ptr() == held, "what fits stays where it is");
            let frame = builder.finish(Lap(1), 5);
            assert_eq!(frame.bytes, encode(&[entry], Lap(1), 5), "size {size}");
            assert!(frame.bytes.as_ptr().addr().is_multiple_of(BLOCK));
            memory = frame.into_memory().expect("nobody else holds it");
        }
        let mut builder = FrameBuilder::reusing(memory);
        builder.push(&batches(1));
        let frame = builder.finish(Lap(1), 6);
        let held = frame.bytes.clone();
        assert!(frame.into_memory().is_none(), "somebody still reads it: {} bytes", held.len());
    }

    fn one_batch(value: &[u8]) -> Vec<u8> {
        let mut builder = BatchBuilder::default();
        builder.push(7, None, Some(value));
        let mut batch = builder.build(Offset(0), LeaderEpoch(0));
        batch::assign(&mut batch, Offset(77), LeaderEpoch(3), None);
        batch
    }

    /// The frame of entries of batches in pieces, and the same with nothing known of their checksums.
    fn in_pieces(entries: &[Vec<Vec<u8>>]) -> [Bytes; 2] {
        let (mut known, mut plain) = (FrameBuilder::default(), FrameBuilder::default());
        for pieces in entries {
            let bytes = Bytes::from(pieces.concat());
            let put = |to: &mut Pieces<'_>| pieces.iter().for_each(|piece| to.put(piece));
            known.batches(partition(1), Offset(5), bytes.len(), put);
            plain.push(&Entry::Batches { partition: partition(1), base_offset: Offset(5), bytes });
        }
        [known, plain].map(|builder| builder.finish(Lap(3), 9).bytes)
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "a batch's checksum is the one of its bytes")]
    fn the_checksum_of_a_large_batch_is_taken_from_its_header() {
        let mut batch = one_batch(&[1; KNOWN_CRC_MIN]);
        *batch.last_mut().expect("bytes") ^= 1;
        in_pieces(&[vec![batch]]);
    }

    #[test]
    fn entries_come_back() {
        let lap = Lap::default().next(0xabcd);
        let (header, entries) = decode_frame(&encode(&sample(), lap, 42)).expect("a whole frame");
        assert_eq!((header.lap, header.sequence, entries), (lap, 42, sample()));
        assert!(lap.next(0) > lap, "a later lap is larger whatever the salt");
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let bytes = encode(&sample(), Lap(1), 0);
        let used = FRAME_HEADER_LEN + FrameHeader::parse(&bytes).expect("a header").length as usize;
        for bit in 0..used * 8 {
            let mut broken = bytes.to_vec();
            broken[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_frame(&Bytes::from(broken)).is_none(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn a_checksum_of_checksums_is_that_of_the_bytes(
            // Entries of pieces of batches, these by their size.
            sizes in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0..3 * KNOWN_CRC_MIN, 1..4), 1..4), 0..5),
            seed: u8,
        ) {
            let batch = |size: usize| one_batch(&(0..size).map(|at| (at * at) as u8 ^ seed).collect::<Vec<_>>());
            let piece = |sizes: &Vec<usize>| sizes.iter().flat_map(|size| batch(*size)).collect();
            let entries: Vec<Vec<Vec<u8>>> = sizes.iter().map(|pieces| pieces.iter().map(piece).collect()).collect();
            let [known, plain] = in_pieces(&entries);
            prop_assert_eq!(&known, &plain);
            let (_, decoded) = decode_frame(&known).expect("a whole frame");
            prop_assert_eq!(decoded.len(), entries.len());
        }

        #[test]
        fn garbage_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), frame in any::<bool>()) {
            let mut bytes = bytes;
            if frame && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC.to_be_bytes());
            }
            prop_assert!(decode_frame(&Bytes::from(bytes)).is_none());
        }
    }
}
