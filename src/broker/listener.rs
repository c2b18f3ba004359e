//! Accepts connections for one shard, bounds their number, ends the idle ones.

use super::connection::{Connection, ConnectionLimits, Service, Session};
use coreline_io::sync::Notify;
use coreline_io::{Listener, Runtime, Stream, TaskGroup};
use futures_util::future::{Either, select};
use std::cell::RefCell;
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

#[derive(Debug)]
struct ConnectionSlot(Arc<AtomicUsize>);

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
}

/// The connections of one shard.
#[derive(Debug)]
struct Table<S> {
    open: RefCell<BTreeMap<u64, Rc<Connection<S>>>>,
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

/// Accepts and serves connections until `stop`, then ends them: idle ones at once, others after the request under way,
/// all after half a second.
pub async fn serve<R: Runtime, V: Service>(
    runtime: R,
    listener: R::Listener,
    service: Rc<V>,
    options: ListenerOptions,
    stop: impl Future<Output = ()>,
) {
    let table = Rc::new(Table { open: RefCell::default(), none: Notify::default() });
    let mut stop = pin!(stop);
    let accepting = accept(&runtime, &listener, &service, &options, &table);
    let sweeping = sweep(&runtime, &table, options.idle);
    select(select(pin!(accepting), pin!(sweeping)), &mut stop).await;
    table.each(Connection::close_soon);
    let (finished, too_long) = (pin!(table.empty()), pin!(runtime.sleep(STOP_WAIT)));
    if matches!(select(finished, too_long).await, Either::Right(_)) {
        table.each(Connection::close_now);
    }
}

async fn accept<R: Runtime, V: Service>(
    runtime: &R,
    listener: &R::Listener,
    service: &Rc<V>,
    options: &ListenerOptions,
    table: &Rc<Table<R::Stream>>,
) {
    let mut next_id = 0u64;
    let mut told = false;
    loop {
        if options.count.full() {
            // The kernel keeps the others waiting, as Kafka does.
            if !std::mem::replace(&mut told, true) {
                tracing::warn!("max.connections={} reached: new connections wait", options.count.max);
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
        let slot = options.count.take();
        let session = Session { peer: stream.peer_addr(), software: None };
        let connection = Connection::new(stream, session, runtime.now());
        let id = next_id;
        next_id += 1;
        table.open.borrow_mut().insert(id, Rc::clone(&connection));
        let serving = connection.serve(runtime.clone(), Rc::clone(service), options.limits.clone());
        let table = Rc::clone(table);
        // Detached: it ends with its connection, which the table can end.
        let _connection = runtime.spawn(TaskGroup::Requests, "connection", async move {
            serving.await;
            let gone = table.open.borrow_mut().remove(&id);
            drop((gone, slot));
            if table.open.borrow().is_empty() {
                table.none.notify_all();
            }
        });
    }
}

/// Ends connections that nobody used for `idle`.
async fn sweep<R: Runtime>(runtime: &R, table: &Table<R::Stream>, idle: Option<Duration>) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        // A connection may live a quarter longer than it should; the sweep of a quiet shard costs nothing.
        runtime.sleep(idle / 4).await;
        let now = runtime.now();
        table.each(|connection| {
            // Also with an answer under way: a peer that reads nothing for so long is gone.
            if now.since(connection.last_active()) >= idle {
                tracing::debug!(peer = %connection.peer(), "connection closed: idle for {} ms", idle.as_millis());
                connection.close_now();
            }
        });
    }
}
