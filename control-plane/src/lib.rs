//! The control plane: keys, budgets and cost events behind gRPC and REST.
//!
//! `gateway` → `grpc` → `app` → `store`: the edge unpacks, the use cases decide, the store writes as told.

pub mod app;
pub mod grpc;
pub mod store;
