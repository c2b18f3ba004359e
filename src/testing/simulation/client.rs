//! A connection of a Kafka client: requests go out in the order of calls, answers come back in that order.

use crate::world::{World, fail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use coreline_io::sim::SimRuntime;
use coreline_io::sync::{Notify, OneshotSender, oneshot};
use coreline_io::{Clock, Net, Stream, TaskGroup, Tasks};
use futures_util::future::{Either, select};
use kafka_protocol::messages::RequestHeader;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt::Debug;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// No answer will come: the connection is gone, or took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

type AnyStream = <SimRuntime as Net>::Stream;

struct Waiting {
    correlation_id: i32,
    reply: OneshotSender<Bytes>,
}

struct Shared {
    stream: AnyStream,
    out: RefCell<VecDeque<Bytes>>,
    more: Notify,
    waiting: RefCell<VecDeque<Waiting>>,
    next_id: Cell<i32>,
    closed: Cell<bool>,
}

impl Shared {
    fn close(&self) {
        if !self.closed.replace(true) {
            self.stream.shutdown();
            self.more.notify_all();
        }
        // Dropping the senders tells those who wait.
        drop(self.waiting.take());
    }
}

/// A connection; closed when dropped, whatever is under way.
pub(crate) struct Connection {
    rt: SimRuntime,
    shared: Rc<Shared>,
    name: String,
}

impl Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Connection {
    pub(crate) async fn open(world: &World, name: &str) -> Result<Self, Lost> {
        let rt = world.client.clone();
        let stream = rt.connect(world.broker_address).await.map_err(|_| Lost)?;
        let shared = Rc::new(Shared {
            stream,
            out: RefCell::default(),
            more: Notify::default(),
            waiting: RefCell::default(),
            next_id: Cell::new(0),
            closed: Cell::new(false),
        });
        drop(rt.spawn(TaskGroup::Requests, "client-writer", write(shared.clone())));
        drop(rt.spawn(TaskGroup::Requests, "client-reader", read(shared.clone())));
        Ok(Self { rt, shared, name: name.to_owned() })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }

    /// Enqueues a request to which no answer comes (Produce with acks=0).
    pub(crate) fn send_only<Q: Request>(&self, version: i16, request: &Q) {
        let correlation_id = self.shared.next_id.get();
        self.shared.next_id.set(correlation_id + 1);
        let frame = encode(&self.name, correlation_id, version, request);
        self.shared.out.borrow_mut().push_back(frame);
        self.shared.more.notify_all();
    }

    /// Enqueues a request now; the future only waits for the answer, `timeout` at most, after which the connection is closed.
    pub(crate) fn call<Q: Request + Debug>(
        &self,
        version: i16,
        request: &Q,
        timeout: Duration,
    ) -> impl Future<Output = Result<Q::Response, Lost>> + 'static
    where
        Q::Response: Debug,
    {
        let (reply, answer) = oneshot();
        if !self.is_closed() {
            let correlation_id = self.shared.next_id.get();
            self.shared.waiting.borrow_mut().push_back(Waiting { correlation_id, reply });
            self.send_only(version, request);
        }
        let (shared, rt, name) = (self.shared.clone(), self.rt.clone(), self.name.clone());
        async move {
            let found = match select(pin!(answer), pin!(rt.sleep(timeout))).await {
                Either::Left((found, _)) => found,
                Either::Right(_) => None,
            };
            let Some(mut bytes) = found else {
                shared.close();
                return Err(Lost);
            };
            bytes.advance(4);
            if Q::Response::header_version(version) > 0 && bytes.get_u8() != 0 {
                fail(format!("{name}: an answer's header has tagged fields, and none are known"));
            }
            match Q::Response::decode(&mut bytes, version) {
                Ok(answer) if bytes.is_empty() => Ok(answer),
                Ok(answer) => fail(format!("{name}: {} bytes after {answer:?}", bytes.len())),
                Err(e) => fail(format!("{name}: an answer to API {} version {version}: {e}", Q::KEY)),
            }
        }
    }
}

fn encode<Q: Request>(client: &str, correlation_id: i32, version: i16, request: &Q) -> Bytes {
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client.to_owned())));
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    // Not by the codec's table: it does not know our own APIs.
    let encoded =
        header.encode(&mut frame, Q::header_version(version)).and_then(|()| request.encode(&mut frame, version));
    if let Err(e) = encoded {
        fail(format!("API {} version {version} does not encode: {e}", Q::KEY));
    }
    let size = frame.len() as i32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame.freeze()
}

async fn write(shared: Rc<Shared>) {
    while !shared.closed.get() {
        let mut parts = shared.out.take();
        if parts.is_empty() {
            shared.more.notified().await;
        } else if shared.stream.write_all(&mut parts).await.is_err() {
            shared.close();
        }
    }
}

async fn read(shared: Rc<Shared>) {
    let mut buffer = BytesMut::new();
    while !shared.closed.get() {
        buffer.reserve(4096);
        if !matches!(shared.stream.read(&mut buffer).await, Ok(n) if n > 0) {
            break;
        }
        while let Some(frame) = next_frame(&mut buffer) {
            if shared.closed.get() {
                return;
            }
            let id = (&frame[..4]).get_i32();
            let first = shared.waiting.borrow_mut().pop_front();
            match first {
                Some(waiting) if waiting.correlation_id == id => {
                    waiting.reply.send(frame);
                }
                Some(waiting) => fail(format!("an answer to request {id} where {} is next", waiting.correlation_id)),
                None => fail(format!("an answer to request {id}, and none waits")),
            }
        }
    }
    shared.close();
}

fn next_frame(buffer: &mut BytesMut) -> Option<Bytes> {
    let prefix = buffer.first_chunk::<4>()?;
    let size = i32::from_be_bytes(*prefix);
    if !(4..1 << 26).contains(&size) {
        fail(format!("an answer of {size} bytes"));
    }
    if buffer.len() < 4 + size as usize {
        return None;
    }
    buffer.advance(4);
    Some(buffer.split_to(size as usize).freeze())
}
