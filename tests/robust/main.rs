//! The real broker, treated badly: by frames that are none, by clients that stop in the middle, by crowds, by
//! signals. It must answer or close, say so in one line, and keep serving everybody else.

mod admin;
mod bad_frames;
mod bounds;
mod broker;
mod checkpoints;
mod client;
mod crowd;
#[path = "../fuzz/damage.rs"]
mod damage;
mod groups;
mod mesh;
mod mutated;
mod order;
mod retention;
mod shutdown;
