//! Owns the catch-up workload: what a reader that goes through old records does to those who live at the end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::client::{Client, Outcome};
use crate::clock;
use crate::latency::round;
use crate::report::{Flow, Report};
use crate::run::{Setting, fill_topic, run};
use crate::workload::Workload;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatchUp {
    pub alone: Report,
    /// `None` when the first run was interrupted, or failed.
    pub beside_reader: Option<Report>,
    /// What the reader got, while it read.
    pub reader_mb_per_second: Option<f64>,
    /// End-to-end p99 beside the reader over p99 alone.
    pub p99_ratio: Option<f64>,
}

/// Runs the workload alone, fills a topic with its backlog, and runs it again while that is read.
pub async fn catch_up<C: Client>(
    client: &C,
    workload: &Workload,
    setting: &mut Setting,
) -> Outcome<CatchUp> {
    let mut workload = workload.clone();
    let backlog = std::mem::take(&mut workload.consumer_backlog_gb);
    let topic = format!("coati-bench-backlog-{:x}", clock::wall_ms());
    client
        .create_topic(&topic, 1, &workload.topic_configs)
        .await?;
    fill_topic(client, &workload, &topic, (backlog * 1e9) as u64, setting).await?;
    let measured = run_twice(client, &workload, &topic, setting).await;
    client.delete_topic(&topic).await?;
    let (alone, beside_reader) = measured?;
    let reader = beside_reader.as_ref().map(reader_mb_per_second);
    let p99 = |report: &Report| Some(report.end_to_end.as_ref()?.p99);
    let beside_p99 = beside_reader.as_ref().and_then(p99);
    let ratio = p99(&alone)
        .zip(beside_p99)
        .filter(|(alone, _)| *alone > 0.0);
    Ok(CatchUp {
        reader_mb_per_second: reader.map(round),
        p99_ratio: ratio.map(|(alone, beside)| round(beside / alone)),
        alone,
        beside_reader,
    })
}

async fn run_twice<C: Client>(
    client: &C,
    workload: &Workload,
    backlog: &str,
    setting: &mut Setting,
) -> Outcome<(Report, Option<Report>)> {
    setting.begin_part("alone");
    let alone = run(client, workload, setting).await?;
    if alone.interrupted || alone.fault().is_some() {
        return Ok((alone, None));
    }
    setting.catch_up = Some(backlog.to_owned());
    setting.begin_part("beside-reader");
    let beside = run(client, workload, setting).await?;
    Ok((alone, Some(beside)))
}

/// What is consumed beside what is produced is the backlog.
fn reader_mb_per_second(report: &Report) -> f64 {
    let of = |flow: &Option<Flow>| flow.as_ref().map_or(0.0, |flow| flow.mb_per_second);
    of(&report.consumed) - of(&report.produced)
}

impl CatchUp {
    /// What means that it failed.
    pub fn fault(&self) -> Option<String> {
        let beside = self.beside_reader.as_ref();
        self.alone.fault().or_else(|| beside?.fault())
    }
}

impl fmt::Display for CatchUp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "alone\n{}", self.alone)?;
        if let Some(beside) = &self.beside_reader {
            write!(out, "beside a reader\n{beside}")?;
        }
        if let Some(reader) = self.reader_mb_per_second {
            writeln!(out, "the reader got {reader:.1} MB/s")?;
        }
        if let Some(ratio) = self.p99_ratio {
            writeln!(out, "end-to-end p99 became {ratio:.2} times what it was")?;
        }
        Ok(())
    }
}
