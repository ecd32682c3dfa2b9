//! Reserve + settle on the in-process ledger.

fn main() {}
