//! Owns the count of live connections, by core and by client address, and how many there may be.
//! It touches no socket.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::config::BrokerConfig;
use crate::ids::ShardId;
use crate::shard::layout::Layout;

/// The live connections of the whole broker. Locked only when one begins or ends.
#[derive(Debug)]
pub struct Connections {
    counts: Mutex<Counts>,
    /// A connection may take another seat later.
    may_move: bool,
}

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// `max.connections`: further ones wait until one ends.
    pub all: usize,
    /// `max.connections.per.ip`: further ones are closed.
    pub of_address: usize,
    /// `max.connections.per.ip.overrides`
    pub of_addresses: HashMap<IpAddr, usize>,
}

impl Bounds {
    pub fn new(config: &BrokerConfig) -> Bounds {
        let overrides = config.max_connections_per_ip_overrides.iter();
        Bounds {
            all: config.max_connections,
            of_address: config.max_connections_per_ip,
            of_addresses: overrides.copied().collect(),
        }
    }

    fn of(&self, address: IpAddr) -> usize {
        let own = self.of_addresses.get(&address.to_canonical());
        own.copied().unwrap_or(self.of_address)
    }
}

/// Why there is no seat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSeat {
    /// Until some connection ends.
    Now,
    AddressHas(usize),
}

#[derive(Debug)]
struct Counts {
    bounds: Bounds,
    /// The cores that have seats.
    places: Vec<usize>,
    by_shard: Vec<usize>,
    by_address: HashMap<IpAddr, usize>,
}

/// One live connection's place in the counts; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    pub shard: ShardId,
    address: IpAddr,
}

impl Connections {
    pub fn new(layout: &Layout, bounds: Bounds) -> Arc<Connections> {
        let places = layout.network().iter().map(|shard| usize::from(shard.0));
        Connections::with(
            layout.shards(),
            places.collect(),
            layout.connections_move(),
            bounds,
        )
    }

    fn with(shards: u16, places: Vec<usize>, may_move: bool, bounds: Bounds) -> Arc<Connections> {
        Arc::new(Connections {
            may_move,
            counts: Mutex::new(Counts {
                bounds,
                places,
                by_shard: vec![0; usize::from(shards)],
                by_address: Default::default(),
            }),
        })
    }

    /// From now on; connections that are there stay.
    pub fn set_bounds(&self, bounds: Bounds) {
        let mut counts = self.counts.lock().expect("no one panics while counting");
        counts.bounds = bounds;
    }

    /// Live connections of each core.
    pub fn by_shard(&self) -> Vec<usize> {
        let counts = self.counts.lock().expect("no one panics while counting");
        counts.by_shard.clone()
    }

    /// A seat on the core with the fewest connections, of those that have any; on `own` among equals, which saves the hand-over.
    pub fn seat(self: &Arc<Self>, own: ShardId, address: IpAddr) -> Result<Seat, NoSeat> {
        let mut counts = self.counts.lock().expect("no one panics while counting");
        let of_address = counts.by_address.get(&address).copied().unwrap_or(0);
        let all: usize = counts.by_shard.iter().sum();
        let most = counts.bounds.of(address);
        if of_address >= most {
            return Err(NoSeat::AddressHas(most));
        }
        if all >= counts.bounds.all {
            return Err(NoSeat::Now);
        }
        let own = usize::from(own.0);
        let places = counts.places.iter().copied();
        let shard = places.min_by_key(|place| (counts.by_shard[*place], *place != own));
        let shard = shard.expect("some core serves connections");
        counts.by_shard[shard] += 1;
        counts.by_address.insert(address, of_address + 1);
        Ok(Seat {
            connections: self.clone(),
            shard: ShardId(shard as u16),
            address,
        })
    }
}

impl Seat {
    /// Takes the connection to another core, unless that has none, or more than twice its share of all.
    pub fn move_to(&mut self, shard: ShardId) -> bool {
        let connections = self.connections.clone();
        if !connections.may_move {
            return false;
        }
        let mut counts = connections
            .counts
            .lock()
            .expect("no one panics while counting");
        let Counts {
            by_shard, places, ..
        } = &mut *counts;
        let all: usize = by_shard.iter().sum();
        let to = usize::from(shard.0);
        let has_room = places.contains(&to) && by_shard[to] * places.len() < all * 2;
        if has_room {
            by_shard[usize::from(self.shard.0)] -= 1;
            by_shard[usize::from(shard.0)] += 1;
            self.shard = shard;
        }
        has_room
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

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn bounds(all: usize, of_address: usize) -> Bounds {
        Bounds {
            all,
            of_address,
            of_addresses: HashMap::new(),
        }
    }

    #[test]
    fn the_core_with_the_fewest_connections_gets_the_next() {
        let connections = Connections::with(2, vec![0, 1], true, bounds(10, 10));
        let seats: Vec<Seat> = (0..4)
            .map(|_| connections.seat(ShardId(1), CLIENT).unwrap())
            .collect();
        let shards: Vec<u16> = seats.iter().map(|seat| seat.shard.0).collect();
        assert_eq!(shards, [1, 0, 1, 0]);
        drop(seats);
        assert_eq!(connections.seat(ShardId(0), CLIENT).unwrap().shard.0, 0);
    }

    #[test]
    fn a_seat_moves_while_the_other_core_has_not_twice_its_share() {
        let connections = Connections::with(4, vec![0, 1, 2, 3], true, bounds(10, 10));
        let mut seats: Vec<Seat> = (0..8)
            .map(|_| connections.seat(ShardId(0), CLIENT).unwrap())
            .collect();
        let moved = seats.iter_mut().map(|seat| seat.move_to(ShardId(3)));
        assert_eq!(moved.filter(|moved| *moved).count(), 2);
        assert_eq!(connections.by_shard()[3], 4);
        drop(seats);
        assert_eq!(connections.by_shard(), [0; 4]);
    }

    #[test]
    fn cores_that_serve_no_connections_get_none() {
        let connections = Connections::with(4, vec![1, 2], true, bounds(10, 10));
        let mut seats: Vec<Seat> = (0..4)
            .map(|_| connections.seat(ShardId(3), CLIENT).unwrap())
            .collect();
        assert_eq!(connections.by_shard(), [0, 2, 2, 0]);
        assert!(!seats[0].move_to(ShardId(0)));
        assert!(seats[0].move_to(ShardId(2)));
    }

    #[test]
    fn where_connections_stay_none_moves() {
        let connections = Connections::with(2, vec![0, 1], false, bounds(10, 10));
        let mut seat = connections.seat(ShardId(0), CLIENT).unwrap();
        assert!(!seat.move_to(ShardId(1)));
        assert_eq!(connections.by_shard(), [1, 0]);
    }

    #[test]
    fn bounds_hold_and_a_freed_seat_admits_again() {
        let connections = Connections::with(1, vec![0], true, bounds(3, 2));
        let seat = |address| connections.seat(ShardId(0), address);
        let first = seat(CLIENT).unwrap();
        let _second = seat(CLIENT).unwrap();
        assert_eq!(seat(CLIENT).unwrap_err(), NoSeat::AddressHas(2));
        drop(first);
        let _third = seat(CLIENT).unwrap();
        let other = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
        let _fourth = seat(other).unwrap();
        assert_eq!(seat(other).unwrap_err(), NoSeat::Now);
        connections.set_bounds(Bounds {
            of_addresses: HashMap::from([(other, 1)]),
            ..bounds(10, 3)
        });
        assert_eq!(seat(other).unwrap_err(), NoSeat::AddressHas(1));
        let _fifth = seat(CLIENT).unwrap();
        assert_eq!(seat(CLIENT).unwrap_err(), NoSeat::AddressHas(3));
    }
}
