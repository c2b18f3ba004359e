//! Topics as they must be: made, grown, deleted, made again under the same name. Pure; part of the oracle.

use crate::cleanup::Cleanup;
use crate::oracle::{PartitionNumber, Verdict};
use std::collections::BTreeMap;
use uuid::Uuid;

/// A life's place in the order in which the oracle heard of them.
pub(crate) type LifeNumber = usize;

/// What the workload means to do with a name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Intent {
    /// How often a topic of that name is made; all but the last are deleted.
    pub(crate) lives: u32,
    /// Its records carry the broker's time.
    pub(crate) log_append_time: bool,
    /// What its logs let go.
    pub(crate) cleanup: Cleanup,
    /// So many partitions were asked for of any of its lives: such a request may come late, and meet another.
    pub(crate) partitions_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    There,
    /// Its deletion was asked for.
    Leaving,
    /// Its deletion was answered, or another topic has its name.
    Gone,
}

/// A topic from its creation to its deletion.
#[derive(Clone, Debug)]
pub(crate) struct Life {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<PartitionNumber>,
    /// It will be deleted, so that its name may come to mean another topic.
    pub(crate) mortal: bool,
    pub(crate) log_append_time: bool,
    pub(crate) cleanup: Cleanup,
    /// When each of them became known to the whole broker: making it was answered when so many checks were made.
    settled_at: Vec<u64>,
    state: State,
}

impl Life {
    /// It must exist: nobody has asked to delete it.
    pub(crate) fn is_there(&self) -> bool {
        self.state == State::There
    }

    /// No part of the broker may deny that there is a partition of this index, to a request that was sent when
    /// `asked_at` checks were made.
    pub(crate) fn has(&self, index: i32, asked_at: u64) -> bool {
        self.is_there() && self.settled_at.get(index as usize).is_some_and(|settled| *settled <= asked_at)
    }

    /// It must not exist.
    pub(crate) fn is_gone(&self) -> bool {
        self.state == State::Gone
    }
}

/// What was known when a question was asked: the answer may not be older.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// By life: its partitions that had to be there, if there were any.
    lives: Vec<Option<usize>>,
    gone: Vec<LifeNumber>,
}

/// All topics. See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Topics {
    lives: Vec<Life>,
    cores_lag: bool,
    intents: BTreeMap<String, Intent>,
}

/// What an answer says of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) id: Uuid,
    pub(crate) partitions: usize,
}

impl Topics {
    pub(crate) fn intend(&mut self, name: &str, intent: Intent) {
        self.intents.insert(name.to_owned(), intent);
    }

    /// What logs of a topic of this name let go.
    pub(crate) fn cleanup(&self, name: &str) -> Cleanup {
        self.intents.get(name).map(|i| i.cleanup).unwrap_or_default()
    }

    pub(crate) fn get(&self, life: LifeNumber) -> &Life {
        &self.lives[life]
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (LifeNumber, &Life)> {
        self.lives.iter().enumerate()
    }

    /// The newest life of a name.
    pub(crate) fn by_name(&self, name: &str) -> Option<(LifeNumber, &Life)> {
        self.all().filter(|(_, l)| l.name == name).last()
    }

    pub(crate) fn by_id(&self, id: Uuid) -> Option<(LifeNumber, &Life)> {
        self.all().find(|(_, l)| l.id == id)
    }

    /// A core whose disk is full knows nothing of what another one tells to whoever asks there.
    pub(crate) fn cores_lag(&mut self) {
        self.cores_lag = true;
    }

    /// Its partitions that any core knows, if there are any.
    fn known(&self, life: &Life) -> Option<usize> {
        let known = if self.cores_lag { life.settled_at.len() } else { life.partitions.len() };
        (life.is_there() && known > 0).then_some(known)
    }

    /// A question is about to be asked.
    pub(crate) fn asking(&self) -> Asked {
        Asked {
            lives: self.lives.iter().map(|l| self.known(l)).collect(),
            gone: self.all().filter(|(_, l)| l.is_gone()).map(|(n, _)| n).collect(),
        }
    }

    /// An answer names a topic: from now on it must stay. `number` gives new partitions their numbers.
    pub(crate) fn seen(
        &mut self,
        asked: &Asked,
        listed: &Listed,
        mut number: impl FnMut(String) -> PartitionNumber,
    ) -> Verdict {
        let Listed { name, id, partitions } = listed;
        let life = match self.by_id(*id).map(|(n, _)| n) {
            Some(known) => known,
            None => self.born(name, *id)?,
        };
        if asked.gone.contains(&life) {
            return Err(format!("topic {name} with id {id} was deleted, and is there again"));
        }
        let floor = asked.lives.get(life).copied().flatten().unwrap_or(0);
        let life = &mut self.lives[life];
        if life.name != *name || *partitions < floor {
            return Err(format!(
                "topic {} with id {id} had {floor} partitions; now it is {name} with {partitions}",
                life.name
            ));
        }
        let most = self.intents.get(name).map_or(0, |i| i.partitions_max);
        if *partitions > most && !life.partitions.is_empty() {
            return Err(format!("topic {name} has {partitions} partitions, {most} were asked for"));
        }
        for index in life.partitions.len()..*partitions {
            life.partitions.push(number(format!("{name}-{index}")));
        }
        Ok(())
    }

    fn born(&mut self, name: &str, id: Uuid) -> Result<LifeNumber, String> {
        let earlier: Vec<_> = self.all().filter(|(_, l)| l.name == name).map(|(n, _)| n).collect();
        for life in &earlier {
            let life = &mut self.lives[*life];
            if life.is_there() {
                return Err(format!("topic {name} had id {}, and has {id}", life.id));
            }
            life.state = State::Gone;
        }
        let intent = self.intents.get(name).copied();
        let Some(intent) = intent.filter(|i| earlier.len() < i.lives as usize) else {
            return Err(format!("nobody made a topic {name} with id {id}"));
        };
        self.lives.push(Life {
            name: name.to_owned(),
            id,
            partitions: Vec::new(),
            mortal: earlier.len() + 1 < intent.lives as usize,
            log_append_time: intent.log_append_time,
            cleanup: intent.cleanup,
            settled_at: Vec::new(),
            state: State::There,
        });
        Ok(self.lives.len() - 1)
    }

    /// An answer names all topics.
    pub(crate) fn listed(&self, asked: &Asked, listed: &[Listed]) -> Verdict {
        for (life, partitions) in asked.lives.iter().enumerate() {
            let known = &self.lives[life];
            if partitions.is_some() && known.is_there() && !listed.iter().any(|l| l.id == known.id) {
                return Err(format!("topic {} with id {} is gone; there are {listed:?}", known.name, known.id));
            }
        }
        Ok(())
    }

    /// More partitions are about to be asked for.
    pub(crate) fn growing(&mut self, life: LifeNumber, to: usize) {
        if let Some(intent) = self.intents.get_mut(&self.lives[life].name) {
            intent.partitions_max = intent.partitions_max.max(to);
        }
    }

    /// Making so many partitions was answered, when so many checks were made.
    pub(crate) fn settled(&mut self, life: LifeNumber, partitions: usize, now: u64) {
        let settled_at = &mut self.lives[life].settled_at;
        settled_at.resize(settled_at.len().max(partitions), now);
    }

    /// The deletion is about to be asked for.
    pub(crate) fn leaving(&mut self, life: LifeNumber) {
        let life = &mut self.lives[life];
        if life.is_there() {
            life.state = State::Leaving;
        }
    }

    /// The deletion was answered.
    pub(crate) fn gone(&mut self, life: LifeNumber) {
        self.lives[life].state = State::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(name: &str, id: u128, partitions: usize) -> Listed {
        Listed { name: name.to_owned(), id: Uuid::from_u128(id), partitions }
    }

    fn topics() -> Topics {
        let mut topics = Topics::default();
        topics.intend("t", Intent { lives: 2, partitions_max: 2, ..Intent::default() });
        topics
    }

    fn see(topics: &mut Topics, asked: &Asked, what: &Listed) -> Verdict {
        let mut next = 100;
        topics.seen(asked, what, |_| {
            next += 1;
            next
        })
    }

    fn see_now(topics: &mut Topics, what: &Listed) -> Verdict {
        let asked = topics.asking();
        see(topics, &asked, what)
    }

    #[test]
    fn a_topic_is_made_grown_deleted_and_made_again() {
        let mut t = topics();
        let first = t.asking();
        see(&mut t, &first, &listed("t", 1, 2)).expect("made");
        assert!(see(&mut t, &first, &listed("t", 1, 3)).is_err(), "nobody asked for three");
        t.settled(0, 2, 5);
        t.settled(0, 1, 9);
        assert!(t.get(0).has(1, 5) && !t.get(0).has(1, 4) && !t.get(0).has(2, 9));
        t.growing(0, 3);
        let asked = t.asking();
        see(&mut t, &asked, &listed("t", 1, 3)).expect("grown");
        assert!(see_now(&mut t, &listed("t", 1, 2)).is_err(), "it had three");
        see(&mut t, &asked, &listed("t", 1, 2)).expect("asked before it had grown");
        assert!(see_now(&mut t, &listed("t", 2, 2)).is_err(), "nobody deleted the first");
        t.leaving(0);
        let asked = t.asking();
        t.listed(&asked, &[]).expect("it may be gone");
        see(&mut t, &asked, &listed("t", 2, 1)).expect("made again");
        assert!(t.get(0).is_gone() && t.get(0).mortal && !t.get(1).mortal);
        see(&mut t, &asked, &listed("t", 1, 3)).expect("an old answer");
        assert!(see_now(&mut t, &listed("t", 1, 3)).is_err(), "a new answer");
        assert!(t.listed(&t.asking(), &[]).is_err(), "the second is gone");
        t.cores_lag();
        t.listed(&t.asking(), &[]).expect("making it was not answered");
        t.settled(1, 1, 9);
        assert!(t.listed(&t.asking(), &[]).is_err(), "it was");
        t.leaving(1);
        t.gone(1);
        t.listed(&t.asking(), &[]).expect("it should be gone");
        assert!(see_now(&mut t, &listed("t", 3, 1)).is_err(), "one too many");
        assert!(see_now(&mut t, &listed("u", 4, 1)).is_err(), "nobody made it");
    }
}
