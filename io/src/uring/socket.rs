//! Listeners and streams: plain non-blocking calls, readiness from `readiness.rs`.

use super::UringRuntime;
use super::readiness::Registered;
use crate::counters::add;
use crate::error::{IoError, IoErrorKind, IoResult};
use crate::net::{ListenOptions, Listener, Net, Stream};
use crate::runtime::Tasks;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::OwnedFd;

/// `IOV_MAX` of Linux.
const PARTS_MOST: usize = 1024;
/// What one `sendmsg` is given at most: it copies, and must not hold the core.
const SEND_MOST: usize = 1 << 20;

/// A connection of the glommio backend.
#[derive(Debug)]
pub struct UringStream {
    runtime: UringRuntime,
    socket: Registered,
    peer: SocketAddr,
    /// What `SO_RCVLOWAT` was set to.
    low_water: Cell<usize>,
}

/// A listening socket of the glommio backend.
#[derive(Debug)]
pub struct UringListener {
    runtime: UringRuntime,
    socket: Registered,
    address: SocketAddr,
}

/// A connection between two shards.
#[derive(Debug)]
pub struct UringParcel {
    fd: OwnedFd,
    peer: SocketAddr,
}

impl UringStream {
    fn new(runtime: &UringRuntime, fd: OwnedFd, peer: SocketAddr) -> IoResult<Self> {
        Ok(Self { runtime: runtime.clone(), socket: runtime.register(fd)?, peer, low_water: Cell::new(1) })
    }

    /// From here on the socket is readable when that many bytes are there; at once, if they are.
    fn set_low_water(&self, bytes: usize) -> IoResult<()> {
        if self.low_water.get() == bytes {
            return Ok(());
        }
        let value = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        let (pointer, len) = ((&raw const value).cast(), size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: pointer and length are those of a live integer, which the kernel only reads.
        #[allow(unsafe_code)]
        let set = unsafe { libc::setsockopt(self.socket.raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, pointer, len) };
        if set != 0 {
            return Err(IoError::new("set SO_RCVLOWAT", io::Error::last_os_error()));
        }
        self.low_water.set(bytes);
        Ok(())
    }

    /// Receives into the spare room of `buf`.
    fn receive(&self, buf: &mut BytesMut) -> io::Result<usize> {
        let counters = &self.runtime.0.counters;
        let room = buf.capacity() - buf.len();
        let target = buf.spare_capacity_mut().as_mut_ptr();
        // SAFETY: the kernel writes at most `room` bytes to memory of `buf` that nobody else refers to.
        #[allow(unsafe_code)]
        let got = unsafe { libc::recv(self.socket.raw_fd(), target.cast(), room, libc::MSG_DONTWAIT) };
        add(&counters.recv_calls, 1);
        let Ok(got) = usize::try_from(got) else { return Err(io::Error::last_os_error()) };
        // SAFETY: the kernel wrote that many bytes, at most `room`.
        #[allow(unsafe_code)]
        unsafe {
            buf.advance_mut(got);
        }
        add(&counters.recv_bytes, got);
        if got > 0 && got < room {
            self.socket.drained();
        }
        Ok(got)
    }

    /// Sends the first parts, as many as one call takes; the number of bytes that went.
    fn send(&self, parts: &VecDeque<Bytes>) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        if let (1, Some(only)) = (parts.len(), parts.front()) {
            let len = only.len().min(SEND_MOST);
            // SAFETY: pointer and length are within a live part, which the kernel only reads.
            #[allow(unsafe_code)]
            let sent = unsafe { libc::send(self.socket.raw_fd(), only.as_ptr().cast(), len, flags) };
            return self.sent(sent);
        }
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; PARTS_MOST];
        let (mut count, mut total) = (0, 0);
        for part in parts.iter().take(PARTS_MOST) {
            let len = part.len().min(SEND_MOST - total);
            // The kernel only reads through it.
            vectors[count].write(libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: len });
            count += 1;
            total += len;
            if total == SEND_MOST {
                break;
            }
        }
        // SAFETY: all zero is a valid `msghdr`: no address, no control data.
        #[allow(unsafe_code)]
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: the first `count` vectors are written and describe live parts.
        #[allow(unsafe_code)]
        let sent = unsafe { libc::sendmsg(self.socket.raw_fd(), &raw const message, flags) };
        self.sent(sent)
    }

    /// The value of a system call that sends.
    fn sent(&self, sent: isize) -> io::Result<usize> {
        let counters = &self.runtime.0.counters;
        add(&counters.send_calls, 1);
        let Ok(sent) = usize::try_from(sent) else { return Err(io::Error::last_os_error()) };
        add(&counters.send_bytes, sent);
        Ok(sent)
    }

    /// Gives the core to others when the slice is used up: a peer that is never slow must not own it.
    async fn be_fair(&self) {
        if self.runtime.should_yield() {
            self.runtime.yield_now().await;
        }
    }
}

/// Removes the first `count` bytes, and the parts that are done.
fn advance(parts: &mut VecDeque<Bytes>, mut count: usize) {
    while let Some(first) = parts.front_mut() {
        if count < first.len() {
            first.advance(count);
            return;
        }
        count -= first.len();
        parts.pop_front();
    }
    assert_eq!(count, 0, "no more was sent than there was");
}

impl Stream for UringStream {
    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    async fn read_at_least(&self, buf: &mut BytesMut, least: usize) -> IoResult<usize> {
        assert!((1..=buf.capacity() - buf.len()).contains(&least), "a read needs room for {least} bytes");
        // Who has to wait for the peer leaves the core to others anyway.
        if self.socket.is_readable() {
            self.be_fair().await;
        }
        loop {
            if !self.socket.is_readable() {
                self.set_low_water(least)?;
            }
            self.socket.readable().await;
            match self.receive(buf) {
                Ok(got) => return Ok(got),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.not_readable(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(IoError::new("recv", error)),
            }
        }
    }

    async fn write_all(&self, parts: &mut VecDeque<Bytes>) -> IoResult<()> {
        advance(parts, 0);
        while !parts.is_empty() {
            self.socket.writable().await;
            match self.send(parts) {
                Ok(sent) => {
                    advance(parts, sent);
                    if !parts.is_empty() {
                        self.be_fair().await;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.not_writable(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(IoError::new("sendmsg", error)),
            }
        }
        Ok(())
    }

    fn shutdown(&self) {
        // Fails only if the peer was faster.
        let _ = SockRef::from(&self.socket.fd()).shutdown(Shutdown::Both);
        self.socket.wake();
    }
}

impl Listener for UringListener {
    type Stream = UringStream;

    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    async fn accept(&self) -> IoResult<UringStream> {
        loop {
            if self.runtime.should_yield() {
                self.runtime.yield_now().await;
            }
            self.socket.readable().await;
            // Close-on-exec; the calls on it are non-blocking by flag.
            let error = match SockRef::from(&self.socket.fd()).accept() {
                Ok((socket, peer)) => {
                    add(&self.runtime.0.counters.accepted, 1);
                    let Some(peer) = peer.as_socket() else { continue };
                    // A connection that is reset already says so at its first read.
                    let _ = socket.set_tcp_nodelay(true);
                    return UringStream::new(&self.runtime, socket.into(), peer);
                }
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => self.socket.not_readable(),
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EBADF | libc::EINVAL) => {
                    return Err(IoError::new("accept", error));
                }
                // An error of the connection, not of the listener: the next one.
                _ => {}
            }
        }
    }
}

impl Net for UringRuntime {
    type Stream = UringStream;
    type Listener = UringListener;
    type Parcel = UringParcel;

    async fn listen(&self, address: SocketAddr, options: ListenOptions) -> IoResult<UringListener> {
        let bind = || -> io::Result<(Socket, SocketAddr)> {
            let socket = new_socket(address)?;
            socket.set_reuse_address(true)?;
            socket.set_reuse_port(options.reuse_port)?;
            socket.bind(&address.into())?;
            socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
            let bound = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
            Ok((socket, bound))
        };
        let (socket, bound) = bind().map_err(|cause| on_address("listen", address, &cause))?;
        Ok(UringListener { runtime: self.clone(), socket: self.register(socket.into())?, address: bound })
    }

    async fn connect(&self, address: SocketAddr) -> IoResult<UringStream> {
        let fail = |cause: io::Error| on_address("connect", address, &cause);
        let socket = new_socket(address).map_err(fail)?;
        socket.set_tcp_nodelay(true).map_err(fail)?;
        match socket.connect(&address.into()) {
            Ok(()) => return UringStream::new(self, socket.into(), address),
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(fail(error)),
        }
        let stream = UringStream::new(self, socket.into(), address)?;
        loop {
            stream.socket.not_writable();
            stream.socket.writable().await;
            let fd = stream.socket.fd();
            let socket = SockRef::from(&fd);
            if let Some(error) = socket.take_error().map_err(fail)? {
                return Err(fail(error));
            }
            match socket.peer_addr() {
                Ok(_) => break,
                // An event of the time before: not connected yet.
                Err(error) if error.kind() == ErrorKind::NotConnected => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(stream)
    }

    fn pack(&self, stream: UringStream) -> UringParcel {
        // By value, so no read or write can be under way: they borrow the stream.
        if stream.set_low_water(1).is_err() {
            // Nobody would wait for what it waits for.
            stream.shutdown();
        }
        UringParcel { fd: stream.socket.into_fd(), peer: stream.peer }
    }

    fn unpack(&self, parcel: UringParcel) -> IoResult<UringStream> {
        UringStream::new(self, parcel.fd, parcel.peer)
    }
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// An error that names the address, its kind kept.
fn on_address(operation: &'static str, address: SocketAddr, cause: &io::Error) -> IoError {
    let kind = IoErrorKind::of(cause);
    let mut error = IoError::new(operation, io::Error::new(cause.kind(), format!("{address}: {cause}")));
    error.kind = kind;
    error
}
