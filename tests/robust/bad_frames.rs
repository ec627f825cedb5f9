//! Frames that are none: each gets an error or a closed connection with exactly one log line, and nobody else notices.

use std::io::Write;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coati::io::clock;
use coati::protocol::messages::{ApiVersionsRequest, MetadataRequest};

use crate::broker::Broker;
use crate::client::*;

/// What a canary may wait for one answer on a crowded machine; a hang would take much longer.
const CANARY_PATIENCE: Duration = Duration::from_secs(10);

/// Memory that a test may cost the broker and not give back: caches and the allocator's slack.
const GROWTH_MAX: usize = 64 << 20;

/// A client that produces and fetches all the while, and panics if it is ever left alone.
struct Canary {
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Canary {
    fn start(broker: &Broker) -> Canary {
        let done = Arc::new(AtomicBool::new(false));
        let seen = done.clone();
        let mut client = Client::connect(broker.address);
        client.create_topic("canary", 2);
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                let began = clock::now();
                let partition = round % 2;
                assert_eq!(client.produce("canary", partition, batch(500)).0, 0);
                let response = client.fetch("canary", partition, i64::from(round / 2));
                assert!(fetched(&response).0 > 0);
                let took = began.elapsed();
                assert!(took < CANARY_PATIENCE, "the canary waited {took:?}");
                if seen.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Canary {
            done,
            thread: Some(thread),
        }
    }

    fn finish(mut self) {
        self.done.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("finished once");
        thread.join().expect("the canary was served all the while");
    }
}

/// `body` with its length in front.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as i32).to_be_bytes()[..], body].concat()
}

fn header(key: i16, version: i16) -> Vec<u8> {
    let client_id = [&5_i16.to_be_bytes()[..], b"rogue"].concat();
    [
        &key.to_be_bytes()[..],
        &version.to_be_bytes(),
        &7_i32.to_be_bytes(),
        &client_id,
    ]
    .concat()
}

/// What ends a connection, by name.
fn fatal_frames() -> Vec<(&'static str, Vec<u8>)> {
    let mut negative_array = header(3, 1);
    negative_array.extend(i32::MIN.to_be_bytes());
    let mut huge_array = header(3, 1);
    huge_array.extend(i32::MAX.to_be_bytes());
    let mut client_id_too_long = header(18, 0);
    client_id_too_long[8..10].copy_from_slice(&i16::MAX.to_be_bytes());
    let mut not_text = header(3, 1);
    let end = not_text.len();
    not_text[end - 5..].copy_from_slice(&[0xff; 5]);
    vec![
        ("a negative length", (-1_i32).to_be_bytes().to_vec()),
        ("the smallest length", i32::MIN.to_be_bytes().to_vec()),
        (
            "a length above the limit",
            (104_857_601_i32).to_be_bytes().to_vec(),
        ),
        ("the largest length", i32::MAX.to_be_bytes().to_vec()),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        (
            "TLS",
            vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0],
        ),
        ("an empty frame", framed(&[])),
        ("a header of three bytes", framed(&[0, 3, 0])),
        ("an api key that nobody knows", framed(&header(12_345, 0))),
        ("a negative api key", framed(&header(-1, 0))),
        ("an api that is not served", framed(&header(4, 0))),
        (
            "a version that is too new",
            framed(&[&header(3, 99)[..], &[0]].concat()),
        ),
        ("a negative version", framed(&header(3, -1))),
        ("a client id that is too long", framed(&client_id_too_long)),
        ("a client id that is no text", framed(&not_text)),
        ("a body that is missing", framed(&header(3, 1))),
        ("an array of negative length", framed(&negative_array)),
        ("an array longer than its frame", framed(&huge_array)),
        (
            "garbage for a body",
            framed(&[&header(1, 12)[..], &[0xa5; 300]].concat()),
        ),
        (
            "a produce of garbage",
            framed(&[&header(0, 9)[..], &[0xff; 300]].concat()),
        ),
    ]
}

#[test]
fn a_bad_frame_closes_its_connection_with_one_log_line() {
    let mut broker = Broker::start(2, &[]);
    let canary = Canary::start(&broker);
    let mut ports = Vec::new();
    for (name, bytes) in fatal_frames() {
        let mut client = Client::connect(broker.address);
        let port = client.stream.local_addr().expect("connected").port();
        ports.push((name, port));
        client.stream.write_all(&bytes).expect("sent");
        client.expect_closed();
    }
    // A stream that ends inside a frame, at every place of it.
    let good = frame(&metadata("canary"), METADATA_VERSION, 1);
    for end in 1..good.len() {
        let mut client = Client::connect(broker.address);
        let port = client.stream.local_addr().expect("connected").port();
        ports.push(("a truncated frame", port));
        client.stream.write_all(&good[..end]).expect("sent");
        client.stream.shutdown(Shutdown::Write).expect("half open");
        client.expect_closed();
    }
    canary.finish();
    broker.signal("TERM");
    assert_eq!(broker.wait().code(), Some(0));
    broker.wait_for_line("stopped");
    for (name, port) in ports {
        let lines = broker.lines_with(&format!("127.0.0.1:{port} "));
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
    }
    assert!(broker.lines_with("panicked").is_empty());
}

#[test]
fn bad_content_in_a_good_frame_gets_an_error_and_the_connection_lives() {
    let broker = Broker::start(2, &[]);
    let mut client = Client::connect(broker.address);
    client.create_topic("t", 1);
    let good = batch(1000);
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.to_vec();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let resealed = |at: usize, bytes: &[u8]| {
        let mut bad = changed(at, bytes);
        let crc = crc32c::crc32c(&bad[21..]);
        bad[17..21].copy_from_slice(&crc.to_be_bytes());
        bad
    };
    let bad = [
        ("a wrong CRC", changed(17, &[1, 2, 3, 4])),
        ("a flipped byte", changed(200, b"y")),
        ("a batch length of zero", changed(8, &[0; 4])),
        ("a negative batch length", changed(8, &[0xff; 4])),
        (
            "a batch longer than its frame",
            changed(8, &i32::MAX.to_be_bytes()),
        ),
        ("magic 1", changed(16, &[1])),
        ("magic 77", changed(16, &[77])),
        (
            "no records by its count",
            resealed(57, &0_i32.to_be_bytes()),
        ),
        (
            "more records by its count",
            resealed(57, &5_i32.to_be_bytes()),
        ),
        ("a negative count", resealed(57, &(-1_i32).to_be_bytes())),
        (
            "offsets that do not fit the count",
            resealed(23, &9_i32.to_be_bytes()),
        ),
        ("an unknown codec", resealed(21, &7_i16.to_be_bytes())),
        ("a truncated batch", good[..good.len() - 1].to_vec()),
        ("half a header", good[..30].to_vec()),
        ("two batches", [&good[..], &good].concat()),
        ("nothing", Vec::new()),
        ("zeroes", vec![0; 500]),
    ];
    for (name, bytes) in bad {
        let (error, offset) = client.produce("t", 0, bytes.into());
        assert_ne!(error, 0, "{name}");
        assert_eq!(offset, -1, "{name}");
    }
    assert_eq!(
        client.produce("t", 0, good),
        (0, 0),
        "nothing of all that was stored"
    );
    assert_ne!(client.produce("absent", 0, batch(100)).0, 0);
    assert_ne!(client.produce("t", -1, batch(100)).0, 0);
    let unanswerable = produce("t", 0, 17, batch(100));
    let response = client.call(&unanswerable, PRODUCE_VERSION);
    assert_eq!(response.responses[0].partition_responses[0].error_code, 21);
    // ApiVersions of the future: the list of what there is, in version 0.
    client
        .stream
        .write_all(&framed(&[&header(18, 99)[..], &[0]].concat()))
        .expect("sent");
    let answer = client.receive_frame().expect("an answer");
    assert_eq!(&answer[..6], [0, 0, 0, 7, 0, 35]);
    client.call(&ApiVersionsRequest::default(), 0);
    // Bytes behind a request are nobody's, as in Kafka.
    let mut left_over = frame(&metadata("t"), METADATA_VERSION, 1)[4..].to_vec();
    left_over.extend([1, 2, 3]);
    client.stream.write_all(&framed(&left_over)).expect("sent");
    client.receive::<MetadataRequest>(1, METADATA_VERSION);
}

#[test]
fn failures_of_unacknowledged_produces_are_one_line_however_many_they_are() {
    let broker = Broker::start(1, &[]);
    let mut client = Client::connect(broker.address);
    let port = client.stream.local_addr().expect("connected").port();
    let bad = frame(&produce("absent", 0, 0, batch(100)), PRODUCE_VERSION, 1);
    client.stream.write_all(&bad.repeat(20)).expect("sent");
    client.expect_closed();
    let mut other = Client::connect(broker.address);
    other.call(&metadata("t"), METADATA_VERSION);
    broker.wait_for_line(&format!("127.0.0.1:{port} "));
    assert_eq!(broker.lines_with(&format!("127.0.0.1:{port} ")).len(), 1);
}

#[test]
fn random_bytes_never_hang_or_grow_the_broker() {
    let mut broker = Broker::start(2, &[]);
    let canary = Canary::start(&broker);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let before = broker.resident_bytes();
    for round in 0..600 {
        let mut bytes: Vec<u8> = (0..next() % 400).map(|_| next() as u8).collect();
        match round % 3 {
            0 => {}
            1 => bytes = framed(&bytes),
            // A header that is served, then random bytes.
            _ => {
                let keys = [0, 1, 2, 3, 18, 19, 22, 32, 44, 60];
                let header = header(keys[next() as usize % keys.len()], (next() % 12) as i16);
                bytes = framed(&[&header[..], &bytes].concat());
            }
        }
        let mut client = Client::connect(broker.address);
        // The broker may have closed by now.
        let _closed_early = client.stream.write_all(&bytes);
        let _closed_early = client.stream.shutdown(Shutdown::Write);
        client.expect_closed();
    }
    canary.finish();
    let growth = broker.resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
    assert!(broker.is_alive());
    assert!(broker.lines_with("panicked").is_empty());
}

#[test]
fn a_flood_of_bad_connections_is_counted_not_listed() {
    const FLOOD: usize = 2000;
    let broker = Broker::start(2, &[]);
    let canary = Canary::start(&broker);
    for _ in 0..FLOOD {
        let mut client = Client::connect(broker.address);
        client.stream.write_all(&[0xff; 8]).expect("sent");
        client.expect_closed();
    }
    canary.finish();
    let counted = |line: &String| -> usize {
        let after = line.split("connections=").nth(1).expect("a count");
        let digits = after.split(' ').next().expect("a number");
        digits.parse().expect("a number")
    };
    let total = broker.wait_for("all bad connections to be told", |lines| {
        let single = lines
            .iter()
            .filter(|line| line.contains("connection closed"));
        let more = lines
            .iter()
            .filter(|line| line.contains("more connections closed"));
        let total = single.count() + more.map(counted).sum::<usize>();
        (total >= FLOOD).then_some(total)
    });
    assert_eq!(total, FLOOD);
    let lines = broker.lines_with("closed").len();
    assert!(lines < FLOOD / 2, "{lines} lines");
}

#[test]
fn frames_that_arrive_byte_by_byte_are_answered() {
    let broker = Broker::start(2, &[]);
    let canary = Canary::start(&broker);
    let mut clients: Vec<Client> = (0..100).map(|_| Client::connect(broker.address)).collect();
    let request = frame(&metadata("canary"), METADATA_VERSION, 1);
    for byte in &request {
        for client in &mut clients {
            client.stream.write_all(&[*byte]).expect("sent");
        }
    }
    for client in &mut clients {
        client.receive::<MetadataRequest>(1, METADATA_VERSION);
    }
    canary.finish();
}

#[test]
fn clients_that_never_read_are_not_read_either() {
    let mut broker = Broker::start(2, &[]);
    let mut setup = Client::connect(broker.address);
    setup.create_topic("t", 50);
    let canary = Canary::start(&broker);
    let before = broker.resident_bytes();
    let requests = frame(&metadata("t"), METADATA_VERSION, 1).repeat(1000);
    let _deaf: Vec<Client> = (0..20)
        .map(|_| {
            let mut client = Client::connect(broker.address);
            let pause = Some(Duration::from_millis(300));
            client
                .stream
                .set_write_timeout(pause)
                .expect("a socket option");
            // Until the broker has stopped reading and the kernel's buffers are full.
            while client.stream.write_all(&requests).is_ok() {}
            client
        })
        .collect();
    canary.finish();
    let growth = broker.resident_bytes().saturating_sub(before);
    assert!(growth < GROWTH_MAX, "grew by {growth} bytes");
    assert!(broker.is_alive());
    let answer = setup.call(&produce("t", 0, -1, batch(100)), PRODUCE_VERSION);
    assert_eq!(answer.responses[0].partition_responses[0].error_code, 0);
}
