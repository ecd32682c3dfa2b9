//! Loop detection: an agent that sends the same request over and over is stopped before it spends more (contract §4.9).
//!
//! A *pattern* is one request, byte for byte, by one key under one budget. Each data plane counts for itself and in memory
//! only, so that a loop spread over several data planes is noticed later, and after a restart from the start. Every call
//! counts, refused ones too: a loop stays refused until it pauses or sends something else.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
};

use crate::id::{BudgetId, KeyId};

/// How long a call counts, in seconds; it is forgotten up to [`SLOT_US`] earlier.
pub const WINDOW_S: u64 = 60;
/// The largest limit a budget may set.
pub const MAX_LOOP_CALLS: u32 = 10_000;

const SLOTS: usize = 12;
/// Calls are counted in slots of this many microseconds.
const SLOT_US: u64 = WINDOW_S * 1_000_000 / SLOTS as u64;
/// So many patterns that repeat at once are a loop of more than one request (contract §4.9).
const AGGREGATE_PATTERNS: usize = 5;
/// So many calls make a pattern one that repeats (contract §4.9).
const AGGREGATE_CALLS: u64 = 3;
/// Patterns remembered of one key under one budget, those sent last.
const PATTERNS_MAX: usize = 256;
/// Keys under budgets remembered, those that called last. With as many patterns each this is about 70 MB.
const GROUPS_MAX: usize = 2_048;

/// Makes fingerprints of requests, by a hash that is keyed anew in every process: nobody can make two requests that are
/// taken for one.
#[derive(Clone, Debug, Default)]
pub struct Fingerprints(RandomState);

impl Fingerprints {
    /// The fingerprint of a request: all of its body, and where it goes.
    #[must_use]
    pub fn of(&self, api: &str, upstream: &str, body: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        for part in [api.as_bytes(), upstream.as_bytes(), body] {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// What kind of loop it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoopKind {
    /// One request is repeated.
    PerKey,
    /// Several requests are repeated in turn.
    Aggregate,
}

impl LoopKind {
    /// The word in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PerKey => "per_key",
            Self::Aggregate => "aggregate",
        }
    }
}

/// A loop that a call is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looping {
    /// Of which kind.
    pub kind: LoopKind,
    /// Calls in the window, this one among them: of the request, or of all that repeat.
    pub calls: u64,
}

/// The calls of the last minute, as far as budgets ask for them. Memory is bounded: what was not sent for longest is
/// forgotten.
#[derive(Debug, Default)]
pub struct Loops {
    groups: HashMap<(BudgetId, KeyId), Group>,
}

/// What one key sent under one budget.
#[derive(Debug, Default)]
struct Group {
    patterns: HashMap<u64, Pattern>,
    last_us: u64,
}

/// When one request was sent.
#[derive(Debug, Default)]
struct Pattern {
    /// Calls by slot, a ring; those since [`SLOTS`] slots before the last call hold.
    slots: [u32; SLOTS],
    last_us: u64,
}

impl Loops {
    /// Counts a call, and says whether it is one too many: the request was sent more than `max_calls` times, or it is one of
    /// at least five that were sent three times or more each, and more than `max_calls` times together. `now_us` is
    /// monotonic.
    pub fn count(
        &mut self,
        (budget, key): (BudgetId, KeyId),
        fingerprint: u64,
        max_calls: u32,
        now_us: u64,
    ) -> Option<Looping> {
        let place = (budget, key);
        if !self.groups.contains_key(&place) && self.groups.len() >= GROUPS_MAX {
            forget(&mut self.groups, now_us, |group| group.last_us);
        }
        self.groups.entry(place).or_default().count(fingerprint, u64::from(max_calls), now_us)
    }
}

impl Group {
    fn count(&mut self, fingerprint: u64, max_calls: u64, now_us: u64) -> Option<Looping> {
        self.last_us = self.last_us.max(now_us);
        if !self.patterns.contains_key(&fingerprint) && self.patterns.len() >= PATTERNS_MAX {
            forget(&mut self.patterns, now_us, |pattern| pattern.last_us);
        }
        let pattern = self.patterns.entry(fingerprint).or_default();
        pattern.count(now_us);
        let calls = pattern.calls(now_us);
        if calls > max_calls {
            return Some(Looping { kind: LoopKind::PerKey, calls });
        }
        if calls < AGGREGATE_CALLS {
            // Something new, or nearly: an agent that gets out of its loop passes.
            return None;
        }
        let repeating = || {
            self.patterns
                .values()
                .map(|pattern| pattern.calls(now_us))
                .filter(|&calls| calls >= AGGREGATE_CALLS)
        };
        let calls: u64 = repeating().sum();
        let is_loop = calls > max_calls && repeating().count() >= AGGREGATE_PATTERNS;
        is_loop.then_some(Looping { kind: LoopKind::Aggregate, calls })
    }
}

impl Pattern {
    fn count(&mut self, now_us: u64) {
        let (last, now) = (self.last_us / SLOT_US, self.last_us.max(now_us) / SLOT_US);
        for slot in (last + 1..=now).take(SLOTS) {
            if let Some(calls) = self.slots.get_mut(ring(slot)) {
                *calls = 0;
            }
        }
        if let Some(calls) = self.slots.get_mut(ring(now)) {
            *calls = calls.saturating_add(1);
        }
        self.last_us = self.last_us.max(now_us);
    }

    /// Calls of the window that ends now.
    fn calls(&self, now_us: u64) -> u64 {
        let (last, now) = (self.last_us / SLOT_US, self.last_us.max(now_us) / SLOT_US);
        let oldest = (now + 1).saturating_sub(SLOTS as u64);
        (oldest..=last).filter_map(|slot| self.slots.get(ring(slot))).map(|&calls| u64::from(calls)).sum()
    }
}

fn ring(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

/// Makes room: drops whatever is over, else what was used longest ago.
fn forget<K: Copy + Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V>,
    now_us: u64,
    last_us: impl Fn(&V) -> u64,
) {
    let before = map.len();
    map.retain(|_, value| last_us(value).saturating_add(WINDOW_S * 1_000_000) > now_us);
    if map.len() < before {
        return;
    }
    let oldest = map.iter().min_by_key(|(_, value)| last_us(value)).map(|(key, _)| *key);
    if let Some(key) = oldest {
        map.remove(&key);
    }
}

#[cfg(test)]
#[path = "loops_tests.rs"]
mod tests;
