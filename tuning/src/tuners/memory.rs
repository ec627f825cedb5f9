//! Owns tuners of memory: its nodes, swapping, huge pages, dirty pages, DAMON.

use crate::cpus::CpuSet;
use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable, if_there};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

use super::bytes;

/// Dirty pages at which the kernel begins to write, and at which it makes writers wait.
const DIRTY_BACKGROUND_BYTES_MAX: u64 = 1 << 30;
const DIRTY_BYTES_MAX: u64 = 4 << 30;

/// What enabled and defrag may be.
const HUGE_PAGES: [&str; 5] = ["always", "defer", "defer+madvise", "madvise", "never"];

const SWAPPINESS_MAX: u64 = 10;
const SWAPPINESS: u64 = 1;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "numa-balancing",
        area: Area::Memory,
        title: "automatic NUMA balancing (kernel.numa_balancing)",
        needs: "0 on a machine of several memory nodes",
        cost: "the kernel takes pages away from time to time to see who touches them: page faults and TLB flushes for shards that are pinned and have their memory beside them anyway",
        source: "Documentation/admin-guide/sysctl/kernel.rst (numa_balancing)",
        check: balancing,
    },
    Tuner {
        name: "numa-policy",
        area: Area::Memory,
        title: "memory policy of the process",
        needs: "the default, local: each shard's memory comes from the node of its CPU; or bound to the node of all its CPUs",
        cost: "memory of another node takes half as long again to reach, or longer, for each record that is copied",
        source: "Documentation/admin-guide/mm/numa_memory_policy.rst",
        check: policy,
    },
    Tuner {
        name: "numa-nodes",
        area: Area::Memory,
        title: "memory nodes of the broker, its disks and network cards",
        needs: "shards, disks and network cards on one node, or a broker for each",
        cost: "requests between shards, and what the devices read and write, cross the link between the nodes",
        source: "Documentation/admin-guide/mm/numaperf.rst",
        check: nodes,
    },
    Tuner {
        name: "zone-reclaim",
        area: Area::Memory,
        title: "reclaim of one node's memory (vm.zone_reclaim_mode)",
        needs: "0",
        cost: "a shard that wants a page waits while the kernel drops pages of its node, though another node has free ones",
        source: "Documentation/admin-guide/sysctl/vm.rst (zone_reclaim_mode)",
        check: zone_reclaim,
    },
    Tuner {
        name: "swappiness",
        area: Area::Memory,
        title: "swapping (vm.swappiness)",
        needs: "10 at the most, or no swap space",
        cost: "reading old records fills the page cache, for which the kernel swaps out the broker's memory: a shard that touches it stands still until the disk has brought it back, 0.1 to 10 ms",
        source: "Documentation/admin-guide/sysctl/vm.rst (swappiness)",
        check: swappiness,
    },
    Tuner {
        name: "transparent-hugepages",
        area: Area::Memory,
        title: "transparent huge pages",
        needs: "enabled on madvise; defrag on madvise, or never",
        cost: "with always, any process's page fault may wait until the kernel has made 2 MiB of room, and khugepaged takes CPU; with never, Coati's tail caches are of small pages: one partition takes in about a fifth less",
        source: "Documentation/admin-guide/mm/transhuge.rst",
        check: huge_pages,
    },
    Tuner {
        name: "dirty-pages",
        area: Area::Memory,
        title: "dirty pages (vm.dirty_background_*, vm.dirty_*)",
        needs: "writing begins at 1 GiB or 1 % of memory, and writers wait at 4 GiB or 2 %",
        cost: "Coati's segments are written past the page cache; but ext4 and xfs sync their journal for all, so an acks=all waits for what others (backups, log files, a broker of another kind) have left dirty",
        source: "Documentation/admin-guide/sysctl/vm.rst (dirty_background_bytes and following)",
        check: dirty_pages,
    },
    Tuner {
        name: "damon",
        area: Area::Memory,
        title: "DAMON (damon_reclaim, damon_lru_sort, kdamond)",
        needs: "off",
        cost: "a kernel thread samples what memory is used and takes away what it finds cold: the tail cache's older part and the page cache, which then come from the disk",
        source: "Documentation/admin-guide/mm/damon/reclaim.rst",
        check: damon,
    },
];

fn balancing(machine: &Machine) -> Read<Finding> {
    let nodes = machine.nodes()?.len();
    if nodes < 2 {
        return Ok(Finding::absent("one memory node"));
    }
    let path = "/proc/sys/kernel/numa_balancing";
    let mode: u64 = machine.root.number(path)?;
    let changes = match mode {
        0 => Vec::new(),
        _ => vec![Change::new(path, Form::Words, 0)],
    };
    let has = format!("{mode}, with {nodes} memory nodes");
    Ok(Finding::by_changes(Verdict::Warning, has, changes))
}

/// A process starts with the policy of who starts it, as numactl gives it.
fn policy(machine: &Machine) -> Read<Finding> {
    if machine.nodes()?.len() < 2 {
        return Ok(Finding::absent("one memory node"));
    }
    let path = "/proc/self/numa_maps";
    let text = machine.root.text(path)?;
    let malformed = || Unreadable::malformed(path, &text, "memory policies");
    let mut words = text.lines().next().unwrap_or_default().split(' ');
    let policy = words.nth(1).ok_or_else(malformed)?;
    // Modes may have flags: bind=static:0.
    let (mode, nodes) = policy.split_once(':').unwrap_or((policy, ""));
    let kind = mode.split('=').next().unwrap_or(mode);
    let is_local = matches!(kind, "default" | "local");
    if !is_local && !matches!(kind, "bind" | "prefer" | "interleave") {
        return Err(malformed());
    }
    if is_local {
        return Ok(Finding::good(format!(
            "{kind}, nodes {} allowed",
            machine.status("Mems_allowed_list")?
        )));
    }
    let near = nodes_of_broker(machine)?;
    // Numbers of nodes, in the spelling of CPUs.
    let bound = CpuSet::from_list(nodes).ok_or_else(malformed)?;
    if kind != "interleave" && near.without(&bound).is_empty() {
        return Ok(Finding::good(policy));
    }
    Ok(Finding::new(
        Verdict::Warning,
        format!("{policy}, while the broker's CPUs are of node {near}"),
    )
    .advise(format!(
        "start it with `numactl --cpunodebind={near} --localalloc`, or NUMAPolicy=local in the unit"
    )))
}

/// As a set of numbers.
fn nodes_of_broker(machine: &Machine) -> Read<CpuSet> {
    let broker = machine.broker.clone()?;
    let nodes = machine.nodes()?;
    let near = nodes
        .iter()
        .filter(|(_, cpus)| !cpus.common(&broker).is_empty());
    Ok(near.map(|(node, _)| *node).collect())
}

fn nodes(machine: &Machine) -> Read<Finding> {
    let nodes = machine.nodes()?;
    if nodes.len() < 2 {
        return Ok(Finding::absent("one memory node"));
    }
    let broker = nodes_of_broker(machine)?;
    let mut has = vec![format!("broker on {broker}")];
    let mut away = Vec::new();
    let disks = machine.disks.clone().unwrap_or_default();
    let nics = machine.nics.clone().unwrap_or_default();
    let devices = disks.iter().map(|disk| (&disk.name, &disk.node));
    let devices = devices.chain(nics.iter().map(|nic| (&nic.name, &nic.node)));
    let mut nearest = None;
    for (name, node) in devices {
        let Some(node) = node.clone()? else { continue };
        nearest = nearest.or(Some(node));
        has.push(format!("{name} on {node}"));
        if broker.len() == 1 && !broker.contains(node) {
            away.push(name.clone());
        }
    }
    let has = format!("nodes: {}", has.join(", "));
    if broker.len() == 1 && away.is_empty() {
        return Ok(Finding::good(has));
    }
    let node = nearest.unwrap_or(0);
    let cpus = nodes
        .iter()
        .find(|(of, _)| *of == node)
        .map(|(_, cpus)| cpus.to_string());
    let cpus = cpus.unwrap_or_default();
    Ok(Finding::new(Verdict::Hint, has).advise(format!(
        "`numactl --cpunodebind={node} --localalloc coati start`, or in the unit CPUAffinity={cpus} and NUMAPolicy=local; a second broker for the other node's disks"
    )))
}

fn zone_reclaim(machine: &Machine) -> Read<Finding> {
    let path = "/proc/sys/vm/zone_reclaim_mode";
    let mode: u64 = machine.root.number(path)?;
    let changes = match mode {
        0 => Vec::new(),
        _ => vec![Change::new(path, Form::Words, 0)],
    };
    Ok(Finding::by_changes(
        Verdict::Warning,
        mode.to_string(),
        changes,
    ))
}

fn swappiness(machine: &Machine) -> Read<Finding> {
    // A line a swap space, under a heading.
    let swaps = machine.root.text("/proc/swaps")?;
    if !swaps.starts_with("Filename") {
        return Err(Unreadable::malformed(
            "/proc/swaps",
            &swaps,
            "a table of swap spaces",
        ));
    }
    let path = "/proc/sys/vm/swappiness";
    let swappiness: u64 = machine.root.number(path)?;
    let spaces = swaps.lines().count() - 1;
    let changes = match spaces > 0 && swappiness > SWAPPINESS_MAX {
        true => vec![Change::new(path, Form::Words, SWAPPINESS)],
        false => Vec::new(),
    };
    let has = match spaces {
        0 => format!("{swappiness}, no swap space"),
        _ => format!("{swappiness}, swap spaces: {spaces}"),
    };
    Ok(Finding::by_changes(Verdict::Warning, has, changes))
}

/// The broker asks for them where they pay, in its tail caches; for all else, its heap as well, they cost memory and waits.
fn huge_pages(machine: &Machine) -> Read<Finding> {
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for name in ["enabled", "defrag"] {
        let path = format!("/sys/kernel/mm/transparent_hugepage/{name}");
        let choice = machine.root.choice(&path, &HUGE_PAGES)?;
        has.push(format!("{name} {choice}"));
        if choice == "always" || (name, &*choice) == ("enabled", "never") {
            changes.push(Change::new(path, Form::Choice, "madvise"));
        }
    }
    Ok(Finding::by_changes(Verdict::Hint, has.join(", "), changes))
}

/// Each bound is set in bytes or in per cent, whichever was written last; it stays in what it is set in, as the
/// kernel forgets the other.
fn dirty_pages(machine: &Machine) -> Read<Finding> {
    let memory = machine.memory("MemTotal")?;
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for (name, said, wanted) in [
        (
            "dirty_background",
            "writing begins",
            DIRTY_BACKGROUND_BYTES_MAX,
        ),
        ("dirty", "writers wait", DIRTY_BYTES_MAX),
    ] {
        let path = |unit| format!("/proc/sys/vm/{name}_{unit}");
        let limit: u64 = machine.root.number(&path("bytes"))?;
        if limit > 0 {
            has.push(format!("{said} at {}", bytes(limit)));
            if limit > wanted {
                changes.push(Change::new(path("bytes"), Form::Words, wanted));
            }
            continue;
        }
        let ratio: u64 = machine.root.number(&path("ratio"))?;
        let limit = u128::from(memory) * u128::from(ratio) / 100;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        has.push(format!("{said} at {ratio} % ({} of memory)", bytes(limit)));
        let least = if name == "dirty" { 2 } else { 1 };
        let wanted = (u128::from(wanted) * 100 / u128::from(memory.max(1))).max(least);
        if u128::from(ratio) > wanted {
            changes.push(Change::new(path("ratio"), Form::Words, wanted));
        }
    }
    Ok(Finding::by_changes(Verdict::Hint, has.join(", "), changes))
}

fn damon(machine: &Machine) -> Read<Finding> {
    let mut has = Vec::new();
    let mut changes = Vec::new();
    let mut verdict = Verdict::Good;
    for (module, bad) in [
        ("damon_reclaim", Verdict::Warning),
        ("damon_lru_sort", Verdict::Hint),
    ] {
        let path = format!("/sys/module/{module}/parameters/enabled");
        let Some(enabled) = if_there(machine.root.text(&path))? else {
            continue;
        };
        match enabled.as_str() {
            "N" => has.push(format!("{module} off")),
            "Y" => {
                has.push(format!("{module} on"));
                verdict = verdict.max(bad);
                changes.push(Change::new(path, Form::Words, "N"));
            }
            _ => return Err(Unreadable::malformed(&path, &enabled, "Y or N")),
        }
    }
    // Threads that somebody has set up by hand.
    let folder = "/sys/kernel/mm/damon/admin/kdamonds";
    let mut running = 0;
    for thread in if_there(machine.root.numbered(folder, ""))?.unwrap_or_default() {
        let state = machine.root.text(&format!("{folder}/{thread}/state"))?;
        match state.as_str() {
            "on" => running += 1,
            "off" => {}
            _ => return Err(Unreadable::malformed(folder, &state, "on or off")),
        }
    }
    if running > 0 {
        has.push(format!("{running} kdamond running"));
        verdict = verdict.max(Verdict::Hint);
    }
    if has.is_empty() {
        return Ok(Finding::absent("the kernel runs none"));
    }
    let finding = Finding {
        changes,
        ..Finding::new(verdict, has.join(", "))
    };
    Ok(match running {
        0 => finding,
        _ => finding.advise(format!(
            "whoever set up {folder} knows why; writing off to its state stops it"
        )),
    })
}
