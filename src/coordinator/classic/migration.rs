//! Owns a classic group's side of becoming a consumer group, and of being one that was a consumer group (KIP-848).

use bytes::Bytes;

use crate::coordinator::records::Record;
use crate::coordinator::{Client, Effects};
use crate::ids::TimestampMs;
use crate::protocol::{ErrorCode, Str};

use super::{CONSUMER, ClassicGroup, Member, State};

/// A member on its way from one type of group to the other.
#[derive(Clone, Debug)]
pub(in crate::coordinator) struct Migrant {
    pub id: Str,
    pub instance: Option<Str>,
    pub client: Client,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    /// What it says under the chosen protocol.
    pub metadata: Bytes,
    /// All of its protocols, by preference.
    pub protocols: Vec<(Str, Bytes)>,
    pub assignment: Bytes,
}

impl ClassicGroup {
    pub(in crate::coordinator) fn migrants(&self) -> impl Iterator<Item = Migrant> {
        let protocol = self.protocol.clone().or_else(|| self.selected_protocol());
        self.members.values().map(move |member| Migrant {
            id: member.id.clone(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            metadata: member.metadata(protocol.as_ref()),
            protocols: member.protocols.clone(),
            assignment: member.assignment.clone(),
        })
    }

    /// The group goes on as another; who waits for it asks again there.
    pub(in crate::coordinator) fn end(&mut self, fx: &mut Effects<'_>, error: ErrorCode) {
        for (_, timer) in std::mem::take(&mut self.pending) {
            fx.timers.cancel(Some(timer));
        }
        fx.timers.cancel(self.join_timer.take());
        fx.timers.cancel(self.sync_timer.take());
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.remove(fx, id, error);
        }
    }

    /// A stable group of members that have been assigned nothing yet.
    pub(in crate::coordinator) fn migrated(
        id: &Str,
        now: TimestampMs,
        generation: i32,
        migrants: impl Iterator<Item = Migrant>,
    ) -> ClassicGroup {
        let mut group = ClassicGroup::new(id.clone(), now);
        (group.state, group.previous) = (State::Stable, State::Stable);
        group.protocol_type = Some(Str::from(CONSUMER));
        group.generation = generation;
        for migrant in migrants {
            group.leader.get_or_insert_with(|| migrant.id.clone());
            group.insert(Member {
                id: migrant.id,
                instance: migrant.instance,
                client: migrant.client,
                rebalance_timeout_ms: migrant.rebalance_timeout_ms,
                session_timeout_ms: migrant.session_timeout_ms,
                protocols: migrant.protocols,
                assignment: migrant.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
                deadline_ms: 0,
                session_timer: None,
            });
        }
        group.protocol = group.selected_protocol();
        group.learn_subscriptions();
        group
    }

    /// Assigns to each member, by its id and what it says.
    pub(in crate::coordinator) fn assign_migrants(
        &mut self,
        assignment: impl Fn(&Str, &Bytes) -> Bytes,
    ) {
        let protocol = self.protocol.clone();
        for member in self.members.values_mut() {
            let metadata = member.metadata(protocol.as_ref());
            member.assignment = assignment(&member.id, &metadata);
        }
    }

    pub(in crate::coordinator) fn begin_migrated(&mut self, fx: &mut Effects<'_>) {
        fx.write(Record::classic_group(self));
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.expect(fx, id);
        }
    }

    pub(in crate::coordinator) fn rebalance_migrated(&mut self, fx: &mut Effects<'_>) {
        self.prepare_rebalance(fx);
    }
}
