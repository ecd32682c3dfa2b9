//! The control plane's listeners: gRPC and REST on one, metrics on another.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::serve::Listener;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tower::{ServiceExt, make::Shared, service_fn};

use crate::{
    Api,
    gateway::{self, Gateway},
    metrics::Metrics,
    schema::{self, Schema},
    status::unavailable,
};

/// No unary call takes longer; a client's own `grpc-timeout` may be shorter.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Calls that may be worked on at once; more are told to come back.
const MAX_IN_FLIGHT: usize = 1024;

/// How long open connections may finish after a stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The public side: native gRPC where the content type says so, REST otherwise.
#[derive(Clone, Debug)]
pub struct Front {
    shared: Arc<Inner>,
}

struct Inner {
    api: Api,
    gateway: Gateway,
    schema: Arc<Schema>,
    metrics: Arc<Metrics>,
    openapi: String,
    room: Semaphore,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Front").field("gateway", &self.gateway).finish_non_exhaustive()
    }
}

impl Front {
    /// A front before the service stack.
    #[must_use]
    pub fn new(api: Api, gateway: Gateway, schema: Arc<Schema>, metrics: Arc<Metrics>) -> Self {
        let openapi = crate::openapi::document(&schema);
        let room = Semaphore::new(MAX_IN_FLIGHT);
        Self { shared: Arc::new(Inner { api, gateway, schema, metrics, openapi, room }) }
    }

    /// Serves HTTP/1.1 and HTTP/2 (prior knowledge) until `stop`.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve<L>(self, listener: L, stop: CancellationToken) -> std::io::Result<()>
    where
        L: Listener,
        L::Addr: std::fmt::Debug,
    {
        let service = service_fn(move |request| {
            let front = self.clone();
            async move { Ok::<_, Infallible>(front.handle(request).await) }
        });
        until(
            axum::serve(listener, Shared::new(service))
                .with_graceful_shutdown(stop.clone().cancelled_owned()),
            stop,
        )
        .await
    }

    /// Answers one request of either kind.
    pub async fn handle(&self, request: Request<axum::body::Body>) -> Response<axum::body::Body> {
        if is_grpc(request.headers()) { self.grpc(request).await } else { self.rest(request).await }
    }

    async fn grpc(&self, request: Request<axum::body::Body>) -> Response<axum::body::Body> {
        let path = request.uri().path().to_owned();
        let deadline = grpc_timeout(request.headers()).unwrap_or(CALL_TIMEOUT).min(CALL_TIMEOUT);
        let call = async {
            let Ok(_room) = self.shared.room.acquire().await else { return overloaded().into_http() };
            let request = request.map(tonic::body::Body::new);
            match self.shared.api.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        };
        let response = match tokio::time::timeout(deadline, call).await {
            Ok(response) => response,
            Err(_) => Status::deadline_exceeded("the call took longer than its deadline").into_http(),
        };
        let code = response.headers().get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("0");
        let known = self.shared.schema.method(&path).map_or("other", |method| method.descriptor.full_name());
        self.shared.metrics.request("grpc", known, code);
        response.map(axum::body::Body::new)
    }

    async fn rest(&self, request: Request<axum::body::Body>) -> Response<axum::body::Body> {
        if request.uri().path() == "/api/openapi.json" && request.method() == Method::GET {
            return self.openapi();
        }
        let id = request.headers().get("x-request-id").cloned();
        let call = async {
            match self.shared.room.acquire().await {
                Ok(_room) => self.shared.gateway.handle(request).await,
                Err(_) => gateway::refuse(&overloaded(), id.as_ref()),
            }
        };
        let response = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(response) => response,
            Err(_) => gateway::refuse(&overloaded(), id.as_ref()),
        };
        let method = response.extensions().get::<Arc<schema::Method>>();
        let name = method.map_or("other", |method| method.descriptor.full_name());
        self.shared.metrics.request("rest", name, response.status().as_str());
        response
    }

    fn openapi(&self) -> Response<axum::body::Body> {
        let mut response = Response::new(axum::body::Body::from(self.shared.openapi.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}

/// Serves `/metrics` until `stop`.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_metrics<L>(
    metrics: Arc<Metrics>,
    listener: L,
    stop: CancellationToken,
) -> std::io::Result<()>
where
    L: Listener,
    L::Addr: std::fmt::Debug,
{
    let service = service_fn(move |request: Request<axum::body::Body>| {
        let text = (request.uri().path() == "/metrics").then(|| metrics.text());
        async move {
            let mut response = Response::new(axum::body::Body::empty());
            match text {
                None => *response.status_mut() = StatusCode::NOT_FOUND,
                Some(Err(_)) => *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR,
                Some(Ok(text)) => {
                    let kind = HeaderValue::from_static(
                        "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    );
                    response.headers_mut().insert(header::CONTENT_TYPE, kind);
                    *response.body_mut() = axum::body::Body::from(text);
                }
            }
            Ok::<_, Infallible>(response)
        }
    });
    until(
        axum::serve(listener, Shared::new(service)).with_graceful_shutdown(stop.clone().cancelled_owned()),
        stop,
    )
    .await
}

/// Streams like gRPC health watches never end on their own: after the grace the listener stops regardless.
pub(crate) async fn until<F>(serving: F, stop: CancellationToken) -> std::io::Result<()>
where
    F: IntoFuture<Output = std::io::Result<()>>,
{
    tokio::select! {
        result = serving.into_future() => result,
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => Ok(()),
    }
}

/// gRPC proper; gRPC-Web has another framing and is not served.
fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.strip_prefix(b"application/grpc")
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}

fn overloaded() -> Status {
    unavailable("overloaded", "the control plane has too much to do; try again", 1)
}

/// Reads `grpc-timeout`: up to eight digits and a unit.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(amount * 3600),
        "M" => Duration::from_secs(amount * 60),
        "S" => Duration::from_secs(amount),
        "m" => Duration::from_millis(amount),
        "u" => Duration::from_micros(amount),
        "n" => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn only_grpc_is_grpc() {
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc; charset=x"] {
            assert!(is_grpc(&headers("content-type", kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", ""] {
            assert!(!is_grpc(&headers("content-type", kind)), "{kind}");
        }
    }

    #[test]
    fn deadlines_are_read() {
        let read = |text| grpc_timeout(&headers("grpc-timeout", text));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("1S"), Some(Duration::from_secs(1)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "1", "1X", "-1S", "123456789S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
