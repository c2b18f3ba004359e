//! How questions reach the coordinator's shard and answers come back. Events carry both: a Join may wait for minutes,
//! and must not hold a call of the mesh so long.

use super::{Groups, Told};
use crate::broker::messages::Event as MeshEvent;
use crate::error_code::ErrorCode;
use crate::groups::{Client, Event, Request, Response, Token};
use crate::ids::PartitionId;
use coreline_io::sync::{OneshotSender, oneshot};
use coreline_io::{Runtime, TaskGroup};
use coreline_shards::ShardId;
use std::rc::Rc;

/// What shards say to each other about groups.
#[derive(Debug)]
pub enum GroupEvent {
    /// A question to the coordinator on the receiver's shard. Answered once, by `Told`.
    Ask {
        /// The sender's name for it, its own among those of all shards.
        token: Token,
        /// The coordinator's partition.
        partition: PartitionId,
        /// Who asks, and what.
        question: Box<(Client, Request)>,
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
        /// The answer, or why there is none.
        told: Box<Result<Response, ErrorCode>>,
    },
}

/// Where an answer goes.
#[derive(Debug)]
pub(super) enum Asker {
    /// To a handler of this shard.
    Here(OneshotSender<Told>),
    /// To another shard.
    There(ShardId),
}

impl<R: Runtime> Groups<R> {
    /// Asks the coordinator of a group.
    ///
    /// # Errors
    /// `NOT_COORDINATOR`, `COORDINATOR_LOAD_IN_PROGRESS`, `COORDINATOR_NOT_AVAILABLE`: there is no answer now.
    pub(crate) async fn ask(self: &Rc<Self>, group: &str, client: &Client, request: Request) -> Told {
        let (partition, shard) = self.find(group)?;
        self.ask_at(partition, shard, client, request).await
    }

    /// Asks the coordinator of a partition on a shard of this node.
    ///
    /// # Errors
    /// As [`Groups::ask`].
    pub(crate) async fn ask_at(
        self: &Rc<Self>,
        partition: PartitionId,
        shard: ShardId,
        client: &Client,
        request: Request,
    ) -> Told {
        if self.stopped.get() {
            return Err(ErrorCode::NotCoordinator);
        }
        let token = self.take_token();
        let (sender, receiver) = oneshot();
        let mut wanted = Wanted { groups: Rc::clone(self), token, partition, shard, answered: false };
        if shard == self.shard.id {
            self.submit(partition, token, Asker::Here(sender), client.clone(), request);
        } else {
            self.waiting.borrow_mut().insert(token, sender);
            let ask = GroupEvent::Ask { token, partition, question: Box::new((client.clone(), request)) };
            if self.shard.mesh.post(shard, MeshEvent::Group(ask)).await.is_err() {
                return Err(ErrorCode::NotCoordinator);
            }
        }
        let told = receiver.await;
        wanted.answered = true;
        // Nobody answers when the node stops.
        told.unwrap_or(Err(ErrorCode::NotCoordinator))
    }

    /// A token that no shard has given before.
    fn take_token(&self) -> Token {
        let next = self.next_token.get();
        self.next_token.set(next + 1);
        Token(u64::from(self.shard.id.0) << 48 | next)
    }

    /// News from another shard.
    pub fn on_event(self: &Rc<Self>, from: ShardId, event: GroupEvent) {
        match event {
            GroupEvent::Ask { token, partition, question } => {
                let (client, request) = *question;
                self.submit(partition, token, Asker::There(from), client, request);
            }
            GroupEvent::Gone { token, partition } => self.gone(partition, token),
            GroupEvent::Told { token, told } => {
                if let Some(sender) = self.waiting.borrow_mut().remove(&token) {
                    sender.send(*told);
                }
            }
        }
    }

    fn submit(self: &Rc<Self>, partition: PartitionId, token: Token, asker: Asker, client: Client, request: Request) {
        self.catch_up();
        let hosted = self.hosted.borrow().get(&partition).cloned();
        let Some(hosted) = hosted else { return self.answer(token, asker, Err(ErrorCode::NotCoordinator)) };
        match hosted.wait(token, asker) {
            Ok(()) => self.step(&hosted, Event::Request { token, client, request }),
            Err((asker, code)) => self.answer(token, asker, Err(code)),
        }
    }

    fn gone(self: &Rc<Self>, partition: PartitionId, token: Token) {
        let hosted = self.hosted.borrow().get(&partition).cloned();
        if let Some(hosted) = hosted
            && hosted.forget(token)
        {
            self.step(&hosted, Event::Gone(token));
        }
    }

    pub(super) fn answer(&self, token: Token, asker: Asker, told: Told) {
        match asker {
            Asker::Here(sender) => sender.send(told),
            Asker::There(shard) => self.post(shard, GroupEvent::Told { token, told: Box::new(told) }),
        }
    }

    fn post(&self, to: ShardId, event: GroupEvent) {
        let mesh = self.shard.mesh.clone();
        let _detached = self.shard.runtime.spawn(TaskGroup::Requests, "group-event", async move {
            // A closed mesh: the node stops, nobody waits any more.
            let _ = mesh.post(to, MeshEvent::Group(event)).await;
        });
    }
}

/// A question under way. When its handler is dropped, the coordinator hears of it.
struct Wanted<R: Runtime> {
    groups: Rc<Groups<R>>,
    token: Token,
    partition: PartitionId,
    shard: ShardId,
    answered: bool,
}

impl<R: Runtime> Drop for Wanted<R> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let (token, partition) = (self.token, self.partition);
        if self.shard == self.groups.shard.id {
            self.groups.gone(partition, token);
        } else {
            self.groups.waiting.borrow_mut().remove(&token);
            self.groups.post(self.shard, GroupEvent::Gone { token, partition });
        }
    }
}
