//! Tasks, timers, clocks, entropy, and the primitives of `coreline_io::sync` on top of them.

use super::Env;
use coreline_io::sync::{Notify, Semaphore, oneshot};
use coreline_io::{Runtime, TaskGroup};
use futures_util::future::join_all;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

const GROUP: TaskGroup = TaskGroup::Requests;

pub(crate) async fn timers_fire_in_order<R: Runtime>(rt: R, _env: Env) {
    let fired = Rc::new(RefCell::new(Vec::new()));
    let tasks = [60, 0, 120, 180].map(|ms| {
        let (rt, fired) = (rt.clone(), fired.clone());
        rt.clone().spawn(GROUP, "sleeper", async move {
            rt.sleep(Duration::from_millis(ms)).await;
            fired.borrow_mut().push(ms);
        })
    });
    join_all(tasks).await;
    assert_eq!(*fired.borrow(), [0, 60, 120, 180]);
}

pub(crate) async fn a_sleep_is_long_enough<R: Runtime>(rt: R, _env: Env) {
    for micros in [0, 1, 100, 3000] {
        let (before, duration) = (rt.now(), Duration::from_micros(micros));
        rt.sleep(duration).await;
        let slept = rt.now().since(before);
        assert!(slept >= duration, "slept {slept:?} of {duration:?}");
    }
}

pub(crate) async fn spawn_and_join<R: Runtime>(rt: R, _env: Env) {
    let spawner = rt.clone();
    let sum = rt.spawn(GROUP, "outer", async move {
        let parts: Vec<_> = (0..10u32)
            .map(|n| {
                let rt = spawner.clone();
                spawner.spawn(GROUP, "inner", async move {
                    rt.yield_now().await;
                    n
                })
            })
            .collect();
        join_all(parts).await.into_iter().sum::<u32>()
    });
    assert_eq!(sum.await, 45);
}

pub(crate) async fn a_dropped_handle_runs_on<R: Runtime>(rt: R, _env: Env) {
    let (sender, receiver) = oneshot();
    let sleeper = rt.clone();
    drop(rt.spawn(GROUP, "detached", async move {
        sleeper.sleep(Duration::from_millis(1)).await;
        sender.send(7);
    }));
    assert_eq!(receiver.await, Some(7));
}

pub(crate) async fn yielding_lets_others_run<R: Runtime>(rt: R, _env: Env) {
    let done = Rc::new(Cell::new(false));
    let set = done.clone();
    rt.spawn(GROUP, "other", async move { set.set(true) });
    let mut yields = 0u32;
    while !done.get() {
        rt.yield_now().await;
        yields += 1;
        assert!(yields < 1_000_000, "the other task never runs");
    }
    // A loop that asks gets its answer now and then, and may go on either way.
    for _ in 0..100 {
        if rt.should_yield() {
            rt.yield_now().await;
        }
    }
}

pub(crate) async fn every_group_runs<R: Runtime>(rt: R, _env: Env) {
    let tasks = TaskGroup::ALL.map(|group| {
        let sleeper = rt.clone();
        rt.spawn(group, "member", async move {
            sleeper.sleep(Duration::from_millis(1)).await;
            group
        })
    });
    assert_eq!(join_all(tasks).await, TaskGroup::ALL);
}

pub(crate) async fn a_dropped_sleep_is_harmless<R: Runtime>(rt: R, _env: Env) {
    let never = rt.sleep(Duration::from_secs(3600));
    let soon = rt.sleep(Duration::from_millis(1));
    futures_util::pin_mut!(soon);
    let never = Box::pin(never);
    let first = futures_util::future::select(never, soon).await;
    assert!(matches!(first, futures_util::future::Either::Right(_)));
}

pub(crate) async fn clocks<R: Runtime>(rt: R, _env: Env) {
    let (a, wall_a) = (rt.now(), rt.wall_ms());
    rt.sleep(Duration::from_millis(2)).await;
    let (b, wall_b) = (rt.now(), rt.wall_ms());
    assert!(b > a);
    assert!(wall_b >= wall_a, "nobody moved the clock: {wall_a} then {wall_b}");
    assert!(wall_a > 1_600_000_000_000, "milliseconds since 1970: {wall_a}");
    assert_eq!(a.plus(b.since(a)), b);
}

pub(crate) async fn entropy<R: Runtime>(rt: R, _env: Env) {
    let numbers: std::collections::BTreeSet<u64> = (0..100).map(|_| rt.next_u64()).collect();
    assert_eq!(numbers.len(), 100);
}

pub(crate) async fn semaphore_is_fair<R: Runtime>(rt: R, _env: Env) {
    let semaphore = Semaphore::new(4);
    let held = semaphore.try_acquire(4).unwrap();
    let order = Rc::new(RefCell::new(Vec::new()));
    let mut waiters = Vec::new();
    for (turn, count) in [3, 4, 1, 2].into_iter().enumerate() {
        let (s, order) = (semaphore.clone(), order.clone());
        waiters.push(rt.spawn(GROUP, "waiter", async move {
            let permit = s.acquire(count).await;
            order.borrow_mut().push(turn);
            drop(permit);
        }));
        while semaphore.waiting() <= turn {
            rt.yield_now().await;
        }
    }
    assert!(semaphore.try_acquire(0).is_none(), "nobody passes the line");
    drop(held);
    join_all(waiters).await;
    // The one that wants all waits for the one before it; whoever comes later waits for both.
    assert_eq!(order.borrow()[..2], [0, 1]);
    assert_eq!(semaphore.available(), 4);
}

pub(crate) async fn semaphore_bounds<R: Runtime>(rt: R, _env: Env) {
    let (semaphore, used) = (Semaphore::new(10), Rc::new(Cell::new(0)));
    let tasks = (0..30).map(|n| {
        let (rt, semaphore, used) = (rt.clone(), semaphore.clone(), used.clone());
        rt.clone().spawn(GROUP, "worker", async move {
            let count = n % 7 + 1;
            let _permit = semaphore.acquire(count).await;
            used.set(used.get() + count);
            assert!(used.get() <= 10, "{} of 10 permits are out", used.get());
            rt.yield_now().await;
            used.set(used.get() - count);
        })
    });
    join_all(tasks.collect::<Vec<_>>()).await;
    assert_eq!(semaphore.available(), 10);
}

pub(crate) async fn semaphore_given_up<R: Runtime>(rt: R, _env: Env) {
    let semaphore = Semaphore::new(2);
    let held = semaphore.try_acquire(1).unwrap();
    {
        let wait = Box::pin(semaphore.acquire(2));
        let timeout = Box::pin(rt.sleep(Duration::from_millis(1)));
        let first = futures_util::future::select(wait, timeout).await;
        assert!(matches!(first, futures_util::future::Either::Right(_)));
    }
    assert_eq!(semaphore.acquire(1).await.count(), 1);
    drop(held);
    assert_eq!(semaphore.available(), 2);
}

pub(crate) async fn notify_wakes_all<R: Runtime>(rt: R, _env: Env) {
    let notify = Rc::new(Notify::default());
    let waiters: Vec<_> = (0..5)
        .map(|_| {
            let notify = notify.clone();
            rt.spawn(GROUP, "waiter", async move { notify.notified().await })
        })
        .collect();
    while notify.waiting() < 5 {
        rt.yield_now().await;
    }
    notify.notify_all();
    join_all(waiters).await;
    assert_eq!(notify.waiting(), 0);
}

pub(crate) async fn oneshot_between_tasks<R: Runtime>(rt: R, _env: Env) {
    let (sender, receiver) = oneshot::<u32>();
    rt.spawn(GROUP, "sender", async move { sender.send(5) });
    assert_eq!(receiver.await, Some(5));
    let (sender, receiver) = oneshot::<u32>();
    rt.spawn(GROUP, "dropper", async move { drop(sender) });
    assert_eq!(receiver.await, None);
}
