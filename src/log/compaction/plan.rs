//! What to clean: dirty ratio, cleanable range, which partition next, groups of segments. Kafka's rules.

/// What a plan must know of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentView {
    /// The offset it is named after.
    pub base: i64,
    /// Bytes of its batches.
    pub size: u64,
    /// Bytes of its offset index.
    pub index_bytes: u64,
    /// Bytes of its time index.
    pub time_index_bytes: u64,
    /// The largest timestamp in it; asked for only with a minimum lag.
    pub largest_timestamp: i64,
    /// The timestamp of its first batch; asked for only with a maximum lag.
    pub first_timestamp: Option<i64>,
}

/// A log as a plan sees it.
#[derive(Clone, Copy, Debug)]
pub struct LogView<'a> {
    /// The first offset that can be read.
    pub log_start: i64,
    /// The end of the last cleaning, by its checkpoint.
    pub checkpoint: i64,
    /// Nothing from here on is touched: the high watermark or the last stable offset, whichever is less.
    pub stable_end: i64,
    /// Segments that are complete, oldest first.
    pub sealed: &'a [SegmentView],
    /// Where the active segment begins: the end of the sealed ones.
    pub active_base: i64,
}

/// A topic's settings, as far as compaction obeys them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CleaningRules {
    /// `min.cleanable.dirty.ratio`.
    pub min_dirty_ratio: f64,
    /// `min.compaction.lag.ms`.
    pub min_lag_ms: i64,
    /// `max.compaction.lag.ms`.
    pub max_lag_ms: i64,
    /// `segment.bytes`.
    pub segment_bytes: u64,
    /// `segment.index.bytes`.
    pub segment_index_bytes: u64,
}

/// What there is to clean in a log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessment {
    /// The first offset that the map must hold.
    pub first_dirty: i64,
    /// The base of a segment: it and what follows stays as it is.
    pub first_uncleanable: i64,
    /// Bytes before the dirty part.
    pub clean_bytes: u64,
    /// Bytes of the dirty part that may be cleaned.
    pub dirty_bytes: u64,
    /// Dirty records are older than `max.compaction.lag.ms`.
    pub overdue: bool,
    /// It is worth a cleaning now.
    pub wanted: bool,
    /// If not: when time alone may change that, in milliseconds.
    pub look_again_ms: Option<i64>,
}

impl Assessment {
    /// The share of dirty bytes, 0 to 1.
    #[must_use]
    pub fn dirty_ratio(&self) -> f64 {
        let total = self.clean_bytes + self.dirty_bytes;
        if total == 0 { 0.0 } else { self.dirty_bytes as f64 / total as f64 }
    }
}

/// Says what there is to clean.
#[must_use]
pub fn assess(log: &LogView<'_>, rules: &CleaningRules, now_ms: i64) -> Assessment {
    let known = log.log_start..=log.active_base;
    let first_dirty = if known.contains(&log.checkpoint) { log.checkpoint } else { log.log_start };
    let end_of = |i: usize| log.sealed.get(i + 1).map_or(log.active_base, |s| s.base);
    let dirty = || log.sealed.iter().enumerate().filter(|(i, _)| end_of(*i) > first_dirty).map(|(_, s)| s);
    let too_young = |s: &&SegmentView| rules.min_lag_ms > 0 && s.largest_timestamp > now_ms - rules.min_lag_ms;
    let young = dirty().find(too_young);
    let limit = log.stable_end.min(young.map_or(log.active_base, |s| s.base)).min(log.active_base);
    // Whole segments only: one that holds the limit in its middle waits.
    let cleanable = log.sealed.iter().enumerate().take_while(|(i, _)| end_of(*i) <= limit).count();
    let first_uncleanable = log.sealed.get(cleanable).map_or(log.active_base, |s| s.base);
    let (mut clean_bytes, mut dirty_bytes) = (0, 0);
    for (i, segment) in log.sealed[..cleanable].iter().enumerate() {
        *(if end_of(i) > first_dirty { &mut dirty_bytes } else { &mut clean_bytes }) += segment.size;
    }
    let oldest = dirty().filter_map(|s| s.first_timestamp).filter(|t| *t > 0).min();
    let due_at = oldest.map(|t| t.saturating_add(rules.max_lag_ms.max(0)));
    let overdue = due_at.is_some_and(|due| due < now_ms);
    let mut found = Assessment {
        first_dirty,
        first_uncleanable,
        clean_bytes,
        dirty_bytes,
        overdue,
        wanted: false,
        look_again_ms: None,
    };
    found.wanted = dirty_bytes > 0 && (overdue || found.dirty_ratio() > rules.min_dirty_ratio);
    if !found.wanted {
        let old_enough = young.map(|s| s.largest_timestamp.saturating_add(rules.min_lag_ms));
        found.look_again_ms = [due_at.filter(|_| !overdue), old_enough].into_iter().flatten().min();
    }
    found
}

/// The one to clean next: the dirtiest of those that want it; of equal ones the first.
pub fn choose<T>(candidates: impl IntoIterator<Item = (T, Assessment)>) -> Option<(T, Assessment)> {
    let mut best: Option<(T, Assessment)> = None;
    for (name, found) in candidates.into_iter().filter(|(_, a)| a.wanted) {
        if best.as_ref().is_none_or(|(_, b)| found.dirty_ratio() > b.dirty_ratio()) {
            best = Some((name, found));
        }
    }
    best
}

/// Which segments become one: neighbours that together do not pass the size of a segment and of its indexes, so that
/// segments do not get ever smaller. `segments` are those to copy, `end` is where the one after them begins.
#[must_use]
pub fn group(segments: &[SegmentView], end: i64, rules: &CleaningRules) -> Vec<std::ops::Range<usize>> {
    let mut groups = Vec::new();
    let mut at = 0;
    while at < segments.len() {
        let first = &segments[at];
        let (mut size, mut index, mut times) = (first.size, first.index_bytes, first.time_index_bytes);
        let mut next = at + 1;
        while let Some(segment) = segments.get(next) {
            let last = segments.get(next + 1).map_or(end, |s| s.base) - 1;
            let fits = size + segment.size <= rules.segment_bytes
                && index + segment.index_bytes <= rules.segment_index_bytes
                && times + segment.time_index_bytes <= rules.segment_index_bytes
                && last - first.base <= i64::from(i32::MAX);
            if !fits {
                break;
            }
            size += segment.size;
            index += segment.index_bytes;
            times += segment.time_index_bytes;
            next += 1;
        }
        groups.push(at..next);
        at = next;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: CleaningRules = CleaningRules {
        min_dirty_ratio: 0.5,
        min_lag_ms: 0,
        max_lag_ms: i64::MAX,
        segment_bytes: 1000,
        segment_index_bytes: 100,
    };

    /// Segments of 10 offsets and 400 bytes; the last one is active. Times are 1000 and more, 100 a segment.
    fn sealed(count: i64) -> Vec<SegmentView> {
        let segment = |i| SegmentView {
            base: i * 10,
            size: 400,
            index_bytes: 8,
            time_index_bytes: 12,
            largest_timestamp: 1099 + i * 100,
            first_timestamp: Some(1000 + i * 100),
        };
        (0..count).map(segment).collect()
    }

    fn view(sealed: &[SegmentView], checkpoint: i64) -> LogView<'_> {
        LogView { log_start: 0, checkpoint, stable_end: 1_000_000, sealed, active_base: sealed.len() as i64 * 10 }
    }

    #[test]
    fn the_ratio_must_be_passed() {
        let segments = sealed(4);
        let found = assess(&view(&segments, 20), &RULES, 5000);
        assert_eq!((found.clean_bytes, found.dirty_bytes, found.wanted), (800, 800, false), "equal is not enough");
        let found = assess(&view(&segments, 10), &RULES, 5000);
        assert_eq!((found.clean_bytes, found.dirty_bytes, found.wanted), (400, 1200, true));
        assert_eq!((found.first_dirty, found.first_uncleanable), (10, 40));
        let none = assess(&view(&segments, 40), &RULES, 5000);
        assert_eq!((none.dirty_bytes, none.wanted, none.look_again_ms), (0, false, None));
        assert!(!assess(&view(&[], 0), &RULES, 5000).wanted);
    }

    #[test]
    fn a_checkpoint_out_of_the_log_does_not_count() {
        let segments = sealed(3);
        let log = LogView { log_start: 5, ..view(&segments, 31) };
        assert_eq!(assess(&log, &RULES, 5000).first_dirty, 5);
        assert_eq!(assess(&LogView { checkpoint: 2, ..log }, &RULES, 5000).first_dirty, 5);
    }

    #[test]
    fn what_is_not_stable_stays() {
        let segments = sealed(4);
        let log = LogView { stable_end: 25, ..view(&segments, 0) };
        let found = assess(&log, &RULES, 5000);
        assert_eq!((found.first_uncleanable, found.dirty_bytes), (20, 800), "25 is in the middle of the third");
        let nothing = assess(&LogView { stable_end: 5, ..log }, &RULES, 5000);
        assert_eq!((nothing.first_uncleanable, nothing.wanted), (0, false));
    }

    #[test]
    fn lags_table() {
        let segments = sealed(4);
        // The segments' largest times are 1099, 1199, 1299, 1399.
        let young = CleaningRules { min_lag_ms: 500, ..RULES };
        for (now, end) in [(1598, 0), (1599, 10), (1700, 20), (1899, 40)] {
            let found = assess(&view(&segments, 0), &young, now);
            assert_eq!(found.first_uncleanable, end, "at {now}");
        }
        assert_eq!(assess(&view(&segments, 0), &young, 1500).look_again_ms, Some(1599));
        // First times are 1000, 1100, …; clean up to 30, so the oldest dirty one is 1300.
        let old = CleaningRules { max_lag_ms: 200, ..RULES };
        assert_eq!(assess(&view(&segments, 30), &old, 1500).look_again_ms, Some(1500));
        assert!(!assess(&view(&segments, 30), &old, 1500).wanted);
        let overdue = assess(&view(&segments, 30), &old, 1501);
        assert!(overdue.overdue && overdue.wanted && overdue.dirty_ratio() < 0.5);
    }

    #[test]
    fn the_dirtiest_goes_first() {
        let segments = sealed(5);
        let at = |checkpoint| assess(&view(&segments, checkpoint), &RULES, 5000);
        let chosen = choose([("a", at(20)), ("b", at(10)), ("c", at(50)), ("d", at(10))]);
        assert_eq!(chosen.map(|c| c.0), Some("b"));
        assert!(choose([("c", at(50))]).is_none());
    }

    #[test]
    fn groups_fill_a_segment() {
        let mut segments = sealed(5);
        assert_eq!(group(&segments, 50, &RULES), [0..2, 2..4, 4..5]);
        segments[1].size = 0;
        assert_eq!(group(&segments, 50, &RULES), [0..3, 3..5], "400 + 0 + 400");
        let few_entries = CleaningRules { segment_index_bytes: 12, ..RULES };
        assert_eq!(group(&segments, 50, &few_entries).len(), 5);
        let far: Vec<_> = (0..3).map(|i| SegmentView { base: i * 2_000_000_000, ..segments[0] }).collect();
        assert_eq!(group(&far, 4_000_000_001, &CleaningRules { segment_bytes: 10_000, ..RULES }), [0..1, 1..3]);
    }

    proptest! {
        #[test]
        fn plans_hold_together(
            sizes in proptest::collection::vec(0..900_u64, 0..12),
            checkpoint in -5..140_i64, start in 0..40_i64, stable in 0..140_i64, lag in 0..800_i64, now in 900..3000_i64,
        ) {
            let mut segments = sealed(sizes.len() as i64);
            segments.iter_mut().zip(&sizes).for_each(|(s, size)| s.size = *size);
            let active = sizes.len() as i64 * 10;
            let log = LogView { log_start: start.min(active), stable_end: stable.max(start), ..view(&segments, checkpoint) };
            let rules = CleaningRules { min_lag_ms: lag, ..RULES };
            let found = assess(&log, &rules, now);
            prop_assert!(found.first_uncleanable <= active && (log.log_start..=active).contains(&found.first_dirty));
            prop_assert!(found.first_uncleanable <= stable.max(start) || found.first_uncleanable == 0);
            for s in segments.iter().filter(|s| s.base + 10 > found.first_dirty && s.base < found.first_uncleanable) {
                prop_assert!(lag == 0 || s.largest_timestamp <= now - lag);
            }
            let copied: Vec<_> = segments.iter().copied().filter(|s| s.base < found.first_uncleanable).collect();
            let mut expected = 0;
            for range in group(&copied, found.first_uncleanable, &rules) {
                prop_assert_eq!(range.start, expected);
                prop_assert!(!range.is_empty());
                let size: u64 = copied[range.clone()].iter().map(|s| s.size).sum();
                prop_assert!(size <= rules.segment_bytes || range.len() == 1);
                expected = range.end;
            }
            prop_assert_eq!(expected, copied.len());
        }
    }
}
