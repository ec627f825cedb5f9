//! Owns reading /proc/self/mountinfo: which file system a folder lies in, and where the kernel's own trees are.

use std::path::Path;

use crate::root::{Read, Root, Unreadable};

const PATH: &str = "/proc/self/mountinfo";

#[derive(Clone, Debug, PartialEq)]
pub struct Mount {
    /// `259:2`.
    pub device: String,
    /// What of the file system is mounted.
    pub root: String,
    pub point: String,
    pub kind: String,
    pub source: String,
    /// Of the mount and of its file system, each once.
    pub options: Vec<String>,
}

impl Mount {
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|has| has == option)
    }
}

pub fn mounts(root: &Root) -> Read<Vec<Mount>> {
    let text = root.text(PATH)?;
    let mount = |line| parse(line).ok_or_else(|| Unreadable::malformed(PATH, line, "a mount"));
    text.lines().map(mount).collect()
}

/// The one that a path on the machine lies in.
pub fn mount_of(root: &Root, path: &str) -> Read<Mount> {
    let within = mounts(root)?
        .into_iter()
        .filter(|mount| Path::new(path).starts_with(&mount.point));
    // A later one on the same point hides the earlier.
    let deepest = within.reduce(
        |deepest, mount| match mount.point.len() >= deepest.point.len() {
            true => mount,
            false => deepest,
        },
    );
    deepest.ok_or_else(|| Unreadable::Untold(format!("{PATH} has no mount that {path} lies in")))
}

fn parse(line: &str) -> Option<Mount> {
    // Optional fields, of which there may be none, end with a dash.
    let (mount, system) = line.split_once(" - ")?;
    let mount: Vec<&str> = mount.split(' ').collect();
    let system: Vec<&str> = system.split(' ').collect();
    let [_id, _parent, device, root, point, own, ..] = mount[..] else {
        return None;
    };
    let [kind, source, ref others @ ..] = system[..] else {
        return None;
    };
    let (major, minor) = device.split_once(':')?;
    let (_, _): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
    let mut options: Vec<String> = Vec::new();
    for option in others
        .iter()
        .fold(own.to_owned(), |all, more| all + "," + more)
        .split(',')
    {
        if !options.iter().any(|known| known == option) {
            options.push(option.to_owned());
        }
    }
    Some(Mount {
        device: device.to_owned(),
        root: unescaped(root),
        point: unescaped(point),
        kind: kind.to_owned(),
        source: unescaped(source),
        options,
    })
}

/// White space and backslashes are three octal digits behind a backslash.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .get(..3)
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) if code.is_ascii() => {
                plain.push(char::from(code));
                plain.push_str(&part[3..]);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_whatever_its_optional_fields() {
        let line = r"36 35 259:2 /sub /mnt/a\040b rw,noatime shared:7 master:1 - ext4 /dev/nvme0n1p2 rw,discard";
        let mount = parse(line).unwrap();
        assert_eq!(mount.device, "259:2");
        assert_eq!((&*mount.root, &*mount.point), ("/sub", "/mnt/a b"));
        assert_eq!((&*mount.kind, &*mount.source), ("ext4", "/dev/nvme0n1p2"));
        assert_eq!(mount.options, ["rw", "noatime", "discard"]);
        assert_eq!(parse("36 35 259:2 / / rw - ext4"), None);
        assert_eq!(parse("36 35 disk / / rw - ext4 x rw"), None);
        assert_eq!(parse(""), None);
        assert_eq!(unescaped(r"a\134b\9"), r"a\b\9");
    }

    #[test]
    fn the_deepest_mount_has_the_folder_and_the_last_hides_others() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("proc/self")).unwrap();
        let lines = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
                     2 1 8:2 / /data rw - xfs /dev/sdb1 rw\n\
                     3 2 8:3 / /data rw - xfs /dev/sdc1 rw\n\
                     4 1 8:4 / /data-old rw - xfs /dev/sdd1 rw\n";
        std::fs::write(folder.path().join("proc/self/mountinfo"), lines).unwrap();
        let root = Root::new(folder.path());
        assert_eq!(mount_of(&root, "/data/coati").unwrap().device, "8:3");
        assert_eq!(mount_of(&root, "/var").unwrap().device, "8:1");
    }
}
