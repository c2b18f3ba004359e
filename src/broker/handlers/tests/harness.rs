//! A node of several shards in the simulator, with the real log and handlers, and metadata without Raft; and a client.

use crate::broker::Shard;
use crate::broker::connection::ConnectionLimits;
use crate::broker::core_nodes::CoreNodes;
use crate::broker::frames::RequestMemory;
use crate::broker::handlers::Handlers;
use crate::broker::latency::Latencies;
use crate::broker::listener::{self, ConnectionCount, ListenerOptions};
use crate::broker::messages::{BrokerMesh, Event, Reply, Request};
use crate::broker::metadata::ControllerHandle;
use crate::broker::metrics::Meters;
use crate::broker::moving::{Arrivals, Steer, SteerCounts};
use crate::broker::passage::Passage;
use crate::broker::shard::topic_config;
use crate::broker::steering::SteeringRules;
use crate::broker::store::{LogStore, PartitionSpec, StoreOptions};
use crate::config::BrokerConfig;
use crate::controller::{self, ClusterImage, Command, NewTopic, Outcome};
use crate::ids::{BrokerId, LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::BatchBuilder;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use coreline_io::sim::{SimNode, SimOptions, SimRuntime, SimWorld};
use coreline_io::sync::Semaphore;
use coreline_io::{Clock as _, Entropy, ListenOptions, Net, Stream, TaskGroup, Tasks};
use coreline_shards::{Mesh, MeshHandler, ReplyTo, ShardId};
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, Request as CodecRequest, StrBytes};
use std::cell::{OnceCell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub(super) const SHARDS: usize = 3;
const PORT: u16 = 9092;

pub(super) struct Node {
    pub(super) world: SimWorld,
    pub(super) node: SimNode,
    /// The handlers of each shard, once it serves.
    pub(super) handlers: Rc<RefCell<Vec<Rc<Handlers<SimRuntime>>>>>,
    /// How connections leave each shard.
    steers: Rc<RefCell<Vec<Rc<Steer>>>>,
}

/// Connections that move after a few requests: tests are short.
fn quick_steering() -> SteeringRules {
    let stay_min = Duration::from_micros(100);
    SteeringRules { requests_min: 4, window: 16, stay_min, ..SteeringRules::default() }
}

struct Door {
    handlers: OnceCell<Rc<Handlers<SimRuntime>>>,
    runtime: SimRuntime,
    arrivals: Rc<Arrivals>,
}

impl MeshHandler<BrokerMesh> for Door {
    fn on_request(&self, _from: ShardId, request: Request, reply: ReplyTo<BrokerMesh>) {
        let handlers = Rc::clone(self.handlers.get().expect("the shard is there before anybody asks"));
        match request {
            Request::Data(ask) => handlers.on_ask(ask, reply),
            Request::Latencies { span, slowest } => {
                let latencies = &handlers.shard().latencies;
                reply.send(Reply::Latencies(latencies.snapshot(span, slowest, self.runtime.now())));
            }
            Request::Publish(image) => {
                obey(handlers.shard(), image);
                reply.send(Reply::Done);
            }
            Request::Submit(command) => {
                drop(self.runtime.spawn(TaskGroup::Requests, "submit", async move {
                    reply.send(Reply::Submitted(handlers.shard().controller.submit(command).await));
                }));
            }
            Request::LogSizes(ids) => {
                drop(self.runtime.spawn(TaskGroup::Requests, "log sizes", async move {
                    reply.send(Reply::LogSizes(handlers.shard().log_sizes(ids).await));
                }));
            }
            other => unreachable!("{other:?} is of the server, which is not here"),
        }
    }

    fn on_event(&self, from: ShardId, event: Event) {
        match event {
            Event::Connection(moving) => self.arrivals.push(moving),
            event => self.handlers.get().expect("the shard is there").on_event(from, event),
        }
    }
}

fn obey(shard: &Shard<SimRuntime>, image: Arc<ClusterImage>) {
    for topic in image.topics() {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let id = topic.partition_id(index);
            let known = shard.image().topic_by_id(topic.id).is_some_and(|t| t.partitions.len() > index);
            if shard.owns(partition.shard) && !known {
                let config = Arc::new(topic_config(&shard.config, &image, topic).0);
                let topic = Arc::clone(&topic.name);
                shard.store.assign(PartitionSpec { id, topic, leader_epoch: LeaderEpoch(0), config });
            }
        }
    }
    shard.controller.publish(image);
}

/// Shard 0's controller: judges, applies, publishes everywhere. One command at a time.
fn submit(
    shard: Rc<OnceCell<Rc<Shard<SimRuntime>>>>,
    mesh: Mesh<BrokerMesh>,
    command: Command,
) -> LocalBoxFuture<'static, Result<Outcome, controller::CommandError>> {
    Box::pin(async move {
        let shard = shard.get().expect("the shard is there");
        let mut image = (*shard.image()).clone();
        let mut random = || shard.runtime.next_u64();
        let mut context =
            controller::Context { num_partitions: 1, replication_factor: 1, delete_topics: true, random: &mut random };
        let (records, outcome) = controller::evaluate(&image, &command, &mut context);
        records.iter().for_each(|record| image.apply(record));
        image.index += 1;
        let image = Arc::new(image);
        obey(shard, Arc::clone(&image));
        for other in ShardId::all(mesh.count()).skip(1) {
            let told = mesh.call(other, Request::Publish(Arc::clone(&image))).await;
            assert!(matches!(told, Ok(Reply::Done)));
        }
        Ok(outcome)
    })
}

fn first_image(runtime: &SimRuntime) -> Arc<ClusterImage> {
    let mut image = ClusterImage::default();
    let mut random = || runtime.next_u64();
    let mut context =
        controller::Context { num_partitions: 1, replication_factor: 1, delete_topics: true, random: &mut random };
    for command in [
        Command::Format { cluster_id: "cluster".into() },
        Command::ChangeShards { shards: SHARDS as u16 },
        Command::RegisterBroker { id: BrokerId(1), host: runtime.ip().to_string(), port: PORT },
    ] {
        let (records, _) = controller::evaluate(&image, &command, &mut context);
        records.iter().for_each(|record| image.apply(record));
    }
    Arc::new(image)
}

impl Node {
    pub(super) fn start(seed: u64, settings: &'static [(&'static str, &'static str)]) -> Self {
        let world = SimWorld::new(seed, SimOptions::default());
        let node = world.node("broker");
        let handlers: Rc<RefCell<Vec<_>>> = Rc::default();
        let image = first_image(&node.runtime());
        let all = Rc::clone(&handlers);
        let steers: Rc<RefCell<Vec<_>>> = Rc::default();
        let steers_of_all = Rc::clone(&steers);
        let shards = coreline_shards::sim::start::<BrokerMesh, _, _, Infallible>(&node, SHARDS, move |ctx| {
            let (image, all, steers) = (Arc::clone(&image), Rc::clone(&all), Rc::clone(&steers_of_all));
            async move {
                let runtime = ctx.runtime.clone();
                let settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                let node_id = [("node.id".to_owned(), "1".to_owned())];
                let config = Arc::new(BrokerConfig::from_settings(node_id.into_iter().chain(settings)).unwrap());
                let fatal = Rc::new(|reason, message| panic!("{reason:?}: {message}"));
                let mut options = StoreOptions::new(Path::new(SimNode::DATA_DIR), ctx.shard.0, fatal);
                options.journal_file_bytes = 4 << 20;
                let store = LogStore::open(runtime.clone(), options).await.unwrap();
                store.assignments_complete();
                let own: Rc<OnceCell<Rc<Shard<_>>>> = Rc::default();
                let controller = if ctx.shard == ShardId(0) {
                    let (own, mesh) = (Rc::clone(&own), ctx.mesh.clone());
                    ControllerHandle::new(image, move |command| submit(Rc::clone(&own), mesh.clone(), command))
                } else {
                    ControllerHandle::remote(image, ctx.mesh.clone())
                };
                let latencies = Rc::new(Latencies::new(ctx.shard.0));
                let cores = CoreNodes::of(&config, ctx.shards).unwrap();
                let meters = Rc::<Meters>::default();
                let shard = Rc::new(Shard {
                    runtime: runtime.clone(),
                    id: ctx.shard,
                    shards: ctx.shards,
                    config,
                    store,
                    mesh: ctx.mesh.clone(),
                    controller,
                    cores: cores.clone(),
                    shutdown: ctx.shutdown.clone(),
                    latencies: Rc::clone(&latencies),
                    meters: Rc::clone(&meters),
                    passage: Passage::default(),
                    moves: Semaphore::new(1),
                });
                own.set(Rc::clone(&shard)).expect("once");
                let handlers = Handlers::new(shard);
                let arrivals = Rc::<Arrivals>::default();
                let post_to = ctx.mesh.clone();
                let post = Box::new(move |to, moving| -> LocalBoxFuture<'static, ()> {
                    let mesh = post_to.clone();
                    Box::pin(async move { mesh.post(to, Event::Connection(moving)).await.expect("the mesh is open") })
                });
                let steer = Steer::new(ctx.shard, quick_steering(), runtime.now(), Rc::clone(&arrivals), post);
                steers.borrow_mut().push(Rc::clone(&steer));
                let handlers_here = OnceCell::from(Rc::clone(&handlers));
                let door = Door { handlers: handlers_here, runtime: runtime.clone(), arrivals };
                ctx.mesh.serve(Rc::new(door));
                let address = SocketAddr::new(runtime.ip(), PORT);
                let listener = runtime.listen(address, ListenOptions::default()).await.unwrap();
                let options = ListenerOptions {
                    limits: ConnectionLimits {
                        request_bytes_max: 10 << 20,
                        memory: RequestMemory::new(64 << 20),
                        latencies,
                        meters,
                    },
                    idle: None,
                    count: ConnectionCount::new(1000),
                    steer: Some(steer),
                };
                all.borrow_mut().push(Rc::clone(&handlers));
                let core = match cores {
                    Some(cores) => {
                        let address = SocketAddr::new(runtime.ip(), cores.port(ctx.shard.0));
                        let options = ListenOptions { reuse_port: false, ..ListenOptions::default() };
                        Some((runtime.listen(address, options).await.unwrap(), ctx.shard))
                    }
                    None => None,
                };
                listener::serve(runtime, (listener, core), handlers, options, ctx.shutdown.requested()).await;
                Ok(())
            }
        });
        // Nobody stops it: the world ends.
        std::mem::forget(shards);
        Self { world, node, handlers, steers }
    }

    pub(super) fn runtime(&self) -> SimRuntime {
        self.world.node("client").runtime()
    }

    pub(super) async fn connect(&self) -> Client {
        self.connect_to(PORT).await
    }

    pub(super) async fn connect_to(&self, port: u16) -> Client {
        let address = SocketAddr::new(self.node.ip(), port);
        loop {
            if self.handlers.borrow().len() == SHARDS
                && let Ok(stream) = self.runtime().connect(address).await
            {
                return Client { stream, got: BytesMut::new(), next_id: 0 };
            }
            coreline_io::Clock::sleep(&self.runtime(), std::time::Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn create(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        drop(self.connect().await);
        let handlers = Rc::clone(&self.handlers.borrow()[0]);
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let topic = NewTopic { name: name.into(), partitions, replication_factor: 1, assignments: Vec::new(), configs };
        let command = Command::CreateTopics { topics: vec![topic], validate_only: false };
        match handlers.shard().controller.submit(command).await.unwrap() {
            Outcome::Topics(outcomes) => assert!(outcomes[0].result.is_ok(), "{outcomes:?}"),
            other => panic!("{other:?}"),
        }
    }

    /// What happened to connections, all shards together.
    pub(super) fn steered(&self) -> SteerCounts {
        self.steers.borrow().iter().fold(SteerCounts::default(), |sum, steer| {
            let SteerCounts { local, crossed, left, came } = steer.counts();
            let (left, came) = (sum.left + left, sum.came + came);
            SteerCounts { local: sum.local + local, crossed: sum.crossed + crossed, left, came }
        })
    }

    pub(super) fn image(&self) -> Arc<ClusterImage> {
        self.handlers.borrow()[0].shard().image()
    }
}

pub(super) struct Client {
    pub(super) stream: <SimRuntime as Net>::Stream,
    got: BytesMut,
    next_id: i32,
}

impl Client {
    pub(super) async fn raw(&self, bytes: Bytes) {
        let mut parts = VecDeque::from([bytes]);
        self.stream.write_all(&mut parts).await.unwrap();
    }

    pub(super) async fn send<T: CodecRequest>(&mut self, version: i16, request: &T) -> i32 {
        self.next_id += 1;
        let key = ApiKey::try_from(T::KEY).unwrap();
        let mut frame = BytesMut::new();
        frame.put_i32(0);
        let header = RequestHeader::default()
            .with_request_api_key(T::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.next_id)
            .with_client_id(Some(StrBytes::from_static_str("test")));
        header.encode(&mut frame, key.request_header_version(version)).unwrap();
        request.encode(&mut frame, version).unwrap();
        let size = frame.len() as i32 - 4;
        frame[..4].copy_from_slice(&size.to_be_bytes());
        self.raw(frame.freeze()).await;
        self.next_id
    }

    /// The next frame after its size; none at the end of the connection.
    pub(super) async fn receive_frame(&mut self) -> Option<Bytes> {
        loop {
            if let Some(prefix) = self.got.first_chunk::<4>() {
                let size = u32::from_be_bytes(*prefix) as usize;
                if self.got.len() >= 4 + size {
                    self.got.advance(4);
                    return Some(self.got.split_to(size).freeze());
                }
            }
            self.got.reserve(65536);
            if !matches!(self.stream.read(&mut self.got).await, Ok(n) if n > 0) {
                return None;
            }
        }
    }

    pub(super) async fn receive<T: CodecRequest>(&mut self, version: i16) -> Option<(i32, T::Response)> {
        let mut frame = self.receive_frame().await?;
        let key = ApiKey::try_from(T::KEY).unwrap();
        let header = ResponseHeader::decode(&mut frame, key.response_header_version(version)).unwrap();
        let response = T::Response::decode(&mut frame, version).unwrap();
        assert!(frame.is_empty(), "{} bytes after the answer", frame.len());
        Some((header.correlation_id, response))
    }

    pub(super) async fn ask<T: CodecRequest>(&mut self, version: i16, request: &T) -> T::Response {
        let sent = self.send(version, request).await;
        let (id, response) = self.receive::<T>(version).await.expect("an answer");
        assert_eq!(id, sent);
        response
    }
}

pub(super) fn batch(values: &[&str]) -> Bytes {
    produced_batch(values, -1, -1, -1)
}

pub(super) fn produced_batch(values: &[&str], producer_id: i64, epoch: i16, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::default().producer(ProducerId(producer_id), ProducerEpoch(epoch), sequence);
    for (i, value) in values.iter().enumerate() {
        builder.push(1000 + i as i64, None, Some(value.as_bytes()));
    }
    builder.build(Offset(0), LeaderEpoch(-1)).into()
}

/// The values in record bytes, which must be whole batches.
pub(super) fn values(records: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for batch in crate::log::batch::batches(records) {
        let (header, range) = batch.expect("whole batches");
        for record in crate::log::batch::records(&header, &records[range]) {
            let record = record.expect("whole records");
            found.push(String::from_utf8(record.value.expect("a value").to_vec()).unwrap());
        }
    }
    found
}
