//! How questions reach the coordinator's shard and answers come back. Events carry both: a Join may wait for minutes,
//! and must not hold a call of the mesh so long.

use super::kind::{Kind, Question};
use super::{Coordinators, Told};
use crate::broker::handlers::Way;
use crate::broker::store::CommitTimes;
use crate::coordinator::{Client, Token};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use crate::latency::{Flush, Stage, Timeline};
use coreline_io::sync::{OneshotReceiver, OneshotSender, oneshot};
use coreline_io::{Monotonic, Runtime, TaskGroup};
use coreline_shards::ShardId;
use std::rc::Rc;

/// What shards say to each other about coordinators: questions and answers.
#[derive(Debug)]
pub enum CoordinatorEvent<Q, A> {
    /// A question to the coordinator on the receiver's shard. Answered once, by `Told`.
    Ask {
        /// The sender's name for it, its own among those of all shards.
        token: Token,
        /// The coordinator's partition.
        partition: PartitionId,
        /// Who asks, and what.
        question: Box<Q>,
    },
    /// The answer is not wanted any more.
    Gone {
        /// As in `Ask`.
        token: Token,
        /// As in `Ask`.
        partition: PartitionId,
    },
    /// The answer to an `Ask` of the receiver.
    Told {
        /// As in `Ask`.
        token: Token,
        /// The answer.
        given: Box<Given<A>>,
    },
}

/// What a coordinator said, and when it came to that.
#[derive(Debug)]
pub struct Given<A> {
    /// The answer, or why there is none.
    pub told: Result<A, ErrorCode>,
    /// The question came to the coordinator's shard, if that is not the asker's.
    pub arrived: Monotonic,
    /// What the answer waited for in the coordinator's partition; all zero if for nothing.
    pub commit: CommitTimes,
    /// The answer went back to the asker's shard, if that is another.
    pub left: Monotonic,
}

/// A handler of this shard that appends to partitions of this shard what follows from its answer.
pub(super) struct Early<A> {
    /// Where.
    pub(super) partitions: Vec<PartitionId>,
    /// How much, at most.
    pub(super) bytes: usize,
    /// Appends it, if the answer is yes, in the call.
    pub(super) then: Box<dyn FnOnce(Result<A, ErrorCode>)>,
}

impl<A> std::fmt::Debug for Early<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Early").field("partitions", &self.partitions).finish_non_exhaustive()
    }
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Asker<A> {
    /// To a handler of this shard.
    Here(OneshotSender<Given<A>>),
    /// … which may have it before it is committed, if what it does then is joined to that.
    Early(Early<A>),
    /// To another shard; the question came at this time.
    There(ShardId, Monotonic),
}

impl<R: Runtime, K: Kind> Coordinators<R, K> {
    /// Asks the coordinator of a group or transaction.
    ///
    /// # Errors
    /// `NOT_COORDINATOR`, `COORDINATOR_LOAD_IN_PROGRESS`, `COORDINATOR_NOT_AVAILABLE`: there is no answer now.
    pub(crate) async fn ask(self: &Rc<Self>, id: &str, client: &Client, request: K::Request) -> Told<K> {
        let (partition, shard) = self.find(id)?;
        self.ask_at(partition, shard, client, request).await
    }

    /// Puts a question to the coordinator of a group or transaction; whoever puts two, one after the other, has them
    /// asked in that order.
    ///
    /// # Errors
    /// As [`Coordinators::ask`].
    pub(crate) async fn begin(
        self: &Rc<Self>,
        id: &str,
        client: &Client,
        request: K::Request,
    ) -> Result<Asked<R, K>, ErrorCode> {
        let (partition, shard) = self.find(id)?;
        self.begin_at(partition, shard, client, request).await
    }

    /// Asks the coordinator of a partition on a shard of this node.
    ///
    /// # Errors
    /// As [`Coordinators::ask`].
    pub(crate) async fn ask_at(
        self: &Rc<Self>,
        partition: PartitionId,
        shard: ShardId,
        client: &Client,
        request: K::Request,
    ) -> Told<K> {
        self.begin_at(partition, shard, client, request).await?.answer().await
    }

    /// Asks the coordinator of a partition on this shard, and does what follows from the answer: `then` appends to
    /// `partitions`, which are here, too, at most `bytes` in the call. It may be called before the answer is committed,
    /// and is joined to that: so none of the partitions may have other replicas, the coordinator's included. Gives what it
    /// gives; none when the node stops.
    pub(crate) async fn ask_early<T: 'static>(
        self: &Rc<Self>,
        partition: PartitionId,
        request: K::Request,
        (partitions, bytes): (Vec<PartitionId>, usize),
        then: impl FnOnce(Told<K>) -> T + 'static,
    ) -> Option<T> {
        if self.stopped.get() {
            return Some(then(Err(ErrorCode::NotCoordinator)));
        }
        let (token, shard) = (self.take_token(), self.shard.id);
        let (sender, receiver) = oneshot();
        let mut wanted = Wanted { coordinators: Rc::clone(self), token, partition, shard, answered: false };
        let then = Box::new(move |told| sender.send(then(told)));
        self.submit(partition, token, Asker::Early(Early { partitions, bytes, then }), (Client::default(), request));
        let done = receiver.await;
        wanted.answered = true;
        done
    }

    async fn begin_at(
        self: &Rc<Self>,
        partition: PartitionId,
        shard: ShardId,
        client: &Client,
        request: K::Request,
    ) -> Result<Asked<R, K>, ErrorCode> {
        if self.stopped.get() {
            return Err(ErrorCode::NotCoordinator);
        }
        let token = self.take_token();
        let (sender, receiver) = oneshot();
        let way = self.shard.meters.way();
        let wanted = Wanted { coordinators: Rc::clone(self), token, partition, shard, answered: false };
        let mut hopped = None;
        if shard == self.shard.id {
            self.submit(partition, token, Asker::Here(sender), (client.clone(), request));
        } else {
            hopped = Some(self.shard.runtime.now());
            self.waiting.borrow_mut().insert(token, sender);
            let ask = CoordinatorEvent::Ask { token, partition, question: Box::new((client.clone(), request)) };
            if self.shard.mesh.post(shard, K::mesh(ask)).await.is_err() {
                return Err(ErrorCode::NotCoordinator);
            }
        }
        Ok(Asked { receiver, wanted, way, hopped })
    }

    /// A token that no shard has given before.
    fn take_token(&self) -> Token {
        let next = self.next_token.get();
        self.next_token.set(next + 1);
        Token(u64::from(self.shard.id.0) << 48 | next)
    }

    /// News from another shard.
    pub(crate) fn on_event(self: &Rc<Self>, from: ShardId, event: CoordinatorEvent<Question<K>, K::Response>) {
        match event {
            CoordinatorEvent::Ask { token, partition, question } => {
                let asker = Asker::There(from, self.shard.runtime.now());
                self.submit(partition, token, asker, *question);
            }
            CoordinatorEvent::Gone { token, partition } => self.gone(partition, token),
            CoordinatorEvent::Told { token, given } => {
                if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                    sender.send(*given);
                }
            }
        }
    }

    fn submit(self: &Rc<Self>, partition: PartitionId, token: Token, asker: Asker<K::Response>, question: Question<K>) {
        self.catch_up();
        let hosted = self.hosted.borrow().get(&partition).cloned();
        let Some(hosted) = hosted else { return self.refuse_one(token, asker, ErrorCode::NotCoordinator) };
        match hosted.wait(token, asker) {
            Ok(()) => self.step(&hosted, K::request(token, question)),
            Err((asker, code)) => self.refuse_one(token, asker, code),
        }
    }

    fn gone(self: &Rc<Self>, partition: PartitionId, token: Token) {
        let hosted = self.hosted.borrow().get(&partition).cloned();
        if let Some(hosted) = hosted
            && hosted.forget(token)
        {
            self.step(&hosted, K::gone(token));
        }
    }

    pub(super) fn refuse_one(&self, token: Token, asker: Asker<K::Response>, code: ErrorCode) {
        self.answer(token, asker, Err(code), CommitTimes::default());
    }

    /// `commit`: what the answer has waited for.
    pub(super) fn answer(&self, token: Token, asker: Asker<K::Response>, told: Told<K>, commit: CommitTimes) {
        let given = |told, arrived, left| Given { told, arrived, commit, left };
        match asker {
            Asker::Here(sender) => sender.send(given(told, Monotonic::default(), Monotonic::default())),
            Asker::Early(early) => (early.then)(told),
            Asker::There(shard, arrived) => {
                let given = Box::new(given(told, arrived, self.shard.runtime.now()));
                self.post(shard, CoordinatorEvent::Told { token, given });
            }
        }
    }

    fn post(&self, to: ShardId, event: CoordinatorEvent<Question<K>, K::Response>) {
        let mesh = self.shard.mesh.clone();
        let _detached = self.shard.runtime.spawn(TaskGroup::Requests, "coordinator-event", async move {
            // A closed mesh: the node stops, nobody waits any more.
            let _ = mesh.post(to, K::mesh(event)).await;
        });
    }
}

/// A question that the coordinator has, or will have before those put after it.
pub(crate) struct Asked<R: Runtime, K: Kind> {
    receiver: OneshotReceiver<Given<K::Response>>,
    wanted: Wanted<R, K>,
    /// Of the request whose handler asks.
    way: Option<Rc<Way>>,
    /// When it went to another shard.
    hopped: Option<Monotonic>,
}

impl<R: Runtime, K: Kind> Asked<R, K> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// As [`Coordinators::ask`].
    pub(crate) async fn answer(self) -> Told<K> {
        let way = self.way.clone();
        let (told, stages) = self.timed_answer().await;
        if let (Some(way), Some(stages)) = (way, stages) {
            way.asked(&stages);
        }
        told
    }

    /// … and says where the time went, if it was given.
    pub(crate) async fn timed_answer(self) -> (Told<K>, Option<AskStages>) {
        let Self { receiver, mut wanted, way: _, hopped } = self;
        let given = receiver.await;
        wanted.answered = true;
        // Nobody answers when the node stops.
        let Some(Given { told, arrived, commit, left }) = given else { return (Err(ErrorCode::NotCoordinator), None) };
        let hop = hopped.map(|asked| Hop { asked, arrived, left, back: wanted.coordinators.shard.runtime.now() });
        (told, Some(AskStages { hop, commit, shard: wanted.shard }))
    }
}

/// Where the time went between a question and its answer.
pub(crate) struct AskStages {
    hop: Option<Hop>,
    commit: CommitTimes,
    /// The coordinator's.
    shard: ShardId,
}

struct Hop {
    asked: Monotonic,
    arrived: Monotonic,
    left: Monotonic,
    back: Monotonic,
}

impl AskStages {
    /// Writes them into a request's timeline; what is none of them is `work`. Of several that were asked at a time the
    /// slowest counts.
    pub(crate) fn mark(&self, timeline: &mut Timeline, work: Stage) {
        if let Some(Hop { asked, arrived, .. }) = &self.hop {
            timeline.mark(work, asked.nanos);
            timeline.mark(Stage::Hop, arrived.nanos);
        }
        let CommitTimes { entered, began, done, group, partitions, bytes } = self.commit;
        if done > began {
            timeline.mark(work, entered.nanos);
            timeline.mark(Stage::Journal, began.nanos);
            timeline.mark(Stage::Device, done.nanos);
            let nanos = done.nanos - began.nanos;
            timeline.waited_on(Flush { shard: self.shard.0, group, partitions, bytes, nanos });
        }
        if let Some(Hop { left, back, .. }) = &self.hop {
            timeline.mark(work, left.nanos);
            timeline.mark(Stage::Hop, back.nanos);
        }
    }
}

/// A question under way. When its handler is dropped, the coordinator hears of it.
struct Wanted<R: Runtime, K: Kind> {
    coordinators: Rc<Coordinators<R, K>>,
    token: Token,
    partition: PartitionId,
    shard: ShardId,
    answered: bool,
}

impl<R: Runtime, K: Kind> Drop for Wanted<R, K> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (token, partition) = (self.token, self.partition);
        if self.shard == self.coordinators.shard.id {
            self.coordinators.gone(partition, token);
        } else {
            self.coordinators.waiting.borrow_mut().remove(&token);
            self.coordinators.post(self.shard, CoordinatorEvent::Gone { token, partition });
        }
    }
}
