//! How long tasks run before the rings are looked at again, and why that is not left to glommio.
//!
//! glommio looks at its rings when every queue is empty or when something completed in its latency ring, which is
//! where its preemption timer ends. That timer must be long: if it ends before the first task of a round has run (the
//! thread was off its core in between), the executor takes the round for an empty one and *sleeps with tasks ready to
//! run*, until something else wakes it. With 1 ms that happened within seconds on a busy machine; so the queues have no
//! latency of their own, and the timer is at glommio's 100 ms.
//!
//! Instead each poll of a task is timed anyway, and once tasks have run for [`SLICE`] without a look at the rings a bell
//! is rung: a byte in a socketpair, whose other end is read through the latency ring. Only running tasks ring, so it
//! never precedes the first. A bell that was heard is armed again when the rings are next looked at, and is heard one
//! round late when the busy queue comes first again; hence [`BELLS`]. What is left (a notification from another thread
//! at that very moment) ends at the next heartbeat.

use super::UringRuntime;
use super::file::cause_of;
use crate::runtime::{Clock, TaskGroup};
use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long tasks run before the rings are looked at.
const SLICE: Duration = Duration::from_millis(1);
/// A pause between polls as long as this was a look at the rings (three system calls at least), or sleep.
const GAP: Duration = Duration::from_micros(3);
/// The longest that a task which is ready can wait because glommio slept.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// One is being rung, one waits to be heard, one waits to be armed.
const BELLS: usize = 3;

/// The slice of the running tasks.
pub(super) struct Slice {
    started: Cell<Instant>,
    /// The end of the last poll of a task.
    last: Cell<Instant>,
    round: Cell<Round>,
    /// The end of the last nap.
    slept_until: Cell<Instant>,
    bells: [Bell; BELLS],
}

#[derive(Default)]
struct Bell {
    /// The end of the pair that is written to. `None`: no descriptors were left, glommio's timer must do.
    ours: RefCell<Option<UnixStream>>,
    state: Cell<BellState>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum BellState {
    /// Rung and not yet heard, or not yet there.
    #[default]
    Waiting,
    /// Its read was queued in this round, and reaches the ring at the end of it.
    Queued(Round),
}

/// Counts looks at the rings.
type Round = u64;

impl Default for Slice {
    fn default() -> Self {
        let now = Instant::now();
        let (started, last, slept_until) = (Cell::new(now), Cell::new(now), Cell::new(now));
        Self { started, last, slept_until, round: Cell::new(0), bells: Default::default() }
    }
}

impl Slice {
    /// A poll begins.
    pub(super) fn poll_begins(&self, now: Instant) {
        if now.duration_since(self.last.get()) > GAP {
            self.started.set(now);
        }
    }

    /// The task that is being polled slept until now.
    pub(super) fn slept(&self, now: Instant) {
        self.started.set(now);
        self.slept_until.set(now);
    }

    /// The end of the last nap.
    pub(super) fn slept_until(&self) -> Instant {
        self.slept_until.get()
    }

    /// A poll ended.
    pub(super) fn poll_ended(&self, now: Instant) {
        self.last.set(now);
        self.check(now);
    }

    /// True when the rings are due; the caller then yields.
    pub(super) fn is_over(&self) -> bool {
        self.check(Instant::now())
    }

    fn check(&self, now: Instant) -> bool {
        let over = now.duration_since(self.started.get()) > SLICE;
        if over {
            self.ring();
            self.started.set(now);
        }
        over
    }

    /// The round this is. glommio adds to its total runtime once a round, and sets it to zero when it is asked for
    /// it: so nobody else may ask.
    fn round(&self) -> Round {
        if !glommio::executor().executor_stats().total_runtime().is_zero() {
            self.round.set(self.round.get() + 1);
        }
        self.round.get()
    }

    #[cold]
    fn ring(&self) {
        let round = self.round();
        let armed = |bell: &&Bell| matches!(bell.state.get(), BellState::Queued(queued) if queued != round);
        let Some(bell) = self.bells.iter().find(armed) else { return };
        if let Some(ours) = &mut *bell.ours.borrow_mut() {
            // One byte into an empty socket: nothing to fail.
            let _ = ours.write(&[1]);
            bell.state.set(BellState::Waiting);
        }
    }
}

/// Starts what keeps an executor going round.
pub(super) fn start(runtime: &UringRuntime) {
    runtime.spawn_own(TaskGroup::Background, "heartbeat", heartbeat(runtime.clone()));
    for (index, bell) in runtime.0.slice.bells.iter().enumerate() {
        match pair() {
            Ok((ours, heard)) => {
                *bell.ours.borrow_mut() = Some(ours);
                let task = listen(runtime.clone(), index, heard);
                runtime.spawn_own_into(runtime.0.queues.bells(), "bell", task);
            }
            Err(error) => tracing::warn!(%error, "no descriptors for the preemption bell: slices may take 100 ms"),
        }
    }
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, heard) = UnixStream::pair()?;
    // Not `heard`: the ring does not wait on a descriptor that is non-blocking, it says EAGAIN.
    ours.set_nonblocking(true)?;
    Ok((ours, heard))
}

/// Hears the bell: its completion in the latency ring has made the executor stop and look; a new slice begins.
async fn listen(runtime: UringRuntime, index: usize, mut heard: UnixStream) {
    let slice = &runtime.0.slice;
    let bell = &slice.bells[index];
    let error = match heard.try_clone() {
        Ok(watched) => {
            // SAFETY: the descriptor was just made, and is given away here.
            #[allow(unsafe_code)]
            let watched = unsafe { glommio::net::UnixStream::from_raw_fd(watched.into_raw_fd()) };
            hear(slice, bell, &watched, &mut heard).await
        }
        Err(error) => error,
    };
    *bell.ours.borrow_mut() = None;
    tracing::error!(%error, "the preemption bell is broken: slices may take 100 ms");
}

async fn hear(slice: &Slice, bell: &Bell, watched: &glommio::net::UnixStream, heard: &mut UnixStream) -> io::Error {
    loop {
        bell.state.set(BellState::Queued(slice.round()));
        match watched.peek(&mut [0; 1]).await {
            Ok(1) => {}
            Ok(_) => return io::Error::from(io::ErrorKind::UnexpectedEof),
            Err(error) => return cause_of(error),
        }
        // The byte that was seen is there to be read: this does not block.
        if let Err(error) = heard.read_exact(&mut [0; 1]) {
            return error;
        }
        slice.started.set(Instant::now());
    }
}

async fn heartbeat(runtime: UringRuntime) {
    loop {
        runtime.sleep(HEARTBEAT).await;
        runtime.0.home.empty_returns();
    }
}
