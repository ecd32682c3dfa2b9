//! Rate limits on the way of a call: by client address before anything else is looked at, by key once it is known.

use super::{
    Answered, Moment,
    answer::Refusal,
    begin::{Known, answered},
    head::{self, Headers, Route},
};
use crate::{
    id::AttemptId,
    rate_limit::{self, RateLimiter, TooSoon},
};

/// Counts a call of a provider route by its client, `address:port` as Envoy tells it; the refusal of one too many. Routes of
/// our own and unknown ones are not counted, and neither is a client without an address.
#[must_use]
pub fn limit_client(
    limiter: &mut RateLimiter,
    headers: &Headers,
    client: &str,
    attempt: AttemptId,
    now: Moment,
) -> Option<Box<Answered>> {
    let method = headers.get(":method").unwrap_or_default();
    let Route::Llm(api) = head::route(method, headers.get(":path").unwrap_or_default()) else { return None };
    let TooSoon { retry_after_s } = limiter.client(rate_limit::address(client)?, now.us).err()?;
    let trace_id = head::trace_id(headers, || attempt.0.simple().to_string());
    Some(answered(&Refusal::RateLimited { who: "client address", retry_after_s }, Some(api), trace_id))
}

impl Known {
    /// Counts the call by its key, whatever becomes of it; the refusal of one too many.
    #[must_use]
    pub fn limit_key(&self, limiter: &mut RateLimiter, now: Moment) -> Option<Box<Answered>> {
        let TooSoon { retry_after_s } = limiter.key(self.key.key, now.us).err()?;
        let refusal = Refusal::RateLimited { who: "key", retry_after_s };
        Some(answered(&refusal, Some(self.api), self.trace_id.clone()))
    }
}
