//! Calls and events between shards.
//!
//! Each ordered pair of shards has one bounded ring with one producer and one consumer. What a shard has to say to a peer
//! in one wake-up goes as one packet. Nothing a ring may be asked to hold can fail to fit, because everything in it is
//! paid for beforehand:
//!
//! * a **call** holds one of [`CALL_CREDITS`] credits towards its peer from [`Mesh::reserve`] until its reply arrives.
//!   So at most `CALL_CREDITS` requests are in the ring from A to B, and at most `CALL_CREDITS` replies in the one from B
//!   to A: a reply always has room and never waits, whatever the requests do. Two shards that flood each other therefore
//!   both get their replies, and with them their credits, back: they cannot deadlock.
//! * an **event** holds one of [`EVENT_CREDITS`] until the receiver says it has taken it off the ring. It says so with
//!   whatever it sends next, or by itself for every [`EVENTS_PER_ACK`] events.
//!
//! Calls and events to one peer are received in the order in which [`CallPermit::call`] and [`PostPermit::post`] were
//! called. Calls to oneself obey the same rules without a ring, and are never handled inside `call`.

mod driver;
mod inner;
pub(crate) mod link;
#[cfg(feature = "uring")]
pub(crate) mod ring;

use crate::ShardId;
use coreline_io::sync::OneshotReceiver;
use inner::Inner;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

pub(crate) use driver::{Host, Pace, start};
#[cfg(feature = "uring")]
pub(crate) use inner::Packet;

/// Calls that one shard may have under way towards one peer.
pub const CALL_CREDITS: usize = 256;
/// Events that one shard may have under way towards one peer.
pub const EVENT_CREDITS: usize = 256;
/// The receiver acknowledges events at the latest when it has taken so many.
pub const EVENTS_PER_ACK: usize = EVENT_CREDITS / 2;
/// Packets that a ring holds. Each holds at least one message.
pub const RING_CAPACITY: usize = 1024;
/// Messages that a packet holds at most: what a receiver handles of one peer before it looks at the next.
pub const PACKET_MESSAGES_MAX: usize = 64;

// A packet that only acknowledges is sent for EVENTS_PER_ACK events whose credits are still out, so few of those exist.
const ACK_PACKETS_MAX: usize = EVENT_CREDITS.div_ceil(EVENTS_PER_ACK);
const _: () = assert!(RING_CAPACITY >= CALL_CREDITS + CALL_CREDITS + EVENT_CREDITS + ACK_PACKETS_MAX);
// An acknowledgement held back must not starve the sender.
const _: () = assert!(EVENTS_PER_ACK > 0 && EVENTS_PER_ACK < EVENT_CREDITS);

/// What shards say to each other.
pub trait MeshProtocol: 'static {
    /// What is asked.
    type Request: Send + 'static;
    /// What is answered.
    type Reply: Send + 'static;
    /// What is told without an answer.
    type Event: Send + 'static;
}

/// What a shard does with what it is asked and told.
pub trait MeshHandler<P: MeshProtocol> {
    /// A request; called in order of arrival. Must not hold the core: starts the work and answers by `reply` at any time
    /// later, in any order, from this shard.
    fn on_request(&self, from: ShardId, request: P::Request, reply: ReplyTo<P>);
    /// An event; called in order of arrival, between the requests as they were sent. Must not hold the core.
    fn on_event(&self, from: ShardId, event: P::Event);
}

/// There will be no answer: the mesh, or the peer, is closed, or the peer dropped the request unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shard {to} will not answer: the mesh is closed, or the request was dropped")]
pub struct MeshClosed {
    /// Who was asked.
    pub to: ShardId,
}

/// One shard's end of the mesh. A handle: cloning it is cheap; it stays on its shard.
pub struct Mesh<P: MeshProtocol>(Rc<Inner<P>>);

impl<P: MeshProtocol> Clone for Mesh<P> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<P: MeshProtocol> std::fmt::Debug for Mesh<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("me", &self.me()).field("count", &self.count()).finish()
    }
}

impl<P: MeshProtocol> Mesh<P> {
    /// This shard.
    #[must_use]
    pub fn me(&self) -> ShardId {
        self.0.me
    }

    /// How many shards there are; their ids are below it.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.peers.len()
    }

    /// Waits, first come first served, for one of the credits towards `to`. What is then called is received in the order
    /// of the calls.
    ///
    /// # Panics
    /// If there is no shard `to`.
    pub async fn reserve(&self, to: ShardId) -> Result<CallPermit<P>, MeshClosed> {
        if self.0.peer(to).call_credits.acquire().await {
            Ok(CallPermit { inner: Rc::clone(&self.0), to, armed: true })
        } else {
            Err(MeshClosed { to })
        }
    }

    /// Asks `to` and waits for the answer.
    pub async fn call(&self, to: ShardId, request: P::Request) -> Result<P::Reply, MeshClosed> {
        self.reserve(to).await?.call(request).await
    }

    /// Waits for one of the event credits towards `to`.
    ///
    /// # Panics
    /// If there is no shard `to`.
    pub async fn reserve_post(&self, to: ShardId) -> Result<PostPermit<P>, MeshClosed> {
        if self.0.peer(to).event_credits.acquire().await {
            Ok(PostPermit { inner: Rc::clone(&self.0), to, armed: true })
        } else {
            Err(MeshClosed { to })
        }
    }

    /// Tells `to`; returns when it is on its way, which is in order with calls.
    pub async fn post(&self, to: ShardId, event: P::Event) -> Result<(), MeshClosed> {
        self.reserve_post(to).await?.post(event);
        Ok(())
    }

    /// Installs the receiver. What arrived before waits for it, in order.
    ///
    /// # Panics
    /// If one was installed before.
    pub fn serve(&self, handler: Rc<dyn MeshHandler<P>>) {
        self.0.serve(handler);
    }

    /// What went over this shard's end of the mesh.
    #[must_use]
    pub fn counters(&self) -> MeshCounters {
        self.0.counters.get()
    }

    /// Ends every call that waits with [`MeshClosed`], on this shard.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// What went over one shard's end of the mesh so far; what it sent to itself included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeshCounters {
    /// Calls made.
    pub calls: u64,
    /// Events posted.
    pub events: u64,
    /// Packets they, and replies, went in.
    pub packets: u64,
    /// Messages in those packets: calls, events, replies, acknowledgements.
    pub messages: u64,
}

/// Permission for one call. Dropping it gives the credit back.
pub struct CallPermit<P: MeshProtocol> {
    inner: Rc<Inner<P>>,
    to: ShardId,
    armed: bool,
}

impl<P: MeshProtocol> CallPermit<P> {
    /// Enqueues `request` now; the future only waits for the reply. Dropping it does not take the request back, and the
    /// credit returns when the reply arrives all the same.
    pub fn call(mut self, request: P::Request) -> CallReply<P> {
        self.armed = false;
        CallReply { to: self.to, receiver: self.inner.send_request(self.to, request) }
    }
}

impl<P: MeshProtocol> Drop for CallPermit<P> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.peer(self.to).call_credits.give(1);
        }
    }
}

impl<P: MeshProtocol> std::fmt::Debug for CallPermit<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallPermit").field("to", &self.to).finish_non_exhaustive()
    }
}

/// The reply to a call, when it comes.
pub struct CallReply<P: MeshProtocol> {
    to: ShardId,
    receiver: OneshotReceiver<P::Reply>,
}

impl<P: MeshProtocol> Future for CallReply<P> {
    type Output = Result<P::Reply, MeshClosed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.receiver).poll(cx));
        Poll::Ready(reply.ok_or(MeshClosed { to: self.to }))
    }
}

impl<P: MeshProtocol> std::fmt::Debug for CallReply<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CallReply").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Permission for one event. Dropping it gives the credit back.
pub struct PostPermit<P: MeshProtocol> {
    inner: Rc<Inner<P>>,
    to: ShardId,
    armed: bool,
}

impl<P: MeshProtocol> PostPermit<P> {
    /// Enqueues `event` now.
    pub fn post(mut self, event: P::Event) {
        self.armed = false;
        self.inner.send_event(self.to, event);
    }
}

impl<P: MeshProtocol> Drop for PostPermit<P> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.peer(self.to).event_credits.give(1);
        }
    }
}

impl<P: MeshProtocol> std::fmt::Debug for PostPermit<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostPermit").field("to", &self.to).finish_non_exhaustive()
    }
}

/// Answers one request. Dropping it unsent fails the caller with [`MeshClosed`].
pub struct ReplyTo<P: MeshProtocol> {
    inner: Rc<Inner<P>>,
    to: ShardId,
    call: inner::CallId,
    armed: bool,
}

impl<P: MeshProtocol> ReplyTo<P> {
    /// Sends the answer; its room was reserved by the caller, so this never waits.
    pub fn send(mut self, reply: P::Reply) {
        self.armed = false;
        self.inner.send_reply(self.to, self.call, Some(reply));
    }

    /// Who asked.
    #[must_use]
    pub fn caller(&self) -> ShardId {
        self.to
    }
}

impl<P: MeshProtocol> Drop for ReplyTo<P> {
    fn drop(&mut self) {
        if self.armed {
            self.inner.send_reply(self.to, self.call, None);
        }
    }
}

impl<P: MeshProtocol> std::fmt::Debug for ReplyTo<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyTo").field("to", &self.to).finish_non_exhaustive()
    }
}
