//! What shards say to each other. One request kind, one reply kind; the owner of a conversation names both.

use super::fatal::ExitReason;
use super::groups::GroupEvent;
use super::handlers::remote::{Ask, Told};
use super::metrics::ShardReport;
use super::relocation::{Step, Stepped};
use super::store::Isolation;
use super::transactions::TransactionEvent;
use crate::controller::balance::PartitionLoad;
use crate::controller::{ClusterImage, Command, CommandError, Outcome};
use crate::ids::{Offset, PartitionId};
use crate::latency::{Snapshot, Span};
use coreline_shards::{HandOff, MeshProtocol};
use std::sync::Arc;
use std::time::Duration;

/// The broker's side of the mesh.
#[derive(Debug)]
pub struct BrokerMesh;

/// A question from one shard to another.
#[derive(Debug)]
pub enum Request {
    /// To shard 0: change the metadata. Answered once every shard has the change.
    Submit(Command),
    /// From shard 0: the newest image. Answered once the shard's log obeys it.
    Publish(Arc<ClusterImage>),
    /// From shard 0, once, at start: open the log with this image and listen on this port.
    Start {
        /// The metadata as loaded.
        image: Arc<ClusterImage>,
        /// The port that shard 0 bound.
        port: u16,
    },
    /// From shard 0, once: all shards are ready, accept connections.
    Serve,
    /// To shard 0: move a partition to another shard.
    Move {
        /// Which.
        partition: PartitionId,
        /// Where to.
        to: u16,
    },
    /// From shard 0: a step of a move.
    Step(Step),
    /// The sizes of partitions of this shard.
    LogSizes(Vec<PartitionId>),
    /// How long requests took on the connections of this shard.
    Latencies {
        /// Of which time.
        span: Span,
        /// So many of the slowest.
        slowest: usize,
    },
    /// What partitions of this shard did since this was asked last.
    Activity,
    /// What metrics show of this shard.
    Report,
    /// About partitions of the shard that is asked.
    Data(Ask),
}

/// The answer to a [`Request`].
#[derive(Debug)]
pub enum Reply {
    /// To `Submit` and `Move`.
    Submitted(Result<Outcome, CommandError>),
    /// Done, to whatever has no better answer.
    Done,
    /// To `Start`: why this shard cannot.
    Failed {
        /// The process ends with its code.
        reason: ExitReason,
        /// Which shard it is, and what is wrong there.
        message: String,
    },
    /// To `Step`.
    Stepped(Stepped),
    /// To `LogSizes`: in bytes, those that could be read.
    LogSizes(Vec<(PartitionId, u64)>),
    /// To `Latencies`.
    Latencies(Snapshot),
    /// To `Activity`: those that did anything.
    Activity(Vec<(PartitionId, PartitionLoad)>),
    /// To `Report`.
    Report(Box<ShardReport>),
    /// To `Data`, where the answer has its times in it.
    Data(Told),
    /// To `Data`.
    Answered {
        /// The answer.
        told: Told,
        /// How long the shard that was asked took for it.
        took: Duration,
    },
}

/// One-way news.
#[derive(Debug)]
pub enum Event {
    /// A fetch of the sender waits for the end of one of these to go beyond what it saw. Told once, by
    /// `Fired`.
    Watch {
        /// The sender's name for it.
        id: u64,
        /// Partitions of the receiver.
        partitions: Vec<(PartitionId, Offset, Isolation)>,
    },
    /// It waits no more.
    Unwatch {
        /// As in `Watch`.
        id: u64,
    },
    /// What the receiver waits for has happened.
    Fired {
        /// As in `Watch`.
        id: u64,
    },
    /// A connection that goes on at the receiver.
    Connection(HandOff),
    /// About groups.
    Group(GroupEvent),
    /// About transactions.
    Transaction(TransactionEvent),
}

impl MeshProtocol for BrokerMesh {
    type Request = Request;
    type Reply = Reply;
    type Event = Event;
}
