//! This shard's door to the cluster's metadata: the newest image, and commands to change it.

use super::messages::{BrokerMesh, Reply, Request};
use crate::controller::{ClusterImage, Command, CommandError, Outcome};
use crate::error_code::ErrorCode;
use coreline_io::Runtime;
use coreline_io::sync::Notify;
use coreline_shards::{Mesh, ShardId};
use futures_util::future::{Either, LocalBoxFuture, select};
use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The shard that runs the controller.
pub const CONTROLLER_SHARD: ShardId = ShardId(0);

type Submit = Rc<dyn Fn(Command) -> LocalBoxFuture<'static, Result<Outcome, CommandError>>>;

/// The newest image that this shard has, and the way to the controller. Clones share it.
#[derive(Clone)]
pub struct ControllerHandle(Rc<Inner>);

struct Inner {
    image: RefCell<Arc<ClusterImage>>,
    changed: Notify,
    submit: Submit,
}

impl std::fmt::Debug for ControllerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerHandle").field("index", &self.0.image.borrow().index).finish_non_exhaustive()
    }
}

impl ControllerHandle {
    /// A handle whose commands go to `submit`: on the controller's own shard.
    #[must_use]
    pub fn new(
        image: Arc<ClusterImage>,
        submit: impl Fn(Command) -> LocalBoxFuture<'static, Result<Outcome, CommandError>> + 'static,
    ) -> Self {
        let inner = Inner { image: RefCell::new(image), changed: Notify::default(), submit: Rc::new(submit) };
        Self(Rc::new(inner))
    }

    /// A handle on another shard: commands cross the mesh.
    #[must_use]
    pub fn remote(image: Arc<ClusterImage>, mesh: Mesh<BrokerMesh>) -> Self {
        Self::new(image, move |command| {
            let mesh = mesh.clone();
            Box::pin(async move {
                match mesh.call(CONTROLLER_SHARD, Request::Submit(command)).await {
                    Ok(Reply::Submitted(result)) => result,
                    Ok(other) => unreachable!("a command is answered with its outcome, not {other:?}"),
                    Err(_) => Err(CommandError::new(ErrorCode::NotController, "The node is stopping.")),
                }
            })
        })
    }

    /// The newest image on this shard.
    #[must_use]
    pub fn image(&self) -> Arc<ClusterImage> {
        self.0.image.borrow().clone()
    }

    /// Submits a command; answered once it is committed and every shard obeys it.
    ///
    /// # Errors
    /// `NOT_CONTROLLER` when there is no controller to take it; errors of single topics are in the outcome.
    pub async fn submit(&self, command: Command) -> Result<Outcome, CommandError> {
        let submitted = (self.0.submit)(command);
        submitted.await
    }

    /// [`submit`](Self::submit) for a request that says how long it waits.
    ///
    /// # Errors
    /// `REQUEST_TIMED_OUT` when it is not done by then; it may be done later, as in Kafka.
    pub async fn submit_within<R: Runtime>(
        &self,
        runtime: &R,
        command: Command,
        timeout_ms: i32,
    ) -> Result<Outcome, CommandError> {
        let timeout = Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0));
        match select(pin!(self.submit(command)), pin!(runtime.sleep(timeout))).await {
            Either::Left((done, _)) => done,
            Either::Right(_) => {
                let message =
                    format!("not done within {timeout_ms} ms (timeout.ms of the request); it may be done later");
                Err(CommandError::new(ErrorCode::RequestTimedOut, message))
            }
        }
    }

    /// Takes a newer image. An older one is ignored: images may come twice.
    pub fn publish(&self, image: Arc<ClusterImage>) {
        {
            let mut now = self.0.image.borrow_mut();
            if image.index < now.index {
                return;
            }
            *now = image;
        }
        self.0.changed.notify_all();
    }

    /// Waits for the next image.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coreline_io::Clock as _;
    use coreline_io::sim::{SimOptions, SimWorld};

    #[test]
    fn a_command_that_takes_longer_than_its_request_waits_is_timed_out() {
        let world = SimWorld::new(1, SimOptions::default());
        let runtime = world.node("broker").runtime();
        let slow = runtime.clone();
        let handle = ControllerHandle::new(Arc::default(), move |_| {
            let done = slow.sleep(Duration::from_millis(20));
            Box::pin(async move {
                done.await;
                Ok(Outcome::Topics(Vec::new()))
            })
        });
        world.block_on(async {
            let command = || Command::DeleteTopics { topics: Vec::new() };
            assert!(handle.submit_within(&runtime, command(), 30).await.is_ok());
            for timeout_ms in [19, 0, -1] {
                let answer = handle.submit_within(&runtime, command(), timeout_ms).await;
                assert_eq!(answer.unwrap_err().code, ErrorCode::RequestTimedOut, "{timeout_ms} ms");
            }
        });
    }
}
