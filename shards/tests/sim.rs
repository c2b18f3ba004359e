//! Shards in the simulator: the same mains, under every order of events that a seed can choose.
//!
//! `CORELINE_SEEDS=n` runs n seeds of each, `CORELINE_SEED=s` only that one.

mod common;

use common::{Ctx, Event, Handler, Outcome, Request, TestMesh};
use coreline_io::sim::{SimOptions, SimRuntime, SimWorld};
use coreline_shards::mesh::CALL_CREDITS;
use coreline_shards::{MeshHandler, ReplyTo, ShardId, sim};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number: {text}")))
}

/// The seeds to run: `usual` of them unless the environment says otherwise.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    match number("CORELINE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CORELINE_SEEDS").unwrap_or(usual),
    }
}

fn run<F, Fut>(seed: u64, shards: usize, main: F) -> u64
where
    F: Fn(Ctx<SimRuntime>) -> Fut + Clone + 'static,
    Fut: Future<Output = Outcome> + 'static,
{
    let world = SimWorld::new(seed, SimOptions::default());
    let node = world.node("a");
    let running = sim::start::<TestMesh, _, _, _>(&node, shards, main);
    world.block_on(running.join()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    world.trace_hash()
}

#[test]
fn four_shards_that_flood_each_other_get_all_replies() {
    let few = CALL_CREDITS as u64 + 20;
    for seed in seeds(500) {
        // Some seeds go past the credits of every pair, most make their chances elsewhere.
        let messages = if seed % 10 == 0 { few } else { 40 };
        run(seed, 4, move |ctx| common::flood(ctx, messages, messages));
    }
}

#[test]
fn two_shards_that_flood_each_other_get_all_replies() {
    let more_than_credits = CALL_CREDITS as u64 + 50;
    for seed in seeds(300) {
        run(seed, 2, move |ctx| common::flood(ctx, more_than_credits, more_than_credits));
    }
    for seed in seeds(2_000) {
        run(seed, 2, move |ctx| common::flood(ctx, 20, 20));
    }
}

#[test]
fn one_shard_talks_to_itself() {
    for seed in seeds(20) {
        run(seed, 1, |ctx| common::flood(ctx, 600, 600));
    }
}

#[test]
fn a_receiver_that_does_not_answer_stops_its_caller() {
    for seed in seeds(20) {
        run(seed, 3, common::back_pressure);
    }
}

#[test]
fn events_stop_at_their_limit() {
    for seed in seeds(20) {
        run(seed, 3, common::event_limit);
    }
}

#[test]
fn abandoned_calls_cost_no_credit() {
    for seed in seeds(20) {
        run(seed, 3, common::abandoned);
    }
}

#[test]
fn what_comes_before_the_handler_waits_for_it() {
    for seed in seeds(100) {
        run(seed, 3, common::late_handler);
    }
}

#[test]
fn calls_end_when_the_mesh_closes() {
    for seed in seeds(20) {
        let world = SimWorld::new(seed, SimOptions::default());
        let ended = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ended);
        let main = move |ctx| common::close_during_calls(ctx, Arc::clone(&counter));
        world.block_on(sim::start::<TestMesh, _, _, _>(&world.node("a"), 3, main).join()).unwrap();
        // Tasks of a node live on after its mains; the callers need a turn to see the end.
        world.run_for(Duration::from_millis(1));
        assert_eq!(ended.load(Ordering::Relaxed), 2 * (CALL_CREDITS + 10), "seed {seed}");
    }
}

#[test]
fn the_mesh_works_until_the_last_main_returns() {
    for seed in seeds(20) {
        let returned = Arc::new(AtomicUsize::new(0));
        run(seed, 3, move |ctx| common::orderly_stop(ctx, Arc::clone(&returned)));
    }
}

#[test]
fn the_error_of_one_stops_all_and_is_returned() {
    for seed in seeds(50) {
        let world = SimWorld::new(seed, SimOptions::default());
        let running = sim::start::<TestMesh, _, _, _>(&world.node("a"), 4, common::one_fails);
        let error = world.block_on(running.join()).unwrap_err();
        assert_eq!((error.shard, error.error.as_str()), (ShardId(3), "out of luck"));
    }
}

#[test]
fn a_connection_moves_a_hundred_times_and_loses_nothing() {
    for seed in seeds(100) {
        run(seed, 3, |ctx| {
            let address = (ctx.runtime.ip(), 9000).into();
            common::hand_off(ctx, address)
        });
    }
}

#[test]
fn a_seed_is_a_run() {
    let flood = || run(7, 3, |ctx| common::flood(ctx, 300, 300));
    assert_eq!(flood(), flood());
    assert_ne!(flood(), run(8, 3, |ctx| common::flood(ctx, 300, 300)));
}

/// A handler as real ones are: it holds the mesh that holds it.
struct Circle {
    _ctx: Ctx<SimRuntime>,
    _witness: Arc<()>,
    inner: Rc<Handler<SimRuntime>>,
}

impl MeshHandler<TestMesh> for Circle {
    fn on_request(&self, from: ShardId, request: Request, reply: ReplyTo<TestMesh>) {
        self.inner.on_request(from, request, reply);
    }

    fn on_event(&self, from: ShardId, event: Event) {
        self.inner.on_event(from, event);
    }
}

/// A crash drops everything a shard had under way; the next process starts afresh.
#[test]
fn a_crash_under_load_leaves_nothing_behind() {
    for seed in seeds(50) {
        let world = SimWorld::new(seed, SimOptions::default());
        let node = world.node("a");
        let alive = Arc::new(());
        for _ in 0..3 {
            let witness = Arc::clone(&alive);
            let main = move |ctx: Ctx<SimRuntime>| {
                let inner = Handler::new(&ctx);
                let circle = Circle { _ctx: ctx.clone(), _witness: Arc::clone(&witness), inner };
                async move {
                    ctx.mesh.serve(Rc::new(circle));
                    common::flood_served(ctx.clone(), 300, 300).await?;
                    ctx.shutdown.requested().await;
                    Ok(())
                }
            };
            let running = sim::start::<TestMesh, _, _, String>(&node, 3, main);
            world.run_for(Duration::from_micros(seed * 20));
            assert!(Arc::strong_count(&alive) > 1, "nothing ran");
            node.crash();
            drop(running);
            node.restart();
            assert_eq!(Arc::strong_count(&alive), 1, "seed {seed}: a dead shard is still held");
        }
    }
}
