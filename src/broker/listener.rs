//! Accepts connections for one shard, and those that other shards send; bounds their number, ends the idle ones.

use super::connection::{Connection, ConnectionLimits, Service, Session};
use super::moving::{Arrived, Steer};
use super::steering::Steering;
use bytes::BytesMut;
use coreline_io::sync::Notify;
use coreline_io::{Listener, Runtime, Stream, TaskGroup};
use coreline_shards::ShardId;
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long to wait before trying again when the node has all the connections it may have, or no descriptors.
const FULL_WAIT: Duration = Duration::from_millis(50);
/// How long requests under way may take when the node stops.
const STOP_WAIT: Duration = Duration::from_millis(500);

/// The connections of a node, all shards together: touched when one comes or goes, never by a request.
#[derive(Clone, Debug)]
pub struct ConnectionCount {
    open: Arc<AtomicUsize>,
    /// `max.connections`.
    max: usize,
}

impl ConnectionCount {
    /// At most `max` connections.
    #[must_use]
    pub fn new(max: usize) -> Self {
        Self { open: Arc::default(), max }
    }

    /// Connections there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Shards that accept at the same moment may go over the bound by one each.
    fn full(&self) -> bool {
        self.open() >= self.max
    }

    fn take(&self) -> ConnectionSlot {
        self.open.fetch_add(1, Ordering::Relaxed);
        ConnectionSlot(Arc::clone(&self.open))
    }
}

/// One of the connections that a node may have.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<AtomicUsize>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a listener obeys.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Bounds of each connection.
    pub limits: ConnectionLimits,
    /// `connections.max.idle.ms`; none: never.
    pub idle: Option<Duration>,
    /// Shared by the shards of the node.
    pub count: ConnectionCount,
    /// Connections may move between shards.
    pub steer: Option<Rc<Steer>>,
}

/// The connections of one shard.
#[derive(Debug)]
struct Table<S> {
    open: RefCell<BTreeMap<u64, Rc<Connection<S>>>>,
    next_id: Cell<u64>,
    none: Notify,
}

impl<S: Stream> Table<S> {
    fn each(&self, mut f: impl FnMut(&Connection<S>)) {
        // A copy: closing one may run code that takes it off the table.
        let open: Vec<_> = self.open.borrow().values().cloned().collect();
        open.iter().for_each(|c| f(c));
    }

    async fn empty(&self) {
        while !self.open.borrow().is_empty() {
            self.none.notified().await;
        }
    }
}

impl<S> Table<S> {
    fn insert(&self, connection: &Rc<Connection<S>>) -> u64 {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.open.borrow_mut().insert(id, Rc::clone(connection));
        id
    }

    fn remove(&self, id: u64) {
        let gone = self.open.borrow_mut().remove(&id);
        drop(gone);
        if self.open.borrow().is_empty() {
            self.none.notify_all();
        }
    }
}

/// One shard's listener and what it serves.
struct Room<R: Runtime, V> {
    runtime: R,
    service: Rc<V>,
    options: ListenerOptions,
    table: Table<R::Stream>,
}

/// Accepts and serves connections, also those of this core's own port, if it has one, until `stop`, then ends them: idle
/// ones at once, others after the request under way, all after half a second.
pub async fn serve<R: Runtime, V: Service>(
    runtime: R,
    (listener, core): (R::Listener, Option<(R::Listener, ShardId)>),
    service: Rc<V>,
    options: ListenerOptions,
    stop: impl Future<Output = ()>,
) {
    let table = Table { open: RefCell::default(), next_id: Cell::new(0), none: Notify::default() };
    let room = Rc::new(Room { runtime, service, options, table });
    let mut stop = pin!(stop);
    let (accepting, adopting, sweeping) = (room.accept(&listener, None), room.adopt(), room.sweep());
    let of_core = async {
        match &core {
            Some((listener, shard)) => room.accept(listener, Some(*shard)).await,
            None => std::future::pending().await,
        }
    };
    let (accepting, of_core, adopting, sweeping) = (pin!(accepting), pin!(of_core), pin!(adopting), pin!(sweeping));
    select(select(select(accepting, of_core), select(adopting, sweeping)), &mut stop).await;
    if let Some(steer) = &room.options.steer {
        steer.arrivals.close();
    }
    room.table.each(Connection::close_soon);
    let (finished, too_long) = (pin!(room.table.empty()), pin!(room.runtime.sleep(STOP_WAIT)));
    if matches!(select(finished, too_long).await, Either::Right(_)) {
        room.table.each(Connection::close_now);
    }
}

impl<R: Runtime, V: Service> Room<R, V> {
    async fn accept(self: &Rc<Self>, listener: &R::Listener, core: Option<ShardId>) {
        let (runtime, count) = (&self.runtime, &self.options.count);
        let mut told = false;
        loop {
            if count.full() {
                // The kernel keeps the others waiting, as Kafka does.
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!("max.connections={} reached: new connections wait", count.max);
                }
                runtime.sleep(FULL_WAIT).await;
                continue;
            }
            told = false;
            let stream = match listener.accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!("a connection could not be accepted: {error}");
                    runtime.sleep(FULL_WAIT).await;
                    continue;
                }
            };
            let slot = count.take();
            let session = Session::new(stream.peer_addr(), core);
            // Whoever addresses a core stays there.
            let steer = self.options.steer.as_ref().filter(|_| core.is_none());
            let steering = steer.map(|steer| steer.accepted(runtime.now()));
            self.begin(Connection::new(stream, session, runtime.now()), slot, BytesMut::new(), steering);
        }
    }

    /// Takes in what other shards send.
    async fn adopt(self: &Rc<Self>) {
        let Some(steer) = &self.options.steer else { return std::future::pending().await };
        loop {
            let moving = steer.arrivals.next().await;
            match steer.adopt(&self.runtime, &*self.service, moving) {
                Ok(Arrived { stream, unread, session, steering, slot }) => {
                    let connection = Connection::new(stream, session, self.runtime.now());
                    self.begin(connection, slot, unread, Some(steering));
                }
                Err(error) => tracing::warn!("a connection was closed on its way to another shard: {error}"),
            }
        }
    }

    fn begin(
        self: &Rc<Self>,
        connection: Rc<Connection<R::Stream>>,
        slot: ConnectionSlot,
        unread: BytesMut,
        steering: Option<Steering>,
    ) {
        let id = self.table.insert(&connection);
        let meters = Rc::clone(&self.options.limits.meters);
        meters.connections.set(meters.connections.get() + 1);
        let steering = self.options.steer.clone().zip(steering);
        let limits = self.options.limits.clone();
        let serving =
            Rc::clone(&connection).serve(self.runtime.clone(), Rc::clone(&self.service), limits, unread, steering);
        let room = Rc::clone(self);
        // Detached: it ends with its connection, which the table can end.
        let _connection = self.runtime.spawn(TaskGroup::Requests, "connection", async move {
            let leaving = serving.await;
            room.table.remove(id);
            meters.connections.set(meters.connections.get() - 1);
            if let (Some(leaving), Some(steer)) = (leaving, &room.options.steer) {
                steer.send(&room.runtime, &*room.service, connection.into_parts(), leaving, slot).await;
            }
        });
    }

    /// Ends connections that nobody used for `idle`.
    async fn sweep(&self) {
        let Some(idle) = self.options.idle else { return std::future::pending().await };
        loop {
            // A connection may live a quarter longer than it should; the sweep of a quiet shard costs nothing.
            self.runtime.sleep(idle / 4).await;
            let now = self.runtime.now();
            self.table.each(|connection| {
                // Also with an answer under way: a peer that reads nothing for so long is gone.
                if now.since(connection.last_active()) >= idle {
                    tracing::debug!(peer = %connection.peer(), "connection closed: idle for {} ms", idle.as_millis());
                    connection.close_now();
                }
            });
        }
    }
}
