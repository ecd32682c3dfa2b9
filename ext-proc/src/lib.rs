//! The data plane: Envoy's messages translated for the request machine, the policy it enforces, the spool.

pub mod convert;
pub mod spool;
