//! One connection: reads requests, has them handled, sends the answers in order.
//!
//! Requests of one connection are handled one after another, as Kafka does, but for Produce: its records are enqueued
//! in order, and its answer may wait while the next request is read. Whatever is not Produce waits until those answers
//! are out, so that it sees what they did.
//!
//! After a request the connection may go on at another shard (`steering.rs` says when, `moving.rs` how): all answers are
//! out then, and what was read of later requests goes with it.

use super::frames::{Frame, FrameError, FrameReader, RequestMemory};
use super::latency::{Latencies, Particulars};
use super::metrics::Meters;
use super::moving::Steer;
use super::pipeline::{Answered, Close, PendingAnswer, Pipeline, Sent};
use super::steering::{Steering, Touched};
use crate::latency::{Stage, Timeline};
use crate::protocol::{ApiKey, Request};
use bytes::BytesMut;
use coreline_io::{JoinHandle, Monotonic, Runtime, Stream, TaskGroup};
use coreline_shards::ShardId;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

/// What a connection remembers between requests; goes with it to another shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The other end.
    pub peer: SocketAddr,
    /// Its address as Java prints one, for coordinators.
    pub host: Arc<str>,
    /// From ApiVersions (KIP-511).
    pub software: Option<ClientSoftware>,
    /// The core whose own port it came to.
    pub core: Option<ShardId>,
    /// Fetch sessions that were used here, the newest last: consumers have one.
    pub fetch_sessions: Vec<i32>,
    /// The partitions of the request under way.
    pub touched: Touched,
}

/// Fetch sessions that a connection remembers.
const FETCH_SESSIONS_MAX: usize = 8;

impl Session {
    /// Of a connection that was just accepted.
    #[must_use]
    pub fn new(peer: SocketAddr, core: Option<ShardId>) -> Self {
        let host = Arc::from(format!("/{}", peer.ip()));
        Self { peer, host, core, software: None, fetch_sessions: Vec::new(), touched: Touched::default() }
    }

    /// A fetch was answered in this session (0: in none).
    pub fn has_fetch_session(&mut self, id: i32) {
        if id == 0 || self.fetch_sessions.last() == Some(&id) {
            return;
        }
        self.fetch_sessions.retain(|other| *other != id);
        if self.fetch_sessions.len() >= FETCH_SESSIONS_MAX {
            self.fetch_sessions.remove(0);
        }
        self.fetch_sessions.push(id);
    }

    /// A fetch came with this epoch and session: at most 0 ends it.
    pub fn ends_fetch_session(&mut self, epoch: i32, id: i32) {
        if epoch <= 0 {
            self.fetch_sessions.retain(|other| *other != id);
        }
    }
}

/// What a client says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSoftware {
    /// `librdkafka`, `apache-kafka-java`, …
    pub name: String,
    /// Its version.
    pub version: String,
}

/// One request and where it came from.
#[derive(Debug)]
pub struct RequestContext {
    /// Its header, and the API.
    pub request: Request,
    /// The connection's memory. Hold no borrow across an await.
    pub session: Rc<RefCell<Session>>,
    /// Where its time went so far.
    pub timeline: Timeline,
}

impl RequestContext {
    /// False if the client addressed another core: then what is of `shard` is answered by that one.
    #[must_use]
    pub fn concerns(&self, shard: ShardId) -> bool {
        self.session.borrow().core.is_none_or(|core| core == shard)
    }
}

/// What becomes of a request.
pub enum Answer {
    /// Send this (nothing, if it has no parts).
    Now(Answered),
    /// The answer comes later; the next request may be read. In the order of requests all the same.
    Later(PendingAnswer),
}

/// Handles requests; one for each shard.
pub trait Service: 'static {
    /// What the service keeps for a session, on its way to another shard.
    type Kept: Send + 'static;

    /// Takes out what it keeps for the session of a connection that leaves.
    fn give_up(&self, session: &Session) -> Self::Kept;

    /// Takes in what another shard kept.
    fn take_over(&self, kept: Self::Kept);

    /// Handles one request: for Produce, enqueues it; for all others, until it is answered.
    ///
    /// # Errors
    /// What closes the connection.
    fn handle(&self, context: RequestContext, body: BytesMut) -> impl Future<Output = Result<Answer, Close>>;
}

/// Bounds of each connection.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// `socket.request.max.bytes`.
    pub request_bytes_max: usize,
    /// What requests of this shard may take together.
    pub memory: RequestMemory,
    /// Where this shard writes down how long requests took.
    pub latencies: Rc<Latencies>,
    /// … and how many connections there are.
    pub meters: Rc<Meters>,
}

/// A connection as its shard sees it: what the listener needs to end it.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    pipeline: Pipeline,
    session: Rc<RefCell<Session>>,
    /// When the last request came, or the last answer went.
    last_active: Cell<Monotonic>,
    /// A request is being handled.
    busy: Cell<bool>,
    /// Ends after the request under way.
    closing: Cell<bool>,
    /// The task that writes answers that come later: started with the first of them.
    writer: RefCell<Option<JoinHandle<()>>>,
    /// Of the request before.
    last: Cell<Option<ApiKey>>,
}

impl<S: Stream> Connection<S> {
    /// A connection on `stream`.
    pub fn new(stream: S, session: Session, now: Monotonic) -> Rc<Self> {
        Rc::new(Self {
            stream,
            pipeline: Pipeline::default(),
            session: Rc::new(RefCell::new(session)),
            last_active: Cell::new(now),
            busy: Cell::new(false),
            closing: Cell::new(false),
            writer: RefCell::default(),
            last: Cell::new(None),
        })
    }

    /// When the last request came, or the last answer went.
    #[must_use]
    pub fn last_active(&self) -> Monotonic {
        self.last_active.get()
    }

    /// True while a request is worked on or an answer waits.
    #[must_use]
    pub fn is_working(&self) -> bool {
        self.busy.get() || self.pipeline.unfinished() > 0
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.session.borrow().peer
    }

    /// Ends it: at once if nothing is under way, else after that.
    pub fn close_soon(&self) {
        self.closing.set(true);
        if !self.is_working() {
            self.stream.shutdown();
        }
    }

    /// Ends it, whatever is under way.
    pub fn close_now(&self) {
        self.closing.set(true);
        self.pipeline.close();
        self.stream.shutdown();
    }

    /// Serves the connection until it ends, or goes on elsewhere. One log line if it does not end well. `unread` are
    /// bytes that were read before.
    pub async fn serve<R, V>(
        self: Rc<Self>,
        runtime: R,
        service: Rc<V>,
        limits: ConnectionLimits,
        unread: BytesMut,
        mut steering: Option<(Rc<Steer>, Steering)>,
    ) -> Option<Leaving>
    where
        R: Runtime<Stream = S>,
        V: Service,
    {
        let ConnectionLimits { request_bytes_max, memory, latencies, meters } = limits;
        let mut frames = FrameReader::new(unread, request_bytes_max, memory);
        let shard = Surroundings { runtime, service, latencies, meters: Rc::clone(&meters) };
        let end = self.requests(&shard, &mut frames, &mut steering).await;
        match &end {
            Ok(None) => {}
            Ok(Some(to)) => {
                let (_, steering) = steering.expect("who has none goes nowhere");
                return Some(Leaving { to: *to, unread: frames.into_unread(), steering });
            }
            Err(End::Gone) => {}
            // A line for everybody who goes away would be noise.
            Err(End::Frame(FrameError::Closed | FrameError::Io(_) | FrameError::Cut { .. })) => {
                tracing::debug!(peer = %self.peer(), "connection ended: {}", end.as_ref().unwrap_err());
            }
            Err(reason) => {
                // What was asked before the fault is answered.
                self.pipeline.drained().await;
                Meters::count(&meters.refused);
                tracing::warn!(peer = %self.peer(), "connection closed: {reason}");
            }
        }
        self.close_now();
        None
    }

    /// Where it goes on; none if it ends here.
    async fn requests<R, V>(
        self: &Rc<Self>,
        shard: &Surroundings<R, V>,
        frames: &mut FrameReader,
        steering: &mut Option<(Rc<Steer>, Steering)>,
    ) -> Result<Option<ShardId>, End>
    where
        R: Runtime<Stream = S>,
        V: Service,
    {
        let runtime = &shard.runtime;
        let mut read_at = runtime.now();
        while !self.closing.get() {
            let reads = frames.reads();
            let frame = frames.next(&self.stream).await?;
            let copied = &shard.meters.frame_copied_bytes;
            copied.set(copied.get() + frames.take_copied() as u64);
            self.busy.set(true);
            let now = runtime.now();
            self.last_active.set(now);
            if frames.reads() > reads {
                read_at = now;
            }
            let mut timeline = shard.latencies.begin(read_at);
            timeline.mark(Stage::Queue, now.nanos);
            let result = self.request(shard, frame, timeline).await;
            self.busy.set(false);
            result?;
            let elsewhere = steering.as_mut().and_then(|(steer, steering)| {
                steer.after_request(steering, &mut self.session.borrow_mut().touched, self.last_active.get())
            });
            if elsewhere.is_some() && self.let_go().await {
                return Ok(elsewhere);
            }
            // A read looks to that itself, where it need not wait.
            if frames.has_frame() && runtime.should_yield() {
                runtime.yield_now().await;
            }
        }
        self.pipeline.drained().await;
        Ok(None)
    }

    /// Waits until all answers are out and nobody but the caller uses the stream. False if it is closed meanwhile.
    async fn let_go(&self) -> bool {
        if !self.pipeline.drained().await || self.closing.get() {
            return false;
        }
        self.pipeline.close();
        let writer = self.writer.take();
        if let Some(writer) = writer {
            writer.await;
        }
        !self.closing.get()
    }

    /// Takes apart a connection that [`Connection::serve`] has left, which nobody else may hold.
    pub(super) fn into_parts(self: Rc<Self>) -> (S, Session) {
        let connection = Rc::into_inner(self).expect("a connection that leaves is held by nobody else");
        let session = connection.session.borrow().clone();
        (connection.stream, session)
    }

    async fn request<R, V>(
        self: &Rc<Self>,
        shard: &Surroundings<R, V>,
        frame: Frame,
        mut timeline: Timeline,
    ) -> Result<(), End>
    where
        R: Runtime<Stream = S>,
        V: Service,
    {
        let runtime = &shard.runtime;
        let Frame { mut bytes, permit } = frame;
        let request = Request::parse(&mut bytes).map_err(Close::because)?;
        let (key, what) = (request.api.key, Particulars::of(&request));
        // Only with those of its own kind: between others the order is that of the requests, as if each had waited.
        let pipelined = key.is_pipelined() && self.last.replace(Some(key)) == Some(key);
        if !pipelined && self.pipeline.unfinished() > 0 {
            if !self.pipeline.drained().await {
                return Err(End::Gone);
            }
            timeline.mark_now(Stage::Queue, || runtime.now().nanos);
        }
        let context = RequestContext { request, session: Rc::clone(&self.session), timeline };
        match shard.service.handle(context, bytes).await.map_err(|close| because_of(&what, &close))? {
            // Nobody else writes: all other answers are out, or this one would not be here.
            Answer::Now(answered) if self.pipeline.unfinished() == 0 => {
                let Answered { frame, mut timeline } = answered;
                let mut parts = VecDeque::from(frame.parts);
                if !parts.is_empty() {
                    self.stream.write_all(&mut parts).await.map_err(FrameError::Io)?;
                }
                let now = runtime.now();
                self.last_active.set(now);
                timeline.mark(Stage::Send, now.nanos);
                shard.latencies.record(what, self.peer(), &timeline, || stall(runtime, &timeline));
            }
            Answer::Now(answered) => {
                self.later(shard, Box::pin(std::future::ready(Ok(answered))), what, permit).await?;
            }
            Answer::Later(answer) => self.later(shard, answer, what, permit).await?,
        }
        Ok(())
    }

    async fn later<R, V>(
        self: &Rc<Self>,
        shard: &Surroundings<R, V>,
        answer: PendingAnswer,
        what: Particulars,
        permit: coreline_io::sync::Permit,
    ) -> Result<(), End>
    where
        R: Runtime<Stream = S>,
    {
        if self.writer.borrow().is_none() {
            let connection = Rc::clone(self);
            let (clock, latencies) = (shard.runtime.clone(), Rc::clone(&shard.latencies));
            // It ends with the pipeline.
            let writer = shard.runtime.spawn(TaskGroup::Requests, "connection-writer", async move {
                connection.answers(clock, latencies).await;
            });
            self.writer.replace(Some(writer));
        }
        if self.pipeline.push(answer, what, permit).await { Ok(()) } else { Err(End::Gone) }
    }

    async fn answers<R: Runtime>(self: Rc<Self>, runtime: R, latencies: Rc<Latencies>) {
        let wrote = |now, sent: Vec<Sent>| {
            self.last_active.set(now);
            let peer = self.peer();
            for Sent { what, timeline, .. } in sent {
                latencies.record(what, peer, &timeline, || stall(&runtime, &timeline));
            }
        };
        if let Err(close) = self.pipeline.write(&self.stream, || runtime.now(), wrote).await {
            tracing::warn!(peer = %self.peer(), "connection closed: {close}");
            self.close_now();
        }
    }
}

/// A connection that goes on at another shard. Its answers are out, and no read or write of it is under way.
#[derive(Debug)]
pub struct Leaving {
    /// Where.
    pub to: ShardId,
    /// Bytes that were read and not handled.
    pub unread: BytesMut,
    /// What it touched.
    pub steering: Steering,
}

/// What of its shard a connection needs.
struct Surroundings<R, V> {
    runtime: R,
    service: Rc<V>,
    latencies: Rc<Latencies>,
    meters: Rc<Meters>,
}

/// The longest stall of the core while a request was there.
fn stall<R: Runtime>(runtime: &R, timeline: &Timeline) -> Option<crate::latency::Stall> {
    let at = |nanos| Monotonic { nanos };
    let (task, took) = runtime.longest_stall_between(at(timeline.begun()), at(timeline.ended()))?;
    Some(crate::latency::Stall { task: task.to_owned(), nanos: took.as_nanos() as u64 })
}

/// Says of which request the connection was closed.
fn because_of(what: &Particulars, close: &Close) -> Close {
    let client = what.client_id.as_deref().unwrap_or("");
    Close(format!("{} version {} of client {client:?}: {close}", what.key.name(), what.version))
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Close(#[from] Close),
    /// The writer, or the listener, has closed it and said why.
    #[error("closed already")]
    Gone,
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
