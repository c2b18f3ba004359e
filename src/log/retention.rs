//! What to delete of a log: a plan from its segments, its settings and the time. Carried out by `broker/store/retention`.
//!
//! Kafka's rules (`retention.ms`, `retention.bytes`, the log's start), oldest segment first, whole segments only:
//!
//! ```text
//! segments   [0 ‥ 99]  [100 ‥ 199]  [200 ‥ 299]  [300 ‥ 340]   active, 41 records
//! start 150  goes: wholly before the start
//! size       ─────────  goes while the log without it is still at least retention.bytes
//! age        ─────────  goes while its largest timestamp is more than retention.ms ago
//! ```
//! Nothing at or above the high watermark goes. When all that is there goes, the active segment is closed first.

/// A segment as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFacts {
    /// Offset of its first record.
    pub base: i64,
    /// Bytes of its batches.
    pub size: u64,
    /// The largest timestamp of its records, negative if they have none; `None` if it has not been read yet.
    pub max_timestamp: Option<i64>,
}

/// What a topic's settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// `cleanup.policy` holds `delete`. Without it only what is before the log's start goes.
    pub deletes: bool,
    /// `retention.ms`; negative: no limit.
    pub retention_ms: i64,
    /// `retention.bytes`; negative: no limit.
    pub retention_bytes: i64,
}

/// A log as the plan sees it: `start ≤ high_watermark ≤ end`, segments in order and at least one.
#[derive(Clone, Copy, Debug)]
pub struct LogFacts<'a> {
    /// Oldest first; the last one is active.
    pub segments: &'a [SegmentFacts],
    /// The log's first offset.
    pub start: i64,
    /// Offsets below it are committed.
    pub high_watermark: i64,
    /// The next offset to be given.
    pub end: i64,
    /// Bytes that are not committed: they may never be, and then are nothing that stays.
    pub waiting_bytes: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing now. By age alone, nothing before `until_ms` either (`None`: never).
    Keep {
        /// Wall-clock milliseconds.
        until_ms: Option<i64>,
    },
    /// The largest timestamp of the segment at this offset must be known first.
    Read {
        /// Its base offset.
        base: i64,
    },
    /// The log begins at `start` from now on.
    Delete {
        /// The new start of the log, later than the old one or the same.
        start: i64,
        /// So many of the oldest segments are wholly before it.
        segments: usize,
        /// The active one is among them: it is to be closed first.
        roll: bool,
    },
}

/// Decides what goes at `now_ms`.
#[must_use]
pub fn plan(now_ms: i64, policy: Policy, log: LogFacts<'_>) -> Plan {
    let LogFacts { segments, start, high_watermark, end, waiting_bytes } = log;
    let upper = |n: usize| segments.get(n + 1).map_or(end, |next| next.base);
    let last = segments.len() - 1;
    // The active segment has nothing after it that the start could have reached; empty, it stays.
    let may_go = |n: usize| n <= last && upper(n) <= high_watermark && (n < last || segments[n].size > 0);
    let mut n = 0;
    while n < last && upper(n) <= start {
        n += 1;
    }
    let mut until_ms = None;
    if policy.deletes {
        if let Ok(limit) = u64::try_from(policy.retention_bytes) {
            let mut left = segments[n..].iter().map(|s| s.size).sum::<u64>().saturating_sub(waiting_bytes);
            while may_go(n) && left.saturating_sub(segments[n].size) >= limit {
                left = left.saturating_sub(segments[n].size);
                n += 1;
            }
        }
        while policy.retention_ms >= 0 && may_go(n) {
            let Some(timestamp) = segments[n].max_timestamp else { return Plan::Read { base: segments[n].base } };
            if timestamp < 0 {
                break;
            }
            if now_ms.saturating_sub(timestamp) <= policy.retention_ms {
                until_ms = Some(timestamp.saturating_add(policy.retention_ms).saturating_add(1));
                break;
            }
            n += 1;
        }
    }
    match n.checked_sub(1) {
        None => Plan::Keep { until_ms },
        Some(gone) => Plan::Delete { start: start.max(upper(gone)), segments: n, roll: n > last },
    }
}

/// How much earlier than `segment.ms` the segment at `base` is closed: less than `segment.jitter.ms`, spread over logs
/// (`salt`) and segments so that not all are closed at once.
#[must_use]
pub fn roll_jitter_ms(salt: u64, base: i64, jitter_ms: i64, segment_ms: i64) -> i64 {
    let most = jitter_ms.min(segment_ms).max(0).unsigned_abs();
    if most == 0 {
        return 0;
    }
    // The finalizer of splitmix64.
    let mut x = salt ^ base.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    i64::try_from((x ^ (x >> 31)) % most).expect("less than an i64")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: Policy = Policy { deletes: true, retention_ms: -1, retention_bytes: -1 };

    fn segments(facts: &[(i64, u64, i64)]) -> Vec<SegmentFacts> {
        facts.iter().map(|&(base, size, t)| SegmentFacts { base, size, max_timestamp: Some(t) }).collect()
    }

    fn all_of(segments: &[SegmentFacts], start: i64, end: i64) -> LogFacts<'_> {
        LogFacts { segments, start, high_watermark: end, end, waiting_bytes: 0 }
    }

    #[test]
    fn by_size_by_age_and_by_start() {
        let four = segments(&[(0, 100, 10), (100, 100, 20), (200, 100, 30), (300, 50, 40)]);
        let delete = |start, segments, roll| Plan::Delete { start, segments, roll };
        for (policy, now, start, expected) in [
            (KEEP, 1_000, 0, Plan::Keep { until_ms: None }),
            (KEEP, 1_000, 150, delete(150, 1, false)),
            (KEEP, 1_000, 340, delete(340, 3, false)),
            (Policy { deletes: false, retention_ms: 0, ..KEEP }, 1_000, 150, delete(150, 1, false)),
            (Policy { deletes: false, retention_ms: 0, ..KEEP }, 1_000, 0, Plan::Keep { until_ms: None }),
            (Policy { retention_bytes: 350, ..KEEP }, 1_000, 0, Plan::Keep { until_ms: None }),
            (Policy { retention_bytes: 250, ..KEEP }, 1_000, 0, delete(100, 1, false)),
            (Policy { retention_bytes: 251, ..KEEP }, 1_000, 0, Plan::Keep { until_ms: None }),
            (Policy { retention_bytes: 0, ..KEEP }, 1_000, 0, delete(341, 4, true)),
            (Policy { retention_ms: 5, ..KEEP }, 15, 0, Plan::Keep { until_ms: Some(16) }),
            (Policy { retention_ms: 5, ..KEEP }, 16, 0, delete(100, 1, false)),
            (Policy { retention_ms: 5, ..KEEP }, 46, 0, delete(341, 4, true)),
            (Policy { retention_ms: 0, ..KEEP }, 40, 0, delete(300, 3, false)),
        ] {
            assert_eq!(plan(now, policy, all_of(&four, start, 341)), expected, "{policy:?} at {now} from {start}");
        }
    }

    #[test]
    fn what_is_not_committed_empty_unread_or_without_time_stays() {
        let policy = Policy { retention_ms: 5, ..KEEP };
        let two = segments(&[(0, 100, 10), (100, 100, 20)]);
        let log = LogFacts { high_watermark: 150, ..all_of(&two, 0, 200) };
        assert_eq!(plan(1_000, policy, log), Plan::Delete { start: 100, segments: 1, roll: false });
        let policy_bytes = Policy { retention_bytes: 100, ..KEEP };
        let log = LogFacts { high_watermark: 199, ..all_of(&two, 0, 200) };
        assert_eq!(plan(1_000, policy_bytes, log), Plan::Delete { start: 100, segments: 1, roll: false });
        assert_eq!(plan(1_000, policy_bytes, LogFacts { waiting_bytes: 1, ..log }), Plan::Keep { until_ms: None });
        let empty = segments(&[(100, 0, -1)]);
        assert_eq!(plan(1_000, policy, all_of(&empty, 100, 100)), Plan::Keep { until_ms: None });
        let timeless = segments(&[(0, 100, -1), (100, 100, 20)]);
        assert_eq!(plan(1_000, policy, all_of(&timeless, 0, 200)), Plan::Keep { until_ms: None });
        let unread = [SegmentFacts { base: 0, size: 5, max_timestamp: None }, two[1]];
        assert_eq!(plan(1_000, policy, all_of(&unread, 0, 200)), Plan::Read { base: 0 });
    }

    #[test]
    fn jitter_is_less_than_both_bounds() {
        for base in 0..200 {
            assert!((0..7).contains(&roll_jitter_ms(3, base, 7, 100)) && roll_jitter_ms(3, base, 100, 9) < 9);
        }
        assert_eq!(roll_jitter_ms(3, 5, 0, 100), 0);
        assert!(
            (0..50).map(|b| roll_jitter_ms(1, b, 1_000, 1_000)).collect::<std::collections::BTreeSet<_>>().len() > 40
        );
    }

    fn any_log() -> impl Strategy<Value = (Vec<SegmentFacts>, i64, i64, i64)> {
        let segment = (1..50i64, 0..1_000u64, proptest::option::of(-1..2_000i64));
        (proptest::collection::vec(segment, 1..8), 0.0..1.0f64, 0.0..1.0f64).prop_map(|(shapes, a, b)| {
            let (mut found, mut base) = (Vec::new(), 0);
            for (records, size, max_timestamp) in shapes {
                found.push(SegmentFacts { base, size, max_timestamp });
                base += records;
            }
            let high_watermark = (base as f64 * a.max(b)) as i64;
            (found, (base as f64 * a.min(b)) as i64, high_watermark, base)
        })
    }

    proptest! {
        #[test]
        fn a_plan_is_sound(
            (segments, start, high_watermark, end) in any_log(),
            (deletes, retention_ms, retention_bytes) in (any::<bool>(), -1..1_500i64, -1..4_000i64),
            now in 0..3_000i64,
        ) {
            let policy = Policy { deletes, retention_ms, retention_bytes };
            let log = LogFacts { segments: &segments, start, high_watermark, end, waiting_bytes: 0 };
            match plan(now, policy, log) {
                Plan::Keep { until_ms } => {
                    prop_assert!(segments.len() < 2 || segments[1].base > start, "what is before the start goes");
                    if let Some(until) = until_ms {
                        prop_assert!(until > now);
                        let same = matches!(plan(until - 1, policy, log), Plan::Keep { .. });
                        prop_assert!(same, "nothing goes before {until}");
                    }
                }
                Plan::Read { base } => {
                    let found = segments.iter().find(|s| s.base == base).expect("a segment of the log");
                    prop_assert!(deletes && retention_ms >= 0 && found.max_timestamp.is_none());
                }
                Plan::Delete { start: new, segments: n, roll } => {
                    prop_assert!(n >= 1 && start <= new && new <= high_watermark);
                    prop_assert_eq!(roll, n == segments.len());
                    let first_kept = segments.get(n).map_or(end, |s| s.base);
                    prop_assert!(first_kept <= new, "what goes is before the new start");
                    prop_assert!(new == start || new == first_kept, "nothing more is hidden than goes");
                    let kept: u64 = segments[n..].iter().map(|s| s.size).sum();
                    let newest = &segments[n - 1];
                    let by_start = first_kept <= start;
                    let by_size = deletes && retention_bytes >= 0 && kept >= retention_bytes.unsigned_abs();
                    let by_age = deletes && retention_ms >= 0
                        && newest.max_timestamp.is_some_and(|t| t >= 0 && now - t > retention_ms);
                    prop_assert!(by_start || by_size || by_age);
                }
            }
        }
    }
}
