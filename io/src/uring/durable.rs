//! Writes that are durable when they return: a helper thread of the shard writes, flushes, and answers once.
//!
//! Through the ring it is two operations, and neither ends where it began. A direct write that changes a file ends, on
//! file systems that leave it to the kernel's common code, on a kernel worker of ordinary priority, on the core that took the
//! device's interrupt; a flush is begun by a worker of the ring. Each of them waits for its turn behind whatever else
//! those cores do, up to some scheduler ticks. A thread that makes the two calls itself is woken by the interrupt, and the
//! executor sleeps once instead of twice.
//!
//! One thread a shard: meant for the one file that waits for each write before the next, a journal.

use super::UringRuntime;
use super::file::{Parts, UringFile};
use crate::BLOCK;
use crate::counters::add;
use crate::error::{IoError, WriteSyncError};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::task::{Context, Poll, Waker};

/// A buffer up to this size is kept for the next write.
const KEEP_BYTES: usize = 2 << 20;

/// Memory that begins on a block.
#[derive(Debug, Default)]
struct BlockBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl BlockBuffer {
    /// The first `len` bytes, of a buffer that is as long.
    fn bytes_mut(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < self.start + len {
            self.memory = vec![0; len.next_power_of_two() + BLOCK];
            self.start = self.memory.as_ptr().align_offset(BLOCK);
        }
        &mut self.memory[self.start..self.start + len]
    }

    fn bytes(&self, len: usize) -> &[u8] {
        &self.memory[self.start..self.start + len]
    }
}

#[derive(Debug)]
enum Failure {
    Write(io::Error),
    Sync(io::Error),
}

/// What is written: from where it is, or copied.
#[derive(Debug)]
enum Blocks {
    Lent(Bytes),
    Copied(BlockBuffer, usize),
}

impl Blocks {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Copied(buffer, len) => buffer.bytes(*len),
        }
    }
}

struct Job {
    file: Arc<File>,
    offset: u64,
    blocks: Blocks,
    answer: Arc<Answer>,
}

impl Job {
    fn run(&self) -> Result<(), Failure> {
        self.file.write_all_at(self.blocks.bytes(), self.offset).map_err(Failure::Write)?;
        self.file.sync_data().map_err(Failure::Sync)
    }
}

/// Where the thread leaves what became of a job.
#[derive(Debug, Default)]
struct Answer(Mutex<(Option<Done>, Option<Waker>)>);

#[derive(Debug)]
struct Done {
    result: Result<(), Failure>,
    blocks: Blocks,
}

impl Answer {
    fn lock(&self) -> MutexGuard<'_, (Option<Done>, Option<Waker>)> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, done: Done) {
        let waker = {
            let mut answer = self.lock();
            answer.0 = Some(done);
            answer.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

struct Waiting(Arc<Answer>);

impl Future for Waiting {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        let mut answer = self.0.lock();
        match answer.0.take() {
            Some(done) => Poll::Ready(done),
            None => {
                answer.1 = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// The helper thread of a shard. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct DurableWriter {
    jobs: mpsc::Sender<Job>,
    spare: BlockBuffer,
}

impl DurableWriter {
    fn start() -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        // On the shard's core, and without its signals: it inherits both.
        std::thread::Builder::new().name("coreline-journal".to_owned()).spawn(move || {
            go_first();
            for job in queue {
                let result = job.run();
                let Job { blocks, answer, .. } = job;
                answer.give(Done { result, blocks });
            }
        })?;
        Ok(Self { jobs, spare: BlockBuffer::default() })
    }
}

/// Puts this thread before the executor it works for, on whose core it runs: it makes two calls and sleeps, and everybody waits
/// for it. Only where the system allows it (`CAP_SYS_NICE`, `RLIMIT_NICE`, `RLIMIT_RTPRIO`); without it nothing is wrong.
fn go_first() {
    const STEPS: i32 = 5;
    // SAFETY: calls about the calling thread (0), with no memory but `param`, which lives as long as they do.
    #[allow(unsafe_code)]
    unsafe {
        let policy = libc::sched_getscheduler(0);
        if policy == libc::SCHED_RR || policy == libc::SCHED_FIFO {
            let mut param: libc::sched_param = std::mem::zeroed();
            if libc::sched_getparam(0, &raw mut param) == 0 {
                param.sched_priority = (param.sched_priority + 1).min(libc::sched_get_priority_max(policy));
                libc::sched_setscheduler(0, policy, &raw const param);
            }
        } else {
            let nice = libc::getpriority(libc::PRIO_PROCESS, 0);
            libc::setpriority(libc::PRIO_PROCESS, 0, nice - STEPS);
        }
    }
}

impl UringRuntime {
    /// Begins a durable write of `len` bytes.
    fn submit(&self, file: Arc<File>, offset: u64, parts: &[Bytes], len: usize) -> io::Result<Waiting> {
        let mut slot = self.0.durable.borrow_mut();
        let writer = match &mut *slot {
            Some(writer) => writer,
            None => slot.insert(DurableWriter::start()?),
        };
        let blocks = match parts {
            [whole] if whole.as_ptr().addr().is_multiple_of(BLOCK) => Blocks::Lent(whole.clone()),
            parts => {
                let mut buffer = std::mem::take(&mut writer.spare);
                Parts::new(parts).copy_to(buffer.bytes_mut(len));
                Blocks::Copied(buffer, len)
            }
        };
        let answer = Arc::new(Answer::default());
        let job = Job { file, offset, blocks, answer: answer.clone() };
        let gone = |_| io::Error::other("the thread that writes has ended");
        writer.jobs.send(job).map_err(gone)?;
        Ok(Waiting(answer))
    }

    fn keep(&self, blocks: Blocks) {
        if let Blocks::Copied(buffer, _) = blocks
            && buffer.memory.len() <= KEEP_BYTES + BLOCK
            && let Some(writer) = &mut *self.0.durable.borrow_mut()
        {
            writer.spare = buffer;
        }
    }
}

impl UringFile {
    /// The file for another thread: a descriptor of its own, which that thread may hold longer than this one.
    fn shared(&self) -> io::Result<Arc<File>> {
        if let Some(file) = self.shared.borrow().as_ref() {
            return Ok(file.clone());
        }
        // SAFETY: the descriptor is open as long as `self`, and borrowed for the next call only.
        #[allow(unsafe_code)]
        let borrowed = unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) };
        let file = Arc::new(File::from(borrowed.try_clone_to_owned()?));
        *self.shared.borrow_mut() = Some(file.clone());
        Ok(file)
    }

    /// See [`crate::File::write_and_sync`].
    pub(super) async fn write_durably(&self, offset: u64, parts: &[Bytes], len: usize) -> Result<(), WriteSyncError> {
        let runtime = self.runtime();
        let _held = runtime.0.home.hold_while(len);
        let failed = |operation, cause| IoError::new(operation, cause).on(self.path()).at(offset);
        let _helped = runtime.0.nap.helped();
        let submitted = self.shared().and_then(|file| runtime.submit(file, offset, parts, len));
        let waiting = submitted.map_err(|cause| WriteSyncError::Write(failed("write", cause)))?;
        let Done { result, blocks } = waiting.await;
        runtime.keep(blocks);
        let counters = &runtime.0.counters;
        add(&counters.writes, 1);
        add(&counters.write_bytes, len);
        add(&counters.syncs, 1);
        result.map_err(|failure| match failure {
            Failure::Write(cause) => WriteSyncError::Write(failed("write", cause)),
            Failure::Sync(cause) => WriteSyncError::Sync(failed("fdatasync", cause)),
        })
    }
}
