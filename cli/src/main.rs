//! The nullspend program.
mod config;
mod envoy;
mod paths;
fn main() {}
