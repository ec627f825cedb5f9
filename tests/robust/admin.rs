//! The admin endpoint of the real broker: what it answers, whom it refuses, and that no client of it harms another.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;

use coati::limits::ADMIN_CONNECTIONS_MAX;

use crate::broker::{Broker, PATIENCE};
use crate::client::{Client, METADATA_VERSION, PRODUCE_VERSION, batch, metadata, produce};

pub struct Answer {
    status: u16,
    head: String,
    pub body: String,
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the endpoint listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    stream
}

/// One answer from a connection that may have more.
fn receive(stream: &mut impl Read, has_body: bool) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a whole head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let status = head.split(' ').nth(1).expect("a status");
    let length = head.split("Content-Length: ").nth(1).expect("a length");
    let length = length.split("\r\n").next().expect("a line").parse();
    let length: usize = if has_body {
        length.expect("a number")
    } else {
        0
    };
    let mut body = vec![0; length];
    stream.read_exact(&mut body).expect("a whole body");
    Answer {
        status: status.parse().expect("a number"),
        body: String::from_utf8(body).expect("text"),
        head,
    }
}

fn ask(address: SocketAddr, request: &str) -> Answer {
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("it reads");
    receive(&mut stream, true)
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    ask(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    )
}

/// How often the cores were in a stage.
fn count(admin: SocketAddr, wanted: &str) -> u64 {
    let page = get(admin, "/debug/stages?buckets");
    assert!(page.head.contains("application/json"));
    let page: serde_json::Value = serde_json::from_str(&page.body).expect("JSON");
    let cores = page["cores"].as_array().expect("a list");
    let stages = cores
        .iter()
        .flat_map(|core| core["stages"].as_array().expect("a list"));
    stages
        .filter(|stage| stage["stage"] == wanted)
        .map(|stage| stage["count"].as_u64().expect("a number"))
        .sum()
}

/// Acks=all promises stable storage: one that waits for each answer has each of them synced.
#[test]
fn what_all_replicas_acknowledge_was_synced_before() {
    let broker = Broker::start(2, &[]);
    let admin = broker.admin();
    let mut client = Client::connect(broker.address);
    client.create_topic("durable", 3);
    let syncs = || count(admin, "sync");
    let before = syncs();
    for number in 0..30 {
        let request = produce("durable", number % 3, -1, batch(100));
        client.call(&request, PRODUCE_VERSION);
    }
    let moved = syncs() - before;
    assert!(moved >= 30, "{moved} syncs for 30 answers");
}

/// The value of a sample, named with its labels; 0 where there is none.
pub fn metric(page: &str, name: &str) -> f64 {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

#[test]
fn what_was_produced_is_counted_to_the_record() {
    let broker = Broker::start(2, &[]);
    let admin = broker.admin();
    assert_eq!(get(admin, "/healthz").body, "ok\n");
    assert_eq!(get(admin, "/readyz").body, "ready\n");
    let before = get(admin, "/metrics").body;
    let mut client = Client::connect(broker.address);
    client.create_topic("counted", 3);
    let mut bytes = 0;
    for number in 0..30 {
        let request = produce("counted", number % 3, -1, batch(100));
        let records = request.topic_data[0].partition_data[0].records.as_ref();
        bytes += records.expect("a batch").len();
        client.call(&request, PRODUCE_VERSION);
    }
    let page = get(admin, "/metrics").body;
    let moved = |name: &str| metric(&page, name) - metric(&before, name);
    assert_eq!(
        moved("kafka_server_brokertopicmetrics_messagesin_total"),
        30.0
    );
    assert_eq!(
        moved("kafka_server_brokertopicmetrics_bytesin_total"),
        bytes as f64
    );
    assert_eq!(
        moved("kafka_server_brokertopicmetrics_messagesin_total{topic=\"counted\"}"),
        30.0
    );
    assert_eq!(
        moved("kafka_network_requestmetrics_requests_total{request=\"Produce\"}"),
        30.0
    );
    // The last response may have come before the broker knows that it has left.
    assert!(moved("kafka_network_requestmetrics_totaltimems_count{request=\"Produce\"}") >= 29.0);
    for partition in 0..3 {
        let end =
            format!("kafka_log_log_logendoffset{{topic=\"counted\",partition=\"{partition}\"}}");
        assert_eq!(moved(&end), 10.0);
    }
    assert_eq!(moved("kafka_server_replicamanager_partitioncount"), 3.0);
    assert!((29..=30).contains(&count(admin, "append")));
    assert!((29..=30).contains(&count(admin, "commit")));
    assert!(count(admin, "respond") >= 29);
}

#[test]
fn a_connection_takes_requests_one_after_the_other_and_all_at_once() {
    let broker = Broker::start(1, &[]);
    let mut stream = connect(broker.admin());
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .expect("it reads");
        assert_eq!(receive(&mut stream, true).status, 200);
    }
    let many = "HEAD /metrics HTTP/1.1\r\nHost: [::1]\r\n\r\n".repeat(50);
    stream.write_all(many.as_bytes()).expect("it reads");
    for _ in 0..50 {
        let answer = receive(&mut stream, false);
        assert_eq!(answer.status, 200);
        assert!(!answer.head.contains("Content-Length: 0\r\n"));
    }
    stream
        .write_all(b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    assert_eq!(receive(&mut stream, true).status, 404);
    assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
}

#[test]
fn bad_requests_are_told_so_and_others_are_served() {
    let broker = Broker::start(2, &[]);
    let admin = broker.admin();
    let long = "a".repeat(20_000);
    let body = "b".repeat(100_000);
    for (request, status) in [
        (
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            403,
        ),
        ("GET /metrics HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("nonsense\r\n\r\n".to_owned(), 400),
        (
            format!(
                "POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{body}"
            ),
            405,
        ),
        (
            format!("GET /{long} HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            431,
        ),
        ("PRI * HTTP/2.0\r\n\r\n".to_owned(), 505),
    ] {
        let answer = ask(admin, &request);
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.head.contains("Connection: close"));
    }
    let mut kafkas = connect(admin);
    kafkas
        .write_all(&[0, 0, 0, 5, 0, 18, 0, 0, 0])
        .expect("it reads");
    assert_eq!(receive(&mut kafkas, true).status, 400);
    assert_eq!(get(admin, "/readyz").status, 200);
}

#[test]
fn silent_connections_are_bounded_and_keep_nobody_from_the_broker() {
    let broker = Broker::start(1, &[]);
    let admin = broker.admin();
    let mut silent: Vec<TcpStream> = (0..ADMIN_CONNECTIONS_MAX).map(|_| connect(admin)).collect();
    for stream in &mut silent {
        stream.write_all(b"GET /metr").expect("it reads");
    }
    let refused = receive(&mut connect(admin), true);
    assert_eq!(
        (refused.status, refused.body.as_str()),
        (503, "too many connections\n")
    );
    let mut client = Client::connect(broker.address);
    client.call(&metadata("t"), METADATA_VERSION);
    // Whoever goes on is answered, and whoever goes makes room.
    let last = silent.last_mut().expect("there are some");
    last.write_all(b"ics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("it reads");
    assert_eq!(receive(last, true).status, 200);
    drop(silent);
    let mut answer = get(admin, "/healthz");
    for _ in 0..1000 {
        if answer.status == 200 {
            break;
        }
        answer = get(admin, "/healthz");
    }
    assert_eq!(answer.status, 200);
}

#[test]
fn an_address_that_is_taken_is_an_error_where_it_was_asked_for() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let started = Command::new(env!("CARGO_BIN_EXE_coati"))
        .args([
            "start",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            &address,
            "--data-dir",
        ])
        .arg(folder.path())
        .output()
        .expect("the broker's binary runs");
    assert_eq!(started.status.code(), Some(1));
    let said = String::from_utf8(started.stderr).expect("text");
    let last = said.lines().last().expect("a line");
    assert!(
        last.contains(&address) && last.contains("--admin HOST:PORT"),
        "{said}"
    );
    assert!(!said.contains("Server started"));
}

#[test]
fn a_default_address_that_is_taken_is_done_without() {
    // Taken by us or by somebody else.
    let _taken = TcpListener::bind("127.0.0.1:9192");
    let broker = Broker::start_with_default_admin();
    broker.wait_for_line("no admin endpoint");
    let mut client = Client::connect(broker.address);
    client.call(&metadata("t"), METADATA_VERSION);
    assert!(broker.lines_with("admin endpoint url").is_empty());
}

#[test]
fn without_an_admin_endpoint_there_is_none() {
    let broker = Broker::start(1, &["admin.listener=off"]);
    assert!(broker.lines_with("admin endpoint").is_empty());
}
