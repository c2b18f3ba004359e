//! What messages of our own are written with: fixed-size numbers, texts, arrays, as Kafka's versions without compact types.

use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};

pub(super) type Result<T> = std::result::Result<T, anyhow::Error>;

pub(super) fn enough<B: ByteBuf>(buf: &B, bytes: usize) -> Result<()> {
    anyhow::ensure!(buf.remaining() >= bytes, "{} bytes are left, expected {bytes}", buf.remaining());
    Ok(())
}

pub(super) fn put_text<B: ByteBufMut>(buf: &mut B, text: Option<&str>) -> Result<()> {
    match text {
        None => buf.put_i16(-1),
        Some(text) => {
            buf.put_i16(i16::try_from(text.len())?);
            buf.put_slice(text.as_bytes());
        }
    }
    Ok(())
}

pub(super) fn get_text<B: ByteBuf>(buf: &mut B) -> Result<Option<String>> {
    enough(buf, 2)?;
    let Ok(len) = usize::try_from(buf.get_i16()) else { return Ok(None) };
    enough(buf, len)?;
    let mut bytes = vec![0; len];
    buf.copy_to_slice(&mut bytes);
    Ok(Some(String::from_utf8(bytes)?))
}

/// An array of items of at least `size` bytes.
pub(super) fn get_all<B: ByteBuf, T>(buf: &mut B, size: usize, item: impl Fn(&mut B) -> Result<T>) -> Result<Vec<T>> {
    enough(buf, 4)?;
    let count = usize::try_from(buf.get_i32()).unwrap_or(0);
    enough(buf, count.saturating_mul(size))?;
    (0..count).map(|_| item(buf)).collect()
}

/// Messages of one version, 0, and the versions of their headers.
macro_rules! version_zero {
    ($($message:ty => $header:expr),*) => {$(
        impl ::kafka_protocol::protocol::Message for $message {
            const VERSIONS: ::kafka_protocol::protocol::VersionRange =
                ::kafka_protocol::protocol::VersionRange { min: 0, max: 0 };
            const DEPRECATED_VERSIONS: Option<::kafka_protocol::protocol::VersionRange> = None;
        }

        impl ::kafka_protocol::protocol::HeaderVersion for $message {
            fn header_version(_version: i16) -> i16 {
                $header
            }
        }
    )*};
}
pub(super) use version_zero;
