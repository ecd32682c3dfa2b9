//! What this process has seen of each organisation's books, which tells when something seen is lost.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use nullspend_core::id::{AttemptId, OrgId};

/// The latest reply: its epoch, its sequence, and the run of the server that gave it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: String,
    pub(super) seq: u64,
    pub(super) run: String,
}

impl Seen {
    fn order(&self) -> (u64, u64) {
        (self.epoch.parse().unwrap_or(0), self.seq)
    }
}

/// Of one organisation.
#[derive(Clone, Debug, Default)]
pub(super) struct OfOrg {
    pub(super) seen: Seen,
    /// Of the rebuild this process has begun; empty when it has not.
    pub(super) token: String,
    /// Another process took that rebuild over.
    pub(super) taken: bool,
    /// The books were found lost, and were not found whole since.
    pub(super) lost: bool,
    /// Lapses whose stubs were handed to a caller, to be told at the next sweep.
    pub(super) received: Vec<AttemptId>,
}

#[derive(Debug, Default)]
pub(super) struct Known(Mutex<HashMap<OrgId, OfOrg>>);

impl Known {
    fn orgs(&self) -> MutexGuard<'_, HashMap<OrgId, OfOrg>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn seen(&self, org: OrgId) -> Seen {
        self.orgs().get(&org).map(|of| of.seen.clone()).unwrap_or_default()
    }

    /// The organisations of which some books were seen.
    pub(super) fn all(&self) -> Vec<OrgId> {
        let orgs = self.orgs();
        orgs.iter().filter(|(_, of)| !of.seen.epoch.is_empty()).map(|(org, _)| *org).collect()
    }

    pub(super) fn with<T>(&self, org: OrgId, change: impl FnOnce(&mut OfOrg) -> T) -> T {
        change(self.orgs().entry(org).or_default())
    }

    /// Replies of calls made at once come in any order.
    pub(super) fn saw(&self, org: OrgId, seen: Seen) {
        self.with(org, |of| {
            of.lost = false;
            if seen.order() > of.seen.order() {
                of.seen = seen;
            }
        });
    }

    /// The books are gone: what was seen of them tells nothing of the next ones. True when that is news.
    pub(super) fn forget(&self, org: OrgId) -> bool {
        self.with(org, |of| {
            of.seen = Seen { seq: 0, run: String::new(), ..of.seen.clone() };
            !std::mem::replace(&mut of.lost, true)
        })
    }
}
