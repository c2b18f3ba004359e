//! Sleep without the rings: what it takes to know that nothing but a socket can need this core.
//!
//! glommio's way in and out of sleep is nine calls of `io_uring_enter` and a `membarrier`: timers set and cancelled, rings
//! linked. Where small requests come one by one that is a quarter of all they cost. So while nothing is in the rings a
//! task of `readiness.rs` sleeps itself, in `epoll_wait` (a *nap*), and a request costs its wake-up, `recv` and a send.
//! When it may:
//!
//! * no task is ready. All tasks are polled with wakers of this file, which count ([`Counted`]);
//! * nothing is under way in the rings ([`Nap::in_ring`]), and no timer is near ([`Alarm`]): a nap ends before it;
//! * no other thread wants the core. Wakers that are called elsewhere, and shards that have put something into a ring of
//!   the mesh, ring the [`Doorbell`]: a store, and a write to an eventfd if the core naps.
//!
//! A task that another thread wakes stands in a list besides ([`Shared::woken`]), and whoever gets up wakes it again from
//! here: a round of glommio's, which would find it, costs more than all the rest. Only what is in glommio's own hands, packets
//! of the mesh and files that were closed, needs such a round ([`Shared::look`]).
//!
//! A nap is never longer than [`NAP_MOST`], and each ends with a look at the rings unless a socket ended it: who is forgotten
//! here is late, not lost.

use super::UringRuntime;
use super::spin::{Polling, Spin};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

/// The longest nap.
const NAP_MOST: Duration = Duration::from_millis(100);
/// A timer nearer than this is left to the ring, which is more precise than `epoll_wait`.
const NAP_LEAST: Duration = Duration::from_millis(1);

/// States of the bell. Rung while nobody naps, it is seen before the next nap.
const AWAKE: u8 = 0;
const NAPPING: u8 = 1;
const RUNG: u8 = 2;

/// States of a task: not ready; ready and counted; done, and never counted again.
const IDLE: u8 = 0;
const READY: u8 = 1;
const DONE: u8 = 2;

/// What other threads may touch.
#[derive(Debug)]
struct Shared {
    home: usize,
    /// Tasks that were woken and not polled since.
    ready: AtomicUsize,
    bell: AtomicU8,
    /// Tasks that other threads woke, each once.
    woken: Mutex<Vec<Arc<Task>>>,
    /// Something was left where only the rings see it.
    look: AtomicBool,
    /// Written to end a nap; never read, the set it is in is edge-triggered.
    event: File,
}

/// Tells a shard that something was put where it sees it only between two naps. May be rung on any thread.
#[derive(Clone, Debug)]
pub(super) struct Doorbell(Arc<Shared>);

impl Doorbell {
    /// To be rung after that something was put there.
    pub(super) fn ring(&self) {
        self.0.look.store(true, Ordering::SeqCst);
        self.0.ring();
    }
}

/// Rings when it is dropped: what was dropped before it left something for the rings.
#[derive(Debug)]
pub(super) struct RingOnDrop(pub(super) Doorbell);

impl Drop for RingOnDrop {
    fn drop(&mut self) {
        self.0.ring();
    }
}

impl Shared {
    fn woken(&self) -> MutexGuard<'_, Vec<Arc<Task>>> {
        // Nothing panics while it is held.
        self.woken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if it ended a nap.
    fn ring(&self) -> bool {
        // The exchange orders what was put before it, and the napper's own before its last look.
        let naps = self.bell.swap(RUNG, Ordering::SeqCst) == NAPPING;
        if naps {
            // Fails only when the counter is full, and then it is readable.
            let _ = (&self.event).write(&1u64.to_ne_bytes());
        }
        naps
    }
}

/// A shard's knowledge of what may need its core.
pub(super) struct Nap {
    shared: Arc<Shared>,
    /// Operations of rings and of glommio's thread pool that are under way.
    in_ring: Cell<usize>,
    /// What a thread of the shard's own does on the same core.
    helped: Cell<usize>,
    /// Whether to poll before sleep.
    spin: Cell<Spin>,
    /// When sleeping tasks are due, each with a number of its own.
    deadlines: RefCell<BTreeSet<(Instant, u64)>>,
    alarms: Cell<u64>,
    /// Polls of tasks so far.
    polls: Cell<u64>,
}

impl Nap {
    pub(super) fn new(polling: Polling) -> io::Result<Self> {
        // SAFETY: no pointers involved.
        #[allow(unsafe_code)]
        let event = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if event < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was just made for us.
        #[allow(unsafe_code)]
        let event = unsafe { File::from_raw_fd(event) };
        let (ready, bell) = (AtomicUsize::new(0), AtomicU8::new(AWAKE));
        let (woken, look) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { home: this_thread(), ready, bell, woken, look, event });
        let (in_ring, helped, deadlines) = (Cell::new(0), Cell::new(0), RefCell::default());
        let spin = Cell::new(Spin::new(polling));
        Ok(Self { shared, in_ring, helped, spin, deadlines, alarms: Cell::new(0), polls: Cell::new(0) })
    }

    /// What is readable when a nap shall end.
    pub(super) fn event(&self) -> RawFd {
        self.shared.event.as_raw_fd()
    }

    pub(super) fn doorbell(&self) -> Doorbell {
        Doorbell(Arc::clone(&self.shared))
    }

    /// An operation of the rings, under way until this is dropped.
    pub(super) fn in_ring(&self) -> InRing<'_> {
        self.in_ring.set(self.in_ring.get() + 1);
        InRing(&self.in_ring)
    }

    /// Work of a thread of this shard, under way until this is dropped. It rings the bell itself.
    pub(super) fn helped(&self) -> InRing<'_> {
        self.helped.set(self.helped.get() + 1);
        InRing(&self.helped)
    }

    /// True while such a thread works.
    pub(super) fn is_helped(&self) -> bool {
        self.helped.get() > 0
    }

    /// The end: tasks that stand in the list are not kept for it.
    pub(super) fn forget(&self) {
        self.shared.woken().clear();
    }

    /// Asks, or tells, who decides whether to poll.
    pub(super) fn spin<T>(&self, f: impl FnOnce(&mut Spin) -> T) -> T {
        let mut spin = self.spin.get();
        let result = f(&mut spin);
        self.spin.set(spin);
        result
    }

    /// A task that is about to be polled for the first time, or was spawned.
    pub(super) fn counted(&self) -> Counted {
        self.shared.ready.fetch_add(1, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        let (state, listed) = (AtomicU8::new(READY), AtomicBool::new(false));
        let task = Arc::new(Task { state, listed, inner: OnceLock::new(), shared });
        Counted { waker: Waker::from(Arc::clone(&task)), task }
    }

    /// Polls of tasks so far.
    pub(super) fn polls(&self) -> u64 {
        self.polls.get()
    }

    pub(super) fn polled(&self) {
        self.polls.set(self.polls.get().wrapping_add(1));
    }

    /// True if a task waits for its turn.
    pub(super) fn is_busy(&self) -> bool {
        self.shared.ready.load(Ordering::SeqCst) > 0
    }

    /// True if the bell was rung, and nobody has seen to it.
    pub(super) fn is_rung(&self) -> bool {
        self.shared.bell.load(Ordering::SeqCst) == RUNG
    }

    /// Once after each time the bell was rung: true if the rings have to be looked at. Tasks that were woken are then ready.
    pub(super) fn was_rung(&self) -> Option<bool> {
        self.shared.bell.compare_exchange(RUNG, AWAKE, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        let woken = std::mem::take(&mut *self.shared.woken());
        for task in woken {
            // From here on it stands in the list again if somebody wakes it.
            task.listed.store(false, Ordering::SeqCst);
            if let Some(inner) = task.inner.get() {
                inner.wake_by_ref();
            }
        }
        Some(self.shared.look.swap(false, Ordering::SeqCst))
    }

    /// What a core with no task to run may do now.
    pub(super) fn chance(&self, now: Instant) -> Chance {
        if self.in_ring.get() > 0 {
            return Chance::Never;
        }
        let mut deadlines = self.deadlines.borrow_mut();
        let mut most = NAP_MOST;
        while let Some((at, _)) = deadlines.first() {
            let left = at.saturating_duration_since(now);
            most = most.min(left);
            if !left.is_zero() {
                break;
            }
            // Seen to by the look at the rings that follows; who holds such a timer unpolled must not keep the core up.
            deadlines.pop_first();
        }
        if most < NAP_LEAST { Chance::After(most) } else { Chance::For(most) }
    }

    /// From here on the bell ends the nap. False: it was rung already.
    pub(super) fn lie_down(&self) -> bool {
        self.shared.bell.compare_exchange(AWAKE, NAPPING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// True if it was the bell that ended the nap; it is then as if rung just now.
    pub(super) fn get_up(&self) -> bool {
        self.shared.bell.compare_exchange(NAPPING, AWAKE, Ordering::SeqCst, Ordering::SeqCst).is_err()
    }
}

/// When a core may nap.
pub(super) enum Chance {
    /// Now, and so long.
    For(Duration),
    /// When a timer that is near has ended.
    After(Duration),
    /// When the rings have done what they do.
    Never,
}

/// See [`Nap::in_ring`] and [`Nap::helped`].
pub(super) struct InRing<'a>(&'a Cell<usize>);

impl Drop for InRing<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// A timer of glommio's that is set until this is dropped.
pub(super) struct Alarm {
    runtime: UringRuntime,
    at: Instant,
    number: u64,
}

impl Alarm {
    pub(super) fn set(runtime: &UringRuntime, after: Duration) -> Self {
        let nap = &runtime.0.nap;
        let number = nap.alarms.get();
        nap.alarms.set(number + 1);
        let now = Instant::now();
        // One that is too far away to name is as good as the farthest.
        let at = now.checked_add(after).unwrap_or(now + Duration::from_secs(86_400 * 365));
        nap.deadlines.borrow_mut().insert((at, number));
        Self { runtime: runtime.clone(), at, number }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.runtime.0.nap.deadlines.borrow_mut().remove(&(self.at, self.number));
    }
}

/// A task whose wake-ups are counted.
pub(super) struct Counted {
    task: Arc<Task>,
    waker: Waker,
}

impl Counted {
    /// Polls the task's future with a waker that counts.
    pub(super) fn poll<F: Future>(&self, future: Pin<&mut F>, cx: &Context<'_>) -> Poll<F::Output> {
        self.task.begin(cx.waker());
        let polled = future.poll(&mut Context::from_waker(&self.waker));
        if polled.is_ready() {
            self.task.end();
        }
        polled
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.task.end();
    }
}

#[derive(Debug)]
struct Task {
    state: AtomicU8,
    /// It stands in the list of those that other threads woke.
    listed: AtomicBool,
    /// glommio's own waker, which is the same at every poll.
    inner: OnceLock<Waker>,
    shared: Arc<Shared>,
}

impl Task {
    fn begin(&self, inner: &Waker) {
        self.inner.get_or_init(|| inner.clone());
        self.leave(IDLE);
    }

    fn end(&self) {
        self.leave(DONE);
    }

    fn leave(&self, state: u8) {
        if self.state.swap(state, Ordering::SeqCst) == READY {
            self.shared.ready.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.compare_exchange(IDLE, READY, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.shared.ready.fetch_add(1, Ordering::SeqCst);
        }
        let home = self.shared.home == this_thread();
        if !home && !self.listed.swap(true, Ordering::SeqCst) {
            self.shared.woken().push(Arc::clone(self));
        }
        // Whoever naps sees the list. glommio has a list of its own, and sees that one when it wakes.
        if !home && self.shared.ring() {
            return;
        }
        if let Some(inner) = self.inner.get() {
            inner.wake_by_ref();
        }
    }
}

/// A number that no other living thread has.
fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}
