//! The spend rate of one budget: two buckets that slide, and a breaker (velocity limits).
//!
//! With `w` the window in ms, buckets begin at multiples of `w`. At time `t`, `c` nano-dollars were counted in the bucket
//! that contains `t` and `p` in the one before; `left = w - (t mod w)`. The rate is
//!
//! ```text
//! rate = floor(p * left / w) + c
//! ```
//!
//! and a reserve of `a` trips the breaker when `rate + a > limit`. Buckets are kept within 0 and [`MOST`], and limits
//! within [`MAX_VELOCITY`](super::MAX_VELOCITY), so every sum stays below 2^53. The product does not: here it is taken in
//! 128 bits. Where there are only doubles it is exact as `(p - p % w) / w * left + (r - r % w) / w` with
//! `r = (p % w) * left`, since `w <= 3 600 000` and the remainder of two doubles is exact.

use crate::{money::Nanos, policy::Velocity};

/// The most a bucket counts, in nano-dollars: four times the highest limit.
const MOST: i64 = 4_000_000_000_000_000;

/// Counts reserves by what they hold, and what was settled instead once that is known.
#[derive(Clone, Debug)]
pub(super) struct Rate {
    generation: u32,
    window_ms: i64,
    /// Holds older than this are not in the buckets.
    since_ms: i64,
    /// Where the current bucket begins.
    start_ms: i64,
    current: i64,
    previous: i64,
    tripped_at_ms: Option<i64>,
}

/// A reserve that the breaker stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFast {
    /// The rate without the call.
    pub(super) rate: Nanos,
    /// What is left of the cool-down.
    pub(super) retry_after_ms: i64,
}

impl Rate {
    pub(super) fn new(generation: u32, window_ms: i64, now_ms: i64) -> Self {
        let start_ms = bucket(now_ms, window_ms);
        Self {
            generation,
            window_ms,
            since_ms: now_ms,
            start_ms,
            current: 0,
            previous: 0,
            tripped_at_ms: None,
        }
    }

    /// Brings the buckets to `now_ms`. Another generation or window begins afresh, and so does a breaker whose cool-down
    /// is over.
    pub(super) fn roll(&mut self, generation: u32, velocity: &Velocity, now_ms: i64) {
        let cooled = self.tripped_at_ms.is_some_and(|at| now_ms.saturating_sub(at) >= velocity.cooldown_ms);
        if cooled || self.generation != generation || self.window_ms != velocity.window_ms {
            *self = Self::new(generation, velocity.window_ms, now_ms);
            return;
        }
        let start_ms = bucket(now_ms, self.window_ms);
        if start_ms != self.start_ms {
            let follows = self.start_ms.checked_add(self.window_ms) == Some(start_ms);
            self.previous = if follows { self.current } else { 0 };
            self.current = 0;
            self.start_ms = start_ms;
        }
    }

    /// The rate at an instant of the current bucket.
    fn at(&self, now_ms: i64) -> i64 {
        let left = self.window_ms - (now_ms - self.start_ms);
        let weighted = i128::from(self.previous) * i128::from(left) / i128::from(self.window_ms);
        i64::try_from(weighted).unwrap_or(MOST) + self.current
    }

    /// Whether a reserve may pass, after [`Rate::roll`]; trips the breaker when not.
    pub(super) fn admit(&mut self, velocity: &Velocity, amount: Nanos, now_ms: i64) -> Result<(), TooFast> {
        let rate = self.at(now_ms);
        let tripped = self.tripped_at_ms.is_some();
        if !tripped && rate + amount.0 <= velocity.limit.0 {
            return Ok(());
        }
        let at = *self.tripped_at_ms.get_or_insert(now_ms);
        Err(TooFast { rate: Nanos(rate), retry_after_ms: velocity.cooldown_ms - (now_ms - at) })
    }

    /// Counts spend in the current bucket, after [`Rate::roll`].
    pub(super) fn count(&mut self, amount: Nanos) {
        self.current = within(self.current, amount.0);
    }

    /// Changes what a hold of that time counts, while its bucket is in view.
    pub(super) fn correct(&mut self, generation: u32, held_since_ms: i64, by: Nanos) {
        if self.generation != generation || held_since_ms < self.since_ms {
            return;
        }
        let start_ms = bucket(held_since_ms, self.window_ms);
        if start_ms == self.start_ms {
            self.current = within(self.current, by.0);
        } else if start_ms.checked_add(self.window_ms) == Some(self.start_ms) {
            self.previous = within(self.previous, by.0);
        }
    }
}

fn bucket(now_ms: i64, window_ms: i64) -> i64 {
    now_ms.saturating_sub(now_ms.rem_euclid(window_ms))
}

fn within(bucket: i64, by: i64) -> i64 {
    bucket.saturating_add(by).clamp(0, MOST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::MAX_VELOCITY;

    /// The product as a ledger that has only doubles must take it.
    fn in_doubles(previous: i64, left: i64, window: i64) -> f64 {
        let (p, l, w) = (previous as f64, left as f64, window as f64);
        let r = (p % w) * l;
        (p - p % w) / w * l + (r - r % w) / w
    }

    proptest! {
        #[test]
        fn the_formula_for_doubles_is_exact(
            previous in 0..=MOST, current in 0..=MOST, window_ms in 1..=3_600_000i64, at in 0..3_600_000i64,
        ) {
            let at = at % window_ms;
            let rate = Rate { current, previous, ..Rate::new(0, window_ms, 0) };
            let by_doubles = in_doubles(previous, window_ms - at, window_ms) + current as f64;
            prop_assert_eq!(by_doubles, rate.at(at) as f64);
            let most = by_doubles + MAX_VELOCITY.0 as f64;
            prop_assert!(most < 9_007_199_254_740_992.0, "{}", most);
        }
    }
}
