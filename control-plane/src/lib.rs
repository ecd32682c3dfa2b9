//! The control plane: keys, budgets and cost events behind gRPC and REST.
//!
//! `gateway` → `grpc` → `app` → `store`: the edge unpacks, the use cases decide, the store writes as told.

pub mod app;
pub mod auth;
pub mod gateway;
pub mod grpc;
pub mod idempotency;
pub mod metrics;
pub mod openapi;
pub mod schema;
pub mod server;
pub mod status;
pub mod store;

/// The whole service stack, as both gRPC clients and the REST gateway reach it.
pub type Api = tower::util::BoxCloneSyncService<
    http::Request<tonic::body::Body>,
    http::Response<tonic::body::Body>,
    std::convert::Infallible,
>;
