//! Writes the Rust types of Kafka's messages and on-disk records from the tables in
//! `src/protocol/schema`. Everything it does is in `src/protocol/generator`.

#[path = "src/protocol/generator/mod.rs"]
mod generator;

use std::path::Path;

fn main() {
    let schema = Path::new("src/protocol/schema");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/protocol/generator");
    println!("cargo::rerun-if-changed={}", schema.display());

    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    if let Err(error) = generator::generate(schema, Path::new(&out)) {
        panic!("{error}");
    }
}
