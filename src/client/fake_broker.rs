//! A broker for tests: real sockets on this core, answers by script.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::{Buf, BytesMut};

use super::notify::Notify;
use crate::io::socket::{BoundListener, Listener, Socket};
use crate::protocol::messages::api_versions_response::{ApiVersion, ApiVersionsResponse};
use crate::protocol::messages::{
    APIS, ApiVersionsRequest, InitProducerIdRequest, InitProducerIdResponse,
};
use crate::protocol::{
    Message, Reader, Request, RequestHeader, Response, Writer, read_request_header,
    write_response_header,
};

/// What the script makes of a request.
pub enum Reply {
    /// A whole frame.
    Frame(Vec<u8>),
    Silence,
    Close,
}

impl Reply {
    pub fn with<T: Response>(header: &RequestHeader, response: &T) -> Reply {
        let mut writer = Writer::frame();
        let (key, version) = (header.api_key, header.api_version);
        write_response_header(&mut writer, key, version, header.correlation_id);
        response.encode(&mut writer, version).unwrap();
        Reply::Frame(writer.into_bytes().to_vec())
    }
}

type Script = Rc<dyn Fn(&RequestHeader, &mut Reader) -> Reply>;

pub struct FakeBroker {
    pub address: String,
    pub port: i32,
    /// Headers of all requests so far.
    pub seen: Rc<RefCell<Vec<RequestHeader>>>,
    closed: Rc<(Cell<usize>, Notify)>,
}

impl FakeBroker {
    /// Answers ApiVersions with all that we know ourselves; the rest goes to `script`.
    pub fn start(script: impl Fn(&RequestHeader, &mut Reader) -> Reply + 'static) -> FakeBroker {
        FakeBroker::start_raw(move |header, reader| {
            if header.api_key == ApiVersionsRequest::KEY {
                Reply::with(header, &all_versions())
            } else {
                script(header, reader)
            }
        })
    }

    /// Answers InitProducerId with the time-out that it was asked with.
    pub fn echo() -> FakeBroker {
        FakeBroker::start(|header, reader| {
            let request = InitProducerIdRequest::decode(reader, header.api_version).unwrap();
            let response = InitProducerIdResponse {
                producer_id: i64::from(request.transaction_timeout_ms),
                ..InitProducerIdResponse::default()
            };
            Reply::with(header, &response)
        })
    }

    /// Leaves ApiVersions to the script, too.
    pub fn start_raw(
        script: impl Fn(&RequestHeader, &mut Reader) -> Reply + 'static,
    ) -> FakeBroker {
        let bound = BoundListener::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = bound.local_address().unwrap();
        let listener = Listener::adopt(bound).unwrap();
        let seen = Rc::<RefCell<Vec<RequestHeader>>>::default();
        let script: Script = Rc::new(script);
        let closed = Rc::<(Cell<usize>, Notify)>::default();
        let (noted, ended) = (Rc::clone(&seen), Rc::clone(&closed));
        glommio::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let socket = Socket::adopt(stream);
                let (script, seen) = (Rc::clone(&script), Rc::clone(&noted));
                let ended = Rc::clone(&ended);
                glommio::spawn_local(async move {
                    serve(socket, script, seen).await;
                    ended.0.set(ended.0.get() + 1);
                    ended.1.notify();
                })
                .detach();
            }
        })
        .detach();
        FakeBroker {
            address: address.to_string(),
            port: address.port().into(),
            seen,
            closed,
        }
    }

    /// Resolves when this many connections have ended.
    pub async fn closed(&self, count: usize) {
        let (closed, changed) = &*self.closed;
        changed.wait_until(|| closed.get() >= count).await;
    }
}

async fn serve(socket: Socket, script: Script, seen: Rc<RefCell<Vec<RequestHeader>>>) {
    let mut buffer = BytesMut::new();
    loop {
        while let Some(prefix) = buffer.first_chunk::<4>() {
            let length = u32::from_be_bytes(*prefix) as usize;
            if buffer.len() < 4 + length {
                break;
            }
            buffer.advance(4);
            let mut reader = Reader::new(buffer.split_to(length).freeze());
            let header = read_request_header(&mut reader).unwrap();
            seen.borrow_mut().push(header.clone());
            match script(&header, &mut reader) {
                Reply::Frame(bytes) => {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let slices = [std::io::IoSlice::new(rest)];
                        let Ok(sent) = socket.send(&slices).await else {
                            return;
                        };
                        rest = &rest[sent..];
                    }
                }
                Reply::Silence => {}
                Reply::Close => return socket.shutdown(),
            }
        }
        buffer.reserve(64 << 10);
        if !matches!(socket.receive(&mut buffer).await, Ok(1..)) {
            return;
        }
    }
}

pub fn all_versions() -> ApiVersionsResponse {
    ApiVersionsResponse {
        api_keys: APIS
            .iter()
            .map(|&(api_key, _, min_version, max_version, _)| ApiVersion {
                api_key,
                min_version,
                max_version,
            })
            .collect(),
        ..ApiVersionsResponse::default()
    }
}

/// Runs a test on an executor of its own.
pub fn on_executor<T>(test: impl Future<Output = T>) -> T {
    glommio::LocalExecutorBuilder::default()
        .make()
        .unwrap()
        .run(test)
}
