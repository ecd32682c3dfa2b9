//! The nullspend program.
fn main() {}
