//! The ledger's implementations, and the conformance suite that each must pass.
//!
//! What a ledger does is written once, as [`nullspend_core::ledger::law`]; here are the mechanisms that keep it.

mod memory;

pub use memory::MemoryLedger;
