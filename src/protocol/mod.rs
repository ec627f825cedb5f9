//! Owns Kafka's wire and record formats: messages and records generated from `schema/` by `generator/`,
//! record batches read in place, error codes, API versions. It never does I/O and keeps no state.

pub mod api;
pub mod batch;
pub mod compression;
pub mod error_code;
pub mod header;

pub(crate) mod checksum;
mod parts;
mod reader;
mod str;
mod uuid;
mod wire;
mod writer;

// The build script's, here for the tests: what they know of the tables comes straight from the tables.
#[cfg(test)]
#[allow(dead_code, reason = "the tests need no emitting")]
mod generator;
#[cfg(test)]
mod round_trip;

pub use checksum::crc32c;
pub use error_code::ErrorCode;
pub use header::{RequestHeader, read_request_header, write_response_header};
pub use parts::{Part, Parts, Records};
pub use reader::{DecodeError, Reader};
pub use str::Str;
pub use uuid::{Uuid, UuidError};
pub use wire::{CoordinatorKey, CoordinatorValue, Message, MetadataMessage, Request, Response};
pub use writer::{EncodeError, Writer};

/// Requests, responses and their headers: a module a message, with the message itself re-exported.
#[allow(
    clippy::all,
    reason = "written by generator/emit.rs, which aims at few words, not at style"
)]
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/messages.rs"));
}

/// Records of Kafka's own logs and files: a module a table, and in it a module a record.
#[allow(
    clippy::all,
    reason = "written by generator/emit.rs, which aims at few words, not at style"
)]
#[allow(
    unused_imports,
    reason = "not every table has records that share a place"
)]
pub mod records {
    include!(concat!(env!("OUT_DIR"), "/records.rs"));
}
