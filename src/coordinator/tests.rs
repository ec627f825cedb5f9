//! The coordinator as its driver sees it: requests and times in, records and answers out.

use bytes::Bytes;

use super::*;
use crate::coordinator::classic::State;
use crate::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::protocol::messages::sync_group_request::SyncGroupRequestAssignment;

/// A coordinator with its log and its clock.
struct World {
    coordinator: Coordinator,
    log: Vec<Record>,
    now: Now,
    next_token: u64,
}

impl World {
    fn new(settings: Settings) -> World {
        let now = Now {
            monotonic_ms: 0,
            wall_ms: 1_700_000_000_000,
        };
        let mut world = World {
            coordinator: Coordinator::new(settings),
            log: Vec::new(),
            now,
            next_token: 0,
        };
        assert_eq!(world.coordinator.on_loaded(now), Actions::default());
        world
    }

    fn ask(&mut self, request: Request) -> Vec<(Token, Answer)> {
        self.next_token += 1;
        let token = Token(self.next_token);
        let actions = self.coordinator.on_request(self.now, token, request, 0);
        self.log.extend(actions.records);
        actions.answers
    }

    fn one(&mut self, request: Request) -> Answer {
        let mut answers = self.ask(request);
        assert_eq!(answers.len(), 1);
        answers.remove(0).1
    }

    fn pass(&mut self, ms: i64) -> Vec<(Token, Answer)> {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        let actions = self.coordinator.on_time(self.now);
        self.log.extend(actions.records);
        actions.answers
    }

    fn join(&self, id: &Str, version: i16) -> Request {
        Request::Join(Join {
            request: JoinGroupRequest {
                group_id: "g".into(),
                session_timeout_ms: 10_000,
                rebalance_timeout_ms: 60_000,
                member_id: id.clone(),
                group_instance_id: None,
                protocol_type: "consumer".into(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"),
                }],
                ..JoinGroupRequest::default()
            },
            version,
            client: Client {
                id: "c".into(),
                host: "/::1".into(),
            },
            unique: Str::from(format!("{}", self.next_token)),
        })
    }

    /// A member of a stable group of one.
    fn stable(&mut self) -> Str {
        assert_eq!(self.ask(self.join(&Str::EMPTY, 3)), []);
        let joined = self.pass(3000);
        let [(_, Answer::Join(joined))] = &joined[..] else {
            panic!("{joined:?}");
        };
        assert_eq!(joined.error_code, 0);
        let id = joined.member_id.clone();
        self.sync(&id, 1);
        id
    }

    fn sync(&mut self, id: &Str, generation: i32) {
        let synced = self.one(Request::Sync(SyncGroupRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: id.clone(),
            group_instance_id: None,
            assignments: vec![SyncGroupRequestAssignment {
                member_id: id.clone(),
                assignment: Bytes::from_static(b"all"),
            }],
            ..SyncGroupRequest::default()
        }));
        let Answer::Sync(synced) = synced else {
            panic!("{synced:?}");
        };
        assert_eq!(
            (synced.error_code, &synced.assignment[..]),
            (0, &b"all"[..])
        );
    }

    fn commit(&mut self, id: &Str, generation: i32, offset: i64) -> ErrorCode {
        let partition = OffsetCommitRequestPartition {
            partition_index: 0,
            committed_offset: offset,
            ..OffsetCommitRequestPartition::default()
        };
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: generation,
            member_id: id.clone(),
            group_instance_id: None,
            topics: vec![OffsetCommitRequestTopic {
                name: "t".into(),
                partitions: vec![partition],
                ..OffsetCommitRequestTopic::default()
            }],
            ..OffsetCommitRequest::default()
        };
        let answer = self.one(Request::Commit {
            request,
            version: 8,
        });
        let Answer::Commit(answer) = answer else {
            panic!("{answer:?}");
        };
        ErrorCode::from_code(answer.topics[0].partitions[0].error_code)
    }

    fn committed(&self) -> Option<i64> {
        self.coordinator
            .offsets()
            .next()
            .map(|(.., commit)| commit.offset)
    }

    fn leave(&mut self, id: &Str) -> Answer {
        self.one(Request::Leave(LeaveGroupRequest {
            group_id: "g".into(),
            members: vec![MemberIdentity {
                member_id: id.clone(),
                group_instance_id: None,
                reason: None,
            }],
            ..LeaveGroupRequest::default()
        }))
    }

    fn group(&self) -> &classic::ClassicGroup {
        let Some((_, Group::Classic(group))) = self.coordinator.groups().next() else {
            panic!("no classic group");
        };
        group
    }

    fn reloaded(&self) -> Coordinator {
        let mut loaded = Coordinator::new(self.coordinator.settings().clone());
        for record in &self.log {
            let replayed = loaded.replay(Some(&record.key), record.value.as_ref());
            replayed.expect("its own records");
        }
        loaded
    }

    /// What the log says is what the coordinator knows.
    fn check_reload(&self) {
        let loaded = self.reloaded();
        assert_eq!(loaded.offsets, self.coordinator.offsets);
        let known = self
            .coordinator
            .groups()
            .map(|(id, group)| (id, told(group)));
        let loaded = loaded.groups().map(|(id, group)| (id, told(group)));
        assert!(known.eq(loaded));
    }
}

fn told(group: &Group) -> (i32, State, Str, Vec<(Str, Bytes)>) {
    let Group::Classic(group) = group else {
        panic!("not a classic group");
    };
    let assignments = group.assignments();
    (
        group.generation(),
        group.state(),
        group.protocol_type(),
        assignments
            .map(|(id, assigned)| (id.clone(), assigned.clone()))
            .collect(),
    )
}

#[test]
fn a_member_joins_commits_leaves_and_all_of_it_is_in_the_log() {
    let mut world = World::new(Settings::default());
    let id = world.stable();
    world.check_reload();
    assert_eq!(world.commit(&id, 1, 7), ErrorCode::None);
    assert_eq!(world.commit(&id, 0, 8), ErrorCode::IllegalGeneration);
    assert_eq!(world.commit(&"x".into(), 1, 8), ErrorCode::UnknownMemberId);
    assert_eq!(world.commit(&Str::EMPTY, -1, 8), ErrorCode::UnknownMemberId);
    world.check_reload();
    world.leave(&id);
    assert_eq!(world.group().state(), State::Empty);
    assert_eq!(world.committed(), Some(7));
    world.check_reload();
    let deleted = world.one(Request::Delete { group: "g".into() });
    assert_eq!(deleted, Answer::Deleted(ErrorCode::None));
    world.check_reload();
    assert_eq!(world.coordinator.groups().count(), 0);
}

#[test]
fn a_member_id_is_given_before_it_is_joined_with() {
    let mut world = World::new(Settings::default());
    let Answer::Join(given) = world.one(world.join(&Str::EMPTY, 4)) else {
        panic!("no join");
    };
    let required = ErrorCode::MemberIdRequired.code();
    assert_eq!((given.error_code, &*given.member_id), (required, "c-0"));
    assert_eq!(world.ask(world.join(&given.member_id, 4)), []);
    let joined = world.pass(3000);
    assert!(matches!(&joined[..], [(_, Answer::Join(joined))] if joined.error_code == 0));
}

#[test]
fn silence_ends_a_session_and_heartbeats_keep_it() {
    let mut world = World::new(Settings::default());
    let id = world.stable();
    for _ in 0..5 {
        world.pass(9_000);
        let beaten = world.one(Request::Heartbeat(HeartbeatRequest {
            group_id: "g".into(),
            generation_id: 1,
            member_id: id.clone(),
            group_instance_id: None,
        }));
        assert_eq!(beaten, Answer::Heartbeat(ErrorCode::None));
    }
    assert_eq!(world.group().member_count(), 1);
    world.pass(9_999);
    assert_eq!(world.group().member_count(), 1);
    world.pass(1);
    assert_eq!(world.group().state(), State::Empty);
    world.check_reload();
}

#[test]
fn a_coordinator_that_was_loaded_knows_its_members() {
    let mut world = World::new(Settings::default());
    let id = world.stable();
    world.coordinator = world.reloaded();
    world.coordinator.on_loaded(world.now);
    assert_eq!(world.commit(&id, 1, 9), ErrorCode::None);
    world.pass(10_000);
    assert_eq!(world.group().state(), State::Empty);
    assert_eq!(world.group().generation(), 2);
}

#[test]
fn offsets_expire_when_a_group_has_been_empty_for_long() {
    let mut world = World::new(Settings::default());
    let retention_ms = Settings::default().offsets_retention_ms;
    let id = world.stable();
    assert_eq!(world.commit(&id, 1, 7), ErrorCode::None);
    world.leave(&id);
    world.pass(retention_ms - 1);
    assert_eq!(world.committed(), Some(7));
    world.pass(Settings::default().retention_check_interval_ms);
    assert_eq!(world.committed(), None);
    // The group goes with its last offset.
    assert_eq!(world.coordinator.groups().count(), 0);
    world.check_reload();
    // Who is no member keeps an offset alive by committing it.
    assert_eq!(world.commit(&Str::EMPTY, -1, 1), ErrorCode::None);
    world.pass(retention_ms / 2);
    assert_eq!(world.commit(&Str::EMPTY, -1, 2), ErrorCode::None);
    world.pass(retention_ms / 2 + 1_000_000);
    assert_eq!(world.committed(), Some(2));
}

#[test]
fn offsets_of_deleted_topics_and_deleted_offsets_are_gone() {
    let mut world = World::new(Settings::default());
    assert_eq!(world.commit(&Str::EMPTY, -1, 1), ErrorCode::None);
    let actions = world.coordinator.on_topics_deleted(|topic| **topic == *"t");
    assert_eq!(actions.records.len(), 1);
    world.log.extend(actions.records);
    world.check_reload();
    assert_eq!(world.committed(), None);
    assert_eq!(world.commit(&Str::EMPTY, -1, 1), ErrorCode::None);
    world.one(Request::DeleteOffsets(OffsetDeleteRequest {
        group_id: "g".into(),
        topics: vec![OffsetDeleteRequestTopic {
            name: "t".into(),
            partitions: vec![OffsetDeleteRequestPartition { partition_index: 0 }],
        }],
    }));
    assert_eq!(world.committed(), None);
    world.check_reload();
}

#[test]
fn who_says_too_much_or_asks_too_often_is_refused() {
    let mut world = World::new(Settings::default());
    let mut join = world.join(&Str::EMPTY, 4);
    if let Request::Join(join) = &mut join {
        let bytes = crate::limits::MEMBER_METADATA_BYTES_MAX + 1;
        join.request.protocols[0].metadata = Bytes::from(vec![0; bytes]);
    }
    let Answer::Join(refused) = world.one(join) else {
        panic!("no join");
    };
    assert_eq!(refused.error_code, ErrorCode::InvalidRequest.code());
    let mut last = ErrorCode::None;
    for _ in 0..=crate::limits::GROUP_PENDING_MEMBERS_MAX {
        let Answer::Join(answer) = world.one(world.join(&Str::EMPTY, 4)) else {
            panic!("no join");
        };
        last = ErrorCode::from_code(answer.error_code);
    }
    assert_eq!(last, ErrorCode::GroupMaxSizeReached);
    // Ids that nobody has joined with are forgotten with their session time-out.
    world.pass(10_000);
    let Answer::Join(answer) = world.one(world.join(&Str::EMPTY, 4)) else {
        panic!("no join");
    };
    assert_eq!(answer.error_code, ErrorCode::MemberIdRequired.code());
}

#[test]
fn records_are_as_kafka_writes_them() {
    let mut world = World::new(Settings::default());
    world.stable();
    // As in the dump of Apache Kafka 4.4: key type 2, value version 3, nobody yet.
    assert_eq!(&world.log[0].key[..], b"\0\x02\0\x01g");
    assert_eq!(
        &world.log[0].value.as_ref().expect("a value")[..10],
        b"\0\x03\0\0\0\0\0\0\xff\xff"
    );
    assert_eq!(world.commit(&Str::EMPTY, -1, 1), ErrorCode::UnknownMemberId);
}

#[test]
fn the_members_of_all_groups_share_a_bound() {
    let settings = Settings {
        members_bytes_max: 1100,
        ..Settings::default()
    };
    let mut world = World::new(settings);
    let joining = |world: &World, group: &'static str, id: &Str, bytes: usize| {
        let Request::Join(mut join) = world.join(id, 3) else {
            unreachable!("it is a JoinGroup")
        };
        join.request.group_id = group.into();
        join.request.protocols[0].metadata = vec![0; bytes].into();
        Request::Join(join)
    };
    assert_eq!(world.ask(joining(&world, "a", &Str::EMPTY, 10)), []);
    assert_eq!(world.ask(joining(&world, "b", &Str::EMPTY, 10)), []);
    assert_eq!(world.coordinator.member_bytes(), 2 * (512 + 10));
    let refused = |answer: &Answer| matches!(answer, Answer::Join(join) if join.error_code == ErrorCode::GroupMaxSizeReached.code());
    assert!(refused(&world.one(joining(&world, "c", &Str::EMPTY, 10))));
    let joined = world.pass(3000);
    let (_, Answer::Join(first)) = &joined[0] else {
        panic!("{joined:?}")
    };
    // Who is a member may say as much as before, and not much more.
    let id = first.member_id.clone();
    let again = world.ask(joining(&world, "a", &id, 10));
    assert!(!again.iter().any(|(_, answer)| refused(answer)));
    assert!(refused(&world.one(joining(&world, "a", &id, 100))));
    // Nobody has said a word since: all are given up, and there is room again.
    world.pass(60_000);
    world.pass(60_000);
    assert_eq!(world.coordinator.member_bytes(), 0);
    let elsewhere = world.coordinator.clone().on_request(
        world.now,
        Token(99),
        joining(&world, "c", &Str::EMPTY, 10),
        1000,
    );
    assert!(refused(&elsewhere.answers[0].1));
    assert_eq!(world.ask(joining(&world, "c", &Str::EMPTY, 10)), []);
}
