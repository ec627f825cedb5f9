//! Owns a blocking Kafka client that can do what no good client does: send any bytes, stop half way, never read.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use bytes::Bytes;
use coati::protocol::batch::BatchBuilder;
use coati::protocol::header::{read_response_header, write_request_header};
use coati::protocol::messages::create_topics_request::CreatableTopic;
use coati::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use coati::protocol::messages::metadata_request::MetadataRequestTopic;
use coati::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use coati::protocol::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, MetadataRequest, ProduceRequest,
};
use coati::protocol::{Message, Reader, Records, Request, RequestHeader, Str, Writer};

use crate::broker::PATIENCE;

/// The newest versions that name topics by name.
pub const PRODUCE_VERSION: i16 = 9;
pub const FETCH_VERSION: i16 = 12;
pub const METADATA_VERSION: i16 = 9;

pub struct Client {
    pub stream: TcpStream,
    next_correlation: i32,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).expect("the broker listens");
        stream.set_nodelay(true).expect("a socket option");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket option");
        Client {
            stream,
            next_correlation: 1,
        }
    }

    /// Sends a request and gives its correlation id.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let correlation_id = self.next_correlation;
        self.next_correlation += 1;
        let frame = frame(request, version, correlation_id);
        self.stream.write_all(&frame).expect("the broker reads");
        correlation_id
    }

    /// Receives the response to the request with this correlation id, which must be the next one.
    pub fn receive<R: Request>(&mut self, correlation_id: i32, version: i16) -> R::Response {
        let mut reader = Reader::new(self.receive_frame().expect("a response"));
        let answered = read_response_header(&mut reader, R::KEY, version).expect("a header");
        assert_eq!(
            answered, correlation_id,
            "responses come in the order of requests"
        );
        R::Response::decode(&mut reader, version).expect("a response that can be decoded")
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let correlation_id = self.send(request, version);
        self.receive::<R>(correlation_id, version)
    }

    /// As [`Client::call`]; an error when the broker ends the connection instead.
    pub fn try_call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        self.stream.write_all(&frame(request, version, 1))?;
        let mut reader = Reader::new(self.receive_frame()?);
        read_response_header(&mut reader, R::KEY, version).expect("a header");
        Ok(R::Response::decode(&mut reader, version).expect("a response that can be decoded"))
    }

    /// Ends its half of the stream and waits for the broker to end the other.
    pub fn expect_end(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("half open");
        self.expect_closed();
    }

    pub fn receive_frame(&mut self) -> io::Result<Bytes> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame.into())
    }

    /// Reads until the broker ends the connection; panics when it does not.
    pub fn expect_closed(&mut self) {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the broker keeps a connection that it should close: {error}"),
        }
    }

    pub fn create_topic(&mut self, name: &str, partitions: i32) {
        let request = CreateTopicsRequest {
            topics: vec![CreatableTopic {
                name: Str::from(name.to_owned()),
                num_partitions: partitions,
                replication_factor: 1,
                ..Default::default()
            }],
            timeout_ms: 30_000,
            ..Default::default()
        };
        let response = self.call(&request, 5);
        assert_eq!(response.topics[0].error_code, 0);
    }

    /// Produces one batch and gives the error code and the offset.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> (i16, i64) {
        let response = self.call(&produce(topic, partition, 1, batch), PRODUCE_VERSION);
        let answer = &response.responses[0].partition_responses[0];
        (answer.error_code, answer.base_offset)
    }

    pub fn fetch(&mut self, topic: &str, partition: i32, offset: i64) -> FetchResponse {
        self.call(&fetch(topic, partition, offset, 500), FETCH_VERSION)
    }
}

/// A request as it goes over the wire.
pub fn frame<R: Request>(request: &R, version: i16, correlation_id: i32) -> Vec<u8> {
    let mut writer = Writer::new();
    let header = RequestHeader {
        api_key: R::KEY,
        api_version: version,
        correlation_id,
        client_id: Some(Str::from("robust")),
    };
    write_request_header(&mut writer, &header).expect("a header");
    request.encode(&mut writer, version).expect("a request");
    let body = writer.into_bytes();
    [&(body.len() as i32).to_be_bytes()[..], &body[..]].concat()
}

/// One batch with one record, of about `bytes`.
pub fn batch(bytes: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    let value = vec![b'x'; bytes.saturating_sub(70)];
    builder.append(1_700_000_000_000, None, Some(&value), &[]);
    builder.build()
}

pub fn produce(topic: &str, partition: i32, acks: i16, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        acks,
        timeout_ms: 30_000,
        topic_data: vec![TopicProduceData {
            name: Str::from(topic.to_owned()),
            partition_data: vec![PartitionProduceData {
                index: partition,
                records: Some(Records::from(batch)),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A fetch of at least one byte, without a session.
pub fn fetch(topic: &str, partition: i32, offset: i64, max_wait_ms: i32) -> FetchRequest {
    FetchRequest {
        max_wait_ms,
        min_bytes: 1,
        max_bytes: 50 << 20,
        session_epoch: -1,
        topics: vec![FetchTopic {
            topic: Str::from(topic.to_owned()),
            partitions: vec![FetchPartition {
                partition,
                fetch_offset: offset,
                partition_max_bytes: 50 << 20,
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

pub fn metadata(topic: &str) -> MetadataRequest {
    MetadataRequest {
        topics: Some(vec![MetadataRequestTopic {
            name: Some(Str::from(topic.to_owned())),
            ..Default::default()
        }]),
        allow_auto_topic_creation: false,
        ..Default::default()
    }
}

/// Bytes of records in a fetch response, and the high watermark, of its only partition.
pub fn fetched(response: &FetchResponse) -> (usize, i64) {
    let partition = &response.responses[0].partitions[0];
    assert_eq!(partition.error_code, 0);
    let bytes = partition.records.as_ref().map_or(0, Records::len);
    (bytes, partition.high_watermark)
}
