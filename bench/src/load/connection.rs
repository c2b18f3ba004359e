//! Connections of the load generator: frames out, answers in, no negotiation.

use super::{LoadError, TIMEOUT};
use kafka_protocol::messages::ResponseHeader;
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request};
use std::io::{self, Write};
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
        let mut frame = crate::client::read_frame(&mut &self.stream).map_err(|e| self.failed(e))?;
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
