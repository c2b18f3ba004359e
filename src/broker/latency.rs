//! The book of one shard's latencies: connections write it, DescribeLatency reads it.

use crate::latency::{Book, Row, SlowRequest, Snapshot, Span, Stall, Timeline};
use crate::protocol::{ApiKey, Request};
use coreline_io::Monotonic;
use std::cell::RefCell;
use std::net::SocketAddr;

/// What is remembered of a request while it is handled: for the book, and for the line that says why its connection was
/// closed.
#[derive(Clone, Debug)]
pub struct Particulars {
    /// Its API.
    pub key: ApiKey,
    /// Its version.
    pub version: i16,
    /// What the client gave it to know the answer by.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

impl Particulars {
    /// Of this one.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let header = &request.header;
        Self {
            key: request.api.key,
            version: header.api_version,
            correlation_id: header.correlation_id,
            client_id: header.client_id.clone(),
        }
    }
}

/// What became of the requests of one shard.
#[derive(Debug)]
pub struct Latencies(RefCell<Book>);

impl Latencies {
    /// Of the shard with this number.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        Self(RefCell::new(Book::new(shard)))
    }

    /// A request of `peer` was answered. `stall` gives the longest time that one task held the core meanwhile.
    pub fn record(
        &self,
        what: Particulars,
        peer: SocketAddr,
        timeline: &Timeline,
        stall: impl FnOnce() -> Option<Stall>,
    ) {
        let Particulars { key, version, correlation_id, client_id } = what;
        let api = key as i16;
        let who = || {
            let (client_id, peer) = (client_id.unwrap_or_default(), peer.to_string());
            (SlowRequest { api, version, correlation_id, client_id, peer }, stall())
        };
        self.0.borrow_mut().record(api, timeline, who);
    }

    /// What is known now; of the slowest at most so many.
    #[must_use]
    pub fn snapshot(&self, span: Span, slowest: usize, now: Monotonic) -> Snapshot {
        self.0.borrow_mut().snapshot(span, slowest, now.nanos)
    }

    /// The APIs whose requests were answered.
    #[must_use]
    pub fn apis(&self) -> Vec<i16> {
        self.0.borrow().apis()
    }

    /// What is known now of one API: of all its stages, or of the whole only.
    #[must_use]
    pub fn rows(&self, api: i16, span: Span, whole_only: bool, now: Monotonic) -> Vec<Row> {
        self.0.borrow_mut().rows(api, span, whole_only, now.nanos)
    }
}
