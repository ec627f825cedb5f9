//! Requests that cross between cores, and what can happen to them on the way: their connection dies, their
//! partition goes, the broker stops.

use std::net::Shutdown;

use coati::ids::Offset;
use coati::protocol::messages::delete_topics_request::DeleteTopicState;
use coati::protocol::messages::{DeleteTopicsRequest, FetchRequest, ProduceRequest};
use coati::protocol::{ErrorCode, Str};

use crate::broker::Broker;
use crate::client::*;

const PARTITIONS: i32 = 8;
const DELETE_VERSION: i16 = 6;

fn delete(topic: &str) -> DeleteTopicsRequest {
    DeleteTopicsRequest {
        topics: vec![DeleteTopicState {
            name: Some(Str::from(topic.to_owned())),
            ..Default::default()
        }],
        timeout_ms: 30_000,
        ..Default::default()
    }
}

/// The offsets of a partition, which must follow one another.
fn count_records(client: &mut Client, topic: &str, partition: i32) -> i64 {
    let response = client.fetch(topic, partition, 0);
    let (_, high_watermark) = fetched(&response);
    let mut next = 0;
    while next < high_watermark {
        let response = client.fetch(topic, partition, next);
        let records = response.responses[0].partitions[0].records.clone();
        for batch in coati::protocol::batch::views(&records.expect("records").to_bytes()) {
            // A file's range may end inside a batch.
            let Ok(batch) = batch else { break };
            assert_eq!(batch.header().base_offset(), Offset(next));
            next = batch.header().next_offset().0;
        }
    }
    high_watermark
}

#[test]
fn connections_that_die_with_requests_on_other_cores_leave_no_gap_and_no_hang() {
    const ROUNDS: i64 = 40;
    const PIPELINED: i64 = 16;
    let broker = Broker::start(2, &[]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", PARTITIONS);
    for round in 0..ROUNDS {
        let mut client = Client::connect(broker.address);
        for number in 0..PIPELINED {
            let partition = (number as i32) % PARTITIONS;
            let acks = [-1, 1, 0][(number % 3) as usize];
            client.send(
                &produce("t", partition, acks, batch(20_000)),
                PRODUCE_VERSION,
            );
            client.send(&fetch("t", partition, 0, 10), FETCH_VERSION);
        }
        match round % 3 {
            // Reset: unread answers are thrown away.
            0 => drop(client),
            1 => client.stream.shutdown(Shutdown::Both).expect("connected"),
            _ => client.expect_end(),
        }
    }
    for partition in 0..PARTITIONS {
        let before = count_records(&mut setup, "t", partition);
        assert!(before <= ROUNDS * PIPELINED / i64::from(PARTITIONS));
        assert_eq!(setup.produce("t", partition, batch(100)).0, 0);
    }
    assert!(broker.lines_with("panicked").is_empty());
}

#[test]
fn long_polls_on_every_core_are_answered_when_their_topic_goes() {
    let broker = Broker::start(2, &[]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", PARTITIONS);
    let mut waiting: Vec<(Client, i32)> = (0..PARTITIONS)
        .map(|partition| {
            let mut client = Client::connect(broker.address);
            client.call(&metadata("t"), METADATA_VERSION);
            let id = client.send(&fetch("t", partition, 0, 600_000), FETCH_VERSION);
            (client, id)
        })
        .collect();
    let response = setup.call(&delete("t"), DELETE_VERSION);
    assert_eq!(response.responses[0].error_code, 0);
    for (client, id) in &mut waiting {
        // Before or after the poll began to wait, the answer is that the partition is not there.
        let response = client.receive::<FetchRequest>(*id, FETCH_VERSION);
        let error = response.responses[0].partitions[0].error_code;
        let gone = [
            ErrorCode::UnknownTopicOrPartition.code(),
            ErrorCode::NotLeaderOrFollower.code(),
        ];
        assert!(gone.contains(&error), "error {error}");
    }
}

#[test]
fn produces_in_flight_while_their_topic_goes_are_all_answered_in_order() {
    let broker = Broker::start(2, &[]);
    let mut setup = Client::connect(broker.address);
    for round in 0..10 {
        let topic = format!("t{round}");
        setup.create_topic(&topic, PARTITIONS);
        let mut client = Client::connect(broker.address);
        let ids: Vec<i32> = (0..64)
            .map(|number| {
                let acks = [-1, 1][number % 2];
                let request = produce(&topic, number as i32 % PARTITIONS, acks, batch(30_000));
                client.send(&request, PRODUCE_VERSION)
            })
            .collect();
        let deletion = setup.send(&delete(&topic), DELETE_VERSION);
        for id in ids {
            let answer = client.receive::<ProduceRequest>(id, PRODUCE_VERSION);
            let answer = &answer.responses[0].partition_responses[0];
            let error = ErrorCode::from_code(answer.error_code);
            let expected = matches!(
                error,
                ErrorCode::None
                    | ErrorCode::UnknownTopicOrPartition
                    | ErrorCode::NotLeaderOrFollower
                    | ErrorCode::KafkaStorageError
            );
            assert!(expected, "{error:?}");
            assert_eq!(answer.base_offset == -1, error != ErrorCode::None);
        }
        let response = setup.receive::<DeleteTopicsRequest>(deletion, DELETE_VERSION);
        assert_eq!(response.responses[0].error_code, 0);
    }
    setup.create_topic("t0", 1);
    assert_eq!(setup.produce("t0", 0, batch(100)), (0, 0));
    assert!(broker.lines_with("panicked").is_empty());
}

#[test]
fn a_stop_in_the_middle_of_everything_ends_with_0_and_all_that_was_acknowledged() {
    let mut broker = Broker::start(2, &[]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", PARTITIONS);
    let mut busy: Vec<(Client, Vec<i32>)> = (0..8)
        .map(|number| {
            let mut client = Client::connect(broker.address);
            let ids = (0..32)
                .map(|round| {
                    let partition = (number + round) % PARTITIONS;
                    client.send(&produce("t", partition, -1, batch(10_000)), PRODUCE_VERSION)
                })
                .collect();
            client.send(&fetch("t", number, 1_000_000, 600_000), FETCH_VERSION);
            (client, ids)
        })
        .collect();
    broker.signal("TERM");
    let mut acknowledged = 0;
    for (client, ids) in &mut busy {
        for id in ids {
            let Ok(frame) = client.receive_frame() else {
                break;
            };
            assert_eq!(frame[..4], id.to_be_bytes());
            acknowledged += 1;
        }
    }
    assert_eq!(broker.wait().code(), Some(0));
    let broker = broker.start_again(&[]);
    let mut client = Client::connect(broker.address);
    let stored: i64 = (0..PARTITIONS)
        .map(|partition| count_records(&mut client, "t", partition))
        .sum();
    assert!(stored >= acknowledged, "{stored} of {acknowledged}");
}
