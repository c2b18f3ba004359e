//! Synchronisation between tasks of one executor: no atomics, no locks, works on every backend.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Wakes waiting tasks. A [`Notify::notify_all`] wakes all that wait now; nothing is remembered for later waiters,
/// so check the condition, then wait: no other task runs in between.
#[derive(Debug, Default)]
pub struct Notify {
    epoch: Cell<u64>,
    waiters: RefCell<Vec<Waker>>,
}

impl Notify {
    /// Wakes every task that waits.
    pub fn notify_all(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for waker in waiters {
            waker.wake();
        }
    }

    /// Waits for the next [`Notify::notify_all`] after this call (the call, not the first poll).
    pub fn notified(&self) -> impl Future<Output = ()> + '_ {
        let seen = self.epoch.get();
        std::future::poll_fn(move |cx| {
            if self.epoch.get() != seen {
                return Poll::Ready(());
            }
            let mut waiters = self.waiters.borrow_mut();
            if !waiters.iter().any(|w| w.will_wake(cx.waker())) {
                waiters.push(cx.waker().clone());
            }
            Poll::Pending
        })
    }

    /// The number of tasks that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.borrow().len()
    }
}

/// A value that is sent once: the two ends of it.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Rc::new(Slot { value: RefCell::new(State::Empty), waker: RefCell::new(None) });
    (OneshotSender(slot.clone()), OneshotReceiver(slot))
}

#[derive(Debug)]
enum State<T> {
    Empty,
    Full(T),
    Closed,
}

#[derive(Debug)]
struct Slot<T> {
    value: RefCell<State<T>>,
    waker: RefCell<Option<Waker>>,
}

/// Sends the value; dropping it unsent closes the receiver.
#[derive(Debug)]
pub struct OneshotSender<T>(Rc<Slot<T>>);

/// Waits for the value; `None` when the sender is gone.
#[derive(Debug)]
pub struct OneshotReceiver<T>(Rc<Slot<T>>);

impl<T> OneshotSender<T> {
    /// Delivers the value; lost if nobody waits any more.
    pub fn send(self, value: T) {
        *self.0.value.borrow_mut() = State::Full(value);
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let mut value = self.0.value.borrow_mut();
        if matches!(*value, State::Empty) {
            *value = State::Closed;
        }
        drop(value);
        if let Some(waker) = self.0.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<Option<T>> {
        let mut value = self.0.value.borrow_mut();
        match std::mem::replace(&mut *value, State::Empty) {
            State::Full(v) => {
                *value = State::Closed;
                Poll::Ready(Some(v))
            }
            State::Closed => {
                *value = State::Closed;
                Poll::Ready(None)
            }
            State::Empty => {
                *self.0.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// A counting semaphore, first come first served: how memory and concurrency are bounded.
#[derive(Debug)]
pub struct Semaphore {
    available: Cell<usize>,
    waiters: RefCell<VecDeque<(usize, OneshotSender<()>)>>,
}

/// Permits of a [`Semaphore`], given back when dropped.
#[derive(Debug)]
pub struct Permit {
    semaphore: Rc<Semaphore>,
    count: usize,
}

impl Semaphore {
    /// A semaphore with `permits` to give.
    #[must_use]
    pub fn new(permits: usize) -> Rc<Self> {
        Rc::new(Self { available: Cell::new(permits), waiters: RefCell::default() })
    }

    /// Takes `count` permits if they are there and nobody waits before.
    pub fn try_acquire(self: &Rc<Self>, count: usize) -> Option<Permit> {
        if !self.waiters.borrow().is_empty() || self.available.get() < count {
            return None;
        }
        self.available.set(self.available.get() - count);
        Some(Permit { semaphore: self.clone(), count })
    }

    /// Waits for `count` permits. The caller must not ask for more than there are in all.
    pub async fn acquire(self: &Rc<Self>, count: usize) -> Permit {
        if let Some(permit) = self.try_acquire(count) {
            return permit;
        }
        let (sender, receiver) = oneshot();
        self.waiters.borrow_mut().push_back((count, sender));
        // A waiter that goes away is passed over in `give`, which sees that nobody listens.
        let granted = Permit { semaphore: self.clone(), count: 0 };
        let mut granted = granted;
        if receiver.await.is_some() {
            granted.count = count;
        }
        granted
    }

    /// Permits that can be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available.get()
    }

    fn give(&self, count: usize) {
        self.available.set(self.available.get() + count);
        loop {
            let mut waiters = self.waiters.borrow_mut();
            let Some((wanted, sender)) = waiters.front() else { return };
            // The receiver dropped: nobody would give these permits back.
            let gone = Rc::strong_count(&sender.0) == 1;
            if !gone && *wanted > self.available.get() {
                return;
            }
            let (wanted, sender) = waiters.pop_front().expect("front was there");
            drop(waiters);
            if !gone {
                self.available.set(self.available.get() - wanted);
                sender.send(());
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.give(self.count);
        }
    }
}
