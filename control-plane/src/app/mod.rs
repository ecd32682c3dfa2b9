//! Use cases: what the product does for a caller, whichever protocol it came in by.

mod caller;
mod error;

use std::{fmt, sync::Arc};

use nullspend_core::{clock::Clock, id::Ids, ledger::Ledger};
use tokio::sync::watch;

pub use caller::Caller;
pub use error::{AppError, Issue, Kind, PathSegment};

use crate::store::Store;

/// Everything the use cases work with.
pub struct App {
    store: Store,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    policy_changed: watch::Sender<u64>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").finish_non_exhaustive()
    }
}

impl App {
    /// Over an open store and a loaded (or soon to be loaded) ledger.
    #[must_use]
    pub fn new(store: Store, ledger: Arc<dyn Ledger>, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { store, ledger, clock, ids, policy_changed: watch::Sender::new(0) }
    }

    /// The store, for what needs no use case (ingest, policy streams, idempotency).
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The clock.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Wakes with the new revision whenever this process changed policy.
    #[must_use]
    pub fn policy_changes(&self) -> watch::Receiver<u64> {
        self.policy_changed.subscribe()
    }
}
