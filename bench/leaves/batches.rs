//! Owns what all leaves are measured with: two batches, and a log on a disk.

use std::rc::Rc;

use bytes::Bytes;
use coati::ids::TimestampMs;
use coati::io::{Disk, ring};
use coati::log::{FlushPolicy, Log, LogContext, LogSettings, TailBudget};
use coati::protocol::batch::BatchBuilder;
use glommio::{LocalExecutor, LocalExecutorBuilder};
use tempfile::TempDir;

pub const NOW_MS: TimestampMs = 1_795_000_000_000;

/// Room for more than any leaf keeps hot at once.
const TAIL_BYTES: usize = 64 << 20;

/// Records in [`large`].
pub const LARGE_RECORDS: usize = 64;

/// About 64 KiB, as of a producer that has much to send.
pub fn large() -> Bytes {
    batch(LARGE_RECORDS, 1_000)
}

/// As of a producer that waits for nothing.
pub fn small() -> Bytes {
    batch(1, 100)
}

/// Nearly a MiB of small records, as librdkafka sends them at full speed.
pub fn full() -> (&'static str, Bytes, usize) {
    ("9,000 x 100 B", batch(9_000, 100), 9_000)
}

/// The first two, with the names their figures go by and how many records they have.
pub fn shapes() -> [(&'static str, Bytes, usize); 2] {
    [
        ("64 x 1000 B", large(), LARGE_RECORDS),
        ("1 x 100 B", small(), 1),
    ]
}

fn batch(records: usize, value_bytes: usize) -> Bytes {
    let value = vec![b'v'; value_bytes];
    let mut builder = BatchBuilder::new();
    for _ in 0..records {
        builder.append(NOW_MS, None, Some(&value), &[]);
    }
    builder.build()
}

/// An executor on this thread that logs can write on.
pub fn executor() -> LocalExecutor {
    let executor = LocalExecutorBuilder::default().make().unwrap();
    executor.run(async { ring::init_thread().unwrap() });
    executor
}

/// A log, and the folder that goes with it.
pub struct LogOnDisk {
    pub log: Rc<Log>,
    _folder: TempDir,
}

impl LogOnDisk {
    /// Nothing is synced: the appender does not wait for it, and the disk is no leaf.
    pub fn create(executor: &LocalExecutor) -> LogOnDisk {
        // Beside the build, which lies on a real disk; /tmp may be memory.
        let folder = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let dir = folder.path().join("t-0");
        let settings = LogSettings {
            segment_bytes: 256 << 20,
            file_delete_delay_ms: 0,
            flush_policy: FlushPolicy::Os,
            ..LogSettings::default()
        };
        let log = executor.run(async {
            let context = LogContext::on_this_thread(Disk::direct(), TailBudget::new(TAIL_BYTES));
            Log::create(context, dir, None, settings, NOW_MS).await
        });
        LogOnDisk {
            log: log.unwrap(),
            _folder: folder,
        }
    }
}
