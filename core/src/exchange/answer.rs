//! Answers the data plane gives itself: errors and denials in the contract's shape (§2.7, §2.8), with the provider's
//! own error fields beside ours so that its SDK raises its usual class.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::{
    attempt::Api,
    freeze::Freeze,
    price::{add_price_call, how_to_add},
    trail::Step,
};

/// A complete HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Header names (lower case) and values.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: Vec<u8>,
    /// The error code, for metrics and denial records; empty on success.
    pub code: &'static str,
    /// The `details` of the body, for denial records.
    pub details: Value,
}

/// Why a request is not forwarded, other than a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400 `bad_request`.
    BadRequest {
        /// What to change.
        message: String,
        /// The body's field at fault.
        param: Option<String>,
    },
    /// 400 `invalid_upstream`.
    InvalidUpstream {
        /// The base URLs that are allowed.
        allowed: Vec<String>,
    },
    /// 400 `invalid_model`: no price, so no bound.
    InvalidModel {
        /// The model asked for.
        model: String,
        /// The provider whose prices were searched.
        provider: String,
    },
    /// 401 `unauthorized`.
    Unauthorized,
    /// 403 `forbidden`: the key's role may not proxy.
    NotAnAgent {
        /// The key's role.
        role: &'static str,
    },
    /// 403 `mandate_violation`.
    Mandate {
        /// `allowed_providers` or `allowed_models`.
        mandate: &'static str,
        /// What was asked for.
        requested: String,
        /// What is allowed.
        allowed: Vec<String>,
    },
    /// 403 `frozen`: an administrator has stopped such calls.
    Frozen {
        /// What stopped it.
        freeze: Arc<Freeze>,
    },
    /// 404 `not_found`.
    NotFound,
    /// 413 `payload_too_large`.
    TooLarge {
        /// The limit.
        max_bytes: usize,
    },
    /// 431 `headers_too_large`.
    HeadersTooLarge,
    /// 415 `unsupported_media_type`: not JSON, or encoded so that it cannot be read.
    MediaType {
        /// What to change.
        message: &'static str,
    },
    /// 429 `rate_limited`: too many calls of one client address or key.
    RateLimited {
        /// What made them: `client address` or `key`.
        who: &'static str,
        /// When to come back.
        retry_after_s: u64,
    },
    /// 503 `service_unavailable`: no policy yet, or the spool cannot be written.
    Unavailable {
        /// What is missing.
        message: String,
    },
    /// 503 `overloaded`: too many request bodies in flight.
    Overloaded,
    /// 503 `budget_unavailable`: the ledger cannot decide; fail closed.
    BudgetUnavailable,
    /// `upstream_error`: Envoy answered in the provider's stead.
    ProviderUnreachable {
        /// Envoy's status.
        status: u16,
        /// Whether the request may have reached the provider.
        maybe_sent: bool,
    },
}

impl Refusal {
    /// The HTTP status, code, message and details of the refusal.
    fn parts(&self) -> (u16, &'static str, String, Value) {
        match self {
            Self::BadRequest { message, .. } => (400, "bad_request", message.clone(), Value::Null),
            Self::InvalidUpstream { allowed } => (
                400,
                "invalid_upstream",
                "X-NullSpend-Upstream names no configured upstream; use one of details.allowed, or have the operator \
                 add it to the upstream table"
                    .into(),
                json!({ "allowed": allowed }),
            ),
            Self::InvalidModel { model, provider } => (
                400,
                "invalid_model",
                format!(
                    "model {model:?} has no price for provider {provider:?}, so its cost cannot be bounded; check the \
                     spelling, or {}",
                    how_to_add(provider, model)
                ),
                json!({ "model": model, "provider": provider, "add_price": add_price_call(provider, model) }),
            ),
            Self::Unauthorized => (
                401,
                "unauthorized",
                "send a valid NullSpend key in the X-NullSpend-Key header (once); Authorization and x-api-key belong \
                 to the provider"
                    .into(),
                Value::Null,
            ),
            Self::NotAnAgent { role } => (
                403,
                "forbidden",
                format!("only agent keys can proxy; this key's role is {role}. Create a key with role agent"),
                json!({ "role": role }),
            ),
            Self::Mandate { mandate, requested, allowed } => (
                403,
                "mandate_violation",
                format!("this key's {mandate} do not include {requested:?}"),
                json!({ "mandate": mandate, "requested": truncated(requested, 200), "allowed": allowed }),
            ),
            Self::Frozen { freeze } => frozen(freeze),
            Self::NotFound => (
                404,
                "not_found",
                "no such route; POST /v1/chat/completions, /v1/responses or /v1/messages".into(),
                Value::Null,
            ),
            Self::TooLarge { max_bytes } => (
                413,
                "payload_too_large",
                format!("the request body is larger than {max_bytes} bytes"),
                json!({ "max_bytes": max_bytes }),
            ),
            Self::HeadersTooLarge => (
                431,
                "headers_too_large",
                "the header fields are more than 64 KiB or more than 100; send fewer, or shorter ones".into(),
                Value::Null,
            ),
            Self::MediaType { message } => (415, "unsupported_media_type", (*message).into(), Value::Null),
            Self::RateLimited { who, retry_after_s } => (
                429,
                "rate_limited",
                format!(
                    "this {who} has made all the calls that this installation allows it for now; come back in {retry_after_s} s, \
                     or have its rate limit raised"
                ),
                Value::Null,
            ),
            Self::Unavailable { message } => (503, "service_unavailable", message.clone(), Value::Null),
            Self::Overloaded => {
                (503, "overloaded", "too many request bodies are in flight; try again".into(), Value::Null)
            }
            Self::BudgetUnavailable => (
                503,
                "budget_unavailable",
                "the budget ledger cannot decide now, and nothing is forwarded undecided; try again".into(),
                Value::Null,
            ),
            Self::ProviderUnreachable { status, maybe_sent: false } => {
                (*status, "upstream_error", "the provider cannot be reached; nothing was charged".into(), Value::Null)
            }
            Self::ProviderUnreachable { status, maybe_sent: true } => (
                *status,
                "upstream_error",
                "the provider broke off before it answered; it may bill the call, so its bound was charged as an estimate"
                    .into(),
                Value::Null,
            ),
        }
    }

    /// The step that finds it, of refusals by who calls and for what.
    pub(super) fn step(&self) -> Option<Step> {
        match self {
            Self::Unauthorized => Some(Step::Authenticate),
            Self::Frozen { .. } => Some(Step::Freeze),
            Self::Mandate { mandate: "allowed_providers", .. } => Some(Step::ProviderMandate),
            Self::Mandate { .. } => Some(Step::ModelMandate),
            _ => None,
        }
    }

    /// The answer, in the error shape of the API spoken (`None`: our own routes).
    #[must_use]
    pub fn answer(&self, api: Option<Api>) -> Answer {
        let (status, code, message, details) = self.parts();
        let param = match self {
            Self::BadRequest { param, .. } => param.clone(),
            Self::InvalidModel { .. } => Some("model".to_owned()),
            _ => None,
        };
        let mut headers = Vec::new();
        match status {
            // Waiting is all it takes, and provider SDKs wait for as long as they are told.
            _ if matches!(self, Self::RateLimited { .. }) => {}
            500.. => headers.push(("retry-after", "1".to_owned())),
            // Both provider SDKs would repeat some of these; nothing changes until the caller does.
            _ => headers.push(("x-should-retry", "false".to_owned())),
        }
        if let Self::RateLimited { retry_after_s, .. } = self {
            headers.push(("retry-after", retry_after_s.to_string()));
        }
        if matches!(self, Self::Frozen { .. }) {
            headers.push(("x-nullspend-denied", "1".to_owned()));
        }
        let recovery =
            matches!(self, Self::Mandate { .. } | Self::Frozen { .. }).then(|| recovery(false, true, None));
        let error = ErrorBody { status, code, message, details: details.clone(), param, recovery };
        Answer { status, headers, body: error.render(api), code, details }
    }
}

/// Says what is frozen and who can help. No 429: provider SDKs would send the call again.
fn frozen(freeze: &Freeze) -> (u16, &'static str, String, Value) {
    let (kind, id) = (freeze.target.kind(), freeze.target.shown_id());
    let why = if freeze.reason.is_empty() { String::new() } else { format!(" ({})", freeze.reason) };
    let message = format!(
        "calls of {kind} {id} are frozen{why}; stop, and ask an administrator of your organisation to lift the freeze {}",
        freeze.freeze
    );
    let details = json!({ "entity_type": kind, "entity_id": id, "freeze_id": freeze.freeze.to_string(),
        "reason": freeze.reason, "since": iso(freeze.since_ms) });
    (403, "frozen", message, details)
}

/// ISO-8601 in UTC with milliseconds, as times are written everywhere on the wire; `null` beyond the years that exist.
fn iso(unix_ms: i64) -> Value {
    jiff::Timestamp::from_millisecond(unix_ms).map_or(Value::Null, |at| json!(format!("{at:.3}")))
}

/// What helps after a denial.
pub(super) fn recovery(
    retryable: bool,
    owner_action_required: bool,
    retry_after_seconds: Option<i64>,
) -> Value {
    json!({ "retryable": retryable, "owner_action_required": owner_action_required,
        "retry_after_seconds": retry_after_seconds, "docs": null })
}

pub(super) struct ErrorBody {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
    pub(super) param: Option<String>,
    pub(super) recovery: Option<Value>,
}

impl ErrorBody {
    pub(super) fn render(self, api: Option<Api>) -> Vec<u8> {
        let mut error = Map::new();
        error.insert("code".into(), json!(self.code));
        error.insert("message".into(), json!(self.message));
        error.insert("details".into(), self.details);
        if let Some(recovery) = self.recovery {
            error.insert("recovery".into(), recovery);
        }
        let body = match api {
            Some(Api::OpenAiChat | Api::OpenAiResponses) => {
                error.insert("type".into(), json!(openai_type(self.status, self.code)));
                error.insert("param".into(), json!(self.param));
                json!({ "error": error })
            }
            Some(Api::AnthropicMessages) => {
                error.insert("type".into(), json!(anthropic_type(self.status)));
                json!({ "type": "error", "error": error })
            }
            None => json!({ "error": error }),
        };
        body.to_string().into_bytes()
    }
}

fn openai_type(status: u16, code: &str) -> &'static str {
    match status {
        // OpenAI's own word for too many of them.
        429 if code == "rate_limited" => "requests",
        401 => "authentication_error",
        403 => "permission_error",
        429 => "insufficient_quota",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

fn truncated(text: &str, max_chars: usize) -> String {
    text.chars().take(max_chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_429_and_our_refusals_never_say_denied() {
        for refusal in
            [Refusal::Unauthorized, Refusal::NotFound, Refusal::BudgetUnavailable, Refusal::Overloaded]
        {
            let answer = refusal.answer(Some(Api::OpenAiChat));
            assert!(answer.headers.iter().all(|(name, _)| *name != "x-nullspend-denied"), "{refusal:?}");
        }
    }

    #[test]
    fn a_freeze_says_what_why_since_when_and_that_repeating_is_in_vain() {
        let freeze = Arc::new(Freeze {
            freeze: crate::id::FreezeId(uuid::Uuid::from_u128(5)),
            org: crate::id::OrgId(uuid::Uuid::from_u128(1)),
            target: crate::freeze::Target::Model("gpt-4o".into()),
            reason: "runaway agent".into(),
            since_ms: 1_795_000_000_007,
        });
        let refusal = Refusal::Frozen { freeze };
        let answer = refusal.answer(Some(Api::OpenAiChat));
        assert_eq!((answer.status, answer.code), (403, "frozen"));
        for header in [("x-nullspend-denied", "1"), ("x-should-retry", "false")] {
            assert!(answer.headers.contains(&(header.0, header.1.to_owned())), "{header:?}");
        }
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let details = json!({"entity_type": "model", "entity_id": "gpt-4o", "reason": "runaway agent",
            "freeze_id": "ns_frz_00000000-0000-0000-0000-000000000005", "since": "2026-11-18T11:06:40.007Z"});
        assert_eq!(body["error"]["details"], details);
        let recovery = json!({"retryable": false, "owner_action_required": true, "retry_after_seconds": null,
            "docs": null});
        assert_eq!(
            (&body["error"]["recovery"], &body["error"]["type"]),
            (&recovery, &json!("permission_error"))
        );
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("model gpt-4o are frozen (runaway agent)"), "{message}");
        let anthropic: Value =
            serde_json::from_slice(&refusal.answer(Some(Api::AnthropicMessages)).body).unwrap();
        assert_eq!(
            (&anthropic["type"], &anthropic["error"]["type"]),
            (&json!("error"), &json!("permission_error"))
        );
    }

    #[test]
    fn a_mandate_violation_truncates_what_was_asked_for() {
        let requested = "m".repeat(500);
        let refusal =
            Refusal::Mandate { mandate: "allowed_models", requested, allowed: vec!["gpt-4o".into()] };
        let answer = refusal.answer(Some(Api::OpenAiChat));
        assert_eq!((answer.status, answer.code), (403, "mandate_violation"));
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body["error"]["recovery"]["owner_action_required"], true);
        assert_eq!(answer.details["requested"].as_str().map(str::len), Some(200));
    }
}
