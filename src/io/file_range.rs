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

impl FileRange {
    /// Reads at most `length` bytes from `position` of the file, without stalling the core. Empty at the file's end.
    pub async fn read(&self, position: u64, length: usize) -> std::io::Result<bytes::Bytes> {
        let (result, payload) = super::ring::read(&self.file, position, length).await;
        Ok(super::ring::bytes_read(payload, result?))
    }

    /// Reads the whole range.
    pub async fn read_all(&self) -> std::io::Result<bytes::Bytes> {
        let mut all = bytes::BytesMut::with_capacity(self.length as usize);
        while all.len() < self.length as usize {
            let position = self.position + all.len() as u64;
            let bytes = self
                .read(position, self.length as usize - all.len())
                .await?;
            if bytes.is_empty() {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}
