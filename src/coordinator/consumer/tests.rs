//! Consumer groups as the coordinator's driver sees them: heartbeats and times in, records and answers out.

use std::sync::Arc;

use bytes::Bytes;

use crate::controller::{MetadataDelta, MetadataImage};
use crate::coordinator::{
    Answer, Beat, Client, Coordinator, Group, Join, Now, Record, Request, Settings, Token,
};
use crate::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use crate::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::{
    ConsumerGroupHeartbeatResponse, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    OffsetCommitRequest, SyncGroupRequest,
};
use crate::protocol::records::metadata::{MetadataRecord, PartitionRecord, TopicRecord};
use crate::protocol::{ErrorCode, Str, Uuid};

use super::{LEAVE_EPOCH, LEAVE_STATIC_EPOCH};

/// A coordinator with its log, its cluster and its clock.
struct World {
    coordinator: Coordinator,
    image: MetadataImage,
    log: Vec<Record>,
    now: Now,
    next_token: u64,
}

/// A client as it is by its last answer.
#[derive(Clone, Debug)]
struct Member {
    id: Str,
    instance: Option<Str>,
    epoch: i32,
    owned: Vec<(Uuid, Vec<i32>)>,
}

impl Member {
    fn new(id: &'static str) -> Member {
        Member {
            id: id.into(),
            instance: None,
            epoch: 0,
            owned: Vec::new(),
        }
    }

    fn partitions(&self) -> Vec<i32> {
        self.owned
            .iter()
            .flat_map(|(_, partitions)| partitions.clone())
            .collect()
    }

    fn hear(&mut self, answer: &ConsumerGroupHeartbeatResponse) {
        assert_eq!(answer.error_code, 0, "{answer:?}");
        self.epoch = answer.member_epoch;
        if let Some(assignment) = &answer.assignment {
            let topics = assignment.topic_partitions.iter();
            self.owned = topics
                .map(|topic| (topic.topic_id, topic.partitions.clone()))
                .collect();
        }
    }
}

impl World {
    fn new(settings: Settings) -> World {
        let mut world = World {
            coordinator: Coordinator::new(settings),
            image: MetadataImage::new(Str::EMPTY),
            log: Vec::new(),
            now: Now {
                monotonic_ms: 0,
                wall_ms: 1_700_000_000_000,
            },
            next_token: 0,
        };
        world.coordinator.on_loaded(world.now);
        world
    }

    /// With a topic `t` of so many partitions.
    fn with_topic(partitions: i32) -> World {
        let mut world = World::new(Settings::default());
        world.create("t", Uuid([7; 16]), partitions);
        world
    }

    fn create(&mut self, name: &'static str, id: Uuid, partitions: i32) {
        let topic = MetadataRecord::from(TopicRecord {
            name: name.into(),
            topic_id: id,
        });
        let partitions = (0..partitions).map(|index| {
            MetadataRecord::from(PartitionRecord {
                partition_id: index,
                topic_id: id,
                replicas: vec![1],
                isr: vec![1],
                leader: 1,
                ..PartitionRecord::default()
            })
        });
        let mut delta = MetadataDelta::default();
        for record in std::iter::once(topic).chain(partitions) {
            let offset = self.image.offset + 1;
            self.image
                .apply(&record, offset, &mut delta)
                .expect("a sound record");
        }
        self.coordinator
            .on_image(Arc::new(self.image.clone()), Some(&delta));
    }

    fn ask(&mut self, request: Request) -> Answer {
        self.next_token += 1;
        let token = Token(self.next_token);
        let actions = self.coordinator.on_request(self.now, token, request, 0);
        self.log.extend(actions.records);
        let mut answers = actions.answers;
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0).1
    }

    fn pass(&mut self, ms: i64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        let actions = self.coordinator.on_time(self.now);
        self.log.extend(actions.records);
    }

    fn send(&mut self, request: ConsumerGroupHeartbeatRequest) -> ConsumerGroupHeartbeatResponse {
        let beat = Beat {
            request: ConsumerGroupHeartbeatRequest {
                group_id: "g".into(),
                ..request
            },
            version: 1,
            client: client(),
            unique: "unique".into(),
        };
        match self.ask(Request::ConsumerHeartbeat(beat)) {
            Answer::ConsumerHeartbeat(answer) => answer,
            other => panic!("{other:?}"),
        }
    }

    fn join(&mut self, member: &mut Member) {
        self.subscribe(member, &["t"], None);
    }

    fn subscribe(
        &mut self,
        member: &mut Member,
        topics: &[&'static str],
        regex: Option<&'static str>,
    ) {
        let answer = self.send(ConsumerGroupHeartbeatRequest {
            subscribed_topic_names: Some(topics.iter().map(|name| Str::from(*name)).collect()),
            subscribed_topic_regex: regex.map(Str::from),
            ..joining(member)
        });
        member.hear(&answer);
    }

    /// A heartbeat that says what the member has.
    fn beat(&mut self, member: &mut Member) {
        let answer = self.send(reporting(member));
        member.hear(&answer);
    }

    /// Everybody heartbeats until nothing changes.
    fn settle(&mut self, members: &mut [&mut Member]) {
        for _ in 0..10 {
            self.pass(1_000);
            for member in members.iter_mut() {
                self.beat(member);
            }
        }
        assert_eq!(self.group().state().name(), "Stable");
        self.check_reload();
    }

    fn group(&self) -> &super::ConsumerGroup {
        match self.coordinator.groups().next() {
            Some((_, Group::Consumer(group))) => group,
            other => panic!("{other:?}"),
        }
    }

    /// Who replays the log knows the same.
    fn check_reload(&self) {
        let mut loaded = Coordinator::new(Settings::default());
        for record in &self.log {
            loaded
                .replay(Some(&record.key), record.value.as_ref())
                .expect("its own");
        }
        let Some((_, Group::Consumer(loaded))) = loaded.groups().next() else {
            panic!("no group was loaded");
        };
        let known = self.group();
        assert_eq!(loaded.members, known.members);
        assert_eq!(loaded.target, known.target);
        assert_eq!(loaded.resolved, known.resolved);
        assert_eq!(loaded.owners, known.owners);
        assert_eq!(loaded.static_members, known.static_members);
        let numbers = |group: &super::ConsumerGroup| {
            (
                group.epoch,
                group.metadata_hash,
                group.assignment_epoch,
                group.assigned_at,
            )
        };
        assert_eq!(numbers(loaded), numbers(known));
    }

    fn commit(&mut self, member: &Member, epoch: i32, partition: i32) -> ErrorCode {
        let request = OffsetCommitRequest {
            group_id: "g".into(),
            generation_id_or_member_epoch: epoch,
            member_id: member.id.clone(),
            group_instance_id: None,
            topics: vec![OffsetCommitRequestTopic {
                name: "t".into(),
                topic_id: Uuid([7; 16]),
                partitions: vec![OffsetCommitRequestPartition {
                    partition_index: partition,
                    committed_offset: 5,
                    ..Default::default()
                }],
            }],
            ..Default::default()
        };
        match self.ask(Request::Commit {
            request,
            version: 9,
        }) {
            Answer::Commit(answer) => {
                ErrorCode::from_code(answer.topics[0].partitions[0].error_code)
            }
            other => panic!("{other:?}"),
        }
    }

    fn fetch(&mut self, member: Option<&Member>, epoch: i32) -> ErrorCode {
        let request = Request::FetchOffsets {
            group: "g".into(),
            member: member.map(|member| member.id.clone()),
            member_epoch: epoch,
            topics: None,
        };
        match self.ask(request) {
            Answer::FetchedOffsets(answer) => ErrorCode::from_code(answer.error_code),
            other => panic!("{other:?}"),
        }
    }

    // --- members of the classic protocol ---

    fn classic_join(&mut self, id: &Str) -> Request {
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
            version: 9,
            client: client(),
            unique: "c-1".into(),
        })
    }

    /// A stable classic group of one that has partitions 0 and 1 of `t`.
    fn classic_group(&mut self) -> Str {
        let request = self.classic_join(&Str::EMPTY);
        let Answer::Join(refused) = self.ask(request) else {
            panic!("not joined");
        };
        let id = refused.member_id;
        let request = self.classic_join(&id);
        let token = Token(1_000);
        let actions = self.coordinator.on_request(self.now, token, request, 0);
        self.log.extend(actions.records);
        self.now.monotonic_ms += 3_000;
        let actions = self.coordinator.on_time(self.now);
        self.log.extend(actions.records);
        let [(_, Answer::Join(joined))] = &actions.answers[..] else {
            panic!("{:?}", actions.answers);
        };
        let assignment = Bytes::from_static(
            b"\0\0\0\0\0\x01\0\x01t\0\0\0\x02\0\0\0\0\0\0\0\x01\xff\xff\xff\xff",
        );
        let synced = self.ask(Request::Sync(SyncGroupRequest {
            group_id: "g".into(),
            generation_id: joined.generation_id,
            member_id: id.clone(),
            group_instance_id: None,
            assignments: vec![
                crate::protocol::messages::sync_group_request::SyncGroupRequestAssignment {
                    member_id: id.clone(),
                    assignment,
                },
            ],
            ..SyncGroupRequest::default()
        }));
        assert!(matches!(synced, Answer::Sync(synced) if synced.error_code == 0));
        id
    }

    fn classic_heartbeat(&mut self, id: &Str, generation: i32) -> ErrorCode {
        let answer = self.ask(Request::Heartbeat(HeartbeatRequest {
            group_id: "g".into(),
            generation_id: generation,
            member_id: id.clone(),
            group_instance_id: None,
        }));
        match answer {
            Answer::Heartbeat(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn joined(&mut self, id: &Str) -> JoinGroupResponse {
        let request = self.classic_join(id);
        match self.ask(request) {
            Answer::Join(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

fn client() -> Client {
    Client {
        id: "c".into(),
        host: "/127.0.0.1".into(),
    }
}

fn joining(member: &Member) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        member_id: member.id.clone(),
        instance_id: member.instance.clone(),
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(vec!["t".into()]),
        topic_partitions: Some(Vec::new()),
        ..Default::default()
    }
}

fn reporting(member: &Member) -> ConsumerGroupHeartbeatRequest {
    let owned = member
        .owned
        .iter()
        .map(|(topic_id, partitions)| TopicPartitions {
            topic_id: *topic_id,
            partitions: partitions.clone(),
        });
    ConsumerGroupHeartbeatRequest {
        member_id: member.id.clone(),
        instance_id: member.instance.clone(),
        member_epoch: member.epoch,
        topic_partitions: Some(owned.collect()),
        ..Default::default()
    }
}

/// A group of two that share four partitions.
fn pair() -> (World, Member, Member) {
    let mut world = World::with_topic(4);
    let (mut a, mut b) = (Member::new("a"), Member::new("b"));
    world.join(&mut a);
    world.pass(1_000);
    world.join(&mut b);
    world.settle(&mut [&mut a, &mut b]);
    (world, a, b)
}

#[test]
fn records_are_those_that_kafka_writes() {
    // As dumped from Apache Kafka 4.4, with its sizes and its hash.
    let mut world = World::new(Settings::default());
    let topic: Uuid = "I07WAHk1StyBxMlueEv1Nw".parse().unwrap();
    world.create("facts", topic, 2);
    world.now.wall_ms = 1_795_251_599_087;
    let beat = Beat {
        request: ConsumerGroupHeartbeatRequest {
            group_id: "facts-consumer".into(),
            member_id: "ew1Qf7rTSPi_QOjsXZgYLw".into(),
            rebalance_timeout_ms: 300_000,
            subscribed_topic_names: Some(vec!["facts".into()]),
            topic_partitions: Some(Vec::new()),
            ..Default::default()
        },
        version: 1,
        client: Client {
            id: "consumer-facts-consumer-2".into(),
            host: "/127.0.0.1".into(),
        },
        unique: Str::EMPTY,
    };
    world.ask(Request::ConsumerHeartbeat(beat));
    let sizes = |log: &[Record]| -> Vec<(i16, usize, Option<usize>)> {
        let size = |record: &Record| {
            let kind = i16::from_be_bytes([record.key[0], record.key[1]]);
            (
                kind,
                record.key.len(),
                record.value.as_ref().map(Bytes::len),
            )
        };
        log.iter().map(size).collect()
    };
    assert_eq!(
        sizes(&world.log),
        [
            (5, 42, Some(58)),
            (3, 18, Some(17)),
            (7, 42, Some(30)),
            (6, 18, Some(17)),
            (8, 42, Some(51)),
        ]
    );
    let group = world.group();
    assert_eq!(
        (group.epoch, group.metadata_hash),
        (2, 3_611_001_368_198_879_370)
    );
    world.log.clear();
    let leaving = Beat {
        request: ConsumerGroupHeartbeatRequest {
            group_id: "facts-consumer".into(),
            member_id: "ew1Qf7rTSPi_QOjsXZgYLw".into(),
            member_epoch: LEAVE_EPOCH,
            ..Default::default()
        },
        version: 1,
        client: Client::default(),
        unique: Str::EMPTY,
    };
    world.ask(Request::ConsumerHeartbeat(leaving));
    assert_eq!(
        sizes(&world.log),
        [
            (8, 42, None),
            (7, 42, None),
            (5, 42, None),
            (3, 18, Some(7)),
            (6, 18, Some(7)),
        ]
    );
}

#[test]
fn a_partition_is_given_when_its_owner_has_let_go() {
    let mut world = World::with_topic(4);
    let (mut a, mut b) = (Member::new("a"), Member::new("b"));
    world.join(&mut a);
    assert_eq!((a.epoch, a.partitions()), (2, vec![0, 1, 2, 3]));
    world.pass(1_000);
    world.join(&mut b);
    // All of its target is another's still.
    assert_eq!((b.epoch, b.partitions()), (3, vec![]));
    let before = a.clone();
    world.beat(&mut a);
    // It is to let go first, and stays where it is until it says that it has.
    assert_eq!((a.epoch, a.partitions().len()), (2, 2));
    world.beat(&mut b);
    assert_eq!(b.partitions(), Vec::<i32>::new());
    let mut slow = before;
    let answer = world.send(ConsumerGroupHeartbeatRequest {
        topic_partitions: None,
        ..reporting(&slow)
    });
    slow.hear(&answer);
    assert_eq!(slow.epoch, 2);
    world.beat(&mut a);
    assert_eq!((a.epoch, a.partitions().len()), (3, 2));
    world.beat(&mut b);
    assert_eq!((b.epoch, b.partitions().len()), (3, 2));
    assert_eq!(world.group().state().name(), "Stable");
    world.check_reload();
}

#[test]
fn targets_are_made_no_sooner_than_the_interval_lets_them() {
    let mut world = World::with_topic(4);
    let (mut a, mut b) = (Member::new("a"), Member::new("b"));
    world.join(&mut a);
    world.join(&mut b);
    assert_eq!((b.epoch, world.group().state().name()), (2, "Assigning"));
    world.pass(999);
    world.beat(&mut b);
    assert_eq!(b.epoch, 2);
    world.pass(1);
    world.beat(&mut b);
    assert_eq!((b.epoch, world.group().state().name()), (3, "Reconciling"));
}

#[test]
fn only_a_member_at_its_epoch_speaks_for_itself() {
    let (mut world, a, _) = pair();
    let mut told = |epoch, owned: &[i32]| {
        let topic = TopicPartitions {
            topic_id: Uuid([7; 16]),
            partitions: owned.to_vec(),
        };
        let answer = world.send(ConsumerGroupHeartbeatRequest {
            member_epoch: epoch,
            topic_partitions: Some(vec![topic]),
            ..reporting(&a)
        });
        ErrorCode::from_code(answer.error_code)
    };
    let owned = a.partitions();
    assert_eq!(told(a.epoch, &owned), ErrorCode::None);
    assert_eq!(told(a.epoch + 1, &owned), ErrorCode::FencedMemberEpoch);
    // It may not have heard of its epoch, if it has nothing that is not its own.
    assert_eq!(told(a.epoch - 1, &owned), ErrorCode::None);
    assert_eq!(
        told(a.epoch - 1, &[0, 1, 2, 3]),
        ErrorCode::FencedMemberEpoch
    );
    let stranger = Member {
        epoch: 1,
        ..Member::new("x")
    };
    let answer = world.send(reporting(&stranger));
    assert_eq!(answer.error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(
        answer.error_message.as_deref(),
        Some("Member x is not a member of group g.")
    );
}

#[test]
fn offsets_are_a_members_at_its_epoch_or_since_it_has_its_partition() {
    let (mut world, a, b) = pair();
    let (own, others) = (a.partitions()[0], b.partitions()[0]);
    assert_eq!(world.commit(&a, a.epoch, own), ErrorCode::None);
    // It got this one at the epoch before.
    assert_eq!(world.commit(&a, a.epoch - 1, own), ErrorCode::None);
    assert_eq!(
        world.commit(&a, a.epoch - 1, others),
        ErrorCode::StaleMemberEpoch
    );
    assert_eq!(
        world.commit(&b, b.epoch - 1, others),
        ErrorCode::StaleMemberEpoch
    );
    assert_eq!(
        world.commit(&a, a.epoch + 1, own),
        ErrorCode::StaleMemberEpoch
    );
    assert_eq!(
        world.commit(&Member::new("x"), 1, own),
        ErrorCode::UnknownMemberId
    );
    assert_eq!(world.fetch(Some(&a), a.epoch), ErrorCode::None);
    assert_eq!(
        world.fetch(Some(&a), a.epoch - 1),
        ErrorCode::StaleMemberEpoch
    );
    assert_eq!(world.fetch(None, -1), ErrorCode::None);
}

#[test]
fn who_is_silent_or_keeps_what_it_is_to_give_up_is_taken_out() {
    let (mut world, mut a, mut b) = pair();
    for _ in 0..5 {
        world.pass(10_000);
        world.beat(&mut a);
    }
    assert_eq!(world.group().members().count(), 1);
    world.settle(&mut [&mut a]);
    assert_eq!(a.partitions().len(), 4);
    b.epoch = 0;
    b.owned.clear();
    world.join(&mut b);
    for _ in 0..7 {
        world.pass(10_000);
        // It never says that it has let go.
        let answer = world.send(ConsumerGroupHeartbeatRequest {
            topic_partitions: None,
            ..reporting(&a)
        });
        let is_fenced = answer.error_code == ErrorCode::UnknownMemberId.code();
        assert!(is_fenced || answer.error_code == 0);
        world.beat(&mut b);
    }
    assert_eq!(world.group().members().count(), 1);
    assert_eq!(b.partitions().len(), 4);
    world.check_reload();
}

#[test]
fn a_static_member_that_comes_back_has_what_it_had() {
    let mut world = World::with_topic(4);
    let (mut a, mut b) = (Member::new("a"), Member::new("b"));
    a.instance = Some("i".into());
    world.join(&mut a);
    world.pass(1_000);
    world.join(&mut b);
    world.settle(&mut [&mut a, &mut b]);
    let had = a.partitions();
    let mut again = Member {
        id: "a2".into(),
        epoch: 0,
        owned: Vec::new(),
        ..a.clone()
    };
    let refused = world.send(joining(&again));
    assert_eq!(refused.error_code, ErrorCode::UnreleasedInstanceId.code());
    let left = world.send(ConsumerGroupHeartbeatRequest {
        member_id: a.id.clone(),
        instance_id: a.instance.clone(),
        member_epoch: LEAVE_STATIC_EPOCH,
        ..Default::default()
    });
    assert_eq!(
        (left.error_code, left.member_epoch),
        (0, LEAVE_STATIC_EPOCH)
    );
    let epoch = world.group().epoch();
    world.join(&mut again);
    assert_eq!((again.partitions(), world.group().epoch()), (had, epoch));
    let fenced = world.send(reporting(&a));
    assert_eq!(fenced.error_code, ErrorCode::FencedInstanceId.code());
    world.settle(&mut [&mut again, &mut b]);
}

#[test]
fn topics_come_by_pattern_and_with_their_partitions() {
    let mut world = World::with_topic(1);
    let mut a = Member::new("a");
    world.subscribe(&mut a, &[], Some("t.*"));
    assert!(a.partitions().is_empty());
    world.settle(&mut [&mut a]);
    assert_eq!(a.partitions().len(), 1);
    // Not looked up again so soon.
    world.create("t-2", Uuid([8; 16]), 2);
    world.settle(&mut [&mut a]);
    world.pass(5_000);
    world.settle(&mut [&mut a]);
    assert_eq!(a.partitions().len(), 3);
    let refused = world.send(ConsumerGroupHeartbeatRequest {
        subscribed_topic_regex: Some("(".into()),
        ..reporting(&a)
    });
    assert_eq!(
        refused.error_code,
        ErrorCode::InvalidRegularExpression.code()
    );
    world.check_reload();
}

#[test]
fn what_a_member_no_longer_wants_it_gives_up_at_once() {
    let mut world = World::with_topic(2);
    world.create("u", Uuid([8; 16]), 2);
    let mut a = Member::new("a");
    world.subscribe(&mut a, &["t", "u"], None);
    assert_eq!(a.partitions().len(), 4);
    let answer = world.send(ConsumerGroupHeartbeatRequest {
        subscribed_topic_names: Some(vec!["u".into()]),
        topic_partitions: None,
        ..reporting(&a)
    });
    a.hear(&answer);
    assert_eq!(a.owned, [(Uuid([8; 16]), vec![0, 1])]);
    world.settle(&mut [&mut a]);
}

#[test]
fn a_group_is_as_large_as_it_may_be() {
    let mut settings = Settings::default();
    settings.consumer.group_size_max = 1;
    let mut world = World::new(settings);
    world.create("t", Uuid([7; 16]), 1);
    world.join(&mut Member::new("a"));
    let refused = world.send(joining(&Member::new("b")));
    assert_eq!(refused.error_code, ErrorCode::GroupMaxSizeReached.code());
    assert_eq!(world.group().members().count(), 1);
}

#[test]
fn members_of_both_protocols_share_a_group_while_it_moves() {
    let mut world = World::with_topic(2);
    let old = world.classic_group();
    let mut new = Member::new("n");
    world.join(&mut new);
    assert_eq!(
        (world.group().members().count(), new.partitions().len()),
        (2, 0)
    );
    // The old member hears of it, and joins with what it has left.
    assert_eq!(
        world.classic_heartbeat(&old, 1),
        ErrorCode::RebalanceInProgress
    );
    let joined = world.joined(&old);
    assert_eq!((joined.error_code, joined.generation_id), (0, 2));
    let sync = SyncGroupRequest {
        group_id: "g".into(),
        generation_id: 2,
        member_id: old.clone(),
        group_instance_id: None,
        ..SyncGroupRequest::default()
    };
    let Answer::Sync(synced) = world.ask(Request::Sync(sync)) else {
        panic!("not synced");
    };
    assert_eq!(synced.error_code, 0);
    world.pass(1_000);
    world.beat(&mut new);
    assert_eq!(new.partitions().len(), 1);
    assert_eq!(world.classic_heartbeat(&old, 2), ErrorCode::None);
    world.check_reload();
    // The new one goes: the old one is alone with its protocol, and the group its own again.
    let left = world.send(ConsumerGroupHeartbeatRequest {
        member_id: new.id.clone(),
        member_epoch: LEAVE_EPOCH,
        ..Default::default()
    });
    assert_eq!(left.error_code, 0);
    let groups: Vec<&'static str> = world
        .coordinator
        .groups()
        .map(|(_, group)| group.type_name())
        .collect();
    assert_eq!(groups, ["classic"]);
    assert_eq!(
        world.classic_heartbeat(&old, 2),
        ErrorCode::RebalanceInProgress
    );
}

#[test]
fn a_migration_that_is_not_allowed_leaves_the_group_as_it_was() {
    let mut settings = Settings::default();
    settings.consumer.may_upgrade = false;
    let mut world = World::new(settings);
    world.create("t", Uuid([7; 16]), 2);
    let old = world.classic_group();
    let written = world.log.len();
    let refused = world.send(joining(&Member::new("n")));
    assert_eq!(refused.error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(world.log.len(), written);
    assert_eq!(world.classic_heartbeat(&old, 1), ErrorCode::None);
}

#[test]
fn what_a_request_lacks_is_said() {
    let mut world = World::with_topic(1);
    let joining = joining(&Member::new("a"));
    let cases = [
        (
            ConsumerGroupHeartbeatRequest {
                member_id: Str::EMPTY,
                ..joining.clone()
            },
            "MemberId can't be empty.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                rebalance_timeout_ms: -1,
                ..joining.clone()
            },
            "RebalanceTimeoutMs must be provided in first request.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                topic_partitions: None,
                ..joining.clone()
            },
            "TopicPartitions must be empty when (re-)joining.",
        ),
        (
            ConsumerGroupHeartbeatRequest {
                member_epoch: -3,
                ..joining.clone()
            },
            "MemberEpoch is invalid.",
        ),
    ];
    for (request, message) in cases {
        let answer = world.send(request);
        assert_eq!(answer.error_code, ErrorCode::InvalidRequest.code());
        assert_eq!(answer.error_message.as_deref(), Some(message));
    }
    let answer = world.send(ConsumerGroupHeartbeatRequest {
        server_assignor: Some("sticky".into()),
        ..joining
    });
    assert_eq!(answer.error_code, ErrorCode::UnsupportedAssignor.code());
}

#[test]
fn subscriptions_are_bounded_over_all_groups() {
    let settings = Settings {
        members_bytes_max: 600,
        ..Settings::default()
    };
    let mut world = World::new(settings);
    world.create("t", Uuid([7; 16]), 1);
    let mut member = Member::new("a");
    world.join(&mut member);
    assert_eq!(world.coordinator.member_bytes(), 512 + 1);
    let refused = world.send(joining(&Member::new("b")));
    assert_eq!(refused.error_code, ErrorCode::GroupMaxSizeReached.code());
    assert!(refused.error_message.is_some());
    let mut longer = joining(&Member::new("a"));
    longer.subscribed_topic_names = Some(vec![Str::from("x".repeat(100))]);
    let refused = world.send(longer);
    assert_eq!(refused.error_code, ErrorCode::GroupMaxSizeReached.code());
    // It is a member as before.
    assert_eq!(world.send(joining(&Member::new("a"))).error_code, 0);
    assert_eq!(world.coordinator.member_bytes(), 512 + 1);
}
