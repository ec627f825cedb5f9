//! One group's life in virtual time while its members move between the classic and the consumer protocol (KIP-848):
//! they join, stall, crash, leave and come back, some under names, some by pattern; requests are delayed, doubled and
//! lost; a topic appears; the coordinator's process ends at any point with what it had not made durable. Then all calms
//! down, and everyone must have what it is to have. Everything random comes from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use coati::controller::{MetadataDelta, MetadataImage};
use coati::coordinator::{
    Actions, Answer, Beat, Client, Coordinator, Group, Join, Now, Record, Request, Sabotage,
    Settings, Token,
};
use coati::io::entropy::Random;
use coati::protocol::messages::consumer_group_heartbeat_request::{
    ConsumerGroupHeartbeatRequest, TopicPartitions,
};
use coati::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use coati::protocol::messages::leave_group_request::MemberIdentity;
use coati::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use coati::protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use coati::protocol::messages::{
    ConsumerGroupHeartbeatResponse, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, OffsetCommitRequest, SyncGroupRequest,
};
use coati::protocol::records::metadata::{MetadataRecord, PartitionRecord, TopicRecord};
use coati::protocol::{ErrorCode, Str, Uuid};

const GROUP: &str = "g";
const MEMBERS: usize = 4;
const SESSION_MS: i64 = 6_000;
const REBALANCE_MS: i64 = 8_000;
const HEARTBEAT_MS: i64 = 1_000;
/// A client that has no answer for so long asks again.
const PATIENCE_MS: i64 = 2_000;
/// How long things go wrong, and how long it may take until all is well.
const TROUBLE_MS: i64 = 60_000;
const CALM_MS: i64 = 90_000;

/// The topic of everybody, and one that appears, which only those want who subscribe by pattern.
const TOPIC: (&str, u8, i32) = ("t", 1, 5);
const LATE_TOPIC: (&str, u8, i32) = ("t-late", 2, 2);

enum Event {
    Deliver {
        client: usize,
        number: u64,
        request: Request,
    },
    Return {
        client: usize,
        number: u64,
        answer: Result<Answer, ErrorCode>,
    },
    Step {
        client: usize,
        turn: u64,
    },
    Durable {
        life: u64,
        batches: usize,
    },
    Clock {
        life: u64,
    },
    Trouble,
    Up {
        life: u64,
    },
    Topic,
}

struct Held {
    batches: usize,
    answers: Vec<(Token, Answer)>,
}

pub struct World {
    random: Random,
    settings: Settings,
    now_ms: i64,
    events: BTreeMap<(i64, u64), Event>,
    next_event: u64,
    image: MetadataImage,
    clients: Vec<Member>,
    coordinator: Option<Coordinator>,
    life: u64,
    log: Vec<Vec<Record>>,
    durable: usize,
    durable_at: i64,
    clock_at: i64,
    held: Vec<Held>,
    waiting: BTreeMap<Token, (usize, u64)>,
    next_token: u64,
    next_unique: u64,
    arrives: Vec<i64>,
    trace: Vec<String>,
}

/// A partition by its topic's number.
type Partition = (u8, i32);

/// A client and what it believes.
struct Member {
    instance: Option<Str>,
    by_pattern: bool,
    is_classic: bool,
    is_up: bool,
    stalled_until: i64,
    id: Str,
    /// Its member epoch, or generation.
    epoch: i32,
    stage: Stage,
    to_assign: Vec<Str>,
    claims: BTreeSet<Partition>,
    /// Its next heartbeat says all, for the last was lost or told it of another assignment.
    says_all: bool,
    has_committed: bool,
    /// What it waits for an answer to, and when it said so as a sign of life.
    asked: Option<(u64, i64)>,
    next_number: u64,
    /// When it said the last sign of life that was taken.
    lives_since: i64,
    /// When it said the last one whose answer told it to give nothing up: the coordinator has waited for it since
    /// then at the earliest.
    owes_nothing_since: i64,
    turn: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    Join,
    Sync,
    Stable,
    Fenced,
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random::new(seed);
        let clients = (0..MEMBERS).map(|number| Member {
            instance: random
                .chance(1, 3)
                .then(|| Str::from(format!("static-{number}"))),
            by_pattern: random.chance(1, 3),
            is_classic: random.chance(1, 3),
            is_up: true,
            stalled_until: 0,
            id: Str::EMPTY,
            epoch: 0,
            stage: Stage::Join,
            to_assign: Vec::new(),
            claims: BTreeSet::new(),
            says_all: true,
            has_committed: false,
            asked: None,
            next_number: 0,
            lives_since: 0,
            owes_nothing_since: 0,
            turn: 0,
        });
        let clients = clients.collect();
        let mut settings = Settings {
            initial_rebalance_delay_ms: random.below(2_000) as i64,
            sabotage,
            ..Settings::default()
        };
        let session = &mut settings.consumer.session_timeout_ms;
        (session.default, session.min) = (SESSION_MS as i32, 1);
        settings.consumer.assignment_interval_ms.default = random.below(2_000) as i32;
        let mut world = World {
            random,
            settings,
            now_ms: 0,
            events: BTreeMap::new(),
            next_event: 0,
            image: MetadataImage::new(Str::EMPTY),
            clients,
            coordinator: None,
            life: 0,
            log: Vec::new(),
            durable: 0,
            durable_at: 0,
            clock_at: i64::MAX,
            held: Vec::new(),
            waiting: BTreeMap::new(),
            next_token: 0,
            next_unique: 0,
            arrives: vec![0; MEMBERS],
            trace: Vec::new(),
        };
        world.create(TOPIC);
        world.at(0, Event::Up { life: 0 });
        for client in 0..MEMBERS {
            world.forget(client);
            let after = world.random.below(5_000) as i64;
            let turn = world.clients[client].turn;
            world.at(after, Event::Step { client, turn });
        }
        world.at(3_000, Event::Trouble);
        let late = world.random.below(TROUBLE_MS as u64) as i64;
        world.at(late, Event::Topic);
        world
    }

    pub fn trace(&self) -> &[String] {
        &self.trace
    }

    pub fn run(&mut self) -> Result<(), String> {
        while let Some(((time, _), event)) = self.events.pop_first() {
            if time > TROUBLE_MS + CALM_MS {
                break;
            }
            self.now_ms = time;
            self.happens(event)?;
        }
        self.check_agreement()
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ms: self.now_ms,
            wall_ms: 1_700_000_000_000 + self.now_ms,
        }
    }

    fn is_calm(&self) -> bool {
        self.now_ms >= TROUBLE_MS
    }

    fn at(&mut self, after_ms: i64, event: Event) {
        self.next_event += 1;
        self.events
            .insert((self.now_ms + after_ms, self.next_event), event);
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        self.trace.push(format!("{:>6} {}", self.now_ms, text()));
    }

    fn happens(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Deliver {
                client,
                number,
                request,
            } => self.deliver(client, number, request),
            Event::Return {
                client,
                number,
                answer,
            } => self.hear(client, number, answer),
            Event::Step { client, turn } => {
                if self.clients[client].turn == turn {
                    self.step(client);
                }
                Ok(())
            }
            Event::Durable { life, batches } if life == self.life => {
                self.durable = self.durable.max(batches);
                self.release();
                Ok(())
            }
            Event::Clock { life } if life == self.life => {
                let now = self.now();
                self.clock_at = i64::MAX;
                match &mut self.coordinator {
                    Some(coordinator) => {
                        let actions = coordinator.on_time(now);
                        self.perform(actions)
                    }
                    None => Ok(()),
                }
            }
            Event::Up { life } if life == self.life => self.load(),
            Event::Trouble => {
                self.trouble();
                Ok(())
            }
            Event::Topic => {
                self.create(LATE_TOPIC);
                Ok(())
            }
            Event::Durable { .. } | Event::Clock { .. } | Event::Up { .. } => Ok(()),
        }
    }

    fn create(&mut self, (name, number, partitions): (&'static str, u8, i32)) {
        let topic = MetadataRecord::from(TopicRecord {
            name: name.into(),
            topic_id: Uuid([number; 16]),
        });
        let partitions = (0..partitions).map(|index| {
            MetadataRecord::from(PartitionRecord {
                partition_id: index,
                topic_id: Uuid([number; 16]),
                replicas: vec![1],
                isr: vec![1],
                leader: 1,
                ..PartitionRecord::default()
            })
        });
        let mut delta = MetadataDelta::default();
        for record in std::iter::once(topic).chain(partitions) {
            let offset = self.image.offset + 1;
            let applied = self.image.apply(&record, offset, &mut delta);
            applied.expect("a sound record");
        }
        if let Some(coordinator) = &mut self.coordinator {
            coordinator.on_image(Arc::new(self.image.clone()), Some(&delta));
        }
        self.note(|| format!("topic {name} is there"));
    }

    // --- the coordinator's side ---

    fn load(&mut self) -> Result<(), String> {
        let mut coordinator = self.replayed()?;
        let actions = coordinator.on_loaded(self.now());
        self.coordinator = Some(coordinator);
        self.note(|| "the coordinator is up".into());
        self.perform(actions)
    }

    fn replayed(&self) -> Result<Coordinator, String> {
        let mut coordinator = Coordinator::new(self.settings.clone());
        coordinator.on_image(Arc::new(self.image.clone()), None);
        for record in self.log.iter().flatten() {
            let replayed = coordinator.replay(Some(&record.key), record.value.as_ref());
            replayed.map_err(|error| format!("a record of its own: {error}"))?;
        }
        Ok(coordinator)
    }

    fn deliver(&mut self, client: usize, number: u64, mut request: Request) -> Result<(), String> {
        let now = self.now();
        self.next_unique += 1;
        let unique = Str::from(self.next_unique.to_string());
        match &mut request {
            Request::Join(join) => join.unique = unique,
            Request::ConsumerHeartbeat(beat) => beat.unique = unique,
            _ => {}
        }
        let token = Token(self.next_token);
        self.next_token += 1;
        let Some(coordinator) = &mut self.coordinator else {
            self.send_back(client, number, Err(ErrorCode::NotCoordinator));
            return Ok(());
        };
        let is_current = match &request {
            Request::Commit { request, .. } => may_commit(coordinator, request),
            Request::ConsumerHeartbeat(beat) => may_beat(coordinator, &beat.request),
            _ => true,
        };
        let said = match &request {
            Request::ConsumerHeartbeat(beat) => {
                let topics = beat.request.topic_partitions.as_ref();
                let owned = topics.map(|topics| topics.iter().map(|one| &one.partitions).collect());
                Some((beat.request.member_epoch, owned.unwrap_or(vec![])))
            }
            _ => None,
        };
        let said = said.map(|said| format!("client {client} says {said:?}"));
        let actions = coordinator.on_request(now, token, request, 0);
        self.trace
            .extend(said.map(|said| format!("{:>6} {said}", self.now_ms)));
        let took = actions.answers.iter().any(|(_, answer)| was_taken(answer));
        if took && !is_current {
            return Err(format!("a fenced member was heard that {client} had been"));
        }
        self.waiting.insert(token, (client, number));
        self.perform(actions)
    }

    fn perform(&mut self, actions: Actions) -> Result<(), String> {
        if !actions.records.is_empty() {
            self.log.push(actions.records);
            let takes = 1 + self.random.below(20) as i64;
            self.durable_at = self.durable_at.max(self.now_ms + takes);
            let (life, batches) = (self.life, self.log.len());
            let after = self.durable_at - self.now_ms;
            self.at(after, Event::Durable { life, batches });
        }
        self.held.push(Held {
            batches: self.log.len(),
            answers: actions.answers,
        });
        self.release();
        let due = self.coordinator.as_ref().and_then(Coordinator::next_due);
        if let Some(due) = due
            && due < self.clock_at
        {
            let life = self.life;
            self.clock_at = due;
            self.at((due - self.now_ms).max(0), Event::Clock { life });
        }
        self.check_owners()?;
        self.check_reload()
    }

    fn release(&mut self) {
        while self.held.first().is_some_and(|h| h.batches <= self.durable) {
            for (token, answer) in self.held.remove(0).answers {
                let (client, number) = self.waiting.remove(&token).expect("it was asked");
                self.send_back(client, number, Ok(answer));
            }
        }
    }

    fn send_back(&mut self, client: usize, number: u64, answer: Result<Answer, ErrorCode>) {
        if !self.is_calm() && self.random.chance(1, 20) {
            return;
        }
        let after = self.random.below(100) as i64;
        let event = Event::Return {
            client,
            number,
            answer,
        };
        self.at(after, event);
    }

    fn crash(&mut self) {
        let lost = self.log.len() - self.durable;
        let kept = self.durable + self.random.below(lost as u64 + 1) as usize;
        self.log.truncate(kept);
        self.durable = kept;
        self.coordinator = None;
        self.held.clear();
        self.waiting.clear();
        self.clock_at = i64::MAX;
        self.life += 1;
        let (life, after) = (self.life, self.random.below(3_000) as i64);
        self.note(|| format!("the coordinator crashes, {lost} batches behind"));
        self.at(after, Event::Up { life });
    }

    // --- the clients' side ---

    fn send(&mut self, client: usize, request: Request) {
        let member = &mut self.clients[client];
        let number = member.next_number;
        member.next_number += 1;
        let sign = match request {
            Request::Commit { .. } => member.lives_since,
            _ => self.now_ms,
        };
        member.asked = Some((number, sign));
        let patience = match request {
            Request::Join(_) => REBALANCE_MS + PATIENCE_MS,
            _ => PATIENCE_MS,
        };
        self.wake_after(client, patience);
        if !self.is_calm() && self.random.chance(1, 20) {
            return;
        }
        let usual = self.random.below(100) as i64;
        let delay = match !self.is_calm() && self.random.chance(1, 20) {
            true => self.random.below(10_000) as i64,
            false => usual,
        };
        let arrives = self.arrives[client].max(self.now_ms + delay);
        self.arrives[client] = arrives;
        let copies = 1 + u64::from(!self.is_calm() && self.random.chance(1, 20));
        for copy in 0..copies {
            let event = Event::Deliver {
                client,
                // A copy is answered to nobody: who asks again asks with all that it has to say.
                number: if copy == 0 { number } else { u64::MAX },
                request: request.clone(),
            };
            self.at(arrives - self.now_ms, event);
        }
    }

    fn wake_after(&mut self, client: usize, after_ms: i64) {
        let member = &mut self.clients[client];
        member.turn += 1;
        let turn = member.turn;
        self.at(after_ms, Event::Step { client, turn });
    }

    fn step(&mut self, client: usize) {
        let member = &mut self.clients[client];
        if !member.is_up {
            return;
        }
        if member.stage == Stage::Fenced {
            return self.restart(client);
        }
        if member.stalled_until > self.now_ms {
            let after = member.stalled_until - self.now_ms;
            return self.wake_after(client, after);
        }
        if member.asked.take().is_some() {
            // No answer came: whatever it said may be lost.
            member.says_all = true;
        }
        // Commits are no signs of life: a heartbeat is between them.
        let may_commit =
            member.stage == Stage::Stable && !std::mem::take(&mut member.has_committed);
        let commits = may_commit && self.random.chance(1, 3);
        self.clients[client].has_committed = commits;
        let member = &self.clients[client];
        let request = match member.stage {
            _ if commits => self.commit(client),
            _ if !member.is_classic => self.beat(client),
            Stage::Join => self.join(client),
            Stage::Sync => self.sync(client),
            Stage::Stable => Request::Heartbeat(HeartbeatRequest {
                group_id: GROUP.into(),
                generation_id: member.epoch,
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
            }),
            Stage::Fenced => return,
        };
        self.send(client, request);
    }

    fn beat(&self, client: usize) -> Request {
        let member = &self.clients[client];
        let joins = member.stage == Stage::Join;
        let says_all = member.says_all || joins;
        let mut request = ConsumerGroupHeartbeatRequest {
            group_id: GROUP.into(),
            member_id: member.id.clone(),
            member_epoch: match joins {
                true => 0,
                false => member.epoch,
            },
            instance_id: member.instance.clone(),
            ..ConsumerGroupHeartbeatRequest::default()
        };
        if says_all {
            request.rebalance_timeout_ms = REBALANCE_MS as i32;
            request.topic_partitions = Some(by_topic(&member.claims));
            match member.by_pattern {
                true => {
                    request.subscribed_topic_names = Some(Vec::new());
                    request.subscribed_topic_regex = Some("t.*".into());
                }
                false => request.subscribed_topic_names = Some(vec![TOPIC.0.into()]),
            }
        }
        Request::ConsumerHeartbeat(Beat {
            request,
            version: 1,
            client: self.who(client),
            unique: Str::EMPTY,
        })
    }

    fn who(&self, client: usize) -> Client {
        Client {
            id: Str::from(format!("client-{client}")),
            host: "/10.0.0.1".into(),
        }
    }

    fn join(&self, client: usize) -> Request {
        let member = &self.clients[client];
        Request::Join(Join {
            request: JoinGroupRequest {
                group_id: GROUP.into(),
                session_timeout_ms: SESSION_MS as i32,
                rebalance_timeout_ms: REBALANCE_MS as i32,
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
                protocol_type: "consumer".into(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff"),
                }],
                ..JoinGroupRequest::default()
            },
            version: 9,
            client: self.who(client),
            unique: Str::EMPTY,
        })
    }

    fn sync(&self, client: usize) -> Request {
        let member = &self.clients[client];
        let count = member.to_assign.len() as i32;
        let assignments = member.to_assign.iter().zip(0..).map(|(id, number)| {
            let partitions: Vec<i32> = (0..TOPIC.2).filter(|p| p % count == number).collect();
            SyncGroupRequestAssignment {
                member_id: id.clone(),
                assignment: embedded(&partitions),
            }
        });
        Request::Sync(SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: member.epoch,
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            assignments: assignments.collect(),
            ..SyncGroupRequest::default()
        })
    }

    fn commit(&self, client: usize) -> Request {
        let member = &self.clients[client];
        let topics = by_topic(&member.claims).into_iter().map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|index| OffsetCommitRequestPartition {
                    partition_index: *index,
                    committed_offset: self.now_ms,
                    ..OffsetCommitRequestPartition::default()
                });
            OffsetCommitRequestTopic {
                name: name_of(topic.topic_id),
                topic_id: topic.topic_id,
                partitions: partitions.collect(),
            }
        });
        Request::Commit {
            request: OffsetCommitRequest {
                group_id: GROUP.into(),
                generation_id_or_member_epoch: member.epoch,
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
                topics: topics.collect(),
                ..OffsetCommitRequest::default()
            },
            version: 10,
        }
    }

    fn hear(
        &mut self,
        client: usize,
        number: u64,
        answer: Result<Answer, ErrorCode>,
    ) -> Result<(), String> {
        let member = &mut self.clients[client];
        let Some((asked, sign)) = member.asked else {
            return Ok(());
        };
        if !member.is_up || asked != number {
            return Ok(());
        }
        member.asked = None;
        if answer.is_ok() {
            member.lives_since = sign;
        }
        match answer {
            Err(_) => {
                member.says_all = true;
                self.wake_after(client, 100);
            }
            Ok(Answer::ConsumerHeartbeat(answer)) => return self.beaten(client, &answer),
            Ok(Answer::Join(joined)) => self.joined(client, joined),
            Ok(Answer::Sync(synced)) => {
                let error = ErrorCode::from_code(synced.error_code);
                if error == ErrorCode::None {
                    return self.synced(client, &synced.assignment);
                }
                self.failed(client, error);
            }
            Ok(Answer::Heartbeat(error)) => self.failed(client, error),
            Ok(Answer::Commit(answer)) => {
                let partitions = answer.topics.iter().flat_map(|t| &t.partitions);
                let error = partitions.map(|p| p.error_code).max().unwrap_or(0);
                match ErrorCode::from_code(error) {
                    // Told by the next heartbeat.
                    ErrorCode::StaleMemberEpoch | ErrorCode::GroupIdNotFound => {
                        self.wake_after(client, 100);
                    }
                    error => self.failed(client, error),
                }
            }
            Ok(_) => {}
        }
        Ok(())
    }

    fn beaten(
        &mut self,
        client: usize,
        answer: &ConsumerGroupHeartbeatResponse,
    ) -> Result<(), String> {
        let error = ErrorCode::from_code(answer.error_code);
        if error != ErrorCode::None {
            self.failed(client, error);
            return Ok(());
        }
        let member = &mut self.clients[client];
        member.epoch = answer.member_epoch;
        member.stage = Stage::Stable;
        member.says_all = false;
        let mut gives_up = false;
        if let Some(assignment) = &answer.assignment {
            let topics = assignment.topic_partitions.iter();
            let claims: BTreeSet<Partition> = topics
                .flat_map(|topic| {
                    topic
                        .partitions
                        .iter()
                        .map(|index| (topic.topic_id.0[0], *index))
                })
                .collect();
            member.says_all = claims != member.claims;
            gives_up = !member.claims.is_subset(&claims);
            self.claim(client, claims)?;
        }
        if !gives_up {
            self.clients[client].owes_nothing_since = self.clients[client].lives_since;
        }
        let soon = match self.clients[client].says_all {
            true => 10,
            false => HEARTBEAT_MS,
        };
        self.wake_after(client, soon);
        Ok(())
    }

    /// What a client does about an error, or about none.
    fn failed(&mut self, client: usize, error: ErrorCode) {
        let member = &mut self.clients[client];
        let mut soon = 10;
        match error {
            ErrorCode::None => return self.wake_after(client, HEARTBEAT_MS),
            ErrorCode::FencedInstanceId => {
                member.stage = Stage::Fenced;
                member.claims.clear();
                soon = PATIENCE_MS;
            }
            ErrorCode::UnreleasedInstanceId | ErrorCode::InconsistentGroupProtocol => soon = 500,
            ErrorCode::UnknownMemberId
            | ErrorCode::FencedMemberEpoch
            | ErrorCode::GroupIdNotFound => {
                if member.is_classic {
                    member.id = Str::EMPTY;
                }
                member.stage = Stage::Join;
                member.claims.clear();
            }
            ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress => {
                // Eager: what it has is given up before it joins.
                member.stage = Stage::Join;
                member.claims.clear();
            }
            error => panic!("a client does not expect {error:?}"),
        }
        self.note(|| format!("client {client} hears {}", error.name()));
        self.wake_after(client, soon);
    }

    fn joined(&mut self, client: usize, joined: JoinGroupResponse) {
        let error = ErrorCode::from_code(joined.error_code);
        let member = &mut self.clients[client];
        match error {
            ErrorCode::None => {}
            ErrorCode::MemberIdRequired => {
                member.id = joined.member_id;
                return self.wake_after(client, 1);
            }
            error => return self.failed(client, error),
        }
        member.id = joined.member_id.clone();
        member.epoch = joined.generation_id;
        member.stage = Stage::Sync;
        member.to_assign = match joined.skip_assignment {
            true => Vec::new(),
            false => joined.members.iter().map(|m| m.member_id.clone()).collect(),
        };
        self.wake_after(client, 1);
    }

    fn synced(&mut self, client: usize, assignment: &Bytes) -> Result<(), String> {
        let claims = read_embedded(assignment)
            .into_iter()
            .map(|index| (TOPIC.1, index));
        self.clients[client].stage = Stage::Stable;
        self.claim(client, claims.collect())?;
        self.wake_after(client, HEARTBEAT_MS);
        Ok(())
    }

    /// A client has these now. Nobody may still have one of them who is at work, as far as it knows.
    fn claim(&mut self, client: usize, claims: BTreeSet<Partition>) -> Result<(), String> {
        self.note(|| format!("client {client} has {claims:?}"));
        for (number, other) in self.clients.iter().enumerate() {
            let is_at_work = other.is_up
                && other.stage == Stage::Stable
                && other.stalled_until < self.now_ms
                && self.now_ms < other.lives_since + SESSION_MS
                && self.now_ms < other.owes_nothing_since + REBALANCE_MS;
            // An eager leader of a classic group assigns while others have not heard of it.
            if number == client || !is_at_work || other.is_classic {
                continue;
            }
            if let Some(partition) = other.claims.intersection(&claims).next() {
                return Err(format!(
                    "clients {number} and {client} both have {partition:?} at {}",
                    self.now_ms
                ));
            }
        }
        self.clients[client].claims = claims;
        Ok(())
    }

    // --- trouble ---

    fn trouble(&mut self) {
        if self.is_calm() {
            for client in 0..MEMBERS {
                if !self.clients[client].is_up {
                    self.restart(client);
                }
            }
            return;
        }
        let client = self.random.below(MEMBERS as u64) as usize;
        match self.random.below(6) {
            0 => self.crash(),
            1 => {
                let until = self.now_ms + self.random.below(15_000) as i64;
                self.note(|| format!("client {client} stalls"));
                self.clients[client].stalled_until = until;
            }
            2 => {
                self.note(|| format!("client {client} crashes"));
                self.clients[client].is_up = false;
                self.clients[client].claims.clear();
            }
            3 if self.clients[client].is_up => self.leave(client),
            _ => self.restart(client),
        }
        let after = 200 + self.random.below(6_000) as i64;
        self.at(after.min((TROUBLE_MS - self.now_ms).max(0)), Event::Trouble);
    }

    fn leave(&mut self, client: usize) {
        let member = &self.clients[client];
        let request = match member.is_classic {
            true => Request::Leave(LeaveGroupRequest {
                group_id: GROUP.into(),
                members: vec![MemberIdentity {
                    member_id: member.id.clone(),
                    group_instance_id: member.instance.clone(),
                    reason: None,
                }],
                ..LeaveGroupRequest::default()
            }),
            false => Request::ConsumerHeartbeat(Beat {
                request: ConsumerGroupHeartbeatRequest {
                    group_id: GROUP.into(),
                    member_id: member.id.clone(),
                    member_epoch: match member.instance {
                        Some(_) => -2,
                        None => -1,
                    },
                    instance_id: member.instance.clone(),
                    ..ConsumerGroupHeartbeatRequest::default()
                },
                version: 1,
                client: Client::default(),
                unique: Str::EMPTY,
            }),
        };
        self.note(|| format!("client {client} leaves"));
        self.clients[client].claims.clear();
        self.send(client, request);
        self.clients[client].is_up = false;
    }

    /// A new process of the same client, perhaps of another version of its software.
    fn restart(&mut self, client: usize) {
        let turns = self.random.chance(1, 3);
        self.clients[client].is_classic ^= turns;
        self.forget(client);
        let member = &self.clients[client];
        let kind = if member.is_classic {
            "classic"
        } else {
            "consumer"
        };
        self.note(|| format!("client {client} starts, {kind}"));
        self.wake_after(client, 1);
    }

    /// Members of the consumer protocol choose their ids.
    fn forget(&mut self, client: usize) {
        self.next_unique += 1;
        let unique = self.next_unique;
        let member = &mut self.clients[client];
        member.is_up = true;
        member.id = match member.is_classic {
            true => Str::EMPTY,
            false => Str::from(format!("own-{unique}")),
        };
        member.epoch = 0;
        member.stage = Stage::Join;
        member.claims.clear();
        member.says_all = true;
        member.asked = None;
        member.stalled_until = 0;
    }

    // --- what must hold ---

    /// No partition is with two members, whether they are to keep it or not.
    fn check_owners(&self) -> Result<(), String> {
        let groups = self.coordinator.iter().flat_map(Coordinator::groups);
        for (_, group) in groups {
            let Group::Consumer(group) = group else {
                continue;
            };
            let mut owners = BTreeMap::new();
            for member in group.members() {
                for (topic, partitions) in member.assigned.iter().chain(&member.revoking) {
                    for index in partitions.keys() {
                        if let Some(other) = owners.insert((*topic, *index), &member.id) {
                            return Err(format!(
                                "{topic}-{index} belongs to {other} and {} at {}",
                                member.id, self.now_ms
                            ));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// What a coordinator would know that replayed the log now is what this one knows.
    fn check_reload(&mut self) -> Result<(), String> {
        if !self.random.chance(1, 8) {
            return Ok(());
        }
        let loaded = self.replayed()?;
        let coordinator = self.coordinator.as_ref().expect("it has just acted");
        if !loaded.offsets().eq(coordinator.offsets()) {
            return Err("the log and the coordinator have other offsets".into());
        }
        let types = |coordinator: &Coordinator| -> Vec<(Str, &'static str)> {
            let groups = coordinator.groups();
            groups
                .map(|(id, group)| (id.clone(), group.type_name()))
                .collect()
        };
        if types(&loaded) != types(coordinator) {
            return Err(format!(
                "the log has groups {:?}, the coordinator {:?}",
                types(&loaded),
                types(coordinator)
            ));
        }
        for ((_, known), (_, loaded)) in coordinator.groups().zip(loaded.groups()) {
            let (Group::Consumer(known), Group::Consumer(loaded)) = (known, loaded) else {
                continue;
            };
            let targets = |group: &coati::coordinator::consumer::ConsumerGroup| -> Vec<_> {
                group
                    .members()
                    .map(|member| group.target(&member.id).cloned())
                    .collect()
            };
            let same = known.epoch() == loaded.epoch()
                && known.assignment_epoch() == loaded.assignment_epoch()
                && known.members().eq(loaded.members())
                && targets(known) == targets(loaded);
            if !same {
                return Err(format!("the log has {loaded:?}, the coordinator {known:?}"));
            }
        }
        Ok(())
    }

    /// In the end everybody has what it is to have, and everything that anybody wants is somebody's.
    fn check_agreement(&self) -> Result<(), String> {
        let mut wanted: BTreeSet<Partition> = (0..TOPIC.2).map(|index| (TOPIC.1, index)).collect();
        if self
            .clients
            .iter()
            .any(|client| client.by_pattern && !client.is_classic)
        {
            wanted.extend((0..LATE_TOPIC.2).map(|index| (LATE_TOPIC.1, index)));
        }
        let mut owned = BTreeSet::new();
        for (number, client) in self.clients.iter().enumerate() {
            if client.stage != Stage::Stable {
                return Err(format!("client {number} is {:?}", client.stage));
            }
            if client.claims.iter().any(|one| !owned.insert(*one)) {
                return Err(format!("a partition of client {number} has another owner"));
            }
        }
        let coordinator = self.coordinator.as_ref().ok_or("the coordinator is down")?;
        let (_, group) = coordinator.groups().next().ok_or("there is no group")?;
        if owned != wanted {
            return Err(format!("{owned:?} are owned of {wanted:?} in {group:?}"));
        }
        let all_classic = self.clients.iter().all(|client| client.is_classic);
        match (group.type_name(), all_classic, group.state_name()) {
            ("classic", true, "Stable") | ("consumer", false, "Stable") => Ok(()),
            other => Err(format!("the group is {other:?}")),
        }
    }
}

/// Whether whoever commits is a member, at its epoch or with what it has.
fn may_commit(coordinator: &Coordinator, request: &OffsetCommitRequest) -> bool {
    let epoch = request.generation_id_or_member_epoch;
    match coordinator.groups().next() {
        Some((_, Group::Consumer(group))) => {
            let mut members = group.members();
            let Some(member) = members.find(|member| member.id == request.member_id) else {
                return false;
            };
            let mut partitions = request.topics.iter().flat_map(|topic| {
                let indexes = topic.partitions.iter().map(|one| one.partition_index);
                indexes.map(|index| (topic.topic_id, index))
            });
            let has = |(topic, index): (Uuid, i32)| {
                let mut owned = [&member.assigned, &member.revoking].into_iter();
                owned.any(|own| own.get(&topic).is_some_and(|own| own.contains_key(&index)))
            };
            epoch == member.epoch || epoch < member.epoch && partitions.all(has)
        }
        Some((_, Group::Classic(group))) => {
            let mut members = group.assignments();
            epoch == group.generation() && members.any(|(id, _)| *id == request.member_id)
        }
        None => epoch < 0,
    }
}

/// Whether whoever heartbeats is at its epoch, or has not heard of it.
fn may_beat(coordinator: &Coordinator, request: &ConsumerGroupHeartbeatRequest) -> bool {
    let epoch = request.member_epoch;
    if epoch <= 0 {
        return true;
    }
    let Some((_, Group::Consumer(group))) = coordinator.groups().next() else {
        return false;
    };
    let mut members = group.members();
    let member = members.find(|member| member.id == request.member_id);
    member.is_some_and(|member| epoch == member.epoch || epoch == member.previous_epoch)
}

/// Whether something was committed, or a heartbeat taken.
fn was_taken(answer: &Answer) -> bool {
    match answer {
        Answer::Commit(answer) => {
            let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            let first = partitions.next();
            first.is_some_and(|partition| partition.error_code == ErrorCode::None.code())
        }
        Answer::ConsumerHeartbeat(answer) => answer.error_code == ErrorCode::None.code(),
        _ => false,
    }
}

fn name_of(id: Uuid) -> Str {
    match id.0[0] == TOPIC.1 {
        true => TOPIC.0.into(),
        false => LATE_TOPIC.0.into(),
    }
}

fn by_topic(partitions: &BTreeSet<Partition>) -> Vec<TopicPartitions> {
    let mut topics: BTreeMap<u8, Vec<i32>> = BTreeMap::new();
    for (topic, index) in partitions {
        topics.entry(*topic).or_default().push(*index);
    }
    let topics = topics
        .into_iter()
        .map(|(topic, partitions)| TopicPartitions {
            topic_id: Uuid([topic; 16]),
            partitions,
        });
    topics.collect()
}

/// An assignment of partitions of the topic, as plain consumers write it.
fn embedded(partitions: &[i32]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(1);
    bytes.put_i16(TOPIC.0.len() as i16);
    bytes.put_slice(TOPIC.0.as_bytes());
    bytes.put_i32(partitions.len() as i32);
    for index in partitions {
        bytes.put_i32(*index);
    }
    bytes.put_i32(-1);
    bytes.freeze()
}

fn read_embedded(bytes: &Bytes) -> Vec<i32> {
    let number = |at: usize| {
        let bytes = bytes[at..at + 4].try_into().expect("four bytes");
        i32::from_be_bytes(bytes) as usize
    };
    if bytes.is_empty() || number(2) == 0 {
        return Vec::new();
    }
    let at = 6 + 2 + TOPIC.0.len();
    let count = number(at);
    (0..count)
        .map(|one| number(at + 4 + 4 * one) as i32)
        .collect()
}
