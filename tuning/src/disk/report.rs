//! Owns what a measurement hands back: every figure for programs, tables for people.

use std::fmt;
use std::time::Duration;

use coati_bench::conditions::Machine;
use coati_bench::latency::{Latencies, Summary, round};
use serde::{Deserialize, Serialize};

use super::load::{Appended, FileState, Load, Way, in_words};
use super::read::{Read, Readers};
use super::verdict::{Verdict, shown};

/// Milliseconds of appends that are done, or of reads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Appends {
    #[serde(flatten)]
    pub load: Load,
    pub seconds: f64,
    pub mb_per_second: f64,
    pub appends_per_second: f64,
    pub writes_per_second: f64,
    pub syncs_per_second: f64,
    /// `None`: the disk has finished none in the time there was.
    pub latency: Option<Summary>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reads {
    #[serde(flatten)]
    pub load: Readers,
    pub seconds: f64,
    pub mb_per_second: f64,
    pub reads_per_second: f64,
    pub latency: Option<Summary>,
}

/// Appends and reads at the same time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mixed {
    pub append: Appends,
    pub read: Reads,
}

impl Appends {
    pub fn of(load: Load, appended: &Appended) -> Appends {
        let rate = |count: u64| per_second(count as f64, appended.time);
        Appends {
            load,
            seconds: round(appended.time.as_secs_f64()),
            mb_per_second: per_second(appended.bytes as f64 / 1e6, appended.time),
            appends_per_second: rate(appended.appends),
            writes_per_second: rate(appended.writes),
            syncs_per_second: rate(appended.syncs),
            latency: Latencies::summary(&appended.latencies),
        }
    }
}

impl Reads {
    pub fn of(load: Readers, read: &Read) -> Reads {
        Reads {
            load,
            seconds: round(read.time.as_secs_f64()),
            mb_per_second: per_second(read.bytes as f64 / 1e6, read.time),
            reads_per_second: per_second(read.reads as f64, read.time),
            latency: Latencies::summary(&read.latencies),
        }
    }
}

fn per_second(amount: f64, time: Duration) -> f64 {
    match time.is_zero() {
        true => 0.0,
        false => round(amount / time.as_secs_f64()),
    }
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// How long it took to make the files.
    pub preparing_seconds: f64,
    /// The file system has no fallocate: what should have been allocated has grown.
    pub refuses_allocation: bool,
    pub appends: Vec<Appends>,
    pub reads: Vec<Reads>,
    pub mixed: Vec<Mixed>,
}

impl Figures {
    pub fn append(&self, load: Load) -> Option<&Appends> {
        self.appends.iter().find(|appends| appends.load == load)
    }

    pub fn of_way(&self, way: Way) -> impl Iterator<Item = &Appends> {
        self.appends
            .iter()
            .filter(move |appends| appends.load.way == way)
    }
}

/// Where and how it was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conditions {
    /// As it was typed.
    pub command: String,
    /// Milliseconds since 1970.
    pub started_ms: i64,
    pub version: String,
    pub machine: Machine,
    pub folder: String,
    pub file_system: String,
    /// The devices that it lies on.
    pub disks: Vec<String>,
    pub size_bytes: u64,
    pub seconds: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub conditions: Conditions,
    /// What makes the figures worth less.
    pub notices: Vec<String>,
    pub verdict: Verdict,
    #[serde(flatten)]
    pub figures: Figures,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.conditions;
        writeln!(
            out,
            "{} on {} ({}), {:.0} s in {}\n",
            about.folder,
            about.disks.join(", "),
            about.file_system,
            about.seconds,
            in_words(about.size_bytes),
        )?;
        for sentence in &self.verdict.sentences {
            writeln!(out, "{sentence}.")?;
        }
        for notice in &self.notices {
            writeln!(out, "Note: {notice}.")?;
        }
        self.write_ways(out)?;
        self.write_plain(out)?;
        self.write_reads(out)
    }
}

const LATENCY_HEADS: &str = "    MB/s         /s   p50 ms   p99 ms  p99.9 ms   max ms";

fn write_row(
    out: &mut fmt::Formatter<'_>,
    head: &str,
    (mb, rate): (f64, f64),
    latency: Option<&Summary>,
) -> fmt::Result {
    write!(out, "  {head:<42} {:>8} {:>10}", shown(mb), shown(rate))?;
    let Some(latency) = latency else {
        return writeln!(out, "   none was done in time");
    };
    let Summary {
        p50,
        p99,
        p99_9,
        max,
        ..
    } = *latency;
    let [p50, p99, p99_9, max] = [p50, p99, p99_9, max].map(shown);
    writeln!(out, " {p50:>8} {p99:>8} {p99_9:>9} {max:>8}")
}

impl Report {
    fn write_ways(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "Appends to stable storage, as the broker does it";
        writeln!(out, "\n{title:<44} {LATENCY_HEADS}")?;
        let journal = self.figures.of_way(Way::Journal);
        for appends in journal.chain(self.figures.of_way(Way::Segment)) {
            let rates = (appends.mb_per_second, appends.appends_per_second);
            let head = appends.load.to_string();
            write_row(out, &head, rates, appends.latency.as_ref())?;
        }
        for mixed in &self.figures.mixed {
            let (append, read) = (&mixed.append, &mixed.read);
            let rates = (append.mb_per_second, append.appends_per_second);
            let head = append.load.to_string();
            write_row(out, &head, rates, append.latency.as_ref())?;
            let head = format!("  beside {}", read.load);
            let rates = (read.mb_per_second, read.reads_per_second);
            write_row(out, &head, rates, read.latency.as_ref())?;
        }
        Ok(())
    }

    fn write_plain(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\nPlain writes: MB/s, and p99 in ms\n  {:<14}{:^45}  {:^45}",
            "", "written", "each synced (fdatasync)"
        )?;
        let states = ["growing", "allocated", "zeroed"];
        let heads = states.map(|state| format!("{state:>15}")).concat();
        writeln!(out, "  {:<14}{heads}  {heads}", "")?;
        let is_first = |load: &Load| load.file == FileState::Growing && !load.synced;
        for row in self.figures.of_way(Way::Plain) {
            if !is_first(&row.load) {
                continue;
            }
            let (bytes, depth) = (in_words(row.load.bytes as u64), row.load.depth);
            write!(out, "  {:<14}", format!("{bytes} x {depth}"))?;
            for synced in [false, true] {
                for file in [FileState::Growing, FileState::Allocated, FileState::Zeroed] {
                    let load = Load {
                        file,
                        synced,
                        ..row.load
                    };
                    let cell = self.figures.append(load).map_or(String::new(), |appends| {
                        let p99 = appends.latency.as_ref().map_or(f64::NAN, |of| of.p99);
                        format!("{} {:>7}", shown(appends.mb_per_second), shown(p99))
                    });
                    write!(out, "{cell:>15}")?;
                }
                write!(out, "{}", if synced { "\n" } else { "  " })?;
            }
        }
        Ok(())
    }

    fn write_reads(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = "Cold reads, past the page cache";
        writeln!(out, "\n{title:<44} {LATENCY_HEADS}")?;
        for reads in &self.figures.reads {
            let rates = (reads.mb_per_second, reads.reads_per_second);
            let head = reads.load.to_string();
            write_row(out, &head, rates, reads.latency.as_ref())?;
        }
        Ok(())
    }
}
