//! What happens once, before the first call is served.

use std::collections::HashMap;

use nullspend_core::{
    id::{KeyId, OrgId, UserId},
    ledger::{CounterKey, LimitChange, SESSION_IDLE_MS, SessionSpend},
    money::Nanos,
    policy::{KeyIdentity, Role},
};
use secrecy::SecretString;

use super::{
    App, AppError,
    keys::API_VERSION,
    secret::{NewSecret, hash_key},
};
use crate::store::{BudgetRecord, Founding, KeyRecord};

/// Deletions and ended windows this recent may still matter to a data plane that was away.
const RECENT_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Windows that ended this recently are loaded too: holds may have been taken in them.
const ENDED_MS: i64 = 24 * 60 * 60 * 1000;

/// What an empty database was given: shown once, kept nowhere.
#[derive(Debug)]
pub struct Bootstrap {
    /// The organisation `default`.
    pub org: OrgId,
    /// Its owner.
    pub user: UserId,
    /// Raw key of role `owner`.
    pub owner_key: SecretString,
    /// Raw key of role `agent`.
    pub agent_key: SecretString,
}

impl App {
    /// Founds the organisation `default` with one owner and two keys, on an empty database only.
    ///
    /// # Errors
    /// `validation_error` when the chosen owner key has another form; else when the database fails.
    pub async fn bootstrap(&self, owner_key: Option<SecretString>) -> Result<Option<Bootstrap>, AppError> {
        if !self.store.is_new().await? {
            return Ok(None);
        }
        let owner = match owner_key {
            Some(raw) => NewSecret::from_raw(raw)?,
            None => NewSecret::make()?,
        };
        let agent = NewSecret::make()?;
        let (org, user) = (OrgId(self.ids.v4()), UserId(self.ids.v4()));
        let now_ms = self.clock.now_ms();
        let key = |secret: &NewSecret, name: &str, role: Role| {
            let record = KeyRecord {
                identity: KeyIdentity {
                    key: KeyId(self.ids.v4()),
                    org,
                    user,
                    name: name.to_owned(),
                    role,
                    default_tags: Default::default(),
                    locked_tags: Vec::new(),
                    required_tags: Vec::new(),
                    allowed_models: None,
                    allowed_providers: None,
                    api_version: API_VERSION.to_owned(),
                },
                prefix: secret.prefix.clone(),
                last_used_at_ms: None,
                created_at_ms: now_ms,
                revoked_at_ms: None,
            };
            (record, hash_key(&secret.raw))
        };
        let founding = Founding {
            org,
            org_name: "default".to_owned(),
            org_slug: "default".to_owned(),
            user,
            user_name: "owner".to_owned(),
            keys: vec![key(&owner, "owner", Role::Owner), key(&agent, "agent", Role::Agent)],
            now_ms,
        };
        if !self.store.found(&founding).await? {
            return Ok(None);
        }
        self.policy_changed(self.store.policy_position().await?.revision).await;
        Ok(Some(Bootstrap { org, user, owner_key: owner.raw, agent_key: agent.raw }))
    }

    /// Whether the ledger has lost any organisation's books, or never had them.
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn ledger_is_lost(&self) -> Result<bool, AppError> {
        let mut lost = false;
        for org in self.store.org_ids().await? {
            lost |= self.ledger.begin_rebuild(org).await?;
        }
        Ok(lost)
    }

    /// Fills the ledger from the store, where it does not have an organisation's books whole: limits first, then settled
    /// spend, then that of sessions. The spool must have been replayed into the store before (design §5 Start).
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn load_ledger(&self) -> Result<(), AppError> {
        let now_ms = self.clock.now_ms();
        let mut limits: HashMap<OrgId, Vec<LimitChange>> = HashMap::new();
        for (BudgetRecord { rule, .. }, live) in self.store.limits(now_ms - RECENT_MS).await? {
            let (budget, revision, limit) = (rule.budget, rule.revision, live.then_some(rule.limit));
            limits.entry(rule.org).or_default().push(LimitChange { budget, revision, limit });
        }
        let mut settled: HashMap<OrgId, Vec<(CounterKey, Nanos)>> = HashMap::new();
        for (org, counter, nanos) in self.store.settled_windows(now_ms - ENDED_MS).await? {
            settled.entry(org).or_default().push((counter, nanos));
        }
        let mut sessions: HashMap<OrgId, Vec<SessionSpend>> = HashMap::new();
        for (org, spend) in self.store.session_spends(now_ms - SESSION_IDLE_MS).await? {
            sessions.entry(org).or_default().push(spend);
        }
        for org in self.store.org_ids().await? {
            let lost = self.ledger.begin_rebuild(org).await?;
            self.ledger.apply_limits(org, &limits.remove(&org).unwrap_or_default()).await?;
            // What a ledger still has is newer than what the store was told.
            if lost {
                self.ledger.load(org, &settled.remove(&org).unwrap_or_default()).await?;
                self.ledger.load_sessions(org, &sessions.remove(&org).unwrap_or_default()).await?;
                self.ledger.finish_rebuild(org).await?;
            }
        }
        Ok(())
    }

    /// Whether the control plane and its database answer.
    pub async fn healthy(&self) -> bool {
        self.store
            .ping()
            .await
            .inspect_err(|error| tracing::warn!(%error, "the database does not answer"))
            .is_ok()
    }
}
