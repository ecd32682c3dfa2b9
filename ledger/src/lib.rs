//! The ledger's implementations, and the conformance suite that each must pass.
//!
//! What a ledger does is written once, as [`nullspend_core::ledger::law`]; here are the mechanisms that keep it.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "conformance")]
mod faulty;
mod memory;
mod redis;

#[cfg(feature = "conformance")]
pub use faulty::Faulty;
pub use memory::MemoryLedger;
pub use redis::{InvalidRedisConfig, RedisConfig, RedisLedger};
