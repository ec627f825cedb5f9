//! Owns what requests about consumer groups mean to their coordinator: which group they find, which they make, and when
//! one of another type takes its place.

use crate::coordinator::classic::{self, ClassicGroup};
use crate::coordinator::effects::Effects;
use crate::coordinator::machine::{Coordinator, Group};
use crate::coordinator::timers::MemberTimer;
use crate::coordinator::{Actions, Answer, Join, Now, Record, Token};
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::leave_group_response::MemberResponse;
use crate::protocol::messages::{ConsumerGroupHeartbeatResponse, JoinGroupResponse};
use crate::protocol::{ErrorCode, Str};

use super::classic_members::Joined;
use super::heartbeat::Beat;
use super::{ConsumerGroup, Refused, migration};

impl Coordinator {
    pub(in crate::coordinator) fn consumer_heartbeat(
        &mut self,
        now: Now,
        out: &mut Actions,
        token: Token,
        beat: &Beat,
    ) {
        let checked = beat.check(&self.settings.consumer);
        let answered = checked.and_then(|()| match beat.leaves() {
            true => self.consumer_leave(now, out, beat),
            false => self.beat(now, out, beat),
        });
        let answer = answered.unwrap_or_else(|refused| ConsumerGroupHeartbeatResponse {
            error_code: refused.code.code(),
            error_message: refused.message,
            ..ConsumerGroupHeartbeatResponse::default()
        });
        out.answer(token, Answer::ConsumerHeartbeat(answer));
    }

    fn beat(
        &mut self,
        now: Now,
        out: &mut Actions,
        beat: &Beat,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let id = &beat.request.group_id;
        let joins = beat.request.member_epoch == 0;
        if !self.groups.contains_key(id) && joins && self.is_full() {
            let message = "This coordinator has as many groups as it can.";
            return Err(Refused::new(ErrorCode::PolicyViolation, message));
        }
        let (groups, mut fx) = self.split(now, out);
        match groups.get_mut(id) {
            Some(Group::Consumer(group)) => group.heartbeat(&mut fx, beat),
            None if !joins => {
                let message = format!("Consumer group {id} not found.");
                Err(Refused::new(ErrorCode::GroupIdNotFound, message))
            }
            None => {
                let mut group = ConsumerGroup::new(id.detach());
                let answer = group.heartbeat(&mut fx, beat)?;
                groups.insert(group.id().clone(), Group::Consumer(group));
                Ok(answer)
            }
            Some(Group::Classic(_)) if !joins => {
                let message = format!("Group {id} is not a consumer group.");
                Err(Refused::new(ErrorCode::GroupIdNotFound, message))
            }
            Some(Group::Classic(classic)) => {
                let (group, answer) = take_over(&mut fx, classic, beat)?;
                groups.insert(group.id().clone(), Group::Consumer(group));
                Ok(answer)
            }
        }
    }

    fn consumer_leave(
        &mut self,
        now: Now,
        out: &mut Actions,
        beat: &Beat,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let request = &beat.request;
        let id = &request.group_id;
        let (groups, mut fx) = self.split(now, out);
        let leaving = match groups.get_mut(id) {
            Some(Group::Consumer(group)) => group.leave(&mut fx, request)?,
            Some(Group::Classic(_)) => {
                let message = format!("Group {id} is not a consumer group.");
                return Err(Refused::new(ErrorCode::GroupIdNotFound, message));
            }
            None => return Err(Refused::no_such_group(id)),
        };
        if let Some(leaving) = leaving {
            self.fence(now, out, id, &[leaving]);
        }
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(request.member_id.clone()),
            member_epoch: request.member_epoch,
            ..ConsumerGroupHeartbeatResponse::default()
        })
    }

    /// Takes members out of a consumer group, which may be a classic one then.
    fn fence(&mut self, now: Now, out: &mut Actions, id: &Str, leaving: &[Str]) {
        let (groups, mut fx) = self.split(now, out);
        let Some(Group::Consumer(group)) = groups.get_mut(id) else {
            return;
        };
        if !group.can_downgrade_without(&fx, leaving) {
            return group.fence(&mut fx, leaving);
        }
        let Some(Group::Consumer(group)) = groups.remove(id) else {
            unreachable!("it was just there");
        };
        let mut classic = group.downgrade(&mut fx, leaving);
        classic.rebalance_migrated(&mut fx);
        groups.insert(classic.id().clone(), Group::Classic(classic));
    }

    pub(in crate::coordinator) fn on_member_timer(
        &mut self,
        now: Now,
        out: &mut Actions,
        id: &Str,
        member: Str,
        timer: &MemberTimer,
    ) {
        let (groups, mut fx) = self.split(now, out);
        if let Some(Group::Consumer(group)) = groups.get_mut(id)
            && group.is_over(&mut fx, &member, timer)
        {
            self.fence(now, out, id, &[member]);
        }
    }

    // --- members of the classic protocol ---

    /// A JoinGroup that found a consumer group with members.
    pub(in crate::coordinator) fn join_consumer_group(
        &mut self,
        now: Now,
        out: &mut Actions,
        join: &Join,
    ) -> Result<JoinGroupResponse, ErrorCode> {
        let id = &join.request.group_id;
        let (groups, mut fx) = self.split(now, out);
        let Some(Group::Consumer(group)) = groups.get_mut(id) else {
            unreachable!("a consumer group was found");
        };
        let Joined { answer, downgrades } = group.join(&mut fx, join)?;
        if downgrades {
            let Some(Group::Consumer(group)) = groups.remove(id) else {
                unreachable!("it was just there");
            };
            let is_behind = group.assignment_epoch() < group.epoch();
            let mut classic = group.downgrade(&mut fx, &[]);
            if is_behind {
                classic.rebalance_migrated(&mut fx);
            }
            groups.insert(classic.id().clone(), Group::Classic(classic));
        }
        Ok(answer)
    }

    pub(in crate::coordinator) fn leave_consumer_group(
        &mut self,
        now: Now,
        out: &mut Actions,
        id: &Str,
        leaving: &[MemberIdentity],
    ) -> Vec<MemberResponse> {
        let Some(Group::Consumer(group)) = self.groups.get(id) else {
            unreachable!("a consumer group was found");
        };
        let (answers, leaving) = group.classic_leave(leaving);
        if !leaving.is_empty() {
            self.fence(now, out, id, &leaving);
        }
        answers
    }

    /// An empty consumer group makes way for a classic one of its name.
    pub(in crate::coordinator) fn clear_empty_consumer_group(
        &mut self,
        now: Now,
        out: &mut Actions,
        id: &Str,
    ) {
        let (groups, mut fx) = self.split(now, out);
        if let Some(Group::Consumer(group)) = groups.get_mut(id)
            && group.is_empty()
        {
            group.forget_all_timers(&mut fx);
            fx.out.records.extend(group.tombstones());
            groups.remove(id);
        }
    }
}

/// A member of the consumer protocol joins a classic group: an empty one is replaced, one with members turned into a
/// consumer group. Nothing happens unless the member is let in.
fn take_over(
    fx: &mut Effects<'_>,
    classic: &mut ClassicGroup,
    beat: &Beat,
) -> Result<(ConsumerGroup, ConsumerGroupHeartbeatResponse), Refused> {
    let is_empty = classic.state() == classic::State::Empty;
    let mut group = match is_empty {
        true => ConsumerGroup::new(classic.id().clone()),
        false => migration::upgraded(fx, classic)?,
    };
    let mut first = vec![Record::no_classic_group(classic.id())];
    if !is_empty {
        group.write_all(&mut first);
    }
    let written = fx.out.records.len();
    let answer = group.heartbeat(fx, beat)?;
    fx.out.records.splice(written..written, first);
    classic.end(fx, ErrorCode::RebalanceInProgress);
    group.expect_classic_members(fx);
    Ok((group, answer))
}
