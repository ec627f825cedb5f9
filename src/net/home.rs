//! Owns on which core a connection is served best: its own, until it has asked nothing but the coordinators
//! of one other core for a while, as clients' connections for their groups do. There no request of it crosses. Where a profile
//! wants that, the same goes for one whose records are all of the partitions of one other core.

use std::cell::Cell;

use crate::ids::ShardId;

/// So many requests in a row are for a coordinator of the same core: more than a member needs to join, which may then
/// fetch over the same connection.
const REQUESTS_LEAST: u32 = 6;

/// So many requests in a row are for records of the same core: moving costs a fetch its session.
const RECORD_REQUESTS_LEAST: u32 = 16;

#[derive(Debug, Default)]
pub struct Home {
    /// It moves for records, too.
    follows_records: bool,
    /// Whose records the last requests were for, `None` for those of several cores, and how many of them.
    records: Cell<(Option<ShardId>, u32)>,
    /// Whose coordinator the request in progress is for.
    asked: Cell<Option<ShardId>>,
    /// Whose those before were for, and how many of them.
    before: Cell<(Option<ShardId>, u32)>,
    /// Records come or go over the connection: those of many partitions, on all cores.
    is_settled: Cell<bool>,
}

impl Home {
    pub fn new(follows_records: bool) -> Home {
        Home {
            follows_records,
            ..Home::default()
        }
    }

    pub fn follows_records(&self) -> bool {
        self.follows_records
    }

    /// A request is for records of partitions on these cores.
    pub fn on_records(&self, mut cores: impl Iterator<Item = ShardId>) {
        if !self.follows_records {
            return;
        }
        let first = cores.next();
        let core = first.filter(|first| cores.all(|core| core == *first));
        let (before, count) = self.records.get();
        let count = if core == before {
            count.saturating_add(1)
        } else {
            1
        };
        self.records.set((core, count));
    }

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

    /// Records come or go: the connection stays where it is, or goes where they are.
    pub fn settle(&self) {
        self.is_settled.set(true);
    }

    /// Where to go from `own`. Told once; what comes after that has to show again that it would be better there.
    pub fn better_than(&self, own: ShardId) -> Option<ShardId> {
        let (asked, least) = match self.is_settled.get() {
            true => (&self.records, RECORD_REQUESTS_LEAST),
            false => (&self.before, REQUESTS_LEAST),
        };
        let (core, count) = asked.get();
        let core = core.filter(|core| *core != own)?;
        if count < least {
            return None;
        }
        asked.take();
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
        home.on_records([OTHER; 3].into_iter().cycle().take(100));
        assert_eq!(home.better_than(OWN), None);
    }

    #[test]
    fn a_connection_that_follows_its_records_goes_where_all_of_them_are() {
        let home = Home::new(true);
        home.settle();
        for _ in 0..15 {
            home.on_records([OTHER, OTHER].into_iter());
        }
        assert_eq!(home.better_than(OWN), None);
        home.on_records([OTHER].into_iter());
        assert_eq!(home.better_than(OTHER), None, "it is there");
        assert_eq!(home.better_than(OWN), Some(OTHER));
        assert_eq!(home.better_than(OWN), None, "told once");
        for cores in [[OTHER, OTHER]; 15].into_iter().chain([[OTHER, OWN]]) {
            home.on_records(cores.into_iter());
        }
        home.on_records([OTHER].into_iter());
        assert_eq!(home.better_than(OWN), None, "in between it wanted others");
    }
}
