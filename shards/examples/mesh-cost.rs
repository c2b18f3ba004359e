//! What a hop between two shards costs. `cargo run --release -p coreline-shards --example mesh-cost [-- SPIN_US]`
//!
//! Needs two cores with nothing else to do; with `SPIN_US` a shard spins so long before it sleeps.

use coreline_io::uring::UringRuntime;
use coreline_io::{Clock, TaskGroup, Tasks};
use coreline_shards::glommio_backend::{ShardsOptions, run};
use coreline_shards::mesh::CALL_CREDITS;
use coreline_shards::{CoreSelection, MeshClosed, MeshHandler, MeshProtocol, ReplyTo, ShardContext, ShardId};
use std::rc::Rc;
use std::time::Duration;

const ROUND_TRIPS: usize = 50_000;
const CALLS: usize = 2_000_000;
const EVENTS: usize = 10_000_000;

struct Cost;

impl MeshProtocol for Cost {
    type Request = u64;
    type Reply = u64;
    type Event = u64;
}

struct Echo;

impl MeshHandler<Cost> for Echo {
    fn on_request(&self, _from: ShardId, request: u64, reply: ReplyTo<Cost>) {
        reply.send(request);
    }

    fn on_event(&self, _from: ShardId, event: u64) {
        std::hint::black_box(event);
    }
}

fn main() {
    let spin_us = std::env::args().nth(1).map(|text| text.parse().expect("microseconds to spin"));
    let spin = spin_us.map(Duration::from_micros);
    println!("spin before sleep: {spin:?}");
    let options = ShardsOptions { cores: CoreSelection::Count(2), spin, ..ShardsOptions::default() };
    run::<Cost, _, _, MeshClosed>(options, |ctx| async move {
        ctx.mesh.serve(Rc::new(Echo));
        if ctx.shard.0 == 0 { measure(ctx).await } else { Ok(()) }
    })
    .expect("measured");
}

async fn measure(ctx: ShardContext<UringRuntime, Cost>) -> Result<(), MeshClosed> {
    for to in [ShardId(1), ShardId(0)] {
        let name = if to == ctx.shard { "itself" } else { "another shard" };
        round_trips(&ctx, to, name).await?;
        calls(&ctx, to, name).await?;
        events(&ctx, to, name).await?;
    }
    Ok(())
}

/// CPU time of this process so far, both shards together, to 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks = |field: usize| fields[field].parse::<u64>().expect("ticks of 10 ms");
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// One call at a time: what a single request that crosses cores pays.
async fn round_trips(ctx: &ShardContext<UringRuntime, Cost>, to: ShardId, name: &str) -> Result<(), MeshClosed> {
    let mut nanos = Vec::with_capacity(ROUND_TRIPS);
    let cpu_before = cpu();
    for i in 0..ROUND_TRIPS {
        let before = ctx.runtime.now();
        ctx.mesh.call(to, i as u64).await?;
        nanos.push(ctx.runtime.now().since(before).as_nanos());
    }
    nanos.sort_unstable();
    let at = |per_mille: usize| nanos[(nanos.len() - 1) * per_mille / 1000] as f64 / 1e3;
    println!(
        "round trip to {name}: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs, CPU {:.1} µs each",
        at(500),
        at(990),
        at(999),
        (cpu() - cpu_before).as_secs_f64() * 1e6 / ROUND_TRIPS as f64
    );
    Ok(())
}

/// As many calls under way as there are credits.
async fn calls(ctx: &ShardContext<UringRuntime, Cost>, to: ShardId, name: &str) -> Result<(), MeshClosed> {
    let (before, cpu_before, counted) = (ctx.runtime.now(), cpu(), ctx.mesh.counters());
    let callers = (0..CALL_CREDITS).map(|_| {
        let mesh = ctx.mesh.clone();
        ctx.runtime.spawn(TaskGroup::Requests, "caller", async move {
            for i in 0..CALLS / CALL_CREDITS {
                mesh.call(to, i as u64).await?;
            }
            Ok::<_, MeshClosed>(())
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await?;
    }
    let (took, now) = (ctx.runtime.now().since(before), ctx.mesh.counters());
    println!(
        "calls to {name}, {CALL_CREDITS} under way: {:.2} M/s, CPU {:.2} µs each, {:.1} messages a packet",
        CALLS as f64 / took.as_secs_f64() / 1e6,
        (cpu() - cpu_before).as_secs_f64() * 1e6 / CALLS as f64,
        (now.messages - counted.messages) as f64 / (now.packets - counted.packets) as f64
    );
    Ok(())
}

/// One way, as fast as credits come back.
async fn events(ctx: &ShardContext<UringRuntime, Cost>, to: ShardId, name: &str) -> Result<(), MeshClosed> {
    let (before, cpu_before, counted) = (ctx.runtime.now(), cpu(), ctx.mesh.counters());
    for i in 0..EVENTS {
        ctx.mesh.post(to, i as u64).await?;
    }
    // Answered after the last event was handled.
    ctx.mesh.call(to, 0).await?;
    let (took, now) = (ctx.runtime.now().since(before), ctx.mesh.counters());
    println!(
        "events to {name}: {:.2} M/s, CPU {:.2} µs each, {:.1} messages a packet",
        EVENTS as f64 / took.as_secs_f64() / 1e6,
        (cpu() - cpu_before).as_secs_f64() * 1e6 / EVENTS as f64,
        (now.messages - counted.messages) as f64 / (now.packets - counted.packets) as f64
    );
    Ok(())
}
