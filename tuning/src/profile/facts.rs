//! Owns what of a machine counts for a profile. An entry that cannot be read leaves its fact out.

use std::path::Path;

use crate::cpus::CpuSet;
use crate::devices::Interrupt;
use crate::groups::{self, Quota};
use crate::machine::Machine;
use crate::root::{Read, Root};

/// Interrupts of one device.
#[derive(Clone, PartialEq, Debug)]
pub struct Taken {
    pub device: String,
    pub cpus: CpuSet,
    /// Of those that others than the driver may place.
    pub movable: CpuSet,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    pub online: CpuSet,
    /// Online, and this process may run on them.
    pub usable: CpuSet,
    /// Memory nodes, and the CPUs beside each.
    pub nodes: Vec<(u32, CpuSet)>,
    /// Usable CPUs by the physical core that they are threads of.
    pub physical: Vec<CpuSet>,
    pub quota: Option<Quota>,
    pub memory_bytes: Option<u64>,
    /// Of the control group.
    pub memory_limit: Option<u64>,
    /// Where disks and network cards interrupt.
    pub interrupts: Vec<Taken>,
    /// The memory node of the data folder's disk.
    pub disk_node: Option<u32>,
}

impl Facts {
    /// Of the machine that this process runs on.
    pub fn of_this_machine(data_dir: &Path) -> Facts {
        Facts::of(&Machine::look(Root::new("/"), data_dir, None, None))
    }

    pub(crate) fn of(machine: &Machine) -> Facts {
        let online = machine.online.clone().unwrap_or_default();
        let allowed = machine.allowed.clone().unwrap_or_default();
        let usable = match online.is_empty() {
            true => allowed,
            false => allowed.common(&online),
        };
        let disks = machine.disks.clone().unwrap_or_default();
        let nics = machine.nics.clone().unwrap_or_default();
        let of_disks = disks.iter().map(|disk| (&disk.name, &disk.interrupts));
        let of_nics = nics.iter().map(|nic| (&nic.name, &nic.interrupts));
        let interrupts = of_disks
            .chain(of_nics)
            .filter_map(|(name, interrupts)| taken(name, interrupts));
        Facts {
            nodes: machine.nodes().unwrap_or_default(),
            physical: physical(machine, &usable),
            quota: groups::cpu_quota(&machine.root).ok().flatten(),
            memory_bytes: machine.memory("MemTotal").ok(),
            memory_limit: groups::memory_limit(&machine.root).ok().flatten(),
            interrupts: interrupts.collect(),
            disk_node: disks
                .first()
                .and_then(|disk| disk.node.clone().ok().flatten()),
            online,
            usable,
        }
    }

    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        let node = self.nodes.iter().find(|(_, cpus)| cpus.contains(cpu));
        node.map(|(node, _)| *node)
    }

    /// The memory that there is, and the words for who has it.
    pub fn memory(&self) -> Option<(u64, &'static str)> {
        let machine = self.memory_bytes.map(|bytes| (bytes, "the machine has"));
        let group = self
            .memory_limit
            .map(|bytes| (bytes, "the control group has"));
        machine
            .into_iter()
            .chain(group)
            .min_by_key(|(bytes, _)| *bytes)
    }

    /// The devices that interrupt some of these CPUs and need not, and which.
    pub fn disturbing<'a>(&'a self, cpus: &'a CpuSet) -> impl Iterator<Item = (&'a str, CpuSet)> {
        let common = self
            .interrupts
            .iter()
            .map(|taken| (taken.device.as_str(), taken.movable.common(cpus)));
        common.filter(|(_, disturbed)| !disturbed.is_empty())
    }
}

fn taken(device: &str, interrupts: &Read<Vec<Interrupt>>) -> Option<Taken> {
    let interrupts = interrupts.as_ref().ok()?;
    let taken_by = |is_meant: fn(&&Interrupt) -> bool| {
        let meant = interrupts.iter().filter(is_meant);
        meant.fold(CpuSet::default(), |all, one| all.with(&one.taken_by))
    };
    let cpus = taken_by(|_| true);
    (!cpus.is_empty()).then(|| Taken {
        device: device.to_owned(),
        cpus,
        movable: taken_by(|one| one.affinity_path.is_some()),
    })
}

/// A CPU whose siblings are not told is a core of its own.
fn physical(machine: &Machine, usable: &CpuSet) -> Vec<CpuSet> {
    let mut cores: Vec<CpuSet> = Vec::new();
    for cpu in usable.iter() {
        if cores.iter().any(|core| core.contains(cpu)) {
            continue;
        }
        let siblings = machine
            .siblings_of(cpu)
            .map(|siblings| siblings.common(usable));
        let own: CpuSet = [cpu].into_iter().collect();
        cores.push(siblings.unwrap_or_default().with(&own));
    }
    cores
}
