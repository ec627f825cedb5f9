//! Requests of one connection that were sent without waiting: answered in order, whatever takes how long.

use coati::protocol::messages::{FetchRequest, MetadataRequest, ProduceRequest};

use crate::broker::Broker;
use crate::client::*;

#[test]
fn produce_fetch_and_metadata_on_one_connection_are_answered_in_order() {
    for cores in [1, 2] {
        let broker = Broker::start(cores, &[]);
        let mut client = Client::connect(broker.address);
        client.create_topic("t", 8);
        let rounds: Vec<_> = (0..50)
            .map(|round| {
                let partition = round % 8;
                let (size, acks) = if round % 3 == 0 {
                    (300_000, -1)
                } else {
                    (200, 1)
                };
                [
                    client.send(&produce("t", partition, acks, batch(size)), PRODUCE_VERSION),
                    client.send(&fetch("t", (partition + 1) % 8, 0, 5), FETCH_VERSION),
                    client.send(&metadata("t"), METADATA_VERSION),
                    client.send(&produce("t", partition, 1, batch(100)), PRODUCE_VERSION),
                ]
            })
            .enumerate()
            .collect();
        let mut next = [0; 8];
        for (round, [first, fetched, metadata, last]) in rounds {
            for id in [first, last] {
                if id == last {
                    client.receive::<FetchRequest>(fetched, FETCH_VERSION);
                    let answer = client.receive::<MetadataRequest>(metadata, METADATA_VERSION);
                    assert_eq!(answer.topics[0].partitions.len(), 8);
                }
                let answer = client.receive::<ProduceRequest>(id, PRODUCE_VERSION);
                let answer = &answer.responses[0].partition_responses[0];
                assert_eq!(answer.error_code, 0);
                assert_eq!(answer.base_offset, next[round % 8]);
                next[round % 8] += 1;
            }
        }
    }
}

#[test]
fn a_fetch_sees_what_its_connection_produced_before() {
    let broker = Broker::start(2, &[]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 4);
    for round in 1..=20 {
        for partition in 0..4 {
            client.send(&produce("t", partition, 0, batch(1000)), PRODUCE_VERSION);
        }
        let response = client.fetch("t", round % 4, i64::from(round) - 1);
        let (bytes, high_watermark) = fetched(&response);
        assert!(bytes > 0, "a fetch waits for what is on its way");
        assert_eq!(high_watermark, i64::from(round));
    }
}
