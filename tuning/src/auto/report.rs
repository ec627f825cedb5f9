//! Owns what a search tells: a line a trial, a sentence a verdict, the end; and all of it for programs.

use coati_bench::{Aim, Goal, conditions};
use serde::Serialize;

use super::goal::{self, Measured, change, name, noise_beside, percent, plain_percent};
use super::search::{End, Purpose, Reason, Verdict};

/// Everything, for programs.
#[derive(Debug, Serialize)]
pub struct Report {
    pub conditions: Conditions,
    pub aim: Aim,
    pub trials: Vec<Trial>,
    pub verdicts: Vec<Told>,
    pub result: Outcome,
}

#[derive(Debug, Serialize)]
pub struct Conditions {
    /// As it was typed.
    pub command: String,
    pub started_ms: i64,
    pub version: String,
    pub machine: conditions::Machine,
    /// In words, as `coati bench` tells it.
    pub workload: String,
    pub seconds_a_trial: f64,
}

#[derive(Debug, Serialize)]
pub struct Trial {
    pub number: usize,
    pub purpose: &'static str,
    /// Of a candidate, what it has that the best has not.
    pub change: String,
    pub seconds: f64,
    pub measured: Option<Measured>,
    pub failure: Option<String>,
}

/// A verdict, and how it is said.
#[derive(Debug, Serialize)]
pub struct Told {
    pub change: String,
    pub confirming: bool,
    pub comparisons: usize,
    pub kept: bool,
    /// Of each figure: by which share its median changed, and what equal profiles may differ by.
    pub figures: Vec<Moved>,
    pub says: String,
}

#[derive(Debug, Serialize)]
pub struct Moved {
    pub figure: Goal,
    pub change: f64,
    pub noise: f64,
}

#[derive(Debug, Serialize)]
pub struct Outcome {
    pub ended: &'static str,
    /// What the profile has that the first has not; nothing where none has won.
    pub changes: Vec<String>,
    pub profile: String,
    pub says: String,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Noise => "noise",
            Purpose::Best => "best",
            Purpose::Candidate => "candidate",
            Purpose::First => "first",
            Purpose::Found => "found",
        }
    }
}

pub const HEAD: &str = "trial  purpose       MB/s     p99 ms   CPU s/GB";

impl Trial {
    pub fn new(
        number: usize,
        purpose: Purpose,
        change: &str,
        seconds: f64,
        measured: &Result<Measured, String>,
    ) -> Trial {
        let is_candidate = matches!(purpose, Purpose::Candidate | Purpose::Found);
        Trial {
            number,
            purpose: purpose.name(),
            change: if is_candidate {
                change.to_owned()
            } else {
                String::new()
            },
            seconds,
            measured: measured.as_ref().ok().copied(),
            failure: measured.as_ref().err().cloned(),
        }
    }

    /// Under [`HEAD`].
    pub fn line(&self) -> String {
        let figures = match (&self.measured, &self.failure) {
            (Some(measured), _) => {
                let p99 = measured
                    .p99_ms
                    .map_or("-".into(), |p99| format!("{p99:.3}"));
                let (rate, cpu) = (measured.mb_per_second, measured.cpu_seconds_per_gb);
                format!("{rate:>8.1} {p99:>10} {cpu:>10.3}")
            }
            (None, Some(failure)) => format!("failed: {failure}"),
            (None, None) => String::new(),
        };
        let line = format!(
            "{:>5}  {:<9} {figures}  {}",
            self.number, self.purpose, self.change
        );
        line.trim_end().to_owned()
    }
}

impl Told {
    pub fn new(verdict: &Verdict, aim: &Aim) -> Told {
        let goals = goal::in_order(aim).zip(verdict.gains.iter().zip(&verdict.noise));
        let figures = goals.map(|(figure, (gain, noise))| Moved {
            figure,
            change: change(figure, *gain),
            noise: noise_beside(figure, *gain, *noise),
        });
        Told {
            change: verdict.change.clone(),
            confirming: verdict.confirming,
            comparisons: verdict.comparisons,
            kept: verdict.is_kept(),
            figures: figures.collect(),
            says: sentence(verdict, aim),
        }
    }
}

/// `write_depth 4 instead of 2: p99 -18 %, noise 6.0 %: kept`.
fn sentence(verdict: &Verdict, aim: &Aim) -> String {
    let goals: Vec<Goal> = goal::in_order(aim).collect();
    let what = match verdict.confirming {
        true => format!("{}, against the first once more", verdict.change),
        false => verdict.change.clone(),
    };
    let moved = |place: usize| {
        let figure: Goal = goals[place];
        let gain = verdict.gains.get(place).copied().unwrap_or(0.0);
        let change = percent(change(figure, gain));
        let noise = verdict.noise.get(place).copied().unwrap_or(0.0);
        let noise = plain_percent(noise_beside(figure, gain, noise));
        format!("{} {change}, noise {noise}", name(figure))
    };
    let goal = || moved(0);
    let others = || {
        let figures = (1..verdict.gains.len()).map(|place| {
            let figure = goals[place];
            let change = percent(change(figure, verdict.gains[place]));
            format!("{} {change}", name(figure))
        });
        figures.collect::<Vec<_>>().join(", ")
    };
    match &verdict.reason {
        Reason::Won => format!("{what}: {} ({}): kept", goal(), others()),
        Reason::Worse => format!("{what}: {}: no better", goal()),
        Reason::Noise => format!("{what}: {}: no more than the noise, dropped", goal()),
        Reason::Guard(place) => {
            let other = goals[*place];
            let may = plain_percent(aim.worse.of(other));
            let (goal, moved) = (goal(), moved(*place));
            format!("{what}: {goal}, but {moved}, which may get worse by {may}: refused")
        }
        Reason::Failed(reason) => format!("{what}: it failed, dropped: {reason}"),
        Reason::OutOfTime => format!("{what}: no time to tell, dropped"),
    }
}

/// Why it ended.
pub fn ended(end: Option<&End>) -> &'static str {
    match end {
        Some(End::Tried) => "tried",
        Some(End::OutOfTime) => "out of time",
        Some(End::Failed(_)) => "failed",
        None => "interrupted",
    }
}

/// The last sentence. `last` is of the trials at the end that what was found has won; without one it is not confirmed.
pub fn conclusion(changes: &[String], last: Option<&Told>, end: Option<&End>) -> String {
    let changes = changes.join(", ");
    let confirmed = last.filter(|last| last.confirming && last.kept);
    let found = match (changes.is_empty(), confirmed) {
        (true, _) => {
            "Nothing won by more than the noise: the profile stays as it was at first.".to_owned()
        }
        (false, Some(last)) => format!("Kept: {}.", last.says.trim_end_matches(": kept")),
        (false, None) => format!("Won up to now, and not confirmed: {changes}."),
    };
    let more = match end {
        Some(End::Tried) | Some(End::Failed(_)) => "",
        Some(End::OutOfTime) => " There was more to be tried: --minutes says for how long.",
        None => " Interrupted before the end.",
    };
    found + more
}

#[cfg(test)]
mod tests {
    use coati_bench::Worse;

    use super::*;

    const AIM: Aim = Aim {
        goal: Goal::P99,
        worse: Worse {
            throughput: 0.1,
            p99: 0.2,
            cpu: 0.25,
        },
    };

    fn verdict(reason: Reason, p99: f64) -> Verdict {
        Verdict {
            change: "write_depth 4 instead of 2".into(),
            confirming: false,
            comparisons: 3,
            gains: vec![-(p99.ln()), 0.01, -(1.5_f64.ln())],
            noise: vec![0.05; 3],
            reason,
        }
    }

    fn says(reason: Reason, p99: f64) -> String {
        Told::new(&verdict(reason, p99), &AIM).says
    }

    #[test]
    fn a_verdict_says_why() {
        assert_eq!(
            says(Reason::Won, 0.82),
            "write_depth 4 instead of 2: p99 -18 %, noise 4.9 % (throughput +1.0 %, CPU +50 %): kept"
        );
        assert_eq!(
            says(Reason::Noise, 0.97),
            "write_depth 4 instead of 2: p99 -3.0 %, noise 4.9 %: no more than the noise, dropped"
        );
        assert_eq!(
            says(Reason::Worse, 1.2),
            "write_depth 4 instead of 2: p99 +20 %, noise 5.1 %: no better"
        );
        assert_eq!(
            says(Reason::Guard(2), 0.5),
            "write_depth 4 instead of 2: p99 -50 %, noise 4.9 %, but CPU +50 %, noise 5.1 %, which may get worse by 25 %: refused"
        );
        assert!(
            says(Reason::Failed("no core".into()), 1.0).ends_with("it failed, dropped: no core")
        );
    }

    #[test]
    fn the_end_says_what_is_kept() {
        let mut last = verdict(Reason::Won, 0.82);
        last.confirming = true;
        let told = Told::new(&last, &AIM);
        let changes = vec![last.change.clone()];
        assert_eq!(
            conclusion(&changes, Some(&told), Some(&End::Tried)),
            "Kept: write_depth 4 instead of 2, against the first once more: p99 -18 %, noise 4.9 % (throughput +1.0 %, CPU +50 %)."
        );
        let cut = conclusion(&changes, None, None);
        assert!(
            cut.contains("not confirmed") && cut.ends_with("Interrupted before the end."),
            "{cut}"
        );
        let none = conclusion(&[], None, Some(&End::OutOfTime));
        assert!(
            none.starts_with("Nothing won") && none.contains("--minutes"),
            "{none}"
        );
    }

    #[test]
    fn a_trial_is_a_line() {
        let measured = Ok(Measured {
            mb_per_second: 123.45,
            p99_ms: None,
            cpu_seconds_per_gb: 0.5,
        });
        let line = Trial::new(7, Purpose::Best, "x", 5.0, &measured).line();
        assert_eq!(line, "    7  best         123.5          -      0.500");
        assert_eq!(line.len(), HEAD.len());
        let line = Trial::new(8, Purpose::Candidate, "x", 5.0, &Err("no".into())).line();
        assert_eq!(line, "    8  candidate failed: no  x");
    }
}
