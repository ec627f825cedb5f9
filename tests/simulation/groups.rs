//! One group's life in virtual time: members join, stall, crash, leave and come back under their names; requests are
//! delayed, doubled and lost; the coordinator's process ends at any point with what it had not made durable. Then all
//! calms down, and everyone must agree. Everything random comes from one seed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use coati::coordinator::classic::State;
use coati::coordinator::{
    Actions, Answer, Client, Coordinator, Group, Join, Now, Record, Request, Sabotage, Settings,
    Token,
};
use coati::io::entropy::Random;
use coati::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use coati::protocol::messages::leave_group_request::MemberIdentity;
use coati::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use coati::protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use coati::protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    SyncGroupRequest,
};
use coati::protocol::{ErrorCode, Str};

const GROUP: &str = "g";
const TOPIC: &str = "t";
const PARTITIONS: i32 = 5;
const MEMBERS: usize = 4;
const SESSION_MS: i64 = 6_000;
const REBALANCE_MS: i64 = 8_000;
const HEARTBEAT_MS: i64 = 1_000;
/// A client that has no answer for so long asks again.
const PATIENCE_MS: i64 = 2_000;
/// How long things go wrong, and how long it may take until all is well.
const TROUBLE_MS: i64 = 60_000;
const CALM_MS: i64 = 60_000;

/// What happens at some time.
enum Event {
    /// A request comes to the coordinator.
    Deliver {
        client: usize,
        number: u64,
        request: Request,
    },
    /// An answer comes to a client.
    Return {
        client: usize,
        number: u64,
        answer: Result<Answer, ErrorCode>,
    },
    /// A client does what is next.
    Step {
        client: usize,
        turn: u64,
    },
    /// The log has made so many batches durable.
    Durable {
        life: u64,
        batches: usize,
    },
    Clock {
        life: u64,
    },
    Trouble,
    /// The coordinator has loaded.
    Up {
        life: u64,
    },
}

/// Answers that wait for the log, with the batches that they wait for.
struct Held {
    batches: usize,
    answers: Vec<(Token, Answer)>,
}

/// One run.
pub struct World {
    random: Random,
    settings: Settings,
    now_ms: i64,
    events: BTreeMap<(i64, u64), Event>,
    next_event: u64,
    clients: Vec<Member>,
    /// `None` while it is down.
    coordinator: Option<Coordinator>,
    life: u64,
    log: Vec<Vec<Record>>,
    durable: usize,
    durable_at: i64,
    /// When the coordinator is told the time next.
    clock_at: i64,
    held: Vec<Held>,
    waiting: BTreeMap<Token, (usize, u64)>,
    next_token: u64,
    next_unique: u64,
    /// Requests of one client stay in order.
    arrives: Vec<i64>,
    model: Model,
    trace: Vec<String>,
}

/// What must be true whatever happens, learned from answers alone.
#[derive(Default)]
struct Model {
    /// Who was told to own a partition, by generation.
    owners: BTreeMap<(i32, i32), Str>,
    /// The largest generation whose assignment anybody was told.
    assigned: i32,
    /// Ids whose instance has another by now, which was assigned something.
    fenced: BTreeSet<Str>,
    /// The ids that an instance has had.
    ids: BTreeMap<Str, BTreeSet<Str>>,
    /// The largest offset that a client knows to be committed.
    acknowledged: BTreeMap<i32, i64>,
}

/// A client and what it believes.
struct Member {
    instance: Option<Str>,
    version: i16,
    is_up: bool,
    stalled_until: i64,
    id: Str,
    generation: i32,
    stage: Stage,
    /// The assignments it makes as leader.
    to_assign: Vec<Str>,
    partitions: Vec<i32>,
    /// What it waits for, and since when.
    asked: Option<(u64, i64)>,
    next_number: u64,
    heard_at: i64,
    /// Wake-ups of earlier turns mean nothing.
    turn: u64,
    position: i64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Stage {
    Join,
    Sync,
    Stable,
    /// Another has its name; its process is started anew.
    Fenced,
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random::new(seed);
        let clients = (0..MEMBERS).map(|number| Member {
            instance: random
                .chance(1, 3)
                .then(|| Str::from(format!("static-{number}"))),
            version: [3, 4, 9][random.below(3) as usize],
            is_up: true,
            stalled_until: 0,
            id: Str::EMPTY,
            generation: -1,
            stage: Stage::Join,
            to_assign: Vec::new(),
            partitions: Vec::new(),
            asked: None,
            next_number: 0,
            heard_at: 0,
            turn: 0,
            position: 0,
        });
        let mut clients: Vec<Member> = clients.collect();
        for client in clients.iter_mut().filter(|c| c.instance.is_some()) {
            client.version = 9;
        }
        let mut world = World {
            settings: Settings {
                initial_rebalance_delay_ms: random.below(2_000) as i64,
                sabotage,
                ..Settings::default()
            },
            random,
            now_ms: 0,
            events: BTreeMap::new(),
            next_event: 0,
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
            model: Model::default(),
            trace: Vec::new(),
        };
        world.at(0, Event::Up { life: 0 });
        for client in 0..MEMBERS {
            let after = world.random.below(5_000) as i64;
            world.at(after, Event::Step { client, turn: 0 });
        }
        world.at(3_000, Event::Trouble);
        world
    }

    /// What happened.
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
            Event::Trouble => self.trouble(),
            Event::Durable { .. } | Event::Clock { .. } | Event::Up { .. } => Ok(()),
        }
    }

    // --- the coordinator's side ---

    fn load(&mut self) -> Result<(), String> {
        let mut coordinator = self.replayed(self.log.len())?;
        let actions = coordinator.on_loaded(self.now());
        self.coordinator = Some(coordinator);
        self.note(|| "the coordinator is up".into());
        self.perform(actions)
    }

    fn replayed(&self, batches: usize) -> Result<Coordinator, String> {
        let mut coordinator = Coordinator::new(self.settings.clone());
        for record in self.log[..batches].iter().flatten() {
            let replayed = coordinator.replay(Some(&record.key), record.value.as_ref());
            replayed.map_err(|error| format!("a record of its own: {error}"))?;
        }
        Ok(coordinator)
    }

    fn deliver(&mut self, client: usize, number: u64, mut request: Request) -> Result<(), String> {
        let now = self.now();
        if let Request::Join(join) = &mut request {
            // The broker's own, new for each copy that arrives.
            self.next_unique += 1;
            join.unique = Str::from(self.next_unique.to_string());
        }
        let fenced = self.is_fenced(&request);
        let token = Token(self.next_token);
        self.next_token += 1;
        let Some(coordinator) = &mut self.coordinator else {
            self.send_back(client, number, Err(ErrorCode::NotCoordinator));
            return Ok(());
        };
        let actions = coordinator.on_request(now, token, request, 0);
        for (_, answer) in &actions.answers {
            if let (Answer::Commit(_), true) = (answer, fenced)
                && committed(answer)
            {
                return Err(format!(
                    "a commit of a fenced member was taken from {client}"
                ));
            }
        }
        self.waiting.insert(token, (client, number));
        self.perform(actions)
    }

    /// Whether this comes from somebody that others have taken over from.
    fn is_fenced(&self, request: &Request) -> bool {
        let Request::Commit { request, .. } = request else {
            return false;
        };
        request.generation_id_or_member_epoch < self.model.assigned
            || self.model.fenced.contains(&request.member_id)
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
        if !self.is_calm() && self.random.chance(1, 30) {
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

    /// The process ends with what it had not made durable, or part of it.
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
        member.asked = Some((number, self.now_ms));
        let patience = match request {
            Request::Join(_) => REBALANCE_MS + PATIENCE_MS,
            _ => PATIENCE_MS,
        };
        self.wake_after(client, patience);
        if !self.is_calm() && self.random.chance(1, 30) {
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
        for _ in 0..copies {
            let event = Event::Deliver {
                client,
                number,
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
        let member = &self.clients[client];
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
        let request = match member.stage {
            Stage::Join => self.join(client),
            Stage::Sync => self.sync(client),
            Stage::Stable if self.random.chance(1, 2) => self.commit(client),
            Stage::Stable => Request::Heartbeat(HeartbeatRequest {
                group_id: GROUP.into(),
                generation_id: member.generation,
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
            }),
            Stage::Fenced => return,
        };
        self.send(client, request);
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
            version: member.version,
            client: Client {
                id: Str::from(format!("client-{client}")),
                host: "/10.0.0.1".into(),
            },
            unique: Str::EMPTY,
        })
    }

    fn sync(&self, client: usize) -> Request {
        let member = &self.clients[client];
        let count = member.to_assign.len() as i32;
        let assignments = member.to_assign.iter().zip(0..).map(|(id, number)| {
            let mut assignment = BytesMut::new();
            for partition in (0..PARTITIONS).filter(|p| p % count == number) {
                assignment.put_i32(partition);
            }
            SyncGroupRequestAssignment {
                member_id: id.clone(),
                assignment: assignment.freeze(),
            }
        });
        Request::Sync(SyncGroupRequest {
            group_id: GROUP.into(),
            generation_id: member.generation,
            member_id: member.id.clone(),
            group_instance_id: member.instance.clone(),
            assignments: assignments.collect(),
            ..SyncGroupRequest::default()
        })
    }

    /// All clients read one stream: a position of one is never behind what another has committed before.
    fn commit(&mut self, client: usize) -> Request {
        let at = self.now_ms;
        let member = &mut self.clients[client];
        member.position = member.position.max(at);
        let (position, partitions) = (member.position, member.partitions.clone());
        let partitions = partitions
            .iter()
            .map(|partition| OffsetCommitRequestPartition {
                partition_index: *partition,
                committed_offset: position,
                ..OffsetCommitRequestPartition::default()
            });
        Request::Commit {
            request: OffsetCommitRequest {
                group_id: GROUP.into(),
                generation_id_or_member_epoch: member.generation,
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
                topics: vec![OffsetCommitRequestTopic {
                    name: TOPIC.into(),
                    partitions: partitions.collect(),
                    ..OffsetCommitRequestTopic::default()
                }],
                ..OffsetCommitRequest::default()
            },
            version: 9,
        }
    }

    fn hear(
        &mut self,
        client: usize,
        number: u64,
        answer: Result<Answer, ErrorCode>,
    ) -> Result<(), String> {
        if let Ok(Answer::Commit(_)) = &answer
            && let Ok(answer) = &answer
            && committed(answer)
        {
            self.note(|| format!("client {client} has committed"));
        }
        let member = &self.clients[client];
        let is_awaited = member.asked.is_some_and(|(asked, _)| asked == number);
        if !member.is_up || !is_awaited {
            return Ok(());
        }
        self.clients[client].asked = None;
        self.clients[client].heard_at = self.now_ms;
        match answer {
            Err(_) => self.wake_after(client, 100),
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
                let errors = partitions.map(|p| p.error_code);
                let error = ErrorCode::from_code(errors.max().unwrap_or(0));
                if error == ErrorCode::None {
                    let position = self.clients[client].position;
                    for partition in self.clients[client].partitions.clone() {
                        let known = self.model.acknowledged.entry(partition).or_default();
                        *known = (*known).max(position);
                    }
                }
                self.failed(client, error);
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// What a client does about an error, or about none.
    fn failed(&mut self, client: usize, error: ErrorCode) {
        let member = &mut self.clients[client];
        match error {
            ErrorCode::None => return self.wake_after(client, HEARTBEAT_MS),
            ErrorCode::UnknownMemberId => {
                member.id = Str::EMPTY;
                member.stage = Stage::Join;
            }
            ErrorCode::FencedInstanceId => {
                member.stage = Stage::Fenced;
                self.note(|| format!("client {client} is fenced"));
                return self.wake_after(client, PATIENCE_MS);
            }
            ErrorCode::IllegalGeneration | ErrorCode::RebalanceInProgress => {
                member.stage = Stage::Join;
            }
            error => panic!("a client does not expect {error:?}"),
        }
        self.note(|| format!("client {client} hears {}", error.name()));
        self.wake_after(client, 10);
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
        member.generation = joined.generation_id;
        member.stage = Stage::Sync;
        member.to_assign = match joined.skip_assignment {
            true => Vec::new(),
            false => joined.members.iter().map(|m| m.member_id.clone()).collect(),
        };
        if let Some(instance) = member.instance.clone() {
            let ids = self.model.ids.entry(instance).or_default();
            ids.insert(joined.member_id.clone());
        }
        self.note(|| {
            format!(
                "client {client} joined {} as {}",
                joined.generation_id, joined.member_id
            )
        });
        self.wake_after(client, 1);
    }

    fn synced(&mut self, client: usize, assignment: &Bytes) -> Result<(), String> {
        let (parts, _) = assignment.as_chunks::<4>();
        let partitions: Vec<i32> = parts.iter().map(|p| i32::from_be_bytes(*p)).collect();
        self.note(|| format!("client {client} owns {partitions:?}"));
        let member = &mut self.clients[client];
        member.partitions = partitions.clone();
        member.stage = Stage::Stable;
        let generation = member.generation;
        let who = member.instance.clone().unwrap_or(member.id.clone());
        if let Some(instance) = &member.instance {
            let others = self.model.ids[instance].iter();
            let others = others.filter(|id| **id != member.id).cloned();
            self.model.fenced.extend(others);
        }
        self.model.assigned = self.model.assigned.max(generation);
        for partition in partitions {
            let owner = self.model.owners.entry((generation, partition));
            let owner = owner.or_insert_with(|| who.clone());
            if *owner != who {
                return Err(format!(
                    "partition {partition} of generation {generation} belongs to {owner} and {who}"
                ));
            }
        }
        self.wake_after(client, HEARTBEAT_MS);
        Ok(())
    }

    // --- trouble ---

    fn trouble(&mut self) -> Result<(), String> {
        if self.is_calm() {
            // Whoever is down comes back, so that all can agree.
            for client in 0..MEMBERS {
                if !self.clients[client].is_up {
                    self.restart(client);
                }
            }
            return Ok(());
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
            }
            3 if self.clients[client].is_up => self.leave(client),
            _ => self.restart(client),
        }
        let after = 200 + self.random.below(6_000) as i64;
        self.at(after.min((TROUBLE_MS - self.now_ms).max(0)), Event::Trouble);
        Ok(())
    }

    fn leave(&mut self, client: usize) {
        let member = &self.clients[client];
        let request = Request::Leave(LeaveGroupRequest {
            group_id: GROUP.into(),
            members: vec![MemberIdentity {
                member_id: member.id.clone(),
                group_instance_id: member.instance.clone(),
                reason: None,
            }],
            ..LeaveGroupRequest::default()
        });
        self.note(|| format!("client {client} leaves"));
        self.send(client, request);
        self.clients[client].is_up = false;
    }

    /// A new process of the same client: it has forgotten its member id.
    fn restart(&mut self, client: usize) {
        self.note(|| format!("client {client} starts"));
        let member = &mut self.clients[client];
        member.is_up = true;
        member.id = Str::EMPTY;
        member.generation = -1;
        member.stage = Stage::Join;
        member.partitions.clear();
        member.asked = None;
        member.stalled_until = 0;
        self.wake_after(client, 1);
    }

    // --- what must hold ---

    /// What a coordinator would know that replayed the log now is what this one knows.
    fn check_reload(&mut self) -> Result<(), String> {
        // Replaying all of it after every request would take the square of a run's length.
        if !self.random.chance(1, 8) {
            return Ok(());
        }
        let loaded = self.replayed(self.log.len())?;
        let coordinator = self.coordinator.as_ref().expect("it has just acted");
        if !loaded.offsets().eq(coordinator.offsets()) {
            return Err("the log and the coordinator have other offsets".into());
        }
        let names = |coordinator: &Coordinator| -> Vec<Str> {
            coordinator.groups().map(|(id, _)| id.clone()).collect()
        };
        if names(&loaded) != names(coordinator) {
            return Err("the log and the coordinator have other groups".into());
        }
        for ((_, known), (_, loaded)) in coordinator.groups().zip(loaded.groups()) {
            let (Group::Classic(known), Group::Classic(loaded)) = (known, loaded) else {
                return Err("a group has turned into another".into());
            };
            let settled = matches!(known.state(), State::Stable | State::Empty);
            let same = known.generation() == loaded.generation()
                && known.state() == loaded.state()
                && known.leader() == loaded.leader()
                && known.assignments().eq(loaded.assignments());
            if settled && !same {
                return Err(format!("the log has {loaded:?}, the coordinator {known:?}"));
            }
        }
        let mut behind = coordinator.offsets().filter(|(_, _, partition, commit)| {
            let acknowledged = self.model.acknowledged.get(partition);
            acknowledged.is_some_and(|acknowledged| commit.offset < *acknowledged)
        });
        match behind.next() {
            Some((_, _, partition, _)) => {
                Err(format!("the offset of partition {partition} went back"))
            }
            None => Ok(()),
        }
    }

    /// In the end every member has the same generation, and every partition has one owner.
    fn check_agreement(&self) -> Result<(), String> {
        let mut owned = BTreeSet::new();
        let generation = self.clients[0].generation;
        for (number, client) in self.clients.iter().enumerate() {
            if client.stage != Stage::Stable || client.generation != generation {
                return Err(format!(
                    "client {number} is {:?} in generation {}, client 0 in {generation}",
                    client.stage, client.generation
                ));
            }
            if client.partitions.iter().any(|p| !owned.insert(*p)) {
                return Err(format!("a partition of client {number} has another owner"));
            }
        }
        match owned.len() == PARTITIONS as usize {
            true => Ok(()),
            false => Err(format!("only {owned:?} are owned")),
        }
    }
}

/// Whether something was committed.
fn committed(answer: &Answer) -> bool {
    let Answer::Commit(answer) = answer else {
        return false;
    };
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let first = partitions.next();
    // One error is the error of all of them.
    first.is_some_and(|partition| partition.error_code == ErrorCode::None.code())
}
