//! Owns the server's assignors (KIP-848): from what members are subscribed to and had before, to what each is to have.
//! Pure; each of them ignores racks, as Kafka's do.

mod balance;
mod range;
mod uniform;

use std::collections::{BTreeMap, BTreeSet};

use crate::protocol::{Str, Uuid};

use super::Assignment;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// As even a number of partitions for each member as can be, and few moves.
    Uniform,
    /// The same range of every topic for each member, so that partitions of one number come together.
    Range,
}

impl Assignor {
    pub fn name(self) -> &'static str {
        match self {
            Assignor::Uniform => "uniform",
            Assignor::Range => "range",
        }
    }

    /// By Kafka's name, or its class.
    pub fn from_name(name: &str) -> Option<Assignor> {
        match name.rsplit('.').next() {
            Some("uniform" | "UniformAssignor") => Some(Assignor::Uniform),
            Some("range" | "RangeAssignor") => Some(Assignor::Range),
            _ => None,
        }
    }

    /// What every member is to have; who is not named is to have nothing.
    pub(super) fn assign(self, group: &Spec<'_>) -> BTreeMap<Str, Assignment> {
        if group.members.is_empty() {
            return BTreeMap::new();
        }
        match self {
            Assignor::Uniform if group.is_homogeneous => uniform::assign(group),
            Assignor::Uniform => balance::assign(group),
            Assignor::Range => range::assign(group),
        }
    }
}

/// A member as an assignor sees it.
pub(super) struct MemberSpec<'a> {
    pub id: &'a Str,
    pub instance: Option<&'a Str>,
    /// All of them exist.
    pub subscribed: BTreeSet<Uuid>,
    /// What it was to have so far.
    pub before: &'a Assignment,
}

pub(super) struct Spec<'a> {
    /// In the order of their ids.
    pub members: Vec<MemberSpec<'a>>,
    /// All are subscribed to the same topics.
    pub is_homogeneous: bool,
    /// How many partitions each topic has that anybody is subscribed to.
    pub partitions: BTreeMap<Uuid, i32>,
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A group of members with their topics and what they had, and topics with their counts of partitions.
    pub struct Group {
        pub members: Vec<(Str, Vec<u8>, Assignment)>,
        pub topics: Vec<(u8, i32)>,
    }

    pub fn topic(number: u8) -> Uuid {
        Uuid([number; 16])
    }

    impl Group {
        pub fn new(members: &[(&'static str, &[u8])], topics: &[(u8, i32)]) -> Group {
            let members = members.iter();
            Group {
                members: members
                    .map(|(id, topics)| (Str::from(*id), topics.to_vec(), Assignment::new()))
                    .collect(),
                topics: topics.to_vec(),
            }
        }

        /// Assigns, checks what all must keep to, and remembers.
        pub fn assign(&mut self, assignor: Assignor) -> BTreeMap<Str, Assignment> {
            let first = self.members.first().map(|member| member.1.clone());
            let spec = Spec {
                members: self
                    .members
                    .iter()
                    .map(|(id, topics, before)| MemberSpec {
                        id,
                        instance: None,
                        subscribed: topics.iter().map(|one| topic(*one)).collect(),
                        before,
                    })
                    .collect(),
                is_homogeneous: self
                    .members
                    .iter()
                    .all(|member| Some(&member.1) == first.as_ref()),
                partitions: self
                    .topics
                    .iter()
                    .filter(|(one, _)| self.members.iter().any(|member| member.1.contains(one)))
                    .map(|(one, count)| (topic(*one), *count))
                    .collect(),
            };
            let assigned = assignor.assign(&spec);
            check(&spec, &assigned);
            for member in &mut self.members {
                member.2 = assigned.get(&member.0).cloned().unwrap_or_default();
            }
            assigned
        }
    }

    /// Each partition has one owner, who is subscribed to it.
    fn check(spec: &Spec<'_>, assigned: &BTreeMap<Str, Assignment>) {
        let mut owners = BTreeMap::new();
        for (id, assignment) in assigned {
            let member = spec.members.iter().find(|member| member.id == id);
            let member = member.expect("a member");
            for (topic, partitions) in assignment {
                assert!(
                    member.subscribed.contains(topic),
                    "{id} has what it did not ask for"
                );
                for index in partitions {
                    assert!(*index < spec.partitions[topic]);
                    assert_eq!(owners.insert((*topic, *index), id), None, "two owners");
                }
            }
        }
        let all: i32 = spec.partitions.values().sum();
        assert_eq!(owners.len(), all as usize, "some have no owner");
    }

    pub fn sizes(assigned: &BTreeMap<Str, Assignment>) -> Vec<usize> {
        let of = |one: &Assignment| one.values().map(BTreeSet::len).sum();
        assigned.values().map(of).collect()
    }
}
