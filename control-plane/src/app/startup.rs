//! What happens once, before the first call is served.

use nullspend_core::{
    id::{KeyId, OrgId, UserId},
    policy::{KeyIdentity, Role},
};
use secrecy::SecretString;

use super::{
    App, AppError,
    keys::API_VERSION,
    secret::{NewSecret, hash_key},
};
use crate::store::{Founding, KeyRecord, Retried};

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

    /// Takes in records that an earlier version, or the database as it was, could not. A ledger that is filled
    /// from the store is to be so afterwards, so that it knows their cost. What cannot be taken in stays set aside.
    pub async fn retry_quarantine(&self) {
        match self.store.retry_quarantine(self.clock.now_ms()).await {
            Ok(Retried { taken: 0, .. }) => {}
            Ok(Retried { taken, crossed }) => {
                tracing::info!(taken, "records that had been set aside were taken in");
                self.crossed(&crossed);
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "records that are set aside could not be tried again");
            }
        }
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
