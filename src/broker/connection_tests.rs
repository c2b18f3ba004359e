//! Connections against a service that answers as the tests say, in the simulator.

use super::*;
use crate::broker::listener::{self, ConnectionCount, ListenerOptions};
use crate::protocol::ResponseFrame;
use crate::protocol::frame::{begin_response, finish_response};
use bytes::{Buf, BufMut, Bytes};
use coreline_io::sim::{SimOptions, SimRuntime, SimWorld};
use coreline_io::sync::{Notify, OneshotSender, oneshot};
use coreline_io::{Clock, ListenOptions, Listener, Net, Tasks};
use std::time::Duration;

/// Answers with the request's body. Produce: later, when the test says so; a body of `close` closes.
#[derive(Default)]
struct Echo {
    handled: RefCell<Vec<(i16, Bytes)>>,
    pending: RefCell<VecDeque<OneshotSender<()>>>,
    /// An extra answer size for whatever is not Produce.
    padding: Cell<usize>,
    /// The shard that a body of `1…` touches is 1, and so on.
    touches: Cell<bool>,
    /// What other shards kept for connections that came.
    kept: RefCell<Vec<i32>>,
    /// Every request is of this fetch session, if it is not 0.
    fetch_session: Cell<i32>,
    /// With each request.
    sessions: RefCell<Vec<Session>>,
}

impl Service for Echo {
    type Kept = Vec<i32>;

    fn give_up(&self, session: &Session) -> Vec<i32> {
        session.fetch_sessions.clone()
    }

    fn take_over(&self, kept: Vec<i32>) {
        self.kept.borrow_mut().extend(kept);
    }

    async fn handle(&self, context: RequestContext, body: BytesMut) -> Result<Answer, Close> {
        let RequestContext { request, timeline, .. } = context;
        let body = body.freeze();
        self.sessions.borrow_mut().push(context.session.borrow().clone());
        context.session.borrow_mut().has_fetch_session(self.fetch_session.get());
        if self.touches.get() {
            let shard = ShardId(u16::from(body[0] - b'0'));
            context.session.borrow_mut().touched.add(shard, 1);
        }
        self.handled.borrow_mut().push((request.header.api_key, body.clone()));
        if &body[..] == b"close" {
            return Err(Close::because("the test says so"));
        }
        let mut frame = begin_response(request.api, 0, request.header.correlation_id, body.len());
        frame.put_slice(&body);
        frame.put_bytes(b'.', if request.api.key.is_pipelined() { 0 } else { self.padding.get() });
        finish_response(&mut frame, 0);
        let frame = ResponseFrame::single(frame.freeze());
        if !request.api.key.is_pipelined() {
            return Ok(Answer::Now(Answered { frame, timeline }));
        }
        let (sender, receiver) = oneshot();
        self.pending.borrow_mut().push_back(sender);
        Ok(Answer::Later(Box::pin(async move {
            receiver.await;
            if body.starts_with(b"late close") { Err(Close::because("late")) } else { Ok(Answered { frame, timeline }) }
        })))
    }
}

struct Broker {
    world: SimWorld,
    echo: Rc<Echo>,
    address: SocketAddr,
    stop: Rc<Notify>,
    memory: RequestMemory,
    count: ConnectionCount,
    serving: Rc<Cell<bool>>,
}

const REQUEST_MAX: usize = 100_000;

fn start(seed: u64, change: impl FnOnce(&mut ListenerOptions)) -> Broker {
    let world = SimWorld::new(seed, SimOptions::default());
    let runtime = world.node("broker").runtime();
    let (echo, stop, serving) = (Rc::new(Echo::default()), Rc::new(Notify::default()), Rc::new(Cell::new(true)));
    let memory = RequestMemory::new(1 << 20);
    let mut options = ListenerOptions {
        limits: ConnectionLimits {
            request_bytes_max: REQUEST_MAX,
            memory: memory.clone(),
            latencies: Rc::new(Latencies::new(0)),
            meters: Rc::default(),
        },
        idle: Some(Duration::from_secs(60)),
        count: ConnectionCount::new(100),
        steer: None,
    };
    change(&mut options);
    let count = options.count.clone();
    let address = SocketAddr::new(runtime.ip(), 0);
    let listener = world.block_on(runtime.listen(address, ListenOptions::default())).unwrap();
    let address = listener.local_addr();
    let (service, stopped, over, rt) = (echo.clone(), stop.clone(), serving.clone(), runtime.clone());
    drop(runtime.spawn(TaskGroup::Requests, "listener", async move {
        listener::serve(rt, (listener, None), service, options, async move { stopped.notified().await }).await;
        over.set(false);
    }));
    Broker { world, echo, address, stop, memory, count, serving }
}

struct Client {
    stream: Rc<<SimRuntime as Net>::Stream>,
    got: BytesMut,
}

impl Broker {
    fn client_runtime(&self) -> SimRuntime {
        self.world.node("client").runtime()
    }

    async fn connect(&self) -> Client {
        let stream = self.client_runtime().connect(self.address).await.unwrap();
        Client { stream: Rc::new(stream), got: BytesMut::new() }
    }

    /// Lets a produced request be answered.
    async fn commit(&self, count: usize) {
        for _ in 0..count {
            loop {
                if let Some(sender) = self.echo.pending.borrow_mut().pop_front() {
                    sender.send(());
                    break;
                }
                self.client_runtime().sleep(Duration::from_millis(1)).await;
            }
        }
    }

    async fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        while !what(self) {
            self.client_runtime().sleep(Duration::from_millis(1)).await;
        }
    }

    fn handled(&self) -> usize {
        self.echo.handled.borrow().len()
    }
}

fn frame(key: i16, correlation_id: i32, body: &[u8]) -> Bytes {
    // Produce 3, OffsetCommit 2 and Metadata 0: headers without tags.
    let version = match key {
        PRODUCE => 3,
        OFFSET_COMMIT => 2,
        _ => 0,
    };
    let mut frame = BytesMut::new();
    frame.put_i32(10 + body.len() as i32);
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(correlation_id);
    frame.put_i16(-1);
    frame.put_slice(body);
    frame.freeze()
}

const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
const OFFSET_COMMIT: i16 = 8;

impl Client {
    async fn send(&self, frames: &[Bytes]) {
        let mut parts = VecDeque::from(frames.to_vec());
        self.stream.write_all(&mut parts).await.unwrap();
    }

    /// The next answer; none at the end.
    async fn receive(&mut self) -> Option<(i32, Bytes)> {
        loop {
            if let Some(prefix) = self.got.first_chunk::<4>() {
                let size = u32::from_be_bytes(*prefix) as usize;
                if self.got.len() >= 4 + size {
                    self.got.advance(4);
                    let mut frame = self.got.split_to(size);
                    return Some((frame.get_i32(), frame.freeze()));
                }
            }
            self.got.reserve(4096);
            if !matches!(self.stream.read(&mut self.got).await, Ok(n) if n > 0) {
                return None;
            }
        }
    }
}

#[test]
fn produce_requests_pipeline_and_are_answered_in_order() {
    for seed in 0..20 {
        let broker = start(seed, |_| {});
        broker.world.block_on(async {
            let mut client = broker.connect().await;
            let frames: Vec<_> = (0..10).map(|i| frame(PRODUCE, i, &[i as u8; 100])).collect();
            client.send(&frames).await;
            client.send(&[frame(METADATA, 10, b"m")]).await;
            broker.wait_for(|b| b.handled() == 10).await;
            // The later ones first: they wait for the first.
            let mut pending: Vec<_> = broker.echo.pending.borrow_mut().drain(..).collect();
            while let Some(sender) = pending.pop() {
                assert_eq!(broker.handled(), 10, "what is not Produce waits for the answers before it");
                sender.send(());
            }
            for i in 0..10 {
                assert_eq!(client.receive().await, Some((i, Bytes::from(vec![i as u8; 100]))), "seed {seed}");
            }
            assert_eq!(client.receive().await, Some((10, Bytes::from_static(b"m"))));
        });
    }
}

#[test]
fn only_requests_of_one_kind_overtake_answers() {
    let broker = start(1, |_| {});
    broker.world.block_on(async {
        let mut client = broker.connect().await;
        let all = [PRODUCE, OFFSET_COMMIT, OFFSET_COMMIT, PRODUCE];
        let frames: Vec<Bytes> = (1..).zip(all).map(|(id, key)| frame(key, id, b"x")).collect();
        client.send(&frames).await;
        // How many are handled, with so many answered before.
        for (answered, handled) in [(1, 1), (2, 3), (1, 4)] {
            broker.wait_for(|b| b.handled() == handled).await;
            broker.client_runtime().sleep(Duration::from_secs(1)).await;
            assert_eq!(broker.handled(), handled);
            broker.commit(answered).await;
        }
        for id in 1..=4 {
            assert_eq!(client.receive().await.expect("an answer").0, id);
        }
    });
}

#[test]
fn frames_of_all_sizes_arrive_whole() {
    for seed in 0..10 {
        let broker = start(seed, |_| {});
        broker.world.block_on(async {
            let mut client = broker.connect().await;
            let sizes = [0, 1, 5000, 16_373, 16_374, 16_375, 70_000, 3, REQUEST_MAX - 10, 4, 40_000, 40_000, 9];
            let bodies: Vec<_> = sizes.iter().enumerate().map(|(i, n)| Bytes::from(vec![i as u8; *n])).collect();
            let frames: Vec<_> = bodies.iter().enumerate().map(|(i, b)| frame(METADATA, i as i32, b)).collect();
            let sender = Client { stream: client.stream.clone(), got: BytesMut::new() };
            let receiving = async {
                for (i, body) in bodies.iter().enumerate() {
                    let (id, answer) = client.receive().await.expect("an answer");
                    assert_eq!((id, answer.len()), (i as i32, body.len()), "seed {seed}");
                    assert_eq!(answer, body);
                }
            };
            futures_util::future::join(sender.send(&frames), receiving).await;
        });
        assert_eq!(broker.memory.available(), 1 << 20, "all memory is back");
    }
}

#[test]
fn bad_frames_close_after_what_was_before_is_answered() {
    let unknown_api = frame(999, 2, b"");
    let unknown_version = {
        let mut bad = BytesMut::from(&frame(METADATA, 2, b"")[..]);
        bad[6..8].copy_from_slice(&99i16.to_be_bytes());
        bad.freeze()
    };
    let sizes = [i32::MIN, -1, 0, 7, REQUEST_MAX as i32 + 1, i32::MAX].map(|n| Bytes::from(n.to_be_bytes().to_vec()));
    let bad = [unknown_api, unknown_version, frame(METADATA, 2, b"close"), frame(PRODUCE, 2, b"close")];
    for bad in bad.into_iter().chain(sizes) {
        let broker = start(1, |_| {});
        broker.world.block_on(async {
            let mut client = broker.connect().await;
            client.send(&[frame(PRODUCE, 1, b"good"), bad]).await;
            broker.commit(1).await;
            assert_eq!(client.receive().await, Some((1, Bytes::from_static(b"good"))));
            assert_eq!(client.receive().await, None);
            broker.wait_for(|b| b.count.open() == 0).await;
        });
    }
}

#[test]
fn an_answer_that_closes_lets_those_before_it_out() {
    let broker = start(1, |_| {});
    broker.world.block_on(async {
        let mut client = broker.connect().await;
        client.send(&[frame(PRODUCE, 1, b"one"), frame(PRODUCE, 2, b"late close"), frame(PRODUCE, 3, b"x")]).await;
        broker.commit(3).await;
        assert_eq!(client.receive().await, Some((1, Bytes::from_static(b"one"))));
        assert_eq!(client.receive().await, None);
        broker.wait_for(|b| b.count.open() == 0).await;
    });
}

#[test]
fn a_pipeline_is_bounded() {
    let broker = start(1, |_| {});
    broker.world.block_on(async {
        let mut client = broker.connect().await;
        let many = super::super::pipeline::PIPELINE_MAX + 50;
        let frames: Vec<_> = (0..many).map(|i| frame(PRODUCE, i as i32, b"x")).collect();
        client.send(&frames).await;
        broker.client_runtime().sleep(Duration::from_secs(5)).await;
        assert_eq!(broker.handled(), super::super::pipeline::PIPELINE_MAX + 1);
        let answers = async {
            for i in 0..many {
                assert_eq!(client.receive().await.map(|(id, _)| id), Some(i as i32));
            }
        };
        futures_util::future::join(answers, broker.commit(many)).await;
    });
}

#[test]
fn a_reader_that_does_not_read_stops_its_own_requests_only_and_is_ended_in_the_end() {
    let broker = start(1, |_| {});
    broker.echo.padding.set(90_000);
    broker.world.block_on(async {
        let slow = broker.connect().await;
        let frames: Vec<_> = (0..100).map(|i| frame(METADATA, i, b"x")).collect();
        slow.send(&frames).await;
        broker.client_runtime().sleep(Duration::from_secs(5)).await;
        let stuck = broker.handled();
        assert!(stuck < 50, "{stuck} answers of 90 kB fit the socket");
        broker.echo.padding.set(0);
        let mut other = broker.connect().await;
        other.send(&[frame(METADATA, 1, b"ok")]).await;
        assert!(other.receive().await.is_some());
        broker.wait_for(|b| b.count.open() == 0).await;
        assert_eq!(broker.handled(), stuck + 1);
    });
}

#[test]
fn memory_for_requests_is_shared_and_bounded() {
    let memory = RequestMemory::new(50_000);
    let own = memory.clone();
    let broker = start(1, move |options| options.limits.memory = own);
    broker.world.block_on(async {
        let (mut first, mut second) = (broker.connect().await, broker.connect().await);
        first.send(&[frame(PRODUCE, 1, &[1; 40_000])]).await;
        broker.wait_for(|b| b.handled() == 1).await;
        second.send(&[frame(METADATA, 2, &[2; 30_000])]).await;
        broker.client_runtime().sleep(Duration::from_secs(1)).await;
        assert_eq!((broker.handled(), memory.available()), (1, 50_000 - 40_010));
        broker.commit(1).await;
        assert!(first.receive().await.is_some() && second.receive().await.is_some());
        // More than there is in all: takes all there is.
        first.send(&[frame(METADATA, 1, &[1; 80_000])]).await;
        assert!(first.receive().await.is_some());
        broker.wait_for(|_| memory.available() == 50_000).await;
    });
}

#[test]
fn idle_connections_are_ended_and_used_ones_are_not() {
    let broker = start(1, |_| {});
    broker.world.block_on(async {
        let (mut idle, mut used) = (broker.connect().await, broker.connect().await);
        for i in 0..10 {
            used.send(&[frame(METADATA, i, b"x")]).await;
            assert!(used.receive().await.is_some());
            broker.client_runtime().sleep(Duration::from_secs(10)).await;
        }
        assert_eq!(broker.count.open(), 1);
        assert_eq!(idle.receive().await, None);
        assert_eq!(used.receive().await, None);
    });
}

#[test]
fn connections_past_the_bound_wait() {
    let broker = start(1, |options| options.count = ConnectionCount::new(2));
    broker.world.block_on(async {
        let (first, _second) = (broker.connect().await, broker.connect().await);
        let mut third = broker.connect().await;
        third.send(&[frame(METADATA, 1, b"x")]).await;
        broker.client_runtime().sleep(Duration::from_secs(1)).await;
        assert_eq!((broker.handled(), broker.count.open()), (0, 2));
        drop(first);
        assert!(third.receive().await.is_some());
    });
}

#[test]
fn stopping_lets_what_is_under_way_finish() {
    let broker = start(1, |_| {});
    broker.world.block_on(async {
        let (mut idle, mut working, mut stuck) =
            (broker.connect().await, broker.connect().await, broker.connect().await);
        working.send(&[frame(PRODUCE, 1, b"x")]).await;
        broker.wait_for(|b| b.handled() == 1).await;
        stuck.send(&[frame(PRODUCE, 2, b"y")]).await;
        broker.wait_for(|b| b.handled() == 2).await;
        broker.stop.notify_all();
        assert_eq!(idle.receive().await, None);
        broker.commit(1).await;
        assert_eq!(working.receive().await.map(|(id, _)| id), Some(1));
        assert_eq!(stuck.receive().await, None, "half a second, not for ever");
        broker.wait_for(|b| !b.serving.get()).await;
    });
}

#[path = "moving_tests.rs"]
mod moving;
