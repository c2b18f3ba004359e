//! The four codecs of record batches, read only, with a bound on what comes out.
//!
//! Batches are stored as they come; only what must look at single records of a compressed batch (offsets by time, a
//! producer that leaves the largest timestamp out) comes here.

use super::batch::Compression;
use std::io::{self, Read};

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
    match codec {
        Compression::None => Ok(bytes.to_vec()),
        Compression::Gzip => bounded(flate2::read::MultiGzDecoder::new(bytes), max),
        Compression::Lz4 => bounded(lz4::Decoder::new(bytes)?, max),
        Compression::Zstd => bounded(zstd::stream::read::Decoder::new(bytes)?, max),
        Compression::Snappy => snappy(bytes, max),
    }
}

fn too_large(max: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("records take more than {max} bytes uncompressed"))
}

fn bounded(reader: impl Read, max: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(max as u64 + 1).read_to_end(&mut out)?;
    if out.len() > max { Err(too_large(max)) } else { Ok(out) }
}

fn snappy(bytes: &[u8], max: usize) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if !bytes.starts_with(XERIAL_MAGIC) {
        snappy_block(bytes, max, &mut out)?;
        return Ok(out);
    }
    let cut = || io::Error::new(io::ErrorKind::UnexpectedEof, "a snappy block is cut off");
    let mut rest = bytes.get(XERIAL_HEADER..).ok_or_else(cut)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let block = after.get(..u32::from_be_bytes(*length) as usize).ok_or_else(cut)?;
        snappy_block(block, max, &mut out)?;
        rest = &after[block.len()..];
    }
    Ok(out)
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
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for codec in CODECS {
                let _ = decompress(codec, &bytes, 1 << 16);
            }
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
