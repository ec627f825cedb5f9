//! Owns one client's connection on its core: reads requests, starts them in order, sends responses in order.
//!
//! A produce or fetch lets the next request start as soon as it is *ordered*; all others run alone, after
//! what the connection produced before is acknowledged. At a bound it stops reading; nothing is dropped.
//! It never decodes more than a request's header.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::future::{AbortHandle, Either, abortable, select};
use futures::task::AtomicWaker;
use tracing::debug;

use crate::handler::{self, Begun, Malformed};
use crate::io::clock::{self, Ticks};
use crate::io::socket::Socket;
use crate::io::turn;
use crate::limits;
use crate::net::budget::{RequestAccount, ResponseAccount};
use crate::net::frame::{self, BadLength};
use crate::net::home::Home;
use crate::net::responses::{Frame, Responses, SlotId};
use crate::net::seats::Seat;
use crate::net::send;
use crate::protocol::Str;
use crate::shard::Shard;
use crate::stages::tasks::{self, Task};
use crate::stages::{self, Stage, timing};

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
    #[error(
        "nothing came for {0:?} inside a frame, while the core has no more memory for requests"
    )]
    Stalled(Duration),
}

/// How the reading of a connection came to its end.
enum End {
    /// The peer has ended the stream.
    Peers,
    /// The connection is closing: what is in progress is still answered.
    Ours,
    /// All is answered that has begun; what comes is read on the core of the seat.
    Moves(Seat),
}

/// A connection between two cores.
pub struct Moving {
    pub stream: TcpStream,
    /// On the core that it goes to.
    pub seat: Seat,
    /// Received, and no part of a request that has begun.
    pub received: BytesMut,
}

/// What is in progress on a connection.
pub struct Load {
    pub client_id: Str,
    /// Requests that have no answer yet, those that are counted beneath among them.
    pub requests: usize,
    pub fetches: usize,
    pub produces: usize,
    /// Nothing is read because a bound is reached.
    pub at_bound: bool,
}

/// A peer inside a frame is waited for this long when all others have to wait for it.
const FRAME_PATIENCE: Duration = Duration::from_secs(10);

/// For so long the bytes of a frame may be left with the kernel until there are more.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

pub struct Connection {
    pub peer: SocketAddr,
    listener: Str,
    socket: Socket,
    seat: RefCell<Option<Seat>>,
    responses: Responses,
    /// Received and not yet cut into frames. Empty and without memory while the connection is idle.
    received: RefCell<BytesMut>,
    /// What the next buffer holds.
    receive_bytes: Cell<usize>,
    /// Bytes of the last whole request.
    last_frame: Cell<usize>,
    /// When the last receive ended, if it was timed.
    received_at: Cell<Option<Ticks>>,
    requests: RequestAccount,
    response_memory: Rc<ResponseAccount>,
    produces: Cell<usize>,
    last_active: Cell<Instant>,
    /// Whoever reads waits here for a bound to be met again.
    reader: AtomicWaker,
    closing: Cell<bool>,
    /// Nothing is read because a bound is reached.
    at_bound: Cell<bool>,
    /// Its last request was a heartbeat: the next is likely to be one.
    beats: Cell<bool>,
    fetches: RefCell<BTreeMap<SlotId, AbortHandle>>,
    complained: Cell<bool>,
    /// As its client calls itself, cut at [`limits::CLIENT_ID_CHARS_KEPT`]; `None` until it has said so.
    client_id: RefCell<Option<Str>>,
    /// When the peer last took bytes of a response, or had all of them.
    last_taken: Cell<Instant>,
    /// What one cold read of a response takes from the disk.
    cold_read_bytes: usize,
}

impl Connection {
    pub fn new(
        shard: &Shard,
        socket: Socket,
        peer: SocketAddr,
        listener: Str,
        seat: Seat,
        received: BytesMut,
    ) -> Rc<Connection> {
        let requests = shard.request_memory.account();
        requests.on_received(received.len());
        Rc::new(Connection {
            peer,
            listener,
            socket,
            seat: RefCell::new(Some(seat)),
            responses: Responses::default(),
            received: RefCell::new(received),
            receive_bytes: Cell::new(limits::RECEIVE_BYTES),
            last_frame: Cell::new(0),
            received_at: Cell::new(None),
            requests,
            response_memory: Rc::new(shard.response_memory.account()),
            produces: Cell::new(0),
            last_active: Cell::new(clock::now()),
            reader: AtomicWaker::new(),
            closing: Cell::new(false),
            at_bound: Cell::new(false),
            beats: Cell::new(false),
            fetches: RefCell::default(),
            complained: Cell::new(false),
            client_id: RefCell::default(),
            last_taken: Cell::new(clock::now()),
            cold_read_bytes: shard.plan().cold_read_bytes,
        })
    }

    /// What is in progress on it.
    pub fn load(&self) -> Load {
        Load {
            client_id: self.client_id.borrow().clone().unwrap_or_default(),
            requests: self.responses.outstanding(),
            fetches: self.fetches.borrow().len(),
            produces: self.produces.get(),
            at_bound: self.at_bound.get(),
        }
    }

    /// Clients that change their names are not expected to do it in the midst of records.
    fn on_client_id(&self, header: &handler::Header) {
        let mut known = self.client_id.borrow_mut();
        if known.is_some() && !header.runs_alone() {
            return;
        }
        let id = header.client_id();
        let id = match id.char_indices().nth(limits::CLIENT_ID_CHARS_KEPT) {
            Some((end, _)) => &id[..end],
            None => id,
        };
        if known.as_deref() != Some(id) {
            *known = Some(Str::from(id.to_owned()));
        }
    }

    /// Serves the connection until either side ends it, or until it is better served on another core.
    pub async fn serve(self: Rc<Self>, shard: Rc<Shard>) -> Option<Moving> {
        let sender = tasks::spawn(Task::SEND, self.clone().send_responses());
        let read = self.clone().read_requests(&shard).await;
        self.responses.close();
        let mut moves = None;
        match read {
            Ok(End::Ours) => {}
            Ok(End::Moves(seat)) => moves = Some(seat),
            Ok(End::Peers) => self.abort_fetches(),
            Err(ConnectionError::Io(error)) => {
                debug!(peer = %self.peer, %error, "connection lost");
                self.end();
            }
            Err(error) => {
                self.complain(&shard, &error);
                self.abort_fetches();
            }
        }
        sender.await;
        if let Some(seat) = moves {
            match self.socket.to_stream() {
                Ok(stream) => {
                    return Some(Moving {
                        stream,
                        seat,
                        received: self.received.take(),
                    });
                }
                Err(error) => {
                    debug!(peer = %self.peer, %error, "connection lost between two cores")
                }
            }
        }
        self.socket.shutdown();
        None
    }

    /// Nothing more is received or sent. What is in progress still takes its slots; nobody waits for bytes to fetch.
    fn end(&self) {
        self.closing.set(true);
        self.socket.shutdown();
        self.abort_fetches();
        self.reader.wake();
    }

    /// Nobody is there to take what the fetches in progress wait for.
    fn abort_fetches(&self) {
        for (_, fetch) in self.fetches.take() {
            fetch.abort();
        }
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
            self.end();
        }
    }

    /// Ends the connection now if nothing happened on it for `idle`, or if others suffer from how it stands still.
    /// Frees what an idle one need not hold.
    pub fn sweep(&self, shard: &Shard, now: Instant, idle: Option<Duration>) {
        if self.stalls(now) {
            self.complain(shard, &ConnectionError::Stalled(FRAME_PATIENCE));
            return self.end();
        }
        if now.saturating_duration_since(self.last_active.get()) > LEAST_PATIENCE {
            // A slow peer's bytes count as well; an error comes again when receiving.
            let _told_later = self.socket.set_least(1);
        }
        let active = if self.responses.bytes() > 0 {
            self.last_taken.get()
        } else if self.responses.outstanding() > 0 {
            // Whoever does not read does not see the stream end.
            if self.at_bound.get() && self.socket.peer_is_gone() {
                self.end();
            }
            return;
        } else {
            self.last_active.get()
        };
        let quiet = now.saturating_duration_since(active);
        if idle.is_some_and(|idle| quiet > idle) {
            debug!(peer = %self.peer, "connection idle for connections.max.idle.ms");
            return self.end();
        }
        if quiet > Duration::from_secs(1)
            && let Ok(mut received) = self.received.try_borrow_mut()
            && received.is_empty()
        {
            *received = BytesMut::new();
        }
    }

    /// The core's request memory is full of unfinished frames, and the rest of this one's does not come.
    fn stalls(&self, now: Instant) -> bool {
        let inside_frame = || {
            let received = self.received.try_borrow();
            received.is_ok_and(|received| !received.is_empty())
        };
        let quiet = now.saturating_duration_since(self.last_active.get());
        self.requests.holds_others_up()
            && quiet > FRAME_PATIENCE
            && inside_frame()
            && !self.socket.has_input()
    }

    async fn read_requests(self: Rc<Self>, shard: &Rc<Shard>) -> Result<End, ConnectionError> {
        let max = shard.broker.config.socket_request_max_bytes;
        let context = Rc::new(handler::Context {
            shard: shard.clone(),
            peer: self.peer,
            listener: self.listener.clone(),
            response_memory: self.response_memory.clone(),
            home: Home::new(shard.broker.layout.connections_follow_records()),
        });
        loop {
            loop {
                let taken = frame::take(&mut self.received.borrow_mut(), max)?;
                let Some(request) = taken else { break };
                self.last_frame.set(request.len());
                self.requests.on_frame();
                if !self.room().await {
                    return Ok(End::Ours);
                }
                self.begin(&context, request).await?;
            }
            if let Some(seat) = self.better_seat(&context) {
                return Ok(End::Moves(seat));
            }
            if !self.receive(shard, max).await? {
                return self.ended();
            }
            self.last_active.set(clock::now());
            if context.home.follows_records()
                && let Some(seat) = self.better_seat(&context)
            {
                return Ok(End::Moves(seat));
            }
        }
    }

    /// Where it is better served than here, if nothing keeps it here now.
    fn better_seat(&self, context: &handler::Context) -> Option<Seat> {
        // A fetch may wait for long; others are soon answered, and what was received goes along.
        let is_free = match context.home.follows_records() {
            true => self.fetches.borrow().is_empty(),
            false => self.received.borrow().is_empty() && self.requests.in_progress() == 0,
        };
        if !is_free || self.closing.get() {
            return None;
        }
        let core = context.home.better_than(context.shard.id)?;
        let mut seat = self.seat.borrow_mut();
        seat.as_mut()?.move_to(core).then(|| seat.take())?
    }

    /// The stream has ended: well between two frames, or when it was us who ended it.
    fn ended(&self) -> Result<End, ConnectionError> {
        match self.received.borrow().len() {
            _ if self.closing.get() => Ok(End::Ours),
            0 => Ok(End::Peers),
            rest => Err(ConnectionError::Truncated(rest)),
        }
    }

    /// Receives at least a byte; `false` when the peer has ended the stream or the connection is closing.
    async fn receive(&self, shard: &Shard, max: usize) -> Result<bool, ConnectionError> {
        loop {
            self.wait_until(|connection, context| {
                let inside_frame = !connection.received.borrow().is_empty();
                connection.closing.get()
                    || connection
                        .requests
                        .poll_room(inside_frame, context)
                        .is_ready()
            })
            .await;
            if self.closing.get() {
                return Ok(false);
            }
            if self.socket.is_readable() {
                // A stream that never pauses lets others have their turn.
                turn::yield_now().await;
            } else {
                self.socket.set_unhurried(self.beats.get());
                self.lend_buffer(shard);
                let least = frame::least(&self.received.borrow(), max);
                self.socket.set_least(least)?;
                select(pin!(self.socket.readable()), pin!(self.closing())).await;
            }
            {
                let mut received = self.received.borrow_mut();
                if received.capacity() == 0 {
                    *received = shard.spare_buffer.take();
                }
                let (least, last) = (self.receive_bytes.get(), self.last_frame.get());
                frame::reserve(&mut received, max, least, last);
                let room = received.capacity() - received.len();
                let began = timing::before_receive();
                if let Some(bytes) = self.socket.try_receive(&mut received)? {
                    self.received_at
                        .set(began.map(|began| stages::end(Stage::Read, began)));
                    let next = frame::next_receive(self.receive_bytes.get(), bytes, room);
                    self.receive_bytes.set(next);
                    self.requests.on_received(bytes);
                    return Ok(bytes > 0);
                }
            }
        }
    }

    /// Between heartbeats, whatever receives next on this core may have the buffer: it is warm, and one does for all.
    fn lend_buffer(&self, shard: &Shard) {
        let mut received = self.received.borrow_mut();
        if self.beats.get() && received.is_empty() && received.capacity() > 0 {
            shard.spare_buffer.set(std::mem::take(&mut *received));
        }
    }

    async fn closing(&self) {
        self.wait_until(|connection, _| connection.closing.get())
            .await;
    }

    async fn begin(
        self: &Rc<Self>,
        context: &Rc<handler::Context>,
        request: Bytes,
    ) -> Result<(), ConnectionError> {
        let bytes = frame::LENGTH_BYTES + request.len();
        self.requests.on_begun(bytes);
        let mut header = handler::header(&request)?;
        if header.runs_alone() {
            self.wait_until(|connection, _| connection.produces.get() == 0)
                .await;
        }
        header.on_begin(self.received_at.get());
        self.beats.set(header.is_heartbeat());
        self.on_client_id(&header);
        let task = Task::of_api(header.api_key());
        let slot = self.responses.take_slot();
        let begun = match handler::begin(context, header, request) {
            Ok(begun) => begun,
            Err(malformed) => {
                self.responses.fill(slot, None);
                return Err(malformed.into());
            }
        };
        match begun {
            Begun::Alone(response) => {
                let result = tasks::watched(task, response).await;
                self.complete(slot, bytes, result)?;
                context.home.on_answered();
            }
            Begun::Parked(response) => {
                let response = pin!(tasks::watched(task, response));
                let result = match select(response, pin!(self.socket.peer_ended())).await {
                    Either::Left((result, _)) => result,
                    Either::Right(_) => Ok(None),
                };
                self.complete(slot, bytes, result)?;
                context.home.on_answered();
            }
            Begun::Produce(response) => {
                context.home.settle();
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
                context.home.settle();
                let (connection, context) = (self.clone(), context.clone());
                let (response, handle) = abortable(response);
                self.fetches.borrow_mut().insert(slot, handle);
                glommio::spawn_local(async move {
                    let result = tasks::watched(task, response).await;
                    let result = result.unwrap_or(Ok(None));
                    connection.fetches.borrow_mut().remove(&slot);
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
        self.requests.on_done(bytes);
        self.reader.wake();
        match response {
            Ok(mut frame) => {
                if let Some(frame) = &mut frame {
                    if self.response_memory.is_scarce() {
                        frame.detach();
                    }
                    self.response_memory.take(frame.memory());
                    if self.responses.bytes() == 0 {
                        self.last_taken.set(clock::now());
                    }
                }
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
            self.end();
        }
    }

    /// Waits until another request may begin; `false` when none may any more.
    async fn room(&self) -> bool {
        self.at_bound.set(true);
        self.wait_until(|connection, _| {
            connection.closing.get()
                || (connection.requests.in_progress() < limits::CONNECTION_REQUEST_BYTES_MAX
                    && connection.responses.outstanding() < limits::CONNECTION_REQUESTS_MAX
                    && connection.responses.bytes() < limits::CONNECTION_RESPONSE_BYTES_MAX
                    && !connection.response_memory.must_wait())
        })
        .await;
        self.at_bound.set(false);
        !self.closing.get()
    }

    async fn wait_until(&self, condition: impl Fn(&Connection, &Context<'_>) -> bool) {
        poll_fn(|context| {
            self.reader.register(context.waker());
            if condition(self, context) {
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
            let memory = frames.iter().map(Frame::memory).sum();
            let on_sent = || self.last_taken.set(clock::now());
            let read_bytes = self.cold_read_bytes;
            if !broken
                && let Err(error) = send::frames(&self.socket, &frames, read_bytes, on_sent).await
            {
                debug!(peer = %self.peer, %error, "connection lost while sending");
                // The reader sees the end of the stream; what is in progress still takes its slots.
                broken = true;
                self.end();
            }
            timing::finish_all(frames.drain(..).map(|frame| frame.timing));
            self.responses.sent(bytes);
            self.response_memory.give_back(memory);
            self.last_active.set(clock::now());
            self.reader.wake();
        }
    }
}
