//! Owns the facts that several tuners ask for: the broker's CPUs, memory nodes, the data folder's device, network cards.

use std::path::{Path, PathBuf};

use crate::cpus::CpuSet;
use crate::devices::{self, Disk, Nic};
use crate::mounts::{self, Mount};
use crate::profile::Profile;
use crate::root::{Read, Root, Unreadable, if_there};

const CPU_FOLDER: &str = "/sys/devices/system/cpu";
const NODE_FOLDER: &str = "/sys/devices/system/node";

/// What the broker asks of io_uring and whether this kernel has it, as the kernel itself says.
#[derive(Clone, Debug)]
pub struct RingFeature {
    pub name: &'static str,
    /// The first kernel that has it.
    pub since: &'static str,
    /// The broker does not start without it.
    pub is_needed: bool,
    pub is_there: bool,
}

/// `Err`: the kernel refuses io_uring to this process, and how it puts that.
pub type RingFeatures = Result<Vec<RingFeature>, String>;

#[derive(Debug)]
pub struct Machine {
    pub root: Root,
    /// The data folder, or its nearest parent that is there, as a path on the machine.
    pub data_folder: Read<String>,
    pub mount: Read<Mount>,
    /// The devices that the data folder's file system lies on.
    pub disks: Read<Vec<Disk>>,
    /// The cards through which clients come.
    pub nics: Read<Vec<Nic>>,
    pub online: Read<CpuSet>,
    /// Those that this process may use, and a broker started like it.
    pub allowed: Read<CpuSet>,
    /// Those that a broker would use, a shard each.
    pub broker: Read<CpuSet>,
    /// Those that are to take no interrupts; `None`: the broker's, as far as others can.
    pub irq_free: Option<CpuSet>,
    /// `None`: nobody has asked the kernel.
    pub ring: Option<RingFeatures>,
}

impl Machine {
    /// Looks around. `cores` is what the broker is started with, if it is.
    pub fn look(
        root: Root,
        data_dir: &Path,
        cores: Option<usize>,
        ring: Option<RingFeatures>,
    ) -> Machine {
        let data_folder = nearest(&root, data_dir);
        let mount = data_folder
            .clone()
            .and_then(|folder| mounts::mount_of(&root, &folder));
        let disks = mount
            .clone()
            .and_then(|mount| devices::disks(&root, &mount));
        let allowed = allowed_cpus(&root);
        Machine {
            data_folder,
            mount,
            disks,
            nics: devices::nics(&root),
            online: root.some_cpus(&format!("{CPU_FOLDER}/online")),
            broker: allowed
                .clone()
                .map(|allowed| allowed.first(cores.unwrap_or(usize::MAX))),
            allowed,
            irq_free: None,
            ring,
            root,
        }
    }

    /// As it is for a broker with this profile.
    pub fn with_profile(self, profile: &Profile) -> Machine {
        let irq_free = &profile.irq_free_cpus;
        Machine {
            broker: Ok(profile.cpus()),
            irq_free: (!irq_free.is_empty()).then(|| irq_free.clone()),
            ..self
        }
    }

    /// The entry of each online CPU that has one: `below` its folder. A kernel without it answers `Missing`.
    pub fn of_each_cpu(&self, below: &str) -> Read<Vec<(u32, String)>> {
        let path = |cpu| format!("{CPU_FOLDER}/cpu{cpu}/{below}");
        let online = self.online.clone()?;
        let there = online.iter().map(|cpu| (cpu, path(cpu)));
        let there: Vec<_> = there.filter(|(_, path)| self.root.has(path)).collect();
        match there.is_empty() {
            true => Err(Unreadable::Missing {
                path: path(online.iter().next().unwrap_or(0)),
            }),
            false => Ok(there),
        }
    }

    /// Memory nodes and the online CPUs beside each. A kernel without NUMA has one.
    pub fn nodes(&self) -> Read<Vec<(u32, CpuSet)>> {
        let online = self.online.clone()?;
        let Some(numbers) = if_there(self.root.numbered(NODE_FOLDER, "node"))? else {
            return Ok(vec![(0, online)]);
        };
        let cpus = |node: u32| {
            let cpus = self
                .root
                .cpus(&format!("{NODE_FOLDER}/node{node}/cpulist"))?;
            Ok((node, cpus.common(&online)))
        };
        let nodes: Read<Vec<_>> = numbers.into_iter().map(cpus).collect();
        // Memory without CPUs has nobody to be near to.
        Ok(nodes?
            .into_iter()
            .filter(|(_, cpus)| !cpus.is_empty())
            .collect())
    }

    /// The threads of a CPU's physical core, itself among them.
    pub fn siblings_of(&self, cpu: u32) -> Read<CpuSet> {
        let path = format!("{CPU_FOLDER}/cpu{cpu}/topology/thread_siblings_list");
        self.root.cpus(&path)
    }

    /// The broker's CPUs that share a core with another of them.
    pub fn broker_siblings(&self) -> Read<Vec<CpuSet>> {
        let broker = self.broker.clone()?;
        let mut cores: Vec<CpuSet> = Vec::new();
        for cpu in broker.iter() {
            let siblings = self.siblings_of(cpu)?.common(&broker);
            if siblings.len() > 1 && !cores.contains(&siblings) {
                cores.push(siblings);
            }
        }
        Ok(cores)
    }

    /// CPUs that had better take no interrupts.
    pub fn quiet(&self) -> Read<CpuSet> {
        match &self.irq_free {
            Some(irq_free) => Ok(irq_free.clone()),
            None => self.broker.clone(),
        }
    }

    /// CPUs that are online and had better take them.
    pub fn spare(&self) -> Read<CpuSet> {
        Ok(self.online.clone()?.without(&self.quiet()?))
    }

    /// From /proc/meminfo, in bytes.
    pub fn memory(&self, field: &str) -> Read<u64> {
        let path = "/proc/meminfo";
        let text = self.root.text(path)?;
        let kib = |line: &str| -> Option<u64> {
            let (name, size) = line.split_once(':')?;
            let size = size.trim().strip_suffix(" kB")?;
            (name == field).then(|| size.parse().ok())?
        };
        let kib = text.lines().find_map(kib);
        let bytes = kib.and_then(|kib| kib.checked_mul(1 << 10));
        bytes.ok_or_else(|| Unreadable::malformed(path, &text, "sizes of memory in kB"))
    }

    /// The release's first two numbers, as 6.18.
    pub fn kernel(&self) -> Read<(u32, u32)> {
        let path = "/proc/sys/kernel/osrelease";
        let text = self.root.text(path)?;
        let mut numbers = text
            .split(|char: char| !char.is_ascii_digit())
            .map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
            _ => Err(Unreadable::malformed(path, &text, "a kernel release")),
        }
    }

    /// From /proc/self/status.
    pub fn status(&self, field: &str) -> Read<String> {
        status(&self.root, field)
    }
}

fn status(root: &Root, field: &str) -> Read<String> {
    let path = "/proc/self/status";
    let text = root.text(path)?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    match lines.find(|(name, _)| *name == field) {
        Some((_, value)) => Ok(value.trim().to_owned()),
        None => Err(Unreadable::malformed(
            path,
            &text,
            "the status of a process",
        )),
    }
}

fn allowed_cpus(root: &Root) -> Read<CpuSet> {
    let text = status(root, "Cpus_allowed_list")?;
    let cpus = CpuSet::from_list(&text).filter(|cpus| !cpus.is_empty());
    cpus.ok_or_else(|| Unreadable::malformed("/proc/self/status", &text, "a list of CPUs"))
}

/// A folder that is yet to be made will lie where its nearest parent does.
fn nearest(root: &Root, folder: &Path) -> Read<String> {
    let absolute = match folder.is_absolute() {
        true => folder.to_owned(),
        false => std::env::current_dir()
            .unwrap_or_else(|_| PathBuf::from("/"))
            .join(folder),
    };
    let mut last = None;
    for parent in absolute.ancestors() {
        match root.real(&parent.to_string_lossy()) {
            Ok(real) => return Ok(real),
            Err(error @ Unreadable::Missing { .. }) => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    Err(last.expect("every path has an ancestor"))
}
