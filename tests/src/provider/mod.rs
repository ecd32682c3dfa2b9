//! A pretend OpenAI and Anthropic, and the ground truth of what was billed.
//!
//! It speaks chat completions, Responses and messages, as JSON and as SSE, over HTTP/1.1 and h2c, in the shapes of the
//! real providers. It counts tokens by a rule of its own ([`bill`]), prices them with a table of its own, and keeps a
//! record of every call, served at `GET /__log`. A request steers it by `x-fake-NAME: value` headers or by
//! `[[fake name=value …]]` anywhere in its prompt ([`control`]).

pub mod bill;
mod chat;
pub mod control;
pub mod encode;
mod log;
mod messages;
mod play;
mod responses;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

pub use self::log::{Call, State};
use self::{
    bill::Bill,
    control::Control,
    log::{Log, Meter},
    play::{Answer, Play},
};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The three APIs it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/messages`.
    Messages,
}

impl Api {
    fn of_path(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            _ => None,
        }
    }

    /// The name in the call log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat.completions",
            Self::Responses => "responses",
            Self::Messages => "messages",
        }
    }
}

/// A running provider; it stops when dropped.
#[derive(Debug)]
pub struct FakeProvider {
    address: SocketAddr,
    log: Arc<Log>,
    accepting: JoinHandle<()>,
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl FakeProvider {
    /// Starts on a free port of the loopback interface.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), true).await
    }

    /// Starts on the given address. Without `books` it records nothing: for long loads, whose log would fill the memory.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn listen(address: SocketAddr, books: bool) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let log = Arc::new(Log::new(books));
        let accepting = tokio::spawn(accept(listener, Arc::clone(&log)));
        Ok(Self { address, log, accepting })
    }

    /// The base URL, without a trailing slash or `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every call so far, in the order of arrival.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.log.calls()
    }

    /// What was billed so far, in nano-dollars.
    #[must_use]
    pub fn billed_nanos(&self) -> i64 {
        self.calls().iter().map(|call| call.billed_nanos).sum()
    }

    /// Waits until `met` holds for the calls and returns them; fails with what there is instead after a minute.
    #[allow(clippy::panic, reason = "a test that waits in vain fails")]
    pub async fn wait_until(&self, met: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let waited = tokio::time::timeout(Duration::from_secs(60), self.log.wait_until(met)).await;
        waited.unwrap_or_else(|_| {
            let calls = self.calls();
            let count = |state| calls.iter().filter(|call| call.state == state).count();
            let states =
                [State::Open, State::Finished, State::Cut, State::Refused].map(|state| (state, count(state)));
            panic!(
                "waited in vain for calls at the provider; there are {states:?}, the last is {:#?}",
                calls.last()
            )
        })
    }

    /// Lets every call pass that waits, or will wait, at this gate ([`Control::gate`]).
    pub fn open_gate(&self, name: &str) {
        self.log.open_gate(name);
    }

    /// Runs until the process ends.
    pub async fn serve_forever(mut self) {
        // The accept loop only ends with an aborted task, which `Drop` does.
        let _ = (&mut self.accepting).await;
    }
}

async fn accept(listener: TcpListener, log: Arc<Log>) {
    loop {
        let Ok((socket, _)) = listener.accept().await else { continue };
        let _ = socket.set_nodelay(true);
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| serve(Arc::clone(&log), request));
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            // A connection that breaks is part of the play; the call log says how each call ended.
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
    }
}

/// One request. An `Err` closes the connection without an answer: that is how a provider resets before headers.
async fn serve(log: Arc<Log>, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    if head.method == Method::GET && head.uri.path() == "/__log" {
        return Ok(json_response(StatusCode::OK, &serde_json::to_value(log.calls()).unwrap_or_default()));
    }
    if head.method == Method::POST
        && let Some(gate) = head.uri.path().strip_prefix("/__open/")
    {
        log.open_gate(gate);
        return Ok(json_response(StatusCode::OK, &Value::Null));
    }
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let path = head.uri.path();
    let Some(api) = Api::of_path(path).filter(|_| head.method == Method::POST) else {
        log.refused(None, path, &head.headers, &bytes, 404);
        let message = format!("Invalid URL ({} {path})", head.method);
        return Ok(json_response(StatusCode::NOT_FOUND, &error_body(Api::Chat, 404, &message)));
    };
    answer(&log, api, path, &head.headers, &bytes).await
}

async fn answer(
    log: &Arc<Log>,
    api: Api,
    path: &str,
    headers: &HeaderMap,
    bytes: &Bytes,
) -> io::Result<Response<Body>> {
    let refuse = |status: u16, message: &str| {
        let id = log.refused(Some(api), path, headers, bytes, status);
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(status, &error_body(api, status.as_u16(), message));
        name_request(&mut response, api, &id);
        response
    };
    if !headers.contains_key(header::AUTHORIZATION) && !headers.contains_key("x-api-key") {
        return Ok(refuse(401, "You didn't provide an API key."));
    }
    let Ok(request) = serde_json::from_slice::<Value>(bytes) else {
        return Ok(refuse(400, "We could not parse the JSON body of your request."));
    };
    let control = Control::read(headers, &request);
    if let Some(status) = control.status {
        return Ok(refuse(status, "The fake provider was asked to fail."));
    }
    let Some(bill) = Bill::of(api, &request, &control) else {
        return Ok(refuse(404, "The model does not exist or you do not have access to it."));
    };
    let stream = request["stream"].as_bool().unwrap_or(false);
    let mut meter = Meter::open(log, api, path, headers, bytes, &request, bill, &control);
    if !stream {
        // A provider that has started on an answer bills it whole, whether or not anybody waits for it.
        meter.generated(bill.output_tokens);
    }
    meter.pause_before_headers(&control).await?;
    let answer = match api {
        Api::Chat => chat::answer(&request, bill, &control, meter.request_id()),
        Api::Responses => responses::answer(&request, bill, &control, meter.request_id()),
        Api::Messages => messages::answer(&request, bill, &control, meter.request_id()),
    };
    let id = meter.request_id().to_owned();
    let mut response = respond(answer, control, meter);
    name_request(&mut response, api, &id);
    Ok(response)
}

fn respond(answer: Answer, control: Control, meter: Meter) -> Response<Body> {
    let (content_type, frames) = match answer {
        Answer::Json(value) => {
            let bytes = Bytes::from(serde_json::to_vec(&value).unwrap_or_default());
            ("application/json", vec![play::Frame::whole(bytes)])
        }
        Answer::Sse(frames) => ("text/event-stream; charset=utf-8", frames),
    };
    let length: usize = frames.iter().map(|frame| frame.bytes.len()).sum();
    let encoding = control.encoding.clone();
    let mut response = Response::new(Play::new(frames, control, meter).into_body());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert("x-ratelimit-remaining-requests", header::HeaderValue::from_static("4999"));
    if content_type == "application/json" && encoding.is_none() {
        headers.insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    }
    if let Some(encoding) = encoding.and_then(|encoding| header::HeaderValue::try_from(encoding).ok()) {
        headers.insert(header::CONTENT_ENCODING, encoding);
    }
    response
}

/// OpenAI names a request in `x-request-id`, Anthropic in `request-id`.
fn name_request(response: &mut Response<Body>, api: Api, id: &str) {
    let name = if api == Api::Messages { "request-id" } else { "x-request-id" };
    if let Ok(value) = header::HeaderValue::from_str(id) {
        response.headers_mut().insert(name, value);
    }
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let bytes = Bytes::from(serde_json::to_vec(value).unwrap_or_default());
    let body = http_body_util::Full::new(bytes).map_err(|never: Infallible| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// The error in the provider's own words.
#[must_use]
pub fn error_body(api: Api, status: u16, message: &str) -> Value {
    let kind = match (api, status) {
        (_, 400 | 404 | 413 | 422) if api != Api::Messages => "invalid_request_error",
        (_, 400) => "invalid_request_error",
        (_, 401) => "authentication_error",
        (_, 404) => "not_found_error",
        (_, 429) => "rate_limit_error",
        (Api::Messages, 529) => "overloaded_error",
        (Api::Messages, _) => "api_error",
        _ => "server_error",
    };
    if api == Api::Messages {
        return serde_json::json!({"type": "error", "error": {"type": kind, "message": message}});
    }
    let code = if status == 404 { Value::from("model_not_found") } else { Value::Null };
    serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}
