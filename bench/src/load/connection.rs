//! Connections of the load generator: frames out, answers in, no negotiation.

use super::{LoadError, TIMEOUT};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request};
use std::io::{self, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

/// A connection that several threads may share: one sends, one receives.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    pub(super) address: String,
}

impl Connection {
    /// Opens a connection to `host:port`.
    pub(super) fn open(address: &str) -> Result<Self, LoadError> {
        let failed = |cause| LoadError::Connection { address: address.to_owned(), cause };
        let mut sockets = address.to_socket_addrs().map_err(failed)?;
        let none = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let socket = sockets.next().ok_or_else(none).map_err(failed)?;
        let stream = TcpStream::connect_timeout(&socket, TIMEOUT).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(failed)?;
        Ok(Self { stream, address: address.to_owned() })
    }

    fn failed(&self, cause: io::Error) -> LoadError {
        LoadError::Connection { address: self.address.clone(), cause }
    }

    /// Puts a request behind others that go out with it, by [`Connection::send_frames`].
    pub(super) fn frame<Q: Request>(
        &self,
        frames: &mut Vec<u8>,
        request: &Q,
        version: i16,
        correlation_id: i32,
    ) -> Result<(), LoadError> {
        let invalid = |what: String| self.failed(io::Error::new(io::ErrorKind::InvalidInput, what));
        frames.extend_from_slice(&crate::client::encode_frame(request, version, correlation_id).map_err(invalid)?);
        Ok(())
    }

    /// Sends requests with one write.
    pub(super) fn send_frames(&self, frames: &[u8]) -> Result<(), LoadError> {
        (&self.stream).write_all(frames).map_err(|e| self.failed(e))
    }

    /// What receives with few reads; nobody else may receive.
    pub(super) fn answers(&self) -> Answers<'_> {
        Answers { connection: self, reader: BufReader::with_capacity(64 << 10, &self.stream) }
    }

    /// Sends a request.
    pub(super) fn send<Q: Request>(&self, request: &Q, version: i16, correlation_id: i32) -> Result<(), LoadError> {
        let invalid = |what: String| self.failed(io::Error::new(io::ErrorKind::InvalidInput, what));
        let frame = crate::client::encode_frame(request, version, correlation_id).map_err(invalid)?;
        (&self.stream).write_all(&frame).map_err(|e| self.failed(e))
    }

    /// Receives the next answer, which must carry `correlation_id`.
    pub(super) fn receive<P: Decodable + HeaderVersion>(
        &self,
        version: i16,
        correlation_id: i32,
    ) -> Result<P, LoadError> {
        self.receive_from(&mut &self.stream, version, correlation_id)
    }

    fn receive_from<P: Decodable + HeaderVersion>(
        &self,
        reader: &mut impl Read,
        version: i16,
        correlation_id: i32,
    ) -> Result<P, LoadError> {
        let mut frame = crate::client::read_frame(reader).map_err(|e| self.failed(e))?;
        let invalid = |what: String| self.failed(io::Error::new(io::ErrorKind::InvalidData, what));
        let header =
            ResponseHeader::decode(&mut frame, P::header_version(version)).map_err(|e| invalid(e.to_string()))?;
        if header.correlation_id != correlation_id {
            return Err(invalid(format!("correlation id {}, expected {correlation_id}", header.correlation_id)));
        }
        P::decode(&mut frame, version).map_err(|e| invalid(e.to_string()))
    }

    /// Ends both directions: a receive under way fails.
    pub(super) fn shutdown(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// The answers of a connection, with few reads.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    connection: &'a Connection,
    reader: BufReader<&'a TcpStream>,
}

impl Answers<'_> {
    /// Receives the next answer, which must carry `correlation_id`.
    pub(super) fn receive<P: Decodable + HeaderVersion>(
        &mut self,
        version: i16,
        correlation_id: i32,
    ) -> Result<P, LoadError> {
        self.connection.receive_from(&mut self.reader, version, correlation_id)
    }

    /// True if at least the beginning of another answer is here.
    pub(super) fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }
}
