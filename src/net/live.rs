//! Owns the live connections of each core: who they are, what time brings about for them, and how they end at a stop.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::io::clock;
use crate::io::timer;
use crate::net::connection::{Connection, Moving};
use crate::shard::Shard;
use crate::stages::{self, timing};

/// How often a core looks at its connections for what time alone brings about.
const SWEEP: Duration = Duration::from_millis(500);

const _: () = assert!(SWEEP.as_millis() as u64 * timing::TICKS_PER_SECOND == 1000);

/// At a stop, a peer that takes nothing of its answers for so long is not waited for.
const STUCK: Duration = Duration::from_secs(1);

thread_local! {
    /// This core's, by number.
    static LIVE: RefCell<BTreeMap<u64, Rc<Connection>>> = const { RefCell::new(BTreeMap::new()) };
    static NEXT_NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// Serves a connection to its end.
pub async fn serve(shard: Rc<Shard>, connection: Rc<Connection>) -> Option<Moving> {
    let number = NEXT_NUMBER.replace(NEXT_NUMBER.get() + 1);
    LIVE.with_borrow_mut(|live| live.insert(number, connection.clone()));
    if shard.stopping() {
        connection.finish(clock::now(), STUCK);
    }
    let moving = connection.serve(shard).await;
    LIVE.with_borrow_mut(|live| live.remove(&number));
    moving
}

/// Does what time brings about, until the shard stops.
pub async fn sweep(shard: Rc<Shard>) {
    let idle = shard.broker.config.connections_max_idle_ms;
    let idle = idle.map(Duration::from_millis);
    while !shard.stopping() {
        timer::sleep(SWEEP).await;
        stages::on_tick();
        let now = clock::now();
        for connection in all() {
            connection.sweep(&shard, now, idle);
        }
        shard.complaints.on_tick(now);
    }
}

/// Resolves when this core's connections have had their answers and are gone; the shard takes no new work.
pub async fn finish(shard: Rc<Shard>, patience: Duration) {
    let deadline = clock::now() + patience;
    loop {
        let now = clock::now();
        let open = all();
        if open.is_empty() || now >= deadline {
            return shard.complaints.count_rest();
        }
        for connection in open {
            connection.finish(now, STUCK);
        }
        timer::sleep(Duration::from_millis(2)).await;
    }
}

/// This core's connections.
pub fn all() -> Vec<Rc<Connection>> {
    LIVE.with_borrow(|live| live.values().cloned().collect())
}
