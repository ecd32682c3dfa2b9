//! Sessions of one budget: what each has spent, until it has been idle for a day.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{SESSION_IDLE_MS, counter::Counter};
use crate::money::Nanos;

/// The sessions of a budget by generation and id. Ids are of callers' choosing, so they are hashed with a secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions {
    generations: Vec<(u32, HashMap<Arc<str>, Session>)>,
    /// Each of them once, with the time it may be over at.
    looks: VecDeque<(i64, u32, Arc<str>)>,
}

#[derive(Clone, Debug, Default)]
struct Session {
    counter: Counter,
    /// When it was last reserved, settled, charged or lapsed.
    last_used_ms: i64,
}

impl Session {
    /// Idle for a day, and no hold is left that may still settle: it starts again at nothing.
    fn is_over(&self, now_ms: i64) -> bool {
        self.counter.named_by == 0 && now_ms.saturating_sub(self.last_used_ms) >= SESSION_IDLE_MS
    }
}

impl Sessions {
    fn of(&self, generation: u32) -> Option<&HashMap<Arc<str>, Session>> {
        self.generations.iter().find(|(g, _)| *g == generation).map(|(_, of)| of)
    }

    /// A session's counter, unless it has spent nothing.
    pub(super) fn get(&self, generation: u32, id: &str, now_ms: i64) -> Option<&Counter> {
        let session = self.of(generation)?.get(id)?;
        (!session.is_over(now_ms)).then_some(&session.counter)
    }

    /// A session's counter, to be changed; made if need be.
    pub(super) fn touch(&mut self, generation: u32, id: &Arc<str>, now_ms: i64) -> &mut Counter {
        let place = self.generations.iter().position(|(g, _)| *g == generation).unwrap_or_else(|| {
            self.generations.push((generation, HashMap::new()));
            self.generations.len() - 1
        });
        let looks = &mut self.looks;
        let session = self.generations[place].1.entry(Arc::clone(id)).or_insert_with(|| {
            looks.push_back((now_ms.saturating_add(SESSION_IDLE_MS), generation, Arc::clone(id)));
            Session::default()
        });
        if session.is_over(now_ms) {
            session.counter = Counter::default();
        }
        session.last_used_ms = now_ms;
        &mut session.counter
    }

    /// Sets what the store says a session has spent, and when it last did.
    pub(super) fn load(&mut self, generation: u32, id: &Arc<str>, settled: Nanos, last_used_ms: i64) {
        self.touch(generation, id, last_used_ms).load(settled);
    }

    /// Drops sessions that are over, as far as `most` looks go; what is not over is looked at again in a day.
    pub(super) fn drop_over(&mut self, now_ms: i64, most: &mut usize) {
        while *most > 0 {
            let Some((_, generation, id)) = self.looks.pop_front_if(|(at_ms, ..)| *at_ms <= now_ms) else {
                break;
            };
            *most -= 1;
            let Some(place) = self.generations.iter().position(|(g, _)| *g == generation) else { continue };
            let of = &mut self.generations[place].1;
            if of.get(&id).is_some_and(|session| !session.is_over(now_ms)) {
                self.looks.push_back((now_ms.saturating_add(SESSION_IDLE_MS), generation, id));
                continue;
            }
            of.remove(&id);
            if of.is_empty() {
                self.generations.swap_remove(place);
            }
        }
    }

    /// Every session there is.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Arc<str>, &Counter)> {
        self.generations
            .iter()
            .flat_map(|(generation, of)| of.iter().map(|(id, session)| (*generation, id, &session.counter)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_goes_some_at_a_time() {
        let mut sessions = Sessions::default();
        let id = |n: i64| -> Arc<str> { n.to_string().into() };
        for n in 0..10 {
            sessions.touch(u32::from(n > 6), &id(n), n).spend(Nanos(1));
        }
        sessions.touch(0, &id(3), 500);
        sessions.touch(0, &id(4), 500).named_by = 1;
        let mut dropped = |now_ms, mut most| {
            let before = sessions.all().count();
            sessions.drop_over(now_ms, &mut most);
            (before - sessions.all().count(), most)
        };
        assert_eq!(dropped(SESSION_IDLE_MS + 9, 6), (4, 0), "two of the six are in use");
        assert_eq!(dropped(SESSION_IDLE_MS + 9, 6), (4, 2));
        assert_eq!(dropped(2 * SESSION_IDLE_MS, 6), (0, 6), "they were looked at a day ago");
        assert_eq!(dropped(2 * SESSION_IDLE_MS + 9, 6), (1, 4), "a hold keeps the other");
    }
}
