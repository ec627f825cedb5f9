//! Owns what the process asks of its machine once, at start: descriptors, cores, locks, signals.
//! It never runs after the shards have started, but for the signals.
#![allow(
    unsafe_code,
    reason = "system calls on the process itself: limits, affinity, file lock"
)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Raises the soft limit of open descriptors to the hard one. Answers the limit now in force.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the struct we hand it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the struct lives through the call.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

/// The machine's name on its network; `localhost` when it has none.
pub fn host_name() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the kernel writes at most the length we name, and the last byte stays zero.
    let result = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(0);
    match std::str::from_utf8(&name[..length]) {
        Ok(name) if result == 0 && !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

/// The CPUs this process may run on, ascending: a container's or taskset's choice is respected.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: a zeroed cpu_set_t is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the set we hand it, of the size we name.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect())
}

/// Memory that this thread touches first comes from the node, as long as that has some. A container may not be let.
pub fn prefer_memory_of(node: u32) -> io::Result<()> {
    const BITS: usize = libc::c_ulong::BITS as usize;
    let mut nodes: [libc::c_ulong; NODES_MAX / BITS] = [0; NODES_MAX / BITS];
    let node = node as usize;
    if node >= NODES_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    nodes[node / BITS] = 1 << (node % BITS);
    // SAFETY: the kernel reads as many bits as we name, of which the last is not counted.
    let set = unsafe {
        libc::syscall(
            libc::SYS_set_mempolicy,
            libc::MPOL_PREFERRED,
            nodes.as_ptr(),
            NODES_MAX + 1,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The memory node of the CPU that this thread is on.
pub fn memory_node() -> u32 {
    let mut node: libc::c_uint = 0;
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the kernel writes the one number it was given a place for.
    unsafe { libc::syscall(libc::SYS_getcpu, nothing, &mut node, nothing) };
    node
}

/// This thread runs when the CPU has little else to do.
pub fn be_nice() -> io::Result<()> {
    const NICEST: libc::c_int = 19;
    // SAFETY: two numbers; on Linux 0 is the thread that calls.
    match unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICEST) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory nodes that a kernel may have.
const NODES_MAX: usize = 1024;

/// Held while the broker runs; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

const LOCK_FILE: &str = ".lock";

impl FolderLock {
    /// Locks `folder` by its `.lock` file, as Apache Kafka does. `WouldBlock` when another process holds it.
    pub fn take(folder: &Path) -> io::Result<FolderLock> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join(LOCK_FILE))?;
        let lock = whole_file_lock();
        // SAFETY: the struct lives through the call.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &lock) } != 0 {
            let error = io::Error::last_os_error();
            return Err(match error.raw_os_error() {
                Some(libc::EACCES | libc::EAGAIN) => io::ErrorKind::WouldBlock.into(),
                _ => error,
            });
        }
        Ok(FolderLock { _file: file })
    }

    /// Whether another process holds it; a lock that cannot be looked at counts as free.
    pub fn is_held(folder: &Path) -> bool {
        let Ok(file) = File::open(folder.join(LOCK_FILE)) else {
            return false;
        };
        let mut lock = whole_file_lock();
        // SAFETY: the struct lives through the call, which says in it who is in the way.
        let asked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) };
        asked == 0 && lock.l_type != libc::F_UNLCK as libc::c_short
    }
}

/// Java's FileLock is a POSIX record lock: taking the same kind keeps the two brokers apart.
fn whole_file_lock() -> libc::flock {
    // SAFETY: a zeroed flock is a valid one for the whole file.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock
}

/// Bytes of memory that are this process' own or mapped and resident; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = sizes
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    // SAFETY: asks for a number.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages.unwrap_or(0) * u64::try_from(page_bytes).unwrap_or(0)
}

/// What the kernel calls this thread.
pub fn thread_name() -> String {
    let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
    name.trim_end().to_owned()
}

/// What the kernel numbers a thread of this process by.
#[derive(Debug, Clone, Copy)]
pub struct ThreadId(libc::pid_t);

/// This thread's.
pub fn thread_id() -> ThreadId {
    // SAFETY: asks for a number.
    ThreadId(unsafe { libc::gettid() })
}

/// Wakes a thread from the system call it waits in; it is to go on as if nothing was. One that has ended is not minded.
pub fn interrupt_thread(thread: ThreadId) -> io::Result<()> {
    extern "C" fn nothing(_signal: libc::c_int) {}
    // SAFETY: a zeroed sigaction has no flags and blocks nothing; its handler touches nothing.
    let handled = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        libc::sigaction(libc::SIGURG, &action, std::ptr::null_mut())
    };
    if handled != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes numbers only.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.0, libc::SIGURG) };
    Ok(())
}

/// Those of this process' threads whose names begin so.
pub fn interrupt_threads(name_prefix: &str) -> io::Result<()> {
    for task in std::fs::read_dir("/proc/self/task")? {
        let task = task?;
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let id = task.file_name().to_string_lossy().parse::<libc::pid_t>();
        if let (true, Ok(id)) = (name.starts_with(name_prefix), id) {
            interrupt_thread(ThreadId(id))?;
        }
    }
    Ok(())
}

/// Blocks SIGTERM and SIGINT for this thread and all it will start, so that [`StopSignals`] gets them.
pub fn block_stop_signals() -> io::Result<()> {
    glommio::signal::block(&[libc::SIGTERM, libc::SIGINT]).map_err(io::Error::from)
}

/// The signals that stop a broker, on the executor that asks.
#[derive(Debug)]
pub struct StopSignals(glommio::signal::Signals);

impl StopSignals {
    pub fn watch() -> io::Result<StopSignals> {
        glommio::signal::Signals::new(&[libc::SIGTERM, libc::SIGINT])
            .map(StopSignals)
            .map_err(io::Error::from)
    }

    pub async fn next(&self) -> io::Result<()> {
        self.0.recv().await.map(|_| ()).map_err(io::Error::from)
    }
}

/// Makes a folder and those above it. Before the executors run, blocking is no harm.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)
}

/// A small text file; `None` when there is none.
pub fn read_small_file(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a small text file in place, whole and on stable storage, or not at all.
pub fn write_small_file(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    File::open(&temporary)?.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
