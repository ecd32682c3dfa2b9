//! The data plane: Envoy's ext_proc protocol in front of the core's request machine, with the policy it enforces, the
//! spool that loses nothing and the leases that leak nothing.
//!
//! [`DataPlane::build`] → [`DataPlane::recover`] → [`DataPlane::serve`]: config is data, then wiring, then running.

mod admin;
mod backoff;
mod bodies;
pub mod convert;
mod flight;
mod health;
pub mod lease;
pub mod metrics;
mod plane;
pub mod report;
mod server;
pub mod spool;
pub mod watch;
mod wire;

pub use plane::{BuildError, Config, DataPlane, Deps, RecoverError, ServeError};

#[cfg(test)]
mod testing;
