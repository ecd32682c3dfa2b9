//! Ids that are not held any more: lapses, which their owners may correct, and what is done.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use super::{
    LAPSE_KEPT_MS, REMEMBER_DONE_MS,
    books::{Spender, Taken},
    by_id::ById,
};
use crate::{id::AttemptId, money::Nanos};

/// A hold whose lease ran out.
#[derive(Clone, Debug)]
pub(super) struct Lapse {
    pub(super) took: Took,
    pub(super) charged: Nanos,
    pub(super) at_ms: i64,
}

/// What a hold takes from, and on whose behalf.
#[derive(Clone, Debug)]
pub(super) struct Took {
    pub(super) from: Box<[Taken]>,
    pub(super) session: Option<Arc<str>>,
    pub(super) since_ms: i64,
}

impl Took {
    pub(super) fn by(&self, now_ms: i64) -> Spender<'_> {
        Spender { session: self.session.as_ref(), since_ms: self.since_ms, now_ms }
    }
}

/// Remembered until their owners report the truth, for [`LAPSE_KEPT_MS`].
#[derive(Clone, Debug, Default)]
pub(super) struct Lapses {
    pub(super) ids: HashMap<AttemptId, Lapse, ById>,
    /// The same ids, and some that were settled since, with the time they lapsed, oldest first.
    order: VecDeque<(i64, AttemptId)>,
}

impl Lapses {
    pub(super) fn insert(&mut self, id: AttemptId, lapse: Lapse) {
        self.order.push_back((lapse.at_ms, id));
        self.ids.insert(id, lapse);
    }

    /// Takes out one whose owner has been silent for too long.
    pub(super) fn pop_old(&mut self, now_ms: i64) -> Option<Lapse> {
        while let Some((at_ms, id)) =
            self.order.pop_front_if(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= LAPSE_KEPT_MS)
        {
            // Not a later one of the same id.
            if self.ids.get(&id).is_some_and(|lapse| lapse.at_ms == at_ms) {
                return self.ids.remove(&id);
            }
        }
        None
    }
}

/// Ids that were settled or charged within [`REMEMBER_DONE_MS`].
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) ids: HashSet<AttemptId, ById>,
    /// Of those that had lapsed before, what that had charged: who asks again must be told again.
    pub(super) lapsed: HashMap<AttemptId, Nanos, ById>,
    /// The same ids with the time they were done, oldest first.
    pub(super) order: VecDeque<(i64, AttemptId)>,
}

impl Done {
    pub(super) fn insert(&mut self, id: AttemptId, now_ms: i64) {
        if self.ids.insert(id) {
            self.order.push_back((now_ms, id));
        }
    }

    pub(super) fn forget_old(&mut self, now_ms: i64) {
        while let Some((at_ms, id)) = self.order.front() {
            if now_ms.saturating_sub(*at_ms) < REMEMBER_DONE_MS {
                break;
            }
            self.ids.remove(id);
            self.lapsed.remove(id);
            self.order.pop_front();
        }
    }
}
