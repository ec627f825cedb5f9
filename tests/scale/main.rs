//! Consumer groups of the real broker under load. The measurements are for `bench/RESULTS.md` and not run by default:
//!
//! ```text
//! cargo test --release --test scale -- --ignored --nocapture --test-threads 1
//! ```
//!
//! `COATI_CORES` is how many the broker of the heartbeats has. Where a process may open no more than 20,000 files, name one
//! of those at a time.

#[allow(dead_code, reason = "the other suite uses the rest of it")]
#[path = "../robust/broker.rs"]
mod broker;
mod consumer;

use std::cell::Cell;
use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coati::client::{Connection, ConnectionOptions};
use coati::io::{clock, process, watchdog};
use coati::protocol::messages::create_topics_request::CreatableTopic;
use coati::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use coati::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use coati::protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use coati::protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use coati::protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use coati::protocol::{ErrorCode, Str};
use futures::future::join_all;

use broker::Broker;

const TOPIC: &str = "t";
/// What a plain consumer says of itself when it subscribes to one topic.
const SUBSCRIPTION: &[u8] = b"\0\x01\0\0\0\x01\0\x01t\xff\xff\xff\xff\0\0\0\0";
/// JoinGroup without a first request for a member id, and OffsetCommit by name.
const JOIN_VERSION: i16 = 3;
const COMMIT_VERSION: i16 = 8;

fn run(work: impl Future<Output = ()>) {
    process::raise_descriptor_limit().expect("many connections");
    let executor = glommio::LocalExecutorBuilder::default().make();
    let watch = watchdog::watch(process::thread_name());
    executor.expect("io_uring").run(async {
        drop(watch);
        work.await;
    });
}

async fn connect(broker: &Broker) -> Connection {
    let options = ConnectionOptions {
        request_timeout: Duration::from_secs(120),
        ..ConnectionOptions::default()
    };
    let address = broker.address.to_string();
    Connection::connect(&address, &options)
        .await
        .expect("the broker is up")
}

/// What a broker that hears heartbeats runs on.
fn cores() -> usize {
    let given = std::env::var("COATI_CORES");
    given.map_or(2, |cores| cores.parse().expect("a number"))
}

async fn prepare(broker: &Broker, partitions: i32) {
    let connection = connect(broker).await;
    let topic = CreatableTopic {
        name: TOPIC.into(),
        num_partitions: partitions,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    let create = CreateTopicsRequest {
        topics: vec![topic],
        timeout_ms: 30_000,
        validate_only: false,
    };
    connection.call(&create).await.expect("a topic");
    let find = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..FindCoordinatorRequest::default()
    };
    connection.call(&find).await.expect("a coordinator");
}

/// One member of one group.
struct Member {
    connection: Connection,
    group: Str,
    id: Str,
    generation: i32,
}

impl Member {
    async fn new(broker: &Broker, group: &str) -> Member {
        Member {
            connection: connect(broker).await,
            group: Str::copied(group),
            id: Str::EMPTY,
            generation: -1,
        }
    }

    /// Joins and syncs, once more when the group has met without it.
    async fn meet(&mut self) {
        loop {
            let join = JoinGroupRequest {
                group_id: self.group.clone(),
                session_timeout_ms: 45_000,
                rebalance_timeout_ms: 60_000,
                member_id: self.id.clone(),
                group_instance_id: None,
                protocol_type: "consumer".into(),
                protocols: vec![JoinGroupRequestProtocol {
                    name: "range".into(),
                    metadata: Bytes::from_static(SUBSCRIPTION),
                }],
                ..JoinGroupRequest::default()
            };
            let joined = self.connection.call_at(&join, JOIN_VERSION).await;
            let joined = joined.expect("an answer to JoinGroup");
            assert_eq!(joined.error_code, 0);
            self.id = joined.member_id;
            self.generation = joined.generation_id;
            let assign = |member: &Str| SyncGroupRequestAssignment {
                member_id: member.clone(),
                assignment: Bytes::from_static(SUBSCRIPTION),
            };
            let sync = SyncGroupRequest {
                group_id: self.group.clone(),
                generation_id: self.generation,
                member_id: self.id.clone(),
                group_instance_id: None,
                protocol_type: Some("consumer".into()),
                protocol_name: Some("range".into()),
                assignments: joined
                    .members
                    .iter()
                    .map(|m| assign(&m.member_id))
                    .collect(),
            };
            let synced = self.connection.call(&sync).await;
            match ErrorCode::from_code(synced.expect("an answer to SyncGroup").error_code) {
                ErrorCode::None => return,
                ErrorCode::RebalanceInProgress | ErrorCode::IllegalGeneration => {}
                error => panic!("SyncGroup: {error:?}"),
            }
        }
    }

    async fn heartbeat(&self) {
        let request = HeartbeatRequest {
            group_id: self.group.clone(),
            generation_id: self.generation,
            member_id: self.id.clone(),
            group_instance_id: None,
        };
        let beaten = self.connection.call(&request).await;
        assert_eq!(beaten.expect("an answer to Heartbeat").error_code, 0);
    }
}

fn commit(group: &Str, partitions: std::ops::Range<i32>, offset: i64) -> OffsetCommitRequest {
    let partitions = partitions.map(|index| OffsetCommitRequestPartition {
        partition_index: index,
        committed_offset: offset,
        ..OffsetCommitRequestPartition::default()
    });
    OffsetCommitRequest {
        group_id: group.clone(),
        generation_id_or_member_epoch: -1,
        group_instance_id: None,
        topics: vec![OffsetCommitRequestTopic {
            name: TOPIC.into(),
            partitions: partitions.collect(),
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    }
}

async fn committed(connection: &Connection, request: &OffsetCommitRequest) {
    let answer = connection.call_at(request, COMMIT_VERSION).await;
    let answer = answer.expect("an answer to OffsetCommit");
    let mut partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    assert!(partitions.all(|partition| partition.error_code == 0));
}

async fn until(time: Instant) {
    coati::io::timer::sleep(time.saturating_duration_since(clock::now())).await;
}

#[test]
#[ignore = "a measurement"]
fn heartbeats_of_1000_groups_of_10() {
    const GROUPS: usize = 1_000;
    const MEMBERS: usize = 10;
    const INTERVAL: Duration = Duration::from_secs(3);
    const ROUNDS: u32 = 12;
    const ROUNDS_BEFORE: u32 = 6;
    run(async {
        let broker = Broker::start(cores(), &["group.initial.rebalance.delay.ms=200"]);
        prepare(&broker, 10).await;
        let mut members = Vec::new();
        for round in 0..GROUPS / 50 {
            let groups = (0..50).flat_map(|number| {
                let group = format!("group-{}", round * 50 + number);
                let broker = &broker;
                (0..MEMBERS).map(move |_| {
                    let group = group.clone();
                    async move {
                        let mut member = Member::new(broker, &group).await;
                        member.meet().await;
                        member
                    }
                })
            });
            members.extend(join_all(groups).await);
        }
        let began = clock::now();
        let (mut before, mut since) = (broker.cpu_ticks(), began);
        for round in 0..ROUNDS {
            let start = began + INTERVAL * round;
            let count = members.len() as u32;
            let beats = (0_u32..).zip(&members).map(async |(number, member)| {
                until(start + INTERVAL * number / count).await;
                member.heartbeat().await;
            });
            join_all(beats).await;
            until(start + INTERVAL).await;
            if round + 1 == ROUNDS_BEFORE {
                // The first rounds find out that some have waited for longer, and where their connections are best served.
                (before, since) = (broker.cpu_ticks(), clock::now());
            }
        }
        let seconds = since.elapsed().as_secs_f64();
        let ticks = (broker.cpu_ticks() - before) as f64;
        println!(
            "{} members heartbeat each 3 s: {:.1} % of one core, {:.0} heartbeats/s, {} MiB resident",
            members.len(),
            ticks / seconds,
            members.len() as f64 / 3.0,
            broker.resident_bytes() >> 20
        );
    });
}

#[test]
#[ignore = "a measurement"]
fn rebalance_of_a_group_of_500() {
    run(async {
        let broker = Broker::start(2, &["group.initial.rebalance.delay.ms=1000"]);
        prepare(&broker, 500).await;
        let members = (0..500).map(|_| Member::new(&broker, "large"));
        let mut members = join_all(members).await;
        join_all(members.iter_mut().map(Member::meet)).await;
        for _ in 0..3 {
            // All have heard that the group meets anew: from the first JoinGroup to the last answer to SyncGroup.
            let began = clock::now();
            join_all(members.iter_mut().map(Member::meet)).await;
            println!(
                "500 members rebalance in {} ms",
                began.elapsed().as_millis()
            );
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn commits_at_10_000_a_second() {
    const CONNECTIONS: u32 = 100;
    const PER_SECOND: u32 = 10_000;
    const SECONDS: u32 = 15;
    run(async {
        let broker = Broker::start(2, &[]);
        prepare(&broker, 10).await;
        let connections = (0..CONNECTIONS).map(|_| connect(&broker));
        let connections = join_all(connections).await;
        let interval = Duration::from_secs(1) * CONNECTIONS / PER_SECOND;
        let began = clock::now() + Duration::from_millis(100);
        let before = broker.cpu_ticks();
        let sending = (0_u32..)
            .zip(&connections)
            .map(async |(number, connection)| {
                let group = Str::from(format!("committer-{number}"));
                let first = began + interval * number / CONNECTIONS;
                let mut taken = Vec::new();
                for turn in 0..PER_SECOND / CONNECTIONS * SECONDS {
                    // Latency counts from when the commit was to be sent, also when the one before was late.
                    let due = first + interval * turn;
                    until(due).await;
                    committed(connection, &commit(&group, 0..1, turn.into())).await;
                    taken.push(due.elapsed());
                }
                taken
            });
        let mut taken: Vec<Duration> = join_all(sending).await.into_iter().flatten().collect();
        let seconds = began.elapsed().as_secs_f64();
        taken.sort();
        let at = |part: f64| taken[(taken.len() as f64 * part) as usize].as_secs_f64() * 1000.0;
        println!(
            "{:.0} commits/s over {CONNECTIONS} connections: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms; broker {:.0} % of one core",
            taken.len() as f64 / seconds,
            at(0.5),
            at(0.99),
            at(0.999),
            (broker.cpu_ticks() - before) as f64 / seconds
        );
    });
}

/// A broker that is killed in the middle of commits has every one that it acknowledged.
#[test]
fn a_killed_broker_loses_no_commit() {
    const GROUPS: usize = 20;
    const ACKNOWLEDGED: u64 = 2_000;
    run(async {
        let mut broker = Broker::start(2, &["offsets.topic.num.partitions=4"]);
        prepare(&broker, 1).await;
        let connections = join_all((0..GROUPS).map(|_| connect(&broker))).await;
        let (all, reached) = (Cell::new(0), Cell::new(false));
        let sending = connections
            .iter()
            .enumerate()
            .map(async |(number, connection)| {
                let group = Str::from(format!("group-{number}"));
                for offset in 1.. {
                    let request = commit(&group, 0..1, offset);
                    let answer = connection.call_at(&request, COMMIT_VERSION).await;
                    let Ok(answer) = answer else {
                        return offset - 1;
                    };
                    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                    all.set(all.get() + 1);
                    if all.get() >= ACKNOWLEDGED && !reached.replace(true) {
                        broker.signal("KILL");
                    }
                }
                unreachable!("the broker is killed before");
            });
        let acknowledged = join_all(sending).await;
        drop(connections);
        broker.wait();
        let broker = broker.start_again(&[]);
        let connection = connect(&broker).await;
        for (number, acknowledged) in acknowledged.into_iter().enumerate() {
            let group = Str::from(format!("group-{number}"));
            let offset = loop {
                let request = OffsetFetchRequest {
                    group_id: group.clone(),
                    topics: None,
                    ..OffsetFetchRequest::default()
                };
                let fetched = connection.call_at(&request, 7).await.expect("an answer");
                match ErrorCode::from_code(fetched.error_code) {
                    ErrorCode::None => break fetched.topics[0].partitions[0].committed_offset,
                    ErrorCode::CoordinatorLoadInProgress => {}
                    error => panic!("OffsetFetch: {error:?}"),
                }
            };
            assert!(
                offset >= acknowledged,
                "{group}: {offset} of {acknowledged}"
            );
        }
    });
}

#[test]
#[ignore = "a measurement"]
fn a_million_commits_of_1000_groups_load() {
    const GROUPS: usize = 1_000;
    const PARTITIONS: i32 = 100;
    const TIMES: i64 = 10;
    run(async {
        let mut broker = Broker::start(2, &["offsets.topic.num.partitions=1"]);
        prepare(&broker, PARTITIONS).await;
        let connections = join_all((0..20).map(|_| connect(&broker))).await;
        let sending = connections
            .iter()
            .enumerate()
            .map(async |(number, connection)| {
                for time in 0..TIMES {
                    for group in (number..GROUPS).step_by(20) {
                        let group = Str::from(format!("group-{group}"));
                        committed(connection, &commit(&group, 0..PARTITIONS, time)).await;
                    }
                }
            });
        join_all(sending).await;
        drop(connections);
        broker.signal("KILL");
        broker.wait();
        let broker = broker.start_again(&[]);
        let loaded = broker.wait_for_line("group coordinator loaded");
        println!("{}", loaded[0]);
        let connection = connect(&broker).await;
        let groups = (0..GROUPS).map(|group| OffsetFetchRequestGroup {
            group_id: Str::from(format!("group-{group}")),
            member_id: None,
            topics: None,
            ..OffsetFetchRequestGroup::default()
        });
        let request = OffsetFetchRequest {
            groups: groups.collect(),
            ..OffsetFetchRequest::default()
        };
        let fetched = connection.call_at(&request, 9).await.expect("offsets");
        let offsets = fetched.groups.iter().flat_map(|group| &group.topics);
        let offsets = offsets.flat_map(|topic| &topic.partitions);
        let last = offsets.filter(|partition| partition.committed_offset == TIMES - 1);
        assert_eq!(last.count(), GROUPS * PARTITIONS as usize);
    });
}
