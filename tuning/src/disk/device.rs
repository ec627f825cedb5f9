//! Owns what the measurement needs of a disk. The binary hands in the broker's own way to it, so that what is measured is what
//! the broker does; tests hand in one on which time passes as they say.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;

/// Positions and lengths of direct writes and reads are multiples of this.
pub const BLOCK: usize = 4096;

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    /// What this process may still write.
    pub usable: u64,
}

/// A file system, on the executor that does its I/O.
pub trait Disk: 'static {
    type File: File;

    fn now(&self) -> Instant;

    /// A new file, for direct writes and for reads that leave the page cache alone.
    fn create(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;

    /// Whether no file was refused direct I/O until now; one that is goes through the page cache instead.
    fn is_direct(&self) -> bool;

    /// These bytes, a multiple of [`BLOCK`], in memory that direct writes take; slices of it at multiples of [`BLOCK`] are as
    /// good.
    fn aligned(&self, content: &[u8]) -> Bytes;

    /// Of the file system that `folder` lies in.
    fn space(&self, folder: &Path) -> io::Result<Space>;

    /// Whether a broker runs that has this data folder.
    fn is_in_use(&self, folder: &Path) -> bool;

    /// Resolves when the process is told to end (SIGINT, SIGTERM).
    fn interrupted(&self) -> impl Future<Output = ()>;
}

/// An open file. Clones are of the same one.
pub trait File: Clone + 'static {
    /// Completes when the device has taken the bytes, which is not yet stable storage.
    fn write(&self, bytes: Bytes, position: u64) -> impl Future<Output = io::Result<()>>;

    /// As many bytes as the broker gets at once when it reads what is in no memory; 0 at the end of the file.
    fn read(&self, position: u64, length: usize) -> impl Future<Output = io::Result<usize>>;

    /// Brings what is written to stable storage (fdatasync).
    fn sync(&self) -> impl Future<Output = io::Result<()>>;

    fn truncate(&self, length: u64) -> impl Future<Output = io::Result<()>>;

    /// Reserves space and extends the file over it. `Unsupported` where the file system has no such thing.
    fn allocate(&self, from: u64, length: u64) -> impl Future<Output = io::Result<()>>;
}
