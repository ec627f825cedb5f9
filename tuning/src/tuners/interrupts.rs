//! Owns tuners of where interrupts of disks and network cards arrive, against the CPUs that the broker's shards hold.

use crate::cpus::CpuSet;
use crate::devices::{Disk, Interrupt, Nic};
use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable, if_there};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

use super::cpus_named;

/// A card with so many queues has enough for any broker.
const QUEUES_ENOUGH: usize = 8;

/// As Documentation/networking/scaling.rst has it for a server of some size; a power of two.
const FLOWS: usize = 32_768;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "disk-interrupts",
        area: Area::Disk,
        title: "CPUs that take the disk's interrupts",
        needs: "a queue with its interrupt for each shard's CPU; or, of fewer queues, on CPUs that have no shard",
        cost: "a direct write that completes is finished by a kworker on the CPU that took the interrupt, wherever the broker runs (seen on Linux 6.18): the shard on that CPU pays for the writes of all",
        source: "Documentation/core-api/irq/irq-affinity.rst",
        check: disk_interrupts,
    },
    Tuner {
        name: "disk-completion",
        area: Area::Disk,
        title: "CPU that completes a request of the disk (rq_affinity)",
        needs: "2 (the CPU that asked) where shards share the disk's queues and their interrupts arrive on a shard's CPU",
        cost: "with 0 or 1 the CPU that took the interrupt also completes the requests of shards that share its cache (measured on 6.18: all of them with 1, none with 2, which took one write after another 6 % longer)",
        source: "Documentation/ABI/stable/sysfs-block (rq_affinity)",
        check: disk_completion,
    },
    Tuner {
        name: "nic-queues",
        area: Area::Network,
        title: "receive queues of the network card",
        needs: "as many as shards, or 8",
        cost: "each queue is emptied by one CPU, which at some 10 Gbit/s has no time for anything else",
        source: "Documentation/networking/scaling.rst (RSS)",
        check: nic_queues,
    },
    Tuner {
        name: "nic-interrupts",
        area: Area::Network,
        title: "CPUs that take the network card's interrupts",
        needs: "each queue's interrupt on a CPU of its own, of the card's memory node; on CPUs without a shard if there are enough",
        cost: "one CPU receives for all: the shard on it is late, and the others wait for their requests",
        source: "Documentation/core-api/irq/irq-affinity.rst; Documentation/networking/scaling.rst",
        check: nic_interrupts,
    },
    Tuner {
        name: "rps",
        area: Area::Network,
        title: "receive packet and flow steering (RPS, RFS)",
        needs: "on, where the card has fewer receive queues than the broker shards: the kernel takes each packet to the CPU of its reader",
        cost: "TCP's work for all connections is done by the few CPUs that take the interrupts",
        source: "Documentation/networking/scaling.rst (RPS, RFS)",
        check: steering,
    },
    Tuner {
        name: "xps",
        area: Area::Network,
        title: "transmit packet steering (XPS)",
        needs: "each CPU with a transmit queue, where the card has several",
        cost: "CPUs wait for each other's lock on a queue, and completions come to a CPU that did not send",
        source: "Documentation/networking/scaling.rst (XPS)",
        check: transmit_steering,
    },
];

/// The CPUs that take any of them.
fn taken_by(interrupts: &[Interrupt]) -> CpuSet {
    let all = interrupts.iter().map(|interrupt| &interrupt.taken_by);
    all.fold(CpuSet::default(), |all, one| all.with(one))
}

/// Interrupts of a disk that arrive on shards' CPUs, and are those of other shards, too.
struct Crowd {
    on: CpuSet,
    /// Where they may be placed otherwise; none where the driver has placed them.
    paths: Vec<String>,
}

/// `None`: no shard pays for the others' writes.
fn crowd(machine: &Machine, disk: &Disk) -> Read<Option<Crowd>> {
    let broker = machine.broker.clone()?;
    let interrupts = disk.interrupts.clone()?;
    if interrupts.is_empty() {
        return Err(Unreadable::Untold(format!(
            "/sys names no interrupts of {}'s queues",
            disk.name
        )));
    }
    let taken = taken_by(&interrupts);
    // Two shards a queue are near enough.
    let queues = taken.len().min(interrupts.len());
    let is_spread = queues >= broker.len() || (queues > 1 && 2 * queues >= broker.len());
    let on = taken.common(&machine.quiet()?);
    // Which CPUs are to be free of them may have been said; else as many as there are shards are near enough.
    let is_well = machine.irq_free.is_none() && (broker.len() < 2 || is_spread);
    if is_well || on.is_empty() {
        return Ok(None);
    }
    let paths = interrupts.into_iter().filter_map(|of| of.affinity_path);
    Ok(Some(Crowd {
        on,
        paths: paths.collect(),
    }))
}

/// Those of a device's memory node; all of them where it has none, or none of them.
fn near(machine: &Machine, cpus: &CpuSet, node: &Read<Option<u32>>) -> Read<CpuSet> {
    let node = node.clone()?;
    let nodes = machine.nodes()?;
    let of_node = nodes.iter().find(|(number, _)| Some(*number) == node);
    let near = of_node.map(|(_, near)| near.common(cpus));
    Ok(near.filter(|near| !near.is_empty()).unwrap_or(cpus.clone()))
}

fn disk_interrupts(machine: &Machine) -> Read<Finding> {
    let (broker, spare) = (machine.broker.clone()?, machine.spare()?);
    let mut all = Finding::good("");
    let mut has = Vec::new();
    for disk in &machine.disks.clone()? {
        let crowd = crowd(machine, disk)?;
        let interrupts = disk.interrupts.clone()?;
        let on = cpus_named(&taken_by(&interrupts));
        has.push(format!(
            "{}: {} on {on}",
            disk.name,
            interrupts_named(interrupts.len())
        ));
        let Some(Crowd { on, paths }) = crowd else {
            continue;
        };
        let on = cpus_named(&on);
        let (verdict, advice) = match (spare.is_empty(), paths.is_empty()) {
            (true, _) => {
                let others = broker.without(&taken_by(&interrupts));
                let advice = format!(
                    "under heavy load leave {on} to the disk (`taskset -c {others} coati start`); else see disk-completion"
                );
                (Verdict::Hint, advice)
            }
            (false, true) => {
                let advice = format!(
                    "the driver has placed them; keep the broker off {on} (taskset), else see disk-completion"
                );
                (Verdict::Hint, advice)
            }
            (false, false) => (Verdict::Warning, if_balanced(machine)),
        };
        all.verdict = all.verdict.max(verdict);
        all.advice = Some(advice).filter(|advice| !advice.is_empty());
        if verdict == Verdict::Warning {
            let to = near(machine, &spare, &disk.node)?;
            let changes = paths
                .into_iter()
                .map(|path| Change::new(path, Form::CpuList, &to));
            all.changes.extend(changes);
        }
    }
    all.has = has.join(", ");
    Ok(all)
}

fn interrupts_named(count: usize) -> String {
    match count {
        1 => "1 interrupt".into(),
        _ => format!("{count} interrupts"),
    }
}

/// irqbalance moves what was placed; it is told to leave some by its settings.
fn if_balanced(machine: &Machine) -> String {
    let is_balancer = |number: &u32| {
        let name = machine.root.text(&format!("/proc/{number}/comm"));
        name.is_ok_and(|name| name == "irqbalance")
    };
    let processes = machine.root.numbered("/proc", "").unwrap_or_default();
    match processes.iter().any(is_balancer) {
        true => "irqbalance runs and moves them again: stop it, or keep it off these with --banirq"
            .into(),
        false => String::new(),
    }
}

fn disk_completion(machine: &Machine) -> Read<Finding> {
    let spare = machine.spare()?;
    let look = |disk: &Disk| -> Read<(String, Option<Change>)> {
        let path = disk.setting("rq_affinity");
        let mode: u64 = machine.root.number(&path)?;
        if mode > 2 {
            return Err(Unreadable::malformed(&path, &mode.to_string(), "0, 1 or 2"));
        }
        // Interrupts that can leave the shards' CPUs had better take their completions with them.
        let stays = |crowd: &Crowd| spare.is_empty() || crowd.paths.is_empty();
        let is_crowded = crowd(machine, disk)?.filter(stays).is_some();
        let change = (is_crowded && mode != 2).then(|| Change::new(path, Form::Words, 2));
        Ok((format!("{} {mode}", disk.name), change))
    };
    let found: Read<Vec<_>> = machine.disks.clone()?.iter().map(look).collect();
    let (has, changes): (Vec<_>, Vec<_>) = found?.into_iter().unzip();
    let changes = changes.into_iter().flatten().collect();
    Ok(Finding::by_changes(Verdict::Hint, has.join(", "), changes))
}

/// The cards, or what to say when there is none.
fn cards(machine: &Machine) -> Read<Result<Vec<Nic>, Finding>> {
    let nics = machine.nics.clone()?;
    Ok(match nics.is_empty() {
        true => Err(Finding::absent("no network card of its own is up")),
        false => Ok(nics),
    })
}

fn nic_queues(machine: &Machine) -> Read<Finding> {
    let nics = match cards(machine)? {
        Ok(nics) => nics,
        Err(none) => return Ok(none),
    };
    let wanted = machine.broker.clone()?.len().min(QUEUES_ENOUGH);
    let has = nics
        .iter()
        .map(|nic| format!("{} {}", nic.name, nic.receive.len()));
    let has = has.collect::<Vec<_>>().join(", ");
    let few = nics.iter().find(|nic| nic.receive.len() < wanted);
    Ok(match few {
        None => Finding::good(has),
        Some(nic) => Finding::new(Verdict::Hint, has).advise(format!(
            "`ethtool -L {} combined {wanted}`, if it has them (`ethtool -l`); else see rps",
            nic.name
        )),
    })
}

fn nic_interrupts(machine: &Machine) -> Read<Finding> {
    let nics = match cards(machine)? {
        Ok(nics) => nics,
        Err(none) => return Ok(none),
    };
    let (online, spare) = (machine.online.clone()?, machine.spare()?);
    let mut has = Vec::new();
    let mut changes = Vec::new();
    let mut are_placed = false;
    for nic in &nics {
        let interrupts = nic.interrupts.clone()?;
        let taken = taken_by(&interrupts);
        has.push(format!(
            "{}: {} on {}",
            nic.name,
            interrupts_named(interrupts.len()),
            cpus_named(&taken)
        ));
        let near_spare = near(machine, &spare, &nic.node)?;
        let cpus = match near_spare.len() >= interrupts.len() {
            true => near_spare,
            // Others than those that are to be free of them, however few.
            false if machine.irq_free.is_some() && !spare.is_empty() => near_spare,
            false => near(machine, &online, &nic.node)?,
        };
        let is_free = match &machine.irq_free {
            Some(irq_free) => taken.common(irq_free).is_empty(),
            None => true,
        };
        if is_free && taken.len() >= interrupts.len().min(cpus.len()) {
            continue;
        }
        for (interrupt, cpu) in interrupts.iter().zip(cpus.iter().cycle()) {
            match &interrupt.affinity_path {
                Some(path) => changes.push(Change::new(path, Form::CpuList, cpu)),
                None => are_placed = true,
            }
        }
    }
    let balanced = if_balanced(machine);
    let has = has.join(", ");
    Ok(match changes.is_empty() {
        true if are_placed => Finding::new(Verdict::Hint, has).advise("the driver has placed them"),
        true => Finding::good(has),
        false => {
            let finding = Finding::by_changes(Verdict::Warning, has, changes);
            Finding {
                advice: Some(balanced).filter(|advice| !advice.is_empty()),
                ..finding
            }
        }
    })
}

fn steering(machine: &Machine) -> Read<Finding> {
    let nics = match cards(machine)? {
        Ok(nics) => nics,
        Err(none) => return Ok(none),
    };
    let broker = machine.broker.clone()?;
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for nic in &nics {
        let queues = nic.receive.len();
        let mut off = Vec::new();
        for queue in &nic.receive {
            let mask = machine
                .root
                .value(&format!("{queue}/rps_cpus"), Form::CpuMask)?;
            if mask == CpuSet::default().to_mask() {
                off.push(queue);
            }
        }
        has.push(format!(
            "{}: on for {} of {queues} queues",
            nic.name,
            queues - off.len()
        ));
        if queues >= broker.len() {
            continue;
        }
        let cpus = near(machine, &broker, &nic.node)?;
        for queue in off {
            changes.push(Change::new(
                format!("{queue}/rps_cpus"),
                Form::CpuMask,
                cpus.to_mask(),
            ));
            changes.push(Change::new(
                format!("{queue}/rps_flow_cnt"),
                Form::Words,
                FLOWS / queues,
            ));
        }
    }
    if !changes.is_empty() {
        let path = "/proc/sys/net/core/rps_sock_flow_entries";
        let entries: usize = machine.root.number(path)?;
        has.push(format!("{entries} flows"));
        if entries < FLOWS {
            changes.insert(0, Change::new(path, Form::Words, FLOWS));
        }
    }
    Ok(Finding::by_changes(Verdict::Hint, has.join(", "), changes))
}

fn transmit_steering(machine: &Machine) -> Read<Finding> {
    let nics = match cards(machine)? {
        Ok(nics) => nics,
        Err(none) => return Ok(none),
    };
    let online = machine.online.clone()?;
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for nic in &nics {
        let queues = nic.transmit.len();
        let mut off = Vec::new();
        let mut known = 0;
        for (index, queue) in nic.transmit.iter().enumerate() {
            let path = format!("{queue}/xps_cpus");
            // Of a card with one queue it cannot be read.
            let Some(mask) = if_there(machine.root.value(&path, Form::CpuMask))? else {
                continue;
            };
            known += 1;
            if mask == CpuSet::default().to_mask() {
                off.push((index, path));
            }
        }
        if queues < 2 || known == 0 {
            continue;
        }
        has.push(format!(
            "{}: on for {} of {queues} queues",
            nic.name,
            known - off.len()
        ));
        for (index, path) in off {
            let cpus: CpuSet = online.iter().skip(index).step_by(queues).collect();
            // More queues than CPUs: the last have none.
            if !cpus.is_empty() {
                changes.push(Change::new(path, Form::CpuMask, cpus.to_mask()));
            }
        }
    }
    Ok(match has.is_empty() {
        true => Finding::absent("no card has several transmit queues to choose from"),
        false => Finding::by_changes(Verdict::Hint, has.join(", "), changes),
    })
}
