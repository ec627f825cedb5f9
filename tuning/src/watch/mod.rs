//! Owns the live view of a broker in a terminal (`coati tune watch`): what its cores do, told once a second by its admin endpoint.
//!
//! `figures` is what the endpoint tells, `words` and `tables` make text of it, `view` is what is shown of that and what keys
//! change, `draw` the picture, `command` the terminal around it.

mod command;
mod draw;
pub mod figures;
mod tables;
mod view;
mod words;

pub use command::{Seen, WatchArgs, WatchError};
