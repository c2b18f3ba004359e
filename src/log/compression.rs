//! The four codecs of record batches, with a bound on what comes out.
//!
//! Batches are stored as they come, unless `compression.type` says otherwise; only that, and what must look at single
//! records of a compressed batch (offsets by time, a producer that leaves the largest timestamp out, keys of compacted
//! topics), comes here. A cleaned batch is compressed again with its own codec. What is compressed here is in the framing
//! that Kafka writes: every client reads that.

use super::batch::Compression;
use std::io::{self, Read, Write};

/// Records of one batch may take so many bytes uncompressed, here; a larger batch is stored and served all the same.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// What Java's snappy writes before its blocks: each is a length and a raw block.
const XERIAL_MAGIC: &[u8] = b"\x82SNAPPY\0";
const XERIAL_HEADER: usize = 16;
/// No snappy block grows by more when it is read: its longest copy is 64 bytes by 3.
const SNAPPY_RATIO_MAX: usize = 64 / 3 + 1;

/// The bytes that were compressed.
///
/// # Errors
/// Damaged input, or more than `max` bytes of output.
pub fn decompress(codec: Compression, bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    Decompressor::new(codec, bytes, max)?.read_to_end(&mut out)?;
    Ok(out)
}

/// Reads what was compressed piece by piece. Snappy without a frame comes in one piece: the format has no other.
pub struct Decompressor<'a>(Box<dyn Read + 'a>);

impl std::fmt::Debug for Decompressor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decompressor")
    }
}

impl<'a> Decompressor<'a> {
    /// What `bytes` hold; a read past `max` bytes is an error.
    ///
    /// # Errors
    /// A header that is none.
    pub fn new(codec: Compression, bytes: &'a [u8], max: usize) -> io::Result<Self> {
        let reader: Box<dyn Read + 'a> = match codec {
            Compression::None => Box::new(bytes),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
            Compression::Lz4 => Box::new(lz4::Decoder::new(bytes)?),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes)?),
            Compression::Snappy => Box::new(SnappyBlocks::new(bytes, max)?),
        };
        Ok(Self(Box::new(Bounded { reader, left: max, max })))
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

struct Bounded<'a> {
    reader: Box<dyn Read + 'a>,
    left: usize,
    max: usize,
}

impl Read for Bounded<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buf)?;
        self.left = self.left.checked_sub(read).ok_or_else(|| too_large(self.max))?;
        Ok(read)
    }
}

/// Java's framing of snappy, block by block.
struct SnappyBlocks<'a> {
    rest: &'a [u8],
    block: Vec<u8>,
    at: usize,
    max: usize,
}

impl<'a> SnappyBlocks<'a> {
    fn new(bytes: &'a [u8], max: usize) -> io::Result<Self> {
        let mut blocks = Self { rest: &[], block: Vec::new(), at: 0, max };
        if bytes.starts_with(XERIAL_MAGIC) {
            blocks.rest = bytes.get(XERIAL_HEADER..).ok_or_else(snappy_cut)?;
        } else {
            snappy_block(bytes, max, &mut blocks.block)?;
        }
        Ok(blocks)
    }
}

impl Read for SnappyBlocks<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() && !self.rest.is_empty() {
            let (block, after) = next_snappy_block(self.rest)?;
            self.block.clear();
            self.at = 0;
            snappy_block(block, self.max, &mut self.block)?;
            self.rest = after;
        }
        let count = buf.len().min(self.block.len() - self.at);
        buf[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Compresses piece by piece into memory, with the codec's usual level.
pub struct Compressor(Sink);

enum Sink {
    Plain(Vec<u8>),
    Gzip(flate2::write::GzEncoder<Vec<u8>>),
    Snappy { pending: Vec<u8>, out: Vec<u8> },
    Lz4(Box<lz4::Encoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Encoder<'static, Vec<u8>>>),
}

/// Kafka's default of `compression.lz4.level`, which is the fast encoder there.
const LZ4_FAST: i32 = 9;

/// The library's level for one of Kafka's.
fn lz4_level(level: i32) -> Option<u32> {
    if level == LZ4_FAST { None } else { u32::try_from(level).ok() }
}

/// Plain bytes in one block of framed snappy, as Java writes it.
const SNAPPY_BLOCK: usize = 32 << 10;

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Compressor")
    }
}

impl Compressor {
    /// Appends what is compressed to `out`.
    ///
    /// # Errors
    /// The codec's own: it had no memory.
    pub fn new(codec: Compression, out: Vec<u8>) -> io::Result<Self> {
        Self::with_level(codec, None, out)
    }

    /// The same with one of the codec's levels, in Kafka's numbers; none is the usual one.
    ///
    /// # Errors
    /// As [`Compressor::new`].
    pub fn with_level(codec: Compression, level: Option<i32>, mut out: Vec<u8>) -> io::Result<Self> {
        Ok(Self(match codec {
            Compression::None => Sink::Plain(out),
            Compression::Gzip => {
                let level = level.and_then(|n| u32::try_from(n).ok()).map(|n| flate2::Compression::new(n.min(9)));
                Sink::Gzip(flate2::write::GzEncoder::new(out, level.unwrap_or_default()))
            }
            Compression::Snappy => {
                out.extend_from_slice(XERIAL_MAGIC);
                out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
                Sink::Snappy { pending: Vec::new(), out }
            }
            Compression::Lz4 => {
                // Java's reader knows only blocks that stand alone.
                let mut builder = lz4::EncoderBuilder::new();
                builder.level(level.and_then(lz4_level).unwrap_or(0));
                builder.block_mode(lz4::BlockMode::Independent).block_size(lz4::BlockSize::Max64KB);
                Sink::Lz4(Box::new(builder.checksum(lz4::ContentChecksum::NoChecksum).build(out)?))
            }
            Compression::Zstd => Sink::Zstd(Box::new(zstd::stream::write::Encoder::new(out, level.unwrap_or(0))?)),
        }))
    }

    /// Everything, compressed.
    ///
    /// # Errors
    /// The codec's own.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self.0 {
            Sink::Plain(out) => Ok(out),
            Sink::Gzip(encoder) => encoder.finish(),
            Sink::Snappy { pending, mut out } => {
                put_snappy_block(&pending, &mut out)?;
                Ok(out)
            }
            Sink::Lz4(encoder) => {
                let (out, result) = encoder.finish();
                result.map(|()| out)
            }
            Sink::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Sink::Plain(out) => out.extend_from_slice(bytes),
            Sink::Gzip(encoder) => encoder.write_all(bytes)?,
            Sink::Snappy { pending, out } => {
                pending.extend_from_slice(bytes);
                let whole = pending.len() / SNAPPY_BLOCK * SNAPPY_BLOCK;
                for block in pending[..whole].chunks(SNAPPY_BLOCK) {
                    put_snappy_block(block, out)?;
                }
                pending.drain(..whole);
            }
            Sink::Lz4(encoder) => encoder.write_all(bytes)?,
            Sink::Zstd(encoder) => encoder.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn put_snappy_block(block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    if block.is_empty() {
        return Ok(());
    }
    let compressed = snap::raw::Encoder::new().compress_vec(block).map_err(io::Error::other)?;
    out.extend_from_slice(&(compressed.len() as u32).to_be_bytes());
    out.extend_from_slice(&compressed);
    Ok(())
}

fn snappy_cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "a snappy block is cut off")
}

fn next_snappy_block(bytes: &[u8]) -> io::Result<(&[u8], &[u8])> {
    let (length, after) = bytes.split_first_chunk::<4>().ok_or_else(snappy_cut)?;
    after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(snappy_cut)
}

fn too_large(max: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("records take more than {max} bytes uncompressed"))
}

fn snappy_block(block: &[u8], max: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let invalid = |e: snap::Error| io::Error::new(io::ErrorKind::InvalidData, e);
    let length = snap::raw::decompress_len(block).map_err(invalid)?;
    if out.len() + length > max {
        return Err(too_large(max));
    }
    // Three bytes make at most 64: what claims more is not snappy, and must not cost its claim in memory first.
    if length / SNAPPY_RATIO_MAX > block.len() {
        let claim = format!("a snappy block of {} bytes claims {length}", block.len());
        return Err(io::Error::new(io::ErrorKind::InvalidData, claim));
    }
    let start = out.len();
    out.resize(start + length, 0);
    snap::raw::Decoder::new().decompress(block, &mut out[start..]).map_err(invalid)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const CODECS: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn compress(codec: Compression, bytes: &[u8]) -> Vec<u8> {
        match codec {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut w = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                w.write_all(bytes).expect("to memory");
                w.finish().expect("to memory")
            }
            Compression::Snappy => snap::raw::Encoder::new().compress_vec(bytes).expect("compresses"),
            Compression::Lz4 => {
                let mut w = lz4::EncoderBuilder::new().build(Vec::new()).expect("an encoder");
                w.write_all(bytes).expect("to memory");
                w.finish().0
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).expect("compresses"),
        }
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            for codec in CODECS {
                prop_assert_eq!(decompress(codec, &compress(codec, &bytes), 1 << 20).expect("ours"), bytes.clone());
            }
        }

        #[test]
        fn what_was_compressed_in_pieces_comes_back(bytes in prop::collection::vec(0..4_u8, 0..100_000), piece in 1..40_000_usize) {
            for codec in CODECS.into_iter().chain([Compression::None]) {
                let mut compressor = Compressor::new(codec, b"head".to_vec()).expect("an encoder");
                for piece in bytes.chunks(piece) {
                    compressor.write_all(piece).expect("to memory");
                }
                let compressed = compressor.finish().expect("to memory");
                let body = compressed.strip_prefix(b"head").expect("what was there stays");
                prop_assert_eq!(&decompress(codec, body, bytes.len()).expect("comes back"), &bytes);
                prop_assert!(bytes.is_empty() || decompress(codec, body, bytes.len() - 1).is_err());
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for codec in CODECS {
                let _ = decompress(codec, &bytes, 1 << 16);
            }
        }
    }

    #[test]
    fn levels_are_obeyed() {
        let text: Vec<u8> = (0..60_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 22).to_le_bytes()).collect();
        let size = |codec, level| {
            let mut compressor = Compressor::with_level(codec, level, Vec::new()).expect("an encoder");
            compressor.write_all(&text).expect("to memory");
            let out = compressor.finish().expect("to memory");
            assert_eq!(decompress(codec, &out, text.len()).expect("comes back"), text);
            out.len()
        };
        for (codec, fast, thorough) in
            [(Compression::Gzip, 1, 9), (Compression::Zstd, -50, 19), (Compression::Lz4, 9, 12)]
        {
            let (fast, thorough) = (size(codec, Some(fast)), size(codec, Some(thorough)));
            assert!(fast > thorough, "{codec:?}: {fast} bytes and {thorough}");
        }
        assert_eq!(size(Compression::Gzip, Some(-1)), size(Compression::Gzip, None));
        assert_eq!(size(Compression::Lz4, Some(9)), size(Compression::Lz4, None));
        for (codec, level) in
            [(Compression::Lz4, 1), (Compression::Lz4, 17), (Compression::Zstd, -131_072), (Compression::Zstd, 22)]
        {
            size(codec, Some(level));
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        for codec in CODECS {
            let bomb = compress(codec, &vec![0; 1 << 20]);
            assert!(decompress(codec, &bomb, 1 << 16).is_err(), "{codec:?}");
            assert_eq!(decompress(codec, &bomb, 1 << 20).expect("fits").len(), 1 << 20);
        }
    }

    #[test]
    fn a_block_that_claims_too_much_is_refused_before_it_gets_the_memory() {
        // A length of 56 MiB in front of twenty bytes: found by fuzzing.
        let claim = [&[0xff, 0xff, 0xff, 0x1a][..], &[0; 20]].concat();
        let error = decompress(Compression::Snappy, &claim, 64 << 20).expect_err("refused");
        assert!(error.to_string().contains("claims 56623103"), "{error}");
    }

    #[test]
    fn javas_framing_of_snappy_is_read() {
        let mut framed = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01".to_vec();
        for part in [&b"hello "[..], b"world"] {
            let block = compress(Compression::Snappy, part);
            framed.extend((block.len() as u32).to_be_bytes());
            framed.extend(block);
        }
        assert_eq!(decompress(Compression::Snappy, &framed, 100).expect("framed"), b"hello world");
        assert!(decompress(Compression::Snappy, &framed[..20], 100).is_err());
    }
}
