//! Owns the admin endpoint: HTTP on one address of the first core, for those who run the broker and their tools. What
//! it shows it asks of the cores when it is asked; nothing is kept for it, and nothing waits for it. It changes nothing.
//!
//! `http` reads requests and frames responses, `prometheus` writes that format; `metrics`, `stages`, `watch` (figures of the
//! live view) and `page` (the live view, which asks for them) are its pages.

mod http;
mod metrics;
mod page;
mod prometheus;
mod stages;
mod watch;

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures::future::{Either, select};
use tracing::{debug, warn};

use self::http::{HEAD_BYTES_MAX, Parameters, Request, Response, Status};
use crate::io::clock;
use crate::io::socket::{BoundListener, Listener, Socket};
use crate::io::timer;
use crate::io::turn;
use crate::limits::{ADMIN_CONNECTIONS_MAX, SEND_SLICES_MAX, YIELD_BYTES};
use crate::shard::Shard;
use crate::stages::tasks::{self, Task};

/// How long a connection may be silent, or take for the head of a request.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client may take for a response.
const RESPONSE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a client that was refused may take to hear of it, while what it sends is thrown away.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// A core that does not answer for so long is not healthy.
const HEALTH_PATIENCE: Duration = Duration::from_secs(2);

const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const JSON: &str = "application/json";

const PAGES: &str =
    "there are / (for people), /debug/watch, /metrics, /healthz, /readyz and /debug/stages";

/// What the pages are made from.
struct Endpoint {
    shard: Rc<Shard>,
    address: SocketAddr,
    /// When the broker began.
    began: Instant,
    connections: Cell<usize>,
}

/// Serves until the broker stops. It answers also while the broker starts.
pub async fn serve(shard: Rc<Shard>, bound: BoundListener, began: Instant) {
    let adopted = bound
        .local_address()
        .and_then(|address| Ok((address, Listener::adopt(bound)?)));
    let (address, listener) = match adopted {
        Ok(adopted) => adopted,
        Err(error) => return warn!(%error, "no admin endpoint"),
    };
    let endpoint = Rc::new(Endpoint {
        shard,
        address,
        began,
        connections: Cell::new(0),
    });
    loop {
        let accepted = listener.accept().await;
        if endpoint.shard.stopping() {
            return;
        }
        match accepted {
            Ok((stream, _)) => endpoint.clone().admit(Socket::adopt(stream)),
            Err(error) => {
                debug!(%error, "accepting for the admin endpoint failed");
                timer::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

impl Endpoint {
    fn admit(self: Rc<Self>, socket: Socket) {
        if self.connections.get() >= ADMIN_CONNECTIONS_MAX {
            let full = Response::text(Status::Unavailable, "too many connections");
            let whole = [&[Bytes::from(full.head(false))], &full.body[..]].concat();
            // To a new connection a little can always be sent.
            let _gone = socket.try_send(&[IoSlice::new(&whole.concat())]);
            return;
        }
        self.connections.set(self.connections.get() + 1);
        tasks::spawn(Task::ADMIN, async move {
            if let Err(error) = self.serve_connection(&socket).await {
                debug!(%error, "admin connection lost");
            }
            self.connections.set(self.connections.get() - 1);
        })
        .detach();
    }

    /// Answers one request after the other, in their order.
    async fn serve_connection(&self, socket: &Socket) -> io::Result<()> {
        let mut received = BytesMut::new();
        loop {
            let asked = within(REQUEST_PATIENCE, self.request(socket, &mut received)).await??;
            let Some(asked) = asked else { return Ok(()) };
            let (response, head_only, keep_alive) = match asked {
                Ok(request) => {
                    let response = self.answer(&request).await;
                    let keep_alive = request.keep_alive && !self.shard.stopping();
                    (response, request.head_only, keep_alive)
                }
                Err(refusal) => (refusal.into(), false, false),
            };
            let sending = send(socket, &response, head_only, keep_alive);
            within(RESPONSE_PATIENCE, sending).await??;
            if !keep_alive {
                // Closing over what is unread would take the response back from the network.
                socket.end_sending();
                return within(GOODBYE_PATIENCE, drain(socket, received)).await?;
            }
        }
    }

    /// The next request; `None` at the end of the stream.
    async fn request(
        &self,
        socket: &Socket,
        received: &mut BytesMut,
    ) -> io::Result<Option<Result<Request, http::Refusal>>> {
        loop {
            match http::parse(received, self.address) {
                Ok(Some((request, length))) => {
                    received.advance(length);
                    return Ok(Some(Ok(request)));
                }
                Ok(None) => {}
                Err(refusal) => return Ok(Some(Err(refusal))),
            }
            received.reserve(HEAD_BYTES_MAX);
            if socket.receive(received).await? == 0 {
                return Ok(None);
            }
        }
    }

    async fn answer(&self, request: &Request) -> Response {
        match request.path.as_str() {
            "/healthz" => self.health().await,
            "/readyz" => self.readiness(),
            "/" => page::page(),
            "/metrics" => {
                let page = metrics::page(&self.shard, self.began).await;
                Response::of_pieces(prometheus::CONTENT_TYPE, page)
            }
            "/debug/watch" => {
                let asked = Parameters::new(&request.query);
                let page = watch::page(&self.shard, self.began, &asked).await;
                Response::ok(JSON, page)
            }
            "/debug/stages" => self.stages(request).await,
            _ => Response::text(Status::NotFound, PAGES),
        }
    }

    /// Whether every core does its work.
    async fn health(&self) -> Response {
        let cores = self.shard.everywhere(|_| async {});
        match within(HEALTH_PATIENCE, cores).await {
            Ok(_) => Response::text(Status::Ok, "ok"),
            Err(_) => Response::text(Status::Unavailable, "a core does not answer"),
        }
    }

    /// Whether clients are served.
    fn readiness(&self) -> Response {
        match &self.shard {
            shard if shard.is_serving() => Response::text(Status::Ok, "ready"),
            shard if shard.stopping() => Response::text(Status::Unavailable, "stopping"),
            _ => Response::text(Status::Unavailable, "starting"),
        }
    }

    async fn stages(&self, request: &Request) -> Response {
        let samples = self.shard.everywhere(|_| async { crate::stages::sample() });
        let in_detail = request.query.split('&').any(|word| word == "buckets");
        let uptime = clock::now().saturating_duration_since(self.began);
        let page = stages::page(&samples.await, uptime.as_secs_f64(), in_detail);
        Response::ok(JSON, page)
    }
}

async fn send(
    socket: &Socket,
    response: &Response,
    head_only: bool,
    keep_alive: bool,
) -> io::Result<()> {
    let head = response.head(keep_alive);
    let body: &[Bytes] = if head_only { &[] } else { &response.body };
    let body = body.iter().map(|piece| &piece[..]);
    let pieces = [head.as_bytes()].into_iter().chain(body);
    let mut left: VecDeque<&[u8]> = pieces.filter(|piece| !piece.is_empty()).collect();
    while !left.is_empty() {
        let mut room = YIELD_BYTES;
        let some = left.iter().take(SEND_SLICES_MAX).map_while(|piece| {
            let length = piece.len().min(room);
            room -= length;
            (length > 0).then(|| IoSlice::new(&piece[..length]))
        });
        let mut sent = socket.send(&some.collect::<Vec<_>>()).await?;
        while let Some(piece) = left.front_mut() {
            let of_piece = sent.min(piece.len());
            piece.advance(of_piece);
            sent -= of_piece;
            if !piece.is_empty() {
                break;
            }
            left.pop_front();
        }
        turn::yield_if_needed().await;
    }
    Ok(())
}

/// Receives to the end, and forgets it.
async fn drain(socket: &Socket, mut received: BytesMut) -> io::Result<()> {
    loop {
        received.clear();
        received.reserve(HEAD_BYTES_MAX);
        if socket.receive(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

async fn within<T>(patience: Duration, work: impl Future<Output = T>) -> io::Result<T> {
    let timer = pin!(timer::sleep(patience));
    match select(pin!(work), timer).await {
        Either::Left((done, _)) => Ok(done),
        Either::Right(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
