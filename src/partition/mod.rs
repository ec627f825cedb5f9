//! Owns one partition: what it takes from producers.

pub mod validate;
