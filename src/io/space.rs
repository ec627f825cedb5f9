//! Owns questions about a folder's place: how large its disk is, what its full path is. Not for the hot path.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Bytes of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    pub total: u64,
    /// What an ordinary user may still write.
    pub usable: u64,
}

/// Of the file system that holds `path`.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a zeroed statvfs is a valid one for the kernel to fill.
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero byte and both live through the call.
    if unsafe { libc::statvfs(path.as_ptr(), &mut space) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(DiskSpace {
        total: space.f_blocks * space.f_frsize,
        usable: space.f_bavail * space.f_frsize,
    })
}

/// The path from the root on; links stay as they are.
pub fn absolute(path: &Path) -> PathBuf {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // `a/./b` is `a/b` to everyone.
    full.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_room_and_a_missing_folder_is_an_error() {
        let space = disk_space(Path::new("/")).unwrap();
        assert!(space.total > 0 && space.usable <= space.total);
        assert!(disk_space(Path::new("/no/such/folder")).is_err());
    }

    #[test]
    fn paths_begin_at_the_root() {
        assert!(absolute(Path::new("./coati-data")).is_absolute());
        assert_eq!(absolute(Path::new("/a/./b")), Path::new("/a/b"));
    }
}
