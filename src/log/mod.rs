//! One partition's log: Kafka's segment files and all that lies beside them.
//! The files named here are the pure parts: formats and state, no I/O and no clock.

pub mod checkpoints;
pub mod epochs;
pub mod offset_index;
pub mod producers;
pub mod time_index;
pub mod transaction_index;
