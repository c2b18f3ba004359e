//! What handlers and connections count, where nothing else does. Plain cells of one shard.

use crate::broker::handlers::Way;
use crate::broker::moving::{Steer, SteerCounts};
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use crate::protocol::ApiKey;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// By API and code: the error's name, and how often it was answered.
type Errors = BTreeMap<(ApiKey, i16), (&'static str, u64)>;

/// Counters of one shard; lives as long as it.
#[derive(Debug, Default)]
pub struct Meters {
    /// Connections there are.
    pub connections: Cell<u64>,
    /// Connections closed because of what the client sent.
    pub refused: Cell<u64>,
    /// Bytes of requests that were copied because they came in pieces.
    pub frame_copied_bytes: Cell<u64>,
    /// Errors in answers.
    errors: RefCell<Errors>,
    /// Bytes of records sent to consumers.
    fetched: RefCell<HashMap<TopicId, u64>>,
    /// The request whose handler is being polled.
    pub(in crate::broker) way: RefCell<Option<Rc<Way>>>,
    /// How connections leave; none where they do not.
    steer: RefCell<Option<Rc<Steer>>>,
}

impl Meters {
    /// An answer holds this error.
    pub fn failed(&self, api: ApiKey, error: ErrorCode) {
        self.errors.borrow_mut().entry((api, error as i16)).or_insert((error.name(), 0)).1 += 1;
    }

    /// Errors by API: name of the error and how often.
    #[must_use]
    pub fn errors(&self) -> Vec<(ApiKey, &'static str, u64)> {
        self.errors.borrow().iter().map(|((api, _), (name, count))| (*api, *name, *count)).collect()
    }

    /// Records were sent.
    pub fn sent(&self, topic: TopicId, bytes: usize) {
        *self.fetched.borrow_mut().entry(topic).or_default() += bytes as u64;
    }

    /// Bytes sent by topic; forgets topics that are gone.
    #[must_use]
    pub fn fetched(&self, known: impl Fn(TopicId) -> bool) -> Vec<(TopicId, u64)> {
        let mut fetched = self.fetched.borrow_mut();
        fetched.retain(|topic, _| known(*topic));
        fetched.iter().map(|(topic, bytes)| (*topic, *bytes)).collect()
    }

    /// Connections move, and this counts them.
    pub fn steered_by(&self, steer: Rc<Steer>) {
        self.steer.replace(Some(steer));
    }

    /// What moved; none where nothing does.
    #[must_use]
    pub fn steered(&self) -> Option<SteerCounts> {
        self.steer.borrow().as_ref().map(|steer| steer.counts())
    }

    pub(in crate::broker) fn count(cell: &Cell<u64>) {
        cell.set(cell.get().wrapping_add(1));
    }
}
