//! The data plane: Envoy's messages translated for the request machine, the policy it enforces, the spool.

mod backoff;
pub mod convert;
pub mod lease;
pub mod metrics;
pub mod report;
pub mod spool;
pub mod watch;

#[cfg(test)]
mod testing;
