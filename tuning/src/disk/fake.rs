//! A disk for tests: operations follow each other, and each takes as long as its bytes say, of a time that nothing else lets
//! pass. It never waits, and has the faults that it is told to have.

use std::cell::Cell;
use std::future::pending;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::device::{BLOCK, Disk, File, Space};

/// What an operation takes at least, and a byte.
const OPERATION: Duration = Duration::from_micros(200);
const NANOS_PER_BYTE: u64 = 1;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    None,
    /// The operation with this number does.
    Fails {
        operation: u64,
        kind: io::ErrorKind,
    },
    /// A signal comes during the operation with this number.
    Interrupted {
        operation: u64,
    },
    Indirect,
    NoAllocation,
    Space(Space),
    InUse,
}

#[derive(Clone)]
pub struct FakeDisk(Rc<State>);

struct State {
    fault: Fault,
    start: Instant,
    passed: Cell<Duration>,
    operations: Cell<u64>,
}

#[derive(Clone)]
pub struct FakeFile {
    disk: FakeDisk,
    length: Rc<Cell<u64>>,
    allocated: Rc<Cell<u64>>,
}

impl Default for FakeDisk {
    fn default() -> FakeDisk {
        FakeDisk::with(Fault::None)
    }
}

impl FakeDisk {
    pub fn with(fault: Fault) -> FakeDisk {
        FakeDisk(Rc::new(State {
            fault,
            start: coati_bench::clock::now(),
            passed: Cell::default(),
            operations: Cell::default(),
        }))
    }

    async fn operate(&self, bytes: usize) -> io::Result<()> {
        let state = &self.0;
        let number = state.operations.replace(state.operations.get() + 1);
        let time = OPERATION + Duration::from_nanos(NANOS_PER_BYTE * bytes as u64);
        state.passed.set(state.passed.get() + time);
        match state.fault {
            Fault::Fails { operation, kind } if operation == number => Err(kind.into()),
            Fault::Interrupted { operation } if operation == number => pending().await,
            _ => Ok(()),
        }
    }
}

impl Disk for FakeDisk {
    type File = FakeFile;

    fn now(&self) -> Instant {
        self.0.start + self.0.passed.get()
    }

    /// Of a real one there is the name, which must go again.
    async fn create(&self, path: &Path) -> io::Result<FakeFile> {
        std::fs::File::create_new(path)?;
        Ok(FakeFile {
            disk: self.clone(),
            length: Rc::default(),
            allocated: Rc::default(),
        })
    }

    fn is_direct(&self) -> bool {
        !matches!(self.0.fault, Fault::Indirect)
    }

    fn aligned(&self, content: &[u8]) -> Bytes {
        assert!(content.len().is_multiple_of(BLOCK));
        Bytes::copy_from_slice(content)
    }

    fn space(&self, _folder: &Path) -> io::Result<Space> {
        Ok(match self.0.fault {
            Fault::Space(space) => space,
            _ => Space {
                total: 100 << 30,
                usable: 100 << 30,
            },
        })
    }

    fn is_in_use(&self, _folder: &Path) -> bool {
        matches!(self.0.fault, Fault::InUse)
    }

    async fn interrupted(&self) {
        if !matches!(self.0.fault, Fault::Interrupted { .. }) {
            pending().await
        }
    }
}

impl File for FakeFile {
    async fn write(&self, bytes: Bytes, position: u64) -> io::Result<()> {
        assert!(position.is_multiple_of(BLOCK as u64) && bytes.len().is_multiple_of(BLOCK));
        assert!(!bytes.is_empty());
        self.disk.operate(bytes.len()).await?;
        let end = position + bytes.len() as u64;
        self.length.set(self.length.get().max(end));
        Ok(())
    }

    async fn read(&self, position: u64, length: usize) -> io::Result<usize> {
        self.disk.operate(length).await?;
        let left = self.length.get().saturating_sub(position);
        Ok(length.min(left as usize))
    }

    async fn sync(&self) -> io::Result<()> {
        self.disk.operate(0).await
    }

    async fn truncate(&self, length: u64) -> io::Result<()> {
        self.disk.operate(0).await?;
        self.length.set(length);
        self.allocated.set(length);
        Ok(())
    }

    async fn allocate(&self, from: u64, length: u64) -> io::Result<()> {
        if matches!(self.disk.0.fault, Fault::NoAllocation) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.disk.operate(0).await?;
        assert_eq!(from, self.allocated.get(), "space is reserved in one piece");
        self.allocated.set(from + length);
        self.length.set(self.length.get().max(from + length));
        Ok(())
    }
}
