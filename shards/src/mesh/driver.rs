//! The tasks of one shard's mesh: one that sends, and one for each peer that receives.

use super::inner::{Inner, Outgoing, Packet};
use super::link::{LinkReceiver, LinkSender, queue};
use super::{Mesh, MeshProtocol, PACKET_MESSAGES_MAX, RING_CAPACITY};
use crate::ShardId;
use coreline_io::{Clock, Entropy, TaskGroup, Tasks};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

/// What the mesh needs of a runtime.
pub(crate) trait Host: Clock + Entropy + Tasks + Clone + 'static {}

impl<T: Clock + Entropy + Tasks + Clone + 'static> Host for T {}

/// How packets are taken off a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// At once.
    Real,
    /// After a delay of the runtime's choosing, in order: for simulations.
    Seeded,
}

/// Both directions between this shard and a peer.
pub(crate) type Link<P> = (LinkSender<Packet<P>>, LinkReceiver<Packet<P>>);

/// Starts the mesh of shard `me`. `links` has one for each shard, None for this one.
pub(crate) fn start<R: Host, P: MeshProtocol>(
    runtime: &R,
    me: ShardId,
    links: Vec<Option<Link<P>>>,
    pace: Pace,
) -> Mesh<P> {
    let inner = Inner::new(me, links.len());
    let mut senders = Vec::with_capacity(links.len());
    for (index, link) in links.into_iter().enumerate() {
        let from = ShardId::from_index(index);
        assert_eq!(link.is_none(), from == me, "a link to every other shard");
        let (pace, (sender, receiver)) = match link {
            Some(link) => (pace, link),
            None => (Pace::Real, queue(RING_CAPACITY)),
        };
        senders.push(sender);
        let task = receive(runtime.clone(), Rc::clone(&inner), from, receiver, pace);
        let _detached = runtime.spawn(TaskGroup::Requests, "mesh-receive", task);
    }
    let _detached = runtime.spawn(TaskGroup::Requests, "mesh-send", send(runtime.clone(), Rc::clone(&inner), senders));
    Mesh(inner)
}

/// Closes the mesh of a shard whose tasks are dropped under way (a simulated crash), so that nothing keeps it alive.
struct CloseOnDrop<P: MeshProtocol>(Rc<Inner<P>>);

impl<P: MeshProtocol> Drop for CloseOnDrop<P> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Sends what the other tasks of this wake-up had to say. It runs after them, as it was woken after them.
async fn send<R: Host, P: MeshProtocol>(runtime: R, inner: Rc<Inner<P>>, links: Vec<LinkSender<Packet<P>>>) {
    let _close = CloseOnDrop(Rc::clone(&inner));
    loop {
        match poll_fn(|cx| inner.poll_outgoing(cx)).await {
            None => return,
            Some(Outgoing::Backlog) => {
                while inner.handle_backlog() {
                    if runtime.should_yield() {
                        runtime.yield_now().await;
                    }
                }
            }
            Some(Outgoing::Packets(to, packets)) => {
                for packet in packets {
                    if links[to.index()].send(packet).is_err() {
                        inner.peer_gone(to);
                        break;
                    }
                }
            }
        }
    }
}

/// Receives from one peer. What is in the ring is handled in one go, so that its answers go out as one packet, but no
/// more than [`PACKET_MESSAGES_MAX`] at a time: a peer that floods this shard gets no more than its turn.
async fn receive<R: Host, P: MeshProtocol>(
    runtime: R,
    inner: Rc<Inner<P>>,
    from: ShardId,
    mut link: LinkReceiver<Packet<P>>,
    pace: Pace,
) {
    let mut handled = 0;
    loop {
        let packet = poll_fn(|cx| {
            if !inner.park_receiver(from, cx) {
                return Poll::Ready(None);
            }
            let packet = link.poll_recv(cx);
            if packet.is_pending() {
                // Others have their turn before the next packet.
                handled = 0;
            }
            packet
        });
        let Some(packet) = packet.await else { break };
        if pace == Pace::Seeded {
            seeded_delay(&runtime).await;
        }
        for message in packet {
            inner.receive(from, message);
            handled += 1;
            if handled >= PACKET_MESSAGES_MAX || runtime.should_yield() {
                runtime.yield_now().await;
                handled = 0;
            }
        }
    }
    inner.peer_gone(from);
}

/// Mostly as quick as a hop between two cores is, sometimes a few turns late, seldom as late as a busy core makes it.
async fn seeded_delay<R: Host>(runtime: &R) {
    let dice = runtime.next_u64();
    match dice % 8 {
        0 => runtime.sleep(Duration::from_micros(dice / 8 % 2_000)).await,
        1..=4 => {
            for _ in 0..dice / 8 % 4 {
                runtime.yield_now().await;
            }
        }
        _ => {}
    }
}
