//! The data plane: Envoy's ext_proc protocol in front of the core's request machine, with the policy it enforces, the
//! spool that loses nothing and the leases that leak nothing.
//!
//! [`DataPlane::build`] → [`DataPlane::recover`] → [`DataPlane::serve`]: config is data, then wiring, then running.

mod admin;
mod backoff;
mod bodies;
pub mod convert;
mod credit;
mod deciding;
mod flight;
mod give_up;
mod guards;
mod health;
mod join;
pub mod lease;
mod listener;
pub mod metrics;
mod plane;
mod rebuild;
mod recovery;
pub mod report;
mod server;
mod settle;
pub mod spool;
mod surely;
mod trail;
mod unpriced;
pub mod watch;
mod wire;

pub use guards::RateLimits;
pub use join::{ControlPlane, Join};
pub use listener::{Listener, patient};
pub use plane::{BuildError, Config, DataPlane, Deps, ServeError};
pub use recovery::RecoverError;

#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
mod testing;
