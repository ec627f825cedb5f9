//! Owns tuners of what lies below the data folder: its file system, how that is mounted, and the queue of its device.

use crate::devices::Disk;
use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable, if_there};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

/// A shard has two direct writes of a log under way, and one of its journal.
const REQUESTS_MIN: u64 = 64;

const SCHEDULERS: [&str; 7] = [
    "none",
    "mq-deadline",
    "kyber",
    "bfq",
    "noop",
    "deadline",
    "cfq",
];

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "file-system",
        area: Area::Disk,
        title: "file system of the data folder",
        needs: "ext4 or xfs on a local disk",
        cost: "direct I/O is slow or is not direct at all on others: copy-on-write file systems (btrfs, zfs) write each block anew, network file systems and container layers add their own way, tmpfs loses all at a restart",
        source: "open(2) (O_DIRECT); Documentation/filesystems/ext4/, Documentation/filesystems/xfs/",
        check: file_system,
    },
    Tuner {
        name: "mount-options",
        area: Area::Disk,
        title: "mount options of the data folder",
        needs: "rw and relatime or noatime; none of discard, sync, data=journal, nobarrier",
        cost: "discard makes the commit of the journal that follows a deleted segment wait until the disk has trimmed it, and every sync with it; sync and data=journal write everything twice or at once; nobarrier loses acknowledged records at a power cut",
        source: "Documentation/admin-guide/ext4.rst; mount(8), fstrim(8)",
        check: mount_options,
    },
    Tuner {
        name: "disk-scheduler",
        area: Area::Disk,
        title: "I/O scheduler of the disk",
        needs: "none for NVMe, SSDs and virtual disks; mq-deadline for rotating ones",
        cost: "a scheduler sorts, under one lock, requests that need no sorting: some us a request, and fewer of them a second with many cores",
        source: "Documentation/block/switching-sched.rst",
        check: scheduler,
    },
    Tuner {
        name: "disk-requests",
        area: Area::Disk,
        title: "requests that the disk's queue takes (nr_requests)",
        needs: "64 at least",
        cost: "with a full queue the next write's system call does not return until there is room: its shard stands still",
        source: "Documentation/ABI/stable/sysfs-block (nr_requests)",
        check: requests,
    },
    Tuner {
        name: "disk-cache",
        area: Area::Disk,
        title: "write cache of the disk, and FUA",
        needs: "write through (a disk that needs no flush, as those with power-loss protection), or write back with FUA",
        cost: "each sync makes the disk empty its whole cache, also of what others have written",
        source: "Documentation/block/writeback_cache_control.rst",
        check: cache,
    },
];

fn file_system(machine: &Machine) -> Read<Finding> {
    let mount = machine.mount.clone()?;
    let has = format!("{} on {} ({})", mount.kind, mount.point, mount.source);
    let advise = |verdict, advice: &str| Ok(Finding::new(verdict, has.clone()).advise(advice));
    match mount.kind.as_str() {
        "ext4" | "xfs" => Ok(Finding::good(has.clone())),
        "tmpfs" | "ramfs" => advise(Verdict::Critical, "name a folder on a disk with --data-dir"),
        "overlay" | "aufs" => advise(
            Verdict::Warning,
            "give the container a volume on ext4 or xfs for its data folder",
        ),
        "nfs" | "nfs4" | "cifs" | "smb3" | "ceph" | "9p" | "virtiofs" => advise(
            Verdict::Warning,
            "keep the data folder on a local disk; replication is the broker's work",
        ),
        kind if kind.starts_with("fuse") => {
            advise(Verdict::Warning, "keep the data folder on ext4 or xfs")
        }
        "btrfs" | "zfs" | "bcachefs" => advise(
            Verdict::Warning,
            "keep the data folder on ext4 or xfs (on btrfs, chattr +C on the empty folder helps)",
        ),
        "ext2" | "ext3" | "f2fs" | "jfs" => {
            advise(Verdict::Hint, "ext4 and xfs are what Coati is measured on")
        }
        _ => Err(Unreadable::Untold(format!(
            "{has}: nothing is known of this file system"
        ))),
    }
}

fn mount_options(machine: &Machine) -> Read<Finding> {
    let mount = machine.mount.clone()?;
    let mut verdict = Verdict::Good;
    let mut bad = Vec::new();
    let mut advice = Vec::new();
    let point = &mount.point;
    let remount = |option: &str| format!("mount -o remount,{option} {point}");
    for (option, worse, instead) in [
        ("ro", Verdict::Critical, remount("rw")),
        ("nobarrier", Verdict::Critical, remount("barrier")),
        ("barrier=0", Verdict::Critical, remount("barrier=1")),
        (
            "discard",
            Verdict::Warning,
            format!(
                "{}, and `systemctl enable fstrim.timer`",
                remount("nodiscard")
            ),
        ),
        ("sync", Verdict::Warning, remount("async")),
        (
            "dirsync",
            Verdict::Warning,
            "mount it without dirsync".to_owned(),
        ),
        (
            "wsync",
            Verdict::Warning,
            "mount it without wsync".to_owned(),
        ),
        (
            "data=journal",
            Verdict::Warning,
            "mount it with data=ordered".to_owned(),
        ),
        ("strictatime", Verdict::Hint, remount("relatime")),
    ] {
        if mount.has(option) {
            verdict = verdict.max(worse);
            bad.push(option);
            advice.push(instead);
        }
    }
    let all = mount.options.join(",");
    if bad.is_empty() {
        return Ok(Finding::good(all));
    }
    let has = format!("{} (of {all})", bad.join(", "));
    Ok(Finding::new(verdict, has).advise(format!("{}; and in /etc/fstab", advice.join("; "))))
}

/// Puts together what is found of each disk.
fn of_each(
    machine: &Machine,
    mut look: impl FnMut(&Disk) -> Read<(String, Vec<Change>)>,
    verdict: Verdict,
) -> Read<Finding> {
    let mut has = Vec::new();
    let mut changes = Vec::new();
    for disk in &machine.disks.clone()? {
        let (found, wanted) = look(disk)?;
        has.push(format!("{} {found}", disk.name));
        changes.extend(wanted);
    }
    Ok(Finding::by_changes(verdict, has.join(", "), changes))
}

/// Virtual disks say that they rotate, or not, as somebody once typed.
fn rotates(machine: &Machine, disk: &Disk) -> Read<bool> {
    let is_virtual = ["vd", "xvd", "nvme", "loop"]
        .iter()
        .any(|prefix| disk.name.starts_with(prefix));
    let rotational: u64 = machine.root.number(&disk.setting("rotational"))?;
    Ok(rotational != 0 && !is_virtual)
}

fn scheduler(machine: &Machine) -> Read<Finding> {
    let look = |disk: &Disk| {
        let path = disk.setting("scheduler");
        let text = machine.root.text(&path)?;
        let chosen = machine.root.choice(&path, &SCHEDULERS)?;
        let wanted = if rotates(machine, disk)? {
            "mq-deadline"
        } else {
            "none"
        };
        let offered = text
            .split_whitespace()
            .any(|name| name.trim_matches(['[', ']']) == wanted);
        if chosen == wanted || !offered {
            return Ok((chosen, Vec::new()));
        }
        let mut changes = vec![Change::new(path, Form::Choice, wanted)];
        // Another scheduler comes with a number of requests and settings of its own.
        changes.push(Change::along(disk.setting("nr_requests"), Form::Words));
        let folder = disk.setting("iosched");
        for name in if_there(machine.root.names(&folder))?.unwrap_or_default() {
            changes.push(Change::along(format!("{folder}/{name}"), Form::Words));
        }
        Ok((chosen, changes))
    };
    of_each(machine, look, Verdict::Warning)
}

fn requests(machine: &Machine) -> Read<Finding> {
    let look = |disk: &Disk| {
        let path = disk.setting("nr_requests");
        let requests: u64 = machine.root.number(&path)?;
        let chosen = machine
            .root
            .choice(&disk.setting("scheduler"), &SCHEDULERS)?;
        // Without a scheduler it is the hardware's, and cannot be raised.
        let changes = match requests < REQUESTS_MIN && chosen != "none" {
            true => vec![Change::new(path, Form::Words, REQUESTS_MIN)],
            false => Vec::new(),
        };
        Ok((requests.to_string(), changes))
    };
    of_each(machine, look, Verdict::Hint)
}

/// Nothing here is ever written: it would tell the kernel of a cache what is not so.
fn cache(machine: &Machine) -> Read<Finding> {
    let mut has = Vec::new();
    let mut is_flushed = false;
    for disk in &machine.disks.clone()? {
        let path = disk.setting("write_cache");
        let cache = machine.root.text(&path)?;
        let fua: u64 = machine.root.number(&disk.setting("fua"))?;
        match cache.as_str() {
            "write through" => has.push(format!("{} {cache}", disk.name)),
            "write back" => {
                is_flushed |= fua == 0;
                let fua = if fua == 0 { "without FUA" } else { "with FUA" };
                has.push(format!("{} {cache} {fua}", disk.name));
            }
            _ => {
                return Err(Unreadable::malformed(
                    &path,
                    &cache,
                    "write back or write through",
                ));
            }
        }
    }
    let has = has.join(", ");
    Ok(match is_flushed {
        false => Finding::good(has),
        true => Finding::new(Verdict::Hint, has).advise(
            "a disk with power-loss protection; on a virtual machine, the host's disk decides",
        ),
    })
}
