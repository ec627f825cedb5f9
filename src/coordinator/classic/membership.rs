//! Owns how members stay and go: heartbeats, sessions, LeaveGroup, removal.

use crate::protocol::ErrorCode;
use crate::protocol::Str;
use crate::protocol::messages::HeartbeatRequest;
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::leave_group_response::MemberResponse;

use crate::coordinator::Effects;
use crate::coordinator::timers::Timer;

use super::join;
use super::sync;
use super::{ClassicGroup, Member, State};

impl ClassicGroup {
    /// What a heartbeat is answered with.
    pub(in crate::coordinator) fn heartbeat(
        &mut self,
        fx: &mut Effects<'_>,
        request: &HeartbeatRequest,
    ) -> Result<(), ErrorCode> {
        let id = &request.member_id;
        self.check_member(id, request.group_instance_id.as_ref())?;
        self.check_generation(request.generation_id)?;
        match self.state {
            State::Empty => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => {
                self.expect(fx, id);
                Err(ErrorCode::RebalanceInProgress)
            }
            State::CompletingRebalance | State::Stable => {
                self.expect(fx, id);
                Ok(())
            }
        }
    }

    /// A commit is a sign of life, too.
    pub(in crate::coordinator) fn on_commit(&mut self, fx: &mut Effects<'_>, id: &Str) {
        let counts = matches!(self.state, State::Stable | State::PreparingRebalance);
        if counts && self.members.contains_key(id) {
            self.expect(fx, id);
        }
    }

    pub(in crate::coordinator) fn leave(
        &mut self,
        fx: &mut Effects<'_>,
        leaving: &[MemberIdentity],
    ) -> Vec<MemberResponse> {
        let mut anybody = false;
        let answers = leaving.iter().map(|one| {
            let left = self.leave_one(fx, one);
            anybody |= left.is_ok();
            MemberResponse {
                member_id: one.member_id.clone(),
                group_instance_id: one.group_instance_id.clone(),
                error_code: left.err().unwrap_or(ErrorCode::None).code(),
            }
        });
        let answers = answers.collect();
        if anybody {
            self.on_removed(fx);
        }
        answers
    }

    /// By member id, or by instance id alone, as administrators do (KIP-345).
    fn leave_one(&mut self, fx: &mut Effects<'_>, one: &MemberIdentity) -> Result<(), ErrorCode> {
        let (id, instance) = (&one.member_id, one.group_instance_id.as_ref());
        if id.is_empty() {
            let named = instance.and_then(|instance| self.static_members.get(instance));
            let id = named.cloned().ok_or(ErrorCode::UnknownMemberId)?;
            self.remove(fx, &id, ErrorCode::UnknownMemberId);
        } else if self.pending.contains_key(id) {
            self.forget(fx, id);
        } else {
            self.check_member(id, instance)?;
            self.remove(fx, id, ErrorCode::UnknownMemberId);
        }
        Ok(())
    }

    /// The others go on without those who were removed.
    fn on_removed(&mut self, fx: &mut Effects<'_>) {
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(fx),
            State::PreparingRebalance => self.complete_if_all_joined(fx),
            State::Empty => {}
        }
    }

    pub(in crate::coordinator) fn on_session_timeout(&mut self, fx: &mut Effects<'_>, id: &Str) {
        if self.pending.remove(id).is_some() {
            return self.complete_if_all_joined(fx);
        }
        let Some(member) = self.members.get_mut(id) else {
            return;
        };
        member.session_timer = None;
        if member.deadline_ms > fx.now.monotonic_ms {
            // It has been heard of since the timer was set.
            let due = member.deadline_ms;
            return self.arm_session(fx, id, due);
        }
        let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        if member.is_new || !waits {
            self.remove(fx, id, ErrorCode::UnknownMemberId);
            self.on_removed(fx);
        }
        // Who waits for us is not late; its answer sets the next deadline.
    }

    /// Members of a group that was loaded have one session time-out to show up.
    pub(in crate::coordinator) fn on_loaded(&mut self, fx: &mut Effects<'_>) {
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            self.expect(fx, id);
        }
        if self.members.len() > fx.settings.group_size_max {
            self.prepare_rebalance(fx);
        }
    }

    /// The member has one session time-out from now.
    pub(super) fn expect(&mut self, fx: &mut Effects<'_>, id: &Str) {
        let session = i64::from(self.members[id].session_timeout_ms);
        self.expect_by(fx, id, session);
    }

    /// A deadline that moves on leaves the timer where it is; the timer looks again when it fires.
    pub(super) fn expect_by(&mut self, fx: &mut Effects<'_>, id: &Str, timeout_ms: i64) {
        let deadline = fx.now.monotonic_ms + timeout_ms;
        let member = self.members.get_mut(id).expect("one of the members");
        member.deadline_ms = deadline;
        match member.session_timer {
            Some(timer) if timer.due_ms <= deadline => {}
            timer => {
                fx.timers.cancel(timer);
                self.arm_session(fx, id, deadline);
            }
        }
    }

    fn arm_session(&mut self, fx: &mut Effects<'_>, id: &Str, due_ms: i64) {
        let timer = Timer::Session {
            group: self.id.clone(),
            member: id.clone(),
        };
        let timer = fx.timers.schedule(due_ms, timer);
        let member = self.members.get_mut(id).expect("one of the members");
        member.session_timer = Some(timer);
    }

    pub(super) fn insert(&mut self, member: Member) {
        self.counts.add(&member.protocols);
        if let Some(instance) = &member.instance {
            let known = self
                .static_members
                .insert(instance.clone(), member.id.clone());
            assert!(known.is_none(), "an instance is one member");
        }
        let known = self.members.insert(member.id.clone(), member);
        assert!(known.is_none(), "a member id is given once");
    }

    /// Takes a member out; what it waits for is answered with `error`.
    pub(super) fn remove(&mut self, fx: &mut Effects<'_>, id: &Str, error: ErrorCode) {
        let Some(member) = self.take_out(fx, id, error) else {
            return;
        };
        if let Some(instance) = &member.instance {
            self.static_members.remove(instance);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Gives a static member another id; whoever waits under the old one is fenced.
    pub(super) fn rename(&mut self, fx: &mut Effects<'_>, old: &Str, new: Str) {
        let was_to_sync = self.pending_sync.contains(old);
        let taken = self.take_out(fx, old, ErrorCode::FencedInstanceId);
        let mut member = taken.expect("a known static member");
        if let Some(instance) = &member.instance {
            self.static_members.remove(instance);
        }
        if self.leader.as_ref() == Some(old) {
            self.leader = Some(new.clone());
        }
        if was_to_sync {
            self.pending_sync.insert(new.clone());
        }
        member.id = new;
        self.insert(member);
    }

    /// Removes whatever the id stands for, without a word to the others.
    pub(super) fn forget(&mut self, fx: &mut Effects<'_>, id: &Str) {
        fx.timers.cancel(self.pending.remove(id));
        self.remove(fx, id, ErrorCode::UnknownMemberId);
    }

    fn take_out(&mut self, fx: &mut Effects<'_>, id: &Str, error: ErrorCode) -> Option<Member> {
        let mut member = self.members.remove(id)?;
        self.counts.take(&member.protocols);
        self.pending_sync.remove(id);
        fx.timers.cancel(member.session_timer.take());
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            fx.out.answer(token, join::refused(id.clone(), error));
        }
        if let Some(token) = member.awaiting_sync.take() {
            fx.out.answer(token, sync::refused(error));
        }
        Some(member)
    }
}
