//! Sleep without the rings: it happens, and nobody who is not a socket waits for its end.

use super::{directory, on_executor, on_executor_with};
use bytes::{Bytes, BytesMut};
use coreline_io::uring::{Counters, Polling, UringOptions, UringRuntime, UringStream};
use coreline_io::{Clock, Disk, File, ListenOptions, Listener, Net, OpenOptions, Stream};
use std::future::poll_fn;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::time::Duration;

const ROUNDS: u64 = 100;

/// A connection to a thread that sends back what it gets.
async fn connect_to_thread(runtime: &UringRuntime) -> UringStream {
    let listener = runtime.listen(([127, 0, 0, 1], 0).into(), ListenOptions::default()).await.unwrap();
    let address = listener.local_addr();
    std::thread::spawn(move || {
        let mut peer = std::net::TcpStream::connect(address).unwrap();
        let mut byte = [0; 1];
        while peer.read_exact(&mut byte).is_ok() && peer.write_all(&byte).is_ok() {}
    });
    listener.accept().await.unwrap()
}

async fn round_trip(stream: &UringStream) {
    stream.write_all(&mut [Bytes::from_static(b"x")].into()).await.unwrap();
    assert_eq!(stream.read(&mut BytesMut::with_capacity(8)).await.unwrap(), 1);
}

#[test]
fn a_core_that_waits_for_sockets_only_naps() {
    on_executor(async |runtime| {
        let stream = connect_to_thread(&runtime).await;
        for _ in 0..ROUNDS {
            round_trip(&stream).await;
        }
        // Now and then a timer is so near that the rings wait for it.
        let naps = runtime.counters().naps;
        assert!(naps >= ROUNDS / 2, "{naps} naps in {ROUNDS} round trips");
    });
}

/// True once the thread is off its core and waits.
fn sleeps(thread: &std::path::Path) -> bool {
    let stat = std::fs::read_to_string(std::path::Path::new("/proc").join(thread).join("stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.starts_with('S')
}

#[test]
fn another_thread_ends_a_nap() {
    on_executor(async |runtime| {
        let stream = connect_to_thread(&runtime).await;
        let us = std::fs::read_link("/proc/thread-self").unwrap();
        let slot: Arc<Mutex<(u64, Option<Waker>)>> = Arc::default();
        let (ask, asked) = mpsc::channel();
        let theirs = Arc::clone(&slot);
        let thread = std::thread::spawn(move || {
            for round in asked {
                while !sleeps(&us) {
                    std::thread::yield_now();
                }
                let mut slot = theirs.lock().unwrap();
                slot.0 = round;
                slot.1.take().into_iter().for_each(Waker::wake);
            }
        });
        for round in 1..=ROUNDS {
            round_trip(&stream).await;
            ask.send(round).unwrap();
            poll_fn(|cx| {
                let mut slot = slot.lock().unwrap();
                if slot.0 == round {
                    return Poll::Ready(());
                }
                slot.1 = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
        drop(ask);
        thread.join().unwrap();
        let rung = runtime.counters().naps_rung;
        assert!(rung >= ROUNDS / 2, "of {ROUNDS} wakes, {rung} ended a nap");
    });
}

#[test]
fn no_nap_while_the_rings_work() {
    on_executor(async |runtime| {
        let dir = directory();
        let stream = connect_to_thread(&runtime).await;
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let file = runtime.open(&dir.path().join("file"), options).await.unwrap();
        file.write_at(0, &[Bytes::from(vec![7; coreline_io::BLOCK])]).await.unwrap();
        for _ in 0..ROUNDS {
            // The napper is up now.
            round_trip(&stream).await;
            let before = runtime.counters().naps;
            assert_eq!(file.read_at(0, coreline_io::BLOCK).await.unwrap()[0], 7);
            runtime.create_dir_all(dir.path()).await.unwrap();
            assert_eq!(runtime.counters().naps, before, "naps while the file was read");
        }
        file.close().await.unwrap();
    });
}

/// Whatever a core does in between: sockets, timers, other threads, files and durable writes get their turn.
fn all_get_their_turn(polling: Polling) -> Counters {
    let options = UringOptions { polling, ..UringOptions::default() };
    on_executor_with(options, async |runtime| {
        let dir = directory();
        let stream = connect_to_thread(&runtime).await;
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let file = runtime.open(&dir.path().join("file"), options).await.unwrap();
        let (ask, asked) = mpsc::channel::<(Arc<AtomicBool>, Waker)>();
        let thread = std::thread::spawn(move || {
            for (done, waker) in asked {
                done.store(true, Ordering::SeqCst);
                waker.wake();
            }
        });
        for round in 0..ROUNDS {
            round_trip(&stream).await;
            let (done, mut asking) = (Arc::new(AtomicBool::new(false)), true);
            poll_fn(|cx| {
                if std::mem::take(&mut asking) {
                    ask.send((Arc::clone(&done), cx.waker().clone())).unwrap();
                }
                if done.load(Ordering::SeqCst) { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            if round % 10 == 0 {
                runtime.sleep(Duration::from_millis(2)).await;
                file.write_and_sync(0, &[Bytes::from(vec![7; coreline_io::BLOCK])]).await.unwrap();
                round_trip(&stream).await;
                assert_eq!(file.read_at(0, coreline_io::BLOCK).await.unwrap()[0], 7);
            }
        }
        drop(ask);
        thread.join().unwrap();
        file.close().await.unwrap();
        runtime.counters()
    })
}

#[test]
fn a_dedicated_core_polls_and_never_naps() {
    let counters = all_get_their_turn(Polling::Dedicated);
    assert!(counters.naps == 0 && counters.spins_ended > 0, "{counters:?}");
}

#[test]
fn a_core_that_polls_where_it_is_worth_it_misses_nothing() {
    all_get_their_turn(Polling::Adaptive);
}

#[test]
fn a_core_that_never_polls_does_not() {
    let counters = all_get_their_turn(Polling::Never);
    assert!(counters.naps > 0 && counters.spins == 0, "{counters:?}");
}
