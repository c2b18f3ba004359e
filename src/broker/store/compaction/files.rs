//! Batches of a segment in, a cleaned segment out. Large aligned pieces; nothing here is seen by readers.

use super::CleanError;
use crate::broker::store::index_builder::IndexBuilder;
use crate::log::batch::{self, RecordBatchHeader};
use bytes::{Bytes, BytesMut};
use coreline_io::{BLOCK, File, IoResult, OpenOptions, Runtime};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Reads a sealed segment batch by batch; each is checked.
pub(super) struct BatchReader<R: Runtime> {
    file: Rc<R::File>,
    path: PathBuf,
    /// Where `buffer` begins.
    position: u64,
    end: u64,
    buffer: Bytes,
    piece: usize,
    /// No batch may begin before it.
    expected: i64,
}

impl<R: Runtime> BatchReader<R> {
    pub(super) fn new(file: Rc<R::File>, path: PathBuf, base: i64, position: u64, end: u64, piece: usize) -> Self {
        Self { file, path, position, end, buffer: Bytes::new(), piece, expected: base }
    }

    /// The next batch, or none at the end. `read` counts the bytes that were read from the disk.
    pub(super) async fn next(&mut self, read: &mut usize) -> Result<Option<(RecordBatchHeader, Bytes)>, CleanError> {
        if self.position + self.buffer.len() as u64 == self.end && self.buffer.is_empty() {
            return Ok(None);
        }
        *read += self.fill(batch::HEADER_LEN).await?;
        let header = batch::parse_header(&self.buffer).map_err(|e| self.damaged(&e.to_string()))?;
        *read += self.fill(header.size_in_bytes()).await?;
        batch::check_crc(&header, &self.buffer).map_err(|e| self.damaged(&e.to_string()))?;
        if header.base_offset.0 < self.expected {
            let what = format!("batch has base offset {}, expected at least {}", header.base_offset, self.expected);
            return Err(self.damaged(&what));
        }
        self.expected = header.next_offset().0;
        let bytes = self.buffer.split_to(header.size_in_bytes());
        self.position += bytes.len() as u64;
        Ok(Some((header, bytes)))
    }

    /// Reads on until `len` bytes are there, or the segment ends.
    async fn fill(&mut self, len: usize) -> Result<usize, CleanError> {
        if self.buffer.len() >= len {
            return Ok(0);
        }
        let from = self.position + self.buffer.len() as u64;
        let want = (len - self.buffer.len()).max(self.piece).min((self.end - from) as usize);
        let more = self.file.read_at(from, want).await;
        let more = more.map_err(|e| CleanError::Uncleanable(e.to_string()))?;
        let read = more.len();
        if self.buffer.is_empty() {
            self.buffer = more;
        } else {
            let mut joined = BytesMut::with_capacity(self.buffer.len() + read);
            joined.extend_from_slice(&self.buffer);
            joined.extend_from_slice(&more);
            self.buffer = joined.freeze();
        }
        Ok(read)
    }

    fn damaged(&self, what: &str) -> CleanError {
        CleanError::Uncleanable(format!("segment {} is damaged at byte {}: {what}", self.path.display(), self.position))
    }
}

/// Writes a cleaned segment.
pub(super) struct SegmentWriter<R: Runtime> {
    file: R::File,
    /// Bytes in the file: whole blocks.
    written: u64,
    pending: BytesMut,
    piece: usize,
    interval: u64,
    pub(super) index: IndexBuilder,
}

impl<R: Runtime> SegmentWriter<R> {
    pub(super) async fn create(rt: &R, path: &Path, base: i64, piece: usize, interval: u64) -> IoResult<Self> {
        let options = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
        let file = rt.open(path, options).await?;
        let piece = piece.next_multiple_of(BLOCK);
        Ok(Self { file, written: 0, pending: BytesMut::new(), piece, interval, index: IndexBuilder::new(base) })
    }

    /// Bytes of all batches so far.
    pub(super) fn size(&self) -> u64 {
        self.written + self.pending.len() as u64
    }

    /// Adds a batch. Gives the bytes that were written to the disk.
    pub(super) async fn push(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> IoResult<usize> {
        let (base, last) = (header.base_offset.0, header.last_offset().0);
        let len = bytes.len() as u32;
        // Nobody finds a record in an empty batch.
        let timestamp = if header.record_count > 0 { header.max_timestamp } else { -1 };
        self.index.on_batch(base, last, timestamp, self.size(), len, self.interval);
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < self.piece {
            return Ok(0);
        }
        let whole = self.pending.len() / BLOCK * BLOCK;
        let piece = self.pending.split_to(whole).freeze();
        self.write(piece).await
    }

    async fn write(&mut self, piece: Bytes) -> IoResult<usize> {
        let len = piece.len();
        self.file.write_at(self.written, &[piece]).await?;
        self.written += len as u64;
        Ok(len)
    }

    /// Writes the rest, at its exact length. The caller syncs.
    pub(super) async fn finish(mut self) -> IoResult<(R::File, u64, IndexBuilder)> {
        let size = self.size();
        if !self.pending.is_empty() {
            let mut last = std::mem::take(&mut self.pending);
            last.resize(last.len().next_multiple_of(BLOCK), 0);
            self.write(last.freeze()).await?;
        }
        self.file.truncate(size).await?;
        self.index.push_time();
        Ok((self.file, size, self.index))
    }
}
