//! The provider's books: one record per call, kept up to date while the call runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, header};
use nullspend_core::id::{Ids, RandomIds};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::{Api, bill::Bill, control::Control};

/// Bodies longer than this are not kept in the log.
const KEPT_BODY: usize = 64 * 1024;

/// How far a call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Being answered.
    Open,
    /// Answered to the last byte.
    Finished,
    /// Broken off by either side.
    Cut,
    /// Answered with an error; nothing was billed.
    Refused,
}

/// One call as the provider saw and billed it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Call {
    /// The provider's request id, as in the response header.
    pub request_id: String,
    /// The caller's own name for it ([`Control::label`]).
    pub label: Option<String>,
    /// Which API, if any.
    pub api: Option<String>,
    /// The path asked for.
    pub path: String,
    /// The requested model.
    pub model: Option<String>,
    /// Whether a stream was asked for.
    pub stream: bool,
    /// HTTP status of the answer.
    pub status: u16,
    /// How far it came.
    pub state: State,
    /// Prompt tokens, cached ones included.
    pub input_tokens: u64,
    /// Of those, cached.
    pub cached_tokens: u64,
    /// Output tokens generated so far.
    pub output_tokens: u64,
    /// What it costs so far, in nano-dollars.
    pub billed_nanos: i64,
    /// The provider credential as it arrived.
    pub credential: Option<String>,
    /// Every request header (a test provider has no secrets).
    pub headers: BTreeMap<String, String>,
    /// Bytes of the request body.
    pub body_bytes: u64,
    /// The request body, when small.
    pub body: Option<String>,
}

#[derive(Debug)]
pub(super) struct Log {
    books: bool,
    calls: Mutex<Vec<Call>>,
    gates: watch::Sender<BTreeSet<String>>,
    changed: watch::Sender<()>,
    prefix: String,
    next: AtomicU64,
}

impl Log {
    pub(super) fn new(books: bool) -> Self {
        Self {
            books,
            calls: Mutex::default(),
            gates: watch::Sender::default(),
            changed: watch::Sender::default(),
            // Two runs of the provider must not repeat ids: the product may keep events of both.
            prefix: RandomIds.v4().simple().to_string(),
            next: AtomicU64::new(1),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.locked().clone()
    }

    pub(super) async fn wait_until(&self, met: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        let mut changed = self.changed.subscribe();
        loop {
            {
                let calls = self.locked();
                if met(&calls) {
                    return calls.clone();
                }
            }
            // The sender lives in `self`, so this cannot fail while we wait.
            let _ = changed.changed().await;
        }
    }

    pub(super) fn open_gate(&self, name: &str) {
        self.gates.send_modify(|open| {
            open.insert(name.to_owned());
        });
    }

    async fn pass_gate(&self, name: &str) {
        let _ = self.gates.subscribe().wait_for(|open| open.contains(name)).await;
    }

    /// The record's place; a place that does not exist when no books are kept.
    fn add(&self, call: Call) -> usize {
        if !self.books {
            return usize::MAX;
        }
        let mut calls = self.locked();
        calls.push(call);
        let index = calls.len() - 1;
        drop(calls);
        self.changed.send_replace(());
        index
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Call)) {
        if !self.books {
            return;
        }
        let mut calls = self.locked();
        if let Some(call) = calls.get_mut(index) {
            change(call);
        }
        drop(calls);
        self.changed.send_replace(());
    }

    fn record(&self, api: Option<Api>, path: &str, headers: &HeaderMap, body: &Bytes) -> Call {
        let text = |value: &header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let credential = headers.get(header::AUTHORIZATION).or_else(|| headers.get("x-api-key")).map(text);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let small = self.books && body.len() <= KEPT_BODY;
        let kept = std::str::from_utf8(body).ok().filter(|_| small).map(str::to_owned);
        Call {
            request_id: format!("req_{}_{number}", &self.prefix[..12]),
            label: None,
            api: api.map(|api| api.as_str().to_owned()),
            path: path.to_owned(),
            model: None,
            stream: false,
            status: 200,
            state: State::Open,
            input_tokens: 0,
            cached_tokens: 0,
            output_tokens: 0,
            billed_nanos: 0,
            credential,
            headers: headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
            body_bytes: u64::try_from(body.len()).unwrap_or(u64::MAX),
            body: kept,
        }
    }

    /// Records a call that is answered with an error and returns its request id.
    pub(super) fn refused(
        &self,
        api: Option<Api>,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
        status: u16,
    ) -> String {
        let model = serde_json::from_slice::<Value>(body).ok().and_then(|request| model_of(&request));
        let call = Call { status, model, state: State::Refused, ..self.record(api, path, headers, body) };
        let id = call.request_id.clone();
        self.add(call);
        id
    }
}

fn model_of(request: &Value) -> Option<String> {
    request["model"].as_str().map(str::to_owned)
}

/// Keeps one call's record; a meter dropped before [`Meter::finish`] leaves the call `Cut`.
#[derive(Debug)]
pub(super) struct Meter {
    log: Arc<Log>,
    index: usize,
    request_id: String,
    bill: Bill,
    generated: u64,
    finished: bool,
}

impl Meter {
    #[expect(clippy::too_many_arguments, reason = "everything that one record holds")]
    pub(super) fn open(
        log: &Arc<Log>,
        api: Api,
        path: &str,
        headers: &HeaderMap,
        body: &Bytes,
        request: &Value,
        bill: Bill,
        control: &Control,
    ) -> Self {
        let call = Call {
            label: control.label.clone(),
            model: model_of(request),
            stream: request["stream"].as_bool().unwrap_or(false),
            input_tokens: bill.input_tokens,
            cached_tokens: bill.cached_tokens,
            billed_nanos: bill.nanos(0),
            ..log.record(Some(api), path, headers, body)
        };
        let request_id = call.request_id.clone();
        let index = log.add(call);
        Self { log: Arc::clone(log), index, request_id, bill, generated: 0, finished: false }
    }

    pub(super) fn request_id(&self) -> &str {
        &self.request_id
    }

    pub(super) fn generated(&mut self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        self.generated += tokens;
        let (output_tokens, billed_nanos) = (self.generated, self.bill.nanos(self.generated));
        self.log.change(self.index, |call| {
            call.output_tokens = output_tokens;
            call.billed_nanos = billed_nanos;
        });
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
        self.log.change(self.index, |call| call.state = State::Finished);
    }

    pub(super) async fn pass_gate(&self, name: &str) {
        self.log.pass_gate(name).await;
    }

    /// Everything that a request may ask for before it gets response headers.
    pub(super) async fn pause_before_headers(&self, control: &Control) -> io::Result<()> {
        if control.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(control.delay_ms)).await;
        }
        if let (Some(gate), 0) = (&control.gate, control.gate_at) {
            self.pass_gate(gate).await;
        }
        if control.stall_at == Some(0) {
            std::future::pending::<()>().await;
        }
        if control.reset_at == Some(0) {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        Ok(())
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if !self.finished {
            self.log.change(self.index, |call| call.state = State::Cut);
        }
    }
}
