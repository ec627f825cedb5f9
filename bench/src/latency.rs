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

    pub fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// Those that came after `earlier`, which is of the same track.
    pub fn since(&self, earlier: &Latencies) -> Latencies {
        let mut difference = self.clone();
        difference
            .0
            .subtract(&earlier.0)
            .expect("a track only grows");
        difference
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
            curve: self.curve(),
        })
    }

    /// Percentages come closer to 100 by the same factor each, as far as there are records to tell them apart.
    fn curve(&self) -> Vec<(f64, f64)> {
        const STEPS_PER_DECADE: f64 = 10.0;
        let steps = ((self.count() as f64).log10() * STEPS_PER_DECADE) as i32;
        let percentages = (0..=steps).map(|step| {
            let above = 10_f64.powf(-f64::from(step) / STEPS_PER_DECADE);
            (100.0 * (1.0 - above) * 1e9).round() / 1e9
        });
        percentages
            .chain([100.0])
            .map(|percent| (percent, self.percentile_ms(percent)))
            .collect()
    }
}

/// To a thousandth: microseconds are enough to read, and so is that of anything else.
pub fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
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
    /// Percentage and milliseconds, from the least to the largest.
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
        assert_eq!(summary.curve.first().unwrap().0, 0.0);
        assert_eq!(*summary.curve.last().unwrap(), (100.0, summary.max));
        assert!(summary.curve.contains(&(99.0, summary.p99)));
        let since = latencies.since(&Latencies::default());
        assert_eq!(since.histogram(), latencies.histogram());
        assert_eq!(latencies.since(&latencies).count(), 0);
        latencies.clear();
        assert_eq!(latencies.summary(), None);
    }
}
