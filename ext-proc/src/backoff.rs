//! How long to wait before trying the control plane again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);

/// Doubling pauses up to two seconds, a little different for every data plane so that they do not all come at once.
#[derive(Debug)]
pub(crate) struct Backoff {
    salt: u32,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(dataplane_id: &str) -> Self {
        Self { salt: crc32fast::hash(dataplane_id.as_bytes()), tries: 0 }
    }

    /// The next pause.
    pub(crate) fn pause(&mut self) -> Duration {
        let base = (FIRST * 2_u32.pow(self.tries.min(10))).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        // Up to a quarter less.
        let share = self.salt.rotate_left(self.tries.wrapping_mul(7)) % 256;
        base - base * share / 1024
    }

    /// After a success the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_start_over() {
        let mut backoff = Backoff::new("a");
        let first = backoff.pause();
        assert!(first <= FIRST && first >= FIRST * 3 / 4);
        let last = (0..100).map(|_| backoff.pause()).last().unwrap();
        assert!(last <= LONGEST && last >= LONGEST * 3 / 4);
        backoff.reset();
        assert!(backoff.pause() <= FIRST);
    }
}
