//! Owns `FileRange`: bytes of an open file that are to be sent. It never reads them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

/// `length` bytes from `position` of a file that stays open as long as this lives.
#[derive(Clone, Debug)]
pub struct FileRange {
    pub file: Arc<OwnedFd>,
    pub position: u64,
    pub length: u32,
}

impl FileRange {
    /// The same bytes of the same open file.
    pub fn is_same(&self, other: &FileRange) -> bool {
        Arc::ptr_eq(&self.file, &other.file)
            && self.position == other.position
            && self.length == other.length
    }
}
