//! Owns the figures of the live view (`/debug/watch`), as JSON: what each core did in its last whole second, and the
//! busiest of its partitions, clients and groups. What it costs and how much it tells are bounded: nobody's walk is
//! longer than a turn allows, and what is left out is counted.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use coati_tuning::watch::figures::{
    Client, Core, Figures, Group, Latency, Listed, Partition, Queue, Stall,
};

use super::http::Parameters;
use crate::io::{clock, process, turn};
use crate::limits::{WATCH_CLIENTS_MAX, WATCH_LINES_MAX, WATCH_LOOKS_MAX, WATCH_NAME_CHARS_MAX};
use crate::net::live;
use crate::partition;
use crate::protocol::{Str, api};
use crate::shard::Shard;
use crate::shard::coordinators::GroupSeen;
use crate::stages::Stage;
use crate::stages::histogram::Distribution;
use crate::stages::tasks::{self, Part};
use crate::stages::window::{self, Window};

/// Lines of each list when nobody says how many.
const LINES: usize = 20;

/// Kinds of requests that each core tells one by one: those that came most.
const APIS_TOLD: usize = 6;

const STALLS_TOLD: usize = 32;

/// Between two looks at whether others should run.
const LOOKS_AT_ONCE: usize = 64;

/// What partitions are told first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Order {
    #[default]
    Busiest,
    In,
    Out,
    Largest,
}

/// What somebody asks for: `find=TEXT`, `lines=N`, `sort=busy|in|out|size`.
#[derive(Clone, Debug)]
struct Question {
    /// Only what has this in its name, whatever the case; empty for all.
    find: String,
    lines: usize,
    order: Order,
}

impl Question {
    fn new(parameters: &Parameters) -> Question {
        let lines = parameters.get("lines").and_then(|text| text.parse().ok());
        Question {
            find: parameters.get("find").unwrap_or_default().to_lowercase(),
            lines: lines.unwrap_or(LINES).min(WATCH_LINES_MAX),
            order: match parameters.get("sort") {
                Some("in") => Order::In,
                Some("out") => Order::Out,
                Some("size") => Order::Largest,
                _ => Order::Busiest,
            },
        }
    }

    fn finds(&self, name: &str) -> bool {
        self.find.is_empty() || name.to_lowercase().contains(&self.find)
    }

    /// By its topic, or by its own name such as `orders-3`.
    fn finds_partition(&self, partition: &partition::Partition) -> bool {
        self.find.is_empty() || self.finds(&format!("{}-{}", partition.topic, partition.index))
    }
}

/// The first of many in the order of their keys, as many as are wanted.
struct Top<K, V> {
    lines_max: usize,
    lines: BTreeMap<K, V>,
    found: usize,
}

impl<K: Ord, V> Top<K, V> {
    fn new(lines_max: usize) -> Top<K, V> {
        Top {
            lines_max,
            lines: BTreeMap::new(),
            found: 0,
        }
    }

    fn offer(&mut self, key: K, value: impl FnOnce() -> V) {
        self.found += 1;
        self.keep(key, value);
    }

    fn keep(&mut self, key: K, value: impl FnOnce() -> V) {
        if self.lines.len() >= self.lines_max {
            match self.lines.last_key_value() {
                Some((last, _)) if key < *last => self.lines.pop_last(),
                _ => return,
            };
        }
        self.lines.insert(key, value());
    }

    fn add(&mut self, other: Top<K, V>) {
        self.found += other.found;
        for (key, value) in other.lines {
            self.keep(key, || value);
        }
    }

    fn listed(self, all: usize, looked_at: usize) -> Listed<V> {
        Listed {
            all,
            looked_at,
            found: self.found,
            lines: self.lines.into_values().collect(),
        }
    }
}

/// The most of something first, then by name.
type Key = (Reverse<u64>, Str, i32);

/// What one core hands over.
struct CoreSample {
    window: Option<Window>,
    stalls: Vec<tasks::Stall>,
    core: Core,
    partitions: Top<Key, Partition>,
    connections_seen: usize,
    clients: BTreeMap<Str, Client>,
    groups: Top<Key, Group>,
    groups_all: usize,
    groups_seen: usize,
}

/// The page, of all cores.
pub async fn page(shard: &Rc<Shard>, began: Instant, parameters: &Parameters) -> Vec<u8> {
    let question = Question::new(parameters);
    let asked = question.clone();
    let samples = shard.everywhere(move |shard| sample(shard, asked.clone()));
    let samples = samples.await;
    let mut page = head(shard, began);
    let windows: Vec<&Window> = samples.iter().flat_map(|core| &core.window).collect();
    page.requests = requests(&windows, usize::MAX);
    page.stages = stages_of(&windows);
    page.stalls = last_stalls(&samples);
    turn::yield_if_needed().await;
    add_up(&mut page, &question, samples).await;
    serde_json::to_vec(&page).expect("plain numbers and words")
}

/// What is the whole broker's.
fn head(shard: &Shard, began: Instant) -> Figures {
    let state = match shard {
        shard if shard.is_serving() => "running",
        shard if shard.stopping() => "stopping",
        _ => "starting",
    };
    let uptime = clock::now().saturating_duration_since(began);
    let parts = Part::ALL.iter();
    Figures {
        broker: shard.broker.id().0,
        version: env!("CARGO_PKG_VERSION").into(),
        state: state.into(),
        incarnation: shard.broker.incarnation.to_string(),
        uptime_seconds: round(uptime.as_secs_f64()),
        now_ms: clock::wall_ms(),
        resident_bytes: process::resident_bytes(),
        parts: parts
            .map(|part| (part.name().into(), part.meaning().into()))
            .collect(),
        ..Figures::default()
    }
}

/// Brings together what the cores have listed.
async fn add_up(page: &mut Figures, question: &Question, samples: Vec<CoreSample>) {
    let mut partitions = Top::new(question.lines);
    let mut groups = Top::new(question.lines);
    let mut by_id = BTreeMap::<Str, Client>::new();
    let (mut partitions_all, mut groups_all, mut groups_seen) = (0, 0, 0);
    let (mut connections, mut connections_seen) = (0, 0);
    for sample in samples {
        partitions_all += sample.core.partitions;
        partitions.add(sample.partitions);
        groups_all += sample.groups_all;
        groups_seen += sample.groups_seen;
        groups.add(sample.groups);
        connections += sample.core.connections;
        connections_seen += sample.connections_seen;
        for (id, of_core) in sample.clients {
            let client = by_id.entry(id).or_default();
            client.connections += of_core.connections;
            client.requests += of_core.requests;
            client.fetches += of_core.fetches;
        }
        page.cores.push(sample.core);
        turn::yield_if_needed().await;
    }
    let mut clients = Top::new(question.lines);
    for (id, mut client) in by_id {
        if question.finds(&id) {
            client.client_id = id.to_string();
            let key = (Reverse(client.connections as u64), id, 0);
            clients.offer(key, || client);
        }
    }
    page.partitions = partitions.listed(partitions_all, partitions_all);
    page.clients = clients.listed(connections, connections_seen);
    page.groups = groups.listed(groups_all, groups_seen);
}

async fn sample(shard: Rc<Shard>, question: Question) -> CoreSample {
    let mut sample = CoreSample {
        window: window::last(),
        stalls: tasks::last_stalls(),
        core: Core {
            core: usize::from(shard.id.0),
            offline: shard.unopened_count(),
            stalls_ever: tasks::stalls_ever(),
            ..Core::default()
        },
        partitions: Top::new(question.lines),
        connections_seen: 0,
        clients: BTreeMap::new(),
        groups: Top::new(question.lines),
        groups_all: shard.coordinators.group_count(),
        groups_seen: 0,
    };
    if let Some(window) = &sample.window {
        of_window(&mut sample.core, window);
    }
    sample.look_at_partitions(&shard, &question).await;
    sample.look_at_connections(&shard).await;
    sample.look_at_groups(&shard, &question).await;
    sample
}

impl CoreSample {
    async fn look_at_partitions(&mut self, shard: &Shard, question: &Question) {
        let core = &mut self.core;
        let mut unwritten = 0;
        let mut walk = shard.walk();
        while let Some(some) = walk.next().await {
            for partition in some {
                core.partitions += 1;
                core.offline += usize::from(partition.log().failure().is_some());
                let (rates, log) = (partition.rates(), partition.log());
                core.records_in += rates.records_in as f64;
                core.bytes_in += rates.bytes_in as f64;
                core.bytes_out += rates.bytes_out as f64;
                unwritten += log.backlog_bytes() as u64;
                if !question.finds_partition(&partition) {
                    continue;
                }
                let most = match question.order {
                    Order::Busiest => rates.bytes_in + rates.bytes_out,
                    Order::In => rates.bytes_in,
                    Order::Out => rates.bytes_out,
                    Order::Largest => log.size_bytes(),
                };
                let key = (Reverse(most), partition.topic.clone(), partition.index.0);
                self.partitions.offer(key, || Partition {
                    topic: partition.topic.to_string(),
                    partition: partition.index.0,
                    core: core.core,
                    records_in: rates.records_in,
                    bytes_in: rates.bytes_in,
                    bytes_out: rates.bytes_out,
                    size_bytes: log.size_bytes(),
                    end_offset: log.end_offset().0,
                });
            }
        }
        core.queues
            .push(queue("not yet written", "bytes", unwritten, None));
    }

    async fn look_at_connections(&mut self, shard: &Shard) {
        let all = live::all();
        self.core.connections = all.len();
        let (mut requests, mut fetches, mut produces, mut held) = (0, 0, 0, 0);
        let mut all = all.into_iter().take(WATCH_LOOKS_MAX);
        self.connections_seen = all.len();
        while all.len() > 0 {
            turn::yield_if_needed().await;
            for connection in all.by_ref().take(LOOKS_AT_ONCE) {
                let load = connection.load();
                requests += load.requests as u64;
                fetches += load.fetches as u64;
                produces += load.produces as u64;
                held += u64::from(load.at_bound);
                let known = self.clients.len() < WATCH_CLIENTS_MAX
                    || self.clients.contains_key(&load.client_id);
                if known {
                    let client = self.clients.entry(load.client_id).or_default();
                    client.connections += 1;
                    client.requests += load.requests;
                    client.fetches += load.fetches;
                }
            }
        }
        let memory = |used: usize, limit: usize| (used as u64, Some(limit as u64));
        let (received, responses) = (&shard.request_memory, &shard.response_memory);
        let budget = &shard.logs.budget;
        let others = requests.saturating_sub(fetches + produces);
        for (name, unit, (depth, limit)) in [
            ("produces in progress", "requests", (produces, None)),
            ("fetches in progress", "requests", (fetches, None)),
            ("others in progress", "requests", (others, None)),
            ("not read from", "connections", (held, None)),
            (
                "request memory",
                "bytes",
                memory(received.used(), received.limit()),
            ),
            (
                "response memory",
                "bytes",
                memory(responses.used(), responses.limit()),
            ),
            ("tail cache", "bytes", memory(budget.used(), budget.limit())),
        ] {
            self.core.queues.push(queue(name, unit, depth, limit));
        }
    }

    async fn look_at_groups(&mut self, shard: &Shard, question: &Question) {
        for partition in shard.coordinators.partitions() {
            let mut last: Option<Str> = None;
            while self.groups_seen < WATCH_LOOKS_MAX {
                let behind = last.as_deref();
                let coordinators = &shard.coordinators;
                let some = coordinators.groups_behind(partition, behind, LOOKS_AT_ONCE);
                self.groups_seen += some.len();
                let is_rest = some.len() < LOOKS_AT_ONCE;
                last = some.last().map(|group| group.id.clone());
                for group in some {
                    self.on_group(group, question);
                }
                turn::yield_if_needed().await;
                if is_rest {
                    break;
                }
            }
        }
    }

    fn on_group(&mut self, group: GroupSeen, question: &Question) {
        if question.finds(&group.id) {
            let key = (Reverse(group.members as u64), group.id.clone(), 0);
            self.groups.offer(key, || Group {
                group_id: group.id.chars().take(WATCH_NAME_CHARS_MAX).collect(),
                r#type: group.type_name.into(),
                state: group.state_name.into(),
                members: group.members,
                core: self.core.core,
            });
        }
    }
}

fn queue(queue: &str, unit: &str, depth: u64, limit: Option<u64>) -> Queue {
    Queue {
        queue: queue.into(),
        unit: unit.into(),
        depth,
        limit,
    }
}

/// What of its last second a core used, and on what.
fn of_window(core: &mut Core, window: &Window) {
    let moved = &window.moved;
    let nanos = window.nanos.max(1) as f64;
    let mut parts = [0.0; Part::ALL.len()];
    for task in &moved.tasks {
        parts[task.task.part() as usize] += task.nanos as f64;
    }
    let begun: u64 = moved.requests.iter().map(|(_, count)| count).sum();
    let timed: u64 = moved.times.iter().map(|(_, times)| times.count).sum();
    // Few of many requests are timed; the others are taken for the same.
    let decoding = moved.stages.get(Stage::Decode as usize);
    let decoding = decoding.map_or(0.0, |times| times.total_nanos as f64);
    let receiving = &mut parts[Part::Receive as usize];
    let decoding = (decoding * begun as f64 / timed.max(1) as f64).min(*receiving);
    *receiving -= decoding;
    parts[Part::Decode as usize] = decoding;
    let used = moved.cpu.as_nanos() as f64;
    let told: f64 = parts.iter().sum();
    // A task that the system keeps waiting holds the core, and uses nothing.
    let scale = if told > used { used / told } else { 1.0 };
    parts.iter_mut().for_each(|part| *part *= scale);
    parts[Part::System as usize] += (used - told).max(0.0);
    core.second = window.number;
    core.seconds = round(nanos / 1e9);
    core.utilisation = round(used / nanos);
    core.parts = parts.map(|part| round(part / nanos)).into();
    core.requests = round(begun as f64 * 1e9 / nanos);
    core.stalls = moved.tasks.iter().map(|task| task.stalls).sum();
    core.latencies = requests(&[window], APIS_TOLD);
}

/// How long requests took, those that came most first.
fn requests(windows: &[&Window], told_max: usize) -> Vec<Latency> {
    let seconds = longest(windows);
    let mut counts = BTreeMap::<i16, (u64, Distribution)>::new();
    for window in windows {
        for (key, count) in &window.moved.requests {
            counts.entry(*key).or_default().0 += count;
        }
        for (key, times) in &window.moved.times {
            counts.entry(*key).or_default().1.add(times);
        }
    }
    let mut all: Vec<_> = counts.into_iter().collect();
    all.sort_by_key(|(key, (count, _))| (Reverse(*count), *key));
    let told = all.into_iter().take(told_max);
    told.map(|(key, (count, times))| {
        let name = api::name(key).unwrap_or("unknown");
        latency(name, count as f64 / seconds, &times)
    })
    .collect()
}

fn stages_of(windows: &[&Window]) -> Vec<Latency> {
    let seconds = longest(windows);
    let told = Stage::ALL.into_iter().map(|stage| {
        let mut all = Distribution::default();
        for window in windows {
            all.add(&window.moved.stages[stage as usize]);
        }
        latency(stage.name(), all.count as f64 / seconds, &all)
    });
    told.filter(|stage| stage.timed > 0).collect()
}

fn longest(windows: &[&Window]) -> f64 {
    let nanos = windows.iter().map(|window| window.nanos).max();
    nanos.unwrap_or(1).max(1) as f64 / 1e9
}

fn latency(name: &str, rate: f64, times: &Distribution) -> Latency {
    let quantile = |share| round(times.quantile_nanos(share) as f64 / 1000.0);
    Latency {
        name: name.into(),
        rate: round(rate),
        timed: times.count,
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p99_9_us: quantile(0.999),
        max_us: round(times.longest_nanos as f64 / 1000.0),
    }
}

fn last_stalls(samples: &[CoreSample]) -> Vec<Stall> {
    let stalls = samples.iter().flat_map(|sample| {
        let stalls = sample.stalls.iter();
        stalls.map(|stall| Stall {
            core: sample.core.core,
            task: stall.task.name().into(),
            us: round(stall.nanos as f64 / 1000.0),
            at_ms: stall.at_ms,
        })
    });
    let mut stalls: Vec<Stall> = stalls.collect();
    stalls.sort_by_key(|stall| Reverse(stall.at_ms));
    stalls.truncate(STALLS_TOLD);
    stalls
}

/// To a thousandth: more is noise, and takes room.
fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn question(query: &str) -> Question {
        Question::new(&Parameters::new(query))
    }

    #[test]
    fn a_question_is_bounded_and_what_makes_no_sense_is_not_asked() {
        let asked = question("find=Orders&lines=5&sort=size");
        assert_eq!((asked.lines, asked.order), (5, Order::Largest));
        assert!(asked.finds("all-orders-7") && !asked.finds("order"));
        let odd = question("lines=99999999&sort=name&find=");
        assert_eq!((odd.lines, odd.order), (WATCH_LINES_MAX, Order::Busiest));
        assert!(odd.finds(""));
        assert_eq!(question("lines=-1").lines, LINES);
        assert!(question("find=%3Cscript").finds("a<SCRIPT>"));
    }

    #[test]
    fn the_first_of_many_are_kept_on_each_core_and_of_all() {
        let of_core = |values: &[u64]| {
            let mut top = Top::new(3);
            for value in values {
                top.offer(Reverse(*value), || *value);
            }
            top
        };
        let mut all = of_core(&[5, 1, 9, 7, 3]);
        all.add(of_core(&[8, 2]));
        let listed = all.listed(10, 7);
        assert_eq!(listed.lines, [9, 8, 7]);
        assert_eq!((listed.all, listed.looked_at, listed.found), (10, 7, 7));
        assert!(Top::<u64, u64>::new(0).lines.is_empty());
        let mut none = Top::new(0);
        none.offer(1, || 1);
        assert_eq!((none.found, none.lines.len()), (1, 0));
    }

    fn window(number: u64, cpu_ms: u64, tasks: &[(tasks::Task, u64)]) -> Window {
        let mut window = Window {
            number,
            nanos: 1_000_000_000,
            ..Window::default()
        };
        window.moved.cpu = Duration::from_millis(cpu_ms);
        window.moved.stages = vec![Distribution::default(); Stage::ALL.len()];
        let used = |(task, ms): &(tasks::Task, u64)| tasks::TaskSample {
            task: *task,
            polls: 1,
            nanos: ms * 1_000_000,
            stalls: u64::from(*ms > 1),
            worst_nanos: 0,
            worst_at_ms: 0,
            last_at_ms: 0,
        };
        window.moved.tasks = tasks.iter().map(used).collect();
        window
    }

    fn part(core: &Core, part: Part) -> f64 {
        core.parts[part as usize]
    }

    #[test]
    fn a_cores_parts_are_its_utilisation() {
        let produces = tasks::Task::RECEIVE;
        let mut busy = window(7, 500, &[(produces, 300), (tasks::Task::SEND, 100)]);
        // A tenth of the requests is timed, and was decoded for 10 ms.
        busy.moved.requests = vec![(0, 1000)];
        let timed = Distribution {
            count: 100,
            total_nanos: 10_000_000,
            longest_nanos: 200_000,
            buckets: vec![(10, 100)],
        };
        busy.moved.times = vec![(0, timed.clone())];
        busy.moved.stages[Stage::Decode as usize] = timed;
        let mut core = Core::default();
        of_window(&mut core, &busy);
        assert_eq!((core.second, core.utilisation, core.stalls), (7, 0.5, 2));
        assert_eq!(part(&core, Part::Decode), 0.1);
        assert_eq!(part(&core, Part::Receive), 0.2);
        assert_eq!(part(&core, Part::Respond), 0.1);
        assert_eq!(part(&core, Part::System), 0.1);
        assert_eq!((core.requests, core.latencies[0].timed), (1000.0, 100));
        assert_eq!(core.latencies[0].name, "Produce");

        // The system gave half of the core to somebody else.
        let mut waits = Core::default();
        of_window(&mut waits, &window(8, 200, &[(produces, 400)]));
        assert_eq!((waits.utilisation, part(&waits, Part::Receive)), (0.2, 0.2));
        assert_eq!(part(&waits, Part::System), 0.0);
    }

    #[test]
    fn cores_are_taken_together() {
        let counted = |nanos: u64| {
            let mut window = window(1, 1, &[]);
            let bucket = crate::stages::histogram::Distribution {
                count: 1,
                total_nanos: nanos,
                longest_nanos: nanos,
                buckets: vec![(nanos.ilog2() as u16 * 16, 1)],
            };
            window.moved.times = vec![(1, bucket.clone())];
            window.moved.requests = vec![(1, 10), (18, nanos)];
            window.moved.stages[Stage::Sync as usize] = bucket;
            window
        };
        let (one, other) = (counted(1 << 10), counted(1 << 20));
        let told = requests(&[&one, &other], 1);
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].name, "ApiVersions");
        let told = requests(&[&one, &other], usize::MAX);
        assert_eq!(
            (told[1].name.as_str(), told[1].rate, told[1].timed),
            ("Fetch", 20.0, 2)
        );
        let stages = stages_of(&[&one, &other]);
        assert_eq!((stages.len(), stages[0].name.as_str()), (1, "sync"));
        assert!(requests(&[], 1).is_empty() && stages_of(&[]).is_empty());
    }

    /// The longest names of signs that JSON writes as six, on as many lines as may be.
    #[test]
    fn the_lists_of_a_page_are_bounded_whatever_they_are_of() {
        let name = || "\u{1}".repeat(WATCH_NAME_CHARS_MAX);
        let mut page = Figures::default();
        for _ in 0..WATCH_LINES_MAX {
            page.clients.lines.push(Client {
                client_id: name(),
                ..Client::default()
            });
            page.groups.lines.push(Group {
                group_id: name(),
                ..Group::default()
            });
            page.partitions.lines.push(Partition {
                topic: "t".repeat(249),
                ..Partition::default()
            });
        }
        let bytes = serde_json::to_vec(&page).unwrap().len();
        assert!(bytes < 512 << 10, "{bytes}");
    }
}
