//! A cap on request bodies in flight: beyond it, 503 `overloaded` instead of running out of memory (design §9).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use nullspend_core::exchange::answer::Refusal;

/// Bytes of request bodies that may be held at once.
#[derive(Debug)]
pub struct Bodies {
    max_bytes: usize,
    held_bytes: AtomicUsize,
}

/// A share of the cap, given back when dropped.
#[derive(Debug)]
pub struct BodyPermit {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Bodies {
    /// A cap of `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { max_bytes, held_bytes: AtomicUsize::new(0) })
    }

    /// Takes what `content-length` announces; nothing for a chunked body, whose size is known later.
    ///
    /// # Errors
    /// The cap would be passed.
    pub fn for_length(self: &Arc<Self>, content_length: Option<&str>) -> Result<BodyPermit, Refusal> {
        let mut permit = BodyPermit { bodies: Arc::clone(self), bytes: 0 };
        permit.grow_to(content_length.and_then(|length| length.parse().ok()).unwrap_or(0))?;
        Ok(permit)
    }
}

impl BodyPermit {
    /// Takes what is missing to `bytes`.
    ///
    /// # Errors
    /// The cap would be passed.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Refusal> {
        let missing = bytes.saturating_sub(self.bytes);
        let grown = |held: usize| held.checked_add(missing).filter(|held| *held <= self.bodies.max_bytes);
        let taken = self.bodies.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.map_err(|_| Refusal::Overloaded)?;
        self.bytes += missing;
        Ok(())
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.bodies.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_beyond_the_cap_are_refused_and_room_comes_back() {
        let bodies = Bodies::new(100);
        let first = bodies.for_length(Some("60")).unwrap();
        let mut chunked = bodies.for_length(None).unwrap();
        assert_eq!(chunked.grow_to(41), Err(Refusal::Overloaded));
        assert_eq!(chunked.grow_to(40), Ok(()));
        drop(first);
        assert!(bodies.for_length(Some("60")).is_ok());
        assert!(bodies.for_length(Some("61")).is_err());
    }
}
