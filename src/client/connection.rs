//! Owns one connection to a broker: frames, correlation ids, which versions both sides know. Requests are pipelined:
//! they leave in the order they were submitted, and answers come in that order. It never reconnects, never
//! retries, and knows nothing of topics: `cluster` does.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io::IoSlice;
use std::marker::PhantomData;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures::channel::oneshot;

use super::ClientError;
use super::notify::Notify;
use super::pipeline::Answers;
use super::time::within;
use crate::io::clock::{self, Ticks};
use crate::io::socket::Socket;
use crate::io::timer;
use crate::io::turn;
use crate::protocol::header::{read_response_header, write_request_header};
use crate::protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use crate::protocol::{
    ErrorCode, Message, Part, Parts, Reader, Request, RequestHeader, Response, Str, Writer,
};

/// The largest answer that we take; a fetch answers with far less.
const RESPONSE_BYTES_MAX: usize = 512 << 20;

/// What one receive asks for when nothing tells how much is to come.
const RECEIVE_BYTES: usize = 64 << 10;

/// Less room than this is not worth a receive.
const SPARE_BYTES_MIN: usize = 4 << 10;

/// What is reserved for an announced answer before it arrives. Fetches up to this size are received without being moved.
const RESERVE_BYTES_MAX: usize = 64 << 20;

/// Pieces that one send hands to the kernel.
const SEND_SLICES_MAX: usize = 64;

/// Pieces up to this size are cheaper to copy than to send as pieces of their own.
const SHORT_BYTES_MAX: usize = 1 << 10;

/// How much may wait to be sent before [`Connection::room`] holds its caller back.
const UNSENT_BYTES_MAX: usize = 8 << 20;

/// How often a connection with requests in flight looks for one that is overdue.
const OVERDUE_CHECK: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    pub client_id: Str,
    pub connect_timeout: Duration,
    /// How long an answer may take, unless a request says otherwise.
    pub request_timeout: Duration,
    /// SO_SNDBUF and SO_RCVBUF; `None` leaves it to the kernel.
    pub send_buffer_bytes: Option<usize>,
    pub receive_buffer_bytes: Option<usize>,
}

impl Default for ConnectionOptions {
    fn default() -> ConnectionOptions {
        ConnectionOptions {
            client_id: Str::from("coati"),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

/// A connection that has agreed on versions. Clones share it; it closes when the last clone and the last
/// unanswered request are dropped.
#[derive(Clone, Debug)]
pub struct Connection {
    link: Rc<Link>,
}

impl Connection {
    /// Connects to `host:port` and asks for the broker's versions.
    pub async fn connect(
        address: &str,
        options: &ConnectionOptions,
    ) -> Result<Connection, ClientError> {
        let limit = options.connect_timeout;
        let connecting = async {
            let mut failed = None;
            for resolved in resolve(address).await? {
                match Connection::open(address, resolved, options).await {
                    Ok(connection) => return Ok(connection),
                    Err(error) => failed = Some(error),
                }
            }
            Err(failed.unwrap_or_else(|| ClientError::Resolve {
                address: address.to_owned(),
                reason: "it has no address".into(),
            }))
        };
        let connected = within(limit, connecting).await;
        let connection = connected.unwrap_or_else(|| {
            Err(ClientError::Connect {
                address: address.to_owned(),
                reason: format!("no answer within {} ms", limit.as_millis()),
            })
        })?;
        connection.negotiate().await?;
        Ok(connection)
    }

    async fn open(
        name: &str,
        address: SocketAddr,
        options: &ConnectionOptions,
    ) -> Result<Connection, ClientError> {
        let failed = |error: std::io::Error| ClientError::Connect {
            address: name.to_owned(),
            reason: error.to_string(),
        };
        let socket = Socket::connect(address).await.map_err(failed)?;
        socket
            .set_buffers(options.send_buffer_bytes, options.receive_buffer_bytes)
            .map_err(failed)?;
        let wire = Rc::new(Wire {
            address: name.to_owned(),
            socket,
            unsent: RefCell::default(),
            unsent_bytes: Cell::new(0),
            waiting: RefCell::default(),
            failure: RefCell::default(),
            to_send: Notify::default(),
            sent: Notify::default(),
            watched: Cell::new(false),
        });
        glommio::spawn_local(Rc::clone(&wire).receive()).detach();
        glommio::spawn_local(Rc::clone(&wire).send()).detach();
        Ok(Connection {
            link: Rc::new(Link {
                wire,
                options: options.clone(),
                versions: RefCell::default(),
                next_correlation_id: Cell::new(0),
            }),
        })
    }

    pub fn address(&self) -> &str {
        &self.link.wire.address
    }

    pub fn is_closed(&self) -> bool {
        self.link.wire.failure.borrow().is_some()
    }

    /// Requests that have no answer yet.
    pub fn in_flight(&self) -> usize {
        self.link.wire.waiting.borrow().len()
    }

    /// The range of versions that the broker serves of an API.
    pub fn served(&self, api_key: i16) -> Option<(i16, i16)> {
        self.link.versions.borrow().get(&api_key).copied()
    }

    /// The newest version of `R` that both sides know.
    pub fn version<R: Request>(&self) -> Result<i16, ClientError> {
        self.version_up_to::<R>(R::MAX_VERSION)
    }

    /// The newest version of `R` that both sides know and that is not above `max`.
    pub fn version_up_to<R: Request>(&self, max: i16) -> Result<i16, ClientError> {
        let theirs = self.served(R::KEY);
        theirs
            .map(|(their_min, their_max)| (their_min.max(R::MIN_VERSION), their_max.min(max)))
            .filter(|(min, max)| min <= max)
            .map(|(_, max)| max)
            .ok_or_else(|| ClientError::Unsupported {
                address: self.address().to_owned(),
                api_key: R::KEY,
                ours_min: R::MIN_VERSION,
                ours_max: max,
                theirs,
            })
    }

    /// Asks in the newest version that both sides know, and waits for the answer.
    pub async fn call<R: Request>(&self, request: &R) -> Result<R::Response, ClientError> {
        let version = self.version::<R>()?;
        self.call_at(request, version).await
    }

    pub async fn call_at<R: Request>(
        &self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        self.submit(request, version)?.await
    }

    /// Puts a request in line at once; the answer is awaited separately. What is submitted first leaves first.
    /// Those who submit without awaiting answers wait for [`room`](Connection::room) now and then.
    pub fn submit<R: Request>(
        &self,
        request: &R,
        version: i16,
    ) -> Result<Answer<R::Response>, ClientError> {
        self.submit_within(request, version, self.link.options.request_timeout)
    }

    /// As `submit`, with a time limit of its own. When it passes, the whole connection is given up, as answers
    /// keep their order.
    pub fn submit_within<R: Request>(
        &self,
        request: &R,
        version: i16,
        limit: Duration,
    ) -> Result<Answer<R::Response>, ClientError> {
        let (sender, frame) = oneshot::channel();
        self.put_in_line(request, version, limit, Taker::Asker(sender))?;
        Ok(Answer {
            connection: self.clone(),
            frame,
            version,
            response: PhantomData,
        })
    }

    /// As `submit`, with the answer for `taker`.
    pub(super) fn submit_for<R: Request>(
        &self,
        request: &R,
        version: i16,
        taker: Taker,
    ) -> Result<(), ClientError> {
        self.put_in_line(request, version, self.link.options.request_timeout, taker)
    }

    fn put_in_line<R: Request>(
        &self,
        request: &R,
        version: i16,
        limit: Duration,
        taker: Taker,
    ) -> Result<(), ClientError> {
        let (correlation_id, parts) = self.encode(request, version)?;
        let wire = &self.link.wire;
        wire.waiting.borrow_mut().push_back(Waiting {
            api_key: R::KEY,
            correlation_id,
            submitted: clock::ticks(),
            limit,
            taker,
        });
        wire.watch();
        wire.enqueue(parts);
        Ok(())
    }

    /// The answer to a request of this API and version.
    pub(super) fn decode<R: Request>(
        &self,
        frame: &Bytes,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        decode(frame, version).map_err(|error| self.link.wire.malformed(R::KEY, error))
    }

    /// For the one request that brokers don't answer: a produce with acks=0.
    pub fn submit_unanswered<R: Request>(
        &self,
        request: &R,
        version: i16,
    ) -> Result<(), ClientError> {
        let (_, parts) = self.encode(request, version)?;
        self.link.wire.enqueue(parts);
        Ok(())
    }

    /// Resolves when little enough waits to be sent that more may be submitted, or the connection has ended.
    pub async fn room(&self) {
        let wire = &self.link.wire;
        let has_room =
            || wire.unsent_bytes.get() < UNSENT_BYTES_MAX || wire.failure.borrow().is_some();
        wire.sent.wait_until(has_room).await;
    }

    /// Resolves when all that was submitted has left for the kernel, or the connection has ended.
    pub async fn flushed(&self) -> Result<(), ClientError> {
        let wire = &self.link.wire;
        let is_done = || wire.unsent_bytes.get() == 0 || wire.failure.borrow().is_some();
        wire.sent.wait_until(is_done).await;
        wire.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Ends the connection; whoever waits for an answer gets an error.
    pub fn close(&self) {
        self.link.wire.close("closed by this side");
    }

    fn encode<R: Request>(&self, request: &R, version: i16) -> Result<(i32, Parts), ClientError> {
        if let Some(failure) = &*self.link.wire.failure.borrow() {
            return Err(failure.clone());
        }
        let correlation_id = self.link.next_correlation_id.get();
        self.link
            .next_correlation_id
            .set(correlation_id.wrapping_add(1) & i32::MAX);
        let header = RequestHeader {
            api_key: R::KEY,
            api_version: version,
            correlation_id,
            client_id: Some(self.link.options.client_id.clone()),
        };
        let mut writer = Writer::frame();
        write_request_header(&mut writer, &header)
            .and_then(|()| request.encode(&mut writer, version))
            .map_err(|error| ClientError::Unwritable {
                api_key: R::KEY,
                error,
            })?;
        Ok((correlation_id, writer.finish()))
    }

    /// Asks for the broker's versions in our newest version of that request. A broker that lacks it answers in
    /// version 0 with what it has (KIP-511), or, before 2.4, with the error alone.
    async fn negotiate(&self) -> Result<(), ClientError> {
        let mut version = ApiVersionsRequest::MAX_VERSION;
        loop {
            let request = ApiVersionsRequest {
                client_software_name: Str::from(if version >= 3 { "coati" } else { "" }),
                client_software_version: Str::from(if version >= 3 {
                    env!("CARGO_PKG_VERSION")
                } else {
                    ""
                }),
                ..ApiVersionsRequest::default()
            };
            let frame = self.submit(&request, version)?.frame().await?;
            let response = self.read_versions(&frame, version)?;
            let unsupported = response.error_code == ErrorCode::UnsupportedVersion.code();
            if unsupported && version > 0 {
                let mut keys = response.api_keys.iter();
                let own = keys.find(|api| api.api_key == ApiVersionsRequest::KEY);
                version = own.map_or(0, |api| api.max_version).clamp(0, version - 1);
                continue;
            }
            ClientError::check(response.error_code, None, || {
                format!("versions of {}", self.address())
            })?;
            *self.link.versions.borrow_mut() = response
                .api_keys
                .iter()
                .map(|api| (api.api_key, (api.min_version, api.max_version)))
                .collect();
            return Ok(());
        }
    }

    fn read_versions(
        &self,
        frame: &Bytes,
        version: i16,
    ) -> Result<ApiVersionsResponse, ClientError> {
        let unsupported = ErrorCode::UnsupportedVersion.code().to_be_bytes();
        let refused = frame.get(4..6) == Some(&unsupported[..]);
        decode::<ApiVersionsResponse>(frame, if refused { 0 } else { version })
            .map_err(|error| self.link.wire.malformed(ApiVersionsRequest::KEY, error))
    }
}

fn decode<T: Response>(frame: &Bytes, version: i16) -> Result<T, crate::protocol::DecodeError> {
    let mut reader = Reader::new(frame.clone());
    read_response_header(&mut reader, T::KEY, version)?;
    let response = T::decode(&mut reader, version)?;
    reader.expect_end()?;
    Ok(response)
}

/// Addresses of `host:port`. Names are looked up on a thread of their own, as that blocks.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, ClientError> {
    if let Ok(literal) = address.parse() {
        return Ok(vec![literal]);
    }
    let bad = || ClientError::BadAddress {
        address: address.to_owned(),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let host = host.trim_matches(['[', ']']).to_owned();
    let looked_up = glommio::executor()
        .spawn_blocking(move || {
            (host.as_str(), port)
                .to_socket_addrs()
                .map(|found| found.collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        })
        .await;
    looked_up.map_err(|reason| ClientError::Resolve {
        address: address.to_owned(),
        reason,
    })
}

/// The answer to a submitted request, when it comes. Dropping it drops the answer, not the request.
#[derive(Debug)]
#[must_use = "an answer that nobody awaits is thrown away"]
pub struct Answer<T> {
    connection: Connection,
    frame: oneshot::Receiver<Result<Bytes, ClientError>>,
    version: i16,
    response: PhantomData<fn() -> T>,
}

impl<T> Answer<T> {
    /// The bytes of the answer, from its correlation id on.
    async fn frame(self) -> Result<Bytes, ClientError> {
        let gone = self.connection.link.wire.gone();
        self.frame.await.unwrap_or(Err(gone))
    }
}

impl<T: Response> Future for Answer<T> {
    type Output = Result<T, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(frame) = pin!(&mut self.frame).poll(context) else {
            return Poll::Pending;
        };
        let wire = &self.connection.link.wire;
        Poll::Ready(match frame {
            Ok(Ok(frame)) => {
                decode(&frame, self.version).map_err(|error| wire.malformed(T::KEY, error))
            }
            Ok(Err(error)) => Err(error),
            Err(oneshot::Canceled) => Err(wire.gone()),
        })
    }
}

/// What the clones of a connection share; the tasks that move bytes outlive it by a moment.
#[derive(Debug)]
struct Link {
    wire: Rc<Wire>,
    options: ConnectionOptions,
    versions: RefCell<HashMap<i16, (i16, i16)>>,
    next_correlation_id: Cell<i32>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.wire.close("no longer used");
    }
}

/// What the tasks that move bytes work on.
#[derive(Debug)]
struct Wire {
    address: String,
    socket: Socket,
    unsent: RefCell<Unsent>,
    /// Includes what is being sent.
    unsent_bytes: Cell<usize>,
    waiting: RefCell<VecDeque<Waiting>>,
    /// Set once, when the connection ends.
    failure: RefCell<Option<ClientError>>,
    to_send: Notify,
    sent: Notify,
    /// A task looks for overdue answers.
    watched: Cell<bool>,
}

#[derive(Debug)]
struct Waiting {
    api_key: i16,
    correlation_id: i32,
    submitted: Ticks,
    limit: Duration,
    taker: Taker,
}

impl Waiting {
    fn waited(&self, now: Ticks) -> Duration {
        Duration::from_nanos(now.nanos_since(self.submitted))
    }
}

/// Whom an answer is for.
#[derive(Debug)]
pub(super) enum Taker {
    Asker(oneshot::Sender<Result<Bytes, ClientError>>),
    Pipeline(Rc<Answers>),
}

impl Taker {
    fn take(self, frame: Result<Bytes, ClientError>) {
        match self {
            Taker::Asker(sender) => {
                // Nobody may be interested any more.
                let _dropped = sender.send(frame);
            }
            Taker::Pipeline(answers) => answers.put(frame),
        }
    }
}

/// What waits to be sent: short pieces are put together.
#[derive(Debug, Default)]
struct Unsent {
    pieces: VecDeque<Bytes>,
    /// Behind the pieces.
    short: BytesMut,
}

impl Unsent {
    fn push(&mut self, piece: Bytes) {
        if piece.len() <= SHORT_BYTES_MAX {
            self.short.extend_from_slice(&piece);
        } else {
            self.end_short();
            self.pieces.push_back(piece);
        }
    }

    fn end_short(&mut self) {
        if !self.short.is_empty() {
            self.pieces.push_back(self.short.split().freeze());
        }
    }

    /// What one send hands to the kernel.
    fn take(&mut self) -> Vec<Bytes> {
        self.end_short();
        let count = self.pieces.len().min(SEND_SLICES_MAX);
        self.pieces.drain(..count).collect()
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.short.is_empty()
    }

    fn clear(&mut self) {
        self.pieces.clear();
        self.short.clear();
    }
}

impl Wire {
    fn enqueue(&self, parts: Parts) {
        let mut unsent = self.unsent.borrow_mut();
        let mut bytes = 0;
        for part in parts {
            match part {
                Part::Memory(piece) => {
                    bytes += piece.len();
                    unsent.push(piece);
                }
                Part::File(_) => panic!("requests are sent from memory"),
            }
        }
        drop(unsent);
        self.unsent_bytes.set(self.unsent_bytes.get() + bytes);
        self.to_send.notify();
    }

    async fn send(self: Rc<Self>) {
        loop {
            let ready = || !self.unsent.borrow().is_empty() || self.failure.borrow().is_some();
            self.to_send.wait_until(ready).await;
            if self.failure.borrow().is_some() {
                return;
            }
            let pieces = self.unsent.borrow_mut().take();
            if let Err(error) = self.send_all(&pieces).await {
                return self.fail(self.disconnected(&error.to_string()));
            }
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            self.unsent_bytes.set(self.unsent_bytes.get() - bytes);
            self.sent.notify();
        }
    }

    async fn send_all(&self, pieces: &[Bytes]) -> std::io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut slices[..];
        // Passes over empty pieces, so that a send always moves a byte.
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let sent = self.socket.send(rest).await?;
            IoSlice::advance_slices(&mut rest, sent);
            turn::yield_if_needed().await;
        }
        Ok(())
    }

    async fn receive(self: Rc<Self>) {
        let mut buffer = BytesMut::with_capacity(RECEIVE_BYTES);
        let failure = loop {
            match take_frame(&mut buffer) {
                Ok(Some(frame)) => {
                    if let Err(error) = self.on_frame(frame) {
                        break error;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(length) => {
                    break self.disconnected(&format!("it announced an answer of {length} bytes"));
                }
            }
            reserve(&mut buffer);
            match self.socket.receive(&mut buffer).await {
                Ok(0) => break self.disconnected("the broker closed it"),
                Ok(_) => turn::yield_if_needed().await,
                Err(error) => break self.disconnected(&error.to_string()),
            }
        };
        self.fail(failure);
    }

    fn on_frame(&self, frame: Bytes) -> Result<(), ClientError> {
        let correlation_id = frame.first_chunk().map(|id| i32::from_be_bytes(*id));
        let waiting = self.waiting.borrow_mut().pop_front();
        let expected = waiting.as_ref().map(|waiting| waiting.correlation_id);
        match waiting {
            Some(waiting) if expected == correlation_id => {
                waiting.taker.take(Ok(frame));
                Ok(())
            }
            other => {
                let error = self.disconnected(&format!(
                    "it answered request {correlation_id:?}, where {expected:?} was due"
                ));
                if let Some(waiting) = other {
                    waiting.taker.take(Err(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Sees to it that overdue answers are noticed, while there are requests in flight.
    fn watch(self: &Rc<Self>) {
        if self.watched.replace(true) {
            return;
        }
        let wire = Rc::clone(self);
        let watching = async move {
            loop {
                let now = clock::ticks();
                let left = |waiting: &Waiting| waiting.limit.saturating_sub(waiting.waited(now));
                let Some(left) = wire.waiting.borrow().iter().map(left).min() else {
                    break;
                };
                if left.is_zero() {
                    wire.fail(wire.overdue(now));
                    break;
                }
                timer::sleep(left.min(OVERDUE_CHECK)).await;
            }
            wire.watched.set(false);
        };
        glommio::spawn_local(watching).detach();
    }

    fn overdue(&self, now: Ticks) -> ClientError {
        let waiting = self.waiting.borrow();
        let late = waiting
            .iter()
            .find(|waiting| waiting.waited(now) >= waiting.limit)
            .expect("called when there is one");
        ClientError::TimedOut {
            address: self.address.clone(),
            api_key: late.api_key,
            waited_ms: late.waited(now).as_millis() as u64,
        }
    }

    fn close(&self, reason: &str) {
        self.fail(self.disconnected(reason));
    }

    /// Ends the connection, once.
    fn fail(&self, error: ClientError) {
        if self.failure.borrow().is_some() {
            return;
        }
        *self.failure.borrow_mut() = Some(error.clone());
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waiting in waiting {
            waiting.taker.take(Err(error.clone()));
        }
        self.unsent.borrow_mut().clear();
        self.socket.shutdown();
        self.to_send.notify();
        self.sent.notify();
    }

    fn gone(&self) -> ClientError {
        let failure = self.failure.borrow().clone();
        failure.unwrap_or_else(|| self.disconnected("it is gone"))
    }

    fn disconnected(&self, reason: &str) -> ClientError {
        ClientError::Disconnected {
            address: self.address.clone(),
            reason: reason.to_owned(),
        }
    }

    fn malformed(&self, api_key: i16, error: crate::protocol::DecodeError) -> ClientError {
        ClientError::Malformed {
            address: self.address.clone(),
            api_key,
            error,
        }
    }
}

/// Takes the first whole frame out of `buffer`, without its length; the error is a length that cannot be.
fn take_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, i32> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    let size = usize::try_from(length).map_err(|_| length)?;
    if size > RESPONSE_BYTES_MAX {
        return Err(length);
    }
    if buffer.len() < 4 + size {
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(size).freeze()))
}

/// Makes room for the rest of the frame that `buffer` begins with.
fn reserve(buffer: &mut BytesMut) {
    let announced = buffer
        .first_chunk::<4>()
        .map_or(0, |prefix| 4 + i32::from_be_bytes(*prefix).max(0) as usize);
    let missing = announced.saturating_sub(buffer.len());
    let wanted = missing.min(RESERVE_BYTES_MAX.max(buffer.len()));
    if buffer.capacity() - buffer.len() < wanted.max(SPARE_BYTES_MIN) {
        buffer.reserve(wanted.max(RECEIVE_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_broker::{FakeBroker, Reply, on_executor};
    use super::*;
    use crate::protocol::messages::api_versions_response::ApiVersion;
    use crate::protocol::messages::{
        DescribeClusterRequest, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest,
    };

    fn options() -> ConnectionOptions {
        ConnectionOptions::default()
    }

    #[test]
    fn pipelined_answers_find_their_requests_in_order() {
        on_executor(async {
            let broker = FakeBroker::echo();
            let connection = Connection::connect(&broker.address, &options())
                .await
                .unwrap();
            let version = connection.version::<InitProducerIdRequest>().unwrap();
            let answers: Vec<_> = (0..1000)
                .map(|number| {
                    let request = InitProducerIdRequest {
                        transaction_timeout_ms: number,
                        ..InitProducerIdRequest::default()
                    };
                    connection.submit(&request, version).unwrap()
                })
                .collect();
            assert_eq!(connection.in_flight(), 1000);
            for (number, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.await.unwrap().producer_id, number as i64);
            }
        });
    }

    #[test]
    fn an_old_broker_is_asked_in_a_version_that_it_knows() {
        on_executor(async {
            let broker = FakeBroker::start_raw(|header, _| {
                let mut response = ApiVersionsResponse {
                    api_keys: vec![ApiVersion {
                        api_key: ApiVersionsRequest::KEY,
                        min_version: 0,
                        max_version: 2,
                    }],
                    ..ApiVersionsResponse::default()
                };
                let mut answer = header.clone();
                if header.api_version > 2 {
                    response.error_code = ErrorCode::UnsupportedVersion.code();
                    answer.api_version = 0;
                } else {
                    response.api_keys.push(ApiVersion {
                        api_key: MetadataRequest::KEY,
                        min_version: 0,
                        max_version: 7,
                    });
                }
                Reply::with(&answer, &response)
            });
            let connection = Connection::connect(&broker.address, &options())
                .await
                .unwrap();
            assert_eq!(connection.version::<MetadataRequest>(), Ok(7));
            assert!(matches!(
                connection.version::<DescribeClusterRequest>(),
                Err(ClientError::Unsupported { theirs: None, .. })
            ));
            let versions: Vec<i16> = broker.seen.borrow().iter().map(|h| h.api_version).collect();
            assert_eq!(versions, [ApiVersionsRequest::MAX_VERSION, 2]);
        });
    }

    #[test]
    fn a_closed_connection_fails_all_that_wait_and_all_that_come() {
        on_executor(async {
            let broker = FakeBroker::start(|header, _| match header.correlation_id {
                3 => Reply::Close,
                _ => Reply::Silence,
            });
            let connection = Connection::connect(&broker.address, &options())
                .await
                .unwrap();
            let request = InitProducerIdRequest::default();
            let answers: Vec<_> = (0..3)
                .map(|_| connection.submit(&request, 4).unwrap())
                .collect();
            for answer in answers {
                let error = answer.await.unwrap_err();
                assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
            }
            assert!(connection.is_closed());
            assert!(connection.submit(&request, 4).is_err());
        });
    }

    #[test]
    fn an_overdue_answer_ends_the_connection() {
        on_executor(async {
            let broker = FakeBroker::start(|_, _| Reply::Silence);
            let connection = Connection::connect(&broker.address, &options())
                .await
                .unwrap();
            let request = InitProducerIdRequest::default();
            let limit = Duration::from_millis(20);
            let answer = connection.submit_within(&request, 4, limit).unwrap();
            let error = answer.await.unwrap_err();
            assert!(matches!(error, ClientError::TimedOut { .. }), "{error}");
            assert!(connection.is_closed());
        });
    }

    #[test]
    fn a_dropped_connection_is_closed_once_its_answers_came() {
        on_executor(async {
            let broker = FakeBroker::start(|header, _| {
                Reply::with(header, &InitProducerIdResponse::default())
            });
            let connection = Connection::connect(&broker.address, &options())
                .await
                .unwrap();
            let answer = connection
                .submit(&InitProducerIdRequest::default(), 4)
                .unwrap();
            drop(connection);
            answer.await.unwrap();
            broker.closed(1).await;
        });
    }

    #[test]
    fn nonsense_instead_of_an_answer_ends_the_connection() {
        on_executor(async {
            for nonsense in [&[0xff, 0, 0, 0][..], &[0, 0, 0, 4, 0, 0, 0, 77]] {
                let nonsense = nonsense.to_vec();
                let broker = FakeBroker::start(move |_, _| Reply::Frame(nonsense.clone()));
                let connection = Connection::connect(&broker.address, &options())
                    .await
                    .unwrap();
                let error = connection
                    .call(&InitProducerIdRequest::default())
                    .await
                    .unwrap_err();
                assert!(matches!(error, ClientError::Disconnected { .. }), "{error}");
            }
        });
    }

    #[test]
    fn addresses_that_lead_nowhere_are_told() {
        on_executor(async {
            let error = Connection::connect("nowhere", &options())
                .await
                .unwrap_err();
            assert!(matches!(error, ClientError::BadAddress { .. }));
            let broker = BoundPort::unused();
            let error = Connection::connect(&broker, &options()).await.unwrap_err();
            assert!(error.to_string().contains("refused"), "{error}");
            // A name is looked up; this one everybody has.
            let live = FakeBroker::start(|_, _| Reply::Silence);
            let named = format!("localhost:{}", live.port);
            Connection::connect(&named, &options()).await.unwrap();
        });
    }

    struct BoundPort;

    impl BoundPort {
        /// A port that was free a moment ago.
        fn unused() -> String {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.local_addr().unwrap().to_string()
        }
    }
}
