//! `Idempotency-Key`: a repeated call gets the first answer instead of a second effect (contract §5.1).
//!
//! Keys belong to an organisation and a method. Only successes are remembered: a failed call had no effect, so its
//! repeat is simply carried out. The same key with another request is a conflict, never somebody else's answer. Of an
//! answer that holds a secret only the fact is remembered: raw keys lie nowhere, not for a day either.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use nullspend_core::id::OrgId;
use sha2::{Digest, Sha256};
use tonic::{Code, Status, body::Body};
use tower::Service;
use tracing::Instrument;

use crate::{
    app::Caller,
    schema::{Method, Schema, write::Writer},
    status::{status, unavailable},
};

/// The header, and gRPC metadata key.
pub const HEADER: &str = "idempotency-key";

/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("x-idempotent-replayed");

/// How often, and how long apart, a repeat looks whether the first call has finished: one second in all.
const LOOKS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The gRPC frame before a message: a flag and four bytes of length.
const FRAME: usize = 5;

/// Largest request message read here; gRPC's own default.
const MAX_REQUEST: usize = 4 * 1024 * 1024;

/// A key in use.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// Whose key.
    pub org: OrgId,
    /// gRPC path of the method.
    pub method: String,
    /// The key.
    pub key: String,
    /// SHA-256 of the request, independent of the order of map entries.
    pub request_sha256: [u8; 32],
}

/// What the first call answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The encoded response message.
    pub message: Vec<u8>,
    /// The REST status, where the method set one.
    pub http_status: Option<u16>,
}

/// How a claim stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The key is this call's now.
    Claimed,
    /// Another call has it and has not finished.
    Running,
    /// It was used with another request.
    Different,
    /// The first call has finished.
    Done(Remembered),
}

/// The memory of answers could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("the idempotency record could not be reached")]
pub struct MemoryFailed(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Where answers are remembered for 24 hours: the store, or a table in tests.
#[async_trait]
pub trait Answers: Send + Sync {
    /// Takes the key, or tells who has it. A claim whose process died becomes free again after a minute.
    async fn claim(&self, claim: &Claim) -> Result<Standing, MemoryFailed>;
    /// Remembers the answer of a claimed key.
    async fn remember(&self, claim: &Claim, answer: &Remembered) -> Result<(), MemoryFailed>;
    /// Gives a claimed key back: the call failed.
    async fn release(&self, claim: &Claim) -> Result<(), MemoryFailed>;
}

/// Services whose idempotent methods honour the header.
#[derive(Clone)]
pub struct Idempotent<S> {
    schema: Arc<Schema>,
    answers: Arc<dyn Answers>,
    inner: S,
}

impl<S> fmt::Debug for Idempotent<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent").finish_non_exhaustive()
    }
}

impl<S> Idempotent<S> {
    /// Puts the memory before `inner`.
    pub fn new(schema: Arc<Schema>, answers: Arc<dyn Answers>, inner: S) -> Self {
        Self { schema, answers, inner }
    }
}

impl<S> Service<Request<Body>> for Idempotent<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let method = self.schema.method(request.uri().path()).filter(|method| method.idempotent).cloned();
        let caller = request.extensions().get::<Caller>().cloned();
        let (Some(method), Some(caller)) = (method, caller) else { return Box::pin(inner.call(request)) };
        if !request.headers().contains_key(HEADER) {
            return Box::pin(inner.call(request));
        }
        let (schema, answers) = (Arc::clone(&self.schema), Arc::clone(&self.answers));
        Box::pin(async move {
            let answer = match prepare(&schema, &method, &caller, request).await {
                Ok((claim, request)) => run(answers, &method, claim, inner, request).await,
                Err(refusal) => Err(refusal),
            };
            Ok(answer.unwrap_or_else(Status::into_http))
        })
    }
}

async fn prepare(
    schema: &Schema,
    method: &Method,
    caller: &Caller,
    request: Request<Body>,
) -> Result<(Claim, Request<Body>), Status> {
    let key = key_of(request.headers())?;
    let (parts, body) = request.into_parts();
    let too_large = || status(Code::InvalidArgument, "payload_too_large", "the request is too large");
    let bytes = Limited::new(body, MAX_REQUEST).collect().await.map_err(|_| too_large())?.to_bytes();
    let claim = Claim {
        org: caller.org,
        method: method.grpc_path.clone(),
        key,
        request_sha256: fingerprint(schema, method, &bytes),
    };
    Ok((claim, Request::from_parts(parts, Body::new(Full::new(bytes)))))
}

fn key_of(headers: &HeaderMap) -> Result<String, Status> {
    let wrong = || {
        let message = "the header Idempotency-Key must be 1 to 255 visible ASCII characters, sent once";
        status(Code::InvalidArgument, "validation_error", message)
    };
    let mut keys = headers.get_all(HEADER).iter();
    let (Some(key), None) = (keys.next(), keys.next()) else { return Err(wrong()) };
    let key = key.to_str().map_err(|_| wrong())?;
    if (1..=255).contains(&key.len()) { Ok(key.to_owned()) } else { Err(wrong()) }
}

/// Encoders may write map entries in any order, so the hash is taken over the sorted JSON form.
fn fingerprint(schema: &Schema, method: &Method, frame: &[u8]) -> [u8; 32] {
    let message = frame.get(FRAME..).unwrap_or_default();
    let canonical = Writer { shapes: &schema.shapes }.write(method.input, message, None);
    Sha256::digest(canonical.as_deref().unwrap_or(frame)).into()
}

async fn run<S>(
    answers: Arc<dyn Answers>,
    method: &Method,
    claim: Claim,
    inner: S,
    request: Request<Body>,
) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    for look in 0..=LOOKS {
        match answers.claim(&claim).await.map_err(|error| unreachable_memory(&error))? {
            Standing::Claimed => {
                // On its own task: a client that leaves must not leave a claim behind, or an effect without its answer.
                let work = tokio::spawn(
                    carry_out(answers, method.secret_answer, claim, inner, request).in_current_span(),
                );
                return work.await.map_err(|_| Status::internal("the call did not finish"));
            }
            Standing::Done(_) if method.secret_answer => {
                let message = "the first call with this Idempotency-Key succeeded, and its answer held a secret that is \
                    shown once; if it was lost, revoke what was made and call again with a new Idempotency-Key";
                return Err(status(Code::Aborted, "conflict", message));
            }
            Standing::Done(answer) => return Ok(replay(&answer)),
            Standing::Different => {
                let message =
                    "this Idempotency-Key was used with another request; use a new key for a new request";
                return Err(status(Code::Aborted, "conflict", message));
            }
            Standing::Running if look < LOOKS => tokio::time::sleep(LOOK_EVERY).await,
            Standing::Running => {}
        }
    }
    Err(unavailable(
        "request_in_progress",
        "the first call with this Idempotency-Key is still running; try again",
        1,
    ))
}

fn unreachable_memory(error: &MemoryFailed) -> Status {
    tracing::warn!(error = error as &dyn std::error::Error, "an idempotency key could not be claimed");
    unavailable("service_unavailable", "the database does not answer; try again", 5)
}

async fn carry_out<S>(
    answers: Arc<dyn Answers>,
    secret: bool,
    claim: Claim,
    mut inner: S,
    request: Request<Body>,
) -> Response<Body>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    let response = match inner.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    let Ok(collected) = body.collect().await else {
        forget(&*answers, &claim).await;
        return Status::internal("the answer did not arrive whole").into_http();
    };
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let bytes = collected.to_bytes();
    let code = trailers.get("grpc-status").or_else(|| parts.headers.get("grpc-status"));
    if code.is_none_or(|code| code == "0") && bytes.len() >= FRAME {
        let http_status =
            parts.headers.get("x-http-status").and_then(|value| value.to_str().ok()?.parse().ok());
        let message = if secret { Vec::new() } else { bytes.slice(FRAME..).to_vec() };
        let answer = Remembered { message, http_status };
        if let Err(error) = answers.remember(&claim, &answer).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "an answer could not be remembered");
        }
    } else {
        forget(&*answers, &claim).await;
    }
    let body = Full::new(bytes).with_trailers(std::future::ready(Some(Ok(trailers))));
    Response::from_parts(parts, Body::new(body))
}

async fn forget(answers: &dyn Answers, claim: &Claim) {
    if let Err(error) = answers.release(claim).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "an idempotency key could not be released");
    }
}

fn replay(answer: &Remembered) -> Response<Body> {
    let mut frame = BytesMut::with_capacity(FRAME + answer.message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(answer.message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&answer.message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(frame)).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Some(status) = answer.http_status {
        headers.insert("x-http-status", status.into());
    }
    response
}
