//! Owns one group of the classic protocol: members join, the leader among them assigns, all sync. Pure: every call is
//! handed what it may touch as `Effects`. KIP-345 (static members), KIP-394 (member ids first), KIP-814 (a leader
//! that comes back need not assign anew).
//!
//! `join` brings members to a new generation, `sync` hands its assignments out, `membership` keeps and ends members,
//! `migration` is the way from and to consumer groups.

mod join;
mod membership;
mod migration;
mod protocols;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::ids::TimestampMs;
use crate::limits::GROUP_MEMBER_BYTES_LEAST;
use crate::protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use crate::protocol::records::group::{GroupMetadataValue, group_metadata_value::MemberMetadata};
use crate::protocol::{ErrorCode, Str};

use super::offsets::Expiry;
use super::timers::TimerId;
use super::{Client, Now, Token};
use protocols::ProtocolCounts;

pub(super) use join::refused as refused_join;
pub(super) use migration::Migrant;
pub(super) use sync::refused as refused_sync;

/// The protocol type of plain consumers, whose subscriptions can be read.
const CONSUMER: &str = "consumer";

/// What a group of this protocol is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Without members.
    Empty,
    /// Members are waited for.
    PreparingRebalance,
    /// All have joined; the leader's assignments are waited for.
    CompletingRebalance,
    Stable,
}

impl State {
    /// As Kafka tells it.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

#[derive(Clone, Debug)]
pub struct ClassicGroup {
    id: Str,
    state: State,
    previous: State,
    /// `None`: nobody has told, which old records do.
    state_since: Option<TimestampMs>,
    /// `None`: offsets are stored for somebody who is no member.
    protocol_type: Option<Str>,
    protocol: Option<Str>,
    generation: i32,
    leader: Option<Str>,
    members: BTreeMap<Str, Member>,
    /// Member ids by instance id.
    static_members: BTreeMap<Str, Str>,
    /// Ids that were given to somebody who has not joined with them yet (KIP-394).
    pending: BTreeMap<Str, TimerId>,
    /// Members that have not asked for their assignment of this generation.
    pending_sync: BTreeSet<Str>,
    /// Members whose JoinGroup waits.
    awaiting_join: usize,
    /// Somebody has joined since the last look during an initial rebalance.
    new_member_added: bool,
    counts: ProtocolCounts,
    /// Of plain consumers, what they subscribe to; `None` where that cannot be known.
    subscribed: Option<BTreeSet<Str>>,
    join_timer: Option<TimerId>,
    sync_timer: Option<TimerId>,
}

#[derive(Clone, Debug)]
struct Member {
    id: Str,
    instance: Option<Str>,
    client: Client,
    rebalance_timeout_ms: i32,
    session_timeout_ms: i32,
    /// By the member's preference, with what it says under each.
    protocols: Vec<(Str, Bytes)>,
    assignment: Bytes,
    awaiting_join: Option<Token>,
    awaiting_sync: Option<Token>,
    /// Has not had its first answer: it cannot heartbeat yet.
    is_new: bool,
    /// When it will have been silent for too long.
    deadline_ms: i64,
    session_timer: Option<TimerId>,
}

impl Member {
    /// What it says under a protocol.
    fn metadata(&self, protocol: Option<&Str>) -> Bytes {
        let known = protocol.and_then(|protocol| {
            let mut protocols = self.protocols.iter();
            protocols.find(|(name, _)| name == protocol)
        });
        known.map_or_else(Bytes::new, |(_, metadata)| metadata.clone())
    }
}

impl ClassicGroup {
    /// Without members, or anything.
    pub fn new(id: Str, now: TimestampMs) -> ClassicGroup {
        ClassicGroup {
            id,
            state: State::Empty,
            previous: State::Empty,
            state_since: Some(now),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            awaiting_join: 0,
            new_member_added: false,
            counts: ProtocolCounts::default(),
            subscribed: None,
            join_timer: None,
            sync_timer: None,
        }
    }

    pub fn id(&self) -> &Str {
        &self.id
    }

    pub fn state(&self) -> State {
        self.state
    }

    pub fn generation(&self) -> i32 {
        self.generation
    }

    pub fn leader(&self) -> Option<&Str> {
        self.leader.as_ref()
    }

    /// Empty for a group that only stores offsets.
    pub fn protocol_type(&self) -> Str {
        self.protocol_type.clone().unwrap_or_default()
    }

    pub fn member_count(&self) -> usize {
        self.members.len()
    }

    /// What the members say of themselves, each counted with its place.
    pub(super) fn member_bytes(&self) -> usize {
        self.counts.bytes + (self.members.len() + self.pending.len()) * GROUP_MEMBER_BYTES_LEAST
    }

    /// What a member says of itself; `None`: it is none.
    pub(super) fn bytes_of(&self, id: &Str) -> Option<usize> {
        let protocols = &self.members.get(id)?.protocols;
        Some(protocols.iter().map(|(_, metadata)| metadata.len()).sum())
    }

    /// Ids and assignments of the members.
    pub fn assignments(&self) -> impl Iterator<Item = (&Str, &Bytes)> {
        let members = self.members.values();
        members.map(|member| (&member.id, &member.assignment))
    }

    pub fn is_subscribed_to(&self, topic: &Str) -> bool {
        match &self.subscribed {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    pub fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(CONSUMER)
    }

    pub(super) fn expiry(&self) -> Option<Expiry> {
        match (&self.protocol_type, self.state) {
            (None, _) => Some(Expiry::SinceCommit),
            (Some(_), State::Empty) => {
                Some(self.state_since.map_or(Expiry::SinceCommit, Expiry::Since))
            }
            (Some(_), State::Stable)
                if self.uses_consumer_protocol() && self.subscribed.is_some() =>
            {
                Some(Expiry::SinceCommit)
            }
            (Some(_), _) => None,
        }
    }

    fn transition(&mut self, to: State, now: Now) {
        self.previous = self.state;
        self.state = to;
        self.state_since = Some(now.wall_ms);
    }

    /// Whether a request comes from a member as it is now.
    fn check_member(&self, id: &Str, instance: Option<&Str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(ErrorCode::UnknownMemberId),
        }
    }

    fn check_generation(&self, generation: i32) -> Result<(), ErrorCode> {
        match generation == self.generation {
            true => Ok(()),
            false => Err(ErrorCode::IllegalGeneration),
        }
    }

    /// Whether offsets may be committed by this member of this generation; -1 and nobody: by no member at all.
    pub(super) fn check_commit(
        &self,
        id: &Str,
        instance: Option<&Str>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        let is_empty = self.state == State::Empty;
        if generation < 0 && is_empty {
            return Ok(());
        }
        if generation >= 0 || !id.is_empty() || instance.is_some() {
            self.check_member(id, instance)?;
            self.check_generation(generation)?;
        } else if !is_empty {
            return Err(ErrorCode::UnknownMemberId);
        }
        match self.state {
            // The member has not seen its new assignment yet.
            State::CompletingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::Empty | State::PreparingRebalance | State::Stable => Ok(()),
        }
    }

    /// Offsets of a group with members may be deleted where they consume other topics.
    pub(super) fn check_offset_delete(&self) -> Result<(), ErrorCode> {
        match self.state == State::Empty || self.uses_consumer_protocol() {
            true => Ok(()),
            false => Err(ErrorCode::NonEmptyGroup),
        }
    }

    /// All that a group's record has.
    pub(super) fn to_record(&self) -> GroupMetadataValue {
        let members = self.members.values().map(|member| MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            client_id: member.client.id.clone(),
            client_host: member.client.host.clone(),
            rebalance_timeout: member.rebalance_timeout_ms,
            session_timeout: member.session_timeout_ms,
            subscription: member.metadata(self.protocol.as_ref()),
            assignment: member.assignment.clone(),
        });
        GroupMetadataValue {
            protocol_type: self.protocol_type(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp: self.state_since.unwrap_or(-1),
            members: members.collect(),
        }
    }

    /// The group that a record tells of. Its members have no session before [`ClassicGroup::on_loaded`].
    pub(super) fn from_record(id: &Str, record: &GroupMetadataValue) -> ClassicGroup {
        let mut group = ClassicGroup::new(id.detach(), 0);
        if !record.members.is_empty() {
            (group.state, group.previous) = (State::Stable, State::Stable);
        }
        group.state_since =
            (record.current_state_timestamp != -1).then_some(record.current_state_timestamp);
        group.protocol_type =
            (!record.protocol_type.is_empty()).then(|| record.protocol_type.detach());
        group.protocol = record.protocol.as_ref().map(Str::detach);
        group.generation = record.generation;
        group.leader = record.leader.as_ref().map(Str::detach);
        for member in &record.members {
            let protocol = group.protocol.clone().unwrap_or_default();
            let rebalance_timeout_ms = match member.rebalance_timeout {
                -1 => member.session_timeout,
                timeout => timeout,
            };
            let member = Member {
                id: member.member_id.detach(),
                instance: member.group_instance_id.as_ref().map(Str::detach),
                client: Client {
                    id: member.client_id.detach(),
                    host: member.client_host.detach(),
                },
                rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout,
                protocols: vec![(protocol, Bytes::copy_from_slice(&member.subscription))],
                assignment: Bytes::copy_from_slice(&member.assignment),
                awaiting_join: None,
                awaiting_sync: None,
                is_new: false,
                deadline_ms: 0,
                session_timer: None,
            };
            group.insert(member);
        }
        group.learn_subscriptions();
        group
    }

    pub(super) fn describe(&self) -> DescribedGroup {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.as_ref().filter(|_| is_stable);
        let members = self.members.values().map(|member| DescribedGroupMember {
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            client_id: member.client.id.clone(),
            client_host: member.client.host.clone(),
            member_metadata: member.metadata(protocol),
            member_assignment: member.assignment.clone(),
        });
        DescribedGroup {
            group_id: self.id.clone(),
            group_state: Str::from(self.state.name()),
            protocol_type: self.protocol_type(),
            protocol_data: protocol.cloned().unwrap_or_default(),
            members: members.collect(),
            ..DescribedGroup::default()
        }
    }
}
