//! The nullspend program.
mod config;
fn main() {}
