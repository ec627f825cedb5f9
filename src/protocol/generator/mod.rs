//! Turns the tables in `schema/` into Rust: `parse` reads the notation, `model` is what it means,
//! `emit` writes the code. Runs in the build script; the round-trip tests reuse `parse` and `model`.
//!
//! It never looks at anything but the tables, so the same tables always give the same code.

pub mod model;
pub mod parse;

mod emit;
mod names;

use std::fs;
use std::path::Path;

/// Reads every table of `schema_dir` and writes `messages.rs` and `records.rs` into `out_dir`.
pub fn generate(schema_dir: &Path, out_dir: &Path) -> Result<(), String> {
    let tables = parse::read_directory(schema_dir)?;
    write(out_dir, "messages.rs", &emit::messages(&tables))?;
    write(out_dir, "records.rs", &emit::records(&tables))
}

fn write(directory: &Path, name: &str, text: &str) -> Result<(), String> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
}
