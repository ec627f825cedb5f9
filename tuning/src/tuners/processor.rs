//! Owns tuners of CPUs: their speed and sleep, how many there are for the broker, and the clock.

use crate::cpus::CpuSet;
use crate::groups;
use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable, if_there};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

use super::{by_value, cpus_named};

/// A parked shard wakes in some 20 us; sleep that takes longer to leave than this doubles that and more.
const EXIT_LATENCY_US_MAX: u64 = 50;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "cpu-governor",
        area: Area::Processor,
        title: "frequency governor of the CPUs",
        needs: "governor performance on every CPU",
        cost: "other governors raise the frequency only after some ms of load: a shard that was idle does its first work at a half or a third of its speed",
        source: "Documentation/admin-guide/pm/cpufreq.rst",
        check: governor,
    },
    Tuner {
        name: "cpu-idle",
        area: Area::Processor,
        title: "idle states (C-states) of the CPUs",
        needs: "no idle state enabled whose exit latency is over 50 us",
        cost: "the first request after a pause waits until its CPU has left the state, often 100 to 200 us; without deep states the machine draws more power, and its busy cores may turbo less",
        source: "Documentation/admin-guide/pm/cpuidle.rst",
        check: idle_states,
    },
    Tuner {
        name: "smt",
        area: Area::Processor,
        title: "SMT siblings among the broker's CPUs",
        needs: "at most one shard a physical core, where latency counts; both siblings may move somewhat more in total",
        cost: "two shards on one core share its execution units and caches: each is slower while the other works, which shows in p99",
        source: "Documentation/admin-guide/cputopology.rst",
        check: siblings,
    },
    Tuner {
        name: "cpu-set",
        area: Area::Processor,
        title: "CPUs that the broker may use (cpuset, affinity)",
        needs: "every online CPU, or a set of its own that nobody else is scheduled on",
        cost: "each shard is pinned to its CPU: where others run, too, the shard waits for them a scheduler tick at a time (1 to 4 ms)",
        source: "Documentation/admin-guide/cgroup-v2.rst (cpuset)",
        check: allowed,
    },
    Tuner {
        name: "cpu-quota",
        area: Area::Processor,
        title: "CPU quota of the control group",
        needs: "no quota (cpu.max is max), or as many whole CPUs of it as the broker has shards",
        cost: "when all shards together have used up the quota they all stand still for the rest of the period, mostly up to 100 ms",
        source: "Documentation/scheduler/sched-bwc.rst",
        check: quota,
    },
    Tuner {
        name: "clocksource",
        area: Area::Processor,
        title: "clock source",
        needs: "one that is read without a system call: tsc, kvm-clock, hyperv_clocksource_tsc_page, arch_sys_counter",
        cost: "each look at the clock takes 1 us or more instead of some 20 ns, and the broker looks at it several times a request",
        source: "Documentation/timers/timekeeping.rst",
        check: clock_source,
    },
];

fn governor(machine: &Machine) -> Read<Finding> {
    const WANTED: &str = "performance";
    const OTHERS: [&str; 5] = [
        "powersave",
        "schedutil",
        "ondemand",
        "conservative",
        "userspace",
    ];
    let mut found = Vec::new();
    let mut changes = Vec::new();
    let mut is_offered = true;
    for (cpu, path) in machine.of_each_cpu("cpufreq/scaling_governor")? {
        let governor = machine.root.value(&path, Form::Words)?;
        if governor != WANTED {
            if !OTHERS.contains(&&*governor) {
                return Err(Unreadable::malformed(&path, &governor, "a governor"));
            }
            let offered = path.replace("scaling_governor", "scaling_available_governors");
            let offers = machine.root.offers(&offered, WANTED, &governor);
            is_offered &= if_there(offers)?.unwrap_or(true);
            changes.push(Change::new(path, Form::Words, WANTED));
        }
        found.push((cpu, governor));
    }
    let has = by_value(found.iter().map(|(cpu, governor)| (*cpu, &**governor)));
    Ok(match is_offered {
        true => Finding::by_changes(Verdict::Warning, has, changes),
        false => Finding::new(Verdict::Warning, has)
            .advise("the driver does not offer it: set the machine's firmware (BIOS) to maximum performance"),
    })
}

fn idle_states(machine: &Machine) -> Read<Finding> {
    let mut found = Vec::new();
    let mut changes = Vec::new();
    for (cpu, folder) in machine.of_each_cpu("cpuidle")? {
        for state in machine.root.numbered(&folder, "state")? {
            let state = format!("{folder}/state{state}");
            let latency: u64 = machine.root.number(&format!("{state}/latency"))?;
            let disable = format!("{state}/disable");
            let is_disabled: u64 = machine.root.number(&disable)?;
            if latency > EXIT_LATENCY_US_MAX && is_disabled == 0 {
                let name = machine.root.text(&format!("{state}/name"))?;
                found.push((cpu, format!("{name} ({latency} us)")));
                changes.push(Change::new(disable, Form::Words, 1));
            }
        }
    }
    let has = match found.is_empty() {
        true => format!("no state over {EXIT_LATENCY_US_MAX} us enabled"),
        false => by_value(found.iter().map(|(cpu, state)| (*cpu, &**state))),
    };
    Ok(Finding::by_changes(Verdict::Hint, has, changes))
}

fn siblings(machine: &Machine) -> Read<Finding> {
    let shared = machine.broker_siblings()?;
    let broker = machine.broker.clone()?;
    if shared.is_empty() {
        let is_active: u64 =
            if_there(machine.root.number("/sys/devices/system/cpu/smt/active"))?.unwrap_or(0);
        return Ok(match is_active {
            0 => Finding::absent("the CPUs have no siblings"),
            _ => Finding::good(format!("{}, each of another core", cpus_named(&broker))),
        });
    }
    // The first thread of each core.
    let doubled: CpuSet = shared.iter().flat_map(|core| core.iter().skip(1)).collect();
    let one_each = broker.without(&doubled);
    let has = format!(
        "{} cores have two shards or more: {}",
        shared.len(),
        cpus_named(&broker)
    );
    Ok(Finding::new(Verdict::Hint, has).advise(format!(
        "measure both; one thread a core is `taskset -c {one_each} coati start`, or CPUAffinity={one_each} in the unit"
    )))
}

fn allowed(machine: &Machine) -> Read<Finding> {
    let (online, allowed) = (machine.online.clone()?, machine.allowed.clone()?);
    let broker = machine.broker.clone()?;
    let usable = allowed.common(&online);
    let has = format!(
        "{} of {} online, {} of them for the broker",
        cpus_named(&usable),
        online.len(),
        broker.len()
    );
    Ok(match usable == online {
        true => Finding::good(has),
        false => Finding::new(Verdict::Hint, has).advise(
            "if that is not meant, widen the cpuset or affinity; if it is, keep others off these CPUs (an exclusive cpuset, isolcpus=)",
        ),
    })
}

fn quota(machine: &Machine) -> Read<Finding> {
    let broker = machine.broker.clone()?;
    let Some(quota) = groups::cpu_quota(&machine.root)? else {
        return Ok(Finding::good("no quota"));
    };
    let has = format!(
        "{:.2} CPUs each {} ms, for {} shards",
        quota.cpus,
        quota.period_ms,
        broker.len()
    );
    let whole = quota.cpus as usize;
    Ok(match broker.len() <= whole {
        true => Finding::good(has),
        false if whole == 0 => Finding::new(Verdict::Warning, has)
            .advise("give it one whole CPU at least, or lift the quota and set its weight instead"),
        false => Finding::new(Verdict::Warning, has).advise(format!(
            "`coati start --cores {whole}`, or lift the quota and pin the container to CPUs of its own (cpuset)"
        )),
    })
}

fn clock_source(machine: &Machine) -> Read<Finding> {
    const FOLDER: &str = "/sys/devices/system/clocksource/clocksource0";
    const FAST: [&str; 4] = [
        "tsc",
        "kvm-clock",
        "hyperv_clocksource_tsc_page",
        "arch_sys_counter",
    ];
    const SLOW: [&str; 6] = [
        "hpet",
        "acpi_pm",
        "jiffies",
        "refined-jiffies",
        "pit",
        "xen",
    ];
    let path = format!("{FOLDER}/current_clocksource");
    let current = machine.root.value(&path, Form::Words)?;
    let current = current.as_str();
    if FAST.contains(&current) {
        return Ok(Finding::good(current));
    }
    if !SLOW.contains(&current) {
        return Err(Unreadable::malformed(
            &path,
            current,
            "a clock source whose cost is known",
        ));
    }
    let offered = format!("{FOLDER}/available_clocksource");
    let mut fast = None;
    for name in FAST {
        if fast.is_none() && machine.root.offers(&offered, name, current)? {
            fast = Some(name);
        }
    }
    Ok(match fast {
        Some(fast) => {
            let changes = vec![Change::new(path, Form::Words, fast)];
            Finding::by_changes(Verdict::Warning, current, changes)
        }
        None => Finding::new(Verdict::Warning, format!("{current}, and none that is fast")).advise(
            "the kernel distrusts the CPU's counter: its log (dmesg) says why; on some virtual machines tsc=reliable on its command line is right",
        ),
    })
}
