//! Stopping: one request, seen by all shards, and the latch that opens when the last one has returned.

use crate::mesh::Host;
use coreline_io::TaskGroup;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Something that happens once and is seen from every thread: a channel that never carries a value and whose
/// disconnection is the message.
#[derive(Clone, Debug)]
pub(crate) struct Latch(flume::Receiver<Infallible>);

/// The latch opens when the last clone of this is dropped.
#[derive(Clone, Debug)]
pub(crate) struct LatchHolder(#[allow(dead_code, reason = "held, not used")] flume::Sender<Infallible>);

impl Latch {
    pub(crate) fn new() -> (LatchHolder, Self) {
        let (sender, receiver) = flume::bounded(1);
        (LatchHolder(sender), Self(receiver))
    }

    pub(crate) async fn opened(&self) {
        match self.0.recv_async().await {
            Ok(never) => match never {},
            Err(flume::RecvError::Disconnected) => {}
        }
    }
}

/// Asks all shards of a process to stop, from any thread.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    requested: AtomicBool,
    holder: Mutex<Option<LatchHolder>>,
    latch: Latch,
}

impl Default for ShutdownHandle {
    fn default() -> Self {
        Self::new()
    }
}

impl ShutdownHandle {
    /// A handle that nobody has used yet.
    #[must_use]
    pub fn new() -> Self {
        let (holder, latch) = Latch::new();
        Self(Arc::new(Shared { requested: AtomicBool::new(false), holder: Mutex::new(Some(holder)), latch }))
    }

    /// Asks all shards to stop. Asking again changes nothing.
    pub fn request(&self) {
        self.0.requested.store(true, Ordering::Release);
        let holder = self.0.holder.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Wakes one waiter a shard; outside of the lock.
        drop(holder);
    }

    /// True once somebody asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.requested.load(Ordering::Acquire)
    }

    async fn wait(&self) {
        self.0.latch.opened().await;
    }
}

/// A shard's view of the shutdown: cheap to wait for, by as many tasks as there are connections.
#[derive(Clone, Debug)]
pub struct Shutdown {
    handle: ShutdownHandle,
    local: Rc<Local>,
}

#[derive(Debug, Default)]
struct Local {
    fired: Cell<bool>,
    next_ticket: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, Waker>>,
}

impl Shutdown {
    /// The view of the shard that `runtime` belongs to; one task of it carries the news from `handle`.
    pub(crate) fn start<R: Host>(runtime: &R, handle: ShutdownHandle) -> Self {
        let local = Rc::new(Local::default());
        let (news, watched) = (handle.clone(), Rc::clone(&local));
        let _detached = runtime.spawn(TaskGroup::Requests, "shutdown-watch", async move {
            news.wait().await;
            watched.fire();
        });
        Self { handle, local }
    }

    /// Asks all shards to stop.
    pub fn request(&self) {
        self.handle.request();
    }

    /// True once somebody asked, on whatever shard or thread.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.handle.is_requested()
    }

    /// Waits until somebody asks. The future is `'static`, and dropping it costs nothing.
    #[must_use]
    pub fn requested(&self) -> ShutdownRequested {
        ShutdownRequested { local: Rc::clone(&self.local), ticket: None }
    }

    /// What another thread needs to ask for a stop.
    #[must_use]
    pub fn handle(&self) -> ShutdownHandle {
        self.handle.clone()
    }
}

impl Local {
    fn fire(&self) {
        self.fired.set(true);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

/// See [`Shutdown::requested`].
#[derive(Debug)]
pub struct ShutdownRequested {
    local: Rc<Local>,
    ticket: Option<u64>,
}

impl Future for ShutdownRequested {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let local = Rc::clone(&self.local);
        if local.fired.get() {
            self.ticket = None;
            return Poll::Ready(());
        }
        let ticket = self.ticket.unwrap_or_else(|| {
            let ticket = local.next_ticket.get();
            local.next_ticket.set(ticket + 1);
            ticket
        });
        self.ticket = Some(ticket);
        local.waiting.borrow_mut().insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for ShutdownRequested {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            self.local.waiting.borrow_mut().remove(&ticket);
        }
    }
}
