//! Streams: every byte once, in order, to the end; and the ways they end.

use super::{Env, kind, pattern, read_exact, read_to_end, send};
use bytes::{Bytes, BytesMut};
use coreline_io::{IoErrorKind, ListenOptions, Listener, Net, Runtime, Stream, TaskGroup};
use futures_util::future::{join, join_all};
use std::collections::VecDeque;
use std::rc::Rc;

/// A connection: the client's end and the server's.
async fn pair<R: Runtime>(rt: &R, env: &Env) -> (<R as Net>::Stream, <R as Net>::Stream) {
    let listener = rt.listen(env.any_port(), ListenOptions::default()).await.unwrap();
    let (client, server) = join(rt.connect(listener.local_addr()), listener.accept()).await;
    (client.unwrap(), server.unwrap())
}

async fn serve_echo(stream: impl Stream) {
    let mut buf = BytesMut::new();
    loop {
        buf.reserve(1024);
        match stream.read(&mut buf).await {
            Ok(0) | Err(_) => return,
            Ok(_) => send(&stream, buf.split().freeze()).await,
        }
    }
}

pub(crate) async fn echo<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    let echo = rt.spawn(TaskGroup::Requests, "echo", serve_echo(server));
    for (n, len) in [1, 10, 5000, 3, 20_000].into_iter().enumerate() {
        let sent = pattern(n as u64, len);
        send(&client, sent.clone()).await;
        assert_eq!(read_exact(&client, len).await, sent);
    }
    drop(client);
    echo.await;
}

pub(crate) async fn many_parts<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    let data = pattern(1, 700_000);
    let mut parts = VecDeque::new();
    let mut rest = data.clone();
    let mut len = 0;
    while !rest.is_empty() {
        len = (len * 7 + 13) % 4001;
        parts.push_back(rest.split_to(len.min(rest.len())));
    }
    parts.push_back(Bytes::new());
    let sending = async {
        client.write_all(&mut parts).await.unwrap();
        assert!(parts.is_empty(), "what was sent is removed");
    };
    let ((), received) = join(sending, read_exact(&server, data.len())).await;
    assert_eq!(received, data);
}

pub(crate) async fn reads_of_at_least_so_much<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    let data = pattern(5, 300_000);
    let sending = async {
        for piece in data.chunks(1000) {
            send(&client, data.slice_ref(piece)).await;
            rt.yield_now().await;
        }
    };
    let reading = async {
        let mut got = BytesMut::with_capacity(data.len());
        while got.len() < data.len() {
            let least = (data.len() - got.len()).min(100_000);
            assert_ne!(server.read_at_least(&mut got, least).await.unwrap(), 0);
        }
        got
    };
    let ((), got) = join(sending, reading).await;
    assert_eq!(got, data);
    // Who is content with less is woken by less.
    let one = async {
        rt.yield_now().await;
        send(&client, &b"1"[..]).await;
    };
    let ((), got) = join(one, read_exact(&server, 1)).await;
    assert_eq!(&got[..], b"1");
    // The end comes before there is enough.
    let mut got = BytesMut::with_capacity(1000);
    let cut = async {
        rt.yield_now().await;
        send(&client, data.slice(..500)).await;
        drop(client);
    };
    let reading = async { while server.read_at_least(&mut got, 500).await.unwrap() > 0 {} };
    join(cut, reading).await;
    assert_eq!(got, data[..500]);
}

pub(crate) async fn the_end_of_a_stream<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    send(&client, &b"last words"[..]).await;
    drop(client);
    assert_eq!(read_to_end(&server).await.unwrap(), &b"last words"[..]);
    let mut buf = BytesMut::with_capacity(1);
    assert_eq!(server.read(&mut buf).await.unwrap(), 0, "the end stays the end");
}

pub(crate) async fn shutdown_wakes_a_reader<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    let client = Rc::new(client);
    let reading = {
        let client = client.clone();
        rt.spawn(TaskGroup::Requests, "reader", async move {
            let mut buf = BytesMut::with_capacity(64);
            matches!(client.read(&mut buf).await, Ok(0) | Err(_))
        })
    };
    rt.yield_now().await;
    client.shutdown();
    assert!(reading.await, "a read after shutdown has bytes");
    assert!(matches!(read_to_end(&server).await.as_deref(), Ok([])), "the other side sees the end");
    let refused = client.write_all(&mut [Bytes::from_static(b"x")].into()).await;
    assert_eq!(kind(refused), Some(IoErrorKind::Disconnected));
}

pub(crate) async fn refused<R: Runtime>(rt: R, env: Env) {
    let listener = rt.listen(env.any_port(), ListenOptions::default()).await.unwrap();
    let address = listener.local_addr();
    drop(listener);
    assert_eq!(kind(rt.connect(address).await), Some(IoErrorKind::Disconnected));
}

pub(crate) async fn addresses<R: Runtime>(rt: R, env: Env) {
    let listener = rt.listen(env.any_port(), ListenOptions::default()).await.unwrap();
    let address = listener.local_addr();
    assert_eq!(address.ip(), env.ip);
    assert_ne!(address.port(), 0);
    let (client, server) = join(rt.connect(address), listener.accept()).await;
    assert_eq!(client.unwrap().peer_addr(), address);
    assert_eq!(server.unwrap().peer_addr().ip(), env.ip);
}

pub(crate) async fn listening_twice<R: Runtime>(rt: R, env: Env) {
    let alone = ListenOptions { reuse_port: false, ..ListenOptions::default() };
    let first = rt.listen(env.any_port(), alone).await.unwrap();
    assert_eq!(kind(rt.listen(first.local_addr(), alone).await), Some(IoErrorKind::AddrInUse));
    let other = rt.listen(env.any_port(), alone).await.unwrap();
    assert_ne!(first.local_addr(), other.local_addr());
}

pub(crate) async fn shared_port<R: Runtime>(rt: R, env: Env) {
    let first = rt.listen(env.any_port(), ListenOptions::default()).await.unwrap();
    let address = first.local_addr();
    let second = rt.listen(address, ListenOptions::default()).await.unwrap();
    for listener in [first, second] {
        rt.spawn(TaskGroup::Requests, "accept", {
            let rt = rt.clone();
            async move {
                while let Ok(stream) = listener.accept().await {
                    rt.spawn(TaskGroup::Requests, "echo", serve_echo(stream));
                }
            }
        });
    }
    for n in 0..20 {
        let stream = rt.connect(address).await.unwrap();
        send(&stream, pattern(n, 100)).await;
        assert_eq!(read_exact(&stream, 100).await, pattern(n, 100));
    }
}

pub(crate) async fn handing_over<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    send(&client, &b"before"[..]).await;
    assert_eq!(read_exact(&server, 3).await, &b"bef"[..]);
    let parcel = rt.pack(server);
    fn crosses_cores<T: Send>(parcel: T) -> T {
        parcel
    }
    let server = rt.unpack(crosses_cores(parcel)).unwrap();
    send(&client, &b" and after"[..]).await;
    assert_eq!(read_exact(&server, 13).await, &b"ore and after"[..]);
    send(&server, &b"answer"[..]).await;
    assert_eq!(read_exact(&client, 6).await, &b"answer"[..]);
}

pub(crate) async fn a_dropped_parcel_closes<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    drop(rt.pack(server));
    assert!(matches!(read_to_end(&client).await.as_deref(), Ok([])), "the connection ended");
}

pub(crate) async fn flood_both_ways<R: Runtime>(rt: R, env: Env) {
    let (client, server) = pair(&rt, &env).await;
    let (up, down) = (pattern(2, 900_000), pattern(3, 900_000));
    let (sent, received, sent_back, received_back) = futures_util::join!(
        send(&client, up.clone()),
        read_exact(&server, up.len()),
        send(&server, down.clone()),
        read_exact(&client, down.len()),
    );
    let ((), ()) = (sent, sent_back);
    assert_eq!(received, up);
    assert_eq!(received_back, down);
}

pub(crate) async fn many_connections<R: Runtime>(rt: R, env: Env) {
    let listener = rt.listen(env.any_port(), ListenOptions::default()).await.unwrap();
    let address = listener.local_addr();
    let acceptor = rt.clone();
    rt.spawn(TaskGroup::Requests, "accept", async move {
        for _ in 0..40 {
            let stream = listener.accept().await.unwrap();
            acceptor.spawn(TaskGroup::Requests, "echo", serve_echo(stream));
        }
    });
    let clients = (0..40).map(|n| {
        let rt = rt.clone();
        async move {
            let stream = rt.connect(address).await.unwrap();
            let sent = pattern(n, 3000);
            send(&stream, sent.clone()).await;
            assert_eq!(read_exact(&stream, sent.len()).await, sent);
        }
    });
    join_all(clients).await;
}
