//! Rate limits: how many calls a client address or a key may make, whatever they cost. Off unless configured; each data plane
//! counts for itself, in bounded memory.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
};

use crate::id::KeyId;

const MINUTE_US: u64 = 60_000_000;
/// Callers remembered at once, about 5 MB. One that has not called for a minute is as good as one never seen.
const CALLERS_MAX: usize = 100_000;
/// Looking for those takes milliseconds, so it is done no more often.
const FORGET_EVERY_US: u64 = 1_000_000;

/// A call that came too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooSoon {
    /// When the next one may come, in whole seconds from now, rounded up.
    pub retry_after_s: u64,
}

/// Where a caller stands after a call that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Calls that may follow at once.
    pub remaining: u64,
    /// When all of a minute's may again, in microseconds from now.
    pub full_in_us: u64,
}

/// Calls by client address and by key.
#[derive(Debug, Default)]
pub struct RateLimiter {
    clients: Option<Buckets<IpAddr>>,
    keys: Option<Buckets<KeyId>>,
}

impl RateLimiter {
    /// Calls that may be made in a minute; `None`: any number.
    #[must_use]
    pub fn new(ip_calls_per_minute: Option<NonZeroU32>, key_calls_per_minute: Option<NonZeroU32>) -> Self {
        Self { clients: ip_calls_per_minute.map(Buckets::new), keys: key_calls_per_minute.map(Buckets::new) }
    }

    /// Counts a call of a client address. `now_us` is monotonic. `None`: it was not counted.
    ///
    /// # Errors
    /// The address has made all its calls.
    pub fn client(&mut self, address: IpAddr, now_us: u64) -> Result<Option<Standing>, TooSoon> {
        self.clients.as_mut().map_or(Ok(None), |buckets| buckets.take(network(address), now_us))
    }

    /// Counts a call of a key. `None`: it was not counted.
    ///
    /// # Errors
    /// The key has made all its calls.
    pub fn key(&mut self, key: KeyId, now_us: u64) -> Result<Option<Standing>, TooSoon> {
        self.keys.as_mut().map_or(Ok(None), |buckets| buckets.take(key, now_us))
    }
}

/// The address in `address:port`, as a proxy tells its peer's.
#[must_use]
pub fn address(peer: &str) -> Option<IpAddr> {
    peer.parse::<SocketAddr>().map(|peer| peer.ip()).or_else(|_| peer.parse()).ok()
}

/// What one client is counted by. Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// One bucket for each caller, holding a minute's calls and filled evenly. Of each is kept only when it will be full.
#[derive(Debug)]
struct Buckets<K> {
    /// Between two calls at the steady rate, in microseconds.
    interval_us: u64,
    calls: u64,
    full_us: HashMap<K, u64>,
    forgotten_us: u64,
    callers_max: usize,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(calls_per_minute: NonZeroU32) -> Self {
        let calls = u64::from(calls_per_minute.get());
        let interval_us = MINUTE_US.div_ceil(calls);
        Self { interval_us, calls, full_us: HashMap::new(), forgotten_us: 0, callers_max: CALLERS_MAX }
    }

    fn take(&mut self, caller: K, now_us: u64) -> Result<Option<Standing>, TooSoon> {
        let full_us = self.full_us.get(&caller).copied();
        if full_us.is_none() && !self.has_room(now_us) {
            // More callers than can be told apart: better none is limited than all are refused.
            return Ok(None);
        }
        let next_us = full_us.unwrap_or(0).max(now_us).saturating_add(self.interval_us);
        let ahead_us = (next_us - now_us).saturating_sub(self.calls * self.interval_us);
        if ahead_us > 0 {
            return Err(TooSoon { retry_after_s: ahead_us.div_ceil(1_000_000) });
        }
        self.full_us.insert(caller, next_us);
        let full_in_us = next_us - now_us;
        let left_us = (self.calls * self.interval_us).saturating_sub(full_in_us);
        Ok(Some(Standing { remaining: left_us / self.interval_us, full_in_us }))
    }

    fn has_room(&mut self, now_us: u64) -> bool {
        if self.full_us.len() >= self.callers_max
            && now_us.saturating_sub(self.forgotten_us) >= FORGET_EVERY_US
        {
            self.full_us.retain(|_, full_us| *full_us > now_us);
            self.forgotten_us = now_us;
        }
        self.full_us.len() < self.callers_max
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000;

    fn buckets(calls_per_minute: u32) -> Buckets<u64> {
        Buckets::new(NonZeroU32::new(calls_per_minute).unwrap())
    }

    #[test]
    fn a_minutes_calls_pass_at_once_and_then_at_the_steady_rate() {
        let mut buckets = buckets(3);
        let mut take = |at| buckets.take(1, at).map(drop).map_err(|late| late.retry_after_s);
        assert_eq!([take(0), take(0), take(0)], [Ok(()); 3]);
        assert_eq!([take(0), take(SECOND), take(19_000_001)], [Err(20), Err(19), Err(1)]);
        assert_eq!([take(20 * SECOND), take(20 * SECOND)], [Ok(()), Err(20)]);
        assert_eq!([take(200 * SECOND), take(200 * SECOND), take(200 * SECOND)], [Ok(()); 3]);
        assert_eq!(take(200 * SECOND), Err(20), "what was not used does not add up");
    }

    #[test]
    fn callers_have_buckets_of_their_own() {
        let mut buckets = buckets(1);
        assert!(buckets.take(1, 0).is_ok() && buckets.take(2, 0).is_ok());
        assert!(buckets.take(1, 0).is_err() && buckets.take(2, 0).is_err());
    }

    #[test]
    fn a_reading_of_the_clock_that_comes_late_gives_nothing_away() {
        let mut buckets = buckets(1);
        assert!(buckets.take(1, 100 * SECOND).is_ok());
        assert_eq!(buckets.take(1, 0), Err(TooSoon { retry_after_s: 160 }));
        assert!(buckets.take(1, 159 * SECOND).is_err());
        assert!(buckets.take(1, 160 * SECOND).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_known_callers_stay_limited_in_a_flood() {
        let mut buckets = Buckets { callers_max: 100, ..buckets(1) };
        assert!(buckets.take(u64::MAX, 0).is_ok());
        for caller in 0..10_000 {
            assert!(buckets.take(caller, 1).is_ok());
            assert!(buckets.full_us.len() <= 100);
        }
        assert!(buckets.take(u64::MAX, 2).is_err());
        assert!(buckets.take(20_000, 61 * SECOND).is_ok());
        assert_eq!(buckets.full_us.len(), 1, "who has not called for a minute is forgotten");
    }

    #[test]
    fn an_address_is_its_network() {
        let of = |peer: &str| address(peer).map(network);
        assert_eq!(of("203.0.113.9:4711"), of("203.0.113.9"));
        assert_ne!(of("203.0.113.9:1"), of("203.0.113.8:1"));
        assert_eq!(of("[2001:db8:1:2:3::4]:443"), of("[2001:db8:1:2:ffff::]:80"));
        assert_ne!(of("[2001:db8:1:2::1]:443"), of("[2001:db8:1:3::1]:443"));
        assert_eq!(
            of("[::ffff:203.0.113.9]:1"),
            of("203.0.113.9:2"),
            "one client, whichever way it is written"
        );
        for bad in ["", "unix", "203.0.113.9, 10.0.0.1", "/run/x.sock"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_not_limited_is_not_remembered() {
        let mut limiter = RateLimiter::new(None, NonZeroU32::new(1));
        let (ip, key) = (address("192.0.2.1").unwrap(), KeyId(uuid::Uuid::nil()));
        assert!((0..9).all(|_| limiter.client(ip, 0).is_ok()));
        assert!(limiter.key(key, 0).is_ok() && limiter.key(key, 0).is_err());
    }

    proptest! {
        #[test]
        fn no_span_of_time_has_more_calls_than_a_bucket_and_what_flowed_into_it(
            calls_per_minute in 1_u32..200,
            steps in prop::collection::vec(0_u64..3_000_000, 1..300),
        ) {
            let (mut buckets, mut now_us, mut passed) = (buckets(calls_per_minute), 0, Vec::new());
            for step in steps {
                now_us += step;
                match buckets.take(1, now_us) {
                    Ok(_) => passed.push(now_us),
                    Err(late) => {
                        // It passes when it was told, and no whole second earlier.
                        let at = |s: u64| buckets.full_us[&1].max(now_us + s * SECOND) + buckets.interval_us
                            <= now_us + s * SECOND + buckets.calls * buckets.interval_us;
                        prop_assert!(at(late.retry_after_s) && !at(late.retry_after_s - 1));
                    }
                }
            }
            for (first, from_us) in passed.iter().enumerate() {
                for (last, until_us) in passed.iter().enumerate().skip(first) {
                    let most = u64::from(calls_per_minute) + (until_us - from_us) / buckets.interval_us;
                    prop_assert!(((last - first) as u64) < most);
                }
            }
        }
    }
}
