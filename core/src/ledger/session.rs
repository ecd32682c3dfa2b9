//! Sessions of one budget: what each has spent, until it has been idle for a day.

use std::{collections::HashMap, sync::Arc};

use super::{SESSION_IDLE_MS, counter::Counter};
use crate::money::Nanos;

/// The sessions of a budget by generation and id. Ids are of callers' choosing, so they are hashed with a secret.
#[derive(Clone, Debug, Default)]
pub(super) struct Sessions(Vec<(u32, HashMap<Arc<str>, Session>)>);

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
    /// A session's counter, unless it has spent nothing.
    pub(super) fn get(&self, generation: u32, id: &str, now_ms: i64) -> Option<&Counter> {
        let (_, of) = self.0.iter().find(|(g, _)| *g == generation)?;
        of.get(id).filter(|session| !session.is_over(now_ms)).map(|session| &session.counter)
    }

    /// A session's counter, to be changed; made if need be.
    pub(super) fn touch(&mut self, generation: u32, id: &Arc<str>, now_ms: i64) -> &mut Counter {
        let place = self.0.iter().position(|(g, _)| *g == generation).unwrap_or_else(|| {
            self.0.push((generation, HashMap::new()));
            self.0.len() - 1
        });
        let session = self.0[place].1.entry(Arc::clone(id)).or_default();
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

    /// Drops sessions that are over.
    pub(super) fn drop_over(&mut self, now_ms: i64) {
        for (_, of) in &mut self.0 {
            of.retain(|_, session| !session.is_over(now_ms));
        }
        self.0.retain(|(_, of)| !of.is_empty());
    }

    /// Every session there is.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &Arc<str>, &Counter)> {
        self.0
            .iter()
            .flat_map(|(generation, of)| of.iter().map(|(id, session)| (*generation, id, &session.counter)))
    }
}
