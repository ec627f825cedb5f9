//! Members of groups that say too much, too often, or leave while they are waited for; others do not notice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coati::io::clock;
use coati::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use coati::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use coati::protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use coati::protocol::messages::{
    ConsumerGroupHeartbeatRequest, DeleteGroupsRequest, DescribeGroupsRequest,
    FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use coati::protocol::{ErrorCode, Str};

use crate::admin::{get, metric};
use crate::broker::{Broker, PATIENCE};
use crate::client::*;

/// The last JoinGroup that needs no member id first.
const JOIN_VERSION: i16 = 3;
const HEARTBEAT_VERSION: i16 = 4;
const SUBSCRIPTION: &[u8] = b"\0\0\0\0\0\x01\0\x01t\xff\xff\xff\xff";

fn join(group: &str, member: &Str, metadata: Bytes) -> JoinGroupRequest {
    JoinGroupRequest {
        group_id: Str::copied(group),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 60_000,
        member_id: member.clone(),
        group_instance_id: None,
        protocol_type: "consumer".into(),
        protocols: vec![JoinGroupRequestProtocol {
            name: "range".into(),
            metadata,
        }],
        ..JoinGroupRequest::default()
    }
}

fn subscribe(group: &str, member: &str, topics: Vec<Str>) -> ConsumerGroupHeartbeatRequest {
    ConsumerGroupHeartbeatRequest {
        group_id: Str::copied(group),
        member_id: Str::copied(member),
        member_epoch: 0,
        rebalance_timeout_ms: 60_000,
        subscribed_topic_names: Some(topics),
        topic_partitions: Some(Vec::new()),
        ..ConsumerGroupHeartbeatRequest::default()
    }
}

/// A broker whose coordinators serve.
fn prepared(settings: &[&str]) -> (Broker, Client) {
    let broker = Broker::start(2, settings);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    let find = FindCoordinatorRequest {
        coordinator_keys: vec!["g".into()],
        ..FindCoordinatorRequest::default()
    };
    client.call(&find, 4);
    (broker, client)
}

/// The only member of a group that works as it should.
struct Well {
    client: Client,
    beat: HeartbeatRequest,
}

impl Well {
    fn start(broker: &Broker, group: &str) -> Well {
        let mut client = Client::connect(broker.address);
        let joined: JoinGroupResponse = client.call(
            &join(group, &Str::EMPTY, Bytes::from_static(SUBSCRIPTION)),
            JOIN_VERSION,
        );
        assert_eq!(joined.error_code, 0);
        let sync = SyncGroupRequest {
            group_id: Str::copied(group),
            generation_id: joined.generation_id,
            member_id: joined.member_id.clone(),
            group_instance_id: None,
            ..SyncGroupRequest::default()
        };
        assert_eq!(client.call(&sync, 3).error_code, 0);
        let beat = HeartbeatRequest {
            group_id: Str::copied(group),
            generation_id: joined.generation_id,
            member_id: joined.member_id,
            group_instance_id: None,
        };
        Well { client, beat }
    }

    /// Its group goes on as if nothing had happened.
    fn beats(&mut self) {
        let began: Instant = clock::now();
        let beaten = self.client.call(&self.beat, HEARTBEAT_VERSION);
        assert_eq!(beaten.error_code, 0);
        assert!(began.elapsed() < Duration::from_secs(1), "kept waiting");
    }
}

#[test]
fn a_member_that_leaves_while_others_are_waited_for_takes_its_connection_with_it() {
    // Longer than anybody here waits.
    let settings = [
        "max.connections=4",
        "group.initial.rebalance.delay.ms=250000",
    ];
    let (broker, _one) = prepared(&settings);
    for round in 0..20 {
        let mut client = Client::connect(broker.address);
        client.call(&metadata("t"), METADATA_VERSION);
        let group = format!("group-{round}");
        let request = join(&group, &Str::EMPTY, Bytes::from_static(SUBSCRIPTION));
        client.send(&request, JOIN_VERSION);
        if round % 2 == 0 {
            client.expect_end();
        }
    }
}

#[test]
fn connections_move_to_the_core_of_the_coordinator_that_they_keep_asking() {
    // Of one partition, all coordinators are on one core.
    let settings = [
        "group.initial.rebalance.delay.ms=0",
        "offsets.topic.num.partitions=1",
    ];
    let (broker, _other) = prepared(&settings);
    let mut members: Vec<Well> = (0..8)
        .map(|number| Well::start(&broker, &format!("group-{number}")))
        .collect();
    for _ in 0..10 {
        for member in &mut members {
            let sent = [(); 3].map(|()| member.client.send(&member.beat, HEARTBEAT_VERSION));
            for id in sent {
                let beaten = member
                    .client
                    .receive::<HeartbeatRequest>(id, HEARTBEAT_VERSION);
                assert_eq!(beaten.error_code, 0);
            }
        }
    }
    let connections = || {
        let page = get(broker.admin(), "/metrics").body;
        [0, 1].map(|core| {
            let name = "kafka_server_socket_server_metrics_connection_count";
            metric(&page, &format!("{name}{{networkprocessor=\"{core}\"}}"))
        })
    };
    let [first, second] = connections();
    assert_eq!(first + second, 9.0);
    assert!(first.max(second) >= 8.0, "{first} and {second}");
    members.clear();
    let deadline = clock::now() + PATIENCE;
    while connections().iter().sum::<f64>() > 1.0 {
        assert!(clock::now() < deadline, "their seats are not free again");
    }
}

#[test]
fn members_that_say_too_much_are_refused_and_others_do_not_notice() {
    let settings = [
        "group.initial.rebalance.delay.ms=0",
        "group.members.max.bytes=4000000",
        "offsets.topic.num.partitions=3",
    ];
    let (broker, mut hostile) = prepared(&settings);
    let mut well = Well::start(&broker, "well");
    let refuses = |answer: JoinGroupResponse, error: ErrorCode| {
        assert_eq!(ErrorCode::from_code(answer.error_code), error);
    };
    let huge = Bytes::from(vec![7; 2 << 20]);
    refuses(
        hostile.call(&join("huge", &Str::EMPTY, huge), JOIN_VERSION),
        ErrorCode::InvalidRequest,
    );
    well.beats();
    let million = (0..1_000_000).map(|n| Str::from(format!("topic-{n}")));
    let answer = hostile.call(&subscribe("million", "m", million.collect()), 1);
    assert_ne!(answer.error_code, 0);
    assert!(answer.error_message.is_some());
    well.beats();
    // Group upon group, each well within its own bound.
    let mut refused = 0;
    for number in 0..40 {
        let large = Bytes::from(vec![7; 900 << 10]);
        let group = format!("group-{number}");
        let answer = hostile.call(&join(&group, &Str::EMPTY, large), JOIN_VERSION);
        if answer.error_code != 0 {
            refuses(answer, ErrorCode::GroupMaxSizeReached);
            refused += 1;
        }
        well.beats();
    }
    // Four megabytes on each of two cores.
    assert!(refused >= 32, "{refused} of 40 are refused");
    let topics: Vec<Str> = (0..900).map(|n| Str::from(format!("{n:0>1000}"))).collect();
    let wide = (0..12).map(|n| hostile.call(&subscribe(&format!("c-{n}"), "m", topics.clone()), 1));
    let codes: Vec<i16> = wide.map(|answer| answer.error_code).collect();
    assert!(
        codes.contains(&ErrorCode::GroupMaxSizeReached.code()),
        "{codes:?}"
    );
    well.beats();
}

#[test]
fn endless_joins_fill_one_group_and_no_other() {
    let settings = ["group.initial.rebalance.delay.ms=0", "group.max.size=50"];
    let (broker, _one) = prepared(&settings);
    let mut well = Well::start(&broker, "well");
    let mut hostile = Client::connect(broker.address);
    let first = join("busy", &Str::EMPTY, Bytes::from_static(SUBSCRIPTION));
    let member = hostile.call(&first, JOIN_VERSION).member_id;
    // It meets its group again and again, and never takes part.
    for round in 0..500_u32 {
        let metadata = Bytes::copy_from_slice(&[SUBSCRIPTION, &round.to_be_bytes()].concat());
        let joined = hostile.call(&join("busy", &member, metadata), JOIN_VERSION);
        assert_eq!(joined.error_code, 0);
        if round % 50 == 0 {
            well.beats();
        }
    }
    // New members that wait for the one which does not come.
    let mut crowd = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(broker.address);
        client.send(&first, JOIN_VERSION);
        crowd.push(client);
    }
    let describe = DescribeGroupsRequest {
        groups: vec!["busy".into()],
        ..DescribeGroupsRequest::default()
    };
    let mut other = Client::connect(broker.address);
    while other.call(&describe, 5).groups[0].members.len() <= 50 {
        well.beats();
    }
    for _ in 0..200 {
        let answer = other.call(&first, JOIN_VERSION);
        let error = ErrorCode::from_code(answer.error_code);
        assert_eq!(error, ErrorCode::GroupMaxSizeReached);
    }
    drop(crowd);
    well.beats();
}

/// Consumed by whoever commits much.
const WIDE: &str = "wide";

/// Asks until the coordinator has loaded its groups.
fn committed(client: &mut Client, group: &str, partitions: i32) -> Vec<i64> {
    let request = OffsetFetchRequest {
        group_id: Str::copied(group),
        topics: Some(vec![OffsetFetchRequestTopic {
            name: WIDE.into(),
            partition_indexes: (0..partitions).collect(),
        }]),
        ..OffsetFetchRequest::default()
    };
    let began = clock::now();
    loop {
        let answer = client.call(&request, 7);
        if answer.error_code != ErrorCode::CoordinatorLoadInProgress.code() {
            assert_eq!(answer.error_code, 0);
            let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
            return partitions
                .map(|partition| partition.committed_offset)
                .collect();
        }
        assert!(began.elapsed() < PATIENCE, "the groups are not loaded");
    }
}

/// With as much beside each offset as a member may say.
fn commit(client: &mut Client, group: &str, partitions: i32, offset: i64) {
    let partitions = (0..partitions).map(|index| OffsetCommitRequestPartition {
        partition_index: index,
        committed_offset: offset,
        committed_metadata: Some("m".repeat(4096).into()),
        ..OffsetCommitRequestPartition::default()
    });
    let request = OffsetCommitRequest {
        group_id: Str::copied(group),
        generation_id_or_member_epoch: -1,
        group_instance_id: None,
        topics: vec![OffsetCommitRequestTopic {
            name: WIDE.into(),
            partitions: partitions.collect(),
            ..OffsetCommitRequestTopic::default()
        }],
        ..OffsetCommitRequest::default()
    };
    let answer = client.call(&request, 8);
    let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
    let codes: BTreeSet<_> = partitions.map(|partition| partition.error_code).collect();
    assert_eq!(codes, BTreeSet::from([0]));
}

/// What the segments of the offsets' only partition come to. Of one that is being replaced nobody knows.
fn stored_bytes(broker: &Broker) -> u64 {
    let files = std::fs::read_dir(broker.data().join("__consumer_offsets-0")).expect("it is there");
    let files = files.map(|file| file.expect("the folder can be read").path());
    files
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .filter_map(|path| path.metadata().ok())
        .map(|metadata| metadata.len())
        .sum()
}

#[test]
fn commits_outlive_the_cleaning_of_their_topic_and_a_kill() {
    const PARTITIONS: i32 = 20;
    const COMMIT_BYTES: u64 = PARTITIONS as u64 * 4096;
    let settings = [
        "offsets.topic.num.partitions=1",
        "offsets.topic.segment.bytes=1048576",
        "log.cleaner.backoff.ms=50",
        "log.cleaner.min.cleanable.ratio=0.1",
    ];
    let (mut broker, mut client) = prepared(&settings);
    client.create_topic(WIDE, PARTITIONS);
    assert_eq!(committed(&mut client, "gone", 1), [-1]);
    commit(&mut client, "gone", PARTITIONS, 5);
    let delete = DeleteGroupsRequest {
        groups_names: vec!["gone".into()],
    };
    assert_eq!(client.call(&delete, 2).results[0].error_code, 0);
    let mut written = 0;
    // Segments are preallocated, at most two of them.
    let room = 2 * 1_048_576;
    while written < 8 * room / COMMIT_BYTES as i64 {
        written += 1;
        commit(&mut client, "g", PARTITIONS, written);
    }
    // Who cleans takes no more than a fifth of a core: commits that go on and on may outrun it.
    let began = clock::now();
    while stored_bytes(&broker) > 2 * room as u64 {
        assert_eq!(committed(&mut client, "g", 1), [written]);
        assert!(began.elapsed() < PATIENCE, "the commits are not compacted");
    }
    broker.signal("KILL");
    broker.wait();
    let broker = broker.start_again(&[]);
    let mut client = Client::connect(broker.address);
    assert_eq!(
        committed(&mut client, "g", PARTITIONS),
        [written; PARTITIONS as usize]
    );
    assert_eq!(committed(&mut client, "gone", 1), [-1]);
}
