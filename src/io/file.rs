//! Owns one open file: direct, buffered or simulated. Positions and memory of writes are aligned to
//! [`BLOCK`]; reads go through the page cache and need no alignment.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, Bytes};

use super::BLOCK;
use super::FileRange;
use super::file_range::read_direct;
use super::ring;
#[cfg(feature = "simulation")]
use super::simulated::SimulatedFile;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Reads through the page cache.
    Read,
    /// Reads past the page cache, where the file system can, and ranges of the file for sockets.
    Serve,
    /// Aligned direct writes into an existing file.
    Write,
    /// As `Write`, for a file that may not exist yet; what it held stays.
    Create,
}

/// An open file. Clones share the descriptor; an operation in flight keeps it open.
#[derive(Clone)]
pub struct File(Kind);

#[derive(Clone)]
enum Kind {
    Real(RealFile),
    #[cfg(feature = "simulation")]
    Simulated(SimulatedFile),
}

#[derive(Clone)]
struct RealFile {
    descriptor: Arc<OwnedFd>,
    /// The same file once more, for direct reads.
    direct: Option<Arc<OwnedFd>>,
    /// Set once any file of this disk was refused direct I/O.
    refuses_direct: Arc<AtomicBool>,
}

impl File {
    pub(super) fn real(
        descriptor: OwnedFd,
        direct: Option<OwnedFd>,
        refuses_direct: Arc<AtomicBool>,
    ) -> File {
        File(Kind::Real(RealFile {
            descriptor: Arc::new(descriptor),
            direct: direct.map(Arc::new),
            refuses_direct,
        }))
    }

    #[cfg(feature = "simulation")]
    pub(super) fn simulated(file: SimulatedFile) -> File {
        File(Kind::Simulated(file))
    }

    /// Writes `parts` one after another at `position`. Each part starts at an aligned address and
    /// its length is a multiple of [`BLOCK`], as is `position`. Completes when the device has
    /// taken the bytes, which is not yet stable storage.
    pub async fn write_at(&self, parts: Vec<Bytes>, position: u64) -> io::Result<()> {
        assert!(position.is_multiple_of(BLOCK as u64));
        for part in &parts {
            assert!(part.len().is_multiple_of(BLOCK));
            assert!((part.as_ptr() as usize).is_multiple_of(BLOCK));
        }
        match &self.0 {
            Kind::Real(file) => file.write_at(parts, position).await,
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => file.write_at(parts, position).await,
        }
    }

    /// Up to `length` bytes at `position`; fewer only at the end of the file.
    pub async fn read_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        match &self.0 {
            Kind::Real(file) => file.read_at(position, length).await,
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => file.read_at(position, length).await,
        }
    }

    /// Brings all completed writes and the file's size to stable storage. After an error nothing
    /// is known about them, and trying again proves nothing: the kernel reports an error once.
    pub async fn sync_data(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => ring::sync(&file.descriptor, false).await.0.map(drop),
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => file.sync_data().await,
        }
    }

    /// Cuts the file at `length`, or extends it with zeroes.
    pub async fn truncate(&self, length: u64) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => file.truncate(length).await,
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => file.truncate(length).await,
        }
    }

    /// Reserves space, and extends the file over it with zeroes. `Unsupported` where the file
    /// system has no such thing.
    pub async fn allocate(&self, from: u64, length: u64) -> io::Result<()> {
        match &self.0 {
            Kind::Real(file) => match ring::allocate(&file.descriptor, from, length).await.0 {
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    Err(io::ErrorKind::Unsupported.into())
                }
                result => result.map(drop),
            },
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => file.allocate(from, length).await,
        }
    }

    /// Makes later reads come from the device: after a failed sync the page cache may still hold what
    /// the device has lost.
    pub fn forget_cached(&self) {
        self.advise(libc::POSIX_FADV_DONTNEED);
    }

    /// Reads bring what they ask for and nothing ahead of it: the megabytes that a device's readahead
    /// is allowed would stand between a write and the device for milliseconds.
    pub fn read_nothing_ahead(&self) {
        self.advise(libc::POSIX_FADV_RANDOM);
    }

    fn advise(&self, advice: i32) {
        match &self.0 {
            Kind::Real(file) => {
                // SAFETY: a plain system call on an open descriptor; only advice, so its result says
                // nothing of interest.
                unsafe { libc::posix_fadvise(file.descriptor.as_raw_fd(), 0, 0, advice) };
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => {}
        }
    }

    pub fn len(&self) -> io::Result<u64> {
        match &self.0 {
            Kind::Real(file) => {
                // SAFETY: all-zero is a valid stat.
                let mut stat: libc::stat = unsafe { std::mem::zeroed() };
                // SAFETY: an open descriptor and memory of the right type.
                let result = unsafe { libc::fstat(file.descriptor.as_raw_fd(), &raw mut stat) };
                if result < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(stat.st_size as u64)
            }
            #[cfg(feature = "simulation")]
            Kind::Simulated(file) => Ok(file.len()),
        }
    }

    pub fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Bytes of a real file that are to be sent, not read now.
    pub fn range(&self, position: u64, length: u32) -> Option<FileRange> {
        match &self.0 {
            Kind::Real(file) => Some(FileRange {
                file: file.descriptor.clone(),
                direct: file.direct.clone(),
                position,
                length,
            }),
            #[cfg(feature = "simulation")]
            Kind::Simulated(_) => None,
        }
    }
}

impl RealFile {
    async fn write_at(&self, parts: Vec<Bytes>, position: u64) -> io::Result<()> {
        let (mut parts, mut position) = (parts, position);
        while !parts.is_empty() {
            let (result, payload) = ring::write(&self.descriptor, parts, position).await;
            let ring::Payload::Write { parts: back, .. } = payload else {
                unreachable!("a write hands its parts back")
            };
            parts = back;
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    // A short write need not end on a block: go back to where one begins.
                    let whole = count as usize / BLOCK * BLOCK;
                    if whole == 0 {
                        return Err(io::ErrorKind::WriteZero.into());
                    }
                    position += whole as u64;
                    advance(&mut parts, whole);
                }
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && self.is_direct()? => {
                    self.stop_direct()?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn read_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let mut whole: Option<bytes::BytesMut> = None;
        let mut done = 0;
        if let Some(direct) = &self.direct {
            match read_direct(direct, position, length).await {
                Ok(bytes) if bytes.len() == length => return Ok(bytes),
                Ok(bytes) => {
                    done = bytes.len();
                    whole = Some(bytes::BytesMut::from(&bytes[..]));
                }
                // As in `FileRange::read`; or a signal came.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EINTR)) => {}
                Err(error) => return Err(error),
            }
        }
        while done < length {
            let operation = ring::read(&self.descriptor, position + done as u64, length - done);
            let (result, payload) = operation.await;
            let count = match result {
                Ok(count) => count,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => continue,
                Err(error) => return Err(error),
            };
            let bytes = ring::bytes_read(payload, count);
            done += bytes.len();
            let last = bytes.is_empty() || done == length;
            match &mut whole {
                None if last => return Ok(bytes),
                None => whole = Some(bytes::BytesMut::from(&bytes[..])),
                Some(whole) => whole.extend_from_slice(&bytes),
            }
            if last {
                break;
            }
        }
        Ok(whole.unwrap_or_default().freeze())
    }

    async fn truncate(&self, length: u64) -> io::Result<()> {
        match ring::truncate(&self.descriptor, length).await.0 {
            // Kernels before 6.9 have no such operation in the ring.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                // SAFETY: a plain system call on an open descriptor.
                let result =
                    unsafe { libc::ftruncate(self.descriptor.as_raw_fd(), length as libc::off_t) };
                if result < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn flags(&self) -> io::Result<i32> {
        // SAFETY: a plain system call on an open descriptor.
        let flags = unsafe { libc::fcntl(self.descriptor.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(flags)
    }

    fn is_direct(&self) -> io::Result<bool> {
        Ok(self.flags()? & libc::O_DIRECT != 0)
    }

    /// Some file systems accept the flag and refuse the write.
    fn stop_direct(&self) -> io::Result<()> {
        let flags = self.flags()? & !libc::O_DIRECT;
        // SAFETY: as above.
        if unsafe { libc::fcntl(self.descriptor.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        warn_once(&self.refuses_direct);
        Ok(())
    }
}

pub(super) fn warn_once(refuses_direct: &AtomicBool) {
    if !refuses_direct.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "the file system of the data folder refuses direct I/O: writing through the page cache"
        );
    }
}

fn advance(parts: &mut Vec<Bytes>, count: usize) {
    let mut left = count;
    let mut consumed = 0;
    for part in parts.iter_mut() {
        let step = left.min(part.len());
        part.advance(step);
        left -= step;
        if !part.is_empty() {
            break;
        }
        consumed += 1;
    }
    parts.drain(..consumed);
}

/// Whether a file's range is in the page cache, so that reading it will hardly wait.
pub fn resident(descriptor: &OwnedFd, position: u64, length: u32) -> bool {
    if length == 0 {
        return true;
    }
    let last = position + u64::from(length) - 1;
    match pages_cached(descriptor, position, length) {
        Some(cached) => cached == last / page_bytes() - position / page_bytes() + 1,
        None => byte_resident(descriptor, position) && byte_resident(descriptor, last),
    }
}

/// Pages of the range that the page cache holds; `None` where the kernel cannot tell (before 6.5, or
/// where a sandbox forbids the question). Asking this way brings nothing in and evicts nothing.
fn pages_cached(descriptor: &OwnedFd, position: u64, length: u32) -> Option<u64> {
    /// The same number on all architectures; the C library's bindings do not have it yet.
    const CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        position: u64,
        length: u64,
    }
    let range = Range {
        position,
        length: u64::from(length),
    };
    // Pages in the cache, dirty, under writeback, evicted, evicted recently.
    let mut pages = [0u64; 5];
    // SAFETY: an open descriptor, and both structures have the layout the call is documented with.
    let result = unsafe {
        libc::syscall(
            CACHESTAT,
            descriptor.as_raw_fd(),
            &raw const range,
            pages.as_mut_ptr(),
            0,
        )
    };
    (result == 0).then_some(pages[0])
}

fn page_bytes() -> u64 {
    // SAFETY: a plain call without pointers.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as u64 }
}

fn byte_resident(descriptor: &OwnedFd, position: u64) -> bool {
    let mut byte = 0u8;
    let target = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    // SAFETY: reads at most one byte into one byte.
    let result = unsafe {
        libc::preadv2(
            descriptor.as_raw_fd(),
            &raw const target,
            1,
            position as libc::off_t,
            libc::RWF_NOWAIT,
        )
    };
    result == 1
}
