//! Owns the comparison of all that is there with all that was acknowledged.

use std::collections::HashMap;

use coati::client::{Consumer, ConsumerOptions, StartAt};
use coati::ids::Offset;

use crate::writer::{PARTITIONS, Promise, TOPIC, Written, connect, key, on_executor};

/// Where each key lies, by partition: its offsets, rising.
type Places = Vec<HashMap<String, Vec<Offset>>>;

pub fn check(address: &str, written: &[Written]) {
    let places = on_executor(read_all(address));
    for client in written {
        for acknowledged in &client.acknowledged {
            let (partition, number) = (acknowledged.partition, acknowledged.number);
            let found = places[partition].get(&key(client.promise, number));
            let what = format!("{:?} {number} of partition {partition}", client.promise);
            let found = found.unwrap_or_else(|| panic!("{what} was acknowledged and is gone"));
            if let Some(offset) = acknowledged.offset {
                assert!(
                    found.contains(&offset),
                    "{what} was acknowledged at {offset} and is at {found:?}"
                );
            }
            if client.promise == Promise::Once {
                assert_eq!(found.len(), 1, "{what} is there at {found:?}");
            }
        }
        check_order(client, &places);
    }
}

/// The first appearances of a client's records follow each other as they were sent.
fn check_order(client: &Written, places: &Places) {
    for (partition, places) in places.iter().enumerate() {
        let mut last = None;
        for number in 0..client.sent[partition] {
            let Some(found) = places.get(&key(client.promise, number)) else {
                continue;
            };
            assert!(
                Some(found[0]) > last,
                "{:?} {number} of partition {partition} is at {found:?}, the one before at {last:?}",
                client.promise
            );
            last = Some(found[0]);
        }
    }
}

/// Reads every partition; offsets leave nothing out and repeat nothing.
async fn read_all(address: &str) -> Places {
    let options = ConsumerOptions {
        start: StartAt::Beginning,
        stop_at_end: true,
        ..ConsumerOptions::default()
    };
    let cluster = connect(address).await;
    let consumer = Consumer::assign(cluster, TOPIC.into(), None, options).await;
    let mut consumer = consumer.expect("the topic is there");
    let mut places: Places = vec![HashMap::new(); PARTITIONS];
    let mut next = [Offset(0); PARTITIONS];
    while let Some(fetched) = consumer.next().await.expect("records can be read") {
        let partition = fetched.partition.0 as usize;
        for record in fetched.records {
            assert_eq!(record.offset, next[partition], "partition {partition}");
            next[partition] = record.offset.plus(1);
            let key = record.key.expect("all have one");
            let key = String::from_utf8(key.to_vec()).expect("all are text");
            places[partition]
                .entry(key)
                .or_default()
                .push(record.offset);
        }
    }
    places
}
