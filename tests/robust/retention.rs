//! Retention across a restart: a broker that is started often must not keep what is too old for ever.

use coati::io::clock;

use crate::broker::{Broker, PATIENCE};
use crate::client::*;

#[test]
fn what_is_too_old_goes_soon_after_a_start_and_not_an_interval_later() {
    let mut broker = Broker::start(2, &["log.initial.task.delay.ms=3600000"]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    // Of 2023, and topics keep a week.
    assert_eq!(client.produce("t", 0, batch(100)), (0, 0));
    let (bytes, _) = fetched(&client.fetch("t", 0, 0));
    assert!(bytes > 0, "retention has an hour yet");
    broker.signal("TERM");
    assert!(broker.wait().success());

    let settings = [
        "log.initial.task.delay.ms=0",
        "log.retention.check.interval.ms=3600000",
    ];
    let broker = broker.start_again(&settings);
    let mut client = Client::connect(broker.address);
    let deadline = clock::now() + PATIENCE;
    // Nothing comes: each fetch waits before it tells where the log starts by now.
    while client.fetch("t", 0, 1).responses[0].partitions[0].log_start_offset == 0 {
        assert!(clock::now() < deadline, "the record is still there");
    }
}
