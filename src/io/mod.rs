//! Empty until its first piece lands.

mod file_range;
pub mod process;
pub mod socket;

pub use file_range::FileRange;
