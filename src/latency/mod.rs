//! Where the time of a request goes: the stages it passes, how long they take, and which requests were slowest. Pure: the
//! clock is an argument, in nanoseconds of any monotonic clock that all shards share.
//!
//! ```text
//! whole in memory ─queue─ its turn ─parse─ ┬─(hop)─(intake)─ in the log ─journal─ group commit ─device─(hop)─┐
//!                                          ├─ read ─(hop)─ too little: wait ─ read …                         ├─ready─ its turn ─send─ out
//!                                          └─ handle ─(hop)─ handle ─(journal)─(device)─(hop)─ handle ───────┘
//! ```
//! [`Timeline`] travels with a request and gathers the stages, [`Book`] keeps what became of all of them.

mod book;
mod slowest;

pub use book::{Book, Row, Snapshot, Span, Summary};
pub use slowest::{Slow, SlowRequest, SlowestRing, Stall};

/// A part of a request's way. The numbers are those on the wire; 6 is kept for the wait for replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Stage {
    /// Whole in memory, until those before it on its connection were handled.
    Queue = 0,
    /// Read and routed to the shards.
    Parse = 1,
    /// To another shard and back.
    Hop = 2,
    /// At its partition, until in the log: the partition was loaded, or batches compressed anew.
    Intake = 3,
    /// In the log, until the write of its group commit began.
    Journal = 4,
    /// The write and its flush.
    Device = 5,
    /// The work of an API that is not Produce or Fetch, on whatever shard; that of coordinators included. What their records
    /// wait for is [`Stage::Journal`] and [`Stage::Device`].
    Handle = 7,
    /// Fetch: records read, from memory or the device.
    Read = 8,
    /// Waited on purpose: Fetch for records, JoinGroup and SyncGroup for other members.
    Wait = 9,
    /// From the last of these until the answer was made, and those before it on its connection were.
    Ready = 10,
    /// Given to the socket.
    Send = 11,
}

/// One more than the largest number of a stage.
const STAGES: usize = 12;

impl Stage {
    /// All, in the order of a request's way.
    pub const ALL: [Self; 11] = [
        Self::Queue,
        Self::Parse,
        Self::Hop,
        Self::Intake,
        Self::Journal,
        Self::Device,
        Self::Handle,
        Self::Read,
        Self::Wait,
        Self::Ready,
        Self::Send,
    ];

    /// The stage with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| *stage as u8 == number)
    }

    /// In one lower-case word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Parse => "parse",
            Self::Hop => "hop",
            Self::Intake => "intake",
            Self::Journal => "journal",
            Self::Device => "device",
            Self::Handle => "handle",
            Self::Read => "read",
            Self::Wait => "wait",
            Self::Ready => "ready",
            Self::Send => "send",
        }
    }
}

/// The flush that a request waited on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flush {
    /// Whose.
    pub shard: u16,
    /// Which group commit of the shard since its start; none for a large batch, which goes straight to its segment.
    pub group: Option<u64>,
    /// Partitions that were in it.
    pub partitions: u32,
    /// Bytes that were written.
    pub bytes: u64,
    /// How long the write and its flush took.
    pub nanos: u64,
}

/// How long a request was where, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    begun: u64,
    last: u64,
    spent: [u64; STAGES],
    flush: Option<Flush>,
}

impl Timeline {
    /// Of a request that was whole in memory at `nanos`.
    #[must_use]
    pub fn begin(nanos: u64) -> Self {
        Self { begun: nanos, last: nanos, ..Self::default() }
    }

    /// Of a request whose time nobody looks at: marks do nothing.
    #[must_use]
    pub fn unstamped() -> Self {
        Self::begin(u64::MAX)
    }

    /// As [`Timeline::mark`]; the clock is only asked if somebody looks at it.
    pub fn mark_now(&mut self, stage: Stage, nanos: impl FnOnce() -> u64) {
        if self.last < u64::MAX {
            self.mark(stage, nanos());
        }
    }

    /// `stage` has lasted from the mark before until `nanos`. A time before that mark says nothing: the stage took place
    /// beside another one, and no longer.
    pub fn mark(&mut self, stage: Stage, nanos: u64) {
        if nanos > self.last {
            self.spent[stage as usize] += nanos - self.last;
            self.last = nanos;
        }
    }

    /// It waited for this.
    pub fn waited_on(&mut self, flush: Flush) {
        self.flush = Some(flush);
    }

    /// What it waited for.
    #[must_use]
    pub fn flush(&self) -> Option<Flush> {
        self.flush
    }

    /// When it began.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// When the last mark was made.
    #[must_use]
    pub fn ended(&self) -> u64 {
        self.last
    }

    /// Nanoseconds in a stage.
    #[must_use]
    pub fn spent(&self, stage: Stage) -> u64 {
        self.spent[stage as usize]
    }

    /// Nanoseconds altogether: the sum of all stages.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.last - self.begun
    }

    /// … without those that it waited on purpose.
    #[must_use]
    pub fn busy(&self) -> u64 {
        self.total() - self.spent(Stage::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_stamps_no_clock_is_asked() {
        let mut timeline = Timeline::unstamped();
        timeline.mark(Stage::Device, 5);
        timeline.mark_now(Stage::Send, || unreachable!("nobody looks at it"));
        assert_eq!(timeline.total(), 0);
        let mut timeline = Timeline::begin(1);
        timeline.mark_now(Stage::Send, || 4);
        assert_eq!((timeline.spent(Stage::Send), timeline.total()), (3, 3));
    }

    #[test]
    fn numbers_of_stages_are_for_good() {
        let numbers: Vec<u8> = Stage::ALL.iter().map(|stage| *stage as u8).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]);
        assert_eq!(Stage::from_number(6), None);
        assert!(Stage::ALL.iter().all(|stage| Stage::from_number(*stage as u8) == Some(*stage)));
    }

    proptest! {
        #[test]
        fn stages_add_up_whatever_the_clock_says(
            begun: u32, marks in prop::collection::vec((0..Stage::ALL.len(), any::<u32>()), 0..30),
        ) {
            let mut timeline = Timeline::begin(u64::from(begun));
            for (stage, nanos) in &marks {
                timeline.mark(Stage::ALL[*stage], u64::from(*nanos));
            }
            let sum: u64 = Stage::ALL.iter().map(|stage| timeline.spent(*stage)).sum();
            prop_assert_eq!(sum, timeline.total());
            let latest = marks.iter().map(|(_, nanos)| *nanos).max().unwrap_or(0).max(begun);
            prop_assert_eq!(timeline.ended(), u64::from(latest));
            prop_assert_eq!(timeline.busy() + timeline.spent(Stage::Wait), timeline.total());
        }
    }
}
