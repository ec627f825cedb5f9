//! Owns the catch-up workload: what a reader that goes through old records does to those who live at the end.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::client::{Client, Outcome};
use crate::clock;
use crate::recorder::round;
use crate::report::Report;
use crate::run::{Setting, fill_topic, run};
use crate::workload::Workload;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatchUp {
    pub alone: Report,
    pub beside_reader: Report,
    /// What the reader got, while it read.
    pub reader_mb_per_second: f64,
    /// End-to-end p99 beside the reader over p99 alone.
    pub p99_ratio: f64,
}

/// Runs the workload alone, fills a topic with its backlog, and runs it again while that is read.
pub async fn catch_up<C: Client>(
    client: &C,
    workload: &Workload,
    mut setting: Setting,
) -> Outcome<CatchUp> {
    let mut workload = workload.clone();
    let backlog = std::mem::take(&mut workload.consumer_backlog_gb);
    let topic = format!("coati-bench-backlog-{:x}", clock::wall_ms());
    client
        .create_topic(&topic, 1, &workload.topic_configs)
        .await?;
    fill_topic(client, &workload, &topic, (backlog * 1e9) as u64, &setting).await?;
    let alone = run(client, &workload, &setting).await;
    setting.catch_up = Some(topic.clone());
    let beside_reader = run(client, &workload, &setting).await;
    client.delete_topic(&topic).await?;
    let (alone, beside_reader) = (alone?, beside_reader?);
    let mb_per_second =
        |flow: &Option<crate::report::Flow>| flow.as_ref().map_or(0.0, |flow| flow.mb_per_second);
    // What is consumed beside what is produced is the backlog.
    let reader = mb_per_second(&beside_reader.consumed) - mb_per_second(&beside_reader.produced);
    let p99 = |report: &Report| {
        report
            .end_to_end
            .as_ref()
            .map_or(0.0, |summary| summary.p99)
    };
    Ok(CatchUp {
        reader_mb_per_second: round(reader),
        p99_ratio: round(p99(&beside_reader) / p99(&alone)),
        alone,
        beside_reader,
    })
}

impl fmt::Display for CatchUp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "alone\n{}beside a reader\n{}",
            self.alone, self.beside_reader
        )?;
        writeln!(
            out,
            "the reader got {:.1} MB/s; end-to-end p99 became {:.2} times what it was",
            self.reader_mb_per_second, self.p99_ratio
        )
    }
}
