//! SIGTERM: what is in flight is finished, whoever waits gets an answer, and the process ends with 0.

use std::io::Write;
use std::time::Duration;

use coati::io::clock;
use coati::protocol::messages::{FetchRequest, ProduceRequest};

use crate::broker::Broker;
use crate::client::*;

/// Generous to a crowded machine; what is not told to stop would take 10 seconds or more.
const QUICK: Duration = Duration::from_secs(5);

/// An answer of megabytes must not fit into what the kernel sends ahead.
const SMALL_BUFFERS: [&str; 1] = ["socket.send.buffer.bytes=102400"];

#[test]
fn long_polls_are_answered_at_once_and_idle_clients_hold_nothing_up() {
    for cores in [1, 2] {
        let mut broker = Broker::start(cores, &[]);
        let mut setup = Client::connect(broker.address);
        setup.create_topic("t", 4);
        setup.produce("t", 0, batch(100));
        let _idle: Vec<Client> = (0..50).map(|_| Client::connect(broker.address)).collect();
        let mut waiting: Vec<(Client, i32)> = (0..4)
            .map(|partition| {
                let mut client = Client::connect(broker.address);
                let end = i64::from(partition == 0);
                // An answer shows that the connection is served; the next one is the long poll.
                client.call(&metadata("t"), METADATA_VERSION);
                let id = client.send(&fetch("t", partition, end, 30_000), FETCH_VERSION);
                (client, id)
            })
            .collect();
        let mut half = Client::connect(broker.address);
        half.stream.write_all(&[0, 0, 1, 0, 0, 3]).expect("sent");
        // The broker reads each connection in turn: an answer here means that the polls were begun.
        setup.produce("t", 1, batch(100));
        broker.signal("TERM");
        let began = clock::now();
        for (client, id) in &mut waiting {
            client.receive::<FetchRequest>(*id, FETCH_VERSION);
            client.expect_closed();
        }
        let status = broker.wait();
        let took = began.elapsed();
        assert_eq!(status.code(), Some(0));
        assert!(took < QUICK, "the stop took {took:?} on {cores} cores");
    }
}

#[test]
fn produces_in_flight_are_acknowledged_before_the_end() {
    let mut broker = Broker::start(2, &[]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 2);
    let ids: Vec<i32> = (0..64)
        .map(|number| {
            client.send(
                &produce("t", number % 2, -1, batch(10_000)),
                PRODUCE_VERSION,
            )
        })
        .collect();
    client.receive::<ProduceRequest>(ids[0], PRODUCE_VERSION);
    broker.signal("TERM");
    let began = clock::now();
    // What was read before the signal is answered, in order; what was not is left with the connection.
    let mut answered = 1;
    while let Ok(frame) = client.receive_frame() {
        let id = i32::from_be_bytes(frame[..4].try_into().expect("four bytes"));
        assert_eq!(id, ids[answered]);
        answered += 1;
    }
    let status = broker.wait();
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < QUICK, "the stop took {took:?}");
}

#[test]
fn a_client_that_takes_no_answer_does_not_hold_up_the_stop_for_long() {
    let mut broker = Broker::start(1, &SMALL_BUFFERS);
    let mut stuck = stuck_client(&broker);
    broker.signal("TERM");
    let began = clock::now();
    let status = broker.wait();
    let took = began.elapsed();
    assert_eq!(status.code(), Some(0));
    assert!(took < QUICK, "the stop took {took:?}");
    stuck.expect_closed();
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut broker = Broker::start(1, &SMALL_BUFFERS);
    let _stuck = stuck_client(&broker);
    broker.signal("TERM");
    broker.wait_for_line("stopping");
    broker.signal("INT");
    let began = clock::now();
    let status = broker.wait();
    let took = began.elapsed();
    assert_eq!(status.code(), Some(130));
    assert!(took < QUICK, "the stop took {took:?}");
}

/// A client that has asked for far more than its socket holds, and reads only the first bytes.
fn stuck_client(broker: &Broker) -> Client {
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    for _ in 0..20 {
        client.produce("t", 0, batch(900_000));
    }
    client.send(&fetch("t", 0, 0, 0), FETCH_VERSION);
    let mut first = [0; 4];
    std::io::Read::read_exact(&mut client.stream, &mut first).expect("the answer begins");
    client
}
