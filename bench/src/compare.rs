//! Owns comparing two brokers: the same workload against one and the other in turn, round after round, so that what
//! changes on the machine meanwhile hits both. It tells medians, and how far the rounds lie apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::broker::Process;
use crate::client::{Client, Outcome};
use crate::recorder::round;
use crate::report::{Flow, Report};
use crate::run::{Setting, run};
use crate::workload::Workload;

/// One of the two, as people name it: `kafka=127.0.0.1:9092`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    pub address: String,
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Side, String> {
        match text.split_once('=') {
            Some((name, address)) if !name.is_empty() && address.contains(':') => Ok(Side {
                name: name.to_owned(),
                address: address.to_owned(),
            }),
            _ => Err("a broker to compare looks like name=HOST:PORT".into()),
        }
    }
}

/// Median, lowest and highest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            odd if odd % 2 == 1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Spread {
            median: round(median),
            low: round(values[0]),
            high: round(values[values.len() - 1]),
        })
    }
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    pub first: Spread,
    pub second: Spread,
    /// Second over first, round by round.
    pub ratio: Spread,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub first: Side,
    pub second: Side,
    pub rows: Vec<Row>,
    /// Both reports of each round.
    pub rounds: Vec<(Report, Report)>,
}

/// Runs a workload against both, `rounds` times; who is first changes each round.
pub async fn compare<C: Client>(
    sides: (&Side, &Side),
    clients: (&C, &C),
    workload: &Workload,
    rounds: usize,
    setting: &mut Setting,
) -> Outcome<Comparison> {
    let mut reports = Vec::new();
    for number in 0..rounds {
        if setting.stop.get() {
            break;
        }
        let first_begins = number % 2 == 0;
        let (mut first, mut second) = (None, None);
        for turn in [first_begins, !first_begins] {
            let (side, client, report) = if turn {
                (sides.0, clients.0, &mut first)
            } else {
                (sides.1, clients.1, &mut second)
            };
            let port = side.address.rsplit_once(':').map(|(_, port)| port.parse());
            setting.broker = port.and_then(|port| Process::listening_on(port.ok()?));
            let measured = run(client, workload, setting).await;
            let measured = measured.map_err(|error| format!("{}: {error}", side.name))?;
            if let Some(fault) = measured.fault() {
                return Err(format!("{}: {fault}", side.name));
            }
            *report = Some(measured);
        }
        reports.extend(first.zip(second));
    }
    Ok(Comparison {
        first: sides.0.clone(),
        second: sides.1.clone(),
        rows: rows(&reports),
        rounds: reports,
    })
}

type Figure = fn(&Report) -> Option<f64>;

const FIGURES: [(&str, Figure); 8] = [
    ("produced MB/s", |report| rate(&report.produced)),
    ("consumed MB/s", |report| rate(&report.consumed)),
    ("acknowledge p50 ms", |report| {
        Some(report.acknowledge.as_ref()?.p50)
    }),
    ("acknowledge p99 ms", |report| {
        Some(report.acknowledge.as_ref()?.p99)
    }),
    ("end to end p50 ms", |report| {
        Some(report.end_to_end.as_ref()?.p50)
    }),
    ("end to end p99 ms", |report| {
        Some(report.end_to_end.as_ref()?.p99)
    }),
    ("broker CPU s/GB", |report| {
        Some(report.broker?.cpu_seconds_per_gb)
    }),
    ("broker resident MiB", |report| {
        Some(report.broker?.resident_mib)
    }),
];

fn rate(flow: &Option<Flow>) -> Option<f64> {
    Some(flow.as_ref()?.mb_per_second)
}

/// What both have in each round.
fn rows(reports: &[(Report, Report)]) -> Vec<Row> {
    let row = |(what, figure): &(&str, Figure)| {
        let both = reports
            .iter()
            .map(|(first, second)| Some((figure(first)?, figure(second)?)));
        let both: Vec<(f64, f64)> = both.collect::<Option<_>>()?;
        Some(Row {
            what: (*what).to_owned(),
            first: Spread::of(both.iter().map(|both| both.0).collect())?,
            second: Spread::of(both.iter().map(|both| both.1).collect())?,
            ratio: Spread::of(both.iter().map(|both| both.1 / both.0).collect())?,
        })
    };
    FIGURES.iter().filter_map(row).collect()
}

impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, second)) = self.rounds.last() else {
            return writeln!(out, "no round was finished");
        };
        let (first_name, second_name) = (&self.first.name, &self.second.name);
        writeln!(
            out,
            "{}: {}",
            first.workload.name,
            first.workload.describe()
        )?;
        for (name, report) in [(first_name, first), (second_name, second)] {
            writeln!(out, "  flush mode of {name}: {}", report.flush_mode)?;
        }
        let rounds = self.rounds.len();
        writeln!(
            out,
            "  {:<20} {first_name:>12} {second_name:>12}   {second_name}/{first_name}, lowest to highest of {rounds} round(s)",
            "median"
        )?;
        for row in &self.rows {
            writeln!(
                out,
                "  {:<20} {:>12.3} {:>12.3}   {:.2} ({:.2} to {:.2})",
                row.what,
                row.first.median,
                row.second.median,
                row.ratio.median,
                row.ratio.low,
                row.ratio.high,
            )?;
        }
        let reports = self
            .rounds
            .iter()
            .flat_map(|(first, second)| [first, second]);
        if reports.clone().any(|report| report.generator_bound) {
            writeln!(
                out,
                "  the generator may have been the limit in some rounds"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread_are_of_all_rounds() {
        assert_eq!(Spread::of(vec![]), None);
        let spread = Spread::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (2.0, 1.0, 3.0));
        assert_eq!(Spread::of(vec![1.0, 4.0]).unwrap().median, 2.5);
    }

    #[test]
    fn brokers_are_named_as_people_write_them() {
        let side: Side = "kafka=localhost:9092".parse().unwrap();
        assert_eq!((&*side.name, &*side.address), ("kafka", "localhost:9092"));
        for wrong in ["localhost:9092", "a=b", "=a:1"] {
            assert!(wrong.parse::<Side>().is_err(), "{wrong}");
        }
    }
}
