//! Owns reading control groups, of both versions: how much CPU and memory this process may have.

use crate::mounts::{self, Mount};
use crate::root::{Read, Root, Unreadable, if_there};

const PATH: &str = "/proc/self/cgroup";

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quota {
    /// How many CPUs' time all threads together may use.
    pub cpus: f64,
    pub period_ms: u64,
}

/// The smallest of the process's group and of all that it lies in; `None` without a limit.
pub fn cpu_quota(root: &Root) -> Read<Option<Quota>> {
    let mut least: Option<Quota> = None;
    for (version, folder) in groups(root, "cpu")? {
        let quota = match version {
            Version::Two => quota_of_v2(root, &folder)?,
            Version::One => quota_of_v1(root, &folder)?,
        };
        least = match (least, quota) {
            (Some(least), Some(quota)) if quota.cpus >= least.cpus => Some(least),
            (least, None) => least,
            (_, quota) => quota,
        };
    }
    Ok(least)
}

/// Bytes that the process and all in its groups may have, if that is bounded.
pub fn memory_limit(root: &Root) -> Read<Option<u64>> {
    let mut least = None;
    for (version, folder) in groups(root, "memory")? {
        let path = match version {
            Version::Two => format!("{folder}/memory.max"),
            Version::One => format!("{folder}/memory.limit_in_bytes"),
        };
        // The root group has none.
        let Some(text) = if_there(root.text(&path))? else {
            continue;
        };
        if text == "max" {
            continue;
        }
        let limit: u64 = root.number(&path)?;
        least = Some(least.map_or(limit, |least: u64| least.min(limit)));
    }
    Ok(least)
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Version {
    One,
    Two,
}

/// The folders of the process's groups that have this controller, and of those that they lie in.
fn groups(root: &Root, controller: &str) -> Read<Vec<(Version, String)>> {
    let text = root.text(PATH)?;
    let mounts = mounts::mounts(root)?;
    let mut all = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.splitn(3, ':').collect();
        let [_, controllers, group] = fields[..] else {
            return Err(Unreadable::malformed(PATH, line, "a control group"));
        };
        let version = match controllers.is_empty() {
            true => Version::Two,
            false => Version::One,
        };
        if version == Version::One && !controllers.split(',').any(|name| name == controller) {
            continue;
        }
        let is_its = |mount: &&Mount| match version {
            Version::Two => mount.kind == "cgroup2",
            Version::One => mount.kind == "cgroup" && mount.has(controller),
        };
        if let Some(mount) = mounts.iter().find(is_its) {
            all.extend(
                folders(mount, group)
                    .into_iter()
                    .map(|folder| (version, folder)),
            );
        }
    }
    Ok(all)
}

/// Of a group and those that it lies in, as far as they are mounted.
fn folders(mount: &Mount, group: &str) -> Vec<String> {
    // A container sees its own group as the root, or is told the host's path and has only its own mounted.
    let below = match mount.root.as_str() {
        "/" => group,
        root => group.strip_prefix(root).unwrap_or(""),
    };
    let mut folder = format!("{}/{}", mount.point, below.trim_matches('/'));
    let mut folders = Vec::new();
    while folder.len() >= mount.point.len() {
        folders.push(folder.trim_end_matches('/').to_owned());
        match folder.trim_end_matches('/').rfind('/') {
            Some(end) => folder.truncate(end),
            None => break,
        }
    }
    folders
}

/// `200000 100000`, or `max` for the first.
fn quota_of_v2(root: &Root, folder: &str) -> Read<Option<Quota>> {
    let path = format!("{folder}/cpu.max");
    // The root group has none.
    let Some(text) = if_there(root.text(&path))? else {
        return Ok(None);
    };
    let malformed = || Unreadable::malformed(&path, &text, "a quota and a period in us");
    let (quota, period) = text.split_once(' ').ok_or_else(malformed)?;
    let period: u64 = period.parse().map_err(|_| malformed())?;
    if quota == "max" {
        return Ok(None);
    }
    let quota: u64 = quota.parse().map_err(|_| malformed())?;
    if period == 0 {
        return Err(malformed());
    }
    Ok(Some(Quota::of(quota, period)))
}

fn quota_of_v1(root: &Root, folder: &str) -> Read<Option<Quota>> {
    let quota_path = format!("{folder}/cpu.cfs_quota_us");
    let Some(quota) = if_there(root.number::<i64>(&quota_path))? else {
        return Ok(None);
    };
    // -1 is no limit.
    let Ok(quota) = u64::try_from(quota) else {
        return Ok(None);
    };
    let path = format!("{folder}/cpu.cfs_period_us");
    match root.number(&path)? {
        0 => Err(Unreadable::malformed(&path, "0", "a period in us")),
        period => Ok(Some(Quota::of(quota, period))),
    }
}

impl Quota {
    fn of(quota_us: u64, period_us: u64) -> Quota {
        Quota {
            cpus: quota_us as f64 / period_us as f64,
            period_ms: period_us / 1000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(root: &str) -> Mount {
        Mount {
            device: "0:30".into(),
            root: root.into(),
            point: "/sys/fs/cgroup".into(),
            kind: "cgroup2".into(),
            source: "cgroup".into(),
            options: Vec::new(),
        }
    }

    #[test]
    fn a_group_is_looked_for_with_all_it_lies_in() {
        let all = folders(&mount("/"), "/system.slice/coati.service");
        let slice = "/sys/fs/cgroup/system.slice";
        assert_eq!(
            all,
            [&format!("{slice}/coati.service"), slice, "/sys/fs/cgroup"]
        );
        assert_eq!(folders(&mount("/"), "/"), ["/sys/fs/cgroup"]);
        assert_eq!(
            folders(&mount("/docker/ab"), "/docker/ab"),
            ["/sys/fs/cgroup"]
        );
        assert_eq!(
            folders(&mount("/"), "/../other"),
            [
                "/sys/fs/cgroup/../other",
                "/sys/fs/cgroup/..",
                "/sys/fs/cgroup"
            ]
        );
    }
}
