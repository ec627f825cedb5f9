//! Owns the file that a cleaning writes: batches one after another in aligned direct writes, so that no reader's pages
//! leave the cache for it.

use std::io;
use std::path::Path;

use crate::io::{AppendBuffer, BLOCK, Disk, File, Mode};

/// Written at a time.
const WRITE_BYTES: usize = 256 << 10;

pub(super) struct Output {
    file: File,
    buffer: AppendBuffer,
    /// Where the buffer goes.
    position: u64,
}

impl Output {
    /// An empty file at `path`, whatever was there.
    pub(super) async fn create(disk: &Disk, path: &Path) -> io::Result<Output> {
        let file = disk.open(path, Mode::Create).await?;
        file.truncate(0).await?;
        Ok(Output {
            file,
            buffer: AppendBuffer::with_capacity(WRITE_BYTES),
            position: 0,
        })
    }

    pub(super) async fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(self.buffer.room()));
            self.buffer.append(now);
            rest = later;
            if self.buffer.room() == 0 {
                self.write(WRITE_BYTES).await?;
            }
        }
        Ok(())
    }

    /// Brings all `length` bytes to stable storage, unless the test of the tests wants it otherwise.
    pub(super) async fn finish(mut self, length: u64, syncs: bool) -> io::Result<()> {
        let filled = self.buffer.len();
        assert_eq!(self.position + filled as u64, length);
        if filled > 0 {
            let padding = filled.next_multiple_of(BLOCK) - filled;
            self.buffer.append(&[0; BLOCK][..padding]);
            self.write(filled + padding).await?;
        }
        self.file.truncate(length).await?;
        if syncs {
            self.file.sync_data().await?;
        }
        Ok(())
    }

    async fn write(&mut self, length: usize) -> io::Result<()> {
        let full = std::mem::replace(&mut self.buffer, AppendBuffer::with_capacity(WRITE_BYTES));
        self.file
            .write_at(vec![full.slice(0..length)], self.position)
            .await?;
        self.position += length as u64;
        Ok(())
    }
}
