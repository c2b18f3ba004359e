//! The door to the codec crate: bodies in, frames out. Produce requests and Fetch responses do not go through it.

use super::api::Api;
use super::frame::{Request, ResponseFrame, begin_response, finish_response};
use super::schema;
use super::wire::DecodeError;
use bytes::Bytes;
use kafka_protocol::protocol::{Encodable, Request as CodecRequest, StrBytes};

/// Decodes the body of `request`. Bytes of `body` may be shared by what comes out.
///
/// # Errors
/// A body that is not what the version says; the connection is closed then, as Kafka does.
pub fn decode<T: CodecRequest>(request: &Request, mut body: Bytes) -> Result<T, DecodeError> {
    let version = request.header.api_version;
    assert_eq!(T::KEY, request.api.key as i16, "the dispatch decodes what came");
    schema::check(request.api.schema, version, request.api.flexible(version), &body)?;
    T::decode(&mut body, version).map_err(|error| DecodeError::Codec(error.to_string()))
}

/// Encodes the response to `request`, frame and all.
///
/// # Panics
/// If the response has a field that its version cannot carry: the handler that built it is wrong.
pub fn encode<T: Encodable>(request: &Request, response: &T) -> ResponseFrame {
    encode_as(request.api, request.response_version(), request.header.correlation_id, response)
}

/// As [`encode`], for a response without a request at hand.
///
/// # Panics
/// As [`encode`].
pub fn encode_as<T: Encodable>(api: &Api, version: i16, correlation_id: i32, response: &T) -> ResponseFrame {
    let name = api.key.name();
    let size = response.compute_size(version).unwrap_or(0);
    let mut buf = begin_response(api, version, correlation_id, size);
    if let Err(error) = response.encode(&mut buf, version) {
        panic!("response to {name} version {version} does not encode: {error}");
    }
    finish_response(&mut buf, 0);
    ResponseFrame::single(buf.freeze())
}

/// A string for a codec structure.
#[must_use]
pub fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::api::ApiKey;
    use crate::protocol::frame::RequestHeader;
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
    use kafka_protocol::messages::{FetchRequest, MetadataRequest, MetadataResponse};

    fn request(key: ApiKey, version: i16) -> Request {
        let header = RequestHeader { api_key: key as i16, api_version: version, correlation_id: 9, client_id: None };
        Request { api: Api::of(key), header, fallback: false }
    }

    #[test]
    fn an_absurd_array_length_is_an_error_and_no_allocation() {
        for (version, body) in [(1, &[0x7f, 0xff, 0xff, 0xff][..]), (12, &[0xff, 0xff, 0xff, 0xff, 0x0f][..])] {
            let error = decode::<MetadataRequest>(&request(ApiKey::Metadata, version), Bytes::copy_from_slice(body));
            assert!(matches!(error, Err(DecodeError::Length { what: "topics", .. })), "{error:?}");
        }
    }

    #[test]
    fn more_elements_than_a_client_sends_are_refused() {
        let mut body = BytesMut::new();
        body.put_i32(2 << 20);
        body.put_bytes(0, 4 << 20);
        let error = decode::<MetadataRequest>(&request(ApiKey::Metadata, 1), body.freeze());
        assert_eq!(error, Err(DecodeError::Elements { max: schema::ELEMENTS_MAX }));
    }

    #[test]
    fn a_known_tag_must_have_the_length_of_its_contents() {
        let partition = FetchPartition::default().with_replica_directory_id(uuid::Uuid::from_u128(7));
        let topic = FetchTopic::default().with_partitions(vec![partition]);
        let good = FetchRequest::default().with_topics(vec![topic]);
        let mut body = BytesMut::new();
        good.encode(&mut body, 17).unwrap();
        let tag = body.windows(3).position(|w| w == [1, 0, 16]).expect("one tag, number 0, 16 bytes");
        let mut bad = body.clone();
        assert_eq!(decode::<FetchRequest>(&request(ApiKey::Fetch, 17), body.freeze()), Ok(good));
        bad[tag + 2] = 15;
        let error = decode::<FetchRequest>(&request(ApiKey::Fetch, 17), bad.freeze());
        assert!(matches!(error, Err(DecodeError::Length { what: "replica_directory_id", .. })), "{error:?}");
    }

    #[test]
    fn a_frame_has_its_size_and_correlation_id() {
        let frame = encode(&request(ApiKey::Metadata, 9), &MetadataResponse::default());
        let bytes = &frame.parts[0];
        assert_eq!(bytes[..4], (bytes.len() as i32 - 4).to_be_bytes());
        assert_eq!(bytes[4..9], [0, 0, 0, 9, 0]);
    }
}
