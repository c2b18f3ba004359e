//! Latencies of a run: all of them, and by the moment at which each began.

use super::report::{Latency, Span};
use hdrhistogram::Histogram;

/// Spans of a run, at most; then two become one.
const SPANS_MAX: usize = 120;
const FIRST_SPAN_NANOS: u64 = 100_000_000;

/// What one connection has measured.
#[derive(Clone, Debug)]
pub(super) struct Latencies {
    /// In nanoseconds, three digits.
    whole: Histogram<u64>,
    /// In microseconds, two digits; the n-th of those that began between `n` and `n + 1` spans after the start.
    spans: Vec<Histogram<u64>>,
    span_nanos: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        let whole = Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("valid bounds");
        Self { whole, spans: Vec::new(), span_nanos: FIRST_SPAN_NANOS }
    }

    /// What began at `at`, in nanoseconds since the start (in an open loop: was meant to begin), took so long.
    pub(super) fn record(&mut self, at: u64, nanos: u64) {
        let nanos = nanos.max(1);
        self.whole.saturating_record(nanos);
        while at / self.span_nanos >= SPANS_MAX as u64 {
            self.widen();
        }
        let n = (at / self.span_nanos) as usize;
        if self.spans.len() <= n {
            self.spans.resize_with(n + 1, short);
        }
        self.spans[n].saturating_record((nanos / 1000).max(1));
    }

    fn widen(&mut self) {
        let pairs = std::mem::take(&mut self.spans);
        for (n, span) in pairs.into_iter().enumerate() {
            match n % 2 {
                0 => self.spans.push(span),
                _ => self.spans[n / 2].add(&span).expect("histograms of one shape"),
            }
        }
        self.span_nanos *= 2;
    }

    pub(super) fn add(&mut self, mut other: Self) {
        self.whole.add(&other.whole).expect("histograms of one shape");
        while self.span_nanos < other.span_nanos {
            self.widen();
        }
        while other.span_nanos < self.span_nanos {
            other.widen();
        }
        if self.spans.len() < other.spans.len() {
            self.spans.resize_with(other.spans.len(), short);
        }
        for (into, from) in self.spans.iter_mut().zip(&other.spans) {
            into.add(from).expect("histograms of one shape");
        }
    }

    pub(super) fn report(&self, of: &str) -> Latency {
        let seconds = self.span_nanos as f64 / 1e9;
        let span = |(n, histogram): (usize, &Histogram<u64>)| Span {
            at_seconds: n as f64 * seconds,
            seconds,
            count: histogram.len(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        };
        let mut latency = Latency::from_nanos(of, &self.whole);
        latency.over_time = self.spans.iter().enumerate().filter(|(_, s)| !s.is_empty()).map(span).collect();
        latency
    }
}

/// One microsecond to two minutes.
fn short() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000, 2).expect("valid bounds")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_stall_is_seen_where_it_began() {
        let mut latencies = Latencies::new();
        for ms in 0..3_000 {
            let stall = if ms / 500 == 3 { 50_000_000 } else { 200_000 };
            latencies.record(ms * 1_000_000, stall);
        }
        let spans = latencies.report("x").over_time;
        assert_eq!(spans.len(), 30);
        for span in &spans {
            let slow = (1.5..1.99).contains(&span.at_seconds);
            assert_eq!(span.p50_us > 10_000, slow, "at {} s", span.at_seconds);
            assert_eq!(span.count, 100);
        }
    }

    #[test]
    fn long_runs_have_wider_spans_and_lose_nothing() {
        let (mut one, mut other) = (Latencies::new(), Latencies::new());
        for second in 0..600 {
            one.record(second * SECOND, 1_000_000);
        }
        other.record(SECOND / 2, 2_000_000);
        other.add(one);
        let report = other.report("x");
        assert!(report.over_time.len() <= SPANS_MAX);
        assert_eq!(report.count, 601);
        assert_eq!(report.over_time.iter().map(|s| s.count).sum::<u64>(), 601);
        let last = report.over_time.last().expect("spans");
        assert!(last.at_seconds <= 599.0 && last.at_seconds + last.seconds > 599.0);
    }
}
