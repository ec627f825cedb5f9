//! Owns tuners of the kernel itself: its version, io_uring, and what it lets a process have.

use crate::machine::Machine;
use crate::root::{Form, Read, Unreadable, if_there};
use crate::tuner::{Area, Change, Finding, Tuner, Verdict};

use super::bytes;

/// io_uring's deferred task work, on which each core's ring is built.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// The first with kernel.io_uring_disabled.
const KERNEL_OF_SWITCH: (u32, u32) = (6, 6);

/// A partition keeps a handful of files open, a connection one.
const DESCRIPTORS_MIN: u64 = 100_000;
/// What the machine as a whole should let processes have.
const DESCRIPTORS_OF_MACHINE: u64 = 1 << 20;

const LOCKED_BYTES_MIN: u64 = 64 << 20;
/// What systemd gives by itself.
const LOCKED_BYTES_USUAL: u64 = 8 << 20;
/// Of capabilities(7): memory locked by its holder is not counted.
const CAP_IPC_LOCK: u32 = 14;

pub const TUNERS: &[Tuner] = &[
    Tuner {
        name: "kernel-version",
        area: Area::Kernel,
        title: "kernel version",
        needs: "6.1 or newer",
        cost: "an older one lacks what each core's io_uring is set up with: the broker does not start",
        source: "io_uring_setup(2) (IORING_SETUP_DEFER_TASKRUN)",
        check: version,
    },
    Tuner {
        name: "io-uring",
        area: Area::Kernel,
        title: "io_uring allowed (kernel.io_uring_disabled)",
        needs: "0",
        cost: "with 2 the broker does not start; with 1 only as root, or in the group that kernel.io_uring_group names",
        source: "Documentation/admin-guide/sysctl/kernel.rst (io_uring_disabled)",
        check: uring_switch,
    },
    Tuner {
        name: "io-uring-features",
        area: Area::Kernel,
        title: "io_uring features, as the kernel tells this process",
        needs: "all that the broker uses",
        cost: "without one that is needed the broker does not start; for another it has a slower way",
        source: "io_uring_setup(2), io_uring_register(2) (IORING_REGISTER_PROBE)",
        check: uring_features,
    },
    Tuner {
        name: "aio",
        area: Area::Kernel,
        title: "requests of Linux AIO (fs.aio-max-nr)",
        needs: "nothing for Coati: it uses io_uring, which is not counted there",
        cost: "none; programs beside it that use libaio (databases) fail when all are taken",
        source: "Documentation/admin-guide/sysctl/fs.rst (aio-nr, aio-max-nr)",
        check: aio,
    },
    Tuner {
        name: "descriptors",
        area: Area::Kernel,
        title: "open files (RLIMIT_NOFILE, fs.nr_open, fs.file-max)",
        needs: "a hard limit of 100,000 or more; the broker raises its soft limit to it",
        cost: "with none left the broker accepts no connection and opens no segment: its log goes offline",
        source: "getrlimit(2); Documentation/admin-guide/sysctl/fs.rst (file-max, nr_open)",
        check: descriptors,
    },
    Tuner {
        name: "locked-memory",
        area: Area::Kernel,
        title: "locked memory (RLIMIT_MEMLOCK)",
        needs: "unlimited, or 64 MiB",
        cost: "io_uring counts the memory that each shard registers with the kernel against it (before Linux 5.12 its rings, too): what does not fit goes unregistered, at some cost for each operation, or the broker does not start",
        source: "getrlimit(2), io_uring_register(2)",
        check: locked_memory,
    },
];

fn version(machine: &Machine) -> Read<Finding> {
    let version = machine.kernel()?;
    let release = machine.root.text("/proc/sys/kernel/osrelease")?;
    Ok(match version >= KERNEL_MIN {
        true => Finding::good(release),
        false => Finding::new(Verdict::Critical, release)
            .advise("install a kernel of 6.1 or newer, such as the distribution's backport"),
    })
}

fn uring_switch(machine: &Machine) -> Read<Finding> {
    let path = "/proc/sys/kernel/io_uring_disabled";
    let Some(mode) = if_there(machine.root.number::<u64>(path))? else {
        let version = machine.kernel()?;
        return match version < KERNEL_OF_SWITCH {
            true => Ok(Finding::good("allowed: this kernel has no switch for it")),
            false => Err(Unreadable::Missing { path: path.into() }),
        };
    };
    let verdict = match mode {
        0 => return Ok(Finding::good("0")),
        1 => Verdict::Warning,
        2 => Verdict::Critical,
        _ => return Err(Unreadable::malformed(path, &mode.to_string(), "0, 1 or 2")),
    };
    let mut has = mode.to_string();
    if mode == 1 {
        let group: i64 = machine.root.number("/proc/sys/kernel/io_uring_group")?;
        match group {
            -1 => has.push_str(", for no group"),
            group => has.push_str(&format!(", for group {group}")),
        }
    }
    let changes = vec![Change::new(path, Form::Words, 0)];
    Ok(Finding::by_changes(verdict, has, changes))
}

fn uring_features(machine: &Machine) -> Read<Finding> {
    let features = match &machine.ring {
        None => {
            return Err(Unreadable::Untold(
                "only the kernel that runs can tell".into(),
            ));
        }
        Some(Ok(features)) => features,
        Some(Err(reason)) => {
            return Ok(Finding::new(Verdict::Critical, format!("none: {reason}")).advise(
                "see kernel-version and io-uring; in a container, a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register",
            ));
        }
    };
    let mut verdict = Verdict::Good;
    let mut missing = Vec::new();
    for feature in features.iter().filter(|feature| !feature.is_there) {
        verdict = verdict.max(match feature.is_needed {
            true => Verdict::Critical,
            false => Verdict::Hint,
        });
        missing.push(format!("{} (since {})", feature.name, feature.since));
    }
    let there = features.iter().filter(|feature| feature.is_there);
    let there = there
        .map(|feature| feature.name)
        .collect::<Vec<_>>()
        .join(", ");
    Ok(match missing.is_empty() {
        true => Finding::good(there),
        false => Finding::new(
            verdict,
            format!("without {}; has {there}", missing.join(", ")),
        )
        .advise("a newer kernel"),
    })
}

fn aio(machine: &Machine) -> Read<Finding> {
    let number = |name: &str| machine.root.number::<u64>(&format!("/proc/sys/fs/{name}"));
    let (most, used) = (number("aio-max-nr")?, number("aio-nr")?);
    Ok(Finding::good(format!("{most}, of which {used} are taken")))
}

/// A soft and a hard limit of this process; `None` is unlimited.
fn limit(machine: &Machine, name: &str) -> Read<(Option<u64>, Option<u64>)> {
    let path = "/proc/self/limits";
    let text = machine.root.text(path)?;
    let malformed = || Unreadable::malformed(path, &text, "a table of limits");
    let row = text.lines().find_map(|line| line.strip_prefix(name));
    let mut columns = row.ok_or_else(malformed)?.split_whitespace();
    let mut next = || match columns.next() {
        Some("unlimited") => Ok(None),
        Some(number) => number.parse().map(Some).map_err(|_| malformed()),
        None => Err(malformed()),
    };
    Ok((next()?, next()?))
}

fn descriptors(machine: &Machine) -> Read<Finding> {
    let (soft, hard) = limit(machine, "Max open files")?;
    let number = |limit: Option<u64>| limit.map_or("unlimited".into(), |limit| limit.to_string());
    let mut has = format!("hard limit {}, soft {}", number(hard), number(soft));
    let mut changes = Vec::new();
    for name in ["nr_open", "file-max"] {
        let path = format!("/proc/sys/fs/{name}");
        let most: u64 = machine.root.number(&path)?;
        if most < DESCRIPTORS_MIN {
            has.push_str(&format!(", fs.{name} {most}"));
            changes.push(Change::new(path, Form::Words, DESCRIPTORS_OF_MACHINE));
        }
    }
    let finding = Finding::by_changes(Verdict::Warning, has, changes);
    Ok(match hard.is_none_or(|hard| hard >= DESCRIPTORS_MIN) {
        true => finding,
        false => Finding {
            verdict: Verdict::Warning,
            ..finding
        }
        .advise("LimitNOFILE=infinity in the unit; `* hard nofile 1048576` in /etc/security/limits.conf for a shell"),
    })
}

fn locked_memory(machine: &Machine) -> Read<Finding> {
    let (_, hard) = limit(machine, "Max locked memory")?;
    let capabilities = machine.status("CapEff")?;
    let capabilities = u64::from_str_radix(&capabilities, 16).map_err(|_| {
        Unreadable::malformed(
            "/proc/self/status",
            &capabilities,
            "capabilities in hexadecimal",
        )
    })?;
    let Some(hard) = hard else {
        return Ok(Finding::good("unlimited"));
    };
    let has = bytes(hard);
    if capabilities & (1 << CAP_IPC_LOCK) != 0 {
        return Ok(Finding::good(format!(
            "{has}, which CAP_IPC_LOCK lifts for this process"
        )));
    }
    let verdict = match hard {
        LOCKED_BYTES_MIN.. => Verdict::Good,
        LOCKED_BYTES_USUAL.. => Verdict::Hint,
        _ => Verdict::Warning,
    };
    Ok(match verdict {
        Verdict::Good => Finding::good(has),
        _ => Finding::new(verdict, has).advise(
            "LimitMEMLOCK=infinity in the unit; `* hard memlock unlimited` in /etc/security/limits.conf for a shell",
        ),
    })
}
