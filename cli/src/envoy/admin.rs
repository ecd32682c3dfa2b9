//! Envoy's admin interface, on its unix socket.

use std::{io, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, time::timeout};

/// An admin call that failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket does not answer.
    #[error("Envoy's admin socket does not answer")]
    Connect(#[source] io::Error),
    /// The exchange broke off.
    #[error("Envoy's admin interface broke off")]
    Exchange(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nothing within [`CALL`].
    #[error("Envoy's admin interface took too long")]
    TimedOut,
    /// An answer that is not as documented.
    #[error("Envoy's admin interface answered {status} to {path}")]
    Unexpected {
        /// Its status.
        status: StatusCode,
        /// What was asked.
        path: String,
    },
}

/// One admin call at most.
const CALL: Duration = Duration::from_secs(2);
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// A client for one Envoy.
#[derive(Clone, Debug)]
pub struct Admin {
    socket: PathBuf,
}

impl Admin {
    /// Talks to the Envoy whose admin socket this is.
    #[must_use]
    pub fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Whether Envoy serves.
    pub async fn is_ready(&self) -> bool {
        self.call(Method::GET, "/ready").await.is_ok()
    }

    /// The port of the ingress: the configured one, or the one that port 0 became.
    ///
    /// # Errors
    /// Any [`AdminError`].
    pub async fn ingress_port(&self) -> Result<u16, AdminError> {
        const PATH: &str = "/listeners?format=json";
        let body = self.call(Method::GET, PATH).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        value["listener_statuses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|listener| listener["name"] == "ingress")
            .find_map(|listener| listener["local_address"]["socket_address"]["port_value"].as_u64())
            .and_then(|port| u16::try_from(port).ok())
            .ok_or_else(|| AdminError::Unexpected { status: StatusCode::OK, path: PATH.to_owned() })
    }

    /// Requests of clients that are not answered to their end.
    ///
    /// # Errors
    /// Any [`AdminError`].
    pub async fn requests_in_flight(&self) -> Result<u64, AdminError> {
        const PATH: &str = "/stats?filter=^http\\.ingress\\.downstream_rq_active$&format=json";
        let body = self.call(Method::GET, PATH).await?;
        let value: Value = serde_json::from_slice(&body).unwrap_or_default();
        Ok(value["stats"][0]["value"].as_u64().unwrap_or(0))
    }

    /// Tells clients to go elsewhere (`connection: close`, GOAWAY) while still serving them.
    ///
    /// # Errors
    /// Any [`AdminError`].
    pub async fn drain_gracefully(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/drain_listeners?graceful&skip_exit").await.map(drop)
    }

    /// Accepts no further connection; requests in flight go on.
    ///
    /// # Errors
    /// Any [`AdminError`].
    pub async fn close_listeners(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/drain_listeners").await.map(drop)
    }

    /// Opens the access log anew, after it was renamed.
    ///
    /// # Errors
    /// Any [`AdminError`].
    pub async fn reopen_logs(&self) -> Result<(), AdminError> {
        self.call(Method::POST, "/reopen_logs").await.map(drop)
    }

    async fn call(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        timeout(CALL, self.exchange(method, path)).await.map_err(|_| AdminError::TimedOut)?
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Bytes, AdminError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(AdminError::Connect)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| AdminError::Exchange(error.into()))?;
        // Ends with the sender.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "envoy-admin")
            .header("content-length", "0")
            .body(Empty::<Bytes>::new())
            .map_err(|error| AdminError::Exchange(error.into()))?;
        let response =
            sender.send_request(request).await.map_err(|error| AdminError::Exchange(error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
        let body = body.collect().await.map_err(AdminError::Exchange)?.to_bytes();
        if status != StatusCode::OK {
            return Err(AdminError::Unexpected { status, path: path.to_owned() });
        }
        Ok(body)
    }
}
