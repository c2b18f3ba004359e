//! One record at a time, durable, beside what no broker can do without: one write of a block with its flush, and one
//! message there and back. They take turns, so that each sees the same machine.
//!
//! The flush and the other side of the echo are on the broker's first core, if its pid is given: how far a core is from the
//! device's interrupt, and whether its sleep is deep, is the machine's doing. The flush from the core of the load is
//! measured, too.

use super::batch::BatchBuilder;
use super::connection::Connection;
use super::latencies::Latencies;
use super::produce::Phases;
use super::report::{Floor, Measured, RunResult};
use super::topics::Share;
use super::{LoadError, Workload, process};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

const PRODUCE: i16 = 9;
/// Of each of the three in its turn.
const TURN: usize = 20;
const BLOCK: usize = 4096;
/// Overwritten again and again, as a journal is.
const FILE_BLOCKS: usize = 1024;

/// Runs on the first partition.
pub(super) fn run(workload: &Workload, shares: &[Share]) -> Result<RunResult, LoadError> {
    let dir = workload.floor_dir.as_deref().ok_or_else(|| {
        LoadError::Workload("floor needs --floor-dir DIR, on the file system of the broker's data".to_owned())
    })?;
    let core = workload.broker_pid.and_then(process::first_core);
    let open = |name| {
        Disk::open(dir, name, workload.record_size).map_err(|(path, cause)| {
            LoadError::Workload(format!("{}: {cause} (a file system with direct I/O is needed)", path.display()))
        })
    };
    let flusher = Flusher::start(open("there")?, core);
    let mut disk = open("here")?;
    let unwritten = |cause: io::Error| LoadError::Workload(format!("{}: {cause}", dir.display()));
    let socket = |cause| LoadError::Connection { address: "the echo of this program".to_owned(), cause };
    let mut echo = Echo::start(workload.record_size, core).map_err(socket)?;
    let mut producer = Producer::open(workload, &shares[0])?;
    let phases = Phases::new(workload);
    let [mut acked, mut flushed, mut flushed_here, mut echoed] = [(); 4].map(|()| Latencies::new());
    let (mut records, mut before) = (0_u64, None);
    let sample = || workload.broker_pid.and_then(process::sample);
    while phases.now() < phases.end {
        let measured = phases.now() >= phases.measure_from;
        if measured && before.is_none() {
            before = Some(sample());
        }
        let timed = |into: &mut Latencies, once: &mut dyn FnMut() -> Result<(), LoadError>| {
            for _ in 0..TURN {
                let at = phases.now();
                once()?;
                if measured {
                    into.record(at, phases.now() - at);
                }
            }
            Ok::<_, LoadError>(())
        };
        timed(&mut acked, &mut || producer.produce())?;
        timed(&mut flushed_here, &mut || disk.flush().map_err(unwritten))?;
        timed(&mut echoed, &mut || echo.there_and_back().map_err(socket))?;
        let at = phases.now();
        for nanos in flusher.turn().map_err(unwritten)? {
            if measured {
                flushed.record(at, nanos);
            }
        }
        records += if measured { TURN as u64 } else { 0 };
    }
    let measured = Measured {
        seconds: (phases.now() - phases.measure_from) as f64 / 1e9,
        records,
        latency: Some(acked.report("from send to ack, one at a time")),
        broker: before.flatten().zip(sample()),
    };
    let floor = Floor {
        flush: flushed.report(if core.is_some() {
            "one write + fdatasync, on the broker's core"
        } else {
            "one write + fdatasync"
        }),
        echo: echoed.report("one echo"),
        flush_from_load: Some(flushed_here.report("the flush from the load's core")),
    };
    Ok(RunResult { floor: Some(floor), ..RunResult::new(workload, measured) })
}

/// The broker's side of it: record, ack, the next.
struct Producer<'a> {
    workload: &'a Workload,
    connection: Connection,
    partition: i32,
    builder: BatchBuilder,
    correlation_id: i32,
}

impl<'a> Producer<'a> {
    fn open(workload: &'a Workload, share: &Share) -> Result<Self, LoadError> {
        let builder = BatchBuilder::new(workload.record_size, 0);
        let connection = Connection::open(&share.address)?;
        Ok(Self { workload, connection, partition: share.partitions[0], builder, correlation_id: 0 })
    }

    fn produce(&mut self) -> Result<(), LoadError> {
        self.correlation_id += 1;
        let records = self.builder.build([0].into_iter());
        let data = PartitionProduceData::default().with_index(self.partition).with_records(Some(records));
        let name = TopicName(StrBytes::from_string(self.workload.topic.clone()));
        let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(self.workload.acks).with_timeout_ms(30_000);
        self.connection.send(&request.with_topic_data(vec![topic]), PRODUCE, self.correlation_id)?;
        let acked: ProduceResponse = self.connection.receive(PRODUCE, self.correlation_id)?;
        match acked.responses.iter().flat_map(|t| &t.partition_responses).map(|p| p.error_code).find(|c| *c != 0) {
            Some(code) => Err(LoadError::Refused { what: format!("produce to {}", self.workload.topic), code }),
            None => Ok(()),
        }
    }
}

/// A file of blocks that were written before, opened for direct I/O; gone when this is dropped.
struct Disk {
    file: File,
    path: PathBuf,
    memory: Vec<u8>,
    start: usize,
    len: usize,
    next: usize,
}

impl Disk {
    fn open(dir: &Path, name: &str, bytes: usize) -> Result<Self, (PathBuf, io::Error)> {
        let path = dir.join(format!("coreline-bench-floor-{}-{name}", std::process::id()));
        let failed = |cause| (path.clone(), cause);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).custom_flags(libc::O_DIRECT);
        let file = options.open(&path).map_err(failed)?;
        // What a record and its frame need, in whole blocks.
        let len = (bytes + 256).next_multiple_of(BLOCK);
        let memory = vec![0; len + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK);
        let mut disk = Self { file, path: path.clone(), memory, start, len, next: 0 };
        for _ in 0..FILE_BLOCKS {
            disk.write().map_err(failed)?;
        }
        disk.file.sync_all().map_err(failed)?;
        Ok(disk)
    }

    fn write(&mut self) -> io::Result<()> {
        let at = (self.next * self.len) as u64;
        self.next = (self.next + 1) % FILE_BLOCKS;
        self.file.write_all_at(&self.memory[self.start..self.start + self.len], at)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write()?;
        self.file.sync_data()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is left of it is only a file too many.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A thread that writes and flushes when it is asked to, on the core of the broker if that is known, and looks at the clock
/// itself: that it is woken is not the disk's time.
struct Flusher {
    turns: Sender<()>,
    found: Receiver<io::Result<Vec<u64>>>,
}

impl Flusher {
    fn start(mut disk: Disk, core: Option<usize>) -> Self {
        let (turns, asked) = channel();
        let (give, found) = channel();
        std::thread::spawn(move || {
            go_to(core);
            // Until the other side is gone.
            while asked.recv().is_ok() {
                let flush = |_| {
                    let began = Instant::now();
                    disk.flush().map(|()| began.elapsed().as_nanos() as u64)
                };
                if give.send((0..TURN).map(flush).collect()).is_err() {
                    return;
                }
            }
        });
        Self { turns, found }
    }

    /// Nanoseconds of each.
    fn turn(&self) -> io::Result<Vec<u64>> {
        let gone = |_| io::Error::other("the thread that flushes has ended");
        self.turns.send(()).map_err(|_| gone(()))?;
        self.found.recv().map_err(|_| gone(()))?
    }
}

fn go_to(core: Option<usize>) {
    if let Some(id) = core {
        core_affinity::set_for_current(core_affinity::CoreId { id });
    }
}

/// A thread that sends back what it receives, on the core of the broker if that is known.
struct Echo {
    stream: TcpStream,
    message: Vec<u8>,
}

impl Echo {
    fn start(len: usize, core: Option<usize>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let stream = TcpStream::connect(listener.local_addr()?)?;
        let (mut peer, _) = listener.accept()?;
        std::thread::spawn(move || {
            go_to(core);
            let mut message = vec![0; len];
            // Until the other side is closed.
            while peer.read_exact(&mut message).and_then(|()| peer.write_all(&message)).is_ok() {}
        });
        stream.set_nodelay(true)?;
        Ok(Self { stream, message: vec![0; len] })
    }

    fn there_and_back(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.message)?;
        self.stream.read_exact(&mut self.message)
    }
}
