//! Owns recorded latencies: HDR histograms of nanoseconds, to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        // It grows with what is recorded.
        Latencies(Histogram::new(3).expect("three digits are allowed"))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0
            .record(nanos)
            .expect("a histogram that grows takes every value");
    }

    pub fn clear(&mut self) {
        self.0.reset();
    }

    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// Milliseconds below which this percentage lies.
    pub fn percentile_ms(&self, percent: f64) -> f64 {
        round(self.0.value_at_percentile(percent) as f64 / 1e6)
    }

    pub fn max_ms(&self) -> f64 {
        round(self.0.max() as f64 / 1e6)
    }

    pub fn summary(&self) -> Option<Summary> {
        (self.count() > 0).then(|| Summary {
            count: self.count(),
            mean: round(self.0.mean() / 1e6),
            p50: self.percentile_ms(50.0),
            p90: self.percentile_ms(90.0),
            p99: self.percentile_ms(99.0),
            p99_9: self.percentile_ms(99.9),
            p99_99: self.percentile_ms(99.99),
            max: self.max_ms(),
            curve: CURVE
                .iter()
                .map(|percent| (*percent, self.percentile_ms(*percent)))
                .collect(),
        })
    }
}

/// Percentages that a percentile curve is drawn through.
const CURVE: [f64; 16] = [
    0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999,
    100.0,
];

/// Microseconds are enough to read.
fn round(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

/// Latencies in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub p99_99: f64,
    pub max: f64,
    /// Percentage and milliseconds.
    pub curve: Vec<(f64, f64)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_recorded() {
        let mut latencies = Latencies::default();
        for millis in 1..=1000 {
            latencies.record(Duration::from_millis(millis));
        }
        assert!((latencies.percentile_ms(50.0) - 500.0).abs() < 1.0);
        assert!((latencies.percentile_ms(99.0) - 990.0).abs() < 1.0);
        assert!((latencies.max_ms() - 1000.0).abs() < 1.0);
        assert_eq!(latencies.count(), 1000);
        let summary = latencies.summary().unwrap();
        assert_eq!(summary.curve.last().unwrap().1, summary.max);
        latencies.clear();
        assert_eq!(latencies.summary(), None);
    }
}
