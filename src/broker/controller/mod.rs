//! The driver of the metadata: on shard 0, commands become records, records are committed through Raft, and every
//! shard gets the new image before the command is answered.
//!
//! Commands that wait are judged and committed together: one entry, one write, one flush, one image.

mod log;
mod meta_properties;
mod obey;
#[cfg(test)]
mod tests;

use super::fatal::{ExitReason, FatalHandler};
use super::messages::{BrokerMesh, Request};
use super::metadata::ControllerHandle;
use crate::config::BrokerConfig;
use crate::controller::commands::{Command, CommandError, Context, Outcome, evaluate};
use crate::controller::raft_node::{Effect, Input, NotLeader, Proposed, RaftNode, RaftOptions};
use crate::controller::records::{decode_records, encode_records};
use crate::controller::{ClusterImage, MetadataRecord};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::log::partition_metadata;
use bytes::Bytes;
use coreline_io::sync::{Notify, OneshotSender, oneshot};
use coreline_io::{IoError, IoErrorKind, Runtime, TaskGroup};
use coreline_shards::{Mesh, ShardId};
use futures_util::future::LocalBoxFuture;
use log::MetadataLog;
pub use obey::apply_image;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

/// A log of this size gives way to a snapshot.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// Commands that are committed together, at most.
const BATCH_MAX: usize = 1024;

/// Why the metadata does not open.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The disk's.
    #[error(transparent)]
    Io(#[from] IoError),
    /// What is there is damaged.
    #[error("{0}")]
    Damaged(String),
    /// The data directory is another node's.
    #[error("{0}")]
    Foreign(String),
}

type Answer = Result<Outcome, CommandError>;
type Apply = Rc<dyn Fn(Arc<ClusterImage>) -> LocalBoxFuture<'static, ()>>;

/// Where images go once all shards are there.
struct Audience {
    mesh: Mesh<BrokerMesh>,
    local: Apply,
}

/// Who waits, and what they are told once the records are committed.
type Judged = (OneshotSender<Answer>, Outcome);

/// A command that waits for its turn.
struct Waiting {
    command: Command,
    answer: OneshotSender<Answer>,
}

/// The controller of this node. Lives on shard 0.
#[derive(Default)]
pub struct Controller {
    waiting: RefCell<Vec<Waiting>>,
    arrived: Notify,
    audience: RefCell<Option<Rc<Audience>>>,
    stopped: Cell<bool>,
    /// The committer has returned: everything that was answered is on the disk.
    ended: Cell<bool>,
    idle: Notify,
}

impl std::fmt::Debug for Controller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controller").field("stopped", &self.stopped).finish_non_exhaustive()
    }
}

impl Controller {
    /// Loads the metadata, formats a fresh data directory, and leads the quorum of one.
    ///
    /// # Errors
    /// The disk's, or damage.
    pub async fn open<R: Runtime>(
        runtime: R,
        config: Arc<BrokerConfig>,
        fatal: FatalHandler,
    ) -> Result<(Rc<Self>, ControllerHandle), ControllerError> {
        Self::open_with(runtime, config, fatal, LOG_BYTES_MAX).await
    }

    async fn open_with<R: Runtime>(
        runtime: R,
        config: Arc<BrokerConfig>,
        fatal: FatalHandler,
        log_bytes_max: u64,
    ) -> Result<(Rc<Self>, ControllerHandle), ControllerError> {
        let controller = Rc::new(Self::default());
        let (log, durable) = MetadataLog::load(&runtime, &config.data_dir).await?;
        let image = log::image_of(&durable, log.directory())?;
        let id = voter(config.node_id);
        let options = RaftOptions { id, voters: vec![id], seed: runtime.next_u64() };
        let node = RaftNode::new(options, durable)
            .map_err(|e| ControllerError::Damaged(format!("{}: {e}", log.directory().display())))?;
        let image = Arc::new(image);
        let mut committer = Committer { runtime, config, fatal, log, node, image, log_bytes_max };
        committer.lead().await?;
        committer.format().await?;
        let submitter = controller.clone();
        let handle = ControllerHandle::new(committer.image.clone(), move |command| {
            let controller = submitter.clone();
            Box::pin(async move { controller.enqueue(command).await })
        });
        let (runtime, queue, publisher) = (committer.runtime.clone(), controller.clone(), handle.clone());
        runtime.spawn(TaskGroup::Replication, "controller", async move {
            committer.run(&queue, &publisher).await;
            queue.end();
        });
        Ok((controller, handle))
    }

    /// From now on, every image goes to all shards: to this one through `local`, to the others through the mesh.
    pub fn run(&self, mesh: Mesh<BrokerMesh>, local: Apply) {
        *self.audience.borrow_mut() = Some(Rc::new(Audience { mesh, local }));
    }

    /// Takes no more commands and waits until the last one is answered.
    pub async fn shutdown(&self) {
        self.stopped.set(true);
        self.arrived.notify_all();
        while !self.ended.get() {
            self.idle.notified().await;
        }
    }

    async fn enqueue(&self, command: Command) -> Answer {
        let stopping = || CommandError::new(ErrorCode::NotController, "The node is stopping.");
        if self.stopped.get() || self.ended.get() {
            return Err(stopping());
        }
        let (answer, answered) = oneshot();
        self.waiting.borrow_mut().push(Waiting { command, answer });
        self.arrived.notify_all();
        answered.await.unwrap_or_else(|| Err(stopping()))
    }

    /// The next commands; none when the node stops and all are done.
    async fn next_batch(&self) -> Option<Vec<Waiting>> {
        loop {
            {
                let mut waiting = self.waiting.borrow_mut();
                if !waiting.is_empty() {
                    let count = batch_len(waiting.iter().map(|w| &w.command));
                    return Some(waiting.drain(..count).collect());
                }
            }
            if self.stopped.get() {
                return None;
            }
            self.arrived.notified().await;
        }
    }

    fn end(&self) {
        self.ended.set(true);
        // Dropped unanswered: their senders are told that the node is stopping.
        drop(std::mem::take(&mut *self.waiting.borrow_mut()));
        self.idle.notify_all();
    }
}

/// How many commands make a batch. A topic does not come in the batch in which one goes: they may have the same name,
/// and the directory that one shard is to remove would be the one that another has just made.
fn batch_len<'a>(commands: impl Iterator<Item = &'a Command>) -> usize {
    let mut deletes = false;
    let together = |command: &&Command| {
        deletes |= matches!(command, Command::DeleteTopics { .. });
        !(deletes && matches!(command, Command::CreateTopics { .. }))
    };
    commands.take(BATCH_MAX).take_while(together).count()
}

/// What commits. Owned by one task.
struct Committer<R: Runtime> {
    runtime: R,
    config: Arc<BrokerConfig>,
    fatal: FatalHandler,
    log: MetadataLog<R>,
    node: RaftNode,
    /// Everything committed.
    image: Arc<ClusterImage>,
    log_bytes_max: u64,
}

/// A proposal on its way, and the image there will be.
struct Pending {
    proposed: Proposed,
    image: ClusterImage,
}

/// A batch that was not committed.
enum CommitError {
    /// Nothing of it was written; the disk has no room.
    Full,
    /// Nothing of it was written; another voter leads.
    NotLeader(NotLeader),
    /// What was on its way to the disk may be there or not: only a restart can tell.
    InDoubt(IoError),
}

impl<R: Runtime> Committer<R> {
    async fn run(&mut self, queue: &Controller, handle: &ControllerHandle) {
        while let Some(batch) = queue.next_batch().await {
            let (records, image, answers) = self.judge(batch);
            match self.commit(&records, image).await {
                Ok(false) => {}
                Ok(true) => {
                    self.tell_everyone(queue, handle).await;
                    self.snapshot_if_large().await;
                }
                Err(CommitError::InDoubt(error)) => {
                    let message = format!("the metadata log cannot be written: {error}");
                    (self.fatal)(ExitReason::MetadataFailed, &message);
                    return;
                }
                Err(refusal) => {
                    let refusal = refusal.for_client();
                    answers.into_iter().for_each(|(answer, _)| answer.send(Err(refusal.clone())));
                    continue;
                }
            }
            answers.into_iter().for_each(|(answer, outcome)| answer.send(Ok(outcome)));
        }
    }

    /// Judges commands one after the other, each on the image that those before it make.
    fn judge(&self, batch: Vec<Waiting>) -> (Vec<MetadataRecord>, ClusterImage, Vec<Judged>) {
        let mut image = ClusterImage::clone(&self.image);
        let (mut all, mut answers) = (Vec::new(), Vec::with_capacity(batch.len()));
        let mut random = || self.runtime.next_u64();
        let mut context = Context {
            num_partitions: self.config.num_partitions,
            replication_factor: self.config.default_replication_factor,
            delete_topics: self.config.delete_topics,
            random: &mut random,
        };
        for Waiting { command, answer } in batch {
            let (records, outcome) = evaluate(&image, &command, &mut context);
            records.iter().for_each(|r| image.apply(r));
            all.extend(records);
            answers.push((answer, outcome));
        }
        (all, image, answers)
    }

    /// Commits records; `image` is what they make. False if there was nothing to commit.
    async fn commit(&mut self, records: &[MetadataRecord], image: ClusterImage) -> Result<bool, CommitError> {
        if records.is_empty() {
            return Ok(false);
        }
        let data = encode_records(records);
        let vital = records.iter().all(|r| matches!(r, MetadataRecord::BrokerRegistered { .. }));
        match self.log.reserve(data.len(), vital).await {
            Ok(()) => {}
            Err(error) if error.kind == IoErrorKind::StorageFull => {
                tracing::error!("metadata cannot change: {error}");
                return Err(CommitError::Full);
            }
            Err(error) => return Err(CommitError::InDoubt(error)),
        }
        let mut effects = Vec::new();
        let proposed = self.node.propose(data, &mut effects).map_err(CommitError::NotLeader)?;
        let mut pending = Some(Pending { proposed, image });
        self.carry_out(effects, &mut pending).await.map_err(CommitError::InDoubt)?;
        assert!(pending.is_none(), "a quorum of one commits what its disk has");
        Ok(true)
    }

    /// Does what the voter asks for, until it asks for nothing.
    async fn carry_out(&mut self, mut effects: Vec<Effect>, pending: &mut Option<Pending>) -> Result<(), IoError> {
        while !effects.is_empty() {
            let mut next = Vec::new();
            for effect in effects {
                match effect {
                    Effect::Persist(persist) => {
                        self.log.append(&persist).await?;
                        self.node.step(Input::Persisted(persist.number), &mut next);
                    }
                    Effect::Apply { index, term, data } => {
                        let ours = pending.take_if(|p| p.proposed == Proposed { index, term });
                        self.apply(index, data, ours);
                    }
                    Effect::Send(_) | Effect::Restore(_) => unreachable!("a quorum of one has no peers"),
                }
            }
            effects = next;
        }
        Ok(())
    }

    fn apply(&mut self, index: u64, data: Bytes, ours: Option<Pending>) {
        let mut image = match ours {
            Some(pending) => pending.image,
            None => {
                let mut image = ClusterImage::clone(&self.image);
                let records = decode_records(data).expect("checked when it was read from the disk");
                records.iter().for_each(|r| image.apply(r));
                image
            }
        };
        image.index = index;
        self.image = Arc::new(image);
    }

    /// A shard that is gone is stopping, and all others with it: its answer is not waited for in vain.
    async fn tell_everyone(&self, queue: &Controller, handle: &ControllerHandle) {
        let audience = queue.audience.borrow().clone();
        let Some(audience) = audience else {
            handle.publish(self.image.clone());
            return;
        };
        let mut answers = Vec::new();
        for shard in ShardId::all(audience.mesh.count()).filter(|s| *s != audience.mesh.me()) {
            if let Ok(permit) = audience.mesh.reserve(shard).await {
                answers.push(permit.call(Request::Publish(self.image.clone())));
            }
        }
        (audience.local)(self.image.clone()).await;
        for answer in answers {
            let _ = answer.await;
        }
    }

    /// A large log gives way to a snapshot.
    async fn snapshot_if_large(&mut self) {
        if self.log.bytes() < self.log_bytes_max {
            return;
        }
        let records = encode_records(&self.image.to_records());
        let (snapshot, entries, hard_state) = self.node.compact(self.image.index, records);
        match self.log.replace(&snapshot, &entries, &hard_state).await {
            Ok(()) => {}
            Err(error) if error.kind == IoErrorKind::StorageFull => {
                tracing::warn!("no snapshot of the metadata, the log grows on: {error}");
            }
            Err(error) => {
                let message = format!("the metadata snapshot cannot be written: {error}");
                (self.fatal)(ExitReason::MetadataFailed, &message);
            }
        }
    }

    /// Becomes leader and applies what the log holds: nobody else can, so nothing is waited for.
    async fn lead(&mut self) -> Result<(), ControllerError> {
        self.log.reserve(0, true).await?;
        let mut effects = Vec::new();
        self.node.step(Input::Campaign, &mut effects);
        self.carry_out(effects, &mut None).await?;
        assert!(self.node.leads(), "a quorum of one elects itself");
        Ok(())
    }

    /// Gives a fresh data directory its ids, and checks those of an old one.
    async fn format(&mut self) -> Result<(), ControllerError> {
        let known = self.image.cluster_id.clone();
        let found = meta_properties::read(&self.runtime, &self.config, &known).await?;
        if known.is_empty() {
            let record = MetadataRecord::ClusterFormatted { cluster_id: self.random_id() };
            let mut image = ClusterImage::clone(&self.image);
            image.apply(&record);
            if let Err(error) = self.commit(&[record], image).await {
                return Err(error.for_start(self.log.directory()));
            }
        }
        if !found {
            let (cluster_id, directory_id) = (self.image.cluster_id.clone(), self.random_id());
            meta_properties::write(&self.runtime, &self.config, &cluster_id, &directory_id).await?;
        }
        Ok(())
    }

    fn random_id(&self) -> String {
        loop {
            let bytes = Uuid::from_u64_pair(self.runtime.next_u64(), self.runtime.next_u64()).into_bytes();
            let id = partition_metadata::encode_id(TopicId(uuid::Builder::from_random_bytes(bytes).into_uuid()));
            // As Kafka: no id that looks like an option on a command line.
            if !id.starts_with('-') {
                return id;
            }
        }
    }
}

impl CommitError {
    fn for_client(&self) -> CommandError {
        match self {
            Self::Full => CommandError::new(
                ErrorCode::KafkaStorageError,
                "The disk is full: the metadata cannot change until there is room.",
            ),
            Self::NotLeader(e) => CommandError::new(ErrorCode::NotController, e.to_string()),
            Self::InDoubt(e) => CommandError::new(ErrorCode::UnknownServerError, e.to_string()),
        }
    }

    fn for_start(self, directory: &std::path::Path) -> ControllerError {
        match self {
            Self::InDoubt(error) => ControllerError::Io(error),
            other => ControllerError::Damaged(format!("{}: {}", directory.display(), other.for_client().message)),
        }
    }
}

/// Node ids begin at 0, voters' ids at 1.
fn voter(node_id: i32) -> u64 {
    u64::try_from(node_id).expect("a node id is not negative") + 1
}
