//! The admin socket: `GET /metrics`, for whoever may open the socket's file.

use std::{convert::Infallible, pin::pin, sync::Arc};

use futures::StreamExt as _;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::sync::CancellationToken;

use crate::{DataPlane, Listener, listener::patient};

type Answer = Response<Full<bytes::Bytes>>;

/// Serves scrapes until `stop`.
pub async fn serve(listener: Listener, plane: Arc<DataPlane>, stop: CancellationToken) {
    let mut connections = pin!(patient(listener.connections()));
    while let Some(Some(accepted)) = stop.run_until_cancelled(connections.next()).await {
        let Ok(stream) = accepted else { continue };
        let plane = Arc::clone(&plane);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&plane)));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A scraper that hangs up is its own affair.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>, plane: Arc<DataPlane>) -> Result<Answer, Infallible> {
    let (status, kind, body) = match request.uri().path() {
        "/metrics" => (
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            plane.scrape().await,
        ),
        _ => (StatusCode::NOT_FOUND, "text/plain", "GET /metrics\n".to_owned()),
    };
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    Ok(answer)
}
