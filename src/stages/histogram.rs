//! Owns how spans of time are counted: in buckets of a fixed number, each 1/16 wider than its lower bound at most.
//! It knows nothing of what is timed.

use std::cell::Cell;

use zerocopy::FromZeros;

/// Bits of a span, below its highest, that choose its bucket.
const DETAIL_BITS: u32 = 4;
const DETAIL: usize = 1 << DETAIL_BITS;

/// Spans of 2^this nanoseconds (69 s) and longer share the last bucket.
const LONGEST_BITS: u32 = 36;

const BUCKETS: usize = (LONGEST_BITS - DETAIL_BITS + 1) as usize * DETAIL;

/// Spans of one kind on one core; all zeroes when there are none.
#[derive(FromZeros)]
pub struct Histogram {
    counts: [Cell<u64>; BUCKETS],
    count: Cell<u64>,
    total_nanos: Cell<u64>,
    longest_nanos: Cell<u64>,
}

impl Histogram {
    pub fn record(&self, nanos: u64) {
        let bucket = &self.counts[bucket_of(nanos)];
        bucket.set(bucket.get() + 1);
        self.count.set(self.count.get() + 1);
        self.total_nanos.set(self.total_nanos.get() + nanos);
        if nanos > self.longest_nanos.get() {
            self.longest_nanos.set(nanos);
        }
    }

    /// What has been counted so far, to be handed to another core.
    pub fn distribution(&self) -> Distribution {
        let buckets = self.counts.iter().enumerate();
        let buckets = buckets.filter(|(_, count)| count.get() > 0);
        Distribution {
            count: self.count.get(),
            total_nanos: self.total_nanos.get(),
            longest_nanos: self.longest_nanos.get(),
            buckets: buckets
                .map(|(bucket, count)| (bucket as u16, count.get()))
                .collect(),
        }
    }
}

fn bucket_of(nanos: u64) -> usize {
    if nanos < DETAIL as u64 {
        return nanos as usize;
    }
    let high = nanos.ilog2();
    if high >= LONGEST_BITS {
        return BUCKETS - 1;
    }
    let shift = high - DETAIL_BITS;
    (shift as usize + 1) * DETAIL + (nanos >> shift) as usize - DETAIL
}

/// The longest span of a bucket.
pub fn longest_in(bucket: u16) -> u64 {
    let bucket = usize::from(bucket);
    let least = |bucket: usize| match bucket / DETAIL {
        0 => bucket as u64,
        row => ((DETAIL + bucket % DETAIL) as u64) << (row - 1),
    };
    least(bucket + 1) - 1
}

/// What a histogram has counted.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub struct Distribution {
    pub count: u64,
    pub total_nanos: u64,
    pub longest_nanos: u64,
    /// Those that are not empty, ascending, and how many spans are in each.
    pub buckets: Vec<(u16, u64)>,
}

impl Distribution {
    /// Adds what another core has counted.
    pub fn add(&mut self, other: &Distribution) {
        self.count += other.count;
        self.total_nanos += other.total_nanos;
        self.longest_nanos = self.longest_nanos.max(other.longest_nanos);
        for &(bucket, count) in &other.buckets {
            match self.buckets.binary_search_by_key(&bucket, |(own, _)| *own) {
                Ok(place) => self.buckets[place].1 += count,
                Err(place) => self.buckets.insert(place, (bucket, count)),
            }
        }
    }

    /// The span that this share of all, from 0 to 1, does not exceed; up to 1/16 too long. 0 when nothing was counted.
    pub fn quantile_nanos(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        found.map_or(0, |(bucket, _)| longest_in(*bucket).min(self.longest_nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::zeroed;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS as u16 - 1 {
            let longest = longest_in(bucket);
            assert_eq!(bucket_of(longest), usize::from(bucket));
            assert_eq!(bucket_of(longest + 1), usize::from(bucket) + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_within_a_sixteenth() {
        let histogram: Box<Histogram> = zeroed();
        for nanos in 1..=100_000 {
            histogram.record(nanos);
        }
        let counted = histogram.distribution();
        for share in [0.5, 0.9, 0.99, 0.999] {
            let (exact, told) = (share * 1e5, counted.quantile_nanos(share) as f64);
            assert!(
                told >= exact && told <= exact * 17.0 / 16.0,
                "{share} {told}"
            );
        }
        assert_eq!(counted.quantile_nanos(1.0), 100_000);
        assert_eq!(counted.total_nanos, 100_000 * 100_001 / 2);
        assert_eq!(Distribution::default().quantile_nanos(0.99), 0);
    }

    #[test]
    fn cores_add_up() {
        let (one, other): (Box<Histogram>, Box<Histogram>) = (zeroed(), zeroed());
        for nanos in [5, 1000, 1_000_000] {
            one.record(nanos);
            other.record(2 * nanos);
        }
        let mut sum = one.distribution();
        sum.add(&other.distribution());
        let both: Box<Histogram> = zeroed();
        for nanos in [5, 10, 1000, 2000, 1_000_000, 2_000_000] {
            both.record(nanos);
        }
        assert_eq!(sum, both.distribution());
    }
}
