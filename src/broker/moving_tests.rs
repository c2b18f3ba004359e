//! Connections that move between two shards of a machine. The first byte of a body says which shard it touches.

use super::*;
use crate::broker::moving::{Arrivals, Steer, SteerCounts};
use crate::broker::steering::SteeringRules;
use coreline_io::Entropy;

/// Virtual time after which nothing comes any more.
const TOO_LONG: Duration = Duration::from_secs(60);

struct Pair {
    world: SimWorld,
    echoes: [Rc<Echo>; 2],
    steers: [Rc<Steer>; 2],
    stops: [Rc<Notify>; 2],
    memory: RequestMemory,
    count: ConnectionCount,
    /// Of shard 0.
    address: SocketAddr,
}

fn quick() -> SteeringRules {
    let stay = Duration::from_micros(1);
    SteeringRules { requests_min: 4, window: 16, stay_min: stay, stay_max: stay, leave_per_second: 1_000_000 }
}

fn pair(seed: u64, rules: SteeringRules) -> Pair {
    let world = SimWorld::new(seed, SimOptions::default());
    let runtime = world.node("broker").runtime();
    let (memory, count) = (RequestMemory::new(1 << 20), ConnectionCount::new(100));
    let arrivals: [Rc<Arrivals>; 2] = Default::default();
    let stops: [Rc<Notify>; 2] = Default::default();
    let echoes = [0, 1].map(|_| Rc::new(Echo { touches: Cell::new(true), ..Echo::default() }));
    let steers = [0, 1].map(|i| {
        let (other, rt) = (Rc::clone(&arrivals[1 - i]), runtime.clone());
        let post = Box::new(move |to: ShardId, moving| -> futures_util::future::LocalBoxFuture<'static, ()> {
            assert_eq!(usize::from(to.0), 1 - i);
            let (other, rt) = (Rc::clone(&other), rt.clone());
            Box::pin(async move {
                rt.sleep(Duration::from_micros(rt.next_u64() % 300)).await;
                other.push(moving);
            })
        });
        let (here, arrivals) = (ShardId(i as u16), Rc::clone(&arrivals[i]));
        Steer::new(here, rules.clone(), runtime.now(), arrivals, post)
    });
    let mut addresses = Vec::new();
    for i in [0, 1] {
        let address = SocketAddr::new(runtime.ip(), 0);
        let listener = world.block_on(runtime.listen(address, ListenOptions::default())).unwrap();
        addresses.push(listener.local_addr());
        let latencies = Rc::new(Latencies::new(0));
        let meters = Rc::default();
        let limits = ConnectionLimits { request_bytes_max: REQUEST_MAX, memory: memory.clone(), latencies, meters };
        let steer = Some(Rc::clone(&steers[i]));
        let options = ListenerOptions { limits, idle: None, count: count.clone(), steer };
        let (rt, service, stop) = (runtime.clone(), Rc::clone(&echoes[i]), Rc::clone(&stops[i]));
        drop(runtime.spawn(TaskGroup::Requests, "listener", async move {
            listener::serve(rt, (listener, None), service, options, async move { stop.notified().await }).await;
        }));
    }
    Pair { world, echoes, steers, stops, memory, count, address: addresses[0] }
}

impl Pair {
    fn client_runtime(&self) -> SimRuntime {
        self.world.node("client").runtime()
    }

    async fn connect(&self) -> Client {
        let stream = self.client_runtime().connect(self.address).await.unwrap();
        Client { stream: Rc::new(stream), got: BytesMut::new() }
    }

    async fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        let begun = self.client_runtime().now();
        while !what(self) {
            assert!(self.client_runtime().now().since(begun) < TOO_LONG, "handled: {:?}", self.handled());
            self.client_runtime().sleep(Duration::from_millis(1)).await;
        }
    }

    fn handled(&self) -> [usize; 2] {
        [0, 1].map(|i| self.echoes[i].handled.borrow().len())
    }

    fn counts(&self) -> [SteerCounts; 2] {
        [0, 1].map(|i| self.steers[i].counts())
    }

    /// Answers whatever is produced, after a while of its own each time.
    async fn commit_for_ever(&self) {
        let runtime = self.client_runtime();
        loop {
            for echo in &self.echoes {
                let some = 1 + runtime.next_u64() as usize % 4;
                for _ in 0..some {
                    let sender = echo.pending.borrow_mut().pop_front();
                    sender.into_iter().for_each(|sender| sender.send(()));
                }
            }
            runtime.sleep(Duration::from_micros(runtime.next_u64() % 400)).await;
        }
    }
}

/// Sends all of `bytes` in pieces of any size, with pauses: frames are cut anywhere.
async fn trickle(runtime: &SimRuntime, stream: &Rc<<SimRuntime as Net>::Stream>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        let most = [7, 400, 30_000][runtime.next_u64() as usize % 3];
        let piece = bytes.split_to(bytes.len().min(1 + runtime.next_u64() as usize % most));
        stream.write_all(&mut VecDeque::from([piece])).await.unwrap();
        if runtime.next_u64().is_multiple_of(4) {
            runtime.sleep(Duration::from_micros(runtime.next_u64() % 500)).await;
        }
    }
}

/// Sends all and receives all, then goes away.
async fn talk(pair: &Pair, mut client: Client, bytes: Bytes, sent: &[Bytes], seed: u64) {
    let (runtime, stream) = (pair.client_runtime(), client.stream.clone());
    let receiving = async {
        for (id, body) in (0..).zip(sent) {
            let (got, answer) = client.receive().await.expect("an answer to each request");
            assert_eq!((got, answer == body), (id, true), "seed {seed}");
        }
        // It is one connection, wherever it is.
        assert_eq!(pair.count.open(), 1);
    };
    let both = futures_util::future::join(trickle(&runtime, &stream, bytes), receiving);
    futures_util::future::select(std::pin::pin!(both), std::pin::pin!(pair.commit_for_ever())).await;
}

#[test]
fn a_client_that_pipelines_is_moved_to_and_fro_and_every_answer_comes_once_and_in_order() {
    let (mut moves, mut unread) = (0, 0);
    for seed in 0..60 {
        let pair = pair(seed, quick());
        pair.world.block_on(async {
            let runtime = pair.client_runtime();
            let client = pair.connect().await;
            let mut sent = Vec::new();
            let mut bytes = BytesMut::new();
            for id in 0..400 {
                let key =
                    [PRODUCE, PRODUCE, PRODUCE, PRODUCE, OFFSET_COMMIT, METADATA][runtime.next_u64() as usize % 6];
                let size = [3, 40, 700, 20_000][runtime.next_u64() as usize % 4];
                // Forty requests for one shard, forty for the other, …
                let mut body = vec![b'0' + (id / 40 % 2) as u8];
                body.extend((0..runtime.next_u64() as usize % size).map(|i| (i as i32 + id) as u8));
                bytes.extend_from_slice(&frame(key, id, &body));
                sent.push(Bytes::from(body));
            }
            talk(&pair, client, bytes.freeze(), &sent, seed).await;
            let [here, there] = pair.handled();
            assert_eq!(here + there, sent.len(), "seed {seed}: handled once each");
            let counts = pair.counts();
            assert_eq!((counts[0].left, counts[1].left), (counts[1].came, counts[0].came));
            moves += counts[0].left + counts[1].left;
            unread += usize::from(there > 0 && here > 0);
            pair.wait_for(|p| p.count.open() == 0).await;
            assert_eq!(pair.memory.available(), 1 << 20);
        });
    }
    assert!(moves > 60 * 5 && unread > 50, "{moves} moves");
}

#[test]
fn none_moves_while_an_answer_is_owed() {
    let pair = pair(1, quick());
    pair.world.block_on(async {
        let mut client = pair.connect().await;
        let frames: Vec<_> = (0..10).map(|id| frame(PRODUCE, id, b"1")).collect();
        client.send(&frames).await;
        pair.wait_for(|p| p.handled()[0] == 4).await;
        pair.client_runtime().sleep(Duration::from_secs(1)).await;
        assert_eq!((pair.handled(), pair.counts()[0].left), ([4, 0], 0), "four answers are owed");
        // Three of four: still one.
        let mut pending: Vec<_> = pair.echoes[0].pending.borrow_mut().drain(..).collect();
        let last = pending.pop().unwrap();
        pending.into_iter().for_each(|sender| sender.send(()));
        pair.client_runtime().sleep(Duration::from_secs(1)).await;
        assert_eq!((pair.handled(), pair.counts()[0].left), ([4, 0], 0));
        last.send(());
        pair.wait_for(|p| p.handled() == [4, 6]).await;
        assert_eq!(pair.counts()[0].left, 1);
        pair.echoes[1].pending.borrow_mut().drain(..).for_each(|sender| sender.send(()));
        for id in 0..10 {
            assert_eq!(client.receive().await, Some((id, Bytes::from_static(b"1"))));
        }
    });
}

/// As a long poll waits: inside the handler.
#[test]
fn a_session_and_what_the_service_keeps_for_it_go_along() {
    let pair = pair(2, quick());
    pair.echoes[0].fetch_session.set(77);
    pair.world.block_on(async {
        let mut client = pair.connect().await;
        for id in 0..6 {
            client.send(&[frame(METADATA, id, b"1")]).await;
            assert!(client.receive().await.is_some());
        }
        assert_eq!(pair.handled(), [4, 2]);
        assert_eq!(*pair.echoes[1].kept.borrow(), [77]);
        assert_eq!(pair.echoes[1].sessions.borrow().last().map(|s| s.fetch_sessions.clone()), Some(vec![77]));
    });
}

#[test]
fn a_shard_lets_few_go_at_a_time() {
    let pair = pair(3, SteeringRules { leave_per_second: 1, ..quick() });
    pair.world.block_on(async {
        let mut clients = [pair.connect().await, pair.connect().await, pair.connect().await];
        for client in &mut clients {
            for id in 0..8 {
                client.send(&[frame(METADATA, id, b"1")]).await;
                assert!(client.receive().await.is_some());
            }
        }
        assert_eq!(pair.counts()[0].left, 1);
        assert_eq!(pair.handled(), [20, 4]);
    });
}

#[test]
fn a_connection_that_moves_while_the_other_shard_stops_is_closed_and_counted_off() {
    for seed in 0..20 {
        let pair = pair(seed, quick());
        pair.world.block_on(async {
            let mut client = pair.connect().await;
            client.send(&(0..4).map(|id| frame(METADATA, id, b"1")).collect::<Vec<_>>()).await;
            pair.wait_for(|p| p.counts()[0].left == 1).await;
            pair.stops[1].notify_all();
            while client.receive().await.is_some() {}
            pair.wait_for(|p| p.count.open() == 0).await;
            pair.stops[0].notify_all();
        });
    }
}

#[test]
fn a_client_that_goes_away_while_it_is_moved_leaves_nothing() {
    for seed in 0..40 {
        let pair = pair(seed, quick());
        pair.world.block_on(async {
            let runtime = pair.client_runtime();
            let client = pair.connect().await;
            client.send(&(0..50).map(|id| frame(PRODUCE, id, b"1")).collect::<Vec<_>>()).await;
            let leaving = async {
                runtime.sleep(Duration::from_micros(runtime.next_u64() % 3000)).await;
                drop(client);
                pair.wait_for(|p| p.count.open() == 0).await;
            };
            let (leaving, commits) = (std::pin::pin!(leaving), std::pin::pin!(pair.commit_for_ever()));
            futures_util::future::select(leaving, commits).await;
            assert_eq!(pair.memory.available(), 1 << 20);
        });
    }
}
