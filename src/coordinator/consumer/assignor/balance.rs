//! Owns `uniform` for members that want different topics: everybody keeps what it still wants, what is free goes to the
//! subscriber with least, and then partitions move from those with most to those with least, topic by topic, until no
//! topic can improve. Not always the best there is, but near it, and always soon done.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::{Str, Uuid};

use super::super::Assignment;
use super::Spec;

/// A round over all topics that changes nothing is the last; this many are as many as there are, as in Kafka.
const ROUNDS_MAX: usize = 16;

struct Topic {
    id: Uuid,
    /// By place in the group, rising.
    subscribers: Vec<usize>,
    /// Of each partition.
    owners: Vec<Option<usize>>,
}

pub(super) fn assign(group: &Spec<'_>) -> BTreeMap<Str, Assignment> {
    let mut loads = vec![0; group.members.len()];
    let mut topics = topics(group, &mut loads);
    for topic in &mut topics {
        topic.fill(&mut loads);
    }
    for _ in 0..ROUNDS_MAX {
        let mut moved = false;
        for topic in &mut topics {
            moved |= topic.balance(&mut loads);
        }
        if !moved {
            break;
        }
    }
    let mut assigned: BTreeMap<Str, Assignment> = BTreeMap::new();
    for member in &group.members {
        assigned.insert(member.id.clone(), Assignment::new());
    }
    for topic in &topics {
        for (index, owner) in topic.owners.iter().enumerate() {
            let owner = owner.expect("every partition was given to a subscriber");
            let assignment = assigned.get_mut(group.members[owner].id);
            let assignment = assignment.expect("of every member");
            assignment.entry(topic.id).or_default().insert(index as i32);
        }
    }
    assigned
}

/// The topics with what is kept of them, those first that give each subscriber most.
fn topics(group: &Spec<'_>, loads: &mut [usize]) -> Vec<Topic> {
    let topics = group.partitions.iter().map(|(id, count)| {
        let members = group.members.iter().enumerate();
        let subscribers = members.filter(|(_, member)| member.subscribed.contains(id));
        let mut topic = Topic {
            id: *id,
            subscribers: subscribers.map(|(place, _)| place).collect(),
            owners: vec![None; *count as usize],
        };
        for place in topic.subscribers.clone() {
            for index in group.members[place].before.get(id).into_iter().flatten() {
                if let Some(owner @ None) = topic.owners.get_mut(*index as usize) {
                    *owner = Some(place);
                    loads[place] += 1;
                }
            }
        }
        topic
    });
    let mut topics: Vec<Topic> = topics.collect();
    topics.sort_by(|a, b| {
        let per_member = |topic: &Topic| topic.owners.len() as f64 / topic.subscribers.len() as f64;
        let by_share = per_member(b).total_cmp(&per_member(a));
        by_share
            .then(a.subscribers.len().cmp(&b.subscribers.len()))
            .then(a.id.cmp(&b.id))
    });
    topics
}

impl Topic {
    fn by_load(&self, loads: &[usize]) -> BTreeSet<(usize, usize)> {
        let members = self.subscribers.iter();
        members.map(|place| (loads[*place], *place)).collect()
    }

    /// Gives what nobody has to who has least.
    fn fill(&mut self, loads: &mut [usize]) {
        let mut by_load = self.by_load(loads);
        for owner in self.owners.iter_mut().filter(|owner| owner.is_none()) {
            let (_, least) = by_load.pop_first().expect("a topic has subscribers");
            *owner = Some(least);
            loads[least] += 1;
            by_load.insert((loads[least], least));
        }
    }

    /// Moves partitions of this topic from those with most to those with least; whether any was moved.
    fn balance(&mut self, loads: &mut [usize]) -> bool {
        let mut by_load = self.by_load(loads);
        let mut owned: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, owner) in self.owners.iter().enumerate() {
            owned.extend(
                owner
                    .filter(|one| !owned.contains_key(one))
                    .map(|one| (one, Vec::new())),
            );
            if let Some(partitions) = owner.and_then(|one| owned.get_mut(&one)) {
                partitions.push(index);
            }
        }
        let mut moved = false;
        while let (Some((least_load, least)), Some((most_load, most))) =
            (by_load.first().copied(), by_load.last().copied())
        {
            if most_load - least_load <= 1 {
                break;
            }
            let Some(index) = owned.get_mut(&most).and_then(Vec::pop) else {
                // All it has is of other topics.
                by_load.remove(&(most_load, most));
                continue;
            };
            self.owners[index] = Some(least);
            loads[most] -= 1;
            loads[least] += 1;
            by_load.remove(&(most_load, most));
            by_load.remove(&(least_load, least));
            by_load.insert((loads[most], most));
            by_load.insert((loads[least], least));
            moved = true;
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::super::Assignor;
    use super::super::testing::{Group, sizes};

    #[test]
    fn loads_are_even_where_subscriptions_allow() {
        let members: &[(_, &[u8])] = &[("a", &[1]), ("b", &[1, 2]), ("c", &[2, 3])];
        let mut group = Group::new(members, &[(1, 6), (2, 3), (3, 3)]);
        assert_eq!(sizes(&group.assign(Assignor::Uniform)), [4, 4, 4]);
    }

    #[test]
    fn what_is_no_longer_wanted_goes_to_others_and_comes_back_with_others() {
        let mut group = Group::new(&[("a", &[1, 2]), ("b", &[1])], &[(1, 4), (2, 2)]);
        assert_eq!(sizes(&group.assign(Assignor::Uniform)), [3, 3]);
        group.members[1].1 = vec![2];
        assert_eq!(sizes(&group.assign(Assignor::Uniform)), [4, 2]);
        group
            .members
            .push(("c".into(), vec![1], Default::default()));
        let sizes = sizes(&group.assign(Assignor::Uniform));
        assert!(sizes.iter().all(|size| *size == 2), "{sizes:?}");
    }
}
