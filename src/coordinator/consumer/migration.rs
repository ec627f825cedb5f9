//! Owns turning a classic group into a consumer group and back, while its members go on (KIP-848, "online migration"):
//! up when the first member of the consumer protocol joins, down when the last of them goes.

use crate::coordinator::classic::{ClassicGroup, Migrant, State};
use crate::coordinator::effects::Effects;
use crate::protocol::{ErrorCode, Str};

use super::{Assignment, ClassicMember, ConsumerGroup, Member, MemberState, Refused, embedded};

/// The consumer group that a classic one becomes. Nothing is changed yet.
pub(in crate::coordinator) fn upgraded(
    fx: &Effects<'_>,
    classic: &ClassicGroup,
) -> Result<ConsumerGroup, Refused> {
    let id = classic.id();
    let refuse = |reason: &str| {
        let message =
            format!("Cannot upgrade classic group {id} to consumer group because {reason}");
        Err(Refused::new(ErrorCode::GroupIdNotFound, message))
    };
    let settings = &fx.settings.consumer;
    if !settings.may_upgrade {
        return refuse("online upgrade is disabled.");
    }
    if !classic.uses_consumer_protocol() {
        return refuse("the group does not use the consumer embedded protocol.");
    }
    if classic.member_count() > settings.group_size_max {
        return refuse("the group size exceeds the consumer group maximum size.");
    }
    let mut group = ConsumerGroup::new(id.clone());
    // One whose first generation is still being gathered has no protocol yet: Kafka fails inside, here it begins.
    let generation = classic.generation().max(group.epoch);
    (group.epoch, group.assignment_epoch) = (generation, generation);
    for migrant in classic.migrants() {
        let malformed = "the embedded consumer protocol is malformed.";
        let Ok(subscription) = embedded::subscription(&migrant.metadata) else {
            return refuse(malformed);
        };
        let mut target = Assignment::new();
        if !migrant.assignment.is_empty() {
            let Ok(assignment) = embedded::assignment(&migrant.assignment) else {
                return refuse(malformed);
            };
            if assignment
                .user_data
                .as_ref()
                .is_some_and(|data| !data.is_empty())
            {
                return refuse(
                    "an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade.",
                );
            }
            target = embedded::by_id(&assignment, fx.image);
        }
        let assigned = target.iter().map(|(topic, partitions)| {
            let since = partitions.iter().map(|index| (*index, generation));
            (*topic, since.collect())
        });
        let rack = subscription.rack_id.filter(|rack| !rack.is_empty());
        group.put(Member {
            instance: migrant.instance,
            rack: rack.map(|rack| rack.detach()),
            client: migrant.client,
            rebalance_timeout_ms: migrant.rebalance_timeout_ms,
            topics: subscription.topics.iter().map(Str::detach).collect(),
            classic: Some(ClassicMember {
                session_timeout_ms: migrant.session_timeout_ms,
                protocols: migrant.protocols,
            }),
            epoch: generation,
            previous_epoch: generation,
            state: MemberState::Stable,
            assigned: assigned.collect(),
            ..Member::new(migrant.id.clone())
        });
        group.target.insert(migrant.id, target);
    }
    // Of a rebalance that was under way not all have an assignment: without its hash the group gets a new target at once,
    // also where a static member comes back that wants what it wanted. Kafka leaves the partitions without an owner.
    if classic.state() == State::Stable {
        group.metadata_hash = group.metadata_hash_of(fx.image);
    }
    Ok(group)
}

impl ConsumerGroup {
    /// Its classic members have their own session time-outs to show up.
    pub(in crate::coordinator) fn expect_classic_members(&mut self, fx: &mut Effects<'_>) {
        let members = self.members.values().filter_map(|member| {
            let classic = member.classic.as_ref()?;
            Some((member.id.clone(), classic.session_timeout_ms))
        });
        let members: Vec<(Str, i32)> = members.collect();
        for (id, session_ms) in members {
            self.expect(fx, &id, session_ms);
        }
    }

    /// Whether only classic members are left without these, who then go on as a classic group.
    pub(in crate::coordinator) fn can_downgrade_without(
        &self,
        fx: &Effects<'_>,
        leaving: &[Str],
    ) -> bool {
        let staying = self
            .members
            .values()
            .filter(|member| !leaving.contains(&member.id));
        let mut count = 0;
        let mut all_classic = true;
        for member in staying {
            count += 1;
            all_classic &= member.uses_classic_protocol();
        }
        let has_room = count > 0 && count <= fx.settings.group_size_max;
        all_classic && has_room && fx.settings.consumer.may_downgrade
    }

    /// Ends this group; the classic one that its members but `leaving` make is returned, written and waited for.
    pub(in crate::coordinator) fn downgrade(
        mut self,
        fx: &mut Effects<'_>,
        leaving: &[Str],
    ) -> ClassicGroup {
        self.forget_all_timers(fx);
        fx.out.records.extend(self.tombstones());
        let none = Assignment::new();
        let staying = self
            .members
            .values()
            .filter(|member| !leaving.contains(&member.id));
        let migrants = staying.map(|member| {
            let classic = member.classic.as_ref().expect("only classic members stay");
            Migrant {
                id: member.id.clone(),
                instance: member.instance.clone(),
                client: member.client.clone(),
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: classic.session_timeout_ms,
                metadata: Default::default(),
                protocols: classic.protocols.clone(),
                assignment: Default::default(),
            }
        });
        let mut group = ClassicGroup::migrated(&self.id, fx.now.wall_ms, self.epoch, migrants);
        group.assign_migrants(|id, metadata| {
            let target = self.target.get(id).unwrap_or(&none);
            // What a member said was read before it was let in.
            embedded::encoded(target, metadata, fx.image).unwrap_or_default()
        });
        group.begin_migrated(fx);
        group
    }
}
