//! Owns the page that says where the time of each core goes (`/debug/stages`), as JSON.

use serde::Serialize;

use crate::stages::histogram::{Distribution, longest_in};
use crate::stages::tasks::TaskSample;
use crate::stages::timing::SlowRow;
use crate::stages::{Class, Sample, Stage, WAY};

#[derive(Serialize)]
struct Page<'a> {
    uptime_seconds: f64,
    /// The stages that a request's time consists of, in the order of the sums in `slow`.
    way: [&'static str; WAY],
    meanings: Vec<(&'static str, &'static str)>,
    cores: Vec<Core<'a>>,
}

#[derive(Serialize)]
struct Core<'a> {
    core: usize,
    cpu_seconds: f64,
    /// All that have begun; the stages on their way are those of the timed among them.
    requests: u64,
    timed: u64,
    stages: Vec<Timed<'a>>,
    tasks: Vec<TaskTime>,
    stalls: Vec<Stall>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    slow: Vec<(&'static str, &'a [SlowRow])>,
}

#[derive(Serialize)]
struct Timed<'a> {
    stage: &'static str,
    count: u64,
    total_us: f64,
    p50_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    max_us: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    buckets: Option<Buckets<'a>>,
}

#[derive(Serialize)]
struct TaskTime {
    task: &'static str,
    runs: u64,
    busy_us: f64,
}

#[derive(Serialize)]
struct Stall {
    task: &'static str,
    count: u64,
    worst_us: f64,
    /// Milliseconds since 1970.
    worst_at_ms: i64,
    last_at_ms: i64,
}

/// Each bucket's longest nanoseconds and how many are in it.
struct Buckets<'a>(&'a Distribution);

impl Serialize for Buckets<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let buckets = self.0.buckets.iter();
        serializer.collect_seq(buckets.map(|&(bucket, count)| (longest_in(bucket), count)))
    }
}

/// The page of what the cores have counted; `in_detail` with all buckets, so that two pages can be
/// subtracted from each other.
pub fn page(samples: &[Sample], uptime_seconds: f64, in_detail: bool) -> String {
    let page = Page {
        uptime_seconds,
        way: std::array::from_fn(|number| Stage::ALL[number].name()),
        meanings: Stage::ALL
            .map(|stage| (stage.name(), stage.meaning()))
            .into(),
        cores: samples
            .iter()
            .enumerate()
            .map(|(core, sample)| of_core(core, sample, in_detail))
            .collect(),
    };
    let text = if in_detail {
        serde_json::to_string(&page)
    } else {
        serde_json::to_string_pretty(&page)
    };
    text.expect("plain numbers and words")
}

fn of_core(core: usize, sample: &Sample, in_detail: bool) -> Core<'_> {
    let stages = Stage::ALL.into_iter().zip(&sample.stages);
    let slow = Class::ALL.into_iter().zip(&sample.slow);
    let tasks = sample.tasks.iter();
    let stalled = tasks.clone().filter(|task| task.stalls > 0);
    Core {
        core,
        cpu_seconds: sample.cpu.as_secs_f64(),
        requests: sample.requests.iter().map(|(_, count)| count).sum(),
        timed: sample.times.iter().map(|(_, times)| times.count).sum(),
        stages: stages
            .filter(|(_, times)| times.count > 0)
            .map(|(stage, times)| timed(stage, times, in_detail))
            .collect(),
        tasks: tasks.map(TaskTime::from).collect(),
        stalls: stalled.map(Stall::from).collect(),
        slow: slow
            .filter(|(_, rows)| in_detail && !rows.is_empty())
            .map(|(class, rows)| (class.name(), rows.as_slice()))
            .collect(),
    }
}

fn timed(stage: Stage, times: &Distribution, in_detail: bool) -> Timed<'_> {
    let quantile = |share| micros(times.quantile_nanos(share));
    Timed {
        stage: stage.name(),
        count: times.count,
        total_us: micros(times.total_nanos),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p99_9_us: quantile(0.999),
        max_us: micros(times.longest_nanos),
        buckets: in_detail.then_some(Buckets(times)),
    }
}

impl From<&TaskSample> for TaskTime {
    fn from(sample: &TaskSample) -> TaskTime {
        TaskTime {
            task: sample.task.name(),
            runs: sample.polls,
            busy_us: micros(sample.nanos),
        }
    }
}

impl From<&TaskSample> for Stall {
    fn from(sample: &TaskSample) -> Stall {
        Stall {
            task: sample.task.name(),
            count: sample.stalls,
            worst_us: micros(sample.worst_nanos),
            worst_at_ms: sample.worst_at_ms,
            last_at_ms: sample.last_at_ms,
        }
    }
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages;

    #[test]
    fn what_a_core_has_counted_is_on_the_page() {
        for nanos in [1000, 2000, 300_000] {
            stages::record(Stage::Sync, nanos);
        }
        let sample = stages::sample();
        let read = |in_detail| -> serde_json::Value {
            serde_json::from_str(&page(&[sample.clone(), Sample::default()], 1.5, in_detail))
                .unwrap()
        };
        let core = &read(false)["cores"][0];
        let sync = &core["stages"][0];
        assert_eq!(
            (&sync["stage"], &sync["count"]),
            (&"sync".into(), &3.into())
        );
        assert_eq!(
            (&sync["total_us"], &sync["max_us"]),
            (&303.0.into(), &300.0.into())
        );
        assert!(sync.get("buckets").is_none());
        let buckets = read(true)["cores"][0]["stages"][0]["buckets"].clone();
        let counts: Vec<[u64; 2]> = serde_json::from_value(buckets).unwrap();
        assert_eq!(counts.len(), 3);
        assert!(counts.iter().all(|bucket| bucket[1] == 1));
        assert_eq!(read(false)["cores"][1]["requests"], 0);
    }
}
