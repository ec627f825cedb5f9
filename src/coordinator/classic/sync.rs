//! Owns handing assignments out: SyncGroup, from the leader with them and from the others for theirs.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use crate::protocol::{ErrorCode, Str};

use crate::coordinator::records::Record;
use crate::coordinator::{Answer, Effects, Token};

use super::{ClassicGroup, State};

/// A SyncGroup that is refused.
pub(in crate::coordinator) fn refused(error: ErrorCode) -> Answer {
    Answer::Sync(SyncGroupResponse {
        error_code: error.code(),
        ..SyncGroupResponse::default()
    })
}

impl ClassicGroup {
    pub(in crate::coordinator) fn sync(
        &mut self,
        fx: &mut Effects<'_>,
        token: Token,
        request: &SyncGroupRequest,
    ) {
        let checked = self.check_sync(fx, request);
        if let Err(error) = checked {
            return fx.out.answer(token, refused(error));
        }
        let id = &request.member_id;
        match self.state {
            State::Empty => fx.out.answer(token, refused(ErrorCode::UnknownMemberId)),
            State::PreparingRebalance => {
                fx.out
                    .answer(token, refused(ErrorCode::RebalanceInProgress));
            }
            State::CompletingRebalance => {
                let member = self.members.get_mut(id).expect("checked");
                let earlier = member.awaiting_sync.replace(token);
                if let Some(earlier) = earlier {
                    let refusal = refused(ErrorCode::RebalanceInProgress);
                    fx.out.answer(earlier, refusal);
                }
                self.has_synced(fx, id);
                if self.leader.as_ref() == Some(id) {
                    self.assign(fx, request);
                }
            }
            State::Stable => {
                self.has_synced(fx, id);
                let answer = self.assigned(id);
                fx.out.answer(token, answer);
            }
        }
    }

    fn check_sync(&self, fx: &Effects<'_>, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.check_member(&request.member_id, request.group_instance_id.as_ref())?;
        if !takes_any_leader(fx) {
            self.check_generation(request.generation_id)?;
        }
        let differs = |told: &Option<Str>, known: &Option<Str>| match (told, known) {
            (Some(told), Some(known)) => told != known,
            _ => false,
        };
        let other_type = differs(&request.protocol_type, &self.protocol_type);
        match other_type || differs(&request.protocol_name, &self.protocol) {
            true => Err(ErrorCode::InconsistentGroupProtocol),
            false => Ok(()),
        }
    }

    fn has_synced(&mut self, fx: &mut Effects<'_>, id: &Str) {
        self.pending_sync.remove(id);
        if self.pending_sync.is_empty() {
            fx.timers.cancel(self.sync_timer.take());
        }
    }

    /// Takes the leader's assignments in. Members that it left out have none.
    fn assign(&mut self, fx: &mut Effects<'_>, request: &SyncGroupRequest) {
        let told = request.assignments.iter();
        let mut told: BTreeMap<&Str, &Bytes> =
            told.map(|one| (&one.member_id, &one.assignment)).collect();
        for member in self.members.values_mut() {
            let assignment = told.remove(&member.id);
            member.assignment = assignment.map_or_else(Bytes::new, |a| Bytes::copy_from_slice(a));
        }
        self.transition(State::Stable, fx.now);
        let record = Record::classic_group(self);
        if !fx.fits(&record) {
            // Nobody has been told anything of it.
            self.state = State::CompletingRebalance;
            self.fail_syncs(fx, ErrorCode::UnknownServerError);
            return self.prepare_rebalance(fx);
        }
        fx.write(record);
        self.answer_syncs(fx, Self::assigned);
    }

    fn assigned(&self, id: &Str) -> Answer {
        Answer::Sync(SyncGroupResponse {
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            assignment: self.members[id].assignment.clone(),
            ..SyncGroupResponse::default()
        })
    }

    /// The assignments of this generation will not come.
    pub(super) fn fail_syncs(&mut self, fx: &mut Effects<'_>, error: ErrorCode) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        self.answer_syncs(fx, |_, _| refused(error));
    }

    /// Answers all who wait; from then on they are expected to heartbeat.
    fn answer_syncs(&mut self, fx: &mut Effects<'_>, answer: impl Fn(&Self, &Str) -> Answer) {
        let waiting = self.members.values_mut();
        let waiting: Vec<(Str, Token)> = waiting
            .filter_map(|member| Some((member.id.clone(), member.awaiting_sync.take()?)))
            .collect();
        for (id, token) in waiting {
            let answer = answer(self, &id);
            fx.out.answer(token, answer);
            self.expect(fx, &id);
        }
    }

    /// Members that have joined and then not asked for their assignment are gone.
    pub(in crate::coordinator) fn on_sync_timeout(&mut self, fx: &mut Effects<'_>) {
        self.sync_timer = None;
        let absent = std::mem::take(&mut self.pending_sync);
        let has_generation = matches!(self.state, State::CompletingRebalance | State::Stable);
        if !has_generation || absent.is_empty() {
            return;
        }
        for id in &absent {
            self.remove(fx, id, ErrorCode::UnknownMemberId);
        }
        self.prepare_rebalance(fx);
    }
}

#[cfg(feature = "simulation")]
fn takes_any_leader(fx: &Effects<'_>) -> bool {
    fx.settings.sabotage == crate::coordinator::Sabotage::OldLeaderAssigns
}

#[cfg(not(feature = "simulation"))]
fn takes_any_leader(_fx: &Effects<'_>) -> bool {
    false
}
