//! Kafka's primitive types, read with bounds and written by hand: for what is parsed or encoded without the codec.

use bytes::{BufMut, BytesMut};
use std::ops::Range;

/// Bytes from the wire that are not what the protocol says. The connection they came on is of no further use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The body ends too early.
    #[error("{what} at byte {at}: {wanted} bytes expected, {left} left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the body.
        at: usize,
        /// Bytes it needs.
        wanted: usize,
        /// Bytes there are.
        left: usize,
    },
    /// A length or count that the body cannot hold, or that is not allowed.
    #[error("{what} at byte {at}: {value} is not a possible length, {left} bytes are left")]
    Length {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the body.
        at: usize,
        /// The length that came.
        value: i64,
        /// Bytes there are.
        left: usize,
    },
    /// A string that is not UTF-8.
    #[error("{what} at byte {at}: not UTF-8")]
    Utf8 {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the body.
        at: usize,
    },
    /// More array elements in one request than any client sends.
    #[error("more than {max} array elements in one request")]
    Elements {
        /// The bound.
        max: usize,
    },
    /// The codec's own word.
    #[error("{0}")]
    Codec(String),
}

/// Reads a body from the front; never past its end, never panics.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    buf: &'a [u8],
    at: usize,
}

macro_rules! ints {
    ($($name:ident: $t:ty;)*) => {
        $(
            /// The next big-endian number.
            #[inline]
            pub fn $name(&mut self, what: &'static str) -> Result<$t, DecodeError> {
                const N: usize = size_of::<$t>();
                let bytes = self.take(N, what)?;
                Ok(<$t>::from_be_bytes(bytes.try_into().expect("take gives N bytes")))
            }
        )*
    };
}

impl<'a> Reader<'a> {
    /// Reads from the start of `buf`.
    #[must_use]
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf, at: 0 }
    }

    /// Where the next byte is read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Bytes that are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.buf.len() - self.at
    }

    /// The next `len` bytes.
    #[inline]
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let left = self.left();
        if len > left {
            return Err(DecodeError::Truncated { what, at: self.at, wanted: len, left });
        }
        let bytes = &self.buf[self.at..self.at + len];
        self.at += len;
        Ok(bytes)
    }

    ints! {
        u8: u8;
        i8: i8;
        i16: i16;
        i32: i32;
        i64: i64;
    }

    /// An unsigned varint of at most 32 bits; longer ones are refused.
    pub fn varint(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let at = self.at;
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.u8(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return match u32::try_from(value) {
                    Ok(value) => Ok(value),
                    Err(_) => Err(self.bad_length(what, at, value as i64)),
                };
            }
        }
        Err(self.bad_length(what, at, value as i64))
    }

    fn bad_length(&self, what: &'static str, at: usize, value: i64) -> DecodeError {
        DecodeError::Length { what, at, value, left: self.left() }
    }

    /// The length of a string: `None` for null.
    pub(super) fn string_length(&mut self, flexible: bool, what: &'static str) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        if flexible {
            // A string longer than an i16 says is refused, as Kafka does.
            return match self.varint(what)? {
                0 => Ok(None),
                n if n - 1 > i16::MAX as u32 => Err(self.bad_length(what, at, i64::from(n) - 1)),
                n => Ok(Some(n as usize - 1)),
            };
        }
        match self.i16(what)? {
            -1 => Ok(None),
            n if n < 0 => Err(self.bad_length(what, at, i64::from(n))),
            n => Ok(Some(n as usize)),
        }
    }

    /// A string that may be null.
    pub fn nullable_string(&mut self, flexible: bool, what: &'static str) -> Result<Option<&'a str>, DecodeError> {
        let Some(len) = self.string_length(flexible, what)? else { return Ok(None) };
        let at = self.at;
        let bytes = self.take(len, what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(DecodeError::Utf8 { what, at }),
        }
    }

    /// A string; null is refused.
    pub fn string(&mut self, flexible: bool, what: &'static str) -> Result<&'a str, DecodeError> {
        let at = self.at;
        self.nullable_string(flexible, what)?.ok_or_else(|| self.bad_length(what, at, -1))
    }

    /// Where the bytes of a bytes or records field are; `None` for null.
    pub fn nullable_bytes(&mut self, flexible: bool, what: &'static str) -> Result<Option<Range<usize>>, DecodeError> {
        let at = self.at;
        let len = if flexible {
            match self.varint(what)? {
                0 => return Ok(None),
                n => n as usize - 1,
            }
        } else {
            match self.i32(what)? {
                -1 => return Ok(None),
                n if n < 0 => return Err(self.bad_length(what, at, i64::from(n))),
                n => n as usize,
            }
        };
        let start = self.at;
        self.take(len, what)?;
        Ok(Some(start..self.at))
    }

    /// The number of elements of an array: `None` for null. Never more than there are bytes left, so that a caller may
    /// reserve room for them.
    pub fn nullable_array(&mut self, flexible: bool, what: &'static str) -> Result<Option<usize>, DecodeError> {
        let at = self.at;
        let count = if flexible {
            match self.varint(what)? {
                0 => return Ok(None),
                n => n as usize - 1,
            }
        } else {
            match self.i32(what)? {
                -1 => return Ok(None),
                n if n < 0 => return Err(self.bad_length(what, at, i64::from(n))),
                n => n as usize,
            }
        };
        if count > self.left() {
            return Err(self.bad_length(what, at, count as i64));
        }
        Ok(Some(count))
    }

    /// The number of elements of an array; null is refused.
    pub fn array(&mut self, flexible: bool, what: &'static str) -> Result<usize, DecodeError> {
        let at = self.at;
        self.nullable_array(flexible, what)?.ok_or_else(|| self.bad_length(what, at, -1))
    }

    /// Passes over the tagged fields that end a structure, where the version has them.
    pub fn skip_tags(&mut self, flexible: bool) -> Result<(), DecodeError> {
        if !flexible {
            return Ok(());
        }
        for _ in 0..self.varint("number of tagged fields")? {
            self.varint("tag")?;
            let len = self.varint("length of a tagged field")?;
            self.take(len as usize, "tagged field")?;
        }
        Ok(())
    }
}

/// Bytes that [`put_varint`] writes.
#[must_use]
pub const fn varint_len(value: u32) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        0x20_0000..=0xfff_ffff => 4,
        _ => 5,
    }
}

/// Writes an unsigned varint.
pub fn put_varint(buf: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buf.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    buf.put_u8(value as u8);
}

/// Writes a string; longer than a protocol string may be is cut (only our own error messages can be).
pub fn put_string(buf: &mut BytesMut, flexible: bool, text: &str) {
    let mut len = text.len().min(i16::MAX as usize);
    while !text.is_char_boundary(len) {
        len -= 1;
    }
    if flexible {
        put_varint(buf, len as u32 + 1);
    } else {
        buf.put_i16(len as i16);
    }
    buf.put_slice(&text.as_bytes()[..len]);
}

/// Writes a string that may be null.
pub fn put_nullable_string(buf: &mut BytesMut, flexible: bool, text: Option<&str>) {
    match text {
        Some(text) => put_string(buf, flexible, text),
        None if flexible => buf.put_u8(0),
        None => buf.put_i16(-1),
    }
}

/// Writes the length of an array, or of bytes.
pub fn put_length(buf: &mut BytesMut, flexible: bool, len: usize) {
    if flexible {
        put_varint(buf, len as u32 + 1);
    } else {
        buf.put_i32(len as i32);
    }
}

/// Writes an empty list of tagged fields, where the version has them.
pub fn put_no_tags(buf: &mut BytesMut, flexible: bool) {
    if flexible {
        buf.put_u8(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_that_overflow_are_refused() {
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint("n"), Ok(u32::MAX));
        assert!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).varint("n").is_err());
        assert!(Reader::new(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]).varint("n").is_err());
        let huge = [0x7f, 0xff, 0xff, 0xff, 0, 0];
        assert_eq!(
            Reader::new(&huge).array(false, "topics"),
            Err(DecodeError::Length { what: "topics", at: 0, value: i64::from(i32::MAX), left: 2 })
        );
        assert!(Reader::new(&[0x80, 0, 0, 0]).nullable_array(false, "topics").is_err());
        assert_eq!(Reader::new(&[0xff; 4]).nullable_array(false, "topics"), Ok(None));
        assert!(Reader::new(&[0]).array(true, "topics").is_err());
    }

    proptest! {
        #[test]
        fn varints_come_back(value: u32) {
            let mut buf = BytesMut::new();
            put_varint(&mut buf, value);
            prop_assert_eq!(buf.len(), varint_len(value));
            prop_assert_eq!(Reader::new(&buf).varint("n"), Ok(value));
        }

        #[test]
        fn strings_come_back(text in ".{0,40}", flexible: bool) {
            let mut buf = BytesMut::new();
            put_string(&mut buf, flexible, &text);
            put_nullable_string(&mut buf, flexible, None);
            let mut reader = Reader::new(&buf);
            prop_assert_eq!(reader.string(flexible, "s"), Ok(text.as_str()));
            prop_assert_eq!(reader.nullable_string(flexible, "s"), Ok(None));
            prop_assert_eq!(reader.left(), 0);
        }
    }
}
