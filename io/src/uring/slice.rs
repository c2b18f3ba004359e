//! How long tasks run before the rings are looked at again, and why that is not left to glommio.
//!
//! glommio looks at its rings when every queue is empty or when something completed in its latency ring, which is
//! where its preemption timer ends. That timer must be long: if it ends before the first task of a round has run (the
//! thread was off its core in between), the executor takes the round for an empty one and *sleeps with tasks ready to
//! run*, until something else wakes it. With 1 ms that happened within seconds on a busy machine; so the queues have no
//! latency of their own, and the timer is at glommio's 100 ms.
//!
//! Instead each poll of a task is timed anyway, and once tasks have run for [`SLICE`] without a look at the rings the
//! bell is rung: a byte in a socketpair, whose other end is read through the latency ring. Only running tasks ring it,
//! so it never precedes the first. What is left (a notification from another thread at that very moment) ends at the
//! next heartbeat.

use super::UringRuntime;
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

/// The slice of the running tasks.
pub(super) struct Slice {
    started: Cell<Instant>,
    /// The end of the last poll of a task.
    last: Cell<Instant>,
    /// The end of the pair that is written to. `None`: no descriptors were left, glommio's timer must do.
    bell: RefCell<Option<UnixStream>>,
    /// Rung, and not yet heard.
    rung: Cell<bool>,
}

impl Default for Slice {
    fn default() -> Self {
        let now = Instant::now();
        Self { started: Cell::new(now), last: Cell::new(now), bell: RefCell::default(), rung: Cell::new(false) }
    }
}

impl Slice {
    /// A poll begins.
    pub(super) fn poll_begins(&self, now: Instant) {
        if now.duration_since(self.last.get()) > GAP {
            self.started.set(now);
        }
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
        if over && !self.rung.get() {
            self.ring();
        }
        over
    }

    #[cold]
    fn ring(&self) {
        if let Some(bell) = &mut *self.bell.borrow_mut() {
            // One byte into an empty socket: nothing to fail.
            self.rung.set(bell.write(&[1]).is_ok());
        }
    }
}

/// Starts what keeps an executor going round.
pub(super) fn start(runtime: &UringRuntime) {
    runtime.spawn_own(TaskGroup::Background, "heartbeat", heartbeat(runtime.clone()));
    match pair() {
        Ok((ours, heard)) => {
            *runtime.0.slice.bell.borrow_mut() = Some(ours);
            runtime.spawn_own(TaskGroup::Requests, "bell", listen(runtime.clone(), heard));
        }
        Err(error) => tracing::warn!(%error, "no descriptors for the preemption bell: slices may take 100 ms"),
    }
}

fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let (ours, heard) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    Ok((ours, heard))
}

/// Hears the bell: its completion in the latency ring has made the executor stop and look; a new slice begins.
async fn listen(runtime: UringRuntime, mut heard: UnixStream) {
    let Ok(watched) = heard.try_clone() else { return };
    // SAFETY: the descriptor was just made, and is given away here.
    #[allow(unsafe_code)]
    let watched = unsafe { glommio::net::UnixStream::from_raw_fd(watched.into_raw_fd()) };
    while let Ok(1) = watched.peek(&mut [0; 1]).await {
        let _ = heard.read(&mut [0; 16]);
        let slice = &runtime.0.slice;
        slice.rung.set(false);
        slice.started.set(Instant::now());
    }
}

async fn heartbeat(runtime: UringRuntime) {
    loop {
        runtime.sleep(HEARTBEAT).await;
        runtime.0.home.empty_returns();
    }
}
