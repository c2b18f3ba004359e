//! Frames off a socket: small ones cut from one buffer, large ones read into a buffer of exactly their size.

use crate::protocol::frame::{FrameSizeError, SIZE_LEN, frame_size};
use bytes::{Buf, BytesMut};
use coreline_io::sync::{Permit, Semaphore};
use coreline_io::{IoError, Stream};
use std::rc::Rc;

/// A frame larger than this gets a buffer of its own: its records stay in it until they are in a segment, so they must
/// not pin the bytes of others.
pub const LARGE_FRAME: usize = 16 << 10;
/// What a quiet connection keeps to read into.
const QUIET_BUFFER: usize = 4 << 10;
/// What a connection reads into while small frames come in numbers.
const BUSY_BUFFER: usize = 64 << 10;

/// A large frame is waited for in pieces of so many bytes, however many packets they come in: each time a core is woken
/// costs as much as copying some 50 KiB.
const LOW_WATER_MOST: usize = 256 << 10;

/// A whole request without its size.
#[derive(Debug)]
pub struct Frame {
    /// Header and body; nobody else has this memory.
    pub bytes: BytesMut,
    /// Its share of the shard's memory for requests, to be kept as long as the request is worked on.
    pub permit: Permit,
}

/// Why no more frames come.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed, between two frames.
    #[error("closed by the peer")]
    Closed,
    /// The peer closed inside a frame.
    #[error("closed by the peer {read} bytes into a frame of {size}")]
    Cut {
        /// Bytes that came.
        read: usize,
        /// Bytes announced.
        size: usize,
    },
    /// A size that will not be read.
    #[error("{0}")]
    Size(#[from] FrameSizeError),
    /// The socket's word.
    #[error("{0}")]
    Io(#[from] IoError),
}

/// The memory that requests of one shard may take together.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    semaphore: Rc<Semaphore>,
    total: usize,
}

impl RequestMemory {
    /// Room for `total` bytes.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self { semaphore: Semaphore::new(total), total }
    }

    /// Bytes that are free.
    #[must_use]
    pub fn available(&self) -> usize {
        self.semaphore.available()
    }

    /// Waits for room; a frame larger than all there is takes all there is.
    async fn acquire(&self, bytes: usize) -> Permit {
        self.semaphore.acquire(bytes.min(self.total)).await
    }
}

/// Cuts what a stream brings into frames. One for each connection.
#[derive(Debug)]
pub struct FrameReader {
    /// Bytes that were read and not handed out.
    buf: BytesMut,
    size_max: usize,
    memory: RequestMemory,
    /// How much room the next read gets.
    room: usize,
    /// Reads so far.
    reads: u64,
    /// Bytes that were copied because they came in pieces, since somebody asked.
    copied: usize,
}

impl FrameReader {
    /// A reader that begins with `unread`, of frames up to `size_max` bytes.
    #[must_use]
    pub fn new(unread: BytesMut, size_max: usize, memory: RequestMemory) -> Self {
        Self { buf: unread, size_max, memory, room: QUIET_BUFFER, reads: 0, copied: 0 }
    }

    /// Bytes that were read and not handed out.
    #[must_use]
    pub fn into_unread(self) -> BytesMut {
        self.buf
    }

    /// How often something was read off the stream: a frame for which nothing was read came with the one before.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// Bytes that were copied since this was called last.
    pub fn take_copied(&mut self) -> usize {
        std::mem::take(&mut self.copied)
    }

    /// True if the next frame is there already, whole.
    #[must_use]
    pub fn has_frame(&self) -> bool {
        matches!(frame_size(&self.buf, self.size_max), Ok(Some(size)) if self.buf.len() >= SIZE_LEN + size)
    }

    /// The next frame. Waits for the peer, and for memory.
    ///
    /// # Errors
    /// Why none will come.
    pub async fn next<S: Stream>(&mut self, stream: &S) -> Result<Frame, FrameError> {
        let size = loop {
            if let Some(size) = frame_size(&self.buf, self.size_max)? {
                break size;
            }
            if self.fill(stream).await? == 0 {
                let read = self.buf.len();
                return Err(if read == 0 { FrameError::Closed } else { FrameError::Cut { read, size: SIZE_LEN } });
            }
        };
        // Stops reading this socket while requests of others take what there is.
        let permit = self.memory.acquire(size).await;
        let bytes = if size > LARGE_FRAME { self.large(stream, size).await? } else { self.small(stream, size).await? };
        Ok(Frame { bytes, permit })
    }

    async fn small<S: Stream>(&mut self, stream: &S, size: usize) -> Result<BytesMut, FrameError> {
        while self.buf.len() < SIZE_LEN + size {
            if self.fill(stream).await? == 0 {
                return Err(FrameError::Cut { read: self.buf.len() - SIZE_LEN, size });
            }
        }
        self.buf.advance(SIZE_LEN);
        Ok(self.buf.split_to(size))
    }

    async fn large<S: Stream>(&mut self, stream: &S, size: usize) -> Result<BytesMut, FrameError> {
        self.buf.advance(SIZE_LEN);
        let mut frame = BytesMut::with_capacity(size);
        let ahead = self.buf.len().min(size);
        frame.extend_from_slice(&self.buf[..ahead]);
        self.copied += ahead;
        self.buf.advance(ahead);
        // Another large one probably follows: read little of it into the buffer it is then copied from.
        self.room = QUIET_BUFFER;
        while frame.len() < size {
            self.reads += 1;
            let least = (size - frame.len()).min(LOW_WATER_MOST);
            if stream.read_at_least(&mut frame, least).await? == 0 {
                return Err(FrameError::Cut { read: frame.len(), size });
            }
        }
        if frame.len() > size {
            // The allocator gave more room than asked for, and the socket had more.
            let more = frame.split_off(size);
            self.buf.extend_from_slice(&more);
            self.copied += more.len();
        }
        Ok(frame)
    }

    async fn fill<S: Stream>(&mut self, stream: &S) -> Result<usize, FrameError> {
        if self.buf.capacity() - self.buf.len() < QUIET_BUFFER / 2 {
            // The begin of a frame goes along.
            self.copied += self.buf.len();
            self.buf.reserve(self.room);
        }
        let room = self.buf.capacity() - self.buf.len();
        self.reads += 1;
        let read = stream.read(&mut self.buf).await?;
        self.room = if read == room { BUSY_BUFFER } else { QUIET_BUFFER };
        Ok(read)
    }
}
