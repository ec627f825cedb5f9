//! A broker that takes produces and keeps nothing, so that the generator is the slow side. It answers
//! produce requests itself and hands all others to a real broker, which knows of topics.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
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

    /// Serves from now on; what is no produce goes to `broker`.
    pub fn run(&self, broker: SocketAddr) {
        let (taken, listener) = (
            self.taken.clone(),
            self.listener.try_clone().expect("a clone"),
        );
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let taken = taken.clone();
                thread::spawn(move || {
                    // The connection's end, whoever ends it.
                    let _ended = serve(&client, broker, &taken);
                });
            }
        });
    }

    pub fn records(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

fn serve(client: &TcpStream, broker: SocketAddr, taken: &AtomicU64) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let server = TcpStream::connect(broker)?;
    server.set_nodelay(true)?;
    let mut requests = BufReader::with_capacity(256 << 10, client);
    let mut answers = Vec::new();
    loop {
        let request = frame(&mut requests)?;
        if i16::from_be_bytes([request[0], request[1]]) == ProduceRequest::KEY {
            answers.extend_from_slice(&answer(request, taken));
        } else {
            send(&server, &request)?;
            let response = frame(&mut &server)?;
            answers.extend_from_slice(&(response.len() as u32).to_be_bytes());
            answers.extend_from_slice(&response);
        }
        if requests.buffer().is_empty() {
            (&mut &*client).write_all(&answers)?;
            answers.clear();
        }
    }
}

fn frame(from: &mut impl Read) -> std::io::Result<Bytes> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    let mut frame = Vec::with_capacity(length);
    if from.take(length as u64).read_to_end(&mut frame)? < length {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(frame.into())
}

fn send(mut to: &TcpStream, frame: &[u8]) -> std::io::Result<()> {
    to.write_all(&(frame.len() as u32).to_be_bytes())?;
    to.write_all(frame)
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
