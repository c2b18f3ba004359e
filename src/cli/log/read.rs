//! Batches of a segment, one after the other, from anything that can be read: a segment need not fit in memory.

use crate::log::batch::{HEADER_LEN, LENGTH_END, RecordBatchHeader, parse_header};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const BUFFER_BYTES: usize = 1 << 20;
/// A batch that claims more than this is taken for damage: Kafka's largest request is smaller.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// What follows in a segment.
pub(super) enum Next {
    /// A batch; its checksum is not looked at.
    Batch { header: RecordBatchHeader, position: u64, bytes: Vec<u8> },
    /// The end of the file.
    End,
    /// Nothing but zeros up to the end: the padding of direct I/O.
    Padding { position: u64, bytes: u64 },
    /// No batch.
    Invalid { position: u64, bytes: u64, why: String },
}

pub(super) struct BatchReader<R> {
    input: R,
    position: u64,
    length: u64,
}

impl BatchReader<BufReader<File>> {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self::new(BufReader::with_capacity(BUFFER_BYTES, file), length))
    }
}

impl<R: Read> BatchReader<R> {
    pub(super) fn new(input: R, length: u64) -> Self {
        Self { input, position: 0, length }
    }

    /// What comes next. After anything but a batch: the end.
    pub(super) fn next(&mut self) -> io::Result<Next> {
        let (position, left) = (self.position, self.length - self.position);
        if left == 0 {
            return Ok(Next::End);
        }
        let mut bytes = vec![0; HEADER_LEN.min(usize::try_from(left).unwrap_or(HEADER_LEN))];
        self.input.read_exact(&mut bytes)?;
        let header = match parse_header(&bytes) {
            Ok(header) => header,
            Err(why) => return self.end(position, left, &bytes, why.to_string()),
        };
        let size = header.size_in_bytes();
        if size as u64 > left || size > BATCH_BYTES_MAX {
            let why = format!("the batch claims {size} bytes, {left} are left");
            return self.end(position, left, &bytes, why);
        }
        bytes.resize(size.max(LENGTH_END), 0);
        self.input.read_exact(&mut bytes[HEADER_LEN..])?;
        self.position += size as u64;
        Ok(Next::Batch { header, position, bytes })
    }

    fn end(&mut self, position: u64, left: u64, begin: &[u8], why: String) -> io::Result<Next> {
        self.position = self.length;
        let mut zeros = begin.iter().all(|b| *b == 0);
        let mut piece = [0; 8192];
        while zeros {
            let read = self.input.read(&mut piece)?;
            if read == 0 {
                return Ok(Next::Padding { position, bytes: left });
            }
            zeros = piece[..read].iter().all(|b| *b == 0);
        }
        Ok(Next::Invalid { position, bytes: left, why })
    }
}
