//! A broker that takes produces and keeps nothing, so that the generator is the slow side. It answers
//! produce requests itself and hands all others to a real broker, which knows of topics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use bytes::{Bytes, BytesMut};
use coati::io::socket::do_not_pace_loopback;
use coati::protocol::batch::BatchView;
use coati::protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use coati::protocol::messages::{ProduceRequest, ProduceResponse};
use coati::protocol::{
    Message, Reader, Request, Writer, read_request_header, write_response_header,
};

pub struct Sink {
    pub address: String,
    listener: TcpListener,
    /// Records produced into it.
    taken: Arc<AtomicU64>,
}

impl Sink {
    pub fn bind() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        Sink {
            address: listener.local_addr().expect("it is bound").to_string(),
            listener,
            taken: Arc::default(),
        }
    }

    /// Serves from now on; what is no produce goes to `broker`. One thread that never sleeps: whoever sends to it
    /// need not wake it, which costs more than sending. Another one accepts: to look for a connection where none is makes
    /// and frees a socket each time.
    pub fn run(&self, broker: SocketAddr) {
        let (taken, listener) = (
            self.taken.clone(),
            self.listener.try_clone().expect("a clone"),
        );
        let (accepted, come) = mpsc::channel();
        thread::spawn(move || {
            while let Ok((client, peer)) = listener.accept() {
                do_not_pace_loopback(&client, peer);
                let connection = Connection::new(client, broker).expect("a connection");
                if accepted.send(connection).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            let mut connections: Vec<Connection> = Vec::new();
            loop {
                connections.extend(come.try_iter());
                // One that fails has ended, whoever ended it.
                connections.retain_mut(|connection| connection.turn(&taken).is_ok());
                thread::yield_now();
            }
        });
    }

    pub fn records(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// A connection holds this much of what its peer sends ahead; its requests are smaller.
const BUFFER_BYTES: usize = 1 << 20;

struct Connection {
    client: TcpStream,
    server: TcpStream,
    /// Received, and not yet answered up to `filled`.
    memory: BytesMut,
    filled: usize,
    answers: Vec<u8>,
}

impl Connection {
    fn new(client: TcpStream, broker: SocketAddr) -> std::io::Result<Connection> {
        client.set_nodelay(true)?;
        client.set_nonblocking(true)?;
        let server = TcpStream::connect(broker)?;
        server.set_nodelay(true)?;
        Ok(Connection {
            client,
            server,
            memory: BytesMut::zeroed(BUFFER_BYTES),
            filled: 0,
            answers: Vec::new(),
        })
    }

    /// Takes what is there, and answers what is whole.
    fn turn(&mut self, taken: &AtomicU64) -> std::io::Result<()> {
        match self.client.read(&mut self.memory[self.filled..]) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let all = std::mem::take(&mut self.memory).freeze();
        let mut done = 0;
        while let Some(length) = frame_length(&all[done..self.filled]) {
            let request = all.slice(done + 4..done + 4 + length);
            done += 4 + length;
            if i16::from_be_bytes([request[0], request[1]]) == ProduceRequest::KEY {
                self.answers.extend_from_slice(&answer(request, taken));
            } else {
                (&self.server).write_all(&(length as u32).to_be_bytes())?;
                (&self.server).write_all(&request)?;
                let mut length = [0; 4];
                (&self.server).read_exact(&mut length)?;
                self.answers.extend_from_slice(&length);
                let begin = self.answers.len();
                let end = begin + u32::from_be_bytes(length) as usize;
                self.answers.resize(end, 0);
                (&self.server).read_exact(&mut self.answers[begin..])?;
            }
        }
        self.memory = all.try_into_mut().expect("nothing keeps a request");
        self.memory.copy_within(done..self.filled, 0);
        self.filled -= done;
        let sent = self.client.write(&self.answers).or_else(|error| {
            let full = error.kind() == std::io::ErrorKind::WouldBlock;
            if full { Ok(0) } else { Err(error) }
        })?;
        self.answers.drain(..sent);
        Ok(())
    }
}

/// Of the first frame, if all of it is there.
fn frame_length(received: &[u8]) -> Option<usize> {
    let length = u32::from_be_bytes(*received.first_chunk()?) as usize;
    (received.len() >= 4 + length).then_some(length)
}

/// The framed answer to one produce request.
fn answer(request: Bytes, taken: &AtomicU64) -> Bytes {
    let mut reader = Reader::new(request);
    let header = read_request_header(&mut reader).expect("the generator's own");
    let version = header.api_version;
    let request = ProduceRequest::decode(&mut reader, version).expect("the generator's own");
    let mut records = 0;
    let responses = request.topic_data.into_iter().map(|topic| {
        let partitions = topic.partition_data.into_iter().map(|partition| {
            let batch = partition.records.expect("records").to_bytes();
            records += BatchView::parse(&batch).expect("a batch").records_count() as u64;
            PartitionProduceResponse {
                index: partition.index,
                error_message: None,
                ..PartitionProduceResponse::default()
            }
        });
        TopicProduceResponse {
            name: topic.name,
            topic_id: topic.topic_id,
            partition_responses: partitions.collect(),
        }
    });
    let response = ProduceResponse {
        responses: responses.collect(),
        ..ProduceResponse::default()
    };
    taken.fetch_add(records, Ordering::Relaxed);
    let mut writer = Writer::frame();
    write_response_header(&mut writer, header.api_key, version, header.correlation_id);
    response
        .encode(&mut writer, version)
        .expect("a plain answer");
    writer.into_bytes()
}
