//! Owns the choice of a profile for a machine: presets, and why each value is what it is. Pure: the same facts make the same
//! profile.

use super::keys::in_words;
use super::write::Reasons;
use super::{Connections, Core, Facts, Key, Preset, Profile, Role, Roles};
use crate::cpus::CpuSet;
use crate::disk::{Point, Verdict};

const MIB: u64 = 1 << 20;

/// With fewer cores none is spared for what is no client's.
const CORES_TO_SPARE_ONE: usize = 4;

/// As many as `shared` takes of a machine without a quota that has more than two.
const SHARED_CORES_MAX: usize = 4;

/// One cold reader that gets this much of what several get together needs no more read ahead.
const READER_IS_ENOUGH: f64 = 0.7;

#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    pub profile: Profile,
    pub preset: Preset,
    reasons: Reasons,
}

impl Chosen {
    /// With every reason as a comment.
    pub fn to_toml(&self) -> String {
        self.profile.to_toml_with(&self.reasons)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChooseError {
    #[error("which CPUs this process may use cannot be told: /proc/self/status does not say it")]
    NoCpus,
    #[error("--cores {wanted}: this process may run on {usable} CPUs")]
    Cores { wanted: usize, usable: usize },
    #[error("there is no profile for this machine: {0}")]
    Machine(String),
}

/// `cores` bounds how many shards there are. Without a preset it takes `shared` where others have their part in the machine.
pub fn choose(
    facts: &Facts,
    disk: Option<&Verdict>,
    preset: Option<Preset>,
    cores: Option<usize>,
) -> Result<Chosen, ChooseError> {
    let usable = facts.usable.len();
    if usable == 0 {
        return Err(ChooseError::NoCpus);
    }
    if let Some(wanted) = cores.filter(|wanted| *wanted == 0 || *wanted > usable) {
        return Err(ChooseError::Cores { wanted, usable });
    }
    let (preset, why) = match preset {
        Some(preset) => (preset, "as it was asked for".to_owned()),
        None => preset_for(facts),
    };
    let mut choice = Choice {
        facts,
        disk,
        preset,
        reasons: Reasons::default(),
    };
    choice.head();
    choice.because(None, "preset", why);
    let cpus = choice.cpus(cores);
    let mut profile = choice.whole(cpus);
    choice.memory(&mut profile);
    choice.numbers(&mut profile);
    let reasons = choice.reasons;
    profile
        .check(facts)
        .map_err(|fault| ChooseError::Machine(fault.reason))?;
    Ok(Chosen {
        profile,
        preset,
        reasons,
    })
}

fn preset_for(facts: &Facts) -> (Preset, String) {
    match facts.quota {
        Some(quota) => (
            Preset::Shared,
            format!(
                "shared, as a control group allows {:.2} CPUs' time: a core that spins would use it up",
                quota.cpus
            ),
        ),
        None if facts.usable.len() <= 2 => (
            Preset::Shared,
            format!(
                "shared, as the kernel and all other programs need their part of {} usable CPUs",
                facts.usable.len()
            ),
        ),
        None => (
            Preset::Throughput,
            "throughput, as nothing bounds the CPUs' time; --preset latency or shared chooses another".into(),
        ),
    }
}

struct Choice<'a> {
    facts: &'a Facts,
    disk: Option<&'a Verdict>,
    preset: Preset,
    reasons: Reasons,
}

impl Choice<'_> {
    fn because(&mut self, cpu: Option<u32>, key: &'static str, reason: impl Into<String>) {
        self.reasons.give(cpu, key, reason);
    }

    fn head(&mut self) {
        let facts = self.facts;
        let mut machine = format!("Machine: CPUs {} usable", facts.usable);
        if facts.usable != facts.online && !facts.online.is_empty() {
            machine += &format!(" of {}", facts.online);
        }
        machine += &format!(", {} physical cores", facts.physical.len());
        if facts.nodes.len() > 1 {
            machine += &format!(", {} memory nodes", facts.nodes.len());
        }
        if let Some((bytes, whose)) = facts.memory() {
            machine += &format!("; {whose} {} MiB of memory", bytes / MIB);
        }
        for taken in &facts.interrupts {
            machine += &format!("; {} interrupts CPUs {}", taken.device, taken.cpus);
        }
        let disk = match self.disk {
            Some(_) => "The disk's figures are of `coati tune disk`.",
            None => {
                "The disk was not measured: `coati tune disk DIR --json=disk.json`, then `coati tune profile --disk disk.json`."
            }
        };
        self.reasons.head = vec![
            "What each core of a Coati broker is for, and how much it may take: `coati start --profile FILE`. Written by `coati tune profile`.".into(),
            machine + ".",
            disk.into(),
            "A broker's setting that is given (log.tail.cache.bytes, queued.max.request.bytes) wins over what is said here.".into(),
        ];
    }

    /// Those of shards, the one that leads first.
    fn cpus(&mut self, cores: Option<usize>) -> Vec<u32> {
        let facts = self.facts;
        let (first, others) = self.ranked();
        let most = match self.preset {
            Preset::Throughput => facts.usable.len(),
            Preset::Latency => first.len(),
            Preset::Shared => shared_cores(facts),
        };
        let count = cores
            .unwrap_or(most)
            .min(facts.usable.len())
            .min(super::CORES_MAX);
        let mut cpus: Vec<u32> = first.into_iter().chain(others).take(count).collect();
        let interrupted = self.interrupted();
        if self.spares_one(&cpus) {
            // Where interrupts arrive anyway.
            let at = cpus
                .iter()
                .position(|cpu| interrupted.contains(*cpu))
                .unwrap_or(0);
            cpus[..=at].rotate_right(1);
        } else {
            cpus.sort_unstable();
            let at = cpus
                .iter()
                .position(|cpu| !interrupted.contains(*cpu))
                .unwrap_or(0);
            cpus[..=at].rotate_right(1);
        }
        cpus
    }

    /// One thread of each physical core, those beside the disk first, and of these those that take no interrupts; and the other
    /// threads.
    fn ranked(&self) -> (Vec<u32>, Vec<u32>) {
        let facts = self.facts;
        let thread = |core: &CpuSet| core.iter().next();
        let mut first: Vec<u32> = facts.physical.iter().filter_map(thread).collect();
        let interrupted = self.interrupted();
        let is_far = |cpu| facts.disk_node.is_some() && facts.node_of(cpu) != facts.disk_node;
        first.sort_by_key(|cpu| (is_far(*cpu), interrupted.contains(*cpu), *cpu));
        let others = facts
            .usable
            .iter()
            .filter(|cpu| !first.contains(cpu))
            .collect();
        (first, others)
    }

    fn interrupted(&self) -> CpuSet {
        let all = self.facts.interrupts.iter();
        all.fold(CpuSet::default(), |all, taken| all.with(&taken.cpus))
    }

    /// Whether the first core has nothing of the clients'.
    fn spares_one(&self, cpus: &[u32]) -> bool {
        self.preset == Preset::Latency && cpus.len() >= CORES_TO_SPARE_ONE
    }

    fn whole(&mut self, cpus: Vec<u32>) -> Profile {
        let clients = || Roles::NONE.with(Role::Network).with(Role::Partitions);
        let leads = || Roles::NONE.with(Role::Background).with(Role::Controller);
        let spares_one = self.spares_one(&cpus);
        let count = cpus.len();
        let spins = spares_one && self.facts.quota.is_none();
        let many_nodes = self.facts.nodes.len() > 1;
        let mut cores: Vec<Core> = Vec::new();
        for (place, cpu) in cpus.iter().copied().enumerate() {
            let roles = match place {
                0 if spares_one => leads(),
                0 => Roles::all(),
                _ => clients(),
            };
            cores.push(Core {
                cpu,
                node: self.facts.node_of(cpu).filter(|_| many_nodes),
                roles,
                stay_awake: spins && !roles.has(Role::Controller),
                ..Core::default()
            });
        }
        cores.sort_by_key(|core| core.cpu);
        let shards: CpuSet = cpus.iter().copied().collect();
        self.of_cpus(&shards, count, cpus[0], spares_one);
        for core in &cores {
            let why = match core.stay_awake {
                true => {
                    "it looks for work all the time instead of sleeping: saves waking up (15 to 40 us) and takes all of the CPU"
                }
                false if self.preset == Preset::Shared => {
                    "it sleeps when there is nothing to do: others want the CPU"
                }
                false => "it sleeps when there is nothing to do",
            };
            self.because(Some(core.cpu), "stay_awake", why);
            self.because(
                Some(core.cpu),
                "node",
                "its memory comes from the node beside it",
            );
        }
        self.left_free(&shards, &mut cores);
        Profile {
            preset: Some(self.preset),
            connections: self.connections(),
            irq_free_cpus: self.irq_free(&shards, cpus[0], spares_one),
            cores,
        }
    }

    /// Why there are so many, and what the first does.
    fn of_cpus(&mut self, shards: &CpuSet, count: usize, leader: u32, spares_one: bool) {
        let first = shards.iter().next();
        let of = match self.preset {
            Preset::Throughput => {
                "every CPU that is to be the broker's has a shard with connections and partitions"
            }
            Preset::Latency => {
                "one thread of each physical core, so that no shard waits for its sibling"
            }
            Preset::Shared => "few cores, so that there is something left for others",
        };
        let quota = match (self.preset, self.facts.quota) {
            (Preset::Shared, Some(quota)) => format!(" ({:.2} CPUs' time)", quota.cpus),
            _ => String::new(),
        };
        let shards = if count == 1 { "shard" } else { "shards" };
        self.because(first, "core", format!("{count} {shards}: {of}{quota}."));
        let role = match spares_one {
            true => {
                "the controller, checkpoints and the admin endpoint have a core of their own, where interrupts may arrive: no client waits for them"
            }
            false => {
                "it has the controller, the checkpoints and the admin endpoint as well: they are little work"
            }
        };
        self.because(Some(leader), "roles", role);
    }

    /// Usable CPUs without a shard are named, so that it is seen that they were thought of.
    fn left_free(&mut self, shards: &CpuSet, cores: &mut Vec<Core>) {
        for cpu in self.facts.usable.without(shards).iter() {
            let siblings = self.facts.physical.iter().find(|core| core.contains(cpu));
            let is_sibling = siblings.is_some_and(|core| !core.common(shards).is_empty());
            let why = match is_sibling {
                true => "left free: a thread of a physical core that has a shard",
                false => "left free: for interrupts, the kernel and other programs",
            };
            self.because(Some(cpu), "core", why);
            cores.push(Core {
                cpu,
                node: None,
                ..Core::default()
            });
        }
    }

    fn connections(&mut self) -> Connections {
        let (connections, why) = match self.preset {
            Preset::Latency => (
                Connections::Partitions,
                "a connection begins on the core with the fewest; one whose requests are all for partitions or group coordinators of one other core moves there, as each crossing costs some 20 us (\"home\" moves it for coordinators alone, \"least\" leaves it)",
            ),
            Preset::Throughput | Preset::Shared => (
                Connections::Home,
                "a connection begins on the core with the fewest; one that asks only the group coordinators of another core moves there (\"partitions\" moves it also where all its records are, \"least\" leaves it)",
            ),
        };
        self.because(None, "connections", why);
        connections
    }

    fn irq_free(&mut self, shards: &CpuSet, leader: u32, spares_one: bool) -> CpuSet {
        let leads: CpuSet = [leader].into_iter().collect();
        let others = self.facts.online.without(shards);
        let (cpus, why) = if self.facts.quota.is_some() || self.preset == Preset::Shared {
            (
                CpuSet::default(),
                "none: interrupts are the machine's, of which the broker has a part",
            )
        } else if !others.is_empty() {
            (
                shards.clone(),
                "those of all shards, as there are others: `sudo coati tune apply --profile FILE` moves the interrupts of disks and network cards away, where the kernel lets it",
            )
        } else if spares_one {
            (
                shards.without(&leads),
                "those of all shards but the first: `sudo coati tune apply --profile FILE` moves the interrupts of disks and network cards there, where the kernel lets it",
            )
        } else {
            (
                CpuSet::default(),
                "none: every CPU has a shard, and some have to take the interrupts",
            )
        };
        self.because(None, "irq_free_cpus", why);
        cpus
    }

    fn memory(&mut self, profile: &mut Profile) {
        let Some((available, whose)) = self.facts.memory() else {
            return;
        };
        let count = |role| {
            profile
                .shards()
                .iter()
                .filter(|core| core.roles.has(role))
                .count() as u64
        };
        let (with_partitions, with_network) = (count(Role::Partitions), count(Role::Network));
        // Of the memory, and of one core between these.
        let (part, tails, networks) = match self.preset {
            Preset::Throughput | Preset::Latency => (8, (32, 512), (48, 384)),
            Preset::Shared => (32, (16, 64), (24, 96)),
        };
        let share = |cores: u64, bounds: (u64, u64)| {
            let share = available / part / cores.max(1) / MIB;
            share.clamp(bounds.0, bounds.1) * MIB
        };
        // Small machines with many cores: a half of the memory stays with the system.
        let fitting = |bytes: u64, cores: u64, least: u64| {
            let most = available / 4 / cores.max(1) / MIB * MIB;
            bytes.min(most).max(least)
        };
        let least = |name| Key::named(name).expect("a key of the table").least;
        let tail = fitting(
            share(with_partitions, tails),
            with_partitions,
            least("tail_cache_bytes"),
        );
        let network = fitting(
            share(with_network, networks),
            with_network,
            least("network_bytes"),
        );
        let of_memory = |bytes: u64| {
            format!(
                "{} a core; {whose} {} MiB",
                in_words(bytes),
                available / MIB
            )
        };
        for core in &mut profile.cores {
            if core.roles.has(Role::Partitions) {
                core.tail_cache_bytes = Some(tail);
                let why = format!(
                    "{}: what was written last, which readers near the end get without the disk",
                    of_memory(tail)
                );
                self.reasons.give(Some(core.cpu), "tail_cache_bytes", why);
            }
            if core.roles.has(Role::Network) {
                core.network_bytes = Some(network);
                let why = format!(
                    "{}: two thirds for requests that are not answered, a third for answers that are not taken",
                    of_memory(network)
                );
                self.reasons.give(Some(core.cpu), "network_bytes", why);
            }
        }
    }

    fn numbers(&mut self, profile: &mut Profile) {
        let writes = self.writes();
        let read_ahead = self.read_ahead();
        let turn = match self.preset {
            Preset::Latency => (
                200,
                "a task with more to do lets others run after 0.2 ms: they are sooner served, at somewhat more changes",
            ),
            Preset::Throughput | Preset::Shared => (
                500,
                "a task with more to do lets others run after half a millisecond",
            ),
        };
        let cleaner = match self.preset {
            Preset::Throughput => (20, "compaction has a fifth of the core at most"),
            Preset::Latency | Preset::Shared => (10, "compaction has a tenth of the core at most"),
        };
        let values = [
            ("preempt_us", turn.0, turn.1.to_owned()),
            ("cleaner_percent", cleaner.0, cleaner.1.to_owned()),
            ("write_bytes", writes.0, writes.2.clone()),
            ("write_depth", writes.1, "writes of one partition that the disk has at a time; a second begins only when a quarter of the former has come".into()),
            ("read_ahead_bytes", read_ahead.0, read_ahead.1),
        ];
        for core in profile
            .cores
            .iter_mut()
            .filter(|core| !core.roles.is_empty())
        {
            for (name, value, why) in &values {
                let key = Key::named(name).expect("a key of the table");
                if key.is_for(core.roles) {
                    (key.set)(core, Some(*value));
                    self.reasons.give(Some(core.cpu), key.name, why.clone());
                }
            }
        }
    }

    /// Bytes, depth, and why.
    fn writes(&self) -> (u64, u64, String) {
        let saturation = self.disk.and_then(|disk| match self.preset {
            Preset::Latency => disk.synced_saturation.or(disk.write_saturation),
            Preset::Throughput | Preset::Shared => disk.write_saturation,
        });
        let (least, most, without) = match self.preset {
            Preset::Throughput => (2 * MIB, 8 * MIB, 2 * MIB),
            Preset::Latency => (MIB, 2 * MIB, MIB),
            // A core that does all has work for each write.
            Preset::Shared => (2 * MIB, 4 * MIB, 2 * MIB),
        };
        let Some(Point {
            bytes,
            depth,
            mb_per_second,
            ..
        }) = saturation
        else {
            let why = match self.preset {
                Preset::Latency => {
                    "a group of waiting batches is written as one, of 1 MiB at most: what comes behind it waits less"
                }
                Preset::Throughput | Preset::Shared => {
                    "a group of waiting batches is written as one, of 2 MiB at most: enough for most disks"
                }
            };
            return (without, 2, why.into());
        };
        let in_flight = (bytes * depth) as u64;
        let depth = (depth as u64).clamp(2, 4);
        let group = (in_flight / depth).next_power_of_two().clamp(least, most);
        let why = format!(
            "{} in flight are enough for this disk ({mb_per_second:.0} MB/s); a group of waiting batches is written as one, of {} at most",
            in_words(in_flight),
            in_words(group)
        );
        (group, depth, why)
    }

    fn read_ahead(&self) -> (u64, String) {
        const KIB: u64 = 1 << 10;
        if self.preset == Preset::Latency {
            let why = "one cold read takes 128 KiB from the disk: a write that comes meanwhile waits so long";
            return (128 * KIB, why.into());
        }
        let readers = self.disk.and_then(|disk| disk.one_reader.zip(disk.readers));
        match readers {
            Some((one, most)) if one.mb_per_second < READER_IS_ENOUGH * most.mb_per_second => (
                512 * KIB,
                format!(
                    "one cold reader gets {:.0} MB/s by 256 KiB, {} together {:.0}: with more at a time one gets more, and a write that comes meanwhile waits longer",
                    one.mb_per_second, most.load.readers, most.mb_per_second
                ),
            ),
            Some((one, _)) => (
                256 * KIB,
                format!(
                    "one cold reader gets {:.0} MB/s by 256 KiB, which is nearly all there is",
                    one.mb_per_second
                ),
            ),
            None => (
                256 * KIB,
                "one cold read takes 256 KiB from the disk: a write that comes meanwhile waits so long".into(),
            ),
        }
    }
}

/// Of a quota as many whole CPUs as it has, of two CPUs both, of more a half.
fn shared_cores(facts: &Facts) -> usize {
    let usable = facts.usable.len();
    match facts.quota {
        Some(quota) => (quota.cpus as usize).clamp(1, usable),
        None if usable <= 2 => usable,
        None => (usable / 2).min(SHARED_CORES_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::Quota;
    use crate::profile::facts::Taken;
    use crate::profile::parse;

    fn cpus(list: &str) -> CpuSet {
        CpuSet::from_list(list).unwrap()
    }

    fn server(cpu_list: &str) -> Facts {
        let usable = cpus(cpu_list);
        Facts {
            online: usable.clone(),
            physical: usable
                .iter()
                .map(|cpu| [cpu].into_iter().collect())
                .collect(),
            nodes: vec![(0, usable.clone())],
            usable,
            memory_bytes: Some(16 << 30),
            ..Facts::default()
        }
    }

    fn chosen(facts: &Facts, preset: Option<Preset>) -> Chosen {
        let chosen = choose(facts, None, preset, None).unwrap();
        let text = chosen.to_toml();
        assert_eq!(parse(&text), Ok(chosen.profile.clone()), "{text}");
        chosen
    }

    #[test]
    fn a_part_of_a_machine_is_shared() {
        assert_eq!(chosen(&server("0-3"), None).preset, Preset::Throughput);
        assert_eq!(chosen(&server("0-1"), None).preset, Preset::Shared);
        let quota = Facts {
            quota: Some(Quota {
                cpus: 2.5,
                period_ms: 100,
            }),
            ..server("0-7")
        };
        let shared = chosen(&quota, None);
        assert_eq!(shared.preset, Preset::Shared);
        assert_eq!(shared.profile.cpus(), cpus("0-1"));
        assert_eq!(
            chosen(&server("0-15"), Some(Preset::Shared)).profile.cpus(),
            cpus("0-3")
        );
    }

    #[test]
    fn latency_spares_a_core_where_there_are_enough() {
        let mut facts = server("0-7");
        facts.physical = (0..4)
            .map(|cpu| [cpu, cpu + 4].into_iter().collect())
            .collect();
        facts.interrupts = vec![Taken {
            device: "nvme0n1".into(),
            cpus: cpus("2"),
            movable: cpus("2"),
        }];
        let profile = chosen(&facts, Some(Preset::Latency)).profile;
        let leader = profile.shards()[0];
        assert_eq!(
            (leader.cpu, leader.roles.to_string()),
            (2, "background, controller".into())
        );
        assert!(!leader.stay_awake && leader.tail_cache_bytes.is_none());
        assert_eq!(profile.cpus(), cpus("0-3"));
        assert!(
            profile.shards()[1..]
                .iter()
                .all(|core| core.stay_awake && !core.roles.has(Role::Background))
        );
        // There are siblings to take them.
        assert_eq!(profile.irq_free_cpus, cpus("0-3"));
        let profile = chosen(&server("0-3"), Some(Preset::Latency)).profile;
        assert_eq!(profile.irq_free_cpus, cpus("1-3"));
        let profile = chosen(&server("0-2"), Some(Preset::Latency)).profile;
        assert!(
            profile
                .cores
                .iter()
                .all(|core| !core.stay_awake && core.roles.has(Role::Partitions))
        );
    }

    #[test]
    fn memory_bounds_the_budgets() {
        let of = |memory: u64, list: &str| {
            let facts = Facts {
                memory_bytes: Some(memory),
                ..server(list)
            };
            choose(&facts, None, Some(Preset::Throughput), None)
        };
        let core = |chosen: Result<Chosen, ChooseError>| {
            let profile = chosen.unwrap().profile;
            let budgets = [
                profile.cores[0].tail_cache_bytes,
                profile.cores[0].network_bytes,
            ];
            budgets.map(|bytes| bytes.unwrap() / MIB)
        };
        assert_eq!(core(of(16 << 30, "0-3")), [512, 384]);
        assert_eq!(core(of(4 << 30, "0-3")), [128, 128]);
        assert_eq!(core(of(1 << 30, "0-3")), [32, 48]);
        assert_eq!(core(of(512 << 20, "0-3")), [32, 32]);
        assert_eq!(core(of(64 << 20, "0-3")), [8, 6]);
        let told = of(40 << 20, "0-3").unwrap_err().to_string();
        assert!(
            told.starts_with(
                "there is no profile for this machine: the budgets of all cores come to"
            ),
            "{told}"
        );
        let facts = Facts {
            memory_limit: Some(4 << 30),
            ..server("0-3")
        };
        assert_eq!(
            core(choose(&facts, None, Some(Preset::Throughput), None)),
            [128, 128]
        );
    }

    #[test]
    fn the_disks_figures_say_how_much_is_written_at_a_time() {
        let point = |bytes, depth| {
            Some(Point {
                bytes,
                depth,
                mb_per_second: 2000.0,
                per_second: 1.0,
                p50_ms: 1.0,
                p99_ms: 1.0,
            })
        };
        let writes = |preset, saturation: Option<Point>| {
            let disk = Verdict {
                write_saturation: saturation,
                ..Verdict::default()
            };
            let chosen = choose(&server("0-3"), Some(&disk), Some(preset), None).unwrap();
            let core = chosen.profile.shards()[1].clone();
            (core.write_bytes.unwrap() / MIB, core.write_depth.unwrap())
        };
        assert_eq!(writes(Preset::Throughput, None), (2, 2));
        assert_eq!(writes(Preset::Throughput, point(64 << 10, 1)), (2, 2));
        assert_eq!(writes(Preset::Throughput, point(1 << 20, 16)), (4, 4));
        assert_eq!(writes(Preset::Throughput, point(16 << 20, 16)), (8, 4));
        assert_eq!(writes(Preset::Latency, point(64 << 10, 4)), (1, 4));
        assert_eq!(writes(Preset::Latency, point(1 << 20, 16)), (2, 4));
    }

    #[test]
    fn cores_bound_the_shards() {
        let chosen = choose(&server("0-7"), None, None, Some(3)).unwrap();
        assert_eq!(chosen.profile.cpus(), cpus("0-2"));
        assert_eq!(chosen.profile.irq_free_cpus, cpus("0-2"));
        assert_eq!(chosen.profile.cores.len(), 8);
        let error = choose(&server("0-1"), None, None, Some(3)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "--cores 3: this process may run on 2 CPUs"
        );
        let error = choose(&Facts::default(), None, None, None).unwrap_err();
        assert_eq!(error, ChooseError::NoCpus);
    }
}
