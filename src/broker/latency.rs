//! The book of one shard's latencies: connections write it, DescribeLatency reads it.

use crate::latency::{Book, Row, SlowRequest, Snapshot, Span, Stall, Timeline};
use crate::protocol::{ApiKey, Request};
use coreline_io::Monotonic;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

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
    pub client_id: Option<Arc<str>>,
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
pub struct Latencies {
    book: RefCell<Book>,
    /// Requests answered, by API.
    answered: RefCell<BTreeMap<ApiKey, u64>>,
    /// `coreline.latency`
    stamps: Cell<bool>,
}

impl Latencies {
    /// Of the shard with this number.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        Self { book: RefCell::new(Book::new(shard)), answered: RefCell::default(), stamps: Cell::new(true) }
    }

    /// Without stamps nothing is known but how many requests there were.
    pub fn stamp(&self, stamps: bool) {
        self.stamps.set(stamps);
    }

    /// For a request that was whole in memory at `now`.
    #[must_use]
    pub fn begin(&self, now: Monotonic) -> Timeline {
        if self.stamps.get() { Timeline::begin(now.nanos) } else { Timeline::unstamped() }
    }

    /// Requests that were answered, by API.
    #[must_use]
    pub fn answered(&self) -> Vec<(ApiKey, u64)> {
        self.answered.borrow().iter().map(|(api, count)| (*api, *count)).collect()
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
        *self.answered.borrow_mut().entry(key).or_default() += 1;
        if !self.stamps.get() {
            return;
        }
        let api = key as i16;
        let who = || {
            let (client_id, peer) = (client_id.as_deref().unwrap_or_default().to_owned(), peer.to_string());
            (SlowRequest { api, version, correlation_id, client_id, peer }, stall())
        };
        self.book.borrow_mut().record(api, timeline, who);
    }

    /// What is known now; of the slowest at most so many.
    #[must_use]
    pub fn snapshot(&self, span: Span, slowest: usize, now: Monotonic) -> Snapshot {
        self.book.borrow_mut().snapshot(span, slowest, now.nanos)
    }

    /// The APIs whose requests were answered.
    #[must_use]
    pub fn apis(&self) -> Vec<i16> {
        self.book.borrow_mut().apis()
    }

    /// What is known now of one API: of all its stages, or of the whole only.
    #[must_use]
    pub fn rows(&self, api: i16, span: Span, whole_only: bool, now: Monotonic) -> Vec<Row> {
        self.book.borrow_mut().rows(api, span, whole_only, now.nanos)
    }
}
