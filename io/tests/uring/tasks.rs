//! Tasks, timers, clocks, and what an idle executor costs.

use super::on_executor;
use bytes::{Bytes, BytesMut};
use coreline_io::{Clock, Entropy, ListenOptions, Listener, Net, Stream, TaskGroup, Tasks};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

#[test]
fn tasks_of_all_groups_run_and_are_joined() {
    on_executor(async |runtime| {
        let handles: Vec<_> =
            TaskGroup::ALL.into_iter().map(|group| runtime.spawn(group, "test", async move { group })).collect();
        for (handle, group) in handles.into_iter().zip(TaskGroup::ALL) {
            assert_eq!(handle.await, group);
        }
    });
}

#[test]
fn a_task_goes_on_when_its_handle_is_dropped() {
    on_executor(async |runtime| {
        let done = Rc::new(Cell::new(false));
        let (flag, clock) = (Rc::clone(&done), runtime.clone());
        drop(runtime.spawn(TaskGroup::Flush, "test", async move {
            clock.sleep(Duration::from_millis(1)).await;
            flag.set(true);
        }));
        while !done.get() {
            runtime.yield_now().await;
        }
    });
}

#[test]
fn a_yield_lets_others_run() {
    on_executor(async |runtime| {
        let turns = Rc::new(RefCell::new(Vec::new()));
        let tasks = ["a", "b"].map(|name| {
            let (turns, runtime) = (Rc::clone(&turns), runtime.clone());
            runtime.clone().spawn(TaskGroup::Requests, "test", async move {
                for _ in 0..3 {
                    turns.borrow_mut().push(name);
                    runtime.yield_now().await;
                }
            })
        });
        for task in tasks {
            task.await;
        }
        assert_eq!(*turns.borrow(), ["a", "b", "a", "b", "a", "b"]);
    });
}

#[test]
fn timers_fire_in_order_and_not_early() {
    on_executor(async |runtime| {
        let order = Rc::new(RefCell::new(Vec::new()));
        let start = runtime.now();
        let sleeps = [30, 10, 20].map(|millis| {
            let (clock, order) = (runtime.clone(), Rc::clone(&order));
            runtime.spawn(TaskGroup::Background, "test", async move {
                let duration = Duration::from_millis(millis);
                clock.sleep(duration).await;
                order.borrow_mut().push(millis);
                assert!(clock.now().since(start) >= duration);
            })
        });
        for sleep in sleeps {
            sleep.await;
        }
        assert_eq!(*order.borrow(), [10, 20, 30]);
        assert!(runtime.wall_ms() > 1_700_000_000_000);
        assert_ne!(runtime.next_u64(), runtime.next_u64());
    });
}

#[test]
fn a_poll_that_holds_the_core_is_counted() {
    on_executor(async |runtime| {
        let before = runtime.stalls();
        let clock = runtime.clone();
        let hog = async move {
            let start = clock.now();
            while clock.now().since(start) < Duration::from_millis(15) {}
        };
        let began = runtime.now();
        runtime.spawn(TaskGroup::Requests, "hog", hog).await;
        let ended = runtime.now();
        // More if the machine took the core away meanwhile.
        assert!(runtime.stalls() > before);
        assert!(runtime.longest_stall() >= Duration::from_millis(15));
        let (task, took) = runtime.longest_stall_between(began, ended).expect("it is remembered");
        assert!(task == "hog" && took >= Duration::from_millis(15), "{task} {took:?}");
        let later = ended.plus(Duration::from_secs(3600));
        assert_eq!(runtime.longest_stall_between(later, later.plus(Duration::from_secs(1))), None);
    });
}

/// Processor time of the calling thread.
fn thread_cpu() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the struct is live and writable, and all zero is a valid value of it.
    #[allow(unsafe_code)]
    let usage = unsafe {
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()), 0);
        usage.assume_init()
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

#[test]
fn idle_is_idle() {
    on_executor(async |runtime| {
        let address = "127.0.0.1:0".parse().expect("address");
        let listener = runtime.listen(address, ListenOptions::default()).await.expect("listen");
        drop(runtime.spawn(TaskGroup::Requests, "accept", async move { listener.accept().await.map(drop) }));
        let dir = super::directory();
        runtime.prepare_data_dir(dir.path()).await.expect("prepare");
        runtime.sleep(Duration::from_millis(50)).await;
        let before = thread_cpu();
        runtime.sleep(Duration::from_secs(1)).await;
        let used = thread_cpu() - before;
        assert!(used < Duration::from_millis(100), "an idle executor used {used:?} of a second");
    });
}

#[test]
fn nothing_stays_open_when_an_executor_ends() {
    let address = on_executor(async |runtime| {
        let listener = runtime.listen("127.0.0.1:0".parse().expect("address"), ListenOptions::default()).await;
        let listener = listener.expect("listen");
        let address = listener.local_addr();
        let server = runtime.clone();
        drop(runtime.spawn(TaskGroup::Requests, "accept", async move {
            loop {
                let stream = listener.accept().await.expect("accept");
                let reader = async move { stream.read(&mut BytesMut::with_capacity(10)).await.map(drop) };
                drop(server.spawn(TaskGroup::Requests, "reader", reader));
            }
        }));
        let client = runtime.connect(address).await.expect("connect");
        drop(runtime.spawn(TaskGroup::Requests, "forever", async move {
            let _held = client;
            std::future::pending::<()>().await;
        }));
        // The connection is accepted and read.
        while runtime.tasks() < 3 {
            runtime.yield_now().await;
        }
        assert_eq!(runtime.tasks(), 3);
        address
    });
    let error = std::net::TcpStream::connect(address).expect_err("nobody listens any more");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_task_that_is_done_is_forgotten() {
    on_executor(async |runtime| {
        for _ in 0..100 {
            runtime.spawn(TaskGroup::Requests, "brief", async {}).await;
        }
        runtime.yield_now().await;
        assert_eq!(runtime.tasks(), 0);
    });
}

/// Without a slice of our own the rings would be looked at every 100 ms here, and this would take seconds.
#[test]
fn a_busy_background_delays_sockets_little() {
    on_executor(async |runtime| {
        let done = Rc::new(Cell::new(false));
        let (stop, tasks) = (Rc::clone(&done), runtime.clone());
        let hog = runtime.spawn(TaskGroup::Background, "hog", async move {
            while !stop.get() {
                if tasks.should_yield() {
                    tasks.yield_now().await;
                }
            }
        });
        let listener = runtime.listen("127.0.0.1:0".parse().expect("address"), ListenOptions::default()).await;
        let listener = listener.expect("listen");
        let client = runtime.connect(listener.local_addr()).await.expect("connect");
        let server = listener.accept().await.expect("accept");
        let start = runtime.now();
        let trips = async move {
            for _ in 0..20 {
                for (from, to) in [(&client, &server), (&server, &client)] {
                    from.write_all(&mut [Bytes::from_static(b"x")].into()).await.expect("write");
                    // More room than comes: the next read waits for an event and does not just try.
                    assert_eq!(to.read(&mut BytesMut::with_capacity(10)).await.expect("read"), 1);
                }
            }
        };
        runtime.spawn(TaskGroup::Requests, "trips", trips).await;
        let took = runtime.now().since(start);
        assert!(took < Duration::from_secs(2), "twenty round trips took {took:?}");
        done.set(true);
        hog.await;
    });
}
