//! Owns files by name: opening, listing, renaming, removing, and the two ways to put a whole small
//! file in place. Calls that only touch a directory are cheap and run where they stand; what may
//! wait for the device (fsync, removal of large files) goes through the ring.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::marker::PhantomData;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::ids::TimestampMs;

use super::file::{File, Mode, warn_once};
use super::ring;
#[cfg(feature = "simulation")]
use super::simulated::SimulatedDisk;

/// A handle on the file system, or on a simulated one. Belongs to one thread.
#[derive(Clone)]
pub struct Disk {
    kind: Kind,
    /// The ring it uses is this thread's.
    _thread: PhantomData<Rc<()>>,
}

#[derive(Clone)]
enum Kind {
    Real {
        refuses_direct: Arc<AtomicBool>,
    },
    #[cfg(feature = "simulation")]
    Simulated(SimulatedDisk),
}

/// A name in a folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: String,
    /// Bytes; 0 for a folder.
    pub length: u64,
    pub is_dir: bool,
    /// When its content last changed.
    pub modified_ms: TimestampMs,
}

impl Disk {
    /// Direct I/O wherever the file system has it, buffered elsewhere (with one warning).
    pub fn direct() -> Disk {
        Disk::real(false)
    }

    /// Writes through the page cache.
    pub fn buffered() -> Disk {
        Disk::real(true)
    }

    fn real(refuses_direct: bool) -> Disk {
        Disk {
            kind: Kind::Real {
                refuses_direct: Arc::new(AtomicBool::new(refuses_direct)),
            },
            _thread: PhantomData,
        }
    }

    /// Whether no file was refused direct I/O until now.
    pub fn is_direct(&self) -> bool {
        match &self.kind {
            Kind::Real { refuses_direct } => !refuses_direct.load(Ordering::Relaxed),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => true,
        }
    }

    #[cfg(feature = "simulation")]
    pub fn simulated(disk: SimulatedDisk) -> Disk {
        Disk {
            kind: Kind::Simulated(disk),
            _thread: PhantomData,
        }
    }

    pub async fn open(&self, path: &Path, mode: Mode) -> io::Result<File> {
        match &self.kind {
            Kind::Real { refuses_direct } => {
                let descriptor = open_real(path, mode, refuses_direct)?;
                let direct = (mode == Mode::Serve)
                    .then(|| open_direct(path, refuses_direct))
                    .flatten();
                Ok(File::real(descriptor, direct, refuses_direct.clone()))
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.open(path, mode).map(File::simulated),
        }
    }

    pub async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Real { .. } => std::fs::create_dir_all(path),
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.create_dir_all(path),
        }
    }

    pub async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Real { .. } => std::fs::rename(from, to),
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.rename(from, to),
        }
    }

    pub async fn remove(&self, path: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Real { .. } => {
                let path = CString::new(path.as_os_str().as_bytes())?;
                ring::unlink(path).await.0.map(drop)
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.remove(path),
        }
    }

    /// Removes a folder with all files in it, file by file through the ring; it has no folders of
    /// its own.
    pub async fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        for entry in self.list(path).await? {
            self.remove(&path.join(entry.name)).await?;
        }
        match &self.kind {
            Kind::Real { .. } => std::fs::remove_dir(path),
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.remove(path),
        }
    }

    /// The names in a folder, sorted.
    pub async fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = match &self.kind {
            Kind::Real { .. } => list_real(path)?,
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.list(path)?,
        };
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    pub async fn exists(&self, path: &Path) -> io::Result<bool> {
        match &self.kind {
            Kind::Real { .. } => path.try_exists(),
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => Ok(disk.exists(path)),
        }
    }

    /// Makes the creations, renames and removals in a folder durable.
    pub async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Real { .. } => {
                let dir: OwnedFd = std::fs::File::open(path)?.into();
                ring::sync(&Arc::new(dir), true).await.0.map(drop)
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.sync_dir(path).await,
        }
    }

    /// A whole small file, read where it stands.
    pub async fn read_file(&self, path: &Path) -> io::Result<Bytes> {
        match &self.kind {
            Kind::Real { .. } => {
                let mut bytes = Vec::new();
                std::fs::File::open(path)?.read_to_end(&mut bytes)?;
                Ok(bytes.into())
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.read_file(path),
        }
    }

    /// Writes a whole file, unsynced: after a crash it may be missing, empty or torn.
    pub async fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        match &self.kind {
            Kind::Real { .. } => std::fs::write(path, bytes),
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => disk.write_file(path, bytes),
        }
    }

    /// Puts a whole file in place durably: after a crash there is the old content or the new, and
    /// once this returned, the new.
    pub async fn write_file_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.write_file_synced(path, bytes).await?;
        let dir = path.parent().expect("a file has a folder");
        self.sync_dir(dir).await
    }

    /// Puts a whole file in place: after a crash there is the old content or the new, and the new for certain once
    /// somebody has synced the folder.
    pub async fn write_file_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        match &self.kind {
            Kind::Real { .. } => {
                let mut file = std::fs::File::create(&temporary)?;
                file.write_all(bytes)?;
                let file: OwnedFd = file.into();
                ring::sync(&Arc::new(file), true).await.0?;
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(disk) => {
                disk.write_file(&temporary, bytes)?;
                disk.open(&temporary, Mode::Read)?.sync_data().await?;
            }
        }
        self.rename(&temporary, path).await
    }
}

fn open_real(path: &Path, mode: Mode, refuses_direct: &AtomicBool) -> io::Result<OwnedFd> {
    let mut options = std::fs::OpenOptions::new();
    let writes = matches!(mode, Mode::Write | Mode::Create);
    options.read(true).write(writes);
    options.create(mode == Mode::Create);
    if writes && !refuses_direct.load(Ordering::Relaxed) {
        options.custom_flags(libc::O_DIRECT);
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                warn_once(refuses_direct);
                options.custom_flags(0);
            }
            result => return result.map(OwnedFd::from),
        }
    }
    options.open(path).map(OwnedFd::from)
}

/// For direct reads, unless the file system is known to have none.
fn open_direct(path: &Path, refuses_direct: &AtomicBool) -> Option<OwnedFd> {
    if refuses_direct.load(Ordering::Relaxed) {
        return None;
    }
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_DIRECT);
    options.open(path).ok().map(OwnedFd::from)
}

fn list_real(path: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        // Names of ours and of Kafka are ASCII; others are no business of ours.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let metadata = entry.metadata()?;
        let is_dir = metadata.is_dir();
        let length = if is_dir { 0 } else { metadata.len() };
        entries.push(Entry {
            name,
            length,
            is_dir,
            modified_ms: modified_ms(&metadata),
        });
    }
    Ok(entries)
}

fn modified_ms(metadata: &std::fs::Metadata) -> TimestampMs {
    let modified = metadata.modified().unwrap_or(std::time::UNIX_EPOCH);
    let since = modified.duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as TimestampMs)
}
