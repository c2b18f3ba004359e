//! The network: listeners, connections with delay and bounded buffers, partitions.
//!
//! A connection is two [`End`]s. What A sends lies in B's inbox, in flight first, then arrived; a timer on the world's
//! clock makes it arrive. A's sending waits while B's inbox is full.

use super::core::{Core, Shared};
use super::node::NodeState;
use super::rng::{SimRng, nanos_of};
use super::runtime::SimRuntime;
use crate::{IoError, IoErrorKind, IoResult, ListenOptions, Listener, Net, Stream};
use bytes::{Buf, Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{Error, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Ports given to whoever asks for none.
const EPHEMERAL_FIRST: u16 = 32_768;

/// How long a client waits before it knocks again at a full listener.
const BACKLOG_RETRY: Duration = Duration::from_millis(100);

/// The network of the world.
pub(super) struct NetState {
    rng: SimRng,
    listeners: RefCell<Vec<Rc<ListenerState>>>,
    /// Every end that somebody may still hold; swept now and then.
    ends: RefCell<Vec<Weak<End>>>,
    ends_sweep_at: Cell<usize>,
    /// Directions that are cut, by node.
    cuts: RefCell<BTreeSet<(usize, usize)>>,
    /// Senders whose bytes a cut holds back.
    held: RefCell<Vec<Rc<End>>>,
    parcels: RefCell<BTreeMap<u64, SimStream>>,
    next_port: Cell<u16>,
}

struct ListenerState {
    node: usize,
    address: SocketAddr,
    options: ListenOptions,
    queue: RefCell<VecDeque<Rc<End>>>,
    wakers: RefCell<Vec<Waker>>,
}

/// One end of a connection.
struct End {
    node: usize,
    local: SocketAddr,
    peer_address: SocketAddr,
    peer: RefCell<Weak<End>>,
    state: RefCell<EndState>,
}

#[derive(Default)]
struct EndState {
    /// On their way to this end: when they arrive at the earliest; `None` is the end of the stream.
    flying: VecDeque<(u64, Option<Bytes>)>,
    arrived: VecDeque<Bytes>,
    /// Bytes in `flying` and `arrived`: what the peer's sending is bounded by.
    inbox_bytes: usize,
    /// The peer has sent its last byte and all has arrived.
    ended: bool,
    /// The connection is broken, and this end knows.
    reset: bool,
    /// This end said it is done.
    shut: bool,
    /// Nobody holds this end any more, or its process is dead.
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl EndState {
    fn wake_reader(&mut self) -> Option<Waker> {
        self.reader.take()
    }

    fn wake_both(&mut self) -> [Option<Waker>; 2] {
        [self.reader.take(), self.writer.take()]
    }
}

fn wake(wakers: impl IntoIterator<Item = Option<Waker>>) {
    wakers.into_iter().flatten().for_each(Waker::wake);
}

impl End {
    fn new(node: usize, local: SocketAddr, peer_address: SocketAddr) -> Rc<Self> {
        Rc::new(Self { node, local, peer_address, peer: RefCell::default(), state: RefCell::default() })
    }

    fn peer(&self) -> Option<Rc<Self>> {
        self.peer.borrow().upgrade().filter(|p| !p.state.borrow().closed)
    }

    fn become_reset(&self) {
        let wakers = {
            let mut state = self.state.borrow_mut();
            state.reset = true;
            state.flying.clear();
            state.inbox_bytes = state.arrived.iter().map(Bytes::len).sum();
            state.wake_both()
        };
        wake(wakers);
    }

    /// Nobody will read here again: forget the inbox.
    fn discard_inbox(&self) {
        let (flying, arrived) = {
            let mut state = self.state.borrow_mut();
            state.inbox_bytes = 0;
            (std::mem::take(&mut state.flying), std::mem::take(&mut state.arrived))
        };
        drop((flying, arrived));
        self.wake_peers_writer();
    }

    fn wake_peers_writer(&self) {
        if let Some(peer) = self.peer.borrow().upgrade() {
            let waker = peer.state.borrow_mut().writer.take();
            wake([waker]);
        }
    }
}

impl NetState {
    pub(super) fn new(rng: SimRng) -> Self {
        Self {
            rng,
            listeners: RefCell::default(),
            ends: RefCell::default(),
            ends_sweep_at: Cell::new(64),
            cuts: RefCell::default(),
            held: RefCell::default(),
            parcels: RefCell::default(),
            next_port: Cell::new(EPHEMERAL_FIRST),
        }
    }

    pub(super) fn cut(&self, from: usize, to: usize) {
        if from != to {
            self.cuts.borrow_mut().insert((from, to));
        }
    }

    pub(super) fn heal(&self, core: &Rc<Core>, from: usize, to: usize) {
        if !self.cuts.borrow_mut().remove(&(from, to)) {
            return;
        }
        for end in self.held.take() {
            self.deliver_later(core, &end);
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.borrow().contains(&(from, to))
    }

    fn delay(&self, core: &Core, from: usize, to: usize) -> u64 {
        self.rng.nanos(if from == to { &core.options.loopback_delay } else { &core.options.net_delay })
    }

    fn connected(&self, a: &Rc<End>, b: &Rc<End>) {
        *a.peer.borrow_mut() = Rc::downgrade(b);
        *b.peer.borrow_mut() = Rc::downgrade(a);
        let mut ends = self.ends.borrow_mut();
        if ends.len() >= self.ends_sweep_at.get() {
            ends.retain(|e| e.strong_count() > 0);
            self.ends_sweep_at.set(ends.len() * 2 + 64);
        }
        ends.extend([Rc::downgrade(a), Rc::downgrade(b)]);
    }

    /// Puts `bytes` (or the end of the stream) on the way from `from` to its peer.
    fn send(&self, core: &Rc<Core>, from: &Rc<End>, bytes: Option<Bytes>) {
        if let Some(peer) = from.peer() {
            let mut inbox = peer.state.borrow_mut();
            let last = inbox.flying.back().map_or(0, |(at, _)| *at);
            let at = (core.now().nanos + self.delay(core, from.node, peer.node)).max(last);
            inbox.inbox_bytes += bytes.as_ref().map_or(0, Bytes::len);
            inbox.flying.push_back((at, bytes));
            drop(inbox);
            self.deliver_at(core, from, at);
        } else {
            self.deliver_later(core, from);
        }
    }

    fn deliver_later(&self, core: &Rc<Core>, from: &Rc<End>) {
        let delay = self.delay(core, from.node, node_of_peer(core, from).unwrap_or(from.node));
        self.deliver_at(core, from, core.now().nanos + delay);
    }

    fn deliver_at(&self, core: &Rc<Core>, from: &Rc<End>, at: u64) {
        let (world, from) = (core.clone(), from.clone());
        core.after(at - core.now().nanos, move || world.net.deliver(&world, &from));
    }

    /// What `from` sent and is due arrives, unless the way is cut.
    fn deliver(&self, core: &Rc<Core>, from: &Rc<End>) {
        let Some(to) = node_of_peer(core, from) else { return };
        if self.is_cut(from.node, to) {
            self.held.borrow_mut().push(from.clone());
            return;
        }
        core.trace(30, to as u64);
        let Some(peer) = from.peer() else {
            self.reset_later(core, from, to);
            return;
        };
        let waker = {
            let mut inbox = peer.state.borrow_mut();
            while inbox.flying.front().is_some_and(|(at, _)| *at <= core.now().nanos) {
                match inbox.flying.pop_front().expect("there is a front").1 {
                    Some(bytes) => inbox.arrived.push_back(bytes),
                    None => inbox.ended = true,
                }
            }
            inbox.wake_reader()
        };
        if peer.state.borrow().shut {
            peer.discard_inbox();
        }
        wake([waker]);
    }

    /// Tells `end` that the other side, on node `from`, does not know the connection. Said once: a cut swallows it.
    fn reset_later(&self, core: &Rc<Core>, end: &Rc<End>, from: usize) {
        if self.is_cut(from, end.node) {
            return;
        }
        let (world, to, end) = (core.clone(), end.node, Rc::downgrade(end));
        core.after(self.delay(core, from, to), move || {
            if let Some(end) = end.upgrade()
                && !world.net.is_cut(from, end.node)
            {
                world.trace(31, end.node as u64);
                end.become_reset();
            }
        });
    }

    /// The holder of `end` lets go of it.
    fn close_end(&self, core: &Rc<Core>, end: &Rc<End>) {
        let (was_shut, was_closed, unread) = {
            let mut state = end.state.borrow_mut();
            let unread = !state.arrived.is_empty();
            (std::mem::replace(&mut state.shut, true), std::mem::replace(&mut state.closed, true), unread)
        };
        if was_closed {
            return;
        }
        end.discard_inbox();
        match end.peer() {
            // As a kernel does: bytes that nobody will read break the connection.
            Some(peer) if unread => self.reset_later(core, &peer, end.node),
            Some(_) if !was_shut => self.send(core, end, None),
            _ => {}
        }
    }

    pub(super) fn crash(&self, core: &Rc<Core>, node: usize) {
        let dead: Vec<_> = {
            let mut listeners = self.listeners.borrow_mut();
            let (dead, living) = std::mem::take(&mut *listeners).into_iter().partition(|l| l.node == node);
            *listeners = living;
            dead
        };
        drop::<Vec<Rc<ListenerState>>>(dead);
        let ends: Vec<_> = self.ends.borrow().iter().filter_map(Weak::upgrade).filter(|e| e.node == node).collect();
        for end in &ends {
            let was_closed = std::mem::replace(&mut end.state.borrow_mut().closed, true);
            end.discard_inbox();
            if let Some(peer) = end.peer().filter(|p| !was_closed && p.node != node) {
                self.reset_later(core, &peer, node);
            }
        }
        let lost: Vec<_> = {
            let mut parcels = self.parcels.borrow_mut();
            let ids: Vec<u64> = parcels.iter().filter(|(_, s)| s.end.node == node).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| parcels.remove(id)).collect()
        };
        drop(lost);
        self.held.borrow_mut().retain(|e| e.node != node);
    }

    /// Parcels that were dropped unopened: their connections end.
    pub(super) fn drop_abandoned(&self, parcels: Vec<u64>) {
        for id in parcels {
            let stream = self.parcels.borrow_mut().remove(&id);
            drop(stream);
        }
    }

    pub(super) fn close(&self) {
        let left = (self.listeners.take(), self.held.take(), self.parcels.take());
        drop(left);
    }

    fn free_port(&self, node: usize) -> u16 {
        loop {
            let port = self.next_port.get();
            self.next_port.set(if port == u16::MAX { EPHEMERAL_FIRST } else { port + 1 });
            if !self.listeners.borrow().iter().any(|l| l.node == node && l.address.port() == port) {
                return port;
            }
        }
    }

    /// A listener that takes a connection to `address` of `node`, by the seed if there are several.
    fn listener(&self, node: usize, address: SocketAddr) -> Option<Rc<ListenerState>> {
        let listeners = self.listeners.borrow();
        let fit: Vec<_> = listeners
            .iter()
            .filter(|l| l.node == node && l.address.port() == address.port())
            .filter(|l| l.address.ip().is_unspecified() || l.address.ip() == address.ip())
            .collect();
        if fit.is_empty() { None } else { Some(fit[self.rng.index(fit.len())].clone()) }
    }
}

/// The node at the other end, which may be closed; none if the address is nobody's.
fn node_of_peer(core: &Core, end: &End) -> Option<usize> {
    node_at(core, end.node, end.peer_address.ip())
}

/// The node that `ip` means to `from`.
fn node_at(core: &Core, from: usize, ip: IpAddr) -> Option<usize> {
    if ip.is_loopback() || ip.is_unspecified() {
        return Some(from);
    }
    core.nodes.borrow().iter().position(|n| n.ip() == ip)
}

fn failed(operation: &'static str, kind: ErrorKind, what: String) -> IoError {
    IoError::new(operation, Error::new(kind, what))
}

impl Net for SimRuntime {
    type Stream = SimStream;
    type Listener = SimListener;
    type Parcel = SimParcel;

    async fn listen(&self, mut address: SocketAddr, options: ListenOptions) -> IoResult<SimListener> {
        if !self.is_alive() {
            return Err(self.dead("listen"));
        }
        let net = &self.core.net;
        let ip = address.ip();
        if !(ip.is_unspecified() || ip.is_loopback() || ip == self.node.ip()) {
            let what = format!("{ip} is not an address of node {}, which has {}", self.node.name, self.node.ip());
            return Err(failed("listen", ErrorKind::AddrNotAvailable, what));
        }
        if address.port() == 0 {
            address.set_port(net.free_port(self.node.index));
        }
        let clash = net.listeners.borrow().iter().any(|l| {
            let overlap = l.address.ip() == ip || l.address.ip().is_unspecified() || ip.is_unspecified();
            let shared = l.options.reuse_port && options.reuse_port;
            l.node == self.node.index && l.address.port() == address.port() && overlap && !shared
        });
        if clash {
            return Err(failed("listen", ErrorKind::AddrInUse, format!("{address} is in use")));
        }
        let state = Rc::new(ListenerState {
            node: self.node.index,
            address,
            options,
            queue: RefCell::default(),
            wakers: RefCell::default(),
        });
        net.listeners.borrow_mut().push(state.clone());
        Ok(SimListener { rt: self.clone(), state })
    }

    async fn connect(&self, address: SocketAddr) -> IoResult<SimStream> {
        let core = &self.core;
        let me = self.node.index;
        let deadline = core.now().plus(core.options.connect_timeout);
        loop {
            let target = node_at(core, me, address.ip());
            let delay = core.net.delay(core, me, target.unwrap_or(usize::MAX));
            core.sleep(delay).await;
            if !self.is_alive() {
                return Err(self.dead("connect"));
            }
            let reachable = target.filter(|&t| !core.net.is_cut(me, t) && !core.net.is_cut(t, me));
            if let Some(target) = reachable {
                let up = core.nodes.borrow()[target].is_up();
                let Some(listener) = core.net.listener(target, address).filter(|_| up) else {
                    let what = format!("{address} refused the connection");
                    return Err(failed("connect", ErrorKind::ConnectionRefused, what));
                };
                let backlog = listener.options.backlog as usize;
                if listener.queue.borrow().len() < backlog.max(1) {
                    let stream = self.establish(&listener, address);
                    core.sleep(delay).await;
                    return if self.is_alive() { Ok(stream) } else { Err(self.dead("connect")) };
                }
            }
            if core.now() >= deadline {
                return Err(failed("connect", ErrorKind::TimedOut, format!("{address} does not answer")));
            }
            let left = nanos_of(deadline.since(core.now()));
            core.sleep(left.min(nanos_of(BACKLOG_RETRY))).await;
        }
    }

    fn pack(&self, stream: SimStream) -> SimParcel {
        {
            let state = stream.end.state.borrow();
            assert!(state.reader.is_none() && state.writer.is_none(), "a packed stream is read or written");
        }
        let id = self.core.next_id();
        self.core.net.parcels.borrow_mut().insert(id, stream);
        SimParcel { id, shared: self.core.shared.clone() }
    }

    fn unpack(&self, parcel: SimParcel) -> IoResult<SimStream> {
        let stream = self.core.net.parcels.borrow_mut().remove(&parcel.id);
        match stream {
            Some(stream) if stream.end.node == self.node.index && self.is_alive() => Ok(stream),
            _ => Err(failed("unpack", ErrorKind::NotConnected, "the connection's process is gone".to_owned())),
        }
    }
}

impl SimRuntime {
    /// Makes the two ends, gives one to the listener.
    fn establish(&self, listener: &Rc<ListenerState>, address: SocketAddr) -> SimStream {
        let net = &self.core.net;
        let ip = if listener.node != self.node.index {
            self.node.ip()
        } else if address.ip().is_unspecified() {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        } else {
            address.ip()
        };
        let mine = SocketAddr::new(ip, net.free_port(self.node.index));
        let (client, server) = (End::new(self.node.index, mine, address), End::new(listener.node, address, mine));
        net.connected(&client, &server);
        self.core.trace(32, listener.node as u64);
        listener.queue.borrow_mut().push_back(server);
        let wakers = listener.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
        SimStream { core: self.core.clone(), node: self.node.clone(), end: client }
    }
}

/// A listener of the simulated network.
pub struct SimListener {
    rt: SimRuntime,
    state: Rc<ListenerState>,
}

impl std::fmt::Debug for SimListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimListener({})", self.state.address)
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    fn local_addr(&self) -> SocketAddr {
        self.state.address
    }

    async fn accept(&self) -> IoResult<SimStream> {
        let end = std::future::poll_fn(|cx| {
            if !self.rt.is_alive() {
                return Poll::Ready(None);
            }
            if let Some(end) = self.state.queue.borrow_mut().pop_front() {
                return Poll::Ready(Some(end));
            }
            self.state.wakers.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
        let end = end.ok_or_else(|| self.rt.dead("accept"))?;
        Ok(SimStream { core: self.rt.core.clone(), node: self.rt.node.clone(), end })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let core = &self.rt.core;
        core.net.listeners.borrow_mut().retain(|l| !Rc::ptr_eq(l, &self.state));
        for end in self.state.queue.take() {
            if self.rt.is_alive() {
                core.net.close_end(core, &end);
            }
        }
    }
}

/// A connection of the simulated network.
pub struct SimStream {
    core: Rc<Core>,
    node: Rc<NodeState>,
    end: Rc<End>,
}

impl std::fmt::Debug for SimStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimStream({} to {})", self.end.local, self.end.peer_address)
    }
}

/// Forgets the wakers of a read or a write that was given up.
struct Forget<'a> {
    end: &'a End,
    reader: bool,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        let mut state = self.end.state.borrow_mut();
        let waker = if self.reader { state.reader.take() } else { state.writer.take() };
        drop(state);
        drop(waker);
    }
}

impl SimStream {
    fn broken(&self, operation: &'static str, kind: ErrorKind) -> IoError {
        let mut broken = failed(operation, kind, format!("connection {} to {}", self.end.local, self.end.peer_address));
        broken.kind = IoErrorKind::Disconnected;
        broken
    }

    /// `n`, or by the seed less.
    fn some_of(&self, n: usize) -> usize {
        let rng = &self.core.net.rng;
        if rng.one_in(self.core.options.short_io_one_in) { 1 + rng.index(n) } else { n }
    }

    /// Takes bytes that have arrived.
    fn take_arrived(&self, buf: &mut BytesMut) -> usize {
        let mut state = self.end.state.borrow_mut();
        let available: usize = state.arrived.iter().map(Bytes::len).sum();
        let mut left = self.some_of(available.min(buf.capacity() - buf.len()));
        let taken = left;
        while left > 0 {
            let front = state.arrived.front_mut().expect("as many bytes as were counted");
            let n = left.min(front.len());
            buf.extend_from_slice(&front[..n]);
            front.advance(n);
            left -= n;
            if front.is_empty() {
                state.arrived.pop_front();
            }
        }
        state.inbox_bytes -= taken;
        taken
    }

    /// Bytes that the peer has room for; `None` if the connection is broken.
    fn room(&self) -> Option<usize> {
        let state = self.end.state.borrow();
        if state.reset || state.shut || state.closed {
            return None;
        }
        drop(state);
        let used = self.end.peer().map_or(0, |p| p.state.borrow().inbox_bytes);
        Some(self.core.options.socket_buffer_bytes.saturating_sub(used))
    }
}

impl Stream for SimStream {
    fn peer_addr(&self) -> SocketAddr {
        self.end.peer_address
    }

    async fn read_at_least(&self, buf: &mut BytesMut, least: usize) -> IoResult<usize> {
        assert!((1..=buf.capacity() - buf.len()).contains(&least), "a read needs room for {least} bytes");
        let _forget = Forget { end: &self.end, reader: true };
        // As a kernel does: what is there at the first try is taken; who waits is woken for all of it, or a full buffer.
        let full = self.core.options.socket_buffer_bytes;
        let mut enough = 1;
        std::future::poll_fn(|cx| {
            let mut state = self.end.state.borrow_mut();
            if state.closed {
                return Poll::Ready(Err(self.broken("read", ErrorKind::NotConnected)));
            }
            if state.shut || (state.arrived.is_empty() && state.ended) {
                return Poll::Ready(Ok(0));
            }
            if state.arrived.is_empty() && state.reset {
                return Poll::Ready(Err(self.broken("read", ErrorKind::ConnectionReset)));
            }
            let arrived: usize = state.arrived.iter().map(Bytes::len).sum();
            if arrived < enough && !state.ended && !state.reset {
                enough = least.min(full);
                state.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(state);
            let taken = self.take_arrived(buf);
            self.end.wake_peers_writer();
            Poll::Ready(Ok(taken))
        })
        .await
    }

    async fn write_all(&self, parts: &mut VecDeque<Bytes>) -> IoResult<()> {
        let _forget = Forget { end: &self.end, reader: false };
        std::future::poll_fn(|cx| {
            loop {
                while parts.front().is_some_and(Bytes::is_empty) {
                    parts.pop_front();
                }
                let Some(room) = self.room() else {
                    return Poll::Ready(Err(self.broken("write", ErrorKind::BrokenPipe)));
                };
                let Some(front) = parts.front_mut() else { return Poll::Ready(Ok(())) };
                if room == 0 {
                    self.end.state.borrow_mut().writer = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                let piece = front.split_to(self.some_of(room.min(front.len())));
                self.core.net.send(&self.core, &self.end, Some(piece));
            }
        })
        .await
    }

    fn shutdown(&self) {
        let (was_shut, wakers) = {
            let mut state = self.end.state.borrow_mut();
            (std::mem::replace(&mut state.shut, true), state.wake_both())
        };
        if !was_shut && !self.end.state.borrow().closed {
            self.end.discard_inbox();
            self.core.net.send(&self.core, &self.end, None);
        }
        wake(wakers);
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        // A dead process sends no farewell; the crash has told the other side.
        if self.node.is_up() && !self.end.state.borrow().closed {
            self.core.net.close_end(&self.core, &self.end);
        }
    }
}

/// A connection on its way between shards of a simulated process. Dropped unopened, it ends the connection.
#[derive(Debug)]
pub struct SimParcel {
    id: u64,
    shared: Arc<Shared>,
}

impl Drop for SimParcel {
    fn drop(&mut self) {
        self.shared.abandon(self.id);
    }
}
