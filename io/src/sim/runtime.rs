//! The handle a shard of a simulated node holds: clock, entropy, tasks. Disk and network are in their own files.

use super::core::Core;
use super::node::NodeState;
use super::rng::nanos_of;
use crate::{Clock, Counters, Entropy, IoError, JoinHandle, Meter, Monotonic, TaskGroup, Tasks};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// The runtime of one simulated process. Clones share its disk, its network and its death: after a crash of the
/// node, everything asked of an old handle fails or is dropped; take a new one after [`super::SimNode::restart`].
#[derive(Clone)]
pub struct SimRuntime {
    pub(super) core: Rc<Core>,
    pub(super) node: Rc<NodeState>,
    pub(super) incarnation: u64,
}

impl std::fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimRuntime({}, incarnation {})", self.node.name, self.incarnation)
    }
}

impl SimRuntime {
    /// Whether the process of this handle still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.node.is_alive(self.incarnation)
    }

    /// The address of the node.
    #[must_use]
    pub fn ip(&self) -> std::net::IpAddr {
        self.node.ip()
    }

    /// What a call on behalf of a dead process gets, if anybody outside the process still makes one.
    pub(super) fn dead(&self, operation: &'static str) -> IoError {
        IoError::new(operation, std::io::Error::other(format!("node {} crashed", self.node.name)))
    }
}

impl Clock for SimRuntime {
    fn now(&self) -> Monotonic {
        self.core.now()
    }

    fn wall_ms(&self) -> i64 {
        let elapsed_ms = (self.core.now().nanos / 1_000_000) as i64;
        self.core.options.wall_ms_start + elapsed_ms + self.node.wall_offset_ms.get()
    }

    fn sleep(&self, duration: Duration) -> impl Future<Output = ()> + 'static {
        let slack = self.core.rng.nanos(&(Duration::ZERO..=self.core.options.timer_slack));
        self.core.sleep(nanos_of(duration).saturating_add(slack))
    }
}

impl Entropy for SimRuntime {
    fn next_u64(&self) -> u64 {
        self.node.rng.next_u64()
    }
}

impl Tasks for SimRuntime {
    fn spawn<T: 'static>(
        &self,
        _group: TaskGroup,
        name: &'static str,
        task: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T> {
        if !self.is_alive() {
            // A drop that starts a task while its node crashes: the task dies with it.
            drop(task);
            return JoinHandle::new(std::future::pending());
        }
        self.core.spawn(Some(self.node.index), name, task)
    }

    fn yield_now(&self) -> impl Future<Output = ()> {
        let mut yielded = false;
        std::future::poll_fn(move |cx| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn should_yield(&self) -> bool {
        self.core.rng.one_in(self.core.options.yield_one_in)
    }
}

/// Nothing is counted in a simulation: what it measures is time that is not real.
impl Meter for SimRuntime {
    fn counters(&self) -> Counters {
        Counters::default()
    }

    fn stalled(&self) -> (u64, Duration) {
        (0, Duration::ZERO)
    }
}
