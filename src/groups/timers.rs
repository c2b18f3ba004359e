//! Deadlines. Putting one off, as every heartbeat does, writes one number: the queue is told only when it comes due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

/// What comes due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TimerKind {
    /// A member's session, a pending member's included.
    Session(Arc<str>),
    /// A member of a consumer group must have revoked its partitions.
    Rebalance(Arc<str>),
    /// The join phase of a classic group.
    Join,
    /// The sync phase of a classic group.
    Sync,
    /// The regular expressions of a consumer group.
    Regex,
    /// Offsets may have expired: of no group in particular.
    OffsetsExpiry,
    /// A sweep has more to take away: of no group in particular.
    Sweep,
}

/// A deadline of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timer {
    /// The group's id.
    pub group: Arc<str>,
    /// What comes due in it.
    pub kind: TimerKind,
}

/// All deadlines of a coordinator, by monotonic milliseconds.
#[derive(Debug, Default)]
pub struct Timers {
    queue: BinaryHeap<Reverse<(i64, u64, Timer)>>,
    /// Of the newest entry: makes every [`Alarm`] its own, and ties come out in order.
    sequence: u64,
}

/// One deadline, kept beside what it ends. Invariant: while it is set, the queue holds an entry that is not later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Alarm {
    deadline_ms: Option<i64>,
    /// When the entry in the queue comes up, and its number.
    queued: Option<(i64, u64)>,
}

impl Timers {
    /// When to call next; it may turn out that nothing is due by then.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// Takes the next entry that has come up. Its alarm says whether it is due: [`Alarm::came_up`].
    pub fn pop(&mut self, now_ms: i64) -> Option<(Timer, u64)> {
        if self.next_deadline()? > now_ms {
            return None;
        }
        self.queue.pop().map(|Reverse((_, number, timer))| (timer, number))
    }

    fn push(&mut self, at: i64, timer: Timer) -> u64 {
        self.sequence += 1;
        self.queue.push(Reverse((at, self.sequence, timer)));
        self.sequence
    }
}

impl Alarm {
    /// Sets the deadline, earlier or later than before. `timer` names it, and is made only if the queue needs it.
    pub fn set(&mut self, timers: &mut Timers, deadline_ms: i64, timer: impl FnOnce() -> Timer) {
        self.deadline_ms = Some(deadline_ms);
        if self.queued.is_none_or(|(at, _)| at > deadline_ms) {
            self.queued = Some((deadline_ms, timers.push(deadline_ms, timer())));
        }
    }

    /// Takes the deadline back.
    pub fn clear(&mut self) {
        self.deadline_ms = None;
    }

    /// Whether a deadline is set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.deadline_ms.is_some()
    }

    /// An entry of the queue came up: true if this alarm is due, and then it is not set any more. An entry that an
    /// earlier one replaced, or that belonged to someone of the same name, is passed over.
    pub fn came_up(&mut self, timers: &mut Timers, now_ms: i64, timer: &Timer, number: u64) -> bool {
        if self.queued.is_none_or(|(_, queued)| queued != number) {
            return false;
        }
        self.queued = None;
        match self.deadline_ms {
            None => false,
            Some(deadline) if deadline > now_ms => {
                self.queued = Some((deadline, timers.push(deadline, timer.clone())));
                false
            }
            Some(_) => {
                self.deadline_ms = None;
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer() -> Timer {
        Timer { group: Arc::from("g"), kind: TimerKind::Join }
    }

    /// Times at which the alarm fires when the clock goes on by one millisecond a step.
    fn fires(timers: &mut Timers, alarm: &mut Alarm, until: i64) -> Vec<i64> {
        let mut fired = Vec::new();
        for now in 0..=until {
            while let Some((timer, number)) = timers.pop(now) {
                if alarm.came_up(timers, now, &timer, number) {
                    fired.push(now);
                }
            }
        }
        fired
    }

    #[test]
    fn an_alarm_goes_off_once_at_the_last_deadline_that_was_set() {
        for (deadlines, expected) in [
            (vec![Some(5)], vec![5]),
            (vec![Some(5), Some(9)], vec![9]),
            (vec![Some(9), Some(5)], vec![5]),
            (vec![Some(9), Some(5), Some(7)], vec![7]),
            (vec![Some(5), None], vec![]),
            (vec![Some(5), None, Some(3)], vec![3]),
            (vec![Some(5), None, Some(8)], vec![8]),
        ] {
            let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
            for deadline in &deadlines {
                match deadline {
                    Some(at) => alarm.set(&mut timers, *at, timer),
                    None => alarm.clear(),
                }
            }
            assert_eq!(fires(&mut timers, &mut alarm, 20), expected, "{deadlines:?}");
            assert!(!alarm.is_set());
        }
    }

    #[test]
    fn putting_off_does_not_grow_the_queue() {
        let (mut timers, mut alarm) = (Timers::default(), Alarm::default());
        for at in 10..10_000 {
            alarm.set(&mut timers, at, timer);
        }
        assert_eq!(timers.queue.len(), 1);
        assert_eq!(fires(&mut timers, &mut alarm, 10_100), [9999]);
    }

    #[test]
    fn an_alarm_of_the_same_name_is_not_woken_by_an_older_ones_entry() {
        let (mut timers, mut old, mut new) = (Timers::default(), Alarm::default(), Alarm::default());
        old.set(&mut timers, 5, timer);
        new.set(&mut timers, 5, timer);
        assert_eq!(fires(&mut timers, &mut new, 10), [5]);
    }
}
