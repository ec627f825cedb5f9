//! Owns what a member of the consumer protocol is answered: whether it may speak for itself, what of its change makes a
//! new epoch, the group's new target, and the member's next step. All checks come first: what is refused changes nothing.

use std::collections::BTreeMap;

use crate::coordinator::effects::Effects;
use crate::coordinator::settings::ConsumerSettings;
use crate::coordinator::{Client, Record};
use crate::limits::{GROUP_METADATA_BYTES_MAX, MEMBER_METADATA_BYTES_MAX};
use crate::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use crate::protocol::messages::consumer_group_heartbeat_response::{
    self, ConsumerGroupHeartbeatResponse,
};
use crate::protocol::{ErrorCode, Str};

use super::assignor::{Assignor, MemberSpec, Spec};
use super::reconcile::{self, Step};
use super::regex::Change;
use super::{
    Assignment, ConsumerGroup, LEAVE_EPOCH, LEAVE_STATIC_EPOCH, Member, MemberState, Owned,
    Refused, records, topics,
};

/// From this version on members choose their ids themselves (KIP-1082).
const OWN_ID_SINCE: i16 = 1;

/// A heartbeat with what its answer depends on beside it.
#[derive(Clone, Debug, PartialEq)]
pub struct Beat {
    pub request: ConsumerGroupHeartbeatRequest,
    pub version: i16,
    pub client: Client,
    /// The id of a new member that brings none.
    pub unique: Str,
}

/// Who asks, as the group knows it.
pub(super) enum Found {
    Known,
    New,
    /// A static member that is back under another id.
    Replaces(Str),
}

impl Beat {
    pub(in crate::coordinator) fn leaves(&self) -> bool {
        matches!(self.request.member_epoch, LEAVE_EPOCH | LEAVE_STATIC_EPOCH)
    }

    /// What is wrong with the request whatever the group.
    pub(in crate::coordinator) fn check(&self, settings: &ConsumerSettings) -> Result<(), Refused> {
        let request = &self.request;
        let epoch = request.member_epoch;
        let invalid = |message: &str| Err(Refused::new(ErrorCode::InvalidRequest, message));
        let is_blank = |text: &Str| text.trim().is_empty();
        let needs_id = self.version >= OWN_ID_SINCE || epoch > 0 || epoch == LEAVE_EPOCH;
        if needs_id && is_blank(&request.member_id) {
            return invalid("MemberId can't be empty.");
        }
        if is_blank(&request.group_id) {
            return invalid("GroupId can't be empty.");
        }
        if request.instance_id.as_ref().is_some_and(is_blank) {
            return invalid("InstanceId can't be empty.");
        }
        if request.rack_id.as_ref().is_some_and(is_blank) {
            return invalid("RackId can't be empty.");
        }
        if epoch == 0 {
            if request.rebalance_timeout_ms == -1 {
                return invalid("RebalanceTimeoutMs must be provided in first request.");
            }
            if request
                .topic_partitions
                .as_ref()
                .is_none_or(|owned| !owned.is_empty())
            {
                return invalid("TopicPartitions must be empty when (re-)joining.");
            }
            if request.subscribed_topic_names.is_none() && request.subscribed_topic_regex.is_none()
            {
                return invalid(
                    "Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.",
                );
            }
        } else if epoch == LEAVE_STATIC_EPOCH && request.instance_id.is_none() {
            return invalid("InstanceId can't be null.");
        } else if epoch < LEAVE_STATIC_EPOCH {
            return invalid("MemberEpoch is invalid.");
        }
        if self.record_bytes() > MEMBER_METADATA_BYTES_MAX {
            return invalid("The subscription is larger than a group can store.");
        }
        self.check_assignor(settings)
    }

    fn check_assignor(&self, settings: &ConsumerSettings) -> Result<(), Refused> {
        let Some(wanted) = &self.request.server_assignor else {
            return Ok(());
        };
        let names: Vec<&str> = settings.assignors.iter().map(|one| one.name()).collect();
        if names.contains(&&**wanted) {
            return Ok(());
        }
        let message = format!(
            "ServerAssignor {wanted} is not supported. Supported assignors: {}.",
            names.join(", ")
        );
        Err(Refused::new(ErrorCode::UnsupportedAssignor, message))
    }

    /// What it says that its member is subscribed to from now on.
    pub(in crate::coordinator) fn subscription_bytes(&self) -> usize {
        let names = self.request.subscribed_topic_names.iter().flatten();
        let names = names.chain(&self.request.subscribed_topic_regex);
        names.map(|name| name.len()).sum()
    }

    /// What a member's record takes that says all of this, and a little more.
    fn record_bytes(&self) -> usize {
        let request = &self.request;
        let names = request.subscribed_topic_names.iter().flatten();
        let optional = [
            &request.subscribed_topic_regex,
            &request.instance_id,
            &request.rack_id,
        ];
        let optional = optional.into_iter().flatten();
        let texts = names
            .chain(optional)
            .chain([&request.member_id, &self.client.id]);
        texts.map(|text| text.len() + 4).sum()
    }

    fn reported(&self) -> Option<&[TopicPartitions]> {
        self.request.topic_partitions.as_deref()
    }

    /// Whether a member says all of itself, and so is told all.
    fn is_full(&self) -> bool {
        let request = &self.request;
        request.rebalance_timeout_ms != -1
            && (request.subscribed_topic_names.is_some()
                || request.subscribed_topic_regex.is_some())
            && request.topic_partitions.is_some()
    }

    /// The member as it says it is now.
    fn update(&self, mut member: Member) -> Member {
        let request = &self.request;
        let keep =
            |told: &Option<Str>, known: Option<Str>| told.as_ref().map(Str::detach).or(known);
        member.instance = keep(&request.instance_id, member.instance);
        member.rack = keep(&request.rack_id, member.rack);
        member.assignor = keep(&request.server_assignor, member.assignor);
        if request.rebalance_timeout_ms != -1 {
            member.rebalance_timeout_ms = request.rebalance_timeout_ms;
        }
        if let Some(names) = &request.subscribed_topic_names {
            member.topics = names.iter().map(Str::detach).collect();
        }
        if let Some(regex) = &request.subscribed_topic_regex {
            member.regex = regex.detach();
        }
        member.client = Client {
            id: self.client.id.detach(),
            host: self.client.host.detach(),
        };
        member.classic = None;
        member
    }
}

impl ConsumerGroup {
    pub(in crate::coordinator) fn heartbeat(
        &mut self,
        fx: &mut Effects<'_>,
        beat: &Beat,
    ) -> Result<ConsumerGroupHeartbeatResponse, Refused> {
        let request = &beat.request;
        let joins = request.member_epoch == 0;
        let size_max = fx.settings.consumer.group_size_max;
        self.check_size(size_max, &request.member_id, request.instance_id.as_ref())?;
        let id = match request.member_id.is_empty() {
            true => beat.unique.detach(),
            false => request.member_id.detach(),
        };
        let found = match &request.instance_id {
            None => self.find(&id, joins)?,
            Some(instance) => self.find_static(instance, &id, joins, false)?,
        };
        if let Found::Known = found
            && !takes_any_epoch(fx)
        {
            check_epoch(&self.members[&id], request.member_epoch, beat.reported())?;
        }
        if let Some(regex) = &request.subscribed_topic_regex {
            self.check_pattern(regex)?;
        }
        if let Some(known) = self.members.get(&id) {
            reconcile::check_state(known, beat.reported())?;
        }
        self.check_room(beat)?;

        let preferred = self.preferred_assignor(fx);
        let old = self.admit(fx, &found, &id);
        let updated = beat.update(old.clone());
        let change = self.take_in(fx, &old, updated);
        let prefers_another = self.preferred_assignor(fx) != preferred;
        let bumps = change.names || change.pattern == Change::Resolved || prefers_another;
        if bumps || self.is_outdated {
            self.look_at_topics(fx, bumps);
        }
        self.make_target(fx);
        self.step(fx, &id, change.is_any(), beat.reported());

        let settings = topics::group_settings(fx, &self.id);
        self.expect(fx, &id, settings.session_timeout_ms);
        let member = &self.members[&id];
        let is_told = joins || beat.is_full() || member.assigned != old.assigned;
        Ok(ConsumerGroupHeartbeatResponse {
            member_id: Some(id.clone()),
            member_epoch: member.epoch,
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            assignment: is_told.then(|| told(&member.assigned)),
            ..ConsumerGroupHeartbeatResponse::default()
        })
    }

    // --- who asks ---

    pub(super) fn find(&self, id: &Str, joins: bool) -> Result<Found, Refused> {
        match self.members.contains_key(id) {
            true => Ok(Found::Known),
            false if joins => Ok(Found::New),
            false => self.member(id).map(|_| Found::Known),
        }
    }

    pub(super) fn find_static(
        &self,
        instance: &Str,
        id: &Str,
        joins: bool,
        is_classic: bool,
    ) -> Result<Found, Refused> {
        if !joins {
            return self.current_static(instance, id).map(|_| Found::Known);
        }
        let Some(existing) = self.static_member(instance) else {
            return self.find(id, true);
        };
        let is_released = existing.epoch == LEAVE_STATIC_EPOCH;
        if is_classic || existing.uses_classic_protocol() || is_released {
            return Ok(Found::Replaces(existing.id.clone()));
        }
        let message = format!(
            "Static member {id} with instance id {instance} cannot join the group because the instance id is owned by {} member.",
            existing.id
        );
        Err(Refused::new(ErrorCode::UnreleasedInstanceId, message))
    }

    fn check_room(&self, beat: &Beat) -> Result<(), Refused> {
        if beat.request.subscribed_topic_names.is_none() {
            return Ok(());
        }
        let names = self.members.values().flat_map(|member| &member.topics);
        let stored: usize = names.map(|name| name.len() + 4).sum();
        match stored + beat.record_bytes() > GROUP_METADATA_BYTES_MAX {
            true => Err(Refused::new(
                ErrorCode::InvalidRequest,
                "The subscriptions are larger than a group can store.",
            )),
            false => Ok(()),
        }
    }

    /// The member as it was before this request.
    pub(super) fn admit(&mut self, fx: &mut Effects<'_>, found: &Found, id: &Str) -> Member {
        match found {
            Found::Known => self.members[id].clone(),
            Found::New => Member::new(id.clone()),
            Found::Replaces(old) => {
                let known = self.members[old].clone();
                let target = self.target.get(old).cloned().unwrap_or_default();
                let member = Member {
                    id: id.clone(),
                    epoch: 0,
                    previous_epoch: 0,
                    ..known
                };
                self.remove(old, &mut fx.out.records);
                self.forget_timers(fx, old);
                fx.write(records::member(&self.id, &member));
                fx.write(records::target(&self.id, id, &target));
                fx.write(records::current(&self.id, &member));
                self.target.insert(id.clone(), target);
                self.put(member.clone());
                member
            }
        }
    }

    // --- what changes ---

    /// Takes a member in as it is now.
    pub(super) fn take_in(
        &mut self,
        fx: &mut Effects<'_>,
        old: &Member,
        updated: Member,
    ) -> Changed {
        let names = updated.topics != old.topics;
        let regex = updated.regex.clone();
        if updated != *old {
            fx.write(records::member(&self.id, &updated));
            self.put(updated);
        }
        Changed {
            names,
            pattern: self.pattern_changed(fx, &old.regex, &regex),
        }
    }

    /// Looks whether the group's topics are what they were; the epoch moves if not, or if it must anyway.
    pub(super) fn look_at_topics(&mut self, fx: &mut Effects<'_>, bumps: bool) {
        let hash = self.metadata_hash_of(fx.image);
        if bumps || hash != self.metadata_hash {
            self.bump(fx, hash);
        }
        self.is_outdated = false;
        if std::mem::take(&mut self.has_partition_metadata) {
            fx.write(records::no_partition_metadata(&self.id));
        }
    }

    pub(super) fn bump(&mut self, fx: &mut Effects<'_>, metadata_hash: i64) {
        self.epoch += 1;
        self.metadata_hash = metadata_hash;
        fx.write(records::epoch(&self.id, self.epoch, metadata_hash));
    }

    /// Makes a target for the group as it is, unless it has one, or had one made a moment ago (KIP-1263).
    pub(super) fn make_target(&mut self, fx: &mut Effects<'_>) {
        if self.assignment_epoch >= self.epoch {
            return;
        }
        let interval = topics::group_settings(fx, &self.id).assignment_interval_ms;
        let is_early = fx.now.wall_ms < self.assigned_at + i64::from(interval);
        if self.assigned_at != 0 && interval != 0 && is_early {
            return;
        }
        let mut targets = self.assign(fx, self.preferred_assignor(fx));
        for id in self.members.keys() {
            let new = targets.remove(id).unwrap_or_default();
            if self.target.get(id) != Some(&new) {
                fx.write(records::target(&self.id, id, &new));
                self.target.insert(id.clone(), new);
            }
        }
        (self.assignment_epoch, self.assigned_at) = (self.epoch, fx.now.wall_ms);
        fx.write(records::target_epoch(
            &self.id,
            self.epoch,
            self.assigned_at,
        ));
    }

    fn assign(&self, fx: &Effects<'_>, assignor: Assignor) -> BTreeMap<Str, Assignment> {
        let none = Assignment::new();
        let members = self.members.values().map(|member| MemberSpec {
            id: &member.id,
            instance: member.instance.as_ref(),
            subscribed: self.subscribed_ids(fx.image, member),
            before: self.target.get(&member.id).unwrap_or(&none),
        });
        let members: Vec<MemberSpec<'_>> = members.collect();
        // Only what somebody wants: a pattern may have been looked up for a member that is gone.
        let wanted = members.iter().flat_map(|member| &member.subscribed);
        let topics = wanted.filter_map(|id| fx.image.topic_by_id(*id));
        let partitions = topics.map(|topic| (topic.id, topic.partitions.len() as i32));
        assignor.assign(&Spec {
            partitions: partitions.collect(),
            members,
            is_homogeneous: self.is_homogeneous(),
        })
    }

    /// Brings a member nearer to its target.
    pub(super) fn step(
        &mut self,
        fx: &mut Effects<'_>,
        id: &Str,
        is_subscription_new: bool,
        reported: Option<&[TopicPartitions]>,
    ) {
        let member = &self.members[id];
        if !is_subscription_new && member.is_reconciled_to(self.assignment_epoch) {
            return;
        }
        let none = Assignment::new();
        let gives_owned = gives_owned(fx);
        let step = Step {
            target_epoch: self.assignment_epoch,
            target: self.target.get(id).unwrap_or(&none),
            is_subscription_new,
            subscribed: &self.subscribed_ids(fx.image, member),
            reported,
            is_owned: &|topic, index| !gives_owned && self.owner(topic, index).is_some(),
        };
        let stepped = step.take(member.clone());
        if stepped == *member {
            return;
        }
        fx.write(records::current(&self.id, &stepped));
        if !stepped.uses_classic_protocol() {
            if stepped.state == MemberState::UnrevokedPartitions {
                self.await_revocation(fx, &stepped);
            } else if let Some(waits) = self.waits.get_mut(id) {
                fx.timers.cancel(waits.rebalance.take());
            }
        }
        self.put(stepped);
    }

    // --- who goes ---

    /// A member says that it goes. Answers whom to take out; nobody when a static member means to come back.
    pub(in crate::coordinator) fn leave(
        &mut self,
        fx: &mut Effects<'_>,
        request: &ConsumerGroupHeartbeatRequest,
    ) -> Result<Option<Str>, Refused> {
        let id = &request.member_id;
        let member = match &request.instance_id {
            None => self.member(id)?,
            Some(instance) => self.current_static(instance, id)?,
        };
        if request.member_epoch != LEAVE_STATIC_EPOCH {
            return Ok(Some(member.id.clone()));
        }
        let mut away = member.clone();
        away.epoch = LEAVE_STATIC_EPOCH;
        away.revoking.clear();
        for since in away.assigned.values_mut().flat_map(BTreeMap::values_mut) {
            *since = 0;
        }
        fx.write(records::current(&self.id, &away));
        self.put(away);
        Ok(None)
    }

    /// Takes members out. The others' next heartbeats find a new epoch.
    pub(in crate::coordinator) fn fence(&mut self, fx: &mut Effects<'_>, ids: &[Str]) {
        for id in ids {
            self.remove(id, &mut fx.out.records);
            self.forget_timers(fx, id);
        }
        let patterns = self.patterns();
        let unused = self
            .resolved
            .keys()
            .filter(|one| !patterns.contains_key(one));
        let unused: Vec<Str> = unused.cloned().collect();
        for pattern in &unused {
            fx.write(records::no_regex(&self.id, pattern));
            self.resolved.remove(pattern);
        }
        let hash = self.metadata_hash_of(fx.image);
        self.bump(fx, hash);
        if self.members.is_empty() {
            (self.assignment_epoch, self.assigned_at) = (self.epoch, 0);
            fx.write(records::target_epoch(&self.id, self.epoch, 0));
        }
    }
}

/// What a request has changed of its member's subscription.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub names: bool,
    pub pattern: Change,
}

impl Changed {
    pub fn is_any(self) -> bool {
        self.names || self.pattern != Change::None
    }
}

/// A member is at its epoch, or has not heard that it is beyond the one that it names.
fn check_epoch(
    member: &Member,
    epoch: i32,
    reported: Option<&[TopicPartitions]>,
) -> Result<(), Refused> {
    let refuse = |word: &str| {
        let message = format!(
            "The consumer group member has a {word} member epoch ({epoch}) than the one known by the group coordinator ({}). The member must abandon all its partitions and rejoin.",
            member.epoch
        );
        Err(Refused::new(ErrorCode::FencedMemberEpoch, message))
    };
    if epoch == 0 || epoch == member.epoch {
        Ok(())
    } else if epoch > member.epoch {
        refuse("greater")
    } else if epoch == member.previous_epoch && is_within(reported, &member.assigned) {
        Ok(())
    } else {
        refuse("smaller")
    }
}

fn is_within(reported: Option<&[TopicPartitions]>, assigned: &Owned) -> bool {
    let has = |topic: &TopicPartitions| {
        let of_topic = assigned.get(&topic.topic_id);
        let has_one = |index| of_topic.is_some_and(|owned| owned.contains_key(index));
        of_topic.is_some() && topic.partitions.iter().all(has_one)
    };
    reported.is_some_and(|topics| topics.iter().all(has))
}

fn told(assigned: &Owned) -> consumer_group_heartbeat_response::Assignment {
    let topics = assigned.iter();
    let topics =
        topics.map(
            |(topic, partitions)| consumer_group_heartbeat_response::TopicPartitions {
                topic_id: *topic,
                partitions: partitions.keys().copied().collect(),
            },
        );
    consumer_group_heartbeat_response::Assignment {
        topic_partitions: topics.collect(),
    }
}

impl ConsumerGroup {
    /// What a group that has just been made writes, for one that is turned into it.
    pub(in crate::coordinator) fn write_all(&self, records: &mut Vec<Record>) {
        records.extend(self.all_records());
    }
}

#[cfg(feature = "simulation")]
fn takes_any_epoch(fx: &Effects<'_>) -> bool {
    fx.settings.sabotage == crate::coordinator::Sabotage::NoMemberEpochs
}

#[cfg(not(feature = "simulation"))]
fn takes_any_epoch(_fx: &Effects<'_>) -> bool {
    false
}

#[cfg(feature = "simulation")]
fn gives_owned(fx: &Effects<'_>) -> bool {
    fx.settings.sabotage == crate::coordinator::Sabotage::GivesOwned
}

#[cfg(not(feature = "simulation"))]
fn gives_owned(_fx: &Effects<'_>) -> bool {
    false
}
