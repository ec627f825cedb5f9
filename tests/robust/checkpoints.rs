//! Offset checkpoints that cannot be written: what they say of a deleted topic must never be believed of the next of its
//! name.

use coati::protocol::Str;
use coati::protocol::messages::create_topics_request::CreatableTopic;
use coati::protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use coati::protocol::messages::{CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest};

use crate::broker::Broker;
use crate::client::*;

const RECORDS: i64 = 5;

#[test]
fn no_topic_is_made_before_the_checkpoints_have_forgotten_one_of_its_name() {
    let mut broker = Broker::start(2, &[]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    for offset in 0..RECORDS {
        // Deleting goes up to the high watermark.
        let answer = client.call(&produce("t", 0, -1, batch(100)), PRODUCE_VERSION);
        assert_eq!(
            answer.responses[0].partition_responses[0].base_offset,
            offset
        );
    }
    let request = DeleteRecordsRequest {
        topics: vec![DeleteRecordsTopic {
            name: Str::from("t"),
            partitions: vec![DeleteRecordsPartition {
                partition_index: 0,
                offset: RECORDS,
            }],
        }],
        timeout_ms: 30_000,
    };
    let deleted = client.call(&request, 2);
    assert_eq!(deleted.topics[0].partitions[0].low_watermark, RECORDS);

    // Nothing can be written there any more.
    let obstacle = broker.data().join("log-start-offset-checkpoint.tmp");
    std::fs::create_dir(&obstacle).expect("the folder is ours");
    let request = DeleteTopicsRequest {
        topic_names: vec![Str::from("t")],
        timeout_ms: 30_000,
        ..Default::default()
    };
    let deleted = client.call(&request, 5);
    assert_eq!(deleted.responses[0].error_code, 0);
    let request = CreateTopicsRequest {
        topics: vec![CreatableTopic {
            name: Str::from("t"),
            num_partitions: 1,
            replication_factor: 1,
            ..Default::default()
        }],
        timeout_ms: 30_000,
        ..Default::default()
    };
    let creation = client.send(&request, 5);
    let complaint = "the offset checkpoints could not be written: no topic is made";
    let tried_again = |lines: &[String]| {
        let complaints = lines.iter().filter(|line| line.contains(complaint));
        (complaints.count() >= 2).then_some(())
    };
    broker.wait_for("a second complaint", tried_again);
    assert!(!broker.data().join("t-0").exists());

    std::fs::remove_dir(&obstacle).expect("it is empty");
    let created = client.receive::<CreateTopicsRequest>(creation, 5);
    assert_eq!(created.topics[0].error_code, 0);
    assert_eq!(client.produce("t", 0, batch(100)), (0, 0));
    broker.signal("KILL");
    broker.wait();

    let broker = broker.start_again(&[]);
    let mut client = Client::connect(broker.address);
    let (bytes, high_watermark) = fetched(&client.fetch("t", 0, 0));
    assert!(bytes > 0, "a record that was acknowledged is there");
    assert_eq!(high_watermark, 1);
}
