//! Thin gRPC services: protocol messages to use cases and back, nothing else.

/// The API's services over the use cases.
#[must_use]
pub fn routes(_app: &std::sync::Arc<crate::app::App>) -> tonic::service::Routes {
    tonic::service::Routes::default()
}
