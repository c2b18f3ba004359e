//! One file: reads of any alignment, gathered writes, sync.

use super::UringRuntime;
use super::nap::RingOnDrop;
use crate::BLOCK;
use crate::counters::add;
use crate::disk::File;
use crate::error::{IoError, IoResult, WriteSyncError};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use glommio::GlommioError;
use glommio::io::{BufferedFile, DmaFile, ReadResult};
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

/// A longer read is put together from several of this size, [`READS_IN_FLIGHT`] at a time, and copied once.
const READ_MOST: usize = 8 << 20;
const READS_IN_FLIGHT: usize = 2;
/// A longer write is several of this size, one after the other.
const WRITE_MOST: usize = 4 << 20;

const _: () = assert!(READ_MOST.is_multiple_of(BLOCK) && WRITE_MOST.is_multiple_of(BLOCK));

/// A file of the glommio backend.
#[derive(Debug)]
pub struct UringFile {
    runtime: UringRuntime,
    handle: Handle,
    path: Rc<Path>,
    /// A descriptor for the thread that makes writes durable, once it had one.
    pub(super) shared: RefCell<Option<Arc<std::fs::File>>>,
    /// Dropped after the handle, whose descriptor glommio closes when it next looks at its rings.
    _closing: RingOnDrop,
}

#[derive(Debug)]
pub(super) enum Handle {
    Direct(DmaFile),
    Buffered(BufferedFile),
}

/// The system's own word, with its number where there is one.
pub(super) fn cause_of(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(cause) | GlommioError::EnhancedIoError { source: cause, .. } => cause,
        other => io::Error::from(other),
    }
}

impl Handle {
    async fn read_blocks(&self, offset: u64, len: usize) -> io::Result<ReadResult> {
        match self {
            Self::Direct(file) => file.read_at_aligned(offset, len).await,
            Self::Buffered(file) => file.read_at(offset, len).await,
        }
        .map_err(cause_of)
    }

    fn raw_fd(&self) -> i32 {
        match self {
            Self::Direct(file) => file.as_raw_fd(),
            Self::Buffered(file) => file.as_raw_fd(),
        }
    }
}

impl UringFile {
    pub(super) fn new(runtime: UringRuntime, handle: Handle, path: &Path) -> Self {
        let _closing = RingOnDrop(runtime.doorbell());
        Self { runtime, handle, path: Rc::from(path), shared: RefCell::default(), _closing }
    }

    pub(super) fn runtime(&self) -> &UringRuntime {
        &self.runtime
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn as_raw_fd(&self) -> i32 {
        self.handle.raw_fd()
    }

    fn error(&self, operation: &'static str, cause: io::Error) -> IoError {
        IoError::new(operation, cause).on(&self.path)
    }

    /// The length in bytes. In memory for an open file, so not worth a trip through the ring; and glommio's own goes
    /// by the path, which is wrong after a rename.
    fn stat_len(&self) -> IoResult<u64> {
        let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the descriptor is open as long as the handle; the kernel fills the struct if it says 0.
        #[allow(unsafe_code)]
        let stat = unsafe {
            if libc::fstat(self.handle.raw_fd(), stat.as_mut_ptr()) != 0 {
                return Err(self.error("fstat", io::Error::last_os_error()));
            }
            stat.assume_init()
        };
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    /// Reads at most [`READ_MOST`] bytes with one operation, without a copy.
    ///
    /// ```text
    ///        start      offset            end of what was asked   aligned end
    ///          |--- skip --|------- len ---------|------------------|
    ///          |------------- read from the disk: n bytes ----|        n may be short: end of file, or not
    /// ```
    async fn read_once(&self, offset: u64, len: usize) -> IoResult<Bytes> {
        let skip = (offset % BLOCK as u64) as usize;
        let start = offset - skip as u64;
        let wanted = skip + len;
        let buffer = self.handle.read_blocks(start, wanted.next_multiple_of(BLOCK)).await;
        let buffer = buffer.map_err(|cause| self.error("read", cause).at(offset))?;
        let end = buffer.len().min(wanted);
        Ok(self.runtime.0.home.lend(buffer, skip.min(end), end))
    }

    /// Reads until `len` bytes are there or the file ends, and copies them together.
    async fn read_rest(&self, first: Bytes, offset: u64, len: usize) -> IoResult<Bytes> {
        let mut whole = BytesMut::with_capacity(len);
        whole.extend_from_slice(&first);
        drop(first);
        while whole.len() < len {
            let at = offset + whole.len() as u64;
            let piece = self.read_once(at, (len - whole.len()).min(READ_MOST - BLOCK)).await?;
            if piece.is_empty() {
                // Nothing where the file goes on is a device that gives less than it must.
                if at < self.stat_len()? {
                    return Err(self.error("read", io::Error::from(io::ErrorKind::UnexpectedEof)).at(at));
                }
                break;
            }
            whole.extend_from_slice(&piece);
        }
        add(&self.runtime.0.counters.read_copied_bytes, whole.len());
        Ok(whole.freeze())
    }

    /// One piece of a read, complete unless the file ends in it.
    async fn read_piece(&self, offset: u64, len: usize) -> IoResult<Bytes> {
        let bytes = self.read_once(offset, len).await?;
        if bytes.len() == len || offset + bytes.len() as u64 >= self.stat_len()? {
            return Ok(bytes);
        }
        self.read_rest(bytes, offset, len).await
    }

    async fn read_large(&self, offset: u64, len: usize) -> IoResult<Bytes> {
        const PIECE: usize = READ_MOST / 4;
        let pieces = (0..len.div_ceil(PIECE)).map(|index| {
            let at = index * PIECE;
            self.read_piece(offset + at as u64, PIECE.min(len - at))
        });
        let mut pieces = futures_util::stream::iter(pieces).buffered(READS_IN_FLIGHT);
        let mut whole = BytesMut::with_capacity(len);
        let mut complete = true;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if complete {
                whole.extend_from_slice(&piece);
            }
            complete &= piece.len() == PIECE;
        }
        add(&self.runtime.0.counters.read_copied_bytes, whole.len());
        Ok(whole.freeze())
    }

    /// Writes the next `len` bytes of `parts` at `offset`.
    async fn write_piece(&self, offset: u64, parts: &mut Parts<'_>, len: usize) -> IoResult<()> {
        let _held = self.runtime.0.home.hold_while(len);
        match &self.handle {
            Handle::Direct(file) => self.write_direct(file, offset, parts, len).await,
            Handle::Buffered(file) => self.write_buffered(file, offset, parts, len).await,
        }
    }

    async fn write_direct(&self, file: &DmaFile, offset: u64, parts: &mut Parts<'_>, len: usize) -> IoResult<()> {
        let mut buffer = glommio::allocate_dma_buffer(len);
        parts.copy_to(buffer.as_bytes_mut());
        let mut buffer = Rc::new(buffer);
        let mut done = 0;
        loop {
            let at = offset + done as u64;
            let wrote = file.write_rc_at(Rc::clone(&buffer), at).await.map_err(cause_of);
            let wrote = wrote.map_err(|cause| self.error("write", cause).at(at))?;
            if wrote >= buffer.len() {
                return Ok(());
            }
            // A short write: whole blocks of it count, the rest is written again.
            let whole = wrote / BLOCK * BLOCK;
            if whole == 0 {
                return Err(self.error("write", io::Error::from(io::ErrorKind::WriteZero)).at(at));
            }
            done += whole;
            let mut rest = glommio::allocate_dma_buffer(buffer.len() - whole);
            rest.as_bytes_mut().copy_from_slice(&buffer.as_bytes()[whole..]);
            buffer = Rc::new(rest);
        }
    }

    async fn write_buffered(
        &self,
        file: &BufferedFile,
        offset: u64,
        parts: &mut Parts<'_>,
        len: usize,
    ) -> IoResult<()> {
        let mut buffer = vec![0; len];
        parts.copy_to(&mut buffer);
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let wrote = file.write_at(buffer[done..].to_vec(), at).await.map_err(cause_of);
            let wrote = wrote.map_err(|cause| self.error("write", cause).at(at))?;
            if wrote == 0 {
                return Err(self.error("write", io::Error::from(io::ErrorKind::WriteZero)).at(at));
            }
            done += wrote;
        }
        Ok(())
    }
}

/// Where a gathered write is in its parts.
pub(super) struct Parts<'a> {
    rest: &'a [Bytes],
    /// Bytes of the first part that are taken.
    taken: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(parts: &'a [Bytes]) -> Self {
        Self { rest: parts, taken: 0 }
    }

    pub(super) fn copy_to(&mut self, mut target: &mut [u8]) {
        while !target.is_empty() {
            let mut part = &self.rest[0][self.taken..];
            let len = part.len().min(target.len());
            part.copy_to_slice(&mut target[..len]);
            target = &mut target[len..];
            self.taken += len;
            if self.taken == self.rest[0].len() {
                self.rest = &self.rest[1..];
                self.taken = 0;
            }
        }
    }
}

/// The bytes of a write; panics if they are not whole blocks.
fn checked_len(offset: u64, parts: &[Bytes]) -> usize {
    let total: usize = parts.iter().map(Bytes::len).sum();
    assert!(offset.is_multiple_of(BLOCK as u64), "write at byte {offset}, not a multiple of {BLOCK}");
    assert!(total.is_multiple_of(BLOCK), "write of {total} bytes, not a multiple of {BLOCK}");
    total
}

impl File for UringFile {
    async fn read_at(&self, offset: u64, len: usize) -> IoResult<Bytes> {
        let _under_way = self.runtime.0.nap.in_ring();
        self.runtime.0.home.empty_returns();
        let counters = &self.runtime.0.counters;
        let bytes = if len == 0 {
            Bytes::new()
        } else if len > READ_MOST - BLOCK {
            self.read_large(offset, len).await?
        } else {
            self.read_piece(offset, len).await?
        };
        add(&counters.reads, 1);
        add(&counters.read_bytes, bytes.len());
        Ok(bytes)
    }

    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> IoResult<()> {
        let _under_way = self.runtime.0.nap.in_ring();
        let total = checked_len(offset, parts);
        self.runtime.0.home.empty_returns();
        let mut parts = Parts::new(parts);
        let mut done = 0;
        while done < total {
            let len = (total - done).min(WRITE_MOST);
            self.write_piece(offset + done as u64, &mut parts, len).await?;
            done += len;
        }
        add(&self.runtime.0.counters.writes, 1);
        add(&self.runtime.0.counters.write_bytes, total);
        Ok(())
    }

    async fn write_and_sync(&self, offset: u64, parts: &[Bytes]) -> Result<(), WriteSyncError> {
        self.runtime.0.home.empty_returns();
        self.write_durably(offset, parts, checked_len(offset, parts)).await
    }

    async fn sync_data(&self) -> IoResult<()> {
        let _under_way = self.runtime.0.nap.in_ring();
        add(&self.runtime.0.counters.syncs, 1);
        match &self.handle {
            Handle::Direct(file) => file.fdatasync().await,
            Handle::Buffered(file) => file.fdatasync().await,
        }
        .map_err(|error| self.error("fdatasync", cause_of(error)))
    }

    async fn truncate(&self, len: u64) -> IoResult<()> {
        let _under_way = self.runtime.0.nap.in_ring();
        match &self.handle {
            Handle::Direct(file) => file.truncate(len).await,
            Handle::Buffered(file) => file.truncate(len).await,
        }
        .map_err(|error| self.error("truncate", cause_of(error)).at(len))
    }

    async fn reserve(&self, len: u64) -> IoResult<()> {
        let _under_way = self.runtime.0.nap.in_ring();
        match &self.handle {
            Handle::Direct(file) => file.pre_allocate(len, true).await,
            Handle::Buffered(file) => file.pre_allocate(len, true).await,
        }
        .map_err(|error| self.error("fallocate", cause_of(error)).at(len))
    }

    async fn size(&self) -> IoResult<u64> {
        self.stat_len()
    }

    async fn close(self) -> IoResult<()> {
        let Self { handle, path, runtime, .. } = self;
        let _under_way = runtime.0.nap.in_ring();
        match handle {
            Handle::Direct(file) => file.close().await,
            Handle::Buffered(file) => file.close().await,
        }
        .map_err(|error| IoError::new("close", cause_of(error)).on(&path))
    }
}
