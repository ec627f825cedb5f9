//! Owns how fast records come into one partition and leave it: in its last second, as far as somebody looks each
//! second. It reads no clock.

use std::cell::Cell;

use super::Arrived;
use crate::io::clock::Ticks;

/// A rate is of so long at least.
const LEAST_NANOS: u64 = 900_000_000;

/// What moved in a second.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Rates {
    pub records_in: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

#[derive(Default)]
pub struct Pace {
    since: Cell<Option<Ticks>>,
    arrived: Cell<Arrived>,
    fetched_bytes: Cell<u64>,
    rates: Cell<Rates>,
}

impl Pace {
    /// To be told all that has come and gone, about twice a second.
    pub fn on_tick(&self, now: Ticks, arrived: Arrived, fetched_bytes: u64) {
        let nanos = match self.since.get() {
            Some(since) => now.nanos_since(since),
            None => return self.begin(now, arrived, fetched_bytes),
        };
        if nanos < LEAST_NANOS {
            return;
        }
        let before = self.arrived.get();
        let rate = |now: u64, before: u64| {
            let moved = u128::from(now - before);
            (moved * 1_000_000_000 / u128::from(nanos)) as u64
        };
        self.rates.set(Rates {
            records_in: rate(arrived.records, before.records),
            bytes_in: rate(arrived.bytes, before.bytes),
            bytes_out: rate(fetched_bytes, self.fetched_bytes.get()),
        });
        self.begin(now, arrived, fetched_bytes);
    }

    fn begin(&self, now: Ticks, arrived: Arrived, fetched_bytes: u64) {
        self.since.set(Some(now));
        self.arrived.set(arrived);
        self.fetched_bytes.set(fetched_bytes);
    }

    pub fn rates(&self) -> Rates {
        self.rates.get()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::clock;

    #[test]
    fn a_rate_is_of_its_last_second() {
        let pace = Pace::default();
        let arrived = |records, bytes| Arrived { records, bytes };
        pace.on_tick(clock::ticks(), arrived(5, 500), 50);
        assert_eq!(pace.rates(), Rates::default(), "it may have taken years");
        pace.on_tick(clock::ticks(), arrived(10, 1000), 100);
        assert_eq!(pace.rates(), Rates::default(), "it is too early");
        std::thread::sleep(Duration::from_nanos(LEAST_NANOS));
        pace.on_tick(clock::ticks(), arrived(1005, 100_500), 10_050);
        let rates = pace.rates();
        assert!((500..=1112).contains(&rates.records_in), "{rates:?}");
        assert!(rates.bytes_in.abs_diff(rates.records_in * 100) <= 100);
        assert!(rates.bytes_out.abs_diff(rates.records_in * 10) <= 10);
        std::thread::sleep(Duration::from_nanos(LEAST_NANOS));
        pace.on_tick(clock::ticks(), arrived(1005, 100_500), 10_050);
        assert_eq!(pace.rates(), Rates::default());
    }
}
