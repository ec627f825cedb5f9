//! Owns what a profile cannot be: by itself, and on a machine. Pure.

use super::{Core, Facts, KEYS, Preset, Profile, Role};

/// What is wrong, and where: of a core by its place among the cores, or of the whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    pub core: Option<usize>,
    pub key: &'static str,
    pub reason: String,
}

impl Fault {
    fn of(core: usize, key: &'static str, reason: String) -> Fault {
        Fault {
            core: Some(core),
            key,
            reason,
        }
    }
}

impl Profile {
    /// The first thing that cannot be, on this machine or on any.
    pub fn check(&self, facts: &Facts) -> Result<(), Fault> {
        by_itself(self)?;
        on_machine(self, facts)
    }
}

pub(super) fn by_itself(profile: &Profile) -> Result<(), Fault> {
    let mut cores = profile.cores.iter().enumerate();
    for (place, core) in cores.by_ref() {
        if let Some(other) = profile.cores[..place]
            .iter()
            .find(|other| other.cpu == core.cpu)
        {
            let reason = match other.roles.is_empty() || core.roles.is_empty() {
                true => format!("CPU {} is there twice", core.cpu),
                false => format!(
                    "two shards on CPU {}: each core needs one of its own",
                    core.cpu
                ),
            };
            return Err(Fault::of(place, "cpu", reason));
        }
        numbers(place, core)?;
        if core.stay_awake && core.roles.is_empty() {
            return Err(Fault::of(
                place,
                "stay_awake",
                "the core has no role".into(),
            ));
        }
        if core.stay_awake && profile.preset == Some(Preset::Shared) {
            let reason =
                "with the preset shared no core stays awake: what it does not need is others'";
            return Err(Fault::of(place, "stay_awake", reason.into()));
        }
    }
    roles(profile)
}

/// In their bounds, and of a core that has a use for them.
fn numbers(place: usize, core: &Core) -> Result<(), Fault> {
    for key in &KEYS {
        let Some(value) = (key.get)(core) else {
            continue;
        };
        if let Some(reason) = key.refusal(value) {
            return Err(Fault::of(place, key.name, reason));
        }
        if !key.is_for(core.roles) {
            let without = match key.role {
                Some(role) => format!("without the role {}", role.name()),
                None => "without a role".into(),
            };
            let reason = format!("it means nothing for a core {without}");
            return Err(Fault::of(place, key.name, reason));
        }
    }
    Ok(())
}

fn roles(profile: &Profile) -> Result<(), Fault> {
    for role in Role::ALL {
        let mut having = profile
            .cores
            .iter()
            .enumerate()
            .filter(|(_, core)| core.roles.has(role));
        if having.next().is_none() {
            return Err(Fault {
                core: None,
                key: "roles",
                reason: format!("no core has the role {}", role.name()),
            });
        }
        if let (Role::Controller, Some((place, _))) = (role, having.next()) {
            let reason =
                "one core alone has the role controller, and an earlier one has it already";
            return Err(Fault::of(place, "roles", reason.into()));
        }
    }
    Ok(())
}

/// What the machine does not tell is not held against a profile.
pub(super) fn on_machine(profile: &Profile, facts: &Facts) -> Result<(), Fault> {
    let exists = |cpu: u32| facts.online.is_empty() || facts.online.contains(cpu);
    let missing = |cpu| format!("there is no CPU {cpu}: this machine has {}", facts.online);
    for (place, core) in profile.cores.iter().enumerate() {
        let cpu = core.cpu;
        if !exists(cpu) {
            return Err(Fault::of(place, "cpu", missing(cpu)));
        }
        if !core.roles.is_empty() && !facts.usable.contains(cpu) {
            let reason = format!(
                "this process may not run on CPU {cpu}, only on {} (cpuset, affinity)",
                facts.usable
            );
            return Err(Fault::of(place, "cpu", reason));
        }
        let (Some(wanted), Some(node)) = (core.node, facts.node_of(cpu)) else {
            continue;
        };
        if wanted != node {
            let reason = format!("CPU {cpu} is beside memory node {node}");
            return Err(Fault::of(place, "node", reason));
        }
    }
    if let Some(cpu) = profile.irq_free_cpus.iter().find(|cpu| !exists(*cpu)) {
        return Err(Fault {
            core: None,
            key: "irq_free_cpus",
            reason: missing(cpu),
        });
    }
    memory(profile, facts)
}

/// Of the core that brings all budgets together over what there is.
fn memory(profile: &Profile, facts: &Facts) -> Result<(), Fault> {
    let Some((available, whose)) = facts.memory() else {
        return Ok(());
    };
    let mut sum = 0_u64;
    for (place, core) in profile.cores.iter().enumerate() {
        for (key, bytes) in [
            ("tail_cache_bytes", core.tail_cache_bytes),
            ("network_bytes", core.network_bytes),
        ] {
            sum = sum.saturating_add(bytes.unwrap_or(0));
            if sum > available {
                let all = profile.budget_bytes();
                let reason = format!(
                    "the budgets of all cores come to {all} bytes ({} MiB), and {whose} {available} ({} MiB)",
                    all >> 20,
                    available >> 20
                );
                return Err(Fault::of(place, key, reason));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpus::CpuSet;
    use crate::profile::{Roles, parse};

    fn two_cores() -> Profile {
        let core = |cpu, roles: &[Role]| Core {
            cpu,
            roles: roles.iter().copied().collect(),
            ..Core::default()
        };
        Profile {
            cores: vec![
                core(0, &[Role::Background, Role::Controller]),
                core(1, &[Role::Network, Role::Partitions]),
            ],
            ..Profile::default()
        }
    }

    fn facts() -> Facts {
        let cpus = |list| CpuSet::from_list(list).unwrap();
        Facts {
            online: cpus("0-3"),
            usable: cpus("0-2"),
            nodes: vec![(0, cpus("0-1")), (1, cpus("2-3"))],
            memory_bytes: Some(8 << 30),
            ..Facts::default()
        }
    }

    fn reason(
        change: impl FnOnce(&mut Profile, &mut Facts),
    ) -> (Option<usize>, &'static str, String) {
        let (mut profile, mut facts) = (two_cores(), facts());
        assert_eq!(profile.check(&facts), Ok(()));
        change(&mut profile, &mut facts);
        let fault = profile.check(&facts).unwrap_err();
        (fault.core, fault.key, fault.reason)
    }

    #[test]
    fn what_no_machine_can_have_is_refused() {
        let said = |change: fn(&mut Profile)| reason(|profile, _| change(profile));
        assert_eq!(
            said(|profile| profile.cores[1].cpu = 0),
            (
                Some(1),
                "cpu",
                "two shards on CPU 0: each core needs one of its own".into()
            )
        );
        for (role, place) in [
            (Role::Network, 1),
            (Role::Partitions, 1),
            (Role::Background, 0),
            (Role::Controller, 0),
        ] {
            let told = reason(|profile, _| {
                let roles = profile.cores[place].roles.iter().filter(|has| *has != role);
                profile.cores[place].roles = roles.collect();
            });
            assert_eq!(
                told,
                (
                    None,
                    "roles",
                    format!("no core has the role {}", role.name())
                )
            );
        }
        let (place, key, told) = said(|profile| profile.cores[1].roles = Roles::all());
        assert_eq!((place, key), (Some(1), "roles"));
        assert!(
            told.starts_with("one core alone has the role controller"),
            "{told}"
        );
        assert_eq!(
            said(|profile| profile.cores[0].write_depth = Some(4)),
            (
                Some(0),
                "write_depth",
                "it means nothing for a core without the role partitions".into()
            )
        );
        assert_eq!(
            said(|profile| profile.cores[1].write_depth = Some(40)),
            (
                Some(1),
                "write_depth",
                "40 is out of bounds: it goes from 1 to 16".into()
            )
        );
        let (place, key, told) = said(|profile| {
            profile.preset = Some(Preset::Shared);
            profile.cores[1].stay_awake = true;
        });
        assert_eq!((place, key), (Some(1), "stay_awake"));
        assert!(told.starts_with("with the preset shared"), "{told}");
    }

    #[test]
    fn what_this_machine_has_not_is_refused() {
        let said = |change: fn(&mut Profile)| reason(|profile, _| change(profile));
        assert_eq!(
            said(|profile| profile.cores[1].cpu = 7),
            (
                Some(1),
                "cpu",
                "there is no CPU 7: this machine has 0-3".into()
            )
        );
        assert_eq!(
            said(|profile| profile.cores[1].cpu = 3),
            (
                Some(1),
                "cpu",
                "this process may not run on CPU 3, only on 0-2 (cpuset, affinity)".into()
            )
        );
        assert_eq!(
            said(|profile| profile.cores[1].node = Some(1)),
            (Some(1), "node", "CPU 1 is beside memory node 0".into())
        );
        assert_eq!(
            said(|profile| profile.irq_free_cpus = CpuSet::from_list("1,9").unwrap()),
            (
                None,
                "irq_free_cpus",
                "there is no CPU 9: this machine has 0-3".into()
            )
        );
    }

    #[test]
    fn budgets_fit_into_the_memory_and_into_the_containers_limit() {
        let large = |profile: &mut Profile| {
            profile.cores[1].tail_cache_bytes = Some(3 << 30);
            profile.cores[1].network_bytes = Some(1 << 30);
        };
        let mut profile = two_cores();
        large(&mut profile);
        assert_eq!(profile.check(&facts()), Ok(()));
        let told = reason(|profile, facts| {
            large(profile);
            facts.memory_limit = Some((4 << 30) - 1);
        });
        assert_eq!(
            told,
            (
                Some(1),
                "network_bytes",
                "the budgets of all cores come to 4294967296 bytes (4096 MiB), and the control group has 4294967295 (4095 MiB)".into()
            )
        );
        let (place, key, told) = reason(|profile, facts| {
            large(profile);
            facts.memory_bytes = Some(2 << 30);
        });
        assert_eq!((place, key), (Some(1), "tail_cache_bytes"));
        assert!(
            told.ends_with("and the machine has 2147483648 (2048 MiB)"),
            "{told}"
        );
    }

    #[test]
    fn what_the_machine_does_not_tell_is_no_reason() {
        let facts = Facts {
            usable: CpuSet::from_list("0-1").unwrap(),
            ..Facts::default()
        };
        assert_eq!(two_cores().check(&facts), Ok(()));
    }

    #[test]
    fn a_cpu_that_is_left_free_has_nothing_but_its_number() {
        let text = |more: &str| {
            format!(
                "[[core]]\ncpu = 0\nroles = [\"network\", \"partitions\", \"background\", \"controller\"]\n[[core]]\ncpu = 1\nroles = []\n{more}"
            )
        };
        assert!(parse(&text("node = 0")).is_ok());
        let told = |more| parse(&text(more)).unwrap_err().to_string();
        assert_eq!(
            told("preempt_us = 100"),
            "line 7, preempt_us: it means nothing for a core without a role"
        );
        assert_eq!(
            told("stay_awake = true"),
            "line 7, stay_awake: the core has no role"
        );
        assert_eq!(
            told("[[core]]\ncpu = 1\nroles = [\"network\"]"),
            "line 8, cpu: CPU 1 is there twice"
        );
        assert_eq!(
            parse("[[core]]\ncpu = 0\nroles = []")
                .unwrap_err()
                .to_string(),
            "line 1, roles: no core has the role network"
        );
    }
}
