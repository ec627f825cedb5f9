//! Owns the join of a run with what the broker tells of its own time (`--explain`): its page `/debug/stages` as it is when
//! measuring begins and as it is at the end, and what lies between the two. Only Coati has such a page.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use glommio::Task;
use serde::{Deserialize, Serialize};

use crate::admin;
use crate::client::Outcome;
use crate::latency::round;

/// How long the broker may take for its page.
const PATIENCE: Duration = Duration::from_secs(5);

const PATH: &str = "/debug/stages?buckets";

/// Where the broker's share of the client's p99 is under this, the rest owned it.
const MOST: f64 = 0.5;

/// Asks the broker at the beginning and at the end.
pub struct Explainer {
    address: String,
    pages: RefCell<Vec<Task<Outcome<String>>>>,
}

impl Explainer {
    /// An error when nobody answers there: better before a long run than after it.
    pub async fn connect(address: &str) -> Outcome<Explainer> {
        get(address.to_owned()).await?;
        Ok(Explainer {
            address: address.to_owned(),
            pages: RefCell::default(),
        })
    }

    /// To be called when measuring begins and when it ends. It does not hold the generator up.
    pub fn ask(&self) {
        let page = glommio::spawn_local(get(self.address.clone()));
        self.pages.borrow_mut().push(page);
    }

    /// What happened between the last two askings, beside what the client has seen.
    pub async fn explain(&self, seen: Seen) -> Outcome<Explanation> {
        let asked = self.pages.take();
        let mut pages = Vec::new();
        for page in asked {
            let text = page.await?;
            let page: Page = serde_json::from_str(&text)
                .map_err(|error| format!("http://{}/debug/stages: {error}", self.address))?;
            pages.push(page);
        }
        match &pages[..] {
            [before, after] => explain(&self.address, before, after, seen),
            _ => Err("the run was over before the broker could be asked".into()),
        }
    }
}

/// What the client has seen of the same time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub acknowledge_p99_ms: Option<f64>,
    pub produce_requests: u64,
}

async fn get(address: String) -> Outcome<String> {
    let answer = admin::get(&address, PATH, PATIENCE).await;
    answer.map_err(|reason| {
        format!(
            "no word of where the broker's time goes from http://{address}/debug/stages: {reason}; \
             --admin names the admin endpoint of the broker, which its log tells"
        )
    })
}

/// The broker's page.
#[derive(Debug, Deserialize)]
struct Page {
    uptime_seconds: f64,
    way: Vec<String>,
    meanings: Vec<(String, String)>,
    cores: Vec<CorePage>,
}

#[derive(Debug, Deserialize)]
struct CorePage {
    cpu_seconds: f64,
    requests: u64,
    stages: Vec<StagePage>,
    tasks: Vec<TaskPage>,
    stalls: Vec<StallPage>,
    #[serde(default)]
    slow: Vec<(String, Vec<Row>)>,
}

#[derive(Debug, Deserialize)]
struct StagePage {
    stage: String,
    total_us: f64,
    #[serde(default)]
    buckets: Vec<(u64, u64)>,
}

#[derive(Debug, Deserialize)]
struct TaskPage {
    task: String,
    busy_us: f64,
}

#[derive(Debug, Deserialize)]
struct StallPage {
    task: String,
    count: u64,
}

/// Requests of one length: their longest nanoseconds, how many, and what they spent on each stage of the way.
type Row = (u64, u64, Vec<u64>);

/// Where the time went.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// Who has told it.
    pub admin: String,
    /// In words, a sentence each.
    pub words: Vec<String>,
    pub requests: Vec<Explained>,
    /// Single operations beneath the stages.
    pub beneath: Vec<Operation>,
    pub cores: Vec<CoreUse>,
}

/// Of one kind of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Explained {
    pub kind: String,
    /// Those that the broker timed.
    pub timed: u64,
    /// Within the broker, from received to sent.
    pub p50_ms: f64,
    pub p99_ms: f64,
    /// Of the client, which includes the broker's.
    pub client_p99_ms: Option<f64>,
    /// Which stage had the most of the time of the slowest in a hundred.
    pub owner: String,
    pub stages: Vec<Part>,
}

/// One stage's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    pub stage: String,
    /// Means, of all requests and of the slowest in a hundred.
    pub mean_ms: f64,
    pub slow_ms: f64,
    /// Of the time of the slowest, from 0 to 1.
    pub slow_share: f64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Operation {
    pub stage: String,
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

/// What held one core.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreUse {
    /// CPU time by the time that passed; above 1 by the error of both.
    pub busy: f64,
    /// Who held it, most first.
    pub tasks: Vec<Share>,
    /// How often tasks held it for over a millisecond.
    pub stalls: Vec<(String, u64)>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Share {
    pub task: String,
    pub share: f64,
}

fn explain(address: &str, before: &Page, after: &Page, seen: Seen) -> Outcome<Explanation> {
    let seconds = after.uptime_seconds - before.uptime_seconds;
    if seconds <= 0.0 || before.cores.len() != after.cores.len() {
        return Err(format!(
            "the broker at {address} was started anew meanwhile"
        ));
    }
    let requests = |page: &Page| page.cores.iter().map(|core| core.requests).sum::<u64>();
    let moved = requests(after).saturating_sub(requests(before));
    if moved < seen.produce_requests / 2 {
        return Err(format!(
            "the broker at {address} had {moved} requests meanwhile, the one that was measured at least {}: \
             --admin names another broker's endpoint",
            seen.produce_requests
        ));
    }
    let mut explained = Vec::new();
    let kinds: Vec<&String> = after
        .cores
        .iter()
        .flat_map(|core| &core.slow)
        .map(|(kind, _)| kind)
        .collect();
    for kind in ["produce", "fetch"] {
        if kinds.iter().any(|other| *other == kind) {
            let client = seen.acknowledge_p99_ms.filter(|_| kind == "produce");
            explained.extend(of_kind(kind, before, after, client));
        }
    }
    let beneath = operations(before, after);
    let words = explained
        .iter()
        .map(|explained| in_words(explained, after))
        .collect();
    let cores = before.cores.iter().zip(&after.cores);
    Ok(Explanation {
        admin: address.to_owned(),
        words,
        requests: explained,
        beneath,
        cores: cores
            .map(|(before, after)| core_use(before, after, seconds))
            .collect(),
    })
}

/// The requests of one kind between two pages, on all cores; `None` when none was timed.
fn of_kind(kind: &str, before: &Page, after: &Page, client: Option<f64>) -> Option<Explained> {
    let mut rows: BTreeMap<u64, (u64, Vec<u64>)> = BTreeMap::new();
    for (page, sign) in [(after, 1i64), (before, -1)] {
        let slow = page.cores.iter().flat_map(|core| &core.slow);
        for (longest, count, spent) in slow.filter(|(of, _)| of == kind).flat_map(|(_, rows)| rows)
        {
            let row = rows
                .entry(*longest)
                .or_insert_with(|| (0, vec![0; spent.len()]));
            row.0 = row.0.wrapping_add_signed(sign * *count as i64);
            for (sum, nanos) in row.1.iter_mut().zip(spent) {
                *sum = sum.wrapping_add_signed(sign * *nanos as i64);
            }
        }
    }
    rows.retain(|_, (count, _)| *count > 0);
    let timed: u64 = rows.values().map(|(count, _)| count).sum();
    let counts: Vec<(u64, u64)> = rows
        .iter()
        .map(|(longest, row)| (*longest, row.0))
        .collect();
    let p99 = quantile(&counts, 0.99)?;
    let sums = |rows: &mut dyn Iterator<Item = &(u64, Vec<u64>)>| {
        let mut sums = (0, vec![0; after.way.len()]);
        for (count, spent) in rows {
            sums.0 += count;
            for (sum, nanos) in sums.1.iter_mut().zip(spent) {
                *sum += nanos;
            }
        }
        sums
    };
    let (all_count, all) = sums(&mut rows.values());
    let (slow_count, slow) = sums(&mut rows.range(p99..).map(|(_, row)| row));
    let slow_total = slow.iter().sum::<u64>().max(1);
    let parts = after.way.iter().zip(all.iter().zip(&slow));
    let stages: Vec<Part> = parts
        .filter(|(_, (all, _))| **all > 0)
        .map(|(stage, (all, slow))| Part {
            stage: stage.clone(),
            mean_ms: ms(*all / all_count),
            slow_ms: ms(*slow / slow_count),
            slow_share: round(*slow as f64 / slow_total as f64),
        })
        .collect();
    let most = stages
        .iter()
        .max_by(|one, other| one.slow_share.total_cmp(&other.slow_share))?;
    Some(Explained {
        kind: kind.to_owned(),
        timed,
        p50_ms: ms(quantile(&counts, 0.5)?),
        p99_ms: ms(p99),
        client_p99_ms: client,
        owner: most.stage.clone(),
        stages,
    })
}

fn in_words(explained: &Explained, page: &Page) -> String {
    let Explained {
        kind,
        owner,
        p99_ms,
        ..
    } = explained;
    let mut meanings = page.meanings.iter();
    let meaning = meanings
        .find(|(stage, _)| stage == owner)
        .map_or("", |(_, meaning)| meaning);
    let share = explained.stages.iter().find(|part| part.stage == *owner);
    let percent = share.map_or(0.0, |part| part.slow_share * 100.0);
    let within = format!(
        "{owner} owned {percent:.0} % of the broker's time for the slowest {kind} requests ({meaning})"
    );
    match explained.client_p99_ms {
        None => format!("{kind}: p99 {p99_ms} ms in the broker; {within}"),
        Some(client) if *p99_ms < client * MOST => format!(
            "{kind}: of the client's p99 of {client} ms the broker explains {p99_ms} ms at most: the rest passed before it had read the \
             request, on the way, or in the generator; {within}"
        ),
        Some(client) => {
            format!("{kind}: p99 {p99_ms} ms in the broker, {client} ms for the client; {within}")
        }
    }
}

/// Those stages that are not parts of a request's way.
fn operations(before: &Page, after: &Page) -> Vec<Operation> {
    let beneath = after.meanings.iter().map(|(stage, _)| stage);
    let beneath = beneath.filter(|stage| !after.way.contains(stage));
    let operations = beneath.filter_map(|stage| {
        let mut buckets: BTreeMap<u64, u64> = BTreeMap::new();
        let mut total_us = 0.0;
        for (page, sign) in [(after, 1i64), (before, -1)] {
            let stages = page.cores.iter().flat_map(|core| &core.stages);
            for of_core in stages.filter(|of_core| of_core.stage == *stage) {
                total_us += of_core.total_us * sign as f64;
                for (longest, count) in &of_core.buckets {
                    let bucket = buckets.entry(*longest).or_default();
                    *bucket = bucket.wrapping_add_signed(sign * *count as i64);
                }
            }
        }
        let buckets: Vec<(u64, u64)> = buckets
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        Some(Operation {
            stage: stage.clone(),
            count,
            mean_ms: round(total_us / 1000.0 / count.max(1) as f64),
            p50_ms: ms(quantile(&buckets, 0.5)?),
            p99_ms: ms(quantile(&buckets, 0.99)?),
        })
    });
    operations.collect()
}

fn core_use(before: &CorePage, after: &CorePage, seconds: f64) -> CoreUse {
    let earlier = |task: &str| {
        let found = before.tasks.iter().find(|other| other.task == task);
        found.map_or(0.0, |task| task.busy_us)
    };
    let mut tasks: Vec<Share> = after
        .tasks
        .iter()
        .map(|task| Share {
            task: task.task.clone(),
            share: round((task.busy_us - earlier(&task.task)) / 1e6 / seconds),
        })
        .filter(|task| task.share > 0.0)
        .collect();
    tasks.sort_by(|one, other| other.share.total_cmp(&one.share));
    let stalls = after.stalls.iter().map(|stall| {
        let mut earlier = before.stalls.iter();
        let earlier = earlier.find(|other| other.task == stall.task);
        let earlier = earlier.map_or(0, |earlier| earlier.count);
        (stall.task.clone(), stall.count.saturating_sub(earlier))
    });
    CoreUse {
        busy: round((after.cpu_seconds - before.cpu_seconds) / seconds),
        tasks,
        stalls: stalls.filter(|(_, count)| *count > 0).collect(),
    }
}

/// The bucket that this share of all, from 0 to 1, does not exceed.
fn quantile(buckets: &[(u64, u64)], share: f64) -> Option<u64> {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    let mut buckets = buckets.iter();
    let found = buckets.find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    found.map(|(longest, _)| *longest)
}

fn ms(nanos: u64) -> f64 {
    round(nanos as f64 / 1e6)
}

/// The small table.
impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for words in &self.words {
            writeln!(out, "  {words}")?;
        }
        for explained in &self.requests {
            let heading = format!("{} requests", explained.kind);
            writeln!(
                out,
                "  {heading:<18} {:>10} {:>12} {:>8}",
                "mean ms", "slowest 1 %", "share"
            )?;
            for part in &explained.stages {
                let percent = part.slow_share * 100.0;
                let line = format!(
                    "{:>10.3} {:>12.3} {percent:>6.0} %",
                    part.mean_ms, part.slow_ms
                );
                writeln!(out, "    {:<16} {line}", part.stage)?;
            }
        }
        for operation in &self.beneath {
            let Operation {
                stage,
                count,
                mean_ms,
                p50_ms,
                p99_ms,
            } = operation;
            writeln!(
                out,
                "  each {stage:<13} {count:>10} times, mean {mean_ms:.3}, p50 {p50_ms:.3}, p99 {p99_ms:.3} ms"
            )?;
        }
        for (number, core) in self.cores.iter().enumerate() {
            let percent = |share: f64| (share * 100.0).round();
            let tasks = core.tasks.iter().filter(|task| task.share >= 0.005);
            let tasks: Vec<String> = tasks
                .map(|task| format!("{} {} %", task.task, percent(task.share)))
                .collect();
            let known: f64 = core.tasks.iter().map(|task| task.share).sum();
            let rest = percent((core.busy - known).max(0.0));
            let busy = percent(core.busy);
            write!(
                out,
                "  core {number} was {busy} % busy: {}, executor and the rest {rest} %",
                tasks.join(", ")
            )?;
            let stalls: Vec<String> = core
                .stalls
                .iter()
                .map(|(task, count)| format!("{task} {count} times"))
                .collect();
            match stalls.is_empty() {
                true => writeln!(out, "; nobody held it for over 1 ms")?,
                false => writeln!(out, "; held for over 1 ms by {}", stalls.join(", "))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(uptime_seconds: f64, requests: u64, slow: &str, tasks: &str) -> Page {
        let text = format!(
            r#"{{"uptime_seconds": {uptime_seconds}, "way": ["queue", "commit", "respond"],
                "meanings": [["queue", "waits"], ["commit", "until acknowledged"], ["respond", "sent"], ["sync", "one sync"]],
                "cores": [{{"core": 0, "cpu_seconds": {uptime_seconds}, "requests": {requests}, "timed": 1,
                    "stages": [{{"stage": "sync", "count": 2, "total_us": {requests}, "p50_us": 0, "p99_us": 0,
                        "p99_9_us": 0, "max_us": 0, "buckets": [[1000000, {requests}]]}}],
                    "tasks": {tasks}, "stalls": [{{"task": "log", "count": {requests}, "worst_us": 1, "worst_at_ms": 1, "last_at_ms": 1}}],
                    "slow": {slow}}}]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn before() -> Page {
        let slow = r#"[["produce", [[1000000, 5, [4, 4, 4]], [90000000, 7, [1, 1, 630000000]]]]]"#;
        page(
            10.0,
            10,
            slow,
            r#"[{"task": "send", "runs": 1, "busy_us": 5}]"#,
        )
    }

    fn after() -> Page {
        let slow = r#"[["produce", [
            [1000000, 994, [98900004, 494500004, 4]],
            [20000000, 11, [11000000, 198000000, 11000000]],
            [90000000, 7, [1, 1, 630000000]]]]]"#;
        page(
            12.0,
            1010,
            slow,
            r#"[{"task": "receive", "runs": 1, "busy_us": 400000}, {"task": "send", "runs": 1, "busy_us": 1000005}]"#,
        )
    }

    #[test]
    fn the_slowest_of_the_measured_time_say_which_stage_it_was() {
        let seen = Seen {
            acknowledge_p99_ms: Some(22.0),
            produce_requests: 1000,
        };
        let explanation = explain("here", &before(), &after(), seen).unwrap();
        let [produce] = &explanation.requests[..] else {
            panic!("{explanation:?}")
        };
        assert_eq!(
            (produce.timed, produce.p50_ms, produce.p99_ms),
            (1000, 1.0, 20.0)
        );
        assert_eq!(produce.owner, "commit");
        let shares: Vec<f64> = produce.stages.iter().map(|part| part.slow_share).collect();
        assert_eq!(shares, [0.05, 0.9, 0.05]);
        assert_eq!(produce.stages[0].slow_ms, 1.0);
        assert!(
            explanation.words[0].contains("commit owned 90 %"),
            "{:?}",
            explanation.words
        );
        let [sync] = &explanation.beneath[..] else {
            panic!("{explanation:?}")
        };
        assert_eq!(
            (sync.stage.as_str(), sync.count, sync.mean_ms),
            ("sync", 1000, 0.001)
        );
        let core = &explanation.cores[0];
        assert_eq!(
            (core.busy, core.tasks[0].task.as_str(), core.tasks[0].share),
            (1.0, "send", 0.5)
        );
        assert_eq!(core.stalls, [("log".to_owned(), 1000)]);
        let table = explanation.to_string();
        assert!(table.contains("executor and the rest 30 %"), "{table}");
    }

    #[test]
    fn what_the_broker_cannot_have_seen_is_not_laid_on_it() {
        let seen = Seen {
            acknowledge_p99_ms: Some(200.0),
            produce_requests: 1000,
        };
        let explanation = explain("here", &before(), &after(), seen).unwrap();
        assert!(
            explanation.words[0].contains("the rest passed before"),
            "{:?}",
            explanation.words
        );
    }

    #[test]
    fn another_broker_explains_nothing() {
        let seen = Seen {
            produce_requests: 100_000,
            ..Seen::default()
        };
        let refused = explain("here", &before(), &after(), seen).unwrap_err();
        assert!(refused.contains("another broker"), "{refused}");
        let refused = explain("here", &after(), &before(), Seen::default()).unwrap_err();
        assert!(refused.contains("started anew"), "{refused}");
    }
}
