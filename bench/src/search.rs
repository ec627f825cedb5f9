//! Owns finding the highest rate at which latency keeps a promise: doubling until it breaks, then halving the gap. The
//! search itself is pure; each of its trials is a run of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::client::{Client, Outcome};
use crate::report::Report;
use crate::run::{Setting, run};
use crate::workload::Workload;

/// Where the search begins when the workload names no rate.
const FIRST_RATE: f64 = 1000.0;

/// The search ends when the lowest rate that broke the promise is so close to the highest that kept it.
const CLOSE_ENOUGH: f64 = 1.05;

/// No broker is looked for outside these.
const RATE_MIN: f64 = 1.0;
const RATE_MAX: f64 = 1e8;

/// A run must acknowledge this share of its rate: who falls behind has not kept it, however short the run.
const SHARE_MIN: f64 = 0.97;

/// A promise such as `p99=10ms`: of end-to-end latency where somebody reads, else of acknowledgements.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slo {
    pub percentile: Percentile,
    pub limit_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Percentile {
    #[serde(rename = "p50")]
    P50,
    #[serde(rename = "p90")]
    P90,
    #[serde(rename = "p99")]
    P99,
    #[serde(rename = "p99.9")]
    P99_9,
    #[serde(rename = "max")]
    Max,
}

impl Percentile {
    const ALL: [(Percentile, &str); 5] = [
        (Percentile::P50, "p50"),
        (Percentile::P90, "p90"),
        (Percentile::P99, "p99"),
        (Percentile::P99_9, "p99.9"),
        (Percentile::Max, "max"),
    ];

    fn name(self) -> &'static str {
        let named = Percentile::ALL.iter().find(|(one, _)| *one == self);
        named.expect("all are there").1
    }
}

impl std::str::FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        let parse = || {
            let (name, limit) = text.split_once('=')?;
            let (percentile, _) = Percentile::ALL.iter().find(|(_, known)| *known == name)?;
            let limit_ms: f64 = limit.strip_suffix("ms")?.parse().ok()?;
            (limit_ms > 0.0).then_some(Slo {
                percentile: *percentile,
                limit_ms,
            })
        };
        parse().ok_or_else(|| {
            "a promise looks like p99=10ms; p50, p90, p99.9 and max work, too".into()
        })
    }
}

impl fmt::Display for Slo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} <= {} ms", self.percentile.name(), self.limit_ms)
    }
}

impl Slo {
    /// The latency that the promise is about.
    fn measured(&self, report: &Report) -> Option<f64> {
        let summary = report.end_to_end.as_ref().or(report.acknowledge.as_ref())?;
        Some(match self.percentile {
            Percentile::P50 => summary.p50,
            Percentile::P90 => summary.p90,
            Percentile::P99 => summary.p99,
            Percentile::P99_9 => summary.p99_9,
            Percentile::Max => summary.max,
        })
    }
}

/// What is known of which rates are kept.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    first: f64,
    kept: Option<f64>,
    broken: Option<f64>,
}

impl Search {
    pub fn new(first: f64) -> Search {
        Search {
            first,
            kept: None,
            broken: None,
        }
    }

    /// The rate to try next; `None` when enough is known.
    pub fn next_rate(&self) -> Option<f64> {
        let rate = match (self.kept, self.broken) {
            (None, None) => self.first,
            (Some(kept), None) => kept * 2.0,
            (None, Some(broken)) => broken / 2.0,
            (Some(kept), Some(broken)) if broken / kept <= CLOSE_ENOUGH => return None,
            (Some(kept), Some(broken)) => (kept * broken).sqrt(),
        };
        (RATE_MIN..=RATE_MAX).contains(&rate).then(|| rate.round())
    }

    pub fn on_trial(&mut self, rate: f64, kept: bool) {
        if kept {
            self.kept = Some(self.kept.map_or(rate, |best| best.max(rate)));
        } else {
            self.broken = Some(self.broken.map_or(rate, |least| least.min(rate)));
        }
    }
}

/// One run of the search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    pub rate: f64,
    /// Milliseconds; nothing when no record arrived.
    pub measured: Option<f64>,
    pub kept: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Found {
    pub slo: Slo,
    pub trials: Vec<Trial>,
    /// The run with the highest rate that kept the promise.
    pub best: Option<Report>,
    /// A trial that was interrupted, or that failed.
    pub unfinished: Option<Report>,
}

/// Runs the workload at rate after rate.
pub async fn search<C: Client>(
    client: &C,
    workload: &Workload,
    slo: Slo,
    setting: &Setting,
) -> Outcome<Found> {
    let first = match workload.producer_rate {
        0.0 => FIRST_RATE,
        rate => rate,
    };
    let mut search = Search::new(first);
    let mut found = Found {
        slo,
        trials: Vec::new(),
        best: None,
        unfinished: None,
    };
    while let Some(rate) = search.next_rate().filter(|_| !setting.stop.get()) {
        let trial = Workload {
            producer_rate: rate,
            ..workload.clone()
        };
        setting.begin_part(&format!("{rate}-a-second"));
        let report = run(client, &trial, setting).await?;
        if report.interrupted || report.failure.is_some() {
            found.unfinished = Some(report);
            break;
        }
        let measured = slo.measured(&report);
        let in_time = measured.is_some_and(|measured| measured <= slo.limit_ms);
        let acknowledged = report.produced.map_or(0.0, |flow| flow.records_per_second);
        let kept = in_time && acknowledged >= rate * SHARE_MIN && report.fault().is_none();
        eprintln!(
            "{rate:>10.0} records/s: {} {}",
            measured.map_or("-".into(), |measured| format!("{measured:.3} ms")),
            if kept { "kept" } else { "broken" }
        );
        search.on_trial(rate, kept);
        found.trials.push(Trial {
            rate,
            measured,
            kept,
        });
        if kept {
            // Rates that are kept only rise.
            found.best = Some(report);
        }
    }
    Ok(found)
}

impl Found {
    /// What means that it failed.
    pub fn fault(&self) -> Option<String> {
        self.unfinished.as_ref()?.failure.clone()
    }
}

impl fmt::Display for Found {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.best {
            Some(best) => {
                let rate = best.workload.producer_rate;
                write!(out, "{rate} records/s keep {}\n{best}", self.slo)
            }
            None if self.unfinished.is_none() => writeln!(out, "no rate keeps {}", self.slo),
            None => Ok(()),
        }?;
        match &self.unfinished {
            Some(report) => write!(out, "the search ended early, at this trial\n{report}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn highest(first: f64, limit: f64) -> (Option<f64>, usize) {
        let mut search = Search::new(first);
        let mut trials = 0;
        while let Some(rate) = search.next_rate() {
            search.on_trial(rate, rate <= limit);
            trials += 1;
        }
        (search.kept, trials)
    }

    #[test]
    fn the_highest_rate_is_found_from_above_and_below() {
        for first in [1000.0, 77_000.0, 10_000_000.0] {
            let (kept, trials) = highest(first, 77_777.0);
            let kept = kept.unwrap();
            assert!(
                kept <= 77_777.0 && kept * CLOSE_ENOUGH >= 77_777.0 * 0.99,
                "{kept}"
            );
            assert!(trials < 16, "{trials}");
        }
        assert_eq!(highest(1000.0, 0.0).0, None);
        assert!(highest(1000.0, f64::MAX).0.unwrap() > RATE_MAX / 2.0);
    }

    #[test]
    fn promises_are_read_as_people_write_them() {
        let slo: Slo = "p99.9=2.5ms".parse().unwrap();
        assert_eq!(slo.percentile, Percentile::P99_9);
        assert_eq!(slo.to_string(), "p99.9 <= 2.5 ms");
        for wrong in ["p99", "p98=1ms", "p99=1", "p99=0ms", "p99=-1ms", ""] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }
}
