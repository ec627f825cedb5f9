//! Owns the groups of one coordinator: which one a request is for, timers, expiry, and how all of it comes back from
//! the log.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::controller::{MetadataDelta, MetadataImage};

use crate::ids::TimestampMs;
use crate::limits::{GROUP_MEMBER_BYTES_LEAST, GROUPS_PER_COORDINATOR_MAX};
use crate::protocol::messages::leave_group_response::MemberResponse;
use crate::protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::messages::{
    ConsumerGroupHeartbeatResponse, HeartbeatRequest, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, SyncGroupRequest,
};
use crate::protocol::records::group::{
    GroupMetadataValue, Key, OffsetCommitKey, OffsetCommitValue, Value,
};
use crate::protocol::{ErrorCode, Str};

use super::classic::{self, ClassicGroup};
use super::consumer::ConsumerGroup;
use super::offsets::{self, Committed, Offsets};
use super::records::{self, BadRecord, Record};
use super::timers::{Timer, Timers};
use super::{Actions, Answer, Effects, Join, Now, Request, Settings, Token};

/// A commit in a request from this version on knows member epochs, and is told when its group is not there (KIP-848).
const GROUP_ID_NOT_FOUND_SINCE: i16 = 9;

/// A group of some type.
#[derive(Clone, Debug)]
pub enum Group {
    Classic(ClassicGroup),
    /// Of the consumer protocol (KIP-848).
    Consumer(ConsumerGroup),
}

impl Group {
    /// As ListGroups tells it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Group::Classic(_) => "classic",
            Group::Consumer(_) => "consumer",
        }
    }

    pub fn state_name(&self) -> &'static str {
        match self {
            Group::Classic(group) => group.state().name(),
            Group::Consumer(group) => group.state().name(),
        }
    }

    pub fn protocol_type(&self) -> Str {
        match self {
            Group::Classic(group) => group.protocol_type(),
            Group::Consumer(_) => Str::from("consumer"),
        }
    }

    pub fn member_count(&self) -> usize {
        match self {
            Group::Classic(group) => group.member_count(),
            Group::Consumer(group) => group.members().count(),
        }
    }

    fn member_bytes(&self) -> usize {
        match self {
            Group::Classic(group) => group.member_bytes(),
            Group::Consumer(group) => group.member_bytes(),
        }
    }

    /// What one member says of itself; `None`: it is none.
    fn bytes_of(&self, member: &Str) -> Option<usize> {
        match self {
            Group::Classic(group) => group.bytes_of(member),
            Group::Consumer(group) => group.bytes_of(member),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state() == classic::State::Empty,
            Group::Consumer(group) => group.is_empty(),
        }
    }

    pub(super) fn is_subscribed_to(&self, topic: &Str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
            Group::Consumer(group) => group.is_subscribed_to(topic),
        }
    }

    /// What makes its own records, all of them, superseded.
    pub(super) fn tombstones(&self) -> Vec<Record> {
        match self {
            Group::Classic(group) => vec![Record::no_classic_group(group.id())],
            Group::Consumer(group) => group.tombstones(),
        }
    }
}

/// All that one partition of `__consumer_offsets` holds.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub(super) settings: Settings,
    pub(super) groups: BTreeMap<Str, Group>,
    pub(super) offsets: Offsets,
    /// The cluster as the driver knows it.
    pub(super) image: Arc<MetadataImage>,
    new_topics_at: i64,
    timers: Timers,
    /// What the members of all groups say of themselves.
    member_bytes: usize,
}

impl Coordinator {
    /// Knows nothing: replay its log, then call [`Coordinator::on_loaded`].
    pub fn new(settings: Settings) -> Coordinator {
        Coordinator {
            settings,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            image: Arc::new(MetadataImage::new(Str::EMPTY)),
            new_topics_at: -1,
            timers: Timers::default(),
            member_bytes: 0,
        }
    }

    /// The groups, and what they may see and change beside themselves.
    pub(super) fn split<'a>(
        &'a mut self,
        now: Now,
        out: &'a mut Actions,
    ) -> (&'a mut BTreeMap<Str, Group>, Effects<'a>) {
        let fx = Effects {
            now,
            settings: &self.settings,
            image: &self.image,
            new_topics_at: self.new_topics_at,
            timers: &mut self.timers,
            out,
        };
        (&mut self.groups, fx)
    }

    /// The cluster is another now; `None`: whatever may differ. To be told before the log is replayed to its end.
    pub fn on_image(&mut self, image: Arc<MetadataImage>, delta: Option<&MetadataDelta>) {
        let mut changed = BTreeSet::new();
        let mut has_new_topics = self.new_topics_at == -1;
        for id in delta
            .iter()
            .flat_map(|delta| delta.changed_partitions.keys())
        {
            has_new_topics |= self.image.topic_by_id(*id).is_none();
            changed.extend(image.topic_by_id(*id).map(|topic| topic.name.clone()));
        }
        let deleted = delta.iter().flat_map(|delta| delta.deleted_topics.values());
        changed.extend(deleted.map(|topic| topic.name.clone()));
        if has_new_topics {
            self.new_topics_at = image.offset;
        }
        self.image = image;
        if changed.is_empty() {
            return;
        }
        for group in self.groups.values_mut() {
            if let Group::Consumer(group) = group {
                group.on_topics_changed(&changed);
            }
        }
    }

    /// Settings that may change while the broker runs have changed.
    pub fn on_settings(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Takes in a record of the log. Later ones supersede earlier ones.
    ///
    /// Errors: what no coordinator has written; the caller may go on with the next.
    pub fn replay(&mut self, key: Option<&Bytes>, value: Option<&Bytes>) -> Result<(), BadRecord> {
        let Some((key, value)) = records::decode(key, value)? else {
            return Ok(());
        };
        match (key, value) {
            (Key::OffsetCommit(key), None) => self.offsets.replay(&key, None),
            (Key::OffsetCommit(key), Some(Value::OffsetCommit(value))) => {
                self.exists_for_offsets(&key.group, value.commit_timestamp);
                self.offsets.replay(&key, Some(&value));
            }
            (Key::LegacyOffsetCommit(old), value) => {
                let key = OffsetCommitKey {
                    group: old.group,
                    topic: old.topic,
                    partition: old.partition,
                };
                let value = match value {
                    Some(Value::LegacyOffsetCommit(value)) => {
                        self.exists_for_offsets(&key.group, value.commit_timestamp);
                        Some(OffsetCommitValue {
                            offset: value.offset,
                            metadata: value.metadata,
                            commit_timestamp: value.commit_timestamp,
                            ..OffsetCommitValue::default()
                        })
                    }
                    _ => None,
                };
                self.offsets.replay(&key, value.as_ref());
            }
            (Key::GroupMetadata(key), None) => {
                self.groups.remove(&key.group);
            }
            (Key::GroupMetadata(key), Some(Value::GroupMetadata(value))) => {
                self.replay_classic(&key.group, &value);
            }
            (Key::ConsumerGroupMetadata(key), None) => {
                if let Some(Group::Consumer(_)) = self.groups.get(&key.group_id) {
                    self.groups.remove(&key.group_id);
                }
            }
            (key, value) => self.replay_consumer(&key, value.as_ref()),
        }
        Ok(())
    }

    fn replay_consumer(&mut self, key: &Key, value: Option<&Value>) {
        let id = match key {
            Key::ConsumerGroupMetadata(key) => &key.group_id,
            Key::ConsumerGroupPartitionMetadata(key) => &key.group_id,
            Key::ConsumerGroupMemberMetadata(key) => &key.group_id,
            Key::ConsumerGroupTargetAssignmentMetadata(key) => &key.group_id,
            Key::ConsumerGroupTargetAssignmentMember(key) => &key.group_id,
            Key::ConsumerGroupCurrentMemberAssignment(key) => &key.group_id,
            Key::ConsumerGroupRegularExpression(key) => &key.group_id,
            // Of groups that are not coordinated here.
            _ => return,
        };
        if let Some(Group::Consumer(group)) = self.groups.get_mut(id) {
            group.replay(key, value);
        } else if value.is_some() {
            let mut group = ConsumerGroup::new(id.detach());
            group.replay(key, value);
            self.groups.insert(id.detach(), Group::Consumer(group));
        }
    }

    #[cfg_attr(
        not(feature = "simulation"),
        allow(unused_mut, reason = "a planted fault changes it")
    )]
    fn replay_classic(&mut self, id: &Str, value: &GroupMetadataValue) {
        let mut value = std::borrow::Cow::Borrowed(value);
        #[cfg(feature = "simulation")]
        if self.settings.sabotage == super::Sabotage::ForgetsAssignments {
            for member in &mut value.to_mut().members {
                member.assignment = Bytes::new();
            }
        }
        let group = ClassicGroup::from_record(id, &value);
        self.groups
            .insert(group.id().clone(), Group::Classic(group));
    }

    /// Who commits without being a member makes a group that does nothing but store offsets.
    fn exists_for_offsets(&mut self, group: &Str, now: TimestampMs) {
        if !self.groups.contains_key(group) {
            let id = group.detach();
            let new = ClassicGroup::new(id.clone(), now);
            self.groups.insert(id, Group::Classic(new));
        }
    }

    /// The log has been replayed: time begins to count.
    pub fn on_loaded(&mut self, now: Now) -> Actions {
        let mut out = Actions::default();
        let (groups, mut fx) = self.split(now, &mut out);
        for group in groups.values_mut() {
            match group {
                Group::Classic(group) => group.on_loaded(&mut fx),
                Group::Consumer(group) => group.on_loaded(&mut fx),
            }
        }
        self.schedule_retention(now);
        self.member_bytes = self.groups.values().map(Group::member_bytes).sum();
        out
    }

    fn schedule_retention(&mut self, now: Now) {
        let due = now.monotonic_ms + self.settings.retention_check_interval_ms;
        self.timers.schedule(due, Timer::Retention);
    }

    /// When [`Coordinator::on_time`] has something to do.
    pub fn next_due(&self) -> Option<i64> {
        self.timers.next_due()
    }

    /// Does what is due.
    pub fn on_time(&mut self, now: Now) -> Actions {
        let mut out = Actions::default();
        while let Some(timer) = self.timers.pop_due(now.monotonic_ms) {
            let group = timer.group().cloned();
            let before = self.bytes_of(group.as_ref());
            self.on_timer(now, &mut out, timer);
            self.member_bytes += self.bytes_of(group.as_ref());
            self.member_bytes -= before;
        }
        out
    }

    fn on_timer(&mut self, now: Now, out: &mut Actions, timer: Timer) {
        match timer {
            Timer::Retention => {
                self.expire_offsets(now, out);
                self.schedule_retention(now);
            }
            Timer::Session { group, member } => {
                self.with_classic(now, out, &group, |group, fx| {
                    group.on_session_timeout(fx, &member);
                });
            }
            Timer::InitialJoin {
                group,
                remaining_ms,
            } => {
                self.with_classic(now, out, &group, |group, fx| {
                    group.on_initial_delay(fx, remaining_ms);
                });
            }
            Timer::Join { group } => {
                self.with_classic(now, out, &group, ClassicGroup::on_join_timeout);
            }
            Timer::Sync { group } => {
                self.with_classic(now, out, &group, ClassicGroup::on_sync_timeout);
            }
            Timer::Member {
                group,
                member,
                timer,
            } => self.on_member_timer(now, out, &group, member, &timer),
            Timer::Patterns { group } => {
                let (groups, mut fx) = self.split(now, out);
                if let Some(Group::Consumer(group)) = groups.get_mut(&group) {
                    group.look_patterns_up(&mut fx);
                }
            }
        }
    }

    /// Runs `work` on a classic group, if there is one of this name.
    fn with_classic<R>(
        &mut self,
        now: Now,
        out: &mut Actions,
        id: &Str,
        work: impl FnOnce(&mut ClassicGroup, &mut Effects<'_>) -> R,
    ) -> Option<R> {
        let (groups, mut fx) = self.split(now, out);
        match groups.get_mut(id)? {
            Group::Classic(group) => Some(work(group, &mut fx)),
            Group::Consumer(_) => None,
        }
    }

    /// Decides a request. Its answer is among the actions, or among those of a later call.
    ///
    /// `elsewhere` is what the members of other coordinators hold that share a bound with this one, in bytes.
    pub fn on_request(
        &mut self,
        now: Now,
        token: Token,
        request: Request,
        elsewhere: usize,
    ) -> Actions {
        let mut out = Actions::default();
        if let Some(refusal) = self.refuse_growth(&request, elsewhere) {
            out.answer(token, refusal);
            return out;
        }
        let group = request.group().cloned();
        let before = self.bytes_of(group.as_ref());
        self.decide(now, &mut out, token, request);
        self.member_bytes += self.bytes_of(group.as_ref());
        self.member_bytes -= before;
        out
    }

    /// What the members of all groups hold, in bytes.
    pub fn member_bytes(&self) -> usize {
        self.member_bytes
    }

    fn bytes_of(&self, group: Option<&Str>) -> usize {
        let group = group.and_then(|id| self.groups.get(id));
        group.map_or(0, Group::member_bytes)
    }

    /// Whoever would hold more than it does is refused when all hold too much (`group.members.max.bytes`).
    fn refuse_growth(&self, request: &Request, elsewhere: usize) -> Option<Answer> {
        if !request.tells_of_members() {
            return None;
        }
        let (group, member, bytes) = match request {
            Request::Join(join) => {
                let told = join.request.protocols.iter();
                let bytes: usize = told.map(|protocol| protocol.metadata.len()).sum();
                (&join.request.group_id, &join.request.member_id, bytes)
            }
            Request::ConsumerHeartbeat(beat) => {
                let request = &beat.request;
                (
                    &request.group_id,
                    &request.member_id,
                    beat.subscription_bytes(),
                )
            }
            _ => return None,
        };
        let known = self.groups.get(group).and_then(|one| one.bytes_of(member));
        let grows = match known {
            Some(known) => bytes.saturating_sub(known),
            None => bytes + GROUP_MEMBER_BYTES_LEAST,
        };
        let held = self.member_bytes + elsewhere;
        if grows == 0 || held + grows <= self.settings.members_bytes_max {
            return None;
        }
        let code = ErrorCode::GroupMaxSizeReached;
        Some(match request {
            Request::Join(join) => classic::refused_join(join.request.member_id.clone(), code),
            _ => Answer::ConsumerHeartbeat(ConsumerGroupHeartbeatResponse {
                error_code: code.code(),
                error_message: Some(
                    "The members of this broker's groups hold as much as group.members.max.bytes allows.".into(),
                ),
                ..ConsumerGroupHeartbeatResponse::default()
            }),
        })
    }

    fn decide(&mut self, now: Now, out: &mut Actions, token: Token, request: Request) {
        match request {
            Request::Join(join) => self.join(now, out, token, &join),
            Request::Sync(request) => self.sync(now, out, token, &request),
            Request::Heartbeat(request) => self.heartbeat(now, out, token, &request),
            Request::ConsumerHeartbeat(beat) => {
                self.consumer_heartbeat(now, out, token, &beat);
            }
            Request::Leave(request) => self.leave(now, out, token, &request),
            Request::Commit { request, version } => {
                let answer = self.commit(now, out, &request, version);
                out.answer(token, Answer::Commit(answer));
            }
            Request::FetchOffsets {
                group,
                member,
                member_epoch,
                topics,
            } => {
                let topics = topics.as_deref();
                let fetched = self.fetch_offsets(group, member.as_ref(), member_epoch, topics);
                out.answer(token, Answer::FetchedOffsets(fetched));
            }
            Request::DeleteOffsets(request) => {
                let answer = self.delete_offsets(&mut out.records, &request);
                out.answer(token, Answer::DeletedOffsets(answer));
            }
            Request::Describe { group, version } => {
                let described = self.describe(&group, version);
                out.answer(token, Answer::Described(described));
            }
            Request::DescribeConsumer { group } => {
                let described = self.describe_consumer(&group);
                out.answer(token, Answer::DescribedConsumer(described));
            }
            Request::Delete { group } => {
                let deleted = self.delete_group(&group, &mut out.records);
                let error = deleted.err().unwrap_or(ErrorCode::None);
                out.answer(token, Answer::Deleted(error));
            }
            Request::List { states, types } => {
                let listed = self.list(&states, &types);
                out.answer(token, Answer::Listed(listed));
            }
        }
    }

    fn join(&mut self, now: Now, out: &mut Actions, token: Token, join: &Join) {
        let request = &join.request;
        let refuse = |error| classic::refused_join(request.member_id.clone(), error);
        let session = request.session_timeout_ms;
        let bounds = self.settings.session_timeout_min_ms..=self.settings.session_timeout_max_ms;
        let error = match self.groups.contains_key(&request.group_id) {
            _ if request.group_id.is_empty() => Some(ErrorCode::InvalidGroupId),
            _ if !bounds.contains(&session) => Some(ErrorCode::InvalidSessionTimeout),
            false if !request.member_id.is_empty() => Some(ErrorCode::UnknownMemberId),
            false if self.is_full() => Some(ErrorCode::PolicyViolation),
            _ => None,
        };
        if let Some(error) = error {
            return out.answer(token, refuse(error));
        }
        self.clear_empty_consumer_group(now, out, &request.group_id);
        if let Some(Group::Consumer(_)) = self.groups.get(&request.group_id) {
            let joined = self.join_consumer_group(now, out, join);
            let answer = joined.map_or_else(refuse, Answer::Join);
            return out.answer(token, answer);
        }
        let is_new = !self.groups.contains_key(&request.group_id);
        if is_new {
            self.exists_for_offsets(&request.group_id, now.wall_ms);
        }
        let records_before = out.records.len();
        self.with_classic(now, out, &request.group_id, |group, fx| {
            group.join(fx, token, join);
            if is_new && fx.out.records.len() == records_before {
                // As Kafka has it: that there is a group, and nothing of who is about to join.
                let nobody = ClassicGroup::new(group.id().clone(), fx.now.wall_ms);
                fx.out.records.push(Record::classic_group(&nobody));
            }
        });
    }

    /// The bound on groups that one partition may hold.
    pub(super) fn is_full(&self) -> bool {
        self.groups.len() >= GROUPS_PER_COORDINATOR_MAX
    }

    fn sync(&mut self, now: Now, out: &mut Actions, token: Token, request: &SyncGroupRequest) {
        if request.group_id.is_empty() {
            return out.answer(token, classic::refused_sync(ErrorCode::InvalidGroupId));
        }
        let (groups, mut fx) = self.split(now, out);
        if let Some(Group::Consumer(group)) = groups.get_mut(&request.group_id) {
            let synced = group.sync(&mut fx, request);
            let answer = synced.map_or_else(classic::refused_sync, Answer::Sync);
            return out.answer(token, answer);
        }
        let found = self.with_classic(now, out, &request.group_id, |group, fx| {
            group.sync(fx, token, request);
        });
        if found.is_none() {
            out.answer(token, classic::refused_sync(ErrorCode::UnknownMemberId));
        }
    }

    fn heartbeat(&mut self, now: Now, out: &mut Actions, token: Token, request: &HeartbeatRequest) {
        let (groups, mut fx) = self.split(now, out);
        let beaten = match groups.get_mut(&request.group_id) {
            _ if request.group_id.is_empty() => Err(ErrorCode::InvalidGroupId),
            Some(Group::Classic(group)) => group.heartbeat(&mut fx, request),
            Some(Group::Consumer(group)) => group.classic_heartbeat(&mut fx, request),
            None => Err(ErrorCode::UnknownMemberId),
        };
        let error = beaten.err().unwrap_or(ErrorCode::None);
        out.answer(token, Answer::Heartbeat(error));
    }

    fn leave(&mut self, now: Now, out: &mut Actions, token: Token, request: &LeaveGroupRequest) {
        let mut answer = LeaveGroupResponse::default();
        if request.group_id.is_empty() {
            answer.error_code = ErrorCode::InvalidGroupId.code();
            return out.answer(token, Answer::Leave(answer));
        }
        if let Some(Group::Consumer(_)) = self.groups.get(&request.group_id) {
            let (id, members) = (&request.group_id, &request.members);
            answer.members = self.leave_consumer_group(now, out, id, members);
            return out.answer(token, Answer::Leave(answer));
        }
        let left = self.with_classic(now, out, &request.group_id, |group, fx| {
            group.leave(fx, &request.members)
        });
        let strangers = request.members.iter().map(|member| MemberResponse {
            member_id: member.member_id.clone(),
            group_instance_id: member.group_instance_id.clone(),
            error_code: ErrorCode::UnknownMemberId.code(),
        });
        answer.members = left.unwrap_or_else(|| strangers.collect());
        out.answer(token, Answer::Leave(answer));
    }

    fn commit(
        &mut self,
        now: Now,
        out: &mut Actions,
        request: &OffsetCommitRequest,
        version: i16,
    ) -> OffsetCommitResponse {
        let refusal = self.check_commit(request, version).err();
        let mut records = Vec::new();
        if refusal.is_none() {
            for (topic, partition) in offsets::each(&request.topics) {
                if offsets::is_too_long(partition, self.settings.offset_metadata_max) {
                    continue;
                }
                let retention_ms = request.retention_time_ms;
                let commit = Committed::new(partition, topic.topic_id, now.wall_ms, retention_ms);
                let index = partition.partition_index;
                let record = Record::commit(&request.group_id, &topic.name, index, &commit);
                records.push((topic, index, commit, record));
            }
        }
        let bytes: usize = records.iter().map(|(.., r)| r.size_in_bytes()).sum();
        let too_large = bytes > self.settings.batch_bytes_max;
        let refusal = refusal.or(too_large.then_some(ErrorCode::UnknownServerError));
        if refusal.is_none() {
            self.exists_for_offsets(&request.group_id, now.wall_ms);
            self.with_classic(now, out, &request.group_id, |group, fx| {
                group.on_commit(fx, &request.member_id);
            });
            for (topic, index, commit, record) in records {
                self.offsets
                    .put(&request.group_id, &topic.name, index, commit);
                out.records.push(record);
            }
        }
        let metadata_max = self.settings.offset_metadata_max;
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let too_long = offsets::is_too_long(partition, metadata_max);
                let error = refusal.or(too_long.then_some(ErrorCode::OffsetMetadataTooLarge));
                OffsetCommitResponsePartition {
                    partition_index: partition.partition_index,
                    error_code: error.unwrap_or(ErrorCode::None).code(),
                }
            });
            OffsetCommitResponseTopic {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partitions: partitions.collect(),
            }
        });
        OffsetCommitResponse {
            topics: topics.collect(),
            ..OffsetCommitResponse::default()
        }
    }

    fn check_commit(&self, request: &OffsetCommitRequest, version: i16) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        match self.groups.get(&request.group_id) {
            #[cfg(feature = "simulation")]
            _ if self.settings.sabotage == super::Sabotage::NoFencing => Ok(()),
            Some(Group::Classic(group)) => group.check_commit(
                &request.member_id,
                request.group_instance_id.as_ref(),
                generation,
            ),
            Some(Group::Consumer(group)) => {
                let told = offsets::each(&request.topics);
                let stored = told.filter(|(_, partition)| {
                    !offsets::is_too_long(partition, self.settings.offset_metadata_max)
                });
                let is_new_enough = version >= GROUP_ID_NOT_FOUND_SINCE;
                group.check_commit(
                    &request.member_id,
                    generation,
                    is_new_enough,
                    stored.map(|(topic, partition)| (topic.topic_id, partition.partition_index)),
                )
            }
            None if generation >= 0 && version >= GROUP_ID_NOT_FOUND_SINCE => {
                Err(ErrorCode::GroupIdNotFound)
            }
            None if generation >= 0 => Err(ErrorCode::IllegalGeneration),
            None if self.is_full() => Err(ErrorCode::PolicyViolation),
            None => Ok(()),
        }
    }

    /// Forgets what nobody has needed for long, and groups that are left with nothing (KIP-211).
    fn expire_offsets(&mut self, now: Now, out: &mut Actions) {
        let retention_ms = self.settings.offsets_retention_ms;
        let mut over = Vec::new();
        for (id, group) in &self.groups {
            let expiry = match group {
                Group::Classic(group) => group.expiry(),
                Group::Consumer(_) => Some(offsets::Expiry::SinceCommit),
            };
            if let Some(expiry) = expiry {
                let is_subscribed = |topic: &Str| group.is_subscribed_to(topic);
                let records = &mut out.records;
                self.offsets.expire(
                    id,
                    expiry,
                    now.wall_ms,
                    retention_ms,
                    is_subscribed,
                    records,
                );
            }
            if group.is_empty() && !self.offsets.has_any(id) {
                over.push(id.clone());
            }
        }
        for id in over {
            self.forget_group(&id, &mut out.records);
        }
    }

    pub(super) fn forget_group(&mut self, id: &Str, records: &mut Vec<Record>) {
        if let Some(group) = self.groups.remove(id) {
            records.extend(group.tombstones());
        }
    }

    /// Topics are deleted: so is what was committed for them.
    pub fn on_topics_deleted(&mut self, is_gone: impl Fn(&Str) -> bool) -> Actions {
        let mut out = Actions::default();
        self.offsets.delete_topics(is_gone, &mut out.records);
        out
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// In the order of their names.
    pub fn groups(&self) -> impl Iterator<Item = (&Str, &Group)> {
        self.groups.iter()
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Those behind this one; all of them behind none.
    pub fn groups_behind(&self, id: Option<&str>) -> impl Iterator<Item = (&Str, &Group)> {
        let first = id.map_or(Bound::Unbounded, Bound::Excluded);
        self.groups.range::<str, _>((first, Bound::Unbounded))
    }

    /// What was committed, in the order of groups, topics and partitions.
    pub fn offsets(&self) -> impl Iterator<Item = (&Str, &Str, i32, &Committed)> {
        self.offsets.iter()
    }
}
