//! Counted permissions to have something under way, first come first served, safe to abandon at any point.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Stays on its shard, lives as long as the mesh. `free + taken == total` until closed, where taken counts credits of
/// live [`Acquire`]s that were granted and of whatever the owner has under way.
#[derive(Debug)]
pub(crate) struct Credits {
    total: usize,
    free: Cell<usize>,
    closed: Cell<bool>,
    next_ticket: Cell<u64>,
    /// Who waits, in the order of coming.
    waiting: RefCell<BTreeMap<u64, Waker>>,
    /// Who has been given a credit and has not been polled since.
    granted: RefCell<BTreeSet<u64>>,
}

impl Credits {
    pub(crate) fn new(total: usize) -> Rc<Self> {
        Rc::new(Self {
            total,
            free: Cell::new(total),
            closed: Cell::new(false),
            next_ticket: Cell::new(0),
            waiting: RefCell::default(),
            granted: RefCell::default(),
        })
    }

    /// Waits for a credit; false when closed.
    pub(crate) fn acquire(self: &Rc<Self>) -> Acquire {
        Acquire { credits: Rc::clone(self), ticket: None }
    }

    /// Returns `count` credits, to those who wait first.
    pub(crate) fn give(&self, count: usize) {
        for _ in 0..count {
            let first = self.waiting.borrow_mut().pop_first();
            match first {
                Some((ticket, waker)) => {
                    self.granted.borrow_mut().insert(ticket);
                    waker.wake();
                }
                None => self.free.set(self.free.get() + 1),
            }
        }
        assert!(self.free.get() <= self.total, "{} credits of {} are free", self.free.get(), self.total);
    }

    /// Nobody gets a credit any more; those who wait learn it now.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waker in waiting.into_values() {
            waker.wake();
        }
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.free.get()
    }
}

/// Yields true with one credit, which the caller must [`Credits::give`] back, or false.
#[derive(Debug)]
pub(crate) struct Acquire {
    credits: Rc<Credits>,
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        let credits = Rc::clone(&self.credits);
        let granted = self.ticket.is_some_and(|ticket| credits.granted.borrow_mut().remove(&ticket));
        if granted {
            self.ticket = None;
            return Poll::Ready(true);
        }
        if credits.closed.get() {
            self.ticket = None;
            return Poll::Ready(false);
        }
        if self.ticket.is_none() && credits.free.get() > 0 {
            debug_assert!(credits.waiting.borrow().is_empty(), "free credits while somebody waits");
            credits.free.set(credits.free.get() - 1);
            return Poll::Ready(true);
        }
        let ticket = self.ticket.unwrap_or_else(|| {
            let ticket = credits.next_ticket.get();
            credits.next_ticket.set(ticket + 1);
            ticket
        });
        self.ticket = Some(ticket);
        credits.waiting.borrow_mut().insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let granted = self.credits.granted.borrow_mut().remove(&ticket);
        if granted {
            self.credits.give(1);
        } else {
            self.credits.waiting.borrow_mut().remove(&ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::task::noop_waker_ref;

    fn poll(acquire: &mut Acquire) -> Poll<bool> {
        acquire.poll_unpin(&mut Context::from_waker(noop_waker_ref()))
    }

    #[test]
    fn credits_go_to_those_who_came_first() {
        let credits = Credits::new(1);
        let (mut a, mut b, mut c) = (credits.acquire(), credits.acquire(), credits.acquire());
        assert_eq!(poll(&mut a), Poll::Ready(true));
        assert_eq!((poll(&mut b), poll(&mut c)), (Poll::Pending, Poll::Pending));
        credits.give(1);
        // The one who comes now does not overtake.
        assert_eq!(poll(&mut credits.acquire()), Poll::Pending);
        assert_eq!((poll(&mut c), poll(&mut b)), (Poll::Pending, Poll::Ready(true)));
        credits.give(1);
        assert_eq!(poll(&mut c), Poll::Ready(true));
        credits.give(1);
        assert_eq!(credits.free(), 1);
    }

    #[test]
    fn an_abandoned_wait_passes_its_credit_on() {
        let credits = Credits::new(1);
        let (mut a, mut b, mut c) = (credits.acquire(), credits.acquire(), credits.acquire());
        assert_eq!(poll(&mut a), Poll::Ready(true));
        assert_eq!((poll(&mut b), poll(&mut c)), (Poll::Pending, Poll::Pending));
        credits.give(1);
        drop(b);
        assert_eq!(poll(&mut c), Poll::Ready(true));
        let mut d = credits.acquire();
        assert_eq!(poll(&mut d), Poll::Pending);
        drop(d);
        credits.give(1);
        assert_eq!(credits.free(), 1);
    }

    #[test]
    fn closing_ends_every_wait() {
        let credits = Credits::new(1);
        let (mut a, mut b) = (credits.acquire(), credits.acquire());
        assert_eq!(poll(&mut a), Poll::Ready(true));
        assert_eq!(poll(&mut b), Poll::Pending);
        credits.close();
        assert_eq!(poll(&mut b), Poll::Ready(false));
        assert_eq!(poll(&mut credits.acquire()), Poll::Ready(false));
        credits.give(1);
    }
}
