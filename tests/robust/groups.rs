//! Members of groups that say too much, too often, or leave while they are waited for; others do not notice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use coati::io::clock;
use coati::protocol::messages::join_group_request::JoinGroupRequestProtocol;
use coati::protocol::messages::{
    ConsumerGroupHeartbeatRequest, DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest,
    JoinGroupRequest, JoinGroupResponse, SyncGroupRequest,
};
use coati::protocol::{ErrorCode, Str};

use crate::broker::Broker;
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
