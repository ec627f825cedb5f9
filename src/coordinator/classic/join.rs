//! Owns the way into a group and to its next generation: JoinGroup, and what completes it.

use bytes::Bytes;

use crate::protocol::messages::JoinGroupResponse;
use crate::protocol::messages::join_group_response::JoinGroupResponseMember;
use crate::protocol::{ErrorCode, Str};

use crate::coordinator::records::Record;
use crate::coordinator::timers::Timer;
use crate::coordinator::{Answer, Effects, Join, Token};
use crate::limits::{
    GROUP_METADATA_BYTES_MAX, GROUP_PENDING_MEMBERS_MAX, MEMBER_METADATA_BYTES_MAX,
};

use super::protocols::{detached, same};
use super::{ClassicGroup, Member, State};

/// From this version on a member gets its id before it joins (KIP-394).
const MEMBER_ID_FIRST_SINCE: i16 = 4;
/// From this version on a leader can be told that it has nothing to assign (KIP-814).
const SKIP_ASSIGNMENT_SINCE: i16 = 9;
/// A member that has not had its first answer cannot heartbeat; it is given up after so long, like Kafka does.
const NEW_MEMBER_TIMEOUT_MS: i64 = 300_000;

/// A JoinGroup that is refused.
pub(in crate::coordinator) fn refused(member: Str, error: ErrorCode) -> Answer {
    Answer::Join(JoinGroupResponse {
        error_code: error.code(),
        generation_id: -1,
        protocol_name: None,
        member_id: member,
        ..JoinGroupResponse::default()
    })
}

impl ClassicGroup {
    pub(in crate::coordinator) fn join(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join) {
        let request = &join.request;
        let id = &request.member_id;
        let bytes: usize = request.protocols.iter().map(|p| p.metadata.len()).sum();
        if bytes > MEMBER_METADATA_BYTES_MAX {
            return fx
                .out
                .answer(token, refused(id.clone(), ErrorCode::InvalidRequest));
        }
        if !self.has_room_for(fx, id, bytes) {
            self.forget(fx, id);
            let refusal = refused(Str::EMPTY, ErrorCode::GroupMaxSizeReached);
            return fx.out.answer(token, refusal);
        }
        if !self.supports(&request.protocol_type, &request.protocols) {
            let refusal = refused(id.clone(), ErrorCode::InconsistentGroupProtocol);
            return fx.out.answer(token, refusal);
        }
        if id.is_empty() {
            self.join_new(fx, token, join);
        } else if self.pending.contains_key(id) {
            self.join_pending(fx, token, join);
        } else {
            self.join_known(fx, token, join);
        }
    }

    fn has_room_for(&self, fx: &Effects<'_>, id: &Str, bytes: usize) -> bool {
        let max = fx.settings.group_size_max;
        let known = self.members.get(id);
        let has_place = match self.state {
            State::Empty => true,
            // Those who wait count, not those who may never come back.
            State::PreparingRebalance => {
                known.is_some_and(|member| member.awaiting_join.is_some())
                    || self.awaiting_join < max
            }
            State::CompletingRebalance | State::Stable => {
                known.is_some() || self.members.len() < max
            }
        };
        let needs_id = id.is_empty() && self.pending.len() >= GROUP_PENDING_MEMBERS_MAX;
        has_place && self.counts.bytes + bytes <= GROUP_METADATA_BYTES_MAX && !needs_id
    }

    /// Somebody without an id: a new member, or a static one that has lost its id.
    fn join_new(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join) {
        let request = &join.request;
        let instance = request.group_instance_id.as_ref();
        let prefix = instance.unwrap_or(&join.client.id);
        let id = Str::from(format!("{prefix}-{}", join.unique));
        if let Some(instance) = instance {
            match self.static_members.get(instance).cloned() {
                Some(old) => self.replace(fx, token, join, &old, id),
                None => self.add(fx, token, join, id),
            }
        } else if join.version >= MEMBER_ID_FIRST_SINCE {
            let due = fx.now.monotonic_ms + i64::from(request.session_timeout_ms);
            let timer = Timer::Session {
                group: self.id.clone(),
                member: id.clone(),
            };
            let timer = fx.timers.schedule(due, timer);
            self.pending.insert(id.clone(), timer);
            let refusal = refused(id, ErrorCode::MemberIdRequired);
            fx.out.answer(token, refusal);
        } else {
            self.add(fx, token, join, id);
        }
    }

    /// Somebody who was given an id.
    fn join_pending(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join) {
        let id = join.request.member_id.clone();
        if join.request.group_instance_id.is_some() {
            // Static members are not given ids ahead; Kafka fails inside.
            let refusal = refused(id, ErrorCode::UnknownServerError);
            return fx.out.answer(token, refusal);
        }
        self.add(fx, token, join, id.detach());
    }

    fn join_known(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join) {
        let request = &join.request;
        let id = &request.member_id;
        if let Err(error) = self.check_member(id, request.group_instance_id.as_ref()) {
            return fx.out.answer(token, refused(id.clone(), error));
        }
        let is_same = same(&self.members[id].protocols, &request.protocols);
        let is_leader = self.leader.as_ref() == Some(id);
        match self.state {
            // Its answer was lost: the generation that it joined is still this one.
            State::CompletingRebalance if is_same => {
                let answer = self.joined(id, is_leader);
                fx.out.answer(token, Answer::Join(answer));
            }
            // Nothing has changed; a leader that joins again wants to assign anew.
            State::Stable if is_same && !is_leader => {
                let answer = self.joined(id, false);
                fx.out.answer(token, Answer::Join(answer));
            }
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => {
                self.update(fx, token, join, &id.detach());
                self.rebalance_or_complete(fx);
            }
            State::Empty => {
                let refusal = refused(id.clone(), ErrorCode::UnknownMemberId);
                fx.out.answer(token, refusal);
            }
        }
    }

    fn add(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join, id: Str) {
        fx.timers.cancel(self.pending.remove(&id));
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        if self.members.is_empty() {
            self.protocol_type = Some(join.request.protocol_type.detach());
        }
        self.leader.get_or_insert_with(|| id.clone());
        let (session_timeout_ms, rebalance_timeout_ms) = timeouts(join);
        self.insert(Member {
            id: id.clone(),
            instance: join.request.group_instance_id.as_ref().map(Str::detach),
            client: super::Client {
                id: join.client.id.detach(),
                host: join.client.host.detach(),
            },
            rebalance_timeout_ms,
            session_timeout_ms,
            protocols: detached(&join.request.protocols),
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
            deadline_ms: 0,
            session_timer: None,
        });
        self.awaiting_join += 1;
        self.expect_by(fx, &id, NEW_MEMBER_TIMEOUT_MS);
        self.rebalance_or_complete(fx);
    }

    /// Takes in what a known member says now, and that it waits.
    fn update(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join, id: &Str) {
        let (session_timeout_ms, rebalance_timeout_ms) = timeouts(join);
        let member = self.members.get_mut(id).expect("a known member");
        self.counts.take(&member.protocols);
        member.protocols = detached(&join.request.protocols);
        self.counts.add(&member.protocols);
        member.session_timeout_ms = session_timeout_ms;
        member.rebalance_timeout_ms = rebalance_timeout_ms;
        match member.awaiting_join.replace(token) {
            None => self.awaiting_join += 1,
            // The member has given its first request up; whoever still waits for it may ask again.
            Some(earlier) => {
                let refusal = refused(id.clone(), ErrorCode::RebalanceInProgress);
                fx.out.answer(earlier, refusal);
            }
        }
    }

    /// A static member comes back without its id: it gets a new one, and whoever has the old is fenced (KIP-345).
    fn replace(&mut self, fx: &mut Effects<'_>, token: Token, join: &Join, old: &Str, new: Str) {
        let former_leader = self.leader.clone();
        self.rename(fx, old, new.clone());
        self.update(fx, token, join, &new);
        self.expect(fx, &new);
        match self.state {
            State::Stable => self.replaced_in_stable(fx, join.version, former_leader, &new),
            // The leader may have been told the old id already.
            State::CompletingRebalance => self.prepare_rebalance(fx),
            State::PreparingRebalance => self.complete_if_all_joined(fx),
            State::Empty => unreachable!("an empty group has no static members"),
        }
    }

    /// As long as the choice of the protocol stays, so does the assignment: nobody else need know.
    fn replaced_in_stable(
        &mut self,
        fx: &mut Effects<'_>,
        version: i16,
        former_leader: Option<Str>,
        id: &Str,
    ) {
        let record = Record::classic_group(self);
        if self.selected_protocol() != self.protocol || !fx.fits(&record) {
            return self.rebalance_or_complete(fx);
        }
        fx.write(record);
        let is_leader = self.leader.as_ref() == Some(id);
        let skips = version >= SKIP_ASSIGNMENT_SINCE;
        let mut answer = self.joined(id, is_leader && skips);
        answer.skip_assignment = is_leader && skips;
        if !skips {
            // Were it told that it leads, it would assign, to a group that does not wait for it.
            answer.leader = former_leader.unwrap_or_default();
        }
        self.answer_join(fx, id, answer);
    }

    /// The members' next step, whichever it is.
    pub(super) fn rebalance_or_complete(&mut self, fx: &mut Effects<'_>) {
        match self.state {
            State::PreparingRebalance => self.complete_if_all_joined(fx),
            State::Empty | State::CompletingRebalance | State::Stable => self.prepare_rebalance(fx),
        }
    }

    pub(super) fn prepare_rebalance(&mut self, fx: &mut Effects<'_>) {
        if self.state == State::CompletingRebalance {
            self.fail_syncs(fx, ErrorCode::RebalanceInProgress);
        }
        fx.timers.cancel(self.sync_timer.take());
        let is_initial = self.state == State::Empty;
        self.transition(State::PreparingRebalance, fx.now);
        if is_initial {
            // Others who start at the same time are waited for.
            let delay_ms = fx.settings.initial_rebalance_delay_ms;
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.new_member_added = false;
            self.wait_for_more(fx, delay_ms, remaining_ms);
        } else if self.have_all_joined() {
            self.complete_join(fx);
        } else {
            self.wait_for_members(fx);
        }
    }

    pub(super) fn complete_if_all_joined(&mut self, fx: &mut Effects<'_>) {
        let is_initial = self.previous == State::Empty;
        if self.state == State::PreparingRebalance && self.have_all_joined() && !is_initial {
            self.complete_join(fx);
        }
    }

    fn have_all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending.is_empty()
    }

    /// The longest that any member allows.
    pub(super) fn rebalance_timeout_ms(&self) -> i64 {
        let timeouts = self.members.values().map(|m| m.rebalance_timeout_ms);
        i64::from(timeouts.max().unwrap_or(0))
    }

    fn wait_for_more(&mut self, fx: &mut Effects<'_>, delay_ms: i64, remaining_ms: i64) {
        let timer = Timer::InitialJoin {
            group: self.id.clone(),
            remaining_ms,
        };
        let due = fx.now.monotonic_ms + delay_ms;
        fx.timers.cancel(self.join_timer.take());
        self.join_timer = Some(fx.timers.schedule(due, timer));
    }

    fn wait_for_members(&mut self, fx: &mut Effects<'_>) {
        let timer = Timer::Join {
            group: self.id.clone(),
        };
        let due = fx.now.monotonic_ms + self.rebalance_timeout_ms();
        fx.timers.cancel(self.join_timer.take());
        self.join_timer = Some(fx.timers.schedule(due, timer));
    }

    /// While members keep coming, the first generation waits, up to the rebalance time-out.
    pub(in crate::coordinator) fn on_initial_delay(
        &mut self,
        fx: &mut Effects<'_>,
        remaining_ms: i64,
    ) {
        if std::mem::take(&mut self.new_member_added) && remaining_ms > 0 {
            let delay_ms = fx.settings.initial_rebalance_delay_ms.min(remaining_ms);
            self.wait_for_more(fx, delay_ms, (remaining_ms - delay_ms).max(0));
        } else {
            self.complete_join(fx);
        }
    }

    pub(in crate::coordinator) fn on_join_timeout(&mut self, fx: &mut Effects<'_>) {
        if self.state == State::PreparingRebalance {
            self.complete_join(fx);
        }
    }

    /// Begins the next generation with those who have joined, and static members.
    fn complete_join(&mut self, fx: &mut Effects<'_>) {
        fx.timers.cancel(self.join_timer.take());
        let absent: Vec<Str> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in &absent {
            self.remove(fx, id, ErrorCode::UnknownMemberId);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only absent static members are left: they have until their sessions end.
            return self.wait_for_members(fx);
        }
        self.generation = self.generation.wrapping_add(1).max(0);
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.learn_subscriptions();
            self.transition(State::Empty, fx.now);
            return fx.write(Record::classic_group(self));
        }
        self.protocol = self.selected_protocol();
        self.learn_subscriptions();
        self.transition(State::CompletingRebalance, fx.now);
        let ids: Vec<Str> = self.members.keys().cloned().collect();
        for id in &ids {
            let is_leader = self.leader.as_ref() == Some(id);
            let answer = self.joined(id, is_leader);
            self.answer_join(fx, id, answer);
            self.expect(fx, id);
            let member = self.members.get_mut(id).expect("one of the members");
            member.is_new = false;
            self.pending_sync.insert(id.clone());
        }
        let timer = Timer::Sync {
            group: self.id.clone(),
        };
        let due = fx.now.monotonic_ms + self.rebalance_timeout_ms();
        fx.timers.cancel(self.sync_timer.take());
        self.sync_timer = Some(fx.timers.schedule(due, timer));
    }

    /// The leader stays if it is here; else any member that is takes its place.
    fn elect_joined_leader(&mut self) -> bool {
        let is_here = |member: &&Member| member.awaiting_join.is_some();
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        if leader.as_ref().is_some_and(is_here) {
            return true;
        }
        let another = self.members.values().find(is_here);
        match another.map(|member| member.id.clone()) {
            Some(id) => {
                self.leader = Some(id);
                true
            }
            None => false,
        }
    }

    /// What a member of this generation is told, with the others if it is to assign.
    fn joined(&self, id: &Str, tells_members: bool) -> JoinGroupResponse {
        let members = self.members.values().map(|member| JoinGroupResponseMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            metadata: member.metadata(self.protocol.as_ref()),
        });
        JoinGroupResponse {
            generation_id: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol_name: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            member_id: id.clone(),
            members: match tells_members {
                true => members.collect(),
                false => Vec::new(),
            },
            ..JoinGroupResponse::default()
        }
    }

    fn answer_join(&mut self, fx: &mut Effects<'_>, id: &Str, answer: JoinGroupResponse) {
        let member = self.members.get_mut(id).expect("one of the members");
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            fx.out.answer(token, Answer::Join(answer));
        }
    }
}

/// Session and rebalance time-out; the oldest version knows only one.
fn timeouts(join: &Join) -> (i32, i32) {
    let session = join.request.session_timeout_ms;
    match join.version {
        0 => (session, session),
        _ => (session, join.request.rebalance_timeout_ms),
    }
}
