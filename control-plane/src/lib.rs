//! The control plane: keys, budgets and cost events behind gRPC and REST.
//!
//! `gateway` → `grpc` → `app` → `store`: the edge unpacks, the use cases decide, the store writes as told.

pub mod app;
pub mod auth;
mod backing;
mod catalogue;
pub mod gateway;
pub mod grpc;
pub mod idempotency;
pub mod internal;
mod jobs;
mod join;
mod ledger_jobs;
pub mod metrics;
pub mod openapi;
mod plane;
pub mod reflection;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;

pub use catalogue::CatalogueFileError;
pub use join::JoinCheck;
pub use plane::{BuildError, ClaimError, Config, ControlPlane, Deps, LoadCatalogueError};

/// The whole service stack, as both gRPC clients and the REST gateway reach it.
pub type Api = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    std::convert::Infallible,
>;

#[cfg(test)]
mod explain_tests;
#[cfg(test)]
mod rest_tests;
#[cfg(test)]
mod serving_tests;
