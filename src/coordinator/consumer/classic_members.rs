//! Owns members of a consumer group that still speak the classic protocol: JoinGroup, SyncGroup, Heartbeat and
//! LeaveGroup, answered from the same target and epochs as everybody's. The member epoch is their generation; they learn
//! of a new one by being told that a rebalance is in progress.

use bytes::Bytes;

use crate::coordinator::effects::Effects;
use crate::coordinator::timers::{MemberTimer, Timer};
use crate::coordinator::{Client, Join};
use crate::limits::MEMBER_METADATA_BYTES_MAX;
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::leave_group_response::MemberResponse;
use crate::protocol::messages::{
    HeartbeatRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};
use crate::protocol::records::client::consumer_protocol_subscription::ConsumerProtocolSubscription;
use crate::protocol::{ErrorCode, Str};

use super::regex::Change;
use super::{Assignment, ClassicMember, ConsumerGroup, Member, MemberState, embedded};

/// The protocol type of plain consumers.
const CONSUMER: &str = "consumer";
/// From this version on a member gets its id before it joins (KIP-394).
const MEMBER_ID_FIRST_SINCE: i16 = 4;

/// What a JoinGroup comes to.
pub(in crate::coordinator) struct Joined {
    pub answer: JoinGroupResponse,
    /// The group is to go on as a classic one; whether it rebalances is up to its epoch.
    pub downgrades: bool,
}

impl ConsumerGroup {
    pub(in crate::coordinator) fn join(
        &mut self,
        fx: &mut Effects<'_>,
        join: &Join,
    ) -> Result<Joined, ErrorCode> {
        let request = &join.request;
        let is_unknown = request.member_id.is_empty();
        let id = match is_unknown {
            true => join.unique.detach(),
            false => request.member_id.detach(),
        };
        self.check_join(fx, join, &id)?;
        let instance = request.group_instance_id.as_ref();
        if is_unknown && instance.is_none() && join.version >= MEMBER_ID_FIRST_SINCE {
            let answer = JoinGroupResponse {
                error_code: ErrorCode::MemberIdRequired.code(),
                generation_id: -1,
                protocol_name: None,
                member_id: id,
                ..JoinGroupResponse::default()
            };
            return Ok(Joined {
                answer,
                downgrades: false,
            });
        }
        let found = match instance {
            None => self.find(&id, true),
            Some(instance) => self.find_static(instance, &id, is_unknown, true),
        };
        let found = found.map_err(|refused| refused.code)?;
        let metadata = &request.protocols[0].metadata;
        let subscription = embedded::subscription(metadata);
        let subscription = subscription.map_err(|_| ErrorCode::InconsistentGroupProtocol)?;
        let replaced = instance.and_then(|instance| self.static_member(instance));
        let replaced = replaced.filter(|member| !member.uses_classic_protocol());
        let leaving: Vec<Str> = replaced
            .map(|member| member.id.clone())
            .into_iter()
            .collect();

        let old = self.admit(fx, &found, &id);
        let updated = told(old.clone(), join, &subscription);
        let change = self.take_in(fx, &old, updated);
        let bumps = change.names || change.pattern != Change::None;
        if bumps || self.is_outdated {
            self.look_at_topics(fx, bumps);
        }
        let downgrades = !leaving.is_empty() && self.can_downgrade_without(fx, &[]);
        if !downgrades {
            self.make_target(fx);
        }
        if !downgrades || self.assignment_epoch >= self.epoch {
            let reported = embedded::owned(&subscription, fx.image);
            self.step(fx, &id, bumps, Some(&reported));
        }
        if !downgrades {
            self.expect(fx, &id, request.session_timeout_ms);
            self.await_sync(fx, &id);
        }
        let answer = JoinGroupResponse {
            generation_id: self.members[&id].epoch,
            protocol_type: Some(Str::from(CONSUMER)),
            protocol_name: Some(request.protocols[0].name.detach()),
            member_id: id,
            ..JoinGroupResponse::default()
        };
        Ok(Joined { answer, downgrades })
    }

    fn check_join(&self, fx: &Effects<'_>, join: &Join, id: &Str) -> Result<(), ErrorCode> {
        let request = &join.request;
        let settings = &fx.settings.consumer;
        if !settings.may_upgrade && !settings.may_downgrade {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let bytes: usize = request.protocols.iter().map(|p| p.metadata.len()).sum();
        if bytes > MEMBER_METADATA_BYTES_MAX {
            return Err(ErrorCode::InvalidRequest);
        }
        let instance = request.group_instance_id.as_ref();
        let sized = self.check_size(settings.group_size_max, id, instance);
        sized.map_err(|refused| refused.code)?;
        let classic: Vec<&ClassicMember> = self
            .members
            .values()
            .filter_map(|m| m.classic.as_ref())
            .collect();
        let is_common = |name: &Str| {
            let knows = |one: &&ClassicMember| one.protocols.iter().any(|(known, _)| known == name);
            classic.iter().all(knows)
        };
        let is_supported = request.protocol_type == *CONSUMER
            && request
                .protocols
                .iter()
                .any(|protocol| is_common(&protocol.name));
        match is_supported {
            true => Ok(()),
            false => Err(ErrorCode::InconsistentGroupProtocol),
        }
    }

    fn await_sync(&mut self, fx: &mut Effects<'_>, id: &Str) {
        let timeout_ms = self.members[id].rebalance_timeout_ms;
        let waits = self.waits.entry(id.clone()).or_default();
        fx.timers.cancel(waits.join.take());
        fx.timers.cancel(waits.sync.take());
        let due = fx.now.monotonic_ms + i64::from(timeout_ms);
        let timer = Timer::member(&self.id, id, MemberTimer::Sync);
        waits.sync = Some(fx.timers.schedule(due, timer));
    }

    /// A member that was told of a rebalance is to join, within its time-out from the first time.
    fn await_join(&mut self, fx: &mut Effects<'_>, id: &Str) {
        let timeout_ms = self.members[id].rebalance_timeout_ms;
        let waits = self.waits.entry(id.clone()).or_default();
        if waits.join.is_none() {
            let due = fx.now.monotonic_ms + i64::from(timeout_ms);
            let timer = Timer::member(&self.id, id, MemberTimer::Join);
            waits.join = Some(fx.timers.schedule(due, timer));
        }
    }

    /// A member that speaks the classic protocol, at its generation.
    fn classic_member(
        &self,
        id: &Str,
        instance: Option<&Str>,
        generation: i32,
    ) -> Result<&Member, ErrorCode> {
        let found = match instance {
            None => self.member(id),
            Some(instance) => self.current_static(instance, id),
        };
        let member = found.map_err(|refused| refused.code)?;
        if !member.uses_classic_protocol() {
            return Err(ErrorCode::UnknownMemberId);
        }
        match member.epoch == generation {
            true => Ok(member),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }

    pub(in crate::coordinator) fn sync(
        &mut self,
        fx: &mut Effects<'_>,
        request: &SyncGroupRequest,
    ) -> Result<SyncGroupResponse, ErrorCode> {
        let id = &request.member_id;
        let instance = request.group_instance_id.as_ref();
        let member = self.classic_member(id, instance, request.generation_id)?;
        let classic = member.classic.as_ref().expect("a classic member");
        let first = classic.protocols.first();
        let (name, metadata) = first.ok_or(ErrorCode::UnknownServerError)?;
        let is_other_type = request
            .protocol_type
            .as_ref()
            .is_some_and(|one| **one != *CONSUMER);
        let is_other_name = request
            .protocol_name
            .as_ref()
            .is_some_and(|one| one != name);
        if is_other_type || is_other_name {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let is_behind = self.assignment_epoch > member.epoch;
        if is_behind && member.state != MemberState::UnrevokedPartitions {
            self.await_join(fx, &id.detach());
            return Err(ErrorCode::RebalanceInProgress);
        }
        let assigned: Assignment = member
            .assigned
            .iter()
            .map(|(topic, partitions)| (*topic, partitions.keys().copied().collect()))
            .collect();
        let assignment = embedded::encoded(&assigned, metadata, fx.image);
        let session_ms = classic.session_timeout_ms;
        if let Some(waits) = self.waits.get_mut(id) {
            fx.timers.cancel(waits.sync.take());
        }
        self.expect(fx, &id.detach(), session_ms);
        Ok(SyncGroupResponse {
            protocol_type: request.protocol_type.clone(),
            protocol_name: request.protocol_name.clone(),
            assignment: assignment.map_err(|_| ErrorCode::UnknownServerError)?,
            ..SyncGroupResponse::default()
        })
    }

    pub(in crate::coordinator) fn classic_heartbeat(
        &mut self,
        fx: &mut Effects<'_>,
        request: &HeartbeatRequest,
    ) -> Result<(), ErrorCode> {
        let id = &request.member_id;
        let instance = request.group_instance_id.as_ref();
        let member = self.classic_member(id, instance, request.generation_id)?;
        let classic = member.classic.as_ref().expect("a classic member");
        let session_ms = classic.session_timeout_ms;
        let is_to_join = member.epoch < self.assignment_epoch
            || member.state == MemberState::UnrevokedPartitions
            || member.state == MemberState::UnreleasedPartitions && !self.waits_for_others(member);
        let id = id.detach();
        self.expect(fx, &id, session_ms);
        if is_to_join {
            self.await_join(fx, &id);
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether something of a member's target still is another's.
    fn waits_for_others(&self, member: &Member) -> bool {
        let target = self.target.get(&member.id);
        let mut partitions = target
            .into_iter()
            .flatten()
            .flat_map(|(topic, partitions)| partitions.iter().map(move |index| (*topic, *index)));
        partitions.any(|(topic, index)| {
            let has = member
                .assigned
                .get(&topic)
                .is_some_and(|own| own.contains_key(&index));
            !has && self.owner(topic, index).is_some()
        })
    }

    /// What each of those that leave is answered, and who is to be taken out.
    pub(in crate::coordinator) fn classic_leave(
        &self,
        leaving: &[MemberIdentity],
    ) -> (Vec<MemberResponse>, Vec<Str>) {
        let mut out: Vec<Str> = Vec::new();
        let answers = leaving.iter().map(|one| {
            let found = match &one.group_instance_id {
                None => self.member(&one.member_id).map(|member| &member.id),
                Some(instance) if one.member_id.is_empty() => {
                    let id = self.static_members.get(instance);
                    id.ok_or_else(|| super::Refused {
                        code: ErrorCode::UnknownMemberId,
                        message: None,
                    })
                }
                Some(instance) => {
                    let found = self.current_static(instance, &one.member_id);
                    found.map(|member| &member.id)
                }
            };
            let error = match found {
                Ok(id) => {
                    if !out.contains(id) {
                        out.push(id.clone());
                    }
                    ErrorCode::None
                }
                Err(refused) => refused.code,
            };
            MemberResponse {
                member_id: one.member_id.clone(),
                group_instance_id: one.group_instance_id.clone(),
                error_code: error.code(),
            }
        });
        (answers.collect(), out)
    }
}

/// A member as its JoinGroup tells it.
fn told(mut member: Member, join: &Join, subscription: &ConsumerProtocolSubscription) -> Member {
    let request = &join.request;
    if let Some(instance) = &request.group_instance_id {
        member.instance = Some(instance.detach());
    }
    let rebalance_timeout_ms = match join.version {
        // The oldest version knows only one time-out.
        0 => request.session_timeout_ms,
        _ => request.rebalance_timeout_ms,
    };
    if rebalance_timeout_ms != -1 {
        member.rebalance_timeout_ms = rebalance_timeout_ms;
    }
    member.client = Client {
        id: join.client.id.detach(),
        host: join.client.host.detach(),
    };
    member.topics = subscription.topics.iter().map(Str::detach).collect();
    member.regex = Str::EMPTY;
    if let Some(rack) = subscription
        .rack_id
        .as_ref()
        .filter(|rack| !rack.is_empty())
    {
        member.rack = Some(rack.detach());
    }
    let protocols = request.protocols.iter();
    member.classic = Some(ClassicMember {
        session_timeout_ms: request.session_timeout_ms,
        protocols: protocols
            .map(|one| (one.name.detach(), Bytes::copy_from_slice(&one.metadata)))
            .collect(),
    });
    member
}
