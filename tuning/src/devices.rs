//! Owns finding hardware in /sys: the block devices below a file system, network cards, and the interrupts of both.

use crate::cpus::CpuSet;
use crate::mounts::Mount;
use crate::root::{Read, Root, Unreadable, if_there};

/// Devices on devices (LUKS on LVM on RAID …) lie at most so deep.
const DEPTH_MAX: usize = 8;

/// Interrupts of a device that are not about its data.
const NO_DATA: [&str; 7] = [
    "config", "control", "admin", "async", "event", "mgmt", "misc",
];

/// One interrupt of a device's queues.
#[derive(Clone, Debug)]
pub struct Interrupt {
    /// The CPUs that take it.
    pub taken_by: CpuSet,
    /// `None` where the driver has placed it, and nobody else may.
    pub affinity_path: Option<String>,
}

/// A device that nothing lies below.
#[derive(Clone, Debug)]
pub struct Disk {
    pub name: String,
    /// `/sys/…/queue`.
    pub queue: String,
    pub interrupts: Read<Vec<Interrupt>>,
    pub node: Read<Option<u32>>,
}

impl Disk {
    pub fn setting(&self, name: &str) -> String {
        format!("{}/{name}", self.queue)
    }
}

/// A network card that is up.
#[derive(Clone, Debug)]
pub struct Nic {
    pub name: String,
    /// Paths of its receive and transmit queues.
    pub receive: Vec<String>,
    pub transmit: Vec<String>,
    pub interrupts: Read<Vec<Interrupt>>,
    pub node: Read<Option<u32>>,
}

pub fn disks(root: &Root, mount: &Mount) -> Read<Vec<Disk>> {
    let by_number = if_there(root.real(&format!("/sys/dev/block/{}", mount.device)))?;
    let top = match by_number {
        Some(device) => device,
        // Btrfs has a number of no device.
        None => {
            let name = mount.source.rsplit('/').next().unwrap_or_default();
            let by_name = if_there(root.real(&format!("/sys/class/block/{name}")))?;
            by_name
                .filter(|_| mount.source.starts_with('/'))
                .ok_or_else(|| {
                    Unreadable::Untold(format!(
                        "{} ({} on {}) has no block device here",
                        mount.point, mount.kind, mount.source
                    ))
                })?
        }
    };
    let mut disks = Vec::new();
    add_leaves(root, top, 0, &mut disks)?;
    disks.dedup_by(|a, b| a.name == b.name);
    Ok(disks)
}

fn add_leaves(root: &Root, device: String, depth: usize, disks: &mut Vec<Disk>) -> Read<()> {
    let device = match root.has(&format!("{device}/partition")) {
        true => parent(&device).to_owned(),
        false => device,
    };
    let slaves = format!("{device}/slaves");
    let below = if_there(root.names(&slaves))?.unwrap_or_default();
    if below.is_empty() || depth == DEPTH_MAX {
        let function = controller(root, &device)?;
        disks.push(Disk {
            name: device.rsplit('/').next().unwrap_or_default().to_owned(),
            queue: format!("{device}/queue"),
            interrupts: interrupts(root, function.as_deref()),
            node: node(root, function.as_deref()),
        });
        return Ok(());
    }
    for name in below {
        add_leaves(
            root,
            root.real(&format!("{slaves}/{name}"))?,
            depth + 1,
            disks,
        )?;
    }
    Ok(())
}

pub fn nics(root: &Root) -> Read<Vec<Nic>> {
    let mut nics = Vec::new();
    for name in root.names("/sys/class/net")? {
        let folder = format!("/sys/class/net/{name}");
        // Bridges, tunnels and a container's end of a pair have no device.
        let Some(device) = if_there(root.real(&format!("{folder}/device")))? else {
            continue;
        };
        let path = format!("{folder}/operstate");
        match root.text(&path)?.as_str() {
            // A driver that does not tell says `unknown`.
            "up" | "unknown" => {}
            "down" | "notpresent" | "lowerlayerdown" | "testing" | "dormant" => continue,
            other => return Err(Unreadable::malformed(&path, other, "the state of a link")),
        }
        let queues = |kind: &str| -> Read<Vec<String>> {
            let numbers = root.numbered(&format!("{folder}/queues"), kind)?;
            let path = |number| format!("{folder}/queues/{kind}{number}");
            Ok(numbers.into_iter().map(path).collect())
        };
        let function = with_interrupts(root, &device);
        nics.push(Nic {
            receive: queues("rx-")?,
            transmit: queues("tx-")?,
            interrupts: interrupts(root, function.as_deref()),
            node: node(root, function.as_deref()),
            name,
        });
    }
    Ok(nics)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The folder of the hardware behind a block device.
fn controller(root: &Root, device: &str) -> Read<Option<String>> {
    if let Some(found) = with_interrupts(root, device) {
        return Ok(Some(found));
    }
    // NVMe with several paths: beside the device are links to its controllers, nvme0 and so on.
    let subsystem = parent(device);
    let is_controller = |name: &&String| {
        let number = name.strip_prefix("nvme");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let beside = if_there(root.names(subsystem))?.unwrap_or_default();
    for name in beside.iter().filter(is_controller) {
        let controller = root.real(&format!("{subsystem}/{name}"))?;
        if let Some(found) = with_interrupts(root, &controller) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The nearest of a device and its parents that has interrupts.
fn with_interrupts(root: &Root, device: &str) -> Option<String> {
    let mut folder = device;
    while folder.starts_with("/sys/devices/") {
        if root.has(&format!("{folder}/msi_irqs")) {
            return Some(folder.to_owned());
        }
        folder = parent(folder);
    }
    None
}

fn node(root: &Root, function: Option<&str>) -> Read<Option<u32>> {
    let Some(function) = function else {
        return Ok(None);
    };
    // -1 where the firmware tells none.
    let node = if_there(root.number::<i32>(&format!("{function}/numa_node")))?;
    Ok(node.and_then(|node| u32::try_from(node).ok()))
}

fn interrupts(root: &Root, function: Option<&str>) -> Read<Vec<Interrupt>> {
    let Some(function) = function else {
        return Err(Unreadable::Untold("/sys names no interrupts of it".into()));
    };
    let mut interrupts = Vec::new();
    for number in root.numbered(&format!("{function}/msi_irqs"), "")? {
        let name = if_there(root.text(&format!("/sys/kernel/irq/{number}/actions")))?;
        // One that nobody listens to has no name.
        if !name.is_some_and(|name| !name.is_empty() && is_of_data(&name)) {
            continue;
        }
        let affinity = format!("/proc/irq/{number}/smp_affinity_list");
        let effective =
            if_there(root.cpus(&format!("/proc/irq/{number}/effective_affinity_list")))?;
        interrupts.push(Interrupt {
            taken_by: match effective {
                Some(cpus) if !cpus.is_empty() => cpus,
                // An old kernel tells only where it may arrive.
                _ => root.some_cpus(&affinity)?,
            },
            affinity_path: root.is_writable(&affinity).then_some(affinity),
        });
    }
    Ok(interrupts)
}

/// By what its driver calls it.
fn is_of_data(name: &str) -> bool {
    // NVMe's queue 0 takes commands about the device.
    let is_nvme_admin = name.starts_with("nvme") && name.ends_with("q0");
    !is_nvme_admin && !NO_DATA.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_of_data_are_known_by_name() {
        for name in [
            "nvme0q1",
            "nvme0q10",
            "virtio1-req.0",
            "eth0-TxRx-3",
            "mlx5_comp0@pci:0000:3b:00.0",
        ] {
            assert!(is_of_data(name), "{name}");
        }
        for name in [
            "nvme0q0",
            "virtio1-config",
            "mlx5_async0@pci:0000:3b:00.0",
            "ice-0000:4b:00.0:misc",
            "virtio3-event",
        ] {
            assert!(!is_of_data(name), "{name}");
        }
    }
}
