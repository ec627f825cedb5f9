//! Owns what the machine tells of the broker when it runs here: CPU time, resident memory, bytes written, and
//! how often its disk was flushed.
//! Reads /proc and /sys only; of a broker elsewhere there is nothing to tell.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Clock ticks a second in /proc, the same on every Linux that we run on.
pub const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

/// A process of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    id: u32,
    disk: Option<Disk>,
}

/// A block device, by its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disk {
    major: u32,
    minor: u32,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    pub resident_bytes: u64,
    pub written_bytes: u64,
    /// Flushes that the disk of its data has completed, for whatever process; `None` where no disk tells.
    pub disk_flushes: Option<u64>,
}

impl Process {
    pub fn with_id(id: u32) -> Process {
        Process {
            id,
            disk: disk_of(id),
        }
    }

    pub fn own() -> Process {
        Process {
            id: std::process::id(),
            disk: None,
        }
    }

    /// The process that listens on a TCP port here; `None` if there is none or we may not look.
    pub fn listening_on(port: u16) -> Option<Process> {
        let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
            .iter()
            .filter_map(|path| fs::read_to_string(path).ok())
            .flat_map(|table| listening_inodes(&table, port))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        let processes = fs::read_dir("/proc").ok()?;
        for entry in processes.flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else {
                continue;
            };
            let listens = descriptors.flatten().any(|descriptor| {
                fs::read_link(descriptor.path())
                    .ok()
                    .and_then(|link| Some(sockets.contains(&link.to_str()?.to_owned())))
                    .unwrap_or(false)
            });
            if listens {
                return Some(Process::with_id(id));
            }
        }
        None
    }

    pub fn usage(&self) -> Usage {
        let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", self.id));
        let cpu_ticks = read("stat").ok().and_then(|stat| cpu_ticks(&stat));
        let pages: Option<u64> = read("statm")
            .ok()
            .and_then(|statm| statm.split(' ').nth(1)?.parse().ok());
        let written = read("io").ok().and_then(|io| {
            io.lines()
                .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
        });
        Usage {
            cpu: Duration::from_secs_f64(cpu_ticks.unwrap_or(0) as f64 / TICKS_PER_SECOND),
            resident_bytes: pages.unwrap_or(0) * PAGE_BYTES,
            written_bytes: written.unwrap_or(0),
            disk_flushes: self.disk.and_then(Disk::flushes),
        }
    }
}

/// The disk with the data of a broker, which holds a file `.lock` open there, as Apache Kafka does.
fn disk_of(id: u32) -> Option<Disk> {
    let mut descriptors = fs::read_dir(format!("/proc/{id}/fd")).ok()?.flatten();
    let is_lock = |path: &Path| {
        let target = fs::read_link(path).ok();
        target.is_some_and(|target| target.file_name().is_some_and(|name| name == ".lock"))
    };
    let lock = descriptors.find_map(|entry| Some(entry.path()).filter(|path| is_lock(path)))?;
    let device = fs::metadata(lock).ok()?.dev();
    Some(Disk {
        major: libc::major(device),
        minor: libc::minor(device),
    })
}

impl Disk {
    /// Counted for whole disks only, which is where a flush goes.
    fn flushes(self) -> Option<u64> {
        let device = format!("/sys/dev/block/{}:{}", self.major, self.minor);
        let whole = if Path::new(&device).join("partition").exists() {
            format!("{device}/../stat")
        } else {
            format!("{device}/stat")
        };
        flushes(&fs::read_to_string(whole).ok()?)
    }
}

/// The sixteenth field, of Linux 5.5 and later.
fn flushes(stat: &str) -> Option<u64> {
    stat.split_ascii_whitespace().nth(15)?.parse().ok()
}

/// Inodes of the listening sockets on a port, from a table as in /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let local = fields.next()?;
            let state = fields.nth(1)?;
            let inode = fields.nth(5)?.parse().ok()?;
            (local.ends_with(&suffix) && state == LISTEN).then_some(inode)
        })
        .collect()
}

/// User and system time of /proc/PID/stat; the name in it may hold anything, so fields count from its end.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = Process::listening_on(port).unwrap();
        assert_eq!(found.id, std::process::id());
        assert!(found.usage().resident_bytes > 0);
        drop(listener);
        assert!(Process::listening_on(port).is_none());
    }

    #[test]
    fn flushes_are_told_by_kernels_that_count_them() {
        let stat = " 1 2 3 4 5 6 7 8 0 10 11 12 13 14 15 537482 92464\n";
        assert_eq!(flushes(stat), Some(537_482));
        assert_eq!(flushes("1 2 3 4 5 6 7 8 0 10 11"), None);
    }

    #[test]
    fn names_with_spaces_and_brackets_hide_no_field() {
        let stat = "12 (a ) b) S 1 1 1 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 3 0";
        assert_eq!(cpu_ticks(stat), Some(300));
    }
}
