//! Listeners and byte streams.

use crate::error::IoResult;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::net::SocketAddr;

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Several shards listen on one address and the kernel spreads connections (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Connections the kernel holds before `accept`.
    pub backlog: u32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { reuse_port: true, backlog: 1024 }
    }
}

/// Accepts connections for one shard.
pub trait Listener: 'static {
    /// The backend's stream.
    type Stream: Stream;
    /// The address that was bound (the port is known now if 0 was asked for).
    fn local_addr(&self) -> SocketAddr;
    /// Waits for the next connection. Errors of one connection (reset before accept) are skipped inside;
    /// out of descriptors is an error of kind `Other`, after which the caller waits and tries again.
    fn accept(&self) -> impl Future<Output = IoResult<Self::Stream>>;
}

/// A connected byte stream. One task reads, one task writes; both may share it in an `Rc`.
pub trait Stream: 'static {
    /// The other end.
    fn peer_addr(&self) -> SocketAddr;

    /// Waits until bytes are there and reads what fits into `buf`'s spare capacity (which must not be empty: asserted),
    /// appending. Returns the number of bytes; 0 is the end of the stream.
    fn read(&self, buf: &mut BytesMut) -> impl Future<Output = IoResult<usize>> {
        self.read_at_least(buf, 1)
    }

    /// As [`Stream::read`], for who has no use for less than `least` bytes (at least 1, at most the spare capacity: asserted).
    /// It may return less all the same; but where it waits, it is woken once for all of them, not for each packet
    /// (`SO_RCVLOWAT`). Whoever asks for more than the peer sends waits until the stream ends.
    fn read_at_least(&self, buf: &mut BytesMut, least: usize) -> impl Future<Output = IoResult<usize>>;

    /// Sends every part in order, without copying them in user space where the backend can, and removes what was sent.
    /// On an error an unknown prefix has gone: the stream is good for nothing but closing.
    fn write_all(&self, parts: &mut VecDeque<Bytes>) -> impl Future<Output = IoResult<()>>;

    /// Ends both directions now; a pending read returns 0 or an error.
    fn shutdown(&self);
}

/// The network of one shard.
pub trait Net {
    /// The backend's stream.
    type Stream: Stream;
    /// The backend's listener.
    type Listener: Listener<Stream = Self::Stream>;
    /// A connection on its way to another shard of the same process.
    type Parcel: Send + 'static;

    /// Binds and listens.
    fn listen(&self, address: SocketAddr, options: ListenOptions) -> impl Future<Output = IoResult<Self::Listener>>;
    /// Connects.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = IoResult<Self::Stream>>;
    /// Takes a stream off this shard. No read or write may be under way (asserted).
    fn pack(&self, stream: Self::Stream) -> Self::Parcel;
    /// Takes over a stream from another shard.
    fn unpack(&self, parcel: Self::Parcel) -> IoResult<Self::Stream>;
}
