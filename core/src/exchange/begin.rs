//! From headers to an accepted call.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{
    Answered, Call, Moment, Settings,
    answer::Refusal,
    head::{self, Headers, Route},
};
use crate::{
    attempt::{Api, Denial},
    id::AttemptId,
    money::Nanos,
    policy::{KeyIdentity, Policy, Role},
    request::RequestView,
    trail::{Step, Steps},
};

/// What a request's headers lead to.
#[derive(Debug)]
pub enum Begin {
    /// Somebody who is known calls a provider's API.
    Known(Box<Known>),
    /// Refused.
    Answer(Box<Answered>),
    /// `GET /health`.
    Health,
    /// `GET /health/ready`.
    Ready,
}

/// A call whose caller is known, and nothing else of it: the place to count it.
#[derive(Debug)]
pub struct Known {
    pub(super) key: Arc<KeyIdentity>,
    pub(super) api: Api,
    pub(super) trace_id: String,
    policy: Arc<Policy>,
    attempt: AttemptId,
    started: Moment,
}

/// An accepted call whose body is still to come.
#[derive(Debug)]
pub struct AwaitingBody {
    pub(super) call: Call,
    pub(super) policy: Arc<Policy>,
}

impl AwaitingBody {
    /// Goes on under a newer policy: a body may take its time, and what was frozen or revoked meanwhile must not pass.
    /// Its tags stay those that its headers came to.
    #[must_use]
    pub fn under(mut self, policy: Arc<Policy>) -> Self {
        if let Some(key) = policy.key_by_id(self.call.key.key) {
            self.call.key = Arc::clone(key);
        }
        self.policy = policy;
        self
    }

    /// The refusal of a body for which there is no room in memory now.
    #[must_use]
    pub fn overloaded(&self) -> Box<Answered> {
        self.call.answered(Refusal::Overloaded.answer(Some(self.call.api)), None)
    }

    /// Notes how long the headers took, once they are answered.
    pub fn headers_took(&mut self, now: Moment) {
        self.call.head_us = now.us_since(self.call.started);
        self.call.steps.stamp(now.us);
    }
}

/// How our own keys begin (contract §1.2).
const KEY_PREFIX: &[u8] = b"ns_live_sk_";
/// Most header fields of a request, Envoy's own among them.
const HEADERS_MAX: usize = 110;
/// Most bytes of names and values together.
const HEADERS_MAX_BYTES: usize = 64 << 10;

/// Finds out who calls. `policy` is `None` while the data plane has never had one.
#[must_use]
pub fn begin(policy: Option<Arc<Policy>>, headers: &Headers, attempt: AttemptId, now: Moment) -> Begin {
    if headers.0.len() > HEADERS_MAX || headers.bytes() > HEADERS_MAX_BYTES {
        return Begin::Answer(answered(&Refusal::HeadersTooLarge, None, attempt.0.simple().to_string()));
    }
    let method = headers.get(":method").unwrap_or_default();
    let path = headers.get(":path").unwrap_or_default();
    let trace_id = head::trace_id(headers, || attempt.0.simple().to_string());
    let api = match head::route(method, path) {
        Route::Llm(api) => api,
        Route::Health => return Begin::Health,
        Route::Ready => return Begin::Ready,
        Route::Unknown => return Begin::Answer(answered(&Refusal::NotFound, None, trace_id)),
    };
    let Some(policy) = policy else {
        let message =
            "this data plane has not yet received its policy from the control plane; try again".to_owned();
        return Begin::Answer(answered(&Refusal::Unavailable { message }, Some(api), trace_id));
    };
    match caller(&policy, headers) {
        Some(key) => Begin::Known(Box::new(Known { key, api, trace_id, policy, attempt, started: now })),
        None => Begin::Answer(answered(&Refusal::Unauthorized, Some(api), trace_id)),
    }
}

fn caller(policy: &Policy, headers: &Headers) -> Option<Arc<KeyIdentity>> {
    // Two key headers would let a proxy in front and this one disagree on who calls.
    let raw = headers.raw("x-nullspend-key").filter(|_| headers.count("x-nullspend-key") == 1)?;
    let sha256: [u8; 32] = Sha256::digest(raw).into();
    policy.key(&sha256).map(Arc::clone)
}

pub(super) fn answered(refusal: &Refusal, api: Option<Api>, trace_id: String) -> Box<Answered> {
    let mut answer = refusal.answer(api);
    answer.headers.push(("x-nullspend-trace-id", trace_id));
    Box::new(Answered { answer, api, denial: None })
}

/// A refusal on the way, with the record it leaves.
struct Refused {
    refusal: Refusal,
    denial: Option<Denial>,
}

impl From<Refusal> for Box<Refused> {
    fn from(refusal: Refusal) -> Self {
        Self::new(Refused { refusal, denial: None })
    }
}

impl Known {
    /// Accepts the call or refuses it, by the same headers.
    ///
    /// # Errors
    /// The refusal.
    pub fn accept(self, settings: &Settings, headers: &Headers) -> Result<Box<AwaitingBody>, Box<Answered>> {
        match accept(settings, &self, headers) {
            Ok(call) => Ok(Box::new(AwaitingBody { call, policy: self.policy })),
            Err(refused) => {
                let mut answered = answered(&refused.refusal, Some(self.api), self.trace_id);
                answered.denial = refused.denial;
                Err(answered)
            }
        }
    }
}

fn accept(settings: &Settings, known: &Known, headers: &Headers) -> Result<Call, Box<Refused>> {
    let Known { key, api, trace_id, policy, attempt, started } = known;
    let (api, attempt, now) = (*api, *attempt, *started);
    if key.role != Role::Agent {
        return Err(Refusal::NotAnAgent { role: key.role.as_str() }.into());
    }
    if ["authorization", "x-api-key"].iter().any(|name| is_ours(headers, name)) {
        return Err(bad_request(
            "Authorization and x-api-key are forwarded to the provider and must hold the provider's key, not a NullSpend \
             key; send that one in X-NullSpend-Key alone"
                .to_owned(),
        )
        .into());
    }
    check_body_headers(settings, headers)?;
    let session_id = head::session_id(headers).map_err(bad_request)?;
    let stream_cost = head::stream_cost(headers).map_err(bad_request)?;
    let attribution = head::attribution(headers, key).map_err(bad_request)?;
    let upstream = settings
        .upstreams
        .choose(api, headers.get("x-nullspend-upstream"))
        .map_err(|allowed| Refusal::InvalidUpstream { allowed })?;
    let mut steps = Steps::since(now.us);
    steps.note(Step::Authenticate);
    let mut call = Call {
        attempt,
        api,
        key: Arc::clone(key),
        trace_id: trace_id.clone(),
        session_id,
        stream_cost,
        finalize: head::finalize(headers),
        action: head::action_id(headers),
        attribution,
        version: head::version(headers, key).to_owned(),
        upstream: upstream.clone(),
        private_headers: private_headers(headers),
        started: now,
        head_us: 0,
        steps,
    };
    if let Some(refusal) = call.caller_refused(policy) {
        refusal.step().into_iter().for_each(|step| call.steps.note(step));
        let denial = call.denial(&refusal.answer(Some(api)), "", Nanos::ZERO, now.ms);
        return Err(Box::new(Refused { refusal, denial: Some(denial) }));
    }
    if key.allowed_providers.is_some() {
        call.steps.note(Step::ProviderMandate);
    }
    Ok(call)
}

fn bad_request(message: String) -> Refusal {
    Refusal::BadRequest { message, param: None }
}

/// Whether a credential for the provider is one of ours, which must not leave the house.
fn is_ours(headers: &Headers, name: &str) -> bool {
    headers
        .0
        .iter()
        .filter(|(n, _)| n == name)
        .any(|(_, value)| value.windows(KEY_PREFIX.len()).any(|window| window == KEY_PREFIX))
}

/// The body will be JSON, uncompressed and not too large, or the request stops here.
fn check_body_headers(settings: &Settings, headers: &Headers) -> Result<(), Refusal> {
    let json = headers.get("content-type").is_none_or(|value| {
        let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    });
    if !json {
        return Err(Refusal::MediaType { message: "send the body as content-type application/json" });
    }
    let plain =
        headers.get("content-encoding").is_none_or(|value| value.trim().eq_ignore_ascii_case("identity"));
    if !plain {
        return Err(Refusal::MediaType {
            message: "send the body without content-encoding; it must be readable to be bounded",
        });
    }
    let length = headers.get("content-length").and_then(|value| value.parse::<u64>().ok());
    if length.is_some_and(|length| length > settings.max_body_bytes as u64) {
        return Err(Refusal::TooLarge { max_bytes: settings.max_body_bytes });
    }
    Ok(())
}

/// The refusal of what a mandate does not include.
fn outside(mandate: &'static str, allowed: Option<&Vec<String>>, requested: &str) -> Option<Refusal> {
    let allowed = allowed.filter(|allowed| !allowed.iter().any(|one| one == requested))?.clone();
    Some(Refusal::Mandate { mandate, requested: requested.to_owned(), allowed })
}

/// Ours and the cookie: none of a provider's business.
fn private_headers(headers: &Headers) -> Vec<String> {
    let private =
        |name: &str| name.starts_with("x-nullspend-") || name == "nullspend-version" || name == "cookie";
    let mut names: Vec<String> =
        headers.0.iter().map(|(name, _)| name).filter(|name| private(name)).cloned().collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Call {
    /// Why `policy` does not let the caller pass, whatever it asks the provider for: its key is revoked, it is frozen, or
    /// the provider is not its own to use.
    fn caller_refused(&self, policy: &Policy) -> Option<Refusal> {
        let Some(key) = policy.key_by_id(self.key.key) else { return Some(Refusal::Unauthorized) };
        let attribution = &self.attribution;
        if let Some(freeze) =
            policy.freezes().of_caller(key, &attribution.tags, attribution.customer.as_deref())
        {
            return Some(Refusal::Frozen { freeze: Arc::clone(freeze) });
        }
        outside("allowed_providers", key.allowed_providers.as_ref(), &self.upstream.provider)
    }

    /// Why `policy` does not let the call pass: its caller may not, or a model that it asks for is frozen or not the key's.
    pub(super) fn refused(&self, policy: &Policy, view: &RequestView) -> Option<Refusal> {
        if let Some(refusal) = self.caller_refused(policy) {
            return Some(refusal);
        }
        let (freezes, provider) = (policy.freezes(), self.upstream.provider.as_str());
        let of_model = |model: &str| freezes.of_model(self.key.org, provider, model, policy.prices());
        let advisors = view.advisors.iter().map(|advisor| advisor.model.as_str());
        if let Some(freeze) = std::iter::once(view.model.as_str()).chain(advisors).find_map(of_model) {
            return Some(Refusal::Frozen { freeze: Arc::clone(freeze) });
        }
        let key = policy.key_by_id(self.key.key)?;
        outside("allowed_models", key.allowed_models.as_ref(), &view.model)
    }

    /// The record of this call's refusal.
    pub(super) fn denial(
        &self,
        answer: &super::answer::Answer,
        model: &str,
        estimated: Nanos,
        at_ms: i64,
    ) -> Denial {
        Denial {
            attempt: self.attempt,
            org: self.key.org,
            key: self.key.key,
            at_ms,
            code: answer.code,
            provider: self.upstream.provider.clone(),
            model: model.chars().take(200).collect(),
            trace_id: self.trace_id.clone(),
            session_id: self.session_id.clone(),
            customer: self.attribution.customer.clone(),
            tags: self.attribution.tags.clone(),
            estimated,
            details_json: answer.details.to_string(),
            trail: self.trail(),
        }
    }
}
