//! Owns `range`: of every topic each of its subscribers has one run of partitions, in the members' order.

use std::collections::BTreeMap;

use crate::protocol::{Str, Uuid};

use super::super::Assignment;
use super::{MemberSpec, Spec};

struct Topic {
    partitions: i32,
    quota: i32,
    /// So many members have one more.
    extra: i32,
    next: i32,
}

pub(super) fn assign(group: &Spec<'_>) -> BTreeMap<Str, Assignment> {
    let mut members: Vec<&MemberSpec<'_>> = group.members.iter().collect();
    // Static members first, by what they are called, so that they keep their ranges when they come back.
    members.sort_by_key(|member| match member.instance {
        Some(instance) => (0, instance),
        None => (1, member.id),
    });
    let topics = group.partitions.iter().map(|(topic, partitions)| {
        let of_topic = |member: &&MemberSpec<'_>| member.subscribed.contains(topic);
        let subscribers = group.members.iter().filter(of_topic).count() as i32;
        let topic_state = Topic {
            partitions: *partitions,
            quota: partitions / subscribers.max(1),
            extra: partitions % subscribers.max(1),
            next: 0,
        };
        (*topic, topic_state)
    });
    let mut topics: BTreeMap<Uuid, Topic> = topics.collect();
    let assigned = members.into_iter().map(|member| {
        let mut assignment = Assignment::new();
        for id in &member.subscribed {
            let Some(topic) = topics.get_mut(id) else {
                continue;
            };
            let mut quota = topic.quota;
            if topic.extra > 0 {
                topic.extra -= 1;
                quota += 1;
            }
            let end = (topic.next + quota).min(topic.partitions);
            if topic.next < end {
                assignment.insert(*id, (topic.next..end).collect());
            }
            topic.next = end;
        }
        (member.id.clone(), assignment)
    });
    assigned.collect()
}

#[cfg(test)]
mod tests {
    use super::super::Assignor;
    use super::super::testing::{Group, topic};

    #[test]
    fn equal_topics_are_cut_alike() {
        let mut group = Group::new(&[("a", &[1, 2]), ("b", &[1, 2])], &[(1, 3), (2, 3)]);
        let assigned = group.assign(Assignor::Range);
        for one in [1, 2] {
            assert_eq!(assigned["a"][&topic(one)], [0, 1].into());
            assert_eq!(assigned["b"][&topic(one)], [2].into());
        }
    }

    #[test]
    fn of_a_topic_only_its_subscribers_have_some() {
        let mut group = Group::new(
            &[("a", &[1]), ("b", &[1, 2]), ("c", &[2])],
            &[(1, 3), (2, 1)],
        );
        let assigned = group.assign(Assignor::Range);
        assert_eq!(assigned["a"][&topic(1)], [0, 1].into());
        assert_eq!(assigned["b"][&topic(1)], [2].into());
        assert_eq!(assigned["b"][&topic(2)], [0].into());
        assert!(assigned["c"].is_empty());
    }
}
