//! Owns how loudly a core speaks of connections that it closes or refuses: a line each, up to so many a window,
//! then one line that counts the rest. A flood of bad clients must not become a flood of log lines.

use std::cell::{Cell, RefCell};
use std::fmt::Display;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::limits::COMPLAINTS_MAX;

const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Complaints {
    window_began: Cell<Instant>,
    told: Cell<usize>,
    untold: Cell<usize>,
    /// Of the last connection that was only counted.
    last: RefCell<Option<(SocketAddr, String)>>,
}

impl Complaints {
    pub fn new(now: Instant) -> Complaints {
        Complaints {
            window_began: Cell::new(now),
            told: Cell::new(0),
            untold: Cell::new(0),
            last: RefCell::default(),
        }
    }

    /// A connection was closed for what its peer sent, or refused.
    pub fn on_closed(&self, now: Instant, peer: SocketAddr, error: &dyn Display) {
        self.on_tick(now);
        if self.told.get() < COMPLAINTS_MAX {
            self.told.set(self.told.get() + 1);
            return warn!(%peer, %error, "connection closed");
        }
        self.untold.set(self.untold.get() + 1);
        *self.last.borrow_mut() = Some((peer, error.to_string()));
    }

    /// Call now and then: a window that is over has its rest counted.
    pub fn on_tick(&self, now: Instant) {
        if now.saturating_duration_since(self.window_began.get()) >= WINDOW {
            self.window_began.set(now);
            self.count_rest();
        }
    }

    /// Tells what was only counted so far, as before the end of the core.
    pub fn count_rest(&self) {
        self.told.set(0);
        let connections = self.untold.replace(0);
        if let Some((peer, error)) = self.last.take() {
            warn!(connections, last_peer = %peer, last_error = error, "more connections closed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::clock;

    #[test]
    fn a_window_tells_its_first_and_counts_the_rest() {
        let now = clock::now();
        let complaints = Complaints::new(now);
        let peer = SocketAddr::from(([127, 0, 0, 1], 9092));
        for _ in 0..COMPLAINTS_MAX + 3 {
            complaints.on_closed(now, peer, &"bad");
        }
        assert_eq!(complaints.told.get(), COMPLAINTS_MAX);
        assert_eq!(complaints.untold.get(), 3);
        complaints.on_closed(now + WINDOW, peer, &"bad");
        assert_eq!((complaints.told.get(), complaints.untold.get()), (1, 0));
    }
}
