//! One shard's state of the mesh: what waits to go out, who waits for a reply, who handles what comes in.

use super::{
    CALL_CREDITS, EVENT_CREDITS, EVENTS_PER_ACK, MeshCounters, MeshHandler, MeshProtocol, PACKET_MESSAGES_MAX, ReplyTo,
};
use crate::ShardId;
use crate::credits::Credits;
use coreline_io::sync::{OneshotReceiver, OneshotSender, oneshot};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The caller's name of a call: its slot in the caller's table for that peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallId(u16);

const _: () = assert!(CALL_CREDITS <= u16::MAX as usize);

/// What goes through a ring.
pub(crate) enum Message<P: MeshProtocol> {
    Request(CallId, P::Request),
    /// None when the request was dropped unanswered.
    Reply(CallId, Option<P::Reply>),
    Event(P::Event),
    /// So many events were taken off the ring.
    Acknowledged(u16),
}

const _: () = assert!(EVENT_CREDITS <= u16::MAX as usize);

/// What one wake-up had to say to one peer; at least one message, at most [`PACKET_MESSAGES_MAX`] and an acknowledgement.
pub(crate) type Packet<P> = Vec<Message<P>>;

/// What came in and has no handler yet.
enum Arrival<P: MeshProtocol> {
    Request(CallId, P::Request),
    Event(P::Event),
}

pub(crate) struct Inner<P: MeshProtocol> {
    pub(super) me: ShardId,
    pub(super) peers: Vec<Peer<P>>,
    handler: RefCell<Option<Rc<dyn MeshHandler<P>>>>,
    /// Not empty only until `serve`, and until the flusher has handled it: arrivals go behind it.
    backlog: RefCell<VecDeque<(ShardId, Arrival<P>)>>,
    /// Peers to which something is to be sent, each once.
    dirty: RefCell<Vec<ShardId>>,
    flusher: Slot,
    closed: Cell<bool>,
    pub(super) counters: Cell<MeshCounters>,
}

/// What is under way between this shard and one peer.
pub(super) struct Peer<P: MeshProtocol> {
    pub(super) call_credits: Rc<Credits>,
    pub(super) event_credits: Rc<Credits>,
    calls: RefCell<Calls<P>>,
    outbox: RefCell<Vec<Message<P>>>,
    /// In `dirty`.
    dirty: Cell<bool>,
    /// Events taken off its ring that it has not been told of. Below EVENTS_PER_ACK, or `dirty`.
    unacknowledged: Cell<usize>,
    closed: Cell<bool>,
    /// The task that takes its packets.
    receiver: Slot,
}

/// A task that waits for something.
#[derive(Default)]
struct Slot(Cell<Option<Waker>>);

impl Slot {
    fn park(&self, cx: &Context<'_>) {
        self.0.set(Some(cx.waker().clone()));
    }

    fn wake(&self) {
        if let Some(waker) = self.0.take() {
            waker.wake();
        }
    }
}

/// Calls without a reply yet. `waiting.len() <= CALL_CREDITS`, as each holds a credit.
struct Calls<P: MeshProtocol> {
    waiting: Vec<Option<OneshotSender<P::Reply>>>,
    free: Vec<u16>,
}

impl<P: MeshProtocol> Calls<P> {
    fn insert(&mut self, sender: OneshotSender<P::Reply>) -> CallId {
        let slot = self.free.pop().unwrap_or_else(|| {
            assert!(self.waiting.len() < CALL_CREDITS, "a call without a credit");
            self.waiting.push(None);
            (self.waiting.len() - 1) as u16
        });
        self.waiting[usize::from(slot)] = Some(sender);
        CallId(slot)
    }

    fn remove(&mut self, call: CallId) -> OneshotSender<P::Reply> {
        let sender = self.waiting[usize::from(call.0)].take().expect("a reply to a call that waits");
        self.free.push(call.0);
        sender
    }
}

impl<P: MeshProtocol> Peer<P> {
    fn new() -> Self {
        Self {
            call_credits: Credits::new(CALL_CREDITS),
            event_credits: Credits::new(EVENT_CREDITS),
            calls: RefCell::new(Calls { waiting: Vec::new(), free: Vec::new() }),
            outbox: RefCell::default(),
            dirty: Cell::new(false),
            unacknowledged: Cell::new(0),
            closed: Cell::new(false),
            receiver: Slot::default(),
        }
    }

    fn close(&self) {
        self.closed.set(true);
        self.call_credits.close();
        self.event_credits.close();
        // What is dropped here runs code of others (wakers, drops of requests): not under a borrow.
        let waiting = std::mem::take(&mut self.calls.borrow_mut().waiting);
        let outbox = std::mem::take(&mut *self.outbox.borrow_mut());
        drop((waiting, outbox));
        self.receiver.wake();
    }
}

impl<P: MeshProtocol> Inner<P> {
    pub(super) fn new(me: ShardId, count: usize) -> Rc<Self> {
        Rc::new(Self {
            me,
            peers: (0..count).map(|_| Peer::new()).collect(),
            handler: RefCell::default(),
            backlog: RefCell::default(),
            dirty: RefCell::default(),
            flusher: Slot::default(),
            closed: Cell::new(false),
            counters: Cell::default(),
        })
    }

    pub(super) fn peer(&self, id: ShardId) -> &Peer<P> {
        assert!(id.index() < self.peers.len(), "shard {id} of {}", self.peers.len());
        &self.peers[id.index()]
    }

    fn count(&self, update: impl FnOnce(&mut MeshCounters)) {
        let mut counters = self.counters.get();
        update(&mut counters);
        self.counters.set(counters);
    }

    // ---- out ----

    fn send(&self, to: ShardId, message: Message<P>) {
        let peer = self.peer(to);
        if peer.closed.get() {
            return;
        }
        peer.outbox.borrow_mut().push(message);
        self.mark_dirty(to);
    }

    fn mark_dirty(&self, to: ShardId) {
        if !self.peer(to).dirty.replace(true) {
            self.dirty.borrow_mut().push(to);
            self.flusher.wake();
        }
    }

    pub(super) fn send_request(&self, to: ShardId, request: P::Request) -> OneshotReceiver<P::Reply> {
        let (sender, receiver) = oneshot();
        let peer = self.peer(to);
        if peer.closed.get() {
            // Both are dropped: the caller learns it.
            return receiver;
        }
        let call = peer.calls.borrow_mut().insert(sender);
        self.count(|c| c.calls += 1);
        self.send(to, Message::Request(call, request));
        receiver
    }

    pub(super) fn send_event(&self, to: ShardId, event: P::Event) {
        self.count(|c| c.events += 1);
        self.send(to, Message::Event(event));
    }

    pub(super) fn send_reply(&self, to: ShardId, call: CallId, reply: Option<P::Reply>) {
        self.send(to, Message::Reply(call, reply));
    }

    /// The next packet to send, and to whom; pending until there is one or there is a backlog to handle; None when closed.
    pub(super) fn poll_outgoing(&self, cx: &Context<'_>) -> Poll<Option<Outgoing<P>>> {
        if self.closed.get() {
            return Poll::Ready(None);
        }
        if self.backlog_ready() {
            return Poll::Ready(Some(Outgoing::Backlog));
        }
        let next = self.dirty.borrow_mut().pop();
        match next {
            Some(to) => Poll::Ready(Some(Outgoing::Packets(to, self.take_packets(to)))),
            None => {
                self.flusher.park(cx);
                Poll::Pending
            }
        }
    }

    fn take_packets(&self, to: ShardId) -> Vec<Packet<P>> {
        let peer = self.peer(to);
        peer.dirty.set(false);
        let mut messages = std::mem::take(&mut *peer.outbox.borrow_mut());
        let acknowledged = peer.unacknowledged.replace(0);
        if acknowledged > 0 {
            messages.push(Message::Acknowledged(acknowledged as u16));
        }
        let sent = messages.len() as u64;
        let mut packets = Vec::with_capacity(messages.len().div_ceil(PACKET_MESSAGES_MAX));
        while messages.len() > PACKET_MESSAGES_MAX {
            let rest = messages.split_off(PACKET_MESSAGES_MAX);
            packets.push(std::mem::replace(&mut messages, rest));
        }
        if !messages.is_empty() {
            packets.push(messages);
        }
        self.count(|c| {
            c.messages += sent;
            c.packets += packets.len() as u64;
        });
        packets
    }

    // ---- in ----

    /// Handles one message of `from`.
    pub(super) fn receive(self: &Rc<Self>, from: ShardId, message: Message<P>) {
        match message {
            Message::Request(call, request) => self.arrive(from, Arrival::Request(call, request)),
            Message::Event(event) => self.arrive(from, Arrival::Event(event)),
            Message::Acknowledged(events) => self.peer(from).event_credits.give(usize::from(events)),
            Message::Reply(call, reply) => {
                let peer = self.peer(from);
                if peer.closed.get() {
                    return;
                }
                let sender = peer.calls.borrow_mut().remove(call);
                peer.call_credits.give(1);
                // Dropping the sender tells the caller that there is no answer.
                if let Some(reply) = reply {
                    sender.send(reply);
                }
            }
        }
    }

    fn arrive(self: &Rc<Self>, from: ShardId, arrival: Arrival<P>) {
        let handler = self.handler.borrow().clone();
        match handler {
            Some(handler) if self.backlog.borrow().is_empty() => self.handle(&*handler, from, arrival),
            // Bounded: each holds a credit of its sender.
            _ if !self.closed.get() => self.backlog.borrow_mut().push_back((from, arrival)),
            _ => {}
        }
    }

    fn handle(self: &Rc<Self>, handler: &dyn MeshHandler<P>, from: ShardId, arrival: Arrival<P>) {
        match arrival {
            Arrival::Request(call, request) => {
                let reply = ReplyTo { inner: Rc::clone(self), to: from, call, armed: true };
                handler.on_request(from, request, reply);
            }
            Arrival::Event(event) => {
                handler.on_event(from, event);
                let peer = self.peer(from);
                let unacknowledged = peer.unacknowledged.get() + 1;
                peer.unacknowledged.set(unacknowledged);
                if unacknowledged >= EVENTS_PER_ACK {
                    self.mark_dirty(from);
                }
            }
        }
    }

    pub(super) fn serve(&self, handler: Rc<dyn MeshHandler<P>>) {
        if self.closed.get() {
            return;
        }
        let before = self.handler.borrow_mut().replace(handler);
        assert!(before.is_none(), "shard {} serves the mesh already", self.me);
        self.flusher.wake();
    }

    fn backlog_ready(&self) -> bool {
        self.handler.borrow().is_some() && !self.backlog.borrow().is_empty()
    }

    /// Handles the oldest arrival that waited for a handler; false when there is none.
    pub(super) fn handle_backlog(self: &Rc<Self>) -> bool {
        let Some(handler) = self.handler.borrow().clone() else { return false };
        let Some((from, arrival)) = self.backlog.borrow_mut().pop_front() else { return false };
        self.handle(&*handler, from, arrival);
        !self.backlog.borrow().is_empty()
    }

    // ---- the end ----

    /// Parks the task that takes the packets of `from`, unless nothing more will be taken.
    pub(super) fn park_receiver(&self, from: ShardId, cx: &Context<'_>) -> bool {
        let peer = self.peer(from);
        peer.receiver.park(cx);
        !peer.closed.get()
    }

    /// `peer` is gone: who waits for it learns it.
    pub(super) fn peer_gone(&self, peer: ShardId) {
        self.peer(peer).close();
    }

    pub(super) fn close(&self) {
        if self.closed.replace(true) {
            return;
        }
        for peer in &self.peers {
            peer.close();
        }
        // The handler usually holds the mesh: this is what breaks that circle.
        let handler = self.handler.borrow_mut().take();
        let backlog = std::mem::take(&mut *self.backlog.borrow_mut());
        drop((handler, backlog));
        self.flusher.wake();
    }
}

/// What the flusher has to do next.
pub(super) enum Outgoing<P: MeshProtocol> {
    /// Arrivals that waited for a handler can be handled.
    Backlog,
    /// These go to this peer.
    Packets(ShardId, Vec<Packet<P>>),
}
