//! One readiness source a shard: an epoll set over all its sockets, awaited through the ring once per wake-up.
//!
//! glommio interrupts its thread for each socket operation that completes, and has no public "await this descriptor".
//! So sockets are read and written by plain non-blocking calls, and only the epoll set is awaited: one completion
//! brings the events of all sockets that became ready. How a descriptor that is no socket is awaited: [`Armed`]. And while
//! the rings have nothing to do, not even that: a second task, the last of all to run, sleeps on the set (`nap.rs`).
//!
//! Edge-triggered: an event says that something changed since the last one. A reader tries first and waits only after
//! `EAGAIN` (or a short read, which means the same); one thread does all of it, so between a failed try and the wait
//! no event can be lost.

use super::UringRuntime;
use super::nap::Chance;
use crate::counters::add;
use crate::error::{IoError, IoResult};
use crate::runtime::{TaskGroup, Tasks};
use futures_io::AsyncRead;
use std::cell::{Cell, RefCell};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Events taken from the kernel by one call; more are taken at the next wake-up, which is at once.
const EVENTS_MOST: usize = 256;
/// Turns given to others in vain, after which the napper no longer believes that a task is ready.
const VAIN_TURNS_MOST: usize = 64;

/// The sockets of a shard and their epoll set.
pub(super) struct Sockets {
    epoll: OwnedFd,
    slots: RefCell<Slots>,
    /// Wakes the napper: sockets are busy, it may be worth a nap.
    napper: Side,
}

#[derive(Default)]
struct Slots {
    entries: Vec<Slot>,
    free: Vec<u32>,
}

/// `generation` changes with each socket, so that an event for a socket that is gone wakes nobody.
struct Slot {
    generation: u32,
    state: Option<Rc<State>>,
}

/// What is known of a socket, and who waits for it.
#[derive(Default)]
struct State {
    readable: Side,
    writable: Side,
    /// The peer ended the stream, or an error is pending: a short read no longer means that nothing is left.
    hung_up: Cell<bool>,
}

#[derive(Default)]
struct Side {
    ready: Cell<bool>,
    waiter: Cell<Option<Waker>>,
}

impl Side {
    fn set_ready(&self) {
        self.ready.set(true);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.ready.get() {
            self.waiter.take();
            return Poll::Ready(());
        }
        let waiter = self.waiter.take();
        let same = waiter.filter(|waiter| waiter.will_wake(cx.waker()));
        self.waiter.set(Some(same.unwrap_or_else(|| cx.waker().clone())));
        Poll::Pending
    }
}

/// A socket in the epoll set; closed, and out of the set, when dropped.
pub(super) struct Registered {
    /// `None` only after [`Registered::into_fd`].
    fd: Option<OwnedFd>,
    state: Rc<State>,
    slot: u32,
    sockets: Rc<Sockets>,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("fd", &self.fd).finish_non_exhaustive()
    }
}

impl UringRuntime {
    /// Puts a socket under this shard's watch.
    pub(super) fn register(&self, fd: OwnedFd) -> IoResult<Registered> {
        self.sockets().and_then(|sockets| sockets.register(fd)).map_err(|cause| IoError::new("epoll", cause))
    }

    fn sockets(&self) -> io::Result<Rc<Sockets>> {
        if let Some(sockets) = &*self.0.sockets.borrow() {
            return Ok(Rc::clone(sockets));
        }
        // SAFETY: no pointers involved.
        #[allow(unsafe_code)]
        let epoll = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: a descriptor that was just made for us.
        #[allow(unsafe_code)]
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        let sockets = Rc::new(Sockets { epoll, slots: RefCell::default(), napper: Side::default() });
        // The end of a nap is no socket's event: a slot that is never given.
        sockets.add(self.0.nap.event(), libc::EPOLLIN | libc::EPOLLET, u64::MAX)?;
        *self.0.sockets.borrow_mut() = Some(Rc::clone(&sockets));
        self.spawn_own(TaskGroup::Requests, "socket readiness", watch(self.clone(), Rc::clone(&sockets)));
        self.spawn_napper("nap", nap(self.clone(), Rc::clone(&sockets)));
        Ok(sockets)
    }
}

/// Waits for the epoll set and wakes whom its events concern, for as long as the executor runs.
async fn watch(runtime: UringRuntime, sockets: Rc<Sockets>) {
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MOST];
    loop {
        Armed::new(sockets.epoll.as_raw_fd()).await;
        sockets.take(&runtime, &mut events, Duration::ZERO);
        sockets.napper.set_ready();
    }
}

/// After each of those events, sleeps on the epoll set whenever no task has anything to do, until the rings have.
async fn nap(runtime: UringRuntime, sockets: Rc<Sockets>) {
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_MOST];
    loop {
        std::future::poll_fn(|cx| sockets.napper.poll(cx)).await;
        sockets.napper.ready.set(false);
        nap_while_idle(&runtime, &sockets, &mut events).await;
    }
}

async fn nap_while_idle(runtime: &UringRuntime, sockets: &Sockets, events: &mut [libc::epoll_event]) {
    let nap = &runtime.0.nap;
    let (mut vain, mut polls) = (0, nap.polls());
    loop {
        if let Some(look) = nap.was_rung() {
            if look {
                look_at_rings().await;
            }
        } else if nap.is_busy() {
            runtime.yield_now().await;
            // This poll is one.
            vain = if nap.polls() == polls + 1 { vain + 1 } else { 0 };
            polls = nap.polls();
            if vain > VAIN_TURNS_MOST {
                return;
            }
        } else {
            let most = match nap.chance(Instant::now()) {
                Chance::For(most) => most,
                Chance::After(timer) => {
                    glommio::timer::Timer::new(timer).await;
                    look_at_rings().await;
                    continue;
                }
                Chance::Never => return,
            };
            let began = Instant::now();
            match sockets.spin(runtime, events, began, most) {
                Spun::Found => continue,
                Spun::All => {
                    look_at_rings().await;
                    continue;
                }
                Spun::Enough if !nap.lie_down() => continue,
                Spun::Enough => {}
            }
            let count = sockets.take(runtime, events, most);
            let rung = nap.get_up();
            let now = Instant::now();
            runtime.0.slice.slept(now);
            if !nap.is_helped() {
                nap.spin(|spin| spin.waited(now.duration_since(began), false));
            }
            add(&runtime.0.counters.naps, 1);
            add(&runtime.0.counters.naps_rung, usize::from(rung && count > 0));
            if count == 0 {
                look_at_rings().await;
            }
        }
    }
}

/// How polling before a nap ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spun {
    /// There is something to do.
    Found,
    /// A nap would have been no longer.
    All,
    /// It is no longer worth it, or never was.
    Enough,
}

/// One round of glommio's: waits for a timer that is due when it looks.
async fn look_at_rings() {
    let (mut looked, mut after) = (false, Duration::from_micros(1));
    while !looked {
        let mut timer = glommio::timer::Timer::new(after);
        // Where making it takes longer than that (a slow machine, a tracer), the next one is not due at once.
        after *= 2;
        std::future::poll_fn(|cx| {
            let polled = Pin::new(&mut timer).poll(cx);
            // One that is due at its first poll is not left to a look.
            looked |= polled.is_pending();
            polled
        })
        .await;
    }
}

/// Completes when the descriptor is readable; every descriptor that can be polled will do.
///
/// The trick: a glommio `UnixStream` that is made of a descriptor queues a `POLL_ADD` for it at once, without asking
/// what it is, and `poll_read` waits for that. When it is done, `poll_read` tries `recv`, which says `ENOTSOCK` of an
/// epoll set; the error ends the stream's only operation, and the stream is forgotten: it holds nothing but the number
/// of a descriptor that is not its own.
struct Armed(ManuallyDrop<glommio::net::UnixStream>);

impl Armed {
    /// `fd` must stay open until this is ready or the executor is gone.
    fn new(fd: RawFd) -> Self {
        // SAFETY: the stream is never dropped, so the descriptor stays its owner's.
        #[allow(unsafe_code)]
        Self(ManuallyDrop::new(unsafe { glommio::net::UnixStream::from_raw_fd(fd) }))
    }
}

impl Future for Armed {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut *self.0).poll_read(cx, &mut [0; 1]) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                let error = result.err().and_then(|error| error.raw_os_error());
                debug_assert_eq!(error, Some(libc::ENOTSOCK), "recv of an epoll set");
                Poll::Ready(())
            }
        }
    }
}

impl Sockets {
    fn register(self: Rc<Self>, fd: OwnedFd) -> io::Result<Registered> {
        let state = Rc::new(State::default());
        state.readable.ready.set(true);
        state.writable.ready.set(true);
        let (slot, generation) = self.slots.borrow_mut().take(&state);
        // From here on the drop gives the slot back.
        let registered = Registered { fd: Some(fd), state, slot, sockets: self };
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let token = u64::from(generation) << 32 | u64::from(slot);
        registered.sockets.add(registered.raw_fd(), interest, token)?;
        Ok(registered)
    }

    fn add(&self, fd: RawFd, interest: i32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest as u32, u64: token };
        // SAFETY: both descriptors are open, the event is live.
        #[allow(unsafe_code)]
        check(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })?;
        Ok(())
    }

    /// Polls before a nap, as long as that is worth it and at most so long.
    fn spin(
        &self,
        runtime: &UringRuntime,
        events: &mut [libc::epoll_event],
        began: Instant,
        nap_most: Duration,
    ) -> Spun {
        let nap = &runtime.0.nap;
        // Nothing that is under way now changes before this ends.
        let helped = nap.is_helped();
        let most = nap.spin(|spin| spin.budget(began, helped)).min(nap_most);
        if most.is_zero() {
            return Spun::Enough;
        }
        add(&runtime.0.counters.spins, 1);
        let mut last = began;
        let spun = loop {
            if nap.is_rung() || self.deliver(events, Duration::ZERO) > 0 {
                break Spun::Found;
            }
            let now = Instant::now();
            let taken = nap.spin(|spin| spin.looked(now.duration_since(last), now));
            if taken || now.duration_since(began) >= most {
                break if most == nap_most { Spun::All } else { Spun::Enough };
            }
            last = now;
            if helped {
                // It wakes up on this core, and goes first at once only where the system lets it.
                std::thread::yield_now();
            }
        };
        let now = Instant::now();
        runtime.0.slice.slept(now);
        if spun == Spun::Found {
            add(&runtime.0.counters.spins_ended, 1);
            runtime.0.home.empty_returns();
            if !helped {
                nap.spin(|spin| spin.waited(now.duration_since(began), true));
            }
        }
        spun
    }

    /// Waits for events, at most so long, and wakes the tasks they concern; their number.
    fn take(&self, runtime: &UringRuntime, events: &mut [libc::epoll_event], wait: Duration) -> usize {
        let count = self.deliver(events, wait);
        add(&runtime.0.counters.readiness_wakeups, 1);
        add(&runtime.0.counters.readiness_events, count);
        runtime.0.home.empty_returns();
        count
    }

    fn deliver(&self, events: &mut [libc::epoll_event], wait: Duration) -> usize {
        let most = i32::try_from(events.len()).expect("a small buffer");
        let wait = i32::try_from(wait.as_millis()).expect("a short time");
        // SAFETY: pointer and length are those of a live buffer.
        #[allow(unsafe_code)]
        let count = check(unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), most, wait) });
        let count = match count {
            Ok(count) => usize::try_from(count).expect("not negative"),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => panic!("epoll_wait on our own set: {error}"),
        };
        for event in &events[..count] {
            let (what, token) = (event.events, event.u64);
            if let Some(state) = self.slots.borrow().find(token) {
                state.deliver(what);
            }
        }
        count
    }
}

impl Slots {
    fn take(&mut self, state: &Rc<State>) -> (u32, u32) {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Slot { generation: 0, state: None });
            u32::try_from(self.entries.len() - 1).expect("fewer sockets than descriptors")
        });
        let entry = &mut self.entries[slot as usize];
        assert!(entry.state.is_none(), "slot {slot} is free");
        entry.state = Some(Rc::clone(state));
        (slot, entry.generation)
    }

    fn give(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        entry.state = None;
        entry.generation = entry.generation.wrapping_add(1);
        self.free.push(slot);
    }

    fn find(&self, token: u64) -> Option<Rc<State>> {
        let (generation, slot) = ((token >> 32) as u32, token as u32);
        let entry = self.entries.get(slot as usize)?;
        if entry.generation == generation { entry.state.clone() } else { None }
    }
}

impl State {
    fn deliver(&self, events: u32) {
        let has = |flags: i32| events & flags as u32 != 0;
        if has(libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) {
            self.hung_up.set(true);
        }
        if has(libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) {
            self.readable.set_ready();
        }
        if has(libc::EPOLLOUT | libc::EPOLLHUP | libc::EPOLLERR) {
            self.writable.set_ready();
        }
    }
}

impl Registered {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.fd.as_ref().expect("there until it is given away").as_fd()
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd().as_raw_fd()
    }

    /// False if a read has to wait for an event.
    pub(super) fn is_readable(&self) -> bool {
        self.state.readable.ready.get()
    }

    /// Waits until a read may succeed.
    pub(super) async fn readable(&self) {
        std::future::poll_fn(|cx| self.state.readable.poll(cx)).await;
    }

    /// Waits until a write may succeed.
    pub(super) async fn writable(&self) {
        std::future::poll_fn(|cx| self.state.writable.poll(cx)).await;
    }

    /// A read said `EAGAIN`: the next one waits for an event first.
    pub(super) fn not_readable(&self) {
        self.state.readable.ready.set(false);
    }

    /// A write said `EAGAIN`.
    pub(super) fn not_writable(&self) {
        self.state.writable.ready.set(false);
    }

    /// A read gave less than there was room for: nothing is left, and what comes raises an event. Not so once the
    /// peer hung up: that event was the last.
    pub(super) fn drained(&self) {
        if !self.state.hung_up.get() {
            self.not_readable();
        }
    }

    /// Wakes both sides: what they try next will tell them.
    pub(super) fn wake(&self) {
        self.state.hung_up.set(true);
        self.state.readable.set_ready();
        self.state.writable.set_ready();
    }

    /// Takes the socket out of the set.
    pub(super) fn into_fd(mut self) -> OwnedFd {
        let (epoll, socket) = (self.sockets.epoll.as_raw_fd(), self.raw_fd());
        // SAFETY: both descriptors are open; DEL takes no event.
        #[allow(unsafe_code)]
        let removed = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_DEL, socket, std::ptr::null_mut()) };
        assert_eq!(removed, 0, "a registered socket is in the set: {}", io::Error::last_os_error());
        self.fd.take().expect("there until now")
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // Closing a descriptor that has no duplicate takes it out of the set.
        self.sockets.slots.borrow_mut().give(self.slot);
    }
}

/// The value of a system call, or its error.
fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
