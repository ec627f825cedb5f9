//! Owns comparing brokers: the same workloads against each in turn, round after round, so that what changes on the
//! machine meanwhile hits all; or reports that were recorded so. It tells medians, and how far the rounds lie apart.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::broker::Process;
use crate::client::{Client, Outcome};
use crate::latency::round;
use crate::report::{Flow, Report};
use crate::run::{Setting, run};
use crate::workload::Workload;

/// One that is compared, as people name it: `kafka=127.0.0.1:9092`, `kafka=FOLDER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub name: String,
    pub source: Source,
}

/// Where a side's reports come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// They are measured, at this broker.
    Address(String),
    /// A folder of what `--json` printed, a file a run; a workload's files are its rounds, in the order of their names.
    Recorded(PathBuf),
}

impl std::str::FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Side, String> {
        let (name, place) = text
            .split_once('=')
            .filter(|(name, place)| !name.is_empty() && !place.is_empty())
            .ok_or("what to compare looks like name=HOST:PORT or name=FOLDER")?;
        let port = place.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
        Ok(Side {
            name: name.to_owned(),
            source: match port {
                Some(Ok(_)) => Source::Address(place.to_owned()),
                _ => Source::Recorded(place.into()),
            },
        })
    }
}

/// What people type after `compare`, in any order.
#[derive(Clone, Debug)]
pub enum Subject {
    Side(Side),
    Workload(PathBuf),
}

impl std::str::FromStr for Subject {
    type Err = String;

    /// Names of sides have no slash, paths with an `=` in their first part may be given as `./a=b`.
    fn from_str(text: &str) -> Result<Subject, String> {
        let first_part = text.split('/').next().unwrap_or_default();
        if first_part.contains('=') {
            return text.parse().map(Subject::Side);
        }
        Ok(Subject::Workload(text.into()))
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
    /// `None` without values, or where one is no number.
    fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = match values.len() {
            0 => return None,
            _ if values.iter().any(|value| !value.is_finite()) => return None,
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

/// One figure of all sides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    /// In the order of the sides.
    pub figures: Vec<Spread>,
    pub higher_is_better: bool,
    /// Each side's over the first side's, round by round; nothing where the first's was zero.
    pub ratios: Vec<Option<Spread>>,
}

/// One workload's rounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    pub workload: Workload,
    pub rows: Vec<Row>,
    /// A report of each side, in their order.
    pub rounds: Vec<Vec<Report>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    pub sides: Vec<Side>,
    pub workloads: Vec<Compared>,
    /// What there is of a round that was interrupted, or that failed. It counts for nothing above.
    #[serde(default)]
    pub unfinished: Vec<Unfinished>,
}

/// One side of a round that was not finished.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unfinished {
    pub side: String,
    pub report: Report,
}

/// A side that is measured, and a client of its broker.
pub struct Measured<'a, C> {
    pub side: &'a Side,
    pub address: &'a str,
    pub client: C,
}

/// Runs each workload against all sides, `rounds` times; who begins changes from round to round.
pub async fn measure<C: Client>(
    sides: &[Measured<'_, C>],
    workloads: &[Workload],
    rounds: usize,
    setting: &mut Setting,
) -> Outcome<Comparison> {
    let mut compared = Vec::new();
    let mut unfinished = Vec::new();
    'all: for workload in workloads {
        let mut finished = Vec::new();
        for number in 0..rounds {
            if setting.stop.get() {
                break;
            }
            eprintln!("round {} of {rounds}: {}", number + 1, workload.name);
            let reports = one_round(sides, workload, number, setting).await?;
            let is_whole = |report: &Report| !report.interrupted && report.fault().is_none();
            if reports.iter().flatten().filter(|one| is_whole(one)).count() == sides.len() {
                finished.push(reports.into_iter().flatten().collect());
                continue;
            }
            let by_side = sides.iter().zip(reports);
            unfinished.extend(by_side.filter_map(|(measured, report)| {
                let side = measured.side.name.clone();
                report.map(|report| Unfinished { side, report })
            }));
            compared.extend(Compared::of(finished));
            break 'all;
        }
        compared.extend(Compared::of(finished));
    }
    Ok(Comparison {
        sides: sides.iter().map(|side| side.side.clone()).collect(),
        workloads: compared,
        unfinished,
    })
}

/// A report of each side, in their order; none of those that were still to come when one was interrupted or failed.
async fn one_round<C: Client>(
    sides: &[Measured<'_, C>],
    workload: &Workload,
    number: usize,
    setting: &mut Setting,
) -> Outcome<Vec<Option<Report>>> {
    let mut reports: Vec<Option<Report>> = vec![None; sides.len()];
    for turn in 0..sides.len() {
        let index = (number + turn) % sides.len();
        let Measured {
            side,
            address,
            client,
        } = &sides[index];
        let name = &side.name;
        eprintln!("  {name}");
        let port = address.rsplit_once(':').map(|(_, port)| port.parse());
        setting.broker = port.and_then(|port| Process::listening_on(port.ok()?));
        setting.address = (*address).to_owned();
        setting.begin_part(&format!("{}/{name}/round-{}", workload.name, number + 1));
        let report = run(client, workload, setting).await;
        let report = report.map_err(|error| format!("{name}: {error}"))?;
        let goes_on = !report.interrupted && report.fault().is_none();
        reports[index] = Some(report);
        if !goes_on {
            break;
        }
    }
    Ok(reports)
}

impl Comparison {
    /// What means that it failed.
    pub fn fault(&self) -> Option<String> {
        let mut unfinished = self.unfinished.iter();
        unfinished.find_map(|one| Some(format!("{}: {}", one.side, one.report.fault()?)))
    }
}

/// Compares what folders hold. Rounds that a side has not finished are left out.
pub fn recorded(sides: &[(&Side, &Path)]) -> Outcome<Comparison> {
    let mut reports = Vec::new();
    for (_, folder) in sides {
        reports.push(reports_in(folder)?);
    }
    let mut known = BTreeSet::new();
    let names = reports[0].iter().map(|report| &report.workload.name);
    let names = names.filter(|name| known.insert(*name));
    let mut compared = Vec::new();
    for name in names {
        let of_workload = |reports: &Vec<Report>| -> Vec<Report> {
            let named = reports.iter().filter(|one| one.workload.name == *name);
            named.cloned().collect()
        };
        let by_side: Vec<Vec<Report>> = reports.iter().map(of_workload).collect();
        let rounds = by_side.iter().map(Vec::len).min().unwrap_or(0);
        let whole: Vec<Vec<Report>> = (0..rounds)
            .map(|number| by_side.iter().map(|side| side[number].clone()).collect())
            .collect();
        let mut all = whole.iter().flatten();
        if let Some(first) = all.next()
            && all.any(|other| other.workload != first.workload)
        {
            return Err(format!(
                "the runs of '{name}' differ in what they were asked to do"
            ));
        }
        compared.extend(Compared::of(whole));
    }
    Ok(Comparison {
        sides: sides.iter().map(|(side, _)| (*side).clone()).collect(),
        workloads: compared,
        unfinished: Vec::new(),
    })
}

/// The whole reports in a folder, in the order of their files' names.
fn reports_in(folder: &Path) -> Outcome<Vec<Report>> {
    let told = |path: &Path, error: String| format!("{}: {error}", path.display());
    let entries = std::fs::read_dir(folder).map_err(|error| told(folder, error.to_string()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| path.extension().is_some_and(|ending| ending == "json"))
        .collect();
    files.sort();
    let mut reports = Vec::new();
    for file in files {
        let text = std::fs::read(&file).map_err(|error| told(&file, error.to_string()))?;
        let report: Report =
            serde_json::from_slice(&text).map_err(|error| told(&file, error.to_string()))?;
        if let Some(fault) = report.fault() {
            return Err(told(&file, fault));
        }
        if !report.interrupted {
            reports.push(report);
        }
    }
    Ok(reports)
}

type Figure = fn(&Report) -> Option<f64>;

/// What is compared, whether more of it is better, and where it is.
const FIGURES: [(&str, bool, Figure); 13] = [
    ("produced MB/s", true, |report| rate(&report.produced)),
    ("produced records/s", true, |report| {
        Some(report.produced?.records_per_second)
    }),
    ("consumed MB/s", true, |report| rate(&report.consumed)),
    ("acknowledge p50 ms", false, |report| {
        Some(report.acknowledge.as_ref()?.p50)
    }),
    ("acknowledge p99 ms", false, |report| {
        Some(report.acknowledge.as_ref()?.p99)
    }),
    ("end to end p50 ms", false, |report| {
        Some(report.end_to_end.as_ref()?.p50)
    }),
    ("end to end p99 ms", false, |report| {
        Some(report.end_to_end.as_ref()?.p99)
    }),
    ("end to end p99.9 ms", false, |report| {
        Some(report.end_to_end.as_ref()?.p99_9)
    }),
    ("broker CPU s/GB", false, |report| {
        Some(report.broker?.cpu_seconds_per_gb)
    }),
    ("broker CPU us/request", false, |report| {
        Some(report.broker?.cpu_microseconds_per_request)
    }),
    ("broker resident MiB", false, |report| {
        Some(report.broker?.resident_mib)
    }),
    ("start-up s", false, |report| {
        Some(report.start.as_ref()?.seconds)
    }),
    ("resident MiB when idle", false, |report| {
        Some(report.start.as_ref()?.resident_mib)
    }),
];

fn rate(flow: &Option<Flow>) -> Option<f64> {
    Some(flow.as_ref()?.mb_per_second)
}

impl Compared {
    /// `None` when no round was finished.
    fn of(rounds: Vec<Vec<Report>>) -> Option<Compared> {
        let workload = rounds.first()?.first()?.workload.clone();
        Some(Compared {
            workload,
            rows: rows(&rounds),
            rounds,
        })
    }
}

/// What all sides have in each round.
fn rows(rounds: &[Vec<Report>]) -> Vec<Row> {
    let row = |(what, higher_is_better, figure): &(&str, bool, Figure)| {
        // By round, then by side.
        let values = rounds
            .iter()
            .map(|round| round.iter().map(figure).collect());
        let values: Vec<Vec<f64>> = values.collect::<Option<_>>()?;
        let sides = 0..rounds.first()?.len();
        let figures = sides
            .clone()
            .map(|side| Spread::of(values.iter().map(|round| round[side])));
        let ratios =
            sides.map(|side| Spread::of(values.iter().map(|round| round[side] / round[0])));
        Some(Row {
            what: (*what).to_owned(),
            higher_is_better: *higher_is_better,
            figures: figures.collect::<Option<_>>()?,
            ratios: ratios.collect(),
        })
    };
    FIGURES.iter().filter_map(row).collect()
}

/// A table a workload. Acks and flush mode head its columns, so that no figure stands without them.
impl fmt::Display for Comparison {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.workloads.is_empty() {
            writeln!(out, "no round was finished")?;
        }
        for (number, compared) in self.workloads.iter().enumerate() {
            if number > 0 {
                writeln!(out)?;
            }
            self.table(compared, out)?;
        }
        for one in &self.unfinished {
            write!(out, "\nunfinished: {}, {}", one.side, one.report)?;
        }
        Ok(())
    }
}

impl Comparison {
    fn table(&self, compared: &Compared, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = &compared.workload;
        writeln!(out, "{}: {}", workload.name, workload.describe())?;
        let reports = compared.rounds.last().into_iter().flatten();
        for (side, report) in self.sides.iter().zip(reports.clone()) {
            write!(out, "  {}: flush mode {}", side.name, report.flush_mode)?;
            let start = report.start.as_ref();
            let broker = start.map_or(String::new(), |start| format!(" ({})", start.broker));
            writeln!(out, "{broker}")?;
        }
        let mut head = [
            vec![format!("median of {}", compared.rounds.len())],
            vec![format!("acks={}", workload.acks.name())],
        ];
        for (index, (side, report)) in self.sides.iter().zip(reports).enumerate() {
            head[0].push(side.name.clone());
            head[1].push(report.short_flush_mode().to_owned());
            if index > 0 {
                head[0].push(format!("/{}", self.sides[0].name));
                head[1].push("lowest to highest".to_owned());
            }
        }
        let lines: Vec<Vec<String>> = head
            .into_iter()
            .chain(compared.rows.iter().map(Row::cells))
            .collect();
        write_aligned(&lines, out)?;
        let mut all = compared.rounds.iter().flatten();
        if all.clone().any(|report| report.generator_bound) {
            writeln!(
                out,
                "  the generator may have been the limit in some rounds"
            )?;
        }
        if all.any(|report| !report.open_loop && report.acknowledge.is_some()) {
            writeln!(out, "  closed loop: latencies count from sending")?;
        }
        Ok(())
    }
}

impl Row {
    /// Its name, the first side's figure, and of each other side figure and ratio.
    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.what.clone()];
        for (index, (figure, ratio)) in self.figures.iter().zip(&self.ratios).enumerate() {
            cells.push(readable(figure.median));
            if index > 0 {
                cells.push(ratio.map_or("-".to_owned(), |ratio| {
                    let [median, low, high] =
                        [ratio.median, ratio.low, ratio.high].map(readable_ratio);
                    format!("{median} ({low} to {high})")
                }));
            }
        }
        cells
    }
}

/// Three digits or four; the JSON has the others.
fn readable(value: f64) -> String {
    match value.abs() {
        ..10.0 => format!("{value:.3}"),
        10.0..100.0 => format!("{value:.2}"),
        100.0..1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

fn readable_ratio(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Figures end together, words begin together.
fn write_aligned(lines: &[Vec<String>], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let width = |column: usize| lines.iter().map(|line| line[column].len()).max();
    let widths: Vec<usize> = (0..lines[0].len()).filter_map(width).collect();
    for line in lines {
        let mut text = String::new();
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            // A name, a figure, then figures and ratios in turn.
            text += &match column {
                1 => format!("  {cell:>width$}"),
                _ if column > 0 && column % 2 == 0 => format!("   {cell:>width$}"),
                _ => format!("  {cell:<width$}"),
            };
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread_are_of_all_rounds() {
        let of = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[1.0, f64::INFINITY]), None);
        let spread = of(&[3.0, 1.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (2.0, 1.0, 3.0));
        assert_eq!(of(&[1.0, 4.0]).unwrap().median, 2.5);
    }

    #[test]
    fn sides_and_workloads_are_told_apart_as_people_write_them() {
        let side = |text: &str| match text.parse() {
            Ok(Subject::Side(side)) => side,
            other => panic!("{text}: {other:?}"),
        };
        let live = side("kafka=localhost:9092");
        assert_eq!(live.name, "kafka");
        assert_eq!(live.source, Source::Address("localhost:9092".into()));
        let recorded = side("kafka=runs/a:b");
        assert_eq!(recorded.source, Source::Recorded("runs/a:b".into()));
        for workload in ["a.toml", "dir/a=b.toml", "./a=b.toml"] {
            let parsed = workload.parse();
            assert!(matches!(parsed, Ok(Subject::Workload(_))), "{workload}");
        }
        for wrong in ["a=", "=a:1"] {
            assert!(wrong.parse::<Subject>().is_err(), "{wrong}");
        }
    }
}
