//! Stops asking a server that does not answer, and asks now and then whether it is back.

use std::time::Duration;

/// Opens after some failures in a row; then one call in each interval is let through as a probe.
#[derive(Debug)]
pub(super) struct Breaker {
    after: u32,
    interval_us: u64,
    failures: u32,
    closed_again_us: u64,
}

impl Breaker {
    pub(super) fn new(after: u32, interval: Duration) -> Self {
        let interval_us = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX);
        Self { after: after.max(1), interval_us, failures: 0, closed_again_us: 0 }
    }

    /// Whether a call may be made at that time.
    pub(super) fn admits(&mut self, now_us: u64) -> bool {
        if self.failures < self.after {
            return true;
        }
        if now_us < self.closed_again_us {
            return false;
        }
        self.closed_again_us = now_us.saturating_add(self.interval_us);
        true
    }

    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    pub(super) fn failed(&mut self, now_us: u64) {
        self.failures = self.failures.saturating_add(1);
        if self.failures == self.after {
            self.closed_again_us = now_us.saturating_add(self.interval_us);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_probes_once_in_each_interval() {
        let mut breaker = Breaker::new(3, Duration::from_micros(100));
        for _ in 0..2 {
            breaker.failed(0);
        }
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed(10);
        }
        assert!(breaker.admits(10), "not in a row");
        breaker.failed(10);
        assert!(!breaker.admits(109));
        assert!(breaker.admits(110), "a probe");
        assert!(!breaker.admits(209), "one only");
        breaker.failed(130);
        assert!(breaker.admits(210), "the next one");
        breaker.succeeded();
        assert!(breaker.admits(211) && breaker.admits(211));
    }
}
