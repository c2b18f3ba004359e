//! The driver of the metadata: on shard 0, commands become records, records are committed through Raft, and every
//! shard gets the new image before the command is answered.
//!
//! Commands that wait are judged and committed together: one entry, one write, one flush.

use super::fatal::{ExitReason, FatalHandler};
use super::messages::{BrokerMesh, Request};
use super::metadata::ControllerHandle;
use super::shard::topic_config;
use super::store::{LogStore, PartitionSpec};
use crate::config::BrokerConfig;
use crate::controller::commands::{Command, CommandError, Context, Outcome, evaluate};
use crate::controller::raft_log::{SnapshotFile, decode_snapshot, encode_group, encode_snapshot, replay};
use crate::controller::raft_node::{Effects, Input, Persist, RaftNode, Recovered};
use crate::controller::records::{decode_records, encode_records};
use crate::controller::{ClusterImage, TopicImage};
use crate::error_code::ErrorCode;
use crate::ids::{BrokerId, TopicId};
use crate::log::partition_metadata;
use bytes::Bytes;
use coreline_io::sync::{Notify, OneshotSender, oneshot};
use coreline_io::{File, IoError, IoErrorKind, OpenOptions, Runtime, TaskGroup};
use coreline_shards::{Mesh, ShardId};
use futures_util::future::LocalBoxFuture;
use raft::eraftpb::Entry;
use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

const DIRECTORY: &str = "__cluster_metadata-0";
const SNAPSHOT: &str = "snapshot";
const META_PROPERTIES: &str = "meta.properties";
/// A log of this size gives way to a snapshot.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Why the metadata does not open.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The disk's.
    #[error(transparent)]
    Io(#[from] IoError),
    /// What is there is damaged, or of another node.
    #[error("{0}")]
    Damaged(String),
}

type Answer = Result<Outcome, CommandError>;
type Apply = Rc<dyn Fn(Arc<ClusterImage>) -> LocalBoxFuture<'static, ()>>;

/// Where images go once all shards are there.
struct Audience {
    mesh: Mesh<BrokerMesh>,
    local: Apply,
}

/// The controller of this node. Lives on shard 0.
pub struct Controller<R: Runtime> {
    runtime: R,
    config: Arc<BrokerConfig>,
    fatal: FatalHandler,
    directory: PathBuf,
    log: RefCell<Rc<Log<R>>>,
    node: RefCell<RaftNode>,
    /// Everything committed.
    image: RefCell<ClusterImage>,
    waiting: RefCell<Vec<(Command, OneshotSender<Answer>)>>,
    arrived: Notify,
    audience: RefCell<Option<Rc<Audience>>>,
    stopped: Cell<bool>,
    idle: Notify,
    busy: Cell<bool>,
}

/// The file that entries are appended to.
struct Log<R: Runtime> {
    file: R::File,
    path: PathBuf,
    end: Cell<u64>,
    sequence: Cell<u64>,
}

impl<R: Runtime> std::fmt::Debug for Controller<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<R: Runtime> Controller<R> {
    /// Loads the metadata, formats a fresh data directory, and leads the quorum of one.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub async fn open(
        runtime: R,
        config: Arc<BrokerConfig>,
        fatal: FatalHandler,
    ) -> Result<(Rc<Self>, ControllerHandle), ControllerError> {
        let directory = config.data_dir.join(DIRECTORY);
        runtime.create_dir_all(&directory).await?;
        runtime.sync_dir(&config.data_dir).await?;
        let (recovered, image, log) = load(&runtime, &directory).await?;
        let id = voter(config.node_id);
        let seed = runtime.next_u64();
        let node = RaftNode::new(id, &[id], recovered, seed)
            .map_err(|e| ControllerError::Damaged(format!("{}: {e}", directory.display())))?;
        let controller = Rc::new(Self {
            runtime: runtime.clone(),
            config,
            fatal,
            directory,
            log: RefCell::new(Rc::new(log)),
            node: RefCell::new(node),
            image: RefCell::new(image),
            waiting: RefCell::default(),
            arrived: Notify::default(),
            audience: RefCell::default(),
            stopped: Cell::new(false),
            idle: Notify::default(),
            busy: Cell::new(false),
        });
        controller.advance(Input::Campaign).await?;
        controller.format().await?;
        let image = Arc::new(controller.image.borrow().clone());
        let submitter = controller.clone();
        let handle = ControllerHandle::new(image, move |command| {
            let controller = submitter.clone();
            Box::pin(async move { controller.enqueue(command).await })
        });
        let (committer, publisher) = (controller.clone(), handle.clone());
        runtime.spawn(TaskGroup::Replication, "controller", async move { committer.commit_loop(publisher).await });
        Ok((controller, handle))
    }

    /// From now on, every image goes to all shards: to this one through `local`, to the others through the mesh.
    pub fn run(&self, mesh: Mesh<BrokerMesh>, local: Apply) {
        *self.audience.borrow_mut() = Some(Rc::new(Audience { mesh, local }));
    }

    /// Takes no more commands and waits until the last one is on the disk.
    pub async fn shutdown(&self) {
        self.stopped.set(true);
        self.arrived.notify_all();
        while self.busy.get() {
            self.idle.notified().await;
        }
    }

    async fn enqueue(&self, command: Command) -> Answer {
        let stopping = || CommandError::new(ErrorCode::NotController, "The node is stopping.");
        if self.stopped.get() {
            return Err(stopping());
        }
        let (sender, receiver) = oneshot();
        self.waiting.borrow_mut().push((command, sender));
        self.arrived.notify_all();
        receiver.await.unwrap_or_else(|| Err(stopping()))
    }

    async fn commit_loop(self: Rc<Self>, handle: ControllerHandle) {
        loop {
            let batch = std::mem::take(&mut *self.waiting.borrow_mut());
            if batch.is_empty() {
                if self.stopped.get() {
                    return;
                }
                self.arrived.notified().await;
                continue;
            }
            self.busy.set(true);
            self.commit(batch, &handle).await;
            self.busy.set(false);
            self.idle.notify_all();
        }
    }

    /// Judges a batch in order, commits what comes of it as one entry, tells every shard, answers.
    async fn commit(&self, batch: Vec<(Command, OneshotSender<Answer>)>, handle: &ControllerHandle) {
        let (mut all, mut answers) = (Vec::new(), Vec::new());
        {
            let mut working = self.image.borrow().clone();
            let mut random = || self.runtime.next_u64();
            let mut context = Context {
                num_partitions: self.config.num_partitions,
                replication_factor: self.config.default_replication_factor,
                delete_topics: self.config.delete_topics,
                random: &mut random,
            };
            for (command, sender) in batch {
                let (records, outcome) = evaluate(&working, &command, &mut context);
                records.iter().for_each(|r| working.apply(r));
                all.extend(records);
                answers.push((sender, outcome));
            }
        }
        if !all.is_empty() {
            if let Err(error) = self.advance(Input::Propose(encode_records(&all).to_vec())).await {
                // What was on its way to the disk may be there or not: only a restart can tell.
                (self.fatal)(ExitReason::MetadataFailed, &format!("the metadata log cannot be written: {error}"));
                return;
            }
            self.tell_everyone(handle).await;
            self.snapshot_if_large().await;
        }
        for (sender, outcome) in answers {
            sender.send(Ok(outcome));
        }
    }

    async fn tell_everyone(&self, handle: &ControllerHandle) {
        let image = Arc::new(self.image.borrow().clone());
        let audience = self.audience.borrow().clone();
        let Some(audience) = audience else {
            handle.publish(image);
            return;
        };
        let mut answers = Vec::new();
        for shard in ShardId::all(audience.mesh.count()).filter(|s| *s != audience.mesh.me()) {
            if let Ok(permit) = audience.mesh.reserve(shard).await {
                answers.push(permit.call(Request::Publish(image.clone())));
            }
        }
        (audience.local)(image).await;
        for answer in answers {
            // A shard that is gone is stopping with all others.
            let _ = answer.await;
        }
    }

    /// Feeds the voter and carries out what it asks for, until it asks for nothing.
    async fn advance(&self, input: Input) -> Result<(), IoError> {
        let mut inputs = vec![input];
        while !inputs.is_empty() {
            let mut effects = Effects::default();
            for input in inputs.drain(..) {
                self.node.borrow_mut().step(input, &mut effects);
            }
            for entry in &effects.committed {
                self.apply(entry);
            }
            if effects.persist.is_empty() {
                continue;
            }
            self.persist(&effects.persist).await?;
            inputs.extend(effects.persist.iter().map(|p| Input::Persisted(p.number)));
        }
        Ok(())
    }

    fn apply(&self, entry: &Entry) {
        let mut image = self.image.borrow_mut();
        if !entry.data.is_empty() {
            let records = decode_records(entry.data.clone()).expect("records that this node wrote or checked");
            records.iter().for_each(|r| image.apply(r));
        }
        image.index = entry.index;
    }

    async fn persist(&self, all: &[Persist]) -> Result<(), IoError> {
        let entries: Vec<Entry> = all.iter().flat_map(|p| p.entries.iter().cloned()).collect();
        let hard_state = all.iter().rev().find_map(|p| p.hard_state.as_ref());
        // A commit index alone need not be written: it is found again.
        if entries.is_empty() && !all.iter().any(|p| p.must_sync) {
            return Ok(());
        }
        let log = self.log.borrow().clone();
        log.append(&entries, hard_state).await
    }

    /// The first start of a data directory, and the check of a later one.
    async fn format(&self) -> Result<(), ControllerError> {
        let path = self.config.data_dir.join(META_PROPERTIES);
        let node_id = self.config.node_id;
        let known = self.image.borrow().cluster_id.clone();
        match self.runtime.read_file(&path).await {
            Ok(found) => {
                let text = String::from_utf8_lossy(&found);
                let of = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
                if of("node.id") != Some(&node_id.to_string()) {
                    let theirs = of("node.id").unwrap_or("missing");
                    let message = format!(
                        "{}: node.id is {theirs}, this node was started with node.id={node_id}",
                        path.display()
                    );
                    return Err(ControllerError::Damaged(message));
                }
                if !known.is_empty() && of("cluster.id") != Some(known.as_str()) {
                    let theirs = of("cluster.id").unwrap_or("missing");
                    let message = format!("{}: cluster.id is {theirs}, the metadata log says {known}", path.display());
                    return Err(ControllerError::Damaged(message));
                }
                if !known.is_empty() {
                    return Ok(());
                }
            }
            Err(e) if e.kind == IoErrorKind::NotFound => {}
            Err(e) => return Err(e.into()),
        }
        let cluster_id = if known.is_empty() { self.random_id() } else { known.clone() };
        if known.is_empty() {
            let records = [crate::controller::MetadataRecord::ClusterFormatted { cluster_id: cluster_id.clone() }];
            self.advance(Input::Propose(encode_records(&records).to_vec())).await?;
        }
        let directory_id = self.random_id();
        let text = format!("version=1\nnode.id={node_id}\ncluster.id={cluster_id}\ndirectory.id={directory_id}\n");
        self.runtime.write_file_atomic(&path, text.as_bytes()).await?;
        Ok(())
    }

    fn random_id(&self) -> String {
        let bytes = Uuid::from_u64_pair(self.runtime.next_u64(), self.runtime.next_u64()).into_bytes();
        partition_metadata::encode_id(TopicId(uuid::Builder::from_random_bytes(bytes).into_uuid()))
    }

    /// A large log gives way to a snapshot. The new log comes first, so that a vote is never lost.
    async fn snapshot_if_large(&self) {
        let old = self.log.borrow().clone();
        if old.end.get() < LOG_BYTES_MAX {
            return;
        }
        if let Err(error) = self.snapshot(&old).await {
            if error.kind == IoErrorKind::StorageFull {
                tracing::warn!("no snapshot of the metadata, the log grows on: {error}");
            } else {
                (self.fatal)(ExitReason::MetadataFailed, &format!("the metadata snapshot cannot be written: {error}"));
            }
        }
    }

    async fn snapshot(&self, old: &Rc<Log<R>>) -> Result<(), IoError> {
        let (index, records) = {
            let image = self.image.borrow();
            (image.index, encode_records(&image.to_records()))
        };
        let term = self.node.borrow().term();
        let id = voter(self.config.node_id);
        let log = Log::create(&self.runtime, &self.directory, index).await?;
        let hard_state = raft::eraftpb::HardState { term, vote: id, commit: index, ..Default::default() };
        log.append(&[], Some(&hard_state)).await?;
        self.runtime.sync_dir(&self.directory).await?;
        let file = encode_snapshot(&SnapshotFile { index, term, voters: vec![id], records });
        self.runtime.write_file_atomic(&self.directory.join(SNAPSHOT), &file).await?;
        *self.log.borrow_mut() = Rc::new(log);
        self.node.borrow_mut().compact(index);
        self.runtime.remove_file(&old.path).await
    }
}

/// Node ids begin at 0, voters' ids at 1.
fn voter(node_id: i32) -> u64 {
    u64::try_from(node_id).expect("a node id is not negative") + 1
}

impl<R: Runtime> Log<R> {
    fn path(directory: &std::path::Path, snapshot: u64) -> PathBuf {
        directory.join(format!("log-{snapshot:020}"))
    }

    async fn create(runtime: &R, directory: &std::path::Path, snapshot: u64) -> Result<Self, IoError> {
        let path = Self::path(directory, snapshot);
        let options = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
        let file = runtime.open(&path, options).await?;
        Ok(Self { file, path, end: Cell::new(0), sequence: Cell::new(1) })
    }

    async fn append(&self, entries: &[Entry], state: Option<&raft::eraftpb::HardState>) -> Result<(), IoError> {
        let group = encode_group(self.sequence.get(), entries, state);
        let length = group.len() as u64;
        self.file.write_at(self.end.get(), &[group]).await?;
        self.file.sync_data().await?;
        self.end.set(self.end.get() + length);
        self.sequence.set(self.sequence.get() + 1);
        Ok(())
    }
}

async fn load<R: Runtime>(
    runtime: &R,
    directory: &std::path::Path,
) -> Result<(Recovered, ClusterImage, Log<R>), ControllerError> {
    let damaged =
        |path: &std::path::Path, what: String| ControllerError::Damaged(format!("{}: {what}", path.display()));
    let path = directory.join(SNAPSHOT);
    let snapshot = match runtime.read_file(&path).await {
        Ok(bytes) => Some(decode_snapshot(bytes.into()).map_err(|e| damaged(&path, e.to_string()))?),
        Err(e) if e.kind == IoErrorKind::NotFound => None,
        Err(e) => return Err(e.into()),
    };
    let mut image = ClusterImage::default();
    if let Some(s) = &snapshot {
        let records = decode_records(s.records.clone()).map_err(|e| damaged(&path, e.to_string()))?;
        image = ClusterImage::from_records(s.index, &records);
    }
    let base = snapshot.as_ref().map_or(0, |s| s.index);
    let path = Log::<R>::path(directory, base);
    let bytes: Bytes = match runtime.read_file(&path).await {
        Ok(bytes) => bytes.into(),
        Err(e) if e.kind == IoErrorKind::NotFound => Bytes::new(),
        Err(e) => return Err(e.into()),
    };
    let found = replay(&bytes).map_err(|e| damaged(&path, e.to_string()))?;
    for entry in &found.entries {
        decode_records(entry.data.clone()).map_err(|e| damaged(&path, e.to_string()))?;
    }
    let file = runtime.open(&path, OpenOptions { create: true, ..OpenOptions::default() }).await?;
    runtime.sync_dir(directory).await?;
    remove_others(runtime, directory, &path).await?;
    let log = Log { file, path, end: Cell::new(found.end), sequence: Cell::new(found.next_sequence) };
    Ok((Recovered { snapshot, entries: found.entries, hard_state: found.hard_state }, image, log))
}

/// Logs that a snapshot has taken the place of, or that were made for one that did not come.
async fn remove_others<R: Runtime>(
    runtime: &R,
    directory: &std::path::Path,
    current: &std::path::Path,
) -> Result<(), IoError> {
    for entry in runtime.list_dir(directory).await? {
        let path = directory.join(&entry.name);
        if entry.name.starts_with("log-") && path != current {
            runtime.remove_file(&path).await?;
        }
    }
    Ok(())
}

/// Makes a shard's log obey an image: partitions come, go, and get other settings.
pub async fn apply_image<R: Runtime>(
    store: &Rc<LogStore<R>>,
    config: &BrokerConfig,
    shard: ShardId,
    old: &ClusterImage,
    new: &ClusterImage,
) {
    let node = BrokerId(config.node_id);
    let broker_settings_changed =
        [None, Some(node)].iter().any(|k| old.broker_configs.get(k) != new.broker_configs.get(k));
    for topic in new.topics() {
        let before = old.topic_by_id(topic.id);
        if before.is_some_and(|b| Arc::ptr_eq(b, topic)) && !broker_settings_changed {
            continue;
        }
        let (log, _) = topic_config(config, new, topic);
        let log = Arc::new(log);
        for (index, partition) in topic.partitions.iter().enumerate() {
            if ShardId(partition.shard) != shard {
                continue;
            }
            let id = topic.partition_id(index);
            if before.is_some_and(|b| index < b.partitions.len()) {
                store.reconfigure(id, log.clone());
            } else {
                let leader_epoch = partition.leader_epoch;
                store.assign(PartitionSpec { id, topic: topic.name.clone(), leader_epoch, config: log.clone() });
            }
        }
    }
    for topic in old.topics().filter(|t| new.topic_by_id(t.id).is_none()) {
        delete_topic(store, shard, topic).await;
    }
}

async fn delete_topic<R: Runtime>(store: &Rc<LogStore<R>>, shard: ShardId, topic: &TopicImage) {
    for (index, partition) in topic.partitions.iter().enumerate() {
        if ShardId(partition.shard) == shard {
            let id = topic.partition_id(index);
            if let Err(error) = store.delete(id).await {
                tracing::error!(topic = &*topic.name, index, "the partition's files are not gone yet: {error}");
            }
        }
    }
}
