//! The frame around every request and response: a size, a header, a body.
//!
//! ```text
//! request   [size: i32][api key: i16][api version: i16][correlation id: i32][client id: nullable string][tags: flexible versions]  body
//! response  [size: i32][correlation id: i32][tags: flexible versions, but never ApiVersions]                                     body
//! ```

use super::api::Api;
use super::wire::{DecodeError, Reader};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;

/// Bytes of the size that begins a frame.
pub const SIZE_LEN: usize = 4;

/// A frame's size that will not be read: the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameSizeError {
    /// Below zero, or too short for any header.
    #[error("frame of {0} bytes: a request has at least 8")]
    TooSmall(i32),
    /// Above `socket.request.max.bytes`.
    #[error("frame of {size} bytes is larger than socket.request.max.bytes={max}")]
    TooLarge {
        /// What the peer announced.
        size: i32,
        /// What is allowed.
        max: usize,
    },
}

/// The size of the frame that begins `buf`, once its four bytes are there.
///
/// # Errors
/// A size that no request can have, or that is above `max`.
pub fn frame_size(buf: &[u8], max: usize) -> Result<Option<usize>, FrameSizeError> {
    let Some(prefix) = buf.first_chunk::<SIZE_LEN>() else { return Ok(None) };
    let size = i32::from_be_bytes(*prefix);
    match usize::try_from(size) {
        Ok(n) if n > max => Err(FrameSizeError::TooLarge { size, max }),
        Ok(n) if n >= 8 => Ok(Some(n)),
        _ => Err(FrameSizeError::TooSmall(size)),
    }
}

/// What stands before every request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API, whether we know it or not.
    pub api_key: i16,
    /// The version of it.
    pub api_version: i16,
    /// Comes back in the response.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<Arc<str>>,
}

/// A frame that cannot be answered: the connection is closed, with one log line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// An API that this broker does not have.
    #[error("unknown API key {api_key} (version {api_version})")]
    UnknownApi {
        /// The key that came.
        api_key: i16,
        /// The version that came.
        api_version: i16,
    },
    /// A version that this broker does not serve.
    #[error("{} version {api_version} is not supported, versions {} to {} are", api.key.name(), api.min, api.max)]
    UnsupportedVersion {
        /// The API.
        api: &'static Api,
        /// The version that came.
        api_version: i16,
    },
    /// Too short, or not what a header is.
    #[error("request header: {0}")]
    Malformed(#[from] DecodeError),
}

/// A request whose header was read.
#[derive(Clone, Debug)]
pub struct Request {
    /// The API it is for.
    pub api: &'static Api,
    /// Its header.
    pub header: RequestHeader,
    /// True for an ApiVersions request of a version that we do not know: answered in version 0 with
    /// `UNSUPPORTED_VERSION` and the list, so that the client can choose again (KIP-511). Its body is not looked at.
    pub fallback: bool,
}

impl Request {
    /// Reads the header off `frame` (which begins after the size) and leaves the body in it.
    ///
    /// # Errors
    /// What closes the connection.
    pub fn parse(frame: &mut BytesMut) -> Result<Self, HeaderError> {
        let mut reader = Reader::new(frame);
        let api_key = reader.i16("api key")?;
        let api_version = reader.i16("api version")?;
        let correlation_id = reader.i32("correlation id")?;
        let api = Api::find(api_key).ok_or(HeaderError::UnknownApi { api_key, api_version })?;
        let header = RequestHeader { api_key, api_version, correlation_id, client_id: None };
        if !api.serves(api_version) {
            return if api.key.answers_any_version() {
                frame.advance(reader.position());
                Ok(Self { api, header, fallback: true })
            } else {
                Err(HeaderError::UnsupportedVersion { api, api_version })
            };
        }
        let client_id = reader.nullable_string(false, "client id")?.map(Arc::from);
        reader.skip_tags(api.flexible(api_version))?;
        frame.advance(reader.position());
        Ok(Self { api, header: RequestHeader { client_id, ..header }, fallback: false })
    }

    /// The version the response is written in.
    #[must_use]
    pub fn response_version(&self) -> i16 {
        if self.fallback { 0 } else { self.header.api_version }
    }

    /// True if the body has compact types and tagged fields.
    #[must_use]
    pub fn flexible(&self) -> bool {
        self.api.flexible(self.response_version())
    }
}

/// Begins a response: room for the size, and the header.
#[must_use]
pub fn begin_response(api: &Api, version: i16, correlation_id: i32, capacity: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(SIZE_LEN + 5 + capacity);
    buf.put_i32(0);
    buf.put_i32(correlation_id);
    if api.flexible_response_header(version) {
        buf.put_u8(0);
    }
    buf
}

/// Writes the size of a response that [`begin_response`] began: what is in `buf`, and `elsewhere` bytes that follow it.
///
/// # Panics
/// If a frame is larger than its size can say: limits on requests keep responses far below.
pub fn finish_response(buf: &mut BytesMut, elsewhere: usize) {
    let size = i32::try_from(buf.len() - SIZE_LEN + elsewhere).expect("a response below 2 GiB");
    buf[..SIZE_LEN].copy_from_slice(&size.to_be_bytes());
}

/// A response, ready for the socket: pieces in order. None at all for a request that gets no answer.
#[derive(Clone, Debug, Default)]
pub struct ResponseFrame {
    /// The pieces.
    pub parts: Vec<Bytes>,
}

impl ResponseFrame {
    /// A response of one piece.
    #[must_use]
    pub fn single(bytes: Bytes) -> Self {
        Self { parts: vec![bytes] }
    }

    /// Its bytes on the wire.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    /// True if nothing is sent.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api::ApiKey;
    use kafka_protocol::messages::RequestHeader as CodecHeader;
    use kafka_protocol::protocol::{Encodable, StrBytes};
    use proptest::prelude::*;

    #[test]
    fn sizes_are_checked_before_anything_is_read() {
        assert_eq!(frame_size(&[0, 0, 0], 100), Ok(None));
        assert_eq!(frame_size(&[0, 0, 0, 8, 9], 100), Ok(Some(8)));
        assert_eq!(frame_size(&[0, 0, 0, 101], 100), Err(FrameSizeError::TooLarge { size: 101, max: 100 }));
        assert_eq!(frame_size(&[0xff; 4], 100), Err(FrameSizeError::TooSmall(-1)));
        assert_eq!(frame_size(&[0; 4], 100), Err(FrameSizeError::TooSmall(0)));
    }

    #[test]
    fn headers_of_every_version_are_read_as_the_codec_writes_them() {
        for api in Api::all() {
            for version in api.min..=api.max {
                let header_version = if api.flexible(version) { 2 } else { 1 };
                for client_id in [None, Some("rdkafka")] {
                    let header = CodecHeader::default()
                        .with_request_api_key(api.key as i16)
                        .with_request_api_version(version)
                        .with_correlation_id(77)
                        .with_client_id(client_id.map(StrBytes::from_static_str));
                    let mut frame = BytesMut::new();
                    header.encode(&mut frame, header_version).unwrap();
                    frame.put_slice(b"body");
                    let request = Request::parse(&mut frame).unwrap();
                    assert_eq!(&frame[..], b"body");
                    assert_eq!(
                        (request.api.key, request.header.api_version, request.fallback),
                        (api.key, version, false)
                    );
                    assert_eq!((request.header.correlation_id, request.header.client_id.as_deref()), (77, client_id));
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_answered_is_told_apart() {
        let frame = |key: i16, version: i16| {
            let mut frame = BytesMut::new();
            frame.put_i16(key);
            frame.put_i16(version);
            frame.put_i32(5);
            frame
        };
        assert!(matches!(Request::parse(&mut frame(999, 0)), Err(HeaderError::UnknownApi { api_key: 999, .. })));
        assert!(matches!(Request::parse(&mut frame(-1, 0)), Err(HeaderError::UnknownApi { .. })));
        assert!(matches!(Request::parse(&mut frame(3, 99)), Err(HeaderError::UnsupportedVersion { .. })));
        // Listed for librdkafka's sake, not served (KIP-896).
        assert!(matches!(Request::parse(&mut frame(0, 2)), Err(HeaderError::UnsupportedVersion { .. })));
        assert!(matches!(Request::parse(&mut frame(3, 1)), Err(HeaderError::Malformed(_))));
        let request = Request::parse(&mut frame(18, 99)).unwrap();
        assert_eq!((request.api.key, request.fallback, request.response_version()), (ApiKey::ApiVersions, true, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Request::parse(&mut BytesMut::from(&bytes[..]));
        }
    }
}
