//! An application of its own for every test.

use std::sync::Arc;

use nullspend_control_plane::{
    app::{App, AppError, BudgetRequest, Caller, CreatedKey, Issue, NewKey, Reported},
    store::{KeyAuth, Store},
};
use nullspend_core::{
    clock::{Clock, ManualClock},
    id::{Ids, RandomIds},
    ledger::Ledger,
    policy::Role,
};
use nullspend_ledger::MemoryLedger;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A Tuesday, 2025-11-25.
pub const NOW: i64 = 1_764_072_000_000;
pub const DAY: i64 = 86_400_000;

pub struct World {
    pub app: App,
    pub clock: Arc<ManualClock>,
    pub ledger: Arc<dyn Ledger>,
    pub owner: Caller,
    pub agent: Caller,
    dir: TempDir,
}

impl World {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let clock = Arc::new(ManualClock::at(NOW));
        let (app, ledger) = build(&dir, &clock).await;
        let keys = app.bootstrap(None).await.expect("bootstrap").expect("an empty database");
        let owner = caller(&app, &keys.owner_key).await;
        let agent = caller(&app, &keys.agent_key).await;
        Self { app, clock, ledger, owner, agent, dir }
    }

    /// The same database after a restart: a new, empty ledger.
    pub async fn restarted(mut self) -> Self {
        self.app.store().close().await;
        (self.app, self.ledger) = build(&self.dir, &self.clock).await;
        self
    }

    /// The same application on another way to its ledger.
    pub fn with_ledger(&self, ledger: Arc<dyn Ledger>) -> App {
        let clock: Arc<dyn Clock> = self.clock.clone();
        App::new(self.app.store().clone(), ledger, clock, Arc::new(RandomIds))
    }

    /// A caller with a new key of a role.
    pub async fn with_role(&self, role: Role) -> Caller {
        let new = NewKey { name: role.as_str().to_owned(), role: Some(role), ..NewKey::default() };
        caller(&self.app, &self.create(&self.owner, new).await.raw).await
    }

    pub async fn create(&self, caller: &Caller, new: NewKey) -> CreatedKey {
        self.app.create_key(caller, new).await.expect("a key")
    }

    pub async fn caller(&self, raw: &SecretString) -> Caller {
        caller(&self.app, raw).await
    }
}

async fn build(dir: &TempDir, clock: &Arc<ManualClock>) -> (App, Arc<dyn Ledger>) {
    let url = format!("sqlite:{}", dir.path().join("app.db").display());
    let store = Store::open(&url.into(), &RandomIds.v4().to_string()).await.expect("a store");
    let clock: Arc<dyn Clock> = clock.clone();
    let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::new(Arc::clone(&clock)));
    let app = App::new(store, Arc::clone(&ledger), clock, Arc::new(RandomIds));
    app.load_ledger().await.expect("a loaded ledger");
    (app, ledger)
}

/// Who has a key.
pub async fn caller(app: &App, raw: &SecretString) -> Caller {
    let hash: [u8; 32] = Sha256::digest(raw.expose_secret().as_bytes()).into();
    let KeyAuth { identity, owner_role, .. } =
        app.store().key_by_sha256(&hash).await.expect("a look-up").expect("a key");
    let role = identity.role.min(owner_role.expect("a member"));
    Caller { org: identity.org, user: identity.user, role, key: Some(identity) }
}

/// A budget of the whole organisation.
pub fn org_budget(max_budget_microdollars: i64) -> BudgetRequest {
    BudgetRequest { entity_type: Some("org"), max_budget_microdollars, ..BudgetRequest::default() }
}

/// Reported spend.
pub fn report(request_id: &str, cost_microdollars: i64) -> Reported {
    Reported {
        provider: "openai".to_owned(),
        model: "gpt-4o".to_owned(),
        cost_microdollars,
        request_id: Some(request_id.to_owned()),
        ..Reported::default()
    }
}

/// The places an error complains about.
pub fn fields(error: &AppError) -> Vec<String> {
    assert_eq!(error.code, "validation_error", "{error}");
    error.issues.iter().map(Issue::field).collect()
}
