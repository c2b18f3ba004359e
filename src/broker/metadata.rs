//! This shard's door to the cluster's metadata: the newest image, and commands to change it.

use super::messages::{BrokerMesh, Reply, Request};
use crate::controller::{ClusterImage, Command, CommandError, Outcome};
use crate::error_code::ErrorCode;
use coreline_io::sync::Notify;
use coreline_shards::{Mesh, ShardId};
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

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
