//! Owns what of a load's report counts: what a search is for, what must not get much worse, and the words for both.

use coati_bench::{Aim, Goal};
use serde::{Deserialize, Serialize};

use super::search::Figures;

/// What a trial came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// Produced; of what is only read, consumed.
    pub mb_per_second: f64,
    /// End to end where somebody reads, else until acknowledged; what is only read has none.
    pub p99_ms: Option<f64>,
    /// Of all that was produced and consumed.
    pub cpu_seconds_per_gb: f64,
}

/// What of `coati bench --json` is read.
#[derive(Deserialize)]
struct Report {
    interrupted: bool,
    failure: Option<String>,
    produced: Option<Flow>,
    consumed: Option<Flow>,
    acknowledge: Option<Summary>,
    end_to_end: Option<Summary>,
    broker: Option<Cost>,
}

#[derive(Deserialize)]
struct Flow {
    mb_per_second: f64,
}

#[derive(Deserialize)]
struct Summary {
    p99: f64,
}

#[derive(Deserialize)]
struct Cost {
    cpu_seconds_per_gb: f64,
}

impl Measured {
    pub fn from_report(json: &str) -> Result<Measured, String> {
        let report: Report = serde_json::from_str(json)
            .map_err(|error| format!("the report of the load is none: {error}"))?;
        if let Some(failure) = report.failure {
            return Err(failure);
        }
        if report.interrupted {
            return Err("the load was interrupted".into());
        }
        let flow = report.produced.or(report.consumed);
        let flow = flow.ok_or("nothing was produced or consumed in the measured time")?;
        let cost = report.broker.ok_or("what the broker used was not told")?;
        let latency = report.end_to_end.or(report.acknowledge);
        Ok(Measured {
            mb_per_second: flow.mb_per_second,
            p99_ms: latency.map(|latency| latency.p99),
            cpu_seconds_per_gb: cost.cpu_seconds_per_gb,
        })
    }

    pub fn value(&self, goal: Goal) -> Option<f64> {
        match goal {
            Goal::Throughput => Some(self.mb_per_second),
            Goal::P99 => self.p99_ms,
            Goal::Cpu => Some(self.cpu_seconds_per_gb),
        }
    }

    /// For the search: what it is for, then the others.
    pub fn figures(&self, aim: &Aim) -> Figures {
        let of = |goal: Goal| {
            // Where there is none it changes nothing. Reports are rounded: what is nothing there was little.
            let value = self.value(goal).unwrap_or(1.0).max(1e-4);
            better(goal) * value.ln()
        };
        in_order(aim).map(of).collect()
    }
}

/// What the search is for, then the others.
pub fn in_order(aim: &Aim) -> impl Iterator<Item = Goal> {
    let goal = aim.goal;
    let others = Goal::ALL.into_iter().filter(move |other| *other != goal);
    [goal].into_iter().chain(others)
}

/// For the search: by how much each may get worse.
pub fn worse_max(aim: &Aim) -> Figures {
    let of = |goal| match goal {
        Goal::Throughput => -(1.0 - aim.worse.of(goal)).max(1e-9).ln(),
        Goal::P99 | Goal::Cpu => aim.worse.of(goal).ln_1p(),
    };
    in_order(aim).map(of).collect()
}

/// Which way is up.
fn better(goal: Goal) -> f64 {
    match goal {
        Goal::Throughput => 1.0,
        Goal::P99 | Goal::Cpu => -1.0,
    }
}

pub fn name(goal: Goal) -> &'static str {
    match goal {
        Goal::Throughput => "throughput",
        Goal::P99 => "p99",
        Goal::Cpu => "CPU",
    }
}

/// A gain of the search as the share by which the figure itself changed.
pub fn change(goal: Goal, gain: f64) -> f64 {
    (better(goal) * gain).exp() - 1.0
}

/// What the noise of the search is as a share of the figure, in the direction in which that moved.
pub fn noise_beside(goal: Goal, gain: f64, noise: f64) -> f64 {
    change(goal, noise.copysign(gain)).abs()
}

/// `+3 %`, `-18 %`; a tenth where it is little.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.abs() < 9.95 {
        true => format!("{:+.1} %", percent + 0.0),
        false => format!("{percent:+.0} %"),
    }
}

/// Of an amount that has no direction.
pub fn plain_percent(share: f64) -> String {
    percent(share.abs()).replacen('+', "", 1)
}

#[cfg(test)]
mod tests {
    use coati_bench::Worse;

    use super::*;

    #[test]
    fn a_report_says_what_counts() {
        let report = r#"{"interrupted": false, "failure": null, "produced": {"mb_per_second": 100.0}, "consumed": {"mb_per_second": 7.0},
            "acknowledge": {"p99": 2.0}, "end_to_end": {"p99": 4.0}, "broker": {"cpu_seconds_per_gb": 0.5}, "more": 1}"#;
        let measured = Measured::from_report(report).unwrap();
        assert_eq!(
            (measured.mb_per_second, measured.p99_ms),
            (100.0, Some(4.0))
        );
        let aim = Aim {
            goal: Goal::P99,
            worse: Worse {
                throughput: 0.5,
                cpu: 1.0,
                ..Worse::default()
            },
        };
        let figures = measured.figures(&aim);
        assert_eq!(figures, [-(4_f64.ln()), 100_f64.ln(), -(0.5_f64.ln())]);
        let worse = worse_max(&aim);
        assert!((worse[1] - 2_f64.ln()).abs() < 1e-9 && (worse[2] - 2_f64.ln()).abs() < 1e-9);
        for (from, to, why) in [
            ("null", "\"no broker\"", "no broker"),
            (
                "\"interrupted\": false",
                "\"interrupted\": true",
                "interrupted",
            ),
            (
                r#""produced": {"mb_per_second": 100.0}, "consumed": {"mb_per_second": 7.0}"#,
                r#""produced": null"#,
                "nothing was",
            ),
            ("}, \"more\"", "", "is none"),
        ] {
            let error = Measured::from_report(&report.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn gains_are_told_as_changes_of_the_figure() {
        let told = |goal, gain: f64| percent(change(goal, gain));
        assert_eq!(told(Goal::P99, 2_f64.ln()), "-50 %");
        assert_eq!(told(Goal::Throughput, 2_f64.ln()), "+100 %");
        assert_eq!(told(Goal::Cpu, -(1.021_f64.ln())), "+2.1 %");
        assert_eq!(told(Goal::Throughput, 0.0), "+0.0 %");
        assert_eq!(plain_percent(-0.06), "6.0 %");
        let noise = |goal, gain| noise_beside(goal, gain, 2_f64.ln());
        assert!((noise(Goal::P99, 0.1) - 0.5).abs() < 1e-9);
        assert!((noise(Goal::P99, -0.1) - 1.0).abs() < 1e-9);
        assert!((noise(Goal::Throughput, 0.1) - 1.0).abs() < 1e-9);
    }
}
