//! The bounded ring between two threads: one end puts in, the other takes out.
//!
//! Putting in wakes who takes out, and nothing else wakes anybody: that there is room is made sure by credits, so nobody waits
//! for it. (glommio's `shared_channel` wakes its sleeping producer, too, when a packet was taken: each lone round trip
//! woke its caller twice.) The waker is the receiving task's own, which knows whether its core naps (`coreline-io`,
//! `uring/nap.rs`).

use super::link::LinkClosed;
use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

struct Ring<T> {
    packets: ArrayQueue<T>,
    receiver: AtomicWaker,
    /// One of the ends was dropped.
    broken: AtomicBool,
}

impl<T> Ring<T> {
    /// Not to wait for the other end: who waits for what is in them learns that nobody comes.
    fn empty(&self) {
        while let Some(packet) = self.packets.pop() {
            drop(packet);
        }
    }

    fn broke(&self) {
        self.broken.store(true, Ordering::SeqCst);
        self.receiver.wake();
    }
}

/// Where packets go in. Not to be cloned: one thread puts in.
pub(crate) struct RingSender<T>(Arc<Ring<T>>);

/// Where they come out.
pub(crate) struct RingReceiver<T>(Arc<Ring<T>>);

/// A ring with room for so many packets.
pub(crate) fn ring<T: Send>(capacity: usize) -> (RingSender<T>, RingReceiver<T>) {
    let (packets, receiver, broken) = (ArrayQueue::new(capacity), AtomicWaker::new(), AtomicBool::new(false));
    let ring = Arc::new(Ring { packets, receiver, broken });
    (RingSender(Arc::clone(&ring)), RingReceiver(ring))
}

impl<T> RingSender<T> {
    pub(super) fn send(&self, packet: T) -> Result<(), LinkClosed> {
        if self.0.broken.load(Ordering::SeqCst) {
            return Err(LinkClosed);
        }
        assert!(self.0.packets.push(packet).is_ok(), "a ring of the mesh is full in spite of credits");
        self.0.receiver.wake();
        if self.0.broken.load(Ordering::SeqCst) {
            // The other end may have emptied the ring before this was in it.
            self.0.empty();
            return Err(LinkClosed);
        }
        Ok(())
    }
}

impl<T> RingReceiver<T> {
    pub(super) fn poll_recv(&self, cx: &Context<'_>) -> Poll<Option<T>> {
        let ring = &self.0;
        if let Some(packet) = ring.packets.pop() {
            return Poll::Ready(Some(packet));
        }
        ring.receiver.register(cx.waker());
        // What was put in before it could wake anybody; and before a broken end, what was put in before that.
        let broken = ring.broken.load(Ordering::SeqCst);
        match ring.packets.pop() {
            Some(packet) => Poll::Ready(Some(packet)),
            None if broken => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<T> Drop for RingSender<T> {
    fn drop(&mut self) {
        self.0.broke();
    }
}

impl<T> Drop for RingReceiver<T> {
    fn drop(&mut self) {
        self.0.broke();
        self.0.empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn waker() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), Waker::from(woken))
    }

    #[test]
    fn a_round_trip_wakes_each_side_once() {
        let ((there, at_b), (back, at_a)) = (ring(4), ring(4));
        let ((woken_a, a), (woken_b, b)) = (waker(), waker());
        let count = |woken: &Woken| woken.0.load(Ordering::SeqCst);
        for trip in 1..=10 {
            assert!(at_b.poll_recv(&Context::from_waker(&b)).is_pending());
            assert!(at_a.poll_recv(&Context::from_waker(&a)).is_pending());
            there.send(trip).unwrap();
            assert_eq!((count(&woken_a), count(&woken_b)), (trip - 1, trip));
            assert_eq!(at_b.poll_recv(&Context::from_waker(&b)), Poll::Ready(Some(trip)));
            assert_eq!(count(&woken_a), trip - 1, "what was taken is no news for who put it in");
            back.send(trip).unwrap();
            assert_eq!((count(&woken_a), count(&woken_b)), (trip, trip));
            assert_eq!(at_a.poll_recv(&Context::from_waker(&a)), Poll::Ready(Some(trip)));
        }
    }

    #[test]
    fn what_was_put_in_before_the_end_comes_out_before_it() {
        let (sender, receiver) = ring(4);
        let (woken, waker) = waker();
        let cx = Context::from_waker(&waker);
        assert!(receiver.poll_recv(&cx).is_pending());
        sender.send(1).unwrap();
        drop(sender);
        assert!(woken.0.load(Ordering::SeqCst) > 0);
        assert_eq!(receiver.poll_recv(&cx), Poll::Ready(Some(1)));
        assert_eq!(receiver.poll_recv(&cx), Poll::Ready(None));
    }

    #[test]
    fn who_puts_in_learns_that_nobody_takes_out() {
        let (sender, receiver) = ring(4);
        let held = Arc::new(());
        sender.send(Arc::clone(&held)).unwrap();
        drop(receiver);
        assert_eq!(Arc::strong_count(&held), 1, "what was in it is dropped");
        assert!(sender.send(held).is_err());
    }

    #[test]
    #[should_panic(expected = "full in spite of credits")]
    fn a_full_ring_is_a_broken_invariant() {
        let (sender, _receiver) = ring(2);
        (0..3).for_each(|n| sender.send(n).unwrap());
    }

    #[test]
    fn nothing_is_lost_or_out_of_order_between_threads() {
        const COUNT: usize = 200_000;
        const ROOM: usize = 64;
        let (sender, receiver) = ring(ROOM);
        // The credits.
        let taken = Arc::new(AtomicUsize::new(0));
        let credits = Arc::clone(&taken);
        let putting = std::thread::spawn(move || {
            for n in 0..COUNT {
                while n - credits.load(Ordering::SeqCst) >= ROOM {
                    std::thread::yield_now();
                }
                sender.send(n).unwrap();
            }
        });
        // Sleeps until it is woken: a wake-up that is lost hangs.
        let all = futures_util::stream::unfold(receiver, |receiver| async {
            let next = std::future::poll_fn(|cx| receiver.poll_recv(cx)).await?;
            Some((next, receiver))
        });
        let mut all = std::pin::pin!(all);
        let mut expected = 0;
        let thread = std::thread::current();
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(thread)));
        let mut cx = Context::from_waker(&waker);
        loop {
            match futures_util::Stream::poll_next(all.as_mut(), &mut cx) {
                Poll::Ready(Some(n)) => {
                    assert_eq!(n, expected);
                    expected += 1;
                    taken.store(expected, Ordering::SeqCst);
                }
                Poll::Ready(None) => break,
                Poll::Pending => std::thread::park(),
            }
        }
        assert_eq!(expected, COUNT);
        putting.join().unwrap();
    }
}
