//! Synchronisation between tasks of one executor: no atomics, no locks, works on every backend.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Wakes waiting tasks. A [`Notify::notify_all`] wakes all that wait now; nothing is remembered for later waiters,
/// so check the condition, then wait: no other task runs in between.
#[derive(Debug, Default)]
pub struct Notify {
    /// Counts the notifications.
    epoch: Cell<u64>,
    /// By the number of the wait. A wait that is given up takes its waker away.
    waiters: RefCell<Vec<(u64, Waker)>>,
    next_wait: Cell<u64>,
}

impl Notify {
    /// Wakes every task that waits.
    pub fn notify_all(&self) {
        self.epoch.set(self.epoch.get().wrapping_add(1));
        let waiters = std::mem::take(&mut *self.waiters.borrow_mut());
        for (_, waker) in waiters {
            waker.wake();
        }
    }

    /// Waits for the next [`Notify::notify_all`] after this call (the call, not the first poll).
    pub fn notified(&self) -> Notified<'_> {
        let wait = self.next_wait.get();
        self.next_wait.set(wait + 1);
        Notified { notify: self, seen: self.epoch.get(), wait }
    }

    /// The number of waits under way that have been polled.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.borrow().len()
    }
}

/// A wait for a [`Notify`].
#[derive(Debug)]
#[must_use = "nothing waits unless it is awaited"]
pub struct Notified<'a> {
    notify: &'a Notify,
    seen: u64,
    wait: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.notify.epoch.get() != self.seen {
            return Poll::Ready(());
        }
        let mut waiters = self.notify.waiters.borrow_mut();
        match waiters.iter_mut().find(|(wait, _)| *wait == self.wait) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => waiters.push((self.wait, cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        if self.notify.epoch.get() != self.seen {
            return;
        }
        let mut waiters = self.notify.waiters.borrow_mut();
        let at = waiters.iter().position(|(wait, _)| *wait == self.wait);
        let waker = at.map(|at| waiters.swap_remove(at));
        drop(waiters);
        drop(waker);
    }
}

/// A value that is sent once: the two ends of it.
#[must_use]
pub fn oneshot<T>() -> (OneshotSender<T>, OneshotReceiver<T>) {
    let slot = Rc::new(Slot { value: RefCell::new(State::Empty), waker: RefCell::new(None) });
    (OneshotSender(To::One(slot.clone())), OneshotReceiver(slot))
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
pub struct OneshotSender<T>(To<T>);

#[derive(Debug)]
enum To<T> {
    One(Rc<Slot<T>>),
    /// A place among others.
    Gathered(Rc<Places<T>>, usize),
}

/// Waits for the value; `None` when the sender is gone.
#[derive(Debug)]
pub struct OneshotReceiver<T>(Rc<Slot<T>>);

impl<T> OneshotSender<T> {
    /// Delivers the value; lost if nobody waits any more.
    pub fn send(self, value: T) {
        match &self.0 {
            To::One(slot) => *slot.value.borrow_mut() = State::Full(value),
            To::Gathered(places, at) => places.values.borrow_mut()[*at] = Some(value),
        }
    }

    /// True when the receiver is gone: nobody will see the value.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            To::One(slot) => Rc::strong_count(slot) == 1,
            To::Gathered(places, _) => places.abandoned.get(),
        }
    }
}

impl<T> Drop for OneshotSender<T> {
    fn drop(&mut self) {
        let waker = match &self.0 {
            To::One(slot) => {
                let mut value = slot.value.borrow_mut();
                if matches!(*value, State::Empty) {
                    *value = State::Closed;
                }
                slot.waker.take()
            }
            To::Gathered(places, _) => {
                let missing = places.missing.get() - 1;
                places.missing.set(missing);
                if missing > 0 {
                    return;
                }
                places.waker.take()
            }
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Values that are sent by one sender each, and awaited together: one wake-up, and no memory of its own for each.
#[derive(Debug)]
#[must_use = "nothing waits unless it is awaited"]
pub struct Gathering<T>(Rc<Places<T>>);

#[derive(Debug)]
struct Places<T> {
    values: RefCell<Vec<Option<T>>>,
    /// Senders that are not gone.
    missing: Cell<usize>,
    abandoned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl<T> Gathering<T> {
    /// Room for `count` values.
    pub fn with_capacity(count: usize) -> Self {
        let values = RefCell::new(Vec::with_capacity(count));
        Self(Rc::new(Places {
            values,
            missing: Cell::default(),
            abandoned: Cell::default(),
            waker: RefCell::default(),
        }))
    }

    /// The sender of the next value.
    #[must_use]
    pub fn sender(&mut self) -> OneshotSender<T> {
        let mut values = self.0.values.borrow_mut();
        values.push(None);
        self.0.missing.set(self.0.missing.get() + 1);
        OneshotSender(To::Gathered(Rc::clone(&self.0), values.len() - 1))
    }
}

impl<T> Future for Gathering<T> {
    /// In the order of the senders; `None` where one is gone that has sent nothing.
    type Output = Vec<Option<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.0.missing.get() == 0 {
            return Poll::Ready(self.0.values.take());
        }
        self.0.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

impl<T> Drop for Gathering<T> {
    fn drop(&mut self) {
        self.0.abandoned.set(true);
    }
}

impl<T> Future for OneshotReceiver<T> {
    type Output = Option<T>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
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
///
/// Invariant: nobody waits whose turn it is and whose permits are there; each permit is available, granted to a
/// waiter that has not yet seen it, or held.
#[derive(Debug)]
pub struct Semaphore {
    total: usize,
    available: Cell<usize>,
    /// In the order of arrival; a waiter leaves when it is granted or given up.
    waiters: RefCell<VecDeque<Rc<Waiter>>>,
}

#[derive(Debug)]
struct Waiter {
    count: usize,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
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
        Rc::new(Self { total: permits, available: Cell::new(permits), waiters: RefCell::default() })
    }

    /// Takes `count` permits if they are there and nobody waits before.
    pub fn try_acquire(self: &Rc<Self>, count: usize) -> Option<Permit> {
        if !self.waiters.borrow().is_empty() || self.available.get() < count {
            return None;
        }
        self.available.set(self.available.get() - count);
        Some(Permit { semaphore: self.clone(), count })
    }

    /// Waits for `count` permits, in line from the first poll on. The caller must not ask for more than there are in
    /// all (asserted): it would wait for ever, and with it all behind.
    pub fn acquire(self: &Rc<Self>, count: usize) -> Acquire {
        assert!(count <= self.total, "{count} permits asked of a semaphore of {}", self.total);
        Acquire { semaphore: self.clone(), count, waiter: None }
    }

    /// Permits that can be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.available.get()
    }

    /// Tasks in line.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.borrow().len()
    }

    fn give(&self, count: usize) {
        self.available.set(self.available.get() + count);
        assert!(self.available.get() <= self.total, "more permits came back than were given");
        loop {
            let next = {
                let mut waiters = self.waiters.borrow_mut();
                match waiters.front() {
                    Some(first) if first.count <= self.available.get() => waiters.pop_front(),
                    _ => None,
                }
            };
            let Some(next) = next else { return };
            self.available.set(self.available.get() - next.count);
            next.granted.set(true);
            let waker = next.waker.borrow_mut().take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

/// A wait for permits; given up, it leaves the line, and gives back what it was granted and did not yet see.
#[derive(Debug)]
#[must_use = "nothing waits unless it is awaited"]
pub struct Acquire {
    semaphore: Rc<Semaphore>,
    count: usize,
    waiter: Option<Rc<Waiter>>,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        if let Some(waiter) = self.waiter.take() {
            if waiter.granted.get() {
                return Poll::Ready(Permit { semaphore: self.semaphore.clone(), count: self.count });
            }
            *waiter.waker.borrow_mut() = Some(cx.waker().clone());
            self.waiter = Some(waiter);
            return Poll::Pending;
        }
        if let Some(permit) = self.semaphore.try_acquire(self.count) {
            return Poll::Ready(permit);
        }
        let waker = RefCell::new(Some(cx.waker().clone()));
        let waiter = Rc::new(Waiter { count: self.count, granted: Cell::new(false), waker });
        self.semaphore.waiters.borrow_mut().push_back(waiter.clone());
        self.waiter = Some(waiter);
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(waiter) = self.waiter.take() else { return };
        if waiter.granted.get() {
            self.semaphore.give(self.count);
            return;
        }
        self.semaphore.waiters.borrow_mut().retain(|w| !Rc::ptr_eq(w, &waiter));
        // If this was the first in line, the next may need less.
        self.semaphore.give(0);
    }
}

impl Permit {
    /// How many permits these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Gives `count` of them back at once.
    pub fn release(&mut self, count: usize) {
        assert!(count <= self.count, "{count} of {} permits given back", self.count);
        self.count -= count;
        self.semaphore.give(count);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.count > 0 {
            self.semaphore.give(self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::task::noop_waker;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        future.poll_unpin(&mut Context::from_waker(&noop_waker()))
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_gathered_comes_in_the_order_of_its_senders_with_one_wake_up() {
        let mut gathering = Gathering::with_capacity(3);
        let (first, second, third) = (gathering.sender(), gathering.sender(), gathering.sender());
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        assert!(gathering.poll_unpin(&mut Context::from_waker(&waker)).is_pending());
        third.send("c");
        drop(second);
        assert_eq!(count.0.load(Ordering::Relaxed), 0, "one is missing");
        assert!(!first.is_closed());
        first.send("a");
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(&mut gathering), Poll::Ready(vec![Some("a"), None, Some("c")]));
    }

    #[test]
    fn senders_see_that_nobody_gathers() {
        let mut gathering = Gathering::with_capacity(1);
        let sender = gathering.sender();
        drop(gathering);
        assert!(sender.is_closed());
        sender.send(1);
        assert_eq!(poll(&mut Gathering::<u8>::with_capacity(0)), Poll::Ready(Vec::new()), "nothing to wait for");
    }

    #[test]
    fn a_grant_that_nobody_sees_is_given_back() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire(1).unwrap();
        let (mut first, mut second) = (semaphore.acquire(1), semaphore.acquire(1));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_pending());
        drop(held);
        assert_eq!((semaphore.available(), semaphore.waiting()), (0, 1), "granted to the first");
        drop(first);
        assert_eq!((semaphore.available(), semaphore.waiting()), (0, 0), "passed on to the second");
        let Poll::Ready(permit) = poll(&mut second) else { panic!("granted") };
        drop(permit);
        drop(second);
        assert_eq!(semaphore.available(), 1);
    }

    #[test]
    fn who_leaves_the_line_lets_the_next_pass() {
        let semaphore = Semaphore::new(3);
        let _held = semaphore.try_acquire(2).unwrap();
        let (mut large, mut small) = (semaphore.acquire(3), semaphore.acquire(1));
        assert!(poll(&mut large).is_pending());
        assert!(poll(&mut small).is_pending(), "first come first served");
        drop(large);
        assert!(poll(&mut small).is_ready());
    }

    #[test]
    fn permits_are_given_back_in_parts() {
        let semaphore = Semaphore::new(4);
        let mut permit = semaphore.try_acquire(4).unwrap();
        permit.release(3);
        assert_eq!((permit.count(), semaphore.available()), (1, 3));
        drop(permit);
        assert_eq!(semaphore.available(), 4);
    }

    #[test]
    #[should_panic(expected = "2 permits asked of a semaphore of 1")]
    fn more_than_there_is_cannot_be_waited_for() {
        drop(Semaphore::new(1).acquire(2));
    }

    #[test]
    fn a_notification_after_the_call_counts_before_the_first_poll() {
        let notify = Notify::default();
        let mut wait = notify.notified();
        notify.notify_all();
        assert!(poll(&mut wait).is_ready());
        assert!(poll(&mut notify.notified()).is_pending(), "nothing is remembered");
    }

    #[test]
    fn two_waits_of_one_task_are_two_and_a_dropped_one_is_none() {
        let (notify, count) = (Notify::default(), Arc::new(Count::default()));
        let waker = Waker::from(count.clone());
        let mut context = Context::from_waker(&waker);
        let (mut a, mut b) = (notify.notified(), notify.notified());
        for _ in 0..3 {
            assert!(a.poll_unpin(&mut context).is_pending());
            assert!(b.poll_unpin(&mut context).is_pending());
        }
        assert_eq!(notify.waiting(), 2);
        drop(a);
        assert_eq!(notify.waiting(), 1);
        notify.notify_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        drop(b);
        assert_eq!(Arc::strong_count(&count), 2, "no waker is left behind");
    }

    #[test]
    fn a_wait_wakes_the_task_that_polled_last() {
        let (notify, old, new) = (Notify::default(), Arc::new(Count::default()), Arc::new(Count::default()));
        let mut wait = notify.notified();
        assert!(wait.poll_unpin(&mut Context::from_waker(&Waker::from(old.clone()))).is_pending());
        assert!(wait.poll_unpin(&mut Context::from_waker(&Waker::from(new.clone()))).is_pending());
        notify.notify_all();
        assert_eq!([&old, &new].map(|c| c.0.load(Ordering::Relaxed)), [0, 1]);
    }

    #[test]
    fn a_oneshot_ends_either_way() {
        let (sender, mut receiver) = oneshot();
        assert!(poll(&mut receiver).is_pending());
        sender.send(1);
        assert_eq!(poll(&mut receiver), Poll::Ready(Some(1)));
        assert_eq!(poll(&mut receiver), Poll::Ready(None), "only once");

        let (sender, mut receiver) = oneshot::<u8>();
        drop(sender);
        assert_eq!(poll(&mut receiver), Poll::Ready(None));

        let (sender, receiver) = oneshot::<u8>();
        assert!(!sender.is_closed());
        drop(receiver);
        assert!(sender.is_closed());
    }
}
