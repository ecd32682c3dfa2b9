//! Use cases: what the product does for a caller, whichever protocol it came in by.

mod budgets;
mod caller;
mod check;
mod compare;
mod document;
mod enforced;
mod error;
mod events;
mod explain;
mod freezes;
mod keys;
mod models;
mod planes;
mod prices;
mod rebuild;
mod rerate;
mod secret;
mod startup;
mod thresholds;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use nullspend_core::{clock::Clock, id::Ids, ledger::Ledger, policy::Policy};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Mutex, watch};

pub use budgets::{BudgetRequest, BudgetView};
pub use caller::Caller;
pub use compare::{Compared, Totals};
pub use document::PolicyDocument;
pub use error::{AppError, Issue, Kind, PathSegment};
pub use events::{ADJUSTMENT, Recorded, Reported, ReportedParts};
pub(crate) use explain::is_alias;
pub use explain::{Explained, Explanation, Outcome, Said};
pub use freezes::{Frozen, NewFreeze};
pub use keys::{CreatedKey, KeyChange, NewKey, Page};
pub use models::CheapModel;
pub use planes::{ConnectedPlanes, Connection};
pub use prices::{ListedPrice, NewPrice, PriceFilter, PriceSource, Scope as PriceScope, Unusable};
pub use rebuild::Looked;
pub use rerate::{RerateReport, RerateRequest, Rerated};
pub use startup::Bootstrap;

use crate::store::{PolicyDelta, Store};

/// Everything the use cases work with.
pub struct App {
    store: Store,
    ledger: Arc<dyn Ledger>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    policy_changed: watch::Sender<u64>,
    records: watch::Sender<u64>,
    data_planes: Arc<ConnectedPlanes>,
    /// Who this process is to the control planes beside it, for as long as it runs.
    id: String,
    /// What they were told that its data planes enforce.
    told_enforced: Mutex<Option<u64>>,
    policy: RwLock<Arc<Policy>>,
    /// One at a time, so that each finds what the one before it booked.
    rerating: Mutex<()>,
    /// Held by what charges the ledger and then stores the event.
    charging: tokio::sync::RwLock<()>,
    looking: tokio::sync::Notify,
    crossings: Counter,
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
        let id = ids.v4().hyphenated().to_string();
        Self {
            store,
            ledger,
            clock,
            ids,
            policy_changed: watch::Sender::new(0),
            records: watch::Sender::new(0),
            data_planes: Arc::default(),
            id,
            told_enforced: Mutex::default(),
            policy: RwLock::default(),
            rerating: Mutex::default(),
            charging: tokio::sync::RwLock::default(),
            looking: tokio::sync::Notify::new(),
            crossings: Counter::default(),
        }
    }

    /// Who this control plane is to those beside it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Counts the thresholds that budgets reach.
    #[must_use]
    pub fn counting(self, crossings: Counter) -> Self {
        Self { crossings, ..self }
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

    /// Counts the batches of data planes' records that this process made durable, for whoever waits for a record.
    #[must_use]
    pub fn records(&self) -> &watch::Sender<u64> {
        &self.records
    }

    /// The data planes that are connected, and what they enforce.
    #[must_use]
    pub fn data_planes(&self) -> &Arc<ConnectedPlanes> {
        &self.data_planes
    }

    /// Wakes the policy streams, which look what is new.
    fn wake_watchers(&self) {
        self.policy_changed.send_modify(|_| {});
    }

    /// Policy as the database has it now; only what changed since the last time is read.
    async fn policy(&self) -> Result<Arc<Policy>, AppError> {
        let at = self.store.policy_position().await?;
        let held = Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner));
        if held.revision == at.revision && held.history_id == at.history_id {
            return Ok(held);
        }
        let delta = match held.history_id == at.history_id {
            true => self.store.policy_since(held.revision).await?,
            false => self.store.policy_snapshot().await?,
        };
        let new_prices = delta.snapshot || !delta.prices.is_empty() || delta.catalogue.is_some();
        let mut next = laid_over(&held, delta);
        if new_prices {
            next.set_prices(self.read_prices().await?);
        }
        let next = Arc::new(next);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&next);
        Ok(next)
    }
}

fn laid_over(held: &Policy, delta: PolicyDelta) -> Policy {
    let mut policy = if delta.snapshot { Policy::default() } else { held.clone() };
    policy.revision = delta.revision;
    policy.history_id = delta.history_id;
    for (org, rule) in delta.orgs {
        policy.put_org(org, rule);
    }
    for (hash, key) in delta.keys {
        policy.put_key(hash, key);
    }
    for rule in delta.budgets {
        policy.put_budget(rule);
    }
    for freeze in delta.freezes {
        policy.put_freeze(freeze);
    }
    for freeze in delta.lifted_freezes {
        policy.lift_freeze(freeze);
    }
    for key in delta.revoked_keys {
        policy.remove_key(key);
    }
    for budget in delta.deleted_budgets {
        policy.remove_budget(budget);
    }
    policy
}
