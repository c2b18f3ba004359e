//! The listener of the metrics endpoint: on shard 0, in the background group. Few connections at a time, each one request,
//! each with an end.

use super::node_report::{NodeReport, ProcessUsage};
use super::shard_report::ShardReport;
use crate::broker::handlers::Handlers;
use crate::broker::messages::{Reply, Request};
use crate::metrics::CONTENT_TYPE;
use crate::metrics::http::{HEAD_MAX, Verdict, head, judge};
use bytes::{Bytes, BytesMut};
use coreline_io::sync::Semaphore;
use coreline_io::{IoResult, Listener, Runtime, Stream, TaskGroup};
use coreline_shards::{Blocking, ShardId};
use futures_util::future::{Either, select};
use std::cell::Cell;
use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Connections that are served at a time; the kernel keeps some more waiting.
const CONNECTIONS_MAX: usize = 8;
/// How long a connection may take, from its first byte to its last.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
/// … and until its request is there.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// How long a client gets to end its side after the answer.
const FAREWELL: Duration = Duration::from_secs(1);
/// What it may still send meanwhile.
const FAREWELL_BYTES: usize = 64 << 10;
/// How long to wait when no connection can be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// What a scrape needs. Lives as long as the node serves.
pub struct Endpoint<R: Runtime> {
    handlers: Rc<Handlers<R>>,
    helpers: Blocking,
    /// None in a simulation.
    process: Option<fn() -> ProcessUsage>,
    /// Scrapes at a time: one.
    turn: Rc<Semaphore>,
    /// Of which image, and how many partitions had too few replicas in sync.
    under_min_isr: Cell<Option<(u64, u64)>>,
}

impl<R: Runtime> std::fmt::Debug for Endpoint<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl<R: Runtime> Endpoint<R> {
    /// For the shard of these handlers.
    #[must_use]
    pub fn new(handlers: Rc<Handlers<R>>, helpers: Blocking, process: Option<fn() -> ProcessUsage>) -> Rc<Self> {
        Rc::new(Self { handlers, helpers, process, turn: Semaphore::new(1), under_min_isr: Cell::new(None) })
    }

    /// Answers whoever connects, for as long as this is polled; connections under way go on a little longer.
    pub async fn serve(self: Rc<Self>, listener: R::Listener) {
        let runtime = self.handlers.shard().runtime.clone();
        let places = Semaphore::new(CONNECTIONS_MAX);
        loop {
            let place = places.acquire(1).await;
            match listener.accept().await {
                Ok(stream) => {
                    let (endpoint, clock) = (Rc::clone(&self), runtime.clone());
                    drop(runtime.spawn(TaskGroup::Background, "metrics", async move {
                        select(pin!(endpoint.answer(&clock, &stream)), pin!(clock.sleep(CONNECTION_MAX))).await;
                        stream.shutdown();
                        drop(place);
                    }));
                }
                Err(error) => {
                    tracing::warn!("a connection to the metrics endpoint could not be accepted: {error}");
                    runtime.sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    async fn answer(&self, runtime: &R, stream: &R::Stream) {
        let answered = async {
            let (reading, too_long) = (pin!(read_head(stream)), pin!(runtime.sleep(HEAD_WAIT)));
            let verdict = match select(reading, too_long).await {
                Either::Left((read, _)) => read?,
                Either::Right(_) => None,
            };
            let Some(verdict) = verdict else { return Ok(()) };
            let (content_type, body) = match verdict {
                Verdict::Metrics => (CONTENT_TYPE, self.page().await),
                refusal => ("text/plain; charset=utf-8", format!("{}\n", refusal.status())),
            };
            let head = head(verdict, content_type, body.len());
            stream.write_all(&mut VecDeque::from([Bytes::from(head), Bytes::from(body)])).await?;
            // A socket that is closed with unread bytes takes back what was sent.
            select(pin!(drain(stream)), pin!(runtime.sleep(FAREWELL))).await;
            IoResult::Ok(())
        };
        if let Err(error) = answered.await {
            tracing::debug!(peer = %stream.peer_addr(), "a scrape ended early: {error}");
        }
    }

    /// Asks every shard, and has the text made.
    async fn page(&self) -> String {
        let _turn = self.turn.acquire(1).await;
        let shard = self.handlers.shard();
        let mut shards = Vec::with_capacity(shard.shards);
        for id in ShardId::all(shard.shards) {
            // A shard that does not answer stops, and with it the node.
            shards.extend(self.ask(id).await);
        }
        let (image, config) = (shard.image(), shard.config.clone());
        let index = image.index;
        let under_min_isr = self.under_min_isr.get().filter(|(of, _)| *of == index).map(|(_, count)| count);
        let process = self.process;
        let page = move || {
            let process = process.map(|usage| usage());
            NodeReport { shards, image, config, process, under_min_isr }.page()
        };
        match self.helpers.run(page).await {
            Ok((text, under_min_isr)) => {
                self.under_min_isr.set(Some((index, under_min_isr)));
                text
            }
            Err(error) => {
                tracing::error!("the metrics could not be written: {error}");
                String::new()
            }
        }
    }

    async fn ask(&self, of: ShardId) -> Option<ShardReport> {
        let shard = self.handlers.shard();
        if of == shard.id {
            return Some(self.handlers.report().await);
        }
        match shard.mesh.call(of, Request::Report).await {
            Ok(Reply::Report(report)) => Some(*report),
            Ok(other) => unreachable!("a question for a report is answered with one, not {other:?}"),
            Err(_) => None,
        }
    }
}

/// What the request is; none if the client goes before it is whole.
async fn read_head<S: Stream>(stream: &S) -> IoResult<Option<Verdict>> {
    let mut bytes = BytesMut::with_capacity(HEAD_MAX);
    loop {
        if stream.read(&mut bytes).await? == 0 {
            return Ok(None);
        }
        if let Some(verdict) = judge(&bytes) {
            return Ok(Some(verdict));
        }
        bytes.reserve(HEAD_MAX);
    }
}

async fn drain<S: Stream>(stream: &S) {
    let mut bytes = BytesMut::with_capacity(HEAD_MAX);
    let mut drained = 0;
    while drained < FAREWELL_BYTES {
        bytes.clear();
        bytes.reserve(HEAD_MAX);
        match stream.read(&mut bytes).await {
            Ok(read) if read > 0 => drained += read,
            _ => return,
        }
    }
}
