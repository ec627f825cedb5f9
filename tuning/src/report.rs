//! Owns how findings are shown: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::Serialize;

use crate::machine::Machine;
use crate::root::Read;
use crate::tuner::{Area, Change, Row, Verdict};

/// Where explanations are wrapped.
const COLUMNS: usize = 110;
const NAME_COLUMNS: usize = 21;
const INDENT: usize = 2 + 8 + 2 + NAME_COLUMNS;

/// Of what was checked. Everything that the table shows, and everything that an apply would write.
#[derive(Debug, Serialize)]
pub struct Report {
    version: &'static str,
    machine: About,
    /// How many rows have each verdict that there is.
    summary: BTreeMap<Verdict, usize>,
    rows: Vec<Line>,
    /// Explains every row, not only those that want attention.
    #[serde(skip)]
    is_wordy: bool,
}

/// What was looked at; a text where it could not be told why.
#[derive(Debug, Serialize)]
struct About {
    kernel: String,
    online_cpus: String,
    broker_cpus: String,
    data_folder: String,
    disks: String,
}

#[derive(Debug, Serialize)]
struct Line {
    name: &'static str,
    area: Area,
    title: &'static str,
    verdict: Verdict,
    has: String,
    needs: &'static str,
    cost: &'static str,
    /// `None` where nothing needs mending.
    fix: Option<String>,
    source: &'static str,
    changes: Vec<Change>,
}

impl Report {
    pub fn new(machine: &Machine, rows: Vec<Row>, is_wordy: bool) -> Report {
        let rows: Vec<Line> = rows.into_iter().map(Line::of).collect();
        let mut summary = BTreeMap::new();
        for row in &rows {
            *summary.entry(row.verdict).or_default() += 1;
        }
        Report {
            version: env!("CARGO_PKG_VERSION"),
            machine: About::of(machine),
            summary,
            rows,
            is_wordy,
        }
    }

    pub fn worst(&self) -> Verdict {
        let worst = self.summary.last_key_value();
        worst.map_or(Verdict::Good, |(verdict, _)| *verdict)
    }
}

impl About {
    fn of(machine: &Machine) -> About {
        fn said<T: ToString>(read: Read<T>) -> String {
            read.map_or_else(|error| error.to_string(), |value| value.to_string())
        }
        let disks = machine.disks.clone().map(|disks| {
            let names = disks.into_iter().map(|disk| disk.name);
            names.collect::<Vec<_>>().join(", ")
        });
        About {
            kernel: said(machine.root.text("/proc/sys/kernel/osrelease")),
            online_cpus: said(machine.online.clone()),
            broker_cpus: said(machine.broker.clone()),
            data_folder: said(machine.data_folder.clone()),
            disks: said(disks),
        }
    }
}

impl Line {
    fn of(row: Row) -> Line {
        let (tuner, finding) = (row.tuner, row.finding);
        let written = finding
            .changes
            .iter()
            .filter(|change| change.to.is_some())
            .count();
        let apply = (written > 0).then(|| {
            let entries = if written == 1 { "1 entry" } else { "entries" };
            let count = if written == 1 {
                String::new()
            } else {
                format!("{written} ")
            };
            format!(
                "`coati tune apply {}` (writes {count}{entries})",
                tuner.name
            )
        });
        let fix: Vec<String> = apply.into_iter().chain(finding.advice).collect();
        Line {
            name: tuner.name,
            area: tuner.area,
            title: tuner.title,
            verdict: finding.verdict,
            has: finding.has,
            needs: tuner.needs,
            cost: tuner.cost,
            fix: (!fix.is_empty()).then(|| fix.join("; ")),
            source: tuner.source,
            changes: finding.changes,
        }
    }
}

/// The table.
impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.machine;
        writeln!(
            out,
            "Linux {}, CPUs {}, broker on {}, data in {} on {}",
            about.kernel, about.online_cpus, about.broker_cpus, about.data_folder, about.disks
        )?;
        let mut area = None;
        for row in &self.rows {
            if area.replace(row.area) != Some(row.area) {
                writeln!(out, "\n{:?}", row.area)?;
            }
            write!(
                out,
                "  {:<8}  {:<NAME_COLUMNS$}",
                row.verdict.word(),
                row.name
            )?;
            wrapped(out, &row.has, INDENT)?;
            if row.verdict >= Verdict::Hint || self.is_wordy {
                row.explain(out)?;
            }
        }
        writeln!(out)?;
        let counts = self.summary.iter().rev();
        let counts: Vec<String> = counts
            .map(|(verdict, count)| format!("{count} {}", verdict.word()))
            .collect();
        writeln!(out, "{}", counts.join(", "))
    }
}

impl Line {
    fn explain(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = [
            ("what", Some(self.title)),
            ("needs", Some(self.needs)),
            ("costs", Some(self.cost)),
            ("fix", self.fix.as_deref()),
            ("see", Some(self.source)),
        ];
        for (head, text) in lines {
            if let Some(text) = text {
                write!(out, "{:INDENT$} {head:<5}", "")?;
                wrapped(out, text, INDENT + 6)?;
            }
        }
        Ok(())
    }
}

/// Goes on at column `from`, and ends the line. Every word of it is shown.
fn wrapped(out: &mut fmt::Formatter<'_>, text: &str, from: usize) -> fmt::Result {
    let mut column = from;
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > from && column + 1 + width > COLUMNS {
            write!(out, "\n{:from$}", "")?;
            column = from;
        }
        write!(out, " {}", printable(word))?;
        column += 1 + width;
    }
    writeln!(out)
}

/// What an entry holds must not command the terminal.
fn printable(word: &str) -> String {
    let mut text = String::new();
    for char in word.chars() {
        match char.is_control() {
            true => write!(text, "{}", char.escape_default()).expect("a string takes all"),
            false => text.push(char),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Wrapped(&'static str);

    impl fmt::Display for Wrapped {
        fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            wrapped(out, self.0, 100)
        }
    }

    #[test]
    fn long_text_goes_on_below_itself() {
        let text = Wrapped("one two three four").to_string();
        assert_eq!(
            text,
            format!(" one two\n{:100} three\n{:100} four\n", "", "")
        );
    }

    #[test]
    fn an_entry_cannot_command_the_terminal() {
        assert_eq!(Wrapped("a\u{1b}[2J").to_string(), " a\\u{1b}[2J\n");
    }
}
