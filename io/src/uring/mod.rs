//! The glommio backend: io_uring, direct I/O, one readiness source a shard.
//!
//! One [`UringRuntime`] per executor, made inside it. glommio's traps, and where each is dealt with:
//!
//! * false IOPOLL detection, refused O_DIRECT: [`UringRuntime::prepare_data_dir`] (`disk.rs`);
//! * reads near the end of a file, buffers that must not leave their executor: `file.rs`, `loan.rs`;
//! * no vectored socket writes, an interrupt per socket completion: `readiness.rs`, `socket.rs`;
//! * an executor that may sleep with tasks ready to run: `slice.rs`;
//! * the price of its sleep: `nap.rs`, and when not to pay it: `spin.rs`;
//! * the blocking calls of a file system: `blocking.rs`, on glommio's own thread pool;
//! * direct writes and flushes that end on kernel workers, which wait for their turn: `durable.rs`.
//!
//! What a host must offer is checked before the first executor by [`check_host`] and [`check_directory`].

mod blocking;
mod disk;
mod durable;
mod entropy;
mod file;
mod host;
mod loan;
mod nap;
mod readiness;
mod slice;
mod socket;
mod spin;
mod tasks;

pub use crate::counters::Counters;
pub use blocking::UringLock;
pub use file::UringFile;
pub use host::{
    HostProblem, ProcessUsed, check_directory, check_host, give_back_freed_memory, io_memory_per_shard,
    keep_freed_memory, process_usage, raise_open_files,
};
pub use socket::{UringListener, UringParcel, UringStream};
pub use spin::Polling;
pub use tasks::STALL;

use crate::counters::CounterCells;
use crate::runtime::{Clock, Entropy, Meter, Monotonic};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What a shard's runtime may do.
#[derive(Clone, Debug, Default)]
pub struct UringOptions {
    /// Where the file system refuses O_DIRECT (tmpfs, some overlays), use the page cache instead of failing.
    /// Same semantics, other performance: for tests and for trying things out.
    pub allow_buffered: bool,
    /// Prepared at the first open instead of at the first file below it: the data directory.
    pub data_dir: Option<PathBuf>,
    /// What the core does while it has nothing to do.
    pub polling: Polling,
}

/// Everything a shard may ask of the world, on glommio. A handle; it stays on its executor.
#[derive(Clone)]
pub struct UringRuntime(Rc<Inner>);

pub(crate) struct Inner {
    options: UringOptions,
    queues: tasks::Queues,
    tasks: tasks::Registry,
    stalls: tasks::Stalls,
    slice: slice::Slice,
    nap: nap::Nap,
    entropy: entropy::Pool,
    counters: CounterCells,
    /// Directories whose file system is known, and how files below them are opened.
    prepared: RefCell<Vec<(PathBuf, disk::Mode)>>,
    home: Arc<loan::Home>,
    /// Started with the first write that is to be durable.
    durable: RefCell<Option<durable::DurableWriter>>,
    /// Made with the first socket.
    sockets: RefCell<Option<Rc<readiness::Sockets>>>,
}

impl std::fmt::Debug for UringRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UringRuntime").field("options", &self.0.options).finish_non_exhaustive()
    }
}

impl UringRuntime {
    /// The runtime of the executor that runs the calling task. Panics outside of one.
    #[must_use]
    pub fn new(options: UringOptions) -> Self {
        start_of_process();
        let nap = nap::Nap::new(options.polling).expect("a descriptor for the bell of a new executor");
        let runtime = Self(Rc::new(Inner {
            options,
            queues: tasks::Queues::create(),
            tasks: tasks::Registry::default(),
            stalls: tasks::Stalls::default(),
            slice: slice::Slice::default(),
            nap,
            entropy: entropy::Pool::default(),
            counters: CounterCells::default(),
            prepared: RefCell::default(),
            home: loan::Home::new(),
            durable: RefCell::default(),
            sockets: RefCell::default(),
        }));
        slice::start(&runtime);
        runtime
    }

    /// Ends this runtime, the last thing that an executor does: drops every task that is not done, closes the sockets
    /// and files those held, and lets the closing reach the kernel.
    ///
    /// Without it what tasks hold when their executor ends stays open as long as the process lives, listening
    /// sockets too: glommio never drops a task that waits. Not to be called from a task that shall go on.
    pub async fn finish(&self) {
        self.0.tasks.cancel_all();
        self.0.nap.forget();
        *self.0.sockets.borrow_mut() = None;
        self.0.home.empty_returns();
        // Files are closed by the ring, which takes what is queued before the executor next waits.
        self.sleep(Duration::from_millis(1)).await;
    }

    /// Tasks that were spawned and are not done.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.0.tasks.len()
    }

    /// Polls of tasks that held the core longer than [`STALL`] so far.
    #[must_use]
    pub fn stalls(&self) -> u64 {
        self.0.stalls.count()
    }

    /// The longest such poll.
    #[must_use]
    pub fn longest_stall(&self) -> Duration {
        self.0.stalls.longest()
    }

    /// Runs the part of an executor's main that uses this runtime: like a task that was spawned, others may wake it
    /// while the core naps.
    pub async fn attend<F: Future>(&self, main: F) -> F::Output {
        let mut main = std::pin::pin!(main);
        let counted = self.0.nap.counted();
        std::future::poll_fn(|cx| counted.poll(main.as_mut(), cx)).await
    }

    /// For those who put something where this runtime's tasks find it, but wake none of them.
    fn doorbell(&self) -> nap::Doorbell {
        self.0.nap.doorbell()
    }

    /// What went through this shard so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.0.counters.snapshot()
    }
}

/// Zero of every shard's monotonic clock, so that points of one shard compare with those of another.
fn start_of_process() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

impl Meter for UringRuntime {
    fn counters(&self) -> Counters {
        UringRuntime::counters(self)
    }

    fn stalled(&self) -> (u64, Duration) {
        (self.0.stalls.count(), self.0.stalls.longest())
    }
}

impl Clock for UringRuntime {
    fn now(&self) -> Monotonic {
        Monotonic { nanos: u64::try_from(start_of_process().elapsed().as_nanos()).unwrap_or(u64::MAX) }
    }

    fn wall_ms(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            // A clock before 1970: still the truth the host tells.
            Err(before) => -i64::try_from(before.duration().as_millis()).unwrap_or(i64::MAX),
        }
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let (timer, alarm) = (glommio::timer::Timer::new(duration), nap::Alarm::set(self, duration));
        async move {
            timer.await;
            drop(alarm);
        }
    }
}

impl Entropy for UringRuntime {
    fn next_u64(&self) -> u64 {
        self.0.entropy.next_u64()
    }
}
