//! Owns `uniform` for members that all want the same topics: everybody keeps what it had, up to an even share; what is
//! left over goes to who has less.

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::{Str, Uuid};

use super::super::Assignment;
use super::{MemberSpec, Spec};

pub(super) fn assign(group: &Spec<'_>) -> BTreeMap<Str, Assignment> {
    let mut taken: BTreeSet<(Uuid, i32)> = BTreeSet::new();
    for member in &group.members {
        for (topic, partitions) in member.before {
            taken.extend(partitions.iter().map(|index| (*topic, *index)));
        }
    }
    let all = group.partitions.iter();
    let all = all.flat_map(|(topic, count)| (0..*count).map(|index| (*topic, index)));
    let mut free: Vec<(Uuid, i32)> = all.filter(|one| !taken.contains(one)).collect();
    let total: i32 = group.partitions.values().sum();
    let members = group.members.len();
    let mut shares = Shares {
        share: total as usize / members,
        extra: total as usize % members,
        seen: BTreeSet::new(),
    };
    let mut assigned = BTreeMap::new();
    let mut unfilled = Vec::new();
    for (number, member) in group.members.iter().enumerate() {
        let (kept, missing) = shares.keep(group, member, members - number, &mut free);
        if missing > 0 {
            unfilled.push((member.id, missing));
        }
        assigned.insert(member.id.clone(), kept);
    }
    let mut free = free.into_iter();
    for (id, missing) in unfilled {
        let assignment: &mut Assignment = assigned.get_mut(id).expect("it was put there");
        for (topic, index) in free.by_ref().take(missing) {
            assignment.entry(topic).or_default().insert(index);
        }
    }
    assert_eq!(free.next(), None, "the shares add up to all partitions");
    assigned
}

struct Shares {
    share: usize,
    /// So many members have one more.
    extra: usize,
    /// What some member had before: a log that is not ours may give a partition to two.
    seen: BTreeSet<(Uuid, i32)>,
}

impl Shares {
    /// What a member keeps of what it had, and how much more it is to have. `left` members, with this one, are to come.
    fn keep(
        &mut self,
        group: &Spec<'_>,
        member: &MemberSpec<'_>,
        left: usize,
        free: &mut Vec<(Uuid, i32)>,
    ) -> (Assignment, usize) {
        let mut has_extra = self.extra > 0;
        let mut quota = self.share + usize::from(has_extra);
        let mut kept = Assignment::new();
        for (topic, partitions) in member.before {
            // A topic that is gone, or has lost partitions by being made anew.
            let Some(count) = group.partitions.get(topic) else {
                continue;
            };
            for index in partitions.iter().filter(|index| *index < count) {
                if !self.seen.insert((*topic, *index)) {
                    continue;
                }
                if quota > 0 {
                    quota -= 1;
                    kept.entry(*topic).or_default().insert(*index);
                } else {
                    free.push((*topic, *index));
                }
            }
        }
        if quota > 0 && has_extra && left > self.extra {
            // Others may have it already: it is theirs first.
            quota -= 1;
            has_extra = false;
        }
        self.extra -= usize::from(has_extra);
        (kept, quota)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Assignor;
    use super::super::testing::{Group, sizes};

    #[test]
    fn shares_are_even_and_moves_are_few() {
        let mut group = Group::new(&[("a", &[1, 2])], &[(1, 4), (2, 3)]);
        assert_eq!(sizes(&group.assign(Assignor::Uniform)), [7]);
        for id in ["b", "c"] {
            let before = group.members.clone();
            group
                .members
                .push((id.into(), vec![1, 2], Default::default()));
            let assigned = group.assign(Assignor::Uniform);
            let sizes = sizes(&assigned);
            assert!(
                sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1,
                "{sizes:?}"
            );
            for (id, _, had) in before {
                for (topic, partitions) in &assigned[&id] {
                    assert!(
                        partitions.is_subset(&had[topic]),
                        "{id} got what another had"
                    );
                }
            }
        }
        // With as many members as before, nothing moves.
        let before = group.members.clone();
        group.assign(Assignor::Uniform);
        assert_eq!(before, group.members);
    }

    #[test]
    fn a_member_more_than_partitions_has_nothing() {
        let mut group = Group::new(&[("a", &[1]), ("b", &[1]), ("c", &[1])], &[(1, 2)]);
        let sizes = sizes(&group.assign(Assignor::Uniform));
        assert_eq!(sizes.iter().sum::<usize>(), 2);
        assert_eq!(*sizes.iter().max().unwrap(), 1);
    }
}
