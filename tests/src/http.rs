//! A plain HTTP client: no retries, no redirects, nothing clever, so that tests see what is on the wire.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

/// No single exchange of the suite takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client with a connection pool of its own.
#[derive(Clone, Debug)]
pub struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Default for Http {
    fn default() -> Self {
        Self::new(false)
    }
}

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    /// The body's bytes.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; the whole reply in the failure message when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// A header as text, empty when absent.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The code of an error in the contract's shape.
    #[must_use]
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The reply itself when it has the status that the test needs.
    #[must_use]
    pub fn expect_status(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.body));
        self
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub struct Live {
    /// HTTP status.
    pub status: StatusCode,
    /// Response headers.
    pub headers: HeaderMap,
    body: Incoming,
}

impl Live {
    /// The next piece of the body as it came off the wire; `None` at its valid end.
    ///
    /// # Errors
    /// When the body is broken off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("the stream hangs");
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads until `part` has been seen; the text so far.
    pub async fn read_until(&mut self, part: &str) -> String {
        let mut text = String::new();
        while !text.contains(part) {
            let piece = self.next().await.expect("the stream broke").expect("the stream ended");
            text.push_str(&String::from_utf8_lossy(&piece));
        }
        text
    }

    /// Reads to the end; the rest of the text, and whether the end was a valid one.
    pub async fn rest(mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return (String::from_utf8_lossy(&bytes).into_owned(), true),
                Err(_) => return (String::from_utf8_lossy(&bytes).into_owned(), false),
            }
        }
    }
}

impl Http {
    /// HTTP/2 without TLS when `h2`, else HTTP/1.1.
    #[must_use]
    pub fn new(h2: bool) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(h2).retry_canceled_requests(false);
        Self { client: builder.build(HttpConnector::new()) }
    }

    /// Sends and returns as soon as the response headers are there.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn open(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Live, hyper_util::client::legacy::Error> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a valid request");
        let sent = self.client.request(request);
        let (head, body) = tokio::time::timeout(PATIENCE, sent).await.expect("no answer comes")?.into_parts();
        Ok(Live { status: head.status, headers: head.headers, body })
    }

    /// Sends and reads the whole answer.
    pub async fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let live = self
            .open(method, url, headers, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {url}: {error:?}"));
        let body = tokio::time::timeout(PATIENCE, live.body.collect()).await.expect("the body hangs");
        let body = body.unwrap_or_else(|error| panic!("{method} {url}: {error:?}")).to_bytes();
        Reply { status: live.status, headers: live.headers, body }
    }
}
