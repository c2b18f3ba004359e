//! Bytes of the metadata log: big-endian numbers, lengths before contents, bounds checked on the way back.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

/// Bytes that are not what this version writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("metadata at byte {at}: expected {expected}")]
pub struct DecodeError {
    /// Where, from the start of the piece.
    pub at: usize,
    /// What was expected.
    pub expected: &'static str,
}

pub(super) fn put_bytes(b: &mut BytesMut, bytes: &[u8]) {
    b.put_u32(u32::try_from(bytes.len()).expect("a piece of metadata is below 4 GiB"));
    b.put_slice(bytes);
}

pub(super) fn put_string(b: &mut BytesMut, text: &str) {
    put_bytes(b, text.as_bytes());
}

pub(super) fn put_option(b: &mut BytesMut, text: Option<&str>) {
    b.put_u8(u8::from(text.is_some()));
    if let Some(text) = text {
        put_string(b, text);
    }
}

pub(super) fn put_ints(b: &mut BytesMut, numbers: &[i32]) {
    b.put_u32(u32::try_from(numbers.len()).expect("a list is below 2^32"));
    for n in numbers {
        b.put_i32(*n);
    }
}

/// Reads what the functions above wrote.
pub(super) struct Decoder {
    bytes: Bytes,
    at: usize,
}

impl Decoder {
    pub(super) fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn is_done(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(super) fn fail<T>(&self, expected: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError { at: self.at, expected })
    }

    fn take(&mut self, count: usize, expected: &'static str) -> Result<Bytes, DecodeError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return self.fail(expected) };
        let taken = self.bytes.slice(self.at..end);
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        let taken = self.take(N, expected)?;
        Ok(taken[..].try_into().expect("as long as asked for"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>("one byte")?[0])
    }

    pub(super) fn boolean(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => self.fail("0 or 1"),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array("a 16-bit number")?))
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array("a 32-bit number")?))
    }

    pub(super) fn i32(&mut self) -> Result<i32, DecodeError> {
        Ok(i32::from_be_bytes(self.array("a 32-bit number")?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array("a 64-bit number")?))
    }

    pub(super) fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array("a 64-bit number")?))
    }

    pub(super) fn uuid(&mut self) -> Result<Uuid, DecodeError> {
        Ok(Uuid::from_bytes(self.array("a uuid")?))
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.take(length, "as many bytes as the length says")
    }

    pub(super) fn string(&mut self) -> Result<String, DecodeError> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => self.fail("UTF-8"),
        }
    }

    pub(super) fn option(&mut self) -> Result<Option<String>, DecodeError> {
        if self.boolean()? { Ok(Some(self.string()?)) } else { Ok(None) }
    }

    /// A list's length, which must be possible with at least `each` bytes an item.
    pub(super) fn count(&mut self, each: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        if count > (self.bytes.len() - self.at) / each.max(1) {
            return self.fail("a list that fits in what is left");
        }
        Ok(count)
    }

    pub(super) fn ints(&mut self) -> Result<Vec<i32>, DecodeError> {
        let count = self.count(4)?;
        (0..count).map(|_| self.i32()).collect()
    }
}
