//! Owns a member's next step towards its target: give up first, then move to the epoch of the target, then take what is
//! free. Pure: a member goes in, a member comes out.

use std::collections::BTreeSet;

use crate::protocol::messages::consumer_group_heartbeat_request::TopicPartitions;
use crate::protocol::{ErrorCode, Uuid};

use super::{Assignment, Member, MemberState, Owned, Refused};

/// All that a step depends on beside the member.
pub(super) struct Step<'a> {
    pub target_epoch: i32,
    pub target: &'a Assignment,
    /// What it is subscribed to now differs from what its assignment was made for.
    pub is_subscription_new: bool,
    pub subscribed: &'a BTreeSet<Uuid>,
    /// What the member says it has; `None`: it does not say.
    pub reported: Option<&'a [TopicPartitions]>,
    /// Whether somebody has a partition.
    pub is_owned: &'a dyn Fn(Uuid, i32) -> bool,
}

/// A member of a state that is not known here must begin anew.
pub(super) fn check_state(
    member: &Member,
    reported: Option<&[TopicPartitions]>,
) -> Result<(), Refused> {
    match (member.state, reported) {
        (MemberState::Unknown, Some([])) => Ok(()),
        (MemberState::Unknown, _) => Err(Refused::new(
            ErrorCode::FencedMemberEpoch,
            "The consumer group member is in a unknown state. The member must abandon all its partitions and rejoin.",
        )),
        _ => Ok(()),
    }
}

impl Step<'_> {
    pub fn take(&self, member: Member) -> Member {
        if !self.is_subscription_new && member.is_reconciled_to(self.target_epoch) {
            return member;
        }
        match member.state {
            MemberState::Stable if member.epoch != self.target_epoch => self.advance(member),
            MemberState::UnrevokedPartitions if self.has_any_of(&member.revoking) => {
                self.drop_unsubscribed(member)
            }
            MemberState::Stable => self.drop_unsubscribed(member),
            MemberState::UnrevokedPartitions | MemberState::UnreleasedPartitions => {
                self.advance(member)
            }
            MemberState::Unknown => {
                let epoch = self.target_epoch;
                self.advance(Member { epoch, ..member })
            }
        }
    }

    /// Whether the member may still have some of these.
    fn has_any_of(&self, owned: &Owned) -> bool {
        let Some(reported) = self.reported else {
            return true;
        };
        reported.iter().any(|topic| {
            let of_topic = owned.get(&topic.topic_id);
            let has = |index| of_topic.is_some_and(|owned| owned.contains_key(index));
            topic.partitions.iter().any(has)
        })
    }

    /// What it is no longer subscribed to is given up at once, without waiting for a new target.
    fn drop_unsubscribed(&self, mut member: Member) -> Member {
        if !self.is_subscription_new {
            return member;
        }
        let (kept, dropped): (Owned, Owned) = std::mem::take(&mut member.assigned)
            .into_iter()
            .partition(|(topic, _)| self.subscribed.contains(topic));
        member.assigned = kept;
        if dropped.is_empty() {
            return member;
        }
        let mut revoking = member.revoking.clone();
        for (topic, partitions) in dropped {
            revoking.entry(topic).or_default().extend(partitions);
        }
        if self.has_any_of(&revoking) {
            member.state = MemberState::UnrevokedPartitions;
            member.revoking = revoking;
        }
        let epoch = member.epoch;
        member.advance(epoch);
        member
    }

    fn advance(&self, mut member: Member) -> Member {
        let none = BTreeSet::new();
        let wanted = |topic: &Uuid| match self.subscribed.contains(topic) {
            true => self.target.get(topic).unwrap_or(&none),
            false => &none,
        };
        let (mut kept, mut lost) = (Owned::new(), Owned::new());
        for (topic, partitions) in &member.assigned {
            for (index, since) in partitions {
                let owned = match wanted(topic).contains(index) {
                    true => &mut kept,
                    false => &mut lost,
                };
                owned.entry(*topic).or_default().insert(*index, *since);
            }
        }
        if self.has_any_of(&lost) && !lost.is_empty() {
            member.state = MemberState::UnrevokedPartitions;
            member.assigned = kept;
            member.revoking = lost;
            let epoch = member.epoch;
            member.advance(epoch);
            return member;
        }
        let mut waits = false;
        for topic in self.target.keys() {
            for index in wanted(topic) {
                let has = |owned: &Owned| owned.get(topic).is_some_and(|o| o.contains_key(index));
                if has(&member.assigned) {
                    continue;
                }
                if (self.is_owned)(*topic, *index) && !has(&member.revoking) {
                    waits = true;
                } else {
                    let owned = kept.entry(*topic).or_default();
                    owned.insert(*index, self.target_epoch);
                }
            }
        }
        member.state = match waits {
            true => MemberState::UnreleasedPartitions,
            false => MemberState::Stable,
        };
        member.assigned = kept;
        member.revoking = Owned::new();
        member.advance(self.target_epoch);
        member
    }
}
