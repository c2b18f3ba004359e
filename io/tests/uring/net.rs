//! Streams over loopback.

use super::{on_executor, pattern};
use bytes::{Bytes, BytesMut};
use coreline_io::uring::{UringParcel, UringRuntime};
use coreline_io::{Clock, IoErrorKind, ListenOptions, Listener, Net, Stream, TaskGroup, Tasks};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

type Socket = <UringRuntime as Net>::Stream;

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().expect("address")
}

async fn pair(runtime: &UringRuntime) -> (Socket, Socket) {
    let listener = runtime.listen(anywhere(), ListenOptions::default()).await.expect("listen");
    let client = runtime.connect(listener.local_addr()).await.expect("connect");
    (client, listener.accept().await.expect("accept"))
}

async fn read_exactly(stream: &Socket, len: usize) -> BytesMut {
    let mut buf = BytesMut::with_capacity(len);
    while buf.len() < len {
        assert_ne!(stream.read(&mut buf).await.expect("read"), 0, "ended after {} of {len} bytes", buf.len());
    }
    buf
}

async fn send(stream: &Socket, bytes: &[u8]) {
    let mut parts = VecDeque::from([Bytes::copy_from_slice(bytes)]);
    stream.write_all(&mut parts).await.expect("write");
    assert!(parts.is_empty());
}

/// Sends back what it gets, until the end.
async fn echo(stream: Socket) {
    let mut buf = BytesMut::new();
    loop {
        buf.reserve(4096);
        if stream.read(&mut buf).await.expect("read") == 0 {
            return;
        }
        let mut parts = VecDeque::from([buf.split().freeze()]);
        stream.write_all(&mut parts).await.expect("write");
    }
}

#[test]
fn sixty_four_connections_echo() {
    on_executor(async |runtime| {
        let listener = runtime.listen(anywhere(), ListenOptions::default()).await.expect("listen");
        let address = listener.local_addr();
        let server = runtime.clone();
        let server = runtime.spawn(TaskGroup::Requests, "server", async move {
            for _ in 0..64 {
                let stream = listener.accept().await.expect("accept");
                drop(server.spawn(TaskGroup::Requests, "echo", echo(stream)));
            }
        });
        let clients: Vec<_> = (0..64u64)
            .map(|client| {
                let net = runtime.clone();
                runtime.spawn(TaskGroup::Background, "client", async move {
                    let stream = net.connect(address).await.expect("connect");
                    assert_eq!(stream.peer_addr(), address);
                    for round in 0..50 {
                        let message = pattern(1 + (client as usize * 37 + round * 101) % 9000, client);
                        send(&stream, &message).await;
                        assert!(read_exactly(&stream, message.len()).await == message);
                    }
                })
            })
            .collect();
        server.await;
        for client in clients {
            client.await;
        }
        let counters = runtime.counters();
        assert_eq!(counters.accepted, 64);
        assert!(counters.readiness_events >= counters.readiness_wakeups);
    });
}

#[test]
fn thousands_of_parts_reach_a_slow_reader() {
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        let contents = Bytes::from(pattern(6 << 20, 1));
        let mut parts: VecDeque<Bytes> = (0..3000).map(|part| contents.slice(part * 2097..(part + 1) * 2097)).collect();
        parts.insert(1500, Bytes::new());
        let sent: usize = parts.iter().map(Bytes::len).sum();
        let clock = runtime.clone();
        let reader = runtime.spawn(TaskGroup::Background, "slow", async move {
            let mut got = BytesMut::with_capacity(sent);
            while got.len() < sent {
                let mut piece = BytesMut::with_capacity(100_000);
                assert_ne!(server.read(&mut piece).await.expect("read"), 0);
                got.extend_from_slice(&piece);
                clock.sleep(Duration::from_micros(200)).await;
            }
            got
        });
        client.write_all(&mut parts).await.expect("write");
        assert!(parts.is_empty());
        assert!(reader.await == contents[..sent]);
    });
}

#[test]
fn who_needs_much_is_not_woken_for_each_packet() {
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        let data = pattern(100_000, 1);
        let before = runtime.counters().recv_calls;
        let len = data.len();
        let reader = runtime.spawn(TaskGroup::Requests, "reader", async move {
            let mut got = BytesMut::with_capacity(len);
            while got.len() < len {
                let least = len - got.len();
                assert_ne!(server.read_at_least(&mut got, least).await.expect("read"), 0);
            }
            (server, got)
        });
        for piece in data.chunks(1000) {
            send(&client, piece).await;
            runtime.sleep(Duration::from_micros(100)).await;
        }
        let (server, got) = reader.await;
        assert!(got == data);
        let calls = runtime.counters().recv_calls - before;
        assert!(calls < 20, "{calls} calls for 100 packets");
        // On another executor, too, it is woken by one byte.
        let again = runtime.unpack(runtime.pack(server)).expect("unpack");
        let one = runtime.spawn(TaskGroup::Requests, "one", async move { read_exactly(&again, 1).await });
        runtime.sleep(Duration::from_millis(1)).await;
        send(&client, b"1").await;
        assert_eq!(&one.await[..], b"1");
    });
}

#[test]
fn the_end_of_a_stream_reads_as_zero_again_and_again() {
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        send(&client, b"last").await;
        drop(client);
        let mut buf = BytesMut::with_capacity(100);
        assert_eq!(server.read(&mut buf).await.expect("read"), 4);
        for _ in 0..3 {
            assert_eq!(server.read(&mut buf).await.expect("read"), 0);
        }
        assert_eq!(&buf[..], b"last");
    });
}

#[test]
fn data_that_came_with_the_end_is_read_by_short_reads() {
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        let (contents, clock) = (pattern(10_000, 2), runtime.clone());
        send(&client, &contents).await;
        drop(client);
        clock.sleep(Duration::from_millis(5)).await;
        let mut got = BytesMut::new();
        loop {
            let mut piece = BytesMut::with_capacity(997);
            if server.read(&mut piece).await.expect("read") == 0 {
                break;
            }
            got.extend_from_slice(&piece);
        }
        assert!(got == contents);
    });
}

#[test]
fn a_shutdown_wakes_who_waits() {
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        let (client, server) = (Rc::new(client), Rc::new(server));
        let waiting = Rc::clone(&server);
        let reader = runtime
            .spawn(TaskGroup::Requests, "reader", async move { waiting.read(&mut BytesMut::with_capacity(10)).await });
        let full = Rc::clone(&server);
        let writer = runtime.spawn(TaskGroup::Requests, "writer", async move {
            let mut parts = VecDeque::from([Bytes::from(vec![0; 64 << 20])]);
            full.write_all(&mut parts).await
        });
        runtime.sleep(Duration::from_millis(20)).await;
        server.shutdown();
        assert_eq!(reader.await.expect("the end"), 0);
        assert_eq!(writer.await.expect_err("cut").kind, IoErrorKind::Disconnected);
        drop(client);
    });
}

#[test]
fn nobody_there_is_an_error() {
    on_executor(async |runtime| {
        let listener =
            runtime.listen(anywhere(), ListenOptions { reuse_port: false, backlog: 1 }).await.expect("listen");
        let address = listener.local_addr();
        let options = ListenOptions { reuse_port: false, backlog: 1 };
        let error = runtime.listen(address, options).await.expect_err("taken");
        assert_eq!(error.kind, IoErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        drop(listener);
        let error = runtime.connect(address).await.expect_err("nobody");
        assert_eq!(error.kind, IoErrorKind::Disconnected);
    });
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    on_executor(async |runtime| {
        drop(pair(&runtime).await);
        let before = open_descriptors();
        for _ in 0..50 {
            drop(pair(&runtime).await);
        }
        // Other tests of this process open and close files too: many would be a leak.
        let after = open_descriptors();
        assert!(after < before + 60, "{before} descriptors before, {after} after 50 pairs");
    });
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn a_stream_moves_to_another_executor() {
    let (hand_over, take) = std::sync::mpsc::channel::<UringParcel>();
    let other = std::thread::spawn(move || {
        let parcel = take.recv().expect("parcel");
        on_executor(async |runtime| echo(runtime.unpack(parcel).expect("unpack")).await);
    });
    on_executor(async |runtime| {
        let (client, server) = pair(&runtime).await;
        send(&client, b"first").await;
        assert_eq!(&read_exactly(&server, 5).await[..], b"first");
        // Bytes that wait in the socket go along.
        send(&client, b"second").await;
        hand_over.send(runtime.pack(server)).expect("other thread");
        assert_eq!(&read_exactly(&client, 6).await[..], b"second");
        let third = pattern(300_000, 3);
        let (client, message) = (Rc::new(client), third.clone());
        let writer = Rc::clone(&client);
        let writer = runtime.spawn(TaskGroup::Requests, "writer", async move { send(&writer, &message).await });
        assert!(read_exactly(&client, third.len()).await == third);
        writer.await;
    });
    other.join().expect("other executor");
}
