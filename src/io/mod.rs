//! Empty until its first piece lands.

mod file_range;

pub use file_range::FileRange;
