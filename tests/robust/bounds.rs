//! The bounds of connections and memory: at a bound the broker waits, or answers otherwise, and drops nothing.

use std::io::Write;
use std::time::Duration;

use coati::io::clock;
use coati::limits;
use coati::protocol::messages::{FetchRequest, MetadataRequest, ProduceRequest};

use crate::broker::Broker;
use crate::client::*;

#[test]
fn a_connection_beyond_max_connections_waits_for_another_to_end() {
    for cores in [1, 2] {
        let broker = Broker::start(cores, &["max.connections=3"]);
        let mut seated: Vec<Client> = (0..3).map(|_| Client::connect(broker.address)).collect();
        for client in &mut seated {
            client.call(&metadata("t"), METADATA_VERSION);
        }
        let mut waiting = Client::connect(broker.address);
        let id = waiting.send(&metadata("t"), METADATA_VERSION);
        for client in &mut seated {
            client.call(&metadata("t"), METADATA_VERSION);
        }
        let short = Some(Duration::from_millis(50));
        waiting.stream.set_read_timeout(short).expect("an option");
        assert!(waiting.receive_frame().is_err(), "there is no seat");
        seated.pop();
        let long = Some(crate::broker::PATIENCE);
        waiting.stream.set_read_timeout(long).expect("an option");
        waiting.receive::<MetadataRequest>(id, METADATA_VERSION);
        assert!(broker.lines_with("WARN").is_empty());
    }
}

#[test]
fn a_connection_beyond_those_of_its_address_is_closed() {
    for (settings, most) in [
        (&["max.connections.per.ip=2"][..], 2),
        (
            &[
                "max.connections.per.ip=2",
                "max.connections.per.ip.overrides=192.0.2.1:1,127.0.0.1:4",
            ],
            4,
        ),
    ] {
        let broker = Broker::start(2, settings);
        let mut seated: Vec<Client> = (0..most).map(|_| Client::connect(broker.address)).collect();
        for client in &mut seated {
            client.call(&metadata("t"), METADATA_VERSION);
        }
        let mut surplus = Client::connect(broker.address);
        surplus.expect_closed();
        broker.wait_for_line("max.connections.per.ip");
        seated.pop().expect("seated").expect_end();
        // The seat is free once the broker has seen the end.
        let began = clock::now();
        loop {
            let mut next = Client::connect(broker.address);
            if next.try_call(&metadata("t"), METADATA_VERSION).is_ok() {
                break;
            }
            let waited = began.elapsed();
            assert!(waited < crate::broker::PATIENCE, "the seat stays taken");
        }
    }
}

#[test]
fn idle_connections_close_and_waiting_ones_do_not() {
    let broker = Broker::start(2, &["connections.max.idle.ms=300"]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", 1);
    setup.produce("t", 0, batch(100));
    let mut polling = Client::connect(broker.address);
    let id = polling.send(&fetch("t", 0, 1, 1500), FETCH_VERSION);
    let mut half = Client::connect(broker.address);
    half.stream.write_all(&[0, 0, 1, 0]).expect("sent");
    let mut silent = Client::connect(broker.address);
    silent.expect_closed();
    half.expect_closed();
    polling.receive::<FetchRequest>(id, FETCH_VERSION);
    setup.expect_closed();
    polling.expect_closed();
}

#[test]
fn a_client_that_leaves_takes_its_long_polls_with_it() {
    const AGE: i32 = i32::MAX;
    let broker = Broker::start(2, &["max.connections=4"]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", 2);
    // With as many requests as a connection may have in progress, nobody reads the stream's end.
    for requests in [1, 3, 300] {
        for round in 0..8 {
            let mut client = Client::connect(broker.address);
            client.call(&metadata("t"), METADATA_VERSION);
            for partition in 0..requests {
                client.send(&fetch("t", partition % 2, 0, AGE), FETCH_VERSION);
            }
            if round % 2 == 0 {
                client.expect_end();
            }
        }
    }
    setup.produce("t", 0, batch(100));
}

#[test]
fn at_the_bound_of_request_memory_frames_become_whole_one_after_another() {
    let settings = [
        "socket.request.max.bytes=1000000",
        "queued.max.request.bytes=1000000",
    ];
    let broker = Broker::start(1, &settings);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", 1);
    let request = frame(&produce("t", 0, 1, batch(900_000)), PRODUCE_VERSION, 1);
    let (half, rest) = request.split_at(request.len() / 2);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(broker.address)).collect();
    for client in &mut clients {
        client.stream.write_all(half).expect("sent");
    }
    for client in &mut clients {
        client.stream.write_all(rest).expect("sent");
    }
    for client in &mut clients {
        let answer = client.receive::<ProduceRequest>(1, PRODUCE_VERSION);
        assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
    }
    assert_eq!(setup.produce("t", 0, batch(100)), (0, 20));
}

#[test]
fn who_stalls_inside_a_frame_at_the_bound_is_closed_and_the_others_go_on() {
    let settings = [
        "socket.request.max.bytes=1000000",
        "queued.max.request.bytes=1000000",
    ];
    let broker = Broker::start(1, &settings);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", 1);
    let request = frame(&produce("t", 0, 1, batch(900_000)), PRODUCE_VERSION, 1);
    // Enough to fill it. One after the other they may be found out, each ten seconds.
    let mut stalled: Vec<Client> = (0..5).map(|_| Client::connect(broker.address)).collect();
    for client in &mut stalled {
        client
            .stream
            .write_all(&request[..request.len() / 4])
            .expect("sent");
    }
    assert_eq!(setup.produce("t", 0, batch(900_000)), (0, 0));
    assert_eq!(setup.produce("t", 0, batch(900_000)), (0, 1));
    let lines = broker.wait_for_line("nothing came for");
    assert!(lines.len() <= stalled.len());
}

/// Produces without acknowledgements as fast as the socket takes it, then asks whether all is there.
#[test]
fn a_flood_without_acknowledgements_costs_bounded_memory_and_loses_nothing() {
    const FLOOD: i64 = 600;
    const TAIL_CACHE_BYTES: usize = 64 << 20;
    let tail_cache = format!("log.tail.cache.bytes={TAIL_CACHE_BYTES}");
    let broker = Broker::start(1, &["message.max.bytes=2000000", &tail_cache]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    let request = frame(&produce("t", 0, 0, batch(1_000_000)), PRODUCE_VERSION, 1);
    for _ in 0..FLOOD {
        client.stream.write_all(&request).expect("the broker reads");
    }
    assert_eq!(client.produce("t", 0, batch(100)), (0, FLOOD));
    let bound = TAIL_CACHE_BYTES + limits::CORE_REQUEST_BYTES_MAX + (64 << 20);
    let resident = broker.resident_bytes();
    assert!(resident < bound, "{resident} bytes");
}
