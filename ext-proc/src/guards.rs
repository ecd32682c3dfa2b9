//! What keeps count of calls beside the ledger, in this process's memory: repeats and rates. Core decides.

use std::{
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
};

use nullspend_core::{
    exchange::{Answered, Moment, Reserving},
    loops::Loops,
    rate_limit::RateLimiter,
};

/// How many calls may come in a minute; `None`: any number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimits {
    /// From one client address (of IPv6, one /64 network).
    pub ip_calls_per_minute: Option<NonZeroU32>,
    /// With one key.
    pub key_calls_per_minute: Option<NonZeroU32>,
}

/// The counts of one data plane.
#[derive(Debug)]
pub struct Guards {
    loops: Mutex<Loops>,
    /// `None` where nothing is limited.
    limiter: Option<Mutex<RateLimiter>>,
}

impl Guards {
    pub fn new(limits: RateLimits) -> Self {
        let limiter = RateLimiter::new(limits.ip_calls_per_minute, limits.key_calls_per_minute);
        let limiter = (limits != RateLimits::default()).then(|| Mutex::new(limiter));
        Self { loops: Mutex::default(), limiter }
    }

    /// Asks the rate limits, where there are any.
    pub fn limited(
        &self,
        ask: impl FnOnce(&mut RateLimiter) -> Option<Box<Answered>>,
    ) -> Option<Box<Answered>> {
        let limiter = self.limiter.as_ref()?;
        ask(&mut limiter.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a call where a budget limits repeats; the refusal of one that is part of a loop.
    pub fn looping(&self, reserving: &mut Reserving, now: Moment) -> Option<Box<Answered>> {
        if !reserving.may_loop() {
            return None;
        }
        reserving.looping(&mut self.loops.lock().unwrap_or_else(PoisonError::into_inner), now)
    }
}
