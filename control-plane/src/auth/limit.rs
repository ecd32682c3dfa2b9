//! How many calls of the API one key may make (contract §5.1): the same for gRPC and REST.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use nullspend_core::{
    clock::Clock,
    id::KeyId,
    rate_limit::{RateLimiter, Standing, TooSoon},
};
use tonic::{Code, Status, metadata::MetadataMap};

use crate::status::status;

/// Counts the calls of each key, in this process's memory.
#[derive(Debug)]
pub struct KeyLimit {
    calls_per_minute: NonZeroU32,
    limiter: Mutex<RateLimiter>,
    clock: Arc<dyn Clock>,
}

impl KeyLimit {
    /// So many calls a minute.
    #[must_use]
    pub fn new(calls_per_minute: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let limiter = Mutex::new(RateLimiter::new(None, Some(calls_per_minute)));
        Self { calls_per_minute, limiter, clock }
    }

    /// Counts a call; the headers that tell the caller where it stands.
    ///
    /// # Errors
    /// `rate_limit_exceeded`, with the same headers and `retry-after`.
    pub fn count(&self, key: KeyId) -> Result<HeaderMap, Status> {
        let now_us = self.clock.monotonic_us();
        let counted = self.limiter.lock().unwrap_or_else(PoisonError::into_inner).key(key, now_us);
        match counted {
            Ok(Some(Standing { remaining, full_in_us })) => Ok(self.headers(remaining, full_in_us)),
            Ok(None) => Ok(HeaderMap::new()),
            Err(TooSoon { retry_after_s }) => {
                let message = format!(
                    "this key has made the {} calls a minute that this installation allows it; come back in \
                     {retry_after_s} s, or have rate_limits.api_calls_per_minute raised",
                    self.calls_per_minute
                );
                let mut refusal = status(Code::ResourceExhausted, "rate_limit_exceeded", message);
                let mut headers = self.headers(0, retry_after_s.saturating_mul(1_000_000));
                headers.insert("retry-after", HeaderValue::from(retry_after_s));
                *refusal.metadata_mut() = MetadataMap::from_headers(headers);
                Err(refusal)
            }
        }
    }

    fn headers(&self, remaining: u64, reset_in_us: u64) -> HeaderMap {
        let reset_in_ms = i64::try_from(reset_in_us.div_ceil(1000)).unwrap_or(i64::MAX);
        let reset_ms = self.clock.now_ms().saturating_add(reset_in_ms);
        HeaderMap::from_iter([
            (HeaderName::from_static("x-ratelimit-limit"), HeaderValue::from(self.calls_per_minute.get())),
            (HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from(remaining)),
            (HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(reset_ms)),
        ])
    }
}

#[cfg(test)]
mod tests {
    use nullspend_core::clock::ManualClock;

    use super::*;

    #[test]
    fn a_key_is_told_where_it_stands() {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let limit = KeyLimit::new(NonZeroU32::new(2).unwrap(), Arc::clone(&clock) as Arc<dyn Clock>);
        let (key, other) = (KeyId(uuid::Uuid::from_u128(1)), KeyId(uuid::Uuid::from_u128(2)));
        let told = |headers: &HeaderMap| {
            ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"]
                .map(|name| headers[name].to_str().unwrap().parse::<i64>().unwrap())
        };
        assert_eq!(told(&limit.count(key).unwrap()), [2, 1, 1_030_000]);
        assert_eq!(told(&limit.count(key).unwrap()), [2, 0, 1_060_000]);
        let refusal = limit.count(key).unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        let headers = refusal.metadata().clone().into_headers();
        assert_eq!((told(&headers), headers["retry-after"].to_str().unwrap()), ([2, 0, 1_030_000], "30"));
        assert_eq!(told(&limit.count(other).unwrap()), [2, 1, 1_030_000]);
        clock.advance_ms(30_000);
        assert_eq!(told(&limit.count(key).unwrap()), [2, 0, 1_090_000]);
    }
}
