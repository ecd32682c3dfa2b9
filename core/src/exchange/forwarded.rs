//! From forwarding to the answer's last byte (design §5.5 and §5.6). Bytes pass untouched but for the one frame that
//! we asked for in the client's stead.

use std::sync::Arc;

use super::{
    Call, Moment, Opening,
    admit::{Admitted, budget_headers},
    answer::Refusal,
    cost_comment::Tail,
    head::Headers,
    increments::Increments,
};
use crate::{
    attempt::{Api, AttemptStub},
    ledger::Balance,
    policy::BudgetRule,
    request::{CacheAsked, Changes},
    trail::{Step, Trail},
    usage::{BodyKind, Meter, StripUsageFrame, decode::is_encoded},
};

/// How the host forwards the request.
#[derive(Debug)]
pub struct Forward {
    /// The Envoy cluster.
    pub cluster: String,
    /// `:path` for the provider.
    pub path: String,
    /// `:authority` for the provider.
    pub authority: String,
    /// Headers to remove.
    pub remove_headers: Vec<String>,
    /// The body, where it differs from what the client sent.
    pub body: Option<Vec<u8>>,
}

/// Who made the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The provider.
    Provider,
    /// Envoy, without having reached the provider.
    NotSent,
    /// Envoy, after the request may have reached the provider.
    MaybeSent,
}

impl Origin {
    /// Reads Envoy's `response.code_details`.
    ///
    /// `via_upstream` is the provider's own answer. Failures to connect, and refusals before a connection was chosen,
    /// never reached it. Everything else (reset after sending, time-outs, unknown words) may have.
    #[must_use]
    pub fn of_code_details(details: &str) -> Self {
        const NOT_SENT: [&str; 8] = [
            "remote_connection_failure",
            "local_connection_failure",
            "connection_timeout",
            "no_healthy_upstream",
            "cluster_not_found",
            "route_not_found",
            "upstream_max_connections",
            "{overflow}",
        ];
        match details {
            "via_upstream" => Self::Provider,
            _ if NOT_SENT.iter().any(|word| details.contains(word)) => Self::NotSent,
            _ => Self::MaybeSent,
        }
    }
}

/// Larger prompts are not kept for counting; their bound stands in.
const PROMPT_KEPT_MAX_BYTES: usize = 256 << 10;

/// Changes to the answer's headers.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// Set, replacing what the provider sent.
    pub set: Vec<(&'static str, String)>,
    /// Removed: headers that only we may send.
    pub remove: Vec<String>,
}

/// What the provider's headers said.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) status: u16,
    pub(super) origin: Origin,
    pub(super) provider_request_id: Option<String>,
    pub(super) rate_limits: Vec<(&'static str, String)>,
}

/// A forwarded request: watch the answer, then [`Forwarded::close`].
#[derive(Debug)]
pub struct Forwarded {
    pub(super) admitted: Admitted,
    pub(super) stub: AttemptStub,
    pub(super) trail: Trail,
    pub(super) tightest: Option<(Arc<BudgetRule>, Balance)>,
    pub(super) forwarded_at: Moment,
    pub(super) received: Option<Received>,
    pub(super) meter: Option<Meter>,
    pub(super) first_byte_at: Option<Moment>,
    strip: Option<StripUsageFrame>,
    /// Of a stream whose cost is told at its end.
    tail: Option<Tail>,
    injected_usage: bool,
    /// Of a stream that is paid for as it goes on.
    pub(super) increments: Option<Increments>,
    /// The answer's last byte came.
    ended: bool,
    /// The prompt, to be counted if the stream breaks before it tells its usage.
    pub(super) prompt: Option<Vec<u8>>,
    /// Replaces the body of an answer that Envoy made; empty once sent.
    stand_in: Option<Vec<u8>>,
}

impl Opening {
    /// The `opened` record is written: forward. `body` is what the client sent.
    #[must_use]
    pub fn opened(self, body: Vec<u8>, now: Moment) -> (Forward, Forwarded) {
        let Self { admitted, stub, mut trail, tightest } = self;
        trail.steps.note(Step::Open);
        trail.steps.note(Step::Forward);
        trail.steps.stamp(now.us);
        let call = &admitted.call;
        let changes = Changes {
            include_usage: call.upstream.inject_usage && admitted.view.needs_include_usage(),
            max_output: admitted.clamp.map(|clamp| clamp.limit),
        };
        // Anthropic's streams tell the input first; OpenAI's tell it last, or never.
        let keep =
            admitted.view.stream && call.api != Api::AnthropicMessages && body.len() <= PROMPT_KEPT_MAX_BYTES;
        let forward = Forward {
            cluster: call.upstream.name.clone(),
            path: call.upstream.path(call.api),
            authority: call.upstream.authority.clone(),
            remove_headers: call.private_headers.clone(),
            body: admitted.view.changed(&body, changes),
        };
        let forwarded = Forwarded {
            increments: Increments::of(&admitted),
            ended: false,
            admitted,
            stub,
            trail,
            tightest,
            forwarded_at: now,
            received: None,
            meter: None,
            first_byte_at: None,
            strip: None,
            tail: None,
            injected_usage: changes.include_usage,
            stand_in: None,
            prompt: keep.then_some(body),
        };
        (forward, forwarded)
    }

    /// The `opened` record could not be written: nothing was forwarded, the hold must be settled at 0.
    #[must_use]
    pub fn not_opened(&self) -> Box<super::Answered> {
        let call = &self.admitted.call;
        let message = "the data plane cannot write its spool, and nothing is forwarded unrecorded; try again"
            .to_owned();
        let mut answer = super::answer::Refusal::Unavailable { message }.answer(Some(call.api));
        answer.headers.extend(call.common_headers());
        Box::new(super::Answered { answer, api: Some(call.api), denial: None })
    }
}

impl Forwarded {
    /// Who calls, and for what.
    #[must_use]
    pub fn call(&self) -> &Call {
        &self.admitted.call
    }

    /// The record that was opened.
    #[must_use]
    pub fn stub(&self) -> &AttemptStub {
        &self.stub
    }

    /// How it was decided, and what was done with it so far.
    #[must_use]
    pub fn trail(&self) -> &Trail {
        &self.trail
    }

    /// Bytes of the request that are kept to be counted.
    #[must_use]
    pub fn prompt_bytes(&self) -> usize {
        self.prompt.as_ref().map_or(0, Vec::len)
    }

    /// Keeps no bytes of the request: should it have to be counted, its bound stands in.
    pub fn forget_prompt(&mut self) {
        self.prompt = None;
    }

    pub(super) fn took(&mut self, step: Step, now: Moment) {
        self.trail.steps.note(step);
        self.trail.steps.stamp(now.us);
    }

    /// Microseconds the product spent before forwarding, waiting for the client's body left out.
    #[must_use]
    pub fn overhead_us(&self) -> u64 {
        self.admitted.call.head_us + self.forwarded_at.us_since(self.admitted.body_at)
    }

    /// The answer's headers came.
    pub fn response_head(&mut self, headers: &Headers, origin: Origin, now: Moment) -> ResponseHead {
        self.took(Step::Answer, now);
        let status = headers.get(":status").and_then(|status| status.parse().ok()).unwrap_or(0);
        let streamed = headers.get("content-type").is_some_and(is_event_stream);
        let ok = (200..300).contains(&status) && origin == Origin::Provider;
        if ok {
            let kind = if streamed { BodyKind::Sse } else { BodyKind::Json };
            let encoding = headers.list("content-encoding");
            let long_cache = self.admitted.view.cache == CacheAsked::Long;
            let meter = Meter::new(self.call().api, self.call().upstream.vendor, kind);
            self.meter = Some(meter.with_encoding(&encoding).with_long_cache(long_cache));
            // Out of an encoded stream no frame can be taken without encoding it anew: it passes, usage and all.
            let plain = streamed && !is_encoded(&encoding);
            self.strip = (self.injected_usage && plain).then(StripUsageFrame::default);
            self.tail = (self.call().stream_cost && plain).then(Tail::default);
            self.increments = self.increments.take().map(|increments| increments.opaque(!plain));
        } else {
            self.increments = None;
        }
        let request_id = ["x-request-id", "request-id"].into_iter().find_map(|name| headers.get(name));
        let received = Received {
            status,
            origin,
            provider_request_id: request_id.map(|id| id.chars().take(200).collect()),
            rate_limits: rate_limits(headers),
        };
        let mut set = self.call().common_headers();
        set.extend(self.own_headers(now, streamed, ok));
        if headers.get("x-request-id").is_none()
            && let Some(id) = headers.get("request-id")
        {
            set.push(("x-request-id", id.to_owned()));
        }
        if origin != Origin::Provider {
            let refusal = Refusal::ProviderUnreachable { status, maybe_sent: origin == Origin::MaybeSent };
            let answer = refusal.answer(Some(self.call().api));
            set.extend(answer.headers);
            set.push(("content-type", "application/json".to_owned()));
            self.stand_in = Some(answer.body);
        }
        self.received = Some(received);
        // A provider that says it was NullSpend (a chained one) must not pass for this one (contract §0.3-4).
        let ours = |name: &str| name.starts_with("x-nullspend-") && !set.iter().any(|(own, _)| *own == name);
        let remove = headers.0.iter().map(|(name, _)| name).filter(|name| ours(name)).cloned().collect();
        ResponseHead { set, remove }
    }

    /// Contract §2.6.
    fn own_headers(&self, now: Moment, streamed: bool, ok: bool) -> Vec<(&'static str, String)> {
        let call = self.call();
        let overhead_us = self.overhead_us();
        let upstream_us = now.us_since(self.forwarded_at);
        let mut set = vec![
            ("nullspend-version", call.version.clone()),
            ("x-nullspend-overhead-ms", ((overhead_us + 500) / 1000).to_string()),
            ("server-timing", self.server_timing(overhead_us, upstream_us, streamed)),
        ];
        if let Some(clamp) = &self.admitted.clamp {
            set.push(("x-nullspend-max-tokens-applied", clamp.limit.tokens.to_string()));
        }
        if let Some(session) = &call.session_id {
            set.push(("x-nullspend-session", session.clone()));
        }
        if let Some((rule, balance)) = &self.tightest {
            set.extend(budget_headers(rule, *balance));
        }
        if ok && streamed {
            set.push(("cache-control", "no-cache, no-transform".to_owned()));
            set.push(("x-accel-buffering", "no".to_owned()));
        }
        set
    }

    fn server_timing(&self, overhead_us: u64, upstream_us: u64, streamed: bool) -> String {
        let ms = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
        let mut entries = vec![
            format!("preflight;dur={};desc=\"headers, key\"", ms(self.admitted.call.head_us)),
            format!(
                "budget;dur={};desc=\"body, bound, hold, record\"",
                ms(self.forwarded_at.us_since(self.admitted.body_at))
            ),
        ];
        if streamed {
            entries.push(format!("ttfb;dur={};desc=\"provider's headers\"", ms(upstream_us)));
        }
        entries.push(format!("overhead;dur={};desc=\"NullSpend\"", ms(overhead_us)));
        entries.push(format!("upstream;dur={};desc=\"provider\"", ms(upstream_us)));
        entries.push(format!("total;dur={};desc=\"until headers\"", ms(overhead_us + upstream_us)));
        entries.join(", ")
    }

    /// The caller wants to be told the cost, and what it was sent ends where a comment may stand.
    #[must_use]
    pub fn tells_cost(&self) -> bool {
        self.tail.is_some_and(|tail| tail.is_between_events())
    }

    /// A piece of the answer's body came; gives what the client gets. See [`Forwarded::owes`] for what else to do.
    pub fn response_body(&mut self, chunk: Vec<u8>, end_of_stream: bool, now: Moment) -> Vec<u8> {
        if !chunk.is_empty() && self.first_byte_at.is_none() {
            self.first_byte_at = Some(now);
            self.took(Step::FirstByte, now);
        }
        if let Some(body) = &mut self.stand_in {
            return std::mem::take(body);
        }
        self.ended |= end_of_stream;
        let passed = match (&mut self.increments, &mut self.meter) {
            (Some(increments), Some(meter)) => increments.push(chunk, end_of_stream, meter),
            (_, Some(meter)) => {
                meter.push(&chunk);
                chunk
            }
            (_, None) => chunk,
        };
        self.pass(passed)
    }

    /// What the client gets of bytes that may pass.
    pub(super) fn pass(&mut self, passed: Vec<u8>) -> Vec<u8> {
        let mut out = match &mut self.strip {
            Some(strip) => strip.push(&passed),
            None => passed,
        };
        let all = self.ended && self.increments.as_ref().is_none_or(Increments::is_empty);
        if all && let Some(strip) = self.strip.take() {
            out.extend(strip.finish());
        }
        self.sent(&out);
        out
    }

    /// Notes what the client was sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        if let Some(tail) = &mut self.tail {
            tail.push(bytes);
        }
    }
}

fn is_event_stream(content_type: &str) -> bool {
    content_type
        .split(';')
        .next()
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case("text/event-stream"))
}

/// The provider's own limits, kept as system tags (contract §3.4).
fn rate_limits(headers: &Headers) -> Vec<(&'static str, String)> {
    const NAMES: [(&str, &str, &str); 2] = [
        (
            "_ns_ratelimit_remaining_requests",
            "x-ratelimit-remaining-requests",
            "anthropic-ratelimit-requests-remaining",
        ),
        (
            "_ns_ratelimit_remaining_tokens",
            "x-ratelimit-remaining-tokens",
            "anthropic-ratelimit-tokens-remaining",
        ),
    ];
    NAMES
        .into_iter()
        .filter_map(|(tag, openai, anthropic)| {
            let value = headers.get(openai).or_else(|| headers.get(anthropic))?;
            Some((tag, value.chars().take(64).collect()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_to_connect_count_as_not_sent() {
        for (details, origin) in [
            ("via_upstream", Origin::Provider),
            (
                "upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}",
                Origin::NotSent,
            ),
            ("upstream_reset_before_response_started{connection_timeout}", Origin::NotSent),
            ("no_healthy_upstream", Origin::NotSent),
            ("upstream_reset_before_response_started{connection_termination}", Origin::MaybeSent),
            ("upstream_reset_before_response_started{remote_reset}", Origin::MaybeSent),
            ("upstream_response_timeout", Origin::MaybeSent),
            ("", Origin::MaybeSent),
        ] {
            assert_eq!(Origin::of_code_details(details), origin, "{details}");
        }
    }
}
