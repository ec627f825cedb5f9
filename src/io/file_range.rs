//! Owns `FileRange`: bytes of an open file that are to be sent, and the way to read them that leaves the
//! page cache to others.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{BLOCK, ring};

/// `length` bytes from `position` of a file that stays open as long as this lives.
#[derive(Clone, Debug)]
pub struct FileRange {
    pub file: Arc<OwnedFd>,
    /// The same file for direct reads, where the file system has them.
    pub direct: Option<Arc<OwnedFd>>,
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

    pub fn end(&self) -> u64 {
        self.position + u64::from(self.length)
    }

    /// What is left of `length` bytes from `position` inside the range.
    pub fn up_to(&self, position: u64, length: usize) -> usize {
        self.end().saturating_sub(position).min(length as u64) as usize
    }

    /// Reads at most `length` bytes from `position` of the range: without stalling the core and, where it
    /// can, without the page cache. Fewer where it would end inside a block, so that the next read
    /// begins with one. Empty at the file's end.
    pub async fn read(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let mut length = self.up_to(position, length);
        let end = position + length as u64;
        let whole = end - end % BLOCK as u64;
        if end < self.end() && whole > position {
            length = (whole - position) as usize;
        }
        if let Some(direct) = &self.direct {
            match read_direct(direct, position, length).await {
                // Some file systems accept the flag and refuse the read.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                result => return result,
            }
        }
        let (result, payload) = ring::read(&self.file, position, length).await;
        Ok(ring::bytes_read(payload, result?))
    }

    /// Reads the whole range.
    pub async fn read_all(&self) -> io::Result<Bytes> {
        let mut all = BytesMut::with_capacity(self.length as usize);
        while all.len() < self.length as usize {
            let position = self.position + all.len() as u64;
            let bytes = self.read(position, self.length as usize).await?;
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            all.extend_from_slice(&bytes);
        }
        Ok(all.freeze())
    }
}

/// `length` bytes at `position`, by whole blocks around them; fewer at the end of the file.
pub(super) async fn read_direct(
    file: &Arc<OwnedFd>,
    position: u64,
    length: usize,
) -> io::Result<Bytes> {
    let before = (position % BLOCK as u64) as usize;
    let blocks = (before + length).next_multiple_of(BLOCK);
    let (result, payload) = ring::read_direct(file, position - before as u64, blocks).await;
    let bytes = ring::bytes_read(payload, result?);
    let end = bytes.len().min(before + length);
    Ok(bytes.slice(before.min(end)..end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::file::resident;
    use crate::io::{Disk, File, Mode};

    /// A file of whole blocks and a bit, written past the page cache where the file system can.
    async fn cold_file(length: usize) -> (tempfile::TempDir, File, Vec<u8>) {
        let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let disk = Disk::direct();
        let file = disk.open(&path, Mode::Serve).await.unwrap();
        file.sync_data().await.unwrap();
        file.forget_cached();
        (dir, file, bytes)
    }

    #[test]
    fn reads_any_part_and_leaves_the_page_cache_as_it_was() {
        let test = async || {
            ring::init_thread().unwrap();
            let (_dir, file, bytes) = cold_file(3 * BLOCK + 1000).await;
            let range = file.range(0, bytes.len() as u32).unwrap();
            let was_resident = resident(&range.file, 0, range.length);
            for (position, length) in [
                (0, 10),
                (4095, 2),
                (5000, 5000),
                (12_288, 1000),
                (13_000, 288),
            ] {
                let mut read = Vec::new();
                while read.len() < length {
                    let at = (position + read.len()) as u64;
                    let piece = range.read(at, length - read.len()).await.unwrap();
                    assert!(!piece.is_empty());
                    read.extend_from_slice(&piece);
                }
                let expected = &bytes[position..position + length];
                assert_eq!(read, expected);
                let at = position as u64;
                assert_eq!(file.read_at(at, length).await.unwrap(), expected);
            }
            let to_the_end = file.read_at(13_000, 10_000).await.unwrap();
            assert_eq!(to_the_end, bytes[13_000..]);
            assert_eq!(range.read_all().await.unwrap(), bytes);
            assert!(range.read(range.end(), 10).await.unwrap().is_empty());
            assert_eq!(resident(&range.file, 0, range.length), was_resident);
        };
        let executor = glommio::LocalExecutorBuilder::default();
        executor.spawn(test).unwrap().join().unwrap();
    }
}
