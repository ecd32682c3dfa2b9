//! A cap on request bodies in flight: beyond it, 503 `overloaded` instead of running out of memory (design §9).

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

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

    /// Takes the size of a body that has arrived. What is still on its way is Envoy's to bound (its heap limit and the
    /// time an upload may take): an announced length is no body yet, and would let one caller lock out all others.
    /// `None` when the cap would be passed.
    #[must_use]
    pub fn permit(self: &Arc<Self>, bytes: usize) -> Option<BodyPermit> {
        let grown = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.max_bytes);
        let taken = self.held_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.is_ok().then(|| BodyPermit { bodies: Arc::clone(self), bytes })
    }
}

impl BodyPermit {
    /// Keeps `bytes` of it for as long as an answer takes; `None` while more than half of the cap is held: that is for
    /// bodies that still have to be decided.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Option<Self> {
        let (bytes, half) = (bytes.min(self.bytes), self.bodies.max_bytes / 2);
        self.bodies.held_bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        (self.bodies.held_bytes.load(Ordering::Relaxed) <= half).then_some(self)
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
        let first = bodies.permit(60).unwrap();
        assert!(bodies.permit(41).is_none());
        let second = bodies.permit(40).unwrap();
        drop(first);
        assert!(bodies.permit(60).is_some() && bodies.permit(61).is_none());
        drop(second);
    }

    #[test]
    fn what_is_kept_long_leaves_half_of_the_cap_to_what_is_short() {
        let bodies = Bodies::new(100);
        let kept: Vec<_> = (0..2).map(|_| bodies.permit(60).unwrap().keep(20).unwrap()).collect();
        assert!(bodies.permit(20).unwrap().keep(20).is_none(), "60 of 100");
        assert!(
            bodies.permit(61).is_none() && bodies.permit(60).is_some(),
            "what was not kept is given back"
        );
        drop(kept);
        assert!(bodies.permit(100).is_some());
    }
}
