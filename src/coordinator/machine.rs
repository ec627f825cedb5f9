//! Owns the groups of one coordinator: which one a request is for, timers, expiry, and how all of it comes back from
//! the log.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::TimestampMs;
use crate::limits::GROUPS_PER_COORDINATOR_MAX;
use crate::protocol::messages::leave_group_response::MemberResponse;
use crate::protocol::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use crate::protocol::messages::{
    HeartbeatRequest, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, SyncGroupRequest,
};
use crate::protocol::records::group::{
    GroupMetadataValue, Key, OffsetCommitKey, OffsetCommitValue, Value,
};
use crate::protocol::{ErrorCode, Str};

use super::classic::{self, ClassicGroup, Effects};
use super::offsets::{self, Committed, Offsets};
use super::records::{self, BadRecord, Record};
use super::timers::{Timer, Timers};
use super::{Actions, Answer, Join, Now, Request, Settings, Token};

/// A commit in a request from this version on tells when its group is not there (KIP-848).
const GROUP_ID_NOT_FOUND_SINCE: i16 = 9;

/// A group of some type.
#[derive(Clone, Debug)]
pub enum Group {
    Classic(ClassicGroup),
}

impl Group {
    /// As ListGroups tells it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Group::Classic(_) => "classic",
        }
    }

    pub fn state_name(&self) -> &'static str {
        match self {
            Group::Classic(group) => group.state().name(),
        }
    }

    pub fn protocol_type(&self) -> Str {
        match self {
            Group::Classic(group) => group.protocol_type(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Group::Classic(group) => group.state() == classic::State::Empty,
        }
    }

    pub(super) fn is_subscribed_to(&self, topic: &Str) -> bool {
        match self {
            Group::Classic(group) => group.is_subscribed_to(topic),
        }
    }

    /// What makes its own records, all of them, superseded.
    pub(super) fn tombstones(&self) -> Record {
        match self {
            Group::Classic(group) => Record::no_classic_group(group.id()),
        }
    }
}

/// All that one partition of `__consumer_offsets` holds.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub(super) settings: Settings,
    pub(super) groups: BTreeMap<Str, Group>,
    pub(super) offsets: Offsets,
    timers: Timers,
}

impl Coordinator {
    /// Knows nothing: replay its log, then call [`Coordinator::on_loaded`].
    pub fn new(settings: Settings) -> Coordinator {
        Coordinator {
            settings,
            groups: BTreeMap::new(),
            offsets: Offsets::default(),
            timers: Timers::default(),
        }
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
            // Of groups that are not coordinated here.
            _ => {}
        }
        Ok(())
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
        let mut fx = Effects {
            now,
            settings: &self.settings,
            timers: &mut self.timers,
            out: &mut out,
        };
        for group in self.groups.values_mut() {
            match group {
                Group::Classic(group) => group.on_loaded(&mut fx),
            }
        }
        self.schedule_retention(now);
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
            match timer {
                Timer::Retention => {
                    self.expire_offsets(now, &mut out);
                    self.schedule_retention(now);
                }
                Timer::Session { group, member } => {
                    self.with_classic(now, &mut out, &group, |group, fx| {
                        group.on_session_timeout(fx, &member);
                    });
                }
                Timer::InitialJoin {
                    group,
                    remaining_ms,
                } => {
                    self.with_classic(now, &mut out, &group, |group, fx| {
                        group.on_initial_delay(fx, remaining_ms);
                    });
                }
                Timer::Join { group } => {
                    self.with_classic(now, &mut out, &group, ClassicGroup::on_join_timeout);
                }
                Timer::Sync { group } => {
                    self.with_classic(now, &mut out, &group, ClassicGroup::on_sync_timeout);
                }
            }
        }
        out
    }

    /// Runs `work` on a classic group, if there is one of this name.
    fn with_classic<R>(
        &mut self,
        now: Now,
        out: &mut Actions,
        id: &Str,
        work: impl FnOnce(&mut ClassicGroup, &mut Effects<'_>) -> R,
    ) -> Option<R> {
        let mut fx = Effects {
            now,
            settings: &self.settings,
            timers: &mut self.timers,
            out,
        };
        match self.groups.get_mut(id)? {
            Group::Classic(group) => Some(work(group, &mut fx)),
        }
    }

    /// Decides a request. Its answer is among the actions, or among those of a later call.
    pub fn on_request(&mut self, now: Now, token: Token, request: Request) -> Actions {
        let mut out = Actions::default();
        match request {
            Request::Join(join) => self.join(now, &mut out, token, &join),
            Request::Sync(request) => self.sync(now, &mut out, token, &request),
            Request::Heartbeat(request) => self.heartbeat(now, &mut out, token, &request),
            Request::Leave(request) => self.leave(now, &mut out, token, &request),
            Request::Commit { request, version } => {
                let answer = self.commit(now, &mut out, &request, version);
                out.answer(token, Answer::Commit(answer));
            }
            Request::FetchOffsets { group, topics } => {
                let fetched = self.fetch_offsets(group, topics.as_deref());
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
        out
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
    fn is_full(&self) -> bool {
        self.groups.len() >= GROUPS_PER_COORDINATOR_MAX
    }

    fn sync(&mut self, now: Now, out: &mut Actions, token: Token, request: &SyncGroupRequest) {
        if request.group_id.is_empty() {
            return out.answer(token, classic::refused_sync(ErrorCode::InvalidGroupId));
        }
        let found = self.with_classic(now, out, &request.group_id, |group, fx| {
            group.sync(fx, token, request);
        });
        if found.is_none() {
            out.answer(token, classic::refused_sync(ErrorCode::UnknownMemberId));
        }
    }

    fn heartbeat(&mut self, now: Now, out: &mut Actions, token: Token, request: &HeartbeatRequest) {
        let beaten = match request.group_id.is_empty() {
            true => Err(ErrorCode::InvalidGroupId),
            false => {
                let beaten = self.with_classic(now, out, &request.group_id, |group, fx| {
                    group.heartbeat(fx, request)
                });
                beaten.unwrap_or(Err(ErrorCode::UnknownMemberId))
            }
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
            records.push(group.tombstones());
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

    /// What was committed, in the order of groups, topics and partitions.
    pub fn offsets(&self) -> impl Iterator<Item = (&Str, &Str, i32, &Committed)> {
        self.offsets.iter()
    }
}
