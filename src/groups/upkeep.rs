//! What goes by itself: offsets whose retention is over, groups that have nothing left, offsets of deleted topics.
//!
//! A sweep goes through the groups in order and stops when it has written as many tombstones as one batch should hold;
//! the next step goes on from there.

use super::coordinator::{Context, Coordinator, Group, Groups, Slot};
use super::records::OffsetCommitValue;
use super::timers::{Alarm, Timer, TimerKind};
use super::{Effects, Now, Topics};
use crate::ids::TopicId;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

/// Tombstones that one step writes: well below a megabyte, the largest batch of a topic that nobody configured.
const TOMBSTONES_MAX: usize = 4000;

/// What a sweep takes away.
#[derive(Debug)]
enum Sweep {
    /// Offsets whose retention is over, and groups that are empty without them.
    Expired,
    /// Offsets of these topics.
    Topics(BTreeMap<Arc<str>, Vec<TopicId>>),
}

/// The sweeps that are due or under way.
#[derive(Debug, Default)]
pub(super) struct Upkeep {
    /// Ends the time between two looks for what has expired.
    expiry: Alarm,
    /// Due when a sweep has more to do.
    more: Alarm,
    sweeps: VecDeque<Sweep>,
    /// The last group that the first sweep is done with, if any.
    after: Option<Arc<str>>,
}

fn timer(kind: TimerKind) -> Timer {
    // Of no group in particular: there is none without a name that has timers.
    Timer { group: Arc::from(""), kind }
}

impl Coordinator {
    pub(super) fn schedule_expiry(&mut self, now: Now) {
        let at = now.monotonic_ms.saturating_add(self.config.offsets_retention_check_interval_ms.max(1));
        self.upkeep.expiry.set(&mut self.timers, at, || timer(TimerKind::OffsetsExpiry));
    }

    /// A deadline of the upkeep came up.
    pub(super) fn upkeep_came_up(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        timer: &Timer,
        number: u64,
    ) {
        let (upkeep, timers) = (&mut self.upkeep, &mut self.timers);
        if upkeep.expiry.came_up(timers, now.monotonic_ms, timer, number) {
            upkeep.sweeps.push_back(Sweep::Expired);
            self.schedule_expiry(now);
            self.sweep(now, topics, effects);
        } else if upkeep.more.came_up(timers, now.monotonic_ms, timer, number) {
            self.sweep(now, topics, effects);
        }
    }

    /// Takes away the offsets of topics that are gone. An offset that was committed to a newer topic of the same name
    /// stays.
    pub(super) fn topics_deleted(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        deleted: Vec<(Arc<str>, TopicId)>,
    ) {
        let mut by_name: BTreeMap<Arc<str>, Vec<TopicId>> = BTreeMap::new();
        for (name, id) in deleted {
            by_name.entry(name).or_default().push(id);
        }
        self.upkeep.sweeps.push_back(Sweep::Topics(by_name));
        if !self.upkeep.more.is_set() {
            self.sweep(now, topics, effects);
        }
    }

    /// Does a step's worth of the sweeps.
    fn sweep(&mut self, now: Now, topics: &dyn Topics, effects: &mut Effects) {
        let mut budget = TOMBSTONES_MAX;
        while let Some(sweep) = self.upkeep.sweeps.pop_front() {
            let mut after = self.upkeep.after.take();
            let (mut cx, groups) = self.parts(now, topics, effects);
            if !sweep_groups(&mut cx, groups, &sweep, &mut after, &mut budget) {
                self.upkeep.sweeps.push_front(sweep);
                self.upkeep.after = after;
                let at = now.monotonic_ms + 1;
                self.upkeep.more.set(&mut self.timers, at, || timer(TimerKind::Sweep));
                return;
            }
        }
    }
}

/// Sweeps the groups that come after one, and says which it was done with last. Whether it came to the end.
fn sweep_groups(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    sweep: &Sweep,
    after: &mut Option<Arc<str>>,
    budget: &mut usize,
) -> bool {
    let mut gone = Vec::new();
    let mut complete = true;
    let from = after.clone().map_or(Bound::Unbounded, Bound::Excluded);
    for (id, slot) in groups.range_mut::<Arc<str>, _>((from, Bound::Unbounded)) {
        complete = *budget > 0 && sweep_group(cx, id, slot, sweep, budget);
        if !complete {
            break;
        }
        if matches!(sweep, Sweep::Expired) && slot.offsets.is_empty() && slot.group.is_empty() {
            slot.group.tombstones(cx);
            *budget = budget.saturating_sub(1);
            gone.push(id.clone());
        }
        *after = Some(id.clone());
    }
    for id in gone {
        groups.remove(&id);
    }
    complete
}

fn sweep_group(cx: &mut Context<'_>, id: &str, slot: &mut Slot, sweep: &Sweep, budget: &mut usize) -> bool {
    let Slot { group, offsets } = slot;
    let (now_ms, retention_ms) = (cx.now.wall_ms, cx.config.offsets_retention_ms);
    match sweep {
        Sweep::Topics(deleted) => offsets.drop_if(id, cx.effects, budget, |topic, value| {
            deleted.get(topic).is_some_and(|ids| value.topic_id == TopicId::default() || ids.contains(&value.topic_id))
        }),
        Sweep::Expired => {
            // The time that retention counts from; the inner none is each commit's own.
            let from = match &*group {
                Group::Classic(group) => group.expires_from(),
                Group::Consumer(_) => Some(None),
            };
            let Some(from) = from else { return true };
            offsets.drop_if(id, cx.effects, budget, |topic, value| {
                !group.is_subscribed(topic) && is_expired(value, from, now_ms, retention_ms)
            })
        }
    }
}

fn is_expired(value: &OffsetCommitValue, from_ms: Option<i64>, now_ms: i64, retention_ms: i64) -> bool {
    if value.expire_timestamp_ms != -1 {
        return now_ms >= value.expire_timestamp_ms;
    }
    now_ms.saturating_sub(from_ms.unwrap_or(value.commit_timestamp_ms)) >= retention_ms
}
