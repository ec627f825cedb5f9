//! Owns what is told of the figures in rows and columns: the same in a terminal and as plain text.

use super::figures::{Core, Figures, Latency};
use super::words::{duration, megabytes, micros, name, number, percent, size};

/// A list of the view.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum List {
    Partitions,
    Requests,
    Stages,
    Stalls,
    Queues,
    Clients,
    Groups,
}

impl List {
    pub const ALL: [List; 7] = [
        List::Partitions,
        List::Requests,
        List::Stages,
        List::Stalls,
        List::Queues,
        List::Clients,
        List::Groups,
    ];

    pub fn title(self) -> &'static str {
        match self {
            List::Partitions => "Partitions",
            List::Requests => "Requests",
            List::Stages => "Stages",
            List::Stalls => "Stalls",
            List::Queues => "Queues",
            List::Clients => "Clients",
            List::Groups => "Groups",
        }
    }

    /// How many there are, of which some are shown.
    pub fn told(self, figures: &Figures) -> Option<(usize, usize)> {
        match self {
            List::Partitions => Some((figures.partitions.all, figures.partitions.found)),
            List::Clients => Some((figures.clients.all, figures.clients.found)),
            List::Groups => Some((figures.groups.all, figures.groups.found)),
            List::Requests | List::Stages | List::Stalls | List::Queues => None,
        }
    }

    pub fn table(self, figures: &Figures) -> Table {
        match self {
            List::Partitions => partitions(figures),
            List::Requests => latencies("request", &figures.requests),
            List::Stages => latencies("stage", &figures.stages),
            List::Stalls => stalls(figures),
            List::Queues => queues(figures),
            List::Clients => clients(figures),
            List::Groups => groups(figures),
        }
    }
}

/// Rows below heads. The first column is a name and stands left, the others are figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub heads: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heads: &[&'static str], rows: impl Iterator<Item = Vec<String>>) -> Table {
        Table {
            heads: heads.to_vec(),
            rows: rows.collect(),
        }
    }

    /// How wide each column must be.
    pub fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = self.rows.iter().map(|row| row[column].chars().count());
            cells.chain([self.heads[column].len()]).max().unwrap_or(0)
        };
        (0..self.heads.len()).map(width).collect()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let widths = self.widths();
        let heads: Vec<String> = self.heads.iter().map(|head| (*head).to_owned()).collect();
        for row in std::iter::once(&heads).chain(&self.rows) {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(out, "{cell:<width$}")?,
                    _ => write!(out, "  {cell:>width$}")?,
                }
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

fn row<const COLUMNS: usize>(cells: [String; COLUMNS]) -> Vec<String> {
    cells.into()
}

pub fn cores(figures: &Figures) -> Table {
    let heads = [
        "core",
        "used",
        "MB/s in",
        "MB/s out",
        "req/s",
        "produce p50",
        "p99",
        "fetch p50",
        "p99",
        "stalls",
        "parts",
        "conns",
    ];
    let rows = figures.cores.iter().map(|core| {
        let (produce, fetch) = (latency(core, "Produce"), latency(core, "Fetch"));
        row([
            core.core.to_string(),
            percent(core.utilisation),
            megabytes(core.bytes_in),
            megabytes(core.bytes_out),
            format!("{:.0}", core.requests),
            produce.0,
            produce.1,
            fetch.0,
            fetch.1,
            core.stalls.to_string(),
            core.partitions.to_string(),
            core.connections.to_string(),
        ])
    });
    Table::new(&heads, rows)
}

/// The median and the 99th percentile.
fn latency(core: &Core, name: &str) -> (String, String) {
    let mut timed = core.latencies.iter().filter(|latency| latency.timed > 0);
    match timed.find(|latency| latency.name == name) {
        Some(latency) => (micros(latency.p50_us), micros(latency.p99_us)),
        None => ("-".into(), "-".into()),
    }
}

fn partitions(figures: &Figures) -> Table {
    let heads = [
        "partition",
        "MB/s in",
        "MB/s out",
        "records/s",
        "size",
        "end offset",
        "core",
    ];
    let lines = figures.partitions.lines.iter();
    let rows = lines.map(|line| {
        row([
            name(&format!("{}-{}", line.topic, line.partition)),
            megabytes(line.bytes_in as f64),
            megabytes(line.bytes_out as f64),
            line.records_in.to_string(),
            size(line.size_bytes),
            line.end_offset.to_string(),
            line.core.to_string(),
        ])
    });
    Table::new(&heads, rows)
}

fn latencies(of: &'static str, latencies: &[Latency]) -> Table {
    let timed = latencies.iter().filter(|latency| latency.timed > 0);
    let rows = timed.map(|latency| {
        row([
            name(&latency.name),
            number(latency.rate),
            micros(latency.p50_us),
            micros(latency.p99_us),
            micros(latency.p99_9_us),
            micros(latency.max_us),
        ])
    });
    Table::new(&[of, "/s", "p50", "p99", "p99.9", "max"], rows)
}

fn stalls(figures: &Figures) -> Table {
    let rows = figures.stalls.iter().map(|stall| {
        let ago = figures.now_ms.saturating_sub(stall.at_ms) as f64 / 1000.0;
        row([
            name(&stall.task),
            stall.core.to_string(),
            micros(stall.us),
            duration(ago),
        ])
    });
    Table::new(&["task", "core", "held it for", "ago"], rows)
}

fn queues(figures: &Figures) -> Table {
    let of_core = |core: &Core| {
        let number = core.core.to_string();
        let queues = core.queues.iter().map(move |queue| {
            let depth = match queue.unit.as_str() {
                "bytes" => size(queue.depth),
                unit => format!("{} {}", queue.depth, name(unit)),
            };
            let limit = queue.limit.filter(|limit| *limit > 0);
            let share = limit.map(|limit| percent(queue.depth as f64 / limit as f64));
            row([
                name(&queue.queue),
                number.clone(),
                depth,
                share.unwrap_or_else(|| "-".into()),
            ])
        });
        queues.collect::<Vec<_>>()
    };
    let rows = figures.cores.iter().flat_map(of_core);
    Table::new(&["queue", "core", "depth", "of its limit"], rows)
}

fn clients(figures: &Figures) -> Table {
    let rows = figures.clients.lines.iter().map(|client| {
        row([
            name(&client.client_id),
            client.connections.to_string(),
            client.requests.to_string(),
            client.fetches.to_string(),
        ])
    });
    Table::new(
        &["client id", "connections", "in progress", "of them fetches"],
        rows,
    )
}

fn groups(figures: &Figures) -> Table {
    let rows = figures.groups.lines.iter().map(|group| {
        row([
            name(&group.group_id),
            name(&group.r#type),
            name(&group.state),
            group.members.to_string(),
            group.core.to_string(),
        ])
    });
    Table::new(&["group", "type", "state", "members", "core"], rows)
}
