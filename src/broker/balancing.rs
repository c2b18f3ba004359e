//! Moves partitions from hot cores to cool ones: looks at what they do, asks the [planner](crate::controller::balance), and has
//! its moves carried out, one at a time. On the controller's shard.

use super::messages::{Reply, Request};
use super::relocation::lead;
use super::shard::Shard;
use crate::controller::balance::{BalanceRules, Balancer, Placed};
use coreline_io::Runtime;
use coreline_shards::ShardId;
use futures_util::future::join_all;
use std::rc::Rc;
use std::time::Duration;

/// Ends when the node stops.
pub(super) async fn run<R: Runtime>(shard: Rc<Shard<R>>, rules: BalanceRules) {
    let Ok(shards) = u16::try_from(shard.shards) else { return };
    if shards < 2 {
        return;
    }
    let interval = rules.interval;
    let mut balancer = Balancer::new(rules, shards);
    loop {
        shard.runtime.sleep(interval).await;
        let Some(placed) = look(&shard).await else { return };
        let Some(planned) = balancer.plan(Duration::from_nanos(shard.runtime.now().nanos), &placed) else { continue };
        tracing::info!(partition = %planned.partition, from = planned.from, to = planned.to, "a core is hot: a partition leaves it");
        // What becomes of it is in the log. If it stays, another one may be as good the next time.
        drop(lead(&shard, planned.partition, planned.to).await);
    }
}

/// What partitions did since the last look, and where they are. None: the node stops.
async fn look<R: Runtime>(shard: &Rc<Shard<R>>) -> Option<Vec<Placed>> {
    let asked = join_all(ShardId::all(shard.shards).map(|to| shard.mesh.call(to, Request::Activity))).await;
    let mut loads = Vec::new();
    for answer in asked {
        match answer {
            Ok(Reply::Activity(some)) => loads.extend(some),
            Ok(other) => unreachable!("activity is answered with activity, not with {other:?}"),
            Err(_) => return None,
        }
    }
    // One that moved in this interval was active on two shards.
    loads.sort_unstable_by_key(|(partition, _)| *partition);
    loads.dedup_by(|(later, more), (partition, load)| {
        let same = later == partition;
        if same {
            load.add(*more);
        }
        same
    });
    let image = shard.image();
    let mut placed = Vec::with_capacity(loads.len());
    for (partition, load) in loads {
        if let Some(topic) = image.topic_by_id(partition.topic)
            && let Some(found) = topic.partition(partition.index.0)
        {
            placed.push(Placed { partition, shard: found.shard, may_move: !topic.internal, load });
        }
    }
    Some(placed)
}
