//! Histograms by API and stage: of the window that runs, of the one before, and of all that came before them.

use super::slowest::{Slow, SlowRequest, SlowestRing, Stall, slowest_of};
use super::{Stage, Timeline};
use hdrhistogram::{Counter, Histogram};
use std::collections::BTreeMap;

/// Slowest requests that are kept of a window.
const SLOWEST_MAX: usize = 64;
/// How long a window is.
const WINDOW_NANOS: u64 = 10_000_000_000;
/// Below it times are not told apart.
const LOW_NANOS: u64 = 512;
/// Requests whose times go into the histograms together: these are not in the processor's caches when one request is
/// answered, and are for all that follow the first.
const PENDING_MAX: usize = 32;
/// Longer times count as this.
const HIGH_NANOS: u64 = 300_000_000_000;
/// The error of a value is below one in a hundred.
const DIGITS: u8 = 2;

/// Of which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// The last ten to twenty seconds.
    Recent,
    /// Since the start.
    All,
}

fn histogram<C: Counter>() -> Histogram<C> {
    Histogram::new_with_bounds(LOW_NANOS, HIGH_NANOS, DIGITS).expect("the bounds are in order")
}

fn add<C: Counter>(to: &mut Histogram<u64>, from: &Histogram<C>) {
    for step in from.iter_recorded() {
        to.saturating_record_n(step.value_iterated_to(), step.count_at_value().as_u64());
    }
}

/// The histograms of one stage (or of the whole) of one API.
#[derive(Debug)]
struct Times {
    current: Histogram<u32>,
    last: Histogram<u32>,
    before: Histogram<u64>,
}

impl Times {
    fn new() -> Self {
        Self { current: histogram(), last: histogram(), before: histogram() }
    }

    fn roll(&mut self, expired: bool) {
        std::mem::swap(&mut self.current, &mut self.last);
        // What was the last window is older than both now.
        add(&mut self.before, &self.current);
        self.current.reset();
        if expired {
            add(&mut self.before, &self.last);
            self.last.reset();
        }
    }

    fn of(&self, span: Span) -> Histogram<u64> {
        let mut sum = match span {
            Span::Recent => histogram(),
            Span::All => self.before.clone(),
        };
        add(&mut sum, &self.current);
        add(&mut sum, &self.last);
        sum
    }
}

/// What came of the requests of one API.
#[derive(Debug, Default)]
struct ApiTimes {
    /// By stage, and at the end the whole; made when the first is recorded.
    times: [Option<Box<Times>>; Stage::ALL.len() + 1],
}

impl ApiTimes {
    fn record(&mut self, timeline: &Timeline) {
        for (times, stage) in self.times.iter_mut().zip(Stage::ALL) {
            let spent = timeline.spent(stage);
            if spent > 0 {
                record(times, spent);
            }
        }
        record(&mut self.times[Stage::ALL.len()], timeline.total());
    }
}

impl ApiTimes {
    fn rows(&self, api: i16, span: Span, whole_only: bool) -> impl Iterator<Item = Row> + '_ {
        let stages = Stage::ALL.into_iter().map(Some).chain([None]);
        let known = stages.zip(&self.times).filter_map(|(stage, times)| Some((stage, times.as_ref()?)));
        let wanted = known.filter(move |(stage, _)| !whole_only || stage.is_none());
        wanted.map(move |(stage, times)| Row { api, stage, times: times.of(span) })
    }
}

fn record(times: &mut Option<Box<Times>>, nanos: u64) {
    times.get_or_insert_with(|| Box::new(Times::new())).current.saturating_record(nanos);
}

/// What became of the requests of one shard.
#[derive(Debug)]
pub struct Book {
    shard: u16,
    window: u64,
    /// APIs and times of requests of the window that runs, which are not in the histograms yet: fewer than [`PENDING_MAX`].
    pending: Vec<(i16, Timeline)>,
    apis: BTreeMap<i16, ApiTimes>,
    slowest: SlowestRing,
}

impl Book {
    /// Of the shard with this number.
    #[must_use]
    pub fn new(shard: u16) -> Self {
        let (pending, apis) = (Vec::with_capacity(PENDING_MAX), BTreeMap::new());
        Self { shard, window: 0, pending, apis, slowest: SlowestRing::new(SLOWEST_MAX) }
    }

    /// A request has been answered. `who` is asked for its particulars, and for a stall while it was here, only if it was
    /// one of the slowest.
    pub fn record(&mut self, api: i16, timeline: &Timeline, who: impl FnOnce() -> (SlowRequest, Option<Stall>)) {
        self.roll(timeline.ended());
        if self.slowest.wants(timeline) {
            let (request, stall) = who();
            self.slowest.push(Slow { shard: self.shard, request, timeline: *timeline, stall });
        }
        self.pending.push((api, *timeline));
        if self.pending.len() == PENDING_MAX {
            self.settle();
        }
    }

    /// Brings the histograms up to date.
    fn settle(&mut self) {
        for (api, timeline) in self.pending.drain(..) {
            self.apis.entry(api).or_default().record(&timeline);
        }
    }

    fn roll(&mut self, now: u64) {
        let window = now / WINDOW_NANOS;
        if window <= self.window {
            return;
        }
        self.settle();
        let expired = window > self.window + 1;
        let times = self.apis.values_mut().flat_map(|api| api.times.iter_mut().flatten());
        times.for_each(|times| times.roll(expired));
        self.slowest.roll(window);
        self.window = window;
    }

    /// The APIs that were used.
    #[must_use]
    pub fn apis(&mut self) -> Vec<i16> {
        self.settle();
        self.apis.keys().copied().collect()
    }

    /// What is known at `now` of one API: of all its stages, or of the whole only.
    #[must_use]
    pub fn rows(&mut self, api: i16, span: Span, whole_only: bool, now: u64) -> Vec<Row> {
        self.roll(now);
        self.settle();
        let Some(times) = self.apis.get(&api) else { return Vec::new() };
        times.rows(api, span, whole_only).filter(|row| !row.times.is_empty()).collect()
    }

    /// What is known at `now`; of the slowest at most `slowest`.
    #[must_use]
    pub fn snapshot(&mut self, span: Span, slowest: usize, now: u64) -> Snapshot {
        self.roll(now);
        self.settle();
        let rows = self.apis.iter().flat_map(|(api, times)| times.rows(*api, span, false));
        Snapshot { rows: rows.filter(|row| !row.times.is_empty()).collect(), slowest: self.slowest.slowest(slowest) }
    }
}

/// The histogram of one stage of one API.
#[derive(Clone, Debug)]
pub struct Row {
    /// The API's number.
    pub api: i16,
    /// The stage; none for the whole.
    pub stage: Option<Stage>,
    times: Histogram<u64>,
}

/// A histogram in a few numbers: nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many requests had this stage.
    pub count: u64,
    /// The average.
    pub mean: u64,
    /// The median.
    pub p50: u64,
    /// Of ten, one took longer.
    pub p90: u64,
    /// Of a hundred.
    pub p99: u64,
    /// Of a thousand.
    pub p999: u64,
    /// The longest.
    pub max: u64,
}

impl Row {
    /// Gives each time that was told apart, in nanoseconds, and how many requests had it.
    pub fn each(&self, mut f: impl FnMut(u64, u64)) {
        for step in self.times.iter_recorded() {
            f(step.value_iterated_to().min(self.times.max()), step.count_at_value());
        }
    }

    /// In a few numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let times = &self.times;
        let at = |quantile| times.value_at_quantile(quantile).min(times.max());
        Summary {
            count: times.len(),
            mean: times.mean() as u64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: times.max(),
        }
    }
}

/// What a [`Book`] knew at a time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// By API, then stage, the whole last.
    pub rows: Vec<Row>,
    /// Slowest first.
    pub slowest: Vec<Slow>,
}

impl Snapshot {
    /// Adds what another shard knew; keeps `slowest` of the slowest.
    pub fn merge(&mut self, other: Self, slowest: usize) {
        for row in other.rows {
            match self.rows.iter_mut().find(|r| (r.api, r.stage) == (row.api, row.stage)) {
                Some(mine) => add(&mut mine.times, &row.times),
                None => self.rows.push(row),
            }
        }
        self.rows.sort_by_key(|row| (row.api, row.stage.is_none(), row.stage));
        let all = std::mem::take(&mut self.slowest).into_iter().chain(other.slowest).collect();
        self.slowest = slowest_of(all, slowest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn answered(book: &mut Book, at: u64, device: u64) {
        let mut timeline = Timeline::begin(at);
        timeline.mark(Stage::Device, at + device);
        timeline.mark(Stage::Send, at + device + MS);
        book.record(0, &timeline, || (SlowRequest::default(), None));
    }

    fn of(snapshot: &Snapshot, stage: Option<Stage>) -> Summary {
        snapshot.rows.iter().find(|row| row.stage == stage).map(Row::summary).unwrap_or_default()
    }

    fn near(value: u64, expected: u64) -> bool {
        value.abs_diff(expected) <= expected / 100
    }

    #[test]
    fn stages_and_the_whole_are_told_apart() {
        let mut book = Book::new(3);
        (1..=100).for_each(|i| answered(&mut book, 0, i * MS));
        let snapshot = book.snapshot(Span::Recent, 2, 5 * MS);
        let (device, all) = (of(&snapshot, Some(Stage::Device)), of(&snapshot, None));
        assert_eq!((device.count, all.count), (100, 100));
        assert!(near(device.p50, 50 * MS) && near(device.p99, 99 * MS) && near(device.max, 100 * MS), "{device:?}");
        assert!(near(all.p50, 51 * MS), "{all:?}");
        assert_eq!(of(&snapshot, Some(Stage::Hop)).count, 0);
        let slowest: Vec<u64> = snapshot.slowest.iter().map(|s| s.timeline.total()).collect();
        assert_eq!(slowest, [101 * MS, 100 * MS]);
        assert!(snapshot.slowest.iter().all(|s| s.shard == 3));
    }

    #[test]
    fn a_window_is_recent_for_as_long_as_another_one() {
        let mut book = Book::new(0);
        answered(&mut book, 0, MS);
        answered(&mut book, WINDOW_NANOS, 5 * MS);
        assert_eq!(of(&book.snapshot(Span::Recent, 9, WINDOW_NANOS), None).count, 2);
        let later = book.snapshot(Span::Recent, 9, 2 * WINDOW_NANOS);
        assert_eq!((of(&later, None).count, later.slowest.len()), (1, 1));
        assert_eq!(of(&book.snapshot(Span::All, 9, 2 * WINDOW_NANOS), None).count, 2);
        let much_later = book.snapshot(Span::Recent, 9, 9 * WINDOW_NANOS);
        assert!(much_later.rows.is_empty() && much_later.slowest.is_empty());
        let all = of(&book.snapshot(Span::All, 9, 9 * WINDOW_NANOS), None);
        assert!(all.count == 2 && near(all.max, 6 * MS), "{all:?}");
    }

    #[test]
    fn a_clock_that_stands_rolls_nothing() {
        let mut book = Book::new(0);
        answered(&mut book, 3 * WINDOW_NANOS, MS);
        // One that began before and was marked no later.
        answered(&mut book, 0, MS);
        assert_eq!(of(&book.snapshot(Span::Recent, 9, 3 * WINDOW_NANOS), None).count, 2);
    }

    #[test]
    fn shards_add_up() {
        let (mut one, mut two) = (Book::new(0), Book::new(1));
        answered(&mut one, 0, MS);
        (0..3).for_each(|_| answered(&mut two, 0, 9 * MS));
        let mut sum = one.snapshot(Span::All, 2, MS);
        sum.merge(two.snapshot(Span::All, 2, MS), 2);
        assert_eq!(of(&sum, Some(Stage::Device)).count, 4);
        assert!(near(of(&sum, None).max, 10 * MS));
        assert_eq!(sum.slowest.iter().map(|s| s.shard).collect::<Vec<_>>(), [1, 1]);
        let stages: Vec<_> = sum.rows.iter().map(|row| row.stage).collect();
        assert_eq!(stages, [Some(Stage::Device), Some(Stage::Send), None]);
    }

    proptest! {
        #[test]
        fn whatever_was_recorded_is_known(
            // How long after the one before, for how long, of which API.
            requests in prop::collection::vec((0..WINDOW_NANOS / 40, 1..100 * MS, 0..3_i16), 0..200),
        ) {
            let (mut book, mut settled) = (Book::new(0), Book::new(0));
            let mut now = 0;
            for (later, device, api) in &requests {
                now += later;
                let mut timeline = Timeline::begin(now);
                timeline.mark(Stage::Device, now + device);
                for book in [&mut book, &mut settled] {
                    book.record(*api, &timeline, || (SlowRequest::default(), None));
                }
                settled.settle();
                prop_assert!(book.pending.len() < PENDING_MAX && book.pending.capacity() == PENDING_MAX);
            }
            let now = now + 100 * MS;
            let rows = |snapshot: Snapshot| -> Vec<_> {
                snapshot.rows.into_iter().map(|row| (row.api, row.stage, row.times)).collect()
            };
            let mut apis: Vec<i16> = requests.iter().map(|(.., api)| *api).collect();
            apis.sort_unstable();
            apis.dedup();
            prop_assert_eq!(book.apis(), apis);
            let all = rows(settled.snapshot(Span::All, 0, now));
            let count: u64 = all.iter().filter(|row| row.1.is_none()).map(|row| row.2.len()).sum();
            prop_assert_eq!(count, requests.len() as u64);
            prop_assert_eq!(rows(book.snapshot(Span::All, 0, now)), all);
            prop_assert_eq!(rows(book.snapshot(Span::Recent, 0, now)), rows(settled.snapshot(Span::Recent, 0, now)));
        }
    }

    #[test]
    fn what_waits_to_be_noted_is_in_every_answer() {
        let answers: [fn(&mut Book) -> usize; 3] = [
            |book| book.apis().len(),
            |book| book.rows(0, Span::Recent, true, 5 * MS).len(),
            |book| book.snapshot(Span::Recent, 0, 5 * MS).rows.iter().filter(|row| row.stage.is_none()).count(),
        ];
        for answer in answers {
            let mut book = Book::new(0);
            answered(&mut book, 0, MS);
            assert_eq!((book.pending.len(), answer(&mut book), book.pending.len()), (1, 1, 0));
        }
    }

    #[test]
    fn too_long_counts_as_the_longest() {
        let mut book = Book::new(0);
        answered(&mut book, 0, 10 * HIGH_NANOS);
        let all = of(&book.snapshot(Span::All, 1, 0), None);
        assert!(all.count == 1 && near(all.max, HIGH_NANOS), "{all:?}");
    }
}
