//! A small blocking Kafka client: one connection, one request at a time, versions negotiated.
//!
//! For tools and tests; the load generator has its own pipelined connections.

mod metadata;
mod records;

pub use kafka_protocol::records::{Compression, Record, TimestampType};
pub use metadata::{Cluster, Node, Topic};
pub use records::{Fetched, NewRecord, OffsetSpec, partition_of_key};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Responses longer than this are refused: no broker answers a tool with more.
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect to {address}: {cause}")]
    Connect {
        /// Where to.
        address: String,
        /// The system's word.
        cause: io::Error,
    },
    /// The connection broke or timed out.
    #[error("{address} did not answer {api:?}: {cause}")]
    Io {
        /// The broker.
        address: String,
        /// The request.
        api: ApiKey,
        /// The system's word.
        cause: io::Error,
    },
    /// The broker has no version of the request that this client has.
    #[error("{address} serves {api:?} {theirs:?}, this client knows {ours:?}: no common version")]
    Version {
        /// The broker.
        address: String,
        /// The request.
        api: ApiKey,
        /// Lowest and highest version of the broker; none if it does not know the request.
        theirs: Option<(i16, i16)>,
        /// Lowest and highest version of this client.
        ours: (i16, i16),
    },
    /// The answer is not what the protocol says.
    #[error("{address} answered {api:?} with bytes that do not decode: {what}")]
    Malformed {
        /// The broker.
        address: String,
        /// The request.
        api: ApiKey,
        /// What is wrong.
        what: String,
    },
}

/// Result of a call.
pub type ClientResult<T> = Result<T, ClientError>;

/// A connection to one broker.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    address: String,
    versions: HashMap<i16, (i16, i16)>,
    correlation_id: i32,
    /// Records and ends of logs as they are committed: see [`Client::read_committed`].
    committed: bool,
}

impl Client {
    /// Connects to `host:port` and asks which versions it serves. `timeout` holds for the connect and for each answer.
    ///
    /// # Errors
    /// `Connect`, or what the first call gives.
    pub fn connect(address: &str, timeout: Duration) -> ClientResult<Self> {
        let failed = |cause| ClientError::Connect { address: address.to_owned(), cause };
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut connected = None;
        for socket in address.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&socket, timeout) {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(e) => last = e,
            }
        }
        let stream = connected.ok_or_else(|| failed(last))?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(timeout)).map_err(failed)?;
        stream.set_write_timeout(Some(timeout)).map_err(failed)?;
        let mut client =
            Self { stream, address: address.to_owned(), versions: HashMap::new(), correlation_id: 0, committed: false };
        let name = StrBytes::from_static_str("coreline");
        let version = StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
        let ask = ApiVersionsRequest::default().with_client_software_name(name).with_client_software_version(version);
        let answer: ApiVersionsResponse = client.call_version(&ask, 3)?;
        client.versions = answer.api_keys.iter().map(|k| (k.api_key, (k.min_version, k.max_version))).collect();
        Ok(client)
    }

    /// The broker's address as it was given.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The APIs that the broker serves, in the order of their keys: key, lowest and highest version.
    #[must_use]
    pub fn served(&self) -> Vec<(i16, i16, i16)> {
        let mut served: Vec<_> = self.versions.iter().map(|(key, (min, max))| (*key, *min, *max)).collect();
        served.sort_unstable();
        served
    }

    /// The highest version of a request that both sides know.
    ///
    /// # Errors
    /// `Version` when there is none.
    pub fn version_of<Q: Request>(&self) -> ClientResult<i16> {
        let theirs = self.versions.get(&Q::KEY).copied();
        let ours = (Q::VERSIONS.min, Q::VERSIONS.max);
        let api = ApiKey::try_from(Q::KEY).unwrap_or(ApiKey::ApiVersions);
        let none = || ClientError::Version { address: self.address.clone(), api, theirs, ours };
        let (min, max) = theirs.ok_or_else(none)?;
        let version = max.min(ours.1);
        if version < min || version < ours.0 { Err(none()) } else { Ok(version) }
    }

    /// Sends a request in the highest common version and waits for the answer.
    ///
    /// # Errors
    /// See [`ClientError`]; an error code inside the answer is the caller's to read.
    pub fn call<Q: Request>(&mut self, request: &Q) -> ClientResult<Q::Response> {
        let version = self.version_of::<Q>()?;
        self.call_version(request, version)
    }

    /// Sends a request that has no answer (produce with acks 0).
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send_only<Q: Request>(&mut self, request: &Q, version: i16) -> ClientResult<()> {
        let api = ApiKey::try_from(Q::KEY).unwrap_or(ApiKey::ApiVersions);
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let address = self.address.clone();
        let frame = encode_frame(request, version, self.correlation_id).map_err(|what| ClientError::Malformed {
            address: address.clone(),
            api,
            what,
        })?;
        self.stream.write_all(&frame).map_err(|cause| ClientError::Io { address, api, cause })
    }

    /// As [`Client::call`], in a version the caller chose.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn call_version<Q: Request>(&mut self, request: &Q, version: i16) -> ClientResult<Q::Response> {
        let api = ApiKey::try_from(Q::KEY).unwrap_or(ApiKey::ApiVersions);
        self.correlation_id = self.correlation_id.wrapping_add(1);
        let address = self.address.clone();
        let malformed = |what: String| ClientError::Malformed { address: address.clone(), api, what };
        let frame = encode_frame(request, version, self.correlation_id).map_err(|e| malformed(e.to_string()))?;
        let failed = |cause| ClientError::Io { address: address.clone(), api, cause };
        self.stream.write_all(&frame).map_err(failed)?;
        let mut answer = read_frame(&mut self.stream).map_err(failed)?;
        let header = ResponseHeader::decode(&mut answer, Q::Response::header_version(version))
            .map_err(|e| malformed(e.to_string()))?;
        if header.correlation_id != self.correlation_id {
            let (got, expected) = (header.correlation_id, self.correlation_id);
            return Err(malformed(format!("correlation id {got}, expected {expected}")));
        }
        Q::Response::decode(&mut answer, version).map_err(|e| malformed(e.to_string()))
    }
}

/// The bytes of a request: size, header, body.
///
/// # Errors
/// When the body cannot be said in that version.
pub fn encode_frame<Q: Request>(request: &Q, version: i16, correlation_id: i32) -> Result<BytesMut, String> {
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_static_str("coreline")));
    let mut frame = BytesMut::with_capacity(256);
    frame.extend_from_slice(&[0; 4]);
    header.encode(&mut frame, Q::header_version(version)).map_err(|e| e.to_string())?;
    request.encode(&mut frame, version).map_err(|e| e.to_string())?;
    let size = u32::try_from(frame.len() - 4).map_err(|e| e.to_string())?;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    Ok(frame)
}

/// Reads one frame: a size, then that many bytes.
///
/// # Errors
/// The connection's, and `InvalidData` for a size no broker would send.
pub fn read_frame(stream: &mut impl Read) -> io::Result<Bytes> {
    let mut size = [0; 4];
    stream.read_exact(&mut size)?;
    let size = usize::try_from(i32::from_be_bytes(size)).unwrap_or(usize::MAX);
    if size > RESPONSE_BYTES_MAX {
        let what = format!("a response of {size} bytes, at most {RESPONSE_BYTES_MAX} expected");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut frame = vec![0; size];
    stream.read_exact(&mut frame)?;
    Ok(frame.into())
}
