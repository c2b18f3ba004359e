//! What is known of a group's offsets, and of who has which partition. Pure.

use coreline_io::Monotonic;
use std::collections::BTreeMap;
use std::time::Duration;

/// The shorter of a member's session and the time that it has to give partitions back.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(2);

/// What is known of the group's offsets. Pure.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// By partition: an answer that is asked for from now on gives at least this.
    floor: BTreeMap<i32, i64>,
    /// By partition: the highest that anybody tried to commit.
    tried: BTreeMap<i32, i64>,
    /// Who owns a partition in a generation of the classic protocol.
    owners: BTreeMap<(i32, i32), String>,
    /// Who works on a partition.
    holders: BTreeMap<i32, Holder>,
}

#[derive(Debug)]
struct Holder {
    member: String,
    /// When it sent what was last answered as to a member.
    confirmed: Monotonic,
}

impl Ledger {
    pub(crate) fn floor(&self, partition: i32) -> i64 {
        self.floor.get(&partition).copied().unwrap_or(-1)
    }

    pub(crate) fn trying(&mut self, partition: i32, offset: i64) {
        let tried = self.tried.entry(partition).or_insert(-1);
        *tried = (*tried).max(offset);
    }

    pub(crate) fn known(&mut self, partition: i32, offset: i64) {
        let floor = self.floor.entry(partition).or_insert(-1);
        *floor = (*floor).max(offset);
    }

    /// An answer gave `offset`; when it was asked for, `floor` was known.
    pub(crate) fn fetched(&mut self, partition: i32, floor: i64, offset: i64) -> Result<(), String> {
        let tried = self.tried.get(&partition).copied().unwrap_or(-1);
        if offset < floor {
            return Err(format!("partition {partition} is at {offset}, and was at {floor} before it was asked"));
        }
        if offset > tried {
            return Err(format!("partition {partition} is at {offset}, and nobody committed more than {tried}"));
        }
        self.known(partition, offset);
        Ok(())
    }

    /// A member was given partitions.
    pub(crate) fn assigned(&mut self, generation: i32, member: &str, partitions: &[i32]) -> Result<(), String> {
        for partition in partitions {
            let owner = self.owners.entry((generation, *partition)).or_insert_with(|| member.to_owned());
            if owner != member {
                return Err(format!("generation {generation}: partition {partition} is {owner}'s and {member}'s"));
            }
        }
        Ok(())
    }

    /// A member begins to work on partitions that it was given by an answer to what it sent at `sent_at`.
    pub(crate) fn take(
        &mut self,
        member: &str,
        partitions: &[i32],
        sent_at: Monotonic,
        now: Monotonic,
    ) -> Result<(), String> {
        for partition in partitions {
            let holder = Holder { member: member.to_owned(), confirmed: sent_at };
            let Some(before) = self.holders.insert(*partition, holder) else { continue };
            // Who is silent for so long may be taken for dead, and not know it.
            if before.member != member && now < before.confirmed.plus(SILENT_MAX) {
                let Holder { member: other, confirmed } = before;
                return Err(format!(
                    "partition {partition} is {other}'s, who was answered at {confirmed:?}, and {member}'s"
                ));
            }
        }
        Ok(())
    }

    /// A member was answered what it sent then, as one that has all that it has.
    pub(crate) fn confirm(&mut self, member: &str, sent_at: Monotonic) {
        let of_member = self.holders.values_mut().filter(|h| h.member == member);
        of_member.for_each(|h| h.confirmed = h.confirmed.max(sent_at));
    }

    /// A member works on no others any more.
    pub(crate) fn keep(&mut self, member: &str, partitions: &[i32]) {
        self.holders.retain(|partition, h| h.member != member || partitions.contains(partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_law_bites() {
        let mut ledger = Ledger::default();
        ledger.trying(0, 5);
        ledger.known(0, 5);
        ledger.fetched(0, 5, 5).expect("as committed");
        ledger.trying(0, 9);
        ledger.fetched(0, 5, 9).expect("one that was not answered");
        assert!(ledger.fetched(0, ledger.floor(0), 5).is_err_and(|e| e.contains("was at 9")));
        assert!(ledger.fetched(0, 9, 10).is_err_and(|e| e.contains("more than 9")));
        assert!(ledger.fetched(1, -1, 0).is_err_and(|e| e.contains("nobody")));
        ledger.assigned(1, "a", &[0, 1]).expect("the first");
        ledger.assigned(1, "a", &[0]).expect("again");
        ledger.assigned(2, "b", &[0]).expect("another generation");
        assert!(ledger.assigned(1, "b", &[1]).is_err_and(|e| e.contains("a's and b's")));
    }

    #[test]
    fn nobody_works_on_what_another_has() {
        let at = |ms: u64| Monotonic { nanos: ms * 1_000_000 };
        let silent = SILENT_MAX.as_millis() as u64;
        let mut ledger = Ledger::default();
        ledger.take("a", &[0, 1], at(0), at(1)).expect("the first");
        ledger.take("a", &[0], at(5), at(6)).expect("again");
        ledger.keep("a", &[0]);
        ledger.take("b", &[1], at(7), at(8)).expect("it was let go");
        ledger.confirm("a", at(10));
        assert!(ledger.take("b", &[0], at(9 + silent), at(9 + silent)).is_err_and(|e| e.contains("a's")));
        ledger.take("c", &[1], at(9 + silent), at(9 + silent)).expect("b was silent");
    }
}
