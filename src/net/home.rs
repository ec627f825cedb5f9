//! Owns on which core a connection is served best: its own, until it has asked nothing but the coordinators
//! of one other core for a while, as clients' connections for their groups do. There no request of it crosses.

use std::cell::Cell;

use crate::ids::ShardId;

/// So many requests in a row are for a coordinator of the same core: more than a member needs to join, which may then
/// fetch over the same connection.
const REQUESTS_LEAST: u32 = 6;

#[derive(Debug, Default)]
pub struct Home {
    /// Whose coordinator the request in progress is for.
    asked: Cell<Option<ShardId>>,
    /// Whose those before were for, and how many of them.
    before: Cell<(Option<ShardId>, u32)>,
    /// Records come or go over the connection: those of many partitions, on all cores.
    is_settled: Cell<bool>,
}

impl Home {
    /// The request in progress is for a coordinator on this core.
    pub fn on_asked(&self, core: ShardId) {
        self.asked.set(Some(core));
    }

    /// The request in progress is answered.
    pub fn on_answered(&self) {
        let asked = self.asked.take();
        let (before, count) = self.before.get();
        let count = if asked == before { count + 1 } else { 1 };
        self.before.set((asked, count));
    }

    /// Records come or go: the connection stays where it is.
    pub fn settle(&self) {
        self.is_settled.set(true);
    }

    /// Where to go from `own`. Told once; what comes after that has to show again that it would be better there.
    pub fn better_than(&self, own: ShardId) -> Option<ShardId> {
        let (core, count) = self.before.get();
        let core = core.filter(|core| *core != own)?;
        if self.is_settled.get() || count < REQUESTS_LEAST {
            return None;
        }
        self.before.take();
        Some(core)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: ShardId = ShardId(0);
    const OTHER: ShardId = ShardId(1);

    fn ask(home: &Home, cores: &[ShardId]) {
        for core in cores {
            home.on_asked(*core);
            home.on_answered();
        }
    }

    #[test]
    fn a_connection_moves_to_the_coordinator_that_it_keeps_asking() {
        let home = Home::default();
        ask(&home, &[OTHER; 5]);
        assert_eq!(home.better_than(OWN), None);
        ask(&home, &[OTHER]);
        assert_eq!(home.better_than(OTHER), None, "it is there");
        assert_eq!(home.better_than(OWN), Some(OTHER));
        assert_eq!(home.better_than(OWN), None, "told once");
    }

    #[test]
    fn a_connection_that_asks_others_in_between_stays() {
        let home = Home::default();
        for _ in 0..3 {
            ask(&home, &[OTHER; 5]);
            home.on_answered();
            ask(&home, &[OTHER; 5]);
            ask(&home, &[OWN]);
        }
        assert_eq!(home.better_than(OWN), None);
    }

    #[test]
    fn a_connection_that_records_go_over_stays() {
        let home = Home::default();
        home.settle();
        ask(&home, &[OTHER; 10]);
        assert_eq!(home.better_than(OWN), None);
    }
}
