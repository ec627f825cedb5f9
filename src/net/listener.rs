//! Owns accepting: every core accepts, and hands the socket to the core with the fewest live connections. It also hands over
//! those that are better served on another core later.

use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tracing::{error, warn};

use crate::io::clock;
use crate::io::socket::{BoundListener, Listener, Socket};
use crate::io::timer;
use crate::net::connection::{Connection, Moving};
use crate::net::live;
use crate::net::seats::NoSeat;
use crate::protocol::Str;
use crate::shard::Shard;
use crate::stages::tasks::{self, Task};

/// Accepting goes wrong for a while when descriptors or memory have run out; trying again at once only burns the core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How often a connection beyond `max.connections` looks whether another has ended.
const SEAT_RETRY: Duration = Duration::from_millis(20);

/// Accepts on this core until the shard stops.
pub async fn accept(shard: Rc<Shard>, bound: BoundListener, name: Str) {
    let listener = match Listener::adopt(bound) {
        Ok(listener) => listener,
        Err(error) => return error!(%error, "this core cannot accept"),
    };
    loop {
        let accepted = listener.accept().await;
        if shard.stopping() {
            return;
        }
        match accepted {
            Ok((stream, peer)) => admit(&shard, stream, peer, name.clone()).await,
            Err(error) => {
                warn!(%error, "accepting failed");
                timer::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// As in Kafka a connection too many waits for another to end, and nobody is accepted after it; one too many
/// from its address is closed.
async fn admit(shard: &Rc<Shard>, stream: TcpStream, peer: SocketAddr, listener: Str) {
    let seat = loop {
        match shard.broker.connections.seat(shard.id, peer.ip()) {
            Ok(seat) => break seat,
            Err(NoSeat::AddressHas(max)) => {
                let reason =
                    format!("its address has the {max} connections of max.connections.per.ip");
                return shard.complaints.on_closed(clock::now(), peer, &reason);
            }
            Err(NoSeat::Now) if shard.stopping() => return,
            Err(NoSeat::Now) => timer::sleep(SEAT_RETRY).await,
        }
    };
    let received = BytesMut::new();
    let moving = Moving {
        stream,
        seat,
        received,
    };
    hand_over(shard, moving, peer, listener);
}

/// The connection is served on the core of its seat from now on.
fn hand_over(shard: &Rc<Shard>, moving: Moving, peer: SocketAddr, listener: Str) {
    let core = moving.seat.shard;
    let handed_over = shard.mesh.call(shard, core, move |shard| async move {
        begin(shard, moving, peer, listener);
    });
    glommio::spawn_local(handed_over).detach();
}

fn begin(shard: Rc<Shard>, moving: Moving, peer: SocketAddr, listener: Str) {
    let Moving {
        stream,
        seat,
        received,
    } = moving;
    let socket = Socket::adopt(stream);
    let config = &shard.broker.config;
    let buffers = (
        config.socket_send_buffer_bytes,
        config.socket_receive_buffer_bytes,
    );
    if let Err(error) = socket.set_buffers(buffers.0, buffers.1) {
        warn!(%peer, %error, "socket buffers keep the kernel's sizes");
    }
    let connection = Connection::new(&shard, socket, peer, listener.clone(), seat, received);
    tasks::spawn(Task::RECEIVE, async move {
        if let Some(moving) = live::serve(shard.clone(), connection).await {
            hand_over(&shard, moving, peer, listener);
        }
    })
    .detach();
}
