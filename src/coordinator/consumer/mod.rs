//! Owns one group of the consumer protocol (KIP-848): its members, what each is to have (the target assignment), what
//! each has (the current assignment), and how both look in records. The broker assigns; a member learns by heartbeats
//! which partitions to give up and which to take, and none is given to anybody before its last owner let go of it.
//!
//! `heartbeat` decides what members ask, `reconcile` brings one member nearer to its target, `assignor` makes targets,
//! `regex` keeps track of topics by pattern, `classic_members` serves members that speak the classic protocol, and
//! `migration` turns groups of one type into the other.

pub mod assignor;
mod classic_members;
mod describe;
mod embedded;
mod heartbeat;
pub(super) mod migration;
mod reconcile;
mod records;
mod regex;
pub(super) mod requests;
mod subscription;
#[cfg(test)]
mod tests;
pub(super) mod topics;

use std::collections::{BTreeMap, BTreeSet};

pub use heartbeat::Beat;

use bytes::Bytes;

use crate::ids::TimestampMs;
use crate::limits::GROUP_MEMBER_BYTES_LEAST;
use crate::protocol::{ErrorCode, Str, Uuid};

use super::effects::Effects;
use super::settings::ConsumerSettings;
use super::timers::{MemberTimer, Timer, TimerId};
use super::{Client, Record};
use assignor::Assignor;
use regex::Resolved;

/// Partitions by topic, as they are to be.
pub type Assignment = BTreeMap<Uuid, BTreeSet<i32>>;
/// Partitions by topic as a member has them, each with the epoch at which it got it (KIP-1251).
pub type Owned = BTreeMap<Uuid, BTreeMap<i32, i32>>;

/// What a leaving member says instead of its epoch.
pub(super) const LEAVE_EPOCH: i32 = -1;
/// A static member says so when it means to come back.
pub(super) const LEAVE_STATIC_EPOCH: i32 = -2;

/// Where a member stands on its way to its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberState {
    /// Has all that its epoch gives it.
    Stable,
    /// Must give partitions up before it may move to the next epoch.
    UnrevokedPartitions,
    /// Waits for partitions that others have not given up yet.
    UnreleasedPartitions,
    /// A later version's; its member has to join anew.
    Unknown,
}

/// What a group is about, as Kafka tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Empty,
    /// The target is older than the group.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    Stable,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::Assigning => "Assigning",
            State::Reconciling => "Reconciling",
            State::Stable => "Stable",
        }
    }
}

/// What a member of the classic protocol has told beside its subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct ClassicMember {
    pub session_timeout_ms: i32,
    /// By preference, with what it says under each.
    pub protocols: Vec<(Str, Bytes)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    pub id: Str,
    pub instance: Option<Str>,
    pub rack: Option<Str>,
    pub client: Client,
    /// -1: not told.
    pub rebalance_timeout_ms: i32,
    pub topics: BTreeSet<Str>,
    /// Empty: none.
    pub regex: Str,
    pub assignor: Option<Str>,
    pub classic: Option<ClassicMember>,
    pub epoch: i32,
    pub previous_epoch: i32,
    pub state: MemberState,
    pub assigned: Owned,
    /// What it has been told to give up, and may still have.
    pub revoking: Owned,
}

impl Member {
    fn new(id: Str) -> Member {
        Member {
            id,
            instance: None,
            rack: None,
            client: Client::default(),
            rebalance_timeout_ms: -1,
            topics: BTreeSet::new(),
            regex: Str::EMPTY,
            assignor: None,
            classic: None,
            epoch: 0,
            previous_epoch: -1,
            state: MemberState::Stable,
            assigned: Owned::new(),
            revoking: Owned::new(),
        }
    }

    /// Moves to an epoch; the one before is remembered, for its answer may be lost.
    fn advance(&mut self, epoch: i32) {
        self.previous_epoch = self.epoch;
        self.epoch = epoch;
    }

    fn is_reconciled_to(&self, epoch: i32) -> bool {
        self.state == MemberState::Stable && self.epoch == epoch
    }

    /// What it is subscribed to, in its words; those of its classic protocols, too.
    fn subscription_bytes(&self) -> usize {
        let names = self.topics.iter().chain([&self.regex]);
        let names: usize = names.map(|name| name.len()).sum();
        let classic = self.classic.iter().flat_map(|classic| &classic.protocols);
        names + classic.map(|(_, metadata)| metadata.len()).sum::<usize>()
    }

    fn uses_classic_protocol(&self) -> bool {
        self.classic.is_some()
    }

    fn owned(&self) -> impl Iterator<Item = (Uuid, i32)> {
        let all = self.assigned.iter().chain(&self.revoking);
        all.flat_map(|(topic, partitions)| partitions.keys().map(|index| (*topic, *index)))
    }
}

/// A request that is refused, and what its client is told beside the code.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    pub code: ErrorCode,
    pub message: Option<Str>,
}

impl Refused {
    fn new(code: ErrorCode, message: impl Into<String>) -> Refused {
        Refused {
            code,
            message: Some(Str::from(message.into())),
        }
    }

    pub(super) fn no_such_group(id: &Str) -> Refused {
        Refused::new(ErrorCode::GroupIdNotFound, format!("Group {id} not found."))
    }
}

/// What a member is waited for by time. None of it is in the log.
#[derive(Clone, Debug, Default)]
struct Waits {
    deadline_ms: i64,
    session: Option<TimerId>,
    /// To give up what it must.
    rebalance: Option<TimerId>,
    /// A classic member's, to join and to sync.
    join: Option<TimerId>,
    sync: Option<TimerId>,
}

#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    id: Str,
    /// Counts what changes the target.
    epoch: i32,
    /// Of the topics that the group is subscribed to; 0: of none.
    metadata_hash: i64,
    /// The epoch that the target was made for, and when.
    assignment_epoch: i32,
    assigned_at: TimestampMs,
    members: BTreeMap<Str, Member>,
    /// Member ids by instance id.
    static_members: BTreeMap<Str, Str>,
    target: BTreeMap<Str, Assignment>,
    /// The topics of the members' patterns, as they were last looked up.
    resolved: BTreeMap<Str, Resolved>,
    /// Who has a partition, whether it is to keep it or not.
    owners: BTreeMap<Uuid, BTreeMap<i32, Str>>,
    /// A record of the format before 4.1 that is to be superseded.
    has_partition_metadata: bool,
    /// Topics may have changed since they were last looked at.
    is_outdated: bool,
    waits: BTreeMap<Str, Waits>,
    /// Patterns are about to be looked up.
    resolving: Option<TimerId>,
    /// What the members are subscribed to, in their words.
    subscription_bytes: usize,
}

impl ConsumerGroup {
    /// Without members, or anything.
    pub(super) fn new(id: Str) -> ConsumerGroup {
        ConsumerGroup {
            id,
            epoch: 1,
            metadata_hash: 0,
            assignment_epoch: 1,
            assigned_at: 0,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            target: BTreeMap::new(),
            resolved: BTreeMap::new(),
            owners: BTreeMap::new(),
            has_partition_metadata: false,
            is_outdated: true,
            waits: BTreeMap::new(),
            resolving: None,
            subscription_bytes: 0,
        }
    }

    pub fn id(&self) -> &Str {
        &self.id
    }

    pub fn epoch(&self) -> i32 {
        self.epoch
    }

    pub fn assignment_epoch(&self) -> i32 {
        self.assignment_epoch
    }

    /// What the members say of themselves, each counted with its place.
    pub(in crate::coordinator) fn member_bytes(&self) -> usize {
        self.subscription_bytes + self.members.len() * GROUP_MEMBER_BYTES_LEAST
    }

    /// What a member says of itself; `None`: it is none.
    pub(in crate::coordinator) fn bytes_of(&self, id: &Str) -> Option<usize> {
        self.members.get(id).map(Member::subscription_bytes)
    }

    /// In the order of their ids.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// What a member is to have.
    pub fn target(&self, member: &Str) -> Option<&Assignment> {
        self.target.get(member)
    }

    pub fn state(&self) -> State {
        let is_reconciled = |member: &Member| member.is_reconciled_to(self.assignment_epoch);
        if self.members.is_empty() {
            State::Empty
        } else if self.epoch > self.assignment_epoch {
            State::Assigning
        } else if self.members.values().all(is_reconciled) {
            State::Stable
        } else {
            State::Reconciling
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn is_subscribed_to(&self, topic: &Str) -> bool {
        self.members.values().any(|m| m.topics.contains(topic))
            || self.resolved.values().any(|r| r.topics.contains(topic))
    }

    /// Topics may have changed: the next heartbeat looks.
    pub(super) fn on_topics_changed(&mut self, names: &BTreeSet<Str>) {
        if self.topic_names().any(|name| names.contains(name)) {
            self.is_outdated = true;
        }
    }

    // --- what it has, changed alike by requests and by records ---

    fn put(&mut self, member: Member) {
        if let Some(old) = self.members.remove(&member.id) {
            self.subscription_bytes -= old.subscription_bytes();
            self.disown(&old);
        }
        self.subscription_bytes += member.subscription_bytes();
        for (topic, index) in member.owned() {
            let partitions = self.owners.entry(topic).or_default();
            partitions.insert(index, member.id.clone());
        }
        if let Some(instance) = &member.instance {
            self.static_members
                .insert(instance.clone(), member.id.clone());
        }
        self.members.insert(member.id.clone(), member);
    }

    fn take(&mut self, id: &Str) -> Option<Member> {
        let member = self.members.remove(id)?;
        self.subscription_bytes -= member.subscription_bytes();
        self.disown(&member);
        self.target.remove(id);
        Some(member)
    }

    fn disown(&mut self, member: &Member) {
        for (topic, index) in member.owned() {
            let Some(partitions) = self.owners.get_mut(&topic) else {
                continue;
            };
            if partitions.get(&index) == Some(&member.id) {
                partitions.remove(&index);
            }
            if partitions.is_empty() {
                self.owners.remove(&topic);
            }
        }
        if let Some(instance) = &member.instance
            && self.static_members.get(instance) == Some(&member.id)
        {
            self.static_members.remove(instance);
        }
    }

    fn owner(&self, topic: Uuid, index: i32) -> Option<&Str> {
        self.owners.get(&topic)?.get(&index)
    }

    // --- who is who ---

    fn member(&self, id: &Str) -> Result<&Member, Refused> {
        self.members.get(id).ok_or_else(|| {
            let message = format!("Member {id} is not a member of group {}.", self.id);
            Refused::new(ErrorCode::UnknownMemberId, message)
        })
    }

    fn static_member(&self, instance: &Str) -> Option<&Member> {
        self.members.get(self.static_members.get(instance)?)
    }

    /// A static member by its instance, if it is the one that asks.
    fn current_static(&self, instance: &Str, id: &Str) -> Result<&Member, Refused> {
        let Some(member) = self.static_member(instance) else {
            let message = format!("Instance id {instance} is unknown.");
            return Err(Refused::new(ErrorCode::UnknownMemberId, message));
        };
        if member.id != *id {
            let message = format!(
                "Static member {id} with instance id {instance} was fenced by member {}.",
                member.id
            );
            return Err(Refused::new(ErrorCode::FencedInstanceId, message));
        }
        Ok(member)
    }

    fn check_size(&self, max: usize, id: &Str, instance: Option<&Str>) -> Result<(), Refused> {
        let is_back = instance.is_some_and(|one| self.static_members.contains_key(one));
        if is_back || self.members.contains_key(id) || self.members.len() < max {
            return Ok(());
        }
        let message =
            format!("The consumer group has reached its maximum capacity of {max} members.");
        Err(Refused::new(ErrorCode::GroupMaxSizeReached, message))
    }

    /// Whether a member may commit: at its epoch, or at an older one what it has had since then.
    pub(super) fn check_commit(
        &self,
        id: &Str,
        epoch: i32,
        is_new_enough: bool,
        partitions: impl Iterator<Item = (Uuid, i32)>,
    ) -> Result<(), ErrorCode> {
        if epoch < 0 && self.members.is_empty() {
            return Ok(());
        }
        let member = self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        if !member.uses_classic_protocol() && !is_new_enough {
            return Err(ErrorCode::UnsupportedVersion);
        }
        if epoch == member.epoch {
            return Ok(());
        }
        let has_it = |(topic, index): (Uuid, i32)| {
            let of = |owned: &Owned| owned.get(&topic)?.get(&index).copied();
            let since = of(&member.assigned).or_else(|| of(&member.revoking));
            since.is_some_and(|since| epoch >= since)
        };
        let mut partitions = partitions;
        match epoch < member.epoch && partitions.all(has_it) {
            true => Ok(()),
            false => Err(stale(member)),
        }
    }

    /// Whether committed offsets are told; nobody's -1 asks for no member.
    pub(super) fn check_fetch(&self, id: Option<&Str>, epoch: i32) -> Result<(), ErrorCode> {
        let id = match id {
            None if epoch < 0 => return Ok(()),
            None => return Err(ErrorCode::UnknownMemberId),
            Some(id) => id,
        };
        let member = self.members.get(id).ok_or(ErrorCode::UnknownMemberId)?;
        match epoch == member.epoch {
            true => Ok(()),
            false => Err(stale(member)),
        }
    }

    // --- time ---

    /// The log is replayed: everybody has one session time-out to show up.
    pub(super) fn on_loaded(&mut self, fx: &mut Effects<'_>) {
        let members: Vec<Member> = self.members.values().cloned().collect();
        let session_ms = topics::group_settings(fx, &self.id).session_timeout_ms;
        for member in &members {
            self.expect(fx, &member.id, session_ms);
            if member.state == MemberState::UnrevokedPartitions {
                self.await_revocation(fx, member);
            }
        }
    }

    /// The member has a session time-out from now. A deadline that moves on leaves the timer where it is.
    fn expect(&mut self, fx: &mut Effects<'_>, id: &Str, session_ms: i32) {
        let deadline = fx.now.monotonic_ms + i64::from(session_ms);
        let waits = self.waits.entry(id.clone()).or_default();
        waits.deadline_ms = deadline;
        match waits.session {
            Some(timer) if timer.due_ms <= deadline => {}
            timer => {
                fx.timers.cancel(timer);
                let due = Timer::member(&self.id, id, MemberTimer::Session);
                waits.session = Some(fx.timers.schedule(deadline, due));
            }
        }
    }

    fn await_revocation(&mut self, fx: &mut Effects<'_>, member: &Member) {
        let timer = MemberTimer::Rebalance {
            epoch: member.epoch,
        };
        let due = fx.now.monotonic_ms + i64::from(member.rebalance_timeout_ms);
        let waits = self.waits.entry(member.id.clone()).or_default();
        fx.timers.cancel(waits.rebalance.take());
        let timer = Timer::member(&self.id, &member.id, timer);
        waits.rebalance = Some(fx.timers.schedule(due, timer));
    }

    fn forget_timers(&mut self, fx: &mut Effects<'_>, id: &Str) {
        if let Some(waits) = self.waits.remove(id) {
            for timer in [waits.session, waits.rebalance, waits.join, waits.sync] {
                fx.timers.cancel(timer);
            }
        }
    }

    /// Nothing of this group is waited for any more.
    pub(super) fn forget_all_timers(&mut self, fx: &mut Effects<'_>) {
        let ids: Vec<Str> = self.waits.keys().cloned().collect();
        for id in &ids {
            self.forget_timers(fx, id);
        }
        fx.timers.cancel(self.resolving.take());
    }

    /// Whether the time has come to fence a member.
    pub(super) fn is_over(&mut self, fx: &mut Effects<'_>, id: &Str, timer: &MemberTimer) -> bool {
        let Some(member) = self.members.get(id) else {
            return false;
        };
        let epoch = member.epoch;
        let waits = self.waits.entry(id.clone()).or_default();
        match timer {
            MemberTimer::Session if waits.deadline_ms > fx.now.monotonic_ms => {
                // It has been heard of since the timer was set.
                let again = Timer::member(&self.id, id, MemberTimer::Session);
                waits.session = Some(fx.timers.schedule(waits.deadline_ms, again));
                false
            }
            MemberTimer::Session => true,
            MemberTimer::Rebalance { epoch: at } => {
                waits.rebalance = None;
                epoch == *at
            }
            MemberTimer::Join | MemberTimer::Sync => true,
        }
    }

    // --- what members prefer ---

    /// What most of those members want that want one; else the broker's first.
    fn most_wanted(&self, settings: &ConsumerSettings) -> Option<Assignor> {
        let votes = |assignor: &Assignor| {
            let wanted = self.members.values().filter_map(|m| m.assignor.as_ref());
            wanted.filter(|name| **name == *assignor.name()).count()
        };
        let counted = settings
            .assignors
            .iter()
            .rev()
            .map(|one| (votes(one), *one));
        let most = counted.max_by_key(|(votes, _)| *votes);
        most.map(|(_, assignor)| assignor)
    }

    fn preferred_assignor(&self, fx: &Effects<'_>) -> Assignor {
        let wanted = self.most_wanted(&fx.settings.consumer);
        wanted.expect("a broker has an assignor")
    }
}

fn stale(member: &Member) -> ErrorCode {
    match member.uses_classic_protocol() {
        true => ErrorCode::IllegalGeneration,
        false => ErrorCode::StaleMemberEpoch,
    }
}

/// The records that take a member out.
fn without_member(group: &Str, member: &Str) -> [Record; 3] {
    [
        records::no_current(group, member),
        records::no_target(group, member),
        records::no_member(group, member),
    ]
}
