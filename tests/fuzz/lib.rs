//! Hands the targets to the fuzzer.

pub mod targets;
