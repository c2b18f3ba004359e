//! A partition moves from one shard to another while clients use it: they wait a little, and see nothing.
//!
//! ```text
//! shard 0                          every shard                 A, that has p              B, that gets p
//! Close(p)                     →   new requests for p wait; those that came before are through
//! HandOver(p)                  →                               all of p in segments,
//!                                                              its journal forgets p
//! Expect(p)                    →                                                          what goes along
//! record: p is B's, new image  →   obeyed, published                                      opens p when asked
//! TakeOver(p)                  →                                                          loads p
//! Open(p)                      →   who waited asks B
//! ```
//! Nothing of p is under way when its owner changes, so nothing has to be forwarded, and the order of a connection's requests
//! stays what it was. If a step fails or takes too long A keeps p. The record is the one moment at which p changes its owner: a
//! crash before it leaves p with A, a crash after it with B, and all of p is in its segments either way.

use super::handlers::Handlers;
use super::messages::{Reply, Request};
use super::metadata::CONTROLLER_SHARD;
use super::shard::{Shard, topic_config};
use super::store::Handed;
use crate::controller::commands::may_move;
use crate::controller::{Command, CommandError, Outcome};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use coreline_io::{Runtime, TaskGroup};
use coreline_shards::ShardId;
use futures_util::future::{Either, join_all, select};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Requests that are under way are waited for so long; then the partition stays where it is.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A step of a move, on one shard.
#[derive(Debug)]
pub enum Step {
    /// Keep new requests away from a partition. Answered once the shard that has it heard all that was sent before.
    Close {
        /// Which.
        partition: PartitionId,
        /// Who has it.
        owner: ShardId,
    },
    /// To whoever may be asked: what was sent before this has arrived.
    Arrived,
    /// To its owner: bring everything of it into segments, and let go of it.
    HandOver(PartitionId),
    /// To its owner of before: it stays, if it was handed over already.
    TakeBack(PartitionId),
    /// To its new owner, before the image says so: what it gets with the partition. Ends of transactions come as soon as it does.
    Expect(PartitionId, Box<Handed>),
    /// To its new owner, once the image says so.
    TakeOver(PartitionId),
    /// The move is over, one way or the other.
    Open(PartitionId),
}

/// What became of a [`Step`]; of all but `HandOver` it is done.
pub type Stepped = Result<Option<Box<Handed>>, CommandError>;

/// Moves a partition, from whatever shard it is asked: answered once its new owner has loaded it.
///
/// # Errors
/// As [`may_move`]; `REQUEST_TIMED_OUT` when another partition is being moved or this one is not given up in time,
/// `KAFKA_STORAGE_ERROR` when its owner cannot flush it. It stays where it was.
pub async fn relocate<R: Runtime>(shard: &Rc<Shard<R>>, partition: PartitionId, to: u16) -> Result<(), CommandError> {
    if shard.id == CONTROLLER_SHARD {
        return lead(shard, partition, to).await;
    }
    match shard.mesh.call(CONTROLLER_SHARD, Request::Move { partition, to }).await {
        Ok(Reply::Submitted(Ok(Outcome::Moved(moved)))) => moved,
        Ok(other) => unreachable!("a move is answered as moved or not, not with {other:?}"),
        Err(_) => Err(stopping()),
    }
}

fn timed_out(partition: PartitionId) -> CommandError {
    let message = format!("requests for {partition} were under way for longer than {CLOSE_WITHIN:?}");
    CommandError::new(ErrorCode::RequestTimedOut, message)
}

fn stopping() -> CommandError {
    CommandError::new(ErrorCode::NotController, "The node is stopping.")
}

/// Leads a move, on the controller's shard.
pub(super) async fn lead<R: Runtime>(
    shard: &Rc<Shard<R>>,
    partition: PartitionId,
    to: u16,
) -> Result<(), CommandError> {
    let owner = ShardId(may_move(&shard.image(), partition, to)?);
    // A task of its own: whoever asked may go away in the middle.
    let leader = Rc::clone(shard);
    let leading = shard.runtime.spawn(TaskGroup::Requests, "move partition", async move {
        let Some(_turn) = leader.moves.try_acquire(1) else {
            let message = "another partition is being moved: one moves at a time, try again";
            return Err(CommandError::new(ErrorCode::RequestTimedOut, message));
        };
        let moved = carry_out(&leader, partition, owner, to).await;
        tell_all(&leader, || Step::Open(partition)).await;
        match &moved {
            Ok(()) => tracing::info!(%partition, from = %owner, to, "partition moved"),
            Err(error) => tracing::warn!(%partition, from = %owner, to, %error, "partition was not moved"),
        }
        moved
    });
    leading.await
}

async fn carry_out<R: Runtime>(
    shard: &Rc<Shard<R>>,
    partition: PartitionId,
    owner: ShardId,
    to: u16,
) -> Result<(), CommandError> {
    let closing = tell_all(shard, || Step::Close { partition, owner });
    match select(pin!(closing), pin!(shard.runtime.sleep(CLOSE_WITHIN))).await {
        Either::Left((true, _)) => {}
        Either::Left((false, _)) => return Err(stopping()),
        Either::Right(_) => return Err(timed_out(partition)),
    }
    let handed = tell(shard, owner, Step::HandOver(partition)).await?.expect("what is handed over goes along");
    tell(shard, ShardId(to), Step::Expect(partition, handed)).await?;
    let committed = match shard.controller.submit(Command::MovePartition { partition, to }).await {
        Ok(Outcome::Moved(result)) => result,
        Ok(other) => unreachable!("a move is answered as moved or not, not with {other:?}"),
        Err(error) => Err(error),
    };
    if let Err(error) = committed {
        tell(shard, owner, Step::TakeBack(partition)).await?;
        return Err(error);
    }
    // It is B's whether this arrives or not: only a node that stops keeps it back.
    let _ = tell(shard, ShardId(to), Step::TakeOver(partition)).await;
    Ok(())
}

async fn tell<R: Runtime>(shard: &Rc<Shard<R>>, to: ShardId, step: Step) -> Stepped {
    match shard.mesh.call(to, Request::Step(step)).await {
        Ok(Reply::Stepped(stepped)) => stepped,
        Ok(other) => unreachable!("a step of a move is answered as such, not with {other:?}"),
        Err(_) => Err(stopping()),
    }
}

/// False if one of them is gone: the node stops.
async fn tell_all<R: Runtime>(shard: &Rc<Shard<R>>, step: impl Fn() -> Step) -> bool {
    let told = join_all(ShardId::all(shard.shards).map(|to| tell(shard, to, step()))).await;
    told.iter().all(Result::is_ok)
}

impl<R: Runtime> Handlers<R> {
    /// Takes a step of a move.
    pub(super) async fn step(&self, step: Step) -> Stepped {
        let shard = self.shard();
        let (passage, store) = (&shard.passage, &shard.store);
        match step {
            Step::Close { partition, owner } => {
                passage.close(partition);
                passage.drained().await;
                // Messages keep their order: what was sent before has arrived when this is answered.
                tell(shard, owner, Step::Arrived).await?;
            }
            Step::Arrived => {}
            Step::HandOver(partition) => return self.hand_over(partition).await,
            Step::TakeBack(partition) => {
                store.take_back(partition);
                self.obey_again(partition);
                // With what would have gone along; a load that fails is tried again without.
                drop(store.load_end_offsets(partition).await);
            }
            Step::Expect(partition, handed) => store.expect(partition, *handed),
            Step::TakeOver(partition) => drop(store.load_end_offsets(partition).await),
            Step::Open(partition) => {
                store.move_is_over(partition);
                passage.open(partition);
            }
        }
        Ok(None)
    }

    async fn hand_over(&self, partition: PartitionId) -> Stepped {
        let shard = self.shard();
        let Some(withdrawn) = shard.store.withdraw(partition) else {
            let message = format!("partition {partition} is not on this core any more");
            return Err(CommandError::new(ErrorCode::UnknownTopicOrPartition, message));
        };
        // What another shard had asked for, on behalf of a client that has gone.
        let (drained, too_long) = (pin!(shard.passage.answered()), pin!(shard.runtime.sleep(CLOSE_WITHIN)));
        if let Either::Right(_) = select(drained, too_long).await {
            shard.store.put_back(withdrawn);
            self.obey_again(partition);
            return Err(timed_out(partition));
        }
        let handed = shard.store.hand_over(withdrawn).await;
        match &handed {
            // They read again, and wait at the passage.
            Ok(_) => self.partition_left(partition),
            Err(_) => self.obey_again(partition),
        }
        handed
            .map(|handed| Some(Box::new(handed)))
            .map_err(|error| CommandError::new(ErrorCode::KafkaStorageError, error.to_string()))
    }

    /// A partition that stays obeys what its topic's settings became while nobody found it.
    fn obey_again(&self, id: PartitionId) {
        let shard = self.shard();
        let image = shard.image();
        if let Some(topic) = image.topic_by_id(id.topic)
            && shard.store.has(id)
        {
            shard.store.reconfigure(id, Arc::new(topic_config(&shard.config, &image, topic).0));
        }
    }
}
