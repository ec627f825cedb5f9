//! Owns one client's connection on its core: reads requests, starts them in order, sends responses in order.
//!
//! A produce or fetch lets the next request start as soon as it is *ordered*; all others run alone, after
//! what the connection produced before is acknowledged. At a bound it stops reading; nothing is dropped.
//! It never decodes more than a request's header.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use tracing::debug;

use crate::handler::{self, Begun, Malformed};
use crate::io::clock;
use crate::io::socket::Socket;
use crate::limits;
use crate::net::frame::{self, BadLength};
use crate::net::responses::{Frame, Responses, SlotId};
use crate::net::send;
use crate::protocol::Str;
use crate::shard::Shard;

/// Why a connection ended before its peer wanted it.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    BadLength(#[from] BadLength),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the stream ended inside a frame, {0} bytes into it")]
    Truncated(usize),
}

pub struct Connection {
    pub peer: SocketAddr,
    listener: Str,
    socket: Socket,
    responses: Responses,
    /// Received and not yet cut into frames. Empty and without memory while the connection is idle.
    received: RefCell<BytesMut>,
    request_bytes: Cell<usize>,
    produces: Cell<usize>,
    last_active: Cell<Instant>,
    /// Whoever reads waits here for a bound to be met again.
    reader: AtomicWaker,
    closing: Cell<bool>,
    complained: Cell<bool>,
    /// When the peer last took bytes of a response, or had all of them.
    last_taken: Cell<Instant>,
}

impl Connection {
    pub fn new(socket: Socket, peer: SocketAddr, listener: Str) -> Rc<Connection> {
        Rc::new(Connection {
            peer,
            listener,
            socket,
            responses: Responses::default(),
            received: RefCell::default(),
            request_bytes: Cell::new(0),
            produces: Cell::new(0),
            last_active: Cell::new(clock::now()),
            reader: AtomicWaker::new(),
            closing: Cell::new(false),
            complained: Cell::new(false),
            last_taken: Cell::new(clock::now()),
        })
    }

    /// Serves the connection until either side ends it.
    pub async fn serve(self: Rc<Self>, shard: Rc<Shard>) {
        let sender = glommio::spawn_local(self.clone().send_responses());
        let read = self.clone().read_requests(&shard).await;
        self.responses.close();
        match read {
            Ok(()) => {}
            Err(ConnectionError::Io(error)) => {
                debug!(peer = %self.peer, %error, "connection lost");
                self.socket.shutdown();
            }
            Err(error) => self.complain(&shard, &error),
        }
        sender.await;
    }

    /// Says why the connection ends; one line a connection, whatever else goes wrong on it.
    fn complain(&self, shard: &Shard, error: &ConnectionError) {
        if !self.complained.replace(true) {
            shard.complaints.on_closed(clock::now(), self.peer, error);
        }
    }

    /// Reads nothing more; what is in progress is finished and answered, then the connection ends.
    /// A peer that has taken nothing of its answers for `patience` is not waited for.
    pub fn finish(&self, now: Instant, patience: Duration) {
        if !self.closing.replace(true) {
            self.last_taken.set(now);
            self.reader.wake();
        }
        let stuck = now.saturating_duration_since(self.last_taken.get()) >= patience;
        if stuck && self.responses.bytes() > 0 {
            debug!(peer = %self.peer, "the peer does not take its answers");
            self.socket.shutdown();
        }
    }

    /// Ends the connection now if nothing happened on it for `idle`. Frees what an idle one need not hold.
    pub fn sweep(&self, now: Instant, idle: Option<Duration>) {
        if self.responses.outstanding() > 0 || self.responses.bytes() > 0 {
            return;
        }
        let quiet = now.saturating_duration_since(self.last_active.get());
        if idle.is_some_and(|idle| quiet > idle) {
            debug!(peer = %self.peer, "connection idle for connections.max.idle.ms");
            self.closing.set(true);
            self.socket.shutdown();
            return;
        }
        if quiet > Duration::from_secs(1)
            && let Ok(mut received) = self.received.try_borrow_mut()
            && received.is_empty()
        {
            *received = BytesMut::new();
        }
    }

    async fn read_requests(self: Rc<Self>, shard: &Rc<Shard>) -> Result<(), ConnectionError> {
        let max = shard.broker.config.socket_request_max_bytes;
        let context = Rc::new(handler::Context {
            shard: shard.clone(),
            peer: self.peer,
            listener: self.listener.clone(),
        });
        loop {
            loop {
                let taken = frame::take(&mut self.received.borrow_mut(), max)?;
                let Some(request) = taken else { break };
                if !self.room().await {
                    return Ok(());
                }
                self.begin(&context, request).await?;
            }
            if !self.receive(max).await? {
                return self.ended();
            }
            self.last_active.set(clock::now());
            glommio::yield_if_needed().await;
        }
    }

    /// The stream has ended: well between two frames, or when it was us who ended it.
    fn ended(&self) -> Result<(), ConnectionError> {
        match self.received.borrow().len() {
            0 => Ok(()),
            _ if self.closing.get() => Ok(()),
            rest => Err(ConnectionError::Truncated(rest)),
        }
    }

    /// Receives at least a byte; `false` when the peer has ended the stream or the connection is closing.
    async fn receive(&self, max: usize) -> Result<bool, ConnectionError> {
        loop {
            if self.closing.get() {
                return Ok(false);
            }
            {
                let mut received = self.received.borrow_mut();
                frame::reserve(&mut received, max, limits::RECEIVE_BYTES);
                match self.socket.try_receive(&mut received)? {
                    Some(bytes) => return Ok(bytes > 0),
                    None if received.is_empty()
                        && received.capacity() > limits::RECEIVE_BYTES_IDLE_MAX =>
                    {
                        *received = BytesMut::new();
                    }
                    None => {}
                }
            }
            let readable = std::pin::pin!(self.socket.readable());
            let closing = std::pin::pin!(self.closing());
            if let futures::future::Either::Left((ready, _)) =
                futures::future::select(readable, closing).await
            {
                ready?;
            }
        }
    }

    async fn closing(&self) {
        poll_fn(|context| {
            self.reader.register(context.waker());
            if self.closing.get() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    async fn begin(
        self: &Rc<Self>,
        context: &Rc<handler::Context>,
        request: Bytes,
    ) -> Result<(), ConnectionError> {
        let bytes = request.len();
        let header = handler::header(&request)?;
        if header.runs_alone() {
            self.wait_until(|connection| connection.produces.get() == 0)
                .await;
        }
        let slot = self.responses.take_slot();
        let begun = match handler::begin(context, header, request) {
            Ok(begun) => begun,
            Err(malformed) => {
                self.responses.fill(slot, None);
                return Err(malformed.into());
            }
        };
        self.request_bytes.set(self.request_bytes.get() + bytes);
        match begun {
            Begun::Alone(response) => {
                let result = response.await;
                self.complete(slot, bytes, result)?;
            }
            Begun::Produce(response) => {
                self.produces.set(self.produces.get() + 1);
                let (connection, context) = (self.clone(), context.clone());
                glommio::spawn_local(async move {
                    let result = response.await;
                    connection.produces.set(connection.produces.get() - 1);
                    connection.complete_or_end(&context.shard, slot, bytes, result);
                })
                .detach();
            }
            Begun::Fetch(response) => {
                let (connection, context) = (self.clone(), context.clone());
                glommio::spawn_local(async move {
                    let result = response.await;
                    connection.complete_or_end(&context.shard, slot, bytes, result);
                })
                .detach();
            }
        }
        Ok(())
    }

    fn complete(
        &self,
        slot: SlotId,
        bytes: usize,
        response: Result<Option<Frame>, Malformed>,
    ) -> Result<(), ConnectionError> {
        self.request_bytes.set(self.request_bytes.get() - bytes);
        self.reader.wake();
        match response {
            Ok(frame) => {
                self.responses.fill(slot, frame);
                Ok(())
            }
            Err(malformed) => {
                self.responses.fill(slot, None);
                Err(malformed.into())
            }
        }
    }

    fn complete_or_end(
        &self,
        shard: &Shard,
        slot: SlotId,
        bytes: usize,
        response: Result<Option<Frame>, Malformed>,
    ) {
        if let Err(error) = self.complete(slot, bytes, response) {
            self.complain(shard, &error);
            self.closing.set(true);
            self.socket.shutdown();
        }
    }

    /// Waits until another request may begin; `false` when none may any more.
    async fn room(&self) -> bool {
        self.wait_until(|connection| {
            connection.closing.get()
                || (connection.request_bytes.get() < limits::CONNECTION_REQUEST_BYTES_MAX
                    && connection.responses.outstanding() < limits::CONNECTION_REQUESTS_MAX
                    && connection.responses.bytes() < limits::CONNECTION_RESPONSE_BYTES_MAX)
        })
        .await;
        !self.closing.get()
    }

    async fn wait_until(&self, condition: impl Fn(&Connection) -> bool) {
        poll_fn(|context| {
            self.reader.register(context.waker());
            if condition(self) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    async fn send_responses(self: Rc<Self>) {
        let mut frames = Vec::new();
        let mut broken = false;
        while self.responses.next(&mut frames).await {
            let bytes = frames.iter().map(|frame| frame.length).sum();
            let on_sent = || self.last_taken.set(clock::now());
            if !broken && let Err(error) = send::frames(&self.socket, &frames, on_sent).await {
                debug!(peer = %self.peer, %error, "connection lost while sending");
                // The reader sees the end of the stream; what is in progress still takes its slots.
                broken = true;
                self.closing.set(true);
                self.socket.shutdown();
            }
            frames.clear();
            self.responses.sent(bytes);
            self.last_active.set(clock::now());
            self.reader.wake();
        }
        self.socket.shutdown();
    }
}
