//! The least a client can be: nonblocking sockets, one prepared request, and a loop that never sleeps. What the generator
//! takes longer than this, into the same sink, is its own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use coati::io::clock;
use coati::io::socket::do_not_pace_loopback;
use glommio::{LocalExecutorBuilder, Placement};

use crate::client;

/// Requests with one record of `record_bytes`, evenly spread over `connections` and over time.
pub struct Load {
    pub connections: usize,
    pub record_bytes: usize,
    pub requests_per_second: f64,
}

struct Connection {
    stream: TcpStream,
    /// When each request was due that has no answer yet.
    due: VecDeque<Instant>,
    received: Vec<u8>,
}

/// Sends `load` for so long on processor 1. The time from when a request was due until it was answered, sorted, of those
/// due after the `warm_up`.
pub fn answer_times(
    address: SocketAddr,
    load: &Load,
    warm_up: Duration,
    measured: Duration,
) -> Vec<Duration> {
    let batch = client::batch(load.record_bytes + 70);
    let request = client::produce("bare", 0, 1, batch);
    let frame = client::frame(&request, client::PRODUCE_VERSION, 1);
    let mut connections: Vec<_> = (0..load.connections)
        .map(|_| Connection::new(address))
        .collect();
    let rate = load.requests_per_second;
    // The executor is what pins a thread: nothing in it waits.
    let executor = LocalExecutorBuilder::new(Placement::Fixed(1));
    let times = executor.spawn(move || async move {
        let start = clock::now();
        let (mut times, mut sent) = (Vec::new(), 0_u32);
        loop {
            let due = start + Duration::from_secs_f64(f64::from(sent) / rate);
            let is_over = due >= start + warm_up + measured;
            if is_over && connections.iter().all(|one| one.due.is_empty()) {
                times.sort_unstable();
                return times;
            }
            if !is_over && clock::now() >= due {
                let turn = sent as usize % connections.len();
                connections[turn].send(&frame, due);
                sent += 1;
            }
            for connection in &mut connections {
                connection.receive(|due| {
                    if due >= start + warm_up {
                        times.push(clock::now() - due);
                    }
                });
            }
        }
    });
    let times = times.expect("a thread").join();
    times.expect("a broker that answers")
}

impl Connection {
    fn new(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).expect("the sink listens");
        stream.set_nodelay(true).expect("a socket option");
        stream.set_nonblocking(true).expect("a socket option");
        do_not_pace_loopback(&stream, address);
        Connection {
            stream,
            due: VecDeque::new(),
            received: Vec::new(),
        }
    }

    fn send(&mut self, mut frame: &[u8], due: Instant) {
        self.due.push_back(due);
        while !frame.is_empty() {
            match self.stream.write(frame) {
                Ok(count) => frame = &frame[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the sink reads: {error}"),
            }
        }
    }

    /// Tells of each request that is answered by now when it was due.
    fn receive(&mut self, mut answered: impl FnMut(Instant)) {
        if self.due.is_empty() {
            return;
        }
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the sink ended the connection"),
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("the sink answers: {error}"),
        }
        while let Some(length) = self.received.first_chunk::<4>() {
            let whole = 4 + u32::from_be_bytes(*length) as usize;
            if self.received.len() < whole {
                return;
            }
            self.received.drain(..whole);
            answered(self.due.pop_front().expect("an answer to a request"));
        }
    }
}
