//! What every shard of a test does: the same on both backends.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use bytes::{Bytes, BytesMut};
use coreline_io::{Clock, Entropy, ListenOptions, Listener, Runtime, Stream, TaskGroup, Tasks};
use coreline_shards::mesh::{CALL_CREDITS, EVENT_CREDITS};
use coreline_shards::{
    CallReply, HandOff, Mesh, MeshClosed, MeshHandler, MeshProtocol, ReplyTo, ShardContext, ShardId,
};
use futures_util::future::{FutureExt, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

pub trait Host: Clock + Entropy + Tasks + Clone + 'static {}
impl<T: Clock + Entropy + Tasks + Clone + 'static> Host for T {}

pub struct TestMesh;

/// Each message to one peer carries the number of the message to that peer.
pub enum Request {
    Double {
        number: u64,
        value: u64,
    },
    /// Answered when the event `Release` comes.
    Hold {
        number: u64,
    },
    /// Answered with the number of messages received from the caller, this one included.
    Count {
        number: u64,
    },
    /// Never answered: dropped.
    Drop {
        number: u64,
    },
}

pub enum Event {
    Number(u64),
    Release { number: u64 },
    Connection(HandOff),
}

impl MeshProtocol for TestMesh {
    type Request = Request;
    type Reply = u64;
    type Event = Event;
}

pub type Ctx<R> = ShardContext<R, TestMesh>;

/// What is done with a connection that arrives.
type Adopt = Rc<dyn Fn(HandOff)>;

/// Checks the order of arrival, answers sometimes at once, sometimes later.
pub struct Handler<R> {
    runtime: R,
    expected: Vec<Cell<u64>>,
    held: RefCell<Vec<ReplyTo<TestMesh>>>,
    pub events: Cell<u64>,
    pub on_connection: RefCell<Option<Adopt>>,
    in_handler: Cell<bool>,
}

impl<R: Host> Handler<R> {
    pub fn new(ctx: &Ctx<R>) -> Rc<Self> {
        Rc::new(Self {
            runtime: ctx.runtime.clone(),
            expected: (0..ctx.shards).map(|_| Cell::new(0)).collect(),
            held: RefCell::default(),
            events: Cell::new(0),
            on_connection: RefCell::default(),
            in_handler: Cell::new(false),
        })
    }

    pub fn install(ctx: &Ctx<R>) -> Rc<Self> {
        let handler = Self::new(ctx);
        ctx.mesh.serve(handler.clone());
        handler
    }

    pub fn held(&self) -> usize {
        self.held.borrow().len()
    }

    pub fn received(&self, from: ShardId) -> u64 {
        self.expected[from.index()].get()
    }

    fn expect(&self, from: ShardId, number: u64) {
        assert!(!self.in_handler.replace(true), "handled inside of a handler");
        let expected = &self.expected[from.index()];
        assert_eq!(number, expected.get(), "message of shard {from} out of order");
        expected.set(number + 1);
    }
}

impl<R: Host> MeshHandler<TestMesh> for Handler<R> {
    fn on_request(&self, from: ShardId, request: Request, reply: ReplyTo<TestMesh>) {
        assert_eq!(reply.caller(), from);
        match request {
            Request::Double { number, value } => {
                self.expect(from, number);
                let dice = self.runtime.next_u64();
                if dice & 1 == 0 {
                    reply.send(value * 2);
                } else {
                    let runtime = self.runtime.clone();
                    let _detached = self.runtime.spawn(TaskGroup::Requests, "answer", async move {
                        if dice % 16 == 1 {
                            runtime.sleep(Duration::from_micros(dice / 16 % 300)).await;
                        }
                        reply.send(value * 2);
                    });
                }
            }
            Request::Hold { number } => {
                self.expect(from, number);
                self.held.borrow_mut().push(reply);
            }
            Request::Count { number } => {
                self.expect(from, number);
                reply.send(self.received(from));
            }
            Request::Drop { number } => {
                self.expect(from, number);
                drop(reply);
            }
        }
        self.in_handler.set(false);
    }

    fn on_event(&self, from: ShardId, event: Event) {
        match event {
            Event::Number(number) => self.expect(from, number),
            Event::Release { number } => {
                self.expect(from, number);
                for reply in self.held.take() {
                    reply.send(1);
                }
            }
            Event::Connection(connection) => {
                let adopt = self.on_connection.borrow().clone().expect("somebody takes connections");
                adopt(connection);
                return;
            }
        }
        self.events.set(self.events.get() + 1);
        self.in_handler.set(false);
    }
}

/// Numbers messages to one peer as they are sent.
pub struct Numbered {
    mesh: Mesh<TestMesh>,
    to: ShardId,
    next: Cell<u64>,
}

impl Numbered {
    pub fn new(mesh: &Mesh<TestMesh>, to: ShardId) -> Rc<Self> {
        Rc::new(Self { mesh: mesh.clone(), to, next: Cell::new(0) })
    }

    pub fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// Enqueues a call, as soon as there is a credit.
    pub async fn call(&self, request: impl FnOnce(u64) -> Request) -> CallReply<TestMesh> {
        let permit = self.mesh.reserve(self.to).await.expect("the mesh is open");
        permit.call(request(self.number()))
    }

    pub async fn post(&self, event: impl FnOnce(u64) -> Event) {
        let permit = self.mesh.reserve_post(self.to).await.expect("the mesh is open");
        permit.post(event(self.number()));
    }
}

// ---- scenarios: each is the main of every shard ----

pub type Outcome = Result<(), String>;

/// Every shard floods every shard, itself included, with calls and events; no call waits for the one before.
pub async fn flood<R: Host>(ctx: Ctx<R>, calls: u64, events: u64) -> Outcome {
    let _handler = Handler::install(&ctx);
    flood_served(ctx, calls, events).await
}

/// The same, for a caller that installed a handler.
pub async fn flood_served<R: Host>(ctx: Ctx<R>, calls: u64, events: u64) -> Outcome {
    let lines: Vec<_> = ShardId::all(ctx.shards).map(|to| Numbered::new(&ctx.mesh, to)).collect();
    let tasks = lines.iter().flat_map(|line| {
        let (runtime, caller, poster) = (ctx.runtime.clone(), Rc::clone(line), Rc::clone(line));
        let me = ctx.shard;
        let calling = ctx.runtime.spawn(TaskGroup::Requests, "flood-calls", async move {
            let mut replies = FuturesUnordered::new();
            for i in 0..calls {
                let value = (u64::from(me.0) << 32) | i;
                match i % 16 {
                    7 => {
                        replies.push(check_dropped(caller.call(|number| Request::Drop { number }).await).boxed_local())
                    }
                    _ => {
                        let reply = caller.call(|number| Request::Double { number, value }).await;
                        // Whoever gives up waiting must not cost a credit.
                        if i % 16 != 3 {
                            replies.push(check_doubled(reply, value).boxed_local());
                        }
                    }
                }
                if runtime.next_u64() % 8 == 0 {
                    runtime.yield_now().await;
                }
            }
            while replies.next().await.is_some() {}
        });
        let posting = ctx.runtime.spawn(TaskGroup::Background, "flood-events", async move {
            for _ in 0..events {
                poster.post(Event::Number).await;
            }
        });
        [calling, posting]
    });
    join_all(tasks.collect::<Vec<_>>()).await;
    for line in lines {
        let received = line.call(|number| Request::Count { number }).await.await;
        assert_eq!(received, Ok(calls + events + 1));
    }
    Ok(())
}

async fn check_doubled(reply: CallReply<TestMesh>, value: u64) {
    assert_eq!(reply.await, Ok(value * 2));
}

async fn check_dropped(reply: CallReply<TestMesh>) {
    assert!(reply.await.is_err(), "a dropped request was answered");
}

/// A receiver that does not answer stops its caller at the limit; when it answers, the caller goes on.
pub async fn back_pressure<R: Host>(ctx: Ctx<R>) -> Outcome {
    let handler = Handler::install(&ctx);
    if ctx.shard.0 != 0 {
        return Ok(());
    }
    // To another shard, then to itself.
    for to in [ShardId(1), ShardId(0)] {
        let line = Numbered::new(&ctx.mesh, to);
        for round in 0..3 {
            let mut replies = Vec::new();
            for _ in 0..CALL_CREDITS {
                replies.push(line.call(|number| Request::Hold { number }).await);
            }
            // However long it waits.
            for _ in 0..50 {
                assert!(ctx.mesh.reserve(to).now_or_never().is_none(), "more calls under way than credits");
                ctx.runtime.yield_now().await;
            }
            // An event still passes: it has credits of its own.
            if round == 1 {
                drop(replies.split_off(CALL_CREDITS / 2));
            }
            line.post(|number| Event::Release { number }).await;
            for reply in join_all(replies).await {
                assert_eq!(reply, Ok(1));
            }
        }
        if to == ctx.shard {
            assert_eq!(handler.held(), 0);
        }
    }
    Ok(())
}

/// Events stop at their limit in one go, and their credits come back by themselves.
pub async fn event_limit<R: Host>(ctx: Ctx<R>) -> Outcome {
    let _handler = Handler::install(&ctx);
    for to in ShardId::all(ctx.shards) {
        let line = Numbered::new(&ctx.mesh, to);
        // Without a pause nothing is sent: the credits are counted here.
        let permits: Vec<_> =
            (0..EVENT_CREDITS).map(|_| ctx.mesh.reserve_post(to).now_or_never().expect("a credit").unwrap()).collect();
        assert!(ctx.mesh.reserve_post(to).now_or_never().is_none(), "more events under way than credits");
        drop(permits);
        for _ in 0..EVENT_CREDITS * 10 + 17 {
            line.post(Event::Number).await;
        }
        let last = line.call(|number| Request::Double { number, value: 21 }).await.await;
        assert_eq!(last, Ok(42));
    }
    Ok(())
}

/// Callers that give up: before they have a credit, with it, and while the reply is under way.
pub async fn abandoned<R: Host>(ctx: Ctx<R>) -> Outcome {
    let _handler = Handler::install(&ctx);
    for to in ShardId::all(ctx.shards) {
        let line = Numbered::new(&ctx.mesh, to);
        for i in 0..CALL_CREDITS * 3 {
            match i % 3 {
                0 => drop(ctx.mesh.reserve(to).await),
                1 => drop(line.call(|number| Request::Drop { number }).await),
                _ => drop(line.call(|number| Request::Double { number, value: 1 }).await),
            }
            if i % 64 == 0 {
                drop(ctx.mesh.reserve(to).now_or_never());
            }
        }
        // All credits are there again.
        let permits = join_all((0..CALL_CREDITS).map(|_| ctx.mesh.reserve(to))).await;
        assert!(permits.iter().all(Result::is_ok));
    }
    Ok(())
}

/// What comes before there is a handler waits for it, in order; replies do not wait behind it.
pub async fn late_handler<R: Host>(ctx: Ctx<R>) -> Outcome {
    const EARLY: u64 = 100;
    let mut replies = Vec::new();
    for to in ShardId::all(ctx.shards) {
        let line = Numbered::new(&ctx.mesh, to);
        for value in 0..EARLY {
            line.post(Event::Number).await;
            replies.push(check_doubled(line.call(|number| Request::Double { number, value }).await, value));
        }
    }
    // Shard 0 serves only after the others have answered it, and they serve at once.
    if ctx.shard.0 == 0 {
        let rest = replies.split_off(EARLY as usize);
        join_all(rest).await;
    }
    let handler = Handler::install(&ctx);
    join_all(replies).await;
    for from in ShardId::all(ctx.shards) {
        if from == ctx.shard {
            assert_eq!(handler.received(from), EARLY * 2);
        }
    }
    Ok(())
}

/// Shard 1 never answers. The calls of detached tasks end when the mesh closes; `ended` counts them.
pub async fn close_during_calls<R: Host>(ctx: Ctx<R>, ended: Arc<AtomicUsize>) -> Outcome {
    let _handler = Handler::install(&ctx);
    if ctx.shard.0 == 1 {
        return Ok(());
    }
    let line = Numbered::new(&ctx.mesh, ShardId(1));
    // More than have credits: some wait for a reply, some for a credit.
    for _ in 0..CALL_CREDITS + 10 {
        let (mesh, line, ended) = (ctx.mesh.clone(), Rc::clone(&line), Arc::clone(&ended));
        let _detached = ctx.runtime.spawn(TaskGroup::Background, "caller", async move {
            let answer = match mesh.reserve(ShardId(1)).await {
                Ok(permit) => permit.call(Request::Hold { number: line.number() }).await,
                Err(closed) => Err(closed),
            };
            assert_eq!(answer, Err(MeshClosed { to: ShardId(1) }));
            ended.fetch_add(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

/// One shard asks for a stop, all see it; a shard whose main has returned still answers the others.
pub async fn orderly_stop<R: Host>(ctx: Ctx<R>, returned: Arc<AtomicUsize>) -> Outcome {
    let _handler = Handler::install(&ctx);
    assert!(!ctx.shutdown.is_requested() || ctx.shard.index() != ctx.shards - 1);
    if ctx.shard.index() == ctx.shards - 1 {
        ctx.shutdown.request();
    }
    // Several wait, some give up.
    drop(ctx.shutdown.requested());
    join_all((0..10).map(|_| ctx.shutdown.requested())).await;
    assert!(ctx.shutdown.is_requested());
    if ctx.shard.0 == 0 {
        while returned.load(Ordering::Relaxed) < ctx.shards - 1 {
            ctx.runtime.sleep(Duration::from_micros(100)).await;
        }
        for to in ShardId::all(ctx.shards) {
            let line = Numbered::new(&ctx.mesh, to);
            for value in 0..1000 {
                check_doubled(line.call(|number| Request::Double { number, value }).await, value).await;
            }
        }
    }
    returned.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// The last shard fails; the others run until they are asked to stop.
pub async fn one_fails<R: Host>(ctx: Ctx<R>) -> Outcome {
    if ctx.shard.index() == ctx.shards - 1 {
        return Err("out of luck".to_string());
    }
    ctx.shutdown.requested().await;
    Ok(())
}

// ---- hand-off ----

/// How often the connection moves from one shard to the next.
pub const MOVES: usize = 100;

/// Bytes that a shard reads at once, at most.
const CHUNK: usize = 997;

/// Bytes that go both ways: more than can be read in MOVES moves.
const TOTAL: usize = MOVES * CHUNK * 3;

/// What the moving connection remembers.
struct Session {
    moves: usize,
    received: usize,
}

/// A connection to `address`, where shard 0 listens, is echoed by one shard after the other while its client writes and
/// reads without a pause. Each shard leaves part of what it read to the next one.
pub async fn hand_off<R: Runtime>(ctx: Ctx<R>, address: SocketAddr) -> Outcome {
    let handler = Handler::install(&ctx);
    let adopting = ctx.clone();
    *handler.on_connection.borrow_mut() = Some(Rc::new(move |connection: HandOff| {
        let ctx = adopting.clone();
        let _detached = adopting.runtime.clone().spawn(TaskGroup::Requests, "adopted", async move {
            let adopted = connection.adopt::<R, Session>(&ctx.runtime).expect("adopted");
            echo_and_pass_on(&ctx, adopted.stream, adopted.unread, adopted.session).await;
        });
    }));
    if ctx.shard.0 != 0 {
        ctx.shutdown.requested().await;
        return Ok(());
    }
    let listener = ctx.runtime.listen(address, ListenOptions::default()).await.map_err(|e| e.to_string())?;
    let bound = listener.local_addr();
    let accepting = ctx.clone();
    let _detached = ctx.runtime.spawn(TaskGroup::Requests, "accept", async move {
        let stream = listener.accept().await.expect("accepted");
        echo_and_pass_on(&accepting, stream, BytesMut::new(), Session { moves: 0, received: 0 }).await;
    });
    let outcome = client(&ctx.runtime, bound).await;
    ctx.shutdown.request();
    outcome
}

/// Reads some, echoes part of what is unread, and hands the connection on with the rest.
async fn echo_and_pass_on<R: Runtime>(ctx: &Ctx<R>, stream: R::Stream, mut unread: BytesMut, mut session: Session) {
    loop {
        if session.received < TOTAL {
            let mut some = BytesMut::with_capacity(CHUNK);
            let read = stream.read(&mut some).await.expect("read");
            assert!(read > 0, "the client waits for its echo");
            session.received += read;
            unread.extend_from_slice(&some);
        }
        let moving = session.moves < MOVES;
        let now = if moving { ctx.runtime.next_u64() as usize % (unread.len() + 1) } else { unread.len() };
        let echo = unread.split_to(now).freeze();
        if !echo.is_empty() {
            stream.write_all(&mut VecDeque::from([echo])).await.expect("written");
        }
        if moving {
            session.moves += 1;
            let next = ShardId::from_index((ctx.shard.index() + 1) % ctx.shards);
            let connection = HandOff::pack(&ctx.runtime, stream, unread, session);
            ctx.mesh.post(next, Event::Connection(connection)).await.expect("the mesh is open");
            return;
        }
        if session.received == TOTAL {
            return;
        }
    }
}

/// Byte `at` of what the client sends: no two places of it look alike for long.
fn pattern(at: usize) -> u8 {
    ((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8
}

async fn client<R: Runtime>(runtime: &R, address: SocketAddr) -> Outcome {
    let stream = Rc::new(runtime.connect(address).await.map_err(|e| e.to_string())?);
    let writing = Rc::clone(&stream);
    let writer = runtime.spawn(TaskGroup::Background, "client-writes", async move {
        let mut at = 0;
        while at < TOTAL {
            let part: Bytes = (at..TOTAL.min(at + CHUNK)).map(pattern).collect();
            at += part.len();
            writing.write_all(&mut VecDeque::from([part])).await.expect("written");
        }
    });
    let mut echoed = 0;
    while echoed < TOTAL {
        let mut some = BytesMut::with_capacity(4 * CHUNK);
        if stream.read(&mut some).await.map_err(|e| e.to_string())? == 0 {
            return Err(format!("the connection ended after {echoed} of {TOTAL} bytes"));
        }
        for &byte in &some {
            if byte != pattern(echoed) {
                return Err(format!("byte {echoed} came back wrong"));
            }
            echoed += 1;
        }
    }
    writer.await;
    let mut more = BytesMut::with_capacity(CHUNK);
    match stream.read(&mut more).await {
        Ok(0) => Ok(()),
        other => Err(format!("expected the end after {TOTAL} bytes, got {other:?} {more:?}")),
    }
}
