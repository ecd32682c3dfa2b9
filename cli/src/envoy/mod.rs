//! The Envoy that `nullspend up` runs: finding it, configuring it, starting and ending it, talking to it.

pub mod admin;
pub mod binary;
pub mod bootstrap;
pub mod spawn;
pub mod supervisor;
