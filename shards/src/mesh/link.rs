//! One direction between two shards, whatever the backend: a bounded ring with one producer and one consumer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tells a peer that there is a packet: it may nap, and then does not look at its rings.
#[cfg(feature = "uring")]
pub(crate) struct PeerBell(
    pub(crate) std::sync::Arc<[std::sync::OnceLock<coreline_io::uring::Doorbell>]>,
    pub(crate) usize,
);

#[cfg(feature = "uring")]
impl PeerBell {
    fn ring(&self) {
        // A peer whose bell is not hung yet does not sleep so.
        if let Some(bell) = self.0[self.1].get() {
            bell.ring();
        }
    }
}

/// Where packets go in.
pub(crate) enum LinkSender<T: Send> {
    /// Both ends on one thread: to oneself, or simulated.
    Queue(QueueSender<T>),
    /// glommio's ring between two executors.
    #[cfg(feature = "uring")]
    Ring(glommio::channels::shared_channel::ConnectedSender<T>, PeerBell),
}

/// Where they come out.
pub(crate) enum LinkReceiver<T: Send> {
    Queue(QueueReceiver<T>),
    #[cfg(feature = "uring")]
    Ring(glommio::channels::shared_channel::ConnectedReceiver<T>),
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
            Self::Ring(sender, bell) => match sender.try_send(packet) {
                Ok(()) => {
                    bell.ring();
                    Ok(())
                }
                Err(glommio::GlommioError::WouldBlock(_)) => panic!("a ring of the mesh is full in spite of credits"),
                Err(_) => Err(LinkClosed),
            },
        }
    }
}

impl<T: Send> LinkReceiver<T> {
    /// The next packet; None when the other end is gone. Each pending poll registers the task once more with glommio, so
    /// the caller polls when it was woken and not to pass the time.
    pub(crate) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        match self {
            Self::Queue(receiver) => receiver.poll_recv(cx),
            #[cfg(feature = "uring")]
            Self::Ring(receiver) => futures_util::Stream::poll_next(std::pin::Pin::new(receiver), cx),
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
