//! Owns the way from a socket to a request and from a response to a socket, on one core.

pub mod budget;
pub mod complaints;
pub mod connection;
pub mod frame;
pub mod home;
pub mod listener;
pub mod live;
pub mod responses;
pub mod seats;
pub mod send;
