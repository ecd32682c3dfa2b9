//! What happens once, before the first call is served.

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
use crate::store::{Founding, KeyRecord};

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

    /// Fills an empty ledger from the store: limits first, then settled spend, then that of sessions. The spool must have been replayed into
    /// the store before (design §5 Start).
    ///
    /// # Errors
    /// When the store or the ledger does not answer.
    pub async fn load_ledger(&self) -> Result<(), AppError> {
        let now_ms = self.clock.now_ms();
        let limits = self.store.limits(now_ms - RECENT_MS).await?;
        for of_org in limits.chunk_by(|(a, _), (b, _)| a.rule.org == b.rule.org) {
            let changes: Vec<LimitChange> = of_org
                .iter()
                .map(|(budget, live)| LimitChange {
                    budget: budget.rule.budget,
                    revision: budget.rule.revision,
                    limit: live.then_some(budget.rule.limit),
                })
                .collect();
            if let Some((budget, _)) = of_org.first() {
                self.ledger.apply_limits(budget.rule.org, &changes).await?;
            }
        }
        let settled = self.store.settled_windows(now_ms - ENDED_MS).await?;
        for of_org in settled.chunk_by(|(a, ..), (b, ..)| a == b) {
            let counters: Vec<(CounterKey, Nanos)> =
                of_org.iter().map(|(_, counter, nanos)| (*counter, *nanos)).collect();
            if let Some((org, ..)) = of_org.first() {
                self.ledger.load(*org, &counters).await?;
            }
        }
        let sessions = self.store.session_spends(now_ms - SESSION_IDLE_MS).await?;
        for of_org in sessions.chunk_by(|(a, _), (b, _)| a == b) {
            let spends: Vec<SessionSpend> = of_org.iter().map(|(_, spend)| spend.clone()).collect();
            if let Some((org, _)) = of_org.first() {
                self.ledger.load_sessions(*org, &spends).await?;
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
