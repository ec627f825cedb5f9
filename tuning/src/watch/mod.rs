//! Owns the live view of a broker in a terminal: what its cores do, told once a second by its admin endpoint.
//!
//! `figures` is what the endpoint tells.

pub mod figures;
