//! Shards on glommio: real executors, real rings between them. As many shards as the machine lets this process have.
#![cfg(feature = "uring")]

mod common;

use common::{Ctx, Handler, Outcome, Request, TestMesh};
use coreline_io::uring::UringRuntime;
use coreline_io::{Clock, ListenOptions, Listener, Net};
use coreline_shards::glommio_backend::{ShardsError, ShardsOptions, run};
use coreline_shards::{CoreError, CoreSelection, ShardId};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// The most shards there can be, up to four; none when the scenario needs two and there is one core.
fn options(least: usize) -> Option<ShardsOptions> {
    let cores = CoreSelection::All.resolve().unwrap().len().min(4);
    if cores < least {
        eprintln!("skipped: needs {least} cores, has {cores}");
        return None;
    }
    Some(ShardsOptions { cores: CoreSelection::Count(cores), ..ShardsOptions::default() })
}

fn check<F, Fut>(least: usize, main: F)
where
    F: Fn(Ctx<UringRuntime>) -> Fut + Send + Clone + 'static,
    Fut: Future<Output = Outcome> + 'static,
{
    if let Some(options) = options(least) {
        run::<TestMesh, _, _, _>(options, main).unwrap();
    }
}

#[test]
fn shards_that_flood_each_other_get_all_replies() {
    for _ in 0..3 {
        check(1, |ctx| common::flood(ctx, 20_000, 20_000));
    }
}

#[test]
fn a_receiver_that_does_not_answer_stops_its_caller() {
    check(2, common::back_pressure);
}

#[test]
fn events_stop_at_their_limit() {
    check(1, common::event_limit);
}

#[test]
fn abandoned_calls_cost_no_credit() {
    check(1, common::abandoned);
}

#[test]
fn a_call_ends_a_nap() {
    let rung = Arc::new(AtomicBool::new(false));
    check(2, move |ctx| {
        let rung = Arc::clone(&rung);
        async move {
            let _handler = Handler::install(&ctx);
            // A core naps after its first socket has become ready.
            let listener = ctx.runtime.listen(([127, 0, 0, 1], 0).into(), ListenOptions::default()).await.unwrap();
            let _out = ctx.runtime.connect(listener.local_addr()).await.unwrap();
            let _accepted = listener.accept().await.unwrap();
            for number in 0..2_000 {
                ctx.runtime.sleep(Duration::from_millis(3)).await;
                match ctx.shard {
                    ShardId(0) => drop(ctx.mesh.call(ShardId(1), Request::Count { number }).await),
                    ShardId(1) if ctx.runtime.counters().naps_rung > 0 => rung.store(true, Ordering::SeqCst),
                    _ => {}
                }
                if rung.load(Ordering::SeqCst) {
                    return Ok(());
                }
            }
            panic!("2,000 calls, and none found its shard napping");
        }
    });
}

#[test]
fn what_comes_before_the_handler_waits_for_it() {
    check(1, common::late_handler);
}

#[test]
fn calls_end_when_the_mesh_closes() {
    let ended = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ended);
    let Some(options) = options(2) else { return };
    let shards = options.cores.resolve().unwrap().len();
    run::<TestMesh, _, _, _>(options, move |ctx| common::close_during_calls(ctx, Arc::clone(&counter))).unwrap();
    assert_eq!(ended.load(Ordering::Relaxed), (shards - 1) * (coreline_shards::mesh::CALL_CREDITS + 10));
}

#[test]
fn the_mesh_works_until_the_last_main_returns() {
    for _ in 0..20 {
        let returned = Arc::new(AtomicUsize::new(0));
        check(1, move |ctx| common::orderly_stop(ctx, Arc::clone(&returned)));
    }
}

#[test]
fn the_error_of_one_stops_all_and_is_returned() {
    let Some(options) = options(1) else { return };
    let last = ShardId::from_index(options.cores.resolve().unwrap().len() - 1);
    match run::<TestMesh, _, _, _>(options, common::one_fails) {
        Err(ShardsError::Main { shard, error }) => assert_eq!((shard, error.as_str()), (last, "out of luck")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_connection_moves_a_hundred_times_and_loses_nothing() {
    check(1, |ctx| common::hand_off(ctx, "127.0.0.1:0".parse().unwrap()));
}

#[test]
fn a_thread_outside_stops_the_shards() {
    let Some(options) = options(1) else { return };
    let shutdown = options.shutdown.clone();
    let (up, is_up) = mpsc::channel();
    let outside = std::thread::spawn(move || {
        is_up.recv().unwrap();
        shutdown.request();
    });
    run::<TestMesh, _, _, ()>(options, move |ctx| {
        let up = up.clone();
        async move {
            let _ = up.send(());
            ctx.shutdown.requested().await;
            Ok(())
        }
    })
    .unwrap();
    outside.join().unwrap();
}

#[test]
fn cores_that_cannot_be_had_are_refused() {
    let options = ShardsOptions { cores: CoreSelection::List(vec![4096]), ..ShardsOptions::default() };
    match run::<TestMesh, _, _, ()>(options, |_| async { Ok(()) }) {
        Err(ShardsError::Cores(CoreError::NotAllowed { core: 4096, .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_shard_runs_on_a_thread_of_its_name() {
    check(1, |ctx: Ctx<UringRuntime>| async move {
        assert_eq!(std::thread::current().name(), Some(format!("coreline-shard-{}", ctx.shard).as_str()));
        let stalls = ctx.stalls();
        assert_eq!(stalls.count == 0, stalls.longest.is_zero());
        Ok(())
    });
}
