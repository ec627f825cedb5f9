//! Owns accepting: every core accepts, and hands the socket to the core with the fewest live connections.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::{error, warn};

use crate::ids::ShardId;
use crate::io::clock;
use crate::io::socket::{BoundListener, Listener, Socket};
use crate::net::connection::Connection;
use crate::protocol::Str;
use crate::shard::Shard;

/// Accepting goes wrong for a while when descriptors or memory have run out; trying again at once only burns the core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The live connections of the whole broker. Locked only when one begins or ends.
#[derive(Debug)]
pub struct Connections {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    max: usize,
    max_per_address: usize,
    by_shard: Vec<usize>,
    by_address: std::collections::HashMap<IpAddr, usize>,
}

/// One live connection's place in the counts; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    shard: ShardId,
    address: IpAddr,
}

impl Connections {
    /// `max` bounds all connections (`max.connections`), `max_per_address` those of one client (`max.connections.per.ip`).
    pub fn new(shards: u16, max: usize, max_per_address: usize) -> Arc<Connections> {
        Arc::new(Connections {
            counts: Mutex::new(Counts {
                max,
                max_per_address,
                by_shard: vec![0; usize::from(shards)],
                by_address: Default::default(),
            }),
        })
    }

    /// From now on; connections that are there stay.
    pub fn set_bounds(&self, max: usize, max_per_address: usize) {
        let mut counts = self.counts.lock().expect("no one panics while counting");
        (counts.max, counts.max_per_address) = (max, max_per_address);
    }

    /// A seat on the core with the fewest connections; on `own` among equals, which saves the hand-over.
    pub fn seat(self: &Arc<Self>, own: ShardId, address: IpAddr) -> Option<Seat> {
        let mut counts = self.counts.lock().expect("no one panics while counting");
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let all: usize = counts.by_shard.iter().sum();
        if all >= counts.max || of_address >= counts.max_per_address {
            return None;
        }
        let fewest = counts.by_shard.iter().min().copied().unwrap_or(0);
        let own = usize::from(own.0);
        let shard = if counts.by_shard[own] == fewest {
            own
        } else {
            counts.by_shard.iter().position(|&count| count == fewest)?
        };
        counts.by_shard[shard] += 1;
        counts.by_address.insert(address, of_address + 1);
        Some(Seat {
            connections: self.clone(),
            shard: ShardId(shard as u16),
            address,
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self
            .connections
            .counts
            .lock()
            .expect("no one panics while counting");
        counts.by_shard[usize::from(self.shard.0)] -= 1;
        if let Some(count) = counts.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.by_address.remove(&self.address);
            }
        }
    }
}

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
            Ok((stream, peer)) => admit(&shard, stream, peer, name.clone()),
            Err(error) => {
                warn!(%error, "accepting failed");
                glommio::timer::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

fn admit(shard: &Rc<Shard>, stream: TcpStream, peer: SocketAddr, listener: Str) {
    let Some(seat) = shard.broker.connections.seat(shard.id, peer.ip()) else {
        let reason = &"max.connections or max.connections.per.ip is reached";
        return shard.complaints.on_closed(clock::now(), peer, reason);
    };
    let handed_over = shard.mesh.call(shard, seat.shard, move |shard| async move {
        begin(shard, stream, peer, listener, seat);
    });
    glommio::spawn_local(handed_over).detach();
}

fn begin(shard: Rc<Shard>, stream: TcpStream, peer: SocketAddr, listener: Str, seat: Seat) {
    let socket = match Socket::adopt(stream) {
        Ok(socket) => socket,
        Err(error) => return warn!(%peer, %error, "connection lost"),
    };
    let config = &shard.broker.config;
    let buffers = (
        config.socket_send_buffer_bytes,
        config.socket_receive_buffer_bytes,
    );
    if let Err(error) = socket.set_buffers(buffers.0, buffers.1) {
        warn!(%peer, %error, "socket buffers keep the kernel's sizes");
    }
    let connection = Connection::new(socket, peer, listener);
    let number = shard.connection_began(connection.clone());
    glommio::spawn_local(async move {
        connection.serve(shard.clone()).await;
        shard.connection_ended(number);
        drop(seat);
    })
    .detach();
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn the_core_with_the_fewest_connections_gets_the_next() {
        let connections = Connections::new(2, 10, 10);
        let seats: Vec<Seat> = (0..4)
            .map(|_| connections.seat(ShardId(1), CLIENT).unwrap())
            .collect();
        let shards: Vec<u16> = seats.iter().map(|seat| seat.shard.0).collect();
        assert_eq!(shards, [1, 0, 1, 0]);
        drop(seats);
        assert_eq!(connections.seat(ShardId(0), CLIENT).unwrap().shard.0, 0);
    }

    #[test]
    fn bounds_refuse_and_a_freed_seat_admits_again() {
        let connections = Connections::new(1, 3, 2);
        let first = connections.seat(ShardId(0), CLIENT);
        let second = connections.seat(ShardId(0), CLIENT);
        assert!(first.is_some() && second.is_some());
        assert!(connections.seat(ShardId(0), CLIENT).is_none());
        drop(first);
        let third = connections.seat(ShardId(0), CLIENT);
        assert!(third.is_some());
        connections.set_bounds(3, 3);
        let fourth = connections.seat(ShardId(0), CLIENT);
        assert!(fourth.is_some());
        assert!(connections.seat(ShardId(0), CLIENT).is_none());
    }
}
