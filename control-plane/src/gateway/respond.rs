//! Answers on their way out: status, headers, and the headers every answer carries (contract §5.1).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

pub(super) const JSON: &str = "application/json";

/// Version of the REST API, told in `NullSpend-Version`.
const API_VERSION: HeaderValue = HeaderValue::from_static("2026-04-01");

/// Metadata key by which a service sets the REST status.
const STATUS_OVERRIDE: &str = "x-http-status";

/// An answer before it has the common headers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content_type: &'static str,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn into_response(self, request_id: HeaderValue) -> Response<axum::body::Body> {
        let mut response = Response::new(axum::body::Body::from(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        *headers = self.headers;
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        headers.insert(HeaderName::from_static("x-request-id"), request_id);
        headers.insert(HeaderName::from_static("nullspend-version"), API_VERSION);
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

/// The REST status that a service asked for.
pub(super) fn status_override(metadata: &HeaderMap) -> Option<StatusCode> {
    StatusCode::from_bytes(metadata.get(STATUS_OVERRIDE)?.as_bytes()).ok()
}

/// Copies what a service said in metadata, e.g. `retry-after`, without gRPC's own.
pub(super) fn copy_metadata(metadata: &HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in metadata {
        let text = name.as_str();
        let own = text.starts_with("grpc-")
            || text.ends_with("-bin")
            || matches!(
                text,
                STATUS_OVERRIDE | "content-type" | "content-length" | "date" | "te" | "trailer"
            );
        if !own {
            headers.append(name.clone(), value.clone());
        }
    }
}
