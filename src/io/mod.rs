//! Owns every meeting with the kernel: aligned memory, files, the ring, time that passes, sockets, the process,
//! the clock and randomness. The only folder with `unsafe` and system calls; it knows nothing of Kafka.
#![allow(
    unsafe_code,
    reason = "the one folder whose work is memory shared with the kernel"
)]

pub mod buffer;
pub mod clock;
mod copy;
pub mod disk;
pub mod entropy;
pub mod file;
mod file_range;
pub mod huge_pages;
pub mod prefetch;
pub mod probe;
pub mod process;
pub mod ring;
mod seldom;
#[cfg(feature = "simulation")]
pub mod simulated;
pub mod socket;
pub mod space;
pub mod timer;
pub mod turn;
mod watch;
pub mod watchdog;

pub use buffer::{AppendBuffer, BLOCK};
pub use disk::Disk;
pub use file::{File, Mode};
pub use file_range::FileRange;
pub use huge_pages::HUGE_PAGE;
