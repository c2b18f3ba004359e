//! One direction between two shards, whatever the backend: a bounded ring with one producer and one consumer.

#[cfg(feature = "uring")]
use super::ring::{RingReceiver, RingSender};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Where packets go in.
pub(crate) enum LinkSender<T: Send> {
    /// Both ends on one thread: to oneself, or simulated.
    Queue(QueueSender<T>),
    /// Between two threads.
    #[cfg(feature = "uring")]
    Ring(RingSender<T>),
}

/// Where they come out.
pub(crate) enum LinkReceiver<T: Send> {
    Queue(QueueReceiver<T>),
    #[cfg(feature = "uring")]
    Ring(RingReceiver<T>),
}

/// The other end is gone.
#[derive(Debug)]
pub(crate) struct LinkClosed;

impl<T: Send> LinkSender<T> {
    /// Puts `packet` into the ring. That there is room was made sure by credits: a full ring is a broken invariant.
    pub(crate) fn send(&self, packet: T) -> Result<(), LinkClosed> {
        match self {
            Self::Queue(sender) => sender.send(packet),
            #[cfg(feature = "uring")]
            Self::Ring(sender) => sender.send(packet),
        }
    }
}

impl<T: Send> LinkReceiver<T> {
    /// The next packet; None when the other end is gone.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self {
            Self::Queue(receiver) => receiver.poll_recv(cx),
            #[cfg(feature = "uring")]
            Self::Ring(receiver) => receiver.poll_recv(cx),
        }
    }
}

struct Queue<T> {
    packets: VecDeque<T>,
    capacity: usize,
    receiver: Option<Waker>,
    /// One of the ends was dropped.
    broken: bool,
}

pub(crate) struct QueueSender<T>(Rc<RefCell<Queue<T>>>);

pub(crate) struct QueueReceiver<T>(Rc<RefCell<Queue<T>>>);

/// A ring between two ends on one thread.
pub(crate) fn queue<T: Send>(capacity: usize) -> (LinkSender<T>, LinkReceiver<T>) {
    let queue = Rc::new(RefCell::new(Queue { packets: VecDeque::new(), capacity, receiver: None, broken: false }));
    (LinkSender::Queue(QueueSender(Rc::clone(&queue))), LinkReceiver::Queue(QueueReceiver(queue)))
}

impl<T> QueueSender<T> {
    fn send(&self, packet: T) -> Result<(), LinkClosed> {
        let receiver = {
            let mut queue = self.0.borrow_mut();
            if queue.broken {
                return Err(LinkClosed);
            }
            assert!(queue.packets.len() < queue.capacity, "a ring of the mesh is full in spite of credits");
            queue.packets.push_back(packet);
            queue.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        Ok(())
    }
}

impl<T> QueueReceiver<T> {
    fn poll_recv(&mut self, cx: &Context<'_>) -> Poll<Option<T>> {
        let mut queue = self.0.borrow_mut();
        match queue.packets.pop_front() {
            Some(packet) => Poll::Ready(Some(packet)),
            None if queue.broken => Poll::Ready(None),
            None => {
                queue.receiver = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Drop for QueueSender<T> {
    fn drop(&mut self) {
        let receiver = {
            let mut queue = self.0.borrow_mut();
            queue.broken = true;
            queue.receiver.take()
        };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
    }
}

impl<T> Drop for QueueReceiver<T> {
    fn drop(&mut self) {
        let packets = {
            let mut queue = self.0.borrow_mut();
            queue.broken = true;
            std::mem::take(&mut queue.packets)
        };
        drop(packets);
    }
}
