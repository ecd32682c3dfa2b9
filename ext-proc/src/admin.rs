//! The admin socket: `GET /metrics`, for whoever may open the socket's file.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::sync::CancellationToken;

use crate::{DataPlane, Listener};

type Answer = Response<Full<bytes::Bytes>>;

/// After a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// Serves scrapes until `stop`.
pub async fn serve(listener: Listener, plane: Arc<DataPlane>, stop: CancellationToken) {
    while let Some(stream) = stop.run_until_cancelled(accepted(|| listener.accept())).await {
        let plane = Arc::clone(&plane);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&plane)));
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A scraper that hangs up is its own affair.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The next connection. Where descriptors are short, say, scrapes must not end for good when they are wanted most.
async fn accepted<T, F: Future<Output = io::Result<T>>>(accept: impl Fn() -> F) -> T {
    loop {
        match accept().await {
            Ok(connection) => return connection,
            Err(cause) => tracing::warn!(%cause, "a scrape could not be accepted"),
        }
        tokio::time::sleep(ACCEPT_AGAIN).await;
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_cannot_be_accepted_is_not_the_last() {
        let tries = Cell::new(0);
        let accept = || {
            tries.set(tries.get() + 1);
            let done = tries.get() == 3;
            std::future::ready(if done { Ok(tries.get()) } else { Err(io::Error::other("no descriptors")) })
        };
        assert_eq!(accepted(accept).await, 3);
    }
}
