//! Whole connections of damaged requests: every API and version, as Kafka's own classes write them, with bits, lengths and
//! pieces gone wrong. The broker answers or closes, holds nothing for them afterwards, and serves the next client.

use std::io::Write;
use std::net::Shutdown;

use coati::protocol::api;

use crate::broker::Broker;
use crate::client::*;
use crate::damage::{self, Random, damage};

const CONNECTIONS: usize = 4000;
const FRAMES_MAX: usize = 4;

/// What the second half of the connections may add to what the first left: topics that they made, the allocator's slack.
const GROWTH_MAX: usize = 48 << 20;

#[test]
fn damaged_requests_of_every_api_leave_the_broker_as_it_was() {
    let mut broker = Broker::start(2, &["auto.create.topics.enable=false"]);
    let mut good = Client::connect(broker.address);
    good.create_topic("good", 2);
    let mut frames = damage::request_frames();
    frames.retain(|frame| api::supported(i16::from_be_bytes([frame[0], frame[1]])).is_some());
    assert!(frames.len() > 300);
    let mut random = Random(0x5eed);
    let mut halfway_bytes = 0;
    for number in 0..CONNECTIONS {
        let mut client = Client::connect(broker.address);
        for _ in 0..=random.below(FRAMES_MAX) {
            let frame = whole(&frames, &mut random);
            // The broker may have closed by now.
            if client.stream.write_all(&frame).is_err() {
                break;
            }
        }
        let _closed_early = client.stream.shutdown(Shutdown::Write);
        client.expect_closed();
        if number % 100 == 0 {
            let produced = good.produce("good", (number / 100 % 2) as i32, batch(1000));
            assert_eq!(produced, (0, number as i64 / 200), "after {number}");
        }
        if number == CONNECTIONS / 2 {
            halfway_bytes = broker.resident_bytes();
        }
    }
    let growth = broker.resident_bytes().saturating_sub(halfway_bytes);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
    assert!(broker.lines_with("panicked").is_empty());
    assert!(broker.is_alive());
}

/// A damaged request with its right length, or a right request whose length is damaged too.
fn whole(frames: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut frame = frames[random.below(frames.len())].clone();
    let other = &frames[random.below(frames.len())];
    if random.below(4) > 0 {
        // The key and version stay, else most would end there.
        let mut body = frame.split_off(4);
        damage(&mut body, other, random);
        frame.extend(body);
        return [&(frame.len() as i32).to_be_bytes()[..], &frame].concat();
    }
    let mut whole = [&(frame.len() as i32).to_be_bytes()[..], &frame].concat();
    damage(&mut whole, other, random);
    whole
}
